//! What a node knows: the objects of its view, what is attached to its switch, and where to find what belongs together.
//!
//! A change to the view answers with the [`Dep`]s that it touched: that is all the engine needs to find the functions that
//! read something changed. An [`Index`] is one such thing of its own: who reads "the rules of this group" is re-run when a
//! rule joins or leaves the group, and only who also read the rule itself when the rule changes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::{Direction, Kind, LoadBalancerId, NetworkId, NodeName, Object, ObjectKey, PoolId, PortId, RouterId, SecurityGroupId};
use pipeline::OfPort;
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

use crate::app::Root;
use crate::domains::{Domains, Graph};
use crate::few::Few;
use crate::identities::{Addresses, Place};
use crate::numbers::Numbers;

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
    /// Ports with a home on a node, by network and node: the replication list.
    PortsAt(NetworkId, Uuid),
    /// Not empty while ports on the network have their home here, or are attached here: machines of this node look for each other there.
    Inhabited(NetworkId),
    /// Nodes that are home to something on a network.
    NodesOn(NetworkId),
    BlocksOn(NetworkId),
    RulesOf(SecurityGroupId),
    /// Rules of a direction whose remote side is the group.
    RulesNaming(SecurityGroupId, Direction),
    /// Ports attached here, by the number of their own set of groups.
    AttachedAs(u32),
    /// Numbers of the sets of groups of ports attached here that hold the group.
    IdentitiesWith(SecurityGroupId),
    /// Ports in view that are members of a group.
    PortsIn(SecurityGroupId),
    /// Ports that have an address on a network, as a fixed one or by an address pair.
    PortsWith(NetworkId, IpNet),
    /// Addresses in view, by the number of their identity.
    AddressesAs(u32),
    /// Numbers of the identities of addresses in view that hold the group.
    AddressIdentitiesWith(SecurityGroupId),
    BalancersOn(NetworkId),
    /// Load balancers with the VIP, on any network.
    BalancersAt(IpAddr),
    /// Networks of a routing domain that have load balancers.
    BalancedIn(u32),
    ListenersOf(LoadBalancerId),
    /// Listeners whose default pool it is.
    ListenersUsing(PoolId),
    PoolsOf(LoadBalancerId),
    MembersOf(PoolId),
    /// Members with the address, of any pool.
    MembersAt(IpAddr),
}

impl Index {
    /// True if nobody reads one of its objects without the others: it is touched by a change of any of them.
    fn is_read_whole(self) -> bool {
        matches!(self, Index::MembersOf(_))
    }
}

pub(crate) const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// Something that a function can read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dep {
    Object(ObjectKey),
    Index(Index),
    Attachment(PortId),
    Here,
    /// The routing domain of a network.
    Domain(NetworkId),
    /// The identity of an address in a routing domain.
    Address(u32, IpNet),
}

impl From<Root> for Dep {
    fn from(root: Root) -> Dep {
        match root {
            Root::Object(key) => Dep::Object(key),
            Root::Attached(port) => Dep::Attachment(port),
            Root::Address(domain, address) => Dep::Address(domain, address),
            Root::Here => Dep::Here,
        }
    }
}

/// What may have changed by many changes together, until [`View::settle`].
#[derive(Default, Debug)]
struct Unsettled {
    /// Networks whose routing domain may be another one, and those that these routers join.
    networks: BTreeSet<NetworkId>,
    routers: BTreeSet<RouterId>,
    /// Addresses whose identity may be another one.
    places: BTreeSet<Place>,
    /// Groups that rules name now and did not before, or the other way round.
    groups: BTreeSet<SecurityGroupId>,
}

/// A node's view.
#[derive(Default, Debug)]
pub struct View {
    objects: FxHashMap<ObjectKey, Arc<Object>>,
    attachments: FxHashMap<PortId, Attachment>,
    here: Here,
    indexes: FxHashMap<Index, Few<Uuid>>,
    domains: Domains,
    addresses: Addresses,
    unsettled: Unsettled,
    numbers: RefCell<Numbers>,
}

impl View {
    /// An empty view of a node that has given `numbers` so far.
    pub fn new(numbers: Numbers) -> View {
        View { numbers: RefCell::new(numbers), ..View::default() }
    }

    /// The numbers given on this node. What the view or a flow needs keeps the one that it has: giving a number is no change of the
    /// view.
    pub(crate) fn numbers(&self) -> &RefCell<Numbers> {
        &self.numbers
    }

    /// The identity of exactly this address or prefix in a routing domain, if it has one of its own: its number and its groups.
    pub fn address_identity(&self, domain: u32, address: IpNet) -> Option<(u32, &BTreeSet<SecurityGroupId>)> {
        self.addresses.of(domain, address)
    }

    /// Whether a rule of the direction names one of the address's groups.
    pub fn is_asked_for(&self, domain: u32, address: IpNet, direction: Direction) -> bool {
        self.addresses.of(domain, address).is_some_and(|(_, groups)| groups.iter().any(|group| self.is_named(*group, direction)))
    }

    /// The networks of a domain on which ports with groups have exactly this address.
    pub fn networks_with(&self, domain: u32, address: IpNet) -> impl Iterator<Item = NetworkId> + '_ {
        self.addresses.networks(domain, address)
    }

    /// Whether ports with groups have the same address in both domains.
    pub fn overlap(&self, one: u32, other: u32) -> bool {
        self.addresses.overlap(one, other)
    }

    /// True if an address in view or a port attached here has the identity `number`.
    pub(crate) fn has_identity(&self, number: u32) -> bool {
        [Index::AttachedAs(number), Index::AddressesAs(number)].iter().any(|index| self.indexes.contains_key(index))
    }

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
        self.indexes.get(&index).into_iter().flat_map(Few::iter).copied()
    }

    /// The routing domain of `network`: the smallest key in its component.
    pub fn domain(&self, network: NetworkId) -> Option<u32> {
        self.domains.of(network)
    }

    /// Makes `change` true and adds what it touched to `touched`; identities follow when the view settles.
    pub fn apply(&mut self, change: Change, touched: &mut FxHashSet<Dep>) {
        match change {
            Change::Put(object) => self.replace(object.key(), Some(object), touched),
            Change::Remove(key) => self.replace(key, None, touched),
            Change::Attach(attachment) => self.reattach(attachment.port, Some(attachment), touched),
            Change::Detach(port) => self.reattach(port, None, touched),
            Change::Here(here) if here != self.here => self.replace_here(here, touched),
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
        let before = old.as_deref().map(|object| self.memberships(object, is_attached)).unwrap_or_default();
        let after = new.as_deref().map(|object| self.memberships(object, is_attached)).unwrap_or_default();
        self.move_memberships(key.id, &before, &after, touched);
        let stays = |index: &&Index| index.is_read_whole() && after.contains(index);
        touched.extend(before.iter().filter(stays).map(|index| Dep::Index(*index)));
        self.unsettle_domains(old.as_deref(), new.as_deref());
        self.unsettle(before.iter().chain(&after));
    }

    fn replace_here(&mut self, here: Here, touched: &mut FxHashSet<Dep>) {
        let (old, new) = (self.here.node.id().0, here.node.id().0);
        self.here = here;
        touched.insert(Dep::Here);
        if old != new {
            self.networks_at(old).into_iter().for_each(|network| self.leave(Index::Inhabited(network), old, touched));
            self.networks_at(new).into_iter().for_each(|network| self.join(Index::Inhabited(network), new, touched));
        }
    }

    /// The networks with ports whose home is the node.
    fn networks_at(&self, node: Uuid) -> Vec<NetworkId> {
        let network = |index: &Index| match index {
            Index::PortsAt(network, at) if *at == node => Some(*network),
            _ => None,
        };
        self.indexes.keys().filter_map(network).collect()
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
            let before = self.memberships(&object, old.is_some());
            let after = self.memberships(&object, new.is_some());
            self.move_memberships(port.0, &before, &after, touched);
        }
    }

    fn move_memberships(&mut self, id: Uuid, before: &[Index], after: &[Index], touched: &mut FxHashSet<Dep>) {
        for index in before.iter().filter(|index| !after.contains(index)) {
            self.leave(*index, id, touched);
        }
        for index in after.iter().filter(|index| !before.contains(index)) {
            self.join(*index, id, touched);
        }
    }

    /// Addresses whose owners changed may have another identity.
    fn unsettle<'a>(&mut self, indexes: impl Iterator<Item = &'a Index>) {
        for index in indexes {
            if let Index::PortsWith(network, address) = index
                && let Some(domain) = self.domains.of(*network)
            {
                self.unsettled.places.insert((domain, *address));
            }
            if let Index::SubnetsOf(network) = index
                && let Some(domain) = self.domains.of(*network)
            {
                self.unsettled.places.extend(self.addresses.on(*network).map(|address| (domain, address)));
            }
        }
    }

    /// After some changes: gives every network its routing domain, and every address its identity. Not after each: a domain of a thousand
    /// networks would be gone through for each of them, and sets of groups that were only passed through would get numbers. Answers how many
    /// networks and routers it visited.
    pub fn settle(&mut self, touched: &mut FxHashSet<Dep>) -> u64 {
        let visited = self.settle_domains(touched);
        let Unsettled { mut places, groups, .. } = std::mem::take(&mut self.unsettled);
        for place in groups.into_iter().flat_map(|group| self.places_in(group)) {
            // Also where the identity stays: in one direction more, or less, somebody asks for it.
            touched.extend(self.addresses.within(place).map(|(domain, address)| Dep::Address(domain, address)));
            places.insert(place);
        }
        let mut concerned = BTreeSet::new();
        for place in places {
            let groups = self.own_groups(place);
            concerned.extend(self.addresses.set_own(place, groups));
        }
        for place in concerned {
            self.settle_place(place, touched);
        }
        visited
    }

    fn settle_place(&mut self, place: Place, touched: &mut FxHashSet<Dep>) {
        let groups = self.addresses.groups(place);
        let number = self.numbers.get_mut().identity(&groups);
        let old = self.addresses.replace(place, number, groups);
        if old == number {
            return;
        }
        touched.insert(Dep::Address(place.0, place.1));
        let member = Addresses::member(place);
        if old != 0 {
            self.leave(Index::AddressesAs(old), member, touched);
        }
        if number != 0 {
            self.join(Index::AddressesAs(number), member, touched);
        }
    }

    /// Where the members of a group are.
    fn places_in(&self, group: SecurityGroupId) -> Vec<Place> {
        let ports = self.ids(Index::PortsIn(group)).filter_map(|id| self.port(id));
        let places = |port: &model::Port| {
            let domain = self.domains.of(port.network);
            domain.into_iter().flat_map(|domain| addresses_of(port).map(move |address| (domain, address))).collect::<Vec<_>>()
        };
        ports.flat_map(places).collect()
    }

    /// Whether the address is on a subnet of the network.
    fn is_on(&self, network: NetworkId, address: IpNet) -> bool {
        let mut subnets = self.ids(Index::SubnetsOf(network)).filter_map(|id| find::<model::Subnet>(self, Kind::Subnet, id));
        subnets.any(|subnet| subnet.cidr.contains(&address))
    }

    /// Whether a rule of the direction names the group.
    fn is_named(&self, group: SecurityGroupId, direction: Direction) -> bool {
        self.indexes.contains_key(&Index::RulesNaming(group, direction))
    }

    /// The groups with a name in some rule that exactly this address has, on every network of the domain where ports have it. What
    /// ports elsewhere have by an address pair counts only if no network has the address on a subnet and on a port.
    fn own_groups(&self, (domain, address): Place) -> BTreeSet<SecurityGroupId> {
        let is_named = |group: &SecurityGroupId| DIRECTIONS.iter().any(|direction| self.is_named(*group, *direction));
        let on_network = |network| -> BTreeSet<SecurityGroupId> {
            let owners = self.ids(Index::PortsWith(network, address)).filter_map(|id| self.port(id));
            owners.flat_map(|port| port.security_groups.iter().copied()).filter(is_named).collect()
        };
        let (owners, others): (Vec<NetworkId>, Vec<NetworkId>) =
            self.networks_with(domain, address).partition(|network| self.is_on(*network, address));
        let counted = if owners.is_empty() { others } else { owners };
        counted.into_iter().map(on_network).reduce(|groups, others| &groups & &others).unwrap_or_default()
    }

    fn join(&mut self, index: Index, id: Uuid, touched: &mut FxHashSet<Dep>) {
        let is_first = !self.indexes.contains_key(&index);
        self.indexes.entry(index).and_modify(|ids| ids.insert(id)).or_insert(Few::One(id));
        touched.insert(Dep::Index(index));
        if is_first {
            self.begin_or_end(index, true, touched);
            for (above, id) in self.above(index) {
                self.join(above, id, touched);
            }
        }
    }

    fn leave(&mut self, index: Index, id: Uuid, touched: &mut FxHashSet<Dep>) {
        let Some(ids) = self.indexes.get_mut(&index) else { return };
        let is_last = !ids.remove(&id);
        touched.insert(Dep::Index(index));
        if is_last {
            self.indexes.remove(&index);
            self.begin_or_end(index, false, touched);
            for (above, id) in self.above(index) {
                self.leave(above, id, touched);
            }
        }
    }

    /// An index has its first member, or lost its last.
    fn begin_or_end(&mut self, index: Index, begins: bool, touched: &mut FxHashSet<Dep>) {
        match index {
            Index::RulesNaming(group, _) => drop(self.unsettled.groups.insert(group)),
            Index::PortsWith(network, address) => {
                let domain = self.domains.of(network);
                match begins {
                    true => self.addresses.enter(network, address, domain),
                    false => self.addresses.exit(network, address, domain),
                }
                touched.extend(domain.map(|domain| Dep::Address(domain, address)));
            }
            _ => {}
        }
    }

    /// The indexes to which an index itself belongs while it has members, and under which id.
    fn above(&self, index: Index) -> Vec<(Index, Uuid)> {
        let in_groups = |number: u32, of: fn(SecurityGroupId) -> Index| {
            let groups = self.numbers.borrow().groups(number);
            groups.into_iter().map(|group| (of(group), Uuid::from_u128(number.into()))).collect()
        };
        match index {
            Index::PortsAt(network, node) => {
                let here = (node == self.here.node.id().0).then_some((Index::Inhabited(network), node));
                [(Index::NodesOn(network), node)].into_iter().chain(here).collect()
            }
            Index::AttachedOn(network) => vec![(Index::Inhabited(network), Uuid::nil())],
            Index::AttachedAs(number) => in_groups(number, Index::IdentitiesWith),
            Index::AddressesAs(number) => in_groups(number, Index::AddressIdentitiesWith),
            Index::BalancersOn(network) => {
                self.domains.of(network).map(|domain| (Index::BalancedIn(domain), network.0)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn unsettle_domains(&mut self, old: Option<&Object>, new: Option<&Object>) {
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
        for object in [old, new].into_iter().flatten() {
            match object {
                Object::Network(network) => drop(self.unsettled.networks.insert(network.id)),
                Object::Port(port) if port.is_router_interface() => {
                    self.unsettled.networks.insert(port.network);
                    self.unsettled.routers.extend(port.router());
                }
                _ => {}
            }
        }
    }

    fn settle_domains(&mut self, touched: &mut FxHashSet<Dep>) -> u64 {
        let mut seeds = std::mem::take(&mut self.unsettled.networks);
        let routers = std::mem::take(&mut self.unsettled.routers);
        seeds.extend(routers.into_iter().flat_map(|router| self.networks_of(router)));
        let (mut domains, mut visited) = (std::mem::take(&mut self.domains), 0);
        let changes = domains.recompute(&seeds, self, |network| self.network_key(network), &mut visited);
        self.domains = domains;
        for (network, old, new) in changes {
            touched.insert(Dep::Domain(network));
            let moved = self.addresses.move_network(network, old, new);
            touched.extend(moved.iter().map(|(domain, address)| Dep::Address(*domain, *address)));
            self.unsettled.places.extend(moved);
            self.move_balanced(network, old, new, touched);
        }
        visited
    }

    /// A network with load balancers takes them along into its new domain.
    fn move_balanced(&mut self, network: NetworkId, old: Option<u32>, new: Option<u32>, touched: &mut FxHashSet<Dep>) {
        if !self.indexes.contains_key(&Index::BalancersOn(network)) {
            return;
        }
        if let Some(old) = old {
            self.leave(Index::BalancedIn(old), network.0, touched);
        }
        if let Some(new) = new {
            self.join(Index::BalancedIn(new), network.0, touched);
        }
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

    /// The indexes to which `object` belongs: a few, and each once.
    fn memberships(&self, object: &Object, is_attached: bool) -> Vec<Index> {
        match object {
            Object::Subnet(subnet) => vec![Index::SubnetsOf(subnet.network)],
            Object::Block(block) => vec![Index::BlocksOn(block.network), Index::PortsAt(block.network, block.node.id().0)],
            Object::Rule(rule) => {
                let naming = rule.remote_group.map(|group| Index::RulesNaming(group, rule.direction));
                naming.into_iter().chain([Index::RulesOf(rule.group)]).collect()
            }
            Object::LoadBalancer(balancer) => vec![Index::BalancersOn(balancer.vip_network), Index::BalancersAt(balancer.vip)],
            Object::Listener(listener) => {
                let using = listener.default_pool.map(Index::ListenersUsing);
                using.into_iter().chain([Index::ListenersOf(listener.load_balancer)]).collect()
            }
            Object::Pool(pool) => vec![Index::PoolsOf(pool.load_balancer)],
            Object::Member(member) => vec![Index::MembersOf(member.pool), Index::MembersAt(member.address)],
            Object::Port(port) => self.port_memberships(port, is_attached),
            Object::Node(_) | Object::Network(_) | Object::Router(_) | Object::SecurityGroup(_) => Vec::new(),
        }
    }

    fn port_memberships(&self, port: &model::Port, is_attached: bool) -> Vec<Index> {
        let interface = port.router().map(|router| [Index::InterfacesOn(port.network), Index::InterfacesOf(router)]);
        let home = port.home().filter(|_| port.block.is_none()).map(|home| Index::PortsAt(port.network, home.id().0));
        let groups: BTreeSet<SecurityGroupId> = port.security_groups.iter().copied().collect();
        let addresses = addresses_of(port).filter(|_| !groups.is_empty()).map(|address| Index::PortsWith(port.network, address));
        let member = groups.iter().map(|group| Index::PortsIn(*group));
        let mut indexes: Vec<Index> = interface.into_iter().flatten().chain(home).chain(addresses).chain(member).collect();
        if is_attached {
            let number = self.numbers.borrow_mut().identity(&groups);
            indexes.push(Index::AttachedOn(port.network));
            indexes.extend((number != 0).then_some(Index::AttachedAs(number)));
        }
        // An address pair may be one of the port's own addresses.
        indexes.sort_unstable();
        indexes.dedup();
        indexes
    }
}

impl Graph for View {
    fn routers_of(&self, network: NetworkId) -> Vec<RouterId> {
        self.ids(Index::InterfacesOn(network)).filter_map(|id| self.port(id)).filter_map(|port| port.router()).collect()
    }

    fn networks_of(&self, router: RouterId) -> Vec<NetworkId> {
        self.ids(Index::InterfacesOf(router)).filter_map(|id| self.port(id)).map(|port| port.network).collect()
    }
}

/// The port's own addresses and those of its address pairs.
fn addresses_of(port: &model::Port) -> impl Iterator<Item = IpNet> + '_ {
    port.addresses().map(IpNet::from).chain(port.address_pairs.iter().map(|pair| pair.ip.trunc()))
}

/// The object of one kind with the id, if it is in view.
pub fn find<'a, T>(view: &'a View, kind: Kind, id: impl Into<Uuid>) -> Option<&'a T>
where
    &'a T: TryFrom<&'a Object>,
{
    view.object(ObjectKey::new(kind, id)).and_then(|object| (&**object).try_into().ok())
}
