//! By which router a packet leaves its network: whose VIPs it may be for.
//!
//! A VIP is answered where the client is, before anything is routed. So that nobody's VIP takes packets that would never have got to it,
//! the packet must be on the way there: its destination MAC is that of a router which, by itself or by way of the routers that its extra
//! routes name, is on the VIP's subnet; or it is the VIP's own.

use ipnet::IpNet;
use model::{Network, Port, Route, Router};
use pipeline::{Draft, Flow, Priority, Table, eth_dst, fields::*, ip_dst};

use super::vip::Vip;
use crate::classify::key;
use crate::routing::connected_subnets;
use crate::sight::Sight;
use crate::view::Index;

/// Routers in a row that are followed: more than anybody has. A VIP behind more of them is not found from there.
pub(super) const ROUTERS_MAX: usize = 16;

/// A packet to a VIP's own MAC and address is for the VIP, without any router.
pub(super) fn to_vip(vip: &Vip, network: &Network) -> Draft {
    Table::Gateway.when([NETWORK.is(network.key.0), eth_dst(vip.port.mac), ip_dst(IpNet::from(vip.ip))]).priority(Priority::Prefix(0))
}

/// A packet to a router's interface leaves by the router, or by the one to which an extra route leads.
pub(super) fn for_interface(sight: &Sight, interface: &Port) -> Vec<Flow> {
    let router = interface.router().and_then(|id| sight.router(id)).filter(|router| router.is_admin_up && interface.is_admin_up);
    let (Some(router), Some(network)) = (router, sight.network(interface.network)) else { return Vec::new() };
    if !sight.any(Index::BalancedIn(sight.domain(network.id))) {
        return Vec::new();
    }
    let by = |net: Option<IpNet>, router: &Router| {
        let way = Table::Gateway.when([NETWORK.is(network.key.0), eth_dst(interface.mac)].into_iter().chain(net.map(ip_dst)));
        let length = net.map_or(0, |net| net.prefix_len());
        way.priority(Priority::Prefix(length)).set(GATEWAY, router.key.0).goto(Table::Vip).because(key(interface))
    };
    if router.routes.is_empty() {
        return vec![by(None, router)];
    }
    let own: Vec<IpNet> = connected_subnets(sight, router).into_iter().map(|(_, cidr)| cidr.trunc()).collect();
    let mut taken = own.clone();
    let mut flows = vec![by(None, router)];
    for route in &router.routes {
        let destination = route.destination.trunc();
        let Some(last) = last_router(sight, router, route) else { continue };
        if destination.prefix_len() > 0 && !taken.contains(&destination) {
            taken.push(destination);
            flows.push(by(Some(destination), last));
        }
    }
    let is_inside = |net: &&IpNet| taken[own.len()..].iter().any(|route| route.contains(*net));
    let mut inside: Vec<IpNet> = own.iter().filter(is_inside).copied().collect();
    inside.sort();
    inside.dedup();
    flows.extend(inside.into_iter().map(|net| by(Some(net), router)));
    flows
}

/// The router that is on the destination's subnet, if extra routes lead there from `router` by `route`.
fn last_router<'a>(sight: &'a Sight, router: &'a Router, route: &'a Route) -> Option<&'a Router> {
    let (mut router, mut hop) = (router, route.nexthop);
    for _ in 0..ROUTERS_MAX {
        let (out, _) = connected_subnets(sight, router).into_iter().find(|(_, cidr)| cidr.contains(&hop))?;
        let next = sight.interfaces_on(out.network).into_iter().find(|port| port.is_admin_up && port.addresses().any(|ip| ip == hop))?;
        router = sight.router(next.router()?).filter(|router| router.is_admin_up)?;
        let is_there = connected_subnets(sight, router).iter().any(|(_, cidr)| cidr.contains(&route.destination));
        let onward = router.routes.iter().filter(|next| next.destination.contains(&route.destination));
        match onward.max_by_key(|next| next.destination.prefix_len()) {
            Some(next) if !is_there => hop = next.nexthop,
            _ => return Some(router),
        }
    }
    None
}
