//! What the operator is told over HTTP.

use axum::Extension;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use model::*;
use serde_json::Value;
use server::auth::Caller;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::world::*;

async fn ask(world: &World, path: &str, is_admin: bool) -> (StatusCode, Value) {
    send(world, Request::get(path), is_admin).await
}

async fn send(world: &World, request: axum::http::request::Builder, is_admin: bool) -> (StatusCode, Value) {
    let caller = Caller { is_admin, ..Caller::default() };
    let views = &world.server.views;
    let neutron = server::neutron::routes_with_claims(world.server.core.clone(), server::neutron::Settings::default(), views.claims());
    let router = server::views::routes(views.clone(), CancellationToken::new()).merge(neutron).layer(Extension(caller));
    let answer = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn get(world: &World, path: &str) -> Value {
    let (status, body) = ask(world, path, true).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

/// Asks until the answer is as `is_so` says.
pub async fn until(world: &World, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let wait = async {
        loop {
            let body = get(world, path).await;
            if is_so(&body) {
                return body;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    soon(path, wait).await
}

#[tokio::test]
async fn only_administrators_are_answered() {
    let world = World::new().await;
    for path in ["/ladon/v1/nodes", "/ladon/v1/ports", "/ladon/v1/wait"] {
        assert_eq!(ask(&world, path, false).await.0, StatusCode::FORBIDDEN);
    }
    assert_eq!(ask(&world, "/ladon/v1/wait?timeout=100000", true).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(ask(&world, "/ladon/v1/wait?revision=x", true).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_revision_is_in_force_when_every_node_that_it_concerns_says_so() {
    let world = World::new().await;
    world.server.put([network(1).into(), network(2).into(), vm(11, 1, 1).into(), vm(12, 2, 2).into()]).await;
    let (mut one, mut two) = (world.follow(1), world.follow(2));
    one.next().await;
    two.next().await;
    let known = |state: &server::State| state.node(&name(1)).is_some() && state.node(&name(2)).is_some();
    world.server.until("both are known", known).await;
    one.until_right(1, &world.server).await;
    two.until_right(2, &world.server).await;
    one.report(&[11], &[11], one.revision);
    two.report(&[12], &[12], two.revision);
    until(&world, "/ladon/v1/wait?timeout=0", |body| body["is_in_force"] == true).await;
    // Node 2 is not concerned by what happens on network 1, and need not say anything.
    let revision = world.server.put([Network { mtu: 1400, ..network(1) }.into()]).await;
    let path = format!("/ladon/v1/wait?revision={revision}&timeout=0");
    let body = get(&world, &path).await;
    assert_eq!(body["is_in_force"], false);
    assert_eq!(body["lagging"].as_array().unwrap().iter().map(|node| node["node"].as_str().unwrap()).collect::<Vec<_>>(), ["n1"]);
    let path = format!("/ladon/v1/wait?revision={revision}&timeout=30");
    let waiting = get(&world, &path);
    let applying = async {
        one.until("the change", |replica| replica[&key(network(1))] == Network { mtu: 1400, ..network(1) }.into()).await;
        one.report(&[11], &[11], one.revision);
    };
    let (body, ()) = tokio::join!(waiting, applying);
    assert_eq!((&body["is_in_force"], body["lagging"].as_array().unwrap().len()), (&Value::Bool(true), 0));
    // A node that is away holds up only what concerns it.
    one.link.stop().await;
    until(&world, "/ladon/v1/nodes", |body| body["nodes"][0]["is_connected"] == false).await;
    let revision = world.server.put([Network { mtu: 1300, ..network(2) }.into()]).await;
    two.until("the change", |replica| replica[&key(network(2))] == Network { mtu: 1300, ..network(2) }.into()).await;
    two.report(&[12], &[12], two.revision);
    until(&world, &format!("/ladon/v1/wait?revision={revision}&timeout=0"), |body| body["is_in_force"] == true).await;
    let revision = world.server.put([Network { mtu: 1300, ..network(1) }.into()]).await;
    let body =
        until(&world, &format!("/ladon/v1/wait?revision={revision}&timeout=0"), |body| !body["lagging"].as_array().unwrap().is_empty())
            .await;
    assert_eq!(body["lagging"][0]["reason"], "it is not connected");
    // Who asks about one node waits for no other.
    let path = |node: &str| format!("/ladon/v1/wait?revision={revision}&timeout=0&node={node}");
    assert_eq!(get(&world, &path("n2")).await["is_in_force"], true);
    assert_eq!(get(&world, &path("n1")).await["is_in_force"], false);
    assert_eq!(ask(&world, &path("n3"), true).await.0, StatusCode::NOT_FOUND);
    let ahead = get(&world, &format!("/ladon/v1/wait?revision={}&timeout=0", revision.0 + 1000)).await;
    assert_eq!(ahead["lagging"], serde_json::json!([]), "no node is to blame where no server is");
    assert!(ahead["latest"].as_u64().is_some_and(|latest| latest >= revision.0), "{ahead}");
    two.link.stop().await;
}

#[tokio::test]
async fn a_node_whose_switch_refuses_flows_says_so() {
    let world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let mut one = world.follow(1);
    world.server.until("it is known", |state| state.node(&name(1)).is_some()).await;
    one.until_right(1, &world.server).await;
    one.report(&[11], &[11], one.revision);
    let body = until(&world, "/ladon/v1/nodes", |body| body["nodes"][0]["is_up_to_date"] == true).await;
    assert_eq!(body["nodes"][0]["problem"], Value::Null);
    let before = one.revision;
    let revision = world.server.put([Network { mtu: 1400, ..network(1) }.into()]).await;
    one.until_right(1, &world.server).await;
    one.report_refusing(&[11], before, 2);
    let refuses = "its switch refuses 2 flows or groups; what they are for does not work; see the log of ladon node there";
    let path = format!("/ladon/v1/wait?revision={revision}&timeout=0");
    let body = until(&world, &path, |body| body["lagging"][0]["reason"] == refuses).await;
    assert_eq!(body["is_in_force"], false);
    let body = until(&world, "/ladon/v1/nodes", |body| body["nodes"][0]["problem"] == refuses).await;
    assert_eq!(body["nodes"][0]["is_up_to_date"], false);
    one.report(&[11], &[11], one.revision);
    until(&world, "/ladon/v1/nodes", |body| body["nodes"][0]["problem"].is_null() && body["nodes"][0]["is_up_to_date"] == true).await;
    one.link.stop().await;
}

#[tokio::test]
async fn a_revision_that_is_not_there_yet_is_waited_for_and_not_in_force() {
    let world = World::new().await;
    assert_eq!(get(&world, "/ladon/v1/wait?revision=1000&timeout=0").await["is_in_force"], false);
}

#[tokio::test]
async fn ports_say_what_they_lack_and_who_else_claims_them() {
    let world = World::new().await;
    let down = Port { is_admin_up: false, ..vm(13, 1, 1) };
    world
        .server
        .put([network(1).into(), vm(11, 1, 1).into(), port(12, 1).into(), down.into(), vm(14, 1, 7).into(), interface(20, 1, 1).into()])
        .await;
    let (mut one, mut two) = (world.follow(1), world.follow(2));
    one.next().await;
    two.next().await;
    let lacks = |body: &Value, n: u32| {
        let id = port_id(n).to_string();
        let ports = body["ports"].as_array().unwrap();
        ports
            .iter()
            .find(|port| port["id"] == id.as_str())
            .map(|port| port["missing"].as_str().unwrap_or("").to_string())
            .unwrap_or_default()
    };
    let path = "/ladon/v1/ports";
    let body = get(&world, path).await;
    assert!(lacks(&body, 12).contains("no node has its interface"), "{body}");
    assert!(lacks(&body, 13).contains("administratively down") && lacks(&body, 14).contains("no node named n7 has ever connected"));
    assert!(lacks(&body, 11).contains("has not reported") && lacks(&body, 20).is_empty());
    one.report(&[], &[], one.revision);
    until(&world, path, |body| lacks(body, 11).contains("its interface is not on the switch of node n1")).await;
    one.report(&[11], &[], one.revision);
    until(&world, path, |body| lacks(body, 11).contains("its flows are not in the switch")).await;
    one.report(&[11], &[11], one.revision);
    until(&world, path, |body| lacks(body, 11).is_empty()).await;
    two.report(&[11, 99], &[], two.revision);
    let body =
        until(&world, "/ladon/v1/ports?missing=true&node=n1", |body| body["unknown_interfaces"].as_array().unwrap().len() == 1).await;
    assert_eq!(body["ports"][0]["conflicts"][0], "n2", "{body}");
    assert_eq!(body["unknown_interfaces"][0]["iface_id"], port_id(99).to_string());
    one.link.stop().await;
    until(&world, path, |body| lacks(body, 11).contains("is not connected")).await;
    two.link.stop().await;
}

#[tokio::test]
async fn nodes_are_listed_with_what_they_said_of_themselves() {
    let world = World::new().await;
    world.server.put([network(1).into(), vm(11, 1, 1).into()]).await;
    let mut node = world.follow(1);
    node.next().await;
    let body = until(&world, "/ladon/v1/nodes", |body| body["nodes"].as_array().unwrap().len() == 1).await;
    let row = &body["nodes"][0];
    assert_eq!(
        (row["name"].as_str(), row["tunnel_addresses"][0].as_str(), row["ports"].as_u64()),
        (Some("n1"), Some("192.0.2.1"), Some(1))
    );
    assert_eq!((&row["is_connected"], &row["is_up_to_date"]), (&Value::Bool(true), &Value::Bool(false)));
    node.until_right(1, &world.server).await;
    node.report(&[], &[], node.revision);
    until(&world, "/ladon/v1/nodes", |body| body["nodes"][0]["is_up_to_date"] == true).await;
    node.link.stop().await;
}

#[tokio::test]
async fn a_node_that_claims_anothers_port_is_named_on_the_port() {
    let world = World::new().await;
    world.server.put([network(1).into(), port(11, 1).into()]).await;
    let (mut one, mut two) = (world.follow(1), world.follow(2));
    one.next().await;
    two.next().await;
    let path = format!("/v2.0/ports/{}", port_id(11));
    assert_eq!(get(&world, &path).await["port"]["ladon:conflicts"], serde_json::json!([]));
    one.report(&[11], &[], Revision(0));
    world.server.until("claimed", |state| state.port(port_id(11)).unwrap().home() == Some(&name(1))).await;
    two.report(&[11], &[], Revision(0));
    let body = until(&world, &path, |body| body["port"]["ladon:conflicts"] != serde_json::json!([])).await;
    assert_eq!(body["port"]["ladon:conflicts"], serde_json::json!(["n2"]), "{body}");
    let listed = get(&world, "/v2.0/ports").await;
    assert_eq!(listed["ports"][0]["ladon:conflicts"], serde_json::json!(["n2"]));
    let (status, tenants) = ask(&world, &path, false).await;
    assert!(status == StatusCode::OK && tenants["port"].get("ladon:conflicts").is_none(), "which nodes there are is no tenant's business");
    two.report(&[], &[], Revision(0));
    until(&world, &path, |body| body["port"]["ladon:conflicts"] == serde_json::json!([])).await;
    one.link.stop().await;
    two.link.stop().await;
}

#[tokio::test]
async fn a_forgotten_node_keeps_no_claim_and_holds_up_nobody() {
    let mut world = World::new().await;
    world.server.put([network(1).into(), port(11, 1).into(), vm(12, 1, 1).into()]).await;
    let (mut one, mut two) = (world.follow(1), world.follow(2));
    one.next().await;
    two.next().await;
    one.report(&[11, 12], &[11, 12], Revision(0));
    let is_claimed = |state: &server::State| {
        state.port(port_id(11)).unwrap().home() == Some(&name(1)) && state.port(port_id(12)).unwrap().status == PortStatus::Active
    };
    world.server.until("claimed", is_claimed).await;
    two.report(&[11], &[11], Revision(0));
    let forget = |node: &str| Request::delete(format!("/ladon/v1/nodes/{node}"));
    assert_eq!(send(&world, forget("n1"), false).await.0, StatusCode::FORBIDDEN);
    assert_eq!(send(&world, forget("n1"), true).await.0, StatusCode::CONFLICT);
    assert_eq!(send(&world, forget("n9"), true).await.0, StatusCode::NOT_FOUND);
    one.link.stop().await;
    // It dies, and so does the server, which knows of the claim from the store alone afterwards.
    two.link.stop().await;
    world.kill().await;
    world.start().await;
    let mut two = world.follow(2);
    two.next().await;
    two.report(&[11], &[11], Revision(0));
    until(&world, "/ladon/v1/nodes", |body| body["nodes"][1]["is_connected"] == true).await;
    assert_eq!(world.server.core.state().port(port_id(11)).unwrap().home(), Some(&name(1)));
    assert_eq!(send(&world, forget("n1"), true).await.0, StatusCode::NO_CONTENT);
    let state = world.server.core.state();
    assert_eq!((state.node(&name(1)), state.port(port_id(12)).unwrap().status), (None, PortStatus::Down));
    let is_free = |state: &server::State| state.port(port_id(11)).unwrap().home() == Some(&name(2));
    world.server.until("the other one gets it", is_free).await;
    let body = until(&world, "/ladon/v1/nodes", |body| body["nodes"].as_array().unwrap().len() == 1).await;
    assert_eq!(body["nodes"][0]["name"], "n2");
    assert_eq!(send(&world, forget("n1"), true).await.0, StatusCode::NOT_FOUND, "once is enough");
    two.until_right(2, &world.server).await;
    two.report(&[11], &[11], two.revision);
    until(&world, "/ladon/v1/wait?timeout=0", |body| body["is_in_force"] == true).await;
    // It was not dead after all: it is there as if nothing had been.
    let mut one = world.follow(1);
    one.until_right(1, &world.server).await;
    world.server.until("known again", |state| state.node(&name(1)).is_some()).await;
    one.report(&[12], &[12], one.revision);
    world.server.until("active again", |state| state.port(port_id(12)).unwrap().status == PortStatus::Active).await;
    one.link.stop().await;
    two.link.stop().await;
}
