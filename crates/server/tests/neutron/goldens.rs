//! Answers have the shape of a real Neutron's (2025.1): status, keys, and the type of every value.
//!
//! The samples are requests to a real server and what it answered. A key that Neutron has and Ladon has not must be on the
//! list of what is not served; a key of Ladon's own must be on the other list.

use serde_json::{Map, Value, json};

use crate::api::{Api, id};

/// Attributes of extensions that are not served.
const NOT_SERVED: &[&str] = &[
    "qos_policy_id",
    "qos_network_policy_id",
    "dns_domain",
    "dns_name",
    "dns_assignment",
    "dns_publish_fixed_ip",
    "is_default",
    "availability_zone_hints",
    "availability_zones",
    "ipv4_address_scope",
    "ipv6_address_scope",
    "l2_adjacency",
    "service_types",
    "segment_id",
    "propagate_uplink_status",
    "device_profile",
    "numa_affinity_policy",
    "data_plane_status",
    "resource_request",
    "ip_allocation",
    "distributed",
    "ha",
    "ha_vr_id",
    "flavor_id",
    "conntrack_helpers",
    "enable_ndp_proxy",
    "gw_port_id",
    "enable_default_route_ecmp",
    "enable_default_route_bfd",
    "stateful",
    "shared",
    "remote_address_group_id",
    "standard_attr_id",
    "bound_drivers",
];
/// Attributes that real answers leave out now and then, and Ladon's own.
const OWN: &[&str] = &["ladon:flooding", "ladon:conflicts", "project_id", "tags", "bridge_name", "datapath_type"];

/// Subnets of external networks have the key on a real server.
const SUBNET_NOT_SERVED: &[&str] = &["router:external"];

fn sample(name: &str) -> Value {
    let path = format!("{}/tests/neutron/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))).unwrap()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Every way in which `own` differs in shape from Neutron's answer.
fn differences(at: &str, own: &Value, real: &Value) -> Vec<String> {
    match (own, real) {
        (Value::Null, _) | (_, Value::Null) => Vec::new(),
        // The details of an unbound port, of which a bound one has more.
        (Value::Object(_), Value::Object(real)) if real.is_empty() => Vec::new(),
        (Value::Object(own), Value::Object(real)) => key_differences(at, own, real),
        (Value::Array(own), Value::Array(real)) => match (own.first(), real.first()) {
            (Some(own), Some(real)) => differences(&format!("{at}[]"), own, real),
            _ => Vec::new(),
        },
        (own, real) if kind(own) != kind(real) => vec![format!("{at}: {} where Neutron has {}", kind(own), kind(real))],
        _ => Vec::new(),
    }
}

fn key_differences(at: &str, own: &Map<String, Value>, real: &Map<String, Value>) -> Vec<String> {
    let is_missing =
        |key: &&String| !own.contains_key(*key) && !NOT_SERVED.contains(&key.as_str()) && !SUBNET_NOT_SERVED.contains(&key.as_str());
    let is_extra = |key: &&String| !real.contains_key(*key) && !OWN.contains(&key.as_str());
    let missing = real.keys().filter(is_missing).map(|key| format!("{at}.{key} is missing"));
    let extra = own.keys().filter(is_extra).map(|key| format!("{at}.{key} is not Neutron's"));
    let inside = own.iter().filter_map(|(key, own)| Some(differences(&format!("{at}.{key}"), own, real.get(key)?)));
    missing.chain(extra).chain(inside.flatten()).collect()
}

/// Sends a sample's request, with other words for its ids, and compares the answer's shape.
async fn compare(api: &Api, name: &str, method: &str, path: &str, body: Value) -> Value {
    let sample = sample(name);
    let answer = api.call(method, path, body).await;
    assert_eq!(answer.status.as_u16(), sample["status"].as_u64().unwrap() as u16, "{name}: {answer:?}");
    let own_type = &answer.body["NeutronError"]["type"];
    assert_eq!(own_type, &sample["body"]["NeutronError"]["type"], "{name}: {answer:?}");
    assert_eq!(differences(name, &answer.body, &sample["body"]), Vec::<String>::new(), "{}", answer.body);
    answer.body
}

#[tokio::test]
async fn networks_and_subnets_look_like_neutrons() {
    let api = Api::new();
    let network = compare(&api, "006-net-create", "POST", "networks", json!({"network": {"name": "g1"}})).await;
    let network = id(&network["network"]);
    compare(&api, "008-net-bulk", "POST", "networks", json!({"networks": [{"name": "a"}, {"name": "b"}]})).await;
    compare(&api, "009-net-show", "GET", &format!("networks/{network}"), Value::Null).await;
    let v4 = json!({"network_id": network, "ip_version": 4, "cidr": "10.9.0.0/24", "name": "gs", "dns_nameservers": ["8.8.8.8"],
        "host_routes": [{"destination": "10.99.0.0/16", "nexthop": "10.9.0.9"}]});
    let subnet = compare(&api, "010-subnet-create", "POST", "subnets", json!({"subnet": v4})).await;
    let real = &sample("010-subnet-create")["body"]["subnet"];
    for key in ["gateway_ip", "allocation_pools", "cidr", "host_routes", "dns_nameservers", "enable_dhcp"] {
        assert_eq!(subnet["subnet"][key], real[key], "{key}");
    }
    let v6 = json!({"network_id": network, "ip_version": 6, "cidr": "fd00:9::/64", "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"});
    let subnet = compare(&api, "011-subnet6-create", "POST", "subnets", json!({"subnet": v6})).await;
    let real = &sample("011-subnet6-create")["body"]["subnet"];
    assert_eq!((&subnet["subnet"]["gateway_ip"], &subnet["subnet"]["allocation_pools"]), (&real["gateway_ip"], &real["allocation_pools"]));
    let overlap = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.9.0.0/25"}});
    let refused = compare(&api, "012-subnet-overlap", "POST", "subnets", overlap).await;
    let message = format!(
        "Invalid input for operation: Requested subnet with cidr: 10.9.0.0/25 for network: {network} overlaps with another subnet."
    );
    assert_eq!(refused["NeutronError"]["message"], message);
    compare(&api, "051-tags", "PUT", &format!("networks/{network}/tags"), json!({"tags": ["x", "y"]})).await;
}

#[tokio::test]
async fn ports_look_like_neutrons() {
    let api = Api::new();
    let network = api.network().await;
    api.subnet(&network, "10.9.0.0/24").await;
    let body = json!({"port": {"network_id": network, "name": "gp", "allowed_address_pairs": [{"ip_address": "10.9.0.200"}],
        "extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": "1400"}]}});
    let port = compare(&api, "014-port-create", "POST", "ports", body).await;
    let path = format!("ports/{}", id(&port["port"]));
    let bind = json!({"port": {"binding:host_id": "hostA", "device_id": "11111111-2222-3333-4444-555555555555",
        "device_owner": "compute:nova", "binding:profile": {}}});
    let bound = compare(&api, "015-port-bind", "PUT", &path, bind).await;
    assert_eq!(bound["port"]["binding:vif_type"], "ovs");
    compare(
        &api,
        "027-port-ip-conflict",
        "POST",
        "ports",
        json!({"port": {"network_id": network, "fixed_ips": [{"ip_address": "10.9.0.1"}], "mac_address": "zz"}}),
    )
    .await;
    let refused = compare(&api, "028-port-404", "GET", "ports/deadbeef", Value::Null).await;
    assert_eq!(refused, sample("028-port-404")["body"]);
    let refused = compare(&api, "029-port-badattr", "POST", "ports", json!({"port": {"network_id": network, "bogus": 1}})).await;
    assert_eq!(refused, sample("029-port-badattr")["body"]);
    for _ in 0..2 {
        api.port(&network, json!({})).await;
    }
    compare(&api, "046-list-paged", "GET", "ports?limit=2&sort_key=id&sort_dir=asc", Value::Null).await;
    let filter = "ports?fixed_ips=ip_address%3D10.9.0.2&fields=id&fields=fixed_ips";
    let found = compare(&api, "047-list-filter", "GET", filter, Value::Null).await;
    assert_eq!(found["ports"].as_array().unwrap().len(), 1);
    let refused = compare(&api, "048-list-badfilter", "GET", "ports?bogus=1", Value::Null).await;
    assert_eq!(refused, sample("048-list-badfilter")["body"]);
    compare(&api, "054-net-delete-inuse", "DELETE", &format!("networks/{network}"), Value::Null).await;
}

#[tokio::test]
async fn routers_look_like_neutrons() {
    let api = Api::new();
    let network = api.network().await;
    let subnet = id(&api.subnet(&network, "10.9.0.0/24").await);
    let router = compare(&api, "030-router-create", "POST", "routers", json!({"router": {"name": "gr"}})).await;
    let path = format!("routers/{}", id(&router["router"]));
    compare(&api, "031-router-add-if", "PUT", &format!("{path}/add_router_interface"), json!({"subnet_id": subnet})).await;
    let refused =
        compare(&api, "032-router-add-if-dup", "PUT", &format!("{path}/add_router_interface"), json!({"subnet_id": subnet})).await;
    assert_eq!(refused["NeutronError"]["message"], format!("Bad router request: Router already has a port on subnet {subnet}."));
    let routes = json!({"router": {"routes": [{"destination": "10.77.0.0/16", "nexthop": "10.9.0.5"}]}});
    compare(&api, "033-router-extraroute", "PUT", &format!("{path}/add_extraroutes"), routes).await;
    compare(&api, "035-router-delete-inuse", "DELETE", &path, Value::Null).await;
}

#[tokio::test]
async fn security_groups_look_like_neutrons() {
    let api = Api::new();
    let groups = compare(&api, "036-sg-list", "GET", "security-groups", Value::Null).await;
    assert_eq!(groups["security_groups"][0]["security_group_rules"].as_array().unwrap().len(), 4);
    let group = compare(&api, "037-sg-create", "POST", "security-groups", json!({"security_group": {"name": "gsg"}})).await;
    let rule = json!({"security_group_rule": {"security_group_id": id(&group["security_group"]), "direction": "ingress",
        "protocol": "tcp", "port_range_min": 80, "port_range_max": 90, "remote_ip_prefix": "10.0.0.5/24"}});
    let made = compare(&api, "038-sgr-create", "POST", "security-group-rules", rule.clone()).await;
    let real = &sample("038-sgr-create")["body"]["security_group_rule"];
    for key in ["remote_ip_prefix", "normalized_cidr", "protocol", "ethertype", "port_range_min"] {
        assert_eq!(made["security_group_rule"][key], real[key], "{key}");
    }
    compare(&api, "039-sgr-dup", "POST", "security-group-rules", rule).await;
}

#[tokio::test]
async fn the_rest_looks_like_neutrons() {
    let api = Api::new();
    let root = api.send(&api.caller, "GET", "/", &[], Vec::new()).await;
    assert_eq!(differences("root", &root.body, &sample("001-root")["body"]), Vec::<String>::new());
    compare(&api, "002-v2", "GET", "", Value::Null).await;
    compare(&api, "004-extensions", "GET", "extensions", Value::Null).await;
    compare(&api, "005-extension", "GET", "extensions/binding", Value::Null).await;
    compare(&api, "052-if-match-412", "GET", "agents", Value::Null).await;
    let quota = api.get("quotas/p").await;
    assert_eq!((quota.status.as_u16(), &quota.body["quota"]["port"]), (200, &json!(-1)));
}

#[tokio::test]
async fn every_alias_of_neutrons_own_is_one_that_neutron_has() {
    let real = sample("004-extensions");
    let real: Vec<&str> =
        real["body"]["extensions"].as_array().unwrap().iter().filter_map(|extension| extension["alias"].as_str()).collect();
    for extension in server::neutron::EXTENSIONS {
        assert!(extension.alias.starts_with("ladon-") || real.contains(&extension.alias), "{}", extension.alias);
    }
}
