//! Limits of connections on a real Open vSwitch: those of Ladon's zones, and of no other.

#[path = "../../openflow/tests/common/mod.rs"]
mod common;

use common::{DummyOvs, wait_for};
use model::PortId;
use node::agent::Ask;
use node::connections::{Unixctl, keep_limits};
use node::zones::Zones;
use tokio::sync::mpsc;
use uuid::Uuid;

const DATAPATH: &str = "netdev@ovs-netdev";

/// A port that lives here has zones 1 to 3; one that went away had 4 to 6.
fn zones() -> Zones {
    let (here, away) = (PortId(Uuid::from_u128(1)), PortId(Uuid::from_u128(2)));
    let mut zones = Zones::default();
    zones.take(here);
    zones.take(away);
    zones.free(away);
    zones
}

/// An Open vSwitch that has limits already, in zones of both ports and in somebody else's; and the task that keeps them at `limit`.
fn kept_at(limit: u32) -> DummyOvs {
    let ovs = DummyOvs::start();
    ovs.vsctl(&["add-br", "br1", "--", "set", "bridge", "br1", "datapath-type=netdev"]);
    wait_for("the datapath", || ovs.appctl(&["dpctl/dump-dps"]).contains(DATAPATH));
    ovs.appctl(&["dpctl/ct-set-limits", DATAPATH, "zone=2,limit=50", "zone=5,limit=50", "zone=900,limit=7"]);
    let (asks, mut asked) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(ask) = asked.recv().await {
            let Ask::Zones(answer) = ask else { panic!("{ask:?}") };
            answer.send(zones()).unwrap();
        }
    });
    let unixctl = Unixctl::new(Some(ovs.dir.join("vswitchd.ctl")), &ovs.dir, true);
    tokio::spawn(keep_limits(unixctl, limit, asks));
    ovs
}

/// Zones and their limits.
fn limits(ovs: &DummyOvs) -> Vec<String> {
    let text = ovs.appctl(&["dpctl/ct-get-limits", DATAPATH]);
    let mut limits: Vec<String> = text.lines().filter_map(|line| Some(line.rsplit_once(",count=")?.0.to_owned())).collect();
    limits.sort();
    limits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zones_of_ports_are_limited_and_those_of_others_are_left_alone() {
    let ovs = kept_at(100);
    let right = ["zone=1,limit=100", "zone=2,limit=100", "zone=3,limit=100", "zone=900,limit=7"];
    wait_for("the limits", || limits(&ovs) == right);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_limit_those_of_an_earlier_configuration_go() {
    let ovs = kept_at(0);
    wait_for("the end of the limits", || limits(&ovs) == ["zone=900,limit=7"]);
}
