//! Desired minus installed: what has to be said to the switch so that it does what it should.
//!
//! After a (re)connection the node reads back what the switch has and changes only what differs. From then on it sends the
//! differences that the engine names.

use std::collections::HashMap;

use openflow::{FlowKey, FlowMod, GroupMod, InstalledFlow, InstalledGroup};

use crate::switch::Changes;

/// The least that makes a switch that has `installed` do what is desired. Flows of the other half of the switch, and of tables
/// that the pipeline does not know, go away.
pub fn plan(desired: Vec<FlowMod>, groups: Vec<InstalledGroup>, installed: &[InstalledFlow], installed_groups: &[InstalledGroup]) -> Changes {
    let mut have: HashMap<FlowKey, &InstalledFlow> = installed.iter().map(|flow| (flow.key(), flow)).collect();
    let mut flows: Vec<FlowMod> = desired.into_iter().filter(|flow| !have.remove(&flow.key()).is_some_and(|old| old.is(flow))).collect();
    // Whatever is left over goes, from the end of the pipeline to its beginning, so that no packet meets half of an old path.
    let mut gone: Vec<FlowKey> = have.into_keys().collect();
    gone.sort_by(|a, b| b.cmp(a));
    // New flows come first where packets come last.
    flows.sort_by_key(|flow| std::cmp::Reverse(flow.table));
    flows.extend(gone.into_iter().map(FlowMod::delete));
    let mut have: HashMap<u32, &InstalledGroup> = installed_groups.iter().map(|group| (group.id, group)).collect();
    let mut groups_to_change = Vec::new();
    // A group names groups with smaller numbers only, and the switch wants those first.
    let mut groups = groups;
    groups.sort_by_key(|group| group.id);
    for group in groups {
        match have.remove(&group.id) {
            Some(old) if *old == group => {}
            Some(_) => groups_to_change.push(GroupMod::modify(group)),
            None => groups_to_change.push(GroupMod::add(group)),
        }
    }
    let mut gone: Vec<u32> = have.into_keys().collect();
    gone.sort_unstable();
    groups_to_change.extend(gone.into_iter().map(GroupMod::delete));
    Changes { groups: groups_to_change, flows }
}
