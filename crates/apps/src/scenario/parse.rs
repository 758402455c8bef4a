//! The words of scenarios.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::*;
use pipeline::switch::Packet;
use pipeline::{Header, OfPort, Punt, Table};

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
    /// By network: the interface of its first router.
    gateways: BTreeMap<String, Mac>,
    routers: BTreeMap<String, Router>,
    interfaces: u32,
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
    /// Where the tunnel to its node ends.
    tunnel: Option<IpAddr>,
}

pub fn scenario(text: &str) -> Result<Scenario, ParseError> {
    let mut world = World { changes: vec![here("here", "192.0.2.1")], ..World::default() };
    let mut steps = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let said = text.split('#').next().unwrap_or_default();
        let words: Vec<&str> = said.split_whitespace().collect();
        let done = match &words[..] {
            [] => Ok(()),
            [from, "->", to, rest @ ..] => world.step(from, to, rest).map(|(from, packet, expected)| {
                steps.push(Step { line, text: words.join(" "), from, packet, expected });
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

/// Everything that follows the word `key`, wherever it stands.
fn all_after<'a>(words: &[&'a str], key: &str) -> Vec<&'a str> {
    words.iter().zip(words.iter().skip(1)).filter(|(word, _)| **word == key).map(|(_, next)| *next).collect()
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
            ("route", [router, destination, nexthop]) => self.route(router, destination, nexthop),
            ("block", ["here", cidr, rest @ ..]) => self.block("here", cidr, rest),
            ("block", ["there", at, cidr, rest @ ..]) => {
                let home = self.node_at(at)?;
                self.block(&home, cidr, rest)
            }
            ("port", [name, place, at, rest @ ..]) => self.port(name, place, at, rest),
            ("rule", [group, direction, rest @ ..]) => self.rule(group, direction, rest),
            ("balancer", [name, ip, "on", network, protocol, port, members @ ..]) => {
                self.balancer(name, ip, network, protocol, port, members)
            }
            _ => Err(format!("`{kind}` is no sentence")),
        }
    }

    fn network(&mut self, name: &str, cidrs: &[&str]) -> Said<()> {
        let is_flooding = !cidrs.contains(&"quiet");
        let cidrs: Vec<&str> = cidrs.iter().copied().filter(|word| *word != "quiet").collect();
        let nets: Vec<IpNet> = cidrs.iter().map(|cidr| parsed(cidr)).collect::<Said<_>>()?;
        self.changes.push(put(Network { is_flooding, ..network(name, 1 + self.networks.len() as u32) }));
        self.changes.extend((0..).zip(&cidrs).map(|(n, cidr)| put(subnet(&subnet_name(name, n), name, cidr))));
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
        let made = router(name, 1 + self.routers.len() as u32);
        self.changes.push(put(made.clone()));
        self.routers.insert(name.into(), made);
        for said in networks {
            let (network, n) = said.split_once(':').unwrap_or((said, "1"));
            let addresses = self.addresses(network, parsed(n)?)?;
            let addresses: Vec<(&str, &str)> = addresses.iter().map(|(subnet, ip)| (subnet.as_str(), ip.as_str())).collect();
            let interface = interface(&format!("{name}-{network}"), 500 + self.interfaces, network, name, &addresses);
            self.interfaces += 1;
            self.gateways.entry(network.into()).or_insert(interface.mac);
            self.changes.push(put(interface));
        }
        Ok(())
    }

    fn route(&mut self, router: &str, destination: &str, nexthop: &str) -> Said<()> {
        let route = Route { destination: parsed(destination)?, nexthop: parsed(nexthop)? };
        let router = self.routers.get_mut(router).ok_or_else(|| format!("there is no router {router}"))?;
        router.routes.push(route);
        self.changes.push(put(router.clone()));
        Ok(())
    }

    fn block(&mut self, home: &str, cidr: &str, words: &[&str]) -> Said<()> {
        let network = after(words, "on").unwrap_or("net").to_owned();
        let nets = self.nets(&network)?;
        let at = |is_v6: bool| nets.iter().position(|net| net.addr().is_ipv6() == is_v6);
        let v6 = at(true).and_then(|at| if let IpNet::V6(prefix) = nets[at] { Some((at, prefix)) } else { None });
        let range = |(at, prefix)| V6Range { subnet: SubnetId(id(&subnet_name(&network, at))), prefix, shape: V6Shape::Embedded };
        let subnet = subnet_name(&network, at(false).ok_or_else(|| format!("{network} has no IPv4 addresses"))?);
        parsed::<ipnet::Ipv4Net>(cidr)?;
        self.changes.push(put(block(&network, home, &subnet, cidr, v6.map(range).into_iter().collect())));
        Ok(())
    }

    /// The name of the node whose tunnel ends at the address.
    fn node_at(&mut self, at: &str) -> Said<String> {
        parsed::<IpAddr>(at)?;
        let name = format!("node at {at}");
        self.changes.push(put(node(&name, at)));
        Ok(name)
    }

    fn port(&mut self, name: &str, place: &str, at: &str, words: &[&str]) -> Said<()> {
        let network = after(words, "on").unwrap_or("net").to_owned();
        let n = 10 + self.ports.values().filter(|port| port.network == network).count() as u32;
        let addresses = self.addresses(&network, n)?;
        let addresses: Vec<(&str, &str)> = addresses.iter().map(|(subnet, ip)| (subnet.as_str(), ip.as_str())).collect();
        let security_groups = all_after(words, "in").into_iter().map(|group| self.group(group)).collect();
        let plain = port(name, 100 + self.ports.len() as u32, &network, &addresses);
        let address_pairs = all_after(words, "pair").into_iter().map(|pair| a_pair(pair, plain.mac)).collect::<Said<_>>()?;
        let device_owner = if words.contains(&"machine") { owner::NODE.to_owned() } else { String::new() };
        let block = words.contains(&"pod").then(|| BlockId(id(&format!("the block of {name}"))));
        let made = Port { security_groups, address_pairs, is_port_security: !words.contains(&"trusted"), device_owner, block, ..plain };
        let (home, ofport, tunnel) = match place {
            "here" => ("here".to_owned(), Some(OfPort(parsed(at)?)), None),
            "there" => (self.node_at(at)?, None, Some(parsed(at)?)),
            other => return Err(format!("a port is `here` or `there`, not `{other}`")),
        };
        let known = Known { network, mac: made.mac, addresses: made.addresses().collect(), ofport, tunnel };
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
        let from = after(words, "from");
        let remote_prefix: Option<IpNet> = from.filter(|from| from.contains('/')).map(parsed).transpose()?;
        let remote_group = from.filter(|from| !from.contains('/')).map(|group| self.group(group));
        let (protocol, numbers, only) = protocol(words)?;
        let only = only.or(remote_prefix.map(|prefix| prefix.addr().is_ipv6()));
        for (ethertype, is_v6) in [(EtherType::Ipv4, false), (EtherType::Ipv6, true)] {
            if only.is_some_and(|only| only != is_v6) {
                continue;
            }
            self.rules += 1;
            let base = rule(&format!("rule {}", self.rules), of, direction, ethertype);
            let (range_min, range_max) = numbers;
            self.changes.push(put(Rule { protocol, range_min, range_max, remote_group, remote_prefix, ..base }));
        }
        Ok(())
    }

    fn balancer(&mut self, name: &str, ip: &str, network: &str, protocol: &str, port: &str, members: &[&str]) -> Said<()> {
        let at = self.nets(network)?.iter().position(|net| ip.parse().is_ok_and(|ip: IpAddr| net.contains(&ip)));
        let at = at.ok_or_else(|| format!("{ip} is not on {network}"))?;
        let protocol = if protocol == "udp" { ListenerProtocol::Udp } else { ListenerProtocol::Tcp };
        let key = 700 + self.ports.len() as u32;
        let vip = vip(&format!("{name} VIP"), key, network, &[(&subnet_name(network, at), ip)]);
        let known = Known { network: network.into(), mac: vip.mac, addresses: vip.addresses().collect(), ofport: None, tunnel: None };
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

    fn step(&self, from: &str, to: &str, words: &[&str]) -> Said<(Option<IpAddr>, Packet, Vec<End>)> {
        let sender = self.ports.get(from).ok_or_else(|| format!("there is no port {from}"))?;
        let cut = words.iter().position(|word| ["to", "back", "tunnel", "dropped", "punt", "copies"].contains(word));
        let (what, end) = words.split_at(cut.ok_or("nothing is said to become of the packet")?);
        let mut ends = self.ends(sender, end)?;
        ends.sort();
        let mut packet = self.packet(sender, from, to, what)?;
        if sender.ofport.is_none() {
            let key = self.key(&sender.network).ok_or("a network without a key")?;
            packet.set(Header::TunId, key.into());
        }
        Ok((sender.tunnel, packet, ends))
    }

    fn packet(&self, sender: &Known, from: &str, to: &str, what: &[&str]) -> Said<Packet> {
        let ofport = sender.ofport.or(sender.tunnel.map(|_| super::TUNNEL)).ok_or_else(|| format!("{from} is nowhere"))?;
        let target = self.ports.get(to);
        let is_v6 = what.contains(&"v6") || what.contains(&"nd") || to.contains(':');
        let of_family = |known: &Known| known.addresses.iter().copied().find(|ip| ip.is_ipv6() == is_v6);
        let destination = match target {
            Some(known) => of_family(known).ok_or_else(|| format!("{to} has no such address"))?,
            None if to == "everybody" && is_v6 => IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
            None if to == "everybody" => IpAddr::V4(Ipv4Addr::BROADCAST),
            None => parsed(to)?,
        };
        let own = of_family(sender).ok_or_else(|| format!("{from} has no such address"))?;
        let source = after(what, "source").map_or(Ok(own), parsed)?;
        let mac = after(what, "mac").map_or(Ok(sender.mac), parsed)?;
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(target)) if what.contains(&"arp") => return Ok(Packet::arp(ofport, mac, source, target)),
            (IpAddr::V6(source), IpAddr::V6(target)) if what.contains(&"nd") => return Ok(Packet::nd(ofport, mac, source, target)),
            _ => {}
        }
        let next = match (to, is_v6) {
            ("everybody", false) => Mac::BROADCAST,
            ("everybody", true) => Mac([0x33, 0x33, 0, 0, 0, 1]),
            _ => self.next_mac(sender, target),
        };
        let packet = Packet::ip(ofport, source, destination).macs(mac, after(what, "at").map_or(Ok(next), parsed)?);
        let source_port = after(what, "from").map_or(Ok(40_000), parsed)?;
        Ok(match (after(what, "tcp"), after(what, "udp")) {
            (Some(port), _) => packet.tcp(source_port, parsed(port)?),
            (_, Some(port)) => packet.udp(source_port, parsed(port)?),
            _ => packet.ping(),
        })
    }

    /// The key of a network: they have them in the order of the file.
    fn key(&self, network: &str) -> Option<u32> {
        self.changes.iter().find_map(|change| match change {
            Change::Put(object) => match &**object {
                Object::Network(found) if found.name == network => Some(found.key.0),
                _ => None,
            },
            _ => None,
        })
    }

    /// The MAC that the sender sends to: the target's on its own network, the router's otherwise.
    fn next_mac(&self, sender: &Known, target: Option<&Known>) -> Mac {
        let neighbour = target.filter(|target| target.network == sender.network).map(|target| target.mac);
        neighbour.or_else(|| self.gateways.get(&sender.network).copied()).unwrap_or(NOBODY)
    }

    fn ends(&self, sender: &Known, words: &[&str]) -> Said<Vec<End>> {
        let ["copies", copies @ ..] = words else { return Ok(vec![self.end(sender, words)?]) };
        let copies = copies.join(" ");
        let copies = copies.split(',').map(|said| said.split_whitespace().collect::<Vec<_>>());
        copies
            .map(|said| match said[..] {
                ["tunnel", _] => self.end(sender, &said),
                [name] => self.end(sender, &["to", name]),
                _ => Err(format!("`{}` is no end of a copy", said.join(" "))),
            })
            .collect()
    }

    fn end(&self, sender: &Known, words: &[&str]) -> Said<End> {
        match words {
            ["to", name] => {
                let port = self.ports.get(*name).and_then(|port| port.ofport);
                port.map(End::Output).ok_or_else(|| format!("there is no port {name} here"))
            }
            ["back"] => sender.ofport.map(End::Output).ok_or_else(|| "what came by the tunnel does not go back".to_owned()),
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

/// The protocol, its two numbers, and the one IP version for which it is said.
type Protocol = (Option<u8>, (Option<u16>, Option<u16>), Option<bool>);

fn protocol(words: &[&str]) -> Said<Protocol> {
    for (word, protocol, only) in [("tcp", 6, None), ("udp", 17, None), ("icmp", 1, Some(false)), ("icmp6", 58, Some(true))] {
        if let Some(number) = after(words, word) {
            let number: u16 = parsed(number)?;
            let last = (only.is_none()).then_some(number);
            return Ok((Some(protocol), (Some(number), last), only));
        }
    }
    Ok((None, (None, None), None))
}

/// `ADDRESS`, `PREFIX`, either with `@MAC`.
fn a_pair(said: &str, own: Mac) -> Said<AddressPair> {
    let (ip, mac) = said.split_once('@').map_or((said, None), |(ip, mac)| (ip, Some(mac)));
    let ip = if ip.contains('/') { parsed(ip)? } else { IpNet::from(parsed::<IpAddr>(ip)?) };
    Ok(AddressPair { ip, mac: mac.map_or(Ok(own), parsed)? })
}
