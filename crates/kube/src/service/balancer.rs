//! One Service's load balancers: reading what the server has and doing what differs.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::Trouble;
use super::desired::{DesiredLb, member_list};
use super::diff::{ActualLb, ActualListener, ActualPool, Step, next_step};
use crate::ids::Keys;
use crate::neutron::types::Balancer;
use crate::neutron::{ApiError, Neutron};
use crate::topology::Topology;

/// What is known of a Service's load balancers.
#[derive(Debug, Default)]
pub struct Known {
    /// Load balancers that are there, or were; `None` where the inside has to be read again.
    balancers: Vec<(Uuid, Option<ActualLb>)>,
    /// A request was not answered, or met something that it did not expect: there may be more than is known.
    is_uncertain: bool,
    /// What the Service's owner has been told of what it does not get.
    pub told: Vec<String>,
    /// When what the server has is read again, whatever is remembered of it.
    read_again: Option<Instant>,
}

impl Known {
    pub fn is_nothing(&self) -> bool {
        self.balancers.is_empty() && !self.is_uncertain
    }

    /// One more that the server has.
    pub fn adopt(&mut self, id: Uuid) {
        if !self.balancers.iter().any(|(known, _)| *known == id) {
            self.balancers.push((id, None));
        }
    }

    /// What the server has must be read again.
    pub fn forget(&mut self) {
        self.balancers.iter_mut().for_each(|(_, actual)| *actual = None);
    }

    /// Something that the server has was not read yet.
    pub fn is_unread(&self) -> bool {
        self.balancers.iter().any(|(_, actual)| actual.is_none())
    }

    /// The Service `name` is looked at: what was read a period ago is forgotten. The first time comes after a part of the period
    /// that follows from the name, since after a start all Services are looked at together.
    pub fn look(&mut self, name: &str, now: Instant, period: Duration) {
        let is_due = self.read_again.is_some_and(|due| due <= now);
        if is_due {
            self.forget();
        }
        if is_due || self.read_again.is_none() {
            self.read_again = Some(now + if is_due { period } else { period.mul_f64(share(name)) });
        }
    }

    /// When to look again at the latest.
    pub fn read_again(&self) -> Option<Instant> {
        self.read_again
    }
}

/// A number from 0 to 1 that a name always has.
fn share(name: &str) -> f64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() as f64 / u64::MAX as f64
}

/// More steps than any difference takes; who needs more gets answers that never say what was asked for.
fn steps_max(wanted: &DesiredLb, actual: &ActualLb) -> usize {
    4 * (wanted.ports.len() + actual.listeners.len() + actual.pools.len()) + 4
}

fn never_ends(step: &Step) -> ApiError {
    ApiError::Unreadable { doing: format!("{step:?}"), why: "the server's answers never show the change".into() }
}

/// Does the requests of one piece of work.
pub struct Worker {
    pub neutron: Neutron,
    pub keys: Keys,
    pub topology: Arc<Topology>,
}

impl Worker {
    /// Makes the Service's load balancers exactly these. What was reached is returned also when something failed.
    pub async fn reconcile(&self, name: &str, mut known: Known, desired: Vec<DesiredLb>) -> (Known, Result<(), Trouble>) {
        let result = self.converge(name, &mut known, &desired).await;
        if let Err(trouble) = &result {
            known.forget();
            known.is_uncertain |= matches!(trouble, Trouble::Api(error) if !error.is_refusal() || error.is_conflict());
        }
        (known, result)
    }

    async fn converge(&self, name: &str, known: &mut Known, desired: &[DesiredLb]) -> Result<(), Trouble> {
        if known.is_uncertain {
            self.search(name, known).await?;
        }
        self.load(known).await?;
        self.remove_strays(known, desired).await?;
        for wanted in desired {
            let index = match known.balancers.iter().position(|(_, actual)| actual.as_ref().is_some_and(|actual| actual.vip == wanted.vip))
            {
                Some(index) => index,
                None => self.create(known, wanted).await?,
            };
            let actual = known.balancers[index].1.as_mut().expect("found or made just now");
            let mut steps_left = steps_max(wanted, actual);
            while let Some(step) = next_step(wanted, actual) {
                steps_left = steps_left.checked_sub(1).ok_or_else(|| never_ends(&step))?;
                let next = self.perform(step, wanted, actual).await?;
                *actual = next;
            }
        }
        Ok(())
    }

    /// Finds the Service's load balancers by their name.
    async fn search(&self, name: &str, known: &mut Known) -> Result<(), ApiError> {
        for balancer in self.neutron.balancers_named(name).await? {
            if balancer.vip_subnet_id.is_some_and(|subnet| self.topology.is_service_subnet(subnet)) {
                known.adopt(balancer.id);
            }
        }
        known.is_uncertain = false;
        Ok(())
    }

    /// Reads what has to be read again; what is gone is forgotten.
    async fn load(&self, known: &mut Known) -> Result<(), ApiError> {
        let mut index = 0;
        while let Some((id, actual)) = known.balancers.get(index) {
            if actual.is_some() {
                index += 1;
                continue;
            }
            match self.neutron.balancer(*id).await? {
                Some(balancer) => {
                    known.balancers[index].1 = Some(self.inside(balancer).await?);
                    index += 1;
                }
                None => drop(known.balancers.remove(index)),
            }
        }
        Ok(())
    }

    async fn inside(&self, balancer: Balancer) -> Result<ActualLb, ApiError> {
        let listeners = self.neutron.listeners_of(balancer.id).await?;
        let mut pools = Vec::new();
        for pool in self.neutron.pools_of(balancer.id).await? {
            let members = self.neutron.members_of(pool.id).await?;
            let members = members.into_iter().map(|member| ((member.address, member.protocol_port), member.weight)).collect();
            pools.push(ActualPool { id: pool.id, name: pool.name, protocol: pool.protocol, members });
        }
        let listeners = listeners.into_iter().map(|listener| ActualListener {
            id: listener.id,
            protocol: listener.protocol,
            port: listener.protocol_port,
            pool: listener.default_pool_id,
        });
        Ok(ActualLb { id: balancer.id, name: balancer.name, vip: balancer.vip_address, listeners: listeners.collect(), pools })
    }

    /// Load balancers at addresses that the Service has not, and second ones at the same address.
    async fn remove_strays(&self, known: &mut Known, desired: &[DesiredLb]) -> Result<(), ApiError> {
        let mut index = 0;
        while let Some((id, actual)) = known.balancers.get(index) {
            let vip = actual.as_ref().map(|actual| actual.vip);
            let is_wanted = desired.iter().any(|wanted| Some(wanted.vip) == vip);
            let is_second = known.balancers[..index].iter().any(|(_, other)| other.as_ref().map(|other| other.vip) == vip);
            if is_wanted && !is_second {
                index += 1;
            } else {
                self.neutron.delete_balancer(*id).await?;
                known.balancers.remove(index);
            }
        }
        Ok(())
    }

    /// Makes a load balancer; one that another attempt made is taken over with whatever is in it.
    async fn create(&self, known: &mut Known, wanted: &DesiredLb) -> Result<usize, Trouble> {
        let subnet = self.topology.subnet_of(wanted.vip).ok_or(Trouble::NoSubnet(wanted.vip))?;
        let key = self.keys.balancer(&wanted.service_uid, wanted.vip);
        let description = format!("Kubernetes Service {} ({})", wanted.name, wanted.service_uid);
        let made = self.neutron.create_balancer(key, &wanted.name, &description, wanted.vip, subnet).await?;
        known.adopt(made.id);
        let index = known.balancers.iter().position(|(id, _)| *id == made.id).expect("just adopted");
        known.balancers[index].1 = Some(if made.is_empty() {
            ActualLb { id: made.id, name: made.name, vip: made.vip_address, listeners: Vec::new(), pools: Vec::new() }
        } else {
            self.inside(made).await?
        });
        Ok(index)
    }

    /// Does one step and returns what is there afterwards.
    async fn perform(&self, step: Step<'_>, wanted: &DesiredLb, actual: &ActualLb) -> Result<ActualLb, ApiError> {
        let mut next = actual.clone();
        match step {
            Step::Rename => next.name = self.neutron.rename_balancer(actual.id, &wanted.name).await?.name,
            Step::DeleteListener(id) => {
                self.neutron.delete_listener(id).await?;
                next.listeners.retain(|listener| listener.id != id);
            }
            Step::DeletePool(id) => {
                self.neutron.delete_pool(id).await?;
                next.pools.retain(|pool| pool.id != id);
            }
            Step::CreatePool(port) => {
                let key = self.keys.pool(&actual.id.to_string(), &port.name);
                let pool = self.neutron.create_pool(key, actual.id, &port.name, port.protocol.word()).await?;
                next.pools.push(ActualPool { id: pool.id, name: pool.name, protocol: pool.protocol, members: Default::default() });
            }
            Step::SetMembers { pool, members } => {
                self.neutron.set_members(pool, &member_list(members)).await?;
                let changed = next.pools.iter_mut().find(|candidate| candidate.id == pool).expect("the step names a pool that is there");
                changed.members.clone_from(members);
            }
            Step::CreateListener { port, pool } => {
                let key = self.keys.listener(&actual.id.to_string(), &port.name);
                let listener = self.neutron.create_listener(key, actual.id, &port.name, port.protocol.word(), port.port, pool).await?;
                let (protocol, pool) = (listener.protocol, listener.default_pool_id);
                next.listeners.push(ActualListener { id: listener.id, protocol, port: listener.protocol_port, pool });
            }
            Step::SetPool { listener, pool } => {
                let answer = self.neutron.set_default_pool(listener, pool).await?;
                let changed =
                    next.listeners.iter_mut().find(|candidate| candidate.id == listener).expect("the step names a listener that is there");
                changed.pool = answer.default_pool_id;
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_has_is_read_again_within_a_period_however_often_a_service_is_looked_at() {
        const PERIOD: u64 = 300;
        let begin = Instant::now();
        let mut first = std::collections::BTreeSet::new();
        for name in (0..50).map(|number| format!("shop/web-{number}")) {
            let actual = ActualLb { id: Uuid::nil(), name: name.clone(), vip: [10, 96, 0, 7].into(), listeners: vec![], pools: vec![] };
            let mut known = Known::default();
            known.look(&name, begin, Duration::from_secs(PERIOD));
            let mut read = vec![0];
            for second in 1..4 * PERIOD {
                known.balancers = vec![(actual.id, Some(actual.clone()))];
                known.look(&name, begin + Duration::from_secs(second), Duration::from_secs(PERIOD));
                if known.is_unread() {
                    read.push(second);
                }
            }
            let gaps: Vec<u64> = read.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(gaps.len() >= 3 && gaps.iter().all(|gap| *gap <= PERIOD), "{name}: {gaps:?}");
            first.insert(read[1]);
        }
        assert!(first.len() > 25, "not all at once: {first:?}");
    }
}
