//! The task that owns the connection: connects, greets, serves, and connects again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use openflow::{
    AsyncConfig, Features, Hello, Message, MonitorRequest, MultipartBody, MultipartReply, MultipartRequest, SwitchConfig, Xid, async_kind,
    packet_in_format,
};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::codec::FramedRead;

use super::codec::{Codec, Frame};
use super::error::SwitchError;
use super::pending::{Command, Pending};
use super::{
    BACKOFF_FIRST, BACKOFF_MAX, EVENTS_WAITING_MAX, Event, HANDSHAKE_TIMEOUT, OUT_MAX, Options, PENDING_MAX, PROBE_AFTER, SILENCE_MAX,
};
use crate::pauses::Pauses;

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(500);
const MONITOR: u32 = 1;
/// Packet-ins of the reasons "no match" (0) to "packet-out" (5).
const PACKET_IN_REASONS: u32 = 0x3f;
/// Ports are read from the database, and the monitor tells of flows.
const NONE: u32 = 0;
/// Groups (0x1) and meters (0x2) changed by others.
const REQUEST_FORWARD_REASONS: u32 = 0x3;

pub(super) struct Link {
    pub options: Options,
    pub commands: mpsc::Receiver<Command>,
    pub events: mpsc::Sender<Event>,
    pub packet_ins_dropped: Arc<AtomicU64>,
}

struct Connection {
    frames: FramedRead<OwnedReadHalf, Codec>,
    writer: OwnedWriteHalf,
    pending: Pending,
    /// Events that found the channel full; packet-ins never wait here.
    waiting: VecDeque<Event>,
    heard: Instant,
    is_probed: bool,
}

/// Why a connection ended.
enum End {
    Broken(io::Error),
    /// Every handle is gone.
    Stopped,
}

fn broken(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(reason)
}

impl Link {
    pub async fn run(mut self) {
        let mut pauses = Pauses::new(BACKOFF_FIRST, BACKOFF_MAX);
        loop {
            match self.connect().await {
                Ok((mut connection, features)) => {
                    pauses.start_over();
                    tracing::info!(datapath = format!("{:016x}", features.datapath_id), "switch connected");
                    connection.waiting.push_back(Event::Connected(features));
                    let end = self.serve(&mut connection).await;
                    connection.pending.fail_all();
                    match end {
                        End::Stopped => return,
                        End::Broken(error) => {
                            tracing::warn!(%error, "switch disconnected");
                            if !self.tell(connection.waiting, Event::Disconnected(error.to_string())).await {
                                return;
                            }
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, socket = %self.options.socket.display(), "switch not reached"),
            }
            if !self.pause(pauses.after_failure()).await {
                return;
            }
        }
    }

    /// Hands over what is left to tell, refusing commands meanwhile. False: nobody is left to hear or ask.
    async fn tell(&mut self, waiting: VecDeque<Event>, last: Event) -> bool {
        let mut left = waiting;
        // Whoever hears that the connection was lost reads everything anew: news of the old one is worth nothing.
        left.retain(|event| matches!(event, Event::Connected(_)));
        left.push_back(last);
        while let Some(event) = left.pop_front() {
            let mut slot = std::pin::pin!(self.events.reserve());
            loop {
                tokio::select! {
                    permit = &mut slot => match permit {
                        Ok(permit) => break permit.send(event),
                        Err(_) => return false,
                    },
                    command = self.commands.recv() => match command {
                        Some(command) => command.refuse(SwitchError::NotConnected),
                        None => return false,
                    },
                }
            }
        }
        true
    }

    /// Waits, refusing commands meanwhile. False: every handle is gone.
    async fn pause(&mut self, duration: Duration) -> bool {
        let mut end = std::pin::pin!(sleep(duration));
        loop {
            tokio::select! {
                () = &mut end => return true,
                command = self.commands.recv() => match command {
                    Some(command) => command.refuse(SwitchError::NotConnected),
                    None => return false,
                },
            }
        }
    }

    async fn connect(&self) -> io::Result<(Connection, Features)> {
        let greet = async {
            let (reader, writer) = UnixStream::connect(&self.options.socket).await?.into_split();
            let frames = FramedRead::with_capacity(reader, Codec, 1 << 16);
            let mut connection = Connection {
                frames,
                writer,
                pending: Pending::default(),
                waiting: VecDeque::new(),
                heard: Instant::now(),
                is_probed: false,
            };
            let features = connection.greet(&self.options).await?;
            Ok((connection, features))
        };
        timeout(HANDSHAKE_TIMEOUT, greet).await.map_err(|_| broken("the switch does not answer the greeting"))?
    }

    async fn serve(&mut self, connection: &mut Connection) -> End {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_out = !connection.pending.out.is_empty();
            let has_event = !connection.waiting.is_empty();
            let has_room = connection.pending.len() < PENDING_MAX && connection.pending.out.len() < OUT_MAX;
            let step = tokio::select! {
                frame = connection.frames.next() => match frame {
                    Some(Ok(frame)) => self.receive(connection, frame),
                    Some(Err(error)) => Err(error),
                    None => Err(broken("the switch closed the connection")),
                },
                written = connection.writer.write(&connection.pending.out), if has_out => written.map(|count| {
                    connection.pending.out.drain(..count);
                }),
                permit = self.events.reserve(), if has_event => match permit {
                    Ok(permit) => {
                        if let Some(event) = connection.waiting.pop_front() {
                            permit.send(event);
                        }
                        Ok(())
                    }
                    Err(_) => return End::Stopped,
                },
                command = self.commands.recv(), if has_room => match command {
                    Some(command) => {
                        connection.pending.begin(command);
                        Ok(())
                    }
                    None => return End::Stopped,
                },
                _ = ticks.tick() => connection.tick(),
            };
            if let Err(error) = step {
                return End::Broken(error);
            }
        }
    }

    fn receive(&self, connection: &mut Connection, frame: Frame) -> io::Result<()> {
        connection.heard = Instant::now();
        connection.is_probed = false;
        let (message, xid) = match frame {
            Frame::Message(message, xid) => (message, xid),
            Frame::Undecodable(error, xid) => {
                tracing::warn!(%error, "a message of the switch makes no sense and is skipped");
                connection.pending.garbled(xid);
                return Ok(());
            }
        };
        match connection.pending.take(message, xid) {
            None => Ok(()),
            Some(message) => self.unasked(connection, message, xid),
        }
    }

    /// A message that answers nothing.
    fn unasked(&self, connection: &mut Connection, message: Message, xid: Xid) -> io::Result<()> {
        match message {
            Message::EchoRequest(data) => Message::EchoReply(data).encode(xid, &mut connection.pending.out).map_err(broken),
            Message::PacketIn2(packet) => {
                // Behind waiting events a packet-in would overtake; with the channel full it would wait: both drop it.
                if !connection.waiting.is_empty() || self.events.try_send(Event::PacketIn(Box::new(packet))).is_err() {
                    self.packet_ins_dropped.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
            Message::RequestForward(_) => connection.queue(Event::GroupsChanged),
            Message::MultipartReply(MultipartReply { body: MultipartBody::FlowUpdates(updates), .. }) => {
                let others = updates.into_iter().filter(|update| !matches!(update, openflow::FlowUpdate::Own { .. }));
                others.map(|update| Event::FlowUpdate(Box::new(update))).try_for_each(|event| connection.queue(event))
            }
            Message::Error(error) => {
                tracing::warn!(%error, xid, "the switch refused a message that nobody waits for");
                Ok(())
            }
            Message::EchoReply(_) | Message::BarrierReply => Ok(()),
            other => {
                tracing::debug!(message = super::error::describe(&other), "unexpected message of the switch");
                Ok(())
            }
        }
    }
}

impl Connection {
    fn queue(&mut self, event: Event) -> io::Result<()> {
        if self.waiting.len() >= EVENTS_WAITING_MAX {
            return Err(broken("too much news that nobody reads; connecting again, which reads everything anew"));
        }
        self.waiting.push_back(event);
        Ok(())
    }

    /// Looks at what is late.
    fn tick(&mut self) -> io::Result<()> {
        self.pending.expire();
        let silence = self.heard.elapsed();
        if silence >= SILENCE_MAX {
            return Err(broken("the switch is silent"));
        }
        if silence >= PROBE_AFTER && !self.is_probed {
            self.is_probed = true;
            self.pending.send(&Message::EchoRequest(vec![])).map_err(broken)?;
        }
        Ok(())
    }

    /// Sends what waits, and a barrier, whose answer says that it is done.
    async fn flush_with_barrier(&mut self) -> io::Result<Xid> {
        let barrier = self.pending.send(&Message::BarrierRequest).map_err(broken)?;
        let bytes = std::mem::take(&mut self.pending.out);
        self.writer.write_all(&bytes).await?;
        Ok(barrier)
    }

    /// OpenFlow 1.5 or nothing; then what this connection wants to hear, fenced by a barrier.
    async fn greet(&mut self, options: &Options) -> io::Result<Features> {
        self.pending.send(&Message::Hello(Hello::ours())).map_err(broken)?;
        let features_xid = self.pending.send(&Message::FeaturesRequest).map_err(broken)?;
        for message in wishes(options) {
            self.pending.send(&message).map_err(broken)?;
        }
        let barrier = self.flush_with_barrier().await?;
        let mut features = None;
        loop {
            let (message, xid) = match self.frames.next().await {
                Some(frame) => match frame? {
                    Frame::Message(message, xid) => (message, xid),
                    Frame::Undecodable(error, _) => return Err(broken(error)),
                },
                None => return Err(broken("the switch closed the connection while greeting")),
            };
            match message {
                Message::Hello(hello) if !hello.speaks_15() => {
                    return Err(broken("the switch does not speak OpenFlow 1.5; set the bridge's protocols"));
                }
                Message::Error(error) => return Err(broken(format!("the switch refused the greeting: {error}"))),
                Message::FeaturesReply(reply) if xid == features_xid => features = Some(reply),
                Message::BarrierReply if xid == barrier => {
                    return features.ok_or_else(|| broken("the switch did not tell its features"));
                }
                Message::EchoRequest(data) => {
                    let reply = Message::EchoReply(data).to_bytes(xid).map_err(broken)?;
                    self.writer.write_all(&reply).await?;
                }
                _ => {}
            }
        }
    }
}

/// What is told to the switch on every new connection.
fn wishes(options: &Options) -> Vec<Message> {
    let masks = vec![
        (async_kind::PACKET_IN, PACKET_IN_REASONS),
        (async_kind::PORT_STATUS, NONE),
        (async_kind::FLOW_REMOVED, NONE),
        (async_kind::REQUEST_FORWARD, REQUEST_FORWARD_REASONS),
    ];
    // A controller on the management socket gets no packet-ins at all until it asks for a length.
    let config = SwitchConfig { flags: options.fragments, miss_send_len: openflow::MAX_LEN_ALL };
    let mut messages = vec![
        Message::SetPacketInFormat(packet_in_format::NXT_PACKET_IN2),
        Message::SetConfig(config),
        Message::SetAsync(AsyncConfig { masks }),
    ];
    if options.monitor_flows {
        let monitor = MultipartRequest::FlowMonitor(vec![MonitorRequest::changes(MONITOR)]);
        messages.push(Message::MultipartRequest(monitor));
    }
    messages
}

#[cfg(test)]
mod tests {
    use openflow::{Action, OfPort, PacketOut};
    use tokio::sync::oneshot;
    use tokio::time::advance;

    use super::super::{COMMANDS_MAX, EVENTS_MAX};
    use super::*;
    use crate::pauses::tests::assert_pauses;

    const DEADLINE: Duration = Duration::from_secs(120);

    /// A connection, and the switch's end of it.
    fn connection() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = ours.into_split();
        let frames = FramedRead::with_capacity(reader, Codec, 1 << 16);
        let (pending, waiting) = (Pending::default(), VecDeque::new());
        (Connection { frames, writer, pending, waiting, heard: Instant::now(), is_probed: false }, theirs)
    }

    /// A link to `socket`, and the ends of its channels.
    fn link(socket: &std::path::Path) -> (Link, mpsc::Sender<Command>, mpsc::Receiver<Event>) {
        let (commands, commands_out) = mpsc::channel(COMMANDS_MAX);
        let (events_in, events) = mpsc::channel(EVENTS_MAX);
        let link = Link { options: Options::new(socket), commands: commands_out, events: events_in, packet_ins_dropped: Arc::default() };
        (link, commands, events)
    }

    /// A link that serves a switch which reads and says nothing, or does not read either.
    fn served(does_read: bool) -> (mpsc::Sender<Command>, mpsc::Receiver<Event>, Option<UnixStream>) {
        let (mut link, commands, events) = link("/nonexistent".as_ref());
        let (mut connection, switch) = connection();
        tokio::spawn(async move { drop(link.serve(&mut connection).await) });
        if !does_read {
            return (commands, events, Some(switch));
        }
        tokio::spawn(async move {
            let mut switch = switch;
            drop(tokio::io::copy(&mut switch, &mut tokio::io::sink()).await);
        });
        (commands, events, None)
    }

    async fn let_all_go_on() {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_switch_that_does_not_greet_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("br-int.mgmt");
        let _silent = tokio::net::UnixListener::bind(&socket).unwrap();
        let (link, ..) = link(&socket);
        let begun = Instant::now();
        assert!(link.connect().await.is_err());
        assert_eq!(begun.elapsed().as_secs(), HANDSHAKE_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_switch_that_cannot_be_reached_is_tried_ever_more_seldom() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("br-int.mgmt");
        let switch = tokio::net::UnixListener::bind(&socket).unwrap();
        let (link, _commands, _events) = link(&socket);
        tokio::spawn(link.run());
        let mut tries = Vec::new();
        for _ in 0..8 {
            // Closed at once.
            drop(switch.accept().await.unwrap());
            tries.push(Instant::now());
        }
        assert_pauses(&tries, BACKOFF_FIRST, BACKOFF_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_switch_is_asked_for_a_sign_of_life_and_then_taken_for_dead() {
        let (mut connection, _switch) = connection();
        advance(PROBE_AFTER - TICK).await;
        connection.tick().unwrap();
        assert!(connection.pending.out.is_empty());
        advance(TICK).await;
        connection.tick().unwrap();
        let asked = connection.pending.out.len();
        assert!(asked > 0);
        advance(SILENCE_MAX - PROBE_AFTER - TICK).await;
        connection.tick().unwrap();
        assert_eq!(connection.pending.out.len(), asked, "once");
        advance(TICK).await;
        assert!(connection.tick().is_err());
    }

    #[tokio::test]
    async fn news_that_nobody_reads_begins_the_connection_anew() {
        let (mut connection, _switch) = connection();
        for _ in 0..EVENTS_WAITING_MAX {
            connection.queue(Event::GroupsChanged).unwrap();
        }
        assert!(connection.queue(Event::GroupsChanged).is_err());
    }

    #[tokio::test]
    async fn requests_beyond_those_under_way_wait_and_then_their_callers_do() {
        let (commands, _events, _) = served(true);
        let ask = || {
            let (reply, answer) = oneshot::channel();
            (Command::Exchange { messages: vec![Message::BarrierRequest], reply }, answer)
        };
        let mut answers = Vec::new();
        for _ in 0..PENDING_MAX + COMMANDS_MAX {
            let (command, answer) = ask();
            timeout(DEADLINE, commands.send(command)).await.expect("there is room").unwrap_or_else(|_| panic!("the link goes on"));
            answers.push(answer);
        }
        let_all_go_on().await;
        assert!(commands.try_send(ask().0).is_err());
    }

    #[tokio::test]
    async fn commands_wait_when_the_switch_does_not_read() {
        const PACKET: usize = 60_000;
        /// What the kernel may take of it.
        const SOCKET: usize = 4 << 20;
        let (commands, _events, _switch) = served(false);
        let packet = || Command::Send(Message::PacketOut(PacketOut::new(OfPort::CONTROLLER, Vec::<Action>::new(), vec![0; PACKET])));
        let mut sent = 0;
        while sent <= 2 * (OUT_MAX + SOCKET) {
            if commands.try_send(packet()).is_ok() {
                sent += PACKET;
                continue;
            }
            let_all_go_on().await;
            if commands.capacity() == 0 {
                break;
            }
        }
        assert!(sent >= OUT_MAX && sent <= OUT_MAX + SOCKET + (COMMANDS_MAX + 1) * PACKET, "{sent} bytes were taken");
    }
}
