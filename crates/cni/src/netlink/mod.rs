//! Links, addresses and routes of one network namespace, asked for one by one and answered before the call returns.
//!
//! A socket belongs to the namespace in which it was opened, whichever thread uses it. So a thread enters a pod's namespace
//! ([`in_namespace`]), opens a socket there and hands it back.
//!
//! Own code and synchronous: a plugin that lives for milliseconds needs ten requests, no runtime and no crate of all of
//! rtnetlink. Shapes: rtnetlink(7), `linux/if_link.h`, `linux/if_addr.h`.

mod wire;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use ipnet::IpNet;
use model::Mac;
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use wire::Message;

/// The kernel's answer or its reason.
pub type Result<T> = std::result::Result<T, Errno>;

/// How long the kernel may take for one answer. It holds one lock for all of networking, which a busy machine queues for.
const ANSWER_SECONDS: i64 = 20;

/// How often a listing is begun again because something changed during it.
const DUMP_ATTEMPTS: usize = 8;

/// Larger than any datagram of a listing (the kernel writes at most 32 KiB).
const BUFFER: usize = 64 << 10;

// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
// linux/rtnetlink.h
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;

const REQUEST: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
const CREATE: u16 = REQUEST | (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const REPLACE: u16 = REQUEST | (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
const DUMP: u16 = REQUEST | libc::NLM_F_DUMP as u16;
const IFINFO: usize = 16;
const IFADDR: usize = 8;
const RTMSG: usize = 12;

/// What the kernel says about a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub index: u32,
    pub mac: Mac,
    pub mtu: u32,
    pub is_up: bool,
}

/// A route through one interface; without `gateway` the destination is on the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    /// The address that the machine speaks from when it uses this route.
    pub source: Option<IpAddr>,
    /// Of routes to one destination, the one with the least metric is used. Zero leaves it to the kernel: the least for IPv4, 1024
    /// for IPv6.
    pub metric: u32,
}

/// The end of a veth pair that is born in another namespace.
pub struct Peer<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub namespace: &'a File,
}

/// A socket to one namespace's networking.
pub struct Netlink {
    socket: File,
    sequence: AtomicU32,
}

impl Netlink {
    /// A socket in the calling thread's namespace.
    pub fn open() -> Result<Netlink> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
        Ok(Netlink { socket: File::from(fd), sequence: AtomicU32::new(1) })
    }

    /// The link of that name; None if there is none.
    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        let request = Message::new(libc::RTM_GETLINK, REQUEST, &ifinfo(0, 0, 0)).text(IFLA_IFNAME, name);
        let mut found = None;
        match self.ask(request, |kind, payload| {
            if kind == libc::RTM_NEWLINK {
                found = parse_link(payload);
            }
        }) {
            Ok(()) => Ok(found),
            Err(Errno::ENODEV) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Makes a veth pair: `name` here, `peer` in its own namespace. Both are down. `EEXIST` if either name is taken.
    pub fn create_veth(&self, name: &str, mtu: u32, peer: &Peer<'_>) -> Result<()> {
        let namespace = u32::try_from(peer.namespace.as_raw_fd()).expect("an open file's descriptor is not negative");
        let peer_part = |message: Message| {
            message
                .text(IFLA_IFNAME, peer.name)
                .attribute(IFLA_ADDRESS, &peer.mac.0)
                .number(IFLA_MTU, mtu)
                .number(IFLA_NET_NS_FD, namespace)
        };
        let request = Message::new(libc::RTM_NEWLINK, CREATE, &ifinfo(0, 0, 0)).text(IFLA_IFNAME, name).number(IFLA_MTU, mtu).nest(
            IFLA_LINKINFO,
            &[],
            |info| {
                info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, &[], |data| data.nest(VETH_INFO_PEER, &ifinfo(0, 0, 0), peer_part))
            },
        );
        self.tell(request)
    }

    /// Removes a link. One that is not there is no error.
    pub fn delete_link(&self, name: &str) -> Result<()> {
        let request = Message::new(libc::RTM_DELLINK, REQUEST, &ifinfo(0, 0, 0)).text(IFLA_IFNAME, name);
        match self.tell(request) {
            Err(Errno::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// The link makes up no IPv6 address of its own, not even a link-local one.
    pub fn no_generated_addresses(&self, index: u32) -> Result<()> {
        let request = Message::new(libc::RTM_NEWLINK, REQUEST, &ifinfo(index, 0, 0)).nest(IFLA_AF_SPEC, &[], |families| {
            families.nest(libc::AF_INET6 as u16, &[], |inet6| inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]))
        });
        self.tell(request)
    }

    /// Sets a link up, and what people see beside its name in `ip link`.
    pub fn set_up(&self, index: u32, alias: &str) -> Result<()> {
        let up = libc::IFF_UP as u32;
        let request = Message::new(libc::RTM_NEWLINK, REQUEST, &ifinfo(index, up, up));
        self.tell(if alias.is_empty() { request } else { request.attribute(IFLA_IFALIAS, alias.as_bytes()) })
    }

    /// Gives a link its MAC and its MTU.
    pub fn set_mac_and_mtu(&self, index: u32, mac: Mac, mtu: u32) -> Result<()> {
        self.tell(Message::new(libc::RTM_NEWLINK, REQUEST, &ifinfo(index, 0, 0)).attribute(IFLA_ADDRESS, &mac.0).number(IFLA_MTU, mtu))
    }

    /// Gives a link an address, at once and without probing for duplicates: the model says that there is none.
    pub fn add_address(&self, index: u32, address: IpNet) -> Result<()> {
        self.tell(address_message(libc::RTM_NEWADDR, REPLACE, index, address))
    }

    /// Takes an address from a link. One that is not there is no error.
    pub fn delete_address(&self, index: u32, address: IpNet) -> Result<()> {
        match self.tell(address_message(libc::RTM_DELADDR, REQUEST, index, address)) {
            Err(Errno::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }

    /// Adds a route. `EEXIST` if there is one to that destination with that metric, through whatever link.
    pub fn add_route(&self, index: u32, route: &Route) -> Result<()> {
        self.tell(route_message(libc::RTM_NEWROUTE, CREATE, index, route))
    }

    /// Adds a route, or replaces the one to that destination with that metric, through whatever link that leads.
    pub fn replace_route(&self, index: u32, route: &Route) -> Result<()> {
        self.tell(route_message(libc::RTM_NEWROUTE, REPLACE, index, route))
    }

    /// Removes a route. One that is not there is no error.
    pub fn delete_route(&self, index: u32, route: &Route) -> Result<()> {
        match self.tell(route_message(libc::RTM_DELROUTE, REQUEST, index, route)) {
            Err(Errno::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// The addresses of a link.
    pub fn addresses(&self, index: u32) -> Result<Vec<IpNet>> {
        let found = self.list(|| Message::new(libc::RTM_GETADDR, DUMP, &[0; IFADDR]), parse_address)?;
        Ok(found.into_iter().filter(|(link, _)| *link == index).map(|(_, address)| address).collect())
    }

    /// The routes of the main table that lead through a link.
    pub fn routes(&self, index: u32) -> Result<Vec<Route>> {
        Ok(self.all_routes()?.into_iter().filter(|(link, _)| *link == index).map(|(_, route)| route).collect())
    }

    /// The routes of the main table, with the index of the link through which each leads.
    pub fn all_routes(&self) -> Result<Vec<(u32, Route)>> {
        self.list(|| Message::new(libc::RTM_GETROUTE, DUMP, &[0; RTMSG]), parse_route)
    }

    fn list<T>(&self, request: impl Fn() -> Message, parse: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            match self.ask(request(), |_, payload| found.extend(parse(payload))) {
                // Something changed while the kernel was listing: begin again.
                Err(Errno::EINTR) => {}
                other => return other.map(|()| found),
            }
        }
        Err(Errno::EBUSY)
    }

    fn tell(&self, request: Message) -> Result<()> {
        self.ask(request, |_, _| {})
    }

    /// Sends `request`, hands every message of the answer to `each`, and returns when the answer has ended.
    fn ask(&self, request: Message, mut each: impl FnMut(u16, &[u8])) -> Result<()> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        (&self.socket).write_all(&request.finish(sequence)).map_err(errno)?;
        let mut buffer = vec![0; BUFFER];
        let mut is_interrupted = false;
        loop {
            let length = match (&self.socket).read(&mut buffer) {
                // A machine that stands still for a moment interrupts a read that has a time-out (signal(7)).
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read.map_err(errno)?,
            };
            for message in wire::messages(&buffer[..length]).filter(|message| message.sequence == sequence) {
                is_interrupted |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR => {
                        let code = wire::number(message.payload, 0).map_or(0, |code| code as i32);
                        return if code == 0 { Ok(()) } else { Err(Errno::from_raw(-code)) };
                    }
                    libc::NLMSG_DONE => return if is_interrupted { Err(Errno::EINTR) } else { Ok(()) },
                    _ => each(message.kind, message.payload),
                }
            }
        }
    }
}

/// Runs `work` in a thread of its own inside `namespace`.
pub fn in_namespace<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFO] {
    let mut bytes = [0; IFINFO];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into())).ok()
}

fn address_message(kind: u16, flags: u16, index: u32, address: IpNet) -> Message {
    let no_dad = if address.addr().is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
    let mut fixed = [family(address.addr()), address.prefix_len(), no_dad, SCOPE_UNIVERSE, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    let octets = octets(address.addr());
    Message::new(kind, flags, &fixed).attribute(IFA_LOCAL, &octets).attribute(IFA_ADDRESS, &octets)
}

fn route_message(kind: u16, flags: u16, index: u32, route: &Route) -> Message {
    let destination = route.destination.trunc();
    let scope = if route.gateway.is_some() || destination.addr().is_ipv6() { SCOPE_UNIVERSE } else { SCOPE_LINK };
    let mut fixed = [0; RTMSG];
    fixed[0] = family(destination.addr());
    fixed[1] = destination.prefix_len();
    fixed[4] = libc::RT_TABLE_MAIN;
    fixed[5] = libc::RTPROT_STATIC;
    fixed[6] = scope;
    fixed[7] = libc::RTN_UNICAST;
    let mut message = Message::new(kind, flags, &fixed).attribute(RTA_DST, &octets(destination.addr())).number(RTA_OIF, index);
    for (attribute, address) in [(RTA_GATEWAY, route.gateway), (RTA_PREFSRC, route.source)] {
        if let Some(address) = address {
            message = message.attribute(attribute, &octets(address));
        }
    }
    if route.metric > 0 { message.number(RTA_PRIORITY, route.metric) } else { message }
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let mut link =
        Link { index: wire::number(payload, 4)?, mac: Mac::ZERO, mtu: 0, is_up: wire::number(payload, 8)? & libc::IFF_UP as u32 != 0 };
    for (kind, value) in wire::attributes(payload.get(IFINFO..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().map(Mac).unwrap_or_default(),
            IFLA_MTU => link.mtu = wire::number(value, 0)?,
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(payload: &[u8]) -> Option<(u32, IpNet)> {
    let prefix = *payload.get(1)?;
    let index = wire::number(payload, 4)?;
    let (mut local, mut address) = (None, None);
    for (kind, value) in wire::attributes(payload.get(IFADDR..)?) {
        match kind {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => address = ip(value),
            _ => {}
        }
    }
    Some((index, IpNet::new(local.or(address)?, prefix).ok()?))
}

fn parse_route(payload: &[u8]) -> Option<(u32, Route)> {
    let (family, prefix, table, kind) = (*payload.first()?, *payload.get(1)?, *payload.get(4)?, *payload.get(7)?);
    if table != libc::RT_TABLE_MAIN || kind != libc::RTN_UNICAST {
        return None;
    }
    let mut destination =
        if i32::from(family) == libc::AF_INET { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let (mut index, mut gateway, mut source, mut metric) = (None, None, None, 0);
    for (kind, value) in wire::attributes(payload.get(RTMSG..)?) {
        match kind {
            RTA_DST => destination = ip(value)?,
            RTA_OIF => index = wire::number(value, 0),
            RTA_GATEWAY => gateway = ip(value),
            RTA_PREFSRC => source = ip(value),
            RTA_PRIORITY => metric = wire::number(value, 0)?,
            _ => {}
        }
    }
    Some((index?, Route { destination: IpNet::new(destination, prefix).ok()?, gateway, source, metric }))
}
