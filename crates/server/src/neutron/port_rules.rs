//! How port security, security groups, address pairs and MACs go together.
//!
//! | | with an address | without |
//! |---|---|---|
//! | port security on | the default group, unless groups are named | no groups |
//! | port security off | no groups, no address pairs | the same |
//!
//! Ports of the network itself (`device_owner` `network:…`) have no port security: nothing guards a router from itself.

use model::{Mac, Network, Port, PortStatus};

use super::error::ApiError;
use super::fields::Fields;
use super::port::{default_group, named_groups};
use super::resource::{self, Ask};

/// The MAC that a request names: one interface's, not a group's.
pub fn mac(fields: &Fields) -> Result<Option<Mac>, ApiError> {
    match fields.parsed::<Mac>("mac_address") {
        Some(mac) if mac.is_multicast() => Err(ApiError::invalid_attribute("mac_address", format!("'{mac}' is not a valid MAC address"))),
        mac => Ok(mac),
    }
}

/// A bound port's interface exists already, with the MAC that it has.
pub fn check_mac_change(port: &Port, new: Option<Mac>) -> Result<(), ApiError> {
    let Some(mac) = new.filter(|_| port.host.is_some()) else { return Ok(()) };
    let message = format!(
        "Unable to complete operation on port {}, port is already bound, port type: ovs, old_mac {}, new_mac {mac}.",
        port.id, port.mac
    );
    Err(ApiError::conflict("PortBound", message))
}

/// Settles port security, groups and first status of a new port.
pub fn secure(ask: &mut Ask, port: &mut Port, network: &Network, fields: &Fields) -> Result<(), ApiError> {
    let is_trusted = port.device_owner.starts_with("network:");
    let groups = named_groups(fields);
    let has_groups = groups.as_ref().is_some_and(|groups| !groups.is_empty());
    let usual = network.is_port_security_default || (has_groups && !port.fixed_ips.is_empty());
    port.is_port_security = !is_trusted && fields.boolean("port_security_enabled").unwrap_or(usual);
    let is_guarded = port.is_port_security && !port.fixed_ips.is_empty();
    if has_groups && !is_guarded {
        return Err(groups_need_security());
    }
    port.security_groups = match groups {
        Some(groups) => groups,
        None if is_guarded => vec![default_group(ask, port)?],
        None => Vec::new(),
    };
    check_groups(ask, port)?;
    check_pairs(port)?;
    if port.is_homeless() && port.is_admin_up {
        port.status = PortStatus::Active;
    }
    Ok(())
}

/// The same for a port that changes.
pub fn resecure(ask: &mut Ask, port: &mut Port, fields: &Fields) -> Result<(), ApiError> {
    let is_trusted = port.device_owner.starts_with("network:");
    port.is_port_security = !is_trusted && fields.boolean("port_security_enabled").unwrap_or(port.is_port_security);
    let groups = named_groups(fields);
    let is_named = groups.is_some();
    if is_trusted && !is_named {
        port.security_groups.clear();
    }
    if let Some(groups) = groups {
        port.security_groups = groups;
        check_groups(ask, port)?;
    }
    // A port that lost its last address with a SLAAC subnet keeps its groups, and can still be renamed.
    let is_touched = is_named || fields.has("port_security_enabled") || fields.has("fixed_ips");
    if is_touched && !port.security_groups.is_empty() && (!port.is_port_security || port.fixed_ips.is_empty()) {
        return Err(if is_named { groups_need_security() } else { groups_remain() });
    }
    check_pairs(port)
}

fn groups_need_security() -> ApiError {
    let message = "Port security must be enabled and port must have an IP address in order to use security groups.";
    ApiError::bad("PortSecurityAndIPRequiredForSecurityGroups", message)
}

fn groups_remain() -> ApiError {
    let message = "Port has security group associated. Cannot disable port security or IP address until security group is removed.";
    ApiError::conflict("PortSecurityPortHasSecurityGroup", message)
}

/// Every group exists, and belongs to the caller or to the port's project.
fn check_groups(ask: &Ask, port: &Port) -> Result<(), ApiError> {
    for id in &port.security_groups {
        let group = ask.state().group(*id);
        let is_usable = group.is_some_and(|group| ask.caller.may_see(&group.project) || group.project == port.project);
        if !is_usable {
            return Err(resource::group_not_found(id));
        }
    }
    Ok(())
}

fn check_pairs(port: &Port) -> Result<(), ApiError> {
    if port.is_port_security || port.address_pairs.is_empty() {
        return Ok(());
    }
    let message = "Port Security must be enabled in order to have allowed address pairs on a port.";
    Err(ApiError::conflict("AddressPairAndPortSecurityRequired", message))
}
