//! Listeners: the ports of a VIP.

use model::{Kind, Listener, ListenerId, ListenerProtocol, LoadBalancer, LoadBalancerId, ObjectKey, Pool, PoolId};
use serde_json::Value;
use uuid::Uuid;

use super::body::{self, Fields, Table};
use super::error::Fault;
use super::list::Query;
use super::show::{self, Shown};
use super::{Ask, Resource, pool};
use crate::State;
use crate::auth::Caller;

const TABLE: Table = Table {
    argument: "listener_",
    name: "listener",
    create: &[
        "name",
        "description",
        "admin_state_up",
        "protocol",
        "protocol_port",
        "default_pool_id",
        "default_pool",
        "loadbalancer_id",
        "project_id",
        "tenant_id",
        "tags",
    ],
    update: &["name", "description", "admin_state_up", "default_pool_id", "tags"],
    plain: &[
        ("connection_limit", "-1"),
        ("default_tls_container_ref", "null"),
        ("sni_container_refs", "[]"),
        ("l7policies", "[]"),
        ("insert_headers", "{}"),
        ("timeout_client_data", "50000"),
        ("timeout_member_connect", "5000"),
        ("timeout_member_data", "50000"),
        ("timeout_tcp_inspect", "0"),
        ("client_ca_tls_container_ref", "null"),
        ("client_authentication", "\"NONE\""),
        ("client_crl_container_ref", "null"),
        ("allowed_cidrs", "null"),
        ("tls_ciphers", "null"),
        ("tls_versions", "null"),
        ("alpn_protocols", "null"),
        ("hsts_max_age", "null"),
        ("hsts_include_subdomains", "false"),
        ("hsts_preload", "false"),
    ],
};

/// Octavia's protocols of listeners.
const PROTOCOLS: [&str; 7] = ["SCTP", "TCP", "TERMINATED_HTTPS", "HTTPS", "HTTP", "UDP", "PROMETHEUS"];

/// The protocol that `word` names, if the datapath does it.
pub fn protocol(what: &str, word: &str) -> Result<ListenerProtocol, Fault> {
    match word {
        "TCP" => Ok(ListenerProtocol::Tcp),
        "UDP" => Ok(ListenerProtocol::Udp),
        other => Err(Fault::unsupported(format!("{what} protocol {other}"))),
    }
}

impl Resource for Listener {
    const NAME: &'static str = "listener";
    const COLLECTION: &'static str = "listeners";
    const WHAT: &'static str = "Listener";
    const TABLE: &'static Table = &TABLE;

    fn show(state: &State, it: &Listener) -> Shown {
        show::listener(state, it)
    }

    fn create(ask: &mut Ask, id: Uuid, fields: &Fields) -> Result<(), Fault> {
        let balancer: LoadBalancerId = fields.required("loadbalancer_id", fields.id("loadbalancer_id")?)?;
        let balancer = ask.find::<LoadBalancer>(balancer.0)?;
        make(ask, ListenerId(id), &balancer, fields)
    }

    fn is_same(it: &Listener, fields: &Fields, _: &Caller) -> bool {
        fields.id("loadbalancer_id").is_ok_and(|id| id == Some(it.load_balancer))
    }

    fn update(ask: &mut Ask, mut it: Listener, fields: &Fields) -> Result<(), Fault> {
        if fields.says("default_pool_id") {
            it.default_pool = default_pool(ask, it.load_balancer, it.protocol, fields)?;
        }
        it.name = fields.text("name")?.unwrap_or(it.name);
        it.description = fields.text("description")?.unwrap_or(it.description);
        it.is_admin_up = fields.flag("admin_state_up")?.unwrap_or(it.is_admin_up);
        body::touch(ask.tx, &mut it.standard, fields)?;
        ask.tx.put(it);
        Ok(())
    }

    fn delete(ask: &mut Ask, it: Listener, _: &Query) -> Result<(), Fault> {
        ask.tx.delete(ObjectKey::new(Kind::Listener, it.id));
        Ok(())
    }
}

/// A listener of a load balancer that is being made.
pub fn create_in(ask: &mut Ask, balancer: &LoadBalancer, value: Value) -> Result<(), Fault> {
    let fields = TABLE.for_create(value)?;
    make(ask, ListenerId(Uuid::new_v4()), balancer, &fields)
}

fn make(ask: &mut Ask, id: ListenerId, balancer: &LoadBalancer, fields: &Fields) -> Result<(), Fault> {
    let word = fields.required("protocol", fields.word("protocol", &PROTOCOLS)?)?;
    let protocol = protocol("listener", word)?;
    let port = fields.required("protocol_port", fields.number("protocol_port", 1..=u16::MAX)?)?;
    let is_same = |other: &Listener| (other.protocol, other.port) == (protocol, port);
    if ask.tx.state().listeners_of(balancer.id).any(is_same) {
        let message = format!("Another Listener on this Load Balancer is already using protocol {word} and protocol_port {port}");
        return Err(Fault::conflict(message));
    }
    let default_pool = match fields.get("default_pool") {
        Some(pool) => Some(pool::create_in(ask, balancer, pool.clone())?),
        None => default_pool(ask, balancer.id, protocol, fields)?,
    };
    check_protocols(ask, protocol, default_pool)?;
    let listener = Listener {
        id,
        key: ask.tx.listener_key()?,
        load_balancer: balancer.id,
        project: balancer.project.clone(),
        name: fields.text("name")?.unwrap_or_default(),
        description: fields.text("description")?.unwrap_or_default(),
        is_admin_up: fields.flag("admin_state_up")?.unwrap_or(true),
        protocol,
        port,
        default_pool,
        standard: body::standard(ask.tx, fields)?,
    };
    ask.tx.put(listener);
    Ok(())
}

fn default_pool(ask: &Ask, balancer: LoadBalancerId, protocol: ListenerProtocol, fields: &Fields) -> Result<Option<PoolId>, Fault> {
    let Some(id) = fields.id::<PoolId>("default_pool_id")? else { return Ok(None) };
    let pool = ask.find::<Pool>(id.0)?;
    if pool.load_balancer != balancer {
        return Err(Fault::validation(format!("Pool {id} is not on the listener's load balancer.")));
    }
    check_protocols(ask, protocol, Some(id))?;
    Ok(Some(id))
}

fn check_protocols(ask: &Ask, listener: ListenerProtocol, pool: Option<PoolId>) -> Result<(), Fault> {
    match pool.and_then(|id| ask.tx.state().pool(id)) {
        Some(pool) if pool.protocol != listener => Err(incompatible(listener, pool.protocol)),
        _ => Ok(()),
    }
}

/// A listener's connections are its pool's.
pub fn incompatible(listener: ListenerProtocol, pool: ListenerProtocol) -> Fault {
    let (listener, pool) = (show::protocol(listener), show::protocol(pool));
    Fault::validation(format!("The pool protocol '{pool}' is invalid while the listener protocol is '{listener}'."))
}
