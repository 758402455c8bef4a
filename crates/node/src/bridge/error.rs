//! Why a request to the link was not granted.

use ovsdb::TransactionError;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The rows are written, but ovs-vswitchd could not make the port; it tries again when the device appears.
    #[error("Open vSwitch could not make port {port}: {reason}")]
    PortRefused { port: String, reason: String },
    #[error("there is no bridge {bridge}")]
    NoBridge { bridge: String },
    #[error("there is no interface {interface}")]
    NoInterface { interface: String },
    #[error("port {port} is on bridge {bridge}; remove it there first")]
    PortElsewhere { port: String, bridge: String },
    #[error("writing {what} to Open vSwitch's database")]
    Transaction { what: String, source: TransactionError },
    #[error("{what}: other writers undid it {tries} times; find who else configures it")]
    Contended { what: String, tries: u32 },
    #[error("{what}: {waiting_for} after {} s", waited.as_secs_f32())]
    Deadline {
        what: String,
        waiting_for: &'static str,
        /// Whether the database is as wanted, and only ovs-vswitchd has not taken it in force.
        is_written: bool,
        waited: Duration,
    },
    #[error("the link to Open vSwitch's database has ended")]
    Closed,
}

impl BridgeError {
    /// The database is as wanted: ovs-vswitchd, which is away, takes it in force when it is back.
    pub fn is_written(&self) -> bool {
        matches!(self, BridgeError::Deadline { is_written: true, .. })
    }
}
