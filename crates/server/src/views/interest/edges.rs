//! What one object adds to the interest of nodes, as a list of edges.
//!
//! An object's edges follow from the object alone, so a change is the difference of two lists. Several objects may bring the
//! same edge: edges are counted.

use model::{Kind, NetworkId, NodeId, Object, ObjectKey, Port, RouterId, SecurityGroupId};

/// A set of objects that nodes are interested in together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// The ports that live on a node.
    Own(NodeId),
    /// What is true of a network on every node.
    Network(NetworkId),
    /// A group with its rules, for nodes whose ports are in it.
    Group(SecurityGroupId),
    /// A group's name, for nodes whose rules name it.
    Name(SecurityGroupId),
    /// The ports of a network that are in a group and have no entry of their own in the network's scope.
    Members(NetworkId, SecurityGroupId),
}

/// One reason for somebody's interest in something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Edge {
    /// The object is there: only told for kinds that others put into scopes by name.
    Exists(ObjectKey),
    /// The object is in the scope.
    Put(Scope, ObjectKey),
    /// The object with all its children is in the network's scope.
    Place(ObjectKey, NetworkId),
    /// The second object is where the first one is.
    Child(ObjectKey, ObjectKey),
    /// A port of the network lives on the node.
    Local(NodeId, NetworkId),
    /// A port on the node is in the group.
    Uses(NodeId, SecurityGroupId),
    /// A rule of the first group names the second one.
    Remote(SecurityGroupId, SecurityGroupId),
    /// The router has an interface on the network.
    Link(NetworkId, RouterId),
}

/// The edges that `object` brings, sorted; one may occur twice.
pub fn edges(object: &Object) -> Vec<Edge> {
    let key = object.key();
    let mut edges = match object {
        Object::Node(_) | Object::Router(_) => vec![Edge::Exists(key)],
        Object::Network(network) => vec![Edge::Put(Scope::Network(network.id), key)],
        Object::Subnet(subnet) => vec![Edge::Put(Scope::Network(subnet.network), key)],
        Object::SecurityGroup(group) => vec![Edge::Put(Scope::Group(group.id), key), Edge::Put(Scope::Name(group.id), key)],
        Object::Rule(rule) => {
            let remote = rule.remote_group.map(|remote| Edge::Remote(rule.group, remote));
            std::iter::once(Edge::Put(Scope::Group(rule.group), key)).chain(remote).collect()
        }
        Object::Block(block) => {
            let scope = Scope::Network(block.network);
            vec![Edge::Put(scope, key), Edge::Put(scope, ObjectKey::new(Kind::Node, block.node.id()))]
        }
        Object::Port(port) => of_port(port, key),
        Object::LoadBalancer(balancer) => vec![Edge::Place(key, balancer.vip_network)],
        Object::Listener(listener) => vec![Edge::Child(ObjectKey::new(Kind::LoadBalancer, listener.load_balancer), key)],
        Object::Pool(pool) => vec![Edge::Child(ObjectKey::new(Kind::LoadBalancer, pool.load_balancer), key)],
        Object::Member(member) => vec![Edge::Child(ObjectKey::new(Kind::Pool, member.pool), key)],
    };
    edges.sort_unstable();
    edges
}

fn of_port(port: &Port, key: ObjectKey) -> Vec<Edge> {
    let home = port.home().map(|home| home.id());
    let mut edges = Vec::new();
    // Wherever the port is, the machine on which it lives is too.
    let mut put = |scope| {
        edges.push(Edge::Put(scope, key));
        edges.extend(home.map(|home| Edge::Put(scope, ObjectKey::new(Kind::Node, home))));
    };
    if let Some(home) = home {
        put(Scope::Own(home));
    }
    if port.is_exception() {
        put(Scope::Network(port.network));
    } else {
        port.security_groups.iter().for_each(|group| put(Scope::Members(port.network, *group)));
    }
    if let Some(home) = home {
        edges.push(Edge::Local(home, port.network));
        edges.extend(port.security_groups.iter().map(|group| Edge::Uses(home, *group)));
    }
    if let Some(router) = port.router() {
        edges.push(Edge::Link(port.network, router));
        edges.push(Edge::Put(Scope::Network(port.network), ObjectKey::new(Kind::Router, router)));
    }
    edges
}

/// The edges of `after` that are not in `before`, and the other way round. Both are sorted.
pub fn difference(before: &[Edge], after: &[Edge]) -> (Vec<Edge>, Vec<Edge>) {
    let (mut come, mut gone) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a == b => {
                (old.next(), new.next());
            }
            (Some(a), b) if b.is_none_or(|b| *a < *b) => gone.extend(old.next()),
            (_, Some(_)) => come.extend(new.next()),
            (_, None) => return (come, gone),
        }
    }
}
