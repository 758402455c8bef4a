//! Telling users: Events on their own objects, one per cause and at most one a minute for the same cause.
//!
//! Reports go through a bounded queue to one task; when it is full, further ones are dropped, since a user who is told of 256
//! broken pods has enough to do. An Event's name follows from the object and the message, so that after a restart the same
//! cause counts on where it was.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

/// Reports that may wait; more are left out.
const WAITING_MAX: usize = 256;
/// Shortest time between two Events of the same cause on the same object.
const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// Causes remembered, so as not to repeat them; beyond it a cause may be told again before its time.
const REMEMBERED_MAX: usize = 4096;
/// Longest note that Kubernetes takes, in bytes.
const NOTE_MAX: usize = 1024;
const CONTROLLER: &str = "ladon.io/kube";

/// Something a user should know about an object of theirs.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    pub about: ObjectReference,
    /// One word: `LadonPortFailed`.
    pub reason: &'static str,
    /// What was being done: `CreatePort`.
    pub action: &'static str,
    /// What happened, what it means for traffic, what to do.
    pub note: String,
}

/// The end that reports are put into.
#[derive(Clone)]
pub struct Reporter(mpsc::Sender<Report>);

impl Reporter {
    /// A reporter and the task that publishes what is reported.
    pub fn new(client: Client, instance: String) -> (Reporter, BoxFuture<'static, ()>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Reporter(sender), Box::pin(publish_all(client, instance, receiver)))
    }

    /// A reporter that publishes nothing, and what it was given.
    #[cfg(test)]
    pub fn kept() -> (Reporter, mpsc::Receiver<Report>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Reporter(sender), receiver)
    }

    pub fn warn(&self, report: Report) {
        debug!(about = report.about.name, reason = report.reason, note = report.note, "reported");
        if self.0.try_send(report).is_err() {
            debug!("too many reports: one dropped");
        }
    }
}

/// A reference to a namespaced object of `v1`.
pub fn reference(kind: &str, name: &str, uid: &str) -> ObjectReference {
    let (namespace, name) = name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace.to_owned()), name));
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some(kind.into()),
        namespace,
        name: Some(name.into()),
        uid: Some(uid.into()),
        ..ObjectReference::default()
    }
}

async fn publish_all(client: Client, instance: String, mut reports: mpsc::Receiver<Report>) {
    let mut published: HashMap<String, Instant> = HashMap::new();
    while let Some(report) = reports.recv().await {
        let name = event_name(&report);
        if !is_to_be_told(&mut published, &name, Instant::now()) {
            continue;
        }
        if let Err(error) = publish(&client, &instance, &name, &report).await {
            warn!(about = report.about.name, note = report.note, %error, "cannot write an Event");
        }
    }
}

/// Whether the Event was not `published` a moment ago. From now on it was, if that can be remembered.
fn is_to_be_told(published: &mut HashMap<String, Instant>, name: &str, now: Instant) -> bool {
    if published.get(name).is_some_and(|at| now - *at < REPEAT_AFTER) {
        return false;
    }
    if published.len() >= REMEMBERED_MAX {
        published.retain(|_, at| now - *at < REPEAT_AFTER);
    }
    if published.len() < REMEMBERED_MAX {
        published.insert(name.to_owned(), now);
    }
    true
}

fn event_name(report: &Report) -> String {
    let cause = format!("{:?}/{}/{}", report.about.uid, report.reason, report.note);
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, cause.as_bytes()).simple().to_string();
    let object: String = report.about.name.as_deref().unwrap_or("object").chars().take(200).collect();
    format!("{}.{}", object.trim_end_matches(['.', '-']), &hash[..16])
}

async fn publish(client: &Client, instance: &str, name: &str, report: &Report) -> Result<(), kube::Error> {
    let api: Api<Event> = Api::namespaced(client.clone(), report.about.namespace.as_deref().unwrap_or("default"));
    match api.create(&PostParams::default(), &event(instance, name, report)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let Some(old) = api.get_opt(name).await? else { return Ok(()) };
            let count = old.series.as_ref().map_or(1, |series| series.count) + 1;
            let series = EventSeries { count, last_observed_time: MicroTime(jiff::Timestamp::now()) };
            let patch = Patch::Merge(json!({ "series": series }));
            api.patch(&old.name_any(), &PatchParams::default(), &patch).await.map(drop)
        }
        // The object's namespace is going away: there is nobody left to tell.
        Err(kube::Error::Api(status)) if status.code == 403 || status.code == 404 => {
            debug!(name, message = status.message, "no Event written");
            Ok(())
        }
        other => other.map(drop),
    }
}

fn event(instance: &str, name: &str, report: &Report) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(report.about.namespace.clone().unwrap_or_else(|| "default".into())),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(jiff::Timestamp::now())),
        action: Some(report.action.into()),
        reason: Some(report.reason.into()),
        note: Some(shortened(&report.note, NOTE_MAX)),
        regarding: Some(report.about.clone()),
        reporting_controller: Some(CONTROLLER.into()),
        reporting_instance: Some(shortened(instance, 128)),
        type_: Some("Warning".into()),
        ..Event::default()
    }
}

/// At most `max` bytes of `text`, cut between characters.
pub fn shortened(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(note: &str) -> Report {
        Report { about: reference("Pod", "ns/web", "u1"), reason: "LadonPortFailed", action: "CreatePort", note: note.into() }
    }

    #[test]
    fn the_same_cause_is_the_same_event() {
        assert_eq!(event_name(&report("full")), event_name(&report("full")));
        assert_ne!(event_name(&report("full")), event_name(&report("away")));
        assert!(event_name(&report("full")).starts_with("web."));
    }

    #[test]
    fn a_cause_is_told_again_after_a_while_and_not_every_one_is_remembered() {
        let (mut published, now) = (HashMap::new(), Instant::now());
        let mut told = |name: usize, at: Instant| {
            let is_told = is_to_be_told(&mut published, &name.to_string(), at);
            assert!(published.len() <= REMEMBERED_MAX);
            is_told
        };
        assert!(told(0, now) && !told(0, now + REPEAT_AFTER / 2) && told(0, now + REPEAT_AFTER));
        let now = now + REPEAT_AFTER;
        assert!((1..=REMEMBERED_MAX).all(|name| told(name, now)));
        assert!(!told(REMEMBERED_MAX - 1, now) && told(REMEMBERED_MAX, now), "the last found no room");
        assert!(told(REMEMBERED_MAX, now + REPEAT_AFTER) && !told(REMEMBERED_MAX, now + REPEAT_AFTER), "now there is some");
    }

    #[tokio::test]
    async fn reports_beyond_those_that_may_wait_are_left_out() {
        let silent =
            |_: hyper::Request<kube::client::Body>| std::future::pending::<Result<hyper::Response<kube::client::Body>, std::io::Error>>();
        let (reporter, _task) = Reporter::new(Client::new(tower::service_fn(silent), "default"), "host".into());
        (0..WAITING_MAX + 10).for_each(|n| reporter.warn(report(&n.to_string())));
        assert_eq!((reporter.0.capacity(), reporter.0.max_capacity()), (0, WAITING_MAX));
    }

    #[test]
    fn an_event_is_one_that_kubernetes_takes() {
        let event = event("host", "web.1", &report(&"é".repeat(1000)));
        assert!(event.note.unwrap().len() <= NOTE_MAX);
        assert_eq!(event.metadata.namespace.as_deref(), Some("ns"));
        assert_eq!(event.regarding.unwrap().name.as_deref(), Some("web"));
    }
}
