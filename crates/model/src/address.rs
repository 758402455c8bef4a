//! MAC addresses and the IPv6 addresses that follow from them (RFC 4291, appendix A).

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use ipnet::Ipv6Net;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const ZERO: Mac = Mac([0; 6]);
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// True for group addresses, broadcast included.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The address as the low 48 bits of a number.
    pub fn bits(self) -> u64 {
        self.0.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte))
    }

    /// The address whose bits are the low 48 of `bits`.
    pub fn from_bits(bits: u64) -> Mac {
        let [_, _, mac @ ..] = bits.to_be_bytes();
        Mac(mac)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not six hexadecimal pairs.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a valid MAC address")]
pub struct MacParseError(String);

impl FromStr for Mac {
    type Err = MacParseError;

    fn from_str(text: &str) -> Result<Mac, MacParseError> {
        let bad = || MacParseError(text.to_string());
        let mut mac = [0; 6];
        let mut pairs = text.split([':', '-']);
        for byte in &mut mac {
            let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(pair.ok_or_else(bad)?, 16).map_err(|_| bad())?;
        }
        pairs.next().is_none().then_some(Mac(mac)).ok_or_else(bad)
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The address that a host with `mac` gives itself in `prefix` by SLAAC with EUI-64 (RFC 4862, RFC 4291).
pub fn eui64(prefix: Ipv6Net, mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from(u128::from(prefix.network()) & !u128::from(u64::MAX) | u128::from(interface))
}

/// The link-local address that follows from `mac`.
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let prefix = Ipv6Net::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64).expect("64 is a prefix length");
    eui64(prefix, mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_reads_back_what_it_prints() {
        let mac: Mac = "fa:16:3e:80:fe:1f".parse().unwrap();
        assert_eq!(mac.to_string(), "fa:16:3e:80:fe:1f");
        assert_eq!(Mac::from_bits(mac.bits()), mac);
    }

    #[test]
    fn text_that_is_no_mac_is_refused() {
        for text in ["zz", "fa:16:3e:80:fe", "fa:16:3e:80:fe:1f:00", "fa:16:3e:80:fe:+1", "", "fa163e80fe1f"] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn eui64_is_neutrons() {
        let mac: Mac = "fa:16:3e:80:fe:1f".parse().unwrap();
        assert_eq!(eui64("fd00:9::/64".parse().unwrap(), mac).to_string(), "fd00:9::f816:3eff:fe80:fe1f");
        assert_eq!(link_local(mac).to_string(), "fe80::f816:3eff:fe80:fe1f");
    }
}
