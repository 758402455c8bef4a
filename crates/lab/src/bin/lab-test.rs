//! Runs all of the workspace's tests, then the demo with its claims, and closes with one line: how many passed, how many failed.
//!
//! Cargo prints a summary per test program, the demo one at its end; this adds them up. A program that dies without a summary, or a
//! build that fails, counts as one failure, so that nothing is ever reported as passed that did not run. With arguments, which go
//! to cargo, the demo is left out.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};

/// What is run unless the command line says otherwise.
const CARGO_TEST: &[&str] = &["test", "--release", "--workspace", "--no-fail-fast"];

/// What stands before the demo's summary.
const CLAIMS: &str = "claims: ";

/// A sum of summaries.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Count a line such as `test result: ok. 3 passed; 0 failed; ...`; other lines count nothing.
    fn count(&mut self, line: &str) {
        let Some(summary) = line.split_once("test result: ").map(|(_, summary)| summary).or_else(|| line.strip_prefix(CLAIMS)) else { return };
        let before = |word: &str| -> u64 {
            let words: Vec<&str> = summary.split([' ', ';', '.', ',', '\n']).filter(|word| !word.is_empty()).collect();
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
    let tests = cargo(&extra).and_then(run);
    let claims = if extra.is_empty() { demo() } else { Ok(Tally::default()) };
    let tally = [tests, claims].into_iter().fold(Tally::default(), |sum, tally| {
        let one = tally.unwrap_or_else(|error| {
            eprintln!("lab-test: {error}");
            Tally { passed: 0, failed: 1 }
        });
        Tally { passed: sum.passed + one.passed, failed: sum.failed + one.failed }
    });
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cargo(extra: &[String]) -> io::Result<Command> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(CARGO_TEST).args(extra);
    Ok(command)
}

/// The demo's claims; it is taken away afterwards.
fn demo() -> io::Result<Tally> {
    let program = std::env::current_exe()?.with_file_name("demo");
    let mut up = Command::new(&program);
    up.arg("up");
    let tally = run(up);
    let mut down = Command::new(&program);
    if !down.arg("down").status()?.success() {
        return Ok(tally?.closed(false));
    }
    tally
}

fn run(mut command: Command) -> io::Result<Tally> {
    let name = format!("{command:?}");
    let spawned = command.stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| io::Error::new(error.kind(), format!("{name} cannot be run: {error}")))?;
    let mut tally = Tally::default();
    if let Some(output) = child.stdout.take() {
        pass_on(output, &mut tally)?;
    }
    Ok(tally.closed(child.wait()?.success()))
}

/// The demo's closing line, told from the last one of all.
fn marked(line: &str) -> String {
    let is_summary = line.trim_end().ends_with(" failed") && line.contains(" passed, ") && line.starts_with(|c: char| c.is_ascii_digit());
    if is_summary { format!("{CLAIMS}{line}") } else { line.to_string() }
}

/// Show every line as it comes, and count it.
fn pass_on(output: impl Read, tally: &mut Tally) -> io::Result<()> {
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = marked(&String::from_utf8_lossy(&line));
        io::stdout().write_all(text.as_bytes())?;
        tally.count(&text);
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
        tally
            .count("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        tally.count("7 passed; 7 failed");
        tally.count(&marked("73 passed, 0 failed\n"));
        assert_eq!(tally, Tally { passed: 78, failed: 4 });
    }

    #[test]
    fn a_crash_without_a_summary_is_a_failure() {
        assert_eq!(Tally { passed: 5, failed: 0 }.closed(false), Tally { passed: 5, failed: 1 });
        assert_eq!(Tally { passed: 5, failed: 0 }.closed(true), Tally { passed: 5, failed: 0 });
    }
}
