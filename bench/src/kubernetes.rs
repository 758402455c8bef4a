//! A cluster of two workers: 100 pods of a Deployment until all are Ready, and a Service until a pod answers through it.
//!
//! The peer is the same cluster, made after Ladon's is gone, with Debian's `bridge` plugin, routes and kube-proxy ([`bridge`]). Its
//! hosts have no Open vSwitch: packets between them are the kernel's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use demo::{Deployment, Tunnel};
use lab::kubernetes::{self, AGNHOST, Cluster, PAUSE};
use lab::{Host, Lab, Netns, Ovs, Process, Progress, Underlay, debian, wait};
use serde_json::{Value, json};

use crate::Scale;
use crate::bridge;
use crate::figure::{Figure, Measured, Reach, Spread};
use crate::memory::megabytes;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
/// Why pods may come later than the peer's.
const OF_PODS: &str = "two ovs-vswitchd, a server, two nodes and `ladon kube` share the processors with all of Kubernetes, and the peer has none of them; the clusters run minutes apart, and the \
     peer's own time was between 21 and 34 s";
/// How long anything may take.
const READY: Duration = Duration::from_secs(300);
/// Connections that are tried at once while a Service is awaited, each for [`TRY`]: one begins every 5 ms.
const TRIES: u32 = 10;
const TRY: Duration = Duration::from_millis(50);

/// What was measured in one cluster.
struct Seen {
    deployments: Spread,
    services: Spread,
}

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    debian::ensure(debian::KUBERNETES, progress)?;
    let count = scale.of(100, 10);
    let (ours, memory) = progress.during("the cluster with Ladon", || with_ladon(count, scale, progress))?;
    let theirs = progress.during("the cluster with bridge and kube-proxy", || with_bridge(count, scale, progress))?;
    let how = format!(
        "Two workers, dual-stack. {} times {count} pods of one container (pause), from the POST of the Deployment until its status says {count} ready. \
         {} Services of one pod on the other node, from the POST until the first HTTP answer; a connection is tried every 5 ms. The peer's cluster ran after \
         Ladon's was gone, on hosts without Open vSwitch, whose packets the kernel forwards; Ladon's hosts use the userspace datapath.",
        ours.deployments.n, ours.services.n
    );
    let peer = "bridge + kube-proxy (nftables)";
    Ok(vec![
        Figure::new(
            format!("{count} pods of a Deployment, create → all Ready"),
            "s",
            Measured::p50(ours.deployments),
            Reach::AtMostOfPeer(1.1),
        )
        .against(peer, Measured::p50(theirs.deployments))
        .if_short(OF_PODS)
        .how(how.clone()),
        Figure::new(
            "Service created → first answer from a pod on another node, p50",
            "ms",
            Measured::p50(ours.services),
            Reach::AtMostOfPeer(1.0),
        )
        .against(peer, Measured::p50(theirs.services))
        .how(how),
        Figure::new(format!("memory of `ladon kube`, after {count} pods"), "MB", memory, Reach::AtMost(40.0)),
    ])
}

/// The hosts of both clusters.
fn hosts(underlay: &Underlay) -> Result<[Host; 3]> {
    Ok([underlay.host("control", 1)?, underlay.host("n1", 11)?, underlay.host("n2", 12)?])
}

fn with_ladon(count: usize, scale: Scale, progress: &Progress) -> Result<(Seen, f64)> {
    let lab = Lab::scratch()?;
    let underlay = Underlay::new(&lab)?;
    let hosts = hosts(&underlay)?;
    let ovs: Vec<Ovs> = hosts.iter().map(Ovs::start).collect::<Result<_, _>>()?;
    let cluster = cluster(&hosts, progress)?;
    let mut ladon = Deployment::start(&lab, &hosts[0], Tunnel::default())?;
    ladon.add_node(&hosts[0], &ovs[0], None)?;
    for (host, ovs) in hosts.iter().zip(&ovs).skip(1) {
        ladon.add_node(host, ovs, cluster.worker(host.name()))?;
    }
    ladon.start_kube(&cluster)?;
    let seen = measure(&cluster, count, scale).with_context(|| ladon.logs())?;
    let memory = megabytes(ladon.kube.as_ref().context("`ladon kube` was started")?)?;
    Ok((seen, memory))
}

fn with_bridge(count: usize, scale: Scale, progress: &Progress) -> Result<Seen> {
    let kube_proxy = kubernetes::kube_proxy(None, progress)?;
    let lab = Lab::scratch()?;
    let underlay = Underlay::new(&lab)?;
    let hosts = hosts(&underlay)?;
    let cluster = cluster(&hosts, progress)?;
    let _proxies: Vec<Process> = bridge::start(&cluster, &kube_proxy)?;
    measure(&cluster, count, scale)
}

fn cluster(hosts: &[Host; 3], progress: &Progress) -> Result<Cluster> {
    let programs = kubernetes::programs(None, progress)?;
    let images = kubernetes::images(&programs, None)?;
    Ok(Cluster::start(&hosts[0], &hosts[1..], &programs, &images)?)
}

fn measure(cluster: &Cluster, count: usize, scale: Scale) -> Result<Seen> {
    cluster.wait_nodes_ready()?;
    cluster.wait_for("the default account", "/api/v1/namespaces/default/serviceaccounts/default", READY, |_| true)?;
    start_pod(cluster, "server", "n1", &["netexec", "--http-port=8080"])?;
    start_pod(cluster, "client", "n2", &["pause"])?;
    let mut deployments = Vec::new();
    for round in 0..scale.of(3, 1) {
        deployments.push(deployment(cluster, &format!("many{round}"), count)?.as_secs_f64());
    }
    let client = cluster.worker("n2").context("n2 is a worker")?.pod_netns("default", "client")?;
    let services = (0..scale.of(30, 3)).map(|number| service(cluster, &client, number)).collect::<Result<Vec<_>>>()?;
    Ok(Seen { deployments: Spread::of(&deployments), services: Spread::of_times(&services) })
}

fn post(cluster: &Cluster, path: &str, object: &Value) -> Result<()> {
    let response = cluster.api().post(path, object)?;
    ensure!(response.is_success(), "POST {path}: {} {}", response.status, response.body);
    Ok(())
}

/// A pod that stays, with its label `app` like its name.
fn start_pod(cluster: &Cluster, name: &str, node: &str, args: &[&str]) -> Result<()> {
    let container = json!({"name": "c", "image": AGNHOST, "imagePullPolicy": "Never", "args": args});
    let spec = json!({"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]});
    post(cluster, PODS, &json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}))?;
    let is_ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    cluster.wait_for(&format!("pod {name}"), &format!("{PODS}/{name}"), READY, is_ready)?;
    Ok(())
}

/// A Deployment until all its pods are ready; then it goes.
fn deployment(cluster: &Cluster, name: &str, count: usize) -> Result<Duration> {
    let container = json!({"name": "c", "image": PAUSE, "imagePullPolicy": "Never"});
    let template = json!({"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}});
    let spec = json!({"replicas": count, "selector": {"matchLabels": {"app": name}}, "template": template});
    let started = Instant::now();
    post(cluster, DEPLOYMENTS, &json!({"metadata": {"name": name}, "spec": spec}))?;
    let path = format!("{DEPLOYMENTS}/{name}");
    cluster.wait_for(&format!("{count} pods"), &path, READY, |object| object["status"]["readyReplicas"] == count)?;
    let took = started.elapsed();
    cluster.api().delete(&format!("{path}?propagationPolicy=Foreground"))?;
    wait::until("the pods to be gone", READY, || {
        let left = cluster.api().get(&format!("{PODS}?labelSelector=app%3D{name}")).map_err(|error| error.to_string())?;
        let left = left.json()["items"].as_array().map_or(usize::MAX, Vec::len);
        if left == 0 { Ok(Some(())) } else { Err(format!("{left} pods")) }
    })?;
    Ok(took)
}

/// A Service until somebody answers through it.
fn service(cluster: &Cluster, client: &Netns, number: u8) -> Result<Duration> {
    let (name, address) = (format!("s{number}"), [10, 96, 7, number + 1]);
    let ports = json!([{"port": 80, "targetPort": 8080}]);
    let ip = std::net::Ipv4Addr::from(address).to_string();
    let object = json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "selector": {"app": "server"}, "ports": ports}});
    let started = Instant::now();
    let answered = thread::scope(|scope| {
        let client = scope.spawn(|| client.within(|| first_answer((address, 80).into())));
        post(cluster, SERVICES, &object)?;
        client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?.context("nobody answers through the Service")
    })?;
    cluster.api().delete(&format!("{SERVICES}/{name}"))?;
    Ok(answered - started)
}

/// When the first of many connections was answered.
fn first_answer(to: SocketAddr) -> Option<Instant> {
    let (first, stop, started) = (Mutex::new(None), AtomicBool::new(false), Instant::now());
    thread::scope(|scope| {
        for number in 0..TRIES {
            let (first, stop) = (&first, &stop);
            scope.spawn(move || {
                let mut due = started + TRY * number / TRIES;
                while !stop.load(Ordering::Relaxed) && started.elapsed() < READY {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    if is_answered(to) {
                        first.lock().expect("nobody panics with it").get_or_insert(Instant::now());
                        stop.store(true, Ordering::Relaxed);
                    }
                    due = (due + TRY).max(Instant::now());
                }
            });
        }
    });
    first.into_inner().expect("nobody panics with it")
}

fn is_answered(to: SocketAddr) -> bool {
    let ask = || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect_timeout(&to, TRY)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n")?;
        stream.read(&mut [0; 64])
    };
    ask().is_ok_and(|length| length > 0)
}
