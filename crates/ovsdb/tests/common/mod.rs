//! A real ovsdb-server of its own directory, and a blocking client that speaks through the crate.

use ovsdb::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const DEADLINE: Duration = Duration::from_secs(120);

/// A server that ends with the value.
pub struct Server {
    dir: TempDir,
    child: Child,
}

impl Server {
    /// A standalone database, as every Open vSwitch has.
    pub fn standalone() -> Self {
        let dir = TempDir::with_prefix("ovsdb-").unwrap();
        tool(&["create", path(&dir, "conf.db").to_str().unwrap(), SCHEMA]);
        let child = spawn(dir.path());
        Server { dir, child }.ready()
    }

    /// A clustered database of one server, which remembers transactions.
    pub fn clustered() -> Self {
        let dir = TempDir::with_prefix("ovsdb-").unwrap();
        let raft = format!("unix:{}", path(&dir, "raft.sock").display());
        tool(&["create-cluster", path(&dir, "conf.db").to_str().unwrap(), SCHEMA, &raft]);
        let child = spawn(dir.path());
        Server { dir, child }.ready()
    }

    pub fn socket(&self) -> PathBuf {
        path(&self.dir, "db.sock")
    }

    fn ready(self) -> Self {
        let start = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            assert!(start.elapsed() < DEADLINE, "ovsdb-server does not listen");
            std::thread::yield_now();
        }
        self
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}

fn tool(args: &[&str]) {
    assert!(Command::new("ovsdb-tool").args(args).status().unwrap().success());
}

fn spawn(dir: &Path) -> Child {
    let socket = dir.join("db.sock");
    Command::new("ovsdb-server")
        .arg(dir.join("conf.db"))
        .arg(format!("--remote=punix:{}", socket.display()))
        .arg(format!("--unixctl={}", dir.join("ctl").display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// One connection. Notifications that come while it waits for an answer are kept.
pub struct Client {
    stream: UnixStream,
    framer: Framer,
    id: u64,
    pub updates: Vec<Update>,
}

impl Client {
    pub fn connect(server: &Server) -> Self {
        let stream = UnixStream::connect(server.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client { stream, framer: Framer::default(), id: 0, updates: Vec::new() }
    }

    pub fn schema(&mut self) -> Schema {
        Schema::decode(&self.ask(call::get_schema(1, "Open_vSwitch")).unwrap()).unwrap()
    }

    pub fn transact(&mut self, operations: Vec<Operation>) -> Result<Vec<Outcome>, TransactionError> {
        self.id += 1;
        let transaction = Transaction::new("Open_vSwitch", operations);
        let reply = self.ask(transaction.request(self.id));
        transaction.outcomes(reply)
    }

    pub fn ask(&mut self, request: Message) -> Result<Json, Json> {
        self.send(&request);
        let Message::Request { id: asked, .. } = request else { panic!("not a request") };
        loop {
            match self.message() {
                Message::Response { id, result } if id == asked => return result,
                other => self.updates.extend(Update::from_message(other).unwrap()),
            }
        }
    }

    /// The next update, kept or new.
    pub fn update(&mut self) -> Update {
        while self.updates.is_empty() {
            let message = self.message();
            self.updates.extend(Update::from_message(message).unwrap());
        }
        self.updates.remove(0)
    }

    fn send(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    fn message(&mut self) -> Message {
        loop {
            if let Some(bytes) = self.framer.next_message().unwrap() {
                let message = Message::decode(bytes).unwrap();
                let Some(reply) = message.echo_reply() else {
                    return message;
                };
                self.send(&reply);
                continue;
            }
            let mut chunk = [0; 4096];
            // A machine that stands still for a moment interrupts a read that has a time-out (signal(7)).
            let count = match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read.unwrap(),
            };
            assert!(count > 0, "the server hung up");
            self.framer.push(&chunk[..count]);
        }
    }
}
