//! IP address management: which addresses and which MAC a port gets.
//!
//! A pod's port (its host is known when it is made) gets an IPv4 address out of a block of its node, and MAC and IPv6 addresses
//! that follow from it, so that other nodes need to know the block and not the port (`blocks`). Every other port gets single
//! addresses from the subnets' pools (`pool`), and a random MAC with Neutron's prefix. Addresses of SLAAC subnets follow
//! from the MAC. Whoever writes or deletes a port, the addresses it gains and loses are tracked by the transaction
//! (`track`): a freed address is the last to be used again, and within [`QUARANTINE_SECS`] only when there is no
//! other (`space`).
//!
//! Nothing here hands out a number twice: all of it runs on the one writer, on a state that has every earlier effect.

mod blocks;
mod pool;
mod space;
mod track;

use std::net::IpAddr;

use ipnet::IpNet;
use model::{
    Block, BlockId, FixedIp, Mac, Network, NetworkId, NodeName, Port, PortId, PortStatus, ProjectId, Standard, Subnet, SubnetId, eui64,
    owner,
};
use uuid::Uuid;

use crate::writer::{Tx, WriteError};

pub(crate) use blocks::without_subnet;
pub use blocks::{BLOCKS_MIN, idle_blocks, release_idle};
pub(crate) use space::Spaces;
pub use space::{FREED_MAX, QUARANTINE_SECS};
pub(crate) use track::{changed, settled};

/// What a port wants for one of its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Any free address of this subnet.
    Subnet(SubnetId),
    /// This address; in this subnet where one is named, otherwise in the subnet of the network that contains it.
    Address { subnet: Option<SubnetId>, ip: IpAddr },
}

/// A port that needs addresses.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub network: NetworkId,
    /// The port's `device_owner`: pods get block addresses, router interfaces may have the gateway's.
    pub device_owner: &'a str,
    /// The port's `binding:host_id`, where it is known already.
    pub host: Option<&'a NodeName>,
    /// None: one IPv4 address, one IPv6 address, and one of each SLAAC subnet, as far as the network has such subnets.
    /// Some of an empty slice: no address.
    pub wanted: Option<&'a [Wanted]>,
    /// The MAC that the user chose.
    pub mac: Option<Mac>,
    /// The port as it is, when it changes: it keeps what it has and still wants.
    pub existing: Option<&'a Port>,
}

/// What a port gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allocation {
    pub fixed_ips: Vec<FixedIp>,
    pub mac: Mac,
    /// Set when everything about the port is as the block's rule gives it.
    pub block: Option<BlockId>,
}

/// Why a port does not get what it wants.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    #[error("network {0} does not exist")]
    NetworkNotFound(NetworkId),
    #[error("subnet {subnet} is no subnet of network {network}")]
    SubnetNotFound { subnet: SubnetId, network: NetworkId },
    #[error("IP address {ip} is not a valid IP for any of the subnets on network {network}")]
    InvalidIpForNetwork { ip: IpAddr, network: NetworkId },
    #[error("IP address {ip} is not a valid IP for subnet {subnet}")]
    InvalidIpForSubnet { ip: IpAddr, subnet: SubnetId },
    /// A host of a SLAAC subnet makes its own address: nobody can choose it.
    #[error("IPv6 address {ip} cannot be chosen: subnet {subnet} is configured for automatic addresses")]
    AutomaticSubnet { ip: IpAddr, subnet: SubnetId },
    #[error("IP address {ip} of network {network} is in use by port {port}")]
    IpAddressInUse { ip: IpAddr, network: NetworkId, port: PortId },
    #[error("MAC address {mac} of network {network} is in use by port {port}")]
    MacAddressInUse { mac: Mac, network: NetworkId, port: PortId },
    #[error("no MAC address is free on network {0}")]
    MacsExhausted(NetworkId),
    /// Nothing is free in the subnets that would do.
    #[error("no more IP addresses available on network {network}")]
    Exhausted { network: NetworkId, subnets: Vec<SubnetId> },
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The first three bytes of a MAC that nobody chose: Neutron's default.
const MAC_PREFIX: [u8; 3] = [0xfa, 0x16, 0x3e];

/// Chooses addresses and a MAC for a port. Nothing is taken until the port is [`put`](Tx::put) in the same transaction: for
/// several ports, allocate and put one after the other.
pub fn allocate(tx: &mut Tx, request: &Request) -> Result<Allocation, IpamError> {
    let network = tx.state().network(request.network).cloned().ok_or(IpamError::NetworkNotFound(request.network))?;
    let subnets = subnets(tx, network.id);
    if let Some(allocation) = block_allocation(tx, request, &network, &subnets) {
        return Ok(allocation);
    }
    let mac = mac(tx, request)?;
    let fixed_ips = Addresses { tx, request, subnets: &subnets, mac, chosen: Vec::new() }.all()?;
    let block = block_of(tx, request, &fixed_ips, mac);
    Ok(Allocation { fixed_ips, mac, block })
}

/// A port of the server's own making, for a router's interface or a VIP: it has no home, and works as soon as it is there.
/// Its bookkeeping is the caller's.
pub fn homeless_port(
    tx: &mut Tx,
    network: NetworkId,
    wanted: Wanted,
    project: &ProjectId,
    device_owner: &str,
    device_id: String,
) -> Result<Port, IpamError> {
    let request = Request { network, device_owner, host: None, wanted: Some(&[wanted]), mac: None, existing: None };
    let Allocation { fixed_ips, mac, block: _ } = allocate(tx, &request)?;
    Ok(Port {
        id: PortId(Uuid::new_v4()),
        key: tx.port_key()?,
        network,
        project: project.clone(),
        name: String::new(),
        description: String::new(),
        is_admin_up: true,
        mac,
        fixed_ips,
        address_pairs: Vec::new(),
        is_port_security: false,
        security_groups: Vec::new(),
        device_owner: device_owner.to_string(),
        device_id,
        host: None,
        claimed_by: None,
        vnic_type: "normal".to_string(),
        dhcp_options: Vec::new(),
        block: None,
        status: PortStatus::Active,
        standard: Standard::default(),
    })
}

/// The subnets of a network, oldest first.
fn subnets(tx: &Tx, network: NetworkId) -> Vec<Subnet> {
    let mut subnets: Vec<Subnet> = tx.state().subnets_of(network).cloned().collect();
    subnets.sort_by(|a, b| (&a.standard.created_at, a.id).cmp(&(&b.standard.created_at, b.id)));
    subnets
}

fn block_allocation(tx: &mut Tx, request: &Request, network: &Network, subnets: &[Subnet]) -> Option<Allocation> {
    let is_plain = request.existing.is_none() && request.wanted.is_none() && request.mac.is_none();
    let host = request.host.filter(|_| is_plain && request.device_owner == owner::POD)?;
    blocks::allocate(tx, network, subnets, host)
}

/// The block that all of this follows from, if there is one.
fn block_of(tx: &Tx, request: &Request, fixed_ips: &[FixedIp], mac: Mac) -> Option<BlockId> {
    let host = request.host?;
    let v4 = fixed_ips.iter().find(|fixed| fixed.ip.is_ipv4())?;
    let block = blocks::around(tx.state(), request.network, v4.ip)?;
    blocks::is_by_rule(block, request.network, host, fixed_ips, mac).then_some(block.id)
}

fn mac(tx: &Tx, request: &Request) -> Result<Mac, IpamError> {
    let own = request.existing.map(|port| port.id);
    let user = |mac| tx.state().port_by_mac(request.network, mac).map(|port| port.id).filter(|port| Some(*port) != own);
    if let Some(mac) = request.mac {
        let in_use = |port| IpamError::MacAddressInUse { mac, network: request.network, port };
        return user(mac).map_or(Ok(mac), |port| Err(in_use(port)));
    }
    if let Some(port) = request.existing {
        return Ok(port.mac);
    }
    if let Some(mac) = mac_by_rule(request).filter(|mac| user(*mac).is_none()) {
        return Ok(mac);
    }
    // 2^24 MACs: another try is rare and a third one rarer.
    let random = std::iter::repeat_with(|| {
        let [a, b, c] = MAC_PREFIX;
        let [d, e, f]: [u8; 3] = rand::random();
        Mac([a, b, c, d, e, f])
    });
    first_free(random, |mac| user(mac).is_none()).ok_or(IpamError::MacsExhausted(request.network))
}

/// A pod that asks for an address has had it, and with it the MAC that the rule of blocks gave: there may be no block around it any more.
fn mac_by_rule(request: &Request) -> Option<Mac> {
    let wanted = request.wanted.filter(|_| request.host.is_some() && request.device_owner == owner::POD)?;
    wanted.iter().find_map(|wanted| match wanted {
        Wanted::Address { ip: IpAddr::V4(ip), .. } => Some(Block::mac(*ip)),
        Wanted::Address { .. } | Wanted::Subnet(_) => None,
    })
}

fn first_free(macs: impl Iterator<Item = Mac>, is_free: impl Fn(Mac) -> bool) -> Option<Mac> {
    macs.take(MAC_TRIES_MAX).find(|mac| is_free(*mac))
}

/// Random MACs that are tried before the network counts as full.
const MAC_TRIES_MAX: usize = 1000;

/// True if a host may have this address: in the subnet, and not its network or broadcast address.
pub fn is_host_address(subnet: &Subnet, ip: IpAddr) -> bool {
    let is_special = match subnet.cidr {
        IpNet::V4(cidr) if cidr.prefix_len() >= 31 => false,
        IpNet::V4(cidr) => ip == cidr.network() || ip == cidr.broadcast(),
        IpNet::V6(cidr) => cidr.prefix_len() < 127 && ip == cidr.network(),
    };
    subnet.cidr.contains(&ip) && !is_special
}

/// The address choice of one port.
struct Addresses<'a, 'b> {
    tx: &'a mut Tx<'b>,
    request: &'a Request<'a>,
    subnets: &'a [Subnet],
    mac: Mac,
    chosen: Vec<FixedIp>,
}

impl Addresses<'_, '_> {
    fn all(mut self) -> Result<Vec<FixedIp>, IpamError> {
        match self.request.wanted {
            None => self.usual()?,
            Some([]) => return Ok(Vec::new()),
            Some(wanted) => self.wanted(wanted)?,
        }
        if !self.is_part_of_network() {
            self.automatic();
        }
        Ok(self.chosen)
    }

    /// Router interfaces and VIPs have exactly the addresses that they were made for.
    fn is_part_of_network(&self) -> bool {
        [owner::ROUTER_INTERFACE, owner::LOAD_BALANCER].contains(&self.request.device_owner)
    }

    /// One address of each family that has subnets with pools.
    fn usual(&mut self) -> Result<(), IpamError> {
        for is_v4 in [true, false] {
            let fits = |subnet: &&Subnet| subnet.cidr.addr().is_ipv4() == is_v4 && !subnet.is_slaac();
            let candidates: Vec<&Subnet> = self.subnets.iter().filter(fits).collect();
            let Some(found) = self.any_of(&candidates) else { continue };
            self.chosen.push(found?);
        }
        Ok(())
    }

    /// An address of the first of these subnets that has one. None where there are no subnets.
    fn any_of(&mut self, candidates: &[&Subnet]) -> Option<Result<FixedIp, IpamError>> {
        let kept = self.request.existing.into_iter().flat_map(|port| &port.fixed_ips);
        let mut kept = kept.filter(|fixed| candidates.iter().any(|subnet| subnet.id == fixed.subnet) && !self.chosen.contains(fixed));
        if let Some(fixed) = kept.next() {
            return Some(Ok(*fixed));
        }
        let taken: Vec<IpAddr> = self.chosen.iter().map(|fixed| fixed.ip).collect();
        let found =
            candidates.iter().find_map(|subnet| pool::allocate(self.tx, subnet, &taken).map(|ip| FixedIp { subnet: subnet.id, ip }));
        let subnets = || candidates.iter().map(|subnet| subnet.id).collect();
        let exhausted = || IpamError::Exhausted { network: self.request.network, subnets: subnets() };
        (!candidates.is_empty()).then(|| found.ok_or_else(exhausted))
    }

    /// Addresses that were named come first, so that no free choice takes one of them.
    fn wanted(&mut self, wanted: &[Wanted]) -> Result<(), IpamError> {
        for want in wanted {
            if let Wanted::Address { subnet, ip } = want {
                let fixed = self.named(*subnet, *ip)?;
                self.chosen.push(fixed);
            }
        }
        for want in wanted {
            if let Wanted::Subnet(id) = want {
                let fixed = self.of_subnet(*id)?;
                self.chosen.push(fixed);
            }
        }
        Ok(())
    }

    fn subnet(&self, id: SubnetId) -> Result<&Subnet, IpamError> {
        let missing = IpamError::SubnetNotFound { subnet: id, network: self.request.network };
        self.subnets.iter().find(|subnet| subnet.id == id).ok_or(missing)
    }

    fn of_subnet(&mut self, id: SubnetId) -> Result<FixedIp, IpamError> {
        let subnet = self.subnet(id)?.clone();
        if let Some(ip) = self.eui64(&subnet).filter(|_| !self.is_part_of_network()) {
            return Ok(FixedIp { subnet: id, ip });
        }
        self.any_of(&[&subnet]).expect("there is one subnet")
    }

    /// The address that was asked for, if it may be had.
    fn named(&self, subnet: Option<SubnetId>, ip: IpAddr) -> Result<FixedIp, IpamError> {
        let network = self.request.network;
        let subnet = match subnet {
            Some(id) => self.subnet(id)?,
            None => {
                let around = self.subnets.iter().find(|subnet| subnet.cidr.contains(&ip));
                around.ok_or(IpamError::InvalidIpForNetwork { ip, network })?
            }
        };
        // A router may have the subnet-router anycast address (RFC 4291), which is the subnet's first.
        let is_anycast = self.request.device_owner == owner::ROUTER_INTERFACE && ip.is_ipv6() && ip == subnet.cidr.network();
        if !is_host_address(subnet, ip) && !is_anycast {
            return Err(IpamError::InvalidIpForSubnet { ip, subnet: subnet.id });
        }
        if !self.is_part_of_network() && self.eui64(subnet).is_some_and(|own| own != ip) {
            return Err(IpamError::AutomaticSubnet { ip, subnet: subnet.id });
        }
        let own = self.request.existing.map(|port| port.id);
        let user = self.tx.state().port_by_ip(network, ip).map(|port| port.id).filter(|port| Some(*port) != own);
        match user {
            Some(port) => Err(IpamError::IpAddressInUse { ip, network, port }),
            None => Ok(FixedIp { subnet: subnet.id, ip }),
        }
    }

    /// The address that follows from the MAC, where the subnet has such addresses.
    fn eui64(&self, subnet: &Subnet) -> Option<IpAddr> {
        match subnet.cidr {
            IpNet::V6(prefix) if subnet.is_slaac() => Some(eui64(prefix, self.mac).into()),
            _ => None,
        }
    }

    /// Adds the addresses that the host makes itself on SLAAC subnets.
    fn automatic(&mut self) {
        for subnet in self.subnets {
            if let Some(ip) = self.eui64(subnet)
                && !self.chosen.iter().any(|fixed| fixed.subnet == subnet.id)
            {
                self.chosen.push(FixedIp { subnet: subnet.id, ip });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_macs_are_tried_and_no_more() {
        let macs = || (0..).map(Mac::from_bits);
        let tried = |number: usize| first_free(macs(), |mac| mac == Mac::from_bits(number as u64 - 1)).is_some();
        assert!(tried(1) && tried(MAC_TRIES_MAX) && !tried(MAC_TRIES_MAX + 1));
    }
}
