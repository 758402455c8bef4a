//! What can happen to a packet.

use std::fmt;
use std::net::IpAddr;

use crate::field::Field;
use crate::group::GroupId;
use crate::header::{Bits, Place};
use crate::table::Table;

/// An interface's number on the switch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OfPort(pub u32);

/// Where connection tracking looks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Zone {
    Number(u16),
    Field(Field),
}

/// Address translation of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Nat {
    /// Translate as the connection was translated before, in either direction.
    Known,
    /// New source address.
    Source(IpAddr),
    /// New destination address and port.
    Destination(IpAddr, u16),
}

/// Why a packet is handed to the node. The number travels in the packet-in's user data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Punt {
    /// A DHCPv4 client's message.
    Dhcp = 1,
    /// A DHCPv6 client's message.
    Dhcpv6 = 2,
    /// A router solicitation.
    RouterSolicitation = 3,
    /// A router decremented the TTL to zero: answer ICMP time exceeded.
    TimeExceeded = 4,
    /// No route: answer ICMP destination unreachable (network).
    NoRoute = 5,
    /// Nobody has the address: answer ICMP destination unreachable (host).
    NoHost = 6,
    /// Nobody listens: answer a TCP reset or ICMP port unreachable.
    Refused = 7,
}

impl Punt {
    pub const ALL: &'static [Punt] =
        &[Punt::Dhcp, Punt::Dhcpv6, Punt::RouterSolicitation, Punt::TimeExceeded, Punt::NoRoute, Punt::NoHost, Punt::Refused];

    /// The reason with the number `byte`.
    pub fn from_byte(byte: u8) -> Option<Punt> {
        Punt::ALL.iter().copied().find(|punt| *punt as u8 == byte)
    }
}

/// One thing that happens to a packet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// Write `value` under `mask`.
    Set {
        place: Place,
        value: u128,
        mask: u128,
    },
    /// Copy `bits` bits from one place to another, from the given lowest bits on.
    Move {
        from: Place,
        from_bit: u8,
        to: Place,
        to_bit: u8,
        bits: u8,
    },
    DecTtl,
    Output(OfPort),
    /// Out where it came in.
    OutputBack,
    /// Hand the packet and its registers to the node.
    Punt(Punt),
    Group(GroupId),
    /// Look the connection up in `zone`; go on in `then` with `ct_state` known.
    Track {
        zone: Zone,
        nat: Option<Nat>,
        then: Table,
    },
    /// Remember the connection in `zone`; go on in `then`, or with the next action without translation.
    Commit {
        zone: Zone,
        nat: Option<Nat>,
        then: Table,
    },
    /// One clause of a conjunctive match (ovs-fields(7), conj_id).
    Conjunction {
        id: u32,
        clause: u8,
        of: u8,
    },
    /// Let a copy pass `Table` onwards; registers keep what it wrote.
    Copy(Table),
    /// The one way back up: a routed packet enters another router. The TTL was decremented before.
    Reenter(Table),
}

impl Action {
    /// Write all of `place`.
    pub fn set(place: impl Into<Place>, value: impl Into<u128>) -> Action {
        let place = place.into();
        Action::Set { place, value: value.into() & place.full_mask(), mask: place.full_mask() }
    }

    /// Copy the whole of `from` to the whole of `to`, which has the same width.
    pub fn copy(from: impl Into<Place>, to: impl Into<Place>) -> Action {
        let (from, to) = (from.into(), to.into());
        debug_assert_eq!(from.bits(), to.bits(), "{} does not fit into {}", from.name(), to.name());
        Action::Move { from, from_bit: 0, to, to_bit: 0, bits: from.bits() }
    }

    /// Copy the lowest `bits` bits.
    pub fn copy_low(from: impl Into<Place>, to: impl Into<Place>, bits: u8) -> Action {
        Action::Move { from: from.into(), from_bit: 0, to: to.into(), to_bit: 0, bits }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Zone::Number(number) => number.fmt(f),
            Zone::Field(field) => f.write_str(field.name()),
        }
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Nat::Known => f.write_str("known"),
            Nat::Source(ip) => write!(f, "src={ip}"),
            Nat::Destination(ip @ IpAddr::V4(_), port) => write!(f, "dst={ip}:{port}"),
            Nat::Destination(ip, port) => write!(f, "dst=[{ip}]:{port}"),
        }
    }
}

fn piece(place: Place, bit: u8, bits: u8) -> String {
    match (bit, bits) {
        (0, bits) if bits == place.bits() => place.name().to_string(),
        (bit, bits) => format!("{}[{}..{}]", place.name(), bit, bit + bits - 1),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Set { place, value, mask } if *mask == place.full_mask() => write!(f, "{}:={}", place.name(), Bits(*place, *value)),
            Action::Set { place, value, mask } => write!(f, "{}:={}/{}", place.name(), Bits(*place, *value), Bits(*place, *mask)),
            Action::Move { from, from_bit, to, to_bit, bits } => {
                write!(f, "{}:={}", piece(*to, *to_bit, *bits), piece(*from, *from_bit, *bits))
            }
            Action::DecTtl => f.write_str("dec_ttl"),
            Action::Output(port) => write!(f, "output {}", port.0),
            Action::OutputBack => f.write_str("output back"),
            Action::Punt(punt) => write!(f, "punt {punt:?}"),
            Action::Group(group) => write!(f, "group {}", group.0),
            Action::Track { zone, nat: None, then } => write!(f, "track {zone}, goto {then:?}"),
            Action::Track { zone, nat: Some(nat), then } => write!(f, "track {zone} nat {nat}, goto {then:?}"),
            Action::Commit { zone, nat: None, then } => write!(f, "commit {zone}, goto {then:?}"),
            Action::Commit { zone, nat: Some(nat), then } => write!(f, "commit {zone} nat {nat}, goto {then:?}"),
            Action::Conjunction { id, clause, of } => write!(f, "conjunction {id} {}/{of}", clause + 1),
            Action::Copy(table) => write!(f, "copy to {table:?}"),
            Action::Reenter(table) => write!(f, "reenter {table:?}"),
        }
    }
}
