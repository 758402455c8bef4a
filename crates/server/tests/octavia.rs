//! Octavia's API, in process: shapes, status codes and error documents as the real one answers.

mod common;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::{Extension, Router};
use common::{World, network, slaac, subnet};
use http_body_util::BodyExt;
use model::*;
use serde_json::{Value, json};
use server::auth::Caller;
use server::octavia;
use tower::ServiceExt;

/// The attributes of real Octavia's answers.
const BALANCER: &str = "additional_vips admin_state_up availability_zone created_at description flavor_id id listeners name operating_status pools project_id provider provisioning_status tags tenant_id updated_at vip_address vip_network_id vip_port_id vip_qos_policy_id vip_sg_ids vip_subnet_id vip_vnic_type";
const LISTENER: &str = "admin_state_up allowed_cidrs alpn_protocols client_authentication client_ca_tls_container_ref client_crl_container_ref connection_limit created_at default_pool_id default_tls_container_ref description hsts_include_subdomains hsts_max_age hsts_preload id insert_headers l7policies loadbalancers name operating_status project_id protocol protocol_port provisioning_status sni_container_refs tags tenant_id timeout_client_data timeout_member_connect timeout_member_data timeout_tcp_inspect tls_ciphers tls_versions updated_at";
const POOL: &str = "admin_state_up alpn_protocols ca_tls_container_ref created_at crl_container_ref description id lb_algorithm listeners loadbalancers members name operating_status project_id protocol provisioning_status session_persistence tags tenant_id tls_ciphers tls_container_ref tls_enabled tls_versions updated_at";
const MEMBER: &str = "address admin_state_up backup created_at id monitor_address monitor_port name operating_status project_id protocol_port provisioning_status subnet_id tags tenant_id updated_at vnic_type weight";

/// The API on a network with a subnet of each family.
struct Api {
    world: World,
    router: Router,
}

impl Api {
    async fn new() -> Api {
        Api::by(Caller { project: ProjectId("p".into()), is_admin: true, ..Caller::default() }).await
    }

    async fn by(caller: Caller) -> Api {
        let (world, network) = (World::new(), network(1));
        world.put(network.clone()).await;
        world.put(subnet(&network, "10.0.0.0/24")).await;
        world.put(slaac(&network, "fd00::/64")).await;
        let router = octavia::routes(world.core.clone()).layer(Extension(caller));
        Api { world, router }
    }

    fn subnet(&self) -> String {
        let state = self.world.core.state();
        state.all::<Subnet>().find(|subnet| subnet.cidr.addr().is_ipv4()).unwrap().id.to_string()
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask_with(method, path, body, None).await
    }

    async fn ask_with(&self, method: &str, path: &str, body: Value, key: Option<&str>) -> (StatusCode, Value) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let path = format!("/v2.0/lbaas/{path}");
        let request = Request::builder().method(method).uri(path).header("host", "ladon:9696");
        let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key)).body(body).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() })
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Makes an object and gives what stands under its name.
    async fn make(&self, path: &str, name: &str, attributes: Value) -> Value {
        let (status, mut body) = self.ask("POST", path, json!({ name: attributes })).await;
        assert_eq!(status, 201, "{path}: {body}");
        body[name].take()
    }

    /// Makes what is refused, with nothing changed.
    async fn refused(&self, method: &str, path: &str, body: Value, status: u16, words: &str) {
        let before = self.world.core.state();
        let (found, document) = self.ask(method, path, body).await;
        assert_eq!(found, status, "{path}: {document}");
        assert!(document["faultstring"].as_str().unwrap().contains(words), "{document}");
        let code = if status < 500 { "Client" } else { "Server" };
        assert_eq!((&document["faultcode"], &document["debuginfo"]), (&json!(code), &Value::Null));
        assert_eq!(*before, *self.world.core.state());
    }

    async fn balancer(&self) -> String {
        id(&self.make("loadbalancers", "loadbalancer", json!({"name": "lb", "vip_subnet_id": self.subnet()})).await)
    }

    async fn pool(&self) -> String {
        let attributes = json!({"loadbalancer_id": self.balancer().await, "protocol": "TCP", "lb_algorithm": "SOURCE_IP_PORT"});
        id(&self.make("pools", "pool", attributes).await)
    }
}

fn id(shown: &Value) -> String {
    shown["id"].as_str().unwrap().to_string()
}

fn names(shown: &Value) -> String {
    // serde_json keeps an object's members in order of their names.
    shown.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn objects_have_the_attributes_of_real_octavia() {
    let api = Api::new().await;
    let balancer = api
        .make("loadbalancers", "loadbalancer", json!({"name": "glb", "vip_subnet_id": api.subnet(), "provider": "ladon", "tags": ["a"]}))
        .await;
    assert_eq!(names(&balancer), BALANCER);
    let found = ["provisioning_status", "operating_status", "provider", "vip_address", "updated_at", "created_at"]
        .map(|name| balancer[name].clone());
    assert_eq!(found, [json!("ACTIVE"), json!("ONLINE"), json!("ladon"), json!("10.0.0.2"), Value::Null, json!("2027-01-15T08:00:00")]);
    let listener =
        api.make("listeners", "listener", json!({"loadbalancer_id": id(&balancer), "protocol": "TCP", "protocol_port": 80})).await;
    assert_eq!(names(&listener), LISTENER);
    let pool = api.make("pools", "pool", json!({"listener_id": id(&listener), "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"})).await;
    assert_eq!(names(&pool), POOL);
    assert_eq!((&pool["lb_algorithm"], &pool["listeners"][0]["id"]), (&json!("ROUND_ROBIN"), &listener["id"]));
    let members = format!("pools/{}/members", id(&pool));
    let member = api.make(&members, "member", json!({"address": "10.0.0.5", "protocol_port": 8080, "weight": 3})).await;
    assert_eq!(names(&member), MEMBER);
    assert_eq!((&member["operating_status"], &member["weight"]), (&json!("NO_MONITOR"), &json!(3)));
    let tree = api.get(&format!("loadbalancers/{}/status", id(&balancer))).await;
    let listener_status = &tree["statuses"]["loadbalancer"]["listeners"][0];
    assert_eq!(listener_status["pools"][0]["members"][0]["address"], "10.0.0.5");
    assert_eq!(names(&listener_status["pools"][0]["members"][0]), "address id name operating_status protocol_port provisioning_status");
}

#[tokio::test]
async fn a_create_with_a_key_may_be_sent_twice_and_makes_one_object() {
    const KEYS: [&str; 3] =
        ["6ba7b811-9dad-51d1-80b4-00c04fd430c8", "6ba7b812-9dad-51d1-80b4-00c04fd430c8", "6ba7b813-9dad-51d1-80b4-00c04fd430c8"];
    let api = Api::new().await;
    let balancer = json!({"loadbalancer": {"vip_subnet_id": api.subnet(), "vip_address": "10.0.0.9"}});
    let listener = json!({"listener": {"loadbalancer_id": KEYS[0], "protocol": "TCP", "protocol_port": 80}});
    let pool = json!({"pool": {"loadbalancer_id": KEYS[0], "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"}});
    let asks = [("loadbalancers", &balancer), ("listeners", &listener), ("pools", &pool)];
    for ((path, body), key) in asks.into_iter().zip(KEYS) {
        let (status, made) = api.ask_with("POST", path, body.clone(), Some(key)).await;
        assert_eq!(status, 201, "{made}");
        let before = api.world.core.state();
        let (status, again) = api.ask_with("POST", path, body.clone(), Some(key)).await;
        assert_eq!((status.as_u16(), &again), (200, &made));
        assert!(before.objects().eq(api.world.core.state().objects()), "{path}");
    }
    // The key of one thing is no key of another, and a key is a UUID.
    let other = json!({"loadbalancer": {"vip_subnet_id": api.subnet(), "vip_address": "10.0.0.10"}});
    for (path, body, key, status, part) in [
        ("loadbalancers", other.clone(), KEYS[0], 409, "Use another key"),
        ("loadbalancers", other, "x", 400, "Idempotency-Key must be"),
        ("pools", pool, "6ba7b811-9dad-51d1-80b4-00c04fd430c8,6ba7b812-9dad-51d1-80b4-00c04fd430c8", 400, "one UUID per object"),
    ] {
        let (answered, said) = api.ask_with("POST", path, body, Some(key)).await;
        assert_eq!(answered, status, "{said}");
        assert!(said["faultstring"].as_str().unwrap().contains(part), "{said}");
    }
}

#[tokio::test]
async fn the_vip_is_a_port_that_comes_and_goes_with_the_load_balancer() {
    let api = Api::new().await;
    let balancer = api.make("loadbalancers", "loadbalancer", json!({"vip_subnet_id": api.subnet(), "vip_address": "10.0.0.77"})).await;
    let state = api.world.core.state();
    let port = state.all::<Port>().next().unwrap();
    assert_eq!((port.name.clone(), port.device_owner.as_str()), (format!("octavia-lb-{}", id(&balancer)), "Octavia"));
    assert_eq!((port.device_id.clone(), port.status, port.fixed_ips.len()), (format!("lb-{}", id(&balancer)), PortStatus::Active, 1));
    assert_eq!(balancer["vip_port_id"], port.id.to_string());
    assert_eq!(state.load_balancer_of(port.id).unwrap().vip.to_string(), "10.0.0.77");
    let moved = json!({"port": {"fixed_ips": []}}).to_string();
    let neutron = server::neutron::routes(api.world.core.clone(), server::neutron::Settings::default());
    let caller = server::auth::Caller { is_admin: true, ..Default::default() };
    let request = axum::http::Request::put(format!("/v2.0/ports/{}", port.id)).body(axum::body::Body::from(moved)).unwrap();
    let answer = tower::ServiceExt::oneshot(neutron.layer(axum::Extension(caller)), request).await.unwrap();
    assert_eq!(answer.status(), 409, "the VIP stays where the load balancer says");
    let again = json!({"loadbalancer": {"vip_subnet_id": api.subnet(), "vip_address": "10.0.0.77"}});
    api.refused("POST", "loadbalancers", again, 409, "in use").await;
    let (status, _) = api.ask("DELETE", &format!("loadbalancers/{}", id(&balancer)), Value::Null).await;
    assert_eq!(status, 204);
    assert_eq!(api.world.core.state().objects().count(), 3, "network and subnets");
}

#[tokio::test]
async fn a_port_of_the_users_is_taken_and_given_back() {
    let api = Api::new().await;
    let port = api.world.port(common::plain(network(1).id)).await.unwrap();
    let wish = json!({"loadbalancer": {"vip_port_id": port.id, "vip_address": port.fixed_ips[0].ip}});
    let (status, balancer) = api.ask("POST", "loadbalancers", wish.clone()).await;
    assert_eq!((status, &balancer["loadbalancer"]["vip_address"]), (StatusCode::CREATED, &json!("10.0.0.2")));
    api.refused("POST", "loadbalancers", wish, 409, "is in use").await;
    api.ask("DELETE", &format!("loadbalancers/{}", id(&balancer["loadbalancer"])), Value::Null).await;
    let state = api.world.core.state();
    assert_eq!(*state.port(port.id).unwrap(), port);
}

#[tokio::test]
async fn a_vips_port_goes_or_stays_by_where_it_came_from_and_not_by_its_name() {
    let api = Api::new().await;
    let renamed = api.balancer().await;
    let state = api.world.core.state();
    let made = state.all::<Port>().next().unwrap();
    api.world.put(Port { name: "mine".into(), ..made.clone() }).await;
    assert_eq!(api.ask("DELETE", &format!("loadbalancers/{renamed}"), Value::Null).await.0, 204);
    assert_eq!(api.world.core.state().port(made.id), None);

    let brought = api.world.port(common::plain(network(1).id)).await.unwrap();
    let balancer = id(&api.make("loadbalancers", "loadbalancer", json!({"vip_port_id": brought.id})).await);
    let taken = api.world.core.state().port(brought.id).unwrap().clone();
    api.world.put(Port { name: format!("octavia-lb-{balancer}"), ..taken }).await;
    assert_eq!(api.ask("DELETE", &format!("loadbalancers/{balancer}"), Value::Null).await.0, 204);
    assert!(api.world.core.state().port(brought.id).is_some());

    // What was stored before the origin was is told by its port's name.
    let old = api.balancer().await;
    let state = api.world.core.state();
    let stored = state.all::<LoadBalancer>().next().unwrap();
    api.world.put(LoadBalancer { vip_port_origin: None, ..stored.clone() }).await;
    assert_eq!(api.ask("DELETE", &format!("loadbalancers/{old}"), Value::Null).await.0, 204);
    assert_eq!(api.world.core.state().port(stored.vip_port), None);
}

#[tokio::test]
async fn a_network_alone_gives_an_ipv4_vip_and_a_slaac_subnet_an_ipv6_one() {
    let api = Api::new().await;
    let any = api.make("loadbalancers", "loadbalancer", json!({"vip_network_id": network(1).id})).await;
    assert_eq!(any["vip_address"], "10.0.0.2");
    let v6 = api.make("loadbalancers", "loadbalancer", json!({"vip_network_id": network(1).id, "vip_address": "fd00::99"})).await;
    assert_eq!(v6["vip_address"], "fd00::99");
}

#[tokio::test]
async fn one_request_makes_a_whole_tree_or_nothing() {
    let api = Api::new().await;
    let tree = |member: Value| {
        json!({
            "name": "tree", "vip_subnet_id": api.subnet(),
            "pools": [{"name": "shared", "protocol": "UDP", "lb_algorithm": "SOURCE_IP_PORT"}],
            "listeners": [
                {"name": "l1", "protocol": "TCP", "protocol_port": 80,
                 "default_pool": {"name": "p1", "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN", "members": [member]}},
                {"name": "l2", "protocol": "UDP", "protocol_port": 80, "default_pool": {"name": "shared"}},
            ],
        })
    };
    let bad = tree(json!({"address": "10.0.0.7", "protocol_port": 0}));
    api.refused("POST", "loadbalancers", json!({"loadbalancer": bad}), 400, "protocol_port").await;
    let made = api.make("loadbalancers", "loadbalancer", tree(json!({"address": "10.0.0.7", "protocol_port": 80}))).await;
    let named = |list: &str, name: &str| made[list].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap().clone();
    assert_eq!(named("listeners", "l2")["default_pool_id"], named("pools", "shared")["id"]);
    assert_eq!(named("listeners", "l1")["default_pool_id"], named("pools", "p1")["id"]);
    assert_eq!(named("pools", "p1")["members"][0]["address"], "10.0.0.7");
    let (path, cascade) = (format!("loadbalancers/{}", id(&made)), format!("loadbalancers/{}?cascade=true", id(&made)));
    api.refused("DELETE", &path, Value::Null, 400, "it has children").await;
    assert_eq!(api.ask("DELETE", &cascade, Value::Null).await.0, 204);
    assert_eq!(api.world.core.state().objects().count(), 3, "network and subnets");
}

#[tokio::test]
async fn a_batch_makes_the_members_be_these_and_touches_no_other() {
    let api = Api::new().await;
    let path = format!("pools/{}/members", api.pool().await);
    let batch = |members: Vec<u8>| json!({"members": members.into_iter().map(|n| json!({"address": format!("10.0.0.{n}"), "protocol_port": 80})).collect::<Value>()});
    let addresses = || async {
        let shown = api.get(&path).await;
        let mut all: Vec<String> =
            shown["members"].as_array().unwrap().iter().map(|it| it["address"].as_str().unwrap().to_string()).collect();
        all.sort();
        all
    };
    let put = |body: Value, query: &'static str| {
        let (api, path) = (&api, &path);
        async move { api.ask("PUT", &format!("{path}{query}"), body).await }
    };
    assert_eq!(put(batch(vec![5, 6, 7]), "").await, (StatusCode::ACCEPTED, Value::Null));
    let revision = api.world.core.state().revision();
    assert_eq!(put(batch(vec![6, 7, 8]), "").await.0, 202);
    assert_eq!(addresses().await, ["10.0.0.6", "10.0.0.7", "10.0.0.8"]);
    let commits = api.world.core.changes(revision, usize::MAX).await.unwrap();
    assert_eq!(commits[0].changes.len(), 2, "one goes, one comes");
    assert_eq!(put(batch(vec![9]), "?additive_only=true").await.0, 202);
    assert_eq!(addresses().await.len(), 4);
    api.refused("PUT", &path, batch(vec![3, 3]), 409, "Another member").await;
    let heavy = json!({"members": [{"address": "10.0.0.9", "protocol_port": 80, "weight": octavia::WEIGHT_MAX + 1}]});
    api.refused("PUT", &path, heavy, 400, "weight").await;
    assert_eq!(put(json!({"members": []}), "").await.0, 202);
    assert!(addresses().await.is_empty());
}

#[tokio::test]
async fn ten_thousand_members_are_one_batch() {
    let api = Api::new().await;
    let path = format!("pools/{}/members", api.pool().await);
    let members: Value =
        (0..octavia::MEMBERS_MAX).map(|n| json!({"address": format!("10.1.{}.{}", n / 200, n % 200 + 1), "protocol_port": 80})).collect();
    assert_eq!(api.ask("PUT", &path, json!({ "members": members })).await.0, 202);
    assert_eq!(api.world.core.state().all::<Member>().count(), octavia::MEMBERS_MAX);
    let member = json!({"address": "10.2.0.1", "protocol_port": 80});
    let more = json!({"members": vec![member; octavia::MEMBERS_MAX + 1]});
    api.refused("PUT", &path, more, 400, "a batch may have 10000 members; this one has 10001").await;
}

#[tokio::test]
async fn what_users_get_wrong_is_answered_as_octavia_does() {
    let api = Api::new().await;
    let pool = api.pool().await;
    let balancer = api.get("loadbalancers").await["loadbalancers"][0].clone();
    let (vip, balancer) = (balancer["vip_address"].as_str().unwrap(), id(&balancer));
    let listener = |more: Value| {
        let mut body = json!({"loadbalancer_id": balancer, "protocol": "TCP", "protocol_port": 80});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "listener": body })
    };
    assert_eq!(api.ask("POST", "listeners", listener(json!({}))).await.0, 201);
    let member = |more: Value| {
        let mut body = json!({"address": "10.0.0.5", "protocol_port": 80});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "member": body })
    };
    let members = format!("pools/{pool}/members");
    assert_eq!(api.ask("POST", &members, member(json!({}))).await.0, 201);
    let nobody = "11111111-aaaa-bbbb-cccc-222222222222";
    let taken = "Another Listener on this Load Balancer is already using protocol TCP and protocol_port 80";
    for (method, path, body, status, words) in [
        ("POST", "listeners", listener(json!({})), 409, taken),
        (
            "POST",
            "listeners",
            listener(json!({"protocol": "FOO"})),
            400,
            "Value: 'FOO'. Value should be one of: SCTP, TCP, TERMINATED_HTTPS",
        ),
        ("POST", "listeners", listener(json!({"protocol": "HTTP"})), 501, "listener protocol HTTP"),
        ("POST", "listeners", listener(json!({"protocol": "SCTP"})), 501, "listener protocol SCTP"),
        ("POST", "listeners", listener(json!({"protocol_port": 65536})), 400, "protocol_port"),
        ("POST", "listeners", listener(json!({"protocol_port": "x"})), 400, "protocol_port"),
        ("POST", "listeners", listener(json!({"protocol_port": 81, "allowed_cidrs": ["10.0.0.0/8"]})), 501, "allowed_cidrs"),
        ("POST", "listeners", listener(json!({"protocol_port": 81, "connection_limit": 100})), 501, "connection_limit"),
        ("POST", "listeners", listener(json!({"protocol_port": 81, "connection_limit": -2})), 400, "connection_limit"),
        ("POST", "listeners", listener(json!({"protocol_port": 81, "timeout_client_data": "soon"})), 400, "timeout_client_data"),
        ("POST", "listeners", listener(json!({"protocol_port": 81, "hsts_preload": 3})), 400, "hsts_preload"),
        ("POST", "listeners", listener(json!({"loadbalancer_id": nobody})), 404, "Load Balancer"),
        (
            "POST",
            "listeners",
            listener(json!({"protocol": "UDP", "default_pool_id": pool})),
            400,
            "invalid while the listener protocol is 'UDP'",
        ),
        (
            "POST",
            "loadbalancers",
            json!({"loadbalancer": {"bogus": 1, "vip_subnet_id": nobody}}),
            400,
            "Unknown attribute for argument load_balancer.loadbalancer: bogus",
        ),
        (
            "POST",
            "loadbalancers",
            json!({"loadbalancer": {"name": "q"}}),
            400,
            "Validation failure: VIP must contain one of: vip_port_id, vip_network_id, vip_subnet_id.",
        ),
        ("POST", "loadbalancers", json!({"loadbalancer": {"vip_subnet_id": nobody}}), 400, "not found."),
        (
            "POST",
            "loadbalancers",
            json!({"loadbalancer": {"vip_subnet_id": api.subnet(), "provider": "amphora"}}),
            400,
            "Provider 'amphora' is not enabled.",
        ),
        ("POST", "loadbalancers", json!({"loadbalancer": {"vip_subnet_id": api.subnet(), "vip_address": "192.0.2.1"}}), 400, "192.0.2.1"),
        (
            "POST",
            "loadbalancers",
            json!({"loadbalancer": {"vip_subnet_id": api.subnet(), "name": "x".repeat(octavia::TEXT_MAX + 1)}}),
            400,
            "maximum character",
        ),
        ("POST", "loadbalancers", json!({"loadbalancer": {"vip_subnet_id": api.subnet(), "admin_state_up": "maybe"}}), 400, "boolean"),
        ("POST", "loadbalancers", json!([1]), 400, "JSON object"),
        (
            "POST",
            "pools",
            json!({"pool": {"loadbalancer_id": balancer, "protocol": "TCP", "lb_algorithm": "SOURCE_IP"}}),
            501,
            "lb_algorithm SOURCE_IP",
        ),
        ("POST", "pools", json!({"pool": {"loadbalancer_id": balancer, "protocol": "TCP"}}), 400, "lb_algorithm"),
        ("POST", "pools", json!({"pool": {"protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"}}), 400, "loadbalancer_id, listener_id"),
        (
            "POST",
            "pools",
            json!({"pool": {"loadbalancer_id": balancer, "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN", "session_persistence": {"type": "SOURCE_IP"}}}),
            501,
            "session_persistence",
        ),
        ("POST", &members, member(json!({})), 409, "Another member on this pool is already using ip 10.0.0.5 on protocol_port 80"),
        ("POST", &members, member(json!({"address": "fd00::5"})), 501, "another IP version"),
        ("POST", &members, member(json!({"address": "10.0.0.300"})), 400, "address"),
        ("POST", &members, member(json!({"address": "10.0.0.6", "weight": -1})), 400, "weight"),
        ("POST", &members, member(json!({"address": "10.0.0.6", "backup": true})), 501, "backup"),
        (
            "PUT",
            &members,
            json!({"members": [{"address": "10.0.0.7", "protocol_port": 80}, {"address": vip, "protocol_port": 81}]}),
            400,
            vip,
        ),
        ("POST", "healthmonitors", json!({"healthmonitor": {}}), 501, "healthmonitors"),
        ("POST", "l7policies", json!({"l7policy": {}}), 501, "l7policies"),
        ("GET", &format!("loadbalancers/{nobody}"), Value::Null, 404, &format!("Load Balancer {nobody} not found.")),
        ("GET", "loadbalancers/nonsense", Value::Null, 404, "not found"),
        ("GET", &format!("loadbalancers/{balancer}/stats"), Value::Null, 501, "statistics"),
        ("GET", "loadbalancers?bogus=1", Value::Null, 400, "One or more arguments are either duplicate or invalid."),
        ("PUT", &format!("loadbalancers/{balancer}"), json!({"loadbalancer": {"vip_address": "10.0.0.9"}}), 400, "Unknown attribute"),
    ] {
        api.refused(method, path, body, status, words).await;
    }
}

#[tokio::test]
async fn a_member_is_at_an_address_that_packets_reach_and_not_at_its_own_vip() {
    let api = Api::new().await;
    let pool = |balancer: Value| json!({"loadbalancer_id": id(&balancer), "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"});
    for (vip, odd) in [
        (
            "10.0.0.77",
            &["10.0.0.77", "0.0.0.0", "127.0.0.1", "127.8.8.8", "224.0.0.1", "239.1.1.1", "255.255.255.255", "169.254.169.254"][..],
        ),
        ("fd00::77", &["fd00::77", "::", "::1", "ff02::1", "fe80::1"]),
    ] {
        let balancer = json!({"vip_network_id": network(1).id, "vip_address": vip});
        let balancer = api.make("loadbalancers", "loadbalancer", balancer).await;
        let members = format!("pools/{}/members", id(&api.make("pools", "pool", pool(balancer)).await));
        for address in odd {
            let words = format!("{address} is not a valid option for member address");
            let member = json!({"address": address, "protocol_port": 80});
            api.refused("POST", &members, json!({ "member": member }), 400, &words).await;
            api.refused("PUT", &members, json!({ "members": [member] }), 400, &words).await;
        }
    }
    let tree = json!({"loadbalancer": {"vip_subnet_id": api.subnet(), "vip_address": "10.0.0.78", "pools": [
        {"name": "p", "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN", "members": [{"address": "10.0.0.78", "protocol_port": 80}]},
    ]}});
    api.refused("POST", "loadbalancers", tree, 400, "10.0.0.78 is not a valid option").await;
}

#[tokio::test]
async fn a_full_store_is_said_and_changes_nothing() {
    let api = Api::new().await;
    api.world.store.set_full(true);
    api.refused("POST", "loadbalancers", json!({"loadbalancer": {"vip_subnet_id": api.subnet()}}), 507, "disk is full").await;
}

#[tokio::test]
async fn changes_are_shown_and_counted() {
    let api = Api::new().await;
    let pool = api.pool().await;
    let balancer = api.get("loadbalancers").await["loadbalancers"][0].clone();
    api.world.pass(5);
    let (_, changed) = api
        .ask(
            "PUT",
            &format!("loadbalancers/{}", id(&balancer)),
            json!({"loadbalancer": {"name": "x", "admin_state_up": false, "tags": ["b", "a"]}}),
        )
        .await;
    let found = ["name", "operating_status", "updated_at", "tags"].map(|name| changed["loadbalancer"][name].clone());
    assert_eq!(found, [json!("x"), json!("OFFLINE"), json!("2027-01-15T08:00:05"), json!(["a", "b"])]);
    let made = api.make(&format!("pools/{pool}/members"), "member", json!({"address": "10.0.0.5", "protocol_port": 80})).await;
    let path = format!("pools/{pool}/members/{}", id(&made));
    let (_, drained) = api.ask("PUT", &path, json!({"member": {"weight": 0}})).await;
    assert_eq!(drained["member"]["weight"], 0);
    assert_eq!(api.ask("DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(api.ask("GET", &path, Value::Null).await.0, 404);
    assert_eq!(api.ask("DELETE", &format!("pools/{pool}"), Value::Null).await.0, 204);
}

#[tokio::test]
async fn lists_have_filters_fields_pages_and_links() {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        api.make("loadbalancers", "loadbalancer", json!({"name": name, "vip_subnet_id": api.subnet(), "tags": [name, "all"]})).await;
        api.world.pass(1);
    }
    let listed = |query: &'static str| {
        let api = &api;
        async move {
            let shown = api.get(&format!("loadbalancers{query}")).await;
            shown["loadbalancers"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_string()).collect::<String>()
        }
    };
    for (query, expected) in [
        ("", "abc"),
        ("?name=b", "b"),
        ("?name=b&name=b&admin_state_up=true", "b"),
        ("?admin_state_up=False", ""),
        ("?sort=name:desc", "cba"),
        ("?limit=2", "ab"),
        ("?tags=all,c", "c"),
        ("?tags-any=a,b", "ab"),
        ("?not-tags=a", "bc"),
        ("?not-tags-any=a,b", "c"),
        ("?vip_address=10.0.0.3", "b"),
    ] {
        assert_eq!(listed(query).await, expected, "{query}");
    }
    let first = api.get("loadbalancers?limit=1&fields=id&fields=name").await;
    assert_eq!(names(&first["loadbalancers"][0]), "id name");
    let marker = id(&first["loadbalancers"][0]);
    let next = format!("http://ladon:9696/v2.0/lbaas/loadbalancers?limit=1&marker={marker}");
    assert_eq!(first["loadbalancers_links"], json!([{"rel": "next", "href": next}]));
    let second = api.get(&format!("loadbalancers?limit=1&marker={marker}")).await;
    assert_eq!(second["loadbalancers"][0]["name"], "b");
    assert_eq!(second["loadbalancers_links"].as_array().unwrap().len(), 2);
    assert_eq!(api.get("loadbalancers").await["loadbalancers_links"], json!([]));
}

#[tokio::test]
async fn projects_do_not_see_each_other() {
    let api = Api::by(Caller { project: ProjectId("other".into()), ..Caller::default() }).await;
    let state = api.world.core.state();
    let network = state.network(network(1).id).unwrap();
    api.refused("POST", "loadbalancers", json!({"loadbalancer": {"vip_network_id": network.id}}), 400, "not found").await;
    api.world.put(Network { is_shared: true, ..network.clone() }).await;
    let own = api.make("loadbalancers", "loadbalancer", json!({"vip_network_id": network.id})).await;
    assert_eq!(own["project_id"], "other");
    for address in ["10.0.0.1", "10.0.0.200"] {
        let chosen = json!({"loadbalancer": {"vip_network_id": network.id, "vip_address": address}});
        api.refused("POST", "loadbalancers", chosen, 403, "Policy does not allow").await;
    }
    let pool = api.make("pools", "pool", json!({"loadbalancer_id": own["id"], "protocol": "TCP", "lb_algorithm": "SOURCE_IP_PORT"})).await;
    let member = json!({"member": {"address": "10.0.0.7", "protocol_port": 80, "subnet_id": api.subnet()}});
    let members = format!("pools/{}/members", pool["id"].as_str().unwrap());
    api.world.put(network.clone()).await;
    api.refused("POST", &members, member, 400, "not found").await;
    api.world.put(Network { is_shared: true, ..network.clone() }).await;
    let elsewhere = json!({"loadbalancer": {"vip_network_id": network.id, "project_id": "p"}});
    api.refused("POST", "loadbalancers", elsewhere, 403, "Policy does not allow").await;
    let state = api.world.core.state();
    let foreign = LoadBalancer { project: ProjectId("p".into()), ..state.all::<LoadBalancer>().next().unwrap().clone() };
    let path = format!("loadbalancers/{}", foreign.id);
    api.world.put(foreign).await;
    api.refused("GET", &path, Value::Null, 403, "Policy does not allow").await;
    api.refused("DELETE", &path, Value::Null, 403, "Policy does not allow").await;
    assert_eq!(api.get("loadbalancers").await["loadbalancers"], json!([]));
}

#[tokio::test]
async fn the_rest_answers_sensibly() {
    let api = Api::new().await;
    assert_eq!(api.get("providers").await["providers"][0]["name"], "ladon");
    assert_eq!(api.get("quotas/defaults").await["quota"]["load_balancer"], -1);
    assert_eq!(api.get("healthmonitors").await, json!({"healthmonitors": [], "healthmonitors_links": []}));
}
