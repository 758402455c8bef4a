//! Accepting whoever connects, for ever: a connection that cannot be accepted ends no other, and nothing else of the process.

use std::future::Future;
use std::io;
use std::time::Duration;

/// The pause after an `accept` that failed. No file descriptor is left, most likely: the next attempt would fail as quickly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What `accept` gives in the end. Each failure before is told to `failed`.
pub async fn accepted<T, F: Future<Output = io::Result<T>>>(accept: impl Fn() -> F, failed: impl Fn(io::Error)) -> T {
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(error) => failed(error),
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_listener_without_descriptors_waits_for_some() {
        let (left, told) = (Cell::new(3), Cell::new(0));
        let accept = || {
            let is_free = left.get() == 0;
            left.set(left.get() - 1);
            std::future::ready(if is_free { Ok("a connection") } else { Err(io::Error::other("no descriptor")) })
        };
        let begun = Instant::now();
        assert_eq!(accepted(accept, |_| told.set(told.get() + 1)).await, "a connection");
        assert_eq!((begun.elapsed().as_millis(), told.get()), (3 * ACCEPT_PAUSE.as_millis(), 3));
    }
}
