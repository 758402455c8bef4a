//! The operator's commands on a running Ladon.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use demo::{Pair, Tunnel};
use lab::traffic::ping;
use serde_json::{Value, json};

const BRIEF: Duration = Duration::from_millis(20);

#[test]
fn a_host_joins_a_network_keeps_it_over_a_kill_and_leaves_it() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 9)?;
    let peer = pair.plug(&blue, 1, "peer", json!({"port_security_enabled": false}))?;
    let node = &pair.ladon.nodes[0];
    let plugged = pair.ladon.ladon(node, &["plug", "--network", "blue", "--name", "metal"]).context(pair.ladon.logs())?;
    let interface = plugged["interface"].as_str().context(plugged.to_string())?.to_string();
    let addresses: Vec<IpAddr> = plugged["addresses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|net| net.as_str()?.split('/').next()?.parse().ok())
        .collect();
    assert_eq!(addresses.len(), 2, "{plugged}");
    // The default security group lets the host's own connections out and their answers in.
    let reach = |target| -> Result<()> {
        ping(node.host.netns(), target, 2, Duration::from_millis(50))?;
        let report = ping(node.host.netns(), target, 10, BRIEF)?;
        anyhow::ensure!(report.lost == 0, "{target}: {report:?}");
        Ok(())
    };
    reach(peer.v4)?;
    reach(peer.v6)?;
    assert_eq!(pair.ladon.ladon(node, &["plug", "--network", "blue", "--name", "metal"])?["port"], plugged["port"], "twice is once");

    node.process.kill9()?;
    node.process.restart()?;
    reach(peer.v4)?;
    let ready = || Ok::<_, anyhow::Error>(node.run_dir.join("node.sock").exists().then_some(()));
    lab::wait::until("the node's socket", Duration::from_secs(10), ready).map_err(anyhow::Error::from)?;

    pair.ladon.ladon(node, &["unplug", &interface])?;
    assert_eq!(ping(node.host.netns(), peer.v4, 3, BRIEF)?.received, 0);
    assert!(node.host.tool("ip", &["link", "show", &interface]).is_err(), "{interface} is gone");
    assert_eq!(pair.api().list("port", "device_owner=ladon:metal")?, Vec::<Value>::new(), "its port is gone, too");
    Ok(())
}

#[test]
fn an_operator_sees_nodes_ports_flows_and_waits_for_a_change() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 9)?;
    let web = pair.plug(&blue, 0, "web", json!({}))?;
    let node = &pair.ladon.nodes[0];
    let nodes = pair.ladon.ladon(node, &["nodes"])?.to_string();
    assert!(nodes.contains("n1") && nodes.contains("n2"), "{nodes}");
    pair.ladon.ladon(node, &["wait", "--timeout", "10"])?;
    let ports = pair.ladon.ladon(node, &["ports", "web"])?.to_string();
    assert!(ports.contains("ACTIVE") && ports.contains(&web.v4.to_string()), "{ports}");
    let mut flows = node.host.command(&pair.ladon.program());
    flows.arg("--control").arg(node.run_dir.join("node.sock")).args(["flows", "--object", "web", "--packets"]);
    let flows = node.host.run(&mut flows, Duration::from_secs(20))?.ok()?;
    for table in ["Classify", "SpoofGuard", "EgressTrack", "L2Lookup", "Deliver"] {
        assert!(flows.contains(table), "{table}: {flows}");
    }
    let lonely = pair.api().create("port", json!({"network_id": blue["id"], "name": "lonely", "binding:host_id": "n9"}))?;
    let missing = pair.ladon.ladon(node, &["ports", "--missing"])?.to_string();
    assert!(missing.contains(lonely["id"].as_str().context("an id")?), "{missing}");
    Ok(())
}
