//! Objects that several nodes of this process were sent in the same bytes: read once, kept once.
//!
//! On real machines every node reads and keeps its own; here all of them would do so on the processors that the server needs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::Object;
use rustc_hash::{FxBuildHasher, FxHashMap};
use std::hash::BuildHasher;
use stream::wire::{self, WireError};

const PARTS: usize = 64;

/// All of them, in parts, so that nodes seldom wait for each other.
pub struct Shared {
    parts: [Mutex<Part>; PARTS],
}

#[derive(Default)]
struct Part {
    objects: FxHashMap<Box<[u8]>, Arc<Object>>,
    /// When there are so many, those that no node has any more are let go.
    sweep_at: usize,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared { parts: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Shared {
    /// The object that `bytes` are.
    pub fn object(&self, bytes: &[u8]) -> Result<Arc<Object>, WireError> {
        let part = &self.parts[FxBuildHasher.hash_one(bytes) as usize % PARTS];
        if let Some(known) = lock(part).objects.get(bytes) {
            return Ok(known.clone());
        }
        let object = Arc::new(wire::object(bytes)?);
        lock(part).keep(bytes, &object);
        Ok(object)
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| lock(part).objects.len()).sum()
    }
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Part {
    fn keep(&mut self, bytes: &[u8], object: &Arc<Object>) {
        if self.objects.len() >= self.sweep_at {
            self.objects.retain(|_, object| Arc::strong_count(object) > 1);
            self.sweep_at = 2 * self.objects.len() + 64;
        }
        self.objects.insert(bytes.into(), object.clone());
    }
}
