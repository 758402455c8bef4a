//! What a lab has started, on disk, so that a later process can take it away.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, LabError, Result};
use crate::procfs::ProcessId;

/// The file in a lab's folder.
pub const FILE: &str = "lab.json";

/// Everything a lab owns outside its folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Prefix of the names of its network namespaces.
    pub name: String,
    /// The process that takes it away when it ends.
    pub owner: ProcessId,
    /// It stays when its owner ends.
    pub kept: bool,
    /// Network namespaces by name.
    pub namespaces: Vec<String>,
    /// Hosts by name.
    pub hosts: BTreeMap<String, HostRecord>,
    /// Processes by name.
    pub processes: BTreeMap<String, ProcessRecord>,
    /// Paths outside its folder that were not there before it.
    pub made: Vec<PathBuf>,
}

/// A host as the lab remembers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostRecord {
    /// The last part of its underlay addresses.
    pub number: u8,
    /// It has a switch of its own, which carries the underlay addresses.
    pub has_switch: bool,
}

/// A long-running process as the lab remembers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessRecord {
    pub id: Option<ProcessId>,
    pub spec: Spec,
    pub log: PathBuf,
}

/// How to start a process, and to start it again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Spec {
    pub program: String,
    pub args: Vec<String>,
    /// Variables set, or removed where there is no value.
    pub env: Vec<(String, Option<String>)>,
    pub folder: Option<PathBuf>,
    pub netns: Option<PathBuf>,
    pub hostname: Option<String>,
    #[serde(default)]
    pub nice: i32,
}

impl State {
    /// A lab with nothing in it, owned by this process.
    pub fn new(name: &str) -> Self {
        State {
            name: name.into(),
            owner: ProcessId::this(),
            kept: false,
            namespaces: Vec::new(),
            hosts: BTreeMap::new(),
            processes: BTreeMap::new(),
            made: Vec::new(),
        }
    }

    /// A lab of which only logs are left.
    pub fn nothing() -> Self {
        State { owner: ProcessId { pid: 0, started: 0 }, ..Self::new("") }
    }

    /// The state kept in `dir`, if there is one.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).doing(|| format!("reading {}", path.display()))?;
        let state = serde_json::from_str(&text);
        state
            .map(Some)
            .map_err(|error| LabError::Unfit(format!("{} is damaged ({error}); end its processes by hand and remove it", path.display())))
    }

    /// Write it whole or not at all.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("plain data has a JSON form");
        write_whole(&dir.join(FILE), &text)
    }
}

/// Write a file so that readers see the old or the new content, never a part.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let draft = path.with_extension(format!("{}.draft", std::process::id()));
    let write = || {
        let mut file = fs::File::create(&draft)?;
        file.write_all(content)?;
        fs::rename(&draft, path)
    };
    write().doing(|| format!("writing {}", path.display()))
}

/// Make a folder and those above it.
pub fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).doing(|| format!("making the folder {}", path.display()))
}
