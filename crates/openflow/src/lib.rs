//! OpenFlow 1.5 as Open vSwitch speaks it: values to bytes and back.
//!
//! A message comes in as bytes, is cut from the stream by [`frame_len`] and becomes a [`Message`] by [`decode`]; what
//! is sent goes the other way by [`Message::encode`]. The crate is pure: no sockets, no clock, no async. It covers the
//! messages, match fields and actions that Ladon uses, with Nicira's extensions; what it has no name for survives a
//! round trip as raw bytes. No input makes it panic.
//!
//! The point is **read-back**: [`Match`], [`Instructions`], [`Bucket`] are canonical, so that a flow or group
//! read from a switch ([`InstalledFlow`], [`InstalledGroup`]) equals the one that was written. A controller that
//! restarts then changes only what differs. `tests/read_back.rs` holds this against a real Open vSwitch.
//!
//! Sources: OpenFlow Switch Specification 1.5.1, ovs-fields(7), ovs-actions(7), and the behaviour of OVS 3.1. Not
//! here: queues, table features, Geneve option fields, NSH, MPLS, `learn`.

mod action;
mod control;
mod ct_flush;
mod error;
mod error_names;
mod field;
mod flow;
mod group;
mod instruction;
mod matching;
mod message;
mod meter;
mod monitor;
mod multipart;
mod oxm;
mod packet;
mod port;
mod text;
mod wire;

pub use action::{Action, Controller, Ct, CtZone, MAX_LEN_ALL, Nat, NatKind, PortChoice, REASON_ACTION, TABLE_CURRENT};
pub use control::{
    AsyncConfig, BUNDLE_ATOMIC, BUNDLE_ORDERED, BundleControl, BundleControlKind, ErrorMessage, Features, Hello, RoleMessage, SwitchConfig,
    async_kind, fragments, role,
};
pub use ct_flush::{CtFlush, CtPorts, CtTuple};
pub use error::{DecodeError, EncodeError, MatchError};
pub use field::{Field, FieldSpec, Prerequisite, Subfield};
pub use flow::{FlowCommand, FlowKey, FlowMod, FlowRemoved, FlowStats, GROUP_ANY, InstalledFlow, TABLE_ALL, flow_flags, removed_reason};
pub use group::{
    BUCKET_ALL, BUCKET_FIRST, BUCKET_LAST, BUCKET_MAX, Bucket, GROUP_ALL, GROUP_BYTES_MAX, GROUP_MAX, GroupCommand, GroupKind, GroupMod,
    InstalledGroup, SelectionMethod,
};
pub use instruction::Instructions;
pub use matching::{ETH_TYPE_ARP, ETH_TYPE_IPV4, ETH_TYPE_IPV6, ETH_TYPE_RARP, Match, VLAN_PRESENT, ct_state, ip_frag};
pub use message::{Message, PortReason, decode, frame_len, packet_in_format};
pub use meter::{METER_ALL, Meter, MeterCommand, MeterMod};
pub use monitor::{FlowChange, FlowEvent, FlowUpdate, MonitorCommand, MonitorRequest, monitor_flags};
pub use multipart::{
    FlowFilter, MultipartBody, MultipartReply, MultipartRequest, Reassembly, SwitchDescription, TableDescription, TableStats,
};
pub use oxm::{MatchField, RawOxm};
pub use packet::{NO_BUFFER, PacketIn, PacketIn2, PacketOut};
pub use port::{OfPort, Port, port_config, port_state};

/// OpenFlow 1.5 in a message's header.
pub const VERSION: u8 = 6;
/// Bytes of a message's header.
pub const HEADER_LEN: usize = 8;
/// OpenFlow counts a message's bytes in 16 bits.
pub const MAX_MESSAGE_LEN: usize = 65_535;
/// How deep actions may contain actions (`clone`, `ct`).
pub const MAX_NESTING: usize = 16;

/// Transaction id: an answer has the one of its question.
pub type Xid = u32;
