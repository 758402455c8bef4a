//! Where a packet comes from, and where it leaves.
//!
//! A packet enters from a local port's interface or from a tunnel. Classify writes down which port and network that is, and
//! the numbers that the rest of the pipeline needs of the port. At the other end, Receive does the same for the destination
//! port, and Deliver hands the packet to its interface, unless it would come out of a tunnel of the machine's own.

use model::{Mac, Network, Port, owner};
use pipeline::{Action, Flow, Header, OfPort, Priority, Reason, Table, Test, fields::*, in_port, ip_proto, ipv4, ipv6, l4_dst};

use crate::app::{App, Output, Root, RootKind};
use crate::sight::Sight;
use crate::view::Attachment;

const UDP: u8 = 17;
/// Where tunnels end: Geneve (RFC 8926) and VXLAN (RFC 7348).
const TUNNEL_PORTS: [u16; 2] = [6081, 4789];

pub const APP: App = App { name: "classify", roots: &[RootKind::Attached, RootKind::Object(model::Kind::Network), RootKind::Here], run };

fn run(sight: &Sight, root: Root) -> Output {
    let flows = match root {
        Root::Attached(id) => match sight.live(id) {
            Some((port, attachment, network)) => {
                let ways = [from_port(sight, port, attachment, network), receive(sight, port, attachment), deliver(port, attachment)];
                ways.into_iter().chain(no_tunnel_in_here(port)).collect()
            }
            None => Vec::new(),
        },
        Root::Object(key) => match (sight.network(key.id), sight.here().tunnel_port) {
            (Some(network), Some(tunnel)) => vec![from_tunnel(network, OfPort(tunnel))],
            _ => Vec::new(),
        },
        Root::Here => vec![turn_back()],
        Root::Address(..) => Vec::new(),
    };
    flows.into()
}

/// A packet from `port`'s interface is from `port`, on `port`'s network.
fn from_port(sight: &Sight, port: &Port, attachment: &Attachment, network: &Network) -> Flow {
    Table::Classify
        .when([in_port(attachment.ofport)])
        .set(SRC_PORT, port.key.0)
        .set(NETWORK, network.key.0)
        .set(DOMAIN, sight.domain(network.id))
        .set(RULES_ZONE, attachment.rules_zone)
        .set(NAT_ZONE, attachment.nat_zone)
        .set(HAIRPIN_ZONE, attachment.hairpin_zone)
        .set(IS_MEMBER, u8::from(is_member(sight, port)))
        .set(OWN_IDENTITY, sight.own_identity(port))
        .goto(Table::SpoofGuard)
        .because(key(port))
}

/// A packet from the tunnel is on the network that its VNI names.
fn from_tunnel(network: &Network, tunnel: OfPort) -> Flow {
    Table::Classify
        .when([in_port(tunnel), pipeline::tun_id(network.key.0)])
        .set(NETWORK, network.key.0)
        .set(FROM_TUNNEL, 1u8)
        .goto(Table::L2Lookup)
        .because(model::ObjectKey::new(model::Kind::Network, network.id))
}

/// A packet for `port` meets `port`'s zones, domain and identity.
fn receive(sight: &Sight, port: &Port, attachment: &Attachment) -> Flow {
    Table::Receive
        .when([DST_PORT.is(port.key.0)])
        .set(DOMAIN, sight.domain(port.network))
        .set(RULES_ZONE, attachment.rules_zone)
        .set(NAT_ZONE, attachment.nat_zone)
        .set(OWN_IDENTITY, sight.own_identity(port))
        .set(TO_POD, u8::from(port.device_owner == owner::POD))
        .goto(Table::IngressTrack)
        .because(key(port))
}

/// A packet for `port` leaves by `port`'s interface.
fn deliver(port: &Port, attachment: &Attachment) -> Flow {
    Table::Deliver.when([DST_PORT.is(port.key.0)]).act(Action::Output(attachment.ofport)).because(key(port))
}

/// A packet for the machine itself is never one of a tunnel: tunnels run outside of the network. Whoever could send one from inside
/// would choose network and source of what is in it.
fn no_tunnel_in_here(port: &Port) -> Vec<Flow> {
    if ![owner::NODE, owner::METAL].contains(&port.device_owner.as_str()) {
        return Vec::new();
    }
    let of = |family: fn() -> Test, udp_port: u16| {
        let ends = l4_dst(UDP, udp_port, u16::MAX);
        let tests = [DST_PORT.is(port.key.0), family(), ip_proto(UDP)].into_iter().chain(ends);
        Table::Deliver.when(tests).priority(Priority::Guard).drop().because(key(port))
    };
    [ipv4 as fn() -> Test, ipv6].into_iter().flat_map(|family| TUNNEL_PORTS.map(|udp_port| of(family, udp_port))).collect()
}

/// An answer that was made out of the question goes back where the question came from.
fn turn_back() -> Flow {
    Table::Deliver.when([TURN_BACK.is(1u8)]).priority(Priority::High).act(Action::OutputBack).because(Reason::Pipeline)
}

/// True if some pool has the port as a member.
pub(crate) fn is_member(sight: &Sight, port: &Port) -> bool {
    own_addresses(port).any(|ip| sight.any(crate::view::Index::MembersAt(ip)))
}

/// The port's addresses, with those that its address pairs name one by one: a machine's own port has the machine's underlay
/// addresses as pairs.
pub(crate) fn own_addresses(port: &Port) -> impl Iterator<Item = std::net::IpAddr> + '_ {
    port.addresses().chain(single_pairs(port).map(|(ip, _)| ip))
}

/// The addresses that the port's address pairs name one by one, each with its MAC: VRRP's, say.
pub(crate) fn single_pairs(port: &Port) -> impl Iterator<Item = (std::net::IpAddr, Mac)> + '_ {
    let single = port.address_pairs.iter().filter(|pair| pair.ip.prefix_len() == pair.ip.max_prefix_len());
    single.map(|pair| (pair.ip.addr(), pair.mac))
}

pub(crate) fn key(port: &Port) -> model::ObjectKey {
    model::ObjectKey::new(model::Kind::Port, port.id)
}

/// The headers that hold the other end's IPv4 and IPv6 tunnel address.
pub(crate) fn tunnel_header(ip: std::net::IpAddr) -> (Header, u128) {
    match ip {
        std::net::IpAddr::V4(ip) => (Header::TunDst, ip.to_bits().into()),
        std::net::IpAddr::V6(ip) => (Header::TunDst6, ip.to_bits()),
    }
}
