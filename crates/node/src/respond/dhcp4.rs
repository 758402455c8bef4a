//! DHCPv4 (RFC 2131): a port asks for what the model says it has.
//!
//! There are no leases to keep: an address is the port's as long as the port has it. So every question is answered out of the
//! port alone, by any node, after any restart. DISCOVER is offered the port's address, REQUEST is acknowledged for it and refused
//! for any other, INFORM gets the options only; RELEASE and DECLINE change nothing. The server is the subnet's gateway, at
//! the router's MAC; a subnet without a gateway has [`SERVER_WITHOUT_GATEWAY`]. Questions that name another MAC than the
//! port's own are not answered (a port is not a relay), and so a relay's address (`giaddr`) means nothing.
//!
//! Options, as Neutron gives them: mask, router, DNS servers, MTU (RFC 2132), and where the subnet has host routes or the
//! network has further subnets, classless routes (RFC 3442) with the default route among them, because a client that
//! understands these ignores the router option. The port's own options come last and win.

use std::net::{IpAddr, Ipv4Addr};

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode, UnknownOption};
use dhcproto::{Decodable, Encodable};
use ipnet::{IpNet, Ipv4Net};
use model::{FixedIp, Mac, Subnet};

use super::options4::{self, Setting};
use super::packet::{Envelope, Packet, TTL};
use super::{Answer, server_mac};
use crate::local::{LocalNetwork, LocalPort};

/// Seconds for which an address is promised (Neutron's `dhcp_lease_duration`).
pub const LEASE_SECS: u32 = 86_400;
/// The server's address where the subnet has no gateway: link-local, so that it is nobody else's. Clients cannot reach it to
/// renew, and ask everybody later.
pub const SERVER_WITHOUT_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Every client takes a message of this many bytes with its IP header (RFC 2131, 2).
const MESSAGE_MAX_DEFAULT: u16 = 576;
/// IP and UDP headers, the fixed part of a message, the cookie, the message type and the end.
const OVERHEAD: usize = 28 + 236 + 4 + 3 + 1;
/// BOOTP's length, below which some clients take nothing (RFC 1542, 2.1).
const LENGTH_MIN: usize = 300;
/// The longest boot file name that the message's own field holds, with a zero at its end.
pub const FILE_MAX: usize = 127;
const PORTS: (u16, u16) = (67, 68);

/// The answer to a client's message, if it is one that the port may ask and that has an answer.
pub fn answer(packet: &Packet, port: &LocalPort) -> Option<Answer> {
    let (68, 67, content) = packet.udp()? else { return None };
    // Hardware type and length, which the decoder does not check: Ethernet, six bytes.
    if content.get(1..3) != Some(&[1, 6]) {
        return None;
    }
    let asked = Message::from_bytes(content).ok()?;
    if asked.opcode() != Opcode::BootRequest || asked.chaddr() != port.port.mac.0 {
        return None;
    }
    let question = Question { asked: &asked, port };
    match asked.opts().msg_type()? {
        MessageType::Discover => question.offer(),
        MessageType::Request => question.acknowledge_or_refuse(),
        MessageType::Inform => question.inform(packet),
        _ => None,
    }
}

struct Question<'a> {
    asked: &'a Message,
    port: &'a LocalPort,
}

/// One of the port's addresses, with its subnet.
#[derive(Clone, Copy)]
struct Binding<'a> {
    ip: Ipv4Addr,
    subnet: &'a Subnet,
    net: Ipv4Net,
}

impl Binding<'_> {
    fn server(&self) -> Ipv4Addr {
        match self.subnet.gateway {
            Some(IpAddr::V4(gateway)) => gateway,
            _ => SERVER_WITHOUT_GATEWAY,
        }
    }
}

fn bindings(port: &LocalPort) -> impl Iterator<Item = Binding<'_>> {
    let binding = |fixed: &FixedIp| {
        let subnet = port.network.subnet(fixed.subnet).filter(|subnet| subnet.is_dhcp)?;
        match (fixed.ip, subnet.cidr) {
            (IpAddr::V4(ip), IpNet::V4(net)) => Some(Binding { ip, subnet, net }),
            _ => None,
        }
    };
    port.port.fixed_ips.iter().filter_map(binding)
}

impl<'a> Question<'a> {
    fn requested(&self) -> Option<Ipv4Addr> {
        match self.asked.opts().get(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(ip)) => Some(*ip),
            _ => None,
        }
    }

    /// The address that the client wants if it is the port's, otherwise the port's first.
    fn offer(&self) -> Option<Answer> {
        let wanted = bindings(self.port).find(|binding| Some(binding.ip) == self.requested());
        let binding = wanted.or_else(|| bindings(self.port).next())?;
        self.grant(MessageType::Offer, binding)
    }

    /// A client that chose, came back after a restart, renews or rebinds (RFC 2131, 4.3.2).
    fn acknowledge_or_refuse(&self) -> Option<Answer> {
        let first = bindings(self.port).next()?;
        let wanted = self.requested().or_else(|| Some(self.asked.ciaddr()).filter(|ip| !ip.is_unspecified()))?;
        let binding = bindings(self.port).find(|binding| binding.ip == wanted);
        if let Some(DhcpOption::ServerIdentifier(chosen)) = self.asked.opts().get(OptionCode::ServerIdentifier)
            && *chosen != binding.unwrap_or(first).server()
        {
            // The client chose another server.
            return None;
        }
        match binding {
            Some(binding) => self.grant(MessageType::Ack, binding),
            None => self.refuse(first),
        }
    }

    fn grant(&self, kind: MessageType, binding: Binding) -> Option<Answer> {
        let lease = lease(self.port);
        let times = [
            (options4::LEASE_TIME, lease),
            (options4::T1, lease / 2),
            (options4::T2, u32::try_from(u64::from(lease) * 7 / 8).unwrap_or(lease)),
        ];
        let times = times.into_iter().map(|(code, secs)| (code, secs.to_be_bytes().to_vec()));
        let mut reply = self.reply(kind, binding.server());
        reply.set_yiaddr(binding.ip).set_ciaddr(self.asked.ciaddr());
        let is_renewing = !self.asked.ciaddr().is_unspecified() && kind == MessageType::Ack;
        let to = if is_renewing { self.asked.ciaddr() } else { self.unless_broadcast(binding.ip) };
        self.finish(reply, binding, times.collect(), to)
    }

    /// Options only, for a client that has its address from elsewhere (RFC 2131, 4.3.5).
    fn inform(&self, packet: &Packet) -> Option<Answer> {
        let IpAddr::V4(from) = packet.src else { return None };
        let address = if self.asked.ciaddr().is_unspecified() { from } else { self.asked.ciaddr() };
        let own = bindings(self.port).find(|binding| binding.ip == address);
        let binding = own.or_else(|| bindings(self.port).find(|binding| binding.net.contains(&address)))?;
        let mut reply = self.reply(MessageType::Ack, binding.server());
        reply.set_ciaddr(self.asked.ciaddr());
        let to = if address.is_unspecified() { Ipv4Addr::BROADCAST } else { address };
        self.finish(reply, binding, Vec::new(), to)
    }

    fn refuse(&self, first: Binding) -> Option<Answer> {
        let mut reply = self.reply(MessageType::Nak, first.server());
        reply.opts_mut().insert(DhcpOption::Message("the address is not this port's".into()));
        self.send(&reply, first, Ipv4Addr::BROADCAST, 0)
    }

    fn unless_broadcast(&self, ip: Ipv4Addr) -> Ipv4Addr {
        if self.asked.flags().broadcast() { Ipv4Addr::BROADCAST } else { ip }
    }

    fn reply(&self, kind: MessageType, server: Ipv4Addr) -> Message {
        let mut reply = Message::new_with_id(
            self.asked.xid(),
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED,
            self.asked.giaddr(),
            self.asked.chaddr(),
        );
        reply.set_opcode(Opcode::BootReply);
        reply.set_flags(if self.asked.flags().broadcast() { Flags::default().set_broadcast() } else { Flags::default() });
        let options = reply.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(server));
        // RFC 6842: the client gets its identifier back.
        options.extend_from(self.asked.opts().get(OptionCode::ClientIdentifier));
        reply
    }

    /// Adds the options that fit, the first ones first.
    fn finish(&self, mut reply: Message, binding: Binding, times: Vec<(u8, Vec<u8>)>, to: Ipv4Addr) -> Option<Answer> {
        let (settings, mut ignored) = settings(self.port);
        let mut options: Vec<(u8, Vec<u8>)> = times.into_iter().chain(own_options(&self.port.network, binding)).collect();
        for setting in settings {
            match setting {
                Setting::NextServer(ip) => {
                    reply.set_siaddr(ip);
                }
                Setting::Option(code, content) => {
                    options.retain(|(known, _)| *known != code);
                    options.push((code, content));
                }
            }
        }
        boot(&mut reply, &options);
        let mut room = self.room();
        for (code, content) in options.into_iter().filter(|(_, content)| !content.is_empty()) {
            let size = content.len() + 2 * content.len().div_ceil(255);
            if size > room {
                ignored += 1;
                continue;
            }
            room -= size;
            reply.opts_mut().insert(DhcpOption::Unknown(UnknownOption::new(code.into(), content)));
        }
        self.send(&reply, binding, to, ignored)
    }

    /// Bytes for options beyond those that every answer has.
    fn room(&self) -> usize {
        let taken = match self.asked.opts().get(OptionCode::MaxMessageSize) {
            Some(DhcpOption::MaxMessageSize(size)) => (*size).max(MESSAGE_MAX_DEFAULT),
            _ => MESSAGE_MAX_DEFAULT,
        };
        let id = match self.asked.opts().get(OptionCode::ClientIdentifier) {
            Some(DhcpOption::ClientIdentifier(id)) => id.len() + 2,
            _ => 0,
        };
        let size = usize::from(taken.min(self.port.network.network.mtu.max(MESSAGE_MAX_DEFAULT)));
        size.saturating_sub(OVERHEAD + id + 6)
    }

    fn send(&self, reply: &Message, binding: Binding, to: Ipv4Addr, ignored: usize) -> Option<Answer> {
        let mut content = reply.to_vec().ok()?;
        content.resize(content.len().max(LENGTH_MIN), 0);
        let server = IpAddr::V4(binding.server());
        let eth_dst = if to.is_broadcast() { Mac::BROADCAST } else { self.port.port.mac };
        let eth_src = server_mac(&self.port.network, server);
        let envelope = Envelope { eth_src, eth_dst, src: server, dst: IpAddr::V4(to), ttl: TTL };
        Some(Answer { frame: envelope.udp(PORTS, &content)?, ignored })
    }
}

/// The seconds of the lease: the port's own option, or the default.
fn lease(port: &LocalPort) -> u32 {
    let own = port.port.dhcp_options.iter().filter(|option| option.ip_version == 4);
    let set = own.filter_map(|option| options4::setting(&option.name, &option.value));
    let mut times = set.filter_map(|setting| match setting {
        Setting::Option(options4::LEASE_TIME, content) => Some(u32::from_be_bytes(content.try_into().ok()?)),
        _ => None,
    });
    times.next().filter(|secs| *secs > 0).unwrap_or(LEASE_SECS)
}

/// What the port's own options say, and how many of them say nothing.
fn settings(port: &LocalPort) -> (Vec<Setting>, usize) {
    let own = port.port.dhcp_options.iter().filter(|option| option.ip_version == 4);
    let parsed: Vec<Option<Setting>> = own.map(|option| options4::setting(&option.name, &option.value)).collect();
    let ignored = parsed.iter().filter(|setting| setting.is_none()).count();
    (parsed.into_iter().flatten().collect(), ignored)
}

/// The options that follow from the subnet and the network, the most important first.
fn own_options(network: &LocalNetwork, binding: Binding) -> Vec<(u8, Vec<u8>)> {
    let octets = |ips: &[IpAddr]| -> Vec<u8> {
        ips.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip.octets()) } else { None }).flatten().collect()
    };
    let gateway = gateway(binding.subnet);
    let routes = options4::classless(&routes(network, binding, gateway));
    vec![
        (options4::NETMASK, binding.net.netmask().octets().to_vec()),
        (options4::ROUTER, gateway.map(|ip| ip.octets().to_vec()).unwrap_or_default()),
        (options4::DNS, octets(&binding.subnet.dns_servers)),
        (options4::MTU, network.network.mtu.to_be_bytes().to_vec()),
        (options4::ROUTES, routes.clone()),
        (options4::ROUTES_MICROSOFT, routes),
    ]
}

/// The subnet's gateway, or the next hop of a host route to everywhere.
fn gateway(subnet: &Subnet) -> Option<Ipv4Addr> {
    let everywhere = subnet.host_routes.iter().find(|route| route.destination.prefix_len() == 0).map(|route| route.nexthop);
    match subnet.gateway.or(everywhere) {
        Some(IpAddr::V4(ip)) => Some(ip),
        _ => None,
    }
}

/// Host routes, the network's other subnets (on the link), and the default route if there is any of these.
fn routes(network: &LocalNetwork, binding: Binding, gateway: Option<Ipv4Addr>) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let host_routes = binding.subnet.host_routes.iter().filter_map(|route| match (route.destination, route.nexthop) {
        (IpNet::V4(net), IpAddr::V4(hop)) if net.prefix_len() > 0 => Some((net.trunc(), hop)),
        _ => None,
    });
    let others = network.subnets.iter().filter(|subnet| subnet.id != binding.subnet.id).filter_map(|subnet| match subnet.cidr {
        IpNet::V4(net) => Some((net.trunc(), Ipv4Addr::UNSPECIFIED)),
        IpNet::V6(_) => None,
    });
    // A gateway outside the subnet is reached on the link all the same.
    let far = gateway.filter(|ip| !binding.net.contains(ip)).map(|ip| (Ipv4Net::from(ip), Ipv4Addr::UNSPECIFIED));
    let mut routes: Vec<_> = host_routes.chain(others).chain(far).collect();
    if let Some(gateway) = gateway.filter(|_| !routes.is_empty()) {
        routes.push((Ipv4Net::default(), gateway));
    }
    routes
}

/// Network boot: old firmware reads the message's own fields instead of options.
fn boot(reply: &mut Message, options: &[(u8, Vec<u8>)]) {
    let find = |wanted: u8| options.iter().find(|(code, _)| *code == wanted).map(|(_, content)| &content[..]);
    if let Some(file) = find(options4::BOOT_FILE).filter(|file| !file.is_empty() && file.len() <= FILE_MAX) {
        reply.set_fname(file);
    }
    let first = |content: &[u8]| content.get(..4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(Ipv4Addr::from);
    let named = || find(options4::TFTP_SERVER).and_then(|content| std::str::from_utf8(content).ok()?.parse().ok());
    if reply.siaddr().is_unspecified()
        && let Some(server) = find(options4::TFTP_ADDRESS).and_then(first).or_else(named)
    {
        reply.set_siaddr(server);
    }
}

/// Adds an option that may not be there.
trait Extend {
    fn extend_from(&mut self, option: Option<&DhcpOption>);
}

impl Extend for dhcproto::v4::DhcpOptions {
    fn extend_from(&mut self, option: Option<&DhcpOption>) {
        if let Some(option) = option {
            self.insert(option.clone());
        }
    }
}
