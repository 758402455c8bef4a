//! What a process has used: processor time, memory, and the bytes that went over its host's loopback.

use std::fs;

use anyhow::{Context, Result};
use lab::{Host, Process};

fn pid(process: &Process) -> Result<i32> {
    process.pid().with_context(|| format!("{} does not run", process.name()))
}

/// Seconds of processor time that it has used so far.
pub fn cpu_secs(process: &Process) -> Result<f64> {
    Ok(process.cpu_time().with_context(|| format!("{} does not run", process.name()))?.as_secs_f64())
}

/// The most memory that it ever kept resident, in MB.
pub fn peak_megabytes(process: &Process) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid(process)?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM in /proc")?;
    let kib: f64 = line.split_whitespace().next().context("a number")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// Bytes that were sent over a host's loopback so far, with all headers.
pub fn loopback_bytes(host: &Host) -> Result<f64> {
    let devices = host.netns().within(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("lo in /proc")?;
    Ok(line.split_whitespace().nth(8).context("bytes that were sent")?.parse()?)
}
