//! Three servers on an etcd cluster of three members, nodes spread over them, ports that come and go.
//!
//! A server is killed and started again meanwhile: its nodes go to the others. Then the limits of one etcd: writes per second, bytes
//! per object and per write, and what compaction and defragmentation cost.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Progress;
use lab::etcd::{ETCD_VERSION, Etcd};
use serde_json::{Value, json};

use super::churn::{self, Demand};
use super::layout::{Kind, Layout};
use super::world::{Status, Store, World};
use super::{CHANGES_PER_SECOND, CLIENTS, PATIENCE, PORTS_OF_NODE, ms};
use crate::Scale;
use crate::figure::{Figure, Reach, Spread};
use crate::memory::megabytes;

const SERVERS: u16 = 3;
/// The one that is killed, by its number.
const KILLED: usize = 2;

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
        let why = "three servers, three members of etcd, all nodes and clients share the processors of one machine";
        Figure::new(format!("{SERVERS} servers on etcd, {} nodes: {name}", self.layout.nodes), unit, value, reach).if_short(why)
    }

    fn etcd(&self) -> Result<&Etcd> {
        self.world.etcd.as_ref().context("the store is an etcd cluster")
    }

    /// Churn, while a server goes and comes.
    fn servers(&self, long: Duration) -> Result<Vec<Figure>> {
        let (world, rate) = (&self.world, CHANGES_PER_SECOND);
        let demand = Demand { per_second: rate, clients: CLIENTS };
        let what = format!("{rate} port changes per second for {long:?}; a server is killed and started again meanwhile");
        let (churn, moved) = self.progress.during(what, || {
            churn::during(&world.control, &world.apis(), &world.ground, demand, || {
                thread::sleep(long / 3);
                let server = &world.ladon.others[KILLED - 1];
                let followers = world.status()?.following[KILLED];
                ensure!(followers > 0, "no node follows the server that is to be killed");
                let killed = Instant::now();
                server.process.kill9()?;
                // A node that has not noticed yet is still counted there.
                world.wait_for("the nodes of the lost server to follow another", PATIENCE, |status| {
                    status.connected == status.nodes && status.following[KILLED] == 0
                })?;
                let moved = killed.elapsed();
                thread::sleep(long / 3);
                server.process.restart()?;
                server.wait_until_it_serves()?;
                thread::sleep(long / 3);
                Ok((moved, followers))
            })
        })?;
        let ended = Instant::now();
        world.wait_connected()?;
        world.wait_settled(PATIENCE)?;
        let (settled, status) = (ended.elapsed(), world.status()?);
        ensure!(status.faults == 0, "{} messages did not fit the views that got them", status.faults);
        let memory: Vec<String> =
            world.ladon.servers().iter().map(|(process, _)| Ok(format!("{:.0}", megabytes(process)?))).collect::<Result<_>>()?;
        churn.tidy(&world.control)?;
        world.wait_settled(PATIENCE)?;
        let answers = Spread::of_times(&churn.answers);
        let (moved, followers) = moved;
        let name = format!(
            "churn: port changes per second, {rate} asked for over {:.0} s, a server killed and started again meanwhile",
            churn.took.as_secs_f64()
        );
        Ok(vec![
            self.figure(&name, "/s", churn.rate(), Reach::AtLeast(0.9 * rate)).how(format!(
                "{}. etcd {ETCD_VERSION}, with TLS, and everything else on the same machine. {CLIENTS} clients, each with a server of its own until that one goes; \
                 answers took {:.1} ms (p50), {:.0} ms (p99). {} {:.1} s after the kill its {followers} nodes followed another server; {:.1} s after the end \
                 of the churn every port was in force. The servers keep {} MB.",
                self.layout.what(),
                answers.p50,
                answers.p99,
                churn.failures(),
                moved.as_secs_f64(),
                settled.as_secs_f64(),
                memory.join(", ")
            )),
            self.figure("a server killed → its nodes follow another", "s", moved.as_secs_f64(), Reach::AtMost(20.0)),
        ])
    }

    /// As many writes as it takes.
    fn most(&self, long: Duration) -> Result<Vec<Figure>> {
        let world = &self.world;
        let mut figures = Vec::new();
        for servers in [1, world.apis().len()] {
            let before = self.store()?;
            let (churn, ()) = self.progress.during(format!("as many port changes as {servers} servers take"), || {
                churn::during(
                    &world.control,
                    &world.apis()[..servers],
                    &world.ground,
                    Demand { per_second: f64::INFINITY, clients: CLIENTS },
                    || {
                        thread::sleep(long);
                        Ok(())
                    },
                )
            })?;
            let after = self.store()?;
            let transactions = (after.revision - before.revision) as f64 / churn.took.as_secs_f64();
            let history = after.bytes.saturating_sub(before.bytes) as f64 / churn.answers.len() as f64;
            let through = format!("through {servers} of them");
            figures.extend([
                self.figure(&format!("most port changes per second, {through}"), "/s", churn.rate(), Reach::AtLeast(300.0))
                    .how(format!("{CLIENTS} clients, one change each at a time. {}", churn.failures())),
                self.figure(&format!("… transactions of etcd per second meanwhile, {through}"), "/s", transactions, Reach::NoTarget)
                    .how("Statuses are written, too; a transaction has all that came together."),
                self.figure(&format!("… what etcd's history grows by for each change, {through}"), "KB", history / 1e3, Reach::NoTarget)
                    .how("Until it is compacted; with what is written of statuses."),
            ]);
            world.wait_settled(PATIENCE)?;
            churn.tidy(&world.control)?;
            world.wait_settled(PATIENCE)?;
        }
        Ok(figures)
    }

    /// Compaction and defragmentation under churn.
    fn upkeep(&self, long: Duration) -> Result<Vec<Figure>> {
        let world = &self.world;
        let before = self.store()?;
        let (churn, (compacted, defragmented, freed)) = self.progress.during("etcd is compacted and defragmented under churn", || {
            churn::during(&world.control, &world.apis(), &world.ground, Demand { per_second: 100.0, clients: CLIENTS }, || {
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
        let each: Vec<String> = defragmented.iter().map(|time| format!("{:.0}", ms(*time))).collect();
        let how = format!(
            "At 100 port changes per second. Compacting took {:.0} ms, defragmenting the members one after the other {} ms; the database file went from {:.1} \
             to {:.1} MB. {}",
            ms(compacted),
            each.join(", "),
            before.size as f64 / 1e6,
            freed.size as f64 / 1e6,
            churn.failures()
        );
        let stored = "Right after defragmentation, with the history of the few seconds since compaction.";
        Ok(vec![
            self.figure("compaction and defragmentation: longest answer of the API meanwhile", "ms", ms(longest), Reach::AtMost(5_000.0))
                .how(how),
            self.figure("keys of etcd", "keys", freed.keys as f64, Reach::NoTarget).how(stored),
            self.figure("bytes of etcd per key after compaction", "B", freed.bytes as f64 / freed.keys as f64, Reach::NoTarget).how(stored),
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
            keys: number(&keys["count"]),
            bytes: number(&status["dbSizeInUse"]),
            size: number(&status["dbSize"]),
            revision: number(&status["header"]["revision"]),
        })
    }
}

/// An etcd member's store.
struct Held {
    keys: u64,
    /// In use, with the history that is kept.
    bytes: u64,
    /// The file's size.
    size: u64,
    revision: u64,
}
