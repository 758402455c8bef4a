//! What does not depend on any object: versions, the provider, quotas without limits, and what Ladon does not do.

use axum::extract::{Extension, Path};
use axum::http::HeaderMap;
use axum::routing::{get, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::PROVIDER;
use super::error::Fault;
use crate::Core;
use crate::auth::Caller;
use crate::http;

/// The API's versions up to the one whose listeners may share a port number between protocols, with Octavia's dates.
const VERSIONS: [(&str, &str); 14] = [
    ("v2.0", "2016-12-11T00:00:00Z"),
    ("v2.1", "2018-04-20T00:00:00Z"),
    ("v2.2", "2018-07-31T00:00:00Z"),
    ("v2.3", "2018-12-18T00:00:00Z"),
    ("v2.4", "2018-12-19T00:00:00Z"),
    ("v2.5", "2019-01-21T00:00:00Z"),
    ("v2.6", "2019-01-25T00:00:00Z"),
    ("v2.7", "2018-01-25T12:00:00Z"),
    ("v2.8", "2019-02-12T00:00:00Z"),
    ("v2.9", "2019-03-04T00:00:00Z"),
    ("v2.10", "2019-03-05T00:00:00Z"),
    ("v2.11", "2019-06-24T00:00:00Z"),
    ("v2.12", "2019-09-11T00:00:00Z"),
    ("v2.13", "2019-09-13T00:00:00Z"),
];

/// Collections that are always empty, because nothing can be put into them.
const EMPTY: [&str; 6] = ["healthmonitors", "l7policies", "flavors", "flavorprofiles", "availabilityzones", "availabilityzoneprofiles"];

/// What can be counted against a quota.
const COUNTED: [&str; 7] = ["load_balancer", "listener", "member", "pool", "health_monitor", "l7policy", "l7rule"];
/// A quota without a limit.
const UNLIMITED: i64 = -1;

pub fn routes() -> Router<Core> {
    let fixed = Router::new()
        .route("/providers", get(providers))
        .route("/providers/{name}/flavor_capabilities", get(|| async { unsupported("flavors") }))
        .route("/providers/{name}/availability_zone_capabilities", get(|| async { unsupported("availability zones") }))
        .route("/quotas", get(|| async { Json(json!({"quotas": [], "quotas_links": []})) }))
        .route("/quotas/defaults", get(|| async { Json(unlimited()) }))
        .route(
            "/quotas/{project}",
            get(quota)
                .put(|| async { unsupported("quotas: all are unlimited") })
                .delete(|| async { unsupported("quotas: all are unlimited") }),
        )
        .route("/loadbalancers/{id}/stats", get(|| async { unsupported("statistics") }))
        .route("/loadbalancers/{id}/failover", put(|| async { unsupported("failover: a VIP is on every node") }))
        .route("/listeners/{id}/stats", get(|| async { unsupported("statistics") }));
    EMPTY.iter().fold(fixed, |all, name| all.merge(empty(name)))
}

/// A collection in which there is nothing.
fn empty(name: &'static str) -> Router<Core> {
    let list = move || async move { Json(json!({ name: [], format!("{name}_links"): [] })) };
    let absent = move |Path(id): Path<String>| async move { Fault::not_found(name.trim_end_matches('s'), id) };
    Router::new()
        .route(&format!("/{name}"), get(list).post(move || async move { unsupported(name) }))
        .route(&format!("/{name}/{{id}}"), get(absent).put(absent).delete(absent))
}

fn unsupported(what: &str) -> Fault {
    Fault::unsupported_action(what)
}

async fn providers() -> Json<Value> {
    Json(json!({"providers": [{"name": PROVIDER, "description": "Load balancing in the datapath of every node."}]}))
}

fn unlimited() -> Value {
    json!({"quota": COUNTED.map(|name| (name, UNLIMITED)).into_iter().collect::<std::collections::BTreeMap<_, _>>()})
}

async fn quota(Extension(caller): Extension<Caller>, Path(project): Path<String>) -> Result<Json<Value>, Fault> {
    if caller.may_see(&model::ProjectId(project)) { Ok(Json(unlimited())) } else { Err(Fault::forbidden()) }
}

/// The versions, for everybody.
pub async fn versions(headers: HeaderMap) -> Json<Value> {
    let base = http::base(&headers);
    let last = VERSIONS.len() - 1;
    let version = |(number, (id, updated)): (usize, &(&str, &str))| {
        let status = if number == last { "CURRENT" } else { "SUPPORTED" };
        let links = json!([{"href": format!("{base}/load-balancer/v2"), "rel": "self"}]);
        json!({"id": id, "status": status, "updated": updated, "links": links})
    };
    Json(json!({"versions": VERSIONS.iter().enumerate().map(version).collect::<Value>()}))
}
