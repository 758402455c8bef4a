//! A copy in memory of the monitored part of a database, kept equal to it by the monitor's updates.
//!
//! [`Replica::resume`] takes the reply to `monitor_cond_since`, whether it holds what changed or everything;
//! [`Replica::update`] takes each `update3`. Both answer with the [`Change`]s, or leave the replica as it was and say what
//! did not fit: then the connection is to be dropped and a new replica begun.
//!
//! A modification of a column that may hold several values is a difference (ovsdb-server(7), `update2`): elements of a
//! set that came or went; pairs of a map whose key came or went, and the new pair where a value changed. Of any other
//! column it is the new value.

use crate::monitor::{Monitor, MonitorReply, RowUpdate, TableUpdates, Update, Watched};
use crate::schema::object;
use crate::{Atom, ColumnType, DecodeError, Json, Name, Row, Schema, TableSchema, Uuid, Value};
use serde_json::Map;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The monitored tables.
#[derive(Clone, Debug)]
pub struct Replica {
    tables: BTreeMap<Name, Table>,
    last_txn: Uuid,
}

/// The rows of one monitored table.
#[derive(Clone, Debug)]
pub struct Table {
    types: BTreeMap<Name, ColumnType>,
    /// What a row holds that names no column.
    blank: Row,
    rows: HashMap<Uuid, Arc<Row>>,
    index: Option<Index>,
}

/// Rows by the column that identifies them in this schema.
#[derive(Clone, Debug)]
struct Index {
    column: Name,
    rows: BTreeMap<Atom, Uuid>,
}

/// What happened to one row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub table: Name,
    pub row: Uuid,
    pub delta: Delta,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Delta {
    Inserted(Arc<Row>),
    Modified { old: Arc<Row>, new: Arc<Row> },
    Deleted(Arc<Row>),
}

impl Change {
    /// The row before the change; none if it is new.
    pub fn before(&self) -> Option<&Row> {
        match &self.delta {
            Delta::Inserted(_) => None,
            Delta::Modified { old, .. } | Delta::Deleted(old) => Some(old),
        }
    }

    /// The row after the change; none if it is gone.
    pub fn after(&self) -> Option<&Row> {
        match &self.delta {
            Delta::Inserted(new) | Delta::Modified { new, .. } => Some(new),
            Delta::Deleted(_) => None,
        }
    }
}

/// An update that does not fit the replica.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    #[error("reading an update of table {table}")]
    Decode { table: String, source: DecodeError },
    #[error("table {table} was updated, but is not monitored")]
    UnknownTable { table: String },
    #[error("row {row} of table {table} was modified, but the replica does not have it")]
    UnknownRow { table: String, row: Uuid },
}

impl Replica {
    /// An empty replica of what `monitor` names; an error if the schema lacks a table or column of it.
    pub fn new(schema: &Schema, monitor: &Monitor) -> Result<Self, DecodeError> {
        let mut tables = BTreeMap::new();
        for (name, watched) in &monitor.tables {
            tables.insert(name.clone(), Table::new(schema, name, watched)?);
        }
        Ok(Replica { tables, last_txn: Uuid::nil() })
    }

    /// Whether updates for `schema` and `monitor` can go on from here: the columns and their types are the same.
    pub fn fits(&self, schema: &Schema, monitor: &Monitor) -> bool {
        let Ok(other) = Replica::new(schema, monitor) else {
            return false;
        };
        self.tables.len() == other.tables.len()
            && self.tables.iter().zip(&other.tables).all(|(mine, its)| mine.0 == its.0 && mine.1.types == its.1.types)
    }

    /// The transaction up to which the replica is equal to the database; nil if it is not known.
    pub fn last_txn(&self) -> Uuid {
        self.last_txn
    }

    /// A monitored table.
    pub fn table(&self, table: &str) -> Option<&Table> {
        self.tables.get(table)
    }

    /// One row of a monitored table.
    pub fn row(&self, table: &str, row: Uuid) -> Option<&Arc<Row>> {
        self.table(table)?.row(row)
    }

    /// Takes the reply to `monitor_cond_since`. A reply that holds everything replaces everything, and the changes are
    /// those between what was there and what is there now.
    pub fn resume(&mut self, reply: &MonitorReply) -> Result<Vec<Change>, ReplicaError> {
        let mut changes = self.changes(&reply.updates, !reply.is_resumed)?;
        if !reply.is_resumed {
            changes.extend(self.missing_from(&reply.updates));
        }
        self.commit(&changes, reply.last_txn);
        Ok(changes)
    }

    /// Takes an `update3`.
    pub fn update(&mut self, update: &Update) -> Result<Vec<Change>, ReplicaError> {
        let changes = self.changes(&update.updates, false)?;
        self.commit(&changes, update.last_txn);
        Ok(changes)
    }

    fn changes(&self, updates: &TableUpdates, is_snapshot: bool) -> Result<Vec<Change>, ReplicaError> {
        let mut changes = Vec::new();
        for (name, rows) in &updates.0 {
            let (name, table) =
                self.tables.get_key_value(name.as_str()).ok_or_else(|| ReplicaError::UnknownTable { table: name.clone() })?;
            let decode = |source| ReplicaError::Decode { table: name.to_string(), source };
            for (row, json) in object("updates by row", rows).map_err(decode)? {
                let row = Uuid::try_parse(row).map_err(|_| decode(DecodeError::unexpected("a row's UUID", &Json::String(row.clone()))))?;
                let update = RowUpdate::decode(json).map_err(decode)?;
                if is_snapshot && !matches!(update, RowUpdate::Present(_)) {
                    return Err(decode(DecodeError::unexpected("a whole row", json)));
                }
                changes.extend(table.delta(name, row, update)?.map(|delta| Change { table: name.clone(), row, delta }));
            }
        }
        Ok(changes)
    }

    /// The deletions of all rows that a full set of updates does not name.
    fn missing_from(&self, updates: &TableUpdates) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, table) in &self.tables {
            let rows = updates.0.get(&**name).and_then(Json::as_object);
            let named: HashSet<Uuid> = rows.into_iter().flat_map(Map::keys).filter_map(|row| Uuid::try_parse(row).ok()).collect();
            for (&row, old) in table.rows.iter().filter(|(row, _)| !named.contains(row)) {
                changes.push(Change { table: name.clone(), row, delta: Delta::Deleted(old.clone()) });
            }
        }
        changes
    }

    fn commit(&mut self, changes: &[Change], last_txn: Uuid) {
        // A name that moved from one row to another must end up at the new one: all old entries go first.
        for change in changes {
            if let Some(table) = self.tables.get_mut(&change.table) {
                table.forget(change.row);
            }
        }
        for change in changes {
            if let (Some(table), Delta::Inserted(new) | Delta::Modified { new, .. }) = (self.tables.get_mut(&change.table), &change.delta) {
                table.learn(change.row, new.clone());
            }
        }
        self.last_txn = last_txn;
    }
}

impl Table {
    fn new(schema: &Schema, name: &Name, watched: &Watched) -> Result<Self, DecodeError> {
        let mut types = BTreeMap::new();
        for column in &watched.columns {
            types.insert(column.clone(), schema.column(name, column)?);
        }
        let columns: Arc<[Name]> = types.keys().cloned().collect();
        let values = types.values().map(ColumnType::default_value).collect();
        let index = index_column(schema.table(name)?, &types).map(|column| Index { column, rows: BTreeMap::new() });
        Ok(Table { types, blank: Row::new(columns, values), rows: HashMap::new(), index })
    }

    /// Every row, in no order.
    pub fn rows(&self) -> impl Iterator<Item = (Uuid, &Arc<Row>)> {
        self.rows.iter().map(|(&uuid, row)| (uuid, row))
    }

    pub fn row(&self, row: Uuid) -> Option<&Arc<Row>> {
        self.rows.get(&row)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row whose identifying column (the first monitored one that is an index of its own in the schema, mostly
    /// `name`) holds `key`.
    pub fn find(&self, key: impl Into<Atom>) -> Option<(Uuid, &Arc<Row>)> {
        let uuid = *self.index.as_ref()?.rows.get(&key.into())?;
        Some((uuid, self.rows.get(&uuid)?))
    }

    fn delta(&self, name: &Name, uuid: Uuid, update: RowUpdate<'_>) -> Result<Option<Delta>, ReplicaError> {
        let decode = |source| ReplicaError::Decode { table: name.to_string(), source };
        let old = self.rows.get(&uuid);
        let new = match update {
            RowUpdate::Deleted => return Ok(old.cloned().map(Delta::Deleted)),
            RowUpdate::Present(columns) => self.present(name, columns).map_err(decode)?,
            RowUpdate::Modified(columns) => {
                let old = old.ok_or_else(|| ReplicaError::UnknownRow { table: name.to_string(), row: uuid })?;
                self.modified(name, old, columns).map_err(decode)?
            }
        };
        Ok(match old {
            None => Some(Delta::Inserted(Arc::new(new))),
            Some(old) if **old == new => None,
            Some(old) => Some(Delta::Modified { old: old.clone(), new: Arc::new(new) }),
        })
    }

    fn present(&self, name: &Name, columns: &Map<String, Json>) -> Result<Row, DecodeError> {
        let mut row = self.blank.clone();
        for (column, json) in columns {
            let (kind, value) = self.place(name, &mut row, column)?;
            *value = kind.decode(json).map_err(|error| error.within(format!("column {column}")))?;
        }
        Ok(row)
    }

    fn modified(&self, name: &Name, old: &Row, columns: &Map<String, Json>) -> Result<Row, DecodeError> {
        let mut row = old.clone();
        for (column, json) in columns {
            let (kind, value) = self.place(name, &mut row, column)?;
            let given = kind.decode(json).map_err(|error| error.within(format!("column {column}")))?;
            match kind.is_changed_by_difference() {
                true => apply_difference(value, given),
                false => *value = given,
            }
        }
        Ok(row)
    }

    /// The type of a column, and where `row` holds it.
    fn place<'r>(&self, name: &Name, row: &'r mut Row, column: &str) -> Result<(ColumnType, &'r mut Value), DecodeError> {
        let unknown = || DecodeError::UnknownColumn { table: name.to_string(), column: column.to_owned() };
        let kind = self.types.get(column).copied().ok_or_else(unknown)?;
        Ok((kind, row.value_mut(column).ok_or_else(unknown)?))
    }

    fn forget(&mut self, uuid: Uuid) {
        let Some(row) = self.rows.remove(&uuid) else {
            return;
        };
        if let Some(index) = &mut self.index
            && let Some(key) = row.value(&index.column).and_then(Value::only)
            && index.rows.get(key) == Some(&uuid)
        {
            index.rows.remove(key);
        }
    }

    fn learn(&mut self, uuid: Uuid, row: Arc<Row>) {
        if let Some(index) = &mut self.index
            && let Some(key) = row.value(&index.column).and_then(Value::only)
        {
            index.rows.insert(key.clone(), uuid);
        }
        self.rows.insert(uuid, row);
    }
}

fn index_column(table: &TableSchema, types: &BTreeMap<Name, ColumnType>) -> Option<Name> {
    let mut single = table.indexes.iter().filter_map(|index| match index.as_slice() {
        [column] => Some(column),
        _ => None,
    });
    single.find(|column| types.get(*column).is_some_and(ColumnType::is_scalar)).cloned()
}

/// Turns an old value into the new one, given their difference.
fn apply_difference(value: &mut Value, difference: Value) {
    match (value, difference) {
        (Value::Set(old), Value::Set(difference)) => {
            for atom in difference {
                if !old.remove(&atom) {
                    old.insert(atom);
                }
            }
        }
        (Value::Map(old), Value::Map(difference)) => {
            for (key, value) in difference {
                match old.get(&key) == Some(&value) {
                    true => old.remove(&key),
                    false => old.insert(key, value),
                };
            }
        }
        // Both were read by the same type, so they are of the same kind; a scalar has no difference.
        (value, new) => *value = new,
    }
}
