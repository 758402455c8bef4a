//! The one list of packet fields: how each is named, encoded, masked, printed and what it presupposes.
//!
//! Names and prerequisites are those of ovs-fields(7); the encoding is the one that Open vSwitch uses towards an
//! OpenFlow 1.5 controller. The order of the list is the order in a message: a field's prerequisites stand before it.

use crate::oxm::MatchField;

/// OXM class of OpenFlow's own fields.
pub(crate) const OF: u16 = 0x8000;
/// OXM class of OpenFlow's packet registers.
pub(crate) const PKT_REG: u16 = 0x8001;
/// NXM class of the fields of OpenFlow 1.0.
pub(crate) const NXM_OF: u16 = 0x0000;
/// OXM class of the flags and option types of neighbour discovery (ovs-fields(7)).
pub(crate) const ERICOXM: u16 = 0x1000;
/// NXM class of Nicira's fields.
pub(crate) const NXM_NX: u16 = 0x0001;

/// What a packet must be before a field of it can be matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prerequisite {
    None,
    Vlan,
    Arp,
    Ipv4,
    Ipv6,
    Ip,
    Tcp,
    Udp,
    Sctp,
    Icmpv4,
    Icmpv6,
    NeighbourDiscovery,
    NeighbourSolicitation,
    NeighbourAdvertisement,
    ValidConnection,
}

/// How a value of the field is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Decimal,
    Hex,
    Ipv4,
    Ipv6,
    Mac,
    Port,
    CtState,
    TcpFlags,
    Fragment,
    TunnelFlags,
    PacketType,
}

/// Everything about one field.
#[derive(Debug)]
pub struct FieldSpec {
    pub field: Field,
    /// As in ovs-fields(7).
    pub name: &'static str,
    /// Width on the wire, bytes.
    pub bytes: u8,
    /// Significant bits, from the least significant one.
    pub bits: u16,
    pub is_maskable: bool,
    pub prerequisite: Prerequisite,
    pub(crate) class: u16,
    pub(crate) number: u8,
    pub(crate) format: Format,
}

macro_rules! fields {
    ($($id:ident $name:literal $class:ident $number:literal, $bytes:literal bytes $bits:literal bits, $mask:ident, $pre:ident, $fmt:ident;)*) => {
        /// A field of a packet or of its metadata.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Field { $(#[doc = concat!("`", $name, "`")] $id,)* }

        static SPECS: &[FieldSpec] = &[$(FieldSpec {
            field: Field::$id,
            name: $name,
            bytes: $bytes,
            bits: $bits,
            is_maskable: fields!(@$mask),
            prerequisite: Prerequisite::$pre,
            class: $class,
            number: $number,
            format: Format::$fmt,
        },)*];

        const IDS: &[Field] = &[$(Field::$id,)*];
    };
    (@mask) => { true };
    (@whole) => { false };
}

fields! {
    PacketType "packet_type" OF 44, 4 bytes 32 bits, whole, None, PacketType;
    ConjId "conj_id" NXM_NX 37, 4 bytes 32 bits, whole, None, Decimal;
    InPort "in_port_oxm" OF 0, 4 bytes 32 bits, whole, None, Port;
    InPortShort "in_port" NXM_OF 0, 2 bytes 16 bits, whole, None, Port;
    ActsetOutput "actset_output" OF 43, 4 bytes 32 bits, whole, None, Port;
    EthSrc "eth_src" OF 4, 6 bytes 48 bits, mask, None, Mac;
    EthDst "eth_dst" OF 3, 6 bytes 48 bits, mask, None, Mac;
    EthType "eth_type" OF 5, 2 bytes 16 bits, whole, None, Hex;
    VlanTci "vlan_tci" NXM_OF 4, 2 bytes 16 bits, mask, None, Hex;
    VlanVid "vlan_vid" OF 6, 2 bytes 13 bits, mask, None, Decimal;
    VlanPcp "vlan_pcp" OF 7, 1 bytes 3 bits, whole, Vlan, Decimal;
    Ipv4Src "ip_src" OF 11, 4 bytes 32 bits, mask, Ipv4, Ipv4;
    Ipv4Dst "ip_dst" OF 12, 4 bytes 32 bits, mask, Ipv4, Ipv4;
    Ipv6Src "ipv6_src" OF 26, 16 bytes 128 bits, mask, Ipv6, Ipv6;
    Ipv6Dst "ipv6_dst" OF 27, 16 bytes 128 bits, mask, Ipv6, Ipv6;
    IpFrag "ip_frag" NXM_NX 26, 1 bytes 2 bits, mask, Ip, Fragment;
    IpDscp "ip_dscp" OF 8, 1 bytes 6 bits, whole, Ip, Decimal;
    IpEcn "nw_ecn" OF 9, 1 bytes 2 bits, whole, Ip, Decimal;
    IpTtl "nw_ttl" NXM_NX 29, 1 bytes 8 bits, whole, Ip, Decimal;
    Ipv6Label "ipv6_label" OF 28, 4 bytes 20 bits, mask, Ipv6, Hex;
    IpProto "nw_proto" OF 10, 1 bytes 8 bits, whole, Ip, Decimal;
    TcpSrc "tcp_src" OF 13, 2 bytes 16 bits, mask, Tcp, Decimal;
    TcpDst "tcp_dst" OF 14, 2 bytes 16 bits, mask, Tcp, Decimal;
    TcpFlags "tcp_flags" OF 42, 2 bytes 12 bits, mask, Tcp, TcpFlags;
    UdpSrc "udp_src" OF 15, 2 bytes 16 bits, mask, Udp, Decimal;
    UdpDst "udp_dst" OF 16, 2 bytes 16 bits, mask, Udp, Decimal;
    SctpSrc "sctp_src" OF 17, 2 bytes 16 bits, mask, Sctp, Decimal;
    SctpDst "sctp_dst" OF 18, 2 bytes 16 bits, mask, Sctp, Decimal;
    Icmpv4Type "icmp_type" OF 19, 1 bytes 8 bits, whole, Icmpv4, Decimal;
    Icmpv4Code "icmp_code" OF 20, 1 bytes 8 bits, whole, Icmpv4, Decimal;
    Icmpv6Type "icmpv6_type" OF 29, 1 bytes 8 bits, whole, Icmpv6, Decimal;
    Icmpv6Code "icmpv6_code" OF 30, 1 bytes 8 bits, whole, Icmpv6, Decimal;
    NdTarget "nd_target" OF 31, 16 bytes 128 bits, mask, NeighbourDiscovery, Ipv6;
    NdSll "nd_sll" OF 32, 6 bytes 48 bits, mask, NeighbourSolicitation, Mac;
    NdTll "nd_tll" OF 33, 6 bytes 48 bits, mask, NeighbourAdvertisement, Mac;
    NdReserved "nd_reserved" ERICOXM 1, 4 bytes 32 bits, whole, NeighbourDiscovery, Decimal;
    NdOptionsType "nd_options_type" ERICOXM 2, 1 bytes 8 bits, whole, NeighbourDiscovery, Decimal;
    ArpOp "arp_op" OF 21, 2 bytes 16 bits, whole, Arp, Decimal;
    ArpSpa "arp_spa" OF 22, 4 bytes 32 bits, mask, Arp, Ipv4;
    ArpTpa "arp_tpa" OF 23, 4 bytes 32 bits, mask, Arp, Ipv4;
    ArpSha "arp_sha" OF 24, 6 bytes 48 bits, mask, Arp, Mac;
    ArpTha "arp_tha" OF 25, 6 bytes 48 bits, mask, Arp, Mac;
    TunId "tun_id" OF 38, 8 bytes 64 bits, mask, None, Hex;
    TunFlags "tun_flags" NXM_NX 104, 2 bytes 1 bits, mask, None, TunnelFlags;
    TunSrc "tun_src" NXM_NX 31, 4 bytes 32 bits, mask, None, Ipv4;
    TunDst "tun_dst" NXM_NX 32, 4 bytes 32 bits, mask, None, Ipv4;
    TunIpv6Src "tun_ipv6_src" NXM_NX 109, 16 bytes 128 bits, mask, None, Ipv6;
    TunIpv6Dst "tun_ipv6_dst" NXM_NX 110, 16 bytes 128 bits, mask, None, Ipv6;
    Reg0 "reg0" NXM_NX 0, 4 bytes 32 bits, mask, None, Hex;
    Reg1 "reg1" NXM_NX 1, 4 bytes 32 bits, mask, None, Hex;
    Reg2 "reg2" NXM_NX 2, 4 bytes 32 bits, mask, None, Hex;
    Reg3 "reg3" NXM_NX 3, 4 bytes 32 bits, mask, None, Hex;
    Reg4 "reg4" NXM_NX 4, 4 bytes 32 bits, mask, None, Hex;
    Reg5 "reg5" NXM_NX 5, 4 bytes 32 bits, mask, None, Hex;
    Reg6 "reg6" NXM_NX 6, 4 bytes 32 bits, mask, None, Hex;
    Reg7 "reg7" NXM_NX 7, 4 bytes 32 bits, mask, None, Hex;
    Reg8 "reg8" NXM_NX 8, 4 bytes 32 bits, mask, None, Hex;
    Reg9 "reg9" NXM_NX 9, 4 bytes 32 bits, mask, None, Hex;
    Reg10 "reg10" NXM_NX 10, 4 bytes 32 bits, mask, None, Hex;
    Reg11 "reg11" NXM_NX 11, 4 bytes 32 bits, mask, None, Hex;
    Reg12 "reg12" NXM_NX 12, 4 bytes 32 bits, mask, None, Hex;
    Reg13 "reg13" NXM_NX 13, 4 bytes 32 bits, mask, None, Hex;
    Reg14 "reg14" NXM_NX 14, 4 bytes 32 bits, mask, None, Hex;
    Reg15 "reg15" NXM_NX 15, 4 bytes 32 bits, mask, None, Hex;
    XReg0 "xreg0" PKT_REG 0, 8 bytes 64 bits, mask, None, Hex;
    XReg1 "xreg1" PKT_REG 1, 8 bytes 64 bits, mask, None, Hex;
    XReg2 "xreg2" PKT_REG 2, 8 bytes 64 bits, mask, None, Hex;
    XReg3 "xreg3" PKT_REG 3, 8 bytes 64 bits, mask, None, Hex;
    XReg4 "xreg4" PKT_REG 4, 8 bytes 64 bits, mask, None, Hex;
    XReg5 "xreg5" PKT_REG 5, 8 bytes 64 bits, mask, None, Hex;
    XReg6 "xreg6" PKT_REG 6, 8 bytes 64 bits, mask, None, Hex;
    XReg7 "xreg7" PKT_REG 7, 8 bytes 64 bits, mask, None, Hex;
    XxReg0 "xxreg0" NXM_NX 111, 16 bytes 128 bits, mask, None, Hex;
    XxReg1 "xxreg1" NXM_NX 112, 16 bytes 128 bits, mask, None, Hex;
    XxReg2 "xxreg2" NXM_NX 113, 16 bytes 128 bits, mask, None, Hex;
    XxReg3 "xxreg3" NXM_NX 114, 16 bytes 128 bits, mask, None, Hex;
    PktMark "pkt_mark" NXM_NX 33, 4 bytes 32 bits, mask, None, Hex;
    CtState "ct_state" NXM_NX 105, 4 bytes 8 bits, mask, None, CtState;
    CtZone "ct_zone" NXM_NX 106, 2 bytes 16 bits, whole, None, Hex;
    CtMark "ct_mark" NXM_NX 107, 4 bytes 32 bits, mask, None, Hex;
    CtLabel "ct_label" NXM_NX 108, 16 bytes 128 bits, mask, None, Hex;
    CtNwSrc "ct_nw_src" NXM_NX 120, 4 bytes 32 bits, mask, ValidConnection, Ipv4;
    CtIpv6Src "ct_ipv6_src" NXM_NX 122, 16 bytes 128 bits, mask, ValidConnection, Ipv6;
    CtNwDst "ct_nw_dst" NXM_NX 121, 4 bytes 32 bits, mask, ValidConnection, Ipv4;
    CtIpv6Dst "ct_ipv6_dst" NXM_NX 123, 16 bytes 128 bits, mask, ValidConnection, Ipv6;
    CtNwProto "ct_nw_proto" NXM_NX 119, 1 bytes 8 bits, whole, ValidConnection, Decimal;
    CtTpSrc "ct_tp_src" NXM_NX 124, 2 bytes 16 bits, mask, ValidConnection, Decimal;
    CtTpDst "ct_tp_dst" NXM_NX 125, 2 bytes 16 bits, mask, ValidConnection, Decimal;
    Metadata "metadata" OF 2, 8 bytes 64 bits, mask, None, Hex;
}

/// Older encodings that Open vSwitch still understands, of the same width and meaning.
const ALIASES: &[(u16, u8, Field)] = &[
    (NXM_OF, 1, Field::EthDst),
    (NXM_OF, 2, Field::EthSrc),
    (NXM_OF, 3, Field::EthType),
    (NXM_OF, 6, Field::IpProto),
    (NXM_OF, 7, Field::Ipv4Src),
    (NXM_OF, 8, Field::Ipv4Dst),
    (NXM_OF, 9, Field::TcpSrc),
    (NXM_OF, 10, Field::TcpDst),
    (NXM_OF, 11, Field::UdpSrc),
    (NXM_OF, 12, Field::UdpDst),
    (NXM_OF, 13, Field::Icmpv4Type),
    (NXM_OF, 14, Field::Icmpv4Code),
    (NXM_OF, 15, Field::ArpOp),
    (NXM_OF, 16, Field::ArpSpa),
    (NXM_OF, 17, Field::ArpTpa),
    (NXM_NX, 16, Field::TunId),
    (NXM_NX, 17, Field::ArpSha),
    (NXM_NX, 18, Field::ArpTha),
    (NXM_NX, 19, Field::Ipv6Src),
    (NXM_NX, 20, Field::Ipv6Dst),
    (NXM_NX, 21, Field::Icmpv6Type),
    (NXM_NX, 22, Field::Icmpv6Code),
    (NXM_NX, 23, Field::NdTarget),
    (NXM_NX, 24, Field::NdSll),
    (NXM_NX, 25, Field::NdTll),
    (NXM_NX, 27, Field::Ipv6Label),
    (NXM_NX, 28, Field::IpEcn),
    (NXM_NX, 34, Field::TcpFlags),
];

impl Field {
    /// Every field, in wire order.
    pub fn all() -> &'static [Field] {
        IDS
    }

    pub fn spec(self) -> &'static FieldSpec {
        &SPECS[self as usize]
    }

    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// The name of the field's oldest header, which Open vSwitch prints for runs of bits.
    pub(crate) fn nxm_name(self) -> &'static str {
        NXM_NAMES.iter().find(|(field, _)| *field == self).map_or(self.name(), |(_, name)| name)
    }

    /// All significant bits.
    pub fn full_mask(self) -> u128 {
        u128::MAX >> (128 - u32::from(self.spec().bits))
    }

    /// The 32-bit register `number` (0 to 15).
    pub fn reg(number: u8) -> Option<Field> {
        (number < 16).then(|| IDS[Field::Reg0 as usize + usize::from(number)])
    }

    /// The 64-bit register `number` (0 to 7), which is the registers `2 * number` and the next one.
    pub fn xreg(number: u8) -> Option<Field> {
        (number < 8).then(|| IDS[Field::XReg0 as usize + usize::from(number)])
    }

    /// The 128-bit register `number` (0 to 3), which is the registers `4 * number` and the next three.
    pub fn xxreg(number: u8) -> Option<Field> {
        (number < 4).then(|| IDS[Field::XxReg0 as usize + usize::from(number)])
    }

    /// The field of an OXM/NXM header of payload width `bytes` (without mask), aliases included.
    pub(crate) fn from_header(class: u16, number: u8, bytes: usize) -> Option<Field> {
        let field = header_index(class, number)?;
        (usize::from(field.spec().bytes) == bytes).then_some(field)
    }

    /// This field with exactly `value`.
    pub fn is(self, value: impl Into<u128>) -> MatchField {
        MatchField { field: self, value: value.into(), mask: self.full_mask() }
    }

    /// This field with `value` in the bits of `mask`.
    pub fn masked(self, value: impl Into<u128>, mask: impl Into<u128>) -> MatchField {
        MatchField { field: self, value: value.into(), mask: mask.into() }
    }

    /// This address field inside `address`/`prefix`.
    pub fn in_prefix(self, address: impl Into<u128>, prefix: u8) -> MatchField {
        let full = self.full_mask();
        let host = u32::from(self.spec().bits).saturating_sub(u32::from(prefix));
        let mask = if host >= 128 { 0 } else { (full >> host) << host };
        let value = address.into();
        MatchField { field: self, value: value & mask, mask }
    }
}

const NXM_NAMES: &[(Field, &str)] = &[
    (Field::InPort, "OXM_OF_IN_PORT"),
    (Field::InPortShort, "NXM_OF_IN_PORT"),
    (Field::EthSrc, "NXM_OF_ETH_SRC"),
    (Field::EthDst, "NXM_OF_ETH_DST"),
    (Field::EthType, "NXM_OF_ETH_TYPE"),
    (Field::VlanTci, "NXM_OF_VLAN_TCI"),
    (Field::VlanVid, "OXM_OF_VLAN_VID"),
    (Field::VlanPcp, "OXM_OF_VLAN_PCP"),
    (Field::Ipv4Src, "NXM_OF_IP_SRC"),
    (Field::Ipv4Dst, "NXM_OF_IP_DST"),
    (Field::Ipv6Src, "NXM_NX_IPV6_SRC"),
    (Field::Ipv6Dst, "NXM_NX_IPV6_DST"),
    (Field::IpFrag, "NXM_NX_IP_FRAG"),
    (Field::IpDscp, "OXM_OF_IP_DSCP"),
    (Field::IpEcn, "NXM_NX_IP_ECN"),
    (Field::IpTtl, "NXM_NX_IP_TTL"),
    (Field::Ipv6Label, "NXM_NX_IPV6_LABEL"),
    (Field::IpProto, "NXM_OF_IP_PROTO"),
    (Field::TcpSrc, "NXM_OF_TCP_SRC"),
    (Field::TcpDst, "NXM_OF_TCP_DST"),
    (Field::TcpFlags, "NXM_NX_TCP_FLAGS"),
    (Field::UdpSrc, "NXM_OF_UDP_SRC"),
    (Field::UdpDst, "NXM_OF_UDP_DST"),
    (Field::SctpSrc, "OXM_OF_SCTP_SRC"),
    (Field::SctpDst, "OXM_OF_SCTP_DST"),
    (Field::Icmpv4Type, "NXM_OF_ICMP_TYPE"),
    (Field::Icmpv4Code, "NXM_OF_ICMP_CODE"),
    (Field::Icmpv6Type, "NXM_NX_ICMPV6_TYPE"),
    (Field::Icmpv6Code, "NXM_NX_ICMPV6_CODE"),
    (Field::NdTarget, "NXM_NX_ND_TARGET"),
    (Field::NdSll, "NXM_NX_ND_SLL"),
    (Field::NdTll, "NXM_NX_ND_TLL"),
    (Field::NdReserved, "ERICOXM_OF_ICMPV6_ND_RESERVED"),
    (Field::NdOptionsType, "ERICOXM_OF_ICMPV6_ND_OPTIONS_TYPE"),
    (Field::ArpOp, "NXM_OF_ARP_OP"),
    (Field::ArpSpa, "NXM_OF_ARP_SPA"),
    (Field::ArpTpa, "NXM_OF_ARP_TPA"),
    (Field::ArpSha, "NXM_NX_ARP_SHA"),
    (Field::ArpTha, "NXM_NX_ARP_THA"),
    (Field::TunId, "NXM_NX_TUN_ID"),
    (Field::TunFlags, "NXM_NX_TUN_FLAGS"),
    (Field::TunSrc, "NXM_NX_TUN_IPV4_SRC"),
    (Field::TunDst, "NXM_NX_TUN_IPV4_DST"),
    (Field::TunIpv6Src, "NXM_NX_TUN_IPV6_SRC"),
    (Field::TunIpv6Dst, "NXM_NX_TUN_IPV6_DST"),
    (Field::PktMark, "NXM_NX_PKT_MARK"),
    (Field::CtState, "NXM_NX_CT_STATE"),
    (Field::CtZone, "NXM_NX_CT_ZONE"),
    (Field::CtMark, "NXM_NX_CT_MARK"),
    (Field::CtLabel, "NXM_NX_CT_LABEL"),
    (Field::CtNwSrc, "NXM_NX_CT_NW_SRC"),
    (Field::CtNwDst, "NXM_NX_CT_NW_DST"),
    (Field::CtIpv6Src, "NXM_NX_CT_IPV6_SRC"),
    (Field::CtIpv6Dst, "NXM_NX_CT_IPV6_DST"),
    (Field::CtNwProto, "NXM_NX_CT_NW_PROTO"),
    (Field::CtTpSrc, "NXM_NX_CT_TP_SRC"),
    (Field::CtTpDst, "NXM_NX_CT_TP_DST"),
    (Field::ConjId, "NXM_NX_CONJ_ID"),
    (Field::Metadata, "OXM_OF_METADATA"),
    (Field::ActsetOutput, "OXM_OF_ACTSET_OUTPUT"),
    (Field::Reg0, "NXM_NX_REG0"),
    (Field::Reg1, "NXM_NX_REG1"),
    (Field::Reg2, "NXM_NX_REG2"),
    (Field::Reg3, "NXM_NX_REG3"),
    (Field::Reg4, "NXM_NX_REG4"),
    (Field::Reg5, "NXM_NX_REG5"),
    (Field::Reg6, "NXM_NX_REG6"),
    (Field::Reg7, "NXM_NX_REG7"),
    (Field::Reg8, "NXM_NX_REG8"),
    (Field::Reg9, "NXM_NX_REG9"),
    (Field::Reg10, "NXM_NX_REG10"),
    (Field::Reg11, "NXM_NX_REG11"),
    (Field::Reg12, "NXM_NX_REG12"),
    (Field::Reg13, "NXM_NX_REG13"),
    (Field::Reg14, "NXM_NX_REG14"),
    (Field::Reg15, "NXM_NX_REG15"),
    (Field::XReg0, "OXM_OF_PKT_REG0"),
    (Field::XReg1, "OXM_OF_PKT_REG1"),
    (Field::XReg2, "OXM_OF_PKT_REG2"),
    (Field::XReg3, "OXM_OF_PKT_REG3"),
    (Field::XReg4, "OXM_OF_PKT_REG4"),
    (Field::XReg5, "OXM_OF_PKT_REG5"),
    (Field::XReg6, "OXM_OF_PKT_REG6"),
    (Field::XReg7, "OXM_OF_PKT_REG7"),
    (Field::XxReg0, "NXM_NX_XXREG0"),
    (Field::XxReg1, "NXM_NX_XXREG1"),
    (Field::XxReg2, "NXM_NX_XXREG2"),
    (Field::XxReg3, "NXM_NX_XXREG3"),
];

/// Direct look-up: read-back of 100,000 flows asks this a million times.
fn header_index(class: u16, number: u8) -> Option<Field> {
    use std::sync::OnceLock;
    static INDEX: OnceLock<[[Option<Field>; 128]; CLASSES]> = OnceLock::new();
    let row = class_row(class)?;
    let index = INDEX.get_or_init(|| {
        let mut index = [[None; 128]; CLASSES];
        let specs = SPECS.iter().map(|spec| (spec.class, spec.number, spec.field));
        for (class, number, field) in ALIASES.iter().copied().chain(specs) {
            let row = class_row(class).expect("the list uses these classes only");
            index[row][usize::from(number)] = Some(field);
        }
        index
    });
    index[row].get(usize::from(number)).copied().flatten()
}

/// How many classes the list uses.
const CLASSES: usize = 5;

fn class_row(class: u16) -> Option<usize> {
    match class {
        NXM_OF => Some(0),
        NXM_NX => Some(1),
        OF => Some(2),
        PKT_REG => Some(3),
        ERICOXM => Some(4),
        _ => None,
    }
}

/// A run of bits of a field: `field[offset..offset + bits]`, offset 0 the least significant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subfield {
    pub field: Field,
    pub offset: u16,
    pub bits: u16,
}

impl Subfield {
    /// The whole field.
    pub fn whole(field: Field) -> Self {
        Subfield { field, offset: 0, bits: field.spec().bits }
    }

    pub fn new(field: Field, offset: u16, bits: u16) -> Self {
        Subfield { field, offset, bits }
    }
}
