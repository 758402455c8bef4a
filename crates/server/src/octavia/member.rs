//! Members: one by one, or all of a pool at once.

use std::collections::HashMap;
use std::net::IpAddr;

use axum::http::StatusCode;
use model::{Kind, Member, MemberId, Network, ObjectKey, Pool, PoolId, SubnetId};
use serde_json::Value;
use uuid::Uuid;

use super::Ask;
use super::body::{self, Fields, Table};
use super::error::Fault;

/// Members in one batch. More are refused.
pub const MEMBERS_MAX: usize = 10_000;
/// Octavia's greatest weight.
pub const WEIGHT_MAX: u16 = 256;

pub const TABLE: Table = Table {
    argument: "member_",
    name: "member",
    create: &["name", "admin_state_up", "address", "protocol_port", "weight", "subnet_id", "project_id", "tenant_id", "tags"],
    update: &["name", "admin_state_up", "weight", "tags"],
    plain: &[
        ("backup", "false"),
        ("monitor_address", "null"),
        ("monitor_port", "null"),
        ("vnic_type", "\"normal\""),
        ("request_sriov", "false"),
    ],
};

/// The member of this pool.
pub fn find(ask: &Ask, pool: PoolId, id: MemberId) -> Result<Member, Fault> {
    let found = ask.tx.state().member(id).filter(|member| member.pool == pool);
    found.cloned().ok_or_else(|| Fault::not_found("Member", id))
}

/// A new member, which no other of the pool is like.
pub fn create_in(ask: &mut Ask, pool: &Pool, value: Value) -> Result<MemberId, Fault> {
    let fields = TABLE.for_create(value)?;
    let (address, port) = place(&fields)?;
    let is_same = |other: &Member| (other.address, other.port) == (address, port);
    if ask.tx.state().members_of(pool.id).any(is_same) {
        return Err(duplicate(address, port));
    }
    make(ask, pool, &fields, address, port)
}

fn duplicate(address: IpAddr, port: u16) -> Fault {
    Fault::conflict(format!("Another member on this pool is already using ip {address} on protocol_port {port}"))
}

fn place(fields: &Fields) -> Result<(IpAddr, u16), Fault> {
    let address = fields.required("address", fields.address("address")?)?;
    let port = fields.required("protocol_port", fields.number("protocol_port", 1..=u16::MAX)?)?;
    Ok((address, port))
}

fn make(ask: &mut Ask, pool: &Pool, fields: &Fields, address: IpAddr, port: u16) -> Result<MemberId, Fault> {
    let state = ask.tx.state();
    let vip = state.load_balancer(pool.load_balancer).map(|balancer| balancer.vip);
    if vip.is_some_and(|vip| vip.is_ipv4() != address.is_ipv4()) {
        return Err(Fault::unsupported(format!("member {address} of another IP version than the VIP")));
    }
    // Octavia's words about the addresses that it reserves.
    let odd = |why| Err(Fault::new(StatusCode::BAD_REQUEST, format!("{address} is not a valid option for member address{why}")));
    if !is_reachable(address) {
        return odd("");
    }
    if vip == Some(address) {
        return odd(": it is its own load balancer's VIP");
    }
    let subnet = fields.id::<SubnetId>("subnet_id")?;
    if let Some(id) = subnet {
        let is_usable = |network: &Network| network.is_shared || ask.caller.may_see(&network.project);
        let network = state.subnet(id).and_then(|subnet| state.network(subnet.network));
        network.filter(|network| is_usable(network)).ok_or_else(|| Fault::missing("Subnet", id))?;
    }
    let member = Member {
        id: MemberId(Uuid::new_v4()),
        pool: pool.id,
        project: pool.project.clone(),
        name: fields.text("name")?.unwrap_or_default(),
        is_admin_up: fields.flag("admin_state_up")?.unwrap_or(true),
        address,
        port,
        subnet,
        weight: weight(fields)?.unwrap_or(1),
        standard: body::standard(ask.tx, fields)?,
    };
    let id = member.id;
    ask.tx.put(member);
    Ok(id)
}

/// False for addresses at which no router reaches one host.
fn is_reachable(address: IpAddr) -> bool {
    let is_special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let is_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !is_special && !is_local
}

fn weight(fields: &Fields) -> Result<Option<u16>, Fault> {
    fields.number("weight", 0..=WEIGHT_MAX)
}

pub fn update(ask: &mut Ask, mut it: Member, fields: &Fields) -> Result<(), Fault> {
    it.name = fields.text("name")?.unwrap_or(it.name);
    it.is_admin_up = fields.flag("admin_state_up")?.unwrap_or(it.is_admin_up);
    it.weight = weight(fields)?.unwrap_or(it.weight);
    body::touch(ask.tx, &mut it.standard, fields)?;
    ask.tx.put(it);
    Ok(())
}

/// Makes the pool's members be these: known ones (same address and port) are changed where they differ, others made, and
/// unless `is_additive`, those that are not named are deleted.
pub fn replace(ask: &mut Ask, pool: &Pool, values: &[Value], is_additive: bool) -> Result<(), Fault> {
    if values.len() > MEMBERS_MAX {
        return Err(Fault::validation(format!("a batch may have {MEMBERS_MAX} members; this one has {}", values.len())));
    }
    let known = ask.tx.state().members_of(pool.id).map(|member| ((member.address, member.port), member.clone()));
    let mut known: HashMap<(IpAddr, u16), Member> = known.collect();
    let mut seen = std::collections::HashSet::new();
    for value in values {
        let fields = TABLE.for_create(value.clone())?;
        let (address, port) = place(&fields)?;
        if !seen.insert((address, port)) {
            return Err(duplicate(address, port));
        }
        match known.remove(&(address, port)) {
            Some(member) => renew(ask, member, &fields)?,
            None => drop(make(ask, pool, &fields, address, port)?),
        }
    }
    if !is_additive {
        known.into_values().for_each(|member| ask.tx.delete(ObjectKey::new(Kind::Member, member.id)));
    }
    Ok(())
}

/// What the batch says of a member holds, and what it does not say is as for a new one. A member that is so already stays
/// untouched: a batch that changes one of a thousand members is news of one.
fn renew(ask: &mut Ask, before: Member, fields: &Fields) -> Result<(), Fault> {
    let mut member = before.clone();
    member.name = fields.text("name")?.unwrap_or_default();
    member.is_admin_up = fields.flag("admin_state_up")?.unwrap_or(true);
    member.weight = weight(fields)?.unwrap_or(1);
    member.standard.tags = fields.tags()?.unwrap_or_default();
    if member != before {
        body::touch(ask.tx, &mut member.standard, &Fields::default())?;
        ask.tx.put(member);
    }
    Ok(())
}
