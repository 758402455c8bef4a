//! DHCPv6 (RFC 8415): addresses for ports in stateful subnets, options for all.
//!
//! As with DHCPv4 there is nothing to remember: the port's addresses are its bindings. SOLICIT is advertised them (or given
//! them at once where the client asks for rapid commit), REQUEST, RENEW and REBIND get them, with a lifetime of zero for
//! whatever the client believes to have besides; CONFIRM says whether its addresses fit the link; RELEASE and DECLINE change
//! nothing and are thanked for; INFORMATION-REQUEST gets options only. The server's identifier follows from the network, so
//! that every node is the same server. Temporary addresses and prefixes are not handed out.

use std::net::{IpAddr, Ipv6Addr};

use dhcproto::v6::{DhcpOption, IAAddr, IANA, Message, MessageType, OptionCode, Status, StatusCode, UnknownOption};
use dhcproto::{Decodable, Encodable};
use ipnet::IpNet;
use model::{Ipv6Mode, Subnet, link_local};

use super::packet::{Envelope, Packet, TTL};
use super::{Answer, options6, server_mac};
use crate::local::{LocalNetwork, LocalPort};

/// Seconds for which an address is promised, as for DHCPv4; renewed after a half, asked of everybody after 80 % (RFC 8415, 14.2).
pub const LIFETIME_SECS: u32 = 86_400;
/// Identity associations in one message that are answered: more are left out.
pub const ASSOCIATIONS_MAX: usize = 8;
/// Addresses that a client may bring along in one association.
pub const ADDRESSES_MAX: usize = 16;
/// DUID-UUID (RFC 6355).
const DUID_UUID: [u8; 2] = [0, 4];
const PORTS: (u16, u16) = (547, 546);

/// The answer to a client's message, if it is one that the port may ask and that has an answer.
pub fn answer(packet: &Packet, port: &LocalPort) -> Option<Answer> {
    let (546, 547, content) = packet.udp()? else { return None };
    if !port.network.subnets.iter().any(has_dhcpv6) {
        return None;
    }
    let asked = Message::from_bytes(content).ok()?;
    let question = Question { asked: &asked, port };
    let reply = question.reply()?;
    question.send(packet, reply)
}

/// The server's identifier: the same on every node.
pub fn server_id(network: &LocalNetwork) -> Vec<u8> {
    [&DUID_UUID[..], network.network.id.0.as_bytes()].concat()
}

fn has_dhcpv6(subnet: &Subnet) -> bool {
    subnet.is_dhcp && matches!(subnet.address_mode, Some(Ipv6Mode::Stateful | Ipv6Mode::Stateless))
}

struct Question<'a> {
    asked: &'a Message,
    port: &'a LocalPort,
}

impl Question<'_> {
    /// The reply without its common options. None: the message is to be discarded (RFC 8415, 16).
    fn reply(&self) -> Option<Message> {
        use MessageType::*;
        let kind = self.asked.msg_type();
        let has_client = self.asked.opts().get(OptionCode::ClientId).is_some();
        let server = match self.asked.opts().get(OptionCode::ServerId) {
            Some(DhcpOption::ServerId(id)) => Some(*id == server_id(&self.port.network)),
            _ => None,
        };
        let is_sound = match kind {
            Solicit | Confirm | Rebind => has_client && server.is_none(),
            Request | Renew | Release | Decline => has_client && server == Some(true),
            InformationRequest => server != Some(false) && self.associations().next().is_none(),
            _ => false,
        };
        if !is_sound {
            return None;
        }
        match kind {
            Solicit => Some(self.solicited()),
            Request | Renew | Rebind => Some(self.with_bindings(Reply)),
            Confirm => self.confirmed(),
            Release | Decline => Some(self.with_status(Status::Success, "nothing is kept: the address is the port's")),
            _ => Some(self.message(Reply)),
        }
    }

    fn message(&self, kind: MessageType) -> Message {
        Message::new_with_id(kind, self.asked.xid())
    }

    fn solicited(&self) -> Message {
        if self.asked.opts().get(OptionCode::RapidCommit).is_none() {
            return self.with_bindings(MessageType::Advertise);
        }
        let mut reply = self.with_bindings(MessageType::Reply);
        reply.opts_mut().insert(DhcpOption::RapidCommit);
        reply
    }

    fn associations(&self) -> impl Iterator<Item = &DhcpOption> {
        let is_association = |option: &&DhcpOption| matches!(option, DhcpOption::IANA(_) | DhcpOption::IATA(_) | DhcpOption::IAPD(_));
        self.asked.opts().iter().filter(is_association).take(ASSOCIATIONS_MAX)
    }

    /// The first association of a client gets all addresses of the port, any other none.
    fn with_bindings(&self, kind: MessageType) -> Message {
        let mut reply = self.message(kind);
        let mut own: Vec<Ipv6Addr> = bindings(self.port).collect();
        for association in self.associations() {
            let answered = match association {
                DhcpOption::IANA(asked) => DhcpOption::IANA(association_with(asked, std::mem::take(&mut own))),
                DhcpOption::IATA(asked) => {
                    let opts = [status(Status::NoAddrsAvail, "no temporary addresses")].into_iter().collect();
                    DhcpOption::IATA(dhcproto::v6::IATA { id: asked.id, opts })
                }
                DhcpOption::IAPD(asked) => {
                    let opts = [status(Status::NoPrefixAvail, "no prefixes")].into_iter().collect();
                    DhcpOption::IAPD(dhcproto::v6::IAPD { id: asked.id, t1: 0, t2: 0, opts })
                }
                _ => continue,
            };
            reply.opts_mut().insert(answered);
        }
        reply
    }

    /// Whether all of the client's addresses fit the link. A client without any is told nothing.
    fn confirmed(&self) -> Option<Message> {
        let believed: Vec<Ipv6Addr> = self.associations().flat_map(addresses_in).collect();
        if believed.is_empty() {
            return None;
        }
        let on_link = |ip: &Ipv6Addr| self.port.network.subnets.iter().any(|subnet| subnet.cidr.contains(&IpAddr::V6(*ip)));
        Some(match believed.iter().all(on_link) {
            true => self.with_status(Status::Success, "the addresses fit the network"),
            false => self.with_status(Status::NotOnLink, "an address does not fit the network"),
        })
    }

    fn with_status(&self, code: Status, text: &str) -> Message {
        let mut reply = self.message(MessageType::Reply);
        reply.opts_mut().insert(status(code, text));
        reply
    }

    fn send(&self, packet: &Packet, mut reply: Message) -> Option<Answer> {
        let network = &self.port.network;
        let options = reply.opts_mut();
        options.insert(DhcpOption::ServerId(server_id(network)));
        if let Some(id) = self.asked.opts().get(OptionCode::ClientId) {
            options.insert(id.clone());
        }
        let (settings, ignored) = settings(self.port);
        for (code, content) in settings {
            options.insert(DhcpOption::Unknown(UnknownOption::new(OptionCode::from(code), content)));
        }
        let eth_src = match network.live_interfaces().find(|port| port.addresses().any(|ip| ip.is_ipv6())) {
            Some(interface) => interface.mac,
            None => server_mac(network, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        let src = IpAddr::V6(link_local(eth_src));
        let envelope = Envelope { eth_src, eth_dst: packet.eth_src, src, dst: packet.src, ttl: TTL };
        Some(Answer { frame: envelope.udp(PORTS, &reply.to_vec().ok()?)?, ignored })
    }
}

/// The port's addresses in stateful subnets.
fn bindings(port: &LocalPort) -> impl Iterator<Item = Ipv6Addr> {
    let is_stateful = |subnet: &Subnet| subnet.is_dhcp && subnet.address_mode == Some(Ipv6Mode::Stateful);
    let own = port.port.fixed_ips.iter().filter(move |fixed| port.network.subnet(fixed.subnet).is_some_and(is_stateful));
    own.filter_map(|fixed| if let IpAddr::V6(ip) = fixed.ip { Some(ip) } else { None })
}

fn addresses_in(association: &DhcpOption) -> Vec<Ipv6Addr> {
    let options = match association {
        DhcpOption::IANA(asked) => &asked.opts,
        DhcpOption::IATA(asked) => &asked.opts,
        _ => return Vec::new(),
    };
    let address = |option: &DhcpOption| if let DhcpOption::IAAddr(address) = option { Some(address.addr) } else { None };
    options.iter().filter_map(address).take(ADDRESSES_MAX).collect()
}

/// An association with the port's addresses; what else the client believes to have ends at once.
fn association_with(asked: &IANA, own: Vec<Ipv6Addr>) -> IANA {
    let address =
        |addr: Ipv6Addr, life: u32| DhcpOption::IAAddr(IAAddr { addr, preferred_life: life, valid_life: life, opts: Default::default() });
    let foreign = addresses_in(&DhcpOption::IANA(asked.clone())).into_iter().filter(|ip| !own.contains(ip));
    let ended: Vec<DhcpOption> = foreign.map(|ip| address(ip, 0)).collect();
    let none = own.is_empty().then(|| status(Status::NoAddrsAvail, "the port has no address that DHCPv6 gives"));
    let (t1, t2) = if own.is_empty() { (0, 0) } else { (LIFETIME_SECS / 2, LIFETIME_SECS / 5 * 4) };
    let opts = own.into_iter().map(|ip| address(ip, LIFETIME_SECS)).chain(ended).chain(none).collect();
    IANA { id: asked.id, t1, t2, opts }
}

fn status(status: Status, text: &str) -> DhcpOption {
    DhcpOption::StatusCode(StatusCode { status, msg: text.into() })
}

/// DNS servers of the network's DHCPv6 subnets, and the port's own options, which win; and how many of these say nothing.
fn settings(port: &LocalPort) -> (Vec<(u16, Vec<u8>)>, usize) {
    let serving = port.network.subnets.iter().filter(|subnet| has_dhcpv6(subnet) && matches!(subnet.cidr, IpNet::V6(_)));
    let servers = serving.flat_map(|subnet| &subnet.dns_servers);
    let dns: Vec<u8> = servers.filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip.octets()) } else { None }).flatten().collect();
    let mut settings = vec![(options6::DNS, dns)];
    let mut ignored = 0;
    for option in port.port.dhcp_options.iter().filter(|option| option.ip_version == 6) {
        match options6::option(&option.name, &option.value) {
            Some((code, content)) => {
                settings.retain(|(known, _)| *known != code);
                settings.push((code, content));
            }
            None => ignored += 1,
        }
    }
    settings.retain(|(_, content)| !content.is_empty());
    (settings, ignored)
}
