//! Running a program to its end, with a deadline and its output as text.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::{Doing, LabError, Result};
use crate::{sys, wait};

/// How long an ordinary tool may take.
pub const TOOL: Duration = Duration::from_secs(120);

/// What a program said and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// It ended with 0.
    pub fn is_success(&self) -> bool {
        self.status.success()
    }

    /// Its standard output, or an error that holds everything it said.
    pub fn ok(self) -> Result<String> {
        if self.is_success() {
            return Ok(self.stdout);
        }
        let output = [self.stderr.trim(), self.stdout.trim()].join("\n").trim().to_owned();
        Err(LabError::Failed { command: self.command, status: self.status.to_string(), output })
    }
}

/// How a command looks on a command line.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Run `command` to its end; past the deadline it is killed with everything in its session.
pub fn run(command: &mut Command, deadline: Duration) -> Result<Output> {
    run_with_input(command, "", deadline)
}

/// As [`run`], with `input` on its standard input.
pub fn run_with_input(command: &mut Command, input: &str, deadline: Duration) -> Result<Output> {
    sys::in_own_session(command);
    let text = shown(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().doing(|| format!("starting `{text}`"))?;
    let group = Pid::from_raw(child.id() as i32);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = input.to_owned();
    thread::spawn(move || stdin.map(|mut pipe| std::io::Write::write_all(&mut pipe, feed.as_bytes())));
    let (stdout, stderr) = (reader(stdout), reader(stderr));
    let ended = wait::until(&format!("`{text}` to end"), deadline, || child.try_wait());
    if ended.is_err() {
        let _ = killpg(group, Signal::SIGKILL);
        let _ = child.wait();
    }
    let (stdout, stderr) = (joined(stdout), joined(stderr));
    match ended {
        Ok(status) => Ok(Output { command: text, status, stdout, stderr }),
        Err(LabError::TimedOut { what, waited, .. }) => {
            Err(LabError::TimedOut { what, waited, last: format!("{} {}", stdout.trim(), stderr.trim()) })
        }
        Err(other) => Err(other),
    }
}

type Reader = thread::JoinHandle<Vec<u8>>;

fn reader(pipe: Option<impl Read + Send + 'static>) -> Reader {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn joined(reader: Reader) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}

/// Run a tool of this machine and give what it printed.
pub fn tool(program: &str, args: &[&str]) -> Result<String> {
    run(Command::new(program).args(args), TOOL)?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_quoted() {
        let error = tool("sh", &["-c", "echo no luck >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("no luck") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_its_children() {
        let mut hang = Command::new("sh");
        hang.args(["-c", "echo begun; sleep 1000 & sleep 1000"]);
        let error = run(&mut hang, Duration::from_secs(3)).unwrap_err().to_string();
        assert!(error.contains("begun"), "{error}");
    }
}
