//! Meters: how many packets a second something may take (OFPT_METER_MOD, OFPMP_METER_DESC).
//!
//! Ladon uses one kind: packets a second with a burst, of which those beyond are dropped. Others are kept as the bytes that
//! their bands are, so that they can be told apart from it.

use crate::error::{DecodeError, EncodeError};
use crate::wire::{Reader, patch_u16, put_u16, put_u32, put_zeros};

/// All meters, in a question or a delete.
pub const METER_ALL: u32 = 0xffff_ffff;

const PACKETS: u16 = 1 << 1;
const BURST: u16 = 1 << 2;
const DROP: u16 = 1;
const BAND_LEN: u16 = 16;

/// What is done with a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MeterCommand {
    Add,
    Modify,
    Delete,
}

/// A meter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Meter {
    /// 1 to 0xffff0000.
    pub id: u32,
    flags: u16,
    /// The bands, as on the wire.
    bands: Vec<u8>,
}

/// A change of a meter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MeterMod {
    pub command: MeterCommand,
    pub meter: Meter,
}

impl Meter {
    /// Lets `rate` packets a second pass, and `burst` at once after a silence.
    pub fn packets(id: u32, rate: u32, burst: u32) -> Meter {
        let mut bands = Vec::with_capacity(BAND_LEN.into());
        put_u16(&mut bands, DROP);
        put_u16(&mut bands, BAND_LEN);
        put_u32(&mut bands, rate);
        put_u32(&mut bands, burst);
        put_zeros(&mut bands, 4);
        Meter { id, flags: PACKETS | BURST, bands }
    }

    /// An entry of an answer: length, flags, number, bands.
    pub(crate) fn decode_entry(reader: &mut Reader<'_>) -> Result<Meter, DecodeError> {
        let mut entry = reader.element(0, 8, "meter")?;
        entry.skip(2)?;
        let (flags, id) = (entry.u16()?, entry.u32()?);
        Ok(Meter { id, flags, bands: entry.rest().to_vec() })
    }

    pub(crate) fn encode_entry(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        put_u16(out, 0);
        put_u16(out, self.flags);
        put_u32(out, self.id);
        out.extend_from_slice(&self.bands);
        let length = out.len() - start;
        patch_u16(out, start, length, "meter")
    }
}

impl MeterMod {
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<MeterMod, DecodeError> {
        let command = match reader.u16()? {
            0 => MeterCommand::Add,
            1 => MeterCommand::Modify,
            2 => MeterCommand::Delete,
            value => return Err(DecodeError::BadValue { what: "meter command", value: value.into() }),
        };
        let (flags, id) = (reader.u16()?, reader.u32()?);
        Ok(MeterMod { command, meter: Meter { id, flags, bands: reader.rest().to_vec() } })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u16(out, self.command as u16);
        put_u16(out, self.meter.flags);
        put_u32(out, self.meter.id);
        out.extend_from_slice(&self.meter.bands);
    }
}
