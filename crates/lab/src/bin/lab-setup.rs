//! Makes a machine ready for labs: Debian packages, Kubernetes' programs, container images, the guest's image.
//!
//! What is there already costs a second. Everything lands in the user's cache, nothing in the build folder.

use std::process::ExitCode;

use anyhow::{Result, bail};
use lab::{Progress, debian, etcd, kubernetes, vm};

const USAGE: &str = "usage: lab-setup [packages] [kubernetes] [etcd] [vm]      (all of them, when none is named)";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match set_up(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-setup: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn set_up(words: &[String]) -> Result<()> {
    if let Some(unknown) = words.iter().find(|word| !["packages", "kubernetes", "etcd", "vm"].contains(&word.as_str())) {
        bail!("{unknown:?} is nothing to set up\n{USAGE}");
    }
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    let progress = Progress::new();
    if wanted("packages") {
        let all = [debian::NETWORK, debian::KUBERNETES, debian::MACHINES, debian::CLIENTS, debian::FAULTS].concat();
        debian::ensure(&all, &progress)?;
    }
    if wanted("kubernetes") {
        let programs = kubernetes::programs(None, &progress)?;
        progress.during("packing container images", || kubernetes::images(&programs, None))?;
    }
    if wanted("etcd") {
        etcd::program(etcd::Version::Module, &progress)?;
    }
    if wanted("vm") {
        vm::image(None, &progress)?;
    }
    Ok(())
}
