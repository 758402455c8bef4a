//! The dimension of a rule that looks at the protocol and its ports.

use model::Rule;
use pipeline::{Test, frag, icmp_code, icmp_type, ip_frag, ip_proto, l4_dst};

use super::judge::Opening;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The tests of protocol and ports; None where every protocol will do. No tests at all: nothing fits, because Open vSwitch
/// does not know the ports of the protocol.
pub fn dimension(rule: &Rule, is_v6: bool) -> Option<Vec<Vec<Test>>> {
    // Neutron takes `icmp` on an IPv6 rule for ICMPv6.
    let proto = match rule.protocol? {
        ICMP if is_v6 => ICMPV6,
        proto => proto,
    };
    let whole = match (rule.range_min, rule.range_max) {
        _ if proto == ICMP || proto == ICMPV6 => vec![icmp(rule, is_v6, proto)],
        (None, None) | (Some(0 | 1), Some(u16::MAX)) => vec![vec![ip_proto(proto)]],
        (min, max) => ports(proto, min.unwrap_or(0), max.or(min).unwrap_or(u16::MAX)),
    };
    let later = (!whole.is_empty()).then(|| later_fragment(proto, is_v6));
    Some(whole.into_iter().chain(later).collect())
}

/// Later fragments carry neither ports nor types, and to Open vSwitch those of IPv6 have no protocol of their own but that of
/// the fragment header. They are worth nothing without their first fragment.
fn later_fragment(proto: u8, is_v6: bool) -> Vec<Test> {
    let later = ip_frag(frag::ANY | frag::LATER);
    if is_v6 { vec![later] } else { vec![ip_proto(proto), later] }
}

/// Whether the first packet of a connection has the rule's protocol and ports: [`dimension`] in other words.
pub fn fit(rule: &Rule, is_v6: bool, opening: &Opening) -> bool {
    let proto = match rule.protocol {
        None => return true,
        Some(ICMP) if is_v6 => ICMPV6,
        Some(proto) => proto,
    };
    proto == opening.proto
        && match (rule.range_min, rule.range_max) {
            (kind, code) if proto == ICMP || proto == ICMPV6 => {
                let fits =
                    |wanted: Option<u16>, has: u8| wanted.and_then(|wanted| u8::try_from(wanted).ok()).is_none_or(|wanted| wanted == has);
                opening.icmp.is_none_or(|(has_kind, has_code)| fits(kind, has_kind) && fits(code, has_code))
            }
            (None, None) | (Some(0 | 1), Some(u16::MAX)) => true,
            (min, max) => {
                let range = min.unwrap_or(0)..=max.or(min).unwrap_or(u16::MAX);
                l4_dst(proto, 0, 0).is_some() && opening.dst_port.is_none_or(|port| range.contains(&port))
            }
        }
}

fn icmp(rule: &Rule, is_v6: bool, proto: u8) -> Vec<Test> {
    let small = |value: Option<u16>| value.and_then(|value| u8::try_from(value).ok());
    let kind = small(rule.range_min).map(|kind| icmp_type(is_v6, kind));
    let code = small(rule.range_max).map(|code| icmp_code(is_v6, code));
    [ip_proto(proto)].into_iter().chain(kind).chain(code).collect()
}

/// The pieces of a range; none for a protocol whose ports Open vSwitch does not know.
fn ports(proto: u8, min: u16, max: u16) -> Vec<Vec<Test>> {
    pieces(min, max).into_iter().filter_map(|(port, mask)| l4_dst(proto, port, mask)).map(|test| vec![ip_proto(proto), test]).collect()
}

/// The fewest (value, mask) pairs that cover exactly `min` to `max`.
fn pieces(min: u16, max: u16) -> Vec<(u16, u16)> {
    let mut pieces = Vec::new();
    let (mut next, max) = (u32::from(min), u32::from(max));
    while next <= max {
        let mut size = if next == 0 { 1 << 16 } else { next & next.wrapping_neg() };
        while next + size - 1 > max {
            size /= 2;
        }
        pieces.push((next as u16, !(size - 1) as u16));
        next += size;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_cover_exactly_the_range(a: u16, b: u16, port: u16) {
            let (min, max) = (a.min(b), a.max(b));
            let hits = pieces(min, max).into_iter().filter(|(value, mask)| port & mask == *value).count();
            prop_assert_eq!(hits, usize::from((min..=max).contains(&port)));
        }
    }

    #[test]
    fn a_range_of_1000_to_1999_is_seven_pieces() {
        assert_eq!(pieces(1000, 1999).len(), 7);
        assert_eq!(pieces(80, 80), [(80, 0xffff)]);
        assert_eq!(pieces(0, u16::MAX), [(0, 0)]);
    }
}
