//! Which interface of the bridge is which port.
//!
//! [`Plugs`] follows the interfaces on the bridge and the ports that live here, and looks at a port only when one of both changed
//! for it: what a change costs does not grow with the ports of the machine. [`plugged`] says the same of all interfaces at once.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use apps::{Attachment, Change, View};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use model::{Kind, NodeName, Object, PortId};
use pipeline::OfPort;
use stream::wire::{IFACE_ID_BYTES_MAX, Presence};

use crate::bridge::{Interface, Interfaces};
use crate::zones::{Taken, Zones};

/// The ports that are plugged in, by the `iface-id` of their interfaces (as Nova, libvirt and Ladon itself set it). If two
/// interfaces claim one port, the one that was made last has it: it has the highest number.
pub fn plugged(interfaces: &Interfaces) -> BTreeMap<PortId, OfPort> {
    let claims = interfaces.values().filter_map(|interface| Some((interface.iface_id.as_ref()?.parse().ok()?, interface.ofport?)));
    let mut plugged: BTreeMap<PortId, OfPort> = BTreeMap::new();
    for (port, ofport) in claims {
        let held = plugged.entry(port).or_insert(ofport);
        *held = (*held).max(ofport);
    }
    plugged
}

/// Open vSwitch's error where the interface does not work; empty where it does.
fn error_of(interface: &Interface) -> String {
    let error = interface.error.clone().or_else(|| interface.ofport.is_none().then(|| "it has no OpenFlow port yet".to_string()));
    error.unwrap_or_default()
}

/// What is plugged in, and which ports live here.
#[derive(Default)]
pub struct Plugs {
    interfaces: Interfaces,
    /// The interfaces with an iface-id, by it, and by the port that it names: it may be written in more than one way.
    claims: HashMap<String, BTreeSet<String>>,
    claims_of: HashMap<PortId, BTreeSet<String>>,
    present: OrdMap<String, Presence>,
    /// Ports of the view whose home is here.
    homes: BTreeSet<PortId>,
    /// Ports whose attachment may not be what it should be.
    touched: BTreeSet<PortId>,
    /// Ports for which there were no zones left.
    without_zones: BTreeSet<PortId>,
    /// Ports that have zones and were never attached: their interfaces have had no OpenFlow port yet.
    reserved: BTreeSet<PortId>,
    /// Zones of ports that are in no view may be freed, and those that were found on the disk have been looked at.
    frees_zones: bool,
    looks: u64,
}

/// What has to be done so that the right ports are attached.
#[derive(Debug, Default)]
pub struct Settled {
    pub changes: Vec<Change>,
    /// The zones of ports that are attached anew.
    pub taken: Vec<(PortId, Taken)>,
    /// Ports that are plugged in again: they may have missed changes that end their connections.
    pub back: Vec<PortId>,
    /// Zones were given back.
    pub is_freed: bool,
    /// Zones were taken for ports that are on their way, and can be kept meanwhile.
    pub is_reserved: bool,
}

impl Plugs {
    /// The bridge has these interfaces now.
    pub fn see(&mut self, interfaces: Interfaces) {
        let before = std::mem::replace(&mut self.interfaces, interfaces.clone());
        let mut ids: BTreeSet<String> = BTreeSet::new();
        let mut move_claim = |interface: &Interface, is_there: bool| {
            let Some(id) = &interface.iface_id else { return };
            claim(&mut self.claims, id.clone(), &interface.name, is_there);
            if let Ok(port) = id.parse::<PortId>() {
                claim(&mut self.claims_of, port, &interface.name, is_there);
                self.touched.insert(port);
            }
            ids.insert(id.clone());
        };
        for item in before.diff(&interfaces) {
            match item {
                DiffItem::Add(_, new) => move_claim(new, true),
                DiffItem::Remove(_, old) => move_claim(old, false),
                DiffItem::Update { old: (_, old), new: (_, new) } => {
                    move_claim(old, false);
                    move_claim(new, true);
                }
            }
        }
        for id in ids {
            let names = self.claims.get(&id);
            let there = speaker(&self.interfaces, names).map(|speaker| Presence { error: error_of(speaker), rivals: rivals(names) });
            let id = id[..id.floor_char_boundary(IFACE_ID_BYTES_MAX)].to_owned();
            match there {
                Some(there) => self.present.insert(id, there),
                None => self.present.remove(&id),
            };
        }
    }

    /// The view is going to change.
    pub fn note_home(&mut self, node: &NodeName, change: &Change) {
        let (port, is_home) = match change {
            Change::Put(object) => match &**object {
                Object::Port(port) => (port.id, port.home() == Some(node)),
                _ => return,
            },
            Change::Remove(key) if key.kind == Kind::Port => (PortId(key.id), false),
            _ => return,
        };
        let is_new = if is_home { self.homes.insert(port) } else { self.homes.remove(&port) };
        if is_new {
            self.touched.insert(port);
        }
    }

    /// What makes the attachments of `view` those that they should be. Zones are given back only once everything is known
    /// that ports and interfaces say (`is_known`): until then a port may be there that is not in view yet.
    pub fn settle(&mut self, view: &View, zones: &mut Zones, is_known: bool) -> Settled {
        if is_known && !std::mem::replace(&mut self.frees_zones, true) {
            self.touched.extend(zones.ports());
        }
        let mut settled = Settled::default();
        for port in std::mem::take(&mut self.touched) {
            self.settle_port(port, view, zones, &mut settled);
        }
        if settled.is_freed {
            for port in std::mem::take(&mut self.without_zones) {
                self.settle_port(port, view, zones, &mut settled);
            }
        }
        settled
    }

    fn settle_port(&mut self, port: PortId, view: &View, zones: &mut Zones, settled: &mut Settled) {
        self.looks += 1;
        let names = self.claims_of.get(&port);
        let speaker = speaker(&self.interfaces, names);
        if let (Some(names), Some(Interface { name, .. })) = (names.filter(|names| names.len() > 1), speaker) {
            tracing::warn!(
                %port,
                "interfaces {names:?} have one iface-id; {name}, made last, has the port and the others get nothing; remove those that are left over"
            );
        }
        let (is_home, have) = (self.homes.contains(&port), view.attachment(port).map(|have| have.ofport));
        let (is_claimed, plugged) = (speaker.is_some(), speaker.and_then(|interface| interface.ofport));
        let wanted = plugged.filter(|_| is_home);
        match wanted {
            None if have.is_some() => settled.changes.push(Change::Detach(port)),
            Some(ofport) if have != wanted => {
                let is_back = have.is_none() && zones.has(port) && !self.reserved.remove(&port);
                settled.back.extend(is_back.then_some(port));
                self.attach(port, ofport, zones, settled);
            }
            None if is_home && is_claimed && !zones.has(port) => settled.is_reserved |= self.reserve(port, zones),
            _ => {}
        }
        if !is_home && self.frees_zones && zones.has(port) {
            zones.free(port);
            self.reserved.remove(&port);
            settled.is_freed = true;
        }
    }

    /// While Open vSwitch takes the interface, which is milliseconds, the port's zones can be kept: flows must wait for both.
    fn reserve(&mut self, port: PortId, zones: &mut Zones) -> bool {
        zones.take(port).is_some() && self.reserved.insert(port)
    }

    fn attach(&mut self, port: PortId, ofport: OfPort, zones: &mut Zones, settled: &mut Settled) {
        let Some(taken) = zones.take(port) else {
            tracing::error!(%port, limit = crate::zones::PORTS_MAX, "no connection tracking zones are left: the port gets no flows");
            self.without_zones.insert(port);
            return;
        };
        settled.taken.push((port, taken));
        let Taken { rules: rules_zone, nat: nat_zone, hairpin: hairpin_zone, needs_flush: _ } = taken;
        settled.changes.push(Change::Attach(Attachment { port, ofport, rules_zone, nat_zone, hairpin_zone }));
    }

    /// Every iface-id on the bridge, cut off where it is longer than a server takes: a port's is not. If two interfaces claim one,
    /// the one that was made last speaks.
    pub fn present(&self) -> &OrdMap<String, Presence> {
        &self.present
    }

    /// Ports of the view whose home is here.
    pub fn homes(&self) -> &BTreeSet<PortId> {
        &self.homes
    }

    /// How many ports were looked at so far: what a change costs is the difference.
    pub fn looks(&self) -> u64 {
        self.looks
    }
}

/// The interface `name` claims `key`, or does not any more.
fn claim<K: Eq + Hash>(claims: &mut HashMap<K, BTreeSet<String>>, key: K, name: &str, is_there: bool) {
    match claims.entry(key) {
        Entry::Occupied(mut names) if !is_there => {
            names.get_mut().remove(name);
            if names.get().is_empty() {
                names.remove();
            }
        }
        names if is_there => drop(names.or_default().insert(name.to_owned())),
        _ => {}
    }
}

/// The names of interfaces that claim the same, if they are several.
fn rivals(names: Option<&BTreeSet<String>>) -> String {
    let several = names.filter(|names| names.len() > 1).into_iter().flatten();
    several.map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The one of several interfaces that was made last.
fn speaker<'a>(interfaces: &'a Interfaces, names: Option<&BTreeSet<String>>) -> Option<&'a Interface> {
    names?.iter().filter_map(|name| interfaces.get(name)).max_by_key(|interface| (interface.ofport, error_of(interface)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces(all: &[(&str, &str, u32)]) -> Interfaces {
        let interface = |(name, id, ofport): &(&str, &str, u32)| {
            let interface =
                Interface { name: name.to_string(), iface_id: Some(id.to_string()), ofport: Some(OfPort(*ofport)), ..Interface::default() };
            (name.to_string(), interface)
        };
        all.iter().map(interface).collect()
    }

    #[test]
    fn interfaces_with_one_iface_id_are_named_until_one_is_left() {
        let id = "0cf98f79-e0fb-4368-8f9b-65f0e677208c";
        let mut plugs = Plugs::default();
        plugs.see(interfaces(&[("tap0", id, 4), ("tap1", id, 5)]));
        assert_eq!(plugs.present()[id].rivals, "tap0, tap1");
        plugs.see(interfaces(&[("tap0", id, 4)]));
        assert_eq!(plugs.present()[id], Presence::default());
    }

    #[test]
    fn an_iface_id_is_told_as_far_as_a_server_takes_it() {
        let mut plugs = Plugs::default();
        plugs.see(interfaces(&[("tap0", &"ü".repeat(1000), 4)]));
        assert_eq!(plugs.present().keys().map(String::len).collect::<Vec<_>>(), [254]);
        plugs.see(Interfaces::default());
        assert!(plugs.present().is_empty());
    }

    /// Zones are kept on the disk while Open vSwitch takes the interface, and that alone makes nobody somebody who was here before.
    #[test]
    fn a_port_on_its_way_has_its_zones_and_is_back_only_after_it_was_here() {
        let (home, id) = (NodeName("n1".into()), model::PortId(uuid::Uuid::from_u128(7)));
        let (mut plugs, mut zones, mut engine) = (Plugs::default(), Zones::default(), apps::Engine::new(&[], apps::Numbers::default()));
        let port = model::Port { host: Some(home.clone()), id, ..apps::testing::port("p", 7, "net", &[]) };
        let put = apps::testing::put(port);
        plugs.note_home(&home, &put);
        engine.update([put]);
        let mut see = |name: &str, ofport: Option<u32>| {
            let mut now = interfaces(&[(name, &id.to_string(), 4)]);
            now.get_mut(name).expect("it is there").ofport = ofport.map(OfPort);
            plugs.see(now);
            let settled = plugs.settle(engine.view(), &mut zones, true);
            engine.update(settled.changes.clone());
            (settled, zones.has(id))
        };
        let (on_its_way, has_zones) = see("lad1", None);
        assert!(on_its_way.is_reserved && has_zones && on_its_way.changes.is_empty());
        let (there, _) = see("lad1", Some(4));
        assert_eq!((there.changes.len(), there.taken.len(), there.back, there.is_reserved), (1, 1, vec![], false));
        let (gone, has_zones) = see("lad1", None);
        assert!(matches!(gone.changes[..], [Change::Detach(port)] if port == id) && has_zones && !gone.is_reserved);
        assert_eq!(see("lad1", Some(5)).0.back, [id]);
    }
}
