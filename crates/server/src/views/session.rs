//! One node's stream on the server: bring it up to date, keep it so, and listen.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use model::{Node, NodeName, Object, Revision, StoreId};
use stream::wire::{
    Delta, Heartbeat, NodeMessage, Refused, ServerMessage, SnapshotBegin, SnapshotChunk, SnapshotEnd, Welcome, node_message,
    server_message::Body,
};
use stream::{Follower, HEARTBEAT_INTERVAL, InterestHash};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tonic::{Status, Streaming};

use super::Views;
use super::catch_up::{Position, RESUME_CHANGES_MAX, resumed};
use super::closure::closure;
use super::outbox::{Batch, Next, chunks};
use super::owner::{AddressTaken, Admission, Message, SessionId};
use super::shown::Encoder;
use crate::state::State;

/// Snapshots that are made and sent at once. The rest wait: they would only take the bandwidth from each other.
pub const SNAPSHOTS_AT_ONCE: usize = 4;
/// Views that are computed at once, to compare nodes with their past or to make snapshots: it takes processor time, which the other
/// nodes' streams need as well. The rest wait.
pub const RESUMES_AT_ONCE: usize = 2;
/// A snapshot that takes longer to send gives its place among those at once to the next, and goes on without: a slow node holds up the
/// others for so long at most.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that comes from another server may have heard more than this one: that much is waited for, for so long.
const BEHIND_TIMEOUT: Duration = Duration::from_secs(5);
/// A node that takes nothing off the wire for this long is let go; it resumes when it connects again.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

type Outbound = mpsc::Sender<Result<ServerMessage, Status>>;

/// The stream has ended.
struct Ended;

/// Serves one stream until it ends.
pub async fn serve(views: Views, follower: Follower) {
    let Follower { node, hello, inbound, outbound } = follower;
    let wire = Wire { outbound };
    let facts = match Node::try_from(&hello) {
        Ok(facts) => facts,
        Err(error) => return drop(wire.refuse(error.to_string()).await),
    };
    let ours = views.core.identity();
    if wire.send(Body::Welcome(Welcome { store: ours.to_string() })).await.is_err() {
        return;
    }
    if let Ok(theirs) = hello.store.parse::<StoreId>()
        && ours != theirs
    {
        // The node takes nothing from here, and nothing that it says is about this store.
        drop(views.messages.send(Message::Stranger { facts, store: theirs }).await);
        return drop(wire.refuse(format!("this is store {ours}, and the node's view is of store {theirs}")).await);
    }
    let position = Position { revision: Revision(hello.revision), hash: InterestHash(hello.interest_hash) };
    if views.core.server().is_some() {
        have_heard(views.revision.clone(), position.revision).await;
    }
    let admission = match connect(&views, facts).await {
        Some(Ok(admission)) => admission,
        Some(Err(taken)) => return drop(wire.refuse(taken.to_string()).await),
        None => return,
    };
    let session = admission.session;
    let talk = async {
        tokio::select! {
            _ = speak(&views, &node, position, admission, &wire) => {}
            _ = listen(&views, &node, session, inbound) => {}
        }
    };
    converse(&views, &node, session, talk).await;
}

/// Waits until this server has heard of `revision`. A node that has seen what the store has lost gets a snapshot in the end.
async fn have_heard(mut ours: watch::Receiver<Revision>, revision: Revision) {
    drop(tokio::time::timeout(BEHIND_TIMEOUT, ours.wait_for(|ours| *ours >= revision)).await);
}

/// Talks with the node, and however that ends, by a fault of ours too, says that it has ended.
pub(super) async fn converse(views: &Views, node: &NodeName, session: SessionId, talk: impl Future<Output = ()>) {
    let ended = AssertUnwindSafe(talk).catch_unwind().await;
    drop(views.messages.send(Message::Disconnect { node: node.clone(), session }).await);
    if let Err(panic) = ended {
        tracing::error!(
            "the stream of node {node} ended by a fault of the server: the node keeps forwarding and connects again; if it repeats, report \
             what stands above"
        );
        resume_unwind(panic);
    }
}

pub(super) async fn connect(views: &Views, facts: Node) -> Option<Result<Admission, AddressTaken>> {
    let (answer, answered) = oneshot::channel();
    views.messages.send(Message::Connect { facts, answer }).await.ok()?;
    answered.await.ok()
}

/// Hands the node's reports to the owner.
async fn listen(views: &Views, node: &NodeName, session: SessionId, mut inbound: Streaming<NodeMessage>) -> Result<(), Ended> {
    // What a newer node may say besides is nothing to this release.
    while let Ok(Some(NodeMessage { body })) = inbound.message().await {
        if let Some(node_message::Body::Report(report)) = body {
            let message = Message::Report { node: node.clone(), session, report };
            views.messages.send(message).await.map_err(|_| Ended)?;
        }
    }
    Err(Ended)
}

async fn speak(views: &Views, node: &NodeName, position: Position, admission: Admission, wire: &Wire) -> Result<(), Ended> {
    let outbox = admission.outbox.clone();
    let mut speech = Speech::new(&admission);
    let catching_up = catch_up(views, node, position, admission, wire);
    tokio::select! {
        done = catching_up => done?,
        reason = ended(&outbox) => return wire.refuse(reason).await,
    }
    let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
    heartbeat.reset();
    loop {
        let revision = *views.revision.borrow();
        match speech.next(revision) {
            Said::End(reason) => return wire.refuse(reason).await,
            Said::News(deltas) => {
                for delta in deltas {
                    wire.send(Body::Delta(delta)).await?;
                }
            }
            Said::Nothing => tokio::select! {
                () = outbox.filled.notified() => {}
                _ = heartbeat.tick() => wire.send(speech.heartbeat()).await?,
            },
        }
    }
}

/// What is said to a node after it has caught up.
pub(super) struct Speech {
    outbox: Arc<super::outbox::Outbox>,
    /// Where the node is when it has heard everything that was said.
    at: Revision,
    /// There was nothing to say up to here.
    quiet_at: Revision,
}

pub(super) enum Said {
    Nothing,
    News(Vec<Delta>),
    End(String),
}

impl Speech {
    pub fn new(admission: &Admission) -> Speech {
        let at = admission.state.revision();
        Speech { outbox: admission.outbox.clone(), at, quiet_at: at }
    }

    /// What waits. The owner's `revision` was read before: then an empty outbox means that nothing up to there is still to be
    /// said.
    pub fn next(&mut self, revision: Revision) -> Said {
        match self.outbox.take() {
            Next::End(reason) => Said::End(reason),
            Next::Send(batch) => {
                let from = std::mem::replace(&mut self.at, batch.to);
                Said::News(batch.deltas(from))
            }
            Next::Nothing => {
                self.quiet_at = revision;
                Said::Nothing
            }
        }
    }

    /// There is no news up to here. Old by the time it is said, which is never wrong.
    pub fn heartbeat(&mut self) -> Body {
        self.at = self.at.max(self.quiet_at);
        Body::Heartbeat(Heartbeat { revision: self.at.0 })
    }
}

/// Waits until the stream is to be ended.
async fn ended(outbox: &super::outbox::Outbox) -> String {
    loop {
        outbox.filled.notified().await;
        if let Some(reason) = outbox.reason_to_end() {
            return reason;
        }
    }
}

/// What leads a node to the admission's state.
enum Lead {
    Changes(Batch),
    /// The objects, and the permit to send them.
    Snapshot(Vec<Arc<Object>>, OwnedSemaphorePermit),
}

/// Leads the node from where it stands to the admission's state.
async fn catch_up(views: &Views, node: &NodeName, position: Position, admission: Admission, wire: &Wire) -> Result<(), Ended> {
    let admission = Arc::new(admission);
    match wire.alive_during(lead(views, node, position, &admission)).await?? {
        Lead::Changes(batch) => wire.batch(batch, position.revision).await,
        Lead::Snapshot(objects, permit) => {
            let (revision, hash) = (admission.state.revision(), admission.hash);
            // What is not the node's may go while a slow one takes its view.
            drop(admission);
            let messages = snapshot(objects, &views.encoder, revision, hash);
            while_it_lasts(permit, wire.all(messages)).await
        }
    }
}

/// Does `work`, with the permit for as long as a turn lasts, and without it from then on.
async fn while_it_lasts<T>(permit: OwnedSemaphorePermit, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if let Ok(done) = tokio::time::timeout(TURN_TIMEOUT, &mut work).await {
        return done;
    }
    drop(permit);
    work.await
}

/// Finds out, when it is the node's turn, what leads it on.
async fn lead(views: &Views, node: &NodeName, position: Position, admission: &Arc<Admission>) -> Result<Lead, Ended> {
    // A node without a view needs no look at the log.
    if position.has_view()
        && let Some(batch) = resume(views, node, position, admission).await
    {
        tracing::info!(
            "node {node} resumes from revision {} with {} changes",
            position.revision,
            batch.upserts.len() + batch.removals.len()
        );
        return Ok(Lead::Changes(batch));
    }
    let permit = views.snapshots.clone().acquire_owned().await.map_err(|_| Ended)?;
    let (source, name) = (admission.clone(), node.clone());
    let computing = views.resumes.acquire().await.map_err(|_| Ended)?;
    let found = tokio::task::spawn_blocking(move || whole(&source.state, &name));
    let objects = found.await.map_err(|_| Ended)?;
    drop(computing);
    tracing::info!("node {node} gets a snapshot of {} objects", objects.len());
    Ok(Lead::Snapshot(objects, permit))
}

async fn resume(views: &Views, node: &NodeName, position: Position, admission: &Arc<Admission>) -> Option<Batch> {
    let _permit = views.resumes.acquire().await.ok()?;
    let log = match views.core.changes(position.revision, RESUME_CHANGES_MAX).await {
        Ok(log) => log,
        Err(error) => {
            tracing::info!("node {node} cannot resume and gets a snapshot, which disturbs no traffic: {error}");
            return None;
        }
    };
    let (encoder, source, node) = (views.encoder.clone(), admission.clone(), node.clone());
    let batch = tokio::task::spawn_blocking(move || resumed(&node, position, &source.state, source.hash, &log, &encoder));
    batch.await.ok().flatten()
}

/// All objects of the node's view.
pub(super) fn whole(state: &State, node: &NodeName) -> Vec<Arc<Object>> {
    closure(state, node).into_iter().filter_map(|key| state.object(key)).cloned().collect()
}

/// The messages of a snapshot. Each is encoded when it is to be sent: for a slow node objects wait that are there anyway.
pub(super) fn snapshot(objects: Vec<Arc<Object>>, encoder: &Encoder, revision: Revision, hash: InterestHash) -> impl Iterator<Item = Body> {
    let begin = Body::SnapshotBegin(SnapshotBegin { revision: revision.0, objects: objects.len() as u64 });
    let encoded = objects.into_iter().map(move |object| encoder.encode(&object));
    let chunks = chunks(encoded).map(|objects| Body::SnapshotChunk(SnapshotChunk { objects }));
    let end = Body::SnapshotEnd(SnapshotEnd { revision: revision.0, interest_hash: hash.0 });
    std::iter::once(begin).chain(chunks).chain([end])
}

/// The way to the node.
struct Wire {
    outbound: Outbound,
}

impl Wire {
    async fn send(&self, body: Body) -> Result<(), Ended> {
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.outbound.send(Ok(body.into()))).await;
        sent.map_err(|_| Ended)?.map_err(|_| Ended)
    }

    /// Does `work` while the node waits, and says now and then that it does not wait for a dead server. Nothing is known to
    /// be new or not by then: no revision.
    async fn alive_during<T>(&self, work: impl Future<Output = T>) -> Result<T, Ended> {
        tokio::pin!(work);
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        heartbeat.reset();
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                _ = heartbeat.tick() => self.send(Body::Heartbeat(Heartbeat { revision: Revision::default().0 })).await?,
            }
        }
    }

    async fn batch(&self, batch: Batch, from: Revision) -> Result<(), Ended> {
        self.all(batch.deltas(from).into_iter().map(Body::Delta)).await
    }

    async fn all(&self, messages: impl Iterator<Item = Body>) -> Result<(), Ended> {
        for body in messages {
            self.send(body).await?;
        }
        Ok(())
    }

    /// Says why the stream ends.
    async fn refuse(&self, reason: String) -> Result<(), Ended> {
        self.send(Body::Refused(Refused { reason })).await?;
        Err(Ended)
    }
}

#[cfg(test)]
mod tests {
    use model::Port;
    use stream::CHUNK_BYTES;
    use tokio::sync::Semaphore;
    use tokio::time::Instant;

    use super::super::tests::world::vm;
    use super::*;

    /// So many objects that each fill a chunk.
    fn large(objects: u32) -> Vec<Arc<Object>> {
        let name = "x".repeat(CHUNK_BYTES);
        (1..=objects).map(|n| Arc::new(Port { name: name.clone(), ..vm(n, 1, 1) }.into())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_node_has_heard_elsewhere_is_waited_for_and_not_for_ever() {
        let (ours, seen) = watch::channel(Revision(1));
        let begun = Instant::now();
        have_heard(seen.clone(), Revision(1)).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        have_heard(seen.clone(), Revision(2)).await;
        assert_eq!(begun.elapsed().as_secs(), BEHIND_TIMEOUT.as_secs());
        let waiting = tokio::spawn(have_heard(seen, Revision(2)));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        ours.send_replace(Revision(2));
        waiting.await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), BEHIND_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_takes_nothing_off_the_wire_is_let_go() {
        let (outbound, mut taken) = mpsc::channel(1);
        let wire = Wire { outbound };
        let heartbeat = |revision| Body::Heartbeat(Heartbeat { revision });
        let begun = Instant::now();
        assert!(wire.send(heartbeat(1)).await.is_ok());
        assert!(wire.send(heartbeat(2)).await.is_err());
        assert_eq!(begun.elapsed().as_secs(), SEND_TIMEOUT.as_secs());
        assert!(taken.recv().await.is_some());
        assert!(wire.send(heartbeat(3)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_for_a_slow_node_goes_on_when_it_is_the_next_ones_turn() {
        const CHUNKS: u32 = 4;
        let turns = Arc::new(Semaphore::new(1));
        let permit = turns.clone().acquire_owned().await.unwrap();
        let (outbound, mut taken) = mpsc::channel(1);
        let wire = Wire { outbound };
        let begun = Instant::now();
        let sending = tokio::spawn(async move {
            let encoder = Encoder::default();
            let messages = snapshot(large(CHUNKS), &encoder, Revision(1), InterestHash::default());
            while_it_lasts(permit, wire.all(messages)).await
        });
        tokio::task::yield_now().await;
        assert_eq!(turns.available_permits(), 0);
        let _next = turns.acquire().await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), TURN_TIMEOUT.as_secs());
        assert!(!sending.is_finished());
        let mut messages = 0;
        while taken.recv().await.is_some() {
            messages += 1;
        }
        assert_eq!(messages, CHUNKS + 2, "between the beginning and the end");
        assert!(sending.await.unwrap().is_ok());
    }

    #[test]
    fn a_snapshot_is_encoded_as_it_is_sent() {
        let (encoder, objects) = (Encoder::default(), large(3));
        let keys: Vec<_> = objects.iter().map(|object| object.key()).collect();
        let mut messages = snapshot(objects, &encoder, Revision(1), InterestHash::default());
        assert!(matches!(messages.next(), Some(Body::SnapshotBegin(begin)) if begin.objects == 3));
        for sent in 1..=3 {
            assert!(matches!(messages.next(), Some(Body::SnapshotChunk(chunk)) if chunk.objects.len() == 1));
            assert_eq!(keys.iter().filter(|key| encoder.keeps(**key)).count(), sent);
        }
        assert!(matches!(messages.next(), Some(Body::SnapshotEnd(_))) && messages.next().is_none());
    }
}
