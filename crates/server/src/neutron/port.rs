//! Ports: where something is plugged into a network.
//!
//! The network decides who may see a port, IPAM which addresses it gets, `port_rules` how port security, groups and address
//! pairs go together. A port's host (`binding:host_id`) is the administrator's to say; changing it moves the port.

use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{AddressPair, DhcpOption, FixedIp, Mac, Network, Node, NodeName, Port, PortId, PortStatus, ProjectId, SecurityGroupId, owner};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::auth::Caller;
use crate::ipam::{self, Wanted};
use crate::state::State;
use crate::views::Claims;

use super::attribute::{self, Attribute, Fallback, Policy};
use super::check::Check;
use super::error::ApiError;
use super::fields::{self, Fields};
use super::network::Networks;
use super::query::Query;
use super::resource::{self, Ask, Resource, Settings};
use super::{interface, port_rules as rules, security_group, tags};

/// What `device_owner` begins with where nodes act on it: they make routes on their host for it, or enter a pod.
const LADON_OWNERS: &str = "ladon:";
/// The only kind of interface that Ladon plugs.
const VNIC_NORMAL: &str = "normal";

pub struct Ports;

impl Resource for Ports {
    type Model = Port;

    const NAME: &'static str = "port";
    const COLLECTION: &'static str = "ports";
    const PATH: &'static str = "ports";
    const TABLE: &'static [Attribute] = &[
        attribute::ID,
        attribute::NAME,
        attribute::DESCRIPTION,
        attribute::TENANT_ID,
        attribute::PROJECT_ID,
        Attribute::at_birth("network_id", Check::Uuid).or(Fallback::Required),
        Attribute::writable("admin_state_up", Check::Boolean).or(Fallback::True),
        Attribute::writable("mac_address", Check::Mac),
        Attribute::writable("fixed_ips", Check::FixedIps).unsorted(),
        Attribute::writable("device_id", Check::Text(attribute::TEXT_MAX)).or(Fallback::EmptyText),
        Attribute::writable("device_owner", Check::Text(attribute::TEXT_MAX)).or(Fallback::EmptyText),
        Attribute::read_only("status"),
        Attribute::writable("port_security_enabled", Check::Boolean),
        Attribute::writable("security_groups", Check::UuidList).unsorted(),
        Attribute::writable("allowed_address_pairs", Check::AddressPairs).unsorted(),
        Attribute::writable("extra_dhcp_opts", Check::DhcpOptions).hidden_from_queries(),
        Attribute::writable("binding:vnic_type", Check::Text(attribute::TEXT_MAX)),
        Attribute::writable("binding:profile", Check::Dictionary).policy(Policy::Admin).hidden_from_queries(),
        Attribute::writable("binding:host_id", Check::TextOrNull(attribute::TEXT_MAX)).policy(Policy::Admin),
        Attribute::read_only("binding:vif_type").policy(Policy::Admin),
        Attribute::read_only("binding:vif_details").policy(Policy::Admin).hidden_from_queries(),
        Attribute::read_only("ladon:conflicts").policy(Policy::Admin).hidden_from_queries(),
        Attribute::at_birth("tags", Check::Words(tags::TAG_MAX)).or(Fallback::EmptyList).unsorted(),
        attribute::REVISION,
        attribute::CREATED,
        attribute::UPDATED,
    ];

    fn not_found(id: &dyn Display) -> ApiError {
        resource::port_not_found(id)
    }

    fn is_visible(state: &State, port: &Port, caller: &Caller) -> bool {
        state.network(port.network).is_some_and(|network| caller.may_see(&network.project))
    }

    fn is_deletable(state: &State, port: &Port, caller: &Caller) -> bool {
        Ports::is_visible(state, port, caller)
    }

    fn show(state: &State, port: &Port, _settings: Settings) -> Map<String, Value> {
        let mut shown = resource::entries(json!({
            "name": port.name,
            "description": port.description,
            "network_id": port.network,
            "admin_state_up": port.is_admin_up,
            "mac_address": port.mac,
            "fixed_ips": port.fixed_ips.iter().map(show_fixed_ip).collect::<Vec<_>>(),
            "device_id": port.device_id,
            "device_owner": port.device_owner,
            "status": status_word(port.status),
            "port_security_enabled": port.is_port_security,
            "security_groups": port.security_groups,
            "allowed_address_pairs": port.address_pairs.iter().map(show_pair).collect::<Vec<_>>(),
            "extra_dhcp_opts": port.dhcp_options.iter().map(show_option).collect::<Vec<_>>(),
        }));
        shown.append(&mut show_binding(state, port));
        shown
    }

    fn show_attribute(port: &Port, name: &str) -> Option<Value> {
        Some(match name {
            "name" => port.name.as_str().into(),
            "network_id" => json!(port.network),
            "mac_address" => json!(port.mac),
            "fixed_ips" => port.fixed_ips.iter().map(show_fixed_ip).collect(),
            "device_id" => port.device_id.as_str().into(),
            "device_owner" => port.device_owner.as_str().into(),
            "status" => status_word(port.status).into(),
            _ => return None,
        })
    }

    fn show_claims(port: &Port, claims: &Claims) -> Map<String, Value> {
        resource::entries(json!({ "ladon:conflicts": claims.conflicts(port) }))
    }

    fn candidates<'a>(state: &'a State, query: &Query) -> Box<dyn Iterator<Item = &'a Port> + 'a> {
        if let Some(ports) = resource::by_id::<Ports>(state, query) {
            return ports;
        }
        if let Some(device) = query.only("device_id").filter(|device| !device.is_empty()) {
            return Box::new(state.ports_of_device(device.to_string()));
        }
        if let Some(Ok(network)) = query.only("network_id").map(str::parse) {
            return Box::new(state.ports_of(network));
        }
        if let Some(host) = query.only("binding:host_id").filter(|host| !host.is_empty()) {
            return Box::new(state.ports_at(NodeName(host.to_string())));
        }
        if let Some(Ok(group)) = query.only("security_groups").map(str::parse) {
            return Box::new(state.ports_in_group(group));
        }
        Box::new(state.all())
    }

    fn is_same(port: &Port, fields: &Fields) -> bool {
        let device = fields.text("device_id").unwrap_or_default();
        fields.parsed("network_id") == Some(port.network) && device == port.device_id
    }

    fn create(ask: &mut Ask, id: Uuid, project: ProjectId, fields: &Fields) -> Result<Port, ApiError> {
        let network = resource::visible::<Networks>(ask.state(), fields.text("network_id").unwrap_or_default(), ask.caller)?.clone();
        allow_on(ask, &network, fields, "create")?;
        allow_device(ask.caller, fields, None)?;
        check_device(fields, None)?;
        check_binding(fields)?;
        let device_owner = fields.text("device_owner").unwrap_or_default().to_string();
        let host = fields.text("binding:host_id").filter(|host| !host.is_empty()).map(|host| NodeName(host.to_string()));
        let wanted = wanted(ask.state(), fields)?;
        let request = ipam::Request {
            network: network.id,
            device_owner: &device_owner,
            host: host.as_ref(),
            wanted: wanted.as_deref(),
            mac: rules::mac(fields)?,
            existing: None,
        };
        let allocation = ipam::allocate(ask.tx, &request)?;
        let mut port = Port {
            id: PortId(id),
            key: ask.tx.port_key()?,
            network: network.id,
            project,
            name: fields.text("name").unwrap_or_default().to_string(),
            description: fields.text("description").unwrap_or_default().to_string(),
            is_admin_up: fields.boolean("admin_state_up").unwrap_or(true),
            mac: allocation.mac,
            fixed_ips: allocation.fixed_ips,
            address_pairs: pairs(fields, allocation.mac).unwrap_or_default(),
            is_port_security: false,
            security_groups: Vec::new(),
            device_owner,
            device_id: fields.text("device_id").unwrap_or_default().to_string(),
            host,
            claimed_by: None,
            vnic_type: VNIC_NORMAL.to_string(),
            dhcp_options: options(&[], fields),
            block: allocation.block,
            status: PortStatus::Down,
            standard: ask.born(),
        };
        port.standard.tags = fields.list("tags").unwrap_or_default().iter().filter_map(fields::entry).collect();
        rules::secure(ask, &mut port, &network, fields)?;
        Ok(port)
    }

    fn update(ask: &mut Ask, port: &mut Port, fields: &Fields) -> Result<(), ApiError> {
        let network = ask.state().network(port.network).cloned().ok_or_else(|| resource::network_not_found(&port.network))?;
        allow_on(ask, &network, fields, "update")?;
        allow_device(ask.caller, fields, Some(port))?;
        check_device(fields, Some(port))?;
        check_vip(ask, port, fields)?;
        check_binding(fields)?;
        set_plain(port, fields);
        move_to(port, fields);
        set_addresses(ask, port, fields)?;
        if fields.has("allowed_address_pairs") {
            port.address_pairs = pairs(fields, port.mac).unwrap_or_default();
        }
        if fields.has("extra_dhcp_opts") {
            port.dhcp_options = options(&port.dhcp_options, fields);
        }
        rules::resecure(ask, port, fields)?;
        if port.is_homeless() {
            port.status = if port.is_admin_up { PortStatus::Active } else { PortStatus::Down };
        }
        Ok(())
    }

    fn delete(ask: &mut Ask, port: &Port) -> Result<(), ApiError> {
        let is_of_router = port.router().is_some_and(|router| ask.state().router(router).is_some());
        let reason = match ask.state().load_balancer_of(port.id) {
            Some(balancer) => format!("is the VIP of load balancer {}", balancer.id),
            None if is_of_router => format!("has device owner {}", port.device_owner),
            None => return Ok(()),
        };
        let message = format!("Port {} cannot be deleted directly via the port API: {reason}.", port.id);
        Err(ApiError::conflict("ServicePortInUse", message))
    }
}

pub fn show_fixed_ip(fixed: &FixedIp) -> Value {
    json!({"subnet_id": fixed.subnet, "ip_address": fixed.ip})
}

fn show_pair(pair: &AddressPair) -> Value {
    let is_single = pair.ip.prefix_len() == pair.ip.max_prefix_len();
    let ip = if is_single { json!(pair.ip.addr()) } else { json!(pair.ip) };
    json!({"ip_address": ip, "mac_address": pair.mac})
}

fn show_option(option: &DhcpOption) -> Value {
    json!({"opt_name": option.name, "opt_value": option.value, "ip_version": option.ip_version})
}

/// Where Nova's os-vif plugs the port in: what its host says of itself, and the usual until it has said something.
fn show_binding(state: &State, port: &Port) -> Map<String, Value> {
    let is_bound = port.host.is_some();
    let home = port.home().and_then(|home| state.node(home));
    let said = |what: fn(&Node) -> &str, usual: &'static str| home.map(what).filter(|said| !said.is_empty()).unwrap_or(usual).to_string();
    let (bridge, datapath) = (said(|node| &node.bridge, "br-int"), said(|node| &node.datapath, "system"));
    let details = json!({"port_filter": true, "connectivity": "l2", "bridge_name": bridge, "datapath_type": datapath});
    resource::entries(json!({
        "binding:vnic_type": port.vnic_type,
        "binding:profile": {},
        "binding:host_id": port.host.as_ref().map_or("", |host| host.0.as_str()),
        "binding:vif_type": if is_bound { "ovs" } else { "unbound" },
        "binding:vif_details": if is_bound { details } else { json!({}) },
    }))
}

fn status_word(status: PortStatus) -> &'static str {
    match status {
        PortStatus::Active => "ACTIVE",
        PortStatus::Down => "DOWN",
    }
}

/// On another project's network, what weakens the network's protection is its owner's to set.
fn allow_on(ask: &Ask, network: &Network, fields: &Fields, verb: &str) -> Result<(), ApiError> {
    let caller = ask.caller;
    if caller.is_admin {
        return Ok(());
    }
    let is_owner = caller.may_see(&network.project);
    let forbid = |name: &str| Err(ApiError::forbidden(format!("(rule:{verb}_port and rule:{verb}_port:{name})")));
    if verb == "update" && fields.is_said("mac_address") {
        return forbid("mac_address");
    }
    if is_owner {
        return Ok(());
    }
    let reserved = ["mac_address", "port_security_enabled", "allowed_address_pairs"];
    if let Some(name) = reserved.into_iter().find(|name| fields.is_said(name)) {
        return forbid(name);
    }
    if fields.text("device_owner").is_some_and(|owner| owner.starts_with("network:")) {
        return forbid("device_owner");
    }
    let names_address = |item: &Value| item.get("ip_address").is_some();
    if fields.list("fixed_ips").is_some_and(|items| items.iter().any(names_address)) {
        return forbid("fixed_ips:ip_address");
    }
    Ok(())
}

/// What Ladon's own owners make nodes do is for administrators to ask, and so is for which device. (The host always is.)
fn allow_device(caller: &Caller, fields: &Fields, port: Option<&Port>) -> Result<(), ApiError> {
    let verb = if port.is_some() { "update" } else { "create" };
    let (owner, device) = port.map_or(("", ""), |port| (&port.device_owner, &port.device_id));
    let new = |name: &str, had: &str| fields.text(name).filter(|said| *said != had);
    let is_ladons = owner.starts_with(LADON_OWNERS);
    let odd = match (new("device_owner", owner), new("device_id", device)) {
        (Some(said), _) if is_ladons || said.starts_with(LADON_OWNERS) => "device_owner",
        (_, Some(_)) if is_ladons => "device_id",
        _ => return Ok(()),
    };
    if caller.is_admin { Ok(()) } else { Err(ApiError::forbidden(format!("(rule:{verb}_port and rule:{verb}_port:{odd})"))) }
}

/// A VIP's addresses are its load balancer's: they change with it or not at all.
fn check_vip(ask: &Ask, port: &Port, fields: &Fields) -> Result<(), ApiError> {
    match ask.state().load_balancer_of(port.id) {
        Some(balancer) if fields.has("fixed_ips") || fields.has("mac_address") => {
            let message = format!("Addresses of port {} cannot be changed: it is the VIP of load balancer {}.", port.id, balancer.id);
            Err(ApiError::conflict("ServicePortInUse", message))
        }
        _ => Ok(()),
    }
}

/// Router interfaces are made and unmade by the router's own calls, VIPs by the load balancer's.
fn check_device(fields: &Fields, port: Option<&Port>) -> Result<(), ApiError> {
    let reserved = [owner::ROUTER_INTERFACE, owner::LOAD_BALANCER];
    let refuse = |verb: &str, owner: &str, id: String| {
        let message = format!("Operation {verb} is not supported for device_owner {owner} on port {id}.");
        Err(ApiError::conflict("UnsupportedPortDeviceOwner", message))
    };
    let new_owner = fields.text("device_owner");
    match port {
        None => match new_owner.filter(|owner| reserved.contains(owner)) {
            Some(owner) => refuse("create_port", owner, "(new)".to_string()),
            None => Ok(()),
        },
        Some(port) => {
            let is_changed = new_owner.is_some_and(|owner| owner != port.device_owner)
                || fields.text("device_id").is_some_and(|id| id != port.device_id);
            let names = [Some(port.device_owner.as_str()), new_owner];
            let odd = names.into_iter().flatten().find(|owner| reserved.contains(owner));
            match odd.filter(|_| is_changed) {
                Some(owner) => refuse("update_port", owner, port.id.to_string()),
                None => Ok(()),
            }
        }
    }
}

fn check_binding(fields: &Fields) -> Result<(), ApiError> {
    if let Some(vnic) = fields.text("binding:vnic_type").filter(|vnic| *vnic != VNIC_NORMAL) {
        return Err(ApiError::invalid_attribute("binding:vnic_type", format!("{vnic} is not in ['{VNIC_NORMAL}']")));
    }
    let is_empty = fields.get("binding:profile").and_then(Value::as_object).is_none_or(Map::is_empty);
    if is_empty { Ok(()) } else { Err(ApiError::invalid_attribute("binding:profile", "this server keeps no profile: it must be empty")) }
}

/// What the request says about addresses. None: nothing.
fn wanted(state: &State, fields: &Fields) -> Result<Option<Vec<Wanted>>, ApiError> {
    let Some(items) = fields.list("fixed_ips") else { return Ok(None) };
    let wanted = |item: &Value| {
        let subnet = item.get("subnet_id").and_then(fields::entry);
        if let Some(id) = subnet
            && state.subnet(id).is_none()
        {
            return Err(resource::subnet_not_found(&id));
        }
        match (fields::ip_of(item, "ip_address"), subnet) {
            (Some(ip), subnet) => Ok(Wanted::Address { subnet, ip }),
            (None, Some(subnet)) => Ok(Wanted::Subnet(subnet)),
            (None, None) => Err(ApiError::invalid_input("IP allocation requires subnet_id or ip_address")),
        }
    };
    items.iter().map(wanted).collect::<Result<Vec<_>, _>>().map(Some)
}

/// The address pairs of a request; a pair without a MAC has the port's.
fn pairs(fields: &Fields, own: Mac) -> Option<Vec<AddressPair>> {
    let pair = |item: &Value| {
        let net = || item.get("ip_address").and_then(fields::entry::<IpNet>);
        let ip = net().or_else(|| fields::ip_of(item, "ip_address").map(|ip: IpAddr| ip.into()))?;
        Some(AddressPair { ip, mac: item.get("mac_address").and_then(fields::entry).unwrap_or(own) })
    };
    Some(fields.list("allowed_address_pairs")?.iter().filter_map(pair).collect())
}

/// The options that the port had, changed as the request says: a null value takes one away.
fn options(had: &[DhcpOption], fields: &Fields) -> Vec<DhcpOption> {
    let mut options = had.to_vec();
    for item in fields.list("extra_dhcp_opts").unwrap_or_default() {
        let text = |key: &str| item.get(key).and_then(Value::as_str).map(str::to_string);
        let Some(name) = text("opt_name") else { continue };
        let ip_version = if item.get("ip_version").and_then(Value::as_i64) == Some(6) { 6 } else { 4 };
        options.retain(|option| (option.name.as_str(), option.ip_version) != (name.as_str(), ip_version));
        options.extend(text("opt_value").map(|value| DhcpOption { name, value, ip_version }));
    }
    options
}

fn set_plain(port: &mut Port, fields: &Fields) {
    let text = |name: &str, had: &str| fields.text(name).unwrap_or(had).to_string();
    port.name = text("name", &port.name);
    port.description = text("description", &port.description);
    port.device_id = text("device_id", &port.device_id);
    port.device_owner = text("device_owner", &port.device_owner);
    port.is_admin_up = fields.boolean("admin_state_up").unwrap_or(port.is_admin_up);
}

/// A new host is a new home: the port is down until that node has it.
fn move_to(port: &mut Port, fields: &Fields) {
    if !fields.has("binding:host_id") {
        return;
    }
    let home = port.home().cloned();
    let host = fields.text("binding:host_id").filter(|host| !host.is_empty()).map(|host| NodeName(host.to_string()));
    if host == port.host {
        return;
    }
    port.host = host;
    port.claimed_by = None;
    if port.home() != home.as_ref() {
        port.status = PortStatus::Down;
    }
}

/// New addresses, a new MAC, or both; a block that they no longer follow from is left.
fn set_addresses(ask: &mut Ask, port: &mut Port, fields: &Fields) -> Result<(), ApiError> {
    let new_mac = rules::mac(fields)?.filter(|mac| *mac != port.mac);
    rules::check_mac_change(port, new_mac)?;
    if new_mac.is_none() && !fields.has("fixed_ips") && !fields.has("binding:host_id") {
        return Ok(());
    }
    let kept = || port.fixed_ips.iter().map(|fixed| keep(ask.state(), fixed)).collect();
    let wanted = wanted(ask.state(), fields)?.unwrap_or_else(kept);
    let request = ipam::Request {
        network: port.network,
        device_owner: &port.device_owner,
        host: port.host.as_ref(),
        wanted: Some(&wanted),
        mac: new_mac,
        existing: Some(port),
    };
    let allocation = ipam::allocate(ask.tx, &request)?;
    // A pair that followed the port's MAC follows it still.
    let old_mac = port.mac;
    port.address_pairs.iter_mut().filter(|pair| pair.mac == old_mac).for_each(|pair| pair.mac = allocation.mac);
    if allocation.fixed_ips.iter().collect::<std::collections::BTreeSet<_>>() != port.fixed_ips.iter().collect() {
        port.fixed_ips = allocation.fixed_ips;
        interface::check_addresses(ask.state(), port)?;
    }
    port.mac = allocation.mac;
    port.block = allocation.block;
    Ok(())
}

/// An address that the port has already: by name, unless it follows from the MAC.
fn keep(state: &State, fixed: &FixedIp) -> Wanted {
    match state.subnet(fixed.subnet) {
        Some(subnet) if subnet.is_slaac() => Wanted::Subnet(fixed.subnet),
        _ => Wanted::Address { subnet: Some(fixed.subnet), ip: fixed.ip },
    }
}

/// The groups that a request names.
pub fn named_groups(fields: &Fields) -> Option<Vec<SecurityGroupId>> {
    match fields.is_null("security_groups") {
        true => Some(Vec::new()),
        false => fields.parsed_list("security_groups"),
    }
}

/// The default group of a port's project.
pub fn default_group(ask: &mut Ask, port: &Port) -> Result<SecurityGroupId, ApiError> {
    security_group::ensure_default(ask, &port.project)
}
