//! Bad input gets Neutron's status and error type, and changes nothing.

use serde_json::{Value, json};
use server::neutron::{self, BULK_MAX, DNS_MAX, HOST_ROUTES_MAX, IPV4_MTU_MIN};

use crate::api::{Api, id};

struct World {
    api: Api,
    network: String,
}

async fn world() -> World {
    let api = Api::new();
    let network = api.network().await;
    api.subnet(&network, "10.0.0.0/24").await;
    World { api, network }
}

impl World {
    /// Sends a request and expects this refusal, and that nothing changed.
    async fn refuses(&self, method: &str, path: &str, body: Value, error: (u16, &str), message: &str) {
        let before = self.api.world.core.state();
        let answer = self.api.call(method, path, body.clone()).await;
        assert_eq!(answer.error(), error, "{method} {path} {body}: {}", answer.body);
        assert!(answer.message().contains(message), "{body}: {} has no '{message}'", answer.message());
        let after = self.api.world.core.state();
        assert!(before.objects().eq(after.objects()), "{body} changed something");
    }

    async fn port(&self, mut fields: Value, error: (u16, &str), message: &str) {
        fields["network_id"] = json!(self.network);
        self.refuses("POST", "ports", json!({"port": fields}), error, message).await;
    }

    async fn subnet(&self, mut fields: Value, error: (u16, &str), message: &str) {
        fields["network_id"] = json!(self.network);
        if fields.get("ip_version").is_none() {
            fields["ip_version"] = json!(if fields["cidr"].as_str().is_some_and(|cidr| cidr.contains(':')) { 6 } else { 4 });
        }
        self.refuses("POST", "subnets", json!({"subnet": fields}), error, message).await;
    }
}

const BAD: (u16, &str) = (400, "HTTPBadRequest");
const INVALID: (u16, &str) = (400, "InvalidInput");

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be_are_refused() {
    let world = world().await;
    for bytes in ["{", "[]", "7", "\"x\"", "{\"network\": ", "\u{0}"] {
        let answer = world.api.send(&world.api.caller, "POST", "/v2.0/networks", &[], bytes.into()).await;
        assert_eq!((answer.error(), answer.message()), (BAD, "Body contains invalid data"), "{bytes}");
    }
    let deep = "[".repeat(100_000);
    let answer = world.api.send(&world.api.caller, "POST", "/v2.0/networks", &[], deep.into()).await;
    assert_eq!(answer.error(), BAD);
    world.refuses("POST", "networks", Value::Null, BAD, "Resource body required").await;
    world.refuses("POST", "networks", json!({}), BAD, "Unable to find 'network' in request body").await;
    world.refuses("POST", "networks", json!({"network": 7}), BAD, "Object 'network' contains invalid data").await;
    world.refuses("POST", "networks", json!({"networks": []}), BAD, "Resources required").await;
    world.refuses("POST", "networks", json!({"networks": [{"name": "a"}, 7]}), BAD, "contains invalid data").await;
    let many = vec![json!({}); BULK_MAX + 1];
    world.refuses("POST", "networks", json!({"networks": many}), BAD, "may have 10000 objects; this one has 10001").await;
    world.refuses("PUT", &format!("networks/{}", world.network), json!({"network": []}), BAD, "contains invalid data").await;
}

#[tokio::test]
async fn attributes_that_do_not_fit_are_refused_by_name() {
    let world = world().await;
    let path = format!("networks/{}", world.network);
    world.refuses("POST", "networks", json!({"network": {"x": 1}}), BAD, "Unrecognized attribute(s) 'x'").await;
    world.refuses("PUT", &path, json!({"network": {"x": 1}}), BAD, "Unrecognized attribute(s) 'x'").await;
    world.refuses("POST", "networks", json!({"network": {"id": "1"}}), BAD, "Attribute 'id' not allowed in POST").await;
    world.refuses("PUT", &path, json!({"network": {"id": "1"}}), BAD, "Cannot update read-only attribute id").await;
    world.refuses("PUT", &path, json!({"network": {"project_id": "1"}}), BAD, "Cannot update read-only attribute").await;
    let missing = "Failed to parse request. Required attribute 'network_id' not specified";
    world.refuses("POST", "ports", json!({"port": {}}), BAD, missing).await;
    world
        .refuses("POST", "networks", json!({"network": {"name": 7}}), BAD, "Invalid input for name. Reason: '7' is not a valid string.")
        .await;
    world.refuses("POST", "networks", json!({"network": {"name": null}}), BAD, "'None' is not a valid string").await;
    world
        .refuses("POST", "networks", json!({"network": {"name": "x".repeat(neutron::TEXT_MAX + 1)}}), BAD, "exceeds maximum length of 255")
        .await;
    world.api.make("networks", "network", json!({"name": "x".repeat(neutron::TEXT_MAX)})).await;
    world.refuses("POST", "networks", json!({"network": {"admin_state_up": "up"}}), INVALID, "'up' cannot be converted to boolean").await;
    world.refuses("POST", "networks", json!({"network": {"tenant_id": "a", "project_id": "b"}}), BAD, "do not match").await;
    world
        .refuses(
            "POST",
            "ports",
            json!({"port": {"network_id": "x"}}),
            BAD,
            "Invalid input for network_id. Reason: 'x' is not a valid UUID.",
        )
        .await;
}

#[tokio::test]
async fn networks_refuse_what_cannot_be_carried() {
    let world = world().await;
    for (fields, error, message) in [
        (json!({"mtu": 9000}), INVALID, "Requested MTU is too big, maximum is 1450"),
        (json!({"mtu": IPV4_MTU_MIN - 1}), BAD, "'67' is too small - must be at least '68'"),
        (json!({"mtu": -1}), BAD, "too small"),
        (json!({"mtu": "x"}), BAD, "is not an integer"),
        (json!({"provider:network_type": "vlan"}), INVALID, "network_type value 'vlan' not supported"),
        (json!({"provider:network_type": "flat", "provider:physical_network": "p"}), INVALID, "not supported"),
        (json!({"provider:physical_network": "p"}), INVALID, "physical_network specified for geneve network"),
        (json!({"provider:segmentation_id": 0}), INVALID, "out of range (1 through 16777215)"),
        (json!({"provider:segmentation_id": 16_777_216}), INVALID, "out of range"),
        (json!({"router:external": true}), INVALID, "no external networks"),
    ] {
        world.refuses("POST", "networks", json!({"network": fields}), error, message).await;
    }
}

#[tokio::test]
async fn subnets_refuse_what_makes_no_sense() {
    let world = world().await;
    let host_routes: Vec<Value> =
        (0..=HOST_ROUTES_MAX).map(|n| json!({"destination": format!("10.{n}.0.0/16"), "nexthop": "10.5.0.9"})).collect();
    let dns: Vec<String> = (0..=DNS_MAX).map(|n| format!("9.9.9.{n}")).collect();
    for (fields, error, message) in [
        (json!({}), (400, "BadRequest"), "a subnetpool must be specified in the absence of a cidr"),
        (json!({"cidr": "10.5.0.0/33"}), BAD, "'10.5.0.0/33' is not a valid IP subnet"),
        (json!({"cidr": "10.5.0.0/24", "ip_version": 6}), INVALID, "cidr '10.5.0.0/24' does not match the ip_version '6'"),
        (json!({"cidr": "10.5.0.0/24", "ip_version": 5}), BAD, "5 is not in [4, 6]"),
        (json!({"cidr": "0.0.0.0/0"}), INVALID, "0 is not allowed as CIDR prefix length"),
        (json!({"cidr": "::/64"}), INVALID, "'::' is not supported"),
        (json!({"cidr": "10.0.0.128/25"}), INVALID, "overlaps with another subnet"),
        (json!({"cidr": "10.0.0.0/16"}), INVALID, "overlaps with another subnet"),
        (json!({"cidr": "10.5.0.0/31"}), INVALID, "incompatible with DHCP"),
        (json!({"cidr": "224.0.0.0/24"}), INVALID, "Multicast"),
        (json!({"cidr": "127.0.0.0/24"}), INVALID, "Loopback"),
        (json!({"cidr": "0.0.0.0/24"}), INVALID, "First IP '0.0.0.0'"),
        (json!({"cidr": "239.1.0.0/24", "enable_dhcp": false}), INVALID, "Multicast IP subnet is not supported"),
        (json!({"cidr": "127.8.0.0/16", "enable_dhcp": false}), INVALID, "Loopback IP subnet is not supported"),
        (json!({"cidr": "192.0.0.0/2", "enable_dhcp": false}), INVALID, "Multicast"),
        (json!({"cidr": "ff05::/64", "enable_dhcp": false}), INVALID, "Multicast"),
        (json!({"cidr": "::1/128", "enable_dhcp": false}), INVALID, "Loopback"),
        (json!({"cidr": "fe80::/64"}), INVALID, "Link-local IP subnet is not supported"),
        (json!({"cidr": "fe80:1::/64", "enable_dhcp": false}), INVALID, "Link-local"),
        (json!({"cidr": "10.5.0.0/24", "gateway_ip": "10.5.0.0"}), INVALID, "Gateway is not valid on subnet"),
        (json!({"cidr": "10.5.0.0/24", "gateway_ip": "10.5.0.255"}), INVALID, "Gateway is not valid on subnet"),
        (json!({"cidr": "10.5.0.0/24", "gateway_ip": "fd00::1"}), INVALID, "gateway_ip 'fd00::1' does not match"),
        (
            json!({"cidr": "10.5.0.0/24", "allocation_pools": [{"start": "10.5.0.1", "end": "10.5.0.9"}]}),
            (409, "GatewayConflictWithAllocationPools"),
            "Gateway ip 10.5.0.1 conflicts with allocation pool 10.5.0.1-10.5.0.9",
        ),
        (
            json!({"cidr": "10.5.0.0/24", "allocation_pools": [{"start": "10.5.0.9", "end": "10.5.0.2"}]}),
            (400, "InvalidAllocationPool"),
            "not valid",
        ),
        (
            json!({"cidr": "10.5.0.0/24", "allocation_pools": [{"start": "10.5.0.9", "end": "10.6.0.2"}]}),
            (400, "OutOfBoundsAllocationPool"),
            "spans beyond",
        ),
        (
            json!({"cidr": "10.5.0.0/24", "allocation_pools": [{"start": "10.5.0.5", "end": "10.5.0.9"}, {"start": "10.5.0.9", "end": "10.5.0.10"}]}),
            (409, "OverlappingAllocationPools"),
            "overlapping",
        ),
        (json!({"cidr": "10.5.0.0/24", "allocation_pools": [{"start": "10.5.0.9"}]}), BAD, "Validation of dictionary's keys failed"),
        (json!({"cidr": "10.5.0.0/24", "dns_nameservers": dns}), (400, "DNSNameServersExhausted"), "exceeds the limit 5"),
        (json!({"cidr": "10.5.0.0/24", "dns_nameservers": ["fd00::1"]}), INVALID, "dns_nameserver 'fd00::1' does not match"),
        (json!({"cidr": "10.5.0.0/24", "dns_nameservers": ["x"]}), BAD, "not a valid nameserver"),
        (json!({"cidr": "10.5.0.0/24", "host_routes": host_routes}), (400, "HostRoutesExhausted"), "exceeds the limit 20"),
        (
            json!({"cidr": "10.5.0.0/24", "host_routes": [{"destination": "fd00::/64", "nexthop": "fd00::1"}]}),
            INVALID,
            "does not match the ip_version",
        ),
        (json!({"cidr": "10.5.0.0/24", "ipv6_ra_mode": "slaac"}), INVALID, "ipv6_ra_mode is not valid when ip_version is 4"),
        (json!({"cidr": "fd00::/64", "ipv6_ra_mode": "slaac", "ipv6_address_mode": "dhcpv6-stateful"}), INVALID, "must be the same value"),
        (
            json!({"cidr": "fd00::/64", "ipv6_ra_mode": "slaac", "enable_dhcp": false}),
            INVALID,
            "cannot be set when enable_dhcp is set to False",
        ),
        (json!({"cidr": "fd00::/80", "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}), INVALID, "requires the prefix to be /64"),
        (json!({"cidr": "fd00::/64", "ipv6_ra_mode": "x"}), BAD, "x is not in ['dhcpv6-stateful', 'dhcpv6-stateless', 'slaac']"),
    ] {
        world.subnet(fields, error, message).await;
    }
    let other = json!({"subnet": {"network_id": uuid::Uuid::new_v4(), "ip_version": 4, "cidr": "10.5.0.0/24"}});
    world.refuses("POST", "subnets", other, (404, "NetworkNotFound"), "could not be found").await;
}

#[tokio::test]
async fn ports_refuse_addresses_that_they_cannot_have() {
    let world = world().await;
    let taken =
        world.api.port(&world.network, json!({"mac_address": "fa:16:3e:00:00:01", "fixed_ips": [{"ip_address": "10.0.0.9"}]})).await;
    let elsewhere = world.api.network().await;
    let foreign = id(&world.api.subnet(&elsewhere, "10.7.0.0/24").await);
    let pairs: Vec<Value> = (0..11).map(|n| json!({"ip_address": format!("10.0.1.{n}")})).collect();
    for (fields, error, message) in [
        (json!({"fixed_ips": [{"ip_address": "10.0.0.9"}]}), (409, "IpAddressInUse"), "The IP address 10.0.0.9 is in use."),
        (json!({"fixed_ips": [{"ip_address": "10.1.0.9"}]}), (400, "InvalidIpForNetwork"), "not a valid IP for any of the subnets"),
        (json!({"fixed_ips": [{"ip_address": "10.0.0.255"}]}), (400, "InvalidIpForSubnet"), "not a valid IP for the specified subnet"),
        (json!({"fixed_ips": [{"ip_address": "x"}]}), BAD, "'x' is not a valid IP address"),
        (json!({"fixed_ips": [{"subnet_id": "x"}]}), BAD, "'x' is not a valid UUID"),
        (json!({"fixed_ips": [{}]}), INVALID, "IP allocation requires subnet_id or ip_address"),
        (json!({"fixed_ips": 7}), BAD, "Invalid data format for fixed IP: '7'"),
        (json!({"fixed_ips": [{"subnet_id": foreign}]}), INVALID, "fixed_ips included invalid subnet"),
        (json!({"fixed_ips": [{"subnet_id": uuid::Uuid::new_v4()}]}), (404, "SubnetNotFound"), "could not be found"),
        (json!({"mac_address": "fa:16:3e:00:00:01"}), (409, "MacAddressInUse"), "fa:16:3e:00:00:01 is in use"),
        (json!({"mac_address": "01:00:5e:00:00:01"}), BAD, "is not a valid MAC address"),
        (json!({"allowed_address_pairs": pairs}), (400, "AllowedAddressPairExhausted"), "exceeds the maximum 10"),
        (json!({"allowed_address_pairs": [{"ip_address": "10.0.0.1/33"}]}), BAD, "is not a valid IP subnet"),
        (json!({"allowed_address_pairs": [{"mac_address": "fa:16:3e:00:00:01"}]}), (400, "AllowedAddressPairsMissingIP"), "ip_address"),
        (
            json!({"allowed_address_pairs": [{"ip_address": "10.0.0.1"}], "port_security_enabled": false}),
            (409, "AddressPairAndPortSecurityRequired"),
            "Port Security",
        ),
        (json!({"binding:vnic_type": "direct"}), BAD, "direct is not in ['normal']"),
        (json!({"binding:profile": {"a": 1}}), BAD, "binding:profile"),
        (json!({"device_owner": "network:router_interface"}), (409, "UnsupportedPortDeviceOwner"), "not supported for device_owner"),
        (json!({"extra_dhcp_opts": [{"opt_name": "mtu"}]}), INVALID, "No valid key specs matched for"),
        (json!({"security_groups": ["x"]}), BAD, "is not a valid UUID"),
        (json!({"security_groups": [uuid::Uuid::new_v4()]}), (404, "SecurityGroupNotFound"), "does not exist"),
        (json!({"tags": "x"}), BAD, "is not a list"),
    ] {
        world.port(fields, error, message).await;
    }
    assert_eq!(taken["fixed_ips"][0]["ip_address"], "10.0.0.9");
}

#[tokio::test]
async fn an_exhausted_pool_is_a_conflict_and_makes_nothing() {
    let world = world().await;
    let network = world.api.network().await;
    world.api.subnet(&network, "10.8.0.0/30").await;
    world.api.port(&network, json!({})).await;
    let bulk = json!({"ports": [{"network_id": world.network}, {"network_id": network}]});
    for body in [json!({"port": {"network_id": network}}), bulk] {
        world.refuses("POST", "ports", body, (409, "IpAddressGenerationFailure"), "No more IP addresses available on network").await;
    }
}

#[tokio::test]
async fn rules_refuse_what_no_packet_can_match() {
    let world = world().await;
    let group = id(&world.api.make("security-groups", "security_group", json!({"name": "g"})).await);
    for (fields, kind) in [
        (json!({"protocol": "x"}), "SecurityGroupRuleInvalidProtocol"),
        (json!({"protocol": 256}), "SecurityGroupRuleInvalidProtocol"),
        (json!({"protocol": {}}), "SecurityGroupRuleInvalidProtocol"),
        (json!({"ethertype": "IPv5"}), "SecurityGroupRuleInvalidEtherType"),
        (json!({"port_range_min": 80, "port_range_max": 80}), "SecurityGroupProtocolRequiredWithPorts"),
        (json!({"protocol": "tcp", "port_range_min": 90, "port_range_max": 80}), "SecurityGroupInvalidPortRange"),
        (json!({"protocol": "tcp", "port_range_min": 80}), "SecurityGroupInvalidPortRange"),
        (json!({"protocol": "tcp", "port_range_min": 0, "port_range_max": 80}), "SecurityGroupInvalidPortValue"),
        (json!({"protocol": "tcp", "port_range_min": 80, "port_range_max": 65536}), "SecurityGroupInvalidPortValue"),
        (json!({"protocol": "tcp", "port_range_min": "x", "port_range_max": 80}), "SecurityGroupInvalidPortValue"),
        (json!({"protocol": "icmp", "port_range_min": 256}), "SecurityGroupInvalidIcmpValue"),
        (json!({"protocol": "icmp", "port_range_max": 1}), "SecurityGroupMissingIcmpType"),
        (json!({"protocol": "gre", "port_range_min": 1, "port_range_max": 2}), "SecurityGroupInvalidProtocolForPort"),
        (json!({"protocol": "ipv6-icmp"}), "SecurityGroupEthertypeConflictWithProtocol"),
        (json!({"remote_ip_prefix": "10.0.0.0/33"}), "InvalidCIDR"),
        (json!({"remote_ip_prefix": "fd00::/64"}), "SecurityGroupRuleParameterConflict"),
        (json!({"remote_ip_prefix": "10.0.0.0/8", "remote_group_id": group}), "SecurityGroupMultipleRemoteEntites"),
    ] {
        let mut rule = json!({"security_group_id": group, "direction": "ingress"});
        rule.as_object_mut().unwrap().append(&mut fields.as_object().unwrap().clone());
        world.refuses("POST", "security-group-rules", json!({"security_group_rule": rule}), (400, kind), "").await;
    }
    let unknown =
        json!({"security_group_rule": {"security_group_id": group, "direction": "ingress", "remote_group_id": uuid::Uuid::new_v4()}});
    world.refuses("POST", "security-group-rules", unknown, (404, "SecurityGroupNotFound"), "").await;
    world
        .refuses("POST", "security-groups", json!({"security_group": {"name": "Default"}}), (409, "SecurityGroupDefaultAlreadyExists"), "")
        .await;
}

#[tokio::test]
async fn what_is_in_use_stays() {
    let world = world().await;
    let subnet = world.api.get("subnets").await.body["subnets"][0]["id"].as_str().unwrap().to_string();
    let group = id(&world.api.make("security-groups", "security_group", json!({"name": "g"})).await);
    let router = world.api.router().await;
    world.api.port(&world.network, json!({"security_groups": [group]})).await;
    let added = world.api.put(&format!("routers/{router}/add_router_interface"), json!({"subnet_id": subnet})).await;
    let interface = added.body["port_id"].as_str().unwrap();
    for (path, kind) in [
        (format!("networks/{}", world.network), "NetworkInUse"),
        (format!("subnets/{subnet}"), "SubnetInUse"),
        (format!("security-groups/{group}"), "SecurityGroupInUse"),
        (format!("routers/{router}"), "RouterInUse"),
        (format!("ports/{interface}"), "ServicePortInUse"),
    ] {
        world.refuses("DELETE", &path, Value::Null, (409, kind), "").await;
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let world = world().await;
    let nobody = uuid::Uuid::new_v4();
    for (path, kind) in [
        ("networks", "NetworkNotFound"),
        ("subnets", "SubnetNotFound"),
        ("ports", "PortNotFound"),
        ("routers", "RouterNotFound"),
        ("security-groups", "SecurityGroupNotFound"),
        ("security-group-rules", "SecurityGroupRuleNotFound"),
    ] {
        for method in ["GET", "DELETE"] {
            world.refuses(method, &format!("{path}/{nobody}"), Value::Null, (404, kind), &nobody.to_string()).await;
        }
        world.refuses("PUT", &format!("{path}/{nobody}"), json!({"x": 1}), (404, kind), "").await;
    }
}
