//! The benchmarks: one file each, with its peer. `make bench` runs all of them, `make bench NAME` one.
//!
//! ```text
//! benchmark ──▶ figures (value, reach, peer) ──▶ docs/benchmarks.json ──▶ docs/benchmarks.md
//! ```
//!
//! Ladon runs as an operator runs it, on the lab's hosts, and so do the peers. What is compared is taken in one run, and in turns
//! where neither needs to be there alone, so that a busy machine is busy for both. A figure that does not reach what it should is
//! written as such, with the reason, and so is a benchmark that failed.
//! Deliberately *not* here: tests. Nothing fails because a machine is slow.

mod bridge;
mod cni;
mod dataplane;
mod figure;
mod fleet;
mod flows;
mod http;
mod kubernetes;
mod ladon;
mod latency;
mod machine;
mod memory;
mod neutron;
mod ovn;
mod ovsdb;
mod plot;
mod policy;
mod ports;
mod report;
mod restart;
mod scale;
mod system;
mod world;

use std::process::ExitCode;

use anyhow::{Result, bail};
use lab::{Progress, debian};

use crate::figure::Figure;
use crate::report::{Circumstances, Report, Switch};

const USAGE: &str = "usage: bench [--scale] [--small] [--plots] [NAME]...      (all of them, when none is named; --scale: those that take sizes; \
                     --small tries them out and writes nothing; --plots measures nothing and draws again what was measured)";

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// What the figures are about.
    Full,
    /// Enough to see that the benchmark works.
    Small,
}

impl Scale {
    pub fn of<T>(self, full: T, small: T) -> T {
        match self {
            Scale::Full => full,
            Scale::Small => small,
        }
    }
}

/// One benchmark.
struct Benchmark {
    name: &'static str,
    switch: Switch,
    run: fn(Scale, &Progress) -> Result<Vec<Figure>>,
}

/// What `make bench` measures, in the order of the page.
const MAIN: [Benchmark; 7] = [
    Benchmark { name: "ports", switch: Switch::Without, run: ports::run },
    Benchmark { name: "latency", switch: Switch::Ovn, run: latency::run },
    Benchmark { name: "memory", switch: Switch::Machine, run: memory::run },
    Benchmark { name: "restart", switch: Switch::Machine, run: restart::run },
    Benchmark { name: "dataplane", switch: Switch::Machine, run: dataplane::run },
    Benchmark { name: "cni", switch: Switch::Machine, run: cni::run },
    Benchmark { name: "kubernetes", switch: Switch::Machine, run: kubernetes::run },
];

/// What `make bench-scale` measures: the same at growing sizes, which takes long.
const SCALE: [Benchmark; 13] = [
    Benchmark { name: "node-1000", switch: Switch::Ovn, run: scale::nodes::flat_1000 },
    Benchmark { name: "node-10000", switch: Switch::Ovn, run: scale::nodes::flat_10000 },
    Benchmark { name: "node-20000", switch: Switch::Ovn, run: scale::nodes::flat_20000 },
    Benchmark { name: "node-tenants", switch: Switch::Ovn, run: scale::nodes::tenants },
    Benchmark { name: "node-alone", switch: Switch::Machine, run: scale::alone::run },
    Benchmark { name: "hitless", switch: Switch::Machine, run: scale::hitless::run },
    Benchmark { name: "services", switch: Switch::Ovn, run: scale::services::run },
    Benchmark { name: "groups", switch: Switch::Ovn, run: scale::groups::run },
    Benchmark { name: "rules", switch: Switch::Ovn, run: scale::rules::run },
    Benchmark { name: "dhcp", switch: Switch::Ovn, run: scale::dhcp::run },
    Benchmark { name: "packets", switch: Switch::Ovn, run: scale::packets::run },
    Benchmark { name: "fleet", switch: Switch::Without, run: scale::fleet::run },
    Benchmark { name: "fleet-etcd", switch: Switch::Without, run: scale::fleet::run_shared },
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match bench(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(words: &[String]) -> Result<()> {
    let (options, names): (Vec<&String>, Vec<&String>) = words.iter().partition(|word| word.starts_with("--"));
    let (mut scale, mut set) = (Scale::Full, &MAIN[..]);
    for option in options {
        match option.as_str() {
            "--small" => scale = Scale::Small,
            "--scale" => set = &SCALE[..],
            "--plots" => return Report::load()?.draw(),
            _ => bail!(USAGE),
        }
    }
    if let Some(unknown) = names.iter().find(|name| set.iter().all(|benchmark| benchmark.name != name.as_str())) {
        bail!("{unknown:?} is none of {}\n{USAGE}", names_of(set).join(", "));
    }
    let progress = Progress::new();
    debian::ensure(&[debian::NETWORK, debian::PEERS].concat(), &progress)?;
    let mut failed = Vec::new();
    for benchmark in set.iter().filter(|benchmark| names.is_empty() || names.iter().any(|name| *name == benchmark.name)) {
        if let Err(error) = one(benchmark, scale, &progress) {
            progress.say(&format!("{}: {error:#}", benchmark.name));
            failed.push(benchmark.name);
        }
    }
    match failed.as_slice() {
        [] => Ok(()),
        _ => bail!("not measured: {}", failed.join(", ")),
    }
}

fn names_of(set: &[Benchmark]) -> Vec<&'static str> {
    set.iter().map(|benchmark| benchmark.name).collect()
}

/// Measures, says what came of it, and writes it down, also that nothing did.
fn one(benchmark: &Benchmark, scale: Scale, progress: &Progress) -> Result<()> {
    let begun = Circumstances::now(benchmark.switch, progress)?;
    let (figures, outcome) = match (benchmark.run)(scale, progress) {
        Ok(figures) => (figures, Ok(())),
        Err(error) => (vec![Figure::not_measured(&error)], Err(error)),
    };
    figures.iter().for_each(|figure| progress.say(&format!("  {figure}")));
    if scale == Scale::Full && !scale::fleet::is_tried_out() {
        let mut report = Report::load()?;
        report.replace(benchmark.name, begun, figures);
        report.save(&[names_of(&MAIN), names_of(&SCALE)].concat())?;
    }
    outcome
}
