//! Subnets: ranges of addresses on a network.
//!
//! The rules that look at one subnet alone are in `subnet_rules`; here is what concerns its network and its ports. When a
//! SLAAC subnet comes, the network's ports get their addresses in it at once; when it goes, they lose them, because hosts
//! make and drop these addresses themselves.

use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{FixedIp, Network, NetworkId, Port, ProjectId, Route, Subnet, SubnetId, V6Range, V6Shape, eui64};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::auth::Caller;
use crate::state::State;

use super::attribute::{self, Attribute, Fallback};
use super::check::Check;
use super::error::ApiError;
use super::fields::{self, Fields};
use super::network::{self, Networks};
use super::query::Query;
use super::resource::{self, Ask, Resource, Settings};
use super::subnet_rules as rules;

const MODES: &[&str] = &["dhcpv6-stateful", "dhcpv6-stateless", "slaac"];

pub struct Subnets;

impl Resource for Subnets {
    type Model = Subnet;

    const NAME: &'static str = "subnet";
    const COLLECTION: &'static str = "subnets";
    const PATH: &'static str = "subnets";
    const TABLE: &'static [Attribute] = &[
        attribute::ID,
        attribute::NAME,
        attribute::DESCRIPTION,
        attribute::TENANT_ID,
        attribute::PROJECT_ID,
        Attribute::at_birth("network_id", Check::Uuid).or(Fallback::Required),
        Attribute::at_birth("ip_version", Check::IpVersion),
        Attribute::at_birth("subnetpool_id", Check::UuidOrNull).or(Fallback::Null),
        Attribute::at_birth("cidr", Check::CidrOrNull),
        Attribute::writable("gateway_ip", Check::IpOrNull),
        Attribute::writable("allocation_pools", Check::Pools).hidden_from_queries(),
        Attribute::writable("dns_nameservers", Check::Nameservers).hidden_from_queries(),
        Attribute::writable("host_routes", Check::HostRoutes).hidden_from_queries(),
        Attribute::writable("enable_dhcp", Check::Boolean).or(Fallback::True),
        Attribute::at_birth("ipv6_ra_mode", Check::WordOrNull(MODES)),
        Attribute::at_birth("ipv6_address_mode", Check::WordOrNull(MODES)),
        Attribute::read_only("shared"),
        attribute::TAGS,
        attribute::REVISION,
        attribute::CREATED,
        attribute::UPDATED,
    ];

    fn not_found(id: &dyn Display) -> ApiError {
        resource::subnet_not_found(id)
    }

    fn is_visible(state: &State, subnet: &Subnet, caller: &Caller) -> bool {
        state.network(subnet.network).is_some_and(|network| network.is_shared || caller.may_see(&network.project))
    }

    fn show(_state: &State, subnet: &Subnet, _settings: Settings) -> Map<String, Value> {
        let pools: Vec<Value> = subnet.pools.iter().map(|(start, end)| json!({"start": start, "end": end})).collect();
        resource::entries(json!({
            "name": subnet.name,
            "description": subnet.description,
            "network_id": subnet.network,
            "ip_version": version(subnet.cidr),
            "subnetpool_id": null,
            "cidr": subnet.cidr,
            "gateway_ip": subnet.gateway,
            "allocation_pools": pools,
            "dns_nameservers": subnet.dns_servers,
            "host_routes": show_routes(&subnet.host_routes),
            "enable_dhcp": subnet.is_dhcp,
            "ipv6_ra_mode": subnet.ra_mode.map(network::mode_word),
            "ipv6_address_mode": subnet.address_mode.map(network::mode_word),
        }))
    }

    fn candidates<'a>(state: &'a State, query: &Query) -> Box<dyn Iterator<Item = &'a Subnet> + 'a> {
        if let Some(subnets) = resource::by_id::<Subnets>(state, query) {
            return subnets;
        }
        match query.only("network_id").map(str::parse) {
            Some(Ok(network)) => Box::new(state.subnets_of(network)),
            _ => Box::new(state.all()),
        }
    }

    fn show_attribute(subnet: &Subnet, name: &str) -> Option<Value> {
        (name == "name").then(|| subnet.name.as_str().into())
    }

    fn is_same(subnet: &Subnet, fields: &Fields) -> bool {
        fields.parsed("network_id") == Some(subnet.network) && fields.parsed("cidr") == Some(subnet.cidr)
    }

    fn create(ask: &mut Ask, id: Uuid, project: ProjectId, fields: &Fields) -> Result<Subnet, ApiError> {
        let network = own_network(ask, fields)?;
        let cidr = rules::cidr(fields)?;
        let (ra_mode, address_mode) = rules::modes(fields, cidr)?;
        let gateway = rules::gateway(fields, cidr)?;
        let subnet = Subnet {
            id: SubnetId(id),
            network: network.id,
            project,
            name: fields.text("name").unwrap_or_default().to_string(),
            description: fields.text("description").unwrap_or_default().to_string(),
            cidr,
            gateway,
            pools: rules::pools(fields, cidr, gateway)?,
            is_dhcp: fields.boolean("enable_dhcp").unwrap_or(true),
            dns_servers: fields.parsed_list("dns_nameservers").unwrap_or_default(),
            host_routes: routes(fields, "host_routes").unwrap_or_default(),
            ra_mode,
            address_mode,
            standard: ask.born(),
        };
        rules::check(&subnet)?;
        check_overlap(ask.state(), &network, cidr)?;
        network::check_v6_mtu(&network, cidr.addr().is_ipv6())?;
        if subnet.is_slaac() {
            add_automatic_addresses(ask, &subnet);
        }
        Ok(subnet)
    }

    fn update(ask: &mut Ask, subnet: &mut Subnet, fields: &Fields) -> Result<(), ApiError> {
        let before = subnet.clone();
        if let Some(name) = fields.text("name") {
            subnet.name = name.to_string();
        }
        if let Some(description) = fields.text("description") {
            subnet.description = description.to_string();
        }
        subnet.is_dhcp = fields.boolean("enable_dhcp").unwrap_or(subnet.is_dhcp);
        if fields.has("dns_nameservers") {
            subnet.dns_servers = fields.parsed_list("dns_nameservers").unwrap_or_default();
        }
        if fields.has("host_routes") {
            subnet.host_routes = routes(fields, "host_routes").unwrap_or_default();
        }
        if fields.has("gateway_ip") {
            subnet.gateway = fields.parsed("gateway_ip");
        }
        if fields.has("allocation_pools") {
            subnet.pools = rules::pools(fields, subnet.cidr, subnet.gateway)?;
        }
        rules::check_change(&before, subnet)?;
        check_gateway_change(ask.state(), &before, subnet)
    }

    fn delete(ask: &mut Ask, subnet: &Subnet) -> Result<(), ApiError> {
        let has_address = |port: &&Port| port.fixed_ips.iter().any(|fixed| fixed.subnet == subnet.id);
        let (automatic, used): (Vec<&Port>, Vec<&Port>) =
            ask.state().ports_of(subnet.network).filter(has_address).partition(|port| subnet.is_slaac() && !port.is_homeless());
        if !used.is_empty() {
            let message =
                format!("Unable to complete operation on subnet {}: One or more ports have an IP allocation from this subnet.", subnet.id);
            return Err(ApiError::conflict("SubnetInUse", message));
        }
        let automatic: Vec<Port> = automatic.into_iter().cloned().collect();
        for mut port in automatic {
            port.fixed_ips.retain(|fixed| fixed.subnet != subnet.id);
            ask.touch(&mut port.standard);
            ask.tx.put(port);
        }
        Ok(())
    }
}

/// 4 or 6.
pub fn version(net: IpNet) -> u8 {
    if net.addr().is_ipv4() { 4 } else { 6 }
}

pub fn show_routes(routes: &[Route]) -> Vec<Value> {
    routes.iter().map(|route| json!({"destination": route.destination, "nexthop": route.nexthop})).collect()
}

/// The routes of an attribute.
pub fn routes(fields: &Fields, name: &str) -> Option<Vec<Route>> {
    let route =
        |item: &Value| Some(Route { destination: fields::entry(item.get("destination")?)?, nexthop: fields::ip_of(item, "nexthop")? });
    Some(fields.list(name)?.iter().filter_map(route).collect())
}

/// The network of a new subnet: one that the caller sees and owns.
fn own_network(ask: &Ask, fields: &Fields) -> Result<Network, ApiError> {
    let network = resource::visible::<Networks>(ask.state(), fields.text("network_id").unwrap_or_default(), ask.caller)?;
    if ask.caller.may_see(&network.project) { Ok(network.clone()) } else { Err(ApiError::forbidden("rule:create_subnet")) }
}

/// True if one of two prefixes contains the other.
pub fn overlaps(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

fn check_overlap(state: &State, network: &Network, cidr: IpNet) -> Result<(), ApiError> {
    if !state.subnets_of(network.id).any(|subnet| overlaps(subnet.cidr, cidr)) {
        return Ok(());
    }
    let reason = format!("Requested subnet with cidr: {cidr} for network: {} overlaps with another subnet", network.id);
    Err(ApiError::invalid_input(reason))
}

/// A gateway address stays while a router's interface has it.
fn check_gateway_change(state: &State, before: &Subnet, after: &Subnet) -> Result<(), ApiError> {
    let Some(gateway) = before.gateway.filter(|gateway| after.gateway != Some(*gateway)) else { return Ok(()) };
    let Some(port) = state.port_by_ip(before.network, gateway).filter(|port| port.is_router_interface()) else { return Ok(()) };
    let message = format!("Current gateway ip {gateway} already in use by port {}. Unable to update.", port.id);
    Err(ApiError::conflict("GatewayIpInUse", message))
}

/// Gives every port of the network the address that its host will make itself.
///
/// Blocks come first: a port stays in its block only if the block's rule gives it the new address too.
fn add_automatic_addresses(ask: &mut Ask, subnet: &Subnet) {
    let IpNet::V6(prefix) = subnet.cidr else { return };
    let blocks: Vec<model::Block> = ask.state().blocks_of(subnet.network).cloned().collect();
    for mut block in blocks {
        block.v6.push(V6Range { subnet: subnet.id, prefix, shape: V6Shape::Eui64 });
        ask.tx.put(block);
    }
    let ports: Vec<Port> = ports_with_addresses(ask.state(), subnet.network).cloned().collect();
    for mut port in ports {
        port.fixed_ips.push(FixedIp { subnet: subnet.id, ip: IpAddr::V6(eui64(prefix, port.mac)) });
        ask.touch(&mut port.standard);
        ask.tx.put(port);
    }
}

/// Ports whose hosts listen to router advertisements: all with addresses, routers and VIPs apart.
fn ports_with_addresses(state: &State, network: NetworkId) -> impl Iterator<Item = &Port> {
    state.ports_of(network).filter(|port| !port.is_homeless() && !port.fixed_ips.is_empty())
}
