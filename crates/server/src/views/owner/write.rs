//! What the owner writes: nodes as they said to be, and the ports' status and claims, in batches, one at a time.
//!
//! A batch names what may differ. What is written of it is decided in the transaction, on the state as the writer has it, so that
//! nothing old is written over what a user or another server has said meanwhile. What could not be written is tried again, ever more
//! seldom; where deciding failed by a fault of ours, in ever smaller batches, until the object that it is about is alone and left out.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use model::{Kind, Node, NodeName, ObjectKey, Port, PortId};
use tokio::time::Instant;
use uuid::Uuid;

use super::tunnels::{Tunnels, check_addresses};
use super::{AddressTaken, Message, Owner, is_elsewhere};
use crate::state::State;
use crate::views::reports::Reports;
use crate::writer::{Tx, WriteError, Written};

/// Nodes and ports that are written in one transaction. The others follow in the next.
pub const STATUS_BATCH_MAX: usize = 256;
/// After a write that failed, the next try; after twice as long each time that it fails again.
pub const RETRY_AFTER: Duration = Duration::from_millis(500);
/// The longest pause before the next try.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// What goes to the writer together.
#[derive(Clone, Default)]
pub struct Batch {
    ports: Vec<PortId>,
    nodes: Vec<Node>,
}

impl Batch {
    fn len(&self) -> usize {
        self.ports.len() + self.nodes.len()
    }

    /// The first that is in it.
    fn first(&self) -> String {
        let port = self.ports.first().map(|port| format!("port {port}"));
        self.nodes.first().map(|node| format!("node {}", node.name)).or(port).unwrap_or_default()
    }
}

/// When and how much is written after writes that failed.
pub struct Retry {
    /// Nothing is written before.
    at: Option<Instant>,
    pause: Duration,
    /// What goes into a batch at most.
    size: usize,
    /// What the log says of the latest write: nothing is said twice.
    problem: Option<WriteError>,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { at: None, pause: RETRY_AFTER, size: STATUS_BATCH_MAX, problem: None }
    }
}

/// What becomes of a batch that was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// It is tried again.
    Again,
    /// It is one object, about which nothing can be decided.
    LeftOut,
}

impl Retry {
    /// Until there is nothing to wait for.
    pub async fn pause(&self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    pub fn is_over(&mut self) {
        self.at = None;
    }

    fn succeeded(&mut self) {
        if self.problem.take().is_some() {
            tracing::info!("status is written again");
        }
        *self = Retry { size: (self.size * 2).min(STATUS_BATCH_MAX), ..Retry::default() };
    }

    fn failed(&mut self, batch: &Batch, error: WriteError) -> Next {
        let is_fault = matches!(error, WriteError::Internal(_));
        if is_fault && batch.len() == 1 {
            let what = batch.first();
            tracing::error!(
                "what nodes say of {what} is not written before something about it changes; what they say of others is: {error}"
            );
            return Next::LeftOut;
        }
        if self.problem.as_ref() != Some(&error) {
            let count = batch.len();
            tracing::warn!("what nodes say of {count} ports and nodes is not written, which is tried again until it is: {error}");
            self.problem = Some(error);
        }
        if is_fault {
            // Smaller ones until it is alone, and at once: the store is not what fails.
            self.size = batch.len() / 2;
        } else {
            self.at = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(RETRY_AFTER_MAX);
        }
        Next::Again
    }
}

impl Owner {
    pub(super) fn write(&mut self) {
        let Some(writing) = self.due() else { return };
        let own = self.own.clone();
        tokio::spawn(async move {
            let wrote = writing.await;
            if let Some(own) = own.upgrade() {
                drop(own.send(wrote).await);
            }
        });
    }

    /// Writes what differs from what the reports say, if nothing is being written. The owner wants the answer as a message.
    pub fn due(&mut self) -> Option<impl Future<Output = Message> + Send + use<>> {
        if self.is_writing || self.retry.at.is_some() || self.state.revision() < self.write_from {
            return None;
        }
        let batch = self.batch();
        if batch.len() == 0 {
            return None;
        }
        self.is_writing = true;
        let core = self.core.clone();
        let known = Known { state: self.state.clone(), reports: self.reports.clone(), server: core.server() };
        Some(async move {
            let written = batch.clone();
            let result = core.write(move |tx: &mut Tx| Ok::<_, WriteError>(apply(tx, &written, &known))).await;
            Message::Wrote { batch, result }
        })
    }

    /// A write that failed is tried again without delay.
    pub fn retry_now(&mut self) {
        self.retry.is_over();
    }

    /// Nodes first: others must know whom they follow before they see what they say.
    fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        while batch.len() < self.retry.size
            && let Some((_, node)) = self.dirty_nodes.pop_first()
        {
            if self.is_news(&node) {
                batch.nodes.push(node);
            }
        }
        while batch.len() < self.retry.size
            && let Some(id) = self.dirty_ports.pop_first()
        {
            if self.state.port(id).is_some_and(|port| self.reports.settled(port).is_some()) {
                batch.ports.push(id);
            }
        }
        batch
    }

    fn is_news(&self, node: &Node) -> bool {
        self.state.node(&node.name) != Some(node) && !self.reports.is_forgotten(&node.name)
    }

    pub(super) fn wrote(&mut self, batch: Batch, result: Result<Written<Vec<AddressTaken>>, WriteError>) {
        self.is_writing = false;
        match result {
            Ok(written) => {
                self.retry.succeeded();
                self.write_from = written.revision;
                written.value.iter().for_each(|taken| self.turn_away(taken));
            }
            Err(error) => {
                if self.retry.failed(&batch, error) == Next::LeftOut {
                    return;
                }
                self.dirty_ports.extend(batch.ports);
                let is_here = |node: &Node| self.nodes.get(&node.name).is_some_and(|track| track.session.is_some());
                let again: Vec<Node> = batch.nodes.into_iter().filter(|node| self.core.server().is_none() || is_here(node)).collect();
                for node in again {
                    self.dirty_nodes.entry(node.name.clone()).or_insert(node);
                }
            }
        }
    }

    /// Two nodes came to two servers at once with one address: the stream of the one that is written later ends.
    fn turn_away(&self, taken: &AddressTaken) {
        let track = self.nodes.get(&taken.node).filter(|track| track.addresses.contains(&taken.address));
        if let Some((_, outbox)) = track.and_then(|track| track.session.as_ref()) {
            tracing::warn!("{taken}");
            outbox.end(taken.to_string());
        }
    }
}

/// What the owner knew when it began to write.
struct Known {
    state: Arc<State>,
    reports: Reports,
    server: Option<Uuid>,
}

/// Decides again, on the state as the writer has it: a user may have moved a port meanwhile. Nodes whose tunnel address another
/// server has written for another node first are told and left out.
fn apply(tx: &mut Tx, batch: &Batch, known: &Known) -> Vec<AddressTaken> {
    let (mut taken, no_streams) = (Vec::new(), Tunnels::default());
    for node in batch.nodes.iter().filter(|node| tx.state().node(&node.name) != Some(node)).collect::<Vec<_>>() {
        match check_addresses(tx.state(), node, &no_streams) {
            Ok(()) => tx.put(node.clone()),
            Err(other) => taken.push(other),
        }
    }
    // Reports of nodes that follow another server by now are old.
    let state = tx.state();
    let is_elsewhere = |node: &NodeName| state.node(node).is_some_and(|node| is_elsewhere(node, known.server));
    let true_still = known.server.map(|_| known.reports.without(is_elsewhere));
    let reports = true_still.as_ref().unwrap_or(&known.reports);
    let settled: Vec<Port> = batch.ports.iter().filter_map(|id| settled(state, *id, reports, known)).collect();
    settled.into_iter().for_each(|port| tx.put(port));
    taken
}

/// The port as it is to be; None: as it is. Where its home follows another server, and anybody has written the port since the owner
/// looked, its status is left as it is: that server may just have said it.
fn settled(state: &State, id: PortId, reports: &Reports, known: &Known) -> Option<Port> {
    let port = state.port(id)?;
    let settled = reports.settled(port)?;
    let key = ObjectKey::new(Kind::Port, id);
    let is_as_seen = state.object(key).zip(known.state.object(key)).is_some_and(|(now, then)| Arc::ptr_eq(now, then));
    let is_others = settled.home().and_then(|home| state.node(home)).is_some_and(|home| is_elsewhere(home, known.server));
    let status = if is_others && !is_as_seen { port.status } else { settled.status };
    Some(Port { status, ..settled }).filter(|settled| settled != port)
}

/// Takes a node that the operator gave up out of the state: its object, and what it claimed.
pub fn forget(tx: &mut Tx, node: &NodeName, reports: &Reports) {
    let settled: Vec<Port> = tx.state().ports_at(node.clone()).filter_map(|port| reports.settled(port)).collect();
    settled.into_iter().for_each(|port| tx.put(port));
    if tx.state().node(node).is_some() {
        tx.delete(ObjectKey::new(Kind::Node, node.id()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::sync::mpsc;

    use super::*;
    use crate::views::tests::world::{name, node};
    use crate::writer::Core;

    fn batch(ports: u128) -> Batch {
        Batch { ports: (0..ports).map(|n| PortId(Uuid::from_u128(n))).collect(), nodes: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_takes_nothing_is_asked_ever_more_seldom_until_it_does() {
        let (mut retry, begun) = (Retry::default(), Instant::now());
        let mut pauses = Vec::new();
        while pauses.last() != Some(&RETRY_AFTER_MAX) || pauses.len() < 9 {
            assert_eq!(retry.failed(&batch(1), WriteError::StoreFull), Next::Again);
            pauses.push(retry.at.unwrap() - begun);
        }
        let doubled = |n: u32| (RETRY_AFTER * 2u32.pow(n)).min(RETRY_AFTER_MAX);
        assert_eq!(pauses, (0..pauses.len() as u32).map(doubled).collect::<Vec<_>>());
        retry.succeeded();
        assert!(retry.at.is_none());
        retry.failed(&batch(1), WriteError::StoreFull);
        assert_eq!(retry.at, Some(begun + RETRY_AFTER), "from the beginning");
    }

    fn say_hello(owner: &mut Owner, n: u32) {
        owner.connect(node(n)).unwrap_or_else(|taken| panic!("{taken}"));
    }

    /// Writes until nothing waits, what names node n5 by a fault in vain. How often.
    async fn write(owner: &mut Owner) -> usize {
        let mut tries = 0;
        loop {
            let batch = owner.batch();
            if batch.len() == 0 {
                return tries;
            }
            tries += 1;
            assert!(tries < 50 && owner.retry.at.is_none(), "at once, and not for ever");
            let known = Known { state: owner.state.clone(), reports: owner.reports.clone(), server: None };
            let (written, is_bad) = (batch.clone(), batch.nodes.iter().any(|node| node.name == name(5)));
            let deciding = move |tx: &mut Tx| {
                assert!(!is_bad, "on purpose");
                Ok::<_, WriteError>(apply(tx, &written, &known))
            };
            let result = owner.core.write(deciding).await;
            owner.wrote(batch, result);
        }
    }

    #[tokio::test]
    async fn what_nothing_can_be_decided_about_holds_up_no_other() {
        let core = Core::start(Arc::new(store::Memory::new())).unwrap();
        let (messages, inbox) = mpsc::channel(1);
        let (mut owner, _signals) = Owner::new(core.clone(), inbox, messages.downgrade(), Arc::default());
        (1..=9).for_each(|n| say_hello(&mut owner, n));
        write(&mut owner).await;
        let written: BTreeSet<_> = core.state().all::<Node>().map(|node| node.name.clone()).collect();
        assert_eq!(written, BTreeSet::from([1, 2, 3, 4, 6, 7, 8, 9].map(name)));
        // It is tried again when something about it has changed.
        say_hello(&mut owner, 5);
        assert_eq!(write(&mut owner).await, 1);
    }
}
