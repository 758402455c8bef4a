//! What a node knows: the objects of its view, what is attached to its switch, and where to find what belongs together.
//!
//! A change to the view answers with the [`Dep`]s that it touched: that is all the engine needs to find the functions that
//! read something changed. An [`Index`] is one such thing of its own: who reads "the rules of this group" is re-run when a
//! rule joins or leaves the group, and only who also read the rule itself when the rule changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use model::{Kind, LoadBalancerId, NetworkId, NodeName, Object, ObjectKey, PoolId, PortId, RouterId, SecurityGroupId};
use pipeline::OfPort;
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

use crate::domains::Domains;

/// A port that is plugged into this node's switch, with the numbers that the node keeps for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attachment {
    pub port: PortId,
    pub ofport: OfPort,
    /// Connection tracking zone of its rules.
    pub rules_zone: u16,
    /// Zone of its translations to members of load balancers.
    pub nat_zone: u16,
    /// Zone of its connections to itself through a load balancer.
    pub hairpin_zone: u16,
}

/// What the node knows of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Here {
    pub node: NodeName,
    /// Where its own tunnels end, the preferred address first.
    pub tunnel_addresses: Vec<IpAddr>,
    /// The switch's tunnel interface.
    pub tunnel_port: Option<u32>,
}

/// One change of the view.
#[derive(Clone, Debug)]
pub enum Change {
    Put(Arc<Object>),
    Remove(ObjectKey),
    Attach(Attachment),
    Detach(PortId),
    Here(Here),
}

/// A named set of ids: who belongs to whom.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Index {
    SubnetsOf(NetworkId),
    /// Router interfaces on a network.
    InterfacesOn(NetworkId),
    /// Interfaces of a router.
    InterfacesOf(RouterId),
    /// Ports attached here, by network.
    AttachedOn(NetworkId),
    /// Ports attached here, by security group.
    AttachedIn(SecurityGroupId),
    /// Ports with a home on another node, by network and node: the replication list.
    PortsAt(NetworkId, Uuid),
    /// Nodes that are home to something on a network.
    NodesOn(NetworkId),
    BlocksOn(NetworkId),
    RulesOf(SecurityGroupId),
    /// Rules whose remote side is the group.
    RulesNaming(SecurityGroupId),
    /// Ports in view that belong to a group.
    PortsIn(SecurityGroupId),
    BalancersOn(NetworkId),
    ListenersOf(LoadBalancerId),
    /// Listeners whose default pool it is.
    ListenersUsing(PoolId),
    PoolsOf(LoadBalancerId),
    MembersOf(PoolId),
    /// Members with the address, of any pool.
    MembersAt(IpAddr),
}

/// Something that a function can read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dep {
    Object(ObjectKey),
    Index(Index),
    Attachment(PortId),
    Here,
    /// The routing domain of a network.
    Domain(NetworkId),
}

/// A node's view.
#[derive(Clone, Default, Debug)]
pub struct View {
    objects: FxHashMap<ObjectKey, Arc<Object>>,
    attachments: FxHashMap<PortId, Attachment>,
    here: Here,
    indexes: FxHashMap<Index, BTreeSet<Uuid>>,
    domains: Domains,
}

impl View {
    pub fn object(&self, key: ObjectKey) -> Option<&Arc<Object>> {
        self.objects.get(&key)
    }

    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    pub fn attachment(&self, port: PortId) -> Option<&Attachment> {
        self.attachments.get(&port)
    }

    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.values()
    }

    pub fn here(&self) -> &Here {
        &self.here
    }

    /// The members of `index`, in order.
    pub fn ids(&self, index: Index) -> impl Iterator<Item = Uuid> + '_ {
        self.indexes.get(&index).into_iter().flatten().copied()
    }

    /// The routing domain of `network`: the smallest key in its component.
    pub fn domain(&self, network: NetworkId) -> Option<u32> {
        self.domains.of(network)
    }

    /// Makes `change` true and adds what it touched to `touched`.
    pub fn apply(&mut self, change: Change, touched: &mut FxHashSet<Dep>) {
        match change {
            Change::Put(object) => self.replace(object.key(), Some(object), touched),
            Change::Remove(key) => self.replace(key, None, touched),
            Change::Attach(attachment) => self.reattach(attachment.port, Some(attachment), touched),
            Change::Detach(port) => self.reattach(port, None, touched),
            Change::Here(here) if here != self.here => {
                self.here = here;
                touched.insert(Dep::Here);
            }
            Change::Here(_) => {}
        }
    }

    fn replace(&mut self, key: ObjectKey, new: Option<Arc<Object>>, touched: &mut FxHashSet<Dep>) {
        let old = match &new {
            Some(object) => self.objects.insert(key, object.clone()),
            None => self.objects.remove(&key),
        };
        if old == new {
            return;
        }
        touched.insert(Dep::Object(key));
        let is_attached = key.kind == Kind::Port && self.attachments.contains_key(&PortId(key.id));
        let before = old.as_deref().map(|object| memberships(object, is_attached)).unwrap_or_default();
        let after = new.as_deref().map(|object| memberships(object, is_attached)).unwrap_or_default();
        self.move_memberships(key.id, &before, &after, touched);
        self.recompute_domains(old.as_deref(), new.as_deref(), touched);
    }

    fn reattach(&mut self, port: PortId, new: Option<Attachment>, touched: &mut FxHashSet<Dep>) {
        let old = match new {
            Some(attachment) => self.attachments.insert(port, attachment),
            None => self.attachments.remove(&port),
        };
        if old == new {
            return;
        }
        touched.insert(Dep::Attachment(port));
        if let Some(object) = self.objects.get(&ObjectKey::new(Kind::Port, port)).cloned() {
            let before = memberships(&object, old.is_some());
            let after = memberships(&object, new.is_some());
            self.move_memberships(port.0, &before, &after, touched);
        }
    }

    fn move_memberships(&mut self, id: Uuid, before: &BTreeMap<Index, ()>, after: &BTreeMap<Index, ()>, touched: &mut FxHashSet<Dep>) {
        for index in before.keys().filter(|index| !after.contains_key(index)) {
            self.leave(*index, id, touched);
        }
        for index in after.keys().filter(|index| !before.contains_key(index)) {
            self.join(*index, id, touched);
        }
    }

    fn join(&mut self, index: Index, id: Uuid, touched: &mut FxHashSet<Dep>) {
        let set = self.indexes.entry(index).or_default();
        let is_first = set.is_empty();
        set.insert(id);
        touched.insert(Dep::Index(index));
        if let (Index::PortsAt(network, node), true) = (index, is_first) {
            self.join(Index::NodesOn(network), node, touched);
        }
    }

    fn leave(&mut self, index: Index, id: Uuid, touched: &mut FxHashSet<Dep>) {
        let Some(set) = self.indexes.get_mut(&index) else { return };
        set.remove(&id);
        let is_empty = set.is_empty();
        touched.insert(Dep::Index(index));
        if is_empty {
            self.indexes.remove(&index);
            if let Index::PortsAt(network, node) = index {
                self.leave(Index::NodesOn(network), node, touched);
            }
        }
    }

    fn recompute_domains(&mut self, old: Option<&Object>, new: Option<&Object>, touched: &mut FxHashSet<Dep>) {
        let mut seeds: BTreeSet<NetworkId> = BTreeSet::new();
        for object in [old, new].into_iter().flatten() {
            match object {
                Object::Network(network) => {
                    seeds.insert(network.id);
                }
                Object::Port(port) if port.is_router_interface() => {
                    seeds.insert(port.network);
                    seeds.extend(port.router().map(|router| self.networks_of(router)).into_iter().flatten());
                }
                _ => {}
            }
        }
        // A network that merely changed its name joins and leaves nothing.
        if let (Some(Object::Network(old)), Some(Object::Network(new))) = (old, new)
            && old.key == new.key
        {
            return;
        }
        if let (Some(Object::Port(old)), Some(Object::Port(new))) = (old, new)
            && old.router() == new.router()
            && old.network == new.network
        {
            return;
        }
        let mut domains = std::mem::take(&mut self.domains);
        for changed in domains.recompute(&seeds, |network| self.neighbours_of(network), |network| self.network_key(network)) {
            touched.insert(Dep::Domain(changed));
        }
        self.domains = domains;
    }

    fn network_key(&self, network: NetworkId) -> Option<u32> {
        match self.objects.get(&ObjectKey::new(Kind::Network, network)).map(|object| &**object) {
            Some(Object::Network(network)) => Some(network.key.0),
            _ => None,
        }
    }

    fn port(&self, id: Uuid) -> Option<&model::Port> {
        self.objects.get(&ObjectKey::new(Kind::Port, id)).and_then(|object| (&**object).try_into().ok())
    }

    fn networks_of(&self, router: RouterId) -> Vec<NetworkId> {
        self.ids(Index::InterfacesOf(router)).filter_map(|id| self.port(id)).map(|port| port.network).collect()
    }

    fn neighbours_of(&self, network: NetworkId) -> Vec<NetworkId> {
        let routers = self.ids(Index::InterfacesOn(network)).filter_map(|id| self.port(id)).filter_map(|port| port.router());
        routers.flat_map(|router| self.networks_of(router)).collect()
    }
}

/// The indexes to which `object` belongs.
fn memberships(object: &Object, is_attached: bool) -> BTreeMap<Index, ()> {
    let mut indexes = BTreeMap::new();
    let mut add = |index| {
        indexes.insert(index, ());
    };
    match object {
        Object::Subnet(subnet) => add(Index::SubnetsOf(subnet.network)),
        Object::Block(block) => {
            add(Index::BlocksOn(block.network));
            add(Index::PortsAt(block.network, block.node.id().0));
        }
        Object::Rule(rule) => {
            add(Index::RulesOf(rule.group));
            rule.remote_group.into_iter().for_each(|group| add(Index::RulesNaming(group)));
        }
        Object::LoadBalancer(balancer) => add(Index::BalancersOn(balancer.vip_network)),
        Object::Listener(listener) => {
            add(Index::ListenersOf(listener.load_balancer));
            listener.default_pool.into_iter().for_each(|pool| add(Index::ListenersUsing(pool)));
        }
        Object::Pool(pool) => add(Index::PoolsOf(pool.load_balancer)),
        Object::Member(member) => {
            add(Index::MembersOf(member.pool));
            add(Index::MembersAt(member.address));
        }
        Object::Port(port) => {
            if let Some(router) = port.router() {
                add(Index::InterfacesOn(port.network));
                add(Index::InterfacesOf(router));
            }
            if let Some(home) = port.home().filter(|_| port.block.is_none()) {
                add(Index::PortsAt(port.network, home.id().0));
            }
            port.security_groups.iter().for_each(|group| add(Index::PortsIn(*group)));
            if is_attached {
                add(Index::AttachedOn(port.network));
                port.security_groups.iter().for_each(|group| add(Index::AttachedIn(*group)));
            }
        }
        Object::Node(_) | Object::Network(_) | Object::Router(_) | Object::SecurityGroup(_) => {}
    }
    indexes
}
