//! The parts of Neutron's and Octavia's objects that this crate reads and writes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A network, a subnet or a router of which only the id matters.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Named {
    pub id: Uuid,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Subnet {
    pub id: Uuid,
    pub cidr: IpNet,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Router {
    pub id: Uuid,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Group {
    pub id: Uuid,
    #[serde(default)]
    pub security_group_rules: Vec<Rule>,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Rule {
    pub direction: String,
    pub ethertype: String,
    pub protocol: Option<String>,
    pub remote_ip_prefix: Option<String>,
    pub remote_group_id: Option<Uuid>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FixedIp {
    pub subnet_id: Uuid,
    pub ip_address: IpAddr,
}

/// An address that a port may use besides its own. Neutron writes prefixes and single addresses alike.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct AddressPair {
    pub ip_address: String,
}

impl AddressPair {
    /// The address, if the pair is a single one.
    pub fn address(&self) -> Option<IpAddr> {
        let (address, length) = self.ip_address.split_once('/').unwrap_or((&self.ip_address, ""));
        let address: IpAddr = address.parse().ok()?;
        let is_single = length.is_empty() || length == if address.is_ipv4() { "32" } else { "128" };
        is_single.then_some(address)
    }
}

/// A port as the server has it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Port {
    pub id: Uuid,
    pub device_id: String,
    #[serde(default)]
    pub status: String,
    #[serde(default, rename = "binding:host_id")]
    pub host: Option<String>,
    #[serde(default)]
    pub mac_address: Option<String>,
    #[serde(default)]
    pub fixed_ips: Vec<FixedIp>,
    #[serde(default)]
    pub allowed_address_pairs: Vec<AddressPair>,
}

/// The fields of [`Port`], for `fields=`.
pub const PORT_FIELDS: &[&str] = &["id", "device_id", "status", "binding:host_id", "mac_address", "fixed_ips", "allowed_address_pairs"];

/// A port to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NewPort {
    pub network_id: Uuid,
    pub name: String,
    pub device_owner: &'static str,
    pub device_id: String,
    #[serde(rename = "binding:host_id")]
    pub host: String,
    pub security_groups: Vec<Uuid>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Where it must have certain addresses; else the server chooses.
    #[serde(flatten)]
    pub place: Option<Place>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
}

/// What a running pod knows of its port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Place {
    /// Where it is not known, the server makes the one that follows from the addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// Sorted.
    pub fixed_ips: Vec<Address>,
}

/// An address of a port, in whichever subnet it lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Address {
    pub ip_address: IpAddr,
}

impl Place {
    pub fn of(port: &Port) -> Place {
        Place { mac_address: port.mac_address.clone(), ..Place::at(port.fixed_ips.iter().map(|fixed| fixed.ip_address)) }
    }

    pub fn at(addresses: impl IntoIterator<Item = IpAddr>) -> Place {
        let mut fixed_ips: Vec<Address> = addresses.into_iter().map(|ip_address| Address { ip_address }).collect();
        fixed_ips.sort();
        Place { mac_address: None, fixed_ips }
    }

    /// True if all of these are among its addresses.
    pub fn has(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        addresses.iter().all(|address| self.fixed_ips.iter().any(|own| own.ip_address == *address))
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Balancer {
    pub id: Uuid,
    pub name: String,
    pub vip_address: IpAddr,
    pub vip_subnet_id: Option<Uuid>,
    #[serde(default)]
    pub listeners: Vec<Named>,
    #[serde(default)]
    pub pools: Vec<Named>,
}

impl Balancer {
    /// True if there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.pools.is_empty()
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Listener {
    pub id: Uuid,
    pub protocol: String,
    pub protocol_port: u16,
    pub default_pool_id: Option<Uuid>,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Pool {
    pub id: Uuid,
    pub name: String,
    pub protocol: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    pub address: IpAddr,
    pub protocol_port: u16,
    pub weight: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_pair_is_one_address_with_or_without_its_length() {
        let address = |text: &str| AddressPair { ip_address: text.into() }.address().map(|address| address.to_string());
        assert_eq!(address("192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(address("192.0.2.1/32").as_deref(), Some("192.0.2.1"));
        assert_eq!(address("2001:db8::1/128").as_deref(), Some("2001:db8::1"));
        assert_eq!(address("192.0.2.0/24"), None);
        assert_eq!(address("x"), None);
    }
}
