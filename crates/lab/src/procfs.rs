//! Processes as /proc shows them, named so that a reused number is never mistaken for the old process.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::wait;

/// How long a process may take to be gone after SIGKILL.
const DEATH: Duration = Duration::from_secs(60);

/// A process: its number and, in clock ticks since boot, when it started.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    pub started: u64,
}

/// What /proc/PID/stat says.
struct Stat {
    state: char,
    parent: i32,
    session: i32,
    has_terminal: bool,
    threads: u64,
    started: u64,
}

impl ProcessId {
    /// The process that has this number now.
    pub fn now(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| ProcessId { pid, started: stat.started })
    }

    /// This very process.
    pub fn this() -> Self {
        let pid = std::process::id() as i32;
        Self::now(pid).unwrap_or(ProcessId { pid, started: 0 })
    }

    /// It runs: not gone, not replaced by another of its number, not a zombie. It still runs where its first thread alone has ended.
    pub fn is_running(self) -> bool {
        let has_ended = |stat: &Stat| matches!(stat.state, 'Z' | 'X') && stat.threads <= 1;
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !has_ended(&stat))
    }

    /// Send it a signal, unless it is gone.
    pub fn signal(self, signal: Signal) {
        if self.is_running() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may hold anything, so fields are counted from the last one.
fn parse_stat(line: &str) -> Option<Stat> {
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<i32>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: number(1)?,
        session: number(3)?,
        has_terminal: number(4)? != 0,
        threads: fields.get(17)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Every process of the machine with its parent's number.
fn all() -> Vec<(ProcessId, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| stat(pid).map(|stat| (ProcessId { pid, started: stat.started }, stat.parent)))
        .collect()
}

/// The processes of which `is_member` is true and everything they started, without this process and its ancestors.
pub fn family(is_member: impl Fn(ProcessId) -> bool) -> Vec<ProcessId> {
    let everyone = all();
    let spared = ancestors(&everyone, std::process::id() as i32);
    let mut members: HashSet<i32> =
        everyone.iter().filter(|(id, _)| is_member(*id)).map(|(id, _)| id.pid).filter(|pid| !spared.contains(pid)).collect();
    loop {
        let before = members.len();
        let children: Vec<i32> = everyone.iter().filter(|(_, parent)| members.contains(parent)).map(|(id, _)| id.pid).collect();
        members.extend(children.into_iter().filter(|pid| !spared.contains(pid)));
        if members.len() == before {
            break;
        }
    }
    everyone.into_iter().map(|(id, _)| id).filter(|id| members.contains(&id.pid) && id.is_running()).collect()
}

fn ancestors(everyone: &[(ProcessId, i32)], of: i32) -> HashSet<i32> {
    let mut line = HashSet::from([of, 1]);
    let mut at = of;
    while let Some((_, parent)) = everyone.iter().find(|(id, _)| id.pid == at) {
        if !line.insert(*parent) {
            break;
        }
        at = *parent;
    }
    line
}

/// The memory that it keeps resident, in KiB (`VmRSS` of proc(5)).
pub fn resident_kib(id: ProcessId) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", id.pid)).ok().filter(|_| id.is_running())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The processor time that it and its threads have used so far, those that have ended among them.
pub fn cpu_time(id: ProcessId) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(id.pid)).ok().filter(|_| id.is_running())?;
    clock_gettime(clock).ok().map(Duration::from)
}

/// Its environment holds exactly `variable`, given as NAME=value.
pub fn has_variable(id: ProcessId, variable: &str) -> bool {
    contains(&format!("/proc/{}/environ", id.pid), |word| word == variable.as_bytes())
}

/// One of its arguments is or ends in a path below `folder`, which ends in a slash: `DIR/x`, `--config=DIR/x`, `unix:DIR/x`. Text
/// with blanks, such as a shell's script, is none.
pub fn names(id: ProcessId, folder: &str) -> bool {
    contains(&format!("/proc/{}/cmdline", id.pid), |word| is_naming(&String::from_utf8_lossy(word), folder))
}

fn is_naming(word: &str, folder: &str) -> bool {
    let is_part_of_a_name = |character: char| character.is_alphanumeric() || "._-".contains(character);
    !word.contains(char::is_whitespace) && word.match_indices(folder).any(|(at, _)| !word[..at].ends_with(is_part_of_a_name))
}

/// The folder that it works in.
pub fn folder(id: ProcessId) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{}/cwd", id.pid)).ok()
}

/// It leads a session on a terminal: somebody's shell.
pub fn is_login(id: ProcessId) -> bool {
    stat(id.pid).is_some_and(|stat| stat.session == id.pid && stat.has_terminal)
}

/// The network namespace that it is in.
pub fn netns(id: ProcessId) -> Option<FileId> {
    FileId::of(Path::new(&format!("/proc/{}/ns/net", id.pid)))
}

/// Which file it is, whatever it is called: a network namespace has many names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file behind a path, if there is one.
    pub fn of(path: &Path) -> Option<FileId> {
        let found = fs::metadata(path).ok()?;
        Some(FileId { device: found.dev(), inode: found.ino() })
    }
}

fn contains(path: &str, wanted: impl Fn(&[u8]) -> bool) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(wanted))
}

/// End every process that `find` names, again and again until it names none.
pub fn end_all(what: &str, find: impl Fn() -> Vec<ProcessId>) -> Result<()> {
    wait::until(&format!("the end of {what}"), DEATH, || {
        let left = find();
        left.iter().for_each(|id| id.signal(Signal::SIGKILL));
        if left.is_empty() { Ok(Some(())) } else { Err(format!("still running: {left:?}")) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_fields() {
        let line = "7 (a) b (c)) S 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 1";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.started), ('S', 3, 4242));
        assert_eq!((stat.session, stat.has_terminal, stat.threads), (7, false, 1));
    }

    #[test]
    fn a_folder_is_named_by_what_begins_there_and_not_by_another_of_a_similar_name() {
        for word in ["/var/lib/demo/x", "--config=/var/lib/demo/x", "unix:/var/lib/demo/x", "a,/var/lib/demo/x"] {
            assert!(is_naming(word, "/var/lib/demo/"), "{word}");
        }
        for word in ["/var/lib/demo", "/var/lib/demo2/x", "/mnt/var/lib/demo/x", "/var/lib/", "cat /var/lib/demo/x"] {
            assert!(!is_naming(word, "/var/lib/demo/"), "{word}");
        }
    }

    #[test]
    fn a_namespace_is_the_same_under_all_its_names() {
        let this = ProcessId::this();
        assert_eq!(netns(this), FileId::of(Path::new("/proc/self/ns/net")));
        assert_ne!(netns(this), FileId::of(Path::new("/proc/self/ns/uts")));
    }

    #[test]
    fn a_reused_number_is_another_process() {
        let this = ProcessId::this();
        assert!(this.is_running());
        assert!(!ProcessId { started: this.started + 1, ..this }.is_running());
    }

    #[test]
    fn a_process_that_runs_has_memory() {
        assert!(resident_kib(ProcessId::this()).is_some_and(|kib| kib > 100));
        assert_eq!(resident_kib(ProcessId { pid: 0, started: 0 }), None);
    }

    #[test]
    fn a_process_that_works_uses_processor_time() {
        let begun = cpu_time(ProcessId::this()).unwrap();
        let is_later = || cpu_time(ProcessId::this()).is_some_and(|now| now > begun);
        wait::until("processor time", DEATH, || Ok::<_, String>(is_later().then_some(()))).unwrap();
    }

    #[test]
    fn nobody_ends_himself_or_his_parents() {
        let this = ProcessId::this();
        assert!(family(|_| true).iter().all(|id| id.pid != this.pid && id.pid != 1));
    }
}
