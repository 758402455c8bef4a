//! What the clock says. A clock that stands before 1970 says 0.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub fn unix_secs() -> u64 {
    since_1970().as_secs()
}

pub fn unix_micros() -> u64 {
    since_1970().as_micros() as u64
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
