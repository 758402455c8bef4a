//! What of an object nodes are shown.
//!
//! Nodes get what packets depend on. The API's bookkeeping (time stamps, tags, revision numbers) and the port's status, which
//! nodes themselves bring about, are left out, and so is which server a node follows: otherwise every port that becomes ACTIVE
//! would be news to every node of its network, and nodes' health would be N² traffic.

use std::sync::Mutex;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use model::{Object, ObjectKey, PortStatus, Standard};
use rustc_hash::FxHashMap;

/// Bytes of encoded objects that are kept for the next node that needs them; beyond that all are encoded anew when needed.
const CACHE_BYTES_MAX: usize = 32 << 20;

/// The object as nodes see it.
pub fn shown(object: &Object) -> Object {
    let mut object = object.clone();
    if let Some(standard) = bookkeeping(&mut object) {
        *standard = Standard::default();
    }
    match &mut object {
        Object::Port(port) => port.status = PortStatus::default(),
        Object::Node(node) => node.stream = None,
        _ => {}
    }
    object
}

fn bookkeeping(object: &mut Object) -> Option<&mut Standard> {
    match object {
        Object::Network(object) => Some(&mut object.standard),
        Object::Subnet(object) => Some(&mut object.standard),
        Object::Router(object) => Some(&mut object.standard),
        Object::SecurityGroup(object) => Some(&mut object.standard),
        Object::Rule(object) => Some(&mut object.standard),
        Object::Port(object) => Some(&mut object.standard),
        Object::LoadBalancer(object) => Some(&mut object.standard),
        Object::Listener(object) => Some(&mut object.standard),
        Object::Pool(object) => Some(&mut object.standard),
        Object::Member(object) => Some(&mut object.standard),
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
    objects: FxHashMap<ObjectKey, (Arc<Object>, Bytes)>,
    bytes: usize,
}

impl Encoder {
    /// The object on the wire.
    pub fn encode(&self, object: &Arc<Object>) -> Bytes {
        let key = object.key();
        if let Some((known, bytes)) = self.lock().objects.get(&key)
            && Arc::ptr_eq(known, object)
        {
            return bytes.clone();
        }
        let bytes = stream::wire::object_bytes(&shown(object));
        self.lock().keep(key, object.clone(), bytes.clone());
        bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    fn keep(&mut self, key: ObjectKey, object: Arc<Object>, bytes: Bytes) {
        if self.bytes + bytes.len() > CACHE_BYTES_MAX {
            *self = Cache::default();
        }
        self.bytes += bytes.len();
        if let Some((_, old)) = self.objects.insert(key, (object, bytes)) {
            self.bytes -= old.len();
        }
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
        let large = |n: u32| Arc::new(Object::from(Port { name: "x".repeat(LARGE), ..vm(n, 1, 1) }));
        let (encoder, first) = (Encoder::default(), large(1));
        let bytes = encoder.encode(&first);
        for n in 2..2 * (CACHE_BYTES_MAX / LARGE) as u32 {
            encoder.encode(&large(n));
            let cache = encoder.lock();
            assert_eq!(cache.bytes, cache.objects.values().map(|(_, bytes)| bytes.len()).sum::<usize>());
            assert!(cache.bytes > 0 && cache.bytes <= CACHE_BYTES_MAX, "{} bytes are kept", cache.bytes);
        }
        assert!(!encoder.lock().objects.contains_key(&first.key()));
        assert_eq!(encoder.encode(&first), bytes);
    }
}
