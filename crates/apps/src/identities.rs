//! Which security groups an address belongs to.
//!
//! The identity of an address is the set of the groups of all ports that have it. It is kept per network and exact prefix: an
//! address inside somebody's address pair that is a wider prefix does not inherit that pair's groups.

use std::collections::BTreeSet;

use ipnet::IpNet;
use model::{NetworkId, SecurityGroupId};
use rustc_hash::FxHashMap;
use uuid::Uuid;

/// The identities of addresses.
#[derive(Default, Debug)]
pub(crate) struct Addresses {
    of: FxHashMap<(NetworkId, IpNet), (u32, BTreeSet<SecurityGroupId>)>,
}

impl Addresses {
    pub fn of(&self, network: NetworkId, address: IpNet) -> Option<(u32, &BTreeSet<SecurityGroupId>)> {
        self.of.get(&(network, address)).map(|(number, groups)| (*number, groups))
    }

    /// Gives the address the identity `number`, or none if it is zero; returns the number it had.
    pub fn replace(&mut self, network: NetworkId, address: IpNet, number: u32, groups: BTreeSet<SecurityGroupId>) -> u32 {
        let old = match number {
            0 => self.of.remove(&(network, address)),
            _ => self.of.insert((network, address), (number, groups)),
        };
        old.map_or(0, |(number, _)| number)
    }

    /// The id under which an address is a member of an index.
    pub fn member(network: NetworkId, address: IpNet) -> Uuid {
        Uuid::new_v5(&network.0, address.to_string().as_bytes())
    }
}
