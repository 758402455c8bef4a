//! One node at growing sizes, beside OVN's: a fresh start, ports that come and are plugged, edits that concern everything, memory.
//!
//! Both systems are up at the same time, and each works alone: a few pieces of work for one, until it rests, then for the other. At the
//! end, at every size, what is wrong in a request is still told at once.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::Progress;

use super::refusals::refusals;
use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread, thousands};
use crate::ladon::Ladon;
use crate::memory::megabytes;
use crate::ovn::{self, Ovn};
use crate::system::{Cost, Edit, Role, Series, System, rest};
use crate::world::{Shape, World};

/// A size, and how often things are done there.
struct Layout {
    shape: Shape,
    /// Fresh starts of Ladon and of OVN.
    starts: [usize; 2],
    /// Ports that are added, and that are plugged.
    ports: usize,
    /// Edits of each kind.
    edits: usize,
    target: Target,
}

/// What a row that OVN has, too, should reach.
#[derive(Clone, Copy)]
enum Target {
    /// OVN's figure.
    Parity,
    /// The share of OVN's figure that is asked for the row.
    Share,
}

const fn layout(shape: Shape, starts: [usize; 2], ports: usize, edits: usize, target: Target) -> Layout {
    Layout { shape, starts, ports, edits, target }
}

const FLAT_1000: Layout = layout(Shape::flat(10, 1_000, 50), [3, 3], 20, 20, Target::Parity);
const FLAT_10000: Layout = layout(Shape::flat(100, 10_000, 50), [3, 3], 20, 20, Target::Share);
const FLAT_20000: Layout = layout(Shape::flat(200, 20_000, 50), [3, 2], 20, 6, Target::Share);
const TENANTS: Layout = layout(Shape::of(100, 10, 10_000, 50), [3, 3], 20, 0, Target::Share);
const SMALL: Layout = layout(Shape::flat(4, 200, 8), [1, 1], 4, 2, Target::Share);
const SMALL_TENANTS: Layout = layout(Shape::of(4, 2, 200, 8), [1, 1], 4, 0, Target::Share);
/// The two take turns so often.
const ROUNDS: usize = 2;
/// What a row says of the cost of a piece of work.
const CPU: &str = "processor time";

const EDITS: [(Edit, &str); 4] = [
    (Edit::Rule, "add a security rule"),
    (Edit::Router, "add a router"),
    (Edit::Network, "add a network with a subnet"),
    (Edit::Interface, "add a router interface"),
];

pub fn flat_1000(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    run(scale.of(FLAT_1000, SMALL), progress)
}

pub fn flat_10000(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    run(scale.of(FLAT_10000, SMALL), progress)
}

pub fn flat_20000(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    run(scale.of(FLAT_20000, SMALL), progress)
}

pub fn tenants(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    run(scale.of(TENANTS, SMALL_TENANTS), progress)
}

fn run(layout: Layout, progress: &Progress) -> Result<Vec<Figure>> {
    let release = ovn::release(progress)?;
    let mut ladon = Ladon::start(Some(&release), layout.shape, progress)?;
    let host = ladon.world.host("ovn", 21)?;
    let mut ovn = Ovn::start(&host, &release, layout.shape, progress)?;
    layout.measure(&mut ladon, &mut ovn, progress).with_context(|| ladon.world.ladon.logs())
}

/// What one system did at one size.
#[derive(Default)]
struct Measures {
    start: Series,
    flows: u64,
    memory: [f64; 2],
    add: Series,
    plug: Series,
    edits: [Series; EDITS.len()],
}

impl Layout {
    fn measure(&self, ladon: &mut Ladon, ovn: &mut Ovn, progress: &Progress) -> Result<Vec<Figure>> {
        let [mut ours, mut theirs] = [Measures::default(), Measures::default()];
        progress.during(format!("fresh starts, {}", self.name()), || {
            for turn in 0..self.starts.into_iter().max().unwrap_or(0) {
                if turn < self.starts[0] {
                    ours.start(ladon)?;
                }
                if turn < self.starts[1] {
                    theirs.start(ovn)?;
                }
            }
            ours.weigh(ladon)?;
            theirs.weigh(ovn)
        })?;
        progress.during(format!("ports and edits, {}", self.name()), || {
            ladon.begin()?;
            ladon.prepare(self.ports, self.ports)?;
            ovn.prepare(self.ports, self.ports)?;
            for round in 0..ROUNDS {
                self.round(&mut ours, ladon, round)?;
                self.round(&mut theirs, ovn, round)?;
            }
            anyhow::Ok(())
        })?;
        let mut figures = self.figures(&ours, &theirs);
        figures.push(self.refusals(&ladon.world)?);
        Ok(figures)
    }

    fn refusals(&self, world: &World) -> Result<Figure> {
        let (share, how) = refusals(world)?;
        Ok(self.figure("bad requests answered at once with a clear error", "%", share, Reach::AtLeast(100.0)).how(how))
    }

    fn round(&self, measures: &mut Measures, system: &mut dyn System, round: usize) -> Result<()> {
        let part = |of: usize| -> Range<usize> { of * round / ROUNDS..of * (round + 1) / ROUNDS };
        rest(system)?;
        measures.add.run(system, part(self.ports), |system, number| system.add_local(number))?;
        measures.plug.run(system, part(self.ports), |system, number| system.plug(number))?;
        for ((edit, _), series) in EDITS.iter().zip(&mut measures.edits) {
            series.run(system, part(self.edits), |system, number| system.add(*edit, number))?;
        }
        Ok(())
    }

    fn name(&self) -> String {
        let Shape { routers, ports, .. } = self.shape;
        let ports = thousands(ports);
        if routers == 1 { format!("{ports} ports on one router") } else { format!("{ports} ports of {routers} tenants") }
    }

    fn figures(&self, ours: &Measures, theirs: &Measures) -> Vec<Figure> {
        let reach = |share: f64| match self.target {
            Target::Parity => Reach::AtMostOfPeer(1.0),
            Target::Share => Reach::AtMostOfPeer(share),
        };
        let mut figures = Vec::new();
        figures.extend(self.of_series("fresh start of a node", [&ours.start, &theirs.start], reach(0.1)).map(|figure| {
            figure.how(format!(
                "Fresh start: the node's program was killed, what it remembers and its switch's flows were taken away, its {} interfaces left there; \
                 from its start until all flows are in the switch and every local port is up, {} and {} times, in turns. The center is full and running, and on the \
                 node's own host: the server on n1, as OVN's databases are on their chassis. OVN says that it is done before the last flows: what counts is when their \
                 number stands still.",
                self.shape.local, self.starts[0], self.starts[1]
            ))
        }));
        figures
            .push(self.figure("flows after a fresh start", "flows", ours.flows as f64, reach(1.0 / 3.0)).against(OVN, theirs.flows as f64));
        let [(node, central), (their_node, their_central)] = [ours.memory, theirs.memory].map(|[node, central]| (node, central));
        let resident = "Memory is what is resident (VmRSS) after the fresh starts; everything central is `ladon server`, or northd and both databases' \
                        servers; the switch is in neither.";
        let why = "before there is anything in its view, the program takes some 18 MB, half of it pages of its file, which the kernel shares and takes back";
        let memory = self.figure("memory of the node's program", "MB", node, reach(0.2)).against(OVN, their_node);
        figures.push(memory.how(resident).if_short(why));
        figures
            .push(self.figure("memory of everything central", "MB", central, reach(1.0 / 6.0)).against(OVN, their_central).how(resident));
        figures.extend(self.of_series("add and bind a local port", [&ours.add, &theirs.add], reach(1.0 / 30.0)).map(|figure| {
            figure.how(
                "Add: one write to the API (the northbound database) while the interface is there, until the server (`hv_cfg`) says that it is in force \
                 on the node, after its switch's barrier. Edits are the same, of rules, routers, networks, and interfaces of the first router. \
                 Processor time is all that the system's central processes and the node's program used until they rested, by the number of operations.",
            )
        }));
        figures.extend(self.of_series("plug an existing port", [&ours.plug, &theirs.plug], reach(1.0 / 15.0)).map(|figure| {
            figure.how(
                "Plug: an interface of the switch is given the iface-id of a port that is there, until the API says that the port is ACTIVE \
                 (the northbound database that it is up). Ladon is asked every half millisecond, OVN tells by itself.",
            )
            .if_short(super::FIXED)
        }));
        for ((_, what), (ours, theirs)) in EDITS.iter().zip(ours.edits.iter().zip(&theirs.edits)).filter(|_| self.edits > 0) {
            figures.extend(self.of_series(what, [ours, theirs], reach(1.0 / 50.0)));
        }
        figures
    }

    fn figure(&self, what: &str, unit: &str, ladon: impl Into<Measured>, reach: Reach) -> Figure {
        let figure = Figure::new(format!("{what}, {}", self.name()), unit, ladon, reach);
        if self.shape.routers == 1 { figure.at(what, self.shape.ports) } else { figure }
    }

    /// The time that passed, and the time of processors, of the same work by both.
    fn of_series(&self, what: &str, [ours, theirs]: [&Series; 2], reach: Reach) -> [Figure; 2] {
        let p50 = |series: &Series| Measured::p50(Spread::of_times(&series.times));
        let cpu = |series: &Series| series.cost.control().as_secs_f64() * 1000.0 / series.times.len() as f64;
        [
            self.figure(what, "ms", p50(ours), reach).against(OVN, p50(theirs)),
            self.figure(&format!("{CPU}: {what}"), "ms", cpu(ours), reach).against(OVN, cpu(theirs)),
        ]
    }
}

const OVN: &str = "OVN 25.03";

impl Measures {
    fn start(&mut self, system: &mut dyn System) -> Result<()> {
        rest(system)?;
        system.empty()?;
        system.begin()?;
        let before = Cost::of(system);
        let took: Duration = system.start()?;
        rest(system)?;
        self.start.cost += Cost::of(system).since(before)?;
        self.start.times.push(took);
        Ok(())
    }

    /// What there is after the starts.
    fn weigh(&mut self, system: &dyn System) -> Result<()> {
        self.flows = system.flows()?;
        for (role, process) in system.processes() {
            match role {
                Role::Node => self.memory[0] += megabytes(process)?,
                Role::Central => self.memory[1] += megabytes(process)?,
                Role::Switch => {}
            }
        }
        Ok(())
    }
}
