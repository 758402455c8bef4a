//! Desired minus installed: what has to be said to the switch so that it does what it should.
//!
//! After a (re)connection the node reads back what the switch has and changes only what differs. From then on it sends the
//! differences that the engine names.
//!
//! The node writes one half of the switch's tables and groups. Which one, table 0 says ([`to_write`]): the half in force, if that
//! holds this release's pipeline; otherwise the other, which no packet enters until it is complete. Whatever the switch has, a
//! [`Plan`] ends with the desired state, and no step of it leads a packet from the tables of one pipeline to those of another:
//!
//! ```text
//!                 same pipeline                      another one, or none
//! half            what differs, where packets pass   what differs from what a killed predecessor left there
//! turn            nothing                            table 0 leads to the half, in one bundle
//! other_half      what was left over                 all of it, when no packet is on its way there any more
//! ```

use std::collections::HashMap;

use openflow::{FlowCommand, FlowMod, GroupMod, InstalledFlow, InstalledGroup, Match};
use pipeline::{Fingerprint, Generation};
use rustc_hash::FxHashMap;

use crate::switch::Changes;
use crate::translate;

/// The half that a release with the pipeline `own` writes, given the flows of table 0; and whether it is in force already.
pub fn to_write(dispatch: &[InstalledFlow], own: Fingerprint) -> (Generation, bool) {
    match dispatch.iter().find_map(translate::dispatched) {
        Some((half, whose)) if whose == own => (half, true),
        Some((half, _)) => (half.other(), false),
        // No packet passes: either half is free.
        None => (Generation::default(), false),
    }
}

/// What has to be said to the switch, in this order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The tables and groups of the half that the node writes, and tables of no half.
    pub half: Changes,
    /// Table 0.
    pub turn: Changes,
    /// Not before packets that entered it have left: connection tracking sends a packet on at the table that was written down when
    /// it came, for as long as the datapath remembers the way, and so to the other half for a while after the turn.
    pub other_half: Changes,
}

impl Plan {
    pub fn len(&self) -> usize {
        self.half.len() + self.turn.len() + self.other_half.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The least that makes a switch that has `installed` do what is desired in `half`.
pub fn plan(
    half: Generation,
    desired: Vec<FlowMod>,
    groups: Vec<InstalledGroup>,
    installed: &[InstalledFlow],
    installed_groups: &[InstalledGroup],
) -> Plan {
    let mut plan = Plan::default();
    for flow in differences(desired, installed) {
        let part = match Generation::of_table(flow.table) {
            _ if flow.table == Generation::DISPATCH => &mut plan.turn,
            Some(owner) if owner != half => &mut plan.other_half,
            _ => &mut plan.half,
        };
        part.flows.push(flow);
    }
    for group in group_differences(groups, installed_groups) {
        let part = if Generation::of_group(group.id) == half { &mut plan.half } else { &mut plan.other_half };
        part.groups.push(group);
    }
    plan
}

/// Flows that the switch lacks or that are different there, and those that it should not have.
fn differences(desired: Vec<FlowMod>, installed: &[InstalledFlow]) -> Vec<FlowMod> {
    // By key, without a copy of every match: there may be hundreds of thousands.
    let keyed = installed.iter().enumerate().map(|(place, flow)| ((flow.table, flow.priority, &flow.matching), place));
    let places: FxHashMap<(u8, u16, &Match), usize> = keyed.collect();
    let mut is_wanted = vec![false; installed.len()];
    let mut is_there = |flow: &FlowMod| {
        let Some(place) = places.get(&(flow.table, flow.priority, &flow.matching)) else { return false };
        is_wanted[*place] = true;
        installed[*place].is(flow)
    };
    let mut flows: Vec<FlowMod> = desired.into_iter().filter(|flow| !is_there(flow)).collect();
    let gone = installed.iter().zip(is_wanted).filter(|(_, is_wanted)| !is_wanted);
    flows.extend(gone.map(|(flow, _)| FlowMod::delete(flow.key())));
    in_order(flows)
}

/// What makes the groups of `half` those that are desired.
pub fn groups(half: Generation, desired: Vec<InstalledGroup>, installed: &[InstalledGroup]) -> Vec<GroupMod> {
    let mut changes = group_differences(desired, installed);
    changes.retain(|change| Generation::of_group(change.id) == half);
    changes
}

fn group_differences(mut groups: Vec<InstalledGroup>, installed: &[InstalledGroup]) -> Vec<GroupMod> {
    let mut have: HashMap<u32, &InstalledGroup> = installed.iter().map(|group| (group.id, group)).collect();
    let mut changes = Vec::new();
    // A group names groups with smaller numbers only, and the switch wants those first.
    groups.sort_by_key(|group| group.id);
    for group in groups {
        match have.remove(&group.id) {
            Some(old) if *old == group => {}
            Some(_) => changes.push(GroupMod::modify(group)),
            None => changes.push(GroupMod::add(group)),
        }
    }
    let mut gone: Vec<u32> = have.into_keys().collect();
    gone.sort_unstable();
    changes.extend(gone.into_iter().map(GroupMod::delete));
    changes
}

/// The order in which flows may become visible one after the other: what is new or different from the end of the pipeline to its
/// beginning, so that no packet enters a way before its end is there; then what goes, from the beginning to the end.
pub fn in_order(mut flows: Vec<FlowMod>) -> Vec<FlowMod> {
    let place = |flow: &FlowMod| match flow.command {
        FlowCommand::DeleteStrict | FlowCommand::Delete => (true, i16::from(flow.table)),
        _ => (false, -i16::from(flow.table)),
    };
    flows.sort_by(|a, b| (place(a), a.priority, &a.matching).cmp(&(place(b), b.priority, &b.matching)));
    flows
}

#[cfg(test)]
mod tests;
