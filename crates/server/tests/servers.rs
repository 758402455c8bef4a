//! Several servers on one etcd: all serve at once, and one that is killed loses and doubles nothing.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lab::Lab;
use lab::etcd::{Etcd, Options, Version};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use server::Config;
use store::{EtcdOptions, Store};
use stream::pki::Authority;
use uuid::Uuid;

const SERVERS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(120);

/// The other side of the tests: a server that runs until it is killed.
#[test]
fn child_that_serves() {
    let Ok(path) = std::env::var("LADON_TEST_SERVER") else { return };
    let config: Config = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(server::run(config, std::future::pending())).unwrap();
}

struct Running {
    child: Mutex<Child>,
    config: PathBuf,
    port: u16,
}

impl Running {
    fn start(directory: &Path, name: &str, etcd: &Etcd) -> Running {
        let credentials = Authority::open(directory).unwrap().server().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut config = Config::default();
        config.store.etcd.endpoints = etcd.endpoints();
        config.api.listen = vec![([127, 0, 0, 1], port).into()];
        config.views.listen = "127.0.0.1:0".parse().unwrap();
        (config.views.certificate, config.views.key, config.views.ca) = (credentials.certificate, credentials.key, credentials.ca);
        let path = directory.join(format!("{name}.toml"));
        std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        let running = Running { child: Mutex::new(child(&path)), config: path, port };
        running.wait_until_it_serves();
        running
    }

    fn wait_until_it_serves(&self) {
        soon("it serves", || matches!(ask(self.port, "GET", "/", &[], None), Ok((200, _))));
    }

    /// `kill -9`, and another one in its place.
    fn kill_and_start(&self) {
        let mut running = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        running.kill().unwrap();
        running.wait().unwrap();
        *running = child(&self.config);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(child.kill());
        drop(child.wait());
    }
}

fn child(config: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_that_serves", "--nocapture"]).env("LADON_TEST_SERVER", config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One request on a connection of its own.
fn ask(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> std::io::Result<(u16, Value)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: ladon\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    );
    stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let bad = || std::io::Error::other(format!("no answer: {answer:?}"));
    let (head, text) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
    let text = if head.to_lowercase().contains("transfer-encoding: chunked") { unchunked(text).ok_or_else(bad)? } else { text.to_string() };
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
}

/// The pieces of a chunked body, up to the last one.
fn unchunked(mut text: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        text = rest.get(size + 2..)?;
    }
}

/// Asks one server after the other until one answers as it should; servers are killed meanwhile.
fn insist(servers: &[Running], first: usize, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Value {
    let deadline = Instant::now() + DEADLINE;
    for n in first.. {
        match ask(servers[n % servers.len()].port, method, path, headers, body) {
            Ok((200 | 201 | 204, answer)) => return answer,
            // A delete whose answer was lost was done.
            Ok((404, _)) if method == "DELETE" => return Value::Null,
            other => assert!(Instant::now() < deadline && !matches!(other, Ok((400..=499, _))), "{method} {path}: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    unreachable!("it ends at the deadline")
}

fn ports(server: &Running) -> Vec<Value> {
    let (status, answer) = ask(server.port, "GET", "/v2.0/ports", &[], None).unwrap();
    assert_eq!(status, 200, "{answer}");
    answer["ports"].as_array().unwrap().clone()
}

fn distinct(ports: &[Value], value: impl Fn(&Value) -> String) -> usize {
    ports.iter().map(value).collect::<BTreeSet<_>>().len()
}

#[test]
fn servers_that_are_killed_at_any_moment_lose_and_double_nothing() {
    const CLIENTS: usize = 8;
    const PORTS: usize = 40;
    const KILLS: usize = 3;
    /// No client waits for ever for one who kills no more.
    const NUMBERS_MAX: usize = 500 * PORTS;
    let lab = Lab::scratch().unwrap();
    let etcd = Etcd::start(&lab, "etcd", &Options { members: 1, ..Options::default() }).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let servers: Vec<Running> = (0..SERVERS).map(|n| Running::start(directory.path(), &format!("s{n}"), &etcd)).collect();
    let network = insist(&servers, 0, "POST", "/v2.0/networks", &[], Some(&json!({"network": {"name": "n"}})))["network"]["id"].clone();
    // The next server is told of it by the store before it refuses.
    let subnet = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/20"}});
    let once = Uuid::new_v5(&Uuid::NAMESPACE_OID, b"subnet").to_string();
    insist(&servers[1..2], 0, "POST", "/v2.0/subnets", &[("idempotency-key", &once)], Some(&subnet));
    let (working, kills) = (AtomicBool::new(true), AtomicUsize::new(0));
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (servers, network, kills) = (&servers, &network, &kills);
                scope.spawn(move || {
                    // What is made until enough was killed is deleted again.
                    let numbers = (0..NUMBERS_MAX).take_while(|number| *number < PORTS || kills.load(Ordering::SeqCst) < KILLS);
                    for number in numbers {
                        let name = format!("p-{client}-{number}");
                        let key = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string();
                        let body = json!({"port": {"network_id": network, "name": name}});
                        let made = insist(servers, client + number, "POST", "/v2.0/ports", &[("idempotency-key", &key)], Some(&body));
                        assert_eq!(made["port"]["id"], key);
                        if number.is_multiple_of(4) || number >= PORTS {
                            insist(servers, client + number + 1, "DELETE", &format!("/v2.0/ports/{key}"), &[], None);
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut random = StdRng::seed_from_u64(seed);
            while working.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
                let victim = &servers[random.random_range(0..SERVERS)];
                victim.kill_and_start();
                victim.wait_until_it_serves();
                kills.fetch_add(1, Ordering::SeqCst);
            }
        });
        let outcomes: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        working.store(false, Ordering::SeqCst);
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    });
    assert!(kills.load(Ordering::SeqCst) >= KILLS, "hardly anything was killed");
    let wanted = CLIENTS * PORTS * 3 / 4;
    // What was answered by others comes to it with its watch.
    soon("the first server shows all that was made", || ports(&servers[0]).len() == wanted);
    let first = ports(&servers[0]);
    for (what, value) in [("id", "/id"), ("address", "/fixed_ips/0/ip_address"), ("MAC", "/mac_address"), ("name", "/name")] {
        assert_eq!(distinct(&first, |port| port.pointer(value).unwrap().to_string()), wanted, "{what}s are all different");
    }
    let set = |ports: Vec<Value>| ports.iter().map(Value::to_string).collect::<BTreeSet<_>>();
    let first = set(first);
    for server in &servers[1..] {
        soon("every server shows the same", || set(ports(server)) == first);
    }
    let store = store::Etcd::new(EtcdOptions { endpoints: etcd.endpoints(), ..EtcdOptions::default() }).unwrap();
    let keys: Vec<u32> =
        store.load().unwrap().objects.iter().filter_map(|object| <&model::Port>::try_from(&**object).ok()).map(|port| port.key.0).collect();
    assert_eq!((keys.len(), keys.iter().collect::<BTreeSet<_>>().len()), (wanted, wanted), "keys are all different");
}

/// A bulk of 1,000 ports and a batch of 10,000 members, through one server and seen by another. No limit of etcd's is raised.
fn the_largest_requests_fit_into(version: Version) {
    const PORTS: usize = 1_000;
    const MEMBERS: usize = 10_000;
    let lab = Lab::scratch().unwrap();
    // A disk that others keep busy must not make its answers late.
    let args = vec!["--unsafe-no-fsync".into()];
    let etcd = Etcd::start(&lab, "etcd", &Options { version, args, ..Options::default() }).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let servers: Vec<Running> = (0..2).map(|n| Running::start(directory.path(), &format!("s{n}"), &etcd)).collect();
    let made = |path: &str, body: Value| {
        let (status, answer) = ask(servers[0].port, "POST", path, &[], Some(&body)).unwrap();
        assert_eq!(status, 201, "{path}: {answer}");
        answer
    };
    let network = made("/v2.0/networks", json!({"network": {}}))["network"]["id"].clone();
    let subnet = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/16"}});
    let subnet = made("/v2.0/subnets", subnet)["subnet"]["id"].clone();
    let bulk = made("/v2.0/ports", json!({"ports": vec![json!({"network_id": network}); PORTS]}));
    let address = |port: &Value| port["fixed_ips"][0]["ip_address"].to_string();
    assert_eq!(distinct(bulk["ports"].as_array().unwrap(), address), PORTS);
    let balancer = made("/v2.0/lbaas/loadbalancers", json!({"loadbalancer": {"vip_subnet_id": subnet}}))["loadbalancer"]["id"].clone();
    let pool = json!({"pool": {"loadbalancer_id": balancer, "protocol": "TCP", "lb_algorithm": "SOURCE_IP_PORT"}});
    let pool = made("/v2.0/lbaas/pools", pool)["pool"]["id"].clone();
    let members = format!("/v2.0/lbaas/pools/{}/members", pool.as_str().unwrap());
    let member = |n: usize| json!({"address": format!("10.1.{}.{}", n / 250, n % 250 + 1), "protocol_port": 80});
    let batch = json!({"members": (0..MEMBERS).map(member).collect::<Vec<_>>()});
    let (status, answer) = ask(servers[0].port, "PUT", &members, &[], Some(&batch)).unwrap();
    assert_eq!(status, 202, "{answer}");
    soon("the other server knows them all", || {
        let (_, listed) = ask(servers[1].port, "GET", &members, &[], None).unwrap();
        distinct(listed["members"].as_array().unwrap(), |member| member["address"].to_string()) == MEMBERS
    });
    let listed: Vec<Value> = ports(&servers[1]).into_iter().filter(|port| port["device_owner"] != "Octavia").collect();
    assert_eq!(distinct(&listed, address), PORTS);
}

#[test]
fn the_largest_requests_fit_into_debians_etcd_as_it_comes() {
    the_largest_requests_fit_into(Version::Debian);
}

#[test]
fn the_largest_requests_fit_into_the_newest_etcd_as_it_comes() {
    the_largest_requests_fit_into(Version::Module);
}

#[test]
fn servers_at_once_take_ports_at_a_rate_that_is_told() {
    const CLIENTS: usize = 8;
    const PORTS: usize = 100;
    let lab = Lab::scratch().unwrap();
    let etcd = Etcd::start(&lab, "etcd", &Options::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    for count in 1..=2 {
        let servers: Vec<Running> = (0..count).map(|n| Running::start(directory.path(), &format!("s{n}"), &etcd)).collect();
        let network = insist(&servers, 0, "POST", "/v2.0/networks", &[], Some(&json!({"network": {}})))["network"]["id"].clone();
        let subnet = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/20"}});
        let once = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("subnet-{count}").as_bytes()).to_string();
        insist(&servers, 0, "POST", "/v2.0/subnets", &[("idempotency-key", &once)], Some(&subnet));
        let started = Instant::now();
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (servers, network) = (&servers, &network);
                scope.spawn(move || {
                    for number in 0..PORTS {
                        // A server may refuse what others were faster with for too long, or what etcd took too long for.
                        let name = format!("{count}-{client}-{number}");
                        let key = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string();
                        let body = json!({"port": {"network_id": network, "name": name}});
                        insist(servers, client, "POST", "/v2.0/ports", &[("idempotency-key", &key)], Some(&body));
                    }
                });
            }
        });
        println!("{count} servers, {CLIENTS} clients: {:.0} ports/s", (CLIENTS * PORTS) as f64 / started.elapsed().as_secs_f64());
        assert_eq!(ports(&servers[0]).iter().filter(|port| port["network_id"] == network).count(), CLIENTS * PORTS);
    }
}
