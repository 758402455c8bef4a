//! Identities: a 128-bit id for everything a user can name, a small number for everything a packet can carry.
//!
//! Ids are UUIDs, one type per kind, so that a port's id never stands where a network's should. Keys are numbers that the
//! server hands out once per cluster and never twice; they travel in registers and tunnel headers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Largest VXLAN/Geneve network identifier (24 bits, RFC 7348, RFC 8926).
pub const VNI_MAX: u32 = (1 << 24) - 1;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Uuid {
                id.0
            }
        }
    )*};
}

ids! {
    /// A Neutron network.
    NetworkId,
    /// A Neutron subnet.
    SubnetId,
    /// A Neutron port.
    PortId,
    /// A Neutron router.
    RouterId,
    /// A Neutron security group.
    SecurityGroupId,
    /// A Neutron security group rule.
    RuleId,
    /// An Octavia load balancer.
    LoadBalancerId,
    /// An Octavia listener.
    ListenerId,
    /// An Octavia pool.
    PoolId,
    /// An Octavia member.
    MemberId,
    /// A machine that runs `ladon node`; derived from its name.
    NodeId,
    /// An address block of one network on one node.
    BlockId,
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

keys! {
    /// A network's number in registers and its VNI in tunnels: 1 to [`VNI_MAX`].
    NetworkKey,
    /// A port's number in registers: never 0.
    PortKey,
    /// A router's number in registers: never 0.
    RouterKey,
    /// A security group's number: never 0.
    GroupKey,
    /// A listener's number, also the low bits of its OpenFlow group's: never 0.
    ListenerKey,
}

/// The store's version number of a state. Grows by one with every transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which store a state comes from. Made when a store is new, kept in it, and the same in every copy of it: revisions of two stores
/// have nothing to do with each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub Uuid);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for StoreId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<StoreId, uuid::Error> {
        text.parse().map(StoreId)
    }
}

/// The project (tenant) that owns an object. Keystone's hex id, or any string without Keystone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProjectId(pub String);

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a machine that runs `ladon node`, as in `binding:host_id`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(pub String);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl NodeName {
    /// The node's id: the same name has the same id on every server.
    pub fn id(&self) -> NodeId {
        NodeId(Uuid::new_v5(&Uuid::NAMESPACE_DNS, format!("node.ladon/{}", self.0).as_bytes()))
    }
}
