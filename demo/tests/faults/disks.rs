//! Disks: the store's file cut off, no room left.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use demo::id;
use lab::traffic::is_reachable;
use lab::{Process, command, wait};
use serde_json::json;

use crate::world::{DEADLINE, World, cost, is_in_time};

/// What a small disk holds.
const SMALL: &str = "size=48m";

/// Waits until the process has ended and gives its last lines.
fn epitaph(process: &Process) -> Result<String> {
    process.wait(DEADLINE)?;
    Ok(process.log_tail(5))
}

#[test]
fn a_store_that_was_cut_off_is_refused_and_served_again_when_it_is_whole() -> Result<()> {
    let world = World::start()?;
    let server = &world.pair.ladon.server;
    let store = world.pair.ladon.dir().join("store.redb");
    let (said, seen) = world.under_traffic(|_| {
        server.kill9()?;
        let whole = fs::read(&store)?;
        let mut said = Vec::new();
        for length in [whole.len() / 2, 4096, 100, 0] {
            fs::write(&store, &whole[..length])?;
            server.restart()?;
            let last = epitaph(server)?;
            ensure!(last.contains("store"), "with {length} bytes: {last}");
            ensure!(!last.contains("panicked"), "with {length} bytes: {last}");
            said.push(last);
        }
        fs::write(&store, &whole)?;
        server.restart()?;
        world.pair.ladon.wait_for_server()?;
        world.wait_in_force()?;
        ensure!(world.pair.api().show("port", id(&world.near.port))?["status"] == "ACTIVE");
        Ok(said)
    })?;
    seen.is_undisturbed()?;
    println!("{}", said.join("\n"));
    cost(
        "the store's file cut off while the server is down",
        format!("the server refuses to start and says why; {}; served again with the whole file", seen.all()),
    );
    Ok(())
}

#[test]
fn a_store_that_is_cut_off_under_a_running_server_costs_no_packet() -> Result<()> {
    let world = World::start()?;
    let (api, server) = (world.pair.api(), &world.pair.ladon.server);
    let store = world.pair.ladon.dir().join("store.redb");
    let (said, seen) = world.under_traffic(|_| {
        let whole = fs::read(&store)?;
        OpenOptions::new().write(true).open(&store)?.set_len(4096)?;
        // Nothing may be answered as done that is not durable; what is refused says so.
        let answers: Vec<u16> = (0..3)
            .map(|n| Ok(api.request("POST", "/v2.0/networks", Some(&json!({"network": {"name": format!("cut-{n}")}})))?.0))
            .collect::<Result<_>>()?;
        ensure!(answers.iter().all(|status| *status >= 500), "what would be lost is answered as done: {answers:?}");
        let alive = server.is_alive();
        server.kill9()?;
        server.restart()?;
        let last = epitaph(server);
        fs::write(&store, &whole)?;
        server.restart()?;
        world.pair.ladon.wait_for_server()?;
        world.wait_in_force()?;
        Ok(format!("requests answered {answers:?}, alive: {alive}, then: {}", last?))
    })?;
    seen.is_undisturbed()?;
    println!("{said}");
    cost("the store's file cut off under the running server", format!("{}; served again with the backup", seen.all()));
    Ok(())
}

/// Puts the content of `dir` on a small disk of its own, mounted there.
fn onto_small_disk(dir: &Path) -> Result<()> {
    let aside = dir.with_extension("aside");
    fs::rename(dir, &aside)?;
    fs::create_dir(dir)?;
    command::tool("mount", &["-t", "tmpfs", "-o", SMALL, "tmpfs", &dir.to_string_lossy()])?;
    command::run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(dir), DEADLINE)?.ok()?;
    Ok(())
}

/// Leaves nothing free on the disk of `dir`.
fn fill(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("ballast");
    let mut file = fs::File::create(&path)?;
    let block = vec![0; 1 << 16];
    loop {
        match file.write_all(&block) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(path),
            Err(error) => return Err(error).context("filling the disk"),
        }
    }
}

#[test]
fn a_full_disk_of_the_server_refuses_changes_and_nothing_else() -> Result<()> {
    let world = World::start()?;
    let (ladon, api) = (&world.pair.ladon, world.pair.api());
    ladon.server.kill9()?;
    onto_small_disk(ladon.dir())?;
    ladon.server.restart()?;
    ladon.wait_for_server()?;
    world.wait_in_force()?;
    let (refusal, seen) = world.under_traffic(|_| {
        let ballast = fill(ladon.dir())?;
        let (status, said) = api.request("POST", "/v2.0/networks", Some(&json!({"network": {"name": "too-much"}})))?;
        ensure!(status >= 500 && said.to_string().contains("full"), "{status} {said}");
        ensure!(api.show("port", id(&world.near.port))?["status"] == "ACTIVE", "reading goes on");
        fs::remove_file(ballast)?;
        let network = api.create("network", json!({"name": "room-again"}))?;
        api.delete("network", id(&network))?;
        Ok(format!("{status}: {}", said["NeutronError"]["message"].as_str().unwrap_or_default()))
    })?;
    seen.is_undisturbed()?;
    println!("{refusal}");
    cost(
        "the server's disk full",
        format!("a change is refused and says why, reading goes on, {}; changes work again without a restart", seen.all()),
    );
    Ok(())
}

#[test]
fn a_full_disk_of_a_node_delays_changes_and_nothing_else() -> Result<()> {
    let world = World::start()?;
    let node = world.node(0);
    let state = node.config.parent().context("the configuration lies in a folder")?.to_path_buf();
    node.process.kill9()?;
    onto_small_disk(&state)?;
    node.process.restart()?;
    world.wait_in_force()?;
    let ((late, _workload), seen) = world.under_traffic(|_| {
        let ballast = fill(&state)?;
        let wanted = json!({"network_id": id(&world.network), "name": "late", "binding:host_id": "n1"});
        let port = world.pair.api().create("port", wanted)?;
        let ip: std::net::IpAddr = port["fixed_ips"][0]["ip_address"].as_str().context("an address")?.parse()?;
        let nets = [(ip, if ip.is_ipv6() { 64 } else { 24 })];
        let workload = demo::Workload::plug(world.ovs(0), "late", &port, &nets)?;
        node.process.wait_until("the node to say that it cannot remember", DEADLINE, || {
            let log = node.process.log_tail(50);
            Ok(log.contains("what the node must remember cannot be kept").then_some(()))
        })?;
        ensure!(!is_reachable(world.near.workload.netns(), ip)?, "no flow before its zone is on the disk");
        fs::remove_file(ballast)?;
        let since = std::time::Instant::now();
        wait::until("the port to be reached", DEADLINE, || is_reachable(world.near.workload.netns(), ip).map(|is| is.then_some(())))?;
        Ok((since.elapsed(), workload))
    })?;
    seen.is_undisturbed_but_for(1)?;
    is_in_time(late, Duration::from_secs(10), "the port was reached")?;
    cost("a node's disk full", format!("{}; a port that came meanwhile works {:.1} s after there is room", seen.all(), late.as_secs_f32()));
    Ok(())
}
