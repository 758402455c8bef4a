//! `ladon nodes`, `ladon ports`, `ladon wait`: what a server knows of the whole cluster.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::api::{Answer, Api};
use crate::cli::{Filter, Format, Reach, Wait};
use crate::failure::{EXIT_TIMEOUT, Failure, Result};
use crate::output::{Column, has_cell_with, table};

/// Columns of `ladon nodes`; `GET /ladon/v1/nodes` answers `{"nodes": […]}`.
const NODES: &[Column] = &[
    Column { heading: "NODE", keys: &["name"] },
    Column { heading: "STATE", keys: &["state"] },
    Column { heading: "REVISION", keys: &["revision"] },
    Column { heading: "BEHIND", keys: &["behind"] },
    Column { heading: "PORTS", keys: &["ports"] },
    Column { heading: "TUNNEL", keys: &["tunnel"] },
    Column { heading: "ADDRESSES", keys: &["tunnel_addresses"] },
    Column { heading: "PROBLEM", keys: &["problem"] },
];

/// Columns of `ladon ports`; `GET /ladon/v1/ports` answers `{"ports": […]}`.
const PORTS: &[Column] = &[
    Column { heading: "PORT", keys: &["id"] },
    Column { heading: "NAME", keys: &["name"] },
    Column { heading: "NETWORK", keys: &["network_name", "network", "network_id"] },
    Column { heading: "ADDRESSES", keys: &["addresses", "fixed_ips"] },
    Column { heading: "OWNER", keys: &["device_owner"] },
    Column { heading: "NODE", keys: &["node", "home", "host"] },
    Column { heading: "STATUS", keys: &["status"] },
    Column { heading: "PROBLEM", keys: &["problem"] },
];

/// How long a server holds one question of `wait`; we ask again until our own time is up.
const WAIT_ROUND: Duration = Duration::from_secs(20);

/// Between two questions of `wait` to a server that answers at once.
const WAIT_PAUSE: Duration = Duration::from_millis(200);

/// The machines that run `ladon node`.
pub async fn nodes(reach: &Reach, filter: &Filter) -> Result<String> {
    list(reach, "/ladon/v1/nodes", "nodes", NODES, filter).await
}

/// The ports, where they live, and why one does not work.
pub async fn ports(reach: &Reach, filter: &Filter) -> Result<String> {
    list(reach, "/ladon/v1/ports", "ports", PORTS, filter).await
}

async fn list(reach: &Reach, path: &str, key: &str, columns: &[Column], filter: &Filter) -> Result<String> {
    let body = Api::new(reach)?.get(path).await?;
    let Some(rows) = body[key].as_array() else {
        return Err(Failure::new(
            format!("the answer to {path} has no '{key}'"),
            "not affected",
            "see that --api leads to a `ladon server` of this command's release",
        ));
    };
    let is_wanted = |row: &&Value| filter.text.as_deref().is_none_or(|text| has_cell_with(row, columns, text));
    let rows: Vec<Value> = rows.iter().filter(is_wanted).cloned().collect();
    Ok(match reach.output {
        Format::Table => table(columns, &rows),
        Format::Json => format!("{:#}\n", Value::Array(rows)),
    })
}

/// Returns when the revision is in force everywhere.
///
/// `GET /ladon/v1/wait` answers 200 when it is. While it is not, the server holds the question for a while and then answers 202,
/// 408, 503 or 504 with what it waits for.
pub async fn wait(reach: &Reach, wait: &Wait) -> Result<String> {
    let api = Api::new(reach)?;
    let until = Instant::now() + Duration::from_secs(wait.timeout);
    let mut revision = wait.revision;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let round = left.min(WAIT_ROUND);
        let path = wait_path(revision, round);
        let answer = api.ask(Method::GET, &path, None).await?;
        // The latest revision is that of the first question: who goes on changing things does not make us wait for ever.
        revision = revision.or_else(|| answer.body["revision"].as_u64());
        match answer.status {
            StatusCode::OK => return Ok(in_force(reach.output, &answer)),
            StatusCode::ACCEPTED | StatusCode::REQUEST_TIMEOUT | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {}
            _ => return Err(api.refused(&path, &answer)),
        }
        if left <= WAIT_PAUSE {
            return Err(out_of_time(wait, &answer));
        }
        tokio::time::sleep(WAIT_PAUSE).await;
    }
}

fn wait_path(revision: Option<u64>, round: Duration) -> String {
    let seconds = round.as_secs().max(1);
    match revision {
        Some(revision) => format!("/ladon/v1/wait?revision={revision}&timeout={seconds}"),
        None => format!("/ladon/v1/wait?timeout={seconds}"),
    }
}

fn in_force(format: Format, answer: &Answer) -> String {
    match (format, answer.body["revision"].as_u64()) {
        (Format::Json, _) => format!("{:#}\n", answer.body),
        (Format::Table, Some(revision)) => format!("revision {revision} is in force on every node that it concerns\n"),
        (Format::Table, None) => "in force on every node that it concerns\n".to_string(),
    }
}

fn out_of_time(wait: &Wait, answer: &Answer) -> Failure {
    let behind = match &answer.body["behind"] {
        Value::Array(nodes) => nodes.iter().map(|node| node["name"].as_str().or(node.as_str()).unwrap_or("?")).collect::<Vec<_>>().join(", "),
        _ => String::new(),
    };
    let who = if behind.is_empty() { String::new() } else { format!(" on {behind}") };
    Failure::new(
        format!("after {} s the change is not in force{who}", wait.timeout),
        "these nodes still forward by an older state",
        "see with `ladon nodes` whether `ladon node` runs there and reaches a server",
    )
    .exit_code(EXIT_TIMEOUT)
}
