//! Single addresses: out of a subnet's pools, lowest first, each once before any is used again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use model::{Block, NetworkId, Subnet};

use super::blocks;
use super::space::later;
use crate::writer::Tx;

/// An address as a number, for counting.
pub(super) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn address(number: u128, is_v4: bool) -> IpAddr {
    if is_v4 { Ipv4Addr::from(number as u32).into() } else { Ipv6Addr::from(number).into() }
}

/// A free address of the subnet. `taken` are those that the same port got already. When there is no other, one in quarantine.
pub(super) fn allocate(tx: &mut Tx, subnet: &Subnet, taken: &[IpAddr]) -> Option<IpAddr> {
    let now = tx.now();
    never_used(tx, subnet, taken).or_else(|| used_before(tx, subnet, taken, now)).or_else(|| used_before(tx, subnet, taken, later(now)))
}

/// An address that is out of quarantine at `at`; one of a block, when the pools hold nothing else.
fn used_before(tx: &Tx, subnet: &Subnet, taken: &[IpAddr], at: Timestamp) -> Option<IpAddr> {
    freed(tx, subnet, taken, at).or_else(|| inside_block(tx, subnet, taken, at))
}

/// The lowest address that was never used and lies in no block.
fn never_used(tx: &mut Tx, subnet: &Subnet, taken: &[IpAddr]) -> Option<IpAddr> {
    let space = tx.spaces().of(subnet.id.0);
    let is_v4 = subnet.cidr.addr().is_ipv4();
    let start = space.next(&subnet.pools).map_or(0, number);
    let mut pools: Vec<(u128, u128)> = subnet.pools.iter().map(|(first, last)| (number(*first), number(*last))).collect();
    pools.sort_unstable();
    let mut end = start;
    let mut found = None;
    'search: for (first, last) in pools {
        let mut candidate = first.max(start);
        while candidate <= last {
            let ip = address(candidate, is_v4);
            match block_end(tx, subnet.network, ip) {
                Some(block_end) => candidate = block_end + 1,
                None if is_free(tx, subnet, taken, ip) && !space.is_queued(ip) => {
                    found = Some(ip);
                    end = candidate;
                    break 'search;
                }
                None => candidate += 1,
            }
        }
        end = end.max(candidate.min(address_max(is_v4)));
    }
    // The search goes on at this very address: it counts as used only when a port has it.
    tx.spaces_mut().set_next(subnet.id.0, &subnet.pools, Some(address(end, is_v4)));
    found
}

fn address_max(is_v4: bool) -> u128 {
    if is_v4 { u32::MAX.into() } else { u128::MAX }
}

/// The last address of the block around `ip`.
fn block_end(tx: &Tx, network: NetworkId, ip: IpAddr) -> Option<u128> {
    match ip {
        IpAddr::V4(_) => blocks::around(tx.state(), network, ip).map(|block| number(blocks::range(block).1)),
        // A block's IPv6 addresses end in its IPv4 addresses.
        IpAddr::V6(v6) => {
            let v4 = Ipv4Addr::from(u128::from(v6) as u32);
            blocks::around(tx.state(), network, v4.into())
                .filter(|block| block.contains(ip))
                .map(|block: &Block| number(ip) | u128::from(block.v4.hostmask().to_bits()))
        }
    }
}

/// True if the address lies in one of the subnet's pools.
pub(super) fn is_in_pool(subnet: &Subnet, ip: IpAddr) -> bool {
    subnet.pools.iter().any(|(first, last)| *first <= ip && ip <= *last)
}

fn is_free(tx: &Tx, subnet: &Subnet, taken: &[IpAddr], ip: IpAddr) -> bool {
    super::is_host_address(subnet, ip)
        && subnet.gateway != Some(ip)
        && !taken.contains(&ip)
        && tx.state().port_by_ip(subnet.network, ip).is_none()
}

/// The address that was freed first, if its quarantine is over at `at`.
fn freed(tx: &Tx, subnet: &Subnet, taken: &[IpAddr], at: Timestamp) -> Option<IpAddr> {
    tx.spaces()
        .of(subnet.id.0)
        .reusable(at)
        .find(|ip| is_in_pool(subnet, *ip) && block_end(tx, subnet.network, *ip).is_none() && is_free(tx, subnet, taken, *ip))
}

fn inside_block(tx: &Tx, subnet: &Subnet, taken: &[IpAddr], at: Timestamp) -> Option<IpAddr> {
    let own = tx.state().blocks_of(subnet.network).filter(|block| block.subnet == subnet.id);
    own.filter_map(|block| blocks::free_in(tx, block, at)).map(IpAddr::from).find(|ip| !taken.contains(ip))
}
