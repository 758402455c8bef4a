//! DHCPv6 options by the names that Neutron's users write (`extra_dhcp_opts` with `ip_version` 6): those of dnsmasq, or numbers.

use std::net::Ipv6Addr;

use super::options4::{domains, items, seconds};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Addresses,
    Domains,
    Text,
    U32,
    Guess,
}

pub const DNS: u16 = 23;
pub const DOMAIN_SEARCH: u16 = 24;
/// The longest option that an answer takes.
pub const CONTENT_MAX: usize = 1024;

/// Codes up to here carry the protocol itself (RFC 8415, 21).
const RESERVED_MAX: u16 = 20;

const NAMES: &[(&str, u16, Shape)] = &[
    ("sip-server-domain", 21, Shape::Domains),
    ("sip-server", 22, Shape::Addresses),
    ("dns-server", DNS, Shape::Addresses),
    ("domain-search", DOMAIN_SEARCH, Shape::Domains),
    ("nis-server", 27, Shape::Addresses),
    ("nis+-server", 28, Shape::Addresses),
    ("nis-domain", 29, Shape::Domains),
    ("nis+-domain", 30, Shape::Domains),
    ("sntp-server", 31, Shape::Addresses),
    ("information-refresh-time", 32, Shape::U32),
    ("posix-timezone", 41, Shape::Text),
    ("tzdb-timezone", 42, Shape::Text),
    ("bootfile-url", 59, Shape::Text),
    ("bootfile-param", 60, Shape::Guess),
    ("captive-portal", 103, Shape::Text),
];

/// The code and content that a user's option means; None: nothing.
pub fn option(name: &str, value: &str) -> Option<(u16, Vec<u8>)> {
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    let name = name.strip_prefix("option6:").unwrap_or(&name);
    let (code, shape) = match name.parse::<u16>() {
        Ok(code) => (code, NAMES.iter().find(|(_, known, _)| *known == code).map_or(Shape::Guess, |(_, _, shape)| *shape)),
        Err(_) => NAMES.iter().find(|(known, _, _)| *known == name).map(|(_, code, shape)| (*code, *shape))?,
    };
    let is_written = code > RESERVED_MAX;
    let content = if value.is_empty() { Vec::new() } else { content(shape, value)? };
    (is_written && content.len() <= CONTENT_MAX).then_some((code, content))
}

fn content(shape: Shape, value: &str) -> Option<Vec<u8>> {
    match shape {
        Shape::Addresses => addresses(value),
        Shape::Domains => domains(value),
        Shape::Text => Some(value.as_bytes().to_vec()),
        Shape::U32 => seconds(value).map(|number| number.to_be_bytes().to_vec()),
        Shape::Guess => addresses(value).or_else(|| Some(value.as_bytes().to_vec())),
    }
}

/// dnsmasq writes IPv6 addresses in brackets; both are taken.
fn addresses(value: &str) -> Option<Vec<u8>> {
    let bare = |item: &str| item.trim_start_matches('[').trim_end_matches(']').parse::<Ipv6Addr>().ok();
    items(value).map(|item| bare(item).map(|ip| ip.octets())).collect::<Option<Vec<_>>>().map(|list| list.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_say_the_same() {
        let dns: Ipv6Addr = "fd00::53".parse().unwrap();
        assert_eq!(option("dns-server", "[fd00::53]"), Some((23, dns.octets().to_vec())));
        assert_eq!(option("23", "fd00::53"), option("option6:dns-server", "fd00::53"));
        assert_eq!(option("domain-search", "a.b"), Some((24, vec![1, b'a', 1, b'b', 0])));
    }

    #[test]
    fn what_means_nothing_or_is_the_protocols_own_is_nothing() {
        for (name, value) in [("no-such", "1"), ("dns-server", "10.0.0.1"), ("2", "x"), ("65536", "1")] {
            assert_eq!(option(name, value), None, "{name}={value}");
        }
    }
}
