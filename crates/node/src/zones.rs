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
#[serde(from = "Kept", into = "Kept")]
pub struct Zones {
    /// The place of a port's first zone: `FIRST + 3 * place`.
    places: BTreeMap<PortId, u16>,
    /// The places that ports have.
    taken: BTreeSet<u16>,
    /// Places that were another port's before and have to be flushed.
    used: BTreeSet<u16>,
}

/// What is kept over a restart.
#[derive(Serialize, Deserialize)]
struct Kept {
    places: BTreeMap<PortId, u16>,
    #[serde(default)]
    used: BTreeSet<u16>,
}

impl From<Kept> for Zones {
    fn from(Kept { places, used }: Kept) -> Zones {
        Zones { taken: places.values().copied().collect(), places, used }
    }
}

impl From<Zones> for Kept {
    fn from(Zones { places, used, .. }: Zones) -> Kept {
        Kept { places, used }
    }
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
        // Fresh places first: they need no flush. Then the lowest of those that were another port's.
        let place = self.fresh().or_else(|| self.used.iter().copied().find(|place| !self.taken.contains(place)))?;
        self.places.insert(port, place);
        self.taken.insert(place);
        Some(zones(place, self.used.contains(&place)))
    }

    /// The lowest place that was never a port's. They are taken in their order, so that all lie behind whichever is or was one's.
    fn fresh(&self) -> Option<u16> {
        let last = self.taken.last().max(self.used.last());
        Some(last.map_or(0, |last| last + 1)).filter(|place| *place < PORTS_MAX)
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
        if let Some(place) = self.places.remove(&port) {
            self.taken.remove(&place);
            self.used.insert(place);
        }
    }

    /// The zones that ports have.
    pub fn in_use(&self) -> impl Iterator<Item = u16> + '_ {
        self.places.values().flat_map(|place| numbers(*place))
    }

    /// The zones that a port had and none has now.
    pub fn idle(&self) -> impl Iterator<Item = u16> {
        let free: BTreeSet<u16> = self.used.difference(&self.taken).copied().collect();
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
    use serde_json::json;
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
    fn what_is_kept_says_no_more_than_it_did_and_reads_back() {
        let mut zones = Zones::default();
        for n in 0..3 {
            zones.take(port(n)).unwrap();
        }
        zones.free(port(1));
        let kept = serde_json::to_value(&zones).unwrap();
        assert_eq!((kept.as_object().unwrap().len(), &kept["used"], &kept["places"][port(2).to_string()]), (2, &json!([1]), &json!(2)));
        let mut back: Zones = serde_json::from_value(kept).unwrap();
        assert_eq!(back, zones);
        assert_eq!(back.take(port(9)), zones.take(port(9)));
        assert!(back.take(port(10)).unwrap().rules > zones.take(port(2)).unwrap().rules);
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
