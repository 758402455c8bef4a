//! What a transaction does, in order (RFC 7047 section 5.2).
//!
//! A [`Transaction`] is all or nothing: the server runs its operations one after the other and undoes them all when one
//! fails. A row that an operation inserts under a name is referred to by [`crate::named_uuid`] from any other.

use crate::{Json, Message, Name, Uuid, Value, call};
use serde_json::{Map, json};
use std::collections::BTreeMap;

/// Columns with values, as inserts and updates give them.
pub(crate) type Columns = BTreeMap<Name, Value>;

/// Operations that happen together or not at all.
#[derive(Clone, PartialEq, Debug)]
pub struct Transaction {
    pub database: String,
    pub operations: Vec<Operation>,
}

impl Transaction {
    pub fn new(database: &str, operations: Vec<Operation>) -> Self {
        Transaction { database: database.to_owned(), operations }
    }

    /// The request for this transaction; [`Transaction::outcomes`] reads its reply.
    pub fn request(&self, id: u64) -> Message {
        let operations = self.operations.iter().map(Operation::to_json);
        call::request(id, "transact", std::iter::once(json!(self.database)).chain(operations).collect())
    }
}

/// One step of a transaction.
#[derive(Clone, PartialEq, Debug)]
pub enum Operation {
    Insert(Insert),
    Select {
        table: Name,
        conditions: Vec<Condition>,
        columns: Vec<Name>,
    },
    Update {
        table: Name,
        conditions: Vec<Condition>,
        row: Columns,
    },
    Mutate {
        table: Name,
        conditions: Vec<Condition>,
        mutations: Vec<Mutation>,
    },
    Delete {
        table: Name,
        conditions: Vec<Condition>,
    },
    Wait {
        table: Name,
        conditions: Vec<Condition>,
        columns: Vec<Name>,
        until: Until,
        rows: Vec<Columns>,
        timeout_ms: u64,
    },
    /// Writes the database to disk before the reply.
    Commit {
        is_durable: bool,
    },
    /// Undoes everything: for finding out whether a transaction would work.
    Abort,
    /// A sentence for the server's log.
    Comment(String),
    /// Fails unless the client holds the lock.
    Assert {
        lock: String,
    },
}

/// The insertion of one row.
#[derive(Clone, PartialEq, Debug)]
pub struct Insert {
    table: Name,
    name: Option<Name>,
    row: Columns,
}

impl Insert {
    pub fn into(table: &str) -> Self {
        Insert { table: table.into(), name: None, row: Columns::new() }
    }

    /// The name by which other operations of the transaction refer to the row: letters, digits and underscores, no
    /// digit first.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    pub fn column(mut self, column: &str, value: impl Into<Value>) -> Self {
        self.row.insert(column.into(), value.into());
        self
    }
}

impl From<Insert> for Operation {
    fn from(insert: Insert) -> Self {
        Operation::Insert(insert)
    }
}

/// Whether `wait` waits for the rows to be, or not to be, as given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    Equal,
    NotEqual,
}

/// A test that a row must pass (RFC 7047 section 5.1, `<condition>`).
#[derive(Clone, PartialEq, Debug)]
pub struct Condition {
    column: Name,
    function: Function,
    value: Value,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    Less,
    LessOrEqual,
    Equal,
    NotEqual,
    GreaterOrEqual,
    Greater,
    Includes,
    Excludes,
}

impl Condition {
    pub fn new(column: &str, function: Function, value: impl Into<Value>) -> Self {
        Condition { column: column.into(), function, value: value.into() }
    }

    pub fn equal(column: &str, value: impl Into<Value>) -> Self {
        Condition::new(column, Function::Equal, value)
    }

    /// The row is this one.
    pub fn is_row(row: Uuid) -> Self {
        Condition::equal("_uuid", row)
    }

    pub(crate) fn to_json(&self) -> Json {
        json!([*self.column, self.function.symbol(), self.value.to_json()])
    }
}

impl Function {
    fn symbol(self) -> &'static str {
        match self {
            Function::Less => "<",
            Function::LessOrEqual => "<=",
            Function::Equal => "==",
            Function::NotEqual => "!=",
            Function::GreaterOrEqual => ">=",
            Function::Greater => ">",
            Function::Includes => "includes",
            Function::Excludes => "excludes",
        }
    }
}

/// A change of a column relative to what it holds (RFC 7047 section 5.1, `<mutation>`).
#[derive(Clone, PartialEq, Debug)]
pub struct Mutation {
    column: Name,
    mutator: Mutator,
    value: Value,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Insert,
    Delete,
}

impl Mutation {
    /// The column that changes.
    pub fn column(&self) -> &str {
        &self.column
    }

    pub fn new(column: &str, mutator: Mutator, value: impl Into<Value>) -> Self {
        Mutation { column: column.into(), mutator, value: value.into() }
    }

    /// Adds elements to a set, or pairs with new keys to a map: a key that is there keeps its value.
    pub fn insert(column: &str, value: impl Into<Value>) -> Self {
        Mutation::new(column, Mutator::Insert, value)
    }

    /// Takes elements out of a set, or out of a map pairs (given as a map) or keys (given as a set).
    pub fn delete(column: &str, value: impl Into<Value>) -> Self {
        Mutation::new(column, Mutator::Delete, value)
    }

    fn to_json(&self) -> Json {
        let mutator = match self.mutator {
            Mutator::Add => "+=",
            Mutator::Subtract => "-=",
            Mutator::Multiply => "*=",
            Mutator::Divide => "/=",
            Mutator::Remainder => "%=",
            Mutator::Insert => "insert",
            Mutator::Delete => "delete",
        };
        json!([*self.column, mutator, self.value.to_json()])
    }
}

impl Operation {
    /// Reads columns of the rows that pass; all columns if none is named.
    pub fn select(table: &str, conditions: Vec<Condition>, columns: &[&str]) -> Self {
        Operation::Select { table: table.into(), conditions, columns: names(columns) }
    }

    /// Overwrites columns of one row.
    pub fn update_row(table: &str, row: Uuid, columns: impl IntoIterator<Item = (Name, Value)>) -> Self {
        Operation::update(table, vec![Condition::is_row(row)], columns)
    }

    /// Overwrites columns of the rows that pass.
    pub fn update(table: &str, conditions: Vec<Condition>, columns: impl IntoIterator<Item = (Name, Value)>) -> Self {
        Operation::Update { table: table.into(), conditions, row: columns.into_iter().collect() }
    }

    /// Changes columns of one row relative to what they hold.
    pub fn mutate_row(table: &str, row: Uuid, mutations: Vec<Mutation>) -> Self {
        Operation::mutate(table, vec![Condition::is_row(row)], mutations)
    }

    /// Changes columns of the rows that pass, relative to what they hold.
    pub fn mutate(table: &str, conditions: Vec<Condition>, mutations: Vec<Mutation>) -> Self {
        Operation::Mutate { table: table.into(), conditions, mutations }
    }

    /// Deletes the rows that pass.
    pub fn delete(table: &str, conditions: Vec<Condition>) -> Self {
        Operation::Delete { table: table.into(), conditions }
    }

    /// Fails the transaction at once unless `column` of one row holds `value`: nobody changed it in between.
    pub fn expect(table: &str, row: Uuid, column: &str, value: impl Into<Value>) -> Self {
        Operation::Wait {
            table: table.into(),
            conditions: vec![Condition::is_row(row)],
            columns: vec![column.into()],
            until: Until::Equal,
            rows: vec![[(column.into(), value.into())].into()],
            timeout_ms: 0,
        }
    }

    /// The operation's name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::Insert(_) => "insert",
            Operation::Select { .. } => "select",
            Operation::Update { .. } => "update",
            Operation::Mutate { .. } => "mutate",
            Operation::Delete { .. } => "delete",
            Operation::Wait { .. } => "wait",
            Operation::Commit { .. } => "commit",
            Operation::Abort => "abort",
            Operation::Comment(_) => "comment",
            Operation::Assert { .. } => "assert",
        }
    }

    fn to_json(&self) -> Json {
        let mut fields = self.fields();
        fields["op"] = json!(self.name());
        fields
    }

    /// Everything but the name.
    fn fields(&self) -> Json {
        match self {
            Operation::Insert(insert) => insert.fields(),
            Operation::Select { table, conditions, columns } if columns.is_empty() => {
                json!({"table": **table, "where": wheres(conditions)})
            }
            Operation::Select { table, conditions, columns } => {
                json!({"table": **table, "where": wheres(conditions), "columns": strings(columns)})
            }
            Operation::Update { table, conditions, row } => {
                json!({"table": **table, "where": wheres(conditions), "row": row_json(row)})
            }
            Operation::Mutate { table, conditions, mutations } => {
                let mutations: Vec<Json> = mutations.iter().map(Mutation::to_json).collect();
                json!({"table": **table, "where": wheres(conditions), "mutations": mutations})
            }
            Operation::Delete { table, conditions } => {
                json!({"table": **table, "where": wheres(conditions)})
            }
            Operation::Wait { table, conditions, columns, until, rows, timeout_ms } => json!({
                "table": **table,
                "where": wheres(conditions),
                "columns": strings(columns),
                "until": match until { Until::Equal => "==", Until::NotEqual => "!=" },
                "rows": rows.iter().map(row_json).collect::<Vec<_>>(),
                "timeout": timeout_ms,
            }),
            Operation::Commit { is_durable } => json!({"durable": is_durable}),
            Operation::Abort => json!({}),
            Operation::Comment(comment) => json!({"comment": comment}),
            Operation::Assert { lock } => json!({"lock": lock}),
        }
    }
}

impl Insert {
    fn fields(&self) -> Json {
        let mut fields = json!({"table": *self.table, "row": row_json(&self.row)});
        if let Some(name) = &self.name {
            fields["uuid-name"] = json!(**name);
        }
        fields
    }
}

fn names(columns: &[&str]) -> Vec<Name> {
    columns.iter().map(|&column| column.into()).collect()
}

fn strings(names: &[Name]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

fn wheres(conditions: &[Condition]) -> Vec<Json> {
    conditions.iter().map(Condition::to_json).collect()
}

fn row_json(row: &Columns) -> Json {
    Json::Object(row.iter().map(|(column, value)| (column.to_string(), value.to_json())).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::named_uuid;

    #[test]
    fn operations_read_on_the_wire_as_the_rfc_writes_them() {
        let insert = Insert::into("Port").named("p").column("name", "eth0").column("interfaces", named_uuid("i"));
        assert_eq!(
            Operation::from(insert).to_json(),
            json!({"op": "insert", "table": "Port", "uuid-name": "p",
                   "row": {"name": "eth0", "interfaces": ["named-uuid", "i"]}})
        );
        let ids = Value::map([("iface-id", "x")]);
        let mutate = Operation::mutate(
            "Interface",
            vec![Condition::equal("name", "eth0")],
            vec![Mutation::delete("external_ids", Value::set(["iface-id"])), Mutation::insert("external_ids", ids)],
        );
        assert_eq!(
            mutate.to_json(),
            json!({"op": "mutate", "table": "Interface", "where": [["name", "==", "eth0"]], "mutations": [
                ["external_ids", "delete", ["set", ["iface-id"]]],
                ["external_ids", "insert", ["map", [["iface-id", "x"]]]]]})
        );
    }
}
