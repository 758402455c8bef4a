//! Whose certificate opens which stream: real TLS on loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use model::NodeName;
use stream::pki::Authority;
use stream::wire::{Heartbeat, Hello, NodeMessage, Refused, Report, ServerMessage, node_message, server_message};
use stream::{
    Credentials, Follower, HANDSHAKES_PER_PEER_MAX, Listener, MESSAGE_BYTES_MAX, STREAMS_PER_CONNECTION, Target, VIEW_FORMAT, follow,
};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

const DEADLINE: Duration = Duration::from_secs(120);

struct World {
    dir: tempfile::TempDir,
    address: SocketAddr,
    followers: mpsc::Receiver<Follower>,
}

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let credentials = Authority::open(dir.path()).unwrap().server().unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), credentials).await.unwrap();
        let address = listener.address().unwrap();
        let (sender, followers) = mpsc::channel(4);
        tokio::spawn(listener.run(sender, std::future::pending()));
        World { dir, address, followers }
    }

    fn node(&self, name: &str) -> Credentials {
        node(self.dir.path(), name)
    }

    /// What the server says first to a node with these credentials that calls itself `name`; an error's text without a stream.
    async fn first_word(&self, credentials: Credentials, name: &str) -> Result<server_message::Body, String> {
        let target = Target { address: self.address.to_string(), credentials };
        let mut following = follow(&target, hello(name)).await.map_err(|error| error.to_string())?;
        match following.inbound.message().await {
            Ok(message) => Ok(message.expect("a word before the end").body.unwrap()),
            Err(status) => Err(stream::describe(&status)),
        }
    }
}

fn node(dir: &Path, name: &str) -> Credentials {
    Authority::open(dir).unwrap().node(&NodeName(name.into())).unwrap()
}

fn hello(name: &str) -> Hello {
    Hello { node: name.into(), view_format: VIEW_FORMAT, ..Hello::default() }
}

#[tokio::test]
async fn a_nodes_certificate_opens_its_own_view() {
    let mut world = World::new().await;
    let target = Target { address: world.address.to_string(), credentials: world.node("n1") };
    let mut following = follow(&target, hello("n1")).await.unwrap();
    let follower = world.followers.recv().await.unwrap();
    assert_eq!((follower.node.0.as_str(), follower.hello), ("n1", hello("n1")));
    let heartbeat = server_message::Body::Heartbeat(Heartbeat { revision: 3 });
    follower.outbound.send(Ok(heartbeat.clone().into())).await.unwrap();
    assert_eq!(following.inbound.message().await.unwrap().unwrap().body, Some(heartbeat));
}

#[tokio::test]
async fn a_nodes_certificate_does_not_open_another_nodes_view() {
    let mut world = World::new().await;
    let word = world.first_word(world.node("n1"), "n2").await;
    assert!(
        matches!(&word, Ok(server_message::Body::Refused(refused)) if refused.reason.contains("does not open the view of node n2")),
        "{word:?}"
    );
    assert!(world.followers.try_recv().is_err(), "nobody follows");
}

#[tokio::test]
async fn a_certificate_of_another_authority_opens_nothing() {
    let mut world = World::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let mut forged = node(elsewhere.path(), "n1");
    forged.ca = world.node("n1").ca;
    assert!(world.first_word(forged, "n1").await.is_err());
    assert!(world.followers.try_recv().is_err(), "nobody follows");
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_believed() {
    let world = World::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let mut credentials = world.node("n1");
    credentials.ca = node(elsewhere.path(), "n1").ca;
    let error = world.first_word(credentials, "n1").await.unwrap_err();
    assert!(error.contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn a_server_certificate_is_no_nodes() {
    let mut world = World::new().await;
    let credentials = Authority::open(world.dir.path()).unwrap().server().unwrap();
    assert!(world.first_word(credentials, "ladon-server").await.is_err());
    assert!(world.followers.try_recv().is_err(), "nobody follows");
}

#[tokio::test]
async fn without_a_certificate_nothing_opens() {
    let mut world = World::new().await;
    let ca = tonic::transport::Certificate::from_pem(std::fs::read(world.node("n1").ca).unwrap());
    let tls = tonic::transport::ClientTlsConfig::new().domain_name(stream::SERVER_NAME).ca_certificate(ca);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{}", world.address)).unwrap().tls_config(tls).unwrap();
    // With TLS 1.3 a client learns only on its first use that its missing certificate was refused.
    if let Ok(channel) = endpoint.connect().await {
        let mut grpc = tonic::client::Grpc::new(channel);
        let codec: tonic_prost::ProstCodec<stream::wire::NodeMessage, stream::wire::ServerMessage> = Default::default();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/ladon.v1.Views/Follow");
        let answer = match grpc.ready().await {
            Ok(()) => grpc.streaming(tonic::Request::new(tokio_stream::empty()), path, codec).await.is_ok(),
            Err(_) => false,
        };
        assert!(!answer, "refused");
    }
    assert!(world.followers.try_recv().is_err(), "nobody follows");
}

#[tokio::test]
async fn who_connects_and_is_silent_keeps_nobody_else_out() {
    const SILENT: usize = 600;
    let mut world = World::new().await;
    let (mut silent, mut closed) = (Vec::new(), 0);
    for _ in 0..SILENT {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(world.address).await.unwrap();
        if silent.len() < HANDSHAKES_PER_PEER_MAX {
            silent.push(stream);
            continue;
        }
        let mut byte = [0];
        let end = tokio::time::timeout(DEADLINE, stream.read(&mut byte)).await.expect("what is more than its share is closed");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        // On a slow machine the time of the first is up by now.
        if silent[0].try_read(&mut byte).is_ok() {
            break;
        }
        closed += 1;
    }
    assert!(closed > 0, "closed at once, and not when their time is up");
    let target = Target { address: world.address.to_string(), credentials: world.node("n1") };
    let _following = follow(&target, hello("n1")).await.unwrap();
    assert_eq!(world.followers.recv().await.unwrap().node.0, "n1");
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_stream_in_either_direction() {
    let mut world = World::new().await;
    let target = Target { address: world.address.to_string(), credentials: world.node("n1") };
    let refused = |reason: String| server_message::Body::Refused(Refused { reason }).into();
    let report = |absent: String| node_message::Body::Report(Report { absent: vec![absent], ..Report::default() }).into();
    // What surrounds the text takes a few bytes.
    let (fits, too_large) = ("x".repeat(MESSAGE_BYTES_MAX - 64), "x".repeat(MESSAGE_BYTES_MAX + 1));
    let mut following = follow(&target, hello("n1")).await.unwrap();
    let mut follower = world.followers.recv().await.unwrap();
    follower.outbound.send(Ok(refused(fits.clone()))).await.unwrap();
    assert!(following.inbound.message().await.unwrap().is_some());
    following.outbound.send(report(fits)).await.unwrap();
    assert!(follower.inbound.message().await.unwrap().is_some());
    follower.outbound.send(Ok(refused(too_large.clone()))).await.unwrap();
    assert!(following.inbound.message().await.is_err());
    let following = follow(&target, hello("n1")).await.unwrap();
    let mut follower = world.followers.recv().await.unwrap();
    following.outbound.send(report(too_large)).await.unwrap();
    assert!(!matches!(follower.inbound.message().await, Ok(Some(_))));
}

#[tokio::test]
async fn one_connection_has_a_few_streams_and_the_next_waits_for_one_to_end() {
    let mut world = World::new().await;
    let credentials = world.node("n1");
    let [ca, certificate, key] = [&credentials.ca, &credentials.certificate, &credentials.key].map(|path| std::fs::read(path).unwrap());
    let tls = ClientTlsConfig::new()
        .domain_name(stream::SERVER_NAME)
        .ca_certificate(Certificate::from_pem(ca))
        .identity(Identity::from_pem(certificate, key));
    let endpoint = Endpoint::from_shared(format!("https://{}", world.address)).unwrap().tls_config(tls).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let open = async || {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let codec: tonic_prost::ProstCodec<NodeMessage, ServerMessage> = Default::default();
        let hello = tokio_stream::once(NodeMessage::from(node_message::Body::Hello(hello("n1")))).chain(tokio_stream::pending());
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/ladon.v1.Views/Follow");
        grpc.streaming(tonic::Request::new(hello), path, codec).await.unwrap()
    };
    let mut streams = Vec::new();
    for _ in 0..STREAMS_PER_CONNECTION {
        streams.push((open().await, world.followers.recv().await.unwrap()));
    }
    let mut next = std::pin::pin!(open());
    let everything_else = async {
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = &mut next => panic!("a stream too many"),
        () = everything_else => {}
    }
    drop(streams.pop());
    tokio::time::timeout(DEADLINE, next).await.expect("its turn has come");
    assert_eq!(world.followers.recv().await.unwrap().node.0, "n1");
}

#[tokio::test]
async fn a_node_of_another_generation_is_told_so() {
    let world = World::new().await;
    let target = Target { address: world.address.to_string(), credentials: world.node("n1") };
    let mut following = follow(&target, Hello { view_format: VIEW_FORMAT + 1, ..hello("n1") }).await.unwrap();
    let word = following.inbound.message().await.unwrap().unwrap().body;
    assert!(matches!(&word, Some(server_message::Body::Refused(refused)) if refused.reason.contains("same version")), "{word:?}");
}

#[tokio::test]
async fn renewed_certificates_need_no_restart() {
    let mut world = World::new().await;
    for file in ["ca.crt", "ca.key", "server.crt", "server.key"] {
        std::fs::remove_file(world.dir.path().join(file)).unwrap();
    }
    Authority::open(world.dir.path()).unwrap().server().unwrap();
    let target = Target { address: world.address.to_string(), credentials: world.node("n1") };
    let _following = follow(&target, hello("n1")).await.unwrap();
    assert_eq!(world.followers.recv().await.unwrap().node.0, "n1");
}
