//! The server's end: a listener that hands over every node's stream, its name proven by its certificate.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use model::NodeName;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Codec;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::server::NamedService;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::accepted;
use crate::frames::Frames;
use crate::tls::{Credentials, Renewed, TlsError, describe, node_of};
use crate::wire::{Hello, NodeMessage, Refused, ServerMessage, node_message, server_message};
use crate::{HELLO_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MESSAGE_BYTES_MAX, VIEW_FORMAT};

/// Handshakes that go on at once; further connections wait in the kernel's queue.
const HANDSHAKES_AT_ONCE: usize = 512;
/// Handshakes of one address that go on at once; further connections of it are closed.
pub const HANDSHAKES_PER_PEER_MAX: usize = 32;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams of one connection: a node needs one, and one more while it gives up an old one.
pub const STREAMS_PER_CONNECTION: u32 = 4;
/// Messages between the owner of a stream and the wire. Few: what waits should wait where it can still be merged.
const OUTBOUND: usize = 2;

/// A node that follows its view.
pub struct Follower {
    /// Who it is, by its certificate.
    pub node: NodeName,
    pub hello: Hello,
    pub inbound: Streaming<NodeMessage>,
    /// Waits when the node is slow. Dropping it ends the stream.
    pub outbound: mpsc::Sender<Result<ServerMessage, Status>>,
}

/// A listener that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen for nodes on {address}: {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the listener for nodes failed: {0}")]
    Failed(String),
}

/// Where nodes connect.
pub struct Listener {
    tcp: TcpListener,
    credentials: Renewed,
}

impl Listener {
    /// Takes the address and reads the credentials once, so that mistakes are told at start.
    pub async fn bind(address: SocketAddr, credentials: Credentials) -> Result<Listener, ServeError> {
        let credentials = Renewed::of(credentials);
        credentials.server_config()?;
        let tcp = TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })?;
        Ok(Listener { tcp, credentials })
    }

    /// The address that was taken.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.local_addr().ok()
    }

    /// Hands over nodes to `followers` until `shutdown` is done; then ends all streams.
    pub async fn run(self, followers: mpsc::Sender<Follower>, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        self.run_while(Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE)), followers, shutdown).await
    }

    /// As [`Listener::run`], with as many handshakes at once as there are `free`.
    async fn run_while(
        self,
        free: Arc<Semaphore>,
        followers: mpsc::Sender<Follower>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let (accepted, incoming) = mpsc::channel(HANDSHAKES_AT_ONCE);
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .add_service(Views { followers })
            .serve_with_incoming(ReceiverStream::new(incoming));
        tokio::select! {
            result = server => result.map_err(|error| ServeError::Failed(describe(&error))),
            () = accept(self.tcp, self.credentials, free, accepted) => Ok(()),
            () = shutdown => Ok(()),
        }
    }
}

/// How many handshakes of an address go on.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Peers {
    /// A place, if the address has one left.
    fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut peers = self.lock();
        let taken = peers.entry(address).or_default();
        if *taken >= HANDSHAKES_PER_PEER_MAX {
            return None;
        }
        *taken += 1;
        Some(Place { peers: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One handshake's place, given back when it is dropped.
struct Place {
    peers: Peers,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.peers.lock();
        let left = peers.get(&self.address).map_or(0, |taken| taken.saturating_sub(1));
        match left {
            0 => drop(peers.remove(&self.address)),
            left => drop(peers.insert(self.address, left)),
        }
    }
}

/// Accepts connections for ever. Each handshake is a task of its own and no address has all of them, so that a silent peer holds
/// up nobody.
async fn accept(
    tcp: TcpListener,
    credentials: Renewed,
    free: Arc<Semaphore>,
    done: mpsc::Sender<Result<TlsStream<TcpStream>, Infallible>>,
) {
    let peers = Peers::default();
    loop {
        let permit = free.clone().acquire_owned().await.expect("the semaphore is never closed");
        let failed =
            |error| tracing::warn!("cannot accept a node's connection: {error}; nodes keep forwarding; see the limit on open files");
        let (stream, peer) = accepted(|| tcp.accept(), failed).await;
        let Some(place) = peers.enter(peer.ip()) else {
            tracing::debug!("connection from {peer} closed: {HANDSHAKES_PER_PEER_MAX} handshakes of this address go on");
            continue;
        };
        let (credentials, done) = (credentials.clone(), done.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(stream, &credentials)).await {
                Ok(Ok(stream)) => drop(done.send(Ok(stream)).await),
                Ok(Err(error)) => tracing::warn!("connection from {peer} refused: {error}"),
                Err(_) => tracing::warn!("connection from {peer} refused: no TLS handshake within {HANDSHAKE_TIMEOUT:?}"),
            }
            drop((permit, place));
        });
    }
}

async fn handshake(stream: TcpStream, credentials: &Renewed) -> Result<TlsStream<TcpStream>, ServeError> {
    let config = credentials.server_config()?;
    let fail = |error: io::Error| ServeError::Failed(describe(&error));
    stream.set_nodelay(true).map_err(fail)?;
    TlsAcceptor::from(config).accept(stream).await.map_err(fail)
}

/// The gRPC service, as `tonic-build` would write it.
#[derive(Clone)]
struct Views {
    followers: mpsc::Sender<Follower>,
}

impl NamedService for Views {
    const NAME: &'static str = "ladon.v1.Views";
}

/// The path of the one method.
pub(crate) const FOLLOW: &str = "/ladon.v1.Views/Follow";

impl<B> Service<http::Request<B>> for Views
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != FOLLOW {
            return Box::pin(async { Ok(Status::unimplemented("ladon.v1.Views has one method, Follow").into_http()) });
        }
        let answer = follow(Request::from_http(request), self.followers.clone()).unwrap_or_else(Status::into_http);
        Box::pin(async { Ok(answer) })
    }
}

/// The answer to a node, which goes on for as long as it follows.
fn follow<B>(request: Request<B>, followers: mpsc::Sender<Follower>) -> Result<http::Response<tonic::body::Body>, Status>
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let node = certified(&request)?;
    let mut codec: ProstCodec<ServerMessage, NodeMessage> = ProstCodec::default();
    let inbound = Streaming::new_request(codec.decoder(), request.into_inner(), None, Some(MESSAGE_BYTES_MAX));
    let (outbound, messages) = mpsc::channel(OUTBOUND);
    // The answer's headers go out at once: clients wait for them before they speak.
    tokio::spawn(welcome(node, inbound, outbound, followers));
    let mut answer = http::Response::new(tonic::body::Body::new(Frames::of(messages)));
    answer.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    Ok(answer)
}

/// The name in the peer's certificate.
fn certified<B>(request: &Request<B>) -> Result<NodeName, Status> {
    let certificates = request.peer_certs().ok_or_else(|| Status::unauthenticated("show a certificate"))?;
    let leaf: Option<&CertificateDer<'_>> = certificates.first();
    leaf.and_then(node_of).ok_or_else(|| {
        Status::permission_denied(
            "the certificate is no node's: it needs exactly one URI of the form node:<name> as subject alternative name",
        )
    })
}

/// Waits for the node's Hello and hands it over, or says why not.
async fn welcome(
    node: NodeName,
    mut inbound: Streaming<NodeMessage>,
    outbound: mpsc::Sender<Result<ServerMessage, Status>>,
    followers: mpsc::Sender<Follower>,
) {
    let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.message()).await;
    let Ok(Ok(Some(NodeMessage { body: Some(node_message::Body::Hello(hello)) }))) = first else {
        drop(outbound.send(Err(Status::invalid_argument(format!("say Hello first, within {HELLO_TIMEOUT:?}")))).await);
        return;
    };
    if let Err(reason) = acceptable(&node, &hello) {
        tracing::warn!("stream of node {node} refused: {reason}");
        let refused = server_message::Body::Refused(Refused { reason: reason.clone() });
        drop(outbound.send(Ok(refused.into())).await);
        return;
    }
    drop(followers.send(Follower { node, hello, inbound, outbound }).await);
}

fn acceptable(node: &NodeName, hello: &Hello) -> Result<(), String> {
    if hello.node != node.0 {
        return Err(format!("the certificate is node {node}'s and does not open the view of node {}", hello.node.escape_debug()));
    }
    if hello.view_format != VIEW_FORMAT {
        let format = hello.view_format;
        return Err(format!("this server speaks view format {VIEW_FORMAT}, the node {format}: run the same version of Ladon on both"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty};
    use tokio::io::AsyncReadExt;
    use tokio::sync::watch;
    use tokio::time::Instant;
    use tonic::codec::Codec;

    use super::*;
    use crate::pki::Authority;
    use crate::{Target, follow};

    async fn listener(directory: &std::path::Path) -> (Listener, SocketAddr) {
        let credentials = Authority::open(directory).unwrap().server().unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), credentials).await.unwrap();
        let address = listener.address().unwrap();
        (listener, address)
    }

    #[tokio::test(start_paused = true)]
    async fn who_speaks_no_tls_is_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let (listener, address) = listener(directory.path()).await;
        let (followers, _none) = mpsc::channel(1);
        tokio::spawn(listener.run(followers, std::future::pending()));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let begun = Instant::now();
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(begun.elapsed().as_secs(), HANDSHAKE_TIMEOUT.as_secs());
    }

    fn node(directory: &std::path::Path, address: SocketAddr) -> (Target, Hello) {
        let credentials = Authority::open(directory).unwrap().node(&NodeName("n1".into())).unwrap();
        let hello = Hello { node: "n1".into(), view_format: VIEW_FORMAT, ..Hello::default() };
        (Target { address: address.to_string(), credentials }, hello)
    }

    #[tokio::test]
    async fn a_handshake_beyond_the_most_begins_when_another_one_ends() {
        const DEADLINE: Duration = Duration::from_secs(120);
        let directory = tempfile::tempdir().unwrap();
        let (listener, address) = listener(directory.path()).await;
        let free = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
        let _others = free.clone().acquire_many_owned(HANDSHAKES_AT_ONCE as u32 - 1).await.unwrap();
        let (followers, mut following) = mpsc::channel(1);
        tokio::spawn(listener.run_while(free, followers, std::future::pending()));
        let silent = TcpStream::connect(address).await.unwrap();
        let (target, hello) = node(directory.path(), address);
        let mut next = std::pin::pin!(follow(&target, hello));
        let everything_else = async {
            for _ in 0..10_000 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = &mut next => panic!("a handshake too many"),
            () = everything_else => {}
        }
        drop(silent);
        let _following = tokio::time::timeout(DEADLINE, next).await.expect("its turn has come").unwrap();
        assert_eq!(following.recv().await.unwrap().node.0, "n1");
    }

    /// A way to `server`. When it is cut, neither end hears of it.
    async fn way_to(server: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, (cut, mut is_cut)) = (listener.local_addr().unwrap(), watch::channel(false));
        tokio::spawn(async move {
            let (mut near, mut far) = (listener.accept().await.unwrap().0, TcpStream::connect(server).await.unwrap());
            near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                () = async { drop(is_cut.wait_for(|is_cut| *is_cut).await) } => std::future::pending().await,
            }
        });
        (address, cut)
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_no_probe_is_let_go_by_either_end() {
        let directory = tempfile::tempdir().unwrap();
        let (listener, address) = listener(directory.path()).await;
        let (followers, mut following) = mpsc::channel(1);
        tokio::spawn(listener.run(followers, std::future::pending()));
        let (way, cut) = way_to(address).await;
        let (target, hello) = node(directory.path(), way);
        let mut node = follow(&target, hello).await.unwrap();
        let server = following.recv().await.unwrap();
        let quiet = tokio::time::timeout(KEEPALIVE_INTERVAL * 10, node.inbound.message()).await;
        assert!(quiet.is_err() && !server.outbound.is_closed(), "whoever answers probes need not say anything else");
        cut.send_replace(true);
        let cut = Instant::now();
        let at_node = async {
            assert!(node.inbound.message().await.is_err());
            cut.elapsed()
        };
        let at_server = async {
            server.outbound.closed().await;
            cut.elapsed()
        };
        let (at_node, at_server) = tokio::join!(at_node, at_server);
        for lost in [at_node, at_server] {
            assert!(lost >= KEEPALIVE_TIMEOUT && lost <= KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT, "{lost:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_say_hello_is_let_go() {
        let silence = std::future::pending::<Option<Result<http::HeaderMap, Infallible>>>();
        let decoder = ProstCodec::<ServerMessage, NodeMessage>::default().decoder();
        let inbound = Streaming::new_request(decoder, Empty::<Bytes>::new().with_trailers(silence), None, None);
        let (outbound, mut said) = mpsc::channel(OUTBOUND);
        let (followers, _none) = mpsc::channel(1);
        let begun = Instant::now();
        tokio::spawn(welcome(NodeName("n1".into()), inbound, outbound, followers));
        let status = said.recv().await.unwrap().unwrap_err();
        assert_eq!(begun.elapsed().as_secs(), HELLO_TIMEOUT.as_secs(), "{status}");
        assert!(said.recv().await.is_none());
    }

    /// Puts in what there is room for. Nothing is taken out meanwhile.
    async fn filled<T>(sender: &mpsc::Sender<T>, message: impl Fn() -> T) -> usize {
        while sender.capacity() < sender.max_capacity() {
            tokio::task::yield_now().await;
        }
        (0..1000).take_while(|_| sender.try_send(message()).is_ok()).count()
    }

    #[tokio::test]
    async fn little_waits_between_either_end_and_the_wire() {
        let directory = tempfile::tempdir().unwrap();
        let (listener, address) = listener(directory.path()).await;
        let (followers, mut following) = mpsc::channel(1);
        tokio::spawn(listener.run(followers, std::future::pending()));
        let (target, hello) = node(directory.path(), address);
        let node = follow::follow(&target, hello).await.unwrap();
        let server = following.recv().await.unwrap();
        assert_eq!(filled(&server.outbound, || Ok(ServerMessage { body: None })).await, OUTBOUND);
        assert_eq!(filled(&node.outbound, || NodeMessage { body: None }).await, follow::OUTBOUND);
        node.outbound.send(NodeMessage { body: None }).await.expect("it waits until there is room");
    }
}
