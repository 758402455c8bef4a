//! ICMP errors: why a packet went nowhere (RFC 792, RFC 1812, RFC 4443).
//!
//! The router speaks with the address that it has on the network where the packet came in, so that traceroute shows the way.
//! The beginning of the packet comes along, so that its sender knows which connection is meant. Some packets get no answer, or
//! errors would breed errors: ICMP errors, packets to many, packets from nobody in particular, fragments beyond the first.

use std::net::IpAddr;

use model::{Mac, NetworkKey};
use pipeline::Punt;

use super::packet::{Envelope, ICMP, ICMPV6, Packet, TCP, TTL, UDP, is_unicast};
use crate::local::{Hop, LocalNetwork, LocalPort};

/// An error is no longer than this with its IP header (RFC 1812, 4.3.2.3; RFC 4443, 2.4).
pub const LENGTH_MAX: usize = 576;
const LENGTH_MAX_V6: usize = 1280;
const HEADERS: usize = 20 + 8;
const HEADERS_V6: usize = 40 + 8;

/// Type and code.
type Error = (u8, u8);

/// Who hears of the error, and what is known of the way that the packet took.
#[derive(Clone, Copy, Debug)]
pub enum Asker<'a> {
    /// A port of this node; the packet was on the network with the key when it was turned away.
    Port(&'a LocalPort, NetworkKey),
    /// Somebody on another node: the packet came through a tunnel on this network.
    Elsewhere(&'a LocalNetwork),
}

/// Where the error goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Way {
    /// To the port that asked.
    ToPort,
    /// To a machine on the network, by its MAC.
    OnNetwork,
    /// Through the router with this end on the network.
    Routed(Hop),
}

/// The error about a packet, and where it goes.
pub fn answer(punt: Punt, packet: &Packet, asker: Asker) -> Option<(Vec<u8>, Way)> {
    let error = error(punt, packet)?;
    if !is_answered(packet) {
        return None;
    }
    let (envelope, way) = match asker {
        Asker::Port(port, network) => (to_port(punt, packet, port, network)?, Way::ToPort),
        Asker::Elsewhere(network) => elsewhere(packet, network)?,
    };
    let max = if packet.src.is_ipv4() { LENGTH_MAX - HEADERS } else { LENGTH_MAX_V6 - HEADERS_V6 };
    let quoted = &packet.ip[..packet.ip.len().min(max)];
    // A parameter problem points at the next header of the IPv6 header; other errors have nothing to say here.
    let rest = if error == PARAMETER_PROBLEM { [0, 0, 0, NEXT_HEADER_AT] } else { [0; 4] };
    Some((envelope.icmp(error.0, error.1, rest, quoted)?, way))
}

/// Unrecognised next header (RFC 4443, 3.4).
const PARAMETER_PROBLEM: Error = (4, 1);
/// Where the next header stands in the IPv6 header.
const NEXT_HEADER_AT: u8 = 6;

fn error(punt: Punt, packet: &Packet) -> Option<Error> {
    let by_family = |v4: Error, v6: Error| Some(if packet.src.is_ipv4() { v4 } else { v6 });
    match punt {
        Punt::TimeExceeded => by_family((11, 0), (3, 0)),
        Punt::NoRoute => by_family((3, 0), (1, 0)),
        Punt::NoHost => by_family((3, 1), (1, 3)),
        Punt::Refused if packet.proto == UDP => by_family((3, 3), (1, 4)),
        Punt::Refused if [TCP, ICMP, ICMPV6].contains(&packet.proto) => None,
        // No such protocol; behind extension headers there is nothing simple to point at.
        Punt::Refused if packet.src.is_ipv4() => Some((3, 2)),
        Punt::Refused => (packet.ip.len() == packet.payload.len() + 40).then_some(PARAMETER_PROBLEM),
        Punt::Dhcp | Punt::Dhcpv6 | Punt::RouterSolicitation => None,
    }
}

/// RFC 1812, 4.3.2.7; RFC 4443, 2.4 (e).
fn is_answered(packet: &Packet) -> bool {
    let is_error = match (packet.proto, packet.payload.first()) {
        (ICMP, kind) => !matches!(kind, Some(0 | 8 | 9 | 10 | 13..=18)),
        (ICMPV6, kind) => !matches!(kind, Some(128..)),
        _ => false,
    };
    let is_for_one = is_unicast(packet.src) && is_unicast(packet.dst) && !packet.eth_dst.is_multicast();
    is_for_one && !is_error && !packet.is_later_fragment
}

fn to_port(punt: Punt, packet: &Packet, port: &LocalPort, network: NetworkKey) -> Option<Envelope> {
    let own = &port.network;
    if punt == Punt::Refused {
        // What refuses is the address that was asked: a VIP, or the router itself.
        return Some(Envelope { eth_src: packet.eth_dst, eth_dst: packet.eth_src, src: packet.dst, dst: packet.src, ttl: TTL });
    }
    // While the packet is on the port's own network, its MACs are still those with which it was sent.
    let is_home = network == own.network.key;
    let met = own.hop(network, packet.eth_dst);
    let first = own.own_hops().find(|hop| hop.mac == packet.eth_dst).or_else(|| nearest(own, packet.src));
    let speaker = met.or(first);
    let src = speaker.and_then(|hop| address(hop, packet.src)).or_else(|| first.and_then(|hop| address(hop, packet.src)));
    // Without a router nobody else can speak for an address that nobody has.
    let src = src.unwrap_or(packet.dst);
    let eth_src = first.map_or(packet.eth_dst, |hop| hop.mac);
    let is_senders = is_home && !own.own_hops().any(|hop| hop.mac == packet.eth_src);
    let eth_dst = if is_senders { packet.eth_src } else { port.port.mac };
    Some(Envelope { eth_src, eth_dst, src, dst: packet.src, ttl: TTL })
}

/// The end of a router on the network that is most likely the sender's way out.
fn nearest(network: &LocalNetwork, sender: IpAddr) -> Option<&Hop> {
    let gateway = network.subnets.iter().find(|subnet| subnet.cidr.contains(&sender)).and_then(|subnet| subnet.gateway);
    let by_gateway = network.own_hops().find(|hop| hop.addresses.iter().any(|own| Some(*own) == gateway));
    by_gateway.or_else(|| network.own_hops().find(|hop| hop.addresses.iter().any(|own| own.is_ipv4() == sender.is_ipv4())))
}

/// The address of the hop that the sender sees.
fn address(hop: &Hop, sender: IpAddr) -> Option<IpAddr> {
    hop.addresses.iter().copied().find(|own| own.is_ipv4() == sender.is_ipv4())
}

/// The packet arrived for a machine that is not there: it came from a router's MAC, or from its sender's.
fn elsewhere(packet: &Packet, network: &LocalNetwork) -> Option<(Envelope, Way)> {
    let from_router = network.own_hops().find(|hop| hop.mac == packet.eth_src);
    let speaker = from_router.or_else(|| nearest(network, packet.src));
    let src = speaker.and_then(|hop| address(hop, packet.src)).unwrap_or(packet.dst);
    let (eth_src, eth_dst): (Mac, Mac) = match from_router {
        Some(hop) => (hop.mac, hop.mac),
        None => (speaker.map_or(packet.eth_dst, |hop| hop.mac), packet.eth_src),
    };
    let envelope = Envelope { eth_src, eth_dst, src, dst: packet.src, ttl: TTL };
    Some((envelope, from_router.map_or(Way::OnNetwork, |hop| Way::Routed(hop.clone()))))
}
