//! A store that forgets everything with its process: for tests of what stands on a store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{Object, Revision};

use crate::{Change, ChangesError, Commit, Key, Op, Snapshot, Store, StoreError, TransactError, Transaction};

#[derive(Clone)]
enum Value {
    Object(Arc<Object>),
    Record(Vec<u8>),
}

#[derive(Default)]
struct Inner {
    entries: BTreeMap<Key, (Value, Revision)>,
    log: Vec<Commit>,
    is_full: bool,
}

/// Keeps everything in memory, the whole log included.
#[derive(Default)]
pub struct Memory(Mutex<Inner>);

impl Memory {
    pub fn new() -> Memory {
        Memory::default()
    }

    /// From now on every transaction is answered as if the disk were full, or no longer so.
    pub fn set_full(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn load(&self) -> Result<Snapshot, StoreError> {
        let inner = self.lock();
        let mut snapshot = Snapshot { revision: inner.revision(), ..Snapshot::default() };
        for (key, (value, modified)) in &inner.entries {
            match (key, value) {
                (Key::Record(name), Value::Record(bytes)) => snapshot.records.push((name.clone(), bytes.clone(), *modified)),
                (_, Value::Object(object)) => snapshot.objects.push((object.clone(), *modified)),
                (_, Value::Record(_)) => {}
            }
        }
        Ok(snapshot)
    }

    fn changes(&self, from: Revision) -> Result<Vec<Commit>, ChangesError> {
        let inner = self.lock();
        if from > inner.revision() {
            return Err(ChangesError::Future(from));
        }
        Ok(inner.log[from.0 as usize..].to_vec())
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        let mut inner = self.lock();
        for guard in &transaction.guards {
            let modified = inner.entries.get(&guard.key).map(|entry| entry.1).unwrap_or_default();
            if modified != guard.modified {
                return Err(TransactError::Conflict { key: guard.key.clone() });
            }
        }
        if transaction.ops.is_empty() {
            return Ok(inner.revision());
        }
        if inner.is_full {
            return Err(TransactError::Full);
        }
        let revision = Revision(inner.revision().0 + 1);
        let changes = transaction.ops.iter().filter_map(|op| inner.apply(op, revision)).collect();
        inner.log.push(Commit { revision, changes });
        Ok(revision)
    }
}

impl Inner {
    fn revision(&self) -> Revision {
        Revision(self.log.len() as u64)
    }

    fn apply(&mut self, op: &Op, revision: Revision) -> Option<Change> {
        let key = op.key();
        let value = match op {
            Op::Put(object) => Some(Value::Object(object.clone())),
            Op::PutRecord(_, bytes) => Some(Value::Record(bytes.clone())),
            Op::Delete(_) | Op::DeleteRecord(_) => None,
        };
        let before = match value.clone() {
            Some(value) => self.entries.insert(key.clone(), (value, revision)),
            None => self.entries.remove(&key),
        };
        let object = |value: Option<Value>| match value {
            Some(Value::Object(object)) => Some(object),
            _ => None,
        };
        let (before, after) = (object(before.map(|entry| entry.0)), object(value));
        match key {
            Key::Object(key) if before.is_some() || after.is_some() => Some(Change { key, before, after }),
            _ => None,
        }
    }
}
