//! Ladon by itself, up to 100,000 ports: what a change costs does not depend on how much there is that it is not about.
//!
//! Worlds of several sizes run side by side and take turns, so that a busy machine is busy for all of them. The counters are the
//! node's own: runs of apps, things that they read and networks and routers visited, flows that they made, actions that were written.

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
const FULL: [Shape; 3] =
    [on_few(Shape::flat(10, 1_000, 10)), on_few(Shape::flat(100, 10_000, 10)), on_few(Shape::flat(1_000, 100_000, 10))];
const SMALL: [Shape; 2] = [on_few(Shape::flat(4, 100, 4)), on_few(Shape::flat(8, 800, 4))];

/// The other nodes are as many at every size: each of them needs what happens on its router, which costs the server something for each.
/// Their number is prime, so that every network has ports on all of them.
const fn on_few(shape: Shape) -> Shape {
    Shape { elsewhere: 19, ..shape }
}

/// The names of the counters.
const COUNTERS: [&str; 4] = ["runs", "reads", "made", "written"];

/// Something that is done with the node's world, with a number that makes it new; how long it took.
type Work = fn(&mut Ladon, usize) -> Result<Duration>;

/// A piece of work, and what takes it back.
struct Step {
    name: &'static str,
    add: Work,
    remove: Work,
    /// Why its work may grow.
    why_growing: &'static str,
}

const fn step(name: &'static str, add: Work, remove: Work) -> Step {
    Step { name, add, remove, why_growing: "" }
}

const STEPS: [Step; 6] = [
    step("a local port", |ladon, number| ladon.add_local(number), Ladon::remove_local),
    step("another node's port", Ladon::add_remote, Ladon::remove_remote),
    step("a security rule", |ladon, number| ladon.add(Edit::Rule, number), |ladon, number| ladon.undo(Edit::Rule, number)),
    step("a network", |ladon, number| ladon.add(Edit::Network, number), |ladon, number| ladon.undo(Edit::Network, number)),
    step("a router", |ladon, number| ladon.add(Edit::Router, number), |ladon, number| ladon.undo(Edit::Router, number)),
    Step {
        name: "a network with a router interface",
        add: |ladon, number| Ok(ladon.add(Edit::Network, number)? + ladon.add(Edit::Interface, number)?),
        remove: |ladon, number| Ok(ladon.undo(Edit::Interface, number)? + ladon.undo(Edit::Network, number)?),
        why_growing: "the networks and routers of the routing domain are visited, and larger worlds have more networks",
    },
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
            for (number, step) in STEPS.iter().enumerate() {
                for world in &mut worlds {
                    world.step(number, 0..each, step).context(step.name)?;
                }
            }
        }
        anyhow::Ok(())
    })?;
    let mut figures: Vec<Figure> = STEPS.iter().enumerate().flat_map(|(number, step)| growth(step, number, &worlds)).collect();
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
    work: Vec<Counts>,
}

impl One {
    fn step(&mut self, number: usize, each: Range<usize>, step: &Step) -> Result<()> {
        let ladon = &mut self.ladon;
        rest(ladon)?;
        ladon.begin()?;
        let (cost, work, count) = (Cost::of(ladon), counted(&ladon.work()?)?, each.len() as f64);
        let done = self.steps.entry(number).or_default();
        for number in each.clone() {
            done.adding.push((step.add)(ladon, number)?);
        }
        each.clone().try_for_each(|number| (step.remove)(ladon, number).map(drop))?;
        rest(ladon)?;
        let after = counted(&ladon.work()?)?;
        done.cpu.push(Cost::of(ladon).since(cost)?.control().as_secs_f64() * 1000.0 / count);
        done.work.push(std::array::from_fn(|counter| (after[counter] - work[counter]) / count));
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
            "A fresh start as in `node-10000`, of {} ports, {starts} times: {flows} flows; {cpu:.1} s of processor time of server and node. The bound is \
             this benchmark's own, since nobody asks for one: about as long as OVN's fresh start takes with a tenth of the ports, which is measured there.",
            thousands(size)
        ))
        .if_short(super::ONE_THREAD);
        let mut figures = vec![start];
        for (role, what) in [(Role::Node, "memory of the node's program"), (Role::Central, "memory of everything central")] {
            let processes = self.ladon.processes();
            let process = processes.iter().find(|(its, _)| *its == role).context("every part runs")?.1;
            let how = "Memory is what is resident (VmRSS) after these fresh starts, and nobody says how much it may be.";
            figures.push(Figure::new(name(what), "MB", megabytes(process)?, Reach::NoTarget).at(what, size).how(how));
        }
        Ok(figures)
    }
}

/// The counters, in the order of their names.
type Counts = [f64; COUNTERS.len()];

fn counted(work: &Value) -> Result<Counts> {
    let mut counts = Counts::default();
    for (count, counter) in counts.iter_mut().zip(COUNTERS) {
        *count = work[counter].as_u64().with_context(|| format!("ladon node does not count its {counter}: {work}"))? as f64;
    }
    Ok(counts)
}

/// The most by the least of the counter that differs most, between any two.
fn largest_ratio(all: &[Counts]) -> f64 {
    let ratio = |counter: usize| {
        let Spread { min, p99: max, .. } = of_rounds(all, counter);
        if min == 0.0 { 1.0 + max } else { max / min }
    };
    (0..COUNTERS.len()).map(ratio).fold(0.0, f64::max)
}

/// One counter in all rounds: there are too few of them for a percentile that is not the greatest.
fn of_rounds(rounds: &[Counts], counter: usize) -> Spread {
    Spread::of(&rounds.iter().map(|round| round[counter]).collect::<Vec<_>>())
}

/// How one piece of work grows from the smallest to the largest world.
fn growth(step: &Step, number: usize, worlds: &[One]) -> Vec<Figure> {
    let name = step.name;
    let done: Vec<(usize, &Done)> =
        worlds.iter().filter_map(|world| Some((world.ladon.shape().ports, world.steps.get(&number)?))).collect();
    let [(smallest, least), .., (largest, most)] = done.as_slice() else { return Vec::new() };
    let cpu = |done: &Done| Spread::of(&done.cpu).p50;
    let told = |one: fn(&Done) -> String| -> String {
        let each = done.iter().map(|(size, done)| format!("{} ports: {}", thousands(*size), one(done)));
        each.collect::<Vec<_>>().join("; ")
    };
    let times = told(|done| {
        let Spread { p50, .. } = Spread::of_times(&done.adding);
        format!("{p50:.2} ms, {:.2} ms of processor time", Spread::of(&done.cpu).p50)
    });
    let counters = told(|done| {
        let shown = |(place, name): (usize, &str)| match of_rounds(&done.work, place) {
            Spread { min, p99, .. } if min == p99 => format!("{min:.1} {name}"),
            Spread { min, p99, .. } => format!("{min:.1} to {p99:.1} {name}"),
        };
        COUNTERS.into_iter().enumerate().map(shown).collect::<Vec<_>>().join(", ")
    });
    // What comes together is done together, which is chance: of the rounds the one in the middle counts.
    let median = |done: &Done| std::array::from_fn(|counter| of_rounds(&done.work, counter).p50);
    let ratio = largest_ratio(&done.iter().map(|(_, done)| median(done)).collect::<Vec<Counts>>());
    let why = if ratio <= 1.0 { CACHES } else { step.why_growing };
    let span = format!("{} ports by {}", thousands(*largest), thousands(*smallest));
    let mut figures = vec![
        Figure::new(
            format!("work for {name}: the counter that differs most, {} to {} ports", thousands(*smallest), thousands(*largest)),
            "most by least",
            ratio,
            Reach::AtMost(1.0),
        )
        .how(format!("Adding {name} and taking it away, all rounds: {counters}."))
        .if_short(step.why_growing),
        Figure::new(format!("{CPU} for {name}, {span}"), "×", cpu(most) / cpu(least), Reach::AtMost(1.2))
            .how(format!("Adding {name} (p50) and, of processor time, taking it away, too: {times}."))
            .if_short(why),
    ];
    for (size, done) in &done {
        let at = format!("{CPU}: {name}, added and removed");
        // The smallest is what the others are compared with.
        let reach = if size == smallest { Reach::NoTarget } else { Reach::AtMost(cpu(least) * 1.2) };
        let figure = Figure::new(format!("{at}, {} ports", thousands(*size)), "ms", cpu(done), reach);
        figures.push(figure.at(&at, *size).if_short(why));
    }
    figures
}

const CPU: &str = "processor time";
/// Why the same work may take longer where there is more.
const CACHES: &str = "the node's counters are equal; processor time is the server's and the node's together, and the server's work is not counted; what both look \
                      up lies in maps that are larger than the processor's caches";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_equal_only_if_every_counter_is() {
        assert_eq!(largest_ratio(&[[2.0, 4.0, 3.0, 1.0]; 3]), 1.0);
        assert_eq!(largest_ratio(&[[2.0, 4.0, 3.0, 1.0], [2.0, 6.0, 3.0, 1.0], [2.0, 4.0, 3.0, 1.0]]), 1.5);
        assert_eq!(largest_ratio(&[[0.0; 4], [0.0, 0.0, 0.5, 0.0]]), 1.5);
    }

    #[test]
    fn a_counter_that_is_missing_is_no_nothing() {
        assert!(counted(&serde_json::json!({"runs": 1, "reads": 2, "made": 3})).is_err());
        assert_eq!(counted(&serde_json::json!({"runs": 1, "reads": 2, "made": 3, "written": 0})).unwrap(), [1.0, 2.0, 3.0, 0.0]);
    }
}
