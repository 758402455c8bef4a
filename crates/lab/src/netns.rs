//! Network namespaces: making them, entering them, looking at the world from inside one.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::command::{self, TOOL};
use crate::error::{Doing, LabError, Result};
use crate::sys;

/// Where iproute2 keeps the names of namespaces.
const NAMES: &str = "/run/netns";

/// A network namespace, by a path to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Netns {
    path: PathBuf,
}

impl Netns {
    /// The namespace that `ip netns` calls `name`.
    pub fn named(name: &str) -> Self {
        Netns { path: Path::new(NAMES).join(name) }
    }

    /// The namespace behind a file, such as one that a container runtime made or /proc/PID/ns/net.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Netns { path: path.into() }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs in it, with everything else as it is here.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        sys::in_netns(&mut command, &self.path);
        command
    }

    /// Run a tool in it and give what it printed.
    pub fn tool(&self, program: &str, args: &[&str]) -> Result<String> {
        command::run(self.command(program).args(args), TOOL)?.ok()
    }

    /// Run many lines of `ip` in it at once, each without the leading `ip`.
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        let input = lines.join("\n") + "\n";
        let output = command::run_with_input(self.command("ip").args(["-batch", "-"]), &input, TOOL)?;
        match output.is_success() {
            true => Ok(()),
            false => Err(LabError::Failed {
                command: format!("ip {}", lines.join("; ip ")),
                status: output.status.to_string(),
                output: output.stderr.trim().into(),
            }),
        }
    }

    /// Do something on a thread that lives in this namespace: sockets that it opens stay there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(&self.path).doing(|| format!("opening the namespace {}", self.path.display()))?;
        let inside = move || sys::enter_netns(&file).map(|()| work());
        let ended = thread::scope(|scope| scope.spawn(inside).join());
        match ended {
            Ok(result) => result.doing(|| format!("entering the namespace {}", self.path.display())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Write kernel settings, each a path below /proc/sys and a value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.within(|| {
            for (name, value) in settings {
                fs::write(format!("/proc/sys/{name}"), value).doing(|| format!("setting {name} to {value}"))?;
            }
            Ok(())
        })?
    }
}

/// Make a namespace of this name.
pub fn add(name: &str) -> Result<Netns> {
    command::tool("ip", &["netns", "add", name])?;
    Ok(Netns::named(name))
}

/// Take the name away; the namespace goes with its last process. It need not be there.
pub fn remove(name: &str) -> Result<()> {
    let path = Path::new(NAMES).join(name);
    match nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        other => other.doing(|| format!("unmounting {}", path.display()))?,
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).doing(|| format!("removing {}", path.display())),
        _ => Ok(()),
    }
}
