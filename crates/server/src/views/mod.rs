//! Each node's view: what it must know of what should be, and what it says is true.
//!
//! ```text
//!             commits                     ┌─ Outbox n1 ─▶ session n1 ─▶ gRPC stream ─▶ node n1
//!  Core ─────────────────▶ Owner ─────────┼─ Outbox n2 ─▶ session n2 ─▶ …
//!    ▲  status, claims,      │ Interest:  └─ …
//!    └── nodes, in batches ──┘ who needs what          reports ◀───────── session ◀── node
//! ```
//!
//! [`closure()`] defines a view; [`interest`] keeps all views up to date, at the cost of what changed; a commit becomes news
//! for the nodes that it concerns, encoded once ([`shown`]), merged while a node is slow ([`outbox`]). A node that comes back
//! is led on from where it stood ([`catch_up`]), in its session's own task. What nodes report becomes the ports' status and
//! home ([`reports`]): state, recomputed, never an event.
//!
//! Tasks: one [`owner`], which alone holds interest and reports, and one [`session`] per node's stream. Nobody waits for a node
//! except its own session. Deliberately *not* here: the protocol (`stream`), and flows (`apps`, on the nodes).

mod by_hand;
mod catch_up;
mod closure;
mod concerns;
pub mod interest;
mod outbox;
mod owner;
mod reports;
mod routes;
mod session;
mod shown;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;

use model::{NodeName, Revision};
use stream::{Follower, Listener, ServeError};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::writer::Core;
use owner::{Forgotten, Message, Owner, Picture, Question, Standing};
use shown::Encoder;

pub use by_hand::{ByHand, Followed, Wrote};
pub use catch_up::RESUME_CHANGES_MAX;
pub use closure::closure;
pub use outbox::PENDING_BYTES_MAX;
pub use owner::STATUS_BATCH_MAX;
pub use reports::Claims;
pub use routes::{is_path, routes};
pub use session::{RESUMES_AT_ONCE, SNAPSHOTS_AT_ONCE};
pub use shown::shown;

/// Messages that wait for the owner. Sessions wait when it is full, and with them their nodes.
const MESSAGES_MAX: usize = 1024;
/// Nodes that have said Hello and wait for their session. Others wait in their handshake.
const FOLLOWERS_MAX: usize = 64;

/// A handle of the views: serves nodes' streams and answers the operator.
#[derive(Clone)]
pub struct Views {
    core: Core,
    messages: mpsc::Sender<Message>,
    encoder: Arc<Encoder>,
    snapshots: Arc<Semaphore>,
    resumes: Arc<Semaphore>,
    /// Up to here every node's news is in its outbox.
    revision: watch::Receiver<Revision>,
    /// Moves whenever a revision may have come into force somewhere.
    progress: watch::Receiver<u64>,
    claims: Claims,
}

/// Where nodes wait for their session.
fn waiting_room() -> (mpsc::Sender<Follower>, mpsc::Receiver<Follower>) {
    mpsc::channel(FOLLOWERS_MAX)
}

impl Views {
    /// Computes the interest of all nodes and starts the owner, which ends with the last handle.
    pub fn start(core: Core) -> Views {
        let (messages, inbox) = mpsc::channel(MESSAGES_MAX);
        let encoder = Arc::new(Encoder::default());
        let (owner, signals) = Owner::new(core.clone(), inbox, messages.downgrade(), encoder.clone());
        tokio::spawn(owner.run());
        let (snapshots, resumes) = (Semaphore::new(SNAPSHOTS_AT_ONCE), Semaphore::new(RESUMES_AT_ONCE));
        let (revision, progress, claims) = (signals.revision, signals.progress, signals.claims);
        Views { core, messages, encoder, snapshots: Arc::new(snapshots), resumes: Arc::new(resumes), revision, progress, claims }
    }

    /// Which nodes claim which ports, at any moment.
    pub fn claims(&self) -> Claims {
        self.claims.clone()
    }

    /// Waits until the owner has ended, which it does only by a fault: no node would hear of a change any more.
    pub async fn ended(&self) {
        self.messages.closed().await;
    }

    /// Serves the nodes that connect to `listener` until `shutdown` is done.
    pub async fn serve(&self, listener: Listener, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let (sender, mut followers) = waiting_room();
        let mut sessions = tokio::task::JoinSet::new();
        let running = listener.run(sender, shutdown);
        tokio::pin!(running);
        loop {
            tokio::select! {
                // The sessions end with the set.
                result = &mut running => return result,
                Some(follower) = followers.recv() => drop(sessions.spawn(session::serve(self.clone(), follower))),
                Some(_) = sessions.join_next() => {}
            }
        }
    }

    /// Drops what a node said; None while the server stops.
    async fn forget(&self, node: NodeName) -> Option<Forgotten> {
        let (answer, answered) = oneshot::channel();
        self.messages.send(Message::Forget { node, answer }).await.ok()?;
        answered.await.ok()
    }

    #[cfg(test)]
    pub(crate) async fn break_owner(&self) {
        drop(self.messages.send(Message::Break).await);
    }

    /// How far nodes are; None while the server stops. None inside: the node that is asked for is not known.
    async fn standing(&self, question: Question) -> Option<Option<Standing>> {
        let (answer, answered) = oneshot::channel();
        self.messages.send(Message::HowFar { question, answer }).await.ok()?;
        answered.await.ok()
    }

    /// Everything at one moment; None while the server stops.
    async fn picture(&self) -> Option<Picture> {
        let (answer, answered) = oneshot::channel();
        self.messages.send(Message::Ask { answer }).await.ok()?;
        answered.await.ok()
    }
}
