//! The API extensions that are served: clients ask for these aliases before they use a feature.
//!
//! An alias stands here only when all that it promises works. Ladon's own start with `ladon-`.

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::ApiError;

/// One extension.
pub struct Extension {
    pub alias: &'static str,
    pub name: &'static str,
    pub description: &'static str,
    pub updated: &'static str,
}

const fn ext(alias: &'static str, name: &'static str, updated: &'static str, description: &'static str) -> Extension {
    Extension { alias, name, description, updated }
}

/// All of them, by alias.
pub const EXTENSIONS: &[Extension] = &[
    ext("allowed-address-pairs", "Allowed Address Pairs", "2013-07-23T10:00:00-00:00", "Addresses that a port may use besides its own"),
    ext("binding", "Port Binding", "2014-02-03T10:00:00-00:00", "The host on which a port is plugged, and how"),
    ext("empty-string-filtering", "Empty String Filtering Extension", "2018-05-01T10:00:00-00:00", "Filters by the empty string"),
    ext("extra_dhcp_opt", "Neutron Extra DHCP options", "2013-03-17T12:00:00-00:00", "DHCP options of single ports"),
    ext("extraroute", "Neutron Extra Route", "2013-02-01T10:00:00-00:00", "Static routes of a router"),
    ext(
        "extraroute-atomic",
        "Atomically add/remove extra routes",
        "2019-07-10T00:00:00+00:00",
        "Adds to and takes from a router's routes in one step",
    ),
    ext("filter-validation", "Filter parameters validation", "2018-07-04T10:00:00-00:00", "Unknown filters are refused"),
    ext("ip-substring-filtering", "IP address substring filtering", "2017-11-28T09:00:00-00:00", "Finds ports by a piece of an address"),
    ext(
        "ladon-flooding",
        "Flooding of a network",
        "2026-11-23T00:00:00-00:00",
        "ladon:flooding: whether broadcast and multicast reach every port of a network",
    ),
    ext(
        "ladon-idempotent-create",
        "Idempotent creation",
        "2026-11-23T00:00:00-00:00",
        "Idempotency-Key: a create that is sent twice makes one object",
    ),
    ext(
        "ladon-port-conflicts",
        "Conflicting claims of a port",
        "2026-11-23T00:00:00-00:00",
        "ladon:conflicts: nodes that have a port's interface although the port is another's, for administrators",
    ),
    ext("net-mtu", "Network MTU", "2015-03-25T10:00:00-00:00", "The largest packet of a network"),
    ext("net-mtu-writable", "Network MTU (writable)", "2017-07-12T00:00:00-00:00", "The MTU of a network can be set"),
    ext("pagination", "Pagination support", "2016-06-12T00:00:00-00:00", "Lists in pages"),
    ext("port-security", "Port Security", "2012-07-23T10:00:00-00:00", "Ports send only from their own addresses"),
    ext(
        "port-security-groups-filtering",
        "Port filtering on security groups",
        "2018-01-09T09:00:00-00:00",
        "Finds ports by security group",
    ),
    ext("project-id", "project_id field enabled", "2016-09-09T09:09:09-09:09", "project_id beside tenant_id"),
    ext("provider", "Provider Network", "2012-09-07T10:00:00-00:00", "How a network is carried"),
    ext("quotas", "Quota management support", "2012-07-29T10:00:00-00:00", "Quotas can be read; all are unlimited"),
    ext(
        "revision-if-match",
        "If-Match constraints based on revision_number",
        "2016-12-11T00:00:00-00:00",
        "Changes that hold only for one revision",
    ),
    ext("router", "Neutron L3 Router", "2012-07-20T10:00:00-00:00", "Routers between networks"),
    ext("security-group", "security-group", "2012-10-05T10:00:00-00:00", "Who may talk to whom"),
    ext(
        "security-groups-normalized-cidr",
        "Normalized CIDR field for security group rules",
        "2020-07-28T10:00:00-00:00",
        "remote_ip_prefix without host bits",
    ),
    ext(
        "security-groups-rules-belongs-to-default-sg",
        "Security group rule belongs to the project's default security group",
        "2023-05-23T10:00:00-00:00",
        "Whether a rule is in the project's default group",
    ),
    ext("sorting", "Sorting support", "2016-06-12T00:00:00-00:00", "Lists in order"),
    ext("standard-attr-description", "standard-attr-description", "2016-02-10T10:00:00-00:00", "Descriptions of objects"),
    ext(
        "standard-attr-revisions",
        "Resource revision numbers",
        "2016-04-11T10:00:00-00:00",
        "A number that grows with every change of an object",
    ),
    ext(
        "standard-attr-tag",
        "Tag support for resources with standard attribute: network, port, router, security_group, subnet",
        "2017-01-01T00:00:00-00:00",
        "Tags on objects",
    ),
    ext("standard-attr-timestamp", "Resource timestamps", "2016-09-12T10:00:00-00:00", "When objects were made and changed"),
    ext("tag-creation", "Tag creation extension", "2024-07-23T10:00:00-00:00", "Several new tags in one request"),
    ext(
        "tag-ports-during-bulk-creation",
        "Tag Ports During Bulk Creation",
        "2019-12-29T19:00:00-00:00",
        "Ports can be tagged when they are made",
    ),
];

fn show(extension: &Extension) -> Value {
    json!({
        "alias": extension.alias,
        "name": extension.name,
        "description": extension.description,
        "updated": extension.updated,
        "links": [],
    })
}

/// `GET /v2.0/extensions`
pub async fn list() -> Response {
    Json(json!({"extensions": EXTENSIONS.iter().map(show).collect::<Vec<_>>()})).into_response()
}

/// `GET /v2.0/extensions/{alias}`
pub async fn one(Path(alias): Path<String>) -> Result<Response, ApiError> {
    let extension = EXTENSIONS.iter().find(|extension| extension.alias == alias);
    let extension = extension.ok_or_else(|| ApiError::not_found("HTTPNotFound", format!("Extension with alias {alias} does not exist")))?;
    Ok(Json(json!({"extension": show(extension)})).into_response())
}
