//! Routing and security groups between two nodes on real Open vSwitch.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use demo::{Pair, Plugged, Tunnel, id};
use lab::traffic::{EchoServer, ping, tcp, udp};
use lab::{LabError, wait};
use serde_json::json;

const BRIEF: Duration = Duration::from_millis(10);
/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

fn reaches(from: &Plugged, target: IpAddr) -> Result<()> {
    ping(from.workload.netns(), target, 2, Duration::from_millis(50))?;
    let report = ping(from.workload.netns(), target, 10, BRIEF)?;
    assert_eq!(report.lost, 0, "{target} {report:?}");
    Ok(())
}

#[test]
fn a_router_joins_two_networks_and_answers_for_itself() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let (blue, red) = (pair.network("blue", 9)?, pair.network("red", 10)?);
    let router = pair.router("r", &[&blue, &red])?;
    let open = || json!({"port_security_enabled": false});
    let a = pair.plug(&blue, 0, "a", open())?;
    let b = pair.plug(&red, 1, "b", open())?;
    for target in [b.v4, b.v6, "10.9.0.1".parse()?, "10.10.0.1".parse()?, "fd00:9::1".parse()?, "fd00:10::1".parse()?] {
        reaches(&a, target)?;
    }
    let routes = json!({"router": {"routes": [{"destination": "198.51.100.7/32", "nexthop": b.v4.to_string()}]}});
    b.workload.netns().ip(&["address add 198.51.100.7/32 dev lo".into()])?;
    pair.api().put(&format!("/v2.0/routers/{}/add_extraroutes", id(&router)), routes)?;
    reaches(&a, "198.51.100.7".parse()?)
}

/// More than two packets of the underlay.
const LARGE: usize = 4_000;

#[test]
fn a_datagram_in_pieces_passes_a_rule_for_its_port_as_the_first_of_a_connection() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 9)?;
    let group = pair.api().create("security_group", json!({"name": "large"}))?;
    for ethertype in ["IPv4", "IPv6"] {
        let rule = json!({"security_group_id": id(&group), "direction": "ingress", "ethertype": ethertype, "protocol": "udp",
            "port_range_min": 8080, "port_range_max": 8080});
        pair.api().create("security_group_rule", rule)?;
    }
    let server = pair.plug(&blue, 1, "server", json!({"security_groups": [id(&group)]}))?;
    let client = pair.plug(&blue, 0, "client", json!({}))?;
    let _ports: Vec<EchoServer> =
        [8080, 8081].into_iter().map(|port| EchoServer::start(server.workload.netns(), port)).collect::<Result<_, _>>()?;
    let patience = Duration::from_secs(1);
    // The first packet between two nodes may be lost while their switches learn each other's underlay MACs.
    udp(client.workload.netns(), (server.v4, 8081).into(), b"hello", Duration::from_millis(300))?;
    for ip in [server.v4, server.v6] {
        let said = vec![b'x'; LARGE];
        wait::until(&format!("an answer as large from {ip}"), DEADLINE, || {
            let answer = udp(client.workload.netns(), (ip, 8080).into(), &said, patience)?;
            Ok::<_, LabError>((answer.text().len() == LARGE).then_some(()))
        })?;
        assert!(!udp(client.workload.netns(), (ip, 8081).into(), &said, patience)?.is_answered(), "no rule lets {ip}:8081 in");
    }
    Ok(())
}

#[test]
fn a_security_group_lets_in_what_its_rules_say_and_nothing_else() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 9)?;
    let web = pair.api().create("security_group", json!({"name": "web"}))?;
    let clients = pair.api().create("security_group", json!({"name": "clients"}))?;
    for ethertype in ["IPv4", "IPv6"] {
        let rule = json!({"security_group_id": id(&web), "direction": "ingress", "ethertype": ethertype, "protocol": "tcp",
            "port_range_min": 8080, "port_range_max": 8081, "remote_group_id": id(&clients)});
        pair.api().create("security_group_rule", rule)?;
    }
    let server = pair.plug(&blue, 0, "server", json!({"security_groups": [id(&web)]}))?;
    let client = pair.plug(&blue, 1, "client", json!({"security_groups": [id(&clients)]}))?;
    let stranger = pair.plug(&blue, 1, "stranger", json!({}))?;
    let _ports: Vec<EchoServer> =
        [8080, 8081, 8082].into_iter().map(|port| EchoServer::start(server.workload.netns(), port)).collect::<Result<_, _>>()?;
    let patience = Duration::from_millis(600);
    for ip in [server.v4, server.v6] {
        for port in [8080, 8081] {
            wait::until(&format!("{ip}:{port}, which is allowed"), DEADLINE, || {
                Ok::<_, LabError>(tcp(client.workload.netns(), (ip, port).into(), b"hello", patience)?.is_answered().then_some(()))
            })?;
        }
        for (from, port) in [(&client, 8082), (&stranger, 8080)] {
            assert!(!tcp(from.workload.netns(), (ip, port).into(), b"hello", patience)?.is_answered(), "{ip}:{port} is not allowed");
        }
        assert!(!udp(client.workload.netns(), (ip, 8080).into(), b"hello", patience)?.is_answered(), "UDP to {ip} is not allowed");
        assert_eq!(ping(client.workload.netns(), ip, 3, BRIEF)?.received, 0, "ping to {ip} is not allowed");
    }
    // What the server itself begins comes back.
    assert_eq!(ping(stranger.workload.netns(), client.v4, 3, BRIEF)?.received, 0);
    Ok(())
}
