//! Export and import: what moves, and what is refused.

use std::sync::Arc;

use model::{Object, Revision};
use store::{ChangesError, DumpError, Import, Memory, Op, Options, Redb, Store, export, import, suite};

fn fill(store: &impl Store) {
    for n in 0..5 {
        let ops = vec![
            Op::Put(Arc::new(Object::from(suite::node(&n.to_string())))),
            Op::PutRecord("keys".into(), format!("{{\"n\":{n}}}").into_bytes()),
        ];
        store.transact(&suite::transaction(store, ops)).unwrap();
    }
}

fn redb(directory: &std::path::Path, name: &str) -> Redb {
    Redb::open(directory.join(name), Options::default()).unwrap()
}

#[test]
fn what_is_imported_is_what_was_exported() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (Memory::new(), redb(directory.path(), "to"));
    fill(&from);
    let mut file = Vec::new();
    let exported = export(&from, &mut file).unwrap();
    assert_eq!(import(&to, file.as_slice(), Import::Move).unwrap(), exported);
    assert_eq!((exported.revision, exported.objects, exported.records), (Revision(5), 5, 1));
    assert_eq!(to.load().unwrap(), from.load().unwrap());
    // The history stays behind, and says so; it goes on from there.
    assert!(matches!(to.changes(Revision(4), usize::MAX), Err(ChangesError::Compacted { oldest: Revision(5) })));
    to.transact(&suite::transaction(&to, vec![Op::DeleteRecord("keys".into())])).unwrap();
    assert_eq!(to.changes(Revision(5), usize::MAX).unwrap().len(), 1);
    drop(to);
    assert_eq!(redb(directory.path(), "to").load().unwrap().revision, Revision(6));
}

#[test]
fn what_is_restored_goes_on_beyond_what_was_seen() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (Memory::new(), redb(directory.path(), "to"));
    fill(&from);
    let mut file = Vec::new();
    export(&from, &mut file).unwrap();
    let restored = import(&to, file.as_slice(), Import::Restore).unwrap().revision;
    assert!(restored > Revision(1_000_000_000_000), "{restored}");
    assert_eq!(to.load().unwrap().objects, from.load().unwrap().objects);
    assert!(matches!(to.changes(Revision(5), usize::MAX), Err(ChangesError::Compacted { .. })));
}

#[test]
fn a_store_with_something_in_it_is_not_imported_into() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (Memory::new(), redb(directory.path(), "to"));
    fill(&from);
    to.transact(&suite::transaction(&to, vec![Op::PutRecord("keys".into(), b"1".to_vec())])).unwrap();
    let mut file = Vec::new();
    export(&from, &mut file).unwrap();
    assert!(matches!(import(&to, file.as_slice(), Import::Move), Err(DumpError::NotEmpty(Revision(1)))));
}

#[test]
fn a_file_that_is_cut_short_or_damaged_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let from = Memory::new();
    fill(&from);
    let mut file = Vec::new();
    export(&from, &mut file).unwrap();
    let text = String::from_utf8(file).unwrap();
    let to = redb(directory.path(), "to");
    let lines: Vec<&str> = text.lines().collect();
    for kept in 0..lines.len() {
        assert!(import(&to, lines[..kept].join("\n").as_bytes(), Import::Move).is_err(), "{kept} lines");
    }
    let without_one = [&lines[..2], &lines[3..]].concat().join("\n");
    assert!(matches!(import(&to, without_one.as_bytes(), Import::Move), Err(DumpError::Line { .. })));
    assert!(import(&to, text.replace("/ladon/v1/node/", "/ladon/v9/node/").as_bytes(), Import::Move).is_err());
    assert_eq!(to.load().unwrap().revision, Revision(0));
}
