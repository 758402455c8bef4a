//! Connection tracking in its simplest form: a connection is known from its commit on, and answered from its first answer on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::packet::Packet;
use crate::action::Nat;
use crate::header::{Header, ct};

/// Addresses, protocol and ports of one direction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Tuple {
    proto: u8,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    original: Tuple,
    reply: Tuple,
    nat: Option<Nat>,
    is_answered: bool,
}

/// The connections of every zone.
#[derive(Default)]
pub(super) struct Conntrack {
    zones: BTreeMap<u16, Vec<Connection>>,
}

impl Conntrack {
    /// Looks the packet up; with `nat`, translates it as its connection is. Says whether it was translated.
    pub fn track(&mut self, zone: u16, nat: bool, packet: &mut Packet) -> bool {
        let Some(tuple) = tuple(packet) else {
            packet.set(Header::CtState, (ct::TRK | ct::INV).into());
            return false;
        };
        let connections = self.zones.entry(zone).or_default();
        if let Some(found) = connections.iter().find(|connection| connection.original == tuple).copied() {
            let state = if found.is_answered { ct::EST } else { ct::NEW };
            return translate(packet, found, false, nat, ct::TRK | state);
        }
        if let Some(found) = connections.iter_mut().find(|connection| connection.reply == tuple) {
            found.is_answered = true;
            return translate(packet, *found, true, nat, ct::TRK | ct::EST | ct::RPL);
        }
        let state = if begins(packet) { ct::TRK | ct::NEW } else { ct::TRK | ct::INV };
        packet.set(Header::CtState, state.into());
        false
    }

    /// Remembers the packet's connection, with a translation.
    pub fn commit(&mut self, zone: u16, nat: Option<Nat>, packet: &mut Packet) -> bool {
        let Some(original) = tuple(packet).filter(|_| begins(packet)) else { return false };
        let connections = self.zones.entry(zone).or_default();
        if !connections.iter().any(|connection| connection.original == original || connection.reply == original) {
            let mut there = original;
            match nat {
                Some(Nat::Source(ip)) => there.source.0 = ip,
                Some(Nat::Destination(ip, port)) => there.destination = (ip, port),
                Some(Nat::Known) | None => {}
            }
            let reply = Tuple { proto: there.proto, source: there.destination, destination: there.source };
            connections.push(Connection { original, reply, nat, is_answered: false });
        }
        self.track(zone, nat.is_some(), packet)
    }
}

fn tuple(packet: &Packet) -> Option<Tuple> {
    let ports = packet.port_headers().map(|(source, destination)| (packet.get(source), packet.get(destination)));
    let port = |port: Option<u128>| port.unwrap_or(0) as u16;
    let (source_port, destination_port) = ports.map_or((0, 0), |(source, destination)| (port(source), port(destination)));
    let proto = packet.get(Header::IpProto)? as u8;
    Some(Tuple { proto, source: (packet.source()?, source_port), destination: (packet.destination()?, destination_port) })
}

/// True for packets that can begin a connection: of ICMP only echo requests.
fn begins(packet: &Packet) -> bool {
    packet.get(Header::Icmp4Type).is_none_or(|kind| kind == 8) && packet.get(Header::Icmp6Type).is_none_or(|kind| kind == 128)
}

fn translate(packet: &mut Packet, connection: Connection, is_reply: bool, nat: bool, state: u8) -> bool {
    let translates = nat && matches!(connection.nat, Some(Nat::Source(_) | Nat::Destination(..)));
    let mut state = state;
    if translates {
        // What the packet looks like to the other side: the reverse of what the other side sends.
        let other = if is_reply { connection.original } else { connection.reply };
        write(packet, other.destination, other.source);
        let is_source = matches!(connection.nat, Some(Nat::Source(_)));
        state |= if is_source != is_reply { ct::SNAT } else { ct::DNAT };
    }
    packet.set(Header::CtState, state.into());
    translates
}

fn write(packet: &mut Packet, source: (IpAddr, u16), destination: (IpAddr, u16)) {
    packet.set_source(source.0);
    packet.set_destination(destination.0);
    if let Some((from, to)) = packet.port_headers() {
        packet.set(from, source.1.into());
        packet.set(to, destination.1.into());
    }
}
