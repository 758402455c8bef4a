//! What tells one pipeline from another: a number that is the same in two releases if a packet may pass some tables of the one
//! and go on in tables of the other.
//!
//! It is computed from the lists that are the pipeline: tables with their places, purposes and miss rules, registers with their
//! bits, lives and meanings, priorities, and what packets are handed to the node for. Sentences count, because nothing else says
//! what a register holds; a word that is only put better makes another pipeline as well, which costs a turn of the switch's halves
//! and no packet.

use std::fmt;
use std::fmt::Write;

use crate::action::Punt;
use crate::field::fields;
use crate::flow::Priority;
use crate::table::Table;

/// A pipeline's number. The switch keeps that of the half in force as the cookie of table 0's flow, which is what leads packets to
/// that half: the two cannot disagree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// That of this release's pipeline. Never zero, which is what releases left that had none.
    pub fn of_pipeline() -> Fingerprint {
        Fingerprint::of(&description())
    }

    /// FNV-1a, the same with every compiler and on every machine.
    fn of(text: &str) -> Fingerprint {
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Fingerprint(text.bytes().fold(0xcbf2_9ce4_8422_2325, mix).max(1))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// All that a packet on its way depends on.
fn description() -> String {
    let mut text = String::new();
    for (place, table) in Table::ALL.iter().enumerate() {
        writeln!(text, "table {place} {} {:?} {}", table.name(), table.miss(), table.purpose()).expect("a String takes everything");
    }
    for (field, meaning) in fields::ALL {
        let (first, last) = field.life();
        let bits = format!("{} {} {}", field.register, field.offset, field.bits);
        writeln!(text, "field {} {bits} {first:?} {last:?} {}", field.name(), meaning.trim()).expect("a String takes everything");
    }
    use Priority::{Fallback, Guard, High, Low, Normal, Prefix};
    for priority in [Fallback, Low, Normal, High, Guard, Prefix(0), Prefix(128)] {
        writeln!(text, "priority {priority} {}", priority.number()).expect("a String takes everything");
    }
    for punt in Punt::ALL {
        writeln!(text, "punt {punt:?} {}", *punt as u8).expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_has_the_same_number_for_ever() {
        // Published test values of FNV-1a.
        assert_eq!(Fingerprint::of("a"), Fingerprint(0xaf63_dc4c_8601_ec8c));
        assert_eq!(Fingerprint::of("foobar"), Fingerprint(0x8594_4171_f739_67e8));
    }

    #[test]
    fn the_description_says_everything_that_a_packet_depends_on() {
        let text = description();
        for line in ["table 0 Classify Drop ", "table 2 Punt Goto(Gateway) ", "field nat_zone 3 16 16 Classify Deliver Zone of "] {
            assert!(text.lines().any(|said| said.starts_with(line)), "{line}: {text}");
        }
        assert!(text.contains("priority normal 300\n") && text.contains("punt Refused 7\n"), "{text}");
    }
}
