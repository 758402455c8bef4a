//! Distributed routing: every packet is routed where it starts.
//!
//! A packet for a router's MAC is the router's (RouterMac). If it is for one of the router's own addresses, the router answers
//! the ping or refuses (RouterSelf); if its time is up, the sender is told. The longest prefix says the way (Route): out on a
//! connected network or to a next hop, whose MAC the neighbours know (NextHop); the packet goes on at L2Lookup as if it had been on
//! that network all along. If the next hop is a router, the packet re-enters there.
//! IPv4 and IPv6 are one path (RFC 1812, RFC 8200, RFC 4443).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::{FixedIp, Kind, Network, ObjectKey, Port, Route, Router, Subnet, link_local};
use pipeline::{
    Action, Draft, Flow, Header, Place, Priority, Punt, Reason, Table, Test, eth_dst, fields::*, icmp_code, icmp_type, ip_dst, ipv4, ipv6,
};

use crate::app::{App, Output, Root, RootKind};
use crate::classify::{key, single_pairs};
use crate::sight::Sight;
use crate::view::Index;

pub const APP: App = App {
    name: "routing",
    roots: &[RootKind::Object(Kind::Port), RootKind::Object(Kind::Network), RootKind::Object(Kind::Router), RootKind::Here],
    run,
};

/// TTL of what a router itself sends (RFC 1700).
const TTL: u8 = 64;

fn run(sight: &Sight, root: Root) -> Output {
    match root {
        Root::Object(ObjectKey { kind: Kind::Port, id }) => sight.port(id).map(|port| for_port(sight, port)),
        Root::Object(ObjectKey { kind: Kind::Network, id }) => sight.network(id).map(|network| from_vips(sight, network)),
        Root::Object(key) => sight.router(key.id).filter(|router| router.is_admin_up).map(|router| extra_routes(sight, router)),
        Root::Attached(_) | Root::Address(..) => None,
        Root::Here => Some([time_is_up(), no_way(), never_routed()].concat()),
    }
    .unwrap_or_default()
    .into()
}

fn for_port(sight: &Sight, port: &Port) -> Vec<Flow> {
    // What is for a VIP never gets as far.
    if port.device_owner == model::owner::LOAD_BALANCER {
        return Vec::new();
    }
    let Some(network) = sight.network(port.network) else { return Vec::new() };
    let router = port.router().and_then(|id| sight.router(id)).filter(|router| router.is_admin_up && port.is_admin_up);
    let interface = router.map(|router| for_interface(sight, router, port, network)).unwrap_or_default();
    let is_reachable = port.block.is_none() && (port.home().is_some() || port.is_homeless());
    let machine = if port.device_owner == model::owner::NODE && is_reachable { to_machine(sight, port, network) } else { Vec::new() };
    [interface, machine].concat()
}

fn for_interface(sight: &Sight, router: &Router, port: &Port, network: &Network) -> Vec<Flow> {
    let own = port.addresses().chain([IpAddr::V6(link_local(port.mac))]).flat_map(|ip| to_router_itself(router, port, ip));
    let subnets = port.fixed_ips.iter().filter_map(|fixed| sight.subnet(fixed.subnet));
    let connected = subnets.map(|subnet| connected(router, port, network, subnet));
    [enter(router, port, network)].into_iter().chain(own).chain(connected).collect()
}

fn on(network: &Network) -> Test {
    NETWORK.is(network.key.0)
}

/// A packet for a router's MAC is the router's.
fn enter(router: &Router, interface: &Port, network: &Network) -> Flow {
    Table::RouterMac.when([on(network), eth_dst(interface.mac)]).set(ROUTER, router.key.0).goto(Table::RouterSelf).because(key(interface))
}

/// A packet that was sent to a VIP on its own network has its member's address by now: a router of the network takes it there, or,
/// without a router for its IP version, the member is on the same network.
fn from_vips(sight: &Sight, network: &Network) -> Vec<Flow> {
    if !sight.any(Index::BalancersOn(network.id)) {
        return Vec::new();
    }
    let interfaces = sight.interfaces_on(network.id);
    [false, true].map(|is_v6| from_vips_of_family(sight, network, &interfaces, is_v6)).into()
}

fn from_vips_of_family(sight: &Sight, network: &Network, interfaces: &[&Port], is_v6: bool) -> Flow {
    let family = if is_v6 { ipv6() } else { ipv4() };
    let speaking = interfaces.iter().filter(|port| port.is_admin_up && port.addresses().any(|ip| ip.is_ipv6() == is_v6));
    let routers = speaking.filter_map(|port| sight.router(port.router()?)).filter(|router| router.is_admin_up);
    let when = Table::RouterMac.when([on(network), ON_LINK.is(1u8), family]).set(ON_LINK, 0u8);
    let because = ObjectKey::new(Kind::Network, network.id);
    match routers.min_by_key(|router| router.key) {
        Some(router) => when.set(ROUTER, router.key.0).goto(Table::RouterSelf).because(because),
        None => when.acts(to_destination(is_v6)).goto(Table::NextHop).because(because),
    }
}

/// A packet for the router's own address `ip`: an echo request is answered, anything else is refused.
fn to_router_itself(router: &Router, interface: &Port, ip: IpAddr) -> Vec<Flow> {
    let is_for = [ROUTER.is(router.key.0), ip_dst(IpNet::from(ip))];
    let (request, reply, header) = if ip.is_ipv6() { (128u8, 129u8, Header::Icmp6Type) } else { (8, 0, Header::Icmp4Type) };
    let echo = Table::RouterSelf
        .when(is_for.into_iter().chain([icmp_type(ip.is_ipv6(), request), icmp_code(ip.is_ipv6(), 0)]))
        .priority(Priority::Guard)
        .acts(swap_addresses(ip))
        .act(Action::copy(Header::EthSrc, Header::EthDst))
        .set(Header::EthSrc, interface.mac.bits())
        .set(header, reply)
        .set(Header::Ttl, TTL)
        .set(TURN_BACK, 1u8)
        .goto(Table::Deliver)
        .because(key(interface));
    let refuse = Table::RouterSelf.when(is_for).priority(Priority::High).punt(Punt::Refused).because(key(interface));
    vec![echo, refuse]
}

/// The router's address `ip` becomes the source, the sender the destination.
fn swap_addresses(ip: IpAddr) -> Vec<Action> {
    match ip {
        IpAddr::V4(ip) => vec![Action::copy(Header::Ipv4Src, Header::Ipv4Dst), Action::set(Header::Ipv4Src, ip.to_bits())],
        IpAddr::V6(ip) => vec![Action::copy(Header::Ipv6Src, Header::Ipv6Dst), Action::set(Header::Ipv6Src, ip.to_bits())],
    }
}

/// A packet that a router may not forward any more comes back as an ICMP error.
fn time_is_up() -> Vec<Flow> {
    let last = |family: Test, ttl: u8| {
        let ttl = Test::exact(Place::Header(Header::Ttl), ttl.into());
        Table::RouterSelf.when([family, ttl]).punt(Punt::TimeExceeded).because(Reason::Pipeline)
    };
    [ipv4(), ipv6()].into_iter().flat_map(|family| [last(family, 0), last(family, 1)]).collect()
}

/// A packet to a link-local address is not routed.
fn never_routed() -> Vec<Flow> {
    let nets =
        [IpNet::new(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10), IpNet::new(IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16)];
    let drop = |net| Table::Route.when([ip_dst(net)]).priority(Priority::Prefix(128)).drop().because(Reason::Pipeline);
    nets.into_iter().map(|net| drop(net.expect("the lengths are prefix lengths"))).collect()
}

/// A packet that no route fits, or whose next hop nobody has, comes back as an ICMP error.
fn no_way() -> Vec<Flow> {
    vec![Table::Route.when([]).priority(Priority::Fallback).punt(Punt::NoRoute).because(Reason::Pipeline)]
}

/// A packet that leaves the router by `interface`.
fn leave(router: &Router, destination: IpNet, interface: &Port, network: &Network) -> Draft {
    Table::Route
        .when([ROUTER.is(router.key.0), ip_dst(destination)])
        .priority(Priority::Prefix(destination.prefix_len()))
        .act(Action::DecTtl)
        .set(NETWORK, network.key.0)
        .set(Header::EthSrc, interface.mac.bits())
        .goto(Table::NextHop)
}

/// A packet to a connected subnet has its destination as the next hop.
fn connected(router: &Router, interface: &Port, network: &Network, subnet: &Subnet) -> Flow {
    let hop = to_destination(subnet.cidr.addr().is_ipv6());
    leave(router, subnet.cidr, interface, network).acts(hop).because(key(interface))
}

/// The subnets that a router is on, each with its interface there. An interface that is down leads nowhere.
pub(crate) fn connected_subnets<'a>(sight: &Sight<'a>, router: &Router) -> Vec<(&'a Port, IpNet)> {
    let subnets_of = |port: &'a Port| {
        let subnets = port.fixed_ips.iter().filter_map(|fixed| sight.subnet(fixed.subnet));
        subnets.map(|subnet| (port, subnet.cidr)).collect::<Vec<_>>()
    };
    sight.interfaces_of(router.id).into_iter().filter(|port| port.is_admin_up).flat_map(subnets_of).collect()
}

/// Every extra route whose next hop lies on a connected subnet. Of several to one destination the first holds, and
/// a connected subnet comes before a route to the same prefix.
fn extra_routes(sight: &Sight, router: &Router) -> Vec<Flow> {
    // Reading all interfaces would make every one of them cost as much as there are.
    if router.routes.is_empty() {
        return Vec::new();
    }
    let connected = connected_subnets(sight, router);
    let mut taken: Vec<IpNet> = connected.iter().map(|(_, cidr)| *cidr).collect();
    let mut flows = Vec::new();
    for route in &router.routes {
        let way = connected.iter().find(|(_, cidr)| cidr.contains(&route.nexthop)).map(|(port, _)| *port);
        let destination = route.destination.trunc();
        let Some((interface, network)) = way.and_then(|port| Some((port, sight.network(port.network)?))) else { continue };
        if !taken.contains(&destination) {
            taken.push(destination);
            flows.push(extra_route(router, route, interface, network));
        }
    }
    flows
}

/// A packet for an extra route goes by the route's next hop.
fn extra_route(router: &Router, route: &Route, interface: &Port, network: &Network) -> Flow {
    let because = ObjectKey::new(Kind::Router, router.id);
    leave(router, route.destination.trunc(), interface, network).acts(by_way_of(route.nexthop)).because(because)
}

/// The packet's next hop is `ip`.
fn by_way_of(ip: IpAddr) -> Vec<Action> {
    match ip {
        IpAddr::V4(ip) => vec![Action::set(NEXT_HOP, ip.to_bits())],
        IpAddr::V6(ip) => vec![Action::set(NEXT_HOP, 0u32), Action::set(NEXT_HOP6, ip.to_bits())],
    }
}

/// The packet's next hop is its destination.
fn to_destination(is_v6: bool) -> Vec<Action> {
    match is_v6 {
        false => vec![Action::copy(Header::Ipv4Dst, NEXT_HOP)],
        true => vec![Action::set(NEXT_HOP, 0u32), Action::copy(Header::Ipv6Dst, NEXT_HOP6)],
    }
}

/// A packet for an underlay address of a machine goes to the machine's own port, which has the address among its pairs. No router
/// lists these ways, or each machine that comes would change all that every node knows of the router. A router's own route to the
/// same address comes first.
fn to_machine(sight: &Sight, machine: &Port, network: &Network) -> Vec<Flow> {
    let underlay: Vec<IpNet> = single_pairs(machine).map(|(ip, _)| IpNet::from(ip)).collect();
    let mut flows = Vec::new();
    for interface in sight.interfaces_on(network.id).into_iter().filter(|port| port.is_admin_up) {
        let router = interface.router().and_then(|id| sight.router(id)).filter(|router| router.is_admin_up);
        let Some(router) = router else { continue };
        let is_on = |fixed: &FixedIp| interface.fixed_ips.iter().any(|own| own.subnet == fixed.subnet);
        for hop in machine.fixed_ips.iter().filter(|fixed| is_on(fixed)).map(|fixed| fixed.ip) {
            let is_led = |ip: &IpNet| ip.addr().is_ipv4() == hop.is_ipv4() && router.routes.iter().all(|route| route.destination != *ip);
            let way = |ip: &IpNet| leave(router, *ip, interface, network).acts(by_way_of(hop)).because(key(machine));
            flows.extend(underlay.iter().filter(|ip| is_led(ip)).map(way));
        }
    }
    flows
}

#[cfg(test)]
mod tests;
