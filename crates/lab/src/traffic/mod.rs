//! Test traffic from inside any network namespace: echo requests with exact counts, TCP and UDP probes, a server.
//!
//! Workloads that have no namespace of ours (virtual machines) run their own tools.

mod ping;
mod probe;
mod server;

pub use ping::{PingReport, Pinging, is_reachable, ping};
pub use probe::{Probe, http_get, tcp, udp};
pub use server::EchoServer;

/// The longest packet that is received.
const PACKET_MAX: usize = 65_535;
