//! What can go wrong at the border of this crate.

use std::path::PathBuf;

use dial::DialError;
use ipnet::IpNet;

use crate::alone::AloneError;

/// What it means for traffic that an instance does not run.
const WITHOUT_IT: &str =
    "this instance changes nothing: traffic goes on, and pods and Services that are new or change wait, unless another one is active";

/// Why `ladon kube` ended. What may heal by itself (a server that is away) is tried again and never ends up here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    NotAlone(#[from] AloneError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("the kubeconfig {path} cannot be used: {why}; {without}; correct it, or name another file with `kubeconfig`", without = WITHOUT_IT)]
    Kubeconfig { path: PathBuf, why: String },
    #[error(
        "no kubeconfig is named, and there is no service account of a pod to use ({0}); {without}; outside of a cluster, set `kubeconfig`",
        without = WITHOUT_IT
    )]
    InCluster(#[from] kube::config::InClusterError),
    #[error(
        "what is known of Kubernetes makes no client: {why}; {without}; correct what `kubeconfig` names, or the pod's service account",
        without = WITHOUT_IT
    )]
    Client { why: String },
}

/// What began it: clients of HTTP tell what matters in the last of an error's causes only.
pub fn first_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&cause| cause.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

/// A mistake in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("`{field}` {what}; {without}; {to_do}", without = WITHOUT_IT)]
    Value { field: &'static str, what: &'static str, to_do: &'static str },
    #[error("`api.endpoint` or `api.ca`: {0}; {without}; correct it", without = WITHOUT_IT)]
    Dial(#[from] DialError),
    #[error("`api.token_file` {path} cannot be read: {source}; {without}; check that it is there and who may read it", without = WITHOUT_IT)]
    TokenFile { path: PathBuf, source: std::io::Error },
    #[error("the host's name, for the Lease, cannot be read: {source}; {without}; set `lease.holder`", without = WITHOUT_IT)]
    HostName { source: std::io::Error },
}

/// Ranges that do not fit together.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TopologyError {
    #[error(
        "{first} and {second} overlap: a packet to an address in both has two destinations, so nothing was made; change one of the \
         two (network.pods of ladon kube, --service-cluster-ip-range of kube-apiserver). A Service subnet is twice as large as its \
         range: the gateway lies in the other half"
    )]
    Overlap { first: Range, second: Range },
    #[error(
        "{0} is too large: the Service subnet is one bit shorter than the range, and there is no such prefix, so nothing was made; give \
         kube-apiserver a smaller --service-cluster-ip-range, and network.services the same"
    )]
    TooLarge(Range),
    #[error(
        "Kubernetes names no Service range: without one no Service gets an address on the network; set network.services \
         (kube-apiserver older than 1.33 has no ServiceCIDR API)"
    )]
    NoServiceRange,
}

/// A range and what it is for, as a person should read it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range {
    pub role: &'static str,
    pub prefix: IpNet,
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.role, self.prefix)
    }
}
