//! What a flow can match: packet headers and registers, uniformly as bits under a mask.
//!
//! Names are those of ovs-fields(7). Prerequisites (`ip` before `ip_src`) are the encoder's business. IPv4 and IPv6 go
//! through one function each ([`ip_src`], [`ip_dst`]).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::Mac;

use crate::action::OfPort;
use crate::field::Field;

macro_rules! headers {
    ($($(#[$doc:meta])* $header:ident $name:literal $bits:literal;)*) => {
        /// A packet field that is not a register.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Header { $($(#[$doc])* $header),* }

        impl Header {
            pub const ALL: &'static [Header] = &[$(Header::$header),*];

            /// The name in ovs-fields(7).
            pub fn name(self) -> &'static str {
                match self { $(Header::$header => $name),* }
            }

            /// Width in bits.
            pub fn bits(self) -> u8 {
                match self { $(Header::$header => $bits),* }
            }
        }
    };
}

headers! {
    InPort "in_port" 32;
    TunId "tun_id" 64;
    /// The far end of a tunnel over IPv4.
    TunDst "tun_dst" 32;
    /// The far end of a tunnel over IPv6.
    TunDst6 "tun_ipv6_dst" 128;
    EthSrc "eth_src" 48;
    EthDst "eth_dst" 48;
    EthType "eth_type" 16;
    IpProto "ip_proto" 8;
    IpFrag "ip_frag" 8;
    Ttl "nw_ttl" 8;
    Ipv4Src "ip_src" 32;
    Ipv4Dst "ip_dst" 32;
    Ipv6Src "ipv6_src" 128;
    Ipv6Dst "ipv6_dst" 128;
    TcpSrc "tcp_src" 16;
    TcpDst "tcp_dst" 16;
    TcpFlags "tcp_flags" 12;
    UdpSrc "udp_src" 16;
    UdpDst "udp_dst" 16;
    SctpSrc "sctp_src" 16;
    SctpDst "sctp_dst" 16;
    Icmp4Type "icmp_type" 8;
    Icmp4Code "icmp_code" 8;
    Icmp6Type "icmpv6_type" 8;
    Icmp6Code "icmpv6_code" 8;
    ArpOp "arp_op" 16;
    ArpSpa "arp_spa" 32;
    ArpTpa "arp_tpa" 32;
    ArpSha "arp_sha" 48;
    ArpTha "arp_tha" 48;
    NdTarget "nd_target" 128;
    NdSll "nd_sll" 48;
    NdTll "nd_tll" 48;
    /// The first byte of a neighbour advertisement's flags (ovs-fields(7): nd_reserved).
    NdReserved "nd_reserved" 32;
    /// The type of a neighbour discovery option.
    NdOptionsType "nd_options_type" 8;
    CtState "ct_state" 32;
    CtMark "ct_mark" 32;
    CtLabel "ct_label" 128;
    ConjId "conj_id" 32;
}

/// Something that can be matched, set and moved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    Field(Field),
    Header(Header),
}

impl Place {
    pub fn bits(self) -> u8 {
        match self {
            Place::Field(field) => field.bits,
            Place::Header(header) => header.bits(),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Place::Field(field) => field.name(),
            Place::Header(header) => header.name(),
        }
    }

    /// All bits of the place.
    pub fn full_mask(self) -> u128 {
        u128::MAX >> (128 - u32::from(self.bits()))
    }
}

impl From<Header> for Place {
    fn from(header: Header) -> Place {
        Place::Header(header)
    }
}

impl From<Field> for Place {
    fn from(field: Field) -> Place {
        Place::Field(field)
    }
}

/// A test that a packet must pass: the bits of `place` under `mask` equal `value`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Test {
    pub place: Place,
    pub value: u128,
    pub mask: u128,
}

impl Test {
    pub fn exact(place: Place, value: u128) -> Test {
        Test::masked(place, value, place.full_mask())
    }

    pub fn masked(place: Place, value: u128, mask: u128) -> Test {
        let mask = mask & place.full_mask();
        Test { place, value: value & mask, mask }
    }

    pub fn is_exact(&self) -> bool {
        self.mask == self.place.full_mask()
    }

    /// True if only packets of one IP version pass.
    pub(crate) fn implies_ip(&self) -> bool {
        use Header::*;
        match self.place {
            Place::Header(EthType) => [u128::from(ETH_IPV4), ETH_IPV6.into()].contains(&self.value),
            Place::Header(Ipv4Src | Ipv4Dst | Ipv6Src | Ipv6Dst | Icmp4Type | Icmp4Code | Icmp6Type | Icmp6Code | NdTarget) => true,
            _ => false,
        }
    }
}

/// Bits of `ct_state` (ovs-fields(7)).
pub mod ct {
    pub const NEW: u8 = 0x01;
    pub const EST: u8 = 0x02;
    pub const REL: u8 = 0x04;
    pub const RPL: u8 = 0x08;
    pub const INV: u8 = 0x10;
    pub const TRK: u8 = 0x20;
    pub const SNAT: u8 = 0x40;
    pub const DNAT: u8 = 0x80;
}

/// Bits of `ip_frag` (ovs-fields(7)).
pub mod frag {
    pub const ANY: u8 = 1;
    pub const LATER: u8 = 2;
}

/// Bits of `tcp_flags` (RFC 9293).
pub mod tcp {
    pub const SYN: u16 = 0x02;
}

const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;

fn exact(header: Header, value: impl Into<u128>) -> Test {
    Test::exact(header.into(), value.into())
}

/// A test of `header` under a mask.
pub fn masked(header: Header, value: u128, mask: u128) -> Test {
    Test::masked(header.into(), value, mask)
}

pub fn in_port(port: OfPort) -> Test {
    exact(Header::InPort, port.0)
}

pub fn tun_id(vni: u32) -> Test {
    exact(Header::TunId, vni)
}

pub fn eth_src(mac: Mac) -> Test {
    exact(Header::EthSrc, mac.bits())
}

pub fn eth_dst(mac: Mac) -> Test {
    exact(Header::EthDst, mac.bits())
}

pub fn eth_dst_masked(mac: Mac, mask: Mac) -> Test {
    masked(Header::EthDst, mac.bits().into(), mask.bits().into())
}

pub fn eth_type(value: u16) -> Test {
    exact(Header::EthType, value)
}

/// Any IPv4 packet.
pub fn ipv4() -> Test {
    eth_type(ETH_IPV4)
}

/// Any IPv6 packet.
pub fn ipv6() -> Test {
    eth_type(ETH_IPV6)
}

pub fn ip_proto(proto: u8) -> Test {
    exact(Header::IpProto, proto)
}

fn network_test(v4: Header, v6: Header, network: IpNet) -> Test {
    match network {
        IpNet::V4(net) => masked(v4, net.network().to_bits().into(), net.netmask().to_bits().into()),
        IpNet::V6(net) => masked(v6, net.network().to_bits(), net.netmask().to_bits()),
    }
}

/// The packet comes from an address in `network`. A /0 tests the IP version only.
pub fn ip_src(network: impl Into<IpNet>) -> Test {
    family_or(network.into(), Header::Ipv4Src, Header::Ipv6Src)
}

/// The packet goes to an address in `network`. A /0 tests the IP version only.
pub fn ip_dst(network: impl Into<IpNet>) -> Test {
    family_or(network.into(), Header::Ipv4Dst, Header::Ipv6Dst)
}

fn family_or(network: IpNet, v4: Header, v6: Header) -> Test {
    match network {
        IpNet::V4(net) if net.prefix_len() == 0 => ipv4(),
        IpNet::V6(net) if net.prefix_len() == 0 => ipv6(),
        network => network_test(v4, v6, network),
    }
}

/// `value` matches `bits` of ip_frag ([`frag`]) exactly.
pub fn ip_frag(value: u8) -> Test {
    masked(Header::IpFrag, value.into(), (frag::ANY | frag::LATER).into())
}

/// The ICMP type, of the IP version named by `is_v6`.
pub fn icmp_type(is_v6: bool, value: u8) -> Test {
    exact(if is_v6 { Header::Icmp6Type } else { Header::Icmp4Type }, value)
}

/// The ICMP code, of the IP version named by `is_v6`.
pub fn icmp_code(is_v6: bool, value: u8) -> Test {
    exact(if is_v6 { Header::Icmp6Code } else { Header::Icmp4Code }, value)
}

/// Source port of `proto` (TCP, UDP or SCTP) under a mask; None for a protocol without ports.
pub fn l4_src(proto: u8, port: u16, mask: u16) -> Option<Test> {
    let header = match proto {
        6 => Header::TcpSrc,
        17 => Header::UdpSrc,
        132 => Header::SctpSrc,
        _ => return None,
    };
    Some(masked(header, port.into(), mask.into()))
}

/// Destination port of `proto` (TCP, UDP or SCTP) under a mask; None for a protocol without ports.
pub fn l4_dst(proto: u8, port: u16, mask: u16) -> Option<Test> {
    let header = match proto {
        6 => Header::TcpDst,
        17 => Header::UdpDst,
        132 => Header::SctpDst,
        _ => return None,
    };
    Some(masked(header, port.into(), mask.into()))
}

/// The TCP packet has none of `flags` ([`tcp`]).
pub fn tcp_flags_clear(flags: u16) -> Test {
    masked(Header::TcpFlags, 0, flags.into())
}

pub fn arp_op(op: u16) -> Test {
    exact(Header::ArpOp, op)
}

/// The ARP packet asks for an address in the prefix.
pub fn arp_tpa(prefix: ipnet::Ipv4Net) -> Test {
    masked(Header::ArpTpa, prefix.network().to_bits().into(), prefix.netmask().to_bits().into())
}

/// The neighbour solicitation asks for `target` under `mask`.
pub fn nd_target(target: Ipv6Addr, mask: Ipv6Addr) -> Test {
    masked(Header::NdTarget, target.to_bits(), mask.to_bits())
}

/// The connection state has the bits of `set` and none of those of `clear` ([`ct`]).
pub fn ct_state(set: u8, clear: u8) -> Test {
    masked(Header::CtState, set.into(), (set | clear).into())
}

pub fn conj_id(id: u32) -> Test {
    exact(Header::ConjId, id)
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.place.name(), Bits(self.place, self.value))?;
        if self.is_exact() { Ok(()) } else { write!(f, "/{}", Bits(self.place, self.mask)) }
    }
}

/// A value as the place's users write it: addresses as addresses, numbers as numbers.
pub(crate) struct Bits(pub Place, pub u128);

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Header::*;
        let Bits(place, bits) = *self;
        match place {
            Place::Header(EthSrc | EthDst | ArpSha | ArpTha | NdSll | NdTll) => Mac::from_bits(bits as u64).fmt(f),
            Place::Header(TunDst | Ipv4Src | Ipv4Dst | ArpSpa | ArpTpa) => Ipv4Addr::from_bits(bits as u32).fmt(f),
            Place::Header(TunDst6 | Ipv6Src | Ipv6Dst | NdTarget) => Ipv6Addr::from_bits(bits).fmt(f),
            Place::Field(field) if field == crate::fields::NEXT_HOP => Ipv4Addr::from_bits(bits as u32).fmt(f),
            Place::Field(field) if field.bits == 128 => Ipv6Addr::from_bits(bits).fmt(f),
            Place::Header(EthType | CtState) => write!(f, "{bits:#06x}"),
            _ => bits.fmt(f),
        }
    }
}
