//! What nodes say is true, and what follows for ports: whose they are, and their status.
//!
//! Everything here is computed from the latest reports and never from an event, so that a port has its true status whatever
//! was lost or killed on the way. A node that is not connected keeps its last report: its ports' traffic goes on. A node that
//! has not reported since this server started changes nothing.
//!
//! The value is cheap to clone (its maps share structure): the writer's closures and the operator's questions take a copy.

use std::collections::BTreeSet;

use imbl::{OrdMap, OrdSet};
use model::{NodeName, Port, PortId, PortStatus};
use stream::wire::{IFACE_ID_BYTES_MAX, Interface, Presence, Report, WireError, port_id};
use tokio::sync::watch;

/// Interfaces, and ports in force, that the server keeps of one node. More are a fault on the node.
pub const INTERFACES_MAX: usize = 65_536;
/// What is kept of the error that OVSDB tells of an interface, and of the names of interfaces with one iface-id, in bytes.
pub const ERROR_BYTES_MAX: usize = 255;

/// Why a report is not taken in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReportError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("more than {INTERFACES_MAX} interfaces or ports in force on one node")]
    TooMany,
    #[error("an iface-id of more than {IFACE_ID_BYTES_MAX} bytes")]
    LongId,
}

/// The latest reports of all nodes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reports {
    nodes: OrdMap<NodeName, NodeReport>,
    /// Nodes on whose switch the port's interface is, in the order in which they came.
    presenters: OrdMap<PortId, Vec<NodeName>>,
    installers: OrdMap<PortId, Vec<NodeName>>,
    /// Ports that moved to a node that has not reported yet: their status is another node's.
    moved: OrdSet<PortId>,
    /// Nodes that the operator gave up, until they come back: what they had is not theirs any more.
    forgotten: OrdSet<NodeName>,
}

/// What nodes claim, for those who show ports. The default knows of none.
#[derive(Clone, Default)]
pub struct Claims(Option<watch::Receiver<Reports>>);

impl Claims {
    pub(super) fn of(reports: watch::Receiver<Reports>) -> Claims {
        Claims(Some(reports))
    }

    /// Nodes that have the port's interface although the port is another's.
    pub fn conflicts(&self, port: &Port) -> Vec<NodeName> {
        self.0.as_ref().map_or_else(Vec::new, |reports| reports.borrow().conflicts(port).cloned().collect())
    }
}

/// The latest report of one node.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct NodeReport {
    /// By iface-id.
    pub present: OrdMap<String, Presence>,
    pub installed: OrdSet<PortId>,
    /// Flows and groups that its switch refuses.
    pub refused: u32,
}

impl Reports {
    /// Takes in a report; tells the ports for which it may mean something. One that is refused changes nothing.
    pub fn update(&mut self, node: &NodeName, report: &Report) -> Result<BTreeSet<PortId>, ReportError> {
        // Most reports say that a revision is in force and nothing else.
        let acknowledgement = Report { revision: report.revision, refused: report.refused, ..Report::default() };
        if *report == acknowledgement && self.node(node).is_some_and(|known| known.refused == report.refused) {
            return Ok(BTreeSet::new());
        }
        if report.present.len() > INTERFACES_MAX {
            return Err(ReportError::TooMany);
        }
        if report.present.iter().any(|interface| interface.iface_id.len() > IFACE_ID_BYTES_MAX) {
            return Err(ReportError::LongId);
        }
        let installed = report.installed.iter().map(|id| port_id(id)).collect::<Result<Vec<_>, _>>()?;
        let uninstalled = report.uninstalled.iter().map(|id| port_id(id)).collect::<Result<Vec<_>, _>>()?;
        let before = self.nodes.get(node).cloned().unwrap_or_default();
        let mut after = if report.is_full { NodeReport::default() } else { before.clone() };
        report.absent.iter().for_each(|id| drop(after.present.remove(id)));
        let presence = |said: &Interface| Presence { error: shortened(&said.error), rivals: shortened(&said.rivals) };
        after.present.extend(report.present.iter().map(|interface| (interface.iface_id.clone(), presence(interface))));
        for id in &uninstalled {
            after.installed.remove(id);
        }
        after.installed.extend(installed);
        after.refused = report.refused;
        // Reports are differences: what counts is what comes together.
        if after.present.len().max(after.installed.len()) > INTERFACES_MAX {
            return Err(ReportError::TooMany);
        }
        Ok(self.replace(node, before, after, report))
    }

    /// The work is that of a difference, unless the report is a full one.
    fn replace(&mut self, node: &NodeName, before: NodeReport, after: NodeReport, report: &Report) -> BTreeSet<PortId> {
        let mut touched = BTreeSet::new();
        let named = report.present.iter().map(|interface| &interface.iface_id).chain(&report.absent);
        let old = before.present.keys().filter(|_| report.is_full);
        let interfaces: BTreeSet<PortId> = named.chain(old).filter_map(|id| id.parse().ok()).collect();
        for id in interfaces {
            enter(&mut self.presenters, id, node, after.present.contains_key(&id.to_string()));
            touched.insert(id);
        }
        let named = report.installed.iter().chain(&report.uninstalled).filter_map(|id| port_id(id).ok());
        let old = before.installed.iter().copied().filter(|_| report.is_full);
        for id in named.chain(old).collect::<BTreeSet<_>>() {
            enter(&mut self.installers, id, node, after.installed.contains(&id));
            touched.insert(id);
        }
        self.nodes.insert(node.clone(), after);
        touched
    }

    /// The node does not come back, says the operator; tells the ports of which it had said something.
    pub fn forget(&mut self, node: &NodeName) -> BTreeSet<PortId> {
        let before = self.nodes.remove(node).unwrap_or_default();
        let interfaces: BTreeSet<PortId> = before.present.keys().filter_map(|id| id.parse().ok()).collect();
        interfaces.iter().for_each(|id| enter(&mut self.presenters, *id, node, false));
        before.installed.iter().for_each(|id| enter(&mut self.installers, *id, node, false));
        self.forgotten.insert(node.clone());
        interfaces.into_iter().chain(before.installed).collect()
    }

    /// The node follows another server now, which knows better.
    pub fn went_elsewhere(&mut self, node: &NodeName) {
        self.forget(node);
        self.forgotten.remove(node);
    }

    /// What can be said here, of nodes that are not `elsewhere`.
    pub fn without(&self, elsewhere: impl Fn(&NodeName) -> bool) -> Reports {
        let mut reports = self.clone();
        self.nodes.keys().filter(|node| elsewhere(node)).for_each(|node| reports.went_elsewhere(node));
        reports
    }

    /// Somebody who knows has given the port a status.
    fn decided(&mut self, port: &Port) {
        self.moved.remove(&port.id);
    }

    /// It has come back after all.
    pub fn returned(&mut self, node: &NodeName) {
        self.forgotten.remove(node);
    }

    pub fn is_forgotten(&self, node: &NodeName) -> bool {
        self.forgotten.contains(node)
    }

    /// A port is different now, or gone.
    pub fn follow(&mut self, before: &Port, after: Option<&Port>) {
        match after {
            None => self.deleted(before.id),
            Some(after) if before.home() != after.home() => self.moved(after),
            // This server never makes a port of a node ACTIVE that it does not know.
            Some(after) if before.status != after.status && after.status == PortStatus::Active => self.decided(after),
            Some(_) => {}
        }
    }

    /// The port got another home.
    pub fn moved(&mut self, port: &Port) {
        if port.home().is_some_and(|home| self.node(home).is_none()) {
            self.moved.insert(port.id);
        } else {
            self.moved.remove(&port.id);
        }
    }

    /// The port is gone.
    fn deleted(&mut self, port: PortId) {
        self.moved.remove(&port);
    }

    /// The latest report of a node; None: it has not reported since this server started.
    pub fn node(&self, node: &NodeName) -> Option<&NodeReport> {
        self.nodes.get(node)
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &NodeReport)> {
        self.nodes.iter()
    }

    /// The nodes on whose switch the port's interface is, the first one first.
    pub fn presenters(&self, port: PortId) -> &[NodeName] {
        self.presenters.get(&port).map_or(&[], Vec::as_slice)
    }

    fn is_installed(&self, port: PortId, node: &NodeName) -> bool {
        self.installers.get(&port).is_some_and(|nodes| nodes.contains(node))
    }

    /// Nodes that have the port's interface although the port is another's.
    pub fn conflicts<'a>(&'a self, port: &'a Port) -> impl Iterator<Item = &'a NodeName> {
        self.presenters(port.id).iter().filter(|node| port.home() != Some(node))
    }

    /// The port with the claim and the status that follow from the reports; None where it has them.
    pub fn settled(&self, port: &Port) -> Option<Port> {
        let claimed_by = self.claim(port);
        let mut settled = Port { claimed_by, ..port.clone() };
        settled.status = self.status(&settled);
        (settled != *port).then_some(settled)
    }

    /// The first node that has the interface of a port for which no host is named. It keeps the port until it says that the
    /// interface is gone, or is forgotten.
    fn claim(&self, port: &Port) -> Option<NodeName> {
        if port.host.is_some() || port.is_homeless() {
            return port.claimed_by.clone();
        }
        let presenters = self.presenters(port.id);
        let keeps = |node: &&NodeName| presenters.contains(node) || (self.node(node).is_none() && !self.is_forgotten(node));
        port.claimed_by.as_ref().filter(keeps).or(presenters.first()).cloned()
    }

    fn status(&self, port: &Port) -> PortStatus {
        if port.is_homeless() {
            return port.status;
        }
        match port.home().filter(|_| port.is_admin_up) {
            Some(home) if self.node(home).is_some() => {
                if self.is_installed(port.id, home) {
                    PortStatus::Active
                } else {
                    PortStatus::Down
                }
            }
            Some(home) if !self.moved.contains(&port.id) && !self.is_forgotten(home) => port.status,
            _ => PortStatus::Down,
        }
    }
}

fn shortened(error: &str) -> String {
    error[..error.floor_char_boundary(ERROR_BYTES_MAX)].to_string()
}

fn enter(index: &mut OrdMap<PortId, Vec<NodeName>>, id: PortId, node: &NodeName, is_there: bool) {
    let known = index.get(&id).is_some_and(|nodes| nodes.contains(node));
    if is_there && !known {
        index.entry(id).or_default().push(node.clone());
    } else if !is_there && known {
        let nodes = index.get_mut(&id).expect("known right above");
        nodes.retain(|other| other != node);
        if nodes.is_empty() {
            index.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_leaves_everything_where_it_is() {
        let node = NodeName("n1".into());
        let mut reports = Reports::default();
        reports.update(&node, &Report { refused: 1, ..Report::default() }).unwrap();
        let before = reports.clone();
        reports.update(&node, &Report { revision: 7, refused: 1, ..Report::default() }).unwrap();
        assert!(reports.nodes.ptr_eq(&before.nodes));
        reports.update(&node, &Report { revision: 7, ..Report::default() }).unwrap();
        assert_eq!(reports.node(&node).unwrap().refused, 0);
    }
}
