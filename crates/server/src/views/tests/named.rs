//! The cases on which selective distribution broke elsewhere, by name.

use model::*;

use super::world::*;
use crate::views::shown::shown;

/// Two projects on a network that both may use, each with a virtual machine on a node of its own.
#[test]
fn a_network_shared_by_two_projects_is_one_network_for_the_nodes_of_both() {
    let shared = Network { is_shared: true, ..network(1) };
    let theirs = Port { project: ProjectId("other".into()), ..vm(12, 1, 2) };
    let world =
        World::of([shared.clone().into(), subnet(1, 1).into(), node(1).into(), node(2).into(), vm(11, 1, 1).into(), theirs.clone().into()]);
    let all = keys([key(shared), key(subnet(1, 1)), key(node(1)), key(node(2)), key(vm(11, 1, 1)), key(theirs)]);
    assert_eq!(world.view(&name(1)), all);
    assert_eq!(world.view(&name(2)), all);
    assert_eq!(world.view(&name(3)), keys([]));
}

#[test]
fn a_router_between_projects_shows_each_the_others_network_while_it_is_there() {
    let mut world = World::of([network(1).into(), network(2).into(), network(3).into(), node(1).into(), node(2).into()]);
    world.commit([put(vm(11, 1, 1)), put(vm(12, 2, 2)), put(vm(13, 3, 3)), put(router(1)), put(interface(21, 1, 1))]);
    [1, 2].iter().for_each(|n| world.follow(&name(*n)));
    let apart = keys([key(network(2)), key(vm(12, 2, 2)), key(node(2))]);
    assert_eq!(world.view(&name(2)), apart);
    world.commit([put(interface(22, 2, 1))]);
    let joined = world.view(&name(2));
    assert_eq!(joined, world.view(&name(1)));
    assert!(joined.contains(&key(vm(11, 1, 1))) && joined.contains(&key(router(1))) && joined.contains(&key(interface(21, 1, 1))));
    assert!(!joined.contains(&key(network(3))));
    world.commit([delete(interface(21, 1, 1))]);
    assert!(!world.view(&name(2)).contains(&key(network(1))));
    world.commit([delete(interface(22, 2, 1))]);
    assert_eq!(world.view(&name(2)), apart);
}

#[test]
fn a_ring_of_routers_stays_one_domain_until_its_second_cut() {
    let networks = (1..=4).map(|n| network(n).into());
    let ring = (1..=4).flat_map(|n| [interface(20 + n, n, n).into(), interface(30 + n, n % 4 + 1, n).into()]);
    let mut world = World::of(networks.chain(ring).chain([vm(11, 1, 1).into()]));
    world.follow(&name(1));
    let seen = |world: &World| (1..=4).filter(|n| world.view(&name(1)).contains(&key(network(*n)))).collect::<Vec<_>>();
    assert_eq!(seen(&world), [1, 2, 3, 4]);
    world.commit([delete(interface(22, 2, 2))]);
    assert_eq!(seen(&world), [1, 2, 3, 4]);
    world.commit([delete(interface(24, 4, 4))]);
    assert_eq!(seen(&world), [1, 2]);
}

/// The rule of one project lets in whoever is in another project's group.
#[test]
fn a_remote_group_of_another_project_brings_its_name_and_its_members_and_not_its_rules() {
    let mut world = World::of([network(1).into(), group(1).into(), group(2).into(), rule(1, 1, Some(2)).into(), rule(2, 2, None).into()]);
    let local = Port { security_groups: vec![group_id(1)], ..vm(11, 1, 1) };
    let remote = Port { security_groups: vec![group_id(2)], project: ProjectId("other".into()), ..pod(12, 1, 2) };
    let stranger = Port { security_groups: vec![group_id(2)], ..pod(13, 2, 2) };
    world.commit([put(local), put(remote.clone()), put(stranger.clone()), put(node(2)), put(network(2))]);
    world.follow(&name(1));
    let view = world.view(&name(1));
    assert!([key(group(1)), key(group(2)), key(rule(1, 1, None)), key(remote.clone()), key(node(2))].iter().all(|key| view.contains(key)));
    assert!(!view.contains(&key(rule(2, 2, None))), "the remote group's own rules are nobody's business here");
    assert!(!view.contains(&key(stranger)), "a member that cannot be reached");
    world.commit([put(Port { security_groups: vec![], ..remote.clone() })]);
    assert!(!world.view(&name(1)).contains(&key(remote.clone())));
    world.commit([put(remote.clone()), delete(rule(1, 1, None))]);
    let view = world.view(&name(1));
    assert!(!view.contains(&key(remote)) && !view.contains(&key(group(2))));
}

#[test]
fn a_port_that_moves_takes_the_view_with_it() {
    let mut world = World::of([network(1).into(), group(1).into(), rule(1, 1, None).into(), node(1).into(), node(2).into()]);
    [1, 2].iter().for_each(|n| world.follow(&name(*n)));
    let at = |home| Port { security_groups: vec![group_id(1)], ..vm(11, 1, home) };
    world.commit([put(at(1))]);
    assert_eq!((world.view(&name(1)).len(), world.view(&name(2)).len()), (5, 0));
    world.commit([put(at(2))]);
    assert_eq!((world.view(&name(1)).len(), world.view(&name(2)).len()), (0, 5));
    assert!(world.view(&name(2)).contains(&key(node(2))) && !world.view(&name(2)).contains(&key(node(1))));
}

#[test]
fn an_update_that_comes_before_the_local_port_is_in_the_view_when_the_port_comes() {
    let mut world = World::default();
    world.follow(&name(1));
    // Everything comes in the wrong order: members before pools, rules before groups, networks last.
    world.commit([put(member(1, 1))]);
    world.commit([put(pool(1, 1)), put(listener(1, 1))]);
    world.commit([put(rule(1, 1, Some(2))), put(interface(21, 1, 1))]);
    let renamed = Network { name: "new".into(), ..network(1) };
    world.commit([put(network(1)), put(group(1))]);
    world.commit([put(renamed.clone())]);
    world.commit([put(balancer(1, 1))]);
    let local = Port { security_groups: vec![group_id(1)], ..pod(11, 1, 1) };
    let effects = world.commit([put(local)]);
    assert_eq!(world.replicas[&name(1)][&key(network(1))], shown(&renamed.into()));
    assert_eq!(effects[&name(1)].entered.len(), 9);
    world.commit([put(router(1)), put(node(1)), put(group(2))]);
    let view = world.view(&name(1));
    assert!([key(router(1)), key(node(1)), key(group(2)), key(member(1, 1))].iter().all(|key| view.contains(key)));
}

#[test]
fn a_pod_is_news_for_its_own_node_and_its_block_for_the_others() {
    let mut world = World::of([network(1).into(), node(1).into(), node(2).into(), pod(11, 1, 1).into(), pod(12, 1, 2).into()]);
    world.commit([put(block(1, 1)), put(block(1, 2))]);
    [1, 2].iter().for_each(|n| world.follow(&name(*n)));
    assert!(world.view(&name(1)).contains(&key(block(1, 2))) && !world.view(&name(1)).contains(&key(pod(12, 1, 2))));
    let effects = world.commit([put(pod(13, 1, 2))]);
    assert_eq!(effects.keys().collect::<Vec<_>>(), [&name(2)]);
    let effects = world.commit([put(Port { block: None, ..pod(13, 1, 2) })]);
    assert_eq!(effects.keys().collect::<Vec<_>>(), [&name(1), &name(2)], "an exception is everybody's");
    let effects = world.commit([put(Port { address_pairs: vec![pair(7)], ..pod(13, 1, 2) })]);
    assert_eq!(effects.keys().collect::<Vec<_>>(), [&name(1), &name(2)], "what a pod carries by its address pairs, too");
    let effects = world.commit([put(pod(13, 1, 2))]);
    assert_eq!(effects.keys().collect::<Vec<_>>(), [&name(1), &name(2)]);
    world.view(&name(1));
}

#[test]
fn status_and_bookkeeping_are_no_news() {
    let mut world = World::of([network(1).into(), vm(11, 1, 1).into(), vm(12, 1, 2).into()]);
    [1, 2].iter().for_each(|n| world.follow(&name(*n)));
    let standard = Standard { revision_number: 7, ..Standard::default() };
    assert!(world.commit([put(Port { status: PortStatus::Active, standard, ..vm(11, 1, 1) })]).is_empty());
    assert_eq!(world.commit([put(Port { is_admin_up: false, ..vm(11, 1, 1) })]).len(), 2);
}

#[test]
fn what_is_gone_leaves_nothing_behind() {
    let objects: Vec<Object> = vec![
        network(1).into(),
        network(2).into(),
        node(1).into(),
        router(1).into(),
        interface(21, 1, 1).into(),
        interface(22, 2, 1).into(),
        Port { security_groups: vec![group_id(1)], ..vm(11, 1, 1) }.into(),
        Port { security_groups: vec![group_id(2)], ..pod(12, 2, 2) }.into(),
        block(2, 2).into(),
        group(1).into(),
        group(2).into(),
        rule(1, 1, Some(2)).into(),
        balancer(1, 2).into(),
        listener(1, 1).into(),
        pool(1, 1).into(),
        member(1, 1).into(),
    ];
    for turn in 0..objects.len() {
        let mut world = World::of(objects.clone());
        world.follow(&name(1));
        for n in 0..objects.len() {
            world.commit([delete(objects[(n * 7 + turn) % objects.len()].clone())]);
            world.view(&name(1));
        }
        assert!(world.interest.is_empty(), "in turn {turn}");
    }
}
