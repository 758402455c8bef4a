//! What every HTTP request goes through: a listener with limits, authentication, a request id, its body whole and in time, and
//! for whatever is refused on the way the document of the API that was asked.
//!
//! What is no HTTP at all, or has a URI beyond hyper's own limit of 64 KiB, is refused by hyper with a status alone, as the server
//! under Neutron does it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use stream::accepted;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::auth::{self, Auth};
use crate::neutron::ApiError;
use crate::octavia::{self, Fault};
use crate::views;
use crate::writer::WriteError;

/// The largest body of a request: some 10,000 ports. A larger one is answered with 413.
pub const BODY_MAX: usize = 16 << 20;
/// The longest path and query of a request, in bytes: a list's filter may name some 800 ids.
pub const URI_MAX: usize = 32 << 10;
/// Open connections. Others wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 4096;
/// A client that takes longer to say what it wants is given up.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A body that takes longer to come is not waited for.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Of a body that is too large so many bytes more are read: who sends all before it listens would only find its connection broken.
const HEAR_OUT_MAX: usize = BODY_MAX;
/// A sender who takes longer is not heard out.
const HEAR_OUT_TIMEOUT: Duration = Duration::from_secs(2);
/// Long lists of one API that are put together at once: so many processors they take at most. Others wait; what is short does not.
const LISTS_AT_ONCE: usize = 2;
/// A list of so many objects takes milliseconds, and waits for no other.
pub const LIST_IS_SHORT: usize = 200;
/// A client that takes nothing of its answer for so long is given up, and the answer with it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Every answer has one, as OpenStack's services do.
const REQUEST_ID: &str = "x-openstack-request-id";
/// What a proxy that speaks TLS with the client says of that.
const FORWARDED_PROTO: header::HeaderName = header::HeaderName::from_static("x-forwarded-proto");
/// Bytes of a refusal that are worth repeating. Instead of a longer one stands what its status is called.
const REASON_MAX: usize = 1024;
/// What a path that nothing serves is answered, as in OpenStack.
const NOT_FOUND: &str = "The resource could not be found.";

/// `routes` with all that holds for every request.
pub fn application(routes: Router, auth: Auth) -> Router {
    routes
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn(take_in))
        .layer(middleware::from_fn_with_state(auth, auth::authenticate))
        .layer(middleware::from_fn(word))
        .layer(middleware::from_fn(name_request))
}

async fn name_request(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let id = HeaderValue::from_str(&format!("req-{}", Uuid::new_v4())).expect("a UUID is plain text");
    response.headers_mut().entry(REQUEST_ID).or_insert(id);
    response
}

/// The address under which the client reached the server, maybe by way of a proxy that speaks TLS for it.
pub fn base(headers: &HeaderMap) -> String {
    let said = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let is_https = said(FORWARDED_PROTO).is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https"));
    format!("{}://{}", if is_https { "https" } else { "http" }, said(header::HOST).unwrap_or("localhost"))
}

/// The lists of one API that are being put together.
#[derive(Clone)]
pub struct Lists(Arc<Semaphore>);

impl Default for Lists {
    fn default() -> Lists {
        Lists(Arc::new(Semaphore::new(LISTS_AT_ONCE)))
    }
}

impl Lists {
    /// Puts a list together. One out of many objects has a thread of its own, so that other requests go on. If it is long, which is seen
    /// there, it waits for its turn, and is of the state at that time.
    pub async fn make<T: Send + 'static>(
        &self,
        is_of_many: bool,
        is_long: impl FnOnce() -> bool + Send + 'static,
        list: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if !is_of_many {
            return list();
        }
        let list = match aside(move || if is_long() { Err(list) } else { Ok(list()) }).await {
            Ok(short) => return short,
            Err(list) => list,
        };
        let turn = self.0.clone().acquire_owned().await.expect("nobody closes it");
        let work = move || {
            let list = list();
            drop(turn);
            list
        };
        aside(work).await
    }
}

async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("a list is put together without a panic")
}

/// The APIs by how they word a refusal.
#[derive(Clone, Copy)]
enum Api {
    Neutron,
    Octavia,
    Ladon,
}

impl Api {
    fn of(request: &Request) -> Api {
        match request.uri().path() {
            path if octavia::is_path(path) => Api::Octavia,
            path if views::is_path(path) => Api::Ladon,
            _ => Api::Neutron,
        }
    }

    fn refusal(self, status: StatusCode, message: impl Into<String>) -> Response {
        match self {
            Api::Neutron => ApiError::new(status, kind(status), message).into_response(),
            Api::Octavia => Fault::new(status, message).into_response(),
            Api::Ladon => error_document(status, &message.into()),
        }
    }
}

/// The refusal of a write by someone who may only look, in the words of the API that was asked.
pub fn forbidden(request: &Request) -> Response {
    match Api::of(request) {
        Api::Neutron => ApiError::forbidden("(rule:reader)").into_response(),
        Api::Octavia => Fault::forbidden().into_response(),
        Api::Ladon => error_document(StatusCode::FORBIDDEN, "The role reader allows no request that changes anything."),
    }
}

/// What Neutron calls a refusal that none of its resources made: the classes of WebOb.
fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "HTTPNotFound",
        StatusCode::METHOD_NOT_ALLOWED => "HTTPMethodNotAllowed",
        StatusCode::REQUEST_TIMEOUT => "HTTPRequestTimeout",
        StatusCode::PAYLOAD_TOO_LARGE => "HTTPRequestEntityTooLarge",
        StatusCode::URI_TOO_LONG => "HTTPRequestURITooLong",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "HTTPUnsupportedMediaType",
        status if status.is_server_error() => "HTTPInternalServerError",
        _ => "HTTPBadRequest",
    }
}

/// The status of a write that did not happen, in every API.
pub fn write_status(error: &WriteError) -> StatusCode {
    match error {
        WriteError::TooBusy | WriteError::Contended | WriteError::Stopped | WriteError::StoreAway | WriteError::KeysExhausted { .. } => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        // Whoever asked looks before trying again.
        WriteError::StoreUnknown(_) => StatusCode::GATEWAY_TIMEOUT,
        WriteError::StoreFull => StatusCode::INSUFFICIENT_STORAGE,
        WriteError::StoreFailed(_) | WriteError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The error document of Keystone, and of what is Ladon's own.
pub fn error_document(status: StatusCode, message: &str) -> Response {
    let error = json!({"code": status.as_u16(), "title": status.canonical_reason(), "message": message});
    (status, axum::Json(json!({ "error": error }))).into_response()
}

/// Words what refuses a request before a handler sees it: the router and the extractors answer in plain text or not at all.
async fn word(request: Request, next: Next) -> Response {
    let (api, method) = (Api::of(&request), request.method().clone());
    if request.uri().path_and_query().is_some_and(|uri| uri.as_str().len() > URI_MAX) {
        return api.refusal(StatusCode::URI_TOO_LONG, format!("The request's URI is longer than {URI_MAX} bytes."));
    }
    let response = next.run(request).await;
    let status = response.status();
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (head, body) = response.into_parts();
    let mut worded = api.refusal(status, message(status, &method, body).await);
    if let Some(allowed) = head.headers.get(header::ALLOW) {
        worded.headers_mut().insert(header::ALLOW, allowed.clone());
    }
    worded
}

async fn message(status: StatusCode, method: &Method, said: Body) -> String {
    match status {
        StatusCode::NOT_FOUND => NOT_FOUND.to_string(),
        StatusCode::METHOD_NOT_ALLOWED => format!("The method {method} is not allowed for this resource."),
        _ => {
            let said = axum::body::to_bytes(said, REASON_MAX).await.unwrap_or_default();
            let usual = || status.canonical_reason().unwrap_or_default().to_string();
            String::from_utf8(said.into()).ok().filter(|said| !said.is_empty()).unwrap_or_else(usual)
        }
    }
}

/// Waits for the whole body, so that handlers find it there. Large ones are refused before they are sent where their length is told.
async fn take_in(request: Request, next: Next) -> Response {
    let api = Api::of(&request);
    let too_large = || api.refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("The request's body is larger than {BODY_MAX} bytes."));
    let (head, mut body) = request.into_parts();
    let length = head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY_MAX as u64) {
        // Who expects to be told to go on has not sent it yet.
        if !head.headers.contains_key(header::EXPECT) {
            hear_out(body).await;
        }
        return too_large();
    }
    let late = format!("The request's body did not come within {} s.", BODY_TIMEOUT.as_secs());
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, Limited::new(&mut body, BODY_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            hear_out(body).await;
            return too_large();
        }
        Ok(Err(_)) => return api.refusal(StatusCode::BAD_REQUEST, "The request's body could not be read."),
        Err(_) => return api.refusal(StatusCode::REQUEST_TIMEOUT, late),
    };
    if let (Api::Octavia, Some(kind)) = (api, foreign_type(&head.headers).filter(|_| !bytes.is_empty())) {
        return api.refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("Unknown mimetype: {kind}"));
    }
    next.run(Request::from_parts(head, Body::from(bytes))).await
}

/// Reads what is left of a body, and forgets it.
async fn hear_out(body: Body) {
    let mut rest = Limited::new(body, HEAR_OUT_MAX);
    let all = async { while let Some(Ok(_)) = rest.frame().await {} };
    // Whoever is not through by then may not hear the answer.
    let _ = tokio::time::timeout(HEAR_OUT_TIMEOUT, all).await;
}

/// The type of a body that says that it is no JSON. Neutron does not look at it, Octavia does. A form is what `curl --data` calls
/// everything.
fn foreign_type(headers: &header::HeaderMap) -> Option<&str> {
    const TAKEN: [&str; 5] = ["", "application/json", "application/javascript", "text/javascript", "application/x-www-form-urlencoded"];
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim();
    (!TAKEN.iter().any(|taken| kind.eq_ignore_ascii_case(taken))).then_some(kind)
}

/// Where connections come from.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Serves `application` until `stop`, then lets the requests under way end.
    pub async fn serve(self, application: Router, stop: CancellationToken) {
        self.serve_while(Arc::new(Semaphore::new(CONNECTIONS_MAX)), application, stop).await;
    }

    /// As [`Listener::serve`], as many connections at once as there are `free`.
    async fn serve_while(self, free: Arc<Semaphore>, application: Router, stop: CancellationToken) {
        let connections = TaskTracker::new();
        while let Ok(Ok(permit)) = until(&stop, free.clone().acquire_owned()).await {
            let failed = |error| tracing::warn!("a connection to the API was not accepted, its client will try again: {error}");
            let Ok(stream) = until(&stop, accepted(|| self.accept(), failed)).await else { break };
            let (application, stop) = (application.clone(), stop.clone());
            connections.spawn(async move {
                converse(stream, application, stop).await;
                drop(permit);
            });
        }
        // From here on who connects is refused, and does not wait for an answer that nobody gives.
        drop(self);
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
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(service));
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

/// What a query's names and values may hold as it is (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `text` as a name or a value in a query.
pub fn escape(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tower::ServiceExt;

    use super::*;

    async fn ask(path: &str, body: Body) -> (u16, Value) {
        let routes = Router::new().fallback(async || StatusCode::NOT_FOUND);
        let request = Request::post(path).body(body).unwrap();
        let Ok(response) = application(routes, Auth::None).oneshot(request).await;
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let first = futures::stream::iter([Ok::<_, Infallible>(bytes::Bytes::from_static(b"{"))]);
        let stalled = || Body::from_stream(first.clone().chain(futures::stream::pending()));
        for (path, pointer, said) in [
            ("/v2.0/networks", "/NeutronError/type", "HTTPRequestTimeout"),
            ("/v2.0/lbaas/pools", "/faultcode", "Client"),
            ("/ladon/v1/nodes", "/error/title", "Request Timeout"),
        ] {
            let begun = tokio::time::Instant::now();
            let (status, document) = ask(path, stalled()).await;
            assert_eq!((status, document.pointer(pointer).and_then(Value::as_str)), (408, Some(said)), "{document}");
            assert_eq!(begun.elapsed().as_secs(), BODY_TIMEOUT.as_secs());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_too_large_is_heard_out_for_a_while() {
        const MIB: usize = 1 << 20;
        let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let seen = taken.clone();
        let mib = futures::stream::repeat_with(move || {
            seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok::<_, Infallible>(bytes::Bytes::from(vec![b' '; MIB]))
        });
        let begun = tokio::time::Instant::now();
        let stalls = Body::from_stream(mib.clone().take(BODY_MAX / MIB + 1).chain(futures::stream::pending()));
        assert_eq!((ask("/v2.0/networks", stalls).await.0, begun.elapsed()), (413, HEAR_OUT_TIMEOUT));
        taken.store(0, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(ask("/v2.0/networks", Body::from_stream(mib)).await.0, 413);
        let taken = taken.load(std::sync::atomic::Ordering::Relaxed) * MIB;
        assert!((HEAR_OUT_MAX..=BODY_MAX + HEAR_OUT_MAX + 2 * MIB).contains(&taken), "{taken}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_say_what_it_wants_is_given_up() {
        for said in ["", "GET /v2.0/networks HTTP/1.1\r\nHost: "] {
            let (begun, (mut client, server)) = (tokio::time::Instant::now(), tokio::io::duplex(1024));
            client.write_all(said.as_bytes()).await.unwrap();
            tokio::spawn(converse(Box::new(server), Router::new(), CancellationToken::new()));
            client.read_to_end(&mut Vec::new()).await.unwrap();
            assert_eq!(begun.elapsed().as_secs(), HEADER_TIMEOUT.as_secs());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_its_answer_is_given_up() {
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let routes = Router::new().fallback(async || vec![b' '; 1 << 20]);
        let begun = tokio::time::Instant::now();
        converse(Box::new(server), routes, CancellationToken::new()).await;
        assert_eq!(begun.elapsed().as_secs(), WRITE_TIMEOUT.as_secs());
    }

    #[tokio::test]
    async fn a_refusal_is_repeated_unless_it_is_endless() {
        for (length, is_repeated) in [(REASON_MAX, true), (REASON_MAX + 1, false)] {
            let reason = "x".repeat(length);
            let routes = Router::new().fallback(move || std::future::ready((StatusCode::BAD_REQUEST, reason)));
            let request = Request::get("/ladon/v1/nodes").body(Body::empty()).unwrap();
            let Ok(response) = application(routes, Auth::None).oneshot(request).await;
            let document: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
            let said = document["error"]["message"].as_str().unwrap();
            assert_eq!(said.len(), if is_repeated { length } else { "Bad Request".len() }, "{said}");
        }
    }

    /// Lets everything go on that can.
    async fn let_all_go_on() {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_long_list_beyond_the_most_waits_for_its_turn_and_a_short_one_does_not() {
        let (lists, gate) = (Lists::default(), Arc::new(std::sync::Barrier::new(LISTS_AT_ONCE + 1)));
        let make = |is_long, list: Box<dyn FnOnce() + Send>| {
            let lists = lists.clone();
            tokio::spawn(async move { lists.make(true, move || is_long, list).await })
        };
        let wait = || {
            let gate = gate.clone();
            Box::new(move || drop(gate.wait()))
        };
        let long: Vec<_> = (0..LISTS_AT_ONCE).map(|_| make(true, wait())).collect();
        let (next, short) = (make(true, Box::new(|| ())), make(false, Box::new(|| ())));
        short.await.unwrap();
        lists.make(false, || true, || ()).await;
        let_all_go_on().await;
        let is_done = [long[0].is_finished(), next.is_finished()];
        tokio::task::spawn_blocking(wait()).await.unwrap();
        next.await.unwrap();
        assert_eq!(is_done, [false, false]);
    }

    #[tokio::test]
    async fn a_connection_beyond_the_most_is_served_when_another_one_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api");
        let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
        let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let _others = free.clone().acquire_many_owned(CONNECTIONS_MAX as u32 - 1).await.unwrap();
        tokio::spawn(listener.serve_while(free, Router::new(), CancellationToken::new()));
        let mut first = UnixStream::connect(&path).await.unwrap();
        let mut second = UnixStream::connect(&path).await.unwrap();
        let mut answer = [0; 12];
        for stream in [&mut first, &mut second] {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        }
        first.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404");
        let_all_go_on().await;
        assert!(second.try_read(&mut answer).is_err(), "it waits");
        drop(first);
        second.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404");
    }
}
