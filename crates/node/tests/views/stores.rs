//! Servers with another store than the one that the node's view is of.

use serde_json::Value;

use crate::operator::until;
use crate::world::*;

async fn world_with_a_port() -> (World, Follower) {
    let world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let mut node = world.follow(1);
    node.until_right(1, &world.server).await;
    (world, node)
}

/// Waits until the node says why it does not follow.
async fn refusal(node: &Follower) -> String {
    let mut status = node.link.status.clone();
    let refuses = |status: &node::view::LinkStatus| status.problem.as_ref().is_some_and(|problem| problem.contains("serves store"));
    soon("the node refuses", status.wait_for(refuses)).await.unwrap().problem.clone().unwrap()
}

fn row(nodes: &Value) -> &Value {
    &nodes["nodes"][0]
}

#[tokio::test]
async fn a_node_takes_nothing_from_another_store_until_its_view_is_removed() {
    let (mut world, node) = world_with_a_port().await;
    let (ours, view) = (world.server.core.identity(), node.replica.clone());
    world.kill().await;
    world.disk = Default::default();
    world.start().await;
    let theirs = world.server.core.identity();
    let problem = refusal(&node).await;
    assert!(problem.contains(&ours.to_string()) && problem.contains(&theirs.to_string()), "{problem}");
    let nodes = until(&world, "/ladon/v1/nodes", |nodes| !row(nodes)["problem"].is_null()).await;
    assert_eq!((&row(&nodes)["name"], &row(&nodes)["is_connected"]), (&"n1".into(), &false.into()));
    assert!(row(&nodes)["problem"].as_str().unwrap().contains(&ours.to_string()), "{nodes}");

    // So does one that is started again, from its disk.
    node.link.stop().await;
    let mut node = world.follow(1);
    node.next().await;
    refusal(&node).await;
    node.take_ready();
    assert_eq!(node.replica, view);
    node.link.stop().await;

    std::fs::remove_file(world.path(1)).unwrap();
    let mut node = world.follow(1);
    node.until_right(1, &world.server).await;
    assert!(!node.replica.contains_key(&key(vm(11, 1, 1))));
    let nodes = until(&world, "/ladon/v1/nodes", |nodes| row(nodes)["is_connected"] == true).await;
    assert!(row(&nodes)["problem"].is_null(), "{nodes}");
}

#[tokio::test]
async fn an_older_backup_of_the_same_store_is_obeyed_with_a_snapshot() {
    let (mut world, mut node) = world_with_a_port().await;
    let backup = world.disk.copy();
    for n in 12..30 {
        world.server.put([vm(n, 1, 1).into()]).await;
    }
    node.until_right(1, &world.server).await;
    world.kill().await;
    world.disk = backup;
    world.start().await;
    node.until("what came after the backup is gone", |replica| !replica.contains_key(&key(vm(29, 1, 1)))).await;
    node.until_right(1, &world.server).await;
    assert!(node.replica.contains_key(&key(vm(11, 1, 1))));
}
