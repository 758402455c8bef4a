//! The indexes: changed step by step they equal those built from scratch.

mod common;

use std::sync::Arc;

use common::network;
use model::*;
use proptest::prelude::*;
use server::state::{Change, Commit, State};
use uuid::Uuid;

fn id(number: u8) -> Uuid {
    Uuid::from_u128(number.into())
}

/// An object of any kind, with ids and references out of a few, so that they meet.
fn object() -> impl Strategy<Value = Object> {
    (0..12u8, 1..5u8, 1..4u8, 1..4u8, any::<bool>()).prop_map(|(kind, own, a, b, flag)| build(kind, own, a, b, flag))
}

fn build(kind: u8, own: u8, a: u8, b: u8, flag: bool) -> Object {
    let name = |number: u8| NodeName(format!("n{number}"));
    let project = ProjectId("p".into());
    let standard = Standard::default();
    match kind {
        0 => Node {
            name: name(own),
            tunnel_addresses: (1..b).map(|n| std::net::Ipv4Addr::new(192, 0, 2, n).into()).collect(),
            tunnel: TunnelType::Geneve,
            bridge: String::new(),
            datapath: String::new(),
            stream: None,
        }
        .into(),
        1 => network(own.into()).into(),
        2 => {
            let mut subnet = common::subnet(&network(a.into()), "10.0.0.0/24");
            subnet.id = SubnetId(id(own));
            subnet.into()
        }
        3 => Router {
            id: RouterId(id(own)),
            key: RouterKey(1),
            project,
            name: String::new(),
            description: String::new(),
            is_admin_up: flag,
            routes: vec![],
            standard,
        }
        .into(),
        4 => SecurityGroup {
            id: SecurityGroupId(id(own)),
            key: GroupKey(1),
            project,
            name: String::new(),
            description: String::new(),
            standard,
        }
        .into(),
        5 => Rule {
            id: RuleId(id(own)),
            group: SecurityGroupId(id(a)),
            project,
            description: String::new(),
            direction: Direction::Ingress,
            ethertype: EtherType::Ipv4,
            protocol: None,
            protocol_name: None,
            range_min: None,
            range_max: None,
            remote_prefix: None,
            remote_prefix_text: None,
            remote_group: flag.then(|| SecurityGroupId(id(b))),
            standard,
        }
        .into(),
        6 => Block {
            id: BlockId(id(own)),
            network: NetworkId(id(a)),
            node: name(b),
            subnet: SubnetId(id(a)),
            v4: "10.0.0.64/26".parse().unwrap(),
            v6: vec![],
        }
        .into(),
        7 => port(own, a, b, flag).into(),
        8 => LoadBalancer {
            vip_port_origin: None,
            id: LoadBalancerId(id(own)),
            project,
            name: String::new(),
            description: String::new(),
            is_admin_up: flag,
            vip: "10.0.0.9".parse().unwrap(),
            vip_port: PortId(id(a)),
            vip_subnet: SubnetId(id(a)),
            vip_network: NetworkId(id(b)),
            standard,
        }
        .into(),
        9 => Listener {
            id: ListenerId(id(own)),
            key: ListenerKey(1),
            load_balancer: LoadBalancerId(id(a)),
            project,
            name: String::new(),
            description: String::new(),
            is_admin_up: true,
            protocol: ListenerProtocol::Tcp,
            port: 80,
            default_pool: flag.then(|| PoolId(id(b))),
            standard,
        }
        .into(),
        10 => Pool {
            id: PoolId(id(own)),
            load_balancer: LoadBalancerId(id(a)),
            project,
            name: String::new(),
            description: String::new(),
            is_admin_up: true,
            protocol: ListenerProtocol::Tcp,
            algorithm: PoolAlgorithm::SourceIpPort,
            standard,
        }
        .into(),
        _ => Member {
            id: MemberId(id(own)),
            pool: PoolId(id(a)),
            project,
            name: String::new(),
            is_admin_up: true,
            address: "10.0.0.9".parse().unwrap(),
            port: 80,
            subnet: None,
            weight: b.into(),
            standard,
        }
        .into(),
    }
}

fn port(own: u8, a: u8, b: u8, flag: bool) -> Port {
    let device_owner = if flag { owner::ROUTER_INTERFACE } else { owner::POD };
    Port {
        id: PortId(id(own)),
        key: PortKey(1),
        network: NetworkId(id(a)),
        project: ProjectId("p".into()),
        name: String::new(),
        description: String::new(),
        is_admin_up: true,
        mac: Mac([2, 0, 0, 0, 0, b]),
        fixed_ips: (0..b).map(|n| FixedIp { subnet: SubnetId(id(a)), ip: std::net::Ipv4Addr::new(10, 0, 0, n).into() }).collect(),
        address_pairs: vec![],
        is_port_security: true,
        security_groups: (1..b).map(|n| SecurityGroupId(id(n))).collect(),
        device_owner: device_owner.into(),
        device_id: if b == 1 { String::new() } else { id(a).to_string() },
        host: flag.then(|| NodeName(format!("n{a}"))),
        claimed_by: (b == 2).then(|| NodeName(format!("n{b}"))),
        vnic_type: "normal".into(),
        dhcp_options: vec![],
        block: (b == 3).then(|| BlockId(id(a))),
        status: PortStatus::Down,
        standard: Standard::default(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_equals_from_scratch(steps in proptest::collection::vec((object(), any::<bool>()), 0..60)) {
        let mut state = State::default();
        for (number, (object, is_put)) in steps.into_iter().enumerate() {
            let key = object.key();
            let before = state.object(key).cloned();
            let after = is_put.then(|| Arc::new(object));
            let changes = Arc::from([Change { key, before, after }]);
            state.apply(&Commit { revision: Revision(number as u64 + 1), changes });
            let scratch = State::new(state.revision(), state.objects().cloned().collect::<Vec<_>>());
            prop_assert_eq!(&scratch, &state);
        }
    }
}

#[test]
fn an_old_commit_changes_nothing() {
    let mut state = State::new(Revision(5), []);
    let after = Some(Arc::new(Object::from(network(1))));
    let key = after.as_ref().unwrap().key();
    state.apply(&Commit { revision: Revision(5), changes: Arc::from([Change { key, before: None, after }]) });
    assert_eq!(state, State::new(Revision(5), []));
}

#[test]
fn questions_are_answered_by_index() {
    let (interface, pod) = (port(1, 1, 2, true), port(2, 1, 3, false));
    let objects = [Object::from(interface.clone()), Object::from(pod.clone()), build(0, 4, 1, 2, false)];
    let state = State::new(Revision(1), objects.map(Arc::new));
    let network = NetworkId(id(1));
    assert_eq!(state.ports_of(network).count(), 2);
    assert_eq!(state.interfaces_of(RouterId(id(1))).collect::<Vec<_>>(), [&interface]);
    assert_eq!(state.interfaces_on(network).collect::<Vec<_>>(), [&interface]);
    assert_eq!(state.ports_at(NodeName("n1".into())).collect::<Vec<_>>(), [&interface]);
    assert_eq!(state.ports_in_block(BlockId(id(1))).collect::<Vec<_>>(), [&pod]);
    assert_eq!(state.port_by_ip(network, "10.0.0.2".parse().unwrap()), Some(&pod));
    assert_eq!(state.port_by_mac(network, pod.mac), Some(&pod));
    assert_eq!(state.ports_in_group(SecurityGroupId(id(2))).collect::<Vec<_>>(), [&pod]);
    let nodes = |address: &str| state.nodes_at_address(address.parse().unwrap()).map(|node| &*node.name.0).collect::<Vec<_>>();
    assert_eq!(nodes("192.0.2.1"), ["n4"]);
    assert!(nodes("192.0.2.2").is_empty());
}
