//! Security groups: who may talk to whom, statefully.
//!
//! A packet from or to a port with port security is looked up in the port's connection tracking zone. Answers to something
//! that was allowed pass at once, and so do ICMP errors about it. Everything else, packets of established connections
//! included, meets the rules, so that a rule that goes away ends what it allowed. A rule is a conjunction of up to three
//! things: the port's own identity, the other side's identity or prefix, and the protocol with its ports. An identity is
//! a set of security groups: a member of a group is one flow for each direction in which rules name the group, whatever
//! their number. A pod's own node is always let in, by its source port and not by its address (Kubernetes: probes).
//! Neighbour discovery is not subject to rules (Neutron); ARP never gets here.

mod judge;
mod ports;

use ipnet::IpNet;
use model::{Direction, EtherType, Kind, ObjectKey, Port, Rule, owner};
use pipeline::{
    Action, Flow, Priority, Reason, Table, Test, conj_id, ct, ct_state, fields::*, icmp_type, ip_dst, ip_proto, ip_src, ipv4, ipv6, tcp,
    tcp_flags_clear,
};

use crate::app::{App, Output, Root, RootKind};
use crate::classify::key;
use crate::numbers::NumberKey;
use crate::sight::Sight;
use crate::view::Index;

pub use judge::{Judge, Opening, ports_in, ports_with_rules_naming};

const TCP: u8 = 6;

pub const APP: App =
    App { name: "security", roots: &[RootKind::Attached, RootKind::Address, RootKind::Object(Kind::Rule), RootKind::Here], run };

/// The tables of one direction, and what differs between directions.
struct Way {
    direction: Direction,
    track: Table,
    state: Table,
    remote: Table,
    rules: Table,
    commit: Table,
    /// Where allowed packets go on.
    next: Table,
    /// The register with the port whose rules are asked.
    port: pipeline::Field,
    /// The test that the other side's address lies in a prefix.
    remote_in: fn(IpNet) -> Test,
    /// Neighbour discovery and multicast listener messages that pass without rules (RFC 4861, RFC 2710, RFC 3810).
    discovery: &'static [u8],
}

const EGRESS: Way = Way {
    direction: Direction::Egress,
    track: Table::EgressTrack,
    state: Table::EgressState,
    remote: Table::EgressRemote,
    rules: Table::EgressRules,
    commit: Table::EgressCommit,
    next: Table::RouterMac,
    port: SRC_PORT,
    remote_in: ip_dst,
    discovery: &[131, 132, 133, 135, 136, 143],
};

const INGRESS: Way = Way {
    direction: Direction::Ingress,
    track: Table::IngressTrack,
    state: Table::IngressState,
    remote: Table::IngressRemote,
    rules: Table::IngressRules,
    commit: Table::IngressCommit,
    next: Table::Unnat,
    port: DST_PORT,
    remote_in: ip_src,
    discovery: &[130, 131, 132, 134, 135, 136, 143],
};

fn run(sight: &Sight, root: Root) -> Output {
    match root {
        Root::Attached(id) => sight.live(id).map(|(port, ..)| for_port(port)),
        Root::Address(domain, address) => Some(for_address(sight, domain, address)),
        Root::Object(key) => sight.rule(key.id).map(|rule| for_rule(sight, rule)),
        Root::Here => Some([&EGRESS, &INGRESS].into_iter().flat_map(for_everybody).chain(spare_unnat()).collect()),
    }
    .unwrap_or_default()
    .into()
}

fn for_everybody(way: &Way) -> Vec<Flow> {
    let discovery = way.discovery.iter().map(|kind| pass_discovery(way, *kind));
    let of_version = |family| [begin_with_syn(way, family), remember(way, family)];
    let versions = [ipv4(), ipv6()].into_iter().flat_map(of_version);
    discovery.chain([drop_invalid(way), pass_answer(way), pass_error(way)]).chain(versions).collect()
}

fn for_port(port: &Port) -> Vec<Flow> {
    let guarded = port.is_port_security.then(|| [&EGRESS, &INGRESS].into_iter().flat_map(|way| track(way, port)));
    let node = (port.device_owner == owner::NODE).then(|| admit_own_node(port));
    guarded.into_iter().flatten().chain(node).collect()
}

/// A packet from or to a port with port security is looked up in the port's zone.
fn track(way: &Way, port: &Port) -> Vec<Flow> {
    let family = |family| way.track.when([way.port.is(port.key.0), family]).track(RULES_ZONE, way.state).because(key(port));
    vec![family(ipv4()), family(ipv6())]
}

/// Neighbour discovery passes without rules.
fn pass_discovery(way: &Way, kind: u8) -> Flow {
    way.track.when([icmp_type(true, kind)]).priority(Priority::High).goto(way.next).because(Reason::Pipeline)
}

/// A packet that fits no connection and cannot begin one is dropped.
fn drop_invalid(way: &Way) -> Flow {
    way.state.when([ct_state(ct::TRK | ct::INV, 0)]).priority(Priority::Guard).drop().because(Reason::Pipeline)
}

/// A TCP packet from the middle of a connection that is not known is dropped. Otherwise the answers of a connection that was
/// ended, because a rule that allowed it went away, would begin it anew in the other direction.
fn begin_with_syn(way: &Way, family: Test) -> Flow {
    way.state
        .when([ct_state(ct::TRK | ct::NEW, ct::REL), family, ip_proto(TCP), tcp_flags_clear(tcp::SYN)])
        .priority(Priority::Guard)
        .drop()
        .because(Reason::Pipeline)
}

/// An answer to something that was allowed passes.
fn pass_answer(way: &Way) -> Flow {
    way.state.when([ct_state(ct::TRK | ct::EST | ct::RPL, 0)]).priority(Priority::High).goto(way.next).because(Reason::Pipeline)
}

/// An ICMP error about something that was allowed passes, the own node's too.
fn pass_error(way: &Way) -> Flow {
    way.state.when([ct_state(ct::TRK | ct::REL, 0)]).priority(Priority::High).goto(way.next).because(Reason::Pipeline)
}

/// The first packet of an allowed connection is remembered, so that its answers pass.
fn remember(way: &Way, family: Test) -> Flow {
    way.commit.when([ct_state(ct::TRK | ct::NEW, 0), family]).act(commit(way.next)).because(Reason::Pipeline)
}

/// TCP that the rules let in is no answer, so that no VIP is to be given back: answers of known connections have passed, and no other
/// begins with a SYN. Of other protocols it is not known who began.
fn spare_unnat() -> Vec<Flow> {
    let tcp = |state, family| Table::IngressCommit.when([ct_state(ct::TRK | state, 0), family, ip_proto(TCP)]).priority(Priority::High);
    let of_version = |family| {
        [
            tcp(ct::NEW, family).act(commit(Table::Deliver)).because(Reason::Pipeline),
            tcp(ct::EST, family).goto(Table::Deliver).because(Reason::Pipeline),
        ]
    };
    [ipv4(), ipv6()].into_iter().flat_map(of_version).collect()
}

/// The packet's connection is remembered in the zone of the port whose rules were asked.
fn commit(then: Table) -> Action {
    Action::Commit { zone: RULES_ZONE.into(), nat: None, then }
}

/// A packet from the node's own port to a pod of this node is let in.
fn admit_own_node(port: &Port) -> Flow {
    Table::IngressState.when([SRC_PORT.is(port.key.0), TO_POD.is(1u8)]).goto(Table::IngressCommit).because(key(port))
}

/// A packet to or from an address of a group that some rule of that direction names gets the address's identity.
fn for_address(sight: &Sight, domain: u32, address: IpNet) -> Vec<Flow> {
    let Some((number, owner)) = sight.address_identity(domain, address) else { return Vec::new() };
    let identify = |way: &Way| {
        way.remote
            .when([DOMAIN.is(domain), (way.remote_in)(address)])
            .priority(Priority::Prefix(address.prefix_len()))
            .set(REMOTE_IDENTITY, number)
            .goto(way.rules)
            .because(ObjectKey::new(Kind::Port, owner))
    };
    [&EGRESS, &INGRESS].into_iter().filter(|way| sight.is_asked_for(domain, address, way.direction)).map(identify).collect()
}

/// A packet passes a rule when it fits all of the rule's dimensions: whose rule it is, the other side, and the ports.
fn for_rule(sight: &Sight, rule: &Rule) -> Vec<Flow> {
    let way = match rule.direction {
        Direction::Egress => &EGRESS,
        Direction::Ingress => &INGRESS,
    };
    let is_v6 = rule.ethertype == EtherType::Ipv6;
    let family = if is_v6 { ipv6() } else { ipv4() };
    let own = sight.identities(Index::IdentitiesWith(rule.group)).into_iter().map(|number| vec![OWN_IDENTITY.is(number), family]);
    let remote = remote(sight, way, rule, family);
    let ports = ports::dimension(rule, is_v6).map(|pieces| pieces.into_iter().map(|piece| [vec![family], piece].concat()).collect());
    let dimensions: Vec<Vec<Vec<Test>>> = [Some(own.collect()), remote, ports].into_iter().flatten().collect();
    conjunction(sight, way, rule, family, dimensions)
}

/// The tests of the other side; None where anybody will do.
fn remote(sight: &Sight, way: &Way, rule: &Rule, family: Test) -> Option<Vec<Vec<Test>>> {
    if let Some(group) = rule.remote_group {
        let numbers = sight.identities(Index::AddressIdentitiesWith(group));
        return Some(numbers.into_iter().map(|number| vec![REMOTE_IDENTITY.is(number), family]).collect());
    }
    let prefix = rule.remote_prefix.filter(|prefix| prefix.prefix_len() > 0)?;
    Some(vec![vec![(way.remote_in)(prefix)]])
}

/// One dimension is a plain flow, before all conjunctions, because it may match the same as one of their clauses; more are
/// clauses of a conjunction, and a flow for packets that fit them all.
fn conjunction(sight: &Sight, way: &Way, rule: &Rule, family: Test, dimensions: Vec<Vec<Vec<Test>>>) -> Vec<Flow> {
    let because = ObjectKey::new(Kind::Rule, rule.id);
    if dimensions.iter().any(Vec::is_empty) {
        return Vec::new();
    }
    if let [own] = &dimensions[..] {
        let everything =
            |tests: &Vec<Test>| way.rules.when(tests.iter().copied()).priority(Priority::High).goto(way.commit).because(because);
        return own.iter().map(everything).collect();
    }
    let id = sight.number(NumberKey::Conjunction(rule.id));
    let of = dimensions.len() as u8;
    let clauses = dimensions.into_iter().zip(0u8..).flat_map(|(clauses, clause)| {
        let flow = move |tests: Vec<Test>| way.rules.when(tests).act(Action::Conjunction { id, clause, of }).because(because);
        clauses.into_iter().map(flow)
    });
    let fits = way.rules.when([conj_id(id), family]).goto(way.commit).because(because);
    clauses.chain([fits]).collect()
}
