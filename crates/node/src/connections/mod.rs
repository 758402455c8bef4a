//! Connections that must end do end.
//!
//! Answers pass a port's rules because the switch remembers the connection, and a client keeps its member because the switch
//! remembers the translation. So whoever takes away a rule, a member of a remote group or a load balancer's member has not
//! ended anything yet. After such a change, and once its flows are in force, the connections in the zones of the ports that
//! it affects are read from ovs-vswitchd, judged by the view of the moment, and exactly those that may not go on are flushed.
//!
//! ```text
//!  agent ── Affected (merging) ──▶ task ── dpctl/dump-conntrack zone=N ──▶ ovs-vswitchd
//!    ▲                              │ │
//!    └── Ask::Judge: entries ───────┘ └──── exact tuples (NXT_CT_FLUSH) ──▶ switch
//! ```
//!
//! [`affected`] and [`ended`] are pure. After a (re)start, or whenever the switch was compared with everything, nobody knows
//! what changed meanwhile: then all zones are judged once, slowly, because reading costs ovs-vswitchd time that it forwards
//! in (userspace datapath). Zones of ports that went away are not looked at: they are flushed before another port gets them.

mod affected;
mod ended;
mod entry;
mod limit;
mod mailbox;
mod task;
mod unixctl;

pub use affected::{Affected, affected};
pub use ended::{Case, Memory, ended};
pub use entry::{Entry, L4, Listing, Tuple, listing};
pub use limit::keep_limits;
pub use mailbox::{Mailbox, Outbox, mailbox};
pub use task::Connections;
pub use unixctl::{Unixctl, UnixctlError};
