//! Test traffic from inside any network namespace: echo requests with exact counts, TCP and UDP probes.
//!
//! The packets are sent and counted here, not by a `ping` program: a lost packet must be told from a late one, and the
//! longest silence is what a restart is judged by. Workloads that have no namespace of ours (virtual machines) run their
//! own tools.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::error::{Doing, LabError, Result};
use crate::netns::Netns;

/// How long after the last request an answer still counts.
const LATE: Duration = Duration::from_millis(1000);
/// Bytes of payload in an echo request, unless told otherwise.
const PAYLOAD: usize = 56;
/// The longest packet that is received.
const PACKET_MAX: usize = 65_535;
/// The server's answer to whatever a client says first.
const GREETING: &[u8] = b"hello from the lab\n";

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
    pub rtt_max_ms: f64,
}

/// Send `count` echo requests from `from`, one every `interval`, and wait for the last answers.
pub fn ping(from: &Netns, target: IpAddr, count: u32, interval: Duration) -> Result<PingReport> {
    let mut echo = Echo::new(from, target, PAYLOAD)?;
    echo.go_on(interval, |sent| sent < count)
}

/// As [`ping`], ten requests in a second at most; true when one was answered.
pub fn is_reachable(from: &Netns, target: IpAddr) -> Result<bool> {
    let mut echo = Echo::new(from, target, PAYLOAD)?;
    for _ in 0..10 {
        let before = echo.sent;
        if echo.go_on_until_answered(before, Duration::from_millis(100))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Echo requests that go on while something is done to the network.
#[must_use = "nothing is learned unless it is stopped"]
pub struct Pinging {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<PingReport>>,
}

impl Pinging {
    /// Begin to send one request every `interval`.
    pub fn start(from: &Netns, target: IpAddr, interval: Duration) -> Result<Pinging> {
        let mut echo = Echo::new(from, target, PAYLOAD)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let work = move || echo.go_on(interval, |_| !stopped.load(Ordering::Relaxed));
        let thread = thread::Builder::new().name("lab-ping".into()).spawn(work);
        Ok(Pinging { stop, thread: thread.doing(|| "starting a thread".into())? })
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

/// A raw ICMP socket and what it has seen.
struct Echo {
    /// std has no raw sockets, but its datagram socket does what is needed on any descriptor.
    socket: UdpSocket,
    target: IpAddr,
    id: u16,
    payload: usize,
    sent: u32,
    pending: HashMap<u16, Instant>,
    answered: HashMap<u16, Instant>,
    last_answer: Option<Instant>,
    rtt_sum: Duration,
    rtt_max: Duration,
    gap: Duration,
    received: u32,
    duplicates: u32,
}

impl Echo {
    fn new(from: &Netns, target: IpAddr, payload: usize) -> Result<Echo> {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let id = (std::process::id() as u16).wrapping_mul(251).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let socket = from.within(|| raw_socket(target))?.doing(|| format!("opening a raw socket for {target}"))?;
        Ok(Echo {
            socket,
            target,
            id,
            payload,
            sent: 0,
            pending: HashMap::new(),
            answered: HashMap::new(),
            last_answer: None,
            rtt_sum: Duration::ZERO,
            rtt_max: Duration::ZERO,
            gap: Duration::ZERO,
            received: 0,
            duplicates: 0,
        })
    }

    fn go_on(&mut self, interval: Duration, more: impl Fn(u32) -> bool) -> Result<PingReport> {
        let mut next = Instant::now();
        while more(self.sent) {
            self.send()?;
            next += interval;
            self.listen_until(next)?;
            // After a stall of this machine, requests are not sent in a burst: they would measure the burst.
            next = next.max(Instant::now());
        }
        let end = Instant::now() + LATE;
        while !self.pending.is_empty() && Instant::now() < end {
            self.listen_once(end)?;
        }
        Ok(self.report())
    }

    fn go_on_until_answered(&mut self, before: u32, patience: Duration) -> Result<bool> {
        self.send()?;
        debug_assert!(self.sent > before);
        let end = Instant::now() + patience;
        while self.received == 0 && Instant::now() < end {
            self.listen_once(end)?;
        }
        Ok(self.received > 0)
    }

    /// A request that the kernel cannot send (no route, a dead device) counts as sent and lost.
    fn send(&mut self) -> Result<()> {
        let sequence = self.sent as u16;
        self.sent += 1;
        let packet = request(self.target, self.id, sequence, self.payload);
        self.answered.remove(&sequence);
        self.pending.insert(sequence, Instant::now());
        let sent = self.socket.send_to(&packet, SocketAddr::new(self.target, 0));
        match sent {
            Err(error) if is_broken(&error) => Err(error).doing(|| format!("sending to {}", self.target)),
            _ => Ok(()),
        }
    }

    fn listen_until(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end {
            self.listen_once(end)?;
        }
        Ok(())
    }

    fn listen_once(&mut self, end: Instant) -> Result<()> {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_micros(100));
        self.socket.set_read_timeout(Some(left)).doing(|| "setting a time-out".into())?;
        let mut buffer = [0; PACKET_MAX];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, _)) => self.heard(&buffer[..length]),
            Err(error) if is_broken(&error) => return Err(error).doing(|| "receiving answers".into()),
            Err(_) => {}
        }
        Ok(())
    }

    fn heard(&mut self, packet: &[u8]) {
        let Some(sequence) = answer(self.target, self.id, packet) else { return };
        let now = Instant::now();
        let Some(sent) = self.pending.remove(&sequence) else {
            self.duplicates += u32::from(self.answered.contains_key(&sequence));
            return;
        };
        self.answered.insert(sequence, now);
        self.received += 1;
        let rtt = now - sent;
        self.rtt_sum += rtt;
        self.rtt_max = self.rtt_max.max(rtt);
        self.gap = self.gap.max(self.last_answer.map_or(Duration::ZERO, |last| now - last));
        self.last_answer = Some(now);
    }

    fn report(&self) -> PingReport {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        PingReport {
            sent: self.sent,
            received: self.received,
            lost: self.sent - self.received,
            duplicates: self.duplicates,
            longest_gap_ms: ms(self.gap),
            rtt_avg_ms: ms(self.rtt_sum) / f64::from(self.received.max(1)),
            rtt_max_ms: ms(self.rtt_max),
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

/// How a TCP connection attempt or a UDP request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probe {
    /// The other side said this.
    Answered(Vec<u8>),
    /// Refused at once: a TCP reset or an ICMP port unreachable.
    Refused,
    /// An ICMP error said that there is no way.
    Unreachable,
    /// Nothing came back in time.
    Silent,
}

impl Probe {
    /// Something answered.
    pub fn is_answered(&self) -> bool {
        matches!(self, Probe::Answered(_))
    }

    /// The answer as text, empty where there was none.
    pub fn text(&self) -> String {
        match self {
            Probe::Answered(bytes) => String::from_utf8_lossy(bytes).trim().to_owned(),
            _ => String::new(),
        }
    }
}

/// Connect by TCP, send `say`, and read until the other side closes or `patience` is over.
pub fn tcp(from: &Netns, to: SocketAddr, say: &[u8], patience: Duration) -> Result<Probe> {
    from.within(|| judged(tcp_exchange(to, say, patience)))?
}

fn tcp_exchange(to: SocketAddr, say: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.write_all(say)?;
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(heard),
            Ok(length) => heard.extend(&buffer[..length]),
            Err(_) if !heard.is_empty() => return Ok(heard),
            Err(error) => return Err(error),
        }
    }
}

/// GET a page over plain HTTP and give its body.
pub fn http_get(from: &Netns, to: SocketAddr, path: &str, patience: Duration) -> Result<Probe> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    let probe = tcp(from, to, request.as_bytes(), patience)?;
    Ok(match probe {
        Probe::Answered(bytes) => {
            let head = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            Probe::Answered(head.map_or(bytes.clone(), |at| bytes[at + 4..].to_vec()))
        }
        other => other,
    })
}

/// Send `say` in one UDP datagram and wait for one answer.
pub fn udp(from: &Netns, to: SocketAddr, say: &[u8], patience: Duration) -> Result<Probe> {
    from.within(|| judged(udp_exchange(to, say, patience)))?
}

fn udp_exchange(to: SocketAddr, say: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(say)?;
    let mut buffer = vec![0; PACKET_MAX];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn judged(outcome: io::Result<Vec<u8>>) -> Result<Probe> {
    match outcome {
        Ok(bytes) => Ok(Probe::Answered(bytes)),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ok(Probe::Refused),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Ok(Probe::Unreachable),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Probe::Silent),
            _ => Err(LabError::Io { doing: "probing".into(), source: error }),
        },
    }
}

/// A TCP and a UDP server on one port of a namespace: TCP greets and echoes what it is told, UDP echoes.
pub struct EchoServer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl EchoServer {
    /// Serve on every address of the namespace; IPv6 sockets take IPv4 too.
    pub fn start(on: &Netns, port: u16) -> Result<EchoServer> {
        let any = SocketAddr::from(([0u16; 8], port));
        let sockets = on.within(|| Ok::<_, io::Error>((TcpListener::bind(any)?, UdpSocket::bind(any)?)))?;
        let (listener, datagrams) = sockets.doing(|| format!("listening on port {port}"))?;
        listener.set_nonblocking(true).doing(|| "setting up a socket".into())?;
        datagrams.set_read_timeout(Some(POLL)).doing(|| "setting up a socket".into())?;
        let stop = Arc::new(AtomicBool::new(false));
        let (first, second) = (stop.clone(), stop.clone());
        let threads = vec![
            thread::spawn(move || serve_tcp(&listener, &first)),
            thread::spawn(move || serve_udp(&datagrams, &second)),
        ];
        Ok(EchoServer { stop, threads })
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// How often a server looks whether it should stop.
const POLL: Duration = Duration::from_millis(20);
/// How long a server listens to a client that says nothing.
const CLIENT: Duration = Duration::from_secs(2);

fn serve_tcp(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => drop(thread::spawn(move || greet(stream))),
            Err(_) => thread::sleep(POLL),
        }
    }
}

fn greet(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(CLIENT))?;
    stream.write_all(GREETING)?;
    let mut buffer = [0; 4096];
    let length = stream.read(&mut buffer)?;
    stream.write_all(&buffer[..length])
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; PACKET_MAX];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Netns {
        Netns::at("/proc/self/ns/net")
    }

    #[test]
    fn an_answered_request_is_neither_lost_nor_counted_twice() {
        let report = ping(&here(), "127.0.0.1".parse().unwrap(), 5, Duration::from_millis(5)).unwrap();
        assert_eq!((report.sent, report.received, report.lost, report.duplicates), (5, 5, 0, 0));
    }

    #[test]
    fn a_closed_port_refuses_and_an_open_one_answers() {
        let closed = "127.0.0.1:1".parse().unwrap();
        assert_eq!(tcp(&here(), closed, b"", Duration::from_secs(1)).unwrap(), Probe::Refused);
        assert_eq!(udp(&here(), closed, b"x", Duration::from_secs(1)).unwrap(), Probe::Refused);
        let _server = EchoServer::start(&here(), 47_811).unwrap();
        let open = "127.0.0.1:47811".parse().unwrap();
        assert_eq!(udp(&here(), open, b"echo", Duration::from_secs(1)).unwrap(), Probe::Answered(b"echo".to_vec()));
        assert!(tcp(&here(), open, b"x", Duration::from_secs(1)).unwrap().text().starts_with("hello"));
    }

    #[test]
    fn the_checksum_of_a_checked_packet_is_zero() {
        let packet = request("192.0.2.1".parse().unwrap(), 7, 9, 5);
        assert_eq!(checksum(&packet), 0);
    }
}
