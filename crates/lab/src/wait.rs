//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{LabError, Result};

/// The first pause between two looks; it doubles up to [`SLOWEST_LOOK`].
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// The longest pause between two looks.
const SLOWEST_LOOK: Duration = Duration::from_millis(100);

/// What one look at the condition showed.
pub enum Seen<T> {
    /// The condition holds.
    Done(T),
    /// Not yet; the text says what was there instead.
    NotYet(String),
    /// It cannot come true any more; the text says why.
    Never(String),
}

/// Look until `look` gives a value. An error counts as "not yet", and is reported when the deadline passes.
pub fn until<T, E: Display>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<Option<T>, E>) -> Result<T> {
    watch(what, deadline, || match look() {
        Ok(Some(value)) => Seen::Done(value),
        Ok(None) => Seen::NotYet("nothing".into()),
        Err(error) => Seen::NotYet(error.to_string()),
    })
}

/// Look until the condition holds, can never hold, or `deadline` has passed.
pub fn watch<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Seen<T>) -> Result<T> {
    let started = Instant::now();
    let mut pause = FIRST_LOOK;
    loop {
        let last = match look() {
            Seen::Done(value) => return Ok(value),
            Seen::Never(why) => return Err(LabError::Unfit(format!("{what} cannot come true: {why}"))),
            Seen::NotYet(last) => last,
        };
        let waited = started.elapsed();
        if waited >= deadline {
            return Err(LabError::TimedOut { what: what.into(), waited, last });
        }
        thread::sleep(pause.min(deadline - waited));
        pause = (pause * 2).min(SLOWEST_LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_names_what_was_awaited_and_what_was_there() {
        let error = until::<(), _>("a unicorn", Duration::from_millis(5), || Err("a horse")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("a unicorn") && text.contains("a horse"), "{text}");
    }

    #[test]
    fn a_lost_cause_is_not_waited_for() {
        let started = Instant::now();
        let error = watch::<()>("dawn", Duration::from_secs(60), || Seen::Never("the sun is gone".into())).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(30));
        assert!(error.to_string().contains("the sun is gone"));
    }
}
