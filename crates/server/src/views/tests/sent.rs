//! What is sent for a change: what is news to the nodes that need it, to the byte, and nothing to anybody else.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::Timestamp;
use model::*;
use proptest::prelude::*;
use store::Memory;
use stream::VIEW_FORMAT;
use stream::wire::{Delta, Hello, object_bytes, server_message::Body};

use super::edits::{commits, edits};
use super::world::*;
use crate::state::State;
use crate::views::shown::shown;
use crate::views::{ByHand, Followed, closure};
use crate::writer::{Core, Tx, WriteError, Writer};

const NODES: u32 = 3;

/// A server that does nothing by itself, and the nodes that follow it.
struct Server {
    core: Core,
    writer: Writer,
    views: ByHand,
    followed: Vec<Followed>,
}

/// What deltas bring: bytes of objects, objects, and keys that go.
type Sent = (usize, usize, usize);

impl Server {
    fn start() -> Server {
        let (core, writer) = Core::by_hand(Arc::new(Memory::new()), Arc::new(Timestamp::now)).unwrap();
        let mut views = ByHand::new(core.clone());
        let mut follow = |n| {
            let mut followed = views.connect(&Hello { node: name(n).0, view_format: VIEW_FORMAT, ..Hello::default() }).unwrap();
            views.catch_up(&mut followed, None);
            followed
        };
        let followed = (1..=NODES).map(&mut follow).collect();
        Server { core, writer, views, followed }
    }

    async fn commit(&mut self, edits: Vec<Edit>) {
        let core = self.core.clone();
        let change = move |tx: &mut Tx| {
            for edit in &edits {
                match edit {
                    Edit::Put(object) => tx.put(object.clone()),
                    Edit::Delete(key) if tx.state().object(*key).is_some() => tx.delete(*key),
                    Edit::Delete(_) => {}
                }
            }
            Ok::<_, WriteError>(())
        };
        let written = tokio::spawn(async move { core.write(change).await });
        while !written.is_finished() {
            self.writer.turn();
            tokio::task::yield_now().await;
        }
        written.await.unwrap().unwrap();
        self.views.take_in(usize::MAX);
    }

    /// What node `n` is sent next.
    fn sent(&mut self, n: u32) -> Sent {
        let said = self.views.say(&mut self.followed[n as usize - 1]).unwrap();
        let deltas = said.iter().map(|body| match body {
            Body::Delta(delta) => delta,
            other => panic!("{other:?} is no change"),
        });
        deltas.fold(Sent::default(), |sent, Delta { upserts, removals, .. }| {
            let bytes: usize = upserts.iter().map(|object| object.len()).sum();
            (sent.0 + bytes, sent.1 + upserts.len(), sent.2 + removals.len())
        })
    }
}

/// What a node needs to hear of a change, by definition.
fn needed(before: &State, after: &State, node: &NodeName) -> Sent {
    let (old, new) = (closure(before, node), closure(after, node));
    let as_shown = |state: &State, key: &ObjectKey| state.object(*key).map(|object| shown(object));
    let is_news = |key: &&ObjectKey| !old.contains(key) || as_shown(before, key) != as_shown(after, key);
    let news: BTreeSet<&ObjectKey> = new.iter().filter(is_news).collect();
    let bytes = news.iter().filter_map(|key| as_shown(after, key)).map(|object| object_bytes(&object).len()).sum();
    (bytes, news.len(), old.difference(&new).count())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_for_a_change_is_what_the_nodes_that_need_it_need(commits in commits()) {
        runtime().block_on(async {
            let mut server = Server::start();
            for commit in commits {
                let before = server.core.state();
                server.commit(edits(commit).collect()).await;
                let after = server.core.state();
                for n in 1..=NODES {
                    prop_assert_eq!(server.sent(n), needed(&before, &after, &name(n)), "node {}", n);
                }
            }
            Ok(())
        })?;
    }
}

/// A pod as IPAM makes it: everything about it follows from its block.
fn pod(n: u32, network: u32, home: u32) -> Port {
    let block = block(network, home);
    let v4 = Ipv4Addr::from_bits(block.v4.network().to_bits() + n % 64);
    Port { mac: Block::mac(v4), fixed_ips: vec![FixedIp { subnet: block.subnet, ip: v4.into() }], ..super::world::pod(n, network, home) }
}

/// Two tenants' networks: the first on nodes 1 and 2, the second on node 3; a pod network on 1 and 3.
fn tenants() -> Vec<Object> {
    let vm = |n, network, home| Port { security_groups: vec![group_id(network)], ..vm(n, network, home) };
    let mut objects: Vec<Object> = (1..=NODES).map(|n| node(n).into()).collect();
    objects.extend((1..=3).flat_map(|n| [network(n).into(), group(n).into()]));
    objects.extend([vm(11, 1, 1).into(), vm(12, 1, 2).into(), vm(13, 2, 3).into()]);
    objects.extend([block(3, 1).into(), block(3, 3).into(), pod(31, 3, 1).into(), pod(33, 3, 3).into()]);
    objects
}

/// Each change with the nodes that are to hear of it.
fn changes() -> Vec<(&'static str, Object, &'static [u32])> {
    vec![
        ("a port of a tenant's network", vm(14, 1, 2).into(), &[1, 2]),
        ("a port that is ACTIVE now", Port { status: PortStatus::Active, ..vm(14, 1, 2) }.into(), &[]),
        ("a pod", pod(35, 3, 3).into(), &[3]),
        ("a network", Network { mtu: 1400, ..network(1) }.into(), &[1, 2]),
        ("a subnet", subnet(1, 2).into(), &[3]),
        ("a rule", rule(1, 1, None).into(), &[1, 2]),
        ("a group's name", SecurityGroup { name: "other".into(), ..group(2) }.into(), &[3]),
        ("a block", Block { v4: "10.9.0.0/26".parse().unwrap(), ..block(3, 1) }.into(), &[1, 3]),
        ("a load balancer", balancer(1, 1).into(), &[1, 2]),
        ("a listener", listener(1, 1).into(), &[1, 2]),
        ("a pool", pool(1, 1).into(), &[1, 2]),
        ("a member", member(1, 1).into(), &[1, 2]),
        ("a router that nobody uses", router(1).into(), &[]),
        ("its interface", interface(41, 1, 1).into(), &[1, 2]),
        ("a node's tunnel", Node { tunnel: TunnelType::Vxlan, ..node(2) }.into(), &[1, 2]),
    ]
}

#[test]
fn of_every_kind_a_change_is_sent_to_those_who_need_it() {
    runtime().block_on(async {
        let mut server = Server::start();
        server.commit(tenants().into_iter().map(put).collect()).await;
        for n in 1..=NODES {
            server.sent(n);
        }
        for (what, object, nodes) in changes() {
            let before = server.core.state();
            server.commit(vec![put(object)]).await;
            let after = server.core.state();
            for n in 1..=NODES {
                let sent = server.sent(n);
                assert_eq!(sent, needed(&before, &after, &name(n)), "{what}, node {n}");
                assert_eq!(sent != Sent::default(), nodes.contains(&n), "{what}, node {n}: {sent:?}");
            }
        }
    });
}
