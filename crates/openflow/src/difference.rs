//! From one description of a group to another by single buckets, where that says less than the whole.
//!
//! Buckets keep the order that they have in the description, so that a switch that was led from one to the other reads back
//! exactly the other. A bucket that is different is taken out and put in again at its place: OpenFlow has no message that changes
//! one.

use std::collections::{HashMap, HashSet};

use crate::group::{BUCKET_FIRST, Bucket, GroupMod, InstalledGroup};

impl InstalledGroup {
    /// The messages after which a switch that has this group has `new`, which has the same number, in the order in which they are
    /// to be sent; none if they are equal.
    pub fn changes_to(&self, new: InstalledGroup) -> Vec<GroupMod> {
        if *self == new {
            return Vec::new();
        }
        match self.bucket_changes(&new) {
            Some(changes) => changes,
            None => vec![GroupMod::modify(new)],
        }
    }

    /// As changes of buckets; None if that is no less than the whole group, or cannot be said.
    fn bucket_changes(&self, new: &InstalledGroup) -> Option<Vec<GroupMod>> {
        if (self.id, self.kind, &self.selection) != (new.id, new.kind, &new.selection) {
            return None;
        }
        let there: HashMap<u32, &Bucket> = self.buckets.iter().map(|bucket| (bucket.id, bucket)).collect();
        let stays: HashSet<u32> =
            new.buckets.iter().filter(|bucket| there.get(&bucket.id) == Some(bucket)).map(|bucket| bucket.id).collect();
        let order = |buckets: &[Bucket]| buckets.iter().map(|bucket| bucket.id).filter(|id| stays.contains(id)).collect::<Vec<u32>>();
        let (gone, come) = (self.buckets.len() - stays.len(), new.buckets.len() - stays.len());
        if there.len() != self.buckets.len() || gone + come >= new.buckets.len() || order(&self.buckets) != order(&new.buckets) {
            return None;
        }
        let gone = self.buckets.iter().filter(|bucket| !stays.contains(&bucket.id));
        let removals = gone.map(|bucket| GroupMod::remove(self.id, self.kind, bucket.id));
        Some(removals.chain(self.insertions(&new.buckets, &stays)).collect())
    }

    /// Each run of buckets that are not there yet, behind the one that they follow.
    fn insertions(&self, buckets: &[Bucket], stays: &HashSet<u32>) -> Vec<GroupMod> {
        let mut insertions: Vec<GroupMod> = Vec::new();
        let (mut before, mut is_run) = (BUCKET_FIRST, false);
        for bucket in buckets {
            let is_new = !stays.contains(&bucket.id);
            match insertions.last_mut().filter(|_| is_new && is_run) {
                Some(run) => run.buckets.push(bucket.clone()),
                None if is_new => insertions.push(GroupMod::insert(self.id, self.kind, before, vec![bucket.clone()])),
                None => {}
            }
            (before, is_run) = (bucket.id, is_new);
        }
        insertions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GroupCommand, GroupKind, SelectionMethod};

    fn group(buckets: impl IntoIterator<Item = (u32, u16)>) -> InstalledGroup {
        let buckets = buckets.into_iter().map(|(id, weight)| Bucket::new(id, []).weight(weight)).collect();
        InstalledGroup { id: 7, kind: GroupKind::Select, buckets, selection: Some(SelectionMethod::dp_hash()) }
    }

    /// What a switch makes of the messages.
    fn applied(mut group: InstalledGroup, changes: &[GroupMod]) -> InstalledGroup {
        for change in changes {
            let place = |group: &InstalledGroup| group.buckets.iter().position(|bucket| bucket.id == change.bucket);
            match change.command {
                GroupCommand::Modify => group.buckets.clone_from(&change.buckets),
                GroupCommand::RemoveBucket => drop(group.buckets.remove(place(&group).expect("the bucket is there"))),
                GroupCommand::InsertBuckets => {
                    let at = if change.bucket == BUCKET_FIRST { 0 } else { place(&group).expect("the bucket before is there") + 1 };
                    group.buckets.splice(at..at, change.buckets.iter().cloned());
                }
                other => panic!("{other:?}"),
            }
        }
        group
    }

    #[test]
    fn few_buckets_are_changed_one_by_one_and_many_all_together() {
        let old = group((1..100).map(|id| (id, 1)));
        let others = (1..100).filter(|id| *id != 50).map(|id| (id, 1));
        let cases = [(group(others.clone()), 1), (group((0..102).map(|id| (id, 1))), 2), (group(others.chain([(200, 1)])), 2)];
        for (new, messages) in cases {
            let changes = old.changes_to(new.clone());
            assert_eq!(changes.len(), messages);
            assert!(changes.iter().all(|change| change.command != GroupCommand::Modify));
            assert_eq!(applied(old.clone(), &changes), new);
        }
        assert_eq!(old.changes_to(old.clone()), []);
        let all_heavier = group((1..100).map(|id| (id, 2)));
        assert_eq!(old.changes_to(all_heavier.clone()), [GroupMod::modify(all_heavier)]);
        let hashed = InstalledGroup { selection: None, ..old.clone() };
        assert_eq!(old.changes_to(hashed.clone()), [GroupMod::modify(hashed)]);
    }

    proptest::proptest! {
        #[test]
        fn whatever_changes_a_switch_has_the_new_group_in_the_same_order(
            old in proptest::collection::btree_map(0u32..40, 1u16..3, 0..40),
            new in proptest::collection::btree_map(0u32..40, 1u16..3, 0..40),
            is_reversed in proptest::bool::ANY,
        ) {
            let (old, mut new) = (group(old), group(new));
            if is_reversed {
                new.buckets.reverse();
            }
            proptest::prop_assert_eq!(applied(old.clone(), &old.changes_to(new.clone())), new);
        }
    }
}
