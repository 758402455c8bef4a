//! Small worlds for tests: objects by short names.
//!
//! Not behind `cfg(test)`, because the tests of `node` build the same worlds.

use std::net::IpAddr;
use std::sync::Arc;

use model::*;
use pipeline::OfPort;
use uuid::Uuid;

use crate::view::{Attachment, Change, Here};

/// An id that is the same for the same name.
pub fn id(name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
}

pub fn node(name: &str, tunnel: &str) -> Node {
    Node {
        name: NodeName(name.into()),
        tunnel_addresses: vec![tunnel.parse().expect("a test's address")],
        tunnel: TunnelType::Geneve,
        bridge: String::new(),
        datapath: String::new(),
        stream: None,
    }
}

pub fn network(name: &str, key: u32) -> Network {
    Network {
        id: NetworkId(id(name)),
        key: NetworkKey(key),
        project: ProjectId::default(),
        name: name.into(),
        description: String::new(),
        is_admin_up: true,
        is_shared: false,
        mtu: 1450,
        is_port_security_default: true,
        is_flooding: true,
        standard: Standard::default(),
    }
}

pub fn subnet(name: &str, network: &str, cidr: &str) -> Subnet {
    let cidr: ipnet::IpNet = cidr.parse().expect("a test's CIDR");
    Subnet {
        id: SubnetId(id(name)),
        network: NetworkId(id(network)),
        project: ProjectId::default(),
        name: name.into(),
        description: String::new(),
        cidr,
        gateway: cidr.hosts().next(),
        pools: Vec::new(),
        is_dhcp: true,
        dns_servers: Vec::new(),
        host_routes: Vec::new(),
        ra_mode: None,
        address_mode: None,
        standard: Standard::default(),
    }
}

/// A port with `key` on `network`; MAC `0a:00:00:00:00:<key>`, port security on, no groups.
pub fn port(name: &str, key: u32, network: &str, addresses: &[(&str, &str)]) -> Port {
    let fixed = |(subnet, ip): &(&str, &str)| FixedIp { subnet: SubnetId(id(subnet)), ip: ip.parse().expect("a test's address") };
    Port {
        id: PortId(id(name)),
        key: PortKey(key),
        network: NetworkId(id(network)),
        project: ProjectId::default(),
        name: name.into(),
        description: String::new(),
        is_admin_up: true,
        mac: Mac::from_bits(0x0a00_0000_0000 + u64::from(key)),
        fixed_ips: addresses.iter().map(fixed).collect(),
        address_pairs: Vec::new(),
        is_port_security: true,
        security_groups: Vec::new(),
        device_owner: String::new(),
        device_id: String::new(),
        host: None,
        claimed_by: None,
        vnic_type: "normal".into(),
        dhcp_options: Vec::new(),
        block: None,
        status: PortStatus::Down,
        standard: Standard::default(),
    }
}

/// An interface of `router` on `network`.
pub fn interface(name: &str, key: u32, network: &str, router: &str, addresses: &[(&str, &str)]) -> Port {
    let device_id = id(router).to_string();
    Port { device_owner: owner::ROUTER_INTERFACE.into(), device_id, ..port(name, key, network, addresses) }
}

pub fn router(name: &str, key: u32) -> Router {
    Router {
        id: RouterId(id(name)),
        key: RouterKey(key),
        project: ProjectId::default(),
        name: name.into(),
        description: String::new(),
        is_admin_up: true,
        routes: Vec::new(),
        standard: Standard::default(),
    }
}

pub fn group(name: &str, key: u32) -> SecurityGroup {
    let (id, project) = (SecurityGroupId(id(name)), ProjectId::default());
    SecurityGroup { id, key: GroupKey(key), project, name: name.into(), description: String::new(), standard: Standard::default() }
}

/// A rule of `group` that allows everything of one IP version in one direction.
pub fn rule(name: &str, group: &str, direction: Direction, ethertype: EtherType) -> Rule {
    Rule {
        id: RuleId(id(name)),
        group: SecurityGroupId(id(group)),
        project: ProjectId::default(),
        description: String::new(),
        direction,
        ethertype,
        protocol: None,
        protocol_name: None,
        range_min: None,
        range_max: None,
        remote_prefix: None,
        remote_prefix_text: None,
        remote_group: None,
        standard: Standard::default(),
    }
}

pub fn block(network: &str, node: &str, subnet: &str, v4: &str, v6: Vec<V6Range>) -> Block {
    let (network, v4) = (NetworkId(id(network)), v4.parse().expect("a test's CIDR"));
    Block { id: Block::id(network, v4), network, node: NodeName(node.into()), subnet: SubnetId(id(subnet)), v4, v6 }
}

/// A load balancer whose VIP is the port `vip_port`, at its first address.
pub fn balancer(name: &str, vip_port: &Port) -> LoadBalancer {
    let fixed = vip_port.fixed_ips.first().expect("a VIP port has an address");
    LoadBalancer {
        vip_port_origin: None,
        id: LoadBalancerId(id(name)),
        project: ProjectId::default(),
        name: name.into(),
        description: String::new(),
        is_admin_up: true,
        vip: fixed.ip,
        vip_port: vip_port.id,
        vip_subnet: fixed.subnet,
        vip_network: vip_port.network,
        standard: Standard::default(),
    }
}

/// A port for the VIP of a load balancer.
pub fn vip(name: &str, key: u32, network: &str, addresses: &[(&str, &str)]) -> Port {
    Port { device_owner: owner::LOAD_BALANCER.into(), ..port(name, key, network, addresses) }
}

/// A listener of `balancer` whose pool is called `pool`.
pub fn listener(name: &str, key: u32, balancer: &str, protocol: ListenerProtocol, port: u16, pool: &str) -> Listener {
    Listener {
        id: ListenerId(id(name)),
        key: ListenerKey(key),
        load_balancer: LoadBalancerId(id(balancer)),
        project: ProjectId::default(),
        name: name.into(),
        description: String::new(),
        is_admin_up: true,
        protocol,
        port,
        default_pool: Some(PoolId(id(pool))),
        standard: Standard::default(),
    }
}

pub fn pool(name: &str, balancer: &str, protocol: ListenerProtocol) -> Pool {
    Pool {
        id: PoolId(id(name)),
        load_balancer: LoadBalancerId(id(balancer)),
        project: ProjectId::default(),
        name: name.into(),
        description: String::new(),
        is_admin_up: true,
        protocol,
        algorithm: PoolAlgorithm::SourceIpPort,
        standard: Standard::default(),
    }
}

pub fn member(name: &str, pool: &str, address: &str, port: u16, weight: u16) -> Member {
    Member {
        id: MemberId(id(name)),
        pool: PoolId(id(pool)),
        project: ProjectId::default(),
        name: name.into(),
        is_admin_up: true,
        address: address.parse().expect("a test's address"),
        port,
        subnet: None,
        weight,
        standard: Standard::default(),
    }
}

/// The port is plugged in here, as interface `ofport`; its zones follow from that.
pub fn attach(port: &str, ofport: u32) -> Change {
    let zone = u16::try_from(ofport * 3).expect("tests use small numbers");
    Change::Attach(Attachment {
        port: PortId(id(port)),
        ofport: OfPort(ofport),
        rules_zone: zone,
        nat_zone: zone + 1,
        hairpin_zone: zone + 2,
    })
}

pub fn put(object: impl Into<Object>) -> Change {
    Change::Put(Arc::new(object.into()))
}

/// This node is `name`, its tunnel interface has the number 1000.
pub fn here(name: &str, tunnel: &str) -> Change {
    let address: IpAddr = tunnel.parse().expect("a test's address");
    Change::Here(Here { node: NodeName(name.into()), tunnel_addresses: vec![address], tunnel_port: Some(1000) })
}
