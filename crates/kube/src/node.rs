//! A port for every machine: the node is a host on the network.
//!
//! Each Kubernetes Node (and each machine that the configuration adds) has one port on the pod network. The machine's underlay
//! addresses belong to it too, as address pairs, and the network's routers lead to them by way of the port without being told. So
//! pods reach kubelets, the API server reaches pods, and neither is translated.
//!
//! Task: one, which owns everything here. Machines are few, so its requests follow one another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::ready;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Node as KubeNode, ObjectReference};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{info, warn};

use crate::config::{Config, Host};
use crate::events::{Report, Reporter};
use crate::ids::Keys;
use crate::mirror::{Mirror, Name, watch};
use crate::neutron::types::{AddressPair, NewPort, Port};
use crate::neutron::{ApiError, Neutron};
use crate::queue::Queue;
use crate::topology::Topology;
use crate::until;

/// `device_owner` of machines' ports.
pub const OWNER: &str = "ladon:node";
/// Wait after a list that failed.
const LIST_RETRY: Duration = Duration::from_secs(2);

/// What matters of a Node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// Underlay addresses, without repetition.
    pub addresses: BTreeSet<IpAddr>,
}

/// The addresses by which the cluster knows a Node.
pub fn machine(node: &KubeNode) -> Option<Machine> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let internal = addresses.filter(|address| address.type_ == "InternalIP").filter_map(|address| address.address.parse().ok());
    Some(Machine { addresses: internal.collect() })
}

fn pairs(addresses: &BTreeSet<IpAddr>) -> Vec<AddressPair> {
    addresses.iter().map(|address| AddressPair { ip_address: address.to_string() }).collect()
}

fn has_pairs(port: &Port, addresses: &BTreeSet<IpAddr>) -> bool {
    let there: Option<BTreeSet<IpAddr>> = port.allowed_address_pairs.iter().map(AddressPair::address).collect();
    there.as_ref() == Some(addresses)
}

/// See the module.
pub struct Machines {
    neutron: Neutron,
    keys: Keys,
    topology: watch::Receiver<Arc<Topology>>,
    reporter: Reporter,
    hosts: Vec<Host>,
    nodes: Mirror<Machine>,
    watch: BoxStream<'static, Event<KubeNode>>,
    ports: HashMap<Name, Port>,
    queue: Queue<Name>,
    resync: Interval,
    is_listed: bool,
}

impl Machines {
    pub fn new(
        client: Client,
        neutron: Neutron,
        config: &Config,
        topology: watch::Receiver<Arc<Topology>>,
        reporter: Reporter,
    ) -> Machines {
        let mut resync = tokio::time::interval_at(Instant::now() + config.resync(), config.resync());
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Machines {
            neutron,
            keys: Keys::new(&config.cluster),
            topology,
            reporter,
            hosts: config.hosts.clone(),
            nodes: Mirror::new(),
            watch: watch(Api::all(client), watcher::Config::default(), "nodes"),
            ports: HashMap::new(),
            queue: Queue::new(),
            resync,
            is_listed: false,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        loop {
            let due = self.queue.next_due().filter(|_| self.is_listed);
            tokio::select! {
                Some(event) = self.watch.next() => {
                    for change in self.nodes.apply(event, machine) {
                        self.queue.push_fresh(change.name, Instant::now());
                    }
                }
                () = until(due) => self.work().await,
                _ = self.resync.tick(), if self.is_listed => self.list().await,
                () = ready(()), if !self.is_listed && self.nodes.is_complete() => self.list().await,
            }
        }
    }

    /// All machines that should have a port, without the addresses that they must not have.
    fn machines(&self) -> BTreeMap<Name, Machine> {
        let hosts = self.hosts.iter().map(|host| (host.name.clone(), Machine { addresses: host.addresses.iter().copied().collect() }));
        let nodes = self.nodes.iter().map(|(name, machine)| (name.clone(), machine.clone()));
        let mut machines: BTreeMap<Name, Machine> = hosts.chain(nodes).collect();
        let topology = self.topology.borrow();
        for machine in machines.values_mut() {
            machine.addresses.retain(|address| topology.plan.collision(*address).is_none());
        }
        machines
    }

    async fn list(&mut self) {
        let network = self.topology.borrow().pod_network;
        match self.neutron.ports_of_owner(network, OWNER).await {
            Ok(ports) => {
                self.ports = ports.into_iter().map(|port| (port.device_id.clone(), port)).collect();
                self.is_listed = true;
                let names: BTreeSet<Name> = self.ports.keys().cloned().chain(self.machines().into_keys()).collect();
                names.into_iter().for_each(|name| self.queue.push(name, Instant::now()));
            }
            Err(error) => {
                warn!(%error, advice = error.advice(), "cannot list the nodes' ports; trying again");
                if self.is_listed {
                    self.resync.reset_immediately();
                }
                tokio::time::sleep(LIST_RETRY).await;
            }
        }
    }

    async fn work(&mut self) {
        let Some(name) = self.queue.pop(Instant::now()) else { return };
        match self.ensure(&name).await {
            Ok(()) => self.queue.done(&name),
            Err(error) => {
                warn!(node = name, %error, advice = error.advice(), "a node's port is not as it should be; trying again");
                self.queue.failed(&name, Instant::now());
                let note = format!(
                    "the node has no usable port on the pod network: pods and the node do not reach each other; {}; {error}",
                    error.advice()
                );
                self.report(&name, note);
            }
        }
    }

    async fn ensure(&mut self, name: &str) -> Result<(), ApiError> {
        self.report_collisions(name);
        match (self.machines().remove(name), self.ports.get(name)) {
            (Some(machine), None) => {
                let port = self.neutron.create_port(self.keys.node(name), &self.new_port(name, &machine)).await?;
                info!(node = name, port = %port.id, "a node has its port");
                self.ports.insert(name.to_owned(), port);
            }
            (Some(machine), Some(port)) if !has_pairs(port, &machine.addresses) => {
                let port = self.neutron.set_address_pairs(port.id, &pairs(&machine.addresses)).await?;
                self.ports.insert(name.to_owned(), port);
            }
            (Some(_), Some(_)) => {}
            (None, Some(port)) => {
                self.neutron.delete_port(port.id).await?;
                info!(node = name, "freed the port of a node that is gone");
                self.ports.remove(name);
            }
            // A create whose answer was lost may have left one.
            (None, None) => self.neutron.delete_port(self.keys.node(name)).await?,
        }
        Ok(())
    }

    fn new_port(&self, name: &str, machine: &Machine) -> NewPort {
        let topology = self.topology.borrow();
        NewPort {
            network_id: topology.pod_network,
            name: name.to_owned(),
            device_owner: OWNER,
            device_id: name.to_owned(),
            host: name.to_owned(),
            security_groups: vec![topology.group],
            allowed_address_pairs: pairs(&machine.addresses),
            place: None,
            project_id: self.neutron.project().map(str::to_owned),
        }
    }

    fn report_collisions(&self, name: &str) {
        let Some(machine) = self.nodes.get(name) else { return };
        for address in &machine.addresses {
            if let Some(range) = self.topology.borrow().plan.collision(*address) {
                self.report(name, format!(
                    "the node's address {address} lies in {range}, which belongs to the cluster's own networks: pods do not reach the node at it; \
                     give the node another address or change the range (network.pods, network.services of `ladon kube`)"
                ));
            }
        }
    }

    fn report(&self, name: &str, note: String) {
        // Events about Nodes carry the name as uid: that is where kubelet's are, and where `kubectl describe` looks.
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        self.reporter.warn(Report { about, reason: "LadonNodeFailed", action: "EnsureNodePort", note });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;
    use uuid::Uuid;

    use crate::tests::by_hand::{Ladon, kubernetes, noted, refused, rests};

    #[tokio::test(start_paused = true)]
    async fn a_list_that_failed_is_tried_again_after_a_while() {
        let ((note, mut times), lists) = (noted(), Arc::new(AtomicUsize::new(0)));
        let ladon = Ladon::start(move |_| {
            note();
            let is_the_fourth = lists.fetch_add(1, Ordering::SeqCst) == 3;
            ready(if is_the_fourth { (200, json!({"ports": []}).to_string()) } else { refused() })
        });
        let machines =
            Machines::new(kubernetes(|_| ()), ladon.neutron.clone(), &ladon.config, ladon.topology.subscribe(), Reporter::kept().0);
        tokio::spawn(machines.run());
        let retry = LIST_RETRY.as_secs();
        let again = ladon.config.resync_secs - 3 * retry;
        assert_eq!(
            rests::<6>(&mut times).await,
            [retry, retry, retry, again, retry, retry],
            "at the start, and when it is looked at again"
        );
    }

    fn port(pairs: &[&str]) -> Port {
        Port {
            id: Uuid::nil(),
            device_id: "n1".into(),
            status: "ACTIVE".into(),
            host: Some("n1".into()),
            mac_address: None,
            fixed_ips: Vec::new(),
            allowed_address_pairs: pairs.iter().map(|pair| AddressPair { ip_address: (*pair).into() }).collect(),
        }
    }

    fn two_addresses() -> Machine {
        let node = json!({"status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.11"}, {"type": "InternalIP", "address": "2001:db8::11"},
            {"type": "Hostname", "address": "n1"}, {"type": "ExternalIP", "address": "198.51.100.1"},
        ]}});
        machine(&serde_json::from_value(node).unwrap()).unwrap()
    }

    #[test]
    fn a_machine_has_the_internal_addresses_of_its_node() {
        assert_eq!(two_addresses().addresses, ["192.0.2.11", "2001:db8::11"].map(|ip| ip.parse().unwrap()).into());
    }

    #[test]
    fn address_pairs_are_compared_as_addresses() {
        let addresses = two_addresses().addresses;
        assert!(has_pairs(&port(&["192.0.2.11/32", "2001:db8::11"]), &addresses));
        assert!(!has_pairs(&port(&["192.0.2.11"]), &addresses));
        assert!(!has_pairs(&port(&["192.0.2.11", "2001:db8::11", "192.0.2.0/24"]), &addresses));
    }
}
