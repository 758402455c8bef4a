//! Very many rules that overlap: different groups of nearly the same addresses, and many ports of each.
//!
//! It is what makes `ovn-controller` slow (OVN's commits 80dccd684 and c7575fc1f, later than 25.03: 18 s for 3,500 rules over some 450
//! addresses and 20 ports, after two improvements). Here the addresses are those of remote ports, each a member of all groups but one.
//! OVN 25.03 gets a tenth of the rules: with all of them it was not done after 90 s, at 5.9 GB of memory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use demo::id;
use lab::Progress;
use serde_json::{Value, json};

use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread};
use crate::neutron::{self, PORTS, RULES, VIRTUAL_MACHINE, from_group, ingress, tcp};
use crate::ovn::{self, Overlapping, Ovn};
use crate::policy::Overlap;
use crate::world::{Shape, World, wait_acknowledged};

/// Local ports that have the rules.
const LOCAL: usize = 20;
/// How long anything may take.
const READY: Duration = Duration::from_secs(300);

/// Why so many rules may take longer.
const BULK: &str =
    "a request with so many rules is read, checked, written to the disk and answered with all of them before the node hears of it";

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let size = scale.of(Overlap { addresses: 450, sets: 35, rules_each: 100 }, Overlap { addresses: 40, sets: 5, rules_each: 10 });
    let of_ovn = Overlap { rules_each: size.rules_each / 10, ..size };
    let (times, shape) = (scale.of(3, 1), Shape::flat(2, LOCAL + size.addresses, LOCAL));
    let release = ovn::release(progress)?;
    let world = World::start_of(Some(&release), shape, progress)?;
    let mut ovn = Ovn::start(&world.host("ovn", 21)?, &release, shape, progress)?;
    let (rules, addresses) = (size.count(), size.addresses);
    let ours = progress
        .during(format!("{rules} rules over {addresses} addresses"), || Rules::make(&world, size))
        .with_context(|| world.ladon.logs())?;
    let (fresh, flows) = (fresh_starts(&world, times)?, world.flows()?);
    let what = format!("{} rules over {addresses} addresses in OVN", of_ovn.count());
    let theirs = progress.during(what, || Overlapping::make(&mut ovn, of_ovn))?;
    let what = "ovn-controller started afresh";
    let their_fresh = progress.during(what, || (0..times).map(|_| ovn.restart(true)).collect::<Result<Vec<_>>>())?;
    let how = format!(
        "{rules} rules of a group with {LOCAL} local ports, made by one request: each lets in one of {} groups on a TCP port of its own. Each of {addresses} remote ports is in \
         all of these but one. A fresh start: `ladon node` (`ovn-controller`) and all flows are gone, and the node's memory with them; from the start until everything is in force, the median of \
         {times}. Flows: n1 {flows}, OVN {}. OVN has {} rules: with {rules} it was not done after 90 s, at 5.9 GB of memory; 18 s are published for such rules, of a later release.",
        size.sets,
        ovn.flows()?,
        of_ovn.count(),
    );
    let figure = |what: &str, ours: Measured, theirs: Measured| {
        let name = format!("{rules} overlapping rules over {addresses} addresses, {LOCAL} local ports: {what}");
        Figure::new(name, "s", ours, Reach::AtMost(0.5))
            .against(&format!("OVN 25.03 with {} rules", of_ovn.count()), theirs)
            .how(how.clone())
    };
    let median = |times: &[Duration]| Measured::p50(Spread::of_seconds(times));
    Ok(vec![
        figure("from the request that brings them until in force", median(&[ours]), median(&[theirs])).if_short(BULK),
        figure("fresh start of the node", median(&fresh), median(&their_fresh)).if_short(super::ONE_THREAD),
    ])
}

struct Rules;

impl Rules {
    /// Makes the groups, then all rules at once: until they are in force.
    fn make(world: &World, size: Overlap) -> Result<Duration> {
        let mut client = world.client()?;
        let mut sets = Vec::new();
        for set in 0..size.sets {
            sets.push(neutron::make_group(&mut client, &format!("set{set}"))?);
        }
        let many = neutron::make_group(&mut client, "many")?;
        let ports = world.ladon.api.list("port", &format!("device_owner={VIRTUAL_MACHINE}"))?;
        for (number, port) in ports.iter().filter(|port| port["binding:host_id"] != "n1").enumerate() {
            let groups: Vec<&String> = sets.iter().enumerate().filter(|(set, _)| size.is_in(number, *set)).map(|(_, id)| id).collect();
            client.update(&format!("{PORTS}/{}", id(port)), &neutron::in_groups(groups))?;
        }
        for port in world.interleaved()? {
            neutron::join(&mut client, &port, &many)?;
        }
        wait_acknowledged(&mut client)?;
        let rule = |(set, port): (usize, usize)| ingress(&many, &[from_group(&sets[set]), tcp(port)]);
        let rules: Vec<Value> = size.rules().map(rule).collect();
        let body = json!({ "security_group_rules": rules });
        let began = Instant::now();
        client.create(RULES, &body)?;
        wait_acknowledged(&mut client)?;
        Ok(began.elapsed())
    }
}

/// n1 starts with an empty switch and an empty memory.
fn fresh_starts(world: &World, times: usize) -> Result<Vec<Duration>> {
    let flows = world.desired_flows()?;
    let fresh_start = |_| {
        world.empty_node()?;
        world.start_node(Some(flows), READY)
    };
    (0..times).map(fresh_start).collect()
}
