//! What ovsdb-server and ovs-vswitchd's control socket send.

use std::sync::LazyLock;

use node::connections::listing;
use ovsdb::{Framer, Json, Message, Monitor, MonitorReply, Operation, Replica, Schema, Transaction, Update};

/// Room for an input, and little more.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// The part of Open vSwitch's schema that the corpus is about.
static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let json = serde_json::from_str(include_str!("schema.json")).expect("the schema is JSON");
    Schema::decode(&json).expect("the schema is one")
});

fn replica() -> Replica {
    let columns = ["name", "ofport", "external_ids", "error", "admin_state"];
    let monitor = Monitor::of("Open_vSwitch").table("Interface", &columns).table("Bridge", &["name", "ports", "external_ids"]);
    Replica::new(&SCHEMA, &monitor).expect("the schema has the columns")
}

/// A stream of JSON-RPC messages into one replica; the same bytes as a listing of connections.
pub fn stream(bytes: &[u8]) {
    let mut framer = Framer::with_limit(MESSAGE_BYTES_MAX);
    let mut replica = replica();
    for chunk in bytes.chunks(1024) {
        framer.push(chunk);
        while let Ok(Some(message)) = framer.next_message() {
            if let Ok(message) = Message::decode(message) {
                heard(message, &mut replica);
            }
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(listing(text));
    }
}

fn heard(message: Message, replica: &mut Replica) {
    let mut written = Vec::new();
    message.encode(&mut written);
    assert_eq!(Message::decode(&written).expect("what is written is a message"), message);
    let _ = (message.echo_reply(), message.refusal());
    if let Message::Response { result, .. } = &message {
        if let Ok(result) = result {
            answered(result, replica);
        }
        outcomes(result.clone());
    }
    if let Ok(Some(update)) = Update::from_message(message) {
        let before = replica.last_txn();
        if replica.update(&update).is_err() {
            assert_eq!(replica.last_txn(), before, "an update that does not fit changes nothing");
        }
    }
}

fn answered(result: &Json, replica: &mut Replica) {
    if let Ok(schema) = Schema::decode(result) {
        let _ = replica.fits(&schema, &Monitor::of("Open_vSwitch").table("Interface", &["name"]));
    }
    if let Ok(reply) = MonitorReply::decode(result) {
        let _ = replica.resume(&reply);
    }
}

fn outcomes(result: Result<Json, Json>) {
    let operations = vec![Operation::select("Interface", vec![], &[]), Operation::Comment(String::new())];
    if let Ok(outcomes) = Transaction::new("Open_vSwitch", operations).outcomes(result) {
        for outcome in &outcomes {
            let _ = outcome.rows(&SCHEMA);
        }
    }
}
