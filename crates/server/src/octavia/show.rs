//! How objects look in JSON.

use model::{Listener, ListenerProtocol, LoadBalancer, Member, Pool, PoolAlgorithm, ProjectId, Standard};
use serde_json::{Map, Value, json};

use super::PROVIDER;
use crate::State;

pub type Shown = Map<String, Value>;

/// Every write is durable and on its way to all nodes when it is answered: there is no state in between.
pub const ACTIVE: &str = "ACTIVE";

pub fn operating(is_admin_up: bool) -> &'static str {
    if is_admin_up { "ONLINE" } else { "OFFLINE" }
}

pub fn member_operating(member: &Member) -> &'static str {
    if member.is_admin_up { "NO_MONITOR" } else { "OFFLINE" }
}

pub fn protocol(protocol: ListenerProtocol) -> &'static str {
    match protocol {
        ListenerProtocol::Tcp => "TCP",
        ListenerProtocol::Udp => "UDP",
    }
}

pub fn algorithm(algorithm: PoolAlgorithm) -> &'static str {
    match algorithm {
        PoolAlgorithm::SourceIpPort => "SOURCE_IP_PORT",
        PoolAlgorithm::RoundRobin => "ROUND_ROBIN",
    }
}

fn time(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { json!(text.trim_end_matches('Z')) }
}

/// A list of `{"id": …}`.
pub fn references<I: ToString>(ids: impl Iterator<Item = I>) -> Value {
    ids.map(|id| json!({"id": id.to_string()})).collect()
}

fn object(value: Value, standard: &Standard, project: &ProjectId) -> Shown {
    let Value::Object(mut shown) = value else { return Shown::new() };
    shown.insert("provisioning_status".into(), json!(ACTIVE));
    shown.insert("created_at".into(), time(&standard.created_at));
    shown.insert("updated_at".into(), time(&standard.updated_at));
    shown.insert("tags".into(), json!(standard.tags));
    shown.insert("project_id".into(), json!(project));
    shown.insert("tenant_id".into(), json!(project));
    shown
}

pub fn balancer(state: &State, it: &LoadBalancer) -> Shown {
    let value = json!({
        "id": it.id, "name": it.name, "description": it.description, "operating_status": operating(it.is_admin_up),
        "admin_state_up": it.is_admin_up, "vip_address": it.vip, "vip_port_id": it.vip_port, "vip_subnet_id": it.vip_subnet,
        "vip_network_id": it.vip_network, "vip_sg_ids": [], "additional_vips": [], "provider": PROVIDER, "flavor_id": null,
        "vip_qos_policy_id": null, "availability_zone": null, "vip_vnic_type": "normal",
        "listeners": references(state.listeners_of(it.id).map(|listener| listener.id)),
        "pools": references(state.pools_of(it.id).map(|pool| pool.id)),
    });
    object(value, &it.standard, &it.project)
}

pub fn listener(_: &State, it: &Listener) -> Shown {
    let value = json!({
        "id": it.id, "name": it.name, "description": it.description, "operating_status": operating(it.is_admin_up),
        "admin_state_up": it.is_admin_up, "protocol": protocol(it.protocol), "protocol_port": it.port, "connection_limit": -1,
        "default_tls_container_ref": null, "sni_container_refs": [], "default_pool_id": it.default_pool, "l7policies": [],
        "insert_headers": {}, "loadbalancers": [{"id": it.load_balancer}], "timeout_client_data": 50000,
        "timeout_member_connect": 5000, "timeout_member_data": 50000, "timeout_tcp_inspect": 0,
        "client_ca_tls_container_ref": null, "client_authentication": "NONE", "client_crl_container_ref": null,
        "allowed_cidrs": null, "tls_ciphers": null, "tls_versions": null, "alpn_protocols": null, "hsts_max_age": null,
        "hsts_include_subdomains": false, "hsts_preload": false,
    });
    object(value, &it.standard, &it.project)
}

pub fn pool(state: &State, it: &Pool) -> Shown {
    let value = json!({
        "id": it.id, "name": it.name, "description": it.description, "operating_status": operating(it.is_admin_up),
        "admin_state_up": it.is_admin_up, "protocol": protocol(it.protocol), "lb_algorithm": algorithm(it.algorithm),
        "session_persistence": null, "loadbalancers": [{"id": it.load_balancer}],
        "listeners": references(state.listeners_with_pool(it.id).map(|listener| listener.id)),
        "members": references(state.members_of(it.id).map(|member| member.id)), "healthmonitor_id": null,
        "tls_container_ref": null, "ca_tls_container_ref": null, "crl_container_ref": null, "tls_enabled": false,
        "tls_ciphers": null, "tls_versions": null, "alpn_protocols": null,
    });
    let mut shown = object(value, &it.standard, &it.project);
    // Octavia leaves it out where there is none.
    shown.remove("healthmonitor_id");
    shown
}

pub fn member(_: &State, it: &Member) -> Shown {
    let value = json!({
        "id": it.id, "name": it.name, "operating_status": member_operating(it), "admin_state_up": it.is_admin_up,
        "address": it.address, "protocol_port": it.port, "weight": it.weight, "backup": false, "subnet_id": it.subnet,
        "monitor_address": null, "monitor_port": null, "vnic_type": "normal",
    });
    object(value, &it.standard, &it.project)
}

/// A load balancer with its listeners, pools and members in full, as the request that made all of them is answered.
pub fn tree(state: &State, it: &LoadBalancer) -> Shown {
    let mut shown = balancer(state, it);
    let listeners = state.listeners_of(it.id).map(|it| without(listener(state, it), &["loadbalancers"]));
    shown.insert("listeners".into(), listeners.collect());
    let pools = state.pools_of(it.id).map(|it| {
        let mut shown = without(pool(state, it), &["loadbalancers"]);
        shown.insert("members".into(), state.members_of(it.id).map(|it| member(state, it)).collect());
        shown
    });
    shown.insert("pools".into(), pools.collect());
    shown
}

fn without(mut shown: Shown, names: &[&str]) -> Shown {
    names.iter().for_each(|name| drop(shown.remove(*name)));
    shown
}

/// The status tree.
pub fn statuses(state: &State, it: &LoadBalancer) -> Value {
    let status = |id: String, name: &str, operating: &str| json!({"id": id, "name": name, "operating_status": operating, "provisioning_status": ACTIVE});
    let member = |it: &Member| {
        let mut shown = status(it.id.to_string(), &it.name, member_operating(it));
        shown["address"] = json!(it.address);
        shown["protocol_port"] = json!(it.port);
        shown
    };
    let pool = |it: &Pool| {
        let mut shown = status(it.id.to_string(), &it.name, operating(it.is_admin_up));
        shown["members"] = state.members_of(it.id).map(member).collect();
        shown
    };
    let listener = |it: &Listener| {
        let mut shown = status(it.id.to_string(), &it.name, operating(it.is_admin_up));
        shown["pools"] = it.default_pool.and_then(|id| state.pool(id)).into_iter().map(pool).collect();
        shown
    };
    let mut shown = status(it.id.to_string(), &it.name, operating(it.is_admin_up));
    shown["listeners"] = state.listeners_of(it.id).map(listener).collect();
    json!({"statuses": {"loadbalancer": shown}})
}
