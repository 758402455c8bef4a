//! The link to Open vSwitch's flow tables: OpenFlow 1.5 over the bridge's management socket.
//!
//! ```text
//! Switch (handles, cloneable) ──bounded mpsc of commands──▶ Link (one task, owns the socket) ──▶ <bridge>.mgmt
//!                             ◀──one answer per command───         │
//! whoever reads the events    ◀──bounded mpsc of events────────────┘
//! ```
//!
//! The task connects, agrees on OpenFlow 1.5, chooses packet-in format and fragment handling, begins the flow
//! monitor, and then serves: commands become messages, answers find their command by transaction id, everything else
//! becomes an [`Event`]. When the connection breaks, commands under way fail, later ones fail at once, and the task
//! connects again with a growing pause. [`Event::Connected`] says that everything must be read back: what happened
//! without a connection is not told.
//!
//! Reading, writing and answering never wait for each other, nor for a slow reader of events: packet-ins are dropped
//! and counted when nobody takes them, any other news waits up to [`EVENTS_WAITING_MAX`], and beyond that the
//! connection is begun anew, because reading everything back is the same as hearing all news.

mod changes;
mod codec;
mod error;
mod link;
pub mod meters;
mod pending;
mod read_back;
#[cfg(test)]
pub mod tests {
    pub mod by_hand;
    mod committing;
}

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use openflow::{
    CtFlush, Features, FlowUpdate, InstalledFlow, InstalledGroup, Message, MultipartBody, MultipartRequest, PacketIn2, PacketOut, fragments,
};
use tokio::sync::{mpsc, oneshot};

use changes::takes_away;
pub use changes::{Changes, SLICE_MAX};
pub(crate) use error::describe;
pub use error::{CommitError, Failure, Refusal, SwitchError};
use link::Link;
use pending::Command;
pub use read_back::PART_MIN;

/// A request fails when the switch says nothing about it for so long; each part of a long answer starts it anew.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for connecting and agreeing on everything; then the attempt counts as failed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The switch is asked for a sign of life after so much silence.
pub const PROBE_AFTER: Duration = Duration::from_secs(5);
/// The switch is taken for dead after so much silence, and connected to anew.
pub const SILENCE_MAX: Duration = Duration::from_secs(20);
/// First pause between attempts to connect; doubled each time, up to the longest.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Longest pause between attempts to connect.
pub const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Commands that wait for the link; callers wait beyond that.
pub const COMMANDS_MAX: usize = 64;
/// Requests under way at once; commands beyond that wait.
pub const PENDING_MAX: usize = 64;
/// Bytes that wait for the switch to read them before further commands must wait.
pub const OUT_MAX: usize = 8 << 20;
/// Events that wait for their reader; beyond that packet-ins are dropped.
pub const EVENTS_MAX: usize = 1024;
/// News other than packet-ins that waits behind a full channel before the connection is begun anew.
pub const EVENTS_WAITING_MAX: usize = 65_536;
/// Refused messages that are named; further ones of the same bundle are not.
pub const FAILURES_MAX: usize = 16;
/// Bundles that are on their way at once: the switch reads the next while it takes one.
const BUNDLES_AT_ONCE: usize = 2;

/// What to connect to, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bridge's `<bridge>.mgmt` in the run directory of ovs-vswitchd.
    pub socket: PathBuf,
    /// One of [`openflow::fragments`].
    pub fragments: u16,
    /// Hear of flows that others change.
    pub monitor_flows: bool,
}

impl Options {
    /// As Ladon wants a switch: first fragments keep their ports, changes by others are told.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Options { socket: socket.into(), fragments: fragments::NX_MATCH, monitor_flows: true }
    }
}

/// News from the switch.
#[derive(Debug)]
pub enum Event {
    /// A connection is up; read everything back.
    Connected(Features),
    /// It is gone, and why.
    Disconnected(String),
    /// A packet that a flow sent here; boxed, as are the other large ones.
    PacketIn(Box<PacketIn2>),
    /// Somebody else changed a flow, or the monitor paused.
    FlowUpdate(Box<FlowUpdate>),
    /// Somebody else changed a group or a meter.
    GroupsChanged,
}

/// A handle on the link. The link ends with its last handle.
#[derive(Clone, Debug)]
pub struct Switch {
    commands: mpsc::Sender<Command>,
    packet_ins_dropped: Arc<AtomicU64>,
    /// Meters that the switch did not take, as it was said last.
    meters_lacking: Arc<AtomicUsize>,
    /// Flows that name meters may be older than these.
    has_newer_meters: Arc<AtomicBool>,
}

impl Switch {
    /// Starts the link's task. It connects by itself; the first [`Event::Connected`] tells when.
    pub fn start(options: Options) -> (Self, mpsc::Receiver<Event>) {
        let (commands, commands_out) = mpsc::channel(COMMANDS_MAX);
        let (events_in, events) = mpsc::channel(EVENTS_MAX);
        let packet_ins_dropped = Arc::new(AtomicU64::new(0));
        let counter = packet_ins_dropped.clone();
        let link = Link { options, commands: commands_out, events: events_in, packet_ins_dropped: counter };
        tokio::spawn(link.run());
        (Switch { commands, packet_ins_dropped, meters_lacking: Arc::default(), has_newer_meters: Arc::default() }, events)
    }

    /// Packet-ins dropped because the events were not read fast enough.
    pub fn packet_ins_dropped(&self) -> u64 {
        self.packet_ins_dropped.load(Ordering::Relaxed)
    }

    /// Every flow of the switch, asked for in parts: it forwards in between.
    ///
    /// # Errors
    /// As any request: not connected, timed out, refused.
    pub async fn dump_flows(&self) -> Result<Vec<InstalledFlow>, SwitchError> {
        let MultipartBody::TableStats(tables) = self.multipart(MultipartRequest::TableStats).await? else {
            return Err(SwitchError::Unexpected);
        };
        let mut flows = Vec::new();
        for part in read_back::parts(&tables) {
            flows.extend(self.flows(MultipartRequest::Flows(part)).await?);
        }
        Ok(flows)
    }

    async fn flows(&self, request: MultipartRequest) -> Result<Vec<InstalledFlow>, SwitchError> {
        match self.multipart(request).await? {
            MultipartBody::Flows(flows) => Ok(flows),
            _ => Err(SwitchError::Unexpected),
        }
    }

    /// Every group of the switch.
    ///
    /// # Errors
    /// As any request.
    pub async fn dump_groups(&self) -> Result<Vec<InstalledGroup>, SwitchError> {
        match self.multipart(MultipartRequest::all_groups()).await? {
            MultipartBody::Groups(groups) => Ok(groups),
            _ => Err(SwitchError::Unexpected),
        }
    }

    /// Gives the switch the meters that it lacks. Those that it does not take are done without: a flow that names a meter that is not
    /// there hands over without a limit.
    ///
    /// # Errors
    /// As any request; but what the switch refuses is no error.
    pub async fn ensure_meters(&self) -> Result<(), SwitchError> {
        let missing = self.missing_meters().await?;
        let (mut lacking, mut refusal) = (0, None);
        for some in meters::in_growing_parts(missing) {
            match self.exchange(some).await {
                Ok(()) => self.has_newer_meters.store(true, Ordering::Relaxed),
                Err(SwitchError::Refused { error, .. }) => {
                    refusal = Some(error);
                    lacking = self.missing_meters().await?.len();
                    break;
                }
                Err(error) => {
                    // They may have come all the same.
                    self.has_newer_meters.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        if self.meters_lacking.swap(lacking, Ordering::Relaxed) != lacking {
            meters::tell(lacking, refusal);
        }
        Ok(())
    }

    /// Whether meters came of which the flows that name them do not know yet.
    pub fn has_newer_meters(&self) -> bool {
        self.has_newer_meters.load(Ordering::Relaxed)
    }

    /// All flows that name meters were written after these.
    pub fn note_metered_written(&self) {
        self.has_newer_meters.store(false, Ordering::Relaxed);
    }

    async fn missing_meters(&self) -> Result<Vec<Message>, SwitchError> {
        match self.multipart(MultipartRequest::all_meters()).await {
            Ok(MultipartBody::Meters(installed)) => Ok(meters::missing(&installed)),
            Ok(_) => Err(SwitchError::Unexpected),
            // It does not know what meters are.
            Err(SwitchError::Refused { .. }) => Ok(meters::missing(&[])),
            Err(error) => Err(error),
        }
    }

    /// Makes `changes`: groups first, then flows, then group deletes. When it returns they are in force.
    ///
    /// # Errors
    /// [`CommitError::Refused`] names messages that the switch refused. What was in a bundle behind them may be in force, if it only
    /// adds; nothing that takes something away is.
    pub async fn commit(&self, changes: Changes) -> Result<(), CommitError> {
        let mut bundles = changes.into_bundles().into_iter().peekable();
        let (mut under_way, mut refused) = (VecDeque::new(), Vec::new());
        loop {
            // What takes something away waits for all that is to be there instead.
            let most = |bundle: &[Message]| if takes_away(bundle) { 1 } else { BUNDLES_AT_ONCE };
            if let Some(messages) = bundles.next_if(|bundle| refused.is_empty() && under_way.len() < most(bundle)) {
                let (reply, answer) = oneshot::channel();
                self.command(Command::Bundle { messages, reply }).await?;
                under_way.push_back(answer);
                continue;
            }
            let Some(answer) = under_way.pop_front() else { break };
            match answer.await.map_err(|_| SwitchError::Stopped)? {
                Ok(()) => {}
                Err(CommitError::Refused { failures }) => refused.extend(failures),
                Err(error) => return Err(error),
            }
        }
        if refused.is_empty() { Ok(()) } else { Err(CommitError::Refused { failures: refused }) }
    }

    /// Lets the switch send a packet. A refused one is logged.
    ///
    /// # Errors
    /// Only when the link has ended.
    pub async fn packet_out(&self, packet: PacketOut) -> Result<(), SwitchError> {
        self.command(Command::Send(Message::PacketOut(packet))).await
    }

    /// Forgets many sets of connections in one exchange.
    ///
    /// # Errors
    /// As any request.
    pub async fn ct_flush_all(&self, flushes: Vec<CtFlush>) -> Result<(), SwitchError> {
        self.exchange(flushes.into_iter().map(Message::CtFlush).collect()).await
    }

    /// Forgets every connection of a zone.
    ///
    /// # Errors
    /// As any request.
    pub async fn ct_flush_zone(&self, zone: u16) -> Result<(), SwitchError> {
        self.exchange(vec![Message::CtFlushZone(zone)]).await
    }

    async fn command(&self, command: Command) -> Result<(), SwitchError> {
        self.commands.send(command).await.map_err(|_| SwitchError::Stopped)
    }

    /// Sends messages and a barrier, and waits for it.
    async fn exchange(&self, mut messages: Vec<Message>) -> Result<(), SwitchError> {
        messages.push(Message::BarrierRequest);
        let (reply, answer) = oneshot::channel();
        self.command(Command::Exchange { messages, reply }).await?;
        answer.await.map_err(|_| SwitchError::Stopped)?.map(drop)
    }

    async fn multipart(&self, request: MultipartRequest) -> Result<MultipartBody, SwitchError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Multipart { request, reply }).await?;
        answer.await.map_err(|_| SwitchError::Stopped)?
    }
}
