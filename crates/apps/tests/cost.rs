//! docs/work.md: what the last of many objects costs a node, counted and not timed, for every kind of object.

use std::fmt::Write;

use apps::testing::*;
use apps::{ALL, Change, Engine, Numbers, Work};
use model::*;

/// How many of the kind are there already.
const SIZES: [u32; 3] = [10, 100, 1_000];

struct Row {
    name: &'static str,
    /// What must be there for one of them to matter.
    ground: fn() -> Vec<Change>,
    /// The n-th, with what it brings.
    one: fn(u32) -> Vec<Change>,
    /// Why it costs more among more of them, where it does.
    why: &'static str,
}

/// Rules that say the same of a packet share a flow.
const PAGES: &str = "clauses for the same packets are one flow, in pages of a few hundred (docs/decisions/0033)";

/// An interface may make one routing domain of two.
const WALK: &str = "the networks and routers of its routing domain are visited; nothing else grows";

const fn row(name: &'static str, ground: fn() -> Vec<Change>, one: fn(u32) -> Vec<Change>) -> Row {
    Row { name, ground, one, why: "" }
}

const fn grows(row: Row, why: &'static str) -> Row {
    Row { why, ..row }
}

const ROWS: [Row; 18] = [
    row("port on another node, in a group that a rule here names", ground, |n| vec![put(remote(n, &["web"]))]),
    row("port on another node, on a routed network", two_networks, |n| vec![put(remote(n, &[]))]),
    row("port here, plugged in", ground, |n| vec![put(local(n)), attach(&format!("p{n}"), 20 + n)]),
    row("address pair of a port on another node", ground, |n| vec![put(carrier(n))]),
    row("block of another node", ground, |n| vec![put(a_block(n))]),
    row("node", ground, |n| vec![put(far(n))]),
    row("network", ground, |n| vec![put(network(&format!("net{n}"), 10 + n))]),
    row("subnet, of a network of its own", ground, |n| a_network(n)),
    row("router", ground, |n| vec![put(router(&format!("router{n}"), 1 + n))]),
    grows(row("router interface, of one router", one_router, |n| [a_network(n), vec![put(an_interface(n))]].concat()), WALK),
    row("security group", ground, |n| vec![put(group(&format!("group{n}"), 10 + n))]),
    grows(row("rule for a port, in one group", ground, |n| vec![put(for_a_port(n))]), PAGES),
    grows(row("rule for a prefix, in one group", ground, |n| vec![put(for_a_prefix(n))]), PAGES),
    grows(row("rule for a remote group of its own", ground, a_group_and_its_rule), PAGES),
    row("load balancer with a listener, a pool and a member", ground, a_service),
    row("listener, of one load balancer", || [ground(), a_service(0)].concat(), |n| vec![put(a_listener(1 + n, 0))]),
    row("pool that nobody uses", ground, |n| vec![put(pool(&format!("spare{n}"), "lb0", ListenerProtocol::Tcp))]),
    grows(
        row("member, of one pool", || [ground(), a_service(0)].concat(), |n| vec![put(one_member(n))]),
        "a pool is a group, which the switch is told as a whole; one of hundreds is a tree of groups (docs/decisions/0017)",
    ),
];

fn ground() -> Vec<Change> {
    let asks = Rule { remote_group: Some(SecurityGroupId(id("web"))), ..rule("asks", "own", Direction::Ingress, EtherType::Ipv4) };
    let net = Network { is_flooding: false, ..network("net", 7) };
    let mut ground = vec![here("node0", "192.0.2.1"), put(node("node1", "192.0.2.2")), put(net), put(subnet("sub", "net", "10.0.0.0/8"))];
    ground.extend([put(group("web", 1)), put(group("own", 2)), put(asks), put(local(60_000)), attach("p60000", 11)]);
    ground
}

fn at(n: u32) -> String {
    format!("10.{}.{}.{}", 1 + n / 62_500, n / 250 % 250, 1 + n % 250)
}

fn port_of(n: u32, home: &str, groups: &[&str]) -> Port {
    let security_groups = groups.iter().map(|group| SecurityGroupId(id(group))).collect();
    Port { host: Some(NodeName(home.into())), security_groups, ..port(&format!("p{n}"), 1_000 + n, "net", &[("sub", &at(n))]) }
}

fn remote(n: u32, groups: &[&str]) -> Port {
    port_of(n, "node1", groups)
}

fn local(n: u32) -> Port {
    port_of(n, "node0", &["own"])
}

fn carrier(n: u32) -> Port {
    let ip = format!("10.9.{}.{}/32", n / 250, 1 + n % 250).parse().unwrap();
    let mac = format!("00:00:5e:01:{:02x}:{:02x}", n >> 8, n & 255).parse().unwrap();
    Port { address_pairs: vec![AddressPair { ip, mac }], ..remote(n, &[]) }
}

fn a_block(n: u32) -> Block {
    let v6 = V6Range { subnet: SubnetId(id("six")), prefix: "fd00::/64".parse().unwrap(), shape: V6Shape::Embedded };
    block("net", "node1", "sub", &format!("10.{}.{}.{}/26", 200 + n / 1_024, n / 4 % 256, n % 4 * 64), vec![v6])
}

fn far(n: u32) -> Node {
    node(&format!("far{n}"), &format!("198.18.{}.{}", n / 250, 1 + n % 250))
}

/// The own network on a router with another one.
fn two_networks() -> Vec<Change> {
    let own = interface("own interface", 500, "net", "router", &[("sub", "10.255.255.1")]);
    [one_router(), a_network(0), vec![put(own), put(an_interface(0))]].concat()
}

fn one_router() -> Vec<Change> {
    let own = interface("own interface", 500, "net", "router", &[("sub", "10.255.255.1")]);
    [ground(), vec![put(router("router", 1)), put(own)]].concat()
}

fn a_network(n: u32) -> Vec<Change> {
    let (name, cidr) = (format!("net{n}"), format!("172.{}.{}.0/24", 16 + n / 256, n % 256));
    vec![put(network(&name, 10 + n)), put(subnet(&format!("sub{n}"), &name, &cidr))]
}

fn an_interface(n: u32) -> Port {
    let gateway = format!("172.{}.{}.1", 16 + n / 256, n % 256);
    interface(&format!("interface{n}"), 2_000 + n, &format!("net{n}"), "router", &[(&format!("sub{n}"), &gateway)])
}

fn own_rule(n: u32) -> Rule {
    rule(&format!("rule{n}"), "own", Direction::Ingress, EtherType::Ipv4)
}

fn for_a_port(n: u32) -> Rule {
    let port = Some(1_000 + n as u16);
    Rule { protocol: Some(6), range_min: port, range_max: port, ..own_rule(n) }
}

fn for_a_prefix(n: u32) -> Rule {
    Rule { remote_prefix: Some(format!("203.{}.{}.0/24", n / 256, n % 256).parse().unwrap()), ..own_rule(n) }
}

fn for_a_group(n: u32, named: &str) -> Rule {
    Rule { remote_group: Some(SecurityGroupId(id(named))), ..own_rule(n) }
}

fn a_group_and_its_rule(n: u32) -> Vec<Change> {
    let named = format!("group{n}");
    vec![put(group(&named, 10 + n)), put(remote(n, &[&named])), put(for_a_group(n, &named))]
}

fn one_member(n: u32) -> Member {
    member(&format!("more{n}"), "pool0", &format!("10.7.{}.{}", n / 250, 1 + n % 250), 80, 1)
}

fn a_service(n: u32) -> Vec<Change> {
    let (lb, pool_name) = (format!("lb{n}"), format!("pool{n}"));
    let vip = vip(&format!("vip{n}"), 3_000 + n, "net", &[("sub", &format!("10.8.{}.{}", n / 250, 1 + n % 250))]);
    let member = member(&format!("member{n}"), &pool_name, &format!("10.6.{}.{}", n / 250, 1 + n % 250), 80, 1);
    vec![put(vip.clone()), put(balancer(&lb, &vip)), put(pool(&pool_name, &lb, ListenerProtocol::Tcp)), put(a_listener(n, n)), put(member)]
}

fn a_listener(n: u32, of: u32) -> Listener {
    listener(&format!("listener{n}"), 1 + n, &format!("lb{of}"), ListenerProtocol::Tcp, 80 + n as u16, &format!("pool{of}"))
}

impl Row {
    /// The work of one more beside `others`.
    fn work(&self, others: u32) -> Work {
        let mut engine = Engine::new(ALL, Numbers::default());
        engine.update((self.ground)().into_iter().chain((1..=others).flat_map(self.one)));
        let before = engine.work();
        engine.update((self.one)(others + 1));
        engine.work() - before
    }
}

fn page(rows: &[(&Row, Vec<Work>)]) -> String {
    let mut page = String::from(
        "# What a change costs a node\n\n\
         Generated by `make docs` from `crates/apps/tests/cost.rs`; a test fails when it is stale. Counted, not timed: what the node does when one more object comes into its view, beside as many of its\n\
         kind as the column says. *Runs*: of an app, for one object. *Reads*: what these looked up in the view, and the networks and routers visited to find routing domains. *Made*: flows and groups that\n\
         they made. *Written*: actions, clauses and buckets of what changed, which is what the switch is told.\n\n| one more … |",
    );
    for size in SIZES {
        write!(page, " beside {size}: runs, reads, made, written |").unwrap();
    }
    page += " |\n|---|---|---|---|---|\n";
    for (row, works) in rows {
        write!(page, "| {} |", row.name).unwrap();
        for work in works {
            write!(page, " {}, {}, {}, {} |", work.runs, work.reads, work.made, work.written).unwrap();
        }
        let is_flat = works.iter().all(|work| *work == works[0]);
        writeln!(page, " {} |", if is_flat { "the same" } else { row.why }).unwrap();
    }
    page
}

#[test]
fn the_page_in_docs_is_what_changes_cost_and_none_costs_more_among_more_without_a_reason() {
    let rows: Vec<(&Row, Vec<Work>)> = ROWS.iter().map(|row| (row, SIZES.map(|size| row.work(size)).into())).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/work.md");
    if std::env::var_os("LADON_WRITE_DOCS").is_some() {
        std::fs::write(path, page(&rows)).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), page(&rows), "docs/work.md is stale: `make docs` writes it again");
    for (row, works) in &rows {
        assert!(works.iter().all(|work| *work == works[0]) || !row.why.is_empty(), "{}: {works:?}", row.name);
    }
}
