//! From what is wanted and what the replica holds to the operations that make it so; none if it is so already.
//!
//! A new bridge or port is one transaction with all its columns. What exists is changed only where it differs, column by
//! column, and foreign keys of `other_config` and `external_ids` are kept.

use super::columns::{BRIDGE, FLOW_TABLE, INTERFACE, PORT, ROOT, named, root};
use super::error::BridgeError;
use super::spec::{BridgeSpec, PortSpec};
use ovsdb::{Atom, Insert, Mutation, Mutator, Name, Operation, Replica, Row, Uuid, Value, named_uuid};
use std::collections::{BTreeMap, BTreeSet};

/// The operations that make `spec` so.
pub fn bridge(replica: &Replica, spec: &BridgeSpec) -> Vec<Operation> {
    match named(replica, BRIDGE, &spec.name) {
        None => new_bridge(replica, spec),
        Some((uuid, row)) => changed_bridge(replica, spec, uuid, row),
    }
}

fn new_bridge(replica: &Replica, spec: &BridgeSpec) -> Vec<Operation> {
    let (flow_tables, mut operations) = new_flow_tables(&spec.flow_tables);
    let mut bridge = Insert::into(BRIDGE)
        .named("bridge")
        .column("name", &spec.name)
        .column("fail_mode", "secure")
        .column("protocols", Value::set(&spec.protocols))
        .column("other_config", Value::map(other_config(spec)))
        .column("flow_tables", flow_tables)
        .column("ports", named_uuid("port"));
    if let Some(datapath_type) = &spec.datapath_type {
        bridge = bridge.column("datapath_type", datapath_type);
    }
    operations.extend(new_port_rows(Insert::into(INTERFACE).column("name", &spec.name).column("type", "internal"), &spec.name));
    operations.push(bridge.into());
    operations.push(match root(replica) {
        Some((uuid, _)) => Operation::mutate_row(ROOT, uuid, vec![Mutation::insert("bridges", named_uuid("bridge"))]),
        None => Insert::into(ROOT).column("bridges", named_uuid("bridge")).into(),
    });
    operations
}

/// What every bridge has in `other_config`.
fn other_config(spec: &BridgeSpec) -> BTreeMap<&str, &str> {
    let hwaddr = spec.hwaddr.as_deref().map(|hwaddr| ("hwaddr", hwaddr));
    [("disable-in-band", "true")].into_iter().chain(hwaddr).collect()
}

fn changed_bridge(replica: &Replica, spec: &BridgeSpec, uuid: Uuid, row: &Row) -> Vec<Operation> {
    let mut columns: Vec<(Name, Value)> = Vec::new();
    if row.string("fail_mode") != Some("secure") {
        columns.push(("fail_mode".into(), "secure".into()));
    }
    if let Some(wanted) = &spec.datapath_type
        && row.string("datapath_type").map(datapath) != Some(datapath(wanted))
    {
        columns.push(("datapath_type".into(), wanted.into()));
    }
    if !row.strings("protocols").eq(spec.protocols.iter()) {
        columns.push(("protocols".into(), Value::set(&spec.protocols)));
    }
    if row.uuids("controller").next().is_some() {
        // The rows of the controllers are gone with the last reference to them.
        columns.push(("controller".into(), Value::Set(BTreeSet::new())));
    }
    let (flow_tables, mut operations) = changed_flow_tables(replica, spec, row);
    columns.extend(flow_tables.map(|tables| ("flow_tables".into(), tables)));
    if !columns.is_empty() {
        operations.push(Operation::update_row(BRIDGE, uuid, columns));
    }
    let wanted = other_config(spec).into_iter().map(|(key, value)| (key, Some(value)));
    operations.extend(changed_map(BRIDGE, uuid, row, "other_config", wanted));
    operations
}

/// A datapath by one name: the kernel's has two, and os-vif writes the longer one whenever it plugs something in.
fn datapath(name: &str) -> &str {
    if name.is_empty() { "system" } else { name }
}

/// The value of `flow_tables` for tables that all have to be made, and their rows.
fn new_flow_tables(names: &BTreeMap<u8, String>) -> (Value, Vec<Operation>) {
    let rows = names.iter().map(|(number, name)| new_flow_table(*number, name)).collect();
    (Value::map(names.keys().map(|number| (*number, flow_table_name(*number)))), rows)
}

fn new_flow_table(number: u8, name: &str) -> Operation {
    let Atom::NamedUuid(row) = flow_table_name(number) else { unreachable!("a named UUID") };
    Insert::into(FLOW_TABLE).named(&row).column("name", name).into()
}

fn flow_table_name(number: u8) -> Atom {
    named_uuid(&format!("table{number}"))
}

/// The new value of `flow_tables`, if it changes, and changes of the rows. A row that is there keeps what else it holds
/// (an operator's flow limit) and gets the name.
fn changed_flow_tables(replica: &Replica, spec: &BridgeSpec, bridge: &Row) -> (Option<Value>, Vec<Operation>) {
    let there: BTreeMap<i64, Uuid> = bridge
        .value("flow_tables")
        .into_iter()
        .flat_map(Value::pairs)
        .filter_map(|(number, row)| Some((number.as_integer()?, row.as_uuid()?)))
        .collect();
    let mut operations = Vec::new();
    let mut wanted: Vec<(u8, Atom)> = Vec::new();
    for (&number, name) in &spec.flow_tables {
        let Some(&uuid) = there.get(&i64::from(number)) else {
            operations.push(new_flow_table(number, name));
            wanted.push((number, flow_table_name(number)));
            continue;
        };
        wanted.push((number, uuid.into()));
        if replica.row(FLOW_TABLE, uuid).and_then(|row| row.string("name")) != Some(name) {
            operations.push(Operation::update_row(FLOW_TABLE, uuid, [("name".into(), name.into())]));
        }
    }
    let is_changed = !there.keys().copied().eq(spec.flow_tables.keys().map(|&number| i64::from(number)));
    (is_changed.then(|| Value::map(wanted)), operations)
}

/// The operations that make `spec` so.
pub fn port(replica: &Replica, spec: &PortSpec) -> Result<Vec<Operation>, BridgeError> {
    let no_bridge = || BridgeError::NoBridge { bridge: spec.bridge.clone() };
    let (bridge, bridge_row) = named(replica, BRIDGE, &spec.bridge).ok_or_else(no_bridge)?;
    let Some((port, port_row)) = named(replica, PORT, &spec.name) else {
        return Ok(new_port(spec, bridge));
    };
    if !bridge_row.refers_to("ports", port) {
        return Err(BridgeError::PortElsewhere { port: spec.name.clone(), bridge: bridge_of(replica, port) });
    }
    match named(replica, INTERFACE, &spec.name) {
        Some((uuid, row)) if port_row.refers_to("interfaces", uuid) => Ok(changed_interface(spec, uuid, row)),
        _ => Err(BridgeError::NoInterface { interface: spec.name.clone() }),
    }
}

fn bridge_of(replica: &Replica, port: Uuid) -> String {
    let mut bridges = replica.table(BRIDGE).into_iter().flat_map(|table| table.rows());
    let bridge = bridges.find(|(_, bridge)| bridge.refers_to("ports", port));
    bridge.and_then(|(_, bridge)| bridge.string("name")).unwrap_or("(unknown)").to_owned()
}

fn new_port(spec: &PortSpec, bridge: Uuid) -> Vec<Operation> {
    let mut interface = Insert::into(INTERFACE)
        .column("name", &spec.name)
        .column("type", &spec.kind)
        .column("options", Value::map(&spec.options))
        .column("external_ids", Value::map(&spec.external_ids));
    if let Some(mtu) = spec.mtu_request {
        interface = interface.column("mtu_request", i64::from(mtu));
    }
    if let Some(mac) = &spec.mac {
        interface = interface.column("mac", mac);
    }
    let mut operations = new_port_rows(interface, &spec.name);
    operations.push(Operation::mutate_row(BRIDGE, bridge, vec![Mutation::insert("ports", named_uuid("port"))]));
    operations
}

/// An interface and a port of it, which the transaction knows as `port`.
fn new_port_rows(interface: Insert, name: &str) -> Vec<Operation> {
    let port = Insert::into(PORT).named("port").column("name", name).column("interfaces", named_uuid("interface"));
    vec![interface.named("interface").into(), port.into()]
}

fn changed_interface(spec: &PortSpec, uuid: Uuid, row: &Row) -> Vec<Operation> {
    let mut columns: Vec<(Name, Value)> = Vec::new();
    if row.string("type") != Some(&spec.kind) {
        columns.push(("type".into(), (&spec.kind).into()));
    }
    let options = spec.options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    if !row.texts("options").eq(options) {
        columns.push(("options".into(), Value::map(&spec.options)));
    }
    if let Some(mtu) = spec.mtu_request.map(i64::from)
        && row.integer("mtu_request") != Some(mtu)
    {
        columns.push(("mtu_request".into(), mtu.into()));
    }
    if let Some(mac) = &spec.mac
        && row.string("mac") != Some(mac)
    {
        columns.push(("mac".into(), mac.into()));
    }
    let mut operations = Vec::new();
    if !columns.is_empty() {
        operations.push(Operation::update_row(INTERFACE, uuid, columns));
    }
    let ids = spec.external_ids.iter().map(|(key, value)| (key.as_str(), Some(value.as_str())));
    operations.extend(changed_map(INTERFACE, uuid, row, "external_ids", ids));
    operations
}

/// The operations after which `bridge` has no port of that name.
pub fn no_port(replica: &Replica, bridge: &str, port: &str) -> Vec<Operation> {
    let (Some((bridge, row)), Some((port, _))) = (named(replica, BRIDGE, bridge), named(replica, PORT, port)) else {
        return Vec::new();
    };
    if !row.refers_to("ports", port) {
        return Vec::new();
    }
    // The port and its interface are gone with the last reference to them.
    vec![Operation::mutate_row(BRIDGE, bridge, vec![Mutation::delete("ports", port)])]
}

/// The mutation that gives keys of a map their wanted values, where one differs.
fn changed_map<'a>(
    table: &str,
    uuid: Uuid,
    row: &Row,
    column: &str,
    wanted: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Option<Operation> {
    let changed: Vec<_> = wanted.filter(|(key, value)| row.text(column, key) != *value).collect();
    if changed.is_empty() {
        return None;
    }
    // An insertion never replaces the value of a key that is there, so all changed keys go first.
    let keys: BTreeSet<Atom> = changed.iter().map(|(key, _)| Atom::from(*key)).collect();
    let pairs = changed.iter().filter_map(|&(key, value)| Some((key, value?)));
    let mutations = vec![Mutation::delete(column, Value::Set(keys)), Mutation::insert(column, Value::map(pairs))];
    Some(Operation::mutate_row(table, uuid, mutations))
}

/// Whether somebody made the bridge for Ladon, as Nova may, and nobody has programmed it yet: its tables have no names, it forwards nothing
/// by itself, no controller does it, and nobody keeps anything there.
pub fn is_fresh(replica: &Replica, bridge: &str) -> bool {
    let is_empty = |row: &Row, column| row.value(column).is_none_or(|value| value.pairs().next().is_none());
    let is_nobodys = |row: &Row| row.uuids("controller").next().is_none() && is_empty(row, "flow_tables") && is_empty(row, "external_ids");
    named(replica, BRIDGE, bridge).is_some_and(|(_, row)| row.string("fail_mode") == Some("secure") && is_nobodys(row))
}

/// The columns of rows that were there which `operations` change.
pub fn overwritten(operations: &[Operation]) -> Vec<&str> {
    let all: BTreeSet<&str> = operations.iter().flat_map(columns).collect();
    // These change with every port that comes or goes.
    all.into_iter().filter(|column| !["next_cfg", "bridges", "ports"].contains(column)).collect()
}

fn columns(operation: &Operation) -> Vec<&str> {
    match operation {
        Operation::Update { row, .. } => row.keys().map(|column| &**column).collect(),
        Operation::Mutate { mutations, .. } => mutations.iter().map(|mutation| mutation.column()).collect(),
        _ => Vec::new(),
    }
}

/// The operation that makes ovs-vswitchd look at its configuration again and say when it is done.
pub fn nudge(replica: &Replica) -> Option<Operation> {
    let (uuid, _) = root(replica)?;
    Some(Operation::mutate_row(ROOT, uuid, vec![Mutation::new("next_cfg", Mutator::Add, 1)]))
}

#[cfg(test)]
mod tests {
    use ovsdb::{Message, Update};
    use serde_json::json;

    use super::super::columns::{MONITOR, empty_replica};
    use super::*;

    #[test]
    fn only_a_secure_bridge_that_nobody_uses_is_fresh() {
        let mut replica = empty_replica();
        let id = |number: u128| Uuid::from_u128(number).to_string();
        let rows = json!({ BRIDGE: {
            id(1): {"insert": {"name": "made-for-ladon", "fail_mode": "secure"}},
            id(2): {"insert": {"name": "forwards-by-itself"}},
            id(3): {"insert": {"name": "programmed", "fail_mode": "secure", "flow_tables": ["map", [[0, ["uuid", id(9)]]]]}},
            id(4): {"insert": {"name": "of-neutrons-agent", "fail_mode": "secure", "controller": ["set", [["uuid", id(8)]]]}},
            id(5): {"insert": {"name": "of-ovn", "fail_mode": "secure", "external_ids": ["map", [["ovn-nb-cfg", "7"]]]}},
        }});
        let update = Message::Notification { method: "update3".into(), params: vec![json!(MONITOR), json!(id(7)), rows] };
        replica.update(&Update::from_message(update).unwrap().unwrap()).unwrap();
        for (bridge, wanted) in [
            ("made-for-ladon", true),
            ("forwards-by-itself", false),
            ("programmed", false),
            ("of-neutrons-agent", false),
            ("of-ovn", false),
            ("not-there", false),
        ] {
            assert_eq!(is_fresh(&replica, bridge), wanted, "{bridge}");
        }
    }
}
