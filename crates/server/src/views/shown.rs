//! What of an object nodes are shown.
//!
//! Nodes get what packets depend on. The API's bookkeeping (projects, time stamps, tags, revision numbers) and the port's status, which
//! nodes themselves bring about, are left out, and so is which server a node follows: otherwise every port that becomes ACTIVE
//! would be news to every node of its network, and nodes' health would be N² traffic.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use model::{Object, ObjectKey, PortStatus, ProjectId, Standard};
use rustc_hash::FxHashMap;

/// Memory for encoded objects that the next nodes need as well. Where there is no room, every other one goes, and is encoded anew when a
/// node needs it: of a view that is larger, each node finds a part.
const CACHE_BYTES_MAX: usize = 32 << 20;
/// What an encoded object takes besides its bytes: its place, and the hull of the object, which tells that it is the same.
const ENTRY_BYTES: usize = size_of::<(ObjectKey, Encoded)>() + size_of::<Object>();

/// The object as nodes see it.
pub fn shown(object: &Object) -> Object {
    let mut object = object.clone();
    if let Some((project, standard)) = bookkeeping(&mut object) {
        *project = ProjectId::default();
        *standard = Standard::default();
    }
    match &mut object {
        Object::Port(port) => port.status = PortStatus::default(),
        Object::Node(node) => node.stream = None,
        _ => {}
    }
    object
}

fn bookkeeping(object: &mut Object) -> Option<(&mut ProjectId, &mut Standard)> {
    match object {
        Object::Network(object) => Some((&mut object.project, &mut object.standard)),
        Object::Subnet(object) => Some((&mut object.project, &mut object.standard)),
        Object::Router(object) => Some((&mut object.project, &mut object.standard)),
        Object::SecurityGroup(object) => Some((&mut object.project, &mut object.standard)),
        Object::Rule(object) => Some((&mut object.project, &mut object.standard)),
        Object::Port(object) => Some((&mut object.project, &mut object.standard)),
        Object::LoadBalancer(object) => Some((&mut object.project, &mut object.standard)),
        Object::Listener(object) => Some((&mut object.project, &mut object.standard)),
        Object::Pool(object) => Some((&mut object.project, &mut object.standard)),
        Object::Member(object) => Some((&mut object.project, &mut object.standard)),
        Object::Node(_) | Object::Block(_) => None,
    }
}

/// True if a change is none for nodes.
pub fn is_shown_the_same(before: Option<&Object>, after: Option<&Object>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => before == after || shown(before) == shown(after),
        (None, None) => true,
        _ => false,
    }
}

/// Encodes each object once for all who receive it.
#[derive(Default)]
pub struct Encoder {
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    objects: FxHashMap<ObjectKey, Encoded>,
    /// What all of them take.
    bytes: usize,
}

struct Encoded {
    /// Weak, so that nothing that was deleted stays for it. No other object has its address meanwhile.
    object: Weak<Object>,
    bytes: Bytes,
}

impl Encoder {
    /// The object on the wire.
    pub fn encode(&self, object: &Arc<Object>) -> Bytes {
        let key = object.key();
        if let Some(known) = self.lock().objects.get(&key)
            && std::ptr::eq(known.object.as_ptr(), Arc::as_ptr(object))
        {
            return known.bytes.clone();
        }
        let bytes = stream::wire::object_bytes(&shown(object));
        self.lock().keep(key, Encoded { object: Arc::downgrade(object), bytes: bytes.clone() });
        bytes
    }

    /// Lets go of objects that are others now, or none.
    pub fn forget(&self, keys: impl IntoIterator<Item = ObjectKey>) {
        let mut cache = self.lock();
        keys.into_iter().for_each(|key| cache.forget(key));
    }

    #[cfg(test)]
    pub fn keeps(&self, key: ObjectKey) -> bool {
        self.lock().objects.contains_key(&key)
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    fn keep(&mut self, key: ObjectKey, encoded: Encoded) {
        self.forget(key);
        while self.bytes + encoded.weight() > CACHE_BYTES_MAX && !self.objects.is_empty() {
            self.halve();
        }
        self.bytes += encoded.weight();
        self.objects.insert(key, encoded);
    }

    fn forget(&mut self, key: ObjectKey) {
        if let Some(gone) = self.objects.remove(&key) {
            self.bytes -= gone.weight();
        }
    }

    /// Drops every other object, whichever they are: nodes are told theirs in one order, so that the oldest would be what the next node is
    /// told first.
    fn halve(&mut self) {
        let mut stays = true;
        self.objects.retain(|_, encoded| {
            stays = !stays;
            if !stays {
                self.bytes -= encoded.weight();
            }
            stays
        });
    }
}

impl Encoded {
    fn weight(&self) -> usize {
        self.bytes.len() + ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::world::vm;
    use super::*;
    use model::Port;

    #[test]
    fn what_is_kept_is_bounded_and_what_is_not_kept_is_encoded_again() {
        const LARGE: usize = 1 << 20;
        let encoder = Encoder::default();
        let large = |n: u32| Arc::new(Object::from(Port { name: "x".repeat(LARGE), ..vm(n, 1, 1) }));
        let objects: Vec<_> = (1..2 * (CACHE_BYTES_MAX / LARGE) as u32).map(large).collect();
        let encoded: Vec<Bytes> = objects
            .iter()
            .map(|object| {
                let bytes = encoder.encode(object);
                assert!(encoder.keeps(object.key()));
                let cache = encoder.lock();
                assert_eq!(cache.bytes, cache.objects.values().map(Encoded::weight).sum::<usize>());
                assert!(cache.bytes <= CACHE_BYTES_MAX, "{} bytes are kept", cache.bytes);
                bytes
            })
            .collect();
        assert!(objects.iter().any(|object| !encoder.keeps(object.key())));
        assert!(objects.iter().zip(&encoded).all(|(object, bytes)| encoder.encode(object) == *bytes));
    }

    #[test]
    fn what_is_another_object_now_or_none_is_not_kept() {
        let encoder = Encoder::default();
        let [gone, stays] = [1, 2].map(|n| Arc::new(Object::from(vm(n, 1, 1))));
        let (before, kept) = (encoder.encode(&gone), encoder.encode(&stays));
        assert_eq!(encoder.encode(&stays).as_ptr(), kept.as_ptr(), "it is encoded once");
        let renamed = Arc::new(Object::from(Port { name: "renamed".into(), ..vm(1, 1, 1) }));
        assert_ne!(encoder.encode(&renamed), before);
        encoder.forget([renamed.key()]);
        let cache = encoder.lock();
        assert_eq!(cache.objects.keys().collect::<Vec<_>>(), [&stays.key()]);
        assert_eq!(cache.bytes, kept.len() + ENTRY_BYTES);
    }

    #[test]
    fn no_object_is_kept_for_what_it_was_encoded_to() {
        let (encoder, object) = (Encoder::default(), Arc::new(Object::from(vm(1, 1, 1))));
        encoder.encode(&object);
        assert_eq!(Arc::strong_count(&object), 1);
    }
}
