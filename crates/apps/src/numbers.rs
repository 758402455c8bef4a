//! Numbers that a node gives to things that have none: sets of security groups, conjunctions.
//!
//! A thing keeps its number as long as a flow needs it: the node saves the table before a flow with a new number is installed, so
//! that a restart finds the same flows. Numbers that nothing needs any more are forgotten now and then, when the table has
//! doubled, so that it is no larger than what a node needs at one time, about twice over. They are forgotten only while the switch
//! has just what is desired, and given in turn: a number comes back when all others have been given, a thousand million later.

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

/// The largest number. Groups of listeners, and those of the other half of the switch, have larger ones.
const LAST: u32 = (1 << 30) - 1;
/// As long as there are no more numbers than that, none is forgotten.
const KEPT: usize = 1024;

/// The numbers that are given. Zero never is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Numbers {
    given: BTreeMap<NumberKey, u32>,
    keys: BTreeMap<u32, NumberKey>,
    /// Given last, and perhaps forgotten since.
    last: u32,
    /// The largest number that may be given.
    end: u32,
    /// With more numbers than this, it is time to forget those that nothing needs.
    kept: usize,
    changes: u64,
}

/// The table on the disk. As pairs, because JSON has no maps with structured keys.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Table {
        last: u32,
        given: Vec<(NumberKey, u32)>,
    },
    /// Of before numbers were forgotten.
    Pairs(Vec<(NumberKey, u32)>),
}

impl From<Stored> for Numbers {
    fn from(stored: Stored) -> Numbers {
        let (last, pairs) = match stored {
            Stored::Table { last, given } => (last, given),
            Stored::Pairs(given) => (given.iter().map(|(_, number)| *number).max().unwrap_or(0), given),
        };
        let keys = pairs.iter().map(|(key, number)| (*number, key.clone())).collect();
        Numbers { keys, given: pairs.into_iter().collect(), last, ..Numbers::default() }
    }
}

impl From<Numbers> for Stored {
    fn from(numbers: Numbers) -> Stored {
        Stored::Table { last: numbers.last, given: numbers.given.into_iter().collect() }
    }
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers { given: BTreeMap::new(), keys: BTreeMap::new(), last: 0, end: LAST, kept: KEPT, changes: 0 }
    }
}

impl Numbers {
    /// The number of `key`: a new one if it has none.
    pub fn of(&mut self, key: NumberKey) -> u32 {
        if let Some(number) = self.given.get(&key) {
            return *number;
        }
        let number = self.next();
        self.given.insert(key.clone(), number);
        self.keys.insert(number, key);
        (self.last, self.changes) = (number, self.changes + 1);
        number
    }

    /// The first number after the last one that nothing has.
    fn next(&self) -> u32 {
        let onwards = (self.last.saturating_add(1)..=self.end).chain(1..=self.last.min(self.end));
        onwards.into_iter().find(|number| !self.keys.contains_key(number)).expect("a thousand million numbers are enough at one time")
    }

    /// True if it is time to forget what nothing needs: the table has doubled since.
    pub fn is_overgrown(&self) -> bool {
        self.given.len() > self.kept
    }

    /// Forgets the numbers that are not needed. The caller knows that no flow in the switch has them.
    pub fn forget(&mut self, is_needed: impl Fn(&NumberKey, u32) -> bool) {
        let before = self.given.len();
        self.given.retain(|key, number| is_needed(key, *number));
        let given = &self.given;
        self.keys.retain(|_, key| given.contains_key(key));
        self.kept = KEPT.max(2 * self.given.len());
        self.changes += u64::from(self.given.len() != before);
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

    /// Grows whenever the table changes and has to be saved.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// How many there are.
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
    use proptest::prelude::*;

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

    #[test]
    fn a_number_that_was_forgotten_is_not_given_again_soon_and_not_after_a_restart() {
        let mut numbers = Numbers::default();
        let first = numbers.of(NumberKey::Group(1, 1));
        numbers.forget(|_, _| false);
        assert!(numbers.is_empty());
        let stored = serde_json::to_string(&numbers).unwrap();
        let mut restarted: Numbers = serde_json::from_str(&stored).unwrap();
        assert_ne!(restarted.of(NumberKey::Group(2, 2)), first);
    }

    #[test]
    fn a_table_of_before_numbers_were_forgotten_is_read() {
        let mut numbers: Numbers = serde_json::from_str(r#"[[{"Group":[7,1]},5],[{"Group":[7,2]},3]]"#).unwrap();
        assert_eq!((numbers.of(NumberKey::Group(7, 2)), numbers.of(NumberKey::Group(7, 3))), (3, 6));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Need(u32),
        NeedNot(u32),
        /// The switch takes what is desired, and what nothing needs is forgotten.
        Settle,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![4 => (0u32..8).prop_map(Step::Need), 4 => (0u32..8).prop_map(Step::NeedNot), 1 => Just(Step::Settle)]
    }

    proptest! {
        #[test]
        fn no_number_gets_a_second_meaning_while_the_switch_may_have_it(steps in proptest::collection::vec(step(), 0..400)) {
            // Few numbers, so that they come round.
            let mut numbers = Numbers { end: 20, ..Numbers::default() };
            let (mut needed, mut installed): (BTreeSet<NumberKey>, BTreeMap<u32, NumberKey>) = Default::default();
            for step in steps {
                match step {
                    Step::Need(n) => {
                        let key = NumberKey::Group(n, 0);
                        let number = numbers.of(key.clone());
                        prop_assert!(installed.get(&number).is_none_or(|meaning| *meaning == key), "{number} means two things");
                        needed.insert(key);
                    }
                    Step::NeedNot(n) => drop(needed.remove(&NumberKey::Group(n, 0))),
                    Step::Settle => {
                        installed = needed.iter().map(|key| (numbers.given[key], key.clone())).collect();
                        numbers.forget(|key, _| needed.contains(key));
                        prop_assert_eq!(numbers.len(), needed.len());
                    }
                }
                prop_assert_eq!(numbers.given.len(), numbers.keys.len());
            }
        }
    }
}
