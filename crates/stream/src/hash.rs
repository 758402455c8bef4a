//! A hash of a set of objects' keys that follows the set: adding and removing cost the same as one key.

use model::ObjectKey;

/// The hash of a set of keys, independent of order. Equal sets have equal hashes on every machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InterestHash(pub u64);

impl InterestHash {
    /// The hash of `keys`, each of which occurs once.
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a ObjectKey>) -> InterestHash {
        let mut hash = InterestHash::default();
        keys.into_iter().for_each(|key| hash.insert(key));
        hash
    }

    /// `key` enters the set.
    pub fn insert(&mut self, key: &ObjectKey) {
        self.0 = self.0.wrapping_add(mixed(key));
    }

    /// The set changes as another one did that was empty before.
    pub fn follow(&mut self, other: InterestHash) {
        self.0 = self.0.wrapping_add(other.0);
    }

    /// `key` leaves the set.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.0 = self.0.wrapping_sub(mixed(key));
    }
}

/// The kind's word is hashed, not its number: a new kind in the middle of the list must not change the others' hashes.
fn mixed(key: &ObjectKey) -> u64 {
    let (high, low) = key.id.as_u64_pair();
    let kind = key.kind.word().bytes().fold(0, |sum: u64, byte| scramble(sum ^ u64::from(byte)));
    scramble(scramble(scramble(kind) ^ high) ^ low)
}

/// A bijection in which every bit of the answer depends on every bit of `x` (the finaliser of MurmurHash3, with an offset so
/// that zero does not stay zero).
fn scramble(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Kind;
    use uuid::Uuid;

    fn key(kind: Kind, id: u128) -> ObjectKey {
        ObjectKey { kind, id: Uuid::from_u128(id) }
    }

    #[test]
    fn the_hash_follows_the_set_whatever_the_order() {
        let [a, b, c] = [key(Kind::Port, 1), key(Kind::Port, 2), key(Kind::Network, 1)];
        let mut hash = InterestHash::of([&a, &b, &c]);
        assert_eq!(hash, InterestHash::of([&c, &a, &b]));
        hash.remove(&b);
        assert_eq!(hash, InterestHash::of([&a, &c]));
        assert_ne!(hash, InterestHash::of([&a, &b]));
        let mut change = InterestHash::of([&b]);
        change.remove(&a);
        hash.follow(change);
        assert_eq!(hash, InterestHash::of([&b, &c]));
    }

    #[test]
    fn neighbouring_keys_do_not_cancel_out() {
        let sums: std::collections::HashSet<u64> = (0..100)
            .flat_map(|x| (0..x).map(move |y| (x, y)))
            .map(|(x, y)| InterestHash::of([&key(Kind::Port, x), &key(Kind::Port, y)]).0)
            .collect();
        assert_eq!(sums.len(), 100 * 99 / 2);
    }
}
