//! Questions whose answers may take several messages (OFPT_MULTIPART_*), and how to join those.

use crate::error::{DecodeError, EncodeError};
use crate::flow::{FlowStats, GROUP_ANY, InstalledFlow, TABLE_ALL};
use crate::group::{GROUP_ALL, InstalledGroup};
use crate::matching::Match;
use crate::meter::{METER_ALL, Meter};
use crate::monitor::{FlowUpdate, MonitorRequest};
use crate::port::{OfPort, Port};
use crate::wire::{Reader, patch_u16, put_text, put_u16, put_u32, put_u64, put_zeros, text};

mod kind {
    pub const DESC: u16 = 0;
    pub const FLOW: u16 = 1;
    pub const AGGREGATE: u16 = 2;
    pub const TABLE: u16 = 3;
    pub const GROUP_DESC: u16 = 7;
    pub const METER_DESC: u16 = 10;
    pub const PORT_DESC: u16 = 13;
    pub const TABLE_DESC: u16 = 14;
    pub const FLOW_MONITOR: u16 = 16;
}

const MORE: u16 = 1;
const DESC_SIZE: usize = 256;
const SERIAL_SIZE: usize = 32;

/// Which flows are asked about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlowFilter {
    pub table: u8,
    pub out_port: OfPort,
    pub out_group: u32,
    pub cookie: u64,
    pub cookie_mask: u64,
    pub matching: Match,
}

impl FlowFilter {
    /// All flows.
    pub fn all() -> Self {
        FlowFilter { table: TABLE_ALL, out_port: OfPort::ANY, out_group: GROUP_ANY, cookie: 0, cookie_mask: 0, matching: Match::any() }
    }

    fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let table = reader.u8()?;
        reader.skip(3)?;
        let (out_port, out_group) = (OfPort(reader.u32()?), reader.u32()?);
        reader.skip(4)?;
        let (cookie, cookie_mask) = (reader.u64()?, reader.u64()?);
        let matching = Match::decode(&mut reader)?;
        Ok(FlowFilter { table, out_port, out_group, cookie, cookie_mask, matching })
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&[self.table, 0, 0, 0]);
        put_u32(out, self.out_port.0);
        put_u32(out, self.out_group);
        put_zeros(out, 4);
        put_u64(out, self.cookie);
        put_u64(out, self.cookie_mask);
        self.matching.encode(out)
    }
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MultipartRequest {
    Description,
    Flows(FlowFilter),
    Aggregate(FlowFilter),
    /// The group with this number, or [`GROUP_ALL`].
    Groups(u32),
    /// The meter with this number, or [`METER_ALL`].
    Meters(u32),
    /// The port with this number, or [`OfPort::ANY`].
    Ports(OfPort),
    Tables,
    TableStats,
    FlowMonitor(Vec<MonitorRequest>),
    Unknown {
        kind: u16,
        flags: u16,
        body: Vec<u8>,
    },
}

impl MultipartRequest {
    pub fn all_groups() -> Self {
        MultipartRequest::Groups(GROUP_ALL)
    }

    pub fn all_meters() -> Self {
        MultipartRequest::Meters(METER_ALL)
    }

    pub fn all_flows() -> Self {
        MultipartRequest::Flows(FlowFilter::all())
    }

    pub fn all_ports() -> Self {
        MultipartRequest::Ports(OfPort::ANY)
    }

    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let (kind, flags) = (reader.u16()?, reader.u16()?);
        reader.skip(4)?;
        Ok(match kind {
            kind::DESC => MultipartRequest::Description,
            kind::FLOW => MultipartRequest::Flows(FlowFilter::decode(reader)?),
            kind::AGGREGATE => MultipartRequest::Aggregate(FlowFilter::decode(reader)?),
            kind::GROUP_DESC => MultipartRequest::Groups(reader.u32()?),
            kind::METER_DESC => MultipartRequest::Meters(reader.u32()?),
            kind::PORT_DESC => MultipartRequest::Ports(OfPort(reader.u32()?)),
            kind::TABLE_DESC => MultipartRequest::Tables,
            kind::FLOW_MONITOR => MultipartRequest::FlowMonitor(list(reader, MonitorRequest::decode)?),
            _ => MultipartRequest::Unknown { kind, flags, body: reader.rest().to_vec() },
        })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (kind, flags) = match self {
            MultipartRequest::Description => (kind::DESC, 0),
            MultipartRequest::Flows(_) => (kind::FLOW, 0),
            MultipartRequest::Aggregate(_) => (kind::AGGREGATE, 0),
            MultipartRequest::Groups(_) => (kind::GROUP_DESC, 0),
            MultipartRequest::Meters(_) => (kind::METER_DESC, 0),
            MultipartRequest::Ports(_) => (kind::PORT_DESC, 0),
            MultipartRequest::Tables => (kind::TABLE_DESC, 0),
            MultipartRequest::TableStats => (kind::TABLE, 0),
            MultipartRequest::FlowMonitor(_) => (kind::FLOW_MONITOR, 0),
            MultipartRequest::Unknown { kind, flags, .. } => (*kind, *flags),
        };
        put_header(out, kind, flags);
        match self {
            MultipartRequest::Description | MultipartRequest::Tables | MultipartRequest::TableStats => Ok(()),
            MultipartRequest::Flows(filter) | MultipartRequest::Aggregate(filter) => filter.encode(out),
            MultipartRequest::Groups(number) | MultipartRequest::Meters(number) | MultipartRequest::Ports(OfPort(number)) => {
                put_u32(out, *number);
                put_zeros(out, 4);
                Ok(())
            }
            MultipartRequest::FlowMonitor(requests) => requests.iter().try_for_each(|request| request.encode(out)),
            MultipartRequest::Unknown { body, .. } => {
                out.extend_from_slice(body);
                Ok(())
            }
        }
    }
}

/// Who made the switch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SwitchDescription {
    pub manufacturer: String,
    pub hardware: String,
    pub software: String,
    pub serial: String,
    pub datapath: String,
}

impl SwitchDescription {
    fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        Ok(SwitchDescription {
            manufacturer: text(reader.take(DESC_SIZE)?),
            hardware: text(reader.take(DESC_SIZE)?),
            software: text(reader.take(DESC_SIZE)?),
            serial: text(reader.take(SERIAL_SIZE)?),
            datapath: text(reader.take(DESC_SIZE)?),
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_text(out, &self.manufacturer, DESC_SIZE);
        put_text(out, &self.hardware, DESC_SIZE);
        put_text(out, &self.software, DESC_SIZE);
        put_text(out, &self.serial, SERIAL_SIZE);
        put_text(out, &self.datapath, DESC_SIZE);
    }
}

/// A table's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableDescription {
    pub table: u8,
    pub config: u32,
    /// Eviction and vacancy, not interpreted.
    pub properties: Vec<u8>,
}

impl TableDescription {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut entry = reader.element(0, 8, "table description")?;
        entry.skip(2)?;
        let table = entry.u8()?;
        entry.skip(1)?;
        Ok(TableDescription { table, config: entry.u32()?, properties: entry.rest().to_vec() })
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        put_u16(out, 0);
        out.extend_from_slice(&[self.table, 0]);
        put_u32(out, self.config);
        out.extend_from_slice(&self.properties);
        let length = out.len() - start;
        patch_u16(out, start, length, "table description")
    }
}

/// What a table holds and did.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableStats {
    pub table: u8,
    /// Its flows.
    pub active: u32,
    /// Packets that were looked up in it, and those that a flow matched.
    pub lookups: u64,
    pub matched: u64,
}

impl TableStats {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let table = reader.u8()?;
        reader.skip(3)?;
        Ok(TableStats { table, active: reader.u32()?, lookups: reader.u64()?, matched: reader.u64()? })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.table, 0, 0, 0]);
        put_u32(out, self.active);
        put_u64(out, self.lookups);
        put_u64(out, self.matched);
    }
}

/// An answer, or one part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MultipartReply {
    /// More parts of the same answer follow under the same transaction id.
    pub more: bool,
    pub body: MultipartBody,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MultipartBody {
    Description(SwitchDescription),
    Flows(Vec<InstalledFlow>),
    Aggregate(FlowStats),
    Groups(Vec<InstalledGroup>),
    Meters(Vec<Meter>),
    Ports(Vec<Port>),
    Tables(Vec<TableDescription>),
    TableStats(Vec<TableStats>),
    FlowUpdates(Vec<FlowUpdate>),
    Unknown { kind: u16, body: Vec<u8> },
}

impl MultipartReply {
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let (kind, flags) = (reader.u16()?, reader.u16()?);
        reader.skip(4)?;
        let body = match kind {
            kind::DESC => MultipartBody::Description(SwitchDescription::decode(reader)?),
            kind::FLOW => MultipartBody::Flows(list(reader, InstalledFlow::decode)?),
            kind::AGGREGATE => MultipartBody::Aggregate(FlowStats::decode(&mut reader)?),
            kind::GROUP_DESC => MultipartBody::Groups(list(reader, InstalledGroup::decode)?),
            kind::METER_DESC => MultipartBody::Meters(list(reader, Meter::decode_entry)?),
            kind::PORT_DESC => MultipartBody::Ports(list(reader, Port::decode)?),
            kind::TABLE_DESC => MultipartBody::Tables(list(reader, TableDescription::decode)?),
            kind::TABLE => MultipartBody::TableStats(list(reader, TableStats::decode)?),
            kind::FLOW_MONITOR => MultipartBody::FlowUpdates(list(reader, FlowUpdate::decode)?),
            _ => MultipartBody::Unknown { kind, body: reader.rest().to_vec() },
        };
        Ok(MultipartReply { more: flags & MORE != 0, body })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let kind = match &self.body {
            MultipartBody::Description(_) => kind::DESC,
            MultipartBody::Flows(_) => kind::FLOW,
            MultipartBody::Aggregate(_) => kind::AGGREGATE,
            MultipartBody::Groups(_) => kind::GROUP_DESC,
            MultipartBody::Meters(_) => kind::METER_DESC,
            MultipartBody::Ports(_) => kind::PORT_DESC,
            MultipartBody::Tables(_) => kind::TABLE_DESC,
            MultipartBody::TableStats(_) => kind::TABLE,
            MultipartBody::FlowUpdates(_) => kind::FLOW_MONITOR,
            MultipartBody::Unknown { kind, .. } => *kind,
        };
        put_header(out, kind, if self.more { MORE } else { 0 });
        match &self.body {
            MultipartBody::Description(description) => description.encode(out),
            MultipartBody::Flows(flows) => flows.iter().try_for_each(|flow| flow.encode(out))?,
            MultipartBody::Aggregate(stats) => stats.encode(out)?,
            MultipartBody::Groups(groups) => groups.iter().try_for_each(|group| group.encode(out))?,
            MultipartBody::Meters(meters) => meters.iter().try_for_each(|meter| meter.encode_entry(out))?,
            MultipartBody::Ports(ports) => ports.iter().try_for_each(|port| port.encode(out))?,
            MultipartBody::Tables(tables) => tables.iter().try_for_each(|table| table.encode(out))?,
            MultipartBody::TableStats(tables) => tables.iter().for_each(|table| table.encode(out)),
            MultipartBody::FlowUpdates(updates) => updates.iter().try_for_each(|update| update.encode(out))?,
            MultipartBody::Unknown { body, .. } => out.extend_from_slice(body),
        }
        Ok(())
    }
}

impl MultipartBody {
    /// Adds the next part of the same answer. Returns false if it is not an answer of the same kind.
    pub fn append(&mut self, next: MultipartBody) -> bool {
        match (self, next) {
            (MultipartBody::Flows(all), MultipartBody::Flows(more)) => all.extend(more),
            (MultipartBody::Groups(all), MultipartBody::Groups(more)) => all.extend(more),
            (MultipartBody::Meters(all), MultipartBody::Meters(more)) => all.extend(more),
            (MultipartBody::Ports(all), MultipartBody::Ports(more)) => all.extend(more),
            (MultipartBody::Tables(all), MultipartBody::Tables(more)) => all.extend(more),
            (MultipartBody::TableStats(all), MultipartBody::TableStats(more)) => all.extend(more),
            (MultipartBody::FlowUpdates(all), MultipartBody::FlowUpdates(more)) => all.extend(more),
            (MultipartBody::Unknown { kind, body }, MultipartBody::Unknown { kind: next, body: more }) if *kind == next => {
                body.extend(more);
            }
            _ => return false,
        }
        true
    }
}

/// Joins the parts of one answer.
#[derive(Debug, Default)]
pub struct Reassembly {
    body: Option<MultipartBody>,
}

impl Reassembly {
    /// Adds the next part; the whole answer once it is complete.
    ///
    /// # Errors
    /// When a part is of another kind than those before.
    pub fn add(&mut self, part: MultipartReply) -> Result<Option<MultipartBody>, DecodeError> {
        let whole = match self.body.take() {
            None => part.body,
            Some(mut body) => match body.append(part.body) {
                true => body,
                false => return Err(DecodeError::BadValue { what: "kind of a multipart answer's part", value: 0 }),
            },
        };
        if part.more {
            self.body = Some(whole);
            return Ok(None);
        }
        Ok(Some(whole))
    }
}

fn list<T>(mut reader: Reader<'_>, decode: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>) -> Result<Vec<T>, DecodeError> {
    let mut entries = Vec::new();
    while !reader.is_empty() {
        entries.push(decode(&mut reader)?);
    }
    Ok(entries)
}

fn put_header(out: &mut Vec<u8>, kind: u16, flags: u16) {
    put_u16(out, kind);
    put_u16(out, flags);
    put_zeros(out, 4);
}
