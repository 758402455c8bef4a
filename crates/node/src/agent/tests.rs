//! The agent between a view and a switch that a test answers.

use std::sync::Mutex;

use apps::testing::{network, port, subnet};
use model::{Object, Port};
use openflow::{FlowCommand, FlowKey, FlowMod, Message};
use tokio::time::Instant;

use super::*;
use crate::connections::mailbox;
use crate::pauses::tests::assert_pauses;
use crate::switch::tests::by_hand::ByHand;
use crate::switch::{Failure, SwitchError};

/// What feeds an agent, and what it publishes.
struct Hands {
    view: mpsc::Sender<ViewUpdate>,
    _interfaces: watch::Sender<Option<Arc<Interfaces>>>,
    news: mpsc::Sender<SwitchNews>,
    asks: mpsc::Sender<Ask>,
    in_force: watch::Receiver<Arc<InForce>>,
    _folder: tempfile::TempDir,
}

fn agent() -> (Agent, Feeds, Hands, ByHand) {
    let folder = tempfile::tempdir().unwrap();
    let (switch, by_hand) = Switch::by_hand();
    let (in_force, in_force_seen) = watch::channel(Arc::default());
    let published = Published {
        local: watch::channel(Arc::default()).0,
        in_force,
        facts: watch::channel(None).0,
        affected: mailbox().0,
        half: watch::channel(None).0,
    };
    let agent = Agent::new(NodeName("n1".into()), Vec::new(), folder.path(), switch, Fingerprint::of_pipeline(), published).unwrap();
    let (view, view_fed) = mpsc::channel(4 * BATCH_MAX);
    let (interfaces, interfaces_fed) = watch::channel(Some(Arc::default()));
    let (news, news_fed) = mpsc::channel(1);
    let (asks, asks_fed) = mpsc::channel(1);
    let feeds = Feeds { view: view_fed, interfaces: interfaces_fed, switch: news_fed, asks: asks_fed };
    (agent, feeds, Hands { view, _interfaces: interfaces, news, asks, in_force: in_force_seen, _folder: folder }, by_hand)
}

/// An agent that knows all that it needs, and whose switch says to every bundle what `take` says.
async fn busy(take: impl FnMut(&[Message]) -> Result<(), CommitError> + Send + 'static) -> Hands {
    let (agent, feeds, hands, by_hand) = agent();
    tokio::spawn(agent.run(feeds));
    tokio::spawn(by_hand.serve(take));
    let objects = [Object::from(network("net", 7)), subnet("sub", "net", "10.0.0.0/24").into()];
    let web = Port { host: Some(NodeName("n1".into())), ..port("web", 4, "net", &[("sub", "10.0.0.9")]) };
    let upserts = objects.into_iter().chain([web.into()]).map(Arc::new).collect();
    hands.view.send(ViewUpdate { upserts, removals: Vec::new(), revision: Revision(1), is_complete_snapshot: true }).await.unwrap();
    hands.asks.send(Ask::Tunnel(OfPort(1))).await.unwrap();
    hands.news.send(SwitchNews::Connected).await.unwrap();
    hands
}

#[tokio::test(start_paused = true)]
async fn what_the_switch_does_not_take_is_tried_again_ever_more_seldom() {
    let (tried, mut tries) = mpsc::channel(16);
    let _hands = busy(move |_| {
        tried.try_send(Instant::now()).unwrap();
        Err(SwitchError::TimedOut.into())
    })
    .await;
    let mut seen = Vec::new();
    for _ in 0..10 {
        seen.push(tries.recv().await.unwrap());
    }
    assert_pauses(&seen, RETRY_FIRST, RETRY_CEILING);
}

fn added(messages: &[Message]) -> impl Iterator<Item = &FlowMod> {
    messages.iter().filter_map(|message| match message {
        Message::FlowMod(flow) if flow.command == FlowCommand::Add => Some(flow),
        _ => None,
    })
}

#[tokio::test(start_paused = true)]
async fn what_the_switch_refused_is_tried_again_now_and_then() {
    let (tried, mut tries) = mpsc::channel(16);
    let bad: Mutex<Option<FlowKey>> = Mutex::default();
    let mut hands = busy(move |messages| {
        let mut bad = bad.lock().unwrap();
        let Some(first) = added(messages).next() else { return Ok(()) };
        let bad = bad.get_or_insert_with(|| first.key());
        let Some(flow) = added(messages).find(|flow| flow.key() == *bad) else { return Ok(()) };
        tried.try_send(Instant::now()).unwrap();
        let error = openflow::EncodeError::TooLong { what: "a flow", length: usize::MAX }.into();
        Err(CommitError::Refused { failures: vec![Failure { message: Message::FlowMod(flow.clone()), error }] })
    })
    .await;
    let mut seen = vec![tries.recv().await.unwrap()];
    for _ in 0..3 {
        // Everything else is in force meanwhile.
        let in_force = hands.in_force.wait_for(|now| now.is_complete).await.unwrap().clone();
        assert_eq!(in_force.refused, 1);
        seen.push(tries.recv().await.unwrap());
    }
    let rests: Vec<u64> = seen.windows(2).map(|two| (two[1] - two[0]).as_secs()).collect();
    assert_eq!(rests, [REFUSED_AGAIN.as_secs(); 3]);
}

/// Traffic may go on as it was, and nobody changes that: whoever looks at what should be must hear so.
#[tokio::test(start_paused = true)]
async fn what_should_be_is_in_force_while_the_switch_is_there() {
    let mut hands = busy(|_| Ok(())).await;
    let ask = async |hands: &Hands| {
        let ((flows, told), (counts, counted)) = (oneshot::channel(), oneshot::channel());
        hands.asks.send(Ask::Flows(flows)).await.unwrap();
        hands.asks.send(Ask::Counts(counts)).await.unwrap();
        let (told, counted) = (told.await.unwrap(), counted.await.unwrap());
        assert!(!told.flows.is_empty());
        assert_eq!(told.is_in_force, counted.is_in_force);
        told.is_in_force
    };
    hands.in_force.wait_for(|now| now.is_complete).await.unwrap();
    assert!(ask(&hands).await);
    hands.news.send(SwitchNews::Disconnected).await.unwrap();
    tokio::time::sleep(REFUSED_AGAIN).await;
    assert!(!ask(&hands).await, "ovs-vswitchd is away");
    hands.news.send(SwitchNews::Connected).await.unwrap();
    tokio::time::sleep(RETRY_CEILING).await;
    assert!(ask(&hands).await, "it is back, and compared");
}

#[tokio::test]
async fn so_many_changes_of_the_view_are_taken_together() {
    let (mut agent, mut feeds, hands, _switch) = agent();
    for revision in 1..=BATCH_MAX as u64 + 2 {
        hands.view.send(ViewUpdate { revision: Revision(revision), ..ViewUpdate::default() }).await.unwrap();
    }
    let first = feeds.view.recv().await.unwrap();
    agent.see_view(first, &mut feeds.view);
    assert_eq!((agent.revision, feeds.view.len()), (Revision(BATCH_MAX as u64), 2));
}
