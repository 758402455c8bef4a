//! Several servers on one store: whose word about a node counts, and what a node that changes servers is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{Object, Port, PortStatus, Revision};
use store::{ChangesError, Commit, Memory, Snapshot, Store, StoreError, TransactError, Transaction, Updates, Wake};
use stream::pki::Authority;
use stream::wire::{Hello, Interface, Report, node_message, server_message::Body};
use stream::{Following, InterestHash, Target, VIEW_FORMAT};

use super::world::*;
use crate::views::owner::{self, Forgotten};
use crate::views::{Views, closure};
use crate::writer::{Core, Tx, WriteError};

const DEADLINE: Duration = Duration::from_secs(30);
/// Long enough to see that something does not happen.
const MOMENT: Duration = Duration::from_millis(300);

/// A store that several servers share.
#[derive(Clone, Default)]
struct Shared(Arc<Memory>);

impl Store for Shared {
    fn load(&self) -> Result<Snapshot, StoreError> {
        self.0.load()
    }

    fn changes(&self, from: Revision) -> Result<Vec<Commit>, ChangesError> {
        self.0.changes(from)
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
        let hello = Hello { node: name(1).0, view_format: VIEW_FORMAT, revision: revision.0, interest_hash: hash.0, ..Hello::default() };
        stream::follow(&target, hello).await.unwrap()
    }

    fn port(&self) -> Port {
        self.core.state().port(port_id(11)).unwrap().clone()
    }

    fn status(&self) -> PortStatus {
        self.port().status
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

async fn next(following: &mut Following) -> Body {
    let message = tokio::time::timeout(DEADLINE, following.inbound.message()).await.expect("a message");
    message.unwrap().expect("not the end").body.unwrap()
}

async fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let seen = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, seen).await.unwrap_or_else(|_| panic!("{what}"));
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
    tokio::time::sleep(MOMENT).await;
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
    while first.is_connected().await {}
    second.forget().await;
    let is_free = |server: &&Server| server.core.state().node(&name(1)).is_none() && server.port() == port(11, 1);
    soon("both servers know that it is free", || [&first, &second].iter().all(is_free)).await;
    let forgotten = second.core.state().revision();
    tokio::time::sleep(MOMENT).await;
    let after = [&first, &second].map(|server| (server.core.state().revision(), server.port()));
    assert_eq!(after, [(forgotten, port(11, 1)), (forgotten, port(11, 1))], "nobody writes what it once heard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_changes_servers_is_told_what_changed_and_nothing_else() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Shared::default());
    let first = Server::start(dir.path(), &store).await;
    first.put(vec![network(1).into(), vm(11, 1, 1).into(), vm(12, 1, 1).into()]).await;
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
        let Body::Delta(delta) = next(&mut following).await else { panic!("everything is told again") };
        assert!((1..=2).contains(&delta.upserts.len()) && delta.removals.is_empty(), "the port, and perhaps the node itself");
    }
}
