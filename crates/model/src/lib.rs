//! The words that every part of Ladon shares: what should be.
//!
//! An [`Object`] is one thing that a user or an operator wants to exist (a network, a port, a load balancer) or one fact
//! that the cluster needs to agree on (a node, an address block). The store keeps objects, the server checks and hands them
//! out, a node's view is a set of them, and apps turn them into flows. Objects are plain data: they name each other by id
//! and know nothing of APIs, wires or tables.
//!
//! Deliberately *not* here: how objects look in the Neutron or Octavia API (`server`), how they are stored (`store`), and
//! anything that is true on one node only, such as an OpenFlow port number (`apps::View`).

mod address;
mod balancer;
mod block;
mod ids;
mod object;
mod port;
mod security;
mod topology;

pub use address::{Mac, MacParseError, eui64, link_local};
pub use balancer::{Listener, ListenerProtocol, LoadBalancer, Member, Pool, PoolAlgorithm, VipPort};
pub use block::{Block, V6Range, V6Shape};
pub use ids::{
    BlockId, GroupKey, ListenerId, ListenerKey, LoadBalancerId, MemberId, NetworkId, NetworkKey, NodeId, NodeName, PoolId, PortId, PortKey,
    ProjectId, Revision, RouterId, RouterKey, RuleId, SecurityGroupId, StoreId, SubnetId, VNI_MAX,
};
pub use object::{Kind, Object, ObjectKey, Standard};
pub use port::{AddressPair, DhcpOption, FixedIp, Port, PortStatus, owner};
pub use security::{Allowed, Direction, EtherType, Rule, SecurityGroup};
pub use topology::{Ipv6Mode, Network, Node, NodeStream, Route, Router, Subnet, TunnelType};
