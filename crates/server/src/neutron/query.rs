//! The questions of a list: filters, `fields`, sorting and pages.
//!
//! Filters compare with what the API shows, so whatever a caller sees can be filtered by: the same attribute twice means
//! either value, different attributes all hold. Pages follow a marker (the last object of the page before), so that objects
//! that come and go in between neither repeat nor hide others.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use axum::extract::Query as Pairs;
use axum::http::Uri;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::attribute::{self, Attribute};
use super::check::{self, Check};
use super::error::ApiError;
use crate::http::escape;

/// Filters on tags, which every resource has.
const TAG_FILTERS: [&str; 4] = ["tags", "tags-any", "not-tags", "not-tags-any"];
/// Only objects that changed since a time.
const CHANGED_SINCE: &str = "changed_since";
/// A piece of an address, as value of `fixed_ips`.
const IP_SUBSTRING: &str = "ip_address_substr";

/// The query string of a list.
#[derive(Debug, Default)]
pub struct Query {
    pub filters: BTreeMap<String, Vec<String>>,
    pub fields: Vec<String>,
    sorts: Vec<(String, bool)>,
    pub limit: Option<usize>,
    pub marker: Option<String>,
    pub is_reverse: bool,
    /// Everything as it was sent, for the links to other pages.
    pairs: Vec<(String, String)>,
}

impl Query {
    pub fn parse(uri: &Uri, table: &[Attribute]) -> Result<Query, ApiError> {
        let pairs = Pairs::<Vec<(String, String)>>::try_from_uri(uri).map(|pairs| pairs.0);
        let pairs = pairs.map_err(|_| ApiError::bad_request("The query string cannot be read"))?;
        let mut query = Query { pairs: pairs.clone(), ..Query::default() };
        let (mut keys, mut directions) = (Vec::new(), Vec::new());
        for (name, value) in pairs {
            match name.as_str() {
                "fields" => query.fields.extend(Some(value).filter(|value| !value.is_empty())),
                "limit" => query.limit = limit(&value)?,
                "marker" => query.marker = Some(value),
                "page_reverse" => query.is_reverse = check::boolean_word(&value).unwrap_or(false),
                "sort_key" => keys.push(value),
                "sort_dir" => directions.push(value),
                _ => query.filters.entry(name).or_default().push(value),
            }
        }
        query.sorts = sorts(keys, directions, table)?;
        query.refuse_unknown_filters(table)?;
        query.normalise_filters(table)?;
        Ok(query)
    }

    /// Only which fields to show.
    pub fn of_fields(uri: &Uri) -> Query {
        let pairs = Pairs::<Vec<(String, String)>>::try_from_uri(uri).map(|pairs| pairs.0).unwrap_or_default();
        let fields = pairs.into_iter().filter(|(name, value)| name == "fields" && !value.is_empty()).map(|(_, value)| value);
        Query { fields: fields.collect(), ..Query::default() }
    }

    fn refuse_unknown_filters(&self, table: &[Attribute]) -> Result<(), ApiError> {
        let is_known = |name: &str| {
            TAG_FILTERS.contains(&name)
                || name == CHANGED_SINCE
                || attribute::find(table, name).is_some_and(|attribute| attribute.is_filter)
        };
        let unknown: Vec<String> = self.filters.keys().filter(|name| !is_known(name)).map(|name| format!("'{name}'")).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(ApiError::bad_request(format!("[{}] is invalid attribute for filtering", unknown.join(", "))))
    }

    /// Booleans, addresses and MACs in the form in which they are shown.
    fn normalise_filters(&mut self, table: &[Attribute]) -> Result<(), ApiError> {
        if let Some(odd) = self.filters.get(CHANGED_SINCE).into_iter().flatten().find(|since| !is_time(since)) {
            return Err(ApiError::invalid_input(format!("{CHANGED_SINCE} takes the form YYYY-MM-DDTHH:MM:SS, and '{odd}' has another")));
        }
        for (name, values) in &mut self.filters {
            let check = attribute::find(table, name).map(|attribute| attribute.check);
            for value in values {
                let normal = match check {
                    Some(Check::Boolean) => {
                        let word = check::boolean_word(value);
                        Some(word.ok_or_else(|| ApiError::invalid_input(format!("'{value}' cannot be converted to boolean")))?.to_string())
                    }
                    Some(Check::Mac) => value.parse::<model::Mac>().ok().map(|mac| mac.to_string()),
                    Some(Check::IpOrNull) => value.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_string()),
                    Some(Check::CidrOrNull) => value.parse::<ipnet::IpNet>().ok().map(|net| net.to_string()),
                    _ => None,
                };
                *value = normal.unwrap_or_else(|| std::mem::take(value));
            }
        }
        Ok(())
    }

    /// The only value of a filter: what an index can answer.
    pub fn only(&self, name: &str) -> Option<&str> {
        match self.filters.get(name)?.as_slice() {
            [value] => Some(value),
            _ => None,
        }
    }

    /// A page of objects in the order of their ids, in which they are kept: behind which it begins, and how many they are at most.
    pub fn in_order(&self) -> Option<(Option<Uuid>, usize)> {
        let is_by_id = self.sorts.first().is_none_or(|sort| *sort == ("id".to_string(), true));
        let limit = self.limit.filter(|_| is_by_id && !self.is_reverse)?;
        Some((self.marker.as_deref().and_then(|marker| Uuid::parse_str(marker).ok()), limit))
    }

    /// False if an attribute that is had for little fails its filter already.
    pub fn may_match(&self, attribute: impl Fn(&str) -> Option<Value>) -> bool {
        self.filters.iter().all(|(name, wanted)| attribute(name).is_none_or(|value| value_matches(&value, wanted)))
    }

    /// True if an object that is shown like this passes every filter.
    pub fn matches(&self, shown: &Map<String, Value>) -> bool {
        self.filters.iter().all(|(name, wanted)| match name.as_str() {
            CHANGED_SINCE => wanted.iter().all(|since| changed_since(shown, since)),
            name if TAG_FILTERS.contains(&name) => wanted.iter().all(|tags| tags_match(name, tags, shown)),
            name => shown.get(name).is_some_and(|value| value_matches(value, wanted)),
        })
    }

    /// One page of the objects, sorted.
    pub fn page(&self, mut shown: Vec<Map<String, Value>>) -> Vec<Map<String, Value>> {
        shown.sort_by(|one, other| self.order(one, other));
        if self.is_reverse && self.limit.is_some() {
            shown.reverse();
        }
        if let Some(marker) = self.marker.as_deref().filter(|_| self.limit.is_some()) {
            let after = shown.iter().position(|object| object["id"] == marker).map_or(0, |at| at + 1);
            shown.drain(..after);
        }
        shown.truncate(self.limit.unwrap_or(usize::MAX));
        if self.is_reverse && self.limit.is_some() {
            shown.reverse();
        }
        shown
    }

    fn order(&self, one: &Map<String, Value>, other: &Map<String, Value>) -> Ordering {
        let by = |key: &str, is_up: bool| {
            let order = compare(&one[key], &other[key]);
            if is_up { order } else { order.reverse() }
        };
        let sorted = self.sorts.iter().filter(|(key, _)| one.contains_key(key) && other.contains_key(key));
        sorted.map(|(key, is_up)| by(key, *is_up)).find(|order| order.is_ne()).unwrap_or_else(|| by("id", true))
    }

    /// The links to the pages around this one.
    pub fn links(&self, base: &str, page: &[Map<String, Value>]) -> Option<Value> {
        let limit = self.limit?;
        let is_short = page.len() < limit;
        let id = |object: Option<&Map<String, Value>>| object.map(|object| object["id"].as_str().unwrap_or_default().to_string());
        let mut links = Vec::new();
        if !is_short || self.is_reverse {
            links.push(json!({"rel": "next", "href": self.link(base, id(page.last()), false)}));
        }
        if !is_short || !self.is_reverse {
            links.push(json!({"rel": "previous", "href": self.link(base, id(page.first()), true)}));
        }
        Some(Value::Array(links))
    }

    fn link(&self, base: &str, marker: Option<String>, is_reverse: bool) -> String {
        let is_kept = |name: &str| name != "page_reverse" && (name != "marker" || marker.is_none());
        let kept = self.pairs.iter().filter(|(name, _)| is_kept(name)).map(|(name, value)| (name.as_str(), value.as_str()));
        let marker = marker.as_deref().map(|marker| ("marker", marker));
        let reverse = is_reverse.then_some(("page_reverse", "True"));
        let pairs = kept.chain(marker).chain(reverse).map(|(name, value)| format!("{}={}", escape(name), escape(value)));
        format!("{base}?{}", pairs.collect::<Vec<_>>().join("&"))
    }

    /// An object with only the wanted fields.
    pub fn project(&self, shown: Map<String, Value>) -> Value {
        if self.fields.is_empty() {
            return Value::Object(shown);
        }
        Value::Object(shown.into_iter().filter(|(name, _)| self.fields.contains(name)).collect())
    }
}

fn limit(value: &str) -> Result<Option<usize>, ApiError> {
    let message = || format!("Bad limit request: Limit must be an integer 0 or greater and not '{value}'.");
    let limit: usize = value.parse().map_err(|_| ApiError::bad("BadRequest", message()))?;
    Ok(Some(limit).filter(|limit| *limit > 0))
}

fn sorts(keys: Vec<String>, directions: Vec<String>, table: &[Attribute]) -> Result<Vec<(String, bool)>, ApiError> {
    if !directions.is_empty() && keys.len() != directions.len() {
        return Err(ApiError::bad_request("The number of sort_keys and sort_dirs must be same"));
    }
    let is_known = |key: &str| attribute::find(table, key).is_some_and(|attribute| attribute.is_sort_key);
    if let Some(odd) = keys.iter().find(|key| !is_known(key)) {
        return Err(ApiError::bad_request(format!("'{odd}' is invalid attribute for sort_keys")));
    }
    if let Some(odd) = directions.iter().find(|direction| !["asc", "desc"].contains(&direction.as_str())) {
        return Err(ApiError::bad_request(format!("'{odd}' is invalid value for sort_dirs, valid value is 'asc' and 'desc'")));
    }
    let directions = directions.into_iter().map(|direction| direction == "asc").chain(std::iter::repeat(true));
    Ok(keys.into_iter().zip(directions).collect())
}

/// True of a time with whole seconds, whatever follows them.
fn is_time(text: &str) -> bool {
    seconds(text).is_some_and(|seconds| seconds.parse::<jiff::civil::DateTime>().is_ok())
}

/// `YYYY-MM-DDTHH:MM:SS` of a longer text.
fn seconds(text: &str) -> Option<&str> {
    text.get(..19)
}

fn changed_since(shown: &Map<String, Value>, since: &str) -> bool {
    // Both are RFC 3339 in UTC with seconds: the order of the text is the order of time.
    let at = shown.get("updated_at").and_then(Value::as_str);
    at.and_then(seconds).zip(seconds(since)).is_some_and(|(at, since)| at >= since)
}

fn tags_match(filter: &str, wanted: &str, shown: &Map<String, Value>) -> bool {
    let tags = shown.get("tags").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let has = |tag: &str| tags.iter().any(|has| has == tag);
    let mut wanted = wanted.split(',');
    match filter {
        "tags" => wanted.all(has),
        "tags-any" => wanted.any(has),
        "not-tags" => !wanted.all(has),
        _ => !wanted.any(has),
    }
}

fn value_matches(value: &Value, wanted: &[String]) -> bool {
    match value {
        Value::Array(items) if items.iter().any(Value::is_object) => entries_match(items, wanted),
        Value::Array(items) if items.is_empty() => wanted.iter().any(String::is_empty),
        Value::Array(items) => items.iter().any(|item| value_matches(item, wanted)),
        Value::Null => wanted.iter().any(String::is_empty),
        Value::String(text) => wanted.iter().any(|wanted| wanted == text),
        other => wanted.iter().any(|wanted| *wanted == other.to_string()),
    }
}

/// Dictionaries are filtered by `key=value`: the same key twice means either, different keys all hold, each for some entry.
fn entries_match(items: &[Value], wanted: &[String]) -> bool {
    let mut by_key: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pair in wanted {
        let Some((key, value)) = pair.split_once('=') else { return false };
        by_key.entry(key).or_default().push(value);
    }
    by_key.iter().all(|(key, values)| {
        items.iter().any(|item| match *key {
            IP_SUBSTRING => {
                let ip = item["ip_address"].as_str().unwrap_or_default();
                values.iter().any(|piece| ip.contains(piece))
            }
            key => item[key].as_str().is_some_and(|has| values.iter().any(|value| same_entry(has, value))),
        })
    })
}

/// Equal, or two ways to write one address.
fn same_entry(has: &str, wanted: &str) -> bool {
    has == wanted || matches!((has.parse::<std::net::IpAddr>(), wanted.parse::<std::net::IpAddr>()), (Ok(has), Ok(wanted)) if has == wanted)
}

fn compare(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        (Value::String(one), Value::String(other)) => one.cmp(other),
        (Value::Number(one), Value::Number(other)) => one.as_f64().unwrap_or_default().total_cmp(&other.as_f64().unwrap_or_default()),
        (Value::Bool(one), Value::Bool(other)) => one.cmp(other),
        (one, other) => other.is_null().cmp(&one.is_null()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Attribute] = &[
        Attribute::read_only("id"),
        Attribute::writable("name", Check::Text(255)),
        Attribute::writable("shared", Check::Boolean),
        Attribute::writable("fixed_ips", Check::FixedIps).unsorted(),
    ];

    fn query(text: &str) -> Result<Query, ApiError> {
        Query::parse(&format!("/v2.0/ports?{text}").parse().unwrap(), TABLE)
    }

    fn shown(id: &str, name: &str) -> Map<String, Value> {
        let object = json!({"id": id, "name": name, "shared": false, "fixed_ips": [{"ip_address": "10.0.0.9", "subnet_id": "s"}], "tags": ["a", "b"]});
        object.as_object().unwrap().clone()
    }

    fn ids(page: &[Map<String, Value>]) -> Vec<&str> {
        page.iter().map(|object| object["id"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_repeated_filter_means_either_and_different_ones_all_hold() {
        let is_in = |text: &str| query(text).unwrap().matches(&shown("1", "web"));
        assert!(is_in("name=web&name=db"));
        assert!(!is_in("name=db"));
        assert!(is_in("name=web&shared=False"));
        assert!(!is_in("name=web&shared=true"));
        assert!(is_in("fixed_ips=ip_address%3D10.0.0.9"));
        assert!(is_in("fixed_ips=ip_address%3D10.0.0.9&fixed_ips=subnet_id%3Ds"));
        assert!(!is_in("fixed_ips=ip_address%3D10.0.0.9&fixed_ips=subnet_id%3Dt"));
        assert!(is_in("fixed_ips=ip_address_substr%3D0.0."));
        assert!(is_in("tags=a,b") && !is_in("tags=a,c") && is_in("tags-any=c,a") && is_in("not-tags=a,c") && !is_in("not-tags-any=a"));
    }

    #[test]
    fn unknown_filters_and_sort_keys_are_refused() {
        assert_eq!(query("bogus=1").unwrap_err().message, "['bogus'] is invalid attribute for filtering");
        assert!(query("sort_key=bogus").is_err());
        assert!(query("sort_key=name&sort_dir=up").is_err());
        assert!(query("sort_key=name&sort_key=id&sort_dir=asc").is_err());
        assert!(query("limit=-1").is_err());
        assert!(query("limit=many").is_err());
        assert!(query("shared=maybe").is_err());
        assert!(query("changed_since=yesterday").is_err() && query("changed_since=2026-11-30T10:00:00Z").is_ok());
    }

    #[test]
    fn pages_follow_each_other_in_both_directions() {
        let all = || ["3", "1", "4", "2", "5"].map(|id| shown(id, "x")).to_vec();
        assert_eq!(ids(&query("limit=2").unwrap().page(all())), ["1", "2"]);
        assert_eq!(ids(&query("limit=2&marker=2").unwrap().page(all())), ["3", "4"]);
        assert_eq!(ids(&query("limit=2&marker=4").unwrap().page(all())), ["5"]);
        assert_eq!(ids(&query("limit=2&marker=5&page_reverse=True").unwrap().page(all())), ["3", "4"]);
        assert_eq!(ids(&query("sort_key=id&sort_dir=desc&limit=2").unwrap().page(all())), ["5", "4"]);
    }

    #[test]
    fn links_are_neutrons() {
        let query = query("limit=2&sort_key=id&sort_dir=asc").unwrap();
        let links = query.links("http://h/v2.0/ports", &[shown("1", "x"), shown("2", "x")]).unwrap();
        assert_eq!(
            links,
            json!([
                {"rel": "next", "href": "http://h/v2.0/ports?limit=2&sort_key=id&sort_dir=asc&marker=2"},
                {"rel": "previous", "href": "http://h/v2.0/ports?limit=2&sort_key=id&sort_dir=asc&marker=1&page_reverse=True"},
            ])
        );
    }
}
