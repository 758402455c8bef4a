//! The node: makes this machine's Open vSwitch equal to the node's view.
//!
//! ```text
//!               view::Link ── changes of the view ──▶ ┌───────┐ ── flows, groups ──▶ switch::Switch ──▶ ovs-vswitchd
//!  server ◀──▶             ◀── facts ──────────────── │ agent │ ◀── connected, disturbed ──┘   │
//!                                                     └───────┘                                ▼ packet-ins
//!  ovsdb-server ◀──▶ bridge::Link ── interfaces ─────────▲ │ Local, InForce (watch)         respond
//!                        ▲                                 ▼
//!  ladon-cni ──▶ pods ───┤        the operator ──▶ control ──▶ agent, host
//!                        ├─────── host (the machine's own interfaces)
//!                        ├─────── clearing away of pods (those that went without a word)
//!                        └─────── bridge (keeps it, its tunnel and what is plugged in)
//!
//!  agent ── what changes affect ──▶ connections (ends what rules forbid) ──▶ ovs-vswitchd
//!        ── zones ──▶ limits of connections ──▶ ovs-vswitchd
//! ```
//!
//! Each box is one task that owns its state; arrows are bounded channels or watches. Whatever ends, [`run`] ends with it, and
//! the service manager starts it again: a restart changes nothing that is already right.

pub mod agent;
pub mod bridge;
pub mod config;
pub mod connections;
pub mod control;
pub mod host;
pub mod install;
pub mod local;
mod memory;
mod pauses;
pub mod plugged;
pub mod pods;
pub mod record;
pub mod respond;
mod run;
mod socket;
pub mod switch;
pub mod translate;
pub mod view;
pub mod zones;

pub use config::Config;
pub use run::{NodeError, run};
