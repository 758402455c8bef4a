//! `ladon kube` between a real kube-apiserver and the real server.

mod world;

use k8s_openapi::api::core::v1::Service;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use world::{World, eventually};

type Claim = Result<(), anyhow::Error>;

async fn world() -> World {
    World::on(|_| world::real_server()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_block_addresses_on_a_network_that_survives_restarts() -> Claim {
    let world = world().await;
    let kube = world.start("a").await;
    let mut uids = Vec::new();
    for number in 0..20 {
        uids.push(world.pod(&format!("web-{number}"), json!({})).await);
    }
    uids.sort();
    eventually("one port per pod", || async { world.devices().await == uids }).await;
    for port in world.ports().await {
        let address = |index: usize| port["fixed_ips"][index]["ip_address"].as_str().unwrap().to_owned();
        let (v4, v6) = if address(0).contains(':') { (address(1), address(0)) } else { (address(0), address(1)) };
        let bits = u32::from(v4.parse::<std::net::Ipv4Addr>()?);
        let embedded = u128::from("fd00:244::".parse::<std::net::Ipv6Addr>()?) | u128::from(bits);
        assert_eq!(v6.parse::<std::net::Ipv6Addr>()?, std::net::Ipv6Addr::from(embedded), "both addresses are one of a block");
    }
    let made = || async {
        let kinds = ["networks", "subnets", "routers", "ports?device_owner=network:router_interface"];
        let mut ids: Vec<Value> = Vec::new();
        for kind in kinds {
            ids.extend(world.list(&format!("/v2.0/{kind}")).await.iter().map(|object| object["id"].clone()));
        }
        ids
    };
    let (before, ports) = (made().await, world.ports().await);
    assert!(before.len() >= 9 && before.len() <= 11, "{before:?}");
    kube.kill();
    world.delete_pod("web-0").await;
    let _kube = world.start("a").await;
    eventually("the orphan is gone", || async { world.ports().await.len() == uids.len() - 1 }).await;
    assert_eq!(made().await, before);
    let kept: Vec<Value> = ports.into_iter().filter(|port| port["name"] != format!("{}/web-0", world.namespace)).collect();
    assert_eq!(world.ports().await.len(), kept.len());
    for port in world.ports().await {
        assert!(kept.iter().any(|old| old["id"] == port["id"] && old["fixed_ips"] == port["fixed_ips"]));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_makes_no_second_port_on_the_real_server() -> Claim {
    let world = world().await;
    world.front.lose("POST", "/v2.0/ports", 3);
    for number in 0..5 {
        world.pod(&format!("web-{number}"), json!({})).await;
    }
    let (_one, _two) = (world.start("a").await, world.start("b").await);
    eventually("one port per pod", || async { !world.front.is_losing() && world.ports().await.len() == 5 }).await;
    let mut devices = world.devices().await;
    devices.dedup();
    assert_eq!(devices.len(), 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_somebody_deletes_under_a_pod_is_made_again_as_it_was() -> Claim {
    let world = world().await;
    let mut config = world.config("a");
    config.resync_secs = 1;
    let _kube = world.start_with(config).await;
    world.pod("web", json!({})).await;
    let ports = || async { world.ports().await };
    eventually("it has a port", || async { ports().await.len() == 1 }).await;
    let before = ports().await.remove(0);
    let place = |port: &Value| ["id", "mac_address", "fixed_ips", "device_id"].map(|field| port[field].clone());
    let path = format!("/v2.0/ports/{}", before["id"].as_str().unwrap());
    for _ in 0..3 {
        world.ask("DELETE", &path, Value::Null).await;
        eventually("it is there again", || async { ports().await.iter().any(|port| place(port) == place(&before)) }).await;
    }
    assert!(world.events().await.iter().all(|(reason, _)| reason != "LadonPortReplaced"));

    world.front.set_down(true);
    world.ask("DELETE", &path, Value::Null).await;
    let thief = json!({"port": {"network_id": before["network_id"], "name": "thief", "fixed_ips": before["fixed_ips"]}});
    assert!(world.ask("POST", "/v2.0/ports", thief).await["port"]["id"].is_string());
    world.front.set_down(false);
    eventually("it gets other addresses", || async {
        ports().await.iter().any(|port| port["device_id"] == before["device_id"] && port["fixed_ips"] != before["fixed_ips"])
    })
    .await;
    eventually("and its pod is told", || async { world.events().await.iter().any(|(reason, _)| reason == "LadonPortReplaced") }).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_a_host_on_the_network() -> Claim {
    let world = world().await;
    let _kube = world.start("a").await;
    let name = format!("node-{}-r", world.namespace);
    world.node(&name, &["192.0.2.11", "2001:db8::11"]).await;
    let ports = || world.list("/v2.0/ports?device_owner=ladon:node");
    eventually("it has a port with its addresses", || async {
        ports().await.iter().any(|port| port["allowed_address_pairs"].as_array().is_some_and(|pairs| pairs.len() == 2))
    })
    .await;
    world.delete_node(&name).await;
    eventually("the port is gone", || async { ports().await.is_empty() }).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_of_nodes_is_too_large_for_the_router() -> Claim {
    const NODES: u8 = 40;
    let world = world().await;
    let _kube = world.start("a").await;
    let names: Vec<String> = (0..NODES).map(|number| format!("node-{}-{number}", world.namespace)).collect();
    for (number, name) in names.iter().enumerate() {
        world.node(name, &[&format!("192.0.2.{}", number + 11), &format!("2001:db8::{}", number + 11)]).await;
    }
    eventually("every node has a port", || async { world.list("/v2.0/ports?device_owner=ladon:node").await.len() == usize::from(NODES) })
        .await;
    assert!(world.events().await.iter().all(|(reason, _)| reason != "LadonNodeFailed"));
    let routers = world.list("/v2.0/routers").await;
    assert!(routers.iter().all(|router| router["routes"].as_array().is_some_and(Vec::is_empty)), "a router grows with the nodes");
    for name in &names {
        world.delete_node(name).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn services_become_load_balancers_of_the_real_server() -> Claim {
    let world = world().await;
    for path in ["/v2.0/lbaas/loadbalancers", "/v2.0/lbaas/pools", "/v2.0/lbaas/listeners"] {
        world.front.lose("POST", path, 1);
    }
    let kube = world.start("a").await;
    world.service("web", json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]})).await;
    let endpoints =
        |count: u8| (1..=count).map(|n| json!({"addresses": [format!("10.244.1.{n}")], "conditions": {"ready": true}})).collect();
    world.endpoints("web", endpoints(3)).await;
    eventually("three members", || async { world.members("web").await.len() == 3 && world.balancers("web").await.len() == 2 }).await;
    eventually("the API server is a member of its own Service", || async {
        world.members("default/kubernetes").await.iter().any(|member| member.starts_with("192.0.2.1:"))
    })
    .await;
    kube.kill();
    world
        .endpoints(
            "web",
            json!([{"addresses": ["10.244.1.1"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": ["10.244.1.9"], "conditions": {"ready": true}}]),
        )
        .await;
    let _kube = world.start("a").await;
    eventually("it goes on", || async { world.members("web").await == ["10.244.1.1:8080=0", "10.244.1.9:8080=1"] }).await;
    assert_eq!(world.balancers("web").await.len(), 2);
    world.api::<Service>().delete("web", &DeleteParams::default()).await?;
    eventually("nothing is left", || async { world.balancers("web").await.is_empty() }).await;
    let strays = world
        .list("/v2.0/ports?device_owner=Octavia")
        .await
        .iter()
        .filter(|port| port["name"].as_str().unwrap_or("").contains("web"))
        .count();
    assert_eq!(strays, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_cannot_be_a_member_keeps_no_other_from_being_one() -> Claim {
    let world = world().await;
    let _kube = world.start("a").await;
    let service = world.service("web", json!({"ports": [{"port": 80}]})).await;
    let vip = service.spec.and_then(|spec| spec.cluster_ip).expect("it has an address");
    let endpoint = |address: &str| json!({"addresses": [address], "conditions": {"ready": true}});
    let odd = [&*vip, "239.1.2.3", "255.255.255.255"];
    world.endpoints("web", odd.iter().chain(&["10.244.1.1"]).map(|address| endpoint(address)).collect()).await;
    eventually("the others are served", || async { world.members("web").await == ["10.244.1.1:8080=1"] }).await;
    let is_told = |text: &str| odd.iter().all(|address| text.contains(address));
    eventually("an Event names what is left out", || async {
        world.events().await.iter().any(|(reason, note)| reason == "LadonServiceLimited" && is_told(note))
    })
    .await;
    eventually("so does the condition", || async {
        let service = world.api::<Service>().get("web").await.unwrap();
        let conditions = service.status.and_then(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "LadonReady" && condition.status == "True" && is_told(&condition.message))
    })
    .await;
    world.endpoints("web", json!([endpoint("10.244.1.1"), endpoint("10.244.1.2")])).await;
    eventually("later changes arrive", || async { world.members("web").await == ["10.244.1.1:8080=1", "10.244.1.2:8080=1"] }).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changes_of_a_load_balancer_is_put_right() -> Claim {
    let world = world().await;
    let mut config = world.config("a");
    config.resync_secs = 2;
    let _kube = world.start_with(config).await;
    world.service("web", json!({"ports": [{"port": 80}]})).await;
    world.endpoints("web", json!([{"addresses": ["10.244.1.1"], "conditions": {"ready": true}}])).await;
    let listeners = || async {
        let name = format!("{}/web:TCP:80", world.namespace);
        let all = world.list("/v2.0/lbaas/listeners").await;
        all.into_iter().filter(|listener| listener["name"] == *name).collect::<Vec<_>>()
    };
    eventually("it is served", || async { world.members("web").await == ["10.244.1.1:8080=1"] && listeners().await.len() == 1 }).await;
    let id = listeners().await[0]["id"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        world.ask("DELETE", &format!("/v2.0/lbaas/listeners/{id}"), Value::Null).await;
        eventually("it is there again", || async { listeners().await.len() == 1 }).await;
    }
    let id = world.balancers("web").await[0]["id"].as_str().unwrap().to_owned();
    world.ask("DELETE", &format!("/v2.0/lbaas/loadbalancers/{id}?cascade=true"), Value::Null).await;
    eventually("so is the load balancer", || async { world.members("web").await == ["10.244.1.1:8080=1"] }).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_interface_that_somebody_removes_is_there_again() -> Claim {
    let world = world().await;
    let mut config = world.config("a");
    config.resync_secs = 1;
    let _kube = world.start_with(config).await;
    let interfaces = || async {
        let ports = world.list("/v2.0/ports?device_owner=network:router_interface").await;
        let mut subnets: Vec<String> = ports.iter().map(|port| port["fixed_ips"][0]["subnet_id"].as_str().unwrap().to_owned()).collect();
        subnets.sort();
        subnets
    };
    eventually("the router leads to pods and Services of both families", || async { interfaces().await.len() == 4 }).await;
    let (before, router) = (interfaces().await, world.list("/v2.0/routers").await.remove(0)["id"].as_str().unwrap().to_owned());
    let mut removed = 0;
    for subnet in world.list("/v2.0/subnets").await {
        let path = format!("/v2.0/routers/{router}/remove_router_interface");
        let answer = world.ask("PUT", &path, json!({"subnet_id": subnet["id"]})).await;
        removed += usize::from(answer["port_id"].is_string());
    }
    assert!(removed > 0, "some could be removed");
    eventually("it does so again", || async { interfaces().await == before }).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_project_has_under_the_clusters_ids_is_not_adopted() -> Claim {
    let world = world().await;
    let config = world.config("a");
    let network = kube_bridge::ids::Keys::new(&config.cluster).network("pods");
    let planted = json!({"network": {"name": "trap", "project_id": "mallory"}});
    let request = axum::http::Request::post("/v2.0/networks").header("idempotency-key", network.to_string());
    let request = request.body(axum::body::Body::from(planted.to_string()))?;
    assert_eq!(tower::ServiceExt::oneshot(world.front.server.clone(), request).await?.status(), 201);
    let _kube = world.start("a").await;
    eventually("it was tried, and again", || async { world.front.seen("POST", "/v2.0/networks").len() >= 2 }).await;
    assert_eq!(world.list("/v2.0/networks").await.len(), 1);
    assert!(world.list("/v2.0/subnets").await.is_empty());
    Ok(())
}
