//! The handle on the link: what other tasks of the node hold.

use super::error::BridgeError;
use super::goal::{Granted, Want};
use super::interfaces::{Interfaces, OfPort};
use super::spec::{BridgeSpec, PortSpec};
use super::task::Task;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How many requests may wait for the task to take them up; a caller beyond that waits itself.
const COMMANDS_MAX: usize = 64;
/// How long Open vSwitch may take for a request; then its caller hears that it is late.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// Where Open vSwitch is, and what the link publishes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// ovsdb-server's unix socket.
    pub socket: PathBuf,
    /// The bridge whose interfaces are published.
    pub integration_bridge: String,
    /// How long a request may take before it is given up.
    pub deadline: Duration,
}

impl Settings {
    /// Open vSwitch as distributions install it, with bridge `br-int`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Settings { socket: socket.into(), integration_bridge: "br-int".to_owned(), deadline: REQUEST_DEADLINE }
    }
}

/// Whether the link is connected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Connection {
    Connected,
    /// And why; connecting goes on.
    Disconnected {
        reason: String,
    },
}

/// A request with the place where its answer goes.
#[derive(Debug)]
pub(super) struct Command {
    pub want: Want,
    pub answer: oneshot::Sender<Result<Granted, BridgeError>>,
}

/// A handle on the link; clones share it, and the task ends with the last one.
#[derive(Clone, Debug)]
pub struct Link {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) interfaces: watch::Receiver<Option<Arc<Interfaces>>>,
    pub(super) connection: watch::Receiver<Connection>,
    pub(super) changes: watch::Receiver<u64>,
    pub(super) transactions: Arc<AtomicU64>,
}

impl Link {
    /// Starts the link's task on the current runtime.
    pub fn start(settings: Settings) -> Self {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (interfaces_out, interfaces) = watch::channel(None);
        let (connection_out, connection) = watch::channel(Connection::Disconnected { reason: "not connected yet".to_owned() });
        let (changes_out, changes) = watch::channel(0);
        let transactions = Arc::new(AtomicU64::new(0));
        let task = Task::new(settings, inbox, interfaces_out, connection_out, changes_out, transactions.clone());
        tokio::spawn(task.run());
        Link { commands, interfaces, connection, changes, transactions }
    }

    /// Makes a bridge be as `spec` says, and waits until ovs-vswitchd has made it.
    pub async fn ensure_bridge(&self, spec: BridgeSpec) -> Result<(), BridgeError> {
        self.ask(Want::Bridge(spec)).await.map(drop)
    }

    /// Makes a port be as `spec` says, and waits until ovs-vswitchd has given it a number or refused it.
    pub async fn ensure_port(&self, spec: PortSpec) -> Result<OfPort, BridgeError> {
        match self.ask(Want::Port(spec)).await? {
            Granted::Port(ofport) => Ok(ofport),
            Granted::Done => unreachable!("a port is granted with its number"),
        }
    }

    /// Plugs a device that was just made, whatever there was of its name before. ovs-vswitchd's userspace datapath keeps
    /// listening to a device that is gone when another of the same name takes its place, and so hears nothing: the old
    /// port has to be gone in ovs-vswitchd, and not just in the database, before the new one is made.
    pub async fn renew_port(&self, spec: PortSpec) -> Result<OfPort, BridgeError> {
        self.remove_port(&spec.bridge, &spec.name).await?;
        self.ensure_port(spec).await
    }

    /// Removes a port from a bridge, and waits until ovs-vswitchd has let go of it; it is fine if there is none. Where the
    /// deadline passes because ovs-vswitchd is away (`is_written`), the rows are gone all the same.
    pub async fn remove_port(&self, bridge: &str, port: &str) -> Result<(), BridgeError> {
        self.ask(Want::NoPort { bridge: bridge.to_owned(), port: port.to_owned() }).await.map(drop)
    }

    /// The integration bridge's interfaces as they are now and as they change: `None` until they are first known, and the
    /// last known ones while the link is disconnected.
    pub fn interfaces(&self) -> watch::Receiver<Option<Arc<Interfaces>>> {
        self.interfaces.clone()
    }

    /// Whether the link is connected, now and as it changes.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// Counts the changes of bridges, their tables' names and their interfaces, whoever made them.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// How many transactions the link has sent: it stands still while everything is as wanted.
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    async fn ask(&self, want: Want) -> Result<Granted, BridgeError> {
        let (answer, granted) = oneshot::channel();
        self.commands.send(Command { want, answer }).await.map_err(|_| BridgeError::Closed)?;
        granted.await.map_err(|_| BridgeError::Closed)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_the_task_up_to_a_number_and_then_their_callers_do() {
        let link = Link::start(Settings::new("/nonexistent"));
        let command = || {
            let (answer, granted) = oneshot::channel();
            (Command { want: Want::Bridge(BridgeSpec::new("br-int")), answer }, granted)
        };
        // The task has its turn when this waits.
        let waiting: Vec<_> = (0..COMMANDS_MAX)
            .map(|_| {
                let (command, granted) = command();
                link.commands.try_send(command).unwrap();
                granted
            })
            .collect();
        assert!(link.commands.try_send(command().0).is_err());
        let begun = tokio::time::Instant::now();
        assert!(matches!(link.ensure_bridge(BridgeSpec::new("br-int")).await, Err(BridgeError::Deadline { .. })));
        assert_eq!(begun.elapsed().as_secs(), REQUEST_DEADLINE.as_secs());
        for granted in waiting {
            assert!(matches!(granted.await, Ok(Err(BridgeError::Deadline { .. }))));
        }
    }
}
