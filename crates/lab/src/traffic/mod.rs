//! Test traffic from inside any network namespace: echo requests with exact counts, TCP and UDP probes, a server, a
//! connection that goes on, new connections one after the other.
//!
//! Workloads that have no namespace of ours (virtual machines) run their own tools.

use std::net::{SocketAddr, TcpListener};

use crate::error::{Doing, Result};
use crate::netns::Netns;

mod connecting;
mod ping;
mod probe;
mod server;
mod stream;

pub use connecting::{ConnectReport, Connecting};
pub use ping::{PingReport, Pinging, is_reachable, ping};
pub use probe::{Probe, http_get, tcp, udp};
pub use server::EchoServer;
pub use stream::{StreamReport, Streaming};

/// Listens on every address of the namespace; IPv6 sockets take IPv4 too.
fn listen(on: &Netns, port: u16) -> Result<TcpListener> {
    let any = SocketAddr::from(([0u16; 8], port));
    on.within(|| TcpListener::bind(any))?.doing(|| format!("listening on port {port}"))
}

/// The longest packet that is received.
const PACKET_MAX: usize = 65_535;
