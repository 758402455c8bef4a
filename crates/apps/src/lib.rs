//! Network features as pure functions from a node's view to flows.
//!
//! A [`View`] is what the node must know: the objects that the server sent, and what is attached here. An [`App`] is a
//! function that reads a little of it and says which flows one object needs. The [`Engine`] runs apps: it remembers what
//! each run read, re-runs only what read something changed, and says how the desired flows differ from before. There is no
//! other change handling anywhere.
//!
//! Invariants: an app never sees another app, a connection, the clock or the previous view. Same view, same flows. Every
//! full recompute equals the incremental result.

mod app;
mod apps;
mod domains;
mod engine;
mod few;
mod identities;
mod merge;
mod numbers;
mod sight;
mod view;

pub mod balancing;
pub mod classify;
pub mod host_config;
pub mod l2;
pub mod neighbours;
pub mod routing;
pub mod scenario;
pub mod security;
pub mod spoof;
pub mod testing;

pub use app::{App, Output, Root, RootKind};
pub use apps::ALL;
pub use engine::{Delta, Engine, Work};
pub use numbers::{NumberKey, Numbers};
pub use sight::Sight;
pub use view::{Attachment, Change, Dep, Here, Index, View, find};
