//! Flow monitors: the switch tells which flows appear, change and go (OFPMP_FLOW_MONITOR).

use crate::error::{DecodeError, EncodeError};
use crate::flow::{GROUP_ANY, TABLE_ALL};
use crate::instruction::Instructions;
use crate::matching::Match;
use crate::port::OfPort;
use crate::wire::{Reader, patch_u16, put_u16, put_u32, put_u64, put_zeros};

/// Bits of [`MonitorRequest::flags`].
pub mod monitor_flags {
    pub const INITIAL: u16 = 1;
    pub const ADD: u16 = 2;
    pub const REMOVED: u16 = 4;
    pub const MODIFY: u16 = 8;
    pub const INSTRUCTIONS: u16 = 16;
    /// Tell of this connection's own changes in full.
    pub const NO_ABBREVIATION: u16 = 32;
    pub const ONLY_OWN: u16 = 64;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MonitorCommand {
    Add,
    Modify,
    Delete,
}

/// Begin, change or end a flow monitor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MonitorRequest {
    pub id: u32,
    pub command: MonitorCommand,
    pub flags: u16,
    pub table: u8,
    pub out_port: OfPort,
    pub out_group: u32,
    pub matching: Match,
}

impl MonitorRequest {
    /// Tell of changes to any flow, with the flows' instructions, but of this connection's own only in brief.
    pub fn changes(id: u32) -> Self {
        use monitor_flags::{ADD, INSTRUCTIONS, MODIFY, REMOVED};
        MonitorRequest {
            id,
            command: MonitorCommand::Add,
            flags: ADD | REMOVED | MODIFY | INSTRUCTIONS,
            table: TABLE_ALL,
            out_port: OfPort::ANY,
            out_group: GROUP_ANY,
            matching: Match::any(),
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = reader.u32()?;
        let (out_port, out_group) = (OfPort(reader.u32()?), reader.u32()?);
        let flags = reader.u16()?;
        let table = reader.u8()?;
        let command = match reader.u8()? {
            0 => MonitorCommand::Add,
            1 => MonitorCommand::Modify,
            2 => MonitorCommand::Delete,
            value => return Err(DecodeError::BadValue { what: "monitor command", value: value.into() }),
        };
        let matching = Match::decode(reader)?;
        Ok(MonitorRequest { id, command, flags, table, out_port, out_group, matching })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_u32(out, self.id);
        put_u32(out, self.out_port.0);
        put_u32(out, self.out_group);
        put_u16(out, self.flags);
        out.extend_from_slice(&[self.table, self.command as u8]);
        self.matching.encode(out)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowEvent {
    /// The flow was there when the monitor began.
    Initial,
    Added,
    Removed,
    Modified,
}

/// A monitored flow that changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlowChange {
    pub event: FlowEvent,
    pub table: u8,
    /// For removals: one of [`crate::removed_reason`].
    pub reason: u8,
    pub priority: u16,
    pub idle_timeout_secs: u16,
    pub hard_timeout_secs: u16,
    pub cookie: u64,
    pub matching: Match,
    pub instructions: Instructions,
}

/// One piece of news from a flow monitor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FlowUpdate {
    Changed(FlowChange),
    /// This connection's own message of this transaction took effect.
    Own {
        xid: u32,
    },
    /// The switch ran out of room for news; flows may change untold until [`FlowUpdate::Resumed`].
    Paused,
    /// News goes on; what changed meanwhile has been told as changes.
    Resumed,
    /// News of a kind unknown here.
    Unknown {
        event: u16,
        body: Vec<u8>,
    },
}

const ABBREVIATED: u16 = 4;
const PAUSED: u16 = 5;
const RESUMED: u16 = 6;

impl FlowUpdate {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut entry = reader.element(0, 8, "flow update")?;
        entry.skip(2)?;
        let event = match entry.u16()? {
            0 => FlowEvent::Initial,
            1 => FlowEvent::Added,
            2 => FlowEvent::Removed,
            3 => FlowEvent::Modified,
            ABBREVIATED => return Ok(FlowUpdate::Own { xid: entry.u32()? }),
            PAUSED => return Ok(FlowUpdate::Paused),
            RESUMED => return Ok(FlowUpdate::Resumed),
            event => return Ok(FlowUpdate::Unknown { event, body: entry.rest().to_vec() }),
        };
        let (table, reason) = (entry.u8()?, entry.u8()?);
        let (idle_timeout_secs, hard_timeout_secs) = (entry.u16()?, entry.u16()?);
        let priority = entry.u16()?;
        entry.skip(4)?;
        let cookie = entry.u64()?;
        let matching = Match::decode(&mut entry)?;
        let instructions = Instructions::decode(entry)?;
        Ok(FlowUpdate::Changed(FlowChange {
            event,
            table,
            reason,
            priority,
            idle_timeout_secs,
            hard_timeout_secs,
            cookie,
            matching,
            instructions,
        }))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        put_u16(out, 0);
        match self {
            FlowUpdate::Own { xid } => {
                put_u16(out, ABBREVIATED);
                put_u32(out, *xid);
            }
            FlowUpdate::Paused => {
                put_u16(out, PAUSED);
                put_zeros(out, 4);
            }
            FlowUpdate::Resumed => {
                put_u16(out, RESUMED);
                put_zeros(out, 4);
            }
            FlowUpdate::Unknown { event, body } => {
                put_u16(out, *event);
                out.extend_from_slice(body);
            }
            FlowUpdate::Changed(change) => change.encode(out)?,
        }
        let length = out.len() - start;
        patch_u16(out, start, length, "flow update")
    }
}

impl FlowChange {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_u16(out, self.event as u16);
        out.extend_from_slice(&[self.table, self.reason]);
        for short in [self.idle_timeout_secs, self.hard_timeout_secs, self.priority] {
            put_u16(out, short);
        }
        put_zeros(out, 4);
        put_u64(out, self.cookie);
        self.matching.encode(out)?;
        self.instructions.encode(out)
    }
}
