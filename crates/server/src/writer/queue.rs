//! What waits for the writer: closures of any type, each with its answer, and the word that others have committed.
//!
//! A closure that panics is told so and harms no other. Deliberately *not* here: how long the queue is and what is taken out of it at once.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use model::Revision;
use tokio::sync::{mpsc, oneshot};

use super::{Tx, WriteError, Written};

/// What the writer is to look at.
pub(super) enum Turn {
    Job(Box<dyn Job>),
    /// Others may have committed.
    News,
}

/// Tells the writer that there is news, once until it has looked. A queue that is full wakes it as well.
pub(super) fn wake(queue: mpsc::WeakSender<Turn>, has_news: Arc<AtomicBool>) -> store::Wake {
    Box::new(move || {
        if !has_news.swap(true, Ordering::SeqCst)
            && let Some(queue) = queue.upgrade()
        {
            drop(queue.try_send(Turn::News));
        }
    })
}

/// A closure with its answer, whatever their types.
pub(super) trait Job: Send {
    /// Runs the closure. False: what it did must be undone.
    fn run(&mut self, tx: &mut Tx) -> bool;
    /// Answers: with the closure's own outcome, or with what befell its batch.
    fn answer(self: Box<Self>, batch: Result<Revision, WriteError>);
}

/// A closure for the queue, and where its answer will be.
pub(super) fn job<T, E, F>(change: F) -> (Box<dyn Job>, oneshot::Receiver<Result<Written<T>, E>>)
where
    F: FnMut(&mut Tx) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<WriteError> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    (Box::new(Closure { change, outcome: None, answer }), answered)
}

struct Closure<F, T, E> {
    change: F,
    outcome: Option<Result<T, E>>,
    answer: oneshot::Sender<Result<Written<T>, E>>,
}

impl<F, T, E> Job for Closure<F, T, E>
where
    F: FnMut(&mut Tx) -> Result<T, E> + Send,
    T: Send,
    E: From<WriteError> + Send,
{
    fn run(&mut self, tx: &mut Tx) -> bool {
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.change)(tx)))
            .unwrap_or_else(|panic| Err(WriteError::Internal(panic_text(&*panic)).into()));
        let is_done = outcome.is_ok();
        self.outcome = Some(outcome);
        is_done
    }

    fn answer(self: Box<Self>, batch: Result<Revision, WriteError>) {
        let result = match (batch, self.outcome) {
            (Ok(revision), Some(Ok(value))) => Ok(Written { value, revision }),
            (Ok(_), Some(Err(error))) => Err(error),
            (Ok(_), None) => Err(WriteError::Stopped.into()),
            (Err(error), _) => Err(error.into()),
        };
        // A caller that went away has no use for the answer.
        let _ = self.answer.send(result);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".into())
}
