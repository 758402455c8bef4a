//! What a machine asks when it comes up: its address, its routes, its routers. The node itself answers.
//!
//! A packet with such a question (DHCPv4, DHCPv6, a router solicitation) is handed to the node, which knows the port and all
//! that it must be told (RFC 2131, RFC 8415, RFC 4861). Only where there is something to tell: the port has an address in an
//! IPv4 subnet with DHCP, its network has an IPv6 subnet with DHCPv6, or a router that announces a subnet. Everywhere else the
//! question goes on like any other packet, so that a user's own server can answer. Answers never pass the pipeline.
//! A question for somebody's MAC is one for the neighbours.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::{Ipv6Mode, Network, Port, Subnet};
use pipeline::{Flow, Punt, Reason, Table, Test, fields::*, icmp_code, icmp_type, ip_dst, l4_dst, l4_src};

use crate::app::{App, Output, Root, RootKind};
use crate::classify::key;
use crate::neighbours::questions;
use crate::sight::Sight;

pub const APP: App = App { name: "host_config", roots: &[RootKind::Attached, RootKind::Here], run };

const UDP: u8 = 17;
const DHCP_CLIENT: u16 = 68;
const DHCP_SERVER: u16 = 67;
const DHCPV6_CLIENT: u16 = 546;
const DHCPV6_SERVER: u16 = 547;
const ROUTER_SOLICITATION: u8 = 133;

fn run(sight: &Sight, root: Root) -> Output {
    let id = match root {
        Root::Attached(id) => id,
        Root::Here => return questions().map(to_neighbours).to_vec().into(),
        _ => return Output::default(),
    };
    let Some((port, _, network)) = sight.live(id) else { return Output::default() };
    let subnets = sight.subnets_of(network.id);
    let flows = [
        has_dhcp(port, &subnets).then(|| ask_dhcp(port)),
        has_dhcpv6(&subnets).then(|| ask_dhcpv6(port)),
        has_announced_subnet(sight, network, &subnets).then(|| solicit_router(port)),
    ];
    flows.into_iter().flatten().collect::<Vec<_>>().into()
}

fn has_dhcp(port: &Port, subnets: &[&Subnet]) -> bool {
    let serving = subnets.iter().filter(|subnet| subnet.is_dhcp && subnet.cidr.addr().is_ipv4());
    serving.into_iter().any(|subnet| port.fixed_ips.iter().any(|fixed| fixed.subnet == subnet.id))
}

fn has_dhcpv6(subnets: &[&Subnet]) -> bool {
    subnets.iter().any(|subnet| subnet.is_dhcp && matches!(subnet.address_mode, Some(Ipv6Mode::Stateful | Ipv6Mode::Stateless)))
}

/// True if a router that is up announces a subnet on the network.
fn has_announced_subnet(sight: &Sight, network: &Network, subnets: &[&Subnet]) -> bool {
    let is_announced = |id| subnets.iter().any(|subnet| subnet.id == id && subnet.ra_mode.is_some());
    let announcing = |port: &&Port| port.is_admin_up && port.fixed_ips.iter().any(|fixed| is_announced(fixed.subnet));
    let interfaces = sight.interfaces_on(network.id);
    let mut routers = interfaces.into_iter().filter(announcing).filter_map(|port| sight.router(port.router()?));
    routers.any(|router| router.is_admin_up)
}

/// A question for somebody's MAC never passes what is for packets to him.
fn to_neighbours(question: Test) -> Flow {
    Table::Punt.when([question]).goto(Table::Neighbours).because(Reason::Pipeline)
}

/// A packet of a DHCP client is for the node, whichever server it is sent to.
fn ask_dhcp(port: &Port) -> Flow {
    ask(port, from_client(Ipv4Net::default().into(), DHCP_CLIENT, DHCP_SERVER), Punt::Dhcp)
}

/// A packet of a DHCPv6 client is for the node.
fn ask_dhcpv6(port: &Port) -> Flow {
    ask(port, from_client(Ipv6Net::default().into(), DHCPV6_CLIENT, DHCPV6_SERVER), Punt::Dhcpv6)
}

/// A router solicitation is for the node.
fn solicit_router(port: &Port) -> Flow {
    ask(port, vec![icmp_type(true, ROUTER_SOLICITATION), icmp_code(true, 0)], Punt::RouterSolicitation)
}

fn from_client(family: IpNet, source: u16, target: u16) -> Vec<Test> {
    let ports = [l4_src(UDP, source, u16::MAX), l4_dst(UDP, target, u16::MAX)];
    ports.into_iter().flatten().chain([ip_dst(family)]).collect()
}

fn ask(port: &Port, tests: Vec<Test>, punt: Punt) -> Flow {
    let tests = std::iter::once(SRC_PORT.is(port.key.0)).chain(tests);
    Table::Punt.when(tests).punt(punt).because(key(port))
}

#[cfg(test)]
mod tests {
    use model::{Ipv6Mode, Router, Subnet};

    use crate::testing::*;
    use crate::{ALL, Change, Engine, Numbers};

    /// The flows that hand something to the node in a world with `more`.
    fn punts(more: Vec<Change>) -> Vec<String> {
        let mut engine = Engine::new(ALL, Numbers::default());
        let web = port("web", 4, "blue", &[("v4", "10.0.0.9"), ("v6", "fd00::9")]);
        let base = [here("n1", "192.0.2.1"), put(network("blue", 7)), put(web), attach("web", 11)];
        engine.update(base.into_iter().chain(more));
        let mut said: Vec<String> =
            engine.flows().map(|flow| flow.to_string()).filter(|flow| flow.starts_with("Punt ") && flow.contains("punt ")).collect();
        said.sort();
        said
    }

    fn v6(mode: Ipv6Mode) -> Subnet {
        Subnet { ra_mode: Some(mode), address_mode: Some(mode), ..subnet("v6", "blue", "fd00::/64") }
    }

    #[test]
    fn a_dhcp_question_is_handed_to_the_node() {
        let said = punts(vec![put(subnet("v4", "blue", "10.0.0.0/24"))]);
        assert_eq!(said, ["Punt normal eth_type=0x0800, src_port=4, udp_dst=67, udp_src=68 -> punt Dhcp"]);
    }

    #[test]
    fn without_dhcp_the_question_goes_on() {
        assert_eq!(punts(vec![put(Subnet { is_dhcp: false, ..subnet("v4", "blue", "10.0.0.0/24") })]), [""; 0]);
    }

    #[test]
    fn a_subnet_with_dhcp_in_which_the_port_has_no_address_asks_nothing() {
        assert_eq!(punts(vec![put(subnet("other", "blue", "10.1.0.0/24"))]), [""; 0]);
    }

    #[test]
    fn dhcpv6_and_router_solicitations_are_handed_to_the_node() {
        let router_side = [put(router("r", 1)), put(interface("ri", 9, "blue", "r", &[("v6", "fd00::1")]))];
        let said = punts([put(v6(Ipv6Mode::Stateful))].into_iter().chain(router_side).collect());
        let wanted = [
            "Punt normal eth_type=0x86dd, src_port=4, udp_dst=547, udp_src=546 -> punt Dhcpv6",
            "Punt normal icmpv6_code=0, icmpv6_type=133, src_port=4 -> punt RouterSolicitation",
        ];
        assert_eq!(said, wanted);
    }

    #[test]
    fn a_slaac_subnet_has_no_dhcpv6_and_without_a_router_nobody_announces_it() {
        assert_eq!(punts(vec![put(v6(Ipv6Mode::Slaac))]), [""; 0]);
    }

    #[test]
    fn a_router_that_is_down_announces_nothing() {
        let down = Router { is_admin_up: false, ..router("r", 1) };
        let changes = vec![put(v6(Ipv6Mode::Slaac)), put(down), put(interface("ri", 9, "blue", "r", &[("v6", "fd00::1")]))];
        assert_eq!(punts(changes), [""; 0]);
    }
}
