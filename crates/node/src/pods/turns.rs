//! One at a time per interface: whoever plugs, unplugs or clears away an interface of the host waits for its turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// The turns of all interfaces; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>);

impl Turns {
    /// Waits for the turn at `interface`; it lasts until the guard is dropped.
    pub async fn take(&self, interface: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody has or waits for a turn that only the table knows of.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(interface.to_string()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_wait_for_each_other_only_at_one_interface() {
        let turns = Turns::default();
        let first = turns.take("lad1").await;
        let _other = turns.take("lad2").await;
        let mut second = spawn_taker(turns.clone());
        assert!(second.try_recv().is_err(), "it waits");
        drop(first);
        second.recv().await.unwrap();
    }

    /// Takes the turn at `lad1` in a task of its own, and says so.
    fn spawn_taker(turns: Turns) -> tokio::sync::mpsc::Receiver<()> {
        let (said, hears) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let _turn = turns.take("lad1").await;
            said.send(()).await.unwrap();
        });
        hears
    }

    #[tokio::test]
    async fn turns_that_are_over_are_forgotten() {
        let turns = Turns::default();
        for n in 0..100 {
            drop(turns.take(&format!("lad{n}")).await);
        }
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
