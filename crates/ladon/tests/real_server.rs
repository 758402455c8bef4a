//! The operator's commands against a real `ladon server` with its store.

mod world;

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};

use lab::Lab;
use lab::etcd::{Etcd, Options, Version};
use model::PortId;
use node::control::{Link, PluggedInterface, Reply, Request, Status};
use serde_json::{Value, json};
use world::World;

/// A server that listens in the world's folder.
struct Server {
    child: Child,
    /// None: nobody reads it.
    log: Option<Lines<BufReader<ChildStderr>>>,
}

impl Server {
    fn start(world: &World) -> Server {
        Server::start_with(world, &[])
    }

    fn start_with(world: &World, environment: &[(&str, &str)]) -> Server {
        Server::start_on(world, &format!("[store]\npath = '{}'\n", world.path("store").display()), environment)
    }

    /// `store`: where it keeps what should be, as the configuration says it.
    fn start_on(world: &World, store: &str, environment: &[(&str, &str)]) -> Server {
        let folder = world.path("").display().to_string();
        let folder = folder.trim_end_matches('/');
        world.ladon(&["pki", "--dir", &format!("{folder}/pki"), "server"]).succeeded();
        let text = format!(
            "{store}[api]\nlisten = []\nsocket = '{folder}/api.sock'\n\
             [views]\nlisten = '127.0.0.1:0'\nca = '{folder}/pki/ca.crt'\ncertificate = '{folder}/pki/server.crt'\nkey = '{folder}/pki/server.key'\n"
        );
        std::fs::write(world.path("server.toml"), text).unwrap();
        let mut command = world.command(&["server", "--config", world.path("server.toml").to_str().unwrap(), "--log-format", "json"]);
        let mut child = command.envs(environment.iter().copied()).stderr(Stdio::piped()).spawn().unwrap();
        // The log says when it listens: nothing to poll.
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = log.by_ref().map(Result::unwrap).find(|line| line.contains("the API listens on")).expect("it starts");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["level"], "INFO");
        Server { child, log: Some(log) }
    }

    /// SIGTERM; true if it says that it stops and ends well.
    fn stop(mut self) -> bool {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        let has_said = self.log.as_mut().is_none_or(|log| log.map(Result::unwrap).any(|line| line.contains("ladon server stops")));
        has_said && self.child.wait().unwrap().success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The API as somebody else uses it.
fn curl(world: &World, path: &str, body: Option<Value>) -> Value {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--unix-socket"]).arg(world.path("api.sock")).arg(format!("http://localhost{path}"));
    if let Some(body) = body {
        curl.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
    }
    serde_json::from_slice(&curl.output().unwrap().stdout).unwrap()
}

#[test]
fn a_server_answers_until_it_is_told_to_stop() {
    let world = World::new();
    let server = Server::start(&world);
    assert_eq!(world.ladon(&["nodes"]).succeeded(), "NODE\n");
    assert_eq!(world.ladon(&["ports", "--missing"]).succeeded(), "PORT\n");
    assert!(world.ladon(&["ports", "--missing", "--node", "n1"]).failed(1).contains("no node named n1 is known"));
    assert!(world.ladon(&["nodes", "--forget", "n1"]).failed(1).contains("no node named n1 is known"));
    assert!(world.ladon(&["wait"]).succeeded().contains("is in force"));
    assert!(world.ladon(&["wait", "--revision", "1000000", "--timeout", "1"]).failed(3).contains("has not reached revision 1000000"));
    assert!(world.ladon(&["plug", "--network", "red"]).failed(1).contains("ladon node does not answer"));
    assert!(server.stop());
}

#[test]
fn a_server_goes_on_when_nobody_reads_its_log() {
    let world = World::new();
    let mut server = Server::start_with(&world, &[("RUST_LOG", "trace")]);
    server.log = None;
    for name in ["a", "b", "c"] {
        assert_eq!(curl(&world, "/v2.0/networks", Some(json!({"network": {"name": name}})))["network"]["name"], name);
    }
    assert_eq!(world.ladon(&["nodes"]).succeeded(), "NODE\n");
    assert!(server.stop());
}

#[test]
fn a_plugged_port_is_an_ordinary_port_until_it_is_unplugged() {
    let world = World::new();
    let _server = Server::start(&world);
    for name in ["blue", "red"] {
        let network = curl(&world, "/v2.0/networks", Some(json!({"network": {"name": name}})))["network"]["id"].clone();
        curl(&world, "/v2.0/subnets", Some(json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.1.0.0/24"}})));
    }
    let ports = || curl(&world, "/v2.0/ports?device_owner=ladon:metal", None)["ports"].as_array().unwrap().clone();
    let plugged = std::sync::Arc::new(std::sync::Mutex::new(None::<PortId>));
    let remembered = plugged.clone();
    world.node(move |request| {
        vec![match request {
            Request::Status => Reply::Status(Status {
                host: model::NodeName("metal1".into()),
                release: "0.1.0".into(),
                revision: model::Revision(7),
                server: None,
                is_in_force: true,
                local_ports: 0,
                flows: 0,
                work: Default::default(),
            }),
            Request::Plug(request) => {
                *remembered.lock().unwrap() = Some(request.port);
                let link = Link { interface: request.interface.clone(), mac: model::Mac([2, 0, 0, 0, 0, 1]), mtu: 1450 };
                Reply::Plugged(PluggedInterface { link, port: request.port, addresses: Vec::new(), routes: Vec::new() })
            }
            Request::Unplug { interface_or_port } => {
                Reply::Unplugged { interface: interface_or_port.clone(), port: remembered.lock().unwrap().take().unwrap() }
            }
            _ => Reply::Interfaces { interfaces: Vec::new() },
        }]
    });

    world.ladon(&["plug", "--network", "blue", "--name", "metal0", "--address", "10.1.0.50"]).succeeded();
    let made = ports();
    assert_eq!(made.len(), 1);
    assert_eq!((&made[0]["device_id"], &made[0]["binding:host_id"]), (&json!("metal0"), &json!("metal1")));
    assert_eq!(made[0]["fixed_ips"][0]["ip_address"], "10.1.0.50");
    assert_eq!(made[0]["id"], json!(plugged.lock().unwrap().unwrap()));

    world.ladon(&["plug", "--network", "blue"]).succeeded();
    assert_eq!(ports(), made, "the same machine and network: the same port");
    assert!(world.ladon(&["plug", "--network", "red", "--name", "metal0"]).failed(1).contains("another network"));
    assert!(world.ladon(&["plug", "--network", "red", "--address", "192.0.2.1"]).failed(1).contains("192.0.2.1"));
    assert!(world.ladon(&["plug", "--network", "green"]).failed(1).contains("there is no network 'green'"));
    assert!(world.ladon(&["ports", "10.1.0.50"]).succeeded().contains("metal1-metal0"));

    world.ladon(&["unplug", "metal0"]).succeeded();
    assert!(ports().is_empty());
}

#[test]
fn a_copy_that_is_restored_goes_on_beyond_what_nodes_have_seen() {
    let world = World::new();
    let (store, copy) = (world.path("store"), world.path("copy"));
    let make = |name: &str| curl(&world, "/v2.0/networks", Some(json!({"network": {"name": name}})));
    let names = || -> Vec<String> {
        let list = curl(&world, "/v2.0/networks?sort_key=name", None);
        list["networks"].as_array().unwrap().iter().map(|network| network["name"].as_str().unwrap().to_string()).collect()
    };
    let config = world.path("server.toml");
    let restore = |copy: &std::path::Path| world.ladon(&["store", "--config", config.to_str().unwrap(), "restore", copy.to_str().unwrap()]);
    let server = Server::start(&world);
    make("kept");
    assert!(server.stop());
    std::fs::copy(&store, &copy).unwrap();
    let server = Server::start(&world);
    make("lost");
    assert!(restore(&copy).failed(1).contains("stop the server"));
    assert_eq!(names(), ["kept", "lost"]);
    assert!(server.stop());
    std::fs::write(world.path("junk"), "no store").unwrap();
    assert!(restore(&world.path("junk")).failed(1).contains("junk cannot be used"));
    assert!(restore(&world.path("absent")).failed(1).contains("absent cannot be used"));
    let said = restore(&copy).succeeded();
    let revision = said.lines().find_map(|line| line.strip_prefix("revision  ")).unwrap().parse::<u64>().unwrap();
    assert!(revision > 1_000_000_000_000_000, "{said}");
    let server = Server::start(&world);
    assert_eq!(names(), ["kept"]);
    make("new");
    assert!(world.ladon(&["wait"]).succeeded().contains(&(revision + 1).to_string()));
    assert!(server.stop());
    // What was put there by hand is made right in its place.
    std::fs::copy(&copy, &store).unwrap();
    let replaced = std::fs::read(world.path("store.replaced")).unwrap();
    assert!(restore(&store).succeeded().contains("store.replaced-2\n"));
    let server = Server::start(&world);
    assert_eq!(names(), ["kept"]);
    assert!(server.stop() && world.path("store.replaced-2").exists() && !world.path("store.new").exists());
    assert!(std::fs::read(world.path("store.replaced")).unwrap() == replaced, "what the first one replaced is there still");
}

#[test]
fn a_deployment_moves_to_debians_etcd_and_back() {
    a_deployment_moves_there_and_back(&Options::default());
}

#[test]
fn a_deployment_moves_to_the_newest_etcd_and_back() {
    a_deployment_moves_there_and_back(&Options { version: Version::Module, members: 3, is_secure: true, ..Options::default() });
}

/// By the commands that an operator types, with a server before, in between and afterwards.
fn a_deployment_moves_there_and_back(options: &Options) {
    let (world, lab) = (World::new(), Lab::scratch().unwrap());
    let cluster = Etcd::start(&lab, "etcd", options).unwrap();
    let at = |name: &str| world.path(name).display().to_string();
    let tls = cluster.client().map(|[ca, certificate, key]| {
        format!("ca = '{}'\ncertificate = '{}'\nkey = '{}'\n", ca.display(), certificate.display(), key.display())
    });
    let stores = [
        format!("[store]\npath = '{}'\n", at("before")),
        format!("[store.etcd]\nendpoints = {:?}\n{}", cluster.endpoints(), tls.unwrap_or_default()),
        format!("[store]\npath = '{}'\n", at("after")),
    ];
    let networks = || -> Vec<Value> {
        let list = curl(&world, "/v2.0/networks?sort_key=name", None);
        list["networks"].as_array().unwrap().clone()
    };
    let mut before = Vec::new();
    for (place, store) in stores.iter().enumerate() {
        let config = at(&format!("{place}.toml"));
        std::fs::write(&config, store).unwrap();
        if place > 0 {
            world.ladon(&["store", "--config", &at(&format!("{}.toml", place - 1)), "export", &at(&format!("{place}.dump"))]).succeeded();
            let import = || world.ladon(&["store", "--config", &config, "import", &at(&format!("{place}.dump"))]);
            import().succeeded();
            assert!(import().failed(1).contains("not empty"), "an import takes an empty store only");
        }
        let server = Server::start_on(&world, store, &[]);
        assert_eq!(networks(), before, "in store {place}");
        curl(&world, "/v2.0/networks", Some(json!({"network": {"name": format!("net{place}")}})));
        before = networks();
        assert!(server.stop());
    }
    assert_eq!(before.len(), 3);
}
