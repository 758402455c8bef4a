//! Everybody reaches everybody: five pairs, both versions of IP, by ping, TCP and UDP, in both directions. And what the virtual
//! machine was told to get there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Claim, Lane};
use crate::peer::{FAMILIES, Family, Peer};
use crate::world::{DNS, World, addresses};

/// Longest time until the guest has what DHCP and router advertisements give.
const CONFIGURED: Duration = Duration::from_secs(30);

type Ends = fn(&World) -> (Peer, Peer);

/// Who talks to whom.
const PAIRS: [(&str, Ends); 5] = [
    ("two pods on one node", |world| (world.pod("a").clone(), world.pod("b").clone())),
    ("two pods on two nodes", |world| (world.pod("a").clone(), world.pod("c").clone())),
    ("a pod and vm1", |world| (world.pod("c").clone(), world.guest())),
    ("a pod and metal1", |world| (world.pod("a").clone(), world.metal())),
    ("vm1 and metal1", |world| (world.guest(), world.metal())),
];

/// Pairs with the virtual machine have a lane of their own: it does one thing at a time.
pub fn lanes() -> Vec<Lane> {
    let with_guest = |pair: &&(&str, Ends)| pair.0.contains("vm1");
    let pods = PAIRS.iter().filter(|pair| !with_guest(pair)).flat_map(conversations).collect();
    let guest = configured().into_iter().chain(PAIRS.iter().filter(with_guest).flat_map(conversations)).collect();
    vec![pods, guest]
}

fn conversations(&(who, ends): &(&'static str, Ends)) -> Vec<Claim> {
    let mut claims = Vec::new();
    for family in FAMILIES {
        claims.push(Claim::new(format!("{who} reach each other by ping over {family}"), move |world| {
            both_ways(ends(world), |from, to| from.ping(to.ip(family)))
        }));
        claims.push(Claim::new(format!("{who} reach each other by TCP over {family}"), move |world| {
            both_ways(ends(world), |from, to| from.asks_by_tcp(to, family))
        }));
        claims.push(Claim::new(format!("{who} reach each other by UDP over {family}"), move |world| {
            both_ways(ends(world), |from, to| from.asks_by_udp(to, family))
        }));
    }
    claims
}

fn both_ways((one, other): (Peer, Peer), measure: impl Fn(&Peer, &Peer) -> Result<String>) -> Result<String> {
    let there = measure(&one, &other)?;
    let back = measure(&other, &one)?;
    Ok(format!("{} -> {} {there}, {} -> {} {back}", one.name, other.name, other.name, one.name))
}

fn configured() -> Vec<Claim> {
    vec![
        Claim::new("vm1 has its address, MTU, routes and DNS server by DHCP", dhcp).within(CONFIGURED * 2),
        Claim::new("vm1 has its IPv6 address and route by router advertisement", advertisement).within(CONFIGURED * 2),
        Claim::new("vm1 resolves a Service's name by the DNS server that DHCP named", |world| {
            let said = world.guest.run("nslookup -type=a web.default.svc.cluster.local")?;
            ensure!(said.contains("10.96.7.7"), "{said}");
            Ok(format!("web.default.svc.cluster.local is 10.96.7.7, says {DNS}"))
        }),
    ]
}

fn dhcp(world: &World) -> Result<String> {
    let (v4, _) = addresses(&world.vm_port)?;
    let network = world.api().show("network", world.vm_port["network_id"].as_str().context("a port has a network")?)?;
    let mtu = &network["mtu"];
    let expected = [format!("{v4}/24"), format!("mtu {mtu}"), "default via 10.70.0.1".into(), format!("nameserver {DNS}")];
    seen(world, "ip address show eth0; ip -4 route; cat /etc/resolv.conf", &expected)?;
    Ok(format!("{v4}/24, MTU {mtu}, default route through 10.70.0.1, DNS server {DNS}"))
}

fn advertisement(world: &World) -> Result<String> {
    let v6 = world.guest().ip(Family::V6);
    seen(world, "ip address show eth0; ip -6 route", &[format!("{v6}/64"), "default via fe80::".into()])?;
    Ok(format!("{v6}/64, default route through the router's link-local address"))
}

fn seen(world: &World, command: &str, expected: &[String]) -> Result<()> {
    lab::wait::until(&format!("{expected:?} in the guest"), CONFIGURED, || {
        let said = world.guest.run(command).map_err(|error| format!("{error:#}"))?;
        if expected.iter().all(|one| said.contains(one.as_str())) { Ok(Some(())) } else { Err(said) }
    })?;
    Ok(())
}
