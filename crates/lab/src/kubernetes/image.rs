//! One container image, packed into an archive that `ctr images import` reads, without a registry or a daemon.
//!
//! The archive is the `docker save` layout: one layer, its configuration, a manifest. Its file name holds a hash of
//! everything that went into it, so an image is packed once and again only when a part has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::command;
use crate::error::{Doing, LabError, Result};
use crate::state::make_dir;

/// Changes when the same parts give another archive than before.
const LAYOUT: &str = "1";
/// The PATH in every container.
const PATH: &str = "PATH=/bin:/usr/bin:/sbin:/usr/sbin:/";

/// What lies at one path of an image.
#[derive(Clone, Debug)]
enum Content {
    File(PathBuf),
    Text(Vec<u8>),
    Link(String),
}

/// An image to be packed.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    /// What lies where, by absolute path.
    contents: BTreeMap<String, Content>,
    folders: BTreeSet<String>,
}

impl Image {
    /// An image of this name with nothing in it but /tmp.
    pub fn new(name: &str) -> Self {
        let folders = BTreeSet::from(["/tmp".to_owned()]);
        Image { name: name.into(), entrypoint: None, cmd: None, contents: BTreeMap::new(), folders }
    }

    /// What runs in it.
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = Some(words.iter().map(|word| word.to_string()).collect());
        self
    }

    /// What the entry point is told by default.
    pub fn cmd(mut self, words: &[&str]) -> Self {
        self.cmd = Some(words.iter().map(|word| word.to_string()).collect());
        self
    }

    /// An empty folder.
    pub fn folder(mut self, path: &str) -> Self {
        self.folders.insert(path.into());
        self
    }

    /// A file of this machine.
    pub fn file(mut self, source: &Path, target: &str) -> Self {
        self.contents.insert(target.into(), Content::File(source.into()));
        self
    }

    /// A file with this text.
    pub fn text(mut self, text: impl Into<Vec<u8>>, target: &str) -> Self {
        self.contents.insert(target.into(), Content::Text(text.into()));
        self
    }

    /// A symbolic link at `target`.
    pub fn link(mut self, to: &str, target: &str) -> Self {
        self.contents.insert(target.into(), Content::Link(to.into()));
        self
    }

    /// A program of this machine, put into /bin with the libraries that it needs at their own paths.
    pub fn program(mut self, name: &str) -> Result<Self> {
        let path = which(name)?;
        let libraries = command::run(std::process::Command::new("ldd").arg(&path), command::TOOL)?.stdout;
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let source = Path::new(library).canonicalize().doing(|| format!("looking at {library}, which {name} needs"))?;
            self.contents.insert(library.into(), Content::File(source));
        }
        let source = path.canonicalize().doing(|| format!("looking at {}", path.display()))?;
        Ok(self.file(&source, &format!("/bin/{name}")))
    }

    /// busybox with all its names in /bin, except those that are taken already.
    pub fn busybox(mut self) -> Result<Self> {
        let path = which("busybox")?;
        let names = command::tool("busybox", &["--list"])?;
        for name in names.lines().filter(|name| *name != "busybox") {
            let target = format!("/bin/{name}");
            self.contents.entry(target).or_insert_with(|| Content::Link("/bin/busybox".into()));
        }
        Ok(self.file(&path, "/bin/busybox"))
    }

    /// The archive in `folder`, packed now unless it is there.
    pub fn pack(&self, folder: &Path) -> Result<PathBuf> {
        make_dir(folder)?;
        let short: String = self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let path = folder.join(format!("{short}-{}.tar", &self.fingerprint()?[..16]));
        if !path.exists() {
            let draft = path.with_extension(format!("{}.draft", std::process::id()));
            let written = self.write(&draft).and_then(|()| fs::rename(&draft, &path));
            written.doing(|| format!("packing {} into {}", self.name, path.display()))?;
        }
        Ok(path)
    }

    fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(format!("{LAYOUT} {} {:?} {:?} {:?}", self.name, self.entrypoint, self.cmd, self.folders));
        for (target, content) in &self.contents {
            hash.update(target);
            match content {
                Content::File(source) => hash_file(source, &mut hash)?,
                Content::Text(text) => hash.update(text),
                Content::Link(to) => hash.update(to),
            }
        }
        Ok(hex(&hash.finalize()))
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let layer = self.layer()?;
        let digest = hex(&Sha256::digest(&layer));
        let config = self.config(&digest);
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{digest}.tar");
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": [layer_name]}]);
        let mut archive = Builder::new(File::create(path)?);
        add_bytes(&mut archive, &config_name, &config, 0o644)?;
        add_bytes(&mut archive, &layer_name, &layer, 0o644)?;
        add_bytes(&mut archive, "manifest.json", manifest.to_string().as_bytes(), 0o644)?;
        archive.into_inner()?.sync_all()
    }

    fn config(&self, digest: &str) -> Vec<u8> {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": [PATH], "Entrypoint": self.entrypoint, "Cmd": self.cmd, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            "history": [{"created_by": "ladon lab"}],
        })
        .to_string()
        .into_bytes()
    }

    fn layer(&self) -> std::io::Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for folder in self.all_folders() {
            let mode = if folder == "/tmp" { 0o1777 } else { 0o755 };
            let mut header = header(EntryType::Directory, mode, 0);
            archive.append_data(&mut header, folder.trim_start_matches('/'), &[][..])?;
        }
        for (target, content) in &self.contents {
            let name = target.trim_start_matches('/');
            match content {
                Content::File(source) => {
                    let mode = fs::metadata(source)?.permissions().mode() & 0o777;
                    add_bytes(&mut archive, name, &fs::read(source)?, mode)?;
                }
                Content::Text(text) => add_bytes(&mut archive, name, text, 0o644)?,
                Content::Link(to) => archive.append_link(&mut header(EntryType::Symlink, 0o777, 0), name, to)?,
            }
        }
        archive.into_inner()
    }

    /// Every folder that something lies in, parents first.
    fn all_folders(&self) -> BTreeSet<String> {
        let parents = self.contents.keys().flat_map(|path| Path::new(path).ancestors().skip(1));
        let stated = self.folders.iter().flat_map(|path| Path::new(path).ancestors());
        let all = parents.chain(stated).map(|path| path.to_string_lossy().into_owned());
        all.filter(|path| path != "/" && !path.is_empty()).collect()
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn add_bytes<W: Write>(archive: &mut Builder<W>, name: &str, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    archive.append_data(&mut header(EntryType::Regular, mode, bytes.len() as u64), name, bytes)
}

fn hash_file(path: &Path, hash: &mut Sha256) -> Result<()> {
    let reading = || format!("reading {}", path.display());
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).doing(reading)?);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).doing(reading)? {
            0 => return Ok(()),
            length => hash.update(&buffer[..length]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A program's place on the PATH or in the system's folders.
fn which(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| LabError::Unfit(format!("{name} is not on this machine, and an image needs it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_packed_once_and_again_when_a_part_changes() {
        let folder = std::env::temp_dir().join(format!("ladon-image-{}", std::process::id()));
        let image = |text: &str| Image::new("lab.test/a:1").text(text, "/etc/deep/x").link("/etc/deep/x", "/bin/y");
        let first = image("one").pack(&folder).unwrap();
        assert_eq!(first, image("one").pack(&folder).unwrap());
        assert_ne!(first, image("two").pack(&folder).unwrap());
        let mut archive = tar::Archive::new(File::open(&first).unwrap());
        let names = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        assert!(names.collect::<Vec<_>>().contains(&"manifest.json".to_string()));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn parents_come_before_children() {
        let image = Image::new("a").text("", "/etc/deep/x");
        assert_eq!(image.all_folders().into_iter().collect::<Vec<_>>(), ["/etc", "/etc/deep", "/tmp"]);
    }
}
