//! Router advertisements, asked for and not.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use apps::View;
use apps::testing::*;
use etherparse::Icmpv6Slice;
use model::{Ipv6Mode, Subnet, link_local};
use tokio::time::Instant;

use super::{Parts, ROUTER, WEB, web, world};
use crate::local::{Concerned, Local};
use crate::respond::announce::Announcements;
use crate::respond::packet::{Envelope, Packet};
use crate::respond::ra::{DNS_MAX, INTERVAL_MAX_SECS, PREFIXES_MAX, ROUTER_SECS, answer};

fn solicitation(ttl: u8, src: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let envelope = Envelope {
        eth_src: WEB,
        eth_dst: "33:33:00:00:00:02".parse().unwrap(),
        src: IpAddr::V6(src),
        dst: "ff02::2".parse().unwrap(),
        ttl,
    };
    envelope.icmp(133, 0, [0; 4], options).unwrap()
}

/// Flags, lifetime and options.
fn advertised(change: impl FnOnce(&mut Parts)) -> Option<(u8, u16, Vec<u8>)> {
    let local = world(change);
    let frames = answer(&Packet::parse(&solicitation(255, link_local(WEB), &[])).unwrap(), web(&local));
    let [frame] = &frames[..] else { return None };
    let packet = Packet::parse(frame).unwrap();
    assert_eq!((packet.src, packet.dst.to_string(), packet.ttl), (IpAddr::V6(link_local(ROUTER)), "ff02::1".into(), 255));
    let icmp = Icmpv6Slice::from_slice(packet.payload).unwrap();
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (packet.src, packet.dst) else { panic!("IPv6") };
    assert!(icmp.is_checksum_valid(src.octets(), dst.octets()));
    assert_eq!((icmp.type_u8(), icmp.code_u8()), (134, 0));
    let [64, flags, high, low] = icmp.bytes5to8() else { panic!("{:?}", icmp.bytes5to8()) };
    Some((flags, u16::from_be_bytes([high, low]), icmp.payload()[8..].to_vec()))
}

/// The content of the first option of the kind.
fn option(options: &[u8], kind: u8) -> Option<Vec<u8>> {
    let mut rest = options;
    while let [this, length, ..] = *rest {
        let (one, next) = rest.split_at(8 * usize::from(length));
        if this == kind {
            return Some(one[2..].to_vec());
        }
        rest = next;
    }
    None
}

#[test]
fn the_flags_follow_from_the_mode() {
    for (mode, flags, prefix_flags) in [(Ipv6Mode::Slaac, 0, 0xc0), (Ipv6Mode::Stateless, 0x40, 0xc0), (Ipv6Mode::Stateful, 0xc0, 0x80)] {
        let (said, lifetime, options) = advertised(|parts| parts.mode(mode)).unwrap();
        assert_eq!((said, lifetime), (flags, ROUTER_SECS), "{mode:?}");
        let prefix = option(&options, 3).unwrap();
        assert_eq!((prefix[0], prefix[1]), (64, prefix_flags), "{mode:?}");
        assert_eq!(prefix[14..], "fd00::".parse::<Ipv6Addr>().unwrap().octets());
    }
}

#[test]
fn a_host_hears_the_mtu_the_dns_servers_and_the_routers_mac() {
    let (_, _, options) = advertised(|parts| parts.mode(Ipv6Mode::Slaac)).unwrap();
    assert_eq!(option(&options, 1).unwrap(), ROUTER.0);
    assert_eq!(option(&options, 5).unwrap()[2..], 1442u32.to_be_bytes());
    assert_eq!(option(&options, 25).unwrap()[6..], "fd00::53".parse::<Ipv6Addr>().unwrap().octets());
}

#[test]
fn an_advertisement_is_not_endless() {
    let (_, _, options) = advertised(|parts| {
        parts.mode(Ipv6Mode::Slaac);
        parts.v6.dns_servers = (0..=DNS_MAX).map(|n| format!("fd00::53:{n:x}").parse().unwrap()).collect();
    })
    .unwrap();
    assert_eq!(option(&options, 25).unwrap().len(), 6 + 16 * DNS_MAX);
}

#[test]
fn an_advertisement_has_so_many_prefixes_and_no_more() {
    let (_, _, mut options) = advertised(|parts| {
        let more = (0..=PREFIXES_MAX).map(|n| (format!("more{n}"), format!("fd00:0:0:{n:x}::1")));
        let more: Vec<(String, String)> = more.collect();
        let slaac = Some(Ipv6Mode::Slaac);
        parts.more.extend(
            more.iter().map(|(name, ip)| put(Subnet { ra_mode: slaac, address_mode: slaac, ..subnet(name, "blue", &format!("{ip}/64")) })),
        );
        let addresses: Vec<(&str, &str)> = more.iter().map(|(name, ip)| (name.as_str(), ip.as_str())).collect();
        parts.interface = interface("ri", 9, "blue", "r", &addresses);
    })
    .unwrap();
    let mut prefixes = 0;
    while let [kind, length, ..] = *options {
        prefixes += usize::from(kind == 3);
        options.drain(..8 * usize::from(length));
    }
    assert_eq!(prefixes, PREFIXES_MAX);
}

#[test]
fn a_router_that_is_nobodys_gateway_is_no_default_router() {
    let change = |parts: &mut Parts| {
        parts.mode(Ipv6Mode::Slaac);
        parts.v6.gateway = None;
    };
    assert_eq!(advertised(change).unwrap().1, 0);
}

#[test]
fn a_network_that_nobody_announces_and_a_router_that_is_down_are_silent() {
    assert_eq!(advertised(|_| ()), None);
    let down = |parts: &mut Parts| {
        parts.mode(Ipv6Mode::Slaac);
        parts.interface.is_admin_up = false;
    };
    assert_eq!(advertised(down), None);
}

#[test]
fn a_solicitation_from_afar_or_malformed_is_not_answered() {
    let local = world(|parts| parts.mode(Ipv6Mode::Slaac));
    let said = |frame: Vec<u8>| answer(&Packet::parse(&frame).unwrap(), web(&local)).len();
    let sender = [&[1, 1][..], &WEB.0].concat();
    assert_eq!(said(solicitation(255, Ipv6Addr::UNSPECIFIED, &[])), 1);
    assert_eq!(said(solicitation(64, link_local(WEB), &[])), 0, "a hop limit below 255");
    assert_eq!(said(solicitation(255, Ipv6Addr::UNSPECIFIED, &sender)), 0, "nobody with a MAC");
    assert_eq!(said(solicitation(255, link_local(WEB), &[1, 0, 0, 0, 0, 0, 0, 0])), 0, "an option without a length");
    assert_eq!(said(solicitation(255, link_local(WEB), &[1, 2, 0, 0, 0, 0, 0, 0])), 0, "an option that is cut");
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_port_hears_its_router_soon_and_then_again_and_again() {
    let (mut plans, start) = (Announcements::default(), Instant::now());
    plans.refresh(&world(|parts| parts.mode(Ipv6Mode::Slaac)), start);
    assert_eq!(plans.due(start + SECOND).len(), 1);
    let mut now = start + SECOND;
    for _ in 0..20 {
        let next = plans.next_at().unwrap();
        let pause = next - now;
        let interval = SECOND * u32::from(INTERVAL_MAX_SECS);
        assert!(pause >= interval / 3 - SECOND && pause <= interval, "{pause:?}");
        now = next;
        assert_eq!(plans.due(now).len(), 1);
    }
}

#[test]
fn a_change_is_told_soon_but_not_at_once_and_no_change_is_not_told() {
    let (mut plans, start) = (Announcements::default(), Instant::now());
    plans.refresh(&world(|parts| parts.mode(Ipv6Mode::Slaac)), start);
    plans.due(start + SECOND);
    plans.refresh(&world(|parts| parts.mode(Ipv6Mode::Slaac)), start + SECOND);
    assert_eq!(plans.due(start + 5 * SECOND).len(), 0);
    plans.refresh(&world(|parts| parts.mode(Ipv6Mode::Stateful)), start + SECOND);
    assert_eq!(plans.due(start + 3 * SECOND).len(), 0);
    assert_eq!(plans.due(start + 5 * SECOND).len(), 1);
}

#[test]
fn a_port_that_comes_is_planned_for_alone_and_hears_its_router() {
    let states = |more: u32| {
        let mut view = View::default();
        let v6 = Subnet {
            gateway: Some("fd00::1".parse().unwrap()),
            ra_mode: Some(Ipv6Mode::Slaac),
            address_mode: Some(Ipv6Mode::Slaac),
            ..subnet("v6", "blue", "fd00::/64")
        };
        let router_port = interface("ri", 9, "blue", "r", &[("v6", "fd00::1")]);
        let base = [here("n1", "192.0.2.1"), put(network("blue", 7)), put(v6), put(router("r", 1)), put(router_port)];
        base.into_iter().for_each(|change| view.apply(change, &mut Default::default()));
        let (mut local, mut homes) = (Local::default(), BTreeSet::new());
        let mut come = |view: &mut View, n: u32| {
            let name = format!("p{n}");
            let address = format!("fd00::1:{n}");
            let port = port(&name, 100 + n, "blue", &[("v6", &address)]);
            homes.insert(port.id);
            let mut concerned = Concerned::default();
            for change in [put(port), attach(&name, 100 + n)] {
                view.apply(change.clone(), &mut Default::default());
                concerned.add(view, &[change]);
            }
            local.follow(view, &homes, &concerned);
            local.clone()
        };
        (0..more).for_each(|n| drop(come(&mut view, n)));
        let before = come(&mut view, more);
        (before, come(&mut view, more + 1))
    };
    for many in [0, 500] {
        let (before, after) = states(many);
        let (mut plans, start) = (Announcements::default(), Instant::now());
        assert_eq!(plans.refresh(&before, start), many as usize + 1);
        assert_eq!(plans.due(start + SECOND).len(), many as usize + 1);
        assert_eq!(plans.refresh(&after, start + 2 * SECOND), 1, "one of {many} and two");
        assert_eq!(plans.due(start + 3 * SECOND).len(), 1);
        assert_eq!(plans.refresh(&Local::default(), start + 3 * SECOND), many as usize + 2);
        assert_eq!(plans.next_at(), None, "they are gone, and nobody is left to be told farewell");
    }
}

#[test]
fn a_router_that_stops_says_so() {
    let (mut plans, start) = (Announcements::default(), Instant::now());
    plans.refresh(&world(|parts| parts.mode(Ipv6Mode::Slaac)), start);
    plans.due(start + SECOND);
    plans.refresh(&world(|_| ()), start + 2 * SECOND);
    let said = plans.due(start + 2 * SECOND);
    let [(_, frame)] = &said[..] else { panic!("{said:?}") };
    let packet = Packet::parse(frame).unwrap();
    assert_eq!(Icmpv6Slice::from_slice(packet.payload).unwrap().bytes5to8(), [64, 0, 0, 0]);
    assert_eq!(plans.next_at(), None);
}
