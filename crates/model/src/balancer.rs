//! Load balancers: one address in front of many (Octavia's words).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{ListenerId, ListenerKey, LoadBalancerId, MemberId, NetworkId, PoolId, PortId, ProjectId, SubnetId};

/// A virtual IP (VIP). The VIP's own port has no home: it is answered where the client is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LoadBalancer {
    pub id: LoadBalancerId,
    pub project: ProjectId,
    pub name: String,
    pub description: String,
    pub is_admin_up: bool,
    pub vip: IpAddr,
    pub vip_port: PortId,
    pub vip_subnet: SubnetId,
    pub vip_network: NetworkId,
    /// None where an early release did not say: then the port's name tells.
    #[serde(default)]
    pub vip_port_origin: Option<VipPort>,
    #[serde(default)]
    pub standard: crate::object::Standard,
}

/// Where a VIP's port comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VipPort {
    /// It was made for the load balancer, and ends with it.
    Made,
    /// A user brought it, and gets it back.
    Brought,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ListenerProtocol {
    Tcp,
    Udp,
}

impl ListenerProtocol {
    /// The IP protocol's number.
    pub fn number(self) -> u8 {
        match self {
            ListenerProtocol::Tcp => 6,
            ListenerProtocol::Udp => 17,
        }
    }
}

/// One port of a VIP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listener {
    pub id: ListenerId,
    pub key: ListenerKey,
    pub load_balancer: LoadBalancerId,
    pub project: ProjectId,
    pub name: String,
    pub description: String,
    pub is_admin_up: bool,
    pub protocol: ListenerProtocol,
    pub port: u16,
    pub default_pool: Option<PoolId>,
    #[serde(default)]
    pub standard: crate::object::Standard,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PoolAlgorithm {
    /// Connections are spread over members by a hash of their addresses and ports.
    SourceIpPort,
    /// What most clients ask for by habit. Done as [`PoolAlgorithm::SourceIpPort`]: connections spread evenly, not in turn.
    RoundRobin,
}

/// The members that may answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pool {
    pub id: PoolId,
    pub load_balancer: LoadBalancerId,
    pub project: ProjectId,
    pub name: String,
    pub description: String,
    pub is_admin_up: bool,
    pub protocol: ListenerProtocol,
    pub algorithm: PoolAlgorithm,
    #[serde(default)]
    pub standard: crate::object::Standard,
}

/// One that may answer. Weight 0 drains: TCP connections stay, new ones go elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    pub id: MemberId,
    pub pool: PoolId,
    pub project: ProjectId,
    pub name: String,
    pub is_admin_up: bool,
    pub address: IpAddr,
    pub port: u16,
    pub subnet: Option<SubnetId>,
    /// 0 to 256.
    pub weight: u16,
    #[serde(default)]
    pub standard: crate::object::Standard,
}

impl Member {
    /// True if new connections may go to it.
    pub fn is_taking(&self) -> bool {
        self.is_admin_up && self.weight > 0
    }
}
