//! Thousands of nodes on one server: what they cost it, and how fast they hear of changes.
//!
//! ```text
//! bench ── REST ──▶ ladon server ── 5,000 streams, TLS ──▶ fleet (one process that is 5,000 nodes)
//!   └───────────────── what the nodes have seen ◀────────────┘
//! ```
//!
//! Everything runs on one machine, on which the nodes take more of the processors than the server: what is late here is late for want
//! of them. A change counts as in force when the server has heard so from every node that it concerns (`ladon wait`).

mod churn;
mod kinds;
mod layout;
mod shared;
mod work;
mod world;

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::Progress;

use self::churn::Churn;
use self::kinds::{RULES, Told, rule, told};
use self::layout::{Kind, Layout};
use self::world::{Status, Store, World, wait_until_in_force};
use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread};
use crate::memory::megabytes;
use crate::ports::API;

pub use shared::run as run_shared;

/// How long it may take until all is in force again.
const PATIENCE: Duration = Duration::from_secs(120);
/// Ports that change in a second.
const CHANGES_PER_SECOND: f64 = 500.0;
const PORTS_OF_NODE: u32 = 20;
/// Why something may take longer here than between machines.
const CROWDED: &str = "server and nodes share two processors, of which the nodes take the larger part";

/// How much is done.
struct Amounts {
    nodes: u32,
    ports: usize,
    rules: usize,
    idle: Duration,
    churn: fn(Kind) -> Duration,
}

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let secs = Duration::from_secs;
    let full = Amounts {
        nodes: 5_000,
        ports: 300,
        rules: 30,
        idle: secs(30),
        churn: |kind| Duration::from_secs(if kind == Kind::Tenants { 600 } else { 60 }),
    };
    let small = Amounts { nodes: 100, ports: 30, rules: 5, idle: secs(6), churn: |_| Duration::from_secs(10) };
    let mut amounts = scale.of(full, small);
    if let Some(nodes) = wanted(NODES) {
        ensure!(nodes >= layout::NODES_OF_NETWORK, "{NODES}: at least {}, the nodes of a network", layout::NODES_OF_NETWORK);
        amounts.nodes = nodes;
    }
    match std::env::var(LAYOUT).as_deref() {
        Ok("tenants") => return measured(Kind::Tenants, &amounts, progress),
        Ok("flat") => return measured(Kind::Flat, &amounts, progress),
        _ => {}
    }
    let mut figures = measured(Kind::Tenants, &amounts, progress)?;
    figures.extend(measured(Kind::Flat, &amounts, progress)?);
    figures.extend(growth(scale, progress)?);
    Ok(figures)
}

/// For trying out, with nothing written down: `FLEET_NODES=500` on a smaller machine, `FLEET_CHURN_SECS=60` in a shorter time,
/// `FLEET_LAYOUT=flat` alone.
const NODES: &str = "FLEET_NODES";
const CHURN_SECS: &str = "FLEET_CHURN_SECS";
const LAYOUT: &str = "FLEET_LAYOUT";

/// The environment asks for less than what counts.
pub fn is_tried_out() -> bool {
    [NODES, CHURN_SECS, LAYOUT].iter().any(|variable| std::env::var_os(variable).is_some())
}

/// A number that the environment says.
fn wanted(variable: &str) -> Option<u32> {
    std::env::var(variable).ok()?.parse().ok()
}

/// All figures of one layout.
fn measured(kind: Kind, amounts: &Amounts, progress: &Progress) -> Result<Vec<Figure>> {
    let layout = Layout { kind, nodes: amounts.nodes, ports_of_node: PORTS_OF_NODE };
    let world = World::start(&layout, (layout.nodes / 10).max(1), Store::File, progress)?;
    let run = Run { world, layout, progress };
    let mut figures = run.at_rest(amounts.idle)?;
    figures.extend(run.kinds()?);
    figures.push(run.ports(amounts.ports)?);
    figures.push(run.rules(amounts.rules)?);
    let churn = wanted(CHURN_SECS).map_or_else(|| (amounts.churn)(kind), |secs| Duration::from_secs(secs.into()));
    figures.extend(run.churn(churn)?);
    figures.extend(run.all_at_once()?);
    let faults = run.world.status()?.faults;
    ensure!(faults == 0, "{faults} messages did not fit the views that got them");
    Ok(figures)
}

/// A layout while it is measured.
struct Run<'a> {
    world: World,
    layout: Layout,
    progress: &'a Progress,
}

impl Run<'_> {
    fn figure(&self, name: &str, unit: &str, value: impl Into<Measured>, reach: Reach) -> Figure {
        let layout = if self.layout.kind == Kind::Tenants { "tenants" } else { "flat" };
        Figure::new(format!("{} nodes, {layout}: {name}", self.layout.nodes), unit, value, reach)
    }

    /// One that the machine has a part in.
    fn timed(&self, name: &str, unit: &str, value: impl Into<Measured>, reach: Reach) -> Figure {
        self.figure(name, unit, value, reach).if_short(CROWDED)
    }

    /// Nothing happens.
    fn at_rest(&self, idle: Duration) -> Result<Vec<Figure>> {
        let (server, nodes) = (&self.world.ladon.server, f64::from(self.layout.nodes));
        let before = (work::cpu_secs(server)?, work::loopback_bytes(&self.world.control)?);
        self.progress.during(format!("idle for {idle:?}"), || {
            thread::sleep(idle);
            Ok::<_, anyhow::Error>(())
        })?;
        let secs = idle.as_secs_f64();
        let cpu = (work::cpu_secs(server)? - before.0) / secs;
        let bytes = (work::loopback_bytes(&self.world.control)? - before.1) / secs;
        let Status { objects, distinct_objects, snapshots, snapshot_bytes, flows, .. } = self.world.status()?;
        let each = |all: u64| all as f64 / nodes;
        let flows_of = flows.iter().map(|node| node.flows).max().unwrap_or_default();
        let what = format!(
            "{}. The nodes are one process with a certificate, an address, a TLS connection and a gRPC stream each; each keeps its view with the code of \
             `ladon node`; objects that several of them were sent in the same bytes are read and kept once, and nothing is written to the disk. Views \
             have {:.0} objects each ({distinct_objects} different ones in all); {} nodes compute their flows, up to {flows_of} each, for a switch \
             that only counts. The layout was made through the API in {:.0} s; all nodes had their first view in force {:.0} s after they were started \
             ({snapshots} snapshots of {:.0} KB).",
            self.layout.what(),
            each(objects),
            flows.len(),
            self.world.made_in.as_secs_f64(),
            self.world.came_in.as_secs_f64(),
            snapshot_bytes as f64 / snapshots.max(1) as f64 / 1e3,
        );
        let idle_how =
            format!("Over {idle:?} without any change: heartbeats and reports every 5 s, HTTP/2 pings every 10 s in both directions.");
        Ok(vec![
            self.figure("memory of `ladon server`", "MB", megabytes(server)?, Reach::AtMost(1_000.0)).how(what),
            self.figure("idle, processor of `ladon server` per node", "µs/s", cpu / nodes * 1e6, Reach::AtMost(100.0))
                .how(idle_how.clone()),
            self.figure("idle, traffic per node", "B/s", bytes / nodes, Reach::AtMost(500.0))
                .how(format!("{idle_how} All bytes on the loopback, both directions, with the headers of TLS, TCP and IP.")),
        ])
    }

    /// Changes of every kind reach those who need them, and nobody else.
    fn kinds(&self) -> Result<Vec<Figure>> {
        let told = self.progress.during("one change of every kind", || kinds::of_every_kind(&self.world))?;
        let inexact: Vec<&Told> = told.iter().filter(|told| !told.is_exact()).collect();
        for told in &inexact {
            self.progress.say(&format!(
                "{}: {} nodes need it, {} of them and {} others were sent something; {} bytes in all, {} to one",
                told.what, told.needing, told.sent, told.besides, told.bytes, told.bytes_each
            ));
        }
        let list: Vec<String> =
            told.iter().map(|told| format!("{} {} × {} B in {:.0} ms", told.what, told.needing, told.bytes_each, ms(told.took))).collect();
        let share = (told.len() - inexact.len()) as f64 / told.len() as f64 * 100.0;
        Ok(vec![
            self.figure("changes that were sent to just the nodes that need them", "%", share, Reach::AtLeast(100.0)).how(format!(
                "{} changes of all kinds of objects; bytes are those of objects in the deltas that nodes received, summed over all nodes and equal to \
                 the number of nodes that need the change by the bytes that one gets: {}.",
                told.len(),
                list.join("; ")
            )),
        ])
    }

    /// One port after the other is made.
    fn ports(&self, count: usize) -> Result<Figure> {
        let (world, mut client) = (&self.world, self.world.client()?);
        let (mut times, mut ports, mut others) = (Vec::new(), Vec::new(), 0);
        self.progress.during(format!("{count} ports, one after the other"), || {
            for number in 0..count {
                let network = &world.ground.networks[number % world.ground.networks.len()];
                let needing: BTreeSet<u32> = match self.layout.kind {
                    Kind::Tenants => network.nodes.iter().copied().collect(),
                    Kind::Flat => BTreeSet::from([network.node(number)]),
                };
                let port = world.ground.port(number);
                let told = told(world, &mut client, "port", &needing, |client| {
                    ports.push(churn::create(client, &port)?);
                    Ok(())
                })?;
                others += told.besides;
                ensure!(told.sent == needing.len(), "{} of {} nodes were sent a port", told.sent, needing.len());
                times.push(told.took);
            }
            ports.iter().try_for_each(|port| churn::delete(&mut client, port))
        })?;
        let spread = Spread::of_times(&times);
        let needed = if self.layout.kind == Kind::Tenants { "20 nodes each" } else { "one node each" };
        Ok(self
            .timed("port made → every node that needs it has acknowledged, p99", "ms", Measured::p99(spread), Reach::AtMost(50.0))
            .how(format!(
                "From the request to `ladon wait`; p50 {:.1} ms. They were sent to {needed}; nodes that do not need them were sent something {others} times.",
                spread.p50
            )))
    }

    /// One rule after the other that every node needs.
    fn rules(&self, count: usize) -> Result<Figure> {
        let (world, mut client) = (&self.world, self.world.client()?);
        let all: BTreeSet<u32> = (0..self.layout.nodes).collect();
        let (mut times, mut rules) = (Vec::new(), Vec::new());
        let cpu = work::cpu_secs(&world.ladon.server)?;
        self.progress.during(format!("{count} rules that every node needs, one after the other"), || {
            for number in 0..count {
                let told = told(world, &mut client, "rule", &all, |client| {
                    let made = client.create(RULES, &rule(&world.ground.everybody, 9_000 + number as u16))?;
                    rules.push(demo::id(&made["security_group_rule"]).to_string());
                    Ok(())
                })?;
                ensure!(told.sent == all.len(), "{} of {} nodes were sent a rule", told.sent, all.len());
                times.push(told.took);
            }
            Ok::<_, anyhow::Error>(())
        })?;
        let cpu = (work::cpu_secs(&world.ladon.server)? - cpu) / count as f64;
        rules.iter().try_for_each(|rule| client.delete(&format!("{RULES}/{rule}")))?;
        wait_until_in_force(&mut client, PATIENCE)?;
        let spread = Spread::of_times(&times);
        Ok(self.timed("rule made → all nodes have acknowledged, p99", "ms", Measured::p99(spread), Reach::AtMost(500.0)).how(format!(
            "p50 {:.0} ms; {:.0} ms of the server's processor time for each, {:.1} µs per node.",
            spread.p50,
            cpu * 1e3,
            cpu * 1e6 / all.len() as f64
        )))
    }

    /// Ports come and go.
    fn churn(&self, long: Duration) -> Result<Vec<Figure>> {
        let (world, server) = (&self.world, &self.world.ladon.server);
        let before = (work::cpu_secs(server)?, world.status()?);
        let what = format!("{CHANGES_PER_SECOND} port changes per second for {long:?}");
        let watched = self
            .progress
            .during(what, || churn::during(&world.control, &[API], &world.ground, CHANGES_PER_SECOND, || watch(world, long)))?;
        let (churn, watch) = watched;
        let cpu = (work::cpu_secs(server)? - before.0) / churn.took.as_secs_f64();
        wait_until_in_force(&mut world.client()?, PATIENCE)?;
        let after = world.status()?;
        let deltas = (after.deltas - before.1.deltas) as f64 / churn.took.as_secs_f64();
        let Churn { answers, .. } = &churn;
        let (answers, lags) = (Spread::of_times(answers), Spread::of_times(&watch.lags));
        let memory: Vec<String> =
            watch.megabytes.iter().step_by((watch.megabytes.len() / 10).max(1)).map(|mb| format!("{mb:.0}")).collect();
        Ok(vec![
            self.timed("churn: port changes per second", "/s", churn.rate(), Reach::AtLeast(CHANGES_PER_SECOND * 0.98)).how(format!(
                "8 clients make and delete ports on all networks for {:.0} s, answered in {:.1} ms (p50), {:.1} ms (p99); {deltas:.0} deltas per second, and as many \
                 acknowledgements; the server takes {cpu:.2} processors. All that there was at a moment is in force {:.0} ms later (p50), {:.0} ms (p99).",
                churn.took.as_secs_f64(),
                answers.p50,
                answers.p99,
                lags.p50,
                lags.p99
            )),
            self.figure("churn: growth of the server's memory", "%", watch.growth(), Reach::AtMost(5.0))
                .how(format!("From the end of the first fifth to the end; over the time in MB: {}.", memory.join(", "))),
        ])
    }

    /// The server is killed and started again, and all nodes come back at once.
    fn all_at_once(&self) -> Result<Vec<Figure>> {
        let (world, server) = (&self.world, &self.world.ladon.server);
        let before = (megabytes(server)?, world.status()?);
        let (mut ready, mut took) = (Duration::ZERO, Duration::ZERO);
        self.progress.during("the server is killed and started again", || {
            server.kill9()?;
            // Every node has noticed.
            world.wait_for("all nodes to be alone", PATIENCE, |status| status.connected == 0)?;
            let started = Instant::now();
            server.restart()?;
            world.ladon.wait_for_server()?;
            ready = started.elapsed();
            world.wait_in_force()?;
            took = started.elapsed();
            Ok::<_, anyhow::Error>(())
        })?;
        let (peak, after) = (work::peak_megabytes(server)?, world.status()?);
        let how = format!(
            "From the server's start, with handshakes; its API answered after {:.1} s. Nodes were without it for a while and had begun to wait longer between \
             attempts, as `ladon node` does. {} of them got a snapshot, the others what had changed, which was nothing.",
            ready.as_secs_f64(),
            after.snapshots - before.1.snapshots
        );
        Ok(vec![
            self.timed("server restarted → all nodes follow and have acknowledged", "s", took.as_secs_f64(), Reach::AtMost(20.0)).how(how),
            self.figure("… the server's greatest memory meanwhile, by what it was before", "×", peak / before.0, Reach::AtMost(2.0))
                .how(format!("{peak:.0} MB at most, {:.0} MB before the restart, {:.0} MB after it.", before.0, megabytes(server)?)),
        ])
    }
}

/// What is seen of a server while it works.
struct Watch {
    megabytes: Vec<f64>,
    lags: Vec<Duration>,
}

impl Watch {
    /// In percent, from the end of the first fifth to the end.
    fn growth(&self) -> f64 {
        let (first, last) = (self.megabytes[self.megabytes.len() / 5], self.megabytes[self.megabytes.len() - 1]);
        (last / first - 1.0) * 100.0
    }
}

fn watch(world: &World, long: Duration) -> Result<Watch> {
    let mut client = world.client()?;
    let (started, mut watch) = (Instant::now(), Watch { megabytes: Vec::new(), lags: Vec::new() });
    while started.elapsed() < long {
        let asked = Instant::now();
        wait_until_in_force(&mut client, PATIENCE)?;
        watch.lags.push(asked.elapsed());
        watch.megabytes.push(megabytes(&world.ladon.server)?);
        thread::sleep(Duration::from_secs(1).saturating_sub(asked.elapsed()));
    }
    Ok(watch)
}

/// What a node of the flat layout costs, by the size of the cluster.
fn growth(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let nodes = scale.of(1_000, 50);
    let sizes = [(nodes, 20), (nodes, 40), (2 * nodes, 20)];
    let [few, more_ports, more_nodes] = sizes.map(|(nodes, ports)| lone(nodes, ports, progress));
    let (few, more_ports, more_nodes) = (few?, more_ports?, more_nodes?);
    let each = [&few, &more_ports, &more_nodes].map(|lone| {
        let Lone { nodes, ports, flows, local_ports, megabytes } = lone;
        format!("{nodes} nodes of {ports} ports: {flows:.0} flows with {local_ports} local ports, {megabytes:.1} MB")
    });
    let how = format!("One node with 20 ports is a process of its own, which computes its flows. {}.", each.join("; "));
    let figure = |name: &str, value: f64| Figure::new(format!("flat: {name}"), "×", value, Reach::AtMost(1.05)).how(how.clone());
    Ok(vec![
        figure("a node's flows, the other nodes having twice the ports", more_ports.flows / few.flows),
        figure("a node's memory, the other nodes having twice the ports", more_ports.megabytes / few.megabytes),
        Figure::new(
            "flat: a node's flows per node of the cluster, twice the nodes",
            "×",
            more_nodes.flows / few.flows / 2.0,
            Reach::AtMost(1.05),
        )
        .how(how.clone()),
    ])
}

/// One node among many.
struct Lone {
    nodes: u32,
    ports: u32,
    flows: f64,
    local_ports: u64,
    megabytes: f64,
}

/// The last node of a flat layout, in a process of its own. It has 20 ports, whatever the others have.
fn lone(nodes: u32, ports: u32, progress: &Progress) -> Result<Lone> {
    let layout = Layout { kind: Kind::Flat, nodes, ports_of_node: ports };
    let world = World::start(&layout, 0, Store::File, progress)?;
    let mut client = world.client()?;
    let network = &world.ground.networks[0];
    for _ in 0..PORTS_OF_NODE {
        churn::create(&mut client, &layout::port(network, nodes, Kind::Flat))?;
    }
    let process = world.more_nodes("lone", nodes..nodes + 1, 1)?;
    let flows = process.wait_until("the node's flows", PATIENCE, || match world.ask_of::<Status>("lone", "status") {
        Ok(status) => Ok(status.flows.first().copied().filter(|flows| flows.local_ports == u64::from(PORTS_OF_NODE))),
        Err(error) => Err(format!("{error:#}")),
    })?;
    wait_until_in_force(&mut client, PATIENCE)?;
    Ok(Lone { nodes, ports, flows: flows.flows as f64, local_ports: flows.local_ports, megabytes: megabytes(&process)? })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
