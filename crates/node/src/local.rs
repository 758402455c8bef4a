//! The ports that live here, with all that a machine plugged into them has to be told: what DHCP, router advertisements, CNI
//! and the host's own interfaces say, they take from here.
//!
//! Rebuilt by the agent when something it holds changed; shared with everybody else as a whole, read-only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use apps::{Index, View};
use ipnet::IpNet;
use model::{Kind, Network, NetworkId, Object, ObjectKey, Port, PortId, Subnet};
use pipeline::OfPort;
use uuid::Uuid;

/// A network, as a machine on it needs to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalNetwork {
    pub network: Network,
    pub subnets: Vec<Subnet>,
    /// Router interfaces on the network.
    pub interfaces: Vec<Port>,
    /// Subnets of other networks that routers lead to.
    pub reachable: Vec<IpNet>,
}

impl LocalNetwork {
    pub fn subnet(&self, id: model::SubnetId) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.id == id)
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
    by_device: BTreeMap<String, PortId>,
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
            if !port.device_id.is_empty() {
                local.by_device.insert(port.device_id.clone(), port.id);
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

    /// The port with the `device_id`.
    pub fn by_device(&self, device: &str) -> Option<&Arc<LocalPort>> {
        self.ports.get(self.by_device.get(device)?)
    }

    pub fn ports(&self) -> impl Iterator<Item = &Arc<LocalPort>> {
        self.ports.values()
    }
}

fn port(view: &View, id: Uuid) -> Option<&Port> {
    view.object(ObjectKey::new(Kind::Port, id)).and_then(|object| (&**object).try_into().ok())
}

fn network(view: &View, id: NetworkId) -> Option<LocalNetwork> {
    let Some(Object::Network(network)) = view.object(ObjectKey::new(Kind::Network, id)).map(|object| &**object) else { return None };
    let interfaces: Vec<Port> = view.ids(Index::InterfacesOn(id)).filter_map(|port_id| port(view, port_id)).cloned().collect();
    Some(LocalNetwork { network: network.clone(), subnets: subnets(view, id), interfaces, reachable: reachable(view, id) })
}

fn subnets(view: &View, network: NetworkId) -> Vec<Subnet> {
    let subnet = |id| match view.object(ObjectKey::new(Kind::Subnet, id)).map(|object| &**object) {
        Some(Object::Subnet(subnet)) => Some(subnet.clone()),
        _ => None,
    };
    view.ids(Index::SubnetsOf(network)).filter_map(subnet).collect()
}

/// The subnets of all other networks in the routing domain of `network`.
fn reachable(view: &View, network: NetworkId) -> Vec<IpNet> {
    let mut found = BTreeSet::from([network]);
    let mut queue = vec![network];
    while let Some(next) = queue.pop() {
        let routers = view.ids(Index::InterfacesOn(next)).filter_map(|id| port(view, id)?.router());
        let interfaces = routers.flat_map(|router| view.ids(Index::InterfacesOf(router))).filter_map(|id| port(view, id));
        let networks: Vec<NetworkId> = interfaces.map(|interface| interface.network).collect();
        queue.extend(networks.into_iter().filter(|network| found.insert(*network)));
    }
    found.remove(&network);
    found.into_iter().flat_map(|network| subnets(view, network)).map(|subnet| subnet.cidr).collect()
}
