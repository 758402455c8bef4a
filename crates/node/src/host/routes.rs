//! Which routes lead through one of the machine's own interfaces, and how they come to be so.
//!
//! What the user asked for (`ladon plug --default-route`, `--route`) is used before what DHCP and the like gave the machine. What
//! the network says (where its routers lead, its subnets' host routes) is used after whatever else the machine has to the same
//! destination, and not at all where it would take away what the machine reaches otherwise: see [`wanted`].
//!
//! Every route has a metric of Ladon's own: no route of somebody else's is replaced, and Ladon's are known when they have to go.
//! Earlier builds made theirs without one, which are known by their gateway: nobody else has any through these interfaces.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use cni::netlink::{self, Netlink, Route};
use ipnet::IpNet;
use model::{Route as HostRoute, Subnet, owner};
use nix::errno::Errno;

use super::Plugged;
use crate::local::{LocalPort, everywhere};

/// The metric of what the user asked for: before what DHCP and the like make (100 and more), after what is configured without one.
const ASKED: u32 = 50;
/// The metric of what the network says: after whatever else there is.
const TOLD: u32 = 5000;
/// The shortest prefix of what the network says: a shorter one is a piece of the default route, which is followed only if asked for.
const TOLD_PREFIX_MIN: u8 = 8;

/// What the machine reaches without the network.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Elsewhere {
    /// Where its tunnels end, and its servers.
    pub underlay: Vec<IpAddr>,
    /// What its other interfaces are on the link with.
    pub on_link: Vec<IpNet>,
}

impl Elsewhere {
    /// Asks the kernel what is on the link with other interfaces than `interface`.
    pub fn read(interface: &str, underlay: &[IpAddr]) -> netlink::Result<Elsewhere> {
        let netlink = Netlink::open()?;
        let own = netlink.link(interface)?.map(|link| link.index);
        let others = netlink.all_routes()?.into_iter().filter(|(link, _)| Some(*link) != own).map(|(_, route)| route);
        let on_link = others.filter(|route| route.gateway.is_none() && route.destination.prefix_len() > 0);
        Ok(Elsewhere { underlay: underlay.to_vec(), on_link: on_link.map(|route| route.destination).collect() })
    }

    /// Whether part of the underlay is in `net`.
    fn is_beneath(&self, net: &IpNet) -> bool {
        self.underlay.iter().any(|own| net.contains(own))
    }

    /// Whether `net` is part of what is on the link.
    fn holds(&self, net: &IpNet) -> bool {
        self.on_link.iter().any(|own| own.contains(net))
    }
}

/// The routes of an interface.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Those to next hops on the link before those that lead through them.
    pub routes: Vec<Route>,
    /// Destinations that are not routed, for the machine's own sake.
    pub refused: BTreeSet<IpNet>,
}

/// The routes through the interface of `port`. The network cannot lead astray what belongs to the machine's underlay or is on the
/// link with another interface, nor everything at once; the user can, but for next hops. The machine's own port is on the network
/// of its cluster, whose routers may lead into what is on the link.
pub fn wanted(port: &LocalPort, plugged: &Plugged, elsewhere: &Elsewhere) -> Wanted {
    let is_cluster = port.port.device_owner == owner::NODE;
    let is_piece = |net: &IpNet| net.prefix_len() < TOLD_PREFIX_MIN && !plugged.default_route;
    let is_taken = |net: &IpNet| is_piece(net) || elsewhere.is_beneath(net) || (!is_cluster && elsewhere.holds(net));
    let own: Vec<IpNet> = port.addresses().into_iter().map(|(address, _)| address).collect();
    let is_near = |hop: &IpAddr| own.iter().any(|net| net.contains(hop)) || is_link_local(hop);
    let (mut hops, mut through, mut refused) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (address, subnet) in port.addresses() {
        for (metric, destination, gateway) in ways(port, plugged, address.addr(), subnet) {
            let hop = IpNet::from(gateway);
            let is_hop_taken = !is_near(&gateway) && (elsewhere.is_beneath(&hop) || elsewhere.holds(&hop));
            if is_hop_taken || (metric == TOLD && is_taken(&destination)) {
                refused.insert(destination);
                continue;
            }
            let source = Some(address.addr());
            if !is_near(&gateway) {
                hops.push(Route { destination: hop, gateway: None, source, metric: TOLD });
            }
            through.push(Route { destination, gateway: Some(gateway), source, metric });
        }
    }
    let mut routes = hops;
    routes.append(&mut through);
    // What was asked for first; then a next hop on the link, and then as the subnets come.
    routes.sort_by_key(|route| (route.destination, route.metric));
    routes.dedup_by_key(|route| route.destination);
    routes.sort_by_key(|route| route.gateway.is_some());
    Wanted { routes, refused }
}

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if Ipv6Addr::is_unicast_link_local(ip))
}

/// What was asked for and told of `subnet`, in which the port has the `address`: metric, destination, next hop.
fn ways(port: &LocalPort, plugged: &Plugged, address: IpAddr, subnet: &Subnet) -> Vec<(u32, IpNet, IpAddr)> {
    let is_same = |net: &&IpNet| net.addr().is_ipv4() == address.is_ipv4();
    let by_gateway = |net: &IpNet| (*net, subnet.gateway);
    let (defaults, host_routes): (Vec<&HostRoute>, Vec<&HostRoute>) =
        subnet.host_routes.iter().partition(|route| route.destination.prefix_len() == 0);
    let default_hop = subnet.gateway.or(defaults.first().map(|route| route.nexthop));
    let default = plugged.default_route.then(|| (everywhere(address), default_hop));
    let asked = default.into_iter().chain(plugged.routes.iter().filter(is_same).map(by_gateway));
    let host_routes = host_routes.into_iter().map(|route| (route.destination, Some(route.nexthop)));
    let reachable = port.network.reachable();
    let told = host_routes.chain(reachable.iter().filter(is_same).map(by_gateway));
    let all = asked.map(|way| (ASKED, way)).chain(told.map(|way| (TOLD, way)));
    let usable = |(metric, (net, hop)): (u32, (IpNet, Option<IpAddr>))| Some((metric, net.trunc(), hop.filter(|hop| *hop != address)?));
    all.filter_map(usable).collect()
}

/// Gives the link the routes that it should have, all that can be, and takes away those of Ladon's that it should not. Tells the
/// first failure.
pub fn apply(netlink: &Netlink, index: u32, wanted: &[Route]) -> Result<(), String> {
    let have = netlink.routes(index).map_err(|error| format!("reading its routes: {error}"))?;
    let failed = |route: &Route| {
        let to = route.destination;
        let through = route.gateway.map(|gateway| format!(" through {gateway}")).unwrap_or_default();
        move |error: Errno| format!("the route to {to}{through}: {error}")
    };
    let mut outcome = Ok(());
    for route in wanted.iter().filter(|route| !have.contains(route)) {
        let is_changed = have.iter().any(|old| (old.destination, old.metric) == (route.destination, route.metric));
        let made = if is_changed { netlink.replace_route(index, route) } else { netlink.add_route(index, route) };
        match made {
            // Another one of the machine's interfaces leads there already.
            Err(Errno::EEXIST) => {}
            made => outcome = outcome.and(made.map_err(failed(route))),
        }
    }
    let is_ours = |route: &&Route| route.gateway.is_some() || [ASKED, TOLD].contains(&route.metric);
    for route in have.iter().filter(is_ours).filter(|route| !wanted.contains(route)) {
        outcome = outcome.and(netlink.delete_route(index, route).map_err(failed(route)));
    }
    outcome
}
