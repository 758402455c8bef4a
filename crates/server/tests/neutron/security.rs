//! Security groups and their rules.

use serde_json::{Value, json};

use crate::api::{Answer, Api, id};

async fn world() -> (Api, String) {
    let api = Api::new();
    let group = id(&api.make("security-groups", "security_group", json!({"name": "g"})).await);
    (api, group)
}

async fn rule(api: &Api, group: &str, mut fields: Value) -> Answer {
    fields["security_group_id"] = json!(group);
    api.post("security-group-rules", json!({"security_group_rule": fields})).await
}

#[tokio::test]
async fn a_new_group_lets_everything_out_and_nothing_in() {
    let (api, group) = world().await;
    let rules = api.get(&format!("security-group-rules?security_group_id={group}")).await.body;
    let rules = rules["security_group_rules"].as_array().unwrap();
    assert_eq!(rules.len(), 2);
    assert!(rules.iter().all(|rule| rule["direction"] == "egress" && rule["protocol"].is_null() && rule["belongs_to_default_sg"] == false));
}

#[tokio::test]
async fn rules_are_kept_in_one_form_and_shown_as_written() {
    let (api, group) = world().await;
    let shown = |answer: Answer| answer.body["security_group_rule"].clone();
    let icmp =
        shown(rule(&api, &group, json!({"direction": "ingress", "ethertype": "ipv6", "protocol": "icmp", "port_range_min": 128})).await);
    assert_eq!(
        (&icmp["protocol"], &icmp["ethertype"], &icmp["port_range_min"], &icmp["port_range_max"]),
        (&json!("ipv6-icmp"), &json!("IPv6"), &json!(128), &Value::Null)
    );
    let host = shown(rule(&api, &group, json!({"direction": "ingress", "remote_ip_prefix": "10.0.0.5"})).await);
    assert_eq!((&host["remote_ip_prefix"], &host["normalized_cidr"]), (&json!("10.0.0.5/32"), &json!("10.0.0.5/32")));
    let all =
        shown(rule(&api, &group, json!({"direction": "ingress", "protocol": "tcp", "port_range_min": 1, "port_range_max": 65535})).await);
    assert_eq!((&all["port_range_min"], &all["port_range_max"]), (&Value::Null, &Value::Null));
    let any = shown(rule(&api, &group, json!({"direction": "ingress", "protocol": "any"})).await);
    assert_eq!(any["protocol"], Value::Null);
}

#[tokio::test]
async fn the_same_rule_in_other_words_is_a_duplicate() {
    let (api, group) = world().await;
    let first = rule(&api, &group, json!({"direction": "ingress", "protocol": "tcp", "port_range_min": 80, "port_range_max": 80})).await;
    let old = id(&first.body["security_group_rule"]);
    for fields in [
        json!({"direction": "ingress", "protocol": "6", "port_range_min": 80, "port_range_max": 80}),
        json!({"direction": "ingress", "protocol": "TCP", "port_range_min": "80", "port_range_max": "80", "remote_ip_prefix": "0.0.0.0/0"}),
    ] {
        let again = rule(&api, &group, fields).await;
        assert_eq!(again.error(), (409, "SecurityGroupRuleExists"));
        assert!(again.message().contains(&old));
    }
    assert_eq!(
        rule(&api, &group, json!({"direction": "egress", "protocol": "6", "port_range_min": 80, "port_range_max": 80})).await.status,
        201
    );
    let twice = json!({"security_group_id": group, "direction": "ingress", "protocol": "udp"});
    let bulk = api.post("security-group-rules", json!({"security_group_rules": [twice, twice]})).await;
    assert_eq!(bulk.error(), (409, "SecurityGroupRuleExists"));
}

#[tokio::test]
async fn a_change_of_the_rules_is_a_change_of_the_group() {
    let (api, group) = world().await;
    let path = format!("security-groups/{group}");
    let revision = |answer: Answer| answer.body["security_group"]["revision_number"].as_u64().unwrap();
    let before = revision(api.get(&path).await);
    let made = rule(&api, &group, json!({"direction": "ingress", "protocol": "udp"})).await;
    let between = revision(api.get(&path).await);
    api.delete(&format!("security-group-rules/{}", id(&made.body["security_group_rule"]))).await;
    assert!(before < between && between < revision(api.get(&path).await));
}

#[tokio::test]
async fn a_group_takes_the_rules_that_name_it_along() {
    let (api, group) = world().await;
    let other = id(&api.make("security-groups", "security_group", json!({"name": "other"})).await);
    let naming = rule(&api, &other, json!({"direction": "ingress", "remote_group_id": group})).await;
    assert_eq!(naming.status, 201);
    assert_eq!(api.delete(&format!("security-groups/{group}")).await.status, 204);
    let path = format!("security-group-rules/{}", id(&naming.body["security_group_rule"]));
    assert_eq!(api.get(&path).await.status, 404);
}
