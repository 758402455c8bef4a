//! How entries look as bytes: JSON with a version for objects, lengths and bytes for the log.

use std::sync::Arc;

use model::{Object, Revision};
use serde::{Deserialize, Serialize};

use crate::{Change, Commit, Key};

/// The version of an object's encoding.
const VERSION: u8 = 1;

/// Bytes that no store of this version wrote.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("{key}: {source}")]
    Json { key: String, source: serde_json::Error },
    #[error("{key}: version {version} of the encoding is unknown to this release")]
    Version { key: String, version: u8 },
    #[error("'{0}' is no key of this release")]
    Key(String),
    #[error("{0} is cut short")]
    Truncated(&'static str),
}

#[derive(Serialize)]
struct Wrapped<'a> {
    v: u8,
    object: &'a Object,
}

#[derive(Deserialize)]
struct Unwrapped {
    v: u8,
    object: Object,
}

pub(crate) fn encode_object(object: &Object) -> Vec<u8> {
    serde_json::to_vec(&Wrapped { v: VERSION, object }).expect("objects have string keys only")
}

pub(crate) fn decode_object(key: &str, bytes: &[u8]) -> Result<Arc<Object>, DecodeError> {
    #[derive(Deserialize)]
    struct Version {
        v: u8,
    }
    let json = |source| DecodeError::Json { key: key.to_string(), source };
    match serde_json::from_slice::<Unwrapped>(bytes) {
        Ok(Unwrapped { v: VERSION, object }) => Ok(Arc::new(object)),
        Ok(Unwrapped { v: version, .. }) => Err(DecodeError::Version { key: key.to_string(), version }),
        Err(error) => match serde_json::from_slice::<Version>(bytes) {
            Ok(Version { v }) if v != VERSION => Err(DecodeError::Version { key: key.to_string(), version: v }),
            _ => Err(json(error)),
        },
    }
}

/// An entry with the revision of its last change in front: eight bytes, most significant first.
pub(crate) fn with_revision(revision: Revision, bytes: &[u8]) -> Vec<u8> {
    [&revision.0.to_be_bytes()[..], bytes].concat()
}

pub(crate) fn split_revision(bytes: &[u8]) -> Result<(Revision, &[u8]), DecodeError> {
    let (revision, rest) = bytes.split_first_chunk().ok_or(DecodeError::Truncated("an entry"))?;
    Ok((Revision(u64::from_be_bytes(*revision)), rest))
}

/// Writes the log's entry of one commit: its time, then key, before and after of each object.
#[derive(Default)]
pub(crate) struct LogEntry(Vec<u8>);

impl LogEntry {
    pub(crate) fn new(unix_secs: u64) -> LogEntry {
        LogEntry(unix_secs.to_be_bytes().to_vec())
    }

    pub(crate) fn push(&mut self, key: &str, before: Option<&[u8]>, after: Option<&[u8]>) {
        for part in [Some(key.as_bytes()), before, after] {
            push_part(&mut self.0, part.unwrap_or_default());
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// When the commit of a log entry was made, in seconds since 1970.
pub(crate) fn log_time(entry: &[u8]) -> Result<u64, DecodeError> {
    let (time, _) = entry.split_first_chunk().ok_or(DecodeError::Truncated("a log entry"))?;
    Ok(u64::from_be_bytes(*time))
}

pub(crate) fn decode_log(revision: Revision, entry: &[u8]) -> Result<Commit, DecodeError> {
    let (_, mut rest) = entry.split_first_chunk::<8>().ok_or(DecodeError::Truncated("a log entry"))?;
    let mut changes = Vec::new();
    while !rest.is_empty() {
        let text = std::str::from_utf8(part(&mut rest)?).map_err(|_| DecodeError::Key("(not text)".into()))?;
        let (before, after) = (part(&mut rest)?, part(&mut rest)?);
        let Some(Key::Object(key)) = Key::parse(text) else { return Err(DecodeError::Key(text.to_string())) };
        let object = |bytes: &[u8]| if bytes.is_empty() { Ok(None) } else { decode_object(text, bytes).map(Some) };
        changes.push(Change { key, before: object(before)?, after: object(after)? });
    }
    Ok(Commit { revision, changes: changes.into() })
}

pub(crate) fn push_part(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend((part.len() as u32).to_be_bytes());
    bytes.extend(part);
}

pub(crate) fn part<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let cut = || DecodeError::Truncated("an entry in parts");
    let (length, tail) = rest.split_first_chunk().ok_or_else(cut)?;
    let (part, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(cut)?;
    *rest = tail;
    Ok(part)
}

/// An allocator's record as bytes.
pub fn encode_record<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have string keys only")
}

/// The record that [`encode_record`] wrote under `name`.
pub fn decode_record<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(bytes).map_err(|source| DecodeError::Json { key: name.to_string(), source })
}
