//! Changes of every kind of object, and which nodes they are for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use demo::id;
use serde_json::{Value, json};

use super::layout::{self, Kind};
use super::world::{World, wait_until_in_force};
use crate::http::Client;
use crate::neutron::{self, GROUPS, NETWORKS, PORTS, ROUTERS, RULES, SUBNETS, ingress, named, tcp};

/// How long a change may take to be in force.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a change led to.
pub struct Told {
    pub what: &'static str,
    /// Until every node that needs it had acknowledged.
    pub took: Duration,
    /// Nodes that need it, and those of them that were sent something.
    pub needing: usize,
    pub sent: usize,
    /// Nodes that were sent something and do not need it.
    pub besides: usize,
    /// What each of them was sent, and all of them together.
    pub bytes_each: u64,
    pub bytes: u64,
}

impl Told {
    /// Nodes that need it and were sent nothing.
    pub fn missed(&self) -> usize {
        self.needing - self.sent
    }

    /// Sent to those who need it, the same to each of them, and to nobody else.
    pub fn is_exact(&self) -> bool {
        self.sent == self.needing && self.besides == 0 && self.bytes == self.bytes_each * self.needing as u64
    }
}

/// Makes a change, waits until it is in force and looks at who was told.
pub fn told(
    world: &World,
    client: &mut Client,
    what: &'static str,
    nodes: &BTreeSet<u32>,
    change: impl FnOnce(&mut Client) -> Result<()>,
) -> Result<Told> {
    world.news()?;
    let started = Instant::now();
    change(client)?;
    wait_until_in_force(client, PATIENCE)?;
    let took = started.elapsed();
    let news = world.news()?;
    let sent = news.iter().filter(|news| nodes.contains(&news.node)).count();
    let bytes_each = news.iter().map(|news| news.bytes).max().unwrap_or_default();
    let bytes = news.iter().map(|news| news.bytes).sum();
    Ok(Told { what, took, needing: nodes.len(), sent, besides: news.len() - sent, bytes_each, bytes })
}

/// Changes of every kind, one after the other. At the end all that was made is gone again, but for one block with its port.
pub fn of_every_kind(world: &World) -> Result<Vec<Told>> {
    let mut every = Every { client: world.client()?, world, told: Vec::new() };
    model::Kind::ALL.iter().try_for_each(|kind| every.of_kind(*kind))?;
    Ok(every.told)
}

/// What is not among them, and why.
pub fn left_out(kind: Kind) -> &'static str {
    match kind {
        Kind::Tenants => "nodes, which no request changes, and blocks, which virtual machines do not have",
        Kind::Flat => "nodes, which no request changes, and the end of a block, which comes some time after its last port's",
    }
}

struct Every<'a> {
    world: &'a World,
    client: Client,
    told: Vec<Told>,
}

impl Every<'_> {
    fn of_kind(&mut self, kind: model::Kind) -> Result<()> {
        match kind {
            // Made and changed by the node itself.
            model::Kind::Node => Ok(()),
            model::Kind::Network => self.networks(),
            model::Kind::Subnet => self.subnets(),
            model::Kind::Router => self.routers(),
            model::Kind::SecurityGroup => self.groups(),
            model::Kind::Rule => self.rules(),
            model::Kind::Block => self.blocks(),
            model::Kind::Port => self.ports(),
            model::Kind::LoadBalancer => self.balancers(),
            // Along with their load balancer.
            model::Kind::Listener | model::Kind::Pool | model::Kind::Member => Ok(()),
        }
    }

    /// The nodes on which the first network is.
    fn here(&self) -> BTreeSet<u32> {
        self.world.ground.networks[0].nodes.iter().copied().collect()
    }

    fn change(&mut self, what: &'static str, nodes: &BTreeSet<u32>, change: impl FnOnce(&mut Client) -> Result<()>) -> Result<()> {
        let told = told(self.world, &mut self.client, what, nodes, change)?;
        self.told.push(told);
        Ok(())
    }

    /// Something is made, and taken away again.
    fn made(&mut self, what: [&'static str; 2], nodes: &BTreeSet<u32>, path: &str, body: Value) -> Result<()> {
        let id = self.make(what[0], nodes, path, body)?;
        self.unmake(what[1], nodes, path, &id)
    }

    fn make(&mut self, what: &'static str, nodes: &BTreeSet<u32>, path: &str, body: Value) -> Result<String> {
        let mut made = String::new();
        self.change(what, nodes, |client| {
            let document = client.create(path, &body)?;
            made = id(document.as_object().and_then(|document| document.values().next()).context("what was made")?).to_string();
            Ok(())
        })?;
        Ok(made)
    }

    fn unmake(&mut self, what: &'static str, nodes: &BTreeSet<u32>, path: &str, id: &str) -> Result<()> {
        self.change(what, nodes, |client| client.delete(&format!("{path}/{id}")))
    }

    fn put(&mut self, what: &'static str, nodes: &BTreeSet<u32>, path: &str, body: Value) -> Result<()> {
        self.change(what, nodes, |client| put(client, path, &body))
    }

    fn ports(&mut self) -> Result<()> {
        let ground = &self.world.ground;
        let nodes = match ground.layout.kind {
            Kind::Tenants => self.here(),
            Kind::Flat => BTreeSet::from([ground.networks[0].node(0)]),
        };
        let port = self.make("port made", &nodes, PORTS, json!({"port": ground.port(0)}))?;
        // The port alone is news: its node has other ports in the group that it leaves.
        let groups = &ground.networks[0].groups;
        let fewer = &groups[..groups.len() - 1];
        self.put("port's groups changed", &nodes, &format!("{PORTS}/{port}"), neutron::in_groups(fewer))?;
        self.unmake("port deleted", &nodes, PORTS, &port)
    }

    /// A pod of a node that has no block yet, because nobody has ever seen it: the block is news to all others and the port to none. The
    /// port stays, so that the block is not given back while something else is measured.
    fn blocks(&mut self) -> Result<()> {
        let (ground, here) = (&self.world.ground, self.here());
        if ground.layout.kind == Kind::Flat {
            let port = layout::port(&ground.networks[0], ground.layout.nodes, Kind::Flat);
            self.make("block made", &here, PORTS, json!({"port": port}))?;
        }
        Ok(())
    }

    fn groups(&mut self) -> Result<()> {
        let unused = named("security_group", "unused");
        self.made(["unused group made", "unused group deleted"], &BTreeSet::new(), GROUPS, unused)?;
        let (group, here) = (self.world.ground.networks[0].groups[0].clone(), self.here());
        self.put("group renamed", &here, &format!("{GROUPS}/{group}"), named("security_group", "renamed"))
    }

    fn rules(&mut self) -> Result<()> {
        let all: BTreeSet<u32> = (0..self.world.ground.layout.nodes).collect();
        let everybody = self.world.ground.everybody.clone();
        self.made(["rule for all made", "rule for all deleted"], &all, RULES, rule(&everybody, 8080))?;
        let group = self.world.ground.networks[0].groups[0].clone();
        let here = self.here();
        self.made(["rule made", "rule deleted"], &here, RULES, rule(&group, 8081))
    }

    fn networks(&mut self) -> Result<()> {
        let unused = named("network", "unused");
        self.made(["unused network made", "unused network deleted"], &BTreeSet::new(), NETWORKS, unused)?;
        let (network, here) = (self.world.ground.networks[0].id.clone(), self.here());
        self.put("network renamed", &here, &format!("{NETWORKS}/{network}"), named("network", "renamed"))
    }

    fn subnets(&mut self) -> Result<()> {
        let (subnet, here) = (self.world.ground.networks[0].subnet.clone(), self.here());
        let servers = json!({"subnet": {"dns_nameservers": ["192.0.2.53"]}});
        self.put("subnet changed", &here, &format!("{SUBNETS}/{subnet}"), servers)
    }

    fn routers(&mut self) -> Result<()> {
        let (subnet, here) = (self.world.ground.networks[0].subnet.clone(), self.here());
        let router = self.make("router without interfaces made", &BTreeSet::new(), ROUTERS, named("router", "r"))?;
        let interface = neutron::interface(&subnet);
        self.put("router interface made", &here, &neutron::add_interface(&router), interface.clone())?;
        self.put("router renamed", &here, &format!("{ROUTERS}/{router}"), named("router", "renamed"))?;
        self.put("router interface deleted", &here, &neutron::remove_interface(&router), interface)?;
        self.unmake("router without interfaces deleted", &BTreeSet::new(), ROUTERS, &router)
    }

    fn balancers(&mut self) -> Result<()> {
        let (subnet, here) = (self.world.ground.networks[0].subnet.clone(), self.here());
        let paths = ["loadbalancers", "listeners", "pools"].map(|name| format!("/v2.0/lbaas/{name}"));
        let balancer = self.make("load balancer made", &here, &paths[0], json!({"loadbalancer": {"vip_subnet_id": subnet}}))?;
        let body = json!({"listener": {"loadbalancer_id": balancer, "protocol": "TCP", "protocol_port": 80}});
        let listener = self.make("listener made", &here, &paths[1], body)?;
        let body = json!({"pool": {"listener_id": listener, "protocol": "TCP", "lb_algorithm": "SOURCE_IP_PORT"}});
        let pool = self.make("pool made", &here, &paths[2], body)?;
        let members = format!("{}/{pool}/members", paths[2]);
        let member = json!({"member": {"address": "10.0.0.77", "protocol_port": 8080, "subnet_id": subnet}});
        self.made(["member made", "member deleted"], &here, &members, member)?;
        self.unmake("pool deleted", &here, &paths[2], &pool)?;
        self.unmake("listener deleted", &here, &paths[1], &listener)?;
        self.unmake("load balancer deleted", &here, &paths[0], &balancer)
    }
}

/// A rule that lets TCP to a port in.
fn rule(group: &str, port: usize) -> Value {
    json!({"security_group_rule": ingress(group, &[tcp(port)])})
}

fn put(client: &mut Client, path: &str, body: &Value) -> Result<()> {
    match client.request("PUT", path, &body.to_string())? {
        (200, _) => Ok(()),
        (status, document) => anyhow::bail!("PUT {path}: {status} {document}"),
    }
}
