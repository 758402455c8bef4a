//! The handlers that all resources share: list, show, create (one or many), update, delete.
//!
//! A handler checks the request, hands one closure to the writer and shows what came of it. It knows no rule of any
//! resource; those live with the resource.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State as Shared};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use model::ProjectId;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::auth::Caller;
use crate::http::{LIST_IS_SHORT, Lists, base};
use crate::idempotent;
use crate::state::{Owned, State};
use crate::views::Claims;
use crate::writer::Core;

use super::body::{self, Body};
use super::error::ApiError;
use super::fields::Fields;
use super::query::Query;
use super::resource::{self, Ask, Resource, Settings};

/// What every handler needs.
#[derive(Clone)]
pub struct Neutron {
    pub core: Core,
    pub settings: Settings,
    pub claims: Claims,
    pub lists: Lists,
}

impl Neutron {
    /// Runs a rule in a transaction, and answers with the state in which its effects are.
    pub async fn write<T: Send + 'static>(
        &self,
        caller: Caller,
        mut rule: impl FnMut(&mut Ask) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<(T, Arc<State>), ApiError> {
        let settings = self.settings;
        let written = self.core.write(move |tx| rule(&mut Ask { tx, caller: &caller, settings })).await?;
        Ok((written.value, self.core.state()))
    }

    fn shown<R: Resource>(&self, state: &State, model: &R::Model, caller: &Caller) -> Map<String, Value> {
        let mut shown = resource::shown::<R>(state, model, caller, self.settings);
        if caller.is_admin {
            shown.append(&mut R::show_claims(model, &self.claims));
        }
        shown
    }
}

/// The paths of a resource.
pub fn routes<R: Resource>() -> axum::Router<Neutron> {
    let collection = format!("/v2.0/{}", R::PATH);
    let one = format!("{collection}/{{id}}");
    axum::Router::new()
        .route(&collection, get(list::<R>).post(create::<R>))
        .route(&one, get(show::<R>).put(update::<R>).delete(delete::<R>))
}

async fn list<R: Resource>(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query = Query::parse(&uri, R::TABLE)?;
    super::security_group::ensure_for_list::<R>(&neutron, &caller).await?;
    let state = neutron.core.state();
    if let Some(marker) = query.marker.as_deref().filter(|_| query.limit.is_some()) {
        resource::visible::<R>(&state, marker, &caller)?;
    }
    let path = format!("{}/v2.0/{}", base(&headers), R::PATH);
    let is_of_many = R::candidates(&state, &query).nth(LIST_IS_SHORT).is_some();
    drop(state);
    let list = Arc::new(List { neutron, caller, query, path });
    let (long, lists) = (list.clone(), list.neutron.lists.clone());
    Ok(lists.make(is_of_many, move || long.is_long::<R>(), move || list.answer::<R>()).await)
}

/// A list that somebody asks for.
struct List {
    neutron: Neutron,
    caller: Caller,
    query: Query,
    path: String,
}

impl List {
    /// Objects that pass what can be told of them for little, in the order of their ids: those of which the page is made.
    fn likely<'a, R: Resource>(&'a self, state: &'a State) -> impl Iterator<Item = &'a R::Model> {
        let behind = self.query.in_order().and_then(|(marker, _)| marker);
        let is_behind = move |model: &&R::Model| behind.is_none_or(|marker| model.id() > marker);
        let seen = R::candidates(state, &self.query).filter(is_behind).filter(|model| resource::may_see::<R>(state, model, &self.caller));
        seen.filter(|model| self.query.may_match(|name| resource::shown_attribute::<R>(model, name)))
    }

    fn is_long<R: Resource>(&self) -> bool {
        let is_short_page = self.query.filters.is_empty() && self.query.in_order().is_some_and(|(_, limit)| limit <= LIST_IS_SHORT);
        !is_short_page && self.likely::<R>(&self.neutron.core.state()).nth(LIST_IS_SHORT).is_some()
    }

    fn answer<R: Resource>(&self) -> Response {
        let List { neutron, caller, query, path } = self;
        let state = neutron.core.state();
        let shown = self.likely::<R>(&state).map(|model| neutron.shown::<R>(&state, model, caller)).filter(|shown| query.matches(shown));
        let most = query.in_order().map_or(usize::MAX, |(_, limit)| limit);
        let page = query.page(shown.take(most).collect());
        let mut answer = Map::new();
        if let Some(links) = query.links(path, &page) {
            answer.insert(format!("{}_links", R::COLLECTION), links);
        }
        answer.insert(R::COLLECTION.to_string(), page.into_iter().map(|shown| query.project(shown)).collect());
        Json(Value::Object(answer)).into_response()
    }
}

async fn show<R: Resource>(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query = Query::of_fields(&uri);
    let state = neutron.core.state();
    let model = resource::visible::<R>(&state, &id, &caller)?;
    Ok(Json(json!({R::NAME: query.project(neutron.shown::<R>(&state, model, &caller))})).into_response())
}

async fn create<R: Resource>(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let keys = idempotent::keys(&headers)?;
    let has_keys = keys.is_some();
    let body = body::for_create(&body, resource::shape::<R>(), &caller)?;
    let (many, is_bulk) = match body {
        Body::One(fields) => (vec![fields], false),
        Body::Many(many) => (many, true),
    };
    let ids = idempotent::ids(keys, many.len(), &caller)?;
    let asks: Arc<[(Fields, Uuid)]> = many.into_iter().zip(ids).collect();
    let (made, state) = neutron.write(caller.clone(), move |ask| create_all::<R>(ask, &asks, has_keys)).await?;
    let is_old = made.iter().all(|(_, is_new)| !is_new);
    let mut shown: Vec<_> = made.iter().map(|(model, _)| neutron.shown::<R>(&state, model, &caller)).collect();
    let status = if is_old { StatusCode::OK } else { StatusCode::CREATED };
    let answer = if is_bulk { json!({R::COLLECTION: shown}) } else { json!({R::NAME: shown.pop()}) };
    Ok((status, Json(answer)).into_response())
}

/// Makes all of them or none. With keys, those that the same request made before are answered again.
fn create_all<R: Resource>(ask: &mut Ask, asks: &[(Fields, Uuid)], has_keys: bool) -> Result<Vec<(R::Model, bool)>, ApiError> {
    let make = |(fields, id): &(Fields, Uuid)| {
        let project = body::project(fields, ask.caller);
        let old = ask.state().get::<R::Model>(*id).filter(|_| has_keys).cloned();
        if let Some(old) = old {
            check_same::<R>(ask, &old, fields, &project)?;
            return Ok((old, false));
        }
        let model = R::create(ask, *id, project, fields)?;
        ask.tx.put(model.clone());
        Ok((model, true))
    };
    asks.iter().map(make).collect()
}

/// Refuses a key that stands for another object.
fn check_same<R: Resource>(ask: &Ask, old: &R::Model, fields: &Fields, project: &ProjectId) -> Result<(), ApiError> {
    let is_same = resource::may_see::<R>(ask.state(), old, ask.caller) && old.project() == project && R::is_same(old, fields);
    if is_same {
        return Ok(());
    }
    Err(ApiError::conflict("IdempotencyKeyConflict", idempotent::is_taken(&R::NAME.replace('_', " "), old.id())))
}

async fn update<R: Resource>(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let revision = if_match(&headers)?;
    let fields = match body::for_update(&body, resource::shape::<R>(), &caller) {
        Ok(fields) => fields,
        // An object that the caller does not see has no attributes to complain about. Another server may have made it just now.
        Err(bad) => {
            neutron.write(caller, move |ask| resource::visible::<R>(ask.state(), &id, ask.caller).map(drop)).await?;
            return Err(bad);
        }
    };
    let rule = move |ask: &mut Ask| {
        let before = own::<R>(ask, &id, "update")?;
        constrain::<R>(&before, revision)?;
        let mut after = before.clone();
        R::update(ask, &mut after, &fields)?;
        if after != before {
            ask.touch(after.standard_mut());
            ask.tx.put(after.clone());
        }
        Ok(after)
    };
    let (model, state) = neutron.write(caller.clone(), rule).await?;
    Ok(Json(json!({R::NAME: neutron.shown::<R>(&state, &model, &caller)})).into_response())
}

async fn delete<R: Resource>(
    Shared(neutron): Shared<Neutron>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let revision = if_match(&headers)?;
    let rule = move |ask: &mut Ask| {
        let model = own::<R>(ask, &id, "delete")?;
        constrain::<R>(&model, revision)?;
        R::delete(ask, &model)?;
        ask.tx.delete(resource::key::<R>(model.id()));
        Ok(())
    };
    neutron.write(caller, rule).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The object that the caller sees and may change.
pub fn own<R: Resource>(ask: &Ask, id: &str, verb: &str) -> Result<R::Model, ApiError> {
    let model = resource::visible::<R>(ask.state(), id, ask.caller)?;
    let is_own = ask.caller.may_see(model.project()) || (verb == "delete" && R::is_deletable(ask.state(), model, ask.caller));
    if is_own { Ok(model.clone()) } else { Err(ApiError::forbidden(format!("rule:{verb}_{}", R::NAME))) }
}

/// The revision that `If-Match: revision_number=N` asks for.
pub fn if_match(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let revision = value.to_str().ok().and_then(|text| text.trim().strip_prefix("revision_number="));
    let revision = revision.and_then(|text| text.parse().ok());
    revision.map(Some).ok_or_else(|| ApiError::bad_request("If-Match takes the form revision_number=N"))
}

fn constrain<R: Resource>(model: &R::Model, revision: Option<u64>) -> Result<(), ApiError> {
    let current = model.standard().revision_number;
    match revision {
        Some(expected) if expected != current => Err(ApiError::precondition(expected, current)),
        _ => Ok(()),
    }
}
