//! What a user would have without Ladon: Debian's `bridge` and `host-local` plugins, routes between the nodes, and kube-proxy.
//!
//! A node's pods are a subnet of its own, its bridge their gateway; the other nodes have a route to it. Services are kube-proxy's in
//! its nftables mode.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::kubernetes::{Cluster, Worker};
use lab::{Host, Process};
use serde_json::{Value, json};

/// Debian's plugins.
pub const PLUGINS: &str = "/usr/lib/cni";
/// All pods.
const PODS: &str = "10.244.0.0/16,fd00:244::/48";

/// The subnets of node number `node`: IPv4 and IPv6.
fn subnets(node: u8) -> [String; 2] {
    [format!("10.244.{node}.0/24"), format!("fd00:244:0:{node}::/64")]
}

/// The plugin `bridge` with `host-local`, dual-stack, keeping its addresses in `dir`.
pub fn plugin(node: u8, dir: &Path) -> Value {
    let [v4, v6] = subnets(node);
    json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
        "ipam": {
            "type": "host-local", "dataDir": dir.join("host-local"),
            "ranges": [[{"subnet": v4}], [{"subnet": v6}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    })
}

/// Makes the workers' pods reach each other and, from the control plane's host, be reached.
pub fn start(cluster: &Cluster, kube_proxy: &Path) -> Result<Vec<Process>> {
    let mut proxies = Vec::new();
    for worker in cluster.workers() {
        let everybody = cluster.workers().iter().map(Worker::host).chain([cluster.host()]);
        everybody.filter(|host| host.name() != worker.name()).try_for_each(|host| route(host, worker.host()))?;
        proxies.push(proxy(cluster, worker, kube_proxy)?);
        install(worker)?;
    }
    Ok(proxies)
}

fn route(on: &Host, to: &Host) -> Result<()> {
    let [v4, v6] = subnets(to.number());
    on.netns().ip(&[format!("route replace {v4} via {}", to.ipv4()), format!("route replace {v6} via {}", to.ipv6())])?;
    Ok(())
}

fn proxy(cluster: &Cluster, worker: &Worker, kube_proxy: &Path) -> Result<Process> {
    let mut command = Command::new(kube_proxy);
    command.arg("--kubeconfig").arg(cluster.admin_kubeconfig()).args(["--proxy-mode", "nftables", "--hostname-override", worker.name()]);
    command.args(["--cluster-cidr", PODS, "--conntrack-max-per-core", "0"]);
    command.args(["--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0"]);
    let process = worker.host().spawn("kube-proxy", &command)?;
    let netns = worker.host().netns();
    process.wait_until("kube-proxy's tables", Duration::from_secs(30), || match netns.tool("nft", &["list", "tables"]) {
        Ok(tables) if tables.contains("kube-proxy") => Ok(Some(())),
        Ok(tables) => Err(tables),
        Err(error) => Err(error.to_string()),
    })?;
    Ok(process)
}

/// The configuration comes last: with it the node is ready.
fn install(worker: &Worker) -> Result<()> {
    for name in ["bridge", "host-local"] {
        let from = Path::new(PLUGINS).join(name);
        fs::copy(&from, worker.cni_bin().join(name)).with_context(|| format!("copying {}", from.display()))?;
    }
    let plugins = [plugin(worker.host().number(), &worker.host().dir())];
    let list = json!({"cniVersion": "1.0.0", "name": "peer", "plugins": plugins});
    fs::write(worker.cni_conf().join("10-peer.conflist"), list.to_string())?;
    Ok(())
}
