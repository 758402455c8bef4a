//! How a node that connects gets from where it stands to now.
//!
//! A node that says the hash of its view as it is now has all that is in it, and gets what the change log says is different. That
//! is nearly every node when a server begins anew, and it costs nothing where nothing changed.
//!
//! For any other, the change log is undone from the present state back to the node's revision; what the node's view was then is
//! computed and must have the hash that the node says. The difference of the two views, and of the objects in both, is the delta.
//! Where the log does not reach back, or the hash differs, the node gets a snapshot.

use std::collections::BTreeSet;

use model::{NodeName, Object, ObjectKey, Revision};
use rustc_hash::FxHashMap;
use stream::InterestHash;

use super::closure::{closure, closure_among};
use super::outbox::Batch;
use super::shown::{Encoder, is_shown_the_same};
use crate::state::{Commit, State};

/// Commits after a node's revision, or objects that have changed in them, beyond which undoing the log costs more than a snapshot.
pub const RESUME_CHANGES_MAX: usize = 20_000;

/// Where a node says that it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub revision: Revision,
    pub hash: InterestHash,
}

impl Position {
    /// False: it has no view yet, and nothing to be led on from.
    pub fn has_view(self) -> bool {
        self.revision > Revision::default()
    }
}

/// The delta from `position` to `state`, where the node's view has the hash `hash`; `log` holds the commits after the position.
/// None: only a snapshot helps.
pub fn resumed(node: &NodeName, position: Position, state: &State, hash: InterestHash, log: &[Commit], encoder: &Encoder) -> Option<Batch> {
    let log: Vec<&Commit> = log.iter().filter(|commit| commit.revision <= state.revision()).collect();
    let size: usize = log.iter().map(|commit| commit.changes.len()).sum();
    if !position.has_view() || position.revision > state.revision() || size > RESUME_CHANGES_MAX {
        return None;
    }
    let changed = differing(state, &log);
    let mut removals = Vec::new();
    let upserts: BTreeSet<ObjectKey> = if position.hash == hash {
        // Nothing has left the view: what is not there any more was not in it.
        let there = changed.into_iter().filter(|key| state.object(*key).is_some()).collect::<BTreeSet<_>>();
        if there.is_empty() { there } else { closure_among(state, node, &there) }
    } else {
        let (view, old) = (closure(state, node), closure(&undone(state, &log), node));
        if InterestHash::of(&old) != position.hash {
            return None;
        }
        removals.extend(old.difference(&view));
        view.iter().filter(|key| changed.contains(key) || !old.contains(key)).copied().collect()
    };
    let upserts = upserts.iter().filter_map(|key| state.object(*key)).map(|object| encoder.encode(object));
    Some(Batch { to: state.revision(), hash, upserts: upserts.collect(), removals })
}

/// What is shown to nodes in another way than before `log`.
fn differing(state: &State, log: &[&Commit]) -> BTreeSet<ObjectKey> {
    let mut before: FxHashMap<ObjectKey, Option<&Object>> = FxHashMap::default();
    for change in log.iter().flat_map(|commit| commit.changes.iter()) {
        before.entry(change.key).or_insert(change.before.as_deref());
    }
    let is_different = |(key, then): &(ObjectKey, Option<&Object>)| !is_shown_the_same(*then, state.object(*key).map(|now| &**now));
    before.into_iter().filter(is_different).map(|(key, _)| key).collect()
}

/// The state before `log`.
fn undone(state: &State, log: &[&Commit]) -> State {
    let mut past = state.clone();
    for change in log.iter().rev().flat_map(|commit| commit.changes.iter()) {
        match &change.before {
            Some(before) => drop(past.put(before.clone())),
            None => drop(past.remove(change.key)),
        }
    }
    past
}

#[cfg(test)]
mod tests {
    use model::{Node, Port, TunnelType};

    use super::super::tests::world::*;
    use super::*;
    use crate::state::Change;

    #[test]
    fn a_log_of_too_many_changes_leads_nobody_on() {
        let world = World::of([network(1).into(), vm(11, 1, 1).into()]);
        let (state, hash, encoder) = (&world.state, world.interest.hash(&name(1)), Encoder::default());
        let position = Position { revision: state.revision(), hash };
        let key = key(vm(11, 1, 1));
        let object = state.object(key).cloned();
        let led_on = |changes: usize| {
            let changes = vec![Change { key, before: object.clone(), after: object.clone() }; changes];
            let log = [Commit { revision: state.revision(), changes: changes.into() }];
            resumed(&name(1), position, state, hash, &log, &encoder).is_some()
        };
        assert!(led_on(RESUME_CHANGES_MAX) && !led_on(RESUME_CHANGES_MAX + 1));
    }

    #[test]
    fn a_node_without_a_view_is_led_on_from_nowhere() {
        let world = World::of([network(1).into()]);
        let hash = world.interest.hash(&name(1));
        let position = Position { revision: Revision::default(), hash };
        assert!(resumed(&name(1), position, &world.state, hash, &world.log, &Encoder::default()).is_none());
    }

    #[test]
    fn a_node_with_the_right_hash_gets_what_it_sees_of_what_changed_and_hears_nothing_of_the_rest() {
        let (networks, nodes) = ([network(1), network(2)].map(Object::from), [node(2), node(3)].map(Object::from));
        let ports = [vm(11, 1, 1), vm(12, 1, 2), vm(21, 2, 3), vm(22, 2, 3)].map(Object::from);
        let mut world = World::of(networks.into_iter().chain(nodes).chain(ports));
        let position = Position { revision: world.state.revision(), hash: world.interest.hash(&name(1)) };
        let down = |port: Port| put(Port { is_admin_up: false, ..port });
        let vxlan = |n: u32| put(Node { tunnel: TunnelType::Vxlan, ..node(n) });
        let seen = [down(vm(12, 1, 2)), vxlan(2)];
        let unseen = [down(vm(21, 2, 3)), vxlan(3)];
        let gone = [delete(vm(13, 1, 2)), delete(vm(22, 2, 3))];
        world.commit([put(vm(13, 1, 2))]);
        world.commit(seen.into_iter().chain(unseen).chain(gone));
        let hash = world.interest.hash(&name(1));
        assert_eq!(hash, position.hash);
        let batch = resumed(&name(1), position, &world.state, hash, &world.log[1..], &Encoder::default()).unwrap();
        let told = batch.upserts.iter().map(|bytes| stream::wire::object(bytes).unwrap().key());
        assert_eq!(keys(told), keys([key(vm(12, 1, 2)), key(node(2))]));
        assert!(batch.removals.is_empty());
    }
}
