//! An agent that programs a real Open vSwitch, and what it is fed with.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apps::Change;
use apps::testing::id;
use model::*;
use node::agent::{Agent, Ask, Feeds, InForce, Published, SwitchNews};
use node::bridge::{Interface, Interfaces};
use node::connections::{Mailbox, mailbox};
use node::switch::{Event, Options, Switch};
use node::view::ViewUpdate;
use pipeline::{Fingerprint, OfPort};
use tokio::sync::{mpsc, watch};

use crate::common::DummyOvs;

const DEADLINE: Duration = Duration::from_secs(120);

/// The objects that are put.
pub fn objects(changes: impl IntoIterator<Item = Change>) -> Vec<Arc<Object>> {
    let object = |change| match change {
        Change::Put(object) => object,
        other => panic!("{other:?}"),
    };
    changes.into_iter().map(object).collect()
}

/// The first view of a node.
pub fn snapshot(upserts: Vec<Arc<Object>>) -> ViewUpdate {
    ViewUpdate { upserts, removals: vec![], revision: Revision(1), is_complete_snapshot: true }
}

/// The interface `name` with number 11, which is `port`'s.
pub fn plugged(name: &str, port: &str) -> Interfaces {
    let interface = Interface {
        name: name.into(),
        uuid: uuid::Uuid::from_u128(1),
        kind: String::new(),
        ofport: Some(OfPort(11)),
        error: None,
        iface_id: Some(id(port).to_string()),
        mac_in_use: None,
        external_ids: BTreeMap::new(),
        options: BTreeMap::new(),
    };
    Interfaces::unit(name.into(), interface)
}

/// An agent on node n1 whose flows are in force, with the port `own` on an interface of that name. What is heard of groups and
/// meters is kept from it: it looks by itself, too.
pub struct Programmed {
    pub ovs: DummyOvs,
    pub state: tempfile::TempDir,
    pub views: mpsc::Sender<ViewUpdate>,
    pub interfaces: watch::Sender<Option<Arc<Interfaces>>>,
    pub in_force: watch::Receiver<Arc<InForce>>,
    /// Packets that flows handed over.
    pub packet_ins: mpsc::UnboundedReceiver<()>,
    _asks: mpsc::Sender<Ask>,
    _mailbox: Mailbox,
}

impl Programmed {
    pub async fn start(ovs: DummyOvs, view: ViewUpdate) -> Programmed {
        let state = tempfile::tempdir().unwrap();
        let (switch, mut events) = Switch::start(Options::new(ovs.socket()));
        let (in_force, in_force_seen) = watch::channel(Arc::default());
        let (affected, _mailbox) = mailbox();
        let (local, facts, half) = (watch::channel(Arc::default()).0, watch::channel(None).0, watch::channel(None).0);
        let published = Published { local, in_force, facts, affected, half };
        let (views, view_updates) = mpsc::channel(4);
        let (interfaces, interfaces_seen) = watch::channel(Some(Arc::new(plugged("own", "own"))));
        let (news, switch_news) = mpsc::channel(64);
        let (asks, asked) = mpsc::channel(4);
        let (handed_over, packet_ins) = mpsc::unbounded_channel();
        let addresses = vec!["192.0.2.1".parse().unwrap()];
        let agent = Agent::new(NodeName("n1".into()), addresses, state.path(), switch, Fingerprint::of_pipeline(), published).unwrap();
        views.send(view).await.unwrap();
        asks.send(Ask::Tunnel(OfPort(1000))).await.unwrap();
        tokio::spawn(agent.run(Feeds { view: view_updates, interfaces: interfaces_seen, switch: switch_news, asks: asked }));
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let told = match event {
                    Event::Connected(_) => SwitchNews::Connected,
                    Event::Disconnected(_) => SwitchNews::Disconnected,
                    Event::FlowUpdate(_) => SwitchNews::Disturbed,
                    Event::PacketIn(_) => {
                        let _ = handed_over.send(());
                        continue;
                    }
                    Event::GroupsChanged => continue,
                };
                news.send(told).await.unwrap();
            }
        });
        let mut programmed = Programmed { ovs, state, views, interfaces, in_force: in_force_seen, packet_ins, _asks: asks, _mailbox };
        let is_complete = programmed.in_force.wait_for(|now| now.is_complete);
        tokio::time::timeout(DEADLINE, is_complete).await.expect("the flows are in force in time").unwrap();
        programmed
    }
}
