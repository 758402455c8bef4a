//! Building Kubernetes' programs from their published Go modules, when the machine has none.
//!
//! `k8s.io/kubernetes` names its staging modules as v0.0.0, so it cannot be installed by itself: a wrapper module says
//! which published version each of them is. A program appears in the cache whole or not at all.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::command::{self, TOOL};
use crate::error::{Doing, LabError, Result};
use crate::lab::tail;
use crate::progress::Progress;
use crate::state::{make_dir, write_whole};

/// The Kubernetes that is built.
pub const KUBERNETES_VERSION: &str = "v1.34.2";
/// The CoreDNS that is built.
const COREDNS_VERSION: &str = "v1.12.4";
/// The oldest Go that builds them.
const GO_MINOR_MIN: u32 = 24;
/// Names the programs to Go's module system.
const PROGRAMS_GO: &str = include_str!("../../assets/programs.go");
/// Where Kubernetes' programs look for their version.
const VERSION_PACKAGE: &str = "k8s.io/component-base/version";
/// Lines of Go's output that an error quotes.
const QUOTED_LINES: usize = 12;

/// Build `names` into `cache`, telling how long each takes.
pub fn build(cache: &Path, names: &[&str], progress: &Progress) -> Result<()> {
    check_go()?;
    let module = cache.join(".module");
    make_dir(&module)?;
    if names.iter().any(|name| *name != "coredns") {
        progress.during(format!("fetching Kubernetes {KUBERNETES_VERSION}"), || prepare(&module))?;
    }
    for (number, name) in names.iter().enumerate() {
        let what = format!("building {name} ({} of {}; once, into {})", number + 1, names.len(), cache.display());
        progress.during(what, || build_one(cache, &module, name))?;
    }
    Ok(())
}

pub(crate) fn check_go() -> Result<()> {
    let said = command::tool("go", &["env", "GOVERSION"]).map_err(|_| {
        LabError::Unfit(format!(
            "a program is neither on the PATH nor in the cache, and Go (1.{GO_MINOR_MIN} or newer) to build it is not there either"
        ))
    })?;
    let minor = said.trim().strip_prefix("go1.").and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    if minor.and_then(|minor| minor.parse::<u32>().ok()).is_some_and(|minor| minor >= GO_MINOR_MIN) {
        return Ok(());
    }
    Err(LabError::Unfit(format!("building programs needs Go 1.{GO_MINOR_MIN} or newer; this is {}", said.trim())))
}

/// Write the wrapper module.
fn prepare(module: &Path) -> Result<()> {
    let go_mod = kubernetes_go_mod(module)?;
    write_whole(&module.join("go.mod"), wrapper(&go_mod)?.as_bytes())?;
    write_whole(&module.join("programs.go"), PROGRAMS_GO.as_bytes())?;
    go(module, "tidy", &["mod", "tidy"])
}

fn kubernetes_go_mod(module: &Path) -> Result<String> {
    let wanted = format!("k8s.io/kubernetes@{KUBERNETES_VERSION}");
    let mut download = Command::new("go");
    download.args(["mod", "download", "-json", &wanted]).current_dir(module).env("GOWORK", "off");
    // An old go.mod of ours must not matter here.
    let _ = fs::remove_file(module.join("go.mod"));
    let said = command::run(&mut download, TOOL * 5)?.ok()?;
    let described: serde_json::Value =
        serde_json::from_str(&said).map_err(|error| LabError::Unfit(format!("`go mod download {wanted}` printed no JSON ({error})")))?;
    let path = described["GoMod"].as_str().unwrap_or_default().to_owned();
    fs::read_to_string(&path).doing(|| format!("reading the go.mod of {wanted} at {path:?}"))
}

/// The wrapper's go.mod: each staging module, which Kubernetes replaces with a folder, is replaced with its published version.
fn wrapper(kubernetes: &str) -> Result<String> {
    let staging: Vec<&str> = kubernetes
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("replace ").split_once(" => "))
        .filter(|(name, target)| name.starts_with("k8s.io/") && target.starts_with("./staging/"))
        .map(|(name, _)| name)
        .collect();
    if staging.is_empty() {
        return Err(LabError::Unfit("Kubernetes' go.mod names no staging modules; its layout has changed".into()));
    }
    let published = KUBERNETES_VERSION.replacen("v1.", "v0.", 1);
    let mut text = format!("module kubernetes-programs\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes {KUBERNETES_VERSION}\n\nreplace (\n");
    staging.iter().for_each(|name| text.push_str(&format!("\t{name} => {name} {published}\n")));
    text.push_str(")\n");
    Ok(text)
}

fn build_one(cache: &Path, module: &Path, name: &str) -> Result<()> {
    let drafts = module.join("out");
    make_dir(&drafts)?;
    let draft = drafts.join(name);
    if name == "coredns" {
        let wanted = format!("github.com/coredns/coredns@{COREDNS_VERSION}");
        go_into(&drafts, name, &["install", "-buildvcs=false", "-trimpath", &wanted])?;
    } else {
        let package = match name {
            "agnhost" => "k8s.io/kubernetes/test/images/agnhost".to_owned(),
            other => format!("k8s.io/kubernetes/cmd/{other}"),
        };
        let output = draft.to_string_lossy();
        go(module, name, &["build", "-buildvcs=false", "-trimpath", "-ldflags", &link_flags(), "-o", &output, &package])?;
    }
    let target = cache.join(name);
    fs::rename(&draft, &target).doing(|| format!("putting {} into place", target.display()))
}

fn link_flags() -> String {
    let minor = KUBERNETES_VERSION.split('.').nth(1).unwrap_or_default();
    let set = |name: &str, value: &str| format!("-X {VERSION_PACKAGE}.{name}={value}");
    ["-s -w".into(), set("gitVersion", KUBERNETES_VERSION), set("gitMajor", "1"), set("gitMinor", minor), set("gitTreeState", "clean")]
        .join(" ")
}

/// Run Go in the wrapper module.
pub(crate) fn go(module: &Path, name: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new("go");
    command.args(args).current_dir(module).env("GOFLAGS", "-mod=mod").env("GOWORK", "off");
    logged(command, &module.join(format!("{name}.log")))
}

/// Run Go outside any module, with results in `folder`.
fn go_into(folder: &Path, name: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new("go");
    command.args(args).current_dir("/").env("GOBIN", folder).env("GOFLAGS", "").env("GOWORK", "off");
    logged(command, &folder.join(format!("{name}.log")))
}

/// The build stays in the terminal's process group, so that Ctrl-C ends it too.
fn logged(mut command: Command, log: &Path) -> Result<()> {
    let file = File::create(log).doing(|| format!("creating {}", log.display()))?;
    let errors = file.try_clone().doing(|| format!("sharing {}", log.display()))?;
    let text = command::shown(&command);
    command.env("CGO_ENABLED", "0").stdin(Stdio::null()).stdout(file).stderr(errors);
    let status = command.status().doing(|| format!("starting `{text}`"))?;
    if status.success() {
        return Ok(());
    }
    let output = format!("{}\n(all of it: {})", tail(log, QUOTED_LINES), log.display());
    Err(LabError::Failed { command: text, status: status.to_string(), output })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_staging_module_gets_its_published_version() {
        let go_mod =
            "module k8s.io/kubernetes\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\tk8s.io/utils => k8s.io/utils v1\n)\n";
        let text = wrapper(go_mod).unwrap();
        assert!(text.contains("\tk8s.io/api => k8s.io/api v0.34.2\n"), "{text}");
        assert!(!text.contains("k8s.io/utils"));
        assert!(wrapper("module other\n").is_err());
    }
}
