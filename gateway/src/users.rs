//! What all sockets of a user on this node share, across namespaces: a budget of events, and slots for open questions
//! and for broadcasts in flight.
//!
//! A user may have many sockets, which multiplies any limit of one socket. What an event costs the node is therefore
//! also taken from the user's [`Share`]: one unit for a plain event, more for an event that requests much
//! (`describe::Event::weight`), carries much, or is delivered to many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use dashmap::DashMap;
use parking_lot::Mutex;
use shared::limits::{
    AWAITED_ACKS_PER_USER, EVENT_UNIT_BYTES, EVENT_UNIT_RECEIVERS, POSTS_PER_USER, QUESTIONS_PER_USER,
    USER_EVENTS_FACTOR,
};
use shared::names::UserId;

use crate::limiter::{Meter, Rate};

/// With so many users, the first search for idle ones without a socket runs.
const FIRST_LOOK: usize = 1_024;

/// What the sockets of one user share.
#[derive(Debug)]
pub(crate) struct Share {
    rate: Option<Arc<Rate>>,
    meter: Mutex<Meter>,
    questions: AtomicU32,
    awaited: AtomicUsize,
    posts: AtomicU32,
}

impl Share {
    fn new(rate: Option<Arc<Rate>>) -> Self {
        let (questions, awaited, posts) = (AtomicU32::new(0), AtomicUsize::new(0), AtomicU32::new(0));
        Self { rate, meter: Mutex::default(), questions, awaited, posts }
    }

    /// Takes `units` of the user's event budget; false if fewer are left.
    pub(crate) fn take(&self, units: u32, now: Instant) -> bool {
        self.rate.as_deref().is_none_or(|rate| self.meter.lock().take_many(*rate, units, now))
    }

    /// Whether the budget is limited.
    pub(crate) fn is_limited(&self) -> bool {
        self.rate.is_some()
    }

    /// Charges for an event that is delivered to `receivers` on this node; the user's next events wait until it is
    /// paid.
    pub(crate) fn charge_receivers(&self, receivers: usize) {
        let units = u32::try_from(receivers / EVENT_UNIT_RECEIVERS).unwrap_or(u32::MAX);
        if let (Some(rate), 1..) = (self.rate.as_deref(), units) {
            self.meter.lock().charge(*rate, units, Instant::now());
        }
    }

    /// Takes a slot for one more open question.
    pub(crate) fn ask(&self) -> bool {
        take_place(&self.questions, QUESTIONS_PER_USER)
    }

    /// Frees the slot, and the acks that [`Self::expect`] reserved for it.
    pub(crate) fn answered(&self, awaited: usize) {
        self.questions.fetch_sub(1, Ordering::AcqRel);
        self.awaited.fetch_sub(awaited, Ordering::AcqRel);
    }

    /// Reserves acks of so many sockets; false if the user's questions would await too many in total.
    pub(crate) fn expect(&self, receivers: usize) -> bool {
        let before = self.awaited.fetch_add(receivers, Ordering::AcqRel);
        let fits = before + receivers <= AWAITED_ACKS_PER_USER;
        if !fits {
            self.awaited.fetch_sub(receivers, Ordering::AcqRel);
        }
        fits
    }

    /// Takes a slot for one more broadcast in flight.
    pub(crate) fn post(&self) -> bool {
        take_place(&self.posts, POSTS_PER_USER)
    }

    /// Frees the slot.
    pub(crate) fn posted(&self) {
        self.posts.fetch_sub(1, Ordering::AcqRel);
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.meter.lock().is_idle(now)
    }
}

fn take_place(places: &AtomicU32, max: u32) -> bool {
    let fits = places.fetch_add(1, Ordering::AcqRel) < max;
    if !fits {
        places.fetch_sub(1, Ordering::AcqRel);
    }
    fits
}

/// The units that an event of `weight` with so many bytes costs.
pub(crate) fn units(weight: u32, bytes: usize) -> u32 {
    weight.saturating_add(u32::try_from(bytes / EVENT_UNIT_BYTES).unwrap_or(u32::MAX))
}

/// The shares of this node's users. A user who left keeps the share until the budget is full again, so that
/// reconnecting brings no new budget. There are rarely more shares than users with a socket and users who left within
/// the last seconds.
#[derive(Debug)]
pub(crate) struct Users {
    rate: Option<Arc<Rate>>,
    shares: DashMap<UserId, Arc<Share>>,
    next_look: AtomicUsize,
}

impl Users {
    /// Shares whose budget is `USER_EVENTS_FACTOR` times that of a socket (0: none), with a burst of four times as
    /// much.
    pub(crate) fn new(events_per_second: u32) -> Self {
        let per_second = events_per_second.saturating_mul(USER_EVENTS_FACTOR);
        let rate = Rate::new(per_second, per_second.saturating_mul(4)).map(Arc::new);
        Self { rate, shares: DashMap::new(), next_look: AtomicUsize::new(FIRST_LOOK) }
    }

    /// The share of a user, for one more socket.
    pub(crate) fn share(&self, user: &UserId) -> Arc<Share> {
        if let Some(share) = self.shares.get(user) {
            return Arc::clone(&share);
        }
        if self.shares.len() >= self.next_look.load(Ordering::Relaxed) {
            let now = Instant::now();
            self.shares.retain(|_, share| Arc::strong_count(share) > 1 || !share.is_idle(now));
            self.next_look.store((self.shares.len() * 2).max(FIRST_LOOK), Ordering::Relaxed);
        }
        let made = || Arc::new(Share::new(self.rate.clone()));
        Arc::clone(&self.shares.entry(user.clone()).or_insert_with(made))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    #[test]
    fn the_sockets_of_a_user_share_one_budget_and_others_have_their_own() {
        let (users, now) = (Users::new(10), Instant::now());
        let (one, other) = (users.share(&user("a")), users.share(&user("a")));
        let burst = 10 * USER_EVENTS_FACTOR * 4;
        assert!(one.take(burst - 1, now) && other.take(1, now));
        assert!(!one.take(1, now) && !other.take(1, now));
        assert!(users.share(&user("b")).take(burst, now));
        drop((one, other));
        assert!(!users.share(&user("a")).take(1, now), "a new socket brings no new budget");
        assert!(users.share(&user("a")).take(1, now + Duration::from_secs(1)));
        // An event that costs more than the whole budget is possible when the budget is full.
        assert!(users.share(&user("c")).take(u32::MAX, now));
        let unlimited = Users::new(0).share(&user("a"));
        assert!((0..100_000).all(|_| unlimited.take(1_000, now)));
    }

    #[test]
    fn a_delivery_to_many_delays_the_next_event() {
        let (users, now) = (Users::new(1), Instant::now());
        let share = users.share(&user("a"));
        share.charge_receivers(EVENT_UNIT_RECEIVERS - 1);
        assert!(share.is_idle(now), "few receivers are free");
        share.charge_receivers(usize::MAX);
        assert!(!share.take(1, now));
        // However many receivers there were, the debt is paid after the time of one burst.
        assert!(share.take(1, now + Duration::from_secs(5)));
    }

    #[test]
    fn questions_and_posts_have_places() {
        let share = Share::new(None);
        assert!((0..QUESTIONS_PER_USER).all(|_| share.ask()) && !share.ask());
        assert!(share.expect(AWAITED_ACKS_PER_USER) && !share.expect(1));
        share.answered(AWAITED_ACKS_PER_USER);
        assert!(share.ask() && share.expect(1));
        assert!((0..POSTS_PER_USER).all(|_| share.post()) && !share.post());
        share.posted();
        assert!(share.post());
    }

    #[test]
    fn idle_users_without_a_socket_are_forgotten() {
        let users = Users::new(100);
        let kept = users.share(&user("kept"));
        for n in 0..10 * FIRST_LOOK {
            drop(users.share(&user(&format!("u{n}"))));
        }
        assert!(users.shares.len() <= 2 * FIRST_LOOK, "{} shares", users.shares.len());
        assert!(Arc::ptr_eq(&kept, &users.share(&user("kept"))));
    }
}
