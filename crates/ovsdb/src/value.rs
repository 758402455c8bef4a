//! What a column holds (RFC 7047 section 5.1).
//!
//! The wire writes a set of one like its element and a whole real like an integer, so a value can be read only by its
//! column's type ([`crate::ColumnType::decode`]); what comes out has one form for each type and compares by content.

use crate::Json;
use serde_json::json;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// One indivisible value.
#[derive(Clone, Debug)]
pub enum Atom {
    Integer(i64),
    Real(f64),
    Boolean(bool),
    String(Arc<str>),
    Uuid(Uuid),
    /// The row that an `insert` of the same transaction makes under this name. Never comes from a server.
    NamedUuid(Arc<str>),
}

/// The content of a column: of a scalar an atom, of anything else (an optional value too) a set or a map.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Value {
    Atom(Atom),
    Set(BTreeSet<Atom>),
    Map(BTreeMap<Atom, Atom>),
}

/// The row that an insert of the same transaction makes under `name`.
pub fn named_uuid(name: &str) -> Atom {
    Atom::NamedUuid(name.into())
}

impl Atom {
    /// The atom as the wire carries it.
    pub fn to_json(&self) -> Json {
        match self {
            Atom::Integer(value) => json!(value),
            Atom::Real(value) => json!(value),
            Atom::Boolean(value) => json!(value),
            Atom::String(value) => json!(**value),
            Atom::Uuid(value) => json!(["uuid", value.to_string()]),
            Atom::NamedUuid(name) => json!(["named-uuid", **name]),
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Atom::String(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Atom::Integer(value) => Some(*value),
            _ => None,
        }
    }

    pub fn as_uuid(&self) -> Option<Uuid> {
        match self {
            Atom::Uuid(value) => Some(*value),
            _ => None,
        }
    }

    /// The order between kinds, for a total order over all atoms.
    fn rank(&self) -> u8 {
        match self {
            Atom::Integer(_) => 0,
            Atom::Real(_) => 1,
            Atom::Boolean(_) => 2,
            Atom::String(_) => 3,
            Atom::Uuid(_) => 4,
            Atom::NamedUuid(_) => 5,
        }
    }
}

impl Ord for Atom {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Atom::Integer(a), Atom::Integer(b)) => a.cmp(b),
            (Atom::Real(a), Atom::Real(b)) => a.total_cmp(b),
            (Atom::Boolean(a), Atom::Boolean(b)) => a.cmp(b),
            (Atom::String(a), Atom::String(b)) | (Atom::NamedUuid(a), Atom::NamedUuid(b)) => a.cmp(b),
            (Atom::Uuid(a), Atom::Uuid(b)) => a.cmp(b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

impl PartialOrd for Atom {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Atom {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Atom {}

impl Value {
    /// A set of whatever makes atoms.
    pub fn set<A: Into<Atom>>(atoms: impl IntoIterator<Item = A>) -> Self {
        Value::Set(atoms.into_iter().map(Into::into).collect())
    }

    /// A map of whatever makes atoms.
    pub fn map<K: Into<Atom>, V: Into<Atom>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Value::Map(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }

    /// The value as the wire carries it.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Atom(atom) => atom.to_json(),
            Value::Set(atoms) => {
                json!(["set", atoms.iter().map(Atom::to_json).collect::<Vec<_>>()])
            }
            Value::Map(pairs) => {
                let pairs: Vec<Json> = pairs.iter().map(|(key, value)| json!([key.to_json(), value.to_json()])).collect();
                json!(["map", pairs])
            }
        }
    }

    /// The atoms of a scalar or a set; nothing of a map.
    pub fn atoms(&self) -> impl Iterator<Item = &Atom> {
        let (one, many) = match self {
            Value::Atom(atom) => (Some(atom), None),
            Value::Set(atoms) => (None, Some(atoms)),
            Value::Map(_) => (None, None),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// The only atom, of a scalar or of an optional value that is there.
    pub fn only(&self) -> Option<&Atom> {
        let mut atoms = self.atoms();
        atoms.next().filter(|_| atoms.next().is_none())
    }

    /// The pairs of a map; nothing of anything else.
    pub fn pairs(&self) -> impl Iterator<Item = (&Atom, &Atom)> {
        match self {
            Value::Map(pairs) => Some(pairs),
            _ => None,
        }
        .into_iter()
        .flatten()
    }
}

impl From<i64> for Atom {
    fn from(value: i64) -> Self {
        Atom::Integer(value)
    }
}

impl From<i32> for Atom {
    fn from(value: i32) -> Self {
        Atom::Integer(value.into())
    }
}

impl From<u32> for Atom {
    fn from(value: u32) -> Self {
        Atom::Integer(value.into())
    }
}

impl From<u8> for Atom {
    fn from(value: u8) -> Self {
        Atom::Integer(value.into())
    }
}

impl From<f64> for Atom {
    fn from(value: f64) -> Self {
        Atom::Real(value)
    }
}

impl From<bool> for Atom {
    fn from(value: bool) -> Self {
        Atom::Boolean(value)
    }
}

impl From<&str> for Atom {
    fn from(value: &str) -> Self {
        Atom::String(value.into())
    }
}

impl From<&String> for Atom {
    fn from(value: &String) -> Self {
        Atom::String(value.as_str().into())
    }
}

impl From<String> for Atom {
    fn from(value: String) -> Self {
        Atom::String(value.into())
    }
}

impl From<Uuid> for Atom {
    fn from(value: Uuid) -> Self {
        Atom::Uuid(value)
    }
}

impl<A: Into<Atom>> From<A> for Value {
    fn from(value: A) -> Self {
        Value::Atom(value.into())
    }
}
