//! Three servers on an etcd cluster of three members, nodes spread over them, ports that come and go.
//!
//! A server is taken away and added again meanwhile: its nodes go to the others. Then the limits of one etcd: writes per second, bytes
//! per object and per write, and what compaction and defragmentation cost.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Progress;
use lab::etcd::{ETCD_VERSION, Etcd};
use serde_json::{Value, json};

use super::layout::{Kind, Layout};
use super::world::{Status, Store, World};
use super::{PATIENCE, PORTS_OF_NODE, churn};
use crate::Scale;
use crate::figure::{Figure, Reach, Spread};
use crate::memory::megabytes;

const SERVERS: u16 = 3;

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let layout = Layout { kind: Kind::Tenants, nodes: scale.of(1_000, 100), ports_of_node: PORTS_OF_NODE };
    let world = World::start(&layout, 0, Store::Etcd { servers: SERVERS }, progress)?;
    let run = Run { world, layout, progress };
    let mut figures = run.servers(scale.of(Duration::from_secs(120), Duration::from_secs(15)))?;
    figures.extend(run.most(scale.of(Duration::from_secs(20), Duration::from_secs(5)))?);
    figures.extend(run.upkeep(scale.of(Duration::from_secs(10), Duration::from_secs(3)))?);
    Ok(figures)
}

struct Run<'a> {
    world: World,
    layout: Layout,
    progress: &'a Progress,
}

impl Run<'_> {
    fn figure(&self, name: &str, unit: &str, value: f64, reach: Reach) -> Figure {
        let why = "three servers, three members of etcd and all nodes share two processors";
        Figure::new(format!("{SERVERS} servers on etcd, {} nodes: {name}", self.layout.nodes), unit, value, reach).if_short(why)
    }

    fn etcd(&self) -> Result<&Etcd> {
        self.world.etcd.as_ref().context("the store is an etcd cluster")
    }

    /// Churn, while a server goes and comes.
    fn servers(&self, long: Duration) -> Result<Vec<Figure>> {
        let (world, rate) = (&self.world, 200.0);
        let what = format!("{rate} port changes per second for {long:?}; a server is taken away and added meanwhile");
        let (churn, moved) = self.progress.during(what, || {
            churn::during(&world.control, &world.apis(), &world.ground, rate, || {
                thread::sleep(long / 3);
                let taken = &world.ladon.others[1].process;
                let (before, killed) = (world.status()?, Instant::now());
                taken.kill9()?;
                let streams = before.streams;
                world.wait_for("the nodes of the lost server to follow another", PATIENCE, |status| {
                    status.connected == status.nodes && status.streams > streams
                })?;
                let moved = (killed.elapsed(), world.status()?.streams - streams);
                thread::sleep(long / 3);
                taken.restart()?;
                world.ladon.others[1].wait_until_it_serves()?;
                thread::sleep(long / 3);
                Ok(moved)
            })
        })?;
        world.wait_connected()?;
        let settled = Instant::now();
        world.wait_settled(PATIENCE)?;
        let (settled, status) = (settled.elapsed(), world.status()?);
        ensure!(status.faults == 0, "{} messages did not fit the views that got them", status.faults);
        let memory: Vec<String> =
            world.ladon.servers().iter().map(|(process, _)| Ok(format!("{:.0}", megabytes(process)?))).collect::<Result<_>>()?;
        let answers = Spread::of_times(&churn.answers);
        Ok(vec![
            self.figure("churn: port changes per second, a server killed and started again meanwhile", "/s", churn.rate(), Reach::AtLeast(0.9 * rate)).how(
                format!(
                    "{}. etcd {ETCD_VERSION}, with TLS, and everything else on the same two processors. 8 clients, each with a server of its own until that one \
                     goes; answers took {:.1} ms (p50), {:.0} ms (p99). {:.1} s after the kill its {} nodes followed another server; {:.1} s after the end of \
                     the churn every port was in force. The servers keep {} MB.",
                    self.layout.what(),
                    answers.p50,
                    answers.p99,
                    moved.0.as_secs_f64(),
                    moved.1,
                    settled.as_secs_f64(),
                    memory.join(", ")
                ),
            ),
            self.figure("a server killed → its nodes follow another", "s", moved.0.as_secs_f64(), Reach::AtMost(20.0)),
        ])
    }

    /// As many writes as it takes.
    fn most(&self, long: Duration) -> Result<Vec<Figure>> {
        let world = &self.world;
        let mut figures = Vec::new();
        for servers in [1, world.apis().len()] {
            let before = self.store()?;
            let (churn, ()) = self.progress.during(format!("as many port changes as {servers} servers take"), || {
                churn::during(&world.control, &world.apis()[..servers], &world.ground, f64::INFINITY, || {
                    thread::sleep(long);
                    Ok(())
                })
            })?;
            let after = self.store()?;
            let (changes, secs) = (churn.changes as f64, churn.took.as_secs_f64());
            let Held { objects, bytes, revision, .. } = after;
            figures.push(
                self.figure(&format!("most port changes per second, through {servers} of them"), "/s", churn.rate(), Reach::AtLeast(300.0)).how(format!(
                    "8 clients, one change each at a time. Statuses are written, too: {:.0} transactions of etcd per second, each with what came together. etcd has \
                     {objects} keys in {:.1} MB ({:.0} B each); history grows by {:.1} KB per change until it is compacted.",
                    (revision - before.revision) as f64 / secs,
                    bytes as f64 / 1e6,
                    bytes as f64 / objects as f64,
                    after.size.saturating_sub(before.size) as f64 / changes / 1e3
                )),
            );
            world.wait_settled(PATIENCE)?;
        }
        Ok(figures)
    }

    /// Compaction and defragmentation under churn.
    fn upkeep(&self, long: Duration) -> Result<Vec<Figure>> {
        let world = &self.world;
        let before = self.store()?;
        let (churn, (compacted, defragmented, freed)) = self.progress.during("etcd is compacted and defragmented under churn", || {
            churn::during(&world.control, &world.apis(), &world.ground, 100.0, || {
                thread::sleep(long);
                let started = Instant::now();
                let revision = self.store()?.revision;
                self.ask(0, "/v3/kv/compaction", json!({"revision": revision, "physical": true}))?;
                let compacted = started.elapsed();
                thread::sleep(long / 2);
                let mut defragmented = Vec::new();
                for member in 0..self.etcd()?.size() {
                    let started = Instant::now();
                    self.ask(member, "/v3/maintenance/defragment", json!({}))?;
                    defragmented.push(started.elapsed());
                }
                let freed = self.store()?;
                thread::sleep(long / 2);
                Ok((compacted, defragmented, freed))
            })
        })?;
        world.wait_connected()?;
        world.wait_settled(PATIENCE)?;
        let Status { faults, .. } = world.status()?;
        ensure!(faults == 0, "{faults} messages did not fit the views that got them");
        let longest = churn.answers.iter().max().copied().unwrap_or_default();
        let each: Vec<String> = defragmented.iter().map(|time| format!("{:.0}", time.as_secs_f64() * 1e3)).collect();
        Ok(vec![
            self.figure("compaction and defragmentation: longest answer of the API meanwhile", "ms", longest.as_secs_f64() * 1e3, Reach::AtMost(5_000.0)).how(
                format!(
                    "At 100 port changes per second. Compacting took {:.0} ms, defragmenting the members one after the other {} ms; the database file went from \
                     {:.1} to {:.1} MB.",
                    compacted.as_secs_f64() * 1e3,
                    each.join(", "),
                    before.size as f64 / 1e6,
                    freed.size as f64 / 1e6
                ),
            ),
        ])
    }

    /// A question to a member over its JSON gateway.
    fn ask(&self, member: usize, path: &str, body: Value) -> Result<Value> {
        let etcd = self.etcd()?;
        let mut command = self.world.control.command("curl");
        command.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "60", "--data", &body.to_string()]);
        if let Some([ca, certificate, key]) = etcd.client() {
            command.arg("--cacert").arg(ca).arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        command.arg(format!("{}{path}", etcd.endpoints()[member]));
        let said = self.world.control.run(&mut command, PATIENCE)?.ok()?;
        serde_json::from_str(&said).with_context(|| format!("{path}: {said}"))
    }

    /// What the first member holds.
    fn store(&self) -> Result<Held> {
        let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
        let status = self.ask(0, "/v3/maintenance/status", json!({}))?;
        // All keys: from "\0" on.
        let keys = self.ask(0, "/v3/kv/range", json!({"key": "AA==", "range_end": "AA==", "count_only": true}))?;
        Ok(Held {
            objects: number(&keys["count"]),
            bytes: number(&status["dbSizeInUse"]),
            size: number(&status["dbSize"]),
            revision: number(&status["header"]["revision"]),
        })
    }
}

/// An etcd member's store.
struct Held {
    objects: u64,
    /// In use, with the history that is kept.
    bytes: u64,
    /// The file's size.
    size: u64,
    revision: u64,
}
