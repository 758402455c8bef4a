//! Three servers on an etcd of three members, which are killed while clients write through every server and packets flow.
//!
//! A client owns the ports that it makes. Of each it knows the last answer that it got, asks one server after the other until there
//! is one, and in the end every server must show exactly that: nothing that was answered is lost, nothing is there twice. As long as
//! two members live, all goes on; without a majority a write waits or is refused, in time, and what is in the nodes' views works.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use demo::{Api, Deployment, Pair, Workload, id};
use lab::etcd::{Etcd, Options, Version};
use lab::traffic::is_reachable;
use lab::wait;
use serde_json::{Value, json};

use crate::level::{DEAD_MAX_MS, Random, fresh_start_says_the_same, seed, settle};
use crate::servers::addresses;
use crate::world::{DEADLINE, Dump, Seen, World, cost, is_long, let_pass, ms, youngest_flow_secs};

pub const SERVERS: u16 = 3;
pub const MEMBERS: usize = 3;
const CLIENTS: usize = 4;
/// What one client owns at once, at most.
const PORTS_MAX: usize = 12;
/// Members and servers that are killed one at a time, before and after the majority is lost.
const KILLS: usize = 2;
const KILLS_LONG: usize = 60;
/// How long one write may take against all that is killed meanwhile.
const INSISTENCE: Duration = Duration::from_secs(120);
/// A node whose stream lasted for so long looks for another server without a growing pause.
const STEADY: Duration = Duration::from_secs(11);
/// What a machine loses now and then that is busy with everything else, of a hundred thousand.
const STRAY: u32 = 3;
/// A write is answered or refused within this.
const CEILING: Duration = Duration::from_secs(30);

pub fn cluster() -> Options {
    Options { version: Version::Module, members: MEMBERS, is_secure: true, ..Options::default() }
}

pub fn etcd(pair: &Pair) -> Result<&Etcd> {
    pair.etcd.as_ref().context("the pair has an etcd")
}

/// Who writes all the time, and what came of it.
struct Client<'a> {
    ladon: &'a Deployment,
    network: &'a str,
    number: usize,
    random: Random,
    /// Its ports by id, with the description that was answered last.
    ports: BTreeMap<String, String>,
    born: usize,
    answered: usize,
    /// Refusals by status.
    refused: BTreeMap<u16, usize>,
    /// Requests whose server was killed.
    cut: usize,
    /// The longest wait for an answer or a refusal, and for which.
    longest: (Duration, String),
}

impl<'a> Client<'a> {
    fn new(ladon: &'a Deployment, network: &'a str, number: usize, seed: u64) -> Client<'a> {
        let (ports, refused) = Default::default();
        let random = Random::of(seed + number as u64);
        Client { ladon, network, number, random, ports, born: 0, answered: 0, refused, cut: 0, longest: Default::default() }
    }

    fn run(mut self, over: &AtomicBool) -> Result<Self> {
        while !over.load(Ordering::Relaxed) {
            self.step().with_context(|| format!("client {}", self.number))?;
        }
        Ok(self)
    }

    fn step(&mut self) -> Result<()> {
        match self.random.below(10) {
            0..5 if self.ports.len() < PORTS_MAX => self.create(),
            0..8 => self.update(),
            _ => self.delete(),
        }
    }

    fn create(&mut self) -> Result<()> {
        self.born += 1;
        let key = format!("{:08x}-0000-4000-8000-{:012x}", self.number, self.born);
        let host = ["n1", "n2"][self.random.below(2)];
        let port = json!({"network_id": self.network, "name": format!("c{}-{}", self.number, self.born), "description": "new",
            "binding:host_id": host});
        let made = self.insist(&format!("making {key}"), |api| api.create_once("port", &key, &port), |_| false)?;
        ensure!(id(&made["port"]) == key, "asked for {key}, got {made}");
        self.ports.insert(key, "new".into());
        Ok(())
    }

    fn update(&mut self) -> Result<()> {
        let Some(key) = self.pick() else { return Ok(()) };
        let description = self.random.below(usize::MAX).to_string();
        let (path, change) = (format!("/v2.0/ports/{key}"), json!({"port": {"description": description}}));
        let changed = self.insist(&format!("changing {key}"), |api| api.request("PUT", &path, Some(&change)), |_| false)?;
        ensure!(changed["port"]["description"] == description, "asked for {description}, got {changed}");
        self.ports.insert(key, description);
        Ok(())
    }

    fn delete(&mut self) -> Result<()> {
        let Some(key) = self.pick() else { return Ok(()) };
        // It is gone, too, where an attempt without an answer has deleted it.
        let path = format!("/v2.0/ports/{key}");
        self.insist(&format!("deleting {key}"), |api| api.request("DELETE", &path, None), |attempts| attempts > 1)?;
        self.ports.remove(&key);
        Ok(())
    }

    fn pick(&mut self) -> Option<String> {
        let at = self.random.below(self.ports.len());
        self.ports.keys().nth(at).cloned()
    }

    /// Asks one server after the other until one says that it is done. `may_be_gone` says after how many attempts a 404 means that.
    fn insist(&mut self, what: &str, ask: impl Fn(&Api) -> Result<(u16, Value)>, may_be_gone: impl Fn(usize) -> bool) -> Result<Value> {
        let since = Instant::now();
        for attempt in 1.. {
            let servers = self.ladon.servers();
            let (_, api) = servers[self.random.below(servers.len())];
            let asked = Instant::now();
            let answer = ask(api);
            if asked.elapsed() > self.longest.0 {
                let said = answer.as_ref().map_or_else(|error| format!("{error:#}"), |(status, said)| format!("{status} {said}"));
                self.longest = (asked.elapsed(), format!("{what}: {said}"));
            }
            match answer {
                Ok((200..300, answer)) => {
                    self.answered += 1;
                    return Ok(answer);
                }
                Ok((404, _)) if may_be_gone(attempt) => return Ok(Value::Null),
                Ok((status @ 500..600, said)) => {
                    ensure!(said["NeutronError"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {status} {said}");
                    *self.refused.entry(status).or_default() += 1;
                }
                Ok((status, said)) => bail!("{what}: {status} {said}"),
                Err(_) => self.cut += 1,
            }
            ensure!(since.elapsed() < INSISTENCE, "{what}: no answer after {attempt} attempts");
            let_pass(self.random.within_ms(50));
        }
        unreachable!("it ends when the time is over")
    }
}

/// Kills a member or a server, and starts it again.
fn kill_one(pair: &Pair, random: &mut Random) -> Result<()> {
    let (etcd, servers) = (etcd(pair)?, pair.ladon.servers());
    let (victim, dead) = (random.below(MEMBERS + servers.len()), random.within_ms(DEAD_MAX_MS));
    let process = if victim < MEMBERS { etcd.member(victim) } else { servers[victim - MEMBERS].0 };
    process.kill9()?;
    let_pass(dead);
    process.restart()?;
    // One at a time.
    etcd.wait_until_ready()?;
    pair.ladon.wait_for_server()
}

/// Kills two members, does `meanwhile` without them, and starts them again when they have been dead for so long. How long it takes
/// from then until a write is answered.
fn lose_majority(pair: &Pair, random: &mut Random, dead: Duration, meanwhile: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let etcd = etcd(pair)?;
    let left = random.below(MEMBERS);
    let victims: Vec<_> = (0..MEMBERS).filter(|member| *member != left).collect();
    victims.iter().try_for_each(|member| etcd.member(*member).kill9())?;
    let since = Instant::now();
    etcd.wait_until_leaderless(left)?;
    for (_, api) in pair.ladon.servers() {
        api.list("port", "").context("reading without a majority")?;
    }
    meanwhile()?;
    let_pass(dead.saturating_sub(since.elapsed()));
    victims.iter().try_for_each(|member| etcd.member(*member).restart())?;
    let since = Instant::now();
    wait::until("a write to be answered", INSISTENCE, || {
        pair.api().create("security_group", json!({"name": "after"})).map(Some).map_err(|error| format!("{error:#}"))
    })?;
    let took = since.elapsed();
    etcd.wait_until_ready()?;
    Ok(took)
}

/// Servers and members forward nothing. Where nothing else runs that is seen; elsewhere it is nearly so.
fn is_hardly_disturbed(seen: &Seen) -> Result<()> {
    let all = seen.all();
    ensure!(!is_long() || all.lost <= STRAY, "lost: {all}{}", all.lossy);
    all.is_little()?;
    seen.has_streams()
}

/// Every server shows what the clients were answered, and nothing twice.
fn servers_show(ladon: &Deployment, network: &str, clients: &[Client<'_>]) -> Result<()> {
    let expected: BTreeMap<&str, &str> =
        clients.iter().flat_map(|client| client.ports.iter().map(|(id, description)| (id.as_str(), description.as_str()))).collect();
    for (server, api) in ladon.servers() {
        let ports = wait::until(&format!("{} to show what was answered", server.name()), DEADLINE, || {
            let ports = api.list("port", &format!("network_id={network}")).map_err(|error| format!("{error:#}"))?;
            let shown: BTreeMap<&str, &str> = ports
                .iter()
                .filter(|port| port["name"].as_str().is_some_and(|name| name.starts_with('c')))
                .map(|port| (id(port), port["description"].as_str().unwrap_or_default()))
                .collect();
            let differing = |(id, description): &(&&str, &&str)| shown.get(**id) != Some(*description);
            let missing: Vec<_> = expected.iter().filter(differing).collect();
            let odd: Vec<_> = shown.keys().filter(|id| !expected.contains_key(**id)).collect();
            match (missing.is_empty(), odd.is_empty()) {
                (true, true) => Ok(Some(ports.clone())),
                _ => Err(format!("lost or old: {missing:?}; never answered or deleted: {odd:?}")),
            }
        })?;
        for value in ["/fixed_ips/0/ip_address", "/fixed_ips/1/ip_address", "/mac_address"] {
            let all: Vec<String> = ports.iter().filter_map(|port| port.pointer(value)).map(Value::to_string).collect();
            ensure!(all.iter().collect::<BTreeSet<_>>().len() == all.len(), "{}: {value} is there twice: {all:?}", server.name());
        }
    }
    Ok(())
}

#[test]
fn members_and_servers_killed_under_clients_lose_and_double_nothing() -> Result<()> {
    let seed = seed();
    println!("LADON_SEED={seed}");
    let world = World::start_on_etcd(&cluster(), SERVERS)?;
    storm(&world, seed).with_context(|| format!("LADON_SEED={seed}\n{}", world.pair.ladon.logs()))
}

fn storm(world: &World, seed: u64) -> Result<()> {
    let (pair, mut random) = (&world.pair, Random::of(seed));
    let (kills, dead) = if is_long() { (KILLS_LONG, [20, 5, 30, 1].as_slice()) } else { (KILLS, [3].as_slice()) };
    let tap = pair.api().create("port", json!({"network_id": id(&world.network), "name": "tap", "binding:host_id": "n1"}))?;
    world.wait_in_force()?;
    let over = AtomicBool::new(false);
    let ((clients, back, _tap), seen) = world.under_traffic(|_| {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| Client::new(&pair.ladon, id(&world.network), number, seed))
                .map(|client| scope.spawn(|| client.run(&over)))
                .collect();
            let mut plugged = None;
            let outcome: Result<Duration> = (|| {
                (0..kills).try_for_each(|_| kill_one(pair, &mut random))?;
                let mut back = Duration::ZERO;
                for (number, secs) in dead.iter().enumerate() {
                    // What is in the view works without a store.
                    let plug = || {
                        if number == 0 {
                            plugged = Some(plug(world, &tap)?);
                        }
                        Ok(())
                    };
                    back = back.max(lose_majority(pair, &mut random, Duration::from_secs(*secs), plug)?);
                }
                (0..kills).try_for_each(|_| kill_one(pair, &mut random))?;
                Ok(back)
            })();
            over.store(true, Ordering::Relaxed);
            let clients: Result<Vec<_>> =
                clients.into_iter().map(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect();
            clients.and_then(|clients| Ok((clients, outcome?, plugged)))
        })
    })?;
    is_hardly_disturbed(&seen)?;
    pair.ladon.wait_active(id(&tap))?;
    settle(&pair.ladon)?;
    servers_show(&pair.ladon, id(&world.network), &clients)?;
    fresh_start_says_the_same(&pair.ladon, &[world.ovs(0), world.ovs(1)])?;
    let refused = clients.iter().flat_map(|client| &client.refused).fold(BTreeMap::new(), |mut all: BTreeMap<u16, usize>, (status, n)| {
        *all.entry(*status).or_default() += n;
        all
    });
    let sum = |of: fn(&Client<'_>) -> usize| clients.iter().map(of).sum::<usize>();
    let (longest, which) = clients.iter().map(|client| client.longest.clone()).max().unwrap_or_default();
    println!("the longest wait was for {which}");
    ensure!(longest < CEILING, "a write waited for {longest:?}: {which}");
    cost(
        &format!("{} kills of etcd members and servers one at a time, and {dead:?} s without a majority", 2 * kills),
        format!(
            "{}; {} writes through {SERVERS} servers answered, all of them there once, {} cut off with their server, refused {refused:?}, the longest \
             wait {:.1} s; writes are answered {} after the members' start; a tap plugged in meanwhile worked; flows and objects as a fresh start has them",
            seen.all(),
            sum(|client| client.answered),
            sum(|client| client.cut),
            longest.as_secs_f64(),
            ms(back),
        ),
    );
    Ok(())
}

/// Plugs in a port of n1 that is in its view, and waits until it is reached from the other node.
fn plug(world: &World, port: &Value) -> Result<Workload> {
    let addresses = addresses(port)?;
    let nets: Vec<_> = addresses.iter().map(|ip| (*ip, if ip.is_ipv6() { 64 } else { 24 })).collect();
    let workload = Workload::plug(world.ovs(0), "tap", port, &nets)?;
    for ip in addresses {
        wait::until(&format!("{ip} to be reached"), DEADLINE, || is_reachable(world.far.workload.netns(), ip).map(|is| is.then_some(())))?;
    }
    Ok(workload)
}

/// The server that a node follows.
fn followed(ladon: &Deployment, node: &str) -> Option<usize> {
    ladon.servers().into_iter().position(|(_, api)| {
        let answer = api.get("/ladon/v1/nodes").unwrap_or_default();
        answer["nodes"].as_array().into_iter().flatten().any(|row| row["name"] == node && row["is_connected"] == true)
    })
}

#[test]
fn nodes_of_a_killed_server_follow_another_and_no_flow_is_written() -> Result<()> {
    let world = World::start_on_etcd(&cluster(), SERVERS)?;
    let (ladon, moves) = (&world.pair.ladon, if is_long() { 12 } else { 2 });
    let (before, since) = ([Dump::of(world.ovs(0))?, Dump::of(world.ovs(1))?], Instant::now());
    let (longest, seen) = world.under_traffic(|_| {
        let mut longest = Duration::ZERO;
        for number in 0..moves {
            let node = ["n1", "n2"][number % 2];
            if is_long() {
                let_pass(STEADY);
            }
            let old = followed(ladon, node).with_context(|| format!("{node} follows a server"))?;
            let (server, _) = ladon.servers()[old];
            server.kill9()?;
            let killed = Instant::now();
            wait::until(&format!("{node} to follow another server"), DEADLINE, || Ok::<_, String>(followed(ladon, node).map(drop)))?;
            longest = longest.max(killed.elapsed());
            server.restart()?;
            settle(ladon)?;
        }
        Ok(longest)
    })?;
    is_hardly_disturbed(&seen)?;
    for (before, ovs) in before.iter().zip(&world.pair.ovs) {
        let (age, now) = (since.elapsed(), Dump::of(ovs)?);
        ensure!(now == *before, "{}", before.difference(&now));
        ensure!(youngest_flow_secs(ovs)? >= age.as_secs_f64(), "a flow was written anew on {}", ovs.host().name());
    }
    let late = world.pair.plug(&world.network, 0, "late", json!({}))?;
    wait::until("a port made afterwards to be reached", DEADLINE, || {
        is_reachable(world.far.workload.netns(), late.v4).map(|is| is.then_some(()))
    })?;
    cost(
        &format!("`kill -9` of the server that a node follows, {moves} times"),
        format!(
            "{}, both TCP streams went on; the node follows another server after {} at the latest, 0 flows written",
            seen.all(),
            ms(longest)
        ),
    );
    Ok(())
}
