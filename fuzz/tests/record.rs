//! Records what the corpus needs of real parts: a switch, a database, both ends of the stream. Writes into `corpus`, so it runs
//! only when asked for: `cargo test --release -p fuzz --test record -- --ignored`.

#[path = "../../crates/openflow/tests/common/mod.rs"]
mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use apps::testing::*;
use bytes::Bytes;
use common::DummyOvs;
use fuzz::views::{Sender, framed};
use model::{Ipv6Mode, ListenerProtocol, Object, Subnet};
use openflow::{Action, AsyncConfig, Controller, Hello, Match, Message, MonitorRequest, MultipartRequest, OfPort, PacketOut};
use ovsdb::{Framer, call};
use prost::Message as _;
use serde_json::json;
use stream::InterestHash;
use stream::wire::{
    Delta, Hello as NodeHello, Interface, Key, NodeMessage, Report, ServerMessage, SnapshotBegin, SnapshotChunk, SnapshotEnd,
};
use stream::wire::{node_message, object_bytes, server_message::Body};

/// Nothing more is said after this silence.
const SILENCE: Duration = Duration::from_millis(500);
const BYTES_MAX: usize = 12 << 10;

fn keep(target: &str, name: &str, bytes: &[u8]) {
    if bytes.len() <= BYTES_MAX {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target).join(name), bytes).unwrap();
    }
}

/// Everything that is said until a silence.
fn heard(stream: &mut UnixStream) -> Vec<u8> {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let (mut heard, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return heard,
            Ok(count) => heard.extend_from_slice(&chunk[..count]),
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => return heard,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
#[ignore = "writes the corpus"]
fn record_a_switch_and_a_database() {
    let ovs = DummyOvs::start();
    ovs.add_port("p1", 1);
    for group in [
        "group_id=1,type=all,bucket=output:1,bucket=resubmit(,8)",
        "group_id=2,type=select,selection_method=hash,fields(ip_src,ip_dst),bucket=bucket_id:1,weight:3,actions=ct(commit,table=30,zone=3,nat(dst=10.0.0.1:80))",
    ] {
        ovs.ofctl("add-group", &[group]);
    }
    for flow in [
        "table=1,priority=7,cookie=5,conj_id=9,ip,ct_state=+trk-new,nw_dst=10.0.0.0/8,actions=set_field:5->reg1,move:reg1[0..15]->reg2[16..31],ct(commit,zone=reg4[0..15],table=9,exec(set_field:1/1->ct_mark))",
        "table=2,icmp6,icmp_type=136,nd_target=fe80::5,actions=set_field:fe80::6->nd_target,group:1",
        "table=3,tcp,tp_dst=80/0xfff0,actions=conjunction(9,1/2)",
        "table=4,ip,dl_vlan=5,actions=pop_vlan,controller(userdata=01.02,max_len=128),clone(dec_ttl,output:1),check_pkt_larger(1400)->reg0[3]",
        "table=5,idle_timeout=60,send_flow_rem,actions=write_metadata:5/0xff,goto_table:9",
    ] {
        ovs.ofctl("add-flow", &[flow]);
    }
    let mut stream = UnixStream::connect(ovs.socket()).unwrap();
    let punt = Action::Controller(Controller { userdata: vec![1], ..Controller::default() });
    let data = [&[2u8; 12][..], &[8, 0], &[0x45, 0, 0, 20], &[0; 16]].concat();
    let masks =
        vec![(openflow::async_kind::PACKET_IN, 0x3f), (openflow::async_kind::PORT_STATUS, 7), (openflow::async_kind::FLOW_REMOVED, 0x3f)];
    let asks = [
        Message::Hello(Hello::ours()),
        Message::FeaturesRequest,
        Message::SetPacketInFormat(openflow::packet_in_format::NXT_PACKET_IN2),
        Message::SetConfig(openflow::SwitchConfig { flags: 0, miss_send_len: openflow::MAX_LEN_ALL }),
        Message::SetAsync(AsyncConfig { masks }),
        Message::GetConfigRequest,
        Message::MultipartRequest(MultipartRequest::all_flows()),
        Message::MultipartRequest(MultipartRequest::all_groups()),
        Message::MultipartRequest(MultipartRequest::all_ports()),
        Message::MultipartRequest(MultipartRequest::FlowMonitor(vec![MonitorRequest::changes(1)])),
        Message::PacketOut(PacketOut::new(OfPort(1), vec![punt], data)),
        Message::FlowMod(openflow::FlowMod::add(10, 1, Match::any(), openflow::Instructions::drop().goto(3), 1)),
        Message::EchoRequest(vec![1, 2, 3]),
        Message::BarrierRequest,
    ];
    for (xid, ask) in asks.iter().enumerate() {
        let bytes = ask.to_bytes(xid as u32).unwrap();
        keep("openflow", &format!("asked-{xid:02}"), &bytes);
        stream.write_all(&bytes).unwrap();
    }
    ovs.add_port("p2", 2);
    ovs.ofctl("del-flows", &["table=5"]);
    let mut said = &heard(&mut stream)[..];
    let mut number = 0;
    while let Ok(Some(length)) = openflow::frame_len(said) {
        keep("openflow", &format!("said-{:02}-{number:02}", said[1]), &said[..length]);
        (said, number) = (&said[length..], number + 1);
    }
    record_a_database(&ovs);
}

fn record_a_database(ovs: &DummyOvs) {
    let mut stream = UnixStream::connect(ovs.dir.join("db.sock")).unwrap();
    let columns = json!(["name", "ofport", "external_ids", "error", "admin_state"]);
    let tables = json!({"Interface": [{"columns": columns}], "Bridge": [{"columns": ["name", "ports", "external_ids"]}]});
    let nil = "00000000-0000-0000-0000-000000000000";
    let set = json!({"op": "update", "table": "Bridge", "where": [["name", "==", "br0"]], "row": {"external_ids": ["map", [["a", "b"]]]}});
    let select = json!({"op": "select", "table": "Interface", "where": [], "columns": ["_uuid", "name", "ofport"]});
    let asks = [
        call::echo(1),
        call::list_dbs(2),
        call::request(3, "monitor_cond_since", vec![json!("Open_vSwitch"), json!("m"), tables, json!(nil)]),
        call::request(4, "transact", vec![json!("Open_vSwitch"), set, select]),
        call::request(5, "transact", vec![json!("Open_vSwitch"), json!({"op": "delete", "table": "None", "where": []})]),
        call::request(6, "nonsense", vec![]),
    ];
    for ask in asks {
        let mut bytes = Vec::new();
        ask.encode(&mut bytes);
        stream.write_all(&bytes).unwrap();
    }
    ovs.vsctl(&["--no-wait", "--", "add-port", "br0", "p3", "--", "set", "interface", "p3", "type=dummy", "external_ids:iface-id=x"]);
    ovs.vsctl(&["--no-wait", "del-port", "p3"]);
    let said = heard(&mut stream);
    let mut framer = Framer::default();
    framer.push(&said);
    let mut number = 0;
    while let Some(message) = framer.next_message().unwrap() {
        keep("ovsdb", &format!("said-{number:02}"), message);
        number += 1;
    }
    keep("ovsdb", "said-all", &said);
}

#[test]
#[ignore = "writes the corpus"]
fn record_a_server_and_a_node() {
    let hello = NodeHello {
        node: "n1".into(),
        tunnel_addresses: vec!["192.0.2.1".into(), "2001:db8::1".into()],
        tunnel: "geneve".into(),
        view_format: stream::VIEW_FORMAT,
        ..NodeHello::default()
    };
    let port_id = port("web", 4, "blue", &[]).id;
    let interface_of = |id: String, error: &str| Interface { iface_id: id, error: error.into(), ..Interface::default() };
    let full = Report {
        is_full: true,
        present: vec![interface_of(port_id.to_string(), ""), interface_of("tap0".into(), "could not open")],
        installed: vec![stream::wire::port_bytes(port_id)],
        revision: 7,
        ..Report::default()
    };
    let less = Report { absent: vec![port_id.to_string()], uninstalled: full.installed.clone(), ..Report::default() };
    let node = |body: node_message::Body| framed(Sender::Node, &NodeMessage::from(body).encode_to_vec());
    let said = [node(node_message::Body::Hello(hello)), node(node_message::Body::Report(full)), node(node_message::Body::Report(less))];
    keep("views", "node", &said.concat());

    let plain: Vec<Object> = vec![
        node_of("n1", "192.0.2.1"),
        node_of("n2", "192.0.2.2"),
        network("blue", 7).into(),
        subnet("v4", "blue", "10.0.0.0/24").into(),
        Subnet { ra_mode: Some(Ipv6Mode::Slaac), address_mode: Some(Ipv6Mode::Slaac), ..subnet("v6", "blue", "fd00::/64") }.into(),
        model::Port { host: Some(model::NodeName("n1".into())), ..port("web", 4, "blue", &[("v4", "10.0.0.9"), ("v6", "fd00::9")]) }.into(),
        model::Port { host: Some(model::NodeName("n2".into())), ..port("db", 5, "blue", &[("v4", "10.0.0.10")]) }.into(),
        interface("ri", 9, "blue", "r", &[("v4", "10.0.0.1")]).into(),
        router("r", 1).into(),
    ];
    keep("views", "snapshot", &snapshot(&plain));
    let vip_port = vip("vip", 20, "blue", &[("v4", "10.0.0.50")]);
    let guarded = model::SecurityGroupId(id("g"));
    let more: Vec<Object> = vec![
        model::Port {
            security_groups: vec![guarded],
            host: Some(model::NodeName("n1".into())),
            ..port("web", 4, "blue", &[("v4", "10.0.0.9")])
        }
        .into(),
        group("g", 1).into(),
        rule("in", "g", model::Direction::Ingress, model::EtherType::Ipv4).into(),
        balancer("lb", &vip_port).into(),
        vip_port.into(),
        listener("l", 1, "lb", ListenerProtocol::Tcp, 80, "pool").into(),
        pool("pool", "lb", ListenerProtocol::Tcp).into(),
        member("m", "pool", "10.0.0.9", 8080, 1).into(),
        block("blue", "n2", "v4", "10.0.0.64/26", vec![]).into(),
    ];
    let all: Vec<Object> =
        plain.iter().filter(|object| more.iter().all(|other| other.key() != object.key())).chain(&more).cloned().collect();
    let upserts: Vec<Bytes> = more.iter().map(object_bytes).collect();
    let first = Delta { from: 5, to: 6, upserts, interest_hash: hash(&all), ..Delta::default() };
    let gone = all[7].key();
    let rest: Vec<Object> = all.iter().filter(|object| object.key() != gone).cloned().collect();
    let second = Delta { from: 6, to: 7, removals: vec![Key::from(&gone)], interest_hash: hash(&rest), ..Delta::default() };
    keep("views", "deltas", &[snapshot(&plain), server(Body::Delta(first)), server(Body::Delta(second))].concat());
}

fn node_of(name: &str, tunnel: &str) -> Object {
    node(name, tunnel).into()
}

fn hash(objects: &[Object]) -> u64 {
    InterestHash::of(&objects.iter().map(Object::key).collect::<Vec<_>>()).0
}

fn server(body: Body) -> Vec<u8> {
    framed(Sender::Server, &ServerMessage::from(body).encode_to_vec())
}

fn snapshot(objects: &[Object]) -> Vec<u8> {
    let begin = Body::SnapshotBegin(SnapshotBegin { revision: 5, objects: objects.len() as u64 });
    let chunk = Body::SnapshotChunk(SnapshotChunk { objects: objects.iter().map(object_bytes).collect() });
    let end = Body::SnapshotEnd(SnapshotEnd { revision: 5, interest_hash: hash(objects) });
    [server(begin), server(chunk), server(end)].concat()
}
