//! A flow reads like a sentence: in this table, when tests hold, do these things, go there, because of that object.
//!
//! ```
//! use pipeline::{fields::*, *};
//! # use model::*;
//! # let (mac, key) = (Mac::ZERO, 4u32);
//! let lookup = Table::L2Lookup
//!     .when([NETWORK.is(7u32), eth_dst(mac)])
//!     .set(DST_PORT, key)
//!     .goto(Table::Receive)
//!     .because(Reason::Pipeline);
//! assert_eq!(lookup.to_string(), "L2Lookup normal eth_dst=00:00:00:00:00:00, network=7 -> dst_port:=4, goto Receive");
//! ```

use std::fmt;
use std::sync::Arc;

use model::ObjectKey;

use crate::action::{Action, Punt, Zone};
use crate::header::{Place, Test};
use crate::table::Table;

/// Which of several matching flows wins. Needing one more name usually means another table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Priority {
    /// When nothing else matches, but there is more to say than the table's miss rule does.
    Fallback,
    /// Covers many: a block, a whole network.
    Low,
    #[default]
    Normal,
    /// An exception to something normal.
    High,
    /// Comes before everything else in the table.
    Guard,
    /// Longest prefix first: the length of the prefix, 0 to 128.
    Prefix(u8),
}

impl Priority {
    /// OpenFlow's number.
    pub fn number(self) -> u16 {
        match self {
            Priority::Fallback => 100,
            Priority::Low => 200,
            Priority::Normal => 300,
            Priority::High => 400,
            Priority::Guard => 500,
            Priority::Prefix(length) => 1000 + u16::from(length),
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Priority::Fallback => f.write_str("fallback"),
            Priority::Low => f.write_str("low"),
            Priority::Normal => f.write_str("normal"),
            Priority::High => f.write_str("high"),
            Priority::Guard => f.write_str("guard"),
            Priority::Prefix(length) => write!(f, "/{length}"),
        }
    }
}

/// Why a flow exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// It is part of the pipeline on every node.
    Pipeline,
    /// It is there for this object.
    Object(ObjectKey),
}

impl From<ObjectKey> for Reason {
    fn from(key: ObjectKey) -> Reason {
        Reason::Object(key)
    }
}

impl Reason {
    /// The low 56 bits of the flow's cookie: the same object has the same number on every node and after every restart.
    pub fn number(self) -> u64 {
        const BITS: u64 = (1 << 56) - 1;
        match self {
            Reason::Pipeline => 0,
            Reason::Object(key) => {
                let (high, low) = key.id.as_u64_pair();
                let mixed = (high ^ low.rotate_left(32) ^ (key.kind as u64 + 1) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (mixed ^ mixed >> 29) & BITS | 1
            }
        }
    }
}

/// What makes two flows the same flow to the switch.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowKey {
    pub table: Table,
    pub priority: Priority,
    /// Sorted. Shared by all copies of the key: a node has many flows, and each is in several maps.
    pub tests: Arc<[Test]>,
}

/// A complete flow.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Flow {
    pub key: FlowKey,
    pub actions: Vec<Action>,
    pub goto: Option<Table>,
    pub reason: Reason,
}

/// A flow that does not say yet why it exists.
#[derive(Clone, Debug)]
pub struct Draft {
    key: FlowKey,
    actions: Vec<Action>,
    goto: Option<Table>,
}

impl Table {
    /// A flow of this table for packets that pass all `tests`.
    pub fn when(self, tests: impl IntoIterator<Item = Test>) -> Draft {
        let mut tests: Vec<Test> = tests.into_iter().filter(|test| test.mask != 0).collect();
        tests.sort_by_key(|test| (test.place.name(), *test));
        tests.dedup();
        Draft { key: FlowKey { table: self, priority: Priority::Normal, tests: tests.into() }, actions: Vec::new(), goto: None }
    }
}

impl Draft {
    pub fn priority(mut self, priority: Priority) -> Draft {
        self.key.priority = priority;
        self
    }

    /// Write a register or a header.
    pub fn set(self, place: impl Into<Place>, value: impl Into<u128>) -> Draft {
        self.act(Action::set(place, value))
    }

    pub fn act(mut self, action: Action) -> Draft {
        self.actions.push(action);
        self
    }

    pub fn acts(mut self, actions: impl IntoIterator<Item = Action>) -> Draft {
        self.actions.extend(actions);
        self
    }

    /// Hand the packet to the node.
    pub fn punt(self, punt: Punt) -> Draft {
        self.act(Action::Punt(punt))
    }

    /// Look the connection up in `zone`, go on in `then`.
    pub fn track(self, zone: impl Into<Zone>, then: Table) -> Draft {
        self.act(Action::Track { zone: zone.into(), nat: None, then })
    }

    /// Then go to `table`, which is further down.
    pub fn goto(mut self, table: Table) -> Draft {
        self.goto = Some(table);
        self
    }

    /// Drop the packet: no action, nowhere to go.
    pub fn drop(mut self) -> Draft {
        self.actions.clear();
        self.goto = None;
        self
    }

    pub fn because(mut self, reason: impl Into<Reason>) -> Flow {
        self.actions.shrink_to_fit();
        Flow { key: self.key, actions: self.actions, goto: self.goto, reason: reason.into() }
    }
}

impl From<crate::field::Field> for Zone {
    fn from(field: crate::field::Field) -> Zone {
        Zone::Field(field)
    }
}

/// Two flows with the same table, priority and match that do different things.
#[derive(Clone, Debug, thiserror::Error)]
#[error("two flows for the same packets: `{first}` and `{second}`")]
pub struct Conflict {
    pub first: Box<Flow>,
    pub second: Box<Flow>,
}

/// A flow that breaks the pipeline's rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    #[error("{table:?} sends the packet up, to {goto:?}")]
    Upwards { table: Table, goto: Table },
    #[error("{table:?} uses {field}, which is not live there")]
    DeadField { table: Table, field: &'static str },
    #[error("{table:?} tracks packets whose IP version is not tested")]
    NoIpVersion { table: Table },
}

impl Flow {
    /// `app | object`: leads from a dump back to the object (`app` is the table's owner).
    pub fn cookie(&self) -> u64 {
        (self.key.table as u64 + 1) << 56 | self.reason.number()
    }

    /// Whether the flow keeps to the pipeline's rules: down only, live fields only.
    pub fn misuse(&self) -> Option<Misuse> {
        let table = self.key.table;
        let continues = self.actions.iter().filter_map(|action| match action {
            Action::Track { then, .. } | Action::Commit { then, .. } => Some(*then),
            Action::Copy(then) => Some(*then),
            _ => None,
        });
        let upwards = continues.chain(self.goto).find(|next| *next <= table).map(|goto| Misuse::Upwards { table, goto });
        let dead = |place: &Place| match place {
            Place::Field(field) if !field.is_live_at(table) => Some(Misuse::DeadField { table, field: field.name() }),
            _ => None,
        };
        // A flow may write a field that lives from the next table on.
        let reads = self.key.tests.iter().map(|test| test.place).chain(self.actions.iter().filter_map(|action| match action {
            Action::Move { from, .. } => Some(*from),
            Action::Track { zone: Zone::Field(field), .. } | Action::Commit { zone: Zone::Field(field), .. } => Some(Place::Field(*field)),
            _ => None,
        }));
        upwards.or_else(|| reads.into_iter().find_map(|place| dead(&place))).or_else(|| self.tracks_anything())
    }

    /// Open vSwitch tracks only where the match says IPv4 or IPv6.
    fn tracks_anything(&self) -> Option<Misuse> {
        let tracks = self.actions.iter().any(|action| matches!(action, Action::Track { .. } | Action::Commit { .. } | Action::DecTtl));
        (tracks && !self.key.tests.iter().any(Test::implies_ip)).then_some(Misuse::NoIpVersion { table: self.key.table })
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} ", self.key.table, self.key.priority)?;
        let tests: Vec<String> = self.key.tests.iter().map(Test::to_string).collect();
        f.write_str(if tests.is_empty() { "any" } else { "" })?;
        write!(f, "{} -> ", tests.join(", "))?;
        let goto = self.goto.map(|table| format!("goto {table:?}"));
        let said: Vec<String> = self.actions.iter().map(Action::to_string).chain(goto).collect();
        f.write_str(&if said.is_empty() { "drop".to_string() } else { said.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields;

    #[test]
    fn a_flow_that_goes_up_is_misuse() {
        let flow = Table::Receive.when([]).goto(Table::L2Lookup).because(Reason::Pipeline);
        assert_eq!(flow.misuse(), Some(Misuse::Upwards { table: Table::Receive, goto: Table::L2Lookup }));
    }

    #[test]
    fn a_flow_that_reads_a_dead_field_is_misuse() {
        let flow = Table::Classify.when([fields::DST_PORT.is(1u32)]).goto(Table::L2Lookup).because(Reason::Pipeline);
        assert!(matches!(flow.misuse(), Some(Misuse::DeadField { .. })));
    }

    #[test]
    fn a_flow_that_tracks_anything_is_misuse() {
        let track = |tests: Vec<Test>| Table::Unnat.when(tests).track(fields::NAT_ZONE, Table::Deliver).because(Reason::Pipeline);
        assert!(matches!(track(vec![]).misuse(), Some(Misuse::NoIpVersion { .. })));
        assert_eq!(track(vec![crate::ipv6()]).misuse(), None);
    }

    #[test]
    fn the_order_of_tests_does_not_matter() {
        let a = Table::L2Lookup.when([fields::NETWORK.is(1u32), crate::tun_id(4)]).drop().because(Reason::Pipeline);
        let b = Table::L2Lookup.when([crate::tun_id(4), fields::NETWORK.is(1u32)]).drop().because(Reason::Pipeline);
        assert_eq!(a, b);
    }
}
