//! What virtual machines and pods send that a flow hands to the node.
//!
//! The world: network 7 with the port `web` (key 4, interface 11) that has DHCP options of its own, a router to network 8.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use apps::View;
use apps::testing::*;
use model::{DhcpOption, Ipv6Mode, Mac, Port, Subnet};
use node::local::Local;
use node::respond::packet::{Envelope, Packet};
use node::respond::{Question, answers};
use node::translate;
use openflow::{Action, Match, PacketIn2, PacketOut};
use pipeline::{Field, Place, Punt, fields};

/// Key of `web`, its interface, its network, its MAC.
const KEY: u32 = 4;
const INTERFACE: u32 = 11;
const NETWORK: u32 = 7;
const WEB: Mac = Mac([0x0a, 0, 0, 0, 0, 4]);
/// Longest frame of an answer: a whole Ethernet frame with its header.
const FRAME_MAX: usize = 1514;

static LOCAL: LazyLock<Local> = LazyLock::new(|| {
    let v6 = Subnet {
        dns_servers: vec![ip("fd00::53")],
        gateway: Some(ip("fd00::1")),
        ra_mode: Some(Ipv6Mode::Stateful),
        address_mode: Some(Ipv6Mode::Stateful),
        ..subnet("v6", "blue", "fd00::/64")
    };
    let option = |name: &str, value: &str, ip_version| DhcpOption { name: name.into(), value: value.into(), ip_version };
    let dhcp_options =
        vec![option("bootfile-name", "pxe.0", 4), option("ntp-server", "10.0.0.3", 4), option("domain-search", "a.example", 6)];
    let web = Port { dhcp_options, ..port("web", KEY, "blue", &[("v4", "10.0.0.9"), ("v6", "fd00::9")]) };
    let id = web.id;
    let changes = [
        here("n1", "192.0.2.1"),
        put(network("blue", NETWORK)),
        put(Subnet { dns_servers: vec![ip("10.0.0.2")], ..subnet("v4", "blue", "10.0.0.0/24") }),
        put(v6),
        put(web),
        put(interface("ri", 9, "blue", "r", &[("v4", "10.0.0.1"), ("v6", "fd00::1")])),
        put(router("r", 1)),
        put(network("red", 8)),
        put(subnet("r4", "red", "10.8.0.0/24")),
        put(interface("rr", 10, "red", "r", &[("r4", "10.8.0.1")])),
        attach("web", INTERFACE),
    ];
    let mut view = View::default();
    changes.into_iter().for_each(|change| view.apply(change, &mut Default::default()));
    Local::of(&view, &BTreeSet::from([id]))
});

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of the world")
}

/// The message of a DHCP client.
pub fn dhcp(message: &[u8]) {
    let envelope = Envelope { eth_src: WEB, eth_dst: Mac::BROADCAST, src: ip("0.0.0.0"), dst: ip("255.255.255.255"), ttl: 64 };
    if let Some(frame) = envelope.udp((68, 67), message) {
        own_answers(&ask(Punt::Dhcp, KEY, frame));
    }
}

/// The message of a DHCPv6 client.
pub fn dhcpv6(message: &[u8]) {
    let envelope = Envelope { eth_src: WEB, eth_dst: Mac([0x33, 0x33, 0, 1, 0, 2]), src: ip("fe80::9"), dst: ip("ff02::1:2"), ttl: 64 };
    if let Some(frame) = envelope.udp((546, 547), message) {
        own_answers(&ask(Punt::Dhcpv6, KEY, frame));
    }
}

/// An ICMPv6 message of neighbour discovery, from its type on.
pub fn nd(message: &[u8]) {
    let Some(([kind, code, _, _, a, b, c, d], rest)) = message.split_first_chunk() else { return };
    let envelope = Envelope { eth_src: WEB, eth_dst: Mac([0x33, 0x33, 0, 0, 0, 2]), src: ip("fe80::9"), dst: ip("ff02::2"), ttl: 255 };
    if let Some(frame) = envelope.icmp(*kind, *code, [*a, *b, *c, *d], rest) {
        own_answers(&ask(Punt::RouterSolicitation, KEY, frame));
    }
}

/// The reason, the port's key, and a frame of any kind: ARP, ICMP, TCP, and what is none of these.
pub fn packet_in(bytes: &[u8]) {
    let Some(([reason, key], frame)) = bytes.split_first_chunk() else { return };
    let Some(punt) = Punt::from_byte(*reason) else { return };
    for out in ask(punt, u32::from(*key), frame.to_vec()) {
        sound(&out);
        let answer = Packet::parse(&out.packet).expect("an answer is a packet");
        assert!(punt == Punt::RouterSolicitation || !answer.dst.is_multicast(), "only advertisements are for everybody");
    }
}

/// Answers as the node gives them to a packet that the switch hands over.
fn ask(punt: Punt, key: u32, frame: Vec<u8>) -> Vec<PacketOut> {
    let metadata = Match::new([register(fields::SRC_PORT, key), register(fields::NETWORK, NETWORK)]).expect("two registers agree");
    let packet_in = PacketIn2 { packet: frame, userdata: vec![punt as u8], metadata, ..PacketIn2::default() };
    Question::of(Box::new(packet_in)).map_or_else(Vec::new, |question| answers(&question, &LOCAL).0)
}

fn register(field: Field, value: u32) -> openflow::MatchField {
    let (of, offset) = translate::place(Place::Field(field));
    let mask = u128::MAX >> (128 - u32::from(field.bits));
    of.masked((u128::from(value) & mask) << offset, mask << offset)
}

/// Answers to the port's own questions: out of its interface, and nowhere else.
fn own_answers(outs: &[PacketOut]) {
    for out in outs {
        sound(out);
        assert_eq!(out.actions, [Action::output(openflow::OfPort(INTERFACE))]);
    }
}

fn sound(out: &PacketOut) {
    assert!(Packet::parse(&out.packet).is_some(), "an answer is a packet: {:02x?}", out.packet);
    assert!(out.packet.len() <= FRAME_MAX, "an answer of {} bytes fits no frame", out.packet.len());
    assert!(out.packet.get(6..12) != Some(&WEB.0), "nobody speaks with the asker's MAC");
}
