//! Who has this address? Answered where it is asked, never flooded when it is known.
//!
//! A packet that asks for a MAC (ARP request, neighbour solicitation) is turned into the answer and sent back. One flow
//! answers for a whole block: the MAC is computed from the address that is asked for. A port that is an exception has
//! a flow of its own, and so has every router interface and VIP. Not answered: a port that asks for its own address (it probes
//! for duplicates, RFC 5227, RFC 4862), the address of a port that is not bound, even inside a block (users of VRRP reserve
//! their address with such a port), and what is merely in somebody's address pairs. Those questions go on, and L2 copies them
//! to whoever may have the address now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::{Block, Kind, Mac, Network, ObjectKey, Port, V6Range, V6Shape, link_local};
use pipeline::{
    Action, Draft, Flow, Header, Priority, Reason, Table, Test, arp_op, arp_tpa, eth_src, fields::*, icmp_type, ip_src, nd_target,
};

use crate::app::{App, Output, Root, RootKind};
use crate::classify::key;
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
        Root::Here => Some(vec![reply(), advertise(), probe_from_nowhere()]),
    }
    .unwrap_or_default()
    .into()
}

fn for_block(sight: &Sight, block: &Block) -> Vec<Flow> {
    let Some(network) = sight.network(block.network) else { return Vec::new() };
    let because = ObjectKey::new(Kind::Block, block.id);
    let local = V6Range { subnet: block.subnet, prefix: link_local_prefix(), shape: V6Shape::Eui64 };
    let v6 = block.v6.iter().chain([&local]).map(|range| {
        let (target, mask) = range.range(block.v4);
        answer_nd(network, nd_target(target, mask), block_mac(block, Header::NdTarget, range.shape))
            .priority(Priority::Low)
            .because(because)
    });
    let v4 = answer_arp(network, block.v4, block_mac(block, Header::ArpTpa, V6Shape::Embedded)).priority(Priority::Low).because(because);
    std::iter::once(v4).chain(v6).collect()
}

/// Writes the MAC of the block port that has the address in `from` into the packet's source.
pub(crate) fn block_mac(block: &Block, from: Header, shape: V6Shape) -> Vec<Action> {
    mac_of_block(block, from.into(), Header::EthSrc, shape)
}

/// Writes the MAC of the block port with the address in `from` into `to`: the address gives the low bits, the block the rest.
pub(crate) fn mac_of_block(block: &Block, from: pipeline::Place, to: Header, shape: V6Shape) -> Vec<Action> {
    let bits = match shape {
        V6Shape::Embedded => 32,
        V6Shape::Eui64 => 24,
    };
    vec![Action::set(to, Block::mac(block.v4.network()).bits()), Action::copy_low(from, to, bits)]
}

fn for_port(sight: &Sight, port: &Port) -> Vec<Flow> {
    let Some(network) = sight.network(port.network) else { return Vec::new() };
    match port.block {
        Some(_) => Vec::new(),
        None if port.home().is_some() || port.is_homeless() => answers(network, port),
        None => port.addresses().map(|ip| not_answered(network, port, ip)).collect(),
    }
}

/// A bound port, a router interface and a VIP are answered for, unless their block already is. Nobody sends to a VIP's link-local
/// address: it is no machine.
fn answers(network: &Network, port: &Port) -> Vec<Flow> {
    let mac = vec![Action::set(Header::EthSrc, port.mac.bits())];
    let is_vip = port.device_owner == model::owner::LOAD_BALANCER;
    let addresses = port.addresses().chain((!is_vip).then(|| IpAddr::V6(link_local(port.mac))));
    let answer = |ip| match ip {
        IpAddr::V4(ip) => answer_arp(network, ip.into(), mac.clone()),
        IpAddr::V6(ip) => answer_nd(network, nd_target(ip, Ipv6Addr::from(u128::MAX)), mac.clone()),
    };
    let as_router = port.is_router_interface().then(|| advertise_router(network, port));
    addresses.map(|ip| answer(ip).priority(Priority::High).because(key(port))).chain(as_router).collect()
}

fn on(network: &Network) -> Test {
    NETWORK.is(network.key.0)
}

/// An ARP request for an address in `asked` is on its way back; `mac` writes the wanted MAC into eth_src. NeighbourReply does the rest,
/// which is the same for every address.
fn answer_arp(network: &Network, asked: Ipv4Net, mac: Vec<Action>) -> Draft {
    Table::Neighbours
        .when([on(network), arp_op(ARP_REQUEST), arp_tpa(asked)])
        .act(Action::copy(Header::EthSrc, Header::EthDst))
        .acts(mac)
        .goto(Table::NeighbourReply)
}

/// A neighbour solicitation for `asked` is turned into the advertisement; NeighbourReply adds the flags and the MAC.
fn answer_nd(network: &Network, asked: Test, mac: Vec<Action>) -> Draft {
    Table::Neighbours
        .when([on(network), icmp_type(true, SOLICITATION), asked])
        .act(Action::copy(Header::EthSrc, Header::EthDst))
        .acts(mac)
        .act(Action::copy(Header::Ipv6Src, Header::Ipv6Dst))
        .act(Action::copy(Header::NdTarget, Header::Ipv6Src))
        .set(Header::Icmp6Type, ADVERTISEMENT)
        .goto(Table::NeighbourReply)
}

/// An ARP request that Neighbours has turned round becomes the reply.
fn reply() -> Flow {
    Table::NeighbourReply
        .when([arp_op(ARP_REQUEST)])
        .set(Header::ArpOp, ARP_REPLY)
        .act(Action::copy(Header::ArpSha, Header::ArpTha))
        .act(Action::copy(Header::EthSrc, Header::ArpSha))
        .act(Action::copy(Header::ArpTpa, SCRATCH))
        .act(Action::copy(Header::ArpSpa, Header::ArpTpa))
        .act(Action::copy(SCRATCH, Header::ArpSpa))
        .set(TURN_BACK, 1u8)
        .goto(Table::Deliver)
        .because(Reason::Pipeline)
}

/// A neighbour advertisement made in Neighbours gets its flags and the MAC that is asked for.
fn advertise() -> Flow {
    finished(Table::NeighbourReply.when([icmp_type(true, ADVERTISEMENT)]), SOLICITED_OVERRIDE).because(Reason::Pipeline)
}

/// A router's neighbour advertisement says that it is one.
fn advertise_router(network: &Network, interface: &Port) -> Flow {
    let made = Table::NeighbourReply.when([on(network), icmp_type(true, ADVERTISEMENT), eth_src(interface.mac)]);
    finished(made, ROUTER_SOLICITED_OVERRIDE).priority(Priority::High).because(key(interface))
}

fn finished(made: Draft, flags: u32) -> Draft {
    made.set(Header::NdReserved, flags)
        .set(Header::NdOptionsType, TARGET_LINK_LAYER)
        .act(Action::copy(Header::EthSrc, Header::NdTll))
        .set(TURN_BACK, 1u8)
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

/// A question about the address of a port that is not bound goes on, even where a block would answer it.
fn not_answered(network: &Network, port: &Port, ip: IpAddr) -> Flow {
    Table::Neighbours.when(asks_for(network, ip.into())).goto(Table::L2Lookup).because(key(port))
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
pub(crate) fn link_local_prefix() -> Ipv6Net {
    Ipv6Net::new(link_local(Mac::ZERO), 64).expect("64 is a prefix length").trunc()
}
