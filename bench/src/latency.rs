//! From a call of the API to the last flow that it brings to the switch of another node, in the middle of 1,000 ports.
//!
//! The call creates a port that lives on another node; n1, in the same network, must learn the way to it. OVN does the same beside it, one port
//! at a time in turns: created in the northbound database, bound to another chassis, until the last flow is in the real chassis'
//! switch. Both are watched by the switch's own flow monitor.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use demo::id;
use lab::Progress;

use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread};
use crate::flows::Monitor;
use crate::http::Client;
use crate::neutron::PORTS;
use crate::ovn::{self, Ovn};
use crate::world::{Shape, World};

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let shape = scale.of(Shape::flat(10, 1_000, 10), Shape::flat(2, 100, 4));
    let times = scale.of(200, 10);
    let release = ovn::release(progress)?;
    let world = World::start_of(Some(&release), shape, progress)?;
    let host = world.host("ovn", 21)?;
    let mut ovn = Ovn::start(&host, &release, shape, progress)?;
    let flows = [world.flows()?, ovn.flows()?];
    let [mut ours, mut theirs] = [Vec::new(), Vec::new()];
    progress.during(format!("{times} remote ports in turns"), || {
        let monitor = Monitor::start(world.ovs.host().command("ovs-ofctl"), world.ovs.run_dir())?;
        let other_monitor = Monitor::start(ovn.ofctl(), ovn.run_dir())?;
        let mut client = world.client()?;
        for number in 0..times {
            ours.push(port_of_ladon(&world, &mut client, &monitor, shape.ports + number).with_context(|| world.ladon.logs())?);
            theirs.push(port_of_ovn(&mut ovn, &other_monitor, shape.ports + number)?);
        }
        anyhow::Ok(())
    })?;
    let [ours, theirs] = [ours, theirs].map(|times| Spread::of_times(&times));
    let what = format!("API call → flow in the switch of another node, {} ports", shape.ports);
    let how = format!(
        "{times} ports of other nodes, one at a time, with the port removed before the next; from the request to the last flow of it that n1's flow monitor tells \
         ({} flows there, {} in OVN's chassis). {} local ports, {} networks on one router, a security group each. OVN's remote port is bound by the \
         benchmark itself as soon as it is in the southbound database, which costs OVN less than a second `ovn-controller` would.",
        flows[0], flows[1], shape.local, shape.networks
    );
    let figure = |which: &str, of: fn(Spread) -> Measured, most: f64| {
        Figure::new(format!("{what}, {which}"), "ms", of(ours), Reach::AtMost(most)).against("OVN 25.03", of(theirs)).how(how.clone())
    };
    Ok(vec![figure("p50", Measured::p50, 8.0), figure("p99", Measured::p99, 25.0)])
}

fn port_of_ladon(world: &World, client: &mut Client, monitor: &Monitor, number: usize) -> Result<Duration> {
    let network = &world.networks[number % world.networks.len()];
    let body = serde_json::json!({"port": network.port(&world.elsewhere(number))});
    let started = Instant::now();
    let made = client.create(PORTS, &body)?;
    let took = last(monitor)? - started;
    client.delete(&format!("{PORTS}/{}", id(&made["port"])))?;
    last(monitor)?;
    Ok(took)
}

fn port_of_ovn(ovn: &mut Ovn, monitor: &Monitor, number: usize) -> Result<Duration> {
    let started = Instant::now();
    ovn.add_remote(number)?;
    let took = last(monitor)? - started;
    ovn.remove(number)?;
    last(monitor)?;
    Ok(took)
}

/// When the last flow of a change was told.
fn last(monitor: &Monitor) -> Result<Instant> {
    Ok(monitor.burst()?.last().context("a burst has a change")?.0)
}
