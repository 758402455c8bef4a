//! Level-triggered: whatever is killed at whatever moment, what is in the end is what should be.
//!
//! While ports, pods, groups and a load balancer's members come and go, one thread kills a random process at a random moment and
//! starts it again. Then nothing is killed any more, and everything is compared with what a fresh start says: every port's
//! status, every flow and group of every switch, every object of the API. Then everything is deleted, and nothing may be left: no
//! port on a bridge, no device, no zone, no group, no object.
//!
//! A seed decides who is killed when and what comes and goes; `LADON_SEED=N` repeats a run as far as the machine's own timing allows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use demo::{Api, Deployment, NodeParts, Pair, Plugged, Sandbox, Tunnel, Workload, id};
use lab::traffic::is_reachable;
use lab::{Ovs, wait};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::world::{BRIDGE, DEADLINE, Dump, cost, is_long, let_pass, wait_dump};

/// Kills of a short and of a long run.
const KILLS: usize = 15;
const KILLS_LONG: usize = 300;
/// The longest time between two kills, and that a part stays dead.
pub const PAUSE_MAX_MS: u64 = 1200;
pub const DEAD_MAX_MS: u64 = 600;
/// How long one change may take against all that is killed meanwhile.
const INSISTENCE: Duration = Duration::from_secs(120);
/// What lives at once, at most.
const POPULATION_MAX: usize = 10;

/// Chance from a seed.
pub struct Random(StdRng);

impl Random {
    pub fn of(seed: u64) -> Random {
        Random(StdRng::seed_from_u64(seed))
    }

    /// Another one, which does not disturb this one's sequence.
    pub fn fork(&mut self) -> Random {
        Random::of(self.0.random())
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0.random_range(0..limit.max(1))
    }

    pub fn within_ms(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit as usize) as u64)
    }
}

pub fn seed() -> u64 {
    let set = std::env::var("LADON_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs());
    set.unwrap_or_else(|| if is_long() { now() } else { 1 })
}

/// Does it again until it succeeds: somebody is killed all the time.
pub fn insist<T>(what: &str, mut act: impl FnMut() -> Result<T>) -> Result<T> {
    Ok(wait::until(what, INSISTENCE, || act().map(Some).map_err(|error| format!("{error:#}")))?)
}

/// A process that can be killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Server,
    Node(usize),
    Switch(usize),
    Database(usize),
}

const VICTIMS: [Victim; 7] =
    [Victim::Server, Victim::Node(0), Victim::Node(1), Victim::Switch(0), Victim::Switch(1), Victim::Database(0), Victim::Database(1)];

impl Victim {
    fn kill(self, pair: &Pair) -> Result<()> {
        let process = match self {
            Victim::Server => &pair.ladon.server,
            Victim::Node(node) => &pair.ladon.nodes[node].process,
            Victim::Switch(node) => pair.ovs[node].switch(),
            Victim::Database(node) => pair.ovs[node].database(),
        };
        Ok(process.kill9()?)
    }

    fn revive(self, pair: &Pair) -> Result<()> {
        Ok(match self {
            Victim::Server => pair.ladon.server.restart()?,
            Victim::Node(node) => pair.ladon.nodes[node].process.restart()?,
            Victim::Switch(node) => pair.ovs[node].restart_switch()?,
            Victim::Database(node) => pair.ovs[node].restart_database()?,
        })
    }
}

/// Kills one process after the other.
fn kill_all_the_time(pair: &Pair, mut random: Random, kills: usize) -> Result<BTreeMap<String, usize>> {
    let mut killed = BTreeMap::new();
    for _ in 0..kills {
        let_pass(random.within_ms(PAUSE_MAX_MS));
        let victim = VICTIMS[random.below(VICTIMS.len())];
        victim.kill(pair).with_context(|| format!("killing {victim:?}"))?;
        let_pass(random.within_ms(DEAD_MAX_MS));
        victim.revive(pair).with_context(|| format!("starting {victim:?} again"))?;
        *killed.entry(format!("{victim:?}")).or_default() += 1;
    }
    Ok(killed)
}

/// Who lives, as whoever made them knows it.
struct Population<'a> {
    pair: &'a Pair,
    network: Value,
    pool: Value,
    taps: BTreeMap<String, (usize, Plugged)>,
    pods: BTreeMap<String, (usize, Sandbox)>,
    groups: BTreeMap<String, Value>,
    members: BTreeMap<String, Value>,
    born: usize,
}

impl<'a> Population<'a> {
    fn new(pair: &'a Pair) -> Result<Population<'a>> {
        let network = pair.network("blue", 9)?;
        let api = pair.api();
        let subnets = api.list("subnet", &format!("network_id={}&ip_version=4", id(&network)))?;
        let lb = api.create("loadbalancer", json!({"name": "lb", "vip_subnet_id": id(subnets.first().context("a subnet")?)}))?;
        let listener = api.create("listener", json!({"loadbalancer_id": id(&lb), "protocol": "TCP", "protocol_port": 80}))?;
        let pool = api.create("pool", json!({"listener_id": id(&listener), "protocol": "TCP", "lb_algorithm": "SOURCE_IP_PORT"}))?;
        let (taps, pods, groups, members) = Default::default();
        Ok(Population { pair, network, pool, taps, pods, groups, members, born: 0 })
    }

    fn name(&mut self, kind: &str) -> String {
        self.born += 1;
        format!("{kind}{}", self.born)
    }

    fn node(&self, node: usize) -> &'a NodeParts {
        &self.pair.ladon.nodes[node]
    }

    /// The object of that name, made if it is not there: a server that was killed may have made it before it could say so.
    fn create(&self, kind: &str, name: &str, object: Value) -> Result<Value> {
        let api = self.pair.api();
        insist(&format!("{kind} {name} to be made"), || {
            if let Some(there) = api.list(kind, &format!("name={name}"))?.into_iter().next() {
                return Ok(there);
            }
            let mut object = object.clone();
            object["name"] = name.into();
            api.create(kind, object)
        })
    }

    fn delete(&self, kind: &str, object: &Value) -> Result<()> {
        let api = self.pair.api();
        insist(&format!("{kind} {} to be deleted", id(object)), || {
            if api.list(kind, &format!("id={}", id(object)))?.is_empty() {
                return Ok(());
            }
            api.delete(kind, id(object))
        })
    }

    /// One more comes, goes or changes.
    fn step(&mut self, random: &mut Random) -> Result<()> {
        let is_full = self.taps.len() + self.pods.len() >= POPULATION_MAX;
        match random.below(10) {
            0 | 1 if !is_full => self.add_tap(random.below(2)),
            2 | 3 if !is_full => self.add_pod(random.below(2)),
            0 | 4 => self.remove_tap(random),
            2 | 5 => self.remove_pod(random),
            6 => self.add_group(random),
            7 => self.remove_group(random),
            8 => self.add_member(random),
            _ => self.remove_member(random),
        }
    }

    fn add_tap(&mut self, node: usize) -> Result<()> {
        let name = self.name("t");
        let port = self.create("port", &name, json!({"network_id": id(&self.network)}))?;
        let plugged = insist(&format!("{name} to be plugged in"), || {
            // What is left of an attempt that failed: a row without its device.
            self.pair.ovs[node].unplug(&Workload::device_of(&name))?;
            self.pair.plug_port(node, &name, &port)
        })?;
        self.taps.insert(name, (node, plugged));
        Ok(())
    }

    fn remove_tap(&mut self, random: &mut Random) -> Result<()> {
        let Some(name) = pick(&self.taps, random) else { return Ok(()) };
        let (node, plugged) = self.taps.remove(&name).expect("it was picked");
        insist(&format!("{name} to be unplugged"), || Ok(self.pair.ovs[node].unplug(plugged.workload.device())?))?;
        self.delete("port", &plugged.port)
    }

    fn add_pod(&mut self, node: usize) -> Result<()> {
        let name = self.name("p");
        let wanted = Sandbox::wanted(self.node(node), &self.network, &name);
        let port = self.create("port", &name, wanted)?;
        let sandbox = insist(&format!("{name} to be added"), || Sandbox::plug(&self.pair.ladon, self.node(node), &name, port.clone()))?;
        self.pods.insert(name, (node, sandbox));
        Ok(())
    }

    fn remove_pod(&mut self, random: &mut Random) -> Result<()> {
        let Some(name) = pick(&self.pods, random) else { return Ok(()) };
        let (_, sandbox) = self.pods.remove(&name).expect("it was picked");
        insist(&format!("{name} to be deleted"), || sandbox.delete())?;
        self.delete("port", &sandbox.port)
    }

    /// A group with a rule, which one of the ports gets besides its own.
    fn add_group(&mut self, random: &mut Random) -> Result<()> {
        if self.groups.len() >= POPULATION_MAX {
            return Ok(());
        }
        let name = self.name("g");
        let group = self.create("security_group", &name, json!({}))?;
        let port = 1000 + random.below(1000);
        let rule = json!({"security_group_id": id(&group), "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp",
            "port_range_min": port, "port_range_max": port});
        insist("a rule to be made", || {
            match self.pair.api().request("POST", "/v2.0/security-group-rules", Some(&json!({"security_group_rule": rule})))? {
                (201 | 409, _) => Ok(()),
                (status, said) => bail!("{status} {said}"),
            }
        })?;
        if let Some((_, plugged)) = pick(&self.taps, random).and_then(|name| self.taps.get(&name)) {
            let own = plugged.port["security_groups"].as_array().cloned().unwrap_or_default();
            let all: Vec<Value> = own.into_iter().chain([group["id"].clone()]).collect();
            insist("a port's groups to change", || self.pair.api().update("port", id(&plugged.port), json!({"security_groups": all})))?;
        }
        self.groups.insert(name, group);
        Ok(())
    }

    fn remove_group(&mut self, random: &mut Random) -> Result<()> {
        let Some(name) = pick(&self.groups, random) else { return Ok(()) };
        let group = self.groups.remove(&name).expect("it was picked");
        for (_, plugged) in self.taps.values() {
            let own = &plugged.port["security_groups"];
            insist("a port's groups to change", || self.pair.api().update("port", id(&plugged.port), json!({"security_groups": own})))?;
        }
        self.delete("security_group", &group)
    }

    fn members_path(&self) -> String {
        format!("/v2.0/lbaas/pools/{}/members", id(&self.pool))
    }

    fn add_member(&mut self, random: &mut Random) -> Result<()> {
        let Some((_, plugged)) = pick(&self.taps, random).and_then(|name| self.taps.get(&name)) else { return Ok(()) };
        let (address, port) = (plugged.v4, 1 + random.below(60_000));
        let name = self.name("m");
        let wanted = json!({"member": {"name": name, "address": address, "protocol_port": port, "weight": 1 + random.below(4)}});
        let path = self.members_path();
        let member = insist(&format!("member {name} to be made"), || {
            let there = self.pair.api().get(&format!("{path}?name={name}"))?;
            if let Some(member) = there["members"].as_array().and_then(|all| all.first()) {
                return Ok(member.clone());
            }
            match self.pair.api().request("POST", &path, Some(&wanted))? {
                (201, made) => Ok(made["member"].clone()),
                (status, said) => bail!("{status} {said}"),
            }
        })?;
        self.members.insert(name, member);
        Ok(())
    }

    fn remove_member(&mut self, random: &mut Random) -> Result<()> {
        let Some(name) = pick(&self.members, random) else { return Ok(()) };
        let member = self.members.remove(&name).expect("it was picked");
        let path = format!("{}/{}", self.members_path(), id(&member));
        insist(&format!("member {name} to go"), || match self.pair.api().request("DELETE", &path, None)? {
            (204 | 404, _) => Ok(()),
            (status, said) => bail!("{status} {said}"),
        })
    }

    fn remove_everything(&mut self, random: &mut Random) -> Result<()> {
        while !self.members.is_empty() {
            self.remove_member(random)?;
        }
        while !self.taps.is_empty() {
            self.remove_tap(random)?;
        }
        while !self.pods.is_empty() {
            self.remove_pod(random)?;
        }
        while !self.groups.is_empty() {
            self.remove_group(random)?;
        }
        let api = self.pair.api();
        for kind in ["pool", "listener", "loadbalancer", "network"] {
            for object in api.list(kind, "")? {
                insist(&format!("{kind} to be deleted"), || match api.list(kind, &format!("id={}", id(&object)))?.is_empty() {
                    true => Ok(()),
                    false => api.delete(kind, id(&object)),
                })?;
            }
        }
        Ok(())
    }

    /// What lives on a node by its interface's name on the bridge.
    fn interfaces(&self, node: usize) -> Result<BTreeSet<String>> {
        let taps = self.taps.values().filter(|(home, _)| *home == node).map(|(_, tap)| tap.workload.device().to_string());
        let pods = self.pods.values().filter(|(home, _)| *home == node);
        let pods: BTreeSet<String> = pods.map(|(_, pod)| pod.host_device()).collect::<Result<_>>()?;
        Ok(taps.chain(pods).collect())
    }
}

fn pick<T>(all: &BTreeMap<String, T>, random: &mut Random) -> Option<String> {
    let at = random.below(all.len());
    all.keys().nth(at).cloned()
}

/// Until every node follows and everything that was changed is in force.
pub fn settle(ladon: &Deployment) -> Result<()> {
    ladon.wait_for_server()?;
    ladon.wait_connected()?;
    ladon.ladon(&ladon.nodes[0], &["wait", "--timeout", "30"]).map(drop)
}

/// Every port that lives is ACTIVE, no other is there, and everybody reaches everybody's port from one place.
fn ports_are_right(population: &Population<'_>) -> Result<()> {
    let pair = population.pair;
    let of = |object: &Value| id(object).to_string();
    let expected: BTreeSet<String> =
        population.taps.values().map(|(_, tap)| of(&tap.port)).chain(population.pods.values().map(|(_, pod)| of(&pod.port))).collect();
    expected.iter().try_for_each(|port| pair.ladon.wait_active(port))?;
    let there = pair.api().list("port", "")?;
    let there: BTreeSet<String> = there.iter().filter(|port| port["device_owner"] != "Octavia").map(of).collect();
    ensure!(there == expected, "ports {there:?} are there, {expected:?} should be");
    let Some((_, observer)) = population.taps.values().next() else { return Ok(()) };
    let pods = population.pods.iter().flat_map(|(name, (_, pod))| [(name, pod.v4), (name, pod.v6)]);
    let taps = population.taps.iter().flat_map(|(name, (_, tap))| [(name, tap.v4), (name, tap.v6)]);
    for (name, ip) in taps.chain(pods).filter(|(_, ip)| ![observer.v4, observer.v6].contains(ip)) {
        wait::until(&format!("{name} to be reached"), DEADLINE, || is_reachable(observer.workload.netns(), ip).map(|is| is.then_some(())))?;
    }
    Ok(())
}

/// Every object that the API shows.
pub fn objects(api: &Api) -> Result<BTreeMap<String, Value>> {
    let kinds = ["network", "subnet", "port", "router", "security_group", "security_group_rule", "loadbalancer", "listener", "pool"];
    let mut all = BTreeMap::new();
    for kind in kinds {
        all.extend(api.list(kind, "")?.into_iter().map(|object| (format!("{kind} {}", id(&object)), object)));
    }
    for pool in api.list("pool", "")? {
        let members = api.get(&format!("/v2.0/lbaas/pools/{}/members", id(&pool)))?;
        let members = members["members"].as_array().cloned().unwrap_or_default();
        all.extend(members.into_iter().map(|object| (format!("member {}", id(&object)), object)));
    }
    Ok(all)
}

/// Servers that begin with the store, and nodes and switches that begin with nothing but their numbers and zones, have the same.
pub fn fresh_start_says_the_same(ladon: &Deployment, switches: &[&Ovs]) -> Result<()> {
    let dumps = switches.iter().map(|ovs| Dump::of(ovs)).collect::<Result<Vec<_>>>()?;
    let before = objects(&ladon.api)?;
    ladon.servers().into_iter().try_for_each(|(server, _)| server.kill9())?;
    ladon.nodes.iter().try_for_each(|node| node.process.kill9())?;
    for ovs in switches {
        ovs.ofctl(&["del-flows", BRIDGE])?;
        ovs.ofctl(&["del-groups", BRIDGE])?;
    }
    // A node that went on with its own view would make what it missed, or misunderstood, once more.
    for node in &ladon.nodes {
        for name in ["view", "view.journal", "view.journal.old"] {
            let path = node.host.folder("ladon")?.join("state").join(name);
            if path.exists() {
                std::fs::remove_file(&path)?;
            }
        }
    }
    ladon.nodes.iter().try_for_each(|node| node.process.restart())?;
    ladon.servers().into_iter().try_for_each(|(server, _)| server.restart())?;
    settle(ladon)?;
    for (dump, ovs) in dumps.iter().zip(switches) {
        wait_dump(ovs, dump, DEADLINE).with_context(|| format!("a fresh start on {}", ovs.host().name()))?;
    }
    let after = objects(&ladon.api)?;
    ensure!(after == before, "a fresh start shows other objects: {:?}", difference(&before, &after));
    Ok(())
}

pub fn difference(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Vec<String> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differ = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    differ.map(|key| format!("{key}: {:?} -> {:?}", before.get(key), after.get(key))).collect()
}

/// The node remembers, and its switch and machine have, what lives there and nothing else.
fn nothing_leaked(population: &Population<'_>) -> Result<()> {
    for (number, (node, ovs)) in population.pair.ladon.nodes.iter().zip(&population.pair.ovs).enumerate() {
        let expected = population.interfaces(number)?;
        let on_bridge: BTreeSet<String> =
            ovs.vsctl(&["list-ports", BRIDGE])?.lines().filter(|port| *port != "ladon-geneve").map(str::to_string).collect();
        ensure!(on_bridge == expected, "on {}'s bridge are {on_bridge:?}, {expected:?} should be", node.host.name());
        let links: Value = serde_json::from_str(&node.host.tool("ip", &["-j", "link", "show"])?)?;
        let links = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        let links: BTreeSet<String> = links.filter(|name| name.starts_with("lad") || name.starts_with("w-")).map(str::to_string).collect();
        ensure!(links == expected, "on {} are the devices {links:?}, {expected:?} should be", node.host.name());
        let state = node.config.with_file_name("state");
        let read =
            |file: &str| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(state.join(file)).with_context(|| file.to_string())?)?) };
        let zones = read("zones.json")?["places"].as_object().map_or(0, serde_json::Map::len);
        ensure!(zones == expected.len(), "{} has zones for {zones} ports, {} live there", node.host.name(), expected.len());
        let pods = read("pods.json")?.as_object().map_or(0, serde_json::Map::len);
        let expected = population.pods.values().filter(|(home, _)| *home == number).count();
        ensure!(pods == expected, "{} remembers {pods} pods, {expected} live there", node.host.name());
    }
    Ok(())
}

#[test]
fn whatever_is_killed_at_whatever_moment_everything_ends_as_it_should() -> Result<()> {
    let (seed, kills) = (seed(), if is_long() { KILLS_LONG } else { KILLS });
    println!("LADON_SEED={seed}");
    let _turn = crate::world::turn();
    let pair = Pair::start(Tunnel::default())?;
    let outcome = storm(&pair, seed, kills);
    let measured = outcome.with_context(|| format!("LADON_SEED={seed}\n{}", pair.ladon.logs()))?;
    cost(&format!("{kills} kills at random moments"), measured);
    Ok(())
}

fn storm(pair: &Pair, seed: u64, kills: usize) -> Result<String> {
    settle(&pair.ladon)?;
    let (empty, nothing) = ([Dump::of(&pair.ovs[0])?, Dump::of(&pair.ovs[1])?], objects(pair.api())?);
    let mut random = Random::of(seed);
    let mut population = Population::new(pair)?;
    let over = AtomicBool::new(false);
    let victims = random.fork();
    let (killed, changes) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let killed = kill_all_the_time(pair, victims, kills);
            over.store(true, Ordering::Relaxed);
            killed
        });
        let mut changes = 0;
        let mut outcome = Ok(());
        while outcome.is_ok() && !over.load(Ordering::Relaxed) {
            outcome = population.step(&mut random);
            changes += 1;
        }
        let killed = killer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome.and(killed).map(|killed| (killed, changes))
    })?;
    let since = Instant::now();
    settle(&pair.ladon)?;
    ports_are_right(&population)?;
    let settled = since.elapsed();
    nothing_leaked(&population)?;
    fresh_start_says_the_same(&pair.ladon, &[&pair.ovs[0], &pair.ovs[1]])?;
    let lived = population.taps.len() + population.pods.len();
    population.remove_everything(&mut random)?;
    settle(&pair.ladon)?;
    nothing_leaked(&population)?;
    let left = objects(pair.api())?;
    ensure!(left == nothing, "left in the store: {:?}", difference(&nothing, &left));
    for (dump, ovs) in empty.iter().zip(&pair.ovs) {
        wait_dump(ovs, dump, DEADLINE).with_context(|| format!("what is left in {}'s switch", ovs.host().name()))?;
    }
    Ok(format!(
        "{changes} changes meanwhile; {lived} ports right {:.1} s after the last; flows, groups and objects as a fresh start has them; nothing left. Killed: {killed:?}",
        settled.as_secs_f32()
    ))
}
