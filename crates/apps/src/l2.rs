//! Switching: a packet goes where its MAC lives.
//!
//! Nothing is learned and nothing known is flooded: the model says where every MAC is. One flow sends a whole block to its
//! node; a port that is an exception has a flow of its own. Broadcast and multicast go to the network's ports on this node
//! and, once per node, to the nodes that have ports on the network, where a network floods at all. What ports merely carry by
//! their address pairs (VRRP) is copied to all that carry it: packets for a MAC, and questions who has an address, which reach
//! the carriers whether the network floods or not. What came from a tunnel never leaves through one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Block, Kind, Mac, Network, ObjectKey, Port};
use pipeline::{Action, Draft, Flow, Header, OfPort, Priority, Punt, Reason, Table, Test, eth_dst, eth_dst_masked, fields::*};

use crate::app::{App, Output, Root, RootKind};
use crate::classify::{key, single_pairs, tunnel_header};
use crate::neighbours::{announces, asks_for, probes};
use crate::sight::Sight;
use crate::view::Index;

pub const APP: App = App {
    name: "l2",
    roots: &[
        RootKind::Attached,
        RootKind::Object(Kind::Port),
        RootKind::Object(Kind::Block),
        RootKind::Object(Kind::Network),
        RootKind::Here,
    ],
    run,
};

/// Copies that one flow may make: OVS 3.1 takes 1,000 tunnel outputs in one flow and not 1,500. More are made in parts, by
/// flows of their own.
pub const COPIES_MAX: usize = 900;
/// Copies to ports of this node: Open vSwitch drops a packet altogether, whoever else would get it, that passes more than 4,096
/// tables, and a copy passes nine at most. Ports beyond it get no broadcast; unicast, ARP, ND, DHCP and router advertisements do
/// not need it.
pub const LOCAL_COPIES_MAX: usize = 400;

fn run(sight: &Sight, root: Root) -> Output {
    match root {
        Root::Attached(id) => sight.live(id).map(|(port, _, network)| {
            let carried = carried(port, network).into_iter().flat_map(|what| to_carrier_here(port, what));
            [to_local(port, network)].into_iter().chain(carried).collect()
        }),
        Root::Object(ObjectKey { kind: Kind::Port, id }) => sight.port(id).and_then(|port| for_port(sight, port)),
        Root::Object(ObjectKey { kind: Kind::Block, id }) => sight.block(id).and_then(|block| for_block(sight, block)),
        Root::Object(key) => sight.network(key.id).filter(|network| network.is_flooding).map(|network| flood(sight, network)),
        Root::Address(..) => None,
        Root::Here => Some(to_everybody().into_iter().chain(probes_to_everybody()).chain(through_tunnel(sight)).collect()),
    }
    .unwrap_or_default()
    .into()
}

fn to(network: &Network, mac: Mac) -> [Test; 2] {
    [NETWORK.is(network.key.0), eth_dst(mac)]
}

/// A packet for the MAC of a port of this node goes to the port.
fn to_local(port: &Port, network: &Network) -> Flow {
    Table::L2Lookup.when(to(network, port.mac)).set(DST_PORT, port.key.0).goto(Table::Receive).because(key(port))
}

fn for_port(sight: &Sight, port: &Port) -> Option<Vec<Flow>> {
    // A VIP is nowhere.
    if port.device_owner == model::owner::LOAD_BALANCER {
        return None;
    }
    let network = sight.network(port.network)?;
    if port.is_router_interface() {
        return Some(vec![to_next_router(port, network)]);
    }
    let told = single_pairs(port).filter_map(|(ip, _)| announcement_to_everybody(network, port, ip));
    let there = port.home().and_then(|home| sight.way_to(home));
    let there = there.zip(sight.here().tunnel_port.map(OfPort)).map(|(tunnel, out)| {
        let own = is_looked_for(sight, port).then(|| to_node(to(network, port.mac).to_vec(), tunnel, Priority::Normal, key(port)));
        let carried = carried(port, network).into_iter().map(move |what| to_carrier_there(port, what, tunnel, out));
        own.into_iter().chain(carried)
    });
    Some(told.chain(there.into_iter().flatten()).collect())
}

/// Whether packets for the MAC of a port of another node come here: machines of this node ask for it on its network, or it is one of
/// several that carry an address. What a router leads to it has its way already.
fn is_looked_for(sight: &Sight, port: &Port) -> bool {
    port.block.is_none() && (sight.any(Index::Inhabited(port.network)) || !port.address_pairs.is_empty())
}

/// Packets that go to every port that carries something by its address pairs: in this table, with this priority.
struct Carried {
    table: Table,
    tests: Vec<Test>,
    priority: Priority,
}

/// What `port` carries: MACs that are not its own (VRRP's, say), behind a port whose own MAC it is, and questions for addresses.
/// Where the network floods, a question for an address in a wider prefix is flooded, because an announcement looks the same.
fn carried(port: &Port, network: &Network) -> Vec<Carried> {
    let macs: BTreeSet<Mac> = port.address_pairs.iter().map(|pair| pair.mac).filter(|mac| *mac != port.mac).collect();
    let macs = macs.into_iter().map(|mac| Carried { table: Table::L2Lookup, tests: to(network, mac).into(), priority: Priority::Fallback });
    let addresses: BTreeSet<IpNet> = port.address_pairs.iter().map(|pair| pair.ip.trunc()).collect();
    let asked = addresses.into_iter().filter(|ip| !network.is_flooding || ip.prefix_len() == ip.max_prefix_len());
    let questions = asked.map(|ip| Carried {
        table: Table::Carriers,
        tests: asks_for(network, ip).into(),
        priority: Priority::Prefix(ip.prefix_len()),
    });
    macs.chain(questions).collect()
}

/// A packet for something that ports only carry is copied to each of them.
fn to_carrier_here(port: &Port, what: Carried) -> [Flow; 2] {
    [0u8, 1].map(|from_tunnel| {
        let tests = what.tests.iter().copied().chain([FROM_TUNNEL.is(from_tunnel)]);
        let copy = [Action::set(DST_PORT, port.key.0), Action::Copy(Table::Receive)];
        what.table.when(tests).priority(what.priority).acts(copy).because(key(port))
    })
}

/// The same, for a carrier on another node.
fn to_carrier_there(port: &Port, what: Carried, tunnel: IpAddr, out: OfPort) -> Flow {
    let tests = what.tests.into_iter().chain([FROM_TUNNEL.is(0u8)]);
    what.table.when(tests).priority(what.priority).acts(copies(&[tunnel], out)).because(key(port))
}

/// A packet whose next hop is another router passes that router too.
fn to_next_router(interface: &Port, network: &Network) -> Flow {
    Table::L2Lookup.when(to(network, interface.mac)).act(Action::Reenter(Table::RouterMac)).because(key(interface))
}

fn for_block(sight: &Sight, block: &Block) -> Option<Vec<Flow>> {
    let network = sight.network(block.network)?;
    let (mac, mask) = block.mac_range();
    let tests = vec![NETWORK.is(network.key.0), eth_dst_masked(mac, mask)];
    let because = ObjectKey::new(Kind::Block, block.id);
    if sight.is_here(&block.node) {
        return Some(vec![to_nobody(tests, because)]);
    }
    let tunnel = sight.tunnel_to(&block.node)?;
    Some(vec![to_node(tests, tunnel, Priority::Low, because)])
}

/// A packet for a MAC of another node leaves by the tunnel to that node.
fn to_node(tests: Vec<Test>, tunnel: IpAddr, priority: Priority, because: ObjectKey) -> Flow {
    let (header, bits) = tunnel_header(tunnel);
    let tests = tests.into_iter().chain([FROM_TUNNEL.is(0u8)]);
    Table::L2Lookup.when(tests).priority(priority).set(header, bits).goto(Table::Tunnel).because(because)
}

/// A packet for an address of a block of this node that no port has is turned away.
fn to_nobody(tests: Vec<Test>, because: ObjectKey) -> Flow {
    Table::L2Lookup.when(tests).priority(Priority::Low).punt(Punt::NoHost).because(because)
}

/// A broadcast or multicast packet is for everybody, unless it is a question for somebody.
fn to_everybody() -> Vec<Flow> {
    vec![Table::L2Lookup.when([to_group()]).priority(Priority::High).goto(Table::Carriers).because(Reason::Pipeline)]
}

/// A probe for duplicates is for everybody, whoever carries the address.
fn probes_to_everybody() -> [Flow; 2] {
    probes().map(|probe| no_question(probe).because(Reason::Pipeline))
}

/// A carrier that tells who has its address now tells everybody.
fn announcement_to_everybody(network: &Network, port: &Port, ip: IpAddr) -> Option<Flow> {
    let IpAddr::V4(ip) = ip else { return None };
    Some(no_question(announces(network, ip)).because(key(port)))
}

fn no_question(tests: impl IntoIterator<Item = Test>) -> Draft {
    Table::L2Lookup.when(tests.into_iter().chain([to_group()])).priority(Priority::Guard).goto(Table::Flood)
}

fn to_group() -> Test {
    let group_bit = Mac([1, 0, 0, 0, 0, 0]);
    eth_dst_masked(group_bit, group_bit)
}

/// A packet to everybody on `network` is copied to its ports here, and to its nodes if it comes from here.
fn flood(sight: &Sight, network: &Network) -> Vec<Flow> {
    let because = ObjectKey::new(Kind::Network, network.id);
    let ports: Vec<&Port> = sight.attached_on(network.id);
    let local: Vec<Action> = ports.iter().take(LOCAL_COPIES_MAX).flat_map(to_port).collect();
    let nodes = sight.ids(Index::NodesOn(network.id)).into_iter().filter_map(|id| sight.node(id)).filter(|node| !sight.is_here(&node.name));
    let tunnels: Vec<IpAddr> = nodes.filter_map(|node| sight.tunnel_to(&node.name)).collect();
    let to_nodes = |tunnels: &[IpAddr]| sight.here().tunnel_port.map(|out| copies(tunnels, OfPort(out))).unwrap_or_default();
    let when = |from_tunnel: u8| Table::Flood.when([NETWORK.is(network.key.0), FROM_TUNNEL.is(from_tunnel)]);
    let from_tunnel = when(1).acts(local.clone()).because(because);
    if local.len() / 2 + tunnels.len() <= COPIES_MAX {
        return vec![when(0).acts(to_nodes(&tunnels)).acts(local).because(because), from_tunnel];
    }
    let parts: Vec<Flow> = (0..).zip(tunnels.chunks(COPIES_MAX)).map(|(part, to)| flood_part(network, part, to_nodes(to))).collect();
    let from_here = when(0).acts(in_parts(parts.len())).acts(local).because(because);
    [from_here, from_tunnel].into_iter().chain(parts).collect()
}

/// A packet for more nodes than one flow can copy it to is copied to the nodes of one part.
fn flood_part(network: &Network, part: u32, copies: Vec<Action>) -> Flow {
    Table::FloodPart.when([NETWORK.is(network.key.0), FLOOD_PART.is(part)]).acts(copies).because(ObjectKey::new(Kind::Network, network.id))
}

/// The first `count` parts, one after the other.
fn in_parts(count: usize) -> Vec<Action> {
    (0..count as u32).flat_map(|part| [Action::set(FLOOD_PART, part), Action::Copy(Table::FloodPart)]).collect()
}

fn to_port(port: &&Port) -> [Action; 2] {
    [Action::set(DST_PORT, port.key.0), Action::Copy(Table::Receive)]
}

fn copies(tunnels: &[IpAddr], tunnel: OfPort) -> Vec<Action> {
    let to = |ip: &IpAddr| {
        let (header, bits) = tunnel_header(*ip);
        [Action::set(header, bits), Action::Output(tunnel)]
    };
    let vni = (!tunnels.is_empty()).then(vni);
    vni.into_iter().chain(tunnels.iter().flat_map(to)).collect()
}

/// A packet to another node carries its network as the VNI.
fn through_tunnel(sight: &Sight) -> Option<Flow> {
    let tunnel = sight.here().tunnel_port?;
    Some(Table::Tunnel.when([]).act(vni()).act(Action::Output(OfPort(tunnel))).because(Reason::Pipeline))
}

fn vni() -> Action {
    Action::copy_low(NETWORK, Header::TunId, 32)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use model::{AddressPair, Mac, NodeName, Port};

    use super::APP;
    use crate::testing::*;
    use crate::{App, Change, Engine, Numbers};

    /// A port whose home is `node`.
    fn at(node: &str, name: &str, key: u32) -> Port {
        let address = Ipv4Addr::from_bits(0x0a00_0000 + key).to_string();
        Port { host: Some(NodeName(node.into())), ..port(name, key, "blue", &[("v4", &address)]) }
    }

    /// n1, and three ports of n2 on one network.
    fn world() -> Engine {
        static APPS: &[&App] = &[&APP];
        let mut engine = Engine::new(APPS, Numbers::default());
        let ports = (0..3).map(|number| put(at("n2", &format!("far{number}"), 10 + number)));
        let nodes = [put(node("n1", "192.0.2.1")), put(node("n2", "192.0.2.2"))];
        engine.update([here("n1", "192.0.2.1"), put(network("blue", 7))].into_iter().chain(nodes).chain(ports));
        engine
    }

    /// How many ports of other nodes the switch knows by their MAC.
    fn known(engine: &Engine) -> usize {
        engine.flows().filter(|flow| flow.to_string().contains("from_tunnel=0, network=7 -> tun_dst:=")).count()
    }

    #[test]
    fn ports_of_other_nodes_are_known_by_their_mac_while_somebody_here_may_ask() {
        let mut engine = world();
        assert_eq!(known(&engine), 0);
        // Before it is plugged in, so that nothing is left to do then.
        engine.update([put(at("n1", "own", 1))]);
        assert_eq!(known(&engine), 3);
        engine.update([attach("own", 11)]);
        assert_eq!(known(&engine), 3);
        engine.update([Change::Detach(model::PortId(id("own")))]);
        assert_eq!(known(&engine), 3);
        engine.update([Change::Remove(model::ObjectKey::new(model::Kind::Port, id("own")))]);
        assert_eq!(known(&engine), 0);
    }

    #[test]
    fn a_port_without_a_home_that_is_attached_here_may_ask() {
        let mut engine = world();
        engine.update([put(port("own", 1, "blue", &[("v4", "10.0.0.1")])), attach("own", 11)]);
        assert_eq!(known(&engine), 3);
    }

    #[test]
    fn a_node_that_learns_its_name_late_knows_the_same() {
        let mut engine = world();
        engine.update([put(at("n1", "own", 1)), here("n3", "192.0.2.1")]);
        assert_eq!(known(&engine), 0);
        engine.update([here("n1", "192.0.2.1")]);
        assert_eq!(known(&engine), 3);
    }

    #[test]
    fn the_second_port_here_is_no_news_for_the_others() {
        let mut engine = world();
        engine.update([put(at("n1", "own", 1)), attach("own", 11)]);
        let runs = engine.work().runs;
        engine.update([put(at("n1", "second", 2)), attach("second", 12)]);
        assert!(engine.work().runs - runs <= 4, "{}", engine.work().runs - runs);
    }

    #[test]
    fn who_carries_an_address_is_known_by_its_mac_everywhere() {
        let mut engine = world();
        let pair = AddressPair { ip: "10.0.0.50/32".parse().unwrap(), mac: Mac::from_bits(0x0a00_0000_000a) };
        engine.update([put(Port { address_pairs: vec![pair], ..at("n2", "far0", 10) })]);
        assert_eq!(known(&engine), 1);
    }
}
