//! What the switch has not been told yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use apps::Delta;
use model::PortId;
use openflow::{FlowKey, FlowMod, GroupMod, InstalledGroup, Message};
use pipeline::Generation;

use crate::switch::{Changes, Failure};
use crate::translate::{self, TranslateError};
use crate::zones::{Taken, Zones};

/// One piece of work for the switch.
#[derive(Debug, Default)]
pub struct Job {
    /// Zones to flush first: they were another port's.
    pub flush: Vec<u16>,
    /// All that the switch should have, to be compared with all that it has; or only what changes.
    pub everything: Option<(Vec<FlowMod>, Vec<InstalledGroup>)>,
    pub changes: Changes,
}

/// The differences that wait; a later one to the same flow replaces an earlier.
#[derive(Debug, Default)]
pub struct Pending {
    flows: BTreeMap<FlowKey, FlowMod>,
    groups: BTreeMap<u32, Option<InstalledGroup>>,
    /// Groups that the switch has.
    known_groups: HashSet<u32>,
    must_compare: bool,
    flush: Vec<(PortId, Taken)>,
    flushing: Vec<PortId>,
    refused: Refused,
    pub save_zones: bool,
}

/// What the switch refused, as it was said: not said again until it changes, so that one bad flow does not keep the others out.
#[derive(Debug, Default)]
struct Refused {
    flows: HashMap<FlowKey, FlowMod>,
    groups: HashMap<u32, InstalledGroup>,
}

impl Refused {
    fn allows(&self, flow: &FlowMod) -> bool {
        self.flows.get(&flow.key()).is_none_or(|refused| refused != flow)
    }

    fn allows_group(&self, group: &InstalledGroup) -> bool {
        self.groups.get(&group.id).is_none_or(|refused| refused != group)
    }
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty() && self.groups.is_empty() && !self.must_compare
    }

    /// The switch has to be read before anything else is said.
    pub fn compare_everything(&mut self) {
        self.must_compare = true;
    }

    /// The zones of newly attached ports: to be kept, and flushed if they were another port's.
    pub fn flush(&mut self, taken: Vec<(PortId, Taken)>) {
        self.save_zones |= !taken.is_empty();
        self.flush.extend(taken.into_iter().filter(|(_, taken)| taken.needs_flush));
    }

    pub fn merge(&mut self, delta: Delta, generation: Generation) {
        for flow in &delta.flows {
            self.add(translate::flow_mod(flow, generation));
        }
        for key in &delta.removed_flows {
            self.add(translate::flow_key(key, generation).map(FlowMod::delete));
        }
        self.groups.extend(delta.groups.iter().map(|group| (group.id.0, Some(translate::group(group, generation)))));
        self.groups.extend(delta.removed_groups.iter().map(|id| (id.0, None)));
    }

    fn add(&mut self, flow: Result<FlowMod, TranslateError>) {
        if let Some(flow) = written(flow).filter(|flow| self.refused.allows(flow)) {
            self.flows.insert(flow.key(), flow);
        }
    }

    /// The next piece of work: everything that waits.
    pub fn take(&mut self, desired: impl FnOnce() -> (Vec<FlowMod>, Vec<InstalledGroup>)) -> Job {
        let flush = std::mem::take(&mut self.flush);
        self.flushing.extend(flush.iter().map(|(port, _)| *port));
        let flush = flush.into_iter().flat_map(|(_, taken)| [taken.rules, taken.nat, taken.hairpin]).collect();
        let flows = std::mem::take(&mut self.flows).into_values().collect();
        let groups = std::mem::take(&mut self.groups);
        if std::mem::take(&mut self.must_compare) {
            let (mut flows, mut groups) = desired();
            flows.retain(|flow| self.refused.allows(flow));
            groups.retain(|group| self.refused.allows_group(group));
            self.known_groups = groups.iter().map(|group| group.id).collect();
            return Job { flush, everything: Some((flows, groups)), changes: Changes::default() };
        }
        let mut changes = Changes { flows, groups: Vec::new() };
        for (id, group) in groups {
            match group {
                Some(group) if self.known_groups.insert(id) => changes.groups.push(GroupMod::add(group)),
                Some(group) => changes.groups.push(GroupMod::modify(group)),
                None if self.known_groups.remove(&id) => changes.groups.push(GroupMod::delete(id)),
                None => {}
            }
        }
        Job { flush, everything: None, changes }
    }

    /// The switch refused these messages and with them all that was sent together: everything else is tried again without them.
    pub fn leave_out(&mut self, failures: Vec<Failure>) {
        for Failure { message, error } in failures {
            match message {
                Message::FlowMod(flow) => {
                    tracing::error!(flow = ?flow.key(), %error, "the switch refuses a flow; it is left out until it changes");
                    self.refused.flows.insert(flow.key(), flow);
                }
                Message::GroupMod(group) => {
                    tracing::error!(group = group.id, %error, "the switch refuses a group; it is left out until it changes");
                    let GroupMod { id, kind, buckets, selection, .. } = group;
                    self.refused.groups.insert(id, InstalledGroup { id, kind, buckets, selection });
                }
                other => tracing::error!(message = ?other, %error, "the switch refuses a message"),
            }
        }
        self.must_compare = true;
    }

    /// The last piece of work is in the switch.
    pub fn carried_out(&mut self, zones: &mut Zones) {
        let flushed: BTreeSet<PortId> = std::mem::take(&mut self.flushing).into_iter().collect();
        self.save_zones |= !flushed.is_empty();
        flushed.into_iter().for_each(|port| zones.flushed(port));
    }
}

/// The flow, or a line in the log: a flow that OpenFlow cannot say is a bug in an app, and must not keep the others out.
pub fn written(flow: Result<FlowMod, TranslateError>) -> Option<FlowMod> {
    flow.inspect_err(|error| tracing::error!(error = crate::agent::describe(error), "a flow cannot be written as OpenFlow and is left out")).ok()
}
