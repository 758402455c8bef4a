//! The cluster's networks: made at the first start, adopted afterwards, repaired where something is missing.
//!
//! ```text
//! pods network ── pod subnets ──┐
//!                               ├── router        group ladon-pods: lets everything in and out
//! services network ─ Service subnets ─┘
//! ```
//!
//! All ids follow from the cluster's name, so adopting is making it again: the server answers with what is there, or, where
//! that is another project's, with a conflict, and then nothing is used. Attributes that a person changed afterwards are left
//! as they are.

pub mod plan;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Client;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};
use uuid::Uuid;

use crate::config::Config;
use crate::error::TopologyError;
use crate::ids::Keys;
use crate::neutron::types::{Group, Rule};
use crate::neutron::{ApiError, Neutron};
use plan::{Plan, SubnetPlan};

/// Longest time between two comparisons of the cluster's networks with what they should be, where `resync_secs` is more: without
/// its interfaces on the router, no Service answers.
const COMPARE_PERIOD: Duration = Duration::from_secs(30);
/// Name of the security group of pods and nodes.
const GROUP: &str = "ladon-pods";
/// Directions and families of its rules.
const RULES: [(&str, &str); 4] = [("ingress", "IPv4"), ("ingress", "IPv6"), ("egress", "IPv4"), ("egress", "IPv6")];

/// The cluster's networks, as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    pub plan: Plan,
    pub pod_network: Uuid,
    pub group: Uuid,
    pub router: Uuid,
    /// Range that kube-apiserver allocates in, and its subnet.
    pub service_subnets: Vec<(IpNet, Uuid)>,
}

impl Topology {
    /// The subnet of a Service's address.
    pub fn subnet_of(&self, vip: IpAddr) -> Option<Uuid> {
        self.service_subnets.iter().find(|(range, _)| range.contains(&vip)).map(|(_, subnet)| *subnet)
    }

    pub fn is_service_subnet(&self, subnet: Uuid) -> bool {
        self.service_subnets.iter().any(|(_, ours)| *ours == subnet)
    }
}

/// Why the topology is not there yet.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    Plan(#[from] TopologyError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("reading Kubernetes' ServiceCIDRs: {0}")]
    Kubernetes(#[source] Box<kube::Error>),
    /// A new kube-apiserver answers before it has made its first ServiceCIDR.
    #[error("Kubernetes has no ServiceCIDR yet")]
    NoServiceRangeYet,
}

impl Trouble {
    /// What a person can do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Trouble::Plan(_) => "change the range that the message names",
            Trouble::Api(error) => error.advice(),
            Trouble::NoServiceRangeYet => "if this stays so, look at kube-apiserver's --service-cluster-ip-range, or set network.services",
            Trouble::Kubernetes(_) => "check that kube-apiserver runs and that `ladon kube` may read ServiceCIDRs",
        }
    }
}

/// Makes the topology and keeps it.
#[derive(Clone)]
pub struct Builder {
    pub config: Arc<Config>,
    pub keys: Keys,
    pub kubernetes: Client,
    pub neutron: Neutron,
}

impl Builder {
    /// Everything that is missing is made.
    pub async fn build(&self) -> Result<Topology, Trouble> {
        let plan = self.plan().await?;
        Ok(self.ensure(plan).await?)
    }

    async fn plan(&self) -> Result<Plan, Trouble> {
        Ok(Plan::new(&self.config.network.pods, &self.service_ranges().await?)?)
    }

    /// Ready only where the ranges do not fit together, which an instance that stands by should find out before it is needed.
    pub async fn mistake(&self) -> TopologyError {
        loop {
            match self.plan().await {
                Ok(_) => return std::future::pending().await,
                Err(Trouble::Plan(error)) if error != TopologyError::NoServiceRange => return error,
                // Whoever is active says so.
                Err(_) => tokio::time::sleep(crate::TOPOLOGY_RETRY).await,
            }
        }
    }

    /// Rebuilds every [`COMPARE_PERIOD`] at the latest, and whenever `wanted` says that something is missing.
    pub async fn keep(self, current: watch::Sender<Arc<Topology>>, wanted: Arc<Notify>) {
        /// A Service outside of every known range asks for a look; so many of them ask for one.
        const PAUSE: Duration = Duration::from_secs(5);
        loop {
            let _ = tokio::time::timeout(period(&self.config), wanted.notified()).await;
            match self.build().await {
                Ok(topology) => {
                    current.send_if_modified(|now| {
                        let is_new = **now != topology;
                        *now = Arc::new(topology);
                        is_new
                    });
                }
                Err(error) => warn!(%error, "cannot check the cluster's networks; what is there stays as it is"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn service_ranges(&self) -> Result<Vec<IpNet>, Trouble> {
        if !self.config.network.services.is_empty() {
            return Ok(self.config.network.services.clone());
        }
        let api: Api<ServiceCIDR> = Api::all(self.kubernetes.clone());
        let list = match api.list(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(TopologyError::NoServiceRange.into()),
            Err(error) => return Err(Trouble::Kubernetes(Box::new(error))),
        };
        let mut ranges: Vec<IpNet> = Vec::new();
        for object in list.iter().filter(|object| object.metadata.deletion_timestamp.is_none()) {
            let cidrs = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
            ranges.extend(cidrs.filter_map(|cidr| cidr.parse::<IpNet>().ok()));
        }
        if ranges.is_empty() {
            return Err(Trouble::NoServiceRangeYet);
        }
        ranges.sort();
        ranges.dedup();
        Ok(ranges)
    }

    async fn ensure(&self, plan: Plan) -> Result<Topology, ApiError> {
        let pod_network = self.network("pods").await?;
        let service_network = self.network("services").await?;
        let mut subnets = self.subnets(pod_network, "pods", &plan.pods).await?;
        let services = self.subnets(service_network, "services", &plan.services).await?;
        let service_subnets = plan.services.iter().filter_map(|subnet| subnet.service_range).zip(services.iter().copied()).collect();
        subnets.extend(services);
        let router = self.router(&subnets).await?;
        let group = self.group().await?;
        Ok(Topology { plan, pod_network, group, router, service_subnets })
    }

    fn description(&self) -> String {
        format!("Kubernetes cluster {}", self.config.cluster)
    }

    fn name(&self, role: &str) -> String {
        format!("{}-{role}", self.config.cluster)
    }

    async fn network(&self, role: &str) -> Result<Uuid, ApiError> {
        let key = self.keys.network(role);
        if self.neutron.network(key).await?.is_none() {
            info!(network = self.name(role), "making a network of the cluster");
        }
        Ok(self.neutron.create_network(key, &self.name(role), &self.description()).await?.id)
    }

    /// The ids of the planned subnets, in their order.
    async fn subnets(&self, network: Uuid, role: &str, plans: &[SubnetPlan]) -> Result<Vec<Uuid>, ApiError> {
        let there = self.neutron.subnets_of(network).await?;
        let mut ids = Vec::new();
        for plan in plans {
            let id = match there.iter().find(|subnet| subnet.cidr == plan.cidr) {
                Some(subnet) => subnet.id,
                None => {
                    let body = subnet_body(network, &self.name(role), &self.description(), plan);
                    self.neutron.create_subnet(self.keys.subnet(plan.cidr), body).await?.id
                }
            };
            ids.push(id);
        }
        Ok(ids)
    }

    async fn router(&self, subnets: &[Uuid]) -> Result<Uuid, ApiError> {
        let key = self.keys.router();
        let router = self.neutron.create_router(key, &self.name("router"), &self.description()).await?;
        let interfaces = self.neutron.router_interfaces(router.id).await?;
        let connected: BTreeSet<Uuid> = interfaces.iter().flat_map(|port| &port.fixed_ips).map(|fixed| fixed.subnet_id).collect();
        for subnet in subnets.iter().filter(|subnet| !connected.contains(subnet)) {
            self.neutron.add_router_interface(router.id, *subnet).await?;
        }
        Ok(router.id)
    }

    async fn group(&self) -> Result<Uuid, ApiError> {
        let key = self.keys.group();
        let group = self.neutron.create_group(key, GROUP, &self.description()).await?;
        for (direction, family) in missing_rules(&group) {
            let key = Uuid::new_v5(&group.id, format!("{direction}/{family}").as_bytes());
            self.neutron.create_open_rule(key, group.id, direction, family).await?;
        }
        Ok(group.id)
    }
}

fn period(config: &Config) -> Duration {
    config.resync().min(COMPARE_PERIOD)
}

/// No DHCP and no router advertisements: pods get their addresses from the CNI plugin, and IPv6 ones follow from IPv4 ones.
fn subnet_body(network: Uuid, name: &str, description: &str, plan: &SubnetPlan) -> Value {
    let is_v4 = plan.cidr.addr().is_ipv4();
    let mut body = json!({
        "network_id": network,
        "name": format!("{name}-v{}", if is_v4 { 4 } else { 6 }),
        "description": description,
        "cidr": plan.cidr,
        "ip_version": if is_v4 { 4 } else { 6 },
        "gateway_ip": plan.gateway,
        "enable_dhcp": false,
    });
    if let Some((start, end)) = plan.pool {
        body["allocation_pools"] = json!([{ "start": start, "end": end }]);
    }
    body
}

fn missing_rules(group: &Group) -> Vec<(&'static str, &'static str)> {
    let is_open = |rule: &Rule| rule.protocol.is_none() && rule.remote_ip_prefix.is_none() && rule.remote_group_id.is_none();
    let has = |direction: &str, family: &str| {
        group.security_group_rules.iter().any(|rule| is_open(rule) && rule.direction == direction && rule.ethertype == family)
    };
    RULES.into_iter().filter(|(direction, family)| !has(direction, family)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rules_that_are_missing_are_made() {
        let rule = |direction: &str, ethertype: &str, protocol: Option<&str>| Rule {
            direction: direction.into(),
            ethertype: ethertype.into(),
            protocol: protocol.map(Into::into),
            remote_ip_prefix: None,
            remote_group_id: None,
        };
        let rules = vec![rule("egress", "IPv4", None), rule("egress", "IPv6", None), rule("ingress", "IPv4", Some("tcp"))];
        let group = Group { id: Uuid::nil(), security_group_rules: rules };
        assert_eq!(missing_rules(&group), [("ingress", "IPv4"), ("ingress", "IPv6")]);
    }

    #[test]
    fn networks_are_compared_more_often_than_ports_are() {
        let mut config = Config::default();
        assert!(config.resync() > COMPARE_PERIOD && period(&config) == COMPARE_PERIOD);
        config.resync_secs = 1;
        assert_eq!(period(&config), Duration::from_secs(1));
    }

    #[test]
    fn a_service_subnet_gives_out_its_tiny_pool_only() {
        let plan = Plan::new(&["10.244.0.0/16".parse().unwrap()], &["fd00:96::/112".parse().unwrap()]).unwrap();
        let body = subnet_body(Uuid::nil(), "c-services", "", &plan.services[0]);
        assert_eq!(body["cidr"], "fd00:96::/111");
        assert_eq!(body["allocation_pools"][0]["start"], "fd00:96::1:2");
        assert_eq!((body["enable_dhcp"].as_bool(), body.get("ipv6_address_mode")), (Some(false), None));
    }
}
