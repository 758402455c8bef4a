//! The few calls that Rust cannot check: what a child does between fork and exec, and signal handlers.
//!
//! A child may only make async-signal-safe calls there, so everything that allocates is prepared before the fork.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::Mode;

/// The command runs in the network namespace at `path`. Only the network changes: unlike `ip netns exec`, /sys stays as
/// it is, or containers would find no cgroups.
pub fn in_netns(command: &mut Command, path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    let enter = move || {
        let namespace = open(path.as_c_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
    };
    // SAFETY: open, setns and close are async-signal-safe; nothing is allocated.
    unsafe { command.pre_exec(enter) };
}

/// The command has a host name of its own, so that several nodes of one machine differ.
pub fn with_hostname(command: &mut Command, name: &str) {
    let name = name.to_owned();
    let rename = move || {
        unshare(CloneFlags::CLONE_NEWUTS)?;
        Ok(nix::unistd::sethostname(&name)?)
    };
    // SAFETY: unshare and sethostname are plain system calls; nothing is allocated.
    unsafe { command.pre_exec(rename) };
}

/// The command leads a session of its own: it survives the terminal, and its group can be ended as one.
pub fn in_own_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe.
    unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
}

/// The command has this nice value, if it may; 0 leaves it as it is. So has its session, if it leads one: where the kernel groups
/// processes by sessions (`sched_autogroup_enabled`), a nice value alone counts within a session only, and here each process has its own. Call this after
/// [`in_own_session`].
pub fn with_nice(command: &mut Command, nice: i32) {
    if nice == 0 {
        return;
    }
    let text = nice.to_string();
    let be_nice = move || {
        // Who may not goes on with the value that it has, as with `nice`.
        // SAFETY: a plain system call.
        unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, nice) };
        if let Ok(group) = open(c"/proc/self/autogroup", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            let _ = nix::unistd::write(group, text.as_bytes());
        }
        Ok(())
    };
    // SAFETY: setpriority, open, write and close are async-signal-safe; nothing is allocated.
    unsafe { command.pre_exec(be_nice) };
}

static WAKE: OnceLock<OwnedFd> = OnceLock::new();

extern "C" fn wake(signal: i32) {
    if let Some(pipe) = WAKE.get() {
        let _ = nix::unistd::write(pipe, &[signal as u8]);
    }
}

/// From now on SIGINT and SIGTERM write their number into `pipe` (once per process; later calls do nothing).
pub fn route_signals(pipe: OwnedFd) -> io::Result<()> {
    if WAKE.set(pipe).is_err() {
        return Ok(());
    }
    let action = SigAction::new(SigHandler::Handler(wake), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only writes one byte to a pipe that is never closed.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

/// Let `signal` do what it does by default, and send it to this process.
pub fn die_of(signal: Signal) -> ! {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: restoring the default action installs no code.
    let _ = unsafe { sigaction(signal, &action) };
    let _ = nix::sys::signal::raise(signal);
    std::process::exit(128 + signal as i32)
}

/// Give the calling thread the network namespace behind `namespace`.
pub fn enter_netns(namespace: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the borrowed descriptor outlives the call.
    let namespace = unsafe { std::os::fd::BorrowedFd::borrow_raw(namespace.as_raw_fd()) };
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}
