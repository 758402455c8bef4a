//! A member that reaches itself through its own VIP (hairpin).
//!
//! Port A asks VIP V and is chosen itself: `A → V` becomes `A → A` in the zone of members and `V → A` in the hairpin zone.
//! A's answer `A → V` becomes `A → A` in the hairpin zone and `V → A` in the zone of members.

use ipnet::IpNet;
use model::Port;
use pipeline::{Action, Flow, Nat, Reason, Table, Test, ct, ct_state, fields::*, ip_dst, ipv4, ipv6};

use super::turn_back;
use super::vip::{Vip, known};
use crate::classify::{is_member, key, own_addresses};
use crate::sight::Sight;

pub(super) fn for_everybody() -> Vec<Flow> {
    [ipv4(), ipv6()].into_iter().flat_map(|family| [look_for_answer(family), answer_itself(family)]).collect()
}

/// A packet of a member to a VIP may answer the member itself: its hairpin zone knows.
fn look_for_answer(family: Test) -> Flow {
    Table::Hairpin.when([IS_MEMBER.is(1u8), family]).act(known(HAIRPIN_ZONE, Table::HairpinReply)).because(Reason::Pipeline)
}

/// The answer to a connection of the port to itself, or an ICMP error about one, gets the VIP as its source and goes back.
fn answer_itself(family: Test) -> Flow {
    Table::HairpinReply
        .when([ct_state(ct::TRK | ct::RPL, ct::INV), family])
        .acts(turn_back())
        .act(known(NAT_ZONE, Table::Deliver))
        .because(Reason::Pipeline)
}

/// A packet whose member is the client itself goes back, with the VIP as its source.
pub(super) fn for_port(sight: &Sight, port: &Port) -> Vec<Flow> {
    if !is_member(sight, port) {
        return Vec::new();
    }
    let to_itself = |ip| {
        Table::LbSelf
            .when([SRC_PORT.is(port.key.0), ip_dst(IpNet::from(ip))])
            .acts(turn_back())
            .goto(Table::LbSelfSource)
            .because(key(port))
    };
    own_addresses(port).map(to_itself).collect()
}

/// A packet to itself seems to come from the VIP.
pub(super) fn from_vip(vip: &Vip) -> Flow {
    let family = if vip.ip.is_ipv6() { ipv6() } else { ipv4() };
    let nat = Some(Nat::Source(vip.ip));
    Table::LbSelfSource
        .when([VIP.is(vip.port.key.0), family])
        .act(Action::Commit { zone: HAIRPIN_ZONE.into(), nat, then: Table::Deliver })
        .because(vip.because)
}
