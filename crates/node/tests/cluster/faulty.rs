//! A store in memory that fails when it is told to, as the contract of [`Store`] says: with nothing written, or with an answer that is
//! lost; and which another server writes, too.

use std::sync::Mutex;

use model::Revision;
use store::{ChangesError, Commit, Memory, Op, Snapshot, Store, StoreError, TransactError, Transaction, Updates, Wake};

/// How the next transaction fails.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Another server is faster.
    Conflict,
    Full,
    Failed,
    /// The answer is lost.
    Unknown {
        is_written: bool,
    },
}

impl Fault {
    pub const ALL: [Fault; 5] =
        [Fault::Conflict, Fault::Full, Fault::Failed, Fault::Unknown { is_written: true }, Fault::Unknown { is_written: false }];
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

    /// Another server's transaction: a revision more, and everything as it was.
    fn write_elsewhere(&self) -> Result<(), TransactError> {
        let Snapshot { revision, objects, .. } = self.memory.load()?;
        let ops = objects.into_iter().take(1).map(Op::Put).collect();
        self.memory.transact(&Transaction { base: revision, ops }).map(drop)
    }
}

impl Store for Faulty {
    fn load(&self) -> Result<Snapshot, StoreError> {
        self.memory.load()
    }

    fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        self.memory.changes(from, most)
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        match self.next.lock().unwrap().take() {
            Some(Fault::Conflict) => {
                self.write_elsewhere()?;
                self.memory.transact(transaction)
            }
            Some(Fault::Full) => Err(TransactError::Full),
            Some(Fault::Failed) => Err(StoreError::Failed { doing: "writing", source: "the simulation says so".into() }.into()),
            Some(Fault::Unknown { is_written }) => {
                if is_written {
                    self.memory.transact(transaction)?;
                }
                Err(TransactError::Unknown("the simulation says so".into()))
            }
            None => self.memory.transact(transaction),
        }
    }

    fn updates(&self, from: Revision, until: Revision) -> Result<Updates, StoreError> {
        self.memory.updates(from, until)
    }

    fn on_update(&self, wake: Wake) {
        self.memory.on_update(wake);
    }
}
