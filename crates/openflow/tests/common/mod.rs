//! A real Open vSwitch for tests: its own database, its own directories, a dummy datapath, no root datapath touched.

#![allow(dead_code)] // Each test program uses a part of this.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use openflow::{
    BUNDLE_ATOMIC, BUNDLE_ORDERED, BundleControl, BundleControlKind, ErrorMessage, Hello, InstalledFlow, InstalledGroup, Message,
    MultipartBody, MultipartRequest, Reassembly, Xid, decode, frame_len,
};

const DEADLINE: Duration = Duration::from_secs(120);
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// One ovsdb-server and one ovs-vswitchd with one bridge; both end with the value.
pub struct DummyOvs {
    pub dir: PathBuf,
    bridge: &'static str,
    children: Vec<Child>,
}

impl DummyOvs {
    /// Starts the switch and makes the bridge `br0`, which forwards nothing by itself.
    pub fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ladon-openflow-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut ovs = DummyOvs { dir, bridge: "br0", children: vec![] };
        ovs.launch();
        ovs
    }

    fn launch(&mut self) {
        let (db, sock) = (self.dir.join("conf.db"), self.dir.join("db.sock"));
        run(self.command("ovsdb-tool").arg("create").arg(&db).arg(SCHEMA));
        let server = self
            .command("ovsdb-server")
            .arg(&db)
            .arg(format!("--remote=punix:{}", sock.display()))
            .arg(format!("--unixctl={}", self.dir.join("ovsdb.ctl").display()))
            .spawn()
            .unwrap();
        self.children.push(server);
        wait_for("the database's socket", || UnixStream::connect(&sock).is_ok());
        self.vsctl(&["--no-wait", "init"]);
        self.launch_switch();
        let bridge = self.bridge;
        let settings = ["datapath-type=dummy", "fail-mode=secure", "protocols=OpenFlow15"];
        let mut arguments = vec!["add-br", bridge, "--", "set", "bridge", bridge];
        arguments.extend(settings);
        self.vsctl(&arguments);
        wait_for("the bridge's socket", || UnixStream::connect(self.socket()).is_ok());
    }

    fn launch_switch(&mut self) {
        let switch = self
            .command("ovs-vswitchd")
            .arg(format!("unix:{}", self.dir.join("db.sock").display()))
            .args(["--enable-dummy=override", "--disable-system"])
            .arg(format!("--unixctl={}", self.dir.join("vswitchd.ctl").display()))
            .spawn()
            .unwrap();
        self.children.push(switch);
    }

    /// Kills ovs-vswitchd and starts it anew; its flows are gone.
    pub fn restart_switch(&mut self) {
        let mut switch = self.children.pop().expect("the switch was started last");
        switch.kill().unwrap();
        switch.wait().unwrap();
        self.launch_switch();
        wait_for("the bridge's socket", || UnixStream::connect(self.socket()).is_ok());
    }

    /// A program with this switch's directories, quiet.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for name in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(name, &self.dir);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The bridge's OpenFlow management socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(format!("{}.mgmt", self.bridge))
    }

    pub fn vsctl(&self, arguments: &[&str]) -> String {
        let db = format!("--db=unix:{}", self.dir.join("db.sock").display());
        let output = self.command("ovs-vsctl").arg(db).args(arguments).stdout(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "ovs-vsctl {arguments:?} failed");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn appctl(&self, arguments: &[&str]) -> String {
        let target = self.dir.join("vswitchd.ctl");
        let mut command = self.command("ovs-appctl");
        let output = command.arg("-t").arg(target).args(arguments).stdout(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "ovs-appctl {arguments:?} failed");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `ovs-ofctl -O OpenFlow15 --no-names VERB SOCKET …` prints.
    pub fn ofctl(&self, verb: &str, arguments: &[&str]) -> String {
        let socket = format!("unix:{}", self.socket().display());
        ofctl(&[&["-O", "OpenFlow15", "--no-names", verb, &socket], arguments].concat())
    }

    /// Adds a port without a peer.
    pub fn add_port(&self, name: &str, number: u16) {
        let request = format!("ofport_request={number}");
        self.vsctl(&["add-port", self.bridge, name, "--", "set", "interface", name, "type=dummy", &request]);
    }

    /// A connection after the handshake.
    pub fn connect(&self) -> Client {
        Client::connect(&self.socket())
    }
}

impl Drop for DummyOvs {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?} failed");
}

/// Runs `ovs-ofctl` and returns what it prints.
pub fn ofctl(arguments: &[&str]) -> String {
    let output: Output = Command::new("ovs-ofctl").args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "ovs-ofctl {arguments:?}: {err}{out}");
    out.into_owned()
}

/// Waits for a condition; panics after the deadline.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A blocking OpenFlow connection.
pub struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    next_xid: Xid,
}

impl Client {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut client = Client { stream, received: vec![], next_xid: 1 };
        client.send(&Message::Hello(Hello::ours()));
        let (hello, _) = client.receive();
        assert!(matches!(hello, Message::Hello(hello) if hello.speaks_15()));
        client
    }

    /// Sends a message and returns its transaction id.
    pub fn send(&mut self, message: &Message) -> Xid {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.stream.write_all(&message.to_bytes(xid).unwrap()).unwrap();
        xid
    }

    pub fn receive(&mut self) -> (Message, Xid) {
        loop {
            if let Some(length) = frame_len(&self.received).unwrap().filter(|length| *length <= self.received.len()) {
                let bytes: Vec<u8> = self.received.drain(..length).collect();
                match decode(&bytes).unwrap() {
                    (Message::EchoRequest(data), xid) => {
                        self.stream.write_all(&Message::EchoReply(data).to_bytes(xid).unwrap()).unwrap();
                    }
                    other => return other,
                }
                continue;
            }
            let mut chunk = [0; 65_536];
            // A machine that stands still for a moment interrupts a read that has a time-out (signal(7)).
            let count = match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read.unwrap(),
            };
            assert!(count > 0, "the switch closed the connection");
            self.received.extend_from_slice(&chunk[..count]);
        }
    }

    /// Sends a question and returns its answer; other messages in between are dropped.
    pub fn ask(&mut self, message: &Message) -> Message {
        let xid = self.send(message);
        loop {
            let (answer, answered) = self.receive();
            if answered == xid {
                return answer;
            }
        }
    }

    /// Sends messages, then a barrier; the errors that came, each with the index of its message.
    pub fn try_all(&mut self, messages: &[Message]) -> Vec<(usize, ErrorMessage)> {
        let xids: Vec<_> = messages.iter().map(|message| self.send(message)).collect();
        let barrier = self.send(&Message::BarrierRequest);
        let mut errors = Vec::new();
        loop {
            match self.receive() {
                (Message::BarrierReply, xid) if xid == barrier => return errors,
                (Message::Error(error), xid) => {
                    let index = xids.iter().position(|sent| *sent == xid).expect("an error of our own message");
                    errors.push((index, error));
                }
                _ => {}
            }
        }
    }

    /// Commits messages as one atomic, ordered bundle.
    pub fn bundle(&mut self, messages: Vec<Message>) {
        let flags = BUNDLE_ATOMIC | BUNDLE_ORDERED;
        let control = |kind| Message::BundleControl(BundleControl { bundle: 7, kind, flags });
        let opened = self.ask(&control(BundleControlKind::OpenRequest));
        assert!(matches!(opened, Message::BundleControl(_)), "{opened:?}");
        let adds: Vec<_> =
            messages.into_iter().map(|message| Message::BundleAdd { bundle: 7, flags, message: Box::new(message) }).collect();
        let errors = self.try_all(&adds);
        let named: Vec<_> = errors.iter().map(|(index, error)| format!("{error}: {:?}", adds[*index])).collect();
        assert!(named.is_empty(), "{named:#?}");
        let committed = self.ask(&control(BundleControlKind::CommitRequest));
        assert!(matches!(committed, Message::BundleControl(_)), "{committed:?}");
    }

    pub fn multipart(&mut self, request: MultipartRequest) -> MultipartBody {
        let xid = self.send(&Message::MultipartRequest(request));
        let mut parts = Reassembly::default();
        loop {
            match self.receive() {
                (Message::MultipartReply(part), answered) if answered == xid => {
                    if let Some(body) = parts.add(part).unwrap() {
                        return body;
                    }
                }
                (Message::Error(error), answered) if answered == xid => panic!("{error}"),
                _ => {}
            }
        }
    }

    pub fn flows(&mut self) -> Vec<InstalledFlow> {
        match self.multipart(MultipartRequest::all_flows()) {
            MultipartBody::Flows(flows) => flows,
            other => panic!("{other:?}"),
        }
    }

    pub fn groups(&mut self) -> Vec<InstalledGroup> {
        match self.multipart(MultipartRequest::all_groups()) {
            MultipartBody::Groups(groups) => groups,
            other => panic!("{other:?}"),
        }
    }
}
