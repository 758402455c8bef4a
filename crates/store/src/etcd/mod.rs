//! The store on an etcd cluster (v3 API): several servers, each of which sees what the others commit.
//!
//! ```text
//!  transact ──▶ one etcd transaction: if head is as I know it { head := next revision; put, delete … }      ──▶ the moment of commit
//!   (large)  ──▶ parts …, then one etcd transaction: if head … { head := next revision, in n parts }        ──▶ the moment of commit
//!                then the parts' operations on their own keys; head := the same revision, parts removed
//!  updates  ◀── one watch on everything: each change of head is a transaction, with all that changed at the same etcd revision
//! ```
//!
//! The revision is Ladon's own count, in the key `head` (`layout`). Every transaction compares the etcd revision at which `head` was
//! last written, so that no two are computed on the same state and etcd's own count does not matter. Whoever finds a committed
//! transaction whose parts are not applied, because its writer was killed, applies them before it commits anything; `load` reads
//! them as if they were. A commit whose answer was lost is tried again with the same name: it can be done once only, and `head`
//! tells whose transaction made which revision.
//!
//! The history that `changes` tells is etcd's own: as far back as the cluster keeps it. There are no leases.

mod client;
mod commit;
mod follow;
mod history;
mod layout;
mod listing;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::Revision;
use prost::Message;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{ChangesError, Commit, DecodeError, Op, Snapshot, Store, StoreError, TransactError, Transaction, Updates, Wake};

pub use client::EtcdOptions;
use client::{Client, Failure};
use follow::Following;
use layout::{Head, Layout};
use wire::{RangeRequest, RangeResponse};

tokio::task_local! {
    /// When the calls of one piece of work are no longer tried again, all of them together: whoever waits for it waits for their sum.
    static UNTIL: Instant;
}

/// A call is tried again, at every member, for so long.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
/// What others wrote is read for so long: the server asks for it again, and its own writes wait meanwhile.
const UPDATES_TIMEOUT: Duration = Duration::from_secs(3);
/// Pauses between attempts once every member was tried.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between attempts.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Threads for the connection and the watch.
const THREADS: usize = 2;

/// A store in an etcd cluster.
pub struct Etcd {
    cluster: Arc<Cluster>,
    runtime: Option<Runtime>,
}

/// The cluster, and what is known of it.
struct Cluster {
    client: Client,
    layout: Layout,
    shared: Mutex<Shared>,
    /// Moves when `shared` has changed.
    moved: watch::Sender<()>,
}

#[derive(Default)]
struct Shared {
    known: Option<Known>,
    loaded: Option<Loaded>,
    following: Option<Following>,
    wakes: Vec<Wake>,
}

/// `head` as it was last seen, and etcd's revision at which it was written; 0: it was never written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Known {
    head: Head,
    modified: i64,
}

/// What a snapshot shows.
#[derive(Clone, Copy, Debug)]
struct Loaded {
    revision: Revision,
    /// Etcd's revision.
    at: i64,
}

/// Why something cannot be done with what is in etcd.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Etcd(#[from] Failure),
    #[error(transparent)]
    Corrupt(#[from] DecodeError),
    #[error("{0}")]
    Broken(String),
    #[error("etcd has gone back from revision {from} to {to}")]
    WentBack { from: Revision, to: Revision },
}

impl Problem {
    fn is_compacted(&self) -> bool {
        matches!(self, Problem::Etcd(Failure::Compacted))
    }

    fn while_(self, doing: &'static str) -> StoreError {
        match self {
            Problem::Corrupt(error) => error.into(),
            Problem::WentBack { from, to } => StoreError::WentBack { from, to },
            other => StoreError::Failed { doing, source: other.into() },
        }
    }
}

impl Etcd {
    /// The store in the cluster that `options` name. Nothing is asked yet.
    pub fn new(options: EtcdOptions) -> std::io::Result<Etcd> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).thread_name("ladon-etcd").enable_all().build()?;
        // Two providers are compiled in through our dependencies: say which. One that was chosen before is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let layout = Layout::new(&options.prefix);
        let cluster = Cluster { client: Client::new(options), layout, shared: Mutex::default(), moved: watch::Sender::default() };
        Ok(Etcd { cluster: Arc::new(cluster), runtime: Some(runtime) })
    }

    /// Has etcd forget what is older than `keep`: every revision in between of everybody's keys, which cannot be read any more. What
    /// is there stays. Nodes that were away for longer get snapshots.
    pub fn forget_history(&self, keep: Duration) -> Result<(), StoreError> {
        self.wait(move |cluster| async move { cluster.forget(keep).await })?.map_err(|problem| problem.while_("compacting etcd"))
    }

    /// Runs `work` on the store's own threads and blocks until it is done.
    fn wait<T, F>(&self, work: impl FnOnce(Arc<Cluster>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let work = work(self.cluster.clone());
        let runtime = self.runtime.as_ref().expect("it is there until the store is dropped");
        runtime.spawn(async move { drop(answer.send(work.await)) });
        answered.recv().map_err(|source| StoreError::Failed { doing: "asking etcd", source: source.into() })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // Waiting is not allowed where futures run.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl Store for Etcd {
    fn load(&self) -> Result<Snapshot, StoreError> {
        self.wait(|cluster| async move { cluster.load().await })?.map_err(|problem| problem.while_("reading etcd"))
    }

    fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        self.wait(move |cluster| async move { cluster.changes(from, most).await })?
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        let (base, entries) = (transaction.base, transaction.ops.iter().map(layout::entry).collect());
        let until = Instant::now() + RETRY_TIMEOUT;
        self.wait(move |cluster| UNTIL.scope(until, async move { cluster.transact(base, Revision(base.0 + 1), entries).await }))?
    }

    fn fill(&self, snapshot: &Snapshot) -> Result<(), TransactError> {
        let objects = snapshot.objects.iter().map(|object| Op::Put(object.clone()));
        let records = snapshot.records.iter().map(|(name, bytes)| Op::PutRecord(name.clone(), bytes.clone()));
        let entries = objects.chain(records).map(|op| layout::entry(&op)).collect();
        let revision = snapshot.revision;
        self.wait(move |cluster| async move { cluster.transact(Revision::default(), revision, entries).await })?.map(drop)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn updates(&self, from: Revision, until: Revision) -> Result<Updates, StoreError> {
        let moment = Instant::now() + UPDATES_TIMEOUT;
        self.wait(move |cluster| UNTIL.scope(moment, async move { cluster.updates(from, until).await }))?
            .map_err(|problem| problem.while_("reading what others wrote to etcd"))
    }

    fn on_update(&self, wake: Wake) {
        self.cluster.shared().wakes.push(wake);
        // The watch is a task of the store's threads, so it is begun there.
        drop(self.wait(|cluster| async move {
            cluster.begin_to_follow();
            tokio::spawn(cluster.forget_for_ever());
        }));
    }
}

impl Cluster {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be asked twice is asked until there is an answer, at one member after the other.
    async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let mut tries = Tries::new(self.client.members());
        loop {
            match self.client.call(path, question.clone()).await {
                Err(failure) if failure.is_passing() && tries.again().await => {}
                other => return other,
            }
        }
    }

    /// The head as it is, and etcd's revision now.
    async fn read_head(&self) -> Result<(Known, i64), Problem> {
        let answer: RangeResponse = self.ask(wire::RANGE, RangeRequest { key: self.layout.head(), ..Default::default() }).await?;
        let known = Known::of(answer.kvs.first())?;
        self.note(known);
        Ok((known, answer.header.map_or(0, |header| header.revision)))
    }

    /// The head as this server last saw it.
    async fn known(&self) -> Result<Known, Problem> {
        let known = self.shared().known;
        match known {
            Some(known) => Ok(known),
            None => self.read_head().await.map(|(known, _)| known),
        }
    }

    /// Remembers the newest head.
    fn note(&self, known: Known) {
        let mut shared = self.shared();
        if shared.known.is_none_or(|old| old.modified < known.modified) {
            shared.known = Some(known);
            drop(shared);
            self.moved.send_replace(());
        }
    }
}

impl Known {
    fn of(kv: Option<&wire::KeyValue>) -> Result<Known, DecodeError> {
        match kv {
            Some(kv) => Ok(Known { head: Head::decode(&kv.value)?, modified: kv.mod_revision }),
            None => Ok(Known::default()),
        }
    }
}

/// Attempts until a deadline: at once at every member, then with pauses.
struct Tries {
    until: Instant,
    /// Members that were not tried yet.
    fresh: usize,
    pause: Duration,
}

impl Tries {
    fn new(members: usize) -> Tries {
        let until = UNTIL.try_with(|until| *until).unwrap_or_else(|_| Instant::now() + RETRY_TIMEOUT);
        Tries { until, fresh: members.saturating_sub(1), pause: RETRY_PAUSE }
    }

    /// Waits until the next attempt is due; false: there is no time for one.
    async fn again(&mut self) -> bool {
        if self.fresh > 0 {
            self.fresh -= 1;
        } else {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(RETRY_PAUSE_MAX);
        }
        Instant::now() < self.until
    }
}

#[cfg(test)]
mod tests {
    pub mod by_hand;

    use std::net::SocketAddr;

    use super::*;

    /// A cluster with this one member.
    pub(super) fn cluster(member: SocketAddr) -> Arc<Cluster> {
        let options = EtcdOptions { endpoints: vec![format!("http://{member}")], ..EtcdOptions::default() };
        Arc::new(Cluster {
            client: Client::new(options),
            layout: Layout::new(""),
            shared: Mutex::default(),
            moved: watch::Sender::default(),
        })
    }

    /// When attempts at so many members are made, from now on.
    async fn attempts(members: usize) -> Vec<Duration> {
        let (begun, mut tries, mut made) = (Instant::now(), Tries::new(members), vec![Duration::ZERO]);
        while tries.again().await {
            made.push(begun.elapsed());
        }
        made
    }

    #[tokio::test(start_paused = true)]
    async fn every_member_is_tried_at_once_and_then_ever_more_seldom_until_time_is_up() {
        let made = attempts(3).await;
        assert_eq!(made[..3], [Duration::ZERO; 3]);
        assert!(made[3] >= RETRY_PAUSE && made[4] > Duration::ZERO);
        let pauses: Vec<Duration> = made[2..].windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses.windows(2).all(|two| two[0] <= two[1]), "{pauses:?}");
        let about = |pause: Duration, wanted: Duration| pause >= wanted && pause < wanted + Duration::from_millis(5);
        assert!(about(pauses[0], RETRY_PAUSE) && about(*pauses.last().unwrap(), RETRY_PAUSE_MAX), "{pauses:?}");
        let last = *made.last().unwrap();
        assert!(last < RETRY_TIMEOUT && last + RETRY_PAUSE_MAX * 2 > RETRY_TIMEOUT, "{last:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn all_calls_of_one_piece_of_work_have_its_time_together() {
        let until = Instant::now() + UPDATES_TIMEOUT;
        let last = UNTIL.scope(until, async { *attempts(1).await.last().unwrap() }).await;
        assert!(last < UPDATES_TIMEOUT && last + RETRY_PAUSE_MAX * 2 > UPDATES_TIMEOUT, "{last:?}");
    }

    /// A cluster that nobody answers for, and which is followed.
    fn followed() -> Cluster {
        let cluster = Arc::into_inner(cluster("127.0.0.1:1".parse().unwrap())).unwrap();
        cluster.shared().following = Some(Following::after(Revision(0), tokio::spawn(async {}).abort_handle()));
        cluster
    }

    /// What the watch tells of a commit with a record of so many bytes.
    fn told(cluster: &Cluster, revision: u64, bytes: usize) -> [wire::Event; 2] {
        let event = |key: Vec<u8>, value: Vec<u8>| {
            let kv = wire::KeyValue { key, value, mod_revision: revision as i64, ..wire::KeyValue::default() };
            wire::Event { kv: Some(kv), ..wire::Event::default() }
        };
        let head = Head::new(Revision(revision), uuid::Uuid::from_u128(revision.into()), 0, 0).encode();
        [event(cluster.layout.head(), head), event(b"/ladon/v1/alloc/keys".to_vec(), vec![0; bytes])]
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_takes_news_in_can_commit_on_it_at_once() {
        const COMMITS: u64 = 20_000;
        let cluster = Arc::new(followed());
        let watch = std::thread::spawn({
            let cluster = cluster.clone();
            move || (1..=COMMITS).for_each(|revision| assert!(cluster.take_in(&told(&cluster, revision, 1)).unwrap()))
        });
        let mut at = Revision(0);
        while at.0 < COMMITS {
            let Updates::Each(updates) = cluster.clone().updates(at, Revision(at.0 + 1)).await.unwrap() else { panic!("nothing is lost") };
            at = updates.last().expect("it waits for the next").revision;
            let known = cluster.known().await.unwrap().head.revision();
            assert!(known >= at, "at {at}, and the head that is known is {known}: as if etcd had gone back");
        }
        watch.join().unwrap();
    }

    #[tokio::test]
    async fn news_that_nobody_takes_are_bounded() {
        const LARGE: usize = 1 << 20;
        let cluster = followed();
        let commit = |revision: u64| told(&cluster, revision, LARGE);
        let fitting = (follow::WAITING_BYTES_MAX / LARGE) as u64;
        for revision in 1..fitting {
            assert!(cluster.take_in(&commit(revision)).unwrap(), "{revision} of {fitting}");
        }
        assert!(!cluster.take_in(&commit(fitting)).unwrap(), "from here on everything is read again");
    }
}
