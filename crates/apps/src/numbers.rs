//! Numbers that a node gives to things that have none: sets of security groups, conjunctions.
//!
//! The same thing keeps its number for ever on this node: the node saves the table before a flow with a new number is
//! installed, so that a restart finds the same flows.

use std::collections::{BTreeMap, BTreeSet};

use model::SecurityGroupId;
use serde::{Deserialize, Serialize};

/// What can have a number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum NumberKey {
    /// A set of security groups: the identity of an address.
    Identity(BTreeSet<SecurityGroupId>),
    /// The conjunction of a security group rule.
    Conjunction(model::RuleId),
    /// A select group below another, by listener and position.
    Group(u32, u32),
}

/// The numbers given so far. Zero is never given.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(NumberKey, u32)>", into = "Vec<(NumberKey, u32)>")]
pub struct Numbers {
    given: BTreeMap<NumberKey, u32>,
    keys: BTreeMap<u32, NumberKey>,
}

// As pairs, because JSON has no maps with structured keys.
impl From<Vec<(NumberKey, u32)>> for Numbers {
    fn from(pairs: Vec<(NumberKey, u32)>) -> Numbers {
        Numbers { keys: pairs.iter().map(|(key, number)| (*number, key.clone())).collect(), given: pairs.into_iter().collect() }
    }
}

impl From<Numbers> for Vec<(NumberKey, u32)> {
    fn from(numbers: Numbers) -> Vec<(NumberKey, u32)> {
        numbers.given.into_iter().collect()
    }
}

impl Numbers {
    /// The number of `key`: a new one if it has none.
    pub fn of(&mut self, key: NumberKey) -> u32 {
        if let Some(number) = self.given.get(&key) {
            return *number;
        }
        let last = self.keys.last_key_value().map_or(0, |(number, _)| *number);
        let number = last.checked_add(1).expect("four thousand million numbers outlast a node");
        self.given.insert(key.clone(), number);
        self.keys.insert(number, key);
        number
    }

    /// The number of a set of groups. Zero: the empty set.
    pub fn identity(&mut self, groups: &BTreeSet<SecurityGroupId>) -> u32 {
        if groups.is_empty() { 0 } else { self.of(NumberKey::Identity(groups.clone())) }
    }

    /// The groups of the set with the number `number`: none for a number that no set has.
    pub fn groups(&self, number: u32) -> BTreeSet<SecurityGroupId> {
        match self.keys.get(&number) {
            Some(NumberKey::Identity(groups)) => groups.clone(),
            _ => BTreeSet::new(),
        }
    }

    /// How many have been given: the table needs saving when this grew.
    pub fn len(&self) -> usize {
        self.given.len()
    }

    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_keeps_its_number() {
        let mut numbers = Numbers::default();
        let group = |n| SecurityGroupId(uuid::Uuid::from_u128(n));
        let set = NumberKey::Identity(BTreeSet::from([group(1), group(2)]));
        let first = numbers.of(set.clone());
        let other = numbers.of(NumberKey::Identity(BTreeSet::from([group(3)])));
        assert_ne!(first, other);
        assert_eq!(numbers.of(set), first);
    }
}
