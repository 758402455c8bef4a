//! OVSDB as plain data: messages, values, transactions and a replica, without any I/O.
//!
//! The story of a client: bytes from the server go into a [`Framer`], which cuts them into JSON values; each becomes a
//! [`Message`]. The client asks for the [`Schema`], builds a [`Monitor`] of the columns that it needs and an empty
//! [`Replica`] of them, and sends `monitor_cond_since`. The reply and every later `update3` go into the replica, which
//! answers with the [`Change`]s that they made. Changes of its own are a [`Transaction`] of [`Operation`]s, whose reply
//! is read by [`Transaction::outcomes`]: either one [`Outcome`] for each operation, or the operation that failed and why.
//!
//! The protocol is RFC 7047 with the extensions of ovsdb-server(7) that Open vSwitch has had since 2.12:
//! `monitor_cond_since`, `monitor_cond_change`, `update3`.
//!
//! Deliberately not here: sockets, time-outs, reconnection (the node's `bridge` module), clustered-database leader
//! tracking, and the constraints of the schema (ranges, enumerations): the server checks those.

mod error;
mod frame;
mod message;
mod monitor;
mod operation;
mod outcome;
mod replica;
mod row;
mod schema;
mod value;

pub use error::DecodeError;
pub use frame::{Framer, MESSAGE_BYTES_MAX};
pub use message::{Message, call};
pub use monitor::{Monitor, MonitorReply, TableUpdates, Update};
pub use operation::{Condition, Function, Insert, Mutation, Mutator, Operation, Transaction, Until};
pub use outcome::{Outcome, TransactionError};
pub use replica::{Change, Delta, Replica, ReplicaError, Table};
pub use row::Row;
pub use schema::{AtomType, ColumnType, Max, Schema, TableSchema};
pub use value::{Atom, Value, named_uuid};

/// The name of a table or a column; cheap to clone, because rows and changes carry it.
pub type Name = std::sync::Arc<str>;

/// JSON as the wire carries it.
pub type Json = serde_json::Value;

pub use uuid::Uuid;
