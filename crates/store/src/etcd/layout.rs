//! Where things are in etcd, and how a transaction too large for one of etcd's is cut into parts.
//!
//! | key | value |
//! |---|---|
//! | `…/head` | the latest revision, the transaction that made it, and where its parts are while they are not applied |
//! | `…/staged/<transaction>/<n>` | the base revision and some operations of a large transaction |
//! | every other key | as in every store |

use std::sync::Arc;

use model::{Object, Revision};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::wire::{self, RequestOp};
use crate::codec::{self, DecodeError};
use crate::{Key, Op, PREFIX};

/// Operations in one of etcd's transactions: its default limit is 128, and one is the head.
pub const OPS_MAX: usize = 120;
/// Bytes of keys and values in one request: etcd's default limit is 1.5 MiB.
pub const BYTES_MAX: usize = 1 << 20;

/// The key that every commit compares and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Head {
    /// The version of the encoding.
    pub v: u8,
    pub revision: u64,
    /// Whoever lost the answer to a commit finds out by this whether it was done.
    pub transaction: Uuid,
    /// When, in seconds since 1970.
    pub at: u64,
    /// So many parts with the transaction's name hold its operations, until they are applied. It is committed all the same.
    #[serde(default)]
    pub parts: usize,
}

/// The version of the head's encoding.
const VERSION: u8 = 1;

impl Head {
    /// What a transaction makes of it.
    pub fn new(revision: Revision, transaction: Uuid, at: u64, parts: usize) -> Head {
        Head { v: VERSION, revision: revision.0, transaction, at, parts }
    }

    /// The parts are applied.
    pub fn applied(self) -> Head {
        Head { parts: 0, ..self }
    }

    pub fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    pub fn encode(&self) -> Vec<u8> {
        codec::encode_record(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Head, DecodeError> {
        let head: Head = codec::decode_record("head", bytes)?;
        if head.v == VERSION { Ok(head) } else { Err(DecodeError::Version { key: "head".into(), version: head.v }) }
    }
}

/// An entry's key and what becomes of it; None: it is deleted.
pub type Entry = (String, Option<Vec<u8>>);

/// What a key is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    Head,
    Part(Uuid, usize),
    /// An entry, by its key without the deployment's prefix.
    Entry(String),
}

/// The keys of one deployment.
#[derive(Clone, Debug)]
pub struct Layout {
    prefix: String,
}

impl Layout {
    pub fn new(prefix: &str) -> Layout {
        Layout { prefix: prefix.to_string() }
    }

    fn key(&self, rest: &str) -> Vec<u8> {
        format!("{}{PREFIX}/{rest}", self.prefix).into_bytes()
    }

    pub fn head(&self) -> Vec<u8> {
        self.key("head")
    }

    pub fn part(&self, transaction: Uuid, number: usize) -> Vec<u8> {
        self.key(&format!("staged/{transaction}/{number:06}"))
    }

    /// First key and end of a transaction's parts.
    pub fn parts(&self, transaction: Uuid) -> (Vec<u8>, Vec<u8>) {
        range(self.key(&format!("staged/{transaction}/")))
    }

    /// First key and end of everything.
    pub fn everything(&self) -> (Vec<u8>, Vec<u8>) {
        range(self.key(""))
    }

    pub fn place(&self, key: &[u8]) -> Result<Place, DecodeError> {
        let bad = || DecodeError::Key(String::from_utf8_lossy(key).into_owned());
        let text = std::str::from_utf8(key).ok().and_then(|text| text.strip_prefix(&self.prefix)).ok_or_else(bad)?;
        let rest = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('/')).ok_or_else(bad)?;
        if rest == "head" {
            return Ok(Place::Head);
        }
        let Some(part) = rest.strip_prefix("staged/") else { return Ok(Place::Entry(text.to_string())) };
        let (transaction, number) = part.split_once('/').ok_or_else(bad)?;
        Ok(Place::Part(transaction.parse().map_err(|_| bad())?, number.parse().map_err(|_| bad())?))
    }

    /// The operation on an entry, as etcd takes it.
    pub fn request(&self, (key, value): &Entry) -> RequestOp {
        let key = format!("{}{key}", self.prefix).into_bytes();
        match value {
            Some(value) => wire::put(key, value.clone()),
            None => wire::delete(key),
        }
    }
}

fn range(first: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let mut end = first.clone();
    // Keys here end with '/', which is not the largest byte.
    *end.last_mut().expect("no key is empty") += 1;
    (first, end)
}

pub fn entry(op: &Op) -> Entry {
    let value = match op {
        Op::Put(object) => Some(codec::encode_object(object)),
        Op::PutRecord(_, bytes) => Some(bytes.clone()),
        Op::Delete(_) | Op::DeleteRecord(_) => None,
    };
    (op.key().to_string(), value)
}

pub fn op((key, value): &Entry) -> Result<Op, DecodeError> {
    let named = Key::parse(key).ok_or_else(|| DecodeError::Key(key.clone()))?;
    Ok(match (named, value) {
        (Key::Object(_), Some(value)) => Op::Put(object(key, value)?),
        (Key::Object(key), None) => Op::Delete(key),
        (Key::Record(name), Some(value)) => Op::PutRecord(name, value.clone()),
        (Key::Record(name), None) => Op::DeleteRecord(name),
    })
}

pub fn object(key: &str, value: &[u8]) -> Result<Arc<Object>, DecodeError> {
    codec::decode_object(key, value)
}

fn bytes((key, value): &Entry) -> usize {
    /// What surrounds key and value.
    const FRAME: usize = 32;
    FRAME + key.len() + value.as_ref().map_or(0, Vec::len)
}

/// Cuts entries into pieces of at most `ops` entries and [`BYTES_MAX`].
pub fn pieces(entries: &[Entry], ops: usize) -> Vec<&[Entry]> {
    let mut pieces = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (n, entry) in entries.iter().enumerate() {
        let more = bytes(entry);
        if n > start && (n - start == ops || size + more > BYTES_MAX) {
            pieces.push(&entries[start..n]);
            (start, size) = (n, 0);
        }
        size += more;
    }
    if start < entries.len() {
        pieces.push(&entries[start..]);
    }
    pieces
}

/// A part: the base revision, then key, "is put" and value of each entry, with lengths in front.
pub fn encode_part(base: Revision, entries: &[Entry]) -> Vec<u8> {
    let mut part = base.0.to_be_bytes().to_vec();
    for (key, value) in entries {
        codec::push_part(&mut part, key.as_bytes());
        codec::push_part(&mut part, &[u8::from(value.is_some())]);
        codec::push_part(&mut part, value.as_deref().unwrap_or_default());
    }
    part
}

pub fn decode_part(mut part: &[u8]) -> Result<(Revision, Vec<Entry>), DecodeError> {
    let cut = || DecodeError::Truncated("a part of a transaction");
    let (base, rest) = part.split_first_chunk().ok_or_else(cut)?;
    let base = Revision(u64::from_be_bytes(*base));
    part = rest;
    let mut entries = Vec::new();
    while !part.is_empty() {
        let key = codec::part(&mut part).and_then(|key| String::from_utf8(key.to_vec()).map_err(|_| cut()))?;
        let is_put = codec::part(&mut part)? == [1];
        let value = codec::part(&mut part)?.to_vec();
        entries.push((key, is_put.then_some(value)));
    }
    Ok((base, entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(sizes: &[usize]) -> Vec<Entry> {
        sizes.iter().enumerate().map(|(n, size)| (format!("/ladon/v1/alloc/{n}"), Some(vec![n as u8; *size]))).collect()
    }

    #[test]
    fn a_transaction_is_cut_by_number_and_by_size() {
        let cut = |sizes: &[usize]| pieces(&entries(sizes), 3).iter().map(|piece| piece.len()).collect::<Vec<_>>();
        assert_eq!(cut(&[]), Vec::<usize>::new());
        assert_eq!(cut(&[1; 7]), [3, 3, 1]);
        assert_eq!(pieces(&entries(&[1; OPS_MAX + 1]), OPS_MAX).len(), 2);
        // With the head it is what Debian's etcd takes as it comes.
        assert!(OPS_MAX < 128 && BYTES_MAX < 3 << 19);
        assert_eq!(cut(&[BYTES_MAX / 2, BYTES_MAX / 2, 1]), [1, 2]);
        assert_eq!(cut(&[1, 2 * BYTES_MAX, 1]), [1, 1, 1], "what is too large alone is alone");
    }

    #[test]
    fn a_part_is_read_as_it_was_written() {
        let mut entries = entries(&[0, 1, 1000]);
        entries[1].1 = None;
        let part = encode_part(Revision(7), &entries);
        assert_eq!(decode_part(&part).unwrap(), (Revision(7), entries));
        for short in [0, 7, 9, part.len() - 1] {
            assert!(decode_part(&part[..short]).is_err(), "{short} bytes");
        }
    }

    #[test]
    fn a_key_tells_what_it_is_for() {
        let layout = Layout::new("/test");
        let id = Uuid::from_u128(5);
        assert_eq!(layout.place(&layout.head()).unwrap(), Place::Head);
        assert_eq!(layout.place(&layout.part(id, 12)).unwrap(), Place::Part(id, 12));
        assert_eq!(layout.place(b"/test/ladon/v1/alloc/keys").unwrap(), Place::Entry("/ladon/v1/alloc/keys".into()));
        assert!(layout.place(b"/ladon/v1/alloc/keys").is_err(), "another deployment's");
        let (first, end) = layout.everything();
        assert!(layout.head() > first && layout.part(id, 0) < end);
    }
}
