//! The demo as a stranger sees it: everything comes up, every claim holds, and nothing is left when it is taken down.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// `demo` with a folder of its own, so that a demo that somebody runs is left alone. What it says goes to the test's output.
fn demo(verb: &str, dir: &Path) -> Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args([verb, "--dir"]).arg(dir).stderr(Stdio::inherit());
    let output = command.output().context("starting the demo")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{said}");
    ensure!(output.status.success(), "`demo {verb}` ended with {}:\n{said}", output.status);
    Ok(said)
}

/// Names of network namespaces that begin with `prefix`.
fn namespaces(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with(prefix)).collect()
}

/// Processes that mention `text` on their command line.
fn processes(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries
        .filter(|entry| entry.file_name() != *std::process::id().to_string())
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(text)).collect()
}

/// From nothing but built programs to the last claim.
const DEMO_SECS_MAX: u32 = 120;

/// How long coming up and proving took, of `up in 24 s, proved in 43 s; …`.
fn seconds(said: &str) -> Option<u32> {
    let (up, proved) = said.lines().find_map(|line| line.strip_prefix("up in "))?.split_once(" s, proved in ")?;
    Some(up.parse::<u32>().ok()? + proved.split_once(' ')?.0.parse::<u32>().ok()?)
}

#[test]
fn every_claim_of_the_demo_holds_and_nothing_is_left_of_it() -> Result<()> {
    let name = format!("d{}", std::process::id());
    let dir = std::env::temp_dir().join(format!("ladon-{name}"));
    let proved = demo("up", &dir);
    let gone = demo("down", &dir);
    let proved = proved?;
    gone?;
    let last = proved.lines().last().unwrap_or_default();
    let passed: usize = last.strip_suffix(" passed, 0 failed").with_context(|| last.to_string())?.parse()?;
    ensure!(passed >= 40, "{last}");
    let secs = seconds(&proved).context("the demo says how long it took")?;
    ensure!(secs < DEMO_SECS_MAX, "the demo took {secs} s");
    ensure!(!dir.exists(), "{} is left", dir.display());
    ensure!(namespaces(&format!("{name}-")).is_empty(), "namespaces are left: {:?}", namespaces(&name));
    let text = dir.to_string_lossy().into_owned();
    ensure!(processes(&text).is_empty(), "processes are left: {:?}", processes(&text));
    Ok(())
}
