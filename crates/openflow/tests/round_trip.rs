//! Every value survives the wire, no bytes make the decoder panic, and `ovs-ofctl` agrees on what bytes mean.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use openflow::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// A field with a value and mask that it can have.
fn field() -> impl Strategy<Value = MatchField> {
    (0..Field::all().len(), any::<u128>(), any::<u128>(), any::<bool>()).prop_map(|(index, value, mask, is_exact)| {
        let field = Field::all()[index];
        let full = field.full_mask();
        let mask = if is_exact || !field.spec().is_maskable || mask & full == 0 { full } else { mask & full };
        field.masked(value & mask, mask)
    })
}

/// Matches that a switch could hold; contradictions are thrown away.
fn matching() -> impl Strategy<Value = Match> {
    vec(field(), 0..6).prop_map(|fields| {
        let mut kept: Vec<MatchField> = Vec::new();
        for field in fields {
            let mut more = kept.clone();
            more.push(field);
            if Match::new(more.clone()).is_ok() {
                kept = more;
            }
        }
        Match::new(kept).unwrap()
    })
}

fn subfield() -> impl Strategy<Value = Subfield> {
    (0..Field::all().len(), 0u16..64, 1u16..=64).prop_map(|(index, offset, bits)| {
        let field = Field::all()[index];
        let width = field.spec().bits;
        let offset = offset % width;
        Subfield::new(field, offset, bits.min(width - offset))
    })
}

fn port() -> impl Strategy<Value = OfPort> {
    prop_oneof![(0u32..0xff00).prop_map(OfPort), (0xffff_ff00u32..=u32::MAX).prop_map(OfPort)]
}

fn nat() -> impl Strategy<Value = Nat> {
    let v4 = (any::<u32>(), option::of(any::<u32>()))
        .prop_map(|(low, high)| (Ipv4Addr::from(low).into(), high.map(|high| IpAddr::from(Ipv4Addr::from(high)))));
    let v6 = (any::<u128>(), option::of(any::<u128>()))
        .prop_map(|(low, high)| (Ipv6Addr::from(low).into(), high.map(|high| IpAddr::from(Ipv6Addr::from(high)))));
    let kind = prop_oneof![Just(None), Just(Some(NatKind::Source)), Just(Some(NatKind::Destination))];
    let choice = prop_oneof![Just(PortChoice::Unspecified), Just(PortChoice::Hash), Just(PortChoice::Random)];
    let ports = option::of((any::<u16>(), option::of(any::<u16>())));
    (kind, option::of(prop_oneof![v4, v6]), ports, any::<bool>(), choice)
        .prop_map(|(kind, addresses, ports, persistent, port_choice)| Nat { kind, addresses, ports, persistent, port_choice })
}

fn action() -> impl Strategy<Value = Action> {
    let controller = (any::<u16>(), any::<u16>(), any::<u8>(), vec(any::<u8>(), 0..40), any::<bool>(), option::of(any::<u32>())).prop_map(
        |(max_len, controller_id, reason, userdata, pause, meter)| {
            Action::Controller(Controller { max_len, controller_id, reason, userdata, pause, meter })
        },
    );
    let movement = (subfield(), any::<u16>()).prop_map(|(source, offset)| {
        let destination = Subfield::new(Field::XxReg3, offset % 64, source.bits);
        Action::Move { source, destination }
    });
    let unknown = vec(any::<u8>(), 12).prop_map(|tail| {
        let mut bytes = vec![0xff, 0xff, 0, 16, 0, 0, 0x23];
        bytes.extend_from_slice(&tail[..9]);
        bytes[7] = 0x21;
        Action::Unknown(bytes)
    });
    let leaf = prop_oneof![
        (port(), any::<u16>()).prop_map(|(port, max_len)| Action::Output { port, max_len }),
        controller,
        (subfield(), any::<u16>()).prop_map(|(source, max_len)| Action::OutputReg { source, max_len }),
        any::<u32>().prop_map(Action::Group),
        field().prop_map(Action::SetField),
        movement,
        (port(), any::<u8>(), any::<bool>()).prop_map(|(port, table, with_ct_tuple)| Action::Resubmit { port, table, with_ct_tuple }),
        Just(Action::CtClear),
        nat().prop_map(Action::Nat),
        (any::<u32>(), any::<u8>(), any::<u8>()).prop_map(|(id, clause, clauses)| Action::Conjunction { id, clause, clauses }),
        vec(any::<u8>(), 0..30).prop_map(Action::note),
        any::<u8>().prop_map(Action::SetTtl),
        Just(Action::DecTtl),
        any::<u16>().prop_map(Action::PushVlan),
        Just(Action::PopVlan),
        (any::<u16>(), 0u16..32).prop_map(|(length, offset)| Action::CheckPktLarger { length, field: Field::Reg1, offset }),
        subfield().prop_map(Action::StackPush),
        subfield().prop_map(Action::StackPop),
        any::<u32>().prop_map(Action::SetQueue),
        any::<u32>().prop_map(Action::Meter),
        Just(Action::Exit),
        unknown,
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let zone =
            prop_oneof![any::<u16>().prop_map(openflow::CtZone::Number), Just(openflow::CtZone::From(Subfield::new(Field::Reg7, 0, 16)))];
        let flags = (any::<bool>(), any::<bool>(), zone, option::of(0u8..254), any::<u16>());
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Action::Clone),
            (flags, vec(inner, 0..4))
                .prop_map(|((commit, force, zone, table, alg), actions)| { Action::Ct(Ct { commit, force, zone, table, alg, actions }) }),
        ]
    })
}

fn instructions() -> impl Strategy<Value = Instructions> {
    let metadata = option::of((any::<u64>(), any::<u64>()).prop_map(|(value, mask)| (value & mask, mask)));
    (option::of(any::<u32>()), vec(action(), 0..5), any::<bool>(), vec(action(), 0..3), metadata, option::of(any::<u8>())).prop_map(
        |(meter, apply, clear, write, metadata, goto_table)| Instructions {
            meter,
            apply,
            clear,
            write,
            metadata,
            goto_table,
            unknown: vec![],
        },
    )
}

fn flow_mod() -> impl Strategy<Value = FlowMod> {
    use FlowCommand::*;
    let command = prop_oneof![Just(Add), Just(Modify), Just(ModifyStrict), Just(Delete), Just(DeleteStrict)];
    let numbers = (any::<u8>(), any::<u16>(), any::<[u64; 2]>(), any::<[u16; 3]>(), 0u16..32, port(), any::<u32>());
    (command, numbers, matching(), instructions()).prop_map(
        |(
            command,
            (table, priority, [cookie, cookie_mask], [idle, hard, importance], flags, out_port, out_group),
            matching,
            instructions,
        )| {
            FlowMod {
                command,
                table,
                priority,
                matching,
                instructions,
                cookie,
                cookie_mask,
                idle_timeout_secs: idle,
                hard_timeout_secs: hard,
                importance,
                flags,
                out_port,
                out_group,
            }
        },
    )
}

fn stats() -> impl Strategy<Value = FlowStats> {
    let pair = || option::of(any::<(u32, u32)>());
    (pair(), pair(), option::of(any::<u32>()), option::of(any::<u64>()), option::of(any::<u64>()))
        .prop_map(|(duration, idle, flows, packets, bytes)| FlowStats { duration, idle, flows, packets, bytes })
}

fn installed_flow() -> impl Strategy<Value = InstalledFlow> {
    (flow_mod(), stats()).prop_map(|(flow, stats)| InstalledFlow {
        table: flow.table,
        priority: flow.priority,
        matching: flow.matching,
        instructions: flow.instructions,
        cookie: flow.cookie,
        idle_timeout_secs: flow.idle_timeout_secs,
        hard_timeout_secs: flow.hard_timeout_secs,
        importance: flow.importance,
        flags: flow.flags,
        stats,
    })
}

fn installed_group() -> impl Strategy<Value = InstalledGroup> {
    use GroupKind::*;
    let bucket = (any::<u32>(), option::of(any::<u16>()), option::of(0u32..99), option::of(0u32..99), vec(action(), 0..4))
        .prop_map(|(id, weight, port, watch_group, actions)| Bucket { id, weight, watch_port: port.map(OfPort), watch_group, actions });
    let selection =
        prop_oneof![Just(SelectionMethod::dp_hash()), Just(SelectionMethod::hash([Field::Ipv4Src, Field::Reg3, Field::TcpDst])),];
    let kind = prop_oneof![Just(All), Just(Select), Just(Indirect), Just(FastFailover)];
    (any::<u32>(), kind, vec(bucket, 0..5), option::of(selection)).prop_map(|(id, kind, buckets, selection)| InstalledGroup {
        id,
        kind,
        buckets,
        selection,
    })
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = || vec(any::<u8>(), 0..60);
    let packet2 =
        (bytes(), any::<(Option<u32>, Option<u32>, Option<u8>, Option<u64>, Option<u8>)>(), matching(), bytes(), option::of(bytes()))
            .prop_map(|(packet, (full_len, buffer, table, cookie, reason), metadata, userdata, continuation)| PacketIn2 {
                packet,
                full_len,
                buffer,
                table,
                cookie,
                reason,
                metadata,
                userdata,
                continuation,
            })
            .boxed();
    let tuple =
        (option::of(any::<Ipv4Addr>()), option::of(any::<Ipv4Addr>()), option::of(any::<u16>()), option::of(any::<u16>())).prop_map(
            |(src, dst, a, b)| CtTuple { src: src.map(IpAddr::from), dst: dst.map(IpAddr::from), ports: CtPorts::Ports { src: a, dst: b } },
        );
    let flush =
        (option::of(any::<u16>()), tuple.clone(), tuple).prop_map(|(zone, original, reply)| CtFlush { protocol: 6, zone, original, reply });
    let port = (port(), any::<[u8; 6]>(), "[a-z0-9-]{1,15}", any::<u32>(), any::<u32>(), bytes())
        .prop_map(|(number, mac, name, config, state, properties)| Port { number, mac, name, config, state, properties })
        .boxed();
    let reply = |body| Message::MultipartReply(MultipartReply { more: true, body });
    let change = flow_mod().prop_map(|flow| {
        FlowUpdate::Changed(FlowChange {
            event: FlowEvent::Removed,
            table: flow.table,
            reason: 2,
            priority: flow.priority,
            idle_timeout_secs: flow.idle_timeout_secs,
            hard_timeout_secs: flow.hard_timeout_secs,
            cookie: flow.cookie,
            matching: flow.matching,
            instructions: flow.instructions,
        })
    });
    let update =
        prop_oneof![change, any::<u32>().prop_map(|xid| FlowUpdate::Own { xid }), Just(FlowUpdate::Paused), Just(FlowUpdate::Resumed),];
    let single = prop_oneof![
        option::of(any::<u32>()).prop_map(|versions| Message::Hello(Hello { version: 6, versions })),
        (0u16..99, any::<u16>(), bytes()).prop_map(|(kind, code, data)| Message::Error(ErrorMessage { kind, code, vendor: None, data })),
        bytes().prop_map(Message::EchoRequest),
        bytes().prop_map(Message::EchoReply),
        any::<(u16, u16)>().prop_map(|(flags, miss_send_len)| Message::SetConfig(SwitchConfig { flags, miss_send_len })),
        flow_mod().prop_map(Message::FlowMod),
        installed_group().prop_map(|group| Message::GroupMod(GroupMod::add(group))),
        (any::<u32>(), any::<u32>()).prop_map(|(id, at)| Message::GroupMod(GroupMod::remove(id, GroupKind::Select, at))),
        vec(installed_flow(), 0..4).prop_map(MultipartBody::Flows).prop_map(reply),
        vec(installed_group(), 0..4).prop_map(MultipartBody::Groups).prop_map(reply),
        vec(port.clone(), 0..4).prop_map(MultipartBody::Ports).prop_map(reply),
        vec(update, 0..4).prop_map(MultipartBody::FlowUpdates).prop_map(reply),
        stats().prop_map(MultipartBody::Aggregate).prop_map(reply),
        matching().prop_map(|matching| {
            let filter = FlowFilter { matching, ..FlowFilter::all() };
            Message::MultipartRequest(MultipartRequest::Flows(filter))
        }),
        Just(Message::MultipartRequest(MultipartRequest::FlowMonitor(vec![MonitorRequest::changes(3)]))),
        port.prop_map(|port| Message::PortStatus { reason: PortReason::Modified, port }),
        (matching(), vec(action(), 0..4), bytes()).prop_map(|(metadata, actions, packet)| Message::PacketOut(PacketOut {
            metadata,
            actions,
            packet
        })),
        (matching(), bytes(), any::<u64>()).prop_map(|(metadata, packet, cookie)| Message::PacketIn(PacketIn {
            buffer: NO_BUFFER,
            full_len: 9,
            reason: 1,
            table: 3,
            cookie,
            metadata,
            packet,
        })),
        packet2.clone().prop_map(Message::PacketIn2),
        packet2.prop_map(Message::Resume),
        flush.prop_map(Message::CtFlush),
        any::<u16>().prop_map(Message::CtFlushZone),
        any::<(u32, u16, u64)>()
            .prop_map(|(role, short_id, generation)| { Message::RoleRequest(RoleMessage { role, short_id, generation }) }),
        vec(any::<(u16, u32)>(), 0..4).prop_map(|masks| Message::SetAsync(AsyncConfig { masks })),
        (60u8..99, bytes()).prop_map(|(kind, body)| Message::Unknown { kind, body }),
    ];
    (single, option::of(option::of(any::<u32>()))).prop_map(|(message, nested)| match nested {
        Some(Some(bundle)) => Message::BundleAdd { bundle, flags: BUNDLE_ATOMIC, message: Box::new(message) },
        Some(None) => Message::RequestForward(Box::new(message)),
        None => message,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_survives_the_wire(message in message(), xid in any::<u32>()) {
        let bytes = message.to_bytes(xid).unwrap();
        prop_assert_eq!(frame_len(&bytes), Ok(Some(bytes.len())));
        prop_assert_eq!(decode(&bytes), Ok((message, xid)));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(mut bytes in vec(any::<u8>(), 0..300), kind in 0u8..36, is_framed in any::<bool>()) {
        if is_framed && bytes.len() >= 8 {
            let length = bytes.len() as u16;
            bytes[..2].copy_from_slice(&[6, kind]);
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn no_damaged_message_makes_the_decoder_panic(message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = message.to_bytes(1).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let length = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        if let Ok((decoded, xid)) = decode(&bytes) {
            // What was understood can be said again, and then means the same.
            if let Ok(again) = decoded.to_bytes(xid) {
                prop_assert_eq!(decode(&again), Ok((decoded, xid)));
            }
        }
        bytes.truncate(cut.index(bytes.len()));
        let _ = decode(&bytes);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn printed(message: &Message) -> String {
    common::ofctl(&["--no-names", "ofp-print", &hex(&message.to_bytes(5).unwrap())])
}

#[test]
fn ovs_ofctl_understands_our_messages() {
    let matching = Match::new([Field::EthType.is(ETH_TYPE_IPV4), Field::TcpDst.is(80u16)]).unwrap();
    let flow = FlowMod::add(3, 7, matching, Instructions::apply([Action::output(OfPort(2))]).goto(9), 0x11);
    assert!(printed(&Message::FlowMod(flow)).contains("ADD table:3 priority=7,tcp,tp_dst=80 cookie:0x11 actions=output:2,goto_table:9"));
    let group = InstalledGroup {
        id: 5,
        kind: GroupKind::Select,
        buckets: vec![Bucket::new(1, [Action::output(OfPort(2))]).weight(4)],
        selection: Some(SelectionMethod::dp_hash()),
    };
    let text = printed(&Message::GroupMod(GroupMod::add(group.clone())));
    assert!(text.contains(&group.to_string()), "{text}");
    let config = SwitchConfig { flags: fragments::NX_MATCH, miss_send_len: 128 };
    assert!(printed(&Message::SetConfig(config)).contains("frags=nx-match miss_send_len=128"));
    let packet = PacketOut::new(OfPort(3), [Action::resubmit(7)], vec![0; 60]);
    assert!(printed(&Message::PacketOut(packet)).contains("in_port=3 actions=resubmit(,7)"));
    let format = Message::SetPacketInFormat(packet_in_format::NXT_PACKET_IN2);
    assert!(printed(&format).contains("nxt_packet_in2"));
    let tuple = CtTuple {
        src: Some("10.0.0.1".parse().unwrap()),
        dst: Some("10.0.0.2".parse().unwrap()),
        ports: CtPorts::Ports { src: Some(5), dst: Some(80) },
    };
    let flush = CtFlush { protocol: 6, zone: Some(9), original: tuple, reply: CtTuple::default() };
    let text = printed(&Message::CtFlush(flush));
    assert!(text.contains("zone=9 'ct_nw_src=10.0.0.1,ct_nw_dst=10.0.0.2,ct_tp_src=5,ct_tp_dst=80,ct_nw_proto=6'"), "{text}");
    assert!(printed(&Message::CtFlushZone(7)).contains("zone_id=7"));
    let control = BundleControl { bundle: 8, kind: BundleControlKind::OpenRequest, flags: BUNDLE_ATOMIC | BUNDLE_ORDERED };
    assert!(printed(&Message::BundleControl(control)).contains("type=OPEN_REQUEST flags=atomic ordered"));
    let masks = vec![(async_kind::PACKET_IN, 2), (async_kind::PORT_STATUS, 7)];
    assert!(printed(&Message::SetAsync(AsyncConfig { masks })).contains("PACKET_IN: action"));
    let monitor = MultipartRequest::FlowMonitor(vec![MonitorRequest::changes(4)]);
    assert!(printed(&Message::MultipartRequest(monitor)).contains("id=4 flags=add,delete,modify"),);
}

#[test]
fn ovs_ofctl_writes_what_we_decode() {
    let lines = [
        "table=3,priority=9,tcp,nw_dst=10.0.0.0/8,tp_dst=80,actions=ct(commit,zone=5,nat(dst=10.0.0.9:8080),exec(set_field:0x1->ct_mark)),goto_table:7",
        "table=1,priority=1,ct_state=-inv+trk,ipv6,actions=resubmit(,9),controller(userdata=01.02)",
        "table=1,priority=1,arp,arp_op=1,actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:2->arp_op,IN_PORT",
        "table=0,priority=2,reg1=0x5/0xff,dl_vlan=7,actions=pop_vlan,output:NXM_NX_REG1[0..15]",
    ];
    let socket = FakeSwitch::start();
    for line in lines {
        let message = socket.what_ofctl_sends(&["add-flow", &socket.address(), line]);
        let Message::FlowMod(flow) = message else { panic!("{message:?}") };
        let installed = InstalledFlow {
            table: flow.table,
            priority: flow.priority,
            matching: flow.matching.clone(),
            instructions: flow.instructions.clone(),
            cookie: 0,
            idle_timeout_secs: 0,
            hard_timeout_secs: 0,
            importance: 0,
            flags: 0,
            stats: FlowStats::default(),
        };
        let spaced = line.replace("table=0,", "").replace(",priority", ", priority").replace(",actions", " actions");
        assert_eq!(installed.to_string(), spaced);
    }
    let flush = socket.what_ofctl_sends(&[
        "ct-flush",
        &socket.address(),
        "zone=5",
        "ct_nw_src=10.0.0.1,ct_nw_dst=10.0.0.2,ct_tp_dst=80,ct_nw_proto=17",
    ]);
    let original = CtTuple {
        src: Some("10.0.0.1".parse().unwrap()),
        dst: Some("10.0.0.2".parse().unwrap()),
        ports: CtPorts::Ports { src: None, dst: Some(80) },
    };
    assert_eq!(flush, Message::CtFlush(CtFlush { protocol: 17, zone: Some(5), original, reply: CtTuple::default() }));
}

/// Something that `ovs-ofctl` takes for a switch.
struct FakeSwitch {
    listener: std::os::unix::net::UnixListener,
    path: std::path::PathBuf,
}

impl FakeSwitch {
    fn start() -> Self {
        let path = std::env::temp_dir().join(format!("ladon-openflow-fake-{}.sock", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        FakeSwitch { listener, path }
    }

    fn address(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// Runs `ovs-ofctl` against this and returns its first message after the handshake.
    fn what_ofctl_sends(&self, arguments: &[&str]) -> Message {
        use std::io::{Read, Write};
        let mut command = std::process::Command::new("ovs-ofctl");
        let mut child = command.args(["-O", "OpenFlow15", "--no-names"]).args(arguments).spawn().unwrap();
        let mut accepted = None;
        common::wait_for("ovs-ofctl to connect", || {
            accepted = self.listener.accept().ok();
            accepted.is_some() || child.try_wait().unwrap().is_some()
        });
        let (mut stream, _) = accepted.expect("ovs-ofctl ended without a word");
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(120))).unwrap();
        stream.write_all(&Message::Hello(Hello::ours()).to_bytes(1).unwrap()).unwrap();
        let found = loop {
            let mut bytes = vec![0; 8];
            stream.read_exact(&mut bytes).unwrap();
            let length = frame_len(&bytes).unwrap().unwrap();
            bytes.resize(length, 0);
            stream.read_exact(&mut bytes[8..]).unwrap();
            match decode(&bytes).unwrap() {
                (Message::Hello(_), _) => {}
                (message, _) => break message,
            }
        };
        child.kill().unwrap();
        child.wait().unwrap();
        found
    }
}

impl Drop for FakeSwitch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn a_message_too_long_to_count_is_an_error_and_writes_nothing() {
    let actions: Vec<_> = (0..5000).map(|port| Action::output(OfPort(port))).collect();
    let flow = FlowMod::add(0, 1, Match::any(), Instructions::apply(actions), 0);
    let mut out = vec![1, 2, 3];
    let result = Message::FlowMod(flow).encode(1, &mut out);
    assert!(matches!(result, Err(EncodeError::TooLong { length: 80_008, .. })), "{result:?}");
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
    let mut action = Action::DecTtl;
    for _ in 0..200 {
        action = Action::Clone(vec![action]);
    }
    let bytes = Message::FlowMod(FlowMod::add(0, 1, Match::any(), Instructions::apply([action]), 0)).to_bytes(1).unwrap();
    assert_eq!(decode(&bytes), Err(DecodeError::TooDeep));
}

#[test]
fn contradictions_in_a_match_are_errors() {
    let conflict = Match::new([Field::EthType.is(ETH_TYPE_ARP), Field::Ipv4Dst.is(1u32)]);
    assert!(matches!(conflict, Err(MatchError::Conflict { .. })));
    assert!(matches!(Match::new([Field::TcpDst.is(80u16)]), Err(MatchError::MissingPrerequisite { .. })));
    assert!(matches!(Match::new([Field::NdTarget.is(80u16)]), Err(MatchError::MissingPrerequisite { .. })));
    assert!(matches!(Match::new([Field::InPort.masked(1u32, 1u32)]), Err(MatchError::NotMaskable(_))));
    assert!(matches!(Match::new([Field::VlanPcp.is(9u32)]), Err(MatchError::TooWide { .. })));
    let both = Match::new([Field::Reg0.masked(1u32, 0xffu32), Field::XReg0.is(1u64 << 32)]).unwrap();
    assert_eq!(both, Match::new([Field::Reg0.is(1u32), Field::Reg1.is(0u32)]).unwrap());
}
