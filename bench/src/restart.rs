//! `ladon node` is killed and started again beside a switch that is full and right: how long until it says that everything is in
//! force, and what it touched. There is no peer: OVN 25.03's `ovn-controller` clears and writes again what it finds.

use std::time::Duration;

use anyhow::{Context, Result};
use lab::Progress;

use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread};
use crate::flows::Monitor;
use crate::world::{Shape, World};

/// How long a restart may take.
const READY: Duration = Duration::from_secs(60);

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let (shape, times) = scale.of((Shape::flat(10, 6_400, 10), 20), (Shape::flat(2, 200, 4), 3));
    let world = World::start(shape, progress)?;
    let (flows, desired) = (world.flows()?, world.desired_flows()?);
    let monitor = Monitor::start(world.ovs.host().command("ovs-ofctl"), world.ovs.run_dir())?;
    let mut took = Vec::new();
    progress
        .during(format!("ladon node killed {times} times beside {flows} flows"), || {
            for _ in 0..times {
                world.node().process.kill9()?;
                took.push(world.start_node(Some(desired), READY)?);
            }
            anyhow::Ok(())
        })
        .with_context(|| world.ladon.logs())?;
    let changes = monitor.told()?;
    let how = format!(
        "`kill -9` of `ladon node`, then a start, {times} times; from the start until its control socket says that its {flows} flows (of {} ports) are in force. \
         Changes are what the switch's flow monitor told meanwhile.",
        shape.ports
    );
    let (seconds, n) = (Spread::of_seconds(&took), changes.len());
    Ok(vec![
        Figure::new(
            format!("`ladon node` restarted beside {flows} flows, until in force, p50"),
            "s",
            Measured::p50(seconds),
            Reach::AtMost(0.5),
        )
        .if_short("every object of the view is read, indexed and compiled anew on one processor; no step of it stands out in a profile")
        .how(how.clone()),
        Figure::new("flows changed by these restarts", "flows", n as f64, Reach::AtMost(0.0)).how(how),
    ])
}
