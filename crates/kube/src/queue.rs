//! Which objects need work, and when: a queue without duplicates, with a back-off of its own for every object.
//!
//! However often an object changes while it waits, it is one entry; if it changes while it is worked on, it is worked on once
//! more. One that fails waits for itself only. The queue holds at most one entry per object of the cluster, which is its bound.
//! It is plain data: time comes in from outside.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// First wait after a failure; doubled by every further one.
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest wait between two attempts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Entry {
    due: Option<Instant>,
    failures: u32,
    is_running: bool,
}

/// See the module.
pub struct Queue<K> {
    entries: HashMap<K, Entry>,
    order: BTreeSet<(Instant, K)>,
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    pub fn new() -> Queue<K> {
        Queue { entries: HashMap::new(), order: BTreeSet::new() }
    }

    /// The object changed: work on it at `when`, or earlier if it is due earlier. A back-off is not cut short.
    pub fn push(&mut self, key: K, when: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        match entry.due {
            Some(due) if due <= when || (entry.failures > 0 && !entry.is_running) => {}
            old => {
                if let Some(old) = old {
                    self.order.remove(&(old, key.clone()));
                }
                entry.due = Some(when);
                if !entry.is_running {
                    self.order.insert((when, key));
                }
            }
        }
    }

    /// The object changed in a way that deserves an attempt right now, whatever failed before.
    pub fn push_fresh(&mut self, key: K, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.failures = 0;
        }
        self.push(key, now);
    }

    /// The next object that is due; it is being worked on from now on.
    pub fn pop(&mut self, now: Instant) -> Option<K> {
        let (due, _) = self.order.first()?;
        if *due > now {
            return None;
        }
        let (_, key) = self.order.pop_first().expect("just seen");
        let entry = self.entries.get_mut(&key).expect("ordered keys have entries");
        entry.due = None;
        entry.is_running = true;
        Some(key)
    }

    /// The work succeeded.
    pub fn done(&mut self, key: &K) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.is_running = false;
        entry.failures = 0;
        match entry.due {
            Some(due) => {
                self.order.insert((due, key.clone()));
            }
            None => {
                self.entries.remove(key);
            }
        }
    }

    /// The work failed: again after a while. Returns how often in a row it has failed.
    pub fn failed(&mut self, key: &K, now: Instant) -> u32 {
        let entry = self.entries.entry(key.clone()).or_default();
        entry.is_running = false;
        entry.failures = entry.failures.saturating_add(1);
        let due = now + backoff(entry.failures);
        entry.due = Some(due);
        self.order.insert((due, key.clone()));
        entry.failures
    }

    /// When [`Queue::pop`] has something next.
    pub fn next_due(&self) -> Option<Instant> {
        self.order.first().map(|(due, _)| *due)
    }

    pub fn is_running(&self, key: &K) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.is_running)
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_changes_are_one_piece_of_work() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        for _ in 0..10 {
            queue.push("a", now);
        }
        assert_eq!(queue.pop(now), Some("a"));
        assert_eq!(queue.pop(now), None);
    }

    #[test]
    fn a_change_during_the_work_is_worked_on_afterwards_and_never_in_parallel() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        queue.push("a", now);
        queue.pop(now);
        queue.push("a", now);
        assert_eq!(queue.pop(now), None);
        queue.done(&"a");
        assert_eq!(queue.pop(now), Some("a"));
        queue.done(&"a");
        assert_eq!((queue.pop(now), queue.entries.len()), (None, 0));
    }

    #[test]
    fn a_failure_delays_itself_and_nobody_else() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        queue.push("bad", now);
        queue.pop(now);
        assert_eq!(queue.failed(&"bad", now), 1);
        queue.push("bad", now);
        queue.push("good", now);
        assert_eq!(queue.pop(now), Some("good"));
        assert_eq!(queue.pop(now), None);
        assert_eq!(queue.pop(now + BACKOFF_MIN), Some("bad"));
        assert_eq!(queue.failed(&"bad", now), 2);
        assert_eq!(queue.next_due(), Some(now + BACKOFF_MIN * 2));
        queue.push_fresh("bad", now);
        assert_eq!(queue.pop(now), Some("bad"));
    }

    #[test]
    fn a_back_off_has_a_cap() {
        assert_eq!(backoff(1), BACKOFF_MIN);
        assert_eq!(backoff(1000), BACKOFF_MAX);
    }

    #[test]
    fn work_for_later_waits_and_can_be_brought_forward() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        queue.push("a", now + Duration::from_secs(60));
        assert_eq!(queue.pop(now), None);
        queue.push("a", now);
        assert_eq!(queue.pop(now), Some("a"));
    }
}
