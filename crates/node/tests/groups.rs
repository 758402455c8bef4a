//! Groups that somebody else changes on a real Open vSwitch, which tells nobody.

#[path = "../../openflow/tests/common/mod.rs"]
mod common;
mod programmed;

use std::collections::BTreeSet;
use std::sync::Arc;

use apps::testing::*;
use apps::{ALL, Change, Engine, Numbers};
use common::{DummyOvs, wait_for};
use model::*;
use node::agent::pending::Pending;
use node::switch::{Event, Options, Switch};
use node::view::ViewUpdate;
use pipeline::Generation;
use programmed::{Programmed, objects, snapshot};

/// A port here, and a load balancer with as many members.
fn view(members: u32) -> ViewUpdate {
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
    ];
    let members = (0..members).map(one);
    snapshot(objects(changes.into_iter().chain(members)))
}

fn one(n: u32) -> Change {
    put(member(&format!("m{n}"), "pool", &format!("10.0.0.{}", 10 + n), 80, 1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zones_of_ports_that_are_gone_are_given_back_on_the_disk_too() {
    let mut world = Programmed::start(DummyOvs::start(), view(2)).await;
    let zones = world.state.path().join("zones.json");
    let places = || {
        let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&zones).unwrap()).unwrap();
        kept["places"].as_object().unwrap().len()
    };
    assert_eq!(places(), 1);
    world.interfaces.send_replace(Some(Arc::default()));
    world.in_force.wait_for(|now| now.ports.is_empty()).await.unwrap();
    // No flow follows from what only the view says of a port that is not plugged in.
    let gone = ViewUpdate { removals: vec![ObjectKey::new(Kind::Port, id("own"))], revision: Revision(2), ..ViewUpdate::default() };
    world.views.send(gone).await.unwrap();
    world.in_force.wait_for(|now| now.revision == Revision(2)).await.unwrap();
    wait_for("nothing kept of it", || places() == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_others_change_are_put_right() {
    let Programmed { ovs, .. } = &Programmed::start(DummyOvs::start(), view(2)).await;
    let mut client = ovs.connect();
    let right = client.groups();
    assert!(right.iter().any(|group| group.buckets.len() > 1), "there is a choice between members: {right:?}");
    let group = right.iter().find(|group| group.buckets.len() > 1).map(|group| group.id).unwrap();
    // It may be put right before anybody looks.
    wait_for("a look at what others changed", || {
        ovs.ofctl("mod-group", &[&format!("group_id={group},type=select,bucket=bucket_id=1,actions=drop")]);
        client.groups() != right
    });
    wait_for("the groups as they were", || client.groups() == right);
}

/// Open vSwitch 3.1 sends everything to buckets that were inserted into a `dp_hash` group (docs/decisions/0017).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_has_its_share_of_connections_whenever_it_came() {
    let ovs = DummyOvs::start();
    ovs.add_port("client", 11);
    let (switch, mut events) = Switch::start(Options::new(ovs.socket()));
    while !matches!(events.recv().await, Some(Event::Connected(_))) {}
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let (mut engine, mut pending) = (Engine::new(ALL, Numbers::default()), Pending::default());
    for count in [1u32, 2, 3, 6, 5] {
        let goes = (count..6).map(|n| Change::Remove(ObjectKey::new(Kind::Member, id(&format!("m{n}")))));
        let there = view(count).upserts.into_iter().map(Change::Put);
        pending.merge(engine.update([here("n1", "192.0.2.1")].into_iter().chain(there).chain(goes)), Generation::A);
        let job = pending.take(|| unreachable!("nothing is to be compared"));
        switch.commit(job.changes).await.unwrap();
        let group = engine.groups().next().expect("the listener's group");
        let number = Generation::A.group_number(group.id);
        ovs.ofctl("add-flow", &[&format!("table=0,priority=9,in_port=11,actions=group:{number}")]);
        let told = |hash: u32| {
            let packet = format!("in_port=11,tcp,nw_src=10.0.0.4,nw_dst=10.0.0.50,tp_src=4000,tp_dst=80,dp_hash={hash}");
            let said = ovs.appctl(&["ofproto/trace", "br0", &packet]);
            said.split("nat(dst=").nth(1).and_then(|rest| rest.split(')').next()).map(str::to_owned)
        };
        let members: BTreeSet<String> = (0..64).filter_map(told).collect();
        assert_eq!(members.len() as u32, count, "{members:?}");
    }
}
