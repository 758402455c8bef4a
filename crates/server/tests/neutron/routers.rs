//! Routers: interfaces and extra routes.

use serde_json::{Value, json};

use crate::api::{Answer, Api, id, member};

struct World {
    api: Api,
    router: String,
}

impl World {
    async fn new() -> World {
        let api = Api::new();
        let router = api.router().await;
        World { api, router }
    }

    async fn subnet(&self, cidr: &str) -> String {
        id(&self.api.subnet(&self.api.network().await, cidr).await)
    }

    async fn call(&self, verb: &str, body: Value) -> Answer {
        self.api.put(&format!("routers/{}/{verb}", self.router), body).await
    }

    async fn add(&self, subnet: &str) -> Answer {
        self.call("add_router_interface", json!({"subnet_id": subnet})).await
    }

    async fn routes(&self, routes: Value) -> Answer {
        self.api.put(&format!("routers/{}", self.router), json!({"router": {"routes": routes}})).await
    }
}

const BAD: (u16, &str) = (400, "BadRequest");

#[tokio::test]
async fn interfaces_come_by_subnet_and_by_port_and_go_again() {
    let world = World::new().await;
    let subnet = world.subnet("10.0.0.0/24").await;
    let added = world.add(&subnet).await;
    assert_eq!(added.status, 200, "{added:?}");
    let port = world.api.get(&format!("ports/{}", added.body["port_id"].as_str().unwrap())).await.body["port"].clone();
    assert_eq!((&port["fixed_ips"][0]["ip_address"], &port["device_owner"]), (&json!("10.0.0.1"), &json!("network:router_interface")));
    let network = world.api.network().await;
    world.api.subnet(&network, "10.1.0.0/24").await;
    let port = id(&world.api.port(&network, json!({"fixed_ips": [{"ip_address": "10.1.0.9"}]})).await);
    let added = world.call("add_router_interface", json!({"port_id": port})).await;
    assert_eq!(added.status, 200, "{added:?}");
    assert_eq!(world.api.get(&format!("ports/{port}")).await.body["port"]["security_groups"], json!([]));
    assert_eq!(world.call("remove_router_interface", json!({"port_id": port})).await.status, 200);
    assert_eq!(world.call("remove_router_interface", json!({"subnet_id": subnet})).await.status, 200);
    assert_eq!(
        world.call("remove_router_interface", json!({"subnet_id": subnet})).await.error(),
        (404, "RouterInterfaceNotFoundForSubnet")
    );
    assert_eq!(world.call("remove_router_interface", json!({"port_id": port})).await.error(), (404, "RouterInterfaceNotFound"));
    assert_eq!(world.api.delete(&format!("routers/{}", world.router)).await.status, 204);
}

#[tokio::test]
async fn further_ipv6_subnets_of_a_network_join_one_interface() {
    let world = World::new().await;
    let network = world.api.network().await;
    let mut ports = Vec::new();
    for prefix in ["fd00:1::/64", "fd00:2::/64"] {
        let fields = json!({"network_id": network, "ip_version": 6, "cidr": prefix, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"});
        let subnet = id(&world.api.make("subnets", "subnet", fields).await);
        let added = world.add(&subnet).await;
        assert_eq!(added.status, 200, "{added:?}");
        ports.push((added.body["port_id"].clone(), subnet));
    }
    assert_eq!(ports[0].0, ports[1].0);
    world.call("remove_router_interface", json!({"subnet_id": ports[0].1})).await;
    let port = world.api.get(&format!("ports/{}", ports[0].0.as_str().unwrap())).await.body["port"].clone();
    assert_eq!(port["fixed_ips"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn interfaces_that_would_confuse_packets_are_refused() {
    let world = World::new().await;
    let subnet = world.subnet("10.0.0.0/16").await;
    world.add(&subnet).await;
    let inside = world.add(&world.subnet("10.0.1.0/24").await).await;
    assert_eq!(inside.error(), BAD);
    assert!(inside.message().contains("overlaps"), "{}", inside.message());
    let network = world.api.network().await;
    let bare = world
        .api
        .make("subnets", "subnet", json!({"network_id": network, "ip_version": 4, "cidr": "10.9.0.0/24", "gateway_ip": null}))
        .await;
    let bare = world.add(&id(&bare)).await;
    assert_eq!((bare.error(), bare.message()), (BAD, "Bad router request: Subnet for router interface must have a gateway IP."));
    let both = json!({"subnet_id": subnet, "port_id": subnet});
    assert_eq!(world.call("add_router_interface", both).await.message(), "Bad router request: Cannot specify both subnet-id and port-id.");
    assert_eq!(world.call("add_router_interface", json!({})).await.error(), BAD);
    assert_eq!(world.call("add_router_interface", json!({"subnet_id": "x"})).await.error(), BAD);
    assert_eq!(world.call("add_router_interface", json!({"subnet_id": uuid::Uuid::new_v4()})).await.error(), (404, "SubnetNotFound"));
    let used = id(&world.api.port(&network, json!({"device_id": "vm"})).await);
    assert_eq!(world.call("add_router_interface", json!({"port_id": used})).await.error(), (409, "PortInUse"));
    let empty = id(&world.api.port(&network, json!({"fixed_ips": []})).await);
    assert_eq!(world.call("add_router_interface", json!({"port_id": empty})).await.error(), BAD);
    let external = world.api.post("routers", json!({"router": {"external_gateway_info": {"network_id": network}}})).await;
    assert_eq!(external.error(), (400, "InvalidInput"));
    assert_eq!(world.api.post("routers", json!({"router": {"external_gateway_info": null}})).await.status, 201);
}

#[tokio::test]
async fn routes_go_through_connected_subnets_and_hold_them() {
    let world = World::new().await;
    let subnet = world.subnet("10.0.0.0/24").await;
    world.add(&subnet).await;
    let route = |nexthop: &str| json!([{"destination": "10.77.0.0/16", "nexthop": nexthop}]);
    for (routes, kind) in [
        (route("10.5.0.1"), "InvalidRoutes"),
        (route("10.0.0.1"), "InvalidRoutes"),
        (json!([{"destination": "fd00::/64", "nexthop": "10.0.0.5"}]), "InvalidRoutes"),
        (json!([{"destination": "10.77.0.1/16", "nexthop": "10.0.0.5"}]), "HTTPBadRequest"),
        (
            json!(
                (0..=server::neutron::ROUTES_MAX)
                    .map(|n| json!({"destination": format!("10.{n}.0.0/16"), "nexthop": "10.0.0.5"}))
                    .collect::<Vec<_>>()
            ),
            "RoutesExhausted",
        ),
    ] {
        assert_eq!(world.routes(routes.clone()).await.error(), (400, kind), "{routes}");
    }
    assert_eq!(world.routes(route("10.0.0.5")).await.status, 200);
    assert_eq!(world.call("remove_router_interface", json!({"subnet_id": subnet})).await.error(), (409, "RouterInterfaceInUseByRoute"));
    let more = json!({"router": {"routes": [{"destination": "10.78.0.0/16", "nexthop": "10.0.0.6"}]}});
    let added = world.call("add_extraroutes", more.clone()).await;
    assert_eq!(added.body["router"]["routes"].as_array().unwrap().len(), 2);
    let twice = world.call("add_extraroutes", more.clone()).await;
    assert_eq!(twice.body["router"]["routes"].as_array().unwrap().len(), 2);
    assert_eq!(world.call("remove_extraroutes", more).await.body["router"]["routes"], route("10.0.0.5"));
    assert_eq!(world.routes(json!([])).await.status, 200);
    assert_eq!(world.call("remove_router_interface", json!({"subnet_id": subnet})).await.status, 200);
}

#[tokio::test]
async fn a_networks_owner_makes_no_interface_of_another_projects_port() {
    let api = Api { caller: member("a"), ..Api::new() };
    let network = api.network().await;
    api.subnet(&network, "10.0.0.0/24").await;
    let router = api.router().await;
    let fields = json!({"port": {"network_id": network, "project_id": "b"}});
    let port = id(&api.call_as(&crate::api::admin(), "POST", "ports", fields).await.body["port"]);
    let before = api.get(&format!("ports/{port}")).await.body;
    assert_eq!(before["port"]["project_id"], "b", "the owner of the network sees it");
    let path = format!("routers/{router}/add_router_interface");
    assert_eq!(api.put(&path, json!({"port_id": port})).await.error(), (403, "PolicyNotAuthorized"));
    assert_eq!(api.get(&format!("ports/{port}")).await.body, before);
}
