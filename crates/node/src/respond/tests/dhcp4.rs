//! DHCPv4 conversations.

use std::net::{IpAddr, Ipv4Addr};

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};
use model::{DhcpOption as Own, Route};

use super::{Parts, ROUTER, WEB, web, world};
use crate::respond::dhcp4::{FILE_MAX, LEASE_SECS, answer};
use crate::respond::packet::{Envelope, Packet};
use model::Mac;

fn ask(kind: MessageType, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0x1234, none, none, none, none, &WEB.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    change(&mut message);
    let (src, dst) = match message.ciaddr() {
        ciaddr if ciaddr.is_unspecified() => (none, Ipv4Addr::BROADCAST),
        ciaddr => (ciaddr, "10.0.0.1".parse().unwrap()),
    };
    let envelope = Envelope { eth_src: WEB, eth_dst: Mac::BROADCAST, src: IpAddr::V4(src), dst: IpAddr::V4(dst), ttl: 64 };
    envelope.udp((68, 67), &message.to_vec().unwrap()).unwrap()
}

pub fn discover() -> Vec<u8> {
    ask(MessageType::Discover, |_| ())
}

fn wants(ip: &str) -> DhcpOption {
    DhcpOption::RequestedIpAddress(ip.parse().unwrap())
}

fn chosen(ip: &str) -> DhcpOption {
    DhcpOption::ServerIdentifier(ip.parse().unwrap())
}

struct Heard {
    envelope: Envelope,
    message: Message,
    ignored: usize,
}

impl Heard {
    fn kind(&self) -> MessageType {
        self.message.opts().msg_type().unwrap()
    }

    fn option(&self, code: u8) -> Option<DhcpOption> {
        self.message.opts().get(OptionCode::from(code)).cloned()
    }
}

fn heard(frame: Vec<u8>, change: impl FnOnce(&mut Parts)) -> Option<Heard> {
    let local = world(change);
    let answer = answer(&Packet::parse(&frame).unwrap(), web(&local))?;
    let packet = Packet::parse(&answer.frame).unwrap();
    let udp = etherparse::UdpSlice::from_slice(packet.payload).unwrap();
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (packet.src, packet.dst) else { panic!("DHCPv4 is IPv4") };
    let header = etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, src.octets(), dst.octets()).unwrap();
    assert_eq!(udp.checksum(), udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap(), "the checksum is right");
    let (67, 68, content) = packet.udp().unwrap() else { panic!("not from a server to a client") };
    assert!(content.len() >= 300, "BOOTP's length");
    let message = Message::from_bytes(content).unwrap();
    assert_eq!((message.opcode(), message.xid()), (Opcode::BootReply, 0x1234));
    let envelope = Envelope { eth_src: packet.eth_src, eth_dst: packet.eth_dst, src: packet.src, dst: packet.dst, ttl: packet.ttl };
    Some(Heard { envelope, message, ignored: answer.ignored })
}

fn own_option(name: &str, value: &str) -> Own {
    Own { name: name.into(), value: value.into(), ip_version: 4 }
}

#[test]
fn discover_is_offered_the_ports_address_with_everything_that_it_needs() {
    let offer = heard(discover(), |_| ()).unwrap();
    assert_eq!(offer.kind(), MessageType::Offer);
    assert_eq!(offer.message.yiaddr().to_string(), "10.0.0.9");
    assert_eq!(offer.option(1), Some(DhcpOption::SubnetMask("255.255.255.0".parse().unwrap())));
    assert_eq!(offer.option(3), Some(DhcpOption::Router(vec!["10.0.0.1".parse().unwrap()])));
    assert_eq!(offer.option(6), Some(DhcpOption::DomainNameServer(vec!["10.0.0.2".parse().unwrap()])));
    assert_eq!(offer.option(26), Some(DhcpOption::InterfaceMtu(1442)));
    assert_eq!(offer.option(51), Some(DhcpOption::AddressLeaseTime(LEASE_SECS)));
    assert_eq!(offer.option(54), Some(chosen("10.0.0.1")));
    assert_eq!(offer.option(58), Some(DhcpOption::Renewal(LEASE_SECS / 2)));
    assert_eq!(offer.option(59), Some(DhcpOption::Rebinding(LEASE_SECS / 8 * 7)));
    assert_eq!(offer.option(121), None, "without host routes there are no classless routes");
    let wanted = Envelope { eth_src: ROUTER, eth_dst: WEB, src: "10.0.0.1".parse().unwrap(), dst: "10.0.0.9".parse().unwrap(), ttl: 64 };
    assert_eq!(offer.envelope, wanted);
}

#[test]
fn the_broadcast_flag_is_honoured() {
    let frame = ask(MessageType::Discover, |message| {
        message.set_flags(Flags::default().set_broadcast());
    });
    let offer = heard(frame, |_| ()).unwrap();
    assert_eq!((offer.envelope.eth_dst, offer.envelope.dst), (Mac::BROADCAST, "255.255.255.255".parse().unwrap()));
    assert!(offer.message.flags().broadcast());
}

#[test]
fn a_client_that_chose_this_server_is_acknowledged() {
    let frame = ask(MessageType::Request, |message| {
        message.opts_mut().insert(wants("10.0.0.9"));
        message.opts_mut().insert(chosen("10.0.0.1"));
    });
    let ack = heard(frame, |_| ()).unwrap();
    assert_eq!((ack.kind(), ack.message.yiaddr().to_string()), (MessageType::Ack, "10.0.0.9".into()));
}

#[test]
fn a_client_that_chose_another_server_is_left_alone() {
    let frame = ask(MessageType::Request, |message| {
        message.opts_mut().insert(wants("10.0.0.9"));
        message.opts_mut().insert(chosen("10.0.0.77"));
    });
    assert!(heard(frame, |_| ()).is_none());
}

#[test]
fn a_restarted_client_keeps_its_own_address_and_is_refused_any_other() {
    let reboot = |ip: &'static str| {
        heard(
            ask(MessageType::Request, |message| {
                message.opts_mut().insert(wants(ip));
            }),
            |_| (),
        )
    };
    assert_eq!(reboot("10.0.0.9").unwrap().kind(), MessageType::Ack);
    let nak = reboot("10.0.0.8").unwrap();
    assert_eq!(nak.kind(), MessageType::Nak);
    assert_eq!((nak.envelope.eth_dst, nak.envelope.dst), (Mac::BROADCAST, "255.255.255.255".parse().unwrap()));
    assert_eq!((nak.message.yiaddr(), nak.option(51)), (Ipv4Addr::UNSPECIFIED, None));
}

#[test]
fn a_client_renews_its_own_address_only() {
    let renew = |ip: &'static str| {
        heard(
            ask(MessageType::Request, |message| {
                message.set_ciaddr(ip.parse::<Ipv4Addr>().unwrap());
            }),
            |_| (),
        )
    };
    let ack = renew("10.0.0.9").unwrap();
    assert_eq!(
        (ack.kind(), ack.envelope.dst.to_string(), ack.message.ciaddr().to_string()),
        (MessageType::Ack, "10.0.0.9".into(), "10.0.0.9".into())
    );
    assert_eq!(renew("10.0.0.8").unwrap().kind(), MessageType::Nak);
}

#[test]
fn inform_gets_options_and_no_lease() {
    let frame = ask(MessageType::Inform, |message| {
        message.set_ciaddr("10.0.0.9".parse::<Ipv4Addr>().unwrap());
    });
    let ack = heard(frame, |_| ()).unwrap();
    assert_eq!((ack.kind(), ack.message.yiaddr(), ack.option(51)), (MessageType::Ack, Ipv4Addr::UNSPECIFIED, None));
    assert!(ack.option(6).is_some());
}

#[test]
fn release_decline_and_what_servers_say_are_not_answered() {
    for kind in [MessageType::Release, MessageType::Decline, MessageType::Offer, MessageType::Ack] {
        assert!(heard(ask(kind, |_| ()), |_| ()).is_none(), "{kind:?}");
    }
}

#[test]
fn another_mac_than_the_ports_is_not_answered_and_a_relay_means_nothing() {
    let foreign = ask(MessageType::Discover, |message| {
        message.set_chaddr(&[2, 2, 2, 2, 2, 2]);
    });
    assert!(heard(foreign, |_| ()).is_none());
    let relayed = ask(MessageType::Discover, |message| {
        message.set_giaddr("10.9.9.9".parse::<Ipv4Addr>().unwrap());
    });
    assert_eq!(heard(relayed, |_| ()).unwrap().envelope.dst.to_string(), "10.0.0.9");
}

#[test]
fn a_subnet_without_dhcp_is_silent() {
    assert!(heard(discover(), |parts| parts.v4.is_dhcp = false).is_none());
}

#[test]
fn without_a_gateway_the_server_has_a_link_local_address_and_there_is_no_router() {
    let offer = heard(discover(), |parts| parts.v4.gateway = None).unwrap();
    assert_eq!(offer.option(54), Some(chosen("169.254.169.254")));
    assert_eq!(offer.option(3), None);
    assert_eq!(offer.envelope.eth_src.to_string(), "06:1b:00:00:00:07");
}

#[test]
fn host_routes_come_with_the_default_route_and_the_networks_other_subnets() {
    let route = Route { destination: "10.20.0.0/16".parse().unwrap(), nexthop: "10.0.0.3".parse().unwrap() };
    let offer = heard(discover(), |parts| {
        parts.v4.host_routes = vec![route];
        parts.more.push(apps::testing::put(apps::testing::subnet("other", "blue", "10.0.1.0/24")));
    });
    let gives = |net: &str, hop: &str| (net.parse().unwrap(), hop.parse::<Ipv4Addr>().unwrap());
    let wanted = vec![gives("10.20.0.0/16", "10.0.0.3"), gives("10.0.1.0/24", "0.0.0.0"), gives("0.0.0.0/0", "10.0.0.1")];
    let offer = offer.unwrap();
    assert_eq!(offer.option(121), Some(DhcpOption::ClasslessStaticRoute(wanted)));
    let Some(DhcpOption::Unknown(microsoft)) = offer.option(249) else { panic!("{:?}", offer.option(249)) };
    assert_eq!(microsoft.data()[..7], [16, 10, 20, 10, 0, 0, 3]);
}

#[test]
fn a_ports_own_options_win_and_meaningless_ones_are_counted() {
    let offer = heard(discover(), |parts| {
        parts.web.dhcp_options = vec![
            own_option("dns-server", "9.9.9.9"),
            own_option("26", "1300"),
            own_option("router", ""),
            own_option("bootfile-name", "pxelinux.0"),
            own_option("server-ip-address", "10.0.0.7"),
            own_option("no-such-option", "1"),
            Own { ip_version: 6, ..own_option("dns-server", "fd00::99") },
        ];
    });
    let offer = offer.unwrap();
    assert_eq!(offer.option(6), Some(DhcpOption::DomainNameServer(vec!["9.9.9.9".parse().unwrap()])));
    assert_eq!(offer.option(26), Some(DhcpOption::InterfaceMtu(1300)));
    assert_eq!(offer.option(3), None);
    assert_eq!(offer.message.siaddr().to_string(), "10.0.0.7");
    assert_eq!(offer.message.fname().map(|name| name.split(|byte| *byte == 0).next().unwrap()), Some(&b"pxelinux.0"[..]));
    assert_eq!(offer.option(67), Some(DhcpOption::BootfileName(b"pxelinux.0".to_vec())));
    assert_eq!(offer.ignored, 1);
}

#[test]
fn a_boot_file_that_finds_no_room_in_its_field_is_an_option_only() {
    for (length, is_in_field) in [(FILE_MAX, true), (FILE_MAX + 1, false)] {
        let name = "x".repeat(length);
        let offer = heard(discover(), |parts| parts.web.dhcp_options = vec![own_option("bootfile-name", &name)]).unwrap();
        let field = offer.message.fname().map(|name| name.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap_or_default();
        assert_eq!(field == name.as_bytes(), is_in_field, "{length} bytes");
        assert_eq!(offer.option(67), Some(DhcpOption::BootfileName(name.into_bytes())));
    }
}

#[test]
fn a_ports_lease_time_moves_the_renewal_too() {
    let offer = heard(discover(), |parts| parts.web.dhcp_options = vec![own_option("lease-time", "1h")]).unwrap();
    assert_eq!(offer.option(51), Some(DhcpOption::AddressLeaseTime(3600)));
    assert_eq!(offer.option(58), Some(DhcpOption::Renewal(1800)));
}

#[test]
fn options_that_find_no_room_are_left_out_and_the_important_ones_stay() {
    let long = "x".repeat(240);
    let offer = heard(discover(), |parts| parts.web.dhcp_options = vec![own_option("210", &long), own_option("211", &long)]).unwrap();
    assert_eq!(offer.ignored, 1);
    assert!(offer.option(1).is_some() && offer.option(210).is_some() && offer.option(211).is_none());
}
