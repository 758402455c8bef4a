//! The small read-only resources: versions, the list of collections, quotas, agents.

use axum::Json;
use axum::extract::{Extension, Path};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::auth::Caller;
use crate::http::base;

use super::error::ApiError;
use super::network::Networks;
use super::port::Ports;
use super::resource::Resource;
use super::router::Routers;
use super::rule::Rules;
use super::security_group::SecurityGroups;
use super::subnet::Subnets;

/// What can be counted against a quota.
const COUNTED: [&str; 6] = [Networks::NAME, Subnets::NAME, Ports::NAME, Routers::NAME, SecurityGroups::NAME, Rules::NAME];
/// A quota without a limit.
const UNLIMITED: i64 = -1;

/// `GET /`
pub async fn versions(headers: HeaderMap) -> Response {
    let links = json!([{"rel": "self", "href": format!("{}/v2.0/", base(&headers))}]);
    Json(json!({"versions": [{"id": "v2.0", "status": "CURRENT", "links": links}]})).into_response()
}

/// `GET /v2.0/`
pub async fn collections(headers: HeaderMap) -> Response {
    let base = base(&headers);
    let all = [
        (Networks::NAME, Networks::COLLECTION, Networks::PATH),
        (Subnets::NAME, Subnets::COLLECTION, Subnets::PATH),
        (Ports::NAME, Ports::COLLECTION, Ports::PATH),
        (Routers::NAME, Routers::COLLECTION, Routers::PATH),
        (SecurityGroups::NAME, SecurityGroups::COLLECTION, SecurityGroups::PATH),
        (Rules::NAME, Rules::COLLECTION, Rules::PATH),
    ];
    let entry = |(name, collection, path): (&str, &str, &str)| json!({"name": name, "collection": collection, "links": [{"rel": "self", "href": format!("{base}/v2.0/{path}")}]});
    Json(json!({"resources": all.map(entry)})).into_response()
}

/// `GET /v2.0/quotas`: the projects that have quotas of their own.
pub async fn quotas() -> Response {
    Json(json!({"quotas": []})).into_response()
}

/// `GET /v2.0/quotas/{project}`
pub async fn quota(Extension(caller): Extension<Caller>, Path(project): Path<String>) -> Result<Response, ApiError> {
    if !caller.is_admin && caller.project.0 != project {
        return Err(ApiError::forbidden("rule:get_quota"));
    }
    let quota: Map<String, Value> = COUNTED.iter().map(|name| (name.to_string(), json!(UNLIMITED))).collect();
    Ok(Json(json!({"quota": quota})).into_response())
}

/// `GET /v2.0/quotas/{project}/default`
pub async fn default_quota(caller: Extension<Caller>, path: Path<String>) -> Result<Response, ApiError> {
    quota(caller, path).await
}

/// `PUT /v2.0/quotas/{project}`
pub async fn set_quota() -> ApiError {
    ApiError::invalid_input("quotas cannot be set: this server has none, all are unlimited")
}

/// `GET /v2.0/agents`: Ladon's nodes are no Neutron agents.
pub async fn agents() -> Response {
    Json(json!({"agents": []})).into_response()
}
