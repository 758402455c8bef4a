//! The task that owns the view: it goes from server to server, and looks after consumer, disk and reports meanwhile.

use std::future::pending;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::Arc;
use std::time::Duration;

use model::Revision;
use rustc_hash::FxHasher;
use stream::wire::{Hello, NodeMessage, Report, node_message, server_message::Body};
use stream::{Following, HEARTBEAT_INTERVAL, Target, VIEW_FORMAT, reason};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::disk::{self, DiskError, Saved};
use super::journal::Journal;
use super::replica::{Fault, Pending, Replica};
use super::rota::{BACKOFF_MAX, Rota};
use super::{Config, Facts, LinkStatus, ViewUpdate};

/// The disk is written at most this often.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// After a save the disk is left alone for at least so many times as long as that took.
const SAVE_REST: u32 = 20;
/// The disk is written at most this often when the journal has all that is new, or only the revision is: a younger one leaves less to
/// read, and to catch up with.
pub const SAVE_QUIET: Duration = Duration::from_secs(600);
/// A save that failed is tried again after this long.
const SAVE_RETRY: Duration = Duration::from_secs(10);
/// A server that says nothing for this long is left, also before its first word: one that makes nodes wait says so.
pub const SILENCE_MAX: Duration = HEARTBEAT_INTERVAL.saturating_mul(4);

pub struct Task {
    config: Config,
    replica: Replica,
    pending: Pending,
    updates: mpsc::Sender<ViewUpdate>,
    facts: watch::Receiver<Option<Arc<Facts>>>,
    status: watch::Sender<LinkStatus>,
    stop: CancellationToken,
    saves: Saves,
    journal: Journal,
    saving: Option<JoinHandle<Result<(), DiskError>>>,
    /// What the disk has is not trusted any more.
    wants_snapshot: bool,
}

/// When the disk is written.
#[derive(Debug, Default)]
struct Saves {
    /// None: it has everything.
    due: Option<Instant>,
    /// The latest save.
    began: Option<Instant>,
    took: Duration,
}

impl Saves {
    /// The view has moved on; `is_pressing`: it has other objects, and the journal has no room for more.
    fn moved(&mut self, is_pressing: bool) {
        let wait = if is_pressing { SAVE_INTERVAL.max(self.took * SAVE_REST) } else { SAVE_QUIET };
        let due = Instant::now() + wait;
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    fn begin(&mut self) {
        (self.due, self.began) = (None, Some(Instant::now()));
    }

    fn end(&mut self) {
        let Some(took) = self.began.take().map(|began| began.elapsed()) else { return };
        self.took = took;
        // News that came meanwhile counted with what the save before took.
        self.due = self.due.map(|due| due.max(Instant::now() + took * SAVE_REST));
    }
}

/// Why the task ends.
struct Stopped;

/// How a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("{0}")]
    Lost(String),
    #[error("it has said nothing for {SILENCE_MAX:?}")]
    Silent,
}

impl Task {
    pub fn new(
        config: Config,
        updates: mpsc::Sender<ViewUpdate>,
        facts: watch::Receiver<Option<Arc<Facts>>>,
        status: watch::Sender<LinkStatus>,
        stop: CancellationToken,
    ) -> Task {
        let (replica, pending, journal) = (Replica::default(), Pending::default(), Journal::new(&config.path));
        let saves = Saves::default();
        Task { config, replica, pending, updates, facts, status, stop, saves, journal, saving: None, wants_snapshot: false }
    }

    pub async fn run(mut self) {
        self.start_from_disk().await;
        let Stopped = self.follow_servers().await;
        if let Some(saving) = self.saving.take() {
            self.saved(saving.await);
        }
        if self.saves.due.is_some() {
            self.save();
            if let Some(saving) = self.saving.take() {
                self.saved(saving.await);
            }
        }
    }

    async fn start_from_disk(&mut self) {
        let (path, node) = (self.config.path.clone(), self.config.node.clone());
        let loaded = tokio::task::spawn_blocking(move || disk::load(&path, &node)).await;
        let path = self.config.path.display();
        match loaded {
            Ok(Ok(saved)) => {
                let Saved { objects, revision, store, last: _ } = self.journal.replay(saved);
                tracing::info!("starting with the view in {path}: {} objects at revision {revision}", objects.len());
                // Whoever compiles it need not wait until it is in order here. Nobody is there any more: then there is nothing to do.
                let view = ViewUpdate { upserts: objects.clone(), removals: Vec::new(), revision, is_complete_snapshot: true };
                let _ = self.updates.send(view).await;
                self.replica = Replica::of(objects, revision, store);
                self.tell(|status| status.revision = revision);
                self.journal.resume();
                self.saves.moved(self.journal.is_full());
            }
            Ok(Err(DiskError::Missing)) => tracing::info!("there is no view in {path} yet: nothing is changed before a server gives one"),
            Ok(Err(error)) => {
                tracing::warn!(
                    "the view in {path} is ignored: {error}; the switch stays as it is until a server answers; see that one does (ladon nodes)"
                );
            }
            Err(error) => tracing::error!("reading {path} failed: {error}"),
        }
    }

    fn tell(&self, change: impl FnOnce(&mut LinkStatus)) {
        self.status.send_modify(change);
    }

    /// Goes round the servers, for ever. Nodes begin at different ones.
    async fn follow_servers(&mut self) -> Stopped {
        let first = BuildHasherDefault::<FxHasher>::default().hash_one(&self.config.node) as usize;
        let mut rota = Rota::new(self.config.servers.len(), first);
        loop {
            let Some((place, ready)) = rota.next() else {
                tracing::warn!("`servers` is empty: the node forwards with the view that it has, and nothing changes it; name the servers");
                self.tell(|status| status.problem = Some("no server is configured".into()));
                if let Err(stopped) = self.meanwhile(pending::<()>()).await {
                    return stopped;
                }
                continue;
            };
            if let Err(stopped) = self.meanwhile(sleep_until(ready)).await {
                return stopped;
            }
            let server = self.config.servers[place].clone();
            let began = Instant::now();
            let (end, has_talked) = match self.attempt(&server).await {
                Ok(ended) => ended,
                Err(stopped) => return stopped,
            };
            self.log_end(&server, &end);
            self.tell(|status| *status = LinkStatus { server: None, problem: Some(format!("{server}: {end}")), revision: status.revision });
            rota.ended(place, has_talked && began.elapsed() > BACKOFF_MAX);
        }
    }

    fn log_end(&self, server: &str, end: &End) {
        let revision = self.replica.revision();
        let forwards = format!("the node keeps forwarding with the view of revision {revision}");
        match end {
            End::Fault(Fault::OtherStore { ours, theirs }) => tracing::error!(
                "server {server}: {end}; {forwards} and takes no change from there; correct the node's `servers` or the server's store, \
                 so that it is store {ours}, or, if store {theirs} is the one to obey from now on, stop ladon node, remove {} and start it",
                self.config.path.display()
            ),
            end => tracing::warn!("server {server}: {end}; {forwards}"),
        }
    }

    /// Follows one server until that ends. Tells why, and whether it had talked.
    async fn attempt(&mut self, server: &str) -> Result<(End, bool), Stopped> {
        let target = Target { address: server.to_string(), credentials: self.config.credentials.clone() };
        let hello = self.hello();
        let following = match self.meanwhile(async move { stream::follow(&target, hello).await }).await? {
            Ok(following) => following,
            Err(error) => return Ok((End::Lost(error.to_string()), false)),
        };
        let mut has_talked = false;
        let end = self.follow(server, following, &mut has_talked).await?;
        self.replica.stream_ended();
        self.wants_snapshot |= matches!(&end, End::Fault(fault) if fault.needs_snapshot());
        Ok((end, has_talked))
    }

    fn hello(&self) -> Hello {
        let revision = if self.wants_snapshot { Revision::default() } else { self.replica.revision() };
        Hello {
            node: self.config.node.0.clone(),
            tunnel_addresses: self.config.tunnel_addresses.iter().map(ToString::to_string).collect(),
            tunnel: self.config.tunnel.word().into(),
            revision: revision.0,
            interest_hash: self.replica.hash().0,
            view_format: VIEW_FORMAT,
            bridge: self.config.bridge.clone(),
            datapath: self.config.datapath.clone(),
            store: self.replica.store().filter(|_| self.replica.is_complete()).map(|store| store.to_string()).unwrap_or_default(),
        }
    }

    async fn follow(&mut self, server: &str, following: Following, has_talked: &mut bool) -> Result<End, Stopped> {
        let Following { mut inbound, outbound } = following;
        let mut reporter = Reporter { outbound, facts: self.facts.clone(), told: None, is_due: true };
        let mut heard = Instant::now();
        loop {
            let event = async {
                tokio::select! {
                    message = timeout_at(heard + SILENCE_MAX, inbound.message()) => Some(message),
                    () = reporter.report() => None,
                }
            };
            match self.meanwhile(event).await? {
                None => {}
                Some(Err(_)) => return Ok(End::Silent),
                Some(Ok(Err(status))) => return Ok(End::Lost(format!("the stream broke off: {}", reason(&status)))),
                Some(Ok(Ok(None))) => return Ok(End::Lost("it ended the stream".into())),
                Some(Ok(Ok(Some(message)))) => {
                    heard = Instant::now();
                    reporter.is_due |= matches!(message.body, Some(Body::Heartbeat(_)));
                    if let Some(body) = message.body
                        && let Err(fault) = self.take(body)
                    {
                        return Ok(End::Fault(fault));
                    }
                    *has_talked = true;
                    self.tell(|status| {
                        *status = LinkStatus { server: Some(server.into()), problem: None, revision: self.replica.revision() }
                    });
                }
            }
        }
    }

    fn take(&mut self, body: Body) -> Result<(), Fault> {
        let before = (self.replica.revision(), self.replica.store());
        let mut is_news = false;
        if let Some(update) = self.replica.apply(body)? {
            self.wants_snapshot = false;
            is_news = update.is_complete_snapshot || !update.upserts.is_empty() || !update.removals.is_empty();
            self.journal.append(&update, self.replica.store());
            self.pending.merge(update);
        }
        is_news |= self.replica.store() != before.1 && self.replica.is_complete();
        if is_news || self.replica.revision() != before.0 {
            self.saves.moved(is_news && self.journal.is_full());
        }
        Ok(())
    }

    /// Waits for `event` and looks after consumer and disk until it is there.
    async fn meanwhile<T>(&mut self, event: impl Future<Output = T>) -> Result<T, Stopped> {
        tokio::pin!(event);
        loop {
            let save = async {
                match (&mut self.saving, self.saves.due) {
                    (Some(saving), _) => Some(saving.await),
                    (None, Some(at)) => {
                        sleep_until(at).await;
                        None
                    }
                    (None, None) => pending().await,
                }
            };
            let chore = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Stopped),
                permit = self.updates.reserve(), if !self.pending.is_empty() => {
                    permit.map_err(|_| Stopped)?.send(self.pending.take());
                    continue;
                }
                value = &mut event => return Ok(value),
                done = save => done,
            };
            match chore {
                Some(done) => {
                    self.saving = None;
                    self.saves.end();
                    self.saved(done);
                }
                None => self.save(),
            }
        }
    }

    /// Begins to write the disk.
    fn save(&mut self) {
        self.saves.begin();
        let (path, node) = (self.config.path.clone(), self.config.node.clone());
        let objects = self.replica.objects().cloned().collect();
        self.journal.save_begins();
        let mut view = Saved { objects, revision: self.replica.revision(), store: self.replica.store(), last: self.journal.last() };
        let save = move || {
            // In order, they are put into a node's indexes faster at the next start.
            view.objects.sort_unstable_by_key(|object| object.key());
            disk::save(&path, &node, &view)
        };
        self.saving = Some(tokio::task::spawn_blocking(save));
    }

    fn saved(&mut self, done: Result<Result<(), DiskError>, tokio::task::JoinError>) {
        match done {
            Ok(Ok(())) => return self.journal.save_ended(),
            Ok(Err(error)) => {
                tracing::error!("{error}; traffic goes on, but a restart without a server would begin with an older view; make room there")
            }
            Err(error) => tracing::error!("writing the view failed: {error}"),
        }
        let again = Instant::now() + SAVE_RETRY;
        self.saves.due = Some(self.saves.due.map_or(again, |due| due.max(again)));
    }
}

/// Tells the server what is true here.
struct Reporter {
    outbound: mpsc::Sender<NodeMessage>,
    facts: watch::Receiver<Option<Arc<Facts>>>,
    /// What the server was told on this stream.
    told: Option<Arc<Facts>>,
    is_due: bool,
}

impl Reporter {
    /// Sends one report when there is something to say. Can be dropped at any await without losing anything.
    async fn report(&mut self) {
        if !self.is_due {
            if self.facts.changed().await.is_err() {
                return pending().await;
            }
            self.is_due = true;
        }
        let Ok(permit) = self.outbound.reserve().await else { return pending().await };
        self.is_due = false;
        let Some(facts) = self.facts.borrow_and_update().clone() else { return };
        let report: Report = self.told.as_ref().map_or_else(|| facts.full(), |told| facts.since(told));
        permit.send(node_message::Body::Report(report).into());
        self.told = Some(facts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(saves: &Saves) -> Duration {
        saves.due.expect("something is to be saved") - Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn the_disk_is_written_soon_for_news_and_seldom_for_a_revision_alone() {
        let mut saves = Saves::default();
        saves.moved(false);
        assert_eq!(wait(&saves), SAVE_QUIET);
        saves.moved(true);
        assert_eq!(wait(&saves), SAVE_INTERVAL);
        tokio::time::advance(SAVE_INTERVAL / 2).await;
        saves.moved(true);
        saves.moved(false);
        assert_eq!(wait(&saves), SAVE_INTERVAL / 2, "who changes again and again does not put it off");
    }

    #[tokio::test(start_paused = true)]
    async fn a_save_that_failed_is_tried_again_after_a_while() {
        let no_folder = tempfile::NamedTempFile::new().unwrap();
        let config = Config {
            node: model::NodeName("n1".into()),
            tunnel_addresses: vec![],
            tunnel: model::TunnelType::Geneve,
            bridge: String::new(),
            datapath: String::new(),
            servers: vec![],
            credentials: stream::Credentials { ca: "ca".into(), certificate: "certificate".into(), key: "key".into() },
            path: no_folder.path().join("view"),
        };
        let (updates, facts, status) = (mpsc::channel(1).0, watch::channel(None).1, watch::channel(LinkStatus::default()).0);
        let mut task = Task::new(config, updates, facts, status, CancellationToken::new());
        task.saves.moved(true);
        task.save();
        assert_eq!(task.saves.due, None);
        let done = task.saving.take().unwrap().await;
        task.saved(done);
        assert_eq!(wait(&task.saves), SAVE_RETRY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_is_slow_is_left_alone_most_of_the_time() {
        let mut saves = Saves::default();
        saves.moved(true);
        saves.begin();
        saves.moved(true);
        tokio::time::advance(Duration::from_secs(3)).await;
        saves.end();
        assert_eq!(wait(&saves), Duration::from_secs(60));
        saves.begin();
        saves.end();
        assert_eq!(saves.due, None, "it has everything");
    }
}
