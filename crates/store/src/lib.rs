//! The northbound store: what should be, durable, with a history.
//!
//! A store keeps [`Object`]s and, for the server's allocators, named records of bytes. Everything changes by
//! [`Store::transact`]: one [`Transaction`] is applied as a whole or not at all, it is durable before the answer, and it
//! makes exactly one new [`Revision`]. A transaction names the revision on which it was computed; where others have written since,
//! it is a [`TransactError::Conflict`] and nothing is written: whoever sent it takes in what is new ([`Store::updates`]) and
//! computes again. The log of changes answers [`Store::changes`], so that whoever knows a revision can learn what came after it; a
//! revision that the log no longer reaches back to is [`ChangesError::Compacted`].
//!
//! # Keys
//!
//! | key | value |
//! |---|---|
//! | `/ladon/v1/<kind>/<uuid>` | `{"v":1,"object":{…}}`, the kinds' words being those of [`Kind::word`](model::Kind::word) |
//! | `/ladon/v1/alloc/<name>` | a record of the server's allocators, bytes |
//!
//! The number of records that a transaction touches does not grow with the number of addresses that it frees: see the
//! server's `ipam`. Deliberately *not* here: the meaning of objects, and the API.

mod change;
mod codec;
mod dump;
mod etcd;
mod memory;
mod redb;
pub mod suite;
mod time;

use std::fmt;
use std::sync::Arc;

use model::{Object, ObjectKey, Revision};

pub use change::{Change, Commit};
pub use codec::{DecodeError, decode_record, encode_record};
pub use dump::{DumpError, Dumped, Import, export, import};
pub use etcd::{Etcd, EtcdOptions};
pub use memory::Memory;
pub use redb::{LogLimits, Making, OpenError, Options, Redb};

/// The prefix of every key: the version of the layout.
pub const PREFIX: &str = "/ladon/v1";

/// Names one entry of the store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    Object(ObjectKey),
    /// An allocator's record, by its name: `keys`, `freed/<uuid>/3`.
    Record(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Object(key) => write!(f, "{PREFIX}/{}/{}", key.kind.word(), key.id),
            Key::Record(name) => write!(f, "{PREFIX}/alloc/{name}"),
        }
    }
}

impl Key {
    /// The key that prints as `text`.
    pub fn parse(text: &str) -> Option<Key> {
        let (word, rest) = text.strip_prefix(PREFIX)?.strip_prefix('/')?.split_once('/')?;
        if word == "alloc" {
            return Some(Key::Record(rest.to_string()));
        }
        Some(Key::Object(ObjectKey { kind: model::Kind::from_word(word)?, id: rest.parse().ok()? }))
    }
}

/// One change that a transaction makes.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    Put(Arc<Object>),
    Delete(ObjectKey),
    PutRecord(String, Vec<u8>),
    DeleteRecord(String),
}

impl Op {
    pub fn key(&self) -> Key {
        match self {
            Op::Put(object) => Key::Object(object.key()),
            Op::Delete(key) => Key::Object(*key),
            Op::PutRecord(name, _) | Op::DeleteRecord(name) => Key::Record(name.clone()),
        }
    }
}

/// Changes that happen together if nothing has happened since. Each key may occur in one operation only.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Transaction {
    /// The state on which the operations were computed.
    pub base: Revision,
    pub ops: Vec<Op>,
}

/// A transaction that was committed.
#[derive(Clone, PartialEq, Debug)]
pub struct Update {
    pub revision: Revision,
    pub ops: Vec<Op>,
}

/// What a server must take in to know the latest state.
#[derive(Clone, PartialEq, Debug)]
pub enum Updates {
    /// Every transaction since, oldest first, without a gap.
    Each(Vec<Update>),
    /// There were too many, or they are not kept.
    All(Snapshot),
}

/// Called when there may be updates, from a thread of the store's.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// Everything that is stored, at one revision.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    pub revision: Revision,
    pub objects: Vec<Arc<Object>>,
    pub records: Vec<(String, Vec<u8>)>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum TransactError {
    /// The store is at another revision than the transaction's base.
    #[error("another server has written revision {latest} at the same time; nothing was written and traffic is not affected; try again")]
    Conflict { latest: Revision },
    #[error("the store's disk is full: nothing was written; reads and forwarding go on; free space on the disk that holds it")]
    Full,
    /// The store went away in the middle and has not told since whether the transaction is in it.
    #[error("it is not known whether the change was written: {0}; traffic is not affected; look whether it was before you try again")]
    Unknown(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why there are no changes to tell.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// The log starts after the revision that was asked for: take a snapshot.
    #[error("the log of changes reaches back to revision {oldest} only")]
    Compacted { oldest: Revision },
    /// The store has not got there: whoever asks has seen another store.
    #[error("revision {0} is in the future")]
    Future(Revision),
    /// A snapshot is smaller than what would have to be told.
    #[error("more than {most} commits or changes came after it")]
    TooMany { most: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A store that cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the store failed while {doing}: {source}; switches go on with what they have; look at the disk or the etcd cluster that holds it, and restart the server if it does not recover"
    )]
    Failed { doing: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "the store holds an entry that cannot be read: {0}; switches go on with what they have, and no server starts on this store; use the \
         release that wrote it, or put the store's copy back"
    )]
    Corrupt(#[from] DecodeError),
    #[error(
        "the store is at revision {to} and this server has seen revision {from} in it, as after a backup was put back; nodes keep forwarding as they do; stop every ladon server, export from etcd and import with --restore under a new prefix (docs/operate.md)"
    )]
    WentBack { from: Revision, to: Revision },
}

/// Refuses a transaction that was not computed on the latest state.
fn check_base(base: Revision, latest: Revision) -> Result<(), TransactError> {
    match base.cmp(&latest) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(TransactError::Conflict { latest }),
        std::cmp::Ordering::Greater => Err(StoreError::WentBack { from: base, to: latest }.into()),
    }
}

/// Refuses to tell a history of more commits than that. How many there are is known before any of them is read.
fn check_length(from: Revision, latest: Revision, most: usize) -> Result<(), ChangesError> {
    if latest.0.saturating_sub(from.0) > most as u64 { Err(ChangesError::TooMany { most }) } else { Ok(()) }
}

/// Where what should be is kept. All calls block: callers give them a thread of their own.
pub trait Store: Send + Sync + 'static {
    /// Everything, at the latest revision.
    fn load(&self) -> Result<Snapshot, StoreError>;

    /// The commits after `from`, oldest first. Where they are more than `most`, or more objects have changed in them, that is told instead,
    /// and no more of them is read than it takes to know.
    fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError>;

    /// Applies all of `transaction` or nothing, durably, and tells the revision that it made: the one after its base. One
    /// without operations changes nothing and tells its base, if that is the latest revision. Deleting what is absent is no error.
    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError>;

    /// What was committed after `from`, by whomever, as far as it is known. Where the store is at `until` or later, it waits for that.
    fn updates(&self, from: Revision, until: Revision) -> Result<Updates, StoreError> {
        if from >= until { Ok(Updates::Each(Vec::new())) } else { self.load().map(Updates::All) }
    }

    /// Makes an empty store what `snapshot` says, its revision included, in one transaction. There is no history before it.
    fn fill(&self, _snapshot: &Snapshot) -> Result<(), TransactError> {
        Err(StoreError::Failed { doing: "importing", source: "this kind of store cannot be imported into".into() }.into())
    }

    /// True if other servers may write it, too.
    fn is_shared(&self) -> bool {
        false
    }

    /// Has `wake` called when there may be updates after the latest [`Store::load`]. The embedded store has one server and never any.
    fn on_update(&self, _wake: Wake) {}
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn every_error_says_what_happened_what_it_means_and_what_to_do() {
        let path = || PathBuf::from("/store");
        let disk = || Box::new(std::io::Error::other("the disk is gone"));
        let failed = || StoreError::Failed { doing: "reading", source: disk() };
        for text in [
            TransactError::Conflict { latest: Revision(1) }.to_string(),
            TransactError::Unknown("no answer".into()).to_string(),
            StoreError::WentBack { from: Revision(2), to: Revision(1) }.to_string(),
            TransactError::Full.to_string(),
            TransactError::from(failed()).to_string(),
            ChangesError::from(failed()).to_string(),
            StoreError::from(DecodeError::Key("/x".into())).to_string(),
            OpenError::InUse { path: path() }.to_string(),
            OpenError::Format { path: path(), found: 2 }.to_string(),
            OpenError::Empty { path: path() }.to_string(),
            OpenError::Failed { path: path(), source: disk() }.to_string(),
        ] {
            assert_eq!(text.split("; ").count(), 3, "{text}");
        }
        assert!(failed().to_string().contains("while reading: the disk is gone; "));
    }
}
