//! The cluster: users, a server with its store, the streams, the machines. One step is one thing that happens somewhere.
//!
//! Nothing runs by itself: the writer, the views, every message and every machine wait until the seed says that it is their
//! turn. A message that waits is delayed; a stream that breaks loses what was on its way in both directions.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};

use jiff::Timestamp;
use model::{NetworkId, Object, ObjectKey, Port, PortId, PortStatus, Revision};
use node::bridge::Interface;
use node::view::ViewUpdate;
use node::view::replica::{Fault as ViewFault, Replica};
use server::views::{ByHand, Followed, closure, shown};
use server::{Core, QUEUE_MAX, State, Tx, WriteError, Writer, Written};
use store::Store;
use stream::wire::{Hello, Report, server_message::Body};

use crate::edits::{EditError, NODES, edit};
use crate::faulty::{Fault, Faulty};
use crate::host::{Host, Taking};
use crate::random::Random;

/// Edits that users wait for at most.
const EDITS_MAX: usize = 24;
/// Rounds in which a cluster without faults must come to rest.
const ROUNDS_MAX: usize = 100;
/// Steps between two bursts that fill the writer's queue.
const BURST_EVERY: usize = 4000;

type Pending<T> = Pin<Box<dyn Future<Output = T>>>;

/// What was seen in a run, so that a run in which nothing happens is no success.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    pub steps: usize,
    pub commits: u64,
    pub edits_done: usize,
    pub edits_refused: usize,
    pub writes_failed: usize,
    pub too_busy: usize,
    pub streams: usize,
    pub server_restarts: usize,
    pub node_restarts: usize,
    pub probes: usize,
    pub delivered: usize,
    pub delivered_by_tunnel: usize,
    pub delivered_by_router: usize,
    /// Packets that had to arrive, and did.
    pub heard: usize,
}

pub struct Server {
    pub core: Core,
    writer: Writer,
    views: ByHand,
    writing: Option<Pending<server::views::Wrote>>,
    /// Streams that have ended, which the server has not seen yet.
    stale: Vec<(Followed, VecDeque<Report>)>,
}

/// One node's stream.
#[derive(Default)]
struct Stream {
    hello: Option<Hello>,
    followed: Option<Followed>,
    down: VecDeque<Body>,
    up: VecDeque<Report>,
    is_report_due: bool,
}

pub struct World {
    pub random: Random,
    /// No two networks in one routing domain overlap.
    pub is_tidy: bool,
    store: Arc<Faulty>,
    clock: Arc<AtomicI64>,
    pub server: Option<Server>,
    pub hosts: Vec<Host>,
    streams: Vec<Option<Stream>>,
    edits: Vec<Pending<Result<Written<()>, EditError>>>,
    /// Every state that there was.
    pub history: BTreeMap<Revision, Arc<State>>,
    /// Every port that there was, and its network.
    pub networks: BTreeMap<PortId, NetworkId>,
    pub seen: Seen,
}

fn poll<T>(future: &mut Pending<T>) -> Option<T> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut world = World {
            random: Random::new(seed),
            is_tidy: seed % 3 != 0,
            store: Arc::default(),
            clock: Arc::new(AtomicI64::new(1_800_000_000)),
            server: None,
            hosts: (0..NODES).map(Host::new).collect(),
            streams: (0..NODES).map(|_| None).collect(),
            edits: Vec::new(),
            history: BTreeMap::new(),
            networks: BTreeMap::new(),
            seen: Seen::default(),
        };
        world.start_server();
        world
    }

    fn start_server(&mut self) {
        let clock = self.clock.clone();
        let now = move || Timestamp::from_second(clock.load(Ordering::Relaxed)).expect("a time that there is");
        let (core, writer) = Core::by_hand(self.store.clone(), Arc::new(now)).expect("the store can be loaded");
        let views = ByHand::new(core.clone());
        self.server = Some(Server { core, writer, views, writing: None, stale: Vec::new() });
        self.remember();
    }

    /// The server is killed. What it had not written is gone.
    fn stop_server(&mut self) {
        self.server = None;
        self.edits.clear();
        (0..NODES).for_each(|n| self.lose(n));
    }

    /// The latest state is history from now on.
    fn remember(&mut self) {
        let Some(server) = &self.server else { return };
        let state = server.core.state();
        if self.history.insert(state.revision(), state.clone()).is_none() {
            self.networks.extend(state.all::<Port>().map(|port| (port.id, port.network)));
        }
    }

    pub fn latest(&self) -> Arc<State> {
        self.history.last_key_value().map(|(_, state)| state.clone()).unwrap_or_default()
    }

    /// One thing happens somewhere.
    pub fn step(&mut self) {
        self.seen.steps += 1;
        self.clock.fetch_add(self.random.below(3) as i64, Ordering::Relaxed);
        let n = self.random.below(NODES);
        match self.random.below(1000) {
            0..150 => self.submit(),
            150..300 => self.write(),
            300..420 => self.take_in(),
            420..520 => self.speak(n),
            520..660 => self.deliver(n),
            660..740 => drop(self.hosts[n].take_view()),
            740..820 => self.work(n),
            820..850 => self.plug(n),
            850..880 => self.unplug(n),
            880..910 => self.report(n),
            910..940 => self.hear_report(n),
            940..955 => self.connect(n),
            955..965 => self.hosts[n].save(),
            965..975 => self.heartbeat(n),
            975..980 => self.see_the_end(),
            _ => self.fault(n),
        }
        if self.seen.steps % BURST_EVERY == BURST_EVERY / 2 {
            self.burst();
        }
    }

    fn fault(&mut self, n: usize) {
        match self.random.below(20) {
            0..7 => self.lose(n),
            7..12 => {
                let fault = self.random.pick(Fault::ALL);
                self.store.fail_next(fault);
            }
            12..15 => {
                self.seen.node_restarts += 1;
                self.lose(n);
                match self.seen.node_restarts % 2 {
                    0 => self.hosts[n].upgrade(),
                    _ => self.hosts[n].start(),
                }
            }
            15 => self.hosts[n].restart_switch(),
            16 if self.server.is_some() => {
                self.seen.server_restarts += 1;
                self.stop_server();
            }
            16..18 if self.server.is_none() => self.start_server(),
            18 => {
                if let Some(server) = &mut self.server {
                    server.views.miss_commits();
                }
            }
            _ => {
                if let Some(server) = &mut self.server {
                    server.views.retry_now();
                }
            }
        }
    }

    // Users and the writer.

    fn submit(&mut self) {
        let seed = self.random.next();
        let Some(server) = &self.server else { return };
        if self.edits.len() >= EDITS_MAX {
            return;
        }
        let (core, is_tidy) = (server.core.clone(), self.is_tidy);
        let mut future: Pending<_> =
            Box::pin(async move { core.write(move |tx: &mut Tx| edit(tx, &mut Random::new(seed), is_tidy)).await });
        // The first poll puts it into the writer's queue.
        match poll(&mut future) {
            Some(answer) => self.answered(answer),
            None => self.edits.push(future),
        }
    }

    fn answered(&mut self, answer: Result<Written<()>, EditError>) {
        match answer {
            Ok(_) => self.seen.edits_done += 1,
            Err(EditError::Write(WriteError::TooBusy)) => self.seen.too_busy += 1,
            Err(EditError::Write(WriteError::Internal(text))) => panic!("a closure panicked: {text}"),
            Err(EditError::Write(_)) => self.seen.writes_failed += 1,
            Err(EditError::Nothing | EditError::Ipam(_)) => self.seen.edits_refused += 1,
        }
    }

    /// More writes than the queue holds.
    fn burst(&mut self) {
        let Some(server) = &self.server else { return };
        let core = server.core.clone();
        let mut is_full = false;
        for _ in 0..=QUEUE_MAX {
            let core = core.clone();
            let mut future: Pending<_> = Box::pin(async move { core.write(|_: &mut Tx| Ok::<(), WriteError>(())).await });
            is_full |= matches!(poll(&mut future), Some(Err(WriteError::TooBusy)));
        }
        assert!(is_full, "the queue has an end");
        self.submit();
    }

    /// The writer writes what waits; users get their answers.
    fn write(&mut self) {
        let Some(server) = &mut self.server else { return };
        server.writer.turn();
        if let Some(wrote) = server.writing.as_mut().and_then(poll) {
            server.writing = None;
            server.views.wrote(wrote);
        }
        let mut waiting = std::mem::take(&mut self.edits);
        let answers: Vec<_> = waiting.extract_if(.., |_| true).map(|mut edit| (poll(&mut edit), edit)).collect();
        for (answer, edit) in answers {
            match answer {
                Some(answer) => self.answered(answer),
                None => self.edits.push(edit),
            }
        }
        self.remember();
    }

    /// The views take in a commit, or a few, and write what nodes reported.
    fn take_in(&mut self) {
        let most = 1 + self.random.below(4);
        if let Some(server) = &mut self.server {
            server.views.take_in(most);
            server.begin_writing();
        }
    }

    // Streams.

    fn connect(&mut self, n: usize) {
        if self.server.is_some() && self.streams[n].is_none() {
            self.seen.streams += 1;
            self.streams[n] = Some(Stream { hello: Some(self.hosts[n].hello()), is_report_due: true, ..Stream::default() });
        }
    }

    /// The node's stream breaks. The node sees that at once, the server when it does; what the node said may still arrive.
    fn lose(&mut self, n: usize) {
        let Some(Stream { followed, up, .. }) = self.streams[n].take() else { return };
        self.hosts[n].stream_ended();
        if let (Some(followed), Some(server)) = (followed, &mut self.server) {
            server.stale.push((followed, up));
        }
    }

    /// The server sees that an old stream has ended.
    fn see_the_end(&mut self) {
        let Some(server) = &mut self.server else { return };
        if let Some((followed, mut up)) = (!server.stale.is_empty()).then(|| server.stale.remove(0)) {
            if self.random.chance(50) {
                up.drain(..).for_each(|report| server.views.report(&followed, &report));
            }
            server.views.disconnect(followed);
        }
    }

    /// The server does the next thing for a stream: welcomes the node, leads it on, or tells news.
    fn speak(&mut self, n: usize) {
        let (Some(server), Some(stream)) = (&mut self.server, &mut self.streams[n]) else { return };
        if let Some(hello) = stream.hello.take() {
            return stream.followed = Some(server.views.connect(&hello).expect("a node's Hello makes sense"));
        }
        let Some(followed) = &mut stream.followed else { return };
        if followed.is_catching_up() {
            let log = self.store.changes(followed.revision(), usize::MAX).ok().filter(|_| self.random.chance(90));
            return stream.down.extend(server.views.catch_up(followed, log.as_deref()));
        }
        match server.views.say(followed) {
            Ok(bodies) => stream.down.extend(bodies),
            Err(reason) => {
                stream.down.push_back(Body::Refused(stream::wire::Refused { reason }));
                server.views.disconnect(stream.followed.take().expect("it was there right above"));
            }
        }
    }

    fn heartbeat(&mut self, n: usize) {
        let (Some(server), Some(stream)) = (&mut self.server, &mut self.streams[n]) else { return };
        if let Some(followed) = &mut stream.followed {
            stream.down.extend(server.views.heartbeat(followed));
        }
    }

    /// Messages reach the node.
    fn deliver(&mut self, n: usize) {
        for _ in 0..1 + self.random.below(4) {
            let Some(body) = self.streams[n].as_mut().and_then(|stream| stream.down.pop_front()) else { return };
            let is_heartbeat = matches!(body, Body::Heartbeat(_));
            match self.hosts[n].hear(body) {
                Ok(()) => self.streams[n].iter_mut().for_each(|stream| stream.is_report_due |= is_heartbeat),
                Err(ViewFault::Refused(_)) => return self.lose(n),
                Err(fault) => panic!("n{n}: a server that is right has said: {fault}"),
            }
        }
    }

    fn report(&mut self, n: usize) {
        let Some(stream) = &mut self.streams[n] else { return };
        if let Some(report) = self.hosts[n].report(stream.is_report_due) {
            stream.is_report_due = false;
            // Reports are state: a full one may be said twice.
            if report.is_full && self.random.chance(20) {
                stream.up.push_back(report.clone());
            }
            stream.up.push_back(report);
        }
    }

    fn hear_report(&mut self, n: usize) {
        let (Some(server), Some(stream)) = (&mut self.server, &mut self.streams[n]) else { return };
        if let Some(followed) = &stream.followed
            && let Some(report) = stream.up.pop_front()
        {
            server.views.report(followed, &report);
            server.begin_writing();
        }
    }

    // Machines.

    fn work(&mut self, n: usize) {
        let taking = match self.random.below(20) {
            0 => Taking::Not,
            1 => Taking::Unheard,
            _ => Taking::Well,
        };
        self.hosts[n].work(taking);
    }

    /// Something is started on a machine: mostly where it belongs.
    fn plug(&mut self, n: usize) {
        let (state, host) = (self.latest(), &self.hosts[n]);
        let is_astray = self.random.chance(5);
        let is_at_home = |port: &Port| is_astray || port.home().is_none_or(|home| *home == host.name);
        let fits = |port: &&Port| !port.is_homeless() && !host.has_interface_of(port.id) && is_at_home(port);
        let port = self.random.pick(state.all::<Port>().filter(fits)).map(|port| port.id);
        port.into_iter().for_each(|port| self.hosts[n].plug(port));
    }

    /// Something is stopped: what is no port any more, or, now and then, anything.
    fn unplug(&mut self, n: usize) {
        let (state, host) = (self.latest(), &self.hosts[n]);
        let is_any = self.random.chance(20);
        let is_no_port = |interface: &&Interface| {
            let port = interface.iface_id.as_ref().and_then(|id| id.parse().ok());
            is_any || port.is_none_or(|port| state.port(port).is_none())
        };
        let name = self.random.pick(host.interfaces.values().filter(is_no_port)).map(|interface| interface.name.clone());
        name.iter().for_each(|name| self.hosts[n].unplug(name));
    }

    // The end.

    /// The faults stop: everything that waits happens, until nothing does.
    pub fn settle(&mut self) {
        self.store.fail_next(None);
        if self.server.is_none() {
            self.start_server();
        }
        for _ in 0..ROUNDS_MAX {
            if !self.round() {
                return;
            }
        }
        panic!("the cluster does not come to rest in {ROUNDS_MAX} rounds without faults");
    }

    /// Everybody does everything once. True if anything changed.
    fn round(&mut self) -> bool {
        let before = self.latest().revision();
        let mut is_busy = !self.edits.is_empty();
        while self.server.as_mut().expect("it was started").writer.turn() > 0 {}
        self.write();
        while self.server.as_ref().is_some_and(|server| !server.stale.is_empty()) {
            self.see_the_end();
        }
        let server = self.server.as_mut().expect("it was started");
        server.views.retry_now();
        while server.views.take_in(1) > 0 {}
        server.begin_writing();
        is_busy |= server.writing.is_some();
        for n in 0..NODES {
            is_busy |= self.streams[n].is_none();
            self.connect(n);
            (0..3).for_each(|_| self.speak(n));
            self.heartbeat(n);
            while self.streams[n].as_ref().is_some_and(|stream| !stream.down.is_empty()) {
                self.deliver(n);
            }
            is_busy |= self.hosts[n].take_view();
            is_busy |= self.hosts[n].work(Taking::Well);
            self.hosts[n].work(Taking::Well);
            self.report(n);
            while self.streams[n].as_ref().is_some_and(|stream| !stream.up.is_empty()) {
                self.hear_report(n);
            }
        }
        self.write();
        is_busy || self.latest().revision() != before
    }

    /// Fails unless every machine is as a fresh one would be and the server knows what is true.
    pub fn assert_converged(&self) {
        let server = self.server.as_ref().expect("it was started");
        let state = server.core.state();
        let mut views = ByHand::new(server.core.clone());
        for host in &self.hosts {
            let name = &host.name;
            let view: BTreeMap<ObjectKey, Object> =
                closure(&state, name).into_iter().map(|key| (key, shown(state.object(key).expect("in the closure")))).collect();
            let replica: BTreeMap<ObjectKey, Object> = host.replica.objects().map(|object| (object.key(), (**object).clone())).collect();
            assert_eq!(replica, view, "{name}: the view");
            let conflicts: Vec<String> = host.engine.conflicts().map(|conflict| format!("{conflict}")).collect();
            assert!(conflicts.is_empty() || !self.is_tidy, "{name}: {}", conflicts.join("\n"));
            host.assert_as_fresh(fresh_view(&mut views, host));
        }
        for port in state.all::<Port>() {
            self.assert_told(port);
        }
        assert_nothing_twice(&state);
    }

    /// The server says of the port what is true on the machines.
    fn assert_told(&self, port: &Port) {
        if port.is_homeless() {
            return;
        }
        let has_it = |host: &&Host| host.has_interface_of(port.id);
        if port.host.is_none() {
            let claim = port.claimed_by.as_ref();
            let is_right = match claim {
                Some(claim) => self.hosts.iter().filter(has_it).any(|host| host.name == *claim),
                None => !self.hosts.iter().any(|host| has_it(&host)),
            };
            assert!(is_right, "port {} is claimed by {claim:?}", port.id);
        }
        let is_there = self.hosts.iter().filter(has_it).any(|host| Some(&host.name) == port.home());
        let expected = if is_there && port.is_admin_up { PortStatus::Active } else { PortStatus::Down };
        assert_eq!(port.status, expected, "port {} at {:?}", port.id, port.home());
    }
}

impl Server {
    fn begin_writing(&mut self) {
        if self.writing.is_some() {
            return;
        }
        if let Some(writing) = self.views.write() {
            let mut writing: Pending<_> = Box::pin(writing);
            match poll(&mut writing) {
                Some(wrote) => self.views.wrote(wrote),
                None => self.writing = Some(writing),
            }
        }
    }
}

/// What a node with nothing gets.
fn fresh_view(views: &mut ByHand, host: &Host) -> ViewUpdate {
    let hello = Hello { revision: 0, interest_hash: 0, ..host.hello() };
    let mut followed = views.connect(&hello).expect("a node's Hello makes sense");
    let mut replica = Replica::default();
    let updates = views.catch_up(&mut followed, None).into_iter().filter_map(|body| replica.apply(body).expect("a whole snapshot"));
    updates.last().expect("a snapshot has an end")
}

/// One address, one MAC, one key is never two ports'.
fn assert_nothing_twice(state: &State) {
    let mut taken = std::collections::BTreeSet::new();
    for port in state.all::<Port>() {
        assert!(taken.insert(format!("key {}", port.key)), "key {} twice", port.key);
        assert!(taken.insert(format!("{} {}", port.network, port.mac)), "MAC {} twice on network {}", port.mac, port.network);
        for ip in port.addresses() {
            assert!(taken.insert(format!("{} {ip}", port.network)), "{ip} twice on network {}", port.network);
        }
    }
}
