//! Lists: filters, fields, order and pages over real objects.

use serde_json::{Value, json};
use server::neutron;

use crate::api::{Api, id};

fn names(answer: &Value, collection: &str) -> Vec<String> {
    answer[collection].as_array().unwrap().iter().map(|object| object["name"].as_str().unwrap().to_string()).collect()
}

async fn world() -> (Api, String) {
    let api = Api::new();
    let network = api.network().await;
    api.subnet(&network, "10.0.0.0/24").await;
    for name in ["a", "b", "c", "d", "e"] {
        api.port(&network, json!({"name": name, "device_id": format!("dev-{name}")})).await;
    }
    (api, network)
}

#[tokio::test]
async fn filters_sorting_and_fields_work_together() {
    let (api, network) = world().await;
    let of = |answer: crate::api::Answer| names(&answer.body, "ports");
    assert_eq!(of(api.get("ports?name=a&name=c&sort_key=name").await), ["a", "c"]);
    assert_eq!(of(api.get("ports?sort_key=name&sort_dir=desc").await), ["e", "d", "c", "b", "a"]);
    assert_eq!(of(api.get(&format!("ports?network_id={network}&device_id=dev-b")).await), ["b"]);
    assert_eq!(of(api.get("ports?admin_state_up=False").await), Vec::<String>::new());
    assert_eq!(of(api.get("ports?fixed_ips=ip_address_substr%3D0.0.4").await).len(), 1);
    let answer = api.get("ports?fields=name&sort_key=name").await;
    assert_eq!(answer.body["ports"][0], json!({"name": "a"}));
}

#[tokio::test]
async fn what_an_object_is_shown_with_finds_it_and_nothing_else() {
    let (api, network) = world().await;
    let group = api.make("security-groups", "security_group", json!({"name": "web"})).await;
    let router = api.make("routers", "router", json!({"name": "edge"})).await;
    let port = api.port(&network, json!({"name": "f", "device_owner": "compute:az1", "security_groups": [id(&group)]})).await;
    let all = |path: &'static str| (path, path.replace('-', "_"));
    for ((path, collection), one) in [
        (all("networks"), api.get(&format!("networks/{network}")).await.body["network"].clone()),
        (all("subnets"), api.get("subnets").await.body["subnets"][0].clone()),
        (all("ports"), port.clone()),
        (all("routers"), router),
        (all("security-groups"), group),
    ] {
        let texts = one.as_object().unwrap().iter().filter_map(|(name, value)| Some((name, value.as_str()?)));
        for (name, value) in texts.filter(|(_, value)| !value.is_empty()) {
            let found = |answer: crate::api::Answer| {
                assert_eq!(answer.status, 200, "{}", answer.body);
                answer.body[&collection].as_array().unwrap().iter().any(|object| object["id"] == one["id"])
            };
            assert!(found(api.get(&format!("{path}?{name}={}", server::http::escape(value))).await), "{path}?{name}={value}");
            assert!(!found(api.get(&format!("{path}?{name}=00:00:00:00:00:00")).await), "{path}?{name}=00:00:00:00:00:00");
        }
    }
    let ip = port["fixed_ips"][0]["ip_address"].as_str().unwrap();
    let names_of = async |query: &str| names(&api.get(&format!("ports?{query}")).await.body, "ports");
    assert_eq!(names_of(&format!("fixed_ips=ip_address%3D{ip}")).await, ["f"]);
    assert_eq!(names_of("name=f&device_owner=compute%3Aaz2").await, Vec::<String>::new());
}

#[tokio::test]
async fn following_the_links_visits_every_object_once() {
    let (api, _) = world().await;
    let mut path = "ports?limit=2&sort_key=name&sort_dir=asc".to_string();
    let mut seen = Vec::new();
    loop {
        let answer = api.get(&path).await;
        assert_eq!(answer.status, 200);
        seen.extend(names(&answer.body, "ports"));
        let links = answer.body["ports_links"].as_array().unwrap();
        let Some(next) = links.iter().find(|link| link["rel"] == "next") else { break };
        path = next["href"].as_str().unwrap().trim_start_matches("http://ladon.test/v2.0/").to_string();
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    let unknown = api.get(&format!("ports?limit=2&marker={}", uuid::Uuid::new_v4())).await;
    assert_eq!(unknown.error(), (404, "PortNotFound"));
}

#[tokio::test]
async fn tags_are_set_filtered_and_taken_away() {
    let (api, network) = world().await;
    let tags = format!("networks/{network}/tags");
    assert_eq!(api.put(&tags, json!({"tags": ["red", "blue"]})).await.body, json!({"tags": ["red", "blue"]}));
    assert_eq!(api.put(&format!("{tags}/green"), Value::Null).await.status, 201);
    assert_eq!(api.get(&format!("{tags}/green")).await.status, 204);
    assert_eq!(api.get("networks?tags=red,green").await.body["networks"].as_array().unwrap().len(), 1);
    assert_eq!(api.get("networks?not-tags-any=red").await.body["networks"].as_array().unwrap().len(), 0);
    assert_eq!(api.delete(&format!("{tags}/green")).await.status, 204);
    assert_eq!(api.delete(&format!("{tags}/green")).await.error(), (404, "TagNotFound"));
    assert_eq!(api.put(&tags, json!({"tags": "red"})).await.error(), (400, "InvalidInput"));
    let many: Vec<String> = (0..=neutron::TAGS_MAX).map(|n| n.to_string()).collect();
    assert_eq!(api.put(&tags, json!({"tags": many})).await.error(), (400, "BadRequest"));
    assert_eq!(api.put(&tags, json!({"tags": many[..neutron::TAGS_MAX]})).await.status, 200);
    let long = |length: usize| format!("{tags}/{}", "x".repeat(length));
    assert_eq!(api.put(&long(neutron::TAG_MAX + 1), Value::Null).await.error(), (400, "InvalidInput"));
    assert_eq!(api.delete(&tags).await.status, 204);
    assert_eq!(api.get(&tags).await.body, json!({"tags": []}));
    assert_eq!(api.get(&format!("ports/{network}/tags")).await.error(), (404, "TagResourceNotFound"));
}

#[tokio::test]
async fn a_change_for_another_revision_is_refused() {
    let api = Api::new();
    let network = api.make("networks", "network", json!({"name": "n"})).await;
    let path = format!("/v2.0/networks/{}", id(&network));
    let revision = network["revision_number"].as_u64().unwrap();
    let rename = json!({"network": {"name": "m"}}).to_string();
    let with = |value: String| (value, rename.clone().into_bytes());
    let (header, body) = with(format!("revision_number={}", revision + 7));
    assert_eq!(api.send(&api.caller, "PUT", &path, &[("if-match", &header)], body).await.status, 412);
    let (header, body) = with(format!("revision_number={revision}"));
    let answer = api.send(&api.caller, "PUT", &path, &[("if-match", &header)], body).await;
    assert_eq!((answer.status.as_u16(), &answer.body["network"]["revision_number"]), (200, &json!(revision + 1)));
    assert_eq!(api.send(&api.caller, "DELETE", &path, &[("if-match", &header)], Vec::new()).await.status, 412);
    assert_eq!(api.send(&api.caller, "DELETE", &path, &[("if-match", "nonsense")], Vec::new()).await.status, 400);
}
