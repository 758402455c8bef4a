//! A switch without flows, groups and connections, of which a test decides what it takes.

use openflow::{Message, MultipartBody, MultipartRequest};
use tokio::sync::mpsc;

use super::super::Switch;
use super::super::error::CommitError;
use super::super::meters;
use super::super::pending::Command;

/// The switch's end.
pub struct ByHand(pub(super) mpsc::Receiver<Command>);

impl Switch {
    /// A switch, and who answers for it.
    pub fn by_hand() -> (Switch, ByHand) {
        let (commands, commands_out) = mpsc::channel(64);
        let (packet_ins_dropped, meters_lacking, has_newer_meters) = Default::default();
        let switch = Switch { commands, packet_ins_dropped, meters_lacking, has_newer_meters };
        (switch, ByHand(commands_out))
    }
}

impl ByHand {
    /// Tells what it has, which is always the same, and lets `take` say what becomes of the messages that are sent together. Ends with
    /// the last handle.
    pub async fn serve(mut self, mut take: impl FnMut(&[Message]) -> Result<(), CommitError>) {
        while let Some(command) = self.0.recv().await {
            match command {
                Command::Multipart { request, reply } => drop(reply.send(Ok(has(&request)))),
                Command::Bundle { messages, reply } => drop(reply.send(take(&messages))),
                Command::Exchange { messages, reply } => {
                    let taken = take(&messages).map(|()| Message::BarrierReply);
                    drop(reply.send(taken.map_err(|error| match error {
                        CommitError::Switch(error) => error,
                        CommitError::Refused { .. } => panic!("only bundles are refused"),
                    })));
                }
                Command::Send(_) => {}
            }
        }
    }
}

fn has(request: &MultipartRequest) -> MultipartBody {
    match request {
        MultipartRequest::TableStats => MultipartBody::TableStats(Vec::new()),
        MultipartRequest::Flows(_) => MultipartBody::Flows(Vec::new()),
        MultipartRequest::Groups(_) => MultipartBody::Groups(Vec::new()),
        MultipartRequest::Meters(_) => MultipartBody::Meters(all_meters()),
        other => panic!("{other:?}"),
    }
}

fn all_meters() -> Vec<openflow::Meter> {
    let meter = |message| match message {
        Message::MeterMod(change) => Some(change.meter),
        _ => None,
    };
    meters::missing(&[]).into_iter().filter_map(meter).collect()
}
