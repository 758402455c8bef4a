//! What a change costs: it must not grow with what the change is not about.

use model::{Node, Object, Port, TunnelType};

use super::world::*;

/// A flat network of `nodes` nodes with `pods` pods, some of them in a group that its own rules name.
fn flat(nodes: u32, pods: u32) -> World {
    let mut objects: Vec<Object> = vec![network(1).into(), group(1).into(), group(2).into(), rule(1, 1, Some(2)).into()];
    for n in 1..=nodes {
        objects.extend([node(n).into(), block(1, n).into()]);
    }
    objects.extend((0..pods).map(|n| grouped(n, n % nodes + 1).into()));
    let mut world = World::of(objects);
    (1..=nodes).for_each(|n| world.follow(&name(n)));
    world
}

fn grouped(n: u32, home: u32) -> Port {
    Port { security_groups: vec![group_id(1)], ..pod(100_000 + n, 1, home) }
}

/// The work of one commit.
fn work(world: &mut World, edits: impl IntoIterator<Item = Edit>) -> u64 {
    let before = world.interest.work();
    world.commit(edits);
    world.interest.work() - before
}

#[test]
fn a_port_costs_the_same_among_ten_thousand_as_among_a_hundred() {
    let costs = [100, 10_000].map(|pods| {
        let mut world = flat(10, pods);
        let made = work(&mut world, [put(grouped(90_000, 1))]);
        let exception = work(&mut world, [put(vm(90_001, 1, 2))]);
        let changed = work(&mut world, [put(Port { is_admin_up: false, ..grouped(90_000, 1) })]);
        let gone = work(&mut world, [delete(grouped(90_000, 1))]);
        [made, exception, changed, gone]
    });
    assert_eq!(costs[0], costs[1], "made, made as an exception, changed, deleted");
    assert!(costs[0][0] < 30, "{costs:?}");
}

#[test]
fn a_pod_costs_the_same_among_a_thousand_nodes_as_among_ten() {
    let costs = [10, 1000].map(|nodes| work(&mut flat(nodes, 1000), [put(grouped(90_000, 1))]));
    assert_eq!(costs[0], costs[1]);
}

#[test]
fn a_members_coming_costs_what_it_brings_to_those_who_name_its_group() {
    let costs = [100, 10_000].map(|pods| {
        let mut world = flat(10, pods);
        let member = Port { security_groups: vec![group_id(2)], ..pod(90_000, 1, 1) };
        work(&mut world, [put(member)]);
        work(&mut world, [put(Port { security_groups: vec![group_id(2)], ..pod(90_001, 1, 2) })])
    });
    assert_eq!(costs[0], costs[1]);
}

#[test]
fn a_port_on_a_routed_network_does_not_walk_its_domain() {
    let costs = [2, 200].map(|networks| {
        let mut world = flat(3, 9);
        world.commit((1..=networks).flat_map(|n| [put(network(n)), put(interface(n, n, 1))]));
        work(&mut world, [put(grouped(90_000, 1))])
    });
    assert_eq!(costs[0], costs[1]);
}

/// The work of one commit in which `changed` of so many nodes get other tunnels, which is news to all of them.
fn tunnels(nodes: u32, changed: u32) -> u64 {
    work(&mut flat(nodes, nodes), (1..=changed).map(|n| put(Node { tunnel: TunnelType::Vxlan, ..node(n) })))
}

#[test]
fn what_is_news_to_all_is_looked_at_once_for_all() {
    let one = tunnels(300, 1);
    assert!(one < 330, "each node is told: {one}");
    let twenty = tunnels(300, 20);
    assert!(twenty < one + 20 * 30, "twenty objects for three hundred nodes: {twenty}");
}

#[test]
fn nodes_hear_of_a_commit_in_one_effect_that_they_share() {
    let mut world = flat(100, 100);
    let news = world.news((1..=20).map(|n| put(Node { tunnel: TunnelType::Vxlan, ..node(n) })));
    let shared: Vec<usize> = news.iter().map(|news| news.nodes.len()).filter(|nodes| *nodes > 1).collect();
    assert_eq!(shared, [80], "those that changed see themselves as their own, too");
    assert!(news.iter().all(|news| news.effect.changed.len() == 20));
}
