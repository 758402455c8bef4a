//! A node in a network namespace: a real Open vSwitch with the userspace datapath, workloads on cables, and flows from the
//! apps, written through the node's own link. Every test uses a part of it.
#![allow(dead_code)]

mod wire;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use apps::testing::id;
use apps::{ALL, Attachment, Change, Engine, Numbers};
use lab::{Host, Lab, Netns, Ovs, Underlay};
use model::{Object, Port, PortId};
use node::install::{self, Plan};
use node::switch::{Event, Options, Switch};
use node::translate;
use openflow::{FlowKey, InstalledFlow, PacketIn2};
use pipeline::{Fingerprint, Generation, OfPort};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;

pub use wire::Wire;

pub const BRIDGE: &str = "br-int";
/// How long anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// The number of a node without a tunnel among the underlay's hosts.
const ALONE: u8 = 250;
/// The number of a node with one: its address is then that of a scenario's node.
const HERE: u8 = 1;
/// The type of frames that the switch sends back as they came: one that the IEEE leaves to experiments.
pub const ECHO: u16 = 0x88b5;
const ECHO_PRIORITY: u16 = 1;

/// One node with its workloads.
pub struct World {
    pub engine: Engine,
    half: Generation,
    switch: Switch,
    events: Receiver<Event>,
    runtime: Runtime,
    ovs: Ovs,
    node: Host,
    underlay: Underlay,
    _lab: Lab,
}

/// Something plugged into the node: a namespace with an interface `data0`.
pub struct Workload {
    host: Host,
    pub port: Port,
}

impl World {
    /// A node whose view is `objects`, with its flows in the second half of the switch: the first is every other test's.
    pub fn new(objects: impl IntoIterator<Item = Change>) -> World {
        World::on(ALONE, Ovs::bare, Generation::B, objects)
    }

    /// A node at 192.0.2.1 that has a tunnel with the number `tunnel` besides, and sends [`ECHO`] frames back.
    pub fn with_tunnel(tunnel: OfPort, half: Generation, objects: impl IntoIterator<Item = Change>) -> World {
        let world = World::on(HERE, Ovs::start, half, objects);
        let request = format!("ofport_request={}", tunnel.0);
        let options = ["type=geneve", "options:remote_ip=flow", "options:key=flow", "options:csum=true", &request];
        world.ovs.vsctl(&[&["add-port", BRIDGE, "tunnel", "--", "set", "interface", "tunnel"], &options[..]].concat()).unwrap();
        world.ovs.wait_for_ofport("tunnel").unwrap();
        world.add_flow(&format!("table={},priority={ECHO_PRIORITY},dl_type={ECHO:#06x},actions=in_port", Generation::DISPATCH));
        world
    }

    fn on(number: u8, start: fn(&Host) -> lab::Result<Ovs>, half: Generation, objects: impl IntoIterator<Item = Change>) -> World {
        let lab = Lab::scratch().unwrap();
        let underlay = Underlay::new(&lab).unwrap();
        let node = underlay.host("node", number).unwrap();
        let ovs = start(&node).unwrap();
        let bridge = ["add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=netdev", "fail-mode=secure"];
        ovs.vsctl(&[&bridge[..], &["other-config:disable-in-band=true"]].concat()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (switch, events) = runtime.block_on(async { Switch::start(Options::new(ovs.bridge_mgmt(BRIDGE))) });
        let mut engine = Engine::new(ALL, Numbers::default());
        engine.update(objects);
        let mut world = World { engine, half, switch, events, runtime, ovs, node, underlay, _lab: lab };
        world.next_event("the connection", |event| matches!(event, Event::Connected(_)).then_some(()));
        world.install();
        world
    }

    /// The first event that `pick` takes; others are passed over.
    pub fn next_event<T>(&mut self, what: &str, pick: impl Fn(Event) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = pick(self.events.recv().await.expect("the link goes on")) {
                    return found;
                }
            }
        };
        let found = self.runtime.block_on(async { tokio::time::timeout(DEADLINE, search).await });
        found.unwrap_or_else(|_| panic!("waited too long for {what}"))
    }

    /// The next packet that flows hand to the node for `punt`.
    pub fn punted(&mut self, punt: pipeline::Punt) -> PacketIn2 {
        self.next_event(&format!("{punt:?}"), |event| match event {
            Event::PacketIn(packet) if packet.userdata.first() == Some(&(punt as u8)) => Some(*packet),
            _ => None,
        })
    }

    /// The packets that flows have handed to the node and nobody has looked at.
    pub fn punts(&mut self) -> Vec<PacketIn2> {
        let waiting = std::iter::from_fn(|| self.events.try_recv().ok());
        waiting.filter_map(|event| if let Event::PacketIn(packet) = event { Some(*packet) } else { None }).collect()
    }

    /// Every flow, with its counters.
    pub fn flows(&self) -> BTreeMap<FlowKey, InstalledFlow> {
        let flows = self.runtime.block_on(self.switch.dump_flows()).unwrap();
        flows.into_iter().map(|flow| (flow.key(), flow)).collect()
    }

    /// Adds a flow that no app wrote, as `ovs-ofctl` reads it. The next change of the view takes it away.
    pub fn add_flow(&self, flow: &str) {
        self.ovs.ofctl(&["add-flow", BRIDGE, flow]).unwrap();
    }

    /// Deletes the one flow that is named by its table, priority and match.
    pub fn delete_flow(&self, flow: &str) {
        self.ovs.ofctl(&["--strict", "del-flows", BRIDGE, flow]).unwrap();
    }

    /// Makes the switch forget the ways that it has worked out: the next packet passes every table, and counts at once.
    pub fn forget_ways(&self) {
        self.ovs.appctl(&["revalidator/purge"]).unwrap();
    }

    /// A cable into the switch's interface `number`. Nobody but the test speaks on it: neither end has addresses.
    pub fn wire(&self, number: OfPort) -> Wire {
        let name = format!("p{}", number.0);
        let host = self.underlay.host(&name, u8::try_from(number.0).unwrap()).unwrap();
        for netns in [self.node.netns(), host.netns()] {
            netns.sysctl(&[("net/ipv6/conf/default/disable_ipv6", "1")]).unwrap();
        }
        cable(&self.node, &host, &name);
        host.netns().ip(&["link set data0 up".to_string(), "link delete eth0".to_string()]).unwrap();
        self.ovs.vsctl(&["add-port", BRIDGE, &name, "--", "set", "interface", &name, &format!("ofport_request={}", number.0)]).unwrap();
        self.ovs.wait_for_ofport(&name).unwrap();
        Wire::open(host, "data0")
    }

    /// The underlay at `address`, where another node would be. The switch knows its MAC and the way.
    pub fn peer(&self, address: Ipv4Addr) -> Wire {
        let [.., number] = address.octets();
        let host = self.underlay.host(&format!("peer{number}"), number).unwrap();
        assert_eq!(host.ipv4(), address, "the underlay's addresses");
        let (ip, mac) = (address.to_string(), model::Mac(self.peer_mac(address)).to_string());
        let routed = || self.ovs.appctl(&["ovs/route/lookup", &ip]).map(|said| said.contains(lab::UNDERLAY_BRIDGE).then_some(()));
        lab::wait::until("the switch to know the way", DEADLINE, routed).unwrap();
        self.ovs.appctl(&["tnl/neigh/set", lab::UNDERLAY_BRIDGE, &ip, &mac]).unwrap();
        Wire::open(host, "eth0")
    }

    /// The MAC of the host at an address of the underlay.
    pub fn peer_mac(&self, address: Ipv4Addr) -> [u8; 6] {
        let [.., number] = address.octets();
        [2, 0, 0xc0, 0, 3, number]
    }

    /// Where the tunnels of this node end: its MAC and its address on the underlay.
    pub fn tunnel_end(&self) -> ([u8; 6], Ipv4Addr) {
        let said = self.ovs.vsctl(&["get", "interface", lab::UNDERLAY_BRIDGE, "mac_in_use"]).unwrap();
        let mac: model::Mac = said.trim().trim_matches('"').parse().unwrap();
        (mac.0, self.node.ipv4())
    }

    /// Changes the view, and the switch with it.
    pub fn update(&mut self, changes: impl IntoIterator<Item = Change>) {
        self.engine.update(changes);
        self.install();
    }

    /// Makes the switch do what the engine desires; afterwards it reads back the same.
    fn install(&self) {
        assert_eq!(self.engine.conflicts().map(|conflict| conflict.to_string()).collect::<Vec<_>>(), Vec::<String>::new());
        self.runtime.block_on(async {
            let Plan { half, turn, other_half } = self.missing().await;
            for changes in [half, turn, other_half] {
                self.switch.commit(changes).await.unwrap();
            }
            let left = self.missing().await;
            assert!(left.is_empty(), "the switch reads back something else: {left:?}");
        });
    }

    async fn missing(&self) -> Plan {
        let (half, own) = (self.half, Fingerprint::of_pipeline());
        let flows = self.engine.flows().map(|flow| translate::flow_mod(&flow, half).unwrap());
        let desired = flows.chain(translate::misses(half)).chain([translate::dispatch(half, own)]).collect();
        let groups = self.engine.groups().map(|group| translate::group(group, half)).collect();
        install::plan(half, desired, groups, &self.switch.dump_flows().await.unwrap(), &self.switch.dump_groups().await.unwrap())
    }

    /// Plugs in a workload for the port `name` of the view, as interface `number`, with its addresses, and routes through
    /// `gateways`.
    pub fn plug(&mut self, name: &str, number: u8, gateways: &[&str]) -> Workload {
        let port = self.port(name);
        let host = self.underlay.host(name, number).unwrap();
        cable(&self.node, &host, name);
        let settings = [format!("link set data0 address {}", port.mac), "link set data0 up".to_string(), "link delete eth0".to_string()];
        host.netns().ip(&settings).unwrap();
        host.netns().sysctl(&[("net/ipv6/conf/all/forwarding", "0"), ("net/ipv4/ip_forward", "0")]).unwrap();
        let length = |ip: std::net::IpAddr| if ip.is_ipv4() { 16 } else { 64 };
        let addresses =
            port.addresses().map(|ip| format!("address add {ip}/{} dev data0{}", length(ip), if ip.is_ipv6() { " nodad" } else { "" }));
        let has = |is_v6: bool| port.addresses().any(|ip| ip.is_ipv6() == is_v6);
        let routes = gateways
            .iter()
            .filter(|gateway| has(gateway.contains(':')))
            .map(|gateway| format!("route add default via {gateway} dev data0"));
        host.netns().ip(&addresses.chain(routes).collect::<Vec<_>>()).unwrap();
        let request = format!("ofport_request={number}");
        self.ovs.vsctl(&["add-port", BRIDGE, name, "--", "set", "interface", name, &request]).unwrap();
        self.ovs.wait_for_ofport(name).unwrap();
        let zone = u16::from(number) * 3;
        let ofport = OfPort(number.into());
        self.update([Change::Attach(Attachment { port: port.id, ofport, rules_zone: zone, nat_zone: zone + 1, hairpin_zone: zone + 2 })]);
        Workload { host, port }
    }

    fn port(&self, name: &str) -> Port {
        let key = model::ObjectKey::new(model::Kind::Port, PortId(id(name)));
        match self.engine.view().object(key).map(|object| &**object) {
            Some(Object::Port(port)) => Port::clone(port),
            _ => panic!("the view has no port {name}"),
        }
    }

    /// The packets that each flow has seen, for a failure's message.
    pub fn seen(&self) -> String {
        let flows = self.ovs.ofctl(&["dump-flows", BRIDGE]).unwrap();
        flows.lines().filter(|line| !line.contains("n_packets=0,")).map(|line| format!("{}\n", line.trim())).collect()
    }

    /// Runs `ovs-appctl`.
    pub fn appctl(&self, args: &[&str]) -> String {
        self.ovs.appctl(args).unwrap()
    }
}

/// A cable between the node's interface `name` and the workload's `data0`. Checksums and segments are finished by the kernel:
/// the userspace datapath sees packets as a network card would get them.
fn cable(node: &Host, host: &Host, name: &str) {
    let (near, far) = (node.namespace(), host.namespace());
    node.netns()
        .ip(&[format!("link add {name} netns {near} type veth peer name data0 netns {far}"), format!("link set {name} up")])
        .unwrap();
    for (netns, device) in [(node.netns(), name), (host.netns(), "data0")] {
        netns.tool("ethtool", &["-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off"]).unwrap();
    }
}

impl Workload {
    pub fn netns(&self) -> &Netns {
        self.host.netns()
    }

    /// Serves TCP and UDP on `port`.
    pub fn serve(&self, port: u16) -> Server {
        Server::start(self.netns(), &self.port.name, port)
    }

    /// A TCP connection to `to`, or how it failed.
    pub fn connect(&self, to: &str) -> std::io::Result<Talk> {
        self.connect_within(to, DEADLINE)
    }

    /// The same, where none is expected.
    pub fn connect_within(&self, to: &str, patience: Duration) -> std::io::Result<Talk> {
        let to: SocketAddr = to.parse().unwrap();
        self.netns()
            .within(|| {
                let stream = TcpStream::connect_timeout(&to, patience)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                Ok(Talk(stream))
            })
            .unwrap()
    }

    /// A UDP socket for `to`.
    pub fn socket(&self, to: &str) -> Datagrams {
        let to: SocketAddr = to.parse().unwrap();
        let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
        let socket = self.netns().within(|| UdpSocket::bind(any).and_then(|socket| socket.connect(to).map(|()| socket))).unwrap().unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Datagrams(socket)
    }
}

/// A TCP connection with a server.
pub struct Talk(TcpStream);

impl Talk {
    /// Says something; the server answers with its name and the client's address as it sees it.
    pub fn say(&mut self, line: &str) -> std::io::Result<String> {
        self.0.write_all(line.as_bytes())?;
        let mut buffer = [0; 256];
        match self.0.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
        }
    }

    pub fn local(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// A UDP socket of a client.
pub struct Datagrams(UdpSocket);

impl Datagrams {
    /// Sends `length` bytes; the answer is as long, and begins with the server's name and the client's address.
    pub fn ask(&self, length: usize) -> std::io::Result<String> {
        self.0.send(&vec![b' '; length.max(80)])?;
        let mut buffer = vec![0; 65_536];
        let got = self.0.recv(&mut buffer)?;
        assert_eq!(got, length.max(80));
        Ok(String::from_utf8_lossy(&buffer[..got]).trim().to_owned())
    }

    pub fn local(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// Answers every message over TCP and UDP with `NAME CLIENT`, over UDP as long as the question.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(on: &Netns, name: &str, port: u16) -> Server {
        let any = SocketAddr::from(([0u16; 8], port));
        let (listener, datagrams) = on.within(|| (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())).unwrap();
        let poll = Some(Duration::from_millis(50));
        listener.set_nonblocking(true).unwrap();
        datagrams.set_read_timeout(poll).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (first, second, one, two) = (stop.clone(), stop.clone(), name.to_owned(), name.to_owned());
        let tcp = std::thread::spawn(move || {
            while !first.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, client)) => drop(std::thread::spawn({
                        let name = one.clone();
                        move || answer_stream(stream, &name, client)
                    })),
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        let udp = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !second.load(Ordering::Relaxed) {
                if let Ok((length, client)) = datagrams.recv_from(&mut buffer) {
                    let said = format!("{two} {}", plain(client));
                    let _ = datagrams.send_to(format!("{said:<length$}").as_bytes(), client);
                }
            }
        });
        Server { stop, threads: vec![tcp, udp] }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn answer_stream(mut stream: TcpStream, name: &str, client: SocketAddr) {
    let _ = stream.set_nonblocking(false);
    let mut buffer = [0; 256];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(format!("{name} {}", plain(client)).as_bytes()).is_err() {
            return;
        }
    }
}

/// An IPv4 address that a dual-stack socket shows as IPv6 is IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
