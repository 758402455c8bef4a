//! The flows of one small world, app by app, in names. `LADON_BLESS=1 cargo test --release -p apps --test golden` rewrites
//! the files; read the difference before committing it.

use std::path::Path;

use apps::testing::*;
use apps::{App, Change, Engine, Numbers};
use model::*;
use pipeline::{Flow, Group};

/// A network with a block of another node, a VM here and one on another node, and a router to a second network.
fn world() -> Vec<Change> {
    let shape = |shape| vec![V6Range { subnet: SubnetId(id("six")), prefix: "fd00:244::/64".parse().unwrap(), shape }];
    let vm = Port {
        address_pairs: vec![
            AddressPair { ip: "10.244.0.200/32".parse().unwrap(), mac: Mac::from_bits(0x0a00_0000_0064) },
            AddressPair { ip: "10.244.0.201/32".parse().unwrap(), mac: "00:00:5e:00:01:07".parse().unwrap() },
        ],
        security_groups: vec![SecurityGroupId(id("web"))],
        host: Some(NodeName("here".into())),
        ..port("vm", 100, "blue", &[("four", "10.244.0.10"), ("six", "fd00:244::10")])
    };
    let far = Port {
        host: Some(NodeName("there".into())),
        address_pairs: vec![AddressPair { ip: "10.244.0.201/32".parse().unwrap(), mac: "00:00:5e:00:01:07".parse().unwrap() }],
        security_groups: vec![SecurityGroupId(id("db"))],
        ..port("far", 101, "blue", &[("four", "10.244.0.11"), ("six", "fd00:244::11")])
    };
    let trusted = Port { is_port_security: false, host: vm.host.clone(), ..port("trusted", 102, "red", &[("red4", "10.9.0.5")]) };
    let route = Route { destination: "192.0.2.12/32".parse().unwrap(), nexthop: "10.244.0.11".parse().unwrap() };
    let from_db = Rule {
        remote_group: Some(SecurityGroupId(id("db"))),
        protocol: Some(6),
        range_min: Some(8080),
        range_max: Some(8081),
        ..rule("from db", "web", Direction::Ingress, EtherType::Ipv4)
    };
    let ping = Rule {
        protocol: Some(1),
        range_min: Some(8),
        remote_prefix: Some("10.0.0.0/8".parse().unwrap()),
        ..rule("ping", "web", Direction::Ingress, EtherType::Ipv4)
    };
    vec![
        here("here", "192.0.2.11"),
        put(node("there", "192.0.2.12")),
        put(network("blue", 7)),
        put(Network { is_flooding: false, ..network("red", 8) }),
        put(subnet("four", "blue", "10.244.0.0/16")),
        put(subnet("six", "blue", "fd00:244::/64")),
        put(subnet("red4", "red", "10.9.0.0/24")),
        put(Router { routes: vec![route], ..router("r", 5) }),
        put(interface("r-blue", 201, "blue", "r", &[("four", "10.244.0.1"), ("six", "fd00:244::1")])),
        put(interface("r-red", 202, "red", "r", &[("red4", "10.9.0.1")])),
        put(block("blue", "there", "four", "10.244.3.64/26", shape(V6Shape::Embedded))),
        put(block("blue", "here", "four", "10.244.3.128/26", shape(V6Shape::Eui64))),
        put(group("web", 1)),
        put(group("db", 2)),
        put(from_db),
        put(ping),
        put(rule("out", "web", Direction::Egress, EtherType::Ipv6)),
        put(vm),
        put(far),
        put(trusted),
        attach("vm", 11),
        attach("trusted", 12),
    ]
}

/// The same with a VIP on the network of the VM and one behind the router, and a router that announces an IPv6 subnet.
fn balanced_world() -> Vec<Change> {
    let near = vip("near", 301, "blue", &[("four", "10.244.0.99")]);
    let far = vip("far", 302, "red", &[("red4", "10.9.0.99")]);
    let (tcp, udp) = (ListenerProtocol::Tcp, ListenerProtocol::Udp);
    let announced =
        Subnet { ra_mode: Some(Ipv6Mode::Stateless), address_mode: Some(Ipv6Mode::Stateless), ..subnet("six", "blue", "fd00:244::/64") };
    let more = [
        put(announced),
        put(balancer("near", &near)),
        put(balancer("far", &far)),
        put(near),
        put(far),
        put(pool("near pool", "near", tcp)),
        put(listener("near listener", 1, "near", tcp, 80, "near pool")),
        put(member("itself", "near pool", "10.244.0.10", 8080, 1)),
        put(member("heavy", "near pool", "10.244.0.11", 8080, 2)),
        put(pool("far pool", "far", udp)),
        put(listener("far listener", 2, "far", udp, 53, "far pool")),
        put(member("draining", "far pool", "10.9.0.5", 5353, 0)),
        put(member("serving", "far pool", "10.9.0.6", 5353, 1)),
        put(listener("empty listener", 3, "far", tcp, 53, "no pool")),
    ];
    world().into_iter().chain(more).collect()
}

fn check(app: &'static [&'static App; 1]) {
    check_in(app, world());
}

fn check_in(app: &'static [&'static App; 1], world: Vec<Change>) {
    let mut engine = Engine::new(app, Numbers::default());
    engine.update(world);
    assert_eq!(engine.conflicts().map(|conflict| conflict.to_string()).collect::<Vec<_>>(), Vec::<String>::new());
    let mut flows: Vec<Flow> = engine.flows().collect();
    flows.sort();
    assert_eq!(flows.iter().filter_map(Flow::misuse).collect::<Vec<_>>(), []);
    let mut groups: Vec<Group> = engine.groups().cloned().collect();
    groups.sort_by_key(|group| group.id);
    let groups = groups.iter().map(|group| format!("{group}\n"));
    let text: String = flows.iter().map(|flow| format!("{flow}\n")).chain(groups).collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{}.txt", app[0].name));
    if std::env::var_os("LADON_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, golden, "the flows of {} differ from {}", app[0].name, file.display());
}

#[test]
fn classify_in_names() {
    check(&[&apps::classify::APP]);
}

#[test]
fn spoof_guard_in_names() {
    check(&[&apps::spoof::APP]);
}

#[test]
fn neighbours_in_names() {
    check(&[&apps::neighbours::APP]);
}

#[test]
fn security_in_names() {
    check(&[&apps::security::APP]);
}

#[test]
fn routing_in_names() {
    check(&[&apps::routing::APP]);
}

#[test]
fn switching_in_names() {
    check(&[&apps::l2::APP]);
}

#[test]
fn host_config_in_names() {
    check_in(&[&apps::host_config::APP], balanced_world());
}

#[test]
fn balancing_in_names() {
    check_in(&[&apps::balancing::APP], balanced_world());
}
