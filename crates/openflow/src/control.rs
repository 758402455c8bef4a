//! Messages about the connection and the switch itself.

use std::fmt;

use crate::error::{DecodeError, EncodeError};
use crate::error_names;
use crate::wire::{Reader, put_property, put_u16, put_u32, put_u64, put_zeros};

const HELLO_VERSION_BITMAP: u16 = 1;
const ERROR_EXPERIMENTER: u16 = 0xffff;
const NICIRA: u32 = 0x2320;

/// The versions that a peer speaks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hello {
    /// Version of the message's header: the highest one that the peer speaks.
    pub version: u8,
    /// Bit `n`: version `n`. `None` if the peer sent no list.
    pub versions: Option<u32>,
}

impl Hello {
    /// OpenFlow 1.5 and nothing else.
    pub fn ours() -> Self {
        Hello { version: crate::VERSION, versions: Some(1 << crate::VERSION) }
    }

    /// Whether the peer speaks OpenFlow 1.5.
    pub fn speaks_15(&self) -> bool {
        self.versions.map_or(self.version >= crate::VERSION, |bits| bits & (1 << crate::VERSION) != 0)
    }

    pub(crate) fn decode(version: u8, mut reader: Reader<'_>) -> Self {
        let mut versions = None;
        // Whatever else follows a hello is to be ignored, even when it is malformed.
        while let Ok((kind, mut payload)) = reader.property() {
            if kind == HELLO_VERSION_BITMAP && versions.is_none() {
                versions = payload.u32().ok();
            }
        }
        Hello { version, versions }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let Some(versions) = self.versions else { return Ok(()) };
        put_property(out, HELLO_VERSION_BITMAP, &versions.to_be_bytes())
    }
}

/// The switch refused a message; the transaction id tells which.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ErrorMessage {
    pub kind: u16,
    /// Of a vendor's error: the vendor's own number, and `vendor` is set.
    pub code: u16,
    pub vendor: Option<u32>,
    /// The beginning of the refused message (at least 64 bytes of it, if it had as many).
    pub data: Vec<u8>,
}

impl ErrorMessage {
    /// The name that the specification or Open vSwitch gives the error.
    pub fn name(&self) -> Option<&'static str> {
        match self.vendor {
            None => error_names::STANDARD
                .binary_search_by_key(&(self.kind, self.code), |(kind, code, _)| (*kind, *code))
                .ok()
                .map(|at| error_names::STANDARD[at].2),
            Some(NICIRA) => {
                error_names::NICIRA.binary_search_by_key(&self.code, |(code, _)| *code).ok().map(|at| error_names::NICIRA[at].1)
            }
            Some(_) => None,
        }
    }

    /// Type and transaction id of the refused message.
    pub fn refused(&self) -> Option<(u8, u32)> {
        let mut reader = Reader::new(&self.data, "refused message");
        reader.skip(1).ok()?;
        let kind = reader.u8().ok()?;
        reader.skip(2).ok()?;
        Some((kind, reader.u32().ok()?))
    }

    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let (kind, code) = (reader.u16()?, reader.u16()?);
        let vendor = if kind == ERROR_EXPERIMENTER { Some(reader.u32()?) } else { None };
        Ok(ErrorMessage { kind, code, vendor, data: reader.rest().to_vec() })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u16(out, if self.vendor.is_some() { ERROR_EXPERIMENTER } else { self.kind });
        put_u16(out, self.code);
        if let Some(vendor) = self.vendor {
            put_u32(out, vendor);
        }
        out.extend_from_slice(&self.data);
    }
}

impl fmt::Display for ErrorMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.vendor) {
            (Some(name), _) => f.write_str(name),
            (None, None) => write!(f, "error type {} code {}", self.kind, self.code),
            (None, Some(vendor)) => write!(f, "error {} of vendor {vendor:#x}", self.code),
        }
    }
}

/// What the switch is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Features {
    pub datapath_id: u64,
    pub buffers: u32,
    pub tables: u8,
    pub auxiliary_id: u8,
    pub capabilities: u32,
}

impl Features {
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let datapath_id = reader.u64()?;
        let buffers = reader.u32()?;
        let (tables, auxiliary_id) = (reader.u8()?, reader.u8()?);
        reader.skip(2)?;
        Ok(Features { datapath_id, buffers, tables, auxiliary_id, capabilities: reader.u32()? })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.datapath_id);
        put_u32(out, self.buffers);
        out.extend_from_slice(&[self.tables, self.auxiliary_id, 0, 0]);
        put_u32(out, self.capabilities);
        put_u32(out, 0);
    }
}

/// How IP fragments meet the tables ([`SwitchConfig::flags`]).
pub mod fragments {
    /// All fragments have ports of zero.
    pub const NORMAL: u16 = 0;
    pub const DROP: u16 = 1;
    pub const REASSEMBLE: u16 = 2;
    /// The first fragment keeps its ports (Nicira's extension).
    pub const NX_MATCH: u16 = 3;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SwitchConfig {
    /// One of [`fragments`].
    pub flags: u16,
    /// Bytes of a packet that matches nothing which the controller gets. OVS sends no packet-ins of any kind to a
    /// controller on a local socket until this was set above zero.
    pub miss_send_len: u16,
}

impl SwitchConfig {
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        Ok(SwitchConfig { flags: reader.u16()?, miss_send_len: reader.u16()? })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u16(out, self.flags);
        put_u16(out, self.miss_send_len);
    }
}

/// A controller's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoleMessage {
    /// One of [`role`].
    pub role: u32,
    /// A number of the controller's own, OpenFlow 1.5; all ones for none.
    pub short_id: u16,
    pub generation: u64,
}

pub mod role {
    pub const NO_CHANGE: u32 = 0;
    pub const EQUAL: u32 = 1;
    pub const PRIMARY: u32 = 2;
    pub const SECONDARY: u32 = 3;
}

impl RoleMessage {
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let role = reader.u32()?;
        let short_id = reader.u16()?;
        reader.skip(2)?;
        Ok(RoleMessage { role, short_id, generation: reader.u64()? })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.role);
        put_u16(out, self.short_id);
        put_zeros(out, 2);
        put_u64(out, self.generation);
    }
}

/// Which unasked-for messages a controller wants: for each kind, a bit per reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AsyncConfig {
    /// (kind, reasons), kinds as in [`async_kind`].
    pub masks: Vec<(u16, u32)>,
}

/// Kinds of unasked-for messages, for the roles primary and equal (OFPACPT_*).
pub mod async_kind {
    pub const PACKET_IN_SECONDARY: u16 = 0;
    pub const PACKET_IN: u16 = 1;
    pub const PORT_STATUS_SECONDARY: u16 = 2;
    pub const PORT_STATUS: u16 = 3;
    pub const FLOW_REMOVED_SECONDARY: u16 = 4;
    pub const FLOW_REMOVED: u16 = 5;
    pub const ROLE_STATUS: u16 = 7;
    pub const TABLE_STATUS: u16 = 9;
    pub const REQUEST_FORWARD: u16 = 11;
}

impl AsyncConfig {
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let mut masks = Vec::new();
        while !reader.is_empty() {
            let (kind, mut payload) = reader.property()?;
            masks.push((kind, payload.u32()?));
        }
        Ok(AsyncConfig { masks })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.masks.iter().try_for_each(|(kind, mask)| put_property(out, *kind, &mask.to_be_bytes()))
    }
}

/// What is asked of a bundle, or answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BundleControlKind {
    OpenRequest,
    OpenReply,
    CloseRequest,
    CloseReply,
    CommitRequest,
    CommitReply,
    DiscardRequest,
    DiscardReply,
}

/// All of the bundle or nothing of it becomes visible, at once.
pub const BUNDLE_ATOMIC: u16 = 1;
/// The messages take effect in the order in which they were added.
pub const BUNDLE_ORDERED: u16 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BundleControl {
    pub bundle: u32,
    pub kind: BundleControlKind,
    pub flags: u16,
}

impl BundleControl {
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        use BundleControlKind::*;
        let all = [OpenRequest, OpenReply, CloseRequest, CloseReply, CommitRequest, CommitReply, DiscardRequest, DiscardReply];
        let bundle = reader.u32()?;
        let number = reader.u16()?;
        let kind = *all.get(usize::from(number)).ok_or(DecodeError::BadValue { what: "bundle control", value: number.into() })?;
        Ok(BundleControl { bundle, kind, flags: reader.u16()? })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.bundle);
        put_u16(out, self.kind as u16);
        put_u16(out, self.flags);
    }
}
