//! A stand-in for the Ladon server: as much of Neutron and Octavia as `ladon kube` speaks, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use uuid::Uuid;

type Objects = BTreeMap<String, BTreeMap<Uuid, Value>>;
type Shared = Arc<Fake>;
type Answer = Result<Response, Response>;

#[derive(Default)]
struct Fake {
    objects: Mutex<Objects>,
    /// Name of a port that finds its network exhausted.
    unlucky: String,
}

/// The server; the port with this name cannot be made.
pub fn router(unlucky: String) -> Router {
    let neutron = Router::new()
        .route("/v2.0/{kind}", get(list).post(create))
        .route("/v2.0/{kind}/{id}", get(show).put(update).delete(remove))
        .route("/v2.0/routers/{id}/add_router_interface", put(add_interface))
        .route("/v2.0/lbaas/{kind}", get(list).post(create))
        .route("/v2.0/lbaas/{kind}/{id}", get(show).put(update).delete(remove))
        .route("/v2.0/lbaas/pools/{id}/members", get(members).put(set_members));
    neutron.with_state(Arc::new(Fake { unlucky, ..Fake::default() }))
}

fn one(kind: &str) -> String {
    kind.trim_end_matches('s').replace('-', "_")
}

fn many(kind: &str) -> String {
    kind.replace('-', "_")
}

fn refuse(status: StatusCode, kind: &str, message: &str) -> Response {
    (status, Json(json!({"NeutronError": {"type": kind, "message": message, "detail": ""}}))).into_response()
}

fn missing() -> Response {
    refuse(StatusCode::NOT_FOUND, "NotFound", "no such object")
}

fn parse(body: &[u8]) -> Result<Value, Response> {
    serde_json::from_slice(body).map_err(|error| refuse(StatusCode::BAD_REQUEST, "HTTPBadRequest", &error.to_string()))
}

async fn list(State(shared): State<Shared>, Path(kind): Path<String>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let objects = shared.objects.lock().unwrap();
    let is_control = |name: &str| ["limit", "marker", "fields"].contains(&name);
    let fits = |object: &Value| {
        query.iter().filter(|(name, _)| !is_control(name)).all(|(name, value)| match name.as_str() {
            "loadbalancer_id" => object["loadbalancer_id"] == **value,
            _ => object[name] == **value,
        })
    };
    let word = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let after: Uuid = word("marker").and_then(|marker| marker.parse().ok()).unwrap_or_default();
    let limit: usize = word("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let found = objects.get(&kind).into_iter().flatten().filter(|(id, object)| **id > after && fits(object));
    let found: Vec<Value> = found.take(limit).map(|(_, object)| shown(&objects, &kind, object)).collect();
    Json(json!({ many(&kind): found })).into_response()
}

/// A load balancer names what is in it.
fn shown(objects: &Objects, kind: &str, object: &Value) -> Value {
    let mut object = object.clone();
    if kind == "loadbalancers" {
        for inner in ["listeners", "pools"] {
            let inside = objects.get(inner).into_iter().flatten().filter(|(_, inside)| inside["loadbalancer_id"] == object["id"]);
            object[inner] = inside.map(|(id, _)| json!({ "id": id })).collect();
        }
    }
    object
}

async fn show(State(shared): State<Shared>, Path((kind, id)): Path<(String, Uuid)>) -> Answer {
    let objects = shared.objects.lock().unwrap();
    let object = objects.get(&kind).and_then(|all| all.get(&id)).ok_or_else(missing)?;
    Ok(Json(json!({ one(&kind): shown(&objects, &kind, object) })).into_response())
}

async fn create(State(shared): State<Shared>, Path(kind): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let body = parse(&body)?;
    let keys = headers.get("idempotency-key").and_then(|keys| keys.to_str().ok()).unwrap_or("");
    let keys: Vec<Uuid> = keys.split(',').filter_map(|key| key.trim().parse().ok()).collect();
    let is_bulk = body.get(many(&kind)).is_some();
    let wanted: Vec<Value> = match body.get(many(&kind)) {
        Some(all) => all.as_array().cloned().unwrap_or_default(),
        None => vec![body[one(&kind)].clone()],
    };
    let mut objects = shared.objects.lock().unwrap();
    let before = objects.clone();
    let mut made = Vec::new();
    for (index, object) in wanted.into_iter().enumerate() {
        // Octavia knows no keys.
        let has_key = !["loadbalancers", "listeners", "pools"].contains(&kind.as_str());
        let id = keys.get(index).copied().filter(|_| has_key).unwrap_or_else(Uuid::new_v4);
        match create_one(&mut objects, &kind, id, object, &shared.unlucky) {
            Ok(object) => made.push(object),
            Err(refusal) => {
                *objects = before;
                return Err(refusal);
            }
        }
    }
    let answer = if is_bulk { json!({ many(&kind): made }) } else { json!({ one(&kind): made[0] }) };
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

fn create_one(objects: &mut Objects, kind: &str, id: Uuid, mut object: Value, unlucky: &str) -> Result<Value, Response> {
    if let Some(old) = objects.get(kind).and_then(|all| all.get(&id)) {
        return Ok(shown(objects, kind, old));
    }
    object["id"] = json!(id);
    match kind {
        "ports" => object["fixed_ips"] = addresses(objects, &object, unlucky)?,
        "security-groups" => object["security_group_rules"] = ["IPv4", "IPv6"].map(|family| rule("egress", family)).into(),
        "security-group-rules" => {
            let group: Uuid = object["security_group_id"].as_str().and_then(|id| id.parse().ok()).ok_or_else(missing)?;
            let group = objects.get_mut("security-groups").and_then(|all| all.get_mut(&group)).ok_or_else(missing)?;
            let rule = rule(object["direction"].as_str().unwrap(), object["ethertype"].as_str().unwrap());
            group["security_group_rules"].as_array_mut().unwrap().push(rule);
        }
        "loadbalancers" => {
            let taken = objects.get(kind).into_iter().flatten().any(|(_, other)| other["vip_address"] == object["vip_address"]);
            if taken {
                return Err(refuse(StatusCode::CONFLICT, "IpAddressInUse", "the VIP is in use"));
            }
        }
        "pools" => object["members"] = json!([]),
        _ => {}
    }
    objects.entry(kind.to_owned()).or_default().insert(id, object.clone());
    Ok(object)
}

fn rule(direction: &str, family: &str) -> Value {
    json!({"direction": direction, "ethertype": family, "protocol": null, "remote_ip_prefix": null, "remote_group_id": null})
}

/// One address of each subnet.
fn addresses(objects: &Objects, port: &Value, unlucky: &str) -> Result<Value, Response> {
    if port["name"] == *unlucky {
        return Err(refuse(StatusCode::CONFLICT, "IpAddressGenerationFailure", "No more IP addresses available on network."));
    }
    let others = || objects.get("ports").into_iter().flatten().filter(|(_, other)| other["network_id"] == port["network_id"]);
    let is_taken = |address: &Value| {
        others().any(|(_, other)| other["fixed_ips"].as_array().into_iter().flatten().any(|fixed| fixed["ip_address"] == *address))
    };
    if let Some(wanted) = port["fixed_ips"].as_array() {
        let is_in_use = wanted.iter().any(|fixed| is_taken(&fixed["ip_address"]));
        let subnet = json!(Uuid::nil());
        let given = wanted.iter().map(|fixed| json!({"subnet_id": subnet, "ip_address": fixed["ip_address"]})).collect();
        return if is_in_use { Err(refuse(StatusCode::CONFLICT, "IpAddressInUse", "the address is in use")) } else { Ok(given) };
    }
    let number = objects.get("ports").map_or(0, BTreeMap::len) + 10;
    let subnets = objects.get("subnets").into_iter().flatten().filter(|(_, subnet)| subnet["network_id"] == port["network_id"]);
    let address = |cidr: &str| match cidr.split_once('/').unwrap().0 {
        v6 if v6.contains(':') => format!("{v6}{number:x}"),
        v4 => {
            let octets: Vec<&str> = v4.split('.').collect();
            format!("{}.{}.{}.{}", octets[0], octets[1], number / 256, number % 256)
        }
    };
    Ok(subnets.map(|(id, subnet)| json!({"subnet_id": id, "ip_address": address(subnet["cidr"].as_str().unwrap())})).collect())
}

async fn update(State(shared): State<Shared>, Path((kind, id)): Path<(String, Uuid)>, body: Bytes) -> Answer {
    let body = parse(&body)?;
    let mut objects = shared.objects.lock().unwrap();
    let object = objects.get_mut(&kind).and_then(|all| all.get_mut(&id)).ok_or_else(missing)?;
    for (name, value) in body[one(&kind)].as_object().into_iter().flatten() {
        object[name] = value.clone();
    }
    let object = object.clone();
    Ok(Json(json!({ one(&kind): shown(&objects, &kind, &object) })).into_response())
}

async fn remove(State(shared): State<Shared>, Path((kind, id)): Path<(String, Uuid)>) -> Answer {
    let mut objects = shared.objects.lock().unwrap();
    objects.get_mut(&kind).and_then(|all| all.remove(&id)).ok_or_else(missing)?;
    if kind == "loadbalancers" {
        for inner in ["listeners", "pools"] {
            objects.entry(inner.into()).or_default().retain(|_, inside| inside["loadbalancer_id"] != json!(id));
        }
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn add_interface(State(shared): State<Shared>, Path(id): Path<Uuid>, body: Bytes) -> Answer {
    let subnet = parse(&body)?["subnet_id"].clone();
    let mut objects = shared.objects.lock().unwrap();
    let port = Uuid::new_v4();
    let port_object = json!({
        "id": port, "device_id": id, "device_owner": "network:router_interface", "name": "",
        "fixed_ips": [{"subnet_id": subnet, "ip_address": "192.0.2.254"}],
    });
    objects.entry("ports".into()).or_default().insert(port, port_object);
    Ok(Json(json!({"id": id, "port_id": port, "subnet_id": subnet})).into_response())
}

async fn members(State(shared): State<Shared>, Path(id): Path<Uuid>) -> Answer {
    let objects = shared.objects.lock().unwrap();
    let pool = objects.get("pools").and_then(|all| all.get(&id)).ok_or_else(missing)?;
    Ok(Json(json!({ "members": pool["members"] })).into_response())
}

async fn set_members(State(shared): State<Shared>, Path(id): Path<Uuid>, body: Bytes) -> Answer {
    let members = parse(&body)?["members"].clone();
    let mut objects = shared.objects.lock().unwrap();
    objects.get_mut("pools").and_then(|all| all.get_mut(&id)).ok_or_else(missing)?["members"] = members;
    Ok(StatusCode::ACCEPTED.into_response())
}
