//! The images that the lab's pods run, packed from this machine's own programs.

use std::path::{Path, PathBuf};

use rcgen::generate_simple_self_signed;

use crate::command::{self, TOOL};
use crate::error::{Doing, LabError, Result};
use crate::kubernetes::image::Image;
use crate::kubernetes::programs::Programs;
use crate::state::{make_dir, write_whole};

/// The first process of every pod.
pub const PAUSE: &str = "ladon.test/pause:1";
/// Kubernetes' own test server (`netexec`, `serve-hostname`, ...), with the tools beside it.
pub const AGNHOST: &str = "ladon.test/agnhost:2.56";
/// busybox, nc, curl, wget, dig and iperf3, without any server.
pub const TOOLS: &str = "ladon.test/tools:1";
/// The cluster's DNS server.
pub const COREDNS: &str = "ladon.test/coredns:1";

/// The source of pause.
const PAUSE_C: &str = include_str!("../../assets/pause.c");
/// Programs of this machine that tests use in pods.
const PROGRAMS: &[&str] = &["nc.openbsd", "curl", "wget", "dig", "nslookup", "getent", "bash", "dash", "iperf3", "ip"];

/// Archives of images, to be imported by every node.
#[derive(Clone, Debug)]
pub struct Images {
    archives: Vec<PathBuf>,
}

impl Images {
    /// These, and one more.
    pub fn with(mut self, archive: PathBuf) -> Self {
        self.archives.push(archive);
        self
    }

    /// The files.
    pub fn archives(&self) -> &[PathBuf] {
        &self.archives
    }
}

/// The four images that the lab knows, packed into `cache` (default [`crate::kubernetes::cache_dir`]) where they are not there yet.
pub fn images(programs: &Programs, cache: Option<&Path>) -> Result<Images> {
    let folder = cache.map_or_else(super::cache_dir, Path::to_owned).join("images");
    make_dir(&folder)?;
    let packed = std::thread::scope(|scope| {
        let agnhost = scope.spawn(|| agnhost(programs, &folder)?.pack(&folder));
        let coredns = scope.spawn(|| coredns(programs)?.pack(&folder));
        let small = [pause(&folder)?.pack(&folder)?, with_tools(Image::new(TOOLS))?.pack(&folder)?];
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<PathBuf>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        Ok::<_, LabError>([&small[..], &[join(coredns)?, join(agnhost)?]].concat())
    })?;
    Ok(Images { archives: packed })
}

fn pause(folder: &Path) -> Result<Image> {
    let program = folder.join("pause");
    if !program.exists() {
        compile_pause(folder, &program)?;
    }
    Ok(Image::new(PAUSE).entrypoint(&["/pause"]).file(&program, "/pause"))
}

fn compile_pause(folder: &Path, program: &Path) -> Result<()> {
    let source = folder.join("pause.c");
    write_whole(&source, PAUSE_C.as_bytes())?;
    let draft = folder.join(format!("pause.{}", std::process::id()));
    let mut gcc = std::process::Command::new("gcc");
    gcc.args(["-Os", "-s", "-static", "-o"]).arg(&draft).arg(&source);
    let compiled = command::run(&mut gcc, TOOL).and_then(command::Output::ok);
    compiled.map_err(|error| {
        LabError::Unfit(format!("pause, the first process of every pod, needs gcc and libc6-dev: {}", crate::error::chain(&error)))
    })?;
    std::fs::rename(&draft, program).doing(|| format!("putting {} into place", program.display()))
}

fn coredns(programs: &Programs) -> Result<Image> {
    Ok(Image::new(COREDNS).entrypoint(&["/coredns"]).folder("/etc").file(programs.path("coredns")?, "/coredns"))
}

fn agnhost(programs: &Programs, folder: &Path) -> Result<Image> {
    let (certificate, key) = self_signed(folder)?;
    Ok(with_tools(Image::new(AGNHOST))?
        .entrypoint(&["/agnhost"])
        .cmd(&["pause"])
        .file(programs.path("agnhost")?, "/agnhost")
        .file(&certificate, "/localhost.crt")
        .file(&key, "/localhost.key"))
}

/// busybox' shell would prefer its own nc to the real one, so that /bin/sh is dash.
fn with_tools(image: Image) -> Result<Image> {
    let mut image = image.folder("/etc").folder("/root").text("hosts: files dns\n", "/etc/nsswitch.conf");
    for name in PROGRAMS {
        image = image.program(name)?;
    }
    image.link("/bin/nc.openbsd", "/bin/nc").link("/bin/dash", "/bin/sh").busybox()
}

/// agnhost's HTTPS servers look for a certificate; it is made once, or the image would change each time.
fn self_signed(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join("localhost.crt"), folder.join("localhost.key"));
    if !certificate.exists() || !key.exists() {
        let made = generate_simple_self_signed(["localhost".to_owned()])
            .map_err(|error| LabError::Unfit(format!("no certificate for localhost could be made: {error}")))?;
        write_whole(&key, made.signing_key.serialize_pem().as_bytes())?;
        write_whole(&certificate, made.cert.pem().as_bytes())?;
    }
    Ok((certificate, key))
}
