//! Flows: how they are written, read back, and told about when they go.

use crate::error::{DecodeError, EncodeError};
use crate::instruction::Instructions;
use crate::matching::Match;
use crate::port::OfPort;
use crate::wire::{Reader, pad_to_8, patch_u16, put_u16, put_u32, put_u64, put_zeros};

/// "Every table", where a table is asked for.
pub const TABLE_ALL: u8 = 0xff;
/// "Any group", where a restriction is asked for.
pub const GROUP_ANY: u32 = 0xffff_ffff;
const NO_BUFFER: u32 = 0xffff_ffff;
const OXS_CLASS: u16 = 0x8002;
const OXS_DURATION: u8 = 0;
const OXS_IDLE: u8 = 1;
const OXS_FLOWS: u8 = 3;
const OXS_PACKETS: u8 = 4;
const OXS_BYTES: u8 = 5;

/// Bits of [`FlowMod::flags`].
pub mod flow_flags {
    pub const SEND_FLOW_REMOVED: u16 = 1;
    pub const CHECK_OVERLAP: u16 = 2;
    pub const RESET_COUNTS: u16 = 4;
    pub const NO_PACKET_COUNTS: u16 = 8;
    pub const NO_BYTE_COUNTS: u16 = 16;
}

/// What identifies a flow in a switch: no two flows have the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    pub table: u8,
    pub priority: u16,
    pub matching: Match,
}

/// What a flow mod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowCommand {
    /// Add the flow, or replace the one of the same key.
    Add,
    /// Change the instructions of every flow that the match covers.
    Modify,
    ModifyStrict,
    /// Delete every flow that the match covers.
    Delete,
    /// Delete the flow of exactly this key.
    DeleteStrict,
}

impl FlowCommand {
    const ALL: [FlowCommand; 5] = [Self::Add, Self::Modify, Self::ModifyStrict, Self::Delete, Self::DeleteStrict];
}

/// A change to the flow tables.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlowMod {
    pub command: FlowCommand,
    pub table: u8,
    pub priority: u16,
    pub matching: Match,
    pub instructions: Instructions,
    pub cookie: u64,
    /// For modify and delete: which bits of the cookie must be as in `cookie`.
    pub cookie_mask: u64,
    pub idle_timeout_secs: u16,
    pub hard_timeout_secs: u16,
    pub importance: u16,
    pub flags: u16,
    /// For delete: only flows that output there.
    pub out_port: OfPort,
    /// For delete: only flows that use this group.
    pub out_group: u32,
}

impl FlowMod {
    fn new(command: FlowCommand, table: u8, priority: u16, matching: Match) -> Self {
        FlowMod {
            command,
            table,
            priority,
            matching,
            instructions: Instructions::drop(),
            cookie: 0,
            cookie_mask: 0,
            idle_timeout_secs: 0,
            hard_timeout_secs: 0,
            importance: 0,
            flags: 0,
            out_port: OfPort::ANY,
            out_group: GROUP_ANY,
        }
    }

    /// Adds a flow, or replaces the one of the same key.
    pub fn add(table: u8, priority: u16, matching: Match, instructions: Instructions, cookie: u64) -> Self {
        FlowMod { instructions, cookie, ..Self::new(FlowCommand::Add, table, priority, matching) }
    }

    /// Deletes exactly the flow of `key`.
    pub fn delete(key: FlowKey) -> Self {
        Self::new(FlowCommand::DeleteStrict, key.table, key.priority, key.matching)
    }

    /// Deletes every flow of `table` ([`TABLE_ALL`]: of all) that `matching` covers.
    pub fn delete_all(table: u8, matching: Match) -> Self {
        Self::new(FlowCommand::Delete, table, 0, matching)
    }

    pub fn key(&self) -> FlowKey {
        FlowKey { table: self.table, priority: self.priority, matching: self.matching.clone() }
    }

    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let (cookie, cookie_mask) = (reader.u64()?, reader.u64()?);
        let table = reader.u8()?;
        let number = reader.u8()?;
        let command =
            *FlowCommand::ALL.get(usize::from(number)).ok_or(DecodeError::BadValue { what: "flow mod command", value: number.into() })?;
        let (idle_timeout_secs, hard_timeout_secs) = (reader.u16()?, reader.u16()?);
        let priority = reader.u16()?;
        reader.skip(4)?;
        let (out_port, out_group) = (OfPort(reader.u32()?), reader.u32()?);
        let (flags, importance) = (reader.u16()?, reader.u16()?);
        let matching = Match::decode(&mut reader)?;
        let instructions = Instructions::decode(reader)?;
        Ok(FlowMod {
            command,
            table,
            priority,
            matching,
            instructions,
            cookie,
            cookie_mask,
            idle_timeout_secs,
            hard_timeout_secs,
            importance,
            flags,
            out_port,
            out_group,
        })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_u64(out, self.cookie);
        put_u64(out, self.cookie_mask);
        out.extend_from_slice(&[self.table, self.command as u8]);
        put_u16(out, self.idle_timeout_secs);
        put_u16(out, self.hard_timeout_secs);
        put_u16(out, self.priority);
        put_u32(out, NO_BUFFER);
        put_u32(out, self.out_port.0);
        put_u32(out, self.out_group);
        put_u16(out, self.flags);
        put_u16(out, self.importance);
        self.matching.encode(out)?;
        self.instructions.encode(out)
    }
}

/// A flow's counters; `None` where the switch does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowStats {
    /// Seconds and nanoseconds since the flow was made.
    pub duration: Option<(u32, u32)>,
    /// Seconds and nanoseconds since a packet last met it.
    pub idle: Option<(u32, u32)>,
    pub flows: Option<u32>,
    pub packets: Option<u64>,
    pub bytes: Option<u64>,
}

impl FlowStats {
    /// An `ofp_stats` with its padding.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.skip(2)?;
        let length = usize::from(reader.u16()?);
        let Some(content) = length.checked_sub(4) else {
            return Err(DecodeError::BadLength { what: "statistics", length });
        };
        let mut list = reader.sub(content, "statistics")?;
        reader.skip((length.next_multiple_of(8) - length).min(reader.len()))?;
        let mut stats = FlowStats::default();
        while !list.is_empty() {
            let class = list.u16()?;
            let field = list.u8()? >> 1;
            let length = usize::from(list.u8()?);
            let mut value = list.sub(length, "statistic")?;
            match (class, field, length) {
                (OXS_CLASS, OXS_DURATION, 8) => stats.duration = Some((value.u32()?, value.u32()?)),
                (OXS_CLASS, OXS_IDLE, 8) => stats.idle = Some((value.u32()?, value.u32()?)),
                (OXS_CLASS, OXS_FLOWS, 4) => stats.flows = Some(value.u32()?),
                (OXS_CLASS, OXS_PACKETS, 8) => stats.packets = Some(value.u64()?),
                (OXS_CLASS, OXS_BYTES, 8) => stats.bytes = Some(value.u64()?),
                _ => {}
            }
        }
        Ok(stats)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        put_zeros(out, 4);
        let pair = |(secs, nanos): (u32, u32)| u64::from(secs) << 32 | u64::from(nanos);
        let wide = [
            (OXS_DURATION, self.duration.map(pair)),
            (OXS_IDLE, self.idle.map(pair)),
            (OXS_PACKETS, self.packets),
            (OXS_BYTES, self.bytes),
        ];
        for (field, value) in wide {
            if let Some(value) = value {
                put_u16(out, OXS_CLASS);
                out.extend_from_slice(&[field << 1, 8]);
                put_u64(out, value);
            }
        }
        if let Some(flows) = self.flows {
            put_u16(out, OXS_CLASS);
            out.extend_from_slice(&[OXS_FLOWS << 1, 4]);
            put_u32(out, flows);
        }
        let length = out.len() - start;
        patch_u16(out, start + 2, length, "statistics")?;
        pad_to_8(out, start);
        Ok(())
    }
}

/// A flow as the switch has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstalledFlow {
    pub table: u8,
    pub priority: u16,
    pub matching: Match,
    pub instructions: Instructions,
    pub cookie: u64,
    pub idle_timeout_secs: u16,
    pub hard_timeout_secs: u16,
    pub importance: u16,
    pub flags: u16,
    pub stats: FlowStats,
}

impl InstalledFlow {
    pub fn key(&self) -> FlowKey {
        FlowKey { table: self.table, priority: self.priority, matching: self.matching.clone() }
    }

    /// Whether adding `wanted` would change nothing but counters.
    pub fn is(&self, wanted: &FlowMod) -> bool {
        let lasting = flow_flags::SEND_FLOW_REMOVED | flow_flags::NO_PACKET_COUNTS | flow_flags::NO_BYTE_COUNTS;
        self.table == wanted.table
            && self.priority == wanted.priority
            && self.cookie == wanted.cookie
            && self.idle_timeout_secs == wanted.idle_timeout_secs
            && self.hard_timeout_secs == wanted.hard_timeout_secs
            && self.importance == wanted.importance
            && self.flags & lasting == wanted.flags & lasting
            && self.matching == wanted.matching
            && self.instructions == wanted.instructions
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut entry = reader.element(0, 24, "flow description")?;
        entry.skip(4)?;
        let table = entry.u8()?;
        entry.skip(1)?;
        let priority = entry.u16()?;
        let (idle_timeout_secs, hard_timeout_secs) = (entry.u16()?, entry.u16()?);
        let (flags, importance) = (entry.u16()?, entry.u16()?);
        let cookie = entry.u64()?;
        let matching = Match::decode(&mut entry)?;
        let stats = FlowStats::decode(&mut entry)?;
        let instructions = Instructions::decode(entry)?;
        Ok(InstalledFlow {
            table,
            priority,
            matching,
            instructions,
            cookie,
            idle_timeout_secs,
            hard_timeout_secs,
            importance,
            flags,
            stats,
        })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        put_zeros(out, 4);
        out.extend_from_slice(&[self.table, 0]);
        for short in [self.priority, self.idle_timeout_secs, self.hard_timeout_secs, self.flags, self.importance] {
            put_u16(out, short);
        }
        put_u64(out, self.cookie);
        self.matching.encode(out)?;
        self.stats.encode(out)?;
        self.instructions.encode(out)?;
        let length = out.len() - start;
        patch_u16(out, start, length, "flow description")
    }
}

/// Why a flow went ([`FlowRemoved::reason`]).
pub mod removed_reason {
    pub const IDLE_TIMEOUT: u8 = 0;
    pub const HARD_TIMEOUT: u8 = 1;
    pub const DELETE: u8 = 2;
    pub const GROUP_DELETE: u8 = 3;
    pub const METER_DELETE: u8 = 4;
    pub const EVICTION: u8 = 5;
}

/// A flow went that was made with [`flow_flags::SEND_FLOW_REMOVED`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlowRemoved {
    pub table: u8,
    pub reason: u8,
    pub priority: u16,
    pub idle_timeout_secs: u16,
    pub hard_timeout_secs: u16,
    pub cookie: u64,
    pub matching: Match,
    pub stats: FlowStats,
}

impl FlowRemoved {
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        Ok(FlowRemoved {
            table: reader.u8()?,
            reason: reader.u8()?,
            priority: reader.u16()?,
            idle_timeout_secs: reader.u16()?,
            hard_timeout_secs: reader.u16()?,
            cookie: reader.u64()?,
            matching: Match::decode(&mut reader)?,
            stats: FlowStats::decode(&mut reader)?,
        })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&[self.table, self.reason]);
        for short in [self.priority, self.idle_timeout_secs, self.hard_timeout_secs] {
            put_u16(out, short);
        }
        put_u64(out, self.cookie);
        self.matching.encode(out)?;
        self.stats.encode(out)
    }
}
