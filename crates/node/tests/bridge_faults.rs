//! The link against servers that are absent, silent, or send nonsense: stand-ins, because a real one does none of it.

use node::bridge::{BridgeError, BridgeSpec, Connection, Link, Settings};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// On the paused clock of the tests that use it, or in real time far more than needed.
const DEADLINE: Duration = Duration::from_secs(120);

fn settings(dir: &TempDir) -> Settings {
    Settings::new(dir.path().join("db.sock"))
}

/// The reason that the link gives once it holds `part`.
async fn reason(link: &Link, part: &str) {
    let mut states = link.connection();
    let wanted = |state: &Connection| matches!(state, Connection::Disconnected { reason } if reason.contains(part));
    if timeout(DEADLINE, states.wait_for(wanted)).await.is_err() {
        panic!("never {part:?}; now {:?}", link.connection().borrow());
    }
}

/// Reads until the peer has sent `part`.
async fn read_until(stream: &mut UnixStream, part: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(part) {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "closed before {part:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_server_a_request_is_given_up_with_that_reason() {
    let dir = TempDir::new().unwrap();
    let link = Link::start(settings(&dir));
    let error = link.ensure_bridge(BridgeSpec::new("br-int")).await.unwrap_err();
    assert!(matches!(&error, BridgeError::Deadline { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "bridge br-int: no connection to ovsdb-server (is it running, and is the socket's path right?) after 10 s"
    );
    assert!(link.interfaces().borrow().is_none(), "unknown is not the same as none");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up() {
    let dir = TempDir::new().unwrap();
    let _listener = UnixListener::bind(dir.path().join("db.sock")).unwrap();
    let link = Link::start(settings(&dir));
    reason(&link, "did not answer").await;
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_not_the_link() {
    let dir = TempDir::new().unwrap();
    let listener = UnixListener::bind(dir.path().join("db.sock")).unwrap();
    let link = Link::start(settings(&dir));
    for (nonsense, why) in [
        ("HTTP/1.1 400 Bad Request", "JSON-RPC message is an object"),
        (r#"{"id":1,"result":{"name":"Open_vSwitch"},"error":null}"#, "expected the schema's tables"),
        (r#"{"id":1,"result":null,"error":"unknown database"}"#, "refused get_schema"),
    ] {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "get_schema").await;
        stream.write_all(nonsense.as_bytes()).await.unwrap();
        reason(&link, why).await;
    }
}

#[tokio::test]
async fn an_echo_is_answered_even_while_opening() {
    let dir = TempDir::new().unwrap();
    let listener = UnixListener::bind(dir.path().join("db.sock")).unwrap();
    let _link = Link::start(settings(&dir));
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "get_schema").await;
    stream.write_all(br#"{"id":"echo","method":"echo","params":["are you there"]}"#).await.unwrap();
    timeout(DEADLINE, read_until(&mut stream, "are you there")).await.unwrap();
}

#[tokio::test]
async fn the_link_ends_with_its_last_handle() {
    let dir = TempDir::new().unwrap();
    let listener = UnixListener::bind(dir.path().join("db.sock")).unwrap();
    let link = Link::start(settings(&dir));
    let (mut stream, _) = listener.accept().await.unwrap();
    drop(link);
    let mut rest = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
}

/// Lets the link open, on an empty database with Open vSwitch's schema.
async fn opened(listener: &UnixListener) -> UnixStream {
    let schema = std::fs::read_to_string("/usr/share/openvswitch/vswitch.ovsschema").unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "get_schema").await;
    let reply = format!(r#"{{"id":1,"result":{schema},"error":null}}"#);
    stream.write_all(reply.as_bytes()).await.unwrap();
    read_until(&mut stream, "monitor_cond_since").await;
    let reply = r#"{"id":2,"result":[false,"00000000-0000-0000-0000-000000000000",{}],"error":null}"#;
    stream.write_all(reply.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_probed_and_given_up_only_if_it_stays_silent() {
    let dir = TempDir::new().unwrap();
    let listener = UnixListener::bind(dir.path().join("db.sock")).unwrap();
    let link = Link::start(settings(&dir));
    let mut stream = opened(&listener).await;
    read_until(&mut stream, r#""method":"echo""#).await;
    stream.write_all(br#"{"id":3,"result":[],"error":null}"#).await.unwrap();
    read_until(&mut stream, r#""method":"echo""#).await;
    assert_eq!(*link.connection().borrow(), Connection::Connected);
    reason(&link, "did not answer within 30 s").await;
}

#[tokio::test]
async fn an_update_that_does_not_fit_starts_a_new_replica() {
    let dir = TempDir::new().unwrap();
    let listener = UnixListener::bind(dir.path().join("db.sock")).unwrap();
    let link = Link::start(settings(&dir));
    let mut stream = opened(&listener).await;
    let row = "6e5d54f5-d4bb-4a3d-8ee1-4b1d8e3c2a10";
    let update = format!(r#"{{"id":null,"method":"update3","params":["ladon","{row}",{{"Port":{{"{row}":{{"modify":{{}}}}}}}}]}}"#);
    stream.write_all(update.as_bytes()).await.unwrap();
    reason(&link, "the replica does not have it").await;
    opened(&listener).await;
}
