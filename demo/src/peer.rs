//! One end of a conversation: a pod, the virtual machine, the bare-metal host or a node's own process.
//!
//! Everybody can send; most also serve: pods run agnhost's `netexec` (HTTP on 8080, UDP on 8081), the others an echo on port 7.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::Netns;
use lab::traffic::{self, Probe};

use crate::guest::Guest;

/// Longest wait for an answer.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Where pods serve HTTP and UDP.
pub const POD_HTTP: u16 = 8080;
pub const POD_UDP: u16 = 8081;
/// Where the others echo.
pub const ECHO: u16 = 7;
/// Echo requests of one measurement.
const PINGS: u32 = 10;

/// A version of IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    V4,
    V6,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Where a peer's sockets are opened.
#[derive(Clone)]
enum Seat {
    Namespace(Netns),
    Guest(Arc<Guest>),
}

/// What a peer serves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Serves {
    Netexec,
    Echo,
}

/// One end of a conversation.
#[derive(Clone)]
pub struct Peer {
    pub name: String,
    seat: Seat,
    serves: Serves,
    v4: IpAddr,
    v6: IpAddr,
}

impl Peer {
    pub fn pod(name: &str, netns: Netns, v4: IpAddr, v6: IpAddr) -> Peer {
        Peer { name: name.into(), seat: Seat::Namespace(netns), serves: Serves::Netexec, v4, v6 }
    }

    /// A machine, or its own processes.
    pub fn machine(name: &str, netns: Netns, v4: IpAddr, v6: IpAddr) -> Peer {
        Peer { name: name.into(), seat: Seat::Namespace(netns), serves: Serves::Echo, v4, v6 }
    }

    pub fn guest(guest: Arc<Guest>, v4: IpAddr, v6: IpAddr) -> Peer {
        Peer { name: guest.vm().name().into(), seat: Seat::Guest(guest), serves: Serves::Echo, v4, v6 }
    }

    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// The namespace in which it can be probed from here; a virtual machine has none.
    pub fn netns(&self) -> Result<&Netns> {
        match &self.seat {
            Seat::Namespace(netns) => Ok(netns),
            Seat::Guest(guest) => bail!("{} is a virtual machine, not a namespace", guest.vm().name()),
        }
    }

    /// Ten echo requests, all of which must be answered: what they took.
    pub fn ping(&self, target: IpAddr) -> Result<String> {
        match &self.seat {
            Seat::Namespace(netns) => {
                let report = traffic::ping(netns, target, PINGS, Duration::from_millis(10))?;
                if report.lost > 0 {
                    bail!("{} of {} echo requests from {} to {target} were lost", report.lost, report.sent, self.name);
                }
                Ok(format!("{}/{} {:.1} ms", report.received, report.sent, report.rtt_avg_ms))
            }
            Seat::Guest(guest) => {
                let said = guest.run(&format!("ping -q -c {PINGS} -i 0.1 -W 2 {target}"))?;
                let summary = said.lines().find(|line| line.contains("packets received")).context(said.clone())?;
                let average = said.lines().find_map(|line| line.split_once("= ")?.1.split('/').nth(1)).unwrap_or("?");
                if !summary.contains(" 0% packet loss") {
                    bail!("from {} to {target}: {summary}", self.name);
                }
                Ok(format!("{PINGS}/{PINGS} {average} ms"))
            }
        }
    }

    /// True as soon as one echo request is answered; a second of them is sent.
    pub fn reaches(&self, target: IpAddr) -> Result<bool> {
        match &self.seat {
            Seat::Namespace(netns) => Ok(traffic::is_reachable(netns, target)?),
            Seat::Guest(guest) => Ok(guest.try_run(&format!("ping -q -c 3 -i 0.1 -W 1 {target}"))?.exit == 0),
        }
    }

    /// One page over HTTP.
    pub fn http(&self, to: SocketAddr, path: &str) -> Result<Probe> {
        match &self.seat {
            Seat::Namespace(netns) => Ok(traffic::http_get(netns, to, path, PATIENCE)?),
            Seat::Guest(guest) => talk(guest, "http", to, path),
        }
    }

    /// One TCP connection that says something and is closed by the answer or after it.
    pub fn tcp(&self, to: SocketAddr, say: &str) -> Result<Probe> {
        match &self.seat {
            Seat::Namespace(netns) => Ok(traffic::tcp(netns, to, say.as_bytes(), PATIENCE)?),
            Seat::Guest(guest) => talk(guest, "tcp", to, say),
        }
    }

    /// One UDP datagram and its answer.
    pub fn udp(&self, to: SocketAddr, say: &str) -> Result<Probe> {
        match &self.seat {
            Seat::Namespace(netns) => Ok(traffic::udp(netns, to, say.as_bytes(), PATIENCE)?),
            Seat::Guest(guest) => talk(guest, "udp", to, say),
        }
    }

    /// Asks `other`'s server by TCP; the answer must be its own. What it took.
    pub fn asks_by_tcp(&self, other: &Peer, family: Family) -> Result<String> {
        let ip = other.ip(family);
        let started = Instant::now();
        let (probe, expected) = match other.serves {
            Serves::Netexec => (self.http((ip, POD_HTTP).into(), "/hostname")?, other.name.clone()),
            Serves::Echo => {
                let word = format!("from {} by TCP", self.name);
                (self.tcp((ip, ECHO).into(), &word)?, word)
            }
        };
        self.expect(other, &probe, &expected)?;
        Ok(milliseconds(started))
    }

    /// Asks `other`'s server by UDP; the answer must be its own. What it took.
    pub fn asks_by_udp(&self, other: &Peer, family: Family) -> Result<String> {
        let ip = other.ip(family);
        let started = Instant::now();
        let (port, word, expected) = match other.serves {
            Serves::Netexec => (POD_UDP, "hostname".to_string(), other.name.clone()),
            Serves::Echo => {
                let word = format!("from {} by UDP", self.name);
                (ECHO, word.clone(), word)
            }
        };
        let probe = self.udp((ip, port).into(), &word)?;
        self.expect(other, &probe, &expected)?;
        Ok(milliseconds(started))
    }

    fn expect(&self, other: &Peer, probe: &Probe, expected: &str) -> Result<()> {
        if !probe.text().contains(expected) {
            bail!("{} asked {} for {expected:?} and got {}", self.name, other.name, shown(probe));
        }
        Ok(())
    }
}

fn talk(guest: &Guest, protocol: &str, to: SocketAddr, say: &str) -> Result<Probe> {
    let said = guest.try_run(&format!("talk {protocol} {} {} '{say}'", to.ip(), to.port()))?;
    Ok(match said.exit {
        0 => Probe::Answered(said.output.into_bytes()),
        1 => Probe::Refused,
        2 => Probe::Unreachable,
        3 => Probe::Silent,
        _ => bail!("`talk` in {}: {}", guest.vm().name(), said.output.trim()),
    })
}

/// How a probe ended, for people.
pub fn shown(probe: &Probe) -> String {
    match probe {
        Probe::Answered(_) => format!("the answer {:?}", probe.text()),
        Probe::Refused => "a refusal".into(),
        Probe::Unreachable => "`unreachable`".into(),
        Probe::Silent => "silence".into(),
    }
}

/// The time since `started`.
pub fn milliseconds(started: Instant) -> String {
    format!("{:.1} ms", started.elapsed().as_secs_f64() * 1000.0)
}
