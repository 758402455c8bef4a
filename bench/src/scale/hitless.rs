//! `ladon node` is killed and started again, and upgraded to another pipeline, beside a switch with very many flows, while packets
//! pass it every millisecond: how many are lost, and how long the longest silence is. There is no peer, but the same switch while
//! nothing happens to it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use demo::{Workload, id, older};
use lab::traffic::{PingReport, Pinging, ping};
use lab::{Progress, wait};

use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread};
use crate::world::{Shape, World};

const BEAT: Duration = Duration::from_millis(1);
/// How long a restart or an upgrade may take.
const READY: Duration = Duration::from_secs(120);
/// Packets pass for so long at least.
const WHILE: Duration = Duration::from_secs(5);
/// Why a silence may be longer: the userspace datapath of ports without DPDK has one thread, which does everything.
const TELLS: &str = "the thread of ovs-vswitchd that forwards tells the node all its flows meanwhile, in parts, and for each it walks through all flows of a table, of which the largest has a third of these; that takes 5 to 20 ms";
const TAKES: &str = "the thread of ovs-vswitchd that forwards takes all flows of the other pipeline meanwhile, and looks at what the datapath remembers anew";
/// What a restart may add to the longest silence of a quiet switch, in milliseconds.
const STALL_MAX: f64 = 20.0;

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let (shape, times) = scale.of((Shape::flat(17, 34_000, 17), 5), (Shape::flat(2, 200, 4), 2));
    let site = Site::start(shape, progress)?;
    let flows = site.world.flows()?;
    let (mut quiet, mut restarted, mut upgraded) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 1..=times {
        progress
            .during(format!("restart and upgrade {turn} of {times} beside {flows} flows"), || {
                quiet.push(site.pinged(|| Ok(()))?);
                restarted.push(site.pinged(|| site.restart())?);
                let last = site.make_old()?;
                upgraded.push(site.pinged(|| site.upgrade(last))?);
                anyhow::Ok(())
            })
            .with_context(|| site.world.ladon.logs())?;
    }
    let how = format!(
        "{flows} flows in the switch; echo requests every millisecond between two ports of it, for {} s and until everything is in force, {times} times each, in turns: nothing happens; `kill -9` of \
         `ladon node` and a start; a start beside what an older release with another pipeline left, until nothing is left of that. The longest silence is that of all turns; in parentheses, of the turns.",
        WHILE.as_secs()
    );
    let silences = |reports: &[PingReport]| reports.iter().map(|report| report.longest_gap_ms).collect::<Vec<_>>();
    let longest = |reports: &[PingReport]| silences(reports).into_iter().fold(0.0, f64::max);
    let lost = |reports: &[PingReport]| f64::from(reports.iter().map(|report| report.lost).sum::<u32>());
    let row = |what: &str, why: &str, reports: &[PingReport]| {
        let sent: u32 = reports.iter().map(|report| report.sent).sum();
        let silence = Measured { value: longest(reports), spread: Some(Spread::of(&silences(reports))) };
        let most = Reach::AtMost(longest(&quiet) + STALL_MAX);
        [
            Figure::new(format!("{what}: packets lost of {sent}"), "packets", lost(reports), Reach::AtMost(0.0)).how(how.clone()),
            Figure::new(format!("{what}: longest silence"), "ms", silence, most)
                .against("nothing happens", longest(&quiet))
                .how(how.clone())
                .if_short(why),
        ]
    };
    Ok([row("`ladon node` restarted", TELLS, &restarted), row("upgraded to another pipeline", TAKES, &upgraded)].concat())
}

/// The node with its switch, and two machines that talk through it.
struct Site {
    near: Workload,
    target: IpAddr,
    _far: Workload,
    world: World,
}

impl Site {
    fn start(shape: Shape, progress: &Progress) -> Result<Site> {
        let world = World::start(shape, progress)?;
        let (near, _) = machine(&world, "near")?;
        let (_far, target) = machine(&world, "far")?;
        world.wait_in_force()?;
        let site = Site { near, target, _far, world };
        let first = ping(site.near.netns(), site.target, 100, BEAT)?;
        ensure!(first.received > 0, "before anything happens {} is not reached: {first:?}", site.target);
        Ok(site)
    }

    /// What came of packets while that was done.
    fn pinged(&self, what: impl FnOnce() -> Result<()>) -> Result<PingReport> {
        let (pinging, started) = (Pinging::start(self.near.netns(), self.target, BEAT)?, Instant::now());
        what()?;
        std::thread::sleep(WHILE.saturating_sub(started.elapsed()));
        Ok(pinging.stop()?)
    }

    fn restart(&self) -> Result<()> {
        self.world.node().process.restart()?;
        self.world.wait_in_force_here()
    }

    /// Ends the node, and leaves its switch as an older release would have, whose last table is told.
    fn make_old(&self) -> Result<u8> {
        self.world.node().process.kill9()?;
        older::leave(&self.world.ovs, &self.world.node().run_dir.join("old.txt"), &[])
    }

    /// Starts the node, until the older release is gone, of which its last table goes last.
    fn upgrade(&self, last: u8) -> Result<()> {
        self.world.node().process.restart()?;
        self.world.wait_in_force_here()?;
        let left = || self.world.ovs.ofctl(&["dump-aggregate", "br-int", &format!("table={last}")]);
        wait::until("nothing to be left of the older release", READY, || left().map(|text| text.contains("flow_count=0").then_some(())))?;
        Ok(())
    }
}

/// A machine on the first network, plugged into n1, and its address.
fn machine(world: &World, name: &str) -> Result<(Workload, IpAddr)> {
    let port = world.ladon.api.create("port", world.networks[0].port("n1"))?;
    let address: IpAddr = port["fixed_ips"][0]["ip_address"].as_str().context("a port has an address")?.parse()?;
    let machine = Workload::plug(&world.ovs, name, &port, &[(address, 21)])?;
    world.ladon.wait_active(id(&port))?;
    Ok((machine, address))
}
