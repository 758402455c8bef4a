//! The judge says what the flows say.

use std::net::IpAddr;

use model::*;
use pipeline::switch::{Outcome, Packet, Switch};
use pipeline::{Header, OfPort};
use proptest::prelude::*;

use super::{Judge, Opening, ports_in, ports_with_rules_naming};
use crate::testing::*;
use crate::{ALL, Change, Engine, Numbers};

const OWN: (&str, &str) = ("10.0.0.4", "fd00::4");
/// Addresses of nobody, of members of groups, inside somebody's address pair, and of a member inside it.
const REMOTES: [(&str, &str); 5] =
    [("10.0.0.9", "fd00::9"), ("10.0.0.10", "fd00::10"), ("10.0.0.11", "fd00::11"), ("10.7.0.1", "fd07::1"), ("10.7.0.2", "fd07::2")];

fn member(name: &str, key: u32, ips: (&str, &str), groups: &[&str]) -> Port {
    let security_groups = groups.iter().map(|name| SecurityGroupId(id(name))).collect();
    Port { security_groups, host: Some(NodeName("node1".into())), ..port(name, key, "net", &[("sub", ips.0), ("six", ips.1)]) }
}

/// `own` is judged; `peer` is plugged in beside it and may send whatever it likes.
fn world(rules: impl IntoIterator<Item = Rule>) -> Engine {
    let pair = |ip: &str, key| AddressPair { ip: ip.parse().unwrap(), mac: Mac::from_bits(key) };
    let wide = Port {
        address_pairs: vec![pair("10.7.0.0/16", 12), pair("fd07::/32", 12)],
        ..member("wide", 12, ("10.0.0.12", "fd00::12"), &["a"])
    };
    let objects = [
        here("node0", "192.0.2.1"),
        put(node("node1", "192.0.2.2")),
        put(network("net", 7)),
        put(subnet("sub", "net", "10.0.0.0/8")),
        put(subnet("six", "net", "fd00::/16")),
        put(group("a", 1)),
        put(group("b", 2)),
        put(Port { device_owner: owner::POD.into(), host: Some(NodeName("node0".into())), ..member("own", 4, OWN, &["a", "b"]) }),
        put(Port { is_port_security: false, ..port("peer", 5, "net", &[("sub", "10.0.0.5")]) }),
        put(member("in-a", 10, REMOTES[1], &["a"])),
        put(member("in-b", 11, REMOTES[2], &["b"])),
        put(wide),
        put(member("inside", 13, REMOTES[4], &["b"])),
        attach("own", 11),
        attach("peer", 12),
    ];
    let mut engine = Engine::new(ALL, Numbers::default());
    engine.update(objects.into_iter().chain(rules.into_iter().map(put)));
    assert_eq!(engine.conflicts().count(), 0);
    engine
}

fn opening(direction: Direction, is_v6: bool, remote: usize, proto: u8, dst_port: u16) -> Opening {
    let pick = |ips: (&str, &str)| -> IpAddr { if is_v6 { ips.1 } else { ips.0 }.parse().unwrap() };
    let (own, remote) = (pick(OWN), pick(REMOTES[remote]));
    let (src, dst) = if direction == Direction::Egress { (own, remote) } else { (remote, own) };
    let (proto, icmp) = match proto {
        1 if is_v6 => (58, Some((128, 0))),
        1 => (1, Some((8, 0))),
        proto => (proto, None),
    };
    Opening { proto, src, dst, dst_port: icmp.is_none().then_some(dst_port), icmp }
}

/// Whether the connection's first packet passes the switch.
fn passes(engine: &Engine, direction: Direction, opening: &Opening) -> bool {
    let (own, peer) = ((OfPort(11), Mac::from_bits(0x0a00_0000_0004)), (OfPort(12), Mac::from_bits(0x0a00_0000_0005)));
    let (from, to) = if direction == Direction::Egress { (own, peer) } else { (peer, own) };
    let packet = Packet::ip(from.0, opening.src, opening.dst).macs(from.1, to.1);
    let mut packet = match opening.proto {
        6 => packet.tcp(40_000, opening.dst_port.unwrap()),
        17 => packet.udp(40_000, opening.dst_port.unwrap()),
        _ => packet.ping(),
    };
    if opening.proto == 6 {
        packet.set(Header::TcpFlags, pipeline::tcp::SYN.into());
    }
    let journey = Switch::new(engine.flows(), engine.groups().cloned()).receive(&packet);
    journey.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Output(port, _) if *port == to.0))
}

fn judged(engine: &Engine, opening: &Opening) -> bool {
    Judge::new(engine.view(), PortId(id("own"))).unwrap().allows(opening)
}

fn a_direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Egress), Just(Direction::Ingress)]
}

fn a_protocol() -> impl Strategy<Value = (Option<u8>, Option<u16>, Option<u16>)> {
    let ports = prop_oneof![Just((None, None)), (70u16..90, 0u16..20).prop_map(|(min, more)| (Some(min), Some(min + more)))];
    prop_oneof![
        Just((None, None, None)),
        (prop_oneof![Just(6u8), Just(17)], ports).prop_map(|(proto, (min, max))| (Some(proto), min, max)),
        prop_oneof![Just(None), Just(Some(8u16)), Just(Some(128))].prop_map(|kind| (Some(1), kind, kind.map(|_| 0))),
    ]
}

fn a_rule() -> impl Strategy<Value = Rule> {
    let remote = prop_oneof![
        Just((None, None)),
        prop_oneof![Just("a"), Just("b")].prop_map(|group| (Some(group), None)),
        prop_oneof![Just("10.0.0.0/24"), Just("10.0.0.10/31"), Just("0.0.0.0/0")].prop_map(|prefix| (None, Some(prefix))),
        prop_oneof![Just("fd00::10/124"), Just("fd07::/16"), Just("::/0")].prop_map(|prefix| (None, Some(prefix))),
    ];
    (a_direction(), prop_oneof![Just("a"), Just("b")], any::<bool>(), a_protocol(), remote).prop_map(
        |(direction, of, is_v6, protocol, remote)| {
            let remote_prefix: Option<ipnet::IpNet> = remote.1.map(|prefix| prefix.parse().unwrap());
            let is_v6 = remote_prefix.map_or(is_v6, |prefix| prefix.addr().is_ipv6());
            let (protocol, range_min, range_max) = protocol;
            let remote_group = remote.0.map(|name| SecurityGroupId(id(name)));
            let ethertype = if is_v6 { EtherType::Ipv6 } else { EtherType::Ipv4 };
            Rule { protocol, range_min, range_max, remote_prefix, remote_group, ..rule("", of, direction, ethertype) }
        },
    )
}

proptest! {
    #[test]
    fn the_judge_agrees_with_the_flows(
        rules in proptest::collection::vec(a_rule(), 0..6),
        direction in a_direction(),
        is_v6: bool,
        remote in 0usize..5,
        proto in prop_oneof![Just(6u8), Just(17), Just(1)],
        dst_port in 68u16..112,
    ) {
        let named = rules.into_iter().enumerate().map(|(n, rule)| Rule { id: RuleId(id(&format!("rule{n}"))), ..rule });
        let engine = world(named);
        let opening = opening(direction, is_v6, remote, proto, dst_port);
        prop_assert_eq!(judged(&engine, &opening), passes(&engine, direction, &opening), "{:?}", opening);
    }
}

#[test]
fn what_one_rule_allows_ends_with_the_rule() {
    let web = Rule { protocol: Some(6), range_min: Some(80), range_max: Some(80), ..rule("web", "a", Direction::Ingress, EtherType::Ipv4) };
    let mut engine = world([web.clone()]);
    let at = |port| opening(Direction::Ingress, false, 0, 6, port);
    assert!(judged(&engine, &at(80)) && !judged(&engine, &at(81)));
    engine.update([Change::Remove(ObjectKey::new(Kind::Rule, web.id))]);
    assert!(!judged(&engine, &at(80)));
}

/// A rule that lets in everybody in the group, over TCP port 80.
fn web_from(group: &str) -> Rule {
    let remote_group = Some(SecurityGroupId(id(group)));
    let ports = Rule { protocol: Some(6), range_min: Some(80), range_max: Some(80), ..rule("", "a", Direction::Ingress, EtherType::Ipv4) };
    Rule { id: RuleId(id(&format!("from {group}"))), remote_group, ..ports }
}

/// As the flows and the judge see it, which must be the same.
fn is_let_in(engine: &Engine, remote: usize) -> bool {
    let opening = opening(Direction::Ingress, false, remote, 6, 80);
    let judged = judged(engine, &opening);
    assert_eq!(judged, passes(engine, Direction::Ingress, &opening));
    judged
}

#[test]
fn an_address_is_in_the_groups_of_every_address_pair_around_it_whatever_else_rules_name() {
    let mut engine = world([web_from("a")]);
    assert!(is_let_in(&engine, 3) && is_let_in(&engine, 4) && !is_let_in(&engine, 2));
    engine.update([put(Rule { range_min: Some(81), range_max: Some(81), ..web_from("b") })]);
    assert!(is_let_in(&engine, 3) && is_let_in(&engine, 4), "that its own group is named takes nothing away");
    engine.update([put(member("wide", 12, ("10.0.0.12", "fd00::12"), &["a"]))]);
    assert!(!is_let_in(&engine, 3) && !is_let_in(&engine, 4), "without the pair nobody inside is a member");
}

#[test]
fn an_address_that_two_networks_of_a_domain_have_is_in_no_group_that_it_has_on_one_only() {
    let mut engine = world([web_from("a"), web_from("b")]);
    assert!(is_let_in(&engine, 1));
    let double = |groups: &[&str]| {
        let security_groups = groups.iter().map(|name| SecurityGroupId(id(name))).collect();
        put(Port { security_groups, ..port("double", 20, "other", &[("other sub", REMOTES[1].0)]) })
    };
    let side = |network: &str, key, subnet: &str, ip: &str| put(interface(&format!("i{network}"), key, network, "router", &[(subnet, ip)]));
    engine.update([put(network("other", 8)), put(subnet("other sub", "other", "10.0.0.0/24")), put(router("router", 1)), double(&["b"])]);
    assert!(is_let_in(&engine, 1), "another domain's address");
    engine.update([side("net", 30, "sub", "10.0.0.1"), side("other", 31, "other sub", "10.0.0.2")]);
    assert!(!is_let_in(&engine, 1), "whose address is it?");
    assert!(is_let_in(&engine, 2));
    engine.update([double(&["a", "b"])]);
    assert!(is_let_in(&engine, 1), "either way it is in a");
    engine.update([double(&["b"])]);
    engine.update([Change::Remove(ObjectKey::new(Kind::Port, id("double")))]);
    assert!(is_let_in(&engine, 1));
}

#[test]
fn a_pods_own_node_is_always_let_in() {
    let host = Port { device_owner: owner::NODE.into(), ..port("host", 6, "net", &[("sub", REMOTES[0].0)]) };
    let mut engine = world([]);
    let probe = opening(Direction::Ingress, false, 0, 6, 80);
    assert!(!judged(&engine, &probe));
    engine.update([put(host), attach("host", 13)]);
    assert!(judged(&engine, &probe));
    assert!(!judged(&engine, &opening(Direction::Egress, false, 0, 6, 80)), "the other way round the rules hold");
}

#[test]
fn a_port_without_port_security_has_nothing_to_fear() {
    let mut engine = world([]);
    engine.update([put(Port { is_port_security: false, ..member("own", 4, OWN, &["a"]) })]);
    assert!(judged(&engine, &opening(Direction::Ingress, false, 0, 6, 80)));
}

#[test]
fn an_unknown_port_number_is_no_reason_to_end() {
    let web =
        Rule { protocol: Some(132), range_min: Some(80), range_max: Some(80), ..rule("web", "a", Direction::Ingress, EtherType::Ipv4) };
    let sctp = Opening { proto: 132, dst_port: None, ..opening(Direction::Ingress, false, 0, 6, 80) };
    assert!(judged(&world([web]), &sctp));
}

#[test]
fn only_ports_with_a_rule_that_names_a_group_depend_on_its_members() {
    let from_b = Rule { remote_group: Some(SecurityGroupId(id("b"))), ..rule("from-b", "a", Direction::Ingress, EtherType::Ipv4) };
    let engine = world([from_b]);
    let of = |name: &str| SecurityGroupId(id(name));
    assert_eq!(ports_with_rules_naming(engine.view(), of("b")), [PortId(id("own"))].into());
    assert_eq!(ports_with_rules_naming(engine.view(), of("a")), [].into());
    assert_eq!(ports_in(engine.view(), of("b")), [PortId(id("own"))].into());
}
