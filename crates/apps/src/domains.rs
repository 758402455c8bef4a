//! Routing domains: which networks reach each other through routers.
//!
//! A domain is a connected component of networks and routers, named by the smallest network key in it, so that the name
//! survives restarts. Recomputed per component, when an interface or a network comes or goes: never per port.

use std::collections::BTreeSet;

use model::{NetworkId, RouterId};
use rustc_hash::{FxHashMap, FxHashSet};

/// Networks and the routers that join them.
pub(crate) trait Graph {
    fn routers_of(&self, network: NetworkId) -> Vec<RouterId>;
    fn networks_of(&self, router: RouterId) -> Vec<NetworkId>;
}

/// The domain of every network.
#[derive(Clone, Default, Debug)]
pub(crate) struct Domains {
    of: FxHashMap<NetworkId, u32>,
}

impl Domains {
    pub fn of(&self, network: NetworkId) -> Option<u32> {
        self.of.get(&network).copied()
    }

    /// Recomputes the components of `seeds`; returns the networks whose domain changed, with the old and the new one. `visited` counts the
    /// networks and routers of the components.
    pub fn recompute(
        &mut self,
        seeds: &BTreeSet<NetworkId>,
        graph: &impl Graph,
        key: impl Fn(NetworkId) -> Option<u32>,
        visited: &mut u64,
    ) -> Vec<(NetworkId, Option<u32>, Option<u32>)> {
        let mut seen = BTreeSet::new();
        let mut changed = Vec::new();
        for seed in seeds {
            if seen.contains(seed) {
                continue;
            }
            let component = component(*seed, graph, visited);
            let domain = component.iter().filter_map(|network| key(*network)).min();
            for network in &component {
                let new = key(*network).and(domain);
                let old = match new {
                    Some(new) => self.of.insert(*network, new),
                    None => self.of.remove(network),
                };
                if old != new {
                    changed.push((*network, old, new));
                }
            }
            seen.extend(component);
        }
        changed
    }
}

fn component(seed: NetworkId, graph: &impl Graph, visited: &mut u64) -> BTreeSet<NetworkId> {
    let (mut found, mut passed) = (BTreeSet::from([seed]), FxHashSet::default());
    let mut queue = vec![seed];
    while let Some(network) = queue.pop() {
        for router in graph.routers_of(network).into_iter().filter(|router| passed.insert(*router)) {
            queue.extend(graph.networks_of(router).into_iter().filter(|next| found.insert(*next)));
        }
    }
    *visited += (found.len() + passed.len()) as u64;
    found
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// One router with so many networks.
    struct Star(u128);

    fn network(n: u128) -> NetworkId {
        NetworkId(Uuid::from_u128(n))
    }

    impl Graph for Star {
        fn routers_of(&self, of: NetworkId) -> Vec<RouterId> {
            let is_joined = of < network(self.0);
            is_joined.then(|| RouterId(Uuid::nil())).into_iter().collect()
        }

        fn networks_of(&self, _: RouterId) -> Vec<NetworkId> {
            (0..self.0).map(network).collect()
        }
    }

    #[test]
    fn a_component_is_visited_once_however_many_of_its_networks_changed() {
        let visited = |joined: u128, seeds: &[u128]| {
            let (mut domains, mut visited) = (Domains::default(), 0);
            let seeds = seeds.iter().copied().map(network).collect();
            domains.recompute(&seeds, &Star(joined), |_| Some(1), &mut visited);
            visited
        };
        assert_eq!(visited(5, &[0]), 6, "five networks and the router");
        assert_eq!(visited(5, &[0, 3, 4]), 6);
        assert_eq!(visited(5, &[0, 9]), 7, "one that is on no router");
        assert_eq!(visited(5, &[]), 0);
    }
}
