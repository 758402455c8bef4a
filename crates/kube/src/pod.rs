//! Which port a pod needs: plain functions of the pod.
//!
//! A pod needs a port from the moment it has a node until it is gone or has ended. Pods on the host's network need none. The
//! port's `device_id` is what the container runtime calls the pod's uid: for a static pod that is not the uid of its mirror in
//! the API but the mirror's annotation. Whoever may make pods may write that annotation, so it is believed only where it cannot
//! be a pod's own uid: the kubelet makes it a hash, without hyphens.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use uuid::Uuid;

use crate::events::shortened;

/// `device_owner` of pods' ports.
pub const OWNER: &str = "ladon:pod";
/// Annotation of a static pod's mirror: the uid by which the kubelet knows the pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Annotations that limit a pod's bandwidth, for network plugins that do.
const BANDWIDTH: [&str; 2] = ["kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"];
/// Longest name that Neutron takes.
const NAME_MAX: usize = 255;

/// What matters of a pod that needs a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredPort {
    /// `device_id` of the port.
    pub uid: String,
    /// The uid of the API's object, for Events.
    pub object_uid: String,
    /// `namespace/name`.
    pub name: String,
    pub host: String,
    pub is_static: bool,
    /// What its containers have, once they run.
    pub addresses: BTreeSet<IpAddr>,
    /// What it asks for and does not get, in Kubernetes' words: `hostPort 8080/TCP`.
    pub unserved: Vec<String>,
}

impl DesiredPort {
    /// The port's name.
    pub fn port_name(&self) -> String {
        shortened(&self.name, NAME_MAX)
    }
}

/// The port that a pod needs, if it needs one.
pub fn desired_port(pod: &Pod) -> Option<DesiredPort> {
    let spec = pod.spec.as_ref()?;
    let host = spec.node_name.as_ref().filter(|name| !name.is_empty())?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if spec.host_network == Some(true) || matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let object_uid = pod.metadata.uid.clone()?;
    let mirror = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(MIRROR));
    let mirror = mirror.filter(|uid| !uid.is_empty() && !is_pods_own(uid));
    Some(DesiredPort {
        uid: mirror.unwrap_or(&object_uid).clone(),
        object_uid,
        name: crate::mirror::name_of(pod),
        host: host.clone(),
        is_static: mirror.is_some(),
        addresses: addresses(pod),
        unserved: unserved(pod, spec),
    })
}

fn addresses(pod: &Pod) -> BTreeSet<IpAddr> {
    let told = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    told.filter_map(|told| told.ip.parse().ok()).collect()
}

/// What a pod asks of the network that is not done here.
fn unserved(pod: &Pod, spec: &PodSpec) -> Vec<String> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let host_ports = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number != 0)?;
        Some(format!("hostPort {number}/{}", port.protocol.as_deref().unwrap_or("TCP")))
    });
    let annotations = pod.metadata.annotations.iter().flatten();
    let limits = annotations.filter(|(name, _)| BANDWIDTH.contains(&name.as_str())).map(|(name, _)| format!("annotation {name}"));
    host_ports.chain(limits).collect()
}

/// True if it looks as kube-apiserver writes the uids of pods.
fn is_pods_own(uid: &str) -> bool {
    uid.contains('-') && Uuid::parse_str(uid).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, phase: &str, annotations: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "annotations": annotations},
            "spec": spec,
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn spec() -> Value {
        json!({"nodeName": "n1", "containers": []})
    }

    #[test]
    fn a_pod_with_a_node_needs_a_port_there() {
        let port = desired_port(&pod(spec(), "Pending", json!({}))).unwrap();
        assert_eq!((port.uid.as_str(), port.name.as_str(), port.host.as_str()), ("u1", "shop/web", "n1"));
    }

    #[test]
    fn a_pod_that_runs_has_addresses() {
        let mut pod = pod(spec(), "Pending", json!({}));
        assert!(desired_port(&pod).unwrap().addresses.is_empty());
        pod.status = serde_json::from_value(json!({"podIPs": [{"ip": "10.244.1.7"}, {"ip": "fd00:244::7"}]})).unwrap();
        assert_eq!(desired_port(&pod).unwrap().addresses, ["10.244.1.7", "fd00:244::7"].map(|ip| ip.parse().unwrap()).into());
    }

    #[test]
    fn a_static_pod_is_known_by_its_mirror_annotation() {
        let port = desired_port(&pod(spec(), "Running", json!({"kubernetes.io/config.mirror": "hash"}))).unwrap();
        assert_eq!((port.uid.as_str(), port.object_uid.as_str(), port.is_static), ("hash", "u1", true));
    }

    #[test]
    fn what_a_pod_asks_for_and_does_not_get_is_named() {
        let ports = json!([{"containerPort": 80}, {"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP"}]);
        let containers = json!({"nodeName": "n1", "containers": [{"name": "c", "ports": ports}]});
        let annotations = json!({"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/description": "x"});
        let port = desired_port(&pod(containers, "Running", annotations)).unwrap();
        assert_eq!(port.unserved, ["hostPort 8080/TCP", "hostPort 53/UDP", "annotation kubernetes.io/ingress-bandwidth"]);
        assert!(desired_port(&pod(spec(), "Running", json!({}))).unwrap().unserved.is_empty());
    }

    #[test]
    fn a_pod_that_says_to_be_another_is_itself() {
        for uid in [
            "3f2b1c9e-8a4d-4b6f-9c1d-2e3f4a5b6c7d",
            "3F2B1C9E-8A4D-4B6F-9C1D-2E3F4A5B6C7D",
            "urn:uuid:3f2b1c9e-8a4d-4b6f-9c1d-2e3f4a5b6c7d",
            "",
        ] {
            let port = desired_port(&pod(spec(), "Running", json!({"kubernetes.io/config.mirror": uid}))).unwrap();
            assert_eq!((port.uid.as_str(), port.is_static), ("u1", false), "{uid}");
        }
    }

    #[test]
    fn pods_without_a_node_on_the_hosts_network_or_ended_need_none() {
        assert_eq!(desired_port(&pod(json!({"containers": []}), "Pending", json!({}))), None);
        assert_eq!(desired_port(&pod(json!({"containers": [], "nodeName": ""}), "Pending", json!({}))), None);
        assert_eq!(desired_port(&pod(json!({"containers": [], "nodeName": "n1", "hostNetwork": true}), "Running", json!({}))), None);
        assert_eq!(desired_port(&pod(spec(), "Succeeded", json!({}))), None);
        assert_eq!(desired_port(&pod(spec(), "Failed", json!({}))), None);
    }

    #[test]
    fn a_pod_that_is_being_deleted_keeps_its_port_until_it_is_gone() {
        let mut pod = pod(spec(), "Running", json!({}));
        pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now()));
        assert!(desired_port(&pod).is_some());
    }

    #[test]
    fn a_long_name_is_cut_to_what_neutron_takes() {
        let mut pod = pod(spec(), "Running", json!({}));
        pod.metadata.name = Some("x".repeat(253));
        assert_eq!(desired_port(&pod).unwrap().port_name().len(), NAME_MAX);
    }
}
