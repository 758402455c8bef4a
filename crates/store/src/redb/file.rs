//! Is the store's file the one that we left, and as we left it?
//!
//! Whoever writes holds [`StoreFile::left`] from before looking at the file until after noting what it is like then, so that nobody
//! takes another one's writing for a stranger's.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::StoreError;

/// The file of a store, and what others did to it.
pub struct StoreFile {
    path: PathBuf,
    /// The file as the latest writing left it.
    left: Mutex<Option<FileState>>,
    /// What somebody else did to the file. Nothing is written any more, not even at the end: what lies there may be a copy that was
    /// put back.
    spoilt: OnceLock<String>,
}

/// What tells whether a file is the same, and as it was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileState {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds of the latest write to it.
    modified: (i64, i64),
}

impl FileState {
    fn of(path: &Path) -> std::io::Result<FileState> {
        let file = std::fs::metadata(path)?;
        Ok(FileState { device: file.dev(), inode: file.ino(), length: file.len(), modified: (file.mtime(), file.mtime_nsec()) })
    }

    fn is_same_file(self, other: FileState) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// What happened to a file that was left like this and is like `now`.
    fn changed_to(self, now: FileState) -> String {
        match self.is_same_file(now) {
            true if now.length == self.length => "somebody else has written into it".to_owned(),
            true => format!("it has {} bytes and was left with {}: somebody else has written it or cut it off", now.length, self.length),
            false => "it is another file than the one that was opened".to_owned(),
        }
    }
}

impl StoreFile {
    /// The file that has just been opened.
    pub fn opened(path: PathBuf) -> StoreFile {
        let left = Mutex::new(FileState::of(&path).ok());
        StoreFile { path, left, spoilt: OnceLock::new() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file as it was left, for whoever is about to write.
    pub fn left(&self) -> MutexGuard<'_, Option<FileState>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has been opened again: it is what it is.
    pub fn reopened(&self) {
        *self.left() = FileState::of(&self.path).ok();
    }

    /// Does `work`, which writes; `left` is what the file is like then, whatever came of it.
    pub fn writing<T>(&self, left: &mut Option<FileState>, work: impl FnOnce() -> T) -> T {
        let done = work();
        // Another file in its place is found before the next write.
        if let Ok(now) = FileState::of(&self.path)
            && left.is_none_or(|left| left.is_same_file(now))
        {
            *left = Some(now);
        }
        done
    }

    /// An error if the file is not as the latest writing `left` it; the first time, `keep_open` is to see that it is not even closed, which
    /// would write. One that was moved away may come back.
    pub fn check(&self, left: Option<FileState>, keep_open: impl FnOnce()) -> Result<(), StoreError> {
        let doing = "looking at its file";
        let now = FileState::of(&self.path).map_err(|source| StoreError::Failed { doing, source: source.into() })?;
        if let Some(left) = left.filter(|left| *left != now)
            && self.spoilt.set(left.changed_to(now)).is_ok()
        {
            keep_open();
        }
        let advice = "stop the server, put the whole file or a copy in its place, and start it again";
        self.spoilt.get().map_or(Ok(()), |why| Err(StoreError::Failed { doing, source: format!("{why}; {advice}").into() }))
    }

    /// An error if the file is shorter than it was left: it cannot be read.
    pub fn check_whole(&self) -> Result<(), StoreError> {
        if let (Some(left), Ok(now)) = (*self.left(), FileState::of(&self.path))
            && left.is_same_file(now)
            && now.length < left.length
        {
            return Err(StoreError::Failed { doing: "opening its file again", source: left.changed_to(now).into() });
        }
        Ok(())
    }
}
