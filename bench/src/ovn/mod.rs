//! OVN of Debian 13 on one host: both databases, `ovn-northd`, one real chassis, and chassis that exist as rows only.
//!
//! The remote chassis are what they would be to the real one: rows of `Chassis` and `Encap` in the southbound database, with every
//! remote port bound and up. A new remote port is bound by this program in the moment in which its `Port_Binding` appears, as its
//! `ovn-controller` would, but without the time that one takes. The layout is `world`'s: switches of equal size on routers,
//! a port group with the usual rules for each, DHCP and port security on every port.

mod acknowledged;
mod layout;
mod machines;
mod policies;
mod services;
mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::debian::{self, Release};

use lab::{Host, Process, Progress, SWITCH_NICE, wait};
use serde_json::{Value, json};

use crate::ovsdb::{Database, only_row, uuid};
use crate::world::{Shape, counted_flows};
pub use acknowledged::Acknowledged;
use layout::Layout;
pub use policies::{Overlapping, Policies};
pub use services::Services;

/// The release of Debian, and what is needed of it.
const SUITE: &str = "trixie";
const PACKAGES: [&str; 3] = ["ovn-central", "ovn-host", "openvswitch-switch"];
/// Open vSwitch's daemon, by its path: links of other names lead to it.
pub const SWITCH: &str = "/usr/lib/openvswitch-switch/ovs-vswitchd";
/// The real chassis.
const CHASSIS: &str = "hv0";
/// How often the switch is asked how many flows it has: asking costs it time.
const LOOK: Duration = Duration::from_millis(100);
/// How long anything may take.
const READY: Duration = Duration::from_secs(600);

/// All of it. Its processes end with it.
pub struct Ovn {
    host: Host,
    release: Release,
    dir: PathBuf,
    layout: Layout,
    north: Database,
    south: Database,
    /// The chassis that exist as rows.
    elsewhere: Vec<Value>,
    shape: Shape,
    /// Further switches, by number.
    more: BTreeMap<usize, Value>,
    processes: Vec<Process>,
}

/// The programs, brought once.
pub fn release(progress: &Progress) -> Result<Release> {
    Ok(debian::release(SUITE, &PACKAGES, progress)?)
}

impl Ovn {
    pub fn start(host: &Host, release: &Release, shape: Shape, progress: &Progress) -> Result<Ovn> {
        progress.during(format!("OVN with {} ports on {} switches and {} routers", shape.ports, shape.networks, shape.routers), || {
            let dir = host.folder("ovn")?;
            let mut processes = Vec::new();
            for (name, schema) in [
                ("nb", "/usr/share/ovn/ovn-nb.ovsschema"),
                ("sb", "/usr/share/ovn/ovn-sb.ovsschema"),
                ("conf", "/usr/share/openvswitch/vswitch.ovsschema"),
            ] {
                processes.push(database(host, release, &dir, name, schema)?);
            }
            let north = Database::connect(&dir.join("nb.sock"), "OVN_Northbound")?;
            let south = Database::connect(&dir.join("sb.sock"), "OVN_Southbound")?;
            let (host, release) = (host.clone(), release.clone());
            let (layout, more) = (Layout::default(), BTreeMap::new());
            let mut ovn = Ovn { host, release, dir, layout, north, south, elsewhere: Vec::new(), shape, more, processes };
            ovn.fill(shape)?;
            Ok(ovn)
        })
    }

    fn fill(&mut self, shape: Shape) -> Result<()> {
        self.north.transact(&[json!({"op": "insert", "table": "NB_Global", "row": {}})])?;
        self.south.transact(&[json!({"op": "insert", "table": "SB_Global", "row": {}})])?;
        let (north, south) = (self.unix("nb.sock"), self.unix("sb.sock"));
        self.spawn("ovn-northd", "/usr/bin/ovn-northd", &[&format!("--ovnnb-db={north}"), &format!("--ovnsb-db={south}")])?;
        self.layout = Layout::load(&mut self.north, shape)?;
        self.settle("sb_cfg")?;
        self.start_chassis(shape)?;
        self.bind_elsewhere(shape)?;
        self.south.monitor(&json!({"Port_Binding": {"columns": ["logical_port"]}}))?;
        let watched = json!({"NB_Global": {"columns": ["hv_cfg"]}, "Logical_Switch_Port": {"columns": ["name", "up"]}});
        self.north.monitor(&watched)?;
        self.settle("hv_cfg")
    }

    /// Open vSwitch and `ovn-controller`, with the local ports plugged.
    fn start_chassis(&mut self, shape: Shape) -> Result<()> {
        let settings = [
            format!("external-ids:system-id={CHASSIS}"),
            format!("external-ids:hostname={CHASSIS}"),
            "external-ids:ovn-encap-type=geneve".into(),
            format!("external-ids:ovn-encap-ip={}", self.host.ipv4()),
            format!("external-ids:ovn-remote=\"{}\"", self.unix("sb.sock")),
            "external-ids:ovn-bridge-datapath-type=netdev".into(),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        self.vsctl(&[&["--no-wait", "init", "--", "set", "Open_vSwitch", "."][..], &settings].concat())?;
        let conf = self.unix("conf.sock");
        self.spawn("ovs-vswitchd", SWITCH, &[&conf])?;
        let bridge = ["add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev", "fail-mode=secure"];
        self.vsctl(&[&bridge[..], &["other-config:disable-in-band=true"]].concat())?;
        for number in shape.local_ports() {
            let (device, port) = (format!("p{number}"), format!("external-ids:iface-id={}", layout::name(number)));
            self.vsctl(&["add-port", "br-int", &device, "--", "set", "interface", &device, "type=internal", &port])?;
        }
        self.spawn("ovn-controller", "/usr/bin/ovn-controller", &[&conf])
    }

    /// The other chassis, with what the real one says that it can do, and every other port on them.
    fn bind_elsewhere(&mut self, shape: Shape) -> Result<()> {
        let find = json!({"op": "select", "table": "Chassis", "where": [["name", "==", CHASSIS]], "columns": ["other_config"]});
        let south = &mut self.south;
        let features = wait::until("the chassis to register", READY, || match south.transact(&[find.clone()]) {
            Ok(answer) => Ok::<_, String>(only_row(&answer[0]).map(|row| row["other_config"].clone())),
            Err(error) => Err(format!("{error:#}")),
        })?;
        let mut operations = Vec::new();
        for number in 0..shape.elsewhere {
            let (name, encap, row) = (format!("rhv{number}"), format!("e{number}"), format!("c{number}"));
            let ip = format!("10.240.{}.{}", number / 250, number % 250 + 1);
            let options = json!(["map", [["csum", "true"]]]);
            let encapsulation = json!({"type": "geneve", "ip": ip, "chassis_name": name, "options": options});
            let chassis = json!({"name": name, "hostname": name, "encaps": ["named-uuid", encap], "other_config": features});
            operations.push(json!({"op": "insert", "table": "Chassis", "uuid-name": row, "row": chassis}));
            operations.push(json!({"op": "insert", "table": "Encap", "uuid-name": encap, "row": encapsulation}));
        }
        let made = self.south.transact(&operations)?;
        self.elsewhere = made.iter().step_by(2).take(shape.elsewhere).map(uuid).collect();
        let local: BTreeSet<usize> = shape.local_ports().collect();
        let bindings: Vec<Value> = (0..shape.ports).filter(|number| !local.contains(number)).map(|number| self.bound(number)).collect();
        for bulk in bindings.chunks(layout::BULK) {
            self.south.transact(bulk)?;
        }
        Ok(())
    }

    /// One more port on another chassis: created in the northbound database, bound as soon as it is in the southbound one.
    pub fn add_remote(&mut self, number: usize) -> Result<()> {
        let name = layout::name(number);
        self.layout.add(&mut self.north, number)?;
        self.south.until(|update| {
            let rows = update["Port_Binding"].as_object().into_iter().flatten();
            rows.into_iter().any(|(_, row)| row["new"]["logical_port"] == name.as_str())
        })?;
        self.south.transact(&[self.bound(number)]).map(drop)
    }

    /// What binds a port to one of the other chassis, in turns.
    fn bound(&self, number: usize) -> Value {
        let row = json!({"chassis": self.elsewhere[number % self.elsewhere.len()], "up": true});
        json!({"op": "update", "table": "Port_Binding", "where": [["logical_port", "==", layout::name(number)]], "row": row})
    }

    /// The port goes.
    pub fn remove(&mut self, number: usize) -> Result<()> {
        self.layout.remove(&mut self.north, number)
    }

    /// Until what was asked for has reached the southbound database (`sb_cfg`) or the chassis' switch (`hv_cfg`). The database is
    /// asked again and again, which does for setting up and for a start; of a change that is measured it tells by itself: [`acknowledged`].
    fn settle(&mut self, column: &str) -> Result<()> {
        self.north.transact(&[acknowledged::bump()])?;
        self.reached(column)
    }

    /// The same for what was asked for before.
    fn reached(&mut self, column: &str) -> Result<()> {
        let look = json!({"op": "select", "table": "NB_Global", "where": [], "columns": ["nb_cfg", column]});
        wait::until(&format!("OVN's {column}"), READY, || {
            let answer = self.north.transact(&[look.clone()]).map_err(|error| format!("{error:#}"))?;
            let row = only_row(&answer[0]).ok_or("no NB_Global")?;
            Ok::<_, String>((row[column].as_i64() >= row["nb_cfg"].as_i64()).then_some(()))
        })?;
        Ok(())
    }

    /// A connection that waits for the chassis.
    pub fn acknowledged(&self) -> Result<Acknowledged> {
        Acknowledged::connect(&self.dir.join("nb.sock"))
    }

    /// The addresses of all ports.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        (0..self.shape.ports).map(|port| layout::ip(self.shape.networks, port)).collect()
    }

    pub fn controller(&self) -> Result<&Process> {
        self.processes.iter().find(|process| process.name().ends_with("ovn-controller")).context("it was started")
    }

    /// Kills `ovn-controller`, and the flows with it if it is to start afresh; from its start until it has acknowledged everything and
    /// there are as many flows as before.
    pub fn restart(&self, is_fresh: bool) -> Result<Duration> {
        let flows = self.flows()?;
        self.controller()?.kill9()?;
        for what in ["del-flows", "del-groups"].into_iter().filter(|_| is_fresh) {
            lab::command::run(self.ofctl().args(["-O", "OpenFlow15", what, &self.unix("br-int.mgmt")]), READY)?.ok()?;
        }
        let mut acknowledged = self.acknowledged()?;
        let began = Instant::now();
        self.controller()?.restart()?;
        acknowledged.change(&[])?;
        while self.flows()? != flows {
            ensure!(began.elapsed() < READY, "after {READY:?} OVN's chassis has {} of {flows} flows", self.flows()?);
            thread::sleep(LOOK);
        }
        Ok(began.elapsed())
    }

    /// `ovs-ofctl` of that release.
    pub fn ofctl(&self) -> Command {
        on(&self.host, self.release.command("/usr/bin/ovs-ofctl"), &self.dir)
    }

    /// Where the sockets of the chassis' switch are.
    pub fn run_dir(&self) -> &Path {
        &self.dir
    }

    /// How many flows the chassis has.
    pub fn flows(&self) -> Result<u64> {
        let said = lab::command::run(self.ofctl().args(["-O", "OpenFlow15", "dump-aggregate", &self.unix("br-int.mgmt")]), READY)?.ok()?;
        counted_flows(&said)
    }

    fn vsctl(&self, args: &[&str]) -> Result<String> {
        let mut vsctl = on(&self.host, self.release.command("/usr/bin/ovs-vsctl"), &self.dir);
        vsctl.arg(format!("--db={}", self.unix("conf.sock"))).arg("--timeout=60").args(args);
        Ok(lab::command::run(&mut vsctl, READY)?.ok()?)
    }

    fn unix(&self, socket: &str) -> String {
        format!("unix:{}", self.dir.join(socket).display())
    }

    fn spawn(&mut self, name: &str, program: &str, args: &[&str]) -> Result<()> {
        let mut command = placed(self.release.command(program), &self.dir);
        command.arg(format!("--unixctl={}", self.dir.join(format!("{name}.ctl")).display())).args(args);
        // OVN's own scripts give its daemons more than Ladon's have: here both have the same, and so have both switches.
        let nice = if program == SWITCH { SWITCH_NICE } else { 0 };
        self.processes.push(self.host.spawn_nice(name, &command, nice)?);
        Ok(())
    }
}

/// An `ovsdb-server` with a new, empty database.
fn database(host: &Host, release: &Release, dir: &Path, name: &str, schema: &str) -> Result<Process> {
    let path = |suffix: &str| dir.join(format!("{name}.{suffix}"));
    let mut tool = on(host, release.command("/usr/bin/ovsdb-tool"), dir);
    tool.arg("create").arg(path("db")).arg(release.path(schema));
    lab::command::run(&mut tool, READY)?.ok()?;
    let mut server = placed(release.command("/usr/sbin/ovsdb-server"), dir);
    server.arg(format!("--remote=punix:{}", path("sock").display())).arg(format!("--unixctl={}", path("ctl").display())).arg(path("db"));
    // The chassis' own database is Open vSwitch's.
    let nice = if name == "conf" { SWITCH_NICE } else { 0 };
    let process = host.spawn_nice(&format!("ovsdb-{name}"), &server, nice)?;
    process.wait_until("ovsdb-server to listen", READY, || Ok(path("sock").exists().then_some(())))?;
    Ok(process)
}

/// The command, with every folder that it would share with the machine's own Open vSwitch in `dir`.
fn placed(mut command: Command, dir: &Path) -> Command {
    for kind in ["OVS", "OVN"] {
        for place in ["RUNDIR", "DBDIR", "LOGDIR", "SYSCONFDIR"] {
            command.env(format!("{kind}_{place}"), dir);
        }
    }
    command
}

/// The same, in the host's network namespace.
fn on(host: &Host, command: Command, dir: &Path) -> Command {
    let mut there = host.command(&command.get_program().to_string_lossy());
    there.args(command.get_args());
    placed(there, dir)
}
