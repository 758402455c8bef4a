//! The command line, and the help that teaches it.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;

use crate::daemon::Logging;

const OVERVIEW: &str = "\
Ladon puts Kubernetes pods, virtual machines and bare metal on the same virtual networks.

One program, several parts. `server` keeps what should be and serves the Neutron and Octavia APIs; `node` runs on every machine \
and makes its Open vSwitch do it; `kube` turns pods and Services into ports and load balancers. The other commands are for \
operators: those about the cluster ask a server over HTTP, those about one machine ask its `ladon node` over a unix socket.";

const EXAMPLES: &str = "\
Examples:
  ladon nodes                            which machines are there, and are they up to date?
  ladon ports web                        where do the ports with `web` in them live, and do they work?
  ladon wait                             until all that was changed so far is in force everywhere
  ladon flows --object web               what this machine's switch does for `web`, in names
  ladon plug --network blue              this machine joins the network `blue`
  ladon nodes --output json | jq .       the same for programs

Exit codes: 0 done; 1 failed, with what happened, what it means for traffic and what to do; 2 the command was not understood; \
3 `wait` ran out of time.";

/// The whole command line.
#[derive(Parser)]
#[command(name = "ladon", version, about = "One controller, a head on every node", long_about = OVERVIEW, after_help = EXAMPLES)]
#[command(propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub reach: Reach,
    #[command(subcommand)]
    pub command: Command,
}

/// How the operator's commands reach a server and this machine's node, and how they answer.
#[derive(Args)]
#[command(next_help_heading = "For the operator's commands")]
pub struct Reach {
    /// A server's API: http://HOST:PORT, https://HOST:PORT or unix:/PATH. Of several servers that share a store, all of them, separated
    /// by commas: each knows the nodes that follow it
    #[arg(long, global = true, env = "LADON_API", default_value = "http://127.0.0.1:9696", value_name = "URL", value_delimiter = ',')]
    pub api: Vec<String>,
    /// The authority that signed the certificate behind https, PEM
    #[arg(long, global = true, env = "LADON_API_CA", value_name = "FILE")]
    pub api_ca: Option<PathBuf>,
    /// Token for the API; better given as LADON_TOKEN, where no process list shows it
    #[arg(long, global = true, env = "LADON_TOKEN", hide_env_values = true, hide_default_value = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Socket of this machine's `ladon node`
    #[arg(long, global = true, env = "LADON_CONTROL", default_value = node::control::DEFAULT_SOCKET, value_name = "PATH")]
    pub control: PathBuf,
    /// A table for people, or JSON for programs
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// How an answer is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make an authority and certificates for servers and nodes
    ///
    /// For demos and tests. In production, hand `ladon server` and `ladon node` files of your own authority: a server's
    /// certificate carries the DNS name `ladon-server`, a node's names the node. An authority that is in the directory already is
    /// used and not replaced.
    #[command(after_help = "Examples:\n  ladon pki --dir /etc/ladon/pki server\n  ladon pki --dir /etc/ladon/pki node n1 n2 n3")]
    Pki(Pki),
    /// List the machines that run `ladon node`, and how far each is
    #[command(
        after_help = "Examples:\n  ladon nodes\n  ladon nodes n2 --output json\n  ladon nodes --forget n3      a machine that was taken out"
    )]
    Nodes(Nodes),
    /// List ports, where each lives and, if one does not work, why
    #[command(
        after_help = "Examples:\n  ladon ports\n  ladon ports 10.244.1.7      whose address is this?\n  ladon ports --missing       which do not work, and why?\n  ladon ports --node n2       which live on n2?"
    )]
    Ports(Ports),
    /// Wait until a revision is in force on every node that it concerns
    ///
    /// Without --revision: everything that was changed up to now.
    #[command(after_help = "Examples:\n  openstack security group rule create … && ladon wait\n  ladon wait --revision 4711 --timeout 10")]
    Wait(Wait),
    /// Print this machine's flows in names, each with the object that it is there for
    #[command(
        after_help = "Examples:\n  ladon flows                          all of them\n  ladon flows --table Deliver          one table's\n  ladon flows --object web --packets   one object's, with packet counts"
    )]
    Flows(Flows),
    /// Make an interface on this machine that is a port of a network
    ///
    /// The port is made through the API (device_owner `ladon:metal`), the interface by this machine's `ladon node`, which makes it
    /// again after a reboot. The same command again changes nothing.
    #[command(
        after_help = "Examples:\n  ladon plug --network blue\n  ladon plug --network blue --name metal0 --address 10.1.0.50 --address fd00:1::50\n  ladon plug --network blue --port 6f0c…     a port that exists already"
    )]
    Plug(Plug),
    /// Take back an interface that `ladon plug` made, and its port
    #[command(after_help = "Examples:\n  ladon unplug metal0\n  ladon unplug plug0 --keep-port")]
    Unplug(Unplug),
    /// Export everything in a server's store to a file, import it into an empty one, or put a copy of the store back
    ///
    /// To move a deployment from the embedded store to etcd or back: stop the servers, export with the old configuration, import with
    /// the new one, start the servers. Nodes keep forwarding meanwhile, and go on where they were. A store in etcd can be exported
    /// while servers run.
    #[command(
        after_help = "Examples:\n  ladon store --config /etc/ladon/server.toml export /root/ladon.jsonl\n  ladon store --config /etc/ladon/server-etcd.toml import /root/ladon.jsonl"
    )]
    Store(StoreArgs),
    /// Print the shell code that completes this command line
    #[command(after_help = "Example:\n  ladon completions bash > /etc/bash_completion.d/ladon")]
    Completions {
        /// The shell that it is for
        shell: Shell,
    },
    /// Print every configuration key with its meaning and default, as Markdown
    ConfigReference,
    #[command(flatten)]
    Daemon(Daemon),
}

/// The parts that run until they are told to stop.
#[derive(Subcommand)]
pub enum Daemon {
    /// Keep what should be, serve the APIs and every node's view
    #[command(
        after_help = "Examples:\n  ladon server                                   with every default: the API on 127.0.0.1:9696, the store in /var/lib/ladon,\n                                                 certificates in /etc/ladon\n  ladon server --config /etc/ladon/server.toml"
    )]
    Server(Run),
    /// Make this machine's Open vSwitch do what the servers say
    #[command(after_help = "Example:\n  ladon node --config /etc/ladon/node.toml --host n1")]
    Node(RunNode),
    /// Turn a Kubernetes cluster's pods and Services into ports and load balancers
    #[command(after_help = "Example:\n  ladon kube --config /etc/ladon/kube.toml")]
    Kube(Run),
}

#[derive(Args)]
pub struct Run {
    /// TOML file; see `ladon config-reference`. Default: every key's default
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub logging: Logging,
}

#[derive(Args)]
pub struct RunNode {
    /// TOML file; see `ladon config-reference`. It must have servers, certificate, key, authority and tunnel.addresses; other keys have
    /// defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub logging: Logging,
    /// This machine's name, as in `binding:host_id`; overrides the file. Network namespaces share one host name: name them
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
}

#[derive(Args)]
pub struct Filter {
    /// Only rows in which a cell contains this
    pub text: Option<String>,
}

#[derive(Args)]
pub struct Nodes {
    #[command(flatten)]
    pub filter: Filter,
    /// Take this machine, which does not come back, off the list: ports that it claimed are free for others. Refused while it is
    /// connected
    #[arg(long, value_name = "NODE", conflicts_with = "text")]
    pub forget: Option<String>,
}

#[derive(Args)]
pub struct Ports {
    #[command(flatten)]
    pub filter: Filter,
    /// Only ports that lack something to work, or that two nodes claim
    #[arg(long)]
    pub missing: bool,
    /// Only ports that live on this node
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

#[derive(Args)]
pub struct Wait {
    /// The revision to wait for; default: the latest
    #[arg(long)]
    pub revision: Option<u64>,
    /// Wait for this node alone; default: all that the revision concerns
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Seconds after which to give up
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

#[derive(Args)]
pub struct Flows {
    /// Only this table's
    #[arg(long, value_name = "NAME", ignore_case = true, value_parser = PossibleValuesParser::new(node::control::table_names()))]
    pub table: Option<String>,
    /// Only those that are there for this object: its name, its id or the beginning of it, or a kind such as `port`. A security group
    /// stands for its rules, a load balancer and a pool for their listeners
    #[arg(long, value_name = "OBJECT")]
    pub object: Option<String>,
    /// With the number of packets that each has seen
    #[arg(long)]
    pub packets: bool,
}

#[derive(Args)]
pub struct Plug {
    /// The network's name or id
    #[arg(long)]
    pub network: String,
    /// The interface's name; default: plug0, or the first number that is free
    #[arg(long, value_parser = interface_name)]
    pub name: Option<String>,
    /// An address that the port is to have; once per address. Default: the network's next free ones
    #[arg(long, conflicts_with = "port")]
    pub address: Vec<IpAddr>,
    /// A security group of the port, by name or id; once per group. Default: the project's `default`
    #[arg(long, conflicts_with = "port", value_name = "GROUP")]
    pub security_group: Vec<String>,
    /// Use this port, which nobody uses, instead of making one
    #[arg(long, value_name = "ID")]
    pub port: Option<String>,
    /// This machine's default route leads to the network, too
    #[arg(long)]
    pub default_route: bool,
    /// Route this prefix through the network's gateway as well; once per prefix
    #[arg(long, value_name = "PREFIX")]
    pub route: Vec<IpNet>,
    /// Seconds after which to give up
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
}

#[derive(Args)]
pub struct Unplug {
    /// The interface's name or its port's id
    pub interface: String,
    /// Leave the port; it keeps its addresses
    #[arg(long)]
    pub keep_port: bool,
}

#[derive(Args)]
pub struct StoreArgs {
    /// The server's configuration, whose `[store]` says where the store is. Default: the embedded store in /var/lib/ladon/store
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub what: StoreWhat,
}

#[derive(Subcommand)]
pub enum StoreWhat {
    /// Write everything, as it is at one revision, to a new file
    Export {
        /// The file to make; one that is there is not overwritten
        file: PathBuf,
    },
    /// Read what was exported into a store that is empty
    Import {
        /// What was exported is older than what nodes have seen, as after a loss: go on beyond that. Every node gets a snapshot
        #[arg(long)]
        restore: bool,
        /// The file that `ladon store export` wrote
        file: PathBuf,
    },
    /// Put a copy of the embedded store's file back, with the server stopped
    ///
    /// The copy goes on at a revision beyond all that nodes have seen: when the server starts, each gets a snapshot and is what
    /// the copy says. A copy that is put back otherwise may leave nodes different without a word. What was there is kept beside it.
    #[command(after_help = "Example:\n  ladon store --config /etc/ladon/server.toml restore /root/ladon-store")]
    Restore {
        /// The copy of the store's file; it stays as it is
        copy: PathBuf,
    },
}

#[derive(Args)]
pub struct Pki {
    /// Where the files are, or will be
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    #[command(subcommand)]
    pub what: PkiWhat,
}

#[derive(Subcommand)]
pub enum PkiWhat {
    /// The authority itself: ca.crt and ca.key
    Ca,
    /// A certificate for every server: server.crt and server.key
    Server,
    /// A certificate per node: node-NAME.crt and node-NAME.key
    Node {
        /// The nodes' names, as in `binding:host_id`
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// A name that the kernel takes for an interface.
fn interface_name(text: &str) -> Result<String, String> {
    const LONGEST: usize = 15;
    let is_bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    match text {
        "" | "." | ".." => Err("this is no name for an interface".into()),
        text if text.len() > LONGEST => Err(format!("an interface's name has at most {LONGEST} bytes")),
        text if text.contains(is_bad) => Err("an interface's name has no '/', ':' or white space".into()),
        text => Ok(text.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_what_it_takes_says_what_it_does() {
        fn look(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(look);
        }
        look(&Cli::command());
    }

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for text in ["", "..", "a/b", "sixteen-letters-", "a b"] {
            assert!(interface_name(text).is_err(), "{text}");
        }
        assert_eq!(interface_name("metal0").unwrap(), "metal0");
    }
}
