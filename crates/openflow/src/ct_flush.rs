//! Forgetting connections (NXT_CT_FLUSH, NXT_CT_FLUSH_ZONE).

use std::net::{IpAddr, Ipv6Addr};

use crate::error::{DecodeError, EncodeError};
use crate::wire::{Reader, put_property, put_zeros};

mod property {
    pub const ORIGINAL: u16 = 0;
    pub const REPLY: u16 = 1;
    pub const ZONE: u16 = 2;
    pub const SRC: u16 = 0;
    pub const DST: u16 = 1;
    pub const SRC_PORT: u16 = 2;
    pub const DST_PORT: u16 = 3;
    pub const ICMP_ID: u16 = 4;
    pub const ICMP_TYPE: u16 = 5;
    pub const ICMP_CODE: u16 = 6;
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// One direction of a connection; what is `None` fits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CtTuple {
    pub src: Option<IpAddr>,
    pub dst: Option<IpAddr>,
    pub ports: CtPorts,
}

/// What tells apart the connections between two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CtPorts {
    Ports { src: Option<u16>, dst: Option<u16> },
    Icmp { id: u16, kind: u8, code: u8 },
}

impl Default for CtPorts {
    fn default() -> Self {
        CtPorts::Ports { src: None, dst: None }
    }
}

/// Forget the connections that fit.
///
/// A protocol of 0 fits all. OVS 3.1 takes ports only with a protocol, and ICMP numbers only with both addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CtFlush {
    pub protocol: u8,
    pub zone: Option<u16>,
    pub original: CtTuple,
    pub reply: CtTuple,
}

impl CtFlush {
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let protocol = reader.u8()?;
        reader.skip(7)?;
        let mut flush = CtFlush { protocol, ..CtFlush::default() };
        while !reader.is_empty() {
            let (kind, mut payload) = reader.property()?;
            match kind {
                property::ORIGINAL => flush.original = CtTuple::decode(payload)?,
                property::REPLY => flush.reply = CtTuple::decode(payload)?,
                property::ZONE => flush.zone = Some(payload.u16()?),
                value => return Err(DecodeError::BadValue { what: "ct flush property", value: value.into() }),
            }
        }
        Ok(flush)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(self.protocol);
        put_zeros(out, 7);
        self.original.encode(property::ORIGINAL, self.protocol, out)?;
        self.reply.encode(property::REPLY, self.protocol, out)?;
        if let Some(zone) = self.zone {
            put_property(out, property::ZONE, &zone.to_be_bytes())?;
        }
        Ok(())
    }
}

impl CtTuple {
    fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        reader.skip(4)?;
        let mut tuple = CtTuple::default();
        let (mut ports, mut icmp) = ((None, None), None);
        while !reader.is_empty() {
            let (kind, mut payload) = reader.property()?;
            let (id, icmp_kind, code) = icmp.unwrap_or((0, 0, 0));
            match kind {
                property::SRC => tuple.src = Some(from_mapped(payload.array()?)),
                property::DST => tuple.dst = Some(from_mapped(payload.array()?)),
                property::SRC_PORT => ports.0 = Some(payload.u16()?),
                property::DST_PORT => ports.1 = Some(payload.u16()?),
                property::ICMP_ID => icmp = Some((payload.u16()?, icmp_kind, code)),
                property::ICMP_TYPE => icmp = Some((id, payload.u8()?, code)),
                property::ICMP_CODE => icmp = Some((id, icmp_kind, payload.u8()?)),
                value => return Err(DecodeError::BadValue { what: "ct tuple property", value: value.into() }),
            }
        }
        tuple.ports = match icmp {
            Some((id, kind, code)) => CtPorts::Icmp { id, kind, code },
            None => CtPorts::Ports { src: ports.0, dst: ports.1 },
        };
        Ok(tuple)
    }

    fn encode(&self, kind: u16, protocol: u8, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut nested = vec![0; 4];
        if let Some(src) = self.src {
            put_property(&mut nested, property::SRC, &to_mapped(src))?;
        }
        if let Some(dst) = self.dst {
            put_property(&mut nested, property::DST, &to_mapped(dst))?;
        }
        let is_icmp = protocol == ICMP || protocol == ICMPV6;
        match self.ports {
            CtPorts::Ports { src, dst } => {
                if let Some(src) = src {
                    put_property(&mut nested, property::SRC_PORT, &src.to_be_bytes())?;
                }
                if let Some(dst) = dst {
                    put_property(&mut nested, property::DST_PORT, &dst.to_be_bytes())?;
                }
            }
            CtPorts::Icmp { .. } if !is_icmp => {
                return Err(EncodeError::Invalid { what: "ct flush", reason: "ICMP numbers of another protocol" });
            }
            CtPorts::Icmp { id, kind, code } => {
                put_property(&mut nested, property::ICMP_ID, &id.to_be_bytes())?;
                put_property(&mut nested, property::ICMP_TYPE, &[kind])?;
                put_property(&mut nested, property::ICMP_CODE, &[code])?;
            }
        }
        if nested.len() > 4 { put_property(out, kind, &nested) } else { Ok(()) }
    }
}

fn to_mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn from_mapped(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}
