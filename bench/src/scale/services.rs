//! Many Services with ten backends each: what they cost a node, and what one more backend or Service costs in the midst of them.
//!
//! A Service is a load balancer with one TCP listener and one pool, made by one request; its VIP is on a network of its own behind the
//! router, so that every node with a port holds all of them. OVN has the same as rows of `Load_Balancer`, in one `Load_Balancer_Group` of
//! every switch, as OVN-Kubernetes writes them.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use demo::id;
use lab::Progress;
use serde_json::{Value, json};

use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread};
use crate::http::Client;
use crate::memory::megabytes;
use crate::neutron::{self, VIRTUAL_MACHINE};
use crate::ovn::{self, Ovn};
use crate::world::{Shape, World, wait_acknowledged};

/// Backends of a Service.
const BACKENDS: usize = 10;
/// Clients that make Services at once.
const CLIENTS: usize = 8;
/// How long anything may take.
const READY: Duration = Duration::from_secs(300);
const LOAD_BALANCERS: &str = "/v2.0/lbaas/loadbalancers";

/// What one system showed.
struct Seen {
    flows: u64,
    megabytes: f64,
    restarts: Vec<Duration>,
    backends: Vec<Duration>,
    services: Vec<Duration>,
}

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let shape = scale.of(Shape::flat(10, 1_000, 50), Shape::flat(2, 100, 4));
    let (count, times, restarts) = (scale.of(10_000, 100), scale.of(50, 5), scale.of(3, 1));
    let release = ovn::release(progress)?;
    let world = World::start_of(Some(&release), shape, progress)?;
    let ours = of_ladon(&world, count, times, restarts, progress).with_context(|| world.ladon.logs())?;
    let host = world.host("ovn", 21)?;
    let theirs = of_ovn(Ovn::start(&host, &release, shape, progress)?, count, times, restarts, progress)?;
    let how = format!(
        "{count} Services with {BACKENDS} backends of their own each, among {} ports on {} networks and one router, {} of them on the node. Flows are all that the switch has. A restart is `kill -9`, \
         then a start, beside a switch that is full and right: until everything is in force again (OVN: `hv_cfg`, and as many flows as before), the median of {restarts}. Memory is VmRSS of \
         `ladon node` (`ovn-controller`) after that. One backend or Service more, and away again, {times} times: from the request (transaction) until the node has acknowledged it.",
        shape.ports, shape.networks, shape.local
    );
    let seconds = |times: &[Duration]| Measured::p50(Spread::of_seconds(times));
    let millis = |times: &[Duration]| Measured::p50(Spread::of_times(times));
    let figure = |name: &str, unit: &str, [ours, theirs]: [Measured; 2], share: f64| {
        Figure::new(format!("{count} Services: {name}"), unit, ours, Reach::AtMostOfPeer(share))
            .against("OVN 25.03", theirs)
            .how(how.clone())
    };
    let both = |of: &dyn Fn(&Seen) -> Measured| [of(&ours), of(&theirs)];
    Ok(vec![
        figure("flows of the node", "flows", both(&|seen| (seen.flows as f64).into()), 0.15),
        figure("restart of the node's program", "s", both(&|seen| seconds(&seen.restarts)), 0.1)
            .if_short("the node reads and indexes every object of its view, compiles all flows and compares them with what the switch tells; the switch forwards meanwhile, and no flow changes"),
        figure("memory of the node's program", "MB", both(&|seen| seen.megabytes.into()), 0.25)
            .if_short("each of 100,000 members is an object, a bucket of a group and an entry in two indexes"),
        figure("one backend more or less, p50", "ms", both(&|seen| millis(&seen.backends)), 0.1).if_short(super::FIXED),
        figure("one Service more or less, p50", "ms", both(&|seen| millis(&seen.services)), 0.1).if_short(super::FIXED),
    ])
}

fn of_ladon(world: &World, count: usize, times: usize, restarts: usize, progress: &Progress) -> Result<Seen> {
    let services = Services::on(world)?;
    let pools = progress.during(format!("{count} Services"), || {
        let pools = services.make(0..count)?;
        wait_acknowledged(&mut world.client()?)?;
        anyhow::Ok(pools)
    })?;
    // The server closes a connection on which nothing is asked for a while.
    let mut client = world.client()?;
    let (mut backends, mut more) = (Vec::new(), Vec::new());
    progress.during(format!("{times} backends and {times} Services come and go"), || {
        for number in 0..times {
            let members = format!("/v2.0/lbaas/pools/{}/members", pools[number * pools.len() / times]);
            let body = json!({"member": {"address": services.addresses[0], "protocol_port": 9_090}});
            let made = timed(&mut backends, &mut client, |client| client.create(&members, &body))?;
            timed(&mut backends, &mut client, |client| client.delete(&format!("{members}/{}", id(&made["member"]))))?;
        }
        for number in 0..times {
            let body = services.body(count + number);
            let made = timed(&mut more, &mut client, |client| client.create(LOAD_BALANCERS, &body))?;
            let path = format!("{LOAD_BALANCERS}/{}?cascade=true", id(&made["loadbalancer"]));
            timed(&mut more, &mut client, |client| client.delete(&path))?;
        }
        anyhow::Ok(())
    })?;
    let (flows, desired) = (world.flows()?, world.desired_flows()?);
    let restarts = progress.during(format!("ladon node killed {restarts} times beside {flows} flows"), || {
        (0..restarts).map(|_| restart(world, desired)).collect::<Result<Vec<_>>>()
    })?;
    Ok(Seen { flows, megabytes: megabytes(&world.node().process)?, restarts, backends, services: more })
}

/// How long the work takes until the node has acknowledged it.
fn timed<T>(times: &mut Vec<Duration>, client: &mut Client, work: impl FnOnce(&mut Client) -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let value = work(client)?;
    wait_acknowledged(client)?;
    times.push(began.elapsed());
    Ok(value)
}

fn restart(world: &World, flows: u64) -> Result<Duration> {
    world.node().process.kill9()?;
    world.start_node(Some(flows), READY)
}

fn of_ovn(mut ovn: Ovn, count: usize, times: usize, restarts: usize, progress: &Progress) -> Result<Seen> {
    let addresses = ovn.addresses();
    let of = |service: usize, count: usize| -> Vec<String> {
        backends(service, addresses.len()).take(count).map(|port| format!("{}:8080", addresses[port])).collect()
    };
    let mut services =
        progress.during(format!("{count} Services in OVN"), || ovn::Services::make(&mut ovn, count, |service| of(service, BACKENDS)))?;
    let (mut backends, mut more) = (Vec::new(), Vec::new());
    let timed = |times: &mut Vec<Duration>, work: &mut dyn FnMut() -> Result<()>| {
        let began = Instant::now();
        work()?;
        times.push(began.elapsed());
        anyhow::Ok(())
    };
    progress.during(format!("{times} backends and {times} Services come and go in OVN"), || {
        for number in 0..times {
            let service = number * count / times;
            timed(&mut backends, &mut || services.change(service, &of(service, BACKENDS + 1)))?;
            timed(&mut backends, &mut || services.change(service, &of(service, BACKENDS)))?;
        }
        for number in 0..times {
            timed(&mut more, &mut || services.add(&of(count + number, BACKENDS)))?;
            timed(&mut more, &mut || services.remove())?;
        }
        anyhow::Ok(())
    })?;
    let flows = ovn.flows()?;
    let restarts = progress.during(format!("ovn-controller killed {restarts} times beside {flows} flows"), || {
        (0..restarts).map(|_| ovn.restart(false)).collect::<Result<Vec<_>>>()
    })?;
    Ok(Seen { flows, megabytes: megabytes(ovn.controller()?)?, restarts, backends, services: more })
}

/// Where Services are, and what may be behind them.
pub struct Services<'a> {
    world: &'a World,
    subnet: String,
    addresses: Vec<Ipv4Addr>,
}

impl Services<'_> {
    /// A network for VIPs on the world's router.
    pub fn on(world: &World) -> Result<Services<'_>> {
        let api = &world.ladon.api;
        let network = api.create("network", json!({"name": "services"}))?;
        let subnet = api.create("subnet", neutron::subnet(id(&network), "172.30.0.0/16"))?;
        api.put(&neutron::add_interface(&world.routers[0]), neutron::interface(id(&subnet)))?;
        let ports = api.list("port", &format!("device_owner={VIRTUAL_MACHINE}"))?;
        let address = |port: &Value| port["fixed_ips"][0]["ip_address"].as_str().and_then(|ip| ip.parse().ok());
        Ok(Services { world, subnet: id(&subnet).into(), addresses: ports.iter().filter_map(address).collect() })
    }

    /// A Service in front of `members`, each an address and a port.
    fn of(&self, name: &str, members: impl Iterator<Item = (Ipv4Addr, u16)>) -> Value {
        let members: Vec<Value> = members.map(|(address, port)| json!({"address": address, "protocol_port": port})).collect();
        json!({"loadbalancer": {
            "name": name, "vip_subnet_id": self.subnet,
            "pools": [{"name": "all", "protocol": "TCP", "lb_algorithm": "SOURCE_IP_PORT", "members": members}],
            "listeners": [{"protocol": "TCP", "protocol_port": 80, "default_pool": {"name": "all"}}],
        }})
    }

    fn body(&self, number: usize) -> Value {
        let members = backends(number, self.addresses.len()).take(BACKENDS).map(|port| (self.addresses[port], 8080));
        self.of(&format!("service{number}"), members)
    }

    /// One Service in front of one machine; its VIP.
    pub fn make_one(&self, client: &mut Client, member: (Ipv4Addr, u16)) -> Result<IpAddr> {
        let made = client.create(LOAD_BALANCERS, &self.of("one", std::iter::once(member)))?;
        Ok(made["loadbalancer"]["vip_address"].as_str().context("it has a VIP")?.parse()?)
    }

    /// Makes Services by several clients; their pools.
    fn make(&self, numbers: Range<usize>) -> Result<Vec<String>> {
        let some = |first: usize| -> Result<Vec<String>> {
            let mut client = self.world.client()?;
            let make = |number| {
                let made = client.create(LOAD_BALANCERS, &self.body(number))?;
                Ok(id(&made["loadbalancer"]["pools"][0]).to_string())
            };
            numbers.clone().skip(first).step_by(CLIENTS).map(make).collect()
        };
        let some = &some;
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|first| scope.spawn(move || some(first))).collect();
            let made = clients.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            Ok(made.collect::<Result<Vec<_>>>()?.concat())
        })
    }
}

/// The numbers of a Service's backends among `ports`, and of further ones: every Service has others.
fn backends(service: usize, ports: usize) -> impl Iterator<Item = usize> {
    (0..ports).map(move |one| (service * 7_919 + one) % ports)
}
