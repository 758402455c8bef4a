//! What can go wrong at the border of this crate.

use std::path::PathBuf;

use dial::DialError;
use ipnet::IpNet;

use crate::alone::AloneError;

/// Why `ladon kube` ended. What may heal by itself (a server that is away) is tried again and never ends up here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configuration of ladon kube")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    NotAlone(#[from] AloneError),
    #[error("topology of the cluster")]
    Topology(#[from] TopologyError),
    #[error("reading the kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error("using the pod's service account; outside of a cluster, set `kubeconfig`")]
    InCluster(#[from] kube::config::InClusterError),
    #[error("making a client for Kubernetes")]
    Client(#[source] Box<kube::Error>),
}

/// What began it: clients of HTTP tell what matters in the last of an error's causes only.
pub fn first_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&cause| cause.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

/// A mistake in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}")]
    Syntax(String),
    #[error("{field}: {why}")]
    Value { field: &'static str, why: String },
    #[error("api.endpoint and api.ca: {0}")]
    Dial(#[from] DialError),
    #[error("reading the token from {path}")]
    TokenFile { path: PathBuf, source: std::io::Error },
    #[error("reading the host's name for the Lease; set lease.holder")]
    HostName(#[source] std::io::Error),
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
    #[error("{0} is too large: the Service subnet is one bit shorter than the range, and there is no such prefix")]
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
