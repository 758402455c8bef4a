//! Ports that come and go at a given rate, for as long as it takes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::Host;
use serde_json::{Value, json};

use super::world::{Ground, at_once, client};
use crate::http::Client;
use crate::neutron;

/// Ports that are there at a time, of all clients together.
const PORTS: usize = 800;
/// Answers of a server that cannot serve: another one may.
const ASK_ANOTHER: [u16; 3] = [502, 503, 504];

/// How much is asked for.
#[derive(Clone, Copy)]
pub struct Demand {
    /// Changes; `f64::INFINITY`: as many as can be.
    pub per_second: f64,
    /// Clients, each with its share of the changes, one at a time.
    pub clients: usize,
}

/// What came of it.
#[derive(Default)]
pub struct Churn {
    pub took: Duration,
    /// How long each answer took, of the changes that were made.
    pub answers: Vec<Duration>,
    /// Changes that were not made, by the HTTP status of the answer; None: there was no answer.
    failures: BTreeMap<Option<u16>, usize>,
    /// Ports that are left.
    ports: Vec<String>,
}

impl Churn {
    /// Changes that were made, per second.
    pub fn rate(&self) -> f64 {
        self.answers.len() as f64 / self.took.as_secs_f64()
    }

    /// A sentence about the changes that were not made.
    pub fn failures(&self) -> String {
        let kind = |status: &Option<u16>| status.map_or_else(|| "no answer".into(), |status| format!("HTTP {status}"));
        let each: Vec<String> = self.failures.iter().map(|(status, count)| format!("{count} × {}", kind(status))).collect();
        if each.is_empty() { "No change failed.".into() } else { format!("Changes that failed: {}.", each.join(", ")) }
    }

    /// Deletes the ports that are left: after everything is measured, for it is work, too.
    pub fn tidy(&self, host: &Host) -> Result<()> {
        at_once(host, self.ports.len(), |client, number| delete(client, &self.ports[number]))
    }

    fn add(&mut self, other: Churn) {
        self.answers.extend(other.answers);
        self.ports.extend(other.ports);
        for (status, count) in other.failures {
            *self.failures.entry(status).or_default() += count;
        }
    }
}

/// Changes ports, spread over all of `ground`, while `meanwhile` runs. Each server of `to` gets its part of the clients. When it
/// returns nobody changes anything any more, and the last ports are still there.
pub fn during<T>(
    host: &Host,
    to: &[SocketAddr],
    ground: &Ground,
    demand: Demand,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<(Churn, T)> {
    let is_over = AtomicBool::new(false);
    let started = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..demand.clients)
            .map(|number| {
                let is_over = &is_over;
                scope.spawn(move || worker(host, to, ground, number, demand, is_over))
            })
            .collect();
        let came = meanwhile();
        is_over.store(true, Relaxed);
        let mut churn = Churn::default();
        for worker in workers {
            churn.add(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        churn.took = started.elapsed();
        Ok((churn, came?))
    })
}

/// One client: its share of the changes, each after the one before is answered. A server that goes is left for the next; where there
/// is no other, it is over for all.
fn worker(
    host: &Host,
    to: &[SocketAddr],
    ground: &Ground,
    number: usize,
    Demand { per_second, clients }: Demand,
    is_over: &AtomicBool,
) -> Result<Churn> {
    let (per_second, most) = (per_second / clients as f64, PORTS / clients);
    let mut server = number;
    let mut connection = client(host, to[server % to.len()])?;
    let (mut churn, mut ports) = (Churn::default(), VecDeque::new());
    let started = Instant::now();
    for turn in 0.. {
        let due = started + Duration::from_secs_f64(turn as f64 / per_second);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if is_over.load(Relaxed) {
            break;
        }
        // An answer is late from when its question was due, also where that waited behind the one before.
        let begun = if per_second.is_finite() { due } else { Instant::now() };
        let is_create = turn % 2 == 0 || ports.len() < most;
        let Err(error) = change(&mut connection, ground, number + turn * clients, &mut ports, is_create) else {
            churn.answers.push(begun.elapsed());
            continue;
        };
        let status = error.downcast_ref::<Refused>().map(|refused| refused.status);
        *churn.failures.entry(status).or_default() += 1;
        if status.is_none() && to.len() == 1 {
            is_over.store(true, Relaxed);
            return Err(error);
        }
        if status.is_none_or(|status| ASK_ANOTHER.contains(&status)) {
            server += 1;
            if let Ok(other) = client(host, to[server % to.len()]) {
                connection = other;
            }
        }
    }
    churn.ports = ports.into();
    Ok(churn)
}

fn change(client: &mut Client, ground: &Ground, number: usize, ports: &mut VecDeque<String>, is_create: bool) -> Result<()> {
    if let Some(oldest) = ports.front().filter(|_| !is_create) {
        delete(client, oldest)?;
        ports.pop_front();
        return Ok(());
    }
    ports.push_back(create(client, &ground.port(number))?);
    Ok(())
}

/// Creates a port; its id.
pub fn create(client: &mut Client, port: &Value) -> Result<String> {
    match client.request("POST", neutron::PORTS, &json!({"port": port}).to_string())? {
        (201, document) => {
            let made: Value = serde_json::from_str(&document)?;
            Ok(made["port"]["id"].as_str().context("a port has an id")?.to_string())
        }
        (status, document) => Err(Refused { what: format!("POST {}", neutron::PORTS), status, document }.into()),
    }
}

pub fn delete(client: &mut Client, port: &str) -> Result<()> {
    let path = format!("{}/{port}", neutron::PORTS);
    match client.request("DELETE", &path, "")? {
        // 404: an answer was lost with a server, and this is the second try.
        (204 | 404, _) => Ok(()),
        (status, document) => Err(Refused { what: format!("DELETE {path}"), status, document }.into()),
    }
}

/// A server's answer that it did not do what was asked. Any other error means that there was no answer.
#[derive(Debug)]
struct Refused {
    what: String,
    status: u16,
    document: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.what, self.status, self.document)
    }
}

impl std::error::Error for Refused {}
