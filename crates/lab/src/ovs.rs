//! Open vSwitch on one host: its own database server and switch daemon, and the underlay bridge `br-phy`.
//!
//! The datapath is the userspace one, because then nothing depends on the machine's kernel. All the host's own underlay
//! traffic passes through `br-phy`: its internal port carries the addresses, `eth0` is an ordinary port. The kernel still
//! sees what arrives on `eth0`, so it is told not to answer there; otherwise every packet would be handled twice.
//! The integration bridge is not made here: that is the controller's business.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::command::{self, TOOL};
use crate::debian::Release;
use crate::error::{LabError, Result};
use crate::host::{Host, offloads_off};
use crate::lab::Lab;
use crate::process::Process;
use crate::wait;

/// The bridge between the host and the underlay.
pub const BRIDGE: &str = "br-phy";
/// The database schema that the package brings.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// The daemons, by their paths: links of other names lead to them.
const SERVER: &str = "/usr/sbin/ovsdb-server";
/// The nice value of Open vSwitch's daemons in their own start script (`ovs-ctl`).
pub const NICE: i32 = -10;
const SWITCH: &str = "/usr/lib/openvswitch-switch/ovs-vswitchd";
/// How long a daemon may take to answer after it was started.
const READY: Duration = Duration::from_secs(120);

/// The switch of one host.
pub struct Ovs {
    host: Host,
    dir: PathBuf,
    switch: Process,
    database: Process,
    has_underlay: bool,
}

impl Ovs {
    /// Start both daemons and put the host's underlay addresses on `br-phy`.
    pub fn start(host: &Host) -> Result<Ovs> {
        Self::start_of(None, host)
    }

    /// The same with the daemons of another Debian release; the tools stay this machine's.
    pub fn start_of(release: Option<&Release>, host: &Host) -> Result<Ovs> {
        let mut ovs = Self::daemons(release, host)?;
        ovs.has_underlay = true;
        ovs.make_underlay()?;
        host.lab().record(|state| {
            if let Some(record) = state.hosts.get_mut(host.name()) {
                record.has_switch = true;
            }
        })?;
        Ok(ovs)
    }

    /// Start both daemons and make no bridge: the host's addresses stay on `eth0`.
    pub fn bare(host: &Host) -> Result<Ovs> {
        Self::daemons(None, host)
    }

    fn daemons(release: Option<&Release>, host: &Host) -> Result<Ovs> {
        let program = |path: &str| release.map_or_else(|| Command::new(path), |release| release.command(path));
        let schema = release.map_or_else(|| SCHEMA.into(), |release| release.path(SCHEMA));
        let dir = host.folder("ovs")?;
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        command::tool("ovsdb-tool", &["create", &path("conf.db"), &schema.to_string_lossy()])?;
        let database = host.spawn_nice(
            "ovsdb-server",
            program(SERVER).envs(places(&dir)).args([
                path("conf.db"),
                format!("--remote=punix:{}", path("db.sock")),
                format!("--unixctl={}", path("ovsdb-server.ctl")),
                "-vconsole:info".into(),
                "-vsyslog:off".into(),
            ]),
            NICE,
        )?;
        // The socket's file is there a moment before anybody listens.
        let listens = || UnixStream::connect(dir.join("db.sock")).map(|_| Some(())).map_err(|error| error.to_string());
        database.wait_until("ovsdb-server to listen", READY, listens)?;
        let switch = host.spawn_nice(
            "ovs-vswitchd",
            program(SWITCH).envs(places(&dir)).args([
                format!("unix:{}", path("db.sock")),
                format!("--unixctl={}", path("ovs-vswitchd.ctl")),
                "-vconsole:info".into(),
                "-vsyslog:off".into(),
            ]),
            NICE,
        )?;
        let ovs = Ovs { host: host.clone(), dir, switch, database, has_underlay: false };
        ovs.vsctl(&["--no-wait", "init", "--", "set", "Open_vSwitch", ".", &system_id(host)])?;
        ovs.wait_for_switch()?;
        Ok(ovs)
    }

    fn make_underlay(&self) -> Result<()> {
        self.host.netns().sysctl(&[
            ("net/ipv4/conf/eth0/rp_filter", "1"),
            ("net/ipv4/conf/eth0/arp_ignore", "8"),
            ("net/ipv6/conf/eth0/disable_ipv6", "1"),
        ])?;
        self.host.netns().ip(&["address flush dev eth0".into()])?;
        let own_mac = format!("other-config:hwaddr=\"{}\"", self.mac());
        let add = ["--may-exist", "add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=netdev"];
        let set = ["fail-mode=standalone", "other-config:disable-in-band=true", &own_mac];
        self.vsctl(&[&add[..], &set[..], &["--", "--may-exist", "add-port", BRIDGE, "eth0"]].concat())?;
        self.address_underlay()
    }

    /// The MAC of `br-phy`: not that of `eth0`, or the kernel would take what arrives there for its own.
    fn mac(&self) -> String {
        format!("02:00:c0:00:02:{:02x}", self.host.number())
    }

    /// The internal port is a device that vswitchd makes: it comes back without addresses after a restart. It has its MAC a
    /// moment later; an ARP request sent before would teach the neighbours a wrong one.
    fn address_underlay(&self) -> Result<()> {
        let netns = self.host.netns();
        let ports = ["LOCAL(br-phy)".to_owned(), "(eth0)".to_owned(), self.mac()];
        self.switch.wait_until("br-phy to be complete", READY, || {
            let shown = self.ofctl(&["show", BRIDGE]).map_err(|error| error.to_string())?;
            let device = netns.tool("ip", &["-brief", "link", "show", BRIDGE]).map_err(|error| error.to_string())?;
            let is_complete = ports.iter().all(|port| shown.contains(port)) && device.contains(&self.mac());
            if is_complete { Ok(Some(())) } else { Err(format!("{device}{shown}")) }
        })?;
        offloads_off(netns, BRIDGE)?;
        let mut lines = vec![format!("link set {BRIDGE} up")];
        lines.extend(self.host.addressing(BRIDGE));
        netns.ip(&lines)
    }

    fn wait_for_switch(&self) -> Result<()> {
        self.switch
            .wait_until("ovs-vswitchd to answer", READY, || self.appctl(&["version"]).map(Some).map_err(|error| error.to_string()))?;
        self.vsctl(&["show"]).map(drop)
    }

    /// The switch of a host of an adopted lab.
    pub fn adopt(lab: &Lab, host: &Host) -> Result<Ovs> {
        let part = |name: &str| {
            let name = format!("{}-{name}", host.name());
            lab.process(&name).ok_or_else(|| LabError::Unfit(format!("the lab has no process {name}")))
        };
        let (switch, database) = (part("ovs-vswitchd")?, part("ovsdb-server")?);
        let has_underlay = lab.shared().state().hosts.get(host.name()).is_some_and(|record| record.has_switch);
        Ok(Ovs { host: host.clone(), dir: host.folder("ovs")?, switch, database, has_underlay })
    }

    /// The host that it is on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The folder of its sockets, which is also `OVS_RUNDIR`.
    pub fn run_dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// The database's socket, as `unix:PATH` names it.
    pub fn db_sock(&self) -> PathBuf {
        self.dir.join("db.sock")
    }

    /// The control socket of ovs-vswitchd.
    pub fn switch_ctl(&self) -> PathBuf {
        self.dir.join("ovs-vswitchd.ctl")
    }

    /// The OpenFlow socket of a bridge.
    pub fn bridge_mgmt(&self, bridge: &str) -> PathBuf {
        self.dir.join(format!("{bridge}.mgmt"))
    }

    /// The daemon that forwards.
    pub fn switch(&self) -> &Process {
        &self.switch
    }

    /// The daemon that holds the configuration.
    pub fn database(&self) -> &Process {
        &self.database
    }

    /// Start ovs-vswitchd again, killing it first if it runs, and restore what a host's own set-up restores: the addresses
    /// on `br-phy`. Flows are the controller's business.
    pub fn restart_switch(&self) -> Result<()> {
        self.switch.restart()?;
        self.wait_for_switch()?;
        if self.has_underlay { self.address_underlay() } else { Ok(()) }
    }

    /// Start ovsdb-server again, killing it first if it runs.
    pub fn restart_database(&self) -> Result<()> {
        self.database.restart()?;
        self.database.wait_until("ovsdb-server to answer", READY, || {
            self.vsctl(&["--no-wait", "show"]).map(Some).map_err(|error| error.to_string())
        })?;
        Ok(())
    }

    /// Run `ovs-vsctl` and give what it printed.
    pub fn vsctl(&self, args: &[&str]) -> Result<String> {
        let database = format!("--db=unix:{}", self.db_sock().display());
        self.tool("ovs-vsctl", &[&[database.as_str(), "--timeout=20"], args].concat())
    }

    /// Run `ovs-ofctl` for OpenFlow 1.5, with a bridge's name among the arguments.
    pub fn ofctl(&self, args: &[&str]) -> Result<String> {
        self.tool("ovs-ofctl", &[&["-O", "OpenFlow15"], args].concat())
    }

    /// Run `ovs-appctl` against ovs-vswitchd.
    pub fn appctl(&self, args: &[&str]) -> Result<String> {
        let socket = self.switch_ctl().to_string_lossy().into_owned();
        self.tool("ovs-appctl", &[&["--timeout=20", "-t", socket.as_str()], args].concat())
    }

    fn tool(&self, program: &str, args: &[&str]) -> Result<String> {
        command::run(self.host.command(program).envs(places(&self.dir)).args(args), TOOL)?.ok()
    }

    /// Plug a device into a bridge as Nova and libvirt do: the switch learns the port's and the server's id, nothing else.
    pub fn plug_like_nova(&self, bridge: &str, device: &str, port_id: &str, mac: &str, server_id: &str) -> Result<()> {
        let ids = [
            format!("external_ids:iface-id=\"{port_id}\""),
            format!("external_ids:attached-mac=\"{mac}\""),
            "external_ids:iface-status=active".into(),
            format!("external_ids:vm-uuid=\"{server_id}\""),
        ];
        let mut args = vec!["--may-exist", "add-port", bridge, device, "--", "set", "Interface", device];
        args.extend(ids.iter().map(String::as_str));
        self.vsctl(&args)?;
        self.wait_for_ofport(device)
    }

    /// Wait until the switch has given the device a port number.
    pub fn wait_for_ofport(&self, device: &str) -> Result<()> {
        wait::until(&format!("{device} to become a port"), READY, || {
            let number = self.vsctl(&["get", "Interface", device, "ofport"]).map_err(|error| error.to_string())?;
            match number.trim().parse::<i32>() {
                Ok(1..) => Ok(Some(())),
                _ => Err(format!("ofport {}", number.trim())),
            }
        })
    }

    /// Take a device out of its bridge.
    pub fn unplug(&self, device: &str) -> Result<()> {
        self.vsctl(&["--if-exists", "del-port", device]).map(drop)
    }
}

fn system_id(host: &Host) -> String {
    format!("external_ids:system-id={}", host.name())
}

/// Every folder that Open vSwitch would otherwise share with the machine's own.
fn places(dir: &std::path::Path) -> [(&'static str, PathBuf); 4] {
    ["OVS_RUNDIR", "OVS_DBDIR", "OVS_SYSCONFDIR", "OVS_LOGDIR"].map(|name| (name, dir.to_owned()))
}
