//! Checks of lists: fixed IPs, pools, routes, address pairs, DHCP options.
//!
//! Each takes null as an empty list, as Neutron does, refuses duplicates, and gives the list back with every entry in its
//! normal form.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::check::{self, Refusal};
use super::error::ApiError;
use super::python;

/// Most address pairs of one port (Neutron's default `max_allowed_address_pair`).
pub const ADDRESS_PAIRS_MAX: usize = 10;
/// Most entries of any other list in a body: a limit of Ladon's own, far above what anything real needs.
pub const LIST_MAX: usize = 1_000;
/// Longest name of a DHCP option, in characters.
const OPTION_NAME_MAX: usize = 64;
/// Longest value of a DHCP option, in characters.
const OPTION_VALUE_MAX: usize = 255;

/// The entries of a list; null is an empty one.
fn entries(value: Value, what: &str) -> Result<Vec<Value>, Refusal> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) if items.len() > LIST_MAX => Err(format!("the list has more than {LIST_MAX} entries").into()),
        Value::Array(items) => Ok(items),
        other if what.is_empty() => Err(format!("'{}' is not a list", python::text(&other)).into()),
        other => Err(format!("Invalid data format for {what}: '{}'", python::text(&other)).into()),
    }
}

/// An entry that has exactly these keys.
fn exact_keys(entry: &Value, keys: &[&str]) -> Result<(), Refusal> {
    let list = |names: Vec<&str>| names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let expected = list(keys.to_vec());
    let Some(map) = entry.as_object() else {
        return Err(format!("Invalid input. '{}' must be a dictionary with keys: [{expected}]", python::text(entry)).into());
    };
    if map.len() == keys.len() && keys.iter().all(|key| map.contains_key(*key)) {
        return Ok(());
    }
    let provided = list(map.keys().map(String::as_str).collect());
    Err(format!("Validation of dictionary's keys failed. Expected keys: {{{expected}}} Provided keys: {{{provided}}}").into())
}

/// No entry stands twice.
fn distinct(items: &[Value], complaint: impl Fn(&Value) -> String) -> Result<(), Refusal> {
    match items.iter().enumerate().find(|(index, item)| items[..*index].contains(item)) {
        Some((_, twice)) => Err(complaint(twice).into()),
        None => Ok(()),
    }
}

pub fn uuids(value: Value) -> Result<Value, Refusal> {
    let ids = entries(value, "")?.iter().map(check::uuid).collect::<Result<Vec<_>, _>>()?;
    let items: Vec<Value> = ids.iter().map(|id| json!(id)).collect();
    distinct(&items, |twice| format!("Duplicate items in the list: '{}'", python::text(twice)))?;
    Ok(Value::Array(items))
}

/// Different strings of at most `max` characters each.
pub fn words(value: Value, max: usize) -> Result<Value, Refusal> {
    if !value.is_array() {
        return Err(format!("'{}' is not a list", python::text(&value)).into());
    }
    let items = entries(value, "")?;
    distinct(&items, |twice| format!("Duplicate items in the list: '{}'", python::text(twice)))?;
    items.iter().try_for_each(|item| check::text(item, max))?;
    Ok(Value::Array(items))
}

pub fn pools(value: Value) -> Result<Value, Refusal> {
    let items = entries(value, "IP pool")?;
    let pool = |item: &Value| {
        exact_keys(item, &["start", "end"])?;
        Ok(json!({"start": check::ip(&item["start"])?, "end": check::ip(&item["end"])?}))
    };
    items.iter().map(pool).collect::<Result<Vec<_>, Refusal>>().map(Value::Array)
}

pub fn nameservers(value: Value) -> Result<Value, Refusal> {
    let mut hosts: Vec<Value> = Vec::new();
    for host in entries(value, "nameserver")? {
        let ip = check::ip(&host).map_err(|_| {
            let host = python::text(&host);
            format!("'{host}' is not a valid nameserver. '{host}' is not a valid IP address")
        })?;
        if hosts.contains(&json!(ip)) {
            return Err(format!("Duplicate nameserver '{ip}'").into());
        }
        hosts.push(json!(ip));
    }
    Ok(Value::Array(hosts))
}

/// A route's destination: a prefix without host bits, not loopback.
fn destination(value: &Value) -> Result<IpNet, Refusal> {
    let net = value.as_str().and_then(check::net).filter(|net| net.trunc() == *net);
    let net = net.ok_or_else(|| format!("'{}' is not a valid CIDR", python::text(value)))?;
    if net.addr().is_loopback() { Err(format!("'{net}' is not a routable CIDR").into()) } else { Ok(net) }
}

pub fn host_routes(value: Value) -> Result<Value, Refusal> {
    let items = entries(value, "hostroute")?;
    let route = |item: &Value| {
        exact_keys(item, &["destination", "nexthop"])?;
        Ok(json!({"destination": destination(&item["destination"])?, "nexthop": check::ip(&item["nexthop"])?}))
    };
    let routes = items.iter().map(route).collect::<Result<Vec<_>, Refusal>>()?;
    distinct(&routes, |twice| format!("Duplicate hostroute '{}'", python::text(twice)))?;
    Ok(Value::Array(routes))
}

pub fn fixed_ips(value: Value) -> Result<Value, Refusal> {
    let mut taken: Vec<IpAddr> = Vec::new();
    let mut fixed_ips = Vec::new();
    for item in entries(value, "fixed IP")? {
        let map = item.as_object().ok_or_else(|| format!("Invalid data format for fixed IP: '{}'", python::text(&item)))?;
        let mut fixed = Map::new();
        if let Some(ip) = map.get("ip_address") {
            let ip = check::ip(ip)?;
            if taken.contains(&ip) {
                return Err(format!("Duplicate IP address '{ip}'").into());
            }
            taken.push(ip);
            fixed.insert("ip_address".to_string(), json!(ip));
        }
        if let Some(subnet) = map.get("subnet_id") {
            fixed.insert("subnet_id".to_string(), json!(check::uuid(subnet)?));
        }
        fixed_ips.push(Value::Object(fixed));
    }
    Ok(Value::Array(fixed_ips))
}

/// Address pairs; a pair without a MAC means the port's own.
pub fn address_pairs(value: Value) -> Result<Value, Refusal> {
    let items = match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items,
        _ => return Err(ApiError::bad_request("Allowed address pairs must be a list.").into()),
    };
    if items.len() > ADDRESS_PAIRS_MAX {
        let message = format!("The number of allowed address pair exceeds the maximum {ADDRESS_PAIRS_MAX}.");
        return Err(ApiError::bad("AllowedAddressPairExhausted", message).into());
    }
    let pairs = items.iter().map(address_pair).collect::<Result<Vec<_>, _>>()?;
    distinct_pairs(&pairs)?;
    Ok(Value::Array(pairs))
}

fn address_pair(item: &Value) -> Result<Value, Refusal> {
    let bad = |refusal| match refusal {
        Refusal::Reason(reason) => ApiError::bad_request(reason).into(),
        whole => whole,
    };
    let map = item.as_object().ok_or_else(|| format!("'{}' is not a dictionary", python::text(item)))?;
    if let Some(unknown) = map.keys().find(|key| !["ip_address", "mac_address"].contains(&key.as_str())) {
        return Err(ApiError::bad_request(format!("Unrecognized attribute(s) '{unknown}'")).into());
    }
    let ip = map.get("ip_address").ok_or_else(|| {
        let message = "AllowedAddressPair must contain ip_address";
        Refusal::Whole(ApiError::bad("AllowedAddressPairsMissingIP", format!("Invalid input for operation: {message}.")))
    })?;
    let is_prefix = ip.as_str().is_some_and(|text| text.contains('/'));
    let (address, shown) = if is_prefix {
        let net = check::cidr(ip).map_err(bad)?;
        (net.addr(), json!(net))
    } else {
        let ip = check::ip(ip).map_err(bad)?;
        (ip, json!(ip))
    };
    if address.is_multicast() {
        return Err(ApiError::bad_request(format!("'{}' cannot be a multicast address", python::text(ip))).into());
    }
    let mut pair = Map::from_iter([("ip_address".to_string(), shown)]);
    if let Some(mac) = map.get("mac_address").filter(|mac| !mac.is_null()) {
        let mac = check::mac(mac).map_err(bad)?;
        if mac.is_multicast() {
            return Err(ApiError::bad_request(format!("'{mac}' cannot be a multicast MAC address")).into());
        }
        pair.insert("mac_address".to_string(), json!(mac));
    }
    Ok(Value::Object(pair))
}

fn distinct_pairs(pairs: &[Value]) -> Result<(), Refusal> {
    let Some((_, twice)) = pairs.iter().enumerate().find(|(index, pair)| pairs[..*index].contains(pair)) else {
        return Ok(());
    };
    let (mac, ip) = (python::text(&twice["mac_address"]), python::text(&twice["ip_address"]));
    let message = format!("Request contains duplicate address pair: mac_address {mac} ip_address {ip}.");
    Err(ApiError::bad("DuplicateAddressPairInRequest", message).into())
}

/// Extra DHCP options; a null value takes the option away (on PUT).
pub fn dhcp_options(value: Value) -> Result<Value, Refusal> {
    let items = entries(value, "extra DHCP options")?;
    let options = items.iter().map(dhcp_option).collect::<Option<Vec<_>>>();
    let options = options.ok_or_else(|| {
        let odd = items.iter().find(|item| dhcp_option(item).is_none()).map(python::text).unwrap_or_default();
        Refusal::Whole(ApiError::invalid_input(format!("No valid key specs matched for: {odd}")))
    })?;
    distinct(&options, |twice| format!("Duplicate items in the list: '{}'", python::text(twice)))?;
    Ok(Value::Array(options))
}

fn dhcp_option(item: &Value) -> Option<Value> {
    let map = item.as_object()?;
    if map.keys().any(|key| !["opt_name", "opt_value", "ip_version"].contains(&key.as_str())) {
        return None;
    }
    let is_line = |text: &str, max: usize| !text.trim().is_empty() && text.chars().count() <= max && !text.contains(['\n', '\r']);
    let name = map.get("opt_name")?.as_str().filter(|name| is_line(name, OPTION_NAME_MAX))?;
    let value = map.get("opt_value")?;
    let is_value = match value {
        Value::Null => true,
        Value::String(text) => is_line(text, OPTION_VALUE_MAX),
        _ => false,
    };
    let version = map.get("ip_version").map_or(Some(4), check::integer).filter(|version| [4, 6].contains(version))?;
    is_value.then(|| json!({"opt_name": name, "opt_value": value, "ip_version": version}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(result: Result<Value, Refusal>) -> String {
        match result {
            Ok(value) => panic!("accepted as {value}"),
            Err(Refusal::Reason(reason)) => reason,
            Err(Refusal::Whole(error)) => format!("{}: {}", error.kind, error.message),
        }
    }

    #[test]
    fn duplicates_are_refused() {
        assert_eq!(says(fixed_ips(json!([{"ip_address": "10.0.0.1"}, {"ip_address": "10.0.0.1"}]))), "Duplicate IP address '10.0.0.1'");
        assert_eq!(says(nameservers(json!(["1.1.1.1", "1.1.1.1"]))), "Duplicate nameserver '1.1.1.1'");
        let pair = json!({"ip_address": "10.0.0.1"});
        assert!(says(address_pairs(json!([pair, pair]))).starts_with("DuplicateAddressPairInRequest"));
    }

    #[test]
    fn eleven_address_pairs_are_too_many() {
        let pairs: Vec<Value> = (0..=ADDRESS_PAIRS_MAX).map(|n| json!({"ip_address": format!("10.0.0.{n}")})).collect();
        assert!(says(address_pairs(json!(pairs))).starts_with("AllowedAddressPairExhausted"));
        assert!(address_pairs(json!(pairs[..ADDRESS_PAIRS_MAX])).is_ok());
    }

    #[test]
    fn no_list_is_endless() {
        let ids: Vec<Value> = (0..=LIST_MAX as u128).map(|n| json!(uuid::Uuid::from_u128(n))).collect();
        assert_eq!(says(uuids(json!(ids))), "the list has more than 1000 entries");
        assert!(uuids(json!(ids[..LIST_MAX])).is_ok());
    }

    #[test]
    fn routes_need_prefixes_without_host_bits() {
        assert_eq!(says(host_routes(json!([{"destination": "10.0.0.1/24", "nexthop": "10.9.0.1"}]))), "'10.0.0.1/24' is not a valid CIDR");
        assert!(says(host_routes(json!([{"destination": "10.0.0.0/24"}]))).starts_with("Validation of dictionary's keys failed."));
        assert!(host_routes(json!([{"destination": "10.0.0.0/24", "nexthop": "10.9.0.1"}])).is_ok());
    }

    #[test]
    fn dhcp_options_have_a_name_and_one_line() {
        let good = json!([{"opt_name": "mtu", "opt_value": "1400"}]);
        assert_eq!(dhcp_options(good).unwrap(), json!([{"opt_name": "mtu", "opt_value": "1400", "ip_version": 4}]));
        for bad in [
            json!([{"opt_name": "mtu"}]),
            json!([{"opt_name": "", "opt_value": "x"}]),
            json!([{"opt_name": "a", "opt_value": "x\ny"}]),
            json!([1]),
            json!([{"opt_name": "n".repeat(OPTION_NAME_MAX + 1), "opt_value": "x"}]),
            json!([{"opt_name": "n", "opt_value": "x".repeat(OPTION_VALUE_MAX + 1)}]),
        ] {
            assert!(dhcp_options(bad).is_err());
        }
        let long = json!([{"opt_name": "n".repeat(OPTION_NAME_MAX), "opt_value": "x".repeat(OPTION_VALUE_MAX)}]);
        assert!(dhcp_options(long).is_ok());
    }
}
