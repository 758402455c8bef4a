//! The operator's commands as people type them, against a server and a node that speak the protocols.

mod world;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use node::control::{Because, FlowLine, Link, PlugRequest, PluggedInterface, Reply, Request, Status};
use serde_json::{Value, json};
use world::{Heard, World};

const NETWORK: &str = "aaaaaaaa-0000-0000-0000-000000000001";
const PORT: &str = "bbbbbbbb-0000-0000-0000-000000000002";

fn status() -> Reply {
    Reply::Status(Status {
        host: model::NodeName("metal1".into()),
        release: "0.1.0".into(),
        revision: model::Revision(7),
        server: None,
        is_in_force: true,
        local_ports: 0,
        flows: 0,
        work: Default::default(),
    })
}

fn plugged(request: &PlugRequest) -> PluggedInterface {
    PluggedInterface {
        link: Link { interface: request.interface.clone(), mac: model::Mac([2, 0, 0, 0, 0, 1]), mtu: 1430 },
        port: request.port,
        addresses: vec!["10.1.0.50/24".parse().unwrap()],
        routes: vec![("10.96.0.0/12".parse().unwrap(), Some("10.1.0.1".parse().unwrap()))],
    }
}

/// Flows that are in force.
fn flows(flows: Vec<FlowLine>, is_last: bool) -> Reply {
    Reply::Flows { flows, is_last, is_in_force: true, is_starting: false }
}

/// A node on which plugging works.
fn willing(request: &Request) -> Vec<Reply> {
    vec![match request {
        Request::Status => status(),
        Request::Interfaces => Reply::Interfaces { interfaces: Vec::new() },
        Request::Plug(request) => Reply::Plugged(plugged(request)),
        Request::Unplug { interface_or_port } => Reply::Unplugged { interface: interface_or_port.clone(), port: PORT.parse().unwrap() },
        Request::Flows { .. } => flows(Vec::new(), true),
    }]
}

/// A server with one network, `blue`, and no port.
fn with_blue(heard: &Heard) -> (u16, Value) {
    match heard.line.as_str() {
        "GET /v2.0/networks?name=blue&fields=id" => (200, json!({"networks": [{"id": NETWORK}]})),
        line if line.starts_with("GET /v2.0/networks") => (200, json!({"networks": []})),
        line if line.starts_with("GET /v2.0/ports") => (200, json!({"ports": []})),
        "POST /v2.0/ports" => (201, json!({"port": {"id": PORT, "network_id": NETWORK}})),
        line if line.starts_with("DELETE /v2.0/ports/") => (204, Value::Null),
        _ => (404, Value::Null),
    }
}

fn lines(world: &World, beginning: &str) -> usize {
    world.heard().iter().filter(|heard| heard.line.starts_with(beginning)).count()
}

#[test]
fn nodes_are_a_table_for_people_and_json_for_programs() {
    let world = World::new();
    world.server(|_| (200, json!({"revision": 7, "nodes": [{"name": "n1", "is_connected": true, "ports": 3}, {"name": "n2", "is_connected": false, "ports": 0}]})));
    assert_eq!(world.ladon(&["nodes"]).succeeded(), "NODE  CONNECTED  PORTS\nn1    yes        3\nn2    no         0\n");
    let json: Value = serde_json::from_str(&world.ladon(&["nodes", "n2", "-o", "json"]).succeeded()).unwrap();
    assert_eq!(json, json!({"revision": 7, "nodes": [{"name": "n2", "is_connected": false, "ports": 0}]}));
}

#[test]
fn ports_are_found_by_whatever_a_cell_says() {
    let world = World::new();
    let ports = json!({"ports": [
        {"id": "p1", "name": "web", "addresses": ["10.0.0.3"], "home": "n1", "status": "ACTIVE", "conflicts": [], "missing": null},
        {"id": "p2", "name": "db", "addresses": ["10.0.0.4"], "home": null, "status": "DOWN", "conflicts": [], "missing": "no node has it"},
    ], "unknown_interfaces": [{"node": "n1", "iface_id": "p9"}]});
    world.server(move |_| (200, ports.clone()));
    assert_eq!(
        world.ladon(&["ports", "DOWN", "--node", "n 1", "--missing"]).succeeded(),
        "PORT  NAME  ADDRESSES  STATUS  LACKS\np2    db    10.0.0.4   DOWN    no node has it\n"
    );
    assert_eq!(world.heard()[0].line, "GET /ladon/v1/ports?missing=true&node=n%201");
    assert!(world.ladon(&["ports"]).succeeded().contains("node n1: an interface has the iface-id p9, which is no port's"));
}

#[test]
fn a_filter_that_nothing_fits_says_so_and_to_programs_nothing() {
    let world = World::new();
    let all = json!({"nodes": [{"name": "n1"}], "ports": [{"id": "p1"}], "unknown_interfaces": [{"node": "n1", "iface_id": "p9"}]});
    world.server(move |_| (200, all.clone()));
    for (command, heading) in [("nodes", "NODE\n"), ("ports", "PORT\n")] {
        let done = world.ladon(&[command, "nosuch"]);
        assert_eq!((done.code, done.stdout.as_str()), (0, heading));
        assert!(done.stderr.contains(&format!("nothing fits; `ladon {command}` lists all")), "{done:?}");
        for quiet in [&[command][..], &[command, "nosuch", "-o", "json"], &[command, "1"]] {
            assert_eq!(world.ladon(quiet).stderr, "", "{quiet:?}");
        }
    }
    assert_eq!(world.ladon(&["ports", "p9"]).stderr, "", "an interface that is no port's fits");
}

#[test]
fn a_server_that_does_not_answer_is_named_with_what_to_do() {
    let world = World::new();
    let text = world.ladon(&["nodes"]).failed(1);
    assert!(text.contains("no server answers on unix:") && text.contains("LADON_API"), "{text}");
    let text = world.ladon(&["--api", "http://127.0.0.1:1", "nodes"]).failed(1);
    assert!(text.contains("Connection refused"), "{text}");
    assert!(world.ladon(&["--api", "ftp://x", "nodes"]).failed(1).contains("http://HOST:PORT"));
    assert!(world.ladon(&["--api", "https://x", "nodes"]).failed(1).contains("--api-ca"));
}

#[test]
fn the_token_is_sent_and_its_absence_explained() {
    let world = World::new();
    world.server(|heard| match heard.token.as_deref() {
        Some("secret") => (200, json!({"nodes": []})),
        _ => (401, json!({"error": {"message": "The request you have made requires authentication."}})),
    });
    assert!(world.ladon(&["nodes"]).failed(1).contains("LADON_TOKEN"));
    let output = world.command(&["nodes"]).env("LADON_TOKEN", "secret").output().unwrap();
    assert!(output.status.success());
    assert!(!world.ladon(&["nodes", "--help"]).succeeded().contains("secret"));
    for odd in ["sec\nret", "sec\u{1b}ret"] {
        let output = world.command(&["nodes"]).env("LADON_TOKEN", odd).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && text.contains("the token has characters that no request can carry"), "{text}");
        assert!(text.contains("  to do:   give LADON_TOKEN") && !text.contains("ret"), "{text}");
    }
}

#[test]
fn names_are_shown_without_power_over_the_terminal_and_json_stays_json() {
    let world = World::new();
    let evil = "a\nb\u{1b}[2J\r\u{202e}";
    let shown = "a\\nb\\u{1b}[2J\\r\\u{202e}";
    let ports =
        json!({"ports": [{"id": "p1", "name": evil}], "unknown_interfaces": [{"node": evil, "iface_id": evil}], "nodes": [{"name": evil}]});
    let answer = ports.clone();
    world.server(move |heard| match heard.line.starts_with("GET /ladon/v1/wait") {
        true => (400, json!({"error": {"message": evil}})),
        false => (200, answer.clone()),
    });
    let flow = FlowLine {
        table: "Deliver".into(),
        priority: "normal".into(),
        matching: evil.into(),
        actions: "drop".into(),
        packets: None,
        because: Because { kind: "port".into(), id: "p1".into(), name: evil.into() },
    };
    world.node(move |_| vec![flows(vec![flow.clone()], true)]);
    let text = world.ladon(&["ports"]).succeeded();
    assert!(text.starts_with(&format!("PORT  NAME\np1    {shown}\nnode {shown}: an interface has the iface-id {shown}, ")), "{text}");
    assert_eq!(world.ladon(&["nodes"]).succeeded(), format!("NODE\n{shown}\n"));
    assert_eq!(world.ladon(&["flows"]).succeeded(), format!("Deliver      normal   {shown} -> drop  # port {shown} (p1)\n"));
    assert!(world.ladon(&["wait"]).failed(1).starts_with(&format!("ladon: {shown}\n")));
    let json: Value = serde_json::from_str(&world.ladon(&["ports", "-o", "json"]).succeeded()).unwrap();
    assert_eq!(json, ports);
    let json: Value = serde_json::from_str(&world.ladon(&["flows", "-o", "json"]).succeeded()).unwrap();
    assert_eq!(json["match"], evil);
}

#[test]
fn wait_asks_again_about_the_revision_that_it_began_with() {
    let world = World::new();
    let rounds = AtomicUsize::new(0);
    world.server(move |_| (200, json!({"revision": 41, "is_in_force": rounds.fetch_add(1, Ordering::SeqCst) > 0, "lagging": []})));
    assert_eq!(world.ladon(&["wait"]).succeeded(), "revision 41 is in force on every node that it concerns\n");
    let lines: Vec<String> = world.heard().into_iter().map(|heard| heard.line).collect();
    assert_eq!(lines, ["GET /ladon/v1/wait?timeout=20", "GET /ladon/v1/wait?revision=41&timeout=20"]);
}

#[test]
fn wait_for_one_node_asks_about_it_alone() {
    let world = World::new();
    world.server(|_| (200, json!({"revision": 41, "is_in_force": true, "lagging": []})));
    assert_eq!(world.ladon(&["wait", "--node", "n 1"]).succeeded(), "revision 41 is in force on node n 1\n");
    assert_eq!(world.heard()[0].line, "GET /ladon/v1/wait?timeout=20&node=n%201");
}

#[test]
fn a_question_about_a_node_that_nobody_knows_is_answered_with_where_the_names_are() {
    let world = World::new();
    world.server(|_| (404, json!({"error": {"message": "no node named n9 is known"}})));
    for command in ["wait", "ports"] {
        let text = world.ladon(&[command, "--node", "n9"]).failed(1);
        assert!(text.contains("no node named n9 is known") && text.contains("`ladon nodes`"), "{text}");
    }
}

#[test]
fn wait_gives_up_with_its_own_exit_code_and_names_who_is_behind() {
    let world = World::new();
    world.server(|_| {
        std::thread::park_timeout(std::time::Duration::from_millis(300));
        (200, json!({"revision": 41, "is_in_force": false, "lagging": [{"node": "n2", "reason": "it is not connected"}]}))
    });
    let text = world.ladon(&["wait", "--revision", "41", "--timeout", "1"]).failed(3);
    assert!(text.contains("not in force on n2 (it is not connected)"), "{text}");
}

#[test]
fn wait_for_a_revision_that_is_not_there_yet_blames_no_node() {
    let world = World::new();
    world.server(|_| (200, json!({"revision": 41, "latest": 7, "is_in_force": false, "lagging": []})));
    let text = world.ladon(&["wait", "--revision", "41", "--timeout", "1"]).failed(3);
    assert!(text.contains("this server has not reached revision 41: its latest is 7") && text.contains("no node is behind"), "{text}");
}

#[test]
fn flows_come_in_names_with_their_reasons() {
    let world = World::new();
    let flow = |because: &str| FlowLine {
        table: "Deliver".into(),
        priority: "normal".into(),
        matching: "dst_port=4".into(),
        actions: "output db".into(),
        packets: None,
        because: Because { kind: "port".into(), id: String::new(), name: because.into() },
    };
    world.node(move |_| vec![flows(vec![flow("db")], false), flows(vec![flow("web")], true)]);
    let text = world.ladon(&["flows", "--table", "deliver", "--object", "db", "--packets"]).succeeded();
    assert_eq!(
        text,
        "Deliver      normal   dst_port=4 -> output db  # port db\nDeliver      normal   dst_port=4 -> output db  # port web\n"
    );
    assert_eq!(world.asked(), [Request::Flows { table: Some("deliver".into()), object: Some("db".into()), with_packets: true }]);
    for line in world.ladon(&["flows", "-o", "json"]).succeeded().lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["match"], "dst_port=4");
    }
}

#[test]
fn a_table_that_is_not_in_the_pipeline_is_a_mistake_and_those_that_are_in_it_are_named() {
    let world = World::new();
    let done = world.ladon(&["flows", "--table", "Nosuch"]);
    assert!(done.code == 2 && done.stderr.contains("L2Lookup") && done.stderr.contains("Deliver"), "{done:?}");
}

#[test]
fn flows_that_are_not_in_force_are_told_as_such() {
    let world = World::new();
    let flow = FlowLine {
        table: "Deliver".into(),
        priority: "normal".into(),
        matching: "dst_port=4".into(),
        actions: "output db".into(),
        packets: None,
        because: Because { kind: "port".into(), id: String::new(), name: "db".into() },
    };
    let now = Arc::new(Mutex::new((false, false)));
    let seen = now.clone();
    world.node(move |_| {
        let (is_in_force, is_starting) = *seen.lock().unwrap();
        (0..3).map(|n| Reply::Flows { flows: vec![flow.clone()], is_last: n == 2, is_in_force, is_starting }).collect()
    });
    for (is_in_force, is_starting) in [(false, false), (false, true), (true, false)] {
        *now.lock().unwrap() = (is_in_force, is_starting);
        let output = world.command(&["flows"]).output().unwrap();
        let (text, besides) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success() && text == "Deliver      normal   dst_port=4 -> output db  # port db\n".repeat(3), "{text}");
        assert_eq!(besides.matches("NOT in force").count(), usize::from(!is_in_force && !is_starting), "{besides}");
        assert_eq!(besides.matches("has started and has not compared").count(), usize::from(is_starting), "{besides}");
        for line in world.ladon(&["flows", "-o", "json"]).succeeded().lines() {
            assert_eq!(serde_json::from_str::<Value>(line).unwrap()["is_in_force"], is_in_force);
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let world = World::new();
    world.node(|_| {
        let flow = FlowLine {
            table: "Deliver".into(),
            priority: "normal".into(),
            matching: String::new(),
            actions: "drop".into(),
            packets: None,
            because: Because { kind: "deliver".into(), id: String::new(), name: String::new() },
        };
        (0..200).map(|round| flows(vec![flow.clone(); 1000], round == 199)).collect()
    });
    let mut child = world.command(&["flows"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "Deliver      normal   any -> drop  # deliver\n");
    assert!(child.wait().unwrap().success());
}

/// Runs a command whose reader takes one line and goes away; whoever reads its complaints has gone before.
fn first_line(world: &World, arguments: &[&str]) -> String {
    let mut child = world.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{arguments:?}: {status}");
    line
}

#[test]
fn commands_end_quietly_when_nobody_reads_them() {
    let world = World::new();
    let rows: Vec<Value> = (0..20_000).map(|n| json!({"id": format!("p{n}"), "name": "web", "addresses": ["10.0.0.3"]})).collect();
    world.server(move |_| (200, json!({ "ports": rows, "nodes": rows })));
    world.node(|_| vec![flows(Vec::new(), true)]);
    assert_eq!(first_line(&world, &["ports"]), "PORT    NAME  ADDRESSES\n");
    assert_eq!(first_line(&world, &["nodes", "-o", "json"]), "{\n");
    assert!(first_line(&world, &["completions", "bash"]).starts_with("_ladon"));
    assert_eq!(first_line(&world, &["flows", "--table", "Deliver"]), "", "it would say that no flow fits, and nobody is there");
    let mut child = world.command(&["nodes", "--api", "https://x"]).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(1), "a failure is a failure, and no panic");
}

#[test]
fn a_node_that_does_not_answer_is_named_with_what_to_do() {
    let world = World::new();
    let text = world.ladon(&["flows"]).failed(1);
    assert!(text.contains("ladon node does not answer on") && text.contains("LADON_CONTROL"), "{text}");
}

#[test]
fn plug_makes_a_port_of_this_machine_and_asks_the_node_for_the_interface() {
    let world = World::new();
    world.server(with_blue);
    world.node(willing);
    let text = world.ladon(&["plug", "--network", "blue", "--name", "metal0", "--address", "10.1.0.50", "--default-route"]).succeeded();
    assert!(text.starts_with(&format!("metal0  port {PORT}  MAC 02:00:00:00:00:01  MTU 1430\n  address 10.1.0.50/24\n")), "{text}");
    let made = world.heard().into_iter().find(|heard| heard.line == "POST /v2.0/ports").unwrap().body;
    assert_eq!(
        made,
        json!({"port": {"network_id": NETWORK, "name": "metal1-metal0", "device_owner": "ladon:metal", "device_id": "metal0",
                        "binding:host_id": "metal1", "fixed_ips": [{"ip_address": "10.1.0.50"}]}})
    );
    let Some(Request::Plug(request)) = world.asked().last().cloned() else { panic!("{:?}", world.asked()) };
    assert!(request.interface == "metal0" && request.port.to_string() == PORT && request.default_route);
}

#[test]
fn plug_again_uses_the_port_that_is_there() {
    let world = World::new();
    world.server(|heard| match heard.line.as_str() {
        line if line.starts_with("GET /v2.0/ports") => (200, json!({"ports": [{"id": PORT, "network_id": NETWORK, "device_id": "plug7"}]})),
        _ => with_blue(heard),
    });
    world.node(willing);
    let plugged: Value = serde_json::from_str(&world.ladon(&["plug", "--network", "blue", "-o", "json"]).succeeded()).unwrap();
    assert_eq!((&plugged["interface"], &plugged["port"]), (&json!("plug7"), &json!(PORT)));
    assert_eq!(lines(&world, "POST"), 0);
}

#[test]
fn plug_that_the_node_refuses_leaves_no_port() {
    let world = World::new();
    world.server(with_blue);
    world.node(|request| match request {
        Request::Plug(_) => {
            vec![Reply::Error { what_happened: "the name is taken".into(), what_it_means: "nothing".into(), what_to_do: "another".into() }]
        }
        other => willing(other),
    });
    assert!(world.ladon(&["plug", "--network", "blue"]).failed(1).contains("the name is taken"));
    assert!(world.asked().iter().any(|request| matches!(request, Request::Unplug { .. })));
    assert_eq!(lines(&world, &format!("DELETE /v2.0/ports/{PORT}")), 1);
}

#[test]
fn plug_borrows_a_port_that_nobody_uses_and_unplug_gives_it_back() {
    let world_with = |more: Value| {
        let mut port = json!({"id": PORT, "network_id": NETWORK, "device_id": "", "device_owner": "", "binding:host_id": "", "status": "DOWN", "tags": []});
        port.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let world = World::new();
        world.server(move |heard| match heard.line.as_str() {
            line if line.starts_with("GET /v2.0/ports") => (200, json!({"ports": [port.clone()]})),
            line if line.starts_with("PUT") => (200, json!({})),
            _ => with_blue(heard),
        });
        world.node(willing);
        world
    };
    let plug = ["plug", "--network", "blue", "--name", "metal0", "--port", PORT];
    for used in [json!({"status": "ACTIVE"}), json!({"device_owner": "compute:nova", "device_id": "vm1"}), json!({"device_id": "x"})] {
        let world = world_with(used);
        let text = world.ladon(&plug).failed(1);
        assert!(text.contains("is in use") && lines(&world, "PUT") == 0, "{text}");
    }
    let world = world_with(json!({}));
    world.ladon(&plug).succeeded();
    assert_eq!((lines(&world, "PUT"), lines(&world, &format!("PUT /v2.0/ports/{PORT}/tags/ladon-borrowed"))), (2, 1));
    let world = world_with(json!({"tags": ["ladon-borrowed"]}));
    assert_eq!(world.ladon(&["unplug", "metal0"]).succeeded(), format!("metal0 is gone; its port {PORT} is left\n"));
    assert_eq!((lines(&world, "PUT"), lines(&world, &format!("DELETE /v2.0/ports/{PORT}/tags/ladon-borrowed"))), (1, 1));
}

/// A server with one port, which was somebody else's and keeps what it is told, and that fails to take `failing` as long as that is so.
fn with_a_port_of_somebody(world: &World, failing: String) -> Arc<AtomicBool> {
    let is_failing = Arc::new(AtomicBool::new(true));
    let fails = is_failing.clone();
    let port = Mutex::new(json!({"id": PORT, "network_id": NETWORK, "device_id": "", "device_owner": "", "binding:host_id": "",
        "status": "DOWN", "tags": []}));
    world.server(move |heard| {
        let mut port = port.lock().unwrap();
        match heard.line.as_str() {
            line if line == failing && fails.load(Ordering::SeqCst) => return (500, Value::Null),
            line if line.starts_with("GET /v2.0/ports") => return (200, json!({ "ports": [*port] })),
            line if line.starts_with("PUT") && line.contains("/tags/") => port["tags"] = json!(["ladon-borrowed"]),
            line if line.starts_with("PUT") => {
                port.as_object_mut().unwrap().extend(heard.body["port"].as_object().unwrap().clone());
            }
            _ => return with_blue(heard),
        }
        (200, json!({}))
    });
    world.node(willing);
    is_failing
}

#[test]
fn a_borrowed_port_is_given_back_whichever_request_failed_when_it_was_taken() {
    for failing in [format!("PUT /v2.0/ports/{PORT}/tags/ladon-borrowed"), format!("PUT /v2.0/ports/{PORT}")] {
        let world = World::new();
        let is_failing = with_a_port_of_somebody(&world, failing.clone());
        let plug = ["plug", "--network", "blue", "--name", "metal0", "--port", PORT];
        world.ladon(&plug).failed(1);
        is_failing.store(false, Ordering::SeqCst);
        world.ladon(&plug).succeeded();
        assert_eq!(world.ladon(&["unplug", "metal0"]).succeeded(), format!("metal0 is gone; its port {PORT} is left\n"), "{failing}");
        assert_eq!(lines(&world, &format!("DELETE /v2.0/ports/{PORT}/tags/ladon-borrowed")), 1);
        assert_eq!(lines(&world, "DELETE"), 1, "somebody else's port is not deleted");
    }
}

#[test]
fn unplug_that_fails_advises_to_delete_only_what_plug_made() {
    let world = World::new();
    let is_failing = with_a_port_of_somebody(&world, format!("PUT /v2.0/ports/{PORT}"));
    is_failing.store(false, Ordering::SeqCst);
    world.ladon(&["plug", "--network", "blue", "--name", "metal0", "--port", PORT]).succeeded();
    is_failing.store(true, Ordering::SeqCst);
    let text = world.ladon(&["unplug", "metal0"]).failed(1);
    assert!(text.contains("is not given back") && text.contains(&format!("--name metal0 --port {PORT}`")), "{text}");
    assert!(!text.contains("port delete"), "{text}");
    // What it says works.
    is_failing.store(false, Ordering::SeqCst);
    world.ladon(&["plug", "--network", "blue", "--name", "metal0", "--port", PORT]).succeeded();
    assert_eq!(world.ladon(&["unplug", "metal0"]).succeeded(), format!("metal0 is gone; its port {PORT} is left\n"));
    assert_eq!(lines(&world, &format!("DELETE /v2.0/ports/{PORT}")), 1, "the tag alone");

    let world = World::new();
    world.server(|heard| if heard.line.starts_with("DELETE") { (500, Value::Null) } else { with_blue(heard) });
    world.node(willing);
    let text = world.ladon(&["unplug", "metal0"]).failed(1);
    assert!(text.contains(&format!("`openstack port delete {PORT}`")), "{text}");
}

#[test]
fn plug_refuses_what_it_cannot_mean() {
    let world = World::new();
    world.server(|heard| match heard.line.as_str() {
        "GET /v2.0/networks?name=twice&fields=id" => (200, json!({"networks": [{"id": "1"}, {"id": "2"}]})),
        line if line.contains("device_id=metal0") => (200, json!({"ports": [{"id": PORT, "network_id": "another"}]})),
        "POST /v2.0/ports" => {
            (409, json!({"NeutronError": {"type": "IpAddressInUse", "message": "Unable to complete operation: in use.", "detail": ""}}))
        }
        _ => with_blue(heard),
    });
    world.node(willing);
    assert!(world.ladon(&["plug", "--network", "red"]).failed(1).contains("there is no network 'red'"));
    assert!(world.ladon(&["plug", "--network", "twice"]).failed(1).contains("2 networks are called 'twice'"));
    assert!(world.ladon(&["plug", "--network", "blue", "--name", "metal0"]).failed(1).contains("a port of another network"));
    assert!(world.ladon(&["plug", "--network", "blue"]).failed(1).contains("Unable to complete operation: in use."));
    assert_eq!(world.ladon(&["plug", "--network", "blue", "--name", "a name"]).code, 2);
    assert_eq!(world.ladon(&["plug"]).code, 2);
    assert!(!world.asked().iter().any(|request| matches!(request, Request::Plug(_))));
}

#[test]
fn unplug_takes_the_interface_and_then_its_port() {
    let world = World::new();
    world.server(with_blue);
    world.node(willing);
    assert_eq!(world.ladon(&["unplug", "metal0", "--keep-port"]).succeeded(), format!("metal0 is gone; its port {PORT} is left\n"));
    assert_eq!(lines(&world, "DELETE"), 0);
    assert_eq!(world.ladon(&["unplug", "metal0"]).succeeded(), "metal0 is gone, and so is its port\n");
    assert_eq!(lines(&world, "DELETE"), 1);
}

#[test]
fn unplug_without_a_server_says_what_is_left() {
    let world = World::new();
    world.node(willing);
    let text = world.ladon(&["unplug", "metal0"]).failed(1);
    assert!(text.contains("metal0 is gone, but its port") && text.contains("then `ladon unplug metal0`"), "{text}");
    let text = world.ladon(&["unplug", "metal0", "--keep-port"]).failed(1);
    assert!(text.contains("then `ladon unplug metal0 --keep-port`") && !text.contains("delete"), "{text}");
}

#[test]
fn certificates_are_made_once_by_one_authority() {
    let world = World::new();
    let dir = world.path("pki");
    let dir = dir.to_str().unwrap();
    world.ladon(&["pki", "--dir", dir, "server"]).succeeded();
    let authority = std::fs::read(world.path("pki/ca.crt")).unwrap();
    let text = world.ladon(&["pki", "--dir", dir, "node", "n1", "n2"]).succeeded();
    assert!(text.contains("node-n1.crt") && text.contains("node-n2.key"), "{text}");
    assert_eq!(std::fs::read(world.path("pki/ca.crt")).unwrap(), authority);
    assert!(world.ladon(&["pki", "--dir", dir, "node", "../x"]).failed(1).contains("no certificate was made"));
}

#[test]
fn help_teaches_and_completions_complete() {
    let world = World::new();
    assert!(world.ladon(&["--help"]).succeeded().contains("Examples:"));
    assert!(world.ladon(&["plug", "--help"]).succeeded().contains("ladon plug --network blue"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(world.ladon(&["completions", shell]).succeeded().contains("unplug"), "{shell}");
    }
    let reference = world.ladon(&["config-reference"]).succeeded();
    assert!(
        reference.contains("## `ladon kube`") && reference.contains("| `api.listen` |") && reference.contains("### `[ovs]`"),
        "{reference}"
    );
}

#[test]
fn a_part_with_a_bad_configuration_does_not_start() {
    let world = World::new();
    let file = world.path("bad.toml");
    std::fs::write(&file, "no_such_key = 1").unwrap();
    for part in ["server", "node", "kube"] {
        let done = world.ladon(&[part, "--config", file.to_str().unwrap()]);
        assert!(done.code == 1 && done.stderr.contains("bad.toml") && done.stderr.contains("no_such_key"), "{done:?}");
        let done = world.ladon(&[part, "--config", "/no/such/file"]);
        assert!(done.code == 1 && done.stderr.contains("/no/such/file"), "{done:?}");
    }
}

#[test]
fn a_machine_that_was_taken_out_is_forgotten_and_a_running_one_is_not() {
    let world = World::new();
    world.server(|heard| match heard.line.as_str() {
        "GET /ladon/v1/nodes" => (200, json!({"nodes": [{"name": "n 3", "is_connected": false}, {"name": "n1", "is_connected": false}]})),
        "DELETE /ladon/v1/nodes/n%203" => (204, Value::Null),
        "DELETE /ladon/v1/nodes/n1" => (409, json!({"error": {"message": "node n1 is connected"}})),
        _ => (404, json!({"error": {"message": "no node named n9 is known"}})),
    });
    assert_eq!(world.ladon(&["nodes", "--forget", "n 3"]).succeeded(), "node n 3 is forgotten; ports that it had claimed are free\n");
    let text = world.ladon(&["nodes", "--forget", "n1"]).failed(1);
    assert!(text.contains("node n1 is connected") && text.contains("stop `ladon node` on n1"), "{text}");
    assert!(world.ladon(&["nodes", "--forget", "n9"]).failed(1).contains("no node named n9 is known"));
    assert_eq!(world.ladon(&["nodes", "n1", "--forget", "n2"]).code, 2);
}

/// Two servers on one store, and one that is not there.
fn two_servers(world: &World) -> String {
    let list = |server: &str, nodes: Value| json!({"server": server, "revision": 7, "nodes": nodes});
    let first = list(
        "s1",
        json!([
            {"name": "gone", "is_connected": null, "elsewhere": "s0"},
            {"name": "here", "is_connected": false},
            {"name": "there", "is_connected": null, "elsewhere": "s2"},
        ]),
    );
    let second = list(
        "s2",
        json!([
            {"name": "gone", "is_connected": null, "elsewhere": "s0"},
            {"name": "here", "is_connected": null, "elsewhere": "s1", "problem": "its view is of another store"},
            {"name": "stranger", "is_connected": false, "problem": "its view is of another store"},
            {"name": "there", "is_connected": true, "revision_in_force": 7},
        ]),
    );
    world.server_at("s1", move |heard| match heard.line.as_str() {
        "GET /ladon/v1/nodes" => (200, first.clone()),
        "DELETE /ladon/v1/nodes/gone" => (204, Value::Null),
        _ => (500, Value::Null),
    });
    world.server_at("s2", move |heard| match heard.line.as_str() {
        "GET /ladon/v1/nodes" => (200, second.clone()),
        "DELETE /ladon/v1/nodes/stranger" => (204, Value::Null),
        _ => (404, json!({"error": {"message": "no such node is known"}})),
    });
    world.api(&["s1", "s2"])
}

#[test]
fn several_servers_lists_of_nodes_are_one_in_which_nothing_is_lost_and_nobody_called_disconnected_by_guess() {
    let world = World::new();
    let api = two_servers(&world);
    let (unknown, stranger) = ("it follows a server that was not asked or does not answer", "its view is of another store");
    let columns =
        |text: &str| text.lines().skip(1).map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    let text = world.ladon(&["--api", &api, "nodes"]).succeeded();
    assert_eq!(columns(&text), ["gone -", "here no", "stranger no", "there yes"], "{text}");
    let problem = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_string();
    assert!(problem("gone").contains(unknown) && problem("here").ends_with(stranger) && problem("stranger").ends_with(stranger), "{text}");
    assert!(!problem("there").contains(unknown), "{text}");
    // One server alone does not know, and says so.
    let text = world.ladon(&["--api", &world.api(&["s1"]), "nodes", "there"]).succeeded();
    assert!(text.starts_with("NODE   PROBLEM\nthere ") && text.contains(unknown), "{text}");
    // Whose answer is missing is said.
    let text = world.ladon(&["--api", &world.api(&["s1", "s3"]), "nodes"]).succeeded();
    let line = text.lines().last().unwrap();
    assert!(
        line.starts_with("server unix:") && line.contains("s3: ") && line.contains("what only it knows of its nodes is not shown"),
        "{text}"
    );
    let json: Value = serde_json::from_str(&world.ladon(&["--api", &world.api(&["s1", "s3"]), "nodes", "-o", "json"]).succeeded()).unwrap();
    assert_eq!(json["unanswered"][0]["server"], world.api(&["s3"]), "{json}");
}

#[test]
fn a_node_is_forgotten_by_the_servers_that_know_it_unless_it_is_connected_to_one() {
    let world = World::new();
    let api = two_servers(&world);
    let forget = |node: &str| world.ladon(&["--api", &api, "nodes", "--forget", node]);
    let text = forget("there").failed(1);
    assert!(text.contains("node there is connected to the server at unix:") && text.contains("stop `ladon node` on there"), "{text}");
    assert_eq!(lines(&world, "DELETE"), 0);
    // The first server does not know it, and is not asked.
    assert_eq!(forget("stranger").succeeded(), "node stranger is forgotten; ports that it had claimed are free\n");
    // The second has heard of it from the first meanwhile.
    let text = forget("gone").succeeded();
    assert!(text.starts_with("node gone is forgotten;") && text.contains("if it is connected there, it is listed again"), "{text}");
}
