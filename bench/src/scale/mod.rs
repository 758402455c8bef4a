//! What `make bench-scale` measures: Ladon and OVN 25.03 under the same work at growing sizes, and Ladon by itself where there is no peer.
//!
//! ```text
//! nodes      one node in the middle of up to 20,000 ports: fresh start, ports, edits, memory
//! alone      Ladon by itself up to 100,000 ports: what does not grow
//! hitless    restarts and upgrades beside very many flows
//! services, groups, rules, dhcp, packets      one kind of work each
//! fleet      thousands of nodes on one server, and on three servers and etcd
//! ```
//!
//! The layout is that of the usual measurements of OVN: networks of 100 ports on one router, so that everything is within reach of
//! the node, or ten tenants of which the node serves one; a security group with five rules for each network, 50 ports on the node.
//! What is changed through Ladon's API counts until the server says that the node has acknowledged it; in OVN, until `hv_cfg` does.
//! Both are told after an OpenFlow barrier.

pub mod alone;
pub mod dhcp;
pub mod fleet;
pub mod groups;
pub mod hitless;
pub mod nodes;
pub mod packets;
mod refusals;
pub mod rules;
pub mod services;

/// Why ten times less than OVN takes may not be reached for small changes.
pub const FIXED: &str = "a change is on the disk before it is answered, and goes to the node and back by TCP and TLS, which takes some milliseconds whatever there is; \
                         OVN's databases do not wait for the disk, and are reached by unix sockets";

/// Why a node's start may take longer.
pub const ONE_THREAD: &str = "one thread indexes the view, compiles it and compares it, and the switch takes the flows meanwhile";
