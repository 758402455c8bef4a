//! The clock jumps by an hour, forwards and back, for the server and a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use demo::id;
use lab::traffic::is_reachable;
use lab::{Host, Process, wait};
use serde_json::json;

use crate::world::{DEADLINE, Dump, World, cost, let_pass};

/// libfaketime, of Debian's package of that name.
fn library() -> Result<PathBuf> {
    let found = fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path().join("faketime/libfaketime.so.1")).find(|path| path.is_file());
    found.context("libfaketime is not installed: run `make setup`")
}

/// A clock that processes look at instead of the machine's.
struct Clock {
    file: PathBuf,
}

impl Clock {
    fn new(dir: &Path) -> Result<Clock> {
        let clock = Clock { file: dir.join("clock") };
        clock.set("+0")?;
        Ok(clock)
    }

    /// `+3600`: an hour late.
    fn set(&self, offset: &str) -> Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, offset)?;
        Ok(fs::rename(new, &self.file)?)
    }

    /// Starts `program` with this clock in the place of `process`. A jump of the clock leaves the monotonic one alone.
    fn start(&self, host: &Host, process: &Process, name: &str, program: &str, args: &[&str]) -> Result<Process> {
        process.kill9()?;
        let mut command: Command = host.command(program);
        command.args(args).env("LD_PRELOAD", library()?).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("DONT_FAKE_MONOTONIC", "1");
        Ok(host.spawn(name, &command)?)
    }
}

#[test]
fn a_clock_that_jumps_by_an_hour_costs_nothing() -> Result<()> {
    let world = World::start()?;
    let (ladon, api, node) = (&world.pair.ladon, world.pair.api(), world.node(0));
    let clock = Clock::new(world.pair.lab.dir())?;
    let config = |path: &Path| path.to_string_lossy().into_owned();
    let server_config = config(&ladon.dir().join("server.toml"));
    let server = clock.start(&node.host, &ladon.server, "faked-server", &ladon.program(), &["server", "--config", &server_config])?;
    let faked = clock.start(&node.host, &node.process, "faked-node", &ladon.program(), &["node", "--config", &config(&node.config)])?;
    server
        .wait_until("the server's API", DEADLINE, || api.get("/v2.0/networks").map(|_| Some(())).map_err(|error| format!("{error:#}")))?;
    world.wait_in_force()?;
    let before = [Dump::of(world.ovs(0))?, Dump::of(world.ovs(1))?];
    let (all, seen) = world.under_traffic(|_| {
        let (mut hours, mut all) = (Vec::new(), Vec::new());
        for (offset, name) in [("+0", "now"), ("+3600", "later"), ("+0", "back"), ("-3600", "earlier"), ("+0", "again")] {
            clock.set(offset)?;
            let_pass(std::time::Duration::from_millis(500));
            let plugged = world.pair.plug(&world.network, 0, name, json!({}))?;
            hours.push(plugged.port["created_at"].as_str().context("a port has a birth")?.to_string());
            wait::until("the new port to be reached", DEADLINE, || {
                is_reachable(world.far.workload.netns(), plugged.v4).map(|is| is.then_some(()))
            })?;
            world.wait_in_force()?;
            all.push(plugged);
        }
        ensure!(hours[0] < hours[1] && hours[3] < hours[0], "the server's clock was seen to jump: {hours:?}");
        ensure!(server.is_alive() && faked.is_alive());
        world.wait_in_force()?;
        Ok(all)
    })?;
    seen.is_undisturbed_but_for(all.len() as u32)?;
    for plugged in all {
        world.ovs(0).unplug(plugged.workload.device())?;
        api.delete("port", id(&plugged.port))?;
    }
    for (before, ovs) in before.iter().zip(&world.pair.ovs) {
        crate::world::wait_dump(ovs, before, DEADLINE)?;
    }
    cost(
        "the clock of server and node an hour forwards, back, an hour back, forwards",
        format!("{}; ports come and work at every hour", seen.all()),
    );
    Ok(())
}
