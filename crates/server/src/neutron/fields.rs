//! A checked body: attributes in their normal form, read by type.
//!
//! Every value here passed its attribute's check, so the readers cannot fail on what the tables allow; they answer None for
//! what was not said, and for null where the type has no null.

use std::net::IpAddr;
use std::str::FromStr;

use serde_json::{Map, Value};

/// The attributes of one object in a request.
#[derive(Clone, Default, Debug)]
pub struct Fields {
    values: Map<String, Value>,
    /// Names that the request itself said, without those that were filled in.
    said: Vec<String>,
}

impl Fields {
    pub fn new(values: Map<String, Value>, said: Vec<String>) -> Fields {
        Fields { values, said }
    }

    /// True if the request said it, be it null.
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// True if the request itself said it, not a default.
    pub fn is_said(&self, name: &str) -> bool {
        self.said.iter().any(|said| said == name)
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// The value, unless it was not said or is null.
    pub fn set(&self, name: &str) -> Option<&Value> {
        self.get(name).filter(|value| !value.is_null())
    }

    /// True if the request says null in so many letters.
    pub fn is_null(&self, name: &str) -> bool {
        self.get(name).is_some_and(Value::is_null)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.set(name).and_then(Value::as_str)
    }

    pub fn boolean(&self, name: &str) -> Option<bool> {
        self.set(name).and_then(Value::as_bool)
    }

    pub fn number(&self, name: &str) -> Option<i64> {
        self.set(name).and_then(Value::as_i64)
    }

    /// Anything that is written as a string: an id, an address, a prefix.
    pub fn parsed<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name).and_then(|text| text.parse().ok())
    }

    /// The entries of a list.
    pub fn list(&self, name: &str) -> Option<&[Value]> {
        self.set(name).and_then(Value::as_array).map(Vec::as_slice)
    }

    /// A list of things that are written as strings.
    pub fn parsed_list<T: FromStr>(&self, name: &str) -> Option<Vec<T>> {
        Some(self.list(name)?.iter().filter_map(entry).collect())
    }
}

/// A string entry of a list, read as what it stands for.
pub fn entry<T: FromStr>(value: &Value) -> Option<T> {
    value.as_str().and_then(|text| text.parse().ok())
}

/// An address under a key of a dictionary.
pub fn ip_of(value: &Value, key: &str) -> Option<IpAddr> {
    value.get(key).and_then(entry)
}
