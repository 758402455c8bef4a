//! What a change of a pool costs on the way to a real Open vSwitch.

#[path = "../../openflow/tests/common/mod.rs"]
mod common;

use std::time::Duration;

use apps::testing::*;
use apps::{ALL, Change, Engine, Numbers};
use common::DummyOvs;
use model::{ListenerProtocol, Member};
use node::agent::pending::Pending;
use node::switch::{Changes, Commit, Event, Options, Switch};
use node::translate;
use openflow::{InstalledGroup, Message};
use pipeline::Generation;

const DEADLINE: Duration = Duration::from_secs(20);
const TCP: ListenerProtocol = ListenerProtocol::Tcp;

/// A node whose only load balancer has one pool, and its switch.
struct World {
    engine: Engine,
    pending: Pending,
    switch: Switch,
    _ovs: DummyOvs,
}

fn one(n: u32, weight: u16) -> Member {
    member(&format!("member{n}"), "pool", &format!("10.0.{}.{}", n >> 8, n & 255), 80, weight)
}

impl World {
    async fn with_members(count: u32) -> World {
        let ovs = DummyOvs::start();
        let (switch, mut events) = Switch::start(Options::new(ovs.socket()));
        let connected = async { while !matches!(events.recv().await, Some(Event::Connected(_))) {} };
        tokio::time::timeout(DEADLINE, connected).await.unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let (engine, pending) = (Engine::new(ALL, Numbers::default()), Pending::default());
        let mut world = World { engine, pending, switch, _ovs: ovs };
        let vip = vip("vip", 60, "net", &[("net4", "10.0.255.9")]);
        let members = (0..count).map(|n| put(one(n, 1)));
        let objects = [
            here("node0", "192.0.2.1"),
            put(network("net", 7)),
            put(subnet("net4", "net", "10.0.0.0/16")),
            put(balancer("lb", &vip)),
            put(vip),
            put(listener("listener", 100, "lb", TCP, 80, "pool")),
            put(pool("pool", "lb", TCP)),
        ];
        world.change(objects.into_iter().chain(members)).await;
        world
    }

    /// Makes `changes` so, in the switch too, which then has what it should; how many bytes that took.
    async fn change(&mut self, changes: impl IntoIterator<Item = Change>) -> usize {
        self.pending.merge(self.engine.update(changes), Generation::A);
        let job = self.pending.take(|| unreachable!("nothing is to be compared"));
        let bytes = bytes(&job.changes);
        self.switch.commit(job.changes, Commit::InSlices).await.unwrap();
        let mut desired: Vec<InstalledGroup> = self.engine.groups().map(|group| translate::group(group, Generation::A)).collect();
        let mut installed = self.switch.dump_groups().await.unwrap();
        desired.sort_by_key(|group| group.id);
        installed.sort_by_key(|group| group.id);
        assert!(installed == desired, "the switch reads back other groups than it should have");
        bytes
    }

    /// What a member costs that comes, gets another weight, and goes.
    async fn costs(&mut self) -> [usize; 3] {
        let comes = self.change([put(one(9_000, 1))]).await;
        let weighs = self.change([put(one(5, 2))]).await;
        let goes = self.change([Change::Remove(model::Object::from(one(7, 1)).key())]).await;
        [comes, weighs, goes]
    }
}

fn bytes(changes: &Changes) -> usize {
    let groups = changes.groups.iter().cloned().map(Message::GroupMod);
    let mut out = Vec::new();
    for message in groups.chain(changes.flows.iter().cloned().map(Message::FlowMod)) {
        message.encode(1, &mut out).unwrap();
    }
    out.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_a_members_change_do_not_grow_with_its_pool() {
    let small = World::with_members(30).await.costs().await;
    let large = World::with_members(240).await.costs().await;
    assert_eq!(small, large, "a member that comes, gets another weight, and goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_pool_of_two_levels_a_member_costs_little_of_the_whole() {
    let mut world = World::with_members(900).await;
    let everything: usize = world.engine.groups().map(|group| translate::group(group, Generation::A).buckets.len()).sum();
    assert!(everything > 1_200, "{everything} buckets");
    let costs = world.costs().await;
    assert!(costs.iter().all(|bytes| *bytes < 8_000), "{costs:?} bytes; all members are some 90,000");
}
