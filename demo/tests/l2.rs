//! Two nodes at layer 2 on real Open vSwitch: ports made through the API, plugged as Nova plugs them.

use std::time::Duration;

use anyhow::Result;
use demo::{Pair, Tunnel};
use lab::traffic::{Pinging, ping};
use serde_json::json;

fn open() -> serde_json::Value {
    json!({"port_security_enabled": false})
}

fn two_networks_two_nodes(tunnel: Tunnel) -> Result<()> {
    let pair = Pair::start(tunnel)?;
    // Two tenants may have the same addresses.
    let (blue, red) = (pair.network("blue", 9)?, pair.network("red", 9)?);
    let a = pair.plug(&blue, 0, "a", open())?;
    let b = pair.plug(&blue, 1, "b", open())?;
    let c = pair.plug(&red, 0, "c", open())?;
    for target in [b.v4, b.v6] {
        // The first packet between two nodes may be lost while their switches learn each other's underlay MACs.
        ping(a.workload.netns(), target, 2, Duration::from_millis(50))?;
        let report = ping(a.workload.netns(), target, 20, Duration::from_millis(10))?;
        assert_eq!(report.lost, 0, "{target} {report:?}");
        let foreign = ping(c.workload.netns(), target, 5, Duration::from_millis(10))?;
        assert_eq!(foreign.received, 0, "another network reaches {target}: {foreign:?}");
    }
    Ok(())
}

#[test]
fn ports_of_one_network_on_two_nodes_reach_each_other_and_no_other_network() -> Result<()> {
    two_networks_two_nodes(Tunnel::default())
}

#[test]
fn the_same_by_geneve_over_ipv6() -> Result<()> {
    two_networks_two_nodes(Tunnel { kind: "geneve", is_v6: true })
}

#[test]
fn the_same_by_vxlan_over_ipv4() -> Result<()> {
    two_networks_two_nodes(Tunnel { kind: "vxlan", is_v6: false })
}

#[test]
fn the_same_by_vxlan_over_ipv6() -> Result<()> {
    two_networks_two_nodes(Tunnel { kind: "vxlan", is_v6: true })
}

/// Longer than Open vSwitch waits for a controller that says nothing (5 s), three times over.
const DEAD: Duration = Duration::from_secs(16);

#[test]
fn a_switch_whose_node_stays_dead_forwards_as_it_did_and_learns_nothing() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 9)?;
    let a = pair.plug(&blue, 0, "a", open())?;
    let b = pair.plug(&blue, 1, "b", open())?;
    ping(a.workload.netns(), b.v4, 2, Duration::from_millis(50))?;
    let dump = || pair.ovs[0].ofctl(&["--no-names", "--no-stats", "dump-flows", "br-int"]);
    let before = dump()?;
    pair.ladon.nodes[0].process.kill9()?;
    let every = Duration::from_millis(10);
    let report = ping(a.workload.netns(), b.v4, (DEAD.as_millis() / every.as_millis()) as u32, every)?;
    assert_eq!(report.lost, 0, "{report:?}");
    assert_eq!(before, dump()?);
    let learned = pair.ovs[0].appctl(&["fdb/show", "br-int"])?;
    assert_eq!(learned.lines().count(), 1, "{learned}");
    Ok(())
}

#[test]
fn a_killed_node_finds_its_flows_and_changes_none() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 9)?;
    let a = pair.plug(&blue, 0, "a", open())?;
    let b = pair.plug(&blue, 1, "b", open())?;
    ping(a.workload.netns(), b.v4, 2, Duration::from_millis(50))?;
    let pinging = Pinging::start(a.workload.netns(), b.v4, Duration::from_millis(10))?;
    let dump = || pair.ovs[0].ofctl(&["--no-names", "--no-stats", "dump-flows", "br-int"]);
    let before = dump()?;
    let node = &pair.ladon.nodes[0].process;
    node.kill9()?;
    node.restart()?;
    let said = node.wait_until("the node to have compared its switch", Duration::from_secs(120), || {
        let log = node.log_tail(50);
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("compared the switch")).collect();
        if lines.len() > 1 { Ok(lines.last().map(|line| line.to_string())) } else { Err(log) }
    })?;
    assert!(said.contains("changes=0"), "{said}");
    let report = pinging.stop()?;
    assert_eq!(report.lost, 0, "{report:?}");
    assert_eq!(before, dump()?);
    Ok(())
}
