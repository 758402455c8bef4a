//! What a transaction did, told in objects.

use std::sync::Arc;

use model::{Object, ObjectKey, Revision};

/// One object before and after. `before` is None where it was made, `after` where it was deleted.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    pub key: ObjectKey,
    pub before: Option<Arc<Object>>,
    pub after: Option<Arc<Object>>,
}

/// What one transaction changed. A transaction that touched records alone has no changes but a revision of its own.
#[derive(Clone, PartialEq, Debug)]
pub struct Commit {
    pub revision: Revision,
    pub changes: Arc<[Change]>,
}
