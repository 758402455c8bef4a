//! Finding Kubernetes' programs: where the user says, on the PATH, in the cache, or built once into the cache.
//!
//! The five programs of Kubernetes itself always come from one place, so that their versions fit together.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::command;
use crate::error::{Doing, LabError, Result};
use crate::kubernetes::build;
use crate::progress::Progress;
use crate::state::make_dir;

/// The variable that names a folder with the programs.
const FOLDER_VARIABLE: &str = "LADON_K8S_BIN";
/// The oldest Kubernetes that will do.
const MINOR_MIN: u32 = 33;
/// Kubernetes itself.
pub(super) const KUBERNETES: [&str; 5] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"];
/// What runs in pods.
pub(super) const OTHERS: [&str; 2] = ["agnhost", "coredns"];
/// What Kubernetes itself brings for Services.
const PROXY: &str = "kube-proxy";
/// How long a program may take to tell its version on a busy machine.
const VERSION: Duration = Duration::from_secs(30);

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    paths: BTreeMap<&'static str, PathBuf>,
    /// Kubernetes' version, such as "v1.34.2".
    pub version: String,
}

impl Programs {
    /// The path of one of the programs.
    pub fn path(&self, name: &str) -> Result<&Path> {
        let path = self.paths.get(name).map(PathBuf::as_path);
        path.ok_or_else(|| LabError::Unfit(format!("{name} is none of the programs that the lab knows")))
    }
}

/// The default cache: `$XDG_CACHE_HOME/ladon/kubernetes`, or `~/.cache/ladon/kubernetes`.
pub fn cache_dir() -> PathBuf {
    crate::cache_root().join("kubernetes")
}

/// Find every program, building into `cache` (default [`cache_dir`]) what is nowhere. A build takes about ten minutes and
/// happens once; another process that builds into the same cache is waited for.
pub fn programs(cache: Option<&Path>, progress: &Progress) -> Result<Programs> {
    let cache = cache.map_or_else(cache_dir, Path::to_owned);
    if let Some(found) = find(&cache) {
        return Ok(found);
    }
    make_dir(&cache)?;
    let _lock = progress.during(format!("waiting for the lock on {}", cache.display()), || lock(&cache))?;
    // Whoever held the lock may have built them.
    if let Some(found) = find(&cache) {
        return Ok(found);
    }
    build::build(&cache, &absent(&cache), progress)?;
    find(&cache).ok_or_else(|| LabError::Unfit(format!("the programs built into {} do not run", cache.display())))
}

/// Find kube-proxy, which no cluster of the lab needs, for whoever compares with it; as [`programs`].
pub fn kube_proxy(cache: Option<&Path>, progress: &Progress) -> Result<PathBuf> {
    let cache = cache.map_or_else(cache_dir, Path::to_owned);
    let find = || {
        let fits = |path: &PathBuf| is_program(path) && version(path).is_some_and(|version| is_new_enough(&version));
        folders(&cache).into_iter().map(|folder| folder.join(PROXY)).find(fits)
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    make_dir(&cache)?;
    let _lock = progress.during(format!("waiting for the lock on {}", cache.display()), || lock(&cache))?;
    if let Some(found) = find() {
        return Ok(found);
    }
    build::build(&cache, &[PROXY], progress)?;
    find().ok_or_else(|| LabError::Unfit(format!("the {PROXY} built into {} does not run", cache.display())))
}

pub(crate) fn lock(cache: &Path) -> Result<Flock<File>> {
    let path = cache.join(".lock");
    let file = File::create(&path).doing(|| format!("creating {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).doing(|| format!("locking {}", path.display()))
}

fn find(cache: &Path) -> Option<Programs> {
    let folders = folders(cache);
    let (folder, version) = folders.iter().find_map(|folder| Some((folder, kubernetes_version(folder, cache)?)))?;
    let mut paths: BTreeMap<&'static str, PathBuf> = KUBERNETES.map(|name| (name, folder.join(name))).into();
    for name in OTHERS {
        paths.insert(name, folders.iter().map(|folder| folder.join(name)).find(|path| is_program(path))?);
    }
    Some(Programs { paths, version })
}

/// What the cache lacks and no other place has.
fn absent(cache: &Path) -> Vec<&'static str> {
    let folders = folders(cache);
    let mut absent = Vec::new();
    if !folders.iter().any(|folder| kubernetes_version(folder, cache).is_some()) {
        absent.extend(KUBERNETES.iter().filter(|name| !is_current(&cache.join(name))));
    }
    absent.extend(OTHERS.iter().filter(|name| !folders.iter().any(|folder| is_program(&folder.join(name)))));
    absent
}

fn is_current(path: &Path) -> bool {
    is_program(path) && version(path).as_deref() == Some(build::KUBERNETES_VERSION)
}

fn folders(cache: &Path) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let said = env::var_os(FOLDER_VARIABLE).map(PathBuf::from);
    said.into_iter().chain(env::split_paths(&path)).chain([cache.to_owned()]).collect()
}

/// The version that all of Kubernetes' programs in `folder` agree on, if they are there and new enough.
fn kubernetes_version(folder: &Path, cache: &Path) -> Option<String> {
    if !KUBERNETES.iter().all(|name| is_program(&folder.join(name))) {
        return None;
    }
    let versions: Vec<Option<String>> = std::thread::scope(|scope| {
        let asked = KUBERNETES.map(|name| scope.spawn(move || version(&folder.join(name))));
        asked.into_iter().map(|thread| thread.join().ok().flatten()).collect()
    });
    let first = versions.first().cloned().flatten()?;
    let agreed = versions.iter().all(|version| version.as_ref() == Some(&first));
    let is_fit = if folder == cache { first == build::KUBERNETES_VERSION } else { is_new_enough(&first) };
    (agreed && is_fit).then_some(first)
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// kubectl has no --version.
fn version(path: &Path) -> Option<String> {
    let args: &[&str] = if path.ends_with("kubectl") { &["version", "--client"] } else { &["--version"] };
    let said = command::run(Command::new(path).args(args), VERSION).ok()?.ok().ok()?;
    said.split_whitespace().find(|word| word.starts_with("v1.")).map(str::to_owned)
}

fn is_new_enough(version: &str) -> bool {
    let minor = version.strip_prefix("v1.").and_then(|rest| rest.split('.').next());
    minor.and_then(|minor| minor.parse::<u32>().ok()).is_some_and(|minor| minor >= MINOR_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kubernetes_will_not_do() {
        assert!(is_new_enough("v1.34.2") && is_new_enough("v1.33.0-rc.1"));
        assert!(!is_new_enough("v1.32.9") && !is_new_enough("v0.9") && !is_new_enough("version"));
    }
}
