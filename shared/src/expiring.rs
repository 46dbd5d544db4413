//! A bounded map whose entries expire.
//!
//! It has no clock: every call takes the current instant. Expired entries are never returned; they are removed when the map is
//! full, at most once in [`PAUSE`]. A map full of unexpired entries refuses new keys, so that no client can evict entries that
//! others still need.
//! others still need.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Minimum time between searches of a full map for expired entries: one takes milliseconds with a million entries.
const PAUSE: Duration = Duration::from_secs(1);

/// At most `max` entries, each with its own expiry.
#[derive(Debug)]
pub struct ExpiringMap<K, V> {
    max: usize,
    entries: HashMap<K, Entry<V>>,
    /// No entry expires before this. Keeps a full map from being searched for expired entries at every call.
    earliest: Option<Instant>,
    /// When a full map may be searched again.
    next_search: Option<Instant>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    expires: Instant,
}

/// The map is full of entries that have not expired; the new one was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl<K: Eq + Hash, V> ExpiringMap<K, V> {
    /// An empty map of at most `max` entries.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, entries: HashMap::new(), earliest: None, next_search: None }
    }

    /// The value of a key, unless it has expired.
    #[must_use]
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q, now: Instant) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).filter(|entry| entry.expires > now).map(|entry| &entry.value)
    }

    /// The value of a key, unless it has expired, to be changed in place. Its expiry stays as it is.
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, now: Instant) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.entries.get_mut(key).filter(|entry| entry.expires > now).map(|entry| &mut entry.value)
    }

    /// Sets the value of a key until `expires`, replacing an existing one.
    ///
    /// # Errors
    /// [`Full`], where the key is new.
    pub fn insert(&mut self, key: K, value: V, expires: Instant, now: Instant) -> Result<(), Full> {
        if self.entries.len() >= self.max && !self.entries.contains_key(&key) {
            self.remove_expired(now);
            if self.entries.len() >= self.max {
                return Err(Full);
            }
        }
        self.earliest = Some(self.earliest.map_or(expires, |earliest| earliest.min(expires)));
        self.entries.insert(key, Entry { value, expires });
        Ok(())
    }

    /// Removes a key. Returns its value, unless it had expired.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, now: Instant) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.entries.remove(key).filter(|entry| entry.expires > now).map(|entry| entry.value)
    }

    /// All entries that have not expired, in no order.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = (&K, &V)> {
        let current = self.entries.iter().filter(move |(_, entry)| entry.expires > now);
        current.map(|(key, entry)| (key, &entry.value))
    }

    fn remove_expired(&mut self, now: Instant) {
        if self.earliest.is_some_and(|earliest| earliest > now) || self.next_search.is_some_and(|at| at > now)
        {
            return;
        }
        self.next_search = Some(now + PAUSE);
        self.entries.retain(|_, entry| entry.expires > now);
        self.earliest = self.entries.values().map(|entry| entry.expires).min();
    }
}
