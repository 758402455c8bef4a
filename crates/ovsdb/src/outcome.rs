//! What became of a transaction (RFC 7047 section 4.1.3).
//!
//! The reply has one element per operation; after a failed one the rest are null, and a failure at commit (a constraint,
//! a dangling reference) is one element more.

use crate::schema::{self, array, field, object};
use crate::{DecodeError, Json, Operation, Schema, Transaction, Uuid, Value};
use std::collections::BTreeMap;

/// The result of one operation that worked.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    Inserted(Uuid),
    /// How many rows an update, mutation or deletion touched.
    Touched(u64),
    /// The rows that a select found, as the wire carries them: [`Outcome::rows`] reads them.
    Selected {
        table: String,
        rows: Vec<Json>,
    },
    /// The operation has no result.
    Done,
}

/// A transaction that changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    #[error("operation {index} ({operation}) failed: {error}: {details}")]
    Operation { index: usize, operation: &'static str, error: String, details: String },
    #[error("commit failed: {error}: {details}")]
    Commit { error: String, details: String },
    #[error("the server refused the transaction: {0}")]
    Refused(Json),
    #[error("reading the reply to a transaction")]
    Decode(#[from] DecodeError),
}

impl TransactionError {
    /// The server's name for what went wrong, such as `constraint violation`.
    pub fn code(&self) -> Option<&str> {
        match self {
            TransactionError::Operation { error, .. } | TransactionError::Commit { error, .. } => Some(error),
            TransactionError::Refused(_) | TransactionError::Decode(_) => None,
        }
    }
}

impl Transaction {
    /// Reads the reply to this transaction: an outcome for each operation, or what failed.
    pub fn outcomes(&self, reply: Result<Json, Json>) -> Result<Vec<Outcome>, TransactionError> {
        let reply = reply.map_err(TransactionError::Refused)?;
        let results = array("the results of a transaction", &reply)?;
        if let Some((index, error, details)) = results.iter().enumerate().find_map(failure) {
            return Err(match self.operations.get(index) {
                Some(operation) => TransactionError::Operation { index, operation: operation.name(), error, details },
                None => TransactionError::Commit { error, details },
            });
        }
        if results.len() != self.operations.len() {
            return Err(DecodeError::unexpected("a result for every operation", &reply).into());
        }
        let pairs = self.operations.iter().zip(results);
        Ok(pairs.map(|(operation, result)| outcome(operation, result)).collect::<Result<_, _>>()?)
    }
}

fn failure((index, result): (usize, &Json)) -> Option<(usize, String, String)> {
    let error = result.get("error").filter(|error| !error.is_null())?;
    let plain = |json: &Json| json.as_str().map_or_else(|| json.to_string(), str::to_owned);
    Some((index, plain(error), result.get("details").map(plain).unwrap_or_default()))
}

fn outcome(operation: &Operation, result: &Json) -> Result<Outcome, DecodeError> {
    let fields = object("the result of an operation", result)?;
    match operation {
        Operation::Insert(_) => schema::uuid(field(fields, "uuid")).map(Outcome::Inserted),
        Operation::Update { .. } | Operation::Mutate { .. } | Operation::Delete { .. } => {
            let count = field(fields, "count");
            count.as_u64().map(Outcome::Touched).ok_or_else(|| DecodeError::unexpected("a count of rows", count))
        }
        Operation::Select { table, .. } => {
            let rows = array("the rows of a select", field(fields, "rows"))?.clone();
            Ok(Outcome::Selected { table: table.to_string(), rows })
        }
        Operation::Wait { .. } | Operation::Commit { .. } | Operation::Abort => Ok(Outcome::Done),
        Operation::Comment(_) | Operation::Assert { .. } => Ok(Outcome::Done),
    }
}

impl Outcome {
    /// The rows that a select found; none of any other operation.
    pub fn rows(&self, schema: &Schema) -> Result<Vec<BTreeMap<String, Value>>, DecodeError> {
        match self {
            Outcome::Selected { table, rows } => rows.iter().map(|row| selected(schema, table, row)).collect(),
            _ => Ok(Vec::new()),
        }
    }
}

fn selected(schema: &Schema, table: &str, row: &Json) -> Result<BTreeMap<String, Value>, DecodeError> {
    let columns = object("a row", row)?.iter();
    let read = |column: &String, json| Ok((column.clone(), schema.column(table, column)?.decode(json)?));
    columns.map(|(column, json)| read(column, json)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn transaction() -> Transaction {
        let operations = vec![Operation::Comment("x".into()), Operation::delete("Port", vec![])];
        Transaction::new("Open_vSwitch", operations)
    }

    #[test]
    fn the_failed_operation_is_named() {
        let reply = json!([{}, {"error": "timed out", "details": "why"}]);
        let error = transaction().outcomes(Ok(reply)).unwrap_err();
        assert_eq!(error.to_string(), "operation 1 (delete) failed: timed out: why");
        assert_eq!(error.code(), Some("timed out"));
    }

    #[test]
    fn a_failure_at_commit_is_told_from_that_of_an_operation() {
        let reply = json!([{}, {"count": 1}, {"error": "referential integrity violation", "details": "d"}]);
        assert!(matches!(transaction().outcomes(Ok(reply)), Err(TransactionError::Commit { .. })));
    }

    #[test]
    fn a_reply_with_results_missing_is_an_error() {
        assert!(transaction().outcomes(Ok(json!([{}]))).is_err());
        assert!(transaction().outcomes(Ok(json!([null, null]))).is_err());
        assert_eq!(transaction().outcomes(Ok(json!([{}, {"count": 2}]))).unwrap()[1], Outcome::Touched(2));
    }
}
