//! The interfaces of the integration bridge, as apps and the CNI server want to see them.

use super::columns::{BRIDGE, INTERFACE, PORT, named};
use ovsdb::{Replica, Row, Uuid};
pub use pipeline::OfPort;
use std::collections::BTreeMap;

/// The interfaces of one bridge, by name.
pub type Interfaces = BTreeMap<String, Interface>;

/// One interface. The ids are those that os-vif, libvirt and Ladon's own CNI set on the row.
#[derive(Clone, PartialEq, Eq, Debug)]
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

/// The interfaces of `bridge`; none if there is no such bridge.
pub fn interfaces_of(replica: &Replica, bridge: &str) -> Interfaces {
    let Some((_, bridge)) = named(replica, BRIDGE, bridge) else {
        return Interfaces::new();
    };
    let ports = bridge.uuids("ports").filter_map(|port| replica.row(PORT, port));
    let interfaces = ports.flat_map(|port| port.uuids("interfaces"));
    let rows = interfaces.filter_map(|uuid| Some((uuid, replica.row(INTERFACE, uuid)?)));
    rows.map(|(uuid, row)| Interface::of_row(uuid, row)).map(|interface| (interface.name.clone(), interface)).collect()
}
