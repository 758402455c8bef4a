//! Many nodes in one process: as many streams, each with its view, as there would be machines.
//!
//! ```text
//!             ┌ n0: stream ─▶ replica of its view ─▶ what is true there ─▶ report
//!  servers ◀──┼ n1: …                     │
//!             └ n2: …                     ▼ on some of them
//!                             engine ─▶ flows ─▶ a counter in the switch's place
//! ```
//!
//! Each node has a certificate, an address, a TLS connection and a gRPC stream of its own, and a view that is kept by the code of
//! `ladon node` ([`node::view::replica`]). Three things are not as on a machine: equal objects of different nodes are read and kept once
//! ([`shared`]), nothing is written to the disk, and whatever a view says lives on a node is taken to be plugged in there, so that all but
//! the sampled nodes have in force what they have heard.
//!
//! `fleet CONFIG` runs until it is ended; what it has seen is asked for over a unix socket ([`Question`]).

mod flows;
mod machine;
mod seen;
mod shared;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Deserialize;
use stream::pki::Authority;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::machine::Machine;
use crate::seen::Seen;
use crate::shared::Shared;

/// Which nodes there are, and whom they follow.
#[derive(Deserialize)]
struct Config {
    /// The first one's number; node number 7 is named n7.
    first: u32,
    count: u32,
    /// Node number N begins with server N modulo their number.
    servers: Vec<String>,
    /// The folder of the authority that signs their certificates.
    authority: PathBuf,
    /// One node in so many computes its flows; 0: none does.
    sample_every: u32,
    /// Where questions are answered.
    socket: PathBuf,
}

/// What all nodes of the process have in common.
struct Common {
    servers: Vec<String>,
    shared: Shared,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    /// How they all are.
    Status,
    /// What each of them was sent since the last time that this was asked.
    News,
}

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: fleet CONFIG")?;
    let config: Config = serde_json::from_slice(&std::fs::read(&path).with_context(|| path.clone())?)?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(config))
}

async fn run(config: Config) -> Result<()> {
    let authority = Authority::open(&config.authority)?;
    let common = Arc::new(Common { servers: config.servers, shared: Shared::default() });
    let seen: Arc<Vec<Arc<Seen>>> = Arc::new((config.first..config.first + config.count).map(|n| Arc::new(Seen::of(n))).collect());
    let mut machines = Vec::new();
    for seen in seen.iter() {
        let computes_flows = config.sample_every > 0 && seen.number % config.sample_every == 0;
        machines.push(Machine::new(common.clone(), seen.clone(), &authority, computes_flows)?);
    }
    let listener = UnixListener::bind(&config.socket).with_context(|| config.socket.display().to_string())?;
    machines.into_iter().for_each(|machine| drop(tokio::spawn(machine.live())));
    loop {
        let (stream, _) = listener.accept().await?;
        let (seen, common) = (seen.clone(), common.clone());
        tokio::spawn(async move { answer(stream, &seen, &common).await });
    }
}

/// Answers the questions of one connection, each a line of JSON.
async fn answer(stream: UnixStream, seen: &[Arc<Seen>], common: &Common) -> Result<()> {
    let (questions, mut answers) = stream.into_split();
    let mut questions = BufReader::new(questions).lines();
    while let Some(line) = questions.next_line().await? {
        let mut answer = match serde_json::from_str(&line)? {
            Question::Status => serde_json::to_vec(&seen::status(seen, common.servers.len(), common.shared.len()))?,
            Question::News => serde_json::to_vec(&seen::news(seen))?,
        };
        answer.push(b'\n');
        answers.write_all(&answer).await?;
    }
    Ok(())
}
