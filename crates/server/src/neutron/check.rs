//! Checks of single values: what Neutron calls `type:…` validators and `convert_to` functions.
//!
//! A check takes the value as it was sent and gives it back in its normal form (a boolean for `"true"`, a number for
//! `"4"`), or says in Neutron's words why it is none. Lists of dictionaries are checked in `check_list`.

use std::net::IpAddr;

use ipnet::IpNet;
use model::Mac;
use serde_json::{Value, json};
use uuid::Uuid;

use super::check_list;
use super::error::ApiError;
use super::python;

/// How an attribute's value is checked.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    Anything,
    /// A string of at most so many characters.
    Text(usize),
    TextOrNull(usize),
    Boolean,
    /// A whole number in an inclusive range.
    Range(i64, i64),
    RangeOrNull(i64, i64),
    /// One of these words.
    Word(&'static [&'static str]),
    WordOrNull(&'static [&'static str]),
    /// 4 or 6.
    IpVersion,
    Uuid,
    UuidOrNull,
    UuidList,
    Mac,
    IpOrNull,
    CidrOrNull,
    /// A dictionary; null is an empty one.
    Dictionary,
    Pools,
    Nameservers,
    HostRoutes,
    Routes,
    FixedIps,
    AddressPairs,
    DhcpOptions,
    /// A list of different strings of at most so many characters.
    Words(usize),
}

/// Why a value was refused.
#[derive(Debug)]
pub enum Refusal {
    /// Goes into `Invalid input for <attribute>. Reason: …`.
    Reason(String),
    /// Has an error document of its own.
    Whole(ApiError),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        Refusal::Whole(error)
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal::Reason(reason)
    }
}

impl Check {
    /// The value in its normal form.
    pub fn apply(self, value: Value) -> Result<Value, Refusal> {
        match self {
            Check::Anything => Ok(value),
            Check::Text(max) => text(&value, max).map(|()| value),
            Check::TextOrNull(max) => or_null(value, |value| text(&value, max).map(|()| value)),
            Check::Boolean => boolean(&value).map(Value::Bool),
            Check::Range(low, high) => number(&value, low, high).map(|number| json!(number)),
            Check::RangeOrNull(low, high) => or_null(value, |value| number(&value, low, high).map(|number| json!(number))),
            Check::Word(words) => word(&value, words).map(|()| value),
            Check::WordOrNull(words) => or_null(value, |value| word(&value, words).map(|()| value)),
            Check::IpVersion => ip_version(&value).map(|version| json!(version)),
            Check::Uuid => uuid(&value).map(|id| json!(id)),
            Check::UuidOrNull => or_null(value, |value| uuid(&value).map(|id| json!(id))),
            Check::UuidList => check_list::uuids(value),
            Check::Mac => mac(&value).map(|mac| json!(mac)),
            Check::IpOrNull => or_null(value, |value| ip(&value).map(|ip| json!(ip))),
            Check::CidrOrNull => or_null(value, |value| cidr(&value).map(|cidr| json!(cidr))),
            Check::Dictionary => dictionary(value),
            Check::Pools => check_list::pools(value),
            Check::Nameservers => check_list::nameservers(value),
            Check::HostRoutes => check_list::host_routes(value),
            Check::Routes => check_list::host_routes(value),
            Check::FixedIps => check_list::fixed_ips(value),
            Check::AddressPairs => check_list::address_pairs(value),
            Check::DhcpOptions => check_list::dhcp_options(value),
            Check::Words(max) => check_list::words(value, max),
        }
    }
}

fn or_null(value: Value, check: impl FnOnce(Value) -> Result<Value, Refusal>) -> Result<Value, Refusal> {
    if value.is_null() { Ok(value) } else { check(value) }
}

/// A string of at most `max` characters.
pub fn text(value: &Value, max: usize) -> Result<(), Refusal> {
    let text = value.as_str().ok_or_else(|| format!("'{}' is not a valid string", python::text(value)))?;
    if text.chars().count() > max {
        return Err(format!("'{}' exceeds maximum length of {max}", python::text(value)).into());
    }
    Ok(())
}

/// A boolean, also as the strings and numbers that Neutron takes for one.
fn boolean(value: &Value) -> Result<bool, Refusal> {
    let is_true = match value {
        Value::Bool(is_true) => Some(*is_true),
        Value::Number(number) => number.as_i64().filter(|number| (0..=1).contains(number)).map(|number| number == 1),
        Value::String(text) => boolean_word(text),
        _ => None,
    };
    is_true.ok_or_else(|| ApiError::invalid_input(format!("'{}' cannot be converted to boolean", python::text(value))).into())
}

/// `true`, `True`, `1` and their opposites.
pub fn boolean_word(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// A whole number, also as a string.
pub fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => {
            number.as_i64().or_else(|| number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e15).map(|float| float as i64))
        }
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn number(value: &Value, low: i64, high: i64) -> Result<i64, Refusal> {
    let number = integer(value).ok_or_else(|| format!("'{}' is not an integer", python::text(value)))?;
    if number < low {
        return Err(format!("'{number}' is too small - must be at least '{low}'").into());
    }
    if number > high {
        return Err(format!("'{number}' is too large - must be no larger than '{high}'").into());
    }
    Ok(number)
}

fn word(value: &Value, words: &[&str]) -> Result<(), Refusal> {
    let is_known = value.as_str().is_some_and(|word| words.contains(&word));
    let list = || words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ");
    if is_known { Ok(()) } else { Err(format!("{} is not in [{}]", python::text(value), list()).into()) }
}

fn ip_version(value: &Value) -> Result<i64, Refusal> {
    let version = integer(value).ok_or_else(|| ApiError::invalid_input(format!("'{}' is not an integer", python::text(value))))?;
    if [4, 6].contains(&version) { Ok(version) } else { Err(format!("{version} is not in [4, 6]").into()) }
}

pub fn uuid(value: &Value) -> Result<Uuid, Refusal> {
    let id = value.as_str().and_then(|text| Uuid::parse_str(text).ok());
    id.ok_or_else(|| format!("'{}' is not a valid UUID", python::text(value)).into())
}

/// A MAC address that one interface can have.
pub fn mac(value: &Value) -> Result<Mac, Refusal> {
    let mac = value.as_str().and_then(|text| text.parse::<Mac>().ok());
    let mac = mac.filter(|mac| *mac != Mac::ZERO && *mac != Mac::BROADCAST);
    mac.ok_or_else(|| format!("'{}' is not a valid MAC address", python::text(value)).into())
}

pub fn ip(value: &Value) -> Result<IpAddr, Refusal> {
    let ip = value.as_str().and_then(|text| text.parse().ok());
    ip.ok_or_else(|| format!("'{}' is not a valid IP address", python::text(value)).into())
}

/// A CIDR; host bits are dropped, as Neutron stores subnets.
pub fn cidr(value: &Value) -> Result<IpNet, Refusal> {
    let cidr = value.as_str().and_then(net);
    let cidr = cidr.ok_or_else(|| format!("'{}' is not a valid IP subnet", python::text(value)))?;
    Ok(cidr.trunc())
}

/// An address with a prefix length, host bits kept.
///
/// The standard library reads the address, because `01.0.0.0` means different things to different readers and must be
/// refused.
pub fn net(text: &str) -> Option<IpNet> {
    let (ip, prefix) = text.split_once('/')?;
    let is_number = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|byte| byte.is_ascii_digit());
    IpNet::new(ip.parse().ok()?, prefix.parse().ok().filter(|_| is_number)?).ok()
}

fn dictionary(value: Value) -> Result<Value, Refusal> {
    match value {
        Value::Null => Ok(json!({})),
        Value::Object(_) => Ok(value),
        other => Err(format!("'{}' is not a dictionary", python::text(&other)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(check: Check, value: Value) -> String {
        match check.apply(value) {
            Ok(value) => panic!("accepted as {value}"),
            Err(Refusal::Reason(reason)) => reason,
            Err(Refusal::Whole(error)) => error.message,
        }
    }

    #[test]
    fn booleans_are_read_as_neutron_reads_them() {
        for value in [json!(true), json!("True"), json!("true"), json!("1"), json!(1)] {
            assert_eq!(Check::Boolean.apply(value).unwrap(), json!(true));
        }
        assert_eq!(reason(Check::Boolean, json!("maybe")), "Invalid input for operation: 'maybe' cannot be converted to boolean.");
        assert!(Check::Boolean.apply(json!(null)).is_err());
    }

    #[test]
    fn numbers_are_read_from_strings_and_kept_in_range() {
        assert_eq!(Check::Range(1, 9).apply(json!("7")).unwrap(), json!(7));
        assert_eq!(reason(Check::Range(1, 9), json!(10)), "'10' is too large - must be no larger than '9'");
        assert_eq!(reason(Check::Range(1, 9), json!(0)), "'0' is too small - must be at least '1'");
        assert_eq!(reason(Check::Range(1, 9), json!("x")), "'x' is not an integer");
        assert_eq!(reason(Check::Range(1, 9), json!(true)), "'True' is not an integer");
        assert_eq!(reason(Check::Range(1, 9), json!(1.5)), "'1.5' is not an integer");
    }

    #[test]
    fn addresses_are_normalised() {
        assert_eq!(Check::CidrOrNull.apply(json!("10.0.0.7/24")).unwrap(), json!("10.0.0.0/24"));
        assert_eq!(Check::CidrOrNull.apply(json!("FD00::1/64")).unwrap(), json!("fd00::/64"));
        assert_eq!(Check::Mac.apply(json!("FA:16:3E:00:00:01")).unwrap(), json!("fa:16:3e:00:00:01"));
        for bad in [json!("ff:ff:ff:ff:ff:ff"), json!("00:00:00:00:00:00"), json!(null), json!(7)] {
            assert!(Check::Mac.apply(bad).is_err());
        }
        for bad in [json!("10.0.0.0"), json!("10.0.0.0/33"), json!("01.0.0.0/24"), json!(" 10.0.0.0/8"), json!([])] {
            assert!(Check::CidrOrNull.apply(bad).is_err());
        }
    }
}
