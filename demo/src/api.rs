//! Ladon's REST API, spoken with curl from inside a host's namespace.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::Host;
use serde_json::{Value, json};

/// Longest time that an answer may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// A client on one host.
#[derive(Clone)]
pub struct Api {
    host: Host,
    socket: PathBuf,
}

impl Api {
    /// A client that talks to the server's unix socket.
    pub fn new(host: &Host, socket: PathBuf) -> Api {
        Api { host: host.clone(), socket }
    }

    /// One request: the status and the document.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        self.send(method, path, None, body.map(Value::to_string).as_deref())
    }

    /// One request with any body, JSON or not. An answer that is no JSON is null.
    pub fn raw(&self, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
        self.send(method, path, None, Some(body))
    }

    /// Has one object made that may have been made already under the same key (`Idempotency-Key`).
    pub fn create_once(&self, kind: &str, key: &str, object: &Value) -> Result<(u16, Value)> {
        self.send("POST", &collection(kind), Some(key), Some(&json!({ kind: object }).to_string()))
    }

    fn send(&self, method: &str, path: &str, key: Option<&str>, body: Option<&str>) -> Result<(u16, Value)> {
        let mut command = self.host.command("curl");
        command.args(["--silent", "--show-error", "--request", method, "--write-out", "\n%{http_code}", "--unix-socket"]).arg(&self.socket);
        command.arg(format!("http://ladon{path}"));
        if let Some(key) = key {
            command.args(["--header", &format!("Idempotency-Key: {key}")]);
        }
        if body.is_some() {
            command.args(["--header", "Content-Type: application/json", "--data-binary", "@-"]);
        }
        let said = lab::command::run_with_input(&mut command, body.unwrap_or_default(), DEADLINE)?.ok()?;
        let (document, status) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim()));
        let document = if document.trim().is_empty() { Value::Null } else { serde_json::from_str(document).unwrap_or(Value::Null) };
        Ok((status.parse().with_context(|| said.clone())?, document))
    }

    fn expect(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        match self.request(method, path, body)? {
            (200..300, document) => Ok(document),
            (status, document) => bail!("{method} {path}: {status} {document}"),
        }
    }

    /// Makes one object of a kind (`network`, `port`, `security_group`…) and returns it.
    pub fn create(&self, kind: &str, object: Value) -> Result<Value> {
        let document = self.expect("POST", &collection(kind), Some(&json!({ kind: object })))?;
        Ok(document[kind].clone())
    }

    /// Changes one object.
    pub fn update(&self, kind: &str, id: &str, changes: Value) -> Result<Value> {
        let document = self.expect("PUT", &format!("{}/{id}", collection(kind)), Some(&json!({ kind: changes })))?;
        Ok(document[kind].clone())
    }

    pub fn show(&self, kind: &str, id: &str) -> Result<Value> {
        Ok(self.expect("GET", &format!("{}/{id}", collection(kind)), None)?[kind].clone())
    }

    pub fn delete(&self, kind: &str, id: &str) -> Result<()> {
        self.expect("DELETE", &format!("{}/{id}", collection(kind)), None).map(drop)
    }

    /// The objects of a kind that match `query` (`name=web&network_id=…`).
    pub fn list(&self, kind: &str, query: &str) -> Result<Vec<Value>> {
        let path = collection(kind);
        let plural = path.rsplit('/').next().expect("a path has a last part").replace('-', "_");
        let document = self.expect("GET", &format!("{path}?{query}"), None)?;
        Ok(document[plural.as_str()].as_array().cloned().unwrap_or_default())
    }

    pub fn put(&self, path: &str, body: Value) -> Result<Value> {
        self.expect("PUT", path, Some(&body))
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.expect("GET", path, None)
    }
}

fn collection(kind: &str) -> String {
    match kind {
        "loadbalancer" | "listener" | "pool" => format!("/v2.0/lbaas/{kind}s"),
        _ => format!("/v2.0/{}s", kind.replace('_', "-")),
    }
}
