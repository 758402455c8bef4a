//! Desired minus installed: what has to be said to the switch so that it does what it should.
//!
//! After a (re)connection the node reads back what the switch has and changes only what differs. From then on it sends the
//! differences that the engine names.

use std::collections::HashMap;

use openflow::{FlowCommand, FlowKey, FlowMod, GroupMod, InstalledFlow, InstalledGroup};

use crate::switch::Changes;

/// The least that makes a switch that has `installed` do what is desired. Flows of the other half of the switch, and of tables
/// that the pipeline does not know, go away.
pub fn plan(
    desired: Vec<FlowMod>,
    groups: Vec<InstalledGroup>,
    installed: &[InstalledFlow],
    installed_groups: &[InstalledGroup],
) -> Changes {
    let mut have: HashMap<FlowKey, &InstalledFlow> = installed.iter().map(|flow| (flow.key(), flow)).collect();
    let mut flows: Vec<FlowMod> = desired.into_iter().filter(|flow| !have.remove(&flow.key()).is_some_and(|old| old.is(flow))).collect();
    flows.extend(have.into_keys().map(FlowMod::delete));
    let flows = in_order(flows);
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

/// The order in which flows may become visible one after the other: what is new or different from the end of the pipeline to its
/// beginning, so that no packet enters a way before its end is there; then what goes, from the beginning to the end.
pub fn in_order(mut flows: Vec<FlowMod>) -> Vec<FlowMod> {
    let place = |flow: &FlowMod| match flow.command {
        FlowCommand::DeleteStrict | FlowCommand::Delete => (true, i16::from(flow.table)),
        _ => (false, -i16::from(flow.table)),
    };
    flows.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.key().cmp(&b.key())));
    flows
}

#[cfg(test)]
mod tests {
    use super::*;
    use openflow::{Instructions, Match};

    #[test]
    fn a_way_is_laid_from_its_end_and_taken_up_from_its_beginning() {
        let add = |table| FlowMod::add(table, 1, Match::any(), Instructions::drop(), 0);
        let gone = |table| FlowMod::delete(FlowKey { table, priority: 2, matching: Match::any() });
        let ordered = in_order(vec![gone(9), add(1), gone(2), add(5)]);
        assert_eq!(ordered, [add(5), add(1), gone(2), gone(9)]);
    }
}
