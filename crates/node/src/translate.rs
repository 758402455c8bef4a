//! From the pipeline's words to OpenFlow messages: the only place where a flow becomes numbers.
//!
//! Tables and groups get the numbers of one half of the switch, registers their bits, priorities and cookies their values. What comes
//! out is in the codec's canonical form, so that it can be compared with what the switch gives back.

use openflow::{
    Action as Of, Bucket, Controller, Ct, CtZone, Field as OfField, FlowKey, FlowMod, GroupKind, InstalledFlow, InstalledGroup,
    Instructions, Match,
};
use openflow::{MatchError, MatchField, NatKind, SelectionMethod, Subfield};
use pipeline::{Action, Field, Fingerprint, Flow, Generation, Group, Header, Miss, Nat, Place, Punt, Spread, Table, Test, Zone, fields};

use crate::switch::meters;

/// A flow that cannot be written as OpenFlow: a bug in an app.
#[derive(Debug, thiserror::Error)]
#[error("writing the flow `{flow}`")]
pub struct TranslateError {
    pub flow: String,
    #[source]
    pub source: MatchError,
}

/// The priority of a table's own answer to packets that no flow matches.
const MISS: u16 = 0;

/// The flow as a message that adds it.
pub fn flow_mod(flow: &Flow, generation: Generation) -> Result<FlowMod, TranslateError> {
    let key = flow_key(&flow.key, generation)?;
    let instructions = instructions(flow, generation);
    Ok(FlowMod::add(key.table, key.priority, key.matching, instructions, flow.cookie()))
}

/// What names the flow on the switch.
pub fn flow_key(key: &pipeline::FlowKey, generation: Generation) -> Result<FlowKey, TranslateError> {
    let matching = Match::new(key.tests.iter().map(test)).map_err(|source| {
        let tests: Vec<String> = key.tests.iter().map(Test::to_string).collect();
        TranslateError { flow: format!("{:?} {}", key.table, tests.join(", ")), source }
    })?;
    Ok(FlowKey { table: key.table.number(generation), priority: key.priority.number(), matching })
}

/// What every table does with packets that no flow matches.
pub fn misses(generation: Generation) -> impl Iterator<Item = FlowMod> {
    Table::ALL.iter().map(move |table| {
        let instructions = match table.miss() {
            Miss::Drop => Instructions::drop(),
            Miss::Goto(next) => Instructions::default().goto(next.number(generation)),
        };
        let cookie = (*table as u64 + 1) << 56;
        FlowMod::add(table.number(generation), MISS, Match::any(), instructions, cookie)
    })
}

/// The flow that sends every packet to the half of the switch that is in force, and says whose pipeline that half holds.
pub fn dispatch(generation: Generation, fingerprint: Fingerprint) -> FlowMod {
    FlowMod::add(Generation::DISPATCH, MISS, Match::any(), Instructions::default().goto(generation.base()), fingerprint.0)
}

/// What [`dispatch`] wrote: the half that packets are sent to, and whose pipeline it holds. None for any other flow.
pub fn dispatched(flow: &InstalledFlow) -> Option<(Generation, Fingerprint)> {
    let is_about_all = flow.table == Generation::DISPATCH && flow.priority == MISS && flow.matching == Match::any();
    let leads_to = |half: &Generation| is_about_all && flow.instructions.goto_table == Some(half.base());
    let half = Generation::ALL.into_iter().find(leads_to)?;
    Some((half, Fingerprint(flow.cookie)))
}

/// The group as the switch should have it.
pub fn group(group: &Group, generation: Generation) -> InstalledGroup {
    let selection = match group.spread {
        Spread::DpHash => SelectionMethod::dp_hash(),
        Spread::FiveTuple => SelectionMethod::hash(FIVE_TUPLE.iter().copied()),
    };
    let buckets = group.buckets.iter().map(|bucket| {
        let actions: Vec<Of> = bucket.actions.iter().map(|one| action(one, generation)).collect();
        Bucket::new(bucket.id, actions).weight(bucket.weight)
    });
    InstalledGroup {
        id: generation.group_number(group.id),
        kind: GroupKind::Select,
        buckets: buckets.collect(),
        selection: Some(selection),
    }
}

/// What a connection is told by. Fields whose prerequisites a packet does not meet are left out of the hash.
const FIVE_TUPLE: &[OfField] = &[
    OfField::Ipv4Src,
    OfField::Ipv4Dst,
    OfField::Ipv6Src,
    OfField::Ipv6Dst,
    OfField::IpProto,
    OfField::TcpSrc,
    OfField::TcpDst,
    OfField::UdpSrc,
    OfField::UdpDst,
];

fn instructions(flow: &Flow, generation: Generation) -> Instructions {
    let actions = &flow.actions;
    // A commit without translation needs no second pass through the switch: the packet goes on.
    let goes_on = actions.iter().find_map(|action| match action {
        Action::Commit { nat: None, then, .. } => Some(*then),
        _ => None,
    });
    let asker =
        flow.key.tests.iter().find(|test| test.place == Place::Field(fields::SRC_PORT)).and_then(|test| u32::try_from(test.value).ok());
    let of = |one: &Action| match one {
        Action::Punt(reason) => punt(*reason, asker),
        other => action(other, generation),
    };
    let actions: Vec<Of> = actions.iter().map(of).collect();
    let instructions = if actions.is_empty() { Instructions::default() } else { Instructions::apply(actions) };
    match flow.goto.or(goes_on) {
        Some(table) => instructions.goto(table.number(generation)),
        None => instructions,
    }
}

/// A test as a field of a match.
pub fn test(test: &Test) -> MatchField {
    let (field, offset) = place(test.place);
    field.masked(test.value << offset, test.mask << offset)
}

/// OpenFlow's field and the lowest bit of a place in it.
pub fn place(place: Place) -> (OfField, u8) {
    match place {
        Place::Field(field) => register(field),
        Place::Header(header) => (header_field(header), 0),
    }
}

fn register(field: Field) -> (OfField, u8) {
    let found = if field.bits == 128 { OfField::xxreg(field.register / 4) } else { OfField::reg(field.register) };
    (found.expect("a Field names a register that exists"), field.offset)
}

fn header_field(header: Header) -> OfField {
    use Header::*;
    match header {
        InPort => OfField::InPort,
        TunId => OfField::TunId,
        TunDst => OfField::TunDst,
        TunDst6 => OfField::TunIpv6Dst,
        EthSrc => OfField::EthSrc,
        EthDst => OfField::EthDst,
        EthType => OfField::EthType,
        IpProto => OfField::IpProto,
        IpFrag => OfField::IpFrag,
        Ttl => OfField::IpTtl,
        Ipv4Src => OfField::Ipv4Src,
        Ipv4Dst => OfField::Ipv4Dst,
        Ipv6Src => OfField::Ipv6Src,
        Ipv6Dst => OfField::Ipv6Dst,
        TcpSrc => OfField::TcpSrc,
        TcpDst => OfField::TcpDst,
        TcpFlags => OfField::TcpFlags,
        UdpSrc => OfField::UdpSrc,
        UdpDst => OfField::UdpDst,
        SctpSrc => OfField::SctpSrc,
        SctpDst => OfField::SctpDst,
        Icmp4Type => OfField::Icmpv4Type,
        Icmp4Code => OfField::Icmpv4Code,
        Icmp6Type => OfField::Icmpv6Type,
        Icmp6Code => OfField::Icmpv6Code,
        ArpOp => OfField::ArpOp,
        ArpSpa => OfField::ArpSpa,
        ArpTpa => OfField::ArpTpa,
        ArpSha => OfField::ArpSha,
        ArpTha => OfField::ArpTha,
        NdTarget => OfField::NdTarget,
        NdSll => OfField::NdSll,
        NdTll => OfField::NdTll,
        NdReserved => OfField::NdReserved,
        NdOptionsType => OfField::NdOptionsType,
        CtState => OfField::CtState,
        CtMark => OfField::CtMark,
        CtLabel => OfField::CtLabel,
        ConjId => OfField::ConjId,
    }
}

/// The action that writes a register.
pub fn set(field: Field, value: u128) -> Of {
    action(&Action::set(field, value), Generation::A)
}

/// Hands the packet over, as often as the meter of the asking port, or of the reason, lets it.
fn punt(reason: Punt, asker: Option<u32>) -> Of {
    Of::Controller(Controller { userdata: vec![reason as u8], meter: Some(meters::of(reason, asker)), ..Controller::default() })
}

fn subfield(at: Place, bit: u8, bits: u8) -> Subfield {
    let (field, offset) = place(at);
    Subfield::new(field, u16::from(offset + bit), u16::from(bits))
}

fn action(action: &Action, generation: Generation) -> Of {
    match action {
        Action::Set { place: at, value, mask } => {
            let (field, offset) = place(*at);
            Of::set(field.masked(value << offset, mask << offset))
        }
        Action::Move { from, from_bit, to, to_bit, bits } => {
            Of::Move { source: subfield(*from, *from_bit, *bits), destination: subfield(*to, *to_bit, *bits) }
        }
        Action::DecTtl => Of::DecTtl,
        Action::Output(port) => Of::output(openflow::OfPort(port.0)),
        Action::OutputBack => Of::output(openflow::OfPort::IN_PORT),
        Action::Punt(reason) => punt(*reason, None),
        Action::Group(id) => Of::Group(generation.group_number(*id)),
        Action::Track { zone, nat, then } => ct(false, *zone, *nat, Some(then.number(generation))),
        Action::Commit { zone, nat: None, .. } => ct(true, *zone, None, None),
        Action::Commit { zone, nat, then } => ct(true, *zone, *nat, Some(then.number(generation))),
        Action::Conjunction { id, clause, of } => Of::Conjunction { id: *id, clause: *clause, clauses: *of },
        Action::Copy(table) | Action::Reenter(table) => Of::resubmit(table.number(generation)),
    }
}

fn ct(commit: bool, at: Zone, nat: Option<Nat>, table: Option<u8>) -> Of {
    let zone = match at {
        Zone::Number(number) => CtZone::Number(number),
        Zone::Field(field) => CtZone::From(subfield(Place::Field(field), 0, field.bits)),
    };
    let actions = nat.map(translation).into_iter().collect();
    Of::Ct(Ct { commit, zone, table, actions, ..Ct::default() })
}

fn translation(nat: Nat) -> Of {
    let of = match nat {
        Nat::Known => openflow::Nat::default(),
        Nat::Source(ip) => openflow::Nat { kind: Some(NatKind::Source), addresses: Some((ip, None)), ..Default::default() },
        Nat::Destination(ip, port) => {
            openflow::Nat { kind: Some(NatKind::Destination), addresses: Some((ip, None)), ports: Some((port, None)), ..Default::default() }
        }
    };
    Of::Nat(of)
}
