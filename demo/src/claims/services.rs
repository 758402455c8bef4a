//! Services, answered by Open vSwitch: by name and by address, from everywhere, while replicas come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::traffic::Probe;
use lab::wait;
use serde_json::{Value, json};

use super::{Claim, Lane};
use crate::load::Load;
use crate::peer::{ECHO, FAMILIES, Family, Peer, shown};
use crate::world::World;

/// Connections of one measurement; with two replicas, one in 500,000 times all reach the same.
const CONNECTIONS: usize = 20;
/// How long a change of replicas may take to be complete.
const SCALED: Duration = Duration::from_secs(40);
/// An answer that comes this soon was no time-out.
const AT_ONCE: Duration = Duration::from_millis(500);
/// New connections per second under which a Deployment is updated.
const RATE: u32 = 200;

/// A Service of the demo: its name and addresses.
struct Service {
    name: &'static str,
    v4: &'static str,
    v6: &'static str,
}

const WEB: Service = Service { name: "web", v4: "10.96.7.7", v6: "fd00:96::77" };
const SCALED_SERVICE: Service = Service { name: "scaled", v4: "10.96.7.8", v6: "fd00:96::78" };
const ROLLED: Service = Service { name: "rolled", v4: "10.96.7.9", v6: "fd00:96::79" };

impl Service {
    fn ip(&self, family: Family) -> IpAddr {
        let text = if family == Family::V4 { self.v4 } else { self.v6 };
        text.parse().expect("the demo's addresses are addresses")
    }

    fn http(&self, family: Family) -> SocketAddr {
        (self.ip(family), 80).into()
    }

    fn echo(&self, family: Family) -> SocketAddr {
        (self.ip(family), 81).into()
    }
}

type From = fn(&World) -> Peer;

/// Who asks for a ClusterIP.
const CLIENTS: [(&str, From); 4] = [
    ("a pod", |world| world.pod("a").clone()),
    ("vm1", |world| world.guest()),
    ("metal1", |world| world.metal()),
    ("a node's own process", |world| world.machine("n1")),
];

pub fn lane() -> Lane {
    let mut claims = Vec::new();
    for family in FAMILIES {
        claims.push(Claim::new(format!("a pod reaches a Service by name over {family}"), move |world| by_name(world, family)));
        for (who, from) in CLIENTS {
            let sentence = format!("{who} reaches a ClusterIP over {family}, and both replicas answer");
            claims.push(Claim::new(sentence, move |world| {
                let answers = answers(&from(world), WEB.http(family), CONNECTIONS)?;
                ensure!(answers.len() == 2, "only {answers:?} answered");
                Ok(tally(&answers))
            }));
        }
        claims.push(Claim::new(format!("a pod reaches a ClusterIP by UDP over {family}"), move |world| {
            let probe = world.pod("c").udp(WEB.echo(family), "hostname")?;
            ensure!(probe.text().starts_with("web-"), "{}", shown(&probe));
            Ok(format!("{} answered", probe.text()))
        }));
        claims.push(Claim::new(format!("a backend reaches itself through its own Service over {family}"), move |world| {
            hairpin(world, family)
        }));
    }
    claims.push(Claim::new("a Service without a selector reaches metal1 by the EndpointSlice that a user wrote", by_hand).within(SCALED));
    claims
}

/// A Service that selects no pods, and the slice of its one endpoint.
const BY_HAND: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: by-hand}
spec: {ports: [{name: echo, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: by-hand-1, labels: {kubernetes.io/service-name: by-hand}}
addressType: IPv4
endpoints: [{addresses: ["ADDRESS"], conditions: {ready: true}}]
ports: [{name: echo, port: PORT}]
"#;

fn by_hand(world: &World) -> Result<String> {
    let metal = world.metal();
    let text = BY_HAND.replace("ADDRESS", &metal.ip(Family::V4).to_string()).replace("PORT", &ECHO.to_string());
    let started = Instant::now();
    world.cluster.apply(&text)?;
    let service = world.cluster.api().get("/api/v1/namespaces/default/services/by-hand")?.json();
    let vip: IpAddr = service["spec"]["clusterIP"].as_str().context("a Service has a ClusterIP")?.parse()?;
    wait::until("metal1 to answer through the Service", SCALED, || match world.pod("a").tcp((vip, 80).into(), "x") {
        Ok(probe) if probe.is_answered() => Ok(Some(())),
        Ok(probe) => Err(shown(&probe)),
        Err(error) => Err(format!("{error:#}")),
    })?;
    Ok(format!("{vip}:80 -> {}:{ECHO} answers after {:.1} s", metal.ip(Family::V4), started.elapsed().as_secs_f32()))
}

fn by_name(world: &World, family: Family) -> Result<String> {
    let flag = if family == Family::V4 { "-4" } else { "-6" };
    let page = "http://web/hostname";
    let said = world.cluster.kubectl(&["exec", "a", "--", "/bin/curl", flag, "--silent", "--show-error", "--max-time", "5", page])?;
    ensure!(said.starts_with("web-"), "{said}");
    Ok(format!("{page} is {}", said.trim()))
}

/// Who answered how often; every connection must be answered.
fn answers(from: &Peer, to: SocketAddr, connections: usize) -> Result<BTreeMap<String, usize>> {
    let mut answers = BTreeMap::new();
    for number in 1..=connections {
        let probe = from.http(to, "/hostname")?;
        let Probe::Answered(_) = probe else { bail!("connection {number} from {} to {to} got {}", from.name, shown(&probe)) };
        *answers.entry(probe.text()).or_insert(0) += 1;
    }
    Ok(answers)
}

fn tally(answers: &BTreeMap<String, usize>) -> String {
    let each: Vec<String> = answers.iter().map(|(name, times)| format!("{name} {times} times")).collect();
    each.join(", ")
}

fn hairpin(world: &World, family: Family) -> Result<String> {
    let pods = world.pods_of(WEB.name)?;
    let backend = world.peer_of(pods.first().context("web has pods")?)?;
    let answers = answers(&backend, WEB.http(family), CONNECTIONS)?;
    let own = answers.get(&backend.name).context("it never answered itself")?;
    Ok(format!("{CONNECTIONS} of {CONNECTIONS} connections answered, {own} by itself"))
}

/// 2 → 5 → 0 → 1.
pub fn scaling() -> Lane {
    let step = |sentence: &str, replicas: usize| Claim::new(sentence, move |world| scale(world, replicas)).within(SCALED * 2);
    vec![
        step("scaled from 2 to 5 replicas, all five answer", 5),
        Claim::new("scaled to 0 replicas, a Service refuses at once", nobody).within(SCALED * 2),
        step("scaled from 0 to 1 replica, it answers", 1),
    ]
}

fn set_replicas(world: &World, replicas: usize) -> Result<()> {
    let path = "/apis/apps/v1/namespaces/default/deployments/scaled";
    let answer = world.cluster.api().patch(path, &json!({"spec": {"replicas": replicas}}))?;
    ensure!(answer.is_success(), "{}", answer.body);
    Ok(())
}

/// Scales the Deployment `scaled` and waits until all its replicas have answered.
pub fn scale(world: &World, replicas: usize) -> Result<String> {
    let started = Instant::now();
    set_replicas(world, replicas)?;
    let mut took = Vec::new();
    for family in FAMILIES {
        let to = SCALED_SERVICE.http(family);
        let mut seen = BTreeSet::new();
        wait::until(&format!("{replicas} replicas to answer at {to}"), SCALED, || {
            let probe = world.pod("a").http(to, "/hostname").map_err(|error| format!("{error:#}"))?;
            if probe.is_answered() {
                seen.insert(probe.text());
            }
            if seen.len() == replicas { Ok(Some(())) } else { Err(format!("{} of them: {seen:?}; last {}", seen.len(), shown(&probe))) }
        })?;
        took.push(format!("{family} after {:.1} s", started.elapsed().as_secs_f32()));
    }
    Ok(took.join(", "))
}

/// Refused, not dropped: by TCP reset and ICMP, for a pod, a node's process, a virtual machine and a bare-metal host.
fn nobody(world: &World) -> Result<String> {
    set_replicas(world, 0)?;
    wait::until("the last pod to be gone", SCALED, || match world.pods_of(SCALED_SERVICE.name) {
        Ok(pods) if pods.is_empty() => Ok(Some(())),
        Ok(pods) => Err(format!("{} pods", pods.len())),
        Err(error) => Err(format!("{error:#}")),
    })?;
    let peers = [world.pod("a").clone(), world.machine("n2"), world.metal(), world.guest()];
    let first = &peers[0];
    wait::until("the Service to refuse", Duration::from_secs(10), || match first.tcp(SCALED_SERVICE.http(Family::V4), "x") {
        Ok(Probe::Refused) => Ok(Some(())),
        Ok(other) => Err(shown(&other)),
        Err(error) => Err(format!("{error:#}")),
    })?;
    let mut slowest = (Duration::ZERO, String::new());
    for (peer, family) in peers.iter().flat_map(|peer| FAMILIES.map(|family| (peer, family))) {
        for (protocol, to) in [("TCP", SCALED_SERVICE.http(family)), ("UDP", SCALED_SERVICE.echo(family))] {
            let started = Instant::now();
            let probe = if protocol == "TCP" { peer.tcp(to, "x")? } else { peer.udp(to, "x")? };
            ensure!(matches!(probe, Probe::Refused | Probe::Unreachable), "{} by {protocol} to {to} got {}", peer.name, shown(&probe));
            slowest = slowest.max((started.elapsed(), format!("{} by {protocol} to {to}", peer.name)));
        }
    }
    let (slowest, whose) = (slowest.0.as_millis(), slowest.1);
    ensure!(slowest < AT_ONCE.as_millis(), "the slowest refusal, of {whose}, took {slowest} ms");
    Ok(format!("TCP and UDP, IPv4 and IPv6, from a pod, a node, metal1 and vm1: refused within {slowest} ms"))
}

pub fn rolling() -> Lane {
    let sentence = format!("a rolling update (preStop 5 s) under {RATE} new connections per second loses none");
    vec![Claim::new(sentence, update).within(Duration::from_secs(90))]
}

fn update(world: &World) -> Result<String> {
    let stop = Arc::new(AtomicBool::new(false));
    let targets = FAMILIES.map(|family| ROLLED.http(family));
    let load = thread::scope(|scope| {
        let stopped = stop.clone();
        let load = scope.spawn(move || Load::run(world.pod("a").netns()?, &targets, "/hostname", RATE, &stopped));
        let outcome = replace_pods(world);
        stop.store(true, Ordering::Relaxed);
        let load = load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome.and(load)
    })?;
    ensure!(load.failed == 0, "{} of {} connections failed: {:?}", load.failed, load.sent, load.failures);
    ensure!(load.answers.len() >= 4, "old and new replicas answered, which are four: {:?}", load.answers);
    Ok(format!(
        "{} connections in {:.1} s ({:.0}/s), 0 lost, {} replicas answered",
        load.sent,
        load.took.as_secs_f32(),
        load.rate(),
        load.answers.len()
    ))
}

fn replace_pods(world: &World) -> Result<()> {
    let old: BTreeSet<String> = names(&world.pods_of(ROLLED.name)?);
    let path = "/apis/apps/v1/namespaces/default/deployments/rolled";
    let change = json!({"spec": {"template": {"metadata": {"annotations": {"demo": "rolled"}}}}});
    let answer = world.cluster.api().patch(path, &change)?;
    ensure!(answer.is_success(), "{}", answer.body);
    wait::until("new pods only", Duration::from_secs(75), || {
        let pods = world.pods_of(ROLLED.name).map_err(|error| format!("{error:#}"))?;
        let now = names(&pods);
        if now.len() == 2 && now.is_disjoint(&old) { Ok(Some(())) } else { Err(format!("{now:?}")) }
    })?;
    Ok(())
}

fn names(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_string)).collect()
}
