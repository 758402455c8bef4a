//! The calls, one function each: paths, wrappers and pages are nobody else's business.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use hyper::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::types::{AddressPair, Balancer, Group, Listener, Member, Named, NewPort, PORT_FIELDS, Pool, Port, Router, Subnet};
use super::{ApiError, Neutron, PAGE};

/// A kind of object: where it is and how documents call it.
struct Kind {
    path: &'static str,
    one: &'static str,
    many: &'static str,
}

const NETWORK: Kind = Kind { path: "/v2.0/networks", one: "network", many: "networks" };
const SUBNET: Kind = Kind { path: "/v2.0/subnets", one: "subnet", many: "subnets" };
const ROUTER: Kind = Kind { path: "/v2.0/routers", one: "router", many: "routers" };
const GROUP: Kind = Kind { path: "/v2.0/security-groups", one: "security_group", many: "security_groups" };
const RULE: Kind = Kind { path: "/v2.0/security-group-rules", one: "security_group_rule", many: "security_group_rules" };
const PORT: Kind = Kind { path: "/v2.0/ports", one: "port", many: "ports" };
const BALANCER: Kind = Kind { path: "/v2.0/lbaas/loadbalancers", one: "loadbalancer", many: "loadbalancers" };
const LISTENER: Kind = Kind { path: "/v2.0/lbaas/listeners", one: "listener", many: "listeners" };
const POOL: Kind = Kind { path: "/v2.0/lbaas/pools", one: "pool", many: "pools" };

/// `{"port": {…}}`.
fn unwrapped<T: DeserializeOwned>(kind: &Kind, mut document: BTreeMap<String, Value>, key: &str) -> Result<T, ApiError> {
    let unreadable = |why: String| ApiError::Unreadable { doing: kind.path.to_owned(), why };
    let inner = document.remove(key).ok_or_else(|| unreadable(format!("no `{key}` in it")))?;
    serde_json::from_value(inner).map_err(|error| unreadable(error.to_string()))
}

impl Neutron {
    async fn create<T: DeserializeOwned>(&self, kind: &Kind, key: Uuid, mut body: Value) -> Result<T, ApiError> {
        if let (Some(project), Some(fields)) = (self.project(), body.as_object_mut()) {
            fields.insert("project_id".into(), project.into());
        }
        let document = self.write(Method::POST, kind.path, &json!({ kind.one: body }), &[key]).await?;
        unwrapped(kind, document, kind.one)
    }

    async fn show<T: DeserializeOwned>(&self, kind: &Kind, id: Uuid) -> Result<Option<T>, ApiError> {
        match self.get(&format!("{}/{id}", kind.path)).await {
            Ok(document) => unwrapped(kind, document, kind.one).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn update<T: DeserializeOwned>(&self, kind: &Kind, id: Uuid, body: Value) -> Result<T, ApiError> {
        let document = self.write(Method::PUT, &format!("{}/{id}", kind.path), &json!({ kind.one: body }), &[]).await?;
        unwrapped(kind, document, kind.one)
    }

    /// Gone already is gone too.
    async fn delete(&self, kind: &Kind, id: Uuid, query: &str) -> Result<(), ApiError> {
        match self.write_blind(Method::DELETE, &format!("{}/{id}{query}", kind.path), None, &[]).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// All objects that match, page by page, each once: the server begins again where a page's last object has gone meanwhile.
    async fn list<T: DeserializeOwned>(&self, kind: &Kind, filters: &[(&str, &str)], fields: &[&str]) -> Result<Vec<T>, ApiError> {
        let mut query: String = filters.iter().map(|(name, value)| format!("{}={}&", dial::escape(name), dial::escape(value))).collect();
        query.extend(fields.iter().map(|field| format!("fields={}&", dial::escape(field))));
        let (mut all, mut ids) = (Vec::new(), HashSet::new());
        let mut marker: Option<String> = None;
        loop {
            let after = marker.as_ref().map(|marker| format!("&marker={marker}")).unwrap_or_default();
            let document = self.get(&format!("{}?{query}limit={PAGE}{after}", kind.path)).await?;
            let page: Vec<Value> = unwrapped(kind, document, kind.many)?;
            let last = page.last().and_then(|object| object["id"].as_str()).map(str::to_owned);
            let is_full = page.len() == PAGE;
            for object in page {
                if object["id"].as_str().is_some_and(|id| !ids.insert(id.to_owned())) {
                    continue;
                }
                let unreadable = |error: serde_json::Error| ApiError::Unreadable { doing: kind.path.into(), why: error.to_string() };
                all.push(serde_json::from_value(object).map_err(unreadable)?);
            }
            if !is_full || last.is_none() || last == marker {
                return Ok(all);
            }
            marker = last;
        }
    }

    pub async fn create_network(&self, key: Uuid, name: &str, description: &str) -> Result<Named, ApiError> {
        let body = json!({ "name": name, "description": description, "ladon:flooding": false });
        self.create(&NETWORK, key, body).await
    }

    pub async fn network(&self, id: Uuid) -> Result<Option<Named>, ApiError> {
        self.show(&NETWORK, id).await
    }

    pub async fn create_subnet(&self, key: Uuid, body: Value) -> Result<Subnet, ApiError> {
        self.create(&SUBNET, key, body).await
    }

    pub async fn subnets_of(&self, network: Uuid) -> Result<Vec<Subnet>, ApiError> {
        self.list(&SUBNET, &[("network_id", &network.to_string())], &[]).await
    }

    pub async fn create_router(&self, key: Uuid, name: &str, description: &str) -> Result<Router, ApiError> {
        self.create(&ROUTER, key, json!({ "name": name, "description": description })).await
    }

    pub async fn add_router_interface(&self, router: Uuid, subnet: Uuid) -> Result<(), ApiError> {
        let path = format!("{}/{router}/add_router_interface", ROUTER.path);
        self.write_blind(Method::PUT, &path, Some(&json!({ "subnet_id": subnet })), &[]).await.map(drop)
    }

    pub async fn create_group(&self, key: Uuid, name: &str, description: &str) -> Result<Group, ApiError> {
        self.create(&GROUP, key, json!({ "name": name, "description": description })).await
    }

    /// A rule that lets everything pass. That it is there already is fine.
    pub async fn create_open_rule(&self, key: Uuid, group: Uuid, direction: &str, ethertype: &str) -> Result<(), ApiError> {
        let body = json!({ "security_group_id": group, "direction": direction, "ethertype": ethertype });
        match self.create::<Value>(&RULE, key, body).await {
            Err(error) if !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    pub async fn create_port(&self, key: Uuid, port: &NewPort) -> Result<Port, ApiError> {
        self.create(&PORT, key, json!(port)).await
    }

    /// Many ports in one transaction: all or none. The keys are in the order of the ports.
    pub async fn create_ports(&self, keys: &[Uuid], ports: &[NewPort]) -> Result<Vec<Port>, ApiError> {
        match self.write(Method::POST, PORT.path, &json!({ PORT.many: ports }), keys).await {
            Ok(document) => unwrapped(&PORT, document, PORT.many),
            Err(error) => {
                if matches!(&error, ApiError::Refused { status: 400, message, .. } if message.contains("Idempotency-Key")) {
                    self.has_bulk_keys.store(false, Ordering::Relaxed);
                }
                Err(error)
            }
        }
    }

    pub async fn set_address_pairs(&self, port: Uuid, pairs: &[AddressPair]) -> Result<Port, ApiError> {
        self.update(&PORT, port, json!({ "allowed_address_pairs": pairs })).await
    }

    pub async fn delete_port(&self, port: Uuid) -> Result<(), ApiError> {
        self.delete(&PORT, port, "").await
    }

    pub async fn ports_of_owner(&self, network: Uuid, owner: &str) -> Result<Vec<Port>, ApiError> {
        self.list(&PORT, &[("network_id", &network.to_string()), ("device_owner", owner)], PORT_FIELDS).await
    }

    pub async fn router_interfaces(&self, router: Uuid) -> Result<Vec<Port>, ApiError> {
        let filters = [("device_id", &*router.to_string()), ("device_owner", "network:router_interface")];
        self.list(&PORT, &filters, PORT_FIELDS).await
    }

    pub async fn balancers_on(&self, subnet: Uuid) -> Result<Vec<Balancer>, ApiError> {
        self.list(&BALANCER, &[("vip_subnet_id", &subnet.to_string())], &[]).await
    }

    pub async fn balancers_named(&self, name: &str) -> Result<Vec<Balancer>, ApiError> {
        self.list(&BALANCER, &[("name", name)], &[]).await
    }

    pub async fn balancer(&self, id: Uuid) -> Result<Option<Balancer>, ApiError> {
        self.show(&BALANCER, id).await
    }

    pub async fn create_balancer(&self, key: Uuid, name: &str, description: &str, vip: IpAddr, subnet: Uuid) -> Result<Balancer, ApiError> {
        let body = json!({ "name": name, "description": description, "vip_address": vip, "vip_subnet_id": subnet, "provider": "ladon" });
        self.create(&BALANCER, key, body).await
    }

    pub async fn rename_balancer(&self, id: Uuid, name: &str) -> Result<Balancer, ApiError> {
        self.update(&BALANCER, id, json!({ "name": name })).await
    }

    /// With its listeners, pools and members.
    pub async fn delete_balancer(&self, id: Uuid) -> Result<(), ApiError> {
        self.delete(&BALANCER, id, "?cascade=true").await
    }

    pub async fn listeners_of(&self, balancer: Uuid) -> Result<Vec<Listener>, ApiError> {
        self.list(&LISTENER, &[("loadbalancer_id", &balancer.to_string())], &[]).await
    }

    pub async fn create_listener(
        &self,
        key: Uuid,
        balancer: Uuid,
        name: &str,
        protocol: &str,
        port: u16,
        pool: Uuid,
    ) -> Result<Listener, ApiError> {
        let body =
            json!({ "loadbalancer_id": balancer, "name": name, "protocol": protocol, "protocol_port": port, "default_pool_id": pool });
        self.create(&LISTENER, key, body).await
    }

    pub async fn set_default_pool(&self, listener: Uuid, pool: Uuid) -> Result<Listener, ApiError> {
        self.update(&LISTENER, listener, json!({ "default_pool_id": pool })).await
    }

    pub async fn delete_listener(&self, id: Uuid) -> Result<(), ApiError> {
        self.delete(&LISTENER, id, "").await
    }

    pub async fn pools_of(&self, balancer: Uuid) -> Result<Vec<Pool>, ApiError> {
        self.list(&POOL, &[("loadbalancer_id", &balancer.to_string())], &[]).await
    }

    pub async fn create_pool(&self, key: Uuid, balancer: Uuid, name: &str, protocol: &str) -> Result<Pool, ApiError> {
        let body = json!({ "loadbalancer_id": balancer, "name": name, "protocol": protocol, "lb_algorithm": "SOURCE_IP_PORT" });
        self.create(&POOL, key, body).await
    }

    pub async fn delete_pool(&self, id: Uuid) -> Result<(), ApiError> {
        self.delete(&POOL, id, "").await
    }

    pub async fn members_of(&self, pool: Uuid) -> Result<Vec<Member>, ApiError> {
        #[derive(Deserialize)]
        struct Members {
            members: Vec<Member>,
        }
        Ok(self.get::<Members>(&format!("{}/{pool}/members", POOL.path)).await?.members)
    }

    /// Makes the members of a pool exactly these, in one write.
    pub async fn set_members(&self, pool: Uuid, members: &[Member]) -> Result<(), ApiError> {
        let path = format!("{}/{pool}/members", POOL.path);
        self.write_blind(Method::PUT, &path, Some(&json!({ "members": members })), &[]).await.map(drop)
    }
}
