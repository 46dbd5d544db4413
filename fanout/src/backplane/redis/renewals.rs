//! Remembers when this node renewed the lifetimes of rooms' keys, because not every broadcast has to.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shared::expiring::ExpiringMap;
use shared::limits::{STREAM_RENEWALS_MAX, STREAM_RENEWED_S};

const EVERY: Duration = Duration::from_secs(STREAM_RENEWED_S);

/// The rooms whose lifetimes this node has lately renewed, by a key of each.
#[derive(Debug)]
pub(super) struct Renewals {
    lately: Mutex<ExpiringMap<Box<str>, ()>>,
}

impl Default for Renewals {
    fn default() -> Self {
        Self::new(STREAM_RENEWALS_MAX)
    }
}

impl Renewals {
    /// Remembers at most `max` rooms.
    fn new(max: usize) -> Self {
        Self { lately: Mutex::new(ExpiringMap::new(max)) }
    }

    /// Whether the lifetimes of the room with this key must be renewed `now`; if so, they count as renewed. For a room that
    /// cannot be remembered they must be renewed each time.
    pub(super) fn is_due(&self, key: &str, now: Instant) -> bool {
        let mut lately = self.lately.lock();
        if lately.get(key, now).is_some() {
            return false;
        }
        let _ = lately.insert(key.into(), (), now + EVERY, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_renewed_once_in_a_while() {
        let (renewals, start) = (Renewals::default(), Instant::now());
        for round in 0..3 {
            let now = start + EVERY * round;
            assert!(renewals.is_due("a", now) && renewals.is_due("b", now));
            assert!(!renewals.is_due("a", now) && !renewals.is_due("b", now + EVERY / 2));
        }
    }

    #[test]
    fn a_room_that_cannot_be_remembered_is_renewed_each_time() {
        let (renewals, now) = (Renewals::new(1), Instant::now());
        assert!(renewals.is_due("a", now));
        assert!(renewals.is_due("b", now) && renewals.is_due("b", now));
        assert!(!renewals.is_due("a", now));
    }
}
