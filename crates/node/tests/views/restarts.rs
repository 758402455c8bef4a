//! Restarts in the middle of anything.

use std::collections::BTreeMap;
use std::time::Duration;

use model::*;
use node::view::Config;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::world::*;

/// What is put and what is deleted.
type Edit = (Option<Object>, ObjectKey);

/// Numbers that look random and are the same in every run with one seed.
struct Dice(StdRng);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0.random_range(0..sides)
    }

    fn edit(&mut self) -> Edit {
        let (n, net, home) = (self.roll(12), self.roll(3), self.roll(2) + 1);
        let object: Object = match self.roll(8) {
            0 => Network { mtu: 1400 + self.roll(50) as u16, ..network(net) }.into(),
            1 | 2 => interface(20 + n, net, self.roll(2)).into(),
            _ => Port { name: format!("{}", self.roll(1000)), ..vm(n, net, home) }.into(),
        };
        let key = object.key();
        (if self.roll(4) == 0 { None } else { Some(object) }, key)
    }
}

async fn apply(server: &Server, edits: Vec<Edit>) {
    let (put, gone): (Vec<Edit>, Vec<Edit>) = edits.into_iter().partition(|(object, _)| object.is_some());
    server.put(put.into_iter().filter_map(|(object, _)| object)).await;
    let state = server.core.state();
    server.delete(gone.into_iter().filter_map(|(_, key)| state.object(key).map(|object| (**object).clone()))).await;
}

#[tokio::test]
async fn a_node_that_comes_back_gets_only_what_changed_also_what_is_gone() {
    let mut world = World::new().await;
    let ports = (100..200).map(|n| vm(n, 1, 2).into());
    world.server.put(ports.chain([network(1).into(), network(2).into(), vm(11, 1, 1).into(), vm(12, 2, 1).into()])).await;
    let mut node = world.follow(1);
    node.until("it knows itself", |replica| replica.keys().any(|key| key.kind == Kind::Node)).await;
    let n = node.updates.len();
    world.kill().await;
    // Deleted, changed, new, and interest lost, while the node is on its own.
    world.server.delete([vm(100, 1, 2).into(), vm(12, 2, 1).into()]).await;
    world.server.put([Port { name: "new".into(), ..vm(101, 1, 2) }.into(), vm(300, 1, 2).into()]).await;
    world.start().await;
    node.until_right(1, &world.server).await;
    let resumed: Vec<_> = node.updates[n..].iter().collect();
    assert!(resumed.iter().all(|update| !update.is_complete_snapshot));
    let upserts: BTreeMap<_, _> = resumed.iter().flat_map(|update| &update.upserts).map(|object| (object.key(), object)).collect();
    assert_eq!(upserts.keys().copied().collect::<Vec<_>>(), [key(vm(101, 1, 2)), key(vm(300, 1, 2))]);
    let removals: usize = resumed.iter().map(|update| update.removals.len()).sum();
    assert_eq!(removals, 3, "two ports and a network");
    node.link.stop().await;
}

#[tokio::test]
async fn a_node_that_is_killed_right_after_a_change_begins_with_it_even_without_a_server() {
    let world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let mut node = world.follow(1);
    node.until("it knows itself", |replica| replica.len() == 3).await;
    let saved = async {
        while !world.path(1).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("a first view on the disk", saved).await;
    for n in 12..15 {
        world.server.put([vm(n, 1, 1).into()]).await;
        world.server.delete([vm(n - 1, 1, 1).into()]).await;
        node.until("the change", |replica| replica.contains_key(&key(vm(n, 1, 1))) && !replica.contains_key(&key(vm(n - 1, 1, 1)))).await;
        // What a kill would leave on the disk now.
        let left = tempfile::tempdir().unwrap();
        let name = world.path(1).file_name().unwrap().to_str().unwrap().to_owned();
        // In this order a save that ends meanwhile does no harm.
        for file in [format!("{name}.journal"), format!("{name}.journal.old"), name.clone()] {
            let _ = std::fs::copy(world.path(1).with_file_name(&file), left.path().join(&file));
        }
        let path = left.path().join(name);
        let mut again = Follower::new(Config { servers: vec![], path, ..world.config(1) });
        let first = again.next().await;
        let ports: Vec<ObjectKey> = first.upserts.iter().map(|object| object.key()).filter(|key| key.kind == Kind::Port).collect();
        assert_eq!((ports, first.revision), (vec![key(vm(n, 1, 1))], node.revision));
    }
    node.link.stop().await;
}

#[tokio::test]
async fn a_node_whose_revision_is_compacted_gets_a_snapshot() {
    let mut world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into(), vm(12, 1, 1).into()]).await;
    let mut node = world.follow(1);
    node.until("it knows itself", |replica| replica.len() == 4).await;
    let n = node.updates.len();
    world.kill().await;
    let revision = world.server.delete([vm(12, 1, 1).into()]).await;
    world.compact(revision);
    world.start().await;
    node.until_right(1, &world.server).await;
    assert!(node.updates[n..].iter().any(|update| update.is_complete_snapshot && update.removals == [key(vm(12, 1, 1))]));
    node.link.stop().await;
}

#[tokio::test]
async fn a_node_with_another_view_than_the_server_thinks_gets_a_snapshot() {
    let mut world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let mut node = world.follow(1);
    node.until("it knows itself", |replica| replica.len() == 3).await;
    let revision = node.revision;
    node.link.stop().await;
    world.kill().await;
    // The store comes back from elsewhere: the same revisions, other objects.
    let other = World::on(world.disk.emptied()).await;
    for n in 0..revision.0 + 5 {
        other.server.put([Network { mtu: 1000 + n as u16, ..network(1) }.into(), vm(12, 1, 1).into()]).await;
    }
    world.disk = other.disk.clone();
    world.start().await;
    let mut node = world.follow(1);
    node.until_right(1, &world.server).await;
    assert!(node.updates.len() >= 2 && node.updates[1].is_complete_snapshot, "from the disk, then from the server");
    node.link.stop().await;
}

#[tokio::test]
async fn a_store_that_went_back_in_time_is_followed_by_a_snapshot() {
    let mut world = World::new().await;
    for mtu in 1000..1020 {
        world.server.put([Network { mtu, ..network(1) }.into(), vm(11, 1, 1).into()]).await;
    }
    let mut node = world.follow(1);
    node.until("it knows itself", |replica| replica.len() == 3).await;
    node.link.stop().await;
    world.kill().await;
    let other = World::on(world.disk.emptied()).await;
    other.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    world.disk = other.disk.clone();
    world.start().await;
    let mut node = world.follow(1);
    node.next().await;
    node.revision = Revision::default();
    node.until_right(1, &world.server).await;
    node.link.stop().await;
}

#[tokio::test]
async fn servers_and_nodes_killed_in_the_middle_of_anything_end_with_the_right_views() {
    let seed = std::env::var("LADON_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_123);
    println!("LADON_SEED={seed}");
    let mut dice = Dice(StdRng::seed_from_u64(seed));
    let mut world = World::new().await;
    let mut nodes = vec![world.follow(1), world.follow(2)];
    for _ in 0..60 {
        let edits = (0..dice.roll(5) + 1).map(|_| dice.edit()).collect();
        apply(&world.server, edits).await;
        match dice.roll(12) {
            0 => {
                world.kill().await;
                world.start().await;
            }
            1 => {
                // Killed: what it had not saved is lost with it.
                let n = dice.roll(2);
                nodes[n as usize] = world.follow(n + 1);
            }
            2 => {
                let n = dice.roll(2);
                let node = std::mem::replace(&mut nodes[n as usize], world.follow(9));
                node.link.stop().await;
                nodes[n as usize] = world.follow(n + 1);
            }
            3 => nodes[dice.roll(2) as usize].take_ready(),
            _ => {}
        }
    }
    for (node, n) in nodes.iter_mut().zip([1, 2]) {
        node.until_right(n, &world.server).await;
    }
}

/// As long as a node's patience, and more.
const PATIENCE: std::time::Duration = stream::HEARTBEAT_INTERVAL.saturating_mul(5);

/// A node that follows a server that never says a word, and what the server holds of it. It has heard one report.
async fn follows_a_wedged_server(world: &World) -> (Follower, stream::Follower) {
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let credentials = stream::pki::Authority::open(world.dir.path()).unwrap().server().unwrap();
    let wedged = stream::Listener::bind("127.0.0.1:0".parse().unwrap(), credentials).await.unwrap();
    let address = wedged.address().unwrap().to_string();
    let (sender, mut followers) = tokio::sync::mpsc::channel(1);
    tokio::spawn(wedged.run(sender, std::future::pending()));
    let node = Follower::new(node::view::Config { servers: vec![address], ..world.config(1) });
    node.report(&[], &[], Revision(0));
    let mut held = soon("it follows", followers.recv()).await.unwrap();
    soon("it reports, and so waits for the first word", held.inbound.message()).await.unwrap();
    (node, held)
}

async fn time_passes(time: std::time::Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn is_left(status: &node::view::LinkStatus) -> bool {
    status.problem.as_ref().is_some_and(|problem| problem.contains("said nothing"))
}

#[tokio::test]
async fn a_server_that_never_says_a_word_is_left() {
    let world = World::new().await;
    let (node, _held) = follows_a_wedged_server(&world).await;
    let mut status = node.link.status.clone();
    time_passes(PATIENCE).await;
    soon("it is left", status.wait_for(is_left)).await.unwrap();
    node.link.stop().await;
}

#[tokio::test]
async fn a_node_that_has_much_to_say_leaves_a_silent_server_as_soon() {
    let world = World::new().await;
    let (node, mut held) = follows_a_wedged_server(&world).await;
    let status = node.link.status.clone();
    let mut said = 0;
    while !is_left(&status.borrow()) {
        said += 1;
        assert!(said < 20, "it is not left");
        node.report(&[], &[], Revision(said));
        // An error: it is left.
        let _ = soon("it reports", held.inbound.message()).await;
        time_passes(stream::HEARTBEAT_INTERVAL).await;
    }
    node.link.stop().await;
}
