//! What users do: one random change of one object with all that belongs to it, as closures over the writer's transaction.
//!
//! A closure looks at nothing but the transaction and its own seed, so the writer may run it whenever it likes. It keeps the
//! API's rules: addresses and keys come from the server's allocators, nothing is deleted that is in use, no two subnets of a
//! router overlap.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use model::*;
use server::ipam::{self, Allocation, IpamError, Request, Wanted};
use server::{Tx, WriteError};
use uuid::Uuid;

use crate::random::Random;

pub const NODES: usize = 3;

/// Objects of a kind beyond which one is deleted rather than another made.
const NETWORKS: usize = 5;
const PORTS: usize = 18;
const ROUTERS: usize = 3;
const GROUPS: usize = 4;
const RULES: usize = 8;
const BALANCERS: usize = 2;
/// IPv4 prefixes that networks share, so that a leak would find somebody; one is large enough for blocks, one is not.
const CIDRS: [&str; 3] = ["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/28"];

/// Why an edit changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("there is nothing to do it to")]
    Nothing,
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

type Edited = Result<(), EditError>;

pub fn node_name(n: usize) -> NodeName {
    NodeName(format!("n{n}"))
}

/// One random edit. While `is_tidy`, no two networks in one routing domain overlap: users may do that over two routers, and then
/// an address means more than one port to security groups and load balancers.
pub fn edit(tx: &mut Tx, random: &mut Random, is_tidy: bool) -> Edited {
    let edit = [
        (4, network as fn(&mut Edit) -> Edited),
        (3, subnet),
        (22, port),
        (14, change_port),
        (4, delete_port),
        (5, router),
        (10, interface),
        (3, remove_interface),
        (4, group),
        (8, rule),
        (5, balancer),
        (7, change_balancer),
    ];
    let mut left = random.below(edit.iter().map(|(weight, _)| weight).sum());
    for (weight, run) in edit {
        if left < weight {
            return run(&mut Edit { tx, random, is_tidy });
        }
        left -= weight;
    }
    Ok(())
}

struct Edit<'a, 'b> {
    tx: &'a mut Tx<'b>,
    random: &'a mut Random,
    is_tidy: bool,
}

impl Edit<'_, '_> {
    /// One of the objects of a kind for which `fits`.
    fn any<T: server::state::Typed + Clone>(&mut self, fits: impl Fn(&T) -> bool) -> Result<T, EditError> {
        let all = self.tx.state().all::<T>().filter(|object| fits(object));
        self.random.pick(all).cloned().ok_or(EditError::Nothing)
    }

    /// The networks that routers, up or down, lead to from these.
    fn domain(&self, mut next: Vec<NetworkId>) -> BTreeSet<NetworkId> {
        let state = self.tx.state();
        let mut found: BTreeSet<NetworkId> = next.iter().copied().collect();
        while let Some(network) = next.pop() {
            let routers = state.interfaces_on(network).filter_map(Port::router);
            let ends = routers.flat_map(|router| state.interfaces_of(router)).map(|port| port.network);
            next.extend(ends.filter(|network| found.insert(*network)));
        }
        found
    }

    /// True if two subnets of these networks, or one of them and `more`, overlap.
    fn has_overlap(&self, networks: &BTreeSet<NetworkId>, more: &[IpNet]) -> bool {
        let state = self.tx.state();
        let subnets = networks.iter().flat_map(|network| state.subnets_of(*network)).map(|subnet| subnet.cidr);
        let mut seen: Vec<IpNet> = Vec::new();
        subnets.chain(more.iter().copied()).any(|cidr| {
            let overlaps = seen.iter().any(|other| other.contains(&cidr) || cidr.contains(other));
            seen.push(cidr);
            overlaps
        })
    }

    fn count<T: server::state::Typed>(&self) -> usize {
        self.tx.state().all::<T>().count()
    }

    fn delete(&mut self, kind: Kind, id: impl Into<Uuid>) {
        self.tx.delete(ObjectKey::new(kind, id));
    }

    fn delete_all(&mut self, keys: Vec<ObjectKey>) {
        keys.into_iter().for_each(|key| self.tx.delete(key));
    }

    fn mac(&mut self) -> Mac {
        Mac::from_bits(0xfa16_3e00_0000 | self.random.next() & 0xff_ffff)
    }

    fn host(&mut self) -> Option<NodeName> {
        let n = self.random.below(NODES + 1);
        (n < NODES).then(|| node_name(n))
    }

    fn some_groups(&mut self) -> Vec<SecurityGroupId> {
        let all: Vec<SecurityGroupId> = self.tx.state().all::<SecurityGroup>().map(|group| group.id).collect();
        all.into_iter().filter(|_| self.random.chance(40)).collect()
    }

    /// Addresses for a port, and the port itself.
    fn put_port(&mut self, port: Port, wanted: Option<&[Wanted]>, mac: Option<Mac>) -> Result<Port, EditError> {
        let request =
            Request { network: port.network, device_owner: &port.device_owner, host: port.host.as_ref(), wanted, mac, existing: None };
        let mut allocation = ipam::allocate(self.tx, &request)?;
        if mac.is_none() && allocation.block.is_none() {
            // The allocator would take a MAC that no seed repeats.
            let mac = Some(self.mac());
            allocation = ipam::allocate(self.tx, &Request { mac, ..request })?;
        }
        let Allocation { fixed_ips, mac, block } = allocation;
        let port = Port { key: self.tx.port_key()?, fixed_ips, mac, block, ..port };
        self.tx.put(port.clone());
        Ok(port)
    }
}

fn network(edit: &mut Edit) -> Edited {
    if edit.count::<Network>() >= NETWORKS || edit.random.chance(25) {
        return change_network(edit);
    }
    let network = Network {
        id: NetworkId(edit.random.uuid()),
        key: edit.tx.network_key()?,
        project: ProjectId::default(),
        name: String::new(),
        description: String::new(),
        is_admin_up: true,
        is_shared: false,
        mtu: 1450,
        is_port_security_default: true,
        is_flooding: edit.random.chance(60),
        standard: Standard::default(),
    };
    edit.tx.put(network.clone());
    add_subnets(edit, network.id);
    Ok(())
}

fn change_network(edit: &mut Edit) -> Edited {
    let network = edit.any::<Network>(|_| true)?;
    if edit.tx.state().ports_of(network.id).next().is_none() && edit.random.chance(60) {
        let subnets = edit.tx.state().subnets_of(network.id).map(|subnet| ObjectKey::new(Kind::Subnet, subnet.id)).collect();
        edit.delete_all(subnets);
        edit.delete(Kind::Network, network.id);
    } else if !network.is_admin_up || edit.random.chance(10) {
        edit.tx.put(Network { is_admin_up: !network.is_admin_up, ..network });
    } else {
        edit.tx.put(Network { mtu: 1400 + edit.random.below(3) as u16, ..network });
    }
    Ok(())
}

fn add_subnets(edit: &mut Edit, network: NetworkId) {
    let n = edit.random.below(CIDRS.len());
    add_subnet(edit, network, CIDRS[n], None);
    if edit.random.chance(50) {
        let mode = edit.random.pick([None, Some(Ipv6Mode::Slaac), Some(Ipv6Mode::Stateful)]).flatten();
        add_subnet(edit, network, &format!("fd00:{n}::/64"), mode);
    }
}

fn add_subnet(edit: &mut Edit, network: NetworkId, cidr: &str, mode: Option<Ipv6Mode>) {
    let cidr: IpNet = cidr.parse().unwrap();
    let around = if edit.is_tidy { edit.domain(vec![network]) } else { BTreeSet::from([network]) };
    if edit.has_overlap(&around, &[cidr]) {
        return;
    }
    let mut hosts = cidr.hosts();
    let gateway = hosts.next();
    let last = match cidr {
        IpNet::V4(cidr) => IpAddr::V4((cidr.broadcast().to_bits() - 1).into()),
        IpNet::V6(cidr) => IpAddr::V6(cidr.broadcast()),
    };
    edit.tx.put(Subnet {
        id: SubnetId(edit.random.uuid()),
        network,
        project: ProjectId::default(),
        name: String::new(),
        description: String::new(),
        cidr,
        gateway,
        pools: hosts.next().map(|first| (first, last)).into_iter().collect(),
        is_dhcp: true,
        dns_servers: Vec::new(),
        host_routes: Vec::new(),
        ra_mode: mode,
        address_mode: mode,
        standard: Standard::default(),
    });
}

/// A network gets a subnet, loses one that nobody uses, or has one changed.
fn subnet(edit: &mut Edit) -> Edited {
    let network = edit.any::<Network>(|_| true)?.id;
    let Some(subnet) = edit.random.pick(edit.tx.state().subnets_of(network)).cloned() else {
        add_subnets(edit, network);
        return Ok(());
    };
    let is_used = edit.tx.state().ports_of(network).any(|port| port.fixed_ips.iter().any(|fixed| fixed.subnet == subnet.id));
    if is_used {
        edit.tx.put(Subnet { dns_servers: vec![[8, 8, 8, edit.random.below(4) as u8].into()], ..subnet });
    } else {
        edit.delete(Kind::Subnet, subnet.id);
    }
    Ok(())
}

fn blank_port(edit: &mut Edit, network: NetworkId) -> Port {
    Port {
        id: PortId(edit.random.uuid()),
        key: PortKey(0),
        network,
        project: ProjectId::default(),
        name: String::new(),
        description: String::new(),
        is_admin_up: true,
        mac: Mac::ZERO,
        fixed_ips: Vec::new(),
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

fn port(edit: &mut Edit) -> Edited {
    if edit.count::<Port>() >= PORTS {
        return delete_port(edit);
    }
    let network = edit.any::<Network>(|_| true)?.id;
    let blank = blank_port(edit, network);
    let is_pod = edit.random.chance(40);
    let (host, device_owner) = match is_pod {
        true => (Some(node_name(edit.random.below(NODES))), owner::POD),
        false => (edit.host(), "compute:nova"),
    };
    let port = Port { host, device_owner: device_owner.into(), is_port_security: edit.random.chance(40), ..blank };
    let security_groups = if port.is_port_security { edit.some_groups() } else { Vec::new() };
    let mac = if is_pod { None } else { Some(edit.mac()) };
    edit.put_port(Port { security_groups, ..port }, None, mac)?;
    Ok(())
}

fn change_port(edit: &mut Edit) -> Edited {
    let port = edit.any::<Port>(|port| !port.is_homeless())?;
    let changed = match edit.random.below(10) {
        _ if !port.is_admin_up => Port { is_admin_up: true, ..port },
        0 => Port { is_admin_up: false, ..port },
        // Moved, or left to the node where its interface is.
        1..=3 => Port { host: edit.host(), ..port },
        4 => Port { claimed_by: None, host: Some(node_name(edit.random.below(NODES))), ..port },
        5 => {
            // One of the addresses that several ports of the network share.
            let subnets = edit.tx.state().subnets_of(port.network).filter(|subnet| subnet.cidr.addr().is_ipv4());
            let cidr = edit.random.pick(subnets).ok_or(EditError::Nothing)?.cidr;
            let ip = cidr.hosts().nth(8 + edit.random.below(3)).ok_or(EditError::Nothing)?.into();
            let mac = if edit.random.chance(50) { port.mac } else { Mac([0, 0, 0x5e, 0, 1, edit.random.below(2) as u8]) };
            Port { address_pairs: if port.address_pairs.is_empty() { vec![AddressPair { ip, mac }] } else { Vec::new() }, ..port }
        }
        6 => {
            let is_port_security = !port.is_port_security;
            Port { is_port_security, security_groups: if is_port_security { port.security_groups } else { Vec::new() }, ..port }
        }
        7 => {
            let wanted: Vec<Wanted> = edit.tx.state().subnets_of(port.network).map(|subnet| Wanted::Subnet(subnet.id)).collect();
            let request = Request {
                network: port.network,
                device_owner: &port.device_owner,
                host: port.host.as_ref(),
                wanted: Some(&wanted),
                mac: None,
                existing: Some(&port),
            };
            let Allocation { fixed_ips, mac, block } = ipam::allocate(edit.tx, &request)?;
            Port { fixed_ips, mac, block, ..port }
        }
        _ if port.is_port_security => Port { security_groups: edit.some_groups(), ..port },
        _ => Port { name: format!("p{}", edit.random.below(3)), ..port },
    };
    edit.tx.put(changed);
    Ok(())
}

fn delete_port(edit: &mut Edit) -> Edited {
    let port = edit.any::<Port>(|port| !port.is_homeless())?;
    edit.delete(Kind::Port, port.id);
    Ok(())
}

fn router(edit: &mut Edit) -> Edited {
    if edit.count::<Router>() < ROUTERS && edit.random.chance(70) {
        let router = Router {
            id: RouterId(edit.random.uuid()),
            key: edit.tx.router_key()?,
            project: ProjectId::default(),
            name: String::new(),
            description: String::new(),
            is_admin_up: true,
            routes: Vec::new(),
            standard: Standard::default(),
        };
        edit.tx.put(router);
        return Ok(());
    }
    let router = edit.any::<Router>(|_| true)?;
    if edit.tx.state().interfaces_of(router.id).next().is_none() && edit.random.chance(50) {
        edit.delete(Kind::Router, router.id);
    } else if !router.is_admin_up || edit.random.chance(20) {
        edit.tx.put(Router { is_admin_up: !router.is_admin_up, ..router });
    } else {
        let nexthop = IpAddr::from([10, edit.random.below(2) as u8, 0, 2 + edit.random.below(3) as u8]);
        let route = Route { destination: "198.51.100.0/24".parse().unwrap(), nexthop };
        edit.tx.put(Router { routes: if router.routes.is_empty() { vec![route] } else { Vec::new() }, ..router });
    }
    Ok(())
}

fn interface(edit: &mut Edit) -> Edited {
    let router = edit.any::<Router>(|_| true)?;
    let subnet = edit.any::<Subnet>(|_| true)?;
    let state = edit.tx.state();
    let own = state.interfaces_of(router.id).flat_map(|port| &port.fixed_ips).filter_map(|fixed| state.subnet(fixed.subnet));
    let overlaps = |other: &Subnet| other.cidr.contains(&subnet.cidr) || subnet.cidr.contains(&other.cidr);
    if own.into_iter().any(overlaps) {
        return Err(EditError::Nothing);
    }
    let joined = state.interfaces_of(router.id).map(|port| port.network).chain([subnet.network]).collect();
    if edit.is_tidy && edit.has_overlap(&edit.domain(joined), &[]) {
        return Err(EditError::Nothing);
    }
    let is_free = |ip: &IpAddr| state.port_by_ip(subnet.network, *ip).is_none();
    let wanted = match subnet.gateway.filter(is_free) {
        Some(ip) => Wanted::Address { subnet: Some(subnet.id), ip },
        None => Wanted::Subnet(subnet.id),
    };
    let blank = blank_port(edit, subnet.network);
    let port = Port { device_owner: owner::ROUTER_INTERFACE.into(), device_id: router.id.to_string(), ..blank };
    let mac = edit.mac();
    edit.put_port(port, Some(&[wanted]), Some(mac))?;
    Ok(())
}

/// An interface goes, or is switched off or on.
fn remove_interface(edit: &mut Edit) -> Edited {
    let port = edit.any::<Port>(Port::is_router_interface)?;
    if !port.is_admin_up || edit.random.chance(30) {
        edit.tx.put(Port { is_admin_up: !port.is_admin_up, ..port });
    } else {
        edit.delete(Kind::Port, port.id);
    }
    Ok(())
}

fn group(edit: &mut Edit) -> Edited {
    if edit.count::<SecurityGroup>() < GROUPS && edit.random.chance(70) {
        let group = SecurityGroup {
            id: SecurityGroupId(edit.random.uuid()),
            key: edit.tx.group_key()?,
            project: ProjectId::default(),
            name: String::new(),
            description: String::new(),
            standard: Standard::default(),
        };
        edit.tx.put(group.clone());
        put_rule(edit, group.id, Direction::Egress, None);
        return Ok(());
    }
    let group = edit.any::<SecurityGroup>(|_| true)?.id;
    let state = edit.tx.state();
    if state.ports_in_group(group).next().is_some() {
        return Err(EditError::Nothing);
    }
    let rules = state.rules_of(group).chain(state.rules_naming(group)).map(|rule| ObjectKey::new(Kind::Rule, rule.id)).collect();
    edit.delete_all(rules);
    edit.delete(Kind::SecurityGroup, group);
    Ok(())
}

fn put_rule(edit: &mut Edit, group: SecurityGroupId, direction: Direction, remote_group: Option<SecurityGroupId>) {
    let protocol = edit.random.pick([None, None, Some(6), Some(17)]).flatten();
    let range = protocol.filter(|_| edit.random.chance(50)).map(|_| 80 + edit.random.below(4) as u16);
    let remote_prefix = (remote_group.is_none() && edit.random.chance(30)).then(|| CIDRS[0].parse().unwrap());
    edit.tx.put(Rule {
        id: RuleId(edit.random.uuid()),
        group,
        project: ProjectId::default(),
        description: String::new(),
        direction,
        ethertype: if remote_prefix.is_some() || edit.random.chance(70) { EtherType::Ipv4 } else { EtherType::Ipv6 },
        protocol,
        protocol_name: None,
        range_min: range,
        range_max: range.map(|first| first + edit.random.below(3) as u16),
        remote_prefix,
        remote_prefix_text: None,
        remote_group,
        standard: Standard::default(),
    });
}

fn rule(edit: &mut Edit) -> Edited {
    if edit.count::<Rule>() >= RULES {
        let rule = edit.any::<Rule>(|_| true)?;
        edit.delete(Kind::Rule, rule.id);
        return Ok(());
    }
    let group = edit.any::<SecurityGroup>(|_| true)?.id;
    let remote = edit.any::<SecurityGroup>(|_| true)?.id;
    let remote = edit.random.chance(50).then_some(remote);
    let direction = if edit.random.chance(70) { Direction::Ingress } else { Direction::Egress };
    put_rule(edit, group, direction, remote);
    Ok(())
}

fn balancer(edit: &mut Edit) -> Edited {
    if edit.count::<LoadBalancer>() >= BALANCERS {
        return delete_balancer(edit);
    }
    let subnet = edit.any::<Subnet>(|_| true)?;
    let id = LoadBalancerId(edit.random.uuid());
    let blank = blank_port(edit, subnet.network);
    let port = Port { device_owner: owner::LOAD_BALANCER.into(), device_id: format!("lb-{id}"), ..blank };
    let mac = edit.mac();
    let vip = edit.put_port(port, Some(&[Wanted::Subnet(subnet.id)]), Some(mac))?;
    edit.tx.put(LoadBalancer {
        vip_port_origin: None,
        id,
        project: ProjectId::default(),
        name: String::new(),
        description: String::new(),
        is_admin_up: true,
        vip: vip.fixed_ips.first().ok_or(EditError::Nothing)?.ip,
        vip_port: vip.id,
        vip_subnet: subnet.id,
        vip_network: subnet.network,
        standard: Standard::default(),
    });
    let pool = put_pool(edit, id);
    put_listener(edit, id, pool)?;
    (0..3).try_for_each(|_| put_member(edit, pool))
}

fn put_pool(edit: &mut Edit, load_balancer: LoadBalancerId) -> PoolId {
    let id = PoolId(edit.random.uuid());
    edit.tx.put(Pool {
        id,
        load_balancer,
        project: ProjectId::default(),
        name: String::new(),
        description: String::new(),
        is_admin_up: true,
        protocol: ListenerProtocol::Tcp,
        algorithm: PoolAlgorithm::SourceIpPort,
        standard: Standard::default(),
    });
    id
}

fn put_listener(edit: &mut Edit, load_balancer: LoadBalancerId, pool: PoolId) -> Edited {
    let taken: Vec<u16> = edit.tx.state().listeners_of(load_balancer).map(|listener| listener.port).collect();
    let port = (80..).find(|port| !taken.contains(port)).ok_or(EditError::Nothing)?;
    let listener = Listener {
        id: ListenerId(edit.random.uuid()),
        key: edit.tx.listener_key()?,
        load_balancer,
        project: ProjectId::default(),
        name: String::new(),
        description: String::new(),
        is_admin_up: true,
        protocol: ListenerProtocol::Tcp,
        port,
        default_pool: Some(pool),
        standard: Standard::default(),
    };
    edit.tx.put(listener);
    Ok(())
}

/// Mostly a port that there is; of any network, as the API allows.
fn put_member(edit: &mut Edit, pool: PoolId) -> Edited {
    let state = edit.tx.state();
    let Some(balancer) = state.pool(pool).and_then(|pool| state.load_balancer(pool.load_balancer)) else { return Err(EditError::Nothing) };
    let fits = |ip: &IpAddr| ip.is_ipv4() == balancer.vip.is_ipv4();
    let known: Vec<IpAddr> = state.all::<Port>().filter(|port| !port.is_homeless()).flat_map(Port::addresses).filter(fits).collect();
    let address = edit.random.pick(known).unwrap_or(balancer_fallback(balancer.vip));
    if edit.tx.state().members_of(pool).any(|member| member.address == address) {
        return Ok(());
    }
    edit.tx.put(Member {
        id: MemberId(edit.random.uuid()),
        pool,
        project: ProjectId::default(),
        name: String::new(),
        is_admin_up: true,
        address,
        port: 8080,
        subnet: None,
        weight: 1 + edit.random.below(3) as u16,
        standard: Standard::default(),
    });
    Ok(())
}

fn balancer_fallback(vip: IpAddr) -> IpAddr {
    if vip.is_ipv4() { [10, 0, 7, 7].into() } else { "fd00::77".parse().unwrap() }
}

fn change_balancer(edit: &mut Edit) -> Edited {
    let pool = edit.any::<Pool>(|_| true)?;
    match edit.random.below(6) {
        0 | 1 => put_member(edit, pool.id)?,
        2 => {
            let member = edit.any::<Member>(|_| true)?;
            edit.delete(Kind::Member, member.id);
        }
        3 => {
            let member = edit.any::<Member>(|_| true)?;
            edit.tx.put(Member { weight: edit.random.below(3) as u16, ..member });
        }
        4 if edit.count::<Listener>() < 2 * BALANCERS => put_listener(edit, pool.load_balancer, pool.id)?,
        4 => {
            let listener = edit.any::<Listener>(|_| true)?;
            edit.delete(Kind::Listener, listener.id);
        }
        _ => {
            let balancer = edit.any::<LoadBalancer>(|_| true)?;
            edit.tx.put(LoadBalancer { is_admin_up: !balancer.is_admin_up, ..balancer });
        }
    }
    Ok(())
}

fn delete_balancer(edit: &mut Edit) -> Edited {
    let balancer = edit.any::<LoadBalancer>(|_| true)?;
    let state = edit.tx.state();
    let mut keys: Vec<ObjectKey> = state.listeners_of(balancer.id).map(|listener| ObjectKey::new(Kind::Listener, listener.id)).collect();
    for pool in state.pools_of(balancer.id) {
        keys.extend(state.members_of(pool.id).map(|member| ObjectKey::new(Kind::Member, member.id)));
        keys.push(ObjectKey::new(Kind::Pool, pool.id));
    }
    keys.push(ObjectKey::new(Kind::LoadBalancer, balancer.id));
    keys.push(ObjectKey::new(Kind::Port, balancer.vip_port));
    edit.delete_all(keys);
    Ok(())
}
