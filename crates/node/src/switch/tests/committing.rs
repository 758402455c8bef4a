//! Bundles on their way to the switch.

use std::collections::VecDeque;

use openflow::{ErrorMessage, FlowMod, Instructions, Match};

use super::super::{BUNDLES_AT_ONCE, Changes, Command, CommitError, Failure, SLICE_MAX, Switch};
use super::by_hand::ByHand;

#[tokio::test]
async fn so_many_bundles_are_on_their_way_at_once_and_all_that_is_refused_is_told_in_the_end() {
    const BUNDLES: usize = 5;
    let (switch, ByHand(mut commanded)) = Switch::by_hand();
    let flow = |priority| FlowMod::add(0, priority, Match::any(), Instructions::drop(), 0);
    let flows = (0..(BUNDLES * SLICE_MAX) as u16).map(flow).collect();
    let committing = tokio::spawn(async move { switch.commit(Changes { groups: Vec::new(), flows }).await });
    let mut under_way = VecDeque::new();
    for number in 0..BUNDLES + BUNDLES_AT_ONCE {
        if number < BUNDLES {
            under_way.push_back(commanded.recv().await.expect("another bundle"));
        }
        tokio::task::yield_now().await;
        assert!(under_way.len() < BUNDLES_AT_ONCE || commanded.try_recv().is_err(), "no more than that");
        if number + 1 >= BUNDLES_AT_ONCE
            && let Some(Command::Bundle { mut messages, reply }) = under_way.pop_front()
        {
            let error = ErrorMessage { kind: 4, code: 9, vendor: None, data: vec![] };
            let failures = vec![Failure { message: messages.remove(0), error: error.into() }];
            reply.send(Err(CommitError::Refused { failures })).expect("it is waited for");
        }
    }
    let Err(CommitError::Refused { failures }) = committing.await.unwrap() else { panic!("something was refused") };
    assert_eq!(failures.len(), BUNDLES);
}
