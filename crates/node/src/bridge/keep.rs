//! Keeps the integration bridge and its tunnel as they should be, whoever changes them.
//!
//! Whenever something of a bridge or an interface is different in the database, and whenever the database itself is new, what
//! should be is asked for again, which costs no transaction where it is so. A bridge or tunnel that was taken away is made
//! again, and columns that somebody changed are put right. Changes come in flocks, and another writer may insist: so there is
//! a pause before looking again. What Open vSwitch refuses (a tunnel without the kernel's module) is tried ever more seldom, and as
//! soon as something changes.

use std::time::Duration;

use stream::describe;
use tokio::sync::mpsc;

use super::error::BridgeError;
use super::interfaces::OfPort;
use super::link::Link;
use super::spec::{BridgeSpec, PortSpec};
use crate::pauses::Pauses;

/// How long Open vSwitch is waited for after the first try that failed, at least; doubled by every further one, unless something
/// changes meanwhile.
const RETRY: Duration = Duration::from_millis(500);
/// The longest pause between two tries.
const RETRY_CEILING: Duration = Duration::from_secs(10);
/// How long changes are let come before looking at them.
const PAUSE: Duration = Duration::from_millis(200);

/// What is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    pub bridge: BridgeSpec,
    pub tunnel: PortSpec,
    /// Ports that the bridge must not have.
    pub absent: Vec<String>,
}

/// Runs until nobody wants to hear the tunnel's number, which is told when it is new.
pub async fn keep(link: Link, kept: Kept, told: mpsc::Sender<OfPort>) {
    let (mut connection, mut changes) = (link.connection(), link.changes());
    let (mut number, mut pauses) = (None, Pauses::new(RETRY, RETRY_CEILING));
    loop {
        connection.mark_unchanged();
        changes.mark_unchanged();
        let again = match set_up(&link, &kept).await {
            Ok(now) => {
                if number != Some(now) && told.send(now).await.is_err() {
                    return;
                }
                number = Some(now);
                pauses.start_over();
                None
            }
            Err(error) => {
                let pause = pauses.after_failure();
                tracing::warn!(
                    error = describe(&error),
                    "the bridge is not set up; tried again in {} s, or when it changes",
                    pause.as_secs_f32()
                );
                // What this try changed itself is heard of, too.
                tokio::time::sleep(RETRY).await;
                Some(pause - RETRY)
            }
        };
        let is_over = tokio::select! {
            changed = connection.changed() => changed.is_err(),
            changed = changes.changed() => changed.is_err(),
            () = told.closed() => true,
            () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => continue,
        };
        if is_over {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn set_up(link: &Link, kept: &Kept) -> Result<OfPort, BridgeError> {
    link.ensure_bridge(kept.bridge.clone()).await?;
    for port in &kept.absent {
        link.remove_port(&kept.bridge.name, port).await?;
    }
    link.ensure_port(kept.tunnel.clone()).await
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::tests::by_hand::ByHand;
    use super::*;
    use crate::pauses::tests::assert_pauses;

    /// What is kept by a link that a test answers.
    fn kept() -> (ByHand, mpsc::Receiver<OfPort>) {
        let (link, by_hand) = Link::by_hand();
        let (told, numbers) = mpsc::channel(1);
        let tunnel = PortSpec::new("br-int", "ladon-geneve", "geneve");
        tokio::spawn(keep(link, Kept { bridge: BridgeSpec::new("br-int"), tunnel, absent: Vec::new() }, told));
        (by_hand, numbers)
    }

    #[tokio::test(start_paused = true)]
    async fn what_open_vswitch_refuses_is_tried_ever_more_seldom() {
        let (mut by_hand, mut numbers) = kept();
        let mut tries = Vec::new();
        for _ in 0..8 {
            by_hand.next().await.refuse();
            tries.push(Instant::now());
        }
        assert_pauses(&tries, RETRY, RETRY_CEILING);
        for _ in ["the bridge", "the tunnel"] {
            by_hand.next().await.grant();
        }
        assert!(numbers.recv().await.is_some());
        // From now on it is looked at when something changes, and what fails then is tried again soon.
        by_hand.changes.send_replace(1);
        tries.clear();
        for _ in 0..2 {
            by_hand.next().await.refuse();
            tries.push(Instant::now());
        }
        assert_eq!((tries[1] - tries[0]).as_millis(), RETRY.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_tried_sooner_when_something_changes() {
        let (mut by_hand, _numbers) = kept();
        for _ in 0..8 {
            by_hand.next().await.refuse();
        }
        let failed = Instant::now();
        tokio::time::sleep(RETRY + PAUSE).await;
        assert!(by_hand.try_next().is_none());
        by_hand.changes.send_replace(1);
        by_hand.next().await.refuse();
        assert!(failed.elapsed() >= RETRY + PAUSE * 2 && failed.elapsed() < RETRY_CEILING, "{:?}", failed.elapsed());
    }
}
