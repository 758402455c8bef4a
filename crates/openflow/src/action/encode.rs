//! Actions to bytes.

use std::net::IpAddr;

use super::{Action, Controller, Ct, CtZone, MAX_LEN_ALL, NICIRA, Nat, NatKind, PortChoice, REASON_ACTION};
use super::{controller_property as property, kind, subtype};
use crate::error::EncodeError;
use crate::field::Subfield;
use crate::oxm;
use crate::port::OfPort;
use crate::wire::{pad_to_8, patch_u16, put_property, put_u16, put_u32, put_zeros};

type Result = std::result::Result<(), EncodeError>;

pub(crate) const CT_COMMIT: u16 = 1;
pub(crate) const CT_FORCE: u16 = 2;
pub(crate) const CT_NO_TABLE: u8 = 0xff;
pub(crate) const NAT_SRC: u16 = 1;
pub(crate) const NAT_DST: u16 = 2;
pub(crate) const NAT_PERSISTENT: u16 = 4;
pub(crate) const NAT_HASH: u16 = 8;
pub(crate) const NAT_RANDOM: u16 = 16;
pub(crate) const RANGE_IPV4_MIN: u16 = 1;
pub(crate) const RANGE_IPV4_MAX: u16 = 2;
pub(crate) const RANGE_IPV6_MIN: u16 = 4;
pub(crate) const RANGE_IPV6_MAX: u16 = 8;
pub(crate) const RANGE_PORT_MIN: u16 = 16;
pub(crate) const RANGE_PORT_MAX: u16 = 32;

pub(crate) fn encode_list(actions: &[Action], out: &mut Vec<u8>) -> Result {
    actions.iter().try_for_each(|action| encode(action, out))
}

fn encode(action: &Action, out: &mut Vec<u8>) -> Result {
    let start = out.len();
    match action {
        Action::Output { port, max_len } => standard(out, kind::OUTPUT, |out| {
            put_u32(out, port.0);
            put_u16(out, *max_len);
            put_zeros(out, 6);
        }),
        Action::Group(group) => standard(out, kind::GROUP, |out| put_u32(out, *group)),
        Action::SetQueue(queue) => standard(out, kind::SET_QUEUE, |out| put_u32(out, *queue)),
        Action::Meter(meter) => standard(out, kind::METER, |out| put_u32(out, *meter)),
        Action::SetField(field) => standard(out, kind::SET_FIELD, |out| oxm::encode(field, out)),
        Action::Move { source, destination } => encode_move(source, destination, out)?,
        Action::SetTtl(ttl) => standard(out, kind::SET_TTL, |out| out.push(*ttl)),
        Action::DecTtl => standard(out, kind::DEC_TTL, |_| {}),
        Action::PushVlan(eth_type) => standard(out, kind::PUSH_VLAN, |out| put_u16(out, *eth_type)),
        Action::PopVlan => standard(out, kind::POP_VLAN, |_| {}),
        Action::Unknown(bytes) => return encode_unknown(bytes, out),
        nicira => encode_nicira(nicira, out)?,
    }
    finish(out, start)
}

/// Pads an action to 8 bytes and writes its length.
fn finish(out: &mut Vec<u8>, start: usize) -> Result {
    pad_to_8(out, start);
    let length = out.len() - start;
    patch_u16(out, start + 2, length, "action")
}

fn standard(out: &mut Vec<u8>, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
    put_u16(out, kind);
    put_u16(out, 0);
    body(out);
}

fn nicira(out: &mut Vec<u8>, subtype: u16) {
    put_u16(out, kind::EXPERIMENTER);
    put_u16(out, 0);
    put_u32(out, NICIRA);
    put_u16(out, subtype);
}

fn encode_unknown(bytes: &[u8], out: &mut Vec<u8>) -> Result {
    let stated = bytes.get(2..4).map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
    if stated != Some(bytes.len()) || !bytes.len().is_multiple_of(8) {
        return Err(EncodeError::Invalid { what: "unknown action", reason: "its length field is not its length" });
    }
    out.extend_from_slice(bytes);
    Ok(())
}

fn encode_move(source: &Subfield, destination: &Subfield, out: &mut Vec<u8>) -> Result {
    if source.bits != destination.bits {
        return Err(EncodeError::Invalid { what: "move", reason: "source and destination differ in length" });
    }
    standard(out, kind::COPY_FIELD, |out| {
        put_u16(out, source.bits);
        put_u16(out, source.offset);
        put_u16(out, destination.offset);
        put_zeros(out, 2);
        oxm::put_header(source.field, false, out);
        oxm::put_header(destination.field, false, out);
    });
    Ok(())
}

fn encode_nicira(action: &Action, out: &mut Vec<u8>) -> Result {
    match action {
        Action::Controller(controller) => encode_controller(controller, out)?,
        Action::OutputReg { source, max_len } => {
            nicira(out, subtype::OUTPUT_REG);
            put_u16(out, offset_and_bits(source)?);
            oxm::put_header(source.field, false, out);
            put_u16(out, *max_len);
            put_zeros(out, 6);
        }
        Action::Resubmit { port, table, with_ct_tuple } => {
            nicira(out, if *with_ct_tuple { subtype::RESUBMIT_TABLE_CT } else { subtype::RESUBMIT_TABLE });
            put_u16(out, short_port(*port)?);
            out.push(*table);
        }
        Action::Ct(ct) => encode_ct(ct, out)?,
        Action::CtClear => nicira_void(out, subtype::CT_CLEAR),
        Action::Exit => nicira_void(out, subtype::EXIT),
        Action::Nat(nat) => encode_nat(nat, out)?,
        Action::Conjunction { id, clause, clauses } => {
            nicira(out, subtype::CONJUNCTION);
            out.extend_from_slice(&[*clause, *clauses]);
            put_u32(out, *id);
        }
        Action::Note(bytes) => {
            nicira(out, subtype::NOTE);
            out.extend_from_slice(bytes);
        }
        Action::Clone(actions) => {
            nicira_void(out, subtype::CLONE);
            encode_list(actions, out)?;
        }
        Action::CheckPktLarger { length, field, offset } => {
            nicira(out, subtype::CHECK_PKT_LARGER);
            put_u16(out, *length);
            put_u16(out, *offset);
            oxm::put_header(*field, false, out);
            put_zeros(out, 6);
        }
        Action::StackPush(subfield) => encode_stack(subtype::STACK_PUSH, subfield, out),
        Action::StackPop(subfield) => encode_stack(subtype::STACK_POP, subfield, out),
        _ => unreachable!("every other action is handled by the caller"),
    }
    Ok(())
}

/// A Nicira action's header of 16 bytes with nothing in it.
fn nicira_void(out: &mut Vec<u8>, subtype: u16) {
    nicira(out, subtype);
    put_zeros(out, 6);
}

fn short_port(port: OfPort) -> std::result::Result<u16, EncodeError> {
    port.to_u16().ok_or(EncodeError::Invalid { what: "resubmit", reason: "the port does not fit 16 bits" })
}

fn offset_and_bits(subfield: &Subfield) -> std::result::Result<u16, EncodeError> {
    match subfield.bits {
        1..=64 if subfield.offset < 1024 => Ok(subfield.offset << 6 | (subfield.bits - 1)),
        _ => Err(EncodeError::Invalid { what: "subfield", reason: "it has no bits or more than 64" }),
    }
}

fn encode_stack(subtype: u16, subfield: &Subfield, out: &mut Vec<u8>) {
    nicira(out, subtype);
    put_u16(out, subfield.offset);
    oxm::put_header(subfield.field, false, out);
    put_u16(out, subfield.bits);
    put_zeros(out, 6);
}

fn encode_controller(controller: &Controller, out: &mut Vec<u8>) -> Result {
    nicira_void(out, subtype::CONTROLLER2);
    if controller.max_len != MAX_LEN_ALL {
        put_property(out, property::MAX_LEN, &controller.max_len.to_be_bytes())?;
    }
    if controller.controller_id != 0 {
        put_property(out, property::CONTROLLER_ID, &controller.controller_id.to_be_bytes())?;
    }
    if controller.reason != REASON_ACTION {
        put_property(out, property::REASON, &[controller.reason])?;
    }
    if !controller.userdata.is_empty() {
        put_property(out, property::USERDATA, &controller.userdata)?;
    }
    if controller.pause {
        put_property(out, property::PAUSE, &[])?;
    }
    if let Some(meter) = controller.meter {
        put_property(out, property::METER_ID, &meter.to_be_bytes())?;
    }
    Ok(())
}

fn encode_ct(ct: &Ct, out: &mut Vec<u8>) -> Result {
    nicira(out, subtype::CT);
    put_u16(out, if ct.commit { CT_COMMIT } else { 0 } | if ct.force { CT_FORCE } else { 0 });
    match &ct.zone {
        CtZone::Number(zone) => {
            put_u32(out, 0);
            put_u16(out, *zone);
        }
        CtZone::From(subfield) => {
            oxm::put_header(subfield.field, false, out);
            put_u16(out, offset_and_bits(subfield)?);
        }
    }
    out.push(ct.table.unwrap_or(CT_NO_TABLE));
    put_zeros(out, 3);
    put_u16(out, ct.alg);
    encode_list(&ct.actions, out)
}

fn encode_nat(nat: &Nat, out: &mut Vec<u8>) -> Result {
    nicira(out, subtype::NAT);
    put_zeros(out, 2);
    let kind = match nat.kind {
        None => 0,
        Some(NatKind::Source) => NAT_SRC,
        Some(NatKind::Destination) => NAT_DST,
    };
    let choice = match nat.port_choice {
        PortChoice::Unspecified => 0,
        PortChoice::Hash => NAT_HASH,
        PortChoice::Random => NAT_RANDOM,
    };
    put_u16(out, kind | choice | if nat.persistent { NAT_PERSISTENT } else { 0 });
    let present = out.len();
    put_u16(out, 0);
    let mut ranges = 0;
    if let Some((low, high)) = nat.addresses {
        ranges |= put_address(out, low, RANGE_IPV4_MIN, RANGE_IPV6_MIN);
        if let Some(high) = high {
            ranges |= put_address(out, high, RANGE_IPV4_MAX, RANGE_IPV6_MAX);
        }
    }
    if let Some((low, high)) = nat.ports {
        put_u16(out, low);
        ranges |= RANGE_PORT_MIN;
        if let Some(high) = high {
            put_u16(out, high);
            ranges |= RANGE_PORT_MAX;
        }
    }
    out[present..present + 2].copy_from_slice(&u16::to_be_bytes(ranges));
    Ok(())
}

fn put_address(out: &mut Vec<u8>, address: IpAddr, v4: u16, v6: u16) -> u16 {
    match address {
        IpAddr::V4(address) => {
            out.extend_from_slice(&address.octets());
            v4
        }
        IpAddr::V6(address) => {
            out.extend_from_slice(&address.octets());
            v6
        }
    }
}
