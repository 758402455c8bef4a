//! A node is upgraded to a release with another pipeline: nothing is lost, and what the old release left goes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use demo::older::{self, HALVES, flows_of_half, groups, half_in_force};
use lab::{Ovs, wait};
use serde_json::Value;

use crate::world::{DEADLINE, Seen, World, cost, ms};

/// The old half is left alone for so long after the turn.
const LEFT_ALONE: Duration = Duration::from_secs(9);

fn ovs(world: &World) -> &Ovs {
    world.ovs(0)
}

fn until(world: &World, what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    wait::until(what, DEADLINE, || is_so().map(|so| so.then_some(()))).with_context(|| world.pair.ladon.logs())
}

fn until_cleared(world: &World, half: u8) -> Result<()> {
    until(world, "the old half to go", || Ok(flows_of_half(ovs(world), half)? == 0))
}

/// Kills the node and makes the switch as an older release left it in the half in force, with nothing in the other one but `litter`.
fn end_old_release(world: &World, litter: &[&str]) -> Result<()> {
    world.node(0).process.kill9()?;
    older::leave(ovs(world), &world.node(0).run_dir.join("old.txt"), litter).map(drop)
}

fn nothing_is_lost(fault: &str, seen: &Seen, more: &str) -> Result<()> {
    seen.is_undisturbed()?;
    cost(fault, format!("{}, both TCP streams went on; {}{more}", seen.all(), seen.to_vip()));
    Ok(())
}

#[test]
fn a_node_upgraded_to_another_pipeline_loses_no_packet_and_leaves_nothing_behind() -> Result<()> {
    let world = World::start()?;
    ensure!(half_in_force(ovs(&world))? == HALVES[0]);
    end_old_release(&world, &[])?;
    let (took, seen) = world.under_traffic(|_| {
        let since = Instant::now();
        world.node(0).process.restart()?;
        until(&world, "the turn", || Ok(half_in_force(ovs(&world))? == HALVES[1]))?;
        let took = since.elapsed();
        let is_there = flows_of_half(ovs(&world), HALVES[0])? > 0;
        ensure!(is_there || since.elapsed() > LEFT_ALONE, "packets on their way still find the old half");
        until_cleared(&world, HALVES[0])?;
        Ok(took)
    })?;
    nothing_is_lost("upgrade to another pipeline", &seen, &format!("; the new one is in force {} after the start", ms(took)))?;
    ensure!(groups(ovs(&world))?.len() == 1, "{:?}", groups(ovs(&world))?);
    let counted = world.pair.ladon.ladon_text(world.node(0), &["flows", "--table", "L2Lookup", "--object", "far", "--packets"])?;
    let packets = |line: &str| serde_json::from_str::<Value>(line).ok()?["packets"].as_u64();
    ensure!(counted.lines().filter_map(packets).sum::<u64>() > 0, "`ladon flows` counts in the half in force: {counted}");
    let names = ovs(&world).ofctl(&["--names", "dump-flows", "br-int", "table=Classify_B"])?;
    ensure!(names.contains(r#"table="Classify_B""#) && names.contains(r#"goto_table:"SpoofGuard_B""#), "{names}");
    Ok(())
}

#[test]
fn a_node_killed_in_the_middle_of_an_upgrade_goes_on_and_loses_no_packet() -> Result<()> {
    let world = World::start()?;
    let node = &world.node(0).process;
    // Killed before the turn: the free half has flows that were never meant to be met together.
    end_old_release(&world, &["table=121,priority=65000,actions=drop", "table=130,priority=3,actions=drop"])?;
    let ((), seen) = world.under_traffic(|_| {
        node.restart()?;
        until(&world, "the turn", || Ok(half_in_force(ovs(&world))? == HALVES[1]))?;
        // Killed after it.
        node.kill9()?;
        node.restart()?;
        until_cleared(&world, HALVES[0])
    })?;
    nothing_is_lost("upgrade, killed before and after the turn", &seen, "")?;
    // And back into the first half, killed while the second one is cleared.
    end_old_release(&world, &["table=1,priority=65000,actions=drop"])?;
    let ((), seen) = world.under_traffic(|_| {
        node.restart()?;
        let full = flows_of_half(ovs(&world), HALVES[1])?;
        until(&world, "the old half to go", || Ok(flows_of_half(ovs(&world), HALVES[1])? < full))?;
        node.kill9()?;
        node.restart()?;
        until_cleared(&world, HALVES[1])?;
        ensure!(half_in_force(ovs(&world))? == HALVES[0]);
        Ok(())
    })?;
    nothing_is_lost("upgrade, killed while the old pipeline is cleared", &seen, "")
}
