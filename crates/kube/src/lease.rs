//! One active instance: a Lease of Kubernetes, held, renewed and given back.
//!
//! The holder's identity is stable. An instance that was killed finds its own name on the Lease when it comes back and goes on at
//! once; another one waits until it has seen no renewal for the Lease's whole duration, by its own clock (as client-go does:
//! clocks of machines differ).
//!
//! The holder may write only while the [`Fence`] is open: two thirds of the duration, counted from *before* the last renewal that
//! succeeded. A write takes at most a third of it, so none of ours can meet one of a holder that waited for the Lease to run out.
//! One that takes a Lease that was given back may meet the last of ours: writes are idempotent, and it looks again.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::error::first_cause;

/// Renewals and attempts in one duration.
const ATTEMPTS: u32 = 6;

/// Says whether we may write now.
#[derive(Clone, Debug)]
pub struct Fence {
    open_until: watch::Receiver<Instant>,
}

impl Fence {
    /// A fence, closed, and the end that opens it.
    pub fn new() -> (watch::Sender<Instant>, Fence) {
        let (sender, open_until) = watch::channel(Instant::now());
        (sender, Fence { open_until })
    }

    pub fn is_open(&self) -> bool {
        Instant::now() < *self.open_until.borrow()
    }

    /// Waits until the fence has closed.
    pub async fn closed(&self) {
        loop {
            let until = *self.open_until.borrow();
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// What to do about a Lease that looks like this.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Decision {
    Create,
    /// Take or renew it; the number of its transitions afterwards.
    Take {
        transitions: i32,
    },
    /// It is another one's.
    Wait,
}

/// A Lease as last seen, and since when it has not changed.
struct Sighting {
    version: Option<String>,
    since: Instant,
}

fn silent() -> kube::Error {
    kube::Error::Service("no answer from kube-apiserver".into())
}

fn decide(lease: Option<&LeaseSpec>, me: &str, unchanged: Duration, duration: Duration) -> Decision {
    let Some(spec) = lease else { return Decision::Create };
    let holder = spec.holder_identity.as_deref().unwrap_or("");
    let transitions = spec.lease_transitions.unwrap_or(0);
    if holder == me {
        return Decision::Take { transitions };
    }
    let theirs = spec.lease_duration_seconds.map_or(duration, |secs| Duration::from_secs(secs.max(1) as u64));
    if holder.is_empty() || unchanged >= theirs { Decision::Take { transitions: transitions + 1 } } else { Decision::Wait }
}

/// What to do about a kube-apiserver that gives no Lease.
fn advice(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) if [401, 403].contains(&status.code) => {
            "let the account of `ladon kube` get, create and update leases in the Lease's namespace"
        }
        kube::Error::Api(_) => "see what kube-apiserver says, and that lease.namespace exists",
        _ => "see that kube-apiserver runs and can be reached there, and that the setting kubeconfig names this cluster's file",
    }
}

/// Our claim on the Lease.
pub struct Elector {
    api: Api<Lease>,
    /// kube-apiserver's address.
    kubernetes: String,
    name: String,
    me: String,
    duration: Duration,
    fence: watch::Sender<Instant>,
    seen: Sighting,
}

impl Elector {
    pub fn new(client: Client, kubernetes: String, config: &crate::config::Config, me: String, fence: watch::Sender<Instant>) -> Elector {
        Elector {
            api: Api::namespaced(client, &config.lease.namespace),
            kubernetes,
            name: config.lease.name.clone(),
            me,
            duration: config.lease_duration(),
            fence,
            seen: Sighting { version: None, since: Instant::now() },
        }
    }

    fn interval(&self) -> Duration {
        self.duration / ATTEMPTS
    }

    /// Waits until the Lease is ours.
    pub async fn acquire(&mut self) {
        let mut is_told = false;
        loop {
            match self.attempt().await {
                Ok(true) => return info!(lease = self.name, holder = self.me, "active: the Lease is ours"),
                Ok(false) if !is_told => info!(lease = self.name, "standing by: another instance holds the Lease"),
                Ok(false) => {}
                Err(error) => self.warn(
                    &error,
                    "cannot read or take the Lease: pods and Services that are new or change wait, unless another instance is active; trying again",
                ),
            }
            is_told = true;
            sleep(self.interval()).await;
        }
    }

    /// Renews the Lease until it is lost.
    pub async fn keep(&mut self) {
        loop {
            sleep(self.interval()).await;
            match self.attempt().await {
                Ok(true) => {}
                Ok(false) => {
                    self.fence.send_replace(Instant::now());
                    return warn!(lease = self.name, "another instance took the Lease; standing by");
                }
                Err(error) => self.warn(&error, "cannot renew the Lease; trying again"),
            }
            if Instant::now() >= *self.fence.borrow() {
                return warn!(lease = self.name, "the Lease could not be renewed in time; no more writes until it is ours again");
            }
        }
    }

    fn warn(&self, error: &kube::Error, what: &str) {
        let (kubernetes, lease) = (&self.kubernetes, &self.name);
        warn!(kubernetes, lease, error = first_cause(error), advice = advice(error), "{what}");
    }

    /// Gives the Lease back, so that another instance need not wait. After its duration it has run out by itself.
    pub async fn release(&mut self) {
        self.fence.send_replace(Instant::now());
        let tried = timeout(self.duration, self.try_to_release()).await;
        if let Err(error) = tried.unwrap_or_else(|_| Err(silent())) {
            self.warn(&error, "cannot give the Lease back; it runs out by itself");
        }
    }

    async fn try_to_release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.me)) {
            spec.holder_identity = None;
            self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }

    /// One try to take or renew; true if the Lease is ours now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let began = Instant::now();
        let limit = self.interval();
        let tried = timeout(limit, self.try_once()).await;
        let is_ours = tried.unwrap_or_else(|_| Err(silent()))?;
        if is_ours {
            self.fence.send_replace(began + self.duration * 2 / 3);
        }
        Ok(is_ours)
    }

    async fn try_once(&mut self) -> Result<bool, kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        let version = lease.as_ref().and_then(ResourceExt::resource_version);
        if version != self.seen.version {
            self.seen = Sighting { version, since: Instant::now() };
        }
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let written = match decide(spec, &self.me, self.seen.since.elapsed(), self.duration) {
            Decision::Wait => return Ok(false),
            Decision::Create => self.api.create(&PostParams::default(), &self.lease(None, 0)).await,
            Decision::Take { transitions } => {
                let lease = self.lease(lease.as_ref(), transitions);
                self.api.replace(&self.name, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            // Another instance was faster: look again next time.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn lease(&self, before: Option<&Lease>, transitions: i32) -> Lease {
        let now = Some(MicroTime(jiff::Timestamp::now()));
        let old = before.and_then(|lease| lease.spec.as_ref()).filter(|spec| spec.holder_identity.as_deref() == Some(&self.me));
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                resource_version: before.and_then(ResourceExt::resource_version),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: Some(self.duration.as_secs() as i32),
                acquire_time: old.and_then(|spec| spec.acquire_time.clone()).or_else(|| now.clone()),
                renew_time: now,
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_missing_lease_is_made() {
        assert_eq!(decide(None, "me", Duration::ZERO, DURATION), Decision::Create);
    }

    #[test]
    fn my_own_lease_is_resumed_at_once() {
        assert_eq!(decide(Some(&held_by("me")), "me", Duration::ZERO, DURATION), Decision::Take { transitions: 3 });
    }

    #[test]
    fn anothers_lease_is_taken_only_after_its_whole_duration_without_a_change() {
        let lease = held_by("you");
        assert_eq!(decide(Some(&lease), "me", Duration::from_secs(14), DURATION), Decision::Wait);
        assert_eq!(decide(Some(&lease), "me", Duration::from_secs(15), DURATION), Decision::Take { transitions: 4 });
    }

    #[tokio::test]
    async fn a_kube_apiserver_that_is_away_is_told_in_words_and_with_what_to_do() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = Client::try_from(kube::Config::new(format!("http://{closed}").parse().unwrap())).unwrap();
        let error = Api::<Lease>::namespaced(client, "kube-system").get("ladon-kube").await.unwrap_err();
        assert!(first_cause(&error).contains("refused"), "{}", first_cause(&error));
        assert!(advice(&error).contains("can be reached there"));
    }

    #[test]
    fn a_lease_given_back_is_taken_at_once() {
        assert_eq!(decide(Some(&held_by("")), "me", Duration::ZERO, DURATION), Decision::Take { transitions: 4 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_given_back_to_a_server_that_answers_late() {
        let (written, lease) = watch::channel(Lease { spec: Some(held_by("me")), ..Lease::default() });
        let answer = move |request: hyper::Request<kube::client::Body>| {
            let written = written.clone();
            async move {
                sleep(DURATION / 3).await;
                if request.method() == hyper::Method::PUT {
                    written.send_replace(serde_json::from_slice(&request.into_body().collect_bytes().await?)?);
                }
                let text = serde_json::to_vec(&*written.borrow())?;
                Ok::<_, tower::BoxError>(hyper::Response::new(kube::client::Body::from(text)))
            }
        };
        let mut elector = Elector {
            api: Api::namespaced(Client::new(tower::service_fn(answer), "n"), "n"),
            kubernetes: "k".into(),
            name: "l".into(),
            me: "me".into(),
            duration: DURATION,
            fence: Fence::new().0,
            seen: Sighting { version: None, since: Instant::now() },
        };
        elector.release().await;
        assert_eq!(lease.borrow().spec.as_ref().unwrap().holder_identity, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fence_closes_by_itself() {
        let (sender, fence) = Fence::new();
        assert!(!fence.is_open());
        sender.send_replace(Instant::now() + Duration::from_secs(10));
        assert!(fence.is_open());
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(!fence.is_open());
        fence.closed().await;
    }
}
