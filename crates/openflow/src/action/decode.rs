//! Bytes to actions. Whatever is not understood in full is kept as it came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::encode::{
    CT_COMMIT, CT_FORCE, CT_NO_TABLE, NAT_DST, NAT_HASH, NAT_PERSISTENT, NAT_RANDOM, NAT_SRC, RANGE_IPV4_MAX, RANGE_IPV4_MIN,
    RANGE_IPV6_MAX, RANGE_IPV6_MIN, RANGE_PORT_MAX, RANGE_PORT_MIN,
};
use super::{Action, Controller, Ct, CtZone, NICIRA, Nat, NatKind, PortChoice, TABLE_CURRENT};
use super::{controller_property as property, kind, subtype};
use crate::MAX_NESTING;
use crate::error::DecodeError;
use crate::field::Subfield;
use crate::oxm::{self, Oxm};
use crate::port::OfPort;
use crate::wire::Reader;

/// `None`: well-formed, but not something that this crate can express.
type Found = Result<Option<Action>, DecodeError>;

pub(crate) fn decode_list(reader: Reader<'_>) -> Result<Vec<Action>, DecodeError> {
    nested(reader, 0)
}

fn nested(mut reader: Reader<'_>, depth: usize) -> Result<Vec<Action>, DecodeError> {
    if depth > MAX_NESTING {
        return Err(DecodeError::TooDeep);
    }
    let mut actions = Vec::new();
    while !reader.is_empty() {
        let whole = reader.element(2, 8, "action")?;
        if !whole.len().is_multiple_of(8) {
            return Err(DecodeError::BadLength { what: "action", length: whole.len() });
        }
        let known = match decode(whole, depth) {
            Ok(known) => known,
            Err(DecodeError::TooDeep) => return Err(DecodeError::TooDeep),
            // The outer length is sound; what is inside speaks a dialect that is not understood here.
            Err(_) => None,
        };
        actions.push(known.unwrap_or_else(|| Action::Unknown(whole.rest().to_vec())));
    }
    Ok(actions)
}

fn decode(mut reader: Reader<'_>, depth: usize) -> Found {
    let kind = reader.u16()?;
    reader.skip(2)?;
    Ok(Some(match kind {
        kind::OUTPUT => Action::Output { port: OfPort(reader.u32()?), max_len: reader.u16()? },
        kind::PUSH_VLAN => Action::PushVlan(reader.u16()?),
        kind::POP_VLAN => Action::PopVlan,
        kind::SET_QUEUE => Action::SetQueue(reader.u32()?),
        kind::GROUP => Action::Group(reader.u32()?),
        kind::METER => Action::Meter(reader.u32()?),
        kind::SET_TTL => Action::SetTtl(reader.u8()?),
        kind::DEC_TTL => Action::DecTtl,
        kind::SET_FIELD => return Ok(known_field(&mut reader)?.map(Action::SetField)),
        kind::COPY_FIELD => return decode_move(reader),
        kind::EXPERIMENTER if reader.u32()? == NICIRA => return decode_nicira(reader, depth),
        _ => return Ok(None),
    }))
}

fn known_field(reader: &mut Reader<'_>) -> Result<Option<oxm::MatchField>, DecodeError> {
    Ok(match oxm::decode(reader)? {
        Oxm::Known(field) => Some(field),
        Oxm::Unknown(_) => None,
    })
}

fn decode_move(mut reader: Reader<'_>) -> Found {
    let bits = reader.u16()?;
    let (source_offset, destination_offset) = (reader.u16()?, reader.u16()?);
    reader.skip(2)?;
    let (source, destination) = (oxm::decode_header(&mut reader)?, oxm::decode_header(&mut reader)?);
    Ok(source.zip(destination).map(|(source, destination)| Action::Move {
        source: Subfield::new(source, source_offset, bits),
        destination: Subfield::new(destination, destination_offset, bits),
    }))
}

fn decode_nicira(mut reader: Reader<'_>, depth: usize) -> Found {
    Ok(Some(match reader.u16()? {
        subtype::RESUBMIT => {
            let port = OfPort::from_u16(reader.u16()?);
            Action::Resubmit { port, table: TABLE_CURRENT, with_ct_tuple: false }
        }
        subtype::RESUBMIT_TABLE => resubmit(reader, false)?,
        subtype::RESUBMIT_TABLE_CT => resubmit(reader, true)?,
        subtype::NOTE => Action::Note(reader.rest().to_vec()),
        subtype::OUTPUT_REG => {
            let (offset, bits) = offset_and_bits(reader.u16()?);
            let source = oxm::decode_header(&mut reader)?.map(|field| Subfield::new(field, offset, bits));
            let max_len = reader.u16()?;
            return Ok(source.map(|source| Action::OutputReg { source, max_len }));
        }
        subtype::OUTPUT_REG2 => {
            let (offset, bits) = offset_and_bits(reader.u16()?);
            let max_len = reader.u16()?;
            let source = oxm::decode_header(&mut reader)?.map(|field| Subfield::new(field, offset, bits));
            return Ok(source.map(|source| Action::OutputReg { source, max_len }));
        }
        subtype::EXIT => Action::Exit,
        subtype::CT_CLEAR => Action::CtClear,
        subtype::CONTROLLER => controller1(reader)?,
        subtype::CONTROLLER2 => return controller2(reader),
        subtype::STACK_PUSH => return Ok(stack(reader)?.map(Action::StackPush)),
        subtype::STACK_POP => return Ok(stack(reader)?.map(Action::StackPop)),
        subtype::CONJUNCTION => {
            let (clause, clauses) = (reader.u8()?, reader.u8()?);
            Action::Conjunction { clause, clauses, id: reader.u32()? }
        }
        subtype::CT => return Ok(decode_ct(reader, depth)?.map(Action::Ct)),
        subtype::NAT => return Ok(decode_nat(reader)?.map(Action::Nat)),
        subtype::CLONE => {
            reader.skip(6)?;
            Action::Clone(nested(reader, depth + 1)?)
        }
        subtype::CHECK_PKT_LARGER => {
            let (length, offset) = (reader.u16()?, reader.u16()?);
            let field = oxm::decode_header(&mut reader)?;
            return Ok(field.map(|field| Action::CheckPktLarger { length, field, offset }));
        }
        _ => return Ok(None),
    }))
}

fn resubmit(mut reader: Reader<'_>, with_ct_tuple: bool) -> Result<Action, DecodeError> {
    let port = OfPort::from_u16(reader.u16()?);
    Ok(Action::Resubmit { port, table: reader.u8()?, with_ct_tuple })
}

fn offset_and_bits(packed: u16) -> (u16, u16) {
    (packed >> 6, (packed & 0x3f) + 1)
}

fn stack(mut reader: Reader<'_>) -> Result<Option<Subfield>, DecodeError> {
    let offset = reader.u16()?;
    let field = oxm::decode_header(&mut reader)?;
    let bits = reader.u16()?;
    Ok(field.map(|field| Subfield::new(field, offset, bits)))
}

fn controller1(mut reader: Reader<'_>) -> Result<Action, DecodeError> {
    let (max_len, controller_id, reason) = (reader.u16()?, reader.u16()?, reader.u8()?);
    Ok(Action::Controller(Controller { max_len, controller_id, reason, ..Controller::default() }))
}

fn controller2(mut reader: Reader<'_>) -> Found {
    reader.skip(6)?;
    let mut controller = Controller::default();
    while !reader.is_empty() {
        let (kind, mut payload) = reader.property()?;
        match kind {
            property::MAX_LEN => controller.max_len = payload.u16()?,
            property::CONTROLLER_ID => controller.controller_id = payload.u16()?,
            property::REASON => controller.reason = payload.u8()?,
            property::USERDATA => controller.userdata = payload.rest().to_vec(),
            property::PAUSE => controller.pause = true,
            property::METER_ID => controller.meter = Some(payload.u32()?),
            _ => return Ok(None),
        }
    }
    Ok(Some(Action::Controller(controller)))
}

fn decode_ct(mut reader: Reader<'_>, depth: usize) -> Result<Option<Ct>, DecodeError> {
    let flags = reader.u16()?;
    if flags & !(CT_COMMIT | CT_FORCE) != 0 {
        return Ok(None);
    }
    let mut source = reader.sub(4, "zone")?;
    let from_field = source.rest() != [0; 4];
    let zone_or_bits = reader.u16()?;
    let zone = if from_field {
        let (offset, bits) = offset_and_bits(zone_or_bits);
        match oxm::decode_header(&mut source)? {
            Some(field) => CtZone::From(Subfield::new(field, offset, bits)),
            None => return Ok(None),
        }
    } else {
        CtZone::Number(zone_or_bits)
    };
    let table = Some(reader.u8()?).filter(|table| *table != CT_NO_TABLE);
    reader.skip(3)?;
    let alg = reader.u16()?;
    let actions = nested(reader, depth + 1)?;
    Ok(Some(Ct { commit: flags & CT_COMMIT != 0, force: flags & CT_FORCE != 0, zone, table, alg, actions }))
}

fn decode_nat(mut reader: Reader<'_>) -> Result<Option<Nat>, DecodeError> {
    reader.skip(2)?;
    let (flags, ranges) = (reader.u16()?, reader.u16()?);
    let kind = match flags & (NAT_SRC | NAT_DST) {
        0 => None,
        NAT_SRC => Some(NatKind::Source),
        NAT_DST => Some(NatKind::Destination),
        _ => return Ok(None),
    };
    let port_choice = match flags & (NAT_HASH | NAT_RANDOM) {
        0 => PortChoice::Unspecified,
        NAT_HASH => PortChoice::Hash,
        NAT_RANDOM => PortChoice::Random,
        _ => return Ok(None),
    };
    if flags >= NAT_RANDOM << 1 || ranges >= RANGE_PORT_MAX << 1 {
        return Ok(None);
    }
    let low4 = address4(&mut reader, ranges & RANGE_IPV4_MIN)?;
    let high4 = address4(&mut reader, ranges & RANGE_IPV4_MAX)?;
    let low6 = address6(&mut reader, ranges & RANGE_IPV6_MIN)?;
    let high6 = address6(&mut reader, ranges & RANGE_IPV6_MAX)?;
    let low_port = port(&mut reader, ranges & RANGE_PORT_MIN)?;
    let high_port = port(&mut reader, ranges & RANGE_PORT_MAX)?;
    let addresses = match (low4, high4, low6, high6) {
        (None, None, None, None) => None,
        (Some(low), high, None, None) | (None, None, Some(low), high) => Some((low, high)),
        _ => return Ok(None),
    };
    if low_port.is_none() && high_port.is_some() {
        return Ok(None);
    }
    let ports = low_port.map(|low| (low, high_port));
    Ok(Some(Nat { kind, addresses, ports, persistent: flags & NAT_PERSISTENT != 0, port_choice }))
}

fn address4(reader: &mut Reader<'_>, present: u16) -> Result<Option<IpAddr>, DecodeError> {
    if present == 0 { Ok(None) } else { Ok(Some(Ipv4Addr::from(reader.array::<4>()?).into())) }
}

fn address6(reader: &mut Reader<'_>, present: u16) -> Result<Option<IpAddr>, DecodeError> {
    if present == 0 { Ok(None) } else { Ok(Some(Ipv6Addr::from(reader.array::<16>()?).into())) }
}

fn port(reader: &mut Reader<'_>, present: u16) -> Result<Option<u16>, DecodeError> {
    if present == 0 { Ok(None) } else { reader.u16().map(Some) }
}
