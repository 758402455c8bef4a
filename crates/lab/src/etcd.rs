//! etcd clusters: one member or several on the loopback of this machine or of a host, Debian's etcd or the newest one built from its
//! Go module.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Doing, LabError, Result};
use crate::host::Host;
use crate::kubernetes::build::{check_go, go};
use crate::kubernetes::pki::Authority;
use crate::kubernetes::programs::lock;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Process;
use crate::progress::Progress;
use crate::state::{make_dir, write_whole};

/// The etcd that is built from its module.
pub const ETCD_VERSION: &str = "v3.6.4";
/// How long a cluster may take to be ready on a busy machine.
const READY: Duration = Duration::from_secs(120);

/// Whose etcd.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Version {
    /// Debian's package etcd-server (3.4 in Debian 12).
    #[default]
    Debian,
    /// [`ETCD_VERSION`], built once into the user's cache.
    Module,
}

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct Options {
    pub version: Version,
    pub members: usize,
    /// Clients come with TLS and a certificate of [`Etcd::client`].
    pub is_secure: bool,
    /// Further arguments of every member.
    pub args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { version: Version::Debian, members: 1, is_secure: false, args: Vec::new() }
    }
}

/// A cluster. Its members end with it.
pub struct Etcd {
    members: Vec<Member>,
    /// Authority, certificate and key for clients.
    client: Option<[PathBuf; 3]>,
}

struct Member {
    process: Process,
    endpoint: String,
    /// Where it tells without TLS whether it is well.
    health: u16,
    /// Whose loopback that is; None: this machine's own.
    netns: Option<Netns>,
}

/// Where a cluster runs.
#[derive(Clone, Copy)]
enum Place<'a> {
    Machine(&'a Lab),
    Host(&'a Host),
}

impl Place<'_> {
    fn folder(self, name: &str) -> Result<PathBuf> {
        match self {
            Place::Machine(lab) => lab.shared().folder(name),
            Place::Host(host) => host.folder(name),
        }
    }

    fn netns(self) -> Option<Netns> {
        match self {
            Place::Machine(_) => None,
            Place::Host(host) => Some(host.netns().clone()),
        }
    }

    fn spawn(self, name: &str, command: &Command) -> Result<Process> {
        match self {
            Place::Machine(lab) => lab.spawn(name, command),
            Place::Host(host) => host.spawn(name, command),
        }
    }
}

/// Does `work` in a namespace, or here.
fn within<T: Send>(netns: Option<&Netns>, work: impl FnOnce() -> T + Send) -> Result<T> {
    match netns {
        Some(netns) => netns.within(work),
        None => Ok(work()),
    }
}

/// The program of a version, built first where it has to be.
pub fn program(version: Version, progress: &Progress) -> Result<PathBuf> {
    if version == Version::Debian {
        return Ok("etcd".into());
    }
    let cache = crate::cache_root().join("etcd");
    let target = cache.join(format!("etcd-{ETCD_VERSION}"));
    if target.exists() {
        return Ok(target);
    }
    make_dir(&cache)?;
    let _lock = lock(&cache)?;
    if !target.exists() {
        check_go()?;
        progress.during(format!("building etcd {ETCD_VERSION} (once, into {})", cache.display()), || build(&cache, &target))?;
    }
    Ok(target)
}

/// Its module replaces others with folders, so it cannot be installed by itself.
fn build(cache: &Path, target: &Path) -> Result<()> {
    let module = cache.join(".module");
    make_dir(&module)?;
    let text = format!("module etcd-program\n\ngo 1.24.0\n\nrequire go.etcd.io/etcd/server/v3 {ETCD_VERSION}\n");
    write_whole(&module.join("go.mod"), text.as_bytes())?;
    let draft = module.join("etcd");
    go(
        &module,
        "etcd",
        &["build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", &draft.to_string_lossy(), "go.etcd.io/etcd/server/v3"],
    )?;
    std::fs::rename(&draft, target).doing(|| format!("putting {} into place", target.display()))
}

impl Etcd {
    /// Starts a cluster named `name` on this machine and waits until it is ready.
    pub fn start(lab: &Lab, name: &str, options: &Options) -> Result<Etcd> {
        Etcd::start_at(Place::Machine(lab), name, options)
    }

    /// The same on a host of the lab, for clients that live there.
    pub fn start_on(host: &Host, name: &str, options: &Options) -> Result<Etcd> {
        Etcd::start_at(Place::Host(host), name, options)
    }

    fn start_at(place: Place<'_>, name: &str, options: &Options) -> Result<Etcd> {
        let program = program(options.version, &Progress::quiet())?;
        let (dir, netns) = (place.folder(name)?, place.netns());
        let authority = options.is_secure.then(|| Authority::open(&dir.join("pki"), "ca")).transpose()?;
        let server =
            authority.as_ref().map(|authority| authority.server("server", &["127.0.0.1".into(), "localhost".into()])).transpose()?;
        let scheme = if options.is_secure { "https" } else { "http" };
        let ports = within(netns.as_ref(), || free_ports(options.members * 3))??;
        let peers: Vec<String> = (0..options.members).map(|n| format!("{name}{n}=http://127.0.0.1:{}", ports[n * 3 + 1])).collect();
        let mut members = Vec::new();
        for n in 0..options.members {
            let (client, peer, health) = (ports[n * 3], ports[n * 3 + 1], ports[n * 3 + 2]);
            let endpoint = format!("{scheme}://127.0.0.1:{client}");
            let mut command = Command::new(&program);
            command.args([
                format!("--name={name}{n}"),
                format!("--data-dir={}", dir.join(n.to_string()).display()),
                format!("--listen-client-urls={endpoint}"),
                format!("--advertise-client-urls={endpoint}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster={}", peers.join(",")),
                format!("--listen-metrics-urls=http://127.0.0.1:{health}"),
                "--logger=zap".into(),
            ]);
            if let (Some(authority), Some(server)) = (&authority, &server) {
                command.arg("--client-cert-auth");
                command.arg(format!("--trusted-ca-file={}", authority.certificate().display()));
                command.arg(format!("--cert-file={}", server.certificate.display()));
                command.arg(format!("--key-file={}", server.key.display()));
            }
            command.args(&options.args);
            let process = place.spawn(&format!("{name}{n}"), &command)?;
            members.push(Member { process, endpoint, health, netns: netns.clone() });
        }
        let client = match &authority {
            Some(authority) => {
                let identity = authority.client("client", "ladon", None)?;
                Some([authority.certificate(), identity.certificate, identity.key])
            }
            None => None,
        };
        let etcd = Etcd { members, client };
        etcd.wait_until_ready()?;
        Ok(etcd)
    }

    /// Where clients reach its members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }

    /// A client's authority, certificate and key, where the cluster is secure.
    pub fn client(&self) -> Option<&[PathBuf; 3]> {
        self.client.as_ref()
    }

    /// How many members it has.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// One of its members.
    pub fn member(&self, number: usize) -> &Process {
        &self.members[number].process
    }

    /// Waits until a member knows that it has lost the majority.
    pub fn wait_until_leaderless(&self, number: usize) -> Result<()> {
        let member = &self.members[number];
        member.process.wait_until(&format!("{} to have no leader", member.process.name()), READY, || {
            let answer = member.health()?;
            if answer.contains(r#""health":"false""#) { Ok(Some(())) } else { Err(answer) }
        })
    }

    /// Waits until every member serves clients.
    pub fn wait_until_ready(&self) -> Result<()> {
        self.members.iter().try_for_each(Member::wait_until_ready)
    }
}

impl Member {
    fn wait_until_ready(&self) -> Result<()> {
        self.process.wait_until(&format!("{} to be ready", self.process.name()), READY, || {
            let answer = self.health()?;
            if answer.contains(r#""health":"true""#) { Ok(Some(())) } else { Err(answer) }
        })
    }

    fn health(&self) -> Result<String, String> {
        let asked = within(self.netns.as_ref(), || ask(self.health)).map_err(|error| error.to_string())?;
        asked.map_err(|error| error.to_string())
    }
}

/// What a member that tells it at this port says of its health.
fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Where members listen: below the ports that the kernel gives to whoever connects (`ip_local_port_range`), unless it gives all, or one
/// of those would be somebody's when a member that was killed comes back.
fn places() -> std::ops::Range<u16> {
    const PLACES: std::ops::Range<u16> = 10_000..32_000;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let given: Option<u16> = range.split_whitespace().next().and_then(|first| first.parse().ok());
    PLACES.start..given.filter(|first| *first > PLACES.start + 1_000).unwrap_or(PLACES.end).min(PLACES.end)
}

/// Ports on which nobody listens. Processes begin their search at different ones.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    /// It takes a while until somebody listens on them: another cluster of this process must not get them meanwhile.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let places = places();
    let first = (std::process::id() as usize).wrapping_mul(97) % places.len();
    let candidates = places.clone().cycle().skip(first).take(places.len());
    let free = candidates.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok() && given.insert(*port));
    let ports: Vec<u16> = free.take(count).collect();
    if ports.len() == count { Ok(ports) } else { Err(LabError::Unfit(format!("no {count} ports of {places:?} are free on loopback"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let [one, other] = [free_ports(9).unwrap(), free_ports(9).unwrap()];
        assert!(one.iter().all(|port| places().contains(port) && !other.contains(port)), "{one:?}, {other:?}");
    }
}
