//! What matters of a Service and of an EndpointSlice: the rest is dropped as soon as it is read.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service as KubeService, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

/// Label of a slice: the Service that it belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a Service that another program serves, whatever its value.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// A protocol that a Service's port may have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Protocol> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// As Octavia and Kubernetes write it.
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

/// A Service with addresses of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    pub uid: String,
    /// `namespace/name`.
    pub name: String,
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    pub is_client_affine: bool,
    /// Ways into the cluster that it asks for, in Kubernetes' words.
    pub outside: Vec<&'static str>,
    /// `internalTrafficPolicy: Local`.
    pub is_local: bool,
    /// What the condition in the Service's status says now.
    pub told: Option<Told>,
}

/// Our condition as it stands in a Service's status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    pub is_true: bool,
    pub reason: String,
    pub message: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Empty where there is only one and it has no name.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// Type of our condition in a Service's status.
pub const CONDITION: &str = "LadonReady";

impl Service {
    /// None for Services without an address of their own (headless ones and ExternalName) and for those of another proxy.
    pub fn of(service: &KubeService) -> Option<Service> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") || service.labels().contains_key(PROXY_NAME) {
            return None;
        }
        let single = spec.cluster_ip.iter().cloned().collect();
        let addresses: Vec<IpAddr> =
            spec.cluster_ips.as_ref().unwrap_or(&single).iter().filter_map(|address| address.parse().ok()).collect();
        if addresses.is_empty() {
            return None;
        }
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            let name = port.name.clone().unwrap_or_default();
            Some(ServicePort { name, protocol: Protocol::parse(port.protocol.as_deref())?, port: u16::try_from(port.port).ok()? })
        });
        Some(Service {
            uid: service.metadata.uid.clone()?,
            name: crate::mirror::name_of(service),
            addresses,
            ports: ports.collect(),
            is_client_affine: spec.session_affinity.as_deref() == Some("ClientIP"),
            outside: ways_in(spec),
            is_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            told: told(service),
        })
    }
}

/// The ways into the cluster that the Service asks for.
fn ways_in(spec: &ServiceSpec) -> Vec<&'static str> {
    let kind = spec.type_.as_deref().unwrap_or_default();
    let has_node_ports = spec.ports.iter().flatten().any(|port| port.node_port.is_some_and(|port| port != 0));
    let asked = [
        (has_node_ports || kind == "NodePort", "node ports"),
        (kind == "LoadBalancer", "type LoadBalancer"),
        (spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()), "externalIPs"),
    ];
    asked.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, name)| name).collect()
}

/// What our condition says now, if there is one.
pub fn told(service: &KubeService) -> Option<Told> {
    let conditions = service.status.as_ref()?.conditions.as_ref()?;
    let ours = conditions.iter().find(|condition| condition.type_ == CONDITION)?;
    Some(Told { is_true: ours.status == "True", reason: ours.reason.clone(), message: ours.message.clone() })
}

/// How usable an endpoint is; a greater one wins where slices name the same endpoint twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Health {
    /// Neither ready nor serving: it keeps its connections.
    Idle,
    /// On its way out and still answering: the last resort.
    Leaving,
    Ready,
}

/// Some of a Service's endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slice {
    /// `namespace/name` of the Service.
    pub service: String,
    /// Of one family.
    pub endpoints: Vec<(IpAddr, Health)>,
    pub ports: Vec<SlicePort>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

impl Slice {
    /// None for slices of no Service and for slices of names instead of addresses.
    pub fn of(slice: &EndpointSlice) -> Option<Slice> {
        let is_v4 = match slice.address_type.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            _ => return None,
        };
        let service = format!("{}/{}", slice.namespace()?, slice.labels().get(SERVICE_NAME)?);
        let endpoints = slice.endpoints.iter().filter_map(|endpoint| {
            // All addresses of one endpoint are the same thing: the API says to use the first.
            let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            (address.is_ipv4() == is_v4).then(|| (address, health(conditions.ready, conditions.serving, conditions.terminating)))
        });
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let name = port.name.clone().unwrap_or_default();
            Some(SlicePort { name, protocol: Protocol::parse(port.protocol.as_deref())?, port: u16::try_from(port.port?).ok()? })
        });
        Some(Slice { service, endpoints: endpoints.collect(), ports: ports.collect() })
    }
}

/// Unknown means ready, and serving means what ready means (the API's words). `publishNotReadyAddresses` is a ready that stays
/// set while the pod leaves, so ready goes first.
fn health(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Health {
    let is_ready = ready.unwrap_or(true);
    match (is_ready, serving.unwrap_or(is_ready), terminating.unwrap_or(false)) {
        (true, _, _) => Health::Ready,
        (false, true, true) => Health::Leaving,
        (false, _, _) => Health::Idle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_of_another_proxy_is_none_of_ours() {
        let of = |labels: serde_json::Value| {
            let metadata = json!({"name": "web", "namespace": "shop", "uid": "u1", "labels": labels});
            Service::of(&serde_json::from_value(json!({"metadata": metadata, "spec": {"clusterIP": "10.96.0.7"}})).unwrap())
        };
        assert!(of(json!({"app": "web"})).is_some());
        assert_eq!(of(json!({"app": "web", "service.kubernetes.io/service-proxy-name": "other"})), None);
        assert_eq!(of(json!({"service.kubernetes.io/service-proxy-name": ""})), None);
    }

    #[test]
    fn an_endpoints_conditions_mean_what_the_api_says() {
        assert_eq!(health(None, None, None), Health::Ready);
        assert_eq!(health(Some(true), Some(true), Some(false)), Health::Ready);
        assert_eq!(health(Some(false), Some(true), Some(true)), Health::Leaving);
        assert_eq!(health(Some(false), Some(false), Some(true)), Health::Idle);
        assert_eq!(health(Some(false), Some(false), Some(false)), Health::Idle);
        assert_eq!(health(Some(false), None, Some(true)), Health::Idle);
        // publishNotReadyAddresses
        assert_eq!(health(Some(true), Some(false), Some(true)), Health::Ready);
    }
}
