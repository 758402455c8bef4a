//! A node follows its view: fresh, from the disk, from server to server.

use model::*;
use node::view::{self, UPDATES_MAX};
use stream::pki::Authority;
use stream::wire::{Welcome, server_message};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::world::*;

#[tokio::test]
async fn a_fresh_node_gets_one_whole_snapshot_and_then_what_changes() {
    let world = World::new().await;
    world.server.put([network(1).into(), network(2).into(), vm(11, 1, 1).into(), vm(12, 2, 2).into()]).await;
    let mut node = world.follow(1);
    let first = node.next().await.clone();
    assert!(first.is_complete_snapshot);
    assert!(node.replica.contains_key(&key(vm(11, 1, 1))) && !node.replica.contains_key(&key(network(2))), "its own view and nothing else");
    node.until("it learns who it is itself", |replica| replica.keys().any(|key| key.kind == Kind::Node)).await;
    let revision = world.server.put([vm(13, 1, 2).into()]).await;
    node.until("a neighbour", |replica| replica.contains_key(&key(vm(13, 1, 2)))).await;
    assert_eq!(node.revision, revision);
    assert!(!node.updates.last().unwrap().is_complete_snapshot);
    world.server.delete([vm(11, 1, 1).into()]).await;
    node.until("nothing is left for a node without ports", |replica| replica.is_empty()).await;
    node.link.stop().await;
}

#[tokio::test]
async fn a_node_that_was_there_before_everything_else_needs_one_snapshot() {
    let world = World::new().await;
    let mut node = world.follow(1);
    assert!(node.next().await.upserts.is_empty());
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    node.until("it knows itself", |replica| replica.len() == 3).await;
    assert_eq!(node.updates.iter().filter(|update| update.is_complete_snapshot).count(), 1);
    node.link.stop().await;
}

#[tokio::test]
async fn a_large_view_comes_in_pieces_and_as_one() {
    let world = World::new().await;
    let description = "x".repeat(2000);
    let ports = (100..1500).map(|n| Port { description: description.clone(), ..vm(n, 1, 1) }.into());
    world.server.put(ports.chain([network(1).into()])).await;
    let mut node = world.follow(1);
    assert_eq!(node.next().await.upserts.len(), 1401);
    world.server.put((100..1500).map(|n| Port { description: description.clone(), is_admin_up: false, ..vm(n, 1, 1) }.into())).await;
    node.until_right(1, &world.server).await;
    let large = node.updates.iter().filter(|update| update.upserts.len() > 1000).count();
    assert_eq!(large, 2, "the snapshot and one delta");
    node.link.stop().await;
}

#[tokio::test]
async fn a_fresh_node_without_a_server_changes_nothing() {
    let mut world = World::new().await;
    world.kill().await;
    let mut node = world.follow(1);
    let mut status = node.link.status.clone();
    soon("it says why", status.wait_for(|status| status.problem.is_some())).await.unwrap();
    assert!(node.link.updates.try_recv().is_err());
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    world.start().await;
    assert!(node.next().await.is_complete_snapshot);
    node.link.stop().await;
}

#[tokio::test]
async fn why_a_server_was_lost_is_told_in_words() {
    let mut world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let mut node = world.follow(1);
    node.next().await;
    let mut status = node.link.status.clone();
    soon("it follows", status.wait_for(|status| status.server.is_some())).await.unwrap();
    world.kill().await;
    let problem = soon("it says why", status.wait_for(|status| status.problem.is_some())).await.unwrap().problem.clone().unwrap();
    assert!(!problem.contains(['{', '\\']) && !problem.contains("Error(") && !problem.contains("Some("), "{problem}");
    node.link.stop().await;
}

#[tokio::test]
async fn a_node_starts_from_its_disk_without_a_server() {
    let mut world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let mut node = world.follow(1);
    node.until("it knows itself", |replica| replica.len() == 3).await;
    let (replica, revision) = (node.replica, node.revision);
    node.link.stop().await;
    world.kill().await;
    let mut again = world.follow(1);
    assert!(again.next().await.is_complete_snapshot);
    assert_eq!(again.replica, replica);
    assert!(again.revision >= revision);
    again.link.stop().await;
}

#[tokio::test]
async fn the_disk_follows_while_the_node_runs() {
    let world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let node = world.follow(1);
    let wait = async {
        while !world.path(1).exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    soon("the view is on the disk although nobody stopped the node", wait).await;
    drop(node);
}

#[tokio::test]
async fn a_damaged_disk_is_ignored_and_a_snapshot_repairs_it() {
    let world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    std::fs::write(world.path(1), "ladon-view 00\nrubbish").unwrap();
    let mut node = world.follow(1);
    assert!(node.next().await.is_complete_snapshot);
    node.until_right(1, &world.server).await;
    node.link.stop().await;
    assert!(std::fs::read_to_string(world.path(1)).unwrap().contains("net1"));
}

#[tokio::test]
async fn when_a_server_is_gone_the_next_one_is_followed() {
    let mut first = World::new().await;
    first.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let second = World::on(first.disk.emptied()).await;
    second.server.put([network(1).into(), vm(11, 1, 1).into(), vm(12, 1, 1).into()]).await;
    // Both serve under one authority: the second world's server shows the first world's certificate.
    for file in ["ca.crt", "ca.key", "server.crt", "server.key"] {
        std::fs::copy(first.dir.path().join(file), second.dir.path().join(file)).unwrap();
    }
    let (a, b) = (first.server.address.to_string(), second.server.address.to_string());
    let mut node = Follower::new(view::Config { servers: vec![a.clone(), b.clone()], ..first.config(1) });
    node.next().await;
    let mut status = node.link.status.clone();
    let followed = soon("it says whom", status.wait_for(|status| status.server.is_some())).await.unwrap().server.clone().unwrap();
    let (mut second, other) = (second, if followed == a { b } else { a.clone() });
    if followed == a {
        first.stop().await
    } else {
        second.stop().await
    }
    soon("it follows the other", status.wait_for(|status| status.server.as_ref() == Some(&other))).await.unwrap();
    node.link.stop().await;
}

#[tokio::test]
async fn for_a_busy_consumer_updates_are_merged() {
    let world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let mut node = world.follow(1);
    node.next().await;
    for mtu in 1000..1200 {
        world.server.put([Network { mtu, ..network(1) }.into()]).await;
    }
    let revision = world.server.core.state().revision();
    let mut status = node.link.status.clone();
    soon("the link has it all", status.wait_for(|status| status.revision >= revision)).await.unwrap();
    node.until_right(1, &world.server).await;
    assert!(node.updates.len() < 20, "{} updates for 200 changes", node.updates.len());
    node.link.stop().await;
}

#[tokio::test]
async fn updates_wait_for_a_busy_consumer_up_to_a_number_and_then_as_one() {
    let world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let mut node = world.follow(1);
    node.until_right(1, &world.server).await;
    let mut status = node.link.status.clone();
    for n in 0..2 * UPDATES_MAX as u32 {
        let revision = world.server.put([vm(20 + n, 1, 1).into()]).await;
        soon("the change came", status.wait_for(|status| status.revision >= revision)).await.unwrap();
    }
    soon("what there is room for is handed over", async {
        while node.link.updates.len() < UPDATES_MAX {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..=UPDATES_MAX {
        node.next().await;
    }
    let has = |n: u32| node.replica.contains_key(&key(vm(20 + n, 1, 1)));
    assert!((0..2 * UPDATES_MAX as u32).all(has), "all the others came as one");
    node.link.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(folder.path()).unwrap();
    let listener = stream::Listener::bind("127.0.0.1:0".parse().unwrap(), authority.server().unwrap()).await.unwrap();
    let servers = vec![listener.address().unwrap().to_string()];
    let (sender, mut followers) = mpsc::channel(1);
    tokio::spawn(listener.run(sender, std::future::pending()));
    let node = Follower::new(view::Config {
        node: name(1),
        tunnel_addresses: vec![],
        tunnel: TunnelType::Geneve,
        bridge: "br-test".into(),
        datapath: "netdev".into(),
        servers,
        credentials: authority.node(&name(1)).unwrap(),
        path: folder.path().join("view"),
    });
    let mut status = node.link.status.clone();
    // Before its first word, and after one.
    for word in [None, Some(Welcome { store: uuid::Uuid::from_u128(1).to_string() })] {
        let server = soon("it comes", followers.recv()).await.unwrap();
        let mut since = Instant::now();
        if let Some(word) = word {
            tokio::time::sleep(view::SILENCE_MAX / 2).await;
            server.outbound.send(Ok(server_message::Body::Welcome(word).into())).await.unwrap();
            soon("the word", status.wait_for(|status| status.server.is_some())).await.unwrap();
            since = Instant::now();
        }
        soon("it is left", server.outbound.closed()).await;
        assert_eq!(since.elapsed().as_secs(), view::SILENCE_MAX.as_secs());
    }
    node.link.stop().await;
}
