//! What a change costs the agent does not grow with the ports of the machine.

use std::collections::BTreeMap;

use apps::testing::*;
use apps::{ALL, Change, Engine, Numbers};
use model::*;
use node::agent::attach::Plugs;
use node::bridge::{Interface, Interfaces};
use node::local::{Concerned, Local};
use node::zones::Zones;
use pipeline::OfPort;

/// What the agent follows, for one machine.
struct Machine {
    engine: Engine,
    plugs: Plugs,
    zones: Zones,
    local: Local,
    interfaces: Interfaces,
}

/// Ports of which attachment or description were looked at, and those that were different.
#[derive(PartialEq, Debug)]
struct Cost {
    attached: u64,
    described: usize,
    different: usize,
}

fn here_is(n: u32, name: &str) -> Port {
    let ip = format!("10.0.{}.{}", n >> 8, n & 255);
    Port { host: Some(NodeName("node0".into())), name: name.into(), ..port(&format!("p{n}"), 1000 + n, "net", &[("sub", &ip)]) }
}

fn interface_of(n: u32) -> (String, Interface) {
    let name = format!("tap{n}");
    let interface = Interface {
        name: name.clone(),
        uuid: Default::default(),
        kind: String::new(),
        ofport: Some(OfPort(10 + n)),
        error: None,
        iface_id: Some(here_is(n, "").id.to_string()),
        mac_in_use: None,
        options: BTreeMap::new(),
        external_ids: BTreeMap::new(),
    };
    (name, interface)
}

impl Machine {
    fn with_ports(count: u32) -> Machine {
        let engine = Engine::new(ALL, Numbers::default());
        let (plugs, zones, local, interfaces) = Default::default();
        let mut machine = Machine { engine, plugs, zones, local, interfaces };
        machine.interfaces.extend((0..count).map(interface_of));
        let objects = [here("node0", "192.0.2.1"), put(network("net", 7)), put(subnet("sub", "net", "10.0.0.0/16"))];
        machine.change(objects.into_iter().chain((0..count).map(|n| put(here_is(n, "")))).collect());
        machine
    }

    fn change(&mut self, changes: Vec<Change>) -> Cost {
        let before = self.plugs.looks();
        self.plugs.see(self.interfaces.clone());
        changes.iter().for_each(|change| self.plugs.note_home(&NodeName("node0".into()), change));
        let mut concerned = Concerned::default();
        self.update(changes, &mut concerned);
        let settled = self.plugs.settle(self.engine.view(), &mut self.zones, true);
        self.update(settled.changes, &mut concerned);
        let followed = self.local.follow(self.engine.view(), self.plugs.homes(), &concerned);
        Cost { attached: self.plugs.looks() - before, described: followed.looks, different: followed.different }
    }

    fn update(&mut self, changes: Vec<Change>, concerned: &mut Concerned) {
        concerned.add(self.engine.view(), &changes);
        self.engine.update(changes.clone());
        concerned.add(self.engine.view(), &changes);
    }

    fn costs(&mut self) -> Vec<Cost> {
        let elsewhere = Port { host: Some(NodeName("node1".into())), ..here_is(60_000, "") };
        let mut costs = vec![
            self.change(vec![put(elsewhere)]),
            self.change(vec![put(here_is(3, "renamed"))]),
            self.change(vec![put(here_is(50_000, "one more"))]),
            self.change(vec![put(group("a group", 1))]),
        ];
        self.interfaces.extend([interface_of(50_000)]);
        costs.push(self.change(vec![]));
        self.interfaces.remove("tap50000");
        costs.push(self.change(vec![]));
        costs.push(self.change(vec![Change::Remove(Object::from(here_is(50_000, "")).key())]));
        costs
    }
}

#[test]
fn a_change_costs_the_same_among_ten_local_ports_and_among_two_thousand() {
    let (few, many) = (Machine::with_ports(10).costs(), Machine::with_ports(2_000).costs());
    assert_eq!(few, many);
    assert!(few.iter().all(|cost| cost.attached <= 1 && cost.described <= 1), "{few:?}");
}
