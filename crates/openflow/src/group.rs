//! Groups: choices among buckets of actions.
//!
//! In a bundle the order is: group adds and modifies, then flows, then group deletes, because a deleted group takes
//! the flows that use it with it. A message, and a group's description, holds 65,535 bytes: write large groups with
//! several [`GroupCommand::InsertBuckets`], and keep the whole under [`GROUP_BYTES_MAX`], or it cannot be read back.

use crate::action::{self, Action};
use crate::error::{DecodeError, EncodeError};
use crate::flow::GROUP_ANY;
use crate::matching::Match;
use crate::oxm;
use crate::port::OfPort;
use crate::wire::{Reader, pad_to_8, patch_u16, put_property, put_text, put_u16, put_u32, put_u64, put_zeros, text};

/// "Every group", where a group is asked for.
pub const GROUP_ALL: u32 = 0xffff_fffc;
/// Largest ordinary group number.
pub const GROUP_MAX: u32 = 0xffff_ff00;
/// Largest ordinary bucket number.
pub const BUCKET_MAX: u32 = 0xffff_ff00;
/// Bucket position "the first".
pub const BUCKET_FIRST: u32 = 0xffff_fffd;
/// Bucket position "the last".
pub const BUCKET_LAST: u32 = 0xffff_fffe;
/// "Every bucket"; also "no particular bucket" for add, modify and delete.
pub const BUCKET_ALL: u32 = 0xffff_ffff;
/// A group whose description is larger makes OVS 3.1 drop the connection that asks for it.
pub const GROUP_BYTES_MAX: usize = 60_000;

const NETRONOME: u32 = 0x0000_154d;
const SELECTION_METHOD: u32 = 1;
const METHOD_SIZE: usize = 16;
const PROPERTY_EXPERIMENTER: u16 = 0xffff;
const BUCKET_WEIGHT: u16 = 0;
const BUCKET_WATCH_PORT: u16 = 1;
const BUCKET_WATCH_GROUP: u16 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupKind {
    /// Every bucket gets a copy.
    All,
    /// One bucket, chosen by hash and weight.
    Select,
    Indirect,
    /// The first live bucket.
    FastFailover,
}

impl GroupKind {
    const ALL: [GroupKind; 4] = [Self::All, Self::Select, Self::Indirect, Self::FastFailover];

    fn decode(number: u8) -> Result<Self, DecodeError> {
        let kind = Self::ALL.get(usize::from(number)).copied();
        kind.ok_or(DecodeError::BadValue { what: "group type", value: number.into() })
    }
}

/// What a group mod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupCommand {
    /// Make a group; an error if it exists.
    Add,
    /// Replace a group; an error if it does not exist.
    Modify,
    /// Delete a group and the flows that use it. Deleting what is not there is no error.
    Delete,
    /// Put buckets after [`GroupMod::bucket`].
    InsertBuckets,
    /// Take the bucket [`GroupMod::bucket`] out.
    RemoveBucket,
    /// Make or replace (an extension of OVS).
    AddOrModify,
}

impl GroupCommand {
    fn number(self) -> u16 {
        match self {
            Self::Add => 0,
            Self::Modify => 1,
            Self::Delete => 2,
            Self::InsertBuckets => 3,
            Self::RemoveBucket => 5,
            Self::AddOrModify => 0x8000,
        }
    }

    fn decode(number: u16) -> Result<Self, DecodeError> {
        let all = [Self::Add, Self::Modify, Self::Delete, Self::InsertBuckets, Self::RemoveBucket, Self::AddOrModify];
        let found = all.into_iter().find(|command| command.number() == number);
        found.ok_or(DecodeError::BadValue { what: "group mod command", value: number.into() })
    }
}

/// How a select group chooses (Netronome's extension, as OVS implements it).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SelectionMethod {
    /// `dp_hash` or `hash`; at most 15 bytes.
    pub method: String,
    pub param: u64,
    /// Fields that are hashed; a field's *value* is the mask that is applied to it. Unlike those of a flow's match,
    /// fields here may lack what they presuppose.
    pub fields: Match,
}

impl SelectionMethod {
    /// By the datapath's own hash. At most 256 slots.
    pub fn dp_hash() -> Self {
        SelectionMethod { method: "dp_hash".into(), param: 0, fields: Match::any() }
    }
}

/// One choice of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    pub id: u32,
    /// Of select groups; every bucket of a select group has one.
    pub weight: Option<u16>,
    pub watch_port: Option<OfPort>,
    pub watch_group: Option<u32>,
    pub actions: Vec<Action>,
}

impl Bucket {
    pub fn new(id: u32, actions: impl Into<Vec<Action>>) -> Self {
        Bucket { id, weight: None, watch_port: None, watch_group: None, actions: actions.into() }
    }

    #[must_use]
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = Some(weight);
        self
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut entry = reader.element(0, 8, "bucket")?;
        entry.skip(2)?;
        let actions_len = usize::from(entry.u16()?);
        let id = entry.u32()?;
        let actions = action::decode_list(entry.sub(actions_len, "bucket actions")?)?;
        let mut bucket = Bucket::new(id, actions);
        while !entry.is_empty() {
            let (kind, mut payload) = entry.property()?;
            match kind {
                BUCKET_WEIGHT => bucket.weight = Some(payload.u16()?),
                BUCKET_WATCH_PORT => {
                    bucket.watch_port = Some(OfPort(payload.u32()?)).filter(|port| *port != OfPort::ANY);
                }
                BUCKET_WATCH_GROUP => {
                    bucket.watch_group = Some(payload.u32()?).filter(|group| *group != GROUP_ANY);
                }
                _ => {}
            }
        }
        Ok(bucket)
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        put_u32(out, 0);
        put_u32(out, self.id);
        action::encode_list(&self.actions, out)?;
        let actions_len = out.len() - start - 8;
        if let Some(weight) = self.weight {
            put_property(out, BUCKET_WEIGHT, &weight.to_be_bytes())?;
        }
        if let Some(port) = self.watch_port {
            put_property(out, BUCKET_WATCH_PORT, &port.0.to_be_bytes())?;
        }
        if let Some(group) = self.watch_group {
            put_property(out, BUCKET_WATCH_GROUP, &group.to_be_bytes())?;
        }
        let length = out.len() - start;
        patch_u16(out, start, length, "bucket")?;
        patch_u16(out, start + 2, actions_len, "bucket actions")
    }
}

/// A group as the switch has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstalledGroup {
    pub id: u32,
    pub kind: GroupKind,
    pub buckets: Vec<Bucket>,
    pub selection: Option<SelectionMethod>,
}

/// A change to one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupMod {
    pub command: GroupCommand,
    pub id: u32,
    pub kind: GroupKind,
    /// The bucket that insert and remove refer to; [`BUCKET_ALL`] otherwise.
    pub bucket: u32,
    pub buckets: Vec<Bucket>,
    pub selection: Option<SelectionMethod>,
}

impl GroupMod {
    pub fn add(group: InstalledGroup) -> Self {
        Self::of(GroupCommand::Add, group)
    }

    pub fn modify(group: InstalledGroup) -> Self {
        Self::of(GroupCommand::Modify, group)
    }

    fn of(command: GroupCommand, group: InstalledGroup) -> Self {
        let InstalledGroup { id, kind, buckets, selection } = group;
        GroupMod { command, id, kind, bucket: BUCKET_ALL, buckets, selection }
    }

    pub fn delete(id: u32) -> Self {
        let (kind, bucket) = (GroupKind::All, BUCKET_ALL);
        GroupMod { command: GroupCommand::Delete, id, kind, bucket, buckets: vec![], selection: None }
    }

    /// Puts `buckets` behind the bucket `after` of a group of `kind` ([`BUCKET_FIRST`]: before all).
    pub fn insert(id: u32, kind: GroupKind, after: u32, buckets: Vec<Bucket>) -> Self {
        GroupMod { command: GroupCommand::InsertBuckets, id, kind, bucket: after, buckets, selection: None }
    }

    pub fn remove(id: u32, kind: GroupKind, bucket: u32) -> Self {
        GroupMod { command: GroupCommand::RemoveBucket, id, kind, bucket, buckets: vec![], selection: None }
    }

    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let command = GroupCommand::decode(reader.u16()?)?;
        let kind = GroupKind::decode(reader.u8()?)?;
        reader.skip(1)?;
        let id = reader.u32()?;
        let buckets_len = usize::from(reader.u16()?);
        reader.skip(2)?;
        let bucket = reader.u32()?;
        let buckets = decode_buckets(reader.sub(buckets_len, "buckets")?)?;
        Ok(GroupMod { command, id, kind, bucket, buckets, selection: decode_selection(reader)? })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        put_u16(out, self.command.number());
        out.extend_from_slice(&[self.kind as u8, 0]);
        put_u32(out, self.id);
        put_u32(out, 0);
        put_u32(out, self.bucket);
        encode_buckets(&self.buckets, start + 8, out)?;
        self.selection.as_ref().map_or(Ok(()), |selection| encode_selection(selection, out))
    }
}

impl InstalledGroup {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut entry = reader.element(0, 16, "group description")?;
        entry.skip(2)?;
        let kind = GroupKind::decode(entry.u8()?)?;
        entry.skip(1)?;
        let id = entry.u32()?;
        let buckets_len = usize::from(entry.u16()?);
        entry.skip(6)?;
        let buckets = decode_buckets(entry.sub(buckets_len, "buckets")?)?;
        Ok(InstalledGroup { id, kind, buckets, selection: decode_selection(entry)? })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        put_u16(out, 0);
        out.extend_from_slice(&[self.kind as u8, 0]);
        put_u32(out, self.id);
        put_zeros(out, 8);
        encode_buckets(&self.buckets, start + 8, out)?;
        if let Some(selection) = &self.selection {
            encode_selection(selection, out)?;
        }
        let length = out.len() - start;
        patch_u16(out, start, length, "group description")
    }
}

fn decode_buckets(mut reader: Reader<'_>) -> Result<Vec<Bucket>, DecodeError> {
    let mut buckets = Vec::new();
    while !reader.is_empty() {
        buckets.push(Bucket::decode(&mut reader)?);
    }
    Ok(buckets)
}

/// Writes `buckets` and, at `length_at`, how long they are.
fn encode_buckets(buckets: &[Bucket], length_at: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    buckets.iter().try_for_each(|bucket| bucket.encode(out))?;
    let length = out.len() - start;
    patch_u16(out, length_at, length, "a group's buckets")
}

fn decode_selection(mut reader: Reader<'_>) -> Result<Option<SelectionMethod>, DecodeError> {
    let mut selection = None;
    while !reader.is_empty() {
        let (kind, mut payload) = reader.property()?;
        if kind != PROPERTY_EXPERIMENTER || payload.u32()? != NETRONOME || payload.u32()? != SELECTION_METHOD {
            continue;
        }
        payload.skip(4)?;
        let method = text(payload.take(METHOD_SIZE)?);
        let param = payload.u64()?;
        selection = Some(SelectionMethod { method, param, fields: Match::decode_fields(payload)? });
    }
    Ok(selection)
}

fn encode_selection(selection: &SelectionMethod, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if selection.method.len() >= METHOD_SIZE || selection.method.contains('\0') {
        return Err(EncodeError::Invalid { what: "selection method", reason: "its name is too long" });
    }
    let start = out.len();
    put_u16(out, PROPERTY_EXPERIMENTER);
    put_u16(out, 0);
    put_u32(out, NETRONOME);
    put_u32(out, SELECTION_METHOD);
    put_u32(out, 0);
    put_text(out, &selection.method, METHOD_SIZE);
    put_u64(out, selection.param);
    selection.fields.encode_fields(out);
    let length = out.len() - start;
    patch_u16(out, start + 2, length, "selection method")?;
    pad_to_8(out, start);
    Ok(())
}

impl SelectionMethod {
    /// By a hash of exactly these `fields`; one upcall per combination of their values.
    pub fn hash(fields: impl IntoIterator<Item = crate::Field>) -> Self {
        let whole = |field: crate::Field| oxm::Oxm::Known(field.is(field.full_mask()));
        let fields = Match::from_wire(fields.into_iter().map(whole)).expect("equal fields never conflict");
        SelectionMethod { method: "hash".into(), param: 0, fields }
    }
}
