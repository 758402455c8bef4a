//! Every scenario with real packets: an Open vSwitch with the userspace datapath in a network namespace, a cable for every
//! local port, the underlay for every other node. Each packet goes in as bytes. It must arrive where the scenario says, and
//! as the in-process switch says: translated, routed, answered, checksums included.
//!
//! Nothing is waited for that does not come. Behind every packet go echoes, which the switch sends back when it is done
//! with the packet; by then the flows' counters tell whether it was dropped, and where. No packet is left out.

#[path = "scenarios_packets/bytes.rs"]
mod bytes;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use apps::scenario::{End, Scenario, Step, TUNNEL, end, ends};
use openflow::{FlowKey, InstalledFlow};
use pipeline::switch::{Journey, Outcome, Packet};
use pipeline::{Generation, Header, OfPort, Punt, Table, ct};
use world::{DEADLINE, ECHO, Wire, World};

/// What did not arrive so long after the switch was done with it does not arrive.
const LOST: Duration = Duration::from_secs(5);

/// A scenario's node and everything around it.
struct Site {
    world: World,
    wires: BTreeMap<OfPort, Wire>,
    peers: BTreeMap<Ipv4Addr, Wire>,
    echoes: u32,
    /// How long a packet that was not dropped may take from the switch to where it arrives.
    arrival: Duration,
}

/// Where a packet arrived, and as what.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Arrival {
    end: End,
    /// The network that the tunnel was told.
    vni: Option<u128>,
    frame: Vec<u8>,
}

#[test]
fn every_scenario_holds_with_real_packets() {
    let mut wrong = Vec::new();
    let mut packets = 0;
    for ((file, scenario), half) in scenarios().into_iter().zip(Generation::ALL.into_iter().cycle()) {
        let started = std::time::Instant::now();
        let mut site = Site::of(&scenario, half);
        for (step, journey) in scenario.steps.iter().zip(scenario.journeys()) {
            packets += 1;
            if let Err(what) = site.agrees(step, &journey) {
                wrong.push(format!("{file}: line {}: `{}`: {what}", step.line, step.text));
            }
        }
        wrong.extend(site.arrivals().into_iter().map(|late| format!("{file}: at the end there came {late}")));
        println!("{file} in half {half:?}: {} packets in {:.1?}", scenario.steps.len(), started.elapsed());
    }
    println!("{packets} packets, none left out");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(packets > 40, "only {packets} packets");
}

/// The same packets while the switch does something else: without this, nobody knows that the scenarios could fail.
#[test]
fn a_switch_that_does_something_else_is_noticed() {
    let text = "port a here 11 trusted\nport b here 12 trusted\nport c here 13 trusted\nport d there 192.0.2.9 trusted\n\
                a -> b to b\na -> d tunnel 192.0.2.9\na -> 10.0.0.77 dropped in L2Lookup\n";
    let scenario = Scenario::parse(text).unwrap();
    let [there, away, nowhere] = [0, 1, 2];
    let wrongs = [
        (there, Table::Deliver, "output:13"),
        (there, Table::Deliver, "output:12,output:13"),
        (there, Table::Deliver, "set_field:02:00:00:00:00:66->eth_src,output:12"),
        (there, Table::Deliver, "drop"),
        (there, Table::Deliver, "controller(userdata=01)"),
        (away, Table::Tunnel, "set_field:192.0.2.9->tun_dst,set_field:0x777->tun_id,output:1000"),
        (away, Table::Tunnel, "drop"),
        (nowhere, Table::Classify, "drop"),
        (nowhere, Table::L2Lookup, "output:12"),
        (nowhere, Table::L2Lookup, "in_port"),
    ];
    let mut site = Site::of(&scenario, Generation::A);
    let journeys = scenario.journeys();
    for (n, table, actions) in wrongs {
        let (step, journey) = (&scenario.steps[n], &journeys[n]);
        assert_eq!(site.agrees(step, journey), Ok(()), "`{}` as it should be", step.text);
        let flow = format!("table={},priority=65000", table.number(Generation::A));
        site.world.add_flow(&format!("{flow},actions={actions}"));
        site.arrival = LOST;
        let said = site.agrees(step, journey);
        site.arrival = DEADLINE;
        assert!(said.is_err(), "`{}` with `{actions}` in {table:?} went unnoticed", step.text);
        site.world.delete_flow(&flow);
    }
}

fn scenarios() -> Vec<(String, Scenario)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let read = |path| Scenario::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut read: Vec<(String, Scenario)> =
        files.map(|file| (file.file_name().to_string_lossy().into_owned(), read(file.path()))).collect();
    read.sort_by(|a, b| a.0.cmp(&b.0));
    read
}

impl Site {
    fn of(scenario: &Scenario, half: Generation) -> Site {
        let world = World::with_tunnel(TUNNEL, half, scenario.world.iter().cloned());
        let wires = world.engine.view().attachments().map(|attachment| (attachment.ofport, world.wire(attachment.ofport))).collect();
        let peers: BTreeSet<Ipv4Addr> = scenario.steps.iter().flat_map(remotes).collect();
        let peers = peers.into_iter().map(|peer| (peer, world.peer(peer))).collect();
        Site { world, wires, peers, echoes: 0, arrival: DEADLINE }
    }

    /// Sends the step's packet; says what became of it if that was not what is expected.
    fn agrees(&mut self, step: &Step, journey: &Journey) -> Result<(), String> {
        if ends(journey) != step.expected {
            return Err(format!("in process {:?}", ends(journey)));
        }
        if let Some(late) = self.arrivals().pop() {
            return Err(format!("before it there came {late}"));
        }
        let is_answer = journey.states.iter().any(|state| state & ct::RPL != 0);
        let frame = |packet: &Packet| bytes::frame(packet, is_answer, &mark(step));
        let mut expected: Vec<Arrival> = journey.outcomes.iter().filter_map(|outcome| arrival(outcome, frame)).collect();
        let (mut arrived, dropped) = self.pass(step, &frame(&step.packet), expected.len());
        expected.sort();
        arrived.sort();
        match step.expected[..] {
            [End::Dropped(table)] if arrived.is_empty() && dropped == Ok(table) => Ok(()),
            _ if arrived.is_empty() => Err(format!("{dropped:?}")),
            _ if arrived == expected => Ok(()),
            _ => Err(format!("arrived {}, expected {}", list(&arrived), list(&expected))),
        }
    }

    /// A packet enters: what arrives of it, `count` copies if nothing is wrong, and the table that dropped it or else the flows
    /// that it met.
    fn pass(&mut self, step: &Step, frame: &[u8], count: usize) -> (Vec<Arrival>, Result<Table, String>) {
        self.world.forget_ways();
        let before = self.world.flows();
        let mut arrived = self.enter(step, frame);
        let met = met(&before, self.world.flows());
        let dropped = dropped(&met);
        let patience = self.arrival;
        let arrives = || {
            arrived.extend(self.arrivals());
            let is_done = arrived.len() >= count.max(1) || (dropped.is_some() && count == 0);
            Ok::<_, String>(is_done.then_some(()))
        };
        let _ = lab::wait::until("the packet to arrive", patience, arrives);
        let path = met.iter().map(|flow| format!("{flow:?}\n")).collect();
        (arrived, dropped.ok_or(path))
    }

    /// Sends a frame; what arrives until the switch is done with it. It takes up one frame after the other, but sends what a
    /// round gave by interface: the second echo comes after everything that the first one's round sent. What comes from another
    /// node is sent by that node's wire, and the echoes by some other.
    fn enter(&mut self, step: &Step, frame: &[u8]) -> Vec<Arrival> {
        let in_port = OfPort(step.packet.get(Header::InPort).unwrap() as u32);
        let echo_port = match step.from {
            Some(IpAddr::V4(peer)) => {
                let vni = step.packet.get(Header::TunId).unwrap() as u32;
                let outer = bytes::tunnelled((self.world.peer_mac(peer), peer), self.world.tunnel_end(), vni, frame);
                self.peers[&peer].send(&outer);
                *self.wires.keys().next().expect("somebody is here")
            }
            Some(IpAddr::V6(peer)) => panic!("{peer}: the userspace datapath's tunnels are tried over IPv4"),
            None => {
                self.wires[&in_port].send(frame);
                in_port
            }
        };
        let mut arrived = self.echo(echo_port);
        arrived.extend(self.echo(echo_port));
        arrived
    }

    /// Sends an echo; what else arrives until it is back.
    fn echo(&mut self, in_port: OfPort) -> Vec<Arrival> {
        self.echoes += 1;
        let echo = bytes::echo(ECHO, self.echoes);
        self.wires[&in_port].send(&echo);
        let mut arrived = Vec::new();
        let is_back = || {
            let (echoes, others): (Vec<_>, Vec<_>) = self.arrivals().into_iter().partition(|arrival| arrival.frame == echo);
            arrived.extend(others);
            Ok::<_, String>((!echoes.is_empty()).then_some(()))
        };
        lab::wait::until("the switch to send an echo back", DEADLINE, is_back).unwrap();
        arrived
    }

    /// Everything that has arrived anywhere.
    fn arrivals(&mut self) -> Vec<Arrival> {
        let on_wire = |(port, wire): (&OfPort, &Wire)| {
            let end = End::Output(*port);
            wire.received().into_iter().map(move |frame| Arrival { end, vni: None, frame }).collect::<Vec<_>>()
        };
        let at_peer = |(address, wire): (&Ipv4Addr, &Wire)| {
            let end = End::Tunnel(IpAddr::V4(*address));
            // The underlay shows every peer what is for a MAC that nobody has yet.
            let own = move |(to, vni, frame)| (to == *address).then_some(Arrival { end, vni: Some(u128::from(vni)), frame });
            wire.received().into_iter().filter_map(|frame| bytes::geneve(&frame)).filter_map(own).collect::<Vec<_>>()
        };
        let mut all: Vec<Arrival> = self.wires.iter().flat_map(on_wire).chain(self.peers.iter().flat_map(at_peer)).collect();
        all.extend(self.world.punts().into_iter().map(|packet| {
            let punt = packet.userdata.first().copied().and_then(Punt::from_byte).expect("only flows with a reason hand packets over");
            Arrival { end: End::Punted(punt), vni: None, frame: packet.packet }
        }));
        all
    }
}

/// The other nodes that a packet comes from and arrives at.
fn remotes(step: &Step) -> Vec<Ipv4Addr> {
    let ends = step.expected.iter().filter_map(|end| if let End::Tunnel(address) = end { Some(*address) } else { None });
    let v4 = |address| match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}: the userspace datapath's tunnels are tried over IPv4"),
    };
    ends.chain(step.from).map(v4).collect()
}

/// What every packet of a step carries, so that nothing is taken for it.
fn mark(step: &Step) -> Vec<u8> {
    format!("scenario {:04}", step.line).into_bytes()
}

/// What the in-process switch says that arrives.
fn arrival(outcome: &Outcome, frame: impl Fn(&Packet) -> Vec<u8>) -> Option<Arrival> {
    let end = end(outcome);
    match outcome {
        Outcome::Output(port, packet) => {
            let vni = (*port == TUNNEL).then(|| packet.get(Header::TunId).unwrap_or(0));
            Some(Arrival { end, vni, frame: frame(packet) })
        }
        Outcome::Punted(_, packet) => Some(Arrival { end, vni: None, frame: frame(packet) }),
        Outcome::Dropped(_) => None,
    }
}

/// The flows whose counters moved, in the order of their tables. Echoes meet none of the pipeline's.
fn met(before: &BTreeMap<FlowKey, InstalledFlow>, after: BTreeMap<FlowKey, InstalledFlow>) -> Vec<InstalledFlow> {
    let packets = |flow: &InstalledFlow| flow.stats.packets.expect("the switch counts packets");
    let moved = |(key, flow): &(FlowKey, InstalledFlow)| Table::from_number(key.table).is_some() && packets(flow) > packets(&before[key]);
    after.into_iter().filter(moved).map(|(_, flow)| flow).collect()
}

/// The table whose flow ended the packet's journey, if it ended by a flow that does nothing.
fn dropped(met: &[InstalledFlow]) -> Option<Table> {
    let last = met.iter().max_by_key(|flow| flow.table)?;
    let is_end = last.instructions.apply.is_empty() && last.instructions.goto_table.is_none();
    is_end.then(|| Table::from_number(last.table)).flatten().map(|(table, _)| table)
}

fn list(arrivals: &[Arrival]) -> String {
    arrivals.iter().map(Arrival::to_string).collect::<Vec<_>>().join("; ")
}

impl std::fmt::Display for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {}", self.end, self.vni, bytes::hex(&self.frame))
    }
}
