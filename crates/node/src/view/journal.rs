//! What has changed of the view since it was last saved, in a file beside it.
//!
//! What comes is appended here before anybody acts on it, so that a node that is killed at whatever moment begins with the view that its
//! switch has. The view is saved when its journal has grown to a good part of it: what a change writes is in proportion to the change,
//! not to the view. Nothing is flushed: a power failure that takes the latest lines takes the switch's flows too.
//!
//! ```text
//! <SHA-256 of what follows, in hexadecimal> {"after":"9a…","revision":43,"store":"6e0c…","upserts":[{"port":{…}}],"removals":[]}
//! ```
//!
//! A line names the sum of the line before it, and the saved view names that of the last line that is in it: only what follows from
//! the view is read. When a save begins, or a node starts, the file becomes the *old* one, which goes when a save has succeeded.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Object, ObjectKey, Revision, StoreId};
use serde::{Deserialize, Serialize};

use super::ViewUpdate;
use super::disk::{Saved, checksum};
use crate::record::{PRIVATE, create};

/// Bytes of one file; what comes then waits for the next save.
const JOURNAL_MAX: u64 = 64 << 20;
/// Bytes below which a journal is no reason to save the view, however small that is.
const JOURNAL_LEAST: u64 = 256 << 10;
/// A journal is to be at most one part of so many of the view.
const JOURNAL_SHARE: u64 = 2;

#[derive(Serialize, Deserialize)]
struct Line {
    after: String,
    revision: Revision,
    store: Option<StoreId>,
    upserts: Vec<Arc<Object>>,
    removals: Vec<ObjectKey>,
}

/// The journal of the view at a path.
pub struct Journal {
    view: PathBuf,
    /// Bytes of the view that was saved last.
    view_bytes: u64,
    current: PathBuf,
    old: PathBuf,
    /// None: nothing can be added before the next save.
    file: Option<File>,
    /// Of both files.
    bytes: u64,
    /// The sum of the latest line.
    last: String,
}

impl Journal {
    /// Nothing is added before [`Journal::resume`] or the first save.
    pub fn new(view: &Path) -> Journal {
        let beside = |what: &str| {
            let mut path = view.as_os_str().to_owned();
            path.push(what);
            PathBuf::from(path)
        };
        // Lines of an earlier view follow from something else.
        let last = uuid::Uuid::new_v4().to_string();
        let (view, view_bytes) = (view.to_owned(), 0);
        Journal { view, view_bytes, current: beside(".journal"), old: beside(".journal.old"), file: None, bytes: 0, last }
    }

    /// The sum of the latest line: the saved view's `last`.
    pub fn last(&self) -> String {
        self.last.clone()
    }

    /// The view is to be saved soon: the journal takes nothing more, or has grown with what it took.
    pub fn is_full(&self) -> bool {
        let enough = (self.view_bytes / JOURNAL_SHARE).clamp(JOURNAL_LEAST, JOURNAL_MAX / 2);
        self.file.is_none() || self.bytes >= enough
    }

    /// Adds to the saved view what came after it. The next save takes that in.
    pub fn replay(&mut self, mut saved: Saved) -> Saved {
        let mut changes: BTreeMap<ObjectKey, Option<Arc<Object>>> = BTreeMap::new();
        for path in [&self.old, &self.current] {
            let text = fs::read(path).unwrap_or_else(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("{}: {error}; the node begins with an older view, until a server tells what came since", path.display());
                }
                Vec::new()
            });
            for (sum, line) in String::from_utf8_lossy(&text).lines().filter_map(parse) {
                if line.after != saved.last {
                    continue;
                }
                changes.extend(line.removals.into_iter().map(|key| (key, None)));
                changes.extend(line.upserts.into_iter().map(|object| (object.key(), Some(object))));
                (saved.revision, saved.store, saved.last) = (line.revision, line.store, sum);
            }
        }
        saved.objects.retain(|object| !changes.contains_key(&object.key()));
        saved.objects.extend(changes.into_values().flatten());
        self.last.clone_from(&saved.last);
        saved
    }

    /// Goes on where [`Journal::replay`] has ended: the view need not be saved before anything is added.
    pub fn resume(&mut self) {
        self.save_begins();
        self.bytes = length(&self.old);
        self.view_bytes = length(&self.view);
    }

    /// Notes a change of the view, to what it is then in `store`.
    pub fn append(&mut self, update: &ViewUpdate, store: Option<StoreId>) {
        let Some(file) = &mut self.file else {
            // The next save has it, and nothing that is written before follows from this.
            self.last = uuid::Uuid::new_v4().to_string();
            return;
        };
        let ViewUpdate { upserts, removals, revision, is_complete_snapshot: _ } = update;
        let (upserts, removals) = (upserts.clone(), removals.clone());
        let line = Line { after: self.last.clone(), revision: *revision, store, upserts, removals };
        let body = serde_json::to_string(&line).expect("objects are plain data");
        self.last = checksum(body.as_bytes());
        let line = format!("{} {body}\n", self.last);
        self.bytes += line.len() as u64;
        let too_large = || io::Error::other("it has grown too large before the view was saved");
        let written = if self.bytes > JOURNAL_MAX { Err(too_large()) } else { file.write_all(line.as_bytes()) };
        if let Err(error) = written {
            self.give_up(&error);
        }
    }

    /// Until the next save.
    fn give_up(&mut self, error: &io::Error) {
        let path = self.current.display();
        tracing::warn!("{path}: {error}; traffic goes on, but a node that is killed now would begin with an older view; make room there");
        self.file = None;
    }

    /// The view is going to be saved with all that was noted so far.
    pub fn save_begins(&mut self) {
        if self.old.exists() && self.file.is_some() {
            // There was none since the start, or the one before failed. What follows from the view that is there goes on in the file
            // where it is.
            return;
        }
        match self.make_way().and_then(|()| create(&self.current, PRIVATE)) {
            Ok(file) => (self.file, self.bytes) = (Some(file), 0),
            Err(error) => self.give_up(&error),
        }
    }

    /// What is in the current file is in the old one.
    fn make_way(&self) -> io::Result<()> {
        if !self.current.exists() {
            return Ok(());
        }
        if !self.old.exists() {
            return fs::rename(&self.current, &self.old);
        }
        // The node was killed during a save. A line that was cut off ends here.
        let lines = [b"\n".to_vec(), fs::read(&self.current)?].concat();
        OpenOptions::new().append(true).open(&self.old)?.write_all(&lines)
    }

    /// The save has succeeded.
    pub fn save_ended(&mut self) {
        self.view_bytes = length(&self.view);
        match fs::remove_file(&self.old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!("{}: {error}", self.old.display()),
            _ => {}
        }
        self.bytes = length(&self.current);
    }
}

/// Bytes of a file that may not be there.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

fn parse(line: &str) -> Option<(String, Line)> {
    let (sum, body) = line.split_once(' ')?;
    if sum == checksum(body.as_bytes()) { Some((sum.to_owned(), serde_json::from_str(body).ok()?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Node, NodeName, TunnelType};

    fn object(n: u8) -> Arc<Object> {
        let (name, tunnel) = (NodeName(format!("n{n}")), TunnelType::Vxlan);
        Arc::new(Node { name, tunnel_addresses: vec![], tunnel, bridge: String::new(), datapath: String::new(), stream: None }.into())
    }

    fn comes(n: u8) -> ViewUpdate {
        ViewUpdate { upserts: vec![object(n)], revision: Revision(n.into()), ..ViewUpdate::default() }
    }

    /// What a node that starts now would begin with, on top of `saved`.
    fn found(path: &Path, saved: &Saved) -> (Vec<u8>, u64) {
        let Saved { objects, revision, .. } = Journal::new(path).replay(saved.clone());
        let numbers: Vec<u8> = (1..=u8::MAX).filter(|n| objects.contains(&object(*n))).collect();
        assert_eq!(numbers.len(), objects.len());
        (numbers, revision.0)
    }

    fn world() -> (tempfile::TempDir, PathBuf, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        let journal = Journal::new(&path);
        (dir, path, journal)
    }

    fn save(journal: &mut Journal, upto: u8) -> Saved {
        journal.save_begins();
        Saved { objects: (1..=upto).map(object).collect(), revision: Revision(upto.into()), store: None, last: journal.last() }
    }

    #[test]
    fn what_came_after_a_save_is_found_at_every_moment() {
        let (_dir, path, mut journal) = world();
        let mut saved = save(&mut journal, 0);
        journal.save_ended();
        for round in 0..3 {
            for n in [1, 2, 3] {
                journal.append(&comes(3 * round + n), None);
                assert_eq!(found(&path, &saved), ((1..=3 * round + n).collect(), u64::from(3 * round + n)));
            }
            // Changes go on while the view is being saved, and only then the new one is there.
            let next = save(&mut journal, 3 * round + 3);
            assert_eq!(found(&path, &saved), found(&path, &next));
            journal.save_ended();
            saved = next;
        }
        let gone = ViewUpdate { removals: vec![object(4).key()], revision: Revision(10), ..ViewUpdate::default() };
        journal.append(&gone, None);
        assert_eq!(found(&path, &saved), ((1..=9).filter(|n| *n != 4).collect(), 10));
    }

    #[test]
    fn a_save_that_fails_loses_nothing() {
        let (_dir, path, mut journal) = world();
        let saved = save(&mut journal, 0);
        journal.save_ended();
        journal.append(&comes(1), None);
        for n in 2..5 {
            save(&mut journal, n);
            journal.append(&comes(n), None);
        }
        assert_eq!(found(&path, &saved), (vec![1, 2, 3, 4], 4));
        let later = save(&mut journal, 4);
        journal.save_ended();
        journal.append(&comes(5), None);
        assert_eq!(found(&path, &later), (vec![1, 2, 3, 4, 5], 5));
    }

    #[test]
    fn a_line_that_is_cut_off_ends_it_and_a_node_that_starts_adds_nothing_before_it_has_saved() {
        let (_dir, path, mut journal) = world();
        let saved = save(&mut journal, 0);
        journal.save_ended();
        journal.append(&comes(1), None);
        let whole = fs::read(&journal.current).unwrap();
        journal.append(&comes(2), None);
        let both = fs::read(&journal.current).unwrap();
        for length in whole.len()..both.len() - 1 {
            fs::write(&journal.current, &both[..length]).unwrap();
            assert_eq!(found(&path, &saved), (vec![1], 1), "{length} of {} bytes", both.len());
        }
        let mut restarted = Journal::new(&path);
        let after = restarted.replay(saved);
        restarted.append(&comes(3), None);
        assert_eq!(found(&path, &after).1, 1);
        let saved = Saved { objects: vec![object(1), object(3)], revision: Revision(3), ..save(&mut restarted, 0) };
        restarted.save_ended();
        restarted.append(&comes(4), None);
        assert_eq!(found(&path, &saved), (vec![1, 3, 4], 4));
    }

    #[test]
    fn a_node_that_is_killed_again_and_again_saves_only_when_its_journal_has_grown() {
        let (_dir, path, mut journal) = world();
        fs::write(&path, vec![0; JOURNAL_LEAST as usize]).unwrap();
        let saved = save(&mut journal, 0);
        journal.save_ended();
        journal.append(&comes(1), None);
        for n in 2..6 {
            // The latest line of the one that was killed was cut off.
            OpenOptions::new().append(true).open(&journal.current).unwrap().write_all(b"0123 {").unwrap();
            journal = Journal::new(&path);
            journal.replay(saved.clone());
            journal.resume();
            assert!(!journal.is_full());
            journal.append(&comes(n), None);
            assert_eq!(found(&path, &saved), ((1..=n).collect(), u64::from(n)));
        }
        fs::write(&journal.old, [fs::read(&journal.old).unwrap(), vec![b'\n'; JOURNAL_LEAST as usize]].concat()).unwrap();
        journal = Journal::new(&path);
        journal.replay(saved.clone());
        journal.resume();
        assert!(journal.is_full());
        let next = save(&mut journal, 5);
        journal.append(&comes(6), None);
        assert_eq!((found(&path, &saved), found(&path, &next)), (((1..=6).collect(), 6), ((1..=6).collect(), 6)));
        journal.save_ended();
        journal.append(&comes(7), None);
        assert!(!journal.old.exists());
        assert_eq!(found(&path, &next), ((1..=7).collect(), 7));
    }

    #[test]
    fn a_node_that_starts_after_a_kill_during_a_save_notes_what_comes_during_its_own() {
        let (_dir, path, mut journal) = world();
        let saved = save(&mut journal, 0);
        journal.save_ended();
        journal.append(&comes(1), None);
        save(&mut journal, 1);
        journal.append(&comes(2), None);
        // Twice, the first time cut off in the middle of a line.
        for n in 3..5 {
            let mut restarted = Journal::new(&path);
            restarted.replay(saved.clone());
            save(&mut restarted, n - 1);
            restarted.append(&comes(n), None);
            assert_eq!(found(&path, &saved), ((1..=n).collect(), u64::from(n)));
            OpenOptions::new().append(true).open(&restarted.current).unwrap().write_all(b"0123 {").unwrap();
        }
    }

    #[test]
    fn lines_of_another_view_are_nothing() {
        let (_dir, path, mut journal) = world();
        save(&mut journal, 0);
        journal.append(&comes(1), None);
        let other = Saved { objects: vec![object(7)], revision: Revision(7), store: None, last: Journal::new(&path).last() };
        assert_eq!(found(&path, &other), (vec![7], 7));
    }

    #[test]
    fn what_is_too_much_waits_for_the_next_save() {
        let (_dir, path, mut journal) = world();
        let saved = save(&mut journal, 0);
        journal.save_ended();
        journal.bytes = JOURNAL_MAX;
        journal.append(&comes(1), None);
        assert_eq!(found(&path, &saved), (vec![], 0));
        let saved = save(&mut journal, 1);
        journal.save_ended();
        journal.append(&comes(2), None);
        assert_eq!(found(&path, &saved), (vec![1, 2], 2));
    }
}
