//! The view as the node has it, and how the server's messages change it.
//!
//! Snapshots and deltas may come in several messages: nothing is changed before the last of them, and nothing at all if the
//! result is not the set of objects that the server means.

use std::sync::Arc;

use bytes::Bytes;
use model::{Object, ObjectKey, Revision, StoreId};
use rustc_hash::FxHashMap;
use stream::InterestHash;
use stream::wire::{Delta, WireError, object, server_message::Body};

use super::ViewUpdate;

type Objects = FxHashMap<ObjectKey, Arc<Object>>;

/// The object that bytes are.
pub type Read<'a> = dyn Fn(&[u8]) -> Result<Arc<Object>, WireError> + Send + Sync + 'a;

/// A stream that cannot be continued. A new one begins from where the replica is, or, if it has to, from nothing.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("the server refuses: {0}")]
    Refused(String),
    #[error("the server sent a change of revision {from} to a node at {at}")]
    Gap { from: Revision, at: Revision },
    #[error("the view would have other objects than the server says")]
    Diverged,
    #[error("the server sent {0} where it makes no sense")]
    Unexpected(&'static str),
    #[error("the server sent what cannot be read: {0}")]
    Unreadable(#[from] WireError),
    #[error("it serves store {theirs}, and this node's view is of store {ours}")]
    OtherStore { ours: StoreId, theirs: StoreId },
    #[error("it does not say which store it serves, and this node's view is of store {ours}")]
    NoStore { ours: StoreId },
}

impl Fault {
    /// True if what the node has is not to be trusted: only a snapshot helps.
    pub fn needs_snapshot(&self) -> bool {
        !matches!(self, Fault::Refused(_) | Fault::OtherStore { .. } | Fault::NoStore { .. })
    }
}

/// What the node knows.
#[derive(Default)]
pub struct Replica {
    objects: Objects,
    hash: InterestHash,
    revision: Revision,
    /// Which store the view is of. Nothing else is taken as long as there is a view.
    store: Option<StoreId>,
    /// There is a view; it may be empty.
    is_complete: bool,
    /// The server has said on this stream that it serves the view's store.
    is_welcome: bool,
    /// A snapshot or a delta of which the end is missing.
    unfinished: Unfinished,
}

#[derive(Default)]
enum Unfinished {
    #[default]
    Nothing,
    Snapshot(Objects),
    Delta(Vec<Delta>),
}

impl Replica {
    /// A complete view, out of the disk.
    pub fn of(objects: Vec<Arc<Object>>, revision: Revision, store: Option<StoreId>) -> Replica {
        let objects: Objects = objects.into_iter().map(|object| (object.key(), object)).collect();
        let hash = InterestHash::of(objects.keys());
        Replica { objects, hash, revision, store, is_complete: true, ..Replica::default() }
    }

    /// There is a view.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub fn store(&self) -> Option<StoreId> {
        self.store
    }

    /// Zero: there is no view, or the server has just begun.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn hash(&self) -> InterestHash {
        self.hash
    }

    pub fn objects(&self) -> impl ExactSizeIterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// A stream has ended: what it left unfinished is nothing, and the next is of a store that is yet to be named.
    pub fn stream_ended(&mut self) {
        (self.unfinished, self.is_welcome) = (Unfinished::Nothing, false);
    }

    /// Takes in a message; tells what changed, if the view did.
    pub fn apply(&mut self, body: Body) -> Result<Option<ViewUpdate>, Fault> {
        self.apply_with(&|bytes| object(bytes).map(Arc::new), body)
    }

    /// The same where somebody else reads the objects: programs that are many nodes keep what these have in common once.
    pub fn apply_with(&mut self, read: &Read<'_>, body: Body) -> Result<Option<ViewUpdate>, Fault> {
        if let Some(ours) = self.store.filter(|_| self.is_complete && !self.is_welcome)
            && !matches!(body, Body::Welcome(_) | Body::Refused(_))
        {
            return Err(Fault::NoStore { ours });
        }
        match (body, &mut self.unfinished) {
            (Body::Refused(refused), _) => Err(Fault::Refused(refused.reason)),
            (Body::Welcome(welcome), Unfinished::Nothing) => self.welcome(&welcome.store).map(|()| None),
            (Body::Heartbeat(heartbeat), Unfinished::Nothing) => {
                if self.is_complete {
                    self.revision = self.revision.max(Revision(heartbeat.revision));
                }
                Ok(None)
            }
            (Body::SnapshotBegin(_), Unfinished::Nothing) => {
                self.unfinished = Unfinished::Snapshot(Objects::default());
                Ok(None)
            }
            (Body::SnapshotChunk(chunk), Unfinished::Snapshot(objects)) => {
                objects.extend(decoded(read, &chunk.objects)?.into_iter().map(|object| (object.key(), object)));
                Ok(None)
            }
            (Body::SnapshotEnd(end), Unfinished::Snapshot(objects)) => {
                let objects = std::mem::take(objects);
                self.unfinished = Unfinished::Nothing;
                self.replace(objects, Revision(end.revision), InterestHash(end.interest_hash)).map(Some)
            }
            (Body::Delta(delta), Unfinished::Nothing) => self.delta(read, vec![delta]),
            (Body::Delta(delta), Unfinished::Delta(parts)) => {
                let mut parts = std::mem::take(parts);
                parts.push(delta);
                self.delta(read, parts)
            }
            (Body::Welcome(_), _) => Err(Fault::Unexpected("a welcome")),
            (Body::Heartbeat(_), _) => Err(Fault::Unexpected("a heartbeat")),
            (Body::SnapshotBegin(_) | Body::SnapshotChunk(_) | Body::SnapshotEnd(_), _) => Err(Fault::Unexpected("a snapshot")),
            (Body::Delta(_), _) => Err(Fault::Unexpected("a change")),
        }
    }

    /// Another store than the view's is refused. A view that is of no store in particular is of this one from now on.
    fn welcome(&mut self, store: &str) -> Result<(), Fault> {
        let theirs: StoreId = store.parse().map_err(|_| WireError::Store(store.to_string()))?;
        match self.store.filter(|_| self.is_complete) {
            Some(ours) if ours != theirs => Err(Fault::OtherStore { ours, theirs }),
            _ => {
                (self.store, self.is_welcome) = (Some(theirs), true);
                Ok(())
            }
        }
    }

    fn delta(&mut self, read: &Read<'_>, parts: Vec<Delta>) -> Result<Option<ViewUpdate>, Fault> {
        let last = parts.last().expect("the caller has one");
        let (from, to, hash) = (Revision(last.from), Revision(last.to), InterestHash(last.interest_hash));
        if from != self.revision || !self.is_complete {
            return Err(Fault::Gap { from, at: self.revision });
        }
        if last.is_partial {
            self.unfinished = Unfinished::Delta(parts);
            return Ok(None);
        }
        self.unfinished = Unfinished::Nothing;
        let mut update = ViewUpdate { revision: to, ..ViewUpdate::default() };
        for part in &parts {
            update.upserts.extend(decoded(read, &part.upserts)?);
            for key in &part.removals {
                update.removals.push(ObjectKey::try_from(key)?);
            }
        }
        self.change(update, hash).map(Some)
    }

    /// Changes the view as `update` says, if that leads to the view with `hash`.
    fn change(&mut self, mut update: ViewUpdate, hash: InterestHash) -> Result<ViewUpdate, Fault> {
        // Merged on its way, a removal may be of something that never came.
        update.removals.retain(|key| self.objects.contains_key(key));
        let mut expected = self.hash;
        update.removals.iter().for_each(|key| expected.remove(key));
        let new = update.upserts.iter().map(|object| object.key()).filter(|key| !self.objects.contains_key(key));
        new.for_each(|key| expected.insert(&key));
        if expected != hash {
            return Err(Fault::Diverged);
        }
        for key in &update.removals {
            self.objects.remove(key);
        }
        self.objects.extend(update.upserts.iter().map(|object| (object.key(), object.clone())));
        (self.hash, self.revision) = (hash, update.revision);
        Ok(update)
    }

    /// Puts a snapshot in the view's place and tells all of it; what is equal stays the same value.
    fn replace(&mut self, mut objects: Objects, revision: Revision, hash: InterestHash) -> Result<ViewUpdate, Fault> {
        if InterestHash::of(objects.keys()) != hash {
            return Err(Fault::Diverged);
        }
        let removals = self.objects.keys().filter(|key| !objects.contains_key(key)).copied().collect();
        for (key, object) in &mut objects {
            if let Some(known) = self.objects.get(key).filter(|known| *known == object) {
                *object = known.clone();
            }
        }
        let upserts = objects.values().cloned().collect();
        (self.objects, self.hash, self.revision, self.is_complete) = (objects, hash, revision, true);
        Ok(ViewUpdate { upserts, removals, revision, is_complete_snapshot: true })
    }
}

fn decoded(read: &Read<'_>, objects: &[Bytes]) -> Result<Vec<Arc<Object>>, WireError> {
    objects.iter().map(|bytes| read(bytes)).collect()
}

/// What waits for the consumer, merged: the latest of each object.
#[derive(Default)]
pub struct Pending {
    objects: FxHashMap<ObjectKey, Option<Arc<Object>>>,
    revision: Option<Revision>,
    is_complete_snapshot: bool,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.revision.is_none()
    }

    pub fn merge(&mut self, update: ViewUpdate) {
        self.objects.extend(update.removals.into_iter().map(|key| (key, None)));
        self.objects.extend(update.upserts.into_iter().map(|object| (object.key(), Some(object))));
        self.revision = Some(update.revision);
        self.is_complete_snapshot |= update.is_complete_snapshot;
    }

    pub fn take(&mut self) -> ViewUpdate {
        let pending = std::mem::take(self);
        let revision = pending.revision.unwrap_or_default();
        let mut update = ViewUpdate { revision, is_complete_snapshot: pending.is_complete_snapshot, ..ViewUpdate::default() };
        for (key, object) in pending.objects {
            match object {
                Some(object) => update.upserts.push(object),
                None => update.removals.push(key),
            }
        }
        // The same updates, the same order: what follows from them shall not depend on a hash table.
        update.upserts.sort_by_key(|object| object.key());
        update.removals.sort();
        update
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Node, NodeName, TunnelType};
    use stream::wire::{Heartbeat, Key, Refused, SnapshotBegin, SnapshotChunk, SnapshotEnd, Welcome, object_bytes};

    fn node(n: u8, address: u8) -> Object {
        let tunnel_addresses = vec![std::net::Ipv4Addr::new(192, 0, 2, address).into()];
        Node {
            name: NodeName(format!("n{n}")),
            tunnel_addresses,
            tunnel: TunnelType::Geneve,
            bridge: String::new(),
            datapath: String::new(),
            stream: None,
        }
        .into()
    }

    fn hash(objects: &[Object]) -> u64 {
        InterestHash::of(&objects.iter().map(Object::key).collect::<Vec<_>>()).0
    }

    fn delta(from: u64, upserts: &[Object], removals: &[Object], hash: u64) -> Delta {
        let upserts = upserts.iter().map(object_bytes).collect();
        let removals = removals.iter().map(|object| Key::from(&object.key())).collect();
        Delta { from, to: from + 1, upserts, removals, is_partial: false, interest_hash: hash }
    }

    fn snapshot(replica: &mut Replica, objects: &[Object], revision: u64) -> Result<Option<ViewUpdate>, Fault> {
        assert!(replica.apply(Body::SnapshotBegin(SnapshotBegin { revision, objects: objects.len() as u64 }))?.is_none());
        for object in objects {
            let chunk = SnapshotChunk { objects: vec![object_bytes(object)] };
            assert!(replica.apply(Body::SnapshotChunk(chunk))?.is_none(), "nothing before the end");
        }
        replica.apply(Body::SnapshotEnd(SnapshotEnd { revision, interest_hash: hash(objects) }))
    }

    #[test]
    fn a_snapshot_is_told_when_it_is_whole_and_says_what_is_gone() {
        let mut replica = Replica::default();
        let update = snapshot(&mut replica, &[node(1, 1), node(2, 2)], 5).unwrap().unwrap();
        assert_eq!((update.upserts.len(), update.revision, update.is_complete_snapshot), (2, Revision(5), true));
        let update = snapshot(&mut replica, &[node(2, 3), node(3, 3)], 9).unwrap().unwrap();
        assert_eq!((update.upserts.len(), update.removals), (2, vec![node(1, 1).key()]));
        let update = snapshot(&mut replica, &[node(2, 3), node(3, 3)], 10).unwrap().unwrap();
        assert_eq!((update.upserts.len(), update.removals), (2, vec![]));
    }

    #[test]
    fn a_delta_in_parts_is_applied_as_a_whole() {
        let mut replica = Replica::default();
        snapshot(&mut replica, &[node(1, 1)], 5).unwrap();
        let both = hash(&[node(2, 2), node(3, 3)]);
        let part = Delta { is_partial: true, ..delta(5, &[node(2, 2)], &[node(1, 1)], both) };
        assert_eq!(replica.apply(Body::Delta(part)).unwrap(), None);
        assert_eq!((replica.objects().count(), replica.revision()), (1, Revision(5)));
        let update = replica.apply(Body::Delta(delta(5, &[node(3, 3)], &[], both))).unwrap().unwrap();
        assert_eq!((update.upserts.len(), update.removals.len(), replica.revision()), (2, 1, Revision(6)));
    }

    #[test]
    fn a_delta_that_does_not_fit_changes_nothing() {
        let mut replica = Replica::default();
        assert!(matches!(replica.apply(Body::Delta(delta(0, &[], &[], 0))), Err(Fault::Gap { .. })), "there is no view yet");
        snapshot(&mut replica, &[node(1, 1)], 5).unwrap();
        let far = delta(7, &[node(2, 2)], &[], hash(&[node(1, 1), node(2, 2)]));
        assert!(matches!(replica.apply(Body::Delta(far)), Err(Fault::Gap { .. })));
        let wrong = delta(5, &[node(2, 2)], &[], hash(&[node(2, 2)]));
        assert!(matches!(replica.apply(Body::Delta(wrong)), Err(Fault::Diverged)));
        assert_eq!((replica.objects().count(), replica.revision()), (1, Revision(5)));
    }

    #[test]
    fn a_view_of_one_store_takes_nothing_from_another() {
        let welcome = |n: u128| Body::Welcome(Welcome { store: StoreId(uuid::Uuid::from_u128(n)).to_string() });
        let mut replica = Replica::default();
        replica.apply(welcome(1)).unwrap();
        replica.apply(welcome(2)).expect("without a view, any store will do");
        snapshot(&mut replica, &[node(1, 1)], 5).unwrap();
        replica.apply(welcome(2)).unwrap();
        let fault = replica.apply(welcome(1)).unwrap_err();
        assert!(matches!(fault, Fault::OtherStore { .. }) && !fault.needs_snapshot());
        assert_eq!((replica.objects().count(), replica.revision()), (1, Revision(5)));
        assert!(matches!(replica.apply(Body::Welcome(Welcome { store: "none".into() })), Err(Fault::Unreadable(_))));
        let mut of_before = Replica::of(vec![Arc::new(node(1, 1))], Revision(5), None);
        of_before.apply(welcome(3)).unwrap();
        assert!(of_before.apply(welcome(2)).is_err(), "from now on it is of the store that it found first");
    }

    #[test]
    fn a_view_of_a_store_takes_nothing_from_a_server_that_names_none() {
        let ours = StoreId(uuid::Uuid::from_u128(1));
        let mut replica = Replica::of(vec![Arc::new(node(1, 1))], Revision(5), Some(ours));
        let nothing = [
            Body::SnapshotBegin(SnapshotBegin { revision: 9, objects: 0 }),
            Body::Delta(delta(5, &[], &[node(1, 1)], hash(&[]))),
            Body::Heartbeat(Heartbeat { revision: 9 }),
        ];
        for body in &nothing {
            let fault = replica.apply(body.clone()).unwrap_err();
            assert!(matches!(fault, Fault::NoStore { .. }) && !fault.needs_snapshot(), "{fault}");
            assert_eq!((replica.objects().count(), replica.revision()), (1, Revision(5)));
        }
        assert!(matches!(replica.apply(Body::Refused(Refused { reason: String::new() })), Err(Fault::Refused(_))), "why is heard");
        let welcome = Body::Welcome(Welcome { store: ours.to_string() });
        replica.apply(welcome.clone()).unwrap();
        snapshot(&mut replica, &[node(2, 2)], 6).unwrap();
        replica.stream_ended();
        assert!(matches!(snapshot(&mut replica, &[], 7), Err(Fault::NoStore { .. })), "each stream names it anew");
        replica.apply(welcome).unwrap();
        snapshot(&mut replica, &[], 7).unwrap();
    }

    #[test]
    fn what_waits_for_a_busy_consumer_is_merged() {
        let mut pending = Pending::default();
        assert!(pending.is_empty());
        let update = |upserts: Vec<Object>, removals: Vec<Object>, revision| ViewUpdate {
            upserts: upserts.into_iter().map(Arc::new).collect(),
            removals: removals.iter().map(Object::key).collect(),
            revision: Revision(revision),
            is_complete_snapshot: revision == 1,
        };
        pending.merge(update(vec![node(1, 1), node(2, 2)], vec![], 1));
        pending.merge(update(vec![node(1, 9)], vec![node(2, 2)], 2));
        let merged = pending.take();
        assert_eq!(merged, ViewUpdate { is_complete_snapshot: true, ..update(vec![node(1, 9)], vec![node(2, 2)], 2) });
        assert!(pending.is_empty());
    }
}
