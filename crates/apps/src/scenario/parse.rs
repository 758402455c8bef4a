//! The words of scenarios.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::*;
use pipeline::switch::Packet;
use pipeline::{OfPort, Punt, Table};

use super::{End, NOBODY, Scenario, Step};
use crate::testing::*;
use crate::view::Change;

/// A line that is no scenario's.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    pub line: usize,
    pub what: String,
}

type Said<T> = Result<T, String>;

/// The world as far as it was read.
#[derive(Default)]
struct World {
    changes: Vec<Change>,
    networks: BTreeMap<String, Vec<IpNet>>,
    /// By network: the interface of its router.
    routers: BTreeMap<String, Mac>,
    ports: BTreeMap<String, Known>,
    groups: BTreeMap<String, u32>,
    rules: u32,
}

/// What packets need to know of a port or VIP.
#[derive(Clone)]
struct Known {
    network: String,
    mac: Mac,
    addresses: Vec<IpAddr>,
    ofport: Option<OfPort>,
}

pub fn scenario(text: &str) -> Result<Scenario, ParseError> {
    let mut world = World { changes: vec![here("here", "192.0.2.1")], ..World::default() };
    let mut steps = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let said = text.split('#').next().unwrap_or_default();
        let words: Vec<&str> = said.split_whitespace().collect();
        let done = match &words[..] {
            [] => Ok(()),
            [from, "->", to, rest @ ..] => world.step(from, to, rest).map(|(packet, expected)| {
                steps.push(Step { line, text: words.join(" "), packet, expected });
            }),
            [kind, rest @ ..] => world.declare(kind, rest),
        };
        done.map_err(|what| ParseError { line, what })?;
    }
    Ok(Scenario { world: world.changes, steps })
}

fn parsed<T: std::str::FromStr>(word: &str) -> Said<T> {
    word.parse().map_err(|_| format!("`{word}` does not belong there"))
}

/// What follows the word `key`.
fn after<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().position(|word| *word == key).and_then(|at| words.get(at + 1).copied())
}

fn nth(net: &IpNet, n: u32) -> IpAddr {
    match net {
        IpNet::V4(net) => Ipv4Addr::from_bits(net.network().to_bits() + n).into(),
        IpNet::V6(net) => Ipv6Addr::from_bits(net.network().to_bits() + u128::from(n)).into(),
    }
}

fn subnet_name(network: &str, n: usize) -> String {
    format!("{network}-{n}")
}

impl World {
    fn declare(&mut self, kind: &str, words: &[&str]) -> Said<()> {
        match (kind, words) {
            ("network", [name, cidrs @ ..]) => self.network(name, cidrs),
            ("router", [name, networks @ ..]) => self.router(name, networks),
            ("port", [name, place, at, rest @ ..]) => self.port(name, place, at, rest),
            ("rule", [group, direction, rest @ ..]) => self.rule(group, direction, rest),
            ("balancer", [name, ip, "on", network, protocol, port, members @ ..]) => {
                self.balancer(name, ip, network, protocol, port, members)
            }
            _ => Err(format!("`{kind}` is no sentence")),
        }
    }

    fn network(&mut self, name: &str, cidrs: &[&str]) -> Said<()> {
        let nets: Vec<IpNet> = cidrs.iter().map(|cidr| parsed(cidr)).collect::<Said<_>>()?;
        self.changes.push(put(network(name, 1 + self.networks.len() as u32)));
        self.changes.extend((0..).zip(cidrs).map(|(n, cidr)| put(subnet(&subnet_name(name, n), name, cidr))));
        self.networks.insert(name.into(), nets);
        Ok(())
    }

    fn nets(&mut self, name: &str) -> Said<Vec<IpNet>> {
        if self.networks.is_empty() && name == "net" {
            self.network("net", &["10.0.0.0/24", "fd00::/64"])?;
        }
        self.networks.get(name).cloned().ok_or_else(|| format!("there is no network {name}"))
    }

    /// The addresses with the number `n` of a network, by subnet.
    fn addresses(&mut self, network: &str, n: u32) -> Said<Vec<(String, String)>> {
        let nets = self.nets(network)?;
        Ok((0..).zip(&nets).map(|(at, net)| (subnet_name(network, at), nth(net, n).to_string())).collect())
    }

    fn router(&mut self, name: &str, networks: &[&str]) -> Said<()> {
        self.changes.push(put(router(name, 1 + self.routers.len() as u32)));
        for network in networks {
            let addresses = self.addresses(network, 1)?;
            let addresses: Vec<(&str, &str)> = addresses.iter().map(|(subnet, ip)| (subnet.as_str(), ip.as_str())).collect();
            let interface = interface(&format!("{name}-{network}"), 500 + self.routers.len() as u32, network, name, &addresses);
            self.routers.insert((*network).into(), interface.mac);
            self.changes.push(put(interface));
        }
        Ok(())
    }

    fn port(&mut self, name: &str, place: &str, at: &str, words: &[&str]) -> Said<()> {
        let network = after(words, "on").unwrap_or("net").to_owned();
        let n = 10 + self.ports.values().filter(|port| port.network == network).count() as u32;
        let addresses = self.addresses(&network, n)?;
        let addresses: Vec<(&str, &str)> = addresses.iter().map(|(subnet, ip)| (subnet.as_str(), ip.as_str())).collect();
        let groups =
            words.iter().zip(words.iter().skip(1)).filter(|(word, _)| **word == "in").map(|(_, group)| self.group(group)).collect();
        let made = Port {
            security_groups: groups,
            is_port_security: !words.contains(&"trusted"),
            ..port(name, 100 + self.ports.len() as u32, &network, &addresses)
        };
        let home = if place == "here" { "here".to_owned() } else { format!("node at {at}") };
        let ofport = match place {
            "here" => Some(OfPort(parsed(at)?)),
            "there" => None,
            other => return Err(format!("a port is `here` or `there`, not `{other}`")),
        };
        let known = Known { network, mac: made.mac, addresses: made.addresses().collect(), ofport };
        if ofport.is_none() {
            parsed::<IpAddr>(at)?;
            self.changes.push(put(node(&home, at)));
        }
        self.changes.push(put(Port { host: Some(NodeName(home)), ..made }));
        self.changes.extend(ofport.map(|ofport| attach(name, ofport.0)));
        self.ports.insert(name.into(), known);
        Ok(())
    }

    fn group(&mut self, name: &str) -> SecurityGroupId {
        let key = 1 + self.groups.len() as u32;
        if self.groups.insert(name.into(), key).is_none() {
            self.changes.push(put(group(name, key)));
        }
        SecurityGroupId(id(name))
    }

    fn rule(&mut self, of: &str, direction: &str, words: &[&str]) -> Said<()> {
        let direction = match direction {
            "in" => Direction::Ingress,
            "out" => Direction::Egress,
            other => return Err(format!("a rule is `in` or `out`, not `{other}`")),
        };
        self.group(of);
        let remote_group = after(words, "from").map(|group| self.group(group));
        let port = [("tcp", 6), ("udp", 17)].into_iter().find_map(|(word, protocol)| Some((protocol, after(words, word)?)));
        let (protocol, range) = match port {
            Some((protocol, port)) => (Some(protocol), Some(parsed(port)?)),
            None => (None, None),
        };
        for ethertype in [EtherType::Ipv4, EtherType::Ipv6] {
            self.rules += 1;
            let base = rule(&format!("rule {}", self.rules), of, direction, ethertype);
            self.changes.push(put(Rule { protocol, range_min: range, range_max: range, remote_group, ..base }));
        }
        Ok(())
    }

    fn balancer(&mut self, name: &str, ip: &str, network: &str, protocol: &str, port: &str, members: &[&str]) -> Said<()> {
        let at = self.nets(network)?.iter().position(|net| ip.parse().is_ok_and(|ip: IpAddr| net.contains(&ip)));
        let at = at.ok_or_else(|| format!("{ip} is not on {network}"))?;
        let protocol = if protocol == "udp" { ListenerProtocol::Udp } else { ListenerProtocol::Tcp };
        let key = 700 + self.ports.len() as u32;
        let vip = vip(&format!("{name} VIP"), key, network, &[(&subnet_name(network, at), ip)]);
        let known = Known { network: network.into(), mac: vip.mac, addresses: vip.addresses().collect(), ofport: None };
        let pool_name = format!("{name} pool");
        self.changes.extend([put(balancer(name, &vip)), put(vip), put(pool(&pool_name, name, protocol))]);
        self.changes.push(put(listener(&format!("{name} listener"), key, name, protocol, parsed(port)?, &pool_name)));
        for said in members {
            let (target, port) = said.split_once(':').ok_or_else(|| format!("`{said}` is not NAME:PORT"))?;
            let target = self.ports.get(target).ok_or_else(|| format!("there is no port {target}"))?;
            let address =
                target.addresses.iter().find(|address| address.is_ipv6() == ip.contains(':')).ok_or("a member without an address")?;
            self.changes.push(put(member(&format!("{name} {said}"), &pool_name, &address.to_string(), parsed(port)?, 1)));
        }
        self.ports.insert(name.into(), known);
        Ok(())
    }

    fn step(&self, from: &str, to: &str, words: &[&str]) -> Said<(Packet, End)> {
        let sender = self.ports.get(from).ok_or_else(|| format!("there is no port {from}"))?;
        let ofport = sender.ofport.ok_or_else(|| format!("{from} is not here"))?;
        let cut = words.iter().position(|word| ["to", "back", "tunnel", "dropped", "punt"].contains(word));
        let (what, end) = words.split_at(cut.ok_or("nothing is said to become of the packet")?);
        let end = self.end(ofport, end)?;
        let target = self.ports.get(to);
        let is_v6 = what.contains(&"v6") || to.contains(':');
        let of_family = |known: &Known| known.addresses.iter().copied().find(|ip| ip.is_ipv6() == is_v6);
        let destination = match target {
            Some(known) => of_family(known).ok_or_else(|| format!("{to} has no such address"))?,
            None => parsed(to)?,
        };
        let own = of_family(sender).ok_or_else(|| format!("{from} has no such address"))?;
        let source = after(what, "source").map_or(Ok(own), parsed)?;
        let mac = after(what, "mac").map_or(Ok(sender.mac), parsed)?;
        if let (true, IpAddr::V4(source), IpAddr::V4(target)) = (what.contains(&"arp"), source, destination) {
            return Ok((Packet::arp(ofport, mac, source, target), end));
        }
        let packet = Packet::ip(ofport, source, destination).macs(mac, self.next_mac(sender, target));
        let source_port = after(what, "from").map_or(Ok(40_000), parsed)?;
        let packet = match (after(what, "tcp"), after(what, "udp")) {
            (Some(port), _) => packet.tcp(source_port, parsed(port)?),
            (_, Some(port)) => packet.udp(source_port, parsed(port)?),
            _ => packet.ping(),
        };
        Ok((packet, end))
    }

    /// The MAC that the sender sends to: the target's on its own network, the router's otherwise.
    fn next_mac(&self, sender: &Known, target: Option<&Known>) -> Mac {
        let neighbour = target.filter(|target| target.network == sender.network).map(|target| target.mac);
        neighbour.or_else(|| self.routers.get(&sender.network).copied()).unwrap_or(NOBODY)
    }

    fn end(&self, ofport: OfPort, words: &[&str]) -> Said<End> {
        match words {
            ["to", name] => {
                let port = self.ports.get(*name).and_then(|port| port.ofport);
                port.map(End::Output).ok_or_else(|| format!("there is no port {name} here"))
            }
            ["back"] => Ok(End::Output(ofport)),
            ["tunnel", address] => parsed(address).map(End::Tunnel),
            ["dropped", "in", name] => Table::ALL
                .iter()
                .find(|table| table.name() == *name)
                .map(|table| End::Dropped(*table))
                .ok_or_else(|| format!("there is no table {name}")),
            ["punt", name] => {
                let punt = Punt::ALL.iter().find(|punt| format!("{punt:?}") == *name);
                punt.map(|punt| End::Punted(*punt)).ok_or_else(|| format!("there is no reason {name}"))
            }
            other => Err(format!("`{}` is no end of a packet", other.join(" "))),
        }
    }
}
