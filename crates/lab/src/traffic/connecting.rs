//! New TCP connections one after the other: whether each comes about while something is done to the network, and how long it takes.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::listen;
use crate::error::{Doing, Result};
use crate::netns::Netns;

/// One that takes longer has failed: the first three retransmissions are within it.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often the accepting end looks whether it should stop.
const POLL: Duration = Duration::from_millis(5);

/// What became of them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConnectReport {
    pub made: u64,
    /// Those that failed, and why the last one did.
    pub failed: u64,
    pub problem: Option<String>,
    pub longest_ms: f64,
}

/// Connections that go on being made.
#[must_use = "nothing is learned unless it is stopped"]
pub struct Connecting {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    client: JoinHandle<Result<ConnectReport>>,
    server: JoinHandle<()>,
}

impl Connecting {
    /// Connects from `from` to `to` every `interval`; `on` is the namespace that accepts on the same port.
    pub fn start(from: &Netns, on: &Netns, to: SocketAddr, interval: Duration) -> Result<Connecting> {
        let listener = listen(on, to.port())?;
        listener.set_nonblocking(true).doing(|| "setting up a socket".into())?;
        let stop = Arc::new(AtomicBool::new(false));
        let made = Arc::new(AtomicU64::new(0));
        let (stops, ends, counter, from) = (stop.clone(), stop.clone(), made.clone(), from.clone());
        let client = thread::spawn(move || from.within(|| connect(to, interval, &stops, &counter)));
        let server = thread::spawn(move || accept(&listener, &ends));
        Ok(Connecting { stop, made, client, server })
    }

    /// Connections that came about so far.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Stops and tells how it went.
    pub fn stop(self) -> Result<ConnectReport> {
        self.stop.store(true, Ordering::Relaxed);
        let report = self.client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        drop(self.server.join());
        report
    }
}

fn connect(to: SocketAddr, interval: Duration, stop: &AtomicBool, counter: &AtomicU64) -> ConnectReport {
    let mut report = ConnectReport::default();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(_) => report.made += 1,
            Err(error) => (report.failed, report.problem) = (report.failed + 1, Some(error.to_string())),
        }
        counter.store(report.made, Ordering::Relaxed);
        report.longest_ms = report.longest_ms.max(began.elapsed().as_secs_f64() * 1000.0);
        thread::sleep(interval.saturating_sub(began.elapsed()));
    }
    report
}

/// Takes every connection and ends it.
fn accept(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if listener.accept().is_err() {
            thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;

    #[test]
    fn connections_that_nobody_disturbs_all_come_about() {
        let here = Netns::at("/proc/self/ns/net");
        let connecting = Connecting::start(&here, &here, "127.0.0.1:27813".parse().unwrap(), Duration::from_millis(1)).unwrap();
        wait::until("two connections", PATIENCE, || Ok::<_, String>((connecting.made() > 1).then_some(()))).unwrap();
        let report = connecting.stop().unwrap();
        assert!(report.made > 1 && report.failed == 0, "{report:?}");
    }
}
