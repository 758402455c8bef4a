//! A load balancer's VIP: a Neutron port that lives on every node.

use std::net::IpAddr;

use model::{
    FixedIp, Kind, LoadBalancer, LoadBalancerId, Network, NetworkId, ObjectKey, Port, PortId, PortStatus, ProjectId, Subnet, SubnetId,
    VipPort, owner,
};

use super::Ask;
use super::body::{self, Fields};
use super::error::Fault;
use crate::ipam::{self, Wanted};

/// The name of a port that a load balancer made for itself.
fn port_name(id: LoadBalancerId) -> String {
    format!("octavia-lb-{id}")
}

fn device(id: LoadBalancerId) -> String {
    format!("lb-{id}")
}

/// Where a VIP is.
pub struct Vip {
    pub port: PortId,
    pub network: NetworkId,
    pub fixed: FixedIp,
    pub origin: VipPort,
}

/// Makes the VIP's port, or takes the one that the request names.
pub fn take(ask: &mut Ask, id: LoadBalancerId, project: &ProjectId, fields: &Fields) -> Result<Vip, Fault> {
    match fields.id::<PortId>("vip_port_id")? {
        Some(port) => adopt(ask, id, port, fields),
        None => make(ask, id, project, fields),
    }
}

fn adopt(ask: &mut Ask, id: LoadBalancerId, port: PortId, fields: &Fields) -> Result<Vip, Fault> {
    let found = ask.tx.state().port(port).filter(|port| ask.caller.may_see(&port.project));
    let mut port = found.cloned().ok_or_else(|| Fault::missing("Port", port))?;
    if !port.device_owner.is_empty() || !port.device_id.is_empty() || port.home().is_some() {
        let message = format!("VIP port {} is in use by {} '{}'.", port.id, port.device_owner, port.device_id);
        return Err(Fault::conflict(message));
    }
    let (address, subnet) = (fields.address("vip_address")?, fields.id::<SubnetId>("vip_subnet_id")?);
    let fits = |fixed: &&FixedIp| address.is_none_or(|ip| ip == fixed.ip) && subnet.is_none_or(|subnet| subnet == fixed.subnet);
    let fixed = port.fixed_ips.iter().find(fits).copied();
    let fixed = fixed.ok_or_else(|| Fault::validation("Specified VIP address or subnet is none of the VIP port's."))?;
    let network = port.network;
    if fields.id::<NetworkId>("vip_network_id")?.is_some_and(|named| named != network) {
        return Err(Fault::validation("Specified VIP port is not on the specified VIP network."));
    }
    port.device_owner = owner::LOAD_BALANCER.into();
    port.device_id = device(id);
    port.status = if port.is_admin_up { PortStatus::Active } else { PortStatus::Down };
    let vip = Vip { port: port.id, network, fixed, origin: VipPort::Brought };
    ask.tx.put(port);
    Ok(vip)
}

fn make(ask: &mut Ask, id: LoadBalancerId, project: &ProjectId, fields: &Fields) -> Result<Vip, Fault> {
    let address = fields.address("vip_address")?;
    let (network, wanted) = place(ask, fields, address)?;
    let port = ipam::homeless_port(ask.tx, network.id, wanted, project, owner::LOAD_BALANCER, device(id))?;
    let fixed = *port.fixed_ips.first().ok_or_else(|| Fault::validation("the VIP network has no subnet."))?;
    let port = Port {
        name: port_name(id),
        is_port_security: network.is_port_security_default,
        standard: body::standard(ask.tx, &Fields::default())?,
        ..port
    };
    let vip = Vip { port: port.id, network: network.id, fixed, origin: VipPort::Made };
    ask.tx.put(port);
    Ok(vip)
}

/// The network that the request means, and what to want there.
fn place(ask: &Ask, fields: &Fields, address: Option<IpAddr>) -> Result<(Network, Wanted), Fault> {
    let state = ask.tx.state();
    let (network, subnet) = (fields.id::<NetworkId>("vip_network_id")?, fields.id::<SubnetId>("vip_subnet_id")?);
    let subnet = subnet.map(|id| state.subnet(id).ok_or_else(|| Fault::missing("Subnet", id))).transpose()?;
    let id = match (network, subnet) {
        (Some(network), Some(subnet)) if subnet.network != network => {
            return Err(Fault::validation("Supplied VIP subnet's network does not match the VIP network."));
        }
        (_, Some(subnet)) => subnet.network,
        (Some(network), None) => network,
        (None, None) => return Err(Fault::validation("VIP must contain one of: vip_port_id, vip_network_id, vip_subnet_id.")),
    };
    let is_usable = |network: &&Network| network.is_shared || ask.caller.may_see(&network.project);
    let network = state.network(id).filter(is_usable).ok_or_else(|| match subnet {
        Some(subnet) => Fault::missing("Subnet", subnet.id),
        None => Fault::missing("Network", id),
    })?;
    // On another's network, an address may be what its gateway or an address pair has: its owner's to give, as for ports.
    if address.is_some() && !ask.caller.may_see(&network.project) {
        return Err(Fault::forbidden());
    }
    let wanted = match (address, subnet) {
        (Some(ip), subnet) => Wanted::Address { subnet: subnet.map(|subnet| subnet.id), ip },
        (None, Some(subnet)) => Wanted::Subnet(subnet.id),
        (None, None) => Wanted::Subnet(first_subnet(ask, id)?.id),
    };
    Ok((network.clone(), wanted))
}

/// Octavia prefers IPv4 where the request names a network alone.
fn first_subnet<'a>(ask: &'a Ask, network: NetworkId) -> Result<&'a Subnet, Fault> {
    let subnets = ask.tx.state().subnets_of(network);
    let first = subnets.min_by_key(|subnet| (subnet.cidr.addr().is_ipv6(), subnet.standard.created_at.as_str(), subnet.id));
    first.ok_or_else(|| Fault::validation("Supplied network does not contain a subnet."))
}

/// Deletes a port that was made for the VIP; gives one back that the user brought.
pub fn release(ask: &mut Ask, balancer: &LoadBalancer) {
    let Some(mut port) = ask.tx.state().port(balancer.vip_port).cloned() else { return };
    if port.device_id != device(balancer.id) {
        return;
    }
    let is_made = match balancer.vip_port_origin {
        Some(origin) => origin == VipPort::Made,
        None => port.name == port_name(balancer.id),
    };
    if is_made {
        ask.tx.delete(ObjectKey::new(Kind::Port, port.id));
        return;
    }
    port.device_owner = String::new();
    port.device_id = String::new();
    port.status = PortStatus::Down;
    ask.tx.put(port);
}
