//! A real Kubernetes: its programs, container images without a registry, and a cluster on the lab's hosts.
//!
//! Every node is a host with its own containerd and kubelet. Nothing here sets up pod networking: nodes are NotReady until
//! somebody puts a CNI configuration into [`Worker::cni_conf`]. There is no kube-proxy.

mod access;
mod api;
pub(crate) mod build;
mod cluster;
mod control;
mod image;
mod images;
pub(crate) mod pki;
pub(crate) mod programs;
mod worker;

pub use api::{Api, Response};
pub use cluster::{Cluster, ClusterOptions};
pub use image::Image;
pub use images::{AGNHOST, COREDNS, Images, PAUSE, TOOLS, images};
pub use programs::{Programs, cache_dir, kube_proxy, programs};
pub use worker::Worker;
