//! Ladon on the lab's machines: what `make demo` starts, and what the tests on real parts share with it.
//!
//! Everything here uses Ladon as an operator would: its programs, its configuration files, its REST API. It knows nobody's
//! insides.

mod api;
pub mod claims;
mod deployment;
mod guest;
mod load;
pub mod older;
mod pair;
mod peer;
mod sandbox;
mod workload;
pub mod world;

pub use api::Api;
pub use deployment::{Deployment, NodeParts, ServerParts, Tunnel};
pub use pair::{Balanced, Pair, Plugged, id};
pub use sandbox::Sandbox;
pub use workload::Workload;
