//! A server and a node that answer as a test tells them to, on unix sockets in a folder of their own.

#![allow(dead_code, reason = "each test program uses its share")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use node::control::{Reply, Request};
use serde_json::Value;
use tempfile::TempDir;

/// A request as the server heard it.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Method and path, with the query.
    pub line: String,
    pub token: Option<String>,
    pub body: Value,
}

type ServerAnswer = dyn Fn(&Heard) -> (u16, Value) + Send + Sync;
type NodeAnswer = dyn Fn(&Request) -> Vec<Reply> + Send + Sync;

/// The folder with the sockets.
pub struct World {
    folder: TempDir,
    pub heard: Arc<Mutex<Vec<Heard>>>,
    pub asked: Arc<Mutex<Vec<Request>>>,
}

/// What a command left behind.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    #[track_caller]
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Its message; every failure has three parts.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        for part in ["ladon: ", "\n  traffic: ", "\n  to do:   "] {
            assert!(self.stderr.contains(part), "{}", self.stderr);
        }
        self.stderr
    }
}

impl World {
    pub fn new() -> World {
        World { folder: TempDir::new().unwrap(), heard: Arc::default(), asked: Arc::default() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn server(&self, answer: impl Fn(&Heard) -> (u16, Value) + Send + Sync + 'static) {
        self.server_at("api.sock", answer);
    }

    pub fn server_at(&self, socket: &str, answer: impl Fn(&Heard) -> (u16, Value) + Send + Sync + 'static) {
        let listener = UnixListener::bind(self.path(socket)).unwrap();
        let heard = self.heard.clone();
        let answer: Arc<ServerAnswer> = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (heard, answer) = (heard.clone(), answer.clone());
                thread::spawn(move || serve_http(stream.unwrap(), &heard, &*answer));
            }
        });
    }

    pub fn node(&self, answer: impl Fn(&Request) -> Vec<Reply> + Send + Sync + 'static) {
        let listener = UnixListener::bind(self.path("node.sock")).unwrap();
        let asked = self.asked.clone();
        let answer: Arc<NodeAnswer> = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (asked, answer) = (asked.clone(), answer.clone());
                thread::spawn(move || serve_lines(stream.unwrap(), &asked, &*answer));
            }
        });
    }

    /// What `--api` takes to ask the servers at these sockets.
    pub fn api(&self, sockets: &[&str]) -> String {
        let urls: Vec<String> = sockets.iter().map(|socket| format!("unix:{}", self.path(socket).display())).collect();
        urls.join(",")
    }

    /// `ladon` with its sockets here, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ladon"));
        command.env_clear().args(arguments).stdin(Stdio::null());
        command.env("LADON_API", format!("unix:{}", self.path("api.sock").display())).env("LADON_CONTROL", self.path("node.sock"));
        command
    }

    pub fn ladon(&self, arguments: &[&str]) -> Done {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve_http(stream: UnixStream, heard: &Mutex<Vec<Heard>>, answer: &ServerAnswer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap() == 0 {
            return;
        }
    }
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_string));
    let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_string();
    let request = Heard { line, token: header("x-auth-token"), body: serde_json::from_slice(&body).unwrap_or_default() };
    heard.lock().unwrap().push(request.clone());
    let (status, body) = answer(&request);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let _ = write!(&stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
}

fn serve_lines(stream: UnixStream, asked: &Mutex<Vec<Request>>, answer: &NodeAnswer) {
    let mut writer = stream.try_clone().unwrap();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let request: Request = serde_json::from_str(&line).unwrap();
        asked.lock().unwrap().push(request.clone());
        for reply in answer(&request) {
            let mut line = serde_json::to_vec(&reply).unwrap();
            line.push(b'\n');
            if writer.write_all(&line).is_err() {
                return;
            }
        }
    }
}
