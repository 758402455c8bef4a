//! Random edits: the incremental view is the closure, replayed deltas are the state restricted to it, and from any revision a
//! node resumes to the same.

use std::collections::BTreeMap;

use model::*;
use proptest::prelude::*;
use stream::InterestHash;

use super::world::*;
use crate::views::catch_up::{Position, resumed};
use crate::views::shown::{Encoder, shown};

const NODES: u32 = 3;

/// Objects of all kinds whose references go anywhere, also to what is not there.
fn object() -> impl Strategy<Value = Object> {
    let home = proptest::option::of(1..=NODES);
    let groups = proptest::collection::vec(1..4u32, 0..3);
    let port = (1..9u32, 1..5u32, home, 0..3u8, groups, proptest::bool::ANY).prop_map(|(n, net, home, pod, groups, is_up)| {
        let block = (pod > 0).then(|| block(net, home.unwrap_or(1)).id);
        let address_pairs = if pod > 1 { vec![pair(n)] } else { vec![] };
        let security_groups = groups.into_iter().map(group_id).collect();
        Port { host: home.map(name), block, address_pairs, security_groups, is_admin_up: is_up, ..port(n, net) }.into()
    });
    prop_oneof![
        6 => port,
        4 => (20..26u32, 1..5u32, 1..3u32).prop_map(|(n, network, router)| interface(n, network, router).into()),
        1 => (1..=NODES).prop_map(|n| node(n).into()),
        2 => (1..5u32, 1400..1402u16).prop_map(|(n, mtu)| Network { mtu, ..network(n) }.into()),
        1 => (1..5u32, 1..5u32).prop_map(|(n, network)| subnet(n, network).into()),
        1 => (1..3u32).prop_map(|n| router(n).into()),
        1 => (1..4u32).prop_map(|n| group(n).into()),
        3 => (1..5u32, 1..4u32, proptest::option::of(1..4u32)).prop_map(|(n, group, remote)| rule(n, group, remote).into()),
        1 => (1..5u32, 1..=NODES).prop_map(|(network, home)| block(network, home).into()),
        1 => (1..3u32, 1..5u32).prop_map(|(n, network)| balancer(n, network).into()),
        1 => (1..3u32, 1..3u32).prop_map(|(n, balancer)| listener(n, balancer).into()),
        1 => (1..3u32, 1..3u32).prop_map(|(n, balancer)| pool(n, balancer).into()),
        1 => (1..4u32, 1..3u32).prop_map(|(n, pool)| member(n, pool).into()),
    ]
}

pub fn commits() -> impl Strategy<Value = Vec<Vec<(Object, bool)>>> {
    let edit = (object(), proptest::bool::weighted(0.3));
    proptest::collection::vec(proptest::collection::vec(edit, 1..6), 1..25)
}

pub fn edits(commit: Vec<(Object, bool)>) -> impl Iterator<Item = Edit> {
    commit.into_iter().map(|(object, is_gone)| if is_gone { delete(object) } else { put(object) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_incremental_view_is_the_closure_and_deltas_replay_to_it(commits in commits()) {
        let mut world = World::default();
        (1..=NODES).for_each(|n| world.follow(&name(n)));
        for commit in commits {
            world.commit(edits(commit));
            (1..=NODES).for_each(|n| drop(world.view(&name(n))));
        }
        let fresh = crate::views::interest::Interest::of(&world.state);
        for n in 1..=NODES {
            prop_assert_eq!(fresh.view(&name(n)), world.interest.view(&name(n)), "built at once = built step by step");
        }
        let all: Vec<Object> = world.state.objects().map(|object| (**object).clone()).collect();
        world.commit(all.into_iter().map(delete));
        prop_assert!(world.interest.is_empty());
    }

    #[test]
    fn from_any_revision_a_node_resumes_to_its_view_and_gets_only_what_changed(commits in commits(), at in any::<proptest::sample::Index>()) {
        let mut world = World::default();
        (1..=NODES).for_each(|n| world.follow(&name(n)));
        let stop = at.index(commits.len());
        let mut kept = BTreeMap::new();
        for (n, commit) in commits.into_iter().enumerate() {
            world.commit(edits(commit));
            if n == stop {
                kept = world.replicas.clone();
            }
        }
        let encoder = Encoder::default();
        for n in 1..=NODES {
            let mut replica = kept.remove(&name(n)).unwrap();
            let position = Position { revision: Revision(stop as u64 + 1), hash: InterestHash::of(replica.keys()) };
            let (view, log) = (world.interest.view(&name(n)), &world.log[stop + 1..]);
            let batch = resumed(&name(n), position, &world.state, InterestHash::of(&view), log, &encoder).expect("the hash is right");
            for bytes in &batch.upserts {
                let object = stream::wire::object(bytes).unwrap();
                let is_news = replica.get(&object.key()) != Some(&object);
                prop_assert!(is_news, "{} was known", object.key());
                replica.insert(object.key(), object);
            }
            for key in &batch.removals {
                prop_assert!(replica.remove(key).is_some());
            }
            let restricted: BTreeMap<_, _> = view.iter().map(|key| (*key, shown(world.state.object(*key).unwrap()))).collect();
            prop_assert_eq!(&replica, &restricted);
            prop_assert_eq!(batch.hash, InterestHash::of(replica.keys()));
            let wrong = Position { hash: InterestHash(position.hash.0 ^ 1), ..position };
            prop_assert!(resumed(&name(n), wrong, &world.state, InterestHash::of(&view), log, &encoder).is_none(), "another view: a snapshot");
        }
    }
}
