//! A database's schema, as far as a client needs it (RFC 7047 section 3.2).
//!
//! The type of a column decides how its values are read, what it holds when an insert leaves it out, and whether a
//! modification in `update2`/`update3` is the new value or a difference. Ranges, enumerations and references are not
//! kept: the server enforces them.

use crate::{Atom, DecodeError, Json, Name, Value};
use serde_json::Map;
use std::collections::BTreeMap;
use uuid::Uuid;

/// The tables of a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schema {
    pub name: String,
    pub version: String,
    pub tables: BTreeMap<Name, TableSchema>,
}

/// The columns of a table, and the sets of columns that identify a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableSchema {
    pub columns: BTreeMap<Name, ColumnType>,
    pub indexes: Vec<Vec<Name>>,
}

/// What a column may hold: `min` to `max` atoms of type `key`, or pairs of `key` and `value`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ColumnType {
    pub key: AtomType,
    pub value: Option<AtomType>,
    pub min: u64,
    pub max: Max,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Max {
    Limited(u64),
    Unlimited,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtomType {
    Integer,
    Real,
    Boolean,
    String,
    Uuid,
}

impl Schema {
    /// Reads the result of `get_schema`.
    pub fn decode(json: &Json) -> Result<Self, DecodeError> {
        let fields = object("a database schema", json)?;
        let mut tables = BTreeMap::new();
        for (name, table) in object("the schema's tables", field(fields, "tables"))? {
            let table = TableSchema::decode(table).map_err(|error| error.within(format!("the schema of table {name}")))?;
            tables.insert(name.as_str().into(), table);
        }
        Ok(Schema {
            name: text("the schema's name", field(fields, "name"))?.to_owned(),
            version: text("the schema's version", field(fields, "version"))?.to_owned(),
            tables,
        })
    }

    /// A table of this schema.
    pub fn table(&self, table: &str) -> Result<&TableSchema, DecodeError> {
        self.tables.get(table).ok_or_else(|| DecodeError::UnknownTable { table: table.to_owned() })
    }

    /// A column of this schema.
    pub fn column(&self, table: &str, column: &str) -> Result<ColumnType, DecodeError> {
        let found = self.table(table)?.columns.get(column).copied();
        found.ok_or_else(|| DecodeError::UnknownColumn { table: table.to_owned(), column: column.to_owned() })
    }
}

impl TableSchema {
    fn decode(json: &Json) -> Result<Self, DecodeError> {
        let fields = object("a table schema", json)?;
        // Every row has these two, and no schema lists them (RFC 7047 section 3.2).
        let implicit = ColumnType { key: AtomType::Uuid, value: None, min: 1, max: Max::Limited(1) };
        let mut columns = BTreeMap::from([("_uuid".into(), implicit), ("_version".into(), implicit)]);
        for (name, column) in object("a table's columns", field(fields, "columns"))? {
            let kind = field(object("a column schema", column)?, "type");
            let kind = ColumnType::decode_type(kind).map_err(|error| error.within(format!("the type of column {name}")))?;
            columns.insert(name.as_str().into(), kind);
        }
        let indexes = match fields.get("indexes") {
            None => Vec::new(),
            Some(json) => array("indexes", json)?.iter().map(index).collect::<Result<_, _>>()?,
        };
        Ok(TableSchema { columns, indexes })
    }
}

fn index(json: &Json) -> Result<Vec<Name>, DecodeError> {
    array("an index", json)?.iter().map(|column| text("a column's name", column).map(Name::from)).collect()
}

impl ColumnType {
    fn decode_type(json: &Json) -> Result<Self, DecodeError> {
        if json.is_string() {
            return Ok(ColumnType { key: AtomType::decode(json)?, value: None, min: 1, max: Max::Limited(1) });
        }
        let fields = object("a column's type", json)?;
        let max = match fields.get("max") {
            None => Max::Limited(1),
            Some(Json::String(text)) if text == "unlimited" => Max::Unlimited,
            Some(json) => Max::Limited(json.as_u64().ok_or_else(|| DecodeError::unexpected("a maximum", json))?),
        };
        let min = match fields.get("min") {
            None => 1,
            Some(json) => json.as_u64().ok_or_else(|| DecodeError::unexpected("a minimum", json))?,
        };
        let value = fields.get("value").map(AtomType::decode).transpose()?;
        Ok(ColumnType { key: AtomType::decode(field(fields, "key"))?, value, min, max })
    }

    /// Whether the column holds exactly one atom.
    pub fn is_scalar(&self) -> bool {
        self.value.is_none() && self.min == 1 && self.max == Max::Limited(1)
    }

    /// Whether a modification of this column in `update2` is a difference, not the new value.
    pub fn is_changed_by_difference(&self) -> bool {
        match self.max {
            Max::Unlimited => true,
            Max::Limited(max) => max > 1,
        }
    }

    /// What the column holds in a row that does not say (RFC 7047 section 5.2.1).
    pub fn default_value(&self) -> Value {
        let zero = self.key.zero();
        match (self.is_scalar(), self.value, self.min) {
            (true, ..) => Value::Atom(zero),
            (_, None, 0) => Value::Set(Default::default()),
            (_, None, _) => Value::Set([zero].into()),
            (_, Some(_), 0) => Value::Map(Default::default()),
            (_, Some(value), _) => Value::Map([(zero, value.zero())].into()),
        }
    }

    /// Reads a value of this column as the wire carries it.
    pub fn decode(&self, json: &Json) -> Result<Value, DecodeError> {
        match self.value {
            Some(value) => self.decode_map(value, json),
            None if self.is_scalar() => Ok(Value::Atom(self.key.decode_atom(only_of(json))?)),
            None => self.decode_set(json),
        }
    }

    fn decode_set(&self, json: &Json) -> Result<Value, DecodeError> {
        let atoms = match tagged("set", json) {
            Some(atoms) => array("the elements of a set", atoms)?.as_slice(),
            None => std::slice::from_ref(json),
        };
        Ok(Value::Set(atoms.iter().map(|atom| self.key.decode_atom(atom)).collect::<Result<_, _>>()?))
    }

    fn decode_map(&self, value: AtomType, json: &Json) -> Result<Value, DecodeError> {
        let pairs = tagged("map", json).ok_or_else(|| DecodeError::unexpected("a map", json))?;
        let mut map = BTreeMap::new();
        for pair in array("the pairs of a map", pairs)? {
            let Some([key, of_key]) = pair.as_array().map(Vec::as_slice) else {
                return Err(DecodeError::unexpected("a pair", pair));
            };
            map.insert(self.key.decode_atom(key)?, value.decode_atom(of_key)?);
        }
        Ok(Value::Map(map))
    }
}

impl AtomType {
    fn decode(json: &Json) -> Result<Self, DecodeError> {
        let name = match json {
            Json::Object(fields) => field(fields, "type"),
            other => other,
        };
        Ok(match name.as_str() {
            Some("integer") => AtomType::Integer,
            Some("real") => AtomType::Real,
            Some("boolean") => AtomType::Boolean,
            Some("string") => AtomType::String,
            Some("uuid") => AtomType::Uuid,
            _ => return Err(DecodeError::unexpected("the type of an atom", name)),
        })
    }

    fn decode_atom(self, json: &Json) -> Result<Atom, DecodeError> {
        let wrong = |expected| DecodeError::unexpected(expected, json);
        match self {
            AtomType::Integer => json.as_i64().map(Atom::Integer).ok_or_else(|| wrong("an integer")),
            AtomType::Real => json.as_f64().map(Atom::Real).ok_or_else(|| wrong("a real")),
            AtomType::Boolean => json.as_bool().map(Atom::Boolean).ok_or_else(|| wrong("a boolean")),
            AtomType::String => json.as_str().map(Atom::from).ok_or_else(|| wrong("a string")),
            AtomType::Uuid => uuid(json).map(Atom::Uuid),
        }
    }

    fn zero(self) -> Atom {
        match self {
            AtomType::Integer => Atom::Integer(0),
            AtomType::Real => Atom::Real(0.0),
            AtomType::Boolean => Atom::Boolean(false),
            AtomType::String => Atom::from(""),
            AtomType::Uuid => Atom::Uuid(Uuid::nil()),
        }
    }
}

/// Reads `["uuid", "..."]`.
pub(crate) fn uuid(json: &Json) -> Result<Uuid, DecodeError> {
    let text = tagged("uuid", json).and_then(Json::as_str);
    text.and_then(|text| Uuid::try_parse(text).ok()).ok_or_else(|| DecodeError::unexpected("a UUID", json))
}

/// The element of a set of one, or the value itself.
fn only_of(json: &Json) -> &Json {
    match tagged("set", json).and_then(Json::as_array).map(Vec::as_slice) {
        Some([only]) => only,
        _ => json,
    }
}

/// The content of `[tag, content]`.
fn tagged<'a>(tag: &str, json: &'a Json) -> Option<&'a Json> {
    match json.as_array().map(Vec::as_slice) {
        Some([first, content]) if first == tag => Some(content),
        _ => None,
    }
}

/// A field, or null where there is none.
pub(crate) fn field<'a>(fields: &'a Map<String, Json>, name: &str) -> &'a Json {
    fields.get(name).unwrap_or(&Json::Null)
}

pub(crate) fn object<'a>(expected: &'static str, json: &'a Json) -> Result<&'a Map<String, Json>, DecodeError> {
    json.as_object().ok_or_else(|| DecodeError::unexpected(expected, json))
}

pub(crate) fn array<'a>(expected: &'static str, json: &'a Json) -> Result<&'a Vec<Json>, DecodeError> {
    json.as_array().ok_or_else(|| DecodeError::unexpected(expected, json))
}

pub(crate) fn text<'a>(expected: &'static str, json: &'a Json) -> Result<&'a str, DecodeError> {
    json.as_str().ok_or_else(|| DecodeError::unexpected(expected, json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn column(json: Json) -> ColumnType {
        ColumnType::decode_type(&json).unwrap()
    }

    #[test]
    fn a_set_of_one_reads_the_same_with_and_without_its_wrapping() {
        let set = column(json!({"key": "integer", "min": 0, "max": "unlimited"}));
        assert_eq!(set.decode(&json!(5)).unwrap(), set.decode(&json!(["set", [5]])).unwrap());
        let scalar = column(json!("integer"));
        assert_eq!(scalar.decode(&json!(5)).unwrap(), scalar.decode(&json!(["set", [5]])).unwrap());
    }

    #[test]
    fn a_whole_real_stays_a_real() {
        assert_eq!(column(json!("real")).decode(&json!(1)).unwrap(), Value::Atom(Atom::Real(1.0)));
    }

    #[test]
    fn an_absent_column_has_its_types_default() {
        assert_eq!(column(json!("string")).default_value(), Value::from(""));
        assert_eq!(column(json!({"key": "integer", "min": 0})).default_value(), Value::Set([].into()));
        let map = json!({"key": "string", "value": "string", "min": 0, "max": "unlimited"});
        assert_eq!(column(map).default_value(), Value::Map([].into()));
    }

    #[test]
    fn a_value_of_another_type_is_an_error() {
        for (kind, value) in [
            (json!("integer"), json!(1.5)),
            (json!("string"), json!(["set", []])),
            (json!("uuid"), json!(["uuid", "x"])),
            (json!({"key": "string", "value": "string"}), json!(["map", [["a"]]])),
        ] {
            assert!(column(kind.clone()).decode(&value).is_err(), "{kind} {value}");
        }
    }
}
