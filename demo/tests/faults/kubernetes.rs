//! Level-triggered, with Kubernetes: pods and Services come and go while every process is killed, `ladon kube` and containerd too.
//!
//! In the end every pod has one port and every cluster address one load balancer, all in force, and nothing else is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use demo::world::{Parts, Place, WORKERS, World};
use lab::kubernetes::AGNHOST;
use lab::{Ovs, Process, Progress, wait};
use serde_json::{Value, json};

use crate::level::{DEAD_MAX_MS, PAUSE_MAX_MS, Random, fresh_start_says_the_same, insist, seed, settle};
use crate::world::{BRIDGE, cost, let_pass};

const KILLS: usize = 300;
/// How long Kubernetes may take to converge: containers that were killed with their runtime wait longer each time.
const CONVERGED: Duration = Duration::from_secs(240);
const DEPLOYMENTS: [&str; 3] = ["web", "scaled", "rolled"];
/// What comes and goes besides replicas, at most.
const COMERS_MAX: usize = 6;

/// A process that can be killed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Victim {
    Server,
    Kube,
    Node(usize),
    Switch(&'static str),
    Database(&'static str),
    Runtime(&'static str),
}

fn victims(world: &World) -> Vec<Victim> {
    let nodes = (0..world.ladon.nodes.len()).map(Victim::Node);
    let on_workers = WORKERS.into_iter().flat_map(|name| [Victim::Switch(name), Victim::Database(name), Victim::Runtime(name)]);
    // As likely as a node, each of them.
    [Victim::Server, Victim::Server, Victim::Kube, Victim::Kube].into_iter().chain(nodes).chain(on_workers).collect()
}

impl Victim {
    fn process<'a>(&self, world: &'a World) -> Result<&'a Process> {
        Ok(match self {
            Victim::Server => &world.ladon.server,
            Victim::Kube => world.ladon.kube.as_ref().context("`ladon kube` runs")?,
            Victim::Node(node) => &world.ladon.nodes[*node].process,
            Victim::Switch(name) => world.ovs[*name].switch(),
            Victim::Database(name) => world.ovs[*name].database(),
            Victim::Runtime(name) => world.cluster.worker(name).context("a worker")?.containerd(),
        })
    }

    fn revive(&self, world: &World) -> Result<()> {
        match self {
            Victim::Switch(name) => world.ovs[*name].restart_switch()?,
            Victim::Database(name) => world.ovs[*name].restart_database()?,
            other => other.process(world)?.restart()?,
        }
        Ok(())
    }
}

fn kill_all_the_time(world: &World, mut random: Random) -> Result<BTreeMap<String, usize>> {
    let victims = victims(world);
    let mut killed = BTreeMap::new();
    for _ in 0..KILLS {
        let_pass(random.within_ms(PAUSE_MAX_MS));
        let victim = &victims[random.below(victims.len())];
        victim.process(world)?.kill9().with_context(|| format!("killing {victim:?}"))?;
        let_pass(random.within_ms(DEAD_MAX_MS));
        victim.revive(world).with_context(|| format!("starting {victim:?} again"))?;
        *killed.entry(format!("{victim:?}")).or_default() += 1;
    }
    Ok(killed)
}

/// What comes and goes.
#[derive(Default)]
struct Comers {
    pods: Vec<String>,
    services: Vec<String>,
    born: usize,
}

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

impl Comers {
    fn step(&mut self, world: &World, random: &mut Random) -> Result<()> {
        self.born += 1;
        match random.below(5) {
            0 if self.pods.len() < COMERS_MAX => {
                let name = format!("comer{}", self.born);
                make(world, PODS, &pod(&name, WORKERS[random.below(WORKERS.len())]))?;
                self.pods.push(name);
            }
            1 if self.services.len() < COMERS_MAX => {
                let name = format!("service{}", self.born);
                let spec = json!({"ipFamilyPolicy": "RequireDualStack", "selector": {"app": DEPLOYMENTS[random.below(3)]},
                    "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
                make(world, SERVICES, &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}))?;
                self.services.push(name);
            }
            0 | 2 if !self.pods.is_empty() => unmake(world, PODS, &self.pods.swap_remove(random.below(self.pods.len())))?,
            1 | 3 if !self.services.is_empty() => unmake(world, SERVICES, &self.services.swap_remove(random.below(self.services.len())))?,
            _ => scale(world, DEPLOYMENTS[random.below(3)], 1 + random.below(4))?,
        }
        let_pass(random.within_ms(1000));
        Ok(())
    }

    fn leave(&mut self, world: &World) -> Result<()> {
        self.pods.drain(..).try_for_each(|name| unmake(world, PODS, &name))?;
        self.services.drain(..).try_for_each(|name| unmake(world, SERVICES, &name))?;
        DEPLOYMENTS.into_iter().try_for_each(|name| scale(world, name, 2))
    }
}

fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "alone"}}, "spec": {
        "terminationGracePeriodSeconds": 1, "nodeSelector": {"kubernetes.io/hostname": node},
        "containers": [{"name": "main", "image": AGNHOST, "imagePullPolicy": "Never", "args": ["netexec", "--http-port=8080"]}]}})
}

fn make(world: &World, path: &str, object: &Value) -> Result<()> {
    insist(&format!("{} to be made", object["metadata"]["name"]), || {
        let answer = world.cluster.api().post(path, object)?;
        ensure!(answer.is_success() || answer.status == 409, "{}", answer.body);
        Ok(())
    })
}

fn unmake(world: &World, path: &str, name: &str) -> Result<()> {
    insist(&format!("{name} to be deleted"), || {
        let answer = world.cluster.api().delete(&format!("{path}/{name}"))?;
        ensure!(answer.is_success() || answer.status == 404, "{}", answer.body);
        Ok(())
    })
}

fn scale(world: &World, deployment: &str, replicas: usize) -> Result<()> {
    let path = format!("/apis/apps/v1/namespaces/default/deployments/{deployment}");
    insist(&format!("{deployment} to be scaled"), || {
        let answer = world.cluster.api().patch(&path, &json!({"spec": {"replicas": replicas}}))?;
        ensure!(answer.is_success(), "{}", answer.body);
        Ok(())
    })
}

fn list(world: &World, path: &str) -> Result<Vec<Value>> {
    let answer = world.cluster.api().get(path)?;
    ensure!(answer.is_success(), "{}", answer.body);
    Ok(answer.json()["items"].as_array().cloned().unwrap_or_default())
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// Pods that have a port: all that run and are not on their node's own network.
fn pods(world: &World) -> Result<Vec<Value>> {
    let all = list(world, "/api/v1/pods")?;
    Ok(all.into_iter().filter(|pod| pod["spec"]["hostNetwork"] != true).collect())
}

/// Every pod runs and has one port, ACTIVE, with its addresses; every cluster address has one load balancer.
fn kubernetes_is_right(world: &World) -> Result<()> {
    let mut ports = BTreeMap::new();
    for pod in pods(world)? {
        ensure!(text(&pod, "/status/phase") == "Running", "pod {} is {}", pod["metadata"]["name"], pod["status"]["phase"]);
        ensure!(pod["metadata"]["deletionTimestamp"].is_null(), "pod {} is being deleted", pod["metadata"]["name"]);
        let ips = pod["status"]["podIPs"].as_array().into_iter().flatten().filter_map(|ip| ip["ip"].as_str());
        ports.insert(text(&pod, "/metadata/uid").to_string(), ips.map(str::to_string).collect::<BTreeSet<_>>());
    }
    let there = world.api().list("port", "device_owner=ladon:pod")?;
    let seen: BTreeMap<String, BTreeSet<String>> = there
        .iter()
        .map(|port| {
            let ips = port["fixed_ips"].as_array().into_iter().flatten().filter_map(|fixed| fixed["ip_address"].as_str());
            (text(port, "/device_id").to_string(), ips.map(str::to_string).collect())
        })
        .collect();
    ensure!(there.len() == seen.len(), "a pod has two ports: {there:?}");
    ensure!(seen == ports, "pods have {ports:?}, ports {seen:?}");
    if let Some(port) = there.iter().find(|port| port["status"] != "ACTIVE") {
        anyhow::bail!("{port}");
    }
    let services = list(world, "/api/v1/services")?;
    let addresses = services.iter().flat_map(|service| service["spec"]["clusterIPs"].as_array().into_iter().flatten());
    let addresses: BTreeSet<&str> = addresses.filter_map(Value::as_str).filter(|ip| *ip != "None").collect();
    let balancers = world.api().list("loadbalancer", "")?;
    let vips: Vec<&str> = balancers.iter().map(|balancer| text(balancer, "/vip_address")).collect();
    ensure!(vips.len() == addresses.len(), "{} load balancers for {} addresses", vips.len(), addresses.len());
    ensure!(vips.iter().copied().collect::<BTreeSet<_>>() == addresses, "load balancers at {vips:?}, Services at {addresses:?}");
    for deployment in DEPLOYMENTS {
        let object = world.cluster.api().get(&format!("/apis/apps/v1/namespaces/default/deployments/{deployment}"))?.json();
        ensure!(object["status"]["readyReplicas"] == object["spec"]["replicas"], "{deployment}: {}", object["status"]);
    }
    Ok(())
}

/// Each worker's bridge, machine and memory have what lives there.
fn nothing_leaked(world: &World) -> Result<()> {
    let pods = pods(world)?;
    for name in WORKERS {
        let (node, ovs) = (world.ladon.node(name).context("a worker runs a node")?, &world.ovs[name]);
        let living = pods.iter().filter(|pod| text(pod, "/spec/nodeName") == name).count();
        let on_bridge = ovs.vsctl(&["list-ports", BRIDGE])?;
        let on_bridge: BTreeSet<&str> = on_bridge.lines().filter(|port| port.starts_with("lad") && !port.starts_with("ladon")).collect();
        ensure!(on_bridge.len() == living, "{name}: {living} pods, {on_bridge:?} on the bridge");
        let links: Value = serde_json::from_str(&node.host.tool("ip", &["-j", "link", "show"])?)?;
        let links = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        let links: BTreeSet<&str> = links.filter(|link| link.starts_with("lad") && !link.starts_with("ladon")).collect();
        ensure!(links == on_bridge, "{name}: the devices {links:?}, {on_bridge:?} on the bridge");
        let read =
            |file: &str| -> Result<Value> { Ok(serde_json::from_slice(&std::fs::read(node.config.with_file_name("state").join(file))?)?) };
        let added = read("pods.json")?.as_object().map_or(0, serde_json::Map::len);
        ensure!(added == living, "{name} remembers {added} pods, {living} live there");
        let own = world.api().list("port", &format!("binding:host_id={name}"))?.len();
        let zones = read("zones.json")?["places"].as_object().map_or(0, serde_json::Map::len);
        let claimed = usize::from(name == "n2");
        ensure!(zones == own + claimed, "{name} has zones for {zones} ports, {} live there", own + claimed);
    }
    Ok(())
}

fn converged(world: &World) -> Result<()> {
    settle(&world.ladon)?;
    let right = || kubernetes_is_right(world).and_then(|()| nothing_leaked(world)).map(Some).map_err(|error| format!("{error:#}"));
    Ok(wait::until("everything to be as Kubernetes says", CONVERGED, right)?)
}

#[test]
#[ignore = "brings Kubernetes up and kills everything 300 times: make test-faults"]
fn whatever_is_killed_pods_and_services_end_as_they_should() -> Result<()> {
    let seed = seed();
    println!("LADON_SEED={seed}");
    let _turn = crate::world::turn();
    let progress = Progress::quiet();
    let parts = Parts::find(&progress)?;
    let name = format!("k{}", std::process::id());
    let place = Place::new(std::env::temp_dir().join(format!("ladon-{name}")));
    let world = World::start(&place, &parts, &progress)?;
    let measured = storm(&world, seed).with_context(|| format!("LADON_SEED={seed}\n{}", world.ladon.logs()));
    if measured.is_err() {
        println!("{}", world.cluster.kubectl(&["get", "events,pods,nodes,services", "-A", "-o", "wide"]).unwrap_or_default());
    }
    cost(&format!("{KILLS} kills at random moments, with Kubernetes"), measured?);
    Ok(())
}

fn storm(world: &World, seed: u64) -> Result<String> {
    converged(world)?;
    let mut random = Random::of(seed);
    let victims = random.fork();
    let mut comers = Comers::default();
    let over = AtomicBool::new(false);
    let (killed, changes) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let killed = kill_all_the_time(world, victims);
            over.store(true, Ordering::Relaxed);
            killed
        });
        let (mut changes, mut outcome) = (0, Ok(()));
        while outcome.is_ok() && !over.load(Ordering::Relaxed) {
            outcome = comers.step(world, &mut random);
            changes += 1;
        }
        let killed = killer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome.and(killed).map(|killed| (killed, changes))
    })?;
    let since = Instant::now();
    converged(world)?;
    let settled = since.elapsed();
    let switches: Vec<&Ovs> = world.ladon.nodes.iter().map(|node| &world.ovs[node.host.name()]).collect();
    fresh_start_says_the_same(&world.ladon, &switches)?;
    comers.leave(world)?;
    converged(world)?;
    Ok(format!(
        "{changes} changes of pods and Services meanwhile; everything right {:.0} s after the last kill; flows, groups and objects as a fresh start has them; nothing left. Killed: {killed:?}",
        settled.as_secs_f32()
    ))
}
