//! Who has this address? Answered where it is asked, never flooded when it is known.
//!
//! One table knows the MAC of every address (NextHop), for routers and for those who ask alike. A question (ARP request, neighbour
//! solicitation) goes there with the address that it asks for as its next hop (Neighbours), is turned into the answer and sent back
//! (NeighbourReply, Advertise). One flow holds a whole block: the MAC is computed from the address. A port that is an exception has
//! a flow of its own, and so has every router interface and VIP. Not answered: a port that asks for its own address (it probes
//! for duplicates, RFC 5227, RFC 4862), the address of a port that is not bound, even inside a block (users of VRRP reserve
//! their address with such a port), and what is merely in somebody's address pairs. Those questions go on, and L2 copies them
//! to whoever may have the address now. The link-local address of a machine without an IPv6 address is known only where a question
//! cannot be flooded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use model::{Block, Kind, Mac, Network, ObjectKey, Port, V6Range, V6Shape, link_local, owner};
use pipeline::{
    Action, Draft, Flow, Header, Place, Priority, Punt, Reason, Table, Test, arp_op, arp_tpa, eth_src, fields::*, icmp_type, ip_src,
    nd_target,
};

use crate::app::{App, Output, Root, RootKind};
use crate::classify::{key, single_pairs, tunnel_header};
use crate::sight::Sight;

pub const APP: App = App {
    name: "neighbours",
    roots: &[RootKind::Object(Kind::Block), RootKind::Object(Kind::Port), RootKind::Attached, RootKind::Here],
    run,
};

const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Solicited and override (RFC 4861, 4.4): the top bits of the flags.
const SOLICITED_OVERRIDE: u32 = 0x6000_0000;
/// The same of a router. Who hears a router without this flag takes it out of its default routers (RFC 4861, 7.2.5).
const ROUTER_SOLICITED_OVERRIDE: u32 = 0xe000_0000;
/// The type of the option that holds the target's MAC (RFC 4861, 4.6.1).
const TARGET_LINK_LAYER: u8 = 2;

fn run(sight: &Sight, root: Root) -> Output {
    match root {
        Root::Object(ObjectKey { kind: Kind::Block, id }) => sight.block(id).map(|block| for_block(sight, block)),
        Root::Object(key) => sight.port(key.id).map(|port| for_port(sight, port)),
        Root::Attached(id) => sight.live(id).map(|(port, ..)| own_probes(port)),
        Root::Address(..) => None,
        Root::Here => Some([ask(), ask6(), probe_from_nowhere(), go_on(), nobody(), leave(), reply(), turn_round(), advertise()].into()),
    }
    .unwrap_or_default()
    .into()
}

/// The tests that a packet asks for somebody's MAC.
pub(crate) fn questions() -> [Test; 2] {
    [arp_op(ARP_REQUEST), icmp_type(true, SOLICITATION)]
}

/// An ARP request asks for an address as a router asks for its next hop.
fn ask() -> Flow {
    let hop = Action::copy(Header::ArpTpa, NEXT_HOP);
    Table::Neighbours.when([arp_op(ARP_REQUEST)]).act(hop).set(TURN_BACK, 1u8).goto(Table::NextHop).because(Reason::Pipeline)
}

/// A neighbour solicitation does the same.
fn ask6() -> Flow {
    let hop = Action::copy(Header::NdTarget, NEXT_HOP6);
    let when = Table::Neighbours.when([icmp_type(true, SOLICITATION)]);
    when.set(NEXT_HOP, 0u32).act(hop).set(TURN_BACK, 1u8).goto(Table::NextHop).because(Reason::Pipeline)
}

/// A question for an address that nobody is known to have goes on.
fn go_on() -> Flow {
    not_answered([]).priority(Priority::Low).because(Reason::Pipeline)
}

/// A packet whose next hop nobody has comes back as an ICMP error.
fn nobody() -> Flow {
    Table::NextHop.when([]).priority(Priority::Fallback).punt(Punt::NoHost).because(Reason::Pipeline)
}

fn on(network: &Network) -> Test {
    NETWORK.is(network.key.0)
}

/// The tests that the next hop, or the address that is asked for, is `ip` on `network`.
fn is_hop(network: &Network, ip: IpAddr) -> Vec<Test> {
    match ip {
        IpAddr::V4(ip) => vec![on(network), NEXT_HOP.is(ip.to_bits())],
        IpAddr::V6(ip) => vec![on(network), NEXT_HOP.is(0u32), NEXT_HOP6.is(ip.to_bits())],
    }
}

/// A packet with such a next hop gets the MAC that `mac` writes into eth_dst.
fn resolve(tests: Vec<Test>, mac: Vec<Action>) -> Draft {
    Table::NextHop.when(tests).acts(mac).goto(Table::NeighbourReply)
}

/// The MAC of an address in a block follows from the address.
fn for_block(sight: &Sight, block: &Block) -> Vec<Flow> {
    let Some(network) = sight.network(block.network) else { return Vec::new() };
    let because = ObjectKey::new(Kind::Block, block.id);
    let local = V6Range { subnet: block.subnet, prefix: link_local_prefix(), shape: V6Shape::Eui64 };
    let v6 = block.v6.iter().chain([&local]).map(|range| {
        let (address, mask) = range.range(block.v4);
        let tests = vec![on(network), NEXT_HOP.is(0u32), NEXT_HOP6.is_masked(address.to_bits(), mask.to_bits())];
        resolve(tests, mac_of_block(block, NEXT_HOP6.into(), range.shape)).because(because)
    });
    let v4 = NEXT_HOP.is_masked(block.v4.network().to_bits().into(), block.v4.netmask().to_bits().into());
    let v4 = resolve(vec![on(network), v4], mac_of_block(block, NEXT_HOP.into(), V6Shape::Embedded)).because(because);
    std::iter::once(v4).chain(v6).collect()
}

/// Writes the MAC of the block port with the address in `from` into eth_dst: the address gives the low bits, the block the rest.
fn mac_of_block(block: &Block, from: Place, shape: V6Shape) -> Vec<Action> {
    let bits = match shape {
        V6Shape::Embedded => 32,
        V6Shape::Eui64 => 24,
    };
    vec![Action::set(Header::EthDst, Block::mac(block.v4.network()).bits()), Action::copy_low(from, Header::EthDst, bits)]
}

fn for_port(sight: &Sight, port: &Port) -> Vec<Flow> {
    let Some(network) = sight.network(port.network) else { return Vec::new() };
    let own = match port.block {
        Some(_) => Vec::new(),
        None if port.device_owner == owner::LOAD_BALANCER => vip(network, port),
        None if port.home().is_some() || port.is_homeless() => has(sight, network, port),
        None => port.addresses().map(|ip| reserved(network, port, ip)).collect(),
    };
    let carried = if port.home().is_some() { single_pairs(port).collect() } else { Vec::new() };
    own.into_iter().chain(carried.into_iter().map(|(ip, mac)| carries(network, port, ip, mac))).collect()
}

/// The MAC of a bound port or a router interface, and the way to another node. Who is asked for by a link-local address has an IPv6 address as well; others are asked
/// themselves, where the network floods.
fn has(sight: &Sight, network: &Network, port: &Port) -> Vec<Flow> {
    let is_local_known = port.is_router_interface() || !network.is_flooding || port.addresses().any(|ip| ip.is_ipv6());
    let addresses = port.addresses().chain(is_local_known.then(|| IpAddr::V6(link_local(port.mac))));
    let mac = Action::set(Header::EthDst, port.mac.bits());
    let way = port.home().and_then(|home| sight.way_to(home)).map(tunnel_header);
    let way = way.map(|(header, bits)| [Action::set(header, bits), Action::set(IS_THERE, 1u8)]);
    let found: Vec<Action> = std::iter::once(mac).chain(way.into_iter().flatten()).collect();
    let resolved = |ip| resolve(is_hop(network, ip), found.clone()).priority(Priority::High).because(key(port));
    let as_router = port.is_router_interface().then(|| advertise_router(network, port));
    addresses.map(resolved).chain(as_router).collect()
}

/// The MAC of a VIP is for those who ask. Nothing is routed there: what is for a VIP has its member's address long before. And nobody
/// sends to a VIP's link-local address: it is no machine.
fn vip(network: &Network, port: &Port) -> Vec<Flow> {
    let mac = Action::set(Header::EthDst, port.mac.bits());
    let asked = |ip| is_hop(network, ip).into_iter().chain([TURN_BACK.is(1u8)]).collect();
    port.addresses().map(|ip| resolve(asked(ip), vec![mac.clone()]).priority(Priority::High).because(key(port))).collect()
}

/// A question for the address of a port that is not bound goes on, even where a block has a MAC for it.
fn reserved(network: &Network, port: &Port, ip: IpAddr) -> Flow {
    not_answered(is_hop(network, ip)).priority(Priority::High).because(key(port))
}

/// A packet whose next hop ports merely carry by their address pairs (VRRP) is copied to each of them: the model does not know
/// who has it now. Those that share its MAC get one copy here, which L2 copies.
fn carries(network: &Network, port: &Port, ip: IpAddr, mac: Mac) -> Flow {
    let tests = is_hop(network, ip).into_iter().chain([TURN_BACK.is(0u8)]);
    let copy = [Action::set(Header::EthDst, mac.bits()), Action::Copy(Table::L2Lookup)];
    Table::NextHop.when(tests).priority(Priority::Low).acts(copy).because(key(port))
}

fn not_answered(tests: impl IntoIterator<Item = Test>) -> Draft {
    Table::NextHop.when(tests.into_iter().chain([TURN_BACK.is(1u8)])).set(TURN_BACK, 0u8).goto(Table::L2Lookup)
}

/// A packet whose next hop is on another node leaves by the tunnel to it, unless it came through one.
fn leave() -> Flow {
    let tests = [TURN_BACK.is(0u8), FROM_TUNNEL.is(0u8), IS_THERE.is(1u8)];
    Table::NeighbourReply.when(tests).goto(Table::Tunnel).because(Reason::Pipeline)
}

/// An ARP request whose MAC is found becomes the reply.
fn reply() -> Flow {
    Table::NeighbourReply
        .when([TURN_BACK.is(1u8), arp_op(ARP_REQUEST)])
        .set(Header::ArpOp, ARP_REPLY)
        .act(Action::copy(Header::ArpSha, Header::ArpTha))
        .act(Action::copy(Header::EthDst, Header::ArpSha))
        .act(Action::copy(Header::EthSrc, Header::EthDst))
        .act(Action::copy(Header::ArpSha, Header::EthSrc))
        .act(Action::copy(Header::ArpSpa, Header::ArpTpa))
        .act(Action::copy(NEXT_HOP, Header::ArpSpa))
        .goto(Table::Deliver)
        .because(Reason::Pipeline)
}

/// A neighbour solicitation whose MAC is found becomes the advertisement; Advertise adds the flags and the MAC.
fn turn_round() -> Flow {
    Table::NeighbourReply
        .when([TURN_BACK.is(1u8), icmp_type(true, SOLICITATION)])
        .act(Action::copy(Header::Ipv6Src, Header::Ipv6Dst))
        .act(Action::copy(NEXT_HOP6, Header::Ipv6Src))
        .act(Action::copy_low(Header::EthDst, NEXT_HOP6, 48))
        .act(Action::copy(Header::EthSrc, Header::EthDst))
        .act(Action::copy_low(NEXT_HOP6, Header::EthSrc, 48))
        .set(Header::Icmp6Type, ADVERTISEMENT)
        .goto(Table::Advertise)
        .because(Reason::Pipeline)
}

/// A neighbour advertisement made here gets its flags and the MAC that is asked for.
fn advertise() -> Flow {
    finished(Table::Advertise.when([icmp_type(true, ADVERTISEMENT)]), SOLICITED_OVERRIDE).because(Reason::Pipeline)
}

/// A router's neighbour advertisement says that it is one.
fn advertise_router(network: &Network, interface: &Port) -> Flow {
    let made = Table::Advertise.when([on(network), icmp_type(true, ADVERTISEMENT), eth_src(interface.mac)]);
    finished(made, ROUTER_SOLICITED_OVERRIDE).priority(Priority::High).because(key(interface))
}

fn finished(made: Draft, flags: u32) -> Draft {
    made.set(Header::NdReserved, flags)
        .set(Header::NdOptionsType, TARGET_LINK_LAYER)
        .act(Action::copy(Header::EthSrc, Header::NdTll))
        .goto(Table::Deliver)
}

/// A solicitation from `::` is a probe for duplicates: nobody but the address's owner answers it.
fn probe_from_nowhere() -> Flow {
    Table::Neighbours.when(probe6()).priority(Priority::Guard).goto(Table::L2Lookup).because(Reason::Pipeline)
}

/// A question of a port about its own address is not answered.
fn own_probes(port: &Port) -> Vec<Flow> {
    let addresses = port.addresses().chain([IpAddr::V6(link_local(port.mac))]);
    let skip = |tests: Vec<Test>| {
        let tests = std::iter::once(SRC_PORT.is(port.key.0)).chain(tests);
        Table::Neighbours.when(tests).priority(Priority::Guard).goto(Table::L2Lookup).because(key(port))
    };
    addresses.map(|ip| skip(asks(ip.into()).to_vec())).collect()
}

/// The tests that a packet asks on `network` who has an address in `prefix`.
pub(crate) fn asks_for(network: &Network, prefix: IpNet) -> [Test; 3] {
    let [kind, target] = asks(prefix);
    [on(network), kind, target]
}

fn asks(prefix: IpNet) -> [Test; 2] {
    match prefix {
        IpNet::V4(net) => [arp_op(ARP_REQUEST), arp_tpa(net)],
        IpNet::V6(net) => [icmp_type(true, SOLICITATION), nd_target(net.network(), net.netmask())],
    }
}

/// The tests that a packet asks whether anybody has an address that its sender is about to take (RFC 5227, RFC 4862).
pub(crate) fn probes() -> [[Test; 2]; 2] {
    [[arp_op(ARP_REQUEST), arp_spa(Ipv4Addr::UNSPECIFIED)], probe6()]
}

fn probe6() -> [Test; 2] {
    [icmp_type(true, SOLICITATION), ip_src(IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
}

/// The tests that a packet tells everybody on `network` who has `ip` now: a request in which sender and target are the same
/// (RFC 5227, 3). The announcement of an IPv6 address is no question.
pub(crate) fn announces(network: &Network, ip: Ipv4Addr) -> [Test; 4] {
    [on(network), arp_op(ARP_REQUEST), arp_spa(ip), arp_tpa(ip.into())]
}

fn arp_spa(ip: Ipv4Addr) -> Test {
    Test::exact(Header::ArpSpa.into(), ip.to_bits().into())
}

/// `fe80::/64`.
fn link_local_prefix() -> Ipv6Net {
    Ipv6Net::new(link_local(Mac::ZERO), 64).expect("64 is a prefix length").trunc()
}

#[cfg(test)]
mod tests {
    use model::{Network, NodeName, Port};

    use super::APP;
    use crate::testing::*;
    use crate::{App, Engine, Numbers};

    /// How many addresses of one port of another node have a MAC.
    fn known(network: Network, addresses: &[(&str, &str)]) -> usize {
        static APPS: &[&App] = &[&APP];
        let mut engine = Engine::new(APPS, Numbers::default());
        let far = Port { host: Some(NodeName("n2".into())), ..port("far", 10, "blue", addresses) };
        engine.update([here("n1", "192.0.2.1"), put(node("n2", "192.0.2.2")), put(network), put(far)]);
        engine.flows().filter(|flow| flow.to_string().contains("eth_dst:=0a:00:00:00:00:0a, tun_dst:=192.0.2.2, is_there:=1")).count()
    }

    #[test]
    fn a_link_local_address_is_known_beside_an_ipv6_address_and_where_nothing_is_flooded() {
        let blue = || network("blue", 7);
        let calm = || Network { is_flooding: false, ..blue() };
        let (four, both) = ([("v4", "10.0.0.10")], [("v4", "10.0.0.10"), ("v6", "fd00::10")]);
        assert_eq!([known(blue(), &four), known(blue(), &both), known(calm(), &four), known(calm(), &both)], [1, 3, 2, 3]);
    }
}
