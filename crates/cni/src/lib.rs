//! `ladon-cni`: how a container runtime asks for a pod's interface.
//!
//! The runtime starts the plugin with `CNI_*` variables and a JSON document on standard input ([`environment`], [`config`]).
//! The plugin asks the node over a unix socket ([`daemon`]) what the pod's port looks like and waits until the node knows it.
//! It then makes the veth pair itself, synchronously over netlink ([`netlink`], [`interface`]): one end stays in the namespace
//! the plugin was started in, under a name that follows from (container, interface); the other is born inside the pod under its
//! final name. The node adds the first end to the switch and answers when the port's flows are in it; meanwhile the plugin gives
//! the second its addresses and routes. The result or the error goes to standard output in the shape of the version that was
//! asked for ([`result`], [`error`]).
//!
//! Source: the CNI specification 1.1.0 and its predecessors 1.0.0, 0.4.0 and 0.3.1.
//!
//! Deliberately *not* here: flows, OVSDB, the Kubernetes API. What is known about a pod, the node knows.

pub mod config;
pub mod daemon;
pub mod environment;
pub mod error;
pub mod interface;
pub mod log;
pub mod netlink;
pub mod offload;
pub mod plugin;
pub mod result;
pub mod version;

pub use error::{Error, Result};
pub use interface::host_ifname;
pub use version::Version;
