//! TCP throughput, round-trip times and new connections per second between two machines, on one node and on two.
//!
//! Ladon's ports have security groups, so that every packet passes connection tracking and rules on both sides. The peer is a bridge
//! in the same Open vSwitch on the same hosts that does nothing but `NORMAL`, with a tunnel of the same kind between them. A second
//! bridge that tracks connections before `NORMAL` tells how much of a difference that alone makes.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use demo::{Pair, Plugged, Tunnel, id};
use lab::{MARK, Netns, Ovs, Progress, traffic, wait};
use serde_json::{Value, json};

use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread, shown};
use crate::neutron::{from_group, icmp, ingress, tcp};

/// A peer: plain Open vSwitch.
struct Peer {
    bridge: &'static str,
    /// Key of its tunnel; its machines are on 10.*key*.0.0/24.
    key: u8,
    /// Besides `NORMAL` for everything.
    flows: &'static [&'static str],
}

const PEERS: [Peer; 2] = [
    Peer { bridge: "br-normal", key: 99, flows: &[] },
    Peer {
        bridge: "br-tracking",
        key: 98,
        flows: &[
            "table=0,priority=1,ip,actions=ct(table=1,zone=98)",
            "table=1,priority=1,ip,ct_state=+trk+new,actions=ct(commit,zone=98),NORMAL",
            "table=1,priority=1,ip,ct_state=+trk+est,actions=NORMAL",
        ],
    },
];
/// Where connections are accepted, and where iperf3 listens.
pub const PORT: u16 = 80;
const IPERF: u16 = 5201;
/// Longest time that one connection may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Two machines that talk.
#[derive(Clone, Copy)]
pub struct Talk<'a> {
    pub client: &'a Netns,
    pub server: &'a Netns,
    pub to: IpAddr,
    /// The port to which connections go.
    pub port: u16,
    /// The port on which the server accepts them, which a VIP's port may lead to.
    pub accepted_on: u16,
}

/// What was measured between them, a value per turn, and every round trip.
#[derive(Default)]
struct Seen {
    megabits: Vec<f64>,
    rtts: Vec<f64>,
    connections: Vec<f64>,
}

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let pair = Pair::start(Tunnel::default())?;
    let ours = progress.during("three machines on two nodes of Ladon", || machines(&pair)).with_context(|| pair.ladon.logs())?;
    let [normal, tracking] = PEERS;
    let normal = progress.during("three machines on plain Open vSwitch", || plain(&pair, &normal))?;
    let tracking = progress.during("three machines on Open vSwitch that tracks connections", || plain(&pair, &tracking))?;
    let mut figures = Vec::new();
    for (place, other) in [("same node", 1), ("two nodes", 2)] {
        let talks = [
            Talk {
                client: ours[0].workload.netns(),
                server: ours[other].workload.netns(),
                to: ours[other].v4,
                port: PORT,
                accepted_on: PORT,
            },
            Talk { client: &normal[0].netns, server: &normal[other].netns, to: normal[other].address, port: PORT, accepted_on: PORT },
            Talk { client: &tracking[0].netns, server: &tracking[other].netns, to: tracking[other].address, port: PORT, accepted_on: PORT },
        ];
        let seen = progress.during(format!("throughput, round trips and connections, {place}"), || measure(&talks, scale))?;
        figures.extend(rows(place, &seen, scale));
    }
    Ok(figures)
}

/// Two machines on n1 and one on n2, in a group that lets its members, ICMP and TCP in.
fn machines(pair: &Pair) -> Result<[Plugged; 3]> {
    let network = pair.network("bench", 9)?;
    let group = pair.api().create("security_group", json!({"name": "bench"}))?;
    for only in [from_group(id(&group)), icmp(), tcp(PORT.into())] {
        pair.api().create("security_group_rule", ingress(id(&group), &[only]))?;
    }
    let plug = |node: usize, name: &str| pair.plug(&network, node, name, json!({"security_groups": [id(&group)]}));
    Ok([plug(0, "one")?, plug(0, "two")?, plug(1, "three")?])
}

/// A machine on plain Open vSwitch.
struct Plain {
    netns: Netns,
    name: String,
    address: IpAddr,
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = lab::command::tool("ip", &["netns", "delete", &self.name]);
    }
}

/// The same with a peer.
fn plain(pair: &Pair, peer: &Peer) -> Result<[Plain; 3]> {
    let (tunnel, key) = (format!("tun{}", peer.key), format!("options:key={}", peer.key));
    for (ovs, other) in [(&pair.ovs[0], &pair.ovs[1]), (&pair.ovs[1], &pair.ovs[0])] {
        let remote = format!("options:remote_ip={}", other.host().ipv4());
        let bridge = ["add-br", peer.bridge, "--", "set", "bridge", peer.bridge, "datapath_type=netdev", "fail-mode=standalone"];
        let tunnel =
            ["--", "add-port", peer.bridge, &tunnel, "--", "set", "interface", &tunnel, "type=geneve", &remote, &key, "options:csum=true"];
        ovs.vsctl(&[&bridge[..], &["other-config:disable-in-band=true"], &tunnel].concat())?;
        peer.flows.iter().try_for_each(|flow| ovs.ofctl(&["add-flow", peer.bridge, flow]).map(drop))?;
    }
    Ok([Plain::plug(&pair.ovs[0], peer, 1)?, Plain::plug(&pair.ovs[0], peer, 2)?, Plain::plug(&pair.ovs[1], peer, 3)?])
}

impl Plain {
    /// As `demo::Workload` makes its machines.
    fn plug(ovs: &Ovs, peer: &Peer, number: u8) -> Result<Plain> {
        let host = ovs.host();
        let device = format!("p{}-{number}", peer.key);
        let name = format!("{}-{device}", host.namespace());
        host.tool("ip", &["netns", "add", &name])?;
        let plain = Plain { netns: Netns::named(&name), name, address: Ipv4Addr::new(10, peer.key, 0, number).into() };
        host.tool("ip", &["link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns", &plain.name])?;
        host.tool("ethtool", &["-K", &device, "tx", "off"])?;
        plain.netns.tool("ethtool", &["-K", "eth0", "tx", "off"])?;
        plain.netns.ip(&[
            "link set lo up".into(),
            "link set eth0 mtu 1400 up".into(),
            format!("address add {}/24 dev eth0", plain.address),
        ])?;
        host.tool("ip", &["link", "set", &device, "up"])?;
        ovs.vsctl(&["add-port", peer.bridge, &device])?;
        Ok(plain)
    }
}

/// Everything, in turns.
fn measure(talks: &[Talk; 3], scale: Scale) -> Result<[Seen; 3]> {
    let mut seen = [Seen::default(), Seen::default(), Seen::default()];
    for talk in talks {
        // The first packets are another matter: neighbours are looked for on the underlay.
        wait::until("an answer", Duration::from_secs(10), || traffic::is_reachable(talk.client, talk.to).map(|yes| yes.then_some(())))?;
    }
    for _ in 0..scale.of(5, 1) {
        for (talk, seen) in talks.iter().zip(&mut seen) {
            seen.megabits.push(megabits(&Talk { port: IPERF, accepted_on: IPERF, ..*talk }, scale.of(5, 1))?);
        }
        for (talk, seen) in talks.iter().zip(&mut seen) {
            let pings = traffic::ping(talk.client, talk.to, scale.of(400, 50), Duration::from_millis(5))?;
            ensure!(pings.lost == 0, "{} of {} echo requests to {} were lost", pings.lost, pings.sent, talk.to);
            seen.rtts.push(pings.rtt_p50_ms);
        }
        for (talk, seen) in talks.iter().zip(&mut seen) {
            seen.connections.push(connections(talk, scale.of(Duration::from_secs(3), Duration::from_millis(500)))?);
        }
    }
    Ok(seen)
}

fn rows(place: &str, [ours, theirs, tracking]: &[Seen; 3], scale: Scale) -> Vec<Figure> {
    let how = format!(
        "Namespaces with veth pairs, MTU 1400, userspace datapath, Geneve between nodes; {} turns each: iperf3 over one TCP connection for {} s, {} echo requests at \
         5 ms, and connections (connect, one byte, close) one after another for 3 s. The value is the median of the turns; of round trips, of the turns' medians.",
        ours.megabits.len(),
        scale.of(5, 1),
        scale.of(400, 50)
    );
    let median = |values: &[f64]| Measured::p50(Spread::of(values));
    let figure = |name: &str, unit: &str, of: fn(&Seen) -> &Vec<f64>, reach: Reach| {
        Figure::new(format!("{name}, {place}"), unit, median(of(ours)), reach)
            .against("plain OVS, NORMAL", median(of(theirs)))
            .how(how.clone())
            .if_short(format!(
                "connections are tracked, which rules need; plain Open vSwitch that tracks them and has no rules: {} {unit}",
                shown(median(of(tracking)).value)
            ))
    };
    vec![
        figure("TCP throughput", "Mbit/s", |seen| &seen.megabits, Reach::AtLeastOfPeer(0.9)),
        figure("round trip", "ms", |seen| &seen.rtts, Reach::AtMostOfPeer(1.111)),
        figure("new TCP connections", "/s", |seen| &seen.connections, Reach::AtLeastOfPeer(0.9)),
    ]
}

/// An iperf3 server, for one test.
struct Iperf(Child);

impl Drop for Iperf {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// TCP throughput.
pub fn megabits(talk: &Talk, seconds: u32) -> Result<f64> {
    let (port, accepted_on) = (talk.port.to_string(), talk.accepted_on.to_string());
    let mut server = talk.server.command("iperf3");
    server.args(["--server", "--one-off", "--port", &accepted_on]).env(MARK, "iperf3").stdout(Stdio::null());
    let _server = Iperf(server.spawn().context("starting iperf3")?);
    let listening = format!(":{accepted_on} ");
    wait::until("iperf3 to listen", PATIENCE, || talk.server.tool("ss", &["-lnt"]).map(|said| said.contains(&listening).then_some(())))?;
    let mut client = talk.client.command("iperf3");
    client.args(["--json", "--client", &talk.to.to_string(), "--port", &port, "--time", &seconds.to_string()]);
    let said = lab::command::run(&mut client, Duration::from_secs(60))?.ok()?;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64().with_context(|| said.clone())?;
    Ok(bits / 1e6)
}

/// Connections per second, one after another: connect, read one byte, see the end.
pub fn connections(talk: &Talk, period: Duration) -> Result<f64> {
    let listener = talk.server.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, talk.accepted_on)))?.context("listening")?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.write_all(b"x");
                }
            }
        });
        let to = SocketAddr::new(talk.to, talk.port);
        let counted = talk.client.within(|| -> std::io::Result<f64> {
            let (started, mut count) = (Instant::now(), 0);
            while started.elapsed() < period {
                one_connection(to)?;
                count += 1;
            }
            Ok(f64::from(count) / started.elapsed().as_secs_f64())
        });
        stop.store(true, Ordering::Relaxed);
        // The last connection says so, whatever became of the others.
        talk.server.within(|| one_connection(SocketAddr::from((Ipv4Addr::LOCALHOST, talk.accepted_on))))?.context("stopping")?;
        Ok(counted?.with_context(|| format!("connecting to {to}"))?)
    })
}

fn one_connection(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said).map(drop)
}
