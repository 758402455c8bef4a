//! Which columns of which tables a client follows, and the messages that tell it of them (ovsdb-server(7),
//! `monitor_cond_since`).
//!
//! The server's reply says whether it still knew what changed since the client's last transaction. If so, it sends just
//! that; if not, everything. Standalone databases never know; clustered ones remember up to a hundred transactions,
//! and no more of them than the database itself is large.

use crate::schema::{array, field, object, text};
use crate::{Condition, DecodeError, Json, Message, Name, Uuid, call};
use serde_json::{Map, json};
use std::collections::BTreeMap;

/// Columns to follow, by table; a table may be narrowed to the rows that pass at least one condition.
#[derive(Clone, PartialEq, Debug)]
pub struct Monitor {
    pub database: String,
    pub(crate) tables: BTreeMap<Name, Watched>,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Watched {
    pub columns: Vec<Name>,
    pub conditions: Vec<Condition>,
}

impl Monitor {
    pub fn of(database: &str) -> Self {
        Monitor { database: database.to_owned(), tables: BTreeMap::new() }
    }

    /// Follows columns of all rows of a table.
    pub fn table(self, table: &str, columns: &[&str]) -> Self {
        self.filtered(table, columns, Vec::new())
    }

    /// Follows columns of the rows that pass at least one condition.
    pub fn filtered(mut self, table: &str, columns: &[&str], conditions: Vec<Condition>) -> Self {
        let columns = columns.iter().map(|&column| column.into()).collect();
        self.tables.insert(table.into(), Watched { columns, conditions });
        self
    }

    /// The request to follow them from `last_txn` on (nil: from nothing); [`MonitorReply::decode`] reads its reply.
    pub fn request(&self, id: u64, monitor: &str, last_txn: Uuid) -> Message {
        let tables: Map<String, Json> = self.tables.iter().map(|(table, watched)| (table.to_string(), watched.to_json())).collect();
        let params = vec![json!(self.database), json!(monitor), Json::Object(tables), json!(last_txn.to_string())];
        call::request(id, "monitor_cond_since", params)
    }
}

impl Watched {
    fn to_json(&self) -> Json {
        let columns: Vec<&str> = self.columns.iter().map(|column| &**column).collect();
        let mut request = json!({"columns": columns});
        if !self.conditions.is_empty() {
            request["where"] = self.conditions.iter().map(Condition::to_json).collect();
        }
        json!([request])
    }
}

/// Rows that changed, by table, not yet read by their columns' types: that is the replica's work.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct TableUpdates(pub(crate) Map<String, Json>);

/// The reply to `monitor_cond_since`.
#[derive(Clone, PartialEq, Debug)]
pub struct MonitorReply {
    /// Whether `updates` holds the changes since the transaction that the request named, and not everything.
    pub is_resumed: bool,
    /// The transaction up to which the updates go; nil if the server does not number them.
    pub last_txn: Uuid,
    pub updates: TableUpdates,
}

impl MonitorReply {
    pub fn decode(result: &Json) -> Result<Self, DecodeError> {
        let [is_resumed, last_txn, updates] = array("a monitor's reply", result)?.as_slice() else {
            return Err(DecodeError::unexpected("a monitor's reply of three elements", result));
        };
        Ok(MonitorReply {
            is_resumed: is_resumed.as_bool().ok_or_else(|| DecodeError::unexpected("a boolean", is_resumed))?,
            last_txn: transaction_id(last_txn)?,
            updates: TableUpdates::decode(updates)?,
        })
    }
}

/// An `update3` notification.
#[derive(Clone, PartialEq, Debug)]
pub struct Update {
    pub monitor: Json,
    pub last_txn: Uuid,
    pub updates: TableUpdates,
}

impl Update {
    /// Reads a message if it is an `update3`.
    pub fn from_message(message: Message) -> Result<Option<Self>, DecodeError> {
        let Message::Notification { method, params } = message else {
            return Ok(None);
        };
        if method != "update3" {
            return Ok(None);
        }
        let [monitor, last_txn, updates]: [Json; 3] =
            params.try_into().map_err(|params| DecodeError::unexpected("three params of update3", &Json::Array(params)))?;
        Ok(Some(Update { monitor, last_txn: transaction_id(&last_txn)?, updates: TableUpdates::decode(&updates)? }))
    }
}

impl TableUpdates {
    fn decode(json: &Json) -> Result<Self, DecodeError> {
        Ok(TableUpdates(object("updates by table", json)?.clone()))
    }
}

fn transaction_id(json: &Json) -> Result<Uuid, DecodeError> {
    Uuid::try_parse(text("a transaction's id", json)?).map_err(|_| DecodeError::unexpected("a transaction's id", json))
}

/// What `update2` says of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RowUpdate<'a> {
    /// The row is there; columns that it does not name hold their defaults.
    Present(&'a Map<String, Json>),
    /// These columns changed.
    Modified(&'a Map<String, Json>),
    Deleted,
}

impl<'a> RowUpdate<'a> {
    pub fn decode(json: &'a Json) -> Result<Self, DecodeError> {
        let fields = object("an update of a row", json)?;
        if fields.contains_key("delete") {
            return Ok(RowUpdate::Deleted);
        }
        if fields.contains_key("modify") {
            return object("modified columns", field(fields, "modify")).map(RowUpdate::Modified);
        }
        match fields.get("initial").or(fields.get("insert")) {
            Some(row) => object("a row", row).map(RowUpdate::Present),
            None => Err(DecodeError::unexpected("initial, insert, modify or delete", json)),
        }
    }
}
