//! Load balancers, alone or with everything that belongs to them in one request.

use std::collections::HashMap;

use model::{Kind, LoadBalancer, LoadBalancerId, NetworkId, ObjectKey, PoolId, SubnetId};
use serde_json::Value;
use uuid::Uuid;

use super::body::{self, Fields, Table};
use super::error::Fault;
use super::list::Query;
use super::show::{self, Shown};
use super::{Ask, PROVIDER, Resource, listener, pool, vip};
use crate::State;
use crate::auth::Caller;

const TABLE: Table = Table {
    argument: "load_balancer",
    name: "loadbalancer",
    create: &[
        "name",
        "description",
        "admin_state_up",
        "vip_address",
        "vip_port_id",
        "vip_subnet_id",
        "vip_network_id",
        "project_id",
        "tenant_id",
        "listeners",
        "pools",
        "provider",
        "tags",
    ],
    update: &["name", "description", "admin_state_up", "tags"],
    plain: &[
        ("vip_qos_policy_id", "null"),
        ("vip_sg_ids", "[]"),
        ("additional_vips", "[]"),
        ("flavor_id", "null"),
        ("availability_zone", "null"),
    ],
};

impl Resource for LoadBalancer {
    const NAME: &'static str = "loadbalancer";
    const COLLECTION: &'static str = "loadbalancers";
    const WHAT: &'static str = "Load Balancer";
    const TABLE: &'static Table = &TABLE;

    fn show(state: &State, it: &LoadBalancer) -> Shown {
        show::balancer(state, it)
    }

    fn show_new(state: &State, it: &LoadBalancer) -> Shown {
        show::tree(state, it)
    }

    fn create(ask: &mut Ask, id: Uuid, fields: &Fields) -> Result<(), Fault> {
        check_provider(fields)?;
        let id = LoadBalancerId(id);
        let project = fields.project(ask.caller)?;
        let vip = vip::take(ask, id, &project, fields)?;
        let balancer = LoadBalancer {
            id,
            project,
            name: fields.text("name")?.unwrap_or_default(),
            description: fields.text("description")?.unwrap_or_default(),
            is_admin_up: fields.flag("admin_state_up")?.unwrap_or(true),
            vip: vip.fixed.ip,
            vip_port: vip.port,
            vip_subnet: vip.fixed.subnet,
            vip_network: vip.network,
            vip_port_origin: Some(vip.origin),
            standard: body::standard(ask.tx, fields)?,
        };
        ask.tx.put(balancer.clone());
        children(ask, &balancer, fields)
    }

    fn is_same(it: &LoadBalancer, fields: &Fields, caller: &Caller) -> bool {
        let is_project = fields.project(caller).is_ok_and(|project| project == it.project);
        let is_address = fields.address("vip_address").is_ok_and(|ip| ip.is_none_or(|ip| ip == it.vip));
        let is_subnet = fields.id::<SubnetId>("vip_subnet_id").is_ok_and(|id| id.is_none_or(|id| id == it.vip_subnet));
        let is_network = fields.id::<NetworkId>("vip_network_id").is_ok_and(|id| id.is_none_or(|id| id == it.vip_network));
        is_project && is_address && is_subnet && is_network
    }

    fn update(ask: &mut Ask, mut it: LoadBalancer, fields: &Fields) -> Result<(), Fault> {
        it.name = fields.text("name")?.unwrap_or(it.name);
        it.description = fields.text("description")?.unwrap_or(it.description);
        it.is_admin_up = fields.flag("admin_state_up")?.unwrap_or(it.is_admin_up);
        body::touch(ask.tx, &mut it.standard, fields)?;
        ask.tx.put(it);
        Ok(())
    }

    fn delete(ask: &mut Ask, it: LoadBalancer, query: &Query) -> Result<(), Fault> {
        let state = ask.tx.state();
        let pools: Vec<_> = state.pools_of(it.id).cloned().collect();
        let listeners: Vec<_> = state.listeners_of(it.id).map(|listener| listener.id).collect();
        if !query.flag("cascade") && !(pools.is_empty() && listeners.is_empty()) {
            return Err(Fault::validation(format!("Cannot delete Load Balancer {} - it has children", it.id)));
        }
        listeners.into_iter().for_each(|id| ask.tx.delete(ObjectKey::new(Kind::Listener, id)));
        pools.into_iter().for_each(|it| pool::remove(ask, &it));
        vip::release(ask, &it);
        ask.tx.delete(ObjectKey::new(Kind::LoadBalancer, it.id));
        Ok(())
    }
}

fn check_provider(fields: &Fields) -> Result<(), Fault> {
    match fields.text("provider")?.as_deref() {
        None | Some("" | PROVIDER) => Ok(()),
        Some(other) => Err(Fault::new(axum::http::StatusCode::BAD_REQUEST, format!("Provider '{other}' is not enabled."))),
    }
}

/// Pools first: listeners may name them.
fn children(ask: &mut Ask, balancer: &LoadBalancer, fields: &Fields) -> Result<(), Fault> {
    let mut named = HashMap::new();
    for value in fields.list("pools")? {
        let id = pool::create_in(ask, balancer, value.clone())?;
        if let Some(name) = value.get("name").and_then(Value::as_str) {
            named.insert(name.to_string(), id);
        }
    }
    for mut value in fields.list("listeners")? {
        if let Some(id) = named_pool(&value, &named) {
            value["default_pool"] = Value::Null;
            value["default_pool_id"] = Value::String(id.to_string());
        }
        listener::create_in(ask, balancer, value)?;
    }
    Ok(())
}

/// The pool that a listener names: `"default_pool": {"name": …}` and nothing more.
fn named_pool(listener: &Value, named: &HashMap<String, PoolId>) -> Option<PoolId> {
    let pool = listener.get("default_pool")?.as_object().filter(|pool| pool.len() == 1)?;
    named.get(pool.get("name")?.as_str()?).copied()
}
