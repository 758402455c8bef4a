//! What every store must do: one suite, which each backend's tests run.
//!
//! The functions panic where a store breaks its promise, as tests do.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use model::{Member, MemberId, Node, NodeName, Object, PoolId, ProjectId, Revision, Standard, TunnelType};
use uuid::Uuid;

use crate::{ChangesError, Op, Snapshot, Store, StoreError, TransactError, Transaction, Updates};

/// Members in the largest batch that the API takes.
pub const BATCH: u128 = 10_000;

/// Runs the whole suite; `make` makes an empty store.
pub fn suite<S: Store>(make: impl Fn() -> S) {
    a_new_store_is_empty(&make());
    what_was_put_is_loaded(&make());
    revisions_count_transactions(&make());
    a_transaction_on_an_older_state_changes_nothing(&make());
    of_two_writers_on_one_state_one_wins(Arc::new(make()));
    what_others_wrote_can_be_taken_in(&make());
    changes_tell_before_and_after(&make());
    too_many_changes_are_not_told(&make());
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
        stream: None,
    }
}

fn put(object: impl Into<Object>) -> Op {
    Op::Put(Arc::new(object.into()))
}

/// A transaction on the latest state.
pub fn transaction(store: &impl Store, ops: impl Into<Vec<Op>>) -> Transaction {
    Transaction { base: store.load().expect("load").revision, ops: ops.into() }
}

fn transact(store: &impl Store, ops: impl Into<Vec<Op>>) -> Revision {
    store.transact(&transaction(store, ops)).expect("transact")
}

fn a_new_store_is_empty(store: &impl Store) {
    let snapshot = store.load().expect("a new store loads");
    assert_eq!((snapshot.revision, snapshot.objects.len(), snapshot.records.len()), (Revision(0), 0, 0));
    assert!(store.changes(Revision(0), usize::MAX).expect("a new store has a log").is_empty());
}

fn what_was_put_is_loaded(store: &impl Store) {
    let record = |bytes: &[u8]| Op::PutRecord("space/a/1".into(), bytes.to_vec());
    transact(store, [put(node("a")), put(node("b")), record(b"one")]);
    transact(store, [Op::Delete(Object::from(node("a")).key()), record(b"two")]);
    let snapshot = store.load().expect("load");
    assert_eq!(snapshot.objects, [Arc::new(Object::from(node("b")))]);
    assert_eq!(snapshot.records, [("space/a/1".to_string(), b"two".to_vec())]);
    transact(store, [Op::DeleteRecord("space/a/1".into())]);
    assert!(store.load().expect("load").records.is_empty());
}

fn revisions_count_transactions(store: &impl Store) {
    for expected in 1..=5 {
        assert_eq!(transact(store, [put(node(&expected.to_string()))]), Revision(expected));
    }
    assert_eq!(store.load().expect("load").revision, Revision(5));
}

fn a_transaction_on_an_older_state_changes_nothing(store: &impl Store) {
    let on = |base, ops: Vec<Op>| store.transact(&Transaction { base: Revision(base), ops });
    assert_eq!(on(0, vec![put(node("a"))]).expect("on a new store"), Revision(1));
    for ops in [vec![put(node("b"))], Vec::new()] {
        let older = on(0, ops.clone());
        assert!(matches!(older, Err(TransactError::Conflict { latest: Revision(1) })), "{older:?}");
        let never_there = on(2, ops);
        assert!(matches!(never_there, Err(TransactError::Store(StoreError::WentBack { .. }))), "{never_there:?}");
    }
    assert_eq!(store.load().expect("load").objects.len(), 1);
    assert_eq!(on(1, vec![put(node("b"))]).expect("on the latest state"), Revision(2));
}

fn count(snapshot: &Snapshot) -> u64 {
    let record = snapshot.records.iter().find(|(name, _)| name == "n");
    record.map_or(0, |(_, bytes)| std::str::from_utf8(bytes).expect("text").parse().expect("a number"))
}

fn of_two_writers_on_one_state_one_wins<S: Store>(store: Arc<S>) {
    const WRITERS: usize = 4;
    const ROUNDS: u64 = 10;
    let add = |store: &S| {
        let snapshot = store.load().expect("load");
        let ops = vec![Op::PutRecord("n".into(), (count(&snapshot) + 1).to_string().into_bytes())];
        store.transact(&Transaction { base: snapshot.revision, ops })
    };
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| (0..ROUNDS).for_each(|_| while add(&store).is_err() {}));
        }
    });
    let snapshot = store.load().expect("load");
    assert_eq!((count(&snapshot), snapshot.revision.0), (WRITERS as u64 * ROUNDS, WRITERS as u64 * ROUNDS), "no increment is lost");
}

fn what_others_wrote_can_be_taken_in(store: &impl Store) {
    let before = store.load().expect("load");
    transact(store, [put(node("a")), Op::PutRecord("n".into(), b"1".to_vec())]);
    let latest = transact(store, [put(node("b")), Op::Delete(Object::from(node("a")).key()), Op::DeleteRecord("n".into())]);
    let after = match store.updates(before.revision, latest).expect("updates") {
        Updates::All(snapshot) => snapshot,
        Updates::Each(updates) => updates.into_iter().fold(before, |mut snapshot, update| {
            assert_eq!(update.revision.0, snapshot.revision.0 + 1, "no gap");
            snapshot.revision = update.revision;
            update.ops.into_iter().for_each(|op| apply(&mut snapshot, op));
            snapshot
        }),
    };
    assert_eq!(after, store.load().expect("load"));
    assert_eq!(store.updates(latest, latest).expect("nothing is new"), Updates::Each(Vec::new()));
}

fn apply(snapshot: &mut Snapshot, op: Op) {
    match op {
        Op::Put(object) => {
            snapshot.objects.retain(|other| other.key() != object.key());
            snapshot.objects.push(object);
        }
        Op::Delete(key) => snapshot.objects.retain(|object| object.key() != key),
        Op::PutRecord(name, bytes) => {
            snapshot.records.retain(|(other, _)| *other != name);
            snapshot.records.push((name, bytes));
        }
        Op::DeleteRecord(name) => snapshot.records.retain(|(other, _)| *other != name),
    }
}

fn changes_tell_before_and_after(store: &impl Store) {
    let newer = Node { tunnel: TunnelType::Vxlan, ..node("a") };
    let key = Object::from(node("a")).key();
    transact(store, [put(node("a"))]);
    transact(store, [put(newer.clone())]);
    transact(store, [Op::PutRecord("keys".into(), b"1".to_vec())]);
    transact(store, [Op::Delete(key)]);
    let commits = store.changes(Revision(0), usize::MAX).expect("the log reaches back");
    assert_eq!(commits.iter().map(|commit| commit.revision.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let steps: Vec<_> =
        commits.iter().flat_map(|commit| commit.changes.iter()).map(|change| (change.before.clone(), change.after.clone())).collect();
    let (old, new) = (Some(Arc::new(Object::from(node("a")))), Some(Arc::new(Object::from(newer))));
    assert_eq!(steps, [(None, old.clone()), (old, new.clone()), (new, None)]);
    assert_eq!(store.changes(Revision(3), usize::MAX).expect("the log reaches back").len(), 1);
    assert!(store.changes(Revision(4), usize::MAX).expect("the latest").is_empty());
    assert!(matches!(store.changes(Revision(5), usize::MAX), Err(ChangesError::Future(_))));
}

fn too_many_changes_are_not_told(store: &impl Store) {
    transact(store, [put(node("a")), put(node("b")), Op::PutRecord("keys".into(), b"1".to_vec())]);
    transact(store, [put(node("c"))]);
    // In parts, where a transaction has a limit.
    transact(store, (0..500).map(|n| put(node(&n.to_string()))).collect::<Vec<_>>());
    for (from, changes) in [(0, 503), (1, 501), (2, 500), (3, 0)] {
        let told = store.changes(Revision(from), changes).expect("the log reaches back");
        assert_eq!(told.iter().map(|commit| commit.changes.len()).sum::<usize>(), changes, "after {from}");
        if let Some(fewer) = changes.checked_sub(1) {
            let too_many = store.changes(Revision(from), fewer);
            assert!(matches!(too_many, Err(ChangesError::TooMany { most }) if most == fewer), "{too_many:?}");
        }
    }
    // Nor are too many commits, whatever is in them.
    for n in [2, 3] {
        transact(store, [Op::PutRecord("keys".into(), vec![n])]);
    }
    assert_eq!(store.changes(Revision(3), 2).expect("the log reaches back").len(), 2);
    let too_many = store.changes(Revision(3), 1);
    assert!(matches!(too_many, Err(ChangesError::TooMany { most: 1 })), "{too_many:?}");
}

fn a_transaction_without_operations_changes_nothing(store: &impl Store) {
    transact(store, [put(node("a"))]);
    assert_eq!(transact(store, []), Revision(1));
    assert_eq!(store.load().expect("load").revision, Revision(1));
}

fn deleting_what_is_absent_is_no_error(store: &impl Store) {
    let ops = [Op::Delete(Object::from(node("a")).key()), Op::DeleteRecord("keys".into())];
    transact(store, ops);
    assert!(store.changes(Revision(0), usize::MAX).expect("log").iter().all(|commit| commit.changes.is_empty()));
}

fn the_largest_batch_is_one_transaction(store: &impl Store) {
    let members: Vec<Op> = (0..BATCH).map(|number| put(member(number))).collect();
    assert_eq!(transact(store, members), Revision(1));
    assert_eq!(store.load().expect("load").objects.len() as u128, BATCH);
    assert_eq!(store.changes(Revision(0), usize::MAX).expect("log")[0].changes.len() as u128, BATCH);
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
