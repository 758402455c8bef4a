//! Ports: addresses, homes, port security.

use serde_json::{Value, json};

use crate::api::{Api, id};

async fn world() -> (Api, String) {
    let api = Api::new();
    let network = api.network().await;
    api.subnet(&network, "10.0.0.0/16").await;
    (api, network)
}

async fn set(api: &Api, port: &str, fields: Value) -> crate::api::Answer {
    api.put(&format!("ports/{port}"), json!({"port": fields})).await
}

#[tokio::test]
async fn a_port_changes_its_addresses_and_keeps_what_it_still_wants() {
    let (api, network) = world().await;
    let port = api.port(&network, json!({"fixed_ips": [{"ip_address": "10.0.0.9"}, {"ip_address": "10.0.0.10"}]})).await;
    let changed = set(&api, &id(&port), json!({"fixed_ips": [{"ip_address": "10.0.0.10"}, {"ip_address": "10.0.0.11"}]})).await;
    let ips: Vec<&str> =
        changed.body["port"]["fixed_ips"].as_array().unwrap().iter().map(|fixed| fixed["ip_address"].as_str().unwrap()).collect();
    assert_eq!(ips, ["10.0.0.10", "10.0.0.11"]);
    let other = api.port(&network, json!({})).await;
    let taken = set(&api, &id(&other), json!({"fixed_ips": [{"ip_address": "10.0.0.11"}]})).await;
    assert_eq!(taken.error(), (409, "IpAddressInUse"));
}

#[tokio::test]
async fn a_port_without_addresses_has_no_groups() {
    let (api, network) = world().await;
    let port = api.port(&network, json!({"fixed_ips": []})).await;
    assert_eq!((&port["fixed_ips"], &port["security_groups"]), (&json!([]), &json!([])));
    let group = id(&api.make("security-groups", "security_group", json!({"name": "g"})).await);
    let refused = api.post("ports", json!({"port": {"network_id": network, "fixed_ips": [], "security_groups": [group]}})).await;
    assert_eq!(refused.error(), (400, "PortSecurityAndIPRequiredForSecurityGroups"));
    let guarded = api.port(&network, json!({"security_groups": [group]})).await;
    let bare = set(&api, &id(&guarded), json!({"fixed_ips": []})).await;
    assert_eq!(bare.error(), (409, "PortSecurityPortHasSecurityGroup"));
}

#[tokio::test]
async fn port_security_goes_only_without_groups_and_pairs() {
    let (api, network) = world().await;
    let port = id(&api.port(&network, json!({"allowed_address_pairs": [{"ip_address": "10.9.0.0/24"}]})).await);
    assert_eq!(set(&api, &port, json!({"port_security_enabled": false})).await.error(), (409, "PortSecurityPortHasSecurityGroup"));
    let pairs = set(&api, &port, json!({"port_security_enabled": false, "security_groups": []})).await;
    assert_eq!(pairs.error(), (409, "AddressPairAndPortSecurityRequired"));
    let off = set(&api, &port, json!({"port_security_enabled": false, "security_groups": [], "allowed_address_pairs": []})).await;
    assert_eq!((off.status.as_u16(), &off.body["port"]["port_security_enabled"]), (200, &json!(false)));
    let groups = api.get("security-groups").await.body["security_groups"][0]["id"].clone();
    let back = set(&api, &port, json!({"security_groups": [groups]})).await;
    assert_eq!(back.error(), (400, "PortSecurityAndIPRequiredForSecurityGroups"));
}

#[tokio::test]
async fn a_new_host_moves_the_port_out_of_its_block() {
    let (api, network) = world().await;
    let port = api.port(&network, json!({"device_owner": "ladon:pod", "device_id": "uid", "binding:host_id": "n1"})).await;
    let key = id(&port).parse().unwrap();
    assert!(api.world.core.state().port(key).unwrap().block.is_some());
    assert_eq!((&port["binding:vif_type"], &port["binding:vif_details"]["bridge_name"]), (&json!("ovs"), &json!("br-int")));
    let moved = set(&api, &id(&port), json!({"binding:host_id": "n2"})).await;
    assert_eq!(moved.body["port"]["fixed_ips"], port["fixed_ips"]);
    let state = api.world.core.state();
    let moved = state.port(key).unwrap();
    assert_eq!((moved.block, moved.home().unwrap().0.as_str()), (None, "n2"));
    set(&api, &id(&port), json!({"binding:host_id": "n1"})).await;
    assert!(api.world.core.state().port(key).unwrap().block.is_some(), "back home, back in the block");
    let unbound = set(&api, &id(&port), json!({"binding:host_id": ""})).await;
    assert_eq!(unbound.body["port"]["binding:vif_type"], "unbound");
}

#[tokio::test]
async fn another_mac_moves_the_slaac_address_and_is_refused_when_bound() {
    let (api, network) = world().await;
    let slaac =
        json!({"network_id": network, "ip_version": 6, "cidr": "fd00:9::/64", "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"});
    api.make("subnets", "subnet", slaac).await;
    let port = id(&api.port(&network, json!({"allowed_address_pairs": [{"ip_address": "10.9.0.1"}]})).await);
    let changed = set(&api, &port, json!({"mac_address": "fa:16:3e:80:fe:1f"})).await.body["port"].clone();
    assert!(changed["fixed_ips"].to_string().contains("fd00:9::f816:3eff:fe80:fe1f"), "{changed}");
    assert_eq!(changed["allowed_address_pairs"][0]["mac_address"], "fa:16:3e:80:fe:1f");
    set(&api, &port, json!({"binding:host_id": "n1"})).await;
    assert_eq!(set(&api, &port, json!({"mac_address": "fa:16:3e:80:fe:20"})).await.error(), (409, "PortBound"));
}

#[tokio::test]
async fn dhcp_options_are_changed_one_by_one() {
    let (api, network) = world().await;
    let port = id(&api
        .port(&network, json!({"extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": "1400"}, {"opt_name": "26", "opt_value": "1"}]}))
        .await);
    let changed =
        set(&api, &port, json!({"extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": "1300"}, {"opt_name": "26", "opt_value": null}]}))
            .await;
    assert_eq!(changed.body["port"]["extra_dhcp_opts"], json!([{"opt_name": "mtu", "opt_value": "1300", "ip_version": 4}]));
}

#[tokio::test]
async fn a_router_interface_stays_one() {
    let (api, network) = world().await;
    let subnet = id(&api.get("subnets").await.body["subnets"][0]);
    let router = api.router().await;
    let added = api.put(&format!("routers/{router}/add_router_interface"), json!({"subnet_id": subnet})).await;
    let port = added.body["port_id"].as_str().unwrap();
    assert_eq!(set(&api, port, json!({"device_owner": "compute:x"})).await.error(), (409, "UnsupportedPortDeviceOwner"));
    assert_eq!(set(&api, port, json!({"device_id": ""})).await.error(), (409, "UnsupportedPortDeviceOwner"));
    assert_eq!(set(&api, port, json!({"fixed_ips": []})).await.error(), (400, "BadRequest"));
    assert_eq!(set(&api, port, json!({"name": "gw"})).await.status, 200);
    let shown = api.get(&format!("ports/{port}")).await.body;
    assert_eq!((&shown["port"]["status"], &shown["port"]["network_id"]), (&json!("ACTIVE"), &json!(network)));
    let down = set(&api, port, json!({"admin_state_up": false})).await;
    assert_eq!(down.body["port"]["status"], "DOWN");
}

#[tokio::test]
async fn nodes_conflicts_are_shown_and_nobodys_to_set() {
    let (api, network) = world().await;
    let port = api.port(&network, json!({})).await;
    assert_eq!(port["ladon:conflicts"], json!([]));
    assert_eq!(set(&api, &id(&port), json!({"ladon:conflicts": ["n1"]})).await.error(), (400, "HTTPBadRequest"));
    assert_eq!(api.get("ports?ladon:conflicts=n1").await.error(), (400, "HTTPBadRequest"));
    assert_eq!(api.get("extensions/ladon-port-conflicts").await.status, 200);
}

#[tokio::test]
async fn a_port_is_plugged_into_the_bridge_and_the_datapath_that_its_host_has() {
    let (api, network) = world().await;
    let details = |port: &Value| (port["binding:vif_details"]["bridge_name"].clone(), port["binding:vif_details"]["datapath_type"].clone());
    let port = api.port(&network, json!({"binding:host_id": "n1"})).await;
    assert_eq!(details(&port), (json!("br-int"), json!("system")), "nothing is known of the host");
    let node = |bridge: &str, datapath: &str| model::Node {
        name: model::NodeName("n1".into()),
        tunnel_addresses: vec![],
        tunnel: model::TunnelType::Geneve,
        bridge: bridge.into(),
        datapath: datapath.into(),
        stream: None,
    };
    for (said, shown) in [(("br-vm", "netdev"), ("br-vm", "netdev")), (("", ""), ("br-int", "system"))] {
        api.world.put(node(said.0, said.1)).await;
        let port = api.get(&format!("ports/{}", id(&port))).await.body["port"].clone();
        assert_eq!(details(&port), (json!(shown.0), json!(shown.1)));
    }
    let unbound = api.port(&network, json!({})).await;
    assert_eq!(unbound["binding:vif_details"], json!({}));
}
