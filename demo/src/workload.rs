//! A machine in a network namespace, plugged into a node's bridge as Nova and libvirt plug a virtual machine: all that the node
//! sees is `external_ids` on the Interface row.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Host, Netns, Ovs};
use serde_json::Value;

/// A plugged namespace; gone when dropped.
pub struct Workload {
    ovs_host: Host,
    netns: Netns,
    name: String,
    device: String,
}

impl Workload {
    /// Makes the namespace with an interface `eth0` that has the MAC and addresses of the Neutron port `port`, and plugs it in.
    pub fn plug(ovs: &Ovs, name: &str, port: &Value, prefixes: &[(IpAddr, u8)]) -> Result<Workload> {
        let host = ovs.host().clone();
        let full = format!("{}-{name}", host.namespace());
        let device = Workload::device_of(name);
        let ip = |args: &[&str]| host.tool("ip", args);
        ip(&["netns", "add", &full])?;
        let netns = Netns::named(&full);
        let workload = Workload { ovs_host: host.clone(), netns, name: full, device };
        let mac = port["mac_address"].as_str().context("a port has a MAC")?;
        let id = port["id"].as_str().context("a port has an id")?;
        ip(&["link", "add", &workload.device, "type", "veth", "peer", "name", "eth0", "netns", &workload.name])?;
        host.tool("ethtool", &["-K", &workload.device, "tx", "off"])?;
        workload.netns.tool("ethtool", &["-K", "eth0", "tx", "off"])?;
        let mut lines = vec!["link set lo up".to_string(), format!("link set eth0 address {mac} mtu 1400 up")];
        lines.extend(
            prefixes.iter().map(|(ip, length)| format!("address add {ip}/{length} dev eth0{}", if ip.is_ipv6() { " nodad" } else { "" })),
        );
        workload.netns.ip(&lines)?;
        ip(&["link", "set", &workload.device, "up"])?;
        ovs.plug_like_nova("br-int", &workload.device, id, mac, "00000000-0000-0000-0000-000000000000")?;
        Ok(workload)
    }

    /// The interface on the host of the workload of that name.
    pub fn device_of(name: &str) -> String {
        format!("w-{name}")
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its interface on the host.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Routes everything through `gateway`.
    pub fn default_route(&self, gateway: IpAddr) -> Result<()> {
        self.netns.ip(&[format!("route replace default via {gateway}")])?;
        Ok(())
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // The host may be gone already, and the namespace with it.
        let mut remove = self.ovs_host.command("ip");
        remove.args(["link", "delete", &self.device]);
        let _ = self.ovs_host.run(&mut remove, Duration::from_secs(5));
        let mut remove = std::process::Command::new("ip");
        remove.args(["netns", "delete", &self.name]);
        let _ = lab::command::run(&mut remove, Duration::from_secs(5));
    }
}
