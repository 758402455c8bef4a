//! Small worlds for the tests: objects by number, a state and its interest side by side, and a node's replica.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use model::*;
use stream::InterestHash;
use uuid::Uuid;

use crate::state::{Change, Commit, State};
use crate::views::closure;
use crate::views::closure::closure_among;
use crate::views::interest::{Effect, Interest, News};
use crate::views::shown::shown;

fn id(kind: u128, n: u32) -> Uuid {
    Uuid::from_u128(kind << 64 | u128::from(n))
}

pub fn name(n: u32) -> NodeName {
    NodeName(format!("n{n}"))
}

pub fn node(n: u32) -> Node {
    Node {
        name: name(n),
        tunnel_addresses: vec![Ipv4Addr::from(0xc000_0200 + n).into()],
        tunnel: TunnelType::Geneve,
        bridge: String::new(),
        datapath: String::new(),
        stream: None,
    }
}

pub fn network_id(n: u32) -> NetworkId {
    NetworkId(id(1, n))
}

pub fn network(n: u32) -> Network {
    Network {
        id: network_id(n),
        key: NetworkKey(n),
        project: ProjectId(format!("p{n}")),
        name: format!("net{n}"),
        description: String::new(),
        is_admin_up: true,
        is_shared: false,
        mtu: 1450,
        is_port_security_default: true,
        is_flooding: false,
        standard: Standard::default(),
    }
}

pub fn subnet(n: u32, network: u32) -> Subnet {
    Subnet {
        id: SubnetId(id(2, n)),
        network: network_id(network),
        project: ProjectId::default(),
        name: String::new(),
        description: String::new(),
        cidr: "10.0.0.0/8".parse().unwrap(),
        gateway: None,
        pools: vec![],
        is_dhcp: true,
        dns_servers: vec![],
        host_routes: vec![],
        ra_mode: None,
        address_mode: None,
        standard: Standard::default(),
    }
}

pub fn port_id(n: u32) -> PortId {
    PortId(id(3, n))
}

/// A port that is an exception and has no home.
pub fn port(n: u32, network: u32) -> Port {
    Port {
        id: port_id(n),
        key: PortKey(n),
        network: network_id(network),
        project: ProjectId(format!("p{network}")),
        name: format!("port{n}"),
        description: String::new(),
        is_admin_up: true,
        mac: Mac::from_bits(n.into()),
        fixed_ips: vec![],
        address_pairs: vec![],
        is_port_security: true,
        security_groups: vec![],
        device_owner: "compute:nova".into(),
        device_id: String::new(),
        host: None,
        claimed_by: None,
        vnic_type: "normal".into(),
        dhcp_options: vec![],
        block: None,
        status: PortStatus::Down,
        standard: Standard::default(),
    }
}

/// A virtual machine's port with a home.
pub fn vm(n: u32, network: u32, home: u32) -> Port {
    Port { host: Some(name(home)), ..port(n, network) }
}

/// An address that a port carries.
pub fn pair(n: u32) -> AddressPair {
    AddressPair { ip: IpAddr::from([10, 9, 9, n as u8]).into(), mac: Mac::from_bits(900 + u64::from(n)) }
}

/// A pod's port: out of its node's block.
pub fn pod(n: u32, network: u32, home: u32) -> Port {
    Port { device_owner: owner::POD.into(), block: Some(block(network, home).id), ..vm(n, network, home) }
}

pub fn router_id(n: u32) -> RouterId {
    RouterId(id(4, n))
}

pub fn interface(n: u32, network: u32, router: u32) -> Port {
    Port { device_owner: owner::ROUTER_INTERFACE.into(), device_id: router_id(router).to_string(), ..port(n, network) }
}

pub fn router(n: u32) -> Router {
    Router {
        id: router_id(n),
        key: RouterKey(n),
        project: ProjectId::default(),
        name: format!("router{n}"),
        description: String::new(),
        is_admin_up: true,
        routes: vec![],
        standard: Standard::default(),
    }
}

pub fn block(network: u32, home: u32) -> Block {
    let v4 = ipnet::Ipv4Net::new(Ipv4Addr::from(10 << 24 | network << 16 | home << 6), 26).unwrap();
    Block {
        id: Block::id(network_id(network), v4),
        network: network_id(network),
        node: name(home),
        subnet: SubnetId(id(2, network)),
        v4,
        v6: vec![],
    }
}

pub fn group_id(n: u32) -> SecurityGroupId {
    SecurityGroupId(id(5, n))
}

pub fn group(n: u32) -> SecurityGroup {
    let (key, project) = (GroupKey(n), ProjectId(format!("p{n}")));
    SecurityGroup { id: group_id(n), key, project, name: format!("group{n}"), description: String::new(), standard: Standard::default() }
}

pub fn rule(n: u32, group: u32, remote: Option<u32>) -> Rule {
    Rule {
        id: RuleId(id(6, n)),
        group: group_id(group),
        project: ProjectId::default(),
        description: String::new(),
        direction: Direction::Ingress,
        ethertype: EtherType::Ipv4,
        protocol: None,
        protocol_name: None,
        range_min: None,
        range_max: None,
        remote_prefix: None,
        remote_prefix_text: None,
        remote_group: remote.map(group_id),
        standard: Standard::default(),
    }
}

pub fn balancer(n: u32, network: u32) -> LoadBalancer {
    LoadBalancer {
        vip_port_origin: None,
        id: LoadBalancerId(id(7, n)),
        project: ProjectId::default(),
        name: String::new(),
        description: String::new(),
        is_admin_up: true,
        vip: Ipv4Addr::new(10, 96, 0, 1).into(),
        vip_port: port_id(9000 + n),
        vip_subnet: SubnetId(id(2, network)),
        vip_network: network_id(network),
        standard: Standard::default(),
    }
}

pub fn listener(n: u32, balancer: u32) -> Listener {
    Listener {
        id: ListenerId(id(8, n)),
        key: ListenerKey(n),
        load_balancer: LoadBalancerId(id(7, balancer)),
        project: ProjectId::default(),
        name: String::new(),
        description: String::new(),
        is_admin_up: true,
        protocol: ListenerProtocol::Tcp,
        port: 80,
        default_pool: None,
        standard: Standard::default(),
    }
}

pub fn pool(n: u32, balancer: u32) -> Pool {
    Pool {
        id: PoolId(id(9, n)),
        load_balancer: LoadBalancerId(id(7, balancer)),
        project: ProjectId::default(),
        name: String::new(),
        description: String::new(),
        is_admin_up: true,
        protocol: ListenerProtocol::Tcp,
        algorithm: PoolAlgorithm::SourceIpPort,
        standard: Standard::default(),
    }
}

pub fn member(n: u32, pool: u32) -> Member {
    Member {
        id: MemberId(id(10, n)),
        pool: PoolId(id(9, pool)),
        project: ProjectId::default(),
        name: String::new(),
        is_admin_up: true,
        address: Ipv4Addr::from(10 << 24 | n).into(),
        port: 80,
        subnet: None,
        weight: 1,
        standard: Standard::default(),
    }
}

pub fn key(object: impl Into<Object>) -> ObjectKey {
    object.into().key()
}

pub fn keys(objects: impl IntoIterator<Item = ObjectKey>) -> BTreeSet<ObjectKey> {
    objects.into_iter().collect()
}

/// A state, the interest that follows it, and what followed nodes have made of the effects.
#[derive(Default)]
pub struct World {
    pub state: State,
    pub interest: Interest,
    pub replicas: BTreeMap<NodeName, BTreeMap<ObjectKey, Object>>,
    pub log: Vec<Commit>,
}

/// One object put or deleted.
pub enum Edit {
    Put(Object),
    Delete(ObjectKey),
}

pub fn put(object: impl Into<Object>) -> Edit {
    Edit::Put(object.into())
}

pub fn delete(object: impl Into<Object>) -> Edit {
    Edit::Delete(object.into().key())
}

impl World {
    pub fn of(objects: impl IntoIterator<Item = Object>) -> World {
        let mut world = World::default();
        world.commit(objects.into_iter().map(Edit::Put));
        world
    }

    /// From now on `node`'s replica is led on by effects.
    pub fn follow(&mut self, node: &NodeName) {
        self.interest.follow(node);
        let objects = self.interest.view(node).into_iter().map(|key| (key, shown(self.state.object(key).unwrap())));
        self.replicas.insert(node.clone(), objects.collect());
    }

    /// Applies edits as one commit.
    pub fn news(&mut self, edits: impl IntoIterator<Item = Edit>) -> Vec<News> {
        let edits: BTreeMap<ObjectKey, Option<Arc<Object>>> = edits
            .into_iter()
            .map(|edit| match edit {
                Edit::Put(object) => (object.key(), Some(Arc::new(object))),
                Edit::Delete(key) => (key, None),
            })
            .collect();
        let changes = edits.into_iter().map(|(key, after)| Change { key, before: self.state.object(key).cloned(), after });
        let changes: Vec<Change> = changes.filter(|change| change.before != change.after).collect();
        let commit = Commit { revision: Revision(self.state.revision().0 + 1), changes: changes.into() };
        self.state.apply(&commit);
        let news = self.interest.apply(&commit.changes);
        self.log.push(commit);
        news
    }

    /// Applies edits as one commit; tells what it means for whom.
    pub fn commit(&mut self, edits: impl IntoIterator<Item = Edit>) -> BTreeMap<NodeName, Effect> {
        let news = self.news(edits);
        let names: BTreeMap<NodeId, NodeName> = self.replicas.keys().map(|name| (name.id(), name.clone())).collect();
        let mut effects: BTreeMap<NodeName, Effect> = BTreeMap::new();
        for (effect, node) in news.iter().flat_map(|News { effect, nodes }| nodes.iter().map(move |node| (effect, node))) {
            let all = effects.entry(names[node].clone()).or_default();
            all.entered.extend(&effect.entered);
            all.changed.extend(&effect.changed);
            all.left.extend(&effect.left);
        }
        effects.iter().for_each(|(node, effect)| self.replay(node, effect));
        effects
    }

    fn replay(&mut self, node: &NodeName, effect: &Effect) {
        let replica = self.replicas.get_mut(node).unwrap();
        for key in &effect.entered {
            assert!(replica.insert(*key, shown(self.state.object(*key).unwrap())).is_none(), "{key} enters twice");
        }
        for key in &effect.changed {
            assert!(replica.insert(*key, shown(self.state.object(*key).unwrap())).is_some(), "{key} changes before it enters");
        }
        for key in &effect.left {
            assert!(replica.remove(key).is_some(), "{key} leaves without having entered");
        }
    }

    /// The node's view, which must be the one by definition, and which its replica must equal.
    pub fn view(&self, node: &NodeName) -> BTreeSet<ObjectKey> {
        let view = self.interest.view(node);
        assert_eq!(view, closure(&self.state, node), "incremental view of {node} = closure by definition");
        let some: BTreeSet<ObjectKey> = self.state.objects().map(|object| object.key()).step_by(2).collect();
        let among: BTreeSet<ObjectKey> = view.intersection(&some).copied().collect();
        assert_eq!(closure_among(&self.state, node, &some), among, "what of some objects is in the view of {node}");
        assert_eq!(self.interest.hash(node), InterestHash::of(&view), "the hash of the view of {node}");
        if let Some(replica) = self.replicas.get(node) {
            let restricted = view.iter().map(|key| (*key, shown(self.state.object(*key).unwrap()))).collect();
            assert_eq!(*replica, restricted, "what {node} has = the state restricted to its view");
        }
        view
    }
}
