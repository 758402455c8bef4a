//! Routers and their extra routes. Interfaces are in `interface`.
//!
//! There are no external gateways: a request that names one is refused, one that says null is fine.

use std::fmt::Display;
use std::net::IpAddr;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use model::{ProjectId, Route, Router, RouterId, Subnet};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::auth::Caller;
use crate::state::State;

use super::attribute::{self, Attribute, Fallback};
use super::body;
use super::check::Check;
use super::error::{self, ApiError};
use super::fields::Fields;
use super::handlers::{self, Neutron};
use super::python;
use super::resource::{self, Ask, Resource, Settings};
use super::subnet::{self, routes};

/// Most extra routes of a router (Neutron's default `max_routes`).
pub const ROUTES_MAX: usize = 30;

pub struct Routers;

impl Resource for Routers {
    type Model = Router;

    const NAME: &'static str = "router";
    const COLLECTION: &'static str = "routers";
    const PATH: &'static str = "routers";
    const TABLE: &'static [Attribute] = &[
        attribute::ID,
        attribute::NAME,
        attribute::DESCRIPTION,
        attribute::TENANT_ID,
        attribute::PROJECT_ID,
        Attribute::writable("admin_state_up", Check::Boolean).or(Fallback::True),
        Attribute::read_only("status"),
        Attribute::writable("external_gateway_info", Check::Anything).or(Fallback::Null).hidden_from_queries(),
        Attribute::writable("routes", Check::Routes).hidden_from_queries(),
        attribute::TAGS,
        attribute::REVISION,
        attribute::CREATED,
        attribute::UPDATED,
    ];

    fn not_found(id: &dyn Display) -> ApiError {
        resource::router_not_found(id)
    }

    fn show(_state: &State, router: &Router, _settings: Settings) -> Map<String, Value> {
        resource::entries(json!({
            "name": router.name,
            "description": router.description,
            "admin_state_up": router.is_admin_up,
            "status": "ACTIVE",
            "external_gateway_info": null,
            "routes": subnet::show_routes(&router.routes),
        }))
    }

    fn show_attribute(router: &Router, name: &str) -> Option<Value> {
        (name == "name").then(|| router.name.as_str().into())
    }

    fn is_same(_router: &Router, _fields: &Fields) -> bool {
        true
    }

    fn create(ask: &mut Ask, id: Uuid, project: ProjectId, fields: &Fields) -> Result<Router, ApiError> {
        refuse_gateway(fields)?;
        let router = Router {
            id: RouterId(id),
            key: ask.tx.router_key()?,
            project,
            name: fields.text("name").unwrap_or_default().to_string(),
            description: fields.text("description").unwrap_or_default().to_string(),
            is_admin_up: fields.boolean("admin_state_up").unwrap_or(true),
            routes: routes(fields, "routes").unwrap_or_default(),
            standard: ask.born(),
        };
        check_routes(ask.state(), &router)?;
        Ok(router)
    }

    fn update(ask: &mut Ask, router: &mut Router, fields: &Fields) -> Result<(), ApiError> {
        refuse_gateway(fields)?;
        router.name = fields.text("name").unwrap_or(&router.name).to_string();
        router.description = fields.text("description").unwrap_or(&router.description).to_string();
        router.is_admin_up = fields.boolean("admin_state_up").unwrap_or(router.is_admin_up);
        if fields.has("routes") {
            router.routes = routes(fields, "routes").unwrap_or_default();
            check_routes(ask.state(), router)?;
        }
        Ok(())
    }

    fn delete(ask: &mut Ask, router: &Router) -> Result<(), ApiError> {
        let ports = error::named(ask.state().interfaces_of(router.id).map(|port| port.id));
        if ports.is_empty() {
            return Ok(());
        }
        let message = format!("Router {} has ports still attached: {ports}", router.id);
        Err(ApiError::conflict("RouterInUse", message))
    }
}

fn refuse_gateway(fields: &Fields) -> Result<(), ApiError> {
    match fields.set("external_gateway_info").filter(|info| info.as_object().is_none_or(|info| !info.is_empty())) {
        Some(_) => Err(ApiError::invalid_input("external_gateway_info: this server has no external networks")),
        None => Ok(()),
    }
}

/// The subnets and the addresses that a router has.
pub fn connected(state: &State, router: RouterId) -> (Vec<&Subnet>, Vec<IpAddr>) {
    let fixed = || state.interfaces_of(router).flat_map(|port| &port.fixed_ips);
    (fixed().filter_map(|fixed| state.subnet(fixed.subnet)).collect(), fixed().map(|fixed| fixed.ip).collect())
}

fn check_routes(state: &State, router: &Router) -> Result<(), ApiError> {
    if router.routes.len() > ROUTES_MAX {
        let message = format!("Unable to complete operation for {}. The number of routes exceeds the maximum {ROUTES_MAX}.", router.id);
        return Err(ApiError::bad("RoutesExhausted", message));
    }
    let (subnets, addresses) = connected(state, router.id);
    let invalid = |reason: &str| {
        let routes = python::text(&Value::Array(subnet::show_routes(&router.routes)));
        Err(ApiError::bad("InvalidRoutes", format!("Invalid format for routes: {routes}, {reason}")))
    };
    for route in &router.routes {
        if route.destination.addr().is_ipv4() != route.nexthop.is_ipv4() {
            return invalid("the destination and the nexthop are of different IP versions");
        }
        if !subnets.iter().any(|subnet| subnet.cidr.contains(&route.nexthop)) {
            return invalid("the nexthop is not connected with router");
        }
        if addresses.contains(&route.nexthop) {
            return invalid("the nexthop is used by router");
        }
    }
    Ok(())
}

/// The paths of a router besides a resource's own.
pub fn routes_of_member_actions() -> axum::Router<Neutron> {
    axum::Router::new()
        .route("/v2.0/routers/{id}/add_extraroutes", put(add_routes))
        .route("/v2.0/routers/{id}/remove_extraroutes", put(remove_routes))
}

async fn add_routes(shared: Shared<Neutron>, caller: Extension<Caller>, path: Path<String>, body: Bytes) -> Result<Response, ApiError> {
    change_routes(shared, caller, path, body, |had, new| {
        let fresh: Vec<Route> = new.iter().filter(|route| !had.contains(route)).copied().collect();
        had.extend(fresh);
    })
    .await
}

async fn remove_routes(shared: Shared<Neutron>, caller: Extension<Caller>, path: Path<String>, body: Bytes) -> Result<Response, ApiError> {
    change_routes(shared, caller, path, body, |had, gone| had.retain(|route| !gone.contains(route))).await
}

async fn change_routes(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
    change: fn(&mut Vec<Route>, &[Route]),
) -> Result<Response, ApiError> {
    let fields = body::for_update(&body, resource::shape::<Routers>(), &caller)?;
    let wanted = routes(&fields, "routes").ok_or_else(|| ApiError::bad_request("Unable to find 'routes' in request body"))?;
    let rule = move |ask: &mut Ask| {
        let mut router = handlers::own::<Routers>(ask, &id, "update")?;
        change(&mut router.routes, &wanted);
        check_routes(ask.state(), &router)?;
        ask.touch(&mut router.standard);
        ask.tx.put(router.clone());
        Ok(router)
    };
    let (router, state) = neutron.write(caller.clone(), rule).await?;
    let shown = resource::shown::<Routers>(&state, &router, &caller, neutron.settings);
    Ok(Json(json!({"router": shown})).into_response())
}
