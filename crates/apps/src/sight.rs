//! What an app sees: the view, read-only, with every look remembered.

use std::cell::RefCell;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{
    Block, Direction, Kind, Listener, LoadBalancer, Member, Network, NetworkId, Node, NodeName, Object, ObjectKey, Pool, Port, PortId,
    Router, RouterId, Rule, SecurityGroup, SecurityGroupId, Subnet,
};
use uuid::Uuid;

use crate::numbers::NumberKey;
use crate::view::{Attachment, Dep, Here, Index, View, find};

/// A view that remembers what was read of it.
pub struct Sight<'a> {
    view: &'a View,
    read: RefCell<Vec<Dep>>,
}

/// Reads one kind of object.
macro_rules! readers {
    ($($name:ident $kind:ident;)*) => {$(
        #[doc = concat!("The ", stringify!($name), " with the id, if it is in view.")]
        pub fn $name(&self, id: impl Into<Uuid>) -> Option<&'a $kind> {
            self.object(ObjectKey::new(Kind::$kind, id)).and_then(|object| object.try_into().ok())
        }
    )*};
}

/// Reads the objects that belong to something.
macro_rules! collections {
    ($($(#[$doc:meta])* $name:ident $index:ident($of:ty) -> $one:ident $kind:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self, of: $of) -> Vec<&'a $kind> {
            self.ids(Index::$index(of)).into_iter().filter_map(|id| self.$one(id)).collect()
        }
    )*};
}

impl<'a> Sight<'a> {
    pub(crate) fn new(view: &'a View) -> Sight<'a> {
        Sight { view, read: RefCell::default() }
    }

    /// In order, each once.
    pub(crate) fn into_read(self) -> Vec<Dep> {
        let mut read = self.read.into_inner();
        read.sort_unstable();
        read.dedup();
        read
    }

    fn note(&self, dep: Dep) {
        self.read.borrow_mut().push(dep);
    }

    fn object(&self, key: ObjectKey) -> Option<&'a Object> {
        self.note(Dep::Object(key));
        self.view.object(key).map(|object| &**object)
    }

    /// The members of an index, in order.
    pub fn ids(&self, index: Index) -> Vec<Uuid> {
        self.note(Dep::Index(index));
        self.view.ids(index).collect()
    }

    /// True if an index has any member.
    pub fn any(&self, index: Index) -> bool {
        self.note(Dep::Index(index));
        self.view.ids(index).next().is_some()
    }

    readers! {
        node Node;
        network Network;
        subnet Subnet;
        router Router;
        security_group SecurityGroup;
        rule Rule;
        block Block;
        port Port;
        load_balancer LoadBalancer;
        listener Listener;
        pool Pool;
    }

    collections! {
        subnets_of SubnetsOf(NetworkId) -> subnet Subnet;
        /// Router interfaces on a network.
        interfaces_on InterfacesOn(NetworkId) -> port Port;
        /// Interfaces of a router.
        interfaces_of InterfacesOf(RouterId) -> port Port;
        /// Ports attached here, by network.
        attached_on AttachedOn(NetworkId) -> port Port;
        blocks_on BlocksOn(NetworkId) -> block Block;
        rules_of RulesOf(SecurityGroupId) -> rule Rule;
        balancers_on BalancersOn(NetworkId) -> load_balancer LoadBalancer;
        listeners_of ListenersOf(model::LoadBalancerId) -> listener Listener;
        /// Listeners whose default pool it is.
        listeners_using ListenersUsing(model::PoolId) -> listener Listener;
    }

    /// The members of a pool, which are read as one: a pool has many, and a view very many.
    pub fn members_of(&self, pool: model::PoolId) -> Vec<&'a Member> {
        self.ids(Index::MembersOf(pool)).into_iter().filter_map(|id| find(self.view, Kind::Member, id)).collect()
    }

    pub fn attachment(&self, port: PortId) -> Option<&'a Attachment> {
        self.note(Dep::Attachment(port));
        self.view.attachment(port)
    }

    pub fn here(&self) -> &'a Here {
        self.note(Dep::Here);
        self.view.here()
    }

    /// True if `node` is this node.
    pub fn is_here(&self, node: &NodeName) -> bool {
        self.here().node == *node
    }

    /// The number of the routing domain of `network`. Zero: the network is not in view.
    pub fn domain(&self, network: NetworkId) -> u32 {
        self.note(Dep::Domain(network));
        self.view.domain(network).unwrap_or_default()
    }

    /// The address to which a tunnel to `node` goes, if there is a way.
    pub fn tunnel_to(&self, node: &NodeName) -> Option<IpAddr> {
        let here = self.here();
        here.tunnel_port?;
        self.node(node.id())?.reachable_from(&here.tunnel_addresses)
    }

    /// The same, of a node that is not this one.
    pub fn way_to(&self, node: &NodeName) -> Option<IpAddr> {
        if self.is_here(node) { None } else { self.tunnel_to(node) }
    }

    /// The number of the set of `port`'s security groups. Zero: it has none.
    pub fn own_identity(&self, port: &Port) -> u32 {
        self.view.numbers().borrow_mut().identity(&port.security_groups.iter().copied().collect())
    }

    /// The number of the identity of an address in a routing domain, and a port that has the address.
    pub fn address_identity(&self, domain: u32, address: IpNet) -> Option<(u32, PortId)> {
        self.note(Dep::Address(domain, address));
        let (number, _) = self.view.address_identity(domain, address)?;
        let network = self.view.networks_with(domain, address).next()?;
        let owner = self.ids(Index::PortsWith(network, address)).into_iter().next()?;
        Some((number, PortId(owner)))
    }

    /// Whether a rule of the direction names one of the groups of the address, whose identity was read.
    pub fn is_asked_for(&self, domain: u32, address: IpNet, direction: Direction) -> bool {
        self.note(Dep::Address(domain, address));
        self.view.is_asked_for(domain, address, direction)
    }

    /// The numbers in an index of identities, in order.
    pub fn identities(&self, index: Index) -> Vec<u32> {
        self.ids(index).into_iter().map(|id| id.as_u128() as u32).collect()
    }

    /// The number that this node gave to `key`.
    pub fn number(&self, key: NumberKey) -> u32 {
        self.view.numbers().borrow_mut().of(key)
    }

    /// An attached port that may send and receive: with its attachment and its network.
    pub fn live(&self, port: PortId) -> Option<(&'a Port, &'a Attachment, &'a Network)> {
        let attachment = self.attachment(port)?;
        let port = self.port(port).filter(|port| port.is_admin_up)?;
        let network = self.network(port.network).filter(|network| network.is_admin_up)?;
        Some((port, attachment, network))
    }
}
