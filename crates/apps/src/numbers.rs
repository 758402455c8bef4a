//! Numbers that a node gives to things that have none: sets of security groups, conjunctions.
//!
//! The same thing keeps its number for ever on this node: the node saves the table before a flow with a new number is
//! installed, so that a restart finds the same flows.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// What can have a number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum NumberKey {
    /// A set of security groups, by their keys: the identity of an address.
    Identity(BTreeSet<u32>),
    /// A conjunction, by a text that its app makes unique.
    Conjunction(String),
    /// A select group below another, by listener and position.
    Group(u32, u32),
}

/// The numbers given so far. Zero is never given.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Numbers {
    /// Pairs, because JSON has no maps with structured keys.
    #[serde(with = "pairs")]
    given: BTreeMap<NumberKey, u32>,
    last: u32,
}

impl Numbers {
    /// The number of `key`: a new one if it has none.
    pub fn of(&mut self, key: NumberKey) -> u32 {
        let last = &mut self.last;
        *self.given.entry(key).or_insert_with(|| {
            *last = last.checked_add(1).expect("four thousand million numbers outlast a node");
            *last
        })
    }

    /// How many have been given: the table needs saving when this grew.
    pub fn len(&self) -> usize {
        self.given.len()
    }

    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }
}

mod pairs {
    use super::{BTreeMap, NumberKey};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(map: &BTreeMap<NumberKey, u32>, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<NumberKey, u32>, D::Error> {
        Ok(Vec::<(NumberKey, u32)>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_keeps_its_number() {
        let mut numbers = Numbers::default();
        let set = NumberKey::Identity(BTreeSet::from([1, 2]));
        let first = numbers.of(set.clone());
        let other = numbers.of(NumberKey::Identity(BTreeSet::from([3])));
        assert_ne!(first, other);
        assert_eq!(numbers.of(set), first);
    }
}
