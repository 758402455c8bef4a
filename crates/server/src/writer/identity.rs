//! Which store this is.
//!
//! A store that has no identity gets one before anything is said to a node: a random number in a record of its own, which copies
//! and backups of the store have too. Nodes keep it beside their view and take nothing from another store. Where several servers
//! start on one new store, the first makes it and the others find it. No server serves a store without one.

use model::StoreId;
use store::{DecodeError, Op, Snapshot, Store, StoreError, TransactError, Transaction};
use uuid::Uuid;

/// The name of the record.
pub(super) const RECORD: &str = "store-id";
/// How often others may have written between our look and our write.
const TRIES_MAX: u32 = 100;

/// What `store` holds, and which store it is.
pub(super) fn load(store: &dyn Store) -> Result<(Snapshot, StoreId), StoreError> {
    for _ in 0..TRIES_MAX {
        let snapshot = store.load()?;
        if let Some(id) = of(&snapshot)? {
            return Ok((snapshot, id));
        }
        let id = StoreId(Uuid::new_v4());
        let ops = vec![Op::PutRecord(RECORD.into(), store::encode_record(&id))];
        match store.transact(&Transaction { base: snapshot.revision, ops }) {
            Ok(_) => tracing::info!("the store had no identity: it is store {id} from now on"),
            // Somebody else has written, perhaps that.
            Err(TransactError::Conflict { .. } | TransactError::Unknown(_)) => {}
            // Mostly it is a new store on a disk that is not the store's: nobody could tell nodes that it is another one.
            Err(TransactError::Full) => return Err(failed("its disk is full")),
            Err(TransactError::Store(error)) => return Err(error),
        }
    }
    Err(failed("others write without a pause"))
}

/// Which store a snapshot is of; None: it has no identity yet.
pub(super) fn of(snapshot: &Snapshot) -> Result<Option<StoreId>, DecodeError> {
    let record = snapshot.records.iter().find(|(name, _)| name == RECORD);
    record.map(|(name, bytes)| store::decode_record(name, bytes)).transpose()
}

fn failed(why: &str) -> StoreError {
    StoreError::Failed { doing: "giving itself an identity", source: why.into() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use model::Revision;
    use store::{ChangesError, Commit};

    use super::*;

    /// A store on which others always write first.
    #[derive(Default)]
    struct Busy(AtomicU32);

    impl Store for Busy {
        fn load(&self) -> Result<Snapshot, StoreError> {
            Ok(Snapshot::default())
        }

        fn changes(&self, _: Revision, _: usize) -> Result<Vec<Commit>, ChangesError> {
            Ok(Vec::new())
        }

        fn transact(&self, _: &Transaction) -> Result<Revision, TransactError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Err(TransactError::Conflict { latest: Revision(1) })
        }
    }

    #[test]
    fn a_store_on_which_others_write_without_a_pause_is_given_up() {
        let busy = Busy::default();
        let error = load(&busy).unwrap_err();
        assert_eq!(busy.0.load(Ordering::SeqCst), TRIES_MAX, "{error}");
    }
}
