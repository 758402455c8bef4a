//! Pools: the members that may answer.

use model::{Kind, Listener, ListenerId, LoadBalancer, LoadBalancerId, ObjectKey, Pool, PoolAlgorithm, PoolId};
use serde_json::Value;
use uuid::Uuid;

use super::body::{self, Fields, Table};
use super::error::Fault;
use super::list::Query;
use super::show::{self, Shown};
use super::{Ask, Resource, listener, member};
use crate::State;
use crate::auth::Caller;

const TABLE: Table = Table {
    argument: "pool_",
    name: "pool",
    create: &[
        "name",
        "description",
        "admin_state_up",
        "protocol",
        "lb_algorithm",
        "loadbalancer_id",
        "listener_id",
        "project_id",
        "tenant_id",
        "members",
        "tags",
    ],
    update: &["name", "description", "admin_state_up", "lb_algorithm", "tags"],
    plain: &[
        ("session_persistence", "null"),
        ("healthmonitor", "null"),
        ("tls_container_ref", "null"),
        ("ca_tls_container_ref", "null"),
        ("crl_container_ref", "null"),
        ("tls_enabled", "false"),
        ("tls_ciphers", "null"),
        ("tls_versions", "null"),
        ("alpn_protocols", "null"),
    ],
};

const PROTOCOLS: [&str; 7] = ["HTTP", "HTTPS", "PROXY", "PROXYV2", "SCTP", "TCP", "UDP"];
const ALGORITHMS: [&str; 4] = ["ROUND_ROBIN", "LEAST_CONNECTIONS", "SOURCE_IP", "SOURCE_IP_PORT"];

fn algorithm(fields: &Fields) -> Result<Option<PoolAlgorithm>, Fault> {
    Ok(match fields.word("lb_algorithm", &ALGORITHMS)? {
        None => None,
        Some("SOURCE_IP_PORT") => Some(PoolAlgorithm::SourceIpPort),
        Some("ROUND_ROBIN") => Some(PoolAlgorithm::RoundRobin),
        Some(other) => return Err(Fault::unsupported(format!("pool lb_algorithm {other}"))),
    })
}

impl Resource for Pool {
    const NAME: &'static str = "pool";
    const COLLECTION: &'static str = "pools";
    const WHAT: &'static str = "Pool";
    const TABLE: &'static Table = &TABLE;

    fn show(state: &State, it: &Pool) -> Shown {
        show::pool(state, it)
    }

    fn create(ask: &mut Ask, id: Uuid, fields: &Fields) -> Result<(), Fault> {
        let listener = fields.id::<ListenerId>("listener_id")?.map(|id| ask.find::<Listener>(id.0)).transpose()?;
        let balancer = fields.id::<LoadBalancerId>("loadbalancer_id")?.or(listener.as_ref().map(|it| it.load_balancer));
        let balancer = balancer.ok_or_else(|| Fault::validation("Must provide at least one of: loadbalancer_id, listener_id"))?;
        let balancer = ask.find::<LoadBalancer>(balancer.0)?;
        make(ask, PoolId(id), &balancer, fields)?;
        listener.map_or(Ok(()), |listener| attach(ask, &balancer, listener, PoolId(id)))
    }

    fn is_same(it: &Pool, fields: &Fields, _: &Caller) -> bool {
        fields.id("loadbalancer_id").is_ok_and(|id| id.is_none_or(|id: LoadBalancerId| id == it.load_balancer))
    }

    fn update(ask: &mut Ask, mut it: Pool, fields: &Fields) -> Result<(), Fault> {
        it.algorithm = algorithm(fields)?.unwrap_or(it.algorithm);
        it.name = fields.text("name")?.unwrap_or(it.name);
        it.description = fields.text("description")?.unwrap_or(it.description);
        it.is_admin_up = fields.flag("admin_state_up")?.unwrap_or(it.is_admin_up);
        body::touch(ask.tx, &mut it.standard, fields)?;
        ask.tx.put(it);
        Ok(())
    }

    fn delete(ask: &mut Ask, it: Pool, _: &Query) -> Result<(), Fault> {
        remove(ask, &it);
        Ok(())
    }
}

/// Makes the pool its listener's default.
fn attach(ask: &mut Ask, balancer: &LoadBalancer, mut listener: Listener, pool: PoolId) -> Result<(), Fault> {
    if listener.load_balancer != balancer.id {
        return Err(Fault::validation(format!("Listener {} is not on load balancer {}.", listener.id, balancer.id)));
    }
    if listener.default_pool.is_some() {
        return Err(Fault::conflict("This listener already has a default pool"));
    }
    let protocol = ask.find::<Pool>(pool.0)?.protocol;
    if protocol != listener.protocol {
        return Err(listener::incompatible(listener.protocol, protocol));
    }
    listener.default_pool = Some(pool);
    ask.tx.put(listener);
    Ok(())
}

/// A pool of a load balancer that is being made.
pub fn create_in(ask: &mut Ask, balancer: &LoadBalancer, value: Value) -> Result<PoolId, Fault> {
    let (id, fields) = (PoolId(Uuid::new_v4()), TABLE.for_create(value)?);
    make(ask, id, balancer, &fields)?;
    Ok(id)
}

fn make(ask: &mut Ask, id: PoolId, balancer: &LoadBalancer, fields: &Fields) -> Result<(), Fault> {
    let word = fields.required("protocol", fields.word("protocol", &PROTOCOLS)?)?;
    let pool = Pool {
        id,
        load_balancer: balancer.id,
        project: balancer.project.clone(),
        name: fields.text("name")?.unwrap_or_default(),
        description: fields.text("description")?.unwrap_or_default(),
        is_admin_up: fields.flag("admin_state_up")?.unwrap_or(true),
        protocol: listener::protocol("pool", word)?,
        algorithm: fields.required("lb_algorithm", algorithm(fields)?)?,
        standard: body::standard(ask.tx, fields)?,
    };
    ask.tx.put(pool.clone());
    for value in fields.list("members")? {
        member::create_in(ask, &pool, value)?;
    }
    Ok(())
}

/// Deletes a pool with its members; its listeners have none then.
pub fn remove(ask: &mut Ask, pool: &Pool) {
    let state = ask.tx.state();
    let members: Vec<ObjectKey> = state.members_of(pool.id).map(|member| ObjectKey::new(Kind::Member, member.id)).collect();
    let listeners: Vec<Listener> = state.listeners_with_pool(pool.id).cloned().collect();
    members.into_iter().for_each(|key| ask.tx.delete(key));
    for mut listener in listeners {
        listener.default_pool = None;
        ask.tx.put(listener);
    }
    ask.tx.delete(ObjectKey::new(Kind::Pool, pool.id));
}
