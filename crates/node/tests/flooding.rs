//! Broadcast on a network of more nodes than one flow can copy to, on a real Open vSwitch.

#[path = "../../openflow/tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use apps::testing::*;
use apps::{ALL, Change, Engine, Here, Numbers};
use common::DummyOvs;
use model::*;
use node::switch::{Event, Options, Switch};
use node::{install, translate};
use pipeline::{Fingerprint, Generation};

const DEADLINE: Duration = Duration::from_secs(120);
const HALF: Generation = Generation::A;
const TUNNEL: u32 = 2;
const WEB: u16 = 7;

fn remote(n: u32) -> [Change; 2] {
    let (name, ip) = (format!("node{n}"), format!("10.0.{}.{}", n >> 8, n & 255));
    let port = Port { host: Some(NodeName(name.clone())), ..port(&format!("p{n}"), 1000 + n, "net", &[("sub", &ip)]) };
    [put(node(&name, &format!("172.16.{}.{}", n >> 8, n & 255))), put(port)]
}

fn engine(nodes: u32) -> Engine {
    let mut engine = Engine::new(ALL, Numbers::default());
    let here = Here { node: NodeName("node0".into()), tunnel_addresses: vec!["172.16.255.1".parse().unwrap()], tunnel_port: Some(TUNNEL) };
    let web = Port { host: Some(here.node.clone()), is_port_security: false, ..port("web", 100, "net", &[("sub", "10.0.255.9")]) };
    let network = Network { is_flooding: true, ..network("net", 7) };
    let here = [Change::Here(here), put(network), put(subnet("sub", "net", "10.0.0.0/16")), put(web), attach("web", WEB.into())];
    engine.update(here.into_iter().chain((1..=nodes).flat_map(remote)));
    engine
}

/// Where a broadcast packet of the port goes, by Open vSwitch's own account.
async fn copies(engine: &Engine) -> BTreeSet<String> {
    let ovs = DummyOvs::start();
    ovs.add_port("web", WEB);
    let request = format!("ofport_request={TUNNEL}");
    ovs.vsctl(&[
        "add-port",
        "br0",
        "tun",
        "--",
        "set",
        "interface",
        "tun",
        "type=geneve",
        "options:remote_ip=flow",
        "options:key=flow",
        &request,
    ]);
    let (switch, mut events) = Switch::start(Options::new(ovs.socket()));
    let connected = async { while !matches!(events.recv().await, Some(Event::Connected(_))) {} };
    tokio::time::timeout(DEADLINE, connected).await.unwrap();
    let flows = engine.flows().map(|flow| translate::flow_mod(&flow, HALF).unwrap());
    let desired = flows.chain(translate::misses(HALF)).chain([translate::dispatch(HALF, Fingerprint::of_pipeline())]).collect::<Vec<_>>();
    let plan = install::plan(HALF, desired.clone(), vec![], &[], &[]);
    switch.commit(plan.half).await.unwrap();
    switch.commit(plan.turn).await.unwrap();
    let left = install::plan(HALF, desired, vec![], &switch.dump_flows().await.unwrap(), &[]);
    assert!(left.is_empty(), "what was written reads back equal");
    let packet = format!("in_port={WEB},dl_src=0a:00:00:00:00:64,dl_dst=ff:ff:ff:ff:ff:ff,dl_type=0x88b5");
    let traced = ovs.appctl(&["ofproto/trace", "br0", &packet]);
    assert!(!traced.contains("over 4096 resubmit"), "{}", &traced[traced.len() - 1000..]);
    let to = traced.lines().filter_map(|line| line.trim().strip_prefix("set_field:172.16.")?.strip_suffix("->tun_dst"));
    to.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_reaches_every_node_of_a_network_that_has_more_than_one_flow_can_copy_to() {
    for nodes in [20, 900, 2_000] {
        assert_eq!(copies(&engine(nodes)).await.len(), nodes as usize);
    }
}
