//! Load balancing with real packets on a real Open vSwitch: clients and members in network namespaces.

mod world;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use apps::Change;
use apps::testing::*;
use model::*;
use pipeline::Punt;
use world::{Workload, World};

const TCP: ListenerProtocol = ListenerProtocol::Tcp;
const UDP: ListenerProtocol = ListenerProtocol::Udp;
/// VIPs on a network of their own behind a router, and on the clients' own network.
const VIPS: [(&str, &str, &str); 4] =
    [("svc", "svc4", "10.96.0.10"), ("svc", "svc6", "fd00:96::10"), ("net", "net4", "10.0.9.9"), ("net", "net6", "fd00::99")];
/// What is not expected is not waited for.
const BRIEF: Duration = Duration::from_secs(2);
const GATEWAYS: [&str; 2] = ["10.0.0.1", "fd00::1"];

/// Networks `net` and `svc` behind a router. Members may be asked on port 8080 only; everybody may ask anybody.
fn networks() -> Vec<Change> {
    let rule = |name: &str, direction, ethertype, ports: Option<(u8, u16)>| {
        let (protocol, port) = ports.unzip();
        put(Rule { protocol, range_min: port, range_max: port, ..rule(name, "web", direction, ethertype) })
    };
    let mut changes = vec![
        here("node0", "192.0.2.1"),
        put(network("net", 7)),
        put(network("svc", 8)),
        put(subnet("net4", "net", "10.0.0.0/16")),
        put(subnet("net6", "net", "fd00::/64")),
        put(subnet("svc4", "svc", "10.96.0.0/24")),
        put(subnet("svc6", "svc", "fd00:96::/64")),
        put(router("router", 1)),
        put(interface("on-net", 50, "net", "router", &[("net4", "10.0.0.1"), ("net6", "fd00::1")])),
        put(interface("on-svc", 51, "svc", "router", &[("svc4", "10.96.0.254"), ("svc6", "fd00:96::ff")])),
        put(group("web", 1)),
    ];
    for (n, ethertype) in [EtherType::Ipv4, EtherType::Ipv6].into_iter().enumerate() {
        changes.push(rule(&format!("out{n}"), Direction::Egress, ethertype, None));
        changes.push(rule(&format!("tcp{n}"), Direction::Ingress, ethertype, Some((6, 8080))));
        changes.push(rule(&format!("udp{n}"), Direction::Ingress, ethertype, Some((17, 8080))));
        changes.push(rule(&format!("closed{n}"), Direction::Ingress, ethertype, Some((17, 9999))));
    }
    changes
}

fn workload(name: &str, key: u32) -> Port {
    let (v4, v6) = (format!("10.0.0.{key}"), format!("fd00::{key}"));
    let host = Some(NodeName("node0".into()));
    Port { security_groups: vec![SecurityGroupId(id("web"))], host, ..port(name, key, "net", &[("net4", &v4), ("net6", &v6)]) }
}

/// Load balancers for every VIP, with listeners on port 80 whose members are `members` on port 8080.
fn balancers(members: &[(&str, u16)]) -> Vec<Change> {
    let one = |(n, (network, subnet, address)): (u32, &(&str, &str, &str))| {
        let lb = format!("lb{n}");
        let vip = vip(&format!("vip{n}"), 60 + n, network, &[(subnet, address)]);
        let mut changes = vec![put(balancer(&lb, &vip)), put(vip)];
        for (offset, protocol) in [(0, TCP), (10, UDP)] {
            let pool_name = format!("{lb}-{offset}");
            changes.push(put(listener(&format!("l{pool_name}"), 100 + n + offset, &lb, protocol, 80, &pool_name)));
            changes.push(put(pool(&pool_name, &lb, protocol)));
            let fitting = members.iter().filter(|(ip, _)| ip.contains(':') == address.contains(':'));
            changes.extend(fitting.map(|(ip, weight)| put(member(&format!("{pool_name}-{ip}"), &pool_name, ip, 8080, *weight))));
        }
        changes
    };
    (0..).zip(&VIPS).flat_map(one).collect()
}

fn at(vip: &str, port: u16) -> String {
    std::net::SocketAddr::new(vip.parse().unwrap(), port).to_string()
}

/// A client and two members on one node.
fn client_and_members(weights: [u16; 2]) -> (World, Workload, [Workload; 2]) {
    let ports = [("client", 10), ("one", 11), ("two", 12)].map(|(name, key)| put(workload(name, key)));
    let members = [("10.0.0.11", weights[0]), ("fd00::11", weights[0]), ("10.0.0.12", weights[1]), ("fd00::12", weights[1])];
    let mut world = World::new(networks().into_iter().chain(ports).chain(balancers(&members)));
    let client = world.plug("client", 10, &GATEWAYS);
    let members = [("one", 11), ("two", 12)].map(|(name, number)| world.plug(name, number, &GATEWAYS));
    (world, client, members)
}

fn answered(answer: &str) -> (&str, &str) {
    answer.split_once(' ').unwrap()
}

#[test]
fn both_members_answer_and_see_the_client() {
    let (_world, client, members) = client_and_members([1, 1]);
    let _servers = members.each_ref().map(|member| member.serve(8080));
    for (_, _, vip) in VIPS {
        let (mut tcp, mut udp) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..20 {
            let mut talk = client.connect(&at(vip, 80)).unwrap_or_else(|error| panic!("{vip}: {error}"));
            let answer = talk.say("hello").unwrap();
            assert_eq!(answered(&answer).1, talk.local().to_string(), "{vip}");
            tcp.insert(answered(&answer).0.to_owned());
            let socket = client.socket(&at(vip, 80));
            let answer = socket.ask(100).unwrap_or_else(|error| panic!("{vip} UDP: {error}"));
            assert_eq!(answered(&answer).1, socket.local().to_string(), "{vip}");
            udp.insert(answered(&answer).0.to_owned());
        }
        assert_eq!((tcp.len(), udp.len()), (2, 2), "{vip}: {tcp:?} {udp:?}");
        assert!(lab::traffic::is_reachable(client.netns(), vip.parse().unwrap()).unwrap(), "{vip} answers a ping");
    }
}

#[test]
fn a_member_reaches_itself_through_its_vip() {
    let (_world, _client, [one, _two]) = client_and_members([1, 0]);
    let _server = one.serve(8080);
    for (_, _, vip) in VIPS {
        for _ in 0..3 {
            let mut talk = one.connect(&at(vip, 80)).unwrap_or_else(|error| panic!("{vip}: {error}"));
            let answer = talk.say("hello").unwrap();
            assert_eq!(answer, format!("one {}", at(vip, talk.local().port())), "the VIP is the source");
            let socket = one.socket(&at(vip, 80));
            for length in [100, 100, 4000] {
                assert_eq!(socket.ask(length).unwrap(), format!("one {}", at(vip, socket.local().port())));
            }
        }
    }
}

#[test]
fn established_connections_stay_when_members_change() {
    let (mut world, client, members) = client_and_members([1, 0]);
    let _servers = members.each_ref().map(|member| member.serve(8080));
    for (_, _, vip) in VIPS {
        world.update(balancers(&[("10.0.0.11", 1), ("fd00::11", 1), ("10.0.0.12", 0), ("fd00::12", 0)]));
        let mut talk = client.connect(&at(vip, 80)).unwrap();
        assert_eq!(answered(&talk.say("hello").unwrap()).0, "one");
        world.update(balancers(&[("10.0.0.11", 0), ("fd00::11", 0), ("10.0.0.12", 5), ("fd00::12", 5)]));
        assert_eq!(answered(&talk.say("still there?").unwrap()).0, "one", "{vip}: weight 0 keeps what there is");
        let mut new = client.connect(&at(vip, 80)).unwrap();
        assert_eq!(answered(&new.say("hello").unwrap()).0, "two", "{vip}: and gets nothing new");
    }
}

#[test]
fn without_members_the_node_is_asked_to_refuse() {
    let (mut world, client, _members) = client_and_members([0, 0]);
    for (_, _, vip) in VIPS {
        assert!(client.connect_within(&at(vip, 80), BRIEF).is_err());
        let packet = world.punted(Punt::Refused);
        assert!(!packet.packet.is_empty());
        assert!(client.connect_within(&at(vip, 4444), BRIEF).is_err());
        world.punted(Punt::Refused);
    }
}

#[test]
fn an_icmp_error_of_a_member_comes_back_from_the_vip() {
    let (mut world, client, _members) = client_and_members([1, 0]);
    // Nobody listens on the members' port 9999: their kernels say so.
    let closed = |n: usize, ip: &str| put(Member { port: 9999, ..member(&format!("lb{n}-10-{ip}"), &format!("lb{n}-10"), ip, 9999, 1) });
    world.update((0..4).flat_map(|n| ["10.0.0.11", "fd00::11"].map(|ip| closed(n, ip))));
    for (_, _, vip) in VIPS {
        let error = client.socket(&at(vip, 80)).ask(100).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{vip}");
    }
}

/// On fixed ports, the client's rules know the conversation as one that the member began.
#[test]
fn a_member_that_has_spoken_first_still_answers_from_the_vip() {
    let (_world, client, [one, _two]) = client_and_members([1, 0]);
    let bound = |workload: &Workload, any: &str, port: u16| {
        let socket = workload.netns().within(|| UdpSocket::bind(at(any, port))).unwrap().unwrap();
        socket.set_read_timeout(Some(BRIEF)).unwrap();
        socket
    };
    for ((_, _, vip), any, here, there) in [(VIPS[0], "0.0.0.0", "10.0.0.10", "10.0.0.11"), (VIPS[1], "::", "fd00::10", "fd00::11")] {
        let (asking, answering) = (bound(&client, any, 9999), bound(&one, any, 8080));
        let heard = |socket: &UdpSocket| socket.recv_from(&mut [0; 64]).unwrap_or_else(|error| panic!("{vip}: {error}")).1;
        answering.send_to(b"first", at(here, 9999)).unwrap();
        assert_eq!(heard(&asking).to_string(), at(there, 8080));
        asking.send_to(b"question", at(vip, 80)).unwrap();
        let asker = heard(&answering);
        answering.send_to(b"answer", asker).unwrap();
        assert_eq!(heard(&asking).to_string(), at(vip, 80));
    }
}

#[test]
fn a_large_datagram_passes_once_the_connection_exists() {
    let (world, client, members) = client_and_members([1, 0]);
    let _servers = members.each_ref().map(|member| member.serve(8080));
    for (_, _, vip) in VIPS {
        let socket = client.socket(&at(vip, 80));
        for length in [100, 4000, 4000] {
            let answer = socket.ask(length).unwrap_or_else(|error| panic!("{vip} {length}: {error}\n{}", world.seen()));
            assert_eq!(answer, format!("one {}", socket.local()));
        }
    }
}

#[test]
fn a_thousand_members_all_get_connections() {
    let many = |name: &str, key: u32, base: u32| {
        let v4: Vec<String> = (0..500).map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + base + n).to_string()).collect();
        let v6: Vec<String> = (0..500).map(|n| format!("fd00::1:{:x}", base + n)).collect();
        let on = |subnet: &'static str, ips: &[String]| ips.iter().map(|ip| (subnet, ip.clone())).collect::<Vec<_>>();
        let addresses = [on("net4", &v4), on("net6", &v6)].concat();
        let addresses: Vec<(&str, &str)> = addresses.iter().map(|(subnet, ip)| (*subnet, ip.as_str())).collect();
        Port { fixed_ips: port(name, key, "net", &addresses).fixed_ips, ..workload(name, key) }
    };
    let (one, two) = (many("one", 11, 0x1000), many("two", 12, 0x2000));
    let members: Vec<String> = one.addresses().chain(two.addresses()).map(|ip| ip.to_string()).collect();
    let members: Vec<(&str, u16)> = members.iter().map(|ip| (ip.as_str(), 1)).collect();
    let ports = [put(workload("client", 10)), put(one.clone()), put(two.clone())];
    let mut world = World::new(networks().into_iter().chain(ports).chain(balancers(&members)));
    let client = world.plug("client", 10, &GATEWAYS);
    let (one, two) = (world.plug("one", 11, &GATEWAYS), world.plug("two", 12, &GATEWAYS));
    let _servers = [one.serve(8080), two.serve(8080)];
    for vip in ["10.96.0.10", "fd00:96::10"] {
        for _ in 0..600 {
            client.connect(&at(vip, 80)).unwrap().say("hello").unwrap();
        }
        let entries = world.appctl(&["dpctl/dump-conntrack", &format!("zone={}", 10 * 3 + 1)]);
        let sources = entries.lines().filter_map(|line| line.split("reply=(src=").nth(1)?.split(',').next());
        let chosen: BTreeSet<&str> = sources.filter(|ip| ip.contains(':') == vip.contains(':')).collect();
        // 600 balls into 1,000 bins hit 451 on average, with a deviation of 12.
        assert!((380..520).contains(&chosen.len()), "{vip}: {} members of 1,000 were chosen: {entries}", chosen.len());
    }
}
