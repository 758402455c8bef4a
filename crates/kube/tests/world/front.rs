//! What stands between `ladon kube` and the server in tests: it writes down every request and loses answers on demand.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;

/// A request as it went by.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub body: String,
}

#[derive(Default)]
struct Inner {
    seen: Vec<Seen>,
    /// How many answers to writes of this kind are still to be lost.
    losses: Vec<(String, String, usize)>,
    /// The server as another process of it would see it: gone.
    is_down: bool,
    /// What was asked meanwhile: method and path.
    refused: Vec<(String, String)>,
}

/// See the module.
#[derive(Clone)]
pub struct Front {
    pub server: Router,
    inner: Arc<Mutex<Inner>>,
}

impl Front {
    pub fn new(server: Router) -> Front {
        Front { server, inner: Arc::default() }
    }

    /// Loses the answers of the next `count` requests of this kind: they are done, and nobody hears of it.
    pub fn lose(&self, method: &str, path: &str, count: usize) {
        self.inner.lock().unwrap().losses.push((method.into(), path.into(), count));
    }

    pub fn lose_nothing(&self) {
        self.inner.lock().unwrap().losses.clear();
    }

    pub fn set_down(&self, is_down: bool) {
        self.inner.lock().unwrap().is_down = is_down;
    }

    fn is_down(&self) -> bool {
        self.inner.lock().unwrap().is_down
    }

    /// How many requests found the server gone whose method is this, and whose path and query hold this.
    pub fn refused(&self, method: &str, part: &str) -> usize {
        let inner = self.inner.lock().unwrap();
        inner.refused.iter().filter(|(of, at)| of == method && at.contains(part)).count()
    }

    pub fn is_losing(&self) -> bool {
        self.inner.lock().unwrap().losses.iter().any(|(_, _, left)| *left > 0)
    }

    /// All requests so far whose method and path begin like this.
    pub fn seen(&self, method: &str, path: &str) -> Vec<Seen> {
        let inner = self.inner.lock().unwrap();
        inner.seen.iter().filter(|seen| seen.method == method && seen.path.starts_with(path)).cloned().collect()
    }

    /// A TCP port of its own for one client.
    pub async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(pass).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        endpoint
    }

    fn is_lost(&self, method: &str, path: &str) -> bool {
        let mut inner = self.inner.lock().unwrap();
        let loss = inner.losses.iter_mut().find(|(of, at, left)| of == method && path.starts_with(at.as_str()) && *left > 0);
        loss.map(|(_, _, left)| *left -= 1).is_some()
    }
}

async fn pass(State(front): State<Front>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method.to_string(), parts.uri.path().to_owned());
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    if front.is_down() {
        front.inner.lock().unwrap().refused.push((method, parts.uri.to_string()));
        std::panic::resume_unwind(Box::new("down: the connection breaks"));
    }
    let seen = Seen { method: method.clone(), path: path.clone(), body: String::from_utf8_lossy(&body).into_owned() };
    front.inner.lock().unwrap().seen.push(seen);
    let answer = front.server.clone().oneshot(Request::from_parts(parts, Body::from(body))).await.into_response();
    if front.is_lost(&method, &path) {
        // The connection task ends, the connection breaks, the write stays done.
        std::panic::resume_unwind(Box::new("answer lost"));
    }
    answer
}
