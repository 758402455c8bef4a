//! Whatever callers send, nothing panics and what must hold holds.

use std::collections::BTreeSet;

use model::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use server::State;

use crate::api::{Api, member};

/// One request, its objects chosen by number among those that exist.
#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    pick: [u8; 4],
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..22, any::<[u8; 4]>()).prop_map(|(kind, pick)| Step { kind, pick });
    proptest::collection::vec(step, 1..80)
}

/// The id of some object of a kind, or of none.
fn some(state: &State, kind: Kind, pick: u8) -> String {
    let ids: Vec<String> = state.objects().filter(|object| object.kind() == kind).map(|object| object.key().id.to_string()).collect();
    if ids.is_empty() { uuid::Uuid::nil().to_string() } else { ids[usize::from(pick) % ids.len()].clone() }
}

fn cidr(pick: u8) -> (u8, &'static str) {
    [(4, "10.0.0.0/29"), (4, "10.0.0.0/24"), (4, "10.1.0.0/18"), (6, "fd00::/64"), (6, "fd01::/64"), (6, "fd02::/96")]
        [usize::from(pick) % 6]
}

fn address(pick: u8) -> String {
    [format!("10.0.0.{}", pick % 12), format!("10.1.0.{pick}"), format!("fd00::{pick:x}")][usize::from(pick) % 3].clone()
}

fn request(state: &State, step: &Step) -> (&'static str, String, Value) {
    let [a, b, c, d] = step.pick;
    let of = |kind, pick| some(state, kind, pick);
    let (network, subnet, port) = (of(Kind::Network, a), of(Kind::Subnet, b), of(Kind::Port, b));
    let (router, group, rule) = (of(Kind::Router, a), of(Kind::SecurityGroup, c), of(Kind::Rule, b));
    let fixed = json!([{"ip_address": address(c)}]);
    let slaac = if d % 2 == 0 { Value::Null } else { json!("slaac") };
    match step.kind {
        0 => ("POST", "networks".into(), json!({"network": {"name": "n", "shared": d % 2 == 0}})),
        1 => ("DELETE", format!("networks/{network}"), Value::Null),
        2 | 3 => {
            let (version, cidr) = cidr(b);
            let mut subnet = json!({"network_id": network, "ip_version": version, "cidr": cidr});
            if version == 6 && cidr.ends_with("/64") {
                subnet["ipv6_ra_mode"] = slaac.clone();
                subnet["ipv6_address_mode"] = slaac;
            }
            ("POST", "subnets".into(), json!({"subnet": subnet}))
        }
        4 => ("DELETE", format!("subnets/{subnet}"), Value::Null),
        5 | 6 => ("POST", "ports".into(), json!({"port": {"network_id": network, "device_id": "d"}})),
        7 => ("POST", "ports".into(), json!({"port": {"network_id": network, "fixed_ips": fixed}})),
        8 | 9 => {
            let host = format!("n{}", b % 3);
            ("POST", "ports".into(), json!({"port": {"network_id": network, "device_owner": "ladon:pod", "binding:host_id": host}}))
        }
        10 => ("DELETE", format!("ports/{port}"), Value::Null),
        11 => ("PUT", format!("ports/{port}"), json!({"port": {"fixed_ips": fixed}})),
        12 => ("PUT", format!("ports/{port}"), json!({"port": {"binding:host_id": format!("n{}", c % 3)}})),
        13 => ("PUT", format!("ports/{port}"), json!({"port": {"mac_address": format!("fa:16:3e:00:00:0{}", c % 8)}})),
        14 => ("PUT", format!("ports/{port}"), json!({"port": {"security_groups": [group], "port_security_enabled": d % 3 > 0}})),
        15 => ("POST", "routers".into(), json!({"router": {"name": "r"}})),
        16 => ("PUT", format!("routers/{router}/add_router_interface"), json!({"subnet_id": subnet})),
        17 => ("PUT", format!("routers/{router}/remove_router_interface"), json!({"subnet_id": subnet})),
        18 => ("PUT", format!("routers/{router}/add_router_interface"), json!({"port_id": port})),
        19 => ("DELETE", format!("routers/{router}"), Value::Null),
        20 => ("POST", "security-groups".into(), json!({"security_group": {"name": "g"}})),
        _ if d % 3 == 0 => ("DELETE", format!("security-groups/{group}"), Value::Null),
        _ if d % 3 == 1 => ("DELETE", format!("security-group-rules/{rule}"), Value::Null),
        _ => (
            "POST",
            "security-group-rules".into(),
            json!({"security_group_rule": {"security_group_id": group, "direction": "ingress", "remote_group_id": of(Kind::SecurityGroup, a)}}),
        ),
    }
}

/// What must hold after every request.
fn check(state: &State) {
    let (mut ips, mut macs, mut keys) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for port in state.all::<Port>() {
        let network = state.network(port.network).expect("a port's network exists");
        assert!(macs.insert((network.id, port.mac)), "{} twice", port.mac);
        assert!(keys.insert(port.key), "port key {} twice", port.key);
        for fixed in &port.fixed_ips {
            assert!(ips.insert((network.id, fixed.ip)), "{} twice", fixed.ip);
            let subnet = state.subnet(fixed.subnet).expect("an address's subnet exists");
            assert!(subnet.network == network.id && subnet.cidr.contains(&fixed.ip));
        }
        assert!(port.security_groups.iter().all(|group| state.group(*group).is_some()));
        assert!(port.security_groups.is_empty() || port.is_port_security);
        if let Some(block) = port.block {
            let block = state.block(block).expect("a port's block exists");
            assert!(port.addresses().all(|ip| block.contains(ip)) && port.host.as_ref() == Some(&block.node));
        }
        assert!(!port.is_router_interface() || port.router().is_some_and(|router| state.router(router).is_some()));
    }
    for subnet in state.all::<Subnet>() {
        let others = state.subnets_of(subnet.network).filter(|other| other.id != subnet.id);
        others.for_each(|other| assert!(!other.cidr.contains(&subnet.cidr), "{} in {}", subnet.cidr, other.cidr));
        assert!(state.network(subnet.network).is_some());
    }
    for router in state.all::<Router>() {
        let cidrs: Vec<ipnet::IpNet> =
            state.interfaces_of(router.id).flat_map(|port| &port.fixed_ips).map(|fixed| state.subnet(fixed.subnet).unwrap().cidr).collect();
        for (at, cidr) in cidrs.iter().enumerate() {
            assert!(cidrs[..at].iter().all(|other| !other.contains(cidr) && !cidr.contains(other)));
        }
    }
    assert!(
        state
            .all::<Rule>()
            .all(|rule| state.group(rule.group).is_some() && rule.remote_group.is_none_or(|group| state.group(group).is_some()))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_requests_breaks_what_must_hold(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let api = Api::new();
            for (at, step) in steps.iter().enumerate() {
                let (method, path, body) = request(&api.world.core.state(), step);
                let caller = if at % 5 == 4 { member("b") } else { api.caller.clone() };
                let answer = api.call_as(&caller, method, &path, body.clone()).await;
                assert!(answer.status.as_u16() < 500, "{method} {path} {body}: {answer:?}");
                check(&api.world.core.state());
            }
        });
    }

    #[test]
    fn no_json_makes_the_server_fail(body in json_value(), path in "(networks|subnets|ports|routers|security-groups|security-group-rules)", wrap in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let api = Api::new();
            let name = path.trim_end_matches('s').replace('-', "_");
            let body = if wrap { json!({name: body}) } else { body };
            let answer = api.post(&path, body).await;
            assert!(answer.status.as_u16() < 500, "{answer:?}");
        });
    }
}

/// JSON with the API's own words in it.
fn json_value() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "name",
        "network_id",
        "cidr",
        "ip_version",
        "gateway_ip",
        "allocation_pools",
        "fixed_ips",
        "ip_address",
        "subnet_id",
        "mac_address",
        "allowed_address_pairs",
        "extra_dhcp_opts",
        "opt_name",
        "opt_value",
        "host_routes",
        "destination",
        "nexthop",
        "dns_nameservers",
        "security_groups",
        "routes",
        "protocol",
        "port_range_min",
        "direction",
        "ethertype",
        "remote_ip_prefix",
        "tags",
        "binding:profile",
        "mtu",
        "shared",
        "start",
        "end",
        "description",
        "admin_state_up",
        "security_group_id",
    ]);
    let text = prop_oneof![
        prop::sample::select(vec!["10.0.0.0/24", "10.0.0.1", "fd00::/64", "::", "ff:ff:ff:ff:ff:ff", "ingress", "tcp", "65536", "-1", ""])
            .prop_map(str::to_string),
        ".*",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 64, 6, move |inner| {
        let keys = prop_oneof![4 => word.clone().prop_map(str::to_string), 1 => ".{0,4}"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(keys, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
