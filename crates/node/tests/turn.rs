//! The turn between the halves of the tables, on a real Open vSwitch: the agent of a release with another pipeline starts on a
//! switch that forwards by its predecessor's, and is killed on the way. Who looks at the switch sees, in the order in which it
//! happens, every flow that changes.

#[path = "../../openflow/tests/common/mod.rs"]
mod common;
mod programmed;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apps::testing::*;
use common::{DummyOvs, wait_for};
use model::*;
use node::agent::{Agent, Ask, Feeds, InForce, Published, SwitchNews};
use node::connections::mailbox;
use node::switch::{Event, Options, Switch};
use node::translate::dispatched;
use node::view::ViewUpdate;
use openflow::{
    BundleControlKind, FlowEvent, FlowMod, FlowUpdate, GroupMod, InstalledFlow, Match, Message, MultipartBody, decode, frame_len,
};
use pipeline::{Fingerprint, Generation, OfPort};
use programmed::{objects, plugged, snapshot};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// Ports on the other node, each with its flows: enough for several bundles.
const PORTS: u32 = 500;
/// The old half is left alone for longer after the turn. Not asked of a machine on which a look came later than this.
const LEFT_ALONE: Duration = Duration::from_secs(9);
/// What others do is mended sooner. A machine that stood still may be late, but not each time.
const MENDED: Duration = Duration::from_secs(8);
const TRIES: u32 = 3;

/// Two nodes' ports on one network, a port of this node among them, and a load balancer.
fn view() -> Vec<Arc<Object>> {
    let net = |name: &str, key: u32, host: &str| {
        let v4 = format!("10.0.{}.{}", key / 250, 1 + key % 250);
        Port { host: Some(NodeName(host.into())), ..port(name, key, "net", &[("net4", &v4)]) }
    };
    let balancer_port = vip("vip", 5000, "net", &[("net4", "10.0.200.1")]);
    let tcp = ListenerProtocol::Tcp;
    let mut changes = vec![
        put(node("n1", "192.0.2.1")),
        put(node("n2", "192.0.2.2")),
        put(network("net", 7)),
        put(subnet("net4", "net", "10.0.0.0/16")),
        put(net("here", 1000, "n1")),
        put(balancer("lb", &balancer_port)),
        put(balancer_port),
        put(listener("l", 3, "lb", tcp, 80, "pool")),
        put(pool("pool", "lb", tcp)),
        put(member("m1", "pool", "10.0.0.2", 80, 1)),
        put(member("m2", "pool", "10.0.0.3", 80, 1)),
    ];
    changes.extend((1..=PORTS).map(|key| put(net(&format!("p{key}"), key, "n2"))));
    objects(changes)
}

/// The part of `ladon node` that programs the switch.
struct Node {
    runtime: Option<Runtime>,
    views: mpsc::Sender<ViewUpdate>,
    half: watch::Receiver<Option<Generation>>,
    in_force: watch::Receiver<Arc<InForce>>,
    /// What feeds the agent, for as long as it lives.
    _feeding: Box<dyn std::any::Any>,
}

impl Node {
    /// A node whose pipeline has the number `own`, with the switch behind `socket`.
    fn start(socket: &Path, state: &Path, own: u64) -> Node {
        let node = Node::start_without_view(socket, state, own);
        node.give_view();
        node
    }

    fn give_view(&self) {
        self.views.blocking_send(snapshot(view())).unwrap();
    }

    fn start_without_view(socket: &Path, state: &Path, own: u64) -> Node {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (half, half_seen) = watch::channel(None);
        let (in_force, in_force_seen) = watch::channel(Arc::default());
        let (affected, mailbox) = mailbox();
        let published = Published { local: watch::channel(Arc::default()).0, in_force, facts: watch::channel(None).0, affected, half };
        let (views, view_updates) = mpsc::channel(4);
        let (interfaces, interfaces_seen) = watch::channel(Some(Arc::new(plugged("i", "here"))));
        let (news, switch_news) = mpsc::channel(64);
        let (asks, asked) = mpsc::channel(4);
        runtime.block_on(async {
            let (switch, mut events) = Switch::start(Options::new(socket));
            let addresses = vec!["192.0.2.1".parse().unwrap()];
            let agent = Agent::new(NodeName("n1".into()), addresses, state, switch, Fingerprint(own), published).unwrap();
            asks.send(Ask::Tunnel(OfPort(1000))).await.unwrap();
            tokio::spawn(agent.run(Feeds { view: view_updates, interfaces: interfaces_seen, switch: switch_news, asks: asked }));
            tokio::spawn(async move {
                while let Some(event) = events.recv().await {
                    let told = match event {
                        Event::Connected(_) => SwitchNews::Connected,
                        Event::Disconnected(_) => SwitchNews::Disconnected,
                        Event::FlowUpdate(_) | Event::GroupsChanged => SwitchNews::Disturbed,
                        _ => continue,
                    };
                    if news.send(told).await.is_err() {
                        return;
                    }
                }
            });
        });
        let _feeding = Box::new((interfaces, asks, mailbox));
        Node { runtime: Some(runtime), views, half: half_seen, in_force: in_force_seen, _feeding }
    }

    fn half(&self) -> Option<Generation> {
        *self.half.borrow()
    }

    fn wait_in_force(&self) -> Generation {
        wait_for("the node's flows", || self.in_force.borrow().is_complete);
        self.half().expect("what is in force is in a half")
    }
}

/// Killed.
impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What the switch has.
struct Seen {
    flows: Vec<InstalledFlow>,
    groups: Vec<u32>,
}

impl Seen {
    fn of(ovs: &DummyOvs) -> Seen {
        let mut client = ovs.connect();
        Seen { flows: client.flows(), groups: client.groups().iter().map(|group| group.id).collect() }
    }

    fn in_force(&self) -> Option<(Generation, Fingerprint)> {
        self.flows.iter().find_map(dispatched)
    }

    /// What is in one half: flows by table, priority and match, and groups, the same for both halves.
    fn of_half(&self, half: Generation) -> (BTreeSet<(u8, u16, String)>, usize) {
        let own = |flow: &&InstalledFlow| Generation::of_table(flow.table) == Some(half);
        let key = |flow: &InstalledFlow| (flow.table - half.base(), flow.priority, flow.matching.to_string());
        let groups = self.groups.iter().filter(|id| Generation::of_group(**id) == half).count();
        (self.flows.iter().filter(own).map(key).collect(), groups)
    }
}

/// Hears of every change of a flow.
struct Watcher {
    heard: Arc<Mutex<Heard>>,
    switch: Switch,
    runtime: Runtime,
}

#[derive(Default)]
struct Heard {
    changes: Vec<(FlowEvent, u8)>,
    /// What the switch said when it did not tell each change.
    gap: Option<String>,
}

impl Watcher {
    fn start(ovs: &DummyOvs) -> Watcher {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let heard = Arc::<Mutex<Heard>>::default();
        let (noted, (told, is_watching)) = (heard.clone(), std::sync::mpsc::channel());
        let (switch, mut events) = runtime.block_on(async { Switch::start(Options::new(ovs.socket())) });
        runtime.spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    Event::Connected(_) => told.send(()).unwrap(),
                    Event::Disconnected(why) => noted.lock().unwrap().gap = Some(why),
                    Event::FlowUpdate(update) => match *update {
                        FlowUpdate::Changed(change) => noted.lock().unwrap().changes.push((change.event, change.table)),
                        other => noted.lock().unwrap().gap = Some(format!("{other:?}")),
                    },
                    _ => {}
                }
            }
        });
        is_watching.recv_timeout(Duration::from_secs(120)).unwrap();
        Watcher { heard, switch, runtime }
    }

    /// The changes since the last look, in their order. All that the switch has made: it tells them before it answers a question,
    /// and what is still on its way in here has come when several answers brought nothing more.
    fn take(&self) -> Vec<(FlowEvent, u8)> {
        let (mut all, mut quiet) = (Vec::new(), 0);
        while quiet < 20 {
            self.runtime.block_on(self.switch.dump_groups()).unwrap();
            let mut heard = self.heard.lock().unwrap();
            assert_eq!(heard.gap, None, "changes may have gone untold");
            let more = std::mem::take(&mut heard.changes);
            quiet = if more.is_empty() { quiet + 1 } else { 0 };
            all.extend(more);
        }
        all
    }
}

/// Every change before table 0's was in the half that nobody entered.
fn assert_turned_unseen(changes: &[(FlowEvent, u8)], from: Generation) {
    let before = changes.iter().take_while(|(_, table)| *table != Generation::DISPATCH);
    let touched = before.clone().filter(|(_, table)| Generation::of_table(*table) == Some(from)).count();
    assert_eq!(touched, 0, "of {} changes before the turn", before.count());
}

#[test]
fn another_pipeline_is_written_unseen_comes_into_force_at_once_and_leaves_nothing_of_the_old_one() {
    let (ovs, state) = (DummyOvs::start(), tempfile::tempdir().unwrap());
    let first = Node::start(&ovs.socket(), state.path(), 1);
    assert_eq!(first.wait_in_force(), Generation::A);
    let whole = Seen::of(&ovs).of_half(Generation::A);
    assert!(whole.0.len() > 1000 && whole.1 > 0, "{} flows, {} groups", whole.0.len(), whole.1);
    drop(first);

    let watcher = Watcher::start(&ovs);
    let before_the_turn = Instant::now();
    let second = Node::start(&ovs.socket(), state.path(), 2);
    assert_eq!(second.wait_in_force(), Generation::B);
    let seen = Seen::of(&ovs);
    assert_eq!(seen.in_force(), Some((Generation::B, Fingerprint(2))));
    assert!(seen.of_half(Generation::B) == whole, "the new half is complete");
    let is_whole = seen.of_half(Generation::A) == whole;
    assert!(is_whole || before_the_turn.elapsed() > LEFT_ALONE, "packets on their way find the old half as it was");
    wait_for("the old half to go", || Seen::of(&ovs).of_half(Generation::A) == Default::default());
    assert!(before_the_turn.elapsed() > LEFT_ALONE, "{:?}", before_the_turn.elapsed());
    assert!(Seen::of(&ovs).of_half(Generation::B) == whole);
    let changes = watcher.take();
    let of_old = changes.iter().filter(|(_, table)| Generation::of_table(*table) == Some(Generation::A)).count();
    assert!(of_old >= whole.0.len(), "{of_old} changes of {} flows that went", whole.0.len());
    assert_turned_unseen(&changes, Generation::A);
    assert_eq!(changes.iter().filter(|(_, table)| *table == Generation::DISPATCH).count(), 1, "one flow turns");
    let after = changes.iter().skip_while(|(_, table)| *table != Generation::DISPATCH).skip(1);
    for (event, table) in after {
        assert_eq!((*event, Generation::of_table(*table)), (FlowEvent::Removed, Some(Generation::A)));
    }

    // What others do in either half and to table 0 is mended in the half that is in force, without delay.
    let is_right = || {
        let seen = Seen::of(&ovs);
        let dispatch = seen.flows.iter().filter(|flow| flow.table == 0).count();
        (seen.in_force(), dispatch) == (Some((Generation::B, Fingerprint(2))), 1)
            && seen.of_half(Generation::B) == whole
            && seen.of_half(Generation::A) == Default::default()
    };
    let is_soon_mended = |_: u32| {
        ovs.ofctl("add-flow", &["table=0,priority=9,actions=drop"]);
        ovs.ofctl("add-flow", &["table=1,priority=9,actions=drop"]);
        ovs.ofctl("del-flows", &["table=125"]);
        let done = Instant::now();
        wait_for("what others did to be mended", is_right);
        println!("mended {:?} later", done.elapsed());
        done.elapsed() < MENDED
    };
    assert!((0..TRIES).any(is_soon_mended), "mended as late as a half is cleared");
    ovs.ofctl("add-flow", &["table=0,priority=0,cookie=1,actions=goto_table:1"]);
    wait_for("what others turned to be turned back", is_right);
    drop(second);

    // The same pipeline again changes nothing, where it is.
    watcher.take();
    let again = Node::start(&ovs.socket(), state.path(), 2);
    assert_eq!(again.wait_in_force(), Generation::B);
    assert_eq!(watcher.take(), []);
}

#[test]
fn killed_after_any_bundle_of_a_turn_the_next_start_goes_on() {
    let (ovs, state) = (DummyOvs::start(), tempfile::tempdir().unwrap());
    let first = Node::start(&ovs.socket(), state.path(), 1);
    let mut half = first.wait_in_force();
    let whole = Seen::of(&ovs).of_half(half);
    drop(first);
    let watcher = Watcher::start(&ovs);
    let mut bundles = 0;
    loop {
        bundles += 1;
        let own = 1 + bundles as u64;
        clear(&ovs, half.other());
        assert_eq!(watcher.take().iter().filter(|(_, table)| *table == 0).count(), 0);
        let socket = state.path().join(format!("{bundles}.mgmt"));
        let is_cut = cut_after(&ovs, &socket, bundles);
        let node = Node::start(&socket, state.path(), own);
        wait_for("the cut, or the end", || is_cut.load(Ordering::Relaxed) || node.in_force.borrow().is_complete);
        if !is_cut.load(Ordering::Relaxed) {
            break;
        }
        drop(node);
        let seen = Seen::of(&ovs);
        let (in_force, _) = seen.in_force().unwrap();
        assert!(seen.of_half(in_force) == whole, "after bundle {bundles} packets pass half a pipeline");

        let next = Node::start(&ovs.socket(), state.path(), own);
        assert_eq!(next.wait_in_force(), half.other());
        let seen = Seen::of(&ovs);
        assert_eq!(seen.in_force(), Some((half.other(), Fingerprint(own))));
        assert!(seen.of_half(half.other()) == whole, "killed after bundle {bundles}, the next start went wrong");
        drop(next);
        assert_turned_unseen(&watcher.take(), half);
        half = half.other();
    }
    assert!(bundles >= 5, "{bundles} bundles are not enough to be killed between");
    let last = Node::start(&ovs.socket(), state.path(), 1 + bundles as u64);
    let half = last.wait_in_force();
    wait_for("what killed predecessors left to go", || Seen::of(&ovs).of_half(half.other()) == Default::default());
    assert!(Seen::of(&ovs).of_half(half) == whole);
}

/// Empties one half, as it is some time after a turn.
fn clear(ovs: &DummyOvs, half: Generation) {
    let mut client = ovs.connect();
    let tables = (0..Generation::SIZE).map(|n| Message::FlowMod(FlowMod::delete_all(half.base() + n, Match::any())));
    let groups = client.groups().into_iter().filter(|group| Generation::of_group(group.id) == half);
    let groups = groups.map(|group| Message::GroupMod(GroupMod::delete(group.id)));
    let messages = tables.chain(groups).collect();
    client.bundle(messages);
}

/// A way to the switch that ends, for ever, when the switch has taken so many bundles: nobody hears of the last one, and one more may be
/// on its way.
fn cut_after(ovs: &DummyOvs, path: &Path, mut bundles: usize) -> Arc<AtomicBool> {
    let is_taken = |message: &Message| matches!(message, Message::BundleControl(said) if said.kind == BundleControlKind::CommitReply);
    way(ovs, path, move |message| {
        bundles -= usize::from(is_taken(message));
        bundles > 0
    })
}

/// A way to the switch that ends, for ever, with the first answer for which `passes` says no. Tells when it has ended.
fn way(ovs: &DummyOvs, path: &Path, passes: impl FnMut(&Message) -> bool + Send + 'static) -> Arc<AtomicBool> {
    let has_ended = Arc::new(AtomicBool::new(false));
    let (listener, socket, said) = (UnixListener::bind(path).unwrap(), ovs.socket(), has_ended.clone());
    std::thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        drop(listener);
        let far = UnixStream::connect(socket).unwrap();
        let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        // Either end may be gone already.
        let _ = answers(&far, &near, passes);
        said.store(true, Ordering::Relaxed);
        for end in [near, far] {
            let _ = end.shutdown(Shutdown::Both);
        }
    });
    has_ended
}

/// Passes on what the switch says.
fn answers(mut far: &UnixStream, mut near: &UnixStream, mut passes: impl FnMut(&Message) -> bool) -> std::io::Result<()> {
    let (mut received, mut chunk) = (Vec::new(), [0; 65_536]);
    loop {
        while let Some(length) = frame_len(&received).unwrap().filter(|length| *length <= received.len()) {
            let frame: Vec<u8> = received.drain(..length).collect();
            if !decode(&frame).map_or(true, |(message, _)| passes(&message)) {
                return Ok(());
            }
            near.write_all(&frame)?;
        }
        match far.read(&mut chunk)? {
            0 => return Ok(()),
            count => received.extend_from_slice(&chunk[..count]),
        }
    }
}

/// A node reads the switch while its view is on its way.
#[test]
fn what_others_change_before_the_view_comes_is_mended_with_it() {
    let (ovs, state) = (DummyOvs::start(), tempfile::tempdir().unwrap());
    let first = Node::start(&ovs.socket(), state.path(), 1);
    let half = first.wait_in_force();
    let whole = Seen::of(&ovs).of_half(half);
    drop(first);
    let (socket, is_read) = (state.path().join("way.mgmt"), Arc::new(AtomicBool::new(false)));
    let read = is_read.clone();
    way(&ovs, &socket, move |message| {
        let is_last = matches!(message, Message::MultipartReply(reply) if matches!(reply.body, MultipartBody::Groups(_)));
        read.fetch_or(is_last, Ordering::Relaxed);
        true
    });
    let node = Node::start_without_view(&socket, state.path(), 1);
    wait_for("the switch to be read", || is_read.load(Ordering::Relaxed));
    ovs.ofctl("add-flow", &[&format!("table={},priority=9,actions=drop", half.base())]);
    ovs.ofctl("del-flows", &[&format!("table={}", half.base() + 4)]);
    let disturbed = Seen::of(&ovs).of_half(half);
    assert!(disturbed != whole);
    assert!(!node.in_force.borrow().is_complete, "nothing is changed without a view");
    node.give_view();
    wait_for("what others did to be mended", || Seen::of(&ovs).of_half(half) == whole);
    assert_eq!(node.wait_in_force(), half);
}
