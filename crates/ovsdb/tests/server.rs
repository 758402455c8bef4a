//! Against a real ovsdb-server with Open vSwitch's schema.

mod common;

use common::{Client, Server};
use ovsdb::*;
use std::collections::BTreeMap;

fn monitor() -> Monitor {
    Monitor::of("Open_vSwitch")
        .table("Open_vSwitch", &["bridges", "next_cfg"])
        .table("Bridge", &["name", "ports", "other_config", "fail_mode", "protocols", "flow_tables"])
        .table("Port", &["name", "interfaces"])
        .table("Interface", &["name", "type", "ofport", "mtu_request", "external_ids"])
}

/// A root row and a bridge `br` with a port of its own name.
fn bridge() -> Vec<Operation> {
    vec![
        Insert::into("Interface").named("i").column("name", "br").column("type", "internal").into(),
        Insert::into("Port").named("p").column("name", "br").column("interfaces", named_uuid("i")).into(),
        Insert::into("Bridge").named("b").column("name", "br").column("ports", named_uuid("p")).into(),
        Insert::into("Open_vSwitch").column("bridges", named_uuid("b")).into(),
    ]
}

fn follow(client: &mut Client, replica: &mut Replica) -> Vec<Change> {
    let result = client.ask(monitor().request(99, "m", replica.last_txn())).unwrap();
    replica.resume(&MonitorReply::decode(&result).unwrap()).unwrap()
}

fn replica(client: &mut Client) -> Replica {
    Replica::new(&client.schema(), &monitor()).unwrap()
}

fn texts(replica: &Replica, table: &str, name: &str, column: &str) -> BTreeMap<String, String> {
    let (_, row) = replica.table(table).unwrap().find(name).unwrap();
    row.texts(column).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn a_transaction_makes_rows_that_select_finds() {
    let server = Server::standalone();
    let mut client = Client::connect(&server);
    let outcomes = client.transact(bridge()).unwrap();
    let Outcome::Inserted(made) = outcomes[2] else { panic!("{outcomes:?}") };

    let select = Operation::select("Bridge", vec![Condition::equal("name", "br")], &["_uuid", "ports", "fail_mode"]);
    let found = client.transact(vec![select]).unwrap();
    let rows = found[0].rows(&client.schema()).unwrap();
    assert_eq!(rows[0]["_uuid"], Value::from(made));
    assert_eq!(rows[0]["ports"].atoms().count(), 1);
    assert_eq!(rows[0]["fail_mode"], Value::Set([].into()));
}

#[test]
fn a_failed_operation_is_named_and_nothing_is_changed() {
    let server = Server::standalone();
    let mut client = Client::connect(&server);
    client.transact(bridge()).unwrap();
    let wrong = vec![
        Operation::update("Bridge", vec![], [("fail_mode".into(), Value::from("secure"))]),
        Operation::update("Bridge", vec![], [("fail_mode".into(), Value::from("sideways"))]),
    ];
    let error = client.transact(wrong).unwrap_err();
    assert!(matches!(error, TransactionError::Operation { index: 1, operation: "update", .. }), "{error}");
    assert_eq!(error.code(), Some("constraint violation"));

    let select = client.transact(vec![Operation::select("Bridge", vec![], &["fail_mode"])]).unwrap();
    assert_eq!(select[0].rows(&client.schema()).unwrap()[0]["fail_mode"], Value::Set([].into()));
}

#[test]
fn a_duplicate_name_fails_at_commit() {
    let server = Server::standalone();
    let mut client = Client::connect(&server);
    client.transact(bridge()).unwrap();
    let again = Insert::into("Bridge").named("b2").column("name", "br").into();
    let refer = Operation::mutate("Open_vSwitch", vec![], vec![Mutation::insert("bridges", named_uuid("b2"))]);
    let error = client.transact(vec![again, refer]).unwrap_err();
    assert!(matches!(error, TransactionError::Commit { .. }), "{error}");
}

#[test]
fn wait_and_assert_guard_a_transaction() {
    let server = Server::standalone();
    let mut client = Client::connect(&server);
    let outcomes = client.transact(bridge()).unwrap();
    let Outcome::Inserted(bridge) = outcomes[2] else { panic!("{outcomes:?}") };
    client.transact(vec![Operation::expect("Bridge", bridge, "name", "br")]).unwrap();
    let error = client.transact(vec![Operation::expect("Bridge", bridge, "name", "other")]).unwrap_err();
    assert_eq!(error.code(), Some("timed out"));

    let guarded = || vec![Operation::Assert { lock: "l".into() }];
    assert_eq!(client.transact(guarded()).unwrap_err().code(), Some("not owner"));
    client.ask(call::lock(50, "lock", "l")).unwrap();
    assert_eq!(client.transact(guarded()).unwrap(), [Outcome::Done]);
}

#[test]
fn sets_maps_and_optional_values_are_followed() {
    let server = Server::standalone();
    let (mut client, mut other) = (Client::connect(&server), Client::connect(&server));
    let mut replica = replica(&mut client);
    assert_eq!(follow(&mut client, &mut replica), []);

    let step = |client: &mut Client, other: &mut Client, replica: &mut Replica, operations| {
        other.transact(operations).unwrap();
        replica.update(&client.update()).unwrap()
    };
    assert_eq!(step(&mut client, &mut other, &mut replica, bridge()).len(), 4);
    assert_eq!(replica.table("Interface").unwrap().find("br").unwrap().1.string("type"), Some("internal"));

    let ids = |pairs: &[(&'static str, &'static str)]| {
        vec![Operation::update("Interface", vec![], [("external_ids".into(), Value::map(pairs.iter().copied()))])]
    };
    for pairs in [&[("a", "1"), ("b", "2")] as &[_], &[("b", "3"), ("c", "4")], &[("c", "4")], &[]] {
        step(&mut client, &mut other, &mut replica, ids(pairs));
        let want: BTreeMap<String, String> = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        assert_eq!(texts(&replica, "Interface", "br", "external_ids"), want);
    }

    let protocols =
        |names: &[&'static str]| vec![Operation::update("Bridge", vec![], [("protocols".into(), Value::set(names.iter().copied()))])];
    for names in [&["OpenFlow10", "OpenFlow13"] as &[_], &["OpenFlow13", "OpenFlow15"], &["OpenFlow15"], &[]] {
        step(&mut client, &mut other, &mut replica, protocols(names));
        let (_, row) = replica.table("Bridge").unwrap().find("br").unwrap();
        assert_eq!(row.strings("protocols").collect::<Vec<_>>(), names);
    }

    let mtu = |value: Value| vec![Operation::update("Interface", vec![], [("mtu_request".into(), value)])];
    for (value, want) in [(Value::from(1400), Some(1400)), (Value::from(1450), Some(1450)), (Value::Set([].into()), None)] {
        step(&mut client, &mut other, &mut replica, mtu(value));
        assert_eq!(replica.table("Interface").unwrap().find("br").unwrap().1.integer("mtu_request"), want);
    }

    let changes = step(&mut client, &mut other, &mut replica, vec![Operation::delete("Open_vSwitch", vec![])]);
    assert_eq!(changes.len(), 4);
    assert!(changes.iter().all(|change| matches!(change.delta, Delta::Deleted(_))));
}

#[test]
fn ones_own_changes_are_in_the_replica_before_the_answer_comes() {
    let server = Server::standalone();
    let mut client = Client::connect(&server);
    let mut replica = replica(&mut client);
    follow(&mut client, &mut replica);
    client.transact(bridge()).unwrap();
    assert_eq!(client.updates.len(), 1);
}

#[test]
fn a_standalone_server_answers_a_returning_client_with_everything_and_the_replica_finds_the_difference() {
    let server = Server::standalone();
    let mut client = Client::connect(&server);
    client.transact(bridge()).unwrap();
    let mut replica = replica(&mut client);
    assert_eq!(follow(&mut client, &mut replica).len(), 4);
    drop(client);

    let mut client = Client::connect(&server);
    client.transact(vec![Operation::update("Bridge", vec![], [("fail_mode".into(), Value::from("secure"))])]).unwrap();
    let changes = follow(&mut client, &mut replica);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0].after().unwrap().string("fail_mode"), Some("secure"));
}

#[test]
fn a_clustered_server_answers_a_returning_client_with_what_changed_since() {
    let server = Server::clustered();
    let mut client = Client::connect(&server);
    client.transact(bridge()).unwrap();
    // The server remembers no more atoms of history than the database holds: fill it, so that small changes are remembered.
    let filling = Value::map((0..500).map(|n| (n.to_string(), "x")));
    let fill = [("external_ids".into(), filling)];
    client.transact(vec![Operation::update("Open_vSwitch", vec![], fill)]).unwrap();
    let small = [("mtu_request".into(), Value::from(1400))];
    client.transact(vec![Operation::update("Interface", vec![], small)]).unwrap();
    let mut replica = replica(&mut client);
    follow(&mut client, &mut replica);
    assert!(!replica.last_txn().is_nil());
    drop(client);

    let mut client = Client::connect(&server);
    client.transact(vec![Operation::update("Interface", vec![], [("ofport".into(), Value::from(7))])]).unwrap();
    let result = client.ask(monitor().request(99, "m", replica.last_txn())).unwrap();
    let reply = MonitorReply::decode(&result).unwrap();
    assert!(reply.is_resumed);
    let changes = replica.resume(&reply).unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].after().unwrap().integer("ofport"), Some(7));
}

#[test]
fn a_column_that_the_schema_lacks_is_named() {
    let server = Server::standalone();
    let schema = Client::connect(&server).schema();
    let error = Replica::new(&schema, &Monitor::of("Open_vSwitch").table("Bridge", &["colour"])).unwrap_err();
    assert_eq!(error.to_string(), "table Bridge has no column colour");
}
