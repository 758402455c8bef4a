//! The node's answers to `ladon-cni`.
//!
//! A pod's port is the one whose `device_id` is the pod's uid. ADD waits, notified, until that port is in the view; then for
//! the interface's flows. What was added is remembered per (container, interface) in the state folder, so that a late DEL of an
//! old sandbox never touches the new one, and so that GC knows what is left over. DEL needs neither server nor view; one that
//! came while the node was down is made up for ([`sweep`]).
//!
//! Requests about one interface take [`turns`] when they touch the bridge: a DEL never passes an ADD that is plugging.

mod conflist;
mod sweep;
mod turns;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cni::daemon::{Address, Attachment, Dns, PodName, Prepared, Reply, Request, Route};
use cni::error::code;
use cni::host_ifname;
use model::{PortId, owner};
use pipeline::OfPort;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use crate::agent::InForce;
use crate::bridge::{Link, PortSpec};
use crate::local::{Local, LocalPort, everywhere};
use crate::record::Record;
pub use conflist::announce;
use stream::describe;
use turns::Turns;

/// Key in the external ids of the interfaces that this server makes; its value is the container.
const CONTAINER: &str = "ladon-container";

/// What is remembered of an interface that was added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Added {
    network: String,
    port: PortId,
    host_ifname: String,
    /// When it was prepared, if that was in this process' life.
    #[serde(skip)]
    since: Option<Instant>,
}

/// Serves the plugin's socket.
#[derive(Clone)]
pub struct Pods {
    bridge: Link,
    bridge_name: String,
    is_userspace: bool,
    local: watch::Receiver<Arc<Local>>,
    in_force: watch::Receiver<Arc<InForce>>,
    /// Owned by this server; a lock because plugins come in parallel and each changes one entry.
    added: Arc<Mutex<BTreeMap<String, Added>>>,
    /// By the host's interface, which follows from (container, interface).
    turns: Turns,
    record: Record,
    /// What the disk has of `added`. One save at a time; nobody who only reads waits for the disk.
    kept: Arc<Mutex<BTreeMap<String, Added>>>,
}

fn entry(attachment: &Attachment) -> String {
    format!("{}/{}", attachment.container, attachment.ifname)
}

fn error(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Reply {
    Reply::Error { code, msg: msg.into(), details: details.into() }
}

impl Pods {
    pub fn new(
        bridge: Link,
        bridge_name: String,
        is_userspace: bool,
        local: watch::Receiver<Arc<Local>>,
        in_force: watch::Receiver<Arc<InForce>>,
        state_dir: &Path,
    ) -> Result<Pods, crate::record::RecordError> {
        let record = Record::new(state_dir, "pods.json")?;
        let kept: BTreeMap<String, Added> = record.load()?;
        let (added, kept) = (Arc::new(Mutex::new(kept.clone())), Arc::new(Mutex::new(kept)));
        Ok(Pods { bridge, bridge_name, is_userspace, local, in_force, added, turns: Turns::default(), record, kept })
    }

    /// Serves until the task is dropped.
    pub async fn serve(self, socket: &Path) -> std::io::Result<()> {
        let answer = move |line: Vec<u8>| {
            let pods = self.clone();
            async move { vec![pods.answer_line(&line).await] }
        };
        crate::socket::serve(socket, cni::daemon::LINE_MAX, answer).await
    }

    /// The answer to a line of the socket.
    pub async fn answer_line(&self, line: &[u8]) -> Reply {
        match serde_json::from_slice(line) {
            Ok(request) => self.answer(request).await,
            Err(cause) => error(code::DECODE, "the plugin's question cannot be read", cause.to_string()),
        }
    }

    async fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Prepare { attachment, network, pod, deadline_ms, .. } => {
                self.prepare(attachment, network, pod, Duration::from_millis(deadline_ms)).await
            }
            Request::Attach { attachment, host_ifname, deadline_ms } => {
                self.attach(attachment, host_ifname, Duration::from_millis(deadline_ms)).await
            }
            Request::Detach { attachment } => {
                self.detach(&entry(&attachment), &host_ifname(&attachment)).await.err().unwrap_or(Reply::Detached)
            }
            Request::Check { attachment } => self.check(&attachment).await,
            Request::Gc { network, valid_attachments } => self.collect(&network, &valid_attachments).await,
            Request::Status => self.status(),
        }
    }

    async fn prepare(&self, attachment: Attachment, network: String, pod: PodName, deadline: Duration) -> Reply {
        let Some(port) = self.wait_for_port(&pod, deadline).await else {
            let name = format!("{}/{}", pod.pod_namespace, pod.pod_name);
            let details = format!(
                "no port of pod {name} is in this node's view; the pod cannot start; check that `ladon kube` runs and see the pod's events, \
                 then `ladon nodes` for this node's connection"
            );
            return error(code::TRY_AGAIN, format!("waiting for the port of pod {name}"), details);
        };
        let added = Added { network, port: port.port.id, host_ifname: host_ifname(&attachment), since: Some(Instant::now()) };
        let _turn = self.turns.take(&added.host_ifname).await;
        self.added.lock().await.insert(entry(&attachment), added);
        // While the plugin makes the pair. Nothing is plugged in before it is kept, and whoever plugs says it if it cannot be.
        let pods = self.clone();
        tokio::spawn(async move { pods.keep().await });
        Reply::Prepared(self.prepared(&port, &attachment))
    }

    async fn wait_for_port(&self, pod: &PodName, deadline: Duration) -> Option<Arc<LocalPort>> {
        let mut local = self.local.clone();
        let seen = tokio::time::timeout(deadline, local.wait_for(|local| find(local, pod).is_some())).await.ok()?.ok()?;
        find(&seen, pod).cloned()
    }

    fn prepared(&self, port: &LocalPort, attachment: &Attachment) -> Prepared {
        let addresses = port.addresses().into_iter().map(|(address, subnet)| Address { address, gateway: subnet.gateway }).collect();
        let of_subnet = |subnet: &&model::Subnet| port.port.fixed_ips.iter().any(|fixed| fixed.subnet == subnet.id);
        let subnets: Vec<&model::Subnet> = port.network.subnets.iter().filter(of_subnet).collect();
        let host_routes =
            subnets.iter().flat_map(|subnet| &subnet.host_routes).map(|route| Route { dst: route.destination, gw: Some(route.nexthop) });
        let defaults =
            subnets.iter().filter_map(|subnet| subnet.gateway).map(|gateway| Route { dst: everywhere(gateway), gw: Some(gateway) });
        let nameservers = subnets.iter().flat_map(|subnet| &subnet.dns_servers).map(|server| server.to_string()).collect();
        Prepared {
            port: port.port.id.to_string(),
            host_ifname: host_ifname(attachment),
            mac: port.port.mac,
            mtu: port.network.network.mtu.into(),
            addresses,
            routes: host_routes.chain(defaults).collect(),
            dns: Dns { nameservers, ..Dns::default() },
            tx_offload: !self.is_userspace,
        }
    }

    async fn attach(&self, attachment: Attachment, host_ifname: String, deadline: Duration) -> Reply {
        let until = tokio::time::Instant::now() + deadline;
        let doing = format!("plugging {host_ifname} into {}", self.bridge_name);
        match tokio::time::timeout_at(until, self.plug(&attachment, &host_ifname)).await {
            Ok(Ok((port, ofport))) => self.wait_in_force(port, ofport, until).await,
            Ok(Err(reply)) => reply,
            Err(_) => error(
                code::TRY_AGAIN,
                doing,
                "Open vSwitch did not take the interface in time; check that ovsdb-server and ovs-vswitchd run",
            ),
        }
    }

    /// Plugs the interface of a prepared attachment into the bridge, in its turn.
    async fn plug(&self, attachment: &Attachment, host_ifname: &str) -> Result<(PortId, OfPort), Reply> {
        let _turn = self.turns.take(host_ifname).await;
        let Some(added) = self.added.lock().await.get(&entry(attachment)).cloned() else {
            return Err(error(
                code::UNKNOWN_CONTAINER,
                "the interface was not prepared",
                "it was deleted meanwhile, or nobody asked Prepare first",
            ));
        };
        let Some(port) = self.local.borrow().port(added.port).cloned() else {
            return Err(error(
                code::TRY_AGAIN,
                "the pod's port left this node",
                "the pod was deleted or moved; the runtime tries again if it has not",
            ));
        };
        self.keep().await?;
        self.remove_predecessors(attachment, &added).await;
        let spec = PortSpec::new(&self.bridge_name, host_ifname, "")
            .external_id("iface-id", &added.port.to_string())
            .external_id("attached-mac", &port.port.mac.to_string())
            .external_id("iface-status", "active")
            .external_id(CONTAINER, &attachment.container);
        let failed = |cause| error(code::TRY_AGAIN, format!("plugging {host_ifname} into {}", self.bridge_name), describe(&cause));
        let ofport = self.bridge.renew_port(spec).await.map_err(failed)?;
        Ok((added.port, ofport))
    }

    /// An older sandbox of the same pod may still be plugged in: its port is this one's now.
    async fn remove_predecessors(&self, attachment: &Attachment, added: &Added) {
        let own = entry(attachment);
        let is_older = |(key, other): &(&String, &Added)| **key != own && other.port == added.port;
        let older: Vec<String> = self.added.lock().await.iter().filter(is_older).map(|(_, other)| other.host_ifname.clone()).collect();
        for interface in older {
            if let Err(error) = self.bridge.remove_port(&self.bridge_name, &interface).await {
                tracing::warn!(interface, error = describe(&error), "the interface of an older sandbox stays on the bridge for now");
            }
        }
    }

    async fn wait_in_force(&self, port: PortId, ofport: OfPort, until: tokio::time::Instant) -> Reply {
        let mut in_force = self.in_force.clone();
        let is_in_force = |in_force: &Arc<InForce>| in_force.ports.get(&port) == Some(&ofport);
        match tokio::time::timeout_at(until, in_force.wait_for(is_in_force)).await {
            Ok(Ok(_)) => Reply::Attached,
            _ => error(
                code::TRY_AGAIN,
                format!("waiting for the flows of port {port}"),
                "the interface is on the bridge, but the switch has not taken the port's flows; see the log of `ladon node`",
            ),
        }
    }

    async fn detach(&self, key: &str, interface: &str) -> Result<(), Reply> {
        let _turn = self.turns.take(interface).await;
        if !self.added.lock().await.contains_key(key) {
            return Ok(());
        }
        self.unplug(key, interface).await
    }

    /// Takes the interface off the bridge and forgets its entry; whoever calls has the interface's turn.
    async fn unplug(&self, key: &str, interface: &str) -> Result<(), Reply> {
        match self.bridge.remove_port(&self.bridge_name, interface).await {
            Ok(()) => {}
            Err(cause) if cause.is_written() => {}
            Err(cause) => return Err(error(code::TRY_AGAIN, format!("taking {interface} off {}", self.bridge_name), describe(&cause))),
        }
        self.change(|all| all.remove(key)).await
    }

    async fn check(&self, attachment: &Attachment) -> Reply {
        let Some(added) = self.added.lock().await.get(&entry(attachment)).cloned() else {
            return error(code::UNKNOWN_CONTAINER, "the interface is not known here", "it was never added, or was deleted");
        };
        if self.in_force.borrow().ports.contains_key(&added.port) {
            return Reply::Checked;
        }
        error(
            code::TRY_AGAIN,
            format!("port {} has no flows in the switch", added.port),
            "its traffic is dropped; see `ladon ports` and the node's log",
        )
    }

    async fn collect(&self, network: &str, valid: &[Attachment]) -> Reply {
        let valid: Vec<String> = valid.iter().map(entry).collect();
        let is_stale = |(key, added): &(&String, &Added)| added.network == network && !valid.contains(key);
        let stale: Vec<(String, String)> =
            self.added.lock().await.iter().filter(is_stale).map(|(key, added)| (key.clone(), added.host_ifname.clone())).collect();
        let mut removed = Vec::new();
        for (key, interface) in stale {
            if let Err(failed) = self.detach(&key, &interface).await {
                return failed;
            }
            removed.push(interface);
        }
        Reply::Collected { removed }
    }

    fn status(&self) -> Reply {
        if self.in_force.borrow().is_complete {
            return Reply::Ready;
        }
        error(
            code::NOT_AVAILABLE,
            "the node is not ready",
            "the switch was not compared with a complete view yet; see the log of `ladon node`",
        )
    }

    async fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Added>) -> T) -> Result<(), Reply> {
        change(&mut *self.added.lock().await);
        self.keep().await
    }

    /// When this returns, the disk has what was added.
    async fn keep(&self) -> Result<(), Reply> {
        let mut kept = self.kept.lock().await;
        // With whatever changed since, so that what is kept is never older than what was kept before.
        let all = self.added.lock().await.clone();
        if *kept != all {
            self.record.save(&all).map_err(|cause| error(code::IO, "keeping what was added", describe(&cause)))?;
            *kept = all;
        }
        Ok(())
    }
}

/// The port of `pod`: by uid. A runtime that does not tell the uid gets the port with the pod's name.
fn find<'a>(local: &'a Local, pod: &PodName) -> Option<&'a Arc<LocalPort>> {
    let is_pod = |port: &&Arc<LocalPort>| port.port.device_owner == owner::POD;
    let name = format!("{}/{}", pod.pod_namespace, pod.pod_name);
    match &pod.pod_uid {
        Some(uid) => local.pod(uid),
        None => local.ports().filter(is_pod).find(|port| port.port.name == name),
    }
}
