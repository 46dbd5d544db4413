//! Users whose last socket in a room was lost, until they are back or the others are told.
//!
//! All wait equally long (`LEAVE_HOLDBACK`), so they leave the queue in the order they entered it, and one
//! task serves them all. Past `DEPARTURES_MAX` the longest wait ends at once, so that the queue is bounded whatever
//! strangers do.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fanout::Target;
use parking_lot::Mutex;
use shared::names::{Namespace, Room, UserId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::events::UserMoved;
use crate::clock::{iso, now_ms};
use crate::context::Context;
use crate::socket;

/// Who may still come back.
#[derive(Debug)]
pub(super) struct Departures {
    holdback: Duration,
    max: usize,
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Departed>,
    /// The entry of the queue that counts for a user in a room; older ones are void.
    current: HashMap<(Room, UserId), u64>,
    next: u64,
}

#[derive(Debug)]
struct Departed {
    number: u64,
    due: Instant,
    namespace: Namespace,
    room: Room,
    user: UserId,
    email: Option<Box<str>>,
}

impl Departures {
    /// Holds leaves back for `holdback`, `max` of them at most.
    pub(super) fn new(holdback: Duration, max: usize) -> Self {
        Self { holdback, max, waiting: Mutex::default(), added: Notify::new() }
    }

    /// The user's last socket in the room is lost.
    pub(super) fn add(&self, namespace: &Namespace, room: &Room, user: &UserId, email: Option<Box<str>>) {
        let mut waiting = self.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.current.insert((room.clone(), user.clone()), number);
        waiting.queue.push_back(Departed {
            number,
            due: Instant::now() + self.holdback,
            namespace: namespace.clone(),
            room: room.clone(),
            user: user.clone(),
            email,
        });
        drop(waiting);
        self.added.notify_one();
    }

    /// The user is back; answers whether they were waited for.
    pub(super) fn cancel(&self, room: &Room, user: &UserId) -> bool {
        self.waiting.lock().current.remove(&(room.clone(), user.clone())).is_some()
    }

    /// Tells rooms who has not come back.
    pub(super) async fn run(self: Arc<Self>, context: Context) {
        loop {
            let due = self.waiting.lock().queue.front().map(|departed| departed.due);
            match due {
                None => self.added.notified().await,
                // Something added may have made the queue too long.
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.added.notified() => {}
                },
            }
            while let Some(departed) = self.take_due() {
                let (namespace, room) = (departed.namespace.as_str(), departed.room.as_str());
                if context.fanout.is_user_in(namespace, &departed.user, room).await {
                    // Came back while the leave was on its way here.
                    continue;
                }
                let body = UserMoved {
                    user_id: departed.user.as_str(),
                    email: departed.email.as_deref(),
                    timestamp: iso(now_ms()),
                };
                let target = Target::room(&departed.namespace, departed.room.as_str());
                let packet = socket::encode(&departed.namespace, "user_left", &body);
                if let Err(error) = context.fanout.broadcast(target, packet).await {
                    tracing::warn!(%error, room = %departed.room, "a leave was not told");
                }
            }
        }
    }

    /// The next whose time is over and who is not back.
    fn take_due(&self) -> Option<Departed> {
        let mut waiting = self.waiting.lock();
        loop {
            let (now, full) = (Instant::now(), waiting.queue.len() > self.max);
            let departed = waiting.queue.pop_front_if(|departed| full || departed.due <= now)?;
            let key = (departed.room.clone(), departed.user.clone());
            if waiting.current.get(&key) == Some(&departed.number) {
                waiting.current.remove(&key);
                return Some(departed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn departures(holdback: Duration, max: usize) -> (Departures, Namespace, Room) {
        (Departures::new(holdback, max), Namespace::parse("/").unwrap(), Room::parse("r").unwrap())
    }

    fn user(n: usize) -> UserId {
        UserId::parse(&format!("u{n}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_back_in_time_is_not_told() {
        let (departures, namespace, room) = departures(Duration::from_secs(3), 10);
        departures.add(&namespace, &room, &user(1), None);
        departures.add(&namespace, &room, &user(2), None);
        assert!(departures.take_due().is_none());
        assert!(departures.cancel(&room, &user(1)));
        assert!(!departures.cancel(&room, &user(1)));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(departures.take_due().map(|departed| departed.user), Some(user(2)));
        assert!(departures.take_due().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_again_is_told_once_and_later() {
        let (departures, namespace, room) = departures(Duration::from_secs(3), 10);
        departures.add(&namespace, &room, &user(1), None);
        departures.cancel(&room, &user(1));
        tokio::time::advance(Duration::from_secs(2)).await;
        departures.add(&namespace, &room, &user(1), None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(departures.take_due().is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(departures.take_due().is_some());
        assert!(departures.take_due().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn leaves_held_back_are_bounded() {
        let (departures, namespace, room) = departures(Duration::from_hours(24), 3);
        for n in 0..5 {
            departures.add(&namespace, &room, &user(n), None);
        }
        assert_eq!(departures.take_due().map(|departed| departed.user), Some(user(0)));
        assert_eq!(departures.take_due().map(|departed| departed.user), Some(user(1)));
        assert!(departures.take_due().is_none());
    }
}
