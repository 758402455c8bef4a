//! One figure: what was measured, what it should be, and what a peer does.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a series of measurements shows.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Spread {
    pub n: usize,
    pub min: f64,
    pub p50: f64,
    pub p99: f64,
}

impl Spread {
    /// Of at least one value. A percentile is the smallest value that is not less than that share of all.
    pub fn of(values: &[f64]) -> Spread {
        assert!(!values.is_empty(), "something was measured");
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1)];
        Spread { n: sorted.len(), min: sorted[0], p50: at(50), p99: at(99) }
    }

    /// From the least to the greatest of a short series.
    pub fn range(&self) -> String {
        format!("{} and {}", shown(self.min), shown(self.p99))
    }

    /// Of times, in seconds.
    pub fn of_seconds(times: &[Duration]) -> Spread {
        Self::of(&times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>())
    }

    /// Of times, in milliseconds.
    pub fn of_times(times: &[Duration]) -> Spread {
        Self::of(&times.iter().map(|time| time.as_secs_f64() * 1000.0).collect::<Vec<_>>())
    }
}

/// A measured value, and the series that it comes from, where there is one.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub value: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
}

impl Measured {
    pub fn p50(spread: Spread) -> Measured {
        Measured { value: spread.p50, spread: Some(spread) }
    }

    pub fn p99(spread: Spread) -> Measured {
        Measured { value: spread.p99, spread: Some(spread) }
    }
}

impl From<f64> for Measured {
    fn from(value: f64) -> Measured {
        Measured { value, spread: None }
    }
}

/// Who else does it, and how well.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    #[serde(flatten)]
    pub measured: Measured,
    /// Measured here in the same run; otherwise `name` says where.
    pub same_run: bool,
}

/// What a figure should be.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    AtLeast(f64),
    AtMost(f64),
    /// Times the peer's.
    AtLeastOfPeer(f64),
    AtMostOfPeer(f64),
    /// Nobody says what it should be. It keeps its older name in `benchmarks.json`.
    #[serde(rename = "unjudged")]
    NoTarget,
}

/// Where a row lies in a plot.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Point {
    /// The line.
    pub of: String,
    /// How many ports there were.
    pub size: usize,
}

/// How much of an error is shown as the reason why nothing was measured.
const CAUSE_CHARS_MAX: usize = 300;

/// One row of the page.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    pub unit: String,
    pub ladon: Measured,
    pub reach: Reach,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// It is one of a line of sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<Point>,
    /// How it was measured.
    pub how: String,
    /// Why it falls short, when it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why_short: String,
}

impl Figure {
    pub fn new(name: impl Into<String>, unit: &str, ladon: impl Into<Measured>, reach: Reach) -> Figure {
        let ladon = ladon.into();
        Figure { name: name.into(), unit: unit.into(), ladon, reach, peer: None, point: None, how: String::new(), why_short: String::new() }
    }

    /// In place of the figures of a benchmark that failed, lest older ones be taken for this run's.
    pub fn not_measured(error: &anyhow::Error) -> Figure {
        // What the parts wrote at last is among the causes, too, and too long.
        let causes = error.chain().map(ToString::to_string).filter(|cause| !cause.starts_with("---"));
        let said: Vec<String> = causes.filter_map(|cause| cause.lines().next().map(String::from)).collect();
        let why: String = said.join(": ").chars().take(CAUSE_CHARS_MAX).collect();
        Figure::new("not measured", "times", 1.0, Reach::AtMost(0.0)).if_short(why)
    }

    /// A peer that was measured in the same run.
    pub fn against(mut self, name: &str, measured: impl Into<Measured>) -> Figure {
        self.peer = Some(Peer { name: name.into(), measured: measured.into(), same_run: true });
        self
    }

    /// A peer's figure that was measured elsewhere.
    pub fn against_cited(mut self, name: &str, value: f64) -> Figure {
        self.peer = Some(Peer { name: name.into(), measured: value.into(), same_run: false });
        self
    }

    /// One of the sizes at which `of` was measured.
    pub fn at(mut self, of: &str, size: usize) -> Figure {
        self.point = Some(Point { of: of.into(), size });
        self
    }

    pub fn how(mut self, how: impl Into<String>) -> Figure {
        self.how = how.into();
        self
    }

    /// The reason that is given if the figure falls short.
    pub fn if_short(mut self, why: impl Into<String>) -> Figure {
        self.why_short = why.into();
        self
    }

    /// Ladon's value by the peer's.
    pub fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|peer| self.ladon.value / peer.measured.value)
    }

    pub fn is_reached(&self) -> bool {
        let value = self.ladon.value;
        match self.reach {
            Reach::AtLeast(bound) => value >= bound,
            Reach::AtMost(bound) => value <= bound,
            Reach::AtLeastOfPeer(share) => self.ratio().is_some_and(|ratio| ratio >= share),
            Reach::AtMostOfPeer(share) => self.ratio().is_some_and(|ratio| ratio <= share),
            Reach::NoTarget => true,
        }
    }

    pub fn verdict(&self) -> String {
        match (self.reach, self.is_reached(), self.why_short.as_str()) {
            (Reach::NoTarget, ..) => "–".into(),
            (_, true, _) => "reached".into(),
            (_, false, "") => "short: no reason is known".into(),
            (_, false, why) => format!("short: {why}"),
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reach::AtLeast(bound) => write!(f, "≥ {}", shown(*bound)),
            Reach::AtMost(bound) => write!(f, "≤ {}", shown(*bound)),
            Reach::AtLeastOfPeer(share) => write!(f, "≥ {} × the peer", exact(*share)),
            Reach::AtMostOfPeer(share) => write!(f, "≤ {} × the peer", exact(*share)),
            Reach::NoTarget => write!(f, "–"),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {} ({})", self.name, shown(self.ladon.value), self.unit, self.reach)?;
        if let Some(peer) = &self.peer {
            write!(f, "; {}: {}", peer.name, shown(peer.measured.value))?;
        }
        write!(f, ": {}", self.verdict())
    }
}

/// A share, as it was meant: a third is 1/3.
fn exact(share: f64) -> String {
    let part = (1.0 / share).round();
    if share < 1.0 && (part * share - 1.0).abs() < 1e-9 { format!("1/{part}") } else { share.to_string() }
}

/// Three digits that mean something, and no more.
pub fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
    .trim_end_matches(|c| c == '.')
    .to_string()
}

/// A number as people read it.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(spread, Spread { n: 4, min: 1.0, p50: 2.0, p99: 4.0 });
        assert_eq!(Spread::of(&[7.0]).p99, 7.0);
    }

    #[test]
    fn a_figure_reaches_its_bound_or_its_peer_or_falls_short() {
        let rate = Figure::new("rate", "/s", 450.0, Reach::AtLeast(500.0)).if_short("the disk").against_cited("other", 9.8);
        assert_eq!((rate.is_reached(), rate.verdict().as_str()), (false, "short: the disk"));
        let time = Figure::new("time", "ms", 9.5, Reach::AtMostOfPeer(1.0)).against("other", 10.0);
        assert_eq!((time.ratio(), time.verdict().as_str()), (Some(0.95), "reached"));
        assert!(!Figure { peer: None, ..time }.is_reached(), "without its peer nothing is reached");
    }

    #[test]
    fn what_is_short_for_no_known_reason_says_so_and_what_has_no_target_is_not_short() {
        let memory = |reach| Figure::new("memory", "MB", 9.0, reach);
        assert_eq!(memory(Reach::AtMost(8.0)).verdict(), "short: no reason is known");
        assert_eq!((memory(Reach::NoTarget).is_reached(), memory(Reach::NoTarget).verdict().as_str()), (true, "–"));
        assert_eq!(serde_json::to_value(Reach::NoTarget).unwrap(), "unjudged", "reports that were written before have it");
    }

    #[test]
    fn what_failed_is_short_because_of_its_causes() {
        let error = anyhow::anyhow!("port 7 is not up\nit is DOWN").context("--- ladon-node\nlast words").context("a fresh start");
        assert_eq!(Figure::not_measured(&error).verdict(), "short: a fresh start: port 7 is not up");
        let long = Figure::not_measured(&anyhow::anyhow!("x".repeat(1_000)));
        assert_eq!((long.why_short.len(), long.is_reached()), (CAUSE_CHARS_MAX, false));
    }

    #[test]
    fn a_share_is_shown_as_it_was_meant() {
        assert_eq!([1.0 / 3.0, 0.9, 1.1, 1.0, 0.1].map(exact), ["1/3", "0.9", "1.1", "1", "1/10"]);
    }

    #[test]
    fn three_digits_are_shown() {
        assert_eq!([1234.5, 99.94, 9.876, 0.4321, 0.0].map(shown), ["1234", "99.9", "9.88", "0.432", "0"]);
    }

    #[test]
    fn thousands_are_set_off() {
        assert_eq!([7, 1_000, 20_000, 1_234_567].map(thousands), ["7", "1,000", "20,000", "1,234,567"]);
    }
}
