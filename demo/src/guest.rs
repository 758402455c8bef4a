//! The virtual machine as the demo uses it: one command at a time, from any thread.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use lab::vm::{Said, Vm};

/// Longest time that one command may take.
const DEADLINE: Duration = Duration::from_secs(40);

/// A virtual machine.
pub struct Guest {
    vm: Vm,
    /// The guest obeys one command at a time.
    turn: Mutex<()>,
}

impl Guest {
    pub fn new(vm: Vm) -> Guest {
        Guest { vm, turn: Mutex::new(()) }
    }

    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Runs a line of shell, whatever its exit code.
    pub fn try_run(&self, line: &str) -> Result<Said> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.vm.run_within(line, DEADLINE)?)
    }

    /// Runs a line of shell that must succeed; what it printed.
    pub fn run(&self, line: &str) -> Result<String> {
        Ok(self.try_run(line)?.ok()?)
    }
}
