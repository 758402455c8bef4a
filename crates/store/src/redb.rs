//! The embedded store: one file, one server (redb: copy-on-write B-trees, checksummed commits).
//!
//! Three tables: entries (key → revision of the last change, value), the log (revision → changes) and a few numbers. A
//! transaction is one commit of redb with an `fsync`, so after `kill -9` or a power cut the file holds exactly the commits
//! up to one of them, and every one that was answered. Many small writes are slow for the same reason: the server's writer
//! puts many requests into one transaction.
//!
//! A full disk is found out before the file is touched ([`Options::reserve_bytes`]); if writing fails all the same, redb
//! refuses to go on and the file is opened anew, which tells what is in it. So is a file that somebody else has cut off, removed or
//! replaced meanwhile: what is written to that would be gone at the next start.
//!
//! A copy that is put back has forgotten revisions that nodes have seen: [`Redb::leap`] goes on beyond all of them.

mod file;
mod making;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::Revision;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition, WriteTransaction};

use crate::codec::{self, LogEntry};
use crate::time::{unix_micros, unix_secs};
use crate::{ChangesError, Commit, Key, Op, Snapshot, Store, StoreError, TransactError, Transaction, check_base, check_length};
use file::StoreFile;
pub use making::Making;

const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const NUMBERS: TableDefinition<&[u8], u64> = TableDefinition::new("numbers");

/// Numbers: the latest revision, the log's size, the version of the tables.
const REVISION: &[u8] = b"revision";
const LOG_BYTES: &[u8] = b"log_bytes";
const FORMAT: &[u8] = b"format";
const FORMAT_VERSION: u64 = 1;

/// Memory for the file's pages. Reads come from the server's own picture, so that a small cache does.
const CACHE_BYTES: usize = 64 << 20;
/// Log entries that one transaction removes at most: old ones go little by little.
const TRIM_MAX: usize = 64;
/// What a transaction may need on the disk beyond its own bytes, several times over: copies of the trees' pages.
const OVERHEAD_FACTOR: u64 = 4;

/// Attempts to open a file again after a failure go on for so long; then it is not known what came of a transaction.
const REOPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two attempts to open a file again.
const REOPEN_PAUSE: Duration = Duration::from_millis(10);

/// How far back the log of changes reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogLimits {
    /// Older entries are removed.
    pub age: Duration,
    /// The oldest entries are removed when all together are larger.
    pub bytes: u64,
}

impl Default for LogLimits {
    /// Two hours, 256 MiB.
    fn default() -> LogLimits {
        LogLimits { age: Duration::from_secs(2 * 3600), bytes: 256 << 20 }
    }
}

/// What can be chosen of the embedded store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    pub log: LogLimits,
    /// Free bytes on the disk below which nothing is written.
    pub reserve_bytes: u64,
}

impl Default for Options {
    /// Eight MiB of reserve.
    fn default() -> Options {
        Options { log: LogLimits::default(), reserve_bytes: 8 << 20 }
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{path}: another process has the store open, and a store in a file means exactly one server; nodes keep forwarding as they do; stop the \
         other server, or give this one a file of its own"
    )]
    InUse { path: PathBuf },
    #[error(
        "{path}: the store's tables have version {found}, this release knows {FORMAT_VERSION}; nodes keep forwarding as they do; use the release \
         that wrote them"
    )]
    Format { path: PathBuf, found: u64 },
    /// A new store is made only where there is no file: an empty one was a store once, and starting with nothing would take every
    /// port's flows away.
    #[error(
        "{path}: the file is empty; nodes keep forwarding as they do; put the store's copy back, or remove the file to begin with nothing"
    )]
    Empty { path: PathBuf },
    #[error(
        "{path}: the store cannot be opened: {source}; nodes keep forwarding as they do; see that this is a store's file and that the server may \
         read and write it, or put the store's copy back"
    )]
    Failed { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}

/// A store in one file.
pub struct Redb {
    file: StoreFile,
    options: Options,
    /// None after a failure, until it is opened anew.
    database: Mutex<Option<Arc<Database>>>,
}

impl Redb {
    /// Opens the store in `path`, which is made if it is absent (mode 0600). A store that was not closed is repaired.
    pub fn open(path: impl Into<PathBuf>, options: Options) -> Result<Redb, OpenError> {
        let path = path.into();
        if let Some(making) = Making::begin(&path, options)? {
            let store = making.finish()?;
            tracing::warn!("{}", made(&path));
            return Ok(store);
        }
        let database = open(&path)?;
        Ok(Redb::with(path, options, database))
    }

    /// The same store, whose file has another name now.
    fn at(self, path: PathBuf) -> Redb {
        Redb { file: StoreFile::opened(path), ..self }
    }

    fn with(path: PathBuf, options: Options, database: Database) -> Redb {
        Redb { file: StoreFile::opened(path), options, database: Mutex::new(Some(Arc::new(database))) }
    }

    /// Goes on far beyond every revision that was ever told, with an empty log, and tells where. To be done with a copy that
    /// is put back: a node that has seen revisions that the copy does not know would else take new ones of the same numbers for
    /// those. After a leap every node gets a snapshot.
    ///
    /// The time in microseconds will do: no server makes a revision in each, so whatever came after the copy was made lies behind
    /// it, and until the year 2255 JSON's numbers hold it.
    pub fn leap(&self) -> Result<Revision, TransactError> {
        let database = self.database()?;
        self.file.writing(&mut self.file.left(), || {
            let write = database.begin_write().map_err(failed("beginning a transaction"))?;
            let next = Revision((revision_in(&write)?.0 + 1).max(unix_micros()));
            write.delete_table(LOG).map_err(failed("clearing the log"))?;
            write.open_table(LOG).map_err(failed("opening a table"))?;
            set(&write, LOG_BYTES, 0)?;
            set(&write, REVISION, next.0)?;
            commit(write)?;
            Ok(next)
        })
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let mut slot = self.slot();
        if let Some(database) = &*slot {
            return Ok(database.clone());
        }
        self.file.check_whole()?;
        let opened =
            open(self.file.path()).map_err(|error| StoreError::Failed { doing: "opening its file again", source: cause(error) })?;
        let database = Arc::new(opened);
        *slot = Some(database.clone());
        self.file.reopened();
        Ok(database)
    }

    /// What came of a transaction whose writing failed: the file, opened anew, has it or not.
    fn settle(&self, failure: TransactError, wanted: Revision) -> Result<Revision, TransactError> {
        *self.slot() = None;
        // A reader of the log may hold the old file open for a moment.
        let database = patiently(|| self.database(), std::thread::sleep);
        if let Err(error) = &database {
            tracing::error!("{error}");
        }
        match database.and_then(|database| revision(&database)) {
            Ok(revision) if revision == wanted => Ok(wanted),
            Ok(_) => Err(failure),
            Err(_) => Err(TransactError::Unknown("its file cannot be opened again (the log says why)".into())),
        }
    }

    fn has_room(&self, transaction: &Transaction) -> bool {
        let bytes: usize = transaction.ops.iter().map(op_bytes).sum();
        let needed = self.options.reserve_bytes + bytes as u64 * OVERHEAD_FACTOR;
        let directory = self.file.path().parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let free = nix::sys::statvfs::statvfs(directory).map(|disk| disk.blocks_available() as u64 * disk.fragment_size() as u64);
        is_enough(free, needed)
    }

    fn write(&self, database: &Database, transaction: &Transaction) -> Result<Revision, TransactError> {
        let write = database.begin_write().map_err(failed("beginning a transaction"))?;
        let latest = revision_in(&write)?;
        check_base(transaction.base, latest)?;
        let next = Revision(latest.0 + 1);
        {
            let mut entries = write.open_table(ENTRIES).map_err(failed("opening a table"))?;
            let mut log = LogEntry::new(unix_secs());
            for op in &transaction.ops {
                apply(&mut entries, op, next, &mut log)?;
            }
            self.append(&write, next, &log)?;
        }
        set(&write, REVISION, next.0)?;
        commit(write)?;
        Ok(next)
    }

    /// Appends to the log and removes what is too old or too much.
    fn append(&self, write: &WriteTransaction, revision: Revision, entry: &LogEntry) -> Result<(), TransactError> {
        let doing = failed("writing the log");
        let mut log = write.open_table(LOG).map_err(failed("opening a table"))?;
        log.insert(revision.0, entry.bytes()).map_err(&doing)?;
        let mut bytes = number(write, LOG_BYTES)? + entry.bytes().len() as u64;
        let oldest = unix_secs().saturating_sub(self.options.log.age.as_secs());
        for _ in 0..TRIM_MAX {
            let Some((key, size, time)) = oldest_entry(&log)? else { break };
            let is_spare = time < oldest || bytes > self.options.log.bytes;
            if !is_spare || key == revision.0 {
                break;
            }
            bytes = bytes.saturating_sub(size);
            log.remove(key).map_err(&doing)?;
        }
        set(write, LOG_BYTES, bytes)
    }
}

/// What `attempt` comes to, again and again with a `pause` in between, until it works or there have been enough.
fn patiently<T, E>(attempt: impl Fn() -> Result<T, E>, mut pause: impl FnMut(Duration)) -> Result<T, E> {
    let (began, mut paused) = (Instant::now(), Duration::ZERO);
    loop {
        match attempt() {
            Err(_) if paused.max(began.elapsed()) < REOPEN_TIMEOUT => {
                pause(REOPEN_PAUSE);
                paused += REOPEN_PAUSE;
            }
            other => return other,
        }
    }
}

fn commit(write: WriteTransaction) -> Result<(), TransactError> {
    write.commit().map_err(failed("making a transaction durable"))
}

/// Revision, size and time of the log's first entry.
fn oldest_entry(log: &Table<u64, &[u8]>) -> Result<Option<(u64, u64, u64)>, TransactError> {
    let Some((key, value)) = log.first().map_err(failed::<StorageError>("reading the log"))? else { return Ok(None) };
    let time = codec::log_time(value.value()).map_err(StoreError::from)?;
    Ok(Some((key.value(), value.value().len() as u64, time)))
}

/// A disk that cannot be asked is found full by writing.
fn is_enough(free: nix::Result<u64>, needed: u64) -> bool {
    free.map_or(true, |free| free >= needed)
}

/// A transaction's share in bytes, roughly: its value is in the table and in the log.
fn op_bytes(op: &Op) -> usize {
    const OBJECT: usize = 2048;
    match op {
        Op::Put(_) => OBJECT,
        Op::PutRecord(_, bytes) => bytes.len(),
        Op::Delete(_) | Op::DeleteRecord(_) => OBJECT / 2,
    }
}

/// What is said of a file that was not there.
fn made(path: &Path) -> String {
    format!(
        "{}: there was no store, and a new one with nothing in it is made; nodes with a view of an earlier one do not obey it and forward as they do, \
         nodes without a view obey it; if there was one (a volume that is not mounted, another path), stop the server, put the store where it was and start again",
        path.display()
    )
}

fn open(path: &Path) -> Result<Database, OpenError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Failed { path: path.into(), source };
    if std::fs::metadata(path).is_ok_and(|there| there.len() == 0) {
        return Err(OpenError::Empty { path: path.into() });
    }
    // What redb makes of a damaged file is mostly an error, and sometimes a panic.
    let opened = std::panic::catch_unwind(|| open_undamaged(path));
    opened.unwrap_or_else(|_| Err(failed("the file is damaged, and the reader of it gave up".into())))
}

fn open_undamaged(path: &Path) -> Result<Database, OpenError> {
    let file = File::options().read(true).write(true).open(path);
    database(path, file.map_err(|source| OpenError::Failed { path: path.into(), source: source.into() })?)
}

fn database(path: &Path, file: File) -> Result<Database, OpenError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Failed { path: path.into(), source };
    let backend = redb::backends::FileBackend::new(file).map_err(|error| failed(error.into()))?;
    let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: path.into() },
        other => failed(other.into()),
    })?;
    match format(&database).map_err(|error| failed(error.into()))? {
        FORMAT_VERSION => Ok(database),
        found => Err(OpenError::Format { path: path.into(), found }),
    }
}

/// Why the file could not be opened, where somebody else says which file and what follows.
fn cause(error: OpenError) -> Box<dyn std::error::Error + Send + Sync> {
    match error {
        OpenError::Failed { source, .. } => source,
        other => other.into(),
    }
}

/// The version of the tables, which are made if the file is new.
fn format(database: &Database) -> Result<u64, redb::Error> {
    let read = database.begin_read()?;
    if let Ok(numbers) = read.open_table(NUMBERS)
        && let Some(version) = numbers.get(FORMAT)?
    {
        return Ok(version.value());
    }
    let write = database.begin_write()?;
    {
        write.open_table(ENTRIES)?;
        write.open_table(LOG)?;
        write.open_table(NUMBERS)?.insert(FORMAT, FORMAT_VERSION)?;
    }
    write.commit()?;
    Ok(FORMAT_VERSION)
}

fn failed<E: Into<redb::Error>>(doing: &'static str) -> impl Fn(E) -> TransactError {
    move |error| match error.into() {
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => TransactError::Full,
        error => TransactError::Store(StoreError::Failed { doing, source: error.into() }),
    }
}

fn reading<E: Into<redb::Error>>(error: E) -> StoreError {
    StoreError::Failed { doing: "reading", source: error.into().into() }
}

fn number(write: &WriteTransaction, name: &[u8]) -> Result<u64, TransactError> {
    let numbers = write.open_table(NUMBERS).map_err(failed("opening a table"))?;
    let number = numbers.get(name).map_err(failed("reading a number"))?;
    Ok(number.map(|number| number.value()).unwrap_or_default())
}

fn set(write: &WriteTransaction, name: &[u8], value: u64) -> Result<(), TransactError> {
    let mut numbers = write.open_table(NUMBERS).map_err(failed("opening a table"))?;
    numbers.insert(name, value).map_err(failed("writing a number"))?;
    Ok(())
}

fn revision_in(write: &WriteTransaction) -> Result<Revision, TransactError> {
    number(write, REVISION).map(Revision)
}

fn revision(database: &Database) -> Result<Revision, StoreError> {
    let read = database.begin_read().map_err(reading)?;
    let numbers = read.open_table(NUMBERS).map_err(reading)?;
    let number = numbers.get(REVISION).map_err(reading)?;
    Ok(Revision(number.map(|number| number.value()).unwrap_or_default()))
}

/// Applies one operation and tells the log about it, if it is about an object.
fn apply(entries: &mut Table<&[u8], &[u8]>, op: &Op, revision: Revision, log: &mut LogEntry) -> Result<(), TransactError> {
    let key = op.key();
    let text = key.to_string();
    let after = match op {
        Op::Put(object) => Some(codec::encode_object(object)),
        Op::PutRecord(_, bytes) => Some(bytes.clone()),
        Op::Delete(_) | Op::DeleteRecord(_) => None,
    };
    let before = match &after {
        Some(after) => entries.insert(text.as_bytes(), codec::with_revision(revision, after).as_slice()),
        None => entries.remove(text.as_bytes()),
    };
    let before = before.map_err(failed::<StorageError>("writing an entry"))?.map(|entry| entry.value().to_vec());
    if let Key::Object(_) = key
        && (before.is_some() || after.is_some())
    {
        let before = before.as_deref().map(codec::split_revision).transpose().map_err(StoreError::from)?;
        log.push(&text, before.map(|(_, bytes)| bytes), after.as_deref());
    }
    Ok(())
}

impl Store for Redb {
    fn load(&self) -> Result<Snapshot, StoreError> {
        let database = self.database()?;
        // One read transaction sees one state of all tables.
        let read = database.begin_read().map_err(reading)?;
        let revision = read.open_table(NUMBERS).map_err(reading)?.get(REVISION).map_err(reading)?.map(|number| number.value());
        let mut snapshot = Snapshot { revision: Revision(revision.unwrap_or_default()), ..Snapshot::default() };
        for entry in read.open_table(ENTRIES).map_err(reading)?.iter().map_err(reading)? {
            let (key, value) = entry.map_err(reading)?;
            let text = String::from_utf8_lossy(key.value()).into_owned();
            let (_, bytes) = codec::split_revision(value.value())?;
            match Key::parse(&text).ok_or_else(|| codec::DecodeError::Key(text.clone()))? {
                Key::Object(_) => snapshot.objects.push(codec::decode_object(&text, bytes)?),
                Key::Record(name) => snapshot.records.push((name, bytes.to_vec())),
            }
        }
        Ok(snapshot)
    }

    fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        let database = self.database()?;
        let latest = revision(&database)?;
        if from > latest {
            return Err(ChangesError::Future(from));
        }
        let read = database.begin_read().map_err(reading)?;
        let log = read.open_table(LOG).map_err(reading)?;
        let first = log.first().map_err(reading)?.map_or(latest.0, |(first, _)| first.value().saturating_sub(1));
        if from.0 < first {
            return Err(ChangesError::Compacted { oldest: Revision(first) });
        }
        check_length(from, latest, most)?;
        let (mut commits, mut changes) = (Vec::new(), 0);
        for entry in log.range(from.0 + 1..).map_err(reading)? {
            let (revision, entry) = entry.map_err(reading)?;
            let commit = codec::decode_log(Revision(revision.value()), entry.value()).map_err(StoreError::from)?;
            changes += commit.changes.len();
            if changes > most {
                return Err(ChangesError::TooMany { most });
            }
            commits.push(commit);
        }
        Ok(commits)
    }

    fn fill(&self, snapshot: &Snapshot) -> Result<(), TransactError> {
        let database = self.database()?;
        check_base(Revision::default(), revision(&database)?)?;
        self.file.writing(&mut self.file.left(), || {
            let write = database.begin_write().map_err(failed("beginning a transaction"))?;
            {
                let mut entries = write.open_table(ENTRIES).map_err(failed("opening a table"))?;
                let objects = snapshot.objects.iter().map(|object| (Key::Object(object.key()), codec::encode_object(object)));
                let records = snapshot.records.iter().map(|(name, bytes)| (Key::Record(name.clone()), bytes.clone()));
                for (key, bytes) in objects.chain(records) {
                    let value = codec::with_revision(snapshot.revision, &bytes);
                    entries.insert(key.to_string().as_bytes(), value.as_slice()).map_err(failed::<StorageError>("writing an entry"))?;
                }
            }
            set(&write, REVISION, snapshot.revision.0)?;
            commit(write)
        })
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        let database = self.database()?;
        let mut left = self.file.left();
        self.file.check(*left, || std::mem::forget(database.clone()))?;
        // Nobody else writes this file: a conflict follows a failure whose outcome was not known.
        if transaction.ops.is_empty() {
            check_base(transaction.base, revision(&database)?)?;
            return Ok(transaction.base);
        }
        if !self.has_room(transaction) {
            return Err(TransactError::Full);
        }
        let wanted = Revision(transaction.base.0 + 1);
        match self.file.writing(&mut left, || self.write(&database, transaction)) {
            Err(failure @ (TransactError::Full | TransactError::Store(StoreError::Failed { .. }))) => {
                drop((database, left));
                self.settle(failure, wanted)
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_disk_that_cannot_be_asked_is_written_to() {
        assert!(is_enough(Err(Errno::EOVERFLOW), 1));
        assert!(is_enough(Ok(8), 8) && !is_enough(Ok(7), 8));
    }

    fn open(directory: &Path, bytes: u64) -> Redb {
        let log = LogLimits { bytes, ..LogLimits::default() };
        Redb::open(directory.join("store"), Options { log, reserve_bytes: 0 }).unwrap()
    }

    fn transact(store: &Redb, base: u64) {
        store.transact(&Transaction { base: Revision(base), ops: vec![Op::PutRecord("a".into(), vec![1])] }).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_is_tried_for_a_while() {
        let mut paused = Vec::new();
        assert!(patiently(|| Err::<(), _>("held"), |pause| paused.push(pause)).is_err());
        assert_eq!(paused.iter().sum::<Duration>(), REOPEN_TIMEOUT);
        let attempts = Cell::new(0);
        let third = || {
            attempts.set(attempts.get() + 1);
            if attempts.get() < 3 { Err("held") } else { Ok(()) }
        };
        paused.clear();
        assert_eq!(patiently(third, |pause| paused.push(pause)), Ok(()));
        assert_eq!(paused, [REOPEN_PAUSE; 2]);
    }

    #[test]
    fn no_more_of_the_file_is_kept_in_memory_than_so_much() {
        const RECORD: usize = 1 << 20;
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), u64::MAX);
        let records = (0..2 * CACHE_BYTES / RECORD).map(|n| (n.to_string(), vec![n as u8; RECORD]));
        store.fill(&Snapshot { revision: Revision(1), records: records.collect(), ..Snapshot::default() }).unwrap();
        assert_eq!(store.load().unwrap().records.len(), 2 * CACHE_BYTES / RECORD);
        let cached = store.database().unwrap().cache_stats().used_bytes();
        assert!(cached > CACHE_BYTES / 2 && cached <= CACHE_BYTES, "{cached}");
    }

    #[test]
    fn what_is_too_old_in_the_log_goes_little_by_little() {
        const COMMITS: u64 = 2 * TRIM_MAX as u64 + 10;
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), u64::MAX);
        (0..COMMITS).for_each(|base| transact(&store, base));
        drop(store);
        let store = open(directory.path(), 0);
        for (base, left) in [(COMMITS, TRIM_MAX as u64 + 11), (COMMITS + 1, 12), (COMMITS + 2, 1)] {
            transact(&store, base);
            assert_eq!(store.changes(Revision(base + 1 - left), usize::MAX).unwrap().len() as u64, left);
            assert!(matches!(store.changes(Revision(base - left), usize::MAX), Err(ChangesError::Compacted { .. })));
        }
    }

    #[test]
    fn a_long_history_is_told_as_far_as_the_log_reaches_back() {
        const COMMITS: u64 = 30_000;
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), u64::MAX);
        // As if each had been a transaction of its own.
        let database = store.database().unwrap();
        let write = database.begin_write().unwrap();
        for revision in 1..=COMMITS {
            write.open_table(LOG).unwrap().insert(revision, LogEntry::new(0).bytes()).unwrap();
        }
        set(&write, REVISION, COMMITS).unwrap();
        write.commit().unwrap();
        let most = COMMITS as usize;
        assert_eq!(store.changes(Revision(0), most).unwrap().len(), most);
        let too_many = store.changes(Revision(0), most - 1);
        assert!(matches!(too_many, Err(ChangesError::TooMany { .. })), "nothing has changed in them, but they are many: {too_many:?}");
    }

    #[test]
    fn a_new_store_is_told_with_what_it_means_and_what_to_do() {
        assert_eq!(made(Path::new("/store")).split("; ").count(), 3);
    }
}
