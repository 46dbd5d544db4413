//! Live state of a single node.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use shared::expiring::{ExpiringMap, Full};
use shared::limits::LIVE_ENTRIES_MAX;
use tokio::time::Instant;

use crate::error::FanoutError;
use crate::geo::{Near, Place};

/// All state; each lock is held only briefly.
#[derive(Debug)]
pub(crate) struct LiveMemory {
    values: Mutex<ExpiringMap<String, String>>,
    timers: Mutex<HashMap<(String, String), Instant>>,
    places: Mutex<HashMap<String, ExpiringMap<String, Place>>>,
}

impl Default for LiveMemory {
    fn default() -> Self {
        let values = Mutex::new(ExpiringMap::new(LIVE_ENTRIES_MAX));
        Self { values, timers: Mutex::default(), places: Mutex::default() }
    }
}

impl From<Full> for FanoutError {
    fn from(_: Full) -> Self {
        Self::Unavailable
    }
}

impl LiveMemory {
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        self.values.lock().get(key, Instant::now().into_std()).cloned()
    }

    pub(crate) fn swap(
        &self,
        key: &str,
        old: Option<&str>,
        new: Option<&str>,
        kept: Duration,
    ) -> Result<bool, FanoutError> {
        let (mut values, now) = (self.values.lock(), Instant::now().into_std());
        if values.get(key, now).map(String::as_str) != old {
            return Ok(false);
        }
        match new {
            None => drop(values.remove(key, now)),
            Some(new) => values.insert(key.to_owned(), new.to_owned(), now + kept, now)?,
        }
        Ok(true)
    }

    pub(crate) fn schedule(&self, timers: &str, id: &str, after: Duration) -> Result<(), FanoutError> {
        let mut all = self.timers.lock();
        if all.len() >= LIVE_ENTRIES_MAX {
            return Err(FanoutError::Unavailable);
        }
        all.insert((timers.to_owned(), id.to_owned()), Instant::now() + after);
        Ok(())
    }

    pub(crate) fn cancel(&self, timers: &str, id: &str) {
        self.timers.lock().remove(&(timers.to_owned(), id.to_owned()));
    }

    pub(crate) fn due(&self, timers: &str, limit: usize, again: Duration) -> Vec<String> {
        let (mut all, now) = (self.timers.lock(), Instant::now());
        let due = all.iter_mut().filter(|((of, _), at)| of == timers && **at <= now).take(limit);
        due.map(|((_, id), at)| {
            *at = now + again;
            id.clone()
        })
        .collect()
    }

    pub(crate) fn put(
        &self,
        map: &str,
        id: &str,
        place: Place,
        good_for: Duration,
    ) -> Result<(), FanoutError> {
        let (mut maps, now) = (self.places.lock(), Instant::now().into_std());
        let places = maps.entry(map.to_owned()).or_insert_with(|| ExpiringMap::new(LIVE_ENTRIES_MAX));
        Ok(places.insert(id.to_owned(), place, now + good_for, now)?)
    }

    pub(crate) fn forget(&self, map: &str, id: &str) {
        if let Some(places) = self.places.lock().get_mut(map) {
            places.remove(id, Instant::now().into_std());
        }
    }

    /// Every known place, without distances.
    pub(crate) fn all(&self, map: &str) -> Vec<Near> {
        let maps = self.places.lock();
        let Some(places) = maps.get(map) else { return Vec::new() };
        let current = places.iter(Instant::now().into_std());
        current.map(|(id, place)| Near { id: id.clone(), place: *place, metres: 0.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_value_is_swapped_for_the_one_read_and_expires() {
        let memory = LiveMemory::default();
        assert_eq!(memory.swap("k", Some("a"), Some("b"), SECOND), Ok(false));
        assert_eq!(memory.swap("k", None, Some("b"), SECOND), Ok(true));
        assert_eq!(memory.get("k").as_deref(), Some("b"));
        tokio::time::advance(SECOND).await;
        assert_eq!(memory.get("k"), None);
        assert_eq!(memory.swap("k", None, Some("c"), SECOND), Ok(true));
        assert_eq!(memory.swap("k", Some("c"), None, SECOND), Ok(true));
        assert_eq!(memory.get("k"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_fires_until_it_is_cancelled() {
        let memory = LiveMemory::default();
        memory.schedule("t", "a", SECOND).unwrap();
        memory.schedule("other", "b", SECOND).unwrap();
        assert!(memory.due("t", 9, SECOND).is_empty());
        tokio::time::advance(SECOND).await;
        assert_eq!(memory.due("t", 9, SECOND), ["a"]);
        assert!(memory.due("t", 9, SECOND).is_empty());
        tokio::time::advance(SECOND).await;
        assert_eq!(memory.due("t", 9, SECOND), ["a"]);
        memory.cancel("t", "a");
        tokio::time::advance(SECOND).await;
        assert!(memory.due("t", 9, SECOND).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_expires() {
        let memory = LiveMemory::default();
        memory.put("m", "a", Place { latitude: 1.0, longitude: 2.0 }, SECOND).unwrap();
        assert_eq!(memory.all("m").len(), 1);
        assert!(memory.all("other").is_empty());
        tokio::time::advance(SECOND).await;
        assert!(memory.all("m").is_empty());
    }
}
