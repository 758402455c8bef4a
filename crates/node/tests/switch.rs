//! The OpenFlow link against a real Open vSwitch.

#[path = "../../openflow/tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::DummyOvs;
use node::switch::{Changes, CommitError, EVENTS_MAX, Event, Options, Switch, SwitchError};
use openflow::*;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(120);

/// The next event that `pick` takes; others are passed over.
async fn event<T>(events: &mut Receiver<Event>, what: &str, pick: impl Fn(Event) -> Option<T>) -> T {
    let search = async {
        loop {
            let event = events.recv().await.expect("the link goes on");
            if let Some(found) = pick(event) {
                return found;
            }
        }
    };
    timeout(DEADLINE, search).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

async fn connected(events: &mut Receiver<Event>) -> Features {
    event(events, "the connection", |event| match event {
        Event::Connected(features) => Some(features),
        _ => None,
    })
    .await
}

async fn link(ovs: &DummyOvs) -> (Switch, Receiver<Event>) {
    let (switch, mut events) = Switch::start(Options::new(ovs.socket()));
    connected(&mut events).await;
    (switch, events)
}

fn flow(table: u8, priority: u16, actions: impl Into<Vec<Action>>) -> FlowMod {
    FlowMod::add(table, priority, Match::any(), Instructions::apply(actions), 5)
}

fn flows(flows: impl IntoIterator<Item = FlowMod>) -> Changes {
    Changes { flows: flows.into_iter().collect(), groups: vec![] }
}

fn group(id: u32) -> InstalledGroup {
    let bucket = |id| Bucket::new(id, [Action::output(OfPort(1))]).weight(1);
    let buckets = vec![bucket(1), bucket(2)];
    InstalledGroup { id, kind: GroupKind::Select, buckets, selection: Some(SelectionMethod::dp_hash()) }
}

#[tokio::test]
async fn what_was_committed_is_dumped() {
    let ovs = DummyOvs::start();
    let (switch, _events) = link(&ovs).await;
    let wanted: Vec<_> = (1..1300).map(|priority| flow(3, priority, [Action::Group(7)])).collect();
    let changes = Changes { flows: wanted.clone(), groups: vec![GroupMod::add(group(7))] };
    switch.commit(changes).await.unwrap();
    let installed = switch.dump_flows().await.unwrap();
    assert_eq!(installed.len(), wanted.len());
    assert!(installed.iter().all(|flow| flow.is(&wanted[usize::from(flow.priority) - 1])));
    assert_eq!(switch.dump_groups().await.unwrap(), [group(7)]);
    // Deleting the group takes its flows along, and the flow that no longer uses it stays.
    let changes = Changes { flows: vec![flow(3, 1, [])], groups: vec![GroupMod::delete(7)] };
    switch.commit(changes).await.unwrap();
    assert_eq!(switch.dump_flows().await.unwrap().len(), 1);
}

#[tokio::test]
async fn many_flows_are_read_in_parts_and_each_of_them_once() {
    let ovs = DummyOvs::start();
    let (switch, _events) = link(&ovs).await;
    let cookie = |number: u16| u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8 | 1;
    let one = |table, number| FlowMod::add(table, number, Match::any(), Instructions::default(), cookie(number));
    let wanted: Vec<_> = (1..=5_000).map(|number| one(7, number)).chain((1..=300).map(|number| one(9, number))).collect();
    switch.commit(flows(wanted.clone())).await.unwrap();
    let mut installed: Vec<_> = switch.dump_flows().await.unwrap().iter().map(|flow| (flow.table, flow.priority)).collect();
    installed.sort_unstable();
    assert!(installed.iter().copied().eq(wanted.iter().map(|flow| (flow.table, flow.priority))), "{} flows", installed.len());
}

/// One flow that no message holds must not keep a node from ever being programmed again.
#[tokio::test]
async fn a_message_that_is_too_long_is_refused_like_any_other() {
    let ovs = DummyOvs::start();
    let (switch, _events) = link(&ovs).await;
    let clauses: Vec<Action> = (0..5_000).map(|id| Action::Conjunction { id, clause: 0, clauses: 2 }).collect();
    let long = flow(5, 77, clauses);
    let result = switch.commit(flows([flow(5, 1, []), long.clone()])).await;
    let Err(CommitError::Refused { failures }) = result else { panic!("{result:?}") };
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].message, Message::FlowMod(long));
    assert!(failures[0].error.to_string().contains("more than the 65535"), "{}", failures[0].error);
    switch.commit(flows([flow(5, 1, [])])).await.unwrap();
    assert_eq!(switch.dump_flows().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_refused_message_is_named_and_is_not_in_force() {
    let ovs = DummyOvs::start();
    let (switch, _events) = link(&ovs).await;
    // A flow cannot go up in the tables.
    let bad = FlowMod::add(5, 77, Match::any(), Instructions::drop().goto(2), 0);
    let result = switch.commit(flows([flow(5, 1, []), bad.clone(), flow(5, 2, [])])).await;
    let Err(CommitError::Refused { failures }) = result else { panic!("{result:?}") };
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].message, Message::FlowMod(bad));
    assert_eq!(failures[0].error.to_string(), "OFPBIC_BAD_TABLE_ID");
    let priorities = async || switch.dump_flows().await.unwrap().iter().map(|flow| flow.priority).collect::<BTreeSet<_>>();
    assert_eq!(priorities().await, BTreeSet::from([1, 2]), "the others are");
    // What only fails at the commit is named as well, and takes the others along.
    let missing = flow(5, 3, [Action::Group(99)]);
    let result = switch.commit(flows([flow(5, 4, []), missing.clone()])).await;
    let Err(CommitError::Refused { failures }) = result else { panic!("{result:?}") };
    assert!(failures.iter().any(|failure| failure.message == Message::FlowMod(missing.clone())), "{failures:?}");
    assert_eq!(priorities().await, BTreeSet::from([1, 2]));
    // The link is as good as before.
    switch.commit(flows([flow(5, 5, [])])).await.unwrap();
    assert_eq!(priorities().await, BTreeSet::from([1, 2, 5]));
}

#[tokio::test]
async fn a_packet_sent_by_a_flow_arrives_with_the_flows_data() {
    let ovs = DummyOvs::start();
    ovs.add_port("p3", 3);
    let (switch, mut events) = link(&ovs).await;
    let to_us = [Action::set(Field::Reg4.is(0x44u32)), Action::controller(b"dhcp".to_vec())];
    switch.commit(flows([flow(9, 1, to_us)])).await.unwrap();
    let mut packet = vec![0x0a; 12];
    packet.extend_from_slice(&[0x88, 0xb5]);
    packet.resize(60, 0x55);
    switch.packet_out(PacketOut::new(OfPort(3), [Action::resubmit(9)], packet.clone())).await.unwrap();
    let packet_in = event(&mut events, "the packet", |event| match event {
        Event::PacketIn(packet) => Some(packet),
        _ => None,
    })
    .await;
    assert_eq!(packet_in.userdata, b"dhcp");
    assert_eq!(packet_in.packet, packet);
    assert_eq!(packet_in.in_port(), Some(OfPort(3)));
    assert_eq!(packet_in.metadata.exact(Field::Reg4), Some(0x44));
    assert_eq!(packet_in.cookie, Some(5));
}

#[tokio::test]
async fn packet_ins_that_nobody_reads_are_dropped_and_other_news_is_not() {
    let ovs = DummyOvs::start();
    ovs.add_port("p3", 3);
    let (switch, mut events) = link(&ovs).await;
    switch.commit(flows([flow(9, 1, [Action::controller(vec![1])])])).await.unwrap();
    let flood = async {
        while switch.packet_ins_dropped() == 0 {
            for _ in 0..100 {
                switch.packet_out(PacketOut::new(OfPort(3), [Action::resubmit(9)], vec![0; 60])).await.unwrap();
            }
            switch.dump_groups().await.unwrap();
        }
    };
    timeout(DEADLINE, flood).await.expect("packets are dropped");
    ovs.ofctl("add-flow", &["table=7,priority=44,actions=drop"]);
    // Requests are answered although nobody reads the events.
    assert!(switch.dump_flows().await.unwrap().iter().any(|flow| flow.priority == 44));
    let mut packets = 0;
    let search = async {
        loop {
            match events.recv().await.unwrap() {
                Event::PacketIn(_) => packets += 1,
                Event::FlowUpdate(_) => break,
                _ => {}
            }
        }
    };
    timeout(DEADLINE, search).await.expect("the flow's news came behind the packets");
    assert!(packets <= EVENTS_MAX);
}

#[tokio::test]
async fn changes_by_others_are_told_and_our_own_are_not() {
    let ovs = DummyOvs::start();
    let (switch, mut events) = link(&ovs).await;
    switch.commit(flows([flow(3, 8, []), flow(3, 9, [])])).await.unwrap();
    ovs.ofctl("del-flows", &["--strict", "table=3,priority=8"]);
    let change = event(&mut events, "news of the flow", |event| match event {
        Event::FlowUpdate(update) => Some(update),
        _ => None,
    })
    .await;
    let FlowUpdate::Changed(change) = *change else { panic!("{change:?}") };
    assert_eq!((change.event, change.table, change.priority), (FlowEvent::Removed, 3, 8));
}

#[tokio::test]
async fn groups_that_others_change_are_told_and_our_own_are_not() {
    let ovs = DummyOvs::start();
    let (switch, mut events) = link(&ovs).await;
    let changes = Changes { flows: vec![], groups: vec![GroupMod::add(group(7)), GroupMod::add(group(8))] };
    switch.commit(changes).await.unwrap();
    ovs.ofctl("mod-group", &["group_id=7,type=select,bucket=drop"]);
    // Of the flow that goes with its group there is news in any case.
    event(&mut events, "news of the group", |event| match event {
        Event::GroupsChanged => Some(()),
        _ => None,
    })
    .await;
    switch.commit(Changes { flows: vec![], groups: vec![GroupMod::modify(group(7))] }).await.unwrap();
    // Answers come in order: what there was to tell has been told.
    switch.dump_groups().await.unwrap();
    assert!(events.try_recv().is_err(), "our own change is no news");
    ovs.ofctl("del-groups", &[]);
    event(&mut events, "news of their end", |event| matches!(event, Event::GroupsChanged).then_some(())).await;
}

#[tokio::test]
async fn a_restarted_switch_is_connected_again_and_configured_again() {
    let mut ovs = DummyOvs::start();
    let (switch, mut events) = link(&ovs).await;
    switch.commit(flows([flow(3, 8, [])])).await.unwrap();
    assert!(ovs.ofctl("show", &[]).contains("frags=nx-match"));
    ovs.restart_switch();
    event(&mut events, "the loss", |event| matches!(event, Event::Disconnected(_)).then_some(())).await;
    connected(&mut events).await;
    assert!(switch.dump_flows().await.unwrap().is_empty());
    assert!(ovs.ofctl("show", &[]).contains("frags=nx-match"));
}

#[tokio::test]
async fn connections_are_flushed_by_zone_and_by_tuple() {
    let ovs = DummyOvs::start();
    let (switch, _events) = link(&ovs).await;
    let original = CtTuple {
        src: Some("10.0.0.1".parse().unwrap()),
        dst: Some("10.0.0.2".parse().unwrap()),
        ports: CtPorts::Ports { src: Some(1000), dst: Some(80) },
    };
    let exact = CtFlush { protocol: 6, zone: Some(5), original, reply: CtTuple::default() };
    let partial = CtTuple { dst: Some("fd00::1".parse().unwrap()), ..CtTuple::default() };
    let replies = CtFlush { protocol: 17, zone: Some(5), original: CtTuple::default(), reply: partial };
    switch.ct_flush_all(vec![exact, replies]).await.unwrap();
    switch.ct_flush_zone(5).await.unwrap();
}

#[tokio::test]
async fn without_a_switch_requests_fail_at_once() {
    let (switch, _events) = Switch::start(Options::new("/nonexistent/br0.mgmt"));
    assert!(matches!(switch.dump_flows().await, Err(SwitchError::NotConnected)));
}
