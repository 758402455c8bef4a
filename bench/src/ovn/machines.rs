//! Machines on OVN's chassis: network namespaces in place of its local ports' devices.

use std::net::IpAddr;

use anyhow::Result;
use lab::Netns;

use super::{Ovn, READY, Services, layout, on};
use crate::machine::{Device, Machine, mac};
use crate::world::{PREFIX, address};

/// A namespace that goes when it is dropped.
pub struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = lab::command::tool("ip", &["netns", "delete", &self.0]);
    }
}

impl Ovn {
    /// The devices of the local ports, with the ports' MACs.
    pub fn local_devices(&self) -> Result<Vec<Device>> {
        self.shape.local_ports().map(|port| Ok((format!("p{port}"), mac(&layout::mac(port))?))).collect()
    }

    /// A machine for every local port, and its namespace, which ends with what is returned.
    pub fn machines(&self) -> Result<Vec<(Machine, Namespace)>> {
        self.shape.local_ports().map(|port| self.machine(port)).collect()
    }

    /// As `demo::Workload` makes its machines.
    fn machine(&self, port: usize) -> Result<(Machine, Namespace)> {
        let (host, device) = (&self.host, format!("m{port}"));
        let name = format!("{}-{device}", host.namespace());
        host.tool("ip", &["netns", "add", &name])?;
        let (netns, namespace) = (Netns::named(&name), Namespace(name.clone()));
        let (mac, ip) = (layout::mac(port), layout::ip(self.shape.networks, port));
        host.tool("ip", &["link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        host.tool("ethtool", &["-K", &device, "tx", "off"])?;
        netns.tool("ethtool", &["-K", "eth0", "tx", "off"])?;
        netns.ip(&[
            "link set lo up".into(),
            format!("link set eth0 address {mac} mtu 1400 up"),
            format!("address add {ip}/{PREFIX} dev eth0"),
            format!("route replace default via {}", address(port % self.shape.networks, 1)),
        ])?;
        host.tool("ip", &["link", "set", &device, "up"])?;
        let iface_id = format!("external-ids:iface-id={}", layout::name(port));
        self.vsctl(&["del-port", &format!("p{port}"), "--", "add-port", "br-int", &device, "--", "set", "interface", &device, &iface_id])?;
        Ok((Machine { netns, device, mac, ip }, namespace))
    }

    /// A VIP in front of one machine's address with a port.
    pub fn vip(&mut self, backend: &str) -> Result<IpAddr> {
        Services::make(self, 1, |_| vec![backend.to_string()])?;
        Ok(super::services::vip(0).into())
    }

    /// The router's MAC on a switch.
    pub fn router_mac(&self, switch: usize) -> String {
        layout::router_mac(switch)
    }

    pub fn ofport(&self, device: &str) -> Result<String> {
        Ok(self.vsctl(&["get", "interface", device, "ofport"])?.trim().to_string())
    }

    /// Runs `ovs-appctl` against the chassis' switch.
    pub fn appctl(&self, args: &[&str]) -> Result<String> {
        let socket = self.dir.join("ovs-vswitchd.ctl");
        let mut appctl = on(&self.host, self.release.command("/usr/bin/ovs-appctl"), &self.dir);
        appctl.arg("--timeout=20").arg("-t").arg(socket).args(args);
        Ok(lab::command::run(&mut appctl, READY)?.ok()?)
    }
}
