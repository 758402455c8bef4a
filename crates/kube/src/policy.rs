//! NetworkPolicies: nothing here enforces them, and whoever wrote one is told so by an Event on it.
//!
//! A policy that does nothing without a word would be taken for one that protects. What limits pods' traffic on Ladon's
//! networks are the security groups of their ports.

use futures::StreamExt;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::watcher;
use kube::{Api, Client};

use crate::events::{Report, Reporter, reference};
use crate::mirror::{Change, Mirror, watch};

/// Tells of every policy that is there or comes. Runs until it is dropped.
pub async fn report_all(client: Client, reporter: Reporter) {
    let mut events = watch::<NetworkPolicy>(Api::all(client), watcher::Config::default(), "networkpolicies");
    let mut policies: Mirror<String> = Mirror::new();
    while let Some(event) = events.next().await {
        for Change { name, after, .. } in policies.apply(event, |policy| policy.metadata.uid.clone()) {
            if let Some(uid) = after {
                reporter.warn(ignored(&name, &uid));
            }
        }
    }
}

fn ignored(name: &str, uid: &str) -> Report {
    let note = format!(
        "NetworkPolicy {name} is not enforced: the pods that it selects send and get traffic as if it were not there; give their ports security \
         groups instead (openstack port set), or take it away"
    );
    let mut about = reference("NetworkPolicy", name, uid);
    about.api_version = Some("networking.k8s.io/v1".into());
    Report { about, reason: "LadonPolicyIgnored", action: "Enforce", note }
}
