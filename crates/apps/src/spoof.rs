//! Who a port may claim to be.
//!
//! A packet from a port with port security passes only with the port's own addresses, or those of its address pairs, in
//! every place that names a sender: Ethernet, IPv4, IPv6, ARP and neighbour advertisements. A port is never a DHCP server or
//! an IPv6 router. Without port security everything passes. (Neutron: port security; RFC 4862 for probes from `::`.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use model::{Mac, Port, link_local};
use pipeline::{Flow, Header, Priority, Table, Test, eth_src, fields::*, icmp_type, ip_dst, ip_src, l4_dst, l4_src, masked, nd_target};

use crate::app::{App, Output, Root, RootKind};
use crate::classify::key;
use crate::sight::Sight;

pub const APP: App = App { name: "spoof", roots: &[RootKind::Attached], run };

const UDP: u8 = 17;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
/// Multicast listener reports, version 1 and 2 (RFC 2710, RFC 3810), which hosts send from `::` before they have an address.
const LISTENER_REPORTS: [u8; 2] = [131, 143];

fn run(sight: &Sight, root: Root) -> Output {
    let Root::Attached(id) = root else { return Output::default() };
    let Some((port, ..)) = sight.live(id) else { return Output::default() };
    if !port.is_port_security {
        return vec![trusted(port)].into();
    }
    let own = senders(port);
    let mut flows: Vec<Flow> = own.iter().flat_map(|(mac, address)| from_own_address(port, *mac, *address)).collect();
    let mut macs: Vec<Mac> = own.iter().map(|(mac, _)| *mac).chain([port.mac]).collect();
    macs.sort();
    macs.dedup();
    flows.extend(macs.iter().flat_map(|mac| without_an_address(port, *mac)));
    flows.extend(never(port));
    flows.into()
}

/// The pairs of MAC and addresses that `port` may use.
fn senders(port: &Port) -> Vec<(Mac, IpNet)> {
    let own = port.addresses().map(|ip| (port.mac, IpNet::from(ip)));
    let pairs = port.address_pairs.iter().map(|pair| (pair.mac, pair.ip.trunc()));
    let mut senders: Vec<(Mac, IpNet)> = own.chain(pairs).collect();
    let macs: Vec<Mac> = senders.iter().map(|(mac, _)| *mac).chain([port.mac]).collect();
    senders.extend(macs.into_iter().map(|mac| (mac, IpNet::from(IpAddr::V6(link_local(mac))))));
    senders.sort();
    senders.dedup();
    senders
}

fn from(port: &Port, mac: Mac) -> [Test; 2] {
    [SRC_PORT.is(port.key.0), eth_src(mac)]
}

/// A packet from a port without port security passes whatever it says.
fn trusted(port: &Port) -> Flow {
    Table::SpoofGuard.when([SRC_PORT.is(port.key.0)]).goto(Table::Punt).because(key(port))
}

/// A packet with the port's own MAC and address passes: IP, and ARP or a neighbour advertisement that says the same.
fn from_own_address(port: &Port, mac: Mac, address: IpNet) -> Vec<Flow> {
    let pass = |tests: Vec<Test>, priority| {
        let tests = from(port, mac).into_iter().chain(tests);
        Table::SpoofGuard.when(tests).priority(priority).goto(Table::Punt).because(key(port))
    };
    let ip = pass(vec![ip_src(address)], Priority::Normal);
    let says = match address {
        IpNet::V4(net) => pass(vec![arp_spa(net), arp_sha(mac)], Priority::Normal),
        IpNet::V6(net) => {
            pass(vec![icmp_type(true, NEIGHBOUR_ADVERTISEMENT), ip_src(address), nd_target(net.network(), net.netmask())], Priority::Guard)
        }
    };
    vec![ip, says]
}

/// A packet of a host that has no address yet passes: DHCP discovery, probes for duplicates, router solicitations.
fn without_an_address(port: &Port, mac: Mac) -> Vec<Flow> {
    let any = IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let any6 = IpNet::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let pass = |tests: Vec<Test>| {
        let tests = from(port, mac).into_iter().chain(tests);
        Table::SpoofGuard.when(tests).goto(Table::Punt).because(key(port))
    };
    let dhcp = [l4_src(UDP, 68, u16::MAX), l4_dst(UDP, 67, u16::MAX)].into_iter().flatten().chain([ip_src(any)]).collect();
    let probe = vec![arp_spa(Ipv4Net::from(Ipv4Addr::UNSPECIFIED)), arp_sha(mac)];
    let from_nowhere = [NEIGHBOUR_SOLICITATION, ROUTER_SOLICITATION].into_iter().chain(LISTENER_REPORTS);
    [pass(dhcp), pass(probe)].into_iter().chain(from_nowhere.map(|kind| pass(vec![ip_src(any6), icmp_type(true, kind)]))).collect()
}

/// A packet that only a DHCP server or a router would send is dropped, and so is a neighbour advertisement for an address of
/// somebody else.
fn never(port: &Port) -> Vec<Flow> {
    let drop = |tests: Vec<Test>| {
        let tests = std::iter::once(SRC_PORT.is(port.key.0)).chain(tests);
        Table::SpoofGuard.when(tests).priority(Priority::High).drop().because(key(port))
    };
    let any = IpNet::V4(Ipv4Net::default());
    let any6 = IpNet::V6(ipnet::Ipv6Net::default());
    let server = |family, source, target| {
        let ports = [l4_src(UDP, source, u16::MAX), l4_dst(UDP, target, u16::MAX)];
        ports.into_iter().flatten().chain([ip_dst(family)]).collect()
    };
    vec![
        drop(server(any, 67, 68)),
        drop(server(any6, 547, 546)),
        drop(vec![icmp_type(true, ROUTER_ADVERTISEMENT)]),
        drop(vec![icmp_type(true, NEIGHBOUR_ADVERTISEMENT)]),
    ]
}

fn arp_spa(net: Ipv4Net) -> Test {
    masked(Header::ArpSpa, net.network().to_bits().into(), net.netmask().to_bits().into())
}

fn arp_sha(mac: Mac) -> Test {
    Test::exact(Header::ArpSha.into(), mac.bits().into())
}
