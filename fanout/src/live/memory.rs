//! Live state of a node alone.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use shared::limits::LIVE_ENTRIES_MAX;
use tokio::time::Instant;

use super::{Near, Place};
use crate::error::FanoutError;

/// Everything, under one lock that is held for no longer than a look.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    values: Mutex<HashMap<String, (Instant, String)>>,
    timers: Mutex<HashMap<(String, String), Instant>>,
    places: Mutex<HashMap<String, Map>>,
}

/// Who is where, and until when that is good.
type Map = HashMap<String, (Instant, Place)>;

/// Makes room for one more, of those whose time is over.
fn make_room<K, V>(map: &mut HashMap<K, V>, is_over: impl Fn(&V) -> bool) -> Result<(), FanoutError> {
    if map.len() >= LIVE_ENTRIES_MAX {
        map.retain(|_, value| !is_over(value));
    }
    if map.len() >= LIVE_ENTRIES_MAX { Err(FanoutError::Unavailable) } else { Ok(()) }
}

impl Memory {
    pub(super) fn get(&self, key: &str) -> Option<String> {
        let values = self.values.lock();
        values.get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, value)| value.clone())
    }

    pub(super) fn swap(
        &self,
        key: &str,
        old: Option<&str>,
        new: Option<&str>,
        kept: Duration,
    ) -> Result<bool, FanoutError> {
        let (mut values, now) = (self.values.lock(), Instant::now());
        let there = values.get(key).filter(|(until, _)| *until > now).map(|(_, value)| value.as_str());
        if there != old {
            return Ok(false);
        }
        match new {
            None => {
                values.remove(key);
            }
            Some(new) => {
                make_room(&mut values, |(until, _)| *until <= now)?;
                values.insert(key.to_owned(), (now + kept, new.to_owned()));
            }
        }
        Ok(true)
    }

    pub(super) fn schedule(&self, timers: &str, id: &str, after: Duration) -> Result<(), FanoutError> {
        let mut all = self.timers.lock();
        make_room(&mut all, |_| false)?;
        all.insert((timers.to_owned(), id.to_owned()), Instant::now() + after);
        Ok(())
    }

    pub(super) fn cancel(&self, timers: &str, id: &str) {
        self.timers.lock().remove(&(timers.to_owned(), id.to_owned()));
    }

    pub(super) fn due(&self, timers: &str, limit: usize, again: Duration) -> Vec<String> {
        let (mut all, now) = (self.timers.lock(), Instant::now());
        let due = all.iter_mut().filter(|((of, _), at)| of == timers && **at <= now).take(limit);
        due.map(|((_, id), at)| {
            *at = now + again;
            id.clone()
        })
        .collect()
    }

    pub(super) fn put(
        &self,
        map: &str,
        id: &str,
        place: Place,
        good_for: Duration,
    ) -> Result<(), FanoutError> {
        let (mut maps, now) = (self.places.lock(), Instant::now());
        let places = maps.entry(map.to_owned()).or_default();
        make_room(places, |(until, _)| *until <= now)?;
        places.insert(id.to_owned(), (now + good_for, place));
        Ok(())
    }

    pub(super) fn forget(&self, map: &str, id: &str) {
        if let Some(places) = self.places.lock().get_mut(map) {
            places.remove(id);
        }
    }

    /// Everybody whose place is known, at no distance yet.
    pub(super) fn all(&self, map: &str) -> Vec<Near> {
        let (maps, now) = (self.places.lock(), Instant::now());
        let Some(places) = maps.get(map) else { return Vec::new() };
        let current = places.iter().filter(|(_, (until, _))| *until > now);
        current.map(|(id, (_, place))| Near { id: id.clone(), place: *place, metres: 0.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_value_is_swapped_for_what_was_read_and_lives_its_time() {
        let memory = Memory::default();
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
    async fn a_timer_goes_off_until_it_is_cancelled() {
        let memory = Memory::default();
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
    async fn a_place_is_good_for_a_while() {
        let memory = Memory::default();
        memory.put("m", "a", Place { latitude: 1.0, longitude: 2.0 }, SECOND).unwrap();
        assert_eq!(memory.all("m").len(), 1);
        assert!(memory.all("other").is_empty());
        tokio::time::advance(SECOND).await;
        assert!(memory.all("m").is_empty());
    }
}
