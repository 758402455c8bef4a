//! The ports that live here, with all that a machine plugged into them has to be told: what DHCP, router advertisements, CNI
//! and the host's own interfaces say, they take from here.
//!
//! The agent lets it follow the view; everybody else sees it as a whole, read-only. What one [`Local`] has in common with the
//! next they share, and what a change costs is the ports and networks that it concerns ([`Concerned`]).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use apps::{Attachment, Change, Index, View};
use imbl::ordmap::DiffItem;
use imbl::{HashMap, OrdMap, OrdSet};
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
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Local {
    ports: OrdMap<PortId, Arc<LocalPort>>,
    by_key: HashMap<u32, PortId>,
    pods: OrdSet<(String, PortId)>,
    networks: HashMap<u32, Arc<LocalNetwork>>,
    /// The network of every port whose home is here, whether or not the network is in view.
    homes: OrdMap<PortId, NetworkId>,
    ends: HashMap<NetworkId, Ends>,
}

/// A network and the ports of it that live here.
#[derive(Clone, PartialEq, Debug)]
struct Ends {
    network: Option<Arc<LocalNetwork>>,
    ports: OrdSet<PortId>,
}

/// What came of following a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Followed {
    /// Ports and networks that were looked at.
    pub looks: usize,
    /// Of these, ports that are different now.
    pub different: usize,
}

/// The ports and networks that changes may make different.
#[derive(Clone, Debug, Default)]
pub struct Concerned {
    ports: BTreeSet<PortId>,
    networks: BTreeSet<NetworkId>,
}

impl Concerned {
    /// Adds what `changes` concern in `view`: to be asked before they are made and again after.
    pub fn add(&mut self, view: &View, changes: &[Change]) {
        let mut seeds = BTreeSet::new();
        for change in changes {
            let (key, new) = match change {
                Change::Put(object) => (object.key(), Some(&**object)),
                Change::Remove(key) => (*key, None),
                Change::Attach(Attachment { port, .. }) | Change::Detach(port) => {
                    self.ports.insert(*port);
                    continue;
                }
                Change::Here(_) => continue,
            };
            for object in view.object(key).map(|object| &**object).into_iter().chain(new) {
                self.note(view, object, &mut seeds);
            }
        }
        // A network says which networks routers lead to, and where they end.
        let mut found = BTreeSet::new();
        for seed in seeds {
            if !found.contains(&seed) {
                found.extend(domain(view, seed));
            }
        }
        self.networks.extend(found);
    }

    fn note(&mut self, view: &View, object: &Object, seeds: &mut BTreeSet<NetworkId>) {
        match object {
            Object::Network(network) => drop(seeds.insert(network.id)),
            Object::Subnet(subnet) => drop(seeds.insert(subnet.network)),
            Object::Router(router) => {
                let ends = view.ids(Index::InterfacesOf(router.id)).filter_map(|id| port(view, id));
                seeds.extend(ends.map(|port| port.network));
            }
            Object::Port(port) => {
                self.ports.insert(port.id);
                seeds.extend(port.is_router_interface().then_some(port.network));
            }
            _ => {}
        }
    }
}

impl Local {
    /// Reads the ports of `view` that live on this node: what [`Local::follow`] leads to.
    pub fn of(view: &View, homes: &BTreeSet<PortId>) -> Local {
        let mut local = Local::default();
        local.follow(view, homes, &Concerned { ports: homes.clone(), networks: BTreeSet::new() });
        local
    }

    /// Makes this what `view` says of the ports `homes`, where it was so but for what is `concerned`.
    pub fn follow(&mut self, view: &View, homes: &BTreeSet<PortId>, concerned: &Concerned) -> Followed {
        let mut touched = BTreeSet::new();
        for id in &concerned.ports {
            let now = if homes.contains(id) { port(view, id.0).map(|port| port.network) } else { None };
            let was = self.homes.get(id).copied();
            if now != was {
                was.into_iter().for_each(|network| self.leave(network, *id));
                now.into_iter().for_each(|network| self.join(view, network, *id));
            }
            if now.is_some() || was.is_some() {
                touched.insert(*id);
            }
        }
        let mut looks = 0;
        for id in &concerned.networks {
            let Some(ends) = self.ends.get(id) else { continue };
            looks += 1;
            let now = network(view, *id).map(Arc::new);
            if ends.network != now {
                touched.extend(ends.ports.iter().copied());
                self.replace_network(*id, now);
            }
        }
        let different = touched.iter().filter(|id| self.renew(view, **id)).count();
        Followed { looks: looks + touched.len(), different }
    }

    fn join(&mut self, view: &View, id: NetworkId, port: PortId) {
        self.homes.insert(port, id);
        if !self.ends.contains_key(&id) {
            self.ends.insert(id, Ends { network: None, ports: OrdSet::new() });
            self.replace_network(id, network(view, id).map(Arc::new));
        }
        if let Some(ends) = self.ends.get_mut(&id) {
            ends.ports.insert(port);
        }
    }

    fn leave(&mut self, id: NetworkId, port: PortId) {
        self.homes.remove(&port);
        let Some(ends) = self.ends.get_mut(&id) else { return };
        ends.ports.remove(&port);
        if ends.ports.is_empty() {
            self.replace_network(id, None);
            self.ends.remove(&id);
        }
    }

    fn replace_network(&mut self, id: NetworkId, now: Option<Arc<LocalNetwork>>) {
        let Some(ends) = self.ends.get_mut(&id) else { return };
        if let Some(was) = std::mem::replace(&mut ends.network, now.clone()) {
            let key = was.network.key.0;
            if self.networks.get(&key).is_some_and(|holder| holder.network.id == id) {
                self.networks.remove(&key);
            }
        }
        if let Some(now) = now {
            self.networks.insert(now.network.key.0, now);
        }
    }

    /// Reads a port again. True if it is different.
    fn renew(&mut self, view: &View, id: PortId) -> bool {
        let ends = self.homes.get(&id).and_then(|network| self.ends.get(network));
        let network = ends.and_then(|ends| ends.network.clone());
        let now = network.zip(port(view, id.0)).map(|(network, port)| {
            let ofport = view.attachment(id).map(|attachment| attachment.ofport);
            Arc::new(LocalPort { port: port.clone(), network, ofport })
        });
        let was = self.ports.get(&id).cloned();
        if was == now {
            return false;
        }
        if let Some(was) = was {
            self.ports.remove(&id);
            if self.by_key.get(&was.port.key.0) == Some(&id) {
                self.by_key.remove(&was.port.key.0);
            }
            self.pods.remove(&(was.port.device_id.clone(), id));
        }
        if let Some(now) = now {
            self.by_key.insert(now.port.key.0, id);
            if now.port.device_owner == owner::POD {
                self.pods.insert((now.port.device_id.clone(), id));
            }
            self.ports.insert(id, now);
        }
        true
    }

    pub fn port(&self, id: PortId) -> Option<&Arc<LocalPort>> {
        self.ports.get(&id)
    }

    /// The ports that are different here from what they are in `other`, or in one of both alone. What both share is not looked at.
    pub fn differences(&self, other: &Local) -> BTreeSet<PortId> {
        let differences = other.ports.diff(&self.ports).map(|item| match item {
            DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { old: (id, _), .. } => *id,
        });
        differences.collect()
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
        let all = (uid.to_owned(), PortId(Uuid::nil()))..=(uid.to_owned(), PortId(Uuid::max()));
        self.ports.get(&self.pods.range(all).next_back()?.1)
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
    let (mut found, mut passed) = (BTreeSet::from([network]), BTreeSet::new());
    let mut queue = vec![network];
    while let Some(next) = queue.pop() {
        // A router leads to the same networks whichever of them it is reached from.
        let routers = interfaces(view, next).filter_map(Port::router).filter(|router| passed.insert(*router));
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
