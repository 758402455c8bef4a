//! What a flow does to a packet: OpenFlow's actions and Nicira's extensions (ovs-actions(7)).
//!
//! Where OVS accepts several encodings of one meaning, there is one variant here, written in the form that OVS reads
//! back to an OpenFlow 1.5 controller: `set_field` and never `reg_load`, `copy_field` and never `reg_move`.
//! Actions that this crate has no name for survive as [`Action::Unknown`].

mod decode;
mod encode;
mod text;

use std::net::IpAddr;

use crate::field::{Field, Subfield};
use crate::oxm::MatchField;
use crate::port::OfPort;

pub(crate) use decode::decode_list;
pub(crate) use encode::encode_list;
pub(crate) use text::write_list;

/// "The whole packet", where a length is asked for.
pub const MAX_LEN_ALL: u16 = 0xffff;
/// Packet-in reason "an action said so" (OFPR_APPLY_ACTION).
pub const REASON_ACTION: u8 = 1;
/// `resubmit` without a table: the current one.
pub const TABLE_CURRENT: u8 = 255;

pub(crate) const NICIRA: u32 = 0x0000_2320;

/// Numbers of OpenFlow's own actions.
pub(crate) mod kind {
    pub const OUTPUT: u16 = 0;
    pub const PUSH_VLAN: u16 = 17;
    pub const POP_VLAN: u16 = 18;
    pub const SET_QUEUE: u16 = 21;
    pub const GROUP: u16 = 22;
    pub const SET_TTL: u16 = 23;
    pub const DEC_TTL: u16 = 24;
    pub const SET_FIELD: u16 = 25;
    pub const COPY_FIELD: u16 = 28;
    pub const METER: u16 = 29;
    pub const EXPERIMENTER: u16 = 0xffff;
}

/// Numbers of Nicira's actions.
pub(crate) mod subtype {
    pub const RESUBMIT: u16 = 1;
    pub const NOTE: u16 = 8;
    pub const RESUBMIT_TABLE: u16 = 14;
    pub const OUTPUT_REG: u16 = 15;
    pub const EXIT: u16 = 17;
    pub const CONTROLLER: u16 = 20;
    pub const STACK_PUSH: u16 = 27;
    pub const STACK_POP: u16 = 28;
    pub const OUTPUT_REG2: u16 = 32;
    pub const CONJUNCTION: u16 = 34;
    pub const CT: u16 = 35;
    pub const NAT: u16 = 36;
    pub const CONTROLLER2: u16 = 37;
    pub const CLONE: u16 = 42;
    pub const CT_CLEAR: u16 = 43;
    pub const RESUBMIT_TABLE_CT: u16 = 44;
    pub const CHECK_PKT_LARGER: u16 = 49;
}

/// Properties of NXAST_CONTROLLER2.
pub(crate) mod controller_property {
    pub const MAX_LEN: u16 = 0;
    pub const CONTROLLER_ID: u16 = 1;
    pub const REASON: u16 = 2;
    pub const USERDATA: u16 = 3;
    pub const PAUSE: u16 = 4;
    pub const METER_ID: u16 = 5;
}

/// One action.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Send the packet out of a port. `max_len` says how much of it a controller gets, 0 for every other port.
    Output {
        port: OfPort,
        max_len: u16,
    },
    /// Send the packet to a controller with data of the flow's own (NXAST_CONTROLLER2).
    Controller(Controller),
    /// Send the packet out of the port whose number is in a field.
    OutputReg {
        source: Subfield,
        max_len: u16,
    },
    Group(u32),
    /// Write `value` to the bits `mask` of a field.
    SetField(MatchField),
    /// Copy bits from one field to another; both runs have the same length.
    Move {
        source: Subfield,
        destination: Subfield,
    },
    /// Look the packet up again as if it came from `port` ([`OfPort::IN_PORT`]: where it came from), in `table`.
    Resubmit {
        port: OfPort,
        table: u8,
        with_ct_tuple: bool,
    },
    Ct(Ct),
    CtClear,
    /// Only inside [`Ct::actions`].
    Nat(Nat),
    /// Dimension `clause` (from 0) of `clauses` of the conjunction `id` is satisfied.
    Conjunction {
        id: u32,
        clause: u8,
        clauses: u8,
    },
    /// Bytes without effect; [`Action::note`] pads them as the format demands.
    Note(Vec<u8>),
    SetTtl(u8),
    DecTtl,
    /// Push a VLAN tag with this EtherType.
    PushVlan(u16),
    PopVlan,
    /// Do these and forget what they did to the packet.
    Clone(Vec<Action>),
    /// Set one bit of a field to whether the packet is longer than `length` bytes.
    CheckPktLarger {
        length: u16,
        field: Field,
        offset: u16,
    },
    StackPush(Subfield),
    StackPop(Subfield),
    SetQueue(u32),
    Meter(u32),
    Exit,
    /// An action as received, its header included; a multiple of 8 bytes.
    Unknown(Vec<u8>),
}

/// Where packet-ins of a flow go and what they carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Controller {
    pub max_len: u16,
    pub controller_id: u16,
    pub reason: u8,
    pub userdata: Vec<u8>,
    /// Stop the packet here until the controller resumes it.
    pub pause: bool,
    pub meter: Option<u32>,
}

impl Default for Controller {
    fn default() -> Self {
        let max_len = MAX_LEN_ALL;
        Controller { max_len, controller_id: 0, reason: REASON_ACTION, userdata: vec![], pause: false, meter: None }
    }
}

/// Send the packet through connection tracking.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ct {
    pub commit: bool,
    /// Begin the connection anew if its original direction was the other one. Only with `commit`.
    pub force: bool,
    pub zone: CtZone,
    /// Recirculate the tracked packet into this table; without it the packet goes on untracked.
    pub table: Option<u8>,
    /// Application-level gateway, as its well-known port; 0 for none.
    pub alg: u16,
    /// NAT and writes to `ct_mark` and `ct_label`.
    pub actions: Vec<Action>,
}

/// Which connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CtZone {
    Number(u16),
    /// The number in 16 bits of a field.
    From(Subfield),
}

impl Default for CtZone {
    fn default() -> Self {
        CtZone::Number(0)
    }
}

/// Translate addresses of a connection. Without a kind: as the connection was translated before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nat {
    pub kind: Option<NatKind>,
    /// Lowest and highest address, both of one family. OVS leaves out a highest that equals the lowest.
    pub addresses: Option<(IpAddr, Option<IpAddr>)>,
    /// Lowest and highest port. Only with addresses.
    pub ports: Option<(u16, Option<u16>)>,
    pub persistent: bool,
    pub port_choice: PortChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NatKind {
    Source,
    Destination,
}

/// How NAT chooses a port from a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortChoice {
    #[default]
    Unspecified,
    Hash,
    Random,
}

impl Action {
    /// Out of `port`, the whole packet where it is the controller.
    pub fn output(port: OfPort) -> Self {
        Action::Output { port, max_len: if port == OfPort::CONTROLLER { MAX_LEN_ALL } else { 0 } }
    }

    /// To the controller with `userdata`.
    pub fn controller(userdata: impl Into<Vec<u8>>) -> Self {
        Action::Controller(Controller { userdata: userdata.into(), ..Controller::default() })
    }

    /// Writes a field. (OVS lets the input port be written only under its 16-bit name, which is chosen here.)
    pub fn set(field: MatchField) -> Self {
        match (field.field, OfPort(field.value as u32).to_u16()) {
            (Field::InPort, Some(port)) => Action::SetField(Field::InPortShort.is(port)),
            _ => Action::SetField(field.normal()),
        }
    }

    /// Look up in `table`, from where the packet came.
    pub fn resubmit(table: u8) -> Self {
        Action::Resubmit { port: OfPort::IN_PORT, table, with_ct_tuple: false }
    }

    /// `bytes`, padded with zeros to the 6, 14, 22, … bytes that a note has.
    pub fn note(bytes: impl Into<Vec<u8>>) -> Self {
        let mut bytes = bytes.into();
        let padded = (bytes.len().max(1) + 2).next_multiple_of(8) - 2;
        bytes.resize(padded, 0);
        Action::Note(bytes)
    }
}
