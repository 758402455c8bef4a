//! Networks, subnets, routers and nodes: the shape of the virtual network and of the machines under it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{NetworkId, NetworkKey, NodeName, ProjectId, RouterId, RouterKey, SubnetId};

/// An isolated layer 2 segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub key: NetworkKey,
    pub project: ProjectId,
    pub name: String,
    pub description: String,
    pub is_admin_up: bool,
    /// Usable by every project.
    pub is_shared: bool,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    pub is_port_security_default: bool,
    /// Deliver broadcast and multicast to every port of the network, on every node. Off on pod networks: ARP, ND, DHCP and
    /// router solicitations are answered locally and need no flooding.
    pub is_flooding: bool,
    /// The API's bookkeeping: tags, time stamps (RFC 3339), revision number.
    #[serde(default)]
    pub standard: crate::object::Standard,
}

/// How hosts of an IPv6 subnet get their addresses (RFC 4861, 4862, 8415).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6Mode {
    /// Addresses and options by DHCPv6 (RA with M and O).
    #[serde(rename = "dhcpv6-stateful")]
    Stateful,
    /// Addresses by SLAAC, options by DHCPv6 (RA with O).
    #[serde(rename = "dhcpv6-stateless")]
    Stateless,
    /// Addresses by SLAAC.
    Slaac,
}

/// A static route: to `destination` by way of `nexthop`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Route {
    pub destination: IpNet,
    pub nexthop: IpAddr,
}

/// A range of addresses on a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subnet {
    pub id: SubnetId,
    pub network: NetworkId,
    pub project: ProjectId,
    pub name: String,
    pub description: String,
    pub cidr: IpNet,
    pub gateway: Option<IpAddr>,
    /// First and last address of each range that addresses are taken from, in order.
    pub pools: Vec<(IpAddr, IpAddr)>,
    pub is_dhcp: bool,
    pub dns_servers: Vec<IpAddr>,
    pub host_routes: Vec<Route>,
    /// Who announces the subnet: set means Ladon's routers do, in this mode.
    pub ra_mode: Option<Ipv6Mode>,
    /// How hosts get addresses. None on IPv4 and on IPv6 subnets that users number by hand.
    pub address_mode: Option<Ipv6Mode>,
    #[serde(default)]
    pub standard: crate::object::Standard,
}

impl Subnet {
    /// True where a host makes its own address from its MAC (SLAAC, stateless DHCPv6).
    pub fn is_slaac(&self) -> bool {
        matches!(self.address_mode, Some(Ipv6Mode::Slaac | Ipv6Mode::Stateless))
    }
}

/// A router: connects the networks on which it has interfaces. An interface is a port whose `device_owner` is
/// [`crate::owner::ROUTER_INTERFACE`] and whose `device_id` is the router's id.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Router {
    pub id: RouterId,
    pub key: RouterKey,
    pub project: ProjectId,
    pub name: String,
    pub description: String,
    pub is_admin_up: bool,
    /// Extra routes, in the order given.
    pub routes: Vec<Route>,
    #[serde(default)]
    pub standard: crate::object::Standard,
}

/// Encapsulation between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelType {
    /// RFC 8926.
    #[default]
    Geneve,
    /// RFC 7348.
    Vxlan,
}

impl TunnelType {
    /// Its word in Neutron, in Open vSwitch and between nodes and servers.
    pub fn word(self) -> &'static str {
        match self {
            TunnelType::Geneve => "geneve",
            TunnelType::Vxlan => "vxlan",
        }
    }
}

/// A machine that runs `ladon node`, as it described itself when it connected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    pub name: NodeName,
    /// Where its tunnels end: the preferred address first.
    pub tunnel_addresses: Vec<IpAddr>,
    pub tunnel: TunnelType,
    /// The bridge that it programs, into which virtual machines are plugged; empty: unknown.
    #[serde(default)]
    pub bridge: String,
    /// `system` or `netdev`, as Open vSwitch calls them; empty: unknown.
    #[serde(default)]
    pub datapath: String,
    /// Where it follows its view, if several servers share the store: that one decides on its ports' status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<NodeStream>,
}

/// A node's stream to a server. The latest one counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeStream {
    /// The server's process.
    pub server: Uuid,
    /// Its number among that server's streams.
    pub number: u64,
}

impl Node {
    /// The tunnel address of the same family as `own`, to which a tunnel from `own` can go.
    pub fn reachable_from(&self, own: &[IpAddr]) -> Option<IpAddr> {
        own.iter().find_map(|mine| self.tunnel_addresses.iter().find(|theirs| theirs.is_ipv4() == mine.is_ipv4())).copied()
    }
}
