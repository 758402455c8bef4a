//! A set of changes in the order in which a switch can take it.

use openflow::{FlowCommand, FlowMod, GroupCommand, GroupMod, Message};

/// Flows and groups to change.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub groups: Vec<GroupMod>,
    pub flows: Vec<FlowMod>,
}

/// Messages in a bundle: a large one stalls the switch's forwarding for as long as it
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

    /// The bundles to send, one after the other: the switch forwards in between.
    pub(crate) fn into_bundles(self) -> Vec<Vec<Message>> {
        let mut messages = self.in_order().into_iter();
        let next = || Some(messages.by_ref().take(SLICE_MAX).collect()).filter(|bundle: &Vec<Message>| !bundle.is_empty());
        std::iter::from_fn(next).collect()
    }
}

/// Whether any of these messages takes something away from the switch.
pub(super) fn takes_away(messages: &[Message]) -> bool {
    messages.iter().any(|message| match message {
        Message::FlowMod(flow) => matches!(flow.command, FlowCommand::Delete | FlowCommand::DeleteStrict),
        Message::GroupMod(group) => group.command == GroupCommand::Delete,
        _ => false,
    })
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
        let bundles = changes.into_bundles();
        assert_eq!(bundles.iter().map(Vec::len).collect::<Vec<_>>(), [SLICE_MAX, 702 - SLICE_MAX]);
        assert!(matches!(&bundles[0][0], Message::GroupMod(group) if group.id == 1));
        assert!(matches!(bundles[1].last(), Some(Message::GroupMod(group)) if group.id == 2));
        assert!(Changes::default().into_bundles().is_empty());
    }

    /// A bundle that keeps room for all that comes after it makes 20 GB of 400,000 flows.
    #[test]
    fn bundles_have_no_room_for_more_than_they_hold() {
        let flow = |priority| FlowMod::add(0, priority, Match::any(), Instructions::drop(), 0);
        let changes = Changes { groups: vec![], flows: (0..20_000).map(flow).collect() };
        let room: usize = changes.into_bundles().iter().map(Vec::capacity).sum();
        assert!(room < 2 * 20_000, "{room}");
    }
}
