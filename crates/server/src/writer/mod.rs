//! The one writer: a thread that turns closures into durable commits.
//!
//! A request describes its change as a closure over a [`Tx`]. The writer takes closures from a bounded queue and runs them
//! one after the other, so that each sees what the earlier ones did; a closure that answers with an error leaves nothing
//! behind. Up to [`BATCH_MAX`] closures are one transaction of the store, so that a busy server pays for one `fsync` and
//! not for hundreds. When the transaction is durable, the new [`State`] and its [`Commit`] are published, and only then are
//! the requests answered. When it is not, all of it is forgotten and every request of the batch is told why.
//!
//! Several servers may share a store. Each computes on the state that it knows, and the store refuses what was computed on an
//! older one: then the writer takes in what the others have committed, publishes it, and runs the closures of its batch again.
//! That goes for refusals, too: "no such network" is answered only where the store says that the state was the latest. What
//! others commit while nothing is to be written is taken in when the store tells of it.

mod identity;
mod queue;
mod tx;
mod window;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use model::{Revision, StoreId};
use store::{ChangesError, Commit, Op, Snapshot, Store, StoreError, TransactError, Transaction, Update, Updates};
use tokio::sync::{broadcast, mpsc};
use uuid::Uuid;

use crate::state::State;

use queue::{Job, Turn, job, wake};
pub use tx::Tx;
use tx::Work;
use window::Window;

/// Closures that wait for the writer. Beyond it, requests are refused as too busy.
pub const QUEUE_MAX: usize = 4096;
/// Closures in one transaction of the store. The others wait for the next.
pub const BATCH_MAX: usize = 256;
/// Commits that a subscriber may lag behind before it must start again.
pub const LAG_MAX: usize = 4096;
/// How often a batch is computed before its requests are told that other servers are always faster.
pub const ATTEMPTS_MAX: u32 = 32;
/// A server that has seen others write for the last so long gives way to them after each transaction of its own, for about as long
/// as that took: otherwise whoever has just written is the first to write again, and the others compute in vain.
const RIVALRY: Duration = Duration::from_millis(500);
/// The longest that it gives way.
const YIELD_MAX: Duration = Duration::from_millis(50);
/// What others wrote and could not be taken in is asked for again after so long, and after twice as long each time that it fails.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause before what others wrote is asked for again.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Why a write did not happen. Nothing of it is stored.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{QUEUE_MAX} writes are waiting already; nothing was written and traffic is not affected; try again later, with bulk requests")]
    TooBusy,
    #[error("other servers wrote first {ATTEMPTS_MAX} times in a row; nothing was written and traffic is not affected; try again later")]
    Contended,
    #[error("{}", TransactError::Full)]
    StoreFull,
    /// What the store says, in its three parts.
    #[error("nothing was written: {0}")]
    StoreFailed(String),
    /// What the store says, in its three parts.
    #[error("{0}")]
    StoreUnknown(String),
    /// It was not tried: whoever waited behind a write for which a shared store had no answer is not kept waiting as long again.
    #[error(
        "the store has just failed another write; nothing was written and traffic is not affected; look at the etcd cluster that holds it, and try again"
    )]
    StoreAway,
    #[error("all numbers for {kind}s are in use; nothing was written and traffic is not affected; delete {kind}s that nobody needs")]
    KeysExhausted { kind: &'static str },
    #[error("the write failed in the server: {0}; nothing was written and traffic is not affected; report it with the server's log")]
    Internal(String),
    #[error("the server is stopping; nothing was written and switches go on with what they have; try again when it is back")]
    Stopped,
}

impl From<TransactError> for WriteError {
    fn from(error: TransactError) -> WriteError {
        match error {
            TransactError::Full => WriteError::StoreFull,
            TransactError::Conflict { .. } => WriteError::Contended,
            unknown @ TransactError::Unknown(_) => WriteError::StoreUnknown(unknown.to_string()),
            TransactError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> WriteError {
        WriteError::StoreFailed(error.to_string())
    }
}

/// What a closure answered, and the revision in which its effects are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written<T> {
    pub value: T,
    pub revision: Revision,
}

/// Tells the time. Tests bring their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A handle of the server's state: reads what is durable, writes through the one writer.
#[derive(Clone)]
pub struct Core {
    queue: mpsc::Sender<Turn>,
    published: Arc<Published>,
    store: Arc<dyn Store>,
    identity: StoreId,
    /// This process, among the servers that share the store.
    server: Uuid,
}

struct Published {
    latest: Mutex<Latest>,
}

struct Latest {
    state: Arc<State>,
    commits: broadcast::Sender<Arc<Commit>>,
    window: Window,
}

impl Published {
    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The commits after a state, in order and without a gap.
pub struct Subscription {
    commits: broadcast::Receiver<Arc<Commit>>,
}

/// A subscriber was too slow and missed commits: it must subscribe again and start from the state that it gets then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{missed} commits were missed")]
pub struct Lagged {
    pub missed: u64,
}

impl Subscription {
    /// The next commit; None when the server stops.
    pub async fn next(&mut self) -> Result<Option<Arc<Commit>>, Lagged> {
        match self.commits.recv().await {
            Ok(commit) => Ok(Some(commit)),
            Err(broadcast::error::RecvError::Closed) => Ok(None),
            Err(broadcast::error::RecvError::Lagged(missed)) => Err(Lagged { missed }),
        }
    }

    /// The next commit if it is there already.
    pub fn try_next(&mut self) -> Result<Option<Arc<Commit>>, Lagged> {
        match self.commits.try_recv() {
            Ok(commit) => Ok(Some(commit)),
            Err(broadcast::error::TryRecvError::Lagged(missed)) => Err(Lagged { missed }),
            Err(_) => Ok(None),
        }
    }
}

impl Core {
    /// Loads what `store` holds and starts the writer. The writer ends with the last handle.
    pub fn start(store: Arc<dyn Store>) -> Result<Core, StoreError> {
        Core::start_with_clock(store, Arc::new(Timestamp::now))
    }

    /// As [`Core::start`], with a clock of the caller's.
    pub fn start_with_clock(store: Arc<dyn Store>, clock: Clock) -> Result<Core, StoreError> {
        let (core, writer) = Core::by_hand(store, clock)?;
        let failed = |source: std::io::Error| StoreError::Failed { doing: "starting the writer's thread", source: source.into() };
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
        std::thread::Builder::new().name("ladon-writer".into()).spawn(move || writer.run(&clock)).map_err(failed)?;
        Ok(core)
    }

    /// As [`Core::start_with_clock`], without a thread: nothing is written but by [`Writer::turn`]. For simulations.
    pub fn by_hand(store: Arc<dyn Store>, clock: Clock) -> Result<(Core, Writer), StoreError> {
        let (snapshot, identity) = identity::load(&*store)?;
        let work = Work::load(snapshot)?;
        let (queue, turns) = mpsc::channel(QUEUE_MAX);
        let has_news = Arc::new(AtomicBool::new(false));
        store.on_update(wake(queue.downgrade(), has_news.clone()));
        let (commits, _) = broadcast::channel(LAG_MAX);
        let latest = Latest { state: Arc::new(work.state().clone()), commits, window: Window::after(work.state().revision()) };
        let published = Arc::new(Published { latest: Mutex::new(latest) });
        let writer = Writer {
            store: store.clone(),
            published: published.clone(),
            clock,
            identity,
            durable: work,
            turns,
            has_news,
            retry: None,
            rivals_at: None,
            yield_until: None,
        };
        Ok((Core { queue, published, store, identity, server: Uuid::new_v4() }, writer))
    }

    /// Which store this is.
    pub fn identity(&self) -> StoreId {
        self.identity
    }

    /// The latest durable state.
    pub fn state(&self) -> Arc<State> {
        self.published.lock().state.clone()
    }

    /// Who this server is, among those that may share the store; None: it has the store to itself.
    pub fn server(&self) -> Option<Uuid> {
        self.store.is_shared().then_some(self.server)
    }

    /// Waits until the writer has ended, which it does only by a fault while there are handles.
    pub async fn ended(&self) {
        self.queue.closed().await;
    }

    /// The latest durable state and all that comes after it.
    pub fn subscribe(&self) -> (Arc<State>, Subscription) {
        let latest = self.published.lock();
        (latest.state.clone(), Subscription { commits: latest.commits.subscribe() })
    }

    /// The commits after `from`, out of memory or the store's log, if neither they nor the objects that have changed in them are more than `most`.
    /// What was read of the log is told out of memory to the next.
    pub async fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        let told = self.published.lock().window.since(from);
        if let Some(commits) = told {
            let changes: usize = commits.iter().map(|commit| commit.changes.len()).sum();
            return if changes.max(commits.len()) > most { Err(ChangesError::TooMany { most }) } else { Ok(commits) };
        }
        let store = self.store.clone();
        let failed = |source: tokio::task::JoinError| StoreError::Failed { doing: "reading the log", source: source.into() };
        let log = tokio::task::spawn_blocking(move || store.changes(from, most)).await.map_err(failed)??;
        // After a start, all nodes ask for it.
        self.published.lock().window.precede(&log);
        Ok(log)
    }

    /// Runs `change` in a transaction and answers when its effects are durable.
    ///
    /// The closure is plain: it looks at nothing but the transaction and what it captured, and it may be run again from the
    /// start (so it is `FnMut`, and clones what it gives away) when a store that others write too reports a conflict.
    pub async fn write<T, E, F>(&self, change: F) -> Result<Written<T>, E>
    where
        F: FnMut(&mut Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        let (job, answered) = job(change);
        self.queue.try_send(Turn::Job(job)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => WriteError::TooBusy,
            mpsc::error::TrySendError::Closed(_) => WriteError::Stopped,
        })?;
        answered.await.unwrap_or_else(|_| Err(WriteError::Stopped.into()))
    }
}

/// The owner of the store.
pub struct Writer {
    store: Arc<dyn Store>,
    published: Arc<Published>,
    clock: Clock,
    identity: StoreId,
    /// What the store holds.
    durable: Work,
    turns: mpsc::Receiver<Turn>,
    /// Others may have committed.
    has_news: Arc<AtomicBool>,
    /// What they committed could not be taken in: when that is tried again, and after which pause.
    retry: Option<(Instant, Duration)>,
    /// When others were last seen to commit.
    rivals_at: Option<Instant>,
    /// Until then others have their turn.
    yield_until: Option<Instant>,
}

impl Writer {
    fn run(mut self, clock: &tokio::runtime::Runtime) {
        let mut turns = Vec::new();
        while clock.block_on(self.wait(&mut turns)) {
            self.take_turns(&mut turns);
        }
    }

    /// Until there are turns, or it is time to try again; false: nobody is left who could give one.
    async fn wait(&mut self, turns: &mut Vec<Turn>) -> bool {
        let received = self.turns.recv_many(turns, BATCH_MAX);
        match self.retry {
            Some((at, _)) => tokio::time::timeout_at(at.into(), received).await.map_or(true, |count| count > 0),
            None => received.await > 0,
        }
    }

    /// Takes in what others wrote and writes a batch of what waits, and does not wait for more. The number of closures that were
    /// in it.
    pub fn turn(&mut self) -> usize {
        let mut turns = Vec::new();
        while turns.len() < BATCH_MAX
            && let Ok(turn) = self.turns.try_recv()
        {
            turns.push(turn);
        }
        self.take_turns(&mut turns)
    }

    fn take_turns(&mut self, turns: &mut Vec<Turn>) -> usize {
        let job = |turn| match turn {
            Turn::Job(job) => Some(job),
            Turn::News => None,
        };
        let mut batch: Vec<_> = turns.drain(..).filter_map(job).collect();
        if !batch.is_empty()
            && let Some(until) = self.yield_until.take()
        {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        let is_due = self.retry.is_some_and(|(at, _)| at <= Instant::now());
        let is_news = self.has_news.swap(false, Ordering::SeqCst) || is_due;
        let caught_up = if is_news { self.catch_up(self.revision()) } else { Ok(()) };
        let closures = batch.len();
        let result = match caught_up {
            Err(error) => Err(error.into()),
            Ok(()) if closures == 0 => Ok(self.revision()),
            Ok(()) => self.write(&mut batch),
        };
        if closures > 0
            && let Err(error) = &result
        {
            tracing::error!("{closures} writes were refused: {error}");
        }
        batch.into_iter().for_each(|job| job.answer(result.clone()));
        if matches!(result, Err(WriteError::StoreFailed(_) | WriteError::StoreUnknown(_))) && self.store.is_shared() {
            self.refuse_waiting();
        }
        closures
    }

    /// Refuses what came while a store that others share, and that may be away, was tried.
    fn refuse_waiting(&mut self) {
        let waiting = self.turns.len();
        for turn in (0..waiting).map_while(|_| self.turns.try_recv().ok()) {
            match turn {
                Turn::Job(job) => job.answer(Err(WriteError::StoreAway)),
                // It is not told again.
                Turn::News => drop(self.retry.get_or_insert((Instant::now(), RETRY_PAUSE))),
            }
        }
    }

    fn revision(&self) -> Revision {
        self.durable.state().revision()
    }

    /// Runs a batch, makes it durable and publishes it.
    fn write(&mut self, batch: &mut [Box<dyn Job>]) -> Result<Revision, WriteError> {
        for _ in 0..ATTEMPTS_MAX {
            let begun = Instant::now();
            let mut work = self.worked(batch);
            let (changes, ops) = work.changes_since(&self.durable);
            let is_change = !ops.is_empty();
            match self.transact(ops) {
                Ok(revision) if !is_change => return Ok(revision),
                Ok(revision) => {
                    work.committed(revision);
                    self.durable = work;
                    self.publish(Commit { revision, changes: changes.into() });
                    self.give_way(begun.elapsed());
                    return Ok(revision);
                }
                Err(TransactError::Conflict { latest }) => self.catch_up(latest)?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Contended)
    }

    /// Others that are about to write have their turn before the next batch.
    fn give_way(&mut self, took: Duration) {
        if self.rivals_at.is_some_and(|at| at.elapsed() < RIVALRY) {
            let share = 0.5 + rand::random::<f64>();
            self.yield_until = Some(Instant::now() + took.mul_f64(share).min(YIELD_MAX));
        }
    }

    /// What the state is after a batch.
    fn worked(&self, batch: &mut [Box<dyn Job>]) -> Work {
        let mut work = self.durable.clone();
        for job in batch {
            let before = work.clone();
            if !job.run(&mut Tx::new(&mut work, (self.clock)())) {
                work = before;
            }
        }
        work
    }

    fn transact(&self, ops: Vec<Op>) -> Result<Revision, TransactError> {
        self.store.transact(&Transaction { base: self.revision(), ops })
    }

    /// Takes in and publishes what others have committed: what is there, and up to `until` if the store has got there. Nobody may
    /// tell of it again, so what fails is tried again.
    fn catch_up(&mut self, until: Revision) -> Result<(), StoreError> {
        let caught_up = self.catch_up_once(until);
        self.retry = caught_up.as_ref().err().map(|error| {
            let pause = self.retry.map_or(RETRY_PAUSE, |(_, pause)| (pause * 2).min(RETRY_PAUSE_MAX));
            tracing::error!("what other servers wrote is not taken in, which is tried again in {} s: {error}", pause.as_secs());
            (Instant::now() + pause, pause)
        });
        caught_up
    }

    fn catch_up_once(&mut self, until: Revision) -> Result<(), StoreError> {
        match self.store.updates(self.revision(), until)? {
            Updates::Each(updates) => updates.into_iter().try_for_each(|update| self.take_in(update)),
            Updates::All(snapshot) => self.begin_again(snapshot),
        }
    }

    fn take_in(&mut self, update: Update) -> Result<(), StoreError> {
        // Its own transactions come back to it.
        if update.revision <= self.revision() {
            return Ok(());
        }
        self.rivals_at = Some(Instant::now());
        let mut work = self.durable.clone();
        let commit = work.take_in(update)?;
        self.durable = work;
        self.publish(commit);
        Ok(())
    }

    /// All that was missed becomes one commit. What is in another store is not news of this one: nodes would obey it.
    fn begin_again(&mut self, snapshot: Snapshot) -> Result<(), StoreError> {
        if snapshot.revision <= self.revision() {
            return Ok(());
        }
        if identity::of(&snapshot)? != Some(self.identity) {
            let source = format!("another store has taken the place of store {}", self.identity).into();
            return Err(StoreError::Failed { doing: "reading what others wrote", source });
        }
        self.rivals_at = Some(Instant::now());
        let work = Work::load(snapshot)?;
        let commit = self.durable.commit_to(&work);
        self.durable = work;
        self.publish(commit);
        Ok(())
    }

    fn publish(&self, commit: Commit) {
        let mut latest = self.published.lock();
        latest.state = Arc::new(self.durable.state().clone());
        let commit = Arc::new(commit);
        latest.window.push(commit.clone());
        // Nobody listening is no error.
        let _ = latest.commits.send(commit);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A store that cannot tell what others wrote, and counts how often its log is read.
    #[derive(Default)]
    struct Mute(store::Memory, AtomicUsize);

    impl Store for Mute {
        fn load(&self) -> Result<Snapshot, StoreError> {
            self.0.load()
        }

        fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.changes(from, most)
        }

        fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
            self.0.transact(transaction)
        }

        fn updates(&self, _: Revision, _: Revision) -> Result<Updates, StoreError> {
            Err(StoreError::Failed { doing: "a test", source: "on purpose".into() })
        }
    }

    fn writer() -> (Core, Writer) {
        Core::by_hand(Arc::new(Mute::default()), Arc::new(Timestamp::now)).unwrap()
    }

    #[tokio::test]
    async fn after_a_start_the_log_is_read_once_for_all_who_come_back() {
        let store = Arc::new(Mute::default());
        for base in (0..3).map(Revision) {
            let (tunnel_addresses, bridge, datapath) = Default::default();
            let name = model::NodeName(format!("n{base}"));
            let node = model::Node { name, tunnel_addresses, tunnel: model::TunnelType::Geneve, bridge, datapath, stream: None };
            store.transact(&Transaction { base, ops: vec![Op::Put(Arc::new(node.into()))] }).unwrap();
        }
        let (core, _writer) = Core::by_hand(store.clone(), Arc::new(Timestamp::now)).unwrap();
        for from in [1, 2, 1, 3] {
            core.changes(Revision(from), usize::MAX).await.unwrap();
        }
        assert_eq!(store.1.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_cannot_be_taken_in_is_asked_for_ever_more_seldom() {
        let (_core, mut writer) = writer();
        let mut pauses = vec![RETRY_PAUSE];
        while *pauses.last().unwrap() < RETRY_PAUSE_MAX {
            pauses.push((*pauses.last().unwrap() * 2).min(RETRY_PAUSE_MAX));
        }
        pauses.push(RETRY_PAUSE_MAX);
        assert_eq!(pauses.len(), 7);
        for pause in pauses {
            let before = Instant::now();
            writer.catch_up(Revision(9)).unwrap_err();
            let (at, next) = writer.retry.unwrap();
            assert!(next == pause && at >= before + pause, "{next:?} after {pause:?}");
        }
    }

    #[test]
    fn what_another_store_holds_is_not_taken_in() {
        let (core, mut writer) = writer();
        let record = |id: StoreId| (identity::RECORD.to_string(), store::encode_record(&id));
        let snapshot = |revision, records| Snapshot { revision: Revision(revision), objects: Vec::new(), records };
        for records in [vec![record(StoreId(Uuid::nil()))], Vec::new()] {
            let error = writer.begin_again(snapshot(9, records)).unwrap_err().to_string();
            assert!(error.contains(&core.identity().to_string()), "{error}");
            assert_eq!(core.state().revision(), Revision(1));
        }
        writer.begin_again(snapshot(9, vec![record(core.identity())])).unwrap();
        assert_eq!(core.state().revision(), Revision(9));
    }

    #[test]
    fn nobody_gives_way_for_long() {
        let (_core, mut writer) = writer();
        writer.give_way(Duration::from_secs(3600));
        assert_eq!(writer.yield_until, None, "nobody else writes");
        writer.rivals_at = Some(Instant::now());
        let before = Instant::now();
        writer.give_way(Duration::from_secs(3600));
        let until = writer.yield_until.unwrap();
        assert!(until >= before + YIELD_MAX && until <= Instant::now() + YIELD_MAX);
    }
}
