//! `ladon kube` and a server that lost the ports of pods that run: somebody deleted them, or its store is that of an earlier day.
//!
//! One test at a time: every instance makes ports for all pods of the cluster, and would tell those of another test's world that
//! their addresses are not what they have.

mod world;

use std::collections::BTreeSet;

use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use world::front::Front;
use world::{World, eventually, real_server};

type Claim = Result<(), anyhow::Error>;

async fn world() -> (MutexGuard<'static, ()>, World) {
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    (turn, World::on(|_| real_server()).await)
}

/// The port of a pod that runs, as a kubelet says it, while no `ladon kube` runs any more.
async fn left_behind(world: &World) -> Value {
    let kube = world.start("a").await;
    world.pod("web", json!({})).await;
    eventually("it has a port", || async { world.ports().await.len() == 1 }).await;
    let port = world.ports().await.remove(0);
    let addresses = |index: usize| port["fixed_ips"][index]["ip_address"].as_str().unwrap();
    world.set_addresses("web", &[addresses(0), addresses(1)]).await;
    kube.kill();
    world.ask("DELETE", &format!("/v2.0/ports/{}", port["id"].as_str().unwrap()), Value::Null).await;
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pods_port_is_made_again_as_it_was_by_a_process_that_never_saw_it() -> Claim {
    let (_turn, world) = world().await;
    let before = left_behind(&world).await;
    let _kube = world.start("a").await;
    eventually("it is there again", || async { world.ports().await.len() == 1 }).await;
    let after = world.ports().await.remove(0);
    for field in ["id", "mac_address", "fixed_ips", "device_id", "binding:host_id"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert!(world.events().await.iter().all(|(reason, _)| reason != "LadonPortReplaced"));
    world.delete_pod("web").await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_run_have_their_addresses_back_from_a_store_that_knows_nothing_of_them() -> Claim {
    const NEW: usize = 20;
    let (_turn, mut world) = world().await;
    let before = left_behind(&world).await;
    world.front = Front::new(real_server());
    for number in 0..NEW {
        world.pod(&format!("new-{number}"), json!({})).await;
    }
    let _kube = world.start("a").await;
    eventually("one port per pod", || async { world.ports().await.len() == NEW + 1 }).await;
    let after = world.ports().await.into_iter().find(|port| port["device_id"] == before["device_id"]).expect("it has a port");
    let addresses = |port: &Value| {
        let ips = port["fixed_ips"].as_array().unwrap().iter().map(|fixed| fixed["ip_address"].as_str().unwrap().to_owned());
        ips.collect::<BTreeSet<_>>()
    };
    assert_eq!(addresses(&after), addresses(&before));
    for field in ["id", "mac_address", "binding:host_id"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert!(world.events().await.iter().all(|(reason, _)| reason != "LadonPortReplaced"));
    world.delete_pod("web").await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pod_that_cannot_have_its_addresses_is_told_by_every_process_that_sees_it() -> Claim {
    let (_turn, world) = world().await;
    let before = left_behind(&world).await;
    let thief = json!({"port": {"network_id": before["network_id"], "name": "thief", "fixed_ips": before["fixed_ips"]}});
    assert!(world.ask("POST", "/v2.0/ports", thief).await["port"]["id"].is_string());
    let told = || async {
        let events = world.api::<Event>().list(&Default::default()).await.unwrap();
        let counts = events.items.iter().filter(|event| event.reason.as_deref() == Some("LadonPortReplaced"));
        counts.map(|event| event.series.as_ref().map_or(1, |series| series.count)).sum::<i32>()
    };
    let kube = world.start("a").await;
    eventually("it has other addresses", || async { world.ports().await.iter().any(|port| port["fixed_ips"] != before["fixed_ips"]) })
        .await;
    eventually("its pod is told", || async { told().await == 1 }).await;
    kube.kill();
    let _kube = world.start("a").await;
    eventually("and told again", || async { told().await == 2 }).await;
    world.delete_pod("web").await;
    Ok(())
}
