//! Which subnets a cluster needs, and whether they fit together: arithmetic on prefixes.
//!
//! kube-apiserver gives out any address of a Service range, the first included, which is where Neutron would put a gateway. So
//! the Service *subnet* is one bit shorter than the range. kube-apiserver allocates in one half; gateway, router interface and
//! a tiny pool lie in the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{Range, TopologyError};

/// Addresses in the pool of a Service subnet, after the gateway.
const POOL_SIZE: u128 = 8;

/// A subnet that has to be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubnetPlan {
    pub cidr: IpNet,
    pub gateway: IpAddr,
    /// First and last address that Ladon gives out; None: Neutron's default, everything but the gateway.
    pub pool: Option<(IpAddr, IpAddr)>,
    /// The range that kube-apiserver allocates in; None on pod subnets.
    pub service_range: Option<IpNet>,
}

/// All subnets of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub pods: Vec<SubnetPlan>,
    pub services: Vec<SubnetPlan>,
}

impl Plan {
    pub fn new(pods: &[IpNet], services: &[IpNet]) -> Result<Plan, TopologyError> {
        if services.is_empty() {
            return Err(TopologyError::NoServiceRange);
        }
        let pods: Vec<SubnetPlan> = pods.iter().map(|prefix| pod_subnet(prefix.trunc())).collect();
        let services: Vec<SubnetPlan> = services.iter().map(|range| service_subnet(range.trunc())).collect::<Result<_, _>>()?;
        let plan = Plan { pods, services };
        plan.check_overlaps()?;
        Ok(plan)
    }

    fn check_overlaps(&self) -> Result<(), TopologyError> {
        let all: Vec<Range> = self
            .pods
            .iter()
            .map(|subnet| Range { role: "pod network", prefix: subnet.cidr })
            .chain(self.services.iter().map(|subnet| Range { role: "Service subnet", prefix: subnet.cidr }))
            .collect();
        for (index, first) in all.iter().enumerate() {
            if let Some(second) = all[index + 1..].iter().find(|second| is_overlapping(first.prefix, second.prefix)) {
                return Err(TopologyError::Overlap { first: first.clone(), second: second.clone() });
            }
        }
        Ok(())
    }

    /// The range of the plan in which an address of a machine lies, where it must not.
    pub fn collision(&self, address: IpAddr) -> Option<IpNet> {
        self.pods.iter().chain(&self.services).map(|subnet| subnet.cidr).find(|cidr| cidr.contains(&address))
    }
}

fn is_overlapping(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn pod_subnet(cidr: IpNet) -> SubnetPlan {
    SubnetPlan { cidr, gateway: offset(cidr, 1), pool: None, service_range: None }
}

fn service_subnet(range: IpNet) -> Result<SubnetPlan, TopologyError> {
    let cidr = range.supernet().ok_or(TopologyError::TooLarge(Range { role: "Service range", prefix: range }))?;
    let other = other_half(cidr, range);
    let last = POOL_SIZE.min(size(other).saturating_sub(3));
    Ok(SubnetPlan {
        cidr,
        gateway: offset(other, 1),
        pool: Some((offset(other, 2), offset(other, 1 + last.max(1)))),
        service_range: Some(range),
    })
}

/// The half of `whole` that is not `half`.
fn other_half(whole: IpNet, half: IpNet) -> IpNet {
    let mut halves = whole.subnets(half.prefix_len()).expect("half is one bit longer than whole");
    halves.find(|candidate| *candidate != half).expect("there are two halves")
}

fn size(prefix: IpNet) -> u128 {
    1u128.checked_shl(u32::from(prefix.max_prefix_len() - prefix.prefix_len())).unwrap_or(u128::MAX)
}

/// The address `by` steps after the first of `prefix`.
fn offset(prefix: IpNet, by: u128) -> IpAddr {
    match prefix {
        IpNet::V4(prefix) => v4(prefix, by).into(),
        IpNet::V6(prefix) => v6(prefix, by).into(),
    }
}

fn v4(prefix: Ipv4Net, by: u128) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(prefix.network()).wrapping_add(by as u32))
}

fn v6(prefix: Ipv6Net, by: u128) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(prefix.network()).wrapping_add(by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(text: &[&str]) -> Vec<IpNet> {
        text.iter().map(|prefix| prefix.parse().unwrap()).collect()
    }

    #[test]
    fn the_gateway_lies_in_the_half_that_kubernetes_does_not_use() {
        let plan = Plan::new(&nets(&["10.244.0.0/16", "fd00:244::/64"]), &nets(&["10.96.0.0/16", "fd00:96::/112"])).unwrap();
        let service = &plan.services[0];
        assert_eq!(service.cidr.to_string(), "10.96.0.0/15");
        assert_eq!(service.gateway.to_string(), "10.97.0.1");
        assert_eq!(service.pool.unwrap().0.to_string(), "10.97.0.2");
        assert_eq!(service.pool.unwrap().1.to_string(), "10.97.0.9");
        assert_eq!(plan.services[1].cidr.to_string(), "fd00:96::/111");
        assert_eq!(plan.services[1].gateway.to_string(), "fd00:96::1:1");
        assert_eq!(plan.pods[0].gateway.to_string(), "10.244.0.1");
        assert_eq!(plan.pods[1].gateway.to_string(), "fd00:244::1");
    }

    #[test]
    fn the_other_half_may_be_the_lower_one() {
        let plan = Plan::new(&nets(&["10.244.0.0/16"]), &nets(&["10.97.0.0/16"])).unwrap();
        assert_eq!(plan.services[0].cidr.to_string(), "10.96.0.0/15");
        assert_eq!(plan.services[0].gateway.to_string(), "10.96.0.1");
    }

    #[test]
    fn an_overlap_names_both_ranges() {
        let error = Plan::new(&nets(&["10.97.0.0/16"]), &nets(&["10.96.0.0/16"])).unwrap_err().to_string();
        assert!(error.contains("pod network 10.97.0.0/16") && error.contains("Service subnet 10.96.0.0/15"), "{error}");
        assert!(Plan::new(&nets(&["10.0.0.0/8"]), &nets(&["10.96.0.0/16"])).is_err());
        assert!(Plan::new(&nets(&["fd00::/48"]), &nets(&["fd00::1:0/112"])).is_err());
        assert!(Plan::new(&nets(&["10.244.0.0/16"]), &nets(&["10.96.0.0/16", "10.97.0.0/16"])).is_err());
    }

    #[test]
    fn no_range_and_a_range_of_everything_are_errors() {
        assert_eq!(Plan::new(&nets(&["10.244.0.0/16"]), &[]), Err(TopologyError::NoServiceRange));
        assert!(matches!(Plan::new(&nets(&["10.244.0.0/16"]), &nets(&["0.0.0.0/0"])), Err(TopologyError::TooLarge(_))));
    }

    #[test]
    fn a_machine_inside_of_a_cluster_range_is_a_collision() {
        let plan = Plan::new(&nets(&["10.244.0.0/16"]), &nets(&["10.96.0.0/16"])).unwrap();
        assert_eq!(plan.collision("10.97.3.4".parse().unwrap()).unwrap().to_string(), "10.96.0.0/15");
        assert_eq!(plan.collision("192.0.2.1".parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn gateway_and_pool_are_in_the_subnet_and_never_in_the_range(address: u32, length in 4u8..=28) {
            let range = IpNet::new(Ipv4Addr::from(address).into(), length).unwrap().trunc();
            let subnet = service_subnet(range).unwrap();
            let (first, last) = subnet.pool.unwrap();
            for ours in [subnet.gateway, first, last] {
                prop_assert!(subnet.cidr.contains(&ours) && !range.contains(&ours));
            }
            prop_assert!(first <= last && subnet.gateway < first);
        }
    }
}
