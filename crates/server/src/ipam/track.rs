//! Keeps the queues of freed addresses true to the ports: whatever writes a port, its addresses are taken and freed here.

use std::net::IpAddr;

use jiff::Timestamp;
use model::{Block, BlockId, NetworkId, Object, Port, V6Shape};
use uuid::Uuid;

use super::blocks;
use super::space::Spaces;
use crate::state::State;

/// The port as it may be stored: `block` is unset unless everything about the port follows from the block.
pub(crate) fn settled(state: &State, mut port: Port) -> Port {
    let follows = |id: BlockId| state.block(id).is_some_and(|block| blocks::follows(block, &port));
    if !port.block.is_some_and(follows) {
        port.block = None;
    }
    port
}

/// Follows one change of an object, before the state has it.
pub(crate) fn changed(state: &State, spaces: &mut Spaces, now: Timestamp, before: Option<&Object>, after: Option<&Object>) {
    let (old, new) = (port(before), port(after));
    let addresses = |port: Option<&Port>| port.map(|port| port.fixed_ips.clone()).unwrap_or_default();
    let (held, wanted) = (addresses(old), addresses(new));
    for fixed in wanted.iter().filter(|fixed| !held.contains(fixed)) {
        let network = new.map_or(NetworkId(Uuid::nil()), |port| port.network);
        homes(state, network, fixed.ip).chain([fixed.subnet.0]).for_each(|space| spaces.take(space, fixed.ip));
    }
    for fixed in held.iter().filter(|fixed| !wanted.contains(fixed)) {
        let network = old.map_or(NetworkId(Uuid::nil()), |port| port.network);
        if is_tracked(state, network, fixed.subnet.0, fixed.ip) {
            let space = homes(state, network, fixed.ip).next().unwrap_or(fixed.subnet.0);
            spaces.push(space, fixed.ip, now);
        }
    }
    match (before, after) {
        (Some(Object::Block(block)), None) => block_gone(spaces, block),
        (None, Some(Object::Block(block))) => spaces.take_range(block.subnet.0, blocks::range(block)),
        (Some(Object::Subnet(subnet)), None) => spaces.forget(subnet.id.0),
        _ => {}
    }
}

fn port(object: Option<&Object>) -> Option<&Port> {
    object.and_then(|object| object.try_into().ok())
}

/// The block whose queue an IPv4 address belongs to.
fn homes(state: &State, network: NetworkId, ip: IpAddr) -> impl Iterator<Item = Uuid> {
    blocks::around(state, network, ip).map(|block| block.id.0).into_iter()
}

/// Addresses that follow from a MAC or from an IPv4 address come and go with it.
fn is_tracked(state: &State, network: NetworkId, subnet: Uuid, ip: IpAddr) -> bool {
    let is_slaac = state.get::<model::Subnet>(subnet).is_none_or(|subnet| subnet.is_slaac());
    let is_embedded = |block: &Block| block.v6.iter().any(|range| range.shape == V6Shape::Embedded && range.subnet.0 == subnet);
    let v4 = match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(std::net::Ipv4Addr::from_bits(u128::from(ip) as u32)),
    };
    let is_derived =
        v4.is_some_and(|v4| blocks::around(state, network, v4.into()).is_some_and(|block| block.contains(ip) && is_embedded(block)));
    !is_slaac && !is_derived
}

fn block_gone(spaces: &mut Spaces, block: &Block) {
    spaces.move_queue(block.id.0, block.subnet.0);
    spaces.lower_next(block.subnet.0, blocks::range(block).0);
}
