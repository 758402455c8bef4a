//! The ports that live here, with all that a machine plugged into them has to be told: what DHCP, router advertisements, CNI
//! and the host's own interfaces say, they take from here.
//!
//! Rebuilt by the agent when something it holds changed; shared with everybody else as a whole, read-only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use apps::{Index, View};
use ipnet::IpNet;
use model::{Kind, Mac, Network, NetworkId, NetworkKey, Object, ObjectKey, Port, PortId, Router, RouterKey, Subnet, owner};
use pipeline::OfPort;
use uuid::Uuid;

/// Where a router that is up meets a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hop {
    pub interface: PortId,
    pub router: RouterKey,
    pub network: NetworkKey,
    pub mac: Mac,
    pub addresses: Vec<IpAddr>,
}

/// A network, as a machine on it needs to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalNetwork {
    pub network: Network,
    pub subnets: Vec<Subnet>,
    /// Router interfaces on the network.
    pub interfaces: Vec<Port>,
    /// The interfaces of every router that is up, here and on all networks that routers lead to.
    pub hops: Vec<Hop>,
    /// Where the network's own gateways lead.
    pub reachable: Vec<IpNet>,
}

impl LocalNetwork {
    pub fn subnet(&self, id: model::SubnetId) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.id == id)
    }

    /// Router interfaces on the network whose router is up.
    pub fn live_interfaces(&self) -> impl Iterator<Item = &Port> {
        self.interfaces.iter().filter(|port| self.hops.iter().any(|hop| hop.interface == port.id))
    }

    /// The routers' ends on this network.
    pub fn own_hops(&self) -> impl Iterator<Item = &Hop> {
        self.hops.iter().filter(|hop| hop.network == self.network.key)
    }

    /// The router's end with the MAC on the network with the key, if routers lead there.
    pub fn hop(&self, network: NetworkKey, mac: Mac) -> Option<&Hop> {
        self.hops.iter().find(|hop| hop.network == network && hop.mac == mac)
    }

    /// The router interface that has the address `ip`.
    pub fn interface_at(&self, ip: IpAddr) -> Option<&Port> {
        self.interfaces.iter().find(|port| port.addresses().any(|own| own == ip))
    }
}

/// A port whose home is here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalPort {
    pub port: Port,
    pub network: Arc<LocalNetwork>,
    /// Its interface on the switch, once it is plugged in.
    pub ofport: Option<OfPort>,
}

impl LocalPort {
    /// The port's addresses, with the prefix lengths of their subnets.
    pub fn addresses(&self) -> Vec<(IpNet, &Subnet)> {
        let with_prefix = |fixed: &model::FixedIp| {
            let subnet = self.network.subnet(fixed.subnet)?;
            Some((IpNet::new(fixed.ip, subnet.cidr.prefix_len()).ok()?, subnet))
        };
        self.port.fixed_ips.iter().filter_map(with_prefix).collect()
    }
}

/// All ports whose home is here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Local {
    ports: BTreeMap<PortId, Arc<LocalPort>>,
    by_key: HashMap<u32, PortId>,
    pods: BTreeMap<String, PortId>,
    networks: HashMap<u32, Arc<LocalNetwork>>,
}

impl Local {
    /// Reads the ports of `view` that live on this node.
    pub fn of(view: &View, homes_here: &BTreeSet<PortId>) -> Local {
        let mut networks: HashMap<NetworkId, Option<Arc<LocalNetwork>>> = HashMap::new();
        let mut local = Local::default();
        for id in homes_here {
            let Some(port) = port(view, id.0) else { continue };
            let network = networks.entry(port.network).or_insert_with(|| network(view, port.network).map(Arc::new));
            let Some(network) = network.clone() else { continue };
            let ofport = view.attachment(port.id).map(|attachment| attachment.ofport);
            local.by_key.insert(port.key.0, port.id);
            local.networks.insert(network.network.key.0, network.clone());
            if port.device_owner == owner::POD {
                local.pods.insert(port.device_id.clone(), port.id);
            }
            local.ports.insert(port.id, Arc::new(LocalPort { port: port.clone(), network, ofport }));
        }
        local
    }

    pub fn port(&self, id: PortId) -> Option<&Arc<LocalPort>> {
        self.ports.get(&id)
    }

    /// The port with the number that packets carry in their registers.
    pub fn by_key(&self, key: u32) -> Option<&Arc<LocalPort>> {
        self.ports.get(self.by_key.get(&key)?)
    }

    /// The network with the number that packets carry in their registers, if a port of it lives here.
    pub fn network_by_key(&self, key: u32) -> Option<&Arc<LocalNetwork>> {
        self.networks.get(&key)
    }

    /// The port of the pod with the uid. Whatever else calls itself that is no pod.
    pub fn pod(&self, uid: &str) -> Option<&Arc<LocalPort>> {
        self.ports.get(self.pods.get(uid)?)
    }

    pub fn ports(&self) -> impl Iterator<Item = &Arc<LocalPort>> {
        self.ports.values()
    }
}

/// All addresses of the family of `like`: the destination of a default route.
pub fn everywhere(like: IpAddr) -> IpNet {
    if like.is_ipv4() { ipnet::Ipv4Net::default().into() } else { ipnet::Ipv6Net::default().into() }
}

fn port(view: &View, id: Uuid) -> Option<&Port> {
    view.object(ObjectKey::new(Kind::Port, id)).and_then(|object| (&**object).try_into().ok())
}

fn network(view: &View, id: NetworkId) -> Option<LocalNetwork> {
    let network = bare_network(view, id)?.clone();
    let subnets = subnets(view, id);
    let reachable = reachable(view, id, &subnets);
    let hops = domain(view, id).iter().flat_map(|network| hops(view, *network)).collect();
    let interfaces = interfaces(view, id).cloned().collect();
    Some(LocalNetwork { network, subnets, interfaces, hops, reachable })
}

/// Where the routers lead that have the gateway addresses of the network's own subnets. Whatever else is joined to a shared network, by
/// somebody's own router, is for those who choose it.
fn reachable(view: &View, network: NetworkId, own: &[Subnet]) -> Vec<IpNet> {
    let is_gateway = |port: &&Port| own.iter().any(|subnet| subnet.gateway.is_some_and(|gateway| port.addresses().any(|ip| ip == gateway)));
    let routers = interfaces(view, network).filter(is_gateway).filter_map(|port| live_router(view, port));
    let leads = |router: &Router| {
        let ends = view.ids(Index::InterfacesOf(router.id)).filter_map(|id| port(view, id)).filter(|port| port.network != network);
        let connected = ends.flat_map(|port| subnets(view, port.network)).map(|subnet| subnet.cidr);
        connected.chain(router.routes.iter().map(|route| route.destination)).collect::<Vec<_>>()
    };
    let all: BTreeSet<IpNet> = routers.flat_map(leads).filter(|net| net.prefix_len() > 0).collect();
    all.into_iter().collect()
}

fn bare_network(view: &View, id: NetworkId) -> Option<&Network> {
    view.object(ObjectKey::new(Kind::Network, id)).and_then(|object| (&**object).try_into().ok())
}

/// The router of an interface, if both are up.
fn live_router<'a>(view: &'a View, interface: &Port) -> Option<&'a Router> {
    let router: &Router = view.object(ObjectKey::new(Kind::Router, interface.router()?)).and_then(|object| (&**object).try_into().ok())?;
    (router.is_admin_up && interface.is_admin_up).then_some(router)
}

fn interfaces(view: &View, network: NetworkId) -> impl Iterator<Item = &Port> {
    view.ids(Index::InterfacesOn(network)).filter_map(|id| port(view, id))
}

fn hops(view: &View, network: NetworkId) -> Vec<Hop> {
    let Some(key) = bare_network(view, network).map(|network| network.key) else { return Vec::new() };
    let hop = |port: &Port| {
        let router = live_router(view, port)?.key;
        Some(Hop { interface: port.id, router, network: key, mac: port.mac, addresses: port.addresses().collect() })
    };
    interfaces(view, network).filter_map(hop).collect()
}

fn subnets(view: &View, network: NetworkId) -> Vec<Subnet> {
    let subnet = |id| match view.object(ObjectKey::new(Kind::Subnet, id)).map(|object| &**object) {
        Some(Object::Subnet(subnet)) => Some(subnet.clone()),
        _ => None,
    };
    view.ids(Index::SubnetsOf(network)).filter_map(subnet).collect()
}

/// All networks in the routing domain of `network`.
fn domain(view: &View, network: NetworkId) -> BTreeSet<NetworkId> {
    let mut found = BTreeSet::from([network]);
    let mut queue = vec![network];
    while let Some(next) = queue.pop() {
        let routers = interfaces(view, next).filter_map(Port::router);
        let ends = routers.flat_map(|router| view.ids(Index::InterfacesOf(router))).filter_map(|id| port(view, id));
        let networks: Vec<NetworkId> = ends.map(|interface| interface.network).collect();
        queue.extend(networks.into_iter().filter(|network| found.insert(*network)));
    }
    found
}

#[cfg(test)]
mod tests {
    use apps::Numbers;
    use apps::testing::{network, port, put};

    use super::*;

    #[test]
    fn a_pod_is_found_whoever_else_has_its_uid_as_device_id() {
        let of = |name: &str, key, owner: &str| Port { device_owner: owner.into(), device_id: "uid".into(), ..port(name, key, "net", &[]) };
        let pod = of("pod", 1, owner::POD);
        // Whichever comes last in the order of ids.
        let others = ["x", "y", "z"].map(|name| of(name, 2, "compute:nova"));
        let mut view = View::new(Numbers::default());
        let all = others.iter().chain([&pod]);
        [put(network("net", 1))]
            .into_iter()
            .chain(all.clone().cloned().map(put))
            .for_each(|change| view.apply(change, &mut Default::default()));
        let local = Local::of(&view, &all.map(|port| port.id).collect());
        assert_eq!(local.pod("uid").map(|found| found.port.id), Some(pod.id));
        assert!(local.pod("other").is_none());
    }
}
