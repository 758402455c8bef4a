//! Which of a zone's connections end now.
//!
//! In a zone of rules that is what no rule allows any more. In a zone of translations it is what has lost its member, and with
//! the translation goes whatever else this node remembers of the same connection: in the client's zone of rules and its
//! hairpin zone, and in its member's zone of rules if the member lives here too.

use std::collections::BTreeSet;
use std::net::IpAddr;

use apps::{Attachment, View, balancing, find, security};
use model::{Kind, Port};
use openflow::CtFlush;

use super::entry::{Entry, ICMPV6, L4, Tuple, forget};

/// Which memory of a port the entries come from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Memory {
    Rules,
    Members,
}

impl Memory {
    pub fn zone(self, attachment: &Attachment) -> u16 {
        match self {
            Memory::Rules => attachment.rules_zone,
            Memory::Members => attachment.nat_zone,
        }
    }
}

/// The connections of one zone, as they were read.
#[derive(Clone, Debug)]
pub struct Case {
    /// As it was when the zone was read.
    pub attachment: Attachment,
    pub memory: Memory,
    pub entries: Vec<Entry>,
}

/// What has to be forgotten. Nothing if the port's zones may be another's by now.
pub fn ended(view: &View, case: &Case) -> Vec<CtFlush> {
    if view.attachment(case.attachment.port) != Some(&case.attachment) {
        return Vec::new();
    }
    let zone = case.memory.zone(&case.attachment);
    // Asked to forget one ICMPv6 entry, the userspace datapath of Open vSwitch 3.1 aborts (it reverses the type as if it were
    // IPv4's). Such an entry lets only answers pass; a request meets the rules each time, so nothing goes on through it.
    let entries = case.entries.iter().filter(|entry| entry.zone == zone && entry.proto != ICMPV6);
    match case.memory {
        Memory::Rules => against_rules(view, &case.attachment, entries),
        Memory::Members => without_member(view, &case.attachment, entries),
    }
}

fn against_rules<'a>(view: &View, attachment: &Attachment, entries: impl Iterator<Item = &'a Entry>) -> Vec<CtFlush> {
    let Some(judge) = security::Judge::new(view, attachment.port) else { return Vec::new() };
    let opening = |entry: &Entry| {
        let Tuple { src, dst, l4 } = entry.original;
        let icmp = if let L4::Icmp { kind, code, .. } = l4 { Some((kind, code)) } else { None };
        security::Opening { proto: entry.proto, src, dst, dst_port: entry.original.dst_port(), icmp }
    };
    let ended = entries.filter(|entry| !judge.allows(&opening(entry)));
    ended.map(|entry| forget(attachment.rules_zone, entry.proto, entry.original)).collect()
}

fn without_member<'a>(view: &View, attachment: &Attachment, entries: impl Iterator<Item = &'a Entry>) -> Vec<CtFlush> {
    let judge = balancing::Judge::new(view, attachment.port);
    let ended: Vec<&Entry> = entries.filter(|entry| entry.is_translated()).filter(|entry| !may_stay(&judge, entry)).collect();
    let members: BTreeSet<IpAddr> = ended.iter().map(|entry| entry.reply.src).collect();
    let homes = zones_of(view, attachment, &members);
    ended.into_iter().flat_map(|entry| everywhere(attachment, &homes, entry)).collect()
}

fn may_stay(judge: &balancing::Judge, entry: &Entry) -> bool {
    let (L4::Ports { dst: asked, .. }, L4::Ports { src: answering, .. }) = (entry.original.l4, entry.reply.l4) else { return true };
    let connection = balancing::Connection { proto: entry.proto, vip: (entry.original.dst, asked), member: (entry.reply.src, answering) };
    judge.may_stay(&connection)
}

/// The zones of rules of the ports of this node that have one of the addresses, where `client` reaches them.
fn zones_of(view: &View, client: &Attachment, members: &BTreeSet<IpAddr>) -> Vec<(IpAddr, u16)> {
    let domain = |port: &Port| view.domain(port.network);
    let own = find::<Port>(view, Kind::Port, client.port).and_then(domain);
    let zones = |attachment: &Attachment| {
        let port = find::<Port>(view, Kind::Port, attachment.port).filter(|port| domain(port) == own);
        let zone = attachment.rules_zone;
        port.into_iter().flat_map(Port::addresses).filter(|ip| members.contains(ip)).map(move |ip| (ip, zone)).collect::<Vec<_>>()
    };
    if members.is_empty() { Vec::new() } else { view.attachments().flat_map(zones).collect() }
}

fn everywhere(client: &Attachment, homes: &[(IpAddr, u16)], entry: &Entry) -> Vec<CtFlush> {
    let to_member = entry.reply.reversed();
    let at_member = homes.iter().filter(|(ip, _)| *ip == entry.reply.src).map(|(_, zone)| *zone);
    let zones: BTreeSet<u16> = at_member.chain([client.rules_zone, client.hairpin_zone]).collect();
    let elsewhere = zones.into_iter().map(|zone| forget(zone, entry.proto, to_member));
    [forget(client.nat_zone, entry.proto, entry.original)].into_iter().chain(elsewhere).collect()
}

#[cfg(test)]
mod tests {
    use apps::testing::*;
    use apps::{ALL, Engine, Numbers};
    use model::*;

    use super::super::listing;
    use super::*;

    /// A client and a member, both here; the member serves a VIP, and one rule lets the client in on port 80.
    fn engine() -> Engine {
        let vip = vip("vip", 50, "net", &[("sub", "10.0.0.50")]);
        let grouped = |name: &str, key: u32, ip: &str, group: &str| Port {
            security_groups: vec![SecurityGroupId(id(group))],
            ..port(name, key, "net", &[("sub", ip)])
        };
        let mut engine = Engine::new(ALL, Numbers::default());
        engine.update([
            here("node0", "192.0.2.1"),
            put(network("net", 7)),
            put(group("web", 1)),
            put(group("clients", 2)),
            put(Rule { protocol: Some(6), range_min: Some(80), ..rule("in", "web", Direction::Ingress, EtherType::Ipv4) }),
            put(rule("out", "clients", Direction::Egress, EtherType::Ipv4)),
            put(grouped("client", 4, "10.0.0.4", "clients")),
            put(grouped("web", 5, "10.0.0.5", "web")),
            put(balancer("lb", &vip)),
            put(vip),
            put(listener("http", 1, "lb", ListenerProtocol::Tcp, 80, "pool")),
            put(pool("pool", "lb", ListenerProtocol::Tcp)),
            put(member("one", "pool", "10.0.0.5", 80, 1)),
            attach("client", 10),
            attach("web", 20),
        ]);
        engine
    }

    fn case(engine: &Engine, port: &str, memory: Memory, text: &str) -> Case {
        let attachment = *engine.view().attachment(PortId(id(port))).unwrap();
        Case { attachment, memory, entries: listing(text).entries }
    }

    const DIRECT: &str = "tcp,orig=(src=10.0.0.4,dst=10.0.0.5,sport=4000,dport=80),reply=(src=10.0.0.5,dst=10.0.0.4,sport=80,dport=4000),zone=60\n\
                          tcp,orig=(src=10.0.0.4,dst=10.0.0.5,sport=4001,dport=81),reply=(src=10.0.0.5,dst=10.0.0.4,sport=81,dport=4001),zone=60\n";
    const BALANCED: &str =
        "tcp,orig=(src=10.0.0.4,dst=10.0.0.50,sport=4002,dport=80),reply=(src=10.0.0.5,dst=10.0.0.4,sport=80,dport=4002),zone=31\n";

    fn tuple(src: &str, dst: &str, from: u16, to: u16) -> Tuple {
        Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), l4: L4::Ports { src: from, dst: to } }
    }

    #[test]
    fn exactly_what_no_rule_allows_ends() {
        let mut engine = engine();
        let at = |engine: &Engine| ended(engine.view(), &case(engine, "web", Memory::Rules, DIRECT));
        let other = forget(60, 6, tuple("10.0.0.4", "10.0.0.5", 4001, 81));
        assert_eq!(at(&engine), [other.clone()]);
        engine.update([apps::Change::Remove(ObjectKey::new(Kind::Rule, id("in")))]);
        assert_eq!(at(&engine), [forget(60, 6, tuple("10.0.0.4", "10.0.0.5", 4000, 80)), other]);
    }

    #[test]
    fn a_connection_without_its_member_is_forgotten_everywhere() {
        let mut engine = engine();
        let at = |engine: &Engine| ended(engine.view(), &case(engine, "client", Memory::Members, BALANCED));
        assert_eq!(at(&engine), []);
        engine.update([put(member("one", "pool", "10.0.0.5", 80, 0))]);
        assert_eq!(at(&engine), [], "it drains");
        engine.update([apps::Change::Remove(ObjectKey::new(Kind::Member, id("one")))]);
        let to_member = tuple("10.0.0.4", "10.0.0.5", 4002, 80);
        let expected = [(31, tuple("10.0.0.4", "10.0.0.50", 4002, 80)), (30, to_member), (32, to_member), (60, to_member)];
        assert_eq!(at(&engine), expected.map(|(zone, tuple)| forget(zone, 6, tuple)));
    }

    #[test]
    fn no_flush_names_an_icmpv6_entry_for_the_switch_would_not_survive_it() {
        let mut engine = engine();
        let text =
            "icmpv6,orig=(src=fd00::4,dst=fd00::5,id=7,type=128,code=0),reply=(src=fd00::5,dst=fd00::4,id=7,type=129,code=0),zone=60\n";
        engine.update([apps::Change::Remove(ObjectKey::new(Kind::Rule, id("in")))]);
        let case = case(&engine, "web", Memory::Rules, text);
        assert_eq!(case.entries.len(), 1);
        assert_eq!(ended(engine.view(), &case), []);
    }

    #[test]
    fn zones_that_changed_hands_are_left_alone() {
        let mut engine = engine();
        let case = case(&engine, "web", Memory::Rules, DIRECT);
        engine.update([attach("web", 21)]);
        assert_eq!(ended(engine.view(), &case), []);
    }
}
