//! Services and their endpoints become load balancers: the reconciler.
//!
//! A change of a Service or of one of its slices puts the Service's name into the queue; whatever changed, the work is the
//! same: compute what should be ([`desired`]), compare with what is ([`diff`]), do what differs. What the server has is
//! remembered, so that scaling costs one request; after any error, and once in every period, it is read again.
//!
//! Services of type NodePort and LoadBalancer get their ClusterIP part. Headless ones need nothing.
//!
//! Task: one, which owns everything here; requests run beside it and report back.

pub mod balancer;
pub mod desired;
pub mod diff;
pub mod facts;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Service as KubeService;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::events::{Report, Reporter, reference, shortened};
use crate::ids::Keys;
use crate::mirror::{Change, Mirror, Name, watch};
use crate::neutron::{ApiError, Neutron};
use crate::queue::Queue;
use crate::topology::Topology;
use crate::until;
use balancer::{Known, Worker};
use facts::{CONDITION, Service, Slice, Told};

/// Services worked on at the same time; further ones wait.
const RUNNING_MAX: usize = 8;
/// Failures in a row after which a user hears of a server that does not answer.
const SILENT_FAILURES: u32 = 3;
/// Status writes under way; further ones wait until the Service is looked at again.
const STATUS_WRITES_MAX: usize = 32;
/// Wait after a status that was not written.
const STATUS_RETRY: Duration = Duration::from_secs(5);
/// Longest message of a condition.
const CONDITION_MESSAGE_MAX: usize = 1024;
/// Wait after a list that failed.
const LIST_RETRY: Duration = Duration::from_secs(2);

/// Why a Service is not served as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("its address {0} is in no Service subnet")]
    NoSubnet(std::net::IpAddr),
}

impl Trouble {
    fn advice(&self) -> &'static str {
        match self {
            Trouble::Api(error) => error.advice(),
            Trouble::NoSubnet(_) => {
                "add the range to network.services of `ladon kube`, or remove that setting so that ServiceCIDRs are used"
            }
        }
    }

    fn is_refusal(&self) -> bool {
        match self {
            Trouble::Api(error) => error.is_refusal(),
            Trouble::NoSubnet(_) => true,
        }
    }
}

struct Outcome {
    name: Name,
    known: Known,
    result: Result<(), Trouble>,
}

/// See the module.
pub struct Services {
    client: Client,
    neutron: Neutron,
    keys: Keys,
    topology: watch::Receiver<Arc<Topology>>,
    /// Asks for another look at the cluster's ranges.
    topology_wanted: Arc<Notify>,
    reporter: Reporter,
    services: Mirror<Service>,
    slices: Mirror<Slice>,
    slices_of: HashMap<Name, BTreeSet<Name>>,
    service_watch: BoxStream<'static, Event<KubeService>>,
    slice_watch: BoxStream<'static, Event<EndpointSlice>>,
    known: HashMap<Name, Known>,
    queue: Queue<Name>,
    running: FuturesUnordered<BoxFuture<'static, Outcome>>,
    /// When load balancers are listed; what is in each is read again in a rhythm of its own.
    resync: Interval,
    is_listed: bool,
    status_permits: Arc<Semaphore>,
}

impl Services {
    pub fn new(
        client: Client,
        neutron: Neutron,
        config: &Config,
        topology: watch::Receiver<Arc<Topology>>,
        topology_wanted: Arc<Notify>,
        reporter: Reporter,
    ) -> Services {
        let mut resync = tokio::time::interval_at(Instant::now() + config.resync(), config.resync());
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Services {
            neutron,
            keys: Keys::new(&config.cluster),
            topology,
            topology_wanted,
            reporter,
            services: Mirror::new(),
            slices: Mirror::new(),
            slices_of: HashMap::new(),
            service_watch: watch(Api::all(client.clone()), watcher::Config::default(), "services"),
            slice_watch: watch(Api::all(client.clone()), watcher::Config::default(), "endpointslices"),
            client,
            known: HashMap::new(),
            queue: Queue::new(),
            running: FuturesUnordered::new(),
            resync,
            is_listed: false,
            status_permits: Arc::new(Semaphore::new(STATUS_WRITES_MAX)),
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        loop {
            self.start_due();
            let due = self.queue.next_due().filter(|_| self.is_listed && self.running.len() < RUNNING_MAX);
            tokio::select! {
                Some(event) = self.service_watch.next() => self.service_event(event),
                Some(event) = self.slice_watch.next() => self.slice_event(event),
                Some(outcome) = self.running.next() => self.finished(outcome),
                () = until(due) => {}
                _ = self.resync.tick(), if self.is_listed => self.list().await,
                () = ready(()), if !self.is_listed && self.services.is_complete() && self.slices.is_complete() => self.list().await,
                changed = self.topology.changed() => if changed.is_ok() { self.all_again() },
            }
        }
    }

    fn service_event(&mut self, event: Event<KubeService>) {
        if let Event::Apply(service) | Event::InitApply(service) = &event
            && Service::of(service).is_none()
            && facts::told(service).is_some()
        {
            self.untell(service);
        }
        for change in self.services.apply(event, Service::of) {
            self.queue.push_fresh(change.name, Instant::now());
        }
    }

    fn slice_event(&mut self, event: Event<EndpointSlice>) {
        for Change { name, before, after } in self.slices.apply(event, Slice::of) {
            if let Some(old) = before {
                if let Some(names) = self.slices_of.get_mut(&old.service) {
                    names.remove(&name);
                    if names.is_empty() {
                        self.slices_of.remove(&old.service);
                    }
                }
                self.queue.push(old.service, Instant::now());
            }
            if let Some(new) = after {
                self.queue.push(new.service.clone(), Instant::now());
                self.slices_of.entry(new.service).or_default().insert(name);
            }
        }
    }

    /// All load balancers on the Service subnets: those of Services are adopted, the others go.
    async fn list(&mut self) {
        let subnets: Vec<_> = self.topology.borrow().service_subnets.iter().map(|(_, subnet)| *subnet).collect();
        let mut there = HashSet::new();
        for subnet in subnets {
            match self.neutron.balancers_on(subnet).await {
                Ok(balancers) => {
                    for balancer in balancers {
                        there.insert(balancer.name.clone());
                        self.known.entry(balancer.name.clone()).or_default().adopt(balancer.id);
                    }
                }
                Err(error) => {
                    warn!(%error, advice = error.advice(), "cannot list the Services' load balancers; trying again");
                    if self.is_listed {
                        self.resync.reset_immediately();
                    }
                    return tokio::time::sleep(LIST_RETRY).await;
                }
            }
        }
        let strays = there.iter().filter(|name| self.services.get(name).is_none()).count();
        if !self.is_listed || strays > 0 {
            info!(balancers = there.len(), services = self.services.iter().count(), strays, "compared load balancers with Services");
        }
        if !self.is_listed {
            self.is_listed = true;
            return self.all_again();
        }
        let is_news = |(name, known): &(&Name, &Known)| known.is_unread() || self.services.get(name).is_none();
        for (name, _) in self.known.iter().filter(is_news) {
            self.queue.push(name.clone(), Instant::now());
        }
    }

    /// Everything is read and compared again.
    fn all_again(&mut self) {
        self.known.values_mut().for_each(Known::forget);
        for name in self.known.keys().chain(self.services.iter().map(|(name, _)| name)) {
            self.queue.push(name.clone(), Instant::now());
        }
    }

    fn slices_of(&self, name: &str) -> Vec<&Slice> {
        self.slices_of.get(name).into_iter().flatten().filter_map(|slice| self.slices.get(slice)).collect()
    }

    fn start_due(&mut self) {
        while self.is_listed && self.running.len() < RUNNING_MAX {
            let Some(name) = self.queue.pop(Instant::now()) else { return };
            let service = self.services.get(&name);
            let mut known = self.known.remove(&name).unwrap_or_default();
            known.look(&name, Instant::now(), self.resync.period());
            if service.is_none() && known.is_nothing() {
                self.queue.done(&name);
                continue;
            }
            let wanted = service.map(|service| desired::desired_load_balancers(service, &self.slices_of(&name))).unwrap_or_default();
            let worker = Worker { neutron: self.neutron.clone(), keys: self.keys, topology: self.topology.borrow().clone() };
            let work = async move {
                let (known, result) = worker.reconcile(&name, known, wanted).await;
                Outcome { name, known, result }
            };
            self.running.push(work.boxed());
        }
    }

    fn finished(&mut self, outcome: Outcome) {
        let Outcome { name, known, result } = outcome;
        let again = known.read_again();
        let is_there = !known.is_nothing();
        if is_there {
            self.known.insert(name.clone(), known);
        }
        match result {
            Ok(()) => {
                if let Some(again) = again.filter(|_| is_there) {
                    self.queue.push(name.clone(), again);
                }
                self.queue.done(&name);
                self.served(&name);
            }
            Err(trouble) => {
                let failures = self.queue.failed(&name, Instant::now());
                debug!(service = name, error = %trouble, failures, "not as it should be");
                if let Trouble::NoSubnet(_) = trouble {
                    self.topology_wanted.notify_one();
                }
                if trouble.is_refusal() && failures > 1 || failures >= SILENT_FAILURES {
                    self.failed(&name, &trouble);
                }
            }
        }
    }

    fn served(&mut self, name: &str) {
        let Some(service) = self.services.get(name).cloned() else { return };
        let shortfalls = desired::shortfalls(&service, &self.slices_of(name));
        let shortfalls: Vec<String> = shortfalls.into_iter().map(|shortfall| shortfall.note).collect();
        if let Some(known) = self.known.get_mut(name).filter(|known| known.told != shortfalls) {
            known.told.clone_from(&shortfalls);
            for note in &shortfalls {
                let about = reference("Service", name, &service.uid);
                self.reporter.warn(Report { about, reason: "LadonServiceLimited", action: "Balance", note: note.clone() });
            }
        }
        let message = shortfalls.join("; ");
        self.tell(&service, Told { is_true: true, reason: "Programmed".into(), message });
    }

    fn failed(&mut self, name: &str, trouble: &Trouble) {
        let Some(service) = self.services.get(name).cloned() else {
            return warn!(service = name, error = %trouble, "cannot remove the load balancer of a Service that is gone; trying again");
        };
        let note = format!(
            "the Service's latest state is not in force: connections go where they went before, or nowhere if it is new; {}; {trouble}",
            trouble.advice()
        );
        let about = reference("Service", name, &service.uid);
        self.reporter.warn(Report { about, reason: "LadonServiceFailed", action: "Balance", note: note.clone() });
        self.tell(&service, Told { is_true: false, reason: "Failed".into(), message: note });
    }

    /// Writes our condition into the Service's status, if it says something else now.
    fn tell(&mut self, service: &Service, told: Told) {
        let told = Told { message: shortened(&told.message, CONDITION_MESSAGE_MAX), ..told };
        if service.told.as_ref() == Some(&told) {
            return;
        }
        let Some((namespace, name)) = service.name.split_once('/') else { return };
        let Ok(permit) = self.status_permits.clone().try_acquire_owned() else {
            return self.queue.push(service.name.clone(), Instant::now() + STATUS_RETRY);
        };
        let (api, name): (Api<KubeService>, _) = (Api::namespaced(self.client.clone(), namespace), name.to_owned());
        let mut condition = json!({
            "type": CONDITION,
            "status": if told.is_true { "True" } else { "False" },
            "reason": told.reason,
            "message": told.message,
        });
        // The time of another message is not that of another status.
        if service.told.as_ref().is_none_or(|before| before.is_true != told.is_true) {
            condition["lastTransitionTime"] = json!(jiff::Timestamp::now());
        }
        // A lost one is written the next time the Service is looked at.
        write_condition(api, name, condition, permit);
    }

    /// Takes our condition out of the status of a Service that is none of ours any more.
    fn untell(&self, service: &KubeService) {
        let Ok(permit) = self.status_permits.clone().try_acquire_owned() else { return };
        let api: Api<KubeService> = Api::namespaced(self.client.clone(), &service.namespace().unwrap_or_default());
        write_condition(api, service.name_any(), json!({ "type": CONDITION, "$patch": "delete" }), permit);
    }
}

/// Not awaited: the queue must not wait for kube-apiserver.
fn write_condition(api: Api<KubeService>, name: String, condition: serde_json::Value, permit: OwnedSemaphorePermit) {
    tokio::spawn(async move {
        let _permit = permit;
        let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
        if let Err(error) = api.patch_status(&name, &PatchParams::default(), &patch).await {
            debug!(service = name, %error, "cannot write the status");
        }
    });
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::tests::by_hand::{Ladon, kubernetes, let_all_go_on, refused, rests};

    fn services(ladon: &Ladon, kubernetes: Client) -> Services {
        let (topology, reporter) = (ladon.topology.subscribe(), Reporter::kept().0);
        Services::new(kubernetes, ladon.neutron.clone(), &ladon.config, topology, Arc::default(), reporter)
    }

    fn service(n: usize) -> KubeService {
        let name = format!("web-{n}");
        let spec = json!({"clusterIP": format!("10.96.0.{n}"), "ports": [{"port": 80}]});
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name, "uid": name}, "spec": spec})).unwrap()
    }

    fn told(message: String) -> Told {
        Told { is_true: false, reason: "Failed".into(), message }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_failed_is_tried_again_after_a_while() {
        let (ladon, mut times) = Ladon::refusing();
        tokio::spawn(services(&ladon, kubernetes(|_| ())).run());
        assert_eq!(rests::<3>(&mut times).await, [LIST_RETRY.as_secs(); 3]);
    }

    #[tokio::test]
    async fn so_many_services_are_worked_on_at_once() {
        let ladon = Ladon::start(|_| ready(refused()));
        let mut services = services(&ladon, kubernetes(|_| ()));
        services.is_listed = true;
        (1..=RUNNING_MAX + 1).for_each(|n| services.service_event(Event::Apply(service(n))));
        for _ in 0..2 {
            services.start_due();
            assert_eq!(services.running.len(), RUNNING_MAX);
        }
        let outcome = services.running.next().await.unwrap();
        services.finished(outcome);
        services.start_due();
        let under_way = |n: &usize| services.queue.is_running(&format!("ns/web-{n}"));
        assert_eq!((services.running.len(), (1..=RUNNING_MAX + 1).filter(under_way).count()), (RUNNING_MAX, RUNNING_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_status_writes_are_under_way_and_a_further_one_waits() {
        let (writing, writes) = mpsc::channel(2 * STATUS_WRITES_MAX);
        let ladon = Ladon::start(|_| ready(refused()));
        let see = move |request: &hyper::Request<kube::client::Body>| {
            if request.method() == hyper::Method::PATCH {
                writing.try_send(()).unwrap();
            }
        };
        let mut services = services(&ladon, kubernetes(see));
        for n in 0..=STATUS_WRITES_MAX {
            assert_eq!(services.queue.next_due(), None);
            services.tell(&Service::of(&service(n)).unwrap(), told("no".into()));
        }
        let_all_go_on().await;
        assert_eq!(writes.len(), STATUS_WRITES_MAX);
        assert_eq!(services.queue.next_due(), Some(Instant::now() + STATUS_RETRY));
        tokio::time::advance(STATUS_RETRY).await;
        assert_eq!(services.queue.pop(Instant::now()), Some(format!("ns/web-{STATUS_WRITES_MAX}")));
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_cut_and_not_told_twice() {
        let (written, mut bodies) = mpsc::channel(2);
        let answer = move |request: hyper::Request<kube::client::Body>| {
            let written = written.clone();
            async move {
                let body: serde_json::Value = serde_json::from_slice(&request.into_body().collect_bytes().await?)?;
                written.send(body).await?;
                std::future::pending::<Result<hyper::Response<kube::client::Body>, tower::BoxError>>().await
            }
        };
        let ladon = Ladon::start(|_| ready(refused()));
        let mut services = services(&ladon, Client::new(tower::service_fn(answer), "default"));
        let (mut web, long) = (Service::of(&service(1)).unwrap(), told("x".repeat(CONDITION_MESSAGE_MAX + 1)));
        services.tell(&web, long.clone());
        let body = bodies.recv().await.unwrap();
        let message = body["status"]["conditions"][0]["message"].as_str().unwrap();
        assert_eq!(message.len(), CONDITION_MESSAGE_MAX);
        web.told = Some(told(message.into()));
        services.tell(&web, long);
        let_all_go_on().await;
        assert!(bodies.try_recv().is_err());
    }
}
