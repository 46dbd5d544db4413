//! Log lines that clients or other servers can cause: each kind at most once a minute.
//!
//! Clients decide how often a token or an origin is refused, and servers how often a message cannot be read, so a line for
//! each would fill the log. The first line of a kind is logged at once. The next one is logged after a minute, with the
//! number of those left out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The shortest time between two lines of one kind.
const PAUSE: Duration = Duration::from_secs(60);

/// When each kind was last logged. `K` names the kind and must have few values: all of them are remembered.
#[derive(Debug)]
pub struct RateLimitedLog<K>(Mutex<BTreeMap<K, Logged>>);

#[derive(Debug)]
struct Logged {
    at: Instant,
    /// How many were left out since.
    left_out: u64,
}

impl<K: Ord> Default for RateLimitedLog<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord> RateLimitedLog<K> {
    /// A log without lines.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Counts a line of this kind. `Some` where it must be logged: the number left out since the last one.
    pub fn due(&self, kind: K, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock();
        match kinds.get_mut(&kind) {
            Some(logged) if now.saturating_duration_since(logged.at) < PAUSE => {
                logged.left_out = logged.left_out.saturating_add(1);
                None
            }
            Some(logged) => {
                let left_out = logged.left_out;
                *logged = Logged { at: now, left_out: 0 };
                Some(left_out)
            }
            None => {
                kinds.insert(kind, Logged { at: now, left_out: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_logged_once_a_minute_with_the_number_of_those_left_out() {
        let (seldom, start) = (RateLimitedLog::new(), Instant::now());
        assert_eq!(seldom.due("expired", start), Some(0));
        for second in 1..60 {
            assert_eq!(seldom.due("expired", start + Duration::from_secs(second)), None);
        }
        assert_eq!(seldom.due("signature", start), Some(0), "another kind has its own minute");
        assert_eq!(seldom.due("expired", start + PAUSE), Some(59));
        assert_eq!(seldom.due("expired", start + PAUSE * 2), Some(0));
    }
}
