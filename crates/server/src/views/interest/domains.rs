//! Routing domains: which networks routers join, and which nodes are in them.
//!
//! A domain is a connected component of the graph whose vertices are networks and routers and whose edges are router
//! interfaces. Joining two domains costs what the smaller one holds (and the news for the nodes of both); only taking an edge
//! away makes the domain be walked, to see whether it fell apart. Ports do neither.

use model::{NetworkId, NodeId, RouterId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{Count, down, up};

type DomainId = u64;

/// All domains. Networks without routers and without nodes have none.
#[derive(Default)]
pub struct Domains {
    networks: FxHashMap<NetworkId, Vertex>,
    routers: FxHashMap<RouterId, Count<NetworkId>>,
    domains: FxHashMap<DomainId, Domain>,
    next: DomainId,
}

#[derive(Default)]
struct Vertex {
    domain: DomainId,
    routers: Count<RouterId>,
    /// Nodes by the number of their ports on the network.
    nodes: Count<NodeId>,
}

#[derive(Default)]
struct Domain {
    networks: FxHashSet<NetworkId>,
    /// Nodes by the number of the domain's networks on which they have ports.
    nodes: Count<NodeId>,
}

impl Domains {
    /// A port of the network comes to live on the node: the networks that the node sees newly.
    pub fn settle(&mut self, node: NodeId, network: NetworkId, work: &mut u64) -> Vec<NetworkId> {
        let id = self.ensure(network);
        let vertex = self.networks.get_mut(&network).expect("made right above");
        let domain = self.domains.get_mut(&id).expect("every network's domain is there");
        if !up(&mut vertex.nodes, node) || !up(&mut domain.nodes, node) {
            return Vec::new();
        }
        *work += domain.networks.len() as u64;
        domain.networks.iter().copied().collect()
    }

    /// A port of the network leaves the node: the networks that the node sees no longer.
    pub fn leave(&mut self, node: NodeId, network: NetworkId, work: &mut u64) -> Vec<NetworkId> {
        let Some(vertex) = self.networks.get_mut(&network) else { return Vec::new() };
        let domain = self.domains.get_mut(&vertex.domain).expect("every network's domain is there");
        if !down(&mut vertex.nodes, &node) || !down(&mut domain.nodes, &node) {
            self.forget(network);
            return Vec::new();
        }
        *work += domain.networks.len() as u64;
        let lost = domain.networks.iter().copied().collect();
        self.forget(network);
        lost
    }

    /// The router gets an interface on the network: who sees which network newly.
    pub fn link(&mut self, network: NetworkId, router: RouterId, work: &mut u64) -> Vec<(NodeId, NetworkId)> {
        let here = self.ensure(network);
        up(&mut self.networks.get_mut(&network).expect("made right above").routers, router);
        let interfaces = self.routers.entry(router).or_default();
        let neighbour = interfaces.keys().find(|other| **other != network).copied();
        up(interfaces, network);
        let there = neighbour.map_or(here, |other| self.networks[&other].domain);
        if here == there { Vec::new() } else { self.merge(here, there, work) }
    }

    /// The router loses an interface on the network: who sees which network no longer.
    pub fn unlink(&mut self, network: NetworkId, router: RouterId, work: &mut u64) -> Vec<(NodeId, NetworkId)> {
        let Some(vertex) = self.networks.get_mut(&network) else { return Vec::new() };
        let Some(interfaces) = self.routers.get_mut(&router) else { return Vec::new() };
        down(interfaces, &network);
        let neighbour = interfaces.keys().next().copied();
        if interfaces.is_empty() {
            self.routers.remove(&router);
        }
        if !down(&mut vertex.routers, &router) {
            return Vec::new();
        }
        let lost = neighbour.map_or_else(Vec::new, |neighbour| self.split(network, neighbour, work));
        self.forget(network);
        lost
    }

    fn ensure(&mut self, network: NetworkId) -> DomainId {
        if let Some(vertex) = self.networks.get(&network) {
            return vertex.domain;
        }
        self.next += 1;
        self.networks.insert(network, Vertex { domain: self.next, ..Vertex::default() });
        self.domains.insert(self.next, Domain { networks: [network].into_iter().collect(), nodes: Count::default() });
        self.next
    }

    /// Lets go of a network that nothing connects to anything.
    fn forget(&mut self, network: NetworkId) {
        let is_idle = |vertex: &Vertex| vertex.routers.is_empty() && vertex.nodes.is_empty();
        if self.networks.get(&network).is_some_and(is_idle) {
            let vertex = self.networks.remove(&network).expect("it was there right above");
            self.domains.remove(&vertex.domain);
        }
    }

    fn merge(&mut self, a: DomainId, b: DomainId, work: &mut u64) -> Vec<(NodeId, NetworkId)> {
        let is_smaller = self.domains[&a].networks.len() < self.domains[&b].networks.len();
        let (small, large) = if is_smaller { (a, b) } else { (b, a) };
        let moved = self.domains.remove(&small).expect("a domain's id names a domain");
        let kept = self.domains.get_mut(&large).expect("a domain's id names a domain");
        let mut gained = news(&moved, kept);
        gained.extend(news(kept, &moved));
        *work += (moved.networks.len() + moved.nodes.len() + gained.len()) as u64;
        for network in &moved.networks {
            self.networks.get_mut(network).expect("a domain's networks are there").domain = large;
        }
        kept.networks.extend(moved.networks);
        for (node, networks) in moved.nodes {
            *kept.nodes.entry(node).or_default() += networks;
        }
        gained
    }

    /// `a` and `b` were neighbours: gives `a` a domain of its own if nothing else joins it to `b`.
    fn split(&mut self, a: NetworkId, b: NetworkId, work: &mut u64) -> Vec<(NodeId, NetworkId)> {
        let Some(reached) = self.reached_from(a, b, work) else { return Vec::new() };
        let old = self.networks[&a].domain;
        self.next += 1;
        let mut new = Domain::default();
        for network in &reached {
            let vertex = self.networks.get_mut(network).expect("a domain's networks are there");
            vertex.domain = self.next;
            for node in vertex.nodes.keys() {
                up(&mut new.nodes, *node);
            }
        }
        let rest = self.domains.get_mut(&old).expect("every network's domain is there");
        rest.networks.retain(|network| !reached.contains(network));
        for (node, networks) in &new.nodes {
            let count = rest.nodes.get_mut(node).expect("the whole counts its parts");
            *count -= networks;
            if *count == 0 {
                rest.nodes.remove(node);
            }
        }
        new.networks = reached;
        let mut lost = news(&new, rest);
        lost.extend(news(rest, &new));
        *work += (new.networks.len() + new.nodes.len() + lost.len()) as u64;
        self.domains.insert(self.next, new);
        lost
    }

    /// The networks that can be reached from `a`; None as soon as `b` is one of them.
    fn reached_from(&self, a: NetworkId, b: NetworkId, work: &mut u64) -> Option<FxHashSet<NetworkId>> {
        let mut reached: FxHashSet<NetworkId> = [a].into_iter().collect();
        let mut walked: FxHashSet<RouterId> = FxHashSet::default();
        let mut next = vec![a];
        while let Some(network) = next.pop() {
            for router in self.networks[&network].routers.keys().filter(|router| walked.insert(**router)).collect::<Vec<_>>() {
                for neighbour in self.routers[router].keys() {
                    *work += 1;
                    if *neighbour == b {
                        return None;
                    }
                    if reached.insert(*neighbour) {
                        next.push(*neighbour);
                    }
                }
            }
        }
        Some(reached)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.routers.is_empty() && self.domains.is_empty()
    }
}

/// What the nodes that are in `a` but not in `b` see only where the two are one: the networks of `b`.
fn news(a: &Domain, b: &Domain) -> Vec<(NodeId, NetworkId)> {
    let only = a.nodes.keys().filter(|node| !b.nodes.contains_key(node));
    only.flat_map(|node| b.networks.iter().map(|network| (*node, *network))).collect()
}
