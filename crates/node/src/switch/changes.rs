//! A set of changes in the order in which a switch can take it.

use openflow::{FlowMod, GroupCommand, GroupMod, Message};

/// Flows and groups to change.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub groups: Vec<GroupMod>,
    pub flows: Vec<FlowMod>,
}

/// How much becomes visible at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Everything in one bundle, or nothing of it.
    AtOnce,
    /// Bundles of at most [`SLICE_MAX`] messages, one after the other: the switch forwards in between.
    InSlices,
}

/// Messages in a bundle where nothing requires more: a large bundle stalls the switch's forwarding for as long as it
/// takes.
pub const SLICE_MAX: usize = 500;

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.flows.is_empty()
    }

    pub fn len(&self) -> usize {
        self.groups.len() + self.flows.len()
    }

    /// Groups before the flows that use them; deleted groups last, as a deleted group takes the flows that use it.
    fn in_order(self) -> Vec<Message> {
        let is_delete = |group: &GroupMod| group.command == GroupCommand::Delete;
        let (deleted, made): (Vec<_>, Vec<_>) = self.groups.into_iter().partition(is_delete);
        let made = made.into_iter().map(Message::GroupMod);
        let flows = self.flows.into_iter().map(Message::FlowMod);
        made.chain(flows).chain(deleted.into_iter().map(Message::GroupMod)).collect()
    }

    /// The bundles to send.
    pub(crate) fn into_bundles(self, commit: Commit) -> Vec<Vec<Message>> {
        let size = match commit {
            Commit::AtOnce => self.len().max(1),
            Commit::InSlices => SLICE_MAX,
        };
        let mut messages = self.in_order().into_iter();
        let next = || Some(messages.by_ref().take(size).collect()).filter(|bundle: &Vec<Message>| !bundle.is_empty());
        std::iter::from_fn(next).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openflow::{GroupKind, InstalledGroup, Instructions, Match};

    #[test]
    fn groups_come_before_flows_and_their_deletes_after() {
        let group = InstalledGroup { id: 1, kind: GroupKind::All, buckets: vec![], selection: None };
        let flow = |priority| FlowMod::add(0, priority, Match::any(), Instructions::drop(), 0);
        let changes = Changes { groups: vec![GroupMod::delete(2), GroupMod::add(group)], flows: (0..700).map(flow).collect() };
        let bundles = changes.clone().into_bundles(Commit::InSlices);
        assert_eq!(bundles.iter().map(Vec::len).collect::<Vec<_>>(), [SLICE_MAX, 702 - SLICE_MAX]);
        assert!(matches!(&bundles[0][0], Message::GroupMod(group) if group.id == 1));
        assert!(matches!(bundles[1].last(), Some(Message::GroupMod(group)) if group.id == 2));
        assert_eq!(changes.into_bundles(Commit::AtOnce).len(), 1);
        assert!(Changes::default().into_bundles(Commit::AtOnce).is_empty());
    }

    /// A bundle that keeps room for all that comes after it makes 20 GB of 400,000 flows.
    #[test]
    fn bundles_have_no_room_for_more_than_they_hold() {
        let flow = |priority| FlowMod::add(0, priority, Match::any(), Instructions::drop(), 0);
        let changes = Changes { groups: vec![], flows: (0..20_000).map(flow).collect() };
        let room: usize = changes.into_bundles(Commit::InSlices).iter().map(Vec::capacity).sum();
        assert!(room < 2 * 20_000, "{room}");
    }
}
