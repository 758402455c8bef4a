//! The server, or the store, is killed or away for a while.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use demo::{Sandbox, Workload, id};
use lab::traffic::is_reachable;
use lab::wait;
use serde_json::{Value, json};

use crate::etcd::{MEMBERS, SERVERS, cluster, etcd};
use crate::world::{DEADLINE, Dump, World, cost, is_long, let_pass, ms};

pub fn addresses(port: &Value) -> Result<Vec<std::net::IpAddr>> {
    port["fixed_ips"].as_array().into_iter().flatten().map(|fixed| Ok(fixed["ip_address"].as_str().unwrap_or_default().parse()?)).collect()
}

#[test]
fn without_server_traffic_and_plugging_go_on_and_then_changes_catch_up() -> Result<()> {
    let world = World::start()?;
    let server = &world.pair.ladon.server;
    without("`kill -9` of `ladon server`", &world, || Ok(server.kill9()?), || Ok(server.restart()?))
}

#[test]
fn without_store_traffic_and_plugging_go_on_and_then_changes_catch_up() -> Result<()> {
    let world = World::start_on_etcd(&cluster(), SERVERS)?;
    let etcd = etcd(&world.pair)?;
    let members = || (0..MEMBERS).map(|number| etcd.member(number));
    let kill = || members().try_for_each(|member| Ok(member.kill9()?));
    let restart = || {
        members().try_for_each(|member| Ok::<_, anyhow::Error>(member.restart()?))?;
        Ok(etcd.wait_until_ready()?)
    };
    without("`kill -9` of every member of etcd", &world, kill, restart)
}

/// Plugs in ports of the view of n1 while something is away, and makes a new one when it is back.
fn without(what: &str, world: &World, take_away: impl Fn() -> Result<()>, bring_back: impl Fn() -> Result<()>) -> Result<()> {
    let away = Duration::from_secs(if is_long() { 600 } else { 5 });
    let (api, node) = (world.pair.api(), world.node(0));
    // Two ports that are in the view of n1 before: a machine's and a pod's.
    let tap = api.create("port", json!({"network_id": id(&world.network), "name": "tap", "binding:host_id": "n1"}))?;
    let pod = api.create("port", Sandbox::wanted(node, &world.network, "pod2"))?;
    world.wait_in_force()?;
    // Devices that go disturb others on the userspace datapath: these stay until nothing is measured any more.
    let ((plugged, caught_up, _devices), seen) = world.under_traffic(|_| {
        take_away()?;
        let since = Instant::now();
        let nets: Vec<_> = addresses(&tap)?.into_iter().map(|ip| (ip, if ip.is_ipv6() { 64 } else { 24 })).collect();
        let tap_device = Workload::plug(world.ovs(0), "tap", &tap, &nets)?;
        let pod_device = Sandbox::plug(&world.pair.ladon, node, "pod2", pod.clone())?;
        for ip in addresses(&tap)?.into_iter().chain(addresses(&pod)?) {
            wait::until(&format!("{ip} to be reached"), DEADLINE, || {
                is_reachable(world.far.workload.netns(), ip).map(|is| is.then_some(()))
            })?;
        }
        let plugged = since.elapsed();
        let_pass(away);
        bring_back()?;
        let since = Instant::now();
        world.pair.ladon.wait_for_server()?;
        world.pair.ladon.wait_active(id(&tap))?;
        world.pair.ladon.wait_active(id(&pod))?;
        let late = world.pair.plug(&world.network, 0, "late", json!({}))?;
        wait::until("the port made afterwards to be reached", DEADLINE, || {
            is_reachable(world.far.workload.netns(), late.v6).map(|is| is.then_some(()))
        })?;
        world.wait_in_force()?;
        Ok((plugged, since.elapsed(), (tap_device, pod_device, late)))
    })?;
    seen.is_undisturbed_but_for(3)?;
    cost(
        &format!("{what}, {} s away", away.as_secs()),
        format!(
            "{}, both TCP streams went on; a tap and a pod plugged in meanwhile work after {}; both ACTIVE and a new port works {} after it is back",
            seen.all(),
            ms(plugged),
            ms(caught_up)
        ),
    );
    Ok(())
}

#[test]
fn a_killed_server_changes_no_flow() -> Result<()> {
    let world = World::start()?;
    let before = [Dump::of(world.ovs(0))?, Dump::of(world.ovs(1))?];
    world.pair.ladon.server.kill9()?;
    world.pair.ladon.server.restart()?;
    world.pair.ladon.wait_for_server()?;
    world.wait_in_force()?;
    for (before, ovs) in before.iter().zip(&world.pair.ovs) {
        let now = Dump::of(ovs)?;
        ensure!(now == *before, "{}", before.difference(&now));
    }
    Ok(())
}
