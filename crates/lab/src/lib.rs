//! Real parts on one machine, for the demo, tests and benchmarks: network namespaces as hosts, Open vSwitch, Kubernetes,
//! virtual machines, and the traffic to try them with.
//!
//! ```text
//!  Lab ── Underlay (a bridge) ──┬── Host control ── Ovs (br-phy) ── Cluster: etcd, kube-apiserver, ...
//!  owns all that it started     ├── Host n1 ─────── Ovs (br-phy) ── Worker: containerd, kubelet
//!                               └── Host n2 ─────── Ovs (br-phy) ── Vm on a tap
//! ```
//!
//! A value owns what it started and removes it when it is dropped, and the [`Lab`] removes everything: at its end, on a
//! panic, on SIGINT and SIGTERM, and from a later process ([`Lab::take_down`]) when it was kept or its owner was killed.
//! Nothing sleeps and hopes: [`wait`] looks at a condition until a deadline. The crate knows none of Ladon's insides; the
//! controller is started on hosts like any other program. It must run as root, on Debian.

pub mod command;
mod containers;
pub mod debian;
mod error;
pub mod etcd;
mod host;
pub mod kubernetes;
mod lab;
mod netns;
mod ovs;
mod process;
mod procfs;
mod progress;
pub mod say;
mod signals;
mod state;
mod sys;
mod teardown;
pub mod traffic;
pub mod vm;
pub mod wait;

pub use command::Output;
pub use error::{Doing, LabError, Result, chain};
pub use host::{Host, Underlay};
pub use lab::{Lab, MARK, NAME_MAX, is_name};
pub use netns::Netns;
pub use ovs::{BRIDGE as UNDERLAY_BRIDGE, NICE as SWITCH_NICE, Ovs};
pub use process::{Process, Spec};
pub use progress::{Progress, Step};
pub use signals::{OnInterrupt, on_interrupt};
pub use state::FILE as RECORD;

/// Where caches that outlive every lab belong.
fn cache_root() -> std::path::PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(std::path::PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    base.unwrap_or_else(|| "/var/cache".into()).join("ladon")
}
