//! A queue of one: what is put in while the reader is busy merges with what waits.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::Affected;

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Affected>,
    news: Notify,
}

/// Where the agent puts what a change affects.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Shared>);

/// Where the task takes it.
#[derive(Debug)]
pub struct Mailbox(Arc<Shared>);

/// Two ends of a new queue.
pub fn mailbox() -> (Outbox, Mailbox) {
    let shared = Arc::new(Shared::default());
    (Outbox(shared.clone()), Mailbox(shared))
}

impl Outbox {
    /// Never waits: a node has a bounded number of ports, and each waits at most once.
    pub fn put(&self, affected: Affected) {
        if affected.is_empty() {
            return;
        }
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).merge(affected);
        self.0.news.notify_one();
    }
}

impl Mailbox {
    /// What waits; empty if nothing does.
    pub fn take(&self) -> Affected {
        std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns when something was put in since the last time.
    pub async fn filled(&self) {
        self.0.news.notified().await;
    }
}
