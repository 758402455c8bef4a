//! The questions of a list: filters, tags, `fields`, sorting and pages.

use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};

use super::error::Fault;
use super::show::Shown;
use crate::http;

/// A list's or an object's query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

/// Words of the query that are no attribute's name.
const RESERVED: [&str; 10] =
    ["fields", "limit", "marker", "sort", "page_reverse", "tags", "tags-any", "not-tags", "not-tags-any", "cascade"];

impl Query {
    pub fn new(pairs: Vec<(String, String)>) -> Query {
        Query { pairs }
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// True if the query says so.
    pub fn flag(&self, name: &str) -> bool {
        self.all(name).last().is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "t" | "yes" | "y" | "on"))
    }

    /// What is left of an object when only some fields are wanted.
    pub fn fields(&self, mut shown: Shown) -> Shown {
        let fields: Vec<&str> = self.all("fields").flat_map(|names| names.split(',')).collect();
        if !fields.is_empty() {
            shown.retain(|name, _| fields.contains(&name.as_str()));
        }
        shown
    }

    /// True if the object is one that is asked for.
    fn fits(&self, shown: &Shown) -> Result<bool, Fault> {
        let tags: Vec<&str> = shown["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let asked = |name| self.all(name).flat_map(|tags| tags.split(',')).collect::<Vec<_>>();
        let has = |tag: &&str| tags.contains(tag);
        let (all, any, not_all, not_any) = (asked("tags"), asked("tags-any"), asked("not-tags"), asked("not-tags-any"));
        let by_tags = all.iter().all(has)
            && (any.is_empty() || any.iter().any(has))
            && (not_all.is_empty() || !not_all.iter().all(has))
            && !not_any.iter().any(has);
        let mut by_attributes = true;
        for (name, value) in self.pairs.iter().filter(|(name, _)| !RESERVED.contains(&name.as_str())) {
            by_attributes &= attribute_fits(shown, name, value)?;
        }
        Ok(by_tags && by_attributes)
    }

    /// The page of `all` that is asked for, with the links to the pages around it.
    pub fn page(&self, all: Vec<Shown>, base: &str) -> Result<(Vec<Shown>, Value), Fault> {
        let mut fitting = Vec::new();
        for shown in all {
            if self.fits(&shown)? {
                fitting.push(shown);
            }
        }
        self.sort(&mut fitting);
        let limit = self.limit()?;
        let is_reverse = self.flag("page_reverse");
        let at = |marker: &str| fitting.iter().position(|shown| shown["id"] == marker);
        let marker =
            self.all("marker").last().map(|marker| at(marker).ok_or_else(|| Fault::validation(format!("marker {marker} not found"))));
        let (start, end) = match (marker.transpose()?, is_reverse) {
            (Some(marker), false) => (marker + 1, (marker + 1).saturating_add(limit)),
            (Some(marker), true) => (marker.saturating_sub(limit), marker),
            (None, false) => (0, limit),
            (None, true) => (fitting.len().saturating_sub(limit), fitting.len()),
        };
        let end = end.min(fitting.len());
        let mut links = Vec::new();
        if end < fitting.len() && start < end {
            links.push(json!({"rel": "next", "href": self.link(base, &fitting[end - 1], false)}));
        }
        if start > 0 && start < end {
            links.push(json!({"rel": "previous", "href": self.link(base, &fitting[start], true)}));
        }
        let page = fitting.drain(start.min(end)..end).map(|shown| self.fields(shown)).collect();
        Ok((page, Value::Array(links)))
    }

    fn limit(&self) -> Result<usize, Fault> {
        let Some(limit) = self.all("limit").last() else { return Ok(usize::MAX) };
        limit.parse().map(|limit: usize| if limit == 0 { usize::MAX } else { limit }).map_err(|_| {
            Fault::new(StatusCode::BAD_REQUEST, format!("The 'limit' query parameter '{limit}' is invalid: it must be a positive integer."))
        })
    }

    /// By the keys asked for, then by age and id.
    fn sort(&self, all: &mut [Shown]) {
        let asked = self.all("sort").flat_map(|keys| keys.split(',')).map(|key| key.split_once(':').unwrap_or((key, "asc")));
        let keys: Vec<(&str, &str)> = asked.chain([("created_at", "asc"), ("id", "asc")]).collect();
        let order = |one: &Shown, other: &Shown| {
            keys.iter()
                .map(|(key, direction)| {
                    let order = compare(one.get(*key), other.get(*key));
                    if *direction == "desc" { order.reverse() } else { order }
                })
                .find(|order| order.is_ne())
                .unwrap_or(std::cmp::Ordering::Equal)
        };
        all.sort_by(order);
    }

    fn link(&self, base: &str, marker: &Shown, is_reverse: bool) -> String {
        let is_kept = |name: &str| !["marker", "page_reverse", "fields"].contains(&name);
        let kept = self
            .pairs
            .iter()
            .filter(|(name, _)| is_kept(name))
            .map(|(name, value)| format!("{}={}", http::escape(name), http::escape(value)));
        let marker = format!("marker={}", marker["id"].as_str().unwrap_or_default());
        let reverse = is_reverse.then(|| "page_reverse=True".to_string());
        format!("{base}?{}", kept.chain([marker]).chain(reverse).collect::<Vec<_>>().join("&"))
    }
}

fn attribute_fits(shown: &Shown, name: &str, value: &str) -> Result<bool, Fault> {
    let alias = match name {
        "loadbalancer_id" => "loadbalancers",
        "listener_id" => "listeners",
        "pool_id" => "pools",
        other => other,
    };
    let unknown = || Fault::new(StatusCode::BAD_REQUEST, "One or more arguments are either duplicate or invalid.");
    Ok(match shown.get(alias).ok_or_else(unknown)? {
        Value::String(text) => text == value,
        Value::Bool(flag) => value.eq_ignore_ascii_case(if *flag { "true" } else { "false" }) || value == if *flag { "1" } else { "0" },
        Value::Null => matches!(value, "" | "None" | "null"),
        Value::Array(references) => references.iter().any(|reference| reference["id"] == value),
        other => other.to_string() == value,
    })
}

fn compare(one: Option<&Value>, other: Option<&Value>) -> std::cmp::Ordering {
    match (one.and_then(Value::as_i64), other.and_then(Value::as_i64)) {
        (Some(one), Some(other)) => one.cmp(&other),
        _ => one.map(Value::to_string).cmp(&other.map(Value::to_string)),
    }
}

/// The address that the client used, without its query.
pub fn base(headers: &HeaderMap, uri: &Uri) -> String {
    format!("{}{}", http::base(headers), uri.path())
}
