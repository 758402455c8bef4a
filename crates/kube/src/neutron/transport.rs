//! How requests reach the server: HTTP/1.1 over TCP or over a unix socket, connections kept and shared.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::error::ConfigError;

/// Where the server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// `host:port`.
    Tcp(String),
    Unix(PathBuf),
}

impl Endpoint {
    /// Reads `http://host:port` or `unix:/path`.
    pub fn parse(text: &str) -> Result<Endpoint, ConfigError> {
        let bad = || ConfigError::Endpoint(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(Endpoint::Unix(path.into())) } else { Err(bad()) };
        }
        let uri: Uri = text.parse().map_err(|_| bad())?;
        match (uri.scheme_str(), uri.authority(), uri.path()) {
            (Some("http"), Some(authority), "/" | "") => {
                let port = authority.port_u16().unwrap_or(80);
                Ok(Endpoint::Tcp(format!("{}:{port}", authority.host())))
            }
            _ => Err(bad()),
        }
    }

    /// What URIs and the `Host` header say.
    pub fn authority(&self) -> &str {
        match self {
            Endpoint::Tcp(authority) => authority,
            Endpoint::Unix(_) => "localhost",
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One connection to the server.
pub struct Pipe(TokioIo<Box<dyn Stream>>);

/// Dials the one endpoint, whatever the URI says.
#[derive(Clone)]
pub struct Dial(pub Endpoint);

impl tower::Service<Uri> for Dial {
    type Response = Pipe;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Pipe>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let endpoint = self.0.clone();
        Box::pin(async move { Ok(Pipe(TokioIo::new(dial(&endpoint).await?))) })
    }
}

async fn dial(endpoint: &Endpoint) -> io::Result<Box<dyn Stream>> {
    match endpoint {
        Endpoint::Tcp(authority) => {
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        Endpoint::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
    }
}

impl Connection for Pipe {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_tcp_or_unix() {
        assert_eq!(Endpoint::parse("http://127.0.0.1:9696").unwrap(), Endpoint::Tcp("127.0.0.1:9696".into()));
        assert_eq!(Endpoint::parse("http://[::1]:9696/").unwrap(), Endpoint::Tcp("[::1]:9696".into()));
        assert_eq!(Endpoint::parse("unix:/run/l.sock").unwrap(), Endpoint::Unix("/run/l.sock".into()));
        assert_eq!(Endpoint::parse("unix:///run/l.sock").unwrap(), Endpoint::Unix("/run/l.sock".into()));
        for bad in ["", "https://x:1", "127.0.0.1:9696", "http://x/path", "unix:relative", "ftp://x"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }
}
