//! From a request's bytes to attributes: one table per resource says which there are.
//!
//! An attribute that Octavia has and Ladon does not is *plain*: it may be left out or be said with its usual value, and
//! anything else is a 501 that names it. What Octavia does not have either is a 400.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use model::{ProjectId, Standard};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::error::Fault;
use crate::Tx;
use crate::auth::Caller;

/// Characters of a name or a description.
pub const TEXT_MAX: usize = 255;

/// What a body may say.
pub struct Table {
    /// Octavia's name of its handler's argument: part of a message that clients show.
    pub argument: &'static str,
    /// The object's name in JSON.
    pub name: &'static str,
    pub create: &'static [&'static str],
    pub update: &'static [&'static str],
    /// Attributes with the only value that they may have, as JSON.
    pub plain: &'static [(&'static str, &'static str)],
}

/// The attributes that a request says.
#[derive(Clone, Debug, Default)]
pub struct Fields(Map<String, Value>);

/// Any JSON dictionary with one member.
pub fn unwrap(bytes: &[u8], name: &str) -> Result<Value, Fault> {
    let invalid = |why: String| Fault::new(axum::http::StatusCode::BAD_REQUEST, why);
    let body: Value = serde_json::from_slice(bytes).map_err(|error| invalid(format!("Request is not in valid JSON format: {error}")))?;
    let Value::Object(mut body) = body else { return Err(invalid("The request body must be a JSON object.".into())) };
    body.remove(name).ok_or_else(|| invalid(format!("Missing argument: \"{name}\"")))
}

impl Table {
    pub fn for_create(&self, value: Value) -> Result<Fields, Fault> {
        self.fields(value, self.create)
    }

    pub fn for_update(&self, value: Value) -> Result<Fields, Fault> {
        self.fields(value, self.update)
    }

    fn fields(&self, value: Value, known: &[&str]) -> Result<Fields, Fault> {
        let Value::Object(values) = value else {
            return Err(Fault::invalid(self.name, &value, "Value should be an object"));
        };
        for (name, value) in &values {
            let plain = self.plain.iter().find(|(plain, _)| plain == name);
            match plain {
                Some((_, usual)) if is_usual(value, usual) => {}
                Some((_, usual)) => {
                    possible(name, value, usual)?;
                    return Err(Fault::unsupported(format!("{} {name}", self.name)));
                }
                None if known.contains(&name.as_str()) => {}
                None => {
                    let message = format!("Unknown attribute for argument {}.{}: {name}", self.argument, self.name);
                    return Err(Fault::new(axum::http::StatusCode::BAD_REQUEST, message));
                }
            }
        }
        Ok(Fields(values))
    }
}

/// True if saying this value is as good as saying nothing.
fn is_usual(value: &Value, usual: &str) -> bool {
    let is_empty = value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
    value.is_null() || is_empty || serde_json::from_str::<Value>(usual).is_ok_and(|usual| usual == *value)
}

/// Refuses a value that the attribute does not have in Octavia either: one of another type than the usual value's, or a number below
/// zero that does not mean "no limit".
fn possible(name: &str, value: &Value, usual: &str) -> Result<(), Fault> {
    let invalid = |reason: &str| Err(Fault::invalid(name, value, reason));
    match serde_json::from_str(usual) {
        Ok(Value::Number(usual)) => {
            let least = usual.as_i64().unwrap_or_default().min(0);
            let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
            let is_possible = number.is_some_and(|number| number >= least);
            if is_possible { Ok(()) } else { invalid(&format!("Value should be an integer, at least {least}")) }
        }
        Ok(Value::Bool(_)) if !value.is_boolean() => invalid("Value should be a boolean"),
        Ok(Value::String(_)) if !value.is_string() => invalid("Wrong type. Expected a string"),
        _ => Ok(()),
    }
}

impl Fields {
    /// What is said of an attribute; null says nothing.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// True if the attribute is there, be it null.
    pub fn says(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn text(&self, name: &str) -> Result<Option<String>, Fault> {
        let Some(value) = self.get(name) else { return Ok(self.says(name).then(String::new)) };
        let text = value.as_str().ok_or_else(|| Fault::invalid(name, value, "Wrong type. Expected a string"))?;
        let is_long = text.chars().count() > TEXT_MAX;
        let reason = || format!("Value should have a maximum character requirement of {TEXT_MAX}");
        if is_long { Err(Fault::invalid(name, value, reason())) } else { Ok(Some(text.to_string())) }
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>, Fault> {
        let wrong = |value| Fault::invalid(name, value, "Value should be a boolean");
        self.get(name).map(|value| value.as_bool().ok_or_else(|| wrong(value))).transpose()
    }

    pub fn number(&self, name: &str, range: RangeInclusive<u16>) -> Result<Option<u16>, Fault> {
        let Some(value) = self.get(name) else { return Ok(None) };
        // Octavia takes numbers as text too.
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok()).and_then(|number| u16::try_from(number).ok());
        let reason = || format!("Value should be an integer from {} to {}", range.start(), range.end());
        number.filter(|number| range.contains(number)).map(Some).ok_or_else(|| Fault::invalid(name, value, reason()))
    }

    /// An id, by the type of what it names.
    pub fn id<T: From<IdOf>>(&self, name: &str) -> Result<Option<T>, Fault> {
        self.parsed::<Uuid>(name, "Value should be UUID format").map(|id| id.map(|id| T::from(IdOf(id))))
    }

    pub fn address(&self, name: &str) -> Result<Option<IpAddr>, Fault> {
        self.parsed(name, "Value should be IPv4 or IPv6 format")
    }

    fn parsed<T: FromStr>(&self, name: &str, reason: &str) -> Result<Option<T>, Fault> {
        let parse = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| Fault::invalid(name, value, reason));
        self.get(name).map(parse).transpose()
    }

    /// One of Octavia's words.
    pub fn word(&self, name: &str, words: &[&str]) -> Result<Option<&str>, Fault> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let word = value.as_str().filter(|word| words.contains(word));
        word.map(Some).ok_or_else(|| Fault::invalid(name, value, format!("Value should be one of: {}", words.join(", "))))
    }

    pub fn list(&self, name: &str) -> Result<Vec<Value>, Fault> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        value.as_array().cloned().ok_or_else(|| Fault::invalid(name, value, "Value should be a list"))
    }

    pub fn tags(&self) -> Result<Option<Vec<String>>, Fault> {
        let Some(value) = self.get("tags") else { return Ok(self.says("tags").then(Vec::new)) };
        let wrong = || Fault::invalid("tags", value, format!("Value should be a list of texts of up to {TEXT_MAX} characters"));
        let tag = |tag: &Value| tag.as_str().filter(|tag| tag.chars().count() <= TEXT_MAX).map(String::from);
        let mut tags: Vec<String> = value.as_array().and_then(|tags| tags.iter().map(tag).collect()).ok_or_else(wrong)?;
        tags.sort();
        tags.dedup();
        Ok(Some(tags))
    }

    /// A value that must be said.
    pub fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, Fault> {
        value.ok_or_else(|| Fault::invalid(name, &Value::String("None".into()), "Mandatory field missing."))
    }

    /// The project for which an object is made: the caller's, or for administrators another.
    pub fn project(&self, caller: &Caller) -> Result<ProjectId, Fault> {
        let said = self.text("project_id")?.or(self.text("tenant_id")?).filter(|project| !project.is_empty()).map(ProjectId);
        let project = said.unwrap_or_else(|| caller.project.clone());
        if caller.may_see(&project) { Ok(project) } else { Err(Fault::forbidden()) }
    }
}

/// A UUID on its way to becoming an id.
pub struct IdOf(pub Uuid);

macro_rules! ids {
    ($($id:ident)*) => {$(
        impl From<IdOf> for model::$id {
            fn from(id: IdOf) -> model::$id {
                model::$id(id.0)
            }
        }
    )*};
}

ids!(NetworkId SubnetId PortId LoadBalancerId ListenerId PoolId MemberId);

/// The bookkeeping of a new object.
pub fn standard(tx: &Tx, fields: &Fields) -> Result<Standard, Fault> {
    Ok(Standard { tags: fields.tags()?.unwrap_or_default(), created_at: tx.now_text(), updated_at: String::new(), revision_number: 0 })
}

/// The bookkeeping of a changed object.
pub fn touch(tx: &Tx, standard: &mut Standard, fields: &Fields) -> Result<(), Fault> {
    if let Some(tags) = fields.tags()? {
        standard.tags = tags;
    }
    standard.updated_at = tx.now_text();
    standard.revision_number += 1;
    Ok(())
}
