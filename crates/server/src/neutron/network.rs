//! Networks: isolated layer 2 segments.
//!
//! Every network is a tunnelled one; its key is its VNI and is shown as `provider:segmentation_id`. An administrator may
//! choose a free one. VLAN and flat networks, and external ones, are refused: nothing would carry them yet.

use std::fmt::Display;

use model::{Ipv6Mode, Network, NetworkId, NetworkKey, Port, ProjectId, SubnetId, VNI_MAX};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::auth::Caller;
use crate::state::State;

use super::attribute::{self, Attribute, Fallback, Policy};
use super::check::Check;
use super::error::{self, ApiError};
use super::fields::Fields;
use super::resource::{self, Ask, Resource, Settings};
use super::security_group;
use super::subnet::Subnets;

/// Smallest MTU that IPv4 allows (RFC 791).
pub const IPV4_MTU_MIN: i64 = 68;
/// Smallest MTU that IPv6 allows (RFC 8200).
pub const IPV6_MTU_MIN: u16 = 1280;
/// Ports of these owners go away with their network.
const AUTO_DELETED: [&str; 3] = ["network:dhcp", "network:distributed", "network:floatingip_agent_gateway"];

pub struct Networks;

impl Resource for Networks {
    type Model = Network;

    const NAME: &'static str = "network";
    const COLLECTION: &'static str = "networks";
    const PATH: &'static str = "networks";
    const TABLE: &'static [Attribute] = &[
        attribute::ID,
        attribute::NAME,
        attribute::DESCRIPTION,
        attribute::TENANT_ID,
        attribute::PROJECT_ID,
        Attribute::writable("admin_state_up", Check::Boolean).or(Fallback::True),
        Attribute::read_only("status"),
        Attribute::read_only("subnets").hidden_from_queries(),
        Attribute::writable("shared", Check::Boolean).or(Fallback::False).policy(Policy::AdminSets),
        Attribute::writable("mtu", Check::Range(0, u16::MAX as i64)),
        Attribute::writable("port_security_enabled", Check::Boolean).or(Fallback::True),
        Attribute::writable("router:external", Check::Boolean).or(Fallback::False).policy(Policy::AdminSets),
        Attribute::at_birth("provider:network_type", Check::TextOrNull(attribute::TEXT_MAX)).policy(Policy::Admin),
        Attribute::at_birth("provider:physical_network", Check::TextOrNull(attribute::TEXT_MAX)).policy(Policy::Admin),
        Attribute::at_birth("provider:segmentation_id", Check::RangeOrNull(i32::MIN as i64, i32::MAX as i64)).policy(Policy::Admin),
        Attribute::writable("ladon:flooding", Check::Boolean).or(Fallback::True),
        attribute::TAGS,
        attribute::REVISION,
        attribute::CREATED,
        attribute::UPDATED,
    ];

    fn not_found(id: &dyn Display) -> ApiError {
        resource::network_not_found(id)
    }

    fn is_visible(_state: &State, network: &Network, _caller: &Caller) -> bool {
        network.is_shared
    }

    fn show(state: &State, network: &Network, settings: Settings) -> Map<String, Value> {
        let subnets: Vec<SubnetId> = state.subnets_of(network.id).map(|subnet| subnet.id).collect();
        resource::entries(json!({
            "name": network.name,
            "description": network.description,
            "admin_state_up": network.is_admin_up,
            "status": "ACTIVE",
            "subnets": subnets,
            "shared": network.is_shared,
            "mtu": network.mtu,
            "port_security_enabled": network.is_port_security_default,
            "router:external": false,
            "provider:network_type": settings.network_type.word(),
            "provider:physical_network": null,
            "provider:segmentation_id": network.key,
            "ladon:flooding": network.is_flooding,
        }))
    }

    fn show_attribute(network: &Network, name: &str) -> Option<Value> {
        (name == "name").then(|| network.name.as_str().into())
    }

    fn is_same(_network: &Network, _fields: &Fields) -> bool {
        true
    }

    fn create(ask: &mut Ask, id: Uuid, project: ProjectId, fields: &Fields) -> Result<Network, ApiError> {
        refuse_external(fields)?;
        check_provider(fields, ask.settings)?;
        let mtu = mtu(fields, ask.settings)?;
        let key = key(ask, fields)?;
        security_group::ensure_default(ask, &project)?;
        Ok(Network {
            id: NetworkId(id),
            key,
            project,
            name: fields.text("name").unwrap_or_default().to_string(),
            description: fields.text("description").unwrap_or_default().to_string(),
            is_admin_up: fields.boolean("admin_state_up").unwrap_or(true),
            is_shared: fields.boolean("shared").unwrap_or(false),
            mtu,
            is_port_security_default: fields.boolean("port_security_enabled").unwrap_or(true),
            is_flooding: fields.boolean("ladon:flooding").unwrap_or(true),
            standard: ask.born(),
        })
    }

    fn update(ask: &mut Ask, network: &mut Network, fields: &Fields) -> Result<(), ApiError> {
        refuse_external(fields)?;
        if let Some(name) = fields.text("name") {
            network.name = name.to_string();
        }
        if let Some(description) = fields.text("description") {
            network.description = description.to_string();
        }
        network.is_admin_up = fields.boolean("admin_state_up").unwrap_or(network.is_admin_up);
        network.is_port_security_default = fields.boolean("port_security_enabled").unwrap_or(network.is_port_security_default);
        network.is_flooding = fields.boolean("ladon:flooding").unwrap_or(network.is_flooding);
        if fields.has("mtu") {
            network.mtu = mtu(fields, ask.settings)?;
            let has_v6 = ask.state().subnets_of(network.id).any(|subnet| subnet.cidr.addr().is_ipv6());
            check_v6_mtu(network, has_v6)?;
        }
        if let Some(is_shared) = fields.boolean("shared") {
            check_unshare(ask.state(), network, is_shared)?;
            network.is_shared = is_shared;
        }
        Ok(())
    }

    fn delete(ask: &mut Ask, network: &Network) -> Result<(), ApiError> {
        let is_auto = |port: &Port| AUTO_DELETED.contains(&port.device_owner.as_str());
        let (auto, used): (Vec<&Port>, Vec<&Port>) = ask.state().ports_of(network.id).partition(|port| is_auto(port));
        if !used.is_empty() {
            let ids = error::named(used.iter().map(|port| port.id));
            let message = format!(
                "Unable to complete operation on network {}. There are one or more ports still in use on the network, id for \
                 these ports is: {ids}.",
                network.id
            );
            return Err(ApiError::conflict("NetworkInUse", message));
        }
        let auto: Vec<Uuid> = auto.iter().map(|port| port.id.0).collect();
        let subnets: Vec<SubnetId> = ask.state().subnets_of(network.id).map(|subnet| subnet.id).collect();
        auto.into_iter().for_each(|id| ask.tx.delete(resource::key::<super::port::Ports>(id)));
        subnets.into_iter().for_each(|id| ask.tx.delete(resource::key::<Subnets>(id.0)));
        Ok(())
    }
}

fn refuse_external(fields: &Fields) -> Result<(), ApiError> {
    if fields.boolean("router:external") != Some(true) {
        return Ok(());
    }
    Err(ApiError::invalid_input("router:external: this server has no external networks"))
}

fn check_provider(fields: &Fields, settings: Settings) -> Result<(), ApiError> {
    let served = settings.network_type.word();
    let wanted = fields.text("provider:network_type").unwrap_or(served);
    if wanted != served {
        return Err(ApiError::invalid_input(format!(
            "network_type value '{wanted}' not supported: this cluster's networks are '{served}'"
        )));
    }
    if fields.set("provider:physical_network").is_some() {
        return Err(ApiError::invalid_input(format!("provider:physical_network specified for {served} network")));
    }
    Ok(())
}

/// The network's number: the administrator's choice or the next free one.
fn key(ask: &mut Ask, fields: &Fields) -> Result<NetworkKey, ApiError> {
    let is_used = |state: &State, key| state.network_by_key(key).is_some();
    let Some(wanted) = fields.number("provider:segmentation_id") else {
        loop {
            // The next number may be one that an administrator chose.
            let key = ask.tx.network_key()?;
            if !is_used(ask.state(), key) {
                return Ok(key);
            }
        }
    };
    let key = u32::try_from(wanted).ok().filter(|key| (1..=VNI_MAX).contains(key)).map(NetworkKey);
    let key = key.ok_or_else(|| ApiError::invalid_input(format!("segmentation_id out of range (1 through {VNI_MAX})")))?;
    if is_used(ask.state(), key) {
        return Err(ApiError::conflict("TunnelIdInUse", format!("Unable to create the network. The tunnel ID {key} is in use.")));
    }
    Ok(key)
}

/// The wanted MTU; 0 means the default.
fn mtu(fields: &Fields, settings: Settings) -> Result<u16, ApiError> {
    let max = settings.network_mtu;
    match fields.number("mtu").unwrap_or(0) {
        0 => Ok(max),
        mtu if mtu < IPV4_MTU_MIN => {
            Err(ApiError::invalid_attribute("mtu", format!("'{mtu}' is too small - must be at least '{IPV4_MTU_MIN}'")))
        }
        mtu => u16::try_from(mtu)
            .ok()
            .filter(|mtu| *mtu <= max)
            .ok_or_else(|| ApiError::invalid_input(format!("Requested MTU is too big, maximum is {max}"))),
    }
}

/// An MTU that IPv6 cannot live with.
pub fn check_v6_mtu(network: &Network, has_v6: bool) -> Result<(), ApiError> {
    if !has_v6 || network.mtu >= IPV6_MTU_MIN {
        return Ok(());
    }
    let message = format!("MTU of {} is not valid, subnet requires a minimum of {IPV6_MTU_MIN}", network.id);
    Err(ApiError::conflict("NetworkMTUSubnetConflict", message))
}

/// A network that others use stays shared.
fn check_unshare(state: &State, network: &Network, is_shared: bool) -> Result<(), ApiError> {
    let is_others =
        |port: &Port| port.project != network.project && !port.project.0.is_empty() && !port.device_owner.starts_with("network:");
    if is_shared || !network.is_shared || !state.ports_of(network.id).any(is_others) {
        return Ok(());
    }
    let message = format!("Unable to reconfigure sharing settings for network {}. Multiple projects are using it.", network.id);
    Err(ApiError::conflict("InvalidSharedSetting", message))
}

/// The word of an IPv6 mode in the API.
pub fn mode_word(mode: Ipv6Mode) -> &'static str {
    match mode {
        Ipv6Mode::Stateful => "dhcpv6-stateful",
        Ipv6Mode::Stateless => "dhcpv6-stateless",
        Ipv6Mode::Slaac => "slaac",
    }
}
