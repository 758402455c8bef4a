//! One connection to an OVSDB server (RFC 7047), blocking.

use std::collections::VecDeque;
use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::de::IoRead;
use serde_json::{Deserializer, StreamDeserializer, Value, json};

/// Longest silence while something is awaited.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database, through one connection.
pub struct Database {
    name: &'static str,
    stream: UnixStream,
    messages: StreamDeserializer<'static, IoRead<BufReader<UnixStream>>, Value>,
    last_id: u64,
    updates: VecDeque<Value>,
}

impl Database {
    pub fn connect(socket: &Path, name: &'static str) -> Result<Database> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let messages = Deserializer::from_reader(BufReader::new(stream.try_clone()?)).into_iter();
        Ok(Database { name, stream, messages, last_id: 0, updates: VecDeque::new() })
    }

    /// The results of the operations; an error if one of them failed.
    pub fn transact(&mut self, operations: &[Value]) -> Result<Vec<Value>> {
        let params = [&[json!(self.name)], operations].concat();
        let answer = self.call("transact", &json!(params))?;
        let results = answer.as_array().cloned().with_context(|| format!("no results: {answer}"))?;
        for (number, result) in results.iter().enumerate() {
            ensure!(result.get("error").is_none_or(Value::is_null), "{}: {result}", operations.get(number).unwrap_or(&json!("commit")));
        }
        Ok(results)
    }

    /// Asks for updates of tables; what is there already is not told.
    pub fn monitor(&mut self, tables: &Value) -> Result<()> {
        self.call("monitor", &json!([self.name, "bench", tables])).map(drop)
    }

    /// Reads updates until `look` finds in one what it looks for.
    pub fn until(&mut self, mut look: impl FnMut(&Value) -> bool) -> Result<()> {
        loop {
            while let Some(update) = self.updates.pop_front() {
                if look(&update) {
                    return Ok(());
                }
            }
            let message = self.next()?;
            self.heard(message)?;
        }
    }

    fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.last_id += 1;
        let id = json!(self.last_id);
        self.say(&json!({"method": method, "params": params, "id": id}))?;
        loop {
            let message = self.next()?;
            if message["id"] != id || message.get("method").is_some() {
                self.heard(message)?;
            } else if message["error"].is_null() {
                return Ok(message["result"].clone());
            } else {
                bail!("{method}: {}", message["error"]);
            }
        }
    }

    fn heard(&mut self, message: Value) -> Result<()> {
        match message["method"].as_str() {
            Some("echo") => self.say(&json!({"id": message["id"], "result": message["params"], "error": null}))?,
            Some("update") => self.updates.push_back(message["params"][1].clone()),
            _ => {}
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Value> {
        self.messages
            .next()
            .with_context(|| format!("{} closed the connection", self.name))?
            .with_context(|| format!("hearing {}", self.name))
    }

    fn say(&mut self, message: &Value) -> Result<()> {
        Ok(self.stream.write_all(message.to_string().as_bytes())?)
    }
}

/// The row of a `select` that finds one.
pub fn only_row(result: &Value) -> Option<&Value> {
    result["rows"].as_array()?.first()
}

/// The id that an `insert` has given.
pub fn uuid(result: &Value) -> Value {
    result["uuid"].clone()
}

/// Makes internal interfaces with an iface-id on a switch's `br-int`, and waits until they are there.
pub fn add_interfaces(switch: &mut Database, interfaces: &[(String, String)]) -> Result<()> {
    let mut operations = Vec::new();
    for (name, iface_id) in interfaces {
        let interface = json!({"name": name, "type": "internal", "external_ids": ["map", [["iface-id", iface_id]]]});
        let port = json!({"name": name, "interfaces": ["named-uuid", format!("i{name}")]});
        operations.push(json!({"op": "insert", "table": "Interface", "uuid-name": format!("i{name}"), "row": interface}));
        operations.push(json!({"op": "insert", "table": "Port", "uuid-name": format!("p{name}"), "row": port}));
    }
    let ports: Vec<Value> = interfaces.iter().map(|(name, _)| json!(["named-uuid", format!("p{name}")])).collect();
    operations.push(json!({"op": "mutate", "table": "Bridge", "where": [["name", "==", "br-int"]],
        "mutations": [["ports", "insert", ["set", ports]]]}));
    switch.transact(&operations)?;
    for (name, _) in interfaces {
        let look = json!({"op": "select", "table": "Interface", "where": [["name", "==", name]], "columns": ["ofport"]});
        lab::wait::until(&format!("interface {name}"), PATIENCE, || {
            let answer = switch.transact(std::slice::from_ref(&look)).map_err(|error| format!("{error:#}"))?;
            Ok::<_, String>(only_row(&answer[0]).and_then(|row| row["ofport"].as_i64()).map(drop))
        })?;
    }
    Ok(())
}

/// The operation that gives an interface the iface-id of a port.
pub fn plugging(interface: &str, iface_id: &str) -> Value {
    json!({"op": "mutate", "table": "Interface", "where": [["name", "==", interface]], "mutations": [
        ["external_ids", "delete", ["set", ["iface-id"]]],
        ["external_ids", "insert", ["map", [["iface-id", iface_id]]]],
    ]})
}
