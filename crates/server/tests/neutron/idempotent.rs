//! Creation that may be repeated: a lost answer or a second replica makes no second object.

use serde_json::{Value, json};

use uuid::Uuid;

use crate::api::{Answer, Api, admin, id, member};

const KEY: &str = "6ba7b811-9dad-51d1-80b4-00c04fd430c8";

async fn send(api: &Api, path: &str, body: &Value) -> Answer {
    api.send(&api.caller, "POST", &format!("/v2.0/{path}"), &[("Idempotency-Key", KEY)], body.to_string().into_bytes()).await
}

#[tokio::test]
async fn the_same_request_twice_makes_one_object() {
    let api = Api::new();
    let network = api.network().await;
    api.subnet(&network, "10.0.0.0/16").await;
    for (path, name, fields) in [
        ("networks", "network", json!({"name": "n"})),
        ("subnets", "subnet", json!({"network_id": network, "ip_version": 4, "cidr": "10.9.0.0/24"})),
        ("ports", "port", json!({"network_id": network, "device_id": "uid", "device_owner": "ladon:pod", "binding:host_id": "n1"})),
        ("routers", "router", json!({"name": "r"})),
        ("security-groups", "security_group", json!({"name": "g"})),
    ] {
        let body = json!({name: fields});
        let first = send(&api, path, &body).await;
        assert_eq!((first.status.as_u16(), id(&first.body[name]).as_str()), (201, KEY), "{first:?}");
        let before = api.world.core.state();
        let second = send(&api, path, &body).await;
        assert_eq!((second.status.as_u16(), &second.body), (200, &first.body));
        assert!(before.objects().eq(api.world.core.state().objects()), "{path}");
    }
}

#[tokio::test]
async fn two_at_once_make_one_object() {
    let api = Api::new();
    let network = api.network().await;
    api.subnet(&network, "10.0.0.0/24").await;
    let body = json!({"port": {"network_id": network, "device_id": "uid"}});
    let (one, other) = futures::join!(send(&api, "ports", &body), send(&api, "ports", &body));
    assert_eq!(one.body, other.body);
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort();
    assert_eq!(statuses, [200, 201]);
}

#[tokio::test]
async fn a_key_that_stands_for_something_else_is_refused() {
    let api = Api::new();
    let [network, other] = [api.network().await, api.network().await];
    send(&api, "ports", &json!({"port": {"network_id": network, "device_id": "uid"}})).await;
    for fields in [
        json!({"network_id": other, "device_id": "uid"}),
        json!({"network_id": network, "device_id": "another"}),
        json!({"network_id": network, "device_id": "uid", "project_id": "p"}),
    ] {
        assert_eq!(send(&api, "ports", &json!({"port": fields})).await.error(), (409, "IdempotencyKeyConflict"));
    }
    let odd = api.send(&api.caller, "POST", "/v2.0/networks", &[("Idempotency-Key", "x")], b"{\"network\": {}}".to_vec()).await;
    assert_eq!(odd.error(), (400, "HTTPBadRequest"));
}

#[tokio::test]
async fn a_bulk_request_names_one_key_per_object() {
    let api = Api::new();
    let network = api.network().await;
    api.subnet(&network, "10.0.0.0/24").await;
    let send = async |keys: &[&str], devices: &[&str]| {
        let ports: Vec<Value> = devices.iter().map(|device| json!({"network_id": network, "device_id": device})).collect();
        let body = json!({"ports": ports}).to_string().into_bytes();
        api.send(&api.caller, "POST", "/v2.0/ports", &[("Idempotency-Key", &keys.join(","))], body).await
    };
    let keys = [KEY, "6ba7b812-9dad-51d1-80b4-00c04fd430c8", "6ba7b813-9dad-51d1-80b4-00c04fd430c8"];
    let first = send(&keys[..2], &["a", "b"]).await;
    let second = send(&keys[..2], &["a", "b"]).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (201, 200));
    assert_eq!(first.body, second.body);
    assert_eq!(id(&first.body["ports"][1]), keys[1]);
    let more = send(&keys[1..], &["b", "c"]).await;
    assert_eq!((more.status.as_u16(), &more.body["ports"][0]), (201, &first.body["ports"][1]));
    for (keys, devices) in [(&keys[..2], &["a"][..]), (&keys[..1], &["a", "b"]), (&[KEY, KEY], &["a", "a"])] {
        assert_eq!(send(keys, devices).await.error(), (400, "HTTPBadRequest"));
    }
}

#[tokio::test]
async fn a_tenants_key_makes_one_object_whose_id_nobody_chooses() {
    let api = Api { caller: member("a"), ..Api::new() };
    let body = json!({"security_group": {"name": "g"}});
    let first = send(&api, "security-groups", &body).await;
    let second = send(&api, "security-groups", &body).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16(), &first.body), (201, 200, &second.body));
    let other = Api { caller: member("b"), world: api.world };
    let third = send(&other, "security-groups", &body).await;
    assert_eq!(third.status, 201, "another project's key is another key");
    let ids = [&first, &third].map(|answer| id(&answer.body["security_group"]));
    assert!(ids[0] != ids[1] && !ids.contains(&KEY.to_string()));
}

#[tokio::test]
async fn a_tenant_plants_no_other_projects_default_group() {
    let api = Api { caller: member("b"), ..Api::new() };
    let own = id(&api.get("security-groups").await.body["security_groups"][0]);
    let api = Api::new();
    let network = id(&api.make("networks", "network", json!({"shared": true})).await);
    api.subnet(&network, "10.0.0.0/24").await;
    let body = json!({"security_group": {"name": "open"}}).to_string().into_bytes();
    let planted = api.send(&member("a"), "POST", "/v2.0/security-groups", &[("Idempotency-Key", &own)], body).await;
    assert_eq!(planted.status, 201);
    let port = api.call_as(&member("b"), "POST", "ports", json!({"port": {"network_id": network}})).await.body["port"].clone();
    assert_eq!(port["security_groups"], json!([own]));
    let group = api.call_as(&member("b"), "GET", &format!("security-groups/{own}"), Value::Null).await.body["security_group"].clone();
    assert_eq!((&group["name"], &group["project_id"]), (&json!("default"), &json!("b")));
}

#[tokio::test]
async fn a_default_group_that_is_another_projects_is_not_used() {
    let api = Api { caller: member("b"), ..Api::new() };
    let own = id(&api.get("security-groups").await.body["security_groups"][0]);
    let api = Api::new();
    let network = id(&api.make("networks", "network", json!({"shared": true})).await);
    api.subnet(&network, "10.0.0.0/24").await;
    let body = json!({"security_group": {"name": "open", "project_id": "a"}}).to_string().into_bytes();
    assert_eq!(api.send(&admin(), "POST", "/v2.0/security-groups", &[("Idempotency-Key", &own)], body).await.status, 201);
    let port = api.call_as(&member("b"), "POST", "ports", json!({"port": {"network_id": network}})).await;
    assert_eq!(port.error(), (409, "SecurityGroupDefaultTaken"));
    assert_eq!(api.call_as(&member("b"), "GET", "security-groups", Value::Null).await.status, 200);
}

#[tokio::test]
async fn the_id_of_a_deleted_port_comes_back_for_nobody_else() {
    let api = Api { caller: member("a"), ..Api::new() };
    let network = api.network().await;
    let gone = Uuid::new_v4().to_string();
    let body = json!({"port": {"network_id": network}}).to_string().into_bytes();
    let made = api.send(&api.caller, "POST", "/v2.0/ports", &[("Idempotency-Key", &gone)], body).await;
    assert!(made.status == 201 && id(&made.body["port"]) != gone, "{made:?}");
}
