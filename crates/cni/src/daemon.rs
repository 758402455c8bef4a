//! What the plugin and the node say to each other, and the plugin's side of saying it.
//!
//! A unix stream socket; one JSON document per line, a question and its answer in turn. A connection may carry several
//! questions: ADD asks [`Request::Prepare`], makes the interface and asks [`Request::Attach`] on the same one. A connection that
//! closes in between means that the plugin is gone; the runtime will send DEL, so the node keeps what it knows until then.
//!
//! The node's side is the node's. It serves the socket with mode 0600: who may write to it, owns the machine's networking.

use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use model::Mac;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where the node listens for `ladon-cni`.
pub const DEFAULT_SOCKET: &str = "/run/ladon/cni.sock";

/// Longest line either side accepts: room for the valid attachments of 10,000 interfaces. What is longer is cut, and then no question.
pub const LINE_MAX: usize = 4 << 20;

/// How long ADD may take: what waiting for the pod's port left of it is there for its flows. Then the node says what is missing.
pub const ADD_DEADLINE: Duration = Duration::from_secs(30);

/// How long GC may take: it may have to take hundreds of ports off the switch.
const GC_DEADLINE: Duration = Duration::from_secs(60);

/// How long the other questions may take.
const OTHER_DEADLINE: Duration = Duration::from_secs(10);

/// How much longer than the node's deadline the plugin waits for the line that says so.
const GRACE: Duration = Duration::from_secs(3);

/// How long a connection may take to be accepted into the queue of a busy node.
const CONNECT_SECONDS: i64 = 5;

/// An interface of a container: the key of all that the node remembers for the plugin.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container: String,
    pub ifname: String,
}

/// The pod as the runtime names it. A static pod's uid is not its mirror pod's, so the name counts, too.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PodName {
    pub pod_uid: Option<String>,
    pub pod_namespace: String,
    pub pod_name: String,
}

/// The plugin's questions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// What does this pod's interface look like? The node waits, notified, until the port is in its view; after `deadline_ms`
    /// it answers code 11 and what is missing. Answer: [`Reply::Prepared`].
    Prepare {
        #[serde(flatten)]
        attachment: Attachment,
        /// The network configuration's name; GC is about one network.
        network: String,
        /// Path of the pod's network namespace.
        netns: String,
        #[serde(flatten)]
        pod: PodName,
        deadline_ms: u64,
    },
    /// The host's end is there and up: add it to the switch, and answer when the port's flows are in force (barrier).
    /// Answer: [`Reply::Attached`].
    Attach {
        #[serde(flatten)]
        attachment: Attachment,
        host_ifname: String,
        deadline_ms: u64,
    },
    /// The interface goes: take its switch port away and forget the attachment, if there is one. Answer: [`Reply::Detached`].
    Detach {
        #[serde(flatten)]
        attachment: Attachment,
    },
    /// Is the attachment known, its port in the view, its flows in the switch? Answer: [`Reply::Checked`].
    Check {
        #[serde(flatten)]
        attachment: Attachment,
    },
    /// Forget every attachment of `network` that is not in the list. Answer: [`Reply::Collected`].
    Gc { network: String, valid_attachments: Vec<Attachment> },
    /// Can ADD be served? Answer: [`Reply::Ready`], or an error 50 or 51.
    Status,
}

impl Request {
    /// How long the node may take.
    fn deadline(&self) -> Duration {
        match self {
            Request::Prepare { deadline_ms, .. } | Request::Attach { deadline_ms, .. } => Duration::from_millis(*deadline_ms),
            Request::Gc { .. } => GC_DEADLINE,
            Request::Detach { .. } | Request::Check { .. } | Request::Status => OTHER_DEADLINE,
        }
    }
}

/// The node's answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Prepared(Prepared),
    Attached,
    Detached,
    Checked,
    /// The host interfaces of the attachments that were forgotten; the plugin removes the links.
    Collected {
        removed: Vec<String>,
    },
    Ready,
    /// `code` is CNI's ([`crate::error::code`]); `msg` says what happened, `details` what it means and what to do.
    Error {
        code: u32,
        msg: String,
        details: String,
    },
}

/// What a pod's interface has to look like.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Prepared {
    /// The Neutron port's id.
    pub port: String,
    /// The host's end: [`crate::host_ifname`] of the attachment.
    pub host_ifname: String,
    pub mac: Mac,
    pub mtu: u32,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    #[serde(default)]
    pub dns: Dns,
    /// False if the switch's datapath is in userspace: both ends then compute checksums in software.
    pub tx_offload: bool,
}

/// An address with its subnet's prefix length, and the subnet's gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Address {
    pub address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route of the pod; without a gateway the destination is on its link. The shape is CNI's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Route {
    pub dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// Name servers. The shape is CNI's. (kubelet writes pods' resolv.conf itself and ignores this.)
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Dns {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A connection to the node; every call has a deadline.
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    pub fn connect(path: &Path) -> Result<Client> {
        let stream = connect_stream(path).map_err(|source| Error::NodeSilent { socket: path.into(), source })?;
        Ok(Client { path: path.into(), stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer. An error that the node answers with is an error.
    pub fn ask(&mut self, request: &Request) -> Result<Reply> {
        self.send(request)?;
        self.receive(request.deadline())
    }

    /// Asks; [`Client::receive`] fetches the answer. In between the plugin can do something useful.
    pub fn send(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request).expect("a request is plain data");
        line.push(b'\n');
        let stream = self.stream.get_mut();
        stream.set_write_timeout(Some(OTHER_DEADLINE)).and_then(|()| stream.write_all(&line)).map_err(|source| self.silent(source))
    }

    pub fn receive(&mut self, deadline: Duration) -> Result<Reply> {
        let line = self.read_line(Instant::now() + deadline + GRACE).map_err(|source| self.silent(source))?;
        match serde_json::from_slice(&line) {
            Ok(Reply::Error { code, msg, details }) => Err(Error::Node { code, msg, details }),
            Ok(reply) => Ok(reply),
            Err(_) => Err(Error::NodeConfused(excerpt(&line))),
        }
    }

    fn read_line(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.get_ref().set_read_timeout(Some(left))?;
            let chunk = match self.stream.fill_buf() {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted) => continue,
                other => other?,
            };
            if chunk.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection before it answered"));
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(chunk.len(), |end| end + 1);
            line.extend_from_slice(&chunk[..taken]);
            self.stream.consume(taken);
            if end.is_some() {
                return Ok(line);
            }
            if line.len() > LINE_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it answered with a line that does not end"));
            }
        }
    }

    fn silent(&self, source: io::Error) -> Error {
        Error::NodeSilent { socket: self.path.clone(), source }
    }
}

/// std's connect has no deadline, and a full queue of a stopped node would hold it for ever.
fn connect_stream(path: &Path) -> io::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(CONNECT_SECONDS))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}

fn excerpt(line: &[u8]) -> String {
    const SHOWN: usize = 80;
    let text = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
    format!("'{}'", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_is_one_flat_document() {
        let request = Request::Prepare {
            attachment: Attachment { container: "c1".into(), ifname: "eth0".into() },
            network: "ladon".into(),
            netns: "/run/netns/c1".into(),
            pod: PodName { pod_uid: None, pod_namespace: "default".into(), pod_name: "web".into() },
            deadline_ms: 30_000,
        };
        let value = serde_json::to_value(&request).unwrap();
        assert_eq!(
            value,
            json!({"request": "prepare", "containerID": "c1", "ifname": "eth0", "network": "ladon", "netns": "/run/netns/c1",
                   "pod_uid": null, "pod_namespace": "default", "pod_name": "web", "deadline_ms": 30000})
        );
        assert_eq!(serde_json::from_value::<Request>(value).unwrap(), request);
    }

    fn client() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Client { path: "/run/ladon/cni.sock".into(), stream: BufReader::new(ours) }, theirs)
    }

    #[test]
    fn a_line_without_an_end_is_not_read_for_ever() {
        const CHUNK: usize = 1 << 16;
        let (mut client, mut node) = client();
        let writer = std::thread::spawn(move || (0..).take_while(|_| node.write_all(&[b'x'; CHUNK]).is_ok()).count() * CHUNK);
        let silent = client.receive(Duration::from_secs(120)).unwrap_err();
        assert!(matches!(&silent, Error::NodeSilent { source, .. } if source.kind() == io::ErrorKind::InvalidData), "{silent}");
        drop(client);
        let written = writer.join().unwrap();
        assert!(written >= LINE_MAX && written < 2 * LINE_MAX, "{written} bytes");
    }

    #[test]
    fn a_node_that_is_silent_is_given_a_little_more_than_its_deadline() {
        let (mut client, _node) = client();
        let begun = Instant::now();
        let silent = client.receive(Duration::ZERO).unwrap_err();
        assert!(matches!(&silent, Error::NodeSilent { source, .. } if source.kind() == io::ErrorKind::TimedOut), "{silent}");
        assert!(begun.elapsed() >= GRACE);
    }

    /// The kernel keeps a socket's deadlines, so that nobody has to wait for them.
    #[test]
    fn every_question_has_its_deadline() {
        let attachment = || Attachment { container: "c1".into(), ifname: "eth0".into() };
        let gc = Request::Gc { network: "ladon".into(), valid_attachments: Vec::new() };
        let attach = Request::Attach { attachment: attachment(), host_ifname: "lad1".into(), deadline_ms: 7_000 };
        let others = [Request::Detach { attachment: attachment() }, Request::Check { attachment: attachment() }, Request::Status];
        let others = others.map(|request| (request, OTHER_DEADLINE));
        for (request, deadline) in others.into_iter().chain([(gc, GC_DEADLINE), (attach, Duration::from_secs(7))]) {
            let (mut client, mut node) = client();
            node.write_all(b"{\"reply\":\"ready\"}\n").unwrap();
            assert_eq!(client.ask(&request).unwrap(), Reply::Ready);
            let socket = client.stream.get_ref();
            assert_eq!(socket.write_timeout().unwrap(), Some(OTHER_DEADLINE));
            let waited = socket.read_timeout().unwrap().unwrap();
            assert!(waited > deadline && waited <= deadline + GRACE, "{request:?} has {waited:?}");
        }
    }

    #[test]
    fn every_reply_reads_back() {
        for reply in [
            Reply::Attached,
            Reply::Detached,
            Reply::Checked,
            Reply::Ready,
            Reply::Collected { removed: vec!["lad1".into()] },
            Reply::Error { code: 11, msg: "m".into(), details: "d".into() },
        ] {
            let text = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply);
        }
    }
}
