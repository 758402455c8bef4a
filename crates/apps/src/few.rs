//! A set that nearly always has one member: a tree would take room for eleven.

use std::collections::BTreeSet;
use std::iter;

/// At least one, in order.
#[derive(Debug)]
pub(crate) enum Few<T> {
    One(T),
    Many(BTreeSet<T>),
}

impl<T: Ord + Copy> Few<T> {
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let (one, many) = match self {
            Few::One(one) => (Some(one), None),
            Few::Many(many) => (None, Some(many)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    pub fn insert(&mut self, more: T) {
        match self {
            Few::One(one) if *one == more => {}
            Few::One(one) => *self = Few::Many(iter::once(*one).chain([more]).collect()),
            Few::Many(many) => drop(many.insert(more)),
        }
    }

    /// False: none would be left, and it is still there.
    #[must_use]
    pub fn remove(&mut self, less: &T) -> bool {
        match self {
            Few::One(one) => one != less,
            Few::Many(many) => {
                many.remove(less);
                if let (1, Some(last)) = (many.len(), many.first().copied()) {
                    *self = Few::One(last);
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set_until_the_last_goes() {
        let mut few = Few::One(3);
        for more in [1, 3, 2] {
            few.insert(more);
        }
        assert_eq!(few.iter().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert!(few.remove(&2) && few.remove(&2) && few.remove(&1));
        assert!(matches!(few, Few::One(3)) && few.remove(&7) && !few.remove(&3));
    }
}
