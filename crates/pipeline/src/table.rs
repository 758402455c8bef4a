//! The list of tables, in the order in which a packet passes them.

use crate::group::GroupId;

/// What happens to a packet that no flow of a table matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Miss {
    /// It is dropped.
    Drop,
    /// It goes on to the named table.
    Goto(Table),
}

macro_rules! tables {
    ($($(#[doc = $doc:literal])* $table:ident owned by $app:literal, miss $miss:expr;)*) => {
        /// One table of the pipeline. Packets only ever move down this list.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Table { $($(#[doc = $doc])* $table),* }

        impl Table {
            pub const ALL: &'static [Table] = &[$(Table::$table),*];

            /// The table's name, as it stands in OVSDB and in `ovs-ofctl --names dump-flows`.
            pub fn name(self) -> &'static str {
                match self { $(Table::$table => stringify!($table)),* }
            }

            /// What the table is for.
            pub fn purpose(self) -> &'static str {
                match self { $(Table::$table => concat!($($doc, " "),*).trim_ascii()),* }
            }

            /// The one app that writes flows of this table.
            pub fn app(self) -> &'static str {
                match self { $(Table::$table => $app),* }
            }

            /// What happens to a packet that no flow of the table matches.
            pub fn miss(self) -> Miss {
                use Miss::{Drop, Goto};
                match self { $(Table::$table => $miss),* }
            }
        }
    };
}

tables! {
    /// Learn where the packet comes from: a local port, or a tunnel.
    Classify owned by "classify", miss Drop;
    /// Drop packets whose source addresses are not the port's own or its address pairs'.
    SpoofGuard owned by "spoof", miss Drop;
    /// Hand DHCP, DHCPv6 and router solicitations to the node. ARP requests and neighbour solicitations go to Neighbours.
    Punt owned by "host_config", miss Goto(Table::Gateway);
    /// Find by which router a packet leaves its network: whose VIPs it may be for. Others are for no VIP.
    Gateway owned by "balancing", miss Goto(Table::EgressTrack);
    /// Find the load balancer that a packet is for.
    Vip owned by "balancing", miss Goto(Table::EgressTrack);
    /// Answer echo requests to VIPs. Look in a member's hairpin zone whether a packet answers a connection of the member to itself; find the
    /// member of other packets' connections.
    Hairpin owned by "balancing", miss Drop;
    /// Send the answer to a connection of the port to itself back to the port; find the member of other packets' connections.
    HairpinReply owned by "balancing", miss Drop;
    /// Packets of known connections go to their member; new ones to LbSelect.
    VipState owned by "balancing", miss Drop;
    /// Choose a member of the listener for a new connection.
    LbSelect owned by "balancing", miss Drop;
    /// Find packets whose chosen member is the client itself.
    LbSelf owned by "balancing", miss Goto(Table::EgressTrack);
    /// Give a packet to itself the VIP as its source, so that the answer comes back through the VIP.
    LbSelfSource owned by "balancing", miss Drop;
    /// Look up the connection in the source port's zone.
    EgressTrack owned by "security", miss Goto(Table::RouterMac);
    /// Let answers pass; send everything else to the rules.
    EgressState owned by "security", miss Goto(Table::EgressRemote);
    /// Look up the identity of the destination address.
    EgressRemote owned by "security", miss Goto(Table::EgressRules);
    /// The source port's egress rules.
    EgressRules owned by "security", miss Drop;
    /// Remember a new connection in the source port's zone.
    EgressCommit owned by "security", miss Goto(Table::RouterMac);
    /// Find packets that are for a router, or for a VIP on their own network.
    RouterMac owned by "routing", miss Goto(Table::L2Lookup);
    /// Answer what is for the router itself; turn away packets whose time is up.
    RouterSelf owned by "routing", miss Goto(Table::Route);
    /// Choose the way by the longest matching prefix.
    Route owned by "routing", miss Drop;
    /// Find out which address an ARP request or a neighbour solicitation asks for. A port's questions for its own address go on.
    Neighbours owned by "neighbours", miss Goto(Table::L2Lookup);
    /// Find the MAC of the next hop, or of the address that is asked for.
    NextHop owned by "neighbours", miss Drop;
    /// Make a question the answer: the ARP reply, or the neighbour advertisement. Send what goes to a port of another node on its way.
    NeighbourReply owned by "neighbours", miss Goto(Table::L2Lookup);
    /// Complete a neighbour advertisement.
    Advertise owned by "neighbours", miss Drop;
    /// Choose where the packet goes by its MAC: a local port, another node, everybody, or another router.
    L2Lookup owned by "l2", miss Drop;
    /// Copy a question (ARP, neighbour solicitation) for an address that ports carry by their address pairs to those ports.
    Carriers owned by "l2", miss Goto(Table::Flood);
    /// Copy a broadcast or multicast packet to the network's ports and nodes.
    Flood owned by "l2", miss Drop;
    /// Copy a packet to one part of the nodes, where they are too many for one flow.
    FloodPart owned by "l2", miss Drop;
    /// Send the packet to another node.
    Tunnel owned by "l2", miss Drop;
    /// Load what the rest needs to know of the destination port.
    Receive owned by "classify", miss Drop;
    /// Look up the connection in the destination port's zone.
    IngressTrack owned by "security", miss Goto(Table::Unnat);
    /// Let answers and the pod's own node pass; send everything else to the rules.
    IngressState owned by "security", miss Goto(Table::IngressRemote);
    /// Look up the identity of the source address.
    IngressRemote owned by "security", miss Goto(Table::IngressRules);
    /// The destination port's ingress rules.
    IngressRules owned by "security", miss Drop;
    /// Remember a new connection in the destination port's zone.
    IngressCommit owned by "security", miss Goto(Table::Unnat);
    /// Give an answer from a member the VIP as its source again.
    Unnat owned by "balancing", miss Goto(Table::Deliver);
    /// Hand the packet to a local interface.
    Deliver owned by "classify", miss Drop;
}

impl Table {
    /// The table's number in the half of the switch that `generation` owns.
    pub fn number(self, generation: Generation) -> u8 {
        generation.base() + self as u8
    }

    /// The table with `number` in either half.
    pub fn from_number(number: u8) -> Option<(Table, Generation)> {
        let generation = Generation::of_table(number)?;
        Table::ALL.get(usize::from(number - generation.base())).map(|table| (*table, generation))
    }
}

/// The two halves of the switch's tables and groups: a new pipeline is written into the free half, then table 0 turns (DESIGN).
///
/// These numbers are the same in every release: a release must know the half of another one from its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Generation {
    #[default]
    A,
    B,
}

impl Generation {
    pub const ALL: [Generation; 2] = [Generation::A, Generation::B];
    /// OpenFlow's first table: it only sends packets to the half in force.
    pub const DISPATCH: u8 = 0;
    /// Tables in each half.
    pub const SIZE: u8 = 120;
    /// The bit that groups of the second half have and those of the first have not: groups name tables, and so belong to a half.
    const GROUP: u32 = 1 << 30;

    /// The first table's number.
    pub const fn base(self) -> u8 {
        match self {
            Generation::A => 1,
            Generation::B => 1 + Generation::SIZE,
        }
    }

    /// The half that owns the table with `number`; none owns table 0.
    pub fn of_table(number: u8) -> Option<Generation> {
        let owns = |half: &Generation| (half.base()..half.base() + Generation::SIZE).contains(&number);
        Generation::ALL.into_iter().find(owns)
    }

    /// The group's number on the switch. Within a half the order of groups stays.
    pub fn group_number(self, id: GroupId) -> u32 {
        debug_assert!(id.0 & Generation::GROUP == 0, "group {} is numbered beyond the half's range", id.0);
        match self {
            Generation::A => id.0 & !Generation::GROUP,
            Generation::B => id.0 | Generation::GROUP,
        }
    }

    /// The half that owns the group with `number`.
    pub fn of_group(number: u32) -> Generation {
        if number & Generation::GROUP == 0 { Generation::A } else { Generation::B }
    }

    pub fn other(self) -> Generation {
        match self {
            Generation::A => Generation::B,
            Generation::B => Generation::A,
        }
    }
}

const _: () = assert!(Table::ALL.len() <= Generation::SIZE as usize, "a half of the switch holds 120 tables");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_goes_down() {
        for table in Table::ALL {
            if let Miss::Goto(next) = table.miss() {
                assert!(next > *table, "{table:?} misses to {next:?}");
            }
        }
    }

    #[test]
    fn a_number_leads_back_to_its_table() {
        for table in Table::ALL {
            for generation in Generation::ALL {
                assert_eq!(Table::from_number(table.number(generation)), Some((*table, generation)));
            }
        }
        assert_eq!(Table::from_number(Generation::DISPATCH), None);
    }

    #[test]
    fn no_table_and_no_group_is_in_both_halves() {
        let owned = |half| (0..=u8::MAX).filter(|number| Generation::of_table(*number) == Some(half)).count();
        assert_eq!(Generation::ALL.map(owned), [120, 120]);
        assert_eq!(Generation::of_table(Generation::DISPATCH), None);
        let ids = [GroupId(1), GroupId(7), GroupId(1 << 31 | 1), GroupId(1 << 31 | 7)];
        for half in Generation::ALL {
            let numbers = ids.map(|id| half.group_number(id));
            assert!(numbers.is_sorted(), "a group names groups with smaller numbers, in either half: {numbers:x?}");
            assert!(numbers.iter().all(|number| Generation::of_group(*number) == half && *number < 0xffff_ff00));
        }
    }
}
