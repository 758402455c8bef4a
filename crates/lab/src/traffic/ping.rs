//! Echo requests, sent and counted here and not by a `ping` program: a lost packet must be told from a late one, and the
//! longest silence is what a restart is judged by.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::PACKET_MAX;
use crate::error::{Doing, Result};
use crate::netns::Netns;

/// How long after the last request an answer still counts.
const LATE: Duration = Duration::from_secs(3);
/// How often a listener looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of payload in an echo request.
const PAYLOAD: usize = 56;

/// What came back of a series of echo requests.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct PingReport {
    pub sent: u32,
    /// Requests that were answered, each counted once.
    pub received: u32,
    pub lost: u32,
    /// Answers beyond the first to one request.
    pub duplicates: u32,
    /// The longest time between two successive answers.
    pub longest_gap_ms: f64,
    pub rtt_avg_ms: f64,
    pub rtt_min_ms: f64,
    pub rtt_p50_ms: f64,
    pub rtt_p99_ms: f64,
    pub rtt_max_ms: f64,
}

/// Send `count` echo requests from `from`, one every `interval`, and wait for the last answers.
pub fn ping(from: &Netns, target: IpAddr, count: u32, interval: Duration) -> Result<PingReport> {
    let mut echo = Echo::new(from, target)?;
    echo.go_on(interval, |sent| sent < count)
}

/// Send up to ten echo requests within a second; true as soon as one is answered.
pub fn is_reachable(from: &Netns, target: IpAddr) -> Result<bool> {
    let mut echo = Echo::new(from, target)?;
    for _ in 0..10 {
        if echo.one_more(Duration::from_millis(100))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Echo requests that go on while something is done to the network.
#[must_use = "nothing is learned unless it is stopped"]
pub struct Pinging {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU32>,
    thread: JoinHandle<Result<PingReport>>,
}

impl Pinging {
    /// Begin to send one request every `interval`.
    pub fn start(from: &Netns, target: IpAddr, interval: Duration) -> Result<Pinging> {
        let mut echo = Echo::new(from, target)?;
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), echo.heard.answers.clone());
        let stopped = stop.clone();
        let work = move || echo.go_on(interval, |_| !stopped.load(Ordering::Relaxed));
        let thread = thread::Builder::new().name("lab-ping".into()).spawn(work);
        Ok(Pinging { stop, answers, thread: thread.doing(|| "starting a thread".into())? })
    }

    /// Requests that were answered so far.
    pub fn answers(&self) -> u32 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Stop, wait for the last answers and tell what was lost.
    pub fn stop(self) -> Result<PingReport> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(report) => report,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// A raw ICMP socket, what went out of it and what came back.
struct Echo {
    way: Way,
    sent: Mutex<Sent>,
    heard: Heard,
}

/// How requests go out and answers come in.
struct Way {
    /// std has no raw sockets, but its datagram socket does what is needed on any descriptor.
    socket: UdpSocket,
    target: IpAddr,
    id: u16,
}

#[derive(Default)]
struct Sent {
    count: u32,
    pending: HashMap<u16, Instant>,
}

#[derive(Default)]
struct Heard {
    answered: HashSet<u16>,
    last: Option<Instant>,
    rtts: Vec<Duration>,
    gap: Duration,
    received: u32,
    /// The same, for others.
    answers: Arc<AtomicU32>,
    duplicates: u32,
}

impl Echo {
    fn new(from: &Netns, target: IpAddr) -> Result<Echo> {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let id = (std::process::id() as u16).wrapping_mul(251).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let socket = from.within(|| raw_socket(target))?.doing(|| format!("opening a raw socket for {target}"))?;
        Ok(Echo { way: Way { socket, target, id }, sent: Mutex::default(), heard: Heard::default() })
    }

    /// Requests go out by the clock, from a thread of their own: waiting for an answer ends too late for intervals of a millisecond.
    fn go_on(&mut self, interval: Duration, more: impl Fn(u32) -> bool + Sync) -> Result<PingReport> {
        let Echo { way, sent, heard } = self;
        let is_over = AtomicBool::new(false);
        let send = || {
            let mut next = Instant::now();
            let mut result = Ok(());
            while result.is_ok() && more(locked(sent).count) {
                result = way.send(sent);
                next += interval;
                thread::sleep(next.saturating_duration_since(Instant::now()));
                // After a stall of this machine, requests are not sent in a burst: they would measure the burst.
                next = next.max(Instant::now());
            }
            is_over.store(true, Ordering::Relaxed);
            result
        };
        thread::scope(|scope| {
            let sender = scope.spawn(send);
            while !is_over.load(Ordering::Relaxed) {
                way.listen_once(sent, heard, LOOK)?;
            }
            sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let end = Instant::now() + LATE;
            while !locked(sent).pending.is_empty() && Instant::now() < end {
                way.listen_once(sent, heard, LOOK)?;
            }
            Ok(heard.report(locked(sent).count))
        })
    }

    fn one_more(&mut self, patience: Duration) -> Result<bool> {
        self.way.send(&self.sent)?;
        let end = Instant::now() + patience;
        while self.heard.received == 0 && Instant::now() < end {
            self.way.listen_once(&self.sent, &mut self.heard, end.saturating_duration_since(Instant::now()))?;
        }
        Ok(self.heard.received > 0)
    }
}

fn locked(sent: &Mutex<Sent>) -> MutexGuard<'_, Sent> {
    sent.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Way {
    /// A request that the kernel cannot send (no route, a dead device) counts as sent and lost.
    fn send(&self, sent: &Mutex<Sent>) -> Result<()> {
        let sequence = {
            let mut sent = locked(sent);
            let sequence = sent.count as u16;
            sent.count += 1;
            sent.pending.insert(sequence, Instant::now());
            sequence
        };
        let packet = request(self.target, self.id, sequence, PAYLOAD);
        match self.socket.send_to(&packet, SocketAddr::new(self.target, 0)) {
            Err(error) if is_broken(&error) => Err(error).doing(|| format!("sending to {}", self.target)),
            _ => Ok(()),
        }
    }

    fn listen_once(&self, sent: &Mutex<Sent>, heard: &mut Heard, patience: Duration) -> Result<()> {
        let patience = patience.max(Duration::from_micros(100));
        self.socket.set_read_timeout(Some(patience)).doing(|| "setting a time-out".into())?;
        let mut buffer = [0; PACKET_MAX];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, _)) => {
                let now = Instant::now();
                if let Some(sequence) = answer(self.target, self.id, &buffer[..length]) {
                    heard.answer(sequence, locked(sent).pending.remove(&sequence), now);
                }
            }
            Err(error) if is_broken(&error) => return Err(error).doing(|| "receiving answers".into()),
            Err(_) => {}
        }
        Ok(())
    }
}

impl Heard {
    /// An answer to a request that was sent then, unless it was answered before.
    fn answer(&mut self, sequence: u16, sent: Option<Instant>, now: Instant) {
        let Some(sent) = sent else {
            self.duplicates += u32::from(self.answered.contains(&sequence));
            return;
        };
        self.answered.insert(sequence);
        self.received += 1;
        self.answers.store(self.received, Ordering::Relaxed);
        self.rtts.push(now - sent);
        self.gap = self.gap.max(self.last.map_or(Duration::ZERO, |last| now - last));
        self.last = Some(now);
    }

    fn report(&self, sent: u32) -> PingReport {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let mut rtts = self.rtts.clone();
        rtts.sort_unstable();
        // The smallest that is not less than this share of them.
        let at = |percent: usize| rtts.get((rtts.len() * percent).div_ceil(100).saturating_sub(1)).copied().map_or(0.0, ms);
        PingReport {
            sent,
            received: self.received,
            lost: sent - self.received,
            duplicates: self.duplicates,
            longest_gap_ms: ms(self.gap),
            rtt_avg_ms: ms(rtts.iter().sum()) / f64::from(self.received.max(1)),
            rtt_min_ms: at(0),
            rtt_p50_ms: at(50),
            rtt_p99_ms: at(99),
            rtt_max_ms: at(100),
        }
    }
}

/// Errors that say something about the socket, and not about the network or the clock.
fn is_broken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc_errno::EBADF | libc_errno::EINVAL | libc_errno::EPERM))
}

/// The few numbers of errno(3) that std has no name for.
mod libc_errno {
    pub const EPERM: i32 = 1;
    pub const EBADF: i32 = 9;
    pub const EINVAL: i32 = 22;
}

fn raw_socket(target: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match target {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    Ok(UdpSocket::from(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))
}

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// An echo request (RFC 792, RFC 4443). The kernel fills in the checksum for IPv6.
fn request(target: IpAddr, id: u16, sequence: u16, payload: usize) -> Vec<u8> {
    let kind = if target.is_ipv4() { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend((0..payload).map(|byte| byte as u8));
    if target.is_ipv4() {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The sequence number, if `packet` answers one of ours. IPv4 sockets also give the IP header.
fn answer(target: IpAddr, id: u16, packet: &[u8]) -> Option<u16> {
    let (message, kind) = match target {
        IpAddr::V4(_) => (packet.get(usize::from(packet.first()? & 0xf) * 4..)?, ECHO_REPLY),
        IpAddr::V6(_) => (packet, ECHO_REPLY_V6),
    };
    let [k, 0, _, _, i1, i2, s1, s2, ..] = *message else { return None };
    (k == kind && u16::from_be_bytes([i1, i2]) == id).then_some(u16::from_be_bytes([s1, s2]))
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answered_request_is_neither_lost_nor_counted_twice() {
        let here = Netns::at("/proc/self/ns/net");
        let report = ping(&here, "127.0.0.1".parse().unwrap(), 5, Duration::from_millis(5)).unwrap();
        assert_eq!((report.sent, report.received, report.lost, report.duplicates), (5, 5, 0, 0));
        let times = [0.0, report.rtt_min_ms, report.rtt_p50_ms, report.rtt_p99_ms, report.rtt_max_ms];
        assert!(times.is_sorted() && report.rtt_min_ms > 0.0, "{times:?}");
    }

    #[test]
    fn the_checksum_of_a_checked_packet_is_zero() {
        let packet = request("192.0.2.1".parse().unwrap(), 7, 9, 5);
        assert_eq!(checksum(&packet), 0);
    }
}
