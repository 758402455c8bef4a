//! A Ladon server and a kube-apiserver that say what a test wants.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::Config;
use crate::lease::Fence;
use crate::neutron::Neutron;
use crate::topology::Topology;
use crate::topology::plan::Plan;

/// A status and a body.
pub type Answer = (u16, String);

/// A server's refusal.
pub fn refused() -> Answer {
    (409, "{}".into())
}

/// A server, the way to it, and what is known of its cluster.
pub struct Ladon {
    pub config: Config,
    pub neutron: Neutron,
    /// How many connections are open.
    pub connections: Arc<AtomicUsize>,
    pub topology: watch::Sender<Arc<Topology>>,
    _fence: watch::Sender<Instant>,
    _folder: tempfile::TempDir,
}

impl Ladon {
    /// One that refuses everything, and when it did.
    pub fn refusing() -> (Ladon, mpsc::Receiver<Instant>) {
        let (note, times) = noted();
        let ladon = Ladon::start(move |_| {
            note();
            ready(refused())
        });
        (ladon, times)
    }

    pub fn start<F, A>(answer: F) -> Ladon
    where
        F: Fn(hyper::Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        let (listener, connections) = (UnixListener::bind(&path).unwrap(), Arc::new(AtomicUsize::new(0)));
        let mut config = Config::default();
        config.api.endpoint = format!("unix:{}", path.display());
        config.network.services = vec!["10.96.0.0/16".parse().unwrap()];
        let (fence_end, fence) = Fence::new();
        fence_end.send_replace(Instant::now() + Duration::from_secs(1 << 30));
        tokio::spawn(serve(listener, answer, connections.clone()));
        let plan = Plan { pods: Vec::new(), services: Vec::new() };
        let service_subnets = vec![("10.96.0.0/16".parse().unwrap(), Uuid::nil())];
        let topology = Topology { plan, pod_network: Uuid::nil(), group: Uuid::nil(), router: Uuid::nil(), service_subnets };
        let neutron = Neutron::new(&config, fence).unwrap();
        Ladon { config, neutron, connections, topology: watch::channel(Arc::new(topology)).0, _fence: fence_end, _folder: folder }
    }
}

async fn serve<F, A>(listener: UnixListener, answer: F, connections: Arc<AtomicUsize>)
where
    F: Fn(hyper::Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        let (answer, connections) = (answer.clone(), connections.clone());
        tokio::spawn(async move {
            connections.fetch_add(1, Ordering::SeqCst);
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move {
                    let (status, body) = answered.await;
                    Ok::<_, Infallible>(hyper::Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap())
                }
            });
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            connections.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// A kube-apiserver that has nothing, shows its requests to `see`, and answers no watch and no write.
pub fn kubernetes(see: impl Fn(&hyper::Request<kube::client::Body>) + Clone + Send + 'static) -> Client {
    let answer = move |request: hyper::Request<kube::client::Body>| {
        see(&request);
        async move {
            if request.method() != hyper::Method::GET || request.uri().query().is_some_and(|query| query.contains("watch=")) {
                std::future::pending::<()>().await;
            }
            let nothing = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []});
            Ok::<_, tower::BoxError>(hyper::Response::new(kube::client::Body::from(serde_json::to_vec(&nothing)?)))
        }
    };
    Client::new(tower::service_fn(answer), "default")
}

/// Notes the time whenever it is called.
pub fn noted() -> (impl Fn() + Clone + Send + Sync + 'static, mpsc::Receiver<Instant>) {
    let (note, times) = mpsc::channel(64);
    (move || note.try_send(Instant::now()).unwrap_or_default(), times)
}

/// The seconds between the next times.
pub async fn rests<const COUNT: usize>(times: &mut mpsc::Receiver<Instant>) -> [u64; COUNT] {
    let mut last = times.recv().await.unwrap();
    let mut rests = [0; COUNT];
    for rest in &mut rests {
        let next = times.recv().await.unwrap();
        *rest = (next - last).as_secs();
        last = next;
    }
    rests
}

/// Lets everything go on that can.
pub async fn let_all_go_on() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}
