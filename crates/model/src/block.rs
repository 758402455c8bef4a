//! Address blocks: one entry for all the pods of one network on one node.
//!
//! A port whose host is known when it is made gets an IPv4 address out of a block of (network, node), and its MAC and its
//! IPv6 addresses follow from that address by a fixed rule. So other nodes need to know the block and never its ports: they
//! compute the MAC from the target address. A port that breaks the rule (an address or a MAC of its own choice, a second
//! address, a move) is an exception and has an entry of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{BlockId, Mac, NetworkId, NodeName, SubnetId, eui64};

/// How a port's IPv6 address follows from its block address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum V6Shape {
    /// The subnet's prefix (at most 96 bits) with the IPv4 address as the low 32 bits.
    Embedded,
    /// EUI-64 of the MAC.
    Eui64,
}

/// The IPv6 side of a block: one entry per IPv6 subnet that the network had when the block was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct V6Range {
    pub subnet: SubnetId,
    pub prefix: Ipv6Net,
    pub shape: V6Shape,
}

impl V6Range {
    /// The address that goes with `v4`.
    pub fn address(&self, v4: Ipv4Addr) -> Ipv6Addr {
        match self.shape {
            V6Shape::Embedded => Ipv6Addr::from(u128::from(self.prefix.network()) | u128::from(u32::from(v4))),
            V6Shape::Eui64 => eui64(self.prefix, Block::mac(v4)),
        }
    }

    /// The address range of the whole of `v4`: a prefix that holds exactly the addresses of its ports.
    pub fn range(&self, v4: Ipv4Net) -> (Ipv6Addr, Ipv6Addr) {
        let mask = u128::from(v4.hostmask().to_bits());
        match self.shape {
            V6Shape::Embedded => (self.address(v4.network()), Ipv6Addr::from(!mask)),
            // Only the MAC's low 24 bits lie together; a block has 24 host bits or fewer, so the mask covers them.
            V6Shape::Eui64 => (self.address(v4.network()), Ipv6Addr::from(!mask)),
        }
    }
}

/// A piece of a subnet that belongs to one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Block {
    pub id: BlockId,
    pub network: NetworkId,
    pub node: NodeName,
    pub subnet: SubnetId,
    pub v4: Ipv4Net,
    pub v6: Vec<V6Range>,
}

impl Block {
    /// The first two bytes of every block port's MAC: locally administered (IEEE 802), not used by Neutron or Docker.
    pub const MAC_PREFIX: [u8; 2] = [0x06, 0x1a];
    /// Bits of the host part of a block: 64 addresses.
    pub const HOST_BITS: u8 = 6;

    /// The id of the block `v4` of a network: the same on every server.
    pub fn id(network: NetworkId, v4: Ipv4Net) -> BlockId {
        BlockId(Uuid::new_v5(&network.0, v4.to_string().as_bytes()))
    }

    /// The MAC of the block port with the address `v4`.
    pub fn mac(v4: Ipv4Addr) -> Mac {
        let [a, b] = Block::MAC_PREFIX;
        let [c, d, e, f] = v4.octets();
        Mac([a, b, c, d, e, f])
    }

    /// The MAC of the block's first address and the mask under which exactly the block's MACs equal it.
    pub fn mac_range(&self) -> (Mac, Mac) {
        let mask = (1 << 48) - 1 - u64::from(self.v4.hostmask().to_bits());
        (Block::mac(self.v4.network()), Mac::from_bits(mask))
    }

    /// True if the block's rule gives `ip` to one of its ports.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.contains(&ip),
            IpAddr::V6(ip) => self.v6.iter().any(|range| {
                let (value, mask) = range.range(self.v4);
                u128::from(ip) & u128::from(mask) == u128::from(value)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(shape: V6Shape) -> Block {
        let network = NetworkId(Uuid::from_u128(1));
        let v4 = "10.244.3.64/26".parse().unwrap();
        let subnet = SubnetId(Uuid::from_u128(2));
        let v6 = vec![V6Range { subnet, prefix: "fd00:244::/64".parse().unwrap(), shape }];
        Block { id: Block::id(network, v4), network, node: NodeName("n1".into()), subnet, v4, v6 }
    }

    #[test]
    fn a_block_contains_exactly_what_its_rule_gives() {
        for shape in [V6Shape::Embedded, V6Shape::Eui64] {
            let block = block(shape);
            for (v4, is_inside) in [("10.244.3.64", true), ("10.244.3.127", true), ("10.244.3.128", false), ("10.244.3.63", false)] {
                let v4: Ipv4Addr = v4.parse().unwrap();
                assert_eq!(block.contains(v4.into()), is_inside, "{v4} {shape:?}");
                assert_eq!(block.contains(block.v6[0].address(v4).into()), is_inside, "{v4} {shape:?}");
                let (mac, mask) = block.mac_range();
                assert_eq!(Block::mac(v4).bits() & mask.bits() == mac.bits(), is_inside);
            }
        }
    }

    #[test]
    fn the_two_shapes_look_like_this() {
        let v4 = "10.244.3.70".parse().unwrap();
        assert_eq!(block(V6Shape::Embedded).v6[0].address(v4).to_string(), "fd00:244::af4:346");
        assert_eq!(block(V6Shape::Eui64).v6[0].address(v4).to_string(), "fd00:244::41a:aff:fef4:346");
    }
}
