//! From a request's bytes to checked attributes, in the order in which Neutron looks at them.
//!
//! JSON → one object or a list of them → unknown attributes → required, defaulted and read-only ones → values → who may set
//! them. Nothing here looks at the state.

use model::ProjectId;
use serde_json::{Map, Value, json};

use crate::auth::Caller;

use super::attribute::{self, Attribute, Fallback, Policy};
use super::check::Refusal;
use super::error::ApiError;
use super::fields::Fields;

/// Most objects in one bulk request. More are refused, and nothing is made.
pub const BULK_MAX: usize = 10_000;

/// What a body is about.
#[derive(Clone, Copy)]
pub struct Shape {
    pub resource: &'static str,
    pub collection: &'static str,
    pub table: &'static [Attribute],
}

/// One object, or several that are made together or not at all.
pub enum Body {
    One(Fields),
    Many(Vec<Fields>),
}

/// Any JSON dictionary.
pub fn dictionary(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(ApiError::bad_request("Body contains invalid data")),
    }
}

/// The body of a POST.
pub fn for_create(bytes: &[u8], shape: Shape, caller: &Caller) -> Result<Body, ApiError> {
    if bytes.is_empty() {
        return Err(ApiError::bad_request("Resource body required"));
    }
    let mut map = dictionary(bytes)?;
    let Some(many) = map.remove(shape.collection) else {
        let one = object(map, shape)?;
        return create_fields(one, shape, caller).map(Body::One);
    };
    let items = many.as_array().cloned().filter(|items| !items.is_empty()).ok_or_else(|| ApiError::bad_request("Resources required"))?;
    if items.len() > BULK_MAX {
        return Err(ApiError::bad_request(format!("A bulk request may have {BULK_MAX} objects; this one has {}", items.len())));
    }
    let fields = items.into_iter().map(|item| create_fields(inner(item, shape)?, shape, caller));
    fields.collect::<Result<Vec<_>, _>>().map(Body::Many)
}

/// The body of a PUT.
pub fn for_update(bytes: &[u8], shape: Shape, caller: &Caller) -> Result<Fields, ApiError> {
    if bytes.is_empty() {
        return Err(ApiError::bad_request("Resource body required"));
    }
    let mut values = object(dictionary(bytes)?, shape)?;
    fill_project(&mut values)?;
    refuse_unknown(&values, shape)?;
    for name in values.keys() {
        if !attribute::find(shape.table, name).is_some_and(|attribute| attribute.is_put) {
            return Err(ApiError::bad_request(format!("Cannot update read-only attribute {name}")));
        }
    }
    let said: Vec<String> = values.keys().cloned().collect();
    let fields = Fields::new(convert(values, shape)?, said);
    allow(&fields, shape, caller, "update")?;
    Ok(fields)
}

fn object(mut map: Map<String, Value>, shape: Shape) -> Result<Map<String, Value>, ApiError> {
    match map.remove(shape.resource) {
        Some(Value::Object(values)) => Ok(values),
        Some(_) => Err(ApiError::bad_request(format!("Object '{}' contains invalid data", shape.resource))),
        None => Err(ApiError::bad_request(format!("Unable to find '{}' in request body", shape.resource))),
    }
}

/// An entry of a bulk request: the object itself, or wrapped in its name once more.
fn inner(item: Value, shape: Shape) -> Result<Map<String, Value>, ApiError> {
    match item {
        Value::Object(map) if map.len() == 1 && map.contains_key(shape.resource) => object(map, shape),
        Value::Object(values) => Ok(values),
        _ => Err(ApiError::bad_request(format!("Object '{}' contains invalid data", shape.resource))),
    }
}

fn create_fields(mut values: Map<String, Value>, shape: Shape, caller: &Caller) -> Result<Fields, ApiError> {
    fill_project(&mut values)?;
    refuse_unknown(&values, shape)?;
    check_project(&values, caller)?;
    let said: Vec<String> = values.keys().cloned().collect();
    fill_defaults(&mut values, shape)?;
    let fields = Fields::new(convert(values, shape)?, said);
    allow(&fields, shape, caller, "create")?;
    Ok(fields)
}

/// `tenant_id` and `project_id` are two names of one thing.
fn fill_project(values: &mut Map<String, Value>) -> Result<(), ApiError> {
    match (values.get("tenant_id").cloned(), values.get("project_id").cloned()) {
        (Some(tenant), Some(project)) if tenant != project => Err(ApiError::bad_request("'project_id' and 'tenant_id' do not match")),
        (Some(tenant), None) => {
            values.insert("project_id".to_string(), tenant);
            Ok(())
        }
        (None, Some(project)) => {
            values.insert("tenant_id".to_string(), project);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_project(values: &Map<String, Value>, caller: &Caller) -> Result<(), ApiError> {
    let other = values.get("project_id").is_some_and(|project| *project != json!(caller.project.0));
    if other && !caller.is_admin {
        let message = "Specifying 'project_id' other than the authenticated project in request is not allowed for the current user.";
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}

fn refuse_unknown(values: &Map<String, Value>, shape: Shape) -> Result<(), ApiError> {
    let unknown: Vec<&str> = values.keys().map(String::as_str).filter(|name| attribute::find(shape.table, name).is_none()).collect();
    if unknown.is_empty() { Ok(()) } else { Err(ApiError::bad_request(format!("Unrecognized attribute(s) '{}'", unknown.join(", ")))) }
}

fn fill_defaults(values: &mut Map<String, Value>, shape: Shape) -> Result<(), ApiError> {
    for attribute in shape.table {
        let is_said = values.contains_key(attribute.name);
        if is_said && !attribute.is_post {
            return Err(ApiError::bad_request(format!("Attribute '{}' not allowed in POST", attribute.name)));
        }
        if !is_said && attribute.fallback == Fallback::Required {
            let message = format!("Failed to parse request. Required attribute '{}' not specified", attribute.name);
            return Err(ApiError::bad_request(message));
        }
        if let Some(value) = attribute.fallback.value().filter(|_| !is_said) {
            values.insert(attribute.name.to_string(), value);
        }
    }
    Ok(())
}

fn convert(values: Map<String, Value>, shape: Shape) -> Result<Map<String, Value>, ApiError> {
    let convert = |(name, value): (String, Value)| {
        let check = attribute::find(shape.table, &name).map(|attribute| attribute.check);
        let value = check.map_or(Ok(Value::Null), |check| check.apply(value)).map_err(|refusal| match refusal {
            Refusal::Reason(reason) => ApiError::invalid_attribute(&name, reason),
            Refusal::Whole(error) => error,
        })?;
        Ok((name, value))
    };
    values.into_iter().map(convert).collect()
}

/// Attributes that only administrators set must not be set to anything but their default by others.
fn allow(fields: &Fields, shape: Shape, caller: &Caller, verb: &str) -> Result<(), ApiError> {
    if caller.is_admin {
        return Ok(());
    }
    let reserved = shape.table.iter().filter(|attribute| attribute.policy != Policy::Everybody && fields.is_said(attribute.name));
    for attribute in reserved {
        if verb == "update" || fields.get(attribute.name) != attribute.fallback.value().as_ref() {
            let rule = format!("{verb}_{}", shape.resource);
            return Err(ApiError::forbidden(format!("(rule:{rule} and rule:{rule}:{})", attribute.name)));
        }
    }
    Ok(())
}

/// The project of a new object.
pub fn project(fields: &Fields, caller: &Caller) -> ProjectId {
    fields.text("project_id").map_or_else(|| caller.project.clone(), |project| ProjectId(project.to_string()))
}
