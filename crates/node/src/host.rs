//! The machine's own interfaces on the network: its Kubernetes node port, and what `ladon plug` made.
//!
//! An interface is an internal port of the bridge whose `iface-id` is the Neutron port. Its MAC, MTU, addresses and routes
//! follow from the view and are made so again whenever the view changes or the machine has lost them. The machine routes the
//! port's own subnets (on the link), what the routers lead to that are the subnets' gateways, the subnets' host routes and what the user asked for
//! through it: never a default route unless asked, and nothing that the machine has itself ([`routes`]). Routes carry the port's
//! address as their source. The machine listens to no router advertisements there.
//!
//! What this task made carries a mark in the database, so that an interface whose port went away while the node was down is
//! found and removed, once the view is known to be complete.

pub mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cni::netlink::Netlink;
use cni::offload::Ethtool;
use ipnet::IpNet;
use model::{NodeName, PortId, owner};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use stream::describe;
use tokio::sync::{mpsc, oneshot, watch};

use crate::agent::InForce;
use crate::bridge::{BridgeError, Interface, Interfaces, Link, PortSpec};
use crate::control::{Link as InterfaceLink, PlugRequest, PluggedInterface};
use crate::local::{Local, LocalPort};
use crate::record::{Record, RecordError, aside};
use routes::{Elsewhere, Wanted};

/// How often the machine's addresses and routes are compared with what they should be, besides after every change.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// Key in the external ids of the interfaces that this task makes.
const MARK: &str = "ladon-host";

/// What `Plug` asked for, kept over restarts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plugged {
    pub port: PortId,
    #[serde(default)]
    pub default_route: bool,
    #[serde(default)]
    pub routes: Vec<IpNet>,
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
    #[error("ovsdb-server is not reached: {0}")]
    NoDatabase(String),
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

/// The machine, as its configuration describes it.
#[derive(Clone, Debug)]
pub struct Machine {
    pub node: NodeName,
    /// Name of the interface that is the node's own port.
    pub interface: String,
    pub bridge: String,
    pub is_userspace: bool,
    /// What must stay outside of the network: its addresses where tunnels end, and those of servers.
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
    /// What the network says and is not followed, by interface, as it was told last.
    refused: BTreeMap<String, BTreeSet<IpNet>>,
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
        Ok(Host { machine, bridge, local, in_force, plugged, record, refused: BTreeMap::new() })
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
                let mut all = Vec::new();
                for interface in self.plugged.keys() {
                    all.extend(self.describe(interface).await);
                }
                let _ = answer.send(all);
            }
        }
    }

    fn plug(&mut self, request: PlugRequest) -> Result<bool, HostError> {
        let PlugRequest { interface, port, default_route, routes, deadline_ms: _ } = request;
        if interface == self.machine.interface {
            return Err(HostError::Refused(format!("{interface} is the machine's own port; choose another name")));
        }
        if interface.is_empty() || interface.len() > 15 || interface.contains(['/', ' ']) {
            return Err(HostError::Refused(format!(
                "`{interface}` cannot be the name of an interface: 1 to 15 bytes, none of them / or a space"
            )));
        }
        let old = self.plugged.get(&interface);
        if old.is_some_and(|other| other.port != port) {
            return Err(HostError::Refused(format!("{interface} is another port already; unplug it first or choose another name")));
        }
        let is_new = old.is_none();
        if is_new && self.is_taken(&interface)? {
            return Err(HostError::Refused(format!("this machine has an interface {interface} already; choose another name")));
        }
        let mut plugged = self.plugged.clone();
        plugged.insert(interface, Plugged { port, default_route, routes });
        self.keep(plugged)?;
        Ok(is_new)
    }

    /// Whether the name is somebody else's, of the machine or of the bridge: not every port of a bridge is a device.
    fn is_taken(&self, interface: &str) -> Result<bool, HostError> {
        let is_on_bridge = self.bridge.interfaces().borrow().as_ref().is_some_and(|all| is_foreign(all, interface));
        // Not from /sys, which may show another network namespace.
        let link = || Netlink::open()?.link(interface);
        let device = aside(link).map_err(|errno| HostError::Netlink { interface: interface.into(), reason: errno.to_string() })?;
        Ok(is_on_bridge || device.is_some())
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

    async fn describe(&self, interface: &str) -> Option<PluggedInterface> {
        let plugged = self.plugged.get(interface)?.clone();
        let port = self.local.borrow().port(plugged.port)?.clone();
        let (name, underlay) = (interface.to_string(), self.machine.underlay.clone());
        let looked = tokio::task::spawn_blocking(move || {
            // A kernel that does not answer leaves the routes out that it would have to be asked for.
            let elsewhere = Elsewhere::read(&name, &underlay).unwrap_or_default();
            PluggedInterface {
                addresses: port.addresses().into_iter().map(|(address, _)| address).collect(),
                routes: routes::wanted(&port, &plugged, &elsewhere).routes.iter().map(|route| (route.destination, route.gateway)).collect(),
                link: InterfaceLink { interface: name, mac: port.port.mac, mtu: port.network.network.mtu.into() },
                port: plugged.port,
            }
        });
        looked.await.ok()
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
    async fn make(&mut self, interface: &str) -> Result<(), HostError> {
        let Some(plugged) = self.wanted().remove(interface) else { return Ok(()) };
        let Some(port) = self.local.borrow().port(plugged.port).cloned() else { return Ok(()) };
        let mac = port.port.mac.to_string();
        let mut spec = PortSpec::new(&self.machine.bridge, interface, "internal")
            .external_id("iface-id", &port.port.id.to_string())
            .external_id("attached-mac", &mac)
            .external_id("iface-status", "active")
            .external_id(MARK, "true");
        spec.mtu_request = Some(port.network.network.mtu);
        spec.mac = Some(mac);
        self.bridge.ensure_port(spec).await.map_err(|source| HostError::Bridge { interface: interface.into(), source })?;
        let (name, underlay, is_userspace) = (interface.to_string(), self.machine.underlay.clone(), self.machine.is_userspace);
        let configured = tokio::task::spawn_blocking(move || configure(&name, &port, &plugged, &underlay, is_userspace)).await;
        let failed = |reason: String| HostError::Netlink { interface: interface.into(), reason };
        let refused = configured.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
        self.tell_refused(interface, refused);
        Ok(())
    }

    /// Says what is not routed, once.
    fn tell_refused(&mut self, interface: &str, refused: BTreeSet<IpNet>) {
        if self.refused.get(interface).is_some_and(|told| *told == refused) {
            return;
        }
        if !refused.is_empty() {
            let destinations = refused.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ");
            tracing::info!(
                interface,
                destinations,
                "the network leads to what this machine has itself (its underlay, its servers, what its other interfaces are on the link \
                 with) or to everything: that is not routed through it, and traffic goes there as before; if it should, give \
                 `ladon plug` --route or --default-route"
            );
        }
        self.refused.insert(interface.to_string(), refused);
    }
}

/// Whether this task made the interface.
pub fn is_own(interface: &Interface) -> bool {
    interface.external_ids.get(MARK).is_some_and(|mark| mark == "true")
}

/// Whether the bridge has a port of that name that others made.
fn is_foreign(interfaces: &Interfaces, name: &str) -> bool {
    interfaces.get(name).is_some_and(|one| !is_own(one))
}

/// The interfaces that this task made at some time and that should not exist.
fn unwanted<'a>(interfaces: &'a Interfaces, wanted: &BTreeSet<String>) -> Vec<&'a str> {
    let ours = interfaces.values().filter(|interface| is_own(interface));
    ours.map(|interface| interface.name.as_str()).filter(|name| !wanted.contains(*name)).collect()
}

/// Gives the interface its MAC, MTU, addresses and routes, and takes away what it should not have. Link-local addresses and the
/// kernel's own routes to the interface's subnets are left alone. Gives the destinations that are not routed for the machine's sake.
pub fn configure(
    interface: &str,
    port: &LocalPort,
    plugged: &Plugged,
    underlay: &[IpAddr],
    is_userspace: bool,
) -> Result<BTreeSet<IpNet>, String> {
    let plain = |error: Errno| error.to_string();
    let netlink = Netlink::open().map_err(plain)?;
    let link = netlink.link(interface).map_err(plain)?.ok_or("the interface is not there yet")?;
    let (mac, mtu) = (port.port.mac, u32::from(port.network.network.mtu));
    if link.mac != mac || link.mtu != mtu {
        netlink.set_mac_and_mtu(link.index, mac, mtu).map_err(plain)?;
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
    let addresses: Vec<IpNet> = port.addresses().into_iter().map(|(address, _)| address).collect();
    let is_link_local = |net: &IpNet| matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    for address in have.iter().filter(|address| !addresses.contains(address) && !is_link_local(address)) {
        netlink.delete_address(link.index, *address).map_err(plain)?;
    }
    for address in addresses.iter().filter(|address| !have.contains(address)) {
        netlink.add_address(link.index, *address).map_err(plain)?;
    }
    let elsewhere = Elsewhere::read(interface, underlay).map_err(plain)?;
    let Wanted { routes, refused } = routes::wanted(port, plugged, &elsewhere);
    routes::apply(&netlink, link.index, &routes)?;
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(state: &Path) -> Host {
        let machine = Machine {
            node: NodeName("n1".into()),
            interface: "ladon0".into(),
            bridge: "br-int".into(),
            is_userspace: true,
            underlay: Vec::new(),
        };
        let bridge = Link::start(crate::bridge::Settings::new(state.join("db.sock")));
        let (local, in_force) = (watch::channel(Arc::new(Local::default())).1, watch::channel(Arc::new(InForce::default())).1);
        Host::new(machine, bridge, local, in_force, state).unwrap()
    }

    fn wish(interface: &str) -> PlugRequest {
        let port = PortId(uuid::Uuid::from_u128(9));
        PlugRequest { interface: interface.into(), port, default_route: false, routes: Vec::new(), deadline_ms: 0 }
    }

    #[tokio::test]
    async fn a_wish_that_cannot_be_kept_is_no_wish() {
        let state = tempfile::tempdir().unwrap();
        let mut host = host(state.path());
        // No file can be written in the place of a folder.
        let in_the_way = state.path().join("interfaces.new");
        std::fs::create_dir(&in_the_way).unwrap();
        assert!(matches!(host.plug(wish("ladon-test9")), Err(HostError::Record(_))));
        assert!(host.wanted().is_empty());
        std::fs::remove_dir(&in_the_way).unwrap();
        assert!(host.plug(wish("ladon-test9")).unwrap(), "it is new still");
        assert_eq!(host.wanted().into_keys().collect::<Vec<_>>(), ["ladon-test9"]);
    }

    #[tokio::test]
    async fn what_is_somebody_elses_is_not_taken_over() {
        let state = tempfile::tempdir().unwrap();
        let mut host = host(state.path());
        for name in ["lo", "ladon0", "", "sixteen-bytes-16", "a/b"] {
            assert!(matches!(host.plug(wish(name)), Err(HostError::Refused(_))), "{name}");
        }
        assert!(host.wanted().is_empty());
    }

    #[test]
    fn a_port_of_the_bridge_that_is_no_device_is_somebody_elses_too() {
        let port = |marked: bool| Interface {
            name: "tunnel".into(),
            uuid: ovsdb::Uuid::from_u128(1),
            kind: "geneve".into(),
            ofport: None,
            error: None,
            iface_id: None,
            mac_in_use: None,
            options: BTreeMap::new(),
            external_ids: BTreeMap::from_iter(marked.then(|| (MARK.to_owned(), "true".to_owned()))),
        };
        let is_foreign = |marked| super::is_foreign(&Interfaces::from_iter([("tunnel".to_owned(), port(marked))]), "tunnel");
        assert!(is_foreign(false) && !is_foreign(true));
        assert!(!super::is_foreign(&Interfaces::new(), "tunnel"));
    }
}
