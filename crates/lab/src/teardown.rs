//! Taking a lab away: processes, mounts, namespaces, control groups, files, whoever started them.
//!
//! The state file alone is not trusted to be complete: containers outlive containerd, a killed owner may not have
//! written its last step, and people start parts again by hand. Every process of a lab carries [`MARK`] in its
//! environment; what was started by hand is in one of the lab's namespaces, works in its folder or names it on its
//! command line, as its shims do; and what those started is found by parenthood.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use crate::containers::Containers;
use crate::error::{Doing, Result};
use crate::lab::MARK;
use crate::netns::Netns;
use crate::procfs::{self, FileId, ProcessId};
use crate::state::State;
use crate::{netns, wait};

/// How long a running owner may take to end its own lab.
const OWNER: Duration = Duration::from_secs(60);

/// What happens to a lab's logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Logs {
    Keep,
    Remove,
}

/// Take away the lab in `dir`; without one, do nothing.
pub fn take_down(dir: &Path, logs: Logs) -> Result<()> {
    let Ok(dir) = dir.canonicalize() else { return Ok(()) };
    let Some(state) = State::load(&dir)? else { return Ok(()) };
    end_owner(&state)?;
    end_processes(&dir, &state)?;
    let containers = Containers::below(&dir);
    unmount_under(&dir)?;
    for namespace in &state.namespaces {
        netns::remove(namespace)?;
    }
    containers.remove(&dir)?;
    for path in &state.made {
        remove_all(path)?;
    }
    remove_files(&dir, logs)
}

fn end_owner(state: &State) -> Result<()> {
    if state.owner == ProcessId::this() || state.kept || !state.owner.is_running() {
        return Ok(());
    }
    state.owner.signal(Signal::SIGTERM);
    wait::until(&format!("the lab's owner {} to end", state.owner.pid), OWNER, || {
        if state.owner.is_running() { Err("it runs") } else { Ok(Some(())) }
    })
}

fn end_processes(dir: &Path, state: &State) -> Result<()> {
    let mark = format!("{MARK}={}", dir.display());
    let namespaces: Vec<FileId> = state.namespaces.iter().filter_map(|name| FileId::of(Netns::named(name).path())).collect();
    let recorded: Vec<ProcessId> = state.processes.values().filter_map(|process| process.id).collect();
    procfs::end_all("the lab's processes", || {
        procfs::family(|id| {
            let is_inside = || procfs::netns(id).is_some_and(|netns| namespaces.contains(&netns));
            recorded.contains(&id) || procfs::has_variable(id, &mark) || is_inside() || is_at_work_in(id, dir)
        })
    })
}

/// It names something in the lab's folder on its command line, or works there. Somebody's shell that merely stands there does not.
fn is_at_work_in(id: ProcessId, dir: &Path) -> bool {
    let folder = format!("{}/", dir.display());
    procfs::names(id, &folder) || procfs::folder(id).is_some_and(|folder| folder.starts_with(dir)) && !procfs::is_login(id)
}

/// Take off every mount under `dir`, the deepest first, busy or not.
fn unmount_under(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").doing(|| "reading the mounts".into())?;
    let prefix = format!("{}/", dir.display());
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(unescaped);
    let mut targets: Vec<String> = targets.filter(|target| target.starts_with(&prefix)).collect();
    targets.sort();
    for target in targets.iter().rev() {
        match umount2(target.as_str(), MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            other => other.doing(|| format!("unmounting {target}"))?,
        }
    }
    Ok(())
}

/// The mount table writes blanks and backslashes in octal.
fn unescaped(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn remove_files(dir: &Path, logs: Logs) -> Result<()> {
    let entries = fs::read_dir(dir).doing(|| format!("reading {}", dir.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if logs == Logs::Keep && path.ends_with("log") {
            continue;
        }
        remove_all(&path)?;
    }
    match logs {
        // What is left is still known as a lab's, so that a later take-down removes it.
        Logs::Keep => State::nothing().save(dir),
        Logs::Remove => {
            let _ = fs::remove_dir(dir);
            Ok(())
        }
    }
}

fn remove_all(path: &Path) -> Result<()> {
    let removed = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).doing(|| format!("removing {}", path.display())),
        _ => Ok(()),
    }
}
