//! What a node must remember over a restart: small JSON files in its state folder.
//!
//! A file is replaced as a whole, by rename, so that a kill at any moment leaves the old one or the new one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Handle, RuntimeFlavor};

/// A file of the state folder that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("reading {path}: its plain content cannot be trusted; the node starts without it if the file is moved away")]
    Garbled {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("keeping {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why a state folder is not this node's alone.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "another `ladon node` runs on this machine and holds {}; this one changes nothing and traffic goes on with the other; \
         stop one of them, or give each its own `state_dir`, `run_dir` and `ovs.bridge`", path.display()
    )]
    Taken { path: PathBuf },
    #[error("locking {}; nothing is changed and traffic goes on; see that `state_dir` can be written", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// How long a node waits for another one that has the state folder, before it gives up.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two attempts to have the state folder.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The state folder is one node's alone, for as long as this lives and however that node ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<fs::File>,
}

impl Lock {
    /// Locks `folder`, which is made if it is missing. A predecessor that was killed may still be on its way out: it is waited for.
    pub fn take(folder: &Path) -> Result<Lock, LockError> {
        let path = folder.join("lock");
        let opened = make_private_folder(folder).and_then(|()| fs::OpenOptions::new().create(true).append(true).mode(PRIVATE).open(&path));
        let file = opened.map_err(|source| LockError::Io { path: path.clone(), source })?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        let mut attempt = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        loop {
            match attempt {
                Ok(file) => return Ok(Lock { _file: file }),
                Err((file, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_PAUSE);
                    attempt = Flock::lock(file, FlockArg::LockExclusiveNonblock);
                }
                Err((_, Errno::EWOULDBLOCK)) => return Err(LockError::Taken { path }),
                Err((_, error)) => return Err(LockError::Io { path, source: error.into() }),
            }
        }
    }
}

/// The mode of what the node keeps: for root alone.
pub const PRIVATE: u32 = 0o600;

/// One file.
#[derive(Clone, Debug)]
pub struct Record {
    path: PathBuf,
}

impl Record {
    /// The file `name` in `folder`; the folder is made if it is missing, for root only.
    pub fn new(folder: &Path, name: &str) -> Result<Record, RecordError> {
        let path = folder.join(name);
        make_private_folder(folder).map_err(|source| RecordError::Io { path: path.clone(), source })?;
        Ok(Record { path })
    }

    /// What was kept last, or the default if nothing was.
    pub fn load<T: DeserializeOwned + Default>(&self) -> Result<T, RecordError> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| RecordError::Garbled { path: self.path.clone(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
            Err(source) => Err(RecordError::Io { path: self.path.clone(), source }),
        }
    }

    /// Keeps `value` instead of what was kept before.
    pub fn save(&self, value: &impl Serialize) -> Result<(), RecordError> {
        let bytes = serde_json::to_vec(value).expect("records are plain data");
        aside(|| replace(&self.path, &bytes, PRIVATE)).map_err(|source| RecordError::Io { path: self.path.clone(), source })
    }
}

/// Does what waits for the disk, so that the other tasks of this thread go on elsewhere meanwhile: a flush can take seconds. A
/// runtime of one thread has no elsewhere.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A new file with `mode`, whatever the umask is and whatever was there.
pub fn create(path: &Path, mode: u32) -> io::Result<fs::File> {
    let file = fs::File::create(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(file)
}

/// Makes `folder` and its parents, readable by root only.
pub fn make_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Replaces the file at `path` by one with `bytes` and `mode`, in one step.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = create(&new, mode)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_node_does_not_get_the_state_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = Lock::take(&state).unwrap();
        let begun = Instant::now();
        let refused = Lock::take(&state).unwrap_err();
        assert!(begun.elapsed() >= LOCK_TIMEOUT, "the first may be on its way out");
        assert!(matches!(&refused, LockError::Taken { path } if *path == state.join("lock")), "{refused}");
        drop(first);
        Lock::take(&state).unwrap();
    }

    /// With one thread for all tasks, the other task runs only if this one has made way.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_go_on_while_one_waits_for_the_disk() {
        let waits = tokio::spawn(async {
            let (done, others_done) = std::sync::mpsc::channel();
            tokio::spawn(async move { done.send(()) });
            aside(move || others_done.recv_timeout(std::time::Duration::from_secs(120)))
        });
        waits.await.unwrap().expect("the other task ran");
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_can_save_as_well() {
        assert_eq!(aside(|| 3), 3);
    }

    #[test]
    fn what_is_kept_is_for_root_alone_whatever_the_folder_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Record::new(folder.path(), "zones.json").unwrap().save(&1).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("zones.json")), 0o600);
        Record::new(&folder.path().join("state"), "zones.json").unwrap();
        assert_eq!(mode(&folder.path().join("state")), 0o700);
    }

    #[test]
    fn a_record_is_there_after_a_restart_and_a_garbled_one_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(&folder.path().join("state"), "zones.json").unwrap();
        assert_eq!(record.load::<Vec<u32>>().unwrap(), Vec::<u32>::new());
        record.save(&vec![1, 2]).unwrap();
        assert_eq!(record.load::<Vec<u32>>().unwrap(), [1, 2]);
        fs::write(&record.path, b"[1,").unwrap();
        assert!(matches!(record.load::<Vec<u32>>(), Err(RecordError::Garbled { .. })));
    }
}
