//! Rates: events of a socket, control frames of a session, handshakes and failed logins of an address.
//!
//! [`Meter`] is our own because one lies in every socket and is asked at every event: eight bytes and no
//! clock of its own.

use std::collections::VecDeque;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::Mutex;
use shared::limits::IPV6_PREFIX_BITS;

/// Where a session comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The client's address, by way of trusted proxies.
    pub(crate) address: IpAddr,
    /// The number of the TCP connection that its handshake came on.
    pub(crate) connection: u64,
}

/// What the per-address limits count as one address: of IPv6 the network, since who has one address of it
/// has all.
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
    /// Time that one unit takes.
    unit: Duration,
    /// How far ahead of the clock a meter may run.
    burst: Duration,
}

impl Rate {
    /// `per_second` for long and `burst` at once; `None` when `per_second` is 0: no limit.
    pub(crate) fn new(per_second: u32, burst: u32) -> Option<Self> {
        let unit = Duration::from_secs(1).checked_div(per_second)?;
        Some(Self { unit, burst: unit * burst })
    }
}

impl Rate {
    /// One in every `unit` for long and `burst` at once.
    pub(crate) fn every(unit: Duration, burst: u32) -> Option<Self> {
        Some(Self { unit, burst: unit * burst })
    }
}

/// How far one source has used up its [`Rate`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Meter {
    /// When everything taken so far is paid for.
    paid_at: Option<Instant>,
}

impl Meter {
    /// Takes one unit; false when there is none.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let paid_at = self.paid_at.map_or(now, |at| at.max(now)) + rate.unit;
        if paid_at.saturating_duration_since(now) > rate.burst {
            return false;
        }
        self.paid_at = Some(paid_at);
        true
    }

    /// Whether nothing of it is used.
    fn is_idle(&self, now: Instant) -> bool {
        self.paid_at.is_none_or(|at| at <= now)
    }
}

/// Meters by key, a bounded number of them: when there are more keys than that, idle ones are forgotten,
/// and the rest share one.
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

    /// Takes one unit of `key`; false when there is none.
    pub(crate) fn take(&self, key: K, now: Instant) -> bool {
        let Some(rate) = self.rate else { return true };
        if let Some(mut meter) = self.meters.get_mut(&key) {
            return meter.take(rate, now);
        }
        if self.meters.len() >= self.max {
            self.meters.retain(|_, meter| !meter.is_idle(now));
        }
        if self.meters.len() >= self.max {
            return self.others.lock().take(rate, now);
        }
        self.meters.entry(key).or_default().take(rate, now)
    }
}

/// Failures by key within a minute: for logins, where only failures count.
#[derive(Debug)]
pub(crate) struct Failures {
    max_per_minute: usize,
    max_keys: usize,
    failures: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    by_key: std::collections::HashMap<String, usize>,
    in_order: VecDeque<(Instant, String)>,
}

/// How long a failure counts.
const WINDOW: Duration = Duration::from_mins(1);

impl Failures {
    pub(crate) fn new(max_per_minute: u32, max_keys: usize) -> Self {
        Self { max_per_minute: max_per_minute as usize, max_keys, failures: Mutex::default() }
    }

    /// Seconds until `key` may try again; `None` when it may now.
    pub(crate) fn blocked(&self, key: &str, now: Instant) -> Option<u64> {
        let mut recent = self.failures.lock();
        recent.forget(now);
        if recent.by_key.get(key).is_none_or(|count| *count < self.max_per_minute) {
            return None;
        }
        let oldest = recent.in_order.iter().find(|(_, other)| other == key).map(|(at, _)| *at)?;
        Some((oldest + WINDOW).saturating_duration_since(now).as_secs() + 1)
    }

    /// Counts a failure of `key`.
    pub(crate) fn add(&self, key: String, now: Instant) {
        let mut recent = self.failures.lock();
        recent.forget(now);
        while recent.in_order.len() >= self.max_keys {
            recent.forget_first();
        }
        *recent.by_key.entry(key.clone()).or_default() += 1;
        recent.in_order.push_back((now, key));
    }
}

impl Recent {
    fn forget(&mut self, now: Instant) {
        while self.in_order.front().is_some_and(|(at, _)| *at + WINDOW <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((_, key)) = self.in_order.pop_front() else { return };
        if let Some(count) = self.by_key.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.by_key.remove(&key);
            }
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
        // Idle ones make room.
        assert!(meters.take("e", now + Duration::from_secs(60)));
    }

    #[test]
    fn failures_block_a_key_for_the_rest_of_a_minute() {
        let failures = Failures::new(2, 100);
        let now = Instant::now();
        failures.add("a".into(), now);
        assert_eq!(failures.blocked("a", now), None);
        failures.add("a".into(), now + Duration::from_secs(30));
        assert_eq!(failures.blocked("a", now + Duration::from_secs(30)), Some(31));
        assert_eq!(failures.blocked("b", now + Duration::from_secs(30)), None);
        assert_eq!(failures.blocked("a", now + Duration::from_secs(61)), None);
    }

    #[test]
    fn remembered_failures_are_bounded() {
        let failures = Failures::new(1, 3);
        let now = Instant::now();
        for key in ["a", "b", "c", "d"] {
            failures.add(key.into(), now);
        }
        assert_eq!(failures.blocked("a", now), None);
        assert!(failures.blocked("d", now).is_some());
    }
}
