//! The pauses between tries of something that fails: each twice as long as the one before it, up to a ceiling, and the first again
//! once something went well.

use std::time::Duration;

/// How long is waited before the next try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pauses {
    first: Duration,
    ceiling: Duration,
    next: Duration,
}

impl Pauses {
    /// Nothing has failed yet.
    pub fn new(first: Duration, ceiling: Duration) -> Pauses {
        Pauses { first, ceiling, next: first }
    }

    /// The pause after one more failure.
    pub fn after_failure(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.ceiling);
        pause
    }

    /// Something went well.
    pub fn start_over(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
pub mod tests {
    use tokio::time::Instant;

    use super::*;

    /// That tries are made after `first` and then ever longer pauses, until they are the `ceiling`, which is the last.
    pub fn assert_pauses(tries: &[Instant], first: Duration, ceiling: Duration) {
        // Timers end at whole milliseconds.
        let pauses: Vec<Duration> = tries.windows(2).map(|two| rounded(two[1] - two[0])).collect();
        assert!(pauses.len() > 2 && pauses[0] == first && pauses.last() == Some(&ceiling), "{pauses:?}");
        assert!(pauses.windows(2).all(|two| two[1] == (two[0] * 2).min(ceiling)), "{pauses:?}");
    }

    fn rounded(pause: Duration) -> Duration {
        Duration::from_millis((pause.as_micros() as u64 + 500) / 1000)
    }

    #[test]
    fn a_pause_is_twice_the_one_before_it_up_to_a_ceiling_and_short_again_after_a_success() {
        let mut pauses = Pauses::new(Duration::from_secs(1), Duration::from_secs(5));
        let seen: Vec<u64> = (0..5).map(|_| pauses.after_failure().as_secs()).collect();
        assert_eq!(seen, [1, 2, 4, 5, 5]);
        pauses.start_over();
        assert_eq!([pauses.after_failure().as_secs(), pauses.after_failure().as_secs()], [1, 2]);
    }
}
