//! Who is interested in what, kept up to date by what changes.
//!
//! Interest has layers, and each counts: a node has ports; ports are on networks; networks are joined by routers into routing
//! domains; ports are in groups; groups' rules name groups; those have members. A change of one object is a difference of
//! [`Edge`]s; an edge that is counted from zero to one (or back) adds (or removes) just what it brings.
//!
//! ```text
//!  node ──Local──▶ network ──Link──▶ router ──Link──▶ network …   = domain ─▶ Scope::Network of each of its networks
//!    │ Uses                                                                ╲
//!    ▼                                                                      ▶ Scope::Members(network, group)
//!  group ──Remote──▶ group                                                 ╱
//! ```
//!
//! Objects are in [`Scope`]s and nodes follow scopes; a node's view is what is in the scopes that it follows. What is meant is
//! defined by [`closure`](super::closure()), and a property test compares the two. [`Interest::work`] counts what is touched:
//! a test fails when the work of a change grows with what the change is not about.

mod domains;
mod edges;
mod news;

use std::collections::BTreeSet;

use model::{Kind, NetworkId, NodeId, NodeName, Object, ObjectKey, SecurityGroupId};
use rustc_hash::{FxHashMap, FxHashSet};
use stream::InterestHash;

use crate::state::{Change, State};
use domains::Domains;
use edges::{Edge, Scope, difference, edges};
use news::Before;

pub use news::{Effect, News};

type Count<K> = FxHashMap<K, u32>;

/// The interest of all nodes.
#[derive(Default)]
pub struct Interest {
    scopes: FxHashMap<Scope, Content>,
    /// The scopes that an object is in.
    places: FxHashMap<ObjectKey, FxHashSet<Scope>>,
    nodes: FxHashMap<NodeId, Layers>,
    domains: Domains,
    /// group → the groups that its rules name, by number of rules.
    remotes: FxHashMap<SecurityGroupId, Count<SecurityGroupId>>,
    /// group → the networks with a `Members` scope that is not empty.
    members: FxHashMap<SecurityGroupId, FxHashSet<NetworkId>>,
    /// What load balancers and pools hold, and where they are.
    trees: FxHashMap<ObjectKey, Tree>,
    /// Objects that others put into scopes by name, and that are there.
    existing: FxHashSet<ObjectKey>,
    followed: FxHashSet<NodeId>,
    before: Before,
    work: u64,
}

#[derive(Default)]
struct Content {
    objects: Count<ObjectKey>,
    /// Of those of `objects` that are there.
    hash: InterestHash,
    nodes: FxHashSet<NodeId>,
}

/// What one node is interested in.
#[derive(Default)]
struct Layers {
    ports: u32,
    groups: Count<SecurityGroupId>,
    /// Groups that the rules of `groups` name, by number of groups that do.
    names: Count<SecurityGroupId>,
    scopes: FxHashSet<Scope>,
}

#[derive(Default)]
struct Tree {
    /// By the number of reasons.
    networks: Count<NetworkId>,
    children: Count<ObjectKey>,
}

/// Counts one more; true for the first.
fn up<K: std::hash::Hash + Eq>(counts: &mut Count<K>, key: K) -> bool {
    let count = counts.entry(key).or_default();
    *count += 1;
    *count == 1
}

/// Counts one less; true for the last.
fn down<K: std::hash::Hash + Eq>(counts: &mut Count<K>, key: &K) -> bool {
    let Some(count) = counts.get_mut(key) else { return false };
    *count -= 1;
    let is_last = *count == 0;
    if is_last {
        counts.remove(key);
    }
    is_last
}

/// True for kinds that are put into scopes by what names them, whether or not they are there.
fn is_named(kind: Kind) -> bool {
    matches!(kind, Kind::Node | Kind::Router)
}

impl Interest {
    /// The interest that follows from `state`. Nobody's changes are told until [`Interest::follow`].
    pub fn of(state: &State) -> Interest {
        let mut interest = Interest::default();
        for object in state.objects() {
            edges(object).into_iter().for_each(|edge| interest.add(edge));
        }
        interest
    }

    /// From now on [`Interest::apply`] tells what changes for this node.
    pub fn follow(&mut self, node: &NodeName) {
        self.followed.insert(node.id());
    }

    /// From now on nothing is told for this node.
    pub fn unfollow(&mut self, node: &NodeName) {
        self.followed.remove(&node.id());
    }

    /// Objects touched so far: what the changes cost.
    pub fn work(&self) -> u64 {
        self.work
    }

    /// True if the node has anything in its view.
    pub fn has_view(&self, node: &NodeName) -> bool {
        self.nodes.contains_key(&node.id())
    }

    /// The keys of the node's view.
    pub fn view(&self, node: &NodeName) -> BTreeSet<ObjectKey> {
        let scopes = self.nodes.get(&node.id()).into_iter().flat_map(|layers| &layers.scopes);
        let objects = scopes.filter_map(|scope| self.scopes.get(scope)).flat_map(|content| content.objects.keys());
        objects.filter(|key| self.exists(key)).copied().collect()
    }

    /// The hash of the node's view, without a look at what is in the largest scope: on a flat network, that is nearly everything.
    pub fn hash(&self, node: &NodeName) -> InterestHash {
        let scopes = self.nodes.get(&node.id()).into_iter().flat_map(|layers| &layers.scopes);
        let mut contents: Vec<&Content> = scopes.filter_map(|scope| self.scopes.get(scope)).collect();
        contents.sort_unstable_by_key(|content| content.objects.len());
        let Some(largest) = contents.pop() else { return InterestHash::default() };
        let others: FxHashSet<&ObjectKey> = contents.into_iter().flat_map(|content| content.objects.keys()).collect();
        let mut hash = largest.hash;
        others.into_iter().filter(|key| !largest.objects.contains_key(key) && self.exists(key)).for_each(|key| hash.insert(key));
        hash
    }

    /// Takes in what a commit changed and tells what that means for the nodes that are followed. Each key changes once.
    pub fn apply(&mut self, changes: &[Change]) -> Vec<News> {
        for change in changes {
            self.work += 1;
            let list = |object: &Option<_>| object.as_deref().map_or_else(Vec::new, |object: &Object| edges(object));
            let (come, gone) = difference(&list(&change.before), &list(&change.after));
            // First what comes: nothing is let go that is needed right after.
            come.into_iter().for_each(|edge| self.add(edge));
            gone.into_iter().for_each(|edge| self.remove(edge));
        }
        self.news(changes)
    }

    fn exists(&self, key: &ObjectKey) -> bool {
        !is_named(key.kind) || self.existing.contains(key)
    }

    fn add(&mut self, edge: Edge) {
        self.work += 1;
        match edge {
            Edge::Exists(key) => {
                if self.existing.insert(key) {
                    self.rehash(key, InterestHash::insert);
                }
            }
            Edge::Put(scope, key) => self.put(scope, key),
            Edge::Place(key, network) => self.place(key, network),
            Edge::Child(parent, child) => {
                let tree = self.trees.entry(parent).or_default();
                if up(&mut tree.children, child) {
                    let networks: Vec<NetworkId> = tree.networks.keys().copied().collect();
                    networks.into_iter().for_each(|network| self.place(child, network));
                }
            }
            Edge::Local(node, network) => {
                let layers = self.nodes.entry(node).or_default();
                layers.ports += 1;
                if layers.ports == 1 {
                    self.subscribe(node, Scope::Own(node));
                }
                let gained = self.domains.settle(node, network, &mut self.work);
                gained.into_iter().for_each(|network| self.join(node, network));
            }
            Edge::Uses(node, group) => {
                if up(&mut self.nodes.entry(node).or_default().groups, group) {
                    self.subscribe(node, Scope::Group(group));
                    self.remotes_of(group).into_iter().for_each(|remote| self.name(node, remote));
                }
            }
            Edge::Remote(group, remote) => {
                if up(self.remotes.entry(group).or_default(), remote) {
                    self.nodes_in(Scope::Group(group)).into_iter().for_each(|node| self.name(node, remote));
                }
            }
            Edge::Link(network, router) => {
                let gained = self.domains.link(network, router, &mut self.work);
                gained.into_iter().for_each(|(node, network)| self.join(node, network));
            }
        }
    }

    fn remove(&mut self, edge: Edge) {
        self.work += 1;
        match edge {
            Edge::Exists(key) => {
                if self.existing.remove(&key) {
                    self.rehash(key, InterestHash::remove);
                }
            }
            Edge::Put(scope, key) => self.take(scope, key),
            Edge::Place(key, network) => self.displace(key, network),
            Edge::Child(parent, child) => {
                let Some(tree) = self.trees.get_mut(&parent) else { return };
                if down(&mut tree.children, &child) {
                    let networks: Vec<NetworkId> = tree.networks.keys().copied().collect();
                    networks.into_iter().for_each(|network| self.displace(child, network));
                    self.forget_tree(parent);
                }
            }
            Edge::Local(node, network) => {
                let lost = self.domains.leave(node, network, &mut self.work);
                lost.into_iter().for_each(|network| self.part(node, network));
                let Some(layers) = self.nodes.get_mut(&node) else { return };
                layers.ports -= 1;
                if layers.ports == 0 {
                    self.unsubscribe(node, Scope::Own(node));
                }
            }
            Edge::Uses(node, group) => {
                if self.nodes.get_mut(&node).is_some_and(|layers| down(&mut layers.groups, &group)) {
                    self.unsubscribe(node, Scope::Group(group));
                    self.remotes_of(group).into_iter().for_each(|remote| self.unname(node, remote));
                }
            }
            Edge::Remote(group, remote) => {
                if self.remotes.get_mut(&group).is_some_and(|remotes| down(remotes, &remote)) {
                    self.nodes_in(Scope::Group(group)).into_iter().for_each(|node| self.unname(node, remote));
                    self.forget_remotes(group);
                }
            }
            Edge::Link(network, router) => {
                let lost = self.domains.unlink(network, router, &mut self.work);
                lost.into_iter().for_each(|(node, network)| self.part(node, network));
            }
        }
    }

    fn remotes_of(&self, group: SecurityGroupId) -> Vec<SecurityGroupId> {
        self.remotes.get(&group).into_iter().flat_map(|remotes| remotes.keys()).copied().collect()
    }

    fn nodes_in(&self, scope: Scope) -> Vec<NodeId> {
        self.scopes.get(&scope).into_iter().flat_map(|content| &content.nodes).copied().collect()
    }

    /// Changes the hashes of the scopes that the object is in.
    fn rehash(&mut self, key: ObjectKey, change: fn(&mut InterestHash, &ObjectKey)) {
        for scope in self.places.get(&key).into_iter().flatten() {
            let content = self.scopes.get_mut(scope).expect("an object's places are scopes");
            change(&mut content.hash, &key);
        }
    }

    /// An object comes into a scope.
    fn put(&mut self, scope: Scope, key: ObjectKey) {
        let exists = self.exists(&key);
        let content = self.scopes.entry(scope).or_default();
        if !up(&mut content.objects, key) {
            return;
        }
        if exists {
            content.hash.insert(&key);
        }
        if let Scope::Members(network, group) = scope {
            self.open_members(network, group);
        }
        self.note_place(scope, key);
        self.places.entry(key).or_default().insert(scope);
    }

    /// An object goes out of a scope.
    fn take(&mut self, scope: Scope, key: ObjectKey) {
        let exists = self.exists(&key);
        let Some(content) = self.scopes.get_mut(&scope) else { return };
        if !down(&mut content.objects, &key) {
            return;
        }
        if exists {
            content.hash.remove(&key);
        }
        self.note_place(scope, key);
        if let Some(places) = self.places.get_mut(&key) {
            places.remove(&scope);
            if places.is_empty() {
                self.places.remove(&key);
            }
        }
        if let Scope::Members(network, group) = scope {
            self.close_members(network, group);
        }
        self.forget_scope(scope);
    }

    /// The first member of a group comes onto a network: whoever names the group and sees the network follows.
    fn open_members(&mut self, network: NetworkId, group: SecurityGroupId) {
        if self.members.entry(group).or_default().insert(network) {
            let namers = self.nodes_in(Scope::Name(group));
            self.work += namers.len() as u64;
            for node in namers.into_iter().filter(|node| self.follows(*node, Scope::Network(network))).collect::<Vec<_>>() {
                self.subscribe(node, Scope::Members(network, group));
            }
        }
    }

    fn close_members(&mut self, network: NetworkId, group: SecurityGroupId) {
        let scope = Scope::Members(network, group);
        if self.scopes.get(&scope).is_some_and(|content| !content.objects.is_empty()) {
            return;
        }
        self.nodes_in(scope).into_iter().for_each(|node| self.unsubscribe(node, scope));
        if let Some(networks) = self.members.get_mut(&group) {
            networks.remove(&network);
            if networks.is_empty() {
                self.members.remove(&group);
            }
        }
    }

    fn follows(&self, node: NodeId, scope: Scope) -> bool {
        self.nodes.get(&node).is_some_and(|layers| layers.scopes.contains(&scope))
    }

    /// A node follows a scope: all that is in it may be news.
    fn subscribe(&mut self, node: NodeId, scope: Scope) {
        if self.follows(node, scope) {
            return;
        }
        self.note_scope(node, scope);
        self.work += 1;
        self.scopes.entry(scope).or_default().nodes.insert(node);
        self.nodes.entry(node).or_default().scopes.insert(scope);
    }

    fn unsubscribe(&mut self, node: NodeId, scope: Scope) {
        if !self.follows(node, scope) {
            return;
        }
        self.note_scope(node, scope);
        self.work += 1;
        if let Some(content) = self.scopes.get_mut(&scope) {
            content.nodes.remove(&node);
        }
        self.forget_scope(scope);
        if let Some(layers) = self.nodes.get_mut(&node) {
            layers.scopes.remove(&scope);
            if layers.ports == 0 && layers.scopes.is_empty() {
                self.nodes.remove(&node);
            }
        }
    }

    /// A network comes into a node's domain.
    fn join(&mut self, node: NodeId, network: NetworkId) {
        self.subscribe(node, Scope::Network(network));
        for group in self.named_by(node) {
            if self.members.get(&group).is_some_and(|networks| networks.contains(&network)) {
                self.subscribe(node, Scope::Members(network, group));
            }
        }
    }

    /// A network goes out of a node's domain.
    fn part(&mut self, node: NodeId, network: NetworkId) {
        for group in self.named_by(node) {
            self.unsubscribe(node, Scope::Members(network, group));
        }
        self.unsubscribe(node, Scope::Network(network));
    }

    fn named_by(&mut self, node: NodeId) -> Vec<SecurityGroupId> {
        let names: Vec<SecurityGroupId> = self.nodes.get(&node).into_iter().flat_map(|layers| layers.names.keys()).copied().collect();
        self.work += names.len() as u64;
        names
    }

    /// A rule for a node's ports names a group.
    fn name(&mut self, node: NodeId, group: SecurityGroupId) {
        if up(&mut self.nodes.entry(node).or_default().names, group) {
            self.subscribe(node, Scope::Name(group));
            for network in self.seen_with_members(node, group) {
                self.subscribe(node, Scope::Members(network, group));
            }
        }
    }

    fn unname(&mut self, node: NodeId, group: SecurityGroupId) {
        if self.nodes.get_mut(&node).is_some_and(|layers| down(&mut layers.names, &group)) {
            for network in self.seen_with_members(node, group) {
                self.unsubscribe(node, Scope::Members(network, group));
            }
            self.unsubscribe(node, Scope::Name(group));
        }
    }

    /// The networks in the node's domains on which the group has members.
    fn seen_with_members(&mut self, node: NodeId, group: SecurityGroupId) -> Vec<NetworkId> {
        let networks: Vec<NetworkId> = self.members.get(&group).into_iter().flatten().copied().collect();
        self.work += networks.len() as u64;
        networks.into_iter().filter(|network| self.follows(node, Scope::Network(*network))).collect()
    }

    /// An object that may have children comes into a network's scope.
    fn place(&mut self, key: ObjectKey, network: NetworkId) {
        self.work += 1;
        let tree = self.trees.entry(key).or_default();
        if up(&mut tree.networks, network) {
            let children: Vec<ObjectKey> = tree.children.keys().copied().collect();
            self.put(Scope::Network(network), key);
            children.into_iter().for_each(|child| self.place(child, network));
        }
    }

    fn displace(&mut self, key: ObjectKey, network: NetworkId) {
        self.work += 1;
        let Some(tree) = self.trees.get_mut(&key) else { return };
        if down(&mut tree.networks, &network) {
            let children: Vec<ObjectKey> = tree.children.keys().copied().collect();
            self.take(Scope::Network(network), key);
            children.into_iter().for_each(|child| self.displace(child, network));
            self.forget_tree(key);
        }
    }

    fn forget_remotes(&mut self, group: SecurityGroupId) {
        if self.remotes.get(&group).is_some_and(|remotes| remotes.is_empty()) {
            self.remotes.remove(&group);
        }
    }

    fn forget_tree(&mut self, key: ObjectKey) {
        if self.trees.get(&key).is_some_and(|tree| tree.networks.is_empty() && tree.children.is_empty()) {
            self.trees.remove(&key);
        }
    }

    fn forget_scope(&mut self, scope: Scope) {
        if self.scopes.get(&scope).is_some_and(|content| content.objects.is_empty() && content.nodes.is_empty()) {
            self.scopes.remove(&scope);
        }
    }

    /// True if nothing is kept: everything that came has gone again without a trace.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        let maps = self.scopes.is_empty() && self.places.is_empty() && self.nodes.is_empty() && self.trees.is_empty();
        maps && self.remotes.is_empty() && self.members.is_empty() && self.existing.is_empty() && self.domains.is_empty()
    }
}
