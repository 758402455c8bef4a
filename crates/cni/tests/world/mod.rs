//! A host and a pod as network namespaces, and a node that answers as a test tells it to.
//!
//! A namespace lives as long as the file that holds it; nothing is mounted and nothing needs to be cleaned up.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use cni::daemon::{Attachment, Reply, Request};
use cni::host_ifname;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A network namespace of its own.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Namespace {
        let opened = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Namespace(opened.join().unwrap())
    }

    /// A path that leads to it as long as this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// What iproute2 says, as JSON.
    pub fn ip(&self, arguments: &str) -> Value {
        let output = self.run(|| Command::new("ip").args(["-j", "-d"]).args(arguments.split(' ')).output().unwrap());
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    pub fn link_names(&self) -> Vec<String> {
        let links = self.ip("link show");
        let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_string());
        names.filter(|name| name != "lo").collect()
    }

    pub fn sysctl(&self, key: &str) -> String {
        self.run(|| std::fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap()).trim().to_string()
    }
}

type Answer = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

/// A node on a unix socket that remembers what it was asked. `None` closes the connection without an answer.
pub struct FakeNode {
    pub asked: Arc<Mutex<Vec<Request>>>,
}

impl FakeNode {
    fn listen(path: &PathBuf, answer: Arc<Answer>) -> FakeNode {
        let listener = UnixListener::bind(path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (heard, answer) = (heard.clone(), answer.clone());
                thread::spawn(move || serve(stream.unwrap(), &heard, &*answer));
            }
        });
        FakeNode { asked }
    }

    pub fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(stream: UnixStream, heard: &Mutex<Vec<Request>>, answer: &Answer) {
    let mut writer = stream.try_clone().unwrap();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let request: Request = serde_json::from_str(&line).unwrap();
        heard.lock().unwrap().push(request.clone());
        let Some(reply) = answer(&request) else { return };
        let mut line = serde_json::to_vec(&reply).unwrap();
        line.push(b'\n');
        if writer.write_all(&line).is_err() {
            return;
        }
    }
}

/// A machine, a pod on it, and perhaps a node.
pub struct World {
    pub host: Namespace,
    pub pod: Namespace,
    pub folder: TempDir,
    pub version: &'static str,
}

impl World {
    pub fn new() -> World {
        World { host: Namespace::new(), pod: Namespace::new(), folder: TempDir::new().unwrap(), version: "1.0.0" }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("cni.sock")
    }

    pub fn node(&self, answer: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> FakeNode {
        FakeNode::listen(&self.socket(), Arc::new(answer))
    }

    pub fn config(&self) -> Value {
        json!({"cniVersion": self.version, "name": "ladon", "type": "ladon-cni", "socket": self.socket(), "logFile": self.folder.path().join("log")})
    }

    /// The plugin, for interface `ifname` of container `container`, not yet started.
    pub fn plugin(&self, command: &str, container: &str, ifname: &str) -> Command {
        let mut plugin = Command::new(env!("CARGO_BIN_EXE_ladon-cni"));
        plugin.env_clear().env("CNI_COMMAND", command).env("CNI_CONTAINERID", container).env("CNI_IFNAME", ifname);
        plugin.env("CNI_NETNS", self.pod.path()).env("CNI_PATH", "/opt/cni/bin");
        plugin.env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u-1");
        plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        plugin
    }

    /// Starts it on the host with `stdin`.
    pub fn start(&self, plugin: &mut Command, stdin: &[u8]) -> Child {
        let mut child = self.host.run(|| plugin.spawn().unwrap());
        // One that needs no configuration may be gone already.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        child
    }

    /// Runs it to its end.
    pub fn run(&self, plugin: &mut Command, stdin: &[u8]) -> Done {
        Done::of(self.start(plugin, stdin).wait_with_output().unwrap())
    }

    pub fn call(&self, command: &str, container: &str, ifname: &str, config: &Value) -> Done {
        self.run(&mut self.plugin(command, container, ifname), config.to_string().as_bytes())
    }

    pub fn add(&self, container: &str, ifname: &str) -> Done {
        self.call("ADD", container, ifname, &self.config())
    }

    pub fn del(&self, container: &str, ifname: &str) -> Done {
        self.call("DEL", container, ifname, &self.config())
    }
}

/// What the plugin left behind.
#[derive(Debug)]
pub struct Done {
    pub is_success: bool,
    pub json: Value,
}

impl Done {
    fn of(output: Output) -> Done {
        let json = if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout).unwrap() };
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        Done { is_success: output.status.success(), json }
    }

    #[track_caller]
    pub fn succeeded(self) -> Value {
        assert!(self.is_success, "{}", self.json);
        self.json
    }

    /// The error's code, and all it says.
    #[track_caller]
    pub fn failed(self) -> (u64, String) {
        assert!(!self.is_success, "{}", self.json);
        let text = |key: &str| self.json[key].as_str().unwrap().to_string();
        (self.json["code"].as_u64().unwrap(), format!("{}: {}", text("msg"), text("details")))
    }
}

/// A port with both families, whose default gateway of IPv4 is in no subnet of the pod.
pub fn prepared(attachment: &Attachment) -> Reply {
    let last = attachment.ifname.bytes().last().unwrap() % 100;
    let prepared = json!({
        "port": "5e0f", "host_ifname": host_ifname(attachment), "mac": format!("0a:00:0a:01:00:{last:02}"), "mtu": 1430,
        "addresses": [{"address": format!("10.1.{last}.5/24"), "gateway": "169.254.1.1"}, {"address": format!("fd00:{last}::5/64"), "gateway": format!("fd00:{last}::1")}],
        "routes": [{"dst": format!("10.96.{last}.0/24"), "gw": "169.254.1.1"}, {"dst": format!("fd96:{last}::/112"), "gw": format!("fd00:{last}::1")}],
        "dns": {"nameservers": ["10.96.0.10"]}, "tx_offload": false,
    });
    Reply::Prepared(serde_json::from_value(prepared).unwrap())
}

/// A node on which everything works.
pub fn willing(request: &Request) -> Option<Reply> {
    Some(match request {
        Request::Prepare { attachment, .. } => prepared(attachment),
        Request::Attach { .. } => Reply::Attached,
        Request::Detach { .. } => Reply::Detached,
        Request::Check { .. } => Reply::Checked,
        Request::Gc { .. } => Reply::Collected { removed: Vec::new() },
        Request::Status => Reply::Ready,
    })
}
