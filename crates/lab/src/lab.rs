//! A lab: a folder, a prefix for names, and everything started under them.
//!
//! Whatever a lab starts is written into its folder first or at once, carries the lab's mark in its environment, and
//! goes away with the [`Lab`] value: at its end, on a panic, on SIGINT and SIGTERM, and when its owner was killed by the
//! next lab in the same folder. [`Lab::keep`] leaves it running for a later [`Lab::take_down`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Doing, LabError, Result, chain};
use crate::process::{Process, Spec};
use crate::signals::{OnInterrupt, give_way, on_interrupt};
use crate::state::{State, make_dir};
use crate::{say, teardown};

/// The variable that marks every process of a lab with the lab's folder.
pub const MARK: &str = "LADON_LAB";
/// The longest name of a lab or of a host: the rest of an interface name's 15 bytes is for suffixes.
pub const NAME_MAX: usize = 12;

/// The longest path of a lab's folder, in bytes: sockets lie below it, and a socket's path has at most 107.
pub const DIR_MAX: usize = 70;

/// Real parts on this machine, owned.
pub struct Lab {
    shared: Arc<Shared>,
    _interrupt: OnInterrupt,
}

/// What hosts and processes know of their lab.
pub(crate) struct Shared {
    pub name: String,
    pub dir: PathBuf,
    state: Mutex<State>,
    kept: AtomicBool,
    over: AtomicBool,
    keep_logs: AtomicBool,
}

impl Lab {
    /// A new lab in `dir`. `name` prefixes its network namespaces, so that labs share a machine. What a dead owner left in
    /// `dir` is taken away first; a lab that is still wanted there is an error.
    pub fn new(name: &str, dir: impl AsRef<Path>) -> Result<Lab> {
        check_name(name)?;
        check_root()?;
        let dir = dir.as_ref();
        if let Some(state) = State::load(dir)? {
            if state.owner.is_running() {
                let text = format!("the lab in {} belongs to the running process {}", dir.display(), state.owner.pid);
                return Err(LabError::Unfit(text));
            }
            if state.kept {
                return Err(LabError::Unfit(format!("a lab is still running in {}; take it down first", dir.display())));
            }
            teardown::take_down(dir, teardown::Logs::Remove)?;
        }
        make_dir(&dir.join("log"))?;
        let state = State::new(name);
        state.save(dir)?;
        Self::around(dir, state, false)
    }

    /// A new lab in a fresh folder of the machine's temporary folder, with a name of its own.
    pub fn scratch() -> Result<Lab> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self::new(&name, std::env::temp_dir().join(format!("ladon-{name}")))
    }

    /// The lab that an earlier process kept in `dir`. It stays kept until [`Lab::down`].
    pub fn adopt(dir: impl AsRef<Path>) -> Result<Lab> {
        let dir = dir.as_ref();
        match State::load(dir)? {
            Some(state) if state.kept => Self::around(dir, state, true),
            Some(_) => Err(LabError::Unfit(format!("the lab in {} was not kept", dir.display()))),
            None => Err(LabError::Unfit(format!("there is no lab in {}", dir.display()))),
        }
    }

    /// Take away the lab in `dir`, whoever started it, with its logs. A running owner is asked to end first. Without a lab
    /// there, it does nothing.
    pub fn take_down(dir: impl AsRef<Path>) -> Result<()> {
        teardown::take_down(dir.as_ref(), teardown::Logs::Remove)
    }

    fn around(dir: &Path, state: State, kept: bool) -> Result<Lab> {
        let dir = dir.canonicalize().doing(|| format!("looking at {}", dir.display()))?;
        if dir.as_os_str().len() > DIR_MAX {
            return Err(LabError::Unfit(format!("{} is too long: sockets below it would pass 107 bytes", dir.display())));
        }
        let shared = Arc::new(Shared {
            name: state.name.clone(),
            dir,
            state: Mutex::new(state),
            kept: AtomicBool::new(kept),
            over: AtomicBool::new(false),
            keep_logs: AtomicBool::new(false),
        });
        let interrupted = Arc::downgrade(&shared);
        let interrupt = on_interrupt(move || {
            if let Some(shared) = interrupted.upgrade() {
                shared.end_quietly();
            }
        })?;
        Ok(Lab { shared, _interrupt: interrupt })
    }

    /// The prefix of its names.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Leave it running when this value and this process end.
    pub fn keep(&self) -> Result<()> {
        self.shared.kept.store(true, Ordering::SeqCst);
        self.shared.record(|state| state.kept = true)
    }

    /// Leave the logs when the lab goes away with this value; [`Lab::down`] and [`Lab::take_down`] remove them. After a
    /// panic they are always left.
    pub fn keep_logs(&self) {
        self.shared.keep_logs.store(true, Ordering::SeqCst);
    }

    /// Take it away now, kept or not, with its logs, and tell what went wrong.
    pub fn down(self) -> Result<()> {
        self.shared.kept.store(false, Ordering::SeqCst);
        self.shared.end(teardown::Logs::Remove)
    }

    /// Start a long-running process in the machine's own network namespace.
    pub fn spawn(&self, name: &str, command: &std::process::Command) -> Result<Process> {
        Process::start(&self.shared, name, Spec::of(command))
    }

    /// A process of an adopted lab.
    pub fn process(&self, name: &str) -> Option<Process> {
        let record = self.shared.state().processes.get(name).cloned()?;
        Some(Process::adopted(&self.shared, name, record))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        give_way();
        self.shared.end_quietly();
    }
}

impl Shared {
    /// What it has started.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Change what is remembered, on disk too.
    pub fn record(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        give_way();
        let mut state = self.state();
        if self.over.load(Ordering::SeqCst) {
            return Err(LabError::Unfit(format!("the lab in {} is over", self.dir.display())));
        }
        change(&mut state);
        state.save(&self.dir)
    }

    /// Its parts end with their values: the lab was neither kept nor is it gone already.
    pub fn owns_parts(&self) -> bool {
        !self.kept.load(Ordering::SeqCst) && !self.over.load(Ordering::SeqCst)
    }

    /// The folder for one part of the lab, made when it is not there.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.dir.join(name);
        make_dir(&folder)?;
        Ok(folder)
    }

    fn end(&self, logs: teardown::Logs) -> Result<()> {
        let state = self.state();
        if self.kept.load(Ordering::SeqCst) || self.over.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        drop(state);
        teardown::take_down(&self.dir, logs)
    }

    fn end_quietly(&self) {
        let keep = std::thread::panicking() || self.keep_logs.load(Ordering::SeqCst);
        let logs = if keep { teardown::Logs::Keep } else { teardown::Logs::Remove };
        let owned = self.owns_parts();
        if let Err(error) = self.end(logs) {
            say::tell(&format!("the lab in {} was not taken away: {}", self.dir.display(), chain(&error)));
        } else if owned && keep {
            say::tell(&format!("the lab's logs are in {}", self.dir.join("log").display()));
        }
    }
}

fn check_root() -> Result<()> {
    if nix::unistd::Uid::effective().is_root() {
        return Ok(());
    }
    Err(LabError::Unfit("a lab makes network namespaces, which only root may; run this as root".into()))
}

/// True for a name that fits into interface and namespace names: 1 to [`NAME_MAX`] of a-z, 0-9 and -.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    Err(LabError::Unfit(format!("{name:?} is no name for a lab or host: 1 to {NAME_MAX} of a-z, 0-9 and -")))
}

/// The last lines of a file, or nothing where it cannot be read: for messages about failures.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
