use model::{AddressPair, Mac, NodeName, Port, Route, Router, owner};

use super::APP;
use crate::testing::*;
use crate::{App, Change, Engine, Numbers};

/// The pod network with a router on it, and the port of a machine that has two underlay addresses and a prefix besides.
fn world() -> Vec<Change> {
    let pair = |ip: &str| AddressPair { ip: ip.parse().unwrap(), mac: Mac::from_bits(0x0a00_0000_0064) };
    let machine = Port {
        device_owner: owner::NODE.into(),
        host: Some(NodeName("n1".into())),
        address_pairs: vec![pair("192.0.2.11/32"), pair("2001:db8::11/128"), pair("198.51.100.0/24")],
        ..port("n1", 100, "pods", &[("four", "10.244.0.9"), ("six", "fd00:244::9")])
    };
    vec![
        here("here", "192.0.2.12"),
        put(network("pods", 7)),
        put(subnet("four", "pods", "10.244.0.0/16")),
        put(subnet("six", "pods", "fd00:244::/64")),
        put(router("r", 5)),
        put(interface("r4", 201, "pods", "r", &[("four", "10.244.0.1")])),
        put(interface("r6", 202, "pods", "r", &[("six", "fd00:244::1")])),
        put(machine),
    ]
}

/// The routes by way of a next hop, in names.
fn ways(engine: &Engine) -> Vec<String> {
    let mut ways: Vec<String> = engine.flows().map(|flow| flow.to_string()).filter(|flow| flow.contains("next_hop")).collect();
    ways.retain(|flow| {
        flow.starts_with("Route ") && (flow.contains("192.0.2.11") || flow.contains("2001:db8::11") || flow.contains("198.51"))
    });
    ways.sort();
    ways
}

fn engine(changes: Vec<Change>) -> Engine {
    static APPS: &[&App] = &[&APP];
    let mut engine = Engine::new(APPS, Numbers::default());
    engine.update(changes);
    engine
}

#[test]
fn a_machines_underlay_addresses_lead_to_its_port_and_no_router_lists_them() {
    let engine = engine(world());
    let ways = ways(&engine);
    assert_eq!(ways.len(), 2, "{ways:#?}");
    assert!(ways[0].contains("ipv6_dst=2001:db8::11,") && ways[0].contains("next_hop6:=fd00:244::9,"), "{ways:#?}");
    assert!(ways[1].contains("ip_dst=192.0.2.11,") && ways[1].contains("next_hop:=10.244.0.9,"), "{ways:#?}");
}

#[test]
fn an_interface_that_is_down_leads_no_extra_route_and_hides_none() {
    let route = |destination: &str, nexthop: &str| Route { destination: destination.parse().unwrap(), nexthop: nexthop.parse().unwrap() };
    let down = Port { is_admin_up: false, ..interface("down", 203, "other", "r", &[("down", "10.9.0.1")]) };
    let mut engine = engine(world());
    engine.update(vec![put(network("other", 8)), put(subnet("down", "other", "10.9.0.0/24")), put(down)]);
    let routes = vec![route("203.0.113.0/24", "10.9.0.7"), route("10.9.0.0/24", "10.244.0.77")];
    engine.update(vec![put(Router { routes, ..router("r", 5) })]);
    let flows: Vec<String> = engine.flows().map(|flow| flow.to_string()).filter(|flow| flow.starts_with("Route ")).collect();
    assert!(flows.iter().all(|flow| !flow.contains("203.0.113.0")), "{flows:#?}");
    assert!(flows.iter().any(|flow| flow.contains("10.9.0.0") && flow.contains("next_hop:=10.244.0.77")), "{flows:#?}");
}

#[test]
fn a_routers_own_route_comes_before_a_machines_address() {
    let route = Route { destination: "192.0.2.11/32".parse().unwrap(), nexthop: "10.244.0.77".parse().unwrap() };
    let mut engine = engine(world());
    engine.update(vec![put(Router { routes: vec![route], ..router("r", 5) })]);
    assert_eq!(engine.conflicts().count(), 0);
    let ways = ways(&engine);
    assert!(ways.iter().any(|way| way.contains("10.244.0.77")) && ways.iter().all(|way| !way.contains("10.244.0.9")), "{ways:#?}");
}

#[test]
fn address_pairs_of_an_ordinary_port_are_no_routes() {
    let mut changes = world();
    changes.pop();
    let pairs = vec![AddressPair { ip: "192.0.2.11/32".parse().unwrap(), mac: Mac::from_bits(0x0a00_0000_0064) }];
    changes.push(put(Port {
        host: Some(NodeName("n1".into())),
        address_pairs: pairs,
        ..port("vm", 100, "pods", &[("four", "10.244.0.9")])
    }));
    assert_eq!(ways(&engine(changes)), Vec::<String>::new());
}
