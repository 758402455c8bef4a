//! DHCPv6 conversations.

use std::net::IpAddr;

use dhcproto::v6::{DhcpOption, IAAddr, IANA, Message, MessageType, OptionCode, Status};
use dhcproto::{Decodable, Encodable};
use model::{DhcpOption as Own, Ipv6Mode, link_local};

use super::{Parts, ROUTER, WEB, web, world};
use crate::respond::dhcp6::{ADDRESSES_MAX, ASSOCIATIONS_MAX, LIFETIME_SECS, answer, server_id};
use crate::respond::options6::CONTENT_MAX;
use crate::respond::packet::{Envelope, Packet};

fn association(addresses: &[&str]) -> DhcpOption {
    let address =
        |ip: &&str| DhcpOption::IAAddr(IAAddr { addr: ip.parse().unwrap(), preferred_life: 0, valid_life: 0, opts: Default::default() });
    DhcpOption::IANA(IANA { id: 5, t1: 0, t2: 0, opts: addresses.iter().map(address).collect() })
}

fn this_server() -> DhcpOption {
    DhcpOption::ServerId(server_id(&web(&world(|_| ())).network))
}

fn ask(kind: MessageType, options: Vec<DhcpOption>) -> Vec<u8> {
    let mut message = Message::new_with_id(kind, [1, 2, 3]);
    message.opts_mut().insert(DhcpOption::ClientId(vec![0, 3, 0, 1, 9]));
    options.into_iter().for_each(|option| message.opts_mut().insert(option));
    send(message)
}

fn send(message: Message) -> Vec<u8> {
    let eth_dst = "33:33:00:01:00:02".parse().unwrap();
    let envelope = Envelope { eth_src: WEB, eth_dst, src: IpAddr::V6(link_local(WEB)), dst: "ff02::1:2".parse().unwrap(), ttl: 1 };
    envelope.udp((546, 547), &message.to_vec().unwrap()).unwrap()
}

fn heard(frame: Vec<u8>, change: impl FnOnce(&mut Parts)) -> Option<Message> {
    let local = world(|parts| {
        parts.mode(Ipv6Mode::Stateful);
        change(parts);
    });
    let answer = answer(&Packet::parse(&frame).unwrap(), web(&local))?;
    let packet = Packet::parse(&answer.frame).unwrap();
    assert_eq!((packet.src, packet.dst), (IpAddr::V6(link_local(ROUTER)), IpAddr::V6(link_local(WEB))));
    assert_eq!((packet.eth_src, packet.eth_dst), (ROUTER, WEB));
    let (547, 546, content) = packet.udp().unwrap() else { panic!("not from a server to a client") };
    let message = Message::from_bytes(content).unwrap();
    assert_eq!(message.xid(), [1, 2, 3]);
    assert_eq!(message.opts().get(OptionCode::ServerId), Some(&this_server()));
    Some(message)
}

/// The association's addresses with their lifetimes, and its status.
fn given(message: &Message) -> (Vec<(String, u32)>, Option<Status>) {
    let Some(DhcpOption::IANA(association)) = message.opts().get(OptionCode::IANA) else { panic!("{message:?}") };
    assert_eq!(association.id, 5);
    let mut given = (Vec::new(), None);
    for option in association.opts.iter() {
        match option {
            DhcpOption::IAAddr(address) => given.0.push((address.addr.to_string(), address.valid_life)),
            DhcpOption::StatusCode(code) => given.1 = Some(code.status),
            _ => {}
        }
    }
    given
}

fn status(message: &Message) -> Option<Status> {
    match message.opts().get(OptionCode::StatusCode) {
        Some(DhcpOption::StatusCode(code)) => Some(code.status),
        _ => None,
    }
}

#[test]
fn solicit_is_advertised_the_ports_address_and_dns() {
    let advert = heard(ask(MessageType::Solicit, vec![association(&[])]), |_| ()).unwrap();
    assert_eq!(advert.msg_type(), MessageType::Advertise);
    assert_eq!(given(&advert), (vec![("fd00::9".into(), LIFETIME_SECS)], None));
    assert_eq!(advert.opts().get(OptionCode::DomainNameServers), Some(&DhcpOption::DomainNameServers(vec!["fd00::53".parse().unwrap()])));
    assert_eq!(advert.opts().get(OptionCode::ClientId), Some(&DhcpOption::ClientId(vec![0, 3, 0, 1, 9])));
}

#[test]
fn rapid_commit_gives_the_address_at_once() {
    let reply = heard(ask(MessageType::Solicit, vec![association(&[]), DhcpOption::RapidCommit]), |_| ()).unwrap();
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert_eq!(reply.opts().get(OptionCode::RapidCommit), Some(&DhcpOption::RapidCommit));
    assert_eq!(given(&reply).0.len(), 1);
}

#[test]
fn request_renew_and_rebind_give_the_ports_address_and_end_any_other() {
    for (kind, server) in [(MessageType::Request, true), (MessageType::Renew, true), (MessageType::Rebind, false)] {
        let options = [association(&["fd00::9", "fd00::8"])].into_iter().chain(server.then(this_server)).collect();
        let reply = heard(ask(kind, options), |_| ()).unwrap();
        assert_eq!(reply.msg_type(), MessageType::Reply);
        assert_eq!(given(&reply), (vec![("fd00::9".into(), LIFETIME_SECS), ("fd00::8".into(), 0)], None), "{kind:?}");
    }
}

#[test]
fn a_client_with_endless_associations_or_addresses_is_answered_a_part_of_them() {
    let many = |count: usize| heard(ask(MessageType::Solicit, vec![association(&[]); count]), |_| ()).unwrap();
    let answered = |message: Message| message.opts().iter().filter(|option| matches!(option, DhcpOption::IANA(_))).count();
    assert_eq!(answered(many(ASSOCIATIONS_MAX)), ASSOCIATIONS_MAX);
    assert_eq!(answered(many(ASSOCIATIONS_MAX + 1)), ASSOCIATIONS_MAX);
    let brought: Vec<String> = (1..=ADDRESSES_MAX + 1).map(|n| format!("fd00::1:{n:x}")).collect();
    let brought: Vec<&str> = brought.iter().map(String::as_str).collect();
    let reply = heard(ask(MessageType::Renew, vec![association(&brought), this_server()]), |_| ()).unwrap();
    assert_eq!(given(&reply).0.len(), 1 + ADDRESSES_MAX, "its own, and the ends of as many others");
}

#[test]
fn a_message_for_another_server_is_not_answered() {
    let other = DhcpOption::ServerId(vec![1, 2, 3]);
    for kind in [MessageType::Request, MessageType::Renew, MessageType::Release] {
        assert!(heard(ask(kind, vec![association(&[]), other.clone()]), |_| ()).is_none(), "{kind:?}");
        assert!(heard(ask(kind, vec![association(&[])]), |_| ()).is_none(), "{kind:?} without a server");
    }
}

#[test]
fn confirm_says_whether_the_addresses_fit_the_link() {
    let confirm = |ip| status(&heard(ask(MessageType::Confirm, vec![association(&[ip])]), |_| ()).unwrap());
    assert_eq!(confirm("fd00::77"), Some(Status::Success));
    assert_eq!(confirm("fd01::9"), Some(Status::NotOnLink));
    assert!(heard(ask(MessageType::Confirm, vec![association(&[])]), |_| ()).is_none());
}

#[test]
fn release_and_decline_are_thanked_for() {
    for kind in [MessageType::Release, MessageType::Decline] {
        let reply = heard(ask(kind, vec![association(&["fd00::9"]), this_server()]), |_| ()).unwrap();
        assert_eq!(status(&reply), Some(Status::Success));
    }
}

#[test]
fn an_information_request_gets_options_only() {
    let reply = heard(send(Message::new_with_id(MessageType::InformationRequest, [1, 2, 3])), |_| ()).unwrap();
    assert!(reply.opts().get(OptionCode::DomainNameServers).is_some() && reply.opts().get(OptionCode::IANA).is_none());
    assert!(heard(ask(MessageType::InformationRequest, vec![association(&[])]), |_| ()).is_none());
}

#[test]
fn in_a_stateless_subnet_there_is_no_address_but_dns() {
    let stateless = |parts: &mut Parts| parts.mode(Ipv6Mode::Stateless);
    let advert = heard(ask(MessageType::Solicit, vec![association(&[])]), stateless).unwrap();
    assert_eq!(given(&advert), (vec![], Some(Status::NoAddrsAvail)));
    assert!(heard(ask(MessageType::InformationRequest, vec![]), stateless).is_some());
    assert!(heard(ask(MessageType::InformationRequest, vec![]), |parts| parts.mode(Ipv6Mode::Slaac)).is_none());
}

#[test]
fn a_ports_own_options_win() {
    let own = |name: &str, value: &str| Own { name: name.into(), value: value.into(), ip_version: 6 };
    let reply = heard(ask(MessageType::InformationRequest, vec![]), |parts| {
        let (long, endless) = ("x".repeat(CONTENT_MAX), "x".repeat(CONTENT_MAX + 1));
        parts.web.dhcp_options =
            vec![own("dns-server", "fd00::99"), own("nonsense", "1"), own("posix-timezone", &long), own("tzdb-timezone", &endless)];
    });
    let options = reply.as_ref().unwrap().opts();
    assert!(options.get(OptionCode::from(41)).is_some() && options.get(OptionCode::from(42)).is_none());
    assert_eq!(
        reply.unwrap().opts().get(OptionCode::DomainNameServers),
        Some(&DhcpOption::DomainNameServers(vec!["fd00::99".parse().unwrap()]))
    );
}
