//! Two nodes with somebody on them who always has something to say.
//!
//! ```text
//! n1  ladon server, node; `near` (a tap), `pod` (by ladon-cni), `metal` (by ladon plug)      n2  node; `far` (a tap)
//! ```
//!
//! All are on one network, in Neutron's `default` group. `near` connects to a VIP all the time whose member is `far`: that is what
//! groups in the switches are for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use demo::{NodeParts, Pair, Plugged, Sandbox, Tunnel};
use lab::etcd::Options;
use lab::traffic::{ConnectReport, Connecting, Pinging, StreamReport, Streaming, is_reachable};
use lab::{Netns, Ovs, wait};
use serde_json::{Value, json};

/// How long anything may take to converge on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// Between two echo requests, and between two words of a connection.
const INTERVAL: Duration = Duration::from_millis(10);
/// How long traffic is watched before a fault and after its end.
const WATCHED: Duration = Duration::from_secs(1);
/// Where connections are taken, and where those to the VIP are.
const PORT: u16 = 7000;
const VIP_PORT: u16 = 7001;
/// Between two new connections to the VIP.
const CONNECT_INTERVAL: Duration = Duration::from_millis(50);
pub const BRIDGE: &str = "br-int";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The turn of one test.
pub fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether times are as long as they are meant.
pub fn is_long() -> bool {
    std::env::var("LADON_FAULTS").is_ok_and(|length| length == "long")
}

/// How long something took is judged where nothing else runs: a test that everybody runs anywhere waits as long as it must.
pub fn is_in_time(took: Duration, bound: Duration, what: &str) -> Result<()> {
    ensure!(!is_long() || took < bound, "{what} after {took:?}");
    Ok(())
}

/// Says what a fault cost.
pub fn cost(fault: &str, measured: impl std::fmt::Display) {
    println!("fault  {fault}: {measured}");
}

pub fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}

/// Lets time pass in which nothing is waited for: a part stays dead, a cable cut, traffic is watched.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

/// Two nodes with inhabitants.
pub struct World {
    // Dropped in this order: what runs before what it runs on.
    pub near: Plugged,
    pub far: Plugged,
    pub pod: Sandbox,
    _metal: Value,
    pub network: Value,
    pub vip: IpAddr,
    pub pair: Pair,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    pub fn start() -> Result<World> {
        World::around(|| Pair::start(Tunnel::default()))
    }

    /// The same with several servers on an etcd, which are all on n1.
    pub fn start_on_etcd(options: &Options, servers: u16) -> Result<World> {
        World::around(|| Pair::start_on_etcd(Tunnel::default(), options, servers))
    }

    fn around(pair: impl FnOnce() -> Result<Pair>) -> Result<World> {
        let turn = turn();
        let pair = pair()?;
        let network = pair.network("blue", 9)?;
        // As Nova has it. A port without a host has no home while its interface is gone, and new zones when it is back.
        let near = pair.plug(&network, 0, "near", json!({"binding:host_id": "n1"}))?;
        let far = pair.plug(&network, 1, "far", json!({"binding:host_id": "n2"}))?;
        let pod = Sandbox::add(&pair.ladon, &pair.ladon.nodes[0], &network, "pod").with_context(|| pair.ladon.logs())?;
        let metal = pair.ladon.ladon(&pair.ladon.nodes[0], &["plug", "--network", "blue", "--name", "metal"])?;
        let vip = pair.balance(&network, &[("TCP", VIP_PORT)], &[(far.v4, VIP_PORT).into()])?.vip;
        let world = World { near, far, pod, _metal: metal, network, vip, pair, _turn: turn };
        world.wait_in_force()?;
        for (way, from, to) in world.ways() {
            reachable(&way, &from, to, DEADLINE).with_context(|| world.pair.ladon.logs())?;
        }
        Ok(world)
    }

    pub fn node(&self, node: usize) -> &NodeParts {
        &self.pair.ladon.nodes[node]
    }

    pub fn ovs(&self, node: usize) -> &Ovs {
        &self.pair.ovs[node]
    }

    /// Until everything that was changed so far is in force on every node.
    pub fn wait_in_force(&self) -> Result<()> {
        self.pair.ladon.ladon(self.node(0), &["wait", "--timeout", "50"]).map(drop).with_context(|| self.pair.ladon.logs())
    }

    /// Who talks to whom inside n1.
    pub fn ways_inside(&self) -> Vec<(String, Netns, IpAddr)> {
        let (near, pod, metal) = (self.near.workload.netns(), self.pod.netns(), self.node(0).host.netns());
        vec![
            ("near to pod".into(), near.clone(), self.pod.v4),
            ("pod to near".into(), pod.clone(), self.near.v6),
            ("metal to pod".into(), metal.clone(), self.pod.v6),
        ]
    }

    /// Who talks to whom over the underlay.
    pub fn ways_between(&self) -> Vec<(String, Netns, IpAddr)> {
        let (near, pod, metal) = (self.near.workload.netns(), self.pod.netns(), self.node(0).host.netns());
        let far = self.far.workload.netns();
        vec![
            ("near to far".into(), near.clone(), self.far.v4),
            ("far to pod".into(), far.clone(), self.pod.v6),
            ("pod to far".into(), pod.clone(), self.far.v4),
            ("metal to far".into(), metal.clone(), self.far.v6),
        ]
    }

    pub fn ways(&self) -> Vec<(String, Netns, IpAddr)> {
        [self.ways_inside(), self.ways_between()].concat()
    }

    /// What every way takes until it is open again, the longest of them.
    pub fn wait_reachable(&self, since: Instant, deadline: Duration) -> Result<Duration> {
        for (way, from, to) in self.ways() {
            reachable(&way, &from, to, deadline).with_context(|| self.pair.ladon.logs())?;
        }
        Ok(since.elapsed())
    }

    pub fn traffic(&self) -> Result<Traffic> {
        let start = |ways: Vec<(String, Netns, IpAddr)>| -> Result<Vec<(String, Pinging)>> {
            ways.into_iter().map(|(way, from, to)| Ok((way, Pinging::start(&from, to, INTERVAL)?))).collect()
        };
        let near = self.near.workload.netns();
        let stream = |on: &Netns, ip: IpAddr| Ok::<_, anyhow::Error>(Streaming::start(near, on, SocketAddr::new(ip, PORT), INTERVAL)?);
        let traffic = Traffic {
            inside: start(self.ways_inside())?,
            between: start(self.ways_between())?,
            stream_inside: stream(self.pod.netns(), self.pod.v4)?,
            stream_between: stream(self.far.workload.netns(), self.far.v6)?,
            connections: Connecting::start(near, self.far.workload.netns(), SocketAddr::new(self.vip, VIP_PORT), CONNECT_INTERVAL)?,
        };
        let_pass(WATCHED);
        Ok(traffic)
    }

    /// Does `fault` under traffic, and watches for a while after it.
    pub fn under_traffic<T>(&self, fault: impl FnOnce(&Traffic) -> Result<T>) -> Result<(T, Seen)> {
        let traffic = self.traffic()?;
        let done = fault(&traffic);
        let_pass(WATCHED);
        let seen = traffic.stop()?;
        Ok((done.with_context(|| self.pair.ladon.logs())?, seen))
    }
}

fn reachable(way: &str, from: &Netns, to: IpAddr, deadline: Duration) -> Result<()> {
    wait::until(way, deadline, || is_reachable(from, to).map(|is| is.then_some(())))?;
    Ok(())
}

/// Everybody talks.
pub struct Traffic {
    inside: Vec<(String, Pinging)>,
    between: Vec<(String, Pinging)>,
    pub stream_inside: Streaming,
    pub stream_between: Streaming,
    connections: Connecting,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Seen {
    pub inside: Loss,
    pub between: Loss,
    pub stream_inside: StreamReport,
    pub stream_between: StreamReport,
    /// To the VIP.
    pub connections: ConnectReport,
}

/// A port that comes keeps the userspace datapath of Open vSwitch 3.1 from forwarding for a moment, with Ladon and without it: so many
/// echo requests of each way may be lost.
const PER_PORT: u32 = 2;

/// Echo requests of several ways.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Loss {
    pub sent: u32,
    pub lost: u32,
    /// Of the way that lost most.
    pub most_of_one: u32,
    pub longest_gap_ms: f64,
    /// Which ways lost how many.
    pub lossy: String,
}

impl Traffic {
    fn stop(self) -> Result<Seen> {
        let (inside, between) = (Loss::of(self.inside)?, Loss::of(self.between)?);
        let connections = self.connections.stop()?;
        Ok(Seen { inside, between, stream_inside: self.stream_inside.stop(), stream_between: self.stream_between.stop(), connections })
    }
}

impl Loss {
    fn of(pings: Vec<(String, Pinging)>) -> Result<Loss> {
        let mut all = Loss::default();
        for (way, pinging) in pings {
            let report = pinging.stop()?;
            all.sent += report.sent;
            all.lost += report.lost;
            all.most_of_one = all.most_of_one.max(report.lost);
            all.longest_gap_ms = all.longest_gap_ms.max(report.longest_gap_ms);
            if report.lost > 0 {
                all.lossy += &format!(" {way}: {} of {};", report.lost, report.sent);
            }
        }
        Ok(all)
    }

    /// Nothing was lost but what so many ports that came may have cost.
    pub fn is_of_ports(&self, ports: u32) -> Result<()> {
        ensure!(self.most_of_one <= ports * PER_PORT, "{} of {} echo requests were lost:{}", self.lost, self.sent, self.lossy);
        Ok(())
    }

    /// At most one in a hundred was lost: what a machine that is busy with everything loses now and then.
    pub fn is_little(&self) -> Result<()> {
        ensure!(self.lost * 100 <= self.sent, "{} of {} echo requests were lost:{}", self.lost, self.sent, self.lossy);
        Ok(())
    }

    pub fn is_none(&self) -> Result<()> {
        ensure!(self.lost == 0, "{} of {} echo requests were lost:{}", self.lost, self.sent, self.lossy);
        Ok(())
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} echo requests lost, longest gap {:.0} ms", self.lost, self.sent, self.longest_gap_ms)
    }
}

impl Seen {
    pub fn all(&self) -> Loss {
        Loss {
            sent: self.inside.sent + self.between.sent,
            lost: self.inside.lost + self.between.lost,
            most_of_one: self.inside.most_of_one.max(self.between.most_of_one),
            longest_gap_ms: self.inside.longest_gap_ms.max(self.between.longest_gap_ms),
            lossy: format!("{}{}", self.inside.lossy, self.between.lossy),
        }
    }

    /// Nothing was lost, and both connections go on.
    pub fn is_undisturbed(&self) -> Result<()> {
        self.all().is_none()?;
        self.has_connections()?;
        self.has_streams()
    }

    /// The same, while ports came: what they may cost is counted where nothing else runs.
    pub fn is_undisturbed_but_for(&self, ports: u32) -> Result<()> {
        match is_long() {
            true => self.all().is_of_ports(ports)?,
            false => self.all().is_little()?,
        }
        self.has_connections()?;
        self.has_streams()
    }

    /// New connections to the VIP came about all the time.
    pub fn has_connections(&self) -> Result<()> {
        ensure!(self.connections.made > 0 && self.connections.failed == 0, "new connections to the VIP: {:?}", self.connections);
        Ok(())
    }

    /// New connections to the VIP, in words.
    pub fn to_vip(&self) -> String {
        let ConnectReport { made, failed, longest_ms, .. } = &self.connections;
        format!("{failed} of {} new connections to a VIP failed, the longest took {longest_ms:.0} ms", made + failed)
    }

    /// Both connections go on.
    pub fn has_streams(&self) -> Result<()> {
        for (where_, stream) in [("inside n1", &self.stream_inside), ("between the nodes", &self.stream_between)] {
            ensure!(stream.broken.is_none(), "the TCP connection {where_} broke: {stream:?}");
        }
        Ok(())
    }
}

/// The flows and groups of a switch's bridge, without counters. Interfaces are named: their numbers change when a switch that was
/// killed starts again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dump {
    pub flows: BTreeSet<String>,
    pub groups: BTreeSet<String>,
}

impl Dump {
    pub fn of(ovs: &Ovs) -> Result<Dump> {
        let lines = |said: String| said.lines().filter(|line| !line.contains(" reply ")).map(|line| line.trim().to_string()).collect();
        Ok(Dump {
            flows: lines(ovs.ofctl(&["--names", "--no-stats", "dump-flows", BRIDGE])?),
            groups: lines(ovs.ofctl(&["--names", "dump-groups", BRIDGE])?),
        })
    }

    /// What `self` has and `other` has not, and the other way round.
    pub fn difference(&self, other: &Dump) -> String {
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>, sign: &str| -> String {
            a.difference(b).take(10).map(|line| format!("{sign} {line}\n")).collect()
        };
        only(&self.flows, &other.flows, "-")
            + &only(&other.flows, &self.flows, "+")
            + &only(&self.groups, &other.groups, "-")
            + &only(&other.groups, &self.groups, "+")
    }
}

/// Until the switch has exactly `wanted`; how long that took.
pub fn wait_dump(ovs: &Ovs, wanted: &Dump, deadline: Duration) -> Result<Duration> {
    let since = Instant::now();
    wait::until("the switch's flows and groups to be as before", deadline, || match Dump::of(ovs) {
        Ok(now) if now == *wanted => Ok(Some(())),
        Ok(now) => Err(wanted.difference(&now)),
        Err(error) => Err(format!("{error:#}")),
    })?;
    Ok(since.elapsed())
}

/// Seconds since each flow was written, the youngest.
pub fn youngest_flow_secs(ovs: &Ovs) -> Result<f64> {
    let said = ovs.ofctl(&["--no-names", "dump-flows", BRIDGE])?;
    let ages = said.lines().filter_map(|line| line.split("duration=").nth(1)?.split('s').next()?.parse::<f64>().ok());
    ages.min_by(f64::total_cmp).context("the switch has flows")
}

/// The `external_ids` of what is plugged into the bridge.
pub fn plugged(ovs: &Ovs) -> Result<BTreeMap<String, String>> {
    let ports = ovs.vsctl(&["list-ports", BRIDGE])?;
    ports.lines().map(|port| Ok((port.to_string(), ovs.vsctl(&["get", "Interface", port, "external_ids"])?))).collect()
}
