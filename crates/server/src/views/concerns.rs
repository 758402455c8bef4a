//! Which revisions concern a node and are not in force there yet.

use std::collections::VecDeque;

use model::Revision;

/// Ranges kept apart for one node. Beyond it the youngest grow together, which can only make a barrier wait longer.
const RANGES_MAX: usize = 1024;

/// The revisions that concern a node, oldest first, less those that it has in force.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Concerns {
    /// First and last revision of each range.
    ranges: VecDeque<(Revision, Revision)>,
    in_force: Revision,
}

impl Concerns {
    /// Whatever the node has in force, it has not said so: everything up to `revision` concerns it.
    pub fn begin(&mut self, revision: Revision) {
        self.ranges = [(Revision::default(), revision)].into();
    }

    /// `revision` concerns the node.
    pub fn push(&mut self, revision: Revision) {
        let is_full = self.ranges.len() >= RANGES_MAX;
        match self.ranges.back_mut() {
            Some(youngest) if is_full || youngest.1 == revision => youngest.1 = revision,
            _ => self.ranges.push_back((revision, revision)),
        }
    }

    /// The node has `revision` in force. True if that is news.
    pub fn acknowledge(&mut self, revision: Revision) -> bool {
        let before = (self.in_force, self.ranges.len());
        self.in_force = revision;
        while self.ranges.front().is_some_and(|(_, last)| *last <= revision) {
            self.ranges.pop_front();
        }
        before != (self.in_force, self.ranges.len())
    }

    /// True if everything up to `revision` that concerns the node is in force there.
    pub fn are_met(&self, revision: Revision) -> bool {
        self.ranges.front().is_none_or(|(first, _)| *first > revision)
    }

    /// The latest revision that the node said to have in force.
    pub fn in_force(&self) -> Revision {
        self.in_force
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revisions(concerns: &Concerns, upto: u64) -> Vec<u64> {
        (1..=upto).filter(|revision| concerns.are_met(Revision(*revision))).collect()
    }

    #[test]
    fn a_revision_that_does_not_concern_the_node_needs_no_acknowledgement() {
        let mut concerns = Concerns::default();
        concerns.push(Revision(3));
        concerns.push(Revision(6));
        assert_eq!(revisions(&concerns, 7), [1, 2]);
        concerns.acknowledge(Revision(3));
        assert_eq!(revisions(&concerns, 7), [1, 2, 3, 4, 5]);
        concerns.acknowledge(Revision(6));
        assert!(concerns.are_met(Revision(100)));
    }

    #[test]
    fn a_node_that_just_connected_has_said_nothing() {
        let mut concerns = Concerns::default();
        concerns.begin(Revision(5));
        assert!(revisions(&concerns, 9).is_empty());
        concerns.acknowledge(Revision(4));
        assert!(revisions(&concerns, 9).is_empty());
        concerns.acknowledge(Revision(5));
        assert!(concerns.are_met(Revision(9)));
    }

    #[test]
    fn too_many_concerns_never_make_a_barrier_too_early() {
        let mut concerns = Concerns::default();
        (1..=3 * RANGES_MAX as u64).for_each(|revision| concerns.push(Revision(revision)));
        assert_eq!(concerns.ranges.len(), RANGES_MAX);
        concerns.acknowledge(Revision(RANGES_MAX as u64 + 5));
        assert!(!concerns.are_met(Revision(RANGES_MAX as u64 + 6)));
    }
}
