//! What changes in a switch, and when: the OpenFlow flow monitor of `ovs-ofctl`, read as it speaks.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Nothing for so long after a change means that the change is done.
const QUIET: Duration = Duration::from_millis(150);
/// How long a change may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);

/// Changes of flows, each with the moment in which it was told.
pub struct Monitor {
    process: Child,
    changes: Receiver<(Instant, String)>,
}

impl Monitor {
    /// `ofctl` is an `ovs-ofctl` that is yet to be told what to do; `run_dir` holds the sockets of the switch with the bridge `br-int`.
    pub fn start(mut ofctl: Command, run_dir: &Path) -> Result<Monitor> {
        let bridge = format!("unix:{}", run_dir.join("br-int.mgmt").display());
        ofctl.args(["-O", "OpenFlow15", "monitor", &bridge, "watch:!initial"]).env("OVS_RUNDIR", run_dir).env(lab::MARK, "monitor");
        let mut process = ofctl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting ovs-ofctl")?;
        let stderr = process.stderr.take().context("it was piped")?;
        let (sender, changes) = channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
            // The headers of messages change nothing.
            lines.all(|line| line.starts_with("OFPST_FLOW_MONITOR") || sender.send((Instant::now(), line)).is_ok())
        });
        let mut monitor = Monitor { process, changes };
        // What there is at first is told on the standard output, and it is nothing: from now on it watches.
        let mut first = String::new();
        BufReader::new(monitor.process.stdout.as_mut().context("it was piped")?).read_line(&mut first)?;
        ensure!(!first.is_empty(), "ovs-ofctl does not watch: {:?}", monitor.changes.try_iter().map(|(_, line)| line).last());
        Ok(monitor)
    }

    /// The changes until there are none for a while; at least one must come.
    pub fn burst(&self) -> Result<Vec<(Instant, String)>> {
        let first = self.changes.recv_timeout(PATIENCE).context("the switch tells of no change")?;
        Ok([vec![first], self.told()?].concat())
    }

    /// The changes that were told since the last look, until there are none for a while.
    pub fn told(&self) -> Result<Vec<(Instant, String)>> {
        let mut seen = Vec::new();
        loop {
            match self.changes.recv_timeout(QUIET) {
                Ok(change) => seen.push(change),
                Err(RecvTimeoutError::Timeout) => return Ok(seen),
                Err(RecvTimeoutError::Disconnected) => bail!("ovs-ofctl has ended: {}", seen.last().map_or("", |(_, line)| line)),
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
