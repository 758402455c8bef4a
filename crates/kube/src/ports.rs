//! A port for every pod: the reconciler that compares pods with ports and makes them one to one.
//!
//! A pod that was seen goes into the queue by its uid. What is due together is made by one request; a batch that the server
//! refuses is made one by one, so that a bad pod fails alone. Ports are found again by their owner when this process starts
//! and every few minutes after: whatever was left by a crash is either a pod's or an orphan, and orphans go.
//!
//! Task: one, which owns everything here; requests run beside it and report back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::config::Config;
use crate::events::{Report, Reporter, reference};
use crate::ids::Keys;
use crate::mirror::{Change, Mirror, watch};
use crate::neutron::types::{NewPort, Place, Port};
use crate::neutron::{ApiError, Neutron};
use crate::pod::{DesiredPort, OWNER, desired_port};
use crate::queue::Queue;
use crate::topology::Topology;
use crate::until;

/// Ports in one request; the others follow in the next.
pub const BATCH_MAX: usize = 100;
/// Requests under way; further ones wait.
const REQUESTS_MAX: usize = 16;
/// Single creates under way for one refused batch; further ones wait.
const SINGLES_MAX: usize = 8;
/// A kubelet makes the mirror of a running static pod again when someone deletes it: its port is kept that long.
const STATIC_GRACE: Duration = Duration::from_secs(90);
/// Failures in a row after which a user hears of a server that does not answer.
const SILENT_FAILURES: u32 = 3;
/// Wait after a list that failed.
const LIST_RETRY: Duration = Duration::from_secs(2);

type Uid = String;

/// A port that is there.
struct Actual {
    id: Uuid,
    /// None where the server does not tell.
    place: Option<Box<Place>>,
    /// Number of the list that was the latest when the port was seen or made.
    epoch: u64,
}

/// What a request did.
enum Done {
    Created(Vec<(Uid, Result<Port, ApiError>)>),
    Deleted { uid: Uid, id: Uuid, result: Result<(), ApiError> },
    DuplicateDeleted { id: Uuid, result: Result<(), ApiError> },
}

/// What a list gave, and its number.
struct Listed {
    epoch: u64,
    result: Result<Vec<Port>, ApiError>,
}

/// See the module.
pub struct Ports {
    neutron: Neutron,
    keys: Keys,
    topology: watch::Receiver<Arc<Topology>>,
    reporter: Reporter,
    pods: Mirror<DesiredPort>,
    watch: BoxStream<'static, Event<Pod>>,
    desired: HashMap<Uid, DesiredPort>,
    actual: HashMap<Uid, Actual>,
    queue: Queue<Uid>,
    /// Pods whose port may be there without our knowing: a create was not answered.
    uncertain: HashSet<Uid>,
    /// Pods whose port was refused: they are tried alone, so that they spoil no batch again.
    refused: HashSet<Uid>,
    /// Ports that somebody deleted under running pods: they are made again as they were, while their addresses are free.
    lost: HashMap<Uid, (Uuid, Box<Place>)>,
    /// Second ports of pods, which go.
    duplicates: Vec<Uuid>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// The one list that is under way, or waits to be tried again.
    listing: Option<BoxFuture<'static, Listed>>,
    resync: Interval,
    epoch: u64,
    is_listed: bool,
}

impl Ports {
    pub fn new(client: Client, neutron: Neutron, config: &Config, topology: watch::Receiver<Arc<Topology>>, reporter: Reporter) -> Ports {
        let selector = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";
        let mut resync = tokio::time::interval_at(Instant::now() + config.resync(), config.resync());
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ports {
            neutron,
            keys: Keys::new(&config.cluster),
            topology,
            reporter,
            pods: Mirror::new(),
            watch: watch(Api::all(client), watcher::Config::default().fields(selector), "pods"),
            desired: HashMap::new(),
            actual: HashMap::new(),
            queue: Queue::new(),
            uncertain: HashSet::new(),
            refused: HashSet::new(),
            lost: HashMap::new(),
            duplicates: Vec::new(),
            running: FuturesUnordered::new(),
            listing: None,
            resync,
            epoch: 0,
            is_listed: false,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        loop {
            self.start_due();
            let due = self.queue.next_due().filter(|_| self.is_listed && self.has_room());
            tokio::select! {
                Some(event) = self.watch.next() => self.pod_event(event),
                Some(done) = self.running.next() => self.finished(done),
                listed = finished(&mut self.listing) => self.listed(listed),
                () = until(due) => {}
                _ = self.resync.tick(), if self.is_listed && self.listing.is_none() => self.list(Duration::ZERO),
            }
        }
    }

    fn pod_event(&mut self, event: Event<Pod>) {
        let was_complete = self.pods.is_complete();
        for change in self.pods.apply(event, desired_port) {
            self.pod_changed(change);
        }
        // Ports are listed after pods, so that a port whose pod is not known has no pod.
        if self.pods.is_complete() && !was_complete {
            self.list(Duration::ZERO);
        }
    }

    fn pod_changed(&mut self, change: Change<DesiredPort>) {
        let now = Instant::now();
        let stays = |old: &DesiredPort| change.after.as_ref().is_some_and(|new| new.uid == old.uid);
        if let Some(old) = change.before.as_ref().filter(|old| !stays(old)) {
            self.pod_gone(old.clone(), now);
        }
        let was_told = change.before.map(|old| (old.object_uid, old.unserved));
        if let Some(new) = change.after {
            let is_news = was_told.is_none_or(|(uid, unserved)| uid != new.object_uid || unserved != new.unserved);
            if is_news && !new.unserved.is_empty() {
                self.reporter.warn(limited(&new));
            }
            self.pod_there(new, now);
        }
    }

    fn pod_gone(&mut self, old: DesiredPort, now: Instant) {
        self.lost.remove(&old.uid);
        if self.desired.get(&old.uid).is_some_and(|known| known.name == old.name) {
            self.desired.remove(&old.uid);
            // Only what a mirror says of itself can be said by two.
            let heir = self.pods.iter().map(|(_, pod)| pod).find(|pod| old.is_static && pod.uid == old.uid).cloned();
            self.desired.extend(heir.map(|heir| (heir.uid.clone(), heir)));
        }
        let grace = if old.is_static { STATIC_GRACE } else { Duration::ZERO };
        self.queue.push_fresh(old.uid, now + grace);
    }

    /// The first pod that says to be a static one keeps its port: another that says the same is a mistake or a lie.
    fn pod_there(&mut self, new: DesiredPort, now: Instant) {
        match self.desired.get(&new.uid) {
            Some(known) if known.name != new.name => {
                warn!(
                    pod = new.name,
                    other = known.name,
                    uid = new.uid,
                    "a pod says to be the same static pod as another one; it gets no port"
                );
                self.reporter.warn(impostor(&new));
            }
            _ => {
                self.queue.push_fresh(new.uid.clone(), now);
                self.desired.insert(new.uid.clone(), new);
            }
        }
    }

    /// Whether what is due can be started: the last request under way is for the batch that is gathered meanwhile.
    fn has_room(&self) -> bool {
        self.running.len() + 1 < REQUESTS_MAX
    }

    /// Starts what is due: deletes one by one, creates together.
    fn start_due(&mut self) {
        if !self.is_listed {
            return;
        }
        let now = Instant::now();
        while self.running.len() < REQUESTS_MAX
            && let Some(id) = self.duplicates.pop()
        {
            self.start_delete_duplicate(id);
        }
        let mut batch: Vec<(Uid, Uuid, NewPort)> = Vec::new();
        while self.has_room() && batch.len() < BATCH_MAX {
            let Some(uid) = self.queue.pop(now) else { break };
            match (self.desired.get(&uid), self.actual.get(&uid)) {
                (Some(pod), None) => {
                    let (key, port) = (self.keys.pod(&uid), self.new_port(pod));
                    if self.refused.contains(&uid) {
                        self.start_create(vec![(uid, key, port)]);
                    } else {
                        batch.push((uid, key, port));
                    }
                }
                (None, Some(port)) => self.start_delete(uid, port.id),
                (None, None) if self.uncertain.contains(&uid) => self.start_delete(uid.clone(), self.keys.pod(&uid)),
                (Some(_), Some(_)) | (None, None) => {
                    self.refused.remove(&uid);
                    self.queue.done(&uid);
                }
            }
        }
        if !batch.is_empty() {
            self.start_create(batch);
        }
    }

    fn start_create(&self, batch: Vec<(Uid, Uuid, NewPort)>) {
        self.running.push(create(self.neutron.clone(), batch).map(Done::Created).boxed());
    }

    fn new_port(&self, pod: &DesiredPort) -> NewPort {
        let topology = self.topology.borrow();
        NewPort {
            network_id: topology.pod_network,
            name: pod.port_name(),
            device_owner: OWNER,
            device_id: pod.uid.clone(),
            host: pod.host.clone(),
            security_groups: vec![topology.group],
            allowed_address_pairs: Vec::new(),
            place: self.lost.get(&pod.uid).map(|(_, place)| Place::clone(place)),
            project_id: self.neutron.project().map(str::to_owned),
        }
    }

    fn start_delete(&self, uid: Uid, id: Uuid) {
        let neutron = self.neutron.clone();
        let delete = async move {
            let result = neutron.delete_port(id).await;
            Done::Deleted { uid, id, result }
        };
        self.running.push(delete.boxed());
    }

    fn start_delete_duplicate(&self, id: Uuid) {
        let neutron = self.neutron.clone();
        let delete = async move {
            let result = neutron.delete_port(id).await;
            Done::DuplicateDeleted { id, result }
        };
        self.running.push(delete.boxed());
    }

    /// Lists all ports. A list that is under way is given up for it: it may have begun too early.
    fn list(&mut self, after: Duration) {
        self.epoch += 1;
        let (neutron, network, epoch) = (self.neutron.clone(), self.topology.borrow().pod_network, self.epoch);
        let list = async move {
            tokio::time::sleep(after).await;
            let result = neutron.ports_of_owner(network, OWNER).await;
            Listed { epoch, result }
        };
        self.listing = Some(list.boxed());
    }

    fn finished(&mut self, done: Done) {
        match done {
            Done::Created(results) => results.into_iter().for_each(|(uid, result)| self.created(uid, result)),
            Done::Deleted { uid, id, result: Ok(()) } => {
                debug!(uid, port = %id, "freed a pod's port");
                self.actual.remove(&uid);
                self.uncertain.remove(&uid);
                self.refused.remove(&uid);
                self.queue.done(&uid);
            }
            Done::Deleted { uid, id, result: Err(error) } => {
                warn!(uid, port = %id, %error, "cannot free a pod's port; trying again");
                self.queue.failed(&uid, Instant::now());
            }
            Done::DuplicateDeleted { id, result: Err(error) } => warn!(port = %id, %error, "cannot delete a second port of a pod"),
            Done::DuplicateDeleted { .. } => {}
        }
    }

    fn created(&mut self, uid: Uid, result: Result<Port, ApiError>) {
        match result {
            Ok(port) => {
                debug!(uid, port = %port.id, "a pod has its port");
                let (id, place) = (port.id, Place::of(&port).map(Box::new));
                if let Some((old, _)) = self.lost.remove(&uid).filter(|(old, was)| *old != id || place.as_ref() != Some(was)) {
                    warn!(uid, port = %id, %old, "a pod's port was made again and is another one");
                    if let Some(pod) = self.desired.get(&uid) {
                        self.reporter.warn(replaced(pod));
                    }
                }
                self.actual.insert(uid.clone(), Actual { id, place, epoch: self.epoch });
                self.uncertain.remove(&uid);
                self.refused.remove(&uid);
                self.queue.done(&uid);
            }
            Err(error) => {
                let failures = self.queue.failed(&uid, Instant::now());
                let suspects = if error.is_refusal() { &mut self.refused } else { &mut self.uncertain };
                suspects.insert(uid.clone());
                let Some(pod) = self.desired.get(&uid) else { return };
                debug!(pod = pod.name, %error, failures, "no port");
                // Somebody else has the addresses, or may have: the pod gets others.
                if error.is_refusal() && self.lost.remove(&uid).is_some() {
                    return self.reporter.warn(replaced(pod));
                }
                if error.is_refusal() || failures >= SILENT_FAILURES {
                    self.reporter.warn(failure(pod, &error));
                }
            }
        }
    }

    fn listed(&mut self, Listed { epoch, result }: Listed) {
        match result {
            Ok(ports) => self.compare(epoch, ports),
            Err(error) => {
                warn!(%error, advice = error.advice(), "cannot list the pods' ports; trying again");
                self.list(LIST_RETRY);
            }
        }
    }

    /// Compares all ports with all pods. Ports that were made or freed while the list was read are left to the next one.
    fn compare(&mut self, epoch: u64, ports: Vec<Port>) {
        let now = Instant::now();
        let (kept, duplicates) = self.one_each(ports);
        let before: HashSet<Uid> = self.actual.keys().cloned().collect();
        for (uid, port) in &kept {
            if !before.contains(uid) && !self.queue.is_running(uid) {
                self.actual.insert(uid.clone(), Actual { id: port.id, place: Place::of(port).map(Box::new), epoch });
                // A static pod whose mirror is not there may be about to get it back.
                self.queue.push(uid.clone(), now);
            }
        }
        let is_lost = |uid: &Uid, port: &Actual| port.epoch < epoch && !kept.contains_key(uid) && !self.queue.is_running(uid);
        let lost: Vec<Uid> = self.actual.iter().filter(|(uid, port)| is_lost(uid, port)).map(|(uid, _)| uid.clone()).collect();
        for uid in lost {
            warn!(uid, "a pod's port was deleted by someone else; making it again");
            match (self.desired.get(&uid), self.actual.remove(&uid)) {
                (Some(_), Some(Actual { id, place: Some(place), .. })) => drop(self.lost.insert(uid.clone(), (id, place))),
                (Some(pod), _) => self.reporter.warn(replaced(pod)),
                (None, _) => {}
            }
            self.queue.push(uid, now);
        }
        let orphans = self.actual.keys().filter(|uid| !self.desired.contains_key(*uid)).count();
        if !self.is_listed || orphans > 0 {
            info!(ports = self.actual.len(), pods = self.desired.len(), orphans, "compared ports with pods");
        }
        self.is_listed = true;
        self.duplicates = duplicates;
    }

    /// One port for each uid: the one with the id that we would give it, else the one that works. The rest is too much.
    fn one_each(&self, mut ports: Vec<Port>) -> (HashMap<Uid, Port>, Vec<Uuid>) {
        ports.sort_by_key(|port| (port.id != self.keys.pod(&port.device_id), port.status != "ACTIVE", port.id));
        let (mut kept, mut duplicates) = (HashMap::new(), Vec::new());
        for port in ports {
            if kept.contains_key(&port.device_id) {
                duplicates.push(port.id);
            } else {
                kept.insert(port.device_id.clone(), port);
            }
        }
        (kept, duplicates)
    }
}

/// The end of the list that is under way, if there is one.
async fn finished(listing: &mut Option<BoxFuture<'static, Listed>>) -> Listed {
    match listing {
        Some(list) => {
            let listed = list.await;
            *listing = None;
            listed
        }
        None => std::future::pending().await,
    }
}

/// Makes ports: one request, or one by one where the server refuses the lot.
async fn create(neutron: Neutron, batch: Vec<(Uid, Uuid, NewPort)>) -> Vec<(Uid, Result<Port, ApiError>)> {
    if batch.len() > 1 && neutron.has_bulk_keys() {
        let keys: Vec<Uuid> = batch.iter().map(|(_, key, _)| *key).collect();
        let ports: Vec<NewPort> = batch.iter().map(|(_, _, port)| port.clone()).collect();
        match neutron.create_ports(&keys, &ports).await {
            Ok(made) => return matched(batch, made),
            Err(error) if error.is_refusal() => debug!(%error, ports = batch.len(), "a batch was refused; making its ports one by one"),
            Err(error) => return batch.into_iter().map(|(uid, _, _)| (uid, Err(error.clone()))).collect(),
        }
    }
    let single = |(uid, key, port): (Uid, Uuid, NewPort)| {
        let neutron = neutron.clone();
        async move {
            let result = neutron.create_port(key, &port).await;
            (uid, result)
        }
    };
    futures::stream::iter(batch).map(single).buffer_unordered(SINGLES_MAX).collect().await
}

fn matched(batch: Vec<(Uid, Uuid, NewPort)>, made: Vec<Port>) -> Vec<(Uid, Result<Port, ApiError>)> {
    let mut made: HashMap<Uid, Port> = made.into_iter().map(|port| (port.device_id.clone(), port)).collect();
    let missing = || ApiError::Unreadable { doing: "POST /v2.0/ports".into(), why: "a port is missing in the answer".into() };
    batch
        .into_iter()
        .map(|(uid, _, _)| {
            let port = made.remove(&uid).ok_or_else(missing);
            (uid, port)
        })
        .collect()
}

fn impostor(pod: &DesiredPort) -> Report {
    let note = "the pod's annotation kubernetes.io/config.mirror is another pod's, which keeps its port; this one has none, so its containers \
                cannot start; take the annotation away, which only kubelets write";
    told(pod, "LadonPortFailed", note.into())
}

fn replaced(pod: &DesiredPort) -> Report {
    let note = "somebody has deleted the pod's port; it gets a new one, with other addresses than its containers have, so nothing reaches them; \
                delete the pod, so that it is made again";
    told(pod, "LadonPortReplaced", note.into())
}

fn limited(pod: &DesiredPort) -> Report {
    let note = format!(
        "{} of pod {} is not served: a hostPort lets nobody in and bandwidth is not limited, everything else of the pod works; use a Service, or \
         hostNetwork, and take it away",
        pod.unserved.join(", "),
        pod.name
    );
    told(pod, "LadonPodLimited", note)
}

fn failure(pod: &DesiredPort, error: &ApiError) -> Report {
    let note = format!("the pod has no port on the network yet, so its containers cannot start; {}; {error}", error.advice());
    told(pod, "LadonPortFailed", note)
}

/// What the pod's owner is told of its port.
fn told(pod: &DesiredPort, reason: &'static str, note: String) -> Report {
    Report { about: reference("Pod", &pod.name, &pod.object_uid), reason, action: "CreatePort", note }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Fence;
    use crate::topology::plan::Plan;

    /// Ports of a server that nobody talks to.
    fn ports() -> Ports {
        let silent =
            |_: hyper::Request<kube::client::Body>| std::future::pending::<Result<hyper::Response<kube::client::Body>, std::io::Error>>();
        let client = Client::new(tower::service_fn(silent), "default");
        let config = Config::default();
        let (neutron, reporter) = (Neutron::new(&config, Fence::new().1).unwrap(), Reporter::new(client.clone(), "host".into()).0);
        let plan = Plan { pods: Vec::new(), services: Vec::new() };
        let topology = Topology { plan, pod_network: Uuid::nil(), group: Uuid::nil(), router: Uuid::nil(), service_subnets: Vec::new() };
        let mut ports = Ports::new(client, neutron, &config, watch::channel(Arc::new(topology)).1, reporter);
        ports.is_listed = true;
        ports
    }

    fn pod_comes(ports: &mut Ports, n: usize) {
        let pod = DesiredPort {
            uid: format!("new-{n}"),
            object_uid: format!("new-{n}"),
            name: format!("ns/new-{n}"),
            host: "n1".into(),
            is_static: false,
            unserved: Vec::new(),
        };
        ports.queue.push(pod.uid.clone(), Instant::now());
        ports.desired.insert(pod.uid.clone(), pod);
    }

    fn pod_goes(ports: &mut Ports, n: usize) {
        let uid = format!("old-{n}");
        ports.actual.insert(uid.clone(), Actual { id: Uuid::from_u128(n as u128), place: None, epoch: 0 });
        ports.queue.push(uid, Instant::now());
    }

    #[tokio::test]
    async fn so_many_requests_are_under_way_and_a_batch_is_one_of_them() {
        let mut ports = ports();
        pod_comes(&mut ports, 0);
        (0..2 * REQUESTS_MAX).for_each(|n| pod_goes(&mut ports, n));
        for _ in 0..3 {
            ports.start_due();
            assert_eq!(ports.running.len(), REQUESTS_MAX);
        }
    }

    #[tokio::test]
    async fn what_is_due_together_is_made_in_batches() {
        let mut ports = ports();
        (0..BATCH_MAX + 1).for_each(|n| pod_comes(&mut ports, n));
        ports.start_due();
        let waiting = |ports: &Ports| ports.desired.keys().filter(|uid| !ports.queue.is_running(uid)).count();
        assert_eq!((ports.running.len(), waiting(&ports)), (1, 1));
        ports.start_due();
        assert_eq!((ports.running.len(), waiting(&ports)), (2, 0));
    }
}
