//! What a flow does as a whole: at most one of each instruction, carried out in OpenFlow's fixed order.

use crate::action::{self, Action};
use crate::error::{DecodeError, EncodeError};
use crate::wire::{Reader, patch_u16, put_u16, put_u32, put_u64, put_zeros};

const GOTO_TABLE: u16 = 1;
const WRITE_METADATA: u16 = 2;
const WRITE_ACTIONS: u16 = 3;
const APPLY_ACTIONS: u16 = 4;
const CLEAR_ACTIONS: u16 = 5;
const METER: u16 = 6;

/// A flow's instructions. Empty: the packet is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instructions {
    pub meter: Option<u32>,
    /// Done at once, in this order.
    pub apply: Vec<Action>,
    /// Empty the action set.
    pub clear: bool,
    /// Added to the action set, done when the packet leaves the last table.
    pub write: Vec<Action>,
    /// Value and mask written to the metadata field.
    pub metadata: Option<(u64, u64)>,
    pub goto_table: Option<u8>,
    /// Instructions that this crate has no name for, each with its header.
    pub unknown: Vec<Vec<u8>>,
}

impl Instructions {
    /// No instruction: drop.
    pub fn drop() -> Self {
        Self::default()
    }

    pub fn apply(actions: impl Into<Vec<Action>>) -> Self {
        Instructions { apply: actions.into(), ..Self::default() }
    }

    #[must_use]
    pub fn goto(mut self, table: u8) -> Self {
        self.goto_table = Some(table);
        self
    }

    /// Write `value` to the bits `mask` of the metadata field.
    #[must_use]
    pub fn write_metadata(mut self, value: u64, mask: u64) -> Self {
        self.metadata = Some((value & mask, mask));
        self
    }

    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let mut result = Self::default();
        while !reader.is_empty() {
            let whole = reader.element(2, 4, "instruction")?;
            if result.add(whole)?.is_none() {
                result.unknown.push(whole.rest().to_vec());
            }
        }
        Ok(result)
    }

    /// Adds one instruction; `None` if it is not understood.
    fn add(&mut self, mut reader: Reader<'_>) -> Result<Option<()>, DecodeError> {
        let kind = reader.u16()?;
        reader.skip(2)?;
        match kind {
            GOTO_TABLE => self.goto_table = Some(reader.u8()?),
            METER => self.meter = Some(reader.u32()?),
            WRITE_METADATA => {
                reader.skip(4)?;
                let (value, mask) = (reader.u64()?, reader.u64()?);
                self.metadata = Some((value & mask, mask));
            }
            WRITE_ACTIONS => {
                reader.skip(4)?;
                self.write = action::decode_list(reader)?;
            }
            APPLY_ACTIONS => {
                reader.skip(4)?;
                self.apply = action::decode_list(reader)?;
            }
            CLEAR_ACTIONS => self.clear = true,
            _ => return Ok(None),
        }
        Ok(Some(()))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if let Some(meter) = self.meter {
            put_header(out, METER, 8);
            put_u32(out, meter);
        }
        if !self.apply.is_empty() {
            put_actions(out, APPLY_ACTIONS, &self.apply)?;
        }
        if self.clear {
            put_header(out, CLEAR_ACTIONS, 8);
            put_zeros(out, 4);
        }
        if !self.write.is_empty() {
            put_actions(out, WRITE_ACTIONS, &self.write)?;
        }
        if let Some((value, mask)) = self.metadata {
            put_header(out, WRITE_METADATA, 24);
            put_zeros(out, 4);
            put_u64(out, value);
            put_u64(out, mask);
        }
        if let Some(table) = self.goto_table {
            put_header(out, GOTO_TABLE, 8);
            out.extend_from_slice(&[table, 0, 0, 0]);
        }
        for raw in &self.unknown {
            out.extend_from_slice(raw);
        }
        Ok(())
    }
}

fn put_header(out: &mut Vec<u8>, kind: u16, length: u16) {
    put_u16(out, kind);
    put_u16(out, length);
}

fn put_actions(out: &mut Vec<u8>, kind: u16, actions: &[Action]) -> Result<(), EncodeError> {
    let start = out.len();
    put_header(out, kind, 0);
    put_zeros(out, 4);
    action::encode_list(actions, out)?;
    let length = out.len() - start;
    patch_u16(out, start + 2, length, "a flow's actions")
}
