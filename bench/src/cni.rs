//! The plugin's own time: from the start of `ladon-cni ADD` to its end, pods one after another on an idle node.
//!
//! The pods' ports are in the node's view before, as they are when a pod's sandbox takes its first steps; `ladon-cni` ends when the
//! pod's flows are in the switch. The peer is `bridge` with `host-local`, started the same way in the same host, in turns.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use demo::{Deployment, Tunnel, id};
use lab::{Host, Lab, Netns, Ovs, Progress, Underlay};
use serde_json::{Value, json};

use crate::Scale;
use crate::bridge::{self, PLUGINS};
use crate::figure::{Figure, Measured, Reach, Spread};
use crate::neutron::{self, POD};

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let count = scale.of(100, 5);
    let lab = Lab::scratch()?;
    let underlay = Underlay::new(&lab)?;
    let (control, node) = (underlay.host("control", 1)?, underlay.host("n1", 11)?);
    let ovs = Ovs::start(&node)?;
    let mut ladon = Deployment::start(&lab, &control, Tunnel::default())?;
    ladon.add_node(&node, &ovs, None)?;
    progress.during(format!("{count} ports"), || ports(&ladon, count))?;
    let ours = Plugin {
        program: Path::new(&ladon.program()).with_file_name("ladon-cni"),
        config: json!({"cniVersion": "1.0.0", "name": "ladon", "type": "ladon-cni", "socket": ladon.nodes[0].run_dir.join("cni.sock")}),
        host: node.clone(),
    };
    let mut config = bridge::plugin(node.number(), &node.dir());
    config["cniVersion"] = json!("1.0.0");
    config["name"] = json!("peer");
    let theirs = Plugin { program: Path::new(PLUGINS).join("bridge"), config, host: node.clone() };
    let [mut our_times, mut their_times] = [Vec::new(), Vec::new()];
    let mut pods = Vec::new();
    progress.during(format!("{count} pods by ladon-cni and {count} by bridge, in turns"), || {
        for number in 0..count {
            let (pod, took) = ours.add("l", number).with_context(|| ladon.logs())?;
            let (other_pod, other_took) = theirs.add("b", number)?;
            pods.extend([pod, other_pod]);
            our_times.push(took);
            their_times.push(other_took);
        }
        anyhow::Ok(())
    })?;
    let [ours, theirs] = [our_times, their_times].map(|times| Spread::of_times(&times));
    let how = format!(
        "{count} pods one by one, both families, on one node: the plugin's process from start to end, in a network namespace that is there already. \
         The ports were made before and are in the node's view; `ladon-cni` ends when the flows are in force in the switch, which `bridge` with `host-local` \
         has none of. Neither waits for Kubernetes."
    );
    let figure = |which: &str, of: fn(Spread) -> Measured, times: f64| {
        Figure::new(format!("CNI ADD, {count} pods one by one, {which}"), "ms", of(ours), Reach::AtMostOfPeer(times))
            .against("bridge + host-local", of(theirs))
            .how(how.clone())
            .if_short(WHY)
    };
    Ok(vec![figure("p50", Measured::p50, 1.0), figure("p99", Measured::p99, 1.5)])
}

/// Why it may take longer than the peer.
const WHY: &str = "the plugin ends when ovs-vswitchd has the interface and its flows: that takes it some 9 ms for a new interface, and `bridge` with \
                   `host-local` has nothing of it";

/// A port for every pod, in the node's view.
fn ports(ladon: &Deployment, count: usize) -> Result<()> {
    let api = &ladon.api;
    let network = api.create("network", json!({"name": "pods"}))?;
    api.create("subnet", neutron::subnet(id(&network), "10.8.0.0/16"))?;
    let v6 = json!({"network_id": id(&network), "ip_version": 6, "cidr": "fd00:8::/64", "gateway_ip": "fd00:8::1"});
    api.create("subnet", v6)?;
    for number in 0..count {
        let port = json!({"network_id": id(&network), "device_id": uid(number), "device_owner": POD, "binding:host_id": "n1"});
        api.create("port", port)?;
    }
    ladon.ladon(&ladon.nodes[0], &["wait", "--timeout", "60"]).map(drop)
}

/// The pod's, as Kubernetes would give it.
fn uid(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// A plugin with its configuration.
struct Plugin {
    program: PathBuf,
    config: Value,
    host: Host,
}

impl Plugin {
    /// Adds a new pod to the network: the pod, which must stay, and what the plugin took.
    fn add(&self, prefix: &str, number: usize) -> Result<(Pod, Duration)> {
        let pod = Pod::new(format!("{}-{prefix}{number}", self.host.namespace()))?;
        let mut command = self.command(Netns::named(&pod.0).path(), prefix, number);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        child.stdin.take().context("it was piped")?.write_all(self.config.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let took = started.elapsed();
        let said = || [&output.stdout[..], &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
        ensure!(output.status.success(), "{} says {}", self.program.display(), said());
        Ok((pod, took))
    }

    fn command(&self, netns: &Path, prefix: &str, number: usize) -> Command {
        let mut command = self.host.command(&self.program.to_string_lossy());
        command.env_clear().env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", format!("{prefix}{number:063}")).env("CNI_IFNAME", "eth0");
        command.env("CNI_NETNS", netns).env("CNI_PATH", PLUGINS).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let names = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME=p{number};K8S_POD_UID={}", uid(number));
        command.env("CNI_ARGS", format!("IgnoreUnknown=1;{names}"));
        command
    }
}

/// A pod's network namespace; gone when dropped.
struct Pod(String);

impl Pod {
    fn new(name: String) -> Result<Pod> {
        lab::command::tool("ip", &["netns", "add", &name])?;
        Ok(Pod(name))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = lab::command::tool("ip", &["netns", "delete", &self.0]);
    }
}
