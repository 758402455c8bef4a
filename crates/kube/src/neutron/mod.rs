//! A small client for Neutron v2.0 and Octavia v2, as far as Kubernetes needs them.
//!
//! Every write passes the [`Fence`]: once the Lease may have gone to another instance, nothing is sent any more. Every create
//! carries an `Idempotency-Key`, so that sending it again after a lost answer gives the object that is there already.

pub mod calls;
pub mod types;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dial::{Dial, Endpoint};
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use crate::config::Config;
use crate::error::{ConfigError, first_cause};
use crate::lease::Fence;

/// Longest a read may take: a page of a list.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer, in bytes: a page of [`PAGE`] ports is about 1 MiB, a pool of 10,000 members about 6.
const ANSWER_MAX: usize = 64 << 20;
/// Objects in one page of a list.
pub const PAGE: usize = 1000;
/// Idle connections kept to the server.
const IDLE_CONNECTIONS: usize = 16;
/// Names the create for the server: the same key, the same object.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Why a request did not do what it should.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer: it may have been done or not.
    #[error("{doing}: no answer from the Ladon server ({why})")]
    NoAnswer { doing: String, why: String },
    /// The server said no.
    #[error("{doing}: {status} {kind}: {message}")]
    Refused { doing: String, status: u16, kind: String, message: String },
    /// The server said something that we do not understand.
    #[error("{doing}: unreadable answer from the Ladon server ({why})")]
    Unreadable { doing: String, why: String },
    /// Not sent, because the Lease may belong to another instance by now.
    #[error("not sent: the Lease is not ours for certain")]
    Fenced,
}

impl ApiError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, ApiError::Refused { status: 404, .. })
    }

    pub fn is_conflict(&self) -> bool {
        matches!(self, ApiError::Refused { status: 409, .. })
    }

    /// True if the server looked at the request and found it wrong, so that nothing was done.
    pub fn is_refusal(&self) -> bool {
        matches!(self, ApiError::Refused { status, .. } if (400..500).contains(status))
    }

    /// What a person can do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            ApiError::NoAnswer { .. } => "check that `ladon server` runs and that api.endpoint of `ladon kube` names it",
            ApiError::Refused { status: 401 | 403, .. } => "check the token and the project of `ladon kube`",
            ApiError::Refused { kind, .. } if kind.contains("IpAddressGenerationFailure") => {
                "the network has no free address left: delete what is not needed or choose a larger pod network"
            }
            ApiError::Refused { kind, .. } if kind == "IdempotencyKeyConflict" => {
                "another project has an object with this id: delete it, or give the cluster another name or the project that it had"
            }
            ApiError::Refused { status, .. } if *status >= 500 => "look into the log of `ladon server`",
            ApiError::Refused { .. } => "change what the message names; it is tried again by itself",
            ApiError::Unreadable { .. } => "check that api.endpoint of `ladon kube` names a Ladon server of the same release",
            ApiError::Fenced => "nothing: another instance of `ladon kube` takes over",
        }
    }
}

/// A connection to the server, and who we are there. Cheap to clone.
#[derive(Clone)]
pub struct Neutron {
    http: Client<Dial, Full<Bytes>>,
    authority: String,
    headers: HeaderMap,
    project: Option<String>,
    fence: Fence,
    /// Longest a write may take. It must end before a Lease that was ours at its start can have gone to another instance.
    write_timeout: Duration,
    /// False once the server has said that it takes one key per request only.
    has_bulk_keys: Arc<AtomicBool>,
}

impl Neutron {
    /// As the configuration says.
    pub fn new(config: &Config, fence: Fence) -> Result<Neutron, ConfigError> {
        let (endpoint, token, project) = (&config.api.endpoint, config.token()?, config.api.project.as_deref());
        let write_timeout = (config.lease_duration() / 3).min(READ_TIMEOUT);
        let endpoint = Endpoint::parse(endpoint)?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, field, value) in [("x-auth-token", "api.token", token.as_deref()), ("x-project-id", "api.project", project)] {
            let Some(value) = value else { continue };
            let mut value = HeaderValue::from_str(value).map_err(|_| ConfigError::Value {
                field,
                what: "is not what an HTTP header can carry",
                to_do: "write one line of printable text",
            })?;
            value.set_sensitive(name == "x-auth-token");
            headers.insert(name, value);
        }
        let authority = endpoint.authority().to_owned();
        let http = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(Dial::new(endpoint, config.api.ca.as_deref())?);
        Ok(Neutron {
            http,
            authority,
            headers,
            project: project.map(str::to_owned),
            fence,
            write_timeout,
            has_bulk_keys: Arc::new(AtomicBool::new(true)),
        })
    }

    /// The project that objects are made in, where it is not the token's own.
    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    /// True if a bulk create may carry a key for each of its objects.
    pub fn has_bulk_keys(&self) -> bool {
        self.has_bulk_keys.load(Ordering::Relaxed)
    }

    /// GET of one document.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let (_, body) = self.exchange(Method::GET, path, None, &[], READ_TIMEOUT).await?;
        parse(&Method::GET, path, &body)
    }

    /// A write that answers with a document.
    async fn write<T: DeserializeOwned>(&self, method: Method, path: &str, body: &Value, keys: &[Uuid]) -> Result<T, ApiError> {
        let answer = self.write_blind(method.clone(), path, Some(body), keys).await?;
        parse(&method, path, &answer)
    }

    /// A write of which only the success matters.
    async fn write_blind(&self, method: Method, path: &str, body: Option<&Value>, keys: &[Uuid]) -> Result<Bytes, ApiError> {
        if !self.fence.is_open() {
            return Err(ApiError::Fenced);
        }
        Ok(self.exchange(method, path, body, keys, self.write_timeout).await?.1)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        keys: &[Uuid],
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        let doing = doing(&method, path);
        let request = self.request(method, path, body, keys);
        let answered = tokio::time::timeout(timeout, async {
            let response = self.http.request(request).await.map_err(|error| no_answer(&doing, &error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|error| ApiError::NoAnswer { doing: doing.clone(), why: error.to_string() })?;
            Ok((status, body.to_bytes()))
        });
        let timed_out = |_| ApiError::NoAnswer { doing: doing.clone(), why: format!("none within {} s", timeout.as_secs()) };
        let (status, body) = answered.await.map_err(timed_out)??;
        if status.is_success() { Ok((status, body)) } else { Err(refusal(doing, status, &body)) }
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>, keys: &[Uuid]) -> Request<Full<Bytes>> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = format!("http://{}{path}", self.authority).parse().expect("paths are made of escaped parts");
        *request.headers_mut() = self.headers.clone();
        if !keys.is_empty() {
            let text = keys.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",");
            request.headers_mut().insert(IDEMPOTENCY_KEY, text.parse().expect("UUIDs are ASCII"));
        }
        request
    }
}

fn doing(method: &Method, path: &str) -> String {
    format!("{method} {}", path.split('?').next().unwrap_or(path))
}

fn no_answer(doing: &str, error: &hyper_util::client::legacy::Error) -> ApiError {
    ApiError::NoAnswer { doing: doing.to_owned(), why: first_cause(error) }
}

fn parse<T: DeserializeOwned>(method: &Method, path: &str, body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::Unreadable { doing: doing(method, path), why: error.to_string() })
}

/// Neutron's and Octavia's error documents.
#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorDocument {
    Neutron {
        #[serde(rename = "NeutronError")]
        error: NeutronError,
    },
    Octavia {
        faultcode: String,
        faultstring: String,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NeutronError {
    Full { r#type: String, message: String },
    Text(String),
}

fn refusal(doing: String, status: StatusCode, body: &[u8]) -> ApiError {
    let (kind, message) = match serde_json::from_slice(body) {
        Ok(ErrorDocument::Neutron { error: NeutronError::Full { r#type, message } }) => (r#type, message),
        Ok(ErrorDocument::Neutron { error: NeutronError::Text(message) }) => ("NeutronError".into(), message),
        Ok(ErrorDocument::Octavia { faultcode, faultstring }) => (faultcode, faultstring),
        Err(_) => (status.canonical_reason().unwrap_or("error").into(), String::from_utf8_lossy(body).chars().take(200).collect()),
    };
    ApiError::Refused { doing, status: status.as_u16(), kind, message }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Barrier;
    use tokio::time::Instant;

    use super::*;
    use crate::tests::by_hand::{Ladon, let_all_go_on};

    const DEADLINE: Duration = Duration::from_secs(120);

    #[tokio::test(start_paused = true)]
    async fn a_read_that_is_not_answered_is_given_up() {
        let ladon = Ladon::start(|_| std::future::pending());
        let begun = Instant::now();
        assert!(matches!(ladon.neutron.network(Uuid::nil()).await, Err(ApiError::NoAnswer { .. })));
        assert_eq!(begun.elapsed().as_secs(), READ_TIMEOUT.as_secs());
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_not_taken() {
        let ladon = Ladon::start(|request| {
            let length = if request.uri().path() == "/fits" { ANSWER_MAX } else { ANSWER_MAX + 1 };
            std::future::ready((200, "{}".to_owned() + &" ".repeat(length - 2)))
        });
        assert_eq!(ladon.neutron.get::<Value>("/fits").await, Ok(serde_json::json!({})));
        let too_large = ladon.neutron.get::<Value>("/does-not").await;
        assert!(matches!(&too_large, Err(ApiError::NoAnswer { why, .. }) if why.contains("limit")), "{too_large:?}");
    }

    #[tokio::test]
    async fn few_connections_are_kept_when_there_is_nothing_to_ask() {
        const MANY: usize = IDLE_CONNECTIONS + 4;
        let all_are_there = Arc::new(Barrier::new(MANY));
        let ladon = Ladon::start(move |_| {
            let all_are_there = all_are_there.clone();
            async move {
                all_are_there.wait().await;
                (200, "{}".into())
            }
        });
        let answers = futures::future::join_all((0..MANY).map(|_| ladon.neutron.get::<Value>("/"))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        let open = || ladon.connections.load(Ordering::SeqCst);
        let closed = tokio::time::timeout(DEADLINE, async {
            while open() > IDLE_CONNECTIONS {
                tokio::task::yield_now().await;
            }
        });
        closed.await.expect("the others are closed");
        let_all_go_on().await;
        assert_eq!(open(), IDLE_CONNECTIONS);
    }

    #[test]
    fn both_error_documents_are_read() {
        let status = StatusCode::CONFLICT;
        let neutron = br#"{"NeutronError": {"type": "IpAddressGenerationFailure", "message": "No more", "detail": ""}}"#;
        let error = refusal("POST /x".into(), status, neutron);
        assert_eq!(error.to_string(), "POST /x: 409 IpAddressGenerationFailure: No more");
        assert!(error.advice().contains("no free address"));
        let octavia = br#"{"faultcode": "Client", "faultstring": "bad port", "debuginfo": null}"#;
        assert_eq!(refusal("PUT /y".into(), status, octavia).to_string(), "PUT /y: 409 Client: bad port");
        assert_eq!(refusal("GET /z".into(), StatusCode::BAD_GATEWAY, b"<html>").to_string(), "GET /z: 502 Bad Gateway: <html>");
    }
}
