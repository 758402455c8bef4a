//! The part of Open vSwitch's database that the node follows.
//!
//! Columns that Open vSwitch rewrites all the time (statistics, status) are left out, so that an idle switch is silent.

use ovsdb::{Monitor, Replica, Row, Uuid};
use std::sync::Arc;

/// The database, and what we call our monitor of it.
pub const DATABASE: &str = "Open_vSwitch";
pub const MONITOR: &str = "ladon";

pub const ROOT: &str = "Open_vSwitch";
pub const BRIDGE: &str = "Bridge";
pub const PORT: &str = "Port";
pub const INTERFACE: &str = "Interface";
pub const FLOW_TABLE: &str = "Flow_Table";

/// The columns that goals compare and that [`super::Interface`] shows.
pub fn monitor() -> Monitor {
    const BRIDGE_COLUMNS: &[&str] = &[
        "name",
        "ports",
        "datapath_type",
        "datapath_id",
        "fail_mode",
        "protocols",
        "controller",
        "other_config",
        "external_ids",
        "flow_tables",
    ];
    const INTERFACE_COLUMNS: &[&str] = &["name", "type", "options", "external_ids", "ofport", "error", "mtu_request", "mac", "mac_in_use"];
    Monitor::of(DATABASE)
        .table(ROOT, &["bridges", "next_cfg", "cur_cfg"])
        .table(BRIDGE, BRIDGE_COLUMNS)
        .table(PORT, &["name", "interfaces"])
        .table(INTERFACE, INTERFACE_COLUMNS)
        .table(FLOW_TABLE, &["name"])
}

/// A row by the name that identifies it in its table.
pub fn named<'r>(replica: &'r Replica, table: &str, name: &str) -> Option<(Uuid, &'r Arc<Row>)> {
    replica.table(table)?.find(name)
}

/// The one row of `Open_vSwitch`; none in a database that nobody initialised.
pub fn root(replica: &Replica) -> Option<(Uuid, &Arc<Row>)> {
    replica.table(ROOT)?.rows().next()
}

/// What is monitored of a database that has Open vSwitch's schema and no row.
#[cfg(test)]
pub fn empty_replica() -> ovsdb::Replica {
    let schema = std::fs::read("/usr/share/openvswitch/vswitch.ovsschema").unwrap();
    let schema = ovsdb::Schema::decode(&serde_json::from_slice(&schema).unwrap()).unwrap();
    ovsdb::Replica::new(&schema, &monitor()).unwrap()
}
