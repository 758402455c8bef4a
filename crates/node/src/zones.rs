//! Connection tracking zones: three per local port, the same ones after a restart.
//!
//! Zones are 16 bits and belong to this node. A port's three zones lie in a row. A zone that becomes free must be flushed
//! before another port gets it: [`Zones::take`] says whether it must.

use std::collections::{BTreeMap, BTreeSet};

use model::PortId;
use serde::{Deserialize, Serialize};

/// Zones per port: rules, translations to members, connections to itself.
pub const ZONES_PER_PORT: u16 = 3;
/// Zone 0 is the switch's default and belongs to nobody.
const FIRST: u16 = 1;
/// Ports that a node has zones for.
pub const PORTS_MAX: u16 = (u16::MAX - FIRST) / ZONES_PER_PORT;

/// Which port has which zones.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Zones {
    /// The place of a port's first zone: `FIRST + 3 * place`.
    places: BTreeMap<PortId, u16>,
    /// Places that were another port's before and have to be flushed.
    #[serde(default)]
    used: BTreeSet<u16>,
}

/// The zones of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    pub rules: u16,
    pub nat: u16,
    pub hairpin: u16,
    /// Another port's connections may still be in them.
    pub needs_flush: bool,
}

impl Zones {
    /// The zones of `port`: those that it has, or free ones. None: there are none left.
    pub fn take(&mut self, port: PortId) -> Option<Taken> {
        if let Some(place) = self.places.get(&port) {
            return Some(zones(*place, self.used.contains(place)));
        }
        let taken: BTreeSet<u16> = self.places.values().copied().collect();
        // Fresh places first: they need no flush. Then the lowest of those that were another port's.
        let place = (0..PORTS_MAX).find(|place| !taken.contains(place) && !self.used.contains(place));
        let place = place.or_else(|| self.used.iter().copied().find(|place| !taken.contains(place)))?;
        self.places.insert(port, place);
        Some(zones(place, self.used.contains(&place)))
    }

    /// True if `port` has zones already.
    pub fn has(&self, port: PortId) -> bool {
        self.places.contains_key(&port)
    }

    /// The zones of `port` have been flushed.
    pub fn flushed(&mut self, port: PortId) {
        if let Some(place) = self.places.get(&port) {
            self.used.remove(place);
        }
    }

    /// `port` is gone: its zones are free.
    pub fn free(&mut self, port: PortId) {
        self.used.extend(self.places.remove(&port));
    }

    /// The zones that ports have.
    pub fn in_use(&self) -> impl Iterator<Item = u16> + '_ {
        self.places.values().flat_map(|place| numbers(*place))
    }

    /// The zones that a port had and none has now.
    pub fn idle(&self) -> impl Iterator<Item = u16> {
        let taken: BTreeSet<u16> = self.places.values().copied().collect();
        let free: BTreeSet<u16> = self.used.difference(&taken).copied().collect();
        free.into_iter().flat_map(numbers)
    }

    /// The ports that have zones.
    pub fn ports(&self) -> impl Iterator<Item = PortId> + '_ {
        self.places.keys().copied()
    }
}

fn numbers(place: u16) -> [u16; ZONES_PER_PORT as usize] {
    let first = FIRST + place * ZONES_PER_PORT;
    [first, first + 1, first + 2]
}

fn zones(place: u16, needs_flush: bool) -> Taken {
    let [rules, nat, hairpin] = numbers(place);
    Taken { rules, nat, hairpin, needs_flush }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn port(n: u128) -> PortId {
        PortId(Uuid::from_u128(n))
    }

    #[test]
    fn a_port_keeps_its_zones_and_shares_them_with_nobody() {
        let mut zones = Zones::default();
        let one = zones.take(port(1)).unwrap();
        let two = zones.take(port(2)).unwrap();
        assert_eq!(zones.take(port(1)), Some(one));
        assert!(one.hairpin < two.rules);
    }

    #[test]
    fn freed_zones_are_reused_last_and_only_after_a_flush() {
        let mut zones = Zones::default();
        let first = zones.take(port(0)).unwrap();
        zones.free(port(0));
        for n in 1..u128::from(PORTS_MAX) {
            assert!(!zones.take(port(n)).unwrap().needs_flush);
        }
        let reused = zones.take(port(100_000)).unwrap();
        assert_eq!(reused.rules, first.rules);
        assert!(reused.needs_flush);
        zones.flushed(port(100_000));
        assert!(!zones.take(port(100_000)).unwrap().needs_flush);
        assert_eq!(zones.take(port(100_001)), None);
    }
}
