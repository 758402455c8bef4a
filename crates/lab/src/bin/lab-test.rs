//! Runs all of the workspace's tests and closes with one line: how many passed, how many failed.
//!
//! Cargo prints a summary per test program; this adds them up. A program that dies without a summary, or a build that
//! fails, counts as one failure, so that nothing is ever reported as passed that did not run.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};

/// What is run unless the command line says otherwise.
const CARGO_TEST: &[&str] = &["test", "--release", "--workspace", "--no-fail-fast"];

/// A sum of summaries.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Count a line such as `test result: ok. 3 passed; 0 failed; ...`; other lines count nothing.
    fn count(&mut self, line: &str) {
        let Some((_, summary)) = line.split_once("test result: ") else { return };
        let before = |word: &str| -> u64 {
            let words: Vec<&str> = summary.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
            let pair = words.windows(2).find(|pair| pair[1] == word);
            pair.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
        };
        self.passed += before("passed");
        self.failed += before("failed");
    }

    /// The final numbers, given how cargo ended.
    fn closed(mut self, is_success: bool) -> Self {
        if !is_success && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

fn main() -> ExitCode {
    let extra: Vec<String> = std::env::args().skip(1).collect();
    let tally = match run(&extra) {
        Ok(tally) => tally,
        Err(error) => {
            eprintln!("lab-test: cargo cannot be run: {error}");
            Tally { passed: 0, failed: 1 }
        }
    };
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(extra: &[String]) -> io::Result<Tally> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo).args(CARGO_TEST).args(extra).stdout(Stdio::piped()).spawn()?;
    let mut tally = Tally::default();
    if let Some(output) = child.stdout.take() {
        pass_on(output, &mut tally)?;
    }
    Ok(tally.closed(child.wait()?.success()))
}

/// Show every line as it comes, and count it.
fn pass_on(output: impl Read, tally: &mut Tally) -> io::Result<()> {
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        io::stdout().write_all(&line)?;
        tally.count(&String::from_utf8_lossy(&line));
        line.clear();
    }
    io::stdout().flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_added_up() {
        let mut tally = Tally::default();
        tally.count("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        tally.count("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        tally.count("7 passed; 7 failed");
        assert_eq!(tally, Tally { passed: 5, failed: 4 });
    }

    #[test]
    fn a_crash_without_a_summary_is_a_failure() {
        assert_eq!(Tally { passed: 5, failed: 0 }.closed(false), Tally { passed: 5, failed: 1 });
        assert_eq!(Tally { passed: 5, failed: 0 }.closed(true), Tally { passed: 5, failed: 0 });
    }
}
