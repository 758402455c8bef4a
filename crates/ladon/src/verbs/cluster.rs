//! `ladon nodes`, `ladon ports`, `ladon wait`: what a server knows of the whole cluster.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api::Api;
use crate::cli::{Filter, Format, Nodes, Ports, Reach, Wait};
use crate::failure::{EXIT_TIMEOUT, Failure, Result};
use crate::output::{Column, has_cell_with, table, tell, visible};

/// Columns of `ladon nodes`.
const NODES: &[Column] = &[
    Column { heading: "NODE", keys: &["name"] },
    Column { heading: "CONNECTED", keys: &["is_connected"] },
    Column { heading: "UP-TO-DATE", keys: &["is_up_to_date"] },
    Column { heading: "IN-FORCE", keys: &["revision_in_force"] },
    Column { heading: "PORTS", keys: &["ports"] },
    Column { heading: "INTERFACES", keys: &["interfaces"] },
    Column { heading: "TUNNEL", keys: &["tunnel"] },
    Column { heading: "ADDRESSES", keys: &["tunnel_addresses"] },
    Column { heading: "SINCE", keys: &["since"] },
    Column { heading: "LAST-SEEN", keys: &["last_seen"] },
    Column { heading: "PROBLEM", keys: &["problem"] },
];

/// Columns of `ladon ports`.
const PORTS: &[Column] = &[
    Column { heading: "PORT", keys: &["id"] },
    Column { heading: "NAME", keys: &["name"] },
    Column { heading: "NETWORK", keys: &["network_name", "network"] },
    Column { heading: "ADDRESSES", keys: &["addresses"] },
    Column { heading: "OWNER", keys: &["device_owner"] },
    Column { heading: "NODE", keys: &["home"] },
    Column { heading: "STATUS", keys: &["status"] },
    Column { heading: "ALSO-CLAIMED-BY", keys: &["conflicts"] },
    Column { heading: "LACKS", keys: &["missing"] },
];

const NODES_PATH: &str = "/ladon/v1/nodes";

/// Of a node whose server is not among those that answered.
const NOT_ASKED: &str = "it follows a server that was not asked or does not answer, which alone knows what it has in force; see --api";

/// How long a server holds one question of `wait`; we ask again until our own time is up.
const WAIT_ROUND: Duration = Duration::from_secs(20);

/// Between two questions of `wait`, should a server answer at once that it is not so.
const WAIT_PAUSE: Duration = Duration::from_millis(100);

/// The machines that run `ladon node`.
pub async fn nodes(reach: &Reach, wanted: &Nodes) -> Result<String> {
    let servers = Api::all(reach)?;
    let answers = answers(&servers, NODES_PATH).await?;
    if let Some(node) = &wanted.forget {
        return forget(reach.output, node, &answers).await;
    }
    let mut body = filtered(together(&answers.bodies()), NODES_PATH, "nodes", NODES, &wanted.filter)?;
    Ok(match reach.output {
        Format::Table => {
            tell_if_filtered_out(&wanted.filter, rows(&body, "nodes").is_empty(), "nodes");
            table(NODES, rows(&body, "nodes")) + &answers.silence("what only it knows of its nodes is not shown")
        }
        Format::Json => {
            answers.tell_silence(&mut body);
            format!("{body:#}\n")
        }
    })
}

/// What the servers answer, and which do not.
struct Answers<'a> {
    told: Vec<(&'a Api, Value)>,
    silent: Vec<(&'a Api, Failure)>,
}

/// Asks all servers; an error where none answers.
async fn answers<'a>(servers: &'a [Api], path: &str) -> Result<Answers<'a>> {
    let asked = futures::future::join_all(servers.iter().map(|server| server.get(path))).await;
    let mut answers = Answers { told: Vec::new(), silent: Vec::new() };
    for (server, answer) in servers.iter().zip(asked) {
        match answer {
            Ok(body) => answers.told.push((server, body)),
            Err(failure) => answers.silent.push((server, failure)),
        }
    }
    match answers.silent.pop() {
        Some((_, failure)) if answers.told.is_empty() => Err(failure),
        last => {
            answers.silent.extend(last);
            Ok(answers)
        }
    }
}

impl Answers<'_> {
    fn bodies(&self) -> Vec<&Value> {
        self.told.iter().map(|(_, body)| body).collect()
    }

    /// A line for each server that does not answer, and what that means.
    fn silence(&self, meaning: &str) -> String {
        let line = |(server, failure): &(&Api, Failure)| {
            let words = format!("server {}: {}; {meaning}; {}", server.url(), failure.what_happened, failure.what_to_do);
            visible(&words) + "\n"
        };
        self.silent.iter().map(line).collect()
    }

    /// The same for programs.
    fn tell_silence(&self, body: &mut Value) {
        if !self.silent.is_empty() {
            let told = self.silent.iter().map(|(server, failure)| json!({ "server": server.url(), "reason": failure.what_happened }));
            body["unanswered"] = told.collect();
        }
    }

    /// True if a node follows a server whose answer is not there.
    fn lack(&self, elsewhere: &Value) -> bool {
        !elsewhere.is_null() && !self.told.iter().any(|(_, body)| body["server"] == *elsewhere)
    }
}

/// One list of nodes out of several servers'.
fn together(bodies: &[&Value]) -> Value {
    let mut body = bodies.first().map_or(Value::Null, |first| (*first).clone());
    if body["nodes"].is_array() {
        let mut known: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for row in bodies.iter().flat_map(|body| rows(body, "nodes")) {
            known.entry(row["name"].as_str().unwrap_or_default()).or_default().push(row);
        }
        body["nodes"] = known.values().filter_map(|rows| one_of(rows)).collect();
    }
    body
}

/// A node's row is that of the server which it follows, if that one answered. Another may know why it does not follow.
fn one_of(rows: &[&Value]) -> Option<Value> {
    let rank = |row: &&&Value| (row["is_connected"] != true, !row["elsewhere"].is_null());
    let mut best = (*rows.iter().min_by_key(rank)?).clone();
    if best["is_connected"] != true && best["problem"].is_null() {
        let told = rows.iter().find_map(|row| row["problem"].as_str());
        let unknown = (!best["elsewhere"].is_null()).then_some(NOT_ASKED);
        if let Some(problem) = told.or(unknown) {
            best["problem"] = problem.into();
        }
    }
    Some(best)
}

/// Takes a machine off the list, on every server that has it there, unless it is connected to one of them.
async fn forget(format: Format, node: &str, answers: &Answers<'_>) -> Result<String> {
    let row = |body: &Value| rows(body, "nodes").iter().find(|row| row["name"] == node).cloned();
    let known: Vec<(&Api, Value)> = answers.told.iter().filter_map(|(server, body)| Some((*server, row(body)?))).collect();
    let what_to_do = format!("stop `ladon node` on {node}, then say it again");
    if let Some((server, _)) = known.iter().find(|(_, row)| row["is_connected"] == true) {
        let what_happened = format!("node {node} is connected to the server at {} and would be there again at once", server.url());
        return Err(Failure::new(what_happened, "not affected", what_to_do));
    }
    let listing: Vec<&Api> = known.iter().map(|(server, _)| *server).collect();
    // One that no server lists may still have claimed ports, which any of them knows.
    let asked = if listing.is_empty() { answers.told.iter().map(|(server, _)| *server).collect() } else { listing };
    let path = format!("{NODES_PATH}/{}", dial::escape(node));
    let mut unknown = None;
    let mut is_forgotten = false;
    for server in asked {
        let answer = server.ask(Method::DELETE, &path, None).await?;
        match answer.status {
            status if status.is_success() => is_forgotten = true,
            StatusCode::CONFLICT => return Err(Failure { what_to_do, ..server.refused(&path, &answer) }),
            StatusCode::NOT_FOUND => unknown = Some(server.refused(&path, &answer)),
            _ => return Err(server.refused(&path, &answer)),
        }
    }
    match unknown {
        Some(failure) if !is_forgotten => Err(unknown_node(failure)),
        _ => Ok(forgotten(format, node, &known, answers)),
    }
}

/// No server knows a node of the name that was given.
fn unknown_node(failure: Failure) -> Failure {
    Failure { what_to_do: "see the names with `ladon nodes`".into(), ..failure }
}

/// A failure of a question that may have been about one node.
fn about_node(node: Option<&str>, failure: Failure) -> Failure {
    if node.is_some() && failure.is_unknown { unknown_node(failure) } else { failure }
}

fn forgotten(format: Format, node: &str, known: &[(&Api, Value)], answers: &Answers) -> String {
    match format {
        Format::Table => {
            let mut text = format!("node {node} is forgotten; ports that it had claimed are free\n");
            if known.iter().any(|(_, row)| answers.lack(&row["elsewhere"])) {
                text.push_str("It followed a server that was not asked or does not answer: if it is connected there, it is listed again\n");
            }
            text + &answers.silence("a node that is connected there is listed again")
        }
        Format::Json => {
            let mut body = json!({ "forgotten": node });
            answers.tell_silence(&mut body);
            format!("{body:#}\n")
        }
    }
}

/// The ports, where they live, and what one lacks that does not work; and interfaces that are no port's.
pub async fn ports(reach: &Reach, wanted: &Ports) -> Result<String> {
    let node = wanted.node.as_ref().map(|node| format!("&node={}", dial::escape(node))).unwrap_or_default();
    let path = format!("/ladon/v1/ports?missing={}{node}", wanted.missing);
    let body = list(reach, &path, "ports", PORTS, &wanted.filter).await;
    let body = body.map_err(|failure| about_node(wanted.node.as_deref(), failure))?;
    if reach.output == Format::Json {
        return Ok(format!("{body:#}\n"));
    }
    let mut text = table(PORTS, rows(&body, "ports"));
    let mut is_nothing = rows(&body, "ports").is_empty();
    for interface in rows(&body, "unknown_interfaces") {
        let (node, id) = (interface["node"].as_str().unwrap_or("?"), interface["iface_id"].as_str().unwrap_or("?"));
        let wanted = [node, id].iter().any(|cell| wanted.filter.text.as_deref().is_none_or(|text| cell.contains(text)));
        if wanted {
            let words = format!(
                "node {node}: an interface has the iface-id {id}, which is no port's; its traffic is dropped; remove it, or make the port"
            );
            text.push_str(&(visible(&words) + "\n"));
            is_nothing = false;
        }
    }
    tell_if_filtered_out(&wanted.filter, is_nothing, "ports");
    Ok(text)
}

/// The server's document, with only the rows that the filter lets through.
async fn list(reach: &Reach, path: &str, key: &str, columns: &[Column], filter: &Filter) -> Result<Value> {
    filtered(Api::new(reach)?.get(path).await?, path, key, columns, filter)
}

fn filtered(mut body: Value, path: &str, key: &str, columns: &[Column], filter: &Filter) -> Result<Value> {
    let Some(rows) = body.get_mut(key).and_then(Value::as_array_mut) else {
        return Err(Failure::new(
            format!("the answer to {path} has no '{key}'"),
            "not affected",
            "see that --api leads to a `ladon server` of this command's release",
        ));
    };
    rows.retain(|row| filter.text.as_deref().is_none_or(|text| has_cell_with(row, columns, text)));
    Ok(body)
}

/// A lone heading may be taken for an empty cluster.
fn tell_if_filtered_out(filter: &Filter, is_nothing: bool, command: &str) {
    if is_nothing && filter.text.is_some() {
        tell(&format!("nothing fits; `ladon {command}` lists all"));
    }
}

fn rows<'a>(body: &'a Value, key: &str) -> &'a [Value] {
    body[key].as_array().map_or(&[], Vec::as_slice)
}

/// Returns when the revision is in force everywhere. The server holds the question until it is, or a round is over.
pub async fn wait(reach: &Reach, wait: &Wait) -> Result<String> {
    let servers = Api::all(reach)?;
    let until = Instant::now() + Duration::from_secs(wait.timeout);
    let mut revision = wait.revision;
    if revision.is_none() && servers.len() > 1 {
        let answers = answers(&servers, "/ladon/v1/wait?timeout=0").await?;
        revision = answers.bodies().iter().filter_map(|answer| answer["revision"].as_u64()).max();
    }
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let answers = answers(&servers, &wait_path(revision, wait, left.min(WAIT_ROUND))).await;
        let answers = answers.map_err(|failure| about_node(wait.node.as_deref(), failure))?;
        let answer = put_together(&answers.bodies());
        // The latest revision is that of the first question: who goes on changing things does not make us wait for ever.
        revision = revision.or_else(|| answer["revision"].as_u64());
        if answer["is_in_force"] == true {
            return Ok(in_force(reach.output, wait, &answer));
        }
        if Instant::now() >= until {
            return Err(out_of_time(wait, &answer));
        }
        tokio::time::sleep(WAIT_PAUSE).await;
    }
}

fn wait_path(revision: Option<u64>, wait: &Wait, round: Duration) -> String {
    let seconds = round.as_secs_f64().ceil();
    let revision = revision.map(|revision| format!("revision={revision}&")).unwrap_or_default();
    let node = wait.node.as_ref().map(|node| format!("&node={}", dial::escape(node))).unwrap_or_default();
    format!("/ladon/v1/wait?{revision}timeout={seconds}{node}")
}

/// One answer out of several servers'. A node that follows a server which was not asked may have anything in force.
fn put_together(answers: &[&Value]) -> Value {
    let is_asked = |server: &Value| answers.iter().any(|answer| answer["server"] == *server);
    let mut lagging: Vec<Value> = answers.iter().flat_map(|answer| rows(answer, "lagging").iter().cloned()).collect();
    for node in answers.iter().flat_map(|answer| rows(answer, "elsewhere")).filter(|node| !is_asked(&node["server"])) {
        if !lagging.iter().any(|known| known["node"] == node["node"]) {
            lagging.push(json!({ "node": node["node"], "reason": NOT_ASKED }));
        }
    }
    let revision = answers.first().map_or(Value::Null, |answer| answer["revision"].clone());
    let latest = answers.iter().filter_map(|answer| answer["latest"].as_u64()).min();
    // A server alone does not say so as long as there are nodes that follow others.
    let is_there = |answer: &Value| answer["latest"].as_u64().zip(revision.as_u64()).is_some_and(|(latest, wanted)| latest >= wanted);
    let is_met = |answer: &&Value| answer["is_in_force"] == true || !rows(answer, "elsewhere").is_empty() && is_there(answer);
    let is_in_force = answers.iter().all(is_met) && lagging.is_empty();
    json!({ "revision": revision, "latest": latest, "is_in_force": is_in_force, "lagging": lagging })
}

fn in_force(format: Format, wait: &Wait, answer: &Value) -> String {
    let place = wait.node.as_ref().map_or_else(|| "every node that it concerns".to_string(), |node| format!("node {node}"));
    match format {
        Format::Json => format!("{answer:#}\n"),
        Format::Table => format!("revision {} is in force on {place}\n", answer["revision"]),
    }
}

fn out_of_time(wait: &Wait, answer: &Value) -> Failure {
    let (revision, secs) = (&answer["revision"], wait.timeout);
    let lag = |node: &Value| format!("{} ({})", node["node"].as_str().unwrap_or("?"), node["reason"].as_str().unwrap_or("no reason given"));
    let lagging: Vec<String> = rows(answer, "lagging").iter().map(lag).collect();
    let is_ahead = answer["latest"].as_u64().zip(revision.as_u64()).is_some_and(|(latest, wanted)| latest < wanted);
    let failure = if is_ahead {
        Failure::new(
            format!("after {secs} s this server has not reached revision {revision}: its latest is {}", answer["latest"]),
            "not affected; no node is behind because of it",
            "see that the revision comes from this server's store; without --revision, `ladon wait` waits for the latest",
        )
    } else {
        Failure::new(
            format!("after {secs} s of waiting for revision {revision}, it is not in force on {}", lagging.join(", ")),
            "these nodes still forward by an older state",
            "see with `ladon nodes` whether `ladon node` runs there and reaches a server",
        )
    };
    failure.exit_code(EXIT_TIMEOUT)
}
