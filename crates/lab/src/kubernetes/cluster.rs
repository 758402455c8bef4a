//! The control plane on one host, and the cluster's workers.
//!
//! etcd, kube-apiserver, controller manager and scheduler are ordinary processes of the host; who may do what is
//! decided by RBAC and client certificates, as in production. The controller manager allocates no pod ranges: addresses
//! are the network's business. Starting overlaps what can overlap, so that three workers and the control plane are up
//! about when the API server is.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::error::{LabError, Result};
use crate::host::Host;
use crate::kubernetes::api::Api;
use crate::kubernetes::images::{COREDNS, Images};
use crate::kubernetes::pki::Authority;
use crate::kubernetes::programs::Programs;
use crate::kubernetes::worker::Worker;
use crate::lab::Lab;
use crate::process::Process;
use crate::wait;

/// Where the API server listens.
pub(super) const PORT: u16 = 6443;
/// How long the API server may take to be ready on a busy machine.
const READY: Duration = Duration::from_secs(180);
/// How long a node may take to register after that.
const REGISTERED: Duration = Duration::from_secs(180);
/// The user that everything is allowed to.
pub(super) const ADMIN: &str = "admin";
/// Where every kubelet has the socket for device plugins, whatever it is told.
const KUBELET: &str = "/var/lib/kubelet";
/// The processes of the control plane.
const PARTS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The cluster's DNS, to be filled in.
const DNS: &str = include_str!("../../assets/coredns.yaml");

/// What a user of the lab may want to be different.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The IPv4 range of Services.
    pub services_v4: String,
    /// The IPv6 range of Services, at most 20 bits long.
    pub services_v6: String,
    /// The address of the DNS Service, told to kubelets.
    pub dns: String,
    /// Further arguments for kube-apiserver.
    pub apiserver_args: Vec<String>,
    /// Further arguments for kubelets.
    pub kubelet_args: Vec<String>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions {
            services_v4: "10.96.0.0/16".into(),
            services_v6: "fd00:96::/112".into(),
            dns: "10.96.0.10".into(),
            apiserver_args: Vec::new(),
            kubelet_args: Vec::new(),
        }
    }
}

/// A Kubernetes cluster on hosts of the lab.
pub struct Cluster {
    pub(super) host: Host,
    pub(super) dir: PathBuf,
    pub(super) programs: Programs,
    pub(super) options: ClusterOptions,
    api: Api,
    processes: Vec<Process>,
    workers: Vec<Worker>,
    images: Images,
}

impl Cluster {
    /// Start a control plane on `control` and a worker on each of `workers`, with the usual options. It returns when the API
    /// server is ready and every worker's kubelet is started; [`Cluster::wait_registered`] waits for the nodes.
    pub fn start(control: &Host, workers: &[Host], programs: &Programs, images: &Images) -> Result<Cluster> {
        Self::start_with(control, workers, programs, images, ClusterOptions::default())
    }

    /// As [`Cluster::start`], with options.
    pub fn start_with(control: &Host, workers: &[Host], programs: &Programs, images: &Images, options: ClusterOptions) -> Result<Cluster> {
        let mut cluster = Self::around(control, programs, images, options)?;
        if !Path::new(KUBELET).exists() {
            control.lab().record(|state| state.made.push(KUBELET.into()))?;
        }
        cluster.start_store_and_api()?;
        let started = cluster.start_runtimes(workers);
        cluster.wait_ready()?;
        cluster.start_controllers()?;
        for mut worker in started? {
            worker.start_kubelet(&cluster)?;
            cluster.workers.push(worker);
        }
        Ok(cluster)
    }

    fn around(control: &Host, programs: &Programs, images: &Images, options: ClusterOptions) -> Result<Cluster> {
        let dir = control.folder("kubernetes")?;
        let pki = dir.join("pki");
        let authority = Authority::open(&pki, "ca")?;
        let identity = authority.client(ADMIN, ADMIN, Some("system:masters"))?;
        let server = SocketAddr::new(IpAddr::V4(control.ipv4()), PORT);
        let api = Api::new(control.netns(), server, &authority.certificate(), &identity)?;
        let cluster = Cluster {
            host: control.clone(),
            dir,
            programs: programs.clone(),
            options,
            api,
            processes: Vec::new(),
            workers: Vec::new(),
            images: images.clone(),
        };
        cluster.kubeconfig(ADMIN, Some("system:masters"))?;
        Ok(cluster)
    }

    /// The cluster that a kept lab runs, with the workers among `workers`. Its options are taken to be the usual ones.
    pub fn adopt(lab: &Lab, control: &Host, workers: &[Host], programs: &Programs, images: &Images) -> Result<Cluster> {
        let mut cluster = Self::around(control, programs, images, ClusterOptions::default())?;
        for part in PARTS {
            let name = format!("{}-{part}", control.name());
            let process = lab.process(&name).ok_or_else(|| LabError::Unfit(format!("the lab has no process {name}")))?;
            cluster.processes.push(process);
        }
        for host in workers {
            cluster.workers.push(Worker::adopt(lab, host)?);
        }
        Ok(cluster)
    }

    fn start_runtimes(&self, hosts: &[Host]) -> Result<Vec<Worker>> {
        let images = &self.images;
        std::thread::scope(|scope| {
            let starting: Vec<_> = hosts.iter().map(|host| scope.spawn(move || Worker::start_runtime(host, images))).collect();
            starting.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    pub(super) fn spawn(&mut self, name: &str, command: &Command) -> Result<()> {
        let process = self.host.spawn(name, command)?;
        self.processes.push(process);
        Ok(())
    }

    /// Wait until the API server says that it is ready.
    pub fn wait_ready(&self) -> Result<()> {
        let server = self.process("kube-apiserver")?;
        server.wait_until("the API server to be ready", READY, || match self.api.get("/readyz") {
            Ok(response) if response.is_success() => Ok(Some(())),
            Ok(response) => Err(format!("status {}: {}", response.status, response.body)),
            Err(error) => Err(crate::error::chain(&error)),
        })
    }

    /// Wait until every worker is a Node. Without a network they are NotReady.
    pub fn wait_registered(&self) -> Result<()> {
        self.workers.iter().try_for_each(|worker| self.wait_node(worker, "registered", |_| true))
    }

    /// Wait until every worker is a Node that is Ready, which needs a CNI configuration.
    pub fn wait_nodes_ready(&self) -> Result<()> {
        self.workers.iter().try_for_each(|worker| self.wait_node(worker, "Ready", is_ready))
    }

    fn wait_node(&self, worker: &Worker, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let name = worker.name();
        let path = format!("/api/v1/nodes/{name}");
        worker.kubelet()?.wait_until(&format!("node {name} to be {what}"), REGISTERED, || {
            let node = self.api.get(&path).map_err(|error| crate::error::chain(&error))?;
            match holds(&node.json()) && node.is_success() {
                true => Ok(Some(())),
                false => Err(format!("{} {}", node.status, conditions(&node.json()))),
            }
        })
    }

    /// The control plane's host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The API server, as the administrator.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Its URL.
    pub fn server(&self) -> String {
        format!("https://{}:{PORT}", self.host.ipv4())
    }

    /// The certificate authority that signed the API server's certificate.
    pub fn authority(&self) -> PathBuf {
        self.dir.join("pki/ca.crt")
    }

    /// The options that it runs with.
    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// The workers, in the order in which they were added.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// The worker on the host of this name.
    pub fn worker(&self, name: &str) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.name() == name)
    }

    /// One of `etcd`, `kube-apiserver`, `kube-controller-manager` and `kube-scheduler`.
    pub fn process(&self, part: &str) -> Result<&Process> {
        let name = format!("{}-{part}", self.host.name());
        let found = self.processes.iter().find(|process| process.name() == name);
        found.ok_or_else(|| LabError::Unfit(format!("the control plane has no process {part}")))
    }

    /// Deploy CoreDNS as the cluster's DNS; [`Cluster::wait_dns_ready`] waits for it.
    pub fn deploy_dns(&self) -> Result<()> {
        self.apply(&DNS.replace("IMAGE", COREDNS).replace("ADDRESS", &self.options.dns)).map(drop)
    }

    /// Wait until the cluster's DNS is ready, which needs a network between pods and the API server.
    pub fn wait_dns_ready(&self, deadline: Duration) -> Result<()> {
        let path = "/apis/apps/v1/namespaces/kube-system/deployments/coredns";
        self.wait_for("the cluster's DNS to be ready", path, deadline, |dns| dns["status"]["readyReplicas"] == 1).map(drop)
    }

    /// Wait until `holds` is true of the object at an API path; the error shows its last status.
    pub fn wait_for(&self, what: &str, path: &str, deadline: Duration, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::until(what, deadline, || {
            let response = self.api.get(path).map_err(|error| crate::error::chain(&error))?;
            let object = response.json();
            match response.is_success() && holds(&object) {
                true => Ok(Some(object)),
                false => Err(format!("{} {}", response.status, object["status"])),
            }
        })
    }
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn conditions(node: &Value) -> String {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions.map(|one| format!("{}={} {}; ", one["type"], one["status"], one["message"])).collect()
}
