//! Every scenario on a real Open vSwitch with a dummy datapath, packet by packet with `ofproto/trace`: it ends where the
//! scenario says, which is where the in-process switch says it ends. Connection states are the in-process switch's: a trace
//! changes none. What is translated on the way is left to the tests with real packets, because a trace does not translate.

#[allow(dead_code)]
#[path = "common/ovs.rs"]
mod ovs;

use std::process::Command;

use apps::scenario::{End, Scenario, Step, TUNNEL, ends};
use node::switch::{Changes, Commit, Event, Options, Switch};
use node::translate;
use openflow::{FlowMod, GroupMod};
use ovs::{DummyOvs, run};
use pipeline::switch::{Journey, Packet, state_names};
use pipeline::{Generation, Header, OfPort, Punt, Table};

const GENERATION: Generation = Generation::A;
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
    for (file, scenario) in scenarios() {
        let ovs = switch_of(&scenario).await;
        for (step, journey) in scenario.steps.iter().zip(scenario.journeys()) {
            if journey.is_translated {
                continue;
            }
            traced += 1;
            let text = trace(&ovs, step, &journey);
            let saw = end_of(&text);
            if saw != Some(step.expected) || ends(&journey) != [step.expected] {
                wrong.push(format!("{file}: line {}: `{}`: {saw:?}\n{text}", step.line, step.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(traced > 30, "only {traced} packets");
}

/// A switch that has the scenario's interfaces, flows and groups.
async fn switch_of(scenario: &Scenario) -> DummyOvs {
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
    let flows = engine.flows().map(|flow| translate::flow_mod(&flow, GENERATION).unwrap());
    let flows: Vec<FlowMod> = flows.chain(translate::misses(GENERATION)).chain([translate::dispatch(GENERATION)]).collect();
    let mut groups: Vec<_> = engine.groups().map(|group| translate::group(group, GENERATION)).collect();
    groups.sort_by_key(|group| group.id);
    let groups = groups.into_iter().map(GroupMod::add).collect();
    switch.commit(Changes { groups, flows }, Commit::AtOnce).await.unwrap();
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
    text.split(',').filter(|part| !names.iter().any(|name| part.starts_with(&format!("{name}=")))).collect::<Vec<_>>().join(",")
}

/// Where a trace says that the packet ended. Copies that went nowhere are passed over if one arrived.
fn end_of(trace: &str) -> Option<End> {
    let mut last_table = None;
    let mut tunnel = None;
    let mut arrived = None;
    let in_port = trace.split("in_port=").nth(1).and_then(|rest| rest.split([',', '\n']).next()?.trim().parse().ok());
    for line in trace.lines().map(str::trim) {
        if let Some((number, _)) = line.split_once(". ") {
            last_table = number.parse().ok().and_then(Table::from_number).map(|(table, _)| table).or(last_table);
        }
        if let Some(address) = line.strip_prefix("set_field:").and_then(|rest| rest.strip_suffix("->tun_dst")) {
            tunnel = address.parse().ok();
        }
        if line.contains(">> skipping output") {
            arrived = None;
        } else if let Some(number) = line.strip_prefix("output:") {
            let port = OfPort(number.parse().ok()?);
            arrived = if port == TUNNEL { tunnel.map(End::Tunnel) } else { Some(End::Output(port)) };
        } else if line == "IN_PORT" || line == "in_port" {
            arrived = in_port.map(OfPort).map(End::Output);
        } else if let Some(data) = line.strip_prefix("controller(").and_then(|rest| rest.split("userdata=").nth(1)) {
            let number = u8::from_str_radix(data.split([')', ',']).next()?, 16).ok()?;
            arrived = Punt::from_byte(number).map(End::Punted);
        }
    }
    arrived.or(last_table.map(End::Dropped))
}
