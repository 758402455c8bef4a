//! Debian packages: installing just what is missing, without starting any service.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::{self, TOOL};
use crate::error::{Doing, LabError, Result};
use crate::progress::Progress;
use crate::signals::on_interrupt;
use crate::state::{make_dir, write_whole};

/// What hosts, switches and their tools need.
pub const NETWORK: &[&str] = &["iproute2", "ethtool", "openvswitch-switch", "conntrack", "tcpdump"];
/// What a Kubernetes cluster and its images need beyond that.
pub const KUBERNETES: &[&str] = &[
    "containerd",
    "runc",
    "etcd-server",
    "containernetworking-plugins",
    "busybox-static",
    "gcc",
    "libc6-dev",
    "curl",
    "wget",
    "bind9-dnsutils",
    "netcat-openbsd",
    "iperf3",
    "bash",
    "dash",
];
/// What virtual machines need beyond that.
pub const MACHINES: &[&str] = &["qemu-system-x86", "busybox-static", "kmod", "gcc", "libc6-dev"];
/// What the demo's user drives it with.
pub const CLIENTS: &[&str] = &["python3-openstackclient", "python3-octaviaclient", "openssl"];
/// What lies to processes: a clock that can be moved.
pub const FAULTS: &[&str] = &["libfaketime"];

/// What benchmarks compare with, beyond that.
pub const PEERS: &[&str] = &["debootstrap", "nftables", "containernetworking-plugins", "iperf3"];

/// Tells invoke-rc.d whether a service may start.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// The answer "no", and who gave it.
const FORBID: &str = "#!/bin/sh\n# Written by Ladon's lab while it installs packages.\nexit 101\n";
/// How long apt may take.
const APT: Duration = Duration::from_secs(15 * 60);

/// Install those of `packages` that are missing. Needs root and, when something is missing, a package mirror.
pub fn ensure(packages: &[&str], progress: &Progress) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !nix::unistd::Uid::effective().is_root() {
        return Err(LabError::Unfit(format!("the packages {} are missing, and only root may install them", missing.join(" "))));
    }
    let _policy = forbid_services()?;
    progress.during("reading Debian's package lists", || apt(&["update"], &missing))?;
    let mut args = vec!["install", "--no-install-recommends"];
    args.extend(&missing);
    progress.during(format!("installing {}", missing.join(" ")), || apt(&args, &missing))
}

/// The root folder of another Debian release with `packages`, made once in the cache. Nothing of it is started and nothing mounted:
/// its programs run here by [`Release::command`].
pub fn release(suite: &str, packages: &[&str], progress: &Progress) -> Result<Release> {
    let cache = crate::cache_root().join("debian");
    let root = cache.join(format!("{suite}-{}", packages.join("-")));
    if !root.exists() {
        make_dir(&cache)?;
        let draft = cache.join(format!(".{suite}.{}", std::process::id()));
        let made = progress.during(format!("Debian {suite} with {} (once, into {})", packages.join(", "), cache.display()), || {
            bootstrap(suite, packages, &draft)?;
            fs::rename(&draft, &root).doing(|| format!("putting {} into place", root.display()))
        });
        made.inspect_err(|_| drop(fs::remove_dir_all(&draft)))?;
    }
    Ok(Release { root })
}

fn bootstrap(suite: &str, packages: &[&str], root: &Path) -> Result<()> {
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", suite]).arg(root);
    command::run(&mut debootstrap, APT)?.ok()?;
    write_whole(&root.join(&POLICY[1..]), FORBID.as_bytes())?;
    fs::set_permissions(root.join(&POLICY[1..]), fs::Permissions::from_mode(0o755)).doing(|| "forbidding services".into())?;
    for args in [vec!["update"], [vec!["install", "--no-install-recommends"], packages.to_vec()].concat()] {
        let mut apt = Command::new("chroot");
        apt.arg(root).args(["apt-get", "-qq", "-y"]).args(args).env("DEBIAN_FRONTEND", "noninteractive");
        command::run(&mut apt, APT)?.ok()?;
    }
    Ok(())
}

/// Programs of another Debian release.
#[derive(Clone, Debug)]
pub struct Release {
    root: PathBuf,
}

impl Release {
    /// A file of it, by its path there.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The program at that path (no link, or it would lead out of the root), loaded with that release's own libraries.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.path("/lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(self.path("/usr/lib/x86_64-linux-gnu")).arg(self.path(program));
        command
    }
}

/// Those of `packages` that are not installed.
pub fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(packages);
    // It fails when one is unknown, and still prints the others.
    let said = command::run(&mut query, TOOL)?.stdout;
    let is_installed = |name: &str| said.lines().any(|line| line == format!("{name} installed"));
    let mut missing: Vec<&str> = packages.iter().copied().filter(|name| !is_installed(name)).collect();
    missing.sort();
    missing.dedup();
    Ok(missing)
}

fn apt(args: &[&str], missing: &[&str]) -> Result<()> {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-y", "-o", "DPkg::Lock::Timeout=300"]).args(args);
    let output = command::run(&mut apt, APT)?;
    // `update` only warns when the mirror cannot be reached; the install then says so.
    if output.is_success() {
        return Ok(());
    }
    let said: Vec<&str> = output.stderr.lines().filter(|line| line.starts_with("E:")).collect();
    Err(LabError::Unfit(format!(
        "the packages {} are missing and `{}` failed: {}; install them by hand (apt-get install {0}) as root, with a package mirror in reach",
        missing.join(" "),
        output.command,
        said.join(" ")
    )))
}

/// A rule against starting services, taken back when dropped and on interruption.
struct Policy {
    _interrupt: crate::signals::OnInterrupt,
}

/// An administrator's own rule is left alone.
fn forbid_services() -> Result<Option<Policy>> {
    if Path::new(POLICY).exists() {
        return Ok(None);
    }
    let interrupt = on_interrupt(|| drop(fs::remove_file(POLICY)))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
    let written = file.and_then(|mut file| file.write_all(FORBID.as_bytes()));
    written.doing(|| format!("writing {POLICY}; packages are installed as root"))?;
    Ok(Some(Policy { _interrupt: interrupt }))
}

impl Drop for Policy {
    fn drop(&mut self) {
        let _ = fs::remove_file(POLICY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_installed_is_missing() {
        assert_eq!(missing(&["dpkg", "no-such-package-of-ladon"]).unwrap(), ["no-such-package-of-ladon"]);
    }
}
