//! Addresses: never twice, not at once again, in blocks where they can be, and a clear error when there are none.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use common::{World, network, plain, pod, slaac, subnet};
use model::*;
use proptest::prelude::*;
use server::ipam::{BLOCKS_MIN, IpamError, QUARANTINE_SECS, Wanted, release_idle};
use server::{Tx, WriteError};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

async fn world(cidrs: &[&str]) -> (World, NetworkId) {
    let (world, network) = (World::new(), network(1));
    world.put(network.clone()).await;
    for cidr in cidrs {
        world.put(subnet(&network, cidr)).await;
    }
    (world, network.id)
}

fn ips(port: &Port) -> Vec<String> {
    port.addresses().map(|ip| ip.to_string()).collect()
}

#[tokio::test]
async fn a_port_gets_the_lowest_address_of_each_family() {
    let (world, network) = world(&["10.0.0.0/24", "fd00::/64"]).await;
    let port = world.port(plain(network)).await.unwrap();
    assert_eq!(ips(&port), ["10.0.0.2", "fd00::2"]);
    assert_eq!(port.mac.to_string()[..8], *"fa:16:3e");
    assert_eq!(ips(&world.port(plain(network)).await.unwrap()), ["10.0.0.3", "fd00::3"]);
}

#[tokio::test]
async fn a_slaac_address_follows_from_the_mac() {
    let (world, network) = (World::new(), network(1));
    world.put(network.clone()).await;
    let auto = slaac(&network, "fd00:9::/64");
    world.put(auto.clone()).await;
    let mac = Some("fa:16:3e:80:fe:1f".parse().unwrap());
    let port = world.port(common::Wish { mac, ..plain(network.id) }).await.unwrap();
    assert_eq!(ips(&port), ["fd00:9::f816:3eff:fe80:fe1f"]);
    let wanted = Some(vec![Wanted::Address { subnet: None, ip: ip("fd00:9::5") }]);
    let chosen = world.port(common::Wish { wanted, ..plain(network.id) }).await;
    assert!(matches!(chosen, Err(IpamError::AutomaticSubnet { .. })));
    let router = common::Wish {
        owner: owner::ROUTER_INTERFACE.into(),
        wanted: Some(vec![Wanted::Address { subnet: Some(auto.id), ip: ip("fd00:9::1") }]),
        ..plain(network.id)
    };
    assert_eq!(ips(&world.port(router).await.unwrap()), ["fd00:9::1"]);
}

#[tokio::test]
async fn chosen_addresses_are_checked() {
    let (world, network) = world(&["10.0.0.0/24"]).await;
    let want = |text: &str| common::Wish { wanted: Some(vec![Wanted::Address { subnet: None, ip: ip(text) }]), ..plain(network) };
    world.port(want("10.0.0.9")).await.unwrap();
    assert!(matches!(world.port(want("10.0.0.9")).await, Err(IpamError::IpAddressInUse { .. })));
    assert!(matches!(world.port(want("10.0.1.9")).await, Err(IpamError::InvalidIpForNetwork { .. })));
    for special in ["10.0.0.0", "10.0.0.255"] {
        assert!(matches!(world.port(want(special)).await, Err(IpamError::InvalidIpForSubnet { .. })), "{special}");
    }
    let mac = world.port(plain(network)).await.unwrap().mac;
    let same = common::Wish { mac: Some(mac), ..plain(network) };
    assert!(matches!(world.port(same).await, Err(IpamError::MacAddressInUse { .. })));
    let none = common::Wish { wanted: Some(Vec::new()), ..plain(network) };
    assert!(world.port(none).await.unwrap().fixed_ips.is_empty());
}

#[tokio::test]
async fn pods_of_one_node_share_a_block_and_everything_follows_from_it() {
    let (world, network) = world(&["10.244.0.0/16", "fd00:244::/64"]).await;
    let (a, b, c) = (world.port(pod(network, "n1")).await, world.port(pod(network, "n1")).await, world.port(pod(network, "n2")).await);
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert_eq!(ips(&a), ["10.244.255.128", "fd00:244::af4:ff80"], "the uppermost block without the broadcast address");
    assert_eq!(a.mac.to_string(), "06:1a:0a:f4:ff:80");
    assert!(a.block.is_some() && a.block == b.block && c.block.is_some() && a.block != c.block);
    let state = world.core.state();
    let block = state.block(a.block.unwrap()).unwrap();
    assert!(a.addresses().all(|ip| block.contains(ip)));
    assert_eq!((block.node.0.as_str(), block.v4.to_string().as_str()), ("n1", "10.244.255.128/26"));
}

#[tokio::test]
async fn a_slaac_network_has_blocks_with_eui64_addresses() {
    let (world, network) = (World::new(), network(1));
    world.put(network.clone()).await;
    world.put(subnet(&network, "10.244.0.0/16")).await;
    world.put(slaac(&network, "fd00:244::/64")).await;
    let port = world.port(pod(network.id, "n1")).await.unwrap();
    assert_eq!(ips(&port), ["10.244.255.128", "fd00:244::41a:aff:fef4:ff80"]);
    assert!(port.block.is_some());
}

#[tokio::test]
async fn pools_that_shrink_bind_the_blocks_that_are_there() {
    let (world, network) = world(&["10.244.0.0/16"]).await;
    assert_eq!(ips(&world.port(pod(network, "n1")).await.unwrap()), ["10.244.255.128"]);
    let mut subnet = world.core.state().subnets_of(network).next().unwrap().clone();
    subnet.pools = vec![(ip("10.244.0.2"), ip("10.244.255.127"))];
    world.put(subnet).await;
    assert_eq!(ips(&world.port(pod(network, "n1")).await.unwrap()), ["10.244.255.64"], "another block");
}

#[tokio::test]
async fn subnets_of_one_second_make_one_block_per_node_in_whatever_order_they_came() {
    for ids in [[5, 6], [6, 5]] {
        let (world, network) = (World::new(), network(1));
        world.put(network.clone()).await;
        world.put(subnet(&network, "10.244.0.0/16")).await;
        world.put(slaac(&network, "fd00:1::/64")).await;
        let first = world.port(pod(network.id, "n1")).await.unwrap();
        // As a block looks whose second range came later.
        let mut block = world.core.state().block(first.block.unwrap()).unwrap().clone();
        let subnets = ids.map(|id| Subnet { id: SubnetId(uuid::Uuid::from_u128(id)), ..slaac(&network, &format!("fd00:{id}::/64")) });
        for subnet in subnets {
            world.put(subnet.clone()).await;
            let ipnet::IpNet::V6(prefix) = subnet.cidr else { panic!("it is IPv6") };
            block.v6.push(V6Range { subnet: subnet.id, prefix, shape: V6Shape::Eui64 });
        }
        world.put(block).await;
        let second = world.port(pod(network.id, "n1")).await.unwrap();
        assert_eq!(second.block, first.block, "{ids:?}");
    }
}

#[tokio::test]
async fn a_small_subnet_and_an_own_choice_give_single_addresses() {
    for (blocks, has_block) in [(BLOCKS_MIN - 1, false), (BLOCKS_MIN, true)] {
        let (world, small) = (World::new(), network(1));
        let last = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + (blocks as u32) * 64 - 1);
        world.put(small.clone()).await;
        world.put(Subnet { pools: vec![(ip("10.0.0.0"), last.into())], ..subnet(&small, "10.0.0.0/16") }).await;
        assert_eq!(world.port(pod(small.id, "n1")).await.unwrap().block.is_some(), has_block, "{blocks} blocks");
    }
    let world = World::new();
    let big = network(2);
    world.put(big.clone()).await;
    world.put(subnet(&big, "10.8.0.0/16")).await;
    let wanted = Some(vec![Wanted::Address { subnet: None, ip: ip("10.8.7.7") }]);
    assert_eq!(world.port(common::Wish { wanted, ..pod(big.id, "n1") }).await.unwrap().block, None);
    assert_eq!(ips(&world.port(plain(big.id)).await.unwrap()), ["10.8.0.2"]);
}

#[tokio::test]
async fn a_port_that_moves_leaves_its_block_and_keeps_its_address() {
    let (world, network) = world(&["10.244.0.0/16"]).await;
    let port = world.port(pod(network, "n1")).await.unwrap();
    world.put(Port { host: Some(NodeName("n2".into())), ..port.clone() }).await;
    let state = world.core.state();
    let moved = state.port(port.id).unwrap();
    assert_eq!((moved.block, &moved.fixed_ips), (None, &port.fixed_ips));
    let next = world.port(pod(network, "n1")).await.unwrap();
    assert_ne!(next.fixed_ips, port.fixed_ips);
}

#[tokio::test]
async fn a_block_ends_when_its_last_port_is_gone_for_long_enough() {
    let (world, network) = world(&["10.244.0.0/16"]).await;
    let port = world.port(pod(network, "n1")).await.unwrap();
    let release = |tx: &mut Tx| Ok::<usize, WriteError>(release_idle(tx, None));
    assert_eq!(world.core.write(release).await.unwrap().value, 0);
    world.delete_port(port.id).await;
    assert_eq!(world.core.write(release).await.unwrap().value, 0, "in quarantine");
    world.pass(QUARANTINE_SECS);
    assert_eq!(world.core.write(release).await.unwrap().value, 1);
    assert_eq!(world.core.state().all::<Block>().count(), 0);
    let other = world.port(pod(network, "n2")).await.unwrap();
    assert_ne!(other.fixed_ips, port.fixed_ips, "a place that was never used comes first");
}

#[tokio::test]
async fn deleting_a_subnet_ends_its_blocks() {
    let (world, network) = world(&["10.244.0.0/16", "fd00:244::/64"]).await;
    let port = world.port(pod(network, "n1")).await.unwrap();
    world.delete_port(port.id).await;
    let state = world.core.state();
    let subnet = state.subnet(port.fixed_ips[1].subnet).unwrap();
    world.delete(ObjectKey::new(Kind::Subnet, subnet.id)).await;
    assert!(world.core.state().all::<Block>().all(|block| block.v6.is_empty()));
    world.delete(ObjectKey::new(Kind::Subnet, port.fixed_ips[0].subnet)).await;
    assert_eq!(world.core.state().all::<Block>().count(), 0);
}

#[tokio::test]
async fn a_full_subnet_says_so_and_gives_again_what_was_freed_first() {
    let (world, network) = world(&["10.0.0.0/29"]).await;
    let mut ports = Vec::new();
    for _ in 0..5 {
        ports.push(world.port(plain(network)).await.unwrap());
    }
    assert!(matches!(world.port(plain(network)).await, Err(IpamError::Exhausted { .. })));
    for port in [&ports[3], &ports[1]] {
        world.delete_port(port.id).await;
        world.pass(1);
    }
    let world = world.restarted();
    for first_freed in [&ports[3], &ports[1]] {
        assert_eq!(ips(&world.port(plain(network)).await.unwrap()), ips(first_freed), "in quarantine, but there is no other");
    }
    assert!(world.port(plain(network)).await.is_err());
}

#[tokio::test]
async fn a_freed_address_is_had_at_once_by_name_and_by_chance_only_when_there_is_no_other() {
    let (world, network) = world(&["10.0.0.0/29", "fd00::/125"]).await;
    let mut ports = Vec::new();
    for _ in 0..4 {
        ports.push(world.port(plain(network)).await.unwrap());
    }
    let first = &ports[0];
    world.delete_port(first.id).await;
    let wanted = ["10.0.0.2", "fd00::2"].map(|text| Wanted::Address { subnet: None, ip: ip(text) });
    let named = common::Wish { wanted: Some(wanted.into()), ..plain(network) };
    let again = world.port(named).await.unwrap();
    assert_eq!(ips(&again), ips(first), "whoever names it has it");
    world.pass(QUARANTINE_SECS);
    world.delete_port(again.id).await;
    let fifth = world.port(plain(network)).await.unwrap();
    assert_ne!(ips(&fifth)[0], ips(first)[0], "it rests from its last release on");
    assert_eq!(ips(&world.port(plain(network)).await.unwrap())[0], ips(first)[0], "the last one");
    assert!(world.port(plain(network)).await.is_err(), "all are in use, whatever the queue said of them");
}

#[tokio::test]
async fn a_freed_block_address_is_had_at_once_by_name_and_not_by_chance() {
    let (world, network) = world(&["10.244.0.0/16"]).await;
    let first = world.port(pod(network, "n1")).await.unwrap();
    world.delete_port(first.id).await;
    let next = world.port(pod(network, "n1")).await.unwrap();
    assert_ne!(next.fixed_ips, first.fixed_ips);
    let wanted = Some(vec![Wanted::Address { subnet: None, ip: first.fixed_ips[0].ip }]);
    let named = world.port(common::Wish { wanted, mac: Some(first.mac), ..pod(network, "n1") }).await.unwrap();
    assert_eq!((named.fixed_ips, named.block), (first.fixed_ips, first.block), "the pod of a StatefulSet, say");
}

#[tokio::test]
async fn a_pod_that_asks_for_the_address_that_it_had_gets_the_mac_that_it_had() {
    let had = {
        let (world, network) = world(&["10.244.0.0/16", "fd00:244::/64"]).await;
        world.port(pod(network, "n1")).await.unwrap()
    };
    // A store that knows nothing of the block.
    let (world, network) = world(&["10.244.0.0/16", "fd00:244::/64"]).await;
    let wanted = || Some(had.addresses().map(|ip| Wanted::Address { subnet: None, ip }).collect());
    let named = world.port(common::Wish { wanted: wanted(), ..pod(network, "n1") }).await.unwrap();
    assert_eq!((ips(&named), named.mac), (ips(&had), had.mac));
    assert!(matches!(world.port(common::Wish { wanted: wanted(), ..pod(network, "n1") }).await, Err(IpamError::IpAddressInUse { .. })));
    let next = world.port(pod(network, "n1")).await.unwrap();
    assert!(next.block.is_some() && next.mac != named.mac && ips(&next) != ips(&named));
    let machine =
        world.port(common::Wish { wanted: Some(vec![Wanted::Address { subnet: None, ip: ip("10.244.7.7") }]), ..plain(network) }).await;
    assert_eq!(machine.unwrap().mac.to_string()[..8], *"fa:16:3e");
}

#[tokio::test]
async fn when_the_pool_has_nothing_else_single_addresses_come_from_blocks() {
    let (world, network) = world(&["10.0.0.0/22"]).await;
    let first = world.port(pod(network, "n1")).await.unwrap();
    let mut got = BTreeSet::from([first.fixed_ips[0].ip]);
    let mut count = 1;
    while let Ok(port) = world.port(plain(network)).await {
        assert!(got.insert(port.fixed_ips[0].ip));
        assert_eq!(port.block, None);
        count += 1;
    }
    assert_eq!(count, 1024 - 3, "all but network, gateway and broadcast address");
}

/// What happens to a network.
#[derive(Clone, Debug)]
enum Step {
    Pod(u8),
    Plain,
    Choose(u8),
    Delete(usize),
    Pass(i64),
    Release,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..5u8).prop_map(Step::Pod),
        6 => Just(Step::Plain),
        2 => any::<u8>().prop_map(Step::Choose),
        7 => any::<usize>().prop_map(Step::Delete),
        3 => (1..40i64).prop_map(Step::Pass),
        1 => Just(Step::Release),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..120)
}

/// The addresses of an IPv4 pool.
fn all((first, last): &(IpAddr, IpAddr)) -> impl Iterator<Item = IpAddr> + use<> {
    let (IpAddr::V4(first), IpAddr::V4(last)) = (*first, *last) else { panic!("{first} rests: it is one of very many") };
    (u32::from(first)..=u32::from(last)).map(|number| Ipv4Addr::from(number).into())
}

/// What an onlooker knows.
#[derive(Default)]
struct Onlooker {
    ports: Vec<Port>,
    freed: BTreeMap<IpAddr, i64>,
}

impl Onlooker {
    fn got(&mut self, port: Port, world: &World, is_chosen: bool) {
        for fixed in &port.fixed_ips {
            let freed = self.freed.get(&fixed.ip).copied();
            if !is_chosen && !self.has_rested(fixed.ip, world.now()) {
                let pools = world.core.state().subnet(fixed.subnet).unwrap().pools.clone();
                let better: Vec<IpAddr> = pools.iter().flat_map(all).filter(|ip| self.is_better(*ip, freed, world.now())).collect();
                assert!(
                    better.is_empty(),
                    "{} came back after {:?} s, with {better:?} to choose",
                    fixed.ip,
                    freed.map(|at| world.now() - at)
                );
            }
        }
        self.freed.retain(|ip, _| !port.addresses().any(|own| own == *ip));
        self.ports.push(port);
    }

    fn has_rested(&self, ip: IpAddr, now: i64) -> bool {
        self.freed.get(&ip).is_none_or(|at| now - at >= QUARANTINE_SECS)
    }

    /// Whether the address should have been chosen before one that was freed then.
    fn is_better(&self, ip: IpAddr, freed: Option<i64>, now: i64) -> bool {
        let is_free = !self.ports.iter().any(|port| port.addresses().any(|used| used == ip));
        is_free && (self.has_rested(ip, now) || self.freed.get(&ip).copied() < freed)
    }

    fn check(&self, world: &World) {
        let state = world.core.state();
        let mut ips = BTreeSet::new();
        let mut macs = BTreeSet::new();
        let mut keys = BTreeSet::new();
        for port in state.all::<Port>() {
            assert!(port.addresses().all(|ip| ips.insert(ip)), "an address twice");
            assert!(macs.insert(port.mac), "a MAC twice");
            assert!(keys.insert(port.key), "a key twice");
            let block = port.block.map(|id| state.block(id).expect("a port's block exists"));
            assert!(block.is_none_or(|block| port.home() == Some(&block.node) && port.addresses().all(|ip| block.contains(ip))));
        }
        let blocks: Vec<&Block> = state.all::<Block>().collect();
        for (n, block) in blocks.iter().enumerate() {
            let gateway = state.subnet(block.subnet).unwrap().gateway.unwrap();
            assert!(!block.contains(gateway));
            assert!(blocks[..n].iter().all(|other| !other.v4.contains(&block.v4) && !block.v4.contains(&other.v4)), "blocks overlap");
        }
    }
}

async fn run(cidrs: &[&str], steps: Vec<Step>) {
    let (mut world, network) = world(cidrs).await;
    let mut onlooker = Onlooker::default();
    for step in steps {
        let (wish, is_chosen) = match step {
            Step::Pod(host) => (pod(network, &format!("n{host}")), false),
            Step::Plain => (plain(network), false),
            Step::Choose(low) => {
                let wanted = Some(vec![Wanted::Address { subnet: None, ip: ip(&format!("10.0.1.{low}")) }]);
                (common::Wish { wanted, ..plain(network) }, true)
            }
            other => {
                change(&mut world, &mut onlooker, other).await;
                continue;
            }
        };
        if let Ok(port) = world.port(wish).await {
            onlooker.got(port, &world, is_chosen);
        }
        onlooker.check(&world);
    }
}

async fn change(world: &mut World, onlooker: &mut Onlooker, step: Step) {
    match step {
        Step::Delete(number) if !onlooker.ports.is_empty() => {
            let port = onlooker.ports.swap_remove(number % onlooker.ports.len());
            world.delete_port(port.id).await;
            onlooker.freed.extend(port.addresses().map(|ip| (ip, world.now())));
        }
        Step::Pass(secs) => world.pass(secs),
        Step::Release => drop(world.core.write(|tx: &mut Tx| Ok::<usize, WriteError>(release_idle(tx, None))).await.unwrap()),
        Step::Restart => {
            let before = world.core.state();
            *world = world.restarted();
            assert_eq!(*before, *world.core.state());
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_address_mac_or_key_is_given_twice(steps in steps(), is_big in any::<bool>()) {
        let cidrs: &[&str] = if is_big { &["10.0.0.0/21", "fd00::/64"] } else { &["10.0.1.0/28", "fd00::/64"] };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(cidrs, steps));
    }
}

#[tokio::test]
async fn a_thousand_nodes_with_twenty_pods_each_have_a_thousand_blocks() {
    let (world, network) = world(&["10.128.0.0/14", "fd00:244::/64"]).await;
    let fill = move |tx: &mut Tx| -> Result<(), IpamError> {
        for number in 0..20_000 {
            common::make_port(tx, &pod(network, &format!("n{}", number % 1000)))?;
        }
        Ok(())
    };
    world.core.write(fill).await.unwrap();
    let state = world.core.state();
    assert_eq!((state.all::<Block>().count(), state.all::<Port>().filter(|port| port.block.is_some()).count()), (1000, 20_000));
}

#[tokio::test]
async fn a_gateway_that_came_into_a_block_is_given_to_nobody() {
    let (world, id) = world(&["10.244.0.0/16", "fd00:244::/64"]).await;
    let first = world.port(pod(id, "n1")).await.unwrap();
    assert_eq!(ips(&first), ["10.244.255.128", "fd00:244::af4:ff80"]);
    let (v4, v6) = (subnet(&network(1), "10.244.0.0/16"), subnet(&network(1), "fd00:244::/64"));
    world.put(Subnet { gateway: Some(ip("10.244.255.129")), ..v4 }).await;
    world.put(Subnet { gateway: Some(ip("fd00:244::af4:ff82")), ..v6 }).await;
    let next = world.port(pod(id, "n1")).await.unwrap();
    assert_eq!((ips(&next), next.block), (vec!["10.244.255.131".to_string(), "fd00:244::af4:ff83".into()], first.block));
}
