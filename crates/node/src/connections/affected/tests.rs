//! What a change affects, and what it does not.

use apps::testing::*;
use apps::{ALL, Engine, Numbers};
use model::*;

use super::*;

fn pid(name: &str) -> PortId {
    PortId(id(name))
}

fn gid(name: &str) -> SecurityGroupId {
    SecurityGroupId(id(name))
}

fn grouped(name: &str, key: u32, network: &str, groups: &[&str]) -> Port {
    let ip = format!("10.0.0.{key}");
    Port { security_groups: groups.iter().map(|name| gid(name)).collect(), ..port(name, key, network, &[("sub", &ip)]) }
}

fn from_clients() -> Rule {
    Rule { remote_group: Some(gid("clients")), ..rule("from-clients", "web", Direction::Ingress, EtherType::Ipv4) }
}

/// Three local ports: two web servers, of which `far` is on a network of its own, and one without groups. A client elsewhere
/// is let in by its group. A VIP on `net`.
fn before() -> Engine {
    let vip = vip("vip", 50, "net", &[("sub", "10.0.0.50")]);
    let mut engine = Engine::new(ALL, Numbers::default());
    engine.update([
        here("node0", "192.0.2.1"),
        put(network("net", 7)),
        put(network("other", 8)),
        put(group("web", 1)),
        put(group("clients", 2)),
        put(from_clients()),
        put(rule("out", "clients", Direction::Egress, EtherType::Ipv4)),
        put(grouped("web", 4, "net", &["web"])),
        put(grouped("far", 5, "other", &["web"])),
        put(grouped("plain", 6, "net", &[])),
        put(grouped("client", 9, "net", &["clients"])),
        put(balancer("lb", &vip)),
        put(vip),
        put(listener("http", 1, "lb", ListenerProtocol::Tcp, 80, "tcp")),
        put(listener("dns", 2, "lb", ListenerProtocol::Udp, 53, "udp")),
        put(pool("tcp", "lb", ListenerProtocol::Tcp)),
        put(pool("udp", "lb", ListenerProtocol::Udp)),
        put(member("one", "tcp", "10.0.0.4", 80, 1)),
        put(member("two", "udp", "10.0.0.4", 53, 1)),
        attach("web", 11),
        attach("far", 12),
        attach("plain", 13),
    ]);
    engine
}

fn after(changes: impl IntoIterator<Item = Change>) -> Affected {
    affected(before().view(), &changes.into_iter().collect::<Vec<_>>())
}

fn rules(names: &[&str]) -> Affected {
    Affected { rules: names.iter().map(|name| pid(name)).collect(), ..Affected::default() }
}

/// The local ports that reach the VIP.
fn clients() -> Affected {
    Affected { members: [pid("web"), pid("plain")].into(), ..Affected::default() }
}

fn gone(kind: Kind, name: &str) -> Change {
    Change::Remove(ObjectKey::new(kind, id(name)))
}

#[test]
fn a_rule_that_goes_affects_the_ports_of_its_group() {
    assert_eq!(after([gone(Kind::Rule, "from-clients")]), rules(&["web", "far"]));
    assert_eq!(after([put(Rule { range_min: Some(81), ..from_clients() })]), rules(&["web", "far"]));
    assert_eq!(after([put(Rule { description: "new words".into(), ..from_clients() })]), Affected::default());
    assert_eq!(after([gone(Kind::Rule, "out")]), Affected::default(), "nobody here is in the group");
}

#[test]
fn a_member_that_leaves_a_remote_group_affects_those_whose_rules_name_it() {
    assert_eq!(after([gone(Kind::Port, "client")]), rules(&["web", "far"]));
    assert_eq!(after([put(grouped("client", 9, "net", &[]))]), rules(&["web", "far"]));
    assert_eq!(after([put(grouped("client", 10, "net", &["clients"]))]), rules(&["web", "far"]), "another address");
    assert_eq!(after([put(Port { name: "new".into(), ..grouped("client", 9, "net", &["clients", "web"]) })]), Affected::default());
}

#[test]
fn what_is_merely_added_affects_nothing() {
    let rule = Rule { remote_group: Some(gid("web")), ..rule("more", "web", Direction::Ingress, EtherType::Ipv4) };
    let added = [
        put(grouped("new", 20, "net", &["web", "clients"])),
        attach("new", 14),
        put(rule),
        put(member("three", "tcp", "10.0.0.6", 80, 1)),
        put(listener("https", 3, "lb", ListenerProtocol::Tcp, 443, "tcp")),
        put(grouped("web", 4, "net", &["web", "clients"])),
    ];
    assert_eq!(after(added), Affected::default());
}

#[test]
fn a_port_that_loses_a_group_or_gains_port_security_is_judged_itself() {
    assert_eq!(after([put(grouped("web", 4, "net", &[]))]), rules(&["web"]));
    let engine = &mut before();
    engine.update([put(Port { is_port_security: false, ..grouped("web", 4, "net", &["web"]) })]);
    assert_eq!(affected(engine.view(), &[put(grouped("web", 4, "net", &["web"]))]), rules(&["web"]));
}

#[test]
fn a_members_end_affects_those_who_reach_its_vip() {
    assert_eq!(after([gone(Kind::Member, "one")]), clients());
    assert_eq!(after([put(Member { is_admin_up: false, ..member("one", "tcp", "10.0.0.4", 80, 1) })]), clients());
    assert_eq!(after([put(member("one", "tcp", "10.0.0.4", 81, 1))]), clients());
    assert_eq!(after([put(member("two", "udp", "10.0.0.4", 53, 0))]), clients());
    assert_eq!(after([put(member("one", "tcp", "10.0.0.4", 80, 0))]), Affected::default(), "it drains");
}

#[test]
fn a_listener_pool_or_load_balancer_that_goes_affects_the_same() {
    for (kind, name) in [(Kind::Listener, "http"), (Kind::Pool, "udp"), (Kind::LoadBalancer, "lb"), (Kind::Port, "vip")] {
        assert_eq!(after([gone(kind, name)]), clients(), "{kind:?}");
    }
    let all = [gone(Kind::LoadBalancer, "lb"), gone(Kind::Listener, "http"), gone(Kind::Pool, "tcp"), gone(Kind::Member, "one")];
    assert_eq!(after(all), clients(), "in whatever order");
}

#[test]
fn a_router_interface_that_goes_may_part_anything() {
    let engine = &mut before();
    engine.update([put(router("router", 1)), put(interface("interface", 60, "net", "router", &[]))]);
    assert_eq!(affected(engine.view(), &[gone(Kind::Port, "interface")]), Affected::everything());
}

/// Somebody with the client's address, and groups of its own, on a network of its own.
fn double(groups: &[&str]) -> Change {
    put(Port { fixed_ips: grouped("client", 9, "net", &[]).fixed_ips, ..grouped("double", 70, "other", groups) })
}

fn joining() -> [Change; 3] {
    [put(router("router", 1)), put(interface("one", 60, "net", "router", &[])), put(interface("two", 61, "other", "router", &[]))]
}

#[test]
fn an_address_that_comes_to_be_on_two_networks_of_a_domain_loses_groups() {
    let engine = &mut before();
    engine.update(joining());
    assert_eq!(affected(engine.view(), &[double(&["web"])]), rules(&["web", "far"]), "the client is no client any more");
    assert_eq!(affected(engine.view(), &[double(&["clients"])]), Affected::default(), "it is one on both");
    assert_eq!(after([double(&["web"])]), Affected::default(), "nothing leads from one to the other");
}

#[test]
fn networks_with_the_same_address_that_are_joined_may_end_anything() {
    let engine = &mut before();
    assert_eq!(affected(engine.view(), &joining()), Affected::default(), "they have no address in common");
    let all = [joining().to_vec(), vec![double(&["web"])]].concat();
    assert!(affected(engine.view(), &all).everything, "in one change");
    engine.update([double(&["web"])]);
    assert!(affected(engine.view(), &joining()).everything);
    engine.update(joining());
    assert_eq!(affected(engine.view(), &joining()), Affected::default(), "they were joined already");
}
