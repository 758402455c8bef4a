//! An HTTP/1.1 client that keeps its connection: what is measured is the server, not a client's start.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Longest time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection.
pub struct Client {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
}

impl Client {
    /// Connects from the calling thread's namespace.
    pub fn connect(to: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client { stream: BufReader::new(stream), host: to })
    }

    /// One request and its answer: status and body.
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        self.request_with("", method, path, body)
    }

    /// The same with a further header, which ends its line.
    fn request_with(&mut self, header: &str, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let (host, length) = (self.host, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{header}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|word| word.parse().ok()).with_context(|| format!("no HTTP: {status:?}"))?;
        let mut length = 0;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().with_context(|| line.clone())?,
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, String::from_utf8(body).context("the body is text")?))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("{} closed the connection", self.host);
        }
        Ok(line.trim_end().to_string())
    }

    /// Creates something; its document.
    pub fn create(&mut self, path: &str, body: &Value) -> Result<Value> {
        self.create_with("", path, body)
    }

    /// Creates something that gets a certain id.
    pub fn create_as(&mut self, id: &str, path: &str, body: &Value) -> Result<Value> {
        self.create_with(&format!("Idempotency-Key: {id}\r\n"), path, body)
    }

    fn create_with(&mut self, header: &str, path: &str, body: &Value) -> Result<Value> {
        match self.request_with(header, "POST", path, &body.to_string())? {
            (201, document) => Ok(serde_json::from_str(&document)?),
            (status, document) => bail!("POST {path}: {status} {document}"),
        }
    }

    /// The answer to a question.
    pub fn show(&mut self, path: &str) -> Result<Value> {
        match self.request("GET", path, "")? {
            (200, document) => Ok(serde_json::from_str(&document)?),
            (status, document) => bail!("GET {path}: {status} {document}"),
        }
    }

    /// Changes something; its document.
    pub fn update(&mut self, path: &str, body: &Value) -> Result<Value> {
        match self.request("PUT", path, &body.to_string())? {
            (200, document) => Ok(serde_json::from_str(&document)?),
            (status, document) => bail!("PUT {path}: {status} {document}"),
        }
    }

    pub fn delete(&mut self, path: &str) -> Result<()> {
        match self.request("DELETE", path, "")? {
            (204, _) => Ok(()),
            (status, document) => bail!("DELETE {path}: {status} {document}"),
        }
    }
}
