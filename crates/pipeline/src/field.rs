//! Registers: what a packet carries from table to table, under a name, in a bit range, for a stretch of the pipeline.
//!
//! Two fields may share bits when they never live at the same time; a test proves it. A flow that matches a field where it
//! is dead is refused ([`crate::Flow::misuse`]).

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::ops::Range;

use crate::header::{Place, Test};
use crate::table::Table;

/// A named piece of a register.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// A thin reference: a node has very many tests and actions, and each holds a field.
    name: &'static &'static str,
    /// First register (0 to 15); a 128-bit field takes four, most significant first.
    pub register: u8,
    /// Lowest bit within the register, counted from the least significant.
    pub offset: u8,
    pub bits: u8,
    first: Table,
    last: Table,
}

impl Field {
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What makes it this field and no other: no two share a bit while both live.
    fn identity(&self) -> (u8, u8, u8, Table, Table) {
        (self.register, self.offset, self.bits, self.first, self.last)
    }

    /// A piece of one 32-bit register.
    pub const fn register(name: &'static &'static str, register: u8, bits: Range<u8>) -> Field {
        assert!(register < 16, "OVS has registers 0 to 15");
        assert!(bits.start < bits.end && bits.end <= 32, "a register has 32 bits");
        Field { name, register, offset: bits.start, bits: bits.end - bits.start, first: Table::Classify, last: Table::Deliver }
    }

    /// A 128-bit register: four 32-bit ones from `register`, which is a multiple of four.
    pub const fn wide(name: &'static &'static str, register: u8) -> Field {
        assert!(register < 16 && register.is_multiple_of(4), "a 128-bit register starts at a multiple of four");
        Field { name, register, offset: 0, bits: 128, first: Table::Classify, last: Table::Deliver }
    }

    /// The stretch of the pipeline in which the field means something.
    pub const fn live(mut self, first: Table, last: Table) -> Field {
        assert!((first as u8) <= (last as u8), "a packet only moves down");
        self.first = first;
        self.last = last;
        self
    }

    pub fn is_live_at(&self, table: Table) -> bool {
        self.first <= table && table <= self.last
    }

    pub fn life(&self) -> (Table, Table) {
        (self.first, self.last)
    }

    /// The packet's field equals `value`.
    pub fn is(self, value: impl Into<u128>) -> Test {
        Test::exact(Place::Field(self), value.into())
    }

    /// The packet's field equals `value` under `mask`.
    pub fn is_masked(self, value: u128, mask: u128) -> Test {
        Test::masked(Place::Field(self), value, mask)
    }

    fn registers(&self) -> Range<u8> {
        self.register..self.register + self.bits.div_ceil(32).max(1)
    }
}

impl PartialEq for Field {
    fn eq(&self, other: &Field) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Field {}

impl Hash for Field {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl PartialOrd for Field {
    fn partial_cmp(&self, other: &Field) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By name: pages and tests show flows in this order.
impl Ord for Field {
    fn cmp(&self, other: &Field) -> Ordering {
        self.name().cmp(other.name()).then_with(|| self.identity().cmp(&other.identity()))
    }
}

/// True if `a` and `b` share a bit while both live.
pub fn live_together(a: &Field, b: &Field) -> bool {
    let shares_register = a.registers().start < b.registers().end && b.registers().start < a.registers().end;
    let is_narrow = a.bits <= 32 && b.bits <= 32;
    let shares_bits = !is_narrow || (a.offset < b.offset + b.bits && b.offset < a.offset + a.bits);
    let shares_life = a.first <= b.last && b.first <= a.last;
    shares_register && shares_bits && shares_life
}

macro_rules! fields {
    ($($(#[doc = $doc:literal])* $name:ident = $field:expr;)*) => {
        /// Every field, with its documentation.
        pub const ALL: &[(Field, &str)] = &[$(($name, concat!($($doc, " "),*))),*];
        $($(#[doc = $doc])* pub const $name: Field = $field;)*
    };
}

/// The registers in use.
pub mod fields {
    use super::Field;
    use crate::table::Table::*;

    fields! {
        /// Port that the packet came from: its key. Zero: not from a port of this node.
        SRC_PORT = Field::register(&"src_port", 0, 0..32);
        /// Network that the packet is on: its key, also the VNI. Routing changes it.
        NETWORK = Field::register(&"network", 1, 0..32);
        /// Port of this node that the packet goes to: its key.
        DST_PORT = Field::register(&"dst_port", 2, 0..32).live(Gateway, Deliver);
        /// Connection tracking zone of the port whose rules are asked: the source's, from Receive on the destination's.
        RULES_ZONE = Field::register(&"rules_zone", 3, 0..16);
        /// Zone of the translations to members: of the client's port, from Receive on of the destination port.
        NAT_ZONE = Field::register(&"nat_zone", 3, 16..32);
        /// Zone of the translations of a port's connections to itself.
        HAIRPIN_ZONE = Field::register(&"hairpin_zone", 4, 0..16).live(Classify, LbSelfSource);
        /// The packet came through a tunnel and must not leave through one.
        FROM_TUNNEL = Field::register(&"from_tunnel", 4, 16..17);
        /// The packet goes back where it came from.
        TURN_BACK = Field::register(&"turn_back", 4, 17..18);
        /// The destination port is a pod: its own node is always let in.
        TO_POD = Field::register(&"to_pod", 4, 18..19).live(Receive, IngressState);
        /// The source port is a member of some pool and may be answering itself.
        IS_MEMBER = Field::register(&"is_member", 4, 19..20).live(Classify, Hairpin);
        /// Always zero, and never written. Tests of it under different masks make several flows of one match, where one flow
        /// would be too long for a message.
        PAGE = Field::register(&"page", 4, 20..28);
        /// The packet was sent to a VIP on its own network, so that no router has it yet.
        ON_LINK = Field::register(&"on_link", 4, 28..29).live(Gateway, RouterMac);
        /// The next hop is on another node, to which the packet has its way.
        IS_THERE = Field::register(&"is_there", 4, 29..30).live(NextHop, NeighbourReply);
        /// Routing domain of the source port, from Receive on of the destination port: the smallest key of the networks that
        /// routers connect with the port's own.
        DOMAIN = Field::register(&"domain", 5, 0..32);
        /// Identity (set of security groups) of the port whose rules are asked.
        OWN_IDENTITY = Field::register(&"own_identity", 6, 0..32);
        /// Identity (set of security groups) of the other side. Zero: none that a rule names.
        REMOTE_IDENTITY = Field::register(&"remote_identity", 7, 0..32).live(EgressRemote, IngressRules);
        /// Router by which the packet leaves its network, maybe for a VIP.
        GATEWAY = Field::register(&"gateway", 8, 0..32).live(Gateway, Vip);
        /// Router that the packet passes.
        ROUTER = Field::register(&"router", 8, 0..32).live(RouterMac, Route);
        /// The load balancer whose VIP the packet was sent to: the key of its VIP port.
        VIP = Field::register(&"vip", 9, 0..32).live(Gateway, LbSelfSource);
        /// A place to keep an address or a MAC while source and destination change places.
        KEPT = Field::wide(&"kept", 12).live(Hairpin, LbSelfSource);
        /// The part of a network's nodes that the packet is copied to.
        FLOOD_PART = Field::register(&"flood_part", 9, 0..32).live(Flood, FloodPart);
        /// IPv4 address of the next hop, or that is asked for. Zero: an IPv6 address is.
        NEXT_HOP = Field::register(&"next_hop", 9, 0..32).live(RouterMac, NeighbourReply);
        /// IPv6 address of the next hop, or that is asked for.
        NEXT_HOP6 = Field::wide(&"next_hop6", 12).live(RouterMac, NeighbourReply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_fields_share_a_bit_while_both_live() {
        for (i, (a, _)) in fields::ALL.iter().enumerate() {
            for (b, _) in &fields::ALL[i + 1..] {
                assert!(!live_together(a, b), "{} and {}", a.name(), b.name());
            }
        }
    }
}
