//! Which security groups an address belongs to.
//!
//! Only groups that a rule in view names are of interest: whatever else the ports of a network are members of, an address that a
//! rule cannot tell from its neighbour has the same identity. An address belongs to the groups of the ports that have it, and to
//! those of ports with a wider address pair around it (Neutron: a group's members are its ports' addresses and their address
//! pairs). The switch finds an address by the longest prefix, so an entry includes what is true of all prefixes around it, and a
//! prefix that adds nothing to those has none.
//!
//! Addresses are told apart by routing domain. Two networks of one domain that have the same address on their subnets are a user's
//! mistake, and it must not open what should be closed: the address has only the groups that it has on both. An address pair of a
//! port elsewhere takes nothing from it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net};
use model::{NetworkId, SecurityGroupId};
use rustc_hash::FxHashMap;
use uuid::Uuid;

/// An address or prefix in a routing domain.
pub(crate) type Place = (u32, IpNet);

/// What the ports that have exactly this address say of it.
#[derive(Default, Debug)]
struct Own {
    networks: BTreeSet<NetworkId>,
    /// None until it was asked: whoever had the address before may have had other groups.
    groups: Option<BTreeSet<SecurityGroupId>>,
}

/// The identities of addresses.
#[derive(Default, Debug)]
pub(crate) struct Addresses {
    /// Every address that a port with groups has, by network.
    on: BTreeSet<(NetworkId, IpNet)>,
    own: BTreeMap<Place, Own>,
    /// How many prefixes of a length there are, by domain and IP version: nearly all are whole addresses.
    lengths: BTreeMap<(u32, bool, u8), usize>,
    of: FxHashMap<Place, (u32, BTreeSet<SecurityGroupId>)>,
}

impl Addresses {
    pub fn of(&self, domain: u32, address: IpNet) -> Option<(u32, &BTreeSet<SecurityGroupId>)> {
        self.of.get(&(domain, address)).map(|(number, groups)| (*number, groups))
    }

    /// The networks of the domain on which ports have exactly this address.
    pub fn networks(&self, domain: u32, address: IpNet) -> impl Iterator<Item = NetworkId> + '_ {
        self.own.get(&(domain, address)).into_iter().flat_map(|own| &own.networks).copied()
    }

    /// Every address that a port with groups has on the network.
    pub fn on(&self, network: NetworkId) -> impl Iterator<Item = IpNet> + '_ {
        let least = (network, IpNet::V4(Ipv4Net::default()));
        self.on.range(least..).take_while(move |(on, _)| *on == network).map(|(_, address)| *address)
    }

    /// Whether ports have the same address in both domains.
    pub fn overlap(&self, one: u32, other: u32) -> bool {
        let least = (one, IpNet::V4(Ipv4Net::default()));
        let mut addresses = self.own.range(least..).map(|(place, _)| *place).take_while(|(domain, _)| *domain == one);
        addresses.any(|(_, address)| self.own.contains_key(&(other, address)))
    }

    /// Ports on `network`, which is in `domain`, have the address now.
    pub fn enter(&mut self, network: NetworkId, address: IpNet, domain: Option<u32>) {
        self.on.insert((network, address));
        if let Some(domain) = domain {
            self.arrive(network, (domain, address));
        }
    }

    /// No port on `network` has the address any more.
    pub fn exit(&mut self, network: NetworkId, address: IpNet, domain: Option<u32>) {
        self.on.remove(&(network, address));
        if let Some(domain) = domain {
            self.depart(network, (domain, address));
        }
    }

    /// The network is in another domain now; returns all places that this concerns.
    pub fn move_network(&mut self, network: NetworkId, old: Option<u32>, new: Option<u32>) -> Vec<Place> {
        let addresses: Vec<IpNet> = self.on(network).collect();
        for address in &addresses {
            if let Some(old) = old {
                self.depart(network, (old, *address));
            }
            if let Some(new) = new {
                self.arrive(network, (new, *address));
            }
        }
        [old, new].into_iter().flatten().flat_map(|domain| addresses.iter().map(move |address| (domain, *address))).collect()
    }

    fn arrive(&mut self, network: NetworkId, place: Place) {
        if !self.own.contains_key(&place) {
            *self.lengths.entry(length(place)).or_default() += 1;
        }
        self.own.entry(place).or_default().networks.insert(network);
    }

    fn depart(&mut self, network: NetworkId, place: Place) {
        let Some(own) = self.own.get_mut(&place) else { return };
        own.networks.remove(&network);
        if !own.networks.is_empty() {
            return;
        }
        self.own.remove(&place);
        if let Some(count) = self.lengths.get_mut(&length(place)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length(place));
            }
        }
    }

    /// The named groups that the place has by itself are `groups`; returns the places whose identity may follow.
    pub fn set_own(&mut self, place: Place, groups: BTreeSet<SecurityGroupId>) -> Vec<Place> {
        if let Some(own) = self.own.get_mut(&place)
            && own.groups.replace(groups.clone()) == Some(groups)
        {
            return vec![place];
        }
        self.within(place).collect()
    }

    /// The place, and those that lie in it.
    pub fn within(&self, place: Place) -> impl Iterator<Item = Place> + '_ {
        let (domain, prefix) = place;
        let is_wide = prefix.prefix_len() < prefix.max_prefix_len();
        let within = is_wide.then(|| self.own.range(within(domain, prefix)).map(|(place, _)| *place)).into_iter().flatten();
        within.chain([place])
    }

    /// The groups of the place's identity; none if the next wider prefix says it all.
    pub fn groups(&self, place: Place) -> BTreeSet<SecurityGroupId> {
        let (domain, address) = place;
        let own = |prefix| self.own.get(&(domain, prefix)).and_then(|own| own.groups.as_ref()).filter(|groups| !groups.is_empty());
        if own(address).is_none() {
            return BTreeSet::new();
        }
        let (_, is_v6, longest) = length(place);
        let lengths = self.lengths.range((domain, is_v6, 0)..=(domain, is_v6, longest)).map(|((.., length), _)| *length);
        let prefixes = lengths.filter_map(|length| IpNet::new(address.addr(), length).ok()).map(|prefix| prefix.trunc());
        prefixes.filter_map(own).flatten().copied().collect()
    }

    /// Gives the place the identity `number`, or none if it is zero; returns the number it had.
    pub fn replace(&mut self, place: Place, number: u32, groups: BTreeSet<SecurityGroupId>) -> u32 {
        let old = match number {
            0 => self.of.remove(&place),
            _ => self.of.insert(place, (number, groups)),
        };
        old.map_or(0, |(number, _)| number)
    }

    /// The id under which a place is a member of an index.
    pub fn member((domain, address): Place) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{domain} {address}").as_bytes())
    }
}

fn length((domain, address): Place) -> (u32, bool, u8) {
    (domain, address.addr().is_ipv6(), address.prefix_len())
}

/// From the first place that may lie in `prefix` to the last.
fn within(domain: u32, prefix: IpNet) -> std::ops::RangeInclusive<Place> {
    let last = IpNet::from(prefix.broadcast());
    (domain, prefix)..=(domain, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_changes_hands_at_once_concerns_what_lies_in_it() {
        let (network, group) = (NetworkId(Uuid::from_u128(1)), SecurityGroupId(Uuid::from_u128(2)));
        let places = ["10.0.0.0/24", "10.0.0.5/32"].map(|prefix| (7, prefix.parse().unwrap()));
        let [wide, one] = places;
        let mut addresses = Addresses::default();
        for (place, groups) in places.into_iter().zip([BTreeSet::from([group]), BTreeSet::new()]) {
            addresses.enter(network, place.1, Some(7));
            addresses.set_own(place, groups);
        }
        addresses.exit(network, wide.1, Some(7));
        addresses.enter(network, wide.1, Some(7));
        assert!(addresses.set_own(wide, BTreeSet::new()).contains(&one));
    }
}
