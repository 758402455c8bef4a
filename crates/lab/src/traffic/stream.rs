//! One TCP connection that says a word every so often and hears it back: whether it outlives what is done to the network, and
//! how long it was silent.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::listen;
use crate::error::{Doing, Result};
use crate::netns::Netns;
use crate::wait;

/// How long connecting may take: the first packets between two switches may be lost.
const CONNECT: Duration = Duration::from_secs(20);
/// How long one attempt to connect waits for an answer.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long after the last word its echo still counts.
const LATE: Duration = Duration::from_secs(2);
/// How often both ends look whether they should stop.
const POLL: Duration = Duration::from_millis(20);

/// A word: a number.
type Word = [u8; 8];

/// What became of a connection.
#[derive(Clone, PartialEq, Debug)]
pub struct StreamReport {
    /// Words that were said and heard back, in order.
    pub echoed: u64,
    /// The longest time between two successive echoes.
    pub longest_gap_ms: f64,
    /// Why it broke; none: it was open to the end and every word came back.
    pub broken: Option<String>,
}

/// A connection that goes on while something is done to the network.
#[must_use = "nothing is learned unless it is stopped"]
pub struct Streaming {
    stop: Arc<AtomicBool>,
    echoed: Arc<AtomicU64>,
    client: JoinHandle<StreamReport>,
    server: JoinHandle<()>,
}

impl Streaming {
    /// Connects from `from` to `to`, an address of the namespace `on`, and says a word every `interval`.
    pub fn start(from: &Netns, on: &Netns, to: SocketAddr, interval: Duration) -> Result<Streaming> {
        let listener = listen(on, to.port())?;
        let connect = || from.within(|| TcpStream::connect_timeout(&to, ATTEMPT)).map_err(|error| error.to_string())?.map_err(text);
        let near = wait::until(&format!("a connection to {to}"), CONNECT, || connect().map(Some))?;
        let (far, _) = listener.accept().doing(|| "accepting a connection".into())?;
        for end in [&near, &far] {
            end.set_nodelay(true).and_then(|()| end.set_read_timeout(Some(POLL))).doing(|| "setting up a socket".into())?;
        }
        let (stop, echoed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stops, ends, counts) = (stop.clone(), stop.clone(), echoed.clone());
        let client = thread::spawn(move || converse(near, interval, &stops, &counts));
        let server = thread::spawn(move || echo(far, &ends));
        Ok(Streaming { stop, echoed, client, server })
    }

    /// Words that were said and heard back so far.
    pub fn echoed(&self) -> u64 {
        self.echoed.load(Ordering::Relaxed)
    }

    /// Stops, waits for the last echo and tells how it went.
    pub fn stop(self) -> StreamReport {
        self.stop.store(true, Ordering::Relaxed);
        let report = self.client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        drop(self.server.join());
        report
    }
}

fn text(error: io::Error) -> String {
    error.to_string()
}

fn converse(mut stream: TcpStream, interval: Duration, stop: &AtomicBool, counter: &AtomicU64) -> StreamReport {
    let (mut echoed, mut gap, mut last) = (0u64, Duration::ZERO, Instant::now());
    let mut next = last;
    let broken = loop {
        if stop.load(Ordering::Relaxed) {
            break None;
        }
        let word: Word = echoed.to_be_bytes();
        if let Err(error) = stream.write_all(&word).and_then(|()| hear(&mut stream, word, stop)) {
            break Some(text(error));
        }
        echoed += 1;
        counter.store(echoed, Ordering::Relaxed);
        gap = gap.max(last.elapsed());
        last = Instant::now();
        next = (next + interval).max(last);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    };
    StreamReport { echoed, longest_gap_ms: gap.as_secs_f64() * 1000.0, broken }
}

/// Waits for the echo of `word`; for a limited time once it is time to stop.
fn hear(stream: &mut TcpStream, word: Word, stop: &AtomicBool) -> io::Result<()> {
    let mut end = None;
    let (mut heard, mut buffer) = (0, Word::default());
    while heard < buffer.len() {
        match stream.read(&mut buffer[heard..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => heard += length,
            Err(error) if !is_pause(&error) => return Err(error),
            Err(_) if stop.load(Ordering::Relaxed) => {
                if *end.get_or_insert_with(|| Instant::now() + LATE) <= Instant::now() {
                    return Err(io::Error::other("it was silent at the end"));
                }
            }
            Err(_) => {}
        }
    }
    if buffer == word { Ok(()) } else { Err(io::Error::other("another word came back")) }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Says everything back until the client is gone; one behind a dead network says no goodbye.
fn echo(mut stream: TcpStream, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    let mut end = None;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) if stream.write_all(&buffer[..length]).is_err() => return,
            Err(error) if !is_pause(&error) => return,
            Err(_) if stop.load(Ordering::Relaxed) && *end.get_or_insert_with(|| Instant::now() + 2 * LATE) <= Instant::now() => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_nobody_disturbs_hears_every_word() {
        let here = Netns::at("/proc/self/ns/net");
        let streaming = Streaming::start(&here, &here, "127.0.0.1:27812".parse().unwrap(), Duration::from_millis(1)).unwrap();
        wait::until("two words", CONNECT, || Ok::<_, String>((streaming.echoed() > 1).then_some(()))).unwrap();
        let report = streaming.stop();
        assert!(report.echoed > 1 && report.broken.is_none(), "{report:?}");
    }
}
