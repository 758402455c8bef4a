//! Ports created through the API by several clients at once, each over one connection: with the store in a file, and in an etcd cluster.
//!
//! The peer is Neutron; it is cited, because bringing up OpenStack takes longer than everything else here together.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use demo::{Deployment, Tunnel, id};
use lab::etcd::{ETCD_VERSION, Etcd, Options, Version};
use lab::{Host, Lab, Progress, Underlay};
use serde_json::json;

use crate::Scale;
use crate::figure::{Figure, Reach, Spread};
use crate::http::Client;
use crate::neutron::{self, PORTS};

const CLIENTS: usize = 8;
/// Ports per second that Neutron 26.0.6 created for eight clients: no-op driver, two uwsgi processes, MariaDB 10.11, nothing else on
/// two CPUs. With ML2/OVN it was 6.1.
const NEUTRON: f64 = 9.8;
/// How that was measured.
const NEUTRON_HOW: &str = "Neutron 26.0.6 was measured before, on two idle CPUs like these: no-op driver, two uwsgi processes, MariaDB, no Keystone; with ML2/OVN it made 6.1.";
/// Where the server's API is, on its own host.
pub const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9696);

/// Members of the etcd cluster.
const MEMBERS: usize = 3;

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let embedded = progress.during("ports created by 8 clients, embedded store", || embedded(scale))?;
    let etcd = progress.during(format!("ports created by 8 clients, etcd {ETCD_VERSION} of {MEMBERS} members"), || etcd(scale))?;
    Ok(vec![embedded, etcd])
}

fn embedded(scale: Scale) -> Result<Figure> {
    let lab = Lab::scratch()?;
    let underlay = Underlay::new(&lab)?;
    let control = underlay.host("control", 1)?;
    let ladon = Deployment::start(&lab, &control, Tunnel::default())?;
    let figure = measure("embedded", 500.0, &ladon, &control, scale, "every answered port is on the disk")?;
    let how = format!("{} {NEUTRON_HOW}", figure.how);
    Ok(figure.how(how))
}

fn etcd(scale: Scale) -> Result<Figure> {
    let lab = Lab::scratch()?;
    let underlay = Underlay::new(&lab)?;
    let control = underlay.host("control", 1)?;
    let options = Options { version: Version::Module, members: MEMBERS, is_secure: true, ..Options::default() };
    let etcd = Etcd::start_on(&control, "etcd", &options)?;
    let ladon = Deployment::start_on_etcd(&lab, &control, Tunnel::default(), &etcd, 1)?;
    let how = format!(
        "etcd {ETCD_VERSION} has {MEMBERS} members, with TLS, beside the server: every answered port is on the disks of two of them, which here are one"
    );
    measure("etcd", 300.0, &ladon, &control, scale, &how)
}

/// The rate at which a server with the named store creates ports.
fn measure(store: &str, reach: f64, ladon: &Deployment, control: &Host, scale: Scale, kept: &str) -> Result<Figure> {
    let each = scale.of(1_000, 50);
    let network = ladon.api.create("network", json!({"name": "bench"}))?;
    ladon.api.create("subnet", neutron::subnet(id(&network), "10.8.0.0/16"))?;
    let body = json!({"port": {"network_id": id(&network)}}).to_string();
    let started = Instant::now();
    let times = control.netns().within(|| {
        // Threads are born in the namespace of the one that makes them.
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| create(each, &body))).collect();
            clients
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<Vec<_>>>()
        })
    })??;
    let took = started.elapsed().as_secs_f64();
    let spread = Spread::of_times(&times.concat());
    let (p50, p99) = (spread.p50, spread.p99);
    Ok(Figure::new(
        format!("port create through the API, {CLIENTS} clients, {store} store"),
        "ports/s",
        (CLIENTS * each) as f64 / took,
        Reach::AtLeast(reach),
    )
    .against_cited("Neutron 26", NEUTRON)
    .how(format!(
        "{} ports on one network, one POST each, {CLIENTS} connections; {kept}. An answer took {p50:.1} ms (p50), {p99:.1} ms (p99).",
        CLIENTS * each
    )))
}

fn create(count: usize, body: &str) -> Result<Vec<Duration>> {
    let mut client = Client::connect(API)?;
    (0..count)
        .map(|_| {
            let started = Instant::now();
            match client.request("POST", PORTS, body)? {
                (201, _) => Ok(started.elapsed()),
                (status, document) => anyhow::bail!("{status} {document}"),
            }
        })
        .collect()
}
