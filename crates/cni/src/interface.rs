//! A pod's interface: made, given its addresses, looked at, removed.
//!
//! The pair is made in one request, with the pod's end born in the pod's namespace, so no name is ever in the wrong place.
//! The host's end leads to the switch and to nothing else: its own kernel neither answers ARP on it nor speaks IPv6, because
//! a userspace switch only copies what arrives and the host's stack sees it, too.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use model::{Mac, link_local};
use nix::errno::Errno;

use crate::daemon::{Attachment, Prepared};
use crate::netlink::{self, Link, Netlink, Peer, Route, in_namespace};
use crate::offload::Ethtool;
use crate::result::PreviousResult;
use crate::{Error, Result};

/// What every host's end begins with; twelve hexadecimal digits follow.
pub const HOST_PREFIX: &str = "lad";

/// The kernel's limit for an interface's alias.
const ALIAS_MAX: usize = 255;

/// The name of the host's end. It follows from (container, interface), so that a late DEL of an old sandbox cannot mean a new one,
/// and that DEL works without the node.
pub fn host_ifname(attachment: &Attachment) -> String {
    // FNV-1a, then a finaliser that lets every input bit reach the 48 that are kept.
    const PRIME: u64 = 0x100_0000_01b3;
    let bytes = attachment.container.bytes().chain([0]).chain(attachment.ifname.bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    format!("{HOST_PREFIX}{:012x}", hash & 0xffff_ffff_ffff)
}

/// The network namespace of a pod.
pub struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// Opens `path`, which must be a network namespace other than ours.
    pub fn open(path: &Path) -> Result<Namespace> {
        let unusable = |source| Error::Namespace { path: path.display().to_string(), source };
        let file = File::open(path).map_err(unusable)?;
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let ours = fs::metadata("/proc/thread-self/ns/net").map(identity).map_err(unusable)?;
        if file.metadata().map(identity).map_err(unusable)? == ours {
            return Err(Error::environment("CNI_NETNS", format!("is {}, which is the host's own namespace", path.display())));
        }
        Ok(Namespace { file, path: path.into() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in a thread inside the namespace.
    fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let entered = in_namespace(&self.file, work);
        entered.map_err(|errno| Error::Namespace { path: self.path.display().to_string(), source: errno.into() })?
    }
}

/// A pair that was made and will be removed again, unless it is kept.
pub struct Pair<'a> {
    host: Netlink,
    pod: Netlink,
    namespace: &'a Namespace,
    prepared: &'a Prepared,
    ifname: &'a str,
    pod_index: u32,
    pub host_mac: Mac,
    is_kept: bool,
}

impl<'a> Pair<'a> {
    /// Makes the pair: the host's end is up, the pod's end has its name, MAC and MTU and is down.
    pub fn create(attachment: &'a Attachment, prepared: &'a Prepared, namespace: &'a Namespace, alias: &str) -> Result<Pair<'a>> {
        let ifname = attachment.ifname.as_str();
        let (pod, pod_ethtool) = namespace.enter(|| Ok((open_netlink()?, open_ethtool()?)))?;
        if pod.link(ifname).map_err(Error::kernel("looking for the interface in the pod"))?.is_some() {
            return Err(Error::environment("CNI_IFNAME", format!("is '{ifname}', and the pod has an interface of that name already")));
        }
        let host = open_netlink()?;
        let name = prepared.host_ifname.as_str();
        let peer = Peer { name: ifname, mac: prepared.mac, namespace: &namespace.file };
        create_veth(&host, name, prepared.mtu, &peer)?;
        let mut pair = Pair { host, pod, namespace, prepared, ifname, pod_index: 0, host_mac: Mac::ZERO, is_kept: false };
        let host_end = existing(&pair.host, name)?;
        pair.pod_index = existing(&pair.pod, ifname)?.index;
        pair.host_mac = host_end.mac;
        if !prepared.tx_offload {
            let off = |ethtool: &Ethtool, name: &str| {
                ethtool.tx_offload_off(name).map_err(Error::kernel(format!("turning TX offload off on {name}")))
            };
            off(&open_ethtool()?, name)?;
            off(&pod_ethtool, ifname)?;
        }
        quieten_host_end(name)?;
        let alias = &alias[..alias.floor_char_boundary(ALIAS_MAX)];
        pair.host.set_up(host_end.index, alias).map_err(Error::kernel(format!("setting {name} up")))?;
        Ok(pair)
    }

    /// Gives the pod's end its addresses and routes and sets it up.
    pub fn configure(&self) -> Result<()> {
        let index = self.pod_index;
        let ifname = self.ifname;
        self.namespace.enter(|| configure_sysctls(ifname, self.has_ipv6()))?;
        // A kernel without IPv6 has nothing to generate.
        match self.pod.no_generated_addresses(index) {
            Err(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP) if !self.has_ipv6() => {}
            other => other.map_err(Error::kernel(format!("stopping address generation on {ifname}")))?,
        }
        self.pod.set_up(index, "").map_err(Error::kernel(format!("setting {ifname} up in the pod")))?;
        for address in self.addresses() {
            self.pod.add_address(index, address).map_err(Error::kernel(format!("giving {ifname} the address {address}")))?;
        }
        for route in self.routes() {
            let doing = format!("adding the route to {} to the pod", route.destination);
            self.pod.replace_route(index, &route).map_err(Error::kernel(doing))?;
        }
        Ok(())
    }

    /// The interface stays.
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    fn has_ipv6(&self) -> bool {
        self.prepared.addresses.iter().any(|entry| entry.address.addr().is_ipv6())
    }

    /// The port's own, and the link-local address without which IPv6 does not work.
    fn addresses(&self) -> Vec<IpNet> {
        let link_local = IpNet::new(link_local(self.prepared.mac).into(), 64).expect("64 is a prefix length");
        let own = self.prepared.addresses.iter().map(|entry| entry.address);
        own.chain(self.has_ipv6().then_some(link_local)).collect()
    }

    /// The port's routes; before them a route to every gateway that is in none of the pod's subnets, or the kernel refuses the
    /// routes through it.
    fn routes(&self) -> Vec<Route> {
        let is_on_link = |gateway: &IpAddr| self.addresses().iter().any(|subnet| subnet.contains(gateway));
        let mut routes: Vec<Route> = Vec::new();
        for gateway in self.prepared.routes.iter().filter_map(|route| route.gw).filter(|gateway| !is_on_link(gateway)) {
            let route = Route { destination: IpNet::from(gateway), gateway: None, source: None, metric: 0 };
            if !routes.contains(&route) {
                routes.push(route);
            }
        }
        let told = |route: &crate::daemon::Route| Route { destination: route.dst.trunc(), gateway: route.gw, source: None, metric: 0 };
        routes.extend(self.prepared.routes.iter().map(told));
        routes
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            // The error that led here is the one to report; DEL tries again.
            let _ = self.host.delete_link(&self.prepared.host_ifname);
        }
    }
}

/// Removes the host's end, and with it the pod's. One that is not there is no error.
pub fn remove(host_ifname: &str) -> Result<()> {
    open_netlink()?.delete_link(host_ifname).map_err(Error::kernel(format!("removing {host_ifname}")))
}

/// Fails unless the interface is as `previous` says that ADD left it.
pub fn check(attachment: &Attachment, previous: &PreviousResult, namespace: &Namespace) -> Result<()> {
    let ifname = attachment.ifname.as_str();
    let failed = |what: String| Err(Error::CheckFailed(what));
    let Some(position) = previous.position(ifname) else {
        return Err(Error::InvalidConfig(format!("has a prevResult without the pod's interface {ifname}")));
    };
    let host_ifname = host_ifname(attachment);
    match open_netlink()?.link(&host_ifname).map_err(Error::kernel("looking for the host's end"))? {
        None => return failed(format!("its host's end {host_ifname} is gone")),
        Some(link) if !link.is_up => return failed(format!("its host's end {host_ifname} is down")),
        Some(_) => {}
    }
    let pod = namespace.enter(open_netlink)?;
    let looking = || Error::kernel("looking at the pod's interface");
    let Some(link) = pod.link(ifname).map_err(looking())? else {
        return failed(format!("the pod has no {ifname}"));
    };
    if !link.is_up {
        return failed(format!("{ifname} is down"));
    }
    let expected = &previous.interfaces[position];
    if !expected.mac.is_empty() && expected.mac.parse().ok() != Some(link.mac) {
        return failed(format!("{ifname} has the MAC {} and not {}", link.mac, expected.mac));
    }
    let addresses = pod.addresses(link.index).map_err(looking())?;
    let is_ours = |interface: Option<usize>| interface.is_none_or(|index| index == position);
    if let Some(ip) = previous.ips.iter().find(|ip| is_ours(ip.interface) && !addresses.contains(&ip.address)) {
        return failed(format!("{ifname} has lost the address {}", ip.address));
    }
    let routes = pod.routes(link.index).map_err(looking())?;
    let is_there = |route: &crate::daemon::Route| routes.iter().any(|r| r.destination == route.dst.trunc() && r.gateway == route.gw);
    match previous.routes.iter().find(|route| !is_there(route)) {
        Some(route) => failed(format!("the pod has lost its route to {}", route.dst)),
        None => Ok(()),
    }
}

/// Makes the pair. A host's end of that name without the pod's is what a killed ADD left: it is removed first.
fn create_veth(host: &Netlink, name: &str, mtu: u32, peer: &Peer<'_>) -> Result<()> {
    let doing = || Error::kernel(format!("making the interface pair {name}, {}", peer.name));
    match host.create_veth(name, mtu, peer) {
        Err(Errno::EEXIST) => {
            host.delete_link(name).map_err(Error::kernel(format!("removing a left-over {name}")))?;
            host.create_veth(name, mtu, peer).map_err(doing())
        }
        other => other.map_err(doing()),
    }
}

/// The host's own stack has no business on the host's end.
fn quieten_host_end(name: &str) -> Result<()> {
    // arp_ignore 8: answer for none of the host's addresses.
    write_sysctl("ipv4", name, "arp_ignore", "8", true)?;
    write_sysctl("ipv4", name, "forwarding", "0", true)?;
    write_sysctl("ipv6", name, "disable_ipv6", "1", false)
}

/// The pod's end listens to no router and makes up nothing: the model says what its addresses are.
fn configure_sysctls(ifname: &str, has_ipv6: bool) -> Result<()> {
    ignore_routers(ifname, has_ipv6)?;
    if has_ipv6 { write_sysctl("ipv6", ifname, "disable_ipv6", "0", true) } else { Ok(()) }
}

/// The interface takes neither routes nor addresses from router advertisements. Without `is_required` a kernel without IPv6 is
/// fine.
pub fn ignore_routers(ifname: &str, is_required: bool) -> Result<()> {
    write_sysctl("ipv6", ifname, "accept_ra", "0", is_required)?;
    write_sysctl("ipv6", ifname, "autoconf", "0", is_required)
}

/// Sets one sysctl of the calling thread's namespace. Without `is_required` a kernel that lacks it is fine.
fn write_sysctl(family: &str, interface: &str, key: &str, value: &str, is_required: bool) -> Result<()> {
    let path = format!("/proc/sys/net/{family}/conf/{interface}/{key}");
    match fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_required => Ok(()),
        other => other.map_err(|source| Error::Sysctl { doing: format!("writing {value} to {path}"), source }),
    }
}

fn existing(netlink: &Netlink, name: &str) -> Result<Link> {
    let found = netlink.link(name).and_then(|link| link.ok_or(Errno::ENODEV));
    found.map_err(Error::kernel(format!("looking for {name}, which was just made")))
}

fn open_netlink() -> Result<Netlink> {
    let opened: netlink::Result<Netlink> = Netlink::open();
    opened.map_err(Error::kernel("opening a netlink socket"))
}

fn open_ethtool() -> Result<Ethtool> {
    Ethtool::open().map_err(Error::kernel("opening an ethtool socket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container: &str, ifname: &str) -> Attachment {
        Attachment { container: container.into(), ifname: ifname.into() }
    }

    #[test]
    fn a_hosts_end_is_named_for_container_and_interface() {
        let name = host_ifname(&attachment("c1", "eth0"));
        assert_eq!(name, host_ifname(&attachment("c1", "eth0")));
        assert!(name.len() <= 15 && name.starts_with(HOST_PREFIX), "{name}");
        assert_ne!(name, host_ifname(&attachment("c1", "eth1")));
        assert_ne!(host_ifname(&attachment("ab", "c")), host_ifname(&attachment("a", "bc")));
    }

    #[test]
    fn a_hundred_thousand_containers_have_a_hundred_thousand_names() {
        let names: std::collections::HashSet<_> = (0..100_000).map(|n| host_ifname(&attachment(&format!("{n:064x}"), "eth0"))).collect();
        assert_eq!(names.len(), 100_000);
    }
}
