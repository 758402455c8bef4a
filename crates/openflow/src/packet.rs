//! Packets between switch and controller.

use crate::action::{self, Action};
use crate::error::{DecodeError, EncodeError};
use crate::field::Field;
use crate::matching::Match;
use crate::port::OfPort;
use crate::wire::{Reader, patch_u16, put_property, put_u16, put_u32, put_u64, put_zeros};

pub const NO_BUFFER: u32 = 0xffff_ffff;
/// OpenFlow puts two bytes before a packet-in's packet, so that the IP header is aligned.
const PACKET_IN_PAD: usize = 2;

mod property {
    pub const PACKET: u16 = 0;
    pub const FULL_LEN: u16 = 1;
    pub const BUFFER: u16 = 2;
    pub const TABLE: u16 = 3;
    pub const COOKIE: u16 = 4;
    pub const REASON: u16 = 5;
    pub const METADATA: u16 = 6;
    pub const USERDATA: u16 = 7;
    pub const CONTINUATION: u16 = 8;
}

/// A packet for the controller, in OpenFlow's own form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PacketIn {
    pub buffer: u32,
    /// Bytes of the whole packet, of which `packet` may be the beginning.
    pub full_len: u16,
    pub reason: u8,
    pub table: u8,
    pub cookie: u64,
    /// Where the packet came from and the registers that it had.
    pub metadata: Match,
    pub packet: Vec<u8>,
}

impl PacketIn {
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let (buffer, full_len) = (reader.u32()?, reader.u16()?);
        let (reason, table) = (reader.u8()?, reader.u8()?);
        let cookie = reader.u64()?;
        let metadata = Match::decode(&mut reader)?;
        reader.skip(PACKET_IN_PAD)?;
        Ok(PacketIn { buffer, full_len, reason, table, cookie, metadata, packet: reader.rest().to_vec() })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_u32(out, self.buffer);
        put_u16(out, self.full_len);
        out.extend_from_slice(&[self.reason, self.table]);
        put_u64(out, self.cookie);
        self.metadata.encode(out)?;
        put_zeros(out, PACKET_IN_PAD);
        out.extend_from_slice(&self.packet);
        Ok(())
    }
}

/// A packet for the controller with the flow's own data (NXT_PACKET_IN2), once that format was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PacketIn2 {
    pub packet: Vec<u8>,
    /// Bytes of the whole packet, where `packet` is only its beginning.
    pub full_len: Option<u32>,
    pub buffer: Option<u32>,
    pub table: Option<u8>,
    pub cookie: Option<u64>,
    pub reason: Option<u8>,
    pub metadata: Match,
    pub userdata: Vec<u8>,
    /// What the switch needs to resume the packet where it stopped, opaque.
    pub continuation: Option<Vec<u8>>,
}

impl PacketIn2 {
    /// The port that the packet came from.
    pub fn in_port(&self) -> Option<OfPort> {
        self.metadata.exact(Field::InPort).map(|port| OfPort(port as u32))
    }

    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let mut result = PacketIn2::default();
        while !reader.is_empty() {
            let (kind, mut payload) = reader.property()?;
            match kind {
                property::PACKET => result.packet = payload.rest().to_vec(),
                property::FULL_LEN => result.full_len = Some(payload.u32()?),
                property::BUFFER => result.buffer = Some(payload.u32()?),
                property::TABLE => result.table = Some(payload.u8()?),
                property::COOKIE => {
                    // 64-bit properties are aligned by four zero bytes.
                    payload.skip(4)?;
                    result.cookie = Some(payload.u64()?);
                }
                property::REASON => result.reason = Some(payload.u8()?),
                property::METADATA => result.metadata = Match::decode_fields(payload)?,
                property::USERDATA => result.userdata = payload.rest().to_vec(),
                property::CONTINUATION => {
                    payload.skip(4)?;
                    result.continuation = Some(payload.rest().to_vec());
                }
                // Later versions of OVS may say more; nothing here depends on it.
                _ => {}
            }
        }
        Ok(result)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_property(out, property::PACKET, &self.packet)?;
        if let Some(full_len) = self.full_len {
            put_property(out, property::FULL_LEN, &full_len.to_be_bytes())?;
        }
        if let Some(buffer) = self.buffer {
            put_property(out, property::BUFFER, &buffer.to_be_bytes())?;
        }
        if let Some(table) = self.table {
            put_property(out, property::TABLE, &[table])?;
        }
        if let Some(cookie) = self.cookie {
            put_property(out, property::COOKIE, &aligned(&cookie.to_be_bytes()))?;
        }
        if let Some(reason) = self.reason {
            put_property(out, property::REASON, &[reason])?;
        }
        let mut fields = Vec::new();
        self.metadata.encode_fields(&mut fields);
        put_property(out, property::METADATA, &fields)?;
        if !self.userdata.is_empty() {
            put_property(out, property::USERDATA, &self.userdata)?;
        }
        if let Some(continuation) = &self.continuation {
            put_property(out, property::CONTINUATION, &aligned(continuation))?;
        }
        Ok(())
    }
}

/// `bytes` behind the four zero bytes that align a property's 64-bit content.
pub(crate) fn aligned(bytes: &[u8]) -> Vec<u8> {
    let mut result = vec![0; 4];
    result.extend_from_slice(bytes);
    result
}

/// A packet for the switch to send.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PacketOut {
    /// At least the port that the packet is taken to come from; registers may be set too.
    pub metadata: Match,
    pub actions: Vec<Action>,
    pub packet: Vec<u8>,
}

impl PacketOut {
    /// `packet`, taken to come from `in_port`, meets `actions`.
    pub fn new(in_port: OfPort, actions: impl Into<Vec<Action>>, packet: impl Into<Vec<u8>>) -> Self {
        let metadata = Match::new([Field::InPort.is(in_port.0)]).expect("an input port has no prerequisites");
        PacketOut { metadata, actions: actions.into(), packet: packet.into() }
    }

    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        reader.skip(4)?;
        let actions_len = usize::from(reader.u16()?);
        reader.skip(2)?;
        let metadata = Match::decode(&mut reader)?;
        let actions = action::decode_list(reader.sub(actions_len, "packet out actions")?)?;
        Ok(PacketOut { metadata, actions, packet: reader.rest().to_vec() })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_u32(out, NO_BUFFER);
        let length_at = out.len();
        put_u32(out, 0);
        self.metadata.encode(out)?;
        let start = out.len();
        action::encode_list(&self.actions, out)?;
        let length = out.len() - start;
        patch_u16(out, length_at, length, "packet out actions")?;
        out.extend_from_slice(&self.packet);
        Ok(())
    }
}
