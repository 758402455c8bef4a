//! A match: which packets a flow is for, in one canonical form.
//!
//! Open vSwitch gives a match back in other words than it got: it adds a packet type, joins registers to 64-bit ones,
//! and forgets what it does not look at. Both what is sent and what is read back therefore go through the same
//! canonical form, so that equal meaning is equal value: fields sorted, 64 and 128-bit registers as 32-bit ones, no
//! masked-out value bits, no empty masks, prerequisites present.

use crate::error::{DecodeError, EncodeError, MatchError};
use crate::field::{Field, Prerequisite};
use crate::oxm::{self, MatchField, Oxm, RawOxm};
use crate::wire::{Reader, pad_to_8, patch_u16, put_u16};

pub const ETH_TYPE_IPV4: u16 = 0x0800;
pub const ETH_TYPE_ARP: u16 = 0x0806;
pub const ETH_TYPE_RARP: u16 = 0x8035;
pub const ETH_TYPE_IPV6: u16 = 0x86dd;
/// In `vlan_vid`: the packet has a VLAN tag (OFPVID_PRESENT).
pub const VLAN_PRESENT: u16 = 0x1000;

const MATCH_TYPE_OXM: u16 = 1;
const ND_SOLICIT: u128 = 135;
const ND_ADVERT: u128 = 136;

/// Bits of `ct_state`, as in ovs-fields(7).
pub mod ct_state {
    pub const NEW: u32 = 0x01;
    pub const EST: u32 = 0x02;
    pub const REL: u32 = 0x04;
    pub const RPL: u32 = 0x08;
    pub const INV: u32 = 0x10;
    pub const TRK: u32 = 0x20;
    pub const SNAT: u32 = 0x40;
    pub const DNAT: u32 = 0x80;
}

/// Bits of `ip_frag`, as in ovs-fields(7).
pub mod ip_frag {
    /// The packet is a fragment.
    pub const ANY: u8 = 1;
    /// The packet is a fragment with an offset above zero.
    pub const LATER: u8 = 2;
}

/// A canonical set of match fields. The empty match fits every packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Match {
    fields: Vec<MatchField>,
    unknown: Vec<RawOxm>,
}

impl Match {
    /// Every packet.
    pub fn any() -> Self {
        Self::default()
    }

    /// The canonical match of `fields`: masks applied, duplicates merged, prerequisites added.
    ///
    /// # Errors
    /// When two fields contradict each other, when a prerequisite is ambiguous (`tcp_dst` of IPv4 or of IPv6?), when
    /// a value is wider than its field, or when a mask is put on a field that has none.
    pub fn new(fields: impl IntoIterator<Item = MatchField>) -> Result<Self, MatchError> {
        let mut result = Match::default();
        for field in fields {
            check(&field)?;
            for part in parts(field)?.into_iter().filter(|part| part.mask != 0) {
                result.merge(part)?;
            }
        }
        // Prerequisites may have prerequisites (nd_sll needs icmpv6_type, which needs nw_proto).
        let mut todo: Vec<Field> = result.fields.iter().map(|field| field.field).collect();
        while let Some(field) = todo.pop() {
            for needed in result.required_by(field)? {
                if result.get(needed.field).is_none() {
                    todo.push(needed.field);
                }
                result.merge(needed)?;
            }
        }
        result.fields.retain(|field| !is_default_packet_type(field));
        Ok(result)
    }

    pub fn fields(&self) -> &[MatchField] {
        &self.fields
    }

    /// Fields that this crate has no name for, in the order received.
    pub fn unknown(&self) -> &[RawOxm] {
        &self.unknown
    }

    pub fn get(&self, field: Field) -> Option<&MatchField> {
        self.fields.binary_search_by_key(&field, |known| known.field).ok().map(|at| &self.fields[at])
    }

    /// The value of `field` where it is matched exactly.
    pub fn exact(&self, field: Field) -> Option<u128> {
        self.get(field).filter(|found| found.is_exact()).map(|found| found.value)
    }

    pub fn is_any(&self) -> bool {
        self.fields.is_empty() && self.unknown.is_empty()
    }

    fn merge(&mut self, new: MatchField) -> Result<(), MatchError> {
        match self.fields.binary_search_by_key(&new.field, |known| known.field) {
            Err(at) => self.fields.insert(at, new),
            Ok(at) => {
                let old = &mut self.fields[at];
                let common = old.mask & new.mask;
                if old.value & common != new.value & common {
                    let (wanted, found) = (new.value, old.value);
                    return Err(MatchError::Conflict { field: new.field.name(), wanted, found });
                }
                old.value |= new.value;
                old.mask |= new.mask;
            }
        }
        Ok(())
    }

    /// What must also be matched before `field` can be.
    fn required_by(&self, field: Field) -> Result<Vec<MatchField>, MatchError> {
        let eth = |value: u16| Field::EthType.is(value);
        let missing = |needs| Err(MatchError::MissingPrerequisite { field: field.name(), needs });
        let transport = |proto: u8| match self.is_ip() {
            true => Ok(vec![Field::IpProto.is(proto)]),
            false => missing("eth_type of IPv4 or IPv6"),
        };
        match field.spec().prerequisite {
            Prerequisite::None => Ok(vec![]),
            Prerequisite::Arp if self.exact(Field::EthType) == Some(ETH_TYPE_RARP.into()) => Ok(vec![]),
            Prerequisite::Arp => Ok(vec![eth(ETH_TYPE_ARP)]),
            Prerequisite::Ipv4 => Ok(vec![eth(ETH_TYPE_IPV4)]),
            Prerequisite::Ipv6 => Ok(vec![eth(ETH_TYPE_IPV6)]),
            Prerequisite::Ip if self.is_ip() || self.has_family() => Ok(vec![]),
            Prerequisite::Ip => missing("eth_type of IPv4 or IPv6"),
            Prerequisite::Tcp => transport(6),
            Prerequisite::Udp => transport(17),
            Prerequisite::Sctp => transport(132),
            Prerequisite::Icmpv4 => Ok(vec![eth(ETH_TYPE_IPV4), Field::IpProto.is(1u8)]),
            Prerequisite::Icmpv6 => Ok(vec![eth(ETH_TYPE_IPV6), Field::IpProto.is(58u8)]),
            Prerequisite::NeighbourSolicitation => Ok(vec![Field::Icmpv6Type.is(ND_SOLICIT)]),
            Prerequisite::NeighbourAdvertisement => Ok(vec![Field::Icmpv6Type.is(ND_ADVERT)]),
            Prerequisite::NeighbourDiscovery if self.is_neighbour_discovery() => Ok(vec![]),
            Prerequisite::NeighbourDiscovery => missing("icmpv6_type 135 or 136"),
            Prerequisite::Vlan if self.has_vlan() => Ok(vec![]),
            Prerequisite::Vlan => missing("vlan_vid with the present bit"),
            Prerequisite::ValidConnection if self.is_valid_connection() => Ok(vec![]),
            Prerequisite::ValidConnection => missing("a ct_state that only valid connections have"),
        }
    }

    fn is_ip(&self) -> bool {
        let found = self.exact(Field::EthType);
        found == Some(ETH_TYPE_IPV4.into()) || found == Some(ETH_TYPE_IPV6.into()) || self.has_family()
    }

    /// Whether some other field already says IPv4 or IPv6 (its prerequisite is added in the same pass).
    fn has_family(&self) -> bool {
        self.fields.iter().any(|known| {
            use Prerequisite::*;
            let prerequisite = known.field.spec().prerequisite;
            matches!(prerequisite, Ipv4 | Ipv6 | Icmpv4 | Icmpv6 | NeighbourDiscovery | NeighbourSolicitation | NeighbourAdvertisement)
        })
    }

    fn has_vlan(&self) -> bool {
        self.get(Field::VlanVid).is_some_and(|vlan| vlan.value & u128::from(VLAN_PRESENT) != 0)
    }

    fn is_neighbour_discovery(&self) -> bool {
        let explicit = matches!(self.exact(Field::Icmpv6Type), Some(ND_SOLICIT | ND_ADVERT));
        explicit || self.get(Field::NdSll).is_some() || self.get(Field::NdTll).is_some()
    }

    fn is_valid_connection(&self) -> bool {
        use ct_state::*;
        self.get(Field::CtState).is_some_and(|state| {
            let set = state.value as u32;
            let clear = state.mask as u32 & !set;
            set & (NEW | EST | REL | RPL | SNAT | DNAT) != 0 || (set & TRK != 0 && clear & INV != 0)
        })
    }

    /// The canonical form of what a switch sent: nothing is added, only put in order.
    pub(crate) fn from_wire(oxms: impl IntoIterator<Item = Oxm>) -> Result<Self, DecodeError> {
        let mut result = Match::default();
        for oxm in oxms {
            match oxm {
                Oxm::Unknown(raw) => result.unknown.push(raw),
                Oxm::Known(field) => {
                    let bad = |_| DecodeError::BadValue { what: "match field", value: field.value as u64 };
                    for part in parts(field).map_err(bad)? {
                        result.merge(part).map_err(bad)?;
                    }
                }
            }
        }
        result.fields.retain(|field| field.mask != 0 && !is_default_packet_type(field));
        Ok(result)
    }

    /// Bare TLVs, as in a packet-in's metadata.
    pub(crate) fn decode_fields(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let mut oxms = Vec::new();
        while !reader.is_empty() {
            oxms.push(oxm::decode(&mut reader)?);
        }
        Self::from_wire(oxms)
    }

    /// An `ofp_match` with its padding.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = reader.u16()?;
        let length = usize::from(reader.u16()?);
        if kind != MATCH_TYPE_OXM {
            return Err(DecodeError::BadValue { what: "match type", value: kind.into() });
        }
        let Some(content) = length.checked_sub(4) else {
            return Err(DecodeError::BadLength { what: "match", length });
        };
        let result = Self::decode_fields(reader.sub(content, "match")?)?;
        reader.skip(length.next_multiple_of(8) - length)?;
        Ok(result)
    }

    pub(crate) fn encode_fields(&self, out: &mut Vec<u8>) {
        for field in &self.fields {
            oxm::encode(field, out);
        }
        for raw in &self.unknown {
            oxm::encode_raw(raw, out);
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        put_u16(out, MATCH_TYPE_OXM);
        put_u16(out, 0);
        self.encode_fields(out);
        let length = out.len() - start;
        patch_u16(out, start + 2, length, "match")?;
        pad_to_8(out, start);
        Ok(())
    }
}

fn check(field: &MatchField) -> Result<(), MatchError> {
    let (spec, full) = (field.field.spec(), field.field.full_mask());
    let value = if field.mask & !full != 0 { field.mask } else { field.value };
    if value & !full != 0 {
        return Err(MatchError::TooWide { field: spec.name, bits: spec.bits, value });
    }
    if !spec.is_maskable && field.mask != full {
        return Err(MatchError::NotMaskable(spec.name));
    }
    Ok(())
}

/// Fields that are the same bits under another name, in the name used here.
fn parts(field: MatchField) -> Result<Vec<MatchField>, MatchError> {
    let field = field.normal();
    match field.field {
        Field::VlanTci => vlan_parts(field),
        // Older switches number ports in 16 bits; reserved ones are at the top of either range.
        Field::InPortShort => Ok(vec![Field::InPort.is(crate::OfPort::from_u16(field.value as u16).0)]),
        wide => match first_register(wide) {
            Some((first, count)) => Ok(register_parts(field, first, count)),
            None => Ok(vec![field]),
        },
    }
}

/// The first 32-bit register of a wider one, and how many it covers.
fn first_register(field: Field) -> Option<(u8, u8)> {
    let number = field as u8;
    let (xreg, xxreg, end) = (Field::XReg0 as u8, Field::XxReg0 as u8, Field::XxReg3 as u8);
    match number {
        _ if number < xreg || number > end => None,
        _ if number < xxreg => Some(((number - xreg) * 2, 2)),
        _ => Some(((number - xxreg) * 4, 4)),
    }
}

fn register_parts(field: MatchField, first: u8, count: u8) -> Vec<MatchField> {
    let part = |index: u8| {
        let shift = u32::from(count - 1 - index) * 32;
        let register = Field::reg(first + index).expect("the wide registers cover exactly the 16 narrow ones");
        register.masked((field.value >> shift) as u32, (field.mask >> shift) as u32)
    };
    (0..count).map(part).filter(|part| part.mask != 0).collect()
}

fn vlan_parts(field: MatchField) -> Result<Vec<MatchField>, MatchError> {
    let mut result = vec![Field::VlanVid.masked(field.value & 0x1fff, field.mask & 0x1fff)];
    match (field.mask >> 13, field.value & u128::from(VLAN_PRESENT) != 0) {
        (0, _) | (_, false) => {}
        (7, true) => result.push(Field::VlanPcp.is(field.value >> 13)),
        (_, true) => return Err(MatchError::NotMaskable("vlan_pcp")),
    }
    Ok(result)
}

/// OVS states "an Ethernet packet" where nothing else implies it; that is every packet here.
fn is_default_packet_type(field: &MatchField) -> bool {
    field.field == Field::PacketType && field.value == 0
}
