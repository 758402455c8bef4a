//! Which local ports may have connections that a change ends.
//!
//! Looks at the view as it is before the change, because that is what allowed them. What is merely added ends nothing, but for one
//! thing: an address that comes to be on two networks of one routing domain keeps only the groups that it has on both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use apps::security::{ports_in, ports_with_rules_naming};
use apps::{Change, Index, View, find};
use ipnet::IpNet;
use model::{
    Kind, Listener, ListenerProtocol, LoadBalancer, LoadBalancerId, Member, NetworkId, Object, Pool, Port, PortId, Rule, SecurityGroupId,
    owner,
};

/// The ports whose connections have to be judged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Affected {
    /// Rules have gone that hold for these.
    pub rules: BTreeSet<PortId>,
    /// Members have gone that these reach through a load balancer.
    pub members: BTreeSet<PortId>,
    /// Nobody knows what changed: every local port, when there is time.
    pub everything: bool,
}

impl Affected {
    pub fn everything() -> Affected {
        Affected { everything: true, ..Affected::default() }
    }

    /// All connections of `ports`.
    pub fn of_ports(ports: impl IntoIterator<Item = PortId>) -> Affected {
        let ports: BTreeSet<PortId> = ports.into_iter().collect();
        Affected { rules: ports.clone(), members: ports, everything: false }
    }

    pub fn is_empty(&self) -> bool {
        *self == Affected::default()
    }

    pub fn merge(&mut self, other: Affected) {
        self.rules.extend(other.rules);
        self.members.extend(other.members);
        self.everything |= other.everything;
    }
}

/// What `changes` affect; `before` is the view without them.
pub fn affected(before: &View, changes: &[Change]) -> Affected {
    let mut lost = Lost {
        view: before,
        ports: Affected::default(),
        members_of: BTreeSet::new(),
        named: BTreeSet::new(),
        vips_on: BTreeSet::new(),
        joined: BTreeSet::new(),
        gained: BTreeMap::new(),
    };
    for change in changes {
        let (key, new) = match change {
            Change::Put(object) => (object.key(), Some(&**object)),
            Change::Remove(key) => (*key, None),
            Change::Attach(_) | Change::Detach(_) | Change::Here(_) => continue,
        };
        let old = before.object(key).map(|old| &**old);
        if old == new {
            continue;
        }
        if let Some(old) = old {
            lost.lose(old, new);
        }
        if let Some(port) = new.and_then(same::<Port>) {
            lost.gain(old.and_then(same), port);
        }
    }
    lost.affects()
}

/// What has gone, before it is asked whom that concerns: once, however many members of one group or pool went.
struct Lost<'a> {
    view: &'a View,
    ports: Affected,
    /// Groups that lost a rule.
    members_of: BTreeSet<SecurityGroupId>,
    /// Groups that lost a member, and rules may name them.
    named: BTreeSet<SecurityGroupId>,
    /// Networks where a load balancer lost something.
    vips_on: BTreeSet<NetworkId>,
    /// Networks with a new way to others.
    joined: BTreeSet<NetworkId>,
    /// New addresses of ports with groups, by where they are.
    gained: BTreeMap<IpNet, BTreeSet<NetworkId>>,
}

impl Lost<'_> {
    /// `old` becomes `new`, or nothing.
    fn lose(&mut self, old: &Object, new: Option<&Object>) {
        match old {
            Object::Rule(old) if new.and_then(same).is_none_or(|new| !allows_the_same(old, new)) => {
                self.members_of.insert(old.group);
            }
            Object::Port(old) => self.lose_port(old, new.and_then(same)),
            Object::LoadBalancer(old) if new.and_then(same).is_none_or(|new| is_less_balancer(old, new)) => {
                self.vips_on.insert(old.vip_network);
            }
            Object::Listener(old) if new.and_then(same).is_none_or(|new| is_less_listener(old, new)) => {
                self.lose_balanced(old.load_balancer)
            }
            Object::Pool(old) if new.and_then(same).is_none_or(|new: &Pool| old.is_admin_up && !new.is_admin_up) => {
                self.lose_balanced(old.load_balancer);
            }
            Object::Member(old) => {
                if let Some(pool) =
                    find::<Pool>(self.view, Kind::Pool, old.pool).filter(|pool| ends_with_member(pool, old, new.and_then(same)))
                {
                    self.lose_balanced(pool.load_balancer);
                }
            }
            _ => {}
        }
    }

    fn lose_port(&mut self, old: &Port, new: Option<&Port>) {
        let lost = lost_groups(old, new);
        let is_attached = self.view.attachment(old.id).is_some();
        if is_attached && new.is_some_and(|new| !lost.is_empty() || is_guarded_anew(old, new)) {
            self.ports.rules.insert(old.id);
        }
        self.named.extend(lost);
        match old.device_owner.as_str() {
            owner::LOAD_BALANCER if old.is_admin_up && new.is_none_or(|new| !new.is_admin_up) => {
                self.vips_on.insert(old.network);
            }
            // The own node's addresses are let into every pod.
            owner::NODE if is_attached && new.is_none_or(|new| is_less_node(old, new)) => self.ports.everything = true,
            // Networks part that were one routing domain.
            owner::ROUTER_INTERFACE if new.is_none_or(|new| new.router() != old.router() || new.network != old.network) => {
                self.ports.everything = true;
            }
            _ => {}
        }
    }

    /// What `new` has that `old` had not may take groups away from the same addresses elsewhere.
    fn gain(&mut self, old: Option<&Port>, new: &Port) {
        let is_joined_anew = |old: &Port| old.router() != new.router() || old.network != new.network;
        if let Some(router) = new.router().filter(|_| new.is_router_interface() && old.is_none_or(is_joined_anew)) {
            let others = self.view.ids(Index::InterfacesOf(router)).filter_map(|id| find::<Port>(self.view, Kind::Port, id));
            self.joined.extend(others.map(|port| port.network).chain([new.network]));
        }
        if new.security_groups.is_empty() {
            return;
        }
        let had = old.filter(|old| old.network == new.network && !old.security_groups.is_empty()).map(addresses).unwrap_or_default();
        for address in addresses(new).difference(&had) {
            self.gained.entry(*address).or_default().insert(new.network);
            let elsewhere: Vec<SecurityGroupId> = self.groups_elsewhere(new, *address).collect();
            self.named.extend(elsewhere.into_iter().filter(|group| !new.security_groups.contains(group)));
        }
    }

    /// The groups that the address has on other networks of the port's domain.
    fn groups_elsewhere(&self, port: &Port, address: IpNet) -> impl Iterator<Item = SecurityGroupId> {
        let view = self.view;
        let networks = view.domain(port.network).into_iter().flat_map(move |domain| view.networks_with(domain, address));
        let ports =
            networks.filter(|network| *network != port.network).flat_map(move |network| view.ids(Index::PortsWith(network, address)));
        ports.filter_map(|id| find::<Port>(view, Kind::Port, id)).flat_map(|port| port.security_groups.iter().copied())
    }

    /// Whether networks that reach each other from now on have the same address.
    fn overlaps(&self) -> bool {
        let domains: BTreeSet<u32> = self.joined.iter().filter_map(|network| self.view.domain(*network)).collect();
        let of_old = domains.iter().any(|one| domains.range(one + 1..).any(|other| self.view.overlap(*one, *other)));
        let is_elsewhere = |(address, networks): (&IpNet, &BTreeSet<NetworkId>)| {
            let mut there = domains.iter().flat_map(|domain| self.view.networks_with(*domain, *address));
            networks.len() > 1 || there.any(|network| !networks.contains(&network))
        };
        of_old || (!self.joined.is_empty() && self.gained.iter().any(is_elsewhere))
    }

    fn lose_balanced(&mut self, balancer: LoadBalancerId) {
        self.vips_on.extend(find::<LoadBalancer>(self.view, Kind::LoadBalancer, balancer).map(|balancer| balancer.vip_network));
    }

    fn affects(self) -> Affected {
        let overlaps = self.overlaps();
        let Lost { view, mut ports, members_of, named, vips_on, .. } = self;
        ports.everything |= overlaps;
        ports.rules.extend(members_of.into_iter().flat_map(|group| ports_in(view, group)));
        ports.rules.extend(named.into_iter().flat_map(|group| ports_with_rules_naming(view, group)));
        // Every local port that reaches the VIP may be a client.
        let domains: BTreeSet<u32> = vips_on.into_iter().filter_map(|network| view.domain(network)).collect();
        if !domains.is_empty() {
            let domain = |id: &PortId| find::<Port>(view, Kind::Port, *id).and_then(|port| view.domain(port.network));
            let attached = view.attachments().map(|attachment| attachment.port);
            ports.members.extend(attached.filter(|id| domain(id).is_some_and(|domain| domains.contains(&domain))));
        }
        ports
    }
}

fn same<'a, T>(new: &'a Object) -> Option<&'a T>
where
    &'a T: TryFrom<&'a Object>,
{
    new.try_into().ok()
}

fn allows_the_same(old: &Rule, new: &Rule) -> bool {
    let meaning = |rule: &Rule| {
        (rule.group, rule.direction, rule.ethertype, rule.protocol, rule.range_min, rule.range_max, rule.remote_prefix, rule.remote_group)
    };
    meaning(old) == meaning(new)
}

/// The groups that some address of `old` no longer has.
fn lost_groups(old: &Port, new: Option<&Port>) -> BTreeSet<SecurityGroupId> {
    let groups = |port: &Port| port.security_groups.iter().copied().collect::<BTreeSet<_>>();
    match new {
        Some(new) if new.network == old.network && addresses(old).is_subset(&addresses(new)) => &groups(old) - &groups(new),
        _ => groups(old),
    }
}

fn addresses(port: &Port) -> BTreeSet<IpNet> {
    port.addresses().map(|ip: IpAddr| IpNet::from(ip)).chain(port.address_pairs.iter().map(|pair| pair.ip)).collect()
}

/// The rules hold for the port that did not before, or its own node is not let in any more, or what it opened looks as if
/// somebody else had.
fn is_guarded_anew(old: &Port, new: &Port) -> bool {
    let is_pod = |port: &Port| port.device_owner == owner::POD;
    let is_moved = old.network != new.network || old.mac != new.mac || addresses(old) != addresses(new);
    new.is_port_security && (!old.is_port_security || (is_pod(old) && !is_pod(new)) || is_moved)
}

fn is_less_node(old: &Port, new: &Port) -> bool {
    new.device_owner != owner::NODE || (old.is_admin_up && !new.is_admin_up) || !addresses(old).is_subset(&addresses(new))
}

fn is_less_balancer(old: &LoadBalancer, new: &LoadBalancer) -> bool {
    let place = |balancer: &LoadBalancer| (balancer.vip, balancer.vip_port, balancer.vip_network);
    place(old) != place(new) || (old.is_admin_up && !new.is_admin_up)
}

fn is_less_listener(old: &Listener, new: &Listener) -> bool {
    let asked = |listener: &Listener| (listener.load_balancer, listener.protocol, listener.port, listener.default_pool);
    asked(old) != asked(new) || (old.is_admin_up && !new.is_admin_up)
}

/// A member that drains keeps its TCP connections: nothing ends.
fn ends_with_member(pool: &Pool, old: &Member, new: Option<&Member>) -> bool {
    let Some(new) = new else { return true };
    let is_moved = (old.pool, old.address, old.port) != (new.pool, new.address, new.port);
    let drains = old.weight > 0 && new.weight == 0 && pool.protocol == ListenerProtocol::Udp;
    is_moved || drains || (old.is_admin_up && !new.is_admin_up)
}

#[cfg(test)]
mod tests;
