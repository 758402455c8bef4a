//! A pod without Kubernetes: a network namespace that `ladon-cni` plugs in as a container runtime has it do.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Host, Netns};
use serde_json::{Value, json};

use crate::{Deployment, NodeParts, id};

/// Longest time that the plugin may take.
const PLUGIN: Duration = Duration::from_secs(60);

/// A plugged namespace. Dropping it takes the namespace away; [`Sandbox::delete`] tells the node.
pub struct Sandbox {
    host: Host,
    netns: Netns,
    name: String,
    full: String,
    plugin: String,
    config: String,
    pub port: Value,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

impl Sandbox {
    /// Makes the port of a pod `name` on `network`, at home on `node`, and plugs a namespace in.
    pub fn add(ladon: &Deployment, node: &NodeParts, network: &Value, name: &str) -> Result<Sandbox> {
        let port = ladon.api.create("port", Sandbox::wanted(node, network, name))?;
        Sandbox::plug(ladon, node, name, port)
    }

    /// The port of a pod: what `ladon kube` asks for.
    pub fn wanted(node: &NodeParts, network: &Value, name: &str) -> Value {
        json!({"network_id": id(network), "name": name, "device_owner": "ladon:pod", "device_id": uid(name),
            "binding:host_id": node.host.name()})
    }

    /// Plugs a namespace in for a port that is there.
    pub fn plug(ladon: &Deployment, node: &NodeParts, name: &str, port: Value) -> Result<Sandbox> {
        let addresses = port["fixed_ips"].as_array().context("a port has fixed_ips")?;
        let addresses: Vec<IpAddr> = addresses.iter().filter_map(|fixed| fixed["ip_address"].as_str()?.parse().ok()).collect();
        let of = |is_v6: bool| addresses.iter().copied().find(|ip| ip.is_ipv6() == is_v6).context("a port has an address of each family");
        let (v4, v6) = (of(false)?, of(true)?);
        let host = node.host.clone();
        let full = format!("{}-{name}", host.namespace());
        host.tool("ip", &["netns", "add", &full])?;
        let config = json!({"cniVersion": "1.0.0", "name": "ladon", "type": "ladon-cni", "socket": node.run_dir.join("cni.sock")});
        let (netns, plugin) = (Netns::named(&full), ladon.plugin());
        let sandbox = Sandbox { host, netns, name: name.into(), full, plugin, config: config.to_string(), port, v4, v6 };
        match sandbox.call("ADD") {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                // As a runtime does after an ADD that failed; its own failure says nothing new.
                let _ = sandbox.delete();
                Err(error)
            }
        }
    }

    /// Has the plugin take the interface away, as a runtime does when the pod is gone. As often as wanted.
    pub fn delete(&self) -> Result<()> {
        self.call("DEL")
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its interface on the host: the other end of its `eth0`.
    pub fn host_device(&self) -> Result<String> {
        let links: Value = serde_json::from_str(&self.netns.tool("ip", &["-j", "link", "show", "eth0"])?)?;
        let peer = links[0]["link_index"].as_u64().context("eth0 has a peer")?;
        let all: Value = serde_json::from_str(&self.host.tool("ip", &["-j", "link", "show"])?)?;
        let found = all.as_array().into_iter().flatten().find(|link| link["ifindex"] == peer);
        Ok(found.and_then(|link| link["ifname"].as_str()).context("the host has eth0's peer")?.to_string())
    }

    fn call(&self, verb: &str) -> Result<()> {
        let mut command = self.host.command(&self.plugin);
        let args = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={0};K8S_POD_UID={1}", self.name, uid(&self.name));
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", uid(&self.name)).env("CNI_IFNAME", "eth0").env("CNI_ARGS", args);
        command.env("CNI_NETNS", self.netns.path()).env("CNI_PATH", "/opt/cni/bin");
        let output = lab::command::run_with_input(&mut command, &self.config, PLUGIN)?;
        if output.is_success() {
            return Ok(());
        }
        bail!("{verb} of {}: {} {}", self.name, output.stdout.trim(), output.stderr.trim())
    }
}

/// The pod's uid, which is also its container's.
fn uid(name: &str) -> String {
    format!("uid-{name}")
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let mut remove = Command::new("ip");
        remove.args(["netns", "delete", &self.full]);
        let _ = lab::command::run(&mut remove, Duration::from_secs(5));
    }
}
