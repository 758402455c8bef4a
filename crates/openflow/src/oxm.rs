//! One match field on the wire: an OXM or NXM TLV (OpenFlow 1.5.1, 7.2.3).

use crate::error::DecodeError;
use crate::field::Field;
use crate::wire::{Reader, put_u16, put_uint};

/// A field, the value that it has and which of its bits matter. Also what a set-field action writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MatchField {
    pub field: Field,
    /// Right-aligned: an IPv4 address is its 32-bit number.
    pub value: u128,
    /// Bits that matter; [`Field::full_mask`] for an exact match.
    pub mask: u128,
}

impl MatchField {
    pub fn is_exact(&self) -> bool {
        self.mask == self.field.full_mask()
    }

    /// Only significant bits, and no value outside the mask.
    pub(crate) fn normal(self) -> Self {
        let mask = self.mask & self.field.full_mask();
        MatchField { field: self.field, value: self.value & mask, mask }
    }
}

/// A TLV of a field that this crate does not know, kept as it came.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawOxm {
    pub class: u16,
    /// Field number and has-mask bit, as on the wire.
    pub field_and_mask: u8,
    pub payload: Vec<u8>,
}

/// One TLV, known or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Oxm {
    Known(MatchField),
    Unknown(RawOxm),
}

pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Oxm, DecodeError> {
    let class = reader.u16()?;
    let field_and_mask = reader.u8()?;
    let length = usize::from(reader.u8()?);
    let has_mask = field_and_mask & 1 == 1;
    let mut payload = reader.sub(length, "match field")?;
    let raw = payload.rest();
    let width = if has_mask { length / 2 } else { length };
    let whole = !has_mask || length.is_multiple_of(2);
    let known = Field::from_header(class, field_and_mask >> 1, width).filter(|field| whole && (!has_mask || field.spec().is_maskable));
    let Some(field) = known else {
        return Ok(Oxm::Unknown(RawOxm { class, field_and_mask, payload: raw.to_vec() }));
    };
    let value = payload.uint(width)?;
    let mask = if has_mask { payload.uint(width)? } else { field.full_mask() };
    Ok(Oxm::Known(MatchField { field, value, mask }.normal()))
}

pub(crate) fn encode(field: &MatchField, out: &mut Vec<u8>) {
    let bytes = usize::from(field.field.spec().bytes);
    let is_exact = field.is_exact();
    put_header(field.field, !is_exact, out);
    put_uint(out, field.value, bytes);
    if !is_exact {
        put_uint(out, field.mask, bytes);
    }
}

pub(crate) fn encode_raw(raw: &RawOxm, out: &mut Vec<u8>) {
    put_u16(out, raw.class);
    out.push(raw.field_and_mask);
    // A payload came from an 8-bit length or is the caller's mistake; it is cut to what the format can count.
    let kept = &raw.payload[..raw.payload.len().min(255)];
    out.push(kept.len() as u8);
    out.extend_from_slice(kept);
}

/// The four bytes that name a field.
pub(crate) fn put_header(field: Field, has_mask: bool, out: &mut Vec<u8>) {
    let spec = field.spec();
    put_u16(out, spec.class);
    out.push(spec.number << 1 | u8::from(has_mask));
    out.push(if has_mask { spec.bytes * 2 } else { spec.bytes });
}

/// A field named by a header without value, as in actions. `None`: a field unknown here.
pub(crate) fn decode_header(reader: &mut Reader<'_>) -> Result<Option<Field>, DecodeError> {
    let class = reader.u16()?;
    let field_and_mask = reader.u8()?;
    let length = usize::from(reader.u8()?);
    Ok(Field::from_header(class, field_and_mask >> 1, length).filter(|_| field_and_mask & 1 == 0))
}
