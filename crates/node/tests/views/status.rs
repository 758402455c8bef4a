//! What nodes report becomes ports' status and home.

use model::*;
use server::State;

use crate::world::*;

fn status(state: &State, n: u32) -> PortStatus {
    state.port(port_id(n)).unwrap().status
}

#[tokio::test]
async fn a_port_is_active_once_its_flows_are_in_the_switch_and_until_they_are_gone() {
    let mut world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let mut node = world.follow(1);
    node.next().await;
    node.report(&[11], &[], node.revision);
    world.server.until("the node is known", |state| state.node(&name(1)).is_some()).await;
    assert_eq!(status(&world.server.core.state(), 11), PortStatus::Down);
    let standard = world.server.core.state().port(port_id(11)).unwrap().standard.clone();
    node.report(&[11], &[11], node.revision);
    world.server.until("the port is active", |state| status(state, 11) == PortStatus::Active).await;
    assert_eq!(world.server.core.state().port(port_id(11)).unwrap().standard, standard, "no user changed it");
    // Neither a restart of the server nor the node's absence takes it down.
    world.kill().await;
    world.start().await;
    node.link.stop().await;
    let revision = world.server.put([network(2).into()]).await;
    world.server.until("something else happened", |state| state.revision() >= revision).await;
    assert_eq!(status(&world.server.core.state(), 11), PortStatus::Active);
    let mut node = world.follow(1);
    node.next().await;
    node.report(&[], &[], node.revision);
    world.server.until("the port is down", |state| status(state, 11) == PortStatus::Down).await;
    node.link.stop().await;
}

#[tokio::test]
async fn a_port_that_goes_down_by_its_users_will_is_down_and_comes_back() {
    let world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let mut node = world.follow(1);
    node.next().await;
    node.report(&[11], &[11], node.revision);
    world.server.until("active", |state| status(state, 11) == PortStatus::Active).await;
    world.server.put([Port { is_admin_up: false, status: PortStatus::Active, ..vm(11, 1, 1) }.into()]).await;
    world.server.until("down", |state| status(state, 11) == PortStatus::Down).await;
    world.server.put([vm(11, 1, 1).into()]).await;
    world.server.until("active again", |state| status(state, 11) == PortStatus::Active).await;
    node.link.stop().await;
}

#[tokio::test]
async fn two_nodes_claim_one_interface_and_one_of_them_gets_the_port() {
    let world = World::new().await;
    world.server.put([network(1).into(), port(11, 1).into()]).await;
    let mut first = world.follow(1);
    first.next().await;
    first.report(&[11], &[], Revision(0));
    world.server.until("claimed", |state| state.port(port_id(11)).unwrap().home() == Some(&name(1))).await;
    first.until_right(1, &world.server).await;
    let mut second = world.follow(2);
    second.next().await;
    second.report(&[11], &[11], Revision(0));
    let revision = world.server.put([Network { mtu: 1400, ..network(1) }.into()]).await;
    first.until("an unrelated change", |replica| replica[&key(network(1))] == Network { mtu: 1400, ..network(1) }.into()).await;
    assert!(first.revision >= revision);
    assert_eq!(world.server.core.state().port(port_id(11)).unwrap().home(), Some(&name(1)));
    assert!(second.replica.is_empty() && second.link.updates.try_recv().is_err(), "a claimant that is not the home sees nothing");
    first.report(&[], &[], Revision(0));
    world.server.until("the second one's", |state| state.port(port_id(11)).unwrap().home() == Some(&name(2))).await;
    world.server.until("active", |state| status(state, 11) == PortStatus::Active).await;
    first.until("the first one sees nothing", |replica| replica.is_empty()).await;
    first.link.stop().await;
    second.link.stop().await;
}

#[tokio::test]
async fn a_full_store_delays_status_and_loses_none() {
    let world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let mut node = world.follow(1);
    node.next().await;
    world.server.until("the node is known", |state| state.node(&name(1)).is_some()).await;
    world.disk.set_full(true);
    node.report(&[11], &[11], node.revision);
    let refused = world.server.core.write(|tx: &mut server::Tx| Ok::<_, server::WriteError>(tx.put(network(3)))).await;
    assert!(refused.is_err());
    world.disk.set_full(false);
    world.server.until("active after all", |state| status(state, 11) == PortStatus::Active).await;
    node.link.stop().await;
}
