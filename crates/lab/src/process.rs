//! A long-running process that the lab owns: started, killed, started again, and ended with the lab.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::{Doing, LabError, Result};
use crate::lab::{MARK, Shared, tail};
use crate::procfs::ProcessId;
use crate::state::ProcessRecord;
use crate::{procfs, sys, wait};

pub use crate::state::Spec;

/// How long a process may take to end after a signal that it cannot refuse.
const DEATH: Duration = Duration::from_secs(60);
/// Lines of the log that an error quotes.
const QUOTED_LINES: usize = 8;

/// A process of a lab. Dropping it ends the process and its group, unless the lab is kept.
#[must_use = "the process ends when this is dropped"]
pub struct Process {
    lab: Arc<Shared>,
    name: String,
    log: PathBuf,
    spec: Spec,
    running: Mutex<Running>,
}

struct Running {
    id: Option<ProcessId>,
    /// Our own child, to be reaped; an adopted process has another parent.
    child: Option<Child>,
}

impl Spec {
    /// What `command` says: program, arguments, environment and folder. Its standard streams are not looked at.
    pub fn of(command: &Command) -> Self {
        let text = |word: &std::ffi::OsStr| word.to_string_lossy().into_owned();
        Spec {
            program: text(command.get_program()),
            args: command.get_args().map(text).collect(),
            env: command.get_envs().map(|(name, value)| (text(name), value.map(text))).collect(),
            folder: command.get_current_dir().map(Path::to_owned),
            netns: None,
            hostname: None,
            nice: 0,
        }
    }

    /// The command again, in its namespaces.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        if let Some(netns) = &self.netns {
            sys::in_netns(&mut command, netns);
        }
        if let Some(hostname) = &self.hostname {
            sys::with_hostname(&mut command, hostname);
        }
        command
    }
}

impl Process {
    pub(crate) fn start(lab: &Arc<Shared>, name: &str, spec: Spec) -> Result<Process> {
        if let Some(old) = lab.state().processes.get(name)
            && old.id.is_some_and(ProcessId::is_running)
        {
            return Err(LabError::Unfit(format!("a process named {name} runs in the lab already")));
        }
        let log = lab.folder("log")?.join(format!("{name}.log"));
        let running = Mutex::new(Running { id: None, child: None });
        let process = Process { lab: lab.clone(), name: name.into(), log, spec, running };
        process.launch(&mut process.running())?;
        Ok(process)
    }

    pub(crate) fn adopted(lab: &Arc<Shared>, name: &str, record: ProcessRecord) -> Process {
        let running = Mutex::new(Running { id: record.id, child: None });
        Process { lab: lab.clone(), name: name.into(), log: record.log, spec: record.spec, running }
    }

    fn launch(&self, running: &mut Running) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.doing(|| format!("opening {}", self.log.display()))?;
        let errors = log.try_clone().doing(|| format!("sharing {}", self.log.display()))?;
        let mut command = self.spec.command();
        command.env(MARK, &self.lab.dir).stdin(Stdio::null()).stdout(log).stderr(errors);
        sys::in_own_session(&mut command);
        sys::with_nice(&mut command, self.spec.nice);
        let mut child = command.spawn().doing(|| format!("starting {} ({})", self.name, self.spec.program))?;
        running.id = ProcessId::now(child.id() as i32);
        // Where the lab is being taken away meanwhile, nothing may start behind its back.
        self.remember(running.id).inspect_err(|_| drop(child.kill()))?;
        running.child = Some(child);
        Ok(())
    }

    fn remember(&self, id: Option<ProcessId>) -> Result<()> {
        let record = ProcessRecord { id, spec: self.spec.clone(), log: self.log.clone() };
        self.lab.record(|state| drop(state.processes.insert(self.name.clone(), record)))
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Its name in the lab, which is also its log's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, if it was started and not ended.
    pub fn pid(&self) -> Option<i32> {
        self.running().id.map(|id| id.pid)
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines that it wrote.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// It runs.
    pub fn is_alive(&self) -> bool {
        let mut running = self.running();
        let is_running = running.id.is_some_and(ProcessId::is_running);
        if !is_running {
            reap(&mut running);
        }
        is_running
    }

    /// The memory that it keeps resident, in KiB; nothing if it does not run.
    pub fn resident_kib(&self) -> Option<u64> {
        procfs::resident_kib(self.running().id?)
    }

    /// The processor time that it has used since it was started last; nothing if it does not run.
    pub fn cpu_time(&self) -> Option<Duration> {
        procfs::cpu_time(self.running().id?)
    }

    /// Send it a signal, unless it is gone.
    pub fn signal(&self, signal: Signal) {
        let running = self.running();
        if let Some(id) = running.id {
            id.signal(signal);
        }
    }

    /// Kill it, and nothing that it started, as `kill -9` does.
    pub fn kill9(&self) -> Result<()> {
        self.end_by(Signal::SIGKILL, DEATH)
    }

    /// Ask it to end (SIGTERM) and wait until it has.
    pub fn terminate(&self, deadline: Duration) -> Result<()> {
        self.end_by(Signal::SIGTERM, deadline)
    }

    fn end_by(&self, signal: Signal, deadline: Duration) -> Result<()> {
        self.signal(signal);
        let what = format!("{} to end after {}", self.name, signal.as_str());
        wait::until(&what, deadline, || if self.is_alive() { Err("it runs") } else { Ok(Some(())) })
    }

    /// Start it again as it was started first; it is killed before if it runs.
    pub fn restart(&self) -> Result<()> {
        self.kill9()?;
        self.launch(&mut self.running())
    }

    /// Wait until it ends by itself.
    pub fn wait(&self, deadline: Duration) -> Result<()> {
        wait::until(&format!("{} to end", self.name), deadline, || if self.is_alive() { Err("it runs") } else { Ok(Some(())) })
    }

    /// Wait for a condition that needs this process: when it dies, the error quotes its log.
    pub fn wait_until<T>(&self, what: &str, deadline: Duration, mut look: impl FnMut() -> Result<Option<T>, String>) -> Result<T> {
        wait::watch(what, deadline, || match look() {
            Ok(Some(value)) => wait::Seen::Done(value),
            _ if !self.is_alive() => wait::Seen::Never(self.epitaph()),
            Ok(None) => wait::Seen::NotYet("nothing".into()),
            Err(text) => wait::Seen::NotYet(text),
        })
    }

    fn epitaph(&self) -> String {
        format!("{} has ended; its log {} says:\n{}", self.name, self.log.display(), self.log_tail(QUOTED_LINES))
    }

    /// End it with its whole group, for good: the lab forgets it.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.lab.owns_parts() {
            return;
        }
        let running = self.running.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(id) = running.id.filter(|id| id.is_running()) {
            let _ = killpg(Pid::from_raw(id.pid), Signal::SIGKILL);
            id.signal(Signal::SIGKILL);
        }
        if let Some(child) = &mut running.child {
            let _ = child.wait();
        }
        let _ = self.lab.record(|state| drop(state.processes.remove(&self.name)));
    }
}

/// Collect a process that has ended, so that it is no zombie and its number is not ours any more.
fn reap(running: &mut Running) {
    if let Some(mut child) = running.child.take() {
        let _ = child.wait();
    }
    running.id = None;
}
