//! Streams as a node sees them on the wire: admission, slowness, a second stream of one node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{Object, Port, Revision};
use store::Memory;
use stream::pki::Authority;
use stream::wire::{Hello, Welcome, server_message::Body};
use stream::{Following, Target, VIEW_FORMAT};

use super::world::*;
use crate::views::owner::Message;
use crate::views::session::{connect, converse};
use crate::views::{FOLLOWERS_MAX, MESSAGES_MAX, RESUMES_AT_ONCE, SNAPSHOTS_AT_ONCE, Views, waiting_room};
use crate::writer::{Core, Tx, WriteError};

const DEADLINE: Duration = Duration::from_secs(120);

struct Served {
    dir: tempfile::TempDir,
    core: Core,
    views: Views,
    address: SocketAddr,
}

impl Served {
    async fn new(objects: Vec<Object>) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let credentials = Authority::open(dir.path()).unwrap().server().unwrap();
        let listener = stream::Listener::bind("127.0.0.1:0".parse().unwrap(), credentials).await.unwrap();
        let address = listener.address().unwrap();
        let core = Core::start(Arc::new(Memory::new())).unwrap();
        let views = Views::start(core.clone());
        let serving = views.clone();
        tokio::spawn(async move { serving.serve(listener, std::future::pending()).await });
        let served = Served { dir, core, views, address };
        served.put(objects).await;
        served
    }

    async fn put(&self, objects: Vec<Object>) -> Revision {
        let write = move |tx: &mut Tx| Ok::<_, WriteError>(objects.iter().cloned().for_each(|object| tx.put(object)));
        self.core.write(write).await.unwrap().revision
    }

    /// A node's stream, which has said which store it is of.
    async fn follow(&self, n: u32) -> Following {
        self.follow_with(n, &[]).await
    }

    async fn follow_with(&self, n: u32, addresses: &[&str]) -> Following {
        self.follow_as(hello(n, addresses), n).await
    }

    async fn follow_as(&self, hello: Hello, n: u32) -> Following {
        let target =
            Target { address: self.address.to_string(), credentials: Authority::open(self.dir.path()).unwrap().node(&name(n)).unwrap() };
        let mut following = stream::follow(&target, hello).await.unwrap();
        let store = self.core.identity().to_string();
        assert_eq!(next(&mut following).await, Body::Welcome(Welcome { store }));
        following
    }
}

fn hello(n: u32, addresses: &[&str]) -> Hello {
    let tunnel_addresses = addresses.iter().map(ToString::to_string).collect();
    Hello { node: name(n).0, view_format: VIEW_FORMAT, tunnel_addresses, ..Hello::default() }
}

async fn next(following: &mut Following) -> Body {
    let message = tokio::time::timeout(DEADLINE, following.inbound.message()).await.expect("a message");
    message.unwrap().expect("not the end").body.unwrap()
}

/// What it is told next, signs of life left out.
async fn news(following: &mut Following) -> Body {
    loop {
        match next(following).await {
            Body::Heartbeat(_) => {}
            body => return body,
        }
    }
}

async fn snapshot(following: &mut Following) {
    while !matches!(next(following).await, Body::SnapshotEnd(_)) {}
}

#[tokio::test]
async fn snapshots_are_admitted_a_few_at_a_time() {
    let served = Served::new(vec![network(1).into(), vm(11, 1, 1).into()]).await;
    let permits = served.views.snapshots.clone().acquire_many_owned(SNAPSHOTS_AT_ONCE as u32).await.unwrap();
    let mut following = served.follow(1).await;
    assert!(matches!(next(&mut following).await, Body::Heartbeat(_)), "it waits for its turn");
    served.put(vec![vm(12, 1, 2).into()]).await;
    drop(permits);
    assert!(matches!(news(&mut following).await, Body::SnapshotBegin(_)));
    snapshot(&mut following).await;
    // What happened meanwhile comes after it: the new port, and the node itself.
    assert!(matches!(news(&mut following).await, Body::Delta(delta) if delta.upserts.len() == 2 || delta.upserts.len() == 1));
}

#[tokio::test]
async fn nodes_are_compared_with_their_past_a_few_at_a_time() {
    let served = Served::new(vec![network(1).into(), vm(11, 1, 1).into()]).await;
    let permits = served.views.resumes.clone().acquire_many_owned(RESUMES_AT_ONCE as u32).await.unwrap();
    assert_eq!(served.views.resumes.available_permits(), 0);
    let revision = served.core.state().revision().0;
    let mut following = served.follow_as(Hello { revision, ..hello(1, &[]) }, 1).await;
    assert!(matches!(next(&mut following).await, Body::Heartbeat(_)), "it waits for its turn");
    drop(permits);
    // The hash is not its view's: the whole view follows.
    snapshot(&mut following).await;
}

#[tokio::test]
async fn what_waits_for_the_owner_is_bounded_and_whoever_has_more_waits() {
    let served = Served::new(vec![network(1).into()]).await;
    let ask = || {
        let (answer, answered) = tokio::sync::oneshot::channel();
        (Message::Ask { answer }, answered)
    };
    // The owner has its turn when this waits.
    let asked: Vec<_> = (0..MESSAGES_MAX)
        .map(|_| {
            let (message, answered) = ask();
            served.views.messages.try_send(message).unwrap_or_else(|_| panic!("there is room"));
            answered
        })
        .collect();
    assert!(served.views.messages.try_send(ask().0).is_err());
    assert!(served.views.picture().await.is_some(), "it waited until there was room");
    for answered in asked {
        assert!(answered.await.is_ok());
    }
}

#[tokio::test]
async fn a_node_that_waits_for_its_turn_hears_that_the_server_lives() {
    let served = Served::new(vec![network(1).into(), vm(11, 1, 1).into()]).await;
    let permits = served.views.snapshots.clone().acquire_many_owned(SNAPSHOTS_AT_ONCE as u32).await.unwrap();
    let mut following = served.follow(1).await;
    for _ in 0..2 {
        assert!(matches!(next(&mut following).await, Body::Heartbeat(heartbeat) if heartbeat.revision == 0), "and nothing of revisions");
    }
    drop(permits);
    assert!(matches!(news(&mut following).await, Body::SnapshotBegin(_)));
    snapshot(&mut following).await;
}

#[tokio::test]
async fn a_node_that_does_not_read_holds_up_nobody_and_gets_the_latest() {
    let served = Served::new(vec![network(1).into(), vm(11, 1, 1).into(), vm(12, 1, 2).into()]).await;
    let (mut slow, mut quick) = (served.follow(1).await, served.follow(2).await);
    snapshot(&mut slow).await;
    snapshot(&mut quick).await;
    let mut revision = Revision::default();
    for n in 0..200 {
        let description = format!("{n} {}", "x".repeat(50_000));
        revision = served.put(vec![Port { description, ..vm(11, 1, 1) }.into()]).await;
        while !matches!(next(&mut quick).await, Body::Delta(delta) if delta.to == revision.0) {}
    }
    let (mut deltas, mut last) = (0, None);
    while last != Some(revision.0) {
        if let Body::Delta(delta) = next(&mut slow).await {
            deltas += 1;
            last = Some(delta.to);
        }
    }
    assert!(deltas < 50, "{deltas} of 200: what waited was merged");
}

#[tokio::test]
async fn a_second_stream_of_one_node_takes_the_place_of_the_first() {
    let served = Served::new(vec![network(1).into(), vm(11, 1, 1).into()]).await;
    let mut first = served.follow(1).await;
    snapshot(&mut first).await;
    let mut second = served.follow(1).await;
    snapshot(&mut second).await;
    let end = async { while !matches!(next(&mut first).await, Body::Refused(refused) if refused.reason.contains("another stream")) {} };
    tokio::time::timeout(DEADLINE, end).await.unwrap();
    let picture = served.views.picture().await.unwrap();
    assert!(picture.nodes[&name(1)].is_connected);
}

#[tokio::test]
async fn so_many_nodes_wait_for_their_session_and_others_in_their_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path()).unwrap();
    let listener = stream::Listener::bind("127.0.0.1:0".parse().unwrap(), authority.server().unwrap()).await.unwrap();
    let address = listener.address().unwrap().to_string();
    let (sender, mut followers) = waiting_room();
    tokio::spawn(listener.run(sender, std::future::pending()));
    let mut nodes = Vec::new();
    for n in 0..=FOLLOWERS_MAX as u32 {
        let target = Target { address: address.clone(), credentials: authority.node(&name(n)).unwrap() };
        nodes.push(stream::follow(&target, hello(n, &[])).await.unwrap());
    }
    for _ in ["all but one", "that one, when another one's session has begun"] {
        let full = async {
            while followers.len() < FOLLOWERS_MAX {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, full).await.expect("they come");
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(followers.len(), FOLLOWERS_MAX);
        followers.recv().await.unwrap();
    }
}

#[tokio::test]
async fn a_hello_that_makes_no_sense_is_refused_with_the_reason() {
    let served = Served::new(vec![]).await;
    let target =
        Target { address: served.address.to_string(), credentials: Authority::open(served.dir.path()).unwrap().node(&name(1)).unwrap() };
    let hello = Hello { node: name(1).0, view_format: VIEW_FORMAT, tunnel: "gre".into(), ..Hello::default() };
    let mut following = stream::follow(&target, hello).await.unwrap();
    assert!(matches!(next(&mut following).await, Body::Refused(refused) if refused.reason.contains("'gre' is no tunnel type")));
}

#[tokio::test]
async fn a_node_that_says_anothers_tunnel_address_is_refused_until_that_one_is_forgotten() {
    let served = Served::new(vec![node(2).into()]).await;
    let address = node(2).tunnel_addresses[0].to_string();
    let refused = async |following: &mut Following, word: &str| {
        let body = next(following).await;
        assert!(matches!(&body, Body::Refused(refused) if refused.reason.contains(word)), "{body:?}");
    };
    refused(&mut served.follow_with(1, &["192.0.2.77", &address]).await, "is that of node n2").await;
    // One that is connected and not stored yet counts as well.
    let mut third = served.follow_with(3, &["192.0.2.99"]).await;
    snapshot(&mut third).await;
    refused(&mut served.follow_with(1, &["192.0.2.99"]).await, "is that of node n3").await;
    snapshot(&mut served.follow_with(2, &[&address]).await).await;
    // What n2 said of itself may be written once more after it was forgotten.
    let gone = async {
        loop {
            served.core.write(|tx: &mut Tx| Ok::<_, WriteError>(tx.delete(key(node(2))))).await.unwrap();
            let first = served.follow_with(1, &[&address]).await.inbound.message().await.unwrap().unwrap();
            if matches!(first.body, Some(Body::SnapshotBegin(_))) {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("the address is free");
}

#[tokio::test]
async fn a_stream_that_ends_by_a_fault_of_the_server_has_ended() {
    let served = Served::new(vec![network(1).into()]).await;
    let admission = connect(&served.views, node(1)).await.unwrap().unwrap();
    assert!(served.views.picture().await.unwrap().nodes[&name(1)].is_connected);
    let (views, session) = (served.views.clone(), admission.session);
    let fault = tokio::spawn(async move { converse(&views, &name(1), session, async { panic!("a test breaks the stream") }).await });
    assert!(fault.await.unwrap_err().is_panic());
    assert!(!served.views.picture().await.unwrap().nodes[&name(1)].is_connected);
}
