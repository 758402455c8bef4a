//! Requests to Ladon's Neutron API that several benchmarks make: where its collections are, what is asked for, and what makes it.
//!
//! The shapes are those of the Neutron API reference. What [`subnet`], [`port`] and [`ingress`] return are an object's fields alone, for
//! bulk requests have lists of them; [`named`], [`in_groups`] and [`interface`] are whole bodies. Deliberately *not* here: requests that
//! only one benchmark makes, bad ones among them.

use anyhow::{Context, Result};
use demo::id;
use serde::Serialize;
use serde_json::{Value, json};

use crate::http::Client;

pub const NETWORKS: &str = "/v2.0/networks";
pub const SUBNETS: &str = "/v2.0/subnets";
pub const ROUTERS: &str = "/v2.0/routers";
pub const PORTS: &str = "/v2.0/ports";
pub const GROUPS: &str = "/v2.0/security-groups";
pub const RULES: &str = "/v2.0/security-group-rules";

/// The owner of a virtual machine's port.
pub const VIRTUAL_MACHINE: &str = "compute:nova";
/// The owner of a pod's port.
pub const POD: &str = "ladon:pod";

/// Ports of one bulk request.
pub const BULK: usize = 250;

/// Makes or renames an object of this kind.
pub fn named(kind: &str, name: &str) -> Value {
    json!({ kind: {"name": name} })
}

/// An IPv4 subnet.
pub fn subnet(network: &str, cidr: &str) -> Value {
    json!({"network_id": network, "ip_version": 4, "cidr": cidr})
}

/// A port on a host.
pub fn port(network: &str, groups: impl Serialize, host: &str, owner: &str) -> Value {
    json!({"network_id": network, "security_groups": groups, "binding:host_id": host, "device_owner": owner})
}

/// Changes the security groups of a port.
pub fn in_groups(groups: impl Serialize) -> Value {
    json!({"port": {"security_groups": groups}})
}

/// The subnet that becomes one of a router's, or ceases to be.
pub fn interface(subnet: &str) -> Value {
    json!({"subnet_id": subnet})
}

/// Where an interface of a router is added.
pub fn add_interface(router: &str) -> String {
    format!("{ROUTERS}/{router}/add_router_interface")
}

/// Where an interface of a router is removed.
pub fn remove_interface(router: &str) -> String {
    format!("{ROUTERS}/{router}/remove_router_interface")
}

/// Fields of a rule.
type Fields = Vec<(&'static str, Value)>;

/// A rule of a security group that lets in over IPv4 what all of `only` say.
pub fn ingress(group: &str, only: &[Fields]) -> Value {
    let mut rule = json!({"security_group_id": group, "direction": "ingress", "ethertype": "IPv4"});
    for (field, value) in only.iter().flatten() {
        rule[*field] = value.clone();
    }
    rule
}

/// What members of a group send.
pub fn from_group(group: &str) -> Fields {
    vec![("remote_group_id", json!(group))]
}

/// TCP to one port.
pub fn tcp(port: usize) -> Fields {
    vec![("protocol", json!("tcp")), ("port_range_min", json!(port)), ("port_range_max", json!(port))]
}

pub fn icmp() -> Fields {
    vec![("protocol", json!("icmp"))]
}

/// Makes a network with one subnet; their ids.
pub fn make_network(client: &mut Client, number: usize, cidr: &str) -> Result<(String, String)> {
    let network = client.create(NETWORKS, &named("network", &format!("net{number}")))?;
    let network = id(&network["network"]);
    let subnet = client.create(SUBNETS, &json!({"subnet": subnet(network, cidr)}))?;
    Ok((network.into(), id(&subnet["subnet"]).into()))
}

/// Makes a router; its id.
pub fn make_router(client: &mut Client, name: &str) -> Result<String> {
    let made = client.create(ROUTERS, &named("router", name))?;
    Ok(id(&made["router"]).into())
}

/// Makes a security group; its id.
pub fn make_group(client: &mut Client, name: &str) -> Result<String> {
    let made = client.create(GROUPS, &named("security_group", name))?;
    Ok(id(&made["security_group"]).into())
}

/// Makes a rule; its id.
pub fn make_rule(client: &mut Client, rule: &Value) -> Result<String> {
    let made = client.create(RULES, &json!({"security_group_rule": rule}))?;
    Ok(id(&made["security_group_rule"]).into())
}

/// Makes ports, [`BULK`] of them with each request; their ids.
pub fn make_ports(client: &mut Client, ports: &[Value]) -> Result<Vec<String>> {
    let mut made = Vec::new();
    for some in ports.chunks(BULK) {
        let document = client.create(PORTS, &json!({ "ports": some }))?;
        made.extend(document["ports"].as_array().context("a list of ports")?.iter().map(|port| id(port).to_string()));
    }
    Ok(made)
}

/// The port is, besides the first of the groups that it has, in this one.
pub fn join(client: &mut Client, port: &Value, group: &str) -> Result<()> {
    let groups = json!([port["security_groups"][0], group]);
    client.update(&format!("{PORTS}/{}", id(port)), &in_groups(groups)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_lets_in_what_all_parts_say() {
        let rule = ingress("g", &[from_group("h"), tcp(80)]);
        let expected = json!({"security_group_id": "g", "direction": "ingress", "ethertype": "IPv4", "remote_group_id": "h",
            "protocol": "tcp", "port_range_min": 80, "port_range_max": 80});
        assert_eq!(rule, expected);
    }
}
