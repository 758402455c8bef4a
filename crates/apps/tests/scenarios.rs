//! Every scenario in process; and over random worlds: no packet crosses networks that no router joins.

use apps::scenario::Scenario;
use apps::testing::*;
use apps::{ALL, Engine, Numbers};
use model::*;
use pipeline::switch::{Outcome, Packet, Switch};
use pipeline::{Header, OfPort};
use proptest::prelude::*;

#[test]
fn every_scenario_holds_in_process() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 12);
    let mut failures = Vec::new();
    for file in files {
        let scenario =
            Scenario::parse(&std::fs::read_to_string(&file).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(!scenario.steps.is_empty());
        assert_eq!(scenario.engine().conflicts().count(), 0, "{}", file.display());
        failures.extend(scenario.failures().into_iter().map(|failure| format!("{}: {failure}", file.display())));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_line_that_is_no_sentence_is_named() {
    let error = |text: &str| Scenario::parse(text).err().unwrap().to_string();
    assert_eq!(error("\nfrog"), "line 2: `frog` is no sentence");
    assert_eq!(error("port a here 1\na -> a tcp 80"), "line 2: nothing is said to become of the packet");
    assert!(error("port a nowhere 1").contains("`here` or `there`"));
}

/// Open vSwitch goes back up its tables 64 times, and so does the switch in process.
#[test]
fn a_packet_that_passes_more_routers_than_open_vswitch_allows_is_dropped() {
    let chain = |routers: u32| {
        let networks: String = (0..=routers).map(|n| format!("network n{n} 10.0.{n}.0/24\n")).collect();
        let joins: String = (1..=routers).map(|r| format!("router r{r} n{} n{r}:2\n", r - 1)).collect();
        let routes: String = (1..routers).map(|r| format!("route r{r} 10.0.{routers}.0/24 10.0.{r}.1\n")).collect();
        let text = format!("{networks}{joins}{routes}port a here 11 on n0 trusted\nport b here 12 on n{routers} trusted\na -> b to b\n");
        let mut scenario = Scenario::parse(&text).unwrap();
        scenario.steps[0].packet.set(Header::Ttl, 255);
        scenario.journeys().remove(0).outcomes
    };
    assert!(matches!(chain(60)[..], [Outcome::Output(OfPort(12), _)]));
    assert!(matches!(chain(80)[..], [Outcome::Dropped(_)]));
}

const NETWORKS: u32 = 3;
const PORTS: u32 = 6;

/// Networks that share a prefix, routers that join some of them, ports anywhere.
fn world(joins: &[(u32, u32)], places: &[(u32, bool)]) -> Engine {
    let mut engine = Engine::new(ALL, Numbers::default());
    let mut changes = vec![here("here", "192.0.2.1"), put(node("there", "192.0.2.2"))];
    for n in 0..NETWORKS {
        changes.push(put(network(&format!("net{n}"), 1 + n)));
        changes.push(put(subnet(&format!("sub{n}"), &format!("net{n}"), &format!("10.{}.0.0/16", n / 2))));
    }
    for (r, n) in joins {
        changes.push(put(router(&format!("router{r}"), 1 + r)));
        let address = format!("10.{}.0.{}", n / 2, 1 + r);
        changes.push(put(interface(
            &format!("i{r}{n}"),
            500 + 10 * r + n,
            &format!("net{n}"),
            &format!("router{r}"),
            &[(&format!("sub{n}"), &address)],
        )));
    }
    for (p, (n, is_here)) in (0..).zip(places) {
        let (name, address) = (format!("port{p}"), format!("10.{}.0.{}", n / 2, 100 + p));
        let host = Some(NodeName(if *is_here { "here" } else { "there" }.into()));
        let made = port(&name, 100 + p, &format!("net{n}"), &[(&format!("sub{n}"), &address)]);
        changes.push(put(Port { host, is_port_security: false, ..made }));
        changes.extend(is_here.then(|| attach(&name, 10 + p)));
    }
    engine.update(changes);
    engine
}

/// The networks that routers connect with each other, by the smallest of them.
fn component(joins: &[(u32, u32)], network: u32) -> u32 {
    let mut of: Vec<u32> = (0..NETWORKS).collect();
    for _ in 0..NETWORKS {
        for (r, n) in joins {
            for (other, m) in joins {
                if r == other {
                    let least = of[*n as usize].min(of[*m as usize]);
                    (of[*n as usize], of[*m as usize]) = (least, least);
                }
            }
        }
    }
    of[network as usize]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_packet_crosses_networks_that_no_router_joins(
        joins in proptest::collection::btree_set((0u32..2, 0..NETWORKS), 0..5),
        places in proptest::collection::vec((0..NETWORKS, any::<bool>()), PORTS as usize),
    ) {
        let joins: Vec<(u32, u32)> = joins.into_iter().collect();
        let engine = world(&joins, &places);
        let mut switch = Switch::new(engine.flows(), engine.groups().cloned());
        let routers = joins.iter().map(|(r, n)| Mac::from_bits(0x0a00_0000_0000 + u64::from(500 + 10 * r + n)));
        let macs: Vec<Mac> = (0..u64::from(PORTS)).map(|p| Mac::from_bits(0x0a00_0000_0000 + 100 + p)).chain(routers).chain([Mac::BROADCAST]).collect();
        for (p, (from, is_here)) in (0u32..).zip(&places).filter(|(_, (_, is_here))| *is_here) {
            let _ = is_here;
            for (q, (to, _)) in (0u32..).zip(&places) {
                for mac in &macs {
                    let ip = |n: u32, last: u32| format!("10.{}.0.{}", n / 2, 100 + last).parse().unwrap();
                    let sender = Mac::from_bits(0x0a00_0000_0000 + 100 + u64::from(p));
                    let packet = Packet::ip(OfPort(10 + p), ip(*from, p), ip(*to, q)).macs(sender, *mac).udp(1, 2);
                    for outcome in switch.receive(&packet).outcomes {
                        let Outcome::Output(OfPort(port), packet) = outcome else { continue };
                        let reached = match port {
                            1000 => packet.get(Header::TunId).unwrap() as u32 - 1,
                            local => places[(local - 10) as usize].0,
                        };
                        prop_assert_eq!(component(&joins, *from), component(&joins, reached), "{} reached net{}", packet, reached);
                    }
                }
            }
        }
    }
}
