//! What the owner writes: nodes as they said to be, and the ports' status and claims, in batches, one at a time.
//!
//! A batch names what may differ. What is written of it is decided in the transaction, on the state as the writer has it, so that
//! nothing old is written over what a user or another server has said meanwhile. What could not be written is tried again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use model::{Kind, Node, NodeName, ObjectKey, Port, PortId};
use uuid::Uuid;

use super::{AddressTaken, Message, Owner, check_addresses, is_elsewhere};
use crate::state::State;
use crate::views::reports::Reports;
use crate::writer::{Tx, WriteError, Written};

/// Nodes and ports that are written in one transaction. The others follow in the next.
pub const STATUS_BATCH_MAX: usize = 256;
/// After a write that failed, the next try.
pub const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What goes to the writer together.
#[derive(Clone, Default)]
pub struct Batch {
    ports: Vec<PortId>,
    nodes: Vec<Node>,
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
        if self.is_writing || self.retry_at.is_some() || self.state.revision() < self.write_from {
            return None;
        }
        let batch = self.batch();
        if batch.ports.is_empty() && batch.nodes.is_empty() {
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
        self.retry_at = None;
    }

    /// Nodes first: others must know whom they follow before they see what they say.
    fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        while batch.nodes.len() < STATUS_BATCH_MAX
            && let Some((_, node)) = self.dirty_nodes.pop_first()
        {
            if self.is_news(&node) {
                batch.nodes.push(node);
            }
        }
        while batch.nodes.len() + batch.ports.len() < STATUS_BATCH_MAX
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
                self.write_from = written.revision;
                written.value.iter().for_each(|taken| self.turn_away(taken));
            }
            Err(error) => {
                tracing::warn!("status of {} ports could not be written, which is tried again: {error}", batch.ports.len());
                self.dirty_ports.extend(batch.ports);
                let is_here = |node: &Node| self.nodes.get(&node.name).is_some_and(|track| track.session.is_some());
                let again: Vec<Node> = batch.nodes.into_iter().filter(|node| self.core.server().is_none() || is_here(node)).collect();
                for node in again {
                    self.dirty_nodes.entry(node.name.clone()).or_insert(node);
                }
                self.retry_at = Some(tokio::time::Instant::now() + RETRY_AFTER);
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
    let mut taken = Vec::new();
    for node in batch.nodes.iter().filter(|node| tx.state().node(&node.name) != Some(node)).collect::<Vec<_>>() {
        match check_addresses(tx.state(), node, std::iter::empty()) {
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
