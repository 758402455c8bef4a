//! Kubernetes' own traffic: the API server, kubelets, probes, webhooks, node processes; and what is not there, kube-proxy.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::command;
use serde_json::json;

use super::security::{self, Gate};
use super::{Claim, Lane};
use crate::peer::{FAMILIES, POD_HTTP, Peer, milliseconds};
use crate::world::{WORKERS, World};

/// Where the API server is for pods.
const API: &str = "10.96.0.1";
/// kubelets' port.
const KUBELET: u16 = 10_250;
/// Probes that have to pass while nothing else is let in.
const PROBES: usize = 4;

pub fn lane() -> Lane {
    let mut claims = vec![Claim::new("a pod reaches the API server at 10.96.0.1", |world| {
        let started = Instant::now();
        let said = https(world.pod("a"), &format!("https://{API}/version"))?;
        let version: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let version = version["gitVersion"].as_str().with_context(|| said.clone())?;
        Ok(format!("Kubernetes {version} answers in {}", milliseconds(started)))
    })];
    for family in FAMILIES {
        claims.push(Claim::new(format!("a pod reaches another node's kubelet over {family}"), move |world| {
            let kubelet = world.machine("n3").ip(family);
            let started = Instant::now();
            let said = https(world.pod("a"), &format!("https://{}/healthz", at(kubelet, KUBELET)))?;
            ensure!(said.trim() == "ok", "{said}");
            Ok(format!("pod a on n1 -> {kubelet} says ok in {}", milliseconds(started)))
        }));
        claims.push(Claim::new(format!("a node's own process reaches a pod of another node over {family}"), move |world| {
            let (node, pod) = (world.machine("n2"), world.pod("c"));
            Ok(format!(
                "n2 -> c: ping {}, TCP {}, UDP {}",
                node.ping(pod.ip(family))?,
                node.asks_by_tcp(pod, family)?,
                node.asks_by_udp(pod, family)?
            ))
        }));
    }
    claims.push(Claim::new("the API server reaches a webhook's pod", webhook));
    claims.push(Claim::new("the API server reaches a kubelet, and it a pod: kubectl exec", |world| {
        let said = world.cluster.kubectl(&["exec", "c", "--", "/bin/hostname"])?;
        ensure!(said.trim() == "c", "{said}");
        Ok("`hostname` in c says c".into())
    }));
    claims.push(Claim::new("there is no kube-proxy, and no node has a rule of netfilter", no_proxy));
    claims.push(Claim::new("every node is connected and up to date, says `ladon nodes`", nodes_up_to_date));
    claims
}

/// Its pods are closed and asked often: it takes a while.
pub fn guarded() -> Lane {
    let sentence = "kubelet's probes pass under a security group that lets nothing else in";
    vec![Claim::new(sentence, probes).within(Duration::from_secs(45))]
}

fn at(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

fn https(from: &Peer, url: &str) -> Result<String> {
    Ok(from.netns()?.tool("curl", &["--silent", "--show-error", "--insecure", "--max-time", "5", url])?)
}

fn webhook(world: &World) -> Result<String> {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "asked", "labels": {"guarded": "yes"}}});
    let started = Instant::now();
    let answer = world.cluster.api().post("/api/v1/namespaces/default/configmaps", &object)?;
    let said = answer.json()["message"].as_str().unwrap_or_default().to_string();
    ensure!(answer.status == 400 || answer.status == 403, "status {}: {said}", answer.status);
    ensure!(said.contains("hook.ladon.test") && said.contains("denied the request"), "{said}");
    Ok(format!("the pod denied a ConfigMap in {}", milliseconds(started)))
}

/// agnhost logs every page that it was asked for, and nobody but the kubelet can ask here.
fn probes(world: &World) -> Result<String> {
    // What happened while everything came up at once is not this claim's.
    let restarts = probed_container(world)?["restartCount"].clone();
    let gate = Gate::new(world, "probed-gate")?;
    gate.put_on(world, "probed")?;
    let (stranger, pod) = (world.pod("a"), world.pod("probed"));
    for family in FAMILIES {
        security::is_shut(stranger, (pod.ip(family), POD_HTTP).into())?;
    }
    let before = probes_seen(world)?;
    lab::wait::until("kubelet's probes", Duration::from_secs(20), || match probes_seen(world) {
        Ok(now) if now >= before + PROBES => Ok(Some(())),
        Ok(now) => Err(format!("{} probes", now.saturating_sub(before))),
        Err(error) => Err(format!("{error:#}")),
    })?;
    let status = probed_container(world)?;
    ensure!(status["ready"] == true && status["restartCount"] == restarts, "{status}");
    for family in FAMILIES {
        security::is_shut(stranger, (pod.ip(family), POD_HTTP).into())?;
    }
    Ok(format!("{PROBES} more probes answered, the pod is ready and was not restarted; pod a gets silence over IPv4 and IPv6"))
}

fn probed_container(world: &World) -> Result<serde_json::Value> {
    let object = world.cluster.api().get("/api/v1/namespaces/default/pods/probed")?.json();
    Ok(object["status"]["containerStatuses"][0].clone())
}

fn probes_seen(world: &World) -> Result<usize> {
    Ok(world.cluster.kubectl(&["logs", "probed"])?.lines().filter(|line| line.contains("hostname")).count())
}

fn no_proxy(world: &World) -> Result<String> {
    // By the program's name: command lines, this one too, hold what people wrote.
    let programs = command::tool("ps", &["-eo", "comm"])?;
    ensure!(!programs.lines().any(|program| program.trim() == "kube-proxy"), "a kube-proxy runs");
    let mut rules = 0;
    for name in WORKERS {
        let host = &world.hosts[name];
        for table in ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"] {
            rules += host.tool("cat", &[table]).unwrap_or_default().lines().count();
        }
        if let Ok(ruleset) = host.tool("nft", &["list", "ruleset"]) {
            rules += ruleset.lines().count();
        }
    }
    ensure!(rules == 0, "{rules} lines of netfilter's tables");
    Ok("0 kube-proxies, 0 tables on n1, n2, n3".into())
}

fn nodes_up_to_date(world: &World) -> Result<String> {
    let control = world.ladon.node("control").context("control runs a node")?;
    world.wait_in_force()?;
    let document = world.ladon.ladon(control, &["nodes"])?;
    let nodes = document["nodes"].as_array().context("`ladon nodes` lists nodes")?;
    let good = nodes.iter().filter(|node| node["is_connected"] == true);
    if nodes.len() != 5 || good.count() != 5 {
        bail!("{document}");
    }
    Ok(format!("5 nodes, revision {} in force", document["revision"]))
}
