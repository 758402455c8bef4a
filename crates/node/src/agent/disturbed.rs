//! When the switch is compared because somebody else has changed its flows: at once, and with rests if he goes on.
//!
//! A comparison reads all flows, which keeps the userspace datapath from forwarding for a moment. Whoever answers what is put right, another
//! controller, say, must not make that every moment.

use std::time::Duration;

use tokio::time::Instant;

/// A rest is so many times as long as the comparison before it.
const REST: u32 = 4;
/// The shortest rest.
const REST_MIN: Duration = Duration::from_millis(100);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Disturbed {
    due: Option<Instant>,
    comparing_since: Option<Instant>,
    rests_until: Option<Instant>,
}

impl Disturbed {
    /// Somebody else has changed flows.
    pub fn seen(&mut self) {
        self.due.get_or_insert(self.rests_until.unwrap_or_else(Instant::now));
    }

    /// When a comparison is due, while none is under way.
    pub fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.comparing_since.is_none())
    }

    /// The comparison that is due is going to be made.
    pub fn taken(&mut self) {
        self.due = None;
    }

    pub fn comparison_begins(&mut self) {
        self.comparing_since = Some(Instant::now());
    }

    pub fn comparison_ends(&mut self) {
        let Some(since) = self.comparing_since.take() else { return };
        let until = Instant::now() + (since.elapsed() * REST).clamp(REST_MIN, REST_MAX);
        self.rests_until = Some(until);
        self.due = self.due.map(|_| until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn wait(disturbed: &Disturbed) -> Option<Duration> {
        disturbed.due().map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// A comparison that takes so many milliseconds, in the middle of which others change something.
    async fn compare(disturbed: &mut Disturbed, took: u64) {
        disturbed.taken();
        disturbed.comparison_begins();
        advance(Duration::from_millis(took / 2)).await;
        disturbed.seen();
        assert_eq!(disturbed.due(), None, "one is under way");
        advance(Duration::from_millis(took / 2)).await;
        disturbed.comparison_ends();
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_answered_at_once_and_who_goes_on_after_a_rest() {
        let mut disturbed = Disturbed::default();
        disturbed.seen();
        assert_eq!(wait(&disturbed), Some(Duration::ZERO));
        for (took, rest) in [(2, REST_MIN), (100, Duration::from_millis(400)), (2000, REST_MAX)] {
            compare(&mut disturbed, took).await;
            assert_eq!(wait(&disturbed), Some(rest));
        }
        disturbed.taken();
        disturbed.seen();
        assert_eq!(wait(&disturbed), Some(REST_MAX), "the rest is kept by news after the comparison as well");
        advance(REST_MAX).await;
        disturbed.taken();
        advance(REST_MAX).await;
        disturbed.seen();
        assert_eq!(wait(&disturbed), Some(Duration::ZERO), "who comes later is the first again");
    }
}
