//! Which server is asked next, and when.
//!
//! Every server has a pause of its own: it doubles with each attempt that ends soon, so that a server in trouble is left alone, and
//! is the shortest again after a stream that lasted. A server that was killed costs its nodes nothing but the way to the next one.

use std::time::Duration;

use tokio::time::Instant;

use crate::pauses::Pauses;

/// The first pause after a failed attempt. Each further one is twice as long, less a random part.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The servers, by their places in the configuration.
pub struct Rota {
    servers: Vec<Server>,
    turn: usize,
}

#[derive(Clone, Copy)]
struct Server {
    pauses: Pauses,
    ready: Instant,
}

impl Rota {
    /// A round of `count` servers that begins at any of them.
    pub fn new(count: usize, first: usize) -> Rota {
        let server = Server { pauses: Pauses::new(BACKOFF_MIN, BACKOFF_MAX), ready: Instant::now() };
        Rota { servers: vec![server; count], turn: if count == 0 { 0 } else { first % count } }
    }

    /// The server that is asked next, and from when on: the first in turn of those that may be asked soonest. None: there are none.
    pub fn next(&self) -> Option<(usize, Instant)> {
        let now = Instant::now();
        let in_turn = (0..self.servers.len()).map(|step| (self.turn + step) % self.servers.len());
        in_turn.map(|place| (place, self.servers[place].ready.max(now))).min_by_key(|(_, ready)| *ready)
    }

    /// The attempt at the server `place` has ended; `lasted`: it was followed for a while.
    pub fn ended(&mut self, place: usize, lasted: bool) {
        self.turn = (place + 1) % self.servers.len();
        let server = &mut self.servers[place];
        if lasted {
            server.pauses.start_over();
        }
        server.ready = Instant::now() + server.pauses.after_failure().mul_f64(rand::random_range(0.5..1.0));
        // All nodes of a server that is gone do not come to the next one at once.
        let soonest = Instant::now() + BACKOFF_MIN.mul_f64(rand::random_range(0.5..1.0));
        for other in &mut self.servers {
            other.ready = other.ready.max(soonest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attempts of a minute as (server, seconds since the beginning), each of which ends at once.
    async fn minute(rota: &mut Rota) -> Vec<(usize, f64)> {
        let began = Instant::now();
        let mut attempts = Vec::new();
        while let Some((server, ready)) = rota.next().filter(|(_, ready)| *ready - began < Duration::from_secs(60)) {
            tokio::time::sleep_until(ready).await;
            attempts.push((server, began.elapsed().as_secs_f64()));
            rota.ended(server, false);
        }
        attempts
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_serve_is_asked_ever_more_seldom() {
        let attempts = minute(&mut Rota::new(1, 5)).await;
        assert!((8..20).contains(&attempts.len()), "{attempts:?}");
        let longest = attempts.windows(2).map(|pair| pair[1].1 - pair[0].1).fold(0.0, f64::max);
        assert!(longest <= BACKOFF_MAX.as_secs_f64() + 0.01, "{longest}");
    }

    #[tokio::test(start_paused = true)]
    async fn servers_are_asked_in_turn_and_none_is_forgotten() {
        let attempts = minute(&mut Rota::new(3, 1)).await;
        assert_eq!(attempts[..4].iter().map(|(server, _)| *server).collect::<Vec<_>>(), [1, 2, 0, 1]);
        let of = |which| attempts.iter().filter(|(server, _)| *server == which).count();
        assert!((0..3).all(|server| (8..20).contains(&of(server))), "{attempts:?}");
    }

    /// As under a storm of kills: whatever became of one server before, another one that is well is followed at once.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_keeps_ending_streams_keeps_nobody_from_the_others() {
        let mut rota = Rota::new(2, 0);
        for _ in 0..10 {
            let (server, ready) = rota.next().unwrap();
            tokio::time::sleep_until(ready).await;
            if server == 1 {
                tokio::time::sleep(BACKOFF_MAX * 2).await;
            }
            rota.ended(server, server == 1);
        }
        let (server, ready) = rota.next().unwrap();
        assert!(ready - Instant::now() <= BACKOFF_MIN, "server {server} in {:?}", ready - Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn who_lost_a_server_waits_a_moment_before_the_next() {
        let mut rota = Rota::new(2, 0);
        rota.ended(0, true);
        let (server, ready) = rota.next().unwrap();
        assert_eq!(server, 1);
        assert!(ready > Instant::now());
        assert!(Rota::new(0, 7).next().is_none());
    }
}
