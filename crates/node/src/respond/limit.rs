//! No port may keep the node busy: a token bucket per port and kind of question.
//!
//! The buckets are bounded too. When there are too many, those that have filled up again are forgotten, which changes nothing;
//! if none has, questions of ports without a bucket are dropped until one has. Senders elsewhere, whom only a MAC that they chose
//! tells apart, have buckets of their own: they take none from the ports that live here. What all ports together ask is limited
//! as well, by kind, so that none takes the node from another.

use std::hash::Hash;
use std::time::Duration;

use pipeline::Punt;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

/// Buckets of ports that are kept; questions of a port that finds none are dropped.
pub const BUCKETS_MAX: usize = 16_384;
/// Buckets of senders on other nodes that are kept; packets of a sender that finds none get no answer.
pub const ELSEWHERE_MAX: usize = 4_096;
/// How many ports' worth of one kind of question is answered; the rest is dropped.
pub const PORTS_AT_ONCE: u32 = 200;
/// The bit that an asker's number has who is on another node.
pub const ELSEWHERE: u64 = 1 << 63;

/// DHCPv4 messages of one port that are answered, and as many of DHCPv6; the others are dropped. A machine that boots sends four or five.
pub const DHCP_PER_SECOND: u32 = 10;
/// Router solicitations of one port that are answered; the others are dropped. A machine that boots sends three (RFC 4861, 10).
pub const SOLICITATIONS_PER_SECOND: u32 = 5;
/// ICMP errors that one sender gets; beyond that it is told nothing. Enough for traceroute.
pub const ERRORS_PER_SECOND: u32 = 50;
/// Refused connections of one client that are told so at once; the others time out.
pub const REFUSALS_PER_SECOND: u32 = 100;

/// What may be asked how often.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Dhcp,
    Dhcpv6,
    RouterSolicitation,
    /// ICMP errors about packets on their way.
    Error,
    /// Refused connections.
    Refusal,
}

impl Kind {
    pub fn of(punt: Punt) -> Kind {
        match punt {
            Punt::Dhcp => Kind::Dhcp,
            Punt::Dhcpv6 => Kind::Dhcpv6,
            Punt::RouterSolicitation => Kind::RouterSolicitation,
            Punt::TimeExceeded | Punt::NoRoute | Punt::NoHost => Kind::Error,
            Punt::Refused => Kind::Refusal,
        }
    }

    /// Answers per second.
    pub const fn rate(self) -> u32 {
        match self {
            Kind::Dhcp | Kind::Dhcpv6 => DHCP_PER_SECOND,
            Kind::RouterSolicitation => SOLICITATIONS_PER_SECOND,
            Kind::Error => ERRORS_PER_SECOND,
            Kind::Refusal => REFUSALS_PER_SECOND,
        }
    }

    /// Answers at once, after a silence.
    pub const fn burst(self) -> u32 {
        2 * self.rate()
    }
}

/// The buckets of all ports. Kept as the time at which a bucket is full again (the generic cell rate algorithm).
#[derive(Debug)]
pub struct Limits {
    here: Buckets<(u64, Kind)>,
    elsewhere: Buckets<(u64, Kind)>,
    totals: Buckets<Kind>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { here: Buckets::new(BUCKETS_MAX), elsewhere: Buckets::new(ELSEWHERE_MAX), totals: Buckets::new(BUCKETS_MAX) }
    }
}

impl Limits {
    /// Whether the asker (a port's key, or a number with [`ELSEWHERE`]) may be answered now; if so, that is counted.
    pub fn admit(&mut self, asker: u64, kind: Kind, now: Instant) -> bool {
        let own = if asker & ELSEWHERE == 0 { &mut self.here } else { &mut self.elsewhere };
        own.admit((asker, kind), kind.rate(), kind.burst(), now)
            && self.totals.admit(kind, kind.rate() * PORTS_AT_ONCE, kind.burst() * PORTS_AT_ONCE, now)
    }
}

#[derive(Debug)]
struct Buckets<K> {
    full_at: FxHashMap<K, Instant>,
    most: usize,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(most: usize) -> Buckets<K> {
        Buckets { full_at: FxHashMap::default(), most }
    }

    fn admit(&mut self, key: K, rate: u32, burst: u32, now: Instant) -> bool {
        if !self.full_at.contains_key(&key) && !self.make_room(now) {
            return false;
        }
        let period = Duration::from_secs(1) / rate;
        let full_at = self.full_at.entry(key).or_insert(now);
        let next = (*full_at).max(now) + period;
        let is_admitted = next <= now + period * burst;
        if is_admitted {
            *full_at = next;
        }
        is_admitted
    }

    fn make_room(&mut self, now: Instant) -> bool {
        if self.full_at.len() >= self.most {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        self.full_at.len() < self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(limits: &mut Limits, port: u64, asks: u32, now: Instant) -> u32 {
        (0..asks).map(|_| u32::from(limits.admit(port, Kind::Dhcp, now))).sum()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        assert_eq!(admitted(&mut limits, 1, 1000, now), 20);
        assert_eq!(admitted(&mut limits, 1, 1000, now + Duration::from_secs(1)), 10);
        assert_eq!(admitted(&mut limits, 1, 1000, now + Duration::from_secs(60)), 20);
    }

    #[test]
    fn each_kind_of_question_has_its_rate() {
        for (kind, rate) in [
            (Kind::Dhcp, DHCP_PER_SECOND),
            (Kind::Dhcpv6, DHCP_PER_SECOND),
            (Kind::RouterSolicitation, SOLICITATIONS_PER_SECOND),
            (Kind::Error, ERRORS_PER_SECOND),
            (Kind::Refusal, REFUSALS_PER_SECOND),
        ] {
            let (mut limits, now) = (Limits::default(), Instant::now());
            let mut admitted = |at: Instant| (0..1000).filter(|_| limits.admit(1, kind, at)).count() as u32;
            assert_eq!(admitted(now), 2 * rate, "{kind:?} after a silence");
            assert_eq!(admitted(now + Duration::from_secs(1)), rate, "{kind:?}");
        }
    }

    #[test]
    fn ports_that_find_no_bucket_wait_until_one_has_filled_up() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        for port in 0..2 * BUCKETS_MAX as u64 {
            limits.admit(port, Kind::RouterSolicitation, now);
        }
        assert_eq!(limits.here.full_at.len(), BUCKETS_MAX);
        let late = 2 * BUCKETS_MAX as u64;
        assert!(!limits.admit(late, Kind::Dhcp, now) && limits.admit(late, Kind::Dhcp, now + Duration::from_secs(10)));
    }

    #[test]
    fn one_port_takes_nothing_from_another_and_one_kind_nothing_from_another() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        admitted(&mut limits, 1, 1000, now);
        assert_eq!(admitted(&mut limits, 2, 1000, now), 20);
        assert!(limits.admit(1, Kind::Error, now));
    }

    #[test]
    fn buckets_are_bounded_and_full_ones_are_forgotten() {
        let (mut buckets, now) = (Buckets::new(100), Instant::now());
        assert!((0..100).all(|port| buckets.admit(port, 10, 20, now)));
        assert!(!buckets.admit(100, 10, 20, now));
        assert!(buckets.admit(0, 10, 20, now));
        assert!(buckets.admit(100, 10, 20, now + Duration::from_secs(2)));
        assert!(buckets.full_at.len() <= 100);
    }

    #[test]
    fn senders_elsewhere_with_many_macs_take_no_bucket_from_ports_here() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let admitted = (0..1 << 16).filter(|mac| limits.admit(ELSEWHERE | mac, Kind::Error, now)).count();
        assert_eq!(admitted, ELSEWHERE_MAX);
        assert!(limits.admit(1, Kind::Error, now));
    }

    #[test]
    fn all_ports_together_are_limited_by_kind() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let admitted: u32 = (0..10_000).map(|port| admitted(&mut limits, port, 20, now)).sum();
        assert_eq!(admitted, Kind::Dhcp.burst() * PORTS_AT_ONCE);
        assert!(limits.admit(1, Kind::RouterSolicitation, now), "one kind takes nothing from another");
    }
}
