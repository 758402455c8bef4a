//! Scenarios: a small world and the packets in it, as text that every rung of the tests runs.
//!
//! ```text
//! # Two ports of one network, on two nodes.
//! port web here 11
//! port db  there 192.0.2.9
//!
//! web -> db                     tunnel 192.0.2.9
//! web -> db  source 10.0.0.99   dropped in SpoofGuard
//! ```
//!
//! The world: `network NAME CIDR...` with `quiet` if it does not flood (without one there is `net` with 10.0.0.0/24 and
//! fd00::/64), `router NAME NETWORK[:N]...` (with the network's address number 1, or N), `route ROUTER CIDR NEXT-HOP`,
//! `port NAME here INTERFACE` or `port NAME there TUNNEL-ADDRESS` with `on NETWORK`, `in GROUP`, `trusted` (no port security), `machine` (the machine's own),
//! `pod` (known by its block) and
//! `pair PREFIX[@MAC]` (an address pair), `block here CIDR` or `block there TUNNEL-ADDRESS CIDR` with `on NETWORK`,
//! `rule GROUP in|out [tcp|udp PORT] [icmp|icmp6 TYPE] [from GROUP-OR-PREFIX]`, and
//! `balancer NAME ADDRESS on NETWORK tcp|udp PORT PORTNAME:PORT...`. A port's addresses are those of its network with 10 for the
//! first port, 11 for the next, and so on.
//!
//! A packet: `FROM -> NAME-OR-ADDRESS` or `FROM -> everybody`, what it is (`tcp PORT`, `udp PORT`, `from PORT`, `arp`, `nd`, `v6`,
//! `at MAC`; a ping otherwise), what is wrong with it (`source ADDRESS`, `mac MAC`), and what becomes of it: `to PORT`, `back`,
//! `tunnel ADDRESS`, `dropped in TABLE`, `punt REASON`, or `copies PORT, tunnel ADDRESS...`: each of those and nothing else. What a
//! port that is there sends comes by the tunnel. Connections last from line to line.

mod parse;

use model::Mac;
use pipeline::switch::{Journey, Outcome, Packet, Switch};
use pipeline::{Header, OfPort, Punt, Table};

use crate::view::Change;
use crate::{ALL, Engine, Numbers};

pub use parse::ParseError;

/// The interface number of every scenario's tunnel.
pub const TUNNEL: OfPort = OfPort(1000);

/// A world and what happens in it.
pub struct Scenario {
    pub world: Vec<Change>,
    pub steps: Vec<Step>,
}

/// One packet.
#[derive(Clone, Debug)]
pub struct Step {
    /// Line in the file, from 1.
    pub line: usize,
    pub text: String,
    /// The other node that it comes from, by its tunnel address.
    pub from: Option<std::net::IpAddr>,
    pub packet: Packet,
    /// Sorted; several for copies.
    pub expected: Vec<End>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    /// It leaves by a local interface.
    Output(OfPort),
    /// It leaves through the tunnel to that address.
    Tunnel(std::net::IpAddr),
    Dropped(Table),
    Punted(Punt),
}

/// A packet that went where it should not.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: `{text}`: {saw:?}")]
pub struct Failure {
    pub line: usize,
    pub text: String,
    pub saw: Vec<End>,
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// Names the line that cannot be understood.
    pub fn parse(text: &str) -> Result<Scenario, ParseError> {
        parse::scenario(text)
    }

    /// The engine with the scenario's world.
    pub fn engine(&self) -> Engine {
        let mut engine = Engine::new(ALL, Numbers::default());
        engine.update(self.world.iter().cloned());
        engine
    }

    /// What becomes of every packet in process.
    pub fn journeys(&self) -> Vec<Journey> {
        let engine = self.engine();
        let mut switch = Switch::new(engine.flows(), engine.groups().cloned());
        self.steps.iter().map(|step| switch.receive(&step.packet)).collect()
    }

    /// Runs it in process.
    pub fn failures(&self) -> Vec<Failure> {
        let judged = self.steps.iter().zip(self.journeys());
        judged
            .filter_map(|(step, journey)| {
                let saw = ends(&journey);
                let is_fine = saw == step.expected;
                (!is_fine).then(|| Failure { line: step.line, text: step.text.clone(), saw })
            })
            .collect()
    }
}

/// Where a packet and its copies ended, sorted: of copies that were dropped nothing is said if any other copy arrived.
pub fn ends(journey: &Journey) -> Vec<End> {
    let mut all: Vec<End> = journey.outcomes.iter().map(end).collect();
    all.sort();
    let arrived: Vec<End> = all.iter().copied().filter(|end| !matches!(end, End::Dropped(_))).collect();
    if arrived.is_empty() { all } else { arrived }
}

/// Where one copy ended.
pub fn end(outcome: &Outcome) -> End {
    match outcome {
        Outcome::Output(TUNNEL, packet) => {
            let v4 = packet.get(Header::TunDst).map(|bits| std::net::Ipv4Addr::from_bits(bits as u32).into());
            let v6 = packet.get(Header::TunDst6).map(|bits| std::net::Ipv6Addr::from_bits(bits).into());
            End::Tunnel(v4.or(v6).unwrap_or(std::net::IpAddr::from([0; 4])))
        }
        Outcome::Output(port, _) => End::Output(*port),
        Outcome::Punted(punt, _) => End::Punted(*punt),
        Outcome::Dropped(table) => End::Dropped(*table),
    }
}

/// The MAC to which nobody answers.
const NOBODY: Mac = Mac([2, 0, 0, 0, 0, 0x99]);
