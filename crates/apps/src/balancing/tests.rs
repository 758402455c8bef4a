//! The flows of small worlds, printed in names.

use std::collections::BTreeSet;

use model::*;
use pipeline::Flow;

use super::gateway::ROUTERS_MAX;
use super::{APP, Connection, Judge};
use crate::testing::*;
use crate::{Change, Engine, Numbers};

/// A client and a member on a network with a VIP for TCP port 80.
fn world() -> Vec<Change> {
    let vip = vip("vip", 5, "net", &[("sub", "10.0.0.100")]);
    vec![
        here("node0", "192.0.2.1"),
        put(network("net", 7)),
        put(subnet("sub", "net", "10.0.0.0/24")),
        put(port("web", 4, "net", &[("sub", "10.0.0.4")])),
        attach("web", 11),
        put(balancer("lb", &vip)),
        put(vip),
        put(listener("http", 9, "lb", ListenerProtocol::Tcp, 80, "pool")),
        put(pool("pool", "lb", ListenerProtocol::Tcp)),
        put(member("one", "pool", "10.0.0.4", 8080, 1)),
    ]
}

fn engine(changes: impl IntoIterator<Item = Change>) -> Engine {
    let mut engine = Engine::new(&[&APP], Numbers::default());
    engine.update(changes);
    assert_eq!(engine.conflicts().count(), 0);
    engine
}

fn lines(engine: &Engine) -> Vec<String> {
    let mut flows: Vec<Flow> = engine.flows().collect();
    flows.sort();
    flows.iter().map(Flow::to_string).collect()
}

#[test]
fn a_load_balancer_in_names() {
    let engine = engine(world());
    let expected = [
        "Gateway /0 eth_dst=0a:00:00:00:00:05, ip_dst=10.0.0.100, network=7 -> on_link:=1, vip:=5, goto Hairpin",
        "Hairpin fallback eth_type=0x0800 -> track nat_zone nat known, goto VipState",
        "Hairpin fallback eth_type=0x86dd -> track nat_zone nat known, goto VipState",
        "Hairpin normal eth_type=0x0800, is_member=1 -> track hairpin_zone nat known, goto HairpinReply",
        "Hairpin normal eth_type=0x86dd, is_member=1 -> track hairpin_zone nat known, goto HairpinReply",
        "Hairpin high icmp_code=0, icmp_type=8, ip_frag=0/3 -> kept[0..31]:=ip_dst, ip_dst:=ip_src, ip_src:=kept[0..31], icmp_type:=0, nw_ttl:=64, kept[0..47]:=eth_dst, eth_dst:=eth_src, eth_src:=kept[0..47], turn_back:=1, goto Deliver",
        "Hairpin high icmpv6_code=0, icmpv6_type=128, ip_frag=0/3 -> kept:=ipv6_dst, ipv6_dst:=ipv6_src, ipv6_src:=kept, icmpv6_type:=129, nw_ttl:=64, kept[0..47]:=eth_dst, eth_dst:=eth_src, eth_src:=kept[0..47], turn_back:=1, goto Deliver",
        "HairpinReply fallback eth_type=0x0800 -> track nat_zone nat known, goto VipState",
        "HairpinReply fallback eth_type=0x86dd -> track nat_zone nat known, goto VipState",
        "HairpinReply normal ct_state=0x0028/0x0038, eth_type=0x0800 -> kept[0..47]:=eth_dst, eth_dst:=eth_src, eth_src:=kept[0..47], turn_back:=1, track nat_zone nat known, goto Deliver",
        "HairpinReply normal ct_state=0x0028/0x0038, eth_type=0x86dd -> kept[0..47]:=eth_dst, eth_dst:=eth_src, eth_src:=kept[0..47], turn_back:=1, track nat_zone nat known, goto Deliver",
        "VipState normal ct_state=0x0021/0x00a1 -> goto LbSelect",
        "VipState high ct_state=0x0024/0x0024 -> goto LbSelf",
        "VipState high ct_state=0x00a0/0x00a0 -> goto LbSelf",
        "VipState guard ct_state=0x0021/0x00a5, eth_type=0x0800, ip_proto=6, tcp_flags=0/2 -> punt Refused",
        "VipState guard ct_state=0x0021/0x00a5, eth_type=0x86dd, ip_proto=6, tcp_flags=0/2 -> punt Refused",
        "VipState guard ct_state=0x0030/0x0030 -> drop",
        "LbSelect fallback any -> punt Refused",
        "LbSelect low eth_type=0x0800, ip_proto=1 -> drop",
        "LbSelect low eth_type=0x0800, ip_frag=3/3 -> drop",
        "LbSelect low eth_type=0x86dd, ip_proto=58 -> drop",
        "LbSelect low eth_type=0x86dd, ip_frag=3/3 -> drop",
        "LbSelect normal eth_type=0x0800, ip_proto=6, tcp_dst=80, vip=5 -> group 2147483657",
        "LbSelf normal ip_dst=10.0.0.4, src_port=4 -> kept[0..47]:=eth_dst, eth_dst:=eth_src, eth_src:=kept[0..47], turn_back:=1, goto LbSelfSource",
        "LbSelfSource normal eth_type=0x0800, vip=5 -> commit hairpin_zone nat src=10.0.0.100, goto Deliver",
        "Unnat normal domain=7, eth_type=0x0800 -> track nat_zone nat known, goto Deliver",
        "Unnat normal domain=7, eth_type=0x86dd -> track nat_zone nat known, goto Deliver",
    ];
    assert_eq!(lines(&engine), expected, "{}", lines(&engine).join("\n"));
    let groups: Vec<String> = engine.groups().map(ToString::to_string).collect();
    assert_eq!(groups.len(), 1);
    assert!(groups[0].ends_with("weight 1: commit nat_zone nat dst=10.0.0.4:8080, goto LbSelf"), "{}", groups[0]);
}

fn has(engine: &Engine, part: &str) -> bool {
    lines(engine).iter().any(|line| line.contains(part))
}

#[test]
fn without_a_taking_member_nothing_is_chosen() {
    let mut engine = engine(world());
    assert!(has(&engine, "group"));
    engine.update([put(member("one", "pool", "10.0.0.4", 8080, 0))]);
    assert!(!has(&engine, "group") && engine.groups().count() == 0);
    assert!(has(&engine, "VipState high ct_state=0x00a0/0x00a0 -> goto LbSelf"), "known connections go on");
    engine.update([put(member("two", "pool", "fd00::4", 8080, 1))]);
    assert!(!has(&engine, "group"), "a member of the other IP version is none");
}

#[test]
fn a_load_balancer_that_is_down_refuses() {
    let mut engine = engine(world());
    let vip = vip("vip", 5, "net", &[("sub", "10.0.0.100")]);
    engine.update([put(LoadBalancer { is_admin_up: false, ..balancer("lb", &vip) })]);
    assert!(has(&engine, "Gateway /0 eth_dst=0a:00:00:00:00:05, ip_dst=10.0.0.100, network=7 -> punt Refused") && !has(&engine, "group"));
}

#[test]
fn a_machines_underlay_address_may_be_a_member() {
    let pair = AddressPair { ip: "192.0.2.1/32".parse().unwrap(), mac: Mac::from_bits(0x0a00_0000_0008) };
    let node = Port { address_pairs: vec![pair], ..port("node", 8, "net", &[("sub", "10.0.0.8")]) };
    let engine = engine(world().into_iter().chain([put(node), attach("node", 12), put(member("api", "pool", "192.0.2.1", 6443, 1))]));
    assert!(has(&engine, "LbSelf normal ip_dst=192.0.2.1, src_port=8"));
}

#[test]
fn answers_are_only_looked_up_where_load_balancers_are_reached() {
    let mut engine = engine(world().into_iter().chain([put(network("far", 8))]));
    assert!(!has(&engine, "Unnat normal domain=8"));
    let interface = |network: &str| put(interface(&format!("interface {network}"), 20, network, "router", &[]));
    engine.update([put(router("router", 1)), interface("net"), interface("far")]);
    assert!(has(&engine, "Unnat normal domain=7") && !has(&engine, "Unnat normal domain=8"), "one domain now");
    engine.update([Change::Remove(ObjectKey::new(Kind::LoadBalancer, id("lb")))]);
    assert!(!has(&engine, "Unnat"));
}

#[test]
fn connections_stay_as_long_as_their_member_serves() {
    let mut engine = engine(world());
    let connection = |proto| Connection { proto, vip: ("10.0.0.100".parse().unwrap(), 80), member: ("10.0.0.4".parse().unwrap(), 8080) };
    let stays = |engine: &Engine, proto| Judge::new(engine.view(), PortId(id("web"))).may_stay(&connection(proto));
    assert!(stays(&engine, 6) && !stays(&engine, 17), "nobody listens on UDP");
    let udp = [put(listener("dns", 10, "lb", ListenerProtocol::Udp, 80, "pool"))];
    engine.update(udp);
    assert!(stays(&engine, 17));
    engine.update([put(member("one", "pool", "10.0.0.4", 8080, 0))]);
    assert!(stays(&engine, 6) && !stays(&engine, 17), "a member that drains keeps its TCP connections");
    engine.update([Change::Remove(ObjectKey::new(Kind::Member, id("one")))]);
    assert!(!stays(&engine, 6));
}

#[test]
fn connections_stay_by_the_load_balancer_that_the_port_reaches() {
    let vip_on = |network: &str, subnet: &str| vip("far vip", 6, network, &[(subnet, "10.0.0.100")]);
    let far = [
        put(network("far", 8)),
        put(balancer("far lb", &vip_on("far", "far sub"))),
        put(vip_on("far", "far sub")),
        put(listener("far http", 10, "far lb", ListenerProtocol::Tcp, 80, "far pool")),
        put(pool("far pool", "far lb", ListenerProtocol::Tcp)),
        put(member("far one", "far pool", "10.0.0.4", 8080, 1)),
    ];
    let mut engine = engine(world().into_iter().chain(far));
    let connection = Connection { proto: 6, vip: ("10.0.0.100".parse().unwrap(), 80), member: ("10.0.0.4".parse().unwrap(), 8080) };
    let stays = |engine: &Engine| Judge::new(engine.view(), PortId(id("web"))).may_stay(&connection);
    assert!(stays(&engine));
    engine.update([Change::Remove(ObjectKey::new(Kind::LoadBalancer, id("lb")))]);
    assert!(!stays(&engine), "the other one has the same VIP, and no way leads to it");
    let interface = |network: &str| put(interface(&format!("interface {network}"), 20, network, "router", &[]));
    engine.update([put(router("router", 1)), interface("net"), interface("far")]);
    assert!(stays(&engine), "a router does");
    engine.update([Change::Remove(ObjectKey::new(Kind::Port, id("interface far")))]);
    assert!(!stays(&engine));
    let moved = balancer("far lb", &vip_on("net", "sub"));
    engine.update([put(moved.clone())]);
    assert!(stays(&engine), "it is on the port's network now");
    engine.update([put(LoadBalancer { vip: "10.0.0.101".parse().unwrap(), ..moved })]);
    assert!(!stays(&engine), "it has another VIP now");
}

#[test]
fn no_two_groups_share_a_number() {
    let many =
        (0..600u32).map(|n| put(member(&format!("m{n}"), "pool", &format!("10.1.{}.{}", n >> 8, n & 255), 80, 1 + (n % 200) as u16)));
    let two = [put(listener("https", 1, "lb", ListenerProtocol::Tcp, 443, "pool"))];
    let engine = engine(world().into_iter().chain(many).chain(two));
    let ids: BTreeSet<u32> = engine.groups().map(|group| group.id.0).collect();
    assert_eq!(ids.len(), engine.groups().count());
    assert!(ids.len() > 10);
}

#[test]
fn a_service_costs_four_flows_and_one_for_each_router_of_its_subnet_whatever_its_members() {
    let router = [put(router("router", 1)), put(interface("interface", 20, "net", "router", &[("sub", "10.0.0.1")]))];
    let all = crate::ALL;
    let count = |changes: Vec<Change>| {
        let mut engine = Engine::new(all, Numbers::default());
        engine.update(changes);
        engine.flows().count()
    };
    let one: Vec<Change> = world().into_iter().chain(router).collect();
    let other = vip("other vip", 6, "net", &[("sub", "10.0.0.101")]);
    let two = [
        put(balancer("other", &other)),
        put(other),
        put(listener("https", 10, "other", ListenerProtocol::Tcp, 443, "others")),
        put(pool("others", "other", ListenerProtocol::Tcp)),
    ];
    let members = (0..50).map(|n| put(member(&format!("m{n}"), "others", &format!("10.0.1.{n}"), 80, 1)));
    let more: Vec<Change> = one.iter().cloned().chain(two).chain(members).collect();
    assert_eq!(count(more) - count(one), 5, "ARP, on its own network, by the router, the listener, a member that asks itself");
}

/// Routers in a row, each of which leads on to the next one, and a VIP behind the last.
fn row(routers: usize) -> Vec<Change> {
    let vip = vip("vip", 5, "far", &[("far", "10.200.0.100")]);
    let mut changes = vec![
        here("node0", "192.0.2.1"),
        put(network("far", 200)),
        put(subnet("far", "far", "10.200.0.0/24")),
        put(interface("last", 99, "far", &format!("r{}", routers - 1), &[("far", "10.200.0.1")])),
        put(balancer("lb", &vip)),
        put(vip),
        put(listener("http", 9, "lb", ListenerProtocol::Tcp, 80, "pool")),
        put(pool("pool", "lb", ListenerProtocol::Tcp)),
    ];
    for n in 0..routers {
        let (name, net, router_name) = (format!("i{n}"), format!("net{n}"), format!("r{n}"));
        changes.extend([put(network(&net, n as u32 + 1)), put(subnet(&net, &net, &format!("10.{n}.0.0/24")))]);
        changes.push(put(interface(&name, n as u32 + 100, &net, &router_name, &[(&net, &format!("10.{n}.0.1"))])));
        let mut this = router(&router_name, n as u32 + 1);
        if n + 1 < routers {
            let next = format!("net{}", n + 1);
            changes.push(put(interface(&format!("o{n}"), n as u32 + 300, &next, &router_name, &[(&next, &format!("10.{}.0.2", n + 1))])));
            let nexthop = format!("10.{}.0.1", n + 1).parse().unwrap();
            this.routes.push(Route { destination: "10.200.0.0/24".parse().unwrap(), nexthop });
        }
        changes.push(put(this));
    }
    changes
}

#[test]
fn a_vip_behind_more_routers_than_anybody_has_is_not_led_to() {
    // The first is where the packet comes in.
    for (routers, is_led) in [(ROUTERS_MAX + 1, true), (ROUTERS_MAX + 2, false)] {
        let engine = engine(row(routers));
        let leads =
            |line: &String| line.starts_with("Gateway") && line.contains("eth_dst=0a:00:00:00:00:64, ip_dst=10.200.0.0/255.255.255.0,");
        assert_eq!(lines(&engine).iter().any(leads), is_led, "{routers} routers: {}", lines(&engine).join("\n"));
    }
}
