//! What is seen of each node while it runs.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// One node.
#[derive(Default)]
pub struct Seen {
    pub number: u32,
    /// The server that it follows, counted from one; 0: none.
    follows: AtomicUsize,
    /// The revision of its view; 0: it has none.
    pub revision: AtomicU64,
    pub objects: AtomicU64,
    pub deltas: AtomicU64,
    /// Since the last question for [`news`]: there was a delta, and what they all weighed.
    pub told: AtomicBool,
    pub delta_bytes: AtomicU64,
    pub snapshots: AtomicU64,
    pub snapshot_bytes: AtomicU64,
    /// Messages that its view could not take.
    pub faults: AtomicU64,
    pub flows: Mutex<Option<Flows>>,
    pub problem: Mutex<String>,
}

/// What a node has computed.
#[derive(Clone, Copy, Serialize, Default)]
pub struct Flows {
    pub flows: u64,
    pub local_ports: u64,
}

/// All nodes together.
#[derive(Serialize, Default)]
pub struct Status {
    nodes: usize,
    connected: u64,
    /// Those that are connected, by their server.
    following: Vec<u64>,
    with_view: u64,
    /// Objects in all views, and those of them that differ.
    objects: u64,
    distinct_objects: usize,
    deltas: u64,
    snapshots: u64,
    snapshot_bytes: u64,
    faults: u64,
    flows: Vec<Flows>,
    /// Why one of those that are not connected is not.
    problem: String,
}

/// What one node was sent.
#[derive(Serialize)]
pub struct News {
    node: u32,
    bytes: u64,
}

impl Seen {
    pub fn of(number: u32) -> Seen {
        Seen { number, ..Seen::default() }
    }

    /// It follows the server at this place of the configuration; None: no server.
    pub fn follow(&self, server: Option<usize>) {
        self.follows.store(server.map_or(0, |place| place + 1), Relaxed);
    }

    fn server(&self) -> Option<usize> {
        self.follows.load(Relaxed).checked_sub(1)
    }
}

pub fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Relaxed);
}

pub fn status(seen: &[Arc<Seen>], servers: usize, distinct_objects: usize) -> Status {
    // Each node is looked at once for both, so that they say the same.
    let mut following = vec![0; servers];
    seen.iter().filter_map(|node| node.server()).for_each(|server| following[server] += 1);
    let sum = |field: fn(&Seen) -> &AtomicU64| seen.iter().map(|node| field(node).load(Relaxed)).sum::<u64>();
    let problem = |node: &Arc<Seen>| node.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Status {
        nodes: seen.len(),
        connected: following.iter().sum(),
        following,
        with_view: seen.iter().filter(|node| node.revision.load(Relaxed) > 0).count() as u64,
        objects: sum(|node| &node.objects),
        distinct_objects,
        deltas: sum(|node| &node.deltas),
        snapshots: sum(|node| &node.snapshots),
        snapshot_bytes: sum(|node| &node.snapshot_bytes),
        faults: sum(|node| &node.faults),
        flows: seen.iter().filter_map(|node| *node.flows.lock().unwrap_or_else(PoisonError::into_inner)).collect(),
        problem: seen.iter().filter(|node| node.server().is_none()).map(problem).next().unwrap_or_default(),
    }
}

/// Those that were sent deltas, and empties the counters of these.
pub fn news(seen: &[Arc<Seen>]) -> Vec<News> {
    let has_news = |node: &&Arc<Seen>| node.told.swap(false, Relaxed);
    let of = |node: &Arc<Seen>| News { node: node.number, bytes: node.delta_bytes.swap(0, Relaxed) };
    seen.iter().filter(has_news).map(of).collect()
}
