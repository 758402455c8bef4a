//! A link whose requests a test answers itself.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{mpsc, watch};

use super::super::error::BridgeError;
use super::super::goal::{Granted, Want};
use super::super::interfaces::{Interfaces, OfPort};
use super::super::link::{Command, Connection, Link};

/// Requests that a test may leave for later.
const REQUESTS_MAX: usize = 1024;

/// The other end of a link.
pub struct ByHand {
    commands: mpsc::Receiver<Command>,
    pub interfaces: watch::Sender<Option<Arc<Interfaces>>>,
    pub changes: watch::Sender<u64>,
    _connection: watch::Sender<Connection>,
}

/// A request that was made.
pub struct Asked(Command);

impl Link {
    /// A connected link, and who answers it.
    pub fn by_hand() -> (Link, ByHand) {
        let (commands_in, commands) = mpsc::channel(REQUESTS_MAX);
        let (interfaces, interfaces_out) = watch::channel(None);
        let (_connection, connection_out) = watch::channel(Connection::Connected);
        let (changes, changes_out) = watch::channel(0);
        let link = Link {
            commands: commands_in,
            interfaces: interfaces_out,
            connection: connection_out,
            changes: changes_out,
            transactions: Arc::new(AtomicU64::new(0)),
        };
        (link, ByHand { commands, interfaces, changes, _connection })
    }
}

impl ByHand {
    /// The next request.
    pub async fn next(&mut self) -> Asked {
        Asked(self.commands.recv().await.expect("somebody has the link"))
    }

    /// The next request, if it has been made.
    pub fn try_next(&mut self) -> Option<Asked> {
        self.commands.try_recv().ok().map(Asked)
    }
}

impl Asked {
    pub fn grant(self) {
        let granted = match &self.0.want {
            Want::Port(_) => Granted::Port(OfPort(1)),
            Want::Bridge(_) | Want::NoPort { .. } => Granted::Done,
        };
        let _ = self.0.answer.send(Ok(granted));
    }

    pub fn refuse(self) {
        let _ = self.0.answer.send(Err(BridgeError::Closed));
    }
}
