//! What can go wrong between the node and its switch.

use openflow::{EncodeError, ErrorMessage, Message};

/// Why a request to the switch has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// No connection at the moment; the link tries again by itself.
    #[error("there is no connection to the switch")]
    NotConnected,
    /// The connection broke while the request was under way; whether it took effect is unknown.
    #[error("the connection to the switch broke before the answer")]
    Disconnected,
    #[error("the switch did not answer for {} s", super::REQUEST_TIMEOUT.as_secs())]
    TimedOut,
    #[error("the switch refused {message}: {error}")]
    Refused { message: String, error: ErrorMessage },
    #[error("a message cannot be written")]
    Encode(#[from] EncodeError),
    #[error("the switch answered with something else than was asked")]
    Unexpected,
    /// The link's task has ended; the process is shutting down.
    #[error("the link to the switch has ended")]
    Stopped,
}

/// A message that the switch did not take.
#[derive(Debug)]
pub struct Failure {
    pub message: Message,
    pub error: Refusal,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    BySwitch(ErrorMessage),
    /// OpenFlow has no form for it.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl From<ErrorMessage> for Refusal {
    fn from(error: ErrorMessage) -> Refusal {
        Refusal::BySwitch(error)
    }
}

/// Why changes were not made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// They are not in force. What was sent with them may be.
    #[error("the switch refused {} message(s), first {}", .failures.len(), first(.failures))]
    Refused { failures: Vec<Failure> },
    #[error(transparent)]
    Switch(#[from] SwitchError),
}

fn first(failures: &[Failure]) -> String {
    failures.first().map_or_else(String::new, |failure| format!("{}: {}", describe(&failure.message), failure.error))
}

/// A message in the words of an operator's log line.
pub(crate) fn describe(message: &Message) -> String {
    match message {
        Message::FlowMod(flow) => {
            let (table, priority) = (flow.table, flow.priority);
            let (matching, instructions) = (&flow.matching, &flow.instructions);
            format!("flow {:?} table={table} priority={priority} {matching} actions={instructions}", flow.command)
        }
        Message::MeterMod(change) => format!("meter {:?} {}", change.command, change.meter.id),
        Message::GroupMod(group) => format!("group {:?} {} ({} buckets)", group.command, group.id, group.buckets.len()),
        Message::BundleControl(control) => format!("bundle {:?}", control.kind),
        Message::BundleAdd { message, .. } => describe(message),
        Message::PacketOut(_) => "a packet-out".to_owned(),
        other => format!("{other:?}").chars().take(80).collect(),
    }
}
