//! What servers and nodes say to each other, and what a node makes of it.
//!
//! An input is a row of [`framed`] messages. Those of nodes go to a server's views, those of servers into a node's replica, from
//! there into all apps, and their flows and groups become messages for the switch.

use std::net::Ipv4Addr;
use std::sync::Arc;

use apps::{ALL, Change, Engine, Here, Numbers};
use jiff::Timestamp;
use model::NodeName;
use node::translate;
use node::view::replica::{Pending, Replica};
use openflow::{GroupMod, Message as OfMessage};
use pipeline::Generation;
use prost::Message;
use server::Core;
use server::views::{ByHand, Followed};
use stream::wire::{NodeMessage, ServerMessage, node_message};

/// Who says a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    Node,
    Server,
}

/// A message as a part of an input: who says it, its length in two bytes, itself.
pub fn framed(sender: Sender, message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a message of the corpus is short");
    [&[sender as u8][..], &length.to_be_bytes(), message].concat()
}

/// Hears a row of messages on both ends.
pub fn messages(bytes: &[u8]) {
    let (mut server, mut node) = (Server::new(), Node::new());
    let mut rest = bytes;
    while let Some(([sender, high, low], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (message, next) = after.split_at(length);
        rest = next;
        match sender & 1 {
            0 => server.hear(message),
            _ => node.hear(message),
        }
    }
}

struct Server {
    views: ByHand,
    followed: Option<Followed>,
}

impl Server {
    fn new() -> Server {
        let clock = Arc::new(|| Timestamp::from_second(1_800_000_000).expect("a second of this century"));
        let (core, _) = Core::by_hand(Arc::new(store::Memory::new()), clock).expect("an empty store");
        Server { views: ByHand::new(core), followed: None }
    }

    fn hear(&mut self, message: &[u8]) {
        let Ok(NodeMessage { body: Some(body) }) = NodeMessage::decode(message) else { return };
        match body {
            node_message::Body::Hello(hello) => {
                if let Some(old) = self.followed.take() {
                    self.views.disconnect(old);
                }
                self.followed = self.views.connect(&hello).ok();
                if let Some(followed) = &mut self.followed {
                    drop(self.views.catch_up(followed, Some(&[])));
                }
            }
            node_message::Body::Report(report) => {
                if let Some(followed) = &self.followed {
                    self.views.report(followed, &report);
                }
            }
        }
        if let Some(followed) = &mut self.followed {
            let _ = self.views.say(followed);
        }
    }
}

struct Node {
    replica: Replica,
    engine: Engine,
}

impl Node {
    fn new() -> Node {
        let mut engine = Engine::new(ALL, Numbers::default());
        let here = Here { node: NodeName("n1".into()), tunnel_addresses: vec![Ipv4Addr::new(192, 0, 2, 1).into()], tunnel_port: None };
        engine.update([Change::Here(here), apps::testing::attach("web", 11)]);
        Node { replica: Replica::default(), engine }
    }

    fn hear(&mut self, message: &[u8]) {
        let Ok(ServerMessage { body: Some(body) }) = ServerMessage::decode(message) else { return };
        let revision = self.replica.revision();
        let update = match self.replica.apply(body) {
            Ok(Some(update)) => update,
            Ok(None) => return,
            Err(fault) => {
                assert_eq!(self.replica.revision(), revision, "what does not fit changes nothing: {fault}");
                return self.replica.stream_ended();
            }
        };
        let mut pending = Pending::default();
        pending.merge(update);
        let update = pending.take();
        let removals = update.removals.into_iter().map(Change::Remove);
        self.engine.update(removals.chain(update.upserts.into_iter().map(Change::Put)));
        self.program();
    }

    /// Writes everything as the switch would get it; what cannot be written is an error.
    fn program(&self) {
        for flow in self.engine.flows() {
            drop(flow.to_string());
            if let Ok(flow) = translate::flow_mod(&flow, Generation::A) {
                let _ = OfMessage::FlowMod(flow).to_bytes(1);
            }
        }
        for group in self.engine.groups() {
            let _ = OfMessage::GroupMod(GroupMod::add(translate::group(group, Generation::A))).to_bytes(1);
        }
    }
}
