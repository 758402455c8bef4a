//! Keys that make every create repeatable: UUIDs that follow from the cluster's name and from what the object is for.
//!
//! A key travels as the `Idempotency-Key` of a create. Whoever creates the same thing again, because an answer was lost or
//! because two instances do it at once, sends the same key and gets the same object.

use std::net::IpAddr;

use ipnet::IpNet;
use uuid::Uuid;

/// Root of all keys (a random UUID, fixed for ever).
const ROOT: Uuid = Uuid::from_u128(0x6d0c_4c1e_9f0a_4f8e_8a36_51d2_7b3e_60aa);

/// The keys of one cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keys {
    cluster: Uuid,
}

impl Keys {
    pub fn new(cluster: &str) -> Keys {
        Keys { cluster: Uuid::new_v5(&ROOT, cluster.as_bytes()) }
    }

    fn key(&self, role: &str, of: &str) -> Uuid {
        Uuid::new_v5(&self.cluster, format!("{role}/{of}").as_bytes())
    }

    pub fn network(&self, role: &str) -> Uuid {
        self.key("network", role)
    }

    pub fn subnet(&self, cidr: IpNet) -> Uuid {
        self.key("subnet", &cidr.to_string())
    }

    pub fn router(&self) -> Uuid {
        self.key("router", "")
    }

    pub fn group(&self) -> Uuid {
        self.key("group", "pods")
    }

    /// The port of the pod with this uid (a static pod's: its mirror annotation).
    pub fn pod(&self, uid: &str) -> Uuid {
        self.key("pod", uid)
    }

    pub fn node(&self, name: &str) -> Uuid {
        self.key("node", name)
    }

    /// The load balancer of a Service's address. Another address is another load balancer: a VIP cannot be changed.
    pub fn balancer(&self, service_uid: &str, vip: IpAddr) -> Uuid {
        self.key("balancer", &format!("{service_uid}/{vip}"))
    }

    pub fn listener(&self, balancer: &str, name: &str) -> Uuid {
        self.key("listener", &format!("{balancer}/{name}"))
    }

    pub fn pool(&self, balancer: &str, name: &str) -> Uuid {
        self.key("pool", &format!("{balancer}/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_stable_and_differ_between_clusters_and_roles() {
        let (one, two) = (Keys::new("one"), Keys::new("two"));
        assert_eq!(one.pod("u"), Keys::new("one").pod("u"));
        assert_ne!(one.pod("u"), two.pod("u"));
        assert_ne!(one.pod("u"), one.node("u"));
    }
}
