//! The task that owns the views: one at a time it takes in commits, nodes that come and go, and what they report.
//!
//! It never waits for a node or for the disk: what nodes are to get goes into their [`Outbox`]es, what is to be written goes to
//! the writer in batches ([`write`]), and whatever takes long (catching up, snapshots) is done by the node's own task.

mod standing;
mod tunnels;
mod write;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use model::{Kind, Node, NodeId, NodeName, NodeStream, Object, ObjectKey, Port, PortId, Revision, StoreId};
use rustc_hash::FxHashMap;
use stream::InterestHash;
use stream::wire::Report;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::concerns::Concerns;
use super::interest::{Effect, Interest, News};
use super::outbox::{Outbox, Part};
use super::reports::{Claims, Reports};
use super::shown::Encoder;
use crate::state::{Change, Commit, State};
use crate::writer::{Core, Subscription, WriteError, Written};

pub use standing::{Lag, Question, Standing};
pub use tunnels::AddressTaken;
use tunnels::{Tunnels, check_addresses};
#[cfg(test)]
pub use write::RETRY_AFTER;
use write::Retry;
pub use write::{Batch, STATUS_BATCH_MAX, forget};

/// A node that was here with a view of another store is listed for a day after it was here last.
pub const STRANGER_SECS_MAX: i64 = 86_400;

pub type SessionId = u64;

/// What the owner is told and asked.
pub enum Message {
    /// A node opens a stream.
    Connect {
        facts: Node,
        answer: oneshot::Sender<Result<Admission, AddressTaken>>,
    },
    /// A node was here that follows another store.
    Stranger {
        facts: Node,
        store: StoreId,
    },
    Report {
        node: NodeName,
        session: SessionId,
        report: Report,
    },
    Disconnect {
        node: NodeName,
        session: SessionId,
    },
    /// What the latest batch came to.
    Wrote {
        batch: Batch,
        result: Result<Written<Vec<AddressTaken>>, WriteError>,
    },
    Ask {
        answer: oneshot::Sender<Picture>,
    },
    /// How far nodes are.
    HowFar {
        question: Question,
        answer: oneshot::Sender<Option<Standing>>,
    },
    /// The operator says that a node does not come back.
    Forget {
        node: NodeName,
        answer: oneshot::Sender<Forgotten>,
    },
    #[cfg(test)]
    Break,
}

/// What came of forgetting a node.
pub enum Forgotten {
    /// Its report is dropped. What the state has of it is to be written with [`forget`].
    Done(Reports),
    IsConnected,
    IsUnknown,
}

/// What a node's stream starts from: nothing is missed between this and what comes into the outbox.
pub struct Admission {
    pub session: SessionId,
    pub state: Arc<State>,
    /// Of the node's view. Its keys are computed when it is the node's turn: on a flat network, they are as many as its nodes.
    pub hash: InterestHash,
    pub outbox: Arc<Outbox>,
}

/// Everything at one moment, for the operator's questions.
pub struct Picture {
    /// Who this server is, where others share the store.
    pub server: Option<Uuid>,
    pub state: Arc<State>,
    pub reports: Reports,
    pub nodes: BTreeMap<NodeName, NodePicture>,
    pub strangers: BTreeMap<NodeName, Stranger>,
}

/// A node that was here last with a view of another store.
#[derive(Clone, Debug)]
pub struct Stranger {
    pub facts: Node,
    pub store: StoreId,
    pub last_seen: Timestamp,
}

/// A node as this server knows it.
#[derive(Clone, Debug)]
pub struct NodePicture {
    pub is_connected: bool,
    /// What concerns it is not in force there.
    pub is_behind: bool,
    /// When the stream was opened or lost.
    pub since: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
    pub in_force: Revision,
    /// Its stream leads to another server, which knows more.
    pub elsewhere: Option<NodeStream>,
}

#[derive(Default)]
struct Track {
    session: Option<(SessionId, Arc<Outbox>)>,
    /// Where the node's tunnels end, as its stream says. None without a stream.
    addresses: Vec<IpAddr>,
    since: Option<Timestamp>,
    last_seen: Option<Timestamp>,
    concerns: Concerns,
}

pub struct Owner {
    core: Core,
    messages: mpsc::Receiver<Message>,
    /// For the answers of writes; weak, or the owner would keep itself alive.
    own: mpsc::WeakSender<Message>,
    subscription: Subscription,
    state: Arc<State>,
    interest: Interest,
    encoder: Arc<Encoder>,
    reports: Reports,
    nodes: BTreeMap<NodeName, Track>,
    /// The `addresses` of all `nodes`.
    tunnels: Tunnels,
    strangers: BTreeMap<NodeName, Stranger>,
    names: BTreeMap<NodeId, NodeName>,
    /// What may have to be written.
    dirty_ports: BTreeSet<PortId>,
    dirty_nodes: BTreeMap<NodeName, Node>,
    is_writing: bool,
    /// What was written last is visible from here on: until then, decisions would repeat themselves.
    write_from: Revision,
    retry: Retry,
    revision: watch::Sender<Revision>,
    progress: watch::Sender<u64>,
    /// The latest `reports`, for others.
    claims: watch::Sender<Reports>,
    next_session: SessionId,
}

/// What others see of the owner's progress.
pub struct Signals {
    pub revision: watch::Receiver<Revision>,
    pub progress: watch::Receiver<u64>,
    pub claims: Claims,
}

impl Owner {
    pub fn new(core: Core, messages: mpsc::Receiver<Message>, own: mpsc::WeakSender<Message>, encoder: Arc<Encoder>) -> (Owner, Signals) {
        let (state, subscription) = core.subscribe();
        let (revision, revision_seen) = watch::channel(state.revision());
        let (progress, progress_seen) = watch::channel(0);
        let (claims, claims_seen) = watch::channel(Reports::default());
        let mut owner = Owner {
            core,
            messages,
            own,
            subscription,
            interest: Interest::default(),
            state,
            encoder,
            reports: Reports::default(),
            nodes: BTreeMap::new(),
            tunnels: Tunnels::default(),
            strangers: BTreeMap::new(),
            names: BTreeMap::new(),
            dirty_ports: BTreeSet::new(),
            dirty_nodes: BTreeMap::new(),
            is_writing: false,
            write_from: Revision::default(),
            retry: Retry::default(),
            revision,
            progress,
            claims,
            next_session: 0,
        };
        owner.begin();
        (owner, Signals { revision: revision_seen, progress: progress_seen, claims: Claims::of(claims_seen) })
    }

    /// Computes everything from the state at hand.
    fn begin(&mut self) {
        self.interest = Interest::of(&self.state);
        let known: Vec<NodeName> = self.state.all::<Node>().map(|node| node.name.clone()).collect();
        known.into_iter().for_each(|node| self.track(&node));
    }

    pub async fn run(mut self) {
        loop {
            tokio::select! {
                commit = self.subscription.next() => match commit {
                    Ok(Some(commit)) => self.commit(&commit),
                    Ok(None) => return,
                    Err(lagged) => self.begin_again(lagged.missed),
                },
                message = self.messages.recv() => match message {
                    Some(message) => self.message(message),
                    None => return,
                },
                () = self.retry.pause() => self.retry.is_over(),
            }
            self.write();
        }
    }

    pub fn message(&mut self, message: Message) {
        match message {
            Message::Connect { facts, answer } => drop(answer.send(self.connect(facts))),
            Message::Stranger { facts, store } if self.nodes.get(&facts.name).is_none_or(|track| track.session.is_none()) => {
                let stranger = Stranger { store, last_seen: Timestamp::now(), facts };
                self.forget_strangers(stranger.last_seen);
                self.strangers.insert(stranger.facts.name.clone(), stranger);
            }
            // It has followed this store meanwhile.
            Message::Stranger { .. } => {}
            Message::Report { node, session, report } => self.report(&node, session, &report),
            Message::Disconnect { node, session } => self.disconnect(&node, session),
            Message::Wrote { batch, result } => self.wrote(batch, result),
            Message::Ask { answer } => {
                self.forget_strangers(Timestamp::now());
                drop(answer.send(self.picture()));
            }
            Message::HowFar { question, answer } => drop(answer.send(self.standing(&question))),
            Message::Forget { node, answer } => drop(answer.send(self.forget(&node))),
            #[cfg(test)]
            Message::Break => panic!("a test breaks the owner"),
        }
    }

    /// Follows what concerns a node from now on. Until it says otherwise it has nothing in force.
    fn track(&mut self, node: &NodeName) {
        self.interest.follow(node);
        self.names.insert(node.id(), node.clone());
        let revision = self.state.revision();
        self.nodes.entry(node.clone()).or_default().concerns.begin(revision);
    }

    fn commit(&mut self, commit: &Commit) {
        if commit.revision <= self.state.revision() {
            return;
        }
        Arc::make_mut(&mut self.state).apply(commit);
        self.encoder.forget(commit.changes.iter().map(|change| change.key));
        let news = self.interest.apply(&commit.changes);
        self.tell(&news, commit.revision);
        commit.changes.iter().for_each(|change| self.note(change));
        self.revision.send_replace(commit.revision);
        self.progress.send_modify(|progress| *progress += 1);
    }

    /// A commit means something for nodes. What it means for one of them is told at once, or it would acknowledge a half for the whole.
    fn tell(&mut self, news: &[News], revision: Revision) {
        let mut told: FxHashMap<NodeId, (Arc<Outbox>, Vec<Arc<Part>>)> = FxHashMap::default();
        for News { effect, nodes } in news {
            let part = LazyCell::new(|| Arc::new(part(effect, &self.state, &self.encoder)));
            for node in nodes {
                let track = self.names.get(node).and_then(|name| self.nodes.get_mut(name)).expect("only tracked nodes are followed");
                track.concerns.push(revision);
                if let Some((_, outbox)) = &track.session {
                    told.entry(*node).or_insert_with(|| (outbox.clone(), Vec::new())).1.push(part.clone());
                }
            }
        }
        told.into_values().for_each(|(outbox, parts)| outbox.push(revision, parts));
    }

    fn note(&mut self, change: &Change) {
        let port = |object| Option::and_then(object, |object: &Arc<model::Object>| <&Port>::try_from(&**object).ok());
        if change.key.kind == Kind::Port {
            self.dirty_ports.insert(PortId(change.key.id));
            if let Some(before) = port(change.before.as_ref()) {
                self.reports.follow(before, port(change.after.as_ref()));
            }
        }
        if let Some(Object::Node(after)) = change.after.as_deref() {
            self.note_stream(change.before.as_deref(), after);
        }
        match (change.before.as_deref(), change.after.as_deref()) {
            (_, Some(model::Object::Node(node))) if !self.nodes.contains_key(&node.name) => self.track(&node.name),
            (Some(model::Object::Node(node)), None) => self.node_deleted(node),
            _ => {}
        }
    }

    /// The stream of a session, as other servers are told.
    fn stream(&self, session: SessionId) -> Option<NodeStream> {
        self.core.server().map(|server| NodeStream { server, number: session })
    }

    /// The latest stream that was written counts. A session that was not written yet will be, and is the later one then.
    fn note_stream(&mut self, before: Option<&Object>, after: &Node) {
        if !is_elsewhere(after, self.core.server()) {
            return;
        }
        // It follows this store, wherever.
        self.strangers.remove(&after.name);
        let session = self.nodes.get(&after.name).and_then(|track| track.session.clone());
        let is_written = |session| matches!(before, Some(Object::Node(before)) if before.stream == self.stream(session));
        match session {
            Some((session, _)) if !is_written(session) => return,
            Some((_, outbox)) => outbox.end("the node follows another server"),
            None => {}
        }
        self.reports.went_elsewhere(&after.name);
        self.claims.send_replace(self.reports.clone());
    }

    /// One that has come back meanwhile is there again; any other is nobody's concern now, and what it said here long ago means nothing.
    fn node_deleted(&mut self, node: &Node) {
        if self.nodes.get(&node.name).is_some_and(|track| track.session.is_some()) {
            self.dirty_nodes.entry(node.name.clone()).or_insert_with(|| node.clone());
        } else {
            self.nodes.remove(&node.name);
            self.names.remove(&node.name.id());
            self.interest.unfollow(&node.name);
            self.dirty_ports.extend(self.reports.forget(&node.name));
            self.claims.send_replace(self.reports.clone());
        }
    }

    /// Drops what the node said. It stays known while the state has its object.
    fn forget(&mut self, node: &NodeName) -> Forgotten {
        if self.nodes.get(node).is_some_and(|track| track.session.is_some()) {
            return Forgotten::IsConnected;
        }
        let ports: Vec<PortId> = self.state.ports_at(node.clone()).filter(|port| port.claimed_by.is_some()).map(|port| port.id).collect();
        let is_stranger = self.strangers.remove(node).is_some();
        if !is_stranger && self.state.node(node).is_none() && self.reports.node(node).is_none() && ports.is_empty() {
            return Forgotten::IsUnknown;
        }
        self.dirty_nodes.remove(node);
        self.dirty_ports.extend(self.reports.forget(node));
        self.claims.send_replace(self.reports.clone());
        Forgotten::Done(self.reports.clone())
    }

    /// Nodes of another store that have not been here for long.
    pub fn forget_strangers(&mut self, now: Timestamp) {
        self.strangers.retain(|_, stranger| now.duration_since(stranger.last_seen).as_secs() < STRANGER_SECS_MAX);
    }

    /// Commits were missed. Nodes resume from their own revisions, so they miss nothing.
    pub fn begin_again(&mut self, missed: u64) {
        tracing::warn!("views missed {missed} commits: nodes keep forwarding and resume; the server is overloaded if this repeats");
        let (state, subscription) = self.core.subscribe();
        let before = std::mem::replace(&mut self.state, state);
        self.subscription = subscription;
        before.all::<Port>().for_each(|port| self.reports.follow(port, self.state.port(port.id)));
        self.nodes.values().filter_map(|track| track.session.as_ref()).for_each(|(_, outbox)| outbox.end("the server fell behind"));
        let state = &self.state;
        self.nodes.retain(|name, track| track.session.is_some() || state.node(name).is_some());
        if self.core.server().is_some() {
            let gone: Vec<NodeName> =
                self.reports.nodes().map(|(node, _)| node).filter(|node| !self.nodes.contains_key(node)).cloned().collect();
            gone.iter().for_each(|node| drop(self.reports.forget(node)));
            self.claims.send_replace(self.reports.clone());
        }
        self.begin();
        self.dirty_ports.extend(self.state.all::<Port>().map(|port| port.id));
        self.revision.send_replace(self.state.revision());
    }

    pub fn connect(&mut self, facts: Node) -> Result<Admission, AddressTaken> {
        let node = facts.name.clone();
        check_addresses(&self.state, &facts, &self.tunnels).inspect_err(|taken| tracing::warn!("{taken}"))?;
        let addresses = facts.tunnel_addresses.clone();
        self.strangers.remove(&node);
        self.next_session += 1;
        let facts = Node { stream: self.stream(self.next_session), ..facts };
        if self.state.node(&node) != Some(&facts) {
            self.dirty_nodes.insert(node.clone(), facts);
        }
        self.reports.returned(&node);
        self.track(&node);
        let hash = self.interest.hash(&node);
        let outbox = Arc::new(Outbox::new(hash));
        let track = self.nodes.get_mut(&node).expect("tracked right above");
        self.tunnels.end(&node, &track.addresses);
        self.tunnels.begin(&node, &addresses);
        track.addresses = addresses;
        (track.since, track.last_seen) = (Some(Timestamp::now()), Some(Timestamp::now()));
        if let Some((_, old)) = track.session.replace((self.next_session, outbox.clone())) {
            old.end(format!("node {node} has opened another stream"));
        }
        tracing::info!("node {node} follows its view");
        Ok(Admission { session: self.next_session, state: self.state.clone(), hash, outbox })
    }

    pub fn disconnect(&mut self, node: &NodeName, session: SessionId) {
        if let Some(track) = self.current(node, session) {
            track.session = None;
            track.since = Some(Timestamp::now());
            let addresses = std::mem::take(&mut track.addresses);
            self.tunnels.end(node, &addresses);
            if self.core.server().is_some() {
                // What is not written yet would seem newer than the stream to another server.
                self.dirty_nodes.remove(node);
            }
            tracing::info!("node {node} is gone: its traffic goes on, it gets no changes until it is back");
        }
    }

    /// The node's track, if this is its stream.
    fn current(&mut self, node: &NodeName, session: SessionId) -> Option<&mut Track> {
        self.nodes.get_mut(node).filter(|track| track.session.as_ref().is_some_and(|(id, _)| *id == session))
    }

    pub fn report(&mut self, node: &NodeName, session: SessionId, report: &Report) {
        let Some(track) = self.current(node, session) else { return };
        track.last_seen = Some(Timestamp::now());
        let outbox = track.session.as_ref().map(|(_, outbox)| outbox.clone());
        let refuse = |reason: String| {
            tracing::warn!("a report of node {node} is refused: {reason}");
            outbox.iter().for_each(|outbox| outbox.end(&reason));
        };
        match self.reports.update(node, report) {
            Ok(touched) => {
                if self.current(node, session).is_some_and(|track| track.concerns.acknowledge(Revision(report.revision))) {
                    self.progress.send_modify(|progress| *progress += 1);
                }
                if !touched.is_empty() {
                    self.claims.send_replace(self.reports.clone());
                }
                self.dirty_ports.extend(touched);
            }
            Err(error) => return refuse(error.to_string()),
        }
        if report.is_full {
            self.dirty_ports.extend(self.state.ports_at(node.clone()).map(|port| port.id));
        }
    }

    /// Takes in at most `most` commits that are there already. The number taken.
    pub fn take_in(&mut self, most: usize) -> usize {
        for taken in 0..most {
            match self.subscription.try_next() {
                Ok(Some(commit)) => self.commit(&commit),
                Ok(None) => return taken,
                Err(lagged) => self.begin_again(lagged.missed),
            }
        }
        most
    }

    /// Up to here every node's news is in its outbox.
    pub fn revision(&self) -> Revision {
        self.state.revision()
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// The node's stream, where it leads to another server. One that leads here and is not written yet is the later one.
    fn elsewhere(&self, name: &NodeName, track: &Track) -> Option<NodeStream> {
        let server = self.core.server().filter(|_| track.session.is_none())?;
        self.state.node(name).filter(|node| is_elsewhere(node, Some(server)))?.stream
    }

    fn picture(&self) -> Picture {
        let node = |(name, track): (&NodeName, &Track)| {
            let picture = NodePicture {
                is_connected: track.session.is_some(),
                is_behind: self.is_behind(name, track, self.state.revision()),
                since: track.since,
                last_seen: track.last_seen,
                in_force: track.concerns.in_force(),
                elsewhere: self.elsewhere(name, track),
            };
            (name.clone(), picture)
        };
        Picture {
            server: self.core.server(),
            state: self.state.clone(),
            reports: self.reports.clone(),
            nodes: self.nodes.iter().map(node).collect(),
            strangers: self.strangers.clone(),
        }
    }
}

/// What waits for a node for which `effect` is one.
fn part(effect: &Effect, state: &State, encoder: &Encoder) -> Part {
    let encoded = |keys: &[ObjectKey]| {
        let objects = keys.iter().filter_map(|key| Some((*key, encoder.encode(state.object(*key)?))));
        objects.collect()
    };
    Part::new(encoded(&effect.entered), encoded(&effect.changed), effect.left.clone())
}

/// True if the node's stream leads to another server than this one.
fn is_elsewhere(node: &Node, server: Option<Uuid>) -> bool {
    server.is_some() && node.stream.is_some_and(|stream| Some(stream.server) != server)
}
