//! Router interfaces: `add_router_interface` and `remove_router_interface`.
//!
//! An interface is a port of the router. By subnet it is made with the subnet's gateway address (a further IPv6 subnet of a
//! network joins the interface that the router has there); by port, an existing unused port becomes the interface. No two
//! subnets of a router overlap: packets could not know which one they mean.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use ipnet::IpNet;
use model::{Port, PortId, PortStatus, Router, RouterId, Subnet, SubnetId, owner};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::auth::Caller;
use crate::ipam::{self, Wanted};
use crate::state::State;

use super::body;
use super::check;
use super::error::ApiError;
use super::handlers::{self, Neutron};
use super::port::Ports;
use super::python;
use super::resource::{self, Ask};
use super::router::Routers;
use super::subnet::{Subnets, overlaps};

/// What a request names.
#[derive(Clone, Copy)]
struct Target {
    port: Option<PortId>,
    subnet: Option<SubnetId>,
}

pub fn routes() -> axum::Router<Neutron> {
    axum::Router::new()
        .route("/v2.0/routers/{id}/add_router_interface", put(add))
        .route("/v2.0/routers/{id}/remove_router_interface", put(remove))
}

fn bad(message: impl std::fmt::Display) -> ApiError {
    ApiError::bad("BadRequest", format!("Bad router request: {message}."))
}

fn target(bytes: &[u8]) -> Result<Target, ApiError> {
    let map = body::dictionary(bytes)?;
    if let Some(unknown) = map.keys().find(|key| !["port_id", "subnet_id"].contains(&key.as_str())) {
        return Err(ApiError::bad_request(format!("Unrecognized attribute(s) '{unknown}'")));
    }
    let id = |name: &str| {
        let Some(value) = map.get(name) else { return Ok(None) };
        check::uuid(value).map(Some).map_err(|_| bad(format!("'{}' is not a valid UUID", python::text(value))))
    };
    let target = Target { port: id("port_id")?.map(PortId), subnet: id("subnet_id")?.map(SubnetId) };
    if target.port.is_none() && target.subnet.is_none() {
        return Err(bad("Either subnet_id or port_id must be specified"));
    }
    Ok(target)
}

async fn add(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let target = target(&body)?;
    let rule = move |ask: &mut Ask| {
        let router = handlers::own::<Routers>(ask, &id, "add_router_interface")?;
        let (port, subnet) = match (target.port, target.subnet) {
            (Some(_), Some(_)) => return Err(bad("Cannot specify both subnet-id and port-id")),
            (Some(port), None) => add_port(ask, &router, port)?,
            (None, Some(subnet)) => (add_subnet(ask, &router, subnet)?, subnet),
            (None, None) => return Err(bad("Either subnet_id or port_id must be specified")),
        };
        touch(ask, router.clone());
        Ok(show(&router, &port, Some(subnet)))
    };
    Ok(Json(neutron.write(caller, rule).await?.0).into_response())
}

async fn remove(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let target = target(&body)?;
    let rule = move |ask: &mut Ask| {
        let router = handlers::own::<Routers>(ask, &id, "remove_router_interface")?;
        let (port, subnet) = match (target.port, target.subnet) {
            (Some(port), subnet) => remove_port(ask, &router, port, subnet)?,
            (None, subnet) => remove_subnet(ask, &router, subnet.unwrap_or(SubnetId(Uuid::nil())))?,
        };
        touch(ask, router.clone());
        Ok(show(&router, &port, subnet))
    };
    Ok(Json(neutron.write(caller, rule).await?.0).into_response())
}

fn touch(ask: &mut Ask, mut router: Router) {
    ask.touch(&mut router.standard);
    ask.tx.put(router);
}

fn show(router: &Router, port: &Port, subnet: Option<SubnetId>) -> Value {
    let subnet = subnet.or_else(|| port.fixed_ips.first().map(|fixed| fixed.subnet));
    json!({
        "id": router.id,
        "tenant_id": router.project,
        "project_id": router.project,
        "port_id": port.id,
        "network_id": port.network,
        "subnet_id": subnet,
        "subnet_ids": subnet.into_iter().collect::<Vec<_>>(),
    })
}

/// Refuses a subnet that the router has, or that overlaps one that it has on a port other than `own`.
fn check_subnets(state: &State, router: RouterId, new: &[&Subnet], own: Option<PortId>) -> Result<(), ApiError> {
    let others = state.interfaces_of(router).filter(|port| Some(port.id) != own).flat_map(|port| &port.fixed_ips);
    for old in others.filter_map(|fixed| state.subnet(fixed.subnet)) {
        for subnet in new {
            if subnet.id == old.id {
                return Err(bad(format!("Router already has a port on subnet {}", subnet.id)));
            }
            if overlaps(subnet.cidr, old.cidr) {
                let (cidr, old_cidr) = (subnet.cidr, old.cidr);
                return Err(bad(format!("Cidr {cidr} of subnet {} overlaps with cidr {old_cidr} of subnet {}", subnet.id, old.id)));
            }
        }
    }
    Ok(())
}

/// The subnets of a port, each once, and not two IPv4 ones.
fn subnets_of_port<'a>(state: &'a State, port: &Port) -> Result<Vec<&'a Subnet>, ApiError> {
    let subnets: Vec<&Subnet> = port.fixed_ips.iter().filter_map(|fixed| state.subnet(fixed.subnet)).collect();
    if subnets.iter().filter(|subnet| subnet.cidr.addr().is_ipv4()).count() > 1 {
        return Err(bad("Cannot have multiple IPv4 subnets on router port"));
    }
    Ok(subnets)
}

/// What must hold of a router interface whose addresses changed.
pub fn check_addresses(state: &State, port: &Port) -> Result<(), ApiError> {
    let Some(router) = port.router() else { return Ok(()) };
    if port.fixed_ips.is_empty() {
        return Err(bad("Router port must have at least one fixed IP"));
    }
    let subnets = subnets_of_port(state, port)?;
    check_subnets(state, router, &subnets, Some(port.id))?;
    let lost = state.port(port.id).into_iter().flat_map(|before| &before.fixed_ips).filter_map(|fixed| state.subnet(fixed.subnet));
    let lost = lost.filter(|before| !subnets.iter().any(|subnet| subnet.id == before.id));
    lost.into_iter().try_for_each(|subnet| check_unrouted(state, router, subnet))
}

fn add_port(ask: &mut Ask, router: &Router, id: PortId) -> Result<(Port, SubnetId), ApiError> {
    // A network's owner sees others' ports on it, which is no leave to take their protection and their groups away.
    let mut port = handlers::own::<Ports>(ask, &id.to_string(), "update")?;
    if !port.device_id.is_empty() {
        let message = format!(
            "Unable to complete operation on port {id} for network {}. Port already has an attached device {}.",
            port.network, port.device_id
        );
        return Err(ApiError::conflict("PortInUse", message));
    }
    if let Some(host) = port.home() {
        return Err(bad(format!("Port {id} is bound to host {host}: a router's interface has no host")));
    }
    let Some(first) = port.fixed_ips.first().map(|fixed| fixed.subnet) else {
        return Err(bad("Router port must have at least one fixed IP"));
    };
    let subnets = subnets_of_port(ask.state(), &port)?;
    check_subnets(ask.state(), router.id, &subnets, None)?;
    port.device_owner = owner::ROUTER_INTERFACE.to_string();
    port.device_id = router.id.to_string();
    port.is_port_security = false;
    port.security_groups.clear();
    port.address_pairs.clear();
    port.status = if port.is_admin_up { PortStatus::Active } else { PortStatus::Down };
    ask.touch(&mut port.standard);
    ask.tx.put(port.clone());
    Ok((port, first))
}

fn add_subnet(ask: &mut Ask, router: &Router, id: SubnetId) -> Result<Port, ApiError> {
    let subnet = resource::visible::<Subnets>(ask.state(), &id.to_string(), ask.caller)?.clone();
    let Some(gateway) = subnet.gateway else { return Err(bad("Subnet for router interface must have a gateway IP")) };
    if !ask.caller.may_see(&subnet.project) {
        return Err(bad(format!("Cannot add interface to router because subnet {id} is not owned by project making the request")));
    }
    check_subnets(ask.state(), router.id, &[&subnet], None)?;
    let wanted = Wanted::Address { subnet: Some(id), ip: gateway };
    let is_v6 = |port: &&Port| port.network == subnet.network && port.addresses().all(|ip| ip.is_ipv6());
    let existing = ask.state().interfaces_of(router.id).find(is_v6).filter(|_| gateway.is_ipv6()).cloned();
    match existing {
        Some(port) => widen(ask, port, wanted),
        None => new_interface(ask, router, &subnet, wanted),
    }
}

/// A further address for an interface.
fn widen(ask: &mut Ask, mut port: Port, wanted: Wanted) -> Result<Port, ApiError> {
    let had = port.fixed_ips.iter().map(|fixed| Wanted::Address { subnet: Some(fixed.subnet), ip: fixed.ip });
    let wanted: Vec<Wanted> = had.chain([wanted]).collect();
    let request = ipam::Request {
        network: port.network,
        device_owner: owner::ROUTER_INTERFACE,
        host: None,
        wanted: Some(&wanted),
        mac: None,
        existing: Some(&port),
    };
    port.fixed_ips = ipam::allocate(ask.tx, &request)?.fixed_ips;
    ask.touch(&mut port.standard);
    ask.tx.put(port.clone());
    Ok(port)
}

fn new_interface(ask: &mut Ask, router: &Router, subnet: &Subnet, wanted: Wanted) -> Result<Port, ApiError> {
    let port = ipam::homeless_port(ask.tx, subnet.network, wanted, &router.project, owner::ROUTER_INTERFACE, router.id.to_string())?;
    let port = Port { standard: ask.born(), ..port };
    ask.tx.put(port.clone());
    Ok(port)
}

/// Refuses to take away a subnet through which an extra route goes.
fn check_unrouted(state: &State, router: RouterId, subnet: &Subnet) -> Result<(), ApiError> {
    let is_via = |cidr: IpNet| state.router(router).is_some_and(|router| router.routes.iter().any(|route| cidr.contains(&route.nexthop)));
    if !is_via(subnet.cidr) {
        return Ok(());
    }
    let message =
        format!("Router interface for subnet {} on router {router} cannot be deleted, as it is required by one or more routes.", subnet.id);
    Err(ApiError::conflict("RouterInterfaceInUseByRoute", message))
}

fn remove_port(ask: &mut Ask, router: &Router, id: PortId, subnet: Option<SubnetId>) -> Result<(Port, Option<SubnetId>), ApiError> {
    let port = ask.state().port(id).filter(|port| port.router() == Some(router.id)).cloned().ok_or_else(|| {
        let message = format!("Router {} does not have an interface with id {id}", router.id);
        ApiError::not_found("RouterInterfaceNotFound", message)
    })?;
    if let Some(subnet) = subnet.filter(|subnet| !port.fixed_ips.iter().any(|fixed| fixed.subnet == *subnet)) {
        let message = format!("Subnet on port {id} does not match the requested subnet {subnet}.");
        return Err(ApiError::bad("SubnetMismatchForPort", message));
    }
    for fixed in &port.fixed_ips {
        if let Some(subnet) = ask.state().subnet(fixed.subnet) {
            check_unrouted(ask.state(), router.id, subnet)?;
        }
    }
    ask.tx.delete(resource::key::<Ports>(id.0));
    Ok((port, subnet))
}

fn remove_subnet(ask: &mut Ask, router: &Router, id: SubnetId) -> Result<(Port, Option<SubnetId>), ApiError> {
    let subnet = resource::visible::<Subnets>(ask.state(), &id.to_string(), ask.caller)?.clone();
    let has = |port: &&Port| port.fixed_ips.iter().any(|fixed| fixed.subnet == id);
    let port = ask.state().interfaces_of(router.id).find(has).cloned().ok_or_else(|| {
        let message = format!("Router {} has no interface on subnet {id}", router.id);
        ApiError::not_found("RouterInterfaceNotFoundForSubnet", message)
    })?;
    check_unrouted(ask.state(), router.id, &subnet)?;
    let mut rest = port.clone();
    rest.fixed_ips.retain(|fixed| fixed.subnet != id);
    if rest.fixed_ips.is_empty() {
        ask.tx.delete(resource::key::<Ports>(port.id.0));
    } else {
        ask.touch(&mut rest.standard);
        ask.tx.put(rest);
    }
    Ok((port, Some(id)))
}
