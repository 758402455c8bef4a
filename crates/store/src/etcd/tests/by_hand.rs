//! An etcd that says what a test wants, and a way to it that can be cut.

use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

pub type Question = http::Request<Body>;
pub type Answer = http::Response<Body>;

/// One of etcd's services.
#[derive(Clone)]
struct Kv<F>(F);

#[derive(Clone)]
struct Watch<F>(F);

impl<F> NamedService for Kv<F> {
    const NAME: &'static str = "etcdserverpb.KV";
}

impl<F> NamedService for Watch<F> {
    const NAME: &'static str = "etcdserverpb.Watch";
}

macro_rules! answered_by {
    ($service:ident) => {
        impl<F, A> Service<Question> for $service<F>
        where
            F: Fn(Question) -> A + Clone + Send + 'static,
            A: Future<Output = Answer> + Send + 'static,
        {
            type Response = Answer;
            type Error = Infallible;
            type Future = BoxFuture<Answer, Infallible>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, question: Question) -> Self::Future {
                let answered = (self.0)(question);
                Box::pin(async move { Ok(answered.await) })
            }
        }
    };
}

answered_by!(Kv);
answered_by!(Watch);

/// An etcd that answers every question with what `answer` makes of it, and where it listens.
pub async fn etcd<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Question) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(Kv(answer.clone())).add_service(Watch(answer));
    let at_once = |stream: std::io::Result<TcpStream>| stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener).map(at_once)));
    address
}

/// The only message of a question.
pub async fn asked<M: Message + Default>(question: Question) -> M {
    let bytes = question.into_body().collect().await.unwrap().to_bytes();
    M::decode(&bytes[5..]).unwrap()
}

/// A message, and the end.
pub fn said(message: &impl Message) -> Answer {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    headed(Body::new(Full::new(framed(message)).with_trailers(ready(Some(Ok(trailers))))))
}

/// A message, and no end.
pub fn begun(message: &impl Message) -> Answer {
    unended(framed(message))
}

/// The beginning of a message of so many bytes.
pub fn announced(length: u32) -> Answer {
    unended([&[0], &length.to_be_bytes()[..]].concat().into())
}

pub fn refused(status: Status) -> Answer {
    status.into_http()
}

fn unended(bytes: Bytes) -> Answer {
    headed(Body::new(Full::new(bytes).with_trailers(pending::<Option<Result<http::HeaderMap, Infallible>>>())))
}

fn headed(body: Body) -> Answer {
    http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn framed(message: &impl Message) -> Bytes {
    let bytes = message.encode_to_vec();
    [&[0], &(bytes.len() as u32).to_be_bytes()[..], &bytes].concat().into()
}

/// A way to `etcd`. When it is cut, neither end hears of it.
pub async fn way_to(etcd: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, (cut, is_cut)) = (listener.local_addr().unwrap(), watch::channel(false));
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (mut far, mut is_cut) = (TcpStream::connect(etcd).await.unwrap(), is_cut.clone());
            near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).unwrap();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = async { drop(is_cut.wait_for(|is_cut| *is_cut).await) } => pending().await,
                }
            });
        }
    });
    (address, cut)
}
