//! Security groups: who may talk to whom.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{GroupKey, ProjectId, RuleId, SecurityGroupId};

/// A set of ports and the rules that hold for them. Everything not allowed by a rule is dropped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SecurityGroup {
    pub id: SecurityGroupId,
    pub key: GroupKey,
    pub project: ProjectId,
    pub name: String,
    pub description: String,
    #[serde(default)]
    pub standard: crate::object::Standard,
}

/// As the port sees it: ingress comes to the port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Ingress,
    Egress,
}

/// The IP version that a rule is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum EtherType {
    #[serde(rename = "IPv4")]
    Ipv4,
    #[serde(rename = "IPv6")]
    Ipv6,
}

/// Allows what it describes, and the replies to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rule {
    pub id: RuleId,
    pub group: SecurityGroupId,
    pub project: ProjectId,
    pub description: String,
    pub direction: Direction,
    pub ethertype: EtherType,
    /// The IP protocol's number (IANA); None means any. ICMP for IPv6 is 58.
    pub protocol: Option<u8>,
    /// What the user wrote, for the API to say again: `tcp`, `6`, `icmp`…
    pub protocol_name: Option<String>,
    /// TCP, UDP, SCTP, DCCP: the first port. ICMP: the type.
    pub range_min: Option<u16>,
    /// TCP, UDP, SCTP, DCCP: the last port. ICMP: the code.
    pub range_max: Option<u16>,
    /// The other side's addresses, host bits zero. None with no remote group: anybody.
    pub remote_prefix: Option<IpNet>,
    /// What the user wrote, host bits kept.
    pub remote_prefix_text: Option<String>,
    /// The other side is a member of this group.
    pub remote_group: Option<SecurityGroupId>,
    #[serde(default)]
    pub standard: crate::object::Standard,
}

/// What a rule of a group lets through.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Allowed {
    direction: Direction,
    ethertype: EtherType,
    protocol: Option<u8>,
    range: (Option<u16>, Option<u16>),
    /// Nothing where it is every address.
    remote_prefix: Option<IpNet>,
    remote_group: Option<SecurityGroupId>,
}

impl Rule {
    /// What it lets through: of two rules of a group that let the same through one is needless.
    pub fn allowed(&self) -> Allowed {
        Allowed {
            direction: self.direction,
            ethertype: self.ethertype,
            protocol: self.protocol,
            range: (self.range_min, self.range_max),
            remote_prefix: self.remote_prefix.filter(|prefix| prefix.prefix_len() > 0),
            remote_group: self.remote_group,
        }
    }
}
