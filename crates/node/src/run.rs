//! Starts the node's tasks and connects them.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::TunnelType;
use pipeline::{Fingerprint, Generation, OfPort, Table};
use stream::Credentials;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::agent::{Agent, AgentError, Ask, Feeds, InForce, Published, SwitchNews};
use crate::bridge::{self, BridgeSpec, Kept, Link, PortSpec, Settings};
use crate::config::{Config, ConfigError};
use crate::connections::{Connections, Unixctl, keep_limits, mailbox};
use crate::control::Control;
use crate::host::{Host, Machine};
use crate::local::Local;
use crate::plugged::Keeper;
use crate::pods::{self, Pods};
use crate::record::{Lock, LockError, RecordError, aside};
use crate::respond::{self, Intake};
use crate::switch::{Event, Options, Switch};
use crate::view;

/// Room in the channels between tasks: senders wait when it is used up.
const CHANNEL: usize = 64;
/// How often the operator is told of packets for the node that were dropped, if there were any.
const MISSED_EVERY: Duration = Duration::from_secs(60);

/// Why a node cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("reading what the node remembers")]
    Agent(#[from] AgentError),
    #[error("reading what the node remembers")]
    Record(#[from] RecordError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("serving {socket}")]
    Socket {
        socket: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the node's {0} ended unexpectedly; forwarding goes on, and a restart loses nothing")]
    Ended(&'static str),
}

/// Runs the node until `shutdown`.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), NodeError> {
    config.check()?;
    let node = config.node();
    let addresses = config.tunnel.addresses.clone();
    let _lock = aside(|| Lock::take(&config.state_dir))?;
    let bridge = Link::start(Settings { integration_bridge: config.ovs.bridge.clone(), ..Settings::new(&config.ovs.db_socket) });
    let (switch, switch_events) = Switch::start(Options::new(config.ovs.management_socket()));
    let (local, local_seen) = watch::channel(Arc::new(Local::default()));
    let (in_force, in_force_seen) = watch::channel(Arc::new(InForce::default()));
    let (facts, facts_seen) = watch::channel(None);
    let (affected, to_judge) = mailbox();
    let (half, half_seen) = watch::channel(None);
    let published = Published { local, in_force, facts, affected, half };
    let own = Fingerprint::of_pipeline();
    let agent = Agent::new(node.clone(), addresses.clone(), &config.state_dir, switch.clone(), own, published)?;
    let follow = view::follow(view_config(&config), facts_seen);
    let (updates, status, stopper) = follow.split();
    let (news, switch_news) = channel();
    let (asks, asked) = channel();
    let (wishes, wished) = channel();
    let userspace = config.ovs.is_userspace();
    let plugin_server =
        Pods::new(bridge.clone(), config.ovs.bridge.clone(), userspace, local_seen.clone(), in_force_seen.clone(), &config.state_dir)?;
    let machine = Machine {
        node: node.clone(),
        interface: config.host_interface.clone(),
        bridge: config.ovs.bridge.clone(),
        is_userspace: userspace,
        underlay: underlay(&config),
    };
    let host = Host::new(machine, bridge.clone(), local_seen.clone(), in_force_seen.clone(), &config.state_dir)?;
    let keeper = Keeper::new(bridge.clone(), &config.ovs.bridge, &config.state_dir)?;
    let control = Control {
        node,
        asks: asks.clone(),
        wishes,
        database: bridge.connection(),
        in_force: in_force_seen.clone(),
        server: server_name(status),
        switch: switch.clone(),
        half: half_seen.clone(),
    };

    let mut tasks: JoinSet<NodeError> = JoinSet::new();
    let feeds = Feeds { view: updates, interfaces: bridge.interfaces(), switch: switch_news, asks: asked };
    tasks.spawn(ended("agent", agent.run(feeds)));
    let (intake, responder) = respond::new(local_seen.clone(), half_seen, switch.clone());
    tasks.spawn(ended("responder", responder.run()));
    tasks.spawn(ended("switch events", sort_events(switch_events, news, intake, switch.clone())));
    let unixctl = Unixctl::new(config.ovs.control_socket.clone(), &config.ovs.run_dir, userspace);
    tasks.spawn(ended("limits of connections", keep_limits(unixctl.clone(), config.ovs.connections_per_zone, asks.clone())));
    tasks.spawn(ended("connections", Connections::new(to_judge, unixctl, switch, asks.clone()).run()));
    tasks.spawn(ended("own interfaces", host.run(wished)));
    let (tunnel, tunnel_numbers) = mpsc::channel(1);
    tasks.spawn(ended("bridge", bridge::keep(bridge.clone(), kept(&config), tunnel)));
    tasks.spawn(ended("tunnel", tell_tunnel(tunnel_numbers, asks)));
    tasks.spawn(ended("memory of what is plugged in", keeper.run()));
    if let Some(cni) = &config.cni {
        tasks.spawn(ended("CNI configuration", pods::announce(cni.config_dir.clone(), config.run_dir.clone(), in_force_seen.clone())));
    }
    tasks.spawn(ended("clearing away of pods", plugin_server.clone().keep_clean()));
    let cni_socket = config.run_dir.join("cni.sock");
    let control_socket = config.run_dir.join("node.sock");
    tasks.spawn(async move { socket_error(&cni_socket, plugin_server.serve(&cni_socket).await) });
    tasks.spawn(async move { socket_error(&control_socket, control.serve(&control_socket).await) });

    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        ended = tasks.join_next() => Err(ended.and_then(Result::ok).unwrap_or(NodeError::Ended("task"))),
    };
    stopper.stop().await;
    outcome
}

/// Between two tasks.
fn channel<T>() -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
    mpsc::channel(CHANNEL)
}

async fn ended(name: &'static str, task: impl Future<Output = ()>) -> NodeError {
    task.await;
    NodeError::Ended(name)
}

fn socket_error(socket: &Path, result: std::io::Result<()>) -> NodeError {
    match result {
        Ok(()) => NodeError::Ended("socket"),
        Err(source) => NodeError::Socket { socket: socket.display().to_string(), source },
    }
}

fn view_config(config: &Config) -> view::Config {
    view::Config {
        node: config.node(),
        tunnel_addresses: config.tunnel.addresses.clone(),
        tunnel: config.tunnel.kind,
        bridge: config.ovs.bridge.clone(),
        datapath: config.ovs.datapath.word().into(),
        servers: config.servers.clone(),
        credentials: Credentials { ca: config.authority.clone(), certificate: config.certificate.clone(), key: config.key.clone() },
        path: config.state_dir.join("view"),
    }
}

/// The name of the server that is followed, alone.
fn server_name(mut status: watch::Receiver<view::LinkStatus>) -> watch::Receiver<Option<String>> {
    let (sender, receiver) = watch::channel(status.borrow_and_update().server.clone());
    tokio::spawn(async move {
        while status.changed().await.is_ok() {
            let server = status.borrow_and_update().server.clone();
            if sender.send(server).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Sends what the switch says to whom it concerns.
async fn sort_events(mut events: mpsc::Receiver<Event>, news: mpsc::Sender<SwitchNews>, mut intake: Intake, switch: Switch) {
    let mut report = tokio::time::interval(MISSED_EVERY);
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = report.tick() => {
                intake.report(switch.packet_ins_dropped());
                continue;
            }
        };
        let Some(event) = event else { return };
        let told = match event {
            Event::Connected(_) => news.send(SwitchNews::Connected).await,
            Event::Disconnected(reason) => {
                tracing::warn!(reason, "the switch is not reachable; it forwards with the flows that it has");
                news.send(SwitchNews::Disconnected).await
            }
            Event::FlowUpdate(_) | Event::GroupsChanged => news.send(SwitchNews::Disturbed).await,
            Event::PacketIn(packet) => {
                intake.take(packet);
                Ok(())
            }
        };
        if told.is_err() {
            return;
        }
    }
}

/// What must stay outside of the network: the machine's addresses where tunnels end, and those of servers that are named by address.
fn underlay(config: &Config) -> Vec<IpAddr> {
    let address = |server: &String| stream::authority(server)?.as_str().parse().ok().map(|address: SocketAddr| address.ip());
    config.tunnel.addresses.iter().copied().chain(config.servers.iter().filter_map(address)).collect()
}

/// What is kept of the bridge and its tunnel interface.
fn kept(config: &Config) -> Kept {
    let mut bridge = BridgeSpec::new(&config.ovs.bridge);
    bridge.datapath_type = Some(if config.ovs.is_userspace() { "netdev".into() } else { String::new() });
    bridge.flow_tables = table_names();
    let kind = config.tunnel.kind;
    let other = match kind {
        TunnelType::Geneve => TunnelType::Vxlan,
        TunnelType::Vxlan => TunnelType::Geneve,
    };
    let tunnel = PortSpec::new(&config.ovs.bridge, &tunnel_name(kind), kind.word());
    let tunnel = tunnel.option("remote_ip", "flow").option("key", "flow").option("csum", "true");
    // The configuration may have said the other one before.
    Kept { bridge, tunnel, absent: vec![tunnel_name(other)] }
}

/// Tells the agent the tunnel's number.
async fn tell_tunnel(mut numbers: mpsc::Receiver<OfPort>, asks: mpsc::Sender<Ask>) {
    while let Some(number) = numbers.recv().await {
        if asks.send(Ask::Tunnel(number)).await.is_err() {
            return;
        }
    }
}

/// The name of the tunnel's interface.
fn tunnel_name(kind: TunnelType) -> String {
    format!("ladon-{}", kind.word())
}

fn table_names() -> BTreeMap<u8, String> {
    let halves = Generation::ALL.into_iter();
    let name = |table: &Table, half| if half == Generation::A { table.name().to_string() } else { format!("{}_B", table.name()) };
    let names = halves.flat_map(|half| Table::ALL.iter().map(move |table| (table.number(half), name(table, half))));
    names.chain([(Generation::DISPATCH, "Dispatch".to_string())]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_tells_a_busy_task_something_waits_when_there_is_no_room() {
        const TOLD: usize = 3 * CHANNEL;
        let switch = Switch::start(Options::new("/nonexistent/br.mgmt")).0;
        let (intake, _responder) = respond::new(watch::channel(Arc::default()).1, watch::channel(None).1, switch.clone());
        let (events_in, events) = mpsc::channel(TOLD);
        let (news, mut heard) = channel();
        for _ in 0..TOLD {
            events_in.try_send(Event::GroupsChanged).unwrap();
        }
        tokio::spawn(sort_events(events, news, intake, switch));
        let settled = async || {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            events_in.max_capacity() - events_in.capacity()
        };
        // One is on its way.
        assert_eq!((settled().await, heard.len()), (TOLD - CHANNEL - 1, CHANNEL));
        heard.recv().await.unwrap();
        assert_eq!((settled().await, heard.len()), (TOLD - CHANNEL - 2, CHANNEL));
    }
}
