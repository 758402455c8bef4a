//! The ports that live here, with all that a machine plugged into them has to be told: what DHCP, router advertisements, CNI
//! and the host's own interfaces say, they take from here.
//!
//! The agent lets it follow the view; everybody else sees it as a whole, read-only. What one [`Local`] has in common with the
//! next they share, and what a change costs is the ports and networks that it concerns ([`Concerned`]). What the networks of one
//! routing domain have in common is read once for all of them, and they share it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use apps::{Attachment, Change, Index, View};
use imbl::ordmap::DiffItem;
use imbl::{HashMap, OrdMap, OrdSet};
use ipnet::IpNet;
use model::{Kind, Mac, Network, NetworkId, NetworkKey, Object, ObjectKey, Port, PortId, Router, RouterId, RouterKey, Subnet, owner};
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

/// Where a router leads.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Leads {
    router: RouterId,
    /// The subnets of its networks.
    connected: Vec<(NetworkId, IpNet)>,
    routes: Vec<IpNet>,
}

/// A network, as a machine on it needs to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalNetwork {
    pub network: Network,
    pub subnets: Vec<Subnet>,
    /// Router interfaces on the network.
    pub interfaces: Vec<Port>,
    /// The interfaces of every router that is up, here and on all networks that routers lead to.
    pub hops: Arc<Vec<Hop>>,
    /// Those of them that are on this network.
    own_hops: Vec<Hop>,
    /// The routers that are the network's own gateways.
    gateways: Vec<Arc<Leads>>,
}

impl LocalNetwork {
    pub fn subnet(&self, id: model::SubnetId) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.id == id)
    }

    /// Router interfaces on the network whose router is up.
    pub fn live_interfaces(&self) -> impl Iterator<Item = &Port> {
        self.interfaces.iter().filter(|port| self.own_hops.iter().any(|hop| hop.interface == port.id))
    }

    /// The routers' ends on this network.
    pub fn own_hops(&self) -> impl Iterator<Item = &Hop> {
        self.own_hops.iter()
    }

    /// The router's end with the MAC on the network with the key, if routers lead there.
    pub fn hop(&self, network: NetworkKey, mac: Mac) -> Option<&Hop> {
        self.hops.iter().find(|hop| hop.network == network && hop.mac == mac)
    }

    /// Where the network's own gateways lead.
    pub fn reachable(&self) -> BTreeSet<IpNet> {
        let elsewhere = |(network, net): &(NetworkId, IpNet)| (*network != self.network.id).then_some(*net);
        let all = self.gateways.iter().flat_map(|leads| leads.connected.iter().filter_map(elsewhere).chain(leads.routes.iter().copied()));
        all.filter(|net| net.prefix_len() > 0).collect()
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
        let (mut touched, mut common) = (BTreeSet::new(), Common::default());
        for id in &concerned.ports {
            let now = if homes.contains(id) { port(view, id.0).map(|port| port.network) } else { None };
            let was = self.homes.get(id).copied();
            if now != was {
                was.into_iter().for_each(|network| self.leave(network, *id));
                now.into_iter().for_each(|network| self.join(view, network, *id, &mut common));
            }
            if now.is_some() || was.is_some() {
                touched.insert(*id);
            }
        }
        for id in &concerned.networks {
            let Some(ends) = self.ends.get(id) else { continue };
            common.looks += 1;
            let now = common.network(view, *id, &self.ends).map(Arc::new);
            if ends.network != now {
                touched.extend(ends.ports.iter().copied());
                self.replace_network(*id, now);
            }
        }
        let different = touched.iter().filter(|id| self.renew(view, **id)).count();
        Followed { looks: common.looks + touched.len(), different }
    }

    fn join(&mut self, view: &View, id: NetworkId, port: PortId, common: &mut Common) {
        self.homes.insert(port, id);
        if !self.ends.contains_key(&id) {
            self.ends.insert(id, Ends { network: None, ports: OrdSet::new() });
            let network = common.network(view, id, &self.ends);
            self.replace_network(id, network.map(Arc::new));
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

/// What networks have in common, read once while a change is followed. What local networks have of it already stays theirs where it is
/// the same: then nothing is compared that they share.
#[derive(Default)]
struct Common {
    hops: BTreeMap<NetworkId, Arc<Vec<Hop>>>,
    leads: BTreeMap<RouterId, Arc<Leads>>,
    /// Networks that were looked at.
    looks: usize,
}

impl Common {
    fn network(&mut self, view: &View, id: NetworkId, ends: &HashMap<NetworkId, Ends>) -> Option<LocalNetwork> {
        let network = bare_network(view, id)?.clone();
        let subnets = subnets(view, id);
        let gateways = gateways(view, id, &subnets).into_iter().map(|router| self.leads(view, router, ends)).collect();
        let own_hops = hops(view, id);
        let hops = self.hops(view, id, ends);
        let interfaces = interfaces(view, id).cloned().collect();
        Some(LocalNetwork { network, subnets, interfaces, hops, own_hops, gateways })
    }

    /// The hops of the routing domain of `network`: the same for all networks there.
    fn hops(&mut self, view: &View, network: NetworkId, ends: &HashMap<NetworkId, Ends>) -> Arc<Vec<Hop>> {
        if let Some(known) = self.hops.get(&network) {
            return known.clone();
        }
        let networks = domain(view, network);
        self.looks += networks.len();
        let now: Vec<Hop> = networks.iter().flat_map(|network| hops(view, *network)).collect();
        let held = networks.iter().find_map(|network| ends.get(network)?.network.as_ref()).map(|network| &network.hops);
        let hops = held.filter(|held| ***held == now).cloned().unwrap_or_else(|| Arc::new(now));
        self.hops.extend(networks.into_iter().map(|network| (network, hops.clone())));
        hops
    }

    /// Where `router` leads: the same for all networks whose gateway it is.
    fn leads(&mut self, view: &View, router: &Router, ends: &HashMap<NetworkId, Ends>) -> Arc<Leads> {
        if let Some(known) = self.leads.get(&router.id) {
            return known.clone();
        }
        let now = leads(view, router);
        self.looks += now.connected.len();
        let held = now.connected.iter().find_map(|(network, _)| {
            let network = ends.get(network)?.network.as_ref()?;
            network.gateways.iter().find(|leads| leads.router == router.id)
        });
        let leads = held.filter(|held| ***held == now).cloned().unwrap_or_else(|| Arc::new(now));
        self.leads.insert(router.id, leads.clone());
        leads
    }
}

/// All addresses of the family of `like`: the destination of a default route.
pub fn everywhere(like: IpAddr) -> IpNet {
    if like.is_ipv4() { ipnet::Ipv4Net::default().into() } else { ipnet::Ipv6Net::default().into() }
}

fn port(view: &View, id: Uuid) -> Option<&Port> {
    view.object(ObjectKey::new(Kind::Port, id)).and_then(|object| (&**object).try_into().ok())
}

/// The routers that have the gateway addresses of the network's own subnets. Whatever else is joined to a shared network, by somebody's
/// own router, is for those who choose it.
fn gateways<'a>(view: &'a View, network: NetworkId, own: &[Subnet]) -> Vec<&'a Router> {
    let is_gateway = |port: &&Port| own.iter().any(|subnet| subnet.gateway.is_some_and(|gateway| port.addresses().any(|ip| ip == gateway)));
    interfaces(view, network).filter(is_gateway).filter_map(|port| live_router(view, port)).collect()
}

fn leads(view: &View, router: &Router) -> Leads {
    let ends = view.ids(Index::InterfacesOf(router.id)).filter_map(|id| port(view, id));
    let connected = ends.flat_map(|port| subnets(view, port.network)).map(|subnet| (subnet.network, subnet.cidr)).collect();
    Leads { router: router.id, connected, routes: router.routes.iter().map(|route| route.destination).collect() }
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
        Some(Object::Subnet(subnet)) => Some(Subnet::clone(subnet)),
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
    use apps::testing::{id, interface, network, port, put, router, subnet};

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

    /// A network with a port that lives here, joined by the router.
    fn arm(n: u32) -> [Change; 4] {
        let (net, sub) = (format!("net{n}"), format!("sub{n}"));
        let (gateway, own) = (format!("10.0.{n}.1"), format!("10.0.{n}.9"));
        [
            put(network(&net, 10 + n)),
            put(subnet(&sub, &net, &format!("10.0.{n}.0/24"))),
            put(interface(&format!("interface{n}"), 500 + n, &net, "router", &[(&sub, &gateway)])),
            put(port(&format!("port{n}"), 1_000 + n, &net, &[(&sub, &own)])),
        ]
    }

    fn star(count: u32) -> (View, BTreeSet<PortId>, Local) {
        let mut view = View::new(Numbers::default());
        let all = [put(router("router", 1))].into_iter().chain((0..count).flat_map(arm));
        all.for_each(|change| view.apply(change, &mut Default::default()));
        let homes: BTreeSet<PortId> = (0..count).map(|n| PortId(id(&format!("port{n}")))).collect();
        let local = Local::of(&view, &homes);
        (view, homes, local)
    }

    fn follow(local: &mut Local, view: &mut View, homes: &BTreeSet<PortId>, change: Change) -> Followed {
        let (mut concerned, changes) = (Concerned::default(), [change]);
        concerned.add(view, &changes);
        changes.iter().for_each(|change| view.apply(change.clone(), &mut Default::default()));
        concerned.add(view, &changes);
        let followed = local.follow(view, homes, &concerned);
        assert_eq!(*local, Local::of(view, homes));
        followed
    }

    fn local_network(local: &Local, n: u32) -> &LocalNetwork {
        local.network_by_key(10 + n).expect("a port of it lives here")
    }

    #[test]
    fn a_router_interface_costs_as_much_for_each_network_of_its_domain_however_many_are_here() {
        let looks = |count: u32| {
            let (mut view, homes, mut local) = star(count);
            let one_more = put(interface("one more", 900, "net0", "router", &[]));
            let followed = follow(&mut local, &mut view, &homes, one_more);
            assert_eq!(followed.different, count as usize);
            followed.looks
        };
        assert_eq!(looks(20) - looks(10), looks(30) - looks(20));
    }

    #[test]
    fn networks_of_one_domain_share_what_is_the_same_for_all() {
        let (mut view, homes, mut local) = star(3);
        let shared = |local: &Local| {
            let (first, second) = (local_network(local, 0), local_network(local, 1));
            assert!(Arc::ptr_eq(&first.hops, &second.hops) && Arc::ptr_eq(&first.gateways[0], &second.gateways[0]));
            (first.hops.clone(), first.gateways[0].clone())
        };
        let (hops, leads) = shared(&local);
        assert_eq!(hops.len(), 3);
        let renamed = follow(&mut local, &mut view, &homes, put(Network { name: "renamed".into(), ..network("net1", 11) }));
        assert_eq!(renamed.different, 1);
        let still = shared(&local);
        assert!(Arc::ptr_eq(&still.0, &hops) && Arc::ptr_eq(&still.1, &leads), "nothing that they share has changed");
        follow(&mut local, &mut view, &homes, Change::Remove(ObjectKey::new(Kind::Port, id("interface2"))));
        assert_eq!(shared(&local).0.len(), 2);
    }

    #[test]
    fn a_network_reaches_the_subnets_of_the_others_and_what_its_gateways_have_routes_to() {
        let (mut view, homes, mut local) = star(3);
        let nets = |all: &[&str]| all.iter().map(|net| net.parse().unwrap()).collect::<BTreeSet<IpNet>>();
        assert_eq!(local_network(&local, 1).reachable(), nets(&["10.0.0.0/24", "10.0.2.0/24"]));
        let route = |net: &str| model::Route { destination: net.parse().unwrap(), nexthop: "10.0.0.7".parse().unwrap() };
        let routes = vec![route("0.0.0.0/0"), route("172.16.0.0/12")];
        follow(&mut local, &mut view, &homes, put(Router { routes, ..router("router", 1) }));
        assert_eq!(local_network(&local, 1).reachable(), nets(&["10.0.0.0/24", "10.0.2.0/24", "172.16.0.0/12"]));
        let elsewhere = Subnet { gateway: Some("10.0.1.254".parse().unwrap()), ..subnet("sub1", "net1", "10.0.1.0/24") };
        follow(&mut local, &mut view, &homes, put(elsewhere));
        assert_eq!(local_network(&local, 1).reachable(), nets(&[]), "another router is the gateway");
    }
}
