//! The views without tasks, wire and clock: whoever holds them says when what happens.
//!
//! A simulation drives the same owner, outboxes and sessions' decisions as a server does, one step at a time and in an order of
//! its choice, so that a seed repeats it. Deliberately *not* here: anything that decides.

use std::future::Future;
use std::sync::Arc;

use model::{Node, NodeName, Revision};
use stream::InterestHash;
use stream::wire::{Hello, Report, server_message::Body};
use tokio::sync::mpsc;

use super::catch_up::{Position, resumed};
use super::owner::{Admission, Message, Owner, SessionId};
use super::session::{Said, Speech, snapshot, whole};
use super::shown::Encoder;
use crate::state::{Commit, State};
use crate::writer::Core;

/// The views of a server, driven by hand.
pub struct ByHand {
    owner: Owner,
    encoder: Arc<Encoder>,
    /// The owner's own way to itself, which nobody uses here.
    _messages: mpsc::Sender<Message>,
}

/// A node's stream on the server.
pub struct Followed {
    node: NodeName,
    session: SessionId,
    position: Position,
    /// Until the node has caught up.
    admission: Option<Admission>,
    speech: Speech,
}

impl Followed {
    /// The revision at which the node said to stand.
    pub fn revision(&self) -> Revision {
        self.position.revision
    }

    pub fn is_catching_up(&self) -> bool {
        self.admission.is_some()
    }
}

/// What came of a write, for the owner.
pub struct Wrote(Message);

impl ByHand {
    pub fn new(core: Core) -> ByHand {
        let (messages, inbox) = mpsc::channel(1);
        let encoder = Arc::new(Encoder::default());
        let (owner, _) = Owner::new(core, inbox, messages.downgrade(), encoder.clone());
        ByHand { owner, encoder, _messages: messages }
    }

    /// Takes in at most `most` commits. The number taken.
    pub fn take_in(&mut self, most: usize) -> usize {
        self.owner.take_in(most)
    }

    /// As if more commits had come than are kept for a subscriber.
    pub fn miss_commits(&mut self) {
        self.owner.begin_again(1);
    }

    /// Writes what nodes' reports say. The answer goes to [`ByHand::wrote`].
    pub fn write(&mut self) -> Option<impl Future<Output = Wrote> + Send + use<>> {
        self.owner.due().map(|writing| async move { Wrote(writing.await) })
    }

    pub fn wrote(&mut self, wrote: Wrote) {
        self.owner.message(wrote.0);
    }

    /// The pause after a failed write is over.
    pub fn retry_now(&mut self) {
        self.owner.retry_now();
    }

    /// A node has said Hello.
    pub fn connect(&mut self, hello: &Hello) -> Result<Followed, String> {
        let facts = Node::try_from(hello).map_err(|error| error.to_string())?;
        let node = facts.name.clone();
        let position = Position { revision: Revision(hello.revision), hash: InterestHash(hello.interest_hash) };
        let admission = self.owner.connect(facts).map_err(|taken| taken.to_string())?;
        Ok(Followed { node, session: admission.session, position, speech: Speech::new(&admission), admission: Some(admission) })
    }

    /// What leads the node from where it stands to when it connected. `log` holds the commits after its revision; None: the
    /// store does not reach back so far.
    pub fn catch_up(&self, followed: &mut Followed, log: Option<&[Commit]>) -> Vec<Body> {
        let Some(Admission { state, hash, .. }) = followed.admission.take() else { return Vec::new() };
        let position = followed.position;
        match log.and_then(|log| resumed(&followed.node, position, &state, hash, log, &self.encoder)) {
            Some(batch) => batch.deltas(position.revision).into_iter().map(Body::Delta).collect(),
            None => snapshot(whole(&state, &followed.node), &self.encoder, state.revision(), hash).collect(),
        }
    }

    /// What the server says next: news, or why it ends the stream. Nothing before the node has caught up.
    pub fn say(&self, followed: &mut Followed) -> Result<Vec<Body>, String> {
        if let Some(admission) = &followed.admission {
            return admission.outbox.reason_to_end().map_or(Ok(Vec::new()), Err);
        }
        match followed.speech.next(self.owner.revision()) {
            Said::Nothing => Ok(Vec::new()),
            Said::News(deltas) => Ok(deltas.into_iter().map(Body::Delta).collect()),
            Said::End(reason) => Err(reason),
        }
    }

    /// The time for a heartbeat has come.
    pub fn heartbeat(&self, followed: &mut Followed) -> Option<Body> {
        followed.admission.is_none().then(|| followed.speech.heartbeat())
    }

    pub fn report(&mut self, followed: &Followed, report: &Report) {
        self.owner.report(&followed.node, followed.session, report);
    }

    /// The stream is seen to have ended.
    pub fn disconnect(&mut self, followed: Followed) {
        self.owner.disconnect(&followed.node, followed.session);
    }

    /// The state that the views have taken in.
    pub fn state(&self) -> &State {
        self.owner.state()
    }
}
