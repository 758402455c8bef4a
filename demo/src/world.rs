//! The demo's machines and what runs on them, brought up side by side.
//!
//! ```text
//! control  ladon server, ladon kube, etcd, kube-apiserver, …, switch, ladon node
//! n1 … n3  switch, ladon node, containerd, kubelet            n2 also: vm1 on a tap, plugged as Nova does
//! metal1   switch, ladon node; its own kernel on the network `vms`
//! ```
//!
//! Kubernetes and Ladon start at the same time and meet when both are there. The networks: `demo-pods` and `demo-services`, made
//! by `ladon kube`; `vms`, made here through the API; all on the cluster's router.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::kubernetes::{self, AGNHOST, Cluster, Images, Programs};
use lab::traffic::EchoServer;
use lab::vm::{self, Vm, VmImage};
use lab::{Host, Lab, Ovs, Progress, Underlay, wait};
use serde_json::{Value, json};

use crate::guest::Guest;
use crate::peer::{ECHO, FAMILIES, Peer};
use crate::{Api, Deployment, Tunnel, id};

/// Where everything lies unless told otherwise. Short: sockets lie below it.
pub const DIR: &str = "/var/lib/ladon-demo";
/// The interface that `ladon plug` makes on the bare-metal host, and the host's name.
pub const METAL: &str = "metal1";
/// The virtual machine, and the node that it is on.
const VM: &str = "vm1";
const VM_NODE: &str = "n2";
const VM_TAP: &str = "tap-vm1";
/// Kubernetes' nodes.
pub const WORKERS: [&str; 3] = ["n1", "n2", "n3"];
/// The cluster's DNS server, told to virtual machines by DHCP.
pub const DNS: &str = "10.96.0.10";
/// The pods that stay as they are.
pub const PODS: [&str; 6] = ["a", "b", "c", "guarded", "probed", "hook"];
/// How long everything may take to be ready once it was asked for.
const READY: Duration = Duration::from_secs(90);

/// The workloads.
const MANIFESTS: &str = include_str!("manifests.yaml");

/// Programs and images, made before the clock starts.
pub struct Parts {
    programs: Programs,
    images: Images,
    vm: VmImage,
}

impl Parts {
    /// What is built already costs a second.
    pub fn find(progress: &Progress) -> Result<Parts> {
        let programs = kubernetes::programs(None, progress)?;
        let images = kubernetes::images(&programs, None)?;
        let vm = vm::image(None, progress)?;
        Ok(Parts { programs, images, vm })
    }

    /// Where kubectl is.
    pub fn kubectl(&self) -> Result<&Path> {
        Ok(self.programs.path("kubectl")?)
    }
}

/// Where a demo lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub dir: PathBuf,
    /// Prefix of the network namespaces' names: the folder's name without `ladon-`.
    pub name: String,
}

impl Place {
    pub fn new(dir: impl Into<PathBuf>) -> Place {
        let dir = dir.into();
        let last = dir.file_name().unwrap_or_default().to_string_lossy();
        let name = last.strip_prefix("ladon-").unwrap_or(&last).to_string();
        Place { dir, name }
    }

    /// Refuses a folder after which no namespace can be called.
    pub fn check(&self) -> Result<()> {
        ensure!(
            lab::is_name(&self.name),
            "--dir {}: the demo's network namespaces are called after its folder, and \"{}\" is no such name: 1 to {} of a-z, 0-9 and -, without \
             `ladon-` before it; give another --dir, as in /tmp/ladon-mine",
            self.dir.display(),
            self.name,
            lab::NAME_MAX
        );
        Ok(())
    }
}

/// Everything that runs.
pub struct World {
    // Dropped in this order: what runs before what it runs on.
    pub guest: Arc<Guest>,
    pub vm_port: Value,
    pub metal_port: Value,
    pub cluster: Cluster,
    pub ladon: Deployment,
    pub ovs: BTreeMap<String, Ovs>,
    pub hosts: BTreeMap<String, Host>,
    pods: BTreeMap<String, Peer>,
    /// What metal1 serves.
    _echo: EchoServer,
    _underlay: Underlay,
    pub lab: Lab,
}

/// What the first half of the start has made.
struct Halves {
    cluster: Cluster,
    ladon: Deployment,
    guest: Guest,
    vm_port: Value,
}

impl World {
    /// Brings all of it up.
    pub fn start(place: &Place, parts: &Parts, progress: &Progress) -> Result<World> {
        let lab = Lab::new(&place.name, &place.dir)?;
        lab.keep_logs();
        let underlay = Underlay::new(&lab)?;
        let (hosts, ovs) = progress.during("five hosts, a switch on each", || machines(&underlay))?;
        let Halves { cluster, mut ladon, guest, vm_port } = halves(parts, &lab, &hosts, &ovs, progress)?;
        progress.during("ladon node on n1, n2, n3, and ladon kube", || {
            for name in WORKERS {
                ladon.add_node(&hosts[name], &ovs[name], cluster.worker(name))?;
            }
            ladon.start_kube(&cluster)
        })?;
        let metal_port = join_networks(&cluster, &ladon, progress).with_context(|| ladon.logs())?;
        let guest = Arc::new(guest);
        let echo = EchoServer::start(hosts[METAL].netns(), ECHO)?;
        let pods = BTreeMap::new();
        let mut world = World { guest, vm_port, metal_port, cluster, ladon, ovs, hosts, pods, _echo: echo, _underlay: underlay, lab };
        if let Err(error) = world.wait_ready(progress) {
            let seen = world.cluster.kubectl(&["get", "events,pods,nodes", "-A", "-o", "wide"]).unwrap_or_default();
            return Err(error.context(format!("{}\n{seen}", world.ladon.logs())));
        }
        Ok(world)
    }

    /// Until every workload is ready. What is not by then, the claims will tell.
    fn wait_ready(&mut self, progress: &Progress) -> Result<()> {
        let step = progress.step("pods, the cluster's DNS and vm1 are ready");
        let until = Instant::now() + READY;
        let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        self.cluster.wait_nodes_ready()?;
        for name in PODS {
            let path = format!("/api/v1/namespaces/default/pods/{name}");
            let pod = self.cluster.wait_for(&format!("pod {name} to be ready"), &path, left(), is_ready)?;
            self.pods.insert(name.into(), self.peer_of(&pod)?);
        }
        for name in ["web", "scaled", "rolled"] {
            let path = format!("/apis/apps/v1/namespaces/default/deployments/{name}");
            self.cluster
                .wait_for(&format!("deployment {name} to be ready"), &path, left(), |found| found["status"]["readyReplicas"] == 2)?;
        }
        self.cluster.wait_dns_ready(left())?;
        self.guest.vm().wait_booted()?;
        step.done();
        Ok(())
    }

    /// The first packet between two nodes makes their switches look for each other's MACs on the underlay, and may be lost: it is
    /// sent here.
    pub fn introduce(&self) {
        let all = [self.pod("a").clone(), self.guest(), self.pod("c").clone(), self.metal(), self.pod("guarded").clone()];
        thread::scope(|scope| {
            for from in &all {
                let others = all.iter().filter(|to| to.name != from.name);
                scope.spawn(move || {
                    // Whether they reach each other, the claims will tell.
                    others.for_each(|to| drop(FAMILIES.map(|family| from.reaches(to.ip(family)))));
                });
            }
        });
    }

    /// One of the pods that stay as they are.
    pub fn pod(&self, name: &str) -> &Peer {
        self.pods.get(name).expect("every pod of PODS is there once the world has started")
    }

    /// The bare-metal host, on the network.
    pub fn metal(&self) -> Peer {
        let (v4, v6) = addresses(&self.metal_port).expect("it was plugged with both addresses");
        Peer::machine(METAL, self.hosts[METAL].netns().clone(), v4, v6)
    }

    /// The virtual machine.
    pub fn guest(&self) -> Peer {
        let (v4, v6) = addresses(&self.vm_port).expect("it was made with both addresses");
        Peer::guest(self.guest.clone(), v4, v6)
    }

    /// A host's own processes, at its underlay addresses.
    pub fn machine(&self, name: &str) -> Peer {
        let host = &self.hosts[name];
        Peer::machine(name, host.netns().clone(), host.ipv4().into(), host.ipv6().into())
    }

    /// A running pod, by its object.
    pub fn peer_of(&self, pod: &Value) -> Result<Peer> {
        let text = |path: &str| pod.pointer(path).and_then(Value::as_str).with_context(|| format!("the pod has no {path}"));
        let (namespace, name, node) = (text("/metadata/namespace")?, text("/metadata/name")?, text("/spec/nodeName")?);
        let netns = self.cluster.worker(node).with_context(|| format!("{node} is a worker"))?.pod_netns(namespace, name)?;
        let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
        let ips: Vec<IpAddr> = ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect();
        let (v4, v6) = one_each(&ips).with_context(|| format!("pod {name} has not an address of each family: {ips:?}"))?;
        Ok(Peer::pod(name, netns, v4, v6))
    }

    /// The pods with a label `app`, as objects.
    pub fn pods_of(&self, app: &str) -> Result<Vec<Value>> {
        let list = self.cluster.api().get(&format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{app}"))?.json();
        Ok(list["items"].as_array().context("a list of pods has items")?.clone())
    }

    /// The Neutron port of a pod.
    pub fn port_of(&self, pod: &str) -> Result<Value> {
        let object = self.cluster.api().get(&format!("/api/v1/namespaces/default/pods/{pod}"))?.json();
        let uid = object["metadata"]["uid"].as_str().with_context(|| format!("pod {pod} has no uid"))?;
        let ports = self.api().list("port", &format!("device_id={uid}"))?;
        ports.into_iter().next().with_context(|| format!("pod {pod} has no port"))
    }

    pub fn api(&self) -> &Api {
        &self.ladon.api
    }

    /// Until everything that was changed so far is in force on every node.
    pub fn wait_in_force(&self) -> Result<()> {
        self.ladon.ladon(self.ladon.node("control").context("control runs a node")?, &["wait", "--timeout", "20"]).map(drop)
    }
}

fn machines(underlay: &Underlay) -> Result<(BTreeMap<String, Host>, BTreeMap<String, Ovs>)> {
    let mut hosts = BTreeMap::new();
    for (name, number) in [("control", 1), ("n1", 11), ("n2", 12), ("n3", 13), (METAL, 21)] {
        hosts.insert(name.to_string(), underlay.host(name, number)?);
    }
    let ovs = thread::scope(|scope| {
        let starting: Vec<_> = hosts.iter().map(|(name, host)| (name, scope.spawn(|| Ovs::start(host)))).collect();
        starting.into_iter().map(|(name, thread)| Ok((name.clone(), joined(thread)?))).collect::<Result<_>>()
    })?;
    Ok((hosts, ovs))
}

/// Kubernetes on one side; Ladon, the network of the virtual machine and the virtual machine on the other.
fn halves(parts: &Parts, lab: &Lab, hosts: &BTreeMap<String, Host>, ovs: &BTreeMap<String, Ovs>, progress: &Progress) -> Result<Halves> {
    let workers = WORKERS.map(|name| hosts[name].clone());
    thread::scope(|scope| {
        let cluster = scope.spawn(|| {
            let started = || Cluster::start(&hosts["control"], &workers, &parts.programs, &parts.images);
            progress.during("Kubernetes: the control plane, three containerds and kubelets", started)
        });
        let ladon = scope.spawn(|| {
            let ladon = progress.during("ladon server; ladon node on control and metal1", || {
                let mut ladon = Deployment::start(lab, &hosts["control"], Tunnel::default())?;
                ladon.add_node(&hosts["control"], &ovs["control"], None)?;
                ladon.add_node(&hosts[METAL], &ovs[METAL], None)?;
                anyhow::Ok(ladon)
            })?;
            let (guest, vm_port) =
                progress.during("vm1: a port by the openstack client, a tap, QEMU", || machine(&ladon, parts, hosts, ovs))?;
            anyhow::Ok((ladon, guest, vm_port))
        });
        let (ladon, cluster) = (joined(ladon), joined(cluster));
        let ((ladon, guest, vm_port), cluster) = (ladon?, cluster?);
        Ok(Halves { cluster, ladon, guest, vm_port })
    })
}

/// The network `vms`, a port on it, and the machine behind it. It boots while others start.
fn machine(ladon: &Deployment, parts: &Parts, hosts: &BTreeMap<String, Host>, ovs: &BTreeMap<String, Ovs>) -> Result<(Guest, Value)> {
    let api = &ladon.api;
    let network = api.create("network", json!({"name": "vms"}))?;
    let v4 = json!({"network_id": id(&network), "name": "vms-v4", "ip_version": 4, "cidr": "10.70.0.0/24", "dns_nameservers": [DNS]});
    let v6 = json!({"network_id": id(&network), "name": "vms-v6", "ip_version": 6, "cidr": "fd00:70::/64",
        "gateway_ip": "fd00:70::1", "ipv6_address_mode": "slaac", "ipv6_ra_mode": "slaac"});
    api.create("subnet", v4)?;
    api.create("subnet", v6)?;
    let group = api.create("security_group", json!({"name": "vms"}))?;
    for ethertype in ["IPv4", "IPv6"] {
        let rule = json!({"security_group_id": id(&group), "direction": "ingress", "ethertype": ethertype});
        api.create("security_group_rule", rule)?;
    }
    let made = openstack(&hosts["control"], &["port", "create", "--network", "vms", "--security-group", "vms", "-f", "json", VM])?;
    let made: Value = serde_json::from_str(&made).with_context(|| made.clone())?;
    let port = api.show("port", id(&made))?;
    let mac = port["mac_address"].as_str().context("a port has a MAC")?;
    let vm = Vm::start(&hosts[VM_NODE], &parts.vm, VM, VM_TAP, mac)?;
    ovs[VM_NODE].vsctl(&[
        "--may-exist",
        "add-br",
        "br-int",
        "--",
        "set",
        "Bridge",
        "br-int",
        "datapath_type=netdev",
        "fail_mode=secure",
        "other_config:disable-in-band=true",
    ])?;
    ovs[VM_NODE].plug_like_nova("br-int", VM_TAP, id(&port), mac, "8d1b1b2c-0000-4000-8000-00000000000a")?;
    Ok((Guest::new(vm), port))
}

/// OpenStack's own client on a host of the demo; what it printed.
pub fn openstack(host: &Host, words: &[&str]) -> Result<String> {
    let mut command = host.command("openstack");
    command.args(["--os-auth-type", "none", "--os-endpoint", "http://127.0.0.1:9696"]).args(words);
    Ok(host.run(&mut command, Duration::from_secs(60))?.ok()?)
}

/// Workloads are asked for, the network of the virtual machine joins the cluster's router, and the bare-metal host the network.
fn join_networks(cluster: &Cluster, ladon: &Deployment, progress: &Progress) -> Result<Value> {
    thread::scope(|scope| {
        let pods = scope.spawn(|| progress.during("workloads asked for", || ask_for_workloads(cluster)));
        let networks = scope.spawn(|| {
            progress.during("vms on the cluster's router; ladon plug on metal1", || {
                attach(ladon)?;
                plug_metal(ladon)
            })
        });
        let (pods, networks) = (joined(pods), joined(networks));
        pods?;
        networks
    })
}

fn ask_for_workloads(cluster: &Cluster) -> Result<()> {
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    cluster.wait_for("the account that pods run with", account, READY, |_| true)?;
    let hook = rcgen::generate_simple_self_signed(["hook.default.svc".to_string()]).context("a certificate for the webhook")?;
    let manifests = MANIFESTS
        .replace("IMAGE", AGNHOST)
        .replace("CERTIFICATE", &base64(hook.cert.pem().as_bytes()))
        .replace("KEY", &base64(hook.signing_key.serialize_pem().as_bytes()));
    cluster.apply(&manifests)?;
    cluster.deploy_dns()?;
    Ok(())
}

fn attach(ladon: &Deployment) -> Result<()> {
    let what = "the cluster's router, which `ladon kube` makes";
    let router = wait::until(what, READY, || match ladon.api.list("router", "name=demo-router") {
        Ok(routers) => Ok(routers.into_iter().next()),
        Err(error) => Err(format!("{error:#}")),
    })?;
    for name in ["vms-v4", "vms-v6"] {
        let subnets = ladon.api.list("subnet", &format!("name={name}"))?;
        let subnet = subnets.first().with_context(|| format!("subnet {name} is there"))?;
        ladon.api.put(&format!("/v2.0/routers/{}/add_router_interface", id(&router)), json!({"subnet_id": id(subnet)}))?;
    }
    Ok(())
}

fn plug_metal(ladon: &Deployment) -> Result<Value> {
    let node = ladon.node(METAL).context("metal1 runs a node")?;
    let plugged = ladon.ladon(node, &["plug", "--network", "vms", "--name", METAL, "--security-group", "vms"])?;
    ladon.api.show("port", plugged["port"].as_str().context("`ladon plug` says which port it made")?)
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The IPv4 and the IPv6 address of a Neutron port.
pub fn addresses(port: &Value) -> Result<(IpAddr, IpAddr)> {
    let fixed = port["fixed_ips"].as_array().context("a port has fixed_ips")?;
    let ips: Vec<IpAddr> = fixed.iter().filter_map(|fixed| fixed["ip_address"].as_str()?.parse().ok()).collect();
    one_each(&ips).with_context(|| format!("the port has not an address of each family: {port}"))
}

fn one_each(ips: &[IpAddr]) -> Option<(IpAddr, IpAddr)> {
    let of = |is_v6: bool| ips.iter().copied().find(|ip| ip.is_ipv6() == is_v6);
    of(false).zip(of(true))
}

fn joined<T, E: Into<anyhow::Error>>(thread: thread::ScopedJoinHandle<'_, Result<T, E>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(Into::into)
}

/// Base 64 (RFC 4648), as Kubernetes' Secrets have it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..4).map(|i| if i <= chunk.len() { LETTERS[(bits >> (18 - 6 * i) & 63) as usize] as char } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// True if a demo, or what is left of one, lies there. A folder with something else in it is none of ours.
pub fn is_there(place: &Place) -> Result<bool> {
    let is_ours = place.dir.join(lab::RECORD).exists();
    let is_something = || fs::read_dir(&place.dir).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(
        is_ours || !is_something(),
        "{0} is not empty and has no {1}, so it is no demo's folder, and nothing was touched; if what is in it is left of a demo, take it away \
         (`rm -r {0}`), else give another --dir",
        place.dir.display(),
        lab::RECORD
    );
    Ok(is_ours)
}

/// Takes away whatever an earlier demo left, if there is any; true if there was.
pub fn take_down(place: &Place) -> Result<bool> {
    if !is_there(place)? {
        return Ok(false);
    }
    Lab::take_down(&place.dir)?;
    remove_namespaces(&place.name)?;
    // A lab leaves what it does not know: the short commands.
    let _ = fs::remove_dir_all(&place.dir);
    Ok(true)
}

/// Namespaces of workloads that a killed demo did not take away.
fn remove_namespaces(name: &str) -> Result<()> {
    let prefix = format!("{name}-");
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    for name in names.filter(|name| name.starts_with(&prefix)) {
        lab::command::tool("ip", &["netns", "delete", &name])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_no_demos_is_left_alone() {
        let dir = std::env::temp_dir().join(format!("ladon-precious-{}", std::process::id()));
        assert!(!take_down(&Place::new(&dir)).unwrap(), "it is not there");
        fs::create_dir_all(dir.join("thesis")).unwrap();
        assert!(take_down(&Place::new(&dir)).unwrap_err().to_string().contains(&format!("(`rm -r {}`)", dir.display())));
        assert!(dir.join("thesis").exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_place_is_called_like_its_folder() {
        assert_eq!(Place::new(DIR).name, "demo");
        assert_eq!(Place::new("/tmp/t7").name, "t7");
        Place::new(DIR).check().unwrap();
        let refused = Place::new("/tmp/other-empty-14583").check().unwrap_err().to_string();
        assert!(refused.starts_with("--dir /tmp/other-empty-14583: ") && refused.contains("1 to 12"), "{refused}");
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
