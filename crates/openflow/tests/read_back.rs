//! What is written to a real Open vSwitch is read back as the same value, so that a restart changes nothing.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::DummyOvs;
use openflow::*;

fn ip(a: u8, b: u8, c: u8, d: u8) -> u32 {
    Ipv4Addr::new(a, b, c, d).into()
}

fn v6(text: &str) -> u128 {
    text.parse::<Ipv6Addr>().unwrap().into()
}

fn v4() -> MatchField {
    Field::EthType.is(ETH_TYPE_IPV4)
}

fn v6_type() -> MatchField {
    Field::EthType.is(ETH_TYPE_IPV6)
}

const MAC: u64 = 0x0a00_0000_0001;

fn matches() -> Vec<Match> {
    use Field::*;
    let tracked = CtState.masked(ct_state::TRK | ct_state::EST, ct_state::TRK | ct_state::EST | ct_state::INV);
    let lists: Vec<Vec<MatchField>> = vec![
        vec![],
        vec![InPort.is(1u32)],
        vec![InPort.is(OfPort::LOCAL.0), Metadata.masked(0x1200u64, 0xff00u64)],
        vec![Metadata.is(7u64)],
        vec![EthDst.is(MAC)],
        vec![EthDst.masked(0x0100_0000_0000u64, 0x0100_0000_0000u64), EthSrc.masked(MAC, 0xffff_0000_0000u64)],
        vec![VlanTci.masked(0u16, 0x1fffu16)],
        vec![VlanVid.is(VLAN_PRESENT | 5)],
        vec![VlanVid.is(VLAN_PRESENT | 5), VlanPcp.is(3u8)],
        vec![VlanTci.masked(0xf005u16, 0xffffu16)],
        vec![VlanVid.masked(VLAN_PRESENT, VLAN_PRESENT)],
        vec![VlanVid.masked(VLAN_PRESENT | 4, VLAN_PRESENT | 0xff4)],
        vec![EthType.is(0x88ccu16)],
        vec![Ipv4Src.is(ip(10, 0, 0, 1)), Ipv4Dst.in_prefix(ip(10, 1, 0, 0), 16)],
        vec![Ipv4Dst.masked(ip(10, 0, 0, 1), 0xff00_00ffu32)],
        vec![Ipv6Src.is(v6("fd00::1")), Ipv6Dst.in_prefix(v6("fd00:1::"), 64), Ipv6Label.is(5u32)],
        vec![Ipv6Label.masked(5u32, 0xfu32)],
        vec![v4(), IpFrag.is(ip_frag::ANY | ip_frag::LATER)],
        vec![v4(), IpFrag.masked(ip_frag::LATER, ip_frag::LATER)],
        vec![v4(), IpFrag.is(ip_frag::ANY)],
        vec![v4(), IpFrag.is(0u8), IpDscp.is(46u8), IpEcn.is(1u8), IpTtl.is(64u8)],
        vec![v6_type(), IpTtl.is(255u8), IpProto.is(47u8)],
        vec![v4(), TcpDst.is(80u16)],
        vec![v4(), TcpSrc.masked(0x8000u16, 0xfff0u16), TcpFlags.masked(2u16, 0x12u16)],
        vec![v6_type(), TcpDst.is(443u16), TcpFlags.is(2u16)],
        vec![v4(), UdpSrc.is(53u16), UdpDst.masked(0u16, 0xff00u16)],
        vec![v6_type(), SctpSrc.is(5u16), SctpDst.is(6u16)],
        vec![Icmpv4Type.is(8u8), Icmpv4Code.is(0u8)],
        vec![Icmpv6Type.is(135u8), Icmpv6Code.is(0u8), NdTarget.is(v6("fe80::1")), NdSll.is(MAC)],
        vec![NdTll.is(MAC), NdTarget.in_prefix(v6("fe80::"), 64)],
        vec![NdSll.masked(MAC, 0xffu64)],
        vec![Icmpv6Type.is(135u8), NdReserved.is(5u32), NdOptionsType.is(1u8)],
        vec![ArpOp.is(1u16), ArpSpa.is(ip(10, 0, 0, 1)), ArpTpa.in_prefix(ip(10, 0, 0, 0), 8)],
        vec![ArpSha.is(MAC), ArpTha.masked(MAC, 0xffff_ffffu64)],
        vec![EthType.is(ETH_TYPE_RARP), ArpOp.is(3u16)],
        vec![TunId.is(77u64)],
        vec![TunId.masked(0x100u64, 0xff00u64), TunSrc.is(ip(192, 0, 2, 1)), TunDst.is(ip(192, 0, 2, 2))],
        vec![TunIpv6Src.is(v6("2001:db8::1")), TunIpv6Dst.in_prefix(v6("2001:db8::"), 32)],
        vec![TunFlags.is(1u8)],
        vec![Reg0.is(1u32)],
        vec![Reg1.is(1u32)],
        vec![Reg2.masked(0x100u32, 0xff00u32), Reg3.is(9u32), Reg15.is(15u32)],
        vec![XReg2.is(0x0000_0001_0000_0002u64), XReg3.masked(1u64, 1u64)],
        vec![XxReg0.is(v6("fd00::5"))],
        vec![XxReg3.in_prefix(v6("fd00::"), 64), Reg0.is(0u32)],
        vec![PktMark.is(4u32)],
        vec![PktMark.masked(4u32, 6u32)],
        vec![CtState.masked(0u32, ct_state::TRK), v4()],
        vec![tracked, CtZone.is(7u16), CtMark.masked(1u32, 1u32), v4()],
        vec![CtLabel.is(5u8), CtMark.is(9u32), v6_type()],
        vec![CtLabel.masked(1u128 << 100, 3u128 << 100)],
        vec![tracked, v4(), CtNwSrc.is(ip(10, 0, 0, 9)), CtNwProto.is(6u8), CtTpDst.is(80u16), CtTpSrc.is(9u16)],
        vec![tracked, v6_type(), CtIpv6Dst.is(v6("fd00::9")), CtNwProto.is(17u8), CtTpDst.masked(80u16, 0xfff0u16)],
        vec![tracked, v4(), CtNwDst.in_prefix(ip(10, 0, 0, 0), 24)],
        vec![CtState.is(ct_state::TRK | ct_state::NEW), v4()],
        vec![CtState.masked(ct_state::TRK | ct_state::RPL | ct_state::DNAT, 0xffu32), v4()],
        vec![ConjId.is(12u32)],
        vec![ConjId.is(13u32), v4(), Ipv4Dst.is(ip(1, 2, 3, 4))],
    ];
    lists.into_iter().map(|list| Match::new(list).unwrap()).collect()
}

fn nat(kind: NatKind) -> Nat {
    Nat { kind: Some(kind), ..Nat::default() }
}

fn actions() -> Vec<Vec<Action>> {
    use Field::*;
    let low: IpAddr = "10.0.0.1".parse().unwrap();
    let low6: IpAddr = "fd00::1".parse().unwrap();
    let commit = |actions: Vec<Action>| Ct { commit: true, zone: openflow::CtZone::Number(5), actions, ..Ct::default() };
    vec![
        vec![Action::output(OfPort(1))],
        vec![Action::output(OfPort::CONTROLLER)],
        vec![Action::Output { port: OfPort::CONTROLLER, max_len: 128 }],
        vec![Action::output(OfPort::IN_PORT), Action::output(OfPort::LOCAL), Action::output(OfPort(2))],
        vec![Action::controller(vec![1, 2, 3])],
        vec![Action::controller(vec![])],
        vec![Action::Controller(Controller {
            max_len: 100,
            controller_id: 3,
            reason: 2,
            userdata: vec![9; 21],
            pause: true,
            meter: Some(7),
        })],
        vec![Action::OutputReg { source: Subfield::whole(Reg3), max_len: 0xffff }],
        vec![Action::OutputReg { source: Subfield::new(XReg1, 16, 16), max_len: 0 }],
        vec![Action::Group(77)],
        vec![
            Action::set(EthDst.is(MAC)),
            Action::set(EthSrc.is(MAC)),
            Action::set(Reg1.masked(0x10u32, 0xf0u32)),
            Action::set(Reg0.is(0u32)),
            Action::set(XReg1.is(5u64)),
            Action::set(XxReg1.is(5u64)),
            Action::set(XxReg2.masked(v6("fd00::"), v6("ffff::"))),
            Action::set(TunId.is(9u64)),
            Action::set(TunDst.is(ip(192, 0, 2, 7))),
            Action::set(TunSrc.is(ip(192, 0, 2, 8))),
        ],
        vec![Action::set(InPort.is(0u32))],
        vec![Action::set(InPortShort.is(0u16))],
        vec![Action::set(Metadata.is(3u64))],
        vec![Action::set(Metadata.masked(3u64, 7u64))],
        vec![Action::set(PktMark.is(6u32))],
        vec![Action::set(XReg2.masked(5u64, 0xffu64))],
        vec![Action::set(TunIpv6Dst.is(v6("2001:db8::7")))],
        vec![Action::set(EthDst.masked(MAC, 0xffff_ffffu64)), Action::DecTtl, Action::Exit],
        vec![Action::Move { source: Subfield::whole(EthSrc), destination: Subfield::whole(EthDst) }],
        vec![Action::Move { source: Subfield::new(Reg1, 0, 16), destination: Subfield::new(Reg2, 16, 16) }],
        vec![Action::Move { source: Subfield::new(TunId, 0, 24), destination: Subfield::new(Metadata, 8, 24) }],
        vec![Action::Move { source: Subfield::new(XxReg0, 0, 32), destination: Subfield::new(XxReg1, 96, 32) }],
        vec![Action::resubmit(5), Action::resubmit(TABLE_CURRENT)],
        vec![Action::Resubmit { port: OfPort(3), table: 4, with_ct_tuple: false }],
        vec![Action::Resubmit { port: OfPort::LOCAL, table: TABLE_CURRENT, with_ct_tuple: false }],
        vec![Action::CtClear, Action::note([1, 2, 3]), Action::note([0; 14])],
        vec![Action::PushVlan(0x8100), Action::set(VlanVid.is(VLAN_PRESENT | 9)), Action::output(OfPort(1))],
        vec![Action::Clone(vec![Action::DecTtl, Action::Clone(vec![Action::output(OfPort(4))])])],
        vec![Action::CheckPktLarger { length: 1500, field: Reg0, offset: 3 }],
        vec![Action::StackPush(Subfield::whole(Reg0)), Action::StackPop(Subfield::new(Reg1, 4, 8))],
        vec![Action::Ct(Ct { zone: openflow::CtZone::Number(7), table: Some(9), ..Ct::default() })],
        vec![Action::Ct(Ct { zone: openflow::CtZone::From(Subfield::new(Reg4, 0, 16)), table: Some(9), ..Ct::default() })],
        vec![Action::Ct(Ct { table: Some(9), actions: vec![Action::Nat(Nat::default())], ..Ct::default() })],
        vec![Action::Ct(Ct { force: true, ..commit(vec![]) })],
        vec![Action::Ct(commit(vec![
            Action::Nat(Nat { addresses: Some((low, None)), ports: Some((80, None)), ..nat(NatKind::Destination) }),
            Action::set(CtMark.masked(1u32, 1u32)),
            Action::set(CtMark.is(4u32)),
            Action::set(CtLabel.masked(1u128 << 70, 1u128 << 70)),
            Action::set(CtLabel.is(4u32)),
            Action::Move { source: Subfield::whole(Reg0), destination: Subfield::new(CtLabel, 0, 32) },
        ]))],
        vec![Action::Ct(commit(vec![Action::Nat(Nat {
            addresses: Some((low, Some("10.0.0.9".parse().unwrap()))),
            ports: Some((1024, Some(2048))),
            persistent: true,
            port_choice: PortChoice::Hash,
            ..nat(NatKind::Source)
        })]))],
        vec![Action::Ct(commit(vec![Action::Nat(Nat {
            addresses: Some((low6, Some("fd00::9".parse().unwrap()))),
            ports: Some((1024, Some(2048))),
            port_choice: PortChoice::Random,
            ..nat(NatKind::Source)
        })]))],
        vec![Action::Ct(commit(vec![Action::Nat(Nat {
            addresses: Some((low6, Some(low6))),
            ports: Some((8, Some(8))),
            ..nat(NatKind::Destination)
        })]))],
        vec![Action::Ct(commit(vec![Action::Nat(nat(NatKind::Source))]))],
    ]
}

fn corpus() -> Vec<FlowMod> {
    let mut flows = Vec::new();
    for (index, matching) in matches().into_iter().enumerate() {
        flows.push(FlowMod::add(10, 100 + index as u16, matching, Instructions::drop().goto(11), index as u64));
    }
    let ipv4 = || Match::new([v4()]).unwrap();
    for (index, actions) in actions().into_iter().enumerate() {
        let priority = 100 + index as u16;
        let matching = if format!("{actions:?}").contains("fd00") { Match::new([v6_type()]).unwrap() } else { ipv4() };
        flows.push(FlowMod::add(20, priority, matching, Instructions::apply(actions), 0xffff_0000_0000_0000));
    }
    // Only with packets whose type it is, or in the action sets that allow it.
    let ip_writes = [
        Action::set(Field::Ipv4Src.is(ip(1, 2, 3, 4))),
        Action::set(Field::Ipv4Dst.masked(ip(1, 2, 3, 4), 0xffu32)),
        Action::set(Field::IpDscp.is(46u8)),
        Action::set(Field::IpEcn.is(2u8)),
        Action::set(Field::IpTtl.is(9u8)),
        Action::SetTtl(8),
        Action::set(Field::UdpDst.is(67u16)),
        Action::set(Field::UdpSrc.is(67u16)),
    ];
    let udp = Match::new([v4(), Field::IpProto.is(17u8)]).unwrap();
    flows.push(FlowMod::add(21, 1, udp, Instructions::apply(ip_writes), 1));
    let nd = Match::new([Field::Icmpv6Type.is(136u8)]).unwrap();
    let nd_writes = [
        Action::set(Field::NdTarget.is(v6("fe80::5"))),
        Action::set(Field::NdTll.is(MAC)),
        Action::set(Field::NdReserved.is(0x6000_0000u32)),
        Action::set(Field::NdOptionsType.is(2u8)),
        Action::set(Field::Ipv6Src.is(v6("fe80::5"))),
        Action::set(Field::Icmpv6Type.is(136u8)),
    ];
    flows.push(FlowMod::add(22, 1, nd, Instructions::apply(nd_writes), 1));
    let arp = Match::new([Field::ArpOp.is(1u8)]).unwrap();
    let arp_writes = [
        Action::set(Field::ArpOp.is(2u16)),
        Action::set(Field::ArpSha.is(MAC)),
        Action::set(Field::ArpSpa.is(ip(10, 0, 0, 1))),
        Action::Move { source: Subfield::whole(Field::ArpSpa), destination: Subfield::whole(Field::ArpTpa) },
    ];
    flows.push(FlowMod::add(23, 1, arp, Instructions::apply(arp_writes), 1));
    let vlan = Match::new([Field::VlanVid.is(VLAN_PRESENT | 5)]).unwrap();
    flows.push(FlowMod::add(24, 1, vlan, Instructions::apply([Action::PopVlan, Action::output(OfPort(1))]), 1));
    let conjunctions = [Action::Conjunction { id: 5, clause: 0, clauses: 2 }, Action::Conjunction { id: 6, clause: 1, clauses: 3 }];
    flows.push(FlowMod::add(25, 1, ipv4(), Instructions::apply(conjunctions), 1));
    let everything = Instructions {
        clear: true,
        write: vec![Action::output(OfPort(3))],
        ..Instructions::apply([Action::output(OfPort(1))]).write_metadata(5, 0xff).goto(99)
    };
    let mut last = FlowMod::add(26, 1, Match::any(), everything, 1);
    last.idle_timeout_secs = 600;
    last.hard_timeout_secs = 700;
    last.importance = 9;
    last.flags = flow_flags::SEND_FLOW_REMOVED | flow_flags::RESET_COUNTS;
    flows.push(last);
    flows.push(FlowMod::add(27, 0, Match::any(), Instructions::drop(), u64::MAX - 1));
    flows.push(FlowMod::add(27, 1, ipv4(), Instructions::drop().write_metadata(5, u64::MAX), 0));
    flows.push(FlowMod::add(27, 65535, ipv4(), Instructions { clear: true, ..Instructions::drop() }, 0));
    flows
}

fn groups() -> Vec<InstalledGroup> {
    let nat = |port: u16| {
        let address = IpAddr::from([10, 0, 0, port as u8]);
        let nat = Nat { addresses: Some((address, None)), ports: Some((port, None)), ..nat(NatKind::Destination) };
        let actions = vec![Action::Nat(nat)];
        Action::Ct(Ct { commit: true, table: Some(30), zone: openflow::CtZone::Number(3), actions, ..Ct::default() })
    };
    let select = |id, selection| InstalledGroup {
        id,
        kind: GroupKind::Select,
        buckets: (1..5).map(|n| Bucket::new(n * 10, [nat(n as u16)]).weight(n as u16)).collect(),
        selection,
    };
    use Field::*;
    vec![
        InstalledGroup {
            id: 77,
            kind: GroupKind::All,
            buckets: vec![
                Bucket::new(0, [Action::set(TunId.is(5u64)), Action::output(OfPort(1))]),
                Bucket::new(1, [Action::resubmit(8)]),
                Bucket::new(7, []),
            ],
            selection: None,
        },
        InstalledGroup { id: 78, kind: GroupKind::Indirect, buckets: vec![Bucket::new(0, [Action::output(OfPort(1))])], selection: None },
        InstalledGroup {
            id: 79,
            kind: GroupKind::FastFailover,
            buckets: vec![
                Bucket { watch_port: Some(OfPort(1)), ..Bucket::new(0, [Action::output(OfPort(1))]) },
                Bucket { watch_group: Some(77), ..Bucket::new(1, [Action::Group(77)]) },
            ],
            selection: None,
        },
        select(80, Some(SelectionMethod::dp_hash())),
        select(81, Some(SelectionMethod { param: 1, ..SelectionMethod::dp_hash() })),
        select(82, Some(SelectionMethod::hash([Ipv4Src, Ipv4Dst, IpProto, TcpSrc, TcpDst]))),
        select(83, Some(SelectionMethod::hash([Ipv6Src, Ipv6Dst, Reg5, IpProto, UdpSrc, UdpDst]))),
        select(84, None),
    ]
}

#[test]
fn every_flow_is_read_back_as_it_was_written() {
    let ovs = DummyOvs::start();
    let mut client = ovs.connect();
    client.bundle(groups().into_iter().map(|group| Message::GroupMod(GroupMod::add(group))).collect());
    let wanted = corpus();
    let errors = client.try_all(&wanted.iter().cloned().map(Message::FlowMod).collect::<Vec<_>>());
    let refused: Vec<_> = errors.iter().map(|(index, error)| format!("{error}: {:?}", wanted[*index])).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    let installed = client.flows();
    assert_eq!(installed.len(), wanted.len());
    let mut different = Vec::new();
    for want in &wanted {
        match installed.iter().find(|flow| flow.table == want.table && flow.priority == want.priority) {
            Some(flow) if flow.is(want) => {}
            flow => different.push((want, flow)),
        }
    }
    assert!(different.is_empty(), "{different:#?}");
}

#[test]
fn a_bundle_of_groups_and_flows_is_read_back_as_it_was_written() {
    let ovs = DummyOvs::start();
    let mut client = ovs.connect();
    let adds = groups().into_iter().map(|group| Message::GroupMod(GroupMod::add(group)));
    client.bundle(adds.chain(corpus().into_iter().map(Message::FlowMod)).collect());
    let mut installed = client.groups();
    installed.sort_by_key(|group| group.id);
    assert_eq!(installed, groups());
    assert_eq!(client.flows().len(), corpus().len());
    // Writing the same again changes nothing but counters.
    client.bundle(corpus().into_iter().map(Message::FlowMod).collect());
    let flows = client.flows();
    assert!(corpus().iter().all(|want| flows.iter().any(|flow| flow.is(want))));
}

#[test]
fn buckets_are_inserted_and_removed_one_by_one() {
    let ovs = DummyOvs::start();
    let mut client = ovs.connect();
    let mut group = groups().swap_remove(3);
    let new = Bucket::new(55, [Action::output(OfPort(9))]).weight(3);
    client.bundle(vec![
        Message::GroupMod(GroupMod::add(group.clone())),
        Message::GroupMod(GroupMod::insert(80, GroupKind::Select, BUCKET_LAST, vec![new.clone()])),
        Message::GroupMod(GroupMod::remove(80, GroupKind::Select, 10)),
    ]);
    group.buckets.remove(0);
    group.buckets.push(new);
    assert_eq!(client.groups(), vec![group]);
    client.bundle(vec![Message::GroupMod(GroupMod::delete(80))]);
    assert!(client.groups().is_empty());
}

#[test]
fn flows_and_groups_print_as_ovs_ofctl_prints_them() {
    let ovs = DummyOvs::start();
    let mut client = ovs.connect();
    let adds = groups().into_iter().map(|group| Message::GroupMod(GroupMod::add(group)));
    client.bundle(adds.chain(corpus().into_iter().map(Message::FlowMod)).collect());
    let mut ours: Vec<_> = client.flows().iter().map(|flow| flow.to_string()).collect();
    let printed = ovs.ofctl("dump-flows", &["--no-stats"]);
    let mut theirs: Vec<_> = printed.lines().map(|line| line.trim().to_owned()).filter(|line| line.contains("actions=")).collect();
    ours.sort();
    theirs.sort();
    let differing: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).collect();
    let expected: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).collect();
    assert!(differing.is_empty() && expected.is_empty(), "ours: {differing:#?}\ntheirs: {expected:#?}");
    let printed = ovs.ofctl("dump-groups", &[]);
    for group in client.groups() {
        let line = group.to_string();
        assert!(printed.lines().any(|theirs| theirs.trim() == line), "{line}\nis not in\n{printed}");
    }
}
