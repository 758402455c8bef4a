//! A worker: containerd and kubelet on one host.
//!
//! The settings are those under which both run in a network namespace, on cgroup v1 or v2, and next to other nodes of
//! the same machine: folders, sockets and pods' namespaces of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::command::{self, TOOL};
use crate::error::{Doing, LabError, Result};
use crate::host::Host;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::images::{Images, PAUSE};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Process;
use crate::state::{make_dir, write_whole};

/// How long containerd may take to answer.
const READY: Duration = Duration::from_secs(120);
/// Where containerd keeps Kubernetes' containers apart.
const NAMESPACE: &str = "k8s.io";
/// Where Debian puts CNI plugins; every node gets the plugin `loopback` from it, which containerd needs for each pod.
const LOOPBACK: &str = "/usr/lib/cni/loopback";

/// A node of the cluster.
pub struct Worker {
    host: Host,
    dir: PathBuf,
    kubelet: Option<Process>,
    containerd: Process,
}

impl Worker {
    pub(super) fn start_runtime(host: &Host, images: &Images) -> Result<Worker> {
        let dir = host.dir();
        for folder in ["cni/bin", "cni/conf", "kubelet", "pods"] {
            make_dir(&dir.join(folder))?;
        }
        fs::copy(LOOPBACK, dir.join("cni/bin/loopback"))
            .doing(|| format!("copying {LOOPBACK}, of the package containernetworking-plugins"))?;
        let config = dir.join("containerd.toml");
        write_whole(&config, containerd_config(&dir).as_bytes())?;
        let containerd = host.spawn_named("containerd", Command::new("containerd").arg("-c").arg(&config))?;
        let worker = Worker { host: host.clone(), dir, kubelet: None, containerd };
        worker.containerd.wait_until(&format!("containerd on {} to answer", host.name()), READY, || {
            if !worker.containerd_sock().exists() {
                return Ok(None);
            }
            worker.ctr(&["version"]).map(Some).map_err(|error| error.to_string())
        })?;
        for archive in images.archives() {
            worker.import(archive)?;
        }
        Ok(worker)
    }

    pub(super) fn start_kubelet(&mut self, cluster: &Cluster) -> Result<()> {
        let (host, dir) = (&self.host, &self.dir);
        let user = format!("system:node:{}", host.name());
        let kubeconfig = cluster.kubeconfig(&user, Some("system:nodes"))?;
        let config = dir.join("kubelet.json");
        write_whole(&config, self.kubelet_config(cluster).to_string().as_bytes())?;
        let mut command = Command::new(cluster.programs.path("kubelet")?);
        command.args([
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--root-dir={}", dir.join("kubelet").display()),
            format!("--cert-dir={}", dir.join("kubelet/pki").display()),
            format!("--hostname-override={}", host.name()),
            format!("--node-ip={},{}", host.ipv4(), host.ipv6()),
            "--v=2".into(),
        ]);
        command.args(&cluster.options.kubelet_args);
        self.kubelet = Some(host.spawn_named("kubelet", &command)?);
        Ok(())
    }

    pub(super) fn adopt(lab: &Lab, host: &Host) -> Result<Worker> {
        let part = |name: &str| {
            let name = format!("{}-{name}", host.name());
            lab.process(&name).ok_or_else(|| LabError::Unfit(format!("the lab has no process {name}")))
        };
        Ok(Worker { host: host.clone(), dir: host.dir(), kubelet: Some(part("kubelet")?), containerd: part("containerd")? })
    }

    fn kubelet_config(&self, cluster: &Cluster) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": format!("unix://{}", self.containerd_sock().display()),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": "/",
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "failSwapOn": false,
            "failCgroupV1": false,
            "makeIPTablesUtilChains": false,
            "clusterDNS": [cluster.options.dns],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "podLogsDir": self.dir.join("pods"),
            "maxPods": 200,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        })
    }

    /// The node's name, which is its host's.
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where CNI plugins are looked for.
    pub fn cni_bin(&self) -> PathBuf {
        self.dir.join("cni/bin")
    }

    /// Where CNI configurations are looked for.
    pub fn cni_conf(&self) -> PathBuf {
        self.dir.join("cni/conf")
    }

    /// containerd's socket.
    pub fn containerd_sock(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// The container runtime.
    pub fn containerd(&self) -> &Process {
        &self.containerd
    }

    /// The kubelet.
    pub fn kubelet(&self) -> Result<&Process> {
        self.kubelet.as_ref().ok_or_else(|| LabError::Unfit(format!("kubelet on {} was not started", self.name())))
    }

    /// Run containerd's own client against this node.
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.containerd_sock()).args(["-n", NAMESPACE]).args(args);
        command::run(&mut command, TOOL)?.ok()
    }

    /// Give the node an image.
    pub fn import(&self, archive: &Path) -> Result<()> {
        self.ctr(&["images", "import", &archive.to_string_lossy()]).map(drop)
    }

    /// The network namespace of a pod that runs here.
    pub fn pod_netns(&self, namespace: &str, pod: &str) -> Result<Netns> {
        let tasks = self.dir.join("run/io.containerd.runtime.v2.task").join(NAMESPACE);
        let bundles = fs::read_dir(&tasks).doing(|| format!("reading {}", tasks.display()))?;
        let configs = bundles.flatten().filter_map(|bundle| fs::read(bundle.path().join("config.json")).ok());
        let mut configs = configs.filter_map(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let path = configs.find_map(|config| sandbox_netns(&config, namespace, pod));
        path.map(Netns::at).ok_or_else(|| LabError::Unfit(format!("no pod {namespace}/{pod} runs on {}", self.name())))
    }
}

fn sandbox_netns(config: &Value, namespace: &str, pod: &str) -> Option<String> {
    let said = |name: &str| config["annotations"][format!("io.kubernetes.cri.{name}")].as_str().unwrap_or_default();
    let is_it = said("container-type") == "sandbox" && said("sandbox-namespace") == namespace && said("sandbox-name") == pod;
    let spaces = config["linux"]["namespaces"].as_array()?;
    let network = spaces.iter().find(|space| space["type"] == "network")?;
    is_it.then(|| network["path"].as_str().map(str::to_owned)).flatten()
}

/// Everything of this containerd, the pods' network namespaces included, lies below the node's folder.
fn containerd_config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/containerd"
state = "{dir}/run"
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{dir}/cni/bin"
    conf_dir = "{dir}/cni/conf"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "{dir}/run/runc"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_namespace_is_its_sandboxs() {
        let config = json!({
            "annotations": {
                "io.kubernetes.cri.container-type": "sandbox",
                "io.kubernetes.cri.sandbox-namespace": "default",
                "io.kubernetes.cri.sandbox-name": "web",
            },
            "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/x"}]},
        });
        assert_eq!(sandbox_netns(&config, "default", "web").as_deref(), Some("/x"));
        assert_eq!(sandbox_netns(&config, "default", "db"), None);
    }
}
