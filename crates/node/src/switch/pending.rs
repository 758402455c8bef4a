//! Requests that wait for their answers, found by transaction id.

use openflow::{
    BUNDLE_ATOMIC, BUNDLE_ORDERED, BundleControl, BundleControlKind, Message, MultipartBody, MultipartReply, MultipartRequest, Reassembly,
    Xid,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::{CommitError, Failure, SwitchError, describe};
use super::{FAILURES_MAX, REQUEST_TIMEOUT};

pub(super) type Reply<T, E = SwitchError> = oneshot::Sender<Result<T, E>>;

/// What a handle asks of the link.
pub(super) enum Command {
    /// Messages of which only the last has an answer.
    Exchange {
        messages: Vec<Message>,
        reply: Reply<Message>,
    },
    Multipart {
        request: MultipartRequest,
        reply: Reply<MultipartBody>,
    },
    Bundle {
        messages: Vec<Message>,
        reply: Reply<(), CommitError>,
    },
    /// A message without an answer.
    Send(Message),
}

impl Command {
    /// Answers a command that cannot be carried out.
    pub fn refuse(self, error: SwitchError) {
        match self {
            Command::Exchange { reply, .. } => drop(reply.send(Err(error))),
            Command::Multipart { reply, .. } => drop(reply.send(Err(error))),
            Command::Bundle { reply, .. } => drop(reply.send(Err(error.into()))),
            Command::Send(_) => {}
        }
    }
}

enum Kind {
    /// The first refusal is its answer, which is given with the last of the switch's.
    Exchange {
        messages: Vec<Message>,
        refused: Option<SwitchError>,
        reply: Reply<Message>,
    },
    Multipart {
        parts: Reassembly,
        reply: Reply<MultipartBody>,
    },
    Bundle {
        messages: Vec<Message>,
        failures: Vec<Failure>,
        reply: Reply<(), CommitError>,
    },
}

struct Waiting {
    first: Xid,
    count: u32,
    /// Last time that the switch said something about it.
    since: Instant,
    kind: Kind,
}

/// The requests under way on one connection, and the bytes that they have still to send.
#[derive(Default)]
pub(super) struct Pending {
    waiting: Vec<Waiting>,
    last_xid: Xid,
    last_bundle: u32,
    pub out: Vec<u8>,
}

const FLAGS: u16 = BUNDLE_ATOMIC | BUNDLE_ORDERED;

fn control(bundle: u32, kind: BundleControlKind) -> Message {
    Message::BundleControl(BundleControl { bundle, kind, flags: FLAGS })
}

impl Pending {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// `count` ids in a row; never 0, which the switch uses for what nobody asked.
    fn xids(&mut self, count: u32) -> Xid {
        let first = match self.last_xid.checked_add(count) {
            Some(_) => self.last_xid + 1,
            None => 1,
        };
        self.last_xid = first + (count - 1);
        first
    }

    /// Sends a message whose answer nobody waits for.
    pub fn send(&mut self, message: &Message) -> Result<Xid, SwitchError> {
        let xid = self.xids(1);
        message.encode(xid, &mut self.out)?;
        Ok(xid)
    }

    pub fn begin(&mut self, command: Command) {
        match command {
            Command::Send(message) => {
                if let Err(error) = self.send(&message) {
                    tracing::warn!(%error, message = describe(&message), "not sent");
                }
            }
            Command::Exchange { messages, reply } => match self.write(&messages) {
                Err(error) => drop(reply.send(Err(error))),
                Ok((first, count)) => self.wait(first, count, Kind::Exchange { messages, refused: None, reply }),
            },
            Command::Multipart { request, reply } => match self.write(&[Message::MultipartRequest(request)]) {
                Err(error) => drop(reply.send(Err(error))),
                Ok((first, count)) => {
                    self.wait(first, count, Kind::Multipart { parts: Reassembly::default(), reply });
                }
            },
            Command::Bundle { messages, reply } => self.begin_bundle(messages, reply),
        }
    }

    fn wait(&mut self, first: Xid, count: u32, kind: Kind) {
        self.waiting.push(Waiting { first, count, since: Instant::now(), kind });
    }

    /// Writes all messages, or none if one of them cannot be written.
    fn write(&mut self, messages: &[Message]) -> Result<(Xid, u32), SwitchError> {
        let count = messages.len() as u32;
        let first = self.xids(count);
        let start = self.out.len();
        for (message, xid) in messages.iter().zip(first..) {
            if let Err(error) = message.encode(xid, &mut self.out) {
                self.out.truncate(start);
                return Err(error.into());
            }
        }
        Ok((first, count))
    }

    fn begin_bundle(&mut self, messages: Vec<Message>, reply: Reply<(), CommitError>) {
        self.last_bundle = self.last_bundle.wrapping_add(1);
        let bundle = self.last_bundle;
        let add = |message| Message::BundleAdd { bundle, flags: FLAGS, message: Box::new(message) };
        let mut all = vec![control(bundle, BundleControlKind::OpenRequest)];
        all.extend(messages.into_iter().map(add));
        all.push(control(bundle, BundleControlKind::CommitRequest));
        match self.write(&all) {
            Err(_) => drop(reply.send(Err(CommitError::Refused { failures: unwritable(&all) }))),
            Ok((first, count)) => self.wait(first, count, Kind::Bundle { messages: all, failures: vec![], reply }),
        }
    }

    /// Takes a message from the switch; gives it back if nobody waits for it.
    pub fn take(&mut self, message: Message, xid: Xid) -> Option<Message> {
        let index = self.waiting.iter().position(|waiting| waiting.is_about(xid));
        let Some(index) = index else { return Some(message) };
        let mut waiting = self.waiting.swap_remove(index);
        waiting.since = Instant::now();
        let Waiting { first, count, since, kind } = waiting;
        let left = match kind {
            exchange @ Kind::Exchange { .. } => exchanged(first, exchange, message, xid),
            Kind::Multipart { parts, reply } => multipart(parts, reply, message),
            Kind::Bundle { messages, failures, reply } => bundle(first, messages, failures, reply, (message, xid)),
        };
        if let Some(kind) = left {
            self.waiting.push(Waiting { first, count, since, kind });
        }
        None
    }

    /// The answer of this id came but makes no sense: whoever waits for it is told.
    pub fn garbled(&mut self, xid: Xid) {
        if let Some(index) = self.waiting.iter().position(|waiting| waiting.is_about(xid)) {
            self.waiting.swap_remove(index).fail(|| SwitchError::Unexpected);
        }
    }

    /// Gives up on what the switch has been silent about for too long.
    pub fn expire(&mut self) {
        let now = Instant::now();
        let is_late = |waiting: &mut Waiting| now.duration_since(waiting.since) >= REQUEST_TIMEOUT;
        for waiting in self.waiting.extract_if(.., is_late) {
            waiting.fail(|| SwitchError::TimedOut);
        }
    }

    /// The connection is gone.
    pub fn fail_all(&mut self) {
        for waiting in self.waiting.drain(..) {
            waiting.fail(|| SwitchError::Disconnected);
        }
    }
}

impl Waiting {
    fn is_about(&self, xid: Xid) -> bool {
        xid.wrapping_sub(self.first) < self.count
    }

    fn fail(self, error: impl Fn() -> SwitchError) {
        match self.kind {
            Kind::Exchange { reply, .. } => drop(reply.send(Err(error()))),
            Kind::Multipart { reply, .. } => drop(reply.send(Err(error()))),
            Kind::Bundle { reply, .. } => drop(reply.send(Err(error().into()))),
        }
    }
}

/// The messages that are too long for OpenFlow. The switch never hears of them, and would not take them: they are refused like
/// those that it does not take, so that everything else is.
fn unwritable(messages: &[Message]) -> Vec<Failure> {
    let mut bytes = Vec::new();
    let failure = |message: &Message| {
        bytes.clear();
        let error = message.encode(0, &mut bytes).err()?;
        Some(Failure { message: content(message).clone(), error: error.into() })
    };
    messages.iter().filter_map(failure).take(FAILURES_MAX).collect()
}

/// The message that a bundle-add carries.
fn content(message: &Message) -> &Message {
    match message {
        Message::BundleAdd { message, .. } => message,
        other => other,
    }
}

/// Its messages and the commit are sent at once. What the switch refuses when it is added is not in the bundle, and the others are
/// committed; what it refuses at the commit keeps all of them from taking effect.
fn bundle(
    first: Xid,
    messages: Vec<Message>,
    mut failures: Vec<Failure>,
    reply: Reply<(), CommitError>,
    (answer, xid): (Message, Xid),
) -> Option<Kind> {
    let index = xid.wrapping_sub(first) as usize;
    let is_commit = index + 1 == messages.len();
    if let Message::Error(error) = answer {
        // That of the commit repeats what was said of a message of the bundle.
        if let Some(message) = messages.get(index).filter(|_| failures.len() < FAILURES_MAX && !(is_commit && !failures.is_empty())) {
            failures.push(Failure { message: content(message).clone(), error: error.into() });
        }
    }
    if is_commit {
        drop(reply.send(if failures.is_empty() { Ok(()) } else { Err(CommitError::Refused { failures }) }));
        return None;
    }
    Some(Kind::Bundle { messages, failures, reply })
}

fn exchanged(first: Xid, kind: Kind, answer: Message, xid: Xid) -> Option<Kind> {
    let Kind::Exchange { messages, refused, reply } = kind else { return Some(kind) };
    let index = xid.wrapping_sub(first) as usize;
    let is_last = index + 1 == messages.len();
    let result = match (refused, answer) {
        (Some(earlier), _) => Err(earlier),
        (None, Message::Error(error)) => {
            let message = messages.get(index).map_or_else(String::new, describe);
            Err(SwitchError::Refused { message, error })
        }
        (None, answer) => Ok(answer),
    };
    if is_last {
        drop(reply.send(result));
        return None;
    }
    Some(Kind::Exchange { messages, refused: result.err(), reply })
}

fn multipart(mut parts: Reassembly, reply: Reply<MultipartBody>, answer: Message) -> Option<Kind> {
    let result = match answer {
        Message::MultipartReply(part @ MultipartReply { .. }) => match parts.add(part) {
            Ok(None) => return Some(Kind::Multipart { parts, reply }),
            Ok(Some(body)) => Ok(body),
            Err(_) => Err(SwitchError::Unexpected),
        },
        Message::Error(error) => Err(SwitchError::Refused { message: "a question".to_owned(), error }),
        _ => Err(SwitchError::Unexpected),
    };
    drop(reply.send(result));
    None
}

#[cfg(test)]
mod tests {
    use openflow::{ErrorMessage, FlowMod, Instructions, Match};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_fails_when_the_switch_says_nothing_about_it_for_too_long() {
        let mut pending = Pending::default();
        let (reply, mut answer) = oneshot::channel();
        pending.begin(Command::Exchange { messages: vec![Message::BarrierRequest, Message::BarrierRequest], reply });
        let first = pending.waiting[0].first;
        tokio::time::advance(REQUEST_TIMEOUT - std::time::Duration::from_millis(1)).await;
        pending.expire();
        // It says something: its time begins anew.
        assert!(pending.take(Message::BarrierReply, first).is_none());
        tokio::time::advance(REQUEST_TIMEOUT - std::time::Duration::from_millis(1)).await;
        pending.expire();
        assert!(answer.try_recv().is_err(), "it is waited for");
        tokio::time::advance(std::time::Duration::from_millis(1)).await;
        pending.expire();
        assert!(matches!(answer.try_recv(), Ok(Err(SwitchError::TimedOut))));
    }

    #[test]
    fn of_many_refused_messages_a_few_are_named() {
        let mut pending = Pending::default();
        let flow = |priority| Message::FlowMod(FlowMod::add(0, priority, Match::any(), Instructions::drop(), 0));
        let (reply, mut answer) = oneshot::channel();
        pending.begin(Command::Bundle { messages: (0..2 * FAILURES_MAX as u16).map(flow).collect(), reply });
        let (first, count) = (pending.waiting[0].first, pending.waiting[0].count);
        for xid in first + 1..first + count - 1 {
            pending.take(Message::Error(ErrorMessage { kind: 4, code: 9, vendor: None, data: vec![] }), xid);
        }
        pending.take(control(1, BundleControlKind::CommitReply), first + count - 1);
        let Ok(Err(CommitError::Refused { failures })) = answer.try_recv() else { panic!("it is refused") };
        assert_eq!(failures.len(), FAILURES_MAX);
        assert_eq!(failures[0].message, flow(0));
    }
}
