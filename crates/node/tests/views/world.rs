//! A server that can be killed and started again on what it had stored, and nodes that follow it.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::*;
use node::bridge::OfPort;
use node::view::{self, Config, Facts, Link, ViewUpdate};
use server::views::Views;
use server::{Core, Tx, WriteError};
use store::{ChangesError, Commit, Memory, Op, Snapshot, Store, StoreError, TransactError, Transaction, Updates};
use stream::pki::Authority;
use stream::wire::Presence;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Everything that is waited for must be there by then.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Waits for `event`; the test fails with `what` if it does not come.
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, event).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// A store that survives its server, and whose log can be cut off.
#[derive(Default)]
pub struct Disk {
    memory: Memory,
    oldest: AtomicU64,
}

impl Disk {
    pub fn set_full(&self, is_full: bool) {
        self.memory.set_full(is_full);
    }
}

impl Disk {
    /// A store that is the same one and has lost everything.
    pub fn emptied(&self) -> Arc<Disk> {
        let emptied = Disk::default();
        let identity = self.load().unwrap().records.into_iter().find(|(name, _)| name == "store-id").unwrap();
        let ops = vec![Op::PutRecord(identity.0, identity.1)];
        emptied.transact(&Transaction { base: Revision::default(), ops }).unwrap();
        Arc::new(emptied)
    }

    /// A store that holds what this one holds now: a backup.
    pub fn copy(&self) -> Arc<Disk> {
        let (copy, snapshot) = (Disk::default(), self.load().unwrap());
        let records = snapshot.records.into_iter().map(|(name, bytes)| Op::PutRecord(name, bytes));
        let objects = snapshot.objects.into_iter().map(Op::Put);
        let ops = records.chain(objects).collect();
        copy.transact(&Transaction { base: Revision::default(), ops }).unwrap();
        Arc::new(copy)
    }
}

impl Store for Disk {
    fn load(&self) -> Result<Snapshot, StoreError> {
        self.memory.load()
    }

    fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        let oldest = Revision(self.oldest.load(Ordering::SeqCst));
        if from < oldest { Err(ChangesError::Compacted { oldest }) } else { self.memory.changes(from, most) }
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        self.memory.transact(transaction)
    }

    fn updates(&self, from: Revision, until: Revision) -> Result<Updates, StoreError> {
        self.memory.updates(from, until)
    }
}

/// What lasts: certificates, the store, and where the server listens.
pub struct World {
    pub dir: tempfile::TempDir,
    pub disk: Arc<Disk>,
    pub server: Server,
}

pub struct Server {
    pub core: Core,
    pub views: Views,
    pub address: SocketAddr,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Server {
    async fn start(dir: &std::path::Path, disk: Arc<Disk>, address: SocketAddr) -> Server {
        let credentials = Authority::open(dir).unwrap().server().unwrap();
        let listener = soon("the address is free", async {
            loop {
                match stream::Listener::bind(address, credentials.clone()).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        let listener = listener.await;
        let address = listener.address().unwrap();
        let core = Core::start(disk).unwrap();
        let (views, stop) = (Views::start(core.clone()), CancellationToken::new());
        let (serving, stopped) = (views.clone(), stop.clone().cancelled_owned());
        let task = tokio::spawn(async move { serving.serve(listener, stopped).await.unwrap() });
        Server { core, views, address, task, stop }
    }

    /// Puts objects in one transaction.
    pub async fn put(&self, objects: impl IntoIterator<Item = Object>) -> Revision {
        self.edit(objects.into_iter().map(|object| (object.key(), Some(object))).collect()).await
    }

    pub async fn delete(&self, objects: impl IntoIterator<Item = Object>) -> Revision {
        self.edit(objects.into_iter().map(|object| (object.key(), None)).collect()).await
    }

    async fn edit(&self, edits: Vec<(ObjectKey, Option<Object>)>) -> Revision {
        let write = move |tx: &mut Tx| {
            for (key, object) in edits.clone() {
                match object {
                    Some(object) => tx.put(object),
                    None => tx.delete(key),
                }
            }
            Ok::<(), WriteError>(())
        };
        self.core.write(write).await.unwrap().revision
    }

    /// Waits until the state is as `is_so` says.
    pub async fn until(&self, what: &str, is_so: impl Fn(&server::State) -> bool) {
        let (mut state, mut commits) = self.core.subscribe();
        let wait = async {
            while !is_so(&state) {
                let commit = commits.next().await.unwrap().unwrap();
                Arc::make_mut(&mut state).apply(&commit);
            }
        };
        soon(what, wait).await;
    }
}

impl World {
    pub async fn new() -> World {
        World::on(Arc::default()).await
    }

    /// With what `disk` holds.
    pub async fn on(disk: Arc<Disk>) -> World {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path(), disk.clone(), "127.0.0.1:0".parse().unwrap()).await;
        World { dir, disk, server }
    }

    /// The server is killed: nothing is said, nothing is finished. What was durable stays.
    pub async fn kill(&mut self) {
        self.server.task.abort();
        let _ = (&mut self.server.task).await;
    }

    /// Another server starts on what the killed one had stored.
    pub async fn start(&mut self) {
        self.server = Server::start(self.dir.path(), self.disk.clone(), self.server.address).await;
    }

    /// Stops the server in an orderly way.
    pub async fn stop(&mut self) {
        self.server.stop.cancel();
        let _ = (&mut self.server.task).await;
    }

    /// From now on the log does not reach back before `oldest`.
    pub fn compact(&self, oldest: Revision) {
        self.disk.oldest.store(oldest.0, Ordering::SeqCst);
    }

    pub fn config(&self, n: u32) -> Config {
        Config {
            node: name(n),
            tunnel_addresses: vec![std::net::Ipv4Addr::new(192, 0, 2, n as u8).into()],
            tunnel: TunnelType::Geneve,
            bridge: "br-test".into(),
            datapath: "netdev".into(),
            servers: vec![self.server.address.to_string()],
            credentials: Authority::open(self.dir.path()).unwrap().node(&name(n)).unwrap(),
            path: self.path(n),
        }
    }

    pub fn path(&self, n: u32) -> PathBuf {
        self.dir.path().join(format!("view-{n}"))
    }

    pub fn follow(&self, n: u32) -> Follower {
        Follower::new(self.config(n))
    }
}

/// A node: its link, and what its consumer has made of the updates.
pub struct Follower {
    pub link: Link,
    pub facts: watch::Sender<Option<Arc<Facts>>>,
    pub replica: BTreeMap<ObjectKey, Object>,
    pub updates: Vec<ViewUpdate>,
    pub revision: Revision,
}

impl Follower {
    pub fn new(config: Config) -> Follower {
        let (facts, seen) = watch::channel(None);
        Follower { link: view::follow(config, seen), facts, replica: BTreeMap::new(), updates: Vec::new(), revision: Revision::default() }
    }

    /// Takes the next update.
    pub async fn next(&mut self) -> &ViewUpdate {
        let update = soon("an update", self.link.updates.recv()).await.expect("the link lives");
        self.take(update)
    }

    /// Takes the updates that are there.
    pub fn take_ready(&mut self) {
        while let Ok(update) = self.link.updates.try_recv() {
            self.take(update);
        }
    }

    fn take(&mut self, update: ViewUpdate) -> &ViewUpdate {
        assert!(update.revision >= self.revision || update.is_complete_snapshot, "revisions go back with a snapshot only");
        assert!(update.is_complete_snapshot || !self.updates.is_empty(), "the first update is complete");
        self.revision = update.revision;
        for key in &update.removals {
            self.replica.remove(key);
        }
        for object in &update.upserts {
            self.replica.insert(object.key(), (**object).clone());
        }
        self.updates.push(update);
        self.updates.last().expect("pushed right above")
    }

    /// Takes updates until the replica is as `is_so` says.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&BTreeMap<ObjectKey, Object>) -> bool) {
        let wait = async {
            while !is_so(&self.replica) {
                self.next().await;
            }
        };
        soon(what, wait).await;
    }

    /// Takes updates until the replica is the node's view of `server`'s state, which goes on changing.
    pub async fn until_right(&mut self, n: u32, server: &Server) {
        let (_, mut commits) = server.core.subscribe();
        let wait = async {
            while self.replica != expected(&server.core.state(), &name(n)) {
                tokio::select! {
                    update = self.link.updates.recv() => { self.take(update.expect("the link lives")); }
                    commit = commits.next() => drop(commit.unwrap()),
                }
            }
        };
        soon("the view is the closure of the local ports", wait).await;
    }

    pub fn report(&self, present: &[u32], installed: &[u32], revision: Revision) {
        let present = present.iter().map(|n| (port_id(*n).to_string(), Presence::default())).collect();
        let installed = installed.iter().map(|n| (port_id(*n), OfPort(*n))).collect();
        self.facts.send_replace(Some(Arc::new(Facts { present, installed, revision, refused: 0 })));
    }

    /// The switch refuses so many flows, and does what it should by `revision`.
    pub fn report_refusing(&self, installed: &[u32], revision: Revision, refused: usize) {
        self.report(installed, installed, revision);
        self.facts.send_modify(|facts| {
            if let Some(facts) = facts {
                *facts = Arc::new(Facts { refused, ..(**facts).clone() });
            }
        });
    }
}

/// What the node must have, by definition.
pub fn expected(state: &server::State, node: &NodeName) -> BTreeMap<ObjectKey, Object> {
    let keys = server::views::closure(state, node);
    keys.into_iter().map(|key| (key, server::views::shown(state.object(key).unwrap()))).collect()
}

pub fn name(n: u32) -> NodeName {
    NodeName(format!("n{n}"))
}

fn id(kind: u128, n: u32) -> Uuid {
    Uuid::from_u128(kind << 64 | u128::from(n))
}

pub fn network(n: u32) -> Network {
    Network {
        id: NetworkId(id(1, n)),
        key: NetworkKey(n),
        project: ProjectId::default(),
        name: format!("net{n}"),
        description: String::new(),
        is_admin_up: true,
        is_shared: false,
        mtu: 1450,
        is_port_security_default: true,
        is_flooding: false,
        standard: Standard::default(),
    }
}

pub fn port_id(n: u32) -> PortId {
    PortId(id(3, n))
}

/// A port without a home.
pub fn port(n: u32, network: u32) -> Port {
    Port {
        id: port_id(n),
        key: PortKey(n),
        network: NetworkId(id(1, network)),
        project: ProjectId::default(),
        name: format!("port{n}"),
        description: String::new(),
        is_admin_up: true,
        mac: Mac::from_bits(n.into()),
        fixed_ips: vec![],
        address_pairs: vec![],
        is_port_security: true,
        security_groups: vec![],
        device_owner: "compute:nova".into(),
        device_id: String::new(),
        host: None,
        claimed_by: None,
        vnic_type: "normal".into(),
        dhcp_options: vec![],
        block: None,
        status: PortStatus::Down,
        standard: Standard::default(),
    }
}

pub fn vm(n: u32, network: u32, home: u32) -> Port {
    Port { host: Some(name(home)), ..port(n, network) }
}

pub fn interface(n: u32, network: u32, router: u32) -> Port {
    let device_id = RouterId(id(4, router)).to_string();
    Port { device_owner: owner::ROUTER_INTERFACE.into(), device_id, ..port(n, network) }
}

pub fn key(object: impl Into<Object>) -> ObjectKey {
    object.into().key()
}
