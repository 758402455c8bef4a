//! Meters that somebody else takes away on a real Open vSwitch, and meters that it has no room for.

#[path = "../../openflow/tests/common/mod.rs"]
mod common;
mod programmed;

use std::time::Duration;

use apps::testing::*;
use common::{Client, DummyOvs, wait_for};
use model::*;
use node::switch::meters;
use node::view::ViewUpdate;
use openflow::{METER_ALL, Message, Meter, MeterCommand, MeterMod};
use pipeline::Punt;
use programmed::{Programmed, objects, snapshot};

const DEADLINE: Duration = Duration::from_secs(120);
/// Meters that the userspace datapath has (`ovs-ofctl meter-features`).
const METERS_OF_A_DATAPATH: u32 = 1 << 18;

/// A port here.
fn view() -> ViewUpdate {
    let own = Port { host: Some(NodeName("n1".into())), ..port("own", 4, "net", &[("net4", "10.0.0.4")]) };
    let changes = [put(node("n1", "192.0.2.1")), put(network("net", 7)), put(subnet("net4", "net", "10.0.0.0/24")), put(own)];
    snapshot(objects(changes))
}

/// A port that asks.
struct World(Programmed);

async fn world(ovs: DummyOvs) -> World {
    ovs.add_port("own", 11);
    World(Programmed::start(ovs, view()).await)
}

impl World {
    /// The port asks for its address.
    fn ask_for_an_address(&self) {
        let addresses = "eth(src=0a:00:00:00:00:04,dst=ff:ff:ff:ff:ff:ff),eth_type(0x0800),ipv4(src=0.0.0.0,dst=255.255.255.255,proto=17,tos=0,ttl=64,frag=no)";
        self.0.ovs.appctl(&["netdev-dummy/receive", "own", &format!("in_port(11),{addresses},udp(src=68,dst=67)")]);
    }

    /// Packets that passed the meter of the port's questions; none if it is not there.
    fn metered(&self) -> Option<u64> {
        let stats = self.0.ovs.ofctl("meter-stats", &[]);
        let of_port = stats.split("meter:").find(|one| one.starts_with(&format!("{} ", meters::of(Punt::Dhcp, Some(4)))))?;
        let (_, count) = of_port.split_once("packet_in_count:")?;
        count.split(' ').next()?.parse().ok()
    }

    /// Until what the port asks passes its meter.
    fn wait_until_questions_are_metered(&self) {
        let mut before = None;
        wait_for("questions to pass their meter", || {
            self.ask_for_an_address();
            let now = self.metered();
            let more = now.is_some() && before.is_some() && now > before;
            before = now;
            more
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn meters_that_others_delete_are_put_back_and_flows_pass_them_again() {
    let world = world(DummyOvs::start()).await;
    world.wait_until_questions_are_metered();
    // They may be put back before anybody looks.
    wait_for("a look at the switch without them", || {
        world.0.ovs.ofctl("del-meters", &[]);
        world.metered().is_none()
    });
    // Somebody's meter has the place in the datapath that the first of Ladon's had.
    world.0.ovs.ofctl("add-meter", &["meter=60000,pktps,burst,bands=type=drop,rate=1,burst_size=1"]);
    world.wait_until_questions_are_metered();
}

/// Takes the meters that the datapath has for all bridges, but for some.
fn take_meters(ovs: &DummyOvs, but: u32) -> Client {
    ovs.vsctl(&["add-br", "br1", "--", "set", "bridge", "br1", "datapath-type=dummy", "protocols=OpenFlow15"]);
    let socket = ovs.dir.join("br1.mgmt");
    wait_for("the other bridge's socket", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let mut client = Client::connect(&socket);
    let meter = |id| Message::MeterMod(MeterMod { command: MeterCommand::Add, meter: Meter::packets(id, 1, 1) });
    let others: Vec<Message> = (1..=METERS_OF_A_DATAPATH - but).map(meter).collect();
    assert_eq!(client.try_all(&others), []);
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_with_too_few_meters_has_its_flows_all_the_same() {
    let ovs = DummyOvs::start();
    let mut other = take_meters(&ovs, 3);
    let mut world = world(ovs).await;
    assert_eq!(world.0.ovs.ofctl("dump-meters", &[]).matches("meter=").count(), 3, "those of the first reasons fit");
    world.ask_for_an_address();
    let handed_over = tokio::time::timeout(DEADLINE, world.0.packet_ins.recv()).await;
    assert_eq!(handed_over, Ok(Some(())), "the question reaches the node");
    // Where there is room again, all is as it should be.
    let delete = MeterMod { command: MeterCommand::Delete, meter: Meter::packets(METER_ALL, 1, 1) };
    other.try_all(&[Message::MeterMod(delete)]);
    world.wait_until_questions_are_metered();
}
