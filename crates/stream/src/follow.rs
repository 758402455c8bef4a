//! The node's end: one attempt to follow the view at one server.

use bytes::Bytes;
use std::error::Error;
use std::net::IpAddr;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::{Authority, PathAndQuery};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::serve::FOLLOW;
use crate::tls::{Credentials, TlsError, describe};
use crate::wire::{Hello, NodeMessage, ServerMessage, node_message};
use crate::{CONNECT_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MESSAGE_BYTES_MAX, SERVER_NAME};

/// Messages between the node and the wire. The sender waits beyond that.
pub(crate) const OUTBOUND: usize = 4;

/// A server to follow, and as whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// `host:port` or `[address]:port`; `https://` may stand before it.
    pub address: String,
    pub credentials: Credentials,
}

/// An open stream. Dropping it ends it.
pub struct Following {
    pub inbound: Streaming<ServerMessage>,
    pub outbound: mpsc::Sender<NodeMessage>,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("'{address}' is no address of a server: one is host:port or [address]:port, and https:// may stand before it")]
    Address { address: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: String, reason: String },
    #[error("{address} does not serve this node's view: {reason}")]
    Refused { address: String, reason: String },
    #[error("{address} does not answer within {CONNECT_TIMEOUT:?}")]
    Silent { address: String },
}

/// Connects and says `hello`. The credentials' files are read anew each time.
pub async fn follow(target: &Target, hello: Hello) -> Result<Following, FollowError> {
    open(target, endpoint(target)?, hello).await
}

/// The same from one of this machine's addresses: for programs that are many nodes.
pub async fn follow_from(from: IpAddr, target: &Target, hello: Hello) -> Result<Following, FollowError> {
    open(target, endpoint(target)?.local_address(Some(from)), hello).await
}

async fn open(target: &Target, endpoint: Endpoint, hello: Hello) -> Result<Following, FollowError> {
    let silent = || FollowError::Silent { address: target.address.clone() };
    tokio::time::timeout(CONNECT_TIMEOUT, say_hello(target, endpoint, hello)).await.map_err(|_| silent())?
}

async fn say_hello(target: &Target, endpoint: Endpoint, hello: Hello) -> Result<Following, FollowError> {
    let connect = |error: &(dyn Error + 'static)| FollowError::Connect { address: target.address.clone(), reason: describe(error) };
    let channel = endpoint.connect().await.map_err(|error| connect(&error))?;
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready().await.map_err(|error| connect(&error))?;
    let (outbound, messages) = mpsc::channel(OUTBOUND);
    outbound.try_send(node_message::Body::Hello(hello).into()).expect("the channel is empty");
    let codec: ProstCodec<NodeMessage, ServerMessage> = ProstCodec::default();
    let request = Request::new(ReceiverStream::new(messages));
    let refused = |status: Status| FollowError::Refused { address: target.address.clone(), reason: reason(&status) };
    let answer = grpc.streaming(request, PathAndQuery::from_static(FOLLOW), codec).await.map_err(refused)?;
    Ok(Following { inbound: answer.into_inner(), outbound })
}

/// What to connect to, of an address as people write it; None: it is no address of a server.
pub fn authority(address: &str) -> Option<Authority> {
    let authority: Authority = address.strip_prefix("https://").unwrap_or(address).parse().ok()?;
    let is_complete = !authority.host().is_empty() && authority.port_u16().is_some_and(|port| port != 0);
    (is_complete && !authority.as_str().contains('@')).then_some(authority)
}

fn endpoint(target: &Target) -> Result<Endpoint, FollowError> {
    let address = || FollowError::Address { address: target.address.clone() };
    let loaded = target.credentials.load()?;
    let tls = ClientTlsConfig::new()
        .domain_name(SERVER_NAME)
        .ca_certificate(Certificate::from_pem(loaded.ca))
        .identity(Identity::from_pem(loaded.certificate, loaded.key));
    let authority = authority(&target.address).ok_or_else(address)?;
    let endpoint = Endpoint::from_shared(Bytes::from(format!("https://{authority}"))).map_err(|_| address())?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    endpoint.tls_config(tls).map_err(|error| FollowError::Connect { address: target.address.clone(), reason: describe(&error) })
}

/// What a status says, or, where the transport ended instead of an answer, why it ended; and the code that gRPC gives it.
pub fn reason(status: &Status) -> String {
    let words = status.source().map_or_else(|| status.message().to_string(), describe);
    format!("{words} (gRPC code {:?})", status.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_server_has_a_host_and_a_port_and_nothing_else() {
        for good in ["192.0.2.1:9697", "https://192.0.2.1:9697", "ladon.example.org:9697", "[2001:db8::1]:9697"] {
            assert!(authority(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "https://",
            ":9697",
            "192.0.2.1",
            "192.0.2.1:0",
            "192.0.2.1:70000",
            "http://192.0.2.1:9697",
            "https://192.0.2.1:9697/",
            "tcp://192.0.2.1:9697",
            "2001:db8::1:9697",
            "root@192.0.2.1:9697",
            "192.0.2.1:9697 192.0.2.2:9697",
        ] {
            assert_eq!(authority(bad), None, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let credentials = crate::pki::Authority::open(directory.path()).unwrap().node(&model::NodeName("n1".into())).unwrap();
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let begun = tokio::time::Instant::now();
        let outcome = follow(&Target { address, credentials }, Hello::default()).await;
        assert!(outcome.is_err());
        assert_eq!(begun.elapsed().as_secs(), CONNECT_TIMEOUT.as_secs());
    }

    #[test]
    fn a_status_is_told_in_words() {
        let refused = Status::permission_denied("the certificate is n1's");
        assert_eq!(reason(&refused), "the certificate is n1's (gRPC code PermissionDenied)");
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert_eq!(reason(&broken), "connection reset (gRPC code Unknown)");
    }
}
