//! The embedded store: the suite, its log's limits, `kill -9`, and a full disk.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use model::{Object, Revision};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use store::{ChangesError, LogLimits, Memory, Op, OpenError, Options, Redb, Store, TransactError, Transaction, suite};

fn put(name: &str) -> Vec<Op> {
    vec![Op::Put(Arc::new(Object::from(suite::node(name))))]
}

fn transact(store: &impl Store, ops: Vec<Op>) -> Result<Revision, TransactError> {
    store.transact(&suite::transaction(store, ops))
}

fn open(directory: &Path) -> Redb {
    Redb::open(directory.join("store"), Options { reserve_bytes: 0, ..Options::default() }).unwrap()
}

fn write_nodes(count: u64, store: &Redb) {
    for n in 0..count {
        transact(store, put(&n.to_string())).unwrap();
    }
}

#[test]
fn the_memory_store_passes_the_suite() {
    suite::suite(Memory::new);
}

#[test]
fn the_embedded_store_passes_the_suite() {
    let directory = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    suite::suite(|| {
        number.set(number.get() + 1);
        Redb::open(directory.path().join(number.get().to_string()), Options::default()).unwrap()
    });
}

#[test]
fn what_was_answered_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let before = {
        let store = open(directory.path());
        write_nodes(10, &store);
        store.load().unwrap()
    };
    let store = open(directory.path());
    assert_eq!(store.load().unwrap(), before);
    assert_eq!(store.changes(Revision(0), usize::MAX).unwrap().len(), 10);
}

#[test]
fn a_second_server_on_one_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(directory.path());
    let second = Redb::open(directory.path().join("store"), Options::default());
    assert!(matches!(second, Err(OpenError::InUse { .. })));
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("store"), vec![7; 100_000]).unwrap();
    assert!(matches!(Redb::open(directory.path().join("store"), Options::default()), Err(OpenError::Failed { .. })));
}

#[test]
fn the_log_forgets_what_is_too_much_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let log = LogLimits { bytes: 4096, ..LogLimits::default() };
    let store = Redb::open(directory.path().join("store"), Options { log, reserve_bytes: 0 }).unwrap();
    write_nodes(100, &store);
    let Err(ChangesError::Compacted { oldest }) = store.changes(Revision(0), usize::MAX) else { panic!("the log has no limit") };
    assert!(oldest > Revision(50) && oldest < Revision(100), "{oldest}");
    assert_eq!(store.changes(oldest, usize::MAX).unwrap().len() as u64, 100 - oldest.0);
    assert!(store.changes(Revision(oldest.0 - 1), usize::MAX).is_err());
}

#[test]
fn the_log_forgets_what_is_too_old() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    write_nodes(3, &open(directory.path()));
    // An age of zero: whatever was written in an earlier second is too old.
    let log = LogLimits { age: Duration::ZERO, ..LogLimits::default() };
    let store = Redb::open(path, Options { log, reserve_bytes: 0 }).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while store.changes(Revision(2), usize::MAX).is_ok() {
        transact(&store, put("again")).unwrap();
        assert!(std::time::Instant::now() < deadline, "nothing is forgotten");
    }
}

/// The other side of the test below, when it is started with a directory: writes until it is killed.
#[test]
fn child_that_is_killed() {
    let Ok(directory) = std::env::var("LADON_STORE_CRASH") else { return };
    let store = open(Path::new(&directory));
    let mut out = std::io::stdout();
    for n in store.load().unwrap().revision.0 + 1.. {
        let names = [format!("{n}-a"), format!("{n}-b")];
        let ops = names.iter().map(|name| Op::Put(Arc::new(Object::from(suite::node(name))))).collect();
        let revision = store.transact(&Transaction { base: Revision(n - 1), ops }).unwrap();
        writeln!(out, "\nanswered {revision}").unwrap();
        out.flush().unwrap();
    }
}

/// The other side of the test below: makes a store, or opens it, and is gone.
#[test]
fn child_that_makes_a_store() {
    let Ok(directory) = std::env::var("LADON_STORE_MAKE") else { return };
    println!("\nbegins");
    drop(open(Path::new(&directory)));
}

#[test]
fn a_first_start_that_is_killed_leaves_nothing_in_the_way_of_the_next() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..60 {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_makes_a_store", "--nocapture"])
            .env("LADON_STORE_MAKE", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        lines.find(|line| line == "begins").expect("the child begins");
        std::thread::sleep(Duration::from_micros(random.random_range(0..3_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let opened = Redb::open(directory.path().join("store"), Options { reserve_bytes: 0, ..Options::default() });
        let store = opened.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(transact(&store, put("a")).unwrap(), Revision(1));
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["store"], "nothing else is left");
    }
}

#[test]
fn a_killed_server_has_lost_nothing_that_it_answered() {
    let directory = tempfile::tempdir().unwrap();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..8 {
        let answered = crash(directory.path(), random.random_range(1..=20));
        let store = open(directory.path());
        let snapshot = store.load().unwrap();
        assert!(snapshot.revision.0 >= answered, "answered {answered}, found {}", snapshot.revision);
        assert_eq!(snapshot.objects.len() as u64, 2 * snapshot.revision.0, "a transaction is there as a whole or not at all");
        assert_eq!(store.changes(Revision(0), usize::MAX).unwrap().len() as u64, snapshot.revision.0);
    }
}

/// Lets a process write until it has answered some times, kills it in the middle of whatever it does then, and tells the
/// last revision that it answered.
fn crash(directory: &Path, answers: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_is_killed", "--nocapture"])
        .env("LADON_STORE_CRASH", directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut revisions = lines.filter_map(|line| line.strip_prefix("answered ")?.parse::<u64>().ok());
    let mut last = revisions.by_ref().take(answers as usize).last();
    child.kill().unwrap();
    last = revisions.last().or(last);
    child.wait().unwrap();
    last.expect("the child answered")
}

/// A small disk of its own.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(size: &str) -> Disk {
        let directory = tempfile::tempdir().unwrap();
        mount(Some("ladon-test"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(format!("size={size}").as_str())).unwrap();
        Disk(directory)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

/// Fills the disk through the store until it says that it is full; the number of writes that it took.
fn fill(store: &Redb) -> u64 {
    for n in 0.. {
        let ops = vec![Op::PutRecord(format!("filler/{n}"), vec![n as u8; 64 << 10])];
        match store.transact(&Transaction { base: Revision(n), ops }) {
            Ok(_) => {}
            Err(TransactError::Full) => return n,
            Err(other) => panic!("{other}"),
        }
    }
    unreachable!()
}

fn a_full_disk_is_a_clear_error(reserve_bytes: u64) {
    let disk = Disk::new("24m");
    let path = disk.0.path().join("store");
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 6 << 20]).unwrap();
    let options = Options { reserve_bytes, ..Options::default() };
    let store = Redb::open(&path, options).unwrap();
    let taken = fill(&store);
    assert!(taken > 5, "{taken} writes");
    let full = store.load().unwrap();
    assert_eq!((full.revision.0, full.records.len() as u64), (taken, taken), "nothing is half applied");
    std::fs::remove_file(&ballast).unwrap();
    transact(&store, put("b")).expect("there is room again");
    let after = store.load().unwrap();
    drop(store);
    assert_eq!(Redb::open(&path, options).unwrap().load().unwrap(), after);
}

#[test]
fn a_disk_that_is_nearly_full_is_not_written_to() {
    a_full_disk_is_a_clear_error(2 << 20);
}

#[test]
fn a_disk_that_fills_up_in_the_middle_of_a_write_loses_nothing() {
    a_full_disk_is_a_clear_error(0);
}

#[test]
fn a_file_that_became_empty_is_not_taken_for_a_new_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(Redb::open(&path, Options::default()).unwrap());
    std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    assert!(matches!(Redb::open(&path, Options::default()), Err(OpenError::Empty { .. })));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "nothing was written");
}

/// What is done to a store's file, given an earlier copy of it.
type Deed = fn(&Path, &[u8]);

#[test]
fn a_file_that_somebody_else_touches_takes_no_writes_that_would_be_lost() {
    let deeds: [(&str, Deed); 4] = [
        ("cut off", |path, _| std::fs::File::options().write(true).open(path).unwrap().set_len(4096).unwrap()),
        ("an earlier copy written into it", |path, copy| std::fs::write(path, copy).unwrap()),
        ("an earlier copy in its place", |path, copy| {
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, copy).unwrap();
        }),
        ("lengthened", |path, _| std::fs::File::options().append(true).open(path).unwrap().write_all(b"xx").unwrap()),
    ];
    for (what, deed) in deeds {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = open(directory.path());
        write_nodes(3, &store);
        let copy = std::fs::read(&path).unwrap();
        write_nodes(1, &store);
        // So that the clock of the file system goes on.
        std::thread::sleep(std::time::Duration::from_millis(20));
        deed(&path, &copy);
        let left = std::fs::read(&path).unwrap();
        for _ in 0..2 {
            let refused = store.transact(&Transaction { base: Revision(4), ops: put("lost") });
            assert!(matches!(refused, Err(TransactError::Store(_))), "{what}: {refused:?}");
        }
        drop(store);
        assert_eq!(std::fs::read(&path).unwrap(), left, "{what}: nothing was written");
    }
}

#[test]
fn a_file_that_is_moved_away_and_back_is_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let (path, aside) = (directory.path().join("store"), directory.path().join("aside"));
    let store = open(directory.path());
    write_nodes(3, &store);
    std::fs::rename(&path, &aside).unwrap();
    let refused = store.transact(&Transaction { base: Revision(3), ops: put("lost") });
    assert!(matches!(refused, Err(TransactError::Store(_))), "{refused:?}");
    std::fs::rename(&aside, &path).unwrap();
    assert_eq!(transact(&store, put("kept")).unwrap(), Revision(4));
}

#[test]
fn a_copy_that_is_put_back_goes_on_beyond_all_that_was_ever_seen() {
    let directory = tempfile::tempdir().unwrap();
    let (file, copy) = (directory.path().join("store"), directory.path().join("copy"));
    write_nodes(5, &open(directory.path()));
    std::fs::copy(&file, &copy).unwrap();
    let lost = open(directory.path());
    write_nodes(20, &lost);
    let mut seen = lost.load().unwrap().revision;
    drop(lost);
    for _ in 0..2 {
        std::fs::copy(&copy, &file).unwrap();
        let store = open(directory.path());
        let (before, leap) = (store.load().unwrap(), store.leap().unwrap());
        assert!(leap > seen && store.load().unwrap().objects == before.objects);
        assert_eq!(transact(&store, put("new")).unwrap(), Revision(leap.0 + 1));
        for revision in [Revision(3), before.revision, seen, Revision(leap.0 - 1)] {
            assert!(matches!(store.changes(revision, usize::MAX), Err(ChangesError::Compacted { .. })), "{revision}");
        }
        assert_eq!(store.changes(leap, usize::MAX).unwrap().len(), 1);
        seen = store.load().unwrap().revision;
    }
}
