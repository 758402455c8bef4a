//! Who sees what, and who may change it.

use serde_json::{Value, json};

use crate::api::{Api, id, member};

async fn as_member(project: &str) -> Api {
    Api { caller: member(project), ..Api::new() }
}

#[tokio::test]
async fn other_projects_objects_do_not_exist() {
    let api = as_member("a").await;
    let network = api.network().await;
    let subnet = id(&api.subnet(&network, "10.0.0.0/24").await);
    let port = id(&api.port(&network, json!({})).await);
    let router = api.router().await;
    let group = id(&api.make("security-groups", "security_group", json!({"name": "g"})).await);
    let other = member("b");
    for path in [
        format!("networks/{network}"),
        format!("subnets/{subnet}"),
        format!("ports/{port}"),
        format!("routers/{router}"),
        format!("security-groups/{group}"),
    ] {
        for method in ["GET", "DELETE"] {
            assert_eq!(api.call_as(&other, method, &path, Value::Null).await.status, 404, "{method} {path}");
        }
        let name = path.split('/').next().unwrap().trim_end_matches('s').replace('-', "_");
        assert_eq!(api.call_as(&other, "PUT", &path, json!({name: {"name": "mine"}})).await.status, 404, "{path}");
    }
    assert_eq!(api.call_as(&other, "GET", "ports", Value::Null).await.body["ports"], json!([]));
    assert_eq!(api.call_as(&other, "POST", "ports", json!({"port": {"network_id": network}})).await.error(), (404, "NetworkNotFound"));
}

#[tokio::test]
async fn a_shared_network_is_used_by_all_and_changed_by_its_owner() {
    let api = Api::new();
    let network = id(&api.make("networks", "network", json!({"shared": true})).await);
    let subnet = id(&api.subnet(&network, "10.0.0.0/24").await);
    let other = member("b");
    assert_eq!(api.call_as(&other, "GET", &format!("networks/{network}"), Value::Null).await.status, 200);
    assert_eq!(api.call_as(&other, "GET", &format!("subnets/{subnet}"), Value::Null).await.status, 200);
    let made = api.call_as(&other, "POST", "ports", json!({"port": {"network_id": network}})).await;
    assert_eq!((made.status.as_u16(), &made.body["port"]["project_id"]), (201, &json!("b")));
    for (method, path, body) in [
        ("PUT", format!("networks/{network}"), json!({"network": {"name": "x"}})),
        ("DELETE", format!("networks/{network}"), Value::Null),
        ("DELETE", format!("subnets/{subnet}"), Value::Null),
        ("POST", "subnets".to_string(), json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.1.0.0/24"}})),
        ("POST", "ports".to_string(), json!({"port": {"network_id": network, "mac_address": "fa:16:3e:00:00:01"}})),
        ("POST", "ports".to_string(), json!({"port": {"network_id": network, "fixed_ips": [{"ip_address": "10.0.0.9"}]}})),
        ("POST", "ports".to_string(), json!({"port": {"network_id": network, "port_security_enabled": false}})),
    ] {
        assert_eq!(api.call_as(&other, method, &path, body).await.error(), (403, "PolicyNotAuthorized"), "{method} {path}");
    }
    let unshared = api.put(&format!("networks/{network}"), json!({"network": {"shared": false}})).await;
    assert_eq!(unshared.error(), (409, "InvalidSharedSetting"));
}

#[tokio::test]
async fn what_is_the_administrators_is_neither_set_nor_seen_by_others() {
    let api = as_member("a").await;
    let network = api.make("networks", "network", json!({"name": "n"})).await;
    let port = api.port(&id(&network), json!({})).await;
    assert!(network.get("provider:segmentation_id").is_none() && port.get("binding:host_id").is_none());
    assert_eq!(port["binding:vnic_type"], "normal");
    let port = format!("ports/{}", id(&port));
    for (method, path, body) in [
        ("POST", "networks", json!({"network": {"shared": true}})),
        ("POST", "networks", json!({"network": {"provider:segmentation_id": 7}})),
        ("POST", "ports", json!({"port": {"network_id": network["id"], "binding:host_id": "n1"}})),
        ("PUT", &port, json!({"port": {"binding:host_id": "n1"}})),
        ("PUT", &port, json!({"port": {"mac_address": "fa:16:3e:00:00:01"}})),
    ] {
        assert_eq!(api.call(method, path, body.clone()).await.error(), (403, "PolicyNotAuthorized"), "{body}");
    }
    let other = api.post("networks", json!({"network": {"project_id": "b"}})).await;
    assert_eq!(other.error(), (400, "HTTPBadRequest"));
}

#[tokio::test]
async fn every_project_has_a_default_group_of_its_own() {
    let api = as_member("a").await;
    let groups = api.get("security-groups").await.body;
    let own = groups["security_groups"].as_array().unwrap();
    assert_eq!((own.len(), &own[0]["name"]), (1, &json!("default")));
    let other = api.call_as(&member("b"), "GET", "security-groups", Value::Null).await.body;
    assert_ne!(other["security_groups"][0]["id"], own[0]["id"]);
    let path = format!("security-groups/{}", id(&own[0]));
    assert_eq!(api.delete(&path).await.error(), (409, "SecurityGroupCannotRemoveDefault"));
    assert_eq!(api.put(&path, json!({"security_group": {"name": "x"}})).await.error(), (409, "SecurityGroupCannotUpdateDefault"));
}

#[tokio::test]
async fn ports_that_make_nodes_act_are_for_administrators_to_make_and_to_change() {
    let api = as_member("a").await;
    let network = api.network().await;
    for owner in ["ladon:node", "ladon:pod", "ladon:metal", "ladon:"] {
        let made = api.post("ports", json!({"port": {"network_id": network, "device_owner": owner, "device_id": "x"}})).await;
        assert_eq!(made.error(), (403, "PolicyNotAuthorized"), "{owner}");
    }
    let many = json!({"ports": [{"network_id": network}, {"network_id": network, "device_owner": "ladon:node"}]});
    assert_eq!(api.post("ports", many).await.error(), (403, "PolicyNotAuthorized"));
    let plain = format!("ports/{}", id(&api.port(&network, json!({"device_owner": "compute:nova"})).await));
    assert_eq!(api.put(&plain, json!({"port": {"device_owner": "ladon:node"}})).await.error(), (403, "PolicyNotAuthorized"));
    assert_eq!(api.put(&plain, json!({"port": {"device_owner": "", "device_id": "vm"}})).await.status, 200);

    let admin = crate::api::admin();
    let fields = json!({"port": {"network_id": network, "project_id": "a", "device_owner": "ladon:pod", "device_id": "uid", "binding:host_id": "n1"}});
    let made = api.call_as(&admin, "POST", "ports", fields).await;
    assert_eq!((made.status.as_u16(), &made.body["port"]["project_id"]), (201, &json!("a")));
    let path = format!("ports/{}", id(&made.body["port"]));
    for change in [
        json!({"device_owner": "compute:nova"}),
        json!({"device_owner": "ladon:node"}),
        json!({"device_id": "other"}),
        json!({"binding:host_id": "n2"}),
    ] {
        assert_eq!(api.put(&path, json!({"port": change})).await.error(), (403, "PolicyNotAuthorized"), "{change}");
        let changed = api.call_as(&admin, "PUT", &path, json!({"port": change})).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        let back = json!({"port": {"device_owner": "ladon:pod", "device_id": "uid", "binding:host_id": "n1"}});
        assert_eq!(api.call_as(&admin, "PUT", &path, back).await.status, 200);
    }
    let same = json!({"port": {"name": "web", "device_owner": "ladon:pod", "device_id": "uid"}});
    assert_eq!(api.put(&path, same).await.body["port"]["name"], "web", "what it has already it may say");
}
