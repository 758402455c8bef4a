//! `make demo` and `make demo-down`: a Kubernetes cluster, a virtual machine and a bare-metal host on one virtual network, and the
//! proof that they are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use demo::claims;
use demo::world::{self, DIR, Parts, Place, World};
use lab::{Progress, say};

const USAGE: &str = "\
usage: demo up [--dir DIR] [TEXT]   bring everything up and prove it; with TEXT, only the claims that contain it
       demo down [--dir DIR]        take everything away

DIR is where everything lies, /var/lib/ladon-demo unless told otherwise; demos in different folders do not meet.";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    let place = match words[..] {
        [_, "--dir", dir, ..] => {
            words.drain(1..3);
            Place::new(dir)
        }
        _ => Place::new(DIR),
    };
    let outcome = match words[..] {
        ["up"] => up(&place, ""),
        ["up", only] if !only.starts_with('-') => up(&place, only),
        ["down"] => down(&place),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say::tell(&format!("demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// True if every claim is.
fn up(place: &Place, only: &str) -> Result<bool> {
    place.check()?;
    let progress = Progress::new();
    let parts = progress.during("finding Kubernetes, images and the guest", || Parts::find(&progress))?;
    take_down_earlier(place, &progress)?;
    let started = Instant::now();
    let world = World::start(place, &parts, &progress)?;
    progress.during("the switches meet", || anyhow::Ok(world.introduce()))?;
    let up = started.elapsed();
    let world = Arc::new(world);
    let tally = claims::prove(&world, only);
    let bin = write_commands(place, &world, &parts)?;
    let bin = bin.display();
    world.lab.keep()?;
    let (up, proved) = (up.as_secs_f32(), (started.elapsed() - up).as_secs_f32());
    say::answer(&format!("\nup in {up:.0} s, proved in {proved:.0} s; it goes on running. Try:"));
    say::answer(&format!("  {bin}/kubectl get pods,services -o wide"));
    say::answer(&format!("  {bin}/openstack port list"));
    say::answer(&format!("  {bin}/ladon n2 flows --object vm1"));
    say::answer("and `make demo-down` when done.\n");
    say::answer(&format!("{} passed, {} failed", tally.passed, tally.failed));
    // A measurement that ran out of time may still hold the world: nothing waits for it.
    std::process::exit(i32::from(tally.failed > 0 || tally.passed == 0));
}

fn take_down_earlier(place: &Place, progress: &Progress) -> Result<()> {
    if world::is_there(place)? {
        progress.say(&format!("an earlier demo is in {}: it is taken down first", place.dir.display()));
        progress.during("taking the earlier demo down", || world::take_down(place))?;
    }
    Ok(())
}

fn down(place: &Place) -> Result<bool> {
    let was_there = world::take_down(place)?;
    say::answer(if was_there { "the demo is gone" } else { "there is no demo" });
    Ok(true)
}

/// Short commands for people, each of which enters a machine of the demo; their folder.
fn write_commands(place: &Place, world: &World, parts: &Parts) -> Result<PathBuf> {
    let dir = place.dir.display();
    let enter = |host: &str| format!("exec ip netns exec {}-{host}", place.name);
    let kubectl = format!(
        "{} {} --kubeconfig {} --cache-dir {dir}/kubectl-cache \"$@\"",
        enter("control"),
        parts.kubectl()?.display(),
        world.cluster.admin_kubeconfig().display()
    );
    let bin = place.dir.join("bin");
    let client = program("openstack", &bin)?;
    let openstack = format!("{} {} --os-auth-type none --os-endpoint http://127.0.0.1:9696 \"$@\"", enter("control"), client.display());
    let ladon = format!(
        "{}\n{} {} --api unix:{dir}/ladon/api.sock --control {dir}/\"$host\"/ladon/run/node.sock \"$@\"",
        on_a_host(world.hosts.keys()),
        enter("\"$host\""),
        world.ladon.program(),
    );
    fs::create_dir_all(&bin).with_context(|| format!("making {}", bin.display()))?;
    for (name, line) in [("kubectl", kubectl), ("openstack", openstack), ("ladon", ladon)] {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{line}\n")).with_context(|| format!("writing {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(bin)
}

/// Shell code that takes the first word for one of `hosts`; of another word it says which there are.
fn on_a_host<'a>(hosts: impl Iterator<Item = &'a String>) -> String {
    let hosts: Vec<&str> = hosts.map(String::as_str).collect();
    format!(
        "case \"$1\" in\n\
         {}) host=$1; shift ;;\n\
         *) echo \"usage: ladon HOST [COMMAND]..., where HOST is one of {}\" >&2; exit 2 ;;\n\
         esac",
        hosts.join("|"),
        hosts.join(", ")
    )
}

/// Where a program is on the PATH, our own short commands left out: one that called itself would do so for ever.
fn program(name: &str, ours: &Path) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).filter(|folder| !is_same(folder, ours)).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not on the PATH: `make setup` installs it"))
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_host_that_is_not_there_is_answered_with_those_that_are() {
        let script = format!("{}\necho \"$host does $*\"", on_a_host(["n1", "metal1"].map(String::from).iter()));
        let run = |words: &[&str]| Command::new("sh").args(["-c", &script, "ladon"]).args(words).output().unwrap();
        assert_eq!(run(&["n1", "flows", "--packets"]).stdout, b"n1 does flows --packets\n");
        for wrong in [&["n9", "flows"][..], &[]] {
            let done = run(wrong);
            let said = String::from_utf8(done.stderr).unwrap();
            assert!(done.status.code() == Some(2) && done.stdout.is_empty() && said.contains("one of n1, metal1"), "{said}");
        }
    }
}
