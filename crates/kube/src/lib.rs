//! `ladon kube`: Kubernetes on Ladon's networks. It watches Kubernetes and writes Neutron and Octavia objects, and knows nothing
//! of what becomes of them: pods appear to everybody as ordinary ports, Services as ordinary load balancers.
//!
//! ```text
//! run ── elector: waits for the Lease, renews it; while it is ours:
//!         ├── topology: networks, subnets, router, group            (built once before the rest, then kept)
//!         ├── ports:    pods                          → ports
//!         ├── machines: Nodes                         → ports
//!         ├── services: Services and EndpointSlices   → load balancers
//!         ├── policies: NetworkPolicies               → reports, that nothing enforces them
//!         └── events:   reports                       → Events
//! ```
//!
//! Losing the Lease drops all of them at once, and whatever they knew with them: the next holder reads Kubernetes first and
//! the server second, so what is on the server and not in Kubernetes is nobody's.
//!
//! Kubernetes needs nothing installed but this program's rights: `get, list, watch` on pods, nodes, services, endpointslices,
//! servicecidrs and networkpolicies, `patch` on services/status, `create, patch, get` on events (events.k8s.io), and `get, create,
//! update` on leases in the Lease's namespace. No finalizer is put on anything.
//!
//! Not here: how a pod is plugged in (`ladon-cni`), and what a load balancer is made of on the wire.

pub mod alone;
pub mod config;
pub mod error;
pub mod events;
pub mod ids;
mod kubeconfig;
pub mod lease;
pub mod mirror;
pub mod neutron;
pub mod node;
pub mod pod;
pub mod policy;
pub mod ports;
pub mod queue;
pub mod service;
pub mod topology;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use alone::Alone;
pub use config::Config;
use config::Network;
pub use error::Error;
use events::Reporter;
use ids::Keys;
use lease::{Elector, Fence};
use neutron::Neutron;
use topology::plan::Plan;
use topology::{Builder, Topology, Trouble};

/// Wait before the topology is tried again.
const TOPOLOGY_RETRY: Duration = Duration::from_secs(2);

/// Runs until `shutdown` is ready, then gives the Lease back. Ends earlier only for mistakes that nothing but another
/// configuration heals.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    config.check()?;
    let Network { pods, services } = &config.network;
    if !services.is_empty() {
        Plan::new(pods, services)?;
    }
    // The process has one TLS provider; whoever was first chose the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let holder = config.holder()?;
    let _alone = Alone::take(&config.cluster, &holder).await?;
    let (fence_end, fence) = Fence::new();
    let neutron = Neutron::new(&config, fence)?;
    let (client, address) = kubeconfig::client(config.kubeconfig.as_deref()).await?;
    let mut elector = Elector::new(client.clone(), address, &config, holder.clone(), fence_end);
    let config = Arc::new(config);
    let result = tokio::select! {
        () = shutdown => Ok(()),
        Err(error) = serve(&mut elector, &config, client, neutron, holder) => Err(error),
    };
    elector.release().await;
    result
}

/// Active whenever the Lease is ours, for ever.
async fn serve(elector: &mut Elector, config: &Arc<Config>, client: Client, neutron: Neutron, holder: String) -> Result<(), Error> {
    let builder =
        Builder { config: config.clone(), keys: Keys::new(&config.cluster), kubernetes: client.clone(), neutron: neutron.clone() };
    loop {
        tokio::select! {
            () = elector.acquire() => {}
            mistake = builder.mistake() => return Err(mistake.into()),
        }
        tokio::select! {
            () = elector.keep() => {}
            result = act(builder.clone(), holder.clone()) => result?,
        }
    }
}

/// Everything that the holder of the Lease does.
async fn act(builder: Builder, holder: String) -> Result<(), Error> {
    let Builder { config, kubernetes: client, neutron, .. } = builder.clone();
    let topology = first_topology(&builder).await?;
    info!(cluster = config.cluster, pods = %topology.pod_network, router = %topology.router, "the cluster's networks are there");
    let (current, topology) = watch::channel(Arc::new(topology));
    let wanted = Arc::new(Notify::new());
    let (reporter, events) = Reporter::new(client.clone(), holder);
    let ports = ports::Ports::new(client.clone(), neutron.clone(), &config, topology.clone(), reporter.clone());
    let machines = node::Machines::new(client.clone(), neutron.clone(), &config, topology.clone(), reporter.clone());
    let policies = policy::report_all(client.clone(), reporter.clone());
    let services = service::Services::new(client, neutron, &config, topology, wanted.clone(), reporter);
    // Tasks of their own, so that a long comparison of one delays no other; ended with this function.
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(builder.keep(current, wanted));
    tasks.spawn(ports.run());
    tasks.spawn(machines.run());
    tasks.spawn(services.run());
    tasks.spawn(policies);
    tasks.spawn(events);
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    Ok(())
}

/// The topology, however long the server takes to be there; a mistake in the ranges is an error.
async fn first_topology(builder: &Builder) -> Result<Topology, Error> {
    loop {
        match builder.build().await {
            Ok(topology) => return Ok(topology),
            Err(Trouble::Plan(error)) => return Err(error.into()),
            Err(error) => {
                warn!(%error, advice = error.advice(), "the cluster's networks cannot be made yet: new pods and Services wait; trying again");
            }
        }
        tokio::time::sleep(TOPOLOGY_RETRY).await;
    }
}

/// Waits until then; for ever where there is nothing to wait for.
async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    pub mod by_hand;

    use std::future::ready;

    use super::*;
    use by_hand::{Ladon, kubernetes, noted, refused, rests};

    fn builder(ladon: &Ladon, kubernetes: Client) -> Builder {
        let config = Arc::new(ladon.config.clone());
        Builder { config, keys: Keys::new("kubernetes"), kubernetes, neutron: ladon.neutron.clone() }
    }

    #[tokio::test(start_paused = true)]
    async fn networks_that_cannot_be_made_yet_are_tried_again_after_a_while() {
        let (ladon, mut times) = Ladon::refusing();
        let builder = builder(&ladon, kubernetes(|_| ()));
        tokio::spawn(async move { first_topology(&builder).await.map(drop) });
        assert_eq!(rests::<3>(&mut times).await, [TOPOLOGY_RETRY.as_secs(); 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stands_by_looks_for_the_ranges_until_there_are_some() {
        let (note, mut times) = noted();
        let mut ladon = Ladon::start(|_| ready(refused()));
        ladon.config.network.services.clear();
        let builder = builder(&ladon, kubernetes(move |_| note()));
        tokio::spawn(async move { builder.mistake().await });
        assert_eq!(rests::<3>(&mut times).await, [TOPOLOGY_RETRY.as_secs(); 3]);
    }
}
