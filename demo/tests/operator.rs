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
    let addresses: Vec<IpAddr> =
        plugged["addresses"].as_array().into_iter().flatten().filter_map(|net| net.as_str()?.split('/').next()?.parse().ok()).collect();
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

    for key in ["accept_ra", "autoconf"] {
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/{key}");
        assert_eq!(node.host.tool("cat", &[&path])?.trim(), "0", "{key}: the host listens to no router there");
    }

    node.process.kill9()?;
    node.process.restart()?;
    reach(peer.v4)?;
    let ready = || Ok::<_, anyhow::Error>(node.run_dir.join("node.sock").exists().then_some(()));
    lab::wait::until("the node's socket", Duration::from_secs(120), ready).map_err(anyhow::Error::from)?;

    pair.ladon.ladon(node, &["unplug", &interface])?;
    assert_eq!(ping(node.host.netns(), peer.v4, 3, BRIEF)?.received, 0);
    assert!(node.host.tool("ip", &["link", "show", &interface]).is_err(), "{interface} is gone");
    assert_eq!(pair.api().list("port", "device_owner=ladon:metal")?, Vec::<Value>::new(), "its port is gone, too");
    Ok(())
}

#[test]
fn a_node_clears_away_what_it_missed_and_mends_its_bridge() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 8)?;
    let here = pair.plug(&blue, 0, "here", json!({"port_security_enabled": false}))?;
    let there = pair.plug(&blue, 1, "there", json!({"port_security_enabled": false}))?;
    let (node, ovs) = (&pair.ladon.nodes[0], &pair.ovs[0]);
    let until = |what: &str, is_so: &dyn Fn() -> Result<bool>| {
        lab::wait::until(what, Duration::from_secs(120), || Ok::<_, anyhow::Error>(is_so()?.then_some(()))).map_err(anyhow::Error::from)
    };
    let reach = || Ok(ping(here.workload.netns(), there.v4, 2, BRIEF)?.received > 0);
    let ports = || -> Result<Vec<String>> { Ok(ovs.vsctl(&["list-ports", "br-int"])?.lines().map(str::to_string).collect()) };
    until("the nodes' tunnel", &reach).context(pair.ladon.logs())?;

    // While the node is away: two pods are deleted, one of them after its entry was lost; the port of an interface of the
    // machine is deleted; and before, the configuration said VXLAN.
    node.process.kill9()?;
    let left_over = ["lad0123456789ab", "ladba9876543210", "ladon7", "ladon-vxlan"];
    let pods = node.run_dir.with_file_name("state").join("pods.json");
    let entry = json!({"network": "ladon", "port": "00000000-0000-4000-8000-000000000001", "host_ifname": left_over[0]});
    std::fs::write(&pods, json!({"c1/eth0": entry}).to_string())?;
    // The pods' links went with the pods; the machine's interface and the tunnel are there.
    let marks = [("ladon-container=c1", ""), ("ladon-container=c2", ""), ("ladon-host=true", "internal"), ("x=y", "internal")];
    for (name, (ids, kind)) in left_over.iter().zip(marks) {
        let kind = format!("type=\"{kind}\"");
        ovs.vsctl(&["--no-wait", "add-port", "br-int", name, "--", "set", "Interface", name, &kind, &format!("external_ids:{ids}")])?;
    }
    node.process.restart()?;
    until("what is left over to be cleared away", &|| Ok(!ports()?.iter().any(|port| left_over.contains(&port.as_str()))))
        .context(pair.ladon.logs())?;
    until("the entry to be forgotten", &|| Ok(std::fs::read(&pods)? == b"{}"))?;
    assert!(ports()?.contains(&"ladon-geneve".to_string()));

    ovs.vsctl(&["del-port", "ladon-geneve"])?;
    until("the tunnel to be made again", &reach).context(pair.ladon.logs())?;
    ovs.vsctl(&["del-br", "br-int"])?;
    until("the bridge to be made again", &|| Ok(ports().is_ok_and(|ports| ports.contains(&"ladon-geneve".to_string()))))
        .context(pair.ladon.logs())
}

#[test]
fn an_operator_sees_nodes_ports_flows_and_waits_for_a_change() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 9)?;
    let web = pair.plug(&blue, 0, "web", json!({}))?;
    let node = &pair.ladon.nodes[0];
    let nodes = pair.ladon.ladon(node, &["nodes"])?.to_string();
    assert!(nodes.contains("n1") && nodes.contains("n2"), "{nodes}");
    pair.ladon.ladon(node, &["wait", "--timeout", "60"])?;
    let ports = pair.ladon.ladon(node, &["ports", "web"])?.to_string();
    assert!(ports.contains("ACTIVE") && ports.contains(&web.v4.to_string()), "{ports}");
    let flows = |object: &str| -> Result<String> {
        let mut flows = node.host.command(&pair.ladon.program());
        flows.arg("--control").arg(node.run_dir.join("node.sock")).args(["flows", "--object", object, "--packets"]);
        Ok(node.host.run(&mut flows, Duration::from_secs(120))?.ok()?)
    };
    let of_group = flows(web.port["security_groups"][0].as_str().context("its group")?)?;
    assert!(of_group.contains("EgressRules") && of_group.lines().all(|line| line.contains("# rule ")), "{of_group}");
    let flows = flows("web")?;
    for table in ["Classify", "SpoofGuard", "EgressTrack", "L2Lookup", "Deliver"] {
        assert!(flows.contains(table), "{table}: {flows}");
    }
    let lonely = pair.api().create("port", json!({"network_id": blue["id"], "name": "lonely", "binding:host_id": "n9"}))?;
    let missing = pair.ladon.ladon(node, &["ports", "--missing"])?.to_string();
    assert!(missing.contains(lonely["id"].as_str().context("an id")?), "{missing}");
    Ok(())
}
