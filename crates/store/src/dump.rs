//! A store as a file of lines: to move a deployment from one kind of store to another.
//!
//! The first line names the format, the revision and the number of entries; each further line is one entry, JSON as it is stored; the
//! last line says that it is the last. What is imported has the revision that it had, so that nodes resume; the history stays
//! behind. An export that is older than what nodes have seen goes on beyond that ([`Import::Restore`]), as a copy of the embedded store
//! does. Records of the server's allocators and of the deployment's identity are entries like others.

use std::io::{self, BufRead, Write};

use model::Revision;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::time::unix_micros;
use crate::{DecodeError, Key, Snapshot, Store, StoreError, TransactError, codec};

/// The version of the format.
const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct First {
    ladon_store: u8,
    revision: u64,
    entries: usize,
}

/// An entry, or the last line.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_last: bool,
}

/// Why a store is not exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("the file cannot be written or read: {0}")]
    File(#[from] io::Error),
    #[error("line {line} of the file is none of an export: {reason}; nothing was imported")]
    Line { line: usize, reason: String },
    #[error("the file ends early, after {0} lines: the export was cut short; nothing was imported")]
    Short(usize),
    #[error("the store is not empty: it is at revision {0}; nothing was imported; import into a new store")]
    NotEmpty(Revision),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] TransactError),
}

/// What was exported or imported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dumped {
    pub revision: Revision,
    pub objects: usize,
    pub records: usize,
}

impl From<&Snapshot> for Dumped {
    fn from(snapshot: &Snapshot) -> Dumped {
        Dumped { revision: snapshot.revision, objects: snapshot.objects.len(), records: snapshot.records.len() }
    }
}

/// Writes everything in `store`, as it is at one revision.
pub fn export(store: &dyn Store, mut out: impl Write) -> Result<Dumped, DumpError> {
    let snapshot = store.load()?;
    let first = First { ladon_store: VERSION, revision: snapshot.revision.0, entries: snapshot.objects.len() + snapshot.records.len() };
    line(&mut out, &first)?;
    for object in &snapshot.objects {
        entry(&mut out, &Key::Object(object.key()), codec::encode_object(object))?;
    }
    for (name, bytes) in &snapshot.records {
        entry(&mut out, &Key::Record(name.clone()), bytes.clone())?;
    }
    line(&mut out, &Line { is_last: true, ..Line::default() })?;
    out.flush()?;
    Ok((&snapshot).into())
}

fn entry(out: &mut impl Write, key: &Key, value: Vec<u8>) -> Result<(), DumpError> {
    let key = key.to_string();
    let json = |source| DumpError::Store(StoreError::Corrupt(DecodeError::Json { key: key.clone(), source }));
    let value = serde_json::from_slice::<Box<RawValue>>(&value).map_err(json)?;
    line(out, &Line { key, value: Some(value), ..Line::default() })
}

fn line(out: &mut impl Write, line: &impl Serialize) -> Result<(), DumpError> {
    serde_json::to_writer(&mut *out, line).map_err(io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}

/// What an import is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Import {
    /// What was exported is the latest that there is: it keeps its revision, and nodes resume.
    Move,
    /// Nodes may have seen later revisions: it gets one beyond all of them, and nodes get snapshots.
    Restore,
}

/// Fills an empty `store` with what was exported. All of it or nothing.
pub fn import(store: &dyn Store, file: impl BufRead, what: Import) -> Result<Dumped, DumpError> {
    let mut snapshot = read(file)?;
    if what == Import::Restore {
        snapshot.revision = Revision((snapshot.revision.0 + 1).max(unix_micros()));
    }
    let there = store.load()?.revision;
    if there != Revision::default() {
        return Err(DumpError::NotEmpty(there));
    }
    store.fill(&snapshot)?;
    Ok((&snapshot).into())
}

fn read(file: impl BufRead) -> Result<Snapshot, DumpError> {
    let bad = |line: usize| move |reason: String| DumpError::Line { line: line + 1, reason };
    let mut lines = file.lines().enumerate();
    let (_, first) = lines.next().ok_or(DumpError::Short(0))?;
    let first: First = serde_json::from_str(&first?).map_err(|error| bad(0)(error.to_string()))?;
    if first.ladon_store != VERSION {
        return Err(bad(0)(format!("version {} of the format is unknown to this release", first.ladon_store)));
    }
    let mut snapshot = Snapshot { revision: Revision(first.revision), ..Snapshot::default() };
    let mut read = 1;
    for (number, text) in lines {
        read = number + 1;
        let line: Line = serde_json::from_str(&text?).map_err(|error| bad(number)(error.to_string()))?;
        match line.value {
            None if !line.is_last => return Err(bad(number)("it has no value".into())),
            None if snapshot.objects.len() + snapshot.records.len() == first.entries => return Ok(snapshot),
            None => return Err(bad(number)(format!("{} entries were announced", first.entries))),
            Some(value) => take_in(&mut snapshot, &line.key, value.get().as_bytes()).map_err(|error| bad(number)(error.to_string()))?,
        }
    }
    Err(DumpError::Short(read))
}

fn take_in(snapshot: &mut Snapshot, key: &str, value: &[u8]) -> Result<(), DecodeError> {
    match Key::parse(key).ok_or_else(|| DecodeError::Key(key.to_string()))? {
        Key::Object(_) => snapshot.objects.push(codec::decode_object(key, value)?),
        Key::Record(name) => snapshot.records.push((name, value.to_vec())),
    }
    Ok(())
}
