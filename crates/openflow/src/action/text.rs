//! Actions as `ovs-ofctl --no-names` prints them.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use super::{Action, Controller, Ct, CtZone, MAX_LEN_ALL, Nat, NatKind, PortChoice, REASON_ACTION, TABLE_CURRENT};
use crate::field::Subfield;
use crate::port::OfPort;
use crate::text::write_value;

pub(crate) fn write_list(f: &mut Formatter<'_>, actions: &[Action]) -> fmt::Result {
    if actions.is_empty() {
        return f.write_str("drop");
    }
    actions.iter().enumerate().try_for_each(|(at, action)| {
        let comma = if at == 0 { "" } else { "," };
        write!(f, "{comma}{action}")
    })
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Action::Output { port: OfPort::CONTROLLER, max_len } => write!(f, "CONTROLLER:{max_len}"),
            Action::Output { port, .. } if port.is_reserved() => write!(f, "{port}"),
            Action::Output { port, .. } => write!(f, "output:{port}"),
            Action::Controller(controller) => write_controller(f, controller),
            Action::OutputReg { source, .. } => write!(f, "output:{source}"),
            Action::Group(group) => write!(f, "group:{group}"),
            Action::SetField(field) => {
                f.write_str("set_field:")?;
                write_value(f, field)?;
                write!(f, "->{}", field.field.name())
            }
            Action::Move { source, destination } => write!(f, "move:{source}->{destination}"),
            Action::Resubmit { port, table, with_ct_tuple } => write_resubmit(f, *port, *table, *with_ct_tuple),
            Action::Ct(ct) => write_ct(f, ct),
            Action::CtClear => f.write_str("ct_clear"),
            Action::Nat(nat) => write_nat(f, nat),
            Action::Conjunction { id, clause, clauses } => {
                write!(f, "conjunction({id},{}/{clauses})", u16::from(*clause) + 1)
            }
            Action::Note(bytes) => f.write_str("note:").and_then(|()| hex(f, bytes)),
            Action::SetTtl(ttl) => write!(f, "mod_nw_ttl:{ttl}"),
            Action::DecTtl => f.write_str("dec_ttl"),
            Action::PushVlan(eth_type) => write!(f, "push_vlan:{eth_type:#x}"),
            Action::PopVlan => f.write_str("pop_vlan"),
            Action::Clone(actions) => {
                f.write_str("clone(")?;
                write_list(f, actions)?;
                f.write_str(")")
            }
            Action::CheckPktLarger { length, field, offset } => {
                write!(f, "check_pkt_larger({length})->{}", Subfield::new(*field, *offset, 1))
            }
            Action::StackPush(subfield) => write!(f, "push:{subfield}"),
            Action::StackPop(subfield) => write!(f, "pop:{subfield}"),
            Action::SetQueue(queue) => write!(f, "set_queue:{queue}"),
            Action::Meter(meter) => write!(f, "meter:{meter}"),
            Action::Exit => f.write_str("exit"),
            Action::Unknown(bytes) => f.write_str("unknown:").and_then(|()| hex(f, bytes)),
        }
    }
}

fn hex(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().enumerate().try_for_each(|(at, byte)| {
        let dot = if at == 0 { "" } else { "." };
        write!(f, "{dot}{byte:02x}")
    })
}

fn reason_name(reason: u8) -> Option<&'static str> {
    ["no_match", "action", "invalid_ttl", "action_set", "group", "packet_out"].get(usize::from(reason)).copied()
}

/// Prints parts with commas between them.
struct Parts<'a, 'b> {
    f: &'a mut Formatter<'b>,
    comma: &'static str,
}

impl Parts<'_, '_> {
    fn add(&mut self, part: impl Display) -> fmt::Result {
        write!(self.f, "{}{part}", self.comma)?;
        self.comma = ",";
        Ok(())
    }

    fn add_if(&mut self, wanted: bool, part: impl Display) -> fmt::Result {
        if wanted { self.add(part) } else { Ok(()) }
    }
}

fn write_controller(f: &mut Formatter<'_>, controller: &Controller) -> fmt::Result {
    let Controller { max_len, controller_id, reason, userdata, pause, meter } = controller;
    let plain = Controller { max_len: *max_len, ..Controller::default() };
    if *controller == plain {
        return write!(f, "CONTROLLER:{max_len}");
    }
    f.write_str("controller(")?;
    let mut parts = Parts { f, comma: "" };
    if *reason != REASON_ACTION {
        match reason_name(*reason) {
            Some(name) => parts.add(format_args!("reason={name}"))?,
            None => parts.add(format_args!("reason={reason}"))?,
        }
    }
    parts.add_if(*max_len != MAX_LEN_ALL, format_args!("max_len={max_len}"))?;
    parts.add_if(*controller_id != 0, format_args!("id={controller_id}"))?;
    if !userdata.is_empty() {
        parts.add("userdata=")?;
        hex(parts.f, userdata)?;
    }
    parts.add_if(*pause, "pause")?;
    if let Some(meter) = meter {
        parts.add(format_args!("meter_id={meter}"))?;
    }
    f.write_str(")")
}

fn write_resubmit(f: &mut Formatter<'_>, port: OfPort, table: u8, with_ct_tuple: bool) -> fmt::Result {
    let port = (port != OfPort::IN_PORT).then_some(port);
    match port {
        Some(port) if table == TABLE_CURRENT => return write!(f, "resubmit:{port}"),
        Some(port) => write!(f, "resubmit({port},")?,
        None => f.write_str("resubmit(,")?,
    }
    if table != TABLE_CURRENT {
        write!(f, "{table}")?;
    }
    f.write_str(if with_ct_tuple { ",ct)" } else { ")" })
}

fn write_ct(f: &mut Formatter<'_>, ct: &Ct) -> fmt::Result {
    f.write_str("ct(")?;
    let mut parts = Parts { f, comma: "" };
    parts.add_if(ct.commit, "commit")?;
    parts.add_if(ct.force, "force")?;
    if let Some(table) = ct.table {
        parts.add(format_args!("table={table}"))?;
    }
    match ct.zone {
        CtZone::Number(0) => {}
        CtZone::Number(zone) => parts.add(format_args!("zone={zone}"))?,
        CtZone::From(subfield) => parts.add(format_args!("zone={subfield}"))?,
    }
    let (nat, exec) = match ct.actions.split_first() {
        Some((nat @ Action::Nat(_), rest)) => (Some(nat), rest),
        _ => (None, ct.actions.as_slice()),
    };
    if let Some(nat) = nat {
        parts.add(nat)?;
    }
    if !exec.is_empty() {
        parts.add("exec(")?;
        write_list(parts.f, exec)?;
        parts.f.write_str(")")?;
    }
    match ct.alg {
        0 => {}
        21 => parts.add("alg=ftp")?,
        69 => parts.add("alg=tftp")?,
        alg => parts.add(format_args!("alg={alg}"))?,
    }
    f.write_str(")")
}

fn write_nat(f: &mut Formatter<'_>, nat: &Nat) -> fmt::Result {
    let Some(kind) = nat.kind else { return f.write_str("nat") };
    f.write_str(if kind == NatKind::Source { "nat(src" } else { "nat(dst" })?;
    let Some((low, high)) = nat.addresses else { return f.write_str(")") };
    let brackets = nat.ports.is_some();
    f.write_str("=")?;
    write_address(f, low, brackets)?;
    if let Some(high) = high.filter(|high| *high != low) {
        f.write_str("-")?;
        write_address(f, high, brackets)?;
    }
    if let Some((low, high)) = nat.ports {
        write!(f, ":{low}")?;
        if let Some(high) = high.filter(|high| *high != low) {
            write!(f, "-{high}")?;
        }
    }
    let mut parts = Parts { f, comma: "," };
    parts.add_if(nat.persistent, "persistent")?;
    parts.add_if(nat.port_choice == PortChoice::Hash, "hash")?;
    parts.add_if(nat.port_choice == PortChoice::Random, "random")?;
    f.write_str(")")
}

fn write_address(f: &mut Formatter<'_>, address: IpAddr, brackets: bool) -> fmt::Result {
    match address {
        IpAddr::V6(address) if brackets => write!(f, "[{address}]"),
        address => write!(f, "{address}"),
    }
}
