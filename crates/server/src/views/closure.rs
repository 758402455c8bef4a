//! What a node must know, by definition.
//!
//! This is the meaning of "view", written down as straightforwardly as possible: it computes everything from a [`State`] each
//! time. [`Interest`](super::interest::Interest) keeps the same sets up to date and is tested against this; a node that
//! resumes is compared with this.

use std::collections::BTreeSet;

use model::{Kind, NetworkId, NodeName, ObjectKey, Port, Rule, SecurityGroupId};

use crate::state::State;

/// The keys of the objects that `node` must know: the closure of its local ports.
pub fn closure(state: &State, node: &NodeName) -> BTreeSet<ObjectKey> {
    view(state, node, None)
}

/// Those of `asked` that are in the closure. The walk is the same; what is not asked for is not collected, which is most of the cost.
pub fn closure_among(state: &State, node: &NodeName, asked: &BTreeSet<ObjectKey>) -> BTreeSet<ObjectKey> {
    view(state, node, Some(asked))
}

fn view(state: &State, node: &NodeName, asked: Option<&BTreeSet<ObjectKey>>) -> BTreeSet<ObjectKey> {
    let is_asked_for_nodes = asked.is_none_or(|asked| asked.iter().any(|key| key.kind == Kind::Node));
    let mut view = View { state, asked, is_asked_for_nodes, keys: BTreeSet::new(), homes: BTreeSet::new() };
    let local: Vec<&Port> = state.ports_at(node.clone()).collect();
    let domain = routing_domain(state, local.iter().map(|port| port.network));
    local.iter().for_each(|port| view.port(port));
    domain.iter().for_each(|network| view.network(*network));
    let groups: BTreeSet<SecurityGroupId> = local.iter().flat_map(|port| port.security_groups.iter().copied()).collect();
    view.groups(&groups, &domain);
    view.nodes();
    view.keys
}

/// The networks that `start` can reach through routers, themselves included.
fn routing_domain(state: &State, start: impl Iterator<Item = NetworkId>) -> BTreeSet<NetworkId> {
    let mut domain = BTreeSet::new();
    let mut next: Vec<NetworkId> = start.collect();
    while let Some(network) = next.pop() {
        if domain.insert(network) {
            let routers = state.interfaces_on(network).filter_map(Port::router);
            next.extend(routers.flat_map(|router| state.interfaces_of(router)).map(|interface| interface.network));
        }
    }
    domain
}

struct View<'a> {
    state: &'a State,
    /// Nothing else is put into `keys`; None: everything is.
    asked: Option<&'a BTreeSet<ObjectKey>>,
    is_asked_for_nodes: bool,
    keys: BTreeSet<ObjectKey>,
    homes: BTreeSet<&'a NodeName>,
}

impl<'a> View<'a> {
    fn see(&mut self, keys: impl IntoIterator<Item = ObjectKey>) {
        let asked = self.asked;
        self.keys.extend(keys.into_iter().filter(|key| asked.is_none_or(|asked| asked.contains(key))));
    }

    fn live_at(&mut self, home: Option<&'a NodeName>) {
        if self.is_asked_for_nodes {
            self.homes.extend(home);
        }
    }

    fn port(&mut self, port: &'a Port) {
        self.see([ObjectKey::new(Kind::Port, port.id)]);
        self.live_at(port.home());
    }

    /// A network with all that is true of it on every node. Of its ports these are the exceptions; the others are in blocks.
    fn network(&mut self, network: NetworkId) {
        let state = self.state;
        self.see(state.network(network).map(|network| ObjectKey::new(Kind::Network, network.id)));
        self.see(state.subnets_of(network).map(|subnet| ObjectKey::new(Kind::Subnet, subnet.id)));
        state.exceptions_on(network).for_each(|port| self.port(port));
        let routers = state.interfaces_on(network).filter_map(Port::router).filter_map(|router| state.router(router));
        self.see(routers.map(|router| ObjectKey::new(Kind::Router, router.id)));
        for block in state.blocks_of(network) {
            self.see([ObjectKey::new(Kind::Block, block.id)]);
            self.live_at(Some(&block.node));
        }
        for balancer in state.load_balancers_on(network) {
            self.see([ObjectKey::new(Kind::LoadBalancer, balancer.id)]);
            self.see(state.listeners_of(balancer.id).map(|listener| ObjectKey::new(Kind::Listener, listener.id)));
            for pool in state.pools_of(balancer.id) {
                self.see([ObjectKey::new(Kind::Pool, pool.id)]);
                self.see(state.members_of(pool.id).map(|member| ObjectKey::new(Kind::Member, member.id)));
            }
        }
    }

    /// The groups of local ports with their rules, the remote groups that these name, and who is in those.
    fn groups(&mut self, groups: &BTreeSet<SecurityGroupId>, domain: &BTreeSet<NetworkId>) {
        let state = self.state;
        let rules: Vec<&Rule> = groups.iter().flat_map(|group| state.rules_of(*group)).collect();
        self.see(rules.iter().map(|rule| ObjectKey::new(Kind::Rule, rule.id)));
        let remotes: BTreeSet<SecurityGroupId> = rules.iter().filter_map(|rule| rule.remote_group).collect();
        let known = groups.union(&remotes).filter_map(|group| state.group(*group));
        self.see(known.map(|group| ObjectKey::new(Kind::SecurityGroup, group.id)));
        let members = remotes.iter().flat_map(|remote| state.ports_in_group(*remote));
        members.filter(|port| domain.contains(&port.network)).for_each(|port| self.port(port));
    }

    /// The machines where anything in the view lives.
    fn nodes(&mut self) {
        let (state, homes) = (self.state, std::mem::take(&mut self.homes));
        let nodes = homes.into_iter().map(|home| ObjectKey::new(Kind::Node, home.id()));
        self.see(nodes.filter(|node| state.object(*node).is_some()));
    }
}
