//! How a node that connects gets from where it stands to now.
//!
//! The change log is undone from the present state back to the node's revision; what the node's view was then is computed and
//! must have the hash that the node says. The difference of the two views, and of the objects in both, is the delta. Where
//! the log does not reach back, or the hash differs, or the difference would be larger than the whole, the node gets a
//! snapshot.

use std::collections::BTreeSet;

use model::{NodeName, ObjectKey, Revision};
use stream::InterestHash;

use super::closure::closure;
use super::outbox::Batch;
use super::shown::{Encoder, is_shown_the_same};
use crate::state::{Commit, State};

/// Changes beyond which undoing the log costs more than a snapshot.
pub const RESUME_CHANGES_MAX: usize = 100_000;

/// Where a node says that it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub revision: Revision,
    pub hash: InterestHash,
}

/// The delta from `position` to `state`, of which `view` is the node's part; `log` holds the commits after the position.
/// None: only a snapshot helps.
pub fn resumed(
    node: &NodeName,
    position: Position,
    state: &State,
    view: &BTreeSet<ObjectKey>,
    log: &[Commit],
    encoder: &Encoder,
) -> Option<Batch> {
    let log: Vec<&Commit> = log.iter().filter(|commit| commit.revision <= state.revision()).collect();
    let size: usize = log.iter().map(|commit| commit.changes.len()).sum();
    if position.revision > state.revision() || size > RESUME_CHANGES_MAX {
        return None;
    }
    let past = undone(state, &log);
    let old = closure(&past, node);
    if InterestHash::of(&old) != position.hash {
        return None;
    }
    let changed: BTreeSet<ObjectKey> = log.iter().flat_map(|commit| commit.changes.iter()).map(|change| change.key).collect();
    let is_news = |key: &&ObjectKey| {
        let then = past.object(**key).map(|object| &**object);
        let now = state.object(**key).map(|object| &**object);
        !old.contains(key) || changed.contains(key) && !is_shown_the_same(then, now)
    };
    let upserts = view.iter().filter(is_news).filter_map(|key| state.object(*key)).map(|object| encoder.encode(object));
    let removals = old.difference(view).copied().collect();
    Some(Batch { to: state.revision(), hash: InterestHash::of(view), upserts: upserts.collect(), removals })
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
    use super::super::tests::world::*;
    use super::*;
    use crate::state::Change;

    #[test]
    fn a_log_of_too_many_changes_leads_nobody_on() {
        let world = World::of([network(1).into(), vm(11, 1, 1).into()]);
        let (state, view, encoder) = (&world.state, world.interest.view(&name(1)), Encoder::default());
        let position = Position { revision: state.revision(), hash: InterestHash::of(&view) };
        let key = key(vm(11, 1, 1));
        let object = state.object(key).cloned();
        let led_on = |changes: usize| {
            let changes = vec![Change { key, before: object.clone(), after: object.clone() }; changes];
            let log = [Commit { revision: state.revision(), changes: changes.into() }];
            resumed(&name(1), position, state, &view, &log, &encoder).is_some()
        };
        assert!(led_on(RESUME_CHANGES_MAX) && !led_on(RESUME_CHANGES_MAX + 1));
    }
}
