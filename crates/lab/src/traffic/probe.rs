//! One TCP connection or UDP request, and how it ended: answered, refused, unreachable or silence.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::PACKET_MAX;
use crate::error::{LabError, Result};
use crate::netns::Netns;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::EchoServer;

    #[test]
    fn a_closed_port_refuses_and_an_open_one_answers() {
        let here = Netns::at("/proc/self/ns/net");
        let patience = Duration::from_secs(20);
        let closed = "127.0.0.1:1".parse().unwrap();
        assert_eq!(tcp(&here, closed, b"", patience).unwrap(), Probe::Refused);
        assert_eq!(udp(&here, closed, b"x", patience).unwrap(), Probe::Refused);
        let _server = EchoServer::start(&here, 27_811).unwrap();
        let open = "127.0.0.1:27811".parse().unwrap();
        assert_eq!(udp(&here, open, b"echo", patience).unwrap(), Probe::Answered(b"echo".to_vec()));
        assert!(tcp(&here, open, b"x", patience).unwrap().text().starts_with("hello"));
    }
}
