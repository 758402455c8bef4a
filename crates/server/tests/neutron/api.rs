//! A caller of the API: requests in, status and JSON out.

use axum::Extension;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use model::ProjectId;
use serde_json::{Value, json};
use server::auth::Caller;
use server::neutron::{self, Settings};
use tower::ServiceExt;

use crate::common::World;

/// What the server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Answer {
    /// The status and type of an error document.
    pub fn error(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["NeutronError"]["type"].as_str().unwrap_or("none"))
    }

    pub fn message(&self) -> &str {
        self.body["NeutronError"]["message"].as_str().unwrap_or_default()
    }
}

/// The API as one caller uses it.
pub struct Api {
    pub world: World,
    pub caller: Caller,
}

pub fn admin() -> Caller {
    Caller { project: ProjectId("admin".into()), is_admin: true, ..Caller::default() }
}

pub fn member(project: &str) -> Caller {
    Caller { project: ProjectId(project.into()), ..Caller::default() }
}

impl Api {
    pub fn new() -> Api {
        Api { world: World::new(), caller: admin() }
    }

    pub async fn send(&self, caller: &Caller, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let router = neutron::routes(self.world.core.clone(), Settings::default()).layer(Extension(caller.clone()));
        let method: Method = method.parse().unwrap();
        let mut request = Request::builder().method(method).uri(path).header("host", "ladon.test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = router.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status, body }
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.send(&self.caller, method, &format!("/v2.0/{path}"), &[], bytes).await
    }

    pub async fn call_as(&self, caller: &Caller, method: &str, path: &str, body: Value) -> Answer {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.send(caller, method, &format!("/v2.0/{path}"), &[], bytes).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Value::Null).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, body).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.call("PUT", path, body).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, Value::Null).await
    }

    /// Makes an object and answers it.
    pub async fn make(&self, path: &str, name: &str, fields: Value) -> Value {
        let answer = self.post(path, json!({name: fields})).await;
        assert_eq!(answer.status, 201, "{path} {answer:?}");
        answer.body[name].clone()
    }

    pub async fn network(&self) -> String {
        id(&self.make("networks", "network", json!({"name": "net"})).await)
    }

    pub async fn subnet(&self, network: &str, cidr: &str) -> Value {
        let version = if cidr.contains(':') { 6 } else { 4 };
        self.make("subnets", "subnet", json!({"network_id": network, "ip_version": version, "cidr": cidr})).await
    }

    pub async fn port(&self, network: &str, mut fields: Value) -> Value {
        fields["network_id"] = json!(network);
        self.make("ports", "port", fields).await
    }

    pub async fn router(&self) -> String {
        id(&self.make("routers", "router", json!({"name": "r"})).await)
    }
}

pub fn id(object: &Value) -> String {
    object["id"].as_str().unwrap().to_string()
}
