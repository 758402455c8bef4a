//! What the switch has not been told yet.

use std::collections::{BTreeMap, HashMap, HashSet};

use apps::Delta;
use model::PortId;
use openflow::{FlowCommand, FlowKey, FlowMod, GroupCommand, GroupMod, InstalledGroup, Message};
use pipeline::Generation;

use crate::switch::{Changes, Failure};
use crate::translate::{self, TranslateError};
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

    /// The switch has to be read before anything else is said, and what it refused is said again.
    pub fn compare_everything(&mut self) {
        self.must_compare = true;
        self.refused = Refused::default();
    }

    /// True while something is left out because the switch refused it.
    pub fn leaves_out(&self) -> bool {
        self.left_out() > 0
    }

    /// How many flows and groups are left out because the switch refused them.
    pub fn left_out(&self) -> usize {
        self.refused.flows.len() + self.refused.groups.len()
    }

    /// The objects, as numbers in cookies, that have flows which the switch refused.
    pub fn refused_objects(&self) -> HashSet<u64> {
        self.refused.flows.values().map(|flow| flow.cookie & OBJECT).collect()
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
            self.add(translate::flow_mod(flow, generation));
        }
        for key in &delta.removed_flows {
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
            self.groups.insert(group.id, Some(group));
        }
        for id in &delta.removed_groups {
            let id = generation.group_number(*id);
            self.refused.groups.remove(&id);
            self.groups.insert(id, None);
        }
    }

    fn add(&mut self, flow: Result<FlowMod, TranslateError>) {
        if let Some(flow) = written(flow).filter(|flow| self.refused.allows(flow)) {
            self.refused.flows.remove(&flow.key());
            self.flows.insert(flow.key(), flow);
        }
    }

    /// The next piece of work: everything that waits.
    pub fn take(&mut self, desired: impl FnOnce() -> (Vec<FlowMod>, Vec<InstalledGroup>)) -> Job {
        self.flushing = std::mem::take(&mut self.flush);
        let flush = self.flushing.iter().flat_map(|(_, taken)| [taken.rules, taken.nat, taken.hairpin]).collect();
        let flows = crate::install::in_order(std::mem::take(&mut self.flows).into_values().collect());
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

/// The flow, or a line in the log: a flow that OpenFlow cannot say is a bug in an app, and must not keep the others out.
pub fn written(flow: Result<FlowMod, TranslateError>) -> Option<FlowMod> {
    flow.inspect_err(|error| tracing::error!(error = crate::agent::describe(error), "a flow cannot be written as OpenFlow and is left out"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use openflow::{Instructions, Match};
    use pipeline::{GroupId, Spread};

    fn flow(table: u8) -> FlowMod {
        FlowMod::add(table, 300, Match::any(), Instructions::drop(), u64::from(table) << 56 | 7)
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
        // What must go cannot be left out, nor can the end of a bundle.
        let mut pending = Pending::default();
        assert!(!pending.leave_out(vec![refused(FlowMod::delete(flow(3).key()))]));
        assert!(!pending.leave_out(vec![Failure { message: Message::BarrierRequest, ..refused(flow(3)) }]));
        assert!(!pending.leave_out(vec![]));
        assert!(!pending.leaves_out());
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
