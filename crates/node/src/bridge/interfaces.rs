//! The interfaces of the integration bridge, as apps and the CNI server want to see them.

use super::columns::{BRIDGE, INTERFACE, PORT, named};
use imbl::OrdMap;
use ovsdb::{Change, Replica, Row, Uuid};
pub use pipeline::OfPort;
use std::collections::{BTreeMap, HashSet};

/// The interfaces of one bridge, by name. What two of them have in common they share: a difference costs what differs.
pub type Interfaces = OrdMap<String, Interface>;

/// One interface. The ids are those that os-vif, libvirt and Ladon's own CNI set on the row.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Interface {
    pub name: String,
    pub uuid: Uuid,
    pub kind: String,
    /// `None` while ovs-vswitchd has not made the port, or could not.
    pub ofport: Option<OfPort>,
    /// Why ovs-vswitchd could not make the port.
    pub error: Option<String>,
    /// `external_ids:iface-id`: the Neutron port that this is.
    pub iface_id: Option<String>,
    /// The device's address; `None` with a number means that the device is gone ([`super::Link::renew_port`]).
    pub mac_in_use: Option<String>,
    pub options: BTreeMap<String, String>,
    /// All of them, iface-id included.
    pub external_ids: BTreeMap<String, String>,
}

impl Interface {
    fn of_row(uuid: Uuid, row: &Row) -> Self {
        let owned = |text: &str| text.to_owned();
        Interface {
            name: row.string("name").map(owned).unwrap_or_default(),
            uuid,
            kind: row.string("type").map(owned).unwrap_or_default(),
            ofport: ofport(row),
            error: row.string("error").map(owned),
            iface_id: row.text("external_ids", "iface-id").map(owned),
            mac_in_use: row.string("mac_in_use").map(owned),
            options: row.texts("options").map(|(key, value)| (owned(key), owned(value))).collect(),
            external_ids: row.texts("external_ids").map(|(key, value)| (owned(key), owned(value))).collect(),
        }
    }
}

/// The number of an interface's port; the database holds -1 where ovs-vswitchd failed to make it.
pub fn ofport(row: &Row) -> Option<OfPort> {
    let number = u32::try_from(row.integer("ofport")?).ok()?;
    (number > 0).then_some(OfPort(number))
}

/// The interfaces of `bridge`; none if there is no such bridge. They were `before` until `changes`; None: anything may have
/// changed.
pub fn interfaces_of(replica: &Replica, bridge: &str, before: &Interfaces, changes: Option<&[Change]>) -> Interfaces {
    let is_changed: Option<HashSet<Uuid>> =
        changes.map(|changes| changes.iter().filter(|change| *change.table == *INTERFACE).map(|change| change.row).collect());
    let mut now = before.clone();
    let is_about_ports = |change: &Change| [BRIDGE, PORT].contains(&&*change.table);
    if changes.is_some_and(|changes| !changes.iter().any(is_about_ports)) {
        // The same interfaces as before, and it is known which are different.
        for uuid in is_changed.into_iter().flatten() {
            let Some(row) = replica.row(INTERFACE, uuid) else { continue };
            renew(&mut now, uuid, row, |known| known.is_some_and(|known| known.uuid == uuid));
        }
        return now;
    }
    let rows: BTreeMap<&str, (Uuid, &Row)> = rows_on(replica, bridge).collect();
    let gone: Vec<String> = before.keys().filter(|name| !rows.contains_key(name.as_str())).cloned().collect();
    gone.iter().for_each(|name| drop(now.remove(name)));
    for (uuid, row) in rows.into_values() {
        let is_as_it_was = |known: Option<&Interface>| {
            known.is_some_and(|known| known.uuid == uuid) && is_changed.as_ref().is_some_and(|changed| !changed.contains(&uuid))
        };
        renew(&mut now, uuid, row, |known| !is_as_it_was(known));
    }
    now
}

/// Reads a row again if `is_due`, as it is known.
fn renew(now: &mut Interfaces, uuid: Uuid, row: &Row, is_due: impl Fn(Option<&Interface>) -> bool) {
    let known = row.string("name").and_then(|name| now.get(name));
    if !is_due(known) {
        return;
    }
    let interface = Interface::of_row(uuid, row);
    if known != Some(&interface) {
        now.insert(interface.name.clone(), interface);
    }
}

/// The rows of the interfaces on `bridge`, by name.
fn rows_on<'r>(replica: &'r Replica, bridge: &str) -> impl Iterator<Item = (&'r str, (Uuid, &'r Row))> {
    let bridge = named(replica, BRIDGE, bridge).map(|(_, row)| row);
    let ports = bridge.into_iter().flat_map(|bridge| bridge.uuids("ports")).filter_map(|port| replica.row(PORT, port));
    let interfaces = ports.flat_map(|port| port.uuids("interfaces"));
    let rows = interfaces.filter_map(|uuid| Some((uuid, &**replica.row(INTERFACE, uuid)?)));
    rows.map(|(uuid, row)| (row.string("name").unwrap_or_default(), (uuid, row)))
}
