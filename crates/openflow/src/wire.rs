//! Reading and writing big-endian bytes without ever going out of bounds.

use crate::error::{DecodeError, EncodeError};

type Result<T> = std::result::Result<T, DecodeError>;

/// A cursor over received bytes; every read is checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        if count > self.bytes.len() {
            return Err(DecodeError::Truncated { what: self.what, needed: count, have: self.bytes.len() });
        }
        let (head, tail) = self.bytes.split_at(count);
        self.bytes = tail;
        Ok(head)
    }

    /// The next `count` bytes as a reader of their own.
    pub fn sub(&mut self, count: usize, what: &'static str) -> Result<Reader<'a>> {
        Ok(Reader::new(self.take(count)?, what))
    }

    pub fn skip(&mut self, count: usize) -> Result<()> {
        self.take(count).map(|_| ())
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("take returned N bytes"))
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// An unsigned number of `count` (at most 16) bytes.
    pub fn uint(&mut self, count: usize) -> Result<u128> {
        Ok(self.take(count)?.iter().fold(0, |sum, byte| (sum << 8) | u128::from(*byte)))
    }

    /// The next element of a list whose elements start with (.., 16-bit length at `length_at`), as a whole.
    pub fn element(&mut self, length_at: usize, min: usize, what: &'static str) -> Result<Reader<'a>> {
        let mut peek = Reader::new(self.bytes, what);
        peek.skip(length_at)?;
        let length = usize::from(peek.u16()?);
        if length < min {
            return Err(DecodeError::BadLength { what, length });
        }
        self.sub(length, what)
    }

    /// The next property: its type and its payload, without the padding that follows it.
    pub fn property(&mut self) -> Result<(u16, Reader<'a>)> {
        let whole = self.element(2, 4, "property")?;
        let padding = whole.len().next_multiple_of(8) - whole.len();
        self.skip(padding.min(self.len()))?;
        let mut payload = whole;
        let kind = payload.u16()?;
        payload.skip(2)?;
        Ok((kind, payload))
    }
}

pub(crate) fn pad_to_8(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    out.resize(start + length.next_multiple_of(8), 0);
}

pub(crate) fn put_zeros(out: &mut Vec<u8>, count: usize) {
    out.resize(out.len() + count, 0);
}

pub(crate) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// The low `count` bytes of `value`.
pub(crate) fn put_uint(out: &mut Vec<u8>, value: u128, count: usize) {
    out.extend_from_slice(&value.to_be_bytes()[16 - count..]);
}

/// Writes `length` (checked) at byte `at`.
pub(crate) fn patch_u16(out: &mut [u8], at: usize, length: usize, what: &'static str) -> std::result::Result<(), EncodeError> {
    let short = u16::try_from(length).map_err(|_| EncodeError::TooLong { what, length })?;
    out[at..at + 2].copy_from_slice(&short.to_be_bytes());
    Ok(())
}

/// Writes a property: type, length (without padding), payload, padding to 8 bytes.
pub(crate) fn put_property(out: &mut Vec<u8>, kind: u16, payload: &[u8]) -> std::result::Result<(), EncodeError> {
    let start = out.len();
    put_u16(out, kind);
    put_u16(out, 0);
    out.extend_from_slice(payload);
    let length = out.len() - start;
    patch_u16(out, start + 2, length, "property")?;
    pad_to_8(out, start);
    Ok(())
}

/// A NUL-padded name, as text. What is not UTF-8 has its foreign bytes replaced, one by one, so that it gets no longer.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len().saturating_sub(1));
    let ascii = |byte: &u8| if byte.is_ascii() { char::from(*byte) } else { '?' };
    let name = &bytes[..end];
    str::from_utf8(name).map_or_else(|_| name.iter().map(ascii).collect(), str::to_owned)
}

/// Writes `text` NUL-padded to `size` bytes; too long a text loses its end (names only ever come from the switch).
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str, size: usize) {
    let kept = &text.as_bytes()[..text.len().min(size - 1)];
    out.extend_from_slice(kept);
    put_zeros(out, size - kept.len());
}
