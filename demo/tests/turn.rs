//! A node is upgraded to a release with another pipeline while packets flow: none is lost, and what the old release left goes.
//!
//! The old release is made of this one: its flows, with every table but the first moved down by one, as if a table had come in
//! between, and with another pipeline's number in table 0. A packet that meets tables of both goes wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use demo::{Pair, Plugged, Tunnel, id};
use lab::traffic::{Pinging, ping};
use lab::wait;
use serde_json::{Value, json};

const BRIDGE: &str = "br-int";
const BEAT: Duration = Duration::from_millis(10);
/// Longer than the old half is left alone.
const PATIENCE: Duration = Duration::from_secs(120);
/// The old half is left alone for so long after the turn.
const LEFT_ALONE: Duration = Duration::from_secs(9);
/// The first tables of the two halves.
const HALVES: [u8; 2] = [1, 121];

/// A TCP connection on which something is said and answered every [`BEAT`].
struct Stream {
    stop: Arc<AtomicBool>,
    talk: JoinHandle<Result<u32>>,
}

impl Stream {
    /// From `client` to `at`, where `server` answers.
    fn start(client: &Plugged, server: &Plugged, at: SocketAddr) -> Result<Stream> {
        let any = SocketAddr::from(([0u16; 8], at.port()));
        let listener = server.workload.netns().within(|| TcpListener::bind(any))??;
        std::thread::spawn(move || -> Result<()> {
            let (mut end, _) = listener.accept()?;
            let mut byte = [0];
            while end.read(&mut byte)? == 1 {
                end.write_all(&byte)?;
            }
            Ok(())
        });
        let mut end = client.workload.netns().within(|| TcpStream::connect_timeout(&at, PATIENCE))??;
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(PATIENCE))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let talk = std::thread::spawn(move || {
            let mut beats = 0;
            while !stopped.load(Ordering::Relaxed) {
                end.write_all(b"x")?;
                end.read_exact(&mut [0]).with_context(|| format!("no answer to beat {beats}"))?;
                beats += 1;
                std::thread::sleep(BEAT);
            }
            Ok(beats)
        });
        Ok(Stream { stop, talk })
    }

    /// How often something was said and answered.
    fn stop(self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.talk.join().expect("the talk does not panic")
    }
}

/// What happens on the node `n1` while packets pass it.
struct Site {
    pair: Pair,
    near: Plugged,
    far: Plugged,
    vip: SocketAddr,
}

impl Site {
    /// A port on each node, with port security; a VIP whose member is the far one.
    fn start() -> Result<Site> {
        let pair = Pair::start(Tunnel::default())?;
        let blue = pair.network("blue", 9)?;
        let (near, far) = (pair.plug(&blue, 0, "near", json!({}))?, pair.plug(&blue, 1, "far", json!({}))?);
        let subnets = pair.api().list("subnet", &format!("network_id={}", id(&blue)))?;
        let subnet = subnets.iter().find(|subnet| subnet["ip_version"] == 4).context("an IPv4 subnet")?;
        let vip = balanced(&pair, subnet, &far)?;
        Ok(Site { pair, near, far, vip })
    }

    fn kill(&self) -> Result<()> {
        Ok(self.pair.ladon.nodes[0].process.kill9()?)
    }

    fn restart(&self) -> Result<()> {
        Ok(self.pair.ladon.nodes[0].process.restart()?)
    }

    fn ofctl(&self, args: &[&str]) -> Result<String> {
        Ok(self.pair.ovs[0].ofctl(args)?)
    }

    /// Every flow, without counters.
    fn flows(&self) -> Result<Vec<String>> {
        let dump = self.ofctl(&["--no-names", "--no-stats", "dump-flows", BRIDGE])?;
        Ok(dump.lines().filter(|line| line.contains("actions=")).map(|line| line.trim().to_string()).collect())
    }

    fn groups(&self) -> Result<Vec<String>> {
        let dump = self.ofctl(&["--no-names", "dump-groups", BRIDGE])?;
        Ok(dump.lines().filter(|line| line.contains("group_id=")).map(|line| line.trim().to_string()).collect())
    }

    fn flows_of_half(&self, half: u8) -> Result<usize> {
        let is_in = |line: &String| (half..half + 120).contains(&table(line));
        Ok(self.flows()?.iter().filter(|line| is_in(line)).count())
    }

    /// The first table of the half that packets pass.
    fn half(&self) -> Result<u8> {
        let dispatch = self.flows()?.into_iter().find(|line| table(line) == 0).context("a flow in table 0")?;
        HALVES.into_iter().find(|half| dispatch.ends_with(&format!("goto_table:{half}"))).context(dispatch)
    }

    fn until(&self, what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
        wait::until(what, PATIENCE, || is_so().map(|so| so.then_some(()))).with_context(|| self.pair.ladon.logs())
    }

    /// The switch as an older release left it in the half in force, and nothing in the other one but `litter`.
    fn make_old(&self, litter: &[&str]) -> Result<()> {
        let half = self.half()?;
        let groups = self.groups()?.into_iter().map(|line| format!("group add {}", moved(&line, half)));
        let flows = self.flows()?.into_iter().map(|line| match table(&line) {
            0 => format!("flow add cookie=0x77,table=0,priority=0,actions=goto_table:{half}"),
            _ => format!("flow add {}", moved(&line, half)),
        });
        let litter = litter.iter().map(|flow| format!("flow add {flow}"));
        let all: Vec<String> = ["flow delete".into(), "group delete".into()].into_iter().chain(groups).chain(flows).chain(litter).collect();
        let file = self.pair.ladon.nodes[0].run_dir.join("old.txt");
        std::fs::write(&file, all.join("\n"))?;
        self.ofctl(&["bundle", BRIDGE, &file.to_string_lossy()])?;
        Ok(())
    }

    /// Pings both ways of addressing and talks through the VIP while `upgrade` happens.
    fn loses_nothing_while(&self, upgrade: impl FnOnce() -> Result<()>) -> Result<()> {
        for target in [self.far.v4, self.far.v6] {
            ping(self.near.workload.netns(), target, 3, Duration::from_millis(50))?;
            let report = ping(self.near.workload.netns(), target, 20, BEAT)?;
            ensure!(report.lost == 0, "before anything happens {target} is not reached: {report:?}");
        }
        let stream = Stream::start(&self.near, &self.far, self.vip)?;
        let targets = [self.far.v4, self.far.v6];
        let pings = targets.map(|target| Pinging::start(self.near.workload.netns(), target, BEAT));
        let started = Instant::now();
        upgrade()?;
        for (target, pinging) in targets.into_iter().zip(pings) {
            let report = pinging?.stop()?;
            println!("{target}: {report:?}");
            ensure!(report.lost == 0 && report.sent > 100, "{target}: {report:?}");
        }
        let beats = stream.stop()?;
        println!("{beats} beats on one TCP connection in {:.1?}", started.elapsed());
        ensure!(beats > 100, "{beats} beats");
        Ok(())
    }
}

/// A VIP on port 8080 whose only member is `member`.
fn balanced(pair: &Pair, subnet: &Value, member: &Plugged) -> Result<SocketAddr> {
    let lb = pair.api().create("loadbalancer", json!({"name": "lb", "vip_subnet_id": id(subnet)}))?;
    let listener = json!({"loadbalancer_id": id(&lb), "protocol": "TCP", "protocol_port": 8080});
    let listener = pair.api().create("listener", listener)?;
    let pool = json!({"listener_id": id(&listener), "protocol": "TCP", "lb_algorithm": "SOURCE_IP_PORT"});
    let pool = pair.api().create("pool", pool)?;
    let wanted = json!({"member": {"address": member.v4, "protocol_port": 8080, "subnet_id": id(subnet)}});
    let (status, made) = pair.api().request("POST", &format!("/v2.0/lbaas/pools/{}/members", id(&pool)), Some(&wanted))?;
    ensure!(status == 201, "{made}");
    let vip = lb["vip_address"].as_str().context("a VIP")?.parse()?;
    for node in &pair.ladon.nodes {
        pair.ladon.ladon(node, &["wait", "--timeout", "60"])?;
    }
    Ok(SocketAddr::new(vip, 8080))
}

/// The table of a flow as it is dumped: table 0 goes without saying.
fn table(line: &str) -> u8 {
    let head = line.split(" actions=").next().unwrap_or_default();
    let table = head.split([' ', ',']).find_map(|part| part.strip_prefix("table="));
    table.map_or(0, |number| number.parse().expect("a table's number"))
}

/// A flow or group with all tables of the half but its first moved down by one.
fn moved(line: &str, half: u8) -> String {
    let mut text = line.to_string();
    for word in ["table=", "goto_table:", "resubmit(,"] {
        let mut parts = text.split(word);
        let mut moved = parts.next().unwrap_or_default().to_string();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            let number: u8 = part[..end].parse().expect("a table's number");
            let number = if number > half { number + 1 } else { number };
            moved += &format!("{word}{number}{}", &part[end..]);
        }
        text = moved;
    }
    text
}

#[test]
fn a_node_upgraded_to_another_pipeline_loses_no_packet_and_leaves_nothing_behind() -> Result<()> {
    let site = Site::start()?;
    ensure!(site.half()? == HALVES[0]);
    site.kill()?;
    site.make_old(&[])?;
    site.loses_nothing_while(|| {
        let before_the_turn = Instant::now();
        site.restart()?;
        site.until("the turn", || Ok(site.half()? == HALVES[1]))?;
        let is_there = site.flows_of_half(HALVES[0])? > 0;
        ensure!(is_there || before_the_turn.elapsed() > LEFT_ALONE, "packets on their way still find the old half");
        site.until("the old half to go", || Ok(site.flows_of_half(HALVES[0])? == 0))
    })?;
    ensure!(site.groups()?.len() == 1, "{:?}", site.groups()?);
    let node = &site.pair.ladon.nodes[0];
    let counted = site.pair.ladon.ladon_text(node, &["flows", "--table", "L2Lookup", "--object", "far", "--packets"])?;
    let packets = |line: &str| serde_json::from_str::<Value>(line).ok()?["packets"].as_u64();
    ensure!(counted.lines().filter_map(packets).sum::<u64>() > 0, "`ladon flows` counts in the half in force: {counted}");
    let names = site.pair.ovs[0].ofctl(&["--names", "dump-flows", BRIDGE, "table=Classify_B"])?;
    ensure!(names.contains(r#"table="Classify_B""#) && names.contains(r#"goto_table:"SpoofGuard_B""#), "{names}");
    Ok(())
}

#[test]
fn a_node_killed_in_the_middle_of_an_upgrade_goes_on_and_loses_no_packet() -> Result<()> {
    let site = Site::start()?;
    site.kill()?;
    // Killed before the turn: the free half has flows that were never meant to be met together.
    site.make_old(&["table=121,priority=65000,actions=drop", "table=130,priority=3,actions=drop"])?;
    site.loses_nothing_while(|| {
        site.restart()?;
        site.until("the turn", || Ok(site.half()? == HALVES[1]))?;
        // Killed after it.
        site.kill()?;
        site.restart()?;
        site.until("the old half to go", || Ok(site.flows_of_half(HALVES[0])? == 0))
    })?;
    // And back into the first half, killed while the second one is cleared.
    site.kill()?;
    site.make_old(&["table=1,priority=65000,actions=drop"])?;
    site.loses_nothing_while(|| {
        site.restart()?;
        let full = site.flows_of_half(HALVES[1])?;
        site.until("the old half to go", || Ok(site.flows_of_half(HALVES[1])? < full))?;
        site.kill()?;
        site.restart()?;
        site.until("the old half to go", || Ok(site.flows_of_half(HALVES[1])? == 0))?;
        ensure!(site.half()? == HALVES[0]);
        Ok(())
    })
}
