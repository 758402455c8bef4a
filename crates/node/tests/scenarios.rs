//! Every scenario on a real Open vSwitch with a dummy datapath, packet by packet with `ofproto/trace`: it ends where the
//! scenario says, which is where the in-process switch says it ends. Connection states are the in-process switch's: a trace
//! changes none. What is translated on the way is left to the tests with real packets, because a trace does not translate.

#[allow(dead_code)]
#[path = "common/ovs.rs"]
mod ovs;

use std::process::Command;

use apps::scenario::{End, Scenario, Step, TUNNEL, ends};
use node::switch::{Changes, Event, Options, Switch};
use node::translate;
use openflow::{FlowMod, GroupMod};
use ovs::{DummyOvs, run};
use pipeline::switch::{Journey, Packet, state_names};
use pipeline::{Fingerprint, Generation, Header, OfPort, Punt, Table};

const BRIDGE: &str = "br0";

fn scenarios() -> Vec<(String, Scenario)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut read: Vec<(String, Scenario)> =
        files.map(|file| (file.display().to_string(), Scenario::parse(&std::fs::read_to_string(&file).unwrap()).unwrap())).collect();
    read.sort_by(|a, b| a.0.cmp(&b.0));
    read
}

#[tokio::test]
async fn every_scenario_holds_on_open_vswitch() {
    let mut wrong = Vec::new();
    let mut traced = 0;
    let scenarios = scenarios();
    let in_both_halves = scenarios.iter().flat_map(|scenario| Generation::ALL.map(|half| (scenario, half)));
    for ((file, scenario), half) in in_both_halves {
        let ovs = switch_of(scenario, half).await;
        for (step, journey) in scenario.steps.iter().zip(scenario.journeys()) {
            if journey.is_translated {
                continue;
            }
            traced += 1;
            let text = trace(&ovs, step, &journey);
            let saw = ends_of(&text);
            if saw != step.expected || ends(&journey) != step.expected {
                wrong.push(format!("{file} in half {half:?}: line {}: `{}`: {saw:?}\n{text}", step.line, step.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(traced > 30, "only {traced} packets");
}

/// A switch that has the scenario's interfaces, and its flows and groups in `half`.
async fn switch_of(scenario: &Scenario, half: Generation) -> DummyOvs {
    let ovs = DummyOvs::start();
    ovs.vsctl(&["add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "fail-mode=secure", "datapath_type=dummy"]);
    let engine = scenario.engine();
    let ports = engine.view().attachments().map(|attachment| attachment.ofport).chain([TUNNEL]);
    for OfPort(number) in ports {
        let (name, request) = (format!("p{number}"), format!("ofport_request={number}"));
        let kind = if number == TUNNEL.0 { &["type=geneve", "options:remote_ip=flow", "options:key=flow"][..] } else { &["type=dummy"] };
        ovs.vsctl(&[&["add-port", BRIDGE, &name, "--", "set", "interface", &name, &request][..], kind].concat());
    }
    let (switch, mut events) = Switch::start(Options::new(ovs.path(&format!("{BRIDGE}.mgmt"))));
    while !matches!(events.recv().await.unwrap(), Event::Connected(_)) {}
    let flows = engine.flows().map(|flow| translate::flow_mod(&flow, half).unwrap());
    let flows: Vec<FlowMod> = flows.chain(translate::misses(half)).chain([translate::dispatch(half, Fingerprint::of_pipeline())]).collect();
    let mut groups: Vec<_> = engine.groups().map(|group| translate::group(group, half)).collect();
    groups.sort_by_key(|group| group.id);
    let groups = groups.into_iter().map(GroupMod::add).collect();
    switch.commit(Changes { groups, flows }).await.unwrap();
    ovs
}

fn trace(ovs: &DummyOvs, step: &Step, journey: &Journey) -> String {
    let states = journey.states.iter().flat_map(|state| ["--ct-next".to_string(), state_names(*state)]);
    run(Command::new("ovs-appctl")
        .arg("-t")
        .arg(ovs.path("vswitchd.ctl"))
        .args(["ofproto/trace", BRIDGE, &flow_text(&step.packet)])
        .args(states))
}

/// The packet as `ofproto/trace` reads it.
fn flow_text(packet: &Packet) -> String {
    let kept = |header: &Header| !matches!(header, Header::IpFrag);
    let text = packet.to_string();
    let names: Vec<&str> = packet.headers().filter(|(header, _)| !kept(header)).map(|(header, _)| header.name()).collect();
    let tunnel = packet.get(Header::TunId).map(|network| format!("tun_id={network}"));
    let kept = text.split(',').filter(|part| !names.iter().any(|name| part.starts_with(&format!("{name}="))));
    kept.map(str::to_owned).chain(tunnel).collect::<Vec<_>>().join(",")
}

/// Where a trace says that the packet and its copies ended. Copies that went nowhere are passed over if one arrived.
fn ends_of(trace: &str) -> Vec<End> {
    let mut last_table = None;
    let mut tunnel = None;
    let mut arrived = Vec::new();
    let in_port = trace.split("in_port=").nth(1).and_then(|rest| rest.split([',', '\n']).next()?.trim().parse().ok());
    for line in trace.lines().map(str::trim) {
        if let Some((number, _)) = line.split_once(". ") {
            last_table = number.parse().ok().and_then(Table::from_number).map(|(table, _)| table).or(last_table);
        }
        if let Some(address) = line.strip_prefix("set_field:").and_then(|rest| rest.strip_suffix("->tun_dst")) {
            tunnel = address.parse().ok();
        }
        if line.contains(">> skipping output") {
            arrived.pop();
        } else if let Some(number) = line.strip_prefix("output:").and_then(|number| number.parse().ok()) {
            arrived.extend(if OfPort(number) == TUNNEL { tunnel.map(End::Tunnel) } else { Some(End::Output(OfPort(number))) });
        } else if line == "IN_PORT" || line == "in_port" {
            arrived.extend(in_port.map(OfPort).map(End::Output));
        } else if let Some(data) = line.strip_prefix("controller(").and_then(|rest| rest.split("userdata=").nth(1)) {
            let number = data.split([')', ',']).next().and_then(|number| u8::from_str_radix(number, 16).ok());
            arrived.extend(number.and_then(Punt::from_byte).map(End::Punted));
        }
    }
    if arrived.is_empty() {
        arrived.extend(last_table.map(End::Dropped));
    }
    arrived.sort();
    arrived
}

/// What every IPv6 rule with ports asks of a later fragment is the same: 5,000 of them were one flow too long for a message.
#[tokio::test]
async fn a_port_that_comes_when_there_are_five_thousand_rules_with_ports_is_programmed() {
    let rules: String = (0..5_000).map(|n| format!("rule many in {} {}\n", ["tcp", "udp"][n % 2], 1_000 + n)).collect();
    let world = format!("port a here 11 trusted\nport b here 12 in many\n{rules}");
    let steps = "a -> b tcp 5998 v6 to b\na -> b tcp 5999 v6 dropped in IngressRules\na -> b udp 5999 to b\na -> new tcp 1000 v6 to new\n";
    let before = Scenario::parse(&world).unwrap();
    let after = Scenario::parse(&format!("{world}port new here 13 in many\n{steps}")).unwrap();
    let half = Generation::B;
    let ovs = switch_of(&before, half).await;
    ovs.vsctl(&["add-port", BRIDGE, "p13", "--", "set", "interface", "p13", "ofport_request=13", "type=dummy"]);
    let (switch, mut events) = Switch::start(Options::new(ovs.path(&format!("{BRIDGE}.mgmt"))));
    while !matches!(events.recv().await.unwrap(), Event::Connected(_)) {}
    let mut engine = before.engine();
    let delta = engine.update(after.world.iter().skip(before.world.len()).cloned());
    assert!(!delta.flows.is_empty() && delta.removed_flows.is_empty());
    let flows = delta.flows.iter().map(|flow| translate::flow_mod(flow, half).unwrap()).collect();
    switch.commit(Changes { groups: Vec::new(), flows }).await.unwrap();
    for (step, journey) in after.steps.iter().zip(after.journeys()) {
        let text = trace(&ovs, step, &journey);
        assert_eq!((ends_of(&text), ends(&journey)), (step.expected.clone(), step.expected.clone()), "{}: {text}", step.text);
    }
    // To Open vSwitch the protocol of an IPv6 fragment is the fragment header's.
    let fragment =
        "in_port=11,dl_src=0a:00:00:00:00:64,dl_dst=0a:00:00:00:00:65,ipv6,nw_proto=44,ipv6_src=fd00::a,ipv6_dst=fd00::b,ip_frag=later";
    let text = run(Command::new("ovs-appctl").arg("-t").arg(ovs.path("vswitchd.ctl")).args([
        "ofproto/trace",
        BRIDGE,
        fragment,
        "--ct-next",
        "trk,new",
    ]));
    assert_eq!(ends_of(&text), [End::Output(OfPort(12))], "a later fragment of what some rule allows: {text}");
}
