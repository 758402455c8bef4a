//! `ladon-idempotent-create`: a create that may be sent twice and makes one object.
//!
//! The request header `Idempotency-Key: <uuid>` chooses the new object's id, so a client that derives its key from what the
//! object is for (UUID version 5 of a pod's uid, say) can repeat a request whose answer was lost, and two replicas of the
//! client make one object between them. The repeated request answers 200 with the object as it is now. The second object of
//! a bulk request has the id that follows from the key and its place in the request, and so on.

use axum::http::HeaderMap;
use model::ProjectId;
use uuid::Uuid;

use crate::auth::Caller;
use crate::state::State;

use super::error::ApiError;
use super::fields::Fields;
use super::resource::{self, Resource};

/// The request header.
pub const HEADER: &str = "idempotency-key";

/// The key of a request, if it has one.
pub fn key(headers: &HeaderMap) -> Result<Option<Uuid>, ApiError> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let key = value.to_str().ok().and_then(|text| Uuid::parse_str(text.trim()).ok()).filter(|key| !key.is_nil());
    key.map(Some).ok_or_else(|| ApiError::bad_request("Idempotency-Key must be a UUID, and not the nil UUID"))
}

/// The ids of the objects that a request makes.
pub fn ids(key: Option<Uuid>, count: usize, is_bulk: bool) -> Vec<Uuid> {
    let id = |index: usize| match key {
        None => Uuid::new_v4(),
        Some(key) if !is_bulk || index == 0 => key,
        Some(key) => Uuid::new_v5(&key, index.to_string().as_bytes()),
    };
    (0..count).map(id).collect()
}

/// Refuses a key that stands for another object.
pub fn same<R: Resource>(
    state: &State,
    old: &R::Model,
    fields: &Fields,
    project: &ProjectId,
    caller: &Caller,
) -> Result<(), ApiError> {
    let is_same = resource::may_see::<R>(state, old, caller) && R::project(old) == project && R::is_same(old, fields);
    if is_same {
        return Ok(());
    }
    let message = format!(
        "Idempotency-Key {}: a {} with this id exists already and differs from this request in its project or in what it \
         belongs to. Nothing was made. Use another key.",
        R::id(old),
        R::NAME.replace('_', " ")
    );
    Err(ApiError::conflict("IdempotencyKeyConflict", message))
}
