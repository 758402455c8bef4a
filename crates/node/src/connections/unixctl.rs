//! The control socket of ovs-vswitchd (ovs-vswitchd(8), "Runtime management commands"): one question and its answer, as
//! `ovs-appctl` asks it.
//!
//! JSON-RPC 1.0 over a unix stream: a method, arguments as strings, and either a text or an error as the answer. Every call
//! has a connection of its own: calls are rare, and a restarted ovs-vswitchd has another socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ovsdb::Framer;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// A call fails when it takes longer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest answer that is accepted: the entries of about a million connections. A longer one is a failure of the call.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// How a call can fail.
#[derive(Debug, thiserror::Error)]
pub enum UnixctlError {
    #[error("finding ovs-vswitchd's control socket by {}", path.display())]
    NotFound {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("talking to ovs-vswitchd at {}", socket.display())]
    Io {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("reading ovs-vswitchd's answer to {command}")]
    Frame {
        command: String,
        #[source]
        source: ovsdb::DecodeError,
    },
    #[error("understanding ovs-vswitchd's answer to {command}")]
    Json {
        command: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("ovs-vswitchd refuses {command}: {message}")]
    Refused { command: String, message: String },
    #[error("ovs-vswitchd did not answer {0} in time")]
    Timeout(String),
}

/// Where the control socket is.
#[derive(Clone, Debug)]
pub struct Unixctl {
    socket: Option<PathBuf>,
    run_dir: PathBuf,
    datapath: &'static str,
}

#[derive(Deserialize)]
struct Answer {
    result: Option<String>,
    error: Option<serde_json::Value>,
}

impl Unixctl {
    /// The socket `socket`; without it, that of the ovs-vswitchd whose process id is in `run_dir`.
    pub fn new(socket: Option<PathBuf>, run_dir: impl Into<PathBuf>, is_userspace: bool) -> Unixctl {
        let datapath = if is_userspace { "netdev@ovs-netdev" } else { "system@ovs-system" };
        Unixctl { socket, run_dir: run_dir.into(), datapath }
    }

    /// What commands about a datapath call that of the bridge: there may be both kinds on a machine.
    pub fn datapath(&self) -> &'static str {
        self.datapath
    }

    /// Does `command` and returns what it prints.
    ///
    /// # Errors
    /// ovs-vswitchd is not there, does not answer in time, or refuses.
    pub async fn call(&self, command: &str, arguments: &[&str]) -> Result<String, UnixctlError> {
        let call = self.exchange(command, arguments);
        tokio::time::timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| Err(UnixctlError::Timeout(command.into())))
    }

    async fn exchange(&self, command: &str, arguments: &[&str]) -> Result<String, UnixctlError> {
        let socket = self.socket().await?;
        let broken = |source| UnixctlError::Io { socket: socket.clone(), source };
        let mut stream = UnixStream::connect(&socket).await.map_err(broken)?;
        let request = json!({"id": 0, "method": command, "params": arguments}).to_string();
        stream.write_all(request.as_bytes()).await.map_err(broken)?;
        let mut framer = Framer::with_limit(ANSWER_BYTES_MAX);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match framer.next_message() {
                Ok(Some(message)) => return understood(command, message),
                Ok(None) => {}
                Err(source) => return Err(UnixctlError::Frame { command: command.into(), source }),
            }
            match stream.read(&mut chunk).await.map_err(broken)? {
                0 => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
                length => framer.push(&chunk[..length]),
            }
        }
    }

    /// The configured socket; or `ovs-vswitchd.<pid>.ctl`, with the process id from ovs-vswitchd's own file; or, where there is
    /// no such file, `ovs-vswitchd.ctl`.
    async fn socket(&self) -> Result<PathBuf, UnixctlError> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let path = self.run_dir.join("ovs-vswitchd.pid");
        match tokio::fs::read_to_string(&path).await {
            Ok(pid) => Ok(self.run_dir.join(format!("ovs-vswitchd.{}.ctl", pid.trim()))),
            Err(source) => self.plain_socket().ok_or(UnixctlError::NotFound { path, source }),
        }
    }

    fn plain_socket(&self) -> Option<PathBuf> {
        Some(self.run_dir.join("ovs-vswitchd.ctl")).filter(|socket| Path::exists(socket))
    }
}

fn understood(command: &str, message: &[u8]) -> Result<String, UnixctlError> {
    let answer: Answer = serde_json::from_slice(message).map_err(|source| UnixctlError::Json { command: command.into(), source })?;
    match answer.error {
        None => Ok(answer.result.unwrap_or_default()),
        Some(serde_json::Value::String(message)) => Err(UnixctlError::Refused { command: command.into(), message: message.trim().into() }),
        Some(other) => Err(UnixctlError::Refused { command: command.into(), message: other.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_text_or_a_refusal() {
        assert_eq!(understood("version", br#"{"id":0,"result":"3.1.0\n","error":null}"#).unwrap(), "3.1.0\n");
        let refused = understood("nonsense", br#"{"id":0,"result":null,"error":"\"nonsense\" is not a valid command\n"}"#).unwrap_err();
        assert_eq!(refused.to_string(), "ovs-vswitchd refuses nonsense: \"nonsense\" is not a valid command");
        assert!(understood("version", b"{\"result\": 3}").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_fails_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("ctl");
        let _silent = tokio::net::UnixListener::bind(&socket).unwrap();
        let begun = tokio::time::Instant::now();
        let failure = Unixctl::new(Some(socket), dir.path(), false).call("version", &[]).await;
        assert!(matches!(failure, Err(UnixctlError::Timeout(_))));
        assert_eq!(begun.elapsed().as_secs(), CALL_TIMEOUT.as_secs());
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_not_read_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("ctl");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let endless = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut written, chunk) = (0, vec![b'x'; CHUNK_BYTES]);
            stream.write_all(b"{\"result\": \"").await.unwrap();
            while let Ok(length) = stream.write(&chunk).await {
                written += length;
            }
            written
        });
        let failure = Unixctl::new(Some(socket), dir.path(), false).call("dpctl/dump-conntrack", &[]).await;
        let is_too_long = |source: &ovsdb::DecodeError| matches!(source, ovsdb::DecodeError::TooLong { limit: ANSWER_BYTES_MAX });
        assert!(matches!(&failure, Err(UnixctlError::Frame { source, .. }) if is_too_long(source)), "{:?}", failure.map(|text| text.len()));
        /// What the kernel may have taken besides.
        const SOCKET: usize = 4 << 20;
        let written = endless.await.unwrap();
        assert!(written >= ANSWER_BYTES_MAX - CHUNK_BYTES && written <= ANSWER_BYTES_MAX + CHUNK_BYTES + SOCKET, "{written}");
    }

    #[tokio::test]
    async fn the_socket_is_found_by_the_process_id() {
        let dir = tempfile::tempdir().unwrap();
        let found = Unixctl::new(None, dir.path(), false);
        assert!(matches!(found.socket().await, Err(UnixctlError::NotFound { .. })));
        std::fs::write(dir.path().join("ovs-vswitchd.ctl"), "").unwrap();
        assert_eq!(found.socket().await.unwrap(), dir.path().join("ovs-vswitchd.ctl"));
        std::fs::write(dir.path().join("ovs-vswitchd.pid"), "4711\n").unwrap();
        assert_eq!(found.socket().await.unwrap(), dir.path().join("ovs-vswitchd.4711.ctl"));
        let named = Unixctl::new(Some("/run/x.ctl".into()), dir.path(), false);
        assert_eq!(named.socket().await.unwrap(), Path::new("/run/x.ctl"));
    }
}
