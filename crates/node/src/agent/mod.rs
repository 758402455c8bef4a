//! The one task that decides what the switch should do.
//!
//! It owns the [`Engine`], and with it the view, what is attached, and every desired flow. What comes in (changes of the view,
//! interfaces that appear on the bridge, a switch that connects) becomes changes of the engine; the difference that comes out
//! waits in [`Pending`] until the switch has taken the previous one, so that changes merge while the switch is busy and nothing
//! here waits for the switch. What others need to know is published: the ports that live here ([`Local`]), and which of them have
//! their flows in the switch ([`InForce`]).
//!
//! Level-triggered: a switch that was away, a commit that failed and flows that somebody else changed all lead to the same
//! thing, a comparison of everything desired with everything installed.

pub mod attach;
mod disturbed;
pub mod explain;
mod half;
pub mod pending;
mod work;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apps::{Attachment, Change, Engine, Here, Numbers, Work};
use imbl::OrdMap;
use model::{Kind, NodeName, ObjectKey, PortId, Revision};
use openflow::CtFlush;
use pipeline::{Fingerprint, Generation, OfPort, Reason};
use stream::describe;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::bridge::Interfaces;
use crate::connections::{self, Affected, Case, Outbox};
use crate::local::{Concerned, Local};
use crate::pauses::Pauses;
use crate::record::{Record, RecordError};
use crate::switch::{CommitError, Switch};
use crate::translate;
use crate::view::{Facts, ViewUpdate};
use crate::zones::Zones;
use attach::Plugs;
use disturbed::Disturbed;
use explain::Explained;
use half::{Half, Installed};
use pending::{Pending, Unwritable};
use work::{Busy, Done, carry_out, desired, finished, put_right};

/// Which ports' flows are in the switch, and up to which revision.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InForce {
    pub revision: Revision,
    /// Ports of this node with the interface for which their flows were written.
    pub ports: OrdMap<PortId, OfPort>,
    /// True once the switch was compared with a complete view.
    pub is_complete: bool,
    /// Flows and groups that the switch refuses. As long as there are any, no later revision is in force.
    pub refused: usize,
}

/// How much there is, and how much was done for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Flows that are desired.
    pub flows: usize,
    pub local_ports: usize,
    pub work: Work,
    /// See [`Desired::is_in_force`].
    pub is_in_force: bool,
}

/// What the switch should do.
#[derive(Debug)]
pub struct Desired {
    /// Every flow, with the objects that it is there for.
    pub flows: Vec<Explained>,
    /// The switch is there, and was made to do so since it was connected last.
    pub is_in_force: bool,
}

/// A question to the agent.
#[derive(Debug)]
pub enum Ask {
    /// Every desired flow, with the objects it is there for.
    Flows(oneshot::Sender<Desired>),
    /// How much there is, and how much was done for it.
    Counts(oneshot::Sender<Counts>),
    /// Which zones are whose.
    Zones(oneshot::Sender<Zones>),
    /// What is attached here.
    Attachments(oneshot::Sender<Arc<[Attachment]>>),
    /// Which of these connections have to end.
    Judge(Case, oneshot::Sender<Vec<CtFlush>>),
    /// The switch's tunnel interface has this number now.
    Tunnel(OfPort),
}

/// What the agent is fed with.
pub struct Feeds {
    pub view: mpsc::Receiver<ViewUpdate>,
    pub interfaces: watch::Receiver<Option<Arc<Interfaces>>>,
    pub switch: mpsc::Receiver<SwitchNews>,
    pub asks: mpsc::Receiver<Ask>,
}

/// What the agent must know of the connection to the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwitchNews {
    /// Whatever happened before is unknown: everything must be compared.
    Connected,
    Disconnected,
    /// Somebody else changed flows.
    Disturbed,
}

/// What the agent publishes.
#[derive(Clone)]
pub struct Published {
    pub local: watch::Sender<Arc<Local>>,
    pub in_force: watch::Sender<Arc<InForce>>,
    /// What the server is told.
    pub facts: watch::Sender<Option<Arc<Facts>>>,
    /// Ports whose connections have to be judged, once the flows of the change are in force.
    pub affected: Outbox,
    /// The half of the switch's tables that holds this release's pipeline and is in force. Other tables' registers mean something else.
    pub half: watch::Sender<Option<Generation>>,
}

/// A retry of a refused commit waits this long, doubled each time, up to the ceiling.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest wait before a refused commit is tried again.
const RETRY_CEILING: Duration = Duration::from_secs(5);
/// What the switch refused is tried again so often: its table may have been full.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);
/// Groups and meters are read again so often, should a switch not tell that others changed them.
const GROUPS_AGAIN: Duration = Duration::from_secs(15);
/// Changes of the view that are taken together at most; the others follow.
const BATCH_MAX: usize = 256;

/// The agent's state.
pub struct Agent {
    node: NodeName,
    engine: Engine,
    plugs: Plugs,
    /// What is attached, as others see it.
    attached: OrdMap<PortId, OfPort>,
    local: Local,
    zones: Zones,
    zones_record: Record,
    numbers_record: Record,
    numbers_saved: u64,
    here: Here,
    switch: Switch,
    half: Half,
    is_connected: bool,
    /// It was compared with everything desired since it was connected, and made equal to that.
    is_compared: bool,
    /// What the switch has, read while the view is on its way: nothing is written before it is used.
    installed: Option<Installed>,
    /// Somebody else has changed flows since it was read.
    is_installed_old: bool,
    disturbed: Disturbed,
    /// What must be known before flows of the switch are changed for the first time: otherwise a restart would take away those that
    /// are right.
    known: Known,
    revision: Revision,
    pending: Pending,
    /// The groups and meters are to be read when the switch has nothing else to do.
    is_groups_turn: bool,
    /// What the changes affect that wait in `pending`, and what those affect that the switch is busy with.
    affected: Affected,
    affected_by_busy: Affected,
    busy: Option<Busy>,
    retries: Pauses,
    retry_at: Option<tokio::time::Instant>,
    published: Published,
}

/// What the agent knows already. Once known, always known.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// A complete view, from disk or from a server.
    view: bool,
    /// The interfaces on the bridge.
    interfaces: bool,
    /// The tunnel's interface.
    tunnel: bool,
}

impl Known {
    fn is_complete(self) -> bool {
        self.view && self.interfaces && self.tunnel
    }
}

/// A node that cannot even start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("reading what the node remembers")]
    Record(#[from] RecordError),
}

impl Agent {
    /// An agent that remembers what `state_dir` holds and whose pipeline has the number `own`.
    pub fn new(
        node: NodeName,
        addresses: Vec<IpAddr>,
        state_dir: &Path,
        switch: Switch,
        own: Fingerprint,
        published: Published,
    ) -> Result<Agent, AgentError> {
        let zones_record = Record::new(state_dir, "zones.json")?;
        let numbers_record = Record::new(state_dir, "numbers.json")?;
        let numbers: Numbers = numbers_record.load()?;
        let here = Here { node: node.clone(), tunnel_addresses: addresses, tunnel_port: None };
        Ok(Agent {
            node,
            numbers_saved: numbers.changes(),
            engine: Engine::new(apps::ALL, numbers),
            plugs: Plugs::default(),
            attached: OrdMap::new(),
            local: Local::default(),
            zones: zones_record.load()?,
            zones_record,
            numbers_record,
            here,
            switch,
            half: Half::new(own),
            is_connected: false,
            is_compared: false,
            installed: None,
            is_installed_old: false,
            disturbed: Disturbed::default(),
            known: Known::default(),
            revision: Revision::default(),
            pending: Pending::default(),
            is_groups_turn: false,
            affected: Affected::default(),
            affected_by_busy: Affected::default(),
            busy: None,
            retries: Pauses::new(RETRY_FIRST, RETRY_CEILING),
            retry_at: None,
            published,
        })
    }

    /// Runs until its feeds end.
    pub async fn run(mut self, mut feeds: Feeds) {
        feeds.interfaces.mark_changed();
        let mut again = tokio::time::interval(REFUSED_AGAIN);
        let mut groups = tokio::time::interval(GROUPS_AGAIN);
        groups.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                update = feeds.view.recv() => match update {
                    Some(update) => self.see_view(update, &mut feeds.view),
                    None => return,
                },
                changed = feeds.interfaces.changed() => match changed {
                    Ok(()) => {
                        let now = feeds.interfaces.borrow_and_update().clone();
                        if let Some(now) = now {
                            self.see_interfaces(now);
                        }
                    }
                    Err(_) => return,
                },
                news = feeds.switch.recv() => match news {
                    Some(news) => self.see_switch(news),
                    None => return,
                },
                ask = feeds.asks.recv() => match ask {
                    Some(ask) => self.answer(ask),
                    None => return,
                },
                done = finished(&mut self.busy) => self.finish(done),
                () = at(self.retry_at) => self.retry_at = None,
                () = at(self.disturbed.due()) => {
                    self.disturbed.taken();
                    self.pending.compare_everything();
                }
                () = at(self.half.clear_at()) => {
                    self.half.clear_now();
                    self.pending.compare_everything();
                }
                _ = again.tick() => if self.pending.leaves_out() { self.pending.compare_everything() },
                _ = groups.tick() => self.is_groups_turn = true,
            }
            self.start_next();
        }
    }

    fn see_view(&mut self, first: ViewUpdate, more: &mut mpsc::Receiver<ViewUpdate>) {
        let mut updates = vec![first];
        while updates.len() < BATCH_MAX
            && let Ok(update) = more.try_recv()
        {
            updates.push(update);
        }
        let mut changes = Vec::new();
        for update in updates {
            self.known.view |= update.is_complete_snapshot;
            self.revision = update.revision;
            changes.extend(update.removals.into_iter().map(Change::Remove));
            changes.extend(update.upserts.into_iter().map(Change::Put));
        }
        self.change(changes);
    }

    fn see_interfaces(&mut self, interfaces: Arc<Interfaces>) {
        self.plugs.see((*interfaces).clone());
        self.known.interfaces = true;
        self.change(Vec::new());
        self.publish_facts();
    }

    fn see_switch(&mut self, news: SwitchNews) {
        match news {
            SwitchNews::Connected => {
                (self.is_connected, self.is_compared) = (true, false);
                self.forget_installed();
                self.pending.compare_everything();
            }
            SwitchNews::Disconnected => {
                (self.is_connected, self.is_compared) = (false, false);
                self.forget_installed();
            }
            SwitchNews::Disturbed => {
                self.is_installed_old = self.installed.is_some() || matches!(self.busy, Some(Busy::Telling(_)));
                self.disturbed.seen();
            }
        }
    }

    /// What was read through another connection may be another switch's.
    fn forget_installed(&mut self) {
        (self.installed, self.is_installed_old) = (None, false);
        if let Some(Busy::Telling(task)) = self.busy.take_if(|busy| matches!(busy, Busy::Telling(_))) {
            task.abort();
        }
    }

    /// Makes `changes` true, and everything that follows from them on this node.
    fn change(&mut self, changes: Vec<Change>) {
        for change in &changes {
            self.plugs.note_home(&self.node, change);
        }
        self.affected.merge(connections::affected(self.engine.view(), &changes));
        let mut concerned = Concerned::default();
        self.update(changes, &mut concerned);
        let attachments = self.attachment_changes();
        self.update(attachments, &mut concerned);
        if self.local.follow(self.engine.view(), self.plugs.homes(), &concerned).different > 0 {
            self.published.local.send_replace(Arc::new(self.local.clone()));
        }
    }

    /// Changes the view, and lets the desired flows follow.
    fn update(&mut self, changes: Vec<Change>, concerned: &mut Concerned) {
        if changes.is_empty() {
            return;
        }
        concerned.add(self.engine.view(), &changes);
        for change in &changes {
            match change {
                Change::Attach(one) => drop(self.attached.insert(one.port, one.ofport)),
                Change::Detach(port) => drop(self.attached.remove(port)),
                _ => {}
            }
        }
        // Until the half is known nothing was written, and then everything is compared.
        match self.half.written() {
            Some(half) => {
                let delta = self.engine.update(changes.iter().cloned());
                self.pending.merge(delta, half);
            }
            None => self.engine.load(changes.iter().cloned()),
        }
        concerned.add(self.engine.view(), &changes);
    }

    fn attachment_changes(&mut self) -> Vec<Change> {
        let settled = self.plugs.settle(self.engine.view(), &mut self.zones, self.known.is_complete());
        // A port that was away may have missed changes that end its connections. (A node that was away judges all of them.)
        if self.published.in_force.borrow().is_complete {
            self.affected.merge(Affected::of_ports(settled.back));
        }
        self.pending.flush(settled.taken);
        self.pending.save_zones |= settled.is_freed || settled.is_reserved;
        settled.changes
    }

    /// Gives the switch what it lacks, if it is there and has taken everything before.
    fn start_next(&mut self) {
        if self.busy.is_some() || !self.is_connected || self.retry_at.is_some() {
            return;
        }
        if self.half.written().is_none() && self.installed.is_none() {
            let switch = self.switch.clone();
            self.busy = Some(Busy::Telling(tokio::spawn(async move { Installed::read(&switch).await })));
            return;
        }
        if !self.known.is_complete() {
            return;
        }
        let Some(half) = self.half() else { return };
        if self.pending.is_empty() {
            self.publish_in_force(self.would_be_in_force());
            self.published.affected.put(std::mem::take(&mut self.affected));
            // What was given back may have changed no flow.
            if let Err(error) = self.save() {
                return self.cannot_save(&error);
            }
            // The switch has what is desired and nothing else: no flow in it has a number that nothing needs.
            if self.engine.has_many_numbers() {
                self.engine.forget_numbers();
            }
            if std::mem::take(&mut self.is_groups_turn) {
                self.look_at_groups(half);
            }
            return;
        }
        if let Err(error) = self.save() {
            return self.cannot_save(&error);
        }
        let (engine, own) = (&self.engine, self.half.own());
        let mut unwritable = Unwritable::default();
        let job = self.pending.take(|| desired(engine, half, own, &mut unwritable));
        self.pending.note_unwritable(unwritable);
        let in_force = self.would_be_in_force();
        self.affected_by_busy.merge(std::mem::take(&mut self.affected));
        if job.everything.is_some() {
            self.affected_by_busy.everything = true;
            self.disturbed.comparison_begins();
        }
        let work = carry_out(self.switch.clone(), job, self.installed.take(), half, self.half.is_drained());
        self.busy = Some(Busy::Taking(tokio::spawn(work), in_force));
        if std::mem::take(&mut self.is_installed_old) {
            self.pending.compare_everything();
        }
    }

    /// The half of the switch that is written, once it is known what the switch has.
    fn half(&mut self) -> Option<Generation> {
        if let Some(half) = self.half.written() {
            return Some(half);
        }
        let (half, is_in_force) = self.half.read(self.installed.as_ref()?);
        self.published.half.send_if_modified(|old| is_in_force && old.replace(half) != Some(half));
        Some(half)
    }

    fn cannot_save(&mut self, error: &RecordError) {
        tracing::error!(error = describe(error), "what the node must remember cannot be kept; flows do not change until it can");
        self.back_off();
    }

    fn look_at_groups(&mut self, half: Generation) {
        let groups = self.engine.groups().map(|group| translate::group(group, half));
        let work = put_right(self.switch.clone(), half, self.pending.without_refused(groups), self.pending.stuck());
        self.busy = Some(Busy::Taking(tokio::spawn(work), self.would_be_in_force()));
    }

    fn would_be_in_force(&self) -> InForce {
        let refused = self.pending.refused_objects();
        let is_refused = |port: PortId| refused.contains(&Reason::Object(ObjectKey::new(Kind::Port, port)).number());
        let mut ports = self.attached.clone();
        if !refused.is_empty() {
            ports = ports.into_iter().filter(|(port, _)| !is_refused(*port)).collect();
        }
        let refused = self.pending.left_out();
        let revision = if refused == 0 { self.revision } else { self.published.in_force.borrow().revision };
        InForce { revision, ports, is_complete: true, refused }
    }

    fn publish_in_force(&self, in_force: InForce) {
        let is_new = publish(&self.published.in_force, in_force);
        if is_new {
            self.publish_facts();
        }
    }

    /// Nothing is told before the switch was compared with a view: until then the node does not know what is true.
    fn publish_facts(&self) {
        let in_force = self.published.in_force.borrow().clone();
        if !in_force.is_complete {
            return;
        }
        let facts = Facts {
            present: self.plugs.present().clone(),
            installed: in_force.ports.clone(),
            revision: in_force.revision,
            refused: in_force.refused,
        };
        self.published.facts.send_if_modified(|old| {
            let is_new = old.as_deref() != Some(&facts);
            if is_new {
                *old = Some(Arc::new(facts));
            }
            is_new
        });
    }

    /// Numbers and zones are kept before flows with them are installed.
    fn save(&mut self) -> Result<(), RecordError> {
        if self.pending.save_zones {
            self.zones_record.save(&self.zones)?;
            self.pending.save_zones = false;
        }
        if self.engine.number_changes() != self.numbers_saved {
            self.numbers_record.save(&self.engine.numbers())?;
            self.numbers_saved = self.engine.number_changes();
        }
        Ok(())
    }

    fn finish(&mut self, done: Done) {
        self.disturbed.comparison_ends();
        match done {
            Done::Told(Ok(installed)) => self.installed = Some(installed),
            Done::Told(Err(error)) => {
                tracing::warn!(error = describe(&error), "the switch does not tell what it has; it is asked again");
                self.back_off();
            }
            Done::Taken(Ok(compared), in_force) => {
                self.retries.start_over();
                if let Some(compared) = compared {
                    // Where the connection is another one meanwhile, everything is to be compared again.
                    self.is_compared = self.is_connected && !self.pending.must_compare();
                    self.half.compared(compared);
                    crate::memory::give_back();
                    self.published.half.send_replace(self.half.written());
                }
                self.pending.carried_out(&mut self.zones);
                self.published.affected.put(std::mem::take(&mut self.affected_by_busy));
                self.publish_in_force(in_force);
            }
            Done::Taken(Err(CommitError::Refused { failures }), _) => {
                if self.pending.leave_out(failures) {
                    // Something was learned: no reason to wait longer than the first time.
                    self.retries.start_over();
                }
                self.pending.failed();
                self.back_off();
            }
            Done::Taken(Err(error), _) => {
                tracing::warn!(error = describe(&error), "the switch did not take a change; everything will be compared");
                self.pending.failed();
                self.pending.compare_everything();
                self.back_off();
            }
        }
    }

    fn back_off(&mut self) {
        self.retry_at = Some(tokio::time::Instant::now() + self.retries.after_failure());
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Flows(answer) => {
                let view = self.engine.view();
                // Nobody waits for the answer any more: nothing to do.
                let flows = self.engine.flows().map(|flow| Explained::new(view, flow)).collect();
                let _ = answer.send(Desired { flows, is_in_force: self.is_compared });
            }
            Ask::Counts(answer) => {
                let (flows, work) = (self.engine.flow_count(), self.engine.work());
                let _ = answer.send(Counts { flows, local_ports: self.plugs.homes().len(), work, is_in_force: self.is_compared });
            }
            Ask::Zones(answer) => {
                let _ = answer.send(self.zones.clone());
            }
            Ask::Attachments(answer) => {
                let _ = answer.send(self.engine.view().attachments().copied().collect());
            }
            Ask::Judge(case, answer) => {
                let _ = answer.send(connections::ended(self.engine.view(), &case));
            }
            Ask::Tunnel(port) => {
                self.here.tunnel_port = Some(port.0);
                self.known.tunnel = true;
                self.change(vec![Change::Here(self.here.clone())]);
            }
        }
    }
}

/// Publishes `value` if it is new; says whether it is.
fn publish<T: PartialEq>(to: &watch::Sender<Arc<T>>, value: T) -> bool {
    to.send_if_modified(|old| {
        let is_new = **old != value;
        if is_new {
            *old = Arc::new(value);
        }
        is_new
    })
}

async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
