//! What clients of Neutron's and Octavia's APIs send, from the request line on.
//!
//! An input is a row of requests, separated by lines of `---`: a line with method and path, lines of headers, an empty line, the
//! body. They meet a server with one object of each kind, whose ids are known ([`PRELUDE`]).

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use jiff::Timestamp;
use server::Core;
use server::auth::Auth;
use server::neutron::{self, Settings};
use server::{http, octavia};
use tower::ServiceExt;

/// Makes the objects that the corpus speaks of.
const PRELUDE: &str = include_str!("prelude.http");
const SEPARATOR: &str = "\n---\n";

/// Answers all requests of the input.
pub fn requests(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime without threads").block_on(serve(&String::from_utf8_lossy(bytes)));
}

async fn serve(text: &str) {
    let application = application();
    for request in PRELUDE.split(SEPARATOR) {
        let (status, body) = answer(&application, request).await.expect("the prelude is requests");
        assert!(status < 300, "{request}: {status} {body}");
    }
    for request in text.split(SEPARATOR) {
        // 501 is Octavia's word for what its provider does not do.
        if let Some((status, body)) = answer(&application, request).await {
            assert!(status < 500 || status == 501, "{request}\n\nis answered with {status}: {body}");
        }
    }
}

fn application() -> Router {
    let clock = Arc::new(|| Timestamp::from_second(1_800_000_000).expect("a second of this century"));
    let core = Core::start_with_clock(Arc::new(store::Memory::new()), clock).expect("an empty store");
    http::application(octavia::routes(core.clone()).merge(neutron::routes(core, Settings::default())), Auth::None)
}

/// Status and body of the answer. None: the text is no request that a listener would hand on.
async fn answer(application: &Router, text: &str) -> Option<(u16, String)> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let (method, path) = lines.next()?.trim().split_once(' ')?;
    let mut request = Request::builder().method(method).uri(path).header("host", "ladon.test").header("x-project-id", "p");
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    let request = request.body(Body::from(body.to_string())).ok()?;
    let Ok(response) = application.clone().oneshot(request).await;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("an answer in memory").to_bytes();
    let is_json = bytes.is_empty() || serde_json::from_slice::<serde_json::Value>(&bytes).is_ok();
    let body = String::from_utf8_lossy(&bytes).into_owned();
    assert!(is_json || (400..500).contains(&status), "{status} {body} is no JSON");
    Some((status, body))
}
