//! A store in memory that fails when it is told to, with nothing written, as the contract of [`Store`] says.

use std::sync::Mutex;

use model::Revision;
use store::{ChangesError, Commit, Key, Memory, Snapshot, Store, StoreError, TransactError, Transaction};

/// How the next transaction fails.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Conflict,
    Full,
    Failed,
}

#[derive(Default)]
pub struct Faulty {
    memory: Memory,
    next: Mutex<Option<Fault>>,
}

impl Faulty {
    pub fn fail_next(&self, fault: Option<Fault>) {
        *self.next.lock().unwrap() = fault;
    }
}

impl Store for Faulty {
    fn load(&self) -> Result<Snapshot, StoreError> {
        self.memory.load()
    }

    fn changes(&self, from: Revision) -> Result<Vec<Commit>, ChangesError> {
        self.memory.changes(from)
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        match self.next.lock().unwrap().take() {
            Some(Fault::Conflict) => Err(TransactError::Conflict { key: Key::Record("keys".into()) }),
            Some(Fault::Full) => Err(TransactError::Full),
            Some(Fault::Failed) => Err(StoreError::Failed { doing: "writing", source: "the simulation says so".into() }.into()),
            None => self.memory.transact(transaction),
        }
    }
}
