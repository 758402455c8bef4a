//! One row of a replicated table: a value for every monitored column.

use crate::{Atom, Name, Value};
use std::sync::Arc;
use uuid::Uuid;

/// The monitored columns of one row. The columns' names are shared by all rows of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Sorted.
    columns: Arc<[Name]>,
    values: Vec<Value>,
}

impl Row {
    /// `columns` are sorted and as many as `values`.
    pub(crate) fn new(columns: Arc<[Name]>, values: Vec<Value>) -> Self {
        debug_assert_eq!(columns.len(), values.len());
        Row { columns, values }
    }

    /// The value of a column; `None` if it is not monitored.
    pub fn value(&self, column: &str) -> Option<&Value> {
        self.position(column).map(|position| &self.values[position])
    }

    pub(crate) fn value_mut(&mut self, column: &str) -> Option<&mut Value> {
        self.position(column).map(|position| &mut self.values[position])
    }

    fn position(&self, column: &str) -> Option<usize> {
        self.columns.binary_search_by(|name| (**name).cmp(column)).ok()
    }

    /// Every monitored column with its value, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Value)> {
        self.columns.iter().zip(&self.values)
    }

    /// The string of a scalar column, or of an optional one where it is set.
    pub fn string(&self, column: &str) -> Option<&str> {
        self.value(column)?.only()?.as_str()
    }

    /// The integer of a scalar column, or of an optional one where it is set.
    pub fn integer(&self, column: &str) -> Option<i64> {
        self.value(column)?.only()?.as_integer()
    }

    /// The strings of a set.
    pub fn strings(&self, column: &str) -> impl Iterator<Item = &str> {
        self.value(column).into_iter().flat_map(Value::atoms).filter_map(Atom::as_str)
    }

    /// The rows that a scalar or a set refers to.
    pub fn uuids(&self, column: &str) -> impl Iterator<Item = Uuid> {
        self.value(column).into_iter().flat_map(Value::atoms).filter_map(Atom::as_uuid)
    }

    /// Whether a scalar or a set refers to `row`.
    pub fn refers_to(&self, column: &str, row: Uuid) -> bool {
        match self.value(column) {
            Some(Value::Set(atoms)) => atoms.contains(&Atom::Uuid(row)),
            Some(Value::Atom(atom)) => *atom == Atom::Uuid(row),
            _ => false,
        }
    }

    /// What a map of strings holds for `key`.
    pub fn text(&self, column: &str, key: &str) -> Option<&str> {
        match self.value(column) {
            Some(Value::Map(pairs)) => pairs.get(&Atom::from(key))?.as_str(),
            _ => None,
        }
    }

    /// The pairs of a map of strings.
    pub fn texts(&self, column: &str) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.value(column).into_iter().flat_map(Value::pairs);
        pairs.filter_map(|(key, value)| Some((key.as_str()?, value.as_str()?)))
    }
}
