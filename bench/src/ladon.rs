//! Ladon as one of the systems that are given the same work.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::debian::Release;
use lab::{Process, Progress};
use serde_json::{Value, json};

use crate::http::Client;
use crate::neutron::{self, NETWORKS, PORTS, ROUTERS, RULES, ingress, tcp};
use crate::ovsdb::{Database, add_interfaces, plugging};
use crate::system::{Edit, Role, System};
use crate::world::{Shape, World, cidr, status, wait_acknowledged};

/// How often it is asked whether something is done: finer than what is measured.
const LOOK: Duration = Duration::from_micros(500);
/// How long anything may take.
const READY: Duration = Duration::from_secs(300);

/// The world, and connections to what is written to.
pub struct Ladon {
    pub world: World,
    shape: Shape,
    api: Client,
    switch: Database,
    /// What was added, as paths of the API; a subnet's id is remembered for its interface.
    made: BTreeMap<(Edit, usize), Made>,
    /// As the node was before it was emptied.
    full: Option<Full>,
}

/// A node that has everything.
#[derive(Clone, Copy)]
struct Full {
    /// How many flows it says that its switch should have, besides those that every table has.
    desired: u64,
    /// How many the switch has.
    flows: u64,
}

struct Made {
    paths: Vec<String>,
    subnet: String,
}

impl Ladon {
    pub fn start(release: Option<&Release>, shape: Shape, progress: &Progress) -> Result<Ladon> {
        let world = World::start_of(release, shape, progress)?;
        let api = world.client()?;
        let switch = Database::connect(&world.ovs.db_sock(), "Open_vSwitch")?;
        Ok(Ladon { world, shape, api, switch, made: BTreeMap::new(), full: None })
    }

    /// The engine's counters.
    pub fn work(&self) -> Result<Value> {
        Ok(status(self.world.node()).context("ladon node answers")?["work"].clone())
    }

    /// A port of another node, in the networks of local ports: until n1 has the way to it.
    pub fn add_remote(&mut self, number: usize) -> Result<Duration> {
        // That node has ports of the network at every size: a node that is new to it is another piece of work.
        let host = self.world.elsewhere(self.shape.local_network(number));
        let (body, began) = (self.port(number, &host), Instant::now());
        self.api.create_as(&port(REMOTE, number), PORTS, &body)?;
        wait_acknowledged(&mut self.api)?;
        Ok(began.elapsed())
    }

    pub fn remove_remote(&mut self, number: usize) -> Result<Duration> {
        self.remove(&port(REMOTE, number))
    }

    pub fn remove_local(&mut self, number: usize) -> Result<Duration> {
        self.remove(&port(ADDED, number))
    }

    fn remove(&mut self, port: &str) -> Result<Duration> {
        let began = Instant::now();
        self.api.delete(&format!("{PORTS}/{port}"))?;
        wait_acknowledged(&mut self.api)?;
        Ok(began.elapsed())
    }

    /// Takes away what was added.
    pub fn undo(&mut self, edit: Edit, number: usize) -> Result<Duration> {
        let began = Instant::now();
        let made = self.made.remove(&(edit, number)).context("it was added")?;
        match edit {
            Edit::Interface => {
                let path = neutron::remove_interface(&self.world.routers[0]);
                self.api.update(&path, &neutron::interface(&made.subnet))?;
            }
            _ => made.paths.iter().try_for_each(|path| self.api.delete(path))?,
        }
        wait_acknowledged(&mut self.api)?;
        Ok(began.elapsed())
    }

    /// A port on a network of local ports, as it is asked for.
    fn port(&self, number: usize, host: &str) -> Value {
        json!({"port": self.world.networks[self.shape.local_network(number)].port(host)})
    }

    fn until_active(&mut self, port: &str) -> Result<()> {
        let (path, began) = (format!("{PORTS}/{port}"), Instant::now());
        while self.api.show(&path)?["port"]["status"] != "ACTIVE" {
            ensure!(began.elapsed() < READY, "port {port} is not ACTIVE after {READY:?}\n{}", self.world.ladon.logs());
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// Kinds of ports that are made besides.
const ADDED: u8 = 1;
const PLUGGED: u8 = 2;
const REMOTE: u8 = 3;

/// The id of a port that is made besides.
fn port(kind: u8, number: usize) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}

impl System for Ladon {
    fn name(&self) -> &'static str {
        "Ladon"
    }

    fn shape(&self) -> Shape {
        self.shape
    }

    fn processes(&self) -> Vec<(Role, &Process)> {
        let switch = &self.world.ovs;
        vec![
            (Role::Central, &self.world.ladon.server),
            (Role::Node, &self.world.node().process),
            (Role::Switch, switch.switch()),
            (Role::Switch, switch.database()),
        ]
    }

    fn begin(&mut self) -> Result<()> {
        self.api = self.world.client()?;
        Ok(())
    }

    fn flows(&self) -> Result<u64> {
        self.world.flows()
    }

    fn prepare(&mut self, adds: usize, plugs: usize) -> Result<()> {
        for number in 0..plugs {
            let body = self.port(number, "n1");
            self.api.create_as(&port(PLUGGED, number), PORTS, &body)?;
        }
        let added = (0..adds).map(|number| (format!("x{number}"), port(ADDED, number)));
        let interfaces: Vec<_> = added.chain((0..plugs).map(|number| (format!("y{number}"), format!("none{number}")))).collect();
        add_interfaces(&mut self.switch, &interfaces)?;
        wait_acknowledged(&mut self.api)
    }

    fn empty(&mut self) -> Result<()> {
        self.full = Some(Full { desired: self.world.desired_flows()?, flows: self.world.flows()? });
        self.world.empty_node()
    }

    fn start(&mut self) -> Result<Duration> {
        let full = self.full.context("it was emptied before")?;
        let began = Instant::now();
        self.world.start_node(Some(full.desired), READY)?;
        wait_acknowledged(&mut self.api)?;
        let local = self.world.local.clone();
        local.iter().try_for_each(|port| self.until_active(port))?;
        let took = began.elapsed();
        let flows = self.world.flows()?;
        ensure!(flows == full.flows, "the switch has {flows} flows after a start, and had {} before", full.flows);
        Ok(took)
    }

    fn add_local(&mut self, number: usize) -> Result<Duration> {
        let (body, began) = (self.port(number, "n1"), Instant::now());
        self.api.create_as(&port(ADDED, number), PORTS, &body)?;
        wait_acknowledged(&mut self.api)?;
        Ok(began.elapsed())
    }

    fn plug(&mut self, number: usize) -> Result<Duration> {
        let (port, began) = (port(PLUGGED, number), Instant::now());
        self.switch.transact(&[plugging(&format!("y{number}"), &port)])?;
        self.until_active(&port)?;
        Ok(began.elapsed())
    }

    fn add(&mut self, edit: Edit, number: usize) -> Result<Duration> {
        let began = Instant::now();
        let mut made = Made { paths: Vec::new(), subnet: String::new() };
        let api = &mut self.api;
        match edit {
            Edit::Rule => {
                let group = &self.world.networks[self.shape.local_network(number)].group;
                let rule = neutron::make_rule(api, &ingress(group, &[tcp(1_000 + number)]))?;
                made.paths = vec![format!("{RULES}/{rule}")];
            }
            Edit::Router => {
                let router = neutron::make_router(api, &format!("more{number}"))?;
                made.paths = vec![format!("{ROUTERS}/{router}")];
            }
            Edit::Network => {
                let beyond = self.shape.networks + number;
                let (network, subnet) = neutron::make_network(api, beyond, &cidr(beyond))?;
                made = Made { paths: vec![format!("{NETWORKS}/{network}")], subnet };
            }
            Edit::Interface => {
                made.subnet = self.made.get(&(Edit::Network, number)).context("its network was added before")?.subnet.clone();
                api.update(&neutron::add_interface(&self.world.routers[0]), &neutron::interface(&made.subnet))?;
            }
        }
        wait_acknowledged(&mut self.api)?;
        self.made.insert((edit, number), made);
        Ok(began.elapsed())
    }
}
