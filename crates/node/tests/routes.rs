//! Which routes the machine's own interfaces have, and that the kernel has them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;

use apps::testing::{interface, network, node as machine, port, put, router, subnet};
use apps::{Numbers, View};
use cni::netlink::Route;
use ipnet::IpNet;
use model::{NodeName, Port, Route as HostRoute, Subnet, owner};
use nix::sched::{CloneFlags, unshare};
use node::host::routes::{Elsewhere, wanted};
use node::host::{Plugged, configure};
use node::local::{Local, LocalPort};

/// A port of this machine on `pods`, which says these host routes, with a router to `office`, whose subnet covers the underlay,
/// and to `lab`.
fn machine_port(owner: &str, host_routes: &[(&str, &str)]) -> Arc<LocalPort> {
    let addresses = [("four", "10.244.0.9"), ("six", "fd00:244::9")];
    let own = Port { device_owner: owner.into(), host: Some(NodeName("n1".into())), ..port("own", 9, "pods", &addresses) };
    let told = |(to, hop): &(&str, &str)| HostRoute { destination: to.parse().unwrap(), nexthop: hop.parse().unwrap() };
    let mut view = View::new(Numbers::default());
    let changes = [
        put(machine("n1", "192.0.2.11")),
        put(network("pods", 1)),
        put(network("office", 2)),
        put(network("lab", 3)),
        put(Subnet { host_routes: host_routes.iter().map(told).collect(), ..subnet("four", "pods", "10.244.0.0/16") }),
        put(Subnet { gateway: "fd00:244::1".parse().ok(), ..subnet("six", "pods", "fd00:244::/64") }),
        put(subnet("offices", "office", "192.0.0.0/16")),
        put(subnet("labs", "lab", "10.9.0.0/24")),
        put(subnet("labs6", "lab", "fd00:9::/64")),
        put(router("r", 4)),
        put(interface("r1", 11, "pods", "r", &[("four", "10.244.0.1"), ("six", "fd00:244::1")])),
        put(interface("r2", 12, "office", "r", &[("offices", "192.0.0.1")])),
        put(interface("r3", 13, "lab", "r", &[("labs", "10.9.0.1"), ("labs6", "fd00:9::1")])),
        // Somebody's own router on the shared network, which is nobody's gateway there.
        put(network("theirs", 5)),
        put(subnet("anything", "theirs", "8.8.8.0/24")),
        put(router("x", 6)),
        put(interface("x1", 14, "pods", "x", &[("four", "10.244.0.77")])),
        put(interface("x2", 15, "theirs", "x", &[("anything", "8.8.8.1")])),
        put(own.clone()),
    ];
    changes.into_iter().for_each(|change| view.apply(change, &mut Default::default()));
    Local::of(&view, &BTreeSet::from([own.id])).port(own.id).expect("it lives here").clone()
}

fn plugged(port: &LocalPort, default_route: bool, routes: &[&str]) -> Plugged {
    Plugged { port: port.port.id, default_route, routes: nets(routes) }
}

fn nets<T: FromIterator<IpNet>>(texts: &[&str]) -> T {
    texts.iter().map(|net| net.parse().unwrap()).collect()
}

fn underlay() -> Vec<IpAddr> {
    vec!["192.0.2.11".parse().unwrap()]
}

/// A machine whose tunnels end at 192.0.2.11, with a network of its own besides.
fn elsewhere() -> Elsewhere {
    Elsewhere { underlay: underlay(), on_link: nets(&["192.0.2.0/24", "172.30.0.0/16"]) }
}

/// The routes, as `ip route` writes them.
fn lines(routes: &[Route]) -> Vec<String> {
    let through = |route: &Route| route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    routes.iter().map(|route| format!("{}{} metric {}", route.destination, through(route), route.metric)).collect()
}

/// Where the network's router leads.
const LABS: [&str; 2] = ["10.9.0.0/24 via 10.244.0.1 metric 5000", "fd00:9::/64 via fd00:244::1 metric 5000"];

#[test]
fn a_subnet_over_the_underlay_or_behind_a_strangers_router_is_not_routed_through_the_network() {
    let port = machine_port(owner::NODE, &[]);
    let routes = |asked: &[&str]| lines(&wanted(&port, &plugged(&port, false, asked), &elsewhere()).routes);
    assert_eq!(routes(&[]), LABS);
    assert_eq!(routes(&["198.51.100.0/24"]), [LABS[0], "198.51.100.0/24 via 10.244.0.1 metric 50", LABS[1]]);
}

#[test]
fn host_routes_lead_neither_everything_nor_the_machines_own_networks_through_the_network() {
    let told = [
        ("0.0.0.0/0", "10.244.0.7"),
        ("64.0.0.0/2", "10.244.0.7"),
        ("192.0.2.11/32", "10.244.0.7"),
        ("192.0.2.12/32", "10.244.0.7"),
        ("172.30.5.0/24", "10.244.0.7"),
        ("198.51.100.0/24", "10.244.0.7"),
    ];
    let port = machine_port(owner::METAL, &told);
    let found = wanted(&port, &plugged(&port, false, &[]), &elsewhere());
    assert_eq!(lines(&found.routes), [LABS[0], "198.51.100.0/24 via 10.244.0.7 metric 5000", LABS[1]]);
    let refused: BTreeSet<IpNet> = nets(&["64.0.0.0/2", "192.0.0.0/16", "192.0.2.11/32", "192.0.2.12/32", "172.30.5.0/24"]);
    assert_eq!(found.refused, refused);

    // The user knows what the machine's default route is for.
    let found = wanted(&port, &plugged(&port, true, &["172.30.5.0/24"]), &elsewhere());
    let asked = ["0.0.0.0/0 via 10.244.0.1 metric 50", "64.0.0.0/2 via 10.244.0.7 metric 5000"];
    assert!(asked.iter().all(|line| lines(&found.routes).contains(&line.to_string())), "{found:?}");
    assert!(lines(&found.routes).contains(&"172.30.5.0/24 via 10.244.0.1 metric 50".into()), "{found:?}");
}

#[test]
fn a_next_hop_outside_of_the_subnets_is_on_the_link_unless_it_is_the_machines_own() {
    let told = [("198.51.100.0/24", "203.0.113.7"), ("198.51.101.0/24", "192.0.2.1"), ("198.51.102.0/24", "203.0.113.7")];
    let port = machine_port(owner::NODE, &told);
    let found = wanted(&port, &plugged(&port, false, &[]), &elsewhere());
    assert_eq!(
        lines(&found.routes),
        [
            "203.0.113.7/32 metric 5000",
            LABS[0],
            "198.51.100.0/24 via 203.0.113.7 metric 5000",
            "198.51.102.0/24 via 203.0.113.7 metric 5000",
            LABS[1]
        ]
    );
    assert_eq!(found.refused, nets::<BTreeSet<IpNet>>(&["192.0.0.0/16", "198.51.101.0/24"]));
}

/// Runs `work` in a network namespace with the interfaces `plug9`, which is to be the port's, and `eth9`, which has 172.30.0.9/16.
fn on_a_machine(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link add plug9 type veth peer name peer9");
        ip("link add eth9 type veth peer name far9");
        for name in ["peer9", "eth9", "far9"] {
            ip(&format!("link set {name} up"));
        }
        ip("address add 172.30.0.9/16 dev eth9");
        work();
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// What `ip` prints, a line for every route, without the white space at its end.
fn ip(line: &str) -> Vec<String> {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.trim_end().to_owned()).collect()
}

/// The routes through `plug9` that the kernel did not make itself.
fn made() -> Vec<String> {
    let all = [ip("-4 route show dev plug9"), ip("-6 route show dev plug9")].concat();
    let all = all.iter().filter_map(|line| line.split_once(" proto static"));
    let metric = |rest: &str| rest.split_once("metric ").and_then(|(_, rest)| rest.split(' ').next().map(str::to_owned));
    let mut lines: Vec<String> = all.map(|(to, rest)| format!("{to} metric {}", metric(rest).unwrap_or_default())).collect();
    lines.sort();
    lines
}

#[test]
fn what_the_machine_has_stays_and_is_used_before_what_the_network_says() {
    on_a_machine(|| {
        ip("route add 10.9.0.0/24 via 172.30.0.1 dev eth9");
        ip("route add 0.0.0.0/0 via 172.30.0.1 dev eth9 metric 100");
        let port = machine_port(owner::METAL, &[]);
        configure("plug9", &port, &plugged(&port, true, &[]), &underlay(), false).unwrap();
        let theirs = ip("route show dev eth9");
        assert!(theirs.contains(&"10.9.0.0/24 via 172.30.0.1".into()), "{theirs:?}");
        assert!(theirs.contains(&"default via 172.30.0.1 metric 100".into()), "{theirs:?}");
        assert_eq!(made(), [LABS[0], "default via 10.244.0.1 metric 50", "default via fd00:244::1 metric 50", LABS[1]]);
        assert!(ip("route get 10.9.0.7")[0].contains("dev eth9"));
        assert!(ip("route get 203.0.113.7")[0].contains("dev plug9"), "the default route that was asked for");

        configure("plug9", &port, &plugged(&port, false, &[]), &underlay(), false).unwrap();
        assert!(ip("route get 203.0.113.7")[0].contains("dev eth9"), "it is not asked for any more");
        assert_eq!(ip("route show dev eth9"), theirs);
    });
}

#[test]
fn routes_of_an_earlier_build_go_and_one_that_the_kernel_refuses_is_alone() {
    on_a_machine(|| {
        // The subnet's broadcast address is no next hop for the kernel.
        let told = [("1.2.3.0/24", "10.244.255.255"), ("198.51.100.0/24", "203.0.113.7")];
        let port = machine_port(owner::METAL, &told);
        let wish = plugged(&port, false, &[]);
        configure("plug9", &machine_port(owner::METAL, &[]), &wish, &underlay(), false).unwrap();
        ip("route add 10.9.0.0/24 via 10.244.0.1 dev plug9 src 10.244.0.9 proto static");
        ip("route add 8.8.8.0/24 via 10.244.0.1 dev plug9 src 10.244.0.9 proto static");
        ip("route add fd00:9::/64 via fd00:244::1 dev plug9 src fd00:244::9 proto static");
        let refused = configure("plug9", &port, &wish, &underlay(), false).unwrap_err();
        assert!(refused.contains("the route to 1.2.3.0/24 through 10.244.255.255"), "{refused}");
        let hops = ["198.51.100.0/24 via 203.0.113.7", "203.0.113.7"];
        assert_eq!(made(), [LABS[0], &format!("{} metric 5000", hops[0]), &format!("{} metric 5000", hops[1]), LABS[1]]);

        configure("plug9", &machine_port(owner::METAL, &[]), &wish, &underlay(), false).unwrap();
        assert_eq!(made(), LABS);
    });
}
