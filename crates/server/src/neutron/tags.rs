//! `standard-attr-tag`: the tags of an object as a resource of their own.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use crate::auth::Caller;
use crate::state::Owned;

use super::body;
use super::check::Refusal;
use super::check_list;
use super::error::ApiError;
use super::handlers::{self, Neutron};
use super::resource::{self, Ask, Resource};

/// Longest tag, in characters.
pub const TAG_MAX: usize = 255;
/// Most tags of one object.
pub const TAGS_MAX: usize = 50;

/// The paths of the tags of one resource.
pub fn routes<R: Resource>() -> axum::Router<Neutron> {
    let all = format!("/v2.0/{}/{{id}}/tags", R::PATH);
    let one = format!("{all}/{{tag}}");
    axum::Router::new()
        .route(&all, get(list::<R>).put(replace::<R>).post(add_many::<R>).delete(clear::<R>))
        .route(&one, get(has::<R>).put(add::<R>).delete(remove::<R>))
}

fn missing<R: Resource>(id: &str) -> ApiError {
    ApiError::not_found("TagResourceNotFound", format!("Resource {} {id} could not be found.", R::COLLECTION))
}

fn tag_not_found(tag: &str) -> ApiError {
    ApiError::not_found("TagNotFound", format!("Tag {tag} could not be found."))
}

fn tags_of<R: Resource>(neutron: &Neutron, id: &str, caller: &Caller) -> Result<Vec<String>, ApiError> {
    let state = neutron.core.state();
    let model = resource::visible::<R>(&state, id, caller).map_err(|_| missing::<R>(id))?;
    Ok(model.standard().tags.clone())
}

async fn list<R: Resource>(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    Ok(Json(json!({"tags": tags_of::<R>(&neutron, &id, &caller)?})).into_response())
}

async fn has<R: Resource>(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path((id, tag)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let is_there = tags_of::<R>(&neutron, &id, &caller)?.contains(&tag);
    if is_there { Ok(StatusCode::NO_CONTENT.into_response()) } else { Err(tag_not_found(&tag)) }
}

/// The tags in a body.
fn said(body: Bytes) -> Result<Vec<String>, ApiError> {
    let mut map = body::dictionary(&body)?;
    let tags = map.remove("tags").ok_or_else(|| ApiError::invalid_input("Invalid tags body"))?;
    let tags = check_list::words(tags, TAG_MAX).map_err(|refusal| match refusal {
        Refusal::Reason(reason) => ApiError::invalid_input(reason),
        Refusal::Whole(error) => error,
    })?;
    Ok(tags.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect())
}

/// Changes the tags of an object, which counts as a change of the object.
async fn change<R: Resource>(
    neutron: &Neutron,
    caller: Caller,
    id: String,
    change: impl Fn(&mut Vec<String>) -> Result<(), ApiError> + Send + 'static,
) -> Result<Vec<String>, ApiError> {
    let rule = move |ask: &mut Ask| {
        let mut model = handlers::own::<R>(ask, &id, "update").map_err(|error| match error.status {
            StatusCode::NOT_FOUND => missing::<R>(&id),
            _ => error,
        })?;
        let before = model.standard().tags.clone();
        let mut tags = before.clone();
        change(&mut tags)?;
        if tags.len() > TAGS_MAX {
            let message = format!("Bad {} request: The number of tags exceed the per-resource limit of {TAGS_MAX}.", R::COLLECTION);
            return Err(ApiError::bad("BadRequest", message));
        }
        if tags != before {
            let mut standard = model.standard().clone();
            ask.touch(&mut standard);
            standard.tags = tags.clone();
            *model.standard_mut() = standard;
            ask.tx.put(model);
        }
        Ok(tags)
    };
    Ok(neutron.write(caller, rule).await?.0)
}

async fn replace<R: Resource>(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let wanted = said(body)?;
    let set = move |tags: &mut Vec<String>| {
        *tags = wanted.clone();
        Ok(())
    };
    Ok(Json(json!({"tags": change::<R>(&neutron, caller, id, set).await?})).into_response())
}

fn join(tags: &mut Vec<String>, more: &[String]) {
    let fresh: Vec<String> = more.iter().filter(|tag| !tags.contains(tag)).cloned().collect();
    tags.extend(fresh);
}

async fn add_many<R: Resource>(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let more = said(body)?;
    let answer = json!({"tags": more});
    let add = move |tags: &mut Vec<String>| {
        join(tags, &more);
        Ok(())
    };
    change::<R>(&neutron, caller, id, add).await?;
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

async fn add<R: Resource>(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path((id, tag)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    if tag.chars().count() > TAG_MAX {
        return Err(ApiError::invalid_input(format!("'{tag}' exceeds maximum length of {TAG_MAX}")));
    }
    let add = move |tags: &mut Vec<String>| {
        join(tags, std::slice::from_ref(&tag));
        Ok(())
    };
    change::<R>(&neutron, caller, id, add).await?;
    Ok(StatusCode::CREATED.into_response())
}

async fn remove<R: Resource>(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path((id, tag)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let remove = move |tags: &mut Vec<String>| {
        let at = tags.iter().position(|has| *has == tag).ok_or_else(|| tag_not_found(&tag))?;
        tags.remove(at);
        Ok(())
    };
    change::<R>(&neutron, caller, id, remove).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn clear<R: Resource>(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let clear = |tags: &mut Vec<String>| {
        tags.clear();
        Ok(())
    };
    change::<R>(&neutron, caller, id, clear).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
