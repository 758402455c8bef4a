//! A control plane and three workers, each host with its own switch, left running: `cluster up DIR`, `cluster down DIR`.

use std::time::Instant;

use anyhow::{Result, bail};
use lab::kubernetes::{self, Cluster};
use lab::{Lab, Ovs, Progress, Underlay};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["up", dir] => up(dir),
        ["down", dir] => Ok(Lab::take_down(dir)?),
        _ => bail!("usage: cluster up DIR | cluster down DIR"),
    }
}

fn up(dir: &str) -> Result<()> {
    let progress = Progress::new();
    let programs = progress.during("finding Kubernetes", || kubernetes::programs(None, &progress))?;
    let images = progress.during("packing images", || kubernetes::images(&programs, None))?;
    let started = Instant::now();
    let lab = Lab::new("cluster", dir)?;
    lab.keep_logs();
    let underlay = Underlay::new(&lab)?;
    let step = progress.step("four hosts with a switch each");
    let hosts: Vec<_> = [("control", 1), ("n1", 11), ("n2", 12), ("n3", 13)]
        .into_iter()
        .map(|(name, number)| underlay.host(name, number))
        .collect::<Result<_, _>>()?;
    let switches: Vec<Ovs> = std::thread::scope(|scope| {
        let starting: Vec<_> = hosts.iter().map(|host| scope.spawn(|| Ovs::start(host))).collect();
        starting.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<_, _>>()
    })?;
    step.done();
    let step = progress.step("Kubernetes on them");
    let cluster = Cluster::start(&hosts[0], &hosts[1..], &programs, &images)?;
    cluster.wait_registered()?;
    step.done_with(cluster.kubectl(&["get", "nodes", "--no-headers"])?.trim());
    println!("up in {:.1} s; kubeconfig {}", started.elapsed().as_secs_f32(), cluster.admin_kubeconfig().display());
    lab.keep()?;
    drop((cluster, switches));
    Ok(())
}
