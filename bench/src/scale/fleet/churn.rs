//! Ports that come and go at a given rate, for as long as it takes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::Host;
use serde_json::{Value, json};

use super::world::{Ground, client};
use crate::http::Client;

/// Clients, each with its share of the changes.
const CLIENTS: usize = 8;
/// Ports of a client that are there at a time.
const PORTS: usize = 100;

/// What came of it.
pub struct Churn {
    pub changes: usize,
    pub took: Duration,
    /// How long each answer took.
    pub answers: Vec<Duration>,
}

impl Churn {
    pub fn rate(&self) -> f64 {
        self.changes as f64 / self.took.as_secs_f64()
    }
}

/// Changes `per_second` ports, or as many as can be (`f64::INFINITY`), spread over all of `ground`, while `meanwhile` runs. Each server of
/// `to` gets its part of the clients.
pub fn during<T>(
    host: &Host,
    to: &[std::net::SocketAddr],
    ground: &Ground,
    per_second: f64,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<(Churn, T)> {
    let is_over = AtomicBool::new(false);
    let started = Instant::now();
    thread::scope(|scope| {
        let each = per_second / CLIENTS as f64;
        let workers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let is_over = &is_over;
                scope.spawn(move || worker(host, to, ground, number, each, is_over))
            })
            .collect();
        let came = meanwhile();
        is_over.store(true, Relaxed);
        let took = started.elapsed();
        let mut answers = Vec::new();
        for worker in workers {
            answers.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok((Churn { changes: answers.len(), took, answers }, came?))
    })
}

/// One client: as many changes per second as it should make, each after the one before is answered. A server that goes is left for
/// the next.
fn worker(
    host: &Host,
    to: &[std::net::SocketAddr],
    ground: &Ground,
    number: usize,
    per_second: f64,
    is_over: &AtomicBool,
) -> Result<Vec<Duration>> {
    let mut server = number;
    let mut connection = client(host, to[server % to.len()])?;
    let (mut ports, mut answers) = (VecDeque::new(), Vec::new());
    let started = Instant::now();
    for turn in 0.. {
        let due = started + Duration::from_secs_f64(turn as f64 / per_second);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if is_over.load(Relaxed) {
            break;
        }
        // An answer is late from when its question was due, also where that waited behind the one before.
        let begun = if per_second.is_finite() { due } else { Instant::now() };
        let is_create = turn % 2 == 0 || ports.len() < PORTS;
        match change(&mut connection, ground, number + turn * CLIENTS, &mut ports, is_create) {
            Ok(()) => answers.push(begun.elapsed()),
            Err(error) if to.len() == 1 => return Err(error),
            // What it did is not known; the next server is asked.
            Err(_) => {
                server += 1;
                if let Ok(other) = client(host, to[server % to.len()]) {
                    connection = other;
                }
            }
        }
    }
    ports.iter().try_for_each(|port| delete(&mut connection, port))?;
    Ok(answers)
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
    let made = client.create("/v2.0/ports", &json!({"port": port}))?;
    Ok(made["port"]["id"].as_str().context("a port has an id")?.to_string())
}

pub fn delete(client: &mut Client, port: &str) -> Result<()> {
    match client.request("DELETE", &format!("/v2.0/ports/{port}"), "")? {
        // 404: an answer was lost with a server, and this is the second try.
        (204 | 404, _) => Ok(()),
        (status, document) => anyhow::bail!("deleting port {port}: {status} {document}"),
    }
}
