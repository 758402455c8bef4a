//! One address more in a group that many policies name.
//!
//! A policy is a security group with one rule, which lets the members of a large group in on a TCP port, and with local ports of its own.
//! The member is a remote port that is there already and becomes a member, which is what one address more in OVN's address set is.
//! OVN's set is a tenth as large, because every address costs it two flows for each policy; its addresses are nobody's ports, which
//! costs it less.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use demo::id;
use lab::Progress;
use serde_json::{Value, json};

use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread, shown};
use crate::flows::Monitor;
use crate::http::Client;
use crate::neutron::{self, PORTS, VIRTUAL_MACHINE, from_group, ingress, tcp};
use crate::ovn::{self, Ovn, Policies};
use crate::policy::tcp_port;
use crate::world::{Shape, World, wait_acknowledged};

/// OVN's members are addresses from here on, which no port has.
const OVN_MEMBERS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 0);

/// How much of it there is.
#[derive(Clone, Copy)]
struct Size {
    shape: Shape,
    policies: usize,
    members: usize,
    of_ovn: usize,
    times: usize,
    of_ovn_times: usize,
}

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let release = ovn::release(progress)?;
    let mut figures = Vec::new();
    for per_policy in [1, 2] {
        let size = scale.of(
            Size {
                shape: Shape::flat(10, 1_000, 100 * per_policy),
                policies: 100,
                members: 10_000,
                of_ovn: 1_000,
                times: 50,
                of_ovn_times: if per_policy == 1 { 50 } else { 5 },
            },
            Size { shape: Shape::flat(2, 100, 4 * per_policy), policies: 4, members: 100, of_ovn: 50, times: 5, of_ovn_times: 2 },
        );
        figures.extend(measure(size, per_policy, &release, progress)?);
    }
    Ok(figures)
}

/// What a series has shown.
#[derive(Default)]
struct Seen {
    into: Vec<Duration>,
    out: Vec<Duration>,
    /// Changes of flows, for each.
    flows: f64,
}

fn measure(size: Size, per_policy: usize, release: &lab::debian::Release, progress: &Progress) -> Result<Vec<Figure>> {
    let world = World::start_of(Some(release), size.shape, progress)?;
    let place = if per_policy == 1 { "one local port each" } else { "two local ports each, on two networks" };
    let host = world.host("ovn", 21)?;
    let mut ovn = Ovn::start(&host, release, size.shape, progress)?;
    let (policies, members) = (size.policies, size.members);
    let mut group =
        progress.during(format!("{policies} policies, {place}, {members} members"), || Group::make(&world, size, per_policy))?;
    let addresses: Vec<Ipv4Addr> = (0..size.of_ovn as u32 + 1).map(|n| Ipv4Addr::from(u32::from(OVN_MEMBERS) + n)).collect();
    let (more, addresses) = addresses.split_last().context("there are addresses")?;
    let what = format!("the same in OVN, {} members", size.of_ovn);
    let mut theirs = progress.during(what, || Policies::make(&mut ovn, policies, per_policy, addresses))?;
    let ours = progress.during(format!("{} members come and go", size.times), || group.series(size.times))?;
    let mut peers = Seen::default();
    let flows = ovn.flows()?;
    progress.during(format!("{} members come and go in OVN", size.of_ovn_times), || {
        for _ in 0..size.of_ovn_times {
            let began = Instant::now();
            theirs.add(*more)?;
            peers.into.push(began.elapsed());
            peers.flows = ovn.flows()? as f64 - flows as f64;
            let began = Instant::now();
            theirs.remove(*more)?;
            peers.out.push(began.elapsed());
        }
        anyhow::Ok(())
    })?;
    let how = format!(
        "A remote port becomes a member of a group of {members} that the rules of {policies} groups name, {place}, and ceases to be, {} times; from the request until n1 has \
         acknowledged it. OVN: an address into an address set of {}, {} times; from the transaction until `hv_cfg`. Flows: n1 {}, OVN {flows}. Flows that change are those that n1's \
         flow monitor tells, and in OVN the difference of their number.",
        size.times,
        size.of_ovn,
        size.of_ovn_times,
        world.flows()?,
    );
    let figure = |which: &str, of: fn(&Seen) -> &Vec<Duration>| {
        let [ours, theirs] = [&ours, &peers].map(|seen| Measured::p50(Spread::of_times(of(seen))));
        Figure::new(
            format!("one address {which} a remote group of {members}, {policies} policies, {place}, p50"),
            "ms",
            ours,
            Reach::AtMostOfPeer(0.1),
        )
        .against("OVN 25.03", theirs)
        .how(how.clone())
        .if_short(super::FIXED)
    };
    Ok(vec![
        figure("into", |seen| &seen.into),
        figure("out of", |seen| &seen.out),
        Figure::new(format!("flows that this changes, {place}"), "flows", ours.flows, Reach::AtMost(2.0))
            .against("OVN 25.03", peers.flows)
            .how(format!("As above; policies use the group {} times.", shown(policies as f64))),
    ])
}

/// The large group, and a port that may become a member.
struct Group<'a> {
    world: &'a World,
    client: Client,
    port: String,
    /// The groups that the port has without it, and with it.
    groups: [Value; 2],
}

impl Group<'_> {
    fn make(world: &World, size: Size, per_policy: usize) -> Result<Group<'_>> {
        let mut client = world.client()?;
        let members = neutron::make_group(&mut client, "members")?;
        for (number, network) in world.networks.iter().enumerate() {
            let port = |member: usize| neutron::port(&network.id, [&network.group, &members], &world.elsewhere(member), VIRTUAL_MACHINE);
            let all: Vec<Value> = (number..size.members).step_by(world.networks.len()).map(port).collect();
            neutron::make_ports(&mut client, &all)?;
        }
        for (number, ports) in world.interleaved()?.chunks(per_policy).take(size.policies).enumerate() {
            let policy = neutron::make_group(&mut client, &format!("policy{number}"))?;
            neutron::make_rule(&mut client, &ingress(&policy, &[from_group(&members), tcp(tcp_port(number))]))?;
            for port in ports {
                neutron::join(&mut client, port, &policy)?;
            }
        }
        let network = &world.networks[0];
        let made = client.create(PORTS, &json!({"port": network.port(&world.elsewhere(0))}))?;
        let groups = [json!([network.group]), json!([network.group, members])];
        wait_acknowledged(&mut client)?;
        Ok(Group { world, client, port: id(&made["port"]).into(), groups })
    }

    fn series(&mut self, times: usize) -> Result<Seen> {
        // The server has closed the connection if nothing was asked for a while.
        self.client = self.world.client()?;
        let mut seen = Seen::default();
        for _ in 0..times {
            seen.into.push(self.set(1)?);
            seen.out.push(self.set(0)?);
        }
        let monitor = Monitor::start(self.world.ovs.host().command("ovs-ofctl"), self.world.ovs.run_dir())?;
        self.set(1)?;
        seen.flows = monitor.burst()?.len() as f64;
        self.set(0)?;
        Ok(seen)
    }

    fn set(&mut self, which: usize) -> Result<Duration> {
        let (path, body) = (format!("{PORTS}/{}", self.port), neutron::in_groups(&self.groups[which]));
        let began = Instant::now();
        self.client.update(&path, &body)?;
        wait_acknowledged(&mut self.client)?;
        Ok(began.elapsed())
    }
}
