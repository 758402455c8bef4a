//! Several servers on one store: whose word about a node counts, and what a node that changes servers is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::http::Request;
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use model::{Node, NodeStream, Object, Port, PortStatus, Revision, StoreId};
use serde_json::Value;
use store::{ChangesError, Commit, Memory, Op, Snapshot, Store, StoreError, TransactError, Transaction, Updates, Wake};
use stream::pki::Authority;
use stream::wire::{Hello, Interface, Report, node_message, port_bytes, server_message::Body};
use stream::{Following, InterestHash, Target, VIEW_FORMAT};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use super::world::*;
use crate::auth::Caller;
use crate::views::owner::{self, Forgotten, Message, Owner, RETRY_AFTER, STRANGER_SECS_MAX};
use crate::views::routes::WAIT_SECS_MAX;
use crate::views::shown::Encoder;
use crate::views::{ByHand, Followed, STATUS_BATCH_MAX, Views, closure};
use crate::writer::{Core, Tx, WriteError, Writer};

const DEADLINE: Duration = Duration::from_secs(120);

/// A store that several servers share.
#[derive(Clone, Default)]
struct Shared(Arc<Memory>);

impl Store for Shared {
    fn load(&self) -> Result<Snapshot, StoreError> {
        self.0.load()
    }

    fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        self.0.changes(from, most)
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        self.0.transact(transaction)
    }

    fn updates(&self, from: Revision, until: Revision) -> Result<Updates, StoreError> {
        self.0.updates(from, until)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn on_update(&self, wake: Wake) {
        self.0.on_update(wake);
    }
}

impl Shared {
    /// What another server writes.
    fn put(&self, objects: impl IntoIterator<Item = Object>) -> Revision {
        let ops = objects.into_iter().map(|object| Op::Put(Arc::new(object))).collect();
        self.transact(&Transaction { base: self.load().unwrap().revision, ops }).unwrap()
    }
}

/// Node `n`, whose stream another server has.
fn elsewhere(n: u32) -> Node {
    Node { stream: Some(NodeStream { server: Uuid::from_u128(1), number: 1 }), ..node(n) }
}

/// A server that does nothing by itself.
struct Slow {
    store: Shared,
    core: Core,
    writer: Writer,
    views: ByHand,
}

impl Slow {
    fn start(objects: impl IntoIterator<Item = Object>) -> Slow {
        let store = Shared::default();
        let (core, writer) = Core::by_hand(Arc::new(store.clone()), Arc::new(Timestamp::now)).unwrap();
        let mut slow = Slow { views: ByHand::new(core.clone()), store, core, writer };
        slow.store.put(objects);
        slow.hear();
        slow
    }

    /// Takes in what others have written.
    fn hear(&mut self) {
        self.writer.turn();
        self.views.take_in(usize::MAX);
    }

    fn follow(&mut self, n: u32) -> Followed {
        let tunnel_addresses = node(n).tunnel_addresses.iter().map(ToString::to_string).collect();
        self.views.connect(&Hello { node: name(n).0, view_format: VIEW_FORMAT, tunnel_addresses, ..Hello::default() }).unwrap()
    }

    /// Writes what there is to write, after `meanwhile`.
    async fn write(&mut self, meanwhile: impl FnOnce(&Shared)) {
        let writing = tokio::spawn(self.views.write().expect("something is to be written"));
        meanwhile(&self.store);
        while !writing.is_finished() {
            self.writer.turn();
            tokio::task::yield_now().await;
        }
        self.views.wrote(writing.await.unwrap());
        self.hear();
    }

    fn status(&self) -> PortStatus {
        self.core.state().port(port_id(11)).unwrap().status
    }
}

/// How node 1 says who it is.
fn hello() -> Hello {
    Hello { node: name(1).0, view_format: VIEW_FORMAT, ..Hello::default() }
}

struct Server {
    core: Core,
    views: Views,
    address: SocketAddr,
}

impl Server {
    async fn start(dir: &std::path::Path, store: &Shared) -> Server {
        let credentials = Authority::open(dir).unwrap().server().unwrap();
        let listener = stream::Listener::bind("127.0.0.1:0".parse().unwrap(), credentials).await.unwrap();
        let address = listener.address().unwrap();
        let core = Core::start(Arc::new(store.clone())).unwrap();
        let views = Views::start(core.clone());
        let serving = views.clone();
        tokio::spawn(async move { serving.serve(listener, std::future::pending()).await });
        Server { core, views, address }
    }

    async fn put(&self, objects: Vec<Object>) -> Revision {
        let write = move |tx: &mut Tx| Ok::<_, WriteError>(objects.iter().cloned().for_each(|object| tx.put(object)));
        self.core.write(write).await.unwrap().revision
    }

    /// Node 1's stream, from where it stands.
    async fn follow(&self, dir: &std::path::Path, revision: Revision, hash: InterestHash) -> Following {
        let credentials = Authority::open(dir).unwrap().node(&name(1)).unwrap();
        let target = Target { address: self.address.to_string(), credentials };
        stream::follow(&target, Hello { revision: revision.0, interest_hash: hash.0, ..hello() }).await.unwrap()
    }

    fn port(&self) -> Port {
        self.core.state().port(port_id(11)).unwrap().clone()
    }

    fn status(&self) -> PortStatus {
        self.port().status
    }

    /// What an administrator is answered.
    async fn ask(&self, path: &str) -> Value {
        let router = crate::views::routes(self.views.clone(), CancellationToken::new());
        let router = router.layer(Extension(Caller { is_admin: true, ..Caller::default() }));
        let answer = router.oneshot(Request::get(path).body(axum::body::Body::empty()).unwrap()).await.unwrap();
        serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    async fn is_connected(&self) -> bool {
        self.views.picture().await.unwrap().nodes.get(&name(1)).is_some_and(|node| node.is_connected)
    }

    /// What `DELETE /ladon/v1/nodes/n1` does.
    async fn forget(&self) {
        let Some(Forgotten::Done(reports)) = self.views.forget(name(1)).await else { panic!("it is not connected here") };
        self.core.write(move |tx: &mut Tx| Ok::<_, WriteError>(owner::forget(tx, &name(1), &reports))).await.unwrap();
    }
}

/// Node 1 says that it has port 11's interface, and its flows or not.
async fn report(following: &Following, is_installed: bool) {
    let id = port_id(11);
    let installed = is_installed.then(|| id.0.as_bytes().to_vec().into());
    let present = vec![Interface { iface_id: id.to_string(), ..Interface::default() }];
    let report = Report { is_full: true, present, installed: installed.into_iter().collect(), ..Report::default() };
    following.outbound.send(node_message::Body::Report(report).into()).await.unwrap();
}

/// What it is told next, signs of life left out.
async fn next(following: &mut Following) -> Body {
    loop {
        let message = tokio::time::timeout(DEADLINE, following.inbound.message()).await.expect("a message");
        match message.unwrap().expect("not the end").body.unwrap() {
            Body::Heartbeat(_) => {}
            body => return body,
        }
    }
}

async fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    ask_until(what, async || is_so()).await;
}

/// The same, where the answer is to be waited for.
async fn ask_until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let seen = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, seen).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Until what they do because of `revision` has been done: each has taken it in, and again and again all that its owner and its
/// writer had to do then.
async fn settled(servers: &[&Server], revision: Revision) {
    for server in servers {
        let mut seen = server.views.revision.clone();
        tokio::time::timeout(DEADLINE, seen.wait_for(|seen| *seen >= revision)).await.expect("it is taken in").unwrap();
        for _ in 0..50 {
            server.views.picture().await.unwrap();
            server.core.write(|_: &mut Tx| Ok::<_, WriteError>(())).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_server_that_a_node_follows_decides_about_its_ports() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Shared::default());
    let (first, second) = (Server::start(dir.path(), &store).await, Server::start(dir.path(), &store).await);
    first.put(vec![network(1).into(), vm(11, 1, 1).into()]).await;
    let mut old = first.follow(dir.path(), Revision::default(), InterestHash(0)).await;
    report(&old, true).await;
    soon("both servers know that it is ACTIVE", || [&first, &second].iter().all(|server| server.status() == PortStatus::Active)).await;
    // The first server has not noticed yet that its stream leads nowhere.
    let new = second.follow(dir.path(), Revision::default(), InterestHash(0)).await;
    while !matches!(next(&mut old).await, Body::Refused(refused) if refused.reason.contains("another server")) {}
    report(&new, false).await;
    soon("both servers know that it is DOWN", || [&first, &second].iter().all(|server| server.status() == PortStatus::Down)).await;
    // A change of the port is no reason for the first one to say again what it once heard.
    let written =
        first.put(vec![Port { description: "changed".into(), ..first.core.state().port(port_id(11)).unwrap().clone() }.into()]).await;
    settled(&[&first, &second], written).await;
    assert_eq!((first.status(), first.core.state().revision()), (PortStatus::Down, written));
    report(&new, true).await;
    soon("it is ACTIVE again", || first.status() == PortStatus::Active).await;
    let pictures = (first.views.picture().await.unwrap(), second.views.picture().await.unwrap());
    assert_eq!(pictures.0.nodes[&name(1)].elsewhere.map(|stream| Some(stream.server)), Some(second.core.server()));
    assert!(pictures.1.nodes[&name(1)].elsewhere.is_none() && pictures.1.nodes[&name(1)].is_connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_one_server_forgets_is_forgotten_by_the_one_that_it_followed() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Shared::default());
    let (first, second) = (Server::start(dir.path(), &store).await, Server::start(dir.path(), &store).await);
    first.put(vec![network(1).into(), port(11, 1).into()]).await;
    let following = first.follow(dir.path(), Revision::default(), InterestHash(0)).await;
    report(&following, true).await;
    soon("it is claimed and ACTIVE", || second.port().claimed_by == Some(name(1)) && second.status() == PortStatus::Active).await;
    drop(following);
    ask_until("the first one sees the stream's end", async || !first.is_connected().await).await;
    second.forget().await;
    let is_free = |server: &&Server| server.core.state().node(&name(1)).is_none() && server.port() == port(11, 1);
    soon("both servers know that it is free", || [&first, &second].iter().all(is_free)).await;
    let forgotten = second.core.state().revision();
    settled(&[&first, &second], forgotten).await;
    let after = [&first, &second].map(|server| (server.core.state().revision(), server.port()));
    assert_eq!(after, [(forgotten, port(11, 1)), (forgotten, port(11, 1))], "nobody writes what it once heard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_changes_servers_is_told_what_changed_and_nothing_else() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Shared::default());
    let first = Server::start(dir.path(), &store).await;
    // Which stream it follows is written, and no news for the node.
    let known = Node::try_from(&hello()).unwrap();
    first.put(vec![known.into(), network(1).into(), vm(11, 1, 1).into(), vm(12, 1, 1).into()]).await;
    let mut following = first.follow(dir.path(), Revision::default(), InterestHash(0)).await;
    let (revision, hash) = loop {
        if let Body::SnapshotEnd(end) = next(&mut following).await {
            break (Revision(end.revision), InterestHash(end.interest_hash));
        }
    };
    assert_eq!(hash, InterestHash::of(&closure(&first.core.state(), &name(1))));
    drop(following);
    first.put(vec![Port { description: "changed".into(), is_admin_up: false, ..vm(11, 1, 1) }.into()]).await;
    for server in [Server::start(dir.path(), &store).await, first] {
        let mut following = server.follow(dir.path(), revision, hash).await;
        assert!(matches!(next(&mut following).await, Body::Welcome(_)));
        let Body::Delta(delta) = next(&mut following).await else { panic!("everything is told again") };
        assert_eq!((delta.upserts.len(), delta.removals.len()), (1, 0), "the port");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_node_that_follows_another_server_nothing_is_guessed() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Shared::default());
    let server = Server::start(dir.path(), &store).await;
    server.put(vec![network(1).into(), vm(11, 1, 1).into(), node(1).into(), elsewhere(2).into(), elsewhere(3).into()]).await;
    server.put(vec![vm(12, 1, 3).into()]).await;
    // The second has no ports: nothing can be in force there or not.
    let elsewhere_in = |answer: &Value| answer["elsewhere"].as_array().unwrap().iter().map(|row| row["node"].clone()).collect::<Vec<_>>();
    let wait = "/ladon/v1/wait?timeout=0";
    ask_until("the third node's server is to be asked", async || elsewhere_in(&server.ask(wait).await) == ["n3"]).await;
    let nodes = server.ask("/ladon/v1/nodes").await["nodes"].clone();
    let known = ["is_connected", "is_up_to_date", "revision_in_force", "interfaces"];
    let nothing = |row: &Value| known.iter().all(|key| row[key].is_null());
    assert!(!known.iter().any(|key| nodes[0][key].is_null()) && nodes[0]["elsewhere"].is_null(), "{nodes}");
    assert!(nothing(&nodes[1]) && nothing(&nodes[2]) && !nodes[1]["elsewhere"].is_null(), "{nodes}");
    // Without any port there, nobody is waited for.
    server.put(vec![Port { is_admin_up: false, host: None, ..vm(12, 1, 3) }.into(), Port { host: None, ..vm(11, 1, 1) }.into()]).await;
    ask_until("all is in force", async || server.ask(wait).await["is_in_force"] == true).await;
}

#[tokio::test]
async fn what_another_server_said_of_its_port_meanwhile_is_not_overwritten_because_the_port_moved_there() {
    let active = |home| Object::from(Port { status: PortStatus::Active, ..vm(11, 1, home) });
    let mut slow = Slow::start([network(1).into(), elsewhere(2).into(), active(1)]);
    slow.store.put([active(2)]);
    slow.hear();
    slow.write(|store| {
        store.put([vm(11, 1, 2).into()]);
        store.put([active(2)]);
    })
    .await;
    assert_eq!(slow.status(), PortStatus::Active);
    // Where nobody says anything, a port that moved is DOWN.
    let mut slow = Slow::start([network(1).into(), elsewhere(2).into(), active(1)]);
    slow.store.put([active(2)]);
    slow.hear();
    slow.write(|_| {}).await;
    assert_eq!(slow.status(), PortStatus::Down);
}

#[tokio::test]
async fn a_node_that_was_forgotten_while_commits_were_missed_is_forgotten() {
    let mut slow = Slow::start([network(1).into(), vm(11, 1, 1).into()]);
    let followed = slow.follow(1);
    slow.views.report(&followed, &Report { is_full: true, installed: vec![port_bytes(port_id(11))], ..Report::default() });
    slow.write(|_| {}).await;
    assert_eq!(slow.status(), PortStatus::Active);
    slow.views.disconnect(followed);
    let ops = vec![Op::Delete(key(node(1))), Op::Put(Arc::new(vm(11, 1, 1).into()))];
    slow.store.transact(&Transaction { base: slow.store.load().unwrap().revision, ops }).unwrap();
    slow.writer.turn();
    slow.views.miss_commits();
    assert!(slow.views.write().is_none(), "there is nothing to say of its ports");
}

#[tokio::test]
async fn of_two_nodes_that_come_to_two_servers_at_once_with_one_address_the_later_is_turned_away() {
    let mut slow = Slow::start([network(1).into()]);
    let mut followed = slow.follow(2);
    assert_eq!(slow.views.say(&mut followed), Ok(vec![]));
    let first = Node { tunnel_addresses: node(2).tunnel_addresses, ..elsewhere(1) };
    slow.write(|store| _ = store.put([first.into()])).await;
    assert!(slow.core.state().node(&name(1)).is_some() && slow.core.state().node(&name(2)).is_none());
    let reason = slow.views.say(&mut followed).unwrap_err();
    assert!(reason.contains("is that of node n1"), "{reason}");
}

#[tokio::test]
async fn no_transaction_is_larger_however_many_nodes_come_at_once_and_nodes_come_before_their_ports() {
    const NODES: u32 = 2 * STATUS_BATCH_MAX as u32;
    let mut slow = Slow::start([network(1).into()]);
    slow.store.put((1..=NODES).map(|n| vm(n, 1, n).into()));
    slow.hear();
    for n in 1..=NODES {
        let followed = slow.follow(n);
        let report = Report { is_full: true, installed: vec![port_bytes(port_id(n))], ..Report::default() };
        slow.views.report(&followed, &report);
    }
    let before = slow.store.load().unwrap().revision;
    for _ in 0..2 * NODES as usize / STATUS_BATCH_MAX {
        slow.write(|_| {}).await;
    }
    let commits = slow.store.changes(before, usize::MAX).unwrap();
    assert_eq!(commits.iter().map(|commit| commit.changes.len()).collect::<Vec<_>>(), [STATUS_BATCH_MAX; 4]);
    let is_of_nodes = |commit: &Commit| commit.changes.iter().all(|change| change.key.kind == model::Kind::Node);
    assert_eq!(commits.iter().map(is_of_nodes).collect::<Vec<_>>(), [true, true, false, false]);
    assert!(slow.views.write().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_is_tried_again_after_a_pause() {
    let store = Shared::default();
    let (core, mut writer) = Core::by_hand(Arc::new(store.clone()), Arc::new(Timestamp::now)).unwrap();
    let (messages, inbox) = mpsc::channel(9);
    let (owner, _) = Owner::new(core.clone(), inbox, messages.downgrade(), Arc::new(Encoder::default()));
    tokio::spawn(owner.run());
    store.0.set_full(true);
    let (answer, answered) = oneshot::channel();
    messages.send(Message::Connect { facts: node(1), answer }).await.unwrap_or_else(|_| panic!("it runs"));
    answered.await.unwrap().unwrap();
    let begun = tokio::time::Instant::now();
    // The pauses of the one who looks do not count.
    let mut tried = Vec::new();
    while tried.len() < 3 {
        if writer.turn() > 0 {
            tried.push(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for (pause, tried) in [RETRY_AFTER, 2 * RETRY_AFTER].into_iter().zip(tried.windows(2)) {
        assert!(tried[1] - tried[0] >= pause && tried[1] - tried[0] < 2 * pause, "{tried:?}");
    }
    store.0.set_full(false);
    while core.state().node(&name(1)).is_none() {
        writer.turn();
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

#[tokio::test]
async fn no_question_of_wait_is_held_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &Shared::default()).await;
    let answer = server.ask(&format!("/ladon/v1/wait?timeout={}", WAIT_SECS_MAX + 1)).await;
    assert!(answer.to_string().contains("timeout=601: give at most 600 seconds"), "{answer}");
    assert_eq!(server.ask(&format!("/ladon/v1/wait?timeout={WAIT_SECS_MAX}")).await["is_in_force"], true);
}

#[tokio::test]
async fn a_node_of_another_store_is_listed_for_a_day_and_not_once_it_follows_this_one() {
    let store = Shared::default();
    let (core, mut writer) = Core::by_hand(Arc::new(store.clone()), Arc::new(Timestamp::now)).unwrap();
    let (messages, inbox) = mpsc::channel(1);
    let (mut owner, _) = Owner::new(core, inbox, messages.downgrade(), Arc::new(Encoder::default()));
    let strangers = |owner: &mut Owner| {
        let (answer, mut answered) = oneshot::channel();
        owner.message(Message::Ask { answer });
        answered.try_recv().unwrap_or_else(|_| panic!("it answers at once")).strangers.into_keys().collect::<Vec<_>>()
    };
    for n in [1, 2] {
        owner.message(Message::Stranger { facts: node(n), store: StoreId(Uuid::from_u128(7)) });
    }
    assert_eq!(strangers(&mut owner), [name(1), name(2)]);
    store.put([elsewhere(1).into()]);
    writer.turn();
    owner.take_in(1);
    assert_eq!(strangers(&mut owner), [name(2)]);
    owner.forget_strangers(Timestamp::now() + SignedDuration::from_secs(STRANGER_SECS_MAX));
    assert!(strangers(&mut owner).is_empty());
}

#[tokio::test]
async fn what_was_deleted_is_not_kept_for_the_next_node() {
    let store = Shared::default();
    let (core, mut writer) = Core::by_hand(Arc::new(store.clone()), Arc::new(Timestamp::now)).unwrap();
    let (messages, inbox) = mpsc::channel(1);
    let encoder = Arc::new(Encoder::default());
    let (mut owner, _) = Owner::new(core, inbox, messages.downgrade(), encoder.clone());
    assert!(owner.connect(node(1)).is_ok());
    let port = vm(11, 1, 1);
    store.put([network(1).into(), port.clone().into()]);
    writer.turn();
    owner.take_in(1);
    assert!(encoder.keeps(key(port.clone())));
    let ops = vec![Op::Delete(key(port.clone()))];
    store.transact(&Transaction { base: store.load().unwrap().revision, ops }).unwrap();
    writer.turn();
    owner.take_in(1);
    assert!(!encoder.keeps(key(port)));
}

#[tokio::test]
async fn who_waits_hears_that_the_server_stops() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &Shared::default()).await;
    let stop = CancellationToken::new();
    let router = crate::views::routes(server.views.clone(), stop.clone());
    let router = router.layer(Extension(Caller { is_admin: true, ..Caller::default() }));
    let request = Request::get("/ladon/v1/wait?revision=1000&timeout=60").body(axum::body::Body::empty()).unwrap();
    let mut waiting = std::pin::pin!(router.oneshot(request));
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting.as_mut()).await.is_err(), "it waits");
    stop.cancel();
    assert_eq!(waiting.await.unwrap().status(), 503);
}

#[tokio::test]
async fn an_operator_is_told_the_ports_of_one_node_or_all() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &Shared::default()).await;
    let revision = server.put(vec![network(1).into(), vm(11, 1, 1).into(), vm(12, 1, 2).into(), vm(13, 1, 1).into()]).await;
    let mut heard = server.views.revision.clone();
    heard.wait_for(|heard| *heard >= revision).await.unwrap();
    for (node, ports) in [("?node=n1", vec![11, 13]), ("?node=n2", vec![12]), ("", vec![11, 12, 13])] {
        let answer = server.ask(&format!("/ladon/v1/ports{node}")).await;
        let told: Vec<_> = answer["ports"].as_array().unwrap().iter().map(|port| port["id"].as_str().unwrap()).collect();
        assert_eq!(told, ports.into_iter().map(|n| port_id(n).to_string()).collect::<Vec<_>>(), "{node}");
    }
    assert_eq!(server.ask("/ladon/v1/ports?node=n3").await["error"]["message"], "no node named n3 is known");
}
