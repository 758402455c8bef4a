//! What waits for one node: the latest of every object that it has not been sent yet.
//!
//! What a commit means for many nodes is one [`Part`] that waits in all their outboxes. A node that is slow does not make a queue grow:
//! what waits is merged, the latest object wins, so there is never more than one entry per object and a few parts; beyond
//! [`PENDING_BYTES_MAX`] the stream is ended and the node resumes when it can.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use model::{ObjectKey, Revision};
use rustc_hash::FxHashMap;
use stream::wire::{Delta, Key};
use stream::{CHUNK_BYTES, InterestHash};
use tokio::sync::Notify;

/// Bytes that may wait for one node. Beyond it the node's stream is ended, and it resumes from where it stands.
pub const PENDING_BYTES_MAX: usize = 64 << 20;
/// Parts that wait for one node. Beyond it they are merged.
const PARTS_MAX: usize = 32;
/// What a removal is taken to weigh.
const REMOVAL_BYTES: usize = 32;

/// What the owner puts in and the stream's task takes out.
pub struct Outbox {
    inner: Mutex<Inner>,
    /// Something is there to take.
    pub filled: Notify,
}

struct Inner {
    pending: Pending,
    hash: InterestHash,
    end: Option<String>,
}

/// What waits.
#[derive(Default)]
struct Pending {
    to: Revision,
    parts: Vec<Arc<Part>>,
    bytes: usize,
}

/// Objects that came or are different, and keys that went.
#[derive(Default)]
pub struct Part {
    objects: Vec<(ObjectKey, Option<Bytes>)>,
    /// What it does to the hash of a view.
    hash: InterestHash,
    bytes: usize,
}

/// What there is to do for a stream.
pub enum Next {
    Nothing,
    Send(Batch),
    /// End the stream, for this reason.
    End(String),
}

/// What leads a node to `to`.
pub struct Batch {
    pub to: Revision,
    pub hash: InterestHash,
    pub upserts: Vec<Bytes>,
    pub removals: Vec<ObjectKey>,
}

impl Outbox {
    /// Nothing waits for a node whose view has this hash.
    pub fn new(hash: InterestHash) -> Outbox {
        let inner = Inner { pending: Pending::default(), hash, end: None };
        Outbox { inner: Mutex::new(inner), filled: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what a commit changed.
    pub fn push(&self, to: Revision, parts: Vec<Arc<Part>>) {
        let mut inner = self.lock();
        inner.pending.to = to;
        for part in parts {
            inner.hash.follow(part.hash);
            inner.pending.bytes += part.bytes;
            inner.pending.parts.push(part);
        }
        if inner.pending.parts.len() > PARTS_MAX || inner.pending.bytes > PENDING_BYTES_MAX {
            inner.pending.merge();
        }
        if inner.pending.bytes > PENDING_BYTES_MAX {
            inner.pending = Pending::default();
            inner.end = Some("the node is too far behind; it resumes when it connects again".into());
        }
        drop(inner);
        self.filled.notify_one();
    }

    /// Ends the stream.
    pub fn end(&self, reason: impl Into<String>) {
        self.lock().end = Some(reason.into());
        self.filled.notify_one();
    }

    /// Why the stream is to be ended, if it is.
    pub fn reason_to_end(&self) -> Option<String> {
        self.lock().end.clone()
    }

    pub fn take(&self) -> Next {
        let mut inner = self.lock();
        if let Some(reason) = inner.end.clone() {
            return Next::End(reason);
        }
        if inner.pending.to == Revision::default() {
            return Next::Nothing;
        }
        let (pending, hash) = (std::mem::take(&mut inner.pending), inner.hash);
        // Merging takes time that the owner need not wait for.
        drop(inner);
        Next::Send(pending.batch(hash))
    }
}

impl Part {
    /// `entered` and `changed` with their objects, and what `left`.
    pub fn new(entered: Vec<(ObjectKey, Bytes)>, changed: Vec<(ObjectKey, Bytes)>, left: Vec<ObjectKey>) -> Part {
        let mut hash = InterestHash::default();
        entered.iter().for_each(|(key, _)| hash.insert(key));
        left.iter().for_each(|key| hash.remove(key));
        let objects = entered.into_iter().chain(changed).map(|(key, bytes)| (key, Some(bytes)));
        Part { hash, ..Part::of(objects.chain(left.into_iter().map(|key| (key, None)))) }
    }

    fn of(objects: impl IntoIterator<Item = (ObjectKey, Option<Bytes>)>) -> Part {
        let objects: Vec<_> = objects.into_iter().collect();
        let bytes = objects.iter().map(|(_, bytes)| weight(bytes)).sum();
        Part { objects, hash: InterestHash::default(), bytes }
    }
}

impl Pending {
    /// Makes one part of all, with the latest of each object.
    fn merge(&mut self) {
        let objects = self.parts.iter().flat_map(|part| part.objects.iter().cloned());
        let latest: FxHashMap<ObjectKey, Option<Bytes>> = objects.collect();
        let part = Part::of(latest);
        self.bytes = part.bytes;
        self.parts = vec![Arc::new(part)];
    }

    fn batch(mut self, hash: InterestHash) -> Batch {
        if self.parts.len() > 1 {
            self.merge();
        }
        let mut batch = Batch { to: self.to, hash, upserts: Vec::new(), removals: Vec::new() };
        for (key, bytes) in self.parts.iter().flat_map(|part| &part.objects) {
            match bytes {
                Some(bytes) => batch.upserts.push(bytes.clone()),
                None => batch.removals.push(*key),
            }
        }
        batch
    }
}

fn weight(bytes: &Option<Bytes>) -> usize {
    bytes.as_ref().map_or(0, Bytes::len) + REMOVAL_BYTES
}

impl Batch {
    /// The messages that carry the batch to a node at `from`: at least one, none too large.
    pub fn deltas(self, from: Revision) -> Vec<Delta> {
        let Batch { to, hash, upserts, removals } = self;
        let blank = || Delta { from: from.0, to: to.0, is_partial: true, interest_hash: hash.0, ..Delta::default() };
        let mut deltas = vec![blank()];
        for removals in removals.chunks(CHUNK_BYTES / REMOVAL_BYTES) {
            deltas.push(Delta { removals: removals.iter().map(Key::from).collect(), ..blank() });
        }
        deltas.extend(chunks(upserts).map(|upserts| Delta { upserts, ..blank() }));
        if deltas.len() > 1 {
            deltas.remove(0);
        }
        deltas.last_mut().expect("there is at least one").is_partial = false;
        deltas
    }
}

/// The objects in pieces that are closed when they hold [`CHUNK_BYTES`].
pub fn chunks(objects: impl IntoIterator<Item = Bytes>) -> impl Iterator<Item = Vec<Bytes>> {
    let mut left = objects.into_iter();
    std::iter::from_fn(move || {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while bytes < CHUNK_BYTES
            && let Some(object) = left.next()
        {
            bytes += object.len();
            chunk.push(object);
        }
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Kind;
    use uuid::Uuid;

    fn key(id: u128) -> ObjectKey {
        ObjectKey { kind: Kind::Port, id: Uuid::from_u128(id) }
    }

    fn sent(outbox: &Outbox) -> Batch {
        match outbox.take() {
            Next::Send(batch) => batch,
            _ => panic!("something waits"),
        }
    }

    fn part(entered: &[(u128, Bytes)], changed: &[(u128, Bytes)], left: &[u128]) -> Vec<Arc<Part>> {
        let objects = |list: &[(u128, Bytes)]| list.iter().map(|(id, bytes)| (key(*id), bytes.clone())).collect();
        vec![Arc::new(Part::new(objects(entered), objects(changed), left.iter().map(|id| key(*id)).collect()))]
    }

    #[test]
    fn for_a_slow_node_the_latest_object_wins_and_nothing_grows() {
        let outbox = Outbox::new(InterestHash::of([&key(3)]));
        outbox.push(Revision(1), part(&[(1, Bytes::from_static(b"0"))], &[], &[]));
        for revision in 2..1000 {
            outbox.push(Revision(revision), part(&[], &[(1, Bytes::from(revision.to_string()))], &[]));
            let inner = outbox.lock();
            assert!(inner.pending.parts.len() <= PARTS_MAX && inner.pending.bytes <= (PARTS_MAX + 1) * (3 + REMOVAL_BYTES));
        }
        outbox.push(Revision(1000), part(&[(2, Bytes::from_static(b"b"))], &[], &[3]));
        let batch = sent(&outbox);
        assert_eq!((batch.to, batch.removals, batch.hash), (Revision(1000), vec![key(3)], InterestHash::of([&key(1), &key(2)])));
        let upserts: std::collections::BTreeSet<_> = batch.upserts.into_iter().collect();
        assert_eq!(upserts, [Bytes::from_static(b"999"), Bytes::from_static(b"b")].into_iter().collect());
        assert!(matches!(outbox.take(), Next::Nothing));
    }

    #[test]
    fn what_waits_for_many_nodes_is_there_once() {
        let outboxes: Vec<Outbox> = (0..10).map(|_| Outbox::new(InterestHash::default())).collect();
        let news = part(&[(1, Bytes::from(vec![0; 100]))], &[], &[]);
        outboxes.iter().for_each(|outbox| outbox.push(Revision(1), news.clone()));
        assert_eq!(Arc::strong_count(&news[0]), 1 + outboxes.len());
        outboxes.iter().for_each(|outbox| drop(sent(outbox)));
        assert_eq!(Arc::strong_count(&news[0]), 1);
    }

    #[test]
    fn what_is_far_too_much_ends_the_stream() {
        let outbox = Outbox::new(InterestHash::default());
        let large = Bytes::from(vec![0; CHUNK_BYTES]);
        for id in 0..=(PENDING_BYTES_MAX / CHUNK_BYTES) as u128 {
            outbox.push(Revision(1), part(&[(id, large.clone())], &[], &[]));
        }
        assert!(matches!(outbox.take(), Next::End(_)));
    }

    #[test]
    fn a_large_delta_travels_in_parts_and_only_the_last_one_is_whole() {
        let upserts = vec![Bytes::from(vec![0; stream::CHUNK_BYTES / 2]); 5];
        let batch = Batch { to: Revision(9), hash: InterestHash(3), upserts, removals: vec![key(1)] };
        let deltas = batch.deltas(Revision(4));
        assert_eq!(deltas.iter().map(|delta| delta.upserts.len()).collect::<Vec<_>>(), [0, 2, 2, 1]);
        assert_eq!(deltas.iter().filter(|delta| delta.is_partial).count(), 3);
        assert!(deltas.iter().all(|delta| delta.from == 4 && delta.to == 9) && !deltas[3].is_partial);
        let nothing = Batch { to: Revision(9), hash: InterestHash(3), upserts: vec![], removals: vec![] };
        assert_eq!(nothing.deltas(Revision(4)).len(), 1, "an empty delta moves the revision");
    }
}
