//! Rates for operations that are costly for others, shared by all of a user's sockets on a node. They are generous
//! for people and far below what programs can do.

use std::time::{Duration, Instant};

use shared::limits::RATED_USERS_MAX;
use shared::names::UserId;

use crate::apps::within;
use crate::error::AppError;
use crate::limiter::{Meters, Rate};
use crate::metrics::{self, Limit};

/// Users in a list per additional unit.
const USERS_PER_UNIT: usize = 50;

/// Records in a page per additional unit.
const RECORDS_PER_UNIT: u32 = 25;

/// Each user's rates.
#[derive(Debug)]
pub(super) struct Rates {
    /// Lists: presence, participants and pages of records, in units.
    lists: Meters<UserId>,
    /// Rooms entered. Many devices may reenter all their rooms at once when they reconnect.
    joins: Meters<UserId>,
    messages: Meters<UserId>,
    /// Messages marked as read.
    reads: Meters<UserId>,
    typing: Meters<UserId>,
    signals: Meters<UserId>,
    statuses: Meters<UserId>,
    calls: Calls,
}

/// Calls started, by caller, by recipient, and by pair.
#[derive(Debug)]
struct Calls {
    by_caller: Meters<UserId>,
    by_recipient: Meters<UserId>,
    by_both: Meters<(UserId, UserId)>,
}

impl Calls {
    /// `per_minute` calls per user; 0: no limit.
    fn new(per_minute: u32) -> Self {
        let rate = |count: u32| Rate::every(Duration::from_secs(60) / count.max(1), count);
        let rate = |count: u32| (per_minute != 0).then(|| rate(count));
        Self {
            by_caller: Meters::new(rate(per_minute), RATED_USERS_MAX),
            by_recipient: Meters::new(rate(per_minute.saturating_mul(2)), RATED_USERS_MAX),
            by_both: Meters::new(rate((per_minute.saturating_mul(3) / 10).max(1)), RATED_USERS_MAX),
        }
    }

    fn take(&self, caller: &UserId, recipient: &UserId, now: Instant) -> bool {
        self.by_both.take((caller.clone(), recipient.clone()), now)
            && self.by_caller.take(caller.clone(), now)
            && self.by_recipient.take(recipient.clone(), now)
    }
}

impl Rates {
    pub(super) fn new(calls_per_minute: u32) -> Self {
        let meters = |per_second, burst| Meters::new(Rate::new(per_second, burst), RATED_USERS_MAX);
        Self {
            lists: meters(20, 100),
            joins: meters(100, 1_000),
            messages: meters(10, 100),
            reads: meters(50, 500),
            typing: meters(10, 50),
            signals: meters(50, 500),
            statuses: meters(2, 20),
            calls: Calls::new(calls_per_minute),
        }
    }

    /// A list of `count` users.
    pub(super) fn list_users(&self, user: &UserId, count: usize) -> Result<(), AppError> {
        let units = u32::try_from(1 + count / USERS_PER_UNIT).unwrap_or(u32::MAX);
        limited(self.lists.take_many(user.clone(), units, Instant::now()))
    }

    /// A page of at most `count` records, each read with `statements` statements.
    pub(super) fn list_records(&self, user: &UserId, count: u32, statements: u32) -> Result<(), AppError> {
        let units = 1 + count.saturating_mul(statements) / RECORDS_PER_UNIT;
        limited(self.lists.take_many(user.clone(), units, Instant::now()))
    }

    /// `count` messages marked as read.
    pub(super) fn read(&self, user: &UserId, count: usize) -> Result<(), AppError> {
        let units = u32::try_from(count).unwrap_or(u32::MAX);
        limited(self.reads.take_many(user.clone(), units, Instant::now()))
    }

    /// A room entered.
    pub(super) fn join(&self, user: &UserId) -> Result<(), AppError> {
        within(&self.joins, user)
    }

    /// A message sent.
    pub(super) fn send(&self, user: &UserId) -> Result<(), AppError> {
        within(&self.messages, user)
    }

    /// A typing event.
    pub(super) fn typing(&self, user: &UserId) -> Result<(), AppError> {
        within(&self.typing, user)
    }

    /// A signal to the other party of a call.
    pub(super) fn signal(&self, user: &UserId) -> Result<(), AppError> {
        within(&self.signals, user)
    }

    /// A status set.
    pub(super) fn set_status(&self, user: &UserId) -> Result<(), AppError> {
        within(&self.statuses, user)
    }

    /// A call started.
    pub(super) fn call(&self, caller: &UserId, recipient: &UserId) -> Result<(), AppError> {
        if self.calls.take(caller, recipient, Instant::now()) {
            return Ok(());
        }
        metrics::get().rate_limited(Limit::UserRate);
        Err(AppError::Limited("Too many calls, try again later".into(), 60))
    }

    /// A call did not ring because the recipient is in another call. It does not count against the recipient.
    pub(super) fn did_not_ring(&self, caller: &UserId, recipient: &UserId) {
        self.calls.by_both.give_back(&(caller.clone(), recipient.clone()));
        self.calls.by_recipient.give_back(recipient);
    }
}

fn limited(is_within: bool) -> Result<(), AppError> {
    if is_within {
        return Ok(());
    }
    metrics::get().rate_limited(Limit::UserRate);
    Err(AppError::Limited("Too many requests".into(), 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn rings(calls: &Calls, pairs: impl Iterator<Item = (UserId, UserId)>, now: Instant) -> usize {
        pairs.filter(|(caller, recipient)| calls.take(caller, recipient, now)).count()
    }

    #[test]
    fn a_victim_is_rung_a_few_times_a_minute_by_one_and_not_without_end_by_many() {
        let (calls, start) = (Calls::new(10), Instant::now());
        let (ann, bob) = (user("ann"), user("bob"));
        let by_one = |now| rings(&calls, std::iter::repeat_n((ann.clone(), bob.clone()), 1_000), now);
        assert_eq!(by_one(start), 3);
        let of_a_minute: usize = (1..=60).map(|second| by_one(start + Duration::from_secs(second))).sum();
        assert_eq!(of_a_minute, 3);
        let crowd = (0..1_000).map(|n| (user(&format!("u{n}")), user("victim")));
        assert_eq!(rings(&calls, crowd, start), 20);
        let callees = (0..1_000).map(|n| (user("robot"), user(&format!("v{n}"))));
        assert_eq!(rings(&calls, callees, start), 10);
        assert_eq!(rings(&Calls::new(0), std::iter::repeat_n((ann, bob), 1_000), start), 1_000);
    }

    #[test]
    fn a_call_that_did_not_ring_does_not_count_for_the_recipient() {
        let rates = Rates::new(10);
        let (ann, bob) = (user("ann"), user("bob"));
        for _ in 0..10 {
            rates.call(&ann, &bob).unwrap();
            rates.did_not_ring(&ann, &bob);
        }
        assert!(rates.call(&ann, &bob).is_err(), "for the caller it does");
    }

    #[test]
    fn a_long_list_costs_more_than_a_short_one() {
        let rates = Rates::new(10);
        let (ann, bob) = (user("ann"), user("bob"));
        assert_eq!((0..1_000).filter(|_| rates.list_users(&ann, 1).is_ok()).count(), 100);
        assert_eq!((0..1_000).filter(|_| rates.list_users(&bob, 500).is_ok()).count(), 9);
        assert!(rates.list_records(&bob, 100, 3).is_err());
        assert!(rates.list_records(&user("carl"), 100, 3).is_ok());
    }
}
