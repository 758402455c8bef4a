//! How a client's requests reach a server's API: HTTP/1.1 over TCP, over TLS (to a proxy in front of the server) or over a unix socket.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("`{0}` is no http://host:port, https://host:port or unix:/path")]
    Endpoint(String),
    #[error("an address has no user and no password in it (`…@{0}`)")]
    User(String),
    #[error("`{0}` is no name or address that a certificate can have")]
    ServerName(String),
    #[error("an https address needs the certificate of the authority that signed the server's")]
    NoAuthority,
    #[error("the authority's certificate {path} cannot be used: {why}")]
    Authority { path: PathBuf, why: String },
}

/// Where the server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// `host:port`.
    Tcp(String),
    /// `host:port` of who speaks TLS.
    Tls(String),
    Unix(PathBuf),
}

impl Endpoint {
    /// Reads `http://host:port`, `https://host:port` or `unix:/path`.
    pub fn parse(text: &str) -> Result<Endpoint, DialError> {
        if let Some((_, host)) = text.rsplit_once('@').filter(|_| !text.starts_with("unix:")) {
            return Err(DialError::User(host.to_owned()));
        }
        let bad = || DialError::Endpoint(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(Endpoint::Unix(path.into())) } else { Err(bad()) };
        }
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let (Some(authority), "/" | "", None) = (uri.authority(), uri.path(), uri.query()) else { return Err(bad()) };
        let at = |port: u16| format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(port));
        match uri.scheme_str() {
            Some("http") => Ok(Endpoint::Tcp(at(80))),
            Some("https") => Ok(Endpoint::Tls(at(443))),
            _ => Err(bad()),
        }
    }

    /// What URIs and the `Host` header say.
    pub fn authority(&self) -> &str {
        match self {
            Endpoint::Tcp(authority) | Endpoint::Tls(authority) => authority,
            Endpoint::Unix(_) => "localhost",
        }
    }
}

/// A way to the server and back.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One connection to the server.
pub struct Pipe(TokioIo<Box<dyn Stream>>);

/// Dials the one endpoint, whatever the URI says.
#[derive(Clone)]
pub struct Dial {
    endpoint: Endpoint,
    /// How to speak TLS, and whose name the certificate must have.
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Dial {
    /// `ca` holds the authority to believe, in PEM: there is no other, so `https` needs it.
    pub fn new(endpoint: Endpoint, ca: Option<&Path>) -> Result<Dial, DialError> {
        let tls = match &endpoint {
            Endpoint::Tls(authority) => {
                let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
                let name = name.map_err(|_| DialError::ServerName(host.to_owned()))?;
                Some((connector(ca.ok_or(DialError::NoAuthority)?)?, name))
            }
            Endpoint::Tcp(_) | Endpoint::Unix(_) => None,
        };
        Ok(Dial { endpoint, tls })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match &self.endpoint {
            Endpoint::Tcp(authority) | Endpoint::Tls(authority) => {
                let stream = TcpStream::connect(authority).await?;
                stream.set_nodelay(true)?;
                match &self.tls {
                    Some((tls, name)) => Ok(Box::new(tls.connect(name.clone(), stream).await?)),
                    None => Ok(Box::new(stream)),
                }
            }
            Endpoint::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }
}

fn connector(ca: &Path) -> Result<TlsConnector, DialError> {
    let unusable = |why: String| DialError::Authority { path: ca.to_owned(), why };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| unusable(error.to_string()))? {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("there is no certificate in it".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("the provider has them");
    Ok(TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
}

impl tower::Service<Uri> for Dial {
    type Response = Pipe;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Pipe>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move { Ok(Pipe(TokioIo::new(dial.connect().await?))) })
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

/// What a query's value may hold as it is (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `text` as a value in a query.
pub fn escape(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    /// A proxy that says hello, by TLS, and its certificate.
    async fn proxy() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.write_all(b"hello").await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        (address, made.cert.pem())
    }

    #[tokio::test]
    async fn who_speaks_tls_is_believed_by_its_authority_alone() {
        let ((address, certificate), (_, another)) = (proxy().await, proxy().await);
        let dial = |ca: Option<&Path>| Dial::new(Endpoint::parse(&address).unwrap(), ca);
        let (own, other, empty) = (file(&certificate), file(&another), file(""));
        let mut said = String::new();
        dial(Some(own.path())).unwrap().connect().await.unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
        assert!(dial(Some(other.path())).unwrap().connect().await.is_err());
        assert!(matches!(dial(None), Err(DialError::NoAuthority)));
        assert!(matches!(dial(Some(empty.path())), Err(DialError::Authority { .. })));
        assert!(matches!(dial(Some(Path::new("/nowhere"))), Err(DialError::Authority { .. })));
    }

    #[test]
    fn endpoints_are_tcp_tls_or_unix() {
        assert_eq!(Endpoint::parse("https://x:1").unwrap(), Endpoint::Tls("x:1".into()));
        assert_eq!(Endpoint::parse("https://[::1]/").unwrap(), Endpoint::Tls("[::1]:443".into()));
        assert_eq!(Endpoint::parse("http://api").unwrap(), Endpoint::Tcp("api:80".into()));
        assert_eq!(Endpoint::parse("http://127.0.0.1:9696").unwrap(), Endpoint::Tcp("127.0.0.1:9696".into()));
        assert_eq!(Endpoint::parse("http://[::1]:9696/").unwrap(), Endpoint::Tcp("[::1]:9696".into()));
        assert_eq!(Endpoint::parse("unix:/run/l.sock").unwrap(), Endpoint::Unix("/run/l.sock".into()));
        assert_eq!(Endpoint::parse("unix:///run/l.sock").unwrap(), Endpoint::Unix("/run/l.sock".into()));
        let user = Endpoint::parse("http://user:SEK@RIT@192.0.2.1:9696").unwrap_err().to_string();
        assert!(user.contains("`…@192.0.2.1:9696`") && !user.contains("RIT@"), "{user}");
        for bad in ["", "127.0.0.1:9696", "http://", "http://x/path", "http://x/?a", "http://user@x", "unix:relative", "ftp://x"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_value_in_a_query_is_escaped() {
        assert_eq!(escape("a b&c=ü-._~"), "a%20b%26c%3D%C3%BC-._~");
    }
}
