//! Whole messages: header, type, body.

use crate::control::{AsyncConfig, BundleControl, ErrorMessage, Features, Hello, RoleMessage, SwitchConfig};
use crate::ct_flush::CtFlush;
use crate::error::{DecodeError, EncodeError};
use crate::flow::{FlowMod, FlowRemoved};
use crate::group::GroupMod;
use crate::meter::MeterMod;
use crate::multipart::{MultipartReply, MultipartRequest};
use crate::packet::{PacketIn, PacketIn2, PacketOut};
use crate::port::Port;
use crate::wire::{Reader, patch_u16, put_u16, put_u32, put_zeros};
use crate::{HEADER_LEN, MAX_MESSAGE_LEN, VERSION, Xid};

const NICIRA: u32 = 0x2320;

mod kind {
    pub const HELLO: u8 = 0;
    pub const ERROR: u8 = 1;
    pub const ECHO_REQUEST: u8 = 2;
    pub const ECHO_REPLY: u8 = 3;
    pub const EXPERIMENTER: u8 = 4;
    pub const FEATURES_REQUEST: u8 = 5;
    pub const FEATURES_REPLY: u8 = 6;
    pub const GET_CONFIG_REQUEST: u8 = 7;
    pub const GET_CONFIG_REPLY: u8 = 8;
    pub const SET_CONFIG: u8 = 9;
    pub const PACKET_IN: u8 = 10;
    pub const FLOW_REMOVED: u8 = 11;
    pub const PORT_STATUS: u8 = 12;
    pub const PACKET_OUT: u8 = 13;
    pub const FLOW_MOD: u8 = 14;
    pub const GROUP_MOD: u8 = 15;
    pub const MULTIPART_REQUEST: u8 = 18;
    pub const MULTIPART_REPLY: u8 = 19;
    pub const BARRIER_REQUEST: u8 = 20;
    pub const BARRIER_REPLY: u8 = 21;
    pub const ROLE_REQUEST: u8 = 24;
    pub const ROLE_REPLY: u8 = 25;
    pub const SET_ASYNC: u8 = 28;
    pub const METER_MOD: u8 = 29;
    pub const REQUEST_FORWARD: u8 = 32;
    pub const BUNDLE_CONTROL: u8 = 33;
    pub const BUNDLE_ADD: u8 = 34;
}

mod nicira {
    pub const SET_PACKET_IN_FORMAT: u32 = 16;
    pub const SET_CONTROLLER_ID: u32 = 20;
    pub const RESUME: u32 = 28;
    pub const CT_FLUSH_ZONE: u32 = 29;
    pub const PACKET_IN2: u32 = 30;
    pub const CT_FLUSH: u32 = 32;
}

/// Packet-in formats for [`Message::SetPacketInFormat`].
pub mod packet_in_format {
    pub const STANDARD: u32 = 0;
    pub const NXT_PACKET_IN: u32 = 1;
    pub const NXT_PACKET_IN2: u32 = 2;
}

/// Why a port status came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortReason {
    Added,
    Deleted,
    Modified,
}

/// One OpenFlow message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    Hello(Hello),
    Error(ErrorMessage),
    EchoRequest(Vec<u8>),
    EchoReply(Vec<u8>),
    FeaturesRequest,
    FeaturesReply(Features),
    GetConfigRequest,
    GetConfigReply(SwitchConfig),
    SetConfig(SwitchConfig),
    PacketIn(PacketIn),
    FlowRemoved(FlowRemoved),
    PortStatus {
        reason: PortReason,
        port: Port,
    },
    PacketOut(PacketOut),
    FlowMod(FlowMod),
    GroupMod(GroupMod),
    MeterMod(MeterMod),
    MultipartRequest(MultipartRequest),
    MultipartReply(MultipartReply),
    BarrierRequest,
    BarrierReply,
    RoleRequest(RoleMessage),
    RoleReply(RoleMessage),
    SetAsync(AsyncConfig),
    /// What another controller asked for and got: a change of a group or a meter.
    RequestForward(Box<Message>),
    BundleControl(BundleControl),
    /// A message for a bundle; it gets the transaction id of the whole.
    BundleAdd {
        bundle: u32,
        flags: u16,
        message: Box<Message>,
    },
    /// One of [`packet_in_format`].
    SetPacketInFormat(u32),
    SetControllerId(u16),
    PacketIn2(PacketIn2),
    /// Let a paused packet go on, with what may have been changed of it.
    Resume(PacketIn2),
    CtFlushZone(u16),
    CtFlush(CtFlush),
    /// A message of a type, or of an experimenter's type, that this crate has no name for.
    Unknown {
        kind: u8,
        body: Vec<u8>,
    },
}

/// How long the message at the beginning of `bytes` is; `None` if not even its header is there.
///
/// # Errors
/// A length below that of the header: the stream has lost its frames and must be closed.
pub fn frame_len(bytes: &[u8]) -> Result<Option<usize>, DecodeError> {
    if bytes.len() < HEADER_LEN {
        return Ok(None);
    }
    let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    if length < HEADER_LEN {
        return Err(DecodeError::BadLength { what: "message", length });
    }
    Ok(Some(length))
}

/// Decodes one whole message, as cut by [`frame_len`].
///
/// # Errors
/// When the bytes are not one whole message of OpenFlow 1.5. Never panics.
pub fn decode(bytes: &[u8]) -> Result<(Message, Xid), DecodeError> {
    decode_nested(bytes, true)
}

fn decode_nested(bytes: &[u8], may_nest: bool) -> Result<(Message, Xid), DecodeError> {
    let length = frame_len(bytes)?;
    let needed = length.unwrap_or(HEADER_LEN);
    if bytes.len() < needed {
        return Err(DecodeError::Truncated { what: "message", needed, have: bytes.len() });
    }
    if bytes.len() > needed {
        return Err(DecodeError::BadLength { what: "message", length: needed });
    }
    let mut reader = Reader::new(bytes, "message");
    let (version, kind) = (reader.u8()?, reader.u8()?);
    reader.skip(2)?;
    let xid = reader.u32()?;
    // Hello and error must be understood before a version is agreed on.
    if version != VERSION && kind != kind::HELLO && kind != kind::ERROR {
        return Err(DecodeError::Version(version));
    }
    Ok((decode_body(version, kind, reader, may_nest)?, xid))
}

fn decode_body(version: u8, kind: u8, mut reader: Reader<'_>, may_nest: bool) -> Result<Message, DecodeError> {
    Ok(match kind {
        kind::HELLO => Message::Hello(Hello::decode(version, reader)),
        kind::ERROR => Message::Error(ErrorMessage::decode(reader)?),
        kind::ECHO_REQUEST => Message::EchoRequest(reader.rest().to_vec()),
        kind::ECHO_REPLY => Message::EchoReply(reader.rest().to_vec()),
        kind::FEATURES_REQUEST => Message::FeaturesRequest,
        kind::FEATURES_REPLY => Message::FeaturesReply(Features::decode(reader)?),
        kind::GET_CONFIG_REQUEST => Message::GetConfigRequest,
        kind::GET_CONFIG_REPLY => Message::GetConfigReply(SwitchConfig::decode(reader)?),
        kind::SET_CONFIG => Message::SetConfig(SwitchConfig::decode(reader)?),
        kind::PACKET_IN => Message::PacketIn(PacketIn::decode(reader)?),
        kind::FLOW_REMOVED => Message::FlowRemoved(FlowRemoved::decode(reader)?),
        kind::PORT_STATUS => decode_port_status(reader)?,
        kind::PACKET_OUT => Message::PacketOut(PacketOut::decode(reader)?),
        kind::FLOW_MOD => Message::FlowMod(FlowMod::decode(reader)?),
        kind::GROUP_MOD => Message::GroupMod(GroupMod::decode(reader)?),
        kind::METER_MOD => Message::MeterMod(MeterMod::decode(reader)?),
        kind::MULTIPART_REQUEST => Message::MultipartRequest(MultipartRequest::decode(reader)?),
        kind::MULTIPART_REPLY => Message::MultipartReply(MultipartReply::decode(reader)?),
        kind::BARRIER_REQUEST => Message::BarrierRequest,
        kind::BARRIER_REPLY => Message::BarrierReply,
        kind::ROLE_REQUEST => Message::RoleRequest(RoleMessage::decode(reader)?),
        kind::ROLE_REPLY => Message::RoleReply(RoleMessage::decode(reader)?),
        kind::SET_ASYNC => Message::SetAsync(AsyncConfig::decode(reader)?),
        kind::REQUEST_FORWARD if may_nest => {
            let inner = frame_len(reader.rest())?.unwrap_or(HEADER_LEN);
            let (message, _) = decode_nested(reader.take(inner)?, false)?;
            Message::RequestForward(Box::new(message))
        }
        kind::BUNDLE_CONTROL => Message::BundleControl(BundleControl::decode(reader)?),
        kind::BUNDLE_ADD if may_nest => {
            let bundle = reader.u32()?;
            reader.skip(2)?;
            let flags = reader.u16()?;
            let inner = frame_len(reader.rest())?.unwrap_or(HEADER_LEN);
            let (message, _) = decode_nested(reader.take(inner)?, false)?;
            Message::BundleAdd { bundle, flags, message: Box::new(message) }
        }
        kind::EXPERIMENTER => decode_experimenter(reader)?,
        _ => Message::Unknown { kind, body: reader.rest().to_vec() },
    })
}

fn decode_port_status(mut reader: Reader<'_>) -> Result<Message, DecodeError> {
    let reason = match reader.u8()? {
        0 => PortReason::Added,
        1 => PortReason::Deleted,
        2 => PortReason::Modified,
        value => return Err(DecodeError::BadValue { what: "port status reason", value: value.into() }),
    };
    reader.skip(7)?;
    Ok(Message::PortStatus { reason, port: Port::decode(&mut reader)? })
}

fn decode_experimenter(whole: Reader<'_>) -> Result<Message, DecodeError> {
    let mut reader = whole;
    let unknown = || Message::Unknown { kind: kind::EXPERIMENTER, body: whole.rest().to_vec() };
    let (vendor, subtype) = (reader.u32()?, reader.u32()?);
    if vendor != NICIRA {
        return Ok(unknown());
    }
    Ok(match subtype {
        nicira::SET_PACKET_IN_FORMAT => Message::SetPacketInFormat(reader.u32()?),
        nicira::SET_CONTROLLER_ID => {
            reader.skip(6)?;
            Message::SetControllerId(reader.u16()?)
        }
        nicira::PACKET_IN2 => Message::PacketIn2(PacketIn2::decode(reader)?),
        nicira::RESUME => Message::Resume(PacketIn2::decode(reader)?),
        nicira::CT_FLUSH_ZONE => {
            reader.skip(6)?;
            Message::CtFlushZone(reader.u16()?)
        }
        nicira::CT_FLUSH => CtFlush::decode(reader).map_or_else(|_| unknown(), Message::CtFlush),
        _ => unknown(),
    })
}

impl Message {
    /// Appends the message to `out`.
    ///
    /// # Errors
    /// When it, or a part of it, takes more bytes than OpenFlow can count; `out` is then as it was before.
    pub fn encode(&self, xid: Xid, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let result = self.encode_at(start, xid, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    /// The message in bytes of its own.
    ///
    /// # Errors
    /// As [`Message::encode`].
    pub fn to_bytes(&self, xid: Xid) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        self.encode(xid, &mut out)?;
        Ok(out)
    }

    fn encode_at(&self, start: usize, xid: Xid, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let version = if let Message::Hello(hello) = self { hello.version } else { VERSION };
        out.extend_from_slice(&[version, self.kind(), 0, 0]);
        put_u32(out, xid);
        self.encode_body(xid, out)?;
        let length = out.len() - start;
        debug_assert!(MAX_MESSAGE_LEN == usize::from(u16::MAX));
        patch_u16(out, start + 2, length, "message")
    }

    fn kind(&self) -> u8 {
        match self {
            Message::Hello(_) => kind::HELLO,
            Message::Error(_) => kind::ERROR,
            Message::EchoRequest(_) => kind::ECHO_REQUEST,
            Message::EchoReply(_) => kind::ECHO_REPLY,
            Message::FeaturesRequest => kind::FEATURES_REQUEST,
            Message::FeaturesReply(_) => kind::FEATURES_REPLY,
            Message::GetConfigRequest => kind::GET_CONFIG_REQUEST,
            Message::GetConfigReply(_) => kind::GET_CONFIG_REPLY,
            Message::SetConfig(_) => kind::SET_CONFIG,
            Message::PacketIn(_) => kind::PACKET_IN,
            Message::FlowRemoved(_) => kind::FLOW_REMOVED,
            Message::PortStatus { .. } => kind::PORT_STATUS,
            Message::PacketOut(_) => kind::PACKET_OUT,
            Message::FlowMod(_) => kind::FLOW_MOD,
            Message::GroupMod(_) => kind::GROUP_MOD,
            Message::MeterMod(_) => kind::METER_MOD,
            Message::MultipartRequest(_) => kind::MULTIPART_REQUEST,
            Message::MultipartReply(_) => kind::MULTIPART_REPLY,
            Message::BarrierRequest => kind::BARRIER_REQUEST,
            Message::BarrierReply => kind::BARRIER_REPLY,
            Message::RoleRequest(_) => kind::ROLE_REQUEST,
            Message::RoleReply(_) => kind::ROLE_REPLY,
            Message::SetAsync(_) => kind::SET_ASYNC,
            Message::RequestForward(_) => kind::REQUEST_FORWARD,
            Message::BundleControl(_) => kind::BUNDLE_CONTROL,
            Message::BundleAdd { .. } => kind::BUNDLE_ADD,
            Message::SetPacketInFormat(_)
            | Message::SetControllerId(_)
            | Message::PacketIn2(_)
            | Message::Resume(_)
            | Message::CtFlushZone(_)
            | Message::CtFlush(_) => kind::EXPERIMENTER,
            Message::Unknown { kind, .. } => *kind,
        }
    }

    fn encode_body(&self, xid: Xid, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Message::FeaturesRequest | Message::GetConfigRequest | Message::BarrierRequest | Message::BarrierReply => {}
            Message::Hello(hello) => hello.encode(out)?,
            Message::Error(error) => error.encode(out),
            Message::EchoRequest(bytes) | Message::EchoReply(bytes) => out.extend_from_slice(bytes),
            Message::FeaturesReply(features) => features.encode(out),
            Message::GetConfigReply(config) | Message::SetConfig(config) => config.encode(out),
            Message::PacketIn(packet) => packet.encode(out)?,
            Message::FlowRemoved(removed) => removed.encode(out)?,
            Message::PortStatus { reason, port } => {
                out.push(*reason as u8);
                put_zeros(out, 7);
                port.encode(out)?;
            }
            Message::PacketOut(packet) => packet.encode(out)?,
            Message::FlowMod(flow) => flow.encode(out)?,
            Message::GroupMod(group) => group.encode(out)?,
            Message::MeterMod(meter) => meter.encode(out),
            Message::MultipartRequest(request) => request.encode(out)?,
            Message::MultipartReply(reply) => reply.encode(out)?,
            Message::RoleRequest(role) | Message::RoleReply(role) => role.encode(out),
            Message::SetAsync(config) => config.encode(out)?,
            Message::RequestForward(message) => message.encode(xid, out)?,
            Message::BundleControl(control) => control.encode(out),
            Message::BundleAdd { bundle, flags, message } => {
                put_u32(out, *bundle);
                put_zeros(out, 2);
                put_u16(out, *flags);
                message.encode(xid, out)?;
            }
            Message::Unknown { body, .. } => out.extend_from_slice(body),
            nicira => nicira.encode_nicira(out)?,
        }
        Ok(())
    }

    fn encode_nicira(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_u32(out, NICIRA);
        match self {
            Message::SetPacketInFormat(format) => {
                put_u32(out, nicira::SET_PACKET_IN_FORMAT);
                put_u32(out, *format);
            }
            Message::SetControllerId(id) => {
                put_u32(out, nicira::SET_CONTROLLER_ID);
                put_zeros(out, 6);
                put_u16(out, *id);
            }
            Message::PacketIn2(packet) => {
                put_u32(out, nicira::PACKET_IN2);
                packet.encode(out)?;
            }
            Message::Resume(packet) => {
                put_u32(out, nicira::RESUME);
                packet.encode(out)?;
            }
            Message::CtFlushZone(zone) => {
                put_u32(out, nicira::CT_FLUSH_ZONE);
                put_zeros(out, 6);
                put_u16(out, *zone);
            }
            Message::CtFlush(flush) => {
                put_u32(out, nicira::CT_FLUSH);
                flush.encode(out)?;
            }
            _ => unreachable!("every other message has a type of its own"),
        }
        Ok(())
    }
}
