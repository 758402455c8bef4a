//! The node: makes this machine's Open vSwitch equal to the node's view.

pub mod bridge;
pub mod control;
pub mod translate;
