//! Blocks: pieces of a subnet that belong to one node, made on first need and given back when idle.
//!
//! Blocks are cut from the upper end of a subnet's pools, single addresses from the lower end. A block lies in one pool
//! as a whole, without the subnet's network, gateway and broadcast addresses, and over no address that is in use or was a
//! moment ago.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use model::{Block, FixedIp, Mac, Network, NetworkId, NodeName, ObjectKey, Port, Subnet, V6Range, V6Shape};
use uuid::Uuid;

use super::{Allocation, pool};
use crate::state::State;
use crate::writer::Tx;

/// A subnet whose pools hold fewer blocks has none: they would go to the first few nodes and leave the others nothing.
pub const BLOCKS_MIN: u64 = 8;
/// The prefix length of a block.
const PREFIX: u8 = 32 - Block::HOST_BITS;
/// The longest prefix that has room for an IPv4 address.
const EMBEDDED_PREFIX_MAX: u8 = 96;

/// First and last address of a block.
pub(super) fn range(block: &Block) -> (IpAddr, IpAddr) {
    (block.v4.network().into(), block.v4.broadcast().into())
}

/// The block that `ip` lies in, if there is one.
pub(super) fn around(state: &State, network: NetworkId, ip: IpAddr) -> Option<&Block> {
    let IpAddr::V4(ip) = ip else { return None };
    state.block(Block::id(network, Ipv4Net::new(ip, PREFIX).expect("a prefix length below 32").trunc()))
}

/// True if all that other nodes compute from the block is true of the port.
pub(super) fn follows(block: &Block, port: &Port) -> bool {
    port.home().is_some_and(|home| is_by_rule(block, port.network, home, &port.fixed_ips, port.mac))
}

/// True if a port at `home` with these addresses and this MAC is one that the block's rule makes.
pub(super) fn is_by_rule(block: &Block, network: NetworkId, home: &NodeName, fixed_ips: &[FixedIp], mac: Mac) -> bool {
    let v4 = fixed_ips.iter().find_map(|fixed| match fixed.ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    let is_rule = |v4| {
        let rule = addresses(block, v4);
        mac == Block::mac(v4) && fixed_ips.len() == rule.len() && rule.iter().all(|fixed| fixed_ips.contains(fixed))
    };
    network == block.network && *home == block.node && v4.is_some_and(|v4| block.v4.contains(&v4) && is_rule(v4))
}

/// What the block's rule gives to the port with the address `v4`.
fn addresses(block: &Block, v4: Ipv4Addr) -> Vec<FixedIp> {
    let v6 = block.v6.iter().map(|range| FixedIp { subnet: range.subnet, ip: range.address(v4).into() });
    std::iter::once(FixedIp { subnet: block.subnet, ip: v4.into() }).chain(v6).collect()
}

/// Addresses and MAC for a port of `node`, out of one of its blocks or of a new one. None: single addresses must do.
pub(super) fn allocate(tx: &mut Tx, network: &Network, subnets: &[Subnet], node: &NodeName) -> Option<Allocation> {
    let v4 = subnets.iter().find(|subnet| subnet.cidr.addr().is_ipv4()).filter(|subnet| is_big_enough(subnet))?;
    let v6 = v6_ranges(subnets)?;
    // In any order: subnets made within a second are sorted by id, and came as they came.
    let has_v6 = |block: &Block| block.v6.len() == v6.len() && v6.iter().all(|range| block.v6.contains(range));
    let fits = |block: &&Block| block.network == network.id && block.subnet == v4.id && has_v6(block);
    let own: Vec<Block> = tx.state().blocks_at(node.clone()).filter(fits).cloned().collect();
    if let Some(allocation) = own.iter().find_map(|block| from(tx, block)) {
        return Some(allocation);
    }
    let place = place(tx, network.id, v4, &v6).or_else(|| {
        release_idle(tx, Some(network.id));
        place(tx, network.id, v4, &v6)
    })?;
    let block = Block { id: Block::id(network.id, place), network: network.id, node: node.clone(), subnet: v4.id, v4: place, v6 };
    tx.put(block.clone());
    from(tx, &block)
}

fn from(tx: &Tx, block: &Block) -> Option<Allocation> {
    let v4 = free_in(tx, block, tx.now())?;
    Some(Allocation { fixed_ips: addresses(block, v4), mac: Block::mac(v4), block: Some(block.id) })
}

/// A free address of the block: one never used if there is one, otherwise the one that was freed first, if its quarantine is over at
/// `at`. No subnet's gateway, and nothing outside the subnet's pools: both may have changed after the block was made.
pub(super) fn free_in(tx: &Tx, block: &Block, at: Timestamp) -> Option<Ipv4Addr> {
    let space = tx.spaces().of(block.id.0);
    let state = tx.state();
    let subnet = state.subnet(block.subnet)?;
    let gateways: Vec<IpAddr> = state.subnets_of(block.network).filter_map(|subnet| subnet.gateway).collect();
    let is_free_ip = |ip: IpAddr| !gateways.contains(&ip) && state.port_by_ip(block.network, ip).is_none();
    let is_free = |v4: &Ipv4Addr| {
        pool::is_in_pool(subnet, (*v4).into())
            && addresses(block, *v4).iter().all(|fixed| is_free_ip(fixed.ip))
            && state.port_by_mac(block.network, Block::mac(*v4)).is_none()
    };
    let all = u32::from(block.v4.network())..=u32::from(block.v4.broadcast());
    let never_used = all.map(Ipv4Addr::from).filter(|v4| !space.is_queued((*v4).into()));
    let reusable = space.reusable(at).filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    never_used.chain(reusable).find(is_free)
}

fn is_big_enough(subnet: &Subnet) -> bool {
    subnet.pools.iter().filter_map(block_numbers).map(|(first, last)| u64::from(last - first) + 1).sum::<u64>() >= BLOCKS_MIN
}

/// The numbers (address divided by size) of the first and the last block that lie in a pool as a whole.
fn block_numbers(pool: &(IpAddr, IpAddr)) -> Option<(u32, u32)> {
    let (IpAddr::V4(first), IpAddr::V4(last)) = pool else { return None };
    let size = 1u64 << Block::HOST_BITS;
    let first = u64::from(u32::from(*first)).div_ceil(size);
    let last = ((u64::from(u32::from(*last)) + 1) / size).checked_sub(1)?;
    (first <= last).then_some((first as u32, last as u32))
}

/// Where a new block goes: the uppermost place that was never used, otherwise the uppermost that nobody uses.
fn place(tx: &mut Tx, network: NetworkId, subnet: &Subnet, v6: &[V6Range]) -> Option<Ipv4Net> {
    let space = tx.spaces().of(subnet.id.0);
    let is_vacant = |place: &Ipv4Net| is_vacant(tx, network, subnet, v6, *place);
    let is_fresh = |place: &Ipv4Net| !space.has_queued((place.network().into(), place.broadcast().into()));
    let is_quiet = |place: &Ipv4Net| !space.is_quarantined((place.network().into(), place.broadcast().into()), tx.now());
    let below = tx.spaces().lowest_block(subnet.id.0, &subnet.pools);
    let Some(fresh) = places(subnet, below).find(|place| is_fresh(place) && is_vacant(place)) else {
        return places(subnet, None).find(|place| is_quiet(place) && is_vacant(place));
    };
    tx.spaces_mut().set_lowest_block(subnet.id.0, &subnet.pools, u32::from(fresh.network()) >> Block::HOST_BITS);
    Some(fresh)
}

/// The places for blocks, uppermost first; those below a number alone, if there is one.
fn places(subnet: &Subnet, below: Option<u32>) -> impl Iterator<Item = Ipv4Net> {
    let mut numbers: Vec<(u32, u32)> = subnet.pools.iter().filter_map(block_numbers).collect();
    numbers.sort_unstable();
    let end = below.unwrap_or(u32::MAX);
    let numbers = numbers.into_iter().rev().flat_map(move |(first, last)| (first..last.saturating_add(1).min(end)).rev());
    numbers.map(|number| Ipv4Net::new(Ipv4Addr::from(number << Block::HOST_BITS), PREFIX).expect("a prefix length below 32"))
}

fn is_vacant(tx: &Tx, network: NetworkId, subnet: &Subnet, v6: &[V6Range], place: Ipv4Net) -> bool {
    let state = tx.state();
    let special = [Some(subnet.cidr.network()), Some(subnet.cidr.broadcast()), subnet.gateway];
    let is_special = special.into_iter().flatten().any(|ip| matches!(ip, IpAddr::V4(ip) if place.contains(&ip)));
    let is_used_v4 = || state.has_port_between(network, place.network().into(), place.broadcast().into());
    let is_used_v6 = || {
        v6.iter().any(|range| {
            let (first, last) = (range.address(place.network()).into(), range.address(place.broadcast()).into());
            let gateway = |gateway: IpAddr| first <= gateway && gateway <= last;
            state.has_port_between(network, first, last)
                || state.subnet(range.subnet).and_then(|subnet| subnet.gateway).is_some_and(gateway)
        })
    };
    let is_block = state.block(Block::id(network, place)).is_some();
    !is_special && !is_block && !is_used_v4() && !is_used_v6()
}

/// The IPv6 side of a new block. None: a subnet's addresses cannot follow from an IPv4 address.
fn v6_ranges(subnets: &[Subnet]) -> Option<Vec<V6Range>> {
    let v6 = || subnets.iter().filter(|subnet| subnet.cidr.addr().is_ipv6());
    let managed = v6().find(|subnet| !subnet.is_slaac());
    let ranges = managed.into_iter().map(embedded).chain(v6().filter(|subnet| subnet.is_slaac()).map(eui64));
    ranges.collect()
}

fn embedded(subnet: &Subnet) -> Option<V6Range> {
    let IpNet::V6(prefix) = subnet.cidr else { return None };
    let all = (u128::from(prefix.network()), u128::from(prefix.network()) | u128::from(u32::MAX));
    // The pool must hold what the rule makes of any IPv4 address but the smallest, which no IPv4 subnet has.
    let holds = |pool: &(IpAddr, IpAddr)| pool::number(pool.0) <= all.0 | 1 << 24 && all.1 <= pool::number(pool.1);
    let fits = prefix.prefix_len() <= EMBEDDED_PREFIX_MAX && subnet.pools.iter().any(holds);
    fits.then_some(V6Range { subnet: subnet.id, prefix: truncated(prefix), shape: V6Shape::Embedded })
}

fn eui64(subnet: &Subnet) -> Option<V6Range> {
    let IpNet::V6(prefix) = subnet.cidr else { return None };
    (prefix.prefix_len() == 64).then_some(V6Range { subnet: subnet.id, prefix: truncated(prefix), shape: V6Shape::Eui64 })
}

fn truncated(prefix: Ipv6Net) -> Ipv6Net {
    prefix.trunc()
}

/// Gives back the blocks that have no port and nothing in quarantine. The number given back.
pub fn release_idle(tx: &mut Tx, network: Option<NetworkId>) -> usize {
    let idle: Vec<Uuid> =
        idle_blocks(tx.state(), network).filter(|block| tx.spaces().of(block.id.0).is_quiet(tx.now())).map(|block| block.id.0).collect();
    idle.iter().for_each(|id| tx.delete(ObjectKey::new(model::Kind::Block, *id)));
    idle.len()
}

/// The blocks that no port follows.
pub fn idle_blocks(state: &State, network: Option<NetworkId>) -> impl Iterator<Item = &Block> {
    let all: Box<dyn Iterator<Item = &Block>> = match network {
        Some(network) => Box::new(state.blocks_of(network)),
        None => Box::new(state.all()),
    };
    all.filter(|block| state.ports_in_block(block.id).next().is_none())
}

/// The blocks that a subnet's end takes away or changes.
pub(crate) fn without_subnet(state: &State, subnet: &Subnet) -> (Vec<Block>, Vec<Block>) {
    let all = || state.blocks_of(subnet.network);
    let gone = all().filter(|block| block.subnet == subnet.id).cloned().collect();
    let changed = all().filter(|block| block.subnet != subnet.id && block.v6.iter().any(|range| range.subnet == subnet.id));
    let changed = changed.cloned().map(|mut block| {
        block.v6.retain(|range| range.subnet != subnet.id);
        block
    });
    (gone, changed.collect())
}
