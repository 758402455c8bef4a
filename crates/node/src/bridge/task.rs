//! The task that owns the link: its connection, its replica and the goals under way.

use super::columns::{BRIDGE, DATABASE, FLOW_TABLE, INTERFACE, MONITOR, PORT};
use super::error::BridgeError;
use super::goal::{Goal, Granted, Step};
use super::interfaces::{Interfaces, interfaces_of};
use super::link::{Command, Connection, Settings};
use super::session::{Opened, Session, SessionError, open};
use crate::pauses::Pauses;
use ovsdb::{Change, Message, Replica, Transaction, Update};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use stream::describe;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// The pause before connecting again, doubled after every failure up to the cap: the server is on this machine, so trying
/// is cheap, and everything waits for it.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause before connecting to ovsdb-server again.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How many requests are under way at once; more wait in the queue, and then at their callers.
const GOALS_MAX: usize = 256;

/// The tables that specifications and interfaces are about; the other one moves with every transaction.
const SHAPED: [&str; 4] = [BRIDGE, PORT, INTERFACE, FLOW_TABLE];

pub(super) struct Task {
    socket: PathBuf,
    bridge: String,
    desk: Desk,
    replica: Option<Replica>,
    interfaces: watch::Sender<Option<Arc<Interfaces>>>,
    connection: watch::Sender<Connection>,
    changes: watch::Sender<u64>,
    transactions: Arc<AtomicU64>,
}

/// Where requests come in, wait for their fulfilment and are given up.
struct Desk {
    commands: mpsc::Receiver<Command>,
    pending: Vec<Pending>,
    patience: Duration,
}

struct Pending {
    goal: Goal,
    answer: oneshot::Sender<Result<Granted, BridgeError>>,
    deadline: Instant,
}

/// All handles are gone.
struct Abandoned;

/// Why serving a connection ended.
enum End {
    Failed(SessionError),
    Abandoned,
}

impl From<SessionError> for End {
    fn from(error: SessionError) -> Self {
        End::Failed(error)
    }
}

impl Task {
    pub fn new(
        settings: Settings,
        commands: mpsc::Receiver<Command>,
        interfaces: watch::Sender<Option<Arc<Interfaces>>>,
        connection: watch::Sender<Connection>,
        changes: watch::Sender<u64>,
        transactions: Arc<AtomicU64>,
    ) -> Self {
        let desk = Desk { commands, pending: Vec::new(), patience: settings.deadline };
        let Settings { socket, integration_bridge: bridge, .. } = settings;
        Task { socket, bridge, desk, replica: None, interfaces, connection, changes, transactions }
    }

    /// Connects, serves, and connects again, until all handles are gone.
    pub async fn run(mut self) {
        let mut pauses = Pauses::new(PAUSE_MIN, PAUSE_MAX);
        loop {
            let replica = self.replica.clone();
            let Ok(opened) = self.desk.attend_during(open(&self.socket, replica)).await else {
                return;
            };
            let started = Instant::now();
            let error = match opened {
                Err(error) => error,
                Ok(opened) => match self.serve(opened).await {
                    End::Failed(error) => error,
                    End::Abandoned => return,
                },
            };
            self.lose(error);
            if started.elapsed() > PAUSE_MAX {
                pauses.start_over();
            }
            let Ok(()) = self.desk.attend_during(sleep(pauses.after_failure())).await else {
                return;
            };
        }
    }

    /// Serves one connection until it fails.
    async fn serve(&mut self, opened: Opened) -> End {
        let Opened { mut session, replica } = opened;
        tracing::info!(socket = %self.socket.display(), "connected to Open vSwitch's database");
        self.replica = Some(replica);
        self.publish(None);
        self.connection.send_replace(Connection::Connected);
        loop {
            match self.turn(&mut session).await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    /// Does all that can be done now, then waits for something to happen.
    async fn turn(&mut self, session: &mut Session) -> Result<(), End> {
        self.pursue(session)?;
        let probe_due = session.probe_due();
        tokio::select! {
            message = session.message() => self.digest(message?)?,
            attended = self.desk.attend() => attended.map_err(|Abandoned| End::Abandoned)?,
            () = sleep_until(probe_due) => session.probe()?,
        }
        Ok(())
    }

    /// Lets every goal take its next step.
    fn pursue(&mut self, session: &mut Session) -> Result<(), SessionError> {
        let Some(replica) = &self.replica else {
            return Ok(());
        };
        let pending = &mut self.desk.pending;
        let mut next = 0;
        while let Some(one) = pending.get_mut(next) {
            if one.answer.is_closed() {
                // Whoever gave up must not find later that it was done all the same, over what was asked for since.
                pending.swap_remove(next);
                continue;
            }
            match one.goal.step(replica) {
                Step::Finish(result) => {
                    pending.swap_remove(next).finish(result);
                    continue;
                }
                Step::Wait => {}
                Step::Transact(operations) => {
                    one.goal.tell_overwritten(replica, &operations);
                    let transaction = Transaction::new(DATABASE, operations);
                    let id = session.next_id();
                    session.send(&transaction.request(id))?;
                    self.transactions.fetch_add(1, Ordering::Relaxed);
                    one.goal.sent(id, transaction);
                }
            }
            next += 1;
        }
        Ok(())
    }

    fn digest(&mut self, message: Message) -> Result<(), SessionError> {
        if let Message::Response { id, result } = message {
            if let Some(id) = id.as_u64() {
                self.desk.replied(id, result);
            }
            return Ok(());
        }
        let (Some(update), Some(replica)) = (Update::from_message(message)?, &mut self.replica) else {
            return Ok(());
        };
        if update.monitor != MONITOR {
            return Ok(());
        }
        match replica.update(&update) {
            Ok(changes) => self.publish(Some(&changes)),
            Err(error) => {
                // Whatever went wrong, starting from nothing puts it right.
                self.replica = None;
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Publishes what changed; None: anything may have.
    fn publish(&self, changes: Option<&[Change]>) {
        let Some(replica) = &self.replica else { return };
        let is_shaped = |change: &Change| SHAPED.contains(&&*change.table);
        if changes.is_some_and(|changes| !changes.iter().any(is_shaped)) {
            return;
        }
        self.interfaces.send_if_modified(|published| {
            let before = published.clone();
            let nothing = Interfaces::new();
            let interfaces = interfaces_of(replica, &self.bridge, before.as_deref().unwrap_or(&nothing), changes);
            let is_changed = before.as_deref() != Some(&interfaces);
            if is_changed {
                *published = Some(Arc::new(interfaces));
            }
            is_changed
        });
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn lose(&mut self, error: SessionError) {
        if matches!(error, SessionError::Replica(_)) {
            self.replica = None;
        }
        let reason = describe(&error);
        let was_connected = *self.connection.borrow() == Connection::Connected;
        let is_news = self.connection.send_if_modified(|connection| {
            let now = Connection::Disconnected { reason: reason.clone() };
            std::mem::replace(connection, now.clone()) != now
        });
        if was_connected || is_news {
            tracing::warn!(
                socket = %self.socket.display(),
                "no connection to Open vSwitch's database: {reason}; on the kernel's datapath traffic flows on, on the userspace \
                 datapath it waits; ports are neither noticed nor made; check that ovsdb-server runs"
            );
        }
        for pending in &mut self.desk.pending {
            pending.goal.disconnected();
        }
    }
}

impl Desk {
    /// Waits for `work` while requests come in and run out of time.
    async fn attend_during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Abandoned> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return Ok(result),
                attended = self.attend() => attended?,
            }
        }
    }

    /// Takes in one request, or gives up those that are late. May be dropped while it waits.
    async fn attend(&mut self) -> Result<(), Abandoned> {
        let soonest = self.pending.iter().map(|pending| pending.deadline).min();
        let late = async {
            match soonest {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = self.commands.recv(), if self.pending.len() < GOALS_MAX => self.take(command.ok_or(Abandoned)?),
            () = late => self.give_up_late(),
        }
        Ok(())
    }

    fn take(&mut self, command: Command) {
        let Command { want, answer } = command;
        self.pending.push(Pending { goal: Goal::new(want), answer, deadline: Instant::now() + self.patience });
    }

    fn give_up_late(&mut self) {
        let now = Instant::now();
        let late: Vec<Pending> = self.pending.extract_if(.., |pending| pending.deadline <= now).collect();
        for pending in late {
            let (what, waiting_for) = pending.goal.lack();
            let is_written = pending.goal.is_written();
            pending.finish(Err(BridgeError::Deadline { what, waiting_for, is_written, waited: self.patience }));
        }
    }

    fn replied(&mut self, id: u64, reply: Result<ovsdb::Json, ovsdb::Json>) {
        let Some(position) = self.pending.iter().position(|pending| pending.goal.expects(id)) else {
            return;
        };
        if let Some(error) = self.pending[position].goal.replied(reply) {
            self.pending.swap_remove(position).finish(Err(error));
        }
    }
}

impl Pending {
    /// Answers; a caller that no longer waits is no one's loss.
    fn finish(self, result: Result<Granted, BridgeError>) {
        let _ = self.answer.send(result);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::super::goal::Want;
    use super::super::link::Link;
    use super::super::spec::BridgeSpec;
    use super::*;
    use crate::pauses::tests::assert_pauses;

    #[tokio::test(start_paused = true)]
    async fn a_database_that_cannot_be_reached_is_tried_ever_more_seldom() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("db.sock")).unwrap();
        let _link = Link::start(Settings::new(dir.path().join("db.sock")));
        let mut tries = Vec::new();
        for _ in 0..10 {
            // Closed at once.
            drop(listener.accept().await.unwrap());
            tries.push(Instant::now());
        }
        assert_pauses(&tries, PAUSE_MIN, PAUSE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_requests_are_under_way_than_so_many() {
        let (sender, commands) = mpsc::channel(1);
        let mut desk = Desk { commands, pending: Vec::new(), patience: Duration::from_secs(5) };
        let begun = Instant::now();
        let ask = async || {
            let (answer, granted) = oneshot::channel();
            sender.send(Command { want: Want::Bridge(BridgeSpec::new("br-int")), answer }).await.unwrap();
            granted
        };
        let mut under_way = Vec::new();
        for _ in 0..GOALS_MAX {
            under_way.push(ask().await);
            assert!(desk.attend().await.is_ok());
        }
        let _waits = ask().await;
        assert!(desk.attend().await.is_ok());
        assert_eq!(
            (desk.pending.len(), begun.elapsed().as_secs()),
            (0, 5),
            "time is up for those under way, and the next was not taken in"
        );
        assert!(desk.attend().await.is_ok());
        assert_eq!(desk.pending.len(), 1);
        for granted in under_way {
            assert!(matches!(granted.await, Ok(Err(BridgeError::Deadline { .. }))));
        }
    }
}
