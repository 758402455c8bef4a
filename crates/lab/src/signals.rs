//! Tidying up when somebody presses Ctrl-C.
//!
//! A handler only wakes a thread; the thread runs what was registered, newest first, and then lets the signal do its
//! work, so that the caller sees an interrupted program. Nothing that goes wrong meanwhile keeps it from ending.

use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;

use crate::error::{Doing, Result};
use crate::{say, sys};

type Action = Box<dyn FnOnce() + Send>;

struct Registry {
    watching: bool,
    next: u64,
    actions: Vec<(u64, Action)>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { watching: false, next: 0, actions: Vec::new() });

/// The actions are running; the process ends after them.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Returns at once, or never when the process is being interrupted: its own end must not overtake the tidying up, and
/// errors that come of it are nobody's business.
pub fn give_way() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// Runs its action on SIGINT or SIGTERM for as long as it lives.
#[must_use = "the action is forgotten when this is dropped"]
pub struct OnInterrupt(u64);

/// Run `action` if this process is interrupted.
pub fn on_interrupt(action: impl FnOnce() + Send + 'static) -> Result<OnInterrupt> {
    let mut registry = REGISTRY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !registry.watching {
        watch()?;
        registry.watching = true;
    }
    registry.next += 1;
    let key = registry.next;
    registry.actions.push((key, Box::new(action)));
    Ok(OnInterrupt(key))
}

impl Drop for OnInterrupt {
    fn drop(&mut self) {
        let mut registry = REGISTRY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        registry.actions.retain(|(key, _)| *key != self.0);
    }
}

fn watch() -> Result<()> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).doing(|| "making a pipe for signals".into())?;
    sys::route_signals(write).doing(|| "catching SIGINT and SIGTERM".into())?;
    thread::Builder::new()
        .name("lab-signals".into())
        .spawn(move || {
            let mut byte = [0];
            if File::from(read).read_exact(&mut byte).is_ok() {
                interrupted(if byte[0] == Signal::SIGTERM as u8 { Signal::SIGTERM } else { Signal::SIGINT });
            }
        })
        .doing(|| "starting the signal thread".into())?;
    Ok(())
}

fn interrupted(signal: Signal) -> ! {
    INTERRUPTED.store(true, Ordering::SeqCst);
    say::tell(&format!("\n{}: taking the lab away", signal.as_str()));
    loop {
        let action = REGISTRY.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).actions.pop();
        match action {
            Some((_, action)) => drop(catch_unwind(AssertUnwindSafe(action))),
            None => sys::die_of(signal),
        }
    }
}
