//! `ladon-idempotent-create`: a create that may be sent twice and makes one object.
//!
//! The request header `Idempotency-Key: <uuid>` decides the new object's id, so a client that derives its key from what the
//! object is for (UUID version 5 of a pod's uid, say) can repeat a request whose answer was lost, and two replicas of the
//! client make one object between them. The repeated request answers 200 with the object as it is now. A bulk request names
//! one key per object, in their order, separated by commas.
//!
//! An administrator's key *is* the new object's id. Anybody else's names an object within their project: its id follows from
//! the project and the key, so that nobody can take an id that is another project's, now, before or later.

use std::collections::BTreeSet;

use axum::http::HeaderMap;
use uuid::Uuid;

use crate::auth::Caller;

/// The request header.
const HEADER: &str = "idempotency-key";

/// Names the ids that follow from a project and its key among all UUIDs of version 5.
const KEY_NAMESPACE: Uuid = Uuid::from_u128(0x6c61_646f_6e00_5000_8000_6964_656d_706f);

/// A header that is none, or that does not fit its request: 400.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("Idempotency-Key must be {0}")]
pub struct BadKey(String);

/// The keys of a request; None without the header.
pub fn keys(headers: &HeaderMap) -> Result<Option<Vec<Uuid>>, BadKey> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let key = |text: &str| Uuid::parse_str(text.trim()).ok().filter(|key| !key.is_nil());
    let keys: Option<Vec<Uuid>> = value.to_str().ok().and_then(|text| text.split(',').map(key).collect());
    let keys = keys.ok_or_else(|| BadKey("a UUID that is not nil, or in a bulk request one per object, separated by commas".into()))?;
    let distinct: BTreeSet<&Uuid> = keys.iter().collect();
    if distinct.len() == keys.len() { Ok(Some(keys)) } else { Err(BadKey("a different UUID for each object".into())) }
}

/// The ids of the objects that a request makes.
pub fn ids(keys: Option<Vec<Uuid>>, count: usize, caller: &Caller) -> Result<Vec<Uuid>, BadKey> {
    match keys {
        None => Ok(std::iter::repeat_with(Uuid::new_v4).take(count).collect()),
        Some(keys) if keys.len() == count => Ok(keys.into_iter().map(|key| id(key, caller)).collect()),
        Some(keys) => Err(BadKey(format!("one UUID per object: {count} objects, {} keys", keys.len()))),
    }
}

/// The id that a key stands for. The key comes first, with its fixed length: no two pairs of key and project read the same.
fn id(key: Uuid, caller: &Caller) -> Uuid {
    if caller.is_admin { key } else { Uuid::new_v5(&KEY_NAMESPACE, format!("{key}/{}", caller.project.0).as_bytes()) }
}

/// What is said of a key that stands for another object: 409.
pub fn is_taken(what: &str, id: Uuid) -> String {
    format!(
        "Idempotency-Key {id}: a {what} with this id exists already and differs from this request in its project or in what it \
         belongs to. Nothing was made. Use another key."
    )
}
