//! Connections that must end do end, and no others, on real Open vSwitch.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use demo::{Pair, Plugged, Tunnel, id};
use lab::wait;
use serde_json::{Value, json};

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);
/// What does not arrive for so long does not arrive.
const SILENCE: Duration = Duration::from_secs(2);

/// A TCP connection, both ends in hand.
struct Talk {
    client: TcpStream,
    server: TcpStream,
}

/// Connects `client` to `at`, where `server` answers on `port`.
fn talk(client: &Plugged, server: &Plugged, at: SocketAddr, port: u16) -> Result<Talk> {
    let any = SocketAddr::from(([0u16; 8], port));
    let listener = server.workload.netns().within(|| TcpListener::bind(any))??;
    listener.set_nonblocking(true)?;
    // The first packets between two nodes may be lost.
    let client = wait::until("a connection", DEADLINE, || {
        client
            .workload
            .netns()
            .within(|| TcpStream::connect_timeout(&at, SILENCE))
            .map_err(|error| error.to_string())?
            .map(Some)
            .map_err(|error| error.to_string())
    })?;
    let (server, _) = wait::until("a client", DEADLINE, || listener.accept().map(Some))?;
    server.set_nonblocking(false)?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    let mut talk = Talk { client, server };
    assert!(talk.flows(), "a new connection to {at}");
    Ok(talk)
}

fn passes(mut from: &TcpStream, mut to: &TcpStream, patience: Duration) -> bool {
    let mut byte = [0];
    to.set_read_timeout(Some(patience)).expect("a time-out that is not zero");
    from.write_all(b"x").is_ok() && matches!(to.read(&mut byte), Ok(1))
}

impl Talk {
    /// Both directions pass.
    fn flows(&mut self) -> bool {
        passes(&self.client, &self.server, DEADLINE) && passes(&self.server, &self.client, DEADLINE)
    }

    /// Neither direction passes.
    fn is_stalled(&mut self) -> bool {
        !passes(&self.client, &self.server, SILENCE) && !passes(&self.server, &self.client, SILENCE)
    }

    fn client_port(&self) -> Result<u16> {
        Ok(self.client.local_addr()?.port())
    }
}

/// The connections that the switch of `node` remembers with this client's port.
fn remembered(pair: &Pair, node: usize, client_port: u16) -> Result<Vec<String>> {
    let all = pair.ovs[node].appctl(&["dpctl/dump-conntrack"])?;
    let is_it = |line: &&str| line.contains(&format!("sport={client_port},"));
    Ok(all.lines().filter(is_it).map(str::to_owned).collect())
}

fn wait_forgotten(pair: &Pair, node: usize, client_port: u16) -> Result<()> {
    wait::until("the connection to be forgotten", DEADLINE, || match remembered(pair, node, client_port) {
        Ok(left) if left.is_empty() => Ok(Some(())),
        Ok(left) => Err(left.join("\n")),
        Err(error) => Err(format!("{error:#}")),
    })
    .with_context(|| pair.ladon.logs())
}

/// A group `name` into which `remote` may open TCP connections to `port`, by a rule per IP version.
fn allow(pair: &Pair, group: &Value, port: u16, more: Value) -> Result<Vec<Value>> {
    let rule = |ethertype: &str| {
        let mut rule = json!({"security_group_id": id(group), "direction": "ingress", "ethertype": ethertype, "protocol": "tcp",
            "port_range_min": port, "port_range_max": port});
        rule.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        pair.api().create("security_group_rule", rule)
    };
    ["IPv4", "IPv6"].into_iter().map(rule).collect()
}

fn group(pair: &Pair, name: &str) -> Result<Value> {
    pair.api().create("security_group", json!({"name": name}))
}

fn forbid(pair: &Pair, rules: &[Value]) -> Result<()> {
    rules.iter().try_for_each(|rule| pair.api().delete("security_group_rule", id(rule)))
}

#[test]
fn a_rule_that_goes_ends_what_it_allowed_and_nothing_else() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 9)?;
    let web = group(&pair, "web")?;
    let closing = allow(&pair, &web, 8080, json!({}))?;
    allow(&pair, &web, 8081, json!({}))?;
    let server = pair.plug(&blue, 1, "server", json!({"security_groups": [id(&web)]}))?;
    let client = pair.plug(&blue, 0, "client", json!({}))?;
    for ip in [server.v4, server.v6] {
        let mut ended = talk(&client, &server, (ip, 8080).into(), 8080)?;
        let mut other = talk(&client, &server, (ip, 8081).into(), 8081)?;
        let gone = closing.iter().find(|rule| rule["ethertype"] == if ip.is_ipv6() { "IPv6" } else { "IPv4" }).expect("a rule per version");
        forbid(&pair, std::slice::from_ref(gone))?;
        wait_forgotten(&pair, 1, ended.client_port()?)?;
        assert!(ended.is_stalled(), "{ip}");
        assert_eq!(remembered(&pair, 1, ended.client_port()?)?, Vec::<String>::new(), "the server's answers do not begin it anew");
        assert!(other.flows(), "{ip}: what another rule allows goes on");
        assert_eq!(remembered(&pair, 1, other.client_port()?)?.len(), 1);
    }
    Ok(())
}

/// Somebody who sends as fast as it can, and what arrives of it.
struct Download {
    arrived: Arc<AtomicU64>,
    last: Arc<Mutex<Instant>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Download {
    fn start(talk: Talk) -> Result<Download> {
        let Talk { mut client, mut server } = talk;
        let (arrived, last, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Instant::now())), Arc::new(AtomicBool::new(false)));
        let short = Some(Duration::from_millis(50));
        client.set_read_timeout(short)?;
        server.set_write_timeout(short)?;
        let (sends, receives, counted, at) = (stop.clone(), stop.clone(), arrived.clone(), last.clone());
        let sender = std::thread::spawn(move || {
            while !sends.load(Ordering::Relaxed) {
                let _ = server.write(&[0; 4096]);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let receiver = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !receives.load(Ordering::Relaxed) {
                if let Ok(length @ 1..) = client.read(&mut buffer) {
                    counted.fetch_add(length as u64, Ordering::Relaxed);
                    *at.lock().unwrap() = Instant::now();
                }
            }
        });
        Ok(Download { arrived, last, stop, threads: vec![sender, receiver] })
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

#[test]
fn a_server_that_keeps_sending_does_not_keep_its_connection() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 9)?;
    let web = group(&pair, "web")?;
    let closing = allow(&pair, &web, 8080, json!({}))?;
    let server = pair.plug(&blue, 1, "server", json!({"security_groups": [id(&web)]}))?;
    let client = pair.plug(&blue, 0, "client", json!({}))?;
    let talks = [server.v4, server.v6].map(|ip| talk(&client, &server, (ip, 8080).into(), 8080));
    let mut downloads = Vec::new();
    for talk in talks {
        let talk = talk?;
        downloads.push((talk.client_port()?, Download::start(talk)?));
    }
    for (_, download) in &downloads {
        let has_arrived = || Ok::<_, String>((download.arrived.load(Ordering::Relaxed) > 100_000).then_some(()));
        wait::until("the download to run", DEADLINE, has_arrived)?;
    }
    forbid(&pair, &closing)?;
    for (port, download) in &downloads {
        wait::until("the download to stall", DEADLINE, || {
            let silent = download.last.lock().unwrap().elapsed();
            if silent > SILENCE { Ok(Some(())) } else { Err(format!("something arrived {silent:?} ago")) }
        })
        .with_context(|| pair.ladon.logs())?;
        wait_forgotten(&pair, 1, *port)?;
    }
    Ok(())
}

#[test]
fn who_leaves_a_remote_group_is_shut_out() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 9)?;
    let (web, clients) = (group(&pair, "web")?, group(&pair, "clients")?);
    allow(&pair, &web, 8080, json!({"remote_group_id": id(&clients)}))?;
    let server = pair.plug(&blue, 1, "server", json!({"security_groups": [id(&web)]}))?;
    let [leaving, staying] =
        [("leaving", 0), ("staying", 1)].map(|(name, node)| pair.plug(&blue, node, name, json!({"security_groups": [id(&clients)]})));
    let (leaving, staying) = (leaving?, staying?);
    let both = |client: &Plugged| [server.v4, server.v6].map(|ip| talk(client, &server, (ip, 8080).into(), 8080));
    let (ended, others) = (both(&leaving), both(&staying));
    pair.api().update("port", id(&leaving.port), json!({"security_groups": [id(&web)]}))?;
    for (ended, other) in ended.into_iter().zip(others) {
        let (mut ended, mut other) = (ended?, other?);
        wait_forgotten(&pair, 1, ended.client_port()?)?;
        assert!(ended.is_stalled());
        assert!(other.flows(), "another member stays");
    }
    Ok(())
}

#[test]
fn what_ended_while_the_node_was_away_ends_when_it_is_back() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 9)?;
    let web = group(&pair, "web")?;
    let closing = allow(&pair, &web, 8080, json!({}))?;
    allow(&pair, &web, 8081, json!({}))?;
    let server = pair.plug(&blue, 1, "server", json!({"security_groups": [id(&web)]}))?;
    let client = pair.plug(&blue, 0, "client", json!({}))?;
    let mut talks = Vec::new();
    for ip in [server.v4, server.v6] {
        talks.push((talk(&client, &server, (ip, 8080).into(), 8080)?, talk(&client, &server, (ip, 8081).into(), 8081)?));
    }
    let node = &pair.ladon.nodes[1].process;
    node.kill9()?;
    forbid(&pair, &closing)?;
    assert!(talks.iter_mut().all(|(ended, other)| ended.flows() && other.flows()), "the switch goes on by itself");
    node.restart()?;
    for (mut ended, mut other) in talks {
        wait_forgotten(&pair, 1, ended.client_port()?)?;
        assert!(ended.is_stalled());
        assert!(other.flows());
    }
    Ok(())
}

fn weightless() -> Option<Value> {
    Some(json!({"member": {"weight": 0}}))
}

/// A UDP socket of `client` with `to`, and an answer from there.
fn datagrams(client: &Plugged, server: &Plugged, to: SocketAddr) -> Result<(UdpSocket, UdpSocket)> {
    let far = server.workload.netns().within(|| UdpSocket::bind(SocketAddr::from(([0u16; 8], 8080))))??;
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let near = client.workload.netns().within(|| UdpSocket::bind((any, 0)))??;
    near.connect(to)?;
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    }
    wait::until("an answer", DEADLINE, || {
        let mut buffer = [0; 16];
        near.send(b"x").map_err(|error| error.to_string())?;
        let (_, from) = far.recv_from(&mut buffer).map_err(|error| error.to_string())?;
        far.send_to(b"y", from).map_err(|error| error.to_string())?;
        near.recv(&mut buffer).map(Some).map_err(|error| error.to_string())
    })?;
    Ok((near, far))
}

#[test]
fn a_load_balancers_member_that_goes_takes_its_connections_along() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let blue = pair.network("blue", 9)?;
    let open = || json!({"port_security_enabled": false});
    let [client, one] = [("client", 0, json!({})), ("one", 1, open())].map(|(name, node, more)| pair.plug(&blue, node, name, more));
    let (client, one) = (client?, one?);
    for ip in [one.v4, one.v6] {
        let balanced = pair.balance(&blue, &[("TCP", 80), ("UDP", 80)], &[(ip, 8080).into()])?;
        let at = SocketAddr::from((balanced.vip, 80));
        let mut tcp = talk(&client, &one, at, 8080)?;
        let mut direct = talk(&client, &one, (ip, 8080).into(), 8080)?;
        let (near, _far) = datagrams(&client, &one, at)?;
        let port = tcp.client_port()?;
        assert_eq!(remembered(&pair, 0, port)?.len(), 2, "its rules and its member");

        balanced.member(&pair, 0, 0, "PUT", weightless())?;
        balanced.member(&pair, 1, 0, "PUT", weightless())?;
        wait_forgotten(&pair, 0, near.local_addr()?.port())?;
        assert!(tcp.flows(), "a member that drains keeps its TCP connections");

        balanced.member(&pair, 0, 0, "DELETE", None)?;
        wait_forgotten(&pair, 0, port)?;
        assert!(direct.flows(), "who asks the member itself is not concerned");
        let mut byte = [0];
        tcp.client.set_read_timeout(Some(SILENCE))?;
        let ended = wait::until("the client to learn of it", DEADLINE, || {
            let _ = tcp.client.write(b"x");
            match tcp.client.read(&mut byte) {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Some(())),
                other => Err(format!("{other:?}")),
            }
        });
        ended.with_context(|| pair.ladon.logs())?;
    }
    Ok(())
}
