//! The node's end of its view: follow a server, keep what it says, hand on what changes, and tell what is true here.
//!
//! ```text
//!  server 1 ─┐                  ┌─ ViewUpdate (bounded, merged while the consumer is busy) ─▶ consumer
//!  server 2 ─┼─ gRPC ─▶ task ───┤                                                                │
//!  server 3 ─┘            ▲     └─ /var/lib/ladon/view (some time after news; its journal at once) │
//!                         └────────────────── Facts: interfaces, installed ports, revision ◀──────┘
//! ```
//!
//! One task owns everything ([`task`]). It starts from the disk when it can, so that a node forwards, and starts, without a
//! server; then it follows the first server of its list that answers. A fresh node hands on nothing before its first snapshot
//! is whole: half a view would take away flows that are needed.
//!
//! Each [`ViewUpdate`] says what is different and what is gone since those before it, whether it comes from the disk, a snapshot
//! or a delta: a consumer applies all of them in the same way. Deliberately *not* here: what is done with the view.

mod disk;
mod journal;
pub mod replica;
mod report;
mod rota;
mod task;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use model::{NodeName, Object, ObjectKey, Revision, TunnelType};
use stream::Credentials;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use disk::{DEFAULT_PATH, DiskError};
pub use report::Facts;
pub use rota::{BACKOFF_MAX, Rota};
pub use task::{SAVE_INTERVAL, SAVE_QUIET, SILENCE_MAX};

/// Updates that wait for the consumer. What comes meanwhile is merged into one more.
pub const UPDATES_MAX: usize = 4;

/// Whom to follow, as whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub node: NodeName,
    /// Where this node's tunnels end, the preferred address first.
    pub tunnel_addresses: Vec<IpAddr>,
    pub tunnel: TunnelType,
    /// The bridge that this node programs, and its datapath: where virtual machines are plugged.
    pub bridge: String,
    pub datapath: String,
    /// `host:port` of each server. Any of them will do.
    pub servers: Vec<String>,
    pub credentials: Credentials,
    /// Where the view is kept; see [`DEFAULT_PATH`].
    pub path: PathBuf,
}

/// How the view changes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ViewUpdate {
    /// New or different.
    pub upserts: Vec<Arc<Object>>,
    pub removals: Vec<ObjectKey>,
    /// With this update, the view is the one at this revision: report it once it is in force.
    pub revision: Revision,
    /// `upserts` is the whole view, out of a snapshot or the disk; `removals` still says what is gone. The first update always
    /// is one.
    pub is_complete_snapshot: bool,
}

/// How it stands with the servers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkStatus {
    /// The server that is followed.
    pub server: Option<String>,
    /// Up to here the node has everything that concerns it; zero: it has no view.
    pub revision: Revision,
    /// Why the latest attempt ended.
    pub problem: Option<String>,
}

/// The running link.
pub struct Link {
    pub updates: mpsc::Receiver<ViewUpdate>,
    pub status: watch::Receiver<LinkStatus>,
    stopper: Stopper,
}

/// Ends the link's task.
pub struct Stopper {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Stopper {
    /// Writes the view to the disk and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!("the view's task failed: {error}");
        }
    }
}

/// Starts following. `facts` says what is true on the node; as long as it says None, nothing is reported (a node that has just
/// started does not know yet what its switch holds, and must not say that it holds nothing).
pub fn follow(config: Config, facts: watch::Receiver<Option<Arc<Facts>>>) -> Link {
    let (sender, updates) = mpsc::channel(UPDATES_MAX);
    let (status_sender, status) = watch::channel(LinkStatus::default());
    let stop = CancellationToken::new();
    let task = tokio::spawn(task::Task::new(config, sender, facts, status_sender, stop.clone()).run());
    Link { updates, status, stopper: Stopper { stop, task } }
}

impl Link {
    /// The parts, for a consumer that selects over them.
    pub fn split(self) -> (mpsc::Receiver<ViewUpdate>, watch::Receiver<LinkStatus>, Stopper) {
        (self.updates, self.status, self.stopper)
    }

    /// Writes the view to the disk and ends.
    pub async fn stop(self) {
        self.stopper.stop().await;
    }
}
