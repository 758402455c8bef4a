//! `docs/benchmarks.json`, and the page that is written from it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lab::Progress;
use lab::command::{TOOL, run, tool};
use serde::{Deserialize, Serialize};

use crate::figure::{Figure, Measured, shown};
use crate::{ovn, plot};

/// Whose Open vSwitch a benchmark's nodes have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// They have none.
    Without,
    /// The machine's own.
    Machine,
    /// That of the Debian that OVN comes from; the peer has it, too.
    Ovn,
}

impl Switch {
    fn version(self, progress: &Progress) -> Result<String> {
        let said = match self {
            Switch::Without => return Ok(String::new()),
            Switch::Machine => tool("ovs-vswitchd", &["--version"])?,
            Switch::Ovn => run(ovn::release(progress)?.command(ovn::SWITCH).arg("--version"), TOOL)?.ok()?,
        };
        Ok(said.lines().next().and_then(|line| line.split(' ').next_back()).unwrap_or_default().into())
    }
}

/// When, where and beside what a benchmark ran.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Circumstances {
    pub date: String,
    /// The commit of the working tree, with `+` when it was changed.
    pub commit: String,
    pub cpus: usize,
    pub memory_gib: u64,
    pub kernel: String,
    /// The version that its nodes have; empty where they have none.
    pub open_vswitch: String,
    /// Load averages over a minute before the start: what else the machine did.
    pub load: f64,
}

impl Circumstances {
    pub fn now(switch: Switch, progress: &Progress) -> Result<Circumstances> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let load = read("/proc/loadavg")?;
        let first = |text: &str| text.split_whitespace().next().unwrap_or_default().to_string();
        let meminfo = read("/proc/meminfo")?;
        let kib = meminfo.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let changed = if tool("git", &["status", "--porcelain", "--untracked-files=no"])?.is_empty() { "" } else { "+" };
        Ok(Circumstances {
            date: tool("date", &["-u", "+%F %H:%M UTC"])?.trim().into(),
            commit: format!("{}{changed}", tool("git", &["rev-parse", "--short", "HEAD"])?.trim()),
            cpus: std::thread::available_parallelism()?.get(),
            memory_gib: (kib + (1 << 19)) >> 20,
            kernel: first(&read("/proc/sys/kernel/osrelease")?),
            // Where it is not there, the benchmark says so itself.
            open_vswitch: switch.version(progress).unwrap_or_else(|_| "(not there)".into()),
            load: first(&load).parse()?,
        })
    }
}

/// One benchmark's last run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Run {
    circumstances: Circumstances,
    figures: Vec<Figure>,
}

/// Every benchmark's last run.
#[derive(Default, Serialize, Deserialize)]
pub struct Report {
    benchmarks: BTreeMap<String, Run>,
}

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

impl Report {
    pub fn load() -> Result<Report> {
        match fs::read(docs("benchmarks.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).context("docs/benchmarks.json is no report; remove it"),
            Err(_) => Ok(Report::default()),
        }
    }

    pub fn replace(&mut self, name: &str, circumstances: Circumstances, figures: Vec<Figure>) {
        self.benchmarks.insert(name.into(), Run { circumstances, figures });
    }

    /// Writes both; benchmarks that are none of `order` any more are forgotten.
    pub fn save(&mut self, order: &[&str]) -> Result<()> {
        self.benchmarks.retain(|name, _| order.contains(&name.as_str()));
        fs::write(docs("benchmarks.json"), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(docs("benchmarks.md"), self.page(order))?;
        self.draw()
    }

    /// The plots of what was measured.
    pub fn draw(&self) -> Result<()> {
        let figures: Vec<&Figure> = self.benchmarks.values().flat_map(|run| &run.figures).collect();
        plot::draw(&figures, &docs(""))
    }

    fn page(&self, order: &[&str]) -> String {
        let mut page = HEAD.to_string();
        for (name, run) in order.iter().filter_map(|name| Some((name, self.benchmarks.get(*name)?))) {
            page += &format!("\n## {name}\n\n{}", run.section());
        }
        page
    }
}

impl Run {
    /// Its part of the page. What explains rows has a number there and stands below them, once.
    fn section(&self) -> String {
        let c = &self.circumstances;
        let switch = if c.open_vswitch.is_empty() { String::new() } else { format!(", Open vSwitch {}", c.open_vswitch) };
        let mut section = format!(
            "{}, commit {}; {} CPUs, {} GiB, Linux {}{switch}; load before: {}.\n\n\
             | figure | Ladon | reach | peer | ratio | |\n|---|---|---|---|---|---|\n",
            c.date, c.commit, c.cpus, c.memory_gib, c.kernel, c.load,
        );
        let mut hows = Vec::new();
        for figure in &self.figures {
            section += &row(figure, note(&mut hows, &figure.how));
        }
        section.extend(hows.iter().enumerate().map(|(place, how)| format!("\n[{}] {how}\n", place + 1)));
        section
    }
}

/// The number of an explanation among those of a section.
fn note<'a>(hows: &mut Vec<&'a str>, how: &'a str) -> Option<usize> {
    if how.is_empty() {
        return None;
    }
    let known = hows.iter().position(|known| *known == how);
    let place = known.unwrap_or(hows.len());
    if known.is_none() {
        hows.push(how);
    }
    Some(place + 1)
}

const HEAD: &str = "# Benchmarks\n\nWritten by `make bench`, from `benchmarks.json`; `make bench NAME` measures one again. Peers ran on the same \
machine in the same run, unless the row says otherwise. Where the peer is OVN, both have the Open vSwitch of its Debian; everything else that has one has the \
machine's. In parentheses: the least, p50 and p99 of a series, and its length. In brackets: the number of what explains a row, below its table. \
A row that does not reach what it should says `short`, and why.\n";

fn row(figure: &Figure, note: Option<usize>) -> String {
    let peer = figure.peer.as_ref().map(|peer| {
        let cited = if peer.same_run { "" } else { " (not in the same run)" };
        format!("{}: {}{cited}", peer.name, value(&peer.measured))
    });
    let ratio = figure.ratio().map(|ratio| format!("{} ×", shown(ratio)));
    // A bar would end its column.
    let verdict = figure.verdict().replace('|', "\\|");
    let verdict = if figure.is_reached() { verdict } else { format!("**{verdict}**") };
    let unit = &figure.unit;
    let note = note.map(|number| format!(" [{number}]")).unwrap_or_default();
    let dash = || "–".to_string();
    format!(
        "| {}, {unit}{note} | {} | {} | {} | {} | {verdict} |\n",
        figure.name,
        value(&figure.ladon),
        figure.reach,
        peer.unwrap_or_else(dash),
        ratio.unwrap_or_else(dash)
    )
}

fn value(measured: &Measured) -> String {
    let spread = measured.spread.map(|s| format!(" ({} / {} / {}; {})", shown(s.min), shown(s.p50), shown(s.p99), s.n));
    format!("{}{}", shown(measured.value), spread.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Reach, Spread};

    #[test]
    fn a_row_says_what_is_short_and_where_a_peer_was_measured() {
        let p50 = Measured::p50(Spread::of(&[1.0, 2.0, 3.0]));
        let figure = Figure::new("boot", "ms", p50, Reach::AtMost(1.5)).against_cited("other", 4.0).if_short("the disk");
        assert_eq!(
            row(&figure, Some(2)),
            "| boot, ms [2] | 2.00 (1.00 / 2.00 / 3.00; 3) | ≤ 1.50 | other: 4.00 (not in the same run) | 0.500 × | **short: the disk** |\n"
        );
    }

    #[test]
    fn what_explains_rows_stands_below_them_once_and_a_benchmark_without_a_switch_names_none() {
        let figure = |name: &str, how: &str| Figure::new(name, "ms", 1.0, Reach::NoTarget).how(how);
        let circumstances = Circumstances {
            date: "today".into(),
            commit: "c0ffee".into(),
            cpus: 2,
            memory_gib: 4,
            kernel: "6.1".into(),
            open_vswitch: String::new(),
            load: 0.5,
        };
        let figures = vec![figure("a", "In turns."), figure("b", "Once."), figure("c", ""), figure("d", "In turns.")];
        let section = Run { circumstances, figures }.section();
        let said: Vec<&str> = section.lines().filter(|line| !line.is_empty() && !line.starts_with("|---")).collect();
        assert_eq!(
            said,
            [
                "today, commit c0ffee; 2 CPUs, 4 GiB, Linux 6.1; load before: 0.5.",
                "| figure | Ladon | reach | peer | ratio | |",
                "| a, ms [1] | 1.00 | – | – | – | – |",
                "| b, ms [2] | 1.00 | – | – | – | – |",
                "| c, ms | 1.00 | – | – | – | – |",
                "| d, ms [1] | 1.00 | – | – | – | – |",
                "[1] In turns.",
                "[2] Once.",
            ]
        );
    }

    #[test]
    fn a_report_reads_back_what_it_writes() {
        let figure = Figure::new("rate", "/s", 3.0, Reach::AtLeastOfPeer(0.9)).against("other", Measured::p99(Spread::of(&[3.0])));
        let text = serde_json::to_string(&figure).unwrap();
        assert_eq!(serde_json::from_str::<Figure>(&text).unwrap(), figure, "{text}");
    }
}
