//! Idempotency keys of a single node.

use ahash::RandomState;
use parking_lot::Mutex;
use shared::expiring::ExpiringMap;
use shared::limits::{IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_S};
use tokio::time::{Duration, Instant};

use crate::error::FanoutError;

const KEPT: Duration = Duration::from_secs(IDEMPOTENCY_S);

/// Recently used keys. Stored as hashes, since every event that an app sends once has a key.
#[derive(Debug)]
pub(super) struct Keys {
    hashers: [RandomState; 2],
    /// Broadcasts that were sent.
    broadcasts: Mutex<ExpiringMap<Print, ()>>,
    /// The first request of each key of a backend.
    claims: Mutex<ExpiringMap<Print, Print>>,
}

/// 128 bits of a text, so that no two texts collide.
type Print = [u64; 2];

impl Default for Keys {
    fn default() -> Self {
        Self::new(IDEMPOTENCY_KEYS_MAX)
    }
}

impl Keys {
    /// At most `max` keys of each kind.
    fn new(max: usize) -> Self {
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            broadcasts: Mutex::new(ExpiringMap::new(max)),
            claims: Mutex::new(ExpiringMap::new(max)),
        }
    }

    fn print(&self, text: impl std::hash::Hash) -> Print {
        self.hashers.each_ref().map(|hasher| hasher.hash_one(&text))
    }

    /// Notes a broadcast to `room` under `key`. Returns whether it is the first one. When too many keys are remembered, a new
    /// key is not: a repeated broadcast does less harm than a missing alert.
    pub(super) fn is_first(&self, room: (&str, &str), key: &str) -> bool {
        let (print, now) = (self.print((room, key)), Instant::now().into_std());
        let mut broadcasts = self.broadcasts.lock();
        if broadcasts.get(&print, now).is_some() {
            return false;
        }
        if broadcasts.insert(print, (), now + KEPT, now).is_err() {
            tracing::debug!(key, "cannot remember another idempotency key");
        }
        true
    }

    /// Whether `key` stands for `request`. A key stands for the first request that uses it.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`] when too many keys are remembered.
    pub(super) fn claim(&self, key: &str, request: &str) -> Result<bool, FanoutError> {
        let (key, request, now) = (self.print(key), self.print(request), Instant::now().into_std());
        let mut claims = self.claims.lock();
        if let Some(before) = claims.get(&key, now) {
            return Ok(*before == request);
        }
        claims.insert(key, request, now + KEPT, now)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_broadcast_under_a_key_is_made_once_while_the_key_is_kept() {
        let (keys, room) = (Keys::default(), ("/", "a"));
        assert!(keys.is_first(room, "k"));
        assert!(!keys.is_first(room, "k"));
        assert!(keys.is_first(("/", "b"), "k"), "another room");
        assert!(keys.is_first(room, "other"));
        tokio::time::advance(KEPT).await;
        assert!(keys.is_first(room, "k"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_stands_for_one_request_while_it_is_kept() {
        let keys = Keys::default();
        assert_eq!(keys.claim("k", "a"), Ok(true));
        assert_eq!(keys.claim("k", "a"), Ok(true));
        assert_eq!(keys.claim("k", "b"), Ok(false));
        assert_eq!(keys.claim("other", "b"), Ok(true));
        tokio::time::advance(KEPT).await;
        assert_eq!(keys.claim("k", "b"), Ok(true));
    }

    #[test]
    fn a_request_whose_key_cannot_be_remembered_is_refused() {
        let keys = Keys::new(1);
        assert_eq!(keys.claim("k", "a"), Ok(true));
        assert_eq!(keys.claim("other", "a"), Err(FanoutError::Unavailable));
        assert_eq!(keys.claim("k", "a"), Ok(true));
    }

    #[test]
    fn no_key_is_forgotten_for_another_one() {
        let keys = Keys::new(10);
        for key in 0..10 {
            assert!(keys.is_first(("/", ""), &key.to_string()));
        }
        assert!(keys.is_first(("/", ""), "one more"));
        assert!(keys.is_first(("/", ""), "one more"), "it is not remembered");
        assert!(!keys.is_first(("/", ""), "7"));
    }
}
