//! Octavia's load-balancing API v2, with one provider: `ladon`.
//!
//! A request is checked by its resource's table (`body`), becomes a closure on the writer, and is answered when the change
//! is durable; from then on nodes get it without anybody's help, so that everything is `ACTIVE` at once and nothing is ever
//! immutable. Load balancing is done in the datapath by connections: TCP and UDP listeners, pools and members. What needs a
//! proxy (HTTP, TLS, L7 rules) or a prober (health monitors) is refused with 501 and by name, as Octavia's other providers
//! refuse what they cannot do; statistics too, since zeros would be a lie.
//!
//! Served under `/v2.0/lbaas`, `/v2/lbaas` and the same below `/load-balancer`.

mod balancer;
mod body;
mod error;
mod fixed;
mod list;
mod listener;
mod member;
mod pool;
mod show;
mod vip;

use axum::body::Bytes;
use axum::extract::{Extension, OriginalUri, Path, Query as UrlQuery, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use model::{Kind, Listener, LoadBalancer, Member, MemberId, ObjectKey, Pool, PoolId};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::auth::Caller;
use crate::http::{LIST_IS_SHORT, Lists};
use crate::idempotent;
use crate::state::{Owned, State};
use crate::{Core, Tx};
pub use body::TEXT_MAX;
use body::{Fields, Table};
pub use error::Fault;
use list::Query;
pub use member::{MEMBERS_MAX, WEIGHT_MAX};
use show::Shown;

/// The one provider of load balancers.
pub const PROVIDER: &str = "ladon";
/// Where the API is served.
const PREFIXES: [&str; 4] = ["/v2.0/lbaas", "/v2/lbaas", "/load-balancer/v2.0/lbaas", "/load-balancer/v2/lbaas"];

/// True if the path is one of Octavia's.
pub fn is_path(path: &str) -> bool {
    ["/load-balancer", "/v2.0/lbaas", "/v2/lbaas"].iter().any(|prefix| path.starts_with(prefix))
}

/// Octavia's routes. They expect a [`Caller`] in the request's extensions.
pub fn routes(core: Core) -> Router {
    let api: Router<Core> = Router::new()
        .merge(resource::<LoadBalancer>())
        .merge(resource::<Listener>())
        .merge(resource::<Pool>())
        .route("/loadbalancers/{id}/status", get(status_tree))
        .route("/loadbalancers/{id}/statuses", get(status_tree))
        .route("/pools/{pool}/members", get(list_members).post(create_member).put(replace_members))
        .route("/pools/{pool}/members/{id}", get(show_member).put(update_member).delete(delete_member))
        .merge(fixed::routes())
        .layer(Extension(Lists::default()));
    let api = PREFIXES.iter().fold(Router::new(), |all, prefix| all.nest(prefix, api.clone()));
    api.route("/load-balancer", get(fixed::versions)).route("/load-balancer/", get(fixed::versions)).with_state(core)
}

/// A write in progress: the transaction, and for whom.
pub(super) struct Ask<'a, 'tx> {
    tx: &'a mut Tx<'tx>,
    caller: &'a Caller,
}

impl Ask<'_, '_> {
    /// The object, if it exists and the caller may use it.
    fn find<R: Resource>(&self, id: Uuid) -> Result<R, Fault> {
        find::<R>(self.tx.state(), self.caller, id).cloned()
    }
}

fn find<'a, R: Resource>(state: &'a State, caller: &Caller, id: Uuid) -> Result<&'a R, Fault> {
    let found = state.get::<R>(id).ok_or_else(|| Fault::not_found(R::WHAT, id))?;
    if caller.may_see(found.project()) { Ok(found) } else { Err(Fault::forbidden()) }
}

/// What is different from resource to resource.
trait Resource: Owned + Clone + Send {
    /// In JSON.
    const NAME: &'static str;
    /// In JSON and in paths.
    const COLLECTION: &'static str;
    /// In messages.
    const WHAT: &'static str;
    const TABLE: &'static Table;

    fn show(state: &State, it: &Self) -> Shown;
    /// The answer to the request that made it.
    fn show_new(state: &State, it: &Self) -> Shown {
        Self::show(state, it)
    }
    /// Makes one with this id.
    fn create(ask: &mut Ask, id: Uuid, fields: &Fields) -> Result<(), Fault>;
    /// True if the request is for this one, and its key was not used for something else.
    fn is_same(it: &Self, fields: &Fields, caller: &Caller) -> bool;
    fn update(ask: &mut Ask, it: Self, fields: &Fields) -> Result<(), Fault>;
    fn delete(ask: &mut Ask, it: Self, query: &Query) -> Result<(), Fault>;
}

type Pairs = UrlQuery<Vec<(String, String)>>;

fn resource<R: Resource>() -> Router<Core> {
    let collection = format!("/{}", R::COLLECTION);
    Router::new()
        .route(&collection, get(list::<R>).post(create::<R>))
        .route(&format!("{collection}/{{id}}"), get(show::<R>).put(update::<R>).delete(delete::<R>))
}

fn parse(what: &str, id: &str) -> Result<Uuid, Fault> {
    Uuid::parse_str(id).map_err(|_| Fault::not_found(what, id))
}

fn wrapped(name: &str, shown: Shown) -> Json<Value> {
    Json(json!({ name: shown }))
}

async fn list<R: Resource>(
    Shared(core): Shared<Core>,
    Extension(lists): Extension<Lists>,
    Extension(caller): Extension<Caller>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    UrlQuery(pairs): Pairs,
) -> Result<Response, Fault> {
    let (query, base) = (Query::new(pairs), list::base(&headers, &uri));
    let is_of_many = core.state().all::<R>().nth(LIST_IS_SHORT).is_some();
    let answer = move || {
        let state = core.state();
        let all = state.all::<R>().filter(|it| caller.may_see(it.project())).map(|it| R::show(&state, it));
        answer_list(R::COLLECTION, all.collect(), &query, &base)
    };
    lists.make(is_of_many, || true, answer).await
}

fn answer_list(collection: &str, all: Vec<Shown>, query: &Query, base: &str) -> Result<Response, Fault> {
    let (page, links) = query.page(all, base)?;
    Ok(Json(json!({ collection: page, format!("{collection}_links"): links })).into_response())
}

async fn show<R: Resource>(
    Shared(core): Shared<Core>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    UrlQuery(pairs): Pairs,
) -> Result<Json<Value>, Fault> {
    let state = core.state();
    let it = find::<R>(&state, &caller, parse(R::WHAT, &id)?)?;
    Ok(wrapped(R::NAME, Query::new(pairs).fields(R::show(&state, it))))
}

async fn create<R: Resource>(
    Shared(core): Shared<Core>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Fault> {
    let keys = idempotent::keys(&headers)?;
    let has_key = keys.is_some();
    let fields = R::TABLE.for_create(body::unwrap(&body, R::NAME)?)?;
    let id = idempotent::ids(keys, 1, &caller)?[0];
    let make = move |tx: &mut Tx| {
        let status = create_or_find::<R>(&mut Ask { tx: &mut *tx, caller: &caller }, id, &fields, has_key)?;
        let it = tx.state().get::<R>(id).ok_or_else(|| Fault::not_found(R::WHAT, id))?;
        Ok::<_, Fault>((status, R::show_new(tx.state(), it)))
    };
    let (status, shown) = core.write(make).await?.value;
    Ok((status, wrapped(R::NAME, shown)).into_response())
}

/// Makes it; with a key, what the same request made before is answered again.
fn create_or_find<R: Resource>(ask: &mut Ask, id: Uuid, fields: &Fields, has_key: bool) -> Result<StatusCode, Fault> {
    match ask.tx.state().get::<R>(id).filter(|_| has_key) {
        None => R::create(ask, id, fields).map(|()| StatusCode::CREATED),
        Some(old) if ask.caller.may_see(old.project()) && R::is_same(old, fields, ask.caller) => Ok(StatusCode::OK),
        Some(_) => Err(Fault::conflict(idempotent::is_taken(&R::WHAT.to_lowercase(), id))),
    }
}

async fn update<R: Resource>(
    Shared(core): Shared<Core>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Fault> {
    let id = parse(R::WHAT, &id)?;
    let fields = R::TABLE.for_update(body::unwrap(&body, R::NAME)?)?;
    let change = move |tx: &mut Tx| {
        let mut ask = Ask { tx: &mut *tx, caller: &caller };
        let it = ask.find::<R>(id)?;
        R::update(&mut ask, it, &fields)?;
        let it = find::<R>(tx.state(), &caller, id)?;
        Ok::<_, Fault>(R::show(tx.state(), it))
    };
    Ok(wrapped(R::NAME, core.write(change).await?.value))
}

async fn delete<R: Resource>(
    Shared(core): Shared<Core>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    UrlQuery(pairs): Pairs,
) -> Result<StatusCode, Fault> {
    let (id, query) = (parse(R::WHAT, &id)?, Query::new(pairs));
    let remove = move |tx: &mut Tx| {
        let mut ask = Ask { tx, caller: &caller };
        let it = ask.find::<R>(id)?;
        R::delete(&mut ask, it, &query)
    };
    core.write(remove).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn status_tree(
    Shared(core): Shared<Core>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Fault> {
    let state = core.state();
    let it = find::<LoadBalancer>(&state, &caller, parse(LoadBalancer::WHAT, &id)?)?;
    Ok(Json(show::statuses(&state, it)))
}

async fn list_members(
    Shared(core): Shared<Core>,
    Extension(lists): Extension<Lists>,
    Extension(caller): Extension<Caller>,
    Path(pool): Path<String>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    UrlQuery(pairs): Pairs,
) -> Result<Response, Fault> {
    let (query, base) = (Query::new(pairs), list::base(&headers, &uri));
    let pool = parse(Pool::WHAT, &pool)?;
    let is_of_many = core.state().members_of(PoolId(pool)).nth(LIST_IS_SHORT).is_some();
    let answer = move || {
        let state = core.state();
        let pool = find::<Pool>(&state, &caller, pool)?;
        let all = state.members_of(pool.id).map(|it| show::member(&state, it)).collect();
        answer_list("members", all, &query, &base)
    };
    lists.make(is_of_many, || true, answer).await
}

async fn show_member(
    Shared(core): Shared<Core>,
    Extension(caller): Extension<Caller>,
    Path((pool, id)): Path<(String, String)>,
    UrlQuery(pairs): Pairs,
) -> Result<Json<Value>, Fault> {
    let state = core.state();
    let pool = find::<Pool>(&state, &caller, parse(Pool::WHAT, &pool)?)?;
    let found = state.member(MemberId(parse("Member", &id)?)).filter(|member| member.pool == pool.id);
    let it = found.ok_or_else(|| Fault::not_found("Member", &id))?;
    Ok(wrapped("member", Query::new(pairs).fields(show::member(&state, it))))
}

async fn create_member(
    Shared(core): Shared<Core>,
    Extension(caller): Extension<Caller>,
    Path(pool): Path<String>,
    body: Bytes,
) -> Result<Response, Fault> {
    let pool = parse(Pool::WHAT, &pool)?;
    let value = body::unwrap(&body, "member")?;
    let make = move |tx: &mut Tx| {
        let mut ask = Ask { tx: &mut *tx, caller: &caller };
        let pool = ask.find::<Pool>(pool)?;
        let id = member::create_in(&mut ask, &pool, value.clone())?;
        member_shown(tx.state(), id)
    };
    let shown = core.write(make).await?.value;
    Ok((StatusCode::CREATED, wrapped("member", shown)).into_response())
}

fn member_shown(state: &State, id: MemberId) -> Result<Shown, Fault> {
    let it: &Member = state.member(id).ok_or_else(|| Fault::not_found("Member", id))?;
    Ok(show::member(state, it))
}

async fn update_member(
    Shared(core): Shared<Core>,
    Extension(caller): Extension<Caller>,
    Path((pool, id)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Value>, Fault> {
    let (pool, id) = (parse(Pool::WHAT, &pool)?, MemberId(parse("Member", &id)?));
    let fields = member::TABLE.for_update(body::unwrap(&body, "member")?)?;
    let change = move |tx: &mut Tx| {
        let mut ask = Ask { tx: &mut *tx, caller: &caller };
        let pool = ask.find::<Pool>(pool)?;
        let it = member::find(&ask, pool.id, id)?;
        member::update(&mut ask, it, &fields)?;
        member_shown(tx.state(), id)
    };
    Ok(wrapped("member", core.write(change).await?.value))
}

async fn delete_member(
    Shared(core): Shared<Core>,
    Extension(caller): Extension<Caller>,
    Path((pool, id)): Path<(String, String)>,
) -> Result<StatusCode, Fault> {
    let (pool, id) = (PoolId(parse(Pool::WHAT, &pool)?), MemberId(parse("Member", &id)?));
    let remove = move |tx: &mut Tx| {
        let ask = Ask { tx: &mut *tx, caller: &caller };
        let it = member::find(&ask, ask.find::<Pool>(pool.0)?.id, id)?;
        tx.delete(ObjectKey::new(Kind::Member, it.id));
        Ok::<(), Fault>(())
    };
    core.write(remove).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn replace_members(
    Shared(core): Shared<Core>,
    Extension(caller): Extension<Caller>,
    Path(pool): Path<String>,
    UrlQuery(pairs): Pairs,
    body: Bytes,
) -> Result<StatusCode, Fault> {
    let pool = parse(Pool::WHAT, &pool)?;
    let members = body::unwrap(&body, "members")?;
    let Value::Array(members) = members else { return Err(Fault::invalid("members", &members, "Value should be a list")) };
    let is_additive = Query::new(pairs).flag("additive_only");
    let replace = move |tx: &mut Tx| {
        let mut ask = Ask { tx, caller: &caller };
        let pool = ask.find::<Pool>(pool)?;
        member::replace(&mut ask, &pool, &members, is_additive)
    };
    core.write(replace).await?;
    Ok(StatusCode::ACCEPTED)
}
