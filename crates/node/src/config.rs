//! What `ladon node` is told: a TOML file. Keys that must be there have an example in their meaning, the others a default.

use std::net::IpAddr;
use std::path::PathBuf;

use model::{NodeName, TunnelType};
use serde::Deserialize;

/// The configuration of `ladon node`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's name, as in `binding:host_id` and in its certificate. Default: the machine's host name.
    #[serde(default)]
    pub host: Option<NodeName>,
    /// Where the servers serve views (their `views.listen`), tried in turn: `host:port`, and `https://` may stand before it.
    /// Example: `["192.0.2.1:9697"]`.
    pub servers: Vec<String>,
    /// The node's certificate, PEM. It names the node by the URI `node:<host>` as subject alternative name.
    /// Example: `"/etc/ladon/node.crt"`.
    pub certificate: PathBuf,
    /// The certificate's private key, PEM, readable by root only. Example: `"/etc/ladon/node.key"`.
    pub key: PathBuf,
    /// The authority that signed the servers' certificates, PEM. Example: `"/etc/ladon/ca.crt"`.
    pub authority: PathBuf,
    /// Where the node keeps what it must remember over a restart. Default: `/var/lib/ladon`.
    #[serde(default = "state_dir")]
    pub state_dir: PathBuf,
    /// Where the node's sockets are. Default: `/run/ladon`.
    #[serde(default = "run_dir")]
    pub run_dir: PathBuf,
    #[serde(default)]
    pub ovs: Ovs,
    #[serde(default)]
    pub tunnel: Tunnel,
    /// Set on Kubernetes nodes: write the CNI configuration once the node can serve it.
    #[serde(default)]
    pub cni: Option<Cni>,
    /// The name of the interface that is the machine's own port on the network. Default: `ladon0`.
    #[serde(default = "host_interface")]
    pub host_interface: String,
}

/// The machine's Open vSwitch.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ovs {
    /// ovsdb-server's socket. Default: `/var/run/openvswitch/db.sock`.
    #[serde(default = "db_socket")]
    pub db_socket: PathBuf,
    /// The folder with the bridges' management sockets. Default: `/var/run/openvswitch`.
    #[serde(default = "ovs_run_dir")]
    pub run_dir: PathBuf,
    /// The control socket of ovs-vswitchd. Default: `ovs-vswitchd.<pid>.ctl` in `run_dir`, with the process id from `ovs-vswitchd.pid`;
    /// where there is no such file, `ovs-vswitchd.ctl`.
    #[serde(default)]
    pub control_socket: Option<PathBuf>,
    /// The bridge that Ladon programs. Default: `br-int`.
    #[serde(default = "bridge")]
    pub bridge: String,
    /// `system` (the kernel's datapath, the default) or `netdev` (userspace).
    #[serde(default)]
    pub datapath: Datapath,
    /// How many connections the switch remembers for one port in each of its three zones (rules, load balancing, load balancing to itself);
    /// new ones beyond that fail, and other ports notice nothing. 0: as many as there is room for. Default: 65536.
    #[serde(default = "connections_per_zone")]
    pub connections_per_zone: u32,
}

/// What forwards the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Datapath {
    #[default]
    System,
    Netdev,
}

impl Datapath {
    /// As it is called in a configuration and in OVSDB.
    pub fn word(self) -> &'static str {
        match self {
            Datapath::System => "system",
            Datapath::Netdev => "netdev",
        }
    }
}

/// How packets travel between nodes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// `geneve` (the default) or `vxlan`; the same on all nodes.
    #[serde(default, rename = "type")]
    pub kind: TunnelType,
    /// The machine's own addresses on the underlay where tunnels end, the preferred one first. Example: `["192.0.2.11"]`.
    pub addresses: Vec<IpAddr>,
}

/// Where container runtimes look for CNI configurations.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cni {
    /// Default: `/etc/cni/net.d`.
    #[serde(default = "cni_dir")]
    pub config_dir: PathBuf,
}

fn state_dir() -> PathBuf {
    "/var/lib/ladon".into()
}

fn run_dir() -> PathBuf {
    "/run/ladon".into()
}

fn host_interface() -> String {
    "ladon0".into()
}

fn db_socket() -> PathBuf {
    "/var/run/openvswitch/db.sock".into()
}

fn ovs_run_dir() -> PathBuf {
    "/var/run/openvswitch".into()
}

fn bridge() -> String {
    "br-int".into()
}

fn connections_per_zone() -> u32 {
    65_536
}

fn cni_dir() -> PathBuf {
    "/etc/cni/net.d".into()
}

impl Default for Ovs {
    fn default() -> Ovs {
        Ovs {
            db_socket: db_socket(),
            run_dir: ovs_run_dir(),
            control_socket: None,
            bridge: bridge(),
            datapath: Datapath::default(),
            connections_per_zone: connections_per_zone(),
        }
    }
}

impl Ovs {
    /// True if packets are forwarded by ovs-vswitchd itself: checksums must be computed before they reach it.
    pub fn is_userspace(&self) -> bool {
        self.datapath == Datapath::Netdev
    }

    /// The bridge's management socket, where OpenFlow is spoken without a controller entry.
    pub fn management_socket(&self) -> PathBuf {
        self.run_dir.join(format!("{}.mgmt", self.bridge))
    }
}

/// Why a configuration is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "`tunnel.addresses` is empty: other nodes could not reach this one, so the node does not start; write the machine's underlay addresses \
         there"
    )]
    NoTunnelAddress,
    #[error(
        "`tunnel.addresses` has {0} (loopback, unspecified, multicast or broadcast), at which no other node could reach this one, so the node \
         does not start; write the machine's underlay addresses there"
    )]
    TunnelAddress(IpAddr),
    #[error(
        "`servers` has '{0}', which is no address of a server, so the node does not start; write host:port, as in \"192.0.2.1:9697\" \
         (https:// may stand before it)"
    )]
    Server(String),
}

impl Config {
    /// Refuses what no type can.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.tunnel.addresses.is_empty() {
            return Err(ConfigError::NoTunnelAddress);
        }
        if let Some(odd) = self.tunnel.addresses.iter().find(|address| !is_for_others(**address)) {
            return Err(ConfigError::TunnelAddress(*odd));
        }
        let odd = self.servers.iter().find(|server| stream::authority(server).is_none());
        // What stands before an '@' may be a password.
        let shown = |server: &String| server.rsplit_once('@').map_or(server.clone(), |(_, host)| format!("…@{host}"));
        odd.map_or(Ok(()), |server| Err(ConfigError::Server(shown(server))))
    }

    /// The node's name: the configured one, or the machine's.
    pub fn node(&self) -> NodeName {
        self.host.clone().unwrap_or_else(|| {
            let name = nix::unistd::gethostname().unwrap_or_default();
            NodeName(name.to_string_lossy().into_owned())
        })
    }
}

/// True if another machine could reach a machine there.
fn is_for_others(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || is_broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(servers: &str, addresses: &str) -> Config {
        let keys = "certificate = 'c'\nkey = 'k'\nauthority = 'a'";
        toml::from_str(&format!("servers = {servers}\n{keys}\n[tunnel]\naddresses = {addresses}")).unwrap()
    }

    #[test]
    fn a_short_file_is_enough() {
        let config = config("['https://192.0.2.1:9697', '[2001:db8::1]:9697']", "['192.0.2.11']");
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.ovs.management_socket().to_str(), Some("/var/run/openvswitch/br-int.mgmt"));
        assert!(!config.ovs.is_userspace());
    }

    #[test]
    fn a_datapath_that_there_is_not_is_refused_before_the_bridge_gets_it() {
        let of = |text: &str| toml::from_str::<Ovs>(text).map(|ovs| ovs.datapath).map_err(|error| error.message().to_owned());
        assert_eq!(
            [of("datapath = 'netdev'"), of("datapath = 'system'"), of("")],
            [Datapath::Netdev, Datapath::System, Datapath::System].map(Ok)
        );
        assert_eq!(of("datapath = 'netdv'"), Err("unknown variant `netdv`, expected `system` or `netdev`".into()));
    }

    #[test]
    fn where_no_other_node_can_send_to_no_tunnel_ends() {
        for odd in ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            let refused = config("['192.0.2.1:9697']", &format!("['192.0.2.11', '{odd}']")).check();
            assert_eq!(refused, Err(ConfigError::TunnelAddress(odd.parse().unwrap())));
        }
        assert_eq!(config("['192.0.2.1:9697']", "['fe80::1', '2001:db8::11']").check(), Ok(()), "a link may be an underlay");
    }

    #[test]
    fn what_is_no_address_of_a_server_is_refused_by_its_value() {
        for odd in ["http://192.0.2.1:9697", "192.0.2.1", "192.0.2.1:9697/"] {
            let refused = config(&format!("['192.0.2.1:9697', '{odd}']"), "['192.0.2.11']").check();
            assert_eq!(refused, Err(ConfigError::Server(odd.into())));
        }
        let refused = config("['https://user:SEKRIT@192.0.2.1:9697']", "['192.0.2.11']").check();
        assert_eq!(refused, Err(ConfigError::Server("…@192.0.2.1:9697".into())));
        assert_eq!(config("['192.0.2.1:9697']", "[]").check(), Err(ConfigError::NoTunnelAddress));
    }
}
