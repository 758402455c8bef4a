//! The stream between a server and a node: `ladon.v1.Views/Follow`, gRPC over mutual TLS.
//!
//! ```text
//!  node                                             server
//!   │ Hello{who, where I stand} ───────────────────▶ │  certificate says `node:<name>`, Hello must say the same
//!   │ Report{full} ────────────────────────────────▶ │
//!   │ ◀────────── SnapshotBegin, Chunk…, End         │  only if the change log cannot bridge the gap
//!   │ ◀────────── Delta{from, to, upserts, removals} │  for as long as the stream lives
//!   │ ◀────────── Heartbeat{revision}                │  nothing for you up to here; 0: wait, it is not your turn yet
//!   │ Report{what changed} ────────────────────────▶ │
//! ```
//!
//! What a node says is *state*, not events: the first report of a stream is everything, later ones are differences to it, so
//! a lost stream loses nothing. What a server says is a set of objects and how it changes; both ends keep a hash of the
//! set's keys ([`InterestHash`]), and a node whose hash is not the server's asks for a snapshot.
//!
//! Objects travel as JSON, encoded once for all who receive them. The messages are written by hand (`wire`), as `protoc`
//! would write them, so that nobody needs `protoc` to build Ladon; the numbers in their attributes are the protocol.
//!
//! Deliberately *not* here: which objects a node receives (`server::views`), and what it does with them (`node::view`).

mod accept;
mod follow;
mod frames;
mod hash;
pub mod pki;
mod serve;
mod tls;
pub mod wire;

use std::time::Duration;

pub use accept::accepted;
pub use follow::{FollowError, Following, Target, authority, follow, follow_from, reason};
pub use hash::InterestHash;
pub use serve::{Follower, HANDSHAKES_PER_PEER_MAX, Listener, STREAMS_PER_CONNECTION, ServeError};
pub use tls::{Credentials, TlsError, describe};

/// The generation of what is sent. A server refuses a node of another generation instead of confusing it.
pub const VIEW_FORMAT: u32 = 1;

/// Largest gRPC message in either direction, in bytes. A larger one ends the stream.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// A snapshot's chunk and a delta's part are closed when they hold this many bytes. Of each stream that is slow, a few wait in the
/// server's memory: small ones, so that thousands of nodes may be slow at once.
pub const CHUNK_BYTES: usize = 32 << 10;

/// An idle connection is probed this often (HTTP/2 ping), on both sides.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A probe that is not answered for this long ends the connection.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A server tells a node this often up to which revision there is nothing new for it.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// A stream that has not said Hello by then is closed.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A node gives up connecting to one server address after this long, and tries the next.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The name in every server's certificate, whatever its address. Nodes accept no other.
pub const SERVER_NAME: &str = "ladon-server";
