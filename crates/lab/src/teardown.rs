//! Taking a lab away: processes, mounts, namespaces, control groups, files, whoever started them.
//!
//! The state file alone is not trusted to be complete: containers outlive containerd, and a killed owner may not have
//! written its last step. Every process of a lab carries [`MARK`] in its environment, its shims carry its folder on
//! their command line, and what those started is found by parenthood.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use crate::containers::Containers;
use crate::error::{Doing, Result};
use crate::lab::MARK;
use crate::procfs::{self, ProcessId};
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
    let folder = format!("{}/", dir.display());
    let recorded: Vec<ProcessId> = state.processes.values().filter_map(|process| process.id).collect();
    procfs::end_all("the lab's processes", || {
        procfs::family(|id| recorded.contains(&id) || procfs::has_variable(id, &mark) || is_shim_of(id, &folder))
    })
}

/// A containerd shim names the socket of its containerd on its command line.
fn is_shim_of(id: ProcessId, folder: &str) -> bool {
    procfs::has_argument(id, folder) && procfs::has_argument(id, "-address")
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
