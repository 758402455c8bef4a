//! The operator's questions over HTTP, under `/ladon/v1`: which nodes are there, what ports lack, what is in force.
//!
//! | request | answer |
//! |---|---|
//! | `GET /ladon/v1/nodes` | `{server, revision, nodes: [{name, tunnel_addresses, tunnel, is_connected, since, last_seen, revision_in_force, is_up_to_date, ports, interfaces, problem, elsewhere}]}` |
//! | `DELETE /ladon/v1/nodes/{name}` | 204: what the node claimed is free, and the node is not listed; 409 while it is connected here; 507, 504 and so on as any write |
//! | `GET /ladon/v1/wait?revision=N&timeout=SECS&node=NAME` | `{server, revision, latest, is_in_force, lagging: [{node, revision_in_force, reason}], elsewhere: [{node, server}]}`, at the latest after the timeout |
//! | `GET /ladon/v1/ports?node=NAME&missing=true` | `{ports: [{id, name, network, …, home, status, conflicts, missing}], unknown_interfaces: [{node, iface_id}]}` |
//!
//! A server that shares its store knows the nodes that follow it; of those whose stream leads to another server it says which, and
//! null for what that one knows. As long as there are any with a view, no revision is in force for it: whoever asks puts the servers'
//! answers together (`ladon nodes`, `ladon wait`).
//!
//! Only administrators are answered. A parameter that is not listed here is refused with 400, a node that nobody knows with 404. A server
//! that stops answers who waits with 503. Without `revision`, `wait` waits for the latest one; with `node`, for that node alone.

use std::time::Duration;

use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Extension, Json, Router};
use model::{Node, NodeName, Port, Revision};
use serde::{Deserialize, Serialize};
use serde_json::json;
use stream::wire::Presence;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Views;
use super::owner::{self, Forgotten, Lag, Picture, Question, Standing, Stranger};
use crate::auth::Caller;
use crate::http::{LIST_IS_SHORT, Lists, error_document, write_status};
use crate::writer::{Tx, WriteError};

/// Longest `timeout` of a `wait`, in seconds.
pub const WAIT_SECS_MAX: u64 = 600;
/// `timeout` of a `wait` that names none, in seconds.
const WAIT_SECS: u64 = 30;
/// Nodes acknowledge in crowds: between two looks of a waiter is so much time, or less if looking takes little.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);
/// So many times what a look took, a waiter does not look again.
const LOOK_SELDOM: u32 = 4;

/// True if the path is one of the operator's questions.
pub fn is_path(path: &str) -> bool {
    path.starts_with("/ladon/")
}

/// The operator's questions, until `stop`: one that waits is answered then. The callers' identity is put into the requests by the
/// authentication in front.
pub fn routes(views: Views, stop: CancellationToken) -> Router {
    let lists = Lists::default();
    Router::new()
        .route("/ladon/v1/nodes", get(nodes))
        .route("/ladon/v1/nodes/{name}", delete(forget))
        .route("/ladon/v1/ports", get(ports))
        .route("/ladon/v1/wait", get(wait).layer(Extension(stop)))
        .layer(Extension(lists))
        .with_state(views)
}

/// Why a question is not answered.
enum Problem {
    NotAdmin,
    Stopping,
    Timeout(u64),
    NoNode(NodeName),
    Stranger(NodeName, String),
    Connected(NodeName),
    NotWritten(WriteError),
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Problem::NotAdmin => (StatusCode::FORBIDDEN, "only administrators may ask this".to_string()),
            Problem::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "the server is stopping".to_string()),
            Problem::Timeout(secs) => (StatusCode::BAD_REQUEST, format!("timeout={secs}: give at most {WAIT_SECS_MAX} seconds")),
            Problem::NoNode(node) => (StatusCode::NOT_FOUND, format!("no node named {node} is known")),
            Problem::Stranger(node, problem) => (StatusCode::CONFLICT, format!("node {node}: {problem}")),
            Problem::Connected(node) => {
                (StatusCode::CONFLICT, format!("node {node} is connected and would be there again at once: stop ladon node there first"))
            }
            Problem::NotWritten(error) => (write_status(&error), error.to_string()),
        };
        error_document(status, &message)
    }
}

type Asker = Option<Extension<Caller>>;

fn only_admins(asker: &Asker) -> Result<(), Problem> {
    let is_admin = asker.as_ref().is_some_and(|Extension(caller)| caller.is_admin);
    if is_admin { Ok(()) } else { Err(Problem::NotAdmin) }
}

async fn picture(views: &Views, asker: &Asker) -> Result<Picture, Problem> {
    only_admins(asker)?;
    views.picture().await.ok_or(Problem::Stopping)
}

/// A question that has no parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Serialize)]
struct NodeRow<'a> {
    name: &'a NodeName,
    tunnel_addresses: &'a [std::net::IpAddr],
    tunnel: model::TunnelType,
    /// None, here and below: another server knows.
    is_connected: Option<bool>,
    since: Option<String>,
    last_seen: Option<String>,
    revision_in_force: Option<Revision>,
    /// Everything that concerns it is in force.
    is_up_to_date: Option<bool>,
    /// Ports whose home it is.
    ports: usize,
    /// Interfaces with an iface-id on its switch, as it last said.
    interfaces: Option<usize>,
    /// Why it cannot do what it should, or does not follow this server.
    problem: Option<String>,
    /// The server that it follows, which knows the rest, if it is another one.
    elsewhere: Option<uuid::Uuid>,
}

async fn nodes(
    Shared(views): Shared<Views>,
    Extension(lists): Extension<Lists>,
    asker: Asker,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let picture = picture(&views, &asker).await?;
    let is_of_many = picture.nodes.len() > LIST_IS_SHORT;
    Ok(lists.make(is_of_many, || true, move || picture.answer_nodes()).await)
}

/// For a machine that was taken out: as long as it might come back, it keeps what it claimed.
async fn forget(Shared(views): Shared<Views>, asker: Asker, Path(name): Path<String>, _: Query<Nothing>) -> Result<StatusCode, Problem> {
    only_admins(&asker)?;
    let node = NodeName(name);
    let reports = match views.forget(node.clone()).await.ok_or(Problem::Stopping)? {
        Forgotten::Done(reports) => reports,
        Forgotten::IsConnected => return Err(Problem::Connected(node)),
        Forgotten::IsUnknown => return Err(Problem::NoNode(node)),
    };
    let gone = node.clone();
    let write = move |tx: &mut Tx| Ok::<(), WriteError>(owner::forget(tx, &gone, &reports));
    views.core.write(write).await.map_err(Problem::NotWritten)?;
    tracing::info!("node {node} is forgotten: ports that it had claimed are free");
    Ok(StatusCode::NO_CONTENT)
}

impl Picture {
    fn answer_nodes(&self) -> Response {
        let known = self.state.all::<Node>();
        let strangers = self.strangers.values().map(|stranger| &stranger.facts).filter(|node| self.state.node(&node.name).is_none());
        let mut rows: Vec<NodeRow> = known.chain(strangers).map(|node| self.node_row(node)).collect();
        rows.sort_by_key(|row| row.name);
        Json(json!({ "server": self.server, "revision": self.state.revision(), "nodes": rows })).into_response()
    }

    fn node_row<'a>(&'a self, node: &'a Node) -> NodeRow<'a> {
        let known = self.nodes.get(&node.name);
        let stranger = self.strangers.get(&node.name);
        let elsewhere = known.and_then(|node| node.elsewhere).map(|stream| stream.server);
        let text = |time: Option<jiff::Timestamp>| time.map(|time| time.to_string());
        let is_up_to_date = || known.is_some_and(|node| !node.is_behind);
        NodeRow {
            name: &node.name,
            tunnel_addresses: &node.tunnel_addresses,
            tunnel: node.tunnel,
            is_connected: elsewhere.is_none().then(|| known.is_some_and(|node| node.is_connected)),
            since: text(known.and_then(|node| node.since)),
            last_seen: text(stranger.map(|node| node.last_seen).or(known.and_then(|node| node.last_seen))),
            revision_in_force: elsewhere.is_none().then(|| known.map_or_else(Revision::default, |node| node.in_force)),
            is_up_to_date: elsewhere.is_none().then(is_up_to_date),
            ports: self.state.ports_at(node.name.clone()).count(),
            interfaces: elsewhere.is_none().then(|| self.reports.node(&node.name).map_or(0, |report| report.present.len())),
            problem: stranger.map(Stranger::problem).or_else(|| refusal(self.reports.node(&node.name).map_or(0, |report| report.refused))),
            elsewhere,
        }
    }

    /// What a port lacks to carry traffic: what happened, what it means, what to do.
    fn missing(&self, port: &Port) -> Option<String> {
        if !port.is_admin_up {
            return Some("it is administratively down; its traffic is dropped; set it up (openstack port set --enable)".into());
        }
        if port.is_homeless() {
            return None;
        }
        let Some(home) = port.home() else {
            let id = port.id;
            return Some(format!(
                "no node has its interface; it has no traffic; plug it in with external_ids:iface-id={id}, or bind it to a host"
            ));
        };
        let Some(node) = self.nodes.get(home) else {
            return Some(format!(
                "no node named {home} has ever connected; it has no traffic; start ladon node there, or correct the port's host"
            ));
        };
        if node.elsewhere.is_some() {
            let is_active = port.status == model::PortStatus::Active;
            let what = format!("it is not in force on node {home}; it has no traffic; ask the server that the node follows (ladon --api)");
            return (!is_active).then_some(what);
        }
        let Some(report) = self.reports.node(home) else {
            return Some(format!(
                "node {home} has not reported since this server started; its flows stay as they are; check ladon node there"
            ));
        };
        self.missing_on(port, home, report).or_else(|| {
            let gone = "its flows stay as they are and do not follow changes; check ladon node and its way to the server";
            (!node.is_connected).then(|| format!("node {home} is not connected; {gone}"))
        })
    }

    fn missing_on(&self, port: &Port, home: &NodeName, report: &super::reports::NodeReport) -> Option<String> {
        match report.present.get(&port.id.to_string()) {
            None => Some(format!(
                "its interface is not on the switch of node {home}; it has no traffic; check the pod, virtual machine or plug there"
            )),
            Some(Presence { error, .. }) if !error.is_empty() => {
                Some(format!("the switch of node {home} cannot use its interface: {error}; it has no traffic; see ovs-vsctl show there"))
            }
            Some(Presence { rivals, .. }) if !rivals.is_empty() => Some(format!(
                "several interfaces on node {home} have its iface-id ({rivals}); the one that was made last has its traffic; take the others off the bridge"
            )),
            Some(_) if !report.installed.contains(&port.id) => Some(format!(
                "its flows are not in the switch of node {home} yet; it has no traffic; see ladon wait, and the log of ladon node there"
            )),
            Some(_) => None,
        }
    }
}

impl Stranger {
    fn problem(&self) -> String {
        let store = self.store;
        format!("its view is of store {store}; it forwards with that and takes no changes from here; see \"Another store\" in operate.md")
    }
}

/// What the switch of a node refuses.
fn refusal(refused: u32) -> Option<String> {
    (refused > 0)
        .then(|| format!("its switch refuses {refused} flows or groups; what they are for does not work; see the log of ladon node there"))
}

impl Lag {
    fn reason(&self) -> String {
        let plainly = if self.is_connected { "it has not put the revision in force yet" } else { "it is not connected" };
        refusal(self.refused).filter(|_| self.is_connected).unwrap_or_else(|| plainly.into())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitFor {
    revision: Option<u64>,
    timeout: Option<u64>,
    node: Option<NodeName>,
}

async fn wait(
    Shared(views): Shared<Views>,
    Extension(stop): Extension<CancellationToken>,
    asker: Asker,
    Query(question): Query<WaitFor>,
) -> Result<Response, Problem> {
    only_admins(&asker)?;
    stop.run_until_cancelled(in_force(&views, &question)).await.unwrap_or(Err(Problem::Stopping))
}

/// The answer to a `wait`, as soon as there is one.
async fn in_force(views: &Views, question: &WaitFor) -> Result<Response, Problem> {
    let secs = question.timeout.unwrap_or(WAIT_SECS);
    if secs > WAIT_SECS_MAX {
        return Err(Problem::Timeout(secs));
    }
    let deadline = Instant::now() + Duration::from_secs(secs);
    let revision = question.revision.map_or_else(|| views.core.state().revision(), Revision);
    let mut progress = views.progress.clone();
    loop {
        progress.mark_unchanged();
        let begun = Instant::now();
        let standing = ask(views, question, revision, 1).await?;
        let look = begun.elapsed();
        if standing.is_met(revision) {
            return Ok(standing.answer(revision));
        }
        let again = Instant::now() + LOOK_AGAIN_AFTER.min(look * LOOK_SELDOM);
        if timeout_at(deadline, progress.changed()).await.is_err() {
            return Ok(ask(views, question, revision, usize::MAX).await?.answer(revision));
        }
        // A sleep takes a millisecond at least, also where its time has come.
        if Instant::now() < again {
            sleep_until(again).await;
        }
    }
}

async fn ask(views: &Views, question: &WaitFor, revision: Revision, lagging_max: usize) -> Result<Standing, Problem> {
    let node = question.node.clone();
    let standing = views.standing(Question { revision, node: node.clone(), lagging_max }).await.ok_or(Problem::Stopping)?;
    match (standing, node) {
        (Some(standing), _) => Ok(standing),
        (None, Some(node)) => Err(views.picture().await.map_or(Problem::Stopping, |picture| picture.unknown(node))),
        (None, None) => Err(Problem::Stopping),
    }
}

impl Standing {
    /// As far as this server knows.
    fn is_met(&self, revision: Revision) -> bool {
        self.latest >= revision && self.lagging.is_empty()
    }

    fn answer(&self, revision: Revision) -> Response {
        let lagging = self.lagging.iter().map(|lag| json!({ "node": lag.node, "revision_in_force": lag.in_force, "reason": lag.reason() }));
        let elsewhere = self.elsewhere.iter().map(|(node, server)| json!({ "node": node, "server": server }));
        let answer = json!({
            "server": self.server, "revision": revision, "latest": self.latest,
            "is_in_force": self.is_met(revision) && self.elsewhere.is_empty(),
            "lagging": lagging.collect::<Vec<_>>(), "elsewhere": elsewhere.collect::<Vec<_>>(),
        });
        Json(answer).into_response()
    }
}

#[derive(Serialize)]
struct PortRow<'a> {
    id: model::PortId,
    name: &'a str,
    network: model::NetworkId,
    network_name: &'a str,
    project: &'a model::ProjectId,
    device_owner: &'a str,
    mac: model::Mac,
    addresses: Vec<std::net::IpAddr>,
    home: Option<&'a NodeName>,
    status: model::PortStatus,
    /// Nodes that have its interface although the port is another's. They get no view of it.
    conflicts: Vec<&'a NodeName>,
    missing: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    node: Option<NodeName>,
    /// Only ports that lack something or are claimed twice.
    missing: Option<bool>,
}

async fn ports(
    Shared(views): Shared<Views>,
    Extension(lists): Extension<Lists>,
    asker: Asker,
    Query(which): Query<Which>,
) -> Result<Response, Problem> {
    let picture = picture(&views, &asker).await?;
    let is_of_many = picture.ports(which.node.clone()).nth(LIST_IS_SHORT).is_some();
    lists.make(is_of_many, || true, move || picture.answer_ports(which)).await
}

impl Picture {
    fn answer_ports(&self, which: Which) -> Result<Response, Problem> {
        if let Some(node) = which.node.as_ref().filter(|node| !self.knows(node)) {
            return Err(Problem::NoNode(node.clone()));
        }
        let rows = self.ports(which.node).map(|port| self.port_row(port));
        let wanted = |row: &PortRow| !which.missing.unwrap_or(false) || row.missing.is_some() || !row.conflicts.is_empty();
        let rows: Vec<PortRow> = rows.filter(wanted).collect();
        let unknown: Vec<_> = self.unknown_interfaces().collect();
        Ok(Json(json!({ "revision": self.state.revision(), "ports": rows, "unknown_interfaces": unknown })).into_response())
    }

    /// Why nothing is known of what a node has in force.
    fn unknown(&self, node: NodeName) -> Problem {
        let stranger = self.strangers.get(&node).map(Stranger::problem);
        stranger.map_or_else(|| Problem::NoNode(node.clone()), |problem| Problem::Stranger(node.clone(), problem))
    }

    /// True of a node that was ever here, and of one to which a port is bound.
    fn knows(&self, node: &NodeName) -> bool {
        self.nodes.contains_key(node) || self.strangers.contains_key(node) || self.state.ports_at(node.clone()).next().is_some()
    }

    /// The ports whose home is `node`, or all.
    fn ports<'a>(&'a self, node: Option<NodeName>) -> Box<dyn Iterator<Item = &'a Port> + 'a> {
        match node {
            Some(node) => Box::new(self.state.ports_at(node)),
            None => Box::new(self.state.all::<Port>()),
        }
    }

    fn port_row<'a>(&'a self, port: &'a Port) -> PortRow<'a> {
        PortRow {
            id: port.id,
            name: &port.name,
            network: port.network,
            network_name: self.state.network(port.network).map_or("", |network| &network.name),
            project: &port.project,
            device_owner: &port.device_owner,
            mac: port.mac,
            addresses: port.addresses().collect(),
            home: port.home(),
            status: port.status,
            conflicts: self.reports.conflicts(port).collect(),
            missing: self.missing(port),
        }
    }

    /// Interfaces whose iface-id is no port's.
    fn unknown_interfaces(&self) -> impl Iterator<Item = serde_json::Value> {
        let is_known = |id: &str| id.parse().is_ok_and(|id| self.state.port(id).is_some());
        let interfaces = self.reports.nodes().flat_map(|(node, report)| report.present.keys().map(move |id| (node, id)));
        interfaces.filter(move |(_, id)| !is_known(id)).map(|(node, id)| json!({ "node": node, "iface_id": id }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neutron::ApiError;
    use crate::octavia::Fault;

    #[test]
    fn a_write_that_did_not_happen_has_one_status_whoever_asked() {
        for (error, wanted) in [
            (WriteError::TooBusy, 503),
            (WriteError::Contended, 503),
            (WriteError::StoreFull, 507),
            (WriteError::StoreFailed(String::new()), 500),
            (WriteError::StoreUnknown(String::new()), 504),
            (WriteError::StoreAway, 503),
            (WriteError::KeysExhausted { kind: "port" }, 503),
            (WriteError::Internal(String::new()), 500),
            (WriteError::Stopped, 503),
        ] {
            let neutron = ApiError::from(error.clone()).status;
            let octavia = Fault::from(error.clone()).status;
            let operator = Problem::NotWritten(error.clone()).into_response().status();
            assert_eq!([neutron, octavia, operator].map(|status| status.as_u16()), [wanted; 3], "{error}");
        }
    }
}
