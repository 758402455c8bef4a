//! The flows of one node, computed as `ladon node` does, for a switch that only counts.

use std::collections::BTreeMap;

use apps::{ALL, Change, Engine, Here, Numbers};
use model::{NodeName, Object};
use node::agent::attach::Plugs;
use node::bridge::{Interface, Interfaces};
use node::view::ViewUpdate;
use node::zones::Zones;
use pipeline::OfPort;
use uuid::Uuid;

/// The number of the tunnel's interface.
const TUNNEL: u32 = 60_000;

pub struct Computed {
    node: NodeName,
    engine: Engine,
    plugs: Plugs,
    zones: Zones,
    interfaces: Interfaces,
    ofports: u32,
}

impl Computed {
    pub fn new(node: &NodeName, tunnel: std::net::IpAddr) -> Computed {
        let mut engine = Engine::new(ALL, Numbers::default());
        let here = Here { node: node.clone(), tunnel_addresses: vec![tunnel], tunnel_port: Some(TUNNEL) };
        engine.update([Change::Here(here)]);
        let (plugs, zones, interfaces) = Default::default();
        Computed { node: node.clone(), engine, plugs, zones, interfaces, ofports: 0 }
    }

    /// Makes the flows what the view asks for.
    pub fn follow(&mut self, update: &ViewUpdate) {
        let removals = update.removals.iter().map(|key| Change::Remove(*key));
        let changes: Vec<Change> = removals.chain(update.upserts.iter().cloned().map(Change::Put)).collect();
        for change in &changes {
            self.plugs.note_home(&self.node, change);
            self.plug(change);
        }
        self.plugs.see(self.interfaces.clone());
        self.engine.update(changes);
        let settled = self.plugs.settle(self.engine.view(), &mut self.zones, true);
        self.engine.update(settled.changes);
    }

    /// What lives here is plugged in, what does not is not.
    fn plug(&mut self, change: &Change) {
        match change {
            Change::Put(object) => match &**object {
                Object::Port(port) if port.home() == Some(&self.node) => {
                    let name = name(port.id.0);
                    if !self.interfaces.contains_key(&name) {
                        self.ofports += 1;
                        self.interfaces.insert(name.clone(), interface(name, port.id.0, self.ofports));
                    }
                }
                Object::Port(port) => drop(self.interfaces.remove(&name(port.id.0))),
                _ => {}
            },
            Change::Remove(key) => drop(self.interfaces.remove(&name(key.id))),
            _ => {}
        }
    }

    pub fn flows(&self) -> usize {
        self.engine.flows().count()
    }

    pub fn local_ports(&self) -> usize {
        self.engine.view().attachments().count()
    }
}

fn name(port: Uuid) -> String {
    format!("tap{port}")
}

fn interface(name: String, port: Uuid, ofport: u32) -> Interface {
    let iface_id = Some(port.to_string());
    let external_ids = BTreeMap::new();
    Interface { name, ofport: Some(OfPort(ofport)), iface_id, external_ids, ..Interface::default() }
}
