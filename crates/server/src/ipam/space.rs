//! What was used and is free again, per subnet and per block: first freed, first reused, and within the quarantine only
//! when there is no other.
//!
//! A free address is either *never used* (at or after the cursor of its subnet, and not in the queue) or in the queue. The
//! queue is stored in chunks of [`CHUNK`] entries, so that freeing one address rewrites a few kilobytes and freeing a
//! thousand rewrites few records.

use std::collections::BTreeSet;
use std::net::IpAddr;

use imbl::{OrdMap, OrdSet};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use store::{DecodeError, Op, decode_record, encode_record};
use uuid::Uuid;

/// A freed address rests for so long, if there is another one: caches of it (ARP, ND, conntrack) have gone by then.
pub const QUARANTINE_SECS: i64 = 30;
/// Entries of the queue in one record.
const CHUNK: u64 = 64;
/// Entries of a queue. The oldest are forgotten beyond that, once their quarantine is over.
pub const FREED_MAX: usize = 65_536;
/// The first part of the records' names.
const PREFIX: &str = "space/";

/// When all that is free now will be out of quarantine.
pub(super) fn later(now: Timestamp) -> Timestamp {
    now + SignedDuration::from_secs(QUARANTINE_SECS)
}

/// One freed address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Freed {
    ip: IpAddr,
    /// When, in milliseconds since 1970.
    at: i64,
}

impl Freed {
    /// A clock that was set back must not lock addresses away: times in the future are no quarantine.
    fn is_quarantined(self, now: Timestamp) -> bool {
        (self.at..self.at + QUARANTINE_SECS * 1000).contains(&now.as_millisecond())
    }
}

/// What is remembered of one subnet or one block.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Space {
    head: Head,
    queue: OrdMap<u64, Freed>,
    places: OrdMap<IpAddr, u64>,
}

/// The record of a space besides its queue.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Head {
    /// The pools for which `next` holds.
    pools: Vec<(IpAddr, IpAddr)>,
    /// Every address of the pools below is used or in the queue, or in a block.
    next: Option<IpAddr>,
}

impl Space {
    /// Where to look for an address that was never used.
    pub(super) fn next(&self, pools: &[(IpAddr, IpAddr)]) -> Option<IpAddr> {
        self.head.next.filter(|_| self.head.pools == pools)
    }

    pub(super) fn is_queued(&self, ip: IpAddr) -> bool {
        self.places.contains_key(&ip)
    }

    /// The freed addresses that may be used again, first freed first.
    pub(super) fn reusable(&self, now: Timestamp) -> impl Iterator<Item = IpAddr> {
        self.queue.values().filter(move |freed| !freed.is_quarantined(now)).map(|freed| freed.ip)
    }

    /// True if an address of the range is in quarantine.
    pub(super) fn is_quarantined(&self, range: (IpAddr, IpAddr), now: Timestamp) -> bool {
        self.queued(range).any(|(_, place)| self.queue.get(place).is_some_and(|freed| freed.is_quarantined(now)))
    }

    /// True if an address of the range was used before.
    pub(super) fn has_queued(&self, range: (IpAddr, IpAddr)) -> bool {
        self.queued(range).next().is_some()
    }

    fn queued(&self, (first, last): (IpAddr, IpAddr)) -> impl Iterator<Item = (&IpAddr, &u64)> {
        self.places.range(first..=last)
    }

    /// An address that has moved is in two chunks until both are read.
    fn load_chunk(&mut self, chunk: u64, entries: Vec<(u64, Freed)>) {
        let old: Vec<(u64, IpAddr)> = self.queue.range(chunk_range(chunk)).map(|(place, freed)| (*place, freed.ip)).collect();
        for (place, ip) in old {
            self.queue.remove(&place);
            if self.places.get(&ip) == Some(&place) {
                self.places.remove(&ip);
            }
        }
        for (place, freed) in entries {
            self.places.insert(freed.ip, place);
            self.queue.insert(place, freed);
        }
    }

    /// True if nothing is in quarantine.
    pub(super) fn is_quiet(&self, now: Timestamp) -> bool {
        !self.queue.values().any(|freed| freed.is_quarantined(now))
    }
}

/// All spaces, and which records must be written again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spaces {
    spaces: OrdMap<Uuid, Space>,
    touched: OrdSet<(Uuid, Option<u64>)>,
    /// Of a subnet with these pools, the number of the place of its newest block: what is above was used, or could not be. Not stored:
    /// after a start the first search is long.
    lowest_blocks: OrdMap<Uuid, (Vec<(IpAddr, IpAddr)>, u32)>,
}

impl Spaces {
    /// The space of a subnet or block.
    pub(super) fn of(&self, id: Uuid) -> Space {
        self.spaces.get(&id).cloned().unwrap_or_default()
    }

    /// Remembers where the search for a never used address of `pools` goes on.
    pub(super) fn set_next(&mut self, id: Uuid, pools: &[(IpAddr, IpAddr)], next: Option<IpAddr>) {
        let head = Head { pools: pools.to_vec(), next };
        let space = self.spaces.entry(id).or_default();
        if space.head != head {
            space.head = head;
            self.touched.insert((id, None));
        }
    }

    /// The search starts at `ip` again, if it had got further.
    pub(super) fn lower_next(&mut self, id: Uuid, ip: IpAddr) {
        let space = self.spaces.entry(id).or_default();
        if space.head.next.is_some_and(|next| next > ip) {
            space.head.next = Some(ip);
            self.touched.insert((id, None));
        }
    }

    /// Below which number to look for a place that never had a block.
    pub(super) fn lowest_block(&self, id: Uuid, pools: &[(IpAddr, IpAddr)]) -> Option<u32> {
        self.lowest_blocks.get(&id).filter(|(its, _)| its == pools).map(|(_, lowest)| *lowest)
    }

    pub(super) fn set_lowest_block(&mut self, id: Uuid, pools: &[(IpAddr, IpAddr)], lowest: u32) {
        self.lowest_blocks.insert(id, (pools.to_vec(), lowest));
    }

    /// Appends a freed address to the queue.
    pub(super) fn push(&mut self, id: Uuid, ip: IpAddr, now: Timestamp) {
        self.append(id, Freed { ip, at: now.as_millisecond() });
        self.forget_oldest(id, now);
        // A queue that grew beyond its limit while all of it was in quarantine gets shorter.
        self.forget_oldest(id, now);
    }

    fn forget_oldest(&mut self, id: Uuid, now: Timestamp) {
        let space = self.spaces.entry(id).or_default();
        if space.queue.len() > FREED_MAX
            && let Some(oldest) = space.queue.values().next().filter(|freed| !freed.is_quarantined(now)).map(|freed| freed.ip)
        {
            self.take(id, oldest);
            self.lower_next(id, oldest);
        }
    }

    fn append(&mut self, id: Uuid, freed: Freed) {
        self.take(id, freed.ip);
        let space = self.spaces.entry(id).or_default();
        let place = space.queue.keys().next_back().map_or(0, |last| last + 1);
        space.queue.insert(place, freed);
        space.places.insert(freed.ip, place);
        self.touched.insert((id, Some(place / CHUNK)));
    }

    /// Takes an address out of the queue, if it is there.
    pub(super) fn take(&mut self, id: Uuid, ip: IpAddr) {
        let Some(space) = self.spaces.get_mut(&id) else { return };
        if let Some(place) = space.places.remove(&ip) {
            space.queue.remove(&place);
            self.touched.insert((id, Some(place / CHUNK)));
        }
    }

    /// Takes the addresses of a range out of the queue.
    pub(super) fn take_range(&mut self, id: Uuid, range: (IpAddr, IpAddr)) {
        let ips: Vec<IpAddr> = self.of(id).queued(range).map(|(ip, _)| *ip).collect();
        ips.into_iter().for_each(|ip| self.take(id, ip));
    }

    /// Moves the queue of a space to the end of another's.
    pub(super) fn move_queue(&mut self, from: Uuid, to: Uuid) {
        let space = self.of(from);
        space.queue.values().for_each(|freed| self.append(to, *freed));
        self.forget(from);
    }

    /// Forgets a space.
    pub(super) fn forget(&mut self, id: Uuid) {
        self.lowest_blocks.remove(&id);
        let Some(space) = self.spaces.remove(&id) else { return };
        self.touched.insert((id, None));
        let chunks: BTreeSet<u64> = space.queue.keys().map(|place| place / CHUNK).collect();
        chunks.into_iter().for_each(|chunk| {
            self.touched.insert((id, Some(chunk)));
        });
    }

    /// What must be stored so that `durable` becomes this.
    pub(crate) fn ops_since(&self, durable: &Spaces) -> Vec<Op> {
        self.touched.iter().filter_map(|part| self.op_since(durable, *part)).collect()
    }

    fn op_since(&self, durable: &Spaces, part: (Uuid, Option<u64>)) -> Option<Op> {
        let (before, after) = (durable.record(part), self.record(part));
        let name = record_name(part);
        (before != after).then(|| after.map_or(Op::DeleteRecord(name.clone()), |bytes| Op::PutRecord(name, bytes)))
    }

    pub(crate) fn committed(&mut self) {
        self.touched = OrdSet::new();
    }

    fn record(&self, (id, chunk): (Uuid, Option<u64>)) -> Option<Vec<u8>> {
        let space = self.spaces.get(&id)?;
        let Some(chunk) = chunk else {
            return (space.head != Head::default()).then(|| encode_record(&space.head));
        };
        let entries: Vec<(u64, Freed)> = space.queue.range(chunk_range(chunk)).map(|(place, freed)| (*place, *freed)).collect();
        (!entries.is_empty()).then(|| encode_record(&entries))
    }

    /// Reads what a record holds, in place of what it held before; None: it is not stored any more. False: the name is not one
    /// of these records'.
    pub(crate) fn load(&mut self, name: &str, bytes: Option<&[u8]>) -> Result<bool, DecodeError> {
        let Some(rest) = name.strip_prefix(PREFIX) else { return Ok(false) };
        let (id, chunk) = rest.split_once('/').map_or((rest, None), |(id, chunk)| (id, Some(chunk)));
        let bad = || DecodeError::Key(name.to_string());
        let id = Uuid::parse_str(id).map_err(|_| bad())?;
        let space = self.spaces.entry(id).or_default();
        match chunk {
            None => space.head = bytes.map_or_else(|| Ok(Head::default()), |bytes| decode_record(name, bytes))?,
            Some(chunk) => {
                let entries = bytes.map_or_else(|| Ok(Vec::new()), |bytes| decode_record(name, bytes))?;
                space.load_chunk(chunk.parse().map_err(|_| bad())?, entries);
            }
        }
        if *space == Space::default() {
            self.spaces.remove(&id);
            self.lowest_blocks.remove(&id);
        }
        Ok(true)
    }
}

fn chunk_range(chunk: u64) -> std::ops::Range<u64> {
    chunk.saturating_mul(CHUNK)..chunk.saturating_add(1).saturating_mul(CHUNK)
}

fn record_name((id, chunk): (Uuid, Option<u64>)) -> String {
    chunk.map_or_else(|| format!("{PREFIX}{id}"), |chunk| format!("{PREFIX}{id}/{chunk}"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn beyond_the_most_the_oldest_are_forgotten_once_they_have_rested() {
        const MORE: usize = 10;
        let (id, mut spaces, now) = (Uuid::from_u128(1), Spaces::default(), Timestamp::from_second(1_800_000_000).unwrap());
        let ip = |number: usize| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number as u32));
        (0..FREED_MAX + MORE).for_each(|number| spaces.push(id, ip(number), now));
        assert_eq!(spaces.of(id).queue.len(), FREED_MAX + MORE, "none has rested");
        (0..MORE).for_each(|number| spaces.push(id, ip(FREED_MAX + MORE + number), later(now)));
        assert_eq!(spaces.of(id).queue.len(), FREED_MAX);
        assert!(!spaces.of(id).is_queued(ip(2 * MORE - 1)) && spaces.of(id).is_queued(ip(2 * MORE)), "the oldest are gone");
    }
}
