//! Port numbers and ports' descriptions.

use crate::error::{DecodeError, EncodeError};
use crate::wire::{Reader, patch_u16, put_text, put_u16, put_u32, put_zeros, text};

const NAME_SIZE: usize = 16;
/// A port without its properties.
const FIXED: usize = 40;

/// An OpenFlow port number: 1 to 0xffff_feff are ports, above are reserved meanings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfPort(pub u32);

impl OfPort {
    pub const MAX: OfPort = OfPort(0xffff_ff00);
    pub const IN_PORT: OfPort = OfPort(0xffff_fff8);
    pub const TABLE: OfPort = OfPort(0xffff_fff9);
    pub const NORMAL: OfPort = OfPort(0xffff_fffa);
    pub const FLOOD: OfPort = OfPort(0xffff_fffb);
    pub const ALL: OfPort = OfPort(0xffff_fffc);
    pub const CONTROLLER: OfPort = OfPort(0xffff_fffd);
    pub const LOCAL: OfPort = OfPort(0xffff_fffe);
    pub const ANY: OfPort = OfPort(0xffff_ffff);

    /// From the 16 bits of OpenFlow 1.0, which some of Nicira's actions still use.
    pub fn from_u16(port: u16) -> Self {
        if port >= 0xff00 { OfPort(0xffff_0000 | u32::from(port)) } else { OfPort(port.into()) }
    }

    /// To the 16 bits of OpenFlow 1.0. Open vSwitch has no port numbers that do not fit.
    pub fn to_u16(self) -> Option<u16> {
        match self.0 {
            port @ 0..0xff00 => Some(port as u16),
            port @ 0xffff_ff00.. => Some(port as u16),
            _ => None,
        }
    }

    pub fn is_reserved(self) -> bool {
        self >= Self::MAX
    }
}

/// Bits of [`Port::state`].
pub mod port_state {
    pub const LINK_DOWN: u32 = 1;
    pub const BLOCKED: u32 = 2;
    pub const LIVE: u32 = 4;
}

/// Bits of [`Port::config`].
pub mod port_config {
    pub const PORT_DOWN: u32 = 1;
    pub const NO_RECV: u32 = 4;
    pub const NO_FWD: u32 = 0x20;
    pub const NO_PACKET_IN: u32 = 0x40;
}

/// A port as the switch describes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    pub number: OfPort,
    pub mac: [u8; 6],
    /// Cut to 15 bytes by the protocol: read the Interface row for longer names.
    pub name: String,
    pub config: u32,
    pub state: u32,
    /// Speeds and features, not interpreted.
    pub properties: Vec<u8>,
}

impl Port {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut entry = reader.element(4, FIXED, "port")?;
        let number = OfPort(entry.u32()?);
        entry.skip(4)?;
        let mac = entry.array()?;
        entry.skip(2)?;
        let name = text(entry.take(NAME_SIZE)?);
        let (config, state) = (entry.u32()?, entry.u32()?);
        Ok(Port { number, mac, name, config, state, properties: entry.rest().to_vec() })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        put_u32(out, self.number.0);
        put_u16(out, 0);
        put_zeros(out, 2);
        out.extend_from_slice(&self.mac);
        put_zeros(out, 2);
        put_text(out, &self.name, NAME_SIZE);
        put_u32(out, self.config);
        put_u32(out, self.state);
        out.extend_from_slice(&self.properties);
        let length = out.len() - start;
        patch_u16(out, start + 4, length, "port")
    }
}
