//! Telling a person what is being done and how long it takes: spinners on a terminal, plain lines in a log.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::say;

/// Without a terminal, a step that takes long says so this often.
const STILL: Duration = Duration::from_secs(15);
/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(120);

/// The reporter; clones report to the same place.
#[derive(Clone)]
pub struct Progress {
    started: Instant,
    terminal: Option<Arc<MultiProgress>>,
    is_quiet: bool,
}

/// One step under way; steps may overlap. Dropped without [`Step::done`] it counts as failed.
pub struct Step {
    progress: Progress,
    what: String,
    started: Instant,
    spinner: Option<ProgressBar>,
    heartbeat: Option<(Sender<()>, JoinHandle<()>)>,
    is_over: bool,
}

impl Progress {
    /// A reporter on standard error.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal().then(|| Arc::new(MultiProgress::new()));
        Progress { started: Instant::now(), terminal, is_quiet: false }
    }

    /// A reporter that says nothing, for tests.
    pub fn quiet() -> Self {
        Progress { started: Instant::now(), terminal: None, is_quiet: true }
    }

    /// Begin a step.
    pub fn step(&self, what: impl Into<String>) -> Step {
        let what = what.into();
        let spinner = self.terminal.as_ref().map(|terminal| spinner(terminal, &what));
        let heartbeat = (spinner.is_none() && !self.is_quiet).then(|| self.clone().heartbeat(what.clone()));
        Step { progress: self.clone(), what, started: Instant::now(), spinner, heartbeat, is_over: false }
    }

    /// Do `work` as a step that fails when it does.
    pub fn during<T, E>(&self, what: impl Into<String>, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let step = self.step(what);
        let value = work()?;
        step.done();
        Ok(value)
    }

    /// Say a line of its own.
    pub fn say(&self, line: &str) {
        match &self.terminal {
            Some(terminal) => drop(terminal.println(line)),
            None if self.is_quiet => {}
            None => say::tell(line),
        }
    }

    fn heartbeat(self, what: String) -> (Sender<()>, JoinHandle<()>) {
        let (stop, stopped) = mpsc::channel();
        let started = Instant::now();
        let beat = move || {
            while stopped.recv_timeout(STILL) == Err(RecvTimeoutError::Timeout) {
                self.line("...", &format!("{what} (so far {} s)", started.elapsed().as_secs()));
            }
        };
        (stop, thread::spawn(beat))
    }

    fn line(&self, mark: &str, text: &str) {
        self.say(&format!("[{:6.1} s] {mark:4} {text}", self.started.elapsed().as_secs_f32()));
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

fn spinner(terminal: &MultiProgress, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}").expect("the template is well formed");
    let bar = terminal.add(ProgressBar::new_spinner().with_style(style).with_message(what.to_owned()));
    bar.enable_steady_tick(TURN);
    bar
}

impl Step {
    /// It is done.
    pub fn done(self) {
        self.done_with("");
    }

    /// It is done, with a word about the result.
    pub fn done_with(mut self, result: &str) {
        self.over("ok", result);
    }

    fn over(&mut self, mark: &str, result: &str) {
        self.is_over = true;
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
        if let Some((stop, thread)) = self.heartbeat.take() {
            drop(stop);
            let _ = thread.join();
        }
        let separator = if result.is_empty() { "" } else { ": " };
        let took = self.started.elapsed().as_secs_f32();
        self.progress.line(mark, &format!("{}{separator}{result} ({took:.1} s)", self.what));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.is_over {
            self.over("FAIL", "");
        }
    }
}
