//! One connection to ovsdb-server: bytes in and out, echoes, and the opening exchange.
//!
//! Opening asks for the schema (an Open vSwitch of another version has other columns) and then for everything since the
//! replica's last transaction. From then on [`Session::message`] hands over what comes. Echo requests are answered here.

use super::columns::{DATABASE, MONITOR, monitor};
use bytes::{Buf, BytesMut};
use ovsdb::{DecodeError, Framer, Json, Message, MonitorReply, Replica, ReplicaError, Schema, call};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

/// A server that sends nothing for this long is asked whether it is alive, and given up after twice as long.
pub const IDLE_MAX: Duration = Duration::from_secs(15);

/// How long opening may take: a server that compacts its database is silent for a while.
const OPENING_MAX: Duration = Duration::from_secs(30);

/// How much may wait to be written before the server counts as stuck and is connected to anew.
const OUT_BYTES_MAX: usize = 16 << 20;

/// How much is read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Why a connection ended or was never made.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("connection failed")]
    Io(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the server reads nothing: {0} bytes wait to be written")]
    Stuck(usize),
    #[error("the server refused {method}: {error}")]
    Refused { method: String, error: Json },
    #[error("the server sent what is not OVSDB")]
    Decode(#[from] DecodeError),
    #[error("an update does not fit what is known of the database")]
    Replica(#[from] ReplicaError),
}

/// A connection.
pub struct Session {
    stream: UnixStream,
    framer: Framer,
    out: BytesMut,
    chunk: Box<[u8]>,
    last_id: u64,
    last_heard: Instant,
    is_probed: bool,
}

/// A connection whose replica is up to date.
pub struct Opened {
    pub session: Session,
    pub replica: Replica,
}

/// Connects and brings `replica` up to date, or a new one if there is none or the schema changed.
pub async fn open(socket: &Path, replica: Option<Replica>) -> Result<Opened, SessionError> {
    timeout(OPENING_MAX, opening(socket, replica)).await.unwrap_or(Err(SessionError::Silent(OPENING_MAX)))
}

async fn opening(socket: &Path, replica: Option<Replica>) -> Result<Opened, SessionError> {
    let mut session = Session::new(UnixStream::connect(socket).await?);
    let id = session.next_id();
    let schema = Schema::decode(&session.ask(call::get_schema(id, DATABASE)).await?)?;
    let monitor = monitor();
    let mut replica = match replica {
        Some(replica) if replica.fits(&schema, &monitor) => replica,
        _ => Replica::new(&schema, &monitor)?,
    };
    let id = session.next_id();
    let reply = session.ask(monitor.request(id, MONITOR, replica.last_txn())).await?;
    replica.resume(&MonitorReply::decode(&reply)?)?;
    Ok(Opened { session, replica })
}

impl Session {
    fn new(stream: UnixStream) -> Self {
        Session {
            stream,
            framer: Framer::default(),
            out: BytesMut::new(),
            chunk: vec![0; CHUNK_BYTES].into(),
            last_id: 0,
            last_heard: Instant::now(),
            is_probed: false,
        }
    }

    /// A request id that this connection has not used.
    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Queues a message; it is written while [`Session::message`] waits.
    pub fn send(&mut self, message: &Message) -> Result<(), SessionError> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.out.extend_from_slice(&bytes);
        match self.out.len() {
            waiting if waiting > OUT_BYTES_MAX => Err(SessionError::Stuck(waiting)),
            _ => Ok(()),
        }
    }

    /// The next message that is not an echo. May be dropped while it waits; nothing is lost.
    pub async fn message(&mut self) -> Result<Message, SessionError> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            let interest = match self.out.is_empty() {
                true => Interest::READABLE,
                false => Interest::READABLE | Interest::WRITABLE,
            };
            let ready = self.stream.ready(interest).await?;
            if ready.is_writable() && !self.out.is_empty() {
                self.write()?;
            }
            if ready.is_readable() || ready.is_read_closed() {
                self.read()?;
            }
        }
    }

    /// When [`Session::probe`] is due.
    pub fn probe_due(&self) -> Instant {
        self.last_heard + if self.is_probed { 2 * IDLE_MAX } else { IDLE_MAX }
    }

    /// Asks a silent server whether it is alive; an error if it was asked before.
    pub fn probe(&mut self) -> Result<(), SessionError> {
        if self.is_probed {
            return Err(SessionError::Silent(2 * IDLE_MAX));
        }
        self.is_probed = true;
        let id = self.next_id();
        self.send(&call::echo(id))
    }

    /// A complete message that was read before. Echoes are answered on the way.
    fn buffered(&mut self) -> Result<Option<Message>, SessionError> {
        while let Some(bytes) = self.framer.next_message()? {
            let message = Message::decode(bytes)?;
            match message.echo_reply().or_else(|| message.refusal()) {
                Some(reply) => self.send(&reply)?,
                None => return Ok(Some(message)),
            }
        }
        Ok(None)
    }

    fn read(&mut self) -> Result<(), SessionError> {
        match self.stream.try_read(&mut self.chunk) {
            Ok(0) => Err(SessionError::Closed),
            Ok(count) => {
                self.last_heard = Instant::now();
                self.is_probed = false;
                self.framer.push(&self.chunk[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self) -> Result<(), SessionError> {
        match self.stream.try_write(&self.out) {
            Ok(count) => self.out.advance(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Sends a request and waits for its answer: for opening, when nothing else is to be expected.
    async fn ask(&mut self, request: Message) -> Result<Json, SessionError> {
        self.send(&request)?;
        let Message::Request { id: asked, method, .. } = request else {
            return Err(SessionError::Closed);
        };
        loop {
            if let Message::Response { id, result } = self.message().await?
                && id == asked
            {
                return result.map_err(|error| SessionError::Refused { method, error });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_open_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("db.sock");
        let _silent = tokio::net::UnixListener::bind(&socket).unwrap();
        let begun = Instant::now();
        assert!(matches!(open(&socket, None).await, Err(SessionError::Silent(OPENING_MAX))));
        assert_eq!(begun.elapsed().as_secs(), OPENING_MAX.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_asked_once_whether_it_lives() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut session = Session::new(ours);
        assert_eq!(session.probe_due() - Instant::now(), IDLE_MAX);
        session.probe().unwrap();
        assert_eq!(session.probe_due() - Instant::now(), 2 * IDLE_MAX);
        assert!(matches!(session.probe(), Err(SessionError::Silent(_))));
    }

    #[tokio::test]
    async fn a_server_that_reads_nothing_is_stuck() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut session = Session::new(ours);
        let mut before = 0;
        let stuck = loop {
            match session.send(&call::echo(1)) {
                Ok(()) => before = session.out.len(),
                Err(error) => break error,
            }
        };
        assert!(before <= OUT_BYTES_MAX && matches!(stuck, SessionError::Stuck(waiting) if waiting > OUT_BYTES_MAX), "{stuck}");
    }
}
