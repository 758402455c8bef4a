//! Select groups: one of many, per connection.

use std::fmt;

use crate::action::Action;
use crate::flow::Reason;

/// A group's number, of which a half of the switch makes its own ([`crate::Generation::group_number`]). A group only sends packets to groups with smaller numbers: written in ascending order, every
/// group finds those that it names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u32);

/// How a select group spreads packets. `DpHash` has at most 256 slots (sum of weights over the least weight, rounded up to
/// a power of two); beyond that a `FiveTuple` group stands over several `DpHash` groups (DESIGN, Known traps).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Spread {
    /// The datapath's own hash.
    DpHash,
    /// A hash of addresses, protocol and ports.
    FiveTuple,
}

/// One choice.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bucket {
    pub id: u32,
    pub weight: u16,
    pub actions: Vec<Action>,
}

/// Sends each packet to one bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    pub id: GroupId,
    pub spread: Spread,
    /// In the order of their ids.
    pub buckets: Vec<Bucket>,
    pub reason: Reason,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {} {:?}", self.id.0, self.spread)?;
        for bucket in &self.buckets {
            let actions: Vec<String> = bucket.actions.iter().map(Action::to_string).collect();
            write!(f, "\n  {} weight {}: {}", bucket.id, bucket.weight, actions.join(", "))?;
        }
        Ok(())
    }
}
