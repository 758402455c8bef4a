//! The picture of everything that is stored, at one revision, with the indexes that questions need.
//!
//! A [`State`] is a value: cheap to clone (its maps share structure), never changed once published. [`State::apply`] makes
//! the next one from a [`Commit`]. Each index says which objects of a kind name another object; an index is derived from the
//! objects alone, so that applying changes one by one equals building it from scratch (a property test says so).

mod index;
mod typed;

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use model::{
    Allowed, Block, BlockId, Kind, Listener, ListenerId, LoadBalancer, LoadBalancerId, Mac, Member, MemberId, Network, NetworkId,
    NetworkKey, Node, NodeName, Object, ObjectKey, Pool, PoolId, Port, PortId, Revision, Router, RouterId, Rule, RuleId, SecurityGroup,
    SecurityGroupId, Subnet, SubnetId,
};
use uuid::Uuid;

pub use store::{Change, Commit};
pub use typed::{Owned, Typed};

use index::{Entry, Index};

/// Everything that is stored, at one revision.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct State {
    revision: Revision,
    objects: OrdMap<ObjectKey, Arc<Object>>,
    indexes: Indexes,
}

#[derive(Clone, PartialEq, Debug, Default)]
struct Indexes {
    networks_by_key: Index<NetworkKey>,
    subnets_of_network: Index<NetworkId>,
    ports_of_network: Index<NetworkId>,
    ports_of_device: Index<String>,
    ports_of_home: Index<NodeName>,
    ports_of_group: Index<SecurityGroupId>,
    ports_of_block: Index<BlockId>,
    ports_by_ip: Index<(NetworkId, IpAddr)>,
    ports_by_mac: Index<(NetworkId, Mac)>,
    interfaces_of_network: Index<NetworkId>,
    exceptions_of_network: Index<NetworkId>,
    interfaces_of_router: Index<RouterId>,
    rules_of_group: Index<SecurityGroupId>,
    rules_by_allowed: Index<(SecurityGroupId, Allowed)>,
    rules_naming_group: Index<SecurityGroupId>,
    balancers_of_vip_port: Index<PortId>,
    balancers_of_network: Index<NetworkId>,
    listeners_of_balancer: Index<LoadBalancerId>,
    listeners_of_pool: Index<PoolId>,
    pools_of_balancer: Index<LoadBalancerId>,
    members_of_pool: Index<PoolId>,
    blocks_of_network: Index<NetworkId>,
    blocks_of_node: Index<NodeName>,
    nodes_by_address: Index<IpAddr>,
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident($id:ty) -> $kind:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self, id: $id) -> Option<&$kind> {
            self.get::<$kind>(id.0)
        }
    )*};
}

macro_rules! listings {
    ($($(#[$doc:meta])* $name:ident($key:ty) -> $kind:ident by $index:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name<'a>(&'a self, key: $key) -> impl Iterator<Item = &'a $kind> + use<'a> {
            self.indexes.$index.of(key).filter_map(|id| self.get::<$kind>(id))
        }
    )*};
}

impl State {
    /// The state in which the store's snapshot says that everything is.
    pub fn new(revision: Revision, objects: impl IntoIterator<Item = Arc<Object>>) -> State {
        let mut state = State { revision, ..State::default() };
        for object in objects {
            state.put(object);
        }
        state
    }

    /// The revision up to which everything is in the picture.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The next state. Commits come in order: one that is not newer changes nothing.
    pub fn apply(&mut self, commit: &Commit) {
        if commit.revision <= self.revision {
            return;
        }
        for change in commit.changes.iter() {
            match &change.after {
                Some(after) => self.put(after.clone()),
                None => self.remove(change.key),
            };
        }
        self.revision = commit.revision;
    }

    /// Puts an object in, in place of the one with its key, which is answered.
    pub(crate) fn put(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let before = self.objects.insert(object.key(), object.clone());
        if !before.as_ref().is_some_and(|before| is_indexed_alike(before, &object)) {
            before.iter().for_each(|before| self.indexes.leave(before));
            self.indexes.enter(&object);
        }
        before
    }

    pub(crate) fn remove(&mut self, key: ObjectKey) -> Option<Arc<Object>> {
        let before = self.objects.remove(&key)?;
        self.indexes.leave(&before);
        Some(before)
    }

    pub(crate) fn set_revision(&mut self, revision: Revision) {
        self.revision = revision;
    }

    /// The object that `key` names.
    pub fn object(&self, key: ObjectKey) -> Option<&Arc<Object>> {
        self.objects.get(&key)
    }

    /// All objects, ordered by kind and id.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// The object of one kind with this id.
    pub fn get<T: Typed>(&self, id: Uuid) -> Option<&T> {
        self.objects.get(&ObjectKey { kind: T::KIND, id }).and_then(|object| T::of(object))
    }

    /// All objects of one kind, ordered by id.
    pub fn all<T: Typed>(&self) -> impl Iterator<Item = &T> {
        self.objects.range(kind_range(T::KIND)).filter_map(|(_, object)| T::of(object))
    }

    getters! {
        network(NetworkId) -> Network;
        subnet(SubnetId) -> Subnet;
        port(PortId) -> Port;
        router(RouterId) -> Router;
        group(SecurityGroupId) -> SecurityGroup;
        rule(RuleId) -> Rule;
        block(BlockId) -> Block;
        load_balancer(LoadBalancerId) -> LoadBalancer;
        listener(ListenerId) -> Listener;
        pool(PoolId) -> Pool;
        member(MemberId) -> Member;
    }

    /// The node with this name.
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.get(name.id().0)
    }

    listings! {
        subnets_of(NetworkId) -> Subnet by subnets_of_network;
        ports_of(NetworkId) -> Port by ports_of_network;
        /// Ports with this `device_id`, which is not empty.
        ports_of_device(String) -> Port by ports_of_device;
        /// Ports whose home is this node.
        ports_at(NodeName) -> Port by ports_of_home;
        /// Ports that are in this security group.
        ports_in_group(SecurityGroupId) -> Port by ports_of_group;
        /// Ports whose addresses and MAC follow from this block.
        ports_in_block(BlockId) -> Port by ports_of_block;
        /// The interfaces that routers have on this network.
        interfaces_on(NetworkId) -> Port by interfaces_of_network;
        /// The ports of this network that have an entry of their own on every node that knows the network.
        exceptions_on(NetworkId) -> Port by exceptions_of_network;
        interfaces_of(RouterId) -> Port by interfaces_of_router;
        rules_of(SecurityGroupId) -> Rule by rules_of_group;
        /// Rules whose remote group is this one.
        rules_naming(SecurityGroupId) -> Rule by rules_naming_group;
        /// Load balancers with their VIP on this network.
        load_balancers_on(NetworkId) -> LoadBalancer by balancers_of_network;
        listeners_of(LoadBalancerId) -> Listener by listeners_of_balancer;
        /// Listeners whose default pool is this one.
        listeners_with_pool(PoolId) -> Listener by listeners_of_pool;
        pools_of(LoadBalancerId) -> Pool by pools_of_balancer;
        members_of(PoolId) -> Member by members_of_pool;
        blocks_of(NetworkId) -> Block by blocks_of_network;
        blocks_at(NodeName) -> Block by blocks_of_node;
        /// Nodes whose tunnels end at this address.
        nodes_at_address(IpAddr) -> Node by nodes_by_address;
    }

    /// The network with this number.
    pub fn network_by_key(&self, key: NetworkKey) -> Option<&Network> {
        self.indexes.networks_by_key.of(key).find_map(|id| self.get(id))
    }

    /// The port of the network that has this address.
    pub fn port_by_ip(&self, network: NetworkId, ip: IpAddr) -> Option<&Port> {
        self.indexes.ports_by_ip.of((network, ip)).find_map(|id| self.get(id))
    }

    /// True if a port of the network has an address from `first` to `last`.
    pub fn has_port_between(&self, network: NetworkId, first: IpAddr, last: IpAddr) -> bool {
        self.indexes.ports_by_ip.has_between((network, first), (network, last))
    }

    /// The port of the network that has this MAC.
    pub fn port_by_mac(&self, network: NetworkId, mac: Mac) -> Option<&Port> {
        self.indexes.ports_by_mac.of((network, mac)).find_map(|id| self.get(id))
    }

    /// The rule of the group that lets just this through.
    pub fn rule_allowing(&self, group: SecurityGroupId, allowed: Allowed) -> Option<&Rule> {
        self.indexes.rules_by_allowed.of((group, allowed)).find_map(|id| self.get(id))
    }

    /// The load balancer whose VIP this port is.
    pub fn load_balancer_of(&self, vip_port: PortId) -> Option<&LoadBalancer> {
        self.indexes.balancers_of_vip_port.of(vip_port).find_map(|id| self.get(id))
    }
}

/// True if two states of one object are at the same places in all indexes: a port that becomes ACTIVE is looked up as before, and so is a
/// node with a new stream. Most of what is written are such changes.
fn is_indexed_alike(before: &Object, after: &Object) -> bool {
    match (before, after) {
        (Object::Node(a), Object::Node(b)) => a.tunnel_addresses == b.tunnel_addresses,
        (Object::Port(a), Object::Port(b)) => are_ports_indexed_alike(a, b),
        _ => false,
    }
}

fn are_ports_indexed_alike(a: &Port, b: &Port) -> bool {
    let places = |port: &Port| (port.network, port.mac, port.block, port.is_exception(), port.is_router_interface());
    let same_owner = a.device_id == b.device_id && a.home() == b.home() && a.security_groups == b.security_groups;
    places(a) == places(b) && same_owner && a.addresses().eq(b.addresses())
}

fn kind_range(kind: Kind) -> std::ops::RangeInclusive<ObjectKey> {
    ObjectKey { kind, id: Uuid::nil() }..=ObjectKey { kind, id: Uuid::max() }
}

impl Indexes {
    fn enter(&mut self, object: &Object) {
        self.each(object, |index, id| index.insert(id));
    }

    fn leave(&mut self, object: &Object) {
        self.each(object, |index, id| index.remove(id));
    }

    /// Calls `f` with every place that `object` has in an index.
    fn each(&mut self, object: &Object, f: impl Fn(&mut dyn Entry, Uuid)) {
        let id = object.key().id;
        match object {
            Object::Node(node) => node.tunnel_addresses.iter().for_each(|address| f(&mut self.nodes_by_address.at(*address), id)),
            Object::Network(network) => f(&mut self.networks_by_key.at(network.key), id),
            Object::Subnet(subnet) => f(&mut self.subnets_of_network.at(subnet.network), id),
            Object::Port(port) => self.each_of_port(port, |entry| f(entry, id)),
            Object::Rule(rule) => {
                f(&mut self.rules_of_group.at(rule.group), id);
                f(&mut self.rules_by_allowed.at((rule.group, rule.allowed())), id);
                if let Some(remote) = rule.remote_group {
                    f(&mut self.rules_naming_group.at(remote), id);
                }
            }
            Object::Block(block) => {
                f(&mut self.blocks_of_network.at(block.network), id);
                f(&mut self.blocks_of_node.at(block.node.clone()), id);
            }
            Object::LoadBalancer(balancer) => {
                f(&mut self.balancers_of_vip_port.at(balancer.vip_port), id);
                f(&mut self.balancers_of_network.at(balancer.vip_network), id);
            }
            Object::Listener(listener) => {
                f(&mut self.listeners_of_balancer.at(listener.load_balancer), id);
                if let Some(pool) = listener.default_pool {
                    f(&mut self.listeners_of_pool.at(pool), id);
                }
            }
            Object::Pool(pool) => f(&mut self.pools_of_balancer.at(pool.load_balancer), id),
            Object::Member(member) => f(&mut self.members_of_pool.at(member.pool), id),
            Object::Router(_) | Object::SecurityGroup(_) => {}
        }
    }

    fn each_of_port(&mut self, port: &Port, f: impl Fn(&mut dyn Entry)) {
        f(&mut self.ports_of_network.at(port.network));
        f(&mut self.ports_by_mac.at((port.network, port.mac)));
        for ip in port.addresses() {
            f(&mut self.ports_by_ip.at((port.network, ip)));
        }
        for group in &port.security_groups {
            f(&mut self.ports_of_group.at(*group));
        }
        if !port.device_id.is_empty() {
            f(&mut self.ports_of_device.at(port.device_id.clone()));
        }
        if let Some(home) = port.home() {
            f(&mut self.ports_of_home.at(home.clone()));
        }
        if let Some(block) = port.block {
            f(&mut self.ports_of_block.at(block));
        }
        if port.is_router_interface() {
            f(&mut self.interfaces_of_network.at(port.network));
        }
        if port.is_exception() {
            f(&mut self.exceptions_of_network.at(port.network));
        }
        if let Some(router) = port.router() {
            f(&mut self.interfaces_of_router.at(router));
        }
    }
}
