//! ICMP errors: who hears them, from whom, and who hears nothing.

use model::Mac;
use openflow::{Action as Of, OfPort as OfNumber};
use pipeline::{Generation, Punt, Table, fields};

use super::{ROUTER, ROUTER_RED, WEB, question, world};
use crate::respond::answers;
use crate::respond::packet::{Envelope, Packet};
use crate::translate;

/// A packet of `web`, as it looks when it enters the router.
fn from_web(dst: &str) -> Envelope {
    let dst: std::net::IpAddr = dst.parse().unwrap();
    let src = if dst.is_ipv4() { "10.0.0.9" } else { "fd00::9" };
    Envelope { eth_src: WEB, eth_dst: ROUTER, src: src.parse().unwrap(), dst, ttl: 1 }
}

struct Said {
    eth: (Mac, Mac),
    src: String,
    dst: String,
    error: (u8, u8),
    quoted: Vec<u8>,
    actions: Vec<Of>,
}

fn said(punt: Punt, registers: &[(pipeline::Field, u32)], frame: Vec<u8>) -> Option<Said> {
    let (outs, _) = answers(&question(punt, registers, frame), &world(|_| ()));
    let [out] = &outs[..] else { return None };
    let packet = Packet::parse(&out.packet).unwrap();
    Some(Said {
        eth: (packet.eth_src, packet.eth_dst),
        src: packet.src.to_string(),
        dst: packet.dst.to_string(),
        error: (packet.payload[0], packet.payload[1]),
        quoted: packet.payload[8..].to_vec(),
        actions: out.actions.clone(),
    })
}

const HOME: [(pipeline::Field, u32); 2] = [(fields::SRC_PORT, 4), (fields::NETWORK, 7)];

#[test]
fn time_exceeded_comes_from_the_router_that_was_entered_and_quotes_the_packet() {
    for (dst, router, error) in [("10.8.0.5", "10.0.0.1", (11, 0)), ("fd08::5", "fd00::1", (3, 0))] {
        let packet = from_web(dst);
        let frame = packet.udp((4000, 33434), b"trace").unwrap();
        let said = said(Punt::TimeExceeded, &HOME, frame.clone()).unwrap();
        assert_eq!((said.src.as_str(), said.dst, said.error), (router, packet.src.to_string(), error));
        assert_eq!(said.eth, (ROUTER, WEB));
        assert_eq!(said.quoted, frame[14..]);
    }
}

#[test]
fn the_second_router_speaks_with_its_own_address() {
    let second = Envelope { eth_src: ROUTER_RED, eth_dst: Mac([0x0a, 0, 0, 0, 0, 12]), ..from_web("10.9.0.5") };
    let said = said(Punt::TimeExceeded, &[(fields::SRC_PORT, 4), (fields::NETWORK, 8)], second.udp((1, 2), b"").unwrap()).unwrap();
    assert_eq!((said.src.as_str(), said.eth), ("10.8.0.2", (ROUTER, WEB)));
}

#[test]
fn no_route_and_no_host_say_so() {
    let frame = |dst: &str| from_web(dst).udp((1, 2), b"").unwrap();
    assert_eq!(said(Punt::NoRoute, &HOME, frame("10.77.0.1")).unwrap().error, (3, 0));
    assert_eq!(said(Punt::NoRoute, &HOME, frame("fd77::1")).unwrap().error, (1, 0));
    let on_red = [(fields::SRC_PORT, 4), (fields::NETWORK, 8)];
    let at_next_hop = Envelope { eth_src: ROUTER_RED, ..from_web("10.8.0.99") };
    let said = said(Punt::NoHost, &on_red, at_next_hop.udp((1, 2), b"").unwrap()).unwrap();
    assert_eq!((said.error, said.src.as_str(), said.eth), ((3, 1), "10.0.0.1", (ROUTER, WEB)));
}

#[test]
fn an_error_goes_to_the_port_through_unnat() {
    let registers = [(fields::SRC_PORT, 4), (fields::NETWORK, 7), (fields::DOMAIN, 7), (fields::NAT_ZONE, 33), (fields::RULES_ZONE, 32)];
    // NAT_ZONE and RULES_ZONE share a register.
    let merged = [registers[0], registers[1], registers[2], (pipeline::Field::register(&"both", 3, 0..32), 33 << 16 | 32)];
    let said = said(Punt::TimeExceeded, &merged, from_web("10.8.0.5").udp((1, 2), b"").unwrap()).unwrap();
    let set = |field, value: u32| translate::set(field, value.into());
    let wanted = [set(fields::DST_PORT, 4), set(fields::DOMAIN, 7), set(fields::NAT_ZONE, 33), set(fields::RULES_ZONE, 32)];
    assert_eq!(said.actions[..4], wanted);
    assert_eq!(said.actions[4], Of::resubmit(Table::Unnat.number(Generation::A)));
}

#[test]
fn a_sender_on_another_node_hears_of_a_missing_host_by_the_way_that_it_came() {
    let tunnel = [(fields::NETWORK, 7)];
    let neighbour = Envelope { eth_src: Mac([2, 0, 0, 0, 0, 5]), src: "10.0.0.50".parse().unwrap(), ..from_web("10.0.0.70") };
    let near = said(Punt::NoHost, &tunnel, neighbour.udp((1, 2), b"").unwrap()).unwrap();
    assert_eq!((near.src.as_str(), near.eth.1), ("10.0.0.1", Mac([2, 0, 0, 0, 0, 5])));
    assert_eq!(near.actions.last(), Some(&Of::resubmit(Table::L2Lookup.number(Generation::A))));
    let routed = Envelope { eth_src: ROUTER, src: "10.8.0.50".parse().unwrap(), ..from_web("10.0.0.70") };
    let far = said(Punt::NoHost, &tunnel, routed.udp((1, 2), b"").unwrap()).unwrap();
    assert!(far.actions.contains(&translate::set(fields::ROUTER, 1)), "{:?}", far.actions);
    assert_eq!(far.actions.last(), Some(&Of::resubmit(Table::Route.number(Generation::A))));
}

#[test]
fn a_refusal_comes_from_the_address_that_was_asked() {
    let vip = Envelope { eth_dst: Mac([2, 0, 0, 0, 0, 7]), ..from_web("10.96.0.1") };
    let said_udp = said(Punt::Refused, &HOME, vip.udp((4000, 53), b"?").unwrap()).unwrap();
    assert_eq!((said_udp.src.as_str(), said_udp.error, said_udp.eth), ("10.96.0.1", (3, 3), (Mac([2, 0, 0, 0, 0, 7]), WEB)));
    let mut frame = Vec::new();
    let ip = etherparse::PacketBuilder::ethernet2(WEB.0, ROUTER.0).ipv4([10, 0, 0, 9], [10, 0, 0, 1], 64);
    ip.tcp(4000, 179, 7, 100).syn().write(&mut frame, &[]).unwrap();
    let (outs, _) = answers(&question(Punt::Refused, &HOME, frame), &world(|_| ()));
    assert_eq!(outs[0].actions, [Of::output(OfNumber(11))]);
}

#[test]
fn an_error_is_no_longer_than_its_sender_must_take() {
    let long = vec![0; 1400];
    let v4 = said(Punt::NoRoute, &HOME, from_web("10.77.0.1").udp((1, 2), &long).unwrap()).unwrap();
    assert_eq!(v4.quoted.len(), crate::respond::icmp::LENGTH_MAX - 28);
    let v6 = said(Punt::NoRoute, &HOME, from_web("fd77::1").udp((1, 2), &long).unwrap()).unwrap();
    assert_eq!(v6.quoted.len(), 1280 - 48);
}

#[test]
fn errors_breed_no_errors_and_groups_hear_none() {
    let silent = |frame: Vec<u8>| said(Punt::TimeExceeded, &HOME, frame).is_none();
    assert!(silent(from_web("10.8.0.5").icmp(3, 1, [0; 4], b"").unwrap()), "an ICMP error");
    assert!(silent(from_web("fd08::5").icmp(1, 0, [0; 4], b"").unwrap()), "an ICMPv6 error");
    assert!(!silent(from_web("10.8.0.5").icmp(8, 0, [0; 4], b"").unwrap()), "an echo request");
    assert!(!silent(from_web("fd08::5").icmp(128, 0, [0; 4], b"").unwrap()), "an echo request");
    assert!(silent(from_web("224.0.0.5").udp((1, 2), b"").unwrap()), "to a group");
    assert!(silent(from_web("255.255.255.255").udp((1, 2), b"").unwrap()), "to everybody");
    assert!(silent(Envelope { eth_dst: Mac::BROADCAST, ..from_web("10.8.0.5") }.udp((1, 2), b"").unwrap()), "by broadcast");
    assert!(silent(Envelope { src: "0.0.0.0".parse().unwrap(), ..from_web("10.8.0.5") }.udp((1, 2), b"").unwrap()), "from nobody");
    let mut later = from_web("10.8.0.5").udp((1, 2), b"12345678").unwrap();
    later[20..22].copy_from_slice(&[0, 5]);
    assert!(silent(later), "a later fragment");
}

#[test]
fn a_protocol_that_the_router_does_not_speak_is_unreachable() {
    let mut frame = from_web("10.0.0.1").udp((1, 2), b"").unwrap();
    frame[23] = 132;
    assert_eq!(said(Punt::Refused, &HOME, frame).unwrap().error, (3, 2));
    let mut frame = from_web("fd00::1").udp((1, 2), b"").unwrap();
    frame[20] = 132;
    assert_eq!(said(Punt::Refused, &HOME, frame).unwrap().error, (4, 1));
}
