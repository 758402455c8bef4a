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
use model::ProjectId;
use uuid::Uuid;

use crate::auth::Caller;
use crate::state::{Owned, State};

use super::error::ApiError;
use super::fields::Fields;
use super::resource::{self, Resource};

/// The request header.
pub const HEADER: &str = "idempotency-key";

/// Names the ids that follow from a project and its key among all UUIDs of version 5.
const KEY_NAMESPACE: Uuid = Uuid::from_u128(0x6c61_646f_6e00_5000_8000_6964_656d_706f);

/// The keys of a request; None without the header.
pub fn keys(headers: &HeaderMap) -> Result<Option<Vec<Uuid>>, ApiError> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let key = |text: &str| Uuid::parse_str(text.trim()).ok().filter(|key| !key.is_nil());
    let keys: Option<Vec<Uuid>> = value.to_str().ok().and_then(|text| text.split(',').map(key).collect());
    let keys = keys.ok_or_else(|| refusal("a UUID that is not nil, or in a bulk request one per object, separated by commas"))?;
    let distinct: BTreeSet<&Uuid> = keys.iter().collect();
    if distinct.len() == keys.len() { Ok(Some(keys)) } else { Err(refusal("a different UUID for each object")) }
}

fn refusal(what: &str) -> ApiError {
    ApiError::bad_request(format!("Idempotency-Key must be {what}"))
}

/// The ids of the objects that a request makes.
pub fn ids(keys: Option<Vec<Uuid>>, count: usize, caller: &Caller) -> Result<Vec<Uuid>, ApiError> {
    match keys {
        None => Ok(std::iter::repeat_with(Uuid::new_v4).take(count).collect()),
        Some(keys) if keys.len() == count => Ok(keys.into_iter().map(|key| id(key, caller)).collect()),
        Some(keys) => Err(refusal(&format!("one UUID per object: {count} objects, {} keys", keys.len()))),
    }
}

/// The id that a key stands for. The key comes first, with its fixed length: no two pairs of key and project read the same.
fn id(key: Uuid, caller: &Caller) -> Uuid {
    if caller.is_admin { key } else { Uuid::new_v5(&KEY_NAMESPACE, format!("{key}/{}", caller.project.0).as_bytes()) }
}

/// Refuses a key that stands for another object.
pub fn same<R: Resource>(state: &State, old: &R::Model, fields: &Fields, project: &ProjectId, caller: &Caller) -> Result<(), ApiError> {
    let is_same = resource::may_see::<R>(state, old, caller) && old.project() == project && R::is_same(old, fields);
    if is_same {
        return Ok(());
    }
    let message = format!(
        "Idempotency-Key {}: a {} with this id exists already and differs from this request in its project or in what it \
         belongs to. Nothing was made. Use another key.",
        old.id(),
        R::NAME.replace('_', " ")
    );
    Err(ApiError::conflict("IdempotencyKeyConflict", message))
}
