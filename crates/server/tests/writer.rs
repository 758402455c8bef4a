//! The one writer: nothing lost, nothing half done, nothing told before it is durable.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Deaf, World, network, plain, subnet};
use model::*;
use server::{Core, Tx, WriteError};
use store::{ChangesError, Commit, Op, Snapshot, Store, StoreError, TransactError, Transaction, Updates, Wake};
use uuid::Uuid;

/// A refusal of a closure's own, or the writer's.
#[derive(Debug, PartialEq)]
enum Refused {
    ByMe,
    Write(WriteError),
}

impl From<WriteError> for Refused {
    fn from(error: WriteError) -> Refused {
        Refused::Write(error)
    }
}

/// Adds one to a network's MTU.
fn add_one(tx: &mut Tx) -> Result<u16, Refused> {
    let mut network = tx.state().network(network(1).id).cloned().ok_or(Refused::ByMe)?;
    network.mtu += 1;
    tx.put(network.clone());
    Ok(network.mtu)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_lose_no_update_and_share_no_address_or_key() {
    let world = World::new();
    world.put(network(1)).await;
    world.put(subnet(&network(1), "10.0.0.0/22")).await;
    let writers: Vec<_> = (0..300)
        .map(|_| {
            let core = world.core.clone();
            tokio::spawn(async move {
                core.write(add_one).await.unwrap();
                core.write(|tx: &mut Tx| common::make_port(tx, &plain(network(1).id))).await.unwrap();
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let state = world.core.state();
    assert_eq!(state.network(network(1).id).unwrap().mtu, 1450 + 300);
    let unique = |values: Vec<String>| values.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(unique(state.all::<Port>().map(|port| port.fixed_ips[0].ip.to_string()).collect()), 300);
    assert_eq!(unique(state.all::<Port>().map(|port| port.key.to_string()).collect()), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn servers_on_one_store_lose_no_update_and_share_no_address_or_key() {
    const SERVERS: usize = 3;
    const WRITES: usize = 100;
    let first = World::new();
    first.put(network(1)).await;
    first.put(subnet(&network(1), "10.0.0.0/22")).await;
    let worlds: Vec<World> = (0..SERVERS).map(|_| first.restarted()).collect();
    let writers: Vec<_> = (0..SERVERS * WRITES)
        .map(|number| {
            let core = worlds[number % SERVERS].core.clone();
            tokio::spawn(async move {
                core.write(add_one).await.unwrap();
                let port = core.write(|tx: &mut Tx| common::make_port(tx, &plain(network(1).id))).await.unwrap().value;
                // What was freed by one server is known to the others.
                if number.is_multiple_of(2) {
                    let key = ObjectKey::new(Kind::Port, port.id);
                    core.write(move |tx: &mut Tx| Ok::<(), WriteError>(tx.delete(key))).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let latest = worlds.iter().map(|world| world.core.state().revision()).max().unwrap();
    for world in &worlds {
        common::soon("every server is at the latest revision", || world.core.state().revision() == latest).await;
    }
    let state = worlds[0].core.state();
    assert!(worlds.iter().all(|world| *world.core.state() == *state), "servers differ");
    assert_eq!(*worlds[0].restarted().core.state(), *state, "a server differs from its store");
    assert_eq!(state.network(network(1).id).unwrap().mtu as usize, 1450 + SERVERS * WRITES);
    let unique = |values: Vec<String>| values.iter().collect::<std::collections::BTreeSet<_>>().len();
    let left = SERVERS * WRITES / 2;
    assert_eq!(unique(state.all::<Port>().map(|port| port.fixed_ips[0].ip.to_string()).collect()), left);
    assert_eq!(unique(state.all::<Port>().map(|port| port.key.to_string()).collect()), left);
    let next = worlds[1].core.write(|tx: &mut Tx| tx.port_key()).await.unwrap().value;
    assert_eq!(next, PortKey(SERVERS as u32 * WRITES as u32 + 1), "every key was handed out once");
}

#[tokio::test]
async fn a_refusal_is_decided_on_the_latest_state() {
    let world = World::new();
    // It is not told of what others write, as when its watch is late.
    let late = Core::start(Arc::new(Deaf(world.store.clone()))).unwrap();
    world.put(network(1)).await;
    assert_eq!(late.write(add_one).await.unwrap().value, 1451);
}

#[tokio::test]
async fn a_server_that_missed_too_much_gets_there_in_one_step() {
    let world = World::new();
    let late = Core::start(Arc::new(Deaf(world.store.clone()))).unwrap();
    let (state, mut commits) = late.subscribe();
    let mut followed = (*state).clone();
    world.put(network(1)).await;
    world.put(network(2)).await;
    world.delete(ObjectKey::new(Kind::Network, network(2).id)).await;
    late.write(add_one).await.unwrap();
    while followed.revision() < late.state().revision() {
        followed.apply(&commits.next().await.unwrap().unwrap());
    }
    assert_eq!(followed, *late.state());
    assert_eq!(followed, *world.restarted().core.state());
}

/// A store that fails once to tell what others wrote.
struct Failing {
    memory: Arc<store::Memory>,
    failures: AtomicUsize,
}

impl Store for Failing {
    fn load(&self) -> Result<Snapshot, StoreError> {
        self.memory.load()
    }

    fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        self.memory.changes(from, most)
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        self.memory.transact(transaction)
    }

    fn updates(&self, from: Revision, until: Revision) -> Result<Updates, StoreError> {
        if self.failures.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(StoreError::Failed { doing: "a test", source: "on purpose".into() });
        }
        self.memory.updates(from, until)
    }

    fn on_update(&self, wake: Wake) {
        self.memory.on_update(wake);
    }
}

#[tokio::test]
async fn what_could_not_be_taken_in_is_asked_for_again_though_nobody_writes_again() {
    let world = World::new();
    let failing = Arc::new(Failing { memory: world.store.clone(), failures: AtomicUsize::new(0) });
    let late = Core::start(failing.clone()).unwrap();
    world.put(network(1)).await;
    common::soon("it knows what the other server wrote", || late.state().network(network(1).id).is_some()).await;
    assert_eq!(failing.failures.load(Ordering::SeqCst), 2, "asked for again once, after a while");
}

/// A store on which somebody else is always faster.
struct Busy(store::Memory);

impl Store for Busy {
    fn load(&self) -> Result<Snapshot, StoreError> {
        self.0.load()
    }

    fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        self.0.changes(from, most)
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        let other = Op::Put(Arc::new(network(9).into()));
        self.0.transact(&Transaction { base: self.0.load()?.revision, ops: vec![other] })?;
        self.0.transact(transaction)
    }
}

#[tokio::test]
async fn a_server_that_is_always_too_late_says_so_and_writes_nothing() {
    let memory = store::Memory::new();
    let record = Op::PutRecord("store-id".into(), store::encode_record(&StoreId(Uuid::from_u128(1))));
    memory.transact(&Transaction { base: Revision(0), ops: vec![record] }).unwrap();
    let core = Core::start(Arc::new(Busy(memory))).unwrap();
    assert_eq!(core.write(put_network(1)).await, Err(WriteError::Contended));
    assert!(core.state().network(network(1).id).is_none());
    assert_eq!(core.state().revision().0, 1 + u64::from(server::ATTEMPTS_MAX), "it has taken in what others wrote");
}

/// A shared store that tells when it is asked to write, and goes away then.
struct Away {
    memory: Arc<store::Memory>,
    asked: std::sync::mpsc::SyncSender<()>,
    leave: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Store for Away {
    fn load(&self) -> Result<Snapshot, StoreError> {
        self.memory.load()
    }

    fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        self.memory.changes(from, most)
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        self.asked.send(()).unwrap();
        match self.leave.lock().unwrap().recv() {
            Ok(()) => Err(TransactError::Unknown("it is away".into())),
            Err(_) => self.memory.transact(transaction),
        }
    }

    fn is_shared(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_behind_a_write_that_a_store_did_not_answer_is_not_kept_waiting_as_long_again() {
    let world = World::new();
    let ((asked, is_asked), (leave, left)) = (std::sync::mpsc::sync_channel(9), std::sync::mpsc::channel());
    let core = Core::start(Arc::new(Away { memory: world.store.clone(), asked, leave: left.into() })).unwrap();
    let first = tokio::spawn({
        let core = core.clone();
        async move { core.write(put_network(1)).await }
    });
    tokio::task::block_in_place(|| is_asked.recv().unwrap());
    // It is in the queue from the first look on.
    let second = core.write(put_network(2));
    tokio::pin!(second);
    assert!(futures::poll!(second.as_mut()).is_pending());
    leave.send(()).unwrap();
    let unknown = first.await.unwrap().unwrap_err();
    assert!(matches!(unknown, WriteError::StoreUnknown(_)), "{unknown}");
    assert_eq!(second.await, Err(WriteError::StoreAway));
    assert!(is_asked.try_recv().is_err(), "it was not asked to write the second");
    // Once it is back, it is.
    drop(leave);
    core.write(put_network(3)).await.unwrap();
}

#[tokio::test]
async fn a_closure_that_fails_leaves_nothing_behind() {
    let world = World::new();
    world.put(network(1)).await;
    let before = world.core.state();
    let result = world.core.write(|tx: &mut Tx| {
        add_one(tx)?;
        tx.delete(ObjectKey::new(Kind::Network, network(1).id));
        let _ = tx.network_key()?;
        Err::<(), _>(Refused::ByMe)
    });
    assert_eq!(result.await.unwrap_err(), Refused::ByMe);
    assert_eq!(*world.core.state(), *before);
    assert_eq!(*world.restarted().core.state(), *before);
    let key = world.core.write(|tx: &mut Tx| tx.network_key()).await.unwrap();
    assert_eq!(key.value, NetworkKey(1));
}

#[tokio::test]
async fn a_closure_that_panics_is_an_error_and_the_writer_goes_on() {
    let world = World::new();
    world.put(network(1)).await;
    let panicked = world.core.write(|tx: &mut Tx| {
        add_one(tx)?;
        if tx.state().revision() > Revision(0) {
            panic!("on purpose")
        }
        Ok::<(), Refused>(())
    });
    assert_eq!(panicked.await.unwrap_err(), Refused::Write(WriteError::Internal("on purpose".into())));
    assert_eq!(world.core.write(add_one).await.unwrap().value, 1451);
}

#[tokio::test]
async fn a_full_store_refuses_and_nothing_changes() {
    let world = World::new();
    world.put(network(1)).await;
    let before = world.core.state();
    world.store.set_full(true);
    assert_eq!(world.core.write(add_one).await.unwrap_err(), Refused::Write(WriteError::StoreFull));
    assert_eq!(*world.core.state(), *before);
    world.store.set_full(false);
    assert_eq!(world.core.write(add_one).await.unwrap().value, 1451);
}

#[tokio::test]
async fn keys_are_never_used_again() {
    let world = World::new();
    let one = world.core.write(|tx: &mut Tx| tx.port_key()).await.unwrap().value;
    let world = world.restarted();
    let two = world.core.write(|tx: &mut Tx| tx.port_key()).await.unwrap().value;
    assert_eq!((one, two), (PortKey(1), PortKey(2)));
}

#[tokio::test]
async fn subscribers_see_every_commit_once_and_in_order() {
    let world = World::new();
    world.put(network(1)).await;
    let (state, mut commits) = world.core.subscribe();
    let mut followed = (*state).clone();
    for _ in 0..50 {
        world.core.write(add_one).await.unwrap();
    }
    while followed.revision() < world.core.state().revision() {
        let commit = commits.next().await.unwrap().unwrap();
        assert_eq!(commit.revision.0, followed.revision().0 + 1);
        followed.apply(&commit);
    }
    assert_eq!(followed, *world.core.state());
    let told = world.core.changes(state.revision(), 50).await.unwrap();
    assert_eq!(told.len() as u64, followed.revision().0 - state.revision().0);
    let too_many = world.core.changes(state.revision(), 49).await;
    assert!(matches!(too_many, Err(ChangesError::TooMany { most: 49 })), "out of memory no more than out of the log: {too_many:?}");
}

#[tokio::test]
async fn a_subscriber_that_lags_is_told() {
    let world = World::new();
    world.put(network(1)).await;
    let (_, mut commits) = world.core.subscribe();
    let store_commits = server::LAG_MAX as u64 + 10;
    while world.core.state().revision().0 <= store_commits {
        world.core.write(add_one).await.unwrap();
    }
    assert!(commits.next().await.is_err());
}

/// A store that is slow and counts, so that closures gather.
struct Slow {
    inner: store::Memory,
    transactions: AtomicUsize,
    gate: std::sync::Mutex<()>,
}

impl Store for Slow {
    fn load(&self) -> Result<Snapshot, StoreError> {
        self.inner.load()
    }

    fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        self.inner.changes(from, most)
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        let _open = self.gate.lock().unwrap();
        self.transactions.fetch_add(1, Ordering::SeqCst);
        self.inner.transact(transaction)
    }
}

fn put_network(number: u128) -> impl FnMut(&mut Tx) -> Result<(), WriteError> {
    move |tx| {
        tx.put(network(number));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_together_are_one_transaction_and_the_queue_is_bounded() {
    let store = Arc::new(Slow { inner: store::Memory::new(), transactions: AtomicUsize::new(0), gate: std::sync::Mutex::new(()) });
    let core = Core::start(store.clone()).unwrap();
    let held = store.gate.lock().unwrap();
    let writes: Vec<_> = (0..server::QUEUE_MAX as u128 + server::BATCH_MAX as u128 + 10)
        .map(|number| {
            // Polled once, in order, so that all of them are in the queue or refused before the gate opens.
            let mut write = Box::pin({
                let core = core.clone();
                async move { core.write(put_network(number + 1)).await }
            });
            let waker = futures::task::noop_waker();
            let polled = write.as_mut().poll(&mut std::task::Context::from_waker(&waker));
            (write, polled)
        })
        .collect();
    drop(held);
    let (mut done, mut refused) = (0, 0);
    for (write, polled) in writes {
        match polled {
            std::task::Poll::Ready(result) => refused += usize::from(result == Err(WriteError::TooBusy)),
            std::task::Poll::Pending => done += usize::from(write.await.is_ok()),
        }
    }
    assert!(refused >= 10 && done >= server::QUEUE_MAX, "{refused} refused, {done} done");
    let transactions = store.transactions.load(Ordering::SeqCst);
    assert!(transactions <= done / server::BATCH_MAX + 3, "{transactions} transactions for {done} writes");
    assert_eq!(core.state().all::<Network>().count(), done);
}

#[tokio::test]
async fn what_is_answered_is_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let open = || store::Redb::open(&path, store::Options { reserve_bytes: 0, ..Default::default() });
    let core = Core::start(Arc::new(open().unwrap())).unwrap();
    for number in 1..=10 {
        core.write(put_network(number)).await.unwrap();
    }
    let state = core.state();
    drop(core);
    // The writer's thread ends on its own time.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    let store = loop {
        match open() {
            Ok(store) => break store,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(*Core::start(Arc::new(store)).unwrap().state(), *state);
    assert!(state.network(NetworkId(Uuid::from_u128(10))).is_some());
}

#[test]
fn every_refused_write_says_what_happened_what_it_means_and_what_to_do() {
    let failed = || store::StoreError::Failed { doing: "writing", source: "the disk is gone".into() };
    for error in [
        WriteError::TooBusy,
        WriteError::StoreFull,
        store::TransactError::from(failed()).into(),
        WriteError::KeysExhausted { kind: "port" },
        WriteError::Internal("a panic".into()),
        WriteError::Stopped,
    ] {
        assert_eq!(error.to_string().split("; ").count(), 3, "{error}");
    }
    let text = WriteError::from(store::TransactError::from(failed())).to_string();
    assert_eq!(text.matches("the disk is gone").count(), 1, "{text}");
}

#[test]
fn a_store_gets_one_identity_and_keeps_it() {
    let (store, other) = (Arc::new(store::Memory::new()), Arc::new(store::Memory::new()));
    let identity = |store: &Arc<store::Memory>| Core::start(store.clone()).unwrap().identity();
    let first = identity(&store);
    assert_eq!((identity(&store), store.load().unwrap().revision), (first, Revision(1)));
    assert_ne!(identity(&other), first);
}

#[test]
fn a_new_store_that_has_no_room_for_its_identity_is_not_served() {
    let store = Arc::new(store::Memory::new());
    store.set_full(true);
    let error = Core::start(store.clone()).err().expect("nodes could not tell it from theirs").to_string();
    assert!(error.contains("giving itself an identity: its disk is full") && error.split("; ").count() == 3, "{error}");
    store.set_full(false);
    let identity = Core::start(store.clone()).unwrap().identity();
    // One that has it is served, full or not.
    store.set_full(true);
    assert_eq!(Core::start(store).unwrap().identity(), identity);
}

#[test]
fn servers_that_start_on_a_new_store_at_once_agree_on_its_identity() {
    let store = Arc::new(store::Memory::new());
    let start = || {
        let store = store.clone();
        std::thread::spawn(move || Core::start(store).unwrap().identity())
    };
    let servers: Vec<_> = (0..8).map(|_| start()).collect();
    let identities: std::collections::BTreeSet<StoreId> = servers.into_iter().map(|server| server.join().unwrap()).collect();
    assert_eq!(identities.len(), 1);
}
