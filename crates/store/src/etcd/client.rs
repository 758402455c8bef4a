//! One connection to an etcd cluster: calls with a time-out, and another member where one fails.
//!
//! All calls and the watch go to one member; whoever sees it fail turns all of them to the next. A peer that hangs is found out by
//! HTTP/2 pings as long as the watch is open, and by the calls' own time-out. A member that has lost the majority refuses
//! (`hasleader`). The files of certificates are read whenever a connection is made.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, ConnectError, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::wire::{self, AuthenticateRequest, AuthenticateResponse, WatchAction, WatchCreate, WatchRequest, WatchResponse};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// etcd breaks connections that ping more often than every 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(6);
/// A ping that is not answered for this long ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// The largest answer. Listings are asked for in pages, watches in pieces.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Where an etcd cluster is, and as whom Ladon comes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EtcdOptions {
    /// `http://host:port` or `https://host:port` of its members, in the order in which they are tried.
    pub endpoints: Vec<String>,
    /// The authority of the members' certificates.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// For a cluster with authentication.
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    /// Stands before every key, so that several deployments can share a cluster.
    pub prefix: String,
    /// Whoever follows the store has etcd forget what is older, now and then; None: somebody else sees to it.
    pub keep: Option<Duration>,
}

/// A call that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing was sent.
    #[error("etcd at {endpoint} cannot be reached: {reason}")]
    Unreached { endpoint: String, reason: String },
    /// It reaches no majority of the members, and has not looked at what was sent.
    #[error("etcd at {endpoint} has no leader, as when a majority of its members is away")]
    Leaderless { endpoint: String },
    /// What was sent may have been done.
    #[error("etcd at {endpoint} does not answer: {reason}")]
    Lost { endpoint: String, reason: String },
    #[error("etcd's database is full (see etcd's --quota-backend-bytes, compaction and defragmentation)")]
    Full,
    #[error("etcd does not keep that revision any more")]
    Compacted,
    #[error("etcd at {endpoint} refuses: {reason}")]
    Refused { endpoint: String, reason: String },
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
}

impl Failure {
    /// Another member, or the same one later, may do better.
    pub fn is_passing(&self) -> bool {
        matches!(self, Failure::Unreached { .. } | Failure::Leaderless { .. } | Failure::Lost { .. })
    }

    /// What was asked for may have been done all the same.
    pub fn may_be_done(&self) -> bool {
        matches!(self, Failure::Lost { .. })
    }
}

pub struct Client {
    options: EtcdOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Grows whenever a member is given up; modulo the number of members it is the current one.
    turn: usize,
    channel: Option<Channel>,
    token: Option<MetadataValue<Ascii>>,
}

/// A connection, and which member it leads to.
struct Connection {
    turn: usize,
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Client {
    pub fn new(options: EtcdOptions) -> Client {
        Client { options, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn endpoint(&self, turn: usize) -> &str {
        &self.options.endpoints[turn % self.options.endpoints.len()]
    }

    pub fn options(&self) -> &EtcdOptions {
        &self.options
    }

    /// How many members there are to try.
    pub fn members(&self) -> usize {
        self.options.endpoints.len()
    }

    /// One attempt at one member. After a failure that passes, the next attempt goes to the next member.
    pub async fn call<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let connection = self.connection().await?;
        let answer = self.unary(&connection, path, question.clone()).await;
        match answer {
            // A token has its time; another one is fetched and tried once.
            Err(status) if is_token_bad(&status) && self.options.user.is_some() => {
                self.state().token = None;
                let connection = self.connection().await?;
                self.unary(&connection, path, question).await.map_err(|status| self.failed(&connection, &status))
            }
            answer => answer.map_err(|status| self.failed(&connection, &status)),
        }
    }

    async fn unary<Q, A>(&self, connection: &Connection, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = grpc(&connection.channel);
        let called = async {
            grpc.ready().await.map_err(|error| Status::unavailable(describe(&error)))?;
            let codec: ProstCodec<Q, A> = ProstCodec::default();
            grpc.unary(request(connection, question), PathAndQuery::from_static(path), codec).await
        };
        let answer = tokio::time::timeout(CALL_TIMEOUT, called).await;
        answer
            .unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {CALL_TIMEOUT:?}"))))
            .map(|answer| answer.into_inner())
    }

    /// Opens a watch. It ends with the value.
    pub async fn watch(&self, create: WatchCreate) -> Result<Watch<'_>, Failure> {
        let connection = self.connection().await?;
        let (questions, stream) = mpsc::channel(1);
        questions.try_send(WatchRequest { action: Some(WatchAction::Create(create)) }).expect("the channel is empty");
        let mut grpc = grpc(&connection.channel);
        let opened = async {
            grpc.ready().await.map_err(|error| Status::unavailable(describe(&error)))?;
            let codec: ProstCodec<WatchRequest, WatchResponse> = ProstCodec::default();
            let request = request(&connection, ReceiverStream::new(stream));
            grpc.streaming(request, PathAndQuery::from_static(wire::WATCH), codec).await
        };
        let opened = tokio::time::timeout(CALL_TIMEOUT, opened).await;
        match opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("the watch was not opened"))) {
            Ok(answers) => Ok(Watch { client: self, connection, answers: answers.into_inner(), _questions: questions }),
            Err(status) => {
                if is_token_bad(&status) {
                    self.state().token = None;
                }
                Err(self.failed(&connection, &status))
            }
        }
    }

    async fn connection(&self) -> Result<Connection, Failure> {
        let (turn, known) = {
            let state = self.state();
            let known = state.channel.clone().filter(|_| state.token.is_some() || self.options.user.is_none());
            (state.turn, known.map(|channel| Connection { turn: state.turn, channel, token: state.token.clone() }))
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let unreached = |reason: String| {
            self.give_up(turn);
            Failure::Unreached { endpoint: self.endpoint(turn).to_string(), reason }
        };
        let endpoint = self.open(self.endpoint(turn))?;
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await;
        let silent = || unreached(format!("no connection within {CONNECT_TIMEOUT:?}"));
        let channel = connected.map_err(|_| silent())?.map_err(|error| unreached(describe(&error)))?;
        let mut connection = Connection { turn, channel, token: None };
        if let Some(user) = &self.options.user {
            connection.token = Some(self.authenticate(&connection, user).await?);
        }
        let mut state = self.state();
        if state.turn == turn {
            (state.channel, state.token) = (Some(connection.channel.clone()), connection.token.clone());
        }
        Ok(connection)
    }

    async fn authenticate(&self, connection: &Connection, user: &str) -> Result<MetadataValue<Ascii>, Failure> {
        let path = self.options.password_file.clone().unwrap_or_default();
        let password = read(&path)?;
        let password = String::from_utf8_lossy(&password).trim_end().to_string();
        let question = AuthenticateRequest { name: user.to_string(), password };
        let answer = self.unary::<_, AuthenticateResponse>(connection, wire::AUTHENTICATE, question).await;
        let token = answer.map_err(|status| self.failed(connection, &status))?.token;
        let refused = |_| Failure::Refused { endpoint: self.endpoint(connection.turn).to_string(), reason: "its token is no text".into() };
        token.parse().map_err(refused)
    }

    /// The next member's turn, unless somebody has seen to it.
    fn give_up(&self, turn: usize) {
        let mut state = self.state();
        if state.turn == turn {
            *state = State { turn: turn.wrapping_add(1), ..State::default() };
        }
    }

    fn failed(&self, connection: &Connection, status: &Status) -> Failure {
        let (endpoint, reason) = (self.endpoint(connection.turn).to_string(), text(status));
        match status.code() {
            Code::ResourceExhausted if reason.contains("space exceeded") => Failure::Full,
            Code::OutOfRange if reason.contains("compacted") => Failure::Compacted,
            Code::Unavailable if is_unsent(status) => {
                self.give_up(connection.turn);
                Failure::Unreached { endpoint, reason }
            }
            Code::Unavailable if reason.contains("no leader") => {
                self.give_up(connection.turn);
                Failure::Leaderless { endpoint }
            }
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal | Code::ResourceExhausted => {
                self.give_up(connection.turn);
                Failure::Lost { endpoint, reason }
            }
            _ => Failure::Refused { endpoint, reason },
        }
    }

    fn open(&self, address: &str) -> Result<Endpoint, Failure> {
        let refused = |error: tonic::transport::Error| Failure::Refused { endpoint: address.to_string(), reason: describe(&error) };
        let endpoint = Endpoint::from_shared(address.to_string()).map_err(refused)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        match self.tls()? {
            Some(tls) if address.starts_with("https://") => endpoint.tls_config(tls).map_err(refused),
            _ => Ok(endpoint),
        }
    }

    fn tls(&self) -> Result<Option<ClientTlsConfig>, Failure> {
        let Some(ca) = &self.options.ca else { return Ok(None) };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
        if let (Some(certificate), Some(key)) = (&self.options.certificate, &self.options.key) {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(Some(tls))
    }
}

/// An open watch.
pub struct Watch<'a> {
    client: &'a Client,
    connection: Connection,
    answers: Streaming<WatchResponse>,
    /// etcd ends a watch whose client says that it asks nothing more.
    _questions: mpsc::Sender<WatchRequest>,
}

impl Watch<'_> {
    /// The next answer, as a whole. `Compacted` where the watch began too early.
    pub async fn next(&mut self) -> Result<WatchResponse, Failure> {
        let mut whole = self.piece().await?;
        while whole.has_more {
            let piece = self.piece().await?;
            whole.has_more = piece.has_more;
            whole.events.extend(piece.events);
        }
        Ok(whole)
    }

    async fn piece(&mut self) -> Result<WatchResponse, Failure> {
        let ended = || Err(Status::unavailable("the watch has ended"));
        let piece = self.answers.message().await.and_then(|piece| piece.map_or_else(ended, Ok));
        let piece = piece.map_err(|status| self.client.failed(&self.connection, &status))?;
        match piece {
            WatchResponse { is_canceled: true, compact_revision: 1.., .. } => Err(Failure::Compacted),
            WatchResponse { is_canceled: true, reason, .. } => Err(self.client.failed(&self.connection, &Status::unavailable(reason))),
            piece => Ok(piece),
        }
    }
}

fn grpc(channel: &Channel) -> Grpc<Channel> {
    Grpc::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn request<T>(connection: &Connection, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    if let Some(token) = &connection.token {
        request.metadata_mut().insert("token", token.clone());
    }
    request
}

/// The connection was lost before, and there was none any more to send anything over.
fn is_unsent(status: &Status) -> bool {
    let mut causes = std::iter::successors(status.source(), |&cause| cause.source());
    causes.any(|cause| cause.is::<ConnectError>())
}

fn is_token_bad(status: &Status) -> bool {
    status.code() == Code::Unauthenticated
        || status.message().contains("invalid auth token")
        || status.message().contains("revision in header is old")
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::File { path: path.clone(), reason: error.to_string() })
}

/// What a status says, or, where the transport ended instead of an answer, why it ended.
fn text(status: &Status) -> String {
    status.source().map_or_else(|| status.message().to_string(), describe)
}

/// An error with its causes.
fn describe(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::time::Instant;

    use super::super::tests::by_hand::{announced, begun, etcd, way_to};
    use super::super::wire::{RANGE, RangeRequest, RangeResponse};
    use super::*;

    fn client(member: std::net::SocketAddr) -> Client {
        Client::new(EtcdOptions { endpoints: vec![format!("http://{member}")], ..EtcdOptions::default() })
    }

    async fn ask(client: &Client) -> Result<RangeResponse, Failure> {
        client.call(RANGE, RangeRequest::default()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_takes_no_connection_is_given_up() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(1).unwrap();
        let address = full.local_addr().unwrap();
        // The kernel's queue is full from the third on.
        let others: Vec<_> = (0..4).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
        tokio::task::yield_now().await;
        let (client, begun) = (client(address), Instant::now());
        assert!(matches!(ask(&client).await, Err(Failure::Unreached { .. })));
        assert_eq!(begun.elapsed().as_secs(), CONNECT_TIMEOUT.as_secs());
        others.iter().for_each(|other| other.abort());
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_does_not_answer_is_given_up() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(silent.local_addr().unwrap());
        let began = Instant::now();
        assert!(matches!(ask(&client).await, Err(Failure::Lost { .. })));
        assert_eq!(began.elapsed().as_secs(), CALL_TIMEOUT.as_secs());
        let began = Instant::now();
        assert!(matches!(client.watch(WatchCreate::default()).await.map(drop), Err(Failure::Lost { .. })));
        assert_eq!(began.elapsed().as_secs(), CALL_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_answers_no_ping_ends_the_watch() {
        let member = etcd(|_| std::future::ready(begun(&WatchResponse::default()))).await;
        let (address, cut) = way_to(member).await;
        let client = client(address);
        let mut watch = client.watch(WatchCreate::default()).await.unwrap();
        watch.next().await.unwrap();
        let quiet = KEEPALIVE_INTERVAL * 10;
        assert!(tokio::time::timeout(quiet, watch.next()).await.is_err(), "it answers pings");
        cut.send_replace(true);
        let cut = Instant::now();
        assert!(matches!(watch.next().await, Err(Failure::Lost { .. })));
        assert!(cut.elapsed() >= KEEPALIVE_TIMEOUT && cut.elapsed() <= KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT, "{:?}", cut.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_too_large_is_not_waited_for() {
        for (length, seconds) in [(MESSAGE_BYTES_MAX, CALL_TIMEOUT.as_secs()), (MESSAGE_BYTES_MAX + 1, 0)] {
            let member = etcd(move |_| std::future::ready(announced(length as u32))).await;
            let (client, began) = (client(member), Instant::now());
            let failure = ask(&client).await.unwrap_err();
            assert_eq!(began.elapsed().as_secs(), seconds, "{failure}");
        }
    }
}
