//! Ladon by itself, up to 100,000 ports: what a change costs does not depend on how much there is that it is not about.
//!
//! Worlds of several sizes run side by side and take turns, so that a busy machine is busy for all of them. The counters are the
//! node's own: runs of apps, things that they read, flows that they made, actions that were written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::Progress;
use serde_json::Value;

use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread, thousands};
use crate::ladon::Ladon;
use crate::memory::megabytes;
use crate::system::{Cost, Edit, Role, Series, System, rest};
use crate::world::Shape;

/// In each, ten networks have one local port.
const FULL: [Shape; 3] = [Shape::flat(10, 1_000, 10), Shape::flat(100, 10_000, 10), Shape::flat(1_000, 100_000, 10)];
const SMALL: [Shape; 2] = [Shape::flat(4, 100, 4), Shape::flat(8, 800, 4)];
/// The names of the counters.
const COUNTERS: [&str; 4] = ["runs", "reads", "made", "written"];

/// A piece of work, and what takes it back.
type Step = fn(&mut Ladon, usize) -> Result<Duration>;

const STEPS: [(&str, Step, Step); 5] = [
    ("a local port", |ladon, number| ladon.add_local(number), Ladon::remove_local),
    ("another node's port", Ladon::add_remote, Ladon::remove_remote),
    ("a security rule", |ladon, number| ladon.add(Edit::Rule, number), |ladon, number| ladon.undo(Edit::Rule, number)),
    ("a network", |ladon, number| ladon.add(Edit::Network, number), |ladon, number| ladon.undo(Edit::Network, number)),
    ("a router", |ladon, number| ladon.add(Edit::Router, number), |ladon, number| ladon.undo(Edit::Router, number)),
];

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let (shapes, rounds, each, starts) = scale.of((&FULL[..], 5, 50, 3), (&SMALL[..], 2, 4, 1));
    let mut worlds = Vec::new();
    for shape in shapes {
        let mut ladon = Ladon::start(None, *shape, progress)?;
        ladon.prepare(each, 0)?;
        worlds.push(One { ladon, steps: BTreeMap::new() });
    }
    progress.during(format!("{rounds} rounds in turns"), || {
        for _ in 0..rounds {
            for (number, (name, add, remove)) in STEPS.iter().enumerate() {
                for world in &mut worlds {
                    world.step(number, 0..each, *add, *remove).with_context(|| (*name).to_string())?;
                }
            }
        }
        anyhow::Ok(())
    })?;
    let mut figures: Vec<Figure> = STEPS.iter().enumerate().flat_map(|(number, (name, ..))| growth(name, number, &worlds)).collect();
    let largest = worlds.last_mut().context("there are sizes")?;
    figures.extend(progress.during("fresh starts of the largest", || largest.alone(starts))?);
    Ok(figures)
}

/// A world, and what was done there.
struct One {
    ladon: Ladon,
    steps: BTreeMap<usize, Done>,
}

/// All rounds of one piece of work and what takes it back.
#[derive(Default)]
struct Done {
    adding: Vec<Duration>,
    /// Processor time of the server and the node for one of both, in each round.
    cpu: Vec<f64>,
    /// Of one of both, on average of a round.
    work: Vec<[f64; COUNTERS.len()]>,
}

impl One {
    fn step(&mut self, number: usize, each: Range<usize>, add: Step, remove: Step) -> Result<()> {
        let ladon = &mut self.ladon;
        rest(ladon)?;
        ladon.begin()?;
        let (cost, work, count) = (Cost::of(ladon), ladon.work()?, each.len() as f64);
        let done = self.steps.entry(number).or_default();
        for number in each.clone() {
            done.adding.push(add(ladon, number)?);
        }
        each.clone().try_for_each(|number| remove(ladon, number).map(drop))?;
        rest(ladon)?;
        let after = ladon.work()?;
        done.cpu.push(Cost::of(ladon).since(cost)?.control().as_secs_f64() * 1000.0 / count);
        done.work.push(COUNTERS.map(|counter| (counted(&after, counter) - counted(&work, counter)) / count));
        Ok(())
    }

    /// What there is no other size for.
    fn alone(&mut self, starts: usize) -> Result<Vec<Figure>> {
        let size = self.ladon.shape().ports;
        let mut series = Series::default();
        for _ in 0..starts {
            self.ladon.empty()?;
            self.ladon.begin()?;
            let before = Cost::of(&self.ladon);
            series.times.push(self.ladon.start()?);
            rest(&self.ladon)?;
            series.cost += Cost::of(&self.ladon).since(before)?;
        }
        let flows = self.ladon.flows()?;
        let cpu = series.cost.control().as_secs_f64() / starts as f64;
        let name = |what: &str| format!("{what}, {} ports on one router, no peer", thousands(size));
        let start = Figure::new(
            name("fresh start of a node"),
            "ms",
            Measured::p50(Spread::of_times(&series.times)),
            Reach::AtMost(7_000.0),
        )
        .at("fresh start of a node", size)
        .how(format!(
            "Of {} ports, as above: {flows} flows; {cpu:.1} s of processor time of server and node. It is to take no longer than OVN's \
                          with a tenth of the ports, some 7 s.",
            thousands(size)
        ))
        .if_short(super::ONE_THREAD);
        let mut figures = vec![start];
        for (role, what, most) in
            [(Role::Node, "memory of the node's program", 1_000.0), (Role::Central, "memory of everything central", 1_300.0)]
        {
            let processes = self.ladon.processes();
            let process = processes.iter().find(|(its, _)| *its == role).context("every part runs")?.1;
            figures.push(Figure::new(name(what), "MB", megabytes(process)?, Reach::AtMost(most)).at(what, size));
        }
        Ok(figures)
    }
}

fn counted(work: &Value, counter: &str) -> f64 {
    work[counter].as_u64().unwrap_or(0) as f64
}

/// How one piece of work grows from the smallest to the largest world.
fn growth(name: &str, number: usize, worlds: &[One]) -> Vec<Figure> {
    let done: Vec<&Done> = worlds.iter().filter_map(|world| world.steps.get(&number)).collect();
    let sizes: Vec<usize> = worlds.iter().map(|world| world.ladon.shape().ports).collect();
    let [Some(least), Some(most)] = [done.first(), done.last()] else { return Vec::new() };
    let cpu = |done: &Done| Spread::of(&done.cpu).p50;
    let last = |done: &Done| *done.work.last().expect("there were rounds");
    let told = |one: fn(&Done) -> String| -> String {
        let each = sizes.iter().zip(&done).map(|(size, done)| format!("{} ports: {}", thousands(*size), one(done)));
        each.collect::<Vec<_>>().join("; ")
    };
    let times = told(|done| {
        let Spread { p50, .. } = Spread::of_times(&done.adding);
        format!("{p50:.2} ms, {:.2} ms of processor time", Spread::of(&done.cpu).p50)
    });
    let counters = told(|done| {
        let work = done.work.last().expect("there were rounds");
        COUNTERS.iter().zip(work).map(|(name, count)| format!("{count:.1} {name}")).collect::<Vec<_>>().join(", ")
    });
    let ratio =
        last(most).iter().zip(last(least)).map(|(most, least)| if least == 0.0 { 1.0 + most } else { most / least }).fold(0.0, f64::max);
    let why = if ratio <= 1.0 { CACHES } else { "" };
    let span = format!("{} ports by {}", thousands(*sizes.last().expect("sizes")), thousands(sizes[0]));
    let mut figures = vec![
        Figure::new(format!("work for {name}: the counter that grows most, {span}"), "×", ratio, Reach::AtMost(1.0))
            .how(format!("Adding {name} and taking it away: {counters}.")),
        Figure::new(format!("{CPU} for {name}, {span}"), "×", cpu(most) / cpu(least), Reach::AtMost(1.2))
            .how(format!("Adding {name} (p50) and, of processor time, taking it away, too: {times}."))
            .if_short(why),
    ];
    for (size, done) in sizes.iter().zip(&done) {
        let at = format!("{CPU}: {name}, added and removed");
        let figure = Figure::new(format!("{at}, {} ports", thousands(*size)), "ms", cpu(done), Reach::AtMost(cpu(least) * 1.2));
        figures.push(figure.at(&at, *size).if_short(why));
    }
    figures
}

const CPU: &str = "processor time";
/// Why the same work may take longer where there is more.
const CACHES: &str = "the counters are equal; what is looked up lies in maps that are larger than the processor's caches";
