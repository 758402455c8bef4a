//! A node is upgraded to a release with another pipeline while packets flow: none is lost, and what the old release left goes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use demo::older::{self, HALVES, flows_of_half, groups, half_in_force};
use demo::{Pair, Plugged, Tunnel, id};
use lab::traffic::{Pinging, ping};
use lab::{Ovs, wait};
use serde_json::{Value, json};

const BEAT: Duration = Duration::from_millis(10);
/// Longer than the old half is left alone.
const PATIENCE: Duration = Duration::from_secs(120);
/// The old half is left alone for so long after the turn.
const LEFT_ALONE: Duration = Duration::from_secs(9);

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

    fn ovs(&self) -> &Ovs {
        &self.pair.ovs[0]
    }

    fn until(&self, what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
        wait::until(what, PATIENCE, || is_so().map(|so| so.then_some(()))).with_context(|| self.pair.ladon.logs())
    }

    /// The switch as an older release left it in the half in force, and nothing in the other one but `litter`.
    fn make_old(&self, litter: &[&str]) -> Result<()> {
        older::leave(self.ovs(), &self.pair.ladon.nodes[0].run_dir.join("old.txt"), litter).map(drop)
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

#[test]
fn a_node_upgraded_to_another_pipeline_loses_no_packet_and_leaves_nothing_behind() -> Result<()> {
    let site = Site::start()?;
    ensure!(half_in_force(site.ovs())? == HALVES[0]);
    site.kill()?;
    site.make_old(&[])?;
    site.loses_nothing_while(|| {
        let before_the_turn = Instant::now();
        site.restart()?;
        site.until("the turn", || Ok(half_in_force(site.ovs())? == HALVES[1]))?;
        let is_there = flows_of_half(site.ovs(), HALVES[0])? > 0;
        ensure!(is_there || before_the_turn.elapsed() > LEFT_ALONE, "packets on their way still find the old half");
        site.until("the old half to go", || Ok(flows_of_half(site.ovs(), HALVES[0])? == 0))
    })?;
    ensure!(groups(site.ovs())?.len() == 1, "{:?}", groups(site.ovs())?);
    let node = &site.pair.ladon.nodes[0];
    let counted = site.pair.ladon.ladon_text(node, &["flows", "--table", "L2Lookup", "--object", "far", "--packets"])?;
    let packets = |line: &str| serde_json::from_str::<Value>(line).ok()?["packets"].as_u64();
    ensure!(counted.lines().filter_map(packets).sum::<u64>() > 0, "`ladon flows` counts in the half in force: {counted}");
    let names = site.ovs().ofctl(&["--names", "dump-flows", "br-int", "table=Classify_B"])?;
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
        site.until("the turn", || Ok(half_in_force(site.ovs())? == HALVES[1]))?;
        // Killed after it.
        site.kill()?;
        site.restart()?;
        site.until("the old half to go", || Ok(flows_of_half(site.ovs(), HALVES[0])? == 0))
    })?;
    // And back into the first half, killed while the second one is cleared.
    site.kill()?;
    site.make_old(&["table=1,priority=65000,actions=drop"])?;
    site.loses_nothing_while(|| {
        site.restart()?;
        let full = flows_of_half(site.ovs(), HALVES[1])?;
        site.until("the old half to go", || Ok(flows_of_half(site.ovs(), HALVES[1])? < full))?;
        site.kill()?;
        site.restart()?;
        site.until("the old half to go", || Ok(flows_of_half(site.ovs(), HALVES[1])? == 0))?;
        ensure!(half_in_force(site.ovs())? == HALVES[0]);
        Ok(())
    })
}
