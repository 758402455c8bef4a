//! A store that is being made: beside the place where it will be, under another name, so that nobody ever takes it for one before it is
//! complete. A process that is killed meanwhile leaves a file that the next one throws away.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{OpenError, Options, Redb, database};

/// What stands behind the store's name until the store is complete.
const UNFINISHED: &str = ".unfinished";

/// A store without its name.
pub struct Making {
    /// None: it has its name.
    store: Option<Redb>,
    unfinished: PathBuf,
    /// Where it will be.
    place: PathBuf,
    /// As others call that.
    path: PathBuf,
    /// Locked, so that no two processes make stores in it at once.
    folder: File,
}

impl Making {
    /// Begins a store that will be in `path` (mode 0600). None: there is one.
    pub fn begin(path: &Path, options: Options) -> Result<Option<Making>, OpenError> {
        if path.exists() {
            return Ok(None);
        }
        let failed = |source: io::Error| OpenError::Failed { path: path.into(), source: source.into() };
        let place = fs::read_link(path).map_or_else(|_| path.to_owned(), |to| folder(path).join(to));
        let folder = File::open(folder(&place)).map_err(failed)?;
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.into() }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Ok(()) => {}
        }
        if path.exists() {
            return Ok(None);
        }
        let unfinished = unfinished(&place);
        let file = fresh(&unfinished).map_err(failed)?;
        let store = Redb::with(unfinished.clone(), options, database(path, file)?);
        Ok(Some(Making { store: Some(store), unfinished, place, path: path.into(), folder }))
    }

    /// What is made, for whoever fills it.
    pub fn store(&self) -> &Redb {
        self.store.as_ref().expect("it is taken at the end")
    }

    /// The file that will be the store's.
    pub fn file(&self) -> &Path {
        &self.unfinished
    }

    /// Gives the store its name.
    pub fn finish(mut self) -> Result<Redb, OpenError> {
        let failed = |source: io::Error| OpenError::Failed { path: self.path.clone(), source: source.into() };
        File::open(&self.unfinished).and_then(|file| file.sync_all()).map_err(failed)?;
        fs::rename(&self.unfinished, &self.place).map_err(failed)?;
        self.folder.sync_all().map_err(failed)?;
        let store = self.store.take().expect("it is taken here only");
        Ok(store.at(self.path.clone()))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        drop(self.store.take());
        // Nothing of that name is there when it is finished.
        let _ = fs::remove_file(&self.unfinished);
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(UNFINISHED);
    name.into()
}

/// An empty file. One that is left over is of a process that was killed.
fn fresh(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use model::Revision;

    use super::*;
    use crate::{Op, Store, Transaction};

    fn opened(folder: &Path) {
        let store = Redb::open(folder.join("store"), Options::default()).unwrap();
        store.transact(&Transaction { base: Revision(0), ops: vec![Op::PutRecord("a".into(), vec![1])] }).unwrap();
        let names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["store"], "nothing else is left");
        assert_eq!(fs::metadata(folder.join("store")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    /// However much of it was written when it was killed, and whoever may read it.
    #[test]
    fn what_a_killed_start_left_is_no_store() {
        let folder = tempfile::tempdir().unwrap();
        let making = Making::begin(&folder.path().join("store"), Options::default()).unwrap().unwrap();
        let whole = fs::read(making.file()).unwrap();
        for length in [0, 1, 4096, whole.len() / 2, whole.len()] {
            let next = tempfile::tempdir().unwrap();
            fs::write(unfinished(&next.path().join("store")), &whole[..length]).unwrap();
            assert!(!next.path().join("store").exists());
            opened(next.path());
        }
    }

    #[test]
    fn what_is_given_up_leaves_nothing_and_what_is_finished_is_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let begin = || Making::begin(&path, Options::default()).unwrap();
        drop(begin().unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let store = begin().unwrap().finish().unwrap();
        store.transact(&Transaction { base: Revision(0), ops: vec![Op::PutRecord("a".into(), vec![1])] }).unwrap();
        assert!(begin().is_none());
        drop(store);
        assert_eq!(Redb::open(&path, Options::default()).unwrap().load().unwrap().revision, Revision(1));
    }

    #[test]
    fn a_link_to_a_store_stays_one() {
        let (folder, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(volume.path().join("data"), folder.path().join("store")).unwrap();
        opened(folder.path());
        assert!(volume.path().join("data").is_file() && folder.path().join("store").is_symlink());
    }

    #[test]
    fn of_two_that_start_at_once_one_has_the_store_and_the_other_hears_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let start = |path: PathBuf| std::thread::spawn(move || Redb::open(path, Options::default()));
        let both = [start(path.clone()), start(path)].map(|one| one.join().unwrap());
        assert_eq!(both.iter().filter(|one| one.is_ok()).count(), 1);
        assert!(both.iter().any(|one| matches!(one, Err(OpenError::InUse { .. }))));
    }
}
