//! What is said over the control socket: plain data, one JSON document per line.
//!
//! A unix stream socket, `/run/ladon/node.sock`, mode 0600: who may write to it owns the machine's networking. Questions are
//! answered in order, one line each; only [`Request::Flows`] is answered with several lines, of which the last says so.
//!
//! `Plug` is state and not a command: the node writes the request to its state directory before it answers, and from then on
//! makes the interface whenever it is missing (after a reboot, say), until `Unplug`. The MAC, MTU, addresses and routes are the
//! port's in the node's view, and follow it when it changes.

use ipnet::IpNet;
use model::{Mac, NodeName, PortId, Revision};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Where the node listens for the operator's command.
pub const DEFAULT_SOCKET: &str = "/run/ladon/node.sock";

/// Longest line either side accepts.
pub const LINE_MAX: usize = 4 << 20;

/// How many flows one line carries at most.
pub const FLOWS_PER_LINE: usize = 1_000;

/// The names that [`Request::Flows`] takes for a table.
pub fn table_names() -> impl Iterator<Item = &'static str> {
    pipeline::Table::ALL.iter().map(|table| table.name())
}

/// The operator's questions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Who are you, and how do you do? Answer: [`Reply::Status`].
    Status,
    /// The flows that should be, in names. Answer: [`Reply::Flows`], as often as needed.
    Flows {
        /// Only those of the table of this name; case does not matter.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        table: Option<String>,
        /// Only those that are there because of an object with this kind, name or id (or the beginning of an id), or because of a part of
        /// an object with this name or id: a group's rules, the listeners of a load balancer or of a pool.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        object: Option<String>,
        /// Ask the switch for packet counts, too.
        #[serde(default)]
        with_packets: bool,
    },
    /// Make an interface of this machine that is the port `port`, and keep it. The same request again changes nothing.
    /// Waits for the port to be in the view and for its flows. Answer: [`Reply::Plugged`].
    Plug(PlugRequest),
    /// Take away the interface of that name, or of the port with that id, and forget it. One that is not there is an error that
    /// lists those that are. Answer: [`Reply::Unplugged`].
    Unplug { interface_or_port: String },
    /// The interfaces that `Plug` made. Answer: [`Reply::Interfaces`].
    Interfaces,
}

/// An interface of this machine that should be a port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlugRequest {
    /// The interface's name, 1 to 15 bytes.
    pub interface: String,
    pub port: PortId,
    /// The node routes the port's own subnets, what its router leads to and the subnets' host routes through the interface;
    /// a default route only if this is set.
    #[serde(default)]
    pub default_route: bool,
    /// Prefixes to route through the subnet's gateway besides.
    #[serde(default)]
    pub routes: Vec<IpNet>,
    /// How long to wait for the view and the flows, in milliseconds.
    pub deadline_ms: u64,
}

/// The node's answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Status(Status),
    /// At most [`FLOWS_PER_LINE`] flows, ordered by table, then priority (highest first), then match.
    Flows {
        flows: Vec<FlowLine>,
        is_last: bool,
        /// False while ovs-vswitchd is away, or back and not made equal to the view yet: these are the flows that should be.
        #[serde(default = "yes")]
        is_in_force: bool,
        /// True while the node has not compared the switch with a complete view since it started: the switch goes on with what it has.
        #[serde(default)]
        is_starting: bool,
    },
    Plugged(PluggedInterface),
    Unplugged {
        interface: String,
        port: PortId,
    },
    Interfaces {
        interfaces: Vec<PluggedInterface>,
    },
    /// In the three parts that every message to an operator has.
    Error {
        what_happened: String,
        what_it_means: String,
        what_to_do: String,
    },
}

/// What nodes that do not say it mean.
fn yes() -> bool {
    true
}

/// The node in a few numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node's name, as in `binding:host_id`.
    pub host: NodeName,
    /// Ladon's release.
    pub release: String,
    /// The revision whose flows are in the switch.
    pub revision: Revision,
    /// The server that the node is connected to; none while it works from its last view.
    pub server: Option<String>,
    /// True while the switch is there and was made equal to the view.
    pub is_in_force: bool,
    pub local_ports: usize,
    pub flows: usize,
    /// What all changes since the node started have cost.
    #[serde(default)]
    pub work: Work,
}

/// How much was done so far: what a change costs is the difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Work {
    /// Runs of an app for one object.
    pub runs: u64,
    /// Things of the view that these runs read.
    pub reads: u64,
    /// Flows and groups that these runs made.
    pub made: u64,
    /// Actions and buckets of the flows and groups that changed by them: what the switch was told.
    pub written: u64,
}

/// One flow, in names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowLine {
    pub table: String,
    /// The priority's name.
    pub priority: String,
    #[serde(rename = "match")]
    pub matching: String,
    pub actions: String,
    /// How many packets it has seen; only if that was asked for and the switch answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    pub because: Because,
}

/// The object that a flow is there for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Because {
    /// `port`, `network`, … or the name of the app for flows that are always there.
    pub kind: String,
    /// Empty for flows that are always there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// What people call it; empty if they do not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// An interface of this machine that is a port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PluggedInterface {
    #[serde(flatten)]
    pub link: Link,
    pub port: PortId,
    /// With their subnets' prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Destination and gateway; none: on the link.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
}

/// The interface itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Link {
    pub interface: String,
    pub mac: Mac,
    pub mtu: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_of_an_older_node_are_taken_for_in_force() {
        let reply: Reply = serde_json::from_str(r#"{"reply":"flows","flows":[],"is_last":true}"#).unwrap();
        assert_eq!(reply, Reply::Flows { flows: Vec::new(), is_last: true, is_in_force: true, is_starting: false });
    }

    #[test]
    fn a_request_reads_back_what_it_writes() {
        for text in [
            r#"{"request":"status"}"#,
            r#"{"request":"flows","table":"Deliver","with_packets":false}"#,
            r#"{"request":"unplug","interface_or_port":"metal0"}"#,
        ] {
            let request: Request = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
        }
    }
}
