//! The operator's commands, one file per thing that they are about.

mod cluster;
mod flows;
mod pki;
mod plug;
mod store;

pub use cluster::{nodes, ports, wait};
pub use flows::flows;
pub use pki::pki;
pub use plug::{plug, unplug};
pub use store::store;
