//! What the owner writes: nodes as they said to be, and the ports' status and claims, in batches, one at a time.
//!
//! A batch names what may differ. What is written of it is decided in the transaction, on the state as the writer has it, so that
//! nothing old is written over what a user or another server has said meanwhile. What could not be written is tried again.

use std::future::Future;
use std::time::Duration;

use model::{Kind, Node, NodeName, ObjectKey, Port, PortId, Revision};
use uuid::Uuid;

use super::{Message, Owner, is_elsewhere};
use crate::views::reports::Reports;
use crate::writer::{Tx, WriteError};

/// Ports whose status or claim is written in one transaction. The others follow in the next.
pub const STATUS_BATCH_MAX: usize = 256;
/// After a write that failed, the next try.
const RETRY_AFTER: Duration = Duration::from_millis(500);

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
        let (core, reports) = (self.core.clone(), self.reports.clone());
        let server = core.server();
        Some(async move {
            let written = batch.clone();
            let result = core.write(move |tx: &mut Tx| Ok::<(), WriteError>(apply(tx, &written, &reports, server))).await;
            Message::Wrote { batch, result: result.map(|written| written.revision) }
        })
    }

    /// A write that failed is tried again without delay.
    pub fn retry_now(&mut self) {
        self.retry_at = None;
    }

    fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        batch.nodes = std::mem::take(&mut self.dirty_nodes).into_values().filter(|node| self.is_news(node)).collect();
        while batch.ports.len() < STATUS_BATCH_MAX
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

    pub(super) fn wrote(&mut self, batch: Batch, result: Result<Revision, WriteError>) {
        self.is_writing = false;
        match result {
            Ok(revision) => self.write_from = revision,
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
}

/// Decides again, on the state as the writer has it: a user may have moved a port meanwhile.
fn apply(tx: &mut Tx, batch: &Batch, heard: &Reports, server: Option<Uuid>) {
    for node in &batch.nodes {
        if tx.state().node(&node.name) != Some(node) {
            tx.put(node.clone());
        }
    }
    // Reports of nodes that follow another server by now are old.
    let state = tx.state();
    let true_still = server.map(|_| heard.without(|node| state.node(node).is_some_and(|node| is_elsewhere(node, server))));
    let reports = true_still.as_ref().unwrap_or(heard);
    let settled: Vec<Port> = batch.ports.iter().filter_map(|id| reports.settled(tx.state().port(*id)?)).collect();
    settled.into_iter().for_each(|port| tx.put(port));
}

/// Takes a node that the operator gave up out of the state: its object, and what it claimed.
pub fn forget(tx: &mut Tx, node: &NodeName, reports: &Reports) {
    let settled: Vec<Port> = tx.state().ports_at(node.clone()).filter_map(|port| reports.settled(port)).collect();
    settled.into_iter().for_each(|port| tx.put(port));
    if tx.state().node(node).is_some() {
        tx.delete(ObjectKey::new(Kind::Node, node.id()));
    }
}
