//! The machine's own interfaces on the network: its Kubernetes node port, and what `ladon plug` made.
//!
//! An interface is an internal port of the bridge whose `iface-id` is the Neutron port. Its MAC, MTU, addresses and routes
//! follow from the view and are made so again whenever the view changes or the machine has lost them. The machine routes the
//! port's own subnets (on the link), what the routers lead to that are the subnets' gateways, the subnets' host routes and what the user asked for
//! through it: never a default route unless asked. Routes carry the port's address as their source. The machine listens to no
//! router advertisements there.
//!
//! What this task made carries a mark in the database, so that an interface whose port went away while the node was down is
//! found and removed, once the view is known to be complete.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cni::netlink::{Netlink, Route};
use cni::offload::Ethtool;
use ipnet::IpNet;
use model::{Mac, NodeName, PortId, owner};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use stream::describe;
use tokio::sync::{mpsc, oneshot, watch};

use crate::agent::InForce;
use crate::bridge::{BridgeError, Interface, Interfaces, Link, PortSpec};
use crate::control::{Link as InterfaceLink, PlugRequest, PluggedInterface};
use crate::local::{Local, LocalPort, everywhere};
use crate::record::{Record, RecordError};

/// How often the machine's addresses and routes are compared with what they should be, besides after every change.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// Key in the external ids of the interfaces that this task makes.
const MARK: &str = "ladon-host";

/// What `Plug` asked for, kept over restarts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Plugged {
    port: PortId,
    #[serde(default)]
    default_route: bool,
    #[serde(default)]
    routes: Vec<IpNet>,
}

/// An interface that could not be made what it should be.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("plugging {interface} into the bridge")]
    Bridge {
        interface: String,
        #[source]
        source: BridgeError,
    },
    #[error("configuring {interface}: {reason}")]
    Netlink { interface: String, reason: String },
    #[error("keeping the list of interfaces")]
    Record(#[from] RecordError),
    #[error("{0}")]
    Refused(String),
    #[error("port {0} is not in this node's view, or its flows are not in the switch")]
    Deadline(PortId),
    #[error("the node is shutting down")]
    Ended,
}

/// A request to the task that owns the machine's interfaces.
#[derive(Debug)]
pub enum Wish {
    /// Answers whether the interface is new as soon as the wish is kept; it is made as soon as its port is in view.
    Plug(PlugRequest, oneshot::Sender<Result<bool, HostError>>),
    /// By interface or port.
    Unplug(String, oneshot::Sender<Result<(String, PortId), HostError>>),
    List(oneshot::Sender<Vec<PluggedInterface>>),
}

/// What an interface should be.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Desired {
    port: PortId,
    mac: Mac,
    mtu: u16,
    addresses: Vec<IpNet>,
    routes: Vec<Route>,
}

/// The machine, as its configuration describes it.
#[derive(Clone, Debug)]
pub struct Machine {
    pub node: NodeName,
    /// Name of the interface that is the node's own port.
    pub interface: String,
    pub bridge: String,
    pub is_userspace: bool,
    /// Its addresses outside of the network, where tunnels end.
    pub underlay: Vec<IpAddr>,
}

/// The task's state.
pub struct Host {
    machine: Machine,
    bridge: Link,
    local: watch::Receiver<Arc<Local>>,
    in_force: watch::Receiver<Arc<InForce>>,
    plugged: BTreeMap<String, Plugged>,
    record: Record,
}

impl Host {
    pub fn new(
        machine: Machine,
        bridge: Link,
        local: watch::Receiver<Arc<Local>>,
        in_force: watch::Receiver<Arc<InForce>>,
        state_dir: &Path,
    ) -> Result<Host, RecordError> {
        let record = Record::new(state_dir, "interfaces.json")?;
        let plugged = record.load()?;
        Ok(Host { machine, bridge, local, in_force, plugged, record })
    }

    /// Runs until nobody can wish for anything any more.
    pub async fn run(mut self, mut wishes: mpsc::Receiver<Wish>) {
        let mut compare = tokio::time::interval(COMPARE_EVERY);
        compare.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut interfaces = self.bridge.interfaces();
        loop {
            tokio::select! {
                wish = wishes.recv() => match wish {
                    Some(wish) => self.grant(wish).await,
                    None => return,
                },
                changed = self.local.changed() => if changed.is_err() { return },
                changed = interfaces.changed() => match changed {
                    Ok(()) if !self.lacks_one(&interfaces.borrow_and_update().clone().unwrap_or_default()) => continue,
                    Ok(()) => {}
                    Err(_) => return,
                },
                _ = compare.tick() => {}
            }
            self.reconcile().await;
        }
    }

    async fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Plug(request, answer) => {
                let granted = self.plug(request);
                // Who asked may have gone away; the interface stays.
                let _ = answer.send(granted);
            }
            Wish::Unplug(name, answer) => {
                let granted = self.unplug(&name).await;
                let _ = answer.send(granted);
            }
            Wish::List(answer) => {
                let _ = answer.send(self.plugged.keys().filter_map(|interface| self.describe(interface)).collect());
            }
        }
    }

    fn plug(&mut self, request: PlugRequest) -> Result<bool, HostError> {
        let PlugRequest { interface, port, default_route, routes, deadline_ms: _ } = request;
        if interface.is_empty() || interface.len() > 15 || interface.contains(['/', ' ']) || interface == self.machine.interface {
            return Err(HostError::Refused(format!(
                "`{interface}` cannot be the name of an interface: 1 to 15 bytes, none of them / or a space"
            )));
        }
        let old = self.plugged.get(&interface);
        if old.is_some_and(|other| other.port != port) {
            return Err(HostError::Refused(format!("{interface} is another port already; unplug it first or choose another name")));
        }
        let is_new = old.is_none();
        if is_new && Path::new("/sys/class/net").join(&interface).exists() {
            return Err(HostError::Refused(format!("this machine has an interface {interface} already; choose another name")));
        }
        let mut plugged = self.plugged.clone();
        plugged.insert(interface, Plugged { port, default_route, routes });
        self.keep(plugged)?;
        Ok(is_new)
    }

    async fn unplug(&mut self, name: &str) -> Result<(String, PortId), HostError> {
        let found = self.plugged.iter().find(|(interface, plugged)| *interface == name || plugged.port.to_string() == name);
        let Some((interface, port)) = found.map(|(interface, plugged)| (interface.clone(), plugged.port)) else {
            let known: Vec<&str> = self.plugged.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
            return Err(HostError::Refused(format!("{name} is not plugged in here; plugged in are: {known}")));
        };
        match self.bridge.remove_port(&self.machine.bridge, &interface).await {
            Ok(()) => {}
            Err(source) if source.is_written() => {}
            Err(source) => return Err(HostError::Bridge { interface, source }),
        }
        let mut plugged = self.plugged.clone();
        plugged.remove(&interface);
        self.keep(plugged)?;
        Ok((interface, port))
    }

    /// A wish that cannot be kept is refused: it must not come true until the next restart only.
    fn keep(&mut self, plugged: BTreeMap<String, Plugged>) -> Result<(), RecordError> {
        self.record.save(&plugged)?;
        self.plugged = plugged;
        Ok(())
    }

    fn describe(&self, interface: &str) -> Option<PluggedInterface> {
        let plugged = self.plugged.get(interface)?;
        let local = self.local.borrow();
        let desired = desired(local.port(plugged.port)?, plugged, &self.machine.underlay);
        Some(PluggedInterface {
            link: InterfaceLink { interface: interface.to_string(), mac: desired.mac, mtu: desired.mtu.into() },
            port: plugged.port,
            addresses: desired.addresses,
            routes: desired.routes.into_iter().map(|route| (route.destination, route.gateway)).collect(),
        })
    }

    /// The interfaces that should exist, by name.
    fn wanted(&self) -> BTreeMap<String, Plugged> {
        let local = self.local.borrow();
        let is_own = |port: &&Arc<LocalPort>| port.port.device_owner == owner::NODE && port.port.device_id == self.machine.node.0;
        let own = local.ports().find(is_own).map(|port| Plugged { port: port.port.id, default_route: false, routes: Vec::new() });
        own.map(|own| (self.machine.interface.clone(), own)).into_iter().chain(self.plugged.clone()).collect()
    }

    /// Whether somebody took an interface off the bridge that should be there, perhaps with the bridge.
    fn lacks_one(&self, interfaces: &Interfaces) -> bool {
        self.wanted().keys().any(|name| !interfaces.contains_key(name))
    }

    async fn reconcile(&mut self) {
        let wanted = self.wanted();
        for interface in wanted.keys() {
            if let Err(error) = self.make(interface).await {
                tracing::warn!(
                    interface,
                    error = describe(&error),
                    "the machine's interface is not what it should be; tried again in 10 s"
                );
            }
        }
        // A view that is still arriving lacks ports that exist.
        if !self.in_force.borrow().is_complete {
            return;
        }
        let interfaces = self.bridge.interfaces().borrow().clone().unwrap_or_default();
        for interface in unwanted(&interfaces, &wanted.into_keys().collect()) {
            match self.bridge.remove_port(&self.machine.bridge, interface).await {
                Ok(()) => tracing::info!(interface, "removed an interface of the machine that is no port any more"),
                Err(error) => tracing::warn!(interface, error = describe(&error), "an interface that is no port any more stays for now"),
            }
        }
    }

    /// Makes one interface what it should be, if its port is in view.
    async fn make(&self, interface: &str) -> Result<(), HostError> {
        let Some(plugged) = self.wanted().remove(interface) else { return Ok(()) };
        let Some(port) = self.local.borrow().port(plugged.port).cloned() else { return Ok(()) };
        let desired = desired(&port, &plugged, &self.machine.underlay);
        let mac = desired.mac.to_string();
        let mut spec = PortSpec::new(&self.machine.bridge, interface, "internal")
            .external_id("iface-id", &desired.port.to_string())
            .external_id("attached-mac", &mac)
            .external_id("iface-status", "active")
            .external_id(MARK, "true");
        spec.mtu_request = Some(desired.mtu);
        spec.mac = Some(mac);
        self.bridge.ensure_port(spec).await.map_err(|source| HostError::Bridge { interface: interface.into(), source })?;
        let (name, is_userspace) = (interface.to_string(), self.machine.is_userspace);
        let configured = tokio::task::spawn_blocking(move || configure(&name, &desired, is_userspace)).await;
        let failed = |reason: String| HostError::Netlink { interface: interface.into(), reason };
        configured.map_err(|error| failed(error.to_string()))?.map_err(failed)
    }
}

/// Whether this task made the interface.
pub fn is_own(interface: &Interface) -> bool {
    interface.external_ids.get(MARK).is_some_and(|mark| mark == "true")
}

/// The interfaces that this task made at some time and that should not exist.
fn unwanted<'a>(interfaces: &'a Interfaces, wanted: &BTreeSet<String>) -> Vec<&'a str> {
    let ours = interfaces.values().filter(|interface| is_own(interface));
    ours.map(|interface| interface.name.as_str()).filter(|name| !wanted.contains(*name)).collect()
}

/// What the interface of `port` should be. A subnet somewhere on the network that covers the machine's own underlay is not routed
/// there: tunnels and servers would be unreachable.
fn desired(port: &LocalPort, plugged: &Plugged, underlay: &[IpAddr]) -> Desired {
    let addresses = port.addresses();
    let is_elsewhere = |net: &&IpNet| !underlay.iter().any(|own| net.contains(own));
    let mut through = Vec::new();
    for (address, subnet) in &addresses {
        let is_same = |net: &&IpNet| net.addr().is_ipv4() == address.addr().is_ipv4();
        let by_gateway =
            port.network.reachable.iter().filter(is_elsewhere).chain(&plugged.routes).filter(is_same).map(|net| (*net, subnet.gateway));
        let default = plugged.default_route.then(|| (everywhere(address.addr()), subnet.gateway));
        let host_routes = subnet.host_routes.iter().map(|route| (route.destination, Some(route.nexthop)));
        let all = by_gateway.chain(default).chain(host_routes).filter(|(_, gateway)| gateway.is_some_and(|ip| ip != address.addr()));
        through.extend(all.map(|(destination, gateway)| Route { destination: destination.trunc(), gateway, source: Some(address.addr()) }));
    }
    through.sort_by_key(|route| (route.destination, route.gateway));
    through.dedup_by_key(|route| route.destination);
    Desired {
        port: port.port.id,
        mac: port.port.mac,
        mtu: port.network.network.mtu,
        addresses: addresses.into_iter().map(|(address, _)| address).collect(),
        routes: through,
    }
}

/// Gives the interface its MAC, MTU, addresses and routes, and takes away what it should not have. Link-local addresses and the
/// kernel's own routes to the interface's subnets are left alone.
fn configure(interface: &str, desired: &Desired, is_userspace: bool) -> Result<(), String> {
    let plain = |error: Errno| error.to_string();
    let netlink = Netlink::open().map_err(plain)?;
    let link = netlink.link(interface).map_err(plain)?.ok_or("the interface is not there yet")?;
    if link.mac != desired.mac || link.mtu != u32::from(desired.mtu) {
        netlink.set_mac_and_mtu(link.index, desired.mac, desired.mtu.into()).map_err(plain)?;
    }
    if is_userspace && let Ok(ethtool) = Ethtool::open() {
        // A device that cannot switch the offload off has none.
        let _ = ethtool.tx_offload_off(interface);
    }
    // Before it is up: a router that is heard once leaves a default route.
    cni::interface::ignore_routers(interface, false).map_err(|error| format!("{error}: {}", error.details()))?;
    if !link.is_up {
        netlink.set_up(link.index, "").map_err(plain)?;
    }
    let have = netlink.addresses(link.index).map_err(plain)?;
    let is_link_local = |net: &IpNet| matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    for address in have.iter().filter(|address| !desired.addresses.contains(address) && !is_link_local(address)) {
        netlink.delete_address(link.index, *address).map_err(plain)?;
    }
    for address in desired.addresses.iter().filter(|address| !have.contains(address)) {
        netlink.add_address(link.index, *address).map_err(plain)?;
    }
    let have: Vec<Route> = netlink.routes(link.index).map_err(plain)?;
    let is_ours = |route: &&Route| route.gateway.is_some();
    for route in have.iter().filter(is_ours).filter(|route| !desired.routes.contains(route)) {
        netlink.delete_route(link.index, route).map_err(plain)?;
    }
    for route in desired.routes.iter().filter(|route| !have.contains(route)) {
        netlink.add_route(link.index, route).map_err(plain)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use apps::testing::{interface, network, node, port, put, router, subnet};
    use apps::{Numbers, View};
    use std::collections::BTreeSet;

    use super::*;

    /// A port of this machine on `pods`, with a router to `office`, whose subnet covers the underlay, and to `lab`.
    fn machine_port() -> Arc<LocalPort> {
        let own = model::Port {
            device_owner: owner::NODE.into(),
            host: Some(NodeName("n1".into())),
            ..port("own", 9, "pods", &[("four", "10.244.0.9")])
        };
        let mut view = View::new(Numbers::default());
        let changes = [
            put(node("n1", "192.0.2.11")),
            put(network("pods", 1)),
            put(network("office", 2)),
            put(network("lab", 3)),
            put(subnet("four", "pods", "10.244.0.0/16")),
            put(subnet("offices", "office", "192.0.0.0/16")),
            put(subnet("labs", "lab", "10.9.0.0/24")),
            put(router("r", 4)),
            put(interface("r1", 11, "pods", "r", &[("four", "10.244.0.1")])),
            put(interface("r2", 12, "office", "r", &[("offices", "192.0.0.1")])),
            put(interface("r3", 13, "lab", "r", &[("labs", "10.9.0.1")])),
            // Somebody's own router on the shared network, which is nobody's gateway there.
            put(network("theirs", 5)),
            put(subnet("anything", "theirs", "8.8.8.0/24")),
            put(router("x", 6)),
            put(interface("x1", 14, "pods", "x", &[("four", "10.244.0.77")])),
            put(interface("x2", 15, "theirs", "x", &[("anything", "8.8.8.1")])),
            put(own.clone()),
        ];
        changes.into_iter().for_each(|change| view.apply(change, &mut Default::default()));
        Local::of(&view, &BTreeSet::from([own.id])).port(own.id).expect("it lives here").clone()
    }

    #[tokio::test]
    async fn a_wish_that_cannot_be_kept_is_no_wish() {
        let state = tempfile::tempdir().unwrap();
        let machine = Machine {
            node: NodeName("n1".into()),
            interface: "ladon0".into(),
            bridge: "br-int".into(),
            is_userspace: true,
            underlay: Vec::new(),
        };
        let bridge = Link::start(crate::bridge::Settings::new(state.path().join("db.sock")));
        let (_local, local) = watch::channel(Arc::new(Local::default()));
        let (_in_force, in_force) = watch::channel(Arc::new(InForce::default()));
        let mut host = Host::new(machine, bridge, local, in_force, state.path()).unwrap();
        let port = machine_port().port.id;
        let wish = || PlugRequest { interface: "ladon-test9".into(), port, default_route: false, routes: Vec::new(), deadline_ms: 0 };
        // No file can be written in the place of a folder.
        let in_the_way = state.path().join("interfaces.new");
        std::fs::create_dir(&in_the_way).unwrap();
        assert!(matches!(host.plug(wish()), Err(HostError::Record(_))));
        assert!(host.wanted().is_empty());
        std::fs::remove_dir(&in_the_way).unwrap();
        assert!(host.plug(wish()).unwrap(), "it is new still");
        assert_eq!(host.wanted().into_keys().collect::<Vec<_>>(), ["ladon-test9"]);
    }

    #[test]
    fn a_subnet_over_the_underlay_or_behind_a_strangers_router_is_not_routed_through_the_network() {
        let local = machine_port();
        let plugged = |routes: &[&str]| Plugged {
            port: local.port.id,
            default_route: false,
            routes: routes.iter().map(|net| net.parse().unwrap()).collect(),
        };
        let destinations = |plugged: &Plugged| -> Vec<String> {
            let desired = desired(&local, plugged, &["192.0.2.11".parse().unwrap()]);
            desired.routes.iter().map(|route| route.destination.to_string()).collect()
        };
        assert_eq!(destinations(&plugged(&[])), ["10.9.0.0/24"]);
        assert_eq!(destinations(&plugged(&["198.51.100.0/24"])), ["10.9.0.0/24", "198.51.100.0/24"]);
    }
}
