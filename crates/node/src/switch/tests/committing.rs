//! Bundles on their way to the switch.

use std::collections::VecDeque;

use openflow::{ErrorMessage, FlowKey, FlowMod, Instructions, Match};
use tokio::task::JoinHandle;

use super::super::{BUNDLES_AT_ONCE, Changes, Command, CommitError, Failure, SLICE_MAX, Switch};
use super::by_hand::ByHand;

const BUNDLES: usize = 5;

/// Flows that fill so many bundles.
fn flows(bundles: usize) -> Vec<FlowMod> {
    (0..(bundles * SLICE_MAX) as u16).map(|priority| FlowMod::add(0, priority, Match::any(), Instructions::drop(), 0)).collect()
}

/// The bundles that are on their way.
struct UnderWay(ByHand, VecDeque<Command>);

impl UnderWay {
    fn of(flows: Vec<FlowMod>) -> (UnderWay, JoinHandle<Result<(), CommitError>>) {
        let (switch, by_hand) = Switch::by_hand();
        let committing = tokio::spawn(async move { switch.commit(Changes { groups: Vec::new(), flows }).await });
        (UnderWay(by_hand, VecDeque::new()), committing)
    }

    /// How many there are when no more comes.
    async fn count(&mut self) -> usize {
        for _ in 0..100 {
            tokio::task::yield_now().await;
            self.1.extend(self.0.0.try_recv());
        }
        self.1.len()
    }

    /// The first of them is answered.
    fn answer(&mut self, is_taken: bool) {
        let Some(Command::Bundle { mut messages, reply }) = self.1.pop_front() else { panic!("a bundle is on its way") };
        let refusal = || ErrorMessage { kind: 4, code: 9, vendor: None, data: vec![] }.into();
        let failures = vec![Failure { message: messages.remove(0), error: refusal() }];
        let answer = if is_taken { Ok(()) } else { Err(CommitError::Refused { failures }) };
        assert!(reply.send(answer).is_ok(), "it is waited for");
    }
}

#[tokio::test]
async fn so_many_bundles_are_on_their_way_at_once() {
    let (mut under_way, committing) = UnderWay::of(flows(BUNDLES));
    for left in (1..=BUNDLES).rev() {
        assert_eq!(under_way.count().await, left.min(BUNDLES_AT_ONCE));
        under_way.answer(true);
    }
    committing.await.unwrap().unwrap();
}

#[tokio::test]
async fn behind_one_that_is_refused_no_more_are_sent() {
    let (mut under_way, committing) = UnderWay::of(flows(BUNDLES));
    assert_eq!(under_way.count().await, BUNDLES_AT_ONCE);
    under_way.answer(false);
    for left in (1..BUNDLES_AT_ONCE).rev() {
        assert_eq!(under_way.count().await, left);
        under_way.answer(true);
    }
    let Err(CommitError::Refused { failures }) = committing.await.unwrap() else { panic!("something was refused") };
    assert_eq!(failures.len(), 1);
}

#[tokio::test]
async fn what_takes_something_away_waits_for_all_before_it() {
    let gone = FlowMod::delete(FlowKey { table: 0, priority: u16::MAX, matching: Match::any() });
    let (mut under_way, committing) = UnderWay::of([flows(1), vec![gone; 2 * SLICE_MAX]].concat());
    for bundle in 0..3 {
        assert_eq!(under_way.count().await, 1, "bundle {bundle} is alone");
        under_way.answer(true);
    }
    committing.await.unwrap().unwrap();
}
