//! What is done to Open vSwitch: its daemons killed, its flows, groups and bridge taken away or changed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use demo::NodeParts;
use lab::traffic::is_reachable;
use lab::wait;
use serde_json::json;

use crate::world::{BRIDGE, DEADLINE, Dump, World, cost, is_in_time, let_pass, ms, plugged, wait_dump, youngest_flow_secs};

/// What others change is put right in this time, on a machine that has nothing else to do.
const RESTORED: Duration = Duration::from_secs(2);
/// The flows of a switch that was killed are back this long after it runs again.
const BACK: Duration = Duration::from_secs(3);
/// How long a killed part stays dead.
const DEAD: Duration = Duration::from_secs(1);

/// Does something to n1's bridge by `ovs-ofctl` under traffic, and sees it put right.
fn undone(fault: &str, verb: &[&str]) -> Result<()> {
    let world = World::start()?;
    let ovs = world.ovs(0);
    let before = Dump::of(ovs)?;
    ensure!(!before.groups.is_empty(), "the load balancer has groups");
    let (took, seen) = world.under_traffic(|_| {
        ovs.ofctl(verb)?;
        wait_dump(ovs, &before, DEADLINE)
    })?;
    is_in_time(took, RESTORED, "put right")?;
    seen.has_streams()?;
    cost(fault, format!("put right {} later; {}; {}; both TCP streams went on", ms(took), seen.all(), seen.to_vip()));
    Ok(())
}

#[test]
fn flows_that_somebody_deletes_are_back() -> Result<()> {
    undone("`ovs-ofctl del-flows`", &["del-flows", BRIDGE])
}

/// Who has a connection keeps it: groups are for new ones, whose first packets are sent again.
#[test]
fn groups_that_somebody_deletes_are_back() -> Result<()> {
    undone("`ovs-ofctl del-groups`", &["del-groups", BRIDGE])
}

#[test]
fn a_flow_that_somebody_adds_is_gone() -> Result<()> {
    undone("a foreign flow, above all others and dropping everything", &["add-flow", BRIDGE, "table=0,priority=65000,actions=drop"])
}

#[test]
fn a_group_that_somebody_changes_is_put_right() -> Result<()> {
    let world = World::start()?;
    let ovs = world.ovs(0);
    let before = Dump::of(ovs)?;
    let line = before.groups.first().context("the load balancer has groups")?;
    let number = line.split(['=', ',']).nth(1).with_context(|| line.clone())?;
    let (took, seen) = world.under_traffic(|_| {
        ovs.ofctl(&["mod-group", BRIDGE, &format!("group_id={number},type=select,bucket=actions=drop")])?;
        wait_dump(ovs, &before, DEADLINE)
    })?;
    is_in_time(took, RESTORED, "put right")?;
    seen.is_undisturbed()?;
    cost("`ovs-ofctl mod-group`", format!("put right {} later; {}; {}", ms(took), seen.all(), seen.to_vip()));
    Ok(())
}

#[test]
fn a_bridge_that_somebody_deletes_is_back_with_all_that_was_plugged_into_it() -> Result<()> {
    let world = World::start()?;
    let ovs = world.ovs(0);
    let (before, flows) = (plugged(ovs)?, Dump::of(ovs)?);
    ensure!(before.len() == 4, "a tap, a veth pair, an internal port, the tunnel: {before:?}");
    let (took, seen) = world.under_traffic(|_| {
        let since = Instant::now();
        ovs.vsctl(&["del-br", BRIDGE])?;
        world.wait_reachable(since, DEADLINE)
    })?;
    is_in_time(took, RESTORED, "everybody talks again")?;
    wait::until("everything to be plugged in", DEADLINE, || match plugged(ovs) {
        Ok(now) if now == before => Ok(Some(())),
        Ok(now) => Err(format!("{now:?}")),
        Err(error) => Err(format!("{error:#}")),
    })?;
    wait_dump(ovs, &flows, DEADLINE)?;
    cost(
        "`ovs-vsctl del-br br-int`",
        format!("tap, veth pair, the machine's own interface and tunnel back and everybody talks {} later; {}", ms(took), seen.all()),
    );
    Ok(())
}

#[test]
fn a_bridge_that_was_deleted_while_the_node_was_down_is_made_again_with_what_was_plugged_into_it() -> Result<()> {
    let world = World::start()?;
    let (node, ovs) = (&world.node(0).process, world.ovs(0));
    let before = plugged(ovs)?;
    node.kill9()?;
    ovs.vsctl(&["del-br", BRIDGE])?;
    let since = Instant::now();
    node.restart()?;
    let took = world.wait_reachable(since, DEADLINE)?;
    ensure!(plugged(ovs)? == before, "{:?} is not {before:?}", plugged(ovs)?);
    cost("bridge deleted while `ladon node` is down", format!("everybody talks {} after the node's start", ms(took)));
    Ok(())
}

#[test]
fn a_killed_vswitchd_has_its_flows_again_when_it_is_back() -> Result<()> {
    let world = World::start()?;
    let ovs = world.ovs(0);
    let before = Dump::of(ovs)?;
    let ((took, open), seen) = world.under_traffic(|_| {
        ovs.switch().kill9()?;
        let_pass(DEAD);
        let since = Instant::now();
        ovs.restart_switch()?;
        wait_dump(ovs, &before, DEADLINE)?;
        Ok((since.elapsed(), world.wait_reachable(since, DEADLINE)?))
    })?;
    is_in_time(took, BACK, "the flows were back")?;
    let broken = [&seen.stream_inside, &seen.stream_between].iter().filter(|stream| stream.broken.is_some()).count();
    cost(
        "`kill -9` of ovs-vswitchd, 1 s dead (userspace datapath)",
        format!(
            "{} flows back {}, everybody talks {} after its start; {}; {broken} of 2 TCP streams broke",
            before.flows.len(),
            ms(took),
            ms(open),
            seen.all()
        ),
    );
    Ok(())
}

/// ovs-vswitchd does nothing while it has no database, and forwarding on the userspace datapath is one of the things that it does.
#[test]
fn a_killed_ovsdb_server_changes_no_flow_breaks_no_connection_and_what_is_plugged_in_later_works() -> Result<()> {
    let world = World::start()?;
    let ovs = world.ovs(0);
    let before = Dump::of(ovs)?;
    let (open, seen) = world.under_traffic(|_| {
        ovs.database().kill9()?;
        let_pass(DEAD);
        let since = Instant::now();
        ovs.restart_database()?;
        // ovs-vswitchd takes its time to come back: this waits until it has looked at its configuration again.
        ovs.vsctl(&["set", "Open_vSwitch", ".", "external_ids:looked-at=again"])?;
        world.wait_reachable(since, DEADLINE)
    })?;
    seen.has_streams()?;
    let now = Dump::of(ovs)?;
    ensure!(now == before, "{}", before.difference(&now));
    let late = world.pair.plug(&world.network, 0, "late", json!({}))?;
    let is_reached = || is_reachable(world.far.workload.netns(), late.v4).map(|is| is.then_some(()));
    wait::until("the new port to be reached", DEADLINE, is_reached)?;
    cost(
        "`kill -9` of ovsdb-server, 1 s dead (userspace datapath)",
        format!(
            "nothing is forwarded until ovs-vswitchd is connected again: {}, everybody talks {} after its start; both TCP streams went on; no flow changed; a port plugged in later works",
            seen.all(),
            ms(open)
        ),
    );
    Ok(())
}

/// How many changes a node found to make each time that it compared its switch with its view.
fn comparisons(node: &NodeParts) -> Result<Vec<String>> {
    let log = std::fs::read_to_string(node.process.log())?;
    let lines = log.lines().filter(|line| line.contains("compared the switch with the view"));
    let changes = |line: &str| line.split("changes=").nth(1)?.split_whitespace().next().map(str::to_owned);
    lines.map(|line| changes(line).with_context(|| line.to_string())).collect()
}

#[test]
fn a_killed_node_touches_no_flow_when_it_is_back() -> Result<()> {
    let world = World::start()?;
    let nodes = &world.pair.ladon.nodes;
    let before = [Dump::of(world.ovs(0))?, Dump::of(world.ovs(1))?];
    let (took, seen) = world.under_traffic(|_| {
        let compared = nodes.iter().map(|node| Ok(comparisons(node)?.len())).collect::<Result<Vec<_>>>()?;
        let killed = Instant::now();
        nodes.iter().try_for_each(|node| node.process.kill9())?;
        let_pass(DEAD);
        nodes.iter().try_for_each(|node| node.process.restart())?;
        let started = Instant::now();
        for (node, before) in nodes.iter().zip(compared) {
            let last = node.process.wait_until("the node to compare its switch with its view", DEADLINE, || {
                let all = comparisons(node).map_err(|error| format!("{error:#}"))?;
                Ok(all.get(before).cloned())
            })?;
            ensure!(last == "0", "{} found {last} changes to make", node.host.name());
        }
        let took = started.elapsed();
        for ovs in &world.pair.ovs {
            let ago = killed.elapsed().as_secs_f64();
            let youngest = youngest_flow_secs(ovs)?;
            ensure!(youngest >= ago - 0.1, "a flow was written {youngest} s ago, the nodes were killed {ago} s ago");
        }
        Ok(took)
    })?;
    seen.is_undisturbed()?;
    for (before, ovs) in before.iter().zip(&world.pair.ovs) {
        let now = Dump::of(ovs)?;
        ensure!(now == *before, "{}", before.difference(&now));
    }
    let flows = before[0].flows.len();
    cost(
        "`kill -9` of `ladon node` on both nodes, 1 s dead",
        format!("{}, both TCP streams went on; 0 of {flows} flows written anew; compared {} after their start", seen.all(), ms(took)),
    );
    Ok(())
}
