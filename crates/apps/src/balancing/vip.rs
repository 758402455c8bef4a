//! Which packets are for a load balancer, and what becomes of known connections, answers and refusals.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Kind, LoadBalancer, Network, ObjectKey, Port};
use pipeline::{
    Action, Draft, Flow, Header, Nat, Priority, Punt, Reason, Table, Test, ct, ct_state, fields::*, frag, icmp_code, icmp_type, ip_dst,
    ip_frag, ip_proto, ipv4, ipv6, tcp, tcp_flags_clear,
};

use super::{gateway, itself, turn_back};
use crate::sight::Sight;
use crate::view::Index;

/// TTL of what a VIP itself sends (RFC 1700).
const TTL: u8 = 64;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TCP: u8 = 6;

/// A load balancer, with what its flows need to know.
pub(super) struct Vip<'a> {
    pub port: &'a Port,
    pub ip: IpAddr,
    /// The routers on the VIP's subnet.
    pub gateways: Vec<u32>,
    pub because: ObjectKey,
}

pub(super) fn for_balancer(sight: &Sight, balancer: &LoadBalancer) -> Vec<Flow> {
    let (Some(port), Some(network)) = (sight.port(balancer.vip_port), sight.network(balancer.vip_network)) else { return Vec::new() };
    let because = ObjectKey::new(Kind::LoadBalancer, balancer.id);
    let vip = Vip { port, ip: balancer.vip, gateways: gateways(sight, balancer, network), because };
    if is_up(balancer, port) {
        let here = recognise(&vip, gateway::to_vip(&vip, network).set(ON_LINK, 1u8));
        let ways = vip.is_asked().map(|asked| recognise(&vip, Table::Vip.when(asked)));
        ways.chain([here, itself::from_vip(&vip)]).collect()
    } else {
        let ways = vip.is_asked().map(|asked| Table::Vip.when(asked)).chain([gateway::to_vip(&vip, network)]);
        ways.map(|asked| asked.punt(Punt::Refused).because(vip.because)).collect()
    }
}

/// The routers on the VIP's subnet.
fn gateways(sight: &Sight, balancer: &LoadBalancer, network: &Network) -> Vec<u32> {
    let interfaces = sight.interfaces_on(network.id).into_iter().filter(|port| port.is_admin_up);
    let there = interfaces.filter(|port| port.fixed_ips.iter().any(|fixed| fixed.subnet == balancer.vip_subnet));
    let routers = there.filter_map(|port| sight.router(port.router()?)).filter(|router| router.is_admin_up).map(|router| router.key.0);
    let all: BTreeSet<u32> = routers.collect();
    all.into_iter().collect()
}

/// True if the load balancer is meant to work.
pub(super) fn is_up(balancer: &LoadBalancer, port: &Port) -> bool {
    balancer.is_admin_up && port.is_admin_up
}

impl Vip<'_> {
    /// The packet was sent to the VIP, and is on its way there: tenants may use the same addresses.
    fn is_asked(&self) -> impl Iterator<Item = [Test; 2]> + '_ {
        self.gateways.iter().map(|gateway| [GATEWAY.is(*gateway), ip_dst(IpNet::from(self.ip))])
    }
}

/// A packet to a VIP is its from here on.
fn recognise(vip: &Vip, asked: Draft) -> Flow {
    asked.set(VIP, vip.port.key.0).goto(Table::Hairpin).because(vip.because)
}

/// A packet to a VIP gets its member's address, if its connection is known.
fn find_member(table: Table, family: Test) -> Flow {
    table.when([family]).priority(Priority::Fallback).act(known(NAT_ZONE, Table::VipState)).because(Reason::Pipeline)
}

/// The translation that the connection has, if it has one.
pub(super) fn known(zone: pipeline::Field, then: Table) -> Action {
    Action::Track { zone: zone.into(), nat: Some(Nat::Known), then }
}

/// An echo request to a VIP is answered for it.
fn answer_echo(is_v6: bool) -> Flow {
    let (request, reply, kind) = if is_v6 { (128u8, 129u8, Header::Icmp6Type) } else { (8, 0, Header::Icmp4Type) };
    let (source, destination) = if is_v6 { (Header::Ipv6Src, Header::Ipv6Dst) } else { (Header::Ipv4Src, Header::Ipv4Dst) };
    Table::Hairpin
        .when([icmp_type(is_v6, request), icmp_code(is_v6, 0), ip_frag(0)])
        .priority(Priority::High)
        .act(Action::copy_low(destination, KEPT, destination.bits()))
        .act(Action::copy(source, destination))
        .act(Action::copy_low(KEPT, source, source.bits()))
        .set(kind, reply)
        .set(Header::Ttl, TTL)
        .acts(turn_back())
        .goto(Table::Deliver)
        .because(Reason::Pipeline)
}

pub(super) fn for_everybody() -> Vec<Flow> {
    let later = |family: Test| vec![family, ip_frag(frag::ANY | frag::LATER)];
    let silent = [later(ipv4()), later(ipv6()), vec![ipv4(), ip_proto(ICMP)], vec![ipv6(), ip_proto(ICMPV6)]].map(say_nothing);
    let own = [drop_invalid(), known_connection(), known_error(), new_connection(), ended(ipv4()), ended(ipv6()), nobody_listens()];
    let asked =
        [Table::Hairpin, Table::HairpinReply].into_iter().flat_map(|table| [find_member(table, ipv4()), find_member(table, ipv6())]);
    own.into_iter().chain(silent).chain(asked).chain([answer_echo(false), answer_echo(true)]).collect()
}

/// A packet that fits no connection and cannot begin one is dropped.
fn drop_invalid() -> Flow {
    Table::VipState.when([ct_state(ct::TRK | ct::INV, 0)]).priority(Priority::Guard).drop().because(Reason::Pipeline)
}

/// A packet of a known connection has its member's address now. (UDP counts as established only after a reply; what has
/// a translation is known before that.)
fn known_connection() -> Flow {
    Table::VipState.when([ct_state(ct::TRK | ct::DNAT, 0)]).priority(Priority::High).goto(Table::LbSelf).because(Reason::Pipeline)
}

/// An ICMP error about a known connection goes to its member.
fn known_error() -> Flow {
    Table::VipState.when([ct_state(ct::TRK | ct::REL, 0)]).priority(Priority::High).goto(Table::LbSelf).because(Reason::Pipeline)
}

/// The first packet of a connection needs a member.
fn new_connection() -> Flow {
    Table::VipState.when([ct_state(ct::TRK | ct::NEW, ct::DNAT)]).goto(Table::LbSelect).because(Reason::Pipeline)
}

/// A TCP packet from the middle of a connection that is not known any more, because its member is gone, is refused: the client
/// learns at once that the connection has ended.
fn ended(family: Test) -> Flow {
    Table::VipState
        .when([ct_state(ct::TRK | ct::NEW, ct::DNAT | ct::REL), family, ip_proto(TCP), tcp_flags_clear(tcp::SYN)])
        .priority(Priority::Guard)
        .punt(Punt::Refused)
        .because(Reason::Pipeline)
}

/// A packet to a port of a VIP where nobody listens, or whose members take no new connections, is refused at once.
fn nobody_listens() -> Flow {
    Table::LbSelect.when([]).priority(Priority::Fallback).punt(Punt::Refused).because(Reason::Pipeline)
}

/// ICMP and fragments without ports get no refusal (RFC 1122, 3.2.2; RFC 4443, 2.4).
fn say_nothing(tests: Vec<Test>) -> Flow {
    Table::LbSelect.when(tests).priority(Priority::Low).drop().because(Reason::Pipeline)
}

/// An answer to a port on a network from which load balancers are reached gets the VIP as its source, if it was asked there.
pub(super) fn give_back(sight: &Sight, network: &Network) -> Vec<Flow> {
    let domain = sight.domain(network.id);
    if domain == 0 || !sight.any(Index::BalancedIn(domain)) {
        return Vec::new();
    }
    let because = ObjectKey::new(Kind::Network, network.id);
    [ipv4(), ipv6()]
        .map(|family| Table::Unnat.when([DOMAIN.is(domain), family]).act(known(NAT_ZONE, Table::Deliver)).because(because))
        .into()
}
