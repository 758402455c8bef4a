//! Meters that somebody else takes away on a real Open vSwitch, and meters that it has no room for.

#[path = "../../openflow/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apps::Change;
use apps::testing::*;
use common::{Client, DummyOvs, wait_for};
use model::*;
use node::agent::{Agent, Ask, Feeds, Published, SwitchNews};
use node::bridge::{Interface, Interfaces};
use node::connections::{Mailbox, mailbox};
use node::switch::{Event, Options, Switch, meters};
use node::view::ViewUpdate;
use openflow::{METER_ALL, Message, Meter, MeterCommand, MeterMod};
use pipeline::{Fingerprint, OfPort, Punt};
use tokio::sync::{mpsc, watch};

const DEADLINE: Duration = Duration::from_secs(20);
/// Meters that the userspace datapath has (`ovs-ofctl meter-features`).
const METERS_OF_A_DATAPATH: u32 = 1 << 18;

/// A port here.
fn view() -> ViewUpdate {
    let own = Port { host: Some(NodeName("n1".into())), ..port("own", 4, "net", &[("net4", "10.0.0.4")]) };
    let changes = [put(node("n1", "192.0.2.1")), put(network("net", 7)), put(subnet("net4", "net", "10.0.0.0/24")), put(own)];
    let object = |change| match change {
        Change::Put(object) => object,
        other => panic!("{other:?}"),
    };
    let upserts = changes.into_iter().map(object).collect();
    ViewUpdate { upserts, removals: vec![], revision: Revision(1), is_complete_snapshot: true }
}

fn plugged() -> Interfaces {
    let interface = Interface {
        name: "own".into(),
        uuid: uuid::Uuid::from_u128(1),
        kind: String::new(),
        ofport: Some(OfPort(11)),
        error: None,
        iface_id: Some(id("own").to_string()),
        mac_in_use: None,
        external_ids: BTreeMap::new(),
        options: BTreeMap::new(),
    };
    Interfaces::unit("own".into(), interface)
}

/// An agent that is in force on an Open vSwitch.
struct World {
    ovs: DummyOvs,
    /// Packets that flows handed over.
    packet_ins: mpsc::UnboundedReceiver<()>,
    _held: Held,
}

/// What lives as long as the agent should.
type Held = (tempfile::TempDir, mpsc::Sender<ViewUpdate>, mpsc::Sender<Ask>, watch::Sender<Option<Arc<Interfaces>>>, Mailbox);

async fn world(ovs: DummyOvs) -> World {
    ovs.add_port("own", 11);
    let state = tempfile::tempdir().unwrap();
    let (switch, mut events) = Switch::start(Options::new(ovs.socket()));
    let (in_force, mut in_force_seen) = watch::channel(Arc::default());
    let (affected, mailbox) = mailbox();
    let (local, facts, half) = (watch::channel(Arc::default()).0, watch::channel(None).0, watch::channel(None).0);
    let published = Published { local, in_force, facts, affected, half };
    let (views, view_updates) = mpsc::channel(4);
    let (interfaces_in, interfaces) = watch::channel(Some(Arc::new(plugged())));
    let (news, switch_news) = mpsc::channel(64);
    let (asks, asked) = mpsc::channel(4);
    let (handed_over, packet_ins) = mpsc::unbounded_channel();
    let addresses = vec!["192.0.2.1".parse().unwrap()];
    let agent = Agent::new(NodeName("n1".into()), addresses, state.path(), switch, Fingerprint::of_pipeline(), published).unwrap();
    views.send(view()).await.unwrap();
    asks.send(Ask::Tunnel(Some(OfPort(1000)))).await.unwrap();
    tokio::spawn(agent.run(Feeds { view: view_updates, interfaces, switch: switch_news, asks: asked }));
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let told = match event {
                Event::Connected(_) => SwitchNews::Connected,
                Event::Disconnected(_) => SwitchNews::Disconnected,
                Event::FlowUpdate(_) => SwitchNews::Disturbed,
                Event::PacketIn(_) => {
                    let _ = handed_over.send(());
                    continue;
                }
                // What is heard of groups and meters is kept from the agent: it looks by itself, too.
                Event::GroupsChanged => continue,
            };
            news.send(told).await.unwrap();
        }
    });
    let is_complete = in_force_seen.wait_for(|now| now.is_complete);
    tokio::time::timeout(DEADLINE, is_complete).await.expect("the flows are in force in time").unwrap();
    World { ovs, packet_ins, _held: (state, views, asks, interfaces_in, mailbox) }
}

impl World {
    /// The port asks for its address.
    fn ask_for_an_address(&self) {
        let addresses = "eth(src=0a:00:00:00:00:04,dst=ff:ff:ff:ff:ff:ff),eth_type(0x0800),ipv4(src=0.0.0.0,dst=255.255.255.255,proto=17,tos=0,ttl=64,frag=no)";
        self.ovs.appctl(&["netdev-dummy/receive", "own", &format!("in_port(11),{addresses},udp(src=68,dst=67)")]);
    }

    /// Packets that passed the meter of the port's questions; none if it is not there.
    fn metered(&self) -> Option<u64> {
        let stats = self.ovs.ofctl("meter-stats", &[]);
        let of_port = stats.split("meter:").find(|one| one.starts_with(&format!("{} ", meters::of(Punt::Dhcp, Some(4)))))?;
        let (_, count) = of_port.split_once("packet_in_count:")?;
        count.split(' ').next()?.parse().ok()
    }

    /// Until what the port asks passes its meter.
    fn wait_until_questions_are_metered(&self) {
        wait_for("questions to pass their meter", || {
            let before = self.metered();
            self.ask_for_an_address();
            before.is_some() && self.metered() > before
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn meters_that_others_delete_are_put_back_and_flows_pass_them_again() {
    let world = world(DummyOvs::start()).await;
    world.wait_until_questions_are_metered();
    world.ovs.ofctl("del-meters", &[]);
    assert_eq!(world.metered(), None);
    // Somebody's meter has the place in the datapath that the first of Ladon's had.
    world.ovs.ofctl("add-meter", &["meter=60000,pktps,burst,bands=type=drop,rate=1,burst_size=1"]);
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
    assert_eq!(world.ovs.ofctl("dump-meters", &[]).matches("meter=").count(), 3, "those of the first reasons fit");
    world.ask_for_an_address();
    let handed_over = tokio::time::timeout(DEADLINE, world.packet_ins.recv()).await;
    assert_eq!(handed_over, Ok(Some(())), "the question reaches the node");
    // Where there is room again, all is as it should be.
    let delete = MeterMod { command: MeterCommand::Delete, meter: Meter::packets(METER_ALL, 1, 1) };
    other.try_all(&[Message::MeterMod(delete)]);
    world.wait_until_questions_are_metered();
}
