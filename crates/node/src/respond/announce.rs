//! When routers advertise themselves without being asked (RFC 4861, 6.2.4).
//!
//! Hosts ask once, and what they heard runs out: so every port hears every router of its network again and again, at random
//! times, and soon after something changed. A router that stops says so. Each advertisement goes to one port; there is nothing
//! to flood.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use model::PortId;
use pipeline::OfPort;
use rand::RngExt;
use tokio::time::Instant;
use uuid::Uuid;

use super::ra;
use crate::local::{Local, LocalPort};

/// Pairs of a port and a router that are served; ports beyond must ask.
pub const ANNOUNCED_MAX: usize = 16_384;
/// A new or changed advertisement goes out within this time,
const SOON: Duration = Duration::from_millis(500);
/// but not so soon after the last one (MIN_DELAY_BETWEEN_RAS).
const APART: Duration = Duration::from_secs(3);
/// Longest and shortest time between two advertisements.
const LONGEST: Duration = Duration::from_secs(ra::INTERVAL_MAX_SECS as u64);
const SHORTEST: Duration = Duration::from_secs(ra::INTERVAL_MAX_SECS as u64 / 3);

/// A port and a router interface of its network.
type Pair = (PortId, PortId);

/// What a port is told, and when.
#[derive(Clone, Debug)]
struct Plan {
    ofport: OfPort,
    frame: Vec<u8>,
    farewell: Option<Vec<u8>>,
    at: Instant,
    sent: Option<Instant>,
}

/// The advertisements to come.
#[derive(Default, Debug)]
pub struct Announcements {
    /// The ports that the plans are for.
    planned: Local,
    plans: BTreeMap<Pair, Plan>,
    queue: BTreeSet<(Instant, Pair)>,
    farewells: Vec<(OfPort, Vec<u8>)>,
}

impl Announcements {
    /// Plans for the ports that live here now, as far as they are different from those that were planned for. Gives how many that are.
    pub fn refresh(&mut self, local: &Local, now: Instant) -> usize {
        let ports: BTreeSet<PortId> = match self.plans.len() < ANNOUNCED_MAX {
            true => local.differences(&self.planned),
            // There may be room now for ports that there was none for.
            false => local.ports().chain(self.planned.ports()).map(|port| port.port.id).collect(),
        };
        let wanted = wanted(ports.iter().filter_map(|id| local.port(*id)));
        for port in &ports {
            let all = (*port, PortId(Uuid::nil()))..=(*port, PortId(Uuid::max()));
            let gone: Vec<Pair> = self.plans.range(all).map(|(pair, _)| *pair).filter(|pair| !wanted.contains_key(pair)).collect();
            gone.into_iter().for_each(|pair| self.end(pair, local));
        }
        for (pair, (ofport, frame, farewell)) in wanted {
            self.plan(pair, ofport, frame, farewell, now);
        }
        self.planned = local.clone();
        ports.len()
    }

    fn end(&mut self, pair: Pair, local: &Local) {
        let Some(plan) = self.plans.remove(&pair) else { return };
        self.queue.remove(&(plan.at, pair));
        let is_still_there = local.port(pair.0).is_some_and(|port| port.ofport == Some(plan.ofport));
        if let Some(farewell) = plan.farewell.filter(|_| is_still_there && plan.sent.is_some()) {
            self.farewells.push((plan.ofport, farewell));
        }
    }

    fn plan(&mut self, pair: Pair, ofport: OfPort, frame: Vec<u8>, farewell: Option<Vec<u8>>, now: Instant) {
        let old = self.plans.get(&pair);
        if old.is_some_and(|old| old.ofport == ofport && old.frame == frame) {
            return;
        }
        if old.is_none() && self.plans.len() >= ANNOUNCED_MAX {
            return;
        }
        let sent = old.filter(|old| old.ofport == ofport).and_then(|old| old.sent);
        let soon = now + between(Duration::ZERO, SOON);
        let at = sent.map_or(soon, |sent| soon.max(sent + APART));
        if let Some(old) = old {
            self.queue.remove(&(old.at, pair));
        }
        self.queue.insert((at, pair));
        self.plans.insert(pair, Plan { ofport, frame, farewell, at, sent });
    }

    /// When something is due next.
    pub fn next_at(&self) -> Option<Instant> {
        match self.farewells.is_empty() {
            true => self.queue.first().map(|(at, _)| *at),
            false => Some(Instant::now()),
        }
    }

    /// What is due by `now`; its next turn is planned.
    pub fn due(&mut self, now: Instant) -> Vec<(OfPort, Vec<u8>)> {
        let mut due = std::mem::take(&mut self.farewells);
        while let Some((at, pair)) = self.queue.first().copied().filter(|(at, _)| *at <= now) {
            self.queue.remove(&(at, pair));
            if let Some(plan) = self.plans.get_mut(&pair) {
                due.push((plan.ofport, plan.frame.clone()));
                plan.sent = Some(now);
                plan.at = now + between(SHORTEST, LONGEST);
                self.queue.insert((plan.at, pair));
            }
        }
        due
    }
}

fn between(shortest: Duration, longest: Duration) -> Duration {
    rand::rng().random_range(shortest..=longest)
}

type Wanted = BTreeMap<Pair, (OfPort, Vec<u8>, Option<Vec<u8>>)>;

/// Each of the ports that is plugged in, with every router that advertises on its network. A router's advertisement is made once.
fn wanted<'a>(ports: impl Iterator<Item = &'a Arc<LocalPort>>) -> Wanted {
    let mut frames: HashMap<PortId, Option<(Vec<u8>, Option<Vec<u8>>)>> = HashMap::new();
    let mut wanted = Wanted::new();
    for port in ports.filter(|port| port.port.is_admin_up) {
        let Some(ofport) = port.ofport else { continue };
        for interface in ra::announcers(&port.network) {
            let made = || ra::advertisement(&port.network, interface).map(|frame| (frame, ra::farewell(interface)));
            if let Some((frame, farewell)) = frames.entry(interface.id).or_insert_with(made) {
                wanted.insert((port.port.id, interface.id), (ofport, frame.clone(), farewell.clone()));
            }
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_beyond_the_most_are_not_served_until_one_ends() {
        let (mut announcements, now) = (Announcements::default(), Instant::now());
        let pair = |n: usize| (PortId(Uuid::from_u128(n as u128)), PortId(Uuid::nil()));
        let plan = |announcements: &mut Announcements, n: usize| announcements.plan(pair(n), OfPort(1), vec![], None, now);
        (0..ANNOUNCED_MAX + 5).for_each(|n| plan(&mut announcements, n));
        assert_eq!((announcements.plans.len(), announcements.queue.len()), (ANNOUNCED_MAX, ANNOUNCED_MAX));
        announcements.end(pair(0), &Local::default());
        (ANNOUNCED_MAX..ANNOUNCED_MAX + 5).for_each(|n| plan(&mut announcements, n));
        assert!(announcements.plans.len() == ANNOUNCED_MAX && announcements.plans.contains_key(&pair(ANNOUNCED_MAX)));
    }
}
