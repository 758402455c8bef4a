//! Packets through the cluster's switches, and the law that they must keep.
//!
//! A packet enters by an interface of a machine, goes through the machine's switch and, by tunnels, through others. Whoever gets
//! it must be on the sender's network, or on one that routers join with it in a state that one of these switches has in force.
//! Senders lie: about their addresses, and about whom they talk to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::{FixedIp, LoadBalancer, Mac, NetworkId, Port, PortId, PortStatus, Revision, Router};
use pipeline::switch::{Outcome, Packet};
use pipeline::{Header, OfPort};
use server::State;

use crate::host::TUNNEL;
use crate::world::World;

/// Tunnels that a packet may go through. It must never need more than one.
const TUNNELS_MAX: usize = 3;
/// Weight of a wrong sender, in percent.
const LIES: usize = 25;

/// Who got a packet, and the switches on its way.
struct Arrival {
    port: PortId,
    path: Vec<usize>,
}

impl World {
    /// Sends a random packet. Fails if it reaches a network that no router joins with the sender's.
    pub fn probe(&mut self) {
        let n = self.random.below(self.hosts.len());
        let ofports = self.hosts[n].interfaces.values().filter_map(|interface| interface.ofport);
        let Some(ofport) = self.random.pick(ofports) else { return };
        let Some(from) = self.hosts[n].plugged(ofport).filter(|port| self.networks.contains_key(port)) else { return };
        let packet = self.packet(ofport, from);
        self.seen.probes += 1;
        self.judge(n, from, &packet);
    }

    fn judge(&mut self, n: usize, from: PortId, packet: &Packet) -> Vec<PortId> {
        let source = self.networks[&from];
        let arrivals = self.send(n, packet);
        for Arrival { port, path } in &arrivals {
            let reached = self.networks[port];
            let revisions: BTreeSet<Revision> = path.iter().map(|n| self.hosts[*n].vswitch.revision).collect();
            let states: Vec<&State> = revisions.iter().filter_map(|revision| self.history.get(revision)).map(|state| &**state).collect();
            let path: Vec<String> = path.iter().map(|n| format!("n{n} at {}", self.hosts[*n].vswitch.revision)).collect();
            assert!(
                are_joined(&states, source, reached),
                "a packet of port {from} on network {source} reached port {port} on network {reached}, which no router joins, by {}: {packet}",
                path.join(", ")
            );
            self.seen.delivered += 1;
            self.seen.delivered_by_tunnel += usize::from(path.len() > 1);
            self.seen.delivered_by_router += usize::from(source != reached);
        }
        arrivals.into_iter().map(|arrival| arrival.port).collect()
    }

    /// A packet of the port's, mostly, to somebody.
    fn packet(&mut self, ofport: OfPort, from: PortId) -> Packet {
        let state = self.latest();
        let all: Vec<&Port> = state.all::<Port>().collect();
        let network = self.networks[&from];
        let liar = self.random.chance(LIES).then(|| self.random.pick(all.iter().copied())).flatten();
        let sender = liar.or(state.port(from)).or(all.first().copied());
        let near = all.iter().copied().filter(|port| port.network == network && port.id != from);
        let target = if self.random.chance(40) { self.random.pick(near) } else { self.random.pick(all.iter().copied()) };
        let vip = self.random.pick(state.all::<LoadBalancer>().map(|balancer| balancer.vip));
        let target_ip = target.and_then(|port| self.random.pick(port.addresses()));
        let ip = if self.random.chance(20) { vip.or(target_ip) } else { target_ip }.unwrap_or([10, 0, 0, 9].into());
        let own = sender.and_then(|port| port.addresses().find(|own| own.is_ipv4() == ip.is_ipv4()));
        let own = own.unwrap_or(if ip.is_ipv4() { [10, 0, 0, 8].into() } else { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 8u16]) });
        let routers: Vec<Mac> =
            all.iter().filter(|port| port.is_router_interface() && port.network == network).map(|port| port.mac).collect();
        let is_near = target.is_some_and(|port| port.network == network);
        let mac = match self.random.below(10) {
            0..8 if is_near => target.map(|port| port.mac),
            0..8 => self.random.pick(routers),
            8 => Some(Mac::BROADCAST),
            _ => self.random.pick(all.iter().filter(|port| port.is_router_interface())).map(|port| port.mac),
        };
        let macs = (sender.map_or(Mac::ZERO, |port| port.mac), mac.or(target.map(|port| port.mac)).unwrap_or(Mac::BROADCAST));
        let packet = Packet::ip(ofport, own, ip).macs(macs.0, macs.1);
        let port = 80 + self.random.below(4) as u16;
        match self.random.below(4) {
            0 => packet.ping(),
            1 => packet.udp(1000 + port, port),
            _ => packet.tcp(1000 + self.random.below(50) as u16, port),
        }
    }

    fn send(&mut self, n: usize, packet: &Packet) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        let mut on_the_way = vec![(vec![n], packet.clone())];
        while let Some((path, packet)) = on_the_way.pop() {
            let n = *path.last().expect("it began somewhere");
            for outcome in self.hosts[n].vswitch.forwarding.receive(&packet).outcomes {
                let Outcome::Output(out, packet) = outcome else { continue };
                if out != TUNNEL {
                    let port = self.hosts[n].plugged(out).filter(|port| self.networks.contains_key(port));
                    arrivals.extend(port.map(|port| Arrival { port, path: path.clone() }));
                    continue;
                }
                assert!(path.len() <= TUNNELS_MAX, "a packet goes round in tunnels: {packet}");
                let to = packet.get(Header::TunDst).map(|bits| IpAddr::from((bits as u32).to_be_bytes()));
                if let Some(next) = self.hosts.iter().position(|host| Some(host.address) == to) {
                    on_the_way.push(([path.clone(), vec![next]].concat(), through_tunnel(&packet)));
                }
            }
        }
        arrivals
    }

    /// With nothing in the way, ports hear each other: on one network, and over a router. The number that was tried.
    pub fn assert_reachable(&mut self) -> usize {
        if !self.is_tidy {
            return 0;
        }
        let state = self.latest();
        let is_open =
            |port: &&Port| is_up(&state, port) && !port.is_port_security && port.status == PortStatus::Active && v4(port).is_some();
        let open: Vec<&Port> = state.all::<Port>().filter(is_open).collect();
        let mut tried = 0;
        for from in &open {
            let n = self.hosts.iter().position(|host| Some(&host.name) == from.home()).expect("it is active somewhere");
            let attachment = self.hosts[n].engine.view().attachment(from.id).copied().expect("it is active here");
            for to in open.iter().filter(|to| to.id != from.id) {
                let (Some(mac), Some(own), Some(ip)) = (next_hop(&state, from, to), v4(from), v4(to)) else { continue };
                let packet = Packet::ip(attachment.ofport, own.ip, ip.ip).macs(from.mac, mac).udp(5, 6);
                let reached = self.judge(n, from.id, &packet);
                let mut journey = || self.hosts[n].vswitch.forwarding.receive(&packet);
                assert!(
                    reached == [to.id],
                    "{packet} reaches {reached:?}, on n{n} it ends as {:?}\nfrom {from:?}\nto {to:?}",
                    journey().outcomes
                );
                tried += 1;
            }
        }
        tried
    }
}

fn v4(port: &Port) -> Option<FixedIp> {
    port.fixed_ips.iter().find(|fixed| fixed.ip.is_ipv4()).copied()
}

fn is_up(state: &State, port: &Port) -> bool {
    port.is_admin_up && state.network(port.network).is_some_and(|network| network.is_admin_up)
}

/// The MAC to which `from` sends what is for `to`: its own, or that of a router that has both subnets.
fn next_hop(state: &State, from: &Port, to: &Port) -> Option<Mac> {
    if from.network == to.network {
        return Some(to.mac);
    }
    let (near, far) = (v4(from)?.subnet, v4(to)?.subnet);
    let has = |interface: &&Port, subnet| is_up(state, interface) && interface.fixed_ips.iter().any(|fixed| fixed.subnet == subnet);
    let mut interfaces = state.interfaces_on(from.network).filter(|interface| has(interface, near));
    let leads_there = |interface: &&Port| {
        let router = interface.router().filter(|router| state.router(*router).is_some_and(is_router_up));
        router.is_some_and(|router| state.interfaces_of(router).any(|interface| has(&interface, far)))
    };
    interfaces.find(leads_there).map(|interface| interface.mac)
}

/// The packet as it enters the other end: headers travel, registers do not.
fn through_tunnel(packet: &Packet) -> Packet {
    let mut arrived = Packet::default();
    packet.headers().for_each(|(header, value)| arrived.set(header, value));
    arrived.set(Header::InPort, TUNNEL.0.into());
    arrived.set(Header::TunId, packet.get(Header::TunId).unwrap_or(0));
    arrived
}

/// True if routers that are up, in any of these states, lead from one network to the other.
fn are_joined(states: &[&State], from: NetworkId, to: NetworkId) -> bool {
    let mut found = BTreeSet::from([from]);
    let mut next = vec![from];
    while let Some(network) = next.pop() {
        for state in states {
            let is_up = |port: &&Port| port.is_admin_up && port.router().and_then(|router| state.router(router)).is_some_and(is_router_up);
            let routers = state.interfaces_on(network).filter(is_up).filter_map(Port::router);
            let ends = routers.flat_map(|router| state.interfaces_of(router)).filter(is_up).map(|port| port.network);
            next.extend(ends.filter(|network| found.insert(*network)));
        }
    }
    found.contains(&to)
}

fn is_router_up(router: &Router) -> bool {
    router.is_admin_up
}
