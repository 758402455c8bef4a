//! What clients hear, message by message, and that nothing that they can send does harm.

mod dhcp4;
mod dhcp6;
mod errors;
mod ra;

use std::collections::BTreeSet;

use apps::testing::*;
use apps::{Change, View};
use model::{Ipv6Mode, Network, Port, Subnet};
use openflow::{Field as OfField, Match};
use proptest::prelude::*;

use super::packet::Envelope;
use super::*;

/// The world of the tests: network `blue` (key 7) with a port `web` at 10.0.0.9 and fd00::9 (interface 11) and a router at
/// 10.0.0.1 and fd00::1 that leads to `red` (key 8); `change` may change every part of it.
pub fn world(change: impl FnOnce(&mut Parts)) -> Local {
    let mut parts = Parts {
        network: Network { mtu: 1442, ..network("blue", 7) },
        v4: Subnet { dns_servers: vec!["10.0.0.2".parse().unwrap()], ..subnet("v4", "blue", "10.0.0.0/24") },
        v6: Subnet {
            dns_servers: vec!["fd00::53".parse().unwrap()],
            gateway: Some("fd00::1".parse().unwrap()),
            ..subnet("v6", "blue", "fd00::/64")
        },
        web: port("web", 4, "blue", &[("v4", "10.0.0.9"), ("v6", "fd00::9")]),
        interface: interface("ri", 9, "blue", "r", &[("v4", "10.0.0.1"), ("v6", "fd00::1")]),
        more: vec![
            put(router("r", 1)),
            put(network("red", 8)),
            put(subnet("r4", "red", "10.8.0.0/24")),
            put(interface("rr", 10, "red", "r", &[("r4", "10.8.0.1")])),
            put(router("r2", 2)),
            put(interface("r2r", 12, "red", "r2", &[("r4", "10.8.0.2")])),
        ],
    };
    change(&mut parts);
    let mut view = View::default();
    let web = parts.web.id;
    let base = [
        here("n1", "192.0.2.1"),
        put(parts.network),
        put(parts.v4),
        put(parts.v6),
        put(parts.web),
        put(parts.interface),
        attach("web", 11),
    ];
    for change in base.into_iter().chain(parts.more) {
        view.apply(change, &mut Default::default());
    }
    Local::of(&view, &BTreeSet::from([web]))
}

pub struct Parts {
    pub network: Network,
    pub v4: Subnet,
    pub v6: Subnet,
    pub web: Port,
    pub interface: Port,
    pub more: Vec<Change>,
}

impl Parts {
    pub fn mode(&mut self, mode: Ipv6Mode) {
        (self.v6.ra_mode, self.v6.address_mode) = (Some(mode), Some(mode));
    }
}

pub fn web(local: &Local) -> &LocalPort {
    local.by_key(4).unwrap()
}

/// The MAC of the port `web`, and the router's on `blue` and on `red`.
pub const WEB: Mac = Mac([0x0a, 0, 0, 0, 0, 4]);
pub const ROUTER: Mac = Mac([0x0a, 0, 0, 0, 0, 9]);
pub const ROUTER_RED: Mac = Mac([0x0a, 0, 0, 0, 0, 10]);

fn half(in_force: Generation) -> watch::Receiver<Option<Generation>> {
    watch::channel(Some(in_force)).1
}

/// A question as the switch hands it over.
pub fn question(punt: Punt, registers: &[(Field, u32)], frame: Vec<u8>) -> Question {
    let field = |(field, value): &(Field, u32)| {
        let (of, offset) = translate::place(Place::Field(*field));
        of.masked(u128::from(*value) << offset, (u128::MAX >> (128 - u32::from(field.bits))) << offset)
    };
    let mut all: Vec<_> = registers.iter().map(field).collect();
    // The switch tells whole registers.
    all.extend(
        (0..16)
            .filter_map(OfField::reg)
            .filter(|reg| !all.iter().any(|known| known.field == *reg))
            .map(|reg| reg.is(0u32))
            .collect::<Vec<_>>(),
    );
    let metadata = Match::new(all).unwrap();
    Question {
        punt,
        packet_in: Box::new(PacketIn2 { packet: frame, userdata: vec![punt as u8], metadata, table: Some(30), ..PacketIn2::default() }),
    }
}

proptest! {
    /// Whatever bytes a port sends, for whatever reason they are handed over: no panic, no answer to anybody but the port.
    #[test]
    fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600), punt in 1u8..8, key in 0u32..6) {
        let local = world(|parts| parts.mode(Ipv6Mode::Stateful));
        let punt = Punt::from_byte(punt).unwrap();
        answers(&question(punt, &[(fields::SRC_PORT, key), (fields::NETWORK, 7)], bytes), &local);
    }

    /// The same behind headers that are right, where the decoders of the protocols are reached.
    #[test]
    fn random_content_does_no_harm(mut content in proptest::collection::vec(any::<u8>(), 0..600), magic in any::<bool>()) {
        let local = world(|parts| parts.mode(Ipv6Mode::Stateful));
        if magic && content.len() > 240 {
            content[..3].copy_from_slice(&[1, 1, 6]);
            content[28..34].copy_from_slice(&WEB.0);
            content[236..240].copy_from_slice(&[99, 130, 83, 99]);
        }
        let v4 = Envelope { eth_src: WEB, eth_dst: Mac::BROADCAST, src: "0.0.0.0".parse().unwrap(), dst: "255.255.255.255".parse().unwrap(), ttl: 64 };
        let v6 = Envelope { eth_src: WEB, eth_dst: ROUTER, src: "fe80::9".parse().unwrap(), dst: "ff02::1:2".parse().unwrap(), ttl: 255 };
        let asked = |punt, frame| answers(&question(punt, &[(fields::SRC_PORT, 4), (fields::NETWORK, 7)], frame), &local);
        asked(Punt::Dhcp, v4.udp((68, 67), &content).unwrap());
        asked(Punt::Dhcpv6, v6.udp((546, 547), &content).unwrap());
        asked(Punt::RouterSolicitation, v6.icmp(133, 0, [0; 4], &content).unwrap());
        asked(Punt::Refused, v6.udp((1, 2), &content).unwrap());
        asked(Punt::TimeExceeded, v6.icmp(128, 0, [0; 4], &content).unwrap());
    }

    /// The beginning of a message is no message.
    #[test]
    fn cut_messages_do_no_harm(cut in 0usize..400) {
        let local = world(|parts| parts.mode(Ipv6Mode::Stateful));
        let mut frame = dhcp4::discover();
        frame.truncate(cut.min(frame.len()));
        answers(&question(Punt::Dhcp, &[(fields::SRC_PORT, 4)], frame), &local);
    }
}

#[test]
fn a_question_of_a_port_that_is_not_here_has_no_answer() {
    let local = world(|_| ());
    let (outs, _) = answers(&question(Punt::Dhcp, &[(fields::SRC_PORT, 5)], dhcp4::discover()), &local);
    assert_eq!(outs, []);
}

#[test]
fn an_answer_leaves_by_the_ports_own_interface() {
    let local = world(|_| ());
    let (outs, _) = answers(&question(Punt::Dhcp, &[(fields::SRC_PORT, 4)], dhcp4::discover()), &local);
    let [out] = &outs[..] else { panic!("{outs:?}") };
    assert_eq!(out.actions, [Of::output(OfNumber(11))]);
}

#[tokio::test]
async fn a_port_that_asks_too_often_is_limited_and_others_are_not() {
    let (sender, mut questions) = mpsc::channel(QUESTIONS_MAX);
    let mut intake = Intake::new(half(Generation::A), sender);
    let ask = |key| question(Punt::Dhcp, &[(fields::SRC_PORT, key)], Vec::new()).packet_in;
    for _ in 0..500 {
        intake.take(ask(4));
    }
    intake.take(ask(5));
    let mut taken = Vec::new();
    while let Ok(question) = questions.try_recv() {
        taken.push(question.register(fields::SRC_PORT));
    }
    let burst = Kind::Dhcp.burst() as usize;
    // The bucket fills while the test runs.
    assert!((burst..burst + 100).contains(&taken.iter().filter(|key| **key == 4).count()), "{taken:?}");
    assert_eq!(taken.last(), Some(&5));
    assert_eq!(intake.missed(0), Missed { limited: 501 - taken.len() as u64, overrun: 0 });
    assert_eq!(intake.missed(0), Missed::default(), "said once");
}

#[tokio::test]
async fn what_the_responder_cannot_take_is_dropped_and_counted() {
    let (switch, _events) = Switch::start(crate::switch::Options::new("/nonexistent"));
    let (mut intake, _responder) = new(watch::channel(Arc::default()).1, half(Generation::A), switch);
    for key in 0..QUESTIONS_MAX as u32 + 3 {
        intake.take(question(Punt::Dhcp, &[(fields::SRC_PORT, key)], Vec::new()).packet_in);
    }
    assert_eq!(intake.missed(100), Missed { limited: 0, overrun: 103 }, "with those that the link to the switch dropped");
    assert_eq!(intake.missed(101), Missed { limited: 0, overrun: 1 });
}

#[tokio::test]
async fn a_packet_from_tables_of_another_pipeline_is_not_read() {
    let (sender, mut questions) = mpsc::channel(QUESTIONS_MAX);
    let (turn, half) = watch::channel(None);
    let mut intake = Intake::new(half, sender);
    let mut ask = |half: Generation| {
        let packet_in = question(Punt::Dhcp, &[(fields::SRC_PORT, 4)], Vec::new()).packet_in;
        intake.take(Box::new(PacketIn2 { table: Some(Table::Punt.number(half)), ..*packet_in }));
        questions.try_recv().ok().map(|question| question.generation())
    };
    assert_eq!(Generation::ALL.map(&mut ask), [None, None], "nothing is known of the switch");
    turn.send_replace(Some(Generation::B));
    assert_eq!(Generation::ALL.map(&mut ask), [None, Some(Generation::B)]);
}
