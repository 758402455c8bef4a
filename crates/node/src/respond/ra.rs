//! Router advertisements (RFC 4861, RFC 8106): a router says that it is there, which prefixes are on the link, and how hosts get
//! their addresses.
//!
//! One advertisement per router interface with an announced subnet. The flags follow from the subnets' modes: addresses by
//! SLAAC (A), by DHCPv6 (M), options by DHCPv6 (O). A router that is no announced subnet's gateway is no default router: its
//! lifetime is zero.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::Icmpv6Slice;
use ipnet::{IpNet, Ipv6Net};
use model::{Ipv6Mode, Port, Subnet, link_local};

use super::packet::{ALL_NODES, Envelope, ICMPV6, Packet, multicast_mac};
use crate::local::{LocalNetwork, LocalPort};

/// Longest time between two advertisements; the shortest is a third of it (RFC 4861, 6.2.1).
pub const INTERVAL_MAX_SECS: u16 = 200;
/// Seconds for which a default router and its DNS servers count (three intervals).
pub const ROUTER_SECS: u16 = 3 * INTERVAL_MAX_SECS;
/// Seconds for which a prefix is on the link, and those for which its addresses are preferred.
pub const PREFIX_SECS: u32 = 86_400;
pub const PREFERRED_SECS: u32 = 14_400;
/// DNS servers in one advertisement.
pub const DNS_MAX: usize = 8;
/// Prefixes in one advertisement.
pub const PREFIXES_MAX: usize = 16;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Neighbour discovery goes no further than the link.
const HOP_LIMIT: u8 = 255;
/// The hop limit that hosts should use.
const HOSTS_HOP_LIMIT: u8 = 64;
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;

mod option {
    pub const SOURCE_LINK_LAYER: u8 = 1;
    pub const PREFIX: u8 = 3;
    pub const MTU: u8 = 5;
    pub const RDNSS: u8 = 25;
}

/// The advertisements for a port that solicits them.
pub fn answer(packet: &Packet, port: &LocalPort) -> Vec<Vec<u8>> {
    if !is_solicitation(packet) {
        return Vec::new();
    }
    announcers(&port.network).filter_map(|interface| advertisement(&port.network, interface)).collect()
}

/// RFC 4861, 6.1.1.
fn is_solicitation(packet: &Packet) -> bool {
    let is_icmp = packet.proto == ICMPV6 && packet.ttl == HOP_LIMIT && !packet.is_fragment;
    let Some(icmp) = is_icmp.then(|| Icmpv6Slice::from_slice(packet.payload).ok()).flatten() else { return false };
    let is_solicitation = icmp.type_u8() == SOLICITATION && icmp.code_u8() == 0;
    let mut options = icmp.payload();
    let mut names_sender = false;
    while let [kind, length, ..] = *options {
        names_sender |= kind == option::SOURCE_LINK_LAYER;
        match options.get(8 * usize::from(length)..) {
            Some(rest) if length > 0 => options = rest,
            _ => return false,
        }
    }
    is_solicitation && options.is_empty() && !(names_sender && packet.src.is_unspecified())
}

/// The router interfaces that advertise on a network.
pub fn announcers(network: &LocalNetwork) -> impl Iterator<Item = &Port> {
    network.live_interfaces().filter(|interface| announced(network, interface).next().is_some())
}

fn announced<'a>(network: &'a LocalNetwork, interface: &'a Port) -> impl Iterator<Item = (&'a Subnet, Ipv6Net, Ipv6Mode)> {
    let own = interface.fixed_ips.iter().filter_map(|fixed| network.subnet(fixed.subnet));
    own.filter_map(|subnet| match (subnet.cidr, subnet.ra_mode) {
        (IpNet::V6(net), Some(mode)) => Some((subnet, net, mode)),
        _ => None,
    })
}

/// What the router says on its interface, to everybody there. None: it announces nothing.
pub fn advertisement(network: &LocalNetwork, interface: &Port) -> Option<Vec<u8>> {
    announced(network, interface).next()?;
    let is_gateway = |subnet: &Subnet| subnet.gateway.is_some_and(|gateway| is_own(interface, gateway));
    let is_default = announced(network, interface).any(|(subnet, ..)| is_gateway(subnet));
    let flags = announced(network, interface).fold(0, |flags, (_, _, mode)| flags | flags_of(mode));
    send(interface, flags, if is_default { ROUTER_SECS } else { 0 }, options(network, interface))
}

/// What a router says that stops advertising: it is nobody's router any more (RFC 4861, 6.2.5).
pub fn farewell(interface: &Port) -> Option<Vec<u8>> {
    send(interface, 0, 0, source_link_layer(interface))
}

/// True for the interface's addresses, its link-local one included.
fn is_own(interface: &Port, ip: IpAddr) -> bool {
    ip == IpAddr::V6(link_local(interface.mac)) || interface.addresses().any(|own| own == ip)
}

fn flags_of(mode: Ipv6Mode) -> u8 {
    match mode {
        Ipv6Mode::Stateful => MANAGED | OTHER,
        Ipv6Mode::Stateless => OTHER,
        Ipv6Mode::Slaac => 0,
    }
}

fn send(interface: &Port, flags: u8, lifetime: u16, options: Vec<u8>) -> Option<Vec<u8>> {
    let [high, low] = lifetime.to_be_bytes();
    // Reachable time and retransmission timer: whatever the host finds best.
    let content = [vec![0; 8], options].concat();
    let src = IpAddr::V6(link_local(interface.mac));
    let envelope = Envelope { eth_src: interface.mac, eth_dst: multicast_mac(ALL_NODES), src, dst: IpAddr::V6(ALL_NODES), ttl: HOP_LIMIT };
    envelope.icmp(ADVERTISEMENT, 0, [HOSTS_HOP_LIMIT, flags, high, low], &content)
}

fn options(network: &LocalNetwork, interface: &Port) -> Vec<u8> {
    let prefixes = announced(network, interface).take(PREFIXES_MAX).flat_map(|(_, net, mode)| prefix(net, mode));
    let mut servers: Vec<Ipv6Addr> = announced(network, interface)
        .flat_map(|(subnet, ..)| &subnet.dns_servers)
        .filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None })
        .collect();
    servers.truncate(DNS_MAX);
    let mtu = [vec![option::MTU, 1, 0, 0], u32::from(network.network.mtu).to_be_bytes().to_vec()].concat();
    [source_link_layer(interface), mtu, prefixes.collect(), dns(&servers)].concat()
}

fn source_link_layer(interface: &Port) -> Vec<u8> {
    [&[option::SOURCE_LINK_LAYER, 1][..], &interface.mac.0].concat()
}

fn prefix(net: Ipv6Net, mode: Ipv6Mode) -> Vec<u8> {
    let autonomous = if mode == Ipv6Mode::Stateful { 0 } else { AUTONOMOUS };
    let head = [option::PREFIX, 4, net.prefix_len(), ON_LINK | autonomous];
    let lifetimes = [PREFIX_SECS.to_be_bytes(), PREFERRED_SECS.to_be_bytes(), [0; 4]].concat();
    [&head[..], &lifetimes, &net.network().octets()].concat()
}

fn dns(servers: &[Ipv6Addr]) -> Vec<u8> {
    let Some(length) = u8::try_from(servers.len()).ok().filter(|count| *count > 0).map(|count| 1 + 2 * count) else { return Vec::new() };
    let head = [&[option::RDNSS, length, 0, 0][..], &u32::from(ROUTER_SECS).to_be_bytes()].concat();
    [head, servers.iter().flat_map(|ip| ip.octets()).collect()].concat()
}
