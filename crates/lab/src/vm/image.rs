//! The guest's kernel and file system, made from Debian's packages and kept in a cache.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::command::{self, TOOL};
use crate::error::{Doing, LabError, Result};
use crate::progress::Progress;
use crate::state::{make_dir, write_whole};
use crate::vm::archive::Archive;

/// The package whose dependency is the newest kernel.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Modules that the guest can load: its card, and what nested nodes and switches need.
const MODULES: &[&str] =
    &["virtio_pci", "virtio_net", "8021q", "macvlan", "ipvlan", "veth", "geneve", "vxlan", "openvswitch", "nf_conntrack", "bridge", "sctp"];
const INIT: &str = include_str!("../../assets/guest-init.sh");
const DHCP: &str = include_str!("../../assets/guest-dhcp.sh");
const TALK: &str = include_str!("../../assets/talk.c");
/// How long the kernel package may take to arrive.
const DOWNLOAD: Duration = Duration::from_secs(300);
/// Folders of the guest that nothing is packed into.
const FOLDERS: &[&str] = &["proc", "sys", "dev", "tmp", "www", "root"];

/// What a guest boots.
#[derive(Clone, Debug)]
pub struct VmImage {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

/// The default cache: `$XDG_CACHE_HOME/ladon/vm`, or `~/.cache/ladon/vm`.
pub fn cache_dir() -> PathBuf {
    crate::cache_root().join("vm")
}

/// The guest's image, made in `cache` (default [`cache_dir`]) when it is not there: the kernel package is fetched from the
/// machine's Debian mirror once.
pub fn image(cache: Option<&Path>, progress: &Progress) -> Result<VmImage> {
    let cache = cache.map_or_else(cache_dir, Path::to_owned);
    make_dir(&cache)?;
    let _lock = lock(&cache)?;
    let kernel = cache.join("vmlinuz");
    let initrd = cache.join(format!("initrd-{}", recipe()?));
    if !kernel.exists() || !initrd.exists() {
        progress.during("making the virtual machine's image", || make(&cache, &kernel, &initrd))?;
    }
    Ok(VmImage { kernel, initrd })
}

fn lock(cache: &Path) -> Result<Flock<File>> {
    let path = cache.join(".lock");
    let file = File::create(&path).doing(|| format!("creating {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).doing(|| format!("locking {}", path.display()))
}

/// Names what the initrd is made from, except the kernel.
fn recipe() -> Result<String> {
    let busybox = busybox()?;
    let mut hash = Sha256::new();
    hash.update(format!("{INIT}{DHCP}{TALK}{MODULES:?}{FOLDERS:?}"));
    hash.update(fs::read(&busybox).doing(|| format!("reading {}", busybox.display()))?);
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

fn busybox() -> Result<PathBuf> {
    let found = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|path| path.exists());
    found.ok_or_else(|| LabError::Unfit("busybox is not on this machine (package busybox-static), and guests need it".into()))
}

fn make(cache: &Path, kernel: &Path, initrd: &Path) -> Result<()> {
    let package = cache.join("package");
    let tree = package.join("tree");
    if !tree.join("boot").exists() {
        fetch(&package, &tree)?;
    }
    let release = only_entry(&tree.join("lib/modules"))?;
    let draft = initrd.with_extension("draft");
    let image = file_system(&tree, &release, &package)?;
    write_whole(&draft, &image)?;
    fs::copy(tree.join(format!("boot/vmlinuz-{release}")), kernel).doing(|| format!("writing {}", kernel.display()))?;
    fs::rename(&draft, initrd).doing(|| format!("putting {} into place", initrd.display()))
}

fn fetch(package: &Path, tree: &Path) -> Result<()> {
    let depends = command::tool("apt-cache", &["depends", KERNEL])?;
    let name = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).find(|name| name.starts_with("linux-image-"));
    let name = name.ok_or_else(|| LabError::Unfit(format!("apt knows no {KERNEL}; run apt-get update with Debian's mirror in reach")))?;
    let _ = fs::remove_dir_all(package);
    make_dir(package)?;
    let mut download = Command::new("apt-get");
    // apt's own user need not be able to write here.
    download.args(["download", "-qq", "-o", "APT::Sandbox::User=root", name]).current_dir(package);
    command::run(&mut download, DOWNLOAD)?
        .ok()
        .map_err(|error| LabError::Unfit(format!("the guest's kernel {name} could not be fetched: {}", crate::error::chain(&error))))?;
    let file = only_entry(package)?;
    let draft = package.join("draft");
    let (file, draft_text) = (package.join(file), draft.to_string_lossy().into_owned());
    command::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&draft_text), TOOL)?.ok()?;
    fs::rename(&draft, tree).doing(|| format!("putting {} into place", tree.display()))
}

fn only_entry(folder: &Path) -> Result<String> {
    let entries = fs::read_dir(folder).doing(|| format!("reading {}", folder.display()))?;
    let name = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).next();
    name.ok_or_else(|| LabError::Unfit(format!("{} is empty", folder.display())))
}

fn file_system(tree: &Path, release: &str, scratch: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    FOLDERS.iter().for_each(|folder| archive.folder(folder));
    archive.file("init", INIT.as_bytes(), 0o755);
    archive.file("etc/dhcp", DHCP.as_bytes(), 0o755);
    archive.file("bin/talk", &talk(scratch)?, 0o755);
    let busybox = busybox()?;
    archive.file("bin/busybox", &fs::read(&busybox).doing(|| format!("reading {}", busybox.display()))?, 0o755);
    for name in command::tool("busybox", &["--list"])?.lines().filter(|name| *name != "busybox") {
        archive.link(&format!("bin/{name}"), "busybox");
    }
    for (path, content) in modules(tree, release, scratch)? {
        archive.file(&path, &content, 0o644);
    }
    Ok(archive.finish())
}

/// The guest's own program, compiled.
fn talk(scratch: &Path) -> Result<Vec<u8>> {
    let (source, program) = (scratch.join("talk.c"), scratch.join("talk"));
    write_whole(&source, TALK.as_bytes())?;
    let mut gcc = Command::new("gcc");
    gcc.args(["-Os", "-s", "-static", "-w", "-o"]).arg(&program).arg(&source);
    command::run(&mut gcc, TOOL)
        .and_then(command::Output::ok)
        .map_err(|error| LabError::Unfit(format!("the guest's `talk` needs gcc and libc6-dev: {}", crate::error::chain(&error))))?;
    fs::read(&program).doing(|| format!("reading {}", program.display()))
}

/// The modules with all that they need, and the indices by which modprobe finds them.
fn modules(tree: &Path, release: &str, scratch: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let root = tree.to_string_lossy().into_owned();
    command::tool("depmod", &["-b", &root, release])?;
    let mut files = BTreeSet::new();
    for module in MODULES {
        let shown = command::tool("modprobe", &["-d", &root, "-S", release, "--show-depends", module])?;
        files.extend(shown.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|path| PathBuf::from(path.trim())));
    }
    let small = scratch.join("small");
    let _ = fs::remove_dir_all(&small);
    let indices = ["modules.builtin", "modules.order"].map(|name| tree.join("lib/modules").join(release).join(name));
    for file in files.iter().chain(&indices) {
        let inside = file.strip_prefix(tree).map_err(|_| LabError::Unfit(format!("{} is not in the package", file.display())))?;
        copy(file, &small.join(inside))?;
    }
    command::tool("depmod", &["-b", &small.to_string_lossy(), release])?;
    let mut all = Vec::new();
    collect(&small, "", &mut all)?;
    Ok(all)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    make_dir(to.parent().unwrap_or(to))?;
    fs::copy(from, to).map(drop).doing(|| format!("copying {}", from.display()))
}

fn collect(folder: &Path, prefix: &str, all: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder).doing(|| format!("reading {}", folder.display()))?.flatten().collect();
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match path.is_dir() {
            true => collect(&path, &format!("{name}/"), all)?,
            false => all.push((name, fs::read(&path).doing(|| format!("reading {}", path.display()))?)),
        }
    }
    Ok(())
}
