//! A server with thousands of nodes, which are one process: `fleet`.
//!
//! Server and nodes share a host of the lab and talk over its loopback, with TLS and a certificate for each node as everywhere; each
//! node comes from an address of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use demo::{Deployment, Tunnel};
use lab::etcd::{Etcd, Options, Version};
use lab::{Host, Lab, Process, Progress, Underlay};
use serde::Deserialize;
use serde_json::{Value, json};

use super::layout::{self, Layout, Network};
use crate::fleet::{self, NEXT_SERVER};
use crate::http::Client;
use crate::ports::API;

/// How long everything may take to be in force at first.
const READY: Duration = Duration::from_secs(600);
/// Nothing was written for so long: nothing will be.
const QUIET: Duration = Duration::from_secs(2);
/// Requests at once while the layout is made.
const MAKERS: usize = 4;

/// A server and its nodes.
pub struct World {
    // Dropped in this order: what runs before what it runs on.
    pub fleet: Process,
    pub ladon: Deployment,
    pub etcd: Option<Etcd>,
    pub control: Host,
    pub ground: Ground,
    /// How long it took until the layout was made, and until the nodes had come.
    pub made_in: Duration,
    pub came_in: Duration,
    _underlay: Underlay,
    _lab: Lab,
}

/// Where the server has its store.
#[derive(Clone, Copy)]
pub enum Store {
    File,
    /// In a cluster of three members, which so many servers share.
    Etcd {
        servers: u16,
    },
}

/// What the nodes have seen, all together.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct Status {
    pub nodes: u64,
    pub connected: u64,
    /// Those that are connected, by their server.
    pub following: Vec<u64>,
    pub with_view: u64,
    pub objects: u64,
    pub distinct_objects: u64,
    pub deltas: u64,
    pub snapshots: u64,
    pub snapshot_bytes: u64,
    pub faults: u64,
    pub flows: Vec<Flows>,
    /// Why one of those that are not connected is not.
    pub problem: String,
}

/// The flows of a node that computes them.
#[derive(Deserialize, Clone, Copy, Debug)]
pub struct Flows {
    pub flows: u64,
    pub local_ports: u64,
}

/// What deltas brought to one node.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct News {
    pub node: u32,
    pub bytes: u64,
}

/// What was made of a layout.
pub struct Ground {
    pub layout: Layout,
    /// The security group that all ports are in.
    pub everybody: String,
    pub networks: Vec<Network>,
}

impl Ground {
    /// One more port, as it is asked for; numbers go round all networks and their nodes.
    pub fn port(&self, number: usize) -> Value {
        let network = &self.networks[number % self.networks.len()];
        layout::port(network, network.node(number / self.networks.len()), self.layout.kind)
    }
}

impl World {
    /// Makes the layout and starts the nodes; ends when everything is in force everywhere. One node in `sample_every` computes its
    /// flows; 0: none does.
    pub fn start(layout: &Layout, sample_every: u32, store: Store, progress: &Progress) -> Result<World> {
        let lab = Lab::scratch()?;
        let underlay = Underlay::new(&lab)?;
        let control = underlay.host("control", 1)?;
        let (ladon, etcd) = match store {
            Store::File => (Deployment::start(&lab, &control, Tunnel::default())?, None),
            Store::Etcd { servers } => {
                let options = Options { version: Version::Module, members: 3, is_secure: true, ..Options::default() };
                let etcd = Etcd::start_on(&control, "etcd", &options)?;
                (Deployment::start_on_etcd(&lab, &control, Tunnel::default(), &etcd, servers)?, Some(etcd))
            }
        };
        let started = Instant::now();
        let ground = progress.during(format!("{}: made through the API", layout.what()), || layout.make(&control))?;
        let made_in = started.elapsed();
        let fleet = fleet::start(&control, &ladon, "fleet", 0..layout.nodes, sample_every)?;
        let came_in = Duration::ZERO;
        let mut world = World { fleet, ladon, etcd, control, ground, made_in, came_in, _underlay: underlay, _lab: lab };
        let started = Instant::now();
        progress.during(format!("{} nodes come for the first time", layout.nodes), || world.wait_in_force())?;
        world.came_in = started.elapsed();
        progress.during("until every port's status is written", || world.wait_quiet())?;
        Ok(world)
    }

    /// One more process of nodes.
    pub fn more_nodes(&self, name: &str, numbers: Range<u32>, sample_every: u32) -> Result<Process> {
        fleet::start(&self.control, &self.ladon, name, numbers, sample_every)
    }

    pub fn client(&self) -> Result<Client> {
        client(&self.control, API)
    }

    pub fn ask<T: for<'a> Deserialize<'a>>(&self, question: &str) -> Result<T> {
        self.ask_of("fleet", question)
    }

    /// Asks the process of nodes with this name.
    pub fn ask_of<T: for<'a> Deserialize<'a>>(&self, name: &str, question: &str) -> Result<T> {
        let socket = self.ladon.dir().join(format!("{name}.sock"));
        let mut stream = BufReader::new(UnixStream::connect(socket).context("asking the nodes")?);
        writeln!(stream.get_mut(), "{}", json!(question))?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("what the nodes say: {line:?}"))
    }

    pub fn status(&self) -> Result<Status> {
        self.ask("status")
    }

    /// What came in deltas since the last time.
    pub fn news(&self) -> Result<Vec<News>> {
        self.ask("news")
    }

    /// Where the servers' APIs are.
    pub fn apis(&self) -> Vec<SocketAddr> {
        let place = |number: usize| SocketAddr::new(API.ip(), API.port() + number as u16 * NEXT_SERVER);
        (0..self.ladon.servers().len()).map(place).collect()
    }

    /// Until every node follows and has everything in force.
    pub fn wait_in_force(&self) -> Result<()> {
        self.wait_connected()?;
        self.wait_settled(READY)
    }

    /// Until each server says that the nodes which follow it have everything in force. It knows nothing of the others.
    pub fn wait_settled(&self, patience: Duration) -> Result<()> {
        for api in self.apis() {
            wait_until(&mut client(&self.control, api)?, patience, 1, |answer| {
                answer["lagging"].as_array().is_some_and(Vec::is_empty) && answer["latest"].as_u64() >= answer["revision"].as_u64()
            })?;
        }
        Ok(())
    }

    /// Until nothing is written any more.
    pub fn wait_quiet(&self) -> Result<()> {
        let (mut client, mut seen, until) = (self.client()?, None, Instant::now() + READY);
        while Instant::now() < until {
            let latest = wait_once(&mut client, 1)?["latest"].as_u64();
            if latest == seen {
                return Ok(());
            }
            seen = latest;
            thread::sleep(QUIET);
        }
        bail!("the server writes and writes")
    }

    /// Until every node follows.
    pub fn wait_connected(&self) -> Result<()> {
        self.wait_for("all nodes to have a view", READY, |status| status.connected == status.nodes && status.with_view == status.nodes)
    }

    /// Until the nodes are as they should be.
    pub fn wait_for(&self, what: &str, patience: Duration, are: impl Fn(&Status) -> bool) -> Result<()> {
        self.fleet.wait_until(what, patience, || match self.status() {
            Ok(status) if are(&status) => Ok(Some(())),
            Ok(status) => Err(format!("{}: {status:?}", status.problem)),
            Err(error) => Err(format!("{error:#}")),
        })?;
        Ok(())
    }
}

/// A connection from the host.
pub fn client(host: &Host, to: SocketAddr) -> Result<Client> {
    host.netns().within(|| Client::connect(to))?
}

/// Until all nodes have all that concerns them in force.
pub fn wait_until_in_force(client: &mut Client, patience: Duration) -> Result<()> {
    wait_until(client, patience, 20, |answer| answer["is_in_force"] == true)
}

/// Asks the server to wait, for so many seconds at a time, until its answer is one that `is_done`.
fn wait_until(client: &mut Client, patience: Duration, secs: u32, is_done: impl Fn(&Value) -> bool) -> Result<()> {
    let until = Instant::now() + patience;
    loop {
        let answer = wait_once(client, secs)?;
        if is_done(&answer) {
            return Ok(());
        }
        let text = answer.to_string();
        ensure!(Instant::now() < until, "not in force: {}", &text[..text.floor_char_boundary(1000)]);
    }
}

fn wait_once(client: &mut Client, secs: u32) -> Result<Value> {
    let (status, answer) = client.request("GET", &format!("/ladon/v1/wait?timeout={secs}"), "")?;
    if status != 200 {
        bail!("wait: {status} {answer}");
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Does numbered pieces of work with some clients at once.
pub fn at_once(host: &Host, pieces: usize, work: impl Fn(&mut Client, usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut client = client(host, API)?;
        loop {
            match next.fetch_add(1, Relaxed) {
                piece if piece < pieces => work(&mut client, piece)?,
                _ => return Ok(()),
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..MAKERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
