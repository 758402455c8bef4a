//! The latest commits, in memory: most nodes that come back were away for seconds, and there may be thousands at once.

use std::collections::VecDeque;
use std::sync::Arc;

use model::Revision;
use store::Commit;

use super::LAG_MAX;

/// Changes in the window.
const CHANGES_MAX: usize = 16_384;

/// Commits without a gap.
#[derive(Default)]
pub struct Window {
    /// The revision before the first.
    since: Revision,
    commits: VecDeque<Arc<Commit>>,
    changes: usize,
}

impl Window {
    /// Nothing before `revision` is known.
    pub fn after(revision: Revision) -> Window {
        Window { since: revision, ..Window::default() }
    }

    /// The next commit. One that skips revisions tells nothing about those between.
    pub fn push(&mut self, commit: Arc<Commit>) {
        let latest = self.commits.back().map_or(self.since, |commit| commit.revision);
        if commit.revision.0 != latest.0 + 1 {
            *self = Window::after(commit.revision);
            return;
        }
        self.changes += commit.changes.len();
        self.commits.push_back(commit);
        while self.commits.len() > LAG_MAX || self.changes > CHANGES_MAX {
            let Some(oldest) = self.commits.pop_front() else { break };
            self.since = oldest.revision;
            self.changes -= oldest.changes.len();
        }
    }

    /// Commits that came before, as the store's log has them: as many of the latest as there is room for.
    pub fn precede(&mut self, log: &[Commit]) {
        let begins = self.since;
        for commit in log.iter().rev().skip_while(|commit| commit.revision > begins) {
            let has_room = self.commits.len() < LAG_MAX && self.changes + commit.changes.len() <= CHANGES_MAX;
            if commit.revision != self.since || !has_room {
                return;
            }
            self.since = Revision(commit.revision.0 - 1);
            self.changes += commit.changes.len();
            self.commits.push_front(Arc::new(commit.clone()));
        }
    }

    /// The commits after `from`; None where the window does not tell.
    pub fn since(&self, from: Revision) -> Option<Vec<Commit>> {
        let latest = self.commits.back().map_or(self.since, |commit| commit.revision);
        if from < self.since || from > latest {
            return None;
        }
        Some(self.commits.iter().skip((from.0 - self.since.0) as usize).map(|commit| Commit::clone(commit)).collect())
    }
}

#[cfg(test)]
mod tests {
    use model::{Kind, ObjectKey, PortId};
    use store::Change;
    use uuid::Uuid;

    use super::*;

    fn commit(revision: u64) -> Arc<Commit> {
        Arc::new(Commit { revision: Revision(revision), changes: Arc::from([]) })
    }

    fn told(window: &Window, from: u64) -> Option<Vec<u64>> {
        window.since(Revision(from)).map(|commits| commits.iter().map(|commit| commit.revision.0).collect())
    }

    #[test]
    fn the_window_tells_what_it_has_and_nothing_else() {
        let mut window = Window::after(Revision(5));
        assert_eq!((told(&window, 4), told(&window, 5), told(&window, 6)), (None, Some(vec![]), None));
        (6..=8).for_each(|revision| window.push(commit(revision)));
        assert_eq!((told(&window, 5), told(&window, 7), told(&window, 8)), (Some(vec![6, 7, 8]), Some(vec![8]), Some(vec![])));
        window.push(commit(11));
        assert_eq!((told(&window, 8), told(&window, 10), told(&window, 11)), (None, None, Some(vec![])), "9 and 10 were skipped");
    }

    #[test]
    fn what_was_read_of_the_log_precedes_the_window_without_a_gap_and_within_its_bounds() {
        let log = |revisions: std::ops::RangeInclusive<u64>| revisions.map(|n| Commit::clone(&commit(n))).collect::<Vec<_>>();
        let mut window = Window::after(Revision(5));
        window.push(commit(6));
        window.precede(&log(3..=7));
        assert_eq!((told(&window, 1), told(&window, 2)), (None, Some(vec![3, 4, 5, 6])));
        window.precede(&log(4..=6));
        window.precede(&log(0..=1));
        assert_eq!((told(&window, 1), told(&window, 2)), (None, Some(vec![3, 4, 5, 6])), "nothing new, and a gap");
        let mut window = Window::after(Revision(2 * LAG_MAX as u64));
        window.precede(&log(1..=2 * LAG_MAX as u64));
        assert_eq!(told(&window, LAG_MAX as u64).map(|told| told.len()), Some(LAG_MAX));
        assert_eq!(told(&window, LAG_MAX as u64 - 1), None);
    }

    #[test]
    fn the_window_is_bounded() {
        let mut window = Window::default();
        let last = LAG_MAX as u64 + 10;
        (1..=last).for_each(|revision| window.push(commit(revision)));
        assert_eq!(told(&window, 9), None);
        assert_eq!(told(&window, 10).map(|told| told.len()), Some(LAG_MAX));
    }

    #[test]
    fn the_window_is_bounded_by_what_its_commits_hold() {
        const EACH: usize = CHANGES_MAX / 4;
        let change = Change { key: ObjectKey::new(Kind::Port, PortId(Uuid::nil())), before: None, after: None };
        let mut window = Window::default();
        for revision in 1..=9 {
            window.push(Arc::new(Commit { revision: Revision(revision), changes: vec![change.clone(); EACH].into() }));
        }
        assert_eq!((told(&window, 4), told(&window, 5)), (None, Some(vec![6, 7, 8, 9])));
        window.push(Arc::new(Commit { revision: Revision(10), changes: vec![change; CHANGES_MAX + 1].into() }));
        assert_eq!((told(&window, 9), told(&window, 10)), (None, Some(vec![])), "what is larger by itself is not kept");
        assert_eq!(window.changes, 0);
    }
}
