//! What a resource's body may say: one table of attributes per resource, as Neutron keeps them.
//!
//! Each row says whether the attribute may be set on POST and PUT, how its value is checked and normalised, what stands in
//! when it is absent, who may set it and who sees it. Everything that is wrong with a body before its meaning matters
//! (unknown, read-only, missing or ill-typed attributes) is refused from these tables alone.

use serde_json::{Value, json};

use super::check::Check;

/// What an attribute has when the request does not say.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fallback {
    /// POST must say.
    Required,
    /// Nothing: the resource decides, and can tell this from null.
    Unset,
    Null,
    EmptyText,
    EmptyList,
    False,
    True,
}

impl Fallback {
    /// The value that stands in, if one does.
    pub fn value(self) -> Option<Value> {
        match self {
            Fallback::Required | Fallback::Unset => None,
            Fallback::Null => Some(Value::Null),
            Fallback::EmptyText => Some(json!("")),
            Fallback::EmptyList => Some(json!([])),
            Fallback::False => Some(json!(false)),
            Fallback::True => Some(json!(true)),
        }
    }
}

/// Who may set and see an attribute besides administrators.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    Everybody,
    /// Everybody sees it, administrators set it.
    AdminSets,
    /// Administrators set and see it.
    Admin,
}

/// One row of a resource's table.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    pub name: &'static str,
    pub check: Check,
    pub is_post: bool,
    pub is_put: bool,
    pub fallback: Fallback,
    pub policy: Policy,
    pub is_filter: bool,
    pub is_sort_key: bool,
}

impl Attribute {
    /// Set by the server only.
    pub const fn read_only(name: &'static str) -> Attribute {
        Attribute {
            name,
            check: Check::Anything,
            is_post: false,
            is_put: false,
            fallback: Fallback::Unset,
            policy: Policy::Everybody,
            is_filter: true,
            is_sort_key: true,
        }
    }

    /// Set on POST and PUT.
    pub const fn writable(name: &'static str, check: Check) -> Attribute {
        Attribute { check, is_post: true, is_put: true, ..Attribute::read_only(name) }
    }

    /// Set on POST, fixed from then on.
    pub const fn at_birth(name: &'static str, check: Check) -> Attribute {
        Attribute { is_put: false, ..Attribute::writable(name, check) }
    }

    /// Without a say in the request, this stands in on POST.
    pub const fn or(self, fallback: Fallback) -> Attribute {
        Attribute { fallback, ..self }
    }

    pub const fn policy(self, policy: Policy) -> Attribute {
        Attribute { policy, ..self }
    }

    /// Lists and dictionaries: not sorted by.
    pub const fn unsorted(self) -> Attribute {
        Attribute { is_sort_key: false, ..self }
    }

    /// Neither sorted nor filtered by.
    pub const fn hidden_from_queries(self) -> Attribute {
        Attribute { is_sort_key: false, is_filter: false, ..self }
    }
}

/// Longest names and descriptions, in characters (Neutron's column sizes).
pub const TEXT_MAX: usize = 255;

/// The rows that every resource with standard attributes has.
pub const ID: Attribute = Attribute::read_only("id");
pub const NAME: Attribute = Attribute::writable("name", Check::Text(TEXT_MAX)).or(Fallback::EmptyText);
pub const DESCRIPTION: Attribute = Attribute::writable("description", Check::Text(TEXT_MAX)).or(Fallback::EmptyText);
pub const TENANT_ID: Attribute = Attribute::at_birth("tenant_id", Check::Text(TEXT_MAX));
pub const PROJECT_ID: Attribute = Attribute::at_birth("project_id", Check::Text(TEXT_MAX));
pub const TAGS: Attribute = Attribute::read_only("tags").unsorted();
pub const REVISION: Attribute = Attribute::read_only("revision_number");
pub const CREATED: Attribute = Attribute::read_only("created_at");
pub const UPDATED: Attribute = Attribute::read_only("updated_at");

/// The row called `name`.
pub fn find<'a>(table: &'a [Attribute], name: &str) -> Option<&'a Attribute> {
    table.iter().find(|attribute| attribute.name == name)
}
