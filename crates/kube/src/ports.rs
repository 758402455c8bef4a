//! A port for every pod: the reconciler that compares pods with ports and makes them one to one.
//!
//! A pod that was seen goes into the queue by its uid. What is due together is made by one request; a batch that the server
//! refuses is made one by one, so that a bad pod fails alone. Ports are found again by their owner when this process starts
//! and every few minutes after: whatever was left by a crash is either a pod's or an orphan, and orphans go.
//!
//! A port that is made for a pod that runs already (somebody deleted it, or the server's store is that of an earlier day) is to be as it
//! was: what this process knows of it is asked for, else the addresses that the pod's status has. New pods wait meanwhile, so that
//! none of them gets these. A port that differs from what the containers have reaches nobody, and its pod is told so whenever that
//! is seen.
//!
//! Task: one, which owns everything here; requests run beside it and report back.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
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
    place: Box<Place>,
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
    /// Running pods that were refused what they had: the next attempt asks for nothing.
    displaced: HashSet<Uid>,
    /// Running pods without a port, until a first attempt is over: new pods wait for them.
    returning: HashSet<Uid>,
    /// Who has an address, as far as was seen.
    holders: HashMap<IpAddr, Uid>,
    /// Second ports of pods, which go.
    duplicates: Vec<Uuid>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// The one list that is under way, or waits to be tried again.
    listing: Option<BoxFuture<'static, Listed>>,
    resync: Interval,
    epoch: u64,
    is_listed: bool,
    /// Earlier than anything in the queue.
    begun: Instant,
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
            displaced: HashSet::new(),
            returning: HashSet::new(),
            holders: HashMap::new(),
            duplicates: Vec::new(),
            running: FuturesUnordered::new(),
            listing: None,
            resync,
            epoch: 0,
            is_listed: false,
            begun: Instant::now(),
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        loop {
            self.start_due();
            let due = self.queue.next_due().filter(|_| self.is_listed && self.has_room() && self.returning.is_empty());
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
        self.displaced.remove(&old.uid);
        self.returning.remove(&old.uid);
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
            known => {
                let is_same_port = known.is_some_and(|known| *known == DesiredPort { addresses: known.addresses.clone(), ..new.clone() });
                if !is_same_port {
                    self.queue.push_fresh(new.uid.clone(), now);
                }
                let uid = new.uid.clone();
                self.desired.insert(uid.clone(), new);
                self.look(&uid);
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
                (Some(_), None) if !self.returning.is_empty() && !self.returning.contains(&uid) => {
                    self.queue.done(&uid);
                    self.queue.push(uid, now);
                    break;
                }
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
            place: self.place(pod),
            project_id: self.neutron.project().map(str::to_owned),
        }
    }

    /// What the port of a pod that runs already must be like.
    fn place(&self, pod: &DesiredPort) -> Option<Place> {
        if self.displaced.contains(&pod.uid) {
            return None;
        }
        let told = || (!pod.addresses.is_empty()).then(|| Place::at(pod.addresses.iter().copied()));
        self.lost.get(&pod.uid).map(|(_, place)| Place::clone(place)).or_else(told)
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
                self.has_not(&uid);
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
        self.returning.remove(&uid);
        match result {
            Ok(port) => {
                debug!(uid, port = %port.id, "a pod has its port");
                let is_another = self.is_another(&uid, &port);
                self.lost.remove(&uid);
                self.displaced.remove(&uid);
                self.has(&uid, &port, self.epoch);
                match is_another {
                    true => self.tell_replaced(&uid),
                    false => self.look(&uid),
                }
                self.uncertain.remove(&uid);
                self.refused.remove(&uid);
                self.queue.done(&uid);
            }
            Err(error) => {
                let failures = self.queue.failed(&uid, Instant::now());
                let has_asked = self.desired.get(&uid).is_some_and(|pod| self.place(pod).is_some());
                let suspects = if error.is_refusal() { &mut self.refused } else { &mut self.uncertain };
                suspects.insert(uid.clone());
                let Some(pod) = self.desired.get(&uid) else { return };
                debug!(pod = pod.name, %error, failures, "no port");
                // Somebody else has the addresses, or may have: a port with others comes next, and what it had after that.
                if error.is_refusal() && has_asked {
                    self.displaced.insert(uid);
                    return;
                }
                if error.is_refusal() {
                    self.displaced.remove(&uid);
                }
                if error.is_refusal() || failures >= SILENT_FAILURES {
                    self.reporter.warn(failure(pod, &error));
                }
            }
        }
    }

    /// True if the port of a pod that runs already is not the one that its containers have.
    fn is_another(&self, uid: &str, port: &Port) -> bool {
        if let Some((old, was)) = self.lost.get(uid) {
            return *old != port.id || **was != Place::of(port);
        }
        let Some(addresses) = self.desired.get(uid).map(|pod| &pod.addresses).filter(|addresses| !addresses.is_empty()) else {
            return false;
        };
        // The MAC that it had follows from an IPv4 address and from nothing else.
        let has_mac = addresses.iter().any(IpAddr::is_ipv4);
        // The answer of an earlier attempt may have been lost, and the port be older than the pod's addresses.
        !self.uncertain.contains(uid) && (port.id != self.keys.pod(uid) || !has_mac)
    }

    /// The pod's port is this one.
    fn has(&mut self, uid: &str, port: &Port, epoch: u64) {
        self.has_not(uid);
        let mut is_forgetful = false;
        for fixed in &port.fixed_ips {
            let before = self.holders.insert(fixed.ip_address, uid.into());
            is_forgetful |= before.is_some_and(|other| self.actual.contains_key(&other) && !self.queue.is_running(&other));
        }
        self.actual.insert(uid.into(), Actual { id: port.id, place: Box::new(Place::of(port)), epoch });
        // No server gives an address twice: it has forgotten the other's port.
        if is_forgetful && self.is_listed {
            warn!(uid, port = %port.id, "the server gave away what another pod's port has, as after a restore; comparing all ports with pods");
            self.list(Duration::ZERO);
        }
    }

    /// The pod's port is gone.
    fn has_not(&mut self, uid: &str) -> Option<Actual> {
        let gone = self.actual.remove(uid)?;
        for address in &gone.place.fixed_ips {
            if self.holders.get(&address.ip_address).is_some_and(|holder| holder == uid) {
                self.holders.remove(&address.ip_address);
            }
        }
        Some(gone)
    }

    /// Tells a running pod's owner where its port has other addresses than its containers.
    fn look(&self, uid: &str) {
        let (Some(pod), Some(port)) = (self.desired.get(uid), self.actual.get(uid)) else { return };
        if !port.place.has(&pod.addresses) {
            self.tell_replaced(uid);
        }
    }

    fn tell_replaced(&self, uid: &str) {
        let Some(pod) = self.desired.get(uid) else { return };
        warn!(uid, pod = pod.name, "a running pod's port is another one than its containers have: nothing reaches it; delete the pod");
        self.reporter.warn(replaced(pod));
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
        for (uid, port) in &kept {
            match self.actual.get(uid).map(|known| known.epoch < epoch && known.id == port.id) {
                _ if self.queue.is_running(uid) => {}
                None => {
                    self.has(uid, port, epoch);
                    self.look(uid);
                    // A static pod whose mirror is not there may be about to get it back.
                    self.queue.push(uid.clone(), now);
                }
                Some(true) => {
                    self.has(uid, port, epoch);
                    self.look(uid);
                }
                Some(false) => {}
            }
        }
        let is_lost = |uid: &Uid, port: &Actual| port.epoch < epoch && !kept.contains_key(uid) && !self.queue.is_running(uid);
        let lost: Vec<Uid> = self.actual.iter().filter(|(uid, port)| is_lost(uid, port)).map(|(uid, _)| uid.clone()).collect();
        for uid in lost {
            warn!(uid, "a pod's port was deleted by someone else; making it again");
            if let Some(Actual { id, place, .. }) = self.has_not(&uid).filter(|_| self.desired.contains_key(&uid)) {
                self.lost.insert(uid.clone(), (id, place));
            }
            self.queue.push(uid, now);
        }
        self.let_return();
        let orphans = self.actual.keys().filter(|uid| !self.desired.contains_key(*uid)).count();
        if !self.is_listed || orphans > 0 {
            info!(ports = self.actual.len(), pods = self.desired.len(), orphans, "compared ports with pods");
        }
        self.is_listed = true;
        self.duplicates = duplicates;
    }

    /// Running pods without a port come first. One that failed before waits for its next attempt, and nobody for it.
    fn let_return(&mut self) {
        let is_tried = |uid: &Uid| self.queue.is_running(uid) || self.refused.contains(uid) || self.uncertain.contains(uid);
        let is_without = |pod: &&DesiredPort| !pod.addresses.is_empty() && !self.actual.contains_key(&pod.uid) && !is_tried(&pod.uid);
        self.returning = self.desired.values().filter(is_without).map(|pod| pod.uid.clone()).collect();
        for uid in &self.returning {
            self.queue.push(uid.clone(), self.begun);
        }
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
    let note = "the pod's port was deleted, or is lost since the server's store was put back, and the new one is not what its containers have: \
                nothing reaches them; delete the pod, so that it is made again";
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
    use std::collections::BTreeSet;

    use tokio::sync::{mpsc, oneshot};
    use tokio::time::advance;

    use crate::lease::Fence;
    use crate::tests::by_hand::{Ladon, kubernetes, let_all_go_on, refused as refusal, rests};
    use crate::topology::plan::Plan;

    /// Ports of a server that nobody talks to.
    fn ports() -> Ports {
        ports_and_reports().0
    }

    fn ports_and_reports() -> (Ports, mpsc::Receiver<Report>) {
        let silent =
            |_: hyper::Request<kube::client::Body>| std::future::pending::<Result<hyper::Response<kube::client::Body>, std::io::Error>>();
        let client = Client::new(tower::service_fn(silent), "default");
        let config = Config::default();
        let (neutron, (reporter, reports)) = (Neutron::new(&config, Fence::new().1).unwrap(), Reporter::kept());
        let plan = Plan { pods: Vec::new(), services: Vec::new() };
        let topology = Topology { plan, pod_network: Uuid::nil(), group: Uuid::nil(), router: Uuid::nil(), service_subnets: Vec::new() };
        let mut ports = Ports::new(client, neutron, &config, watch::channel(Arc::new(topology)).1, reporter);
        ports.is_listed = true;
        (ports, reports)
    }

    fn pod_comes(ports: &mut Ports, n: usize) {
        let pod = DesiredPort {
            uid: format!("new-{n}"),
            object_uid: format!("new-{n}"),
            name: format!("ns/new-{n}"),
            host: "n1".into(),
            is_static: false,
            addresses: BTreeSet::new(),
            unserved: Vec::new(),
        };
        ports.queue.push(pod.uid.clone(), Instant::now());
        ports.desired.insert(pod.uid.clone(), pod);
    }

    fn pod_goes(ports: &mut Ports, n: usize) {
        let uid = format!("old-{n}");
        ports.actual.insert(uid.clone(), Actual { id: Uuid::from_u128(n as u128), place: Box::new(Place::at([])), epoch: 0 });
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

    const OWN: [&str; 2] = ["10.244.1.7", "fd00:244::7"];
    const OTHER: [&str; 2] = ["10.244.1.8", "fd00:244::8"];

    fn pod(uid: &str, addresses: &[&str]) -> DesiredPort {
        DesiredPort {
            uid: uid.into(),
            object_uid: uid.into(),
            name: format!("ns/{uid}"),
            host: "n1".into(),
            is_static: false,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            unserved: Vec::new(),
        }
    }

    /// A port as the server would have it.
    fn port(ports: &Ports, uid: &str, addresses: &[&str]) -> Port {
        let fixed_ips: Vec<_> = addresses.iter().map(|ip| serde_json::json!({"subnet_id": Uuid::nil(), "ip_address": ip})).collect();
        serde_json::from_value(serde_json::json!({"id": ports.keys.pod(uid), "device_id": uid, "fixed_ips": fixed_ips})).unwrap()
    }

    fn asked(ports: &Ports, uid: &str) -> Vec<String> {
        let place = ports.new_port(&ports.desired[uid]).place;
        place.into_iter().flat_map(|place| place.fixed_ips).map(|address| address.ip_address.to_string()).collect()
    }

    fn told(reports: &mut mpsc::Receiver<Report>) -> Vec<&'static str> {
        std::iter::from_fn(|| reports.try_recv().ok()).map(|report| report.reason).collect()
    }

    fn refused() -> ApiError {
        ApiError::Refused { doing: "POST".into(), status: 409, kind: "IpAddressInUse".into(), message: "in use".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_failed_is_tried_again_after_a_while() {
        let (ladon, mut times) = Ladon::refusing();
        let (topology, reporter) = (ladon.topology.subscribe(), Reporter::kept().0);
        tokio::spawn(Ports::new(kubernetes(|_| ()), ladon.neutron.clone(), &ladon.config, topology, reporter).run());
        assert_eq!(rests::<3>(&mut times).await, [LIST_RETRY.as_secs(); 3]);
    }

    #[tokio::test]
    async fn so_many_ports_of_a_refused_batch_are_made_at_once() {
        let (came, mut coming) = mpsc::channel(1);
        let ladon = Ladon::start(move |request| {
            let (is_bulk, came) = (request.headers()["idempotency-key"].to_str().unwrap().contains(','), came.clone());
            async move {
                let (end, ended) = oneshot::channel::<()>();
                if !is_bulk {
                    came.send(end).await.unwrap();
                    let _ = ended.await;
                }
                refusal()
            }
        });
        let one = ports().new_port(&pod("web", &[]));
        let batch = (0..SINGLES_MAX as u128 + 1).map(|n| (n.to_string(), Uuid::from_u128(n + 1), one.clone())).collect();
        let made = tokio::spawn(create(ladon.neutron.clone(), batch));
        let mut under_way = Vec::new();
        for _ in 0..SINGLES_MAX {
            under_way.push(coming.recv().await.unwrap());
        }
        let_all_go_on().await;
        assert!(coming.try_recv().is_err(), "it waits");
        drop(under_way.pop());
        under_way.push(coming.recv().await.unwrap());
        drop(under_way);
        assert_eq!(made.await.unwrap().len(), SINGLES_MAX + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_static_pod_keeps_its_port_as_long_as_its_mirror_may_come_back() {
        let (mut ports, web) = (ports(), DesiredPort { is_static: true, ..pod("web", &OWN) });
        let change = |before: Option<&DesiredPort>, after: Option<&DesiredPort>| Change {
            name: web.name.clone(),
            before: before.cloned(),
            after: after.cloned(),
        };
        let under_way = |ports: &mut Ports| {
            ports.start_due();
            ports.running.len()
        };
        ports.pod_changed(change(None, Some(&web)));
        let made = port(&ports, "web", &OWN);
        ports.created("web".into(), Ok(made));
        for _ in 0..3 {
            assert_eq!(under_way(&mut ports), 0);
            ports.pod_changed(change(Some(&web), None));
            advance(STATIC_GRACE - Duration::from_millis(1)).await;
            assert_eq!(under_way(&mut ports), 0);
            ports.pod_changed(change(None, Some(&web)));
        }
        assert_eq!(under_way(&mut ports), 0);
        ports.pod_changed(change(Some(&web), None));
        advance(STATIC_GRACE).await;
        assert_eq!(under_way(&mut ports), 1, "it is freed");
    }

    #[tokio::test]
    async fn the_port_of_a_pod_that_runs_already_asks_for_the_pods_addresses() {
        let (mut ports, mut reports) = ports_and_reports();
        ports.pod_there(pod("new", &[]), Instant::now());
        ports.pod_there(pod("web", &OWN), Instant::now());
        assert!(asked(&ports, "new").is_empty());
        assert_eq!(asked(&ports, "web"), OWN);
        let body = serde_json::to_value(ports.new_port(&ports.desired["web"])).unwrap();
        assert_eq!(body["fixed_ips"], serde_json::json!([{"ip_address": OWN[0]}, {"ip_address": OWN[1]}]));
        assert!(body.get("mac_address").is_none());
        let made = port(&ports, "web", &OWN);
        ports.created("web".into(), Ok(made));
        assert!(told(&mut reports).is_empty(), "it goes on");
    }

    #[tokio::test]
    async fn new_pods_wait_until_those_that_run_have_asked_for_their_addresses() {
        let mut ports = ports();
        ports.is_listed = false;
        (0..3).for_each(|n| ports.pod_there(pod(&format!("a-new-{n}"), &[]), Instant::now()));
        (0..BATCH_MAX + 1).for_each(|n| ports.pod_there(pod(&format!("old-{n}"), &[&format!("10.244.1.{}", n + 1)]), Instant::now()));
        ports.compare(1, Vec::new());
        let under_way =
            |ports: &Ports, kind: &str| ports.desired.keys().filter(|uid| uid.starts_with(kind) && ports.queue.is_running(uid)).count();
        for _ in 0..3 {
            ports.start_due();
        }
        assert_eq!((ports.running.len(), under_way(&ports, "old"), under_way(&ports, "a-new")), (2, BATCH_MAX + 1, 0));
        for n in 0..BATCH_MAX + 1 {
            let silence = ApiError::NoAnswer { doing: "POST".into(), why: "none".into() };
            ports.created(format!("old-{n}"), Err(if n % 2 == 0 { silence } else { refused() }));
            assert_eq!(ports.returning.is_empty(), n == BATCH_MAX);
        }
        ports.start_due();
        assert_eq!(under_way(&ports, "a-new"), 3, "whatever became of the others");
        ports.compare(2, Vec::new());
        assert!(ports.returning.is_empty(), "those wait for themselves");
    }

    #[tokio::test]
    async fn a_running_pod_whose_addresses_cannot_be_had_gets_others_and_is_told() {
        let (mut ports, mut reports) = ports_and_reports();
        ports.pod_there(pod("web", &OWN), Instant::now());
        ports.created("web".into(), Err(refused()));
        assert!(asked(&ports, "web").is_empty() && told(&mut reports).is_empty());
        ports.created("web".into(), Err(refused()));
        assert_eq!(
            (asked(&ports, "web"), told(&mut reports)),
            (OWN.map(String::from).into(), vec!["LadonPortFailed"]),
            "its own once more"
        );
        ports.created("web".into(), Err(refused()));
        let made = port(&ports, "web", &OTHER);
        ports.created("web".into(), Ok(made));
        assert_eq!(told(&mut reports), ["LadonPortReplaced"]);
    }

    #[tokio::test]
    async fn a_port_of_which_only_the_addresses_are_the_old_ones_is_told() {
        let (mut ports, mut reports) = ports_and_reports();
        ports.pod_there(pod("chosen", &OWN), Instant::now());
        let made = Port { id: Uuid::from_u128(7), ..port(&ports, "chosen", &OWN) };
        ports.created("chosen".into(), Ok(made));
        assert_eq!(told(&mut reports), ["LadonPortReplaced"], "the id is another one");
        ports.pod_there(pod("six", &OTHER[1..]), Instant::now());
        let made = port(&ports, "six", &OTHER[1..]);
        ports.created("six".into(), Ok(made));
        assert_eq!(told(&mut reports), ["LadonPortReplaced"], "so is the MAC");
    }

    #[tokio::test]
    async fn a_difference_is_told_after_a_restart_and_whenever_ports_are_compared() {
        let (mut ports, mut reports) = ports_and_reports();
        ports.is_listed = false;
        ports.pod_there(pod("web", &OWN), Instant::now());
        ports.pod_there(pod("good", &["10.244.1.9"]), Instant::now());
        for epoch in 1..4 {
            let list = vec![port(&ports, "web", &OTHER), port(&ports, "good", &["10.244.1.9", "fd00:244::9"])];
            ports.compare(epoch, list);
            assert_eq!(told(&mut reports), ["LadonPortReplaced"]);
        }
        ports.pod_there(pod("web", &OTHER), Instant::now());
        assert!(told(&mut reports).is_empty(), "its sandbox was made again");
    }

    #[tokio::test]
    async fn a_server_that_forgot_a_port_is_seen_by_what_it_gives_away() {
        let (mut ports, mut reports) = ports_and_reports();
        for (uid, addresses) in [("old", OWN), ("other", OTHER)] {
            ports.pod_there(pod(uid, &addresses), Instant::now());
            let made = port(&ports, uid, &addresses);
            ports.created(uid.into(), Ok(made));
        }
        assert!(ports.listing.is_none());
        ports.pod_there(pod("new", &[]), Instant::now());
        let made = port(&ports, "new", &OWN);
        ports.created("new".into(), Ok(made));
        assert!(ports.listing.is_some(), "all ports are compared now");
        let list = vec![port(&ports, "new", &OWN), port(&ports, "other", &OTHER)];
        ports.epoch += 1;
        ports.compare(ports.epoch, list);
        assert_eq!(asked(&ports, "old"), OWN);
        ports.created("old".into(), Err(refused()));
        let made = port(&ports, "old", &["10.244.1.10", "fd00:244::a"]);
        ports.created("old".into(), Ok(made));
        assert_eq!(told(&mut reports), ["LadonPortReplaced"]);
        assert_eq!(ports.holders.len(), 6);
        ports.finished(Done::Deleted { uid: "old".into(), id: Uuid::nil(), result: Ok(()) });
        assert_eq!(ports.holders.len(), 4);
    }
}
