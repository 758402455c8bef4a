//! The next thing to do so that a load balancer is as it should be: a plain function of both.
//!
//! One step at a time, each followed by another look: ids that the server chose are simply there the next time, and whatever
//! stopped half way is continued from where it is.

use std::net::IpAddr;

use uuid::Uuid;

use super::desired::{DesiredLb, DesiredPort, Members};
use super::facts::Protocol;

/// A load balancer as the server has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActualLb {
    pub id: Uuid,
    pub name: String,
    pub vip: IpAddr,
    pub listeners: Vec<ActualListener>,
    pub pools: Vec<ActualPool>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActualListener {
    pub id: Uuid,
    pub protocol: String,
    pub port: u16,
    pub pool: Option<Uuid>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActualPool {
    pub id: Uuid,
    pub name: String,
    pub protocol: String,
    pub members: Members,
}

/// A difference, and how to end it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    Rename,
    DeleteListener(Uuid),
    DeletePool(Uuid),
    CreatePool(&'a DesiredPort),
    SetMembers { pool: Uuid, members: &'a Members },
    CreateListener { port: &'a DesiredPort, pool: Uuid },
    SetPool { listener: Uuid, pool: Uuid },
}

/// The first difference, or None if there is none. What must not answer goes first; a listener appears when its pool is filled.
pub fn next_step<'a>(desired: &'a DesiredLb, actual: &ActualLb) -> Option<Step<'a>> {
    if actual.name != desired.name {
        return Some(Step::Rename);
    }
    stray_listener(desired, actual)
        .or_else(|| stray_pool(desired, actual))
        .or_else(|| desired.ports.iter().find_map(|port| port_step(port, actual)))
}

fn is_for(listener: &ActualListener, port: &DesiredPort) -> bool {
    listener.port == port.port && listener.protocol == port.protocol.word()
}

fn is_pool_of(pool: &ActualPool, port: &DesiredPort) -> bool {
    pool.name == port.name && pool.protocol == port.protocol.word()
}

fn stray_listener<'a>(desired: &DesiredLb, actual: &ActualLb) -> Option<Step<'a>> {
    let stray = actual.listeners.iter().find(|listener| !desired.ports.iter().any(|port| is_for(listener, port)))?;
    Some(Step::DeleteListener(stray.id))
}

/// A pool that no port wants, or a second one of the same name. One that a listener still names is moved away from first.
fn stray_pool<'a>(desired: &DesiredLb, actual: &ActualLb) -> Option<Step<'a>> {
    let is_stray = |index: usize, pool: &ActualPool| {
        !desired.ports.iter().any(|port| is_pool_of(pool, port))
            || actual.pools[..index].iter().any(|earlier| (&earlier.name, &earlier.protocol) == (&pool.name, &pool.protocol))
    };
    let is_unused = |pool: &ActualPool| !actual.listeners.iter().any(|listener| listener.pool == Some(pool.id));
    let (_, stray) = actual.pools.iter().enumerate().find(|(index, pool)| is_stray(*index, pool) && is_unused(pool))?;
    Some(Step::DeletePool(stray.id))
}

fn port_step<'a>(port: &'a DesiredPort, actual: &ActualLb) -> Option<Step<'a>> {
    debug_assert!(port.protocol != Protocol::Sctp);
    let Some(pool) = actual.pools.iter().find(|pool| is_pool_of(pool, port)) else { return Some(Step::CreatePool(port)) };
    if pool.members != port.members {
        return Some(Step::SetMembers { pool: pool.id, members: &port.members });
    }
    match actual.listeners.iter().find(|listener| is_for(listener, port)) {
        None => Some(Step::CreateListener { port, pool: pool.id }),
        Some(listener) if listener.pool != Some(pool.id) => Some(Step::SetPool { listener: listener.id, pool: pool.id }),
        Some(_) => None,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(count: u8) -> Members {
        (0..count).map(|n| ((IpAddr::from([10, 0, 0, n]), 80), 1)).collect()
    }

    fn desired(ports: &[(Protocol, u16, u8)]) -> DesiredLb {
        let ports = ports.iter().map(|(protocol, port, count)| DesiredPort {
            name: format!("a/b:{}:{port}", protocol.word()),
            protocol: *protocol,
            port: *port,
            members: members(*count),
        });
        DesiredLb { name: "a/b".into(), service_uid: "u".into(), vip: [10, 96, 0, 1].into(), ports: ports.collect() }
    }

    fn empty() -> ActualLb {
        ActualLb { id: Uuid::from_u128(1), name: "a/b".into(), vip: [10, 96, 0, 1].into(), listeners: vec![], pools: vec![] }
    }

    /// What a server does.
    fn perform(step: &Step, desired: &DesiredLb, actual: &mut ActualLb, next_id: &mut u128) {
        *next_id += 1;
        let id = Uuid::from_u128(*next_id);
        match step {
            Step::Rename => actual.name = desired.name.clone(),
            Step::DeleteListener(id) => actual.listeners.retain(|listener| listener.id != *id),
            Step::DeletePool(id) => actual.pools.retain(|pool| pool.id != *id),
            Step::CreatePool(port) => {
                let (name, protocol) = (port.name.clone(), port.protocol.word().to_owned());
                actual.pools.push(ActualPool { id, name, protocol, members: Members::new() });
            }
            Step::SetMembers { pool, members } => {
                actual.pools.iter_mut().find(|candidate| candidate.id == *pool).unwrap().members = (*members).clone();
            }
            Step::CreateListener { port, pool } => {
                let protocol = port.protocol.word().to_owned();
                actual.listeners.push(ActualListener { id, protocol, port: port.port, pool: Some(*pool) });
            }
            Step::SetPool { listener, pool } => {
                actual.listeners.iter_mut().find(|candidate| candidate.id == *listener).unwrap().pool = Some(*pool);
            }
        }
    }

    fn converge(desired: &DesiredLb, actual: &mut ActualLb) -> Vec<String> {
        let ids = actual.pools.iter().map(|pool| pool.id).chain(actual.listeners.iter().map(|listener| listener.id));
        let mut next_id = ids.map(|id| id.as_u128()).max().unwrap_or(1000);
        let mut done = Vec::new();
        while let Some(step) = next_step(desired, actual) {
            assert!(done.len() < 100, "never ends: {done:?}");
            perform(&step, desired, actual, &mut next_id);
            done.push(format!("{step:?}").split([' ', '(']).next().unwrap().to_owned());
        }
        done
    }

    #[test]
    fn a_listener_appears_when_its_pool_is_filled() {
        let mut actual = empty();
        assert_eq!(converge(&desired(&[(Protocol::Tcp, 80, 2)]), &mut actual), ["CreatePool", "SetMembers", "CreateListener"]);
    }

    #[test]
    fn scaling_is_one_step() {
        let mut actual = empty();
        converge(&desired(&[(Protocol::Tcp, 80, 2)]), &mut actual);
        for count in [5, 0, 1] {
            assert_eq!(converge(&desired(&[(Protocol::Tcp, 80, count)]), &mut actual), ["SetMembers"]);
        }
        assert_eq!(converge(&desired(&[(Protocol::Tcp, 80, 1)]), &mut actual), Vec::<String>::new());
    }

    #[test]
    fn another_port_replaces_the_old_listener_before_its_pool() {
        let mut actual = empty();
        converge(&desired(&[(Protocol::Tcp, 80, 2)]), &mut actual);
        let steps = converge(&desired(&[(Protocol::Udp, 80, 2)]), &mut actual);
        assert_eq!(steps, ["DeleteListener", "DeletePool", "CreatePool", "SetMembers", "CreateListener"]);
    }

    fn ports() -> impl Strategy<Value = Vec<(Protocol, u16, u8)>> {
        prop::collection::btree_map((any::<bool>(), 1u16..5), 0u8..4, 0..5).prop_map(|ports| {
            ports.into_iter().map(|((udp, port), count)| (if udp { Protocol::Udp } else { Protocol::Tcp }, port, count)).collect()
        })
    }

    proptest! {
        #[test]
        fn from_any_state_to_any_other(from in ports(), to in ports(), pool_lost: bool) {
            let mut actual = empty();
            converge(&desired(&from), &mut actual);
            if pool_lost {
                actual.pools.pop();
            }
            converge(&desired(&to), &mut actual);
            let mut seen: Vec<_> = actual.listeners.iter().map(|listener| {
                let pool = actual.pools.iter().find(|pool| Some(pool.id) == listener.pool).unwrap();
                (listener.protocol.clone(), listener.port, pool.members.len() as u8)
            }).collect();
            let mut wanted: Vec<_> = to.iter().map(|(protocol, port, count)| (protocol.word().to_owned(), *port, *count)).collect();
            seen.sort();
            wanted.sort();
            prop_assert_eq!(seen, wanted);
            prop_assert_eq!(actual.pools.len(), to.len());
        }
    }
}
