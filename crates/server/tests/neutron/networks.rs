//! Networks and subnets: what they do besides looking right.

use axum::Extension;
use axum::body::Body;
use axum::http::Request;
use model::LoadBalancer;
use serde_json::{Value, json};
use server::neutron::{IPV4_MTU_MIN, IPV6_MTU_MIN};
use tower::ServiceExt;

use crate::api::{Api, admin, id};

#[tokio::test]
async fn an_administrator_chooses_a_free_segmentation_id_and_nobody_else_gets_it() {
    let api = Api::new();
    let first =
        api.make("networks", "network", json!({"name": "a", "provider:network_type": "geneve", "provider:segmentation_id": 2})).await;
    assert_eq!(first["provider:segmentation_id"], 2);
    let again = api.post("networks", json!({"network": {"provider:segmentation_id": 2}})).await;
    assert_eq!(again.error(), (409, "TunnelIdInUse"));
    let numbers = [api.network().await, api.network().await].map(|id| format!("networks/{id}"));
    for path in numbers {
        assert_ne!(api.get(&path).await.body["network"]["provider:segmentation_id"], 2);
    }
}

#[tokio::test]
async fn mtu_and_flooding_are_written_and_shown() {
    let api = Api::new();
    let network = api.make("networks", "network", json!({"mtu": 1300, "ladon:flooding": false})).await;
    assert_eq!((&network["mtu"], &network["ladon:flooding"]), (&json!(1300), &json!(false)));
    let path = format!("networks/{}", id(&network));
    api.subnet(&id(&network), "fd00::/64").await;
    let small = api.put(&path, json!({"network": {"mtu": IPV6_MTU_MIN - 1}})).await;
    assert_eq!(small.error(), (409, "NetworkMTUSubnetConflict"));
    assert_eq!(api.put(&path, json!({"network": {"mtu": IPV6_MTU_MIN}})).await.status, 200);
    let least = id(&api.make("networks", "network", json!({"mtu": IPV4_MTU_MIN})).await);
    api.subnet(&least, "10.0.0.0/24").await;
    let v6 = json!({"subnet": {"network_id": least, "ip_version": 6, "cidr": "fd00::/64"}});
    assert_eq!(api.post("subnets", v6).await.error(), (409, "NetworkMTUSubnetConflict"), "IPv4 needs 68, IPv6 needs 1280");
    let changed = api.put(&path, json!({"network": {"mtu": 1400, "ladon:flooding": true}})).await;
    assert_eq!((&changed.body["network"]["mtu"], &changed.body["network"]["ladon:flooding"]), (&json!(1400), &json!(true)));
}

#[tokio::test]
async fn a_deleted_network_takes_its_subnets_along() {
    let api = Api::new();
    let network = api.network().await;
    let subnet = id(&api.subnet(&network, "10.0.0.0/24").await);
    assert_eq!(api.get(&format!("networks/{network}")).await.body["network"]["subnets"], json!([subnet]));
    assert_eq!(api.delete(&format!("networks/{network}")).await.status, 204);
    assert_eq!(api.get(&format!("subnets/{subnet}")).await.status, 404);
}

#[tokio::test]
async fn bulk_makes_all_or_nothing() {
    let api = Api::new();
    let network = api.network().await;
    let subnets = json!([
        {"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/24"},
        {"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/25"},
    ]);
    assert_eq!(api.post("subnets", json!({"subnets": subnets})).await.error(), (400, "InvalidInput"));
    assert_eq!(api.get("subnets").await.body["subnets"], json!([]));
    api.subnet(&network, "10.0.0.0/24").await;
    let ports: Vec<Value> = (0..100).map(|n| json!({"network_id": network, "name": n.to_string(), "tags": ["t"]})).collect();
    let made = api.post("ports", json!({"ports": ports})).await;
    let made = made.body["ports"].as_array().unwrap();
    let ips: std::collections::BTreeSet<&str> = made.iter().map(|port| port["fixed_ips"][0]["ip_address"].as_str().unwrap()).collect();
    assert_eq!((made.len(), ips.len()), (100, 100));
    assert!(made.iter().enumerate().all(|(n, port)| port["name"] == n.to_string() && port["tags"] == json!(["t"])));
}

#[tokio::test]
async fn null_is_no_gateway_and_unset_is_the_first_address() {
    let api = Api::new();
    let network = api.network().await;
    let none =
        api.make("subnets", "subnet", json!({"network_id": network, "ip_version": 4, "cidr": "10.1.0.0/29", "gateway_ip": null})).await;
    assert_eq!(none["gateway_ip"], Value::Null);
    assert_eq!(none["allocation_pools"], json!([{"start": "10.1.0.1", "end": "10.1.0.6"}]));
    let usual = api.subnet(&network, "10.2.0.0/29").await;
    assert_eq!(usual["gateway_ip"], "10.2.0.1");
    let path = format!("subnets/{}", id(&usual));
    let moved = api.put(&path, json!({"subnet": {"gateway_ip": "10.2.0.3"}})).await;
    assert_eq!(moved.error(), (409, "GatewayConflictWithAllocationPools"));
    let pools = json!([{"start": "10.2.0.4", "end": "10.2.0.6"}]);
    let moved = api.put(&path, json!({"subnet": {"gateway_ip": "10.2.0.3", "allocation_pools": pools}})).await;
    assert_eq!((moved.status.as_u16(), &moved.body["subnet"]["allocation_pools"]), (200, &pools));
}

#[tokio::test]
async fn the_gateway_of_a_router_stays() {
    let api = Api::new();
    let network = api.network().await;
    let subnet = id(&api.subnet(&network, "10.2.0.0/24").await);
    let router = api.router().await;
    api.put(&format!("routers/{router}/add_router_interface"), json!({"subnet_id": subnet})).await;
    let moved = api.put(&format!("subnets/{subnet}"), json!({"subnet": {"gateway_ip": null}})).await;
    assert_eq!(moved.error(), (409, "GatewayIpInUse"));
}

#[tokio::test]
async fn ports_gain_and_lose_the_addresses_of_a_slaac_subnet() {
    let api = Api::new();
    let network = api.network().await;
    api.subnet(&network, "10.0.0.0/16").await;
    let plain = id(&api.port(&network, json!({"mac_address": "fa:16:3e:80:fe:1f"})).await);
    let pod = id(&api.port(&network, json!({"device_owner": "ladon:pod", "binding:host_id": "n1"})).await);
    let slaac =
        json!({"network_id": network, "ip_version": 6, "cidr": "fd00:9::/64", "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"});
    let subnet = id(&api.make("subnets", "subnet", slaac).await);
    let ips = |port: Value| -> Vec<String> {
        port["port"]["fixed_ips"].as_array().unwrap().iter().map(|fixed| fixed["ip_address"].as_str().unwrap().to_string()).collect()
    };
    assert!(ips(api.get(&format!("ports/{plain}")).await.body).contains(&"fd00:9::f816:3eff:fe80:fe1f".to_string()));
    assert_eq!(ips(api.get(&format!("ports/{pod}")).await.body).len(), 2);
    let state = api.world.core.state();
    assert!(state.port(pod.parse().unwrap()).unwrap().block.is_some(), "the pod stays in its block");
    // Nobody's host makes a VIP.
    let octavia = server::octavia::routes(api.world.core.clone()).layer(Extension(api.caller.clone()));
    let ask = |method: &str, path: String, body: Value| {
        let body = Body::from(body.to_string());
        octavia.clone().oneshot(Request::builder().method(method).uri(format!("/v2.0/lbaas/{path}")).body(body).unwrap())
    };
    let wanted = json!({"loadbalancer": {"vip_subnet_id": subnet, "vip_address": "fd00:9::99"}});
    assert_eq!(ask("POST", "loadbalancers".into(), wanted).await.unwrap().status(), 201);
    let balancer = api.world.core.state().all::<LoadBalancer>().next().unwrap().clone();
    assert_eq!(api.delete(&format!("subnets/{subnet}")).await.error(), (409, "SubnetInUse"));
    assert_eq!(ips(api.get(&format!("ports/{}", balancer.vip_port)).await.body), ["fd00:9::99"]);
    assert_eq!(ask("DELETE", format!("loadbalancers/{}", balancer.id), Value::Null).await.unwrap().status(), 204);
    assert_eq!(api.delete(&format!("subnets/{subnet}")).await.status, 204);
    assert_eq!(ips(api.get(&format!("ports/{pod}")).await.body).len(), 1);
}

#[tokio::test]
async fn what_another_server_has_just_made_is_found_by_whoever_changes_it() {
    let api = Api::new();
    let late = || Api { world: api.world.late(), caller: admin() };
    let changed = [late(), late(), late(), late()];
    let path = format!("networks/{}", api.network().await);
    assert_eq!(changed[0].put(&path, json!({"network": {"mtu": 1300}})).await.status, 200);
    assert_eq!(changed[1].put(&path, json!({"network": {"mtu": "large"}})).await.status, 400, "it is there, with other attributes");
    assert_eq!(changed[2].put(&format!("{path}/tags/new"), Value::Null).await.status, 201);
    assert_eq!(changed[3].delete(&path).await.status, 204);
}
