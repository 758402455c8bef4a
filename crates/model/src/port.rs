//! Ports: where something is plugged into a network.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{BlockId, Mac, NetworkId, NodeName, PortId, PortKey, ProjectId, SecurityGroupId, SubnetId};

/// Values of `device_owner` that Ladon itself gives a meaning to.
pub mod owner {
    /// An interface of a router; `device_id` is the router's id.
    pub const ROUTER_INTERFACE: &str = "network:router_interface";
    /// A load balancer's VIP; `device_id` is `lb-` and the load balancer's id.
    pub const LOAD_BALANCER: &str = "Octavia";
    /// A Kubernetes pod; `device_id` is the pod's uid.
    pub const POD: &str = "ladon:pod";
    /// A machine's own interface on the network; `device_id` is the node's name.
    pub const NODE: &str = "ladon:node";
    /// An interface made by `ladon plug` on a bare-metal host; `device_id` is the interface's name.
    pub const METAL: &str = "ladon:metal";
}

/// One address of a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FixedIp {
    pub subnet: SubnetId,
    pub ip: IpAddr,
}

/// An address that the port may use besides its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AddressPair {
    pub ip: IpNet,
    pub mac: Mac,
}

/// A DHCP option that a user set on a port (Neutron's extra_dhcp_opts).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DhcpOption {
    pub name: String,
    pub value: String,
    /// 4 or 6.
    pub ip_version: u8,
}

/// A port's status (DESIGN, decision 6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PortStatus {
    /// Its flows are installed on its home node; or it needs no home and is accepted.
    Active,
    #[default]
    Down,
}

/// Where something is plugged into a network: a pod, a virtual machine, a host, a router, a VIP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Port {
    pub id: PortId,
    pub key: PortKey,
    pub network: NetworkId,
    pub project: ProjectId,
    pub name: String,
    pub description: String,
    pub is_admin_up: bool,
    pub mac: Mac,
    pub fixed_ips: Vec<FixedIp>,
    pub address_pairs: Vec<AddressPair>,
    /// Off means: no spoof guard and no security groups.
    pub is_port_security: bool,
    pub security_groups: Vec<SecurityGroupId>,
    pub device_owner: String,
    pub device_id: String,
    /// `binding:host_id`: the node on which the user wants the port.
    pub host: Option<NodeName>,
    /// The first node that reported the port's interface while `host` was unset.
    pub claimed_by: Option<NodeName>,
    pub vnic_type: String,
    pub dhcp_options: Vec<DhcpOption>,
    /// The block that the port's addresses and MAC follow from. None: the port is an exception with entries of its own.
    pub block: Option<BlockId>,
    pub status: PortStatus,
    #[serde(default)]
    pub standard: crate::object::Standard,
}

impl Port {
    /// The node where the port lives, if it lives on one.
    pub fn home(&self) -> Option<&NodeName> {
        self.host.as_ref().or(self.claimed_by.as_ref())
    }

    /// True for ports that are part of the network itself and live on every node: router interfaces and VIPs.
    pub fn is_homeless(&self) -> bool {
        self.is_router_interface() || self.device_owner == owner::LOAD_BALANCER
    }

    /// True if every node that knows the port's network knows the port: what its block does not say of it would be missed.
    pub fn is_exception(&self) -> bool {
        self.block.is_none() || self.is_router_interface() || !self.address_pairs.is_empty()
    }

    pub fn is_router_interface(&self) -> bool {
        self.device_owner == owner::ROUTER_INTERFACE
    }

    /// The router of a router interface.
    pub fn router(&self) -> Option<crate::RouterId> {
        self.is_router_interface().then(|| self.device_id.parse().ok()).flatten()
    }

    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.fixed_ips.iter().map(|fixed| fixed.ip)
    }
}
