//! Two nodes at layer 2 on real Open vSwitch: ports made through the API, plugged as Nova plugs them.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use demo::{Deployment, Tunnel, Workload};
use lab::traffic::{Pinging, ping};
use lab::{Lab, Ovs, Underlay};
use serde_json::{Value, json};

struct World {
    _lab: Lab,
    _underlay: Underlay,
    ovs: [Ovs; 2],
    ladon: Deployment,
}

fn world(tunnel: Tunnel) -> Result<World> {
    let lab = Lab::scratch()?;
    let underlay = Underlay::new(&lab)?;
    let (one, two) = (underlay.host("n1", 11)?, underlay.host("n2", 12)?);
    let ovs = [Ovs::start(&one)?, Ovs::start(&two)?];
    let mut ladon = Deployment::start(&lab, &one, tunnel)?;
    ladon.add_node(&one, &ovs[0], None)?;
    ladon.add_node(&two, &ovs[1], None)?;
    Ok(World { _lab: lab, _underlay: underlay, ovs, ladon })
}

fn id(object: &Value) -> &str {
    object["id"].as_str().expect("an object has an id")
}

/// A port on `network` for `node`, with everything allowed, plugged in there.
fn plugged(world: &World, network: &Value, node: usize, name: &str) -> Result<(Workload, Value, IpAddr, IpAddr)> {
    let api = &world.ladon.api;
    let port = api.create("port", json!({"network_id": id(network), "name": name, "port_security_enabled": false}))?;
    let ip = |n: usize| port["fixed_ips"][n]["ip_address"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok()).expect("two addresses");
    let (a, b) = (ip(0), ip(1));
    let (v4, v6) = if a.is_ipv4() { (a, b) } else { (b, a) };
    let workload = Workload::plug(&world.ovs[node], name, &port, &[(v4, 24), (v6, 64)])?;
    world.ladon.wait_active(id(&port))?;
    Ok((workload, port, v4, v6))
}

fn two_networks_two_nodes(tunnel: Tunnel) -> Result<()> {
    let world = world(tunnel)?;
    let api = &world.ladon.api;
    let network = api.create("network", json!({"name": "blue"}))?;
    api.create("subnet", json!({"network_id": id(&network), "ip_version": 4, "cidr": "10.9.0.0/24"}))?;
    api.create("subnet", json!({"network_id": id(&network), "ip_version": 6, "cidr": "fd00:9::/64"}))?;
    let other = api.create("network", json!({"name": "red"}))?;
    api.create("subnet", json!({"network_id": id(&other), "ip_version": 4, "cidr": "10.9.0.0/24"}))?;
    api.create("subnet", json!({"network_id": id(&other), "ip_version": 6, "cidr": "fd00:9::/64"}))?;
    let (a, _, _, _) = plugged(&world, &network, 0, "a")?;
    let (b, _, b4, b6) = plugged(&world, &network, 1, "b")?;
    let (c, _, _, _) = plugged(&world, &other, 0, "c")?;
    // The first packet between two nodes may be lost while their switches learn each other's underlay MACs.
    for target in [b4, b6] {
        ping(a.netns(), target, 2, Duration::from_millis(50))?;
        let report = ping(a.netns(), target, 20, Duration::from_millis(10))?;
        assert_eq!(report.lost, 0, "{target} {report:?}");
        let foreign = ping(c.netns(), target, 5, Duration::from_millis(10))?;
        assert_eq!(foreign.received, 0, "another network reaches {target}: {foreign:?}");
    }
    drop(b);
    Ok(())
}

#[test]
fn ports_of_one_network_on_two_nodes_reach_each_other_and_no_other_network() -> Result<()> {
    two_networks_two_nodes(Tunnel::default())
}

#[test]
fn the_same_by_vxlan_over_ipv6() -> Result<()> {
    two_networks_two_nodes(Tunnel { kind: "vxlan", is_v6: true })
}

#[test]
fn a_killed_node_finds_its_flows_and_changes_none() -> Result<()> {
    let world = world(Tunnel::default())?;
    let api = &world.ladon.api;
    let network = api.create("network", json!({"name": "blue"}))?;
    api.create("subnet", json!({"network_id": id(&network), "ip_version": 4, "cidr": "10.9.0.0/24"}))?;
    api.create("subnet", json!({"network_id": id(&network), "ip_version": 6, "cidr": "fd00:9::/64"}))?;
    let (a, _, _, _) = plugged(&world, &network, 0, "a")?;
    let (_b, _, b4, _) = plugged(&world, &network, 1, "b")?;
    ping(a.netns(), b4, 2, Duration::from_millis(50))?;
    let pinging = Pinging::start(a.netns(), b4, Duration::from_millis(10))?;
    let before = world.ovs[0].ofctl(&["--no-names", "--no-stats", "dump-flows", "br-int"])?;
    let node = &world.ladon.nodes[0].process;
    node.kill9()?;
    node.restart()?;
    let said = node.wait_until("the node to have compared its switch", Duration::from_secs(10), || {
        let log = node.log_tail(50);
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("compared the switch")).collect();
        if lines.len() > 1 { Ok(lines.last().map(|line| line.to_string())) } else { Err(log) }
    })?;
    assert!(said.contains("changes=0"), "{said}");
    let report = pinging.stop()?;
    assert_eq!(report.lost, 0, "{report:?}");
    assert_eq!(before, world.ovs[0].ofctl(&["--no-names", "--no-stats", "dump-flows", "br-int"])?);
    Ok(())
}
