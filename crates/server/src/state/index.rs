//! An index: which ids belong to a key.

use imbl::OrdSet;
use uuid::Uuid;

/// Pairs of key and id, in order, so that the ids of one key lie together.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Index<K: Ord + Clone>(OrdSet<(K, Uuid)>);

impl<K: Ord + Clone> Default for Index<K> {
    fn default() -> Index<K> {
        Index(OrdSet::new())
    }
}

impl<K: Ord + Clone> Index<K> {
    /// The ids of `key`, in order.
    pub(super) fn of(&self, key: K) -> impl Iterator<Item = Uuid> + use<'_, K> {
        self.0.range((key.clone(), Uuid::nil())..=(key, Uuid::max())).map(|(_, id)| *id)
    }

    /// True if a key from `first` to `last` has an id.
    pub(super) fn has_between(&self, first: K, last: K) -> bool {
        self.0.range((first, Uuid::nil())..=(last, Uuid::max())).next().is_some()
    }

    /// The place of `key`, to enter or to leave it.
    pub(super) fn at(&mut self, key: K) -> At<'_, K> {
        At { index: self, key }
    }
}

/// A key's place in an index.
pub(super) struct At<'a, K: Ord + Clone> {
    index: &'a mut Index<K>,
    key: K,
}

/// Enters an id at a key, or takes it away.
pub(super) trait Entry {
    fn insert(&mut self, id: Uuid);
    fn remove(&mut self, id: Uuid);
}

impl<K: Ord + Clone> Entry for At<'_, K> {
    fn insert(&mut self, id: Uuid) {
        self.index.0.insert((self.key.clone(), id));
    }

    fn remove(&mut self, id: Uuid) {
        self.index.0.remove(&(self.key.clone(), id));
    }
}
