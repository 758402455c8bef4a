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

use super::acknowledged;
use super::groups::{group, interleaved};
use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread};
use crate::ovn::{self, Overlapping, Ovn};
use crate::world::{Shape, World};

/// Local ports that have the rules.
const LOCAL: usize = 20;
/// The first TCP port.
const FIRST_PORT: usize = 10_000;
/// How long anything may take.
const READY: Duration = Duration::from_secs(300);

/// Why so many rules may take longer.
const BULK: &str =
    "a request with so many rules is read, checked, written to the disk and answered with all of them before the node hears of it";

/// How many there are: `sets` different sets of the addresses of `ports`, and so many rules for each.
#[derive(Clone, Copy)]
pub struct Size {
    pub addresses: usize,
    pub sets: usize,
    pub rules_each: usize,
}

impl Size {
    pub fn rules(self) -> usize {
        self.sets * self.rules_each
    }

    /// Whether the address is in the set.
    pub fn is_in(self, address: usize, set: usize) -> bool {
        address % self.sets != set
    }

    /// The rules: which set may reach which TCP port.
    pub fn all(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.rules()).map(move |rule| (rule % self.sets, FIRST_PORT + rule))
    }
}

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let size = scale.of(Size { addresses: 450, sets: 35, rules_each: 100 }, Size { addresses: 40, sets: 5, rules_each: 10 });
    let of_ovn = Size { rules_each: size.rules_each / 10, ..size };
    let (times, shape) = (scale.of(3, 1), Shape::flat(2, LOCAL + size.addresses, LOCAL));
    let release = ovn::release(progress)?;
    let world = World::start_of(Some(&release), shape, progress)?;
    let mut ovn = Ovn::start(&world.host("ovn", 21)?, &release, shape, progress)?;
    let (rules, addresses) = (size.rules(), size.addresses);
    let ours = progress
        .during(format!("{rules} rules over {addresses} addresses"), || Rules::make(&world, size))
        .with_context(|| world.ladon.logs())?;
    let (fresh, flows) = (fresh_starts(&world, times)?, world.flows()?);
    let what = format!("{} rules over {addresses} addresses in OVN", of_ovn.rules());
    let theirs = progress.during(what, || Overlapping::make(&mut ovn, of_ovn))?;
    let what = "ovn-controller started afresh";
    let their_fresh = progress.during(what, || (0..times).map(|_| ovn.restart(true)).collect::<Result<Vec<_>>>())?;
    let how = format!(
        "{rules} rules of a group with {LOCAL} local ports, made by one request: each lets in one of {} groups on a TCP port of its own. Each of {addresses} remote ports is in \
         all of these but one. A fresh start: `ladon node` (`ovn-controller`) and all flows are gone, and the node's memory with them; from the start until everything is in force, the median of \
         {times}. Flows: n1 {flows}, OVN {}. OVN has {} rules: with {rules} it was not done after 90 s, at 5.9 GB of memory; 18 s are published for such rules, of a later release.",
        size.sets,
        ovn.flows()?,
        of_ovn.rules(),
    );
    let figure = |what: &str, ours: Measured, theirs: Measured| {
        let name = format!("{rules} overlapping rules over {addresses} addresses, {LOCAL} local ports: {what}");
        Figure::new(name, "s", ours, Reach::AtMost(0.5))
            .against(&format!("OVN 25.03 with {} rules", of_ovn.rules()), theirs)
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
    fn make(world: &World, size: Size) -> Result<Duration> {
        let mut client = world.client()?;
        let mut sets = Vec::new();
        for set in 0..size.sets {
            sets.push(group(&mut client, &format!("set{set}"))?);
        }
        let many = group(&mut client, "many")?;
        let ports = world.ladon.api.list("port", "device_owner=compute:nova")?;
        for (number, port) in ports.iter().filter(|port| port["binding:host_id"] != "n1").enumerate() {
            let groups: Vec<&String> = sets.iter().enumerate().filter(|(set, _)| size.is_in(number, *set)).map(|(_, id)| id).collect();
            client.update(&format!("/v2.0/ports/{}", id(port)), &json!({"port": {"security_groups": groups}}))?;
        }
        for port in interleaved(world)? {
            let groups = json!([port["security_groups"][0], many]);
            client.update(&format!("/v2.0/ports/{}", id(&port)), &json!({"port": {"security_groups": groups}}))?;
        }
        acknowledged(&mut client)?;
        let rule = |(set, tcp): (usize, usize)| {
            json!({"security_group_id": many, "direction": "ingress", "ethertype": "IPv4", "remote_group_id": sets[set],
                "protocol": "tcp", "port_range_min": tcp, "port_range_max": tcp})
        };
        let rules: Vec<Value> = size.all().map(rule).collect();
        let body = json!({ "security_group_rules": rules });
        let began = Instant::now();
        client.create("/v2.0/security-group-rules", &body)?;
        acknowledged(&mut client)?;
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
