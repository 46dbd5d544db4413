//! Rate limits: events of a socket, control frames of a session, handshakes of an address.
//!
//! [`Meter`] is hand-written because every socket has one and every event checks it: it takes sixteen bytes and reads
//! no clock. The crate `governor` does not bound the number of keys.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::Mutex;
use shared::limits::IPV6_PREFIX_BITS;

/// Where a session came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The client's address, as trusted proxies forward it.
    pub(crate) address: IpAddr,
    /// The number of the TCP connection that carried the handshake.
    pub(crate) connection: u64,
}

/// The key of the per-address limits. An IPv6 address counts as its network, because a client with one address of a
/// network has all of them.
pub(crate) fn source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let mask = u128::MAX << (u128::BITS - IPV6_PREFIX_BITS);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

/// A rate with a burst (the generic cell rate algorithm).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Time that one unit takes to refill.
    unit: Duration,
    /// How far ahead of the clock a meter may run.
    burst: Duration,
}

impl Rate {
    /// `per_second` in the long run and `burst` at once; `None`, no limit, if `per_second` is 0.
    pub(crate) fn new(per_second: u32, burst: u32) -> Option<Self> {
        let unit = Duration::from_secs(1).checked_div(per_second)?;
        Some(Self { unit, burst: unit * burst })
    }

    /// One per `unit` in the long run and `burst` at once.
    pub(crate) fn every(unit: Duration, burst: u32) -> Self {
        Self { unit, burst: unit * burst }
    }
}

/// How much of its [`Rate`] a source has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Meter {
    /// When everything taken so far has refilled.
    paid_at: Option<Instant>,
}

impl Meter {
    /// Takes one unit; false if none is left.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let paid_at = self.paid_at.map_or(now, |at| at.max(now)) + rate.unit;
        if paid_at.saturating_duration_since(now) > rate.burst {
            return false;
        }
        self.paid_at = Some(paid_at);
        true
    }

    /// Takes `units`, but never more than a burst; false if fewer are left.
    pub(crate) fn take_many(&mut self, rate: Rate, units: u32, now: Instant) -> bool {
        let cost = rate.unit.saturating_mul(units).min(rate.burst);
        let paid_at = self.paid_at.map_or(now, |at| at.max(now)) + cost;
        if paid_at.saturating_duration_since(now) > rate.burst {
            return false;
        }
        self.paid_at = Some(paid_at);
        true
    }

    /// Takes `units` that were already used, even if fewer are left. The debt never exceeds a burst.
    pub(crate) fn charge(&mut self, rate: Rate, units: u32, now: Instant) {
        let cost = rate.unit.saturating_mul(units).min(rate.burst);
        let paid_at = self.paid_at.map_or(now, |at| at.max(now)) + cost;
        self.paid_at = Some(paid_at.min(now + rate.burst));
    }

    /// Whether all of the burst is available.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.paid_at.is_none_or(|at| at <= now)
    }
}

/// A bounded number of meters by key. Beyond the bound, idle meters are dropped, and the remaining keys share one.
#[derive(Debug)]
pub(crate) struct Meters<K: Eq + Hash> {
    rate: Option<Rate>,
    max: usize,
    meters: DashMap<K, Meter>,
    others: Mutex<Meter>,
}

impl<K: Eq + Hash> Meters<K> {
    pub(crate) fn new(rate: Option<Rate>, max: usize) -> Self {
        Self { rate, max, meters: DashMap::new(), others: Mutex::default() }
    }

    /// Takes one unit of `key`; false if none is left.
    pub(crate) fn take(&self, key: K, now: Instant) -> bool {
        self.take_many(key, 1, now)
    }

    /// Takes `units` of `key`, but never more than a burst; false if fewer are left.
    pub(crate) fn take_many(&self, key: K, units: u32, now: Instant) -> bool {
        let Some(rate) = self.rate else { return true };
        if let Some(mut meter) = self.meters.get_mut(&key) {
            return meter.take_many(rate, units, now);
        }
        if self.meters.len() >= self.max {
            self.meters.retain(|_, meter| !meter.is_idle(now));
        }
        if self.meters.len() >= self.max {
            return self.others.lock().take_many(rate, units, now);
        }
        self.meters.entry(key).or_default().take_many(rate, units, now)
    }

    /// Returns one unit of `key` that was taken but not used.
    pub(crate) fn give_back(&self, key: &K) {
        if let (Some(rate), Some(mut meter)) = (self.rate, self.meters.get_mut(key)) {
            meter.paid_at = meter.paid_at.and_then(|at| at.checked_sub(rate.unit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let rate = Rate::new(10, 40).unwrap();
        let (mut meter, start) = (Meter::default(), Instant::now());
        assert_eq!((0..100).filter(|_| meter.take(rate, start)).count(), 40);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| meter.take(rate, later)).count(), 10);
        assert!(Rate::new(0, 0).is_none());
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let source = |text: &str| source(text.parse().unwrap()).to_string();
        assert_eq!(source("2001:db8:1:2:ffff::1"), "2001:db8:1:2::");
        assert_eq!(source("2001:db8:1:2::"), "2001:db8:1:2::");
        assert_eq!(source("2001:db8:1:3::1"), "2001:db8:1:3::");
        assert_eq!(source("192.0.2.7"), "192.0.2.7");
    }

    #[test]
    fn more_keys_than_the_bound_share_one_meter() {
        let meters = Meters::new(Rate::new(1, 2), 2);
        let now = Instant::now();
        assert!(meters.take("a", now) && meters.take("b", now));
        assert!(meters.take("c", now) && meters.take("d", now));
        assert!(!meters.take("e", now));
        // Idle meters make room.
        assert!(meters.take("e", now + Duration::from_secs(60)));
    }
}
