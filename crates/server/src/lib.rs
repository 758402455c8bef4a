//! The server: the API, the allocators, and each node's view.
//!
//! ```text
//!  Neutron REST ─┐                ┌── State: latest durable picture, with indexes ──▶ reads of the API
//!  Octavia REST ─┼─▶ Core::write ─┤
//!  nodes' status ┘   (one thread) └── Commit: what changed ──▶ views ──▶ nodes
//! ```
//!
//! Tasks and what they own: the *writer* (one thread, `writer`) owns the store and the allocators' records; every HTTP
//! connection and every node's stream has a task of its own, which reads the published [`State`] and hands closures to the
//! writer; long lists are put together by threads of their own (`http::Lists`). Nobody else writes, so two requests can never lose an update
//! or take one address.

pub mod auth;
pub mod config;
pub mod http;
mod idempotent;
pub mod ipam;
mod keys;
pub mod neutron;
pub mod octavia;
mod run;
pub mod state;
pub mod views;
mod writer;

pub use config::Config;
pub use run::{RunError, Server, open_store, run};
pub use state::{Change, Commit, State};
pub use writer::{ATTEMPTS_MAX, BATCH_MAX, Clock, Core, LAG_MAX, Lagged, QUEUE_MAX, Subscription, Tx, WriteError, Writer, Written};
