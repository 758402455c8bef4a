//! Groups that somebody else changes on a real Open vSwitch, which tells nobody.

#[path = "../../openflow/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use apps::Change;
use apps::testing::*;
use common::{DummyOvs, wait_for};
use model::*;
use node::agent::{Agent, Ask, Feeds, Published, SwitchNews};
use node::bridge::{Interface, Interfaces};
use node::connections::mailbox;
use node::switch::{Event, Options, Switch};
use node::view::ViewUpdate;
use pipeline::{Fingerprint, OfPort};
use tokio::sync::{mpsc, watch};

/// A port here, and a load balancer with two members.
fn view() -> ViewUpdate {
    let balancer_port = vip("vip", 50, "net", &[("net4", "10.0.0.50")]);
    let own = Port { host: Some(NodeName("n1".into())), ..port("own", 4, "net", &[("net4", "10.0.0.4")]) };
    let changes = [
        put(node("n1", "192.0.2.1")),
        put(network("net", 7)),
        put(subnet("net4", "net", "10.0.0.0/24")),
        put(own),
        put(balancer("lb", &balancer_port)),
        put(balancer_port),
        put(listener("l", 3, "lb", ListenerProtocol::Tcp, 80, "pool")),
        put(pool("pool", "lb", ListenerProtocol::Tcp)),
        put(member("m1", "pool", "10.0.0.2", 80, 1)),
        put(member("m2", "pool", "10.0.0.3", 80, 1)),
    ];
    let object = |change| match change {
        Change::Put(object) => object,
        other => panic!("{other:?}"),
    };
    let upserts = changes.into_iter().map(object).collect();
    ViewUpdate { upserts, removals: vec![], revision: Revision(1), is_complete_snapshot: true }
}

fn plugged() -> Interfaces {
    let interface = Interface {
        name: "own".into(),
        uuid: uuid::Uuid::from_u128(1),
        kind: String::new(),
        ofport: Some(OfPort(11)),
        error: None,
        iface_id: Some(id("own").to_string()),
        mac_in_use: None,
        external_ids: BTreeMap::new(),
        options: BTreeMap::new(),
    };
    Interfaces::unit("own".into(), interface)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_others_change_are_put_right() {
    let (ovs, state) = (DummyOvs::start(), tempfile::tempdir().unwrap());
    let (switch, mut events) = Switch::start(Options::new(ovs.socket()));
    let (in_force, mut in_force_seen) = watch::channel(Arc::default());
    let (affected, _mailbox) = mailbox();
    let (local, facts, half) = (watch::channel(Arc::default()).0, watch::channel(None).0, watch::channel(None).0);
    let published = Published { local, in_force, facts, affected, half };
    let (views, view_updates) = mpsc::channel(4);
    let (_interfaces, interfaces) = watch::channel(Some(Arc::new(plugged())));
    let (news, switch_news) = mpsc::channel(64);
    let (asks, asked) = mpsc::channel(4);
    let addresses = vec!["192.0.2.1".parse().unwrap()];
    let agent = Agent::new(NodeName("n1".into()), addresses, state.path(), switch, Fingerprint::of_pipeline(), published).unwrap();
    views.send(view()).await.unwrap();
    asks.send(Ask::Tunnel(Some(OfPort(1000)))).await.unwrap();
    tokio::spawn(agent.run(Feeds { view: view_updates, interfaces, switch: switch_news, asks: asked }));
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let told = match event {
                Event::Connected(_) => SwitchNews::Connected,
                Event::Disconnected(_) => SwitchNews::Disconnected,
                Event::FlowUpdate(_) => SwitchNews::Disturbed,
                // What is heard of groups is kept from the agent: it looks by itself, too.
                Event::PacketIn(_) | Event::GroupsChanged => continue,
            };
            news.send(told).await.unwrap();
        }
    });
    in_force_seen.wait_for(|now| now.is_complete).await.unwrap();
    let mut client = ovs.connect();
    let right = client.groups();
    assert!(right.iter().any(|group| group.buckets.len() > 1), "there is a choice between members: {right:?}");
    let group = right.iter().find(|group| group.buckets.len() > 1).map(|group| group.id).unwrap();
    ovs.ofctl("mod-group", &[&format!("group_id={group},type=select,bucket=bucket_id=1,actions=drop")]);
    assert_ne!(client.groups(), right);
    wait_for("the groups as they were", || client.groups() == right);
}
