//! Where the ports are: two layouts of equal size.
//!
//! ```text
//! tenants   networks of 100 virtual machines, each network on 20 nodes; a node has 5 ports of each of 4 networks
//! flat      one network of pods, one block of addresses per node
//! ```
//!
//! All ports of a layout are in one security group, so that a rule of it is something that every node needs. In `tenants`, the ports
//! of a network are in a group of their own, too, whose rule names the group itself.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use lab::Host;
use serde_json::Value;

use super::world::{Ground, at_once, client};
use crate::http::Client;
use crate::neutron::{self, BULK, POD, VIRTUAL_MACHINE, from_group, ingress};
use crate::ports::API;

/// Nodes and ports of a tenant's network.
pub const NODES_OF_NETWORK: u32 = 20;
const PORTS_OF_NETWORK: u32 = 100;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Tenants,
    Flat,
}

#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub kind: Kind,
    pub nodes: u32,
    pub ports_of_node: u32,
}

impl Layout {
    pub fn what(&self) -> String {
        let ports = self.nodes * self.ports_of_node;
        match self.kind {
            Kind::Tenants => format!("tenants: {} networks of {PORTS_OF_NETWORK} ports, {} nodes", self.networks(), self.nodes),
            Kind::Flat => format!("flat: one network, {ports} ports on {} nodes", self.nodes),
        }
    }

    pub fn networks(&self) -> u32 {
        match self.kind {
            Kind::Tenants => self.nodes * self.ports_of_node / PORTS_OF_NETWORK,
            Kind::Flat => 1,
        }
    }

    /// The nodes on which a network's ports are.
    pub fn nodes_of(&self, network: u32) -> Vec<u32> {
        match self.kind {
            Kind::Flat => (0..self.nodes).collect(),
            Kind::Tenants => {
                let parts = self.nodes / NODES_OF_NETWORK;
                let (round, part) = (network / parts, network % parts);
                // Every other round has other neighbours.
                let node = |n| if round % 2 == 0 { part * NODES_OF_NETWORK + n } else { n * parts + part };
                (0..NODES_OF_NETWORK).map(node).collect()
            }
        }
    }

    /// Asks the API for all of it.
    pub fn make(&self, host: &Host) -> Result<Ground> {
        let everybody = neutron::make_group(&mut client(host, API)?, "everybody")?;
        let networks: Vec<Mutex<Option<Network>>> = (0..self.networks()).map(|_| Mutex::default()).collect();
        let put = |number: u32, network: Network| *networks[number as usize].lock().unwrap_or_else(PoisonError::into_inner) = Some(network);
        match self.kind {
            Kind::Tenants => at_once(host, self.networks() as usize, |client, number| {
                let network = self.tenant(client, number as u32, &everybody)?;
                put(number as u32, network);
                Ok(())
            })?,
            Kind::Flat => {
                let (id, subnet) = neutron::make_network(&mut client(host, API)?, 0, "10.0.0.0/10")?;
                let network = Network { id, subnet, groups: vec![everybody.clone()], nodes: self.nodes_of(0) };
                let all = (self.nodes * self.ports_of_node) as usize;
                at_once(host, all.div_ceil(BULK), |client, piece| {
                    // A node's pods one after the other, so that each node has one block.
                    let numbers = piece * BULK..all.min((piece + 1) * BULK);
                    let ports: Vec<Value> = numbers.map(|n| port(&network, n as u32 / self.ports_of_node, self.kind)).collect();
                    neutron::make_ports(client, &ports).map(drop)
                })?;
                put(0, network);
            }
        }
        let made = |network: Mutex<Option<Network>>| network.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Ground { layout: *self, everybody, networks: networks.into_iter().filter_map(made).collect() })
    }

    /// A tenant's network with its ports.
    fn tenant(&self, client: &mut Client, number: u32, everybody: &str) -> Result<Network> {
        let own = neutron::make_group(client, &format!("group{number}"))?;
        neutron::make_rule(client, &ingress(&own, &[from_group(&own)]))?;
        let (id, subnet) = neutron::make_network(client, number as usize, "10.0.0.0/23")?;
        let network = Network { id, subnet, groups: vec![own, everybody.into()], nodes: self.nodes_of(number) };
        let ports: Vec<Value> = (0..PORTS_OF_NETWORK).map(|n| port(&network, network.node(n as usize), self.kind)).collect();
        neutron::make_ports(client, &ports)?;
        Ok(network)
    }
}

/// A network that was made.
pub struct Network {
    pub id: String,
    pub subnet: String,
    /// The security groups of its ports.
    pub groups: Vec<String>,
    /// Where its ports are.
    pub nodes: Vec<u32>,
}

impl Network {
    /// The node of a port by its number.
    pub fn node(&self, port: usize) -> u32 {
        self.nodes[port % self.nodes.len()]
    }
}

/// A port as it is asked for: of a virtual machine or of a pod.
pub fn port(network: &Network, node: u32, kind: Kind) -> Value {
    let owner = if kind == Kind::Tenants { VIRTUAL_MACHINE } else { POD };
    neutron::port(&network.id, &network.groups, &format!("n{node}"), owner)
}
