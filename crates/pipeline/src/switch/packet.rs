//! A packet as a map of headers, with its registers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::Mac;

use crate::action::OfPort;
use crate::field::Field;
use crate::header::{Bits, Header, Place, Test};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The flag that begins a TCP connection (RFC 9293, 3.1).
const SYN: u128 = 2;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// A packet on its way. A header that it does not have fits no test.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Packet {
    headers: BTreeMap<Header, u128>,
    registers: [u32; 16],
}

impl Packet {
    /// An IP packet that enters by `port`.
    pub fn ip(port: OfPort, source: IpAddr, destination: IpAddr) -> Packet {
        let mut packet = Packet::default();
        packet.set(Header::InPort, port.0.into());
        packet.set(Header::Ttl, 64);
        packet.set(Header::IpFrag, 0);
        packet.set(Header::EthType, if destination.is_ipv4() { 0x0800 } else { 0x86dd });
        packet.set_source(source);
        packet.set_destination(destination);
        packet
    }

    pub fn macs(mut self, source: Mac, destination: Mac) -> Packet {
        self.set(Header::EthSrc, source.bits().into());
        self.set(Header::EthDst, destination.bits().into());
        self
    }

    fn with(mut self, headers: &[(Header, u128)]) -> Packet {
        self.headers.extend(headers.iter().copied());
        self
    }

    /// The first segment of a TCP connection.
    pub fn tcp(self, source: u16, destination: u16) -> Packet {
        let ports = [(Header::TcpSrc, source.into()), (Header::TcpDst, destination.into())];
        self.with(&[(Header::IpProto, TCP.into()), (Header::TcpFlags, SYN)]).with(&ports)
    }

    pub fn udp(self, source: u16, destination: u16) -> Packet {
        self.with(&[(Header::IpProto, UDP.into()), (Header::UdpSrc, source.into()), (Header::UdpDst, destination.into())])
    }

    /// An echo request, of the packet's IP version.
    pub fn ping(self) -> Packet {
        if self.get(Header::Ipv6Dst).is_some() {
            self.with(&[(Header::IpProto, ICMPV6.into()), (Header::Icmp6Type, 128), (Header::Icmp6Code, 0)])
        } else {
            self.with(&[(Header::IpProto, ICMP.into()), (Header::Icmp4Type, 8), (Header::Icmp4Code, 0)])
        }
    }

    /// An ARP request that enters by `port`.
    pub fn arp(port: OfPort, mac: Mac, source: Ipv4Addr, target: Ipv4Addr) -> Packet {
        let mac = u128::from(mac.bits());
        Packet::default().with(&[
            (Header::InPort, port.0.into()),
            (Header::EthSrc, mac),
            (Header::EthDst, Mac::BROADCAST.bits().into()),
            (Header::EthType, 0x0806),
            (Header::ArpOp, 1),
            (Header::ArpSha, mac),
            (Header::ArpTha, 0),
            (Header::ArpSpa, source.to_bits().into()),
            (Header::ArpTpa, target.to_bits().into()),
        ])
    }

    /// A neighbour solicitation that enters by `port`, to all that may have the target (RFC 4861, 4.3).
    pub fn nd(port: OfPort, mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Packet {
        let [.., a, b, c] = target.octets();
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
        Packet::ip(port, source.into(), group.into()).macs(mac, Mac([0x33, 0x33, 0xff, a, b, c])).with(&[
            (Header::Ttl, 255),
            (Header::IpProto, ICMPV6.into()),
            (Header::Icmp6Type, 135),
            (Header::Icmp6Code, 0),
            (Header::NdTarget, target.to_bits()),
            (Header::NdSll, mac.bits().into()),
        ])
    }

    /// The header's value, if the packet has it.
    pub fn get(&self, header: Header) -> Option<u128> {
        self.headers.get(&header).copied()
    }

    pub fn set(&mut self, header: Header, value: u128) {
        self.headers.insert(header, value);
    }

    pub fn source(&self) -> Option<IpAddr> {
        self.address(Header::Ipv4Src, Header::Ipv6Src)
    }

    pub fn destination(&self) -> Option<IpAddr> {
        self.address(Header::Ipv4Dst, Header::Ipv6Dst)
    }

    fn address(&self, v4: Header, v6: Header) -> Option<IpAddr> {
        let v4 = self.get(v4).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits as u32)));
        v4.or_else(|| self.get(v6).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))))
    }

    pub fn set_source(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.set(Header::Ipv4Src, ip.to_bits().into()),
            IpAddr::V6(ip) => self.set(Header::Ipv6Src, ip.to_bits()),
        }
    }

    pub fn set_destination(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.set(Header::Ipv4Dst, ip.to_bits().into()),
            IpAddr::V6(ip) => self.set(Header::Ipv6Dst, ip.to_bits()),
        }
    }

    /// The headers that hold source and destination port.
    pub(super) fn port_headers(&self) -> Option<(Header, Header)> {
        let has = |header| self.headers.contains_key(&header);
        [(Header::TcpSrc, Header::TcpDst), (Header::UdpSrc, Header::UdpDst)].into_iter().find(|(source, _)| has(*source))
    }

    /// The value of a place. Registers, and what a packet gets on the switch, are zero at first.
    pub fn read(&self, place: Place) -> Option<u128> {
        match place {
            Place::Field(field) => Some(self.register(field)),
            Place::Header(header) => self.get(header).or_else(|| is_ours(header).then_some(0)),
        }
    }

    fn register(&self, field: Field) -> u128 {
        let first = usize::from(field.register);
        if field.bits == 128 {
            return self.registers[first..first + 4].iter().fold(0, |bits, word| bits << 32 | u128::from(*word));
        }
        u128::from(self.registers[first]) >> field.offset & Place::Field(field).full_mask()
    }

    /// Writes the bits of `mask`.
    pub fn write(&mut self, place: Place, value: u128, mask: u128) {
        let new = self.read(place).unwrap_or(0) & !mask | value & mask;
        match place {
            Place::Header(header) => self.set(header, new),
            Place::Field(field) => self.write_register(field, new),
        }
    }

    fn write_register(&mut self, field: Field, value: u128) {
        let first = usize::from(field.register);
        if field.bits == 128 {
            for (n, word) in self.registers[first..first + 4].iter_mut().enumerate() {
                *word = (value >> (96 - 32 * n)) as u32;
            }
            return;
        }
        let mask = (Place::Field(field).full_mask() as u32) << field.offset;
        self.registers[first] = self.registers[first] & !mask | (value as u32) << field.offset & mask;
    }

    pub(super) fn passes(&self, test: &Test) -> bool {
        self.read(test.place).is_some_and(|value| value & test.mask == test.value)
    }

    /// The same number for every packet of a connection in one direction.
    pub(super) fn connection_hash(&self) -> u64 {
        let ports = self.port_headers().map(|(source, destination)| [source, destination]).unwrap_or([Header::IpProto; 2]);
        let parts = [Header::Ipv4Src, Header::Ipv4Dst, Header::Ipv6Src, Header::Ipv6Dst, Header::IpProto, ports[0], ports[1]];
        parts.into_iter().filter_map(|header| self.get(header)).fold(0xcbf2_9ce4_8422_2325, |hash, value| {
            let mixed = (hash ^ value as u64 ^ (value >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed ^ mixed >> 29
        })
    }

    /// What the packet brought along: everything but what the switch gave it.
    pub fn headers(&self) -> impl Iterator<Item = (Header, u128)> + '_ {
        self.headers.iter().map(|(header, value)| (*header, *value)).filter(|(header, _)| !is_ours(*header) || *header == Header::InPort)
    }
}

/// Headers that every packet has on a switch.
fn is_ours(header: Header) -> bool {
    use Header::*;
    matches!(header, InPort | TunId | TunDst | TunDst6 | CtState | CtMark | CtLabel | ConjId)
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            self.headers().map(|(header, value)| format!("{}={}", header.name(), Bits(Place::Header(header), value))).collect();
        f.write_str(&parts.join(","))
    }
}
