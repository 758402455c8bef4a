//! IP address management: which address and which MAC a port gets.

use std::net::IpAddr;

use model::{BlockId, FixedIp, Mac, NetworkId, NodeName, Port, PortId, SubnetId};

use crate::writer::{Tx, WriteError};

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
    #[error("IP address {ip} is the gateway of subnet {subnet}")]
    GatewayAddress { ip: IpAddr, subnet: SubnetId },
    #[error("MAC address {mac} of network {network} is in use by port {port}")]
    MacAddressInUse { mac: Mac, network: NetworkId, port: PortId },
    /// Nothing is free in the subnets that would do, or nothing that was not freed in the last seconds.
    #[error("no more IP addresses available on network {network}")]
    Exhausted { network: NetworkId, subnets: Vec<SubnetId> },
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Chooses addresses and a MAC for a port. Nothing is taken until the port is [`put`](Tx::put) in the same transaction.
pub fn allocate(tx: &mut Tx, request: &Request) -> Result<Allocation, IpamError> {
    let _ = (tx, request);
    Err(IpamError::NetworkNotFound(request.network))
}
