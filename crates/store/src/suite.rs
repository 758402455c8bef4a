//! What every store must do: one suite, which each backend's tests run.
//!
//! The functions panic where a store breaks its promise, as tests do.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use model::{Member, MemberId, Node, NodeName, Object, PoolId, ProjectId, Revision, Standard, TunnelType};
use uuid::Uuid;

use crate::{ChangesError, Guard, Key, Op, Store, TransactError, Transaction};

/// Members in the largest batch that the API takes.
pub const BATCH: u128 = 10_000;

/// Runs the whole suite; `make` makes an empty store.
pub fn suite<S: Store>(make: impl Fn() -> S) {
    a_new_store_is_empty(&make());
    what_was_put_is_loaded(&make());
    revisions_count_transactions(&make());
    a_guard_that_does_not_hold_changes_nothing(&make());
    of_two_writers_with_one_guard_one_wins(Arc::new(make()));
    changes_tell_before_and_after(&make());
    a_transaction_without_operations_changes_nothing(&make());
    deleting_what_is_absent_is_no_error(&make());
    the_largest_batch_is_one_transaction(&make());
}

/// A node with this name: the smallest object.
pub fn node(name: &str) -> Node {
    Node {
        name: NodeName(name.into()),
        tunnel_addresses: Vec::new(),
        tunnel: TunnelType::Geneve,
        bridge: String::new(),
        datapath: String::new(),
    }
}

fn put(object: impl Into<Object>) -> Op {
    Op::Put(Arc::new(object.into()))
}

fn transaction(ops: impl Into<Vec<Op>>) -> Transaction {
    Transaction { guards: Vec::new(), ops: ops.into() }
}

fn key(name: &str) -> Key {
    Key::Object(Object::from(node(name)).key())
}

fn a_new_store_is_empty(store: &impl Store) {
    let snapshot = store.load().expect("a new store loads");
    assert_eq!((snapshot.revision, snapshot.objects.len(), snapshot.records.len()), (Revision(0), 0, 0));
    assert!(store.changes(Revision(0)).expect("a new store has a log").is_empty());
}

fn what_was_put_is_loaded(store: &impl Store) {
    let record = |bytes: &[u8]| Op::PutRecord("space/a/1".into(), bytes.to_vec());
    store.transact(&transaction([put(node("a")), put(node("b")), record(b"one")])).expect("put");
    store.transact(&transaction([Op::Delete(Object::from(node("a")).key()), record(b"two")])).expect("replace");
    let snapshot = store.load().expect("load");
    assert_eq!(snapshot.objects, [(Arc::new(Object::from(node("b"))), Revision(1))]);
    assert_eq!(snapshot.records, [("space/a/1".to_string(), b"two".to_vec(), Revision(2))]);
    store.transact(&transaction([Op::DeleteRecord("space/a/1".into())])).expect("delete");
    assert!(store.load().expect("load").records.is_empty());
}

fn revisions_count_transactions(store: &impl Store) {
    for expected in 1..=5 {
        let revision = store.transact(&transaction([put(node(&expected.to_string()))])).expect("put");
        assert_eq!(revision, Revision(expected));
    }
    assert_eq!(store.load().expect("load").revision, Revision(5));
}

fn a_guard_that_does_not_hold_changes_nothing(store: &impl Store) {
    let absent = |name| Guard { key: key(name), modified: Revision(0) };
    let guarded = |guards: Vec<Guard>, ops: Vec<Op>| store.transact(&Transaction { guards, ops });
    let revision = guarded(vec![absent("a")], vec![put(node("a"))]).expect("absent, as the guard says");
    for guard in [absent("a"), Guard { key: key("a"), modified: Revision(revision.0 + 1) }, Guard { key: key("c"), modified: revision }] {
        let result = guarded(vec![Guard { key: key("a"), modified: revision }, guard.clone()], vec![put(node("b")), put(node("a"))]);
        assert!(matches!(result, Err(TransactError::Conflict { key }) if key == guard.key), "{guard:?}");
    }
    assert_eq!(store.load().expect("load").objects.len(), 1);
    guarded(vec![Guard { key: key("a"), modified: revision }], vec![put(node("a"))]).expect("as the guard says");
    let record = Guard { key: Key::Record("keys".into()), modified: Revision(0) };
    guarded(vec![record.clone()], vec![Op::PutRecord("keys".into(), b"1".to_vec())]).expect("absent");
    assert!(guarded(vec![record], vec![Op::PutRecord("keys".into(), b"2".to_vec())]).is_err());
}

fn of_two_writers_with_one_guard_one_wins<S: Store>(store: Arc<S>) {
    const WRITERS: usize = 4;
    const ROUNDS: u64 = 10;
    let count = |store: &S| {
        let snapshot = store.load().expect("load");
        snapshot.records.into_iter().find(|record| record.0 == "n").map_or((0u64, Revision(0)), |(_, bytes, modified)| {
            (String::from_utf8(bytes).expect("text").parse().expect("a number"), modified)
        })
    };
    let add = |store: &S| {
        let (n, modified) = count(store);
        let ops = vec![Op::PutRecord("n".into(), (n + 1).to_string().into_bytes())];
        store.transact(&Transaction { guards: vec![Guard { key: Key::Record("n".into()), modified }], ops })
    };
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| (0..ROUNDS).for_each(|_| while add(&store).is_err() {}));
        }
    });
    assert_eq!(count(&store).0, WRITERS as u64 * ROUNDS, "no increment is lost");
}

fn changes_tell_before_and_after(store: &impl Store) {
    let newer = Node { tunnel: TunnelType::Vxlan, ..node("a") };
    let key = Object::from(node("a")).key();
    store.transact(&transaction([put(node("a"))])).expect("put");
    store.transact(&transaction([put(newer.clone())])).expect("put");
    store.transact(&transaction([Op::PutRecord("keys".into(), b"1".to_vec())])).expect("put");
    store.transact(&transaction([Op::Delete(key)])).expect("delete");
    let commits = store.changes(Revision(0)).expect("the log reaches back");
    assert_eq!(commits.iter().map(|commit| commit.revision.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let steps: Vec<_> =
        commits.iter().flat_map(|commit| commit.changes.iter()).map(|change| (change.before.clone(), change.after.clone())).collect();
    let (old, new) = (Some(Arc::new(Object::from(node("a")))), Some(Arc::new(Object::from(newer))));
    assert_eq!(steps, [(None, old.clone()), (old, new.clone()), (new, None)]);
    assert_eq!(store.changes(Revision(3)).expect("the log reaches back").len(), 1);
    assert!(store.changes(Revision(4)).expect("the latest").is_empty());
    assert!(matches!(store.changes(Revision(5)), Err(ChangesError::Future(_))));
}

fn a_transaction_without_operations_changes_nothing(store: &impl Store) {
    store.transact(&transaction([put(node("a"))])).expect("put");
    assert_eq!(store.transact(&transaction([])).expect("nothing"), Revision(1));
    let guards = vec![Guard { key: key("a"), modified: Revision(0) }];
    assert!(store.transact(&Transaction { guards, ops: Vec::new() }).is_err());
}

fn deleting_what_is_absent_is_no_error(store: &impl Store) {
    let ops = [Op::Delete(Object::from(node("a")).key()), Op::DeleteRecord("keys".into())];
    store.transact(&transaction(ops)).expect("no error");
    assert!(store.changes(Revision(0)).expect("log").iter().all(|commit| commit.changes.is_empty()));
}

fn the_largest_batch_is_one_transaction(store: &impl Store) {
    let members: Vec<Op> = (0..BATCH).map(|number| put(member(number))).collect();
    assert_eq!(store.transact(&transaction(members)).expect("the batch"), Revision(1));
    assert_eq!(store.load().expect("load").objects.len() as u128, BATCH);
    assert_eq!(store.changes(Revision(0)).expect("log")[0].changes.len() as u128, BATCH);
}

fn member(number: u128) -> Member {
    Member {
        id: MemberId(Uuid::from_u128(number)),
        pool: PoolId(Uuid::from_u128(1)),
        project: ProjectId("p".into()),
        name: format!("member-{number}"),
        is_admin_up: true,
        address: IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number as u32)),
        port: 80,
        subnet: None,
        weight: 1,
        standard: Standard::default(),
    }
}
