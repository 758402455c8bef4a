//! Reading all flows in parts. While Open vSwitch writes an answer, its userspace datapath forwards nothing: no answer may be long.
//!
//! A part is a table, or, of a large one, the flows whose cookies have the same few bits. Cookies are mixed numbers of objects, so
//! these parts are about equal; the flows of one object stay together.

use openflow::{FlowFilter, TableStats};

/// Flows of one part of a table that is read in parts, at least; up to twice as many. Each part costs Open vSwitch a walk through all of
/// the table.
pub const PART_MIN: u32 = 1_000;
/// The lowest of the cookie's bits that part the flows of a table: below it, all flows of objects are alike in one bit.
const FIRST_BIT: u32 = 1;
/// A table is parted by so many bits at most.
const BITS_MAX: u32 = 16;

/// What to ask for, one after the other, so that every flow of these tables is in one answer.
pub fn parts(tables: &[TableStats]) -> Vec<FlowFilter> {
    let all: u64 = tables.iter().map(|table| u64::from(table.active)).sum();
    if all <= u64::from(PART_MIN) {
        return vec![FlowFilter::all()];
    }
    tables.iter().filter(|table| table.active > 0).flat_map(parts_of).collect()
}

fn parts_of(table: &TableStats) -> impl Iterator<Item = FlowFilter> + use<> {
    let bits = (table.active / PART_MIN).max(1).ilog2().min(BITS_MAX);
    let (table, count) = (table.table, 1u64 << bits);
    let cookie_mask = (count - 1) << FIRST_BIT;
    (0..count).map(move |part| FlowFilter { table, cookie: part << FIRST_BIT, cookie_mask, ..FlowFilter::all() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(table: u8, active: u32) -> TableStats {
        TableStats { table, active, lookups: 0, matched: 0 }
    }

    #[test]
    fn few_flows_are_asked_for_at_once() {
        assert_eq!(parts(&[table(0, 1), table(7, PART_MIN - 1)]), [FlowFilter::all()]);
        assert!(parts(&[table(0, 1), table(7, PART_MIN)]).len() > 1);
    }

    #[test]
    fn no_table_is_read_in_endless_parts() {
        assert_eq!(parts(&[table(0, PART_MIN << BITS_MAX)]).len(), 1 << BITS_MAX);
        assert_eq!(parts(&[table(0, u32::MAX)]).len(), 1 << BITS_MAX);
    }

    #[test]
    fn every_cookie_of_a_large_table_is_in_one_part() {
        let parts = parts(&[table(3, 10), table(4, 0), table(7, 5_000)]);
        assert_eq!(parts.len(), 1 + 4);
        for cookie in (0..10_000u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let having =
                |table: u8| parts.iter().filter(move |part| part.table == table && cookie & part.cookie_mask == part.cookie).count();
            assert_eq!([3, 4, 7].map(having), [1, 0, 1], "{cookie:x}");
        }
    }
}
