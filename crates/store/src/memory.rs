//! A store that forgets everything with its process: for tests of what stands on a store. Several servers may share it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{Object, Revision};

use crate::{
    Change, ChangesError, Commit, Key, Op, Snapshot, Store, StoreError, TransactError, Transaction, Update, Updates, Wake, check_base,
};

#[derive(Clone)]
enum Value {
    Object(Arc<Object>),
    Record(Vec<u8>),
}

#[derive(Default)]
struct Inner {
    entries: BTreeMap<Key, Value>,
    log: Vec<Commit>,
    updates: Vec<Update>,
    is_full: bool,
}

/// Keeps everything in memory, the whole log included.
#[derive(Default)]
pub struct Memory {
    inner: Mutex<Inner>,
    wakes: Mutex<Vec<Wake>>,
}

impl Memory {
    pub fn new() -> Memory {
        Memory::default()
    }

    /// From now on every transaction is answered as if the disk were full, or no longer so.
    pub fn set_full(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wakes(&self) -> MutexGuard<'_, Vec<Wake>> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn load(&self) -> Result<Snapshot, StoreError> {
        let inner = self.lock();
        let mut snapshot = Snapshot { revision: inner.revision(), ..Snapshot::default() };
        for (key, value) in &inner.entries {
            match (key, value) {
                (Key::Record(name), Value::Record(bytes)) => snapshot.records.push((name.clone(), bytes.clone())),
                (_, Value::Object(object)) => snapshot.objects.push(object.clone()),
                (_, Value::Record(_)) => {}
            }
        }
        Ok(snapshot)
    }

    fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        let inner = self.lock();
        if from > inner.revision() {
            return Err(ChangesError::Future(from));
        }
        let commits = &inner.log[from.0 as usize..];
        let changes: usize = commits.iter().map(|commit| commit.changes.len()).sum();
        if commits.len().max(changes) > most { Err(ChangesError::TooMany { most }) } else { Ok(commits.to_vec()) }
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        let mut inner = self.lock();
        check_base(transaction.base, inner.revision())?;
        if transaction.ops.is_empty() {
            return Ok(inner.revision());
        }
        if inner.is_full {
            return Err(TransactError::Full);
        }
        let revision = Revision(inner.revision().0 + 1);
        let changes = transaction.ops.iter().filter_map(|op| inner.apply(op)).collect();
        inner.log.push(Commit { revision, changes });
        inner.updates.push(Update { revision, ops: transaction.ops.clone() });
        drop(inner);
        self.wakes().iter().for_each(|wake| wake());
        Ok(revision)
    }

    fn updates(&self, from: Revision, _: Revision) -> Result<Updates, StoreError> {
        Ok(Updates::Each(self.lock().updates[from.0 as usize..].to_vec()))
    }

    fn on_update(&self, wake: Wake) {
        self.wakes().push(wake);
    }
}

impl Inner {
    fn revision(&self) -> Revision {
        Revision(self.log.len() as u64)
    }

    fn apply(&mut self, op: &Op) -> Option<Change> {
        let key = op.key();
        let value = match op {
            Op::Put(object) => Some(Value::Object(object.clone())),
            Op::PutRecord(_, bytes) => Some(Value::Record(bytes.clone())),
            Op::Delete(_) | Op::DeleteRecord(_) => None,
        };
        let before = match value.clone() {
            Some(value) => self.entries.insert(key.clone(), value),
            None => self.entries.remove(&key),
        };
        let object = |value: Option<Value>| match value {
            Some(Value::Object(object)) => Some(object),
            _ => None,
        };
        let (before, after) = (object(before), object(value));
        match key {
            Key::Object(key) if before.is_some() || after.is_some() => Some(Change { key, before, after }),
            _ => None,
        }
    }
}
