//! The node's hold on Open vSwitch's configuration: bridges, ports and what is plugged into them, by OVSDB.
//!
//! A [`Link`] is a handle on one task that owns the connection to `db.sock`. The task keeps a replica of the few columns
//! that matter, publishes the interfaces of the integration bridge whenever they change (so that a tap that Nova or
//! libvirt plugs is seen within milliseconds, by its `external_ids:iface-id` alone), and makes things so when asked:
//!
//! ```text
//!   ensure_port ──mpsc──▶ goal: plan ─▶ transaction ─▶ plan is empty ─▶ vswitchd has taken it in force ─▶ answer
//!                               ▲             │                 (Open_vSwitch.cur_cfg, Interface.ofport or error)
//!                               └─ lost, or overtaken by another writer
//! ```
//!
//! A goal is compared with the replica first, so asking for what is already so costs no transaction, and asking again
//! after a lost connection is safe. The connection is made again for ever, with a capped pause; what was published stays
//! until the database says otherwise. When ovsdb-server is away, traffic flows on (on the userspace datapath it waits:
//! ovs-vswitchd does nothing without its database), and changes wait.
//!
//! Who does what: [`Link`] and its task move messages; `session` is one connection; `goal` and `plan` decide, as plain
//! functions of the replica; `interfaces` reads out what is published.
//!
//! Deliberately not here: OpenFlow (the node uses the bridge's `.mgmt` socket, so no `Controller` row is written), the
//! devices behind ports, and other people's bridges and ports, which are never touched.

mod columns;
mod error;
mod goal;
mod interfaces;
mod keep;
mod link;
mod plan;
mod session;
mod spec;
mod task;
#[cfg(test)]
pub mod tests {
    pub mod by_hand;
}

pub use error::BridgeError;
pub use interfaces::{Interface, Interfaces, OfPort};
pub use keep::{Kept, keep};
pub use link::{Connection, Link, Settings};
pub use spec::{BridgeSpec, PortSpec};
