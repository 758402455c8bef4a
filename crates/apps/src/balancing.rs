//! Load balancers: one address in front of many, answered where the client is.
//!
//! A packet to a VIP is recognised by its address and by the router that leads there (Gateway, Vip); from then on a register says whose
//! it is, and what is the same for all VIPs is one flow. If it belongs to a known connection,
//! connection tracking in the sender's zone gives it its member back, whatever has become of the members since (VipState).
//! A new connection meets the listener's select group (LbSelect), which translates the destination and keeps the client's
//! address. Where no member takes new connections, or nobody listens, the node answers at once (TCP reset, ICMP
//! unreachable). From there on the packet is for its member: the port's egress rules, routing and the member's ingress rules
//! see that address. The answer gets the VIP as its source again just before it is delivered (Unnat); TCP that the
//! client's own rules let in is no answer and is not looked up there. ICMP errors are translated along with the connection that
//! they are about (RFC 5508).
//!
//! A member that reaches itself would answer itself without the VIP. So a packet whose member is its own sender (LbSelf, one
//! flow per local address) gets the VIP as its source, in a zone of its own (LbSelfSource), and the answer, which is a packet
//! to the VIP, is looked up there first (Hairpin). Neither meets any rules.
//!
//! Ports are only looked at after tracking, because that is where a kernel's datapath has put fragments together. The
//! userspace datapath of Open vSwitch 3.1 sends them on singly: there a fragmented datagram passes a VIP once its connection
//! exists, and not before.

mod choose;
mod connections;
mod gateway;
mod itself;
mod vip;

use model::{Kind, ObjectKey};
use pipeline::{Action, Header, fields::*};

use crate::app::{App, Output, Root, RootKind};
use crate::sight::Sight;

pub use choose::{MEMBERS_MAX, SLOTS_MAX};
pub use connections::{Connection, Judge};

pub const APP: App = App {
    name: "balancing",
    roots: &[
        RootKind::Object(Kind::LoadBalancer),
        RootKind::Object(Kind::Listener),
        RootKind::Object(Kind::Network),
        RootKind::Object(Kind::Port),
        RootKind::Attached,
        RootKind::Here,
    ],
    run,
};

fn run(sight: &Sight, root: Root) -> Output {
    match root {
        Root::Object(ObjectKey { kind: Kind::LoadBalancer, id }) => {
            sight.load_balancer(id).map(|balancer| vip::for_balancer(sight, balancer).into())
        }
        Root::Object(ObjectKey { kind: Kind::Listener, id }) => {
            sight.listener(id).and_then(|listener| choose::for_listener(sight, listener))
        }
        Root::Object(ObjectKey { kind: Kind::Port, id }) => {
            let interface = sight.port(id).filter(|port| port.is_router_interface());
            interface.map(|interface| gateway::for_interface(sight, interface).into())
        }
        Root::Object(key) => sight.network(key.id).map(|network| vip::give_back(sight, network).into()),
        Root::Attached(id) => sight.live(id).map(|(port, ..)| itself::for_port(sight, port).into()),
        Root::Here => Some([vip::for_everybody(), itself::for_everybody()].concat().into()),
        Root::Address(..) => None,
    }
    .unwrap_or_default()
}

/// The packet goes back to its sender: the MACs change places, Deliver turns it round.
fn turn_back() -> [Action; 4] {
    [
        Action::copy_low(Header::EthDst, KEPT, 48),
        Action::copy(Header::EthSrc, Header::EthDst),
        Action::copy_low(KEPT, Header::EthSrc, 48),
        Action::set(TURN_BACK, 1u8),
    ]
}

#[cfg(test)]
mod tests;
