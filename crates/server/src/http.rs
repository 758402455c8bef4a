//! What every HTTP request goes through: a listener with limits, authentication, a request id, a limit on bodies.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::auth::{self, Auth};

/// The largest body of a request: some 10,000 ports.
pub const BODY_MAX: usize = 16 << 20;
/// Open connections. Others wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 4096;
/// A client that takes longer to say what it wants is given up.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Every answer has one, as OpenStack's services do.
const REQUEST_ID: &str = "x-openstack-request-id";

/// `routes` with all that holds for every request.
pub fn application(routes: Router, auth: Auth) -> Router {
    routes
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(auth, auth::authenticate))
        .layer(middleware::from_fn(limit_body))
        .layer(middleware::from_fn(name_request))
}

async fn name_request(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let id = HeaderValue::from_str(&format!("req-{}", Uuid::new_v4())).expect("a UUID is plain text");
    response.headers_mut().entry(REQUEST_ID).or_insert(id);
    response
}

/// Refuses large bodies before they are sent where their length is told, and words the refusal as the API does.
async fn limit_body(request: Request, next: Next) -> Response {
    let is_octavia = crate::octavia::is_path(request.uri().path());
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY_MAX as u64) {
        return too_large(is_octavia);
    }
    let response = next.run(request).await;
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE && !is_json { too_large(is_octavia) } else { response }
}

fn too_large(is_octavia: bool) -> Response {
    let message = format!("The request's body is larger than {BODY_MAX} bytes.");
    let body = match is_octavia {
        true => json!({"faultcode": "Client", "faultstring": message, "debuginfo": null}),
        false => json!({"NeutronError": {"type": "HTTPRequestEntityTooLarge", "message": message, "detail": ""}}),
    };
    (StatusCode::PAYLOAD_TOO_LARGE, axum::Json(body)).into_response()
}

/// Where connections come from.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Serves `application` until `stop`, then lets the requests under way end.
    pub async fn serve(self, application: Router, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        while let Ok(Ok(permit)) = until(&stop, free.clone().acquire_owned()).await {
            let Ok(accepted) = until(&stop, self.accept()).await else { break };
            let (application, stop) = (application.clone(), stop.clone());
            match accepted {
                Ok(stream) => drop(connections.spawn(async move {
                    converse(stream, application, stop).await;
                    drop(permit);
                })),
                Err(error) => {
                    tracing::warn!("a connection to the API was not accepted, its client will try again: {error}");
                    // No descriptors are left, most likely: the next attempt would fail as quickly.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }

    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        match self {
            Listener::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                // Answers are small and whole: waiting for more to send only delays them.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Listener::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

/// After a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What `future` gives, or an error if `stop` comes first.
async fn until<T>(stop: &CancellationToken, future: impl Future<Output = T>) -> Result<T, ()> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(()),
        value = future => Ok(value),
    }
}

async fn converse(stream: Box<dyn Stream>, application: Router, stop: CancellationToken) {
    let service = tower::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let application = application.clone();
        async move { Ok::<_, Infallible>(answer(application, request.map(Body::new)).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let result = match until(&stop, connection.as_mut()).await {
        Ok(result) => result,
        Err(()) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!("a connection to the API broke: {error}");
    }
}

async fn answer(application: Router, request: Request) -> Response {
    use tower::ServiceExt;
    let Ok(response) = application.oneshot(request).await;
    response
}
