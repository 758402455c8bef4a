//! What containers leave outside a lab's folder when they are killed: sockets of shims, control groups, links to logs.
//!
//! containerd keeps a folder, the bundle, for every container; from the bundles of the lab it is known which of the
//! machine's shared places hold something of the lab's. Shared folders themselves go only when nothing is left in them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::error::{Doing, Result};
use crate::wait;

/// Below a containerd's state: the bundles, by namespace and container.
const BUNDLES: &str = "io.containerd.runtime.v2.task";
/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where kubelets link the logs of containers.
const LOG_LINKS: &str = "/var/log/containers";
/// Where CNI's library remembers the results of ADD.
const CNI_RESULTS: &str = "/var/lib/cni/results";
/// Folders that containerd, CNI and kubelet make; removed when empty, children first.
const SHARED: &[&str] = &["/run/containerd/s", "/run/containerd", LOG_LINKS, CNI_RESULTS, "/var/lib/cni/networks", "/var/lib/cni"];
/// How long the kernel may take to let go of a control group whose processes were killed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bundles of a lab, read before its folder goes.
#[derive(Default)]
pub struct Containers {
    ids: Vec<String>,
    sockets: Vec<PathBuf>,
    cgroups: Vec<String>,
}

impl Containers {
    /// Those of every containerd below `dir`.
    pub fn below(dir: &Path) -> Self {
        let mut found = Containers::default();
        for host in entries(dir) {
            let namespaces = entries(&host.join("run").join(BUNDLES));
            namespaces.iter().flat_map(|namespace| entries(namespace)).for_each(|bundle| found.add(&bundle));
        }
        found
    }

    fn add(&mut self, bundle: &Path) {
        self.ids.extend(bundle.file_name().map(|id| id.to_string_lossy().into_owned()));
        let address = fs::read_to_string(bundle.join("address")).unwrap_or_default();
        self.sockets.extend(address.strip_prefix("unix://").map(PathBuf::from));
        let config = fs::read(bundle.join("config.json")).unwrap_or_default();
        let config: Value = serde_json::from_slice(&config).unwrap_or_default();
        self.cgroups.extend(config["linux"]["cgroupsPath"].as_str().map(|path| path.trim_start_matches('/').to_owned()));
    }

    /// Remove what they left; their processes are gone already. `dir` is the lab's folder.
    pub fn remove(&self, dir: &Path) -> Result<()> {
        for socket in &self.sockets {
            remove_file(socket)?;
        }
        for group in self.cgroups.iter().filter(|group| !group.is_empty()) {
            remove_cgroup(group)?;
        }
        for link in entries(Path::new(LOG_LINKS)) {
            if fs::read_link(&link).is_ok_and(|target| target.starts_with(dir)) {
                remove_file(&link)?;
            }
        }
        for result in entries(Path::new(CNI_RESULTS)) {
            if self.ids.iter().any(|id| result.to_string_lossy().contains(id.as_str())) {
                remove_file(&result)?;
            }
        }
        SHARED.iter().for_each(|folder| drop(fs::remove_dir(folder)));
        Ok(())
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).doing(|| format!("removing {}", path.display())),
        _ => Ok(()),
    }
}

/// Remove a control group with those below it, in every hierarchy: one on cgroup v2, a dozen on v1. Its parent, which
/// containerd made for all containers, goes when it is empty.
fn remove_cgroup(group: &str) -> Result<()> {
    let root = Path::new(CGROUPS);
    for hierarchy in entries(root).into_iter().chain([root.to_owned()]) {
        let path = hierarchy.join(group);
        wait::until(&format!("{} to be free", path.display()), PATIENCE, || remove_groups(&path).map(Some))?;
        if let Some(parent) = path.parent().filter(|parent| *parent != hierarchy) {
            let _ = fs::remove_dir(parent);
        }
    }
    Ok(())
}

fn remove_groups(path: &Path) -> io::Result<()> {
    for child in entries(path).into_iter().filter(|child| child.is_dir()) {
        remove_groups(&child)?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
