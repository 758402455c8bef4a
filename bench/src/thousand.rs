//! A server and two nodes in the middle of many ports.
//!
//! ```text
//! control  ladon server        n1  a few of the ports, plugged        n2  home of all the others, which nobody has plugged
//! ```
//!
//! Networks of equal size on one router: the worst case for a node, since the closure of its ports is everything. Every network has
//! a security group of its own with the usual rules: egress, ingress from the group, TCP 22 and 80, ICMP. Ports are those of virtual
//! machines, so that every one of them is an entry of its own to other nodes (pods would be one entry per block).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use demo::{Deployment, NodeParts, Tunnel, id};
use lab::{Host, Lab, Ovs, Progress, Underlay, wait};
use serde_json::{Value, json};

/// How long everything may take to be in force.
const READY: Duration = Duration::from_secs(120);
/// Ports of one bulk request.
const BULK: usize = 250;

/// How many there are.
#[derive(Clone, Copy)]
pub struct Shape {
    pub networks: usize,
    pub ports: usize,
    /// Of the ports, those that are on n1.
    pub local: usize,
}

/// All of it.
pub struct Thousand {
    // Dropped in this order: what runs before what it runs on.
    pub ladon: Deployment,
    pub ovs: [Ovs; 2],
    pub control: Host,
    pub networks: Vec<Network>,
    underlay: Underlay,
    _lab: Lab,
}

/// A network and the security group of its ports.
pub struct Network {
    pub id: String,
    pub group: String,
}

impl Thousand {
    pub fn start(shape: Shape, progress: &Progress) -> Result<Thousand> {
        let what = format!("ladon server and two nodes, {} ports on {} networks and one router", shape.ports, shape.networks);
        progress.during(what, || {
            let lab = Lab::scratch()?;
            let underlay = Underlay::new(&lab)?;
            let (control, one, two) = (underlay.host("control", 1)?, underlay.host("n1", 11)?, underlay.host("n2", 12)?);
            let ovs = [Ovs::start(&one)?, Ovs::start(&two)?];
            let mut ladon = Deployment::start(&lab, &control, Tunnel::default())?;
            ladon.add_node(&one, &ovs[0], None)?;
            ladon.add_node(&two, &ovs[1], None)?;
            let mut world = Thousand { ladon, ovs, control, networks: Vec::new(), underlay, _lab: lab };
            world.fill(shape).with_context(|| world.ladon.logs())?;
            Ok(world)
        })
    }

    fn fill(&mut self, shape: Shape) -> Result<()> {
        let router = self.ladon.api.create("router", json!({"name": "bench"}))?;
        for number in 0..shape.networks {
            let network = self.network(number, id(&router))?;
            self.networks.push(network);
        }
        let mut local = Vec::new();
        for (number, network) in self.networks.iter().enumerate() {
            let share = |all: usize| all / shape.networks + usize::from(number < all % shape.networks);
            local.extend(self.ports(network, "n1", share(shape.local))?);
            self.ports(network, "n2", share(shape.ports - shape.local))?;
        }
        for (number, port) in local.iter().enumerate() {
            self.plug(&format!("p{number}"), port)?;
        }
        local.iter().try_for_each(|port| self.ladon.wait_active(id(port)))?;
        self.wait_in_force()
    }

    fn network(&self, number: usize, router: &str) -> Result<Network> {
        let api = &self.ladon.api;
        let network = api.create("network", json!({"name": format!("net{number}")}))?;
        let cidr = format!("10.{}.0.0/16", 10 + number);
        let subnet = api.create("subnet", json!({"network_id": id(&network), "ip_version": 4, "cidr": cidr}))?;
        api.put(&format!("/v2.0/routers/{router}/add_router_interface"), json!({"subnet_id": id(&subnet)}))?;
        let group = api.create("security_group", json!({"name": format!("group{number}")}))?;
        let rules = [
            json!({"remote_group_id": id(&group)}),
            json!({"protocol": "tcp", "port_range_min": 22, "port_range_max": 22}),
            json!({"protocol": "tcp", "port_range_min": 80, "port_range_max": 80}),
            json!({"protocol": "icmp"}),
        ];
        for mut rule in rules {
            let always = json!({"security_group_id": id(&group), "direction": "ingress", "ethertype": "IPv4"});
            rule.as_object_mut().expect("an object").extend(always.as_object().cloned().unwrap_or_default());
            api.create("security_group_rule", rule)?;
        }
        Ok(Network { id: id(&network).into(), group: id(&group).into() })
    }

    /// Makes ports that live on `host`.
    fn ports(&self, network: &Network, host: &str, count: usize) -> Result<Vec<Value>> {
        let mut made = Vec::new();
        while made.len() < count {
            let ports = vec![network.port(host); BULK.min(count - made.len())];
            match self.ladon.api.request("POST", "/v2.0/ports", Some(&json!({"ports": ports})))? {
                (201, mut document) => made.extend(document["ports"].as_array_mut().map(std::mem::take).context("a list of ports")?),
                (status, document) => bail!("creating ports: {status} {document}"),
            }
        }
        Ok(made)
    }

    /// An interface of n1's switch that is the port.
    fn plug(&self, device: &str, port: &Value) -> Result<()> {
        let ids = format!("external_ids:iface-id={}", id(port));
        self.ovs[0].vsctl(&["add-port", "br-int", device, "--", "set", "Interface", device, "type=internal", &ids])?;
        Ok(())
    }

    /// Until every node has done all that was asked for so far.
    pub fn wait_in_force(&self) -> Result<()> {
        self.ladon.ladon(self.node(), &["wait", "--timeout", "60"])?;
        wait::until("n1's flows to be in force", READY, || match status(self.node()) {
            Some(status) if status["is_in_force"] == true => Ok::<_, String>(Some(())),
            status => Err(format!("{status:?}")),
        })?;
        Ok(())
    }

    /// One more host beside them.
    pub fn host(&self, name: &str, number: u8) -> Result<Host> {
        Ok(self.underlay.host(name, number)?)
    }

    /// n1, which is looked at.
    pub fn node(&self) -> &NodeParts {
        &self.ladon.nodes[0]
    }

    /// How many flows n1 has.
    pub fn flows(&self) -> Result<u64> {
        status(self.node()).and_then(|status| status["flows"].as_u64()).context("ladon node says how many flows it has")
    }
}

impl Network {
    /// A port of a virtual machine on `host`, as it is asked for.
    pub fn port(&self, host: &str) -> Value {
        json!({"network_id": self.id, "security_groups": [self.group], "binding:host_id": host, "device_owner": "compute:nova"})
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
