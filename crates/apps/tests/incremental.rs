//! For random edits in any order, what the engine computed step by step equals what it computes from nothing; and the cost of a
//! change does not grow with what it does not concern.

use apps::testing::*;
use apps::{ALL, Change, Engine, Numbers, Work};
use model::*;
use pipeline::{Action, Flow};
use proptest::prelude::*;

fn sorted(engine: &Engine) -> Vec<Flow> {
    let mut flows: Vec<Flow> = engine.flows().collect();
    flows.sort();
    flows
}

/// Some change to a world of three networks, two routers, eight ports, three nodes, three groups and two load balancers.
fn edit() -> impl Strategy<Value = Change> {
    let small = 0u32..4;
    prop_oneof![
        (0u32..3, any::<bool>()).prop_map(|(n, is_flooding)| put(Network { is_flooding, ..network(&format!("net{n}"), 10 + n) })),
        (0u32..3, any::<bool>())
            .prop_map(|(n, is_dhcp)| put(Subnet { is_dhcp, ..subnet(&format!("sub{n}"), &format!("net{n}"), &format!("10.0.{n}.0/24")) })),
        (0u32..3, a_mode()).prop_map(|(n, mode)| put(a_six(n, mode))),
        (0u32..8, 0u32..3, 0u32..4, any::<bool>()).prop_map(|(p, n, home, secure)| put(a_port(p, n, home, secure))),
        (0u32..8, 0u32..3, 0u32..4, a_pairing()).prop_map(|(p, n, home, pairs)| put(paired(a_port(p, n, home, true), n, &pairs))),
        (0u32..8, 0u32..2, proptest::collection::vec(0u32..3, 0..3))
            .prop_map(|(p, n, groups)| put(grouped(a_port(p, n, 1, true), &groups))),
        (0u32..8, 1u32..9).prop_map(|(p, ofport)| attach(&format!("port{p}"), 10 * (p + 1) + ofport)),
        (0u32..8).prop_map(|p| Change::Detach(PortId(id(&format!("port{p}"))))),
        (0u32..2, 0u32..3).prop_map(|(r, n)| put(an_interface(r, n))),
        (0u32..2, any::<bool>()).prop_map(|(r, is_admin_up)| put(Router { is_admin_up, ..router(&format!("router{r}"), 1 + r) })),
        (0u32..3, 1u32..5).prop_map(|(n, last)| put(node(&format!("node{n}"), &format!("192.0.2.{last}")))),
        (0u32..2, 0u32..3).prop_map(|(b, home)| put(a_block(b, home))),
        (0u32..3).prop_map(|g| put(group(&format!("group{g}"), 1 + g))),
        (0u32..4, 0u32..3, a_remote(), a_protocol()).prop_map(|(r, g, remote, protocol)| put(a_rule(r, g, remote, protocol))),
        (small.clone(), 0u32..2, prop_oneof![Just(0u16), Just(1), Just(256)]).prop_map(|(m, p, weight)| put(a_member(m, p, weight))),
        (0u32..2, 0u32..3).prop_map(|(b, n)| put(a_vip(b, n))),
        (0u32..2, 0u32..3, any::<bool>())
            .prop_map(|(b, n, is_admin_up)| put(LoadBalancer { is_admin_up, ..balancer(&format!("balancer{b}"), &a_vip(b, n)) })),
        (0u32..2, any::<bool>()).prop_map(|(b, is_admin_up)| put(a_listener(b, is_admin_up))),
        (0u32..2).prop_map(|p| put(a_pool(p))),
        (0usize..Kind::ALL.len(), 0u32..8).prop_map(|(kind, n)| Change::Remove(a_key(Kind::ALL[kind], n))),
    ]
}

fn a_mode() -> impl Strategy<Value = Option<Ipv6Mode>> {
    prop_oneof![Just(None), Just(Some(Ipv6Mode::Stateful)), Just(Some(Ipv6Mode::Stateless)), Just(Some(Ipv6Mode::Slaac))]
}

fn a_six(n: u32, mode: Option<Ipv6Mode>) -> Subnet {
    Subnet { ra_mode: mode, address_mode: mode, ..subnet(&format!("six{n}"), &format!("net{n}"), &format!("fd00:{n}::/64")) }
}

fn a_port(p: u32, n: u32, home: u32, is_port_security: bool) -> Port {
    let host = (home < 3).then(|| NodeName(format!("node{home}")));
    let security_groups = (0..p % 3).map(|g| SecurityGroupId(id(&format!("group{g}")))).collect();
    let (name, v4, v6) = (format!("port{p}"), format!("10.0.{n}.{}", 100 + p), format!("fd00:{n}::{p:x}"));
    let addresses = [(format!("sub{n}"), v4), (format!("six{n}"), v6)];
    let addresses: Vec<(&str, &str)> = addresses.iter().map(|(subnet, ip)| (subnet.as_str(), ip.as_str())).collect();
    Port { host, is_port_security, security_groups, ..port(&name, 100 + p, &format!("net{n}"), &addresses) }
}

fn an_interface(r: u32, n: u32) -> Port {
    let name = format!("interface{r}{n}");
    interface(
        &name,
        200 + 10 * r + n,
        &format!("net{n}"),
        &format!("router{r}"),
        &[(&format!("sub{n}"), &format!("10.0.{n}.{}", 1 + r)), (&format!("six{n}"), &format!("fd00:{n}::{}", 1 + r))],
    )
}

fn a_block(b: u32, home: u32) -> Block {
    let prefix = "fd00:0::/64".parse().unwrap();
    let v6 = vec![V6Range { subnet: SubnetId(id("six0")), prefix, shape: V6Shape::Embedded }];
    block("net0", &format!("node{home}"), "sub0", &format!("10.0.0.{}/26", 64 * b), v6)
}

/// Single addresses, own MAC and VRRP's, another port's address, and prefixes within each other.
const PAIRS: [(&str, Option<&str>); 7] = [
    ("10.0.0.250/32", None),
    ("10.0.0.250/32", Some("00:00:5e:00:01:07")),
    ("10.0.0.101/32", None),
    ("10.0.0.0/25", None),
    ("0.0.0.0/0", None),
    ("fd00::/64", None),
    ("fd00:0::250/128", Some("00:00:5e:00:02:07")),
];

fn a_pairing() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(0..PAIRS.len(), 0..3)
}

fn paired(port: Port, n: u32, pairs: &[usize]) -> Port {
    let pair = |at: &usize| {
        let (ip, mac) = PAIRS[*at];
        let ip = if n == 1 { ip.replace("10.0.0.", "10.0.1.") } else { ip.to_string() };
        AddressPair { ip: ip.parse().unwrap(), mac: mac.map_or(port.mac, |mac| mac.parse().unwrap()) }
    };
    Port { address_pairs: pairs.iter().map(pair).collect(), ..port }
}

fn grouped(port: Port, groups: &[u32]) -> Port {
    let groups: std::collections::BTreeSet<u32> = groups.iter().copied().collect();
    Port { security_groups: groups.iter().map(|g| SecurityGroupId(id(&format!("group{g}")))).collect(), ..port }
}

#[derive(Clone, Debug)]
enum Remote {
    Anybody,
    Group(u32),
    Prefix(&'static str),
}

fn a_remote() -> impl Strategy<Value = Remote> {
    let prefixes = prop_oneof![Just("10.0.0.0/8"), Just("10.0.0.0/24"), Just("0.0.0.0/0"), Just("fd00::/32"), Just("fd00::/64")];
    prop_oneof![2 => Just(Remote::Anybody), 3 => (0u32..3).prop_map(Remote::Group), 2 => prefixes.prop_map(Remote::Prefix)]
}

/// Protocol with the two numbers of a range.
fn a_protocol() -> impl Strategy<Value = (Option<u8>, Option<u16>, Option<u16>)> {
    prop_oneof![
        Just((None, None, None)),
        (prop_oneof![Just(6u8), Just(17)], 80u16..84, 0u16..9).prop_map(|(proto, min, more)| (Some(proto), Some(min), Some(min + more))),
        prop_oneof![Just(None), Just(Some(8)), Just(Some(128))].prop_map(|kind| (Some(1), kind, kind.map(|_| 0))),
    ]
}

fn a_rule(r: u32, g: u32, remote: Remote, (protocol, range_min, range_max): (Option<u8>, Option<u16>, Option<u16>)) -> Rule {
    let remote_group = if let Remote::Group(g) = remote { Some(SecurityGroupId(id(&format!("group{g}")))) } else { None };
    let remote_prefix: Option<ipnet::IpNet> = if let Remote::Prefix(prefix) = remote { Some(prefix.parse().unwrap()) } else { None };
    let is_v6 = remote_prefix.map_or(r == 3, |prefix| prefix.addr().is_ipv6());
    let direction = if r % 2 == 0 { Direction::Ingress } else { Direction::Egress };
    let ethertype = if is_v6 { EtherType::Ipv6 } else { EtherType::Ipv4 };
    let base = rule(&format!("rule{r}"), &format!("group{g}"), direction, ethertype);
    Rule { remote_group, remote_prefix, protocol, range_min, range_max, ..base }
}

fn a_vip(b: u32, n: u32) -> Port {
    vip(&format!("vip{b}"), 300 + b, &format!("net{n}"), &[(&format!("sub{n}"), &format!("10.0.{n}.{}", 200 + b))])
}

fn a_listener(b: u32, is_admin_up: bool) -> Listener {
    let name = format!("listener{b}");
    Listener { is_admin_up, ..listener(&name, 1 + b, &format!("balancer{b}"), ListenerProtocol::Tcp, 80, &format!("pool{b}")) }
}

fn a_pool(p: u32) -> Pool {
    pool(&format!("pool{p}"), &format!("balancer{p}"), ListenerProtocol::Tcp)
}

/// Weights 1 and 256 in one pool need more than one group.
fn a_member(m: u32, p: u32, weight: u16) -> Member {
    member(&format!("member{m}"), &format!("pool{p}"), &format!("10.0.{}.{}", m % 3, 100 + m), 8080, weight)
}

fn a_key(kind: Kind, n: u32) -> ObjectKey {
    let two = n % 2;
    let name = match kind {
        Kind::Node => return ObjectKey::new(kind, NodeName(format!("node{}", n % 3)).id()),
        Kind::Network => format!("net{}", n % 3),
        Kind::Subnet => format!("{}{}", if two == 0 { "sub" } else { "six" }, n % 3),
        Kind::Router => format!("router{two}"),
        Kind::SecurityGroup => format!("group{}", n % 3),
        Kind::Rule => format!("rule{}", n % 4),
        Kind::Block => return ObjectKey::new(kind, a_block(two, 0).id),
        Kind::Port if n < 4 => format!("port{n}"),
        Kind::Port if n == 7 => "vip0".to_string(),
        Kind::Port => format!("interface{}{}", two, n % 3),
        Kind::LoadBalancer => format!("balancer{two}"),
        Kind::Listener => format!("listener{two}"),
        Kind::Pool => format!("pool{two}"),
        Kind::Member => format!("member{}", n % 4),
    };
    ObjectKey::new(kind, id(&name))
}

proptest! {
    #[test]
    fn incremental_equals_full(batches in proptest::collection::vec(proptest::collection::vec(edit(), 1..6), 1..25)) {
        let mut engine = Engine::new(ALL, Numbers::default());
        engine.update([here("node0", "192.0.2.100")]);
        for batch in batches {
            let before: std::collections::BTreeMap<_, _> = engine.flows().map(|flow| (flow.key.clone(), flow)).collect();
            let delta = engine.update(batch);
            let mut followed = before;
            for key in &delta.removed_flows {
                prop_assert!(followed.remove(key).is_some(), "a removed flow was there");
            }
            for flow in delta.flows {
                prop_assert_ne!(followed.insert(flow.key.clone(), flow.clone()), Some(flow), "a flow in the delta changes something");
            }
            for flow in engine.flows() {
                prop_assert_eq!(flow.misuse(), None, "{}", flow);
            }
            let full = engine.recomputed();
            prop_assert_eq!(sorted(&engine), sorted(&full));
            prop_assert_eq!(engine.flow_count(), sorted(&engine).len());
            prop_assert_eq!(full.flow_count(), sorted(&full).len());
            let mut deltas: Vec<Flow> = followed.into_values().collect();
            deltas.sort();
            prop_assert_eq!(sorted(&engine), deltas);
            let mut groups: (Vec<_>, Vec<_>) = (engine.groups().cloned().collect(), full.groups().cloned().collect());
            groups.0.sort_by_key(|group| group.id);
            groups.1.sort_by_key(|group| group.id);
            prop_assert_eq!(groups.0, groups.1);
            // As when the switch has all of that: what flows need is not forgotten, or the next batch would show it.
            engine.forget_numbers();
            prop_assert_eq!(sorted(&engine), sorted(&engine.recomputed()));
        }
    }
}

#[test]
fn numbers_of_what_is_gone_are_forgotten_and_the_table_stays_small() {
    let mut engine = Engine::new(ALL, Numbers::default());
    let here_is = |groups: &[String]| {
        let security_groups = groups.iter().map(|name| SecurityGroupId(id(name))).collect();
        put(Port { host: Some(NodeName("node0".into())), security_groups, ..port("web", 100, "net", &[("sub", "10.0.0.9")]) })
    };
    let base = [here("node0", "192.0.2.1"), put(network("net", 7)), put(subnet("sub", "net", "10.0.0.0/8")), put(group("lasting", 1))];
    engine.update(base);
    engine.update([put(rule("kept", "lasting", Direction::Ingress, EtherType::Ipv4)), attach("web", 5)]);
    for n in 0..6_000 {
        let name = format!("group{n}");
        let rule = rule(&format!("rule{n}"), &name, Direction::Ingress, EtherType::Ipv4);
        engine.update([put(group(&name, 2 + n)), put(rule.clone()), here_is(&["lasting".into(), name.clone()])]);
        if engine.has_many_numbers() {
            engine.forget_numbers();
        }
        let gone = [Object::from(rule).key(), ObjectKey::new(Kind::SecurityGroup, id(&name))];
        engine.update(gone.map(Change::Remove));
        assert!(engine.numbers().len() <= 1_100, "{} numbers for one port", engine.numbers().len());
    }
    let before = sorted(&engine);
    engine.forget_numbers();
    assert!(engine.numbers().len() < 10);
    engine.update([here_is(&["lasting".into(), "other".into()])]);
    engine.update([here_is(&["lasting".into(), "group5999".into()])]);
    assert_eq!(before, sorted(&engine), "what was needed all the time has the same number");
}

/// One port more on a network of `others` ports: how much work is that?
fn work_of_one_more(others: u32) -> Work {
    let remote = |n: u32| {
        let ip = format!("10.{}.{}.{}", 1 + n / 62_500, n / 250 % 250, 1 + n % 250);
        put(Port { host: Some(NodeName("node1".into())), ..port(&format!("p{n}"), 1000 + n, "net", &[("sub", &ip)]) })
    };
    work_of(others, remote)
}

fn ground() -> Vec<Change> {
    vec![
        here("node0", "192.0.2.1"),
        put(node("node1", "192.0.2.2")),
        put(Network { is_flooding: false, ..network("net", 7) }),
        put(subnet("sub", "net", "10.0.0.0/8")),
    ]
}

/// The work of the last of `others + 1` things.
fn work_of(others: u32, one: impl Fn(u32) -> Change) -> Work {
    work_after(ground(), others, one)
}

fn work_after(ground: Vec<Change>, others: u32, one: impl Fn(u32) -> Change) -> Work {
    let mut engine = Engine::new(ALL, Numbers::default());
    engine.update(ground.into_iter().chain((0..others).map(&one)));
    let before = engine.work();
    let delta = engine.update([one(others)]);
    assert!(!delta.flows.is_empty());
    engine.work() - before
}

#[test]
fn a_port_costs_the_same_among_ten_and_among_ten_thousand() {
    assert_eq!(work_of_one_more(10), work_of_one_more(10_000));
}

fn member_of(n: u32, groups: &[&str]) -> Port {
    let ip = format!("10.1.{}.{}", n / 250, 1 + n % 250);
    let security_groups = groups.iter().map(|group| SecurityGroupId(id(group))).collect();
    Port { host: Some(NodeName("node1".into())), security_groups, ..port(&format!("p{n}"), 1000 + n, "net", &[("sub", &ip)]) }
}

/// A port here in the group `own`, whose one rule lets in the group `web`.
fn one_that_asks() -> Vec<Change> {
    let asks = Rule { remote_group: Some(SecurityGroupId(id("web"))), ..rule("asks", "own", Direction::Ingress, EtherType::Ipv4) };
    let own = Port { host: Some(NodeName("node0".into())), ..member_of(60_000, &["own"]) };
    [ground(), vec![put(group("web", 1)), put(group("own", 2)), put(asks), put(own), attach("p60000", 11)]].concat()
}

fn clauses(engine: &Engine) -> usize {
    let is_clause = |action: &&Action| matches!(action, Action::Conjunction { .. });
    engine.flows().map(|flow| flow.actions.iter().filter(is_clause).count()).sum()
}

/// The members' other groups are nobody's business here.
#[test]
fn a_rule_costs_the_same_however_different_the_members_of_its_remote_group_are() {
    let after = |members: u32| {
        let mut engine = Engine::new(ALL, Numbers::default());
        engine.update(one_that_asks());
        let private = |n: u32| put(member_of(n, &["web", &format!("private {n}")]));
        engine.update((0..members).map(private));
        (clauses(&engine), engine.numbers().len())
    };
    assert_eq!(after(1), after(1_000));
}

#[test]
fn a_group_that_a_rule_begins_to_name_counts_and_one_that_no_rule_names_any_more_does_not() {
    let mut engine = Engine::new(ALL, Numbers::default());
    engine.update(one_that_asks());
    engine.update((0..4).map(|n| put(member_of(n, &["web", if n < 2 { "low" } else { "high" }]))));
    let (one, before) = (clauses(&engine), sorted(&engine));
    let low = Rule { remote_group: Some(SecurityGroupId(id("low"))), ..rule("low", "own", Direction::Ingress, EtherType::Ipv4) };
    engine.update([put(low.clone())]);
    assert_eq!(sorted(&engine), sorted(&engine.recomputed()));
    assert!(clauses(&engine) > one, "web now has two identities, and there is a rule more");
    engine.update([Change::Remove(ObjectKey::new(Kind::Rule, low.id))]);
    assert_eq!(sorted(&engine), before);
}

#[test]
fn a_member_of_a_named_group_costs_the_same_among_ten_and_among_ten_thousand() {
    let work = |others| work_after(one_that_asks(), others, |n| put(member_of(n, &["web"])));
    assert_eq!(work(10), work(10_000));
}

/// IPv6 rules with ports: a later fragment looks the same to all of them.
fn port_rule(n: u32) -> Change {
    let ports = Rule { protocol: Some(6), range_min: Some(1_000 + n as u16), range_max: Some(1_000 + n as u16), ..six("own", n) };
    put(ports)
}

fn six(group: &str, n: u32) -> Rule {
    rule(&format!("six {n}"), group, Direction::Ingress, EtherType::Ipv6)
}

#[test]
fn no_flow_is_too_long_for_a_message_with_five_thousand_rules_for_the_same_packets() {
    let mut engine = Engine::new(ALL, Numbers::default());
    engine.update(one_that_asks().into_iter().chain((0..5_000).map(port_rule)));
    let longest = engine.flows().map(|flow| flow.actions.len()).max().unwrap();
    assert!(longest < 1_000, "a flow with {longest} actions");
    assert_eq!(engine.conflicts().count(), 0);
}

#[test]
fn a_rule_costs_no_more_among_five_thousand_than_pages_of_clauses_are_long() {
    let work = |others| work_after(one_that_asks(), others, port_rule);
    let (few, many) = (work(10), work(5_000));
    assert_eq!((few.runs, few.reads, few.made), (many.runs, many.reads, many.made));
    assert!(many.written < 6_000, "{many:?}");
}

#[test]
fn carriers_of_one_mac_beyond_what_a_flow_holds_get_no_copy() {
    let vrrp = |n: u32| AddressPair { ip: format!("10.9.0.{n}/32").parse().unwrap(), mac: "00:00:5e:00:01:07".parse().unwrap() };
    let carrier = |n: u32| put(Port { address_pairs: vec![vrrp(1)], ..member_of(n, &[]) });
    let nodes = |n: u32| put(node(&format!("far{n}"), &format!("198.51.{}.{}", 100 + n / 250, 1 + n % 250)));
    let at = |n: u32| match carrier(n) {
        Change::Put(object) => match (*object).clone() {
            Object::Port(port) => put(Port { host: Some(NodeName(format!("far{n}"))), ..*port }),
            other => put(other),
        },
        other => other,
    };
    let mut engine = Engine::new(ALL, Numbers::default());
    engine.update(ground().into_iter().chain((0..1_500).flat_map(|n| [nodes(n), at(n)])));
    let longest = engine.flows().map(|flow| flow.actions.len()).max().unwrap();
    assert_eq!(longest, 3 * apps::l2::COPIES_MAX);
}

#[test]
fn a_broadcast_reaches_no_more_ports_here_than_a_packet_may() {
    let copies = |ports: u32| {
        let mut engine = Engine::new(ALL, Numbers::default());
        let own = |n: u32| {
            let (name, address) = (format!("own{n}"), format!("10.0.{}.{}", n / 250, 1 + n % 250));
            [put(port(&name, 100 + n, "blue", &[("v4", &address)])), attach(&name, 1_000 + n)]
        };
        let ground = [here("n1", "192.0.2.1"), put(network("blue", 7)), put(subnet("v4", "blue", "10.0.0.0/16"))];
        engine.update(ground.into_iter().chain((0..ports).flat_map(own)));
        let floods = engine.flows().map(|flow| flow.to_string()).filter(|flow| flow.starts_with("Flood"));
        floods.map(|flow| flow.matches("dst_port:=").count()).max().unwrap()
    };
    const MOST: usize = apps::l2::LOCAL_COPIES_MAX;
    assert_eq!([3, MOST, MOST + 1].map(|ports| copies(ports as u32)), [3, MOST, MOST]);
}

#[test]
fn a_block_costs_the_same_among_ten_and_among_five_hundred() {
    let work = |others| {
        work_of(others, |n| {
            let (v4, v6) = (
                format!("10.200.{}.{}/26", n / 4, n % 4 * 64),
                V6Range { subnet: SubnetId(id("six")), prefix: "fd00::/64".parse().unwrap(), shape: V6Shape::Embedded },
            );
            put(block("net", "node1", "sub", &v4, vec![v6]))
        })
    };
    assert_eq!(work(10), work(500));
}

#[test]
fn a_listener_costs_the_same_among_ten_and_among_a_thousand() {
    let ports =
        vec![put(vip("vip", 300, "net", &[("sub", "10.0.0.9")])), put(balancer("lb", &vip("vip", 300, "net", &[("sub", "10.0.0.9")])))];
    let ground =
        [one_that_asks(), ports, vec![put(pool("pool", "lb", ListenerProtocol::Tcp)), put(member("m", "pool", "10.1.0.1", 80, 1))]]
            .concat();
    let work = |others| {
        work_after(ground.clone(), others, |n| {
            put(listener(&format!("l{n}"), 1 + n, "lb", ListenerProtocol::Tcp, 1_000 + n as u16, "pool"))
        })
    };
    assert_eq!(work(10), work(1_000));
}

/// On a router without extra routes, whose next hops would have to be looked for; a load balancer is within reach. When the interface comes
/// and when it goes, its routing domain is walked once.
#[test]
fn a_router_interface_costs_the_same_among_ten_and_among_five_hundred_but_for_a_walk_through_the_domain() {
    let net = |n: u32| format!("n{n}");
    let at = |n: u32, last: u32| format!("10.{}.{}.{last}", 100 + n / 250, n % 250);
    let plug = |n: u32| put(interface(&format!("i{n}"), 5_000 + n, &net(n), "router", &[(&format!("s{n}"), &at(n, 1))]));
    let work = |others: u32| {
        let networks = (0..=others).flat_map(|n| {
            let port = Port {
                host: Some(NodeName("node1".into())),
                ..port(&format!("p{n}"), 9_000 + n, &net(n), &[(&format!("s{n}"), &at(n, 9))])
            };
            [put(network(&net(n), 1_000 + n)), put(subnet(&format!("s{n}"), &net(n), &format!("{}/24", at(n, 0)))), put(port)]
        });
        let balanced = vip("vip", 300, "n0", &[("s0", "10.100.0.9")]);
        let ground = [here("node0", "192.0.2.1"), put(node("node1", "192.0.2.2")), put(router("router", 1)), put(balanced.clone())];
        let ground = ground.into_iter().chain(networks).chain([put(balancer("lb", &balanced))]);
        let mut engine = Engine::new(ALL, Numbers::default());
        engine.update(ground.chain((0..others).map(plug)));
        let before = engine.work();
        assert!(!engine.update([plug(others)]).flows.is_empty());
        let added = engine.work() - before;
        let but_for = |walks: u64, work: Work| Work { reads: work.reads - walks * (u64::from(others) + 2), ..work };
        engine.update([Change::Remove(ObjectKey::new(Kind::Port, id(&format!("i{others}"))))]);
        assert_eq!(sorted(&engine), sorted(&engine.recomputed()));
        (but_for(1, added), but_for(2, engine.work() - before))
    };
    assert_eq!(work(10), work(500));
}

/// On a network that does not flood: where it floods, the list of copies is written anew.
#[test]
fn an_attachment_costs_the_same_among_ten_and_among_a_thousand() {
    let ground =
        [one_that_asks(), (0..1_001).map(|n| put(Port { host: Some(NodeName("node0".into())), ..member_of(n, &["own"]) })).collect()]
            .concat();
    let work = |others| work_after(ground.clone(), others, |n| attach(&format!("p{n}"), 20 + n));
    assert_eq!(work(10), work(1_000));
}
