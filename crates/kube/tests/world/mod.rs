//! A world for one test: a namespace of its own in the shared cluster, a server of its own, instances of `ladon kube`.
//!
//! All tests share kube-apiserver, so every instance sees the pods of all tests; a test looks at those of its own namespace.
#![allow(dead_code)]

pub mod fake;
pub mod front;
pub mod kubernetes;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::IntoResponse;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use kube_bridge::Config;
use serde_json::{Value, json};
use server::auth::Auth;
use server::{Core, http, neutron, octavia};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use front::Front;

const DEADLINE: Duration = Duration::from_secs(120);

/// Waits for a condition.
pub async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The real server, with a store of its own.
pub fn real_server() -> axum::Router {
    let core = Core::start(std::sync::Arc::new(store::Memory::new())).unwrap();
    let settings = neutron::Settings { network_mtu: 1450, network_type: Default::default() };
    let routes = octavia::routes(core.clone()).merge(neutron::routes(core, settings));
    http::application(routes, Auth::None)
}

pub struct World {
    pub client: Client,
    pub front: Front,
    pub namespace: String,
}

/// An instance of `ladon kube`.
pub struct Instance {
    task: JoinHandle<Result<(), kube_bridge::Error>>,
    shutdown: Option<oneshot::Sender<()>>,
}

impl Instance {
    /// As SIGKILL: nothing is said, nothing is given back.
    pub fn kill(self) {
        self.task.abort();
    }

    pub async fn stop(mut self) {
        self.shutdown.take().map(|shutdown| shutdown.send(()));
        self.task.await.unwrap().unwrap();
    }

    pub async fn ended(self) -> kube_bridge::Error {
        let _shutdown = self.shutdown;
        tokio::time::timeout(DEADLINE, self.task).await.expect("it ends").unwrap().unwrap_err()
    }
}

impl World {
    /// With the stand-in for a server.
    pub async fn new() -> World {
        World::on(|namespace| fake::router(format!("{namespace}/unlucky"))).await
    }

    pub async fn on(server: impl FnOnce(&str) -> axum::Router) -> World {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = tokio::task::spawn_blocking(kubernetes::kubeconfig).await.unwrap();
        let config = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let namespace = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut object = Namespace::default();
        object.metadata.name = Some(namespace.clone());
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        let front = Front::new(server(&namespace));
        World { client, front, namespace }
    }

    /// The cluster's name is this process's alone, so that other tests of the machine are other clusters.
    pub fn config(&self, holder: &str) -> Config {
        let text = format!(
            "cluster = '{0}-{1}'\nresync_secs = 3600\n[lease]\nname = 'ladon-{0}'\nnamespace = '{0}'\nduration_secs = 60\nholder = '{holder}'\n",
            self.namespace,
            std::process::id()
        );
        let mut config: Config = toml::from_str(&text).unwrap();
        config.kubeconfig = Some(kubernetes::kubeconfig().to_owned());
        config
    }

    pub async fn start(&self, holder: &str) -> Instance {
        self.start_with(self.config(holder)).await
    }

    pub async fn start_with(&self, mut config: Config) -> Instance {
        config.api.endpoint = self.front.listen().await;
        let (shutdown, stopped) = oneshot::channel::<()>();
        let stop = async move { drop(stopped.await) };
        Instance { task: tokio::spawn(kube_bridge::run(config, stop)), shutdown: Some(shutdown) }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A pod on a node; `more` is merged into its spec.
    pub async fn pod(&self, name: &str, more: Value) -> String {
        let mut object = json!({
            "metadata": {"name": name},
            "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}]},
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            match field.as_str() {
                "annotations" => object["metadata"]["annotations"] = value.clone(),
                field => object["spec"][field] = value.clone(),
            }
        }
        let pod: Pod = serde_json::from_value(object).unwrap();
        self.api::<Pod>().create(&PostParams::default(), &pod).await.unwrap().uid().unwrap()
    }

    pub async fn delete_pod(&self, name: &str) {
        self.api::<Pod>().delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    pub async fn set_phase(&self, name: &str, phase: &str) {
        let patch = Patch::Merge(json!({"status": {"phase": phase}}));
        self.api::<Pod>().patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// As a kubelet does once the containers run.
    pub async fn set_addresses(&self, name: &str, addresses: &[&str]) {
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let patch = Patch::Merge(json!({"status": {"phase": "Running", "podIP": addresses[0], "podIPs": ips}}));
        self.api::<Pod>().patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub async fn service(&self, name: &str, spec: Value) -> Service {
        let service = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        self.api::<Service>().create(&PostParams::default(), &service).await.unwrap()
    }

    /// Makes the IPv4 slice of a Service exactly these endpoints.
    pub async fn endpoints(&self, service: &str, endpoints: Value) {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": format!("{service}-x"), "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 8080}],
        }))
        .unwrap();
        let api = self.api::<EndpointSlice>();
        match api.get_opt(&slice.name_any()).await.unwrap() {
            None => drop(api.create(&PostParams::default(), &slice).await.unwrap()),
            Some(old) => {
                let mut slice = slice;
                slice.metadata.resource_version = old.resource_version();
                api.replace(&old.name_any(), &PostParams::default(), &slice).await.unwrap();
            }
        }
    }

    pub async fn node(&self, name: &str, addresses: &[&str]) {
        let addresses: Vec<Value> = addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let api: Api<Node> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &node).await.unwrap();
        let patch = Patch::Merge(json!({"status": {"addresses": addresses}}));
        api.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub async fn delete_node(&self, name: &str) {
        Api::<Node>::all(self.client.clone()).delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Reasons and messages of the namespace's Events.
    pub async fn events(&self) -> Vec<(String, String)> {
        let events = self.api::<Event>().list(&Default::default()).await.unwrap();
        events.items.into_iter().map(|event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default())).collect()
    }

    /// A request to the server, past everything else.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.front.server.clone().oneshot(request.body(body).unwrap()).await.into_response();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice(&bytes).unwrap_or(Value::Null)
    }

    pub async fn list(&self, path: &str) -> Vec<Value> {
        let document = self.ask("GET", path, Value::Null).await;
        document.as_object().and_then(|object| object.values().next()).and_then(Value::as_array).cloned().unwrap_or_default()
    }

    /// Ports of this namespace's pods.
    pub async fn ports(&self) -> Vec<Value> {
        let mut ports = self.list("/v2.0/ports?device_owner=ladon:pod").await;
        ports.retain(|port| port["name"].as_str().is_some_and(|name| name.starts_with(&format!("{}/", self.namespace))));
        ports
    }

    /// The name and the device of each of these ports, sorted.
    pub async fn devices(&self) -> Vec<String> {
        let mut devices: Vec<String> = self.ports().await.iter().map(|port| port["device_id"].as_str().unwrap().to_owned()).collect();
        devices.sort();
        devices
    }

    /// The load balancers of a Service of this namespace (or of `ns/name`).
    pub async fn balancers(&self, service: &str) -> Vec<Value> {
        let name = if service.contains('/') { service.to_owned() } else { format!("{}/{service}", self.namespace) };
        let mut balancers = self.list("/v2.0/lbaas/loadbalancers").await;
        balancers.retain(|balancer| balancer["name"] == *name);
        balancers
    }

    /// `address:port=weight` of all members of a Service's first load balancer that has some, sorted.
    pub async fn members(&self, service: &str) -> Vec<String> {
        let mut all = Vec::new();
        for balancer in self.balancers(service).await {
            for pool in self.list(&format!("/v2.0/lbaas/pools?loadbalancer_id={}", balancer["id"].as_str().unwrap())).await {
                let members = self.list(&format!("/v2.0/lbaas/pools/{}/members", pool["id"].as_str().unwrap())).await;
                let text =
                    |member: &Value| format!("{}:{}={}", member["address"].as_str().unwrap(), member["protocol_port"], member["weight"]);
                all.extend(members.iter().map(text));
            }
        }
        all.sort();
        all
    }
}
