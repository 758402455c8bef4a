//! A server's API, one request per connection, over TCP, TLS or a unix socket: the same ways as `ladon kube` has.

use std::io;
use std::time::Duration;

use dial::{Dial, DialError, Endpoint};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::cli::Reach;
use crate::failure::{Failure, Result};

/// Largest answer that is read: a list of some 100,000 ports.
const ANSWER_MAX: usize = 256 << 20;

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

const UNTOUCHED: &str = "not affected; switches go on with what they have";

/// Where the API is, and who asks.
pub struct Api {
    url: String,
    dial: Dial,
    token: Option<HeaderValue>,
}

/// An answer that arrived.
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Api {
    /// The first server: all of them say the same of what should be.
    pub fn new(reach: &Reach) -> Result<Api> {
        Api::at(reach, reach.api.first().map_or("", String::as_str))
    }

    /// All servers.
    pub fn all(reach: &Reach) -> Result<Vec<Api>> {
        reach.api.iter().map(|url| Api::at(reach, url)).collect()
    }

    fn at(reach: &Reach, url: &str) -> Result<Api> {
        let dial = Endpoint::parse(url).and_then(|endpoint| Dial::new(endpoint, reach.api_ca.as_deref()));
        let dial = dial.map_err(|error| {
            let what_to_do = match &error {
                DialError::Endpoint(_) | DialError::User(_) | DialError::ServerName(_) => {
                    "give --api or LADON_API as http://HOST:PORT, https://HOST:PORT or unix:/PATH"
                }
                DialError::NoAuthority | DialError::Authority { .. } => "give --api-ca or LADON_API_CA: that authority's certificate, PEM",
            };
            Failure::new(error.to_string(), UNTOUCHED, what_to_do)
        })?;
        let token = reach.token.as_deref().map(HeaderValue::from_str).transpose().map_err(|_| {
            let what = "the token has characters that no request can carry, such as a line break";
            Failure::new(what, UNTOUCHED, "give LADON_TOKEN exactly as it is in the server's file of tokens")
        })?;
        Ok(Api { url: url.to_string(), dial, token })
    }

    /// As it was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.checked(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.checked(Method::POST, path, Some(body)).await
    }

    /// Deletes; what is not there is deleted.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let answer = self.ask(Method::DELETE, path, None).await?;
        if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND { Ok(()) } else { Err(self.refused(path, &answer)) }
    }

    /// The answer, whatever its status.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let exchange = async {
            let stream = within(CONNECT_TIMEOUT, self.dial.connect()).await?;
            self.exchange(stream, method, path, body).await
        };
        within(ANSWER_TIMEOUT, exchange).await.map_err(|error| self.silent(&error))
    }

    async fn checked(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.ask(method, path, body).await?;
        if answer.status.is_success() { Ok(answer.body) } else { Err(self.refused(path, &answer)) }
    }

    async fn exchange<S>(&self, stream: S, method: Method, path: &str, body: Option<&Value>) -> io::Result<Answer>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // It ends when the sender is dropped, at the end of this function.
        tokio::spawn(connection);
        let response = sender.send_request(self.request(method, path, body)).await.map_err(io::Error::other)?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(io::Error::other)?.to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or_else(|_| text()) };
        Ok(Answer { status, body })
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Request<Full<Bytes>> {
        let host = self.dial.endpoint().authority();
        let mut request = Request::builder().method(method).uri(path).header("host", host).header("accept", "application/json");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header("x-auth-token", token);
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        request.body(Full::new(bytes)).expect("paths are encoded and headers were checked")
    }

    fn silent(&self, error: &io::Error) -> Failure {
        let what = format!("no server answers on {}: {}", self.url, stream::describe(error));
        Failure::new(what, UNTOUCHED, "see that `ladon server` runs there, or name another with --api or LADON_API")
    }

    /// What a server's refusal says, in Neutron's, Octavia's or no particular shape.
    pub fn refused(&self, path: &str, answer: &Answer) -> Failure {
        let message = [
            &answer.body["NeutronError"]["message"],
            &answer.body["faultstring"],
            &answer.body["error"]["message"],
            &answer.body["message"],
        ];
        let message = message.into_iter().find_map(Value::as_str).map(str::to_string);
        let what = message.unwrap_or_else(|| format!("the server answered {} to {path}", answer.status));
        let what_to_do = match answer.status {
            StatusCode::UNAUTHORIZED => "set LADON_TOKEN to a token that this server knows",
            StatusCode::FORBIDDEN => "use a token whose roles may do this",
            StatusCode::NOT_FOUND => "see that the server is of this command's release (`ladon --version`), and that the object exists",
            StatusCode::CONFLICT => "free what is in use, or choose another",
            StatusCode::GATEWAY_TIMEOUT => "see whether it was done before you try again",
            status if status.is_server_error() => "look at the server's log, and try again",
            _ => "correct what the message names",
        };
        let effect = match answer.status {
            // Neutron's word, and Octavia's, where the store may have taken a write and nobody said so.
            StatusCode::GATEWAY_TIMEOUT => "not affected; the change may have been made",
            _ => "not affected; nothing was changed",
        };
        Failure { is_unknown: answer.status == StatusCode::NOT_FOUND, ..Failure::new(what, effect, what_to_do) }
    }
}

/// Runs `work`, for so long at most.
async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing within {} s", limit.as_secs()))))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;
    use crate::cli::Format;

    fn api(url: String, ca: Option<PathBuf>) -> Api {
        let reach = Reach { api: vec![url], api_ca: ca, token: None, control: PathBuf::new(), output: Format::Table };
        Api::new(&reach).unwrap_or_else(|failure| panic!("{}", failure.what_happened))
    }

    /// How long a server that takes connections and says nothing is waited for.
    async fn patience(scheme: &str, ca: Option<PathBuf>) -> u64 {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = api(format!("{scheme}://{}", silent.local_addr().unwrap()), ca);
        let begun = Instant::now();
        let failure = api.get("/v2.0/ports").await.unwrap_err();
        assert!(failure.what_happened.contains("nothing within"), "{}", failure.what_happened);
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_given_up() {
        assert_eq!(patience("http", None).await, ANSWER_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_not_made_is_given_up_sooner() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let folder = tempfile::tempdir().unwrap();
        let credentials = stream::pki::Authority::open(folder.path()).unwrap().server().unwrap();
        // TLS belongs to the connection, and nobody speaks it.
        assert_eq!(patience("https", Some(credentials.ca)).await, CONNECT_TIMEOUT.as_secs());
    }
}
