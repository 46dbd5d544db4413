//! Departures that are held back: users whose last socket in a room was lost and who may return, and departures that could
//! not be written while Redis was away.
//!
//! All departures of a kind wait equally long, so they leave the queue about in the order they entered it, and one task
//! serves them all. Over the bound the longest wait ends at once, so that strangers cannot make the queue grow further.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ahash::RandomState;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A departure that is held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) room: String,
    pub(crate) user: String,
    pub(crate) info: String,
    /// The incarnation whose entry lingers in the store; empty for a departure that the store does not know.
    pub(crate) incarnation: String,
    /// It has been reported, and its record must be forgotten.
    pub(crate) reported: bool,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Departures {
    max: usize,
    state: Mutex<State>,
    added: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<(u64, Instant, Departure)>,
    /// The valid entry of a user in a room, and whether it has been reported; older ones are void.
    current: HashMap<(String, String), (u64, bool), RandomState>,
    next: u64,
}

impl Departures {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, state: Mutex::default(), added: Notify::new() }
    }

    /// Waits for `holdback`; an earlier wait of the user in the room is void.
    pub(crate) fn add(&self, departure: Departure, holdback: Duration) {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.current.insert((departure.room.clone(), departure.user.clone()), (number, departure.reported));
        state.queue.push_back((number, Instant::now() + holdback, departure));
        drop(state);
        self.added.notify_one();
    }

    /// Waits again for a departure that could not be settled. Over the bound it is forgotten; the store's record is
    /// cleaned up when this node is gone.
    pub(crate) fn retry(&self, departure: Departure, holdback: Duration) {
        let (is_full, is_void) = {
            let state = self.state.lock();
            let key = (departure.room.clone(), departure.user.clone());
            (state.queue.len() >= self.max, state.current.contains_key(&key))
        };
        // A later wait of the user in the room replaces this one.
        if !is_full && !is_void {
            self.add(departure, holdback);
        }
    }

    /// Whether no departure waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().current.is_empty()
    }

    /// The user is back, or gone for good: cancels the wait. Returns whether an unreported departure was waiting.
    pub(crate) fn cancel(&self, room: &str, user: &str) -> bool {
        let mut state = self.state.lock();
        // Usually no departure waits, and every join asks.
        if state.current.is_empty() {
            return false;
        }
        let waited = state.current.remove(&(room.to_owned(), user.to_owned()));
        waited.is_some_and(|(_, reported)| !reported)
    }

    /// The next departure whose time is over and whose user has not returned. Cancel safe.
    pub(crate) async fn due(&self) -> Departure {
        loop {
            let notified = self.added.notified();
            if let Some(departure) = self.take() {
                return departure;
            }
            let at = self.state.lock().queue.front().map(|(_, at, _)| *at);
            match at {
                None => notified.await,
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    // An added departure may have made the queue too long.
                    () = notified => {}
                },
            }
        }
    }

    fn take(&self) -> Option<Departure> {
        let mut state = self.state.lock();
        loop {
            let (now, full) = (Instant::now(), state.queue.len() > self.max);
            let (number, _, departure) = state.queue.pop_front_if(|(_, at, _)| full || *at <= now)?;
            let key = (departure.room.clone(), departure.user.clone());
            if state.current.get(&key).is_some_and(|(current, _)| *current == number) {
                state.current.remove(&key);
                return Some(departure);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDBACK: Duration = Duration::from_secs(3);

    fn departure(user: usize) -> Departure {
        let text = String::new;
        Departure {
            room: "/#r".into(),
            user: format!("u{user}"),
            info: text(),
            incarnation: text(),
            reported: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_who_returns_after_the_report_was_gone() {
        let departures = Departures::new(10);
        departures.add(Departure { reported: true, ..departure(1) }, HOLDBACK);
        departures.add(departure(2), HOLDBACK);
        assert!(!departures.cancel("/#r", "u1"), "others have been notified that they left");
        assert!(departures.cancel("/#r", "u2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_who_returns_in_time_is_not_reported() {
        let departures = Departures::new(10);
        departures.add(departure(1), HOLDBACK);
        departures.add(departure(2), HOLDBACK);
        assert_eq!(departures.take(), None);
        assert!(departures.cancel("/#r", "u1"));
        assert!(!departures.cancel("/#r", "u1"));
        assert_eq!(departures.due().await, departure(2));
        assert_eq!(departures.take(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_who_leaves_again_is_reported_once_and_later() {
        let departures = Departures::new(10);
        let start = Instant::now();
        departures.add(departure(1), HOLDBACK);
        tokio::time::advance(Duration::from_secs(2)).await;
        departures.add(departure(1), HOLDBACK);
        assert_eq!(departures.due().await, departure(1));
        assert_eq!(start.elapsed().as_secs(), 5);
        assert!(departures.state.lock().queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unsettled_departure_is_not_queued_again_when_the_queue_is_full() {
        let departures = Departures::new(2);
        for user in 0..3 {
            departures.add(departure(user), HOLDBACK);
        }
        let first = departures.due().await;
        departures.retry(first, HOLDBACK);
        assert_eq!(departures.take(), None);
        assert_eq!(departures.due().await, departure(1));
        departures.retry(departure(1), HOLDBACK);
        assert_eq!(departures.due().await, departure(2));
        assert_eq!(departures.due().await, departure(1));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_are_bounded() {
        let departures = Departures::new(3);
        for user in 0..5 {
            departures.add(departure(user), Duration::from_hours(24));
        }
        assert_eq!(departures.take(), Some(departure(0)));
        assert_eq!(departures.take(), Some(departure(1)));
        assert_eq!(departures.take(), None);
    }
}
