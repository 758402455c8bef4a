//! The store on a real etcd: the suite, its limits, servers that are killed, members that are, and a history that is cut off.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use lab::Lab;
use lab::etcd::{Options, Version};
use model::{Object, Revision};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use store::{
    ChangesError, DumpError, Etcd, EtcdOptions, Import, Op, Redb, Store, TransactError, Transaction, Updates, export, import, suite,
};

const DEADLINE: Duration = Duration::from_secs(120);

/// A lab with one cluster.
struct World {
    cluster: lab::etcd::Etcd,
    _lab: Lab,
    /// A deployment per store that is asked for.
    next: AtomicUsize,
}

impl World {
    fn new(options: &Options) -> World {
        let lab = Lab::scratch().unwrap();
        // Processes are killed here and no machine is: a disk that others keep busy must not make etcd's answers late.
        let args = [&options.args[..], &["--unsafe-no-fsync".into()]].concat();
        let cluster = lab::etcd::Etcd::start(&lab, "etcd", &Options { args, ..options.clone() }).unwrap();
        World { cluster, _lab: lab, next: AtomicUsize::new(0) }
    }

    fn options(&self, prefix: &str) -> EtcdOptions {
        let mut options = EtcdOptions { endpoints: self.cluster.endpoints(), prefix: prefix.into(), ..EtcdOptions::default() };
        if let Some([ca, certificate, key]) = self.cluster.client().cloned() {
            (options.ca, options.certificate, options.key) = (Some(ca), Some(certificate), Some(key));
        }
        options
    }

    fn store(&self, prefix: &str) -> Etcd {
        Etcd::new(self.options(prefix)).unwrap()
    }

    fn fresh(&self) -> Etcd {
        self.store(&format!("/suite-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }
}

fn put(name: &str) -> Op {
    Op::Put(Arc::new(Object::from(suite::node(name))))
}

fn transact(store: &impl Store, ops: Vec<Op>) -> Result<Revision, TransactError> {
    store.transact(&suite::transaction(store, ops))
}

fn many(count: usize) -> Vec<Op> {
    (0..count).map(|n| put(&format!("node-{n}"))).collect()
}

/// Tells through a channel when there may be updates.
fn follow(store: &Etcd) -> mpsc::Receiver<()> {
    let (wake, woken) = mpsc::channel();
    store.on_update(Box::new(move || {
        let _ = wake.send(());
    }));
    woken
}

fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn debians_etcd_passes_the_suite() {
    let world = World::new(&Options::default());
    suite::suite(|| world.fresh());
}

#[test]
fn the_newest_etcd_passes_the_suite_with_tls_and_three_members() {
    let world = World::new(&Options { version: Version::Module, members: 3, is_secure: true, ..Options::default() });
    suite::suite(|| world.fresh());
}

#[test]
fn each_server_sees_what_the_others_commit_once_and_in_order() {
    let world = World::new(&Options::default());
    let (ours, theirs) = (world.store("/t"), world.store("/t"));
    let mut known = ours.load().unwrap().revision;
    let woken = follow(&ours);
    let large = many(1000);
    let written = [vec![put("a"), Op::PutRecord("n".into(), b"1".to_vec())], large.clone(), vec![Op::DeleteRecord("n".into())]];
    for (number, ops) in written.iter().enumerate() {
        assert_eq!(transact(&theirs, ops.clone()).unwrap(), Revision(number as u64 + 1));
    }
    let mut seen = Vec::new();
    while seen.len() < written.len() {
        woken.recv_timeout(DEADLINE).expect("a wake");
        let Updates::Each(updates) = ours.updates(known, known).unwrap() else { panic!("nothing was missed") };
        known = updates.last().map_or(known, |last| last.revision);
        seen.extend(updates);
    }
    let sorted = |ops: &[Op]| ops.iter().map(|op| (op.key(), op.clone())).collect::<std::collections::BTreeMap<_, _>>();
    for (number, update) in seen.iter().enumerate() {
        assert_eq!(update.revision, Revision(number as u64 + 1));
        assert_eq!(sorted(&update.ops), sorted(&written[number]), "revision {}", number + 1);
    }
    let changed: Vec<usize> = ours.changes(Revision(0), usize::MAX).unwrap().iter().map(|commit| commit.changes.len()).collect();
    assert_eq!(changed, [1, 1000, 0]);
}

/// Records in a transaction: every other one is too large for one of etcd's.
fn size(revision: u64) -> usize {
    if revision.is_multiple_of(2) { 700 } else { 3 }
}

/// All that a transaction writes says which revision it made, and each makes one object.
fn made(revision: u64) -> Vec<Op> {
    let records = (0..size(revision)).map(|n| Op::PutRecord(format!("r/{n}"), revision.to_string().into_bytes()));
    records.chain([put(&format!("node-{revision}"))]).collect()
}

/// The other side of the test below: writes large and small transactions until it is killed.
#[test]
fn child_that_is_killed() {
    let Ok(endpoint) = std::env::var("LADON_ETCD_CRASH") else { return };
    let store = Etcd::new(EtcdOptions { endpoints: vec![endpoint], prefix: "/crash".into(), ..EtcdOptions::default() }).unwrap();
    let mut out = std::io::stdout();
    loop {
        let snapshot = store.load().unwrap();
        match store.transact(&Transaction { base: snapshot.revision, ops: made(snapshot.revision.0 + 1) }) {
            Ok(revision) => writeln!(out, "\nanswered {revision}").and_then(|()| out.flush()).unwrap(),
            Err(TransactError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_server_that_is_killed_at_any_moment_loses_and_halves_nothing() {
    let world = World::new(&Options { version: Version::Module, ..Options::default() });
    let endpoint = world.cluster.endpoints()[0].clone();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut answered = 0;
    for _ in 0..10 {
        // Two at once: one is killed in the middle of whatever it does.
        let mut children: Vec<_> = (0..2).map(|_| child(&endpoint)).collect();
        let lines = BufReader::new(children[0].stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut revisions = lines.filter_map(|line| line.strip_prefix("answered ")?.parse::<u64>().ok());
        let mut last = revisions.by_ref().take(random.random_range(1..=4)).last();
        std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
        children.iter_mut().for_each(|child| child.kill().unwrap());
        last = revisions.last().or(last);
        for mut child in children {
            child.wait().unwrap();
        }
        answered = answered.max(last.expect("the child answered"));
        check(&world.store("/crash"), answered);
    }
}

fn child(endpoint: &str) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_that_is_killed", "--nocapture"]).env("LADON_ETCD_CRASH", endpoint);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// Everything is as the latest transaction left it, whether it is applied or not.
fn check(store: &Etcd, answered: u64) {
    let snapshot = store.load().unwrap();
    let latest = snapshot.revision.0;
    assert!(latest >= answered, "answered {answered}, found {latest}");
    for (name, bytes) in &snapshot.records {
        let number: usize = name.strip_prefix("r/").unwrap().parse().unwrap();
        let expected = if number < size(latest) { latest } else { latest - 1 };
        assert_eq!(String::from_utf8_lossy(bytes), expected.to_string(), "{name} at revision {latest}");
    }
    assert_eq!(snapshot.objects.len() as u64, latest, "each transaction made one object");
    let from = latest.saturating_sub(10);
    let commits = store.changes(Revision(from), usize::MAX).unwrap();
    assert_eq!(commits.iter().map(|commit| commit.revision.0).collect::<Vec<_>>(), (from + 1..=latest).collect::<Vec<_>>());
    assert!(commits.iter().all(|commit| commit.changes.len() == 1 && commit.changes[0].before.is_none()));
    // Whoever writes next applies what is left over.
    transact(store, made(latest + 1)).unwrap();
    let after = store.load().unwrap();
    assert_eq!((after.revision.0, after.objects.len() as u64), (latest + 1, latest + 1));
}

#[test]
fn a_history_that_etcd_has_cut_off_is_told_and_a_late_watch_begins_again() {
    let world = World::new(&Options::default());
    let store = world.store("/t");
    for n in 0..50 {
        transact(&store, vec![put(&n.to_string())]).unwrap();
    }
    store.forget_history(Duration::from_secs(3600)).unwrap();
    assert_eq!(store.changes(Revision(0), usize::MAX).unwrap().len(), 50, "an hour is kept");
    store.forget_history(Duration::ZERO).unwrap();
    for from in [0, 49] {
        let told = store.changes(Revision(from), usize::MAX);
        assert!(matches!(told, Err(ChangesError::Compacted { oldest: Revision(50) })), "{told:?}");
    }
    assert!(store.changes(Revision(50), usize::MAX).unwrap().is_empty());
    // A server that begins to watch where etcd has forgotten everything.
    let late = world.store("/t");
    assert_eq!(late.load().unwrap().revision, Revision(50));
    (0..5).for_each(|n| drop(transact(&store, vec![put(&format!("after-{n}"))])));
    store.forget_history(Duration::ZERO).unwrap();
    let woken = follow(&late);
    woken.recv_timeout(DEADLINE).expect("a wake");
    let Updates::All(snapshot) = late.updates(Revision(50), Revision(50)).unwrap() else { panic!("nothing was missed") };
    assert_eq!((snapshot.revision, snapshot.objects.len()), (Revision(55), 55));
    // From there on it follows.
    transact(&store, vec![put("last")]).unwrap();
    let updates = late.updates(Revision(55), Revision(56)).unwrap();
    assert!(matches!(updates, Updates::Each(ref updates) if updates.len() == 1), "{updates:?}");
}

#[test]
fn updates_that_could_not_be_read_or_were_not_taken_in_are_told_again() {
    let world = World::new(&Options::default());
    let (ours, theirs) = (world.store("/t"), world.store("/t"));
    assert_eq!(ours.load().unwrap().revision, Revision(0));
    let woken = follow(&ours);
    // It comes in parts, which are read when they are asked for.
    transact(&theirs, many(1000)).unwrap();
    woken.recv_timeout(DEADLINE).expect("a wake");
    world.cluster.member(0).kill9().unwrap();
    assert!(ours.updates(Revision(0), Revision(1)).is_err());
    world.cluster.member(0).restart().unwrap();
    world.cluster.wait_until_ready().unwrap();
    let told = |from, until| soon("etcd answers", || ours.updates(Revision(from), Revision(until)).ok());
    let objects = |updates: Updates| match updates {
        Updates::All(snapshot) => snapshot.objects.len(),
        Updates::Each(updates) => updates.iter().map(|update| update.ops.len()).sum(),
    };
    assert_eq!(objects(told(0, 1)), 1000);
    // Nor is what the server could not take in gone for ever.
    transact(&theirs, vec![put("a")]).unwrap();
    assert_eq!(objects(told(1, 2)), 1);
    assert_eq!(objects(told(1, 2)), 1001, "everything");
    assert_eq!(objects(told(2, 2)), 0, "nothing is told twice otherwise");
    transact(&theirs, vec![put("b")]).unwrap();
    assert_eq!(objects(told(2, 3)), 1);
}

#[test]
fn a_deployment_moves_to_debians_etcd_and_back_and_goes_on_where_it_was() {
    a_deployment_moves_there_and_back(&Options::default());
}

#[test]
fn a_deployment_moves_to_the_newest_etcd_and_back_and_goes_on_where_it_was() {
    a_deployment_moves_there_and_back(&Options { version: Version::Module, members: 3, is_secure: true, ..Options::default() });
}

fn a_deployment_moves_there_and_back(options: &Options) {
    let world = World::new(options);
    let directory = tempfile::tempdir().unwrap();
    let redb = |name: &str| Redb::open(directory.path().join(name), store::Options::default()).unwrap();
    let (before, etcd, after) = (redb("before"), world.store("/t"), redb("after"));
    for n in 0..3 {
        transact(&before, many(500 + n)).unwrap();
    }
    transact(&before, vec![Op::PutRecord("keys".into(), b"{\"port\":7}".to_vec())]).unwrap();
    let mut file = Vec::new();
    let moved = export(&before, &mut file).unwrap();
    assert_eq!((moved.revision, moved.objects, moved.records), (Revision(4), 502, 1));
    assert_eq!(import(&etcd, file.as_slice(), Import::Move).unwrap(), moved);
    assert_eq!(etcd.load().unwrap(), before.load().unwrap());
    assert!(matches!(etcd.changes(Revision(3), usize::MAX), Err(ChangesError::Compacted { oldest: Revision(4) })));
    assert!(matches!(import(&etcd, file.as_slice(), Import::Move), Err(DumpError::NotEmpty(Revision(4)))));
    assert_eq!(transact(&etcd, vec![put("in-etcd")]).unwrap(), Revision(5));
    assert_eq!(etcd.changes(Revision(4), usize::MAX).unwrap().len(), 1);
    let mut file = Vec::new();
    export(&etcd, &mut file).unwrap();
    import(&after, file.as_slice(), Import::Move).unwrap();
    assert_eq!(after.load().unwrap(), etcd.load().unwrap());
}

#[test]
fn members_that_are_killed_or_hang_are_left_and_nothing_is_missed() {
    let world = World::new(&Options { members: 3, ..Options::default() });
    let (ours, theirs) = (world.store("/t"), world.store("/t"));
    let mut known = ours.load().unwrap().revision;
    let woken = follow(&ours);
    let mut names = BTreeSet::new();
    let mut write = |name: String| {
        soon("a majority takes writes", || match transact(&theirs, vec![put(&name)]) {
            Ok(_) => Some(()),
            Err(error) => {
                println!("{error}");
                None
            }
        });
        names.insert(name);
    };
    write("before".into());
    // Both speak to the first member.
    world.cluster.member(0).kill9().unwrap();
    (0..5).for_each(|n| write(format!("killed-{n}")));
    world.cluster.member(0).restart().unwrap();
    world.cluster.wait_until_ready().unwrap();
    world.cluster.member(1).signal(Signal::SIGSTOP);
    (0..5).for_each(|n| write(format!("hung-{n}")));
    world.cluster.member(1).signal(Signal::SIGCONT);
    let latest = theirs.load().unwrap().revision;
    let mut seen = BTreeSet::new();
    while known < latest {
        woken.recv_timeout(DEADLINE).expect("a wake");
        let Updates::Each(updates) = ours.updates(known, known).unwrap() else { panic!("nothing was missed") };
        for update in updates {
            assert_eq!(update.revision.0, known.0 + 1);
            known = update.revision;
            seen.extend(update.ops.iter().map(Op::key));
        }
    }
    // A write whose answer was lost may have been done and then done again under the same name.
    assert_eq!(seen, names.iter().map(|name| put(name).key()).collect());
    assert_eq!(theirs.load().unwrap().objects.len(), names.len());
}

#[test]
fn an_etcd_that_is_away_is_an_error_in_time_and_no_harm() {
    let world = World::new(&Options::default());
    let store = world.store("/t");
    let before = suite::transaction(&store, vec![put("a")]);
    world.cluster.member(0).kill9().unwrap();
    let started = Instant::now();
    let error = store.transact(&before).unwrap_err();
    assert!(matches!(error, TransactError::Unknown(_) | TransactError::Store(_)), "{error}");
    assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
    world.cluster.member(0).restart().unwrap();
    world.cluster.wait_until_ready().unwrap();
    // Done or not, the state tells, and the next one finds out.
    let there = soon("it is back", || store.load().ok());
    assert_eq!(there.objects.len() as u64, there.revision.0);
    transact(&store, vec![put("b")]).unwrap();
}

#[test]
fn without_a_majority_nothing_is_written_and_that_is_what_is_said() {
    let world = World::new(&Options { members: 3, version: Version::Module, ..Options::default() });
    let store = world.store("/t");
    transact(&store, vec![put("before")]).unwrap();
    let dead = [0, 2];
    dead.iter().for_each(|n| world.cluster.member(*n).kill9().unwrap());
    world.cluster.wait_until_leaderless(1).unwrap();
    let (started, base) = (Instant::now(), Revision(1));
    let error = store.transact(&Transaction { base, ops: vec![put("refused")] }).unwrap_err();
    assert!(matches!(error, TransactError::Store(_)), "{error}");
    assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
    dead.iter().for_each(|n| world.cluster.member(*n).restart().unwrap());
    world.cluster.wait_until_ready().unwrap();
    let there = soon("the majority is back", || store.load().ok());
    assert_eq!((there.revision, there.objects.len()), (base, 1), "nothing was written");
    assert_eq!(transact(&store, vec![put("after")]).unwrap(), Revision(2));
}
