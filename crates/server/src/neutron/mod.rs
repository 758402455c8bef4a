//! The Neutron v2.0 REST API.
//!
//! ```text
//!  bytes ─▶ body (tables: attribute, check) ─▶ a closure in Core::write ─▶ the resource's rules on Tx ─▶ JSON
//!           unknown, read-only, missing,        one transaction             create / update / delete     show, as the
//!           ill-typed, reserved: 400, 403                                                               caller sees it
//! ```
//!
//! Each resource is one module: its table of attributes, what it looks like, and the rules that need the state. What all
//! resources share is here once: `handlers` (the verbs), `body` (checks by table), `query` (filters, sorting, pages), `tags`,
//! `idempotent`. JSON and model are different types on purpose: conversions are written out in each resource.
//!
//! What the API promises is in `extensions`. Deliberately *not* here: addresses (`ipam`), keys, authentication, load
//! balancers (`octavia`).

mod attribute;
mod body;
mod check;
mod check_list;
mod error;
mod extensions;
mod fields;
mod handlers;
mod interface;
mod network;
mod port;
mod port_rules;
mod python;
mod query;
mod resource;
mod router;
mod rule;
mod security_group;
mod small;
mod subnet;
mod subnet_rules;
mod tags;

use axum::Router;
use axum::routing::get;

use crate::http::Lists;
use crate::views::Claims;
use crate::writer::Core;

pub use attribute::TEXT_MAX;
pub use body::BULK_MAX;
pub use error::ApiError;
pub use extensions::{EXTENSIONS, Extension};
pub use network::{IPV4_MTU_MIN, IPV6_MTU_MIN};
pub use resource::Settings;
pub use router::ROUTES_MAX;
pub use subnet_rules::{DNS_MAX, HOST_ROUTES_MAX};
pub use tags::{TAG_MAX, TAGS_MAX};

use handlers::Neutron;

/// The API's paths. Expects the [`Caller`](crate::auth::Caller) among each request's extensions.
pub fn routes(core: Core, settings: Settings) -> Router {
    routes_with_claims(core, settings, Claims::default())
}

/// As [`routes`], for a server that nodes talk to: ports show what they say.
pub fn routes_with_claims(core: Core, settings: Settings, claims: Claims) -> Router {
    Router::new()
        .route("/", get(small::versions))
        .route("/v2.0", get(small::collections))
        .route("/v2.0/", get(small::collections))
        .route("/v2.0/extensions", get(extensions::list))
        .route("/v2.0/extensions/{alias}", get(extensions::one))
        .route("/v2.0/quotas", get(small::quotas))
        .route("/v2.0/quotas/{project}", get(small::quota).put(small::set_quota))
        .route("/v2.0/quotas/{project}/default", get(small::default_quota))
        .route("/v2.0/agents", get(small::agents))
        .merge(handlers::routes::<network::Networks>())
        .merge(handlers::routes::<subnet::Subnets>())
        .merge(handlers::routes::<port::Ports>())
        .merge(handlers::routes::<router::Routers>())
        .merge(handlers::routes::<security_group::SecurityGroups>())
        .merge(handlers::routes::<rule::Rules>())
        .merge(tags::routes::<network::Networks>())
        .merge(tags::routes::<subnet::Subnets>())
        .merge(tags::routes::<port::Ports>())
        .merge(tags::routes::<router::Routers>())
        .merge(tags::routes::<security_group::SecurityGroups>())
        .merge(router::routes_of_member_actions())
        .merge(interface::routes())
        .with_state(Neutron { core, settings, claims, lists: Lists::default() })
}
