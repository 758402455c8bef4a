//! A real ovsdb-server and ovs-vswitchd in a directory of their own, gone with the value: with a dummy datapath, which needs
//! no root and no devices, or with the userspace datapath in a network namespace.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// How long anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// One Open vSwitch.
pub struct DummyOvs {
    dir: TempDir,
    server: Option<Child>,
    vswitchd: Option<Child>,
    /// Where ovs-vswitchd finds devices; `None` for dummies.
    namespace: Option<String>,
}

impl DummyOvs {
    /// Both daemons, ready for bridges.
    pub fn start() -> Self {
        let mut ovs = DummyOvs::without_vswitchd();
        ovs.start_vswitchd();
        ovs
    }

    /// Both daemons, with the userspace datapath and the devices of a network namespace.
    pub fn with_devices_of(namespace: &str) -> Self {
        let mut ovs = DummyOvs::without_vswitchd();
        ovs.namespace = Some(namespace.to_owned());
        ovs.start_vswitchd();
        ovs
    }

    /// A database that no ovs-vswitchd looks at.
    pub fn without_vswitchd() -> Self {
        let dir = TempDir::with_prefix(format!("ladon-ovs-{}-", std::process::id())).unwrap();
        let mut ovs = DummyOvs { dir, server: None, vswitchd: None, namespace: None };
        run(Command::new("ovsdb-tool").arg("create").arg(ovs.path("conf.db")).arg(SCHEMA));
        ovs.start_server();
        ovs.vsctl(&["--no-wait", "init"]);
        ovs
    }

    /// A file or socket in the daemons' directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// ovsdb-server's socket.
    pub fn socket(&self) -> PathBuf {
        self.path("db.sock")
    }

    pub fn start_server(&mut self) {
        let mut command = self.command("ovsdb-server");
        command
            .arg(self.path("conf.db"))
            .arg(format!("--remote=punix:{}", self.socket().display()))
            .arg(format!("--unixctl={}", self.path("server.ctl").display()))
            .arg(format!("--log-file={}", self.path("server.log").display()));
        self.server = Some(spawn(command));
        let socket = self.socket();
        wait_until("ovsdb-server listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    }

    /// SIGKILL, as a crash would.
    pub fn kill_server(&mut self) {
        end(self.server.take());
    }

    pub fn start_vswitchd(&mut self) {
        let mut command = match &self.namespace {
            None => self.command("ovs-vswitchd"),
            Some(namespace) => {
                let mut command = self.command("ip");
                command.args(["netns", "exec", namespace, "ovs-vswitchd"]);
                command
            }
        };
        if self.namespace.is_none() {
            command.arg("--enable-dummy=override");
        }
        command
            .args(["--disable-system", "--no-chdir"])
            .arg(format!("--unixctl={}", self.path("vswitchd.ctl").display()))
            .arg(format!("--pidfile={}", self.path("vswitchd.pid").display()))
            .arg(format!("--log-file={}", self.path("vswitchd.log").display()))
            .arg(format!("unix:{}", self.socket().display()));
        self.vswitchd = Some(spawn(command));
    }

    pub fn kill_vswitchd(&mut self) {
        end(self.vswitchd.take());
    }

    /// Runs `ovs-vsctl`; its output without white space at the ends.
    pub fn vsctl(&self, args: &[&str]) -> String {
        let database = format!("--db=unix:{}", self.socket().display());
        run(self.command("ovs-vsctl").arg(database).args(args))
    }

    /// Runs `ovs-ofctl` in OpenFlow 1.5.
    pub fn ofctl(&self, args: &[&str]) -> String {
        run(self.command("ovs-ofctl").args(["-O", "OpenFlow15"]).args(args))
    }

    /// Changes the database while no server runs.
    pub fn transact_on_file(&self, transaction: &str) {
        assert!(self.server.is_none());
        run(Command::new("ovsdb-tool").arg("transact").arg(self.path("conf.db")).arg(transaction));
    }

    /// A command that finds these daemons and no others.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_SYSCONFDIR", "OVS_LOGDIR"] {
            command.env(variable, self.dir.path());
        }
        command
    }
}

impl Drop for DummyOvs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_log(&self.path("vswitchd.log"));
        }
        self.kill_vswitchd();
        self.kill_server();
    }
}

fn show_log(path: &Path) {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    eprintln!("the end of {}:\n{}", path.display(), lines[lines.len().saturating_sub(20)..].join("\n"));
}

fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Runs a command that must succeed; its output without white space at the ends.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Waits for a condition that no event announces.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "waited too long until {what}");
        std::thread::yield_now();
    }
}
