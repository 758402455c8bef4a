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

    /// Recomputes the components of `seeds`; returns the networks whose domain changed, with the old and the new one.
    pub fn recompute(
        &mut self,
        seeds: &BTreeSet<NetworkId>,
        graph: &impl Graph,
        key: impl Fn(NetworkId) -> Option<u32>,
    ) -> Vec<(NetworkId, Option<u32>, Option<u32>)> {
        let mut seen = BTreeSet::new();
        let mut changed = Vec::new();
        for seed in seeds {
            if seen.contains(seed) {
                continue;
            }
            let component = component(*seed, graph);
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

fn component(seed: NetworkId, graph: &impl Graph) -> BTreeSet<NetworkId> {
    let (mut found, mut passed) = (BTreeSet::from([seed]), FxHashSet::default());
    let mut queue = vec![seed];
    while let Some(network) = queue.pop() {
        for router in graph.routers_of(network).into_iter().filter(|router| passed.insert(*router)) {
            queue.extend(graph.networks_of(router).into_iter().filter(|next| found.insert(*next)));
        }
    }
    found
}
