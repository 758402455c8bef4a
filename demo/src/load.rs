//! New connections at a steady rate, each of which must be answered.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::Netns;

/// Longest time that one connection may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Threads that connect: enough for the rate while every connection takes 300 ms.
const THREADS: u32 = 60;
/// Kinds of failure that are remembered.
const KINDS_MAX: usize = 8;

/// What came of it.
#[derive(Default)]
pub struct Load {
    pub sent: u32,
    pub failed: u32,
    /// Why, and how often.
    pub failures: BTreeMap<String, u32>,
    /// Who answered, and how often.
    pub answers: BTreeMap<String, u32>,
    pub took: Duration,
}

impl Load {
    /// Asks `targets` in turn for the page `path`, `rate` times a second, until `stop`.
    pub fn run(from: &Netns, targets: &[SocketAddr], path: &str, rate: u32, stop: &AtomicBool) -> Result<Load> {
        let (load, next, started) = (Mutex::new(Load::default()), AtomicU32::new(0), Instant::now());
        from.within(|| {
            // Threads are born in the namespace of the one that makes them.
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            let due = started + Duration::from_secs(1) * number / rate;
                            thread::sleep(due.saturating_duration_since(Instant::now()));
                            let to = targets[number as usize % targets.len()];
                            let outcome = ask(to, path);
                            load.lock().unwrap_or_else(PoisonError::into_inner).count(to, outcome);
                        }
                    });
                }
            });
        })?;
        let mut load = load.into_inner().unwrap_or_else(PoisonError::into_inner);
        load.took = started.elapsed();
        Ok(load)
    }

    /// Connections per second.
    pub fn rate(&self) -> f64 {
        f64::from(self.sent) / self.took.as_secs_f64()
    }

    fn count(&mut self, to: SocketAddr, outcome: std::io::Result<String>) {
        self.sent += 1;
        match outcome {
            Ok(name) => *self.answers.entry(name).or_insert(0) += 1,
            Err(error) => {
                self.failed += 1;
                let kind = format!("{} {error}", to.ip());
                if self.failures.len() < KINDS_MAX || self.failures.contains_key(&kind) {
                    *self.failures.entry(kind).or_insert(0) += 1;
                }
            }
        }
    }
}

fn ask(to: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: demo\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_string()),
        _ => Err(std::io::Error::other(format!("not a page: {:?}", answer.lines().next().unwrap_or_default()))),
    }
}
