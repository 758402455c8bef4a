//! The plugin as a runtime starts it, in real namespaces, against a node that speaks the protocol.

mod world;

use std::time::{Duration, Instant};

use cni::config::CONFIG_MAX;
use cni::daemon::{ADD_DEADLINE, Attachment, Reply, Request};
use cni::host_ifname;
use serde_json::{Value, json};
use world::{World, prepared, willing};

fn attachment(container: &str, ifname: &str) -> Attachment {
    Attachment { container: container.into(), ifname: ifname.into() }
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

fn feature(world: &World, ifname: &str, key: &str) -> String {
    let output = world.pod.run(|| std::process::Command::new("ethtool").args(["-k", ifname]).output().unwrap());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": ")).unwrap().to_string()
}

#[test]
fn add_makes_the_interface_that_the_node_describes() {
    let world = World::new();
    let node = world.node(willing);
    let result = world.add("c1", "eth0").succeeded();
    let host_name = host_ifname(&attachment("c1", "eth0"));

    let host_end = &world.host.ip(&format!("link show {host_name}"))[0];
    assert_eq!((&host_end["mtu"], &host_end["ifalias"]), (&json!(1430), &json!("default/web eth0")));
    assert_eq!(world.host.sysctl(&format!("ipv6/conf/{host_name}/disable_ipv6")), "1");
    assert_eq!(world.host.sysctl(&format!("ipv4/conf/{host_name}/arp_ignore")), "8");

    let pod_end = &world.pod.ip("address show eth0")[0];
    assert_eq!((&pod_end["address"], &pod_end["mtu"], &pod_end["operstate"]), (&json!("0a:00:0a:01:00:48"), &json!(1430), &json!("UP")));
    let mut addresses: Vec<_> = pod_end["addr_info"].as_array().unwrap().iter().map(|a| a["local"].as_str().unwrap()).collect();
    addresses.sort();
    assert_eq!(addresses, ["10.1.48.5", "fd00:48::5", "fe80::800:aff:fe01:48"]);
    assert!(!pod_end.to_string().contains("tentative"), "{pod_end}");
    for key in ["accept_ra", "autoconf"] {
        assert_eq!(world.pod.sysctl(&format!("ipv6/conf/eth0/{key}")), "0", "{key}");
    }
    assert_eq!(world.pod.sysctl("ipv6/conf/eth0/addr_gen_mode"), "1");
    for key in ["tx-checksumming", "tx-tcp-segmentation", "scatter-gather"] {
        assert!(feature(&world, "eth0", key).starts_with("off"), "{key}");
    }

    let routes = world.pod.ip("route show");
    let through = |dst: &str| routes.as_array().unwrap().iter().find(|route| route["dst"] == dst).cloned().unwrap_or_default();
    assert_eq!(through("169.254.1.1")["scope"], "link");
    assert_eq!(through("10.96.48.0/24")["gateway"], "169.254.1.1");

    assert_eq!(result["ips"][0], json!({"interface": 1, "address": "10.1.48.5/24", "gateway": "169.254.1.1"}));
    assert_eq!(result["interfaces"][0]["mac"], host_end["address"]);
    assert_eq!(result["interfaces"][1], json!({"name": "eth0", "mac": "0a:00:0a:01:00:48", "sandbox": world.pod.path()}));
    assert!(matches!(&node.asked()[..], [Request::Prepare { network, .. }, Request::Attach { .. }] if network == "ladon"));
    assert!(std::fs::read_to_string(world.folder.path().join("log")).unwrap().contains("ADD c1 eth0 done after"));
}

#[test]
fn offload_stays_where_the_kernel_forwards() {
    let world = World::new();
    world.node(|request| match request {
        Request::Prepare { attachment, .. } => match prepared(attachment) {
            Reply::Prepared(mut prepared) => {
                prepared.tx_offload = true;
                Some(Reply::Prepared(prepared))
            }
            other => Some(other),
        },
        other => willing(other),
    });
    world.add("c1", "eth0").succeeded();
    assert_eq!(feature(&world, "eth0", "tx-checksumming"), "on");
}

#[test]
fn every_version_gets_its_own_shape_and_check_accepts_it() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut world = World::new();
        world.version = version;
        world.node(willing);
        let result = world.add("c1", "eth0").succeeded();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0]["version"], if version < "1" { json!("4") } else { Value::Null });
        let check = world.call("CHECK", "c1", "eth0", &with(world.config(), "prevResult", result));
        match version {
            "0.3.1" => assert_eq!(check.failed().0, 1),
            _ => assert_eq!(check.succeeded(), Value::Null),
        }
    }
}

#[test]
fn check_finds_what_is_gone() {
    for (damage, found) in [
        ("address del 10.1.48.5/24 dev eth0", "lost the address 10.1.48.5/24"),
        ("route del 10.96.48.0/24", "lost its route to 10.96.48.0/24"),
        ("link set eth0 down", "eth0 is down"),
        ("link set eth0 address 02:00:00:00:00:01", "has the MAC 02:00:00:00:00:01"),
        ("link del eth0", "is gone"),
    ] {
        let world = World::new();
        world.node(willing);
        let config = with(world.config(), "prevResult", world.add("c1", "eth0").succeeded());
        world.pod.ip(damage);
        let (code, text) = world.call("CHECK", "c1", "eth0", &config).failed();
        assert!(code == 101 && text.contains(found), "{damage}: {code} {text}");
    }
}

#[test]
fn check_needs_the_previous_result_and_asks_the_node() {
    let world = World::new();
    world.node(|request| match request {
        Request::Check { .. } => Some(Reply::Error { code: 11, msg: "no flows".into(), details: "wait".into() }),
        other => willing(other),
    });
    let result = world.add("c1", "eth0").succeeded();
    assert_eq!(world.call("CHECK", "c1", "eth0", &world.config()).failed().0, 7);
    assert_eq!(world.call("CHECK", "c1", "eth0", &with(world.config(), "prevResult", result)).failed(), (11, "no flows: wait".into()));
}

#[test]
fn del_takes_the_interface_away_and_may_be_repeated() {
    let world = World::new();
    let node = world.node(willing);
    world.add("c1", "eth0").succeeded();
    for _ in 0..2 {
        assert_eq!(world.del("c1", "eth0").succeeded(), Value::Null);
        assert!(world.host.link_names().is_empty() && world.pod.link_names().is_empty());
    }
    assert!(matches!(node.asked().last(), Some(Request::Detach { .. })));
}

#[test]
fn del_succeeds_without_a_node_or_a_namespace() {
    let world = World::new();
    {
        let _node = world.node(willing);
        world.add("c1", "eth0").succeeded();
    }
    std::fs::remove_file(world.socket()).unwrap();
    let mut plugin = world.plugin("DEL", "c1", "eth0");
    plugin.env("CNI_NETNS", "/run/netns/that-is-gone");
    world.run(&mut plugin, world.config().to_string().as_bytes()).succeeded();
    assert!(world.host.link_names().is_empty(), "the plugin removes the link itself");
    let mut plugin = world.plugin("DEL", "c1", "eth0");
    plugin.env_remove("CNI_NETNS");
    world.run(&mut plugin, world.config().to_string().as_bytes()).succeeded();
}

#[test]
fn a_late_del_of_an_old_sandbox_leaves_the_new_one_alone() {
    let world = World::new();
    world.node(willing);
    world.add("old", "eth0").succeeded();
    let new = world::Namespace::new();
    let mut plugin = world.plugin("ADD", "new", "eth0");
    plugin.env("CNI_NETNS", new.path());
    world.run(&mut plugin, world.config().to_string().as_bytes()).succeeded();
    world.del("old", "eth0").succeeded();
    assert_eq!(world.host.link_names(), [host_ifname(&attachment("new", "eth0"))]);
    assert_eq!(new.link_names(), ["eth0"]);
}

#[test]
fn one_container_may_have_two_interfaces() {
    let world = World::new();
    world.node(willing);
    world.add("c1", "eth0").succeeded();
    world.add("c1", "net1").succeeded();
    assert_eq!(world.host.link_names().len(), 2);
    world.del("c1", "net1").succeeded();
    assert_eq!(world.pod.link_names(), ["eth0"]);
}

#[test]
fn a_taken_name_is_refused_and_its_owner_untouched() {
    let world = World::new();
    let node = world.node(willing);
    world.pod.ip("link add eth0 type veth peer name other");
    let (code, text) = world.add("c1", "eth0").failed();
    assert!(code == 4 && text.starts_with("CNI_IFNAME is 'eth0', and the pod has an interface"), "{code} {text}");
    assert_eq!(world.pod.link_names(), ["other", "eth0"]);
    assert!(world.host.link_names().is_empty());
    assert!(!node.asked().iter().any(|request| matches!(request, Request::Detach { .. } | Request::Attach { .. })));
}

#[test]
fn a_second_add_of_a_working_attachment_does_it_no_harm() {
    let world = World::new();
    world.node(willing);
    world.add("c1", "eth0").succeeded();
    assert_eq!(world.add("c1", "eth0").failed().0, 4);
    assert_eq!(world.host.link_names(), [host_ifname(&attachment("c1", "eth0"))]);
    assert_eq!(world.pod.link_names(), ["eth0"]);
}

#[test]
fn a_missing_pod_is_a_reason_to_try_again() {
    let world = World::new();
    world.node(|_| Some(Reply::Error { code: 11, msg: "no port for pod default/web".into(), details: "is ladon kube running?".into() }));
    assert_eq!(world.add("c1", "eth0").failed(), (11, "no port for pod default/web: is ladon kube running?".into()));
    assert!(world.host.link_names().is_empty());
}

#[test]
fn waiting_for_the_port_leaves_less_time_for_its_flows() {
    const WAITED: Duration = Duration::from_millis(200);
    let world = World::new();
    let node = world.node(|request| {
        if matches!(request, Request::Prepare { .. }) {
            // As a node whose view gets the port late.
            std::thread::sleep(WAITED);
        }
        willing(request)
    });
    world.add("c1", "eth0").succeeded();
    let deadlines: Vec<u64> = node.asked().iter().filter_map(deadline_ms).collect();
    let [prepare, attach] = deadlines[..] else { panic!("{deadlines:?}") };
    assert!(prepare <= ADD_DEADLINE.as_millis() as u64 && attach <= prepare - 200, "{deadlines:?}");
}

fn deadline_ms(request: &Request) -> Option<u64> {
    match request {
        Request::Prepare { deadline_ms, .. } | Request::Attach { deadline_ms, .. } => Some(*deadline_ms),
        _ => None,
    }
}

#[test]
fn without_a_node_add_says_so_and_status_is_not_available() {
    let mut world = World::new();
    let (code, text) = world.add("c1", "eth0").failed();
    assert!(code == 11 && text.contains("ladon node does not answer") && text.contains("start ladon node"), "{code} {text}");
    world.version = "1.1.0";
    assert_eq!(world.call("STATUS", "", "", &world.config()).failed().0, 50);
    std::os::unix::net::UnixListener::bind(world.socket()).unwrap();
    assert_eq!(world.add("c1", "eth0").failed().0, 11, "a socket that nobody listens on any more");
}

#[test]
fn a_node_that_hangs_up_leaves_no_interface() {
    let world = World::new();
    let node = world.node(|request| match request {
        Request::Attach { .. } => None,
        other => willing(other),
    });
    assert_eq!(world.add("c1", "eth0").failed().0, 11);
    assert!(world.host.link_names().is_empty() && world.pod.link_names().is_empty());
    assert!(matches!(node.asked().last(), Some(Request::Detach { .. })));
}

#[test]
fn a_refused_address_undoes_the_interface() {
    let world = World::new();
    world.node(|request| match request {
        Request::Prepare { attachment, .. } => match prepared(attachment) {
            Reply::Prepared(mut prepared) => {
                prepared.addresses[0].address = "224.0.0.1/24".parse().unwrap();
                prepared.addresses[1].address = "ff02::1/64".parse().unwrap();
                Some(Reply::Prepared(prepared))
            }
            other => Some(other),
        },
        other => willing(other),
    });
    let (code, text) = world.add("c1", "eth0").failed();
    assert!(code == 100 && text.contains("giving eth0 the address"), "{code} {text}");
    assert!(world.host.link_names().is_empty() && world.pod.link_names().is_empty());
}

#[test]
fn a_plugin_killed_half_way_leaves_nothing_after_del() {
    let world = World::new();
    let node = world.node(|request| match request {
        Request::Attach { .. } => loop {
            std::thread::park();
        },
        other => willing(other),
    });
    let mut child = world.start(&mut world.plugin("ADD", "c1", "eth0"), world.config().to_string().as_bytes());
    let deadline = Instant::now() + Duration::from_secs(120);
    while !node.asked().iter().any(|request| matches!(request, Request::Attach { .. })) {
        assert!(Instant::now() < deadline, "the plugin never came to Attach");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(world.pod.link_names(), ["eth0"]);
    world.del("c1", "eth0").succeeded();
    assert!(world.host.link_names().is_empty() && world.pod.link_names().is_empty());
}

#[test]
fn a_left_over_host_end_does_not_stop_add() {
    let world = World::new();
    world.node(willing);
    world.host.ip(&format!("link add {} type veth peer name other", host_ifname(&attachment("c1", "eth0"))));
    assert_eq!(world.host.link_names().len(), 2);
    world.add("c1", "eth0").succeeded();
}

#[test]
fn gc_removes_what_the_node_forgets() {
    let mut world = World::new();
    world.version = "1.1.0";
    let node = world.node(|request| match request {
        Request::Gc { .. } => Some(Reply::Collected { removed: vec![host_ifname(&attachment("gone", "eth0")), "lad-never-was".into()] }),
        other => willing(other),
    });
    world.add("gone", "eth0").succeeded();
    world.add("c1", "eth1").succeeded();
    let valid = json!([{"containerID": "c1", "ifname": "eth1"}]);
    world.call("GC", "", "", &with(world.config(), "cni.dev/valid-attachments", valid)).succeeded();
    assert_eq!(world.host.link_names(), [host_ifname(&attachment("c1", "eth1"))]);
    let asked = node.asked();
    assert!(matches!(asked.last(), Some(Request::Gc { valid_attachments, .. }) if valid_attachments == &[attachment("c1", "eth1")]));
    assert_eq!(world.call("GC", "", "", &world.config()).failed().0, 7, "no list is not an empty list");
}

#[test]
fn status_and_gc_came_with_1_1_0() {
    let mut world = World::new();
    world.node(willing);
    assert_eq!(world.call("STATUS", "", "", &world.config()).failed().0, 1);
    assert_eq!(world.call("GC", "", "", &world.config()).failed().0, 1);
    world.version = "1.1.0";
    assert_eq!(world.call("STATUS", "", "", &world.config()).succeeded(), Value::Null);
}

#[test]
fn version_answers_without_anything_else() {
    let world = World::new();
    let versions = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    let answer = world.run(&mut world.plugin("VERSION", "", ""), br#"{"cniVersion":"0.4.0"}"#).succeeded();
    assert_eq!(answer, json!({"cniVersion": "0.4.0", "supportedVersions": versions}));
    assert_eq!(world.run(&mut world.plugin("VERSION", "", ""), b"").succeeded()["supportedVersions"], versions);
}

#[test]
fn bad_input_is_answered_with_the_codes_of_the_specification() {
    let world = World::new();
    world.node(willing);
    let whole = world.config().to_string();
    assert_eq!(world.run(&mut world.plugin("ADD", "c1", "eth0"), &whole.as_bytes()[..whole.len() / 2]).failed().0, 6);
    assert_eq!(world.run(&mut world.plugin("ADD", "c1", "eth0"), b"").failed().0, 6);
    let endless = " ".repeat(CONFIG_MAX as usize - whole.len() / 2) + &whole;
    assert_eq!(world.run(&mut world.plugin("ADD", "c1", "eth0"), endless.as_bytes()).failed().0, 6, "no more is read");
    assert_eq!(world.run(&mut world.plugin("ADD", "c1", "eth0"), br#"{"cniVersion":"9.9.9","name":"x"}"#).failed().0, 1);
    assert_eq!(world.run(&mut world.plugin("FLY", "c1", "eth0"), whole.as_bytes()).failed().0, 4);
    for variable in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
        let mut plugin = world.plugin("ADD", "c1", "eth0");
        let (code, text) = world.run(plugin.env_remove(variable), whole.as_bytes()).failed();
        assert!(code == 4 && text.starts_with(variable), "{variable}: {code} {text}");
    }
    for (netns, code) in [("/run/netns/none", 3), ("/etc/passwd", 100)] {
        let mut plugin = world.plugin("ADD", "c1", "eth0");
        assert_eq!(world.run(plugin.env("CNI_NETNS", netns), whole.as_bytes()).failed().0, code, "{netns}");
    }
    let mut plugin = world.plugin("ADD", "c1", "eth0");
    let (code, text) = world.run(plugin.env("CNI_NETNS", "/proc/self/ns/net"), whole.as_bytes()).failed();
    assert!(code == 4 && text.contains("the host's own namespace"), "{code} {text}");
    assert!(world.host.link_names().is_empty() && world.pod.link_names().is_empty());
}

#[test]
fn add_itself_waits_for_nothing() {
    const ROUNDS: usize = 21;
    let world = World::new();
    world.node(willing);
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|round| {
            let container = format!("c{round}");
            let started = Instant::now();
            world.add(&container, "eth0").succeeded();
            let time = started.elapsed();
            world.del(&container, "eth0").succeeded();
            time
        })
        .collect();
    times.sort();
    println!("ADD with a node that answers at once: p50 {:?}, max {:?}", times[ROUNDS / 2], times[ROUNDS - 1]);
    // The goal is 23 ms with the node's share, which the benchmark measures. This is for a pause that nothing needs.
    assert!(times[0] < Duration::from_millis(500), "{times:?}");
}
