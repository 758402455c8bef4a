//! Thousands of nodes on one server: what they cost it, and how fast they hear of changes.
//!
//! ```text
//! bench ── REST ──▶ ladon server ── 5,000 streams, TLS ──▶ fleet (one process that is 5,000 nodes)
//!   └───────────────── what the nodes have seen ◀────────────┘
//! ```
//!
//! Everything runs on one machine; the rows say how much of it server and nodes took. A change counts as in force when the server has
//! heard so from every node that it concerns (`ladon wait`).

mod churn;
mod kinds;
mod layout;
mod shared;
mod work;
mod world;

use std::collections::BTreeSet;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::Progress;

use self::churn::Demand;
use self::kinds::{Told, told};
use self::layout::{Kind, Layout};
use self::world::{Status, Store, World, wait_until_in_force};
use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread};
use crate::memory::megabytes;
use crate::neutron::{RULES, ingress, make_rule, tcp};
use crate::ports::API;

pub use shared::run as run_shared;

/// How long it may take until all is in force again.
const PATIENCE: Duration = Duration::from_secs(120);
/// Ports that change in a second.
const CHANGES_PER_SECOND: f64 = 500.0;
/// Clients that change them: many, since each waits for disks.
const CLIENTS: usize = 32;
const PORTS_OF_NODE: u32 = 20;
/// Why something may take longer here than between machines.
const CROWDED: &str = "server, nodes and clients share the processors of one machine";

/// How much is done.
struct Amounts {
    nodes: u32,
    ports: usize,
    rules: usize,
    idle: Duration,
    churn: Duration,
}

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let secs = Duration::from_secs;
    let full = Amounts { nodes: 5_000, ports: 300, rules: 30, idle: secs(30), churn: secs(600) };
    let small = Amounts { nodes: 100, ports: 30, rules: 5, idle: secs(6), churn: secs(10) };
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
    let resting = megabytes(&run.world.ladon.server)?;
    figures.push(run.kinds()?);
    figures.extend(run.ports(amounts.ports)?);
    figures.extend(run.rules(amounts.rules)?);
    let churn = wanted(CHURN_SECS).map_or(amounts.churn, |secs| Duration::from_secs(secs.into()));
    figures.extend(run.churn(churn)?);
    figures.push(run.most_memory()?);
    figures.extend(run.all_at_once(resting)?);
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
             that only counts. The layout was made through the API in {:.0} s.",
            self.layout.what(),
            each(objects),
            flows.len(),
            self.world.made_in.as_secs_f64(),
        );
        let first = "all nodes come for the first time with nothing: until all have their view in force";
        let first_how = format!(
            "From the start of their process, with handshakes: {snapshots} snapshots of {:.0} KB.",
            snapshot_bytes as f64 / snapshots.max(1) as f64 / 1e3
        );
        let idle_how =
            format!("Over {idle:?} without any change: heartbeats and reports every 5 s, HTTP/2 pings every 10 s in both directions.");
        Ok(vec![
            self.figure("memory of `ladon server` at rest", "MB", megabytes(server)?, Reach::AtMost(1_000.0)).how(what),
            self.figure(first, "s", self.world.came_in.as_secs_f64(), Reach::NoTarget).how(first_how),
            self.figure("idle, processor of `ladon server` per node", "µs/s", cpu / nodes * 1e6, Reach::AtMost(100.0))
                .how(idle_how.clone()),
            self.figure("idle, traffic per node", "B/s", bytes / nodes, Reach::AtMost(500.0))
                .how(format!("{idle_how} All bytes on the loopback, both directions, with the headers of TLS, TCP and IP.")),
        ])
    }

    /// Changes of every kind reach those who need them, and nobody else.
    fn kinds(&self) -> Result<Figure> {
        let told = self.progress.during("changes of every kind", || kinds::of_every_kind(&self.world))?;
        let inexact: Vec<&Told> = told.iter().filter(|told| !told.is_exact()).collect();
        let wrong = |told: &&Told| {
            format!(
                "{}: {} nodes need it, {} of them and {} others were sent something; {} bytes in all, {} to one",
                told.what, told.needing, told.sent, told.besides, told.bytes, told.bytes_each
            )
        };
        let wrong: Vec<String> = inexact.iter().map(wrong).collect();
        let list: Vec<String> =
            told.iter().map(|told| format!("{} {} × {} B in {:.0} ms", told.what, told.needing, told.bytes_each, ms(told.took))).collect();
        let share = (told.len() - inexact.len()) as f64 / told.len() as f64 * 100.0;
        let how = format!(
            "{} changes of all kinds of objects; bytes are those of objects in the deltas that nodes received, summed over all nodes and equal to \
             the number of nodes that need the change by the bytes that one gets: {}. Not among them: {}.",
            told.len(),
            list.join("; "),
            kinds::left_out(self.layout.kind)
        );
        Ok(self
            .figure("changes that were sent to just the nodes that need them", "%", share, Reach::AtLeast(100.0))
            .how(how)
            .if_short(wrong.join("; ")))
    }

    /// One port after the other is made.
    fn ports(&self, count: usize) -> Result<Vec<Figure>> {
        let (world, mut client) = (&self.world, self.world.client()?);
        let (mut times, mut ports, mut others, mut missed) = (Vec::new(), Vec::new(), 0, 0);
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
                missed += told.missed();
                times.push(told.took);
            }
            ports.iter().try_for_each(|port| churn::delete(&mut client, port))
        })?;
        let spread = Spread::of_times(&times);
        let needed = if self.layout.kind == Kind::Tenants { "The 20 nodes of its network" } else { "No other nodes than its own" };
        let how = format!("From the request to `ladon wait`; p50 {:.1} ms. {needed} need a port.", spread.p50);
        Ok(vec![
            self.timed("port made → every node that needs it has acknowledged, p99", "ms", Measured::p99(spread), Reach::AtMost(50.0))
                .how(how),
            self.figure("ports made: nodes that were sent one that they do not need", "nodes", others as f64, Reach::AtMost(0.0)),
            self.figure("ports made: nodes that need one and were sent nothing", "nodes", missed as f64, Reach::AtMost(0.0)),
        ])
    }

    /// One rule after the other that every node needs.
    fn rules(&self, count: usize) -> Result<Vec<Figure>> {
        let (world, mut client) = (&self.world, self.world.client()?);
        let all: BTreeSet<u32> = (0..self.layout.nodes).collect();
        let (mut times, mut rules, mut missed) = (Vec::new(), Vec::new(), 0);
        let cpu = work::cpu_secs(&world.ladon.server)?;
        self.progress.during(format!("{count} rules that every node needs, one after the other"), || {
            for number in 0..count {
                let told = told(world, &mut client, "rule", &all, |client| {
                    rules.push(make_rule(client, &ingress(&world.ground.everybody, &[tcp(9_000 + number)]))?);
                    Ok(())
                })?;
                missed += told.missed();
                times.push(told.took);
            }
            Ok::<_, anyhow::Error>(())
        })?;
        let cpu = (work::cpu_secs(&world.ladon.server)? - cpu) / count as f64;
        rules.iter().try_for_each(|rule| client.delete(&format!("{RULES}/{rule}")))?;
        wait_until_in_force(&mut client, PATIENCE)?;
        let spread = Spread::of_times(&times);
        let how = format!(
            "p50 {:.0} ms; {:.0} ms of the server's processor time for each, {:.1} µs per node.",
            spread.p50,
            cpu * 1e3,
            cpu * 1e6 / all.len() as f64
        );
        Ok(vec![
            self.timed("rule made → all nodes have acknowledged, p99", "ms", Measured::p99(spread), Reach::AtMost(500.0)).how(how),
            self.figure("rules made: nodes that were sent nothing", "nodes", missed as f64, Reach::AtMost(0.0)),
        ])
    }

    /// Ports come and go.
    fn churn(&self, long: Duration) -> Result<Vec<Figure>> {
        let world = &self.world;
        let (before, cpu) = (world.status()?, Cpu::used(world)?);
        let what = format!("{CHANGES_PER_SECOND} port changes per second for {long:?}");
        let demand = Demand { per_second: CHANGES_PER_SECOND, clients: CLIENTS };
        let watched = self.progress.during(what, || churn::during(&world.control, &[API], &world.ground, demand, || watch(world, long)))?;
        let (churn, watch) = watched;
        let (ended, busy, after) = (Instant::now(), cpu.until_now(world)?, world.status()?);
        wait_until_in_force(&mut world.client()?, PATIENCE)?;
        let settled = ended.elapsed();
        churn.tidy(&world.control)?;
        wait_until_in_force(&mut world.client()?, PATIENCE)?;
        let deltas = (after.deltas - before.deltas) as f64 / churn.took.as_secs_f64();
        let (answers, lags) = (Spread::of_times(&churn.answers), Spread::of_times(&watch.lags));
        let why = format!("{CROWDED}; {busy}");
        let memory: Vec<String> =
            watch.megabytes.iter().step_by((watch.megabytes.len() / 10).max(1)).map(|mb| format!("{mb:.0}")).collect();
        let how = format!(
            "{CLIENTS} clients make and delete ports on all networks for {:.0} s, answered in {:.1} ms (p50). {} {deltas:.0} deltas per second, and as \
             many acknowledgements; {busy}. All that there was at a moment is in force {:.0} ms later (p50), {:.0} ms (p99), and all that there was at \
             the end {:.0} ms after it.",
            churn.took.as_secs_f64(),
            answers.p50,
            churn.failures(),
            lags.p50,
            lags.p99,
            ms(settled)
        );
        Ok(vec![
            self.figure("churn: port changes per second", "/s", churn.rate(), Reach::AtLeast(CHANGES_PER_SECOND * 0.98))
                .how(how)
                .if_short(why.clone()),
            self.figure("churn: answers of the API, p99", "ms", Measured::p99(answers), Reach::AtMost(1_000.0))
                .how("From when a change was due.")
                .if_short(why),
            self.figure("churn: growth of the server's memory", "%", watch.growth(), Reach::AtMost(5.0))
                .how(format!("From the end of the first fifth to the end; over the time in MB: {}.", memory.join(", "))),
        ])
    }

    /// All that the server has gone through.
    fn most_memory(&self) -> Result<Figure> {
        let most = work::peak_megabytes(&self.world.ladon.server)?;
        Ok(self
            .figure("memory of `ladon server`, the most until it is restarted", "MB", most, Reach::AtMost(1_000.0))
            .how("Since its start: the layout was made, all nodes came, and everything above."))
    }

    /// The server is killed and started again, and all nodes come back at once. `resting`: its memory before anything was changed.
    fn all_at_once(&self, resting: f64) -> Result<Vec<Figure>> {
        let (world, server) = (&self.world, &self.world.ladon.server);
        let before = (megabytes(server)?, world.status()?);
        let (mut ready, mut took, mut busy) = (Duration::ZERO, Duration::ZERO, Busy::default());
        self.progress.during("the server is killed and started again", || {
            server.kill9()?;
            // Every node has noticed.
            world.wait_for("all nodes to be alone", PATIENCE, |status| status.connected == 0)?;
            let started = Instant::now();
            server.restart()?;
            let cpu = Cpu::used(world)?;
            world.ladon.wait_for_server()?;
            ready = started.elapsed();
            world.wait_in_force()?;
            took = started.elapsed();
            busy = cpu.until_now(world)?;
            Ok::<_, anyhow::Error>(())
        })?;
        let (peak, after) = (work::peak_megabytes(server)?, world.status()?);
        let how = format!(
            "From the server's start, with handshakes; its API answered after {:.1} s. Nodes were without it for a while and had begun to wait longer between \
             attempts, as `ladon node` does. {} of them got a snapshot, the others what had changed, which was nothing. Meanwhile {busy}.",
            ready.as_secs_f64(),
            after.snapshots - before.1.snapshots
        );
        Ok(vec![
            self.figure("server restarted → all nodes follow and have acknowledged", "s", took.as_secs_f64(), Reach::AtMost(20.0))
                .how(how)
                .if_short(format!("{CROWDED}; {busy}")),
            self.figure("… the server's greatest memory meanwhile, by what it was at rest", "×", peak / resting, Reach::AtMost(2.0)).how(format!(
                "{peak:.0} MB at most, {resting:.0} MB at rest before anything was changed, {:.0} MB right before the restart, {:.0} MB after it.",
                before.0,
                megabytes(server)?
            )),
        ])
    }
}

/// Processor time that the server and all nodes together have used so far.
struct Cpu {
    at: Instant,
    server_secs: f64,
    nodes_secs: f64,
}

/// Processors that they kept busy on average.
#[derive(Default)]
struct Busy {
    server: f64,
    nodes: f64,
}

impl Cpu {
    fn used(world: &World) -> Result<Cpu> {
        let (server_secs, nodes_secs) = (work::cpu_secs(&world.ladon.server)?, work::cpu_secs(&world.fleet)?);
        Ok(Cpu { at: Instant::now(), server_secs, nodes_secs })
    }

    fn until_now(&self, world: &World) -> Result<Busy> {
        let now = Cpu::used(world)?;
        let secs = (now.at - self.at).as_secs_f64();
        Ok(Busy { server: (now.server_secs - self.server_secs) / secs, nodes: (now.nodes_secs - self.nodes_secs) / secs })
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server took {:.2} processors, the nodes {:.2}", self.server, self.nodes)
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
