//! A transaction as a closure sees it.

use std::sync::Arc;

use imbl::OrdSet;
use jiff::{Timestamp, Unit};
use model::{Kind, Object, ObjectKey, Revision};
use store::{Change, Commit, DecodeError, Op, Snapshot, Update};

use crate::ipam::{self, Spaces};
use crate::keys::{self, LastKeys};
use crate::state::State;
use crate::writer::identity;

/// A picture under work: the state, the allocators' records, and which objects were touched since the last commit. Cheap
/// to clone, so that a failed closure is undone by forgetting.
#[derive(Clone, Default)]
pub(crate) struct Work {
    state: State,
    keys: LastKeys,
    spaces: Spaces,
    touched: OrdSet<ObjectKey>,
}

impl Work {
    pub(super) fn load(snapshot: Snapshot) -> Result<Work, DecodeError> {
        let mut work = Work { state: State::new(snapshot.revision, snapshot.objects), ..Work::default() };
        for (name, bytes) in &snapshot.records {
            work.load_record(name, Some(bytes))?;
        }
        Ok(work)
    }

    /// The record as it is stored now; None: it is not stored any more.
    fn load_record(&mut self, name: &str, bytes: Option<&[u8]>) -> Result<(), DecodeError> {
        if name == identity::RECORD {
            // Read when the server starts, and the same for ever.
            return Ok(());
        }
        if name == keys::RECORD {
            self.keys = bytes.map_or_else(|| Ok(LastKeys::default()), |bytes| store::decode_record(name, bytes))?;
            return Ok(());
        }
        self.spaces.load(name, bytes)?.then_some(()).ok_or_else(|| DecodeError::Key(name.to_string()))
    }

    /// What another server has committed: its records say what its allocators did.
    pub(super) fn take_in(&mut self, update: Update) -> Result<Commit, DecodeError> {
        let mut changes = Vec::new();
        for op in update.ops {
            match op {
                Op::Put(object) => changes.push(self.change_to(object.key(), Some(object))),
                Op::Delete(key) => changes.push(self.change_to(key, None)),
                Op::PutRecord(name, bytes) => self.load_record(&name, Some(&bytes))?,
                Op::DeleteRecord(name) => self.load_record(&name, None)?,
            }
        }
        changes.retain(|change| change.before != change.after);
        let commit = Commit { revision: update.revision, changes: changes.into() };
        self.state.apply(&commit);
        self.committed(update.revision);
        Ok(commit)
    }

    fn change_to(&self, key: ObjectKey, after: Option<Arc<Object>>) -> Change {
        Change { key, before: self.state.object(key).cloned(), after }
    }

    /// All that is different in `newer`, as one commit.
    pub(super) fn commit_to(&self, newer: &Work) -> Commit {
        let gone = self.state.objects().filter(|object| newer.state.object(object.key()).is_none()).map(|object| (object.key(), None));
        let there = newer.state.objects().map(|object| (object.key(), Some(object.clone())));
        let changes = gone.chain(there).map(|(key, after)| self.change_to(key, after));
        Commit { revision: newer.state.revision(), changes: changes.filter(|change| change.before != change.after).collect() }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn committed(&mut self, revision: Revision) {
        self.state.set_revision(revision);
        self.touched = OrdSet::new();
        self.spaces.committed();
    }

    /// What is different from `durable`: as changes to tell and as operations to store.
    pub(super) fn changes_since(&self, durable: &Work) -> (Vec<Change>, Vec<Op>) {
        let changes: Vec<Change> = self.touched.iter().filter_map(|key| self.change_since(durable, *key)).collect();
        let mut ops: Vec<Op> = changes.iter().map(op).collect();
        if self.keys != durable.keys {
            ops.push(Op::PutRecord(keys::RECORD.into(), store::encode_record(&self.keys)));
        }
        ops.extend(self.spaces.ops_since(&durable.spaces));
        (changes, ops)
    }

    fn change_since(&self, durable: &Work, key: ObjectKey) -> Option<Change> {
        let (before, after) = (durable.state.object(key).cloned(), self.state.object(key).cloned());
        (before != after).then_some(Change { key, before, after })
    }
}

fn op(change: &Change) -> Op {
    match &change.after {
        Some(object) => Op::Put(object.clone()),
        None => Op::Delete(change.key),
    }
}

/// One transaction: reads see its own writes.
pub struct Tx<'a> {
    work: &'a mut Work,
    now: Timestamp,
}

impl<'a> Tx<'a> {
    pub(super) fn new(work: &'a mut Work, now: Timestamp) -> Tx<'a> {
        Tx { work, now }
    }

    /// Everything, with what this transaction and those before it in the batch have done.
    pub fn state(&self) -> &State {
        &self.work.state
    }

    /// When the transaction runs.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// [`Tx::now`] as objects keep it: `2026-01-31T12:00:00Z`.
    pub fn now_text(&self) -> String {
        self.now.round(Unit::Second).unwrap_or(self.now).to_string()
    }

    /// Puts an object in, in place of the one with its key. A port's addresses are taken and freed with it; its `block` is
    /// unset when the port does not follow from it (any more).
    pub fn put(&mut self, object: impl Into<Object>) {
        let object = match object.into() {
            Object::Port(port) => ipam::settled(self.state(), *port).into(),
            other => other,
        };
        self.change(object.key(), Some(Arc::new(object)));
    }

    /// Takes an object away; none with this key is no error. A port's addresses are freed with it, and with a subnet the
    /// blocks in it.
    pub fn delete(&mut self, key: ObjectKey) {
        if let Some(Object::Subnet(subnet)) = self.state().object(key).map(|object| (**object).clone()) {
            let (gone, changed) = ipam::without_subnet(self.state(), &subnet);
            gone.into_iter().for_each(|block| self.change(ObjectKey::new(Kind::Block, block.id), None));
            changed.into_iter().for_each(|block| self.put(block));
        }
        self.change(key, None);
    }

    fn change(&mut self, key: ObjectKey, after: Option<Arc<Object>>) {
        let before = self.state().object(key).cloned();
        ipam::changed(&self.work.state, &mut self.work.spaces, self.now, before.as_deref(), after.as_deref());
        self.work.touched.insert(key);
        match after {
            Some(object) => self.work.state.put(object),
            None => self.work.state.remove(key),
        };
    }

    pub(crate) fn spaces(&self) -> &Spaces {
        &self.work.spaces
    }

    pub(crate) fn spaces_mut(&mut self) -> &mut Spaces {
        &mut self.work.spaces
    }

    pub(crate) fn keys_and_state(&mut self) -> (&mut LastKeys, &State) {
        (&mut self.work.keys, &self.work.state)
    }
}
