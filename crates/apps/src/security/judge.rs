//! Which remembered connections the rules still allow.
//!
//! Packets of the direction that opened a connection meet the rules for as long as it lasts, but its answers pass because the
//! connection is remembered. So a rule that goes away has not ended what it allowed before the memory of it is gone too. The
//! node reads the connections in a port's zone of rules and asks here, which says the same as the flows in the tables of
//! rules would about the connection's first packet.
//!
//! Not the same only where nothing is at stake: a protocol whose ports Open vSwitch does not remember passes a rule with
//! ports, and where both sides are among a port's wide address pairs the connection may stay if either direction allows it.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Direction, EtherType, Kind, ObjectKey, Port, PortId, Rule, SecurityGroupId, link_local, owner};

use super::ports;
use crate::view::{DIRECTIONS, Index, View, find};

/// How a connection began: the direction of its first packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Opening {
    /// IP protocol.
    pub proto: u8,
    pub src: IpAddr,
    pub dst: IpAddr,
    /// None: the protocol has no ports, or the switch does not remember them.
    pub dst_port: Option<u16>,
    /// ICMP's type and code.
    pub icmp: Option<(u8, u8)>,
}

/// Judges the connections of one port by the view of this moment.
pub struct Judge<'a> {
    view: &'a View,
    port: &'a Port,
    rules: Vec<&'a Rule>,
    /// The port's routing domain, if its network is in view.
    domain: Option<u32>,
    /// Addresses of this machine's own ports there, if the port is a pod.
    own_node: Vec<IpNet>,
    /// The groups of the addresses that were asked about.
    remotes: RefCell<HashMap<IpAddr, BTreeSet<SecurityGroupId>>>,
}

impl<'a> Judge<'a> {
    /// Knows the rules of `port`. None: the port is not in view.
    pub fn new(view: &'a View, port: PortId) -> Option<Judge<'a>> {
        let port: &Port = find(view, Kind::Port, port)?;
        let groups: BTreeSet<SecurityGroupId> = port.security_groups.iter().copied().collect();
        let rules = groups.into_iter().flat_map(|group| view.ids(Index::RulesOf(group))).filter_map(|id| find(view, Kind::Rule, id));
        let domain = view.domain(port.network);
        let own_node = if port.device_owner == owner::POD { node_addresses(view) } else { Vec::new() };
        Some(Judge { view, port, rules: rules.collect(), domain, own_node, remotes: RefCell::default() })
    }

    /// True if the rules would let the connection begin now.
    pub fn allows(&self, opening: &Opening) -> bool {
        if !self.port.is_port_security {
            return true;
        }
        match self.direction(opening) {
            Some(direction) => self.allows_in(direction, opening),
            None => self.allows_in(Direction::Egress, opening) || self.allows_in(Direction::Ingress, opening),
        }
    }

    /// Who opened it. None: both addresses may be the port's own.
    fn direction(&self, opening: &Opening) -> Option<Direction> {
        let is_fixed = |ip: IpAddr| self.port.addresses().any(|own| own == ip) || ip == IpAddr::from(link_local(self.port.mac));
        let is_pair =
            |ip: IpAddr| self.port.address_pairs.iter().any(|pair| pair.ip.contains(&ip) || ip == IpAddr::from(link_local(pair.mac)));
        match (is_fixed(opening.src), is_fixed(opening.dst)) {
            (true, _) => Some(Direction::Egress),
            (_, true) => Some(Direction::Ingress),
            _ if !is_pair(opening.src) => Some(Direction::Ingress),
            _ if !is_pair(opening.dst) => Some(Direction::Egress),
            _ => None,
        }
    }

    fn allows_in(&self, direction: Direction, opening: &Opening) -> bool {
        let remote = match direction {
            Direction::Egress => opening.dst,
            Direction::Ingress => opening.src,
        };
        let is_own_node = direction == Direction::Ingress && self.own_node.iter().any(|own| own.contains(&remote));
        is_own_node || self.rules.iter().any(|rule| rule.direction == direction && self.fits(rule, opening, remote))
    }

    fn fits(&self, rule: &Rule, opening: &Opening, remote: IpAddr) -> bool {
        let is_v6 = rule.ethertype == EtherType::Ipv6;
        is_v6 == remote.is_ipv6() && ports::fit(rule, is_v6, opening) && self.fits_remote(rule, remote)
    }

    fn fits_remote(&self, rule: &Rule, remote: IpAddr) -> bool {
        match (rule.remote_group, rule.remote_prefix) {
            (Some(group), _) => self.remotes.borrow_mut().entry(remote).or_insert_with(|| self.groups_of(remote)).contains(&group),
            (None, Some(prefix)) => prefix.contains(&remote),
            (None, None) => true,
        }
    }

    /// The groups of an address: the identity of the longest prefix around it.
    fn groups_of(&self, remote: IpAddr) -> BTreeSet<SecurityGroupId> {
        let host = IpNet::from(remote);
        let prefixes = (0..=host.prefix_len()).rev().filter_map(|length| IpNet::new(remote, length).ok()).map(|prefix| prefix.trunc());
        let mut identities = self.domain.into_iter().flat_map(|domain| prefixes.clone().map(move |prefix| (domain, prefix)));
        let found = identities.find_map(|(domain, prefix)| self.view.address_identity(domain, prefix));
        found.map(|(_, groups)| groups.clone()).unwrap_or_default()
    }
}

/// The addresses of this machine's own ports.
fn node_addresses(view: &View) -> Vec<IpNet> {
    let attached = view.attachments().filter_map(|attachment| find::<Port>(view, Kind::Port, attachment.port));
    let own = attached.filter(|port| port.device_owner == owner::NODE && port.is_admin_up);
    let may_use = |port: &'_ Port| port.addresses().chain([link_local(port.mac).into()]).map(IpNet::from).collect::<Vec<_>>();
    own.flat_map(|port| may_use(port).into_iter().chain(port.address_pairs.iter().map(|pair| pair.ip))).collect()
}

/// The local ports whose rules would be different without `group`'s members: those that have a rule that names it.
pub fn ports_with_rules_naming(view: &View, group: SecurityGroupId) -> BTreeSet<PortId> {
    let naming = DIRECTIONS.map(|direction| Index::RulesNaming(group, direction));
    let rules = naming.into_iter().flat_map(|index| view.ids(index)).filter_map(|id| view.object(ObjectKey::new(Kind::Rule, id)));
    let groups: BTreeSet<SecurityGroupId> = rules.filter_map(|rule| (&**rule).try_into().ok()).map(|rule: &Rule| rule.group).collect();
    groups.into_iter().flat_map(|group| ports_in(view, group)).collect()
}

/// The local ports that are members of `group`.
pub fn ports_in(view: &View, group: SecurityGroupId) -> BTreeSet<PortId> {
    let numbers = view.ids(Index::IdentitiesWith(group)).map(|id| id.as_u128() as u32);
    numbers.flat_map(|number| view.ids(Index::AttachedAs(number))).map(PortId).collect()
}

#[cfg(test)]
mod tests;
