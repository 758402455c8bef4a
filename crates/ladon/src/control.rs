//! This machine's `ladon node`, asked over its control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node::control::{LINE_MAX, Reply, Request};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::failure::{Failure, Result};

/// How long the node may take for an answer that waits for nothing.
pub const PROMPT: Duration = Duration::from_secs(20);

const UNTOUCHED: &str = "not affected; the switch goes on with the flows that it has";

/// A connection to the node.
pub struct Control {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Control {
    pub async fn connect(path: &Path) -> Result<Control> {
        let stream = UnixStream::connect(path).await.map_err(|error| silent(path, &error))?;
        Ok(Control { path: path.into(), stream: BufReader::new(stream) })
    }

    /// Asks, and waits for one line. What the node refuses is a failure.
    pub async fn ask(&mut self, request: &Request, limit: Duration) -> Result<Reply> {
        self.send(request).await?;
        self.receive(limit).await
    }

    pub async fn send(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request).expect("a request is plain data");
        line.push(b'\n');
        self.stream.write_all(&line).await.map_err(|error| silent(&self.path, &error))
    }

    pub async fn receive(&mut self, limit: Duration) -> Result<Reply> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(LINE_MAX as u64);
        let read = tokio::time::timeout(limit, limited.read_until(b'\n', &mut line)).await;
        let read = read.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing within {} s", limit.as_secs()))));
        match read {
            Err(error) => Err(silent(&self.path, &error)),
            Ok(_) if line.last() != Some(&b'\n') => Err(silent(&self.path, &io::Error::other("it closed the connection"))),
            Ok(_) => match serde_json::from_slice(&line) {
                Ok(Reply::Error { what_happened, what_it_means, what_to_do }) => {
                    Err(Failure::new(what_happened, what_it_means, what_to_do))
                }
                Ok(reply) => Ok(reply),
                Err(_) => Err(confused()),
            },
        }
    }
}

/// An answer to something else than what was asked.
pub fn confused() -> Failure {
    Failure::new(
        "ladon node answered what this command does not understand",
        UNTOUCHED,
        "use one release of both: compare `ladon --version` with the node's log",
    )
}

fn silent(path: &Path, error: &io::Error) -> Failure {
    let what = format!("ladon node does not answer on {}: {error}", path.display());
    let what_to_do = match error.kind() {
        io::ErrorKind::PermissionDenied => "run this as root",
        _ => "run this on a machine with `ladon node`, see that it runs, or name its socket with --control or LADON_CONTROL",
    };
    Failure::new(what, UNTOUCHED, what_to_do)
}
