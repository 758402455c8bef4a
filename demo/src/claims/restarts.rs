//! `kill -9` of every part while packets flow: none is lost, and everything converges.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::kubernetes::AGNHOST;
use lab::traffic::Pinging;
use lab::{Process, wait};
use serde_json::{Value, json};

use super::{Claim, Lane, services};
use crate::id;
use crate::peer::{FAMILIES, Peer};
use crate::world::{WORKERS, World};

/// Between two echo requests.
const INTERVAL: Duration = Duration::from_millis(10);
/// How long a killed part stays dead, and how long traffic is watched after everything has converged.
const DEAD: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(2);
/// Replicas that a Service is scaled to, to see new pods after the nodes' restart.
const REPLICAS: usize = 3;
/// How long everything may take to converge.
const CONVERGED: Duration = Duration::from_secs(30);

pub fn lane() -> Lane {
    let claim = |sentence: &str, measure: fn(&World) -> Result<String>| Claim::new(sentence, measure).within(Duration::from_secs(75));
    vec![
        claim("kill -9 of the server under ping at 10 ms loses no packet, and everything converges", server),
        claim("kill -9 of every ladon node under ping at 10 ms loses no packet, and everything converges", nodes),
        claim("kill -9 of ladon kube under ping at 10 ms loses no packet, and everything converges", kube),
        claim("kill -9 of every containerd under ping at 10 ms loses no packet, and new pods run", runtimes),
    ]
}

/// Pings between pods of two nodes, a pod and vm1, metal1 and a pod, a node and a pod, over both versions of IP.
struct Traffic {
    pings: Vec<(String, Pinging)>,
}

impl Traffic {
    fn start(world: &World) -> Result<Traffic> {
        let (a, c) = (world.pod("a"), world.pod("c"));
        let ways: [(Peer, Peer); 4] =
            [(a.clone(), c.clone()), (c.clone(), world.guest()), (world.metal(), a.clone()), (world.machine("n2"), c.clone())];
        let mut pings = Vec::new();
        for (from, to) in ways {
            for family in FAMILIES {
                let target: IpAddr = to.ip(family);
                pings.push((format!("{} -> {target}", from.name), Pinging::start(from.netns()?, target, INTERVAL)?));
            }
        }
        Ok(Traffic { pings })
    }

    fn stop(self) -> Result<String> {
        let (mut sent, mut lost, mut gap, mut lossy) = (0, 0, 0.0f64, Vec::new());
        for (way, pinging) in self.pings {
            let report = pinging.stop()?;
            sent += report.sent;
            lost += report.lost;
            gap = gap.max(report.longest_gap_ms);
            if report.lost > 0 {
                lossy.push(format!("{way}: {} of {}", report.lost, report.sent));
            }
        }
        ensure!(lost == 0, "{lost} of {sent} echo requests were lost ({}), the longest gap was {gap:.0} ms", lossy.join("; "));
        Ok(format!("0 of {sent} echo requests lost, the longest gap {gap:.0} ms"))
    }
}

/// Runs `kill` under traffic, with time for the damage to show.
fn under_traffic(world: &World, kill: impl FnOnce() -> Result<String>) -> Result<String> {
    let traffic = Traffic::start(world)?;
    let outcome = kill();
    thread::sleep(WATCHED);
    let measured = traffic.stop();
    let converged = outcome?;
    Ok(format!("{}; {converged}", measured?))
}

fn server(world: &World) -> Result<String> {
    under_traffic(world, || {
        world.ladon.server.kill9()?;
        thread::sleep(DEAD);
        let started = Instant::now();
        world.ladon.server.restart()?;
        world.ladon.wait_for_server()?;
        world.ladon.wait_connected()?;
        let network = world.api().create("network", json!({"name": "after-the-server"}))?;
        world.api().delete("network", id(&network))?;
        world.wait_in_force()?;
        Ok(format!("serving, five nodes in force {:.1} s after its start", started.elapsed().as_secs_f32()))
    })
}

fn nodes(world: &World) -> Result<String> {
    let measured = under_traffic(world, || {
        for node in &world.ladon.nodes {
            node.process.kill9()?;
        }
        thread::sleep(DEAD);
        let started = Instant::now();
        for node in &world.ladon.nodes {
            node.process.restart()?;
        }
        world.ladon.wait_connected()?;
        world.wait_in_force()?;
        Ok(format!("five nodes in force {:.1} s after their start", started.elapsed().as_secs_f32()))
    })?;
    Ok(format!("{measured}; {REPLICAS} replicas of a Service then answered over {}", services::scale(world, REPLICAS)?))
}

/// Killed under traffic; then once more, and a pod is made while nobody looks.
fn kube(world: &World) -> Result<String> {
    let kube = world.ladon.kube.as_ref().context("`ladon kube` runs")?;
    let measured = under_traffic(world, || {
        kube.kill9()?;
        thread::sleep(DEAD);
        let started = Instant::now();
        kube.restart()?;
        active(world, kube)?;
        Ok(format!("active {:.1} s after its start", started.elapsed().as_secs_f32()))
    })?;
    kube.kill9()?;
    let answer = world.cluster.api().post("/api/v1/namespaces/default/pods", &pod("late"))?;
    ensure!(answer.is_success(), "{}", answer.body);
    let started = Instant::now();
    kube.restart()?;
    let path = "/api/v1/namespaces/default/pods/late";
    let late = world.peer_of(&world.cluster.wait_for("the pod made meanwhile to run", path, CONVERGED, is_running)?)?;
    let took = started.elapsed().as_secs_f32();
    for family in FAMILIES {
        let served = || world.pod("a").asks_by_tcp(&late, family).map(Some).map_err(|error| format!("{error:#}"));
        wait::until("the pod made meanwhile to serve", CONVERGED, served)?;
    }
    Ok(format!("{measured}; a pod made without it runs {took:.1} s after its next start and answers over IPv4 and IPv6"))
}

/// Containers outlive their containerd; what kubelet asked it meanwhile is asked again.
fn runtimes(world: &World) -> Result<String> {
    let workers = || WORKERS.iter().filter_map(|name| world.cluster.worker(name));
    let measured = under_traffic(world, || {
        workers().try_for_each(|worker| worker.containerd().kill9())?;
        thread::sleep(DEAD);
        let started = Instant::now();
        for worker in workers() {
            worker.containerd().restart()?;
            wait::until("containerd to answer", CONVERGED, || worker.ctr(&["version"]).map(Some))?;
        }
        Ok(format!("three containerds answer {:.1} s after their start", started.elapsed().as_secs_f32()))
    })?;
    let started = Instant::now();
    let answer = world.cluster.api().post("/api/v1/namespaces/default/pods", &pod("later"))?;
    ensure!(answer.is_success(), "{}", answer.body);
    let later =
        world.peer_of(&world.cluster.wait_for("a new pod to run", "/api/v1/namespaces/default/pods/later", CONVERGED, is_running)?)?;
    let took = started.elapsed().as_secs_f32();
    for family in FAMILIES {
        let served = || world.pod("a").asks_by_tcp(&later, family).map(Some).map_err(|error| format!("{error:#}"));
        wait::until("the new pod to serve", CONVERGED, served)?;
    }
    Ok(format!("{measured}; a new pod runs {took:.1} s after it was asked for and answers over IPv4 and IPv6"))
}

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && pod["status"]["podIPs"][1].is_object()
}

/// A pod on n2.
fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "alone"}}, "spec": {
        "terminationGracePeriodSeconds": 1, "nodeSelector": {"kubernetes.io/hostname": "n2"},
        "containers": [{"name": "main", "image": AGNHOST, "imagePullPolicy": "Never", "args": ["netexec", "--http-port=8080"]}]}})
}

/// Until the Lease was renewed after this call.
fn active(world: &World, kube: &Process) -> Result<()> {
    let renewed = || {
        let lease = world.cluster.api().get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/ladon-kube");
        lease.map(|lease| lease.json()["spec"]["renewTime"].as_str().unwrap_or_default().to_string())
    };
    let before = renewed()?;
    kube.wait_until("`ladon kube` to renew its Lease", CONVERGED, || match renewed() {
        Ok(now) if now != before && !now.is_empty() => Ok(Some(())),
        Ok(now) => Err(now),
        Err(error) => Err(error.to_string()),
    })?;
    Ok(())
}
