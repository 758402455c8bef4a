//! What `dpctl/dump-conntrack` prints: one connection a line (ovs-dpctl(8), lib/ct-dpif.c of Open vSwitch).
//!
//! `udp,orig=(src=…,dst=…,sport=…,dport=…),reply=(src=…,dst=…,sport=…,dport=…),zone=5,mark=7,protoinfo=(state=…)`; ICMP has
//! `id`, `type` and `code` instead of ports, and an unnamed protocol its number. The kernel's datapath and the userspace one
//! print the same. A line that reads otherwise is left out and counted, never an error: it may be a newer version's.

use std::net::IpAddr;

use openflow::{CtFlush, CtPorts, CtTuple};

/// ICMP for IPv6, by its protocol's number.
pub const ICMPV6: u8 = 58;

/// What tells apart the connections between two addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum L4 {
    /// Zero: the protocol has no ports, or the switch does not remember them (SCTP on Open vSwitch 3.1).
    Ports {
        src: u16,
        dst: u16,
    },
    Icmp {
        id: u16,
        kind: u8,
        code: u8,
    },
}

/// One direction of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tuple {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub l4: L4,
}

/// A connection that the switch remembers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// IP protocol.
    pub proto: u8,
    /// As the first packet came.
    pub original: Tuple,
    /// As answers come.
    pub reply: Tuple,
    pub zone: u16,
    pub mark: u32,
    /// TCP's state, as Open vSwitch calls it.
    pub state: Option<String>,
}

/// All connections of an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    pub entries: Vec<Entry>,
    /// Lines that are no connection as known here.
    pub unknown: usize,
}

impl Tuple {
    /// The same between the same two, the other way round. ICMP's numbers stay: an answer's differ, and nobody needs them.
    pub fn reversed(self) -> Tuple {
        let l4 = match self.l4 {
            L4::Ports { src, dst } => L4::Ports { src: dst, dst: src },
            icmp => icmp,
        };
        Tuple { src: self.dst, dst: self.src, l4 }
    }

    /// The port that the packet goes to, where it is known.
    pub fn dst_port(&self) -> Option<u16> {
        match self.l4 {
            L4::Ports { dst, .. } => Some(dst).filter(|port| *port != 0),
            L4::Icmp { .. } => None,
        }
    }
}

impl Entry {
    /// True if answers come from elsewhere than the first packet went to, or go elsewhere than it came from.
    pub fn is_translated(&self) -> bool {
        let Tuple { src, dst, l4 } = self.original.reversed();
        let is_moved = matches!((l4, self.reply.l4), (L4::Ports { .. }, L4::Ports { .. }) if l4 != self.reply.l4);
        (src, dst) != (self.reply.src, self.reply.dst) || is_moved
    }
}

/// Forgets the connection of `zone` that began like this.
pub fn forget(zone: u16, proto: u8, original: Tuple) -> CtFlush {
    let known = |port: u16| Some(port).filter(|port| *port != 0);
    let ports = match original.l4 {
        L4::Ports { src, dst } => CtPorts::Ports { src: known(src), dst: known(dst) },
        L4::Icmp { id, kind, code } => CtPorts::Icmp { id, kind, code },
    };
    let original = CtTuple { src: Some(original.src), dst: Some(original.dst), ports };
    CtFlush { protocol: proto, zone: Some(zone), original, reply: CtTuple::default() }
}

/// Reads the whole answer.
pub fn listing(text: &str) -> Listing {
    let mut listing = Listing::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match entry(line) {
            Some(entry) => listing.entries.push(entry),
            None => listing.unknown += 1,
        }
    }
    listing
}

fn entry(line: &str) -> Option<Entry> {
    let (proto, rest) = line.split_once(',')?;
    let (original, rest) = rest.strip_prefix("orig=(")?.split_once(')')?;
    let (reply, rest) = rest.strip_prefix(",reply=(")?.split_once(')')?;
    let (plain, protocol) = rest.split_once(",protoinfo=(").unwrap_or((rest, ""));
    Some(Entry {
        proto: protocol_number(proto)?,
        original: tuple(original)?,
        reply: tuple(reply)?,
        // Zone 0 and mark 0 are not printed.
        zone: value(plain, "zone").map_or(Some(0), |zone| zone.parse().ok())?,
        mark: value(plain, "mark").map_or(Some(0), |mark| mark.parse().ok())?,
        state: value(protocol.trim_end_matches(')'), "state").map(str::to_owned),
    })
}

/// The names that Open vSwitch prints; anything else is a number.
fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "icmp" => Some(1),
        "igmp" => Some(2),
        "tcp" => Some(6),
        "udp" => Some(17),
        "dccp" => Some(33),
        "icmpv6" => Some(ICMPV6),
        "sctp" => Some(132),
        "udplite" => Some(136),
        number => number.parse().ok(),
    }
}

fn tuple(text: &str) -> Option<Tuple> {
    let number = |key| value(text, key).map(str::parse::<u16>);
    let small = |key| value(text, key)?.parse::<u8>().ok();
    let l4 = match number("id") {
        Some(id) => L4::Icmp { id: id.ok()?, kind: small("type")?, code: small("code")? },
        None => L4::Ports { src: number("sport").unwrap_or(Ok(0)).ok()?, dst: number("dport").unwrap_or(Ok(0)).ok()? },
    };
    Some(Tuple { src: value(text, "src")?.parse().ok()?, dst: value(text, "dst")?.parse().ok()?, l4 })
}

/// The value of `key` in a list like `src=10.0.0.1,dst=10.0.0.2`.
fn value<'a>(list: &'a str, key: &str) -> Option<&'a str> {
    list.split(',').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ports(src: &str, dst: &str, from: u16, to: u16) -> Tuple {
        Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), l4: L4::Ports { src: from, dst: to } }
    }

    #[test]
    fn a_translated_connection_is_read_as_printed() {
        let text = "tcp,orig=(src=10.0.0.10,dst=10.96.0.10,sport=46566,dport=80),reply=(src=10.0.0.11,dst=10.0.0.10,sport=8080,dport=46566),\
                    zone=5,mark=7,protoinfo=(state=ESTABLISHED)\n";
        let Listing { entries, unknown: 0 } = listing(text) else { panic!("unknown lines") };
        let original = ports("10.0.0.10", "10.96.0.10", 46566, 80);
        let reply = ports("10.0.0.11", "10.0.0.10", 8080, 46566);
        let state = Some("ESTABLISHED".to_owned());
        assert_eq!(entries, [Entry { proto: 6, original, reply, zone: 5, mark: 7, state }]);
        assert!(entries[0].is_translated());
    }

    #[test]
    fn other_protocols_and_versions_are_read_too() {
        let text = "icmp,orig=(src=10.0.0.1,dst=10.0.0.2,id=7,type=8,code=0),reply=(src=10.0.0.2,dst=10.0.0.1,id=7,type=0,code=0),zone=5\n\
                    udp,orig=(src=fd00::1,dst=fd00::2,sport=5,dport=53),reply=(src=fd00::2,dst=fd00::1,sport=53,dport=5)\n\
                    47,orig=(src=10.0.0.1,dst=10.0.0.2,sport=0,dport=0),reply=(src=10.0.0.2,dst=10.0.0.1,sport=0,dport=0),zone=65535\n\
                    tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1,dport=2),reply=(src=10.0.0.2,dst=10.0.0.1,sport=2,dport=1),id=0,zone=5,status=0,\
                    timeout=29,protoinfo=(state_orig=FIN_WAIT_2,state_reply=FIN_WAIT_2)\n";
        let read = listing(text);
        assert_eq!((read.entries.len(), read.unknown), (4, 0));
        assert_eq!(read.entries[0].original.l4, L4::Icmp { id: 7, kind: 8, code: 0 });
        assert!(read.entries.iter().all(|entry| !entry.is_translated()));
        assert_eq!(read.entries.iter().map(|entry| (entry.proto, entry.zone)).collect::<Vec<_>>(), [(1, 5), (17, 0), (47, 65535), (6, 5)]);
        assert_eq!(read.entries[2].original.dst_port(), None);
    }

    #[test]
    fn a_strange_line_is_counted_and_spoils_no_other() {
        let good = "udp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=5,dport=53),reply=(src=10.0.0.2,dst=10.0.0.1,sport=53,dport=5),zone=5";
        let read = listing(&format!("tcp,orig=(src=nobody\n{good}\nudp,orig=(),reply=()\n{}", good.replace("zone=5", "zone=70000")));
        assert_eq!((read.entries.len(), read.unknown), (1, 3));
    }

    /// Text that is nearly what is printed.
    fn a_line() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("tcp,"),
            Just("orig=("),
            Just("),reply=("),
            Just("src=10.0.0.1,"),
            Just("dst=::1,"),
            Just("sport=1,"),
            Just("dport=65536"),
            Just("id=1,type=8,code=0"),
            Just("),"),
            Just("zone=5"),
            Just("protoinfo=("),
            Just("state="),
            Just("\n"),
            Just("é"),
            Just(","),
            Just("="),
        ];
        proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in prop_oneof![any::<String>(), a_line()]) {
            let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
            let read = listing(&text);
            prop_assert_eq!(read.entries.len() + read.unknown, lines);
        }

        #[test]
        fn what_open_vswitch_prints_is_read_back(a: std::net::IpAddr, b: std::net::IpAddr, from: u16, to: u16, proto: u8, zone: u16) {
            let text = format!("{proto},orig=(src={a},dst={b},sport={from},dport={to}),reply=(src={b},dst={a},sport={to},dport={from}),zone={zone}");
            let read = listing(&text);
            let original = Tuple { src: a, dst: b, l4: L4::Ports { src: from, dst: to } };
            prop_assert_eq!(&read.entries[..], &[Entry { proto, original, reply: original.reversed(), zone, mark: 0, state: None }]);
        }
    }
}
