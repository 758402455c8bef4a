//! DHCPv4 options by the names that Neutron's users write (`extra_dhcp_opts`): those of dnsmasq, or numbers.
//!
//! An option's name says what its value is: addresses, a number, text, routes, domains. Options that carry the protocol itself
//! (message type, server identifier, lease…) are not the user's to set. A name or value that means nothing is left out and
//! counted.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// How a value is written into the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Addresses,
    Text,
    U8,
    U16,
    U32,
    /// `destination/length,gateway` pairs (RFC 3442).
    Routes,
    /// Names as DNS writes them (RFC 3397).
    Domains,
    /// `0a:0b:0c`
    Bytes,
    /// Told by how the value looks.
    Guess,
}

/// One option of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Setting {
    /// An option by its code. Without content: the option is not sent.
    Option(u8, Vec<u8>),
    /// Where the boot file is (`siaddr`).
    NextServer(Ipv4Addr),
}

pub const NETMASK: u8 = 1;
pub const ROUTER: u8 = 3;
pub const DNS: u8 = 6;
pub const MTU: u8 = 26;
pub const REQUESTED: u8 = 50;
pub const LEASE_TIME: u8 = 51;
pub const SERVER: u8 = 54;
pub const T1: u8 = 58;
pub const T2: u8 = 59;
pub const TFTP_SERVER: u8 = 66;
pub const BOOT_FILE: u8 = 67;
pub const ROUTES: u8 = 121;
pub const TFTP_ADDRESS: u8 = 150;
/// Classless routes under the number that old Windows asks for.
pub const ROUTES_MICROSOFT: u8 = 249;

/// The protocol's own options: padding, requested address, overload, type, server, request list, sizes, client, relay, end.
const RESERVED: &[u8] = &[0, REQUESTED, 52, 53, SERVER, 55, 56, 57, 61, 82, 255];
/// Not an option but a field of the message: dnsmasq's name for `siaddr`.
const SERVER_IP_ADDRESS: &str = "server-ip-address";

const NAMES: &[(&str, u8, Shape)] = &[
    ("netmask", NETMASK, Shape::Addresses),
    ("time-offset", 2, Shape::U32),
    ("router", ROUTER, Shape::Addresses),
    ("time-server", 4, Shape::Addresses),
    ("dns-server", DNS, Shape::Addresses),
    ("log-server", 7, Shape::Addresses),
    ("lpr-server", 9, Shape::Addresses),
    ("hostname", 12, Shape::Text),
    ("boot-file-size", 13, Shape::U16),
    ("domain-name", 15, Shape::Text),
    ("swap-server", 16, Shape::Addresses),
    ("root-path", 17, Shape::Text),
    ("extension-path", 18, Shape::Text),
    ("ip-forward-enable", 19, Shape::U8),
    ("non-local-source-routing", 20, Shape::U8),
    ("policy-filter", 21, Shape::Addresses),
    ("max-datagram-reassembly", 22, Shape::U16),
    ("default-ttl", 23, Shape::U8),
    ("mtu", MTU, Shape::U16),
    ("interface-mtu", MTU, Shape::U16),
    ("all-subnets-local", 27, Shape::U8),
    ("broadcast", 28, Shape::Addresses),
    ("router-discovery", 31, Shape::U8),
    ("router-solicitation", 32, Shape::Addresses),
    ("static-route", 33, Shape::Addresses),
    ("trailer-encapsulation", 34, Shape::U8),
    ("arp-timeout", 35, Shape::U32),
    ("ethernet-encap", 36, Shape::U8),
    ("tcp-ttl", 37, Shape::U8),
    ("tcp-keepalive", 38, Shape::U32),
    ("nis-domain", 40, Shape::Text),
    ("nis-server", 41, Shape::Addresses),
    ("ntp-server", 42, Shape::Addresses),
    ("vendor-encap", 43, Shape::Bytes),
    ("netbios-ns", 44, Shape::Addresses),
    ("netbios-dd", 45, Shape::Addresses),
    ("netbios-nodetype", 46, Shape::U8),
    ("netbios-scope", 47, Shape::Text),
    ("x-windows-fs", 48, Shape::Addresses),
    ("x-windows-dm", 49, Shape::Addresses),
    ("lease-time", LEASE_TIME, Shape::U32),
    ("t1", T1, Shape::U32),
    ("t2", T2, Shape::U32),
    ("vendor-class", 60, Shape::Text),
    ("nis+-domain", 64, Shape::Text),
    ("nis+-server", 65, Shape::Addresses),
    ("tftp-server", TFTP_SERVER, Shape::Text),
    ("bootfile-name", BOOT_FILE, Shape::Text),
    ("mobile-ip-home", 68, Shape::Addresses),
    ("smtp-server", 69, Shape::Addresses),
    ("pop3-server", 70, Shape::Addresses),
    ("nntp-server", 71, Shape::Addresses),
    ("irc-server", 74, Shape::Addresses),
    ("user-class", 77, Shape::Text),
    ("posix-timezone", 100, Shape::Text),
    ("tzdb-timezone", 101, Shape::Text),
    ("ipv6-only", 108, Shape::U32),
    ("captive-portal", 114, Shape::Text),
    ("domain-search", 119, Shape::Domains),
    ("sip-server", 120, Shape::Guess),
    ("classless-static-route", ROUTES, Shape::Routes),
    ("vendor-id-encap", 125, Shape::Bytes),
    ("tftp-server-address", TFTP_ADDRESS, Shape::Addresses),
    ("classless-static-route-ms", ROUTES_MICROSOFT, Shape::Routes),
];

/// What a user's option means; None: nothing.
pub fn setting(name: &str, value: &str) -> Option<Setting> {
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    let name = name.strip_prefix("option:").unwrap_or(&name);
    if name == SERVER_IP_ADDRESS {
        return value.parse().ok().map(Setting::NextServer);
    }
    let (code, shape) = match name.parse::<u8>() {
        Ok(code) => (code, NAMES.iter().find(|(_, known, _)| *known == code).map_or(Shape::Guess, |(_, _, shape)| *shape)),
        Err(_) => NAMES.iter().find(|(known, _, _)| *known == name).map(|(_, code, shape)| (*code, *shape))?,
    };
    if RESERVED.contains(&code) {
        return None;
    }
    let content = if value.is_empty() { Vec::new() } else { content(shape, value)? };
    Some(Setting::Option(code, content))
}

fn content(shape: Shape, value: &str) -> Option<Vec<u8>> {
    match shape {
        Shape::Addresses => addresses(value),
        Shape::Text => Some(value.as_bytes().to_vec()),
        Shape::U8 => value.parse::<u8>().ok().map(|number| vec![number]),
        Shape::U16 => value.parse::<u16>().ok().map(|number| number.to_be_bytes().to_vec()),
        Shape::U32 => seconds(value).map(|number| number.to_be_bytes().to_vec()),
        Shape::Routes => routes(value),
        Shape::Domains => domains(value),
        Shape::Bytes => bytes(value).or_else(|| Some(value.as_bytes().to_vec())),
        Shape::Guess => Some(guess(value)),
    }
}

/// The items of a list that is written with commas or spaces.
pub(super) fn items(value: &str) -> impl Iterator<Item = &str> {
    value.split([',', ' ']).map(str::trim).filter(|item| !item.is_empty())
}

fn addresses(value: &str) -> Option<Vec<u8>> {
    let parsed: Result<Vec<Ipv4Addr>, _> = items(value).map(str::parse).collect();
    parsed.ok().map(|list| list.iter().flat_map(|ip| ip.octets()).collect())
}

/// A number, or a time as dnsmasq writes it: `45m`, `12h`, `7d`, `2w`, `infinite`.
pub(super) fn seconds(value: &str) -> Option<u32> {
    if value == "infinite" {
        return Some(u32::MAX);
    }
    let unit = match value.as_bytes().last()? {
        b'm' => 60,
        b'h' => 3600,
        b'd' => 86_400,
        b'w' => 604_800,
        _ => return value.parse().ok(),
    };
    value[..value.len() - 1].parse::<u32>().ok()?.checked_mul(unit)
}

fn routes(value: &str) -> Option<Vec<u8>> {
    let parts: Vec<&str> = items(value).collect();
    if parts.len() % 2 != 0 {
        return None;
    }
    let pairs = parts.chunks_exact(2).map(|pair| Some((pair[0].parse::<Ipv4Net>().ok()?, pair[1].parse().ok()?)));
    pairs.collect::<Option<Vec<_>>>().map(|list| classless(&list))
}

/// Routes as RFC 3442 writes them: only the significant bytes of each destination.
pub fn classless(routes: &[(Ipv4Net, Ipv4Addr)]) -> Vec<u8> {
    let route = |(destination, gateway): &(Ipv4Net, Ipv4Addr)| {
        let length = destination.prefix_len();
        let significant = usize::from(length.div_ceil(8));
        let octets = destination.network().octets();
        [vec![length], octets[..significant].to_vec(), gateway.octets().to_vec()].concat()
    };
    routes.iter().flat_map(route).collect()
}

/// Names as DNS writes them, without compression.
pub fn domains(value: &str) -> Option<Vec<u8>> {
    let names: Option<Vec<Vec<u8>>> = items(value).map(domain).collect();
    names.map(|names| names.concat())
}

fn domain(name: &str) -> Option<Vec<u8>> {
    let labels = name.trim_end_matches('.').split('.');
    let mut written = Vec::new();
    for label in labels {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        written.push(length);
        written.extend(label.bytes());
    }
    written.push(0);
    (written.len() <= 255).then_some(written)
}

fn bytes(value: &str) -> Option<Vec<u8>> {
    let pairs: Vec<&str> = value.split(':').collect();
    let is_hex = pairs.len() > 1 && pairs.iter().all(|pair| pair.len() <= 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !is_hex {
        return None;
    }
    pairs.iter().map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

/// As dnsmasq: addresses, hexadecimal bytes, a number in as few bytes as hold it, otherwise text.
fn guess(value: &str) -> Vec<u8> {
    let number = || {
        let bytes = value.parse::<u32>().ok()?.to_be_bytes();
        let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
        // One, two or four bytes.
        let first = if first == 1 { 0 } else { first };
        Some(bytes[first..].to_vec())
    };
    addresses(value).or_else(|| bytes(value)).or_else(number).unwrap_or_else(|| value.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_of(name: &str, value: &str) -> Option<(u8, Vec<u8>)> {
        match setting(name, value)? {
            Setting::Option(code, content) => Some((code, content)),
            Setting::NextServer(_) => None,
        }
    }

    #[test]
    fn a_name_and_its_number_say_the_same() {
        assert_eq!(content_of("dns-server", "10.0.0.2,10.0.0.3"), Some((6, vec![10, 0, 0, 2, 10, 0, 0, 3])));
        assert_eq!(content_of("6", "10.0.0.2, 10.0.0.3"), content_of("option:dns-server", "10.0.0.2,10.0.0.3"));
        assert_eq!(content_of("bootfile-name", "pxelinux.0"), Some((67, b"pxelinux.0".to_vec())));
        assert_eq!(content_of("mtu", "1400"), Some((26, vec![0x05, 0x78])));
    }

    #[test]
    fn routes_keep_only_the_significant_bytes() {
        let said = content_of("classless-static-route", "10.1.0.0/16,10.0.0.1,0.0.0.0/0,10.0.0.254");
        assert_eq!(said, Some((121, vec![16, 10, 1, 10, 0, 0, 1, 0, 10, 0, 0, 254])));
    }

    #[test]
    fn domains_are_written_as_dns_does() {
        assert_eq!(content_of("domain-search", "a.bc"), Some((119, vec![1, b'a', 2, b'b', b'c', 0])));
        assert_eq!(content_of("domain-search", "a..b"), None);
    }

    #[test]
    fn a_number_that_nobody_named_is_guessed_as_dnsmasq_does() {
        assert_eq!(content_of("210", "/boot/"), Some((210, b"/boot/".to_vec())));
        assert_eq!(content_of("209", "0a:0b"), Some((209, vec![10, 11])));
        assert_eq!(content_of("211", "1800"), Some((211, vec![7, 8])));
        assert_eq!(content_of("211", "100000"), Some((211, vec![0, 1, 0x86, 0xa0])));
    }

    #[test]
    fn times_may_have_units() {
        assert_eq!(seconds("12h"), Some(43_200));
        assert_eq!(seconds("infinite"), Some(u32::MAX));
        assert_eq!(seconds("h"), None);
        assert_eq!(seconds("4294967295w"), None);
    }

    #[test]
    fn what_means_nothing_is_nothing() {
        for (name, value) in
            [("no-such-option", "1"), ("mtu", "many"), ("dns-server", "here"), ("53", "5"), ("server-ip-address", "tftp"), ("256", "1")]
        {
            assert_eq!(setting(name, value), None, "{name}={value}");
        }
    }

    #[test]
    fn an_empty_value_takes_an_option_away() {
        assert_eq!(content_of("router", ""), Some((3, vec![])));
    }

    #[test]
    fn the_next_server_is_a_field_of_the_message() {
        assert_eq!(setting("server-ip-address", "10.0.0.7"), Some(Setting::NextServer("10.0.0.7".parse().unwrap())));
    }
}
