//! What a packet meets: the rules that its first one visits, the time that takes, new connections, and throughput.
//!
//! Machines are network namespaces on one node (one chassis), two on one network and one behind the router, with the usual security
//! groups on all. Both are on the Open vSwitch that OVN's release brings, 3.5: that of Debian 12, 3.1.0, loses connections to a VIP
//! whose client uses a port again (docs/operate.md).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use demo::{Workload, id};
use lab::{Progress, traffic, wait};

use super::services::Services;
use crate::Scale;
use crate::dataplane::{PORT, Talk, connections, megabits};
use crate::figure::{Figure, Measured, Reach, Spread};
use crate::machine::Machine;
use crate::ovn::{self, Ovn};
use crate::world::{PREFIX, Shape, World, address, wait_acknowledged};

/// The machines, by their places among the local ports: those that follow each other are on different networks.
const CLIENT: usize = 0;
const ROUTED: usize = 1;
const SAME: usize = 2;
/// The port behind the VIP's. It is another than for direct connections: the server remembers those by the client's address and port for a
/// while, and the client may choose the same port for the VIP again.
const BEHIND: u16 = 22;
/// How long a machine may take to be reachable.
const READY: Duration = Duration::from_secs(20);

/// One system.
struct Side<'a> {
    machines: Vec<Machine>,
    /// Its port 80 leads to port 22 of the machine behind the router.
    vip: IpAddr,
    /// The router's MAC on the client's network.
    router_mac: String,
    /// The switch's number of the client.
    client: String,
    appctl: Box<dyn Fn(&[&str]) -> Result<String> + 'a>,
}

/// A way from the client, and a name for it.
#[derive(Clone, Copy)]
enum Way {
    Same,
    Routed,
    Service,
}

impl Way {
    /// What each packet costs on it.
    fn work(self) -> &'static str {
        match self {
            Way::Same | Way::Routed => {
                "each packet's connection is looked up in the zones of both ports, and of answers in the zone of the receiver's translations as well, since a load \
                 balancer is within reach; the packets of who began it meet the rules of both again"
            }
            Way::Service => {
                "each packet's connection is looked up in the zones of both ports, and for the member and its address in the zone of the client's translations, too; \
                 the packets of who began it meet the rules of both ports again"
            }
        }
    }
}

const WAYS: [(Way, &str); 3] = [(Way::Same, "same network"), (Way::Routed, "routed"), (Way::Service, "through a Service")];

/// What was measured on one way, a value per turn.
#[derive(Default, Clone)]
struct Seen {
    firsts: Vec<Duration>,
    connections: Vec<f64>,
    megabits: Vec<f64>,
}

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let shape = Shape::flat(2, 40, 3);
    let release = ovn::release(progress)?;
    let world = World::start_of(Some(&release), shape, progress)?;
    let mut ovn = Ovn::start(&world.host("ovn", 21)?, &release, shape, progress)?;
    let (ours, _workloads) =
        progress.during("three machines on a node of Ladon", || of_ladon(&world)).with_context(|| world.ladon.logs())?;
    let (machines, _namespaces): (Vec<_>, Vec<_>) =
        progress.during("three machines on OVN's chassis", || ovn.machines())?.into_iter().unzip();
    let vip = ovn.vip(&format!("{}:{BEHIND}", machines[ROUTED].ip))?;
    let client = ovn.ofport(&machines[CLIENT].device)?;
    let theirs = Side { machines, vip, router_mac: ovn.router_mac(0), client, appctl: Box::new(|args| ovn.appctl(args)) };
    let sides = [ours, theirs];
    sides.iter().try_for_each(Side::wait)?;
    let mut figures = Vec::new();
    for (way, name) in WAYS {
        let rules = [sides[0].rules(way)?, sides[1].rules(way)?];
        figures.extend(rules_visited(name, way, rules));
        let seen = progress.during(format!("first packets, connections and throughput, {name}"), || measure(&sides, way, scale))?;
        figures.extend(rows(name, way, &seen, scale));
    }
    Ok(figures)
}

fn of_ladon(world: &World) -> Result<(Side<'_>, Vec<Workload>)> {
    let ports = world.interleaved()?;
    let (mut machines, mut workloads) = (Vec::new(), Vec::new());
    let switch = &world.ovs;
    for device in ["p0", "p1", "p2"] {
        switch.unplug(device)?;
    }
    for (number, port) in ports.iter().enumerate() {
        let ip: Ipv4Addr = port["fixed_ips"][0]["ip_address"].as_str().context("a port has an address")?.parse()?;
        let workload = Workload::plug(switch, &format!("m{number}"), port, &[(ip.into(), PREFIX)])?;
        workload.default_route(address(number % 2, 1).into())?;
        world.ladon.wait_active(id(port))?;
        let mac = port["mac_address"].as_str().context("a port has a MAC")?.to_string();
        machines.push(Machine { netns: workload.netns().clone(), device: workload.device().to_string(), mac, ip });
        workloads.push(workload);
    }
    let mut client = world.client()?;
    let vip = Services::on(world)?.make_one(&mut client, (machines[ROUTED].ip, BEHIND))?;
    wait_acknowledged(&mut client)?;
    let query = format!("network_id={}&device_owner=network:router_interface", world.networks[0].id);
    let interfaces = world.ladon.api.list("port", &query)?;
    let router_mac = interfaces.first().and_then(|port| port["mac_address"].as_str()).context("the network has a router")?.to_string();
    let ofport = switch.vsctl(&["get", "Interface", &machines[CLIENT].device, "ofport"])?.trim().to_string();
    let appctl = Box::new(|args: &[&str]| Ok(switch.appctl(args)?));
    Ok((Side { machines, vip, router_mac, client: ofport, appctl }, workloads))
}

impl Side<'_> {
    fn to(&self, way: Way) -> IpAddr {
        match way {
            Way::Same => self.machines[SAME].ip.into(),
            Way::Routed => self.machines[ROUTED].ip.into(),
            Way::Service => self.vip,
        }
    }

    fn talk(&self, way: Way) -> Talk<'_> {
        let server = if matches!(way, Way::Same) { SAME } else { ROUTED };
        let accepted_on = if matches!(way, Way::Service) { BEHIND } else { PORT };
        Talk { client: &self.machines[CLIENT].netns, server: &self.machines[server].netns, to: self.to(way), port: PORT, accepted_on }
    }

    fn wait(&self) -> Result<()> {
        for way in [Way::Same, Way::Routed] {
            let talk = self.talk(way);
            wait::until("an answer", READY, || traffic::is_reachable(talk.client, talk.to).map(|yes| yes.then_some(())))?;
        }
        Ok(())
    }

    /// Rules that the first packet of a connection visits, as `ofproto/trace` tells, with those behind every look-up of a connection.
    fn rules(&self, way: Way) -> Result<f64> {
        let (client, to) = (&self.machines[CLIENT], self.to(way));
        let next = if matches!(way, Way::Same) { &self.machines[SAME].mac } else { &self.router_mac };
        let flow = format!(
            "in_port={},tcp,dl_src={},dl_dst={next},nw_src={},nw_dst={to},nw_ttl=64,tcp_src=4000,tcp_dst={PORT},tcp_flags=syn",
            self.client, client.mac, client.ip
        );
        let said = (self.appctl)(&["ofproto/trace", "br-int", &flow])?;
        let last = said.lines().rfind(|line| line.starts_with("Datapath actions")).unwrap_or_default();
        ensure!(!last.is_empty() && !last.contains("drop"), "the packet does not arrive: {said}");
        let is_rule = |line: &&str| line.trim_start().split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        Ok(said.lines().filter(is_rule).count() as f64)
    }
}

/// Everything on one way, in turns.
fn measure(sides: &[Side; 2], way: Way, scale: Scale) -> Result<[Seen; 2]> {
    let mut seen = [Seen::default(), Seen::default()];
    // A VIP answers an echo request itself, OVN's not at all.
    let firsts = if matches!(way, Way::Service) { 0 } else { scale.of(50, 5) };
    for _ in 0..firsts {
        for (side, seen) in sides.iter().zip(&mut seen) {
            // What the datapath remembers of earlier packets goes, so that this one is a first one.
            (side.appctl)(&["revalidator/purge"])?;
            let echo = traffic::ping(&side.machines[CLIENT].netns, side.to(way), 1, Duration::ZERO)?;
            ensure!(echo.lost == 0, "an echo request to {} was lost", side.to(way));
            seen.firsts.push(Duration::from_secs_f64(echo.rtt_p50_ms / 1000.0));
        }
    }
    for _ in 0..scale.of(5, 1) {
        for (side, seen) in sides.iter().zip(&mut seen) {
            seen.connections.push(connections(&side.talk(way), scale.of(Duration::from_secs(3), Duration::from_millis(500)))?);
        }
        for (side, seen) in sides.iter().zip(&mut seen) {
            seen.megabits.push(megabits(&side.talk(way), scale.of(3, 1))?);
        }
    }
    Ok(seen)
}

fn rules_visited(name: &str, way: Way, [ours, theirs]: [f64; 2]) -> Option<Figure> {
    let how = "`ofproto/trace` of a TCP SYN, with security groups on both ends: the rules of every table, and of what follows each look-up of a connection.";
    let reach = Reach::AtMostOfPeer(0.5);
    let figure =
        Figure::new(format!("rules visited by a first packet, {name}"), "rules", ours, reach).against("OVN 25.03", theirs).how(how);
    (!matches!(way, Way::Service)).then_some(figure)
}

fn rows(name: &str, way: Way, [ours, theirs]: &[Seen; 2], scale: Scale) -> Vec<Figure> {
    let how = format!(
        "Namespaces with veth pairs on one node, MTU 1400, userspace datapath, security groups on both ends, in turns. First packets: an echo request after the datapath has forgotten all \
         flows, {} times. Connections (connect, one byte, close) one after another, and iperf3 over one TCP connection, for {} s each, {} times; the value is the median.",
        ours.firsts.len(),
        scale.of(3, 1),
        ours.megabits.len()
    );
    let first = |seen: &Seen| Measured::p50(Spread::of_times(&seen.firsts));
    let median = |values: &[f64]| Measured::p50(Spread::of(values));
    let why = |seen: &[f64]| format!("{}; the turns of OVN lay between {}", way.work(), Spread::of(seen).range());
    let round_trip = || {
        Figure::new(format!("round trip of a first packet, {name}"), "ms", first(ours), Reach::AtMostOfPeer(1.0))
            .against("OVN 25.03", first(theirs))
            .if_short(way.work())
    };
    let others = [
        Figure::new(format!("new TCP connections, {name}"), "/s", median(&ours.connections), Reach::AtLeastOfPeer(1.0))
            .against("OVN 25.03", median(&theirs.connections))
            .if_short(why(&theirs.connections)),
        Figure::new(format!("TCP throughput, {name}"), "Mbit/s", median(&ours.megabits), Reach::AtLeastOfPeer(1.0))
            .against("OVN 25.03", median(&theirs.megabits))
            .if_short(why(&theirs.megabits)),
    ];
    let all = (!ours.firsts.is_empty()).then(round_trip).into_iter().chain(others);
    all.map(|figure| figure.how(how.clone())).collect()
}
