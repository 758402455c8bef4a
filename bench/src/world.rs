//! A server and a node in the middle of many ports.
//!
//! ```text
//! n1  ladon server, ladon node, a few of the ports, plugged        n2, n3, …  homes of the others: were there once, and are not now
//! ```
//!
//! The server is on the node that is measured, as OVN's databases are on its chassis: between them are TCP, TLS and the loopback. The
//! others are as many as OVN's remote chassis, 50 ports on each, in turns; before there was anything, they were nodes of one process.
//!
//! Networks of equal size, on one router (the worst case for a node, since the closure of its ports is everything) or on several, of
//! which n1 has ports of the first alone. Every network has a security group of its own with the usual rules: egress, ingress from the
//! group, TCP 22 and 80, ICMP. Ports are those of virtual machines, so that every one of them is an entry of its own to other nodes
//! (pods would be one entry per block).

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use demo::{Deployment, NodeParts, Tunnel};
use lab::debian::Release;
use lab::{Host, Lab, Ovs, Progress, Underlay, wait};
use serde_json::Value;

use crate::fleet;
use crate::http::Client;
use crate::neutron::{self, VIRTUAL_MACHINE, from_group, icmp, ingress, tcp};
use crate::ovsdb::{Database, add_interfaces};
use crate::ports::API;

/// How long everything may take to be in force.
const READY: Duration = Duration::from_secs(300);
/// How often n1 is asked while it starts: finer than what is measured.
const LOOK: Duration = Duration::from_millis(2);
/// The question whether n1 has acknowledged all that was asked for so far. Its answer comes before a [`Client`] gives up.
const WAIT: &str = "/ladon/v1/wait?timeout=50&node=n1";
/// Ports on each of the other nodes.
const PORTS_ELSEWHERE: usize = 50;
/// The number of the first of these, which is named n2.
const FIRST_ELSEWHERE: usize = 2;

/// How many there are. Port number p is on network p modulo their number, and network i on router i modulo theirs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub networks: usize,
    /// Each is a tenant's: what is on one is out of reach of the others.
    pub routers: usize,
    pub ports: usize,
    /// Of the ports, those that are on n1; all of them are the first router's.
    pub local: usize,
    /// How many nodes the others are on.
    pub elsewhere: usize,
}

impl Shape {
    /// [`PORTS_ELSEWHERE`] on each of the other nodes.
    pub const fn of(networks: usize, routers: usize, ports: usize, local: usize) -> Shape {
        let elsewhere = if ports > local { (ports - local).div_ceil(PORTS_ELSEWHERE) } else { 1 };
        Shape { networks, routers, ports, local, elsewhere }
    }

    /// Everything on one router.
    pub const fn flat(networks: usize, ports: usize, local: usize) -> Shape {
        Shape::of(networks, 1, ports, local)
    }

    /// The numbers of the local ports.
    pub fn local_ports(self) -> impl Iterator<Item = usize> {
        (0..self.ports).filter(move |port| port % self.networks % self.routers == 0).take(self.local)
    }

    /// One of the networks of local ports.
    pub fn local_network(self, number: usize) -> usize {
        self.local_ports().nth(number % self.local.max(1)).unwrap_or(0) % self.networks
    }
}

/// The length of the prefix of a network's subnet: room for 2,000 ports, and for 8,000 networks.
pub const PREFIX: u8 = 21;

/// The subnet of a network.
pub fn cidr(network: usize) -> String {
    format!("{}/{PREFIX}", address(network, 0))
}

/// An address of a network's subnet.
pub fn address(network: usize, host: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + ((network << 11) + host) as u32)
}

/// All of it.
pub struct World {
    // Dropped in this order: what runs before what it runs on.
    pub ladon: Deployment,
    /// That of n1.
    pub ovs: Ovs,
    nodes_elsewhere: usize,
    pub networks: Vec<Network>,
    pub routers: Vec<String>,
    /// The ports of n1.
    pub local: Vec<String>,
    underlay: Underlay,
    _lab: Lab,
}

/// A network and the security group of its ports.
pub struct Network {
    pub id: String,
    pub group: String,
}

impl World {
    pub fn start(shape: Shape, progress: &Progress) -> Result<World> {
        Self::start_of(None, shape, progress)
    }

    /// The same on the Open vSwitch of another Debian release.
    pub fn start_of(release: Option<&Release>, shape: Shape, progress: &Progress) -> Result<World> {
        let Shape { networks, routers, ports, .. } = shape;
        let what = format!("ladon server and a node, {ports} ports on {networks} networks and {routers} routers");
        progress.during(what, || {
            let lab = Lab::scratch()?;
            let underlay = Underlay::new(&lab)?;
            let n1 = underlay.host("n1", 11)?;
            let ovs = Ovs::start_of(release, &n1)?;
            let mut ladon = Deployment::start(&lab, &n1, Tunnel::default())?;
            ladon.add_node(&n1, &ovs, None)?;
            let nodes_elsewhere = shape.elsewhere;
            let (networks, routers, local) = (Vec::new(), Vec::new(), Vec::new());
            let mut world = World { ladon, ovs, nodes_elsewhere, networks, routers, local, underlay, _lab: lab };
            world.others_come_and_go().with_context(|| world.ladon.logs())?;
            world.fill(shape).with_context(|| world.ladon.logs())?;
            Ok(world)
        })
    }

    /// The other nodes have been there, so that the way to them is known. From now on they cost nobody anything.
    fn others_come_and_go(&self) -> Result<()> {
        let numbers = FIRST_ELSEWHERE as u32..(FIRST_ELSEWHERE + self.nodes_elsewhere) as u32;
        let others = fleet::start(&self.node().host, &self.ladon, "fleet", numbers, 0)?;
        others.wait_until("the other nodes to be known", READY, || match self.ladon.api.get("/ladon/v1/nodes") {
            Ok(known) => match known["nodes"].as_array().map_or(0, Vec::len) {
                all if all == self.nodes_elsewhere + self.ladon.nodes.len() => Ok(Some(())),
                some => Err(format!("{some} nodes are known")),
            },
            Err(error) => Err(format!("{error:#}")),
        })?;
        Ok(others.kill9()?)
    }

    fn fill(&mut self, shape: Shape) -> Result<()> {
        let mut api = self.client()?;
        for number in 0..shape.routers {
            self.routers.push(neutron::make_router(&mut api, &format!("router{number}"))?);
        }
        for number in 0..shape.networks {
            let (id, subnet) = neutron::make_network(&mut api, number, &cidr(number))?;
            let router = &self.routers[number % shape.routers];
            api.update(&neutron::add_interface(router), &neutron::interface(&subnet))?;
            self.networks.push(Network { id, group: group(&mut api, number)? });
        }
        let local: BTreeSet<usize> = shape.local_ports().collect();
        for (number, network) in self.networks.iter().enumerate() {
            let all = (number..shape.ports).step_by(shape.networks);
            let (here, elsewhere): (Vec<usize>, Vec<usize>) = all.partition(|port| local.contains(port));
            self.local.extend(neutron::make_ports(&mut api, &vec![network.port("n1"); here.len()])?);
            let elsewhere: Vec<Value> = elsewhere.into_iter().map(|port| network.port(&self.elsewhere(port))).collect();
            neutron::make_ports(&mut api, &elsewhere)?;
        }
        let interfaces: Vec<_> = self.local.iter().enumerate().map(|(number, port)| (format!("p{number}"), port.clone())).collect();
        add_interfaces(&mut Database::connect(&self.ovs.db_sock(), "Open_vSwitch")?, &interfaces)?;
        self.local.iter().try_for_each(|port| self.ladon.wait_active(port))?;
        self.wait_in_force()
    }

    /// A connection to the server's API.
    pub fn client(&self) -> Result<Client> {
        self.node().host.netns().within(|| Client::connect(API))?
    }

    /// Until n1 has done all that was asked for so far: the server says so, and n1 itself.
    pub fn wait_in_force(&self) -> Result<()> {
        self.ladon.ladon(self.node(), &["wait", "--timeout", "60", "--node", "n1"])?;
        self.wait_in_force_here()
    }

    /// Until n1 says that everything is in force that it knows of; it is asked seldom enough not to be kept from it.
    pub fn wait_in_force_here(&self) -> Result<()> {
        wait::until("n1's flows to be in force", READY, || match status(self.node()) {
            Some(status) if status["is_in_force"] == true => Ok::<_, String>(Some(())),
            status => Err(format!("{status:?}")),
        })?;
        Ok(())
    }

    /// Takes from n1 all that it knows and has: its program does not run, its switch is empty.
    pub fn empty_node(&self) -> Result<()> {
        let node = self.node();
        node.process.kill9()?;
        let state = node.run_dir.parent().context("it has a parent")?.join("state");
        fs::remove_dir_all(&state).with_context(|| format!("removing {}", state.display()))?;
        for what in ["del-flows", "del-groups", "del-meters"] {
            self.ovs.ofctl(&[what, "br-int"])?;
        }
        Ok(())
    }

    /// Starts n1's program: how long until it says that everything is in force; where that is known, so many flows.
    pub fn start_node(&self, flows: Option<u64>, patience: Duration) -> Result<Duration> {
        let (node, began) = (self.node(), Instant::now());
        node.process.restart()?;
        let is_done = |status: &Value| status["is_in_force"] == true && flows.is_none_or(|flows| status["flows"] == flows);
        while !status(node).as_ref().is_some_and(is_done) {
            ensure!(began.elapsed() < patience, "after {patience:?} n1 says {:?}\n{}", status(node), self.ladon.logs());
            thread::sleep(LOOK);
        }
        Ok(began.elapsed())
    }

    /// One more host beside them.
    pub fn host(&self, name: &str, number: u8) -> Result<Host> {
        Ok(self.underlay.host(name, number)?)
    }

    /// The node on which port number `port` is, if it is not local.
    pub fn elsewhere(&self, port: usize) -> String {
        format!("n{}", FIRST_ELSEWHERE + port % self.nodes_elsewhere)
    }

    /// n1, which is looked at.
    pub fn node(&self) -> &NodeParts {
        &self.ladon.nodes[0]
    }

    /// The ports of n1, those that follow each other on different networks.
    pub fn interleaved(&self) -> Result<Vec<Value>> {
        let mut local = Vec::new();
        for network in &self.networks {
            let ports = self.ladon.api.list("port", &format!("network_id={}&binding:host_id=n1", network.id))?;
            local.extend(ports.into_iter().enumerate());
        }
        local.sort_by_key(|(turn, _)| *turn);
        Ok(local.into_iter().map(|(_, port)| port).collect())
    }

    /// How many flows n1's switch has.
    pub fn flows(&self) -> Result<u64> {
        counted_flows(&self.ovs.ofctl(&["dump-aggregate", "br-int"])?)
    }

    /// How many flows n1 says that its switch should have, besides those that every table has.
    pub fn desired_flows(&self) -> Result<u64> {
        status(self.node()).and_then(|status| status["flows"].as_u64()).context("ladon node says how many flows it has")
    }
}

/// The number of flows in what `ovs-ofctl dump-aggregate` says.
pub fn counted_flows(said: &str) -> Result<u64> {
    let count = said.split_once("flow_count=").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    count.with_context(|| said.to_string())
}

/// Until the server says that n1 has acknowledged all that was asked for so far: what is measured ends with it.
pub fn wait_acknowledged(api: &mut Client) -> Result<()> {
    let answer = api.show(WAIT)?;
    ensure!(answer["is_in_force"] == true, "{answer}");
    Ok(())
}

/// Makes a security group with the usual rules.
fn group(api: &mut Client, number: usize) -> Result<String> {
    let group = neutron::make_group(api, &format!("group{number}"))?;
    for only in [from_group(&group), tcp(22), tcp(80), icmp()] {
        neutron::make_rule(api, &ingress(&group, &[only]))?;
    }
    Ok(group)
}

impl Network {
    /// A port of a virtual machine on `host`, as it is asked for.
    pub fn port(&self, host: &str) -> Value {
        neutron::port(&self.id, [&self.group], host, VIRTUAL_MACHINE)
    }
}

/// What a node says of itself over its control socket; nothing while it does not answer.
pub fn status(node: &NodeParts) -> Option<Value> {
    let mut stream = UnixStream::connect(node.run_dir.join("node.sock")).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"{\"request\":\"status\"}\n").ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}
