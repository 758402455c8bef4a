//! What the switch has not been told yet.

use std::collections::{BTreeMap, HashMap, HashSet};

use apps::Delta;
use model::PortId;
use openflow::{FlowCommand, FlowKey, FlowMod, GroupCommand, GroupMod, InstalledGroup, Message};
use pipeline::{Flow, Generation};
use stream::describe;

use crate::switch::{Changes, Failure};
use crate::translate;
use crate::zones::{Taken, Zones};

/// The part of a cookie that names the object ([`pipeline::Flow::cookie`]).
const OBJECT: u64 = (1 << 56) - 1;

/// One piece of work for the switch.
#[derive(Debug, Default)]
pub struct Job {
    /// Zones to flush first: they were another port's.
    pub flush: Vec<u16>,
    /// All that the switch should have, to be compared with all that it has; or only what changes.
    pub everything: Option<(Vec<FlowMod>, Vec<InstalledGroup>)>,
    pub changes: Changes,
    pub stuck: Stuck,
}

/// What the switch refuses to delete: it is not told to again until everything is compared anew.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stuck {
    pub flows: HashSet<FlowKey>,
    pub groups: HashSet<u32>,
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
    /// Those that the switch is busy with.
    flushing: Vec<(PortId, Taken)>,
    refused: Refused,
    pub save_zones: bool,
}

/// What the switch refused, as it was said: not said again until it changes or everything is compared anew, so that one bad flow
/// does not keep the others out and heals when its cause is gone.
#[derive(Debug, Default)]
struct Refused {
    flows: HashMap<FlowKey, FlowMod>,
    groups: HashMap<u32, InstalledGroup>,
    stuck: Stuck,
    unwritable: Unwritable,
}

/// The flows that OpenFlow has no words for, with their cookies: a bug in an app, which must not keep other flows out.
#[derive(Debug, Default)]
pub struct Unwritable(HashMap<pipeline::FlowKey, u64>);

impl Unwritable {
    /// The flow as OpenFlow says it, or a line in the log.
    pub fn write(&mut self, flow: &Flow, generation: Generation) -> Option<FlowMod> {
        match translate::flow_mod(flow, generation) {
            Ok(flow) => Some(flow),
            Err(error) => {
                tracing::error!(error = describe(&error), "a flow cannot be written as OpenFlow and is left out");
                self.0.insert(flow.key.clone(), flow.cookie());
                None
            }
        }
    }
}

impl Refused {
    fn allows(&self, flow: &FlowMod) -> bool {
        self.flows.is_empty() || self.flows.get(&flow.key()).is_none_or(|refused| refused != flow)
    }

    fn allows_group(&self, group: &InstalledGroup) -> bool {
        self.groups.get(&group.id).is_none_or(|refused| refused != group)
    }
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty() && self.groups.is_empty() && !self.must_compare
    }

    /// The switch has to be read before anything else is said, and what it refused is said again.
    pub fn compare_everything(&mut self) {
        self.must_compare = true;
        self.refused = Refused::default();
    }

    /// True if the next piece of work is a comparison of everything.
    pub fn must_compare(&self) -> bool {
        self.must_compare
    }

    /// True while something is left out because the switch refused it, which may heal.
    pub fn leaves_out(&self) -> bool {
        self.left_out() > self.refused.unwritable.0.len()
    }

    /// How many flows and groups are not as they should be because the switch refused that, or because OpenFlow has no words for it.
    pub fn left_out(&self) -> usize {
        let Refused { flows, groups, stuck, unwritable } = &self.refused;
        flows.len() + groups.len() + stuck.flows.len() + stuck.groups.len() + unwritable.0.len()
    }

    /// The objects, as numbers in cookies, that have flows which are left out.
    pub fn refused_objects(&self) -> HashSet<u64> {
        let refused = self.refused.flows.values().map(|flow| flow.cookie);
        refused.chain(self.refused.unwritable.0.values().copied()).map(|cookie| cookie & OBJECT).collect()
    }

    /// What could not be written of all that the switch should have.
    pub fn note_unwritable(&mut self, unwritable: Unwritable) {
        self.refused.unwritable.0.extend(unwritable.0);
    }

    /// What the switch refuses to delete.
    pub fn stuck(&self) -> Stuck {
        self.refused.stuck.clone()
    }

    /// Those of `groups` that the switch may have.
    pub fn without_refused(&self, groups: impl Iterator<Item = InstalledGroup>) -> Vec<InstalledGroup> {
        groups.filter(|group| self.refused.allows_group(group)).collect()
    }

    /// The zones of newly attached ports: to be kept, and flushed if they were another port's.
    pub fn flush(&mut self, taken: Vec<(PortId, Taken)>) {
        self.save_zones |= !taken.is_empty();
        self.flush.extend(taken.into_iter().filter(|(_, taken)| taken.needs_flush));
    }

    pub fn merge(&mut self, delta: Delta, generation: Generation) {
        for flow in &delta.flows {
            self.add(flow, generation);
        }
        for key in &delta.removed_flows {
            self.refused.unwritable.0.remove(key);
            if let Ok(key) = translate::flow_key(key, generation) {
                self.refused.flows.remove(&key);
                self.flows.insert(key.clone(), FlowMod::delete(key));
            }
        }
        if !delta.groups.is_empty() && !self.refused.flows.is_empty() {
            // A flow may have been refused because its group was.
            self.compare_everything();
        }
        for group in &delta.groups {
            let group = translate::group(group, generation);
            self.refused.groups.remove(&group.id);
            self.refused.stuck.groups.remove(&group.id);
            self.groups.insert(group.id, Some(group));
        }
        for id in &delta.removed_groups {
            let id = generation.group_number(*id);
            self.refused.groups.remove(&id);
            self.groups.insert(id, None);
        }
    }

    fn add(&mut self, flow: &Flow, generation: Generation) {
        let flow = self.refused.unwritable.write(flow, generation);
        if let Some(flow) = flow.filter(|flow| self.refused.allows(flow)) {
            self.refused.flows.remove(&flow.key());
            self.refused.stuck.flows.remove(&flow.key());
            self.flows.insert(flow.key(), flow);
        }
    }

    /// The next piece of work: everything that waits.
    pub fn take(&mut self, desired: impl FnOnce() -> (Vec<FlowMod>, Vec<InstalledGroup>)) -> Job {
        let stuck = self.stuck();
        self.flushing = std::mem::take(&mut self.flush);
        let flush = self.flushing.iter().flat_map(|(_, taken)| [taken.rules, taken.nat, taken.hairpin]).collect();
        let flows = crate::install::in_order(std::mem::take(&mut self.flows).into_values().collect());
        let groups = std::mem::take(&mut self.groups);
        if std::mem::take(&mut self.must_compare) {
            let (mut flows, mut groups) = desired();
            flows.retain(|flow| self.refused.allows(flow));
            groups.retain(|group| self.refused.allows_group(group));
            self.known_groups = groups.iter().map(|group| group.id).collect();
            return Job { flush, everything: Some((flows, groups)), changes: Changes::default(), stuck };
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
        Job { flush, everything: None, changes, stuck }
    }

    /// The switch refused these messages, and perhaps with them what was sent together: everything else is tried again without them.
    /// False if that would be the same as before: nothing was learned, and only time can help.
    pub fn leave_out(&mut self, failures: Vec<Failure>) -> bool {
        let mut is_news = false;
        for Failure { message, error } in failures {
            match message {
                Message::FlowMod(flow) if flow.command == FlowCommand::Add => {
                    tracing::error!(flow = ?flow.key(), %error, "the switch refuses a flow; it is left out until it changes");
                    is_news |= self.refused.flows.insert(flow.key(), flow.clone()) != Some(flow);
                }
                Message::GroupMod(group) if group.command != GroupCommand::Delete => {
                    tracing::error!(group = group.id, %error, "the switch refuses a group; it is left out until it changes");
                    let GroupMod { id, kind, buckets, selection, .. } = group;
                    let group = InstalledGroup { id, kind, buckets, selection };
                    is_news |= self.refused.groups.insert(id, group.clone()) != Some(group);
                }
                Message::FlowMod(flow) => {
                    tracing::error!(flow = ?flow.key(), %error, "the switch refuses to delete a flow; packets meet it until it can be deleted");
                    is_news |= self.refused.stuck.flows.insert(flow.key());
                }
                Message::GroupMod(group) => {
                    tracing::error!(group = group.id, %error, "the switch refuses to delete a group; it stays until it can be deleted");
                    is_news |= self.refused.stuck.groups.insert(group.id);
                }
                other => {
                    let what = crate::switch::describe(&other);
                    tracing::error!(what, %error, "the switch refuses a message; what was sent with it is tried again");
                }
            }
        }
        is_news
    }

    /// The last piece of work is in the switch.
    pub fn carried_out(&mut self, zones: &mut Zones) {
        let flushed = std::mem::take(&mut self.flushing);
        self.save_zones |= !flushed.is_empty();
        flushed.into_iter().for_each(|(port, _)| zones.flushed(port));
    }

    /// The last piece of work failed: how far it came is not known, so its zones are flushed again.
    pub fn failed(&mut self) {
        self.flush.append(&mut self.flushing);
        self.must_compare = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openflow::{Instructions, Match};
    use pipeline::{GroupId, Spread};

    fn flow(table: u8) -> FlowMod {
        FlowMod::add(table, 300, Match::any(), Instructions::drop(), u64::from(table) << 56 | 7)
    }

    /// Packets of two kinds at once.
    fn unwritable() -> Flow {
        let port = model::ObjectKey::new(model::Kind::Port, PortId(uuid::Uuid::from_u128(5)));
        let protocols = [6, 17].map(pipeline::ip_proto);
        pipeline::Table::Deliver.when([pipeline::eth_type(0x0800)].into_iter().chain(protocols)).because(port)
    }

    fn refused(flow: FlowMod) -> Failure {
        let bytes = [6, 1, 0, 12, 0, 0, 0, 1, 0, 2, 0, 0];
        let Ok((Message::Error(error), _)) = openflow::decode(&bytes) else { panic!("an error message") };
        Failure { message: Message::FlowMod(flow), error: error.into() }
    }

    #[test]
    fn what_is_refused_keeps_nothing_else_out_and_is_tried_again_when_everything_is_compared() {
        let mut pending = Pending::default();
        pending.leave_out(vec![refused(flow(3))]);
        pending.failed();
        let sent = |pending: &mut Pending| pending.take(|| (vec![flow(3), flow(4)], vec![])).everything.map(|(flows, _)| flows);
        assert_eq!(sent(&mut pending), Some(vec![flow(4)]));
        assert_eq!(pending.refused_objects(), HashSet::from([7]));
        pending.compare_everything();
        assert_eq!(sent(&mut pending), Some(vec![flow(3), flow(4)]));
        assert!(!pending.leaves_out());
    }

    #[test]
    fn a_refusal_that_changes_nothing_is_no_news() {
        let mut pending = Pending::default();
        assert!(pending.leave_out(vec![refused(flow(3))]));
        assert!(!pending.leave_out(vec![refused(flow(3))]), "it was left out already");
        assert!(pending.leave_out(vec![refused(flow(3)), refused(flow(4))]));
        // The end of a bundle cannot be left out.
        let mut pending = Pending::default();
        assert!(!pending.leave_out(vec![Failure { message: Message::BarrierRequest, ..refused(flow(3)) }]));
        assert!(!pending.leave_out(vec![]));
        assert!(!pending.leaves_out());
    }

    #[test]
    fn what_the_switch_does_not_delete_keeps_nothing_else_out_and_is_tried_again_when_everything_is_compared() {
        let mut pending = Pending::default();
        let delete = || refused(FlowMod::delete(flow(3).key()));
        let delete_group = || Failure { message: Message::GroupMod(GroupMod::delete(9)), ..delete() };
        assert!(pending.leave_out(vec![delete(), delete_group()]));
        assert!(!pending.leave_out(vec![delete(), delete_group()]), "they are left out already");
        pending.failed();
        let stuck = |pending: &mut Pending| pending.take(|| (vec![flow(4)], vec![])).stuck;
        assert_eq!(stuck(&mut pending), Stuck { flows: HashSet::from([flow(3).key()]), groups: HashSet::from([9]) });
        assert_eq!((pending.left_out(), pending.refused_objects()), (2, HashSet::new()));
        pending.compare_everything();
        assert_eq!(stuck(&mut pending), Stuck::default());
        assert!(!pending.leaves_out());
    }

    #[test]
    fn a_flow_that_cannot_be_written_counts_as_refused_while_it_is_there() {
        let mut pending = Pending::default();
        let flow = unwritable();
        pending.merge(Delta { flows: vec![flow.clone()], ..Delta::default() }, Generation::A);
        assert_eq!((pending.left_out(), pending.refused_objects()), (1, HashSet::from([flow.cookie() & OBJECT])));
        pending.compare_everything();
        assert_eq!(pending.left_out(), 0);
        let mut unwritable = Unwritable::default();
        assert_eq!(unwritable.write(&flow, Generation::A), None);
        pending.note_unwritable(unwritable);
        assert_eq!((pending.left_out(), pending.leaves_out()), (1, false), "no use in trying it again");
        pending.merge(Delta { removed_flows: vec![flow.key.clone()], ..Delta::default() }, Generation::A);
        assert_eq!(pending.left_out(), 0);
    }

    #[test]
    fn what_was_refused_because_of_its_group_is_tried_again_with_another_group() {
        let mut pending = Pending::default();
        pending.leave_out(vec![refused(flow(3))]);
        assert_eq!(pending.left_out(), 1);
        let group = pipeline::Group { id: GroupId(1), spread: Spread::DpHash, buckets: Vec::new(), reason: pipeline::Reason::Pipeline };
        pending.merge(Delta { groups: vec![group], ..Delta::default() }, Generation::A);
        assert_eq!(pending.left_out(), 0);
        assert_eq!(pending.take(|| (vec![flow(3)], vec![])).everything.map(|(flows, _)| flows), Some(vec![flow(3)]));
    }

    #[test]
    fn zones_of_a_job_that_failed_are_flushed_by_the_next() {
        let mut pending = Pending::default();
        let mut zones = Zones::default();
        let (old, new) = (PortId(uuid::Uuid::from_u128(1)), PortId(uuid::Uuid::from_u128(2)));
        zones.take(old);
        zones.free(old);
        let taken = Taken { needs_flush: true, ..zones.take(new).expect("there are zones") };
        pending.flush(vec![(new, taken)]);
        pending.compare_everything();
        let nothing = || (vec![], vec![]);
        assert_eq!(pending.take(nothing).flush.len(), 3);
        pending.failed();
        assert_eq!(pending.take(nothing).flush.len(), 3);
        pending.carried_out(&mut zones);
        pending.compare_everything();
        assert_eq!(pending.take(nothing).flush.len(), 0);
    }
}
