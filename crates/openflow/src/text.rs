//! Matches, flows and groups as `ovs-ofctl --no-names --no-stats` prints them, for logs, tests and the operator.

use std::fmt::{self, Display, Formatter};
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::action::write_list;
use crate::field::{Field, Format, Subfield};
use crate::flow::{InstalledFlow, flow_flags};
use crate::group::{GroupKind, InstalledGroup};
use crate::instruction::Instructions;
use crate::matching::{ETH_TYPE_ARP, ETH_TYPE_IPV4, ETH_TYPE_IPV6, ETH_TYPE_RARP, Match, VLAN_PRESENT, ip_frag};
use crate::oxm::MatchField;
use crate::port::OfPort;

/// Not printed, as in `ovs-ofctl`.
const DEFAULT_PRIORITY: u16 = 0x8000;
const CT_STATES: [&str; 8] = ["new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"];
const TCP_FLAGS: [&str; 12] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]"];

/// What is printed of a match, in this order; the names that `ovs-ofctl` uses are not always those of ovs-fields(7).
const BEFORE_TYPE: &[(Field, &str)] = &[
    (Field::PktMark, "pkt_mark"),
    (Field::ConjId, "conj_id"),
    (Field::ActsetOutput, "actset_output"),
    (Field::CtState, "ct_state"),
    (Field::CtZone, "ct_zone"),
    (Field::CtMark, "ct_mark"),
    (Field::CtLabel, "ct_label"),
    (Field::CtNwSrc, "ct_nw_src"),
    (Field::CtIpv6Src, "ct_ipv6_src"),
    (Field::CtNwDst, "ct_nw_dst"),
    (Field::CtIpv6Dst, "ct_ipv6_dst"),
    (Field::CtNwProto, "ct_nw_proto"),
    (Field::CtTpSrc, "ct_tp_src"),
    (Field::CtTpDst, "ct_tp_dst"),
    (Field::PacketType, "packet_type"),
];
const TUNNEL_AND_PORT: &[(Field, &str)] = &[
    (Field::TunId, "tun_id"),
    (Field::TunSrc, "tun_src"),
    (Field::TunDst, "tun_dst"),
    (Field::TunIpv6Src, "tun_ipv6_src"),
    (Field::TunIpv6Dst, "tun_ipv6_dst"),
    (Field::TunFlags, "tun_flags"),
    (Field::Metadata, "metadata"),
    (Field::InPort, "in_port"),
];
const ETHERNET: &[(Field, &str)] = &[(Field::EthSrc, "dl_src"), (Field::EthDst, "dl_dst")];
const NETWORK: &[(Field, &str)] = &[
    (Field::Ipv6Src, "ipv6_src"),
    (Field::Ipv6Dst, "ipv6_dst"),
    (Field::Ipv6Label, "ipv6_label"),
    (Field::ArpSpa, "arp_spa"),
    (Field::ArpTpa, "arp_tpa"),
    (Field::Ipv4Src, "nw_src"),
    (Field::Ipv4Dst, "nw_dst"),
];
const TRANSPORT: &[(Field, &str)] = &[
    (Field::ArpOp, "arp_op"),
    (Field::ArpSha, "arp_sha"),
    (Field::ArpTha, "arp_tha"),
    (Field::IpDscp, "nw_tos"),
    (Field::IpEcn, "nw_ecn"),
    (Field::IpTtl, "nw_ttl"),
    (Field::IpFrag, "nw_frag"),
    (Field::Icmpv4Type, "icmp_type"),
    (Field::Icmpv4Code, "icmp_code"),
    (Field::Icmpv6Type, "icmp_type"),
    (Field::Icmpv6Code, "icmp_code"),
    (Field::NdTarget, "nd_target"),
    (Field::NdSll, "nd_sll"),
    (Field::NdTll, "nd_tll"),
    (Field::NdReserved, "nd_reserved"),
    (Field::NdOptionsType, "nd_options_type"),
    (Field::TcpSrc, "tp_src"),
    (Field::UdpSrc, "tp_src"),
    (Field::SctpSrc, "tp_src"),
    (Field::TcpDst, "tp_dst"),
    (Field::UdpDst, "tp_dst"),
    (Field::SctpDst, "tp_dst"),
    (Field::TcpFlags, "tcp_flags"),
];

impl Display for OfPort {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            OfPort::IN_PORT => f.write_str("IN_PORT"),
            OfPort::TABLE => f.write_str("TABLE"),
            OfPort::NORMAL => f.write_str("NORMAL"),
            OfPort::FLOOD => f.write_str("FLOOD"),
            OfPort::ALL => f.write_str("ALL"),
            OfPort::CONTROLLER => f.write_str("CONTROLLER"),
            OfPort::LOCAL => f.write_str("LOCAL"),
            OfPort::ANY => f.write_str("ANY"),
            OfPort(number) => write!(f, "{number}"),
        }
    }
}

impl Display for Subfield {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = header_name(self.field);
        let Subfield { offset, bits, .. } = *self;
        match bits {
            _ if offset == 0 && bits == u16::from(self.field.spec().bytes) * 8 => write!(f, "{name}[]"),
            1 => write!(f, "{name}[{offset}]"),
            _ => write!(f, "{name}[{offset}..{}]", offset + bits.max(1) - 1),
        }
    }
}

/// In `move` and the like OVS prints a field's oldest name, here the only one that it prints.
fn header_name(field: Field) -> &'static str {
    field.nxm_name()
}

fn mac(f: &mut Formatter<'_>, value: u128) -> fmt::Result {
    let bytes = value.to_be_bytes();
    bytes[10..].iter().enumerate().try_for_each(|(at, byte)| {
        let colon = if at == 0 { "" } else { ":" };
        write!(f, "{colon}{byte:02x}")
    })
}

/// The prefix length of a mask of `bits` bits that has one.
fn prefix(mask: u128, bits: u32) -> Option<u32> {
    let left = mask << (128 - bits);
    (left.leading_ones() == left.count_ones()).then(|| left.count_ones())
}

fn flags(f: &mut Formatter<'_>, field: &MatchField, names: &[&str], is_whole: bool) -> fmt::Result {
    if is_whole && field.value == 0 {
        return f.write_str("0");
    }
    let shown = if is_whole { field.value } else { field.mask };
    let mut first = true;
    for (bit, name) in names.iter().enumerate().filter(|(bit, _)| shown >> bit & 1 == 1) {
        let set = field.value >> bit & 1 == 1;
        let sign = match (is_whole, first) {
            (true, true) => "",
            (true, false) => "|",
            (false, _) if set => "+",
            (false, _) => "-",
        };
        write!(f, "{sign}{name}")?;
        first = false;
    }
    Ok(())
}

fn fragment(value: u128, mask: u128) -> &'static str {
    let (any, later) = (u128::from(ip_frag::ANY), u128::from(ip_frag::LATER));
    match (mask == any | later, mask == any, value & any != 0, value & later != 0) {
        (true, _, true, true) => "later",
        (true, _, true, false) => "first",
        (true, _, false, false) => "no",
        (true, _, false, true) => "<error>",
        (_, true, true, _) => "yes",
        (_, true, false, _) => "no",
        (_, _, _, true) => "later",
        (_, _, _, false) => "not_later",
    }
}

/// A value as in `set_field:VALUE->field`.
pub(crate) fn write_value(f: &mut Formatter<'_>, field: &MatchField) -> fmt::Result {
    let MatchField { value, mask, .. } = *field;
    let is_exact = field.is_exact();
    match field.field.spec().format {
        Format::Port if field.field == Field::InPortShort => write!(f, "{}", OfPort::from_u16(value as u16)),
        Format::Port => write!(f, "{}", OfPort(value as u32)),
        Format::CtState => flags(f, field, &CT_STATES, false),
        Format::TcpFlags => flags(f, field, &TCP_FLAGS, is_exact),
        Format::TunnelFlags => flags(f, field, &["oam"], is_exact),
        Format::Fragment => f.write_str(fragment(value, mask)),
        Format::PacketType => write!(f, "({},{:#x})", value >> 16, value & 0xffff),
        Format::Mac => {
            mac(f, value)?;
            if is_exact { Ok(()) } else { f.write_str("/").and_then(|()| mac(f, mask)) }
        }
        Format::Ipv4 => {
            write!(f, "{}", Ipv4Addr::from(value as u32))?;
            match prefix(mask, 32) {
                _ if is_exact => Ok(()),
                Some(prefix) => write!(f, "/{prefix}"),
                None => write!(f, "/{}", Ipv4Addr::from(mask as u32)),
            }
        }
        Format::Ipv6 => {
            write!(f, "{}", Ipv6Addr::from(value))?;
            match prefix(mask, 128) {
                _ if is_exact => Ok(()),
                Some(prefix) => write!(f, "/{prefix}"),
                None => write!(f, "/{}", Ipv6Addr::from(mask)),
            }
        }
        Format::Decimal if is_exact => write!(f, "{value}"),
        Format::Decimal => write!(f, "{value}/{mask:#x}"),
        Format::Hex => c_hex(f, field),
    }
}

struct Value<'a>(&'a MatchField);

impl Display for Value<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let field = self.0;
        let MatchField { value, mask, .. } = *field;
        let is_exact = field.is_exact();
        match field.field {
            Field::CtState if is_exact => flags(f, field, &CT_STATES, true),
            Field::CtZone => write!(f, "{value}"),
            Field::IpDscp => write!(f, "{}", value << 2),
            Field::TunFlags => flags(f, field, &["oam"], false),
            Field::Ipv6Label if is_exact => write!(f, "{value:#07x}"),
            Field::Ipv6Label => write!(f, "{value:#07x}/{mask:#07x}"),
            _ if field.field.spec().format == Format::Decimal && !is_exact => write!(f, "{value:#x}/{mask:#x}"),
            _ => write_value(f, field),
        }
    }
}

/// As C's `%#x`, which prints a zero without `0x`.
fn c_hex(f: &mut Formatter<'_>, field: &MatchField) -> fmt::Result {
    match field.value {
        0 => f.write_str("0")?,
        value => write!(f, "{value:#x}")?,
    }
    if field.is_exact() { Ok(()) } else { write!(f, "/{:#x}", field.mask) }
}

impl Match {
    /// The short word for Ethernet type and IP protocol, and whether it says the protocol too.
    fn type_word(&self) -> Option<(&'static str, bool)> {
        let eth_type = u16::try_from(self.exact(Field::EthType)?).ok()?;
        let proto = self.exact(Field::IpProto);
        Some(match (eth_type, proto) {
            (ETH_TYPE_IPV4, Some(1)) => ("icmp", true),
            (ETH_TYPE_IPV4, Some(6)) => ("tcp", true),
            (ETH_TYPE_IPV4, Some(17)) => ("udp", true),
            (ETH_TYPE_IPV4, Some(132)) => ("sctp", true),
            (ETH_TYPE_IPV4, _) => ("ip", false),
            (ETH_TYPE_IPV6, Some(58)) => ("icmp6", true),
            (ETH_TYPE_IPV6, Some(6)) => ("tcp6", true),
            (ETH_TYPE_IPV6, Some(17)) => ("udp6", true),
            (ETH_TYPE_IPV6, Some(132)) => ("sctp6", true),
            (ETH_TYPE_IPV6, _) => ("ipv6", false),
            (ETH_TYPE_ARP, _) => ("arp", false),
            (ETH_TYPE_RARP, _) => ("rarp", false),
            _ => return None,
        })
    }

    fn vlan_words(&self) -> Vec<String> {
        let Some(vid) = self.get(Field::VlanVid) else { return vec![] };
        let pcp = self.exact(Field::VlanPcp);
        let present = u128::from(VLAN_PRESENT);
        let (vid_mask, has_tag) = (vid.mask & 0xfff, vid.value & vid.mask & present != 0);
        let plain = has_tag && (vid_mask == 0 || vid_mask == 0xfff) && (vid_mask != 0 || pcp.is_some());
        if plain {
            let vid = (vid_mask != 0).then(|| format!("dl_vlan={}", vid.value & 0xfff));
            return vid.into_iter().chain(pcp.map(|pcp| format!("dl_vlan_pcp={pcp}"))).collect();
        }
        let value = vid.value | pcp.unwrap_or(0) << 13;
        let mask = vid.mask | if pcp.is_some() { 0xe000 } else { 0 };
        vec![format!("vlan_tci={value:#06x}/{mask:#06x}")]
    }

    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let add = |words: &mut Vec<String>, list: &[(Field, &str)]| {
            let found = list.iter().filter_map(|(field, name)| Some((self.get(*field)?, name)));
            words.extend(found.map(|(field, name)| format!("{name}={}", Value(field))));
        };
        add(&mut words, BEFORE_TYPE);
        let type_word = self.type_word();
        words.extend(type_word.map(|(word, _)| word.to_owned()));
        for register in (0..16).filter_map(Field::reg) {
            add(&mut words, &[(register, register.name())]);
        }
        add(&mut words, TUNNEL_AND_PORT);
        words.extend(self.vlan_words());
        add(&mut words, ETHERNET);
        if let (None, Some(eth_type)) = (type_word, self.get(Field::EthType)) {
            words.push(format!("dl_type={:#06x}", eth_type.value));
        }
        add(&mut words, NETWORK);
        if let (Some((_, false)), Some(proto)) = (type_word, self.get(Field::IpProto)) {
            words.push(format!("nw_proto={}", proto.value));
        }
        add(&mut words, TRANSPORT);
        words.extend(self.unknown().iter().map(|raw| format!("oxm({:#06x},{})", raw.class, raw.field_and_mask >> 1)));
        words
    }
}

/// As in `ovs-ofctl dump-flows`, without the priority. The match of every packet prints as nothing.
impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(","))
    }
}

impl Display for Instructions {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        if let Some(meter) = self.meter {
            write!(f, "meter:{meter}")?;
            comma = ",";
        }
        if !self.apply.is_empty() {
            f.write_str(comma)?;
            write_list(f, &self.apply)?;
            comma = ",";
        }
        if self.clear {
            write!(f, "{comma}clear_actions")?;
            comma = ",";
        }
        if !self.write.is_empty() {
            write!(f, "{comma}write_actions(")?;
            write_list(f, &self.write)?;
            f.write_str(")")?;
            comma = ",";
        }
        if let Some((value, mask)) = self.metadata {
            write!(f, "{comma}write_metadata:")?;
            if value == 0 {
                f.write_str("0")?
            } else {
                write!(f, "{value:#x}")?
            }
            if mask != u64::MAX {
                write!(f, "/{mask:#x}")?;
            }
            comma = ",";
        }
        if let Some(table) = self.goto_table {
            write!(f, "{comma}goto_table:{table}")?;
            comma = ",";
        }
        if !self.unknown.is_empty() {
            write!(f, "{comma}unknown_instructions({})", self.unknown.len())?;
            comma = ",";
        }
        if comma.is_empty() { f.write_str("drop") } else { Ok(()) }
    }
}

/// As `ovs-ofctl --no-names --no-stats dump-flows`.
impl Display for InstalledFlow {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.cookie != 0 {
            write!(f, "cookie={:#x}, ", self.cookie)?;
        }
        if self.table != 0 {
            write!(f, "table={}, ", self.table)?;
        }
        if self.idle_timeout_secs != 0 {
            write!(f, "idle_timeout={}, ", self.idle_timeout_secs)?;
        }
        if self.hard_timeout_secs != 0 {
            write!(f, "hard_timeout={}, ", self.hard_timeout_secs)?;
        }
        let names = [
            (flow_flags::SEND_FLOW_REMOVED, "send_flow_rem"),
            (flow_flags::CHECK_OVERLAP, "check_overlap"),
            (flow_flags::RESET_COUNTS, "reset_counts"),
            (flow_flags::NO_PACKET_COUNTS, "no_packet_counts"),
            (flow_flags::NO_BYTE_COUNTS, "no_byte_counts"),
        ];
        for (_, name) in names.iter().filter(|(flag, _)| self.flags & flag != 0) {
            write!(f, "{name} ")?;
        }
        if self.importance != 0 {
            write!(f, "importance={}, ", self.importance)?;
        }
        let mut words = self.matching.words();
        if self.priority != DEFAULT_PRIORITY {
            words.insert(0, format!("priority={}", self.priority));
        }
        let space = if words.is_empty() { "" } else { " " };
        write!(f, "{}{space}actions={}", words.join(","), self.instructions)
    }
}

/// As `ovs-ofctl --no-names dump-groups`.
impl Display for InstalledGroup {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            GroupKind::All => "all",
            GroupKind::Select => "select",
            GroupKind::Indirect => "indirect",
            GroupKind::FastFailover => "ff",
        };
        write!(f, "group_id={},type={kind}", self.id)?;
        if let Some(selection) = &self.selection {
            write!(f, ",selection_method={}", selection.method)?;
            if selection.param != 0 {
                write!(f, ",selection_method_param={}", selection.param)?;
            }
            let fields = selection.fields.fields().iter().map(|field| field.field);
            // OVS names a packet's metadata before its headers.
            let (headers, metadata): (Vec<_>, Vec<_>) = fields.partition(|field| (Field::EthSrc..=Field::ArpTha).contains(field));
            let names: Vec<_> = metadata.iter().chain(&headers).map(|field| field.name()).collect();
            match names.len() {
                0 => {}
                1 => write!(f, ",fields={}", names[0])?,
                _ => write!(f, ",fields({})", names.join(","))?,
            }
        }
        for bucket in &self.buckets {
            write!(f, ",bucket=bucket_id:{},", bucket.id)?;
            let usual = if self.kind == GroupKind::Select { 1 } else { 0 };
            if let Some(weight) = bucket.weight.filter(|weight| *weight != usual) {
                write!(f, "weight:{weight},")?;
            }
            if let Some(port) = bucket.watch_port {
                write!(f, "watch_port:{port},")?;
            }
            if let Some(group) = bucket.watch_group {
                write!(f, "watch_group:{group},")?;
            }
            f.write_str("actions=")?;
            write_list(f, &bucket.actions)?;
        }
        Ok(())
    }
}
