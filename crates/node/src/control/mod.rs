//! The node's control socket: what an operator on this machine asks the node with `ladon flows`, `ladon plug` and `ladon unplug`.

pub mod protocol;
mod server;

pub use protocol::{Because, DEFAULT_SOCKET, FlowLine, LINE_MAX, Link, PlugRequest, PluggedInterface, Reply, Request, Status, table_names};
pub use server::Control;
