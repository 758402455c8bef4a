//! No port may keep the node busy: a token bucket per port and kind of question.
//!
//! The buckets are bounded too. When there are too many, those that have filled up again are forgotten, which changes nothing;
//! if none has, questions of ports without a bucket are dropped until one has.

use std::time::Duration;

use pipeline::Punt;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

/// Buckets that are kept.
pub const BUCKETS_MAX: usize = 16_384;

/// What may be asked how often.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// DHCPv4: 10 a second; a machine that boots sends four or five messages.
    Dhcp,
    /// DHCPv6: 10 a second.
    Dhcpv6,
    /// Router solicitations: 5 a second; a machine that boots sends three (RFC 4861, 10).
    RouterSolicitation,
    /// ICMP errors about packets on their way: 50 a second, enough for traceroute.
    Error,
    /// Refused connections: 100 a second, so that clients of a Service without members hear it at once.
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
            Kind::Dhcp | Kind::Dhcpv6 => 10,
            Kind::RouterSolicitation => 5,
            Kind::Error => 50,
            Kind::Refusal => 100,
        }
    }

    /// Answers at once, after a silence.
    pub const fn burst(self) -> u32 {
        2 * self.rate()
    }

    /// Time for one more answer.
    fn period(self) -> Duration {
        Duration::from_secs(1) / self.rate()
    }
}

/// The buckets of all ports. Kept as the time at which a bucket is full again (the generic cell rate algorithm).
#[derive(Default, Debug)]
pub struct Limits {
    full_at: FxHashMap<(u64, Kind), Instant>,
}

impl Limits {
    /// Whether the asker (a port's key, or a number above them) may be answered now; if so, that is counted.
    pub fn admit(&mut self, port: u64, kind: Kind, now: Instant) -> bool {
        if !self.full_at.contains_key(&(port, kind)) && !self.make_room(now) {
            return false;
        }
        let full_at = self.full_at.entry((port, kind)).or_insert(now);
        let next = (*full_at).max(now) + kind.period();
        let is_admitted = next <= now + kind.period() * kind.burst();
        if is_admitted {
            *full_at = next;
        }
        is_admitted
    }

    fn make_room(&mut self, now: Instant) -> bool {
        if self.full_at.len() >= BUCKETS_MAX {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        self.full_at.len() < BUCKETS_MAX
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
    fn one_port_takes_nothing_from_another_and_one_kind_nothing_from_another() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        admitted(&mut limits, 1, 1000, now);
        assert_eq!(admitted(&mut limits, 2, 1000, now), 20);
        assert!(limits.admit(1, Kind::Error, now));
    }

    #[test]
    fn buckets_are_bounded_and_full_ones_are_forgotten() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let asked = u64::try_from(BUCKETS_MAX).unwrap();
        assert!((0..asked).all(|port| limits.admit(port, Kind::Dhcp, now)));
        assert!(!limits.admit(asked, Kind::Dhcp, now));
        assert!(limits.admit(0, Kind::Dhcp, now));
        assert!(limits.admit(asked, Kind::Dhcp, now + Duration::from_secs(2)));
        assert!(limits.full_at.len() <= BUCKETS_MAX);
    }
}
