//! The underlay and the hosts on it: a bridge in one namespace, a namespace with `eth0` for every host.
//!
//! Host number N has 192.0.2.N and 2001:db8::N. Checksum and segmentation offload are off on both ends of every cable,
//! because the userspace datapath sees packets before a network card would have finished them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::command::{self, Output};
use crate::error::{LabError, Result};
use crate::lab::{Lab, Shared, check_name};
use crate::netns::{self, Netns};
use crate::process::{Process, Spec};
use crate::state::HostRecord;

/// The bridge that every host's cable ends on.
const BRIDGE: &str = "br0";
/// The host that is everybody's default gateway, and the underlay's control host.
const GATEWAY: u8 = 1;

/// The network that the hosts stand on.
pub struct Underlay {
    lab: Arc<Shared>,
    netns: Netns,
    name: String,
    mtu: u32,
}

/// A machine of the lab: a network namespace with processes. Clones are the same host; it goes with the last one.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    lab: Arc<Shared>,
    name: String,
    namespace: String,
    netns: Netns,
    number: u8,
}

impl Underlay {
    /// The lab's underlay, with packets of up to 1500 bytes.
    pub fn new(lab: &Lab) -> Result<Underlay> {
        Self::with_mtu(lab, 1500)
    }

    /// The lab's underlay, with packets of up to `mtu` bytes.
    pub fn with_mtu(lab: &Lab, mtu: u32) -> Result<Underlay> {
        let name = format!("{}-underlay", lab.name());
        lab.shared().record(|state| state.namespaces.push(name.clone()))?;
        let netns = netns::add(&name)?;
        netns
            .ip(&[format!("link add {BRIDGE} mtu {mtu} type bridge forward_delay 0 mcast_snooping 0"), format!("link set {BRIDGE} up")])?;
        netns.sysctl(&[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")])?;
        Ok(Underlay { lab: lab.shared().clone(), netns, name, mtu })
    }

    /// A new host: `number` (1 to 254) is the last part of its addresses. The host numbered 1 is the others' default gateway.
    pub fn host(&self, name: &str, number: u8) -> Result<Host> {
        check_name(name)?;
        let namespace = format!("{}-{name}", self.lab.name);
        self.claim(name, number, &namespace)?;
        let netns = netns::add(&namespace)?;
        let inner = Inner { lab: self.lab.clone(), name: name.into(), namespace, netns, number };
        let host = Host { inner: Arc::new(inner) };
        self.cable(&host)?;
        host.set_up()?;
        Ok(host)
    }

    fn claim(&self, name: &str, number: u8, namespace: &str) -> Result<()> {
        let mut refused = None;
        self.lab.record(|state| {
            if number == 0 || number == 255 || name == "underlay" {
                refused = Some(format!("host {name} cannot have the number {number}"));
            } else if state.hosts.iter().any(|(other, host)| other == name || host.number == number) {
                refused = Some(format!("host {name} or number {number} exists already"));
            } else {
                state.namespaces.push(namespace.into());
                state.hosts.insert(name.into(), HostRecord { number, has_switch: false });
            }
        })?;
        refused.map_or(Ok(()), |text| Err(LabError::Unfit(text)))
    }

    fn cable(&self, host: &Host) -> Result<()> {
        let (name, mtu) = (host.name(), self.mtu);
        let (near, far) = (&host.inner.namespace, &self.name);
        host.netns().ip(&[format!("link add eth0 mtu {mtu} netns {near} type veth peer name {name} mtu {mtu} netns {far}")])?;
        self.netns.ip(&[format!("link set dev {name} master {BRIDGE} up")])?;
        offloads_off(&self.netns, name)
    }

    /// The namespace of the bridge.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The bridge in that namespace.
    pub fn bridge(&self) -> &str {
        BRIDGE
    }

    /// Cut a host's cable, or mend it.
    pub fn set_cable(&self, host: &Host, is_connected: bool) -> Result<()> {
        let state = if is_connected { "up" } else { "down" };
        self.netns.ip(&[format!("link set dev {} {state}", host.name())])
    }
}

impl Drop for Underlay {
    fn drop(&mut self) {
        if self.lab.owns_parts() {
            forget_namespace(&self.lab, &self.name);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.lab.owns_parts() {
            forget_namespace(&self.lab, &self.namespace);
            let _ = self.lab.record(|state| {
                state.hosts.remove(&self.name);
            });
        }
    }
}

fn forget_namespace(lab: &Shared, name: &str) {
    if netns::remove(name).is_ok() {
        let _ = lab.record(|state| state.namespaces.retain(|other| other != name));
    }
}

impl Lab {
    /// A host of an adopted lab.
    pub fn host(&self, name: &str) -> Option<Host> {
        let record = self.shared().state().hosts.get(name).cloned()?;
        let namespace = format!("{}-{name}", self.name());
        let netns = Netns::named(&namespace);
        let inner = Inner { lab: self.shared().clone(), name: name.into(), namespace, netns, number: record.number };
        Some(Host { inner: Arc::new(inner) })
    }
}

impl Host {
    fn set_up(&self) -> Result<()> {
        let netns = self.netns();
        netns.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ])?;
        offloads_off(netns, "eth0")?;
        netns.ip(&["link set lo up".into(), "link set eth0 up".into()])?;
        netns.ip(&self.addressing("eth0"))
    }

    /// The lines of `ip` that give `device` this host's underlay addresses and routes.
    pub(crate) fn addressing(&self, device: &str) -> Vec<String> {
        let mut lines = vec![
            format!("address replace {}/24 dev {device}", self.ipv4()),
            format!("address replace {}/64 dev {device} nodad", self.ipv6()),
        ];
        if self.number() != GATEWAY {
            lines.push(format!("route replace default via {} dev {device}", ipv4(GATEWAY)));
            lines.push(format!("route replace default via {} dev {device}", ipv6(GATEWAY)));
        }
        lines
    }

    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The last part of its underlay addresses.
    pub fn number(&self) -> u8 {
        self.inner.number
    }

    /// Its underlay address.
    pub fn ipv4(&self) -> Ipv4Addr {
        ipv4(self.number())
    }

    /// Its underlay IPv6 address.
    pub fn ipv6(&self) -> Ipv6Addr {
        ipv6(self.number())
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.inner.netns
    }

    /// The name of its network namespace, as `ip netns` knows it.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// Its folder in the lab's.
    pub fn dir(&self) -> PathBuf {
        self.inner.lab.dir.join(self.name())
    }

    pub(crate) fn lab(&self) -> &Arc<Shared> {
        &self.inner.lab
    }

    /// A folder in this host's, made when it is not there.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        self.inner.lab.folder(&Path::new(self.name()).join(name).to_string_lossy())
    }

    /// A command that runs on this host.
    pub fn command(&self, program: &str) -> Command {
        self.netns().command(program)
    }

    /// Run a command of [`Host::command`] to its end.
    pub fn run(&self, command: &mut Command, deadline: Duration) -> Result<Output> {
        command::run(command, deadline)
    }

    /// Run a tool on this host and give what it printed.
    pub fn tool(&self, program: &str, args: &[&str]) -> Result<String> {
        self.netns().tool(program, args)
    }

    /// Start a long-running process on this host. Of `command`, the program, arguments, environment and folder count. It is
    /// called HOST-`name` in the lab.
    pub fn spawn(&self, name: &str, command: &Command) -> Result<Process> {
        self.spawn_spec(name, Spec::of(command))
    }

    /// As [`Host::spawn`], where the process also sees this host's name as the machine's.
    pub fn spawn_named(&self, name: &str, command: &Command) -> Result<Process> {
        self.spawn_spec(name, Spec { hostname: Some(self.name().into()), ..Spec::of(command) })
    }

    /// As [`Host::spawn`], with a nice value.
    pub fn spawn_nice(&self, name: &str, command: &Command, nice: i32) -> Result<Process> {
        self.spawn_spec(name, Spec { nice, ..Spec::of(command) })
    }

    fn spawn_spec(&self, name: &str, spec: Spec) -> Result<Process> {
        let spec = Spec { netns: Some(self.netns().path().to_owned()), ..spec };
        Process::start(&self.inner.lab, &format!("{}-{name}", self.name()), spec)
    }
}

fn ipv4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

/// The decimal digits of the number are written as the last group, so that both addresses end alike for people.
fn ipv6(number: u8) -> Ipv6Addr {
    let digits = number.to_string();
    let group = u16::from_str_radix(&digits, 16).expect("decimal digits are hexadecimal digits");
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, group)
}

/// Make the device hand over packets with their checksums computed and their segments cut.
pub(crate) fn offloads_off(netns: &Netns, device: &str) -> Result<()> {
    netns.tool("ethtool", &["-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off"]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_of_a_host_end_alike() {
        assert_eq!(ipv4(11).to_string(), "192.0.2.11");
        assert_eq!(ipv6(11).to_string(), "2001:db8::11");
    }
}
