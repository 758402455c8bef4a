//! A switch in process: does to a packet what Open vSwitch would, in microseconds and in names.
//!
//! It interprets flows and groups on [`Packet`]s that are maps of headers: matches with conjunctions, registers, copies,
//! connection tracking with translation, select groups. For scenarios and properties; a test with the real switch says that
//! both agree. Deliberately *not* here: bytes on the wire, checksums, fragments' reassembly, TCP's states and time.

mod conntrack;
mod packet;

use std::collections::{BTreeMap, BTreeSet};

use crate::action::{Action, OfPort, Punt, Zone};
use crate::flow::Flow;
use crate::group::{Group, GroupId};
use crate::header::{Header, Place, ct};
use crate::table::{Miss, Table};

use conntrack::Conntrack;
pub use packet::Packet;

/// Passes through tables before a packet is taken to go round in circles: Open vSwitch's own limit on resubmits.
const DEPTH_MAX: u32 = 64;

/// Where a packet, or a copy of it, ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It left by an interface.
    Output(OfPort, Packet),
    /// It was handed to the node.
    Punted(Punt, Packet),
    /// It ended in the table.
    Dropped(Table),
}

/// What became of a packet that entered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Journey {
    pub outcomes: Vec<Outcome>,
    /// The connection state after every look-up, in order.
    pub states: Vec<u8>,
    /// True if an address was translated on the way.
    pub is_translated: bool,
}

/// A switch with its connections.
#[derive(Default)]
pub struct Switch {
    /// By table, highest priority first.
    flows: BTreeMap<Table, Vec<Flow>>,
    groups: BTreeMap<GroupId, Group>,
    conntrack: Conntrack,
}

impl Switch {
    pub fn new(flows: impl IntoIterator<Item = Flow>, groups: impl IntoIterator<Item = Group>) -> Switch {
        let mut switch = Switch::default();
        switch.program(flows, groups);
        switch
    }

    /// Replaces all flows and groups; connections stay.
    pub fn program(&mut self, flows: impl IntoIterator<Item = Flow>, groups: impl IntoIterator<Item = Group>) {
        self.flows.clear();
        for flow in flows {
            self.flows.entry(flow.key.table).or_default().push(flow);
        }
        for flows in self.flows.values_mut() {
            flows.sort_by_key(|flow| (std::cmp::Reverse(flow.key.priority.number()), flow.key.clone()));
        }
        self.groups = groups.into_iter().map(|group| (group.id, group)).collect();
    }

    /// A packet enters by the interface that its headers name.
    pub fn receive(&mut self, packet: &Packet) -> Journey {
        let mut journey = Journey::default();
        self.pass(Table::Classify, &mut packet.clone(), &mut journey, 0);
        journey
    }

    /// The packet passes `table` and all that follows; changes stay with the packet.
    fn pass(&mut self, table: Table, packet: &mut Packet, journey: &mut Journey, depth: u32) {
        if depth > DEPTH_MAX {
            return journey.outcomes.push(Outcome::Dropped(table));
        }
        let (actions, goto) = match self.look_up(table, packet) {
            Some(flow) => (flow.actions.clone(), flow.goto),
            None => match table.miss() {
                Miss::Drop => (Vec::new(), None),
                Miss::Goto(next) => (Vec::new(), Some(next)),
            },
        };
        let before = journey.outcomes.len();
        let mut goes_on = goto;
        for action in &actions {
            if let Some(next) = self.act(action, packet, journey, depth) {
                goes_on = goes_on.or(Some(next));
            }
        }
        match goes_on {
            // A goto does not count: only resubmits do.
            Some(next) => self.pass(next, packet, journey, depth),
            None if journey.outcomes.len() == before => journey.outcomes.push(Outcome::Dropped(table)),
            None => {}
        }
    }

    /// Does one thing; says where the packet goes on, for a commit without translation.
    fn act(&mut self, action: &Action, packet: &mut Packet, journey: &mut Journey, depth: u32) -> Option<Table> {
        match action {
            Action::Set { place, value, mask } => packet.write(*place, *value, *mask),
            Action::Move { from, from_bit, to, to_bit, bits } => {
                let ones = u128::MAX >> (128 - u32::from(*bits));
                let value = packet.read(*from).unwrap_or(0) >> from_bit & ones;
                packet.write(*to, value << to_bit, ones << to_bit);
            }
            Action::DecTtl => packet.set(Header::Ttl, packet.get(Header::Ttl).unwrap_or(0).saturating_sub(1)),
            // A switch never sends a packet back by itself.
            Action::Output(port) if packet.get(Header::InPort) == Some(port.0.into()) => {}
            Action::Output(port) => journey.outcomes.push(Outcome::Output(*port, packet.clone())),
            Action::OutputBack => {
                let port = OfPort(packet.get(Header::InPort).unwrap_or(0) as u32);
                journey.outcomes.push(Outcome::Output(port, packet.clone()));
            }
            Action::Punt(punt) => journey.outcomes.push(Outcome::Punted(*punt, packet.clone())),
            Action::Group(id) => self.choose(*id, packet, journey, depth),
            Action::Track { zone, nat, then } => {
                let mut tracked = packet.clone();
                journey.is_translated |= self.conntrack.track(number(*zone, packet), nat.is_some(), &mut tracked);
                journey.states.push(tracked.get(Header::CtState).unwrap_or(0) as u8);
                self.pass(*then, &mut tracked, journey, depth + 1);
            }
            Action::Commit { zone, nat: None, then } => {
                self.conntrack.commit(number(*zone, packet), None, &mut packet.clone());
                return Some(*then);
            }
            Action::Commit { zone, nat, then } => {
                let mut translated = packet.clone();
                journey.is_translated |= self.conntrack.commit(number(*zone, packet), *nat, &mut translated);
                journey.states.push(translated.get(Header::CtState).unwrap_or(0) as u8);
                self.pass(*then, &mut translated, journey, depth + 1);
            }
            Action::Conjunction { .. } => {}
            Action::Copy(table) | Action::Reenter(table) => self.pass(*table, packet, journey, depth + 1),
        }
        None
    }

    /// One bucket gets the packet, by its connection and the buckets' weights.
    fn choose(&mut self, id: GroupId, packet: &mut Packet, journey: &mut Journey, depth: u32) {
        let Some(group) = self.groups.get(&id) else { return };
        let total: u64 = group.buckets.iter().map(|bucket| u64::from(bucket.weight)).sum();
        if total == 0 {
            return;
        }
        let mut left = packet.connection_hash() % total;
        let chosen = group.buckets.iter().find(|bucket| {
            let is_it = left < bucket.weight.into();
            left = left.saturating_sub(bucket.weight.into());
            is_it
        });
        for action in chosen.map(|bucket| bucket.actions.clone()).unwrap_or_default() {
            self.act(&action, &mut packet.clone(), journey, depth + 1);
        }
    }

    /// The flow of `table` that fits the packet: the first by priority, conjunctions included.
    fn look_up(&self, table: Table, packet: &Packet) -> Option<&Flow> {
        let flows = self.flows.get(&table)?;
        let mut clauses: BTreeMap<u32, (u8, BTreeSet<u8>)> = BTreeMap::new();
        let mut level = None;
        for flow in flows {
            let priority = flow.key.priority.number();
            if level.replace(priority) != Some(priority) {
                if let Some(found) = conjoined(flows, &clauses, packet) {
                    return Some(found);
                }
                clauses.clear();
            }
            if !flow.key.tests.iter().all(|test| packet.passes(test)) {
                continue;
            }
            let mut is_clause = false;
            for action in &flow.actions {
                if let Action::Conjunction { id, clause, of } = action {
                    is_clause = true;
                    clauses.entry(*id).or_insert((*of, BTreeSet::new())).1.insert(*clause);
                }
            }
            if !is_clause {
                return Some(flow);
            }
        }
        conjoined(flows, &clauses, packet)
    }
}

/// The flow for a conjunction all of whose clauses were met.
fn conjoined<'a>(flows: &'a [Flow], clauses: &BTreeMap<u32, (u8, BTreeSet<u8>)>, packet: &Packet) -> Option<&'a Flow> {
    let met = clauses.iter().filter(|(_, (of, met))| usize::from(*of) == met.len()).map(|(id, _)| *id);
    met.into_iter().find_map(|id| {
        let mut packet = packet.clone();
        packet.set(Header::ConjId, id.into());
        let names_it = |flow: &&Flow| flow.key.tests.iter().any(|test| test.place == Place::Header(Header::ConjId));
        flows.iter().filter(names_it).find(|flow| flow.key.tests.iter().all(|test| packet.passes(test)))
    })
}

fn number(zone: Zone, packet: &Packet) -> u16 {
    match zone {
        Zone::Number(number) => number,
        Zone::Field(field) => packet.read(Place::Field(field)).unwrap_or(0) as u16,
    }
}

/// The names of the bits of a connection state, as `ovs-appctl ofproto/trace --ct-next` takes them.
pub fn state_names(state: u8) -> String {
    let names = [(ct::TRK, "trk"), (ct::NEW, "new"), (ct::EST, "est"), (ct::REL, "rel"), (ct::RPL, "rpl"), (ct::INV, "inv")];
    let set: Vec<&str> = names.into_iter().filter(|(bit, _)| state & bit != 0).map(|(_, name)| name).collect();
    set.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Nat;
    use crate::flow::Reason;
    use crate::{fields::*, in_port, ip_dst, ip_src, ipv4};
    use std::net::IpAddr;

    fn packet() -> Packet {
        Packet::ip(OfPort(1), "10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()).udp(1000, 53)
    }

    #[test]
    fn a_packet_that_nothing_matches_is_dropped_where_it_was() {
        assert_eq!(Switch::default().receive(&packet()).outcomes, [Outcome::Dropped(Table::Classify)]);
    }

    #[test]
    fn a_conjunction_needs_all_its_clauses() {
        let clause =
            |test, clause| Table::Classify.when([test]).act(Action::Conjunction { id: 7, clause, of: 2 }).because(Reason::Pipeline);
        let any = |ip: &str| ipnet::IpNet::from(ip.parse::<IpAddr>().unwrap());
        let fits = Table::Classify.when([crate::conj_id(7), ipv4()]).act(Action::Output(OfPort(2))).because(Reason::Pipeline);
        let both = [clause(ip_src(any("10.0.0.1")), 0), clause(ip_dst(any("10.0.0.2")), 1), fits.clone()];
        assert!(matches!(Switch::new(both, []).receive(&packet()).outcomes[..], [Outcome::Output(OfPort(2), _)]));
        let one = [clause(ip_src(any("10.0.0.1")), 0), clause(ip_dst(any("10.0.0.3")), 1), fits];
        assert_eq!(Switch::new(one, []).receive(&packet()).outcomes, [Outcome::Dropped(Table::Classify)]);
    }

    #[test]
    fn an_answer_is_translated_back() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let nat = Some(Nat::Destination(ip("10.0.0.9"), 5353));
        let there = Table::Classify
            .when([in_port(OfPort(1)), ipv4()])
            .act(Action::Commit { zone: Zone::Number(1), nat, then: Table::Deliver })
            .because(Reason::Pipeline);
        let back = Table::Classify
            .when([in_port(OfPort(2)), ipv4()])
            .act(Action::Track { zone: Zone::Number(1), nat: Some(Nat::Known), then: Table::Deliver })
            .because(Reason::Pipeline);
        let out = Table::Deliver.when([DST_PORT.is(0u32)]).act(Action::Output(OfPort(3))).because(Reason::Pipeline);
        let mut switch = Switch::new([there, back, out], []);
        let [Outcome::Output(_, asked)] = &switch.receive(&packet()).outcomes[..] else { panic!("not sent") };
        assert_eq!((asked.destination(), asked.get(Header::UdpDst)), (Some(ip("10.0.0.9")), Some(5353)));
        let answer = Packet::ip(OfPort(2), ip("10.0.0.9"), ip("10.0.0.1")).udp(5353, 1000);
        let [Outcome::Output(_, answer)] = &switch.receive(&answer).outcomes[..] else { panic!("not sent") };
        assert_eq!((answer.source(), answer.get(Header::UdpSrc)), (Some(ip("10.0.0.2")), Some(53)));
    }
}
