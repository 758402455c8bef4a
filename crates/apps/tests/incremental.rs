//! For random edits in any order, what the engine computed step by step equals what it computes from nothing; and the cost of a
//! change does not grow with what it does not concern.

use apps::testing::*;
use apps::{ALL, Change, Engine, Numbers};
use model::*;
use pipeline::Flow;
use proptest::prelude::*;

fn sorted(engine: &Engine) -> Vec<Flow> {
    let mut flows: Vec<Flow> = engine.flows().collect();
    flows.sort();
    flows
}

/// Some change to a world of three networks, two routers, eight ports, three nodes, two groups and two load balancers.
fn edit() -> impl Strategy<Value = Change> {
    let small = 0u32..4;
    prop_oneof![
        (0u32..3, any::<bool>()).prop_map(|(n, is_flooding)| put(Network { is_flooding, ..network(&format!("net{n}"), 10 + n) })),
        (0u32..3, any::<bool>())
            .prop_map(|(n, is_dhcp)| put(Subnet { is_dhcp, ..subnet(&format!("sub{n}"), &format!("net{n}"), &format!("10.0.{n}.0/24")) })),
        (0u32..3, a_mode()).prop_map(|(n, mode)| put(a_six(n, mode))),
        (0u32..8, 0u32..3, 0u32..4, any::<bool>()).prop_map(|(p, n, home, secure)| put(a_port(p, n, home, secure))),
        (0u32..8, 1u32..9).prop_map(|(p, ofport)| attach(&format!("port{p}"), 10 * (p + 1) + ofport)),
        (0u32..8).prop_map(|p| Change::Detach(PortId(id(&format!("port{p}"))))),
        (0u32..2, 0u32..3).prop_map(|(r, n)| put(an_interface(r, n))),
        (0u32..2, any::<bool>()).prop_map(|(r, is_admin_up)| put(Router { is_admin_up, ..router(&format!("router{r}"), 1 + r) })),
        (0u32..3, 1u32..5).prop_map(|(n, last)| put(node(&format!("node{n}"), &format!("192.0.2.{last}")))),
        (0u32..2, 0u32..3).prop_map(|(b, home)| put(a_block(b, home))),
        (0u32..2).prop_map(|g| put(group(&format!("group{g}"), 1 + g))),
        (0u32..4, 0u32..2, proptest::option::of(0u32..2)).prop_map(|(r, g, remote)| put(a_rule(r, g, remote))),
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

fn a_rule(r: u32, g: u32, remote: Option<u32>) -> Rule {
    let remote_group = remote.map(|g| SecurityGroupId(id(&format!("group{g}"))));
    let direction = if r % 2 == 0 { Direction::Ingress } else { Direction::Egress };
    let base = rule(&format!("rule{r}"), &format!("group{g}"), direction, EtherType::Ipv4);
    Rule { remote_group, protocol: Some(6), range_min: Some(80), range_max: Some(80 + r as u16), ..base }
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
        Kind::SecurityGroup => format!("group{two}"),
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
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

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
            let mut deltas: Vec<Flow> = followed.into_values().collect();
            deltas.sort();
            prop_assert_eq!(sorted(&engine), deltas);
            let mut groups: (Vec<_>, Vec<_>) = (engine.groups().cloned().collect(), full.groups().cloned().collect());
            groups.0.sort_by_key(|group| group.id);
            groups.1.sort_by_key(|group| group.id);
            prop_assert_eq!(groups.0, groups.1);
        }
    }
}

/// One port more on a network of `others` ports: how much work is that?
fn work_of_one_more(others: u32) -> apps::Work {
    let mut engine = Engine::new(ALL, Numbers::default());
    let remote = |n: u32| {
        let ip = format!("10.{}.{}.{}", 1 + n / 62_500, n / 250 % 250, 1 + n % 250);
        put(Port { host: Some(NodeName("node1".into())), ..port(&format!("p{n}"), 1000 + n, "net", &[("sub", &ip)]) })
    };
    let base =
        [here("node0", "192.0.2.1"), put(node("node1", "192.0.2.2")), put(network("net", 7)), put(subnet("sub", "net", "10.0.0.0/8"))];
    engine.update(base.into_iter().chain((0..others).map(remote)));
    let before = engine.work();
    let delta = engine.update([remote(others)]);
    assert!(!delta.flows.is_empty());
    engine.work() - before
}

#[test]
fn a_port_costs_the_same_among_ten_and_among_ten_thousand() {
    assert_eq!(work_of_one_more(10), work_of_one_more(10_000));
}
