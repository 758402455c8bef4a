//! Which load balancers a Service needs: a plain function of the Service and its slices.
//!
//! One load balancer per address of the Service, one listener and one pool per port. What reaches the pool is decided by the
//! slices alone: they have resolved named target ports already, and they are written by hand where a Service selects no pods.
//!
//! A ready endpoint has weight 1. One that is not ready or is leaving has weight 0, which keeps its connections and gives it no
//! new ones, until its slice names it no more. Where none is ready, those that leave and still answer have weight 1.
//!
//! Slices are written by anybody who may. An address that no member can have is left out, since the server refuses a pool's
//! members all together: one odd address would keep every later change of the others from arriving.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::facts::{Health, Protocol, Service, ServicePort, Slice};
use crate::neutron::types::Member;

/// A load balancer that has to be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredLb {
    /// `namespace/name` of the Service.
    pub name: String,
    pub service_uid: String,
    pub vip: IpAddr,
    pub ports: Vec<DesiredPort>,
}

/// A listener with its pool; both have the same name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredPort {
    /// `namespace/name:protocol:port`.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub members: Members,
}

/// Address and port of each member with its weight.
pub type Members = BTreeMap<(IpAddr, u16), u16>;

/// As Octavia writes them.
pub fn member_list(members: &Members) -> Vec<Member> {
    members.iter().map(|((address, port), weight)| Member { address: *address, protocol_port: *port, weight: *weight }).collect()
}

/// Something that a Service asks for and does not get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shortfall {
    pub note: String,
}

/// The load balancers that `service` needs, in the order of its addresses.
pub fn desired_load_balancers(service: &Service, slices: &[&Slice]) -> Vec<DesiredLb> {
    service.addresses.iter().map(|vip| desired_load_balancer(service, *vip, slices)).collect()
}

fn desired_load_balancer(service: &Service, vip: IpAddr, slices: &[&Slice]) -> DesiredLb {
    let served = service.ports.iter().filter(|port| port.protocol != Protocol::Sctp);
    let ports = served.map(|port| DesiredPort {
        name: format!("{}:{}:{}", service.name, port.protocol.word(), port.port),
        protocol: port.protocol,
        port: port.port,
        members: members(port, vip, slices),
    });
    DesiredLb { name: service.name.clone(), service_uid: service.uid.clone(), vip, ports: ports.collect() }
}

/// False for addresses that the server takes for no member: those at which no router reaches one host, and the pool's own VIP.
fn can_be_member(address: IpAddr, vip: IpAddr) -> bool {
    let is_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(is_local || address.is_unspecified() || address.is_loopback() || address.is_multicast() || address == vip)
}

fn members(port: &ServicePort, vip: IpAddr, slices: &[&Slice]) -> Members {
    let mut health: BTreeMap<(IpAddr, u16), Health> = BTreeMap::new();
    for slice in slices {
        for target in slice.ports.iter().filter(|target| target.name == port.name && target.protocol == port.protocol) {
            for (address, seen) in
                slice.endpoints.iter().filter(|(address, _)| address.is_ipv4() == vip.is_ipv4() && can_be_member(*address, vip))
            {
                let best = health.entry((*address, target.port)).or_insert(*seen);
                *best = (*best).max(*seen);
            }
        }
    }
    let is_any_ready = health.values().any(|health| *health == Health::Ready);
    let taking = if is_any_ready { Health::Ready } else { Health::Leaving };
    health.into_iter().map(|(member, health)| (member, u16::from(health >= taking))).collect()
}

/// Addresses named in one message; of further ones it has the number.
const ADDRESSES_TOLD_MAX: usize = 8;

/// The endpoints that cannot be members, by their addresses.
fn left_out(service: &Service, slices: &[&Slice]) -> Option<Shortfall> {
    let addresses = slices.iter().flat_map(|slice| &slice.endpoints).map(|(address, _)| *address);
    let is_odd = |address: &IpAddr| service.addresses.iter().any(|vip| !can_be_member(*address, *vip));
    let odd: BTreeSet<IpAddr> = addresses.filter(is_odd).collect();
    let mut told: Vec<String> = odd.iter().take(ADDRESSES_TOLD_MAX).map(IpAddr::to_string).collect();
    if odd.len() > told.len() {
        told.push(format!("{} more", odd.len() - told.len()));
    }
    (!odd.is_empty()).then(|| Shortfall {
        note: format!(
            "endpoints of Service {} are left out: {} (a Service's own address, or one that is no single host's); connections go to its other \
             endpoints; correct its EndpointSlices",
            service.name,
            told.join(", ")
        ),
    })
}

/// What the Service asks for and does not get, for its owner to read.
pub fn shortfalls(service: &Service, slices: &[&Slice]) -> Vec<Shortfall> {
    let sctp = service.ports.iter().filter(|port| port.protocol == Protocol::Sctp).map(|port| Shortfall {
        note: format!(
            "port {} of Service {} is not served: SCTP is not balanced; connections to it are refused; use TCP or UDP, or a headless Service",
            port.port, service.name
        ),
    });
    let affinity = service.is_client_affine.then(|| Shortfall {
        note: format!(
            "sessionAffinity ClientIP of Service {} is not kept: a client's connections reach any ready endpoint; set it to None if that is fine",
            service.name
        ),
    });
    let outside = (!service.outside.is_empty()).then(|| Shortfall {
        note: format!(
            "{} of Service {} are not served: it is reached by its cluster IP alone, from pods, machines and virtual machines of the network; use \
             that, or a proxy in a pod with hostNetwork",
            service.outside.join(", "),
            service.name
        ),
    });
    let local = service.is_local.then(|| Shortfall {
        note: format!(
            "internalTrafficPolicy Local of Service {} is not kept: connections reach ready endpoints on every node; set it to Cluster if that is fine",
            service.name
        ),
    });
    sctp.chain(affinity).chain(outside).chain(local).chain(left_out(service, slices)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Option<Service> {
        let object = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u1"}, "spec": spec});
        Service::of(&serde_json::from_value(object).unwrap())
    }

    fn web() -> Service {
        service(json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:96::7"], "ports": [{"port": 80, "targetPort": "http"}]}))
            .unwrap()
    }

    fn slice(family: &str, port: u16, endpoints: &[(&str, [Option<bool>; 3])]) -> Slice {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(address, [ready, serving, terminating])| {
                json!({"addresses": [address], "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
            })
            .collect();
        let object = json!({
            "metadata": {"name": "web-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": family, "endpoints": endpoints, "ports": [{"port": port}],
        });
        Slice::of(&serde_json::from_value(object).unwrap()).unwrap()
    }

    const READY: [Option<bool>; 3] = [Some(true), Some(true), Some(false)];
    const STARTING: [Option<bool>; 3] = [Some(false), Some(false), Some(false)];
    const LEAVING: [Option<bool>; 3] = [Some(false), Some(true), Some(true)];
    const DYING: [Option<bool>; 3] = [Some(false), Some(false), Some(true)];

    /// Members of the first port of the first load balancer: `10.244.0.1:8080=1`.
    fn weights(service: &Service, slices: &[Slice]) -> Vec<String> {
        let slices: Vec<&Slice> = slices.iter().collect();
        let balancer = desired_load_balancers(service, &slices).remove(0);
        balancer.ports[0].members.iter().map(|((address, port), weight)| format!("{address}:{port}={weight}")).collect()
    }

    #[test]
    fn each_family_is_a_load_balancer_with_its_own_endpoints() {
        let slices = [slice("IPv4", 8080, &[("10.244.0.1", READY)]), slice("IPv6", 8080, &[("fd00:244::1", READY)])];
        let balancers = desired_load_balancers(&web(), &slices.iter().collect::<Vec<_>>());
        assert_eq!(balancers.len(), 2);
        assert_eq!(balancers[0].vip.to_string(), "10.96.0.7");
        assert_eq!(balancers[1].vip.to_string(), "fd00:96::7");
        assert_eq!(balancers[0].ports[0].name, "shop/web:TCP:80");
        assert_eq!(balancers[0].ports[0].members.keys().next().unwrap().0.to_string(), "10.244.0.1");
        assert_eq!(balancers[1].ports[0].members.keys().next().unwrap().0.to_string(), "fd00:244::1");
    }

    #[test]
    fn headless_and_external_name_services_have_no_load_balancer() {
        assert_eq!(service(json!({"clusterIP": "None", "clusterIPs": ["None"]})), None);
        assert_eq!(service(json!({"type": "ExternalName", "externalName": "example.org"})), None);
        assert_eq!(service(json!({"ports": [{"port": 80}]})), None);
    }

    #[test]
    fn node_port_and_load_balancer_services_have_their_cluster_address() {
        for kind in ["NodePort", "LoadBalancer"] {
            let service = service(json!({"type": kind, "clusterIP": "10.96.0.7", "ports": [{"port": 80, "nodePort": 30080}]})).unwrap();
            let [Shortfall { note }] = &shortfalls(&service, &[])[..] else { panic!("it is told once") };
            assert!(note.starts_with("node ports") && note.contains("LoadBalancer") == (kind == "LoadBalancer"), "{note}");
        }
        let local = service(json!({"clusterIP": "10.96.0.7", "internalTrafficPolicy": "Local", "externalIPs": ["192.0.2.7"],
            "ports": [{"port": 80}]}));
        let notes: Vec<String> = shortfalls(&local.unwrap(), &[]).into_iter().map(|shortfall| shortfall.note).collect();
        assert!(notes.len() == 2 && notes[0].starts_with("externalIPs") && notes[1].starts_with("internalTrafficPolicy"), "{notes:?}");
    }

    #[test]
    fn endpoints_that_are_not_ready_or_leave_get_nothing_new() {
        let slices = [slice("IPv4", 80, &[("10.0.0.1", READY), ("10.0.0.2", STARTING), ("10.0.0.3", LEAVING), ("10.0.0.4", DYING)])];
        assert_eq!(weights(&web(), &slices), ["10.0.0.1:80=1", "10.0.0.2:80=0", "10.0.0.3:80=0", "10.0.0.4:80=0"]);
    }

    #[test]
    fn where_none_is_ready_those_that_leave_and_still_answer_are_used() {
        let slices = [slice("IPv4", 80, &[("10.0.0.2", STARTING), ("10.0.0.3", LEAVING), ("10.0.0.4", DYING)])];
        assert_eq!(weights(&web(), &slices), ["10.0.0.2:80=0", "10.0.0.3:80=1", "10.0.0.4:80=0"]);
    }

    #[test]
    fn addresses_that_no_member_can_have_are_left_out_and_said_so() {
        let odd = ["10.96.0.7", "0.0.0.0", "127.0.0.1", "169.254.0.1", "224.0.0.1", "239.1.2.3", "255.255.255.255"];
        let mut endpoints: Vec<_> = odd.iter().map(|address| (*address, READY)).collect();
        endpoints.push(("10.0.0.1", LEAVING));
        let v6 = slice("IPv6", 80, &[("fd00:96::7", READY), ("ff0e::1", READY), ("fe80::1", READY), ("::1", READY), ("fd00::1", READY)]);
        let slices = [slice("IPv4", 80, &endpoints), v6];
        assert_eq!(weights(&web(), &slices), ["10.0.0.1:80=1"], "one that is left out is not ready either");
        let slices: Vec<&Slice> = slices.iter().collect();
        let members = &desired_load_balancers(&web(), &slices)[1].ports[0].members;
        assert_eq!(members.keys().map(|(address, _)| address.to_string()).collect::<Vec<_>>(), ["fd00::1"]);
        let [Shortfall { note }] = &shortfalls(&web(), &slices)[..] else { panic!("it is told once") };
        assert!(note.contains("shop/web are left out: 0.0.0.0, 10.96.0.7, 127.0.0.1, "), "{note}");
        let more = odd.len() + 4 - ADDRESSES_TOLD_MAX;
        assert!(note.contains(&format!(", {more} more ")) && !note.contains("10.0.0.1"), "{note}");
        assert_eq!(shortfalls(&web(), &[&slice("IPv4", 80, &[("10.0.0.1", READY)])]), []);
    }

    #[test]
    fn an_endpoint_in_two_slices_is_one_member_and_the_better_news_counts() {
        let slices = [slice("IPv4", 80, &[("10.0.0.1", STARTING)]), slice("IPv4", 80, &[("10.0.0.1", READY)])];
        assert_eq!(weights(&web(), &slices), ["10.0.0.1:80=1"]);
    }

    #[test]
    fn a_named_target_port_may_differ_between_pods() {
        let slices = [slice("IPv4", 8080, &[("10.0.0.1", READY)]), slice("IPv4", 9090, &[("10.0.0.2", READY)])];
        assert_eq!(weights(&web(), &slices), ["10.0.0.1:8080=1", "10.0.0.2:9090=1"]);
    }

    #[test]
    fn ports_find_their_targets_by_name_and_protocol() {
        let service = service(json!({"clusterIP": "10.96.0.10", "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]}))
        .unwrap();
        let object = json!({
            "metadata": {"name": "dns-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}],
            "ports": [{"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "dns-tcp", "port": 5354, "protocol": "TCP"}],
        });
        let slice = Slice::of(&serde_json::from_value(object).unwrap()).unwrap();
        let balancer = desired_load_balancers(&service, &[&slice]).remove(0);
        let ports: Vec<_> = balancer.ports.iter().map(|port| (port.protocol, port.members.keys().next().unwrap().1)).collect();
        assert_eq!(ports, [(Protocol::Udp, 5353), (Protocol::Tcp, 5354)]);
    }

    #[test]
    fn the_api_server_is_a_member_on_its_own_address() {
        let slices = [slice("IPv4", 6443, &[("192.0.2.1", [Some(true), None, None])])];
        assert_eq!(weights(&web(), &slices), ["192.0.2.1:6443=1"]);
    }

    #[test]
    fn no_slice_means_a_listener_without_members() {
        assert_eq!(weights(&web(), &[]), Vec::<String>::new());
    }

    #[test]
    fn sctp_is_skipped_and_said_so() {
        let service = service(json!({"clusterIP": "10.96.0.7", "sessionAffinity": "ClientIP",
            "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 99, "protocol": "SCTP"}]}))
        .unwrap();
        assert_eq!(desired_load_balancers(&service, &[])[0].ports.len(), 1);
        let notes: Vec<String> = shortfalls(&service, &[]).into_iter().map(|shortfall| shortfall.note).collect();
        assert!(notes[0].contains("port 99") && notes[0].contains("SCTP"), "{notes:?}");
        assert!(notes[1].contains("sessionAffinity"), "{notes:?}");
    }

    #[test]
    fn slices_of_names_or_of_no_service_are_left_alone() {
        let fqdn = json!({"metadata": {"namespace": "a", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "FQDN", "endpoints": []});
        assert_eq!(Slice::of(&serde_json::from_value(fqdn).unwrap()), None);
        let stray = json!({"metadata": {"namespace": "a"}, "addressType": "IPv4", "endpoints": []});
        assert_eq!(Slice::of(&serde_json::from_value(stray).unwrap()), None);
    }
}
