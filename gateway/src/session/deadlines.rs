//! Schedules the sessions' deadlines: a wheel of coarse slots instead of a timer per session, and a heap for the few
//! deadlines that are too near for a slot.
//!
//! A later deadline does not touch the wheel: the entry fires at the old time, finds nothing due, and is scheduled
//! again. An earlier one adds an entry; the session knows which of its entries counts ([`Deadlines::add`] returns when
//! it fires) and ignores the others.
//!
//! Hand-written, because a heartbeat moves each session's deadline. Counted under callgrind with 10,000 entries, a
//! `DelayQueue::reset` takes 770 instructions; here a pong touches nothing.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shared::ids::SessionId;
use tokio::sync::Notify;

/// The precision of deadlines beyond [`SOON`].
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// Deadlines nearer than this are precise to the millisecond.
const SOON: Duration = Duration::from_secs(1);

/// Number of slots; a later deadline waits in the last one and is scheduled again from there.
const SLOTS: usize = 2_048;

/// How many stale entries the wheel may have beyond one entry per session.
const STALE_MAX: usize = 16_384;

/// How many slots one sweep clears of stale entries.
const SLOTS_SWEPT: usize = 32;

/// The wheel.
#[derive(Debug)]
pub(crate) struct Deadlines {
    wheel: Mutex<Wheel>,
    /// Notified when a deadline becomes the earliest.
    earlier: Notify,
}

#[derive(Debug)]
struct Wheel {
    slots: Box<[Vec<SessionId>]>,
    /// The slot of the next tick to fire.
    next: usize,
    /// When that slot fires.
    next_at: Instant,
    entries: usize,
    /// Deadlines that were within [`SOON`] when added, the earliest on top.
    soon: BinaryHeap<Near>,
    /// The next slot to sweep.
    sweep: usize,
}

/// A deadline to the millisecond. The earlier of two is the greater, because a heap has its greatest on top.
#[derive(Debug)]
struct Near {
    at: Instant,
    session: SessionId,
}

impl PartialEq for Near {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Near {}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl Deadlines {
    pub(crate) fn new(now: Instant) -> Self {
        let slots = std::iter::repeat_with(Vec::new).take(SLOTS).collect();
        let (next_at, soon) = (now + TICK, BinaryHeap::new());
        let wheel = Wheel { slots, next: 0, next_at, entries: 0, soon, sweep: 0 };
        Self { wheel: Mutex::new(wheel), earlier: Notify::new() }
    }

    /// Waits until [`Self::fire`] is due.
    pub(crate) async fn wait(&self) {
        loop {
            let at = {
                let wheel = self.wheel.lock();
                wheel.soon.peek().map_or(wheel.next_at, |first| first.at.min(wheel.next_at))
            };
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => return,
                () = self.earlier.notified() => {}
            }
        }
    }

    /// Schedules a check of `session` at `at`: within two ticks after it unless it is [`SOON`], or earlier if it is
    /// beyond the last slot. Returns when the entry fires.
    pub(crate) fn add(&self, session: SessionId, at: Instant) -> Instant {
        let mut wheel = self.wheel.lock();
        if at < wheel.next_at + SOON {
            let is_first = at < wheel.next_at && wheel.soon.peek().is_none_or(|first| at < first.at);
            wheel.soon.push(Near { at, session });
            if is_first {
                self.earlier.notify_one();
            }
            return at;
        }
        let ticks = at.saturating_duration_since(wheel.next_at).as_nanos().div_ceil(TICK.as_nanos());
        let ahead = usize::try_from(ticks).unwrap_or(SLOTS).min(SLOTS - 1);
        let slot = (wheel.next + ahead) % SLOTS;
        let wheel = &mut *wheel;
        if let Some(slot) = wheel.slots.get_mut(slot) {
            slot.push(session);
            wheel.entries += 1;
        }
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
        wheel.next_at + TICK.saturating_mul(ahead)
    }

    /// Removes and returns all entries due by `now`.
    pub(crate) fn fire(&self, now: Instant) -> Vec<SessionId> {
        let mut wheel = self.wheel.lock();
        let mut fired = Vec::new();
        while wheel.soon.peek().is_some_and(|first| first.at <= now) {
            fired.extend(wheel.soon.pop().map(|first| first.session));
        }
        while wheel.next_at <= now {
            let next = wheel.next;
            if let Some(slot) = wheel.slots.get_mut(next) {
                // Takes the capacity, too: a burst must not leave every slot large.
                let slot = std::mem::take(slot);
                wheel.entries -= slot.len();
                fired.extend(slot);
            }
            wheel.next = (next + 1) % SLOTS;
            wheel.next_at += TICK;
        }
        fired
    }

    /// Sweeps a part of the wheel if it has far more entries than there are `sessions`, which have one or two each.
    pub(crate) fn forget_unless(&self, sessions: usize, is_there: impl Fn(SessionId) -> bool) {
        let mut wheel = self.wheel.lock();
        if wheel.entries <= 2 * sessions + STALE_MAX {
            return;
        }
        let wheel = &mut *wheel;
        for _ in 0..SLOTS_SWEPT {
            if let Some(slot) = wheel.slots.get_mut(wheel.sweep) {
                let before = slot.len();
                slot.retain(|session| is_there(*session));
                slot.shrink_to(2 * slot.len());
                wheel.entries -= before - slot.len();
            }
            wheel.sweep = (wheel.sweep + 1) % SLOTS;
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::ids::NodeId;

    use super::*;

    fn session(n: u8) -> SessionId {
        SessionId::new(NodeId::from_random([0; 4]), [n; 16])
    }

    #[test]
    fn a_session_is_looked_at_when_its_time_has_come_and_not_before() {
        let start = Instant::now();
        let deadlines = Deadlines::new(start);
        let at = deadlines.add(session(1), start + Duration::from_secs(25));
        assert!((start + Duration::from_secs(25)..=start + Duration::from_secs(25) + 2 * TICK).contains(&at));
        assert_eq!(deadlines.fire(at - Duration::from_millis(1)), []);
        assert_eq!(deadlines.fire(at), [session(1)]);
        assert_eq!(deadlines.fire(start + Duration::from_secs(90)), []);
    }

    #[test]
    fn a_session_is_never_looked_at_too_early() {
        let start = Instant::now();
        let deadlines = Deadlines::new(start);
        for micros in [1, 999, 20_001, 19_999, 40_000, 1_000_001, 1_020_001, 3_000_001] {
            let at = start + Duration::from_micros(micros);
            assert!(deadlines.add(session(1), at) >= at, "{micros}");
        }
    }

    #[test]
    fn a_past_deadline_fires_next() {
        let start = Instant::now();
        let deadlines = Deadlines::new(start);
        deadlines.add(session(1), start);
        assert_eq!(deadlines.fire(start), [session(1)]);
    }

    #[test]
    fn near_deadlines_fire_in_time_and_in_order() {
        let start = Instant::now();
        let deadlines = Deadlines::new(start);
        let millis = |millis| start + Duration::from_millis(millis);
        for (n, at) in [(1, 301), (2, 7), (3, 300), (4, 999)] {
            assert_eq!(deadlines.add(session(n), millis(at)), millis(at));
        }
        assert_eq!(deadlines.fire(millis(6)), []);
        assert_eq!(deadlines.fire(millis(7)), [session(2)]);
        assert_eq!(deadlines.fire(millis(301)), [session(3), session(1)]);
        assert_eq!(deadlines.fire(millis(2_000)), [session(4)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_is_waited_for() {
        let start = tokio::time::Instant::now();
        let deadlines = Deadlines::new(start.into_std());
        let at = start.into_std() + Duration::from_millis(5);
        tokio::join!(deadlines.wait(), async { deadlines.add(session(1), at) });
        assert_eq!(deadlines.fire(tokio::time::Instant::now().into_std()), [session(1)]);
    }

    #[test]
    fn closed_sessions_do_not_fill_the_wheel() {
        let start = Instant::now();
        let deadlines = Deadlines::new(start);
        let at = deadlines.add(session(1), start + Duration::from_secs(20));
        for step in 0..2 * STALE_MAX {
            deadlines.add(session(2), start + 2 * SOON + Duration::from_millis(step as u64));
        }
        for _ in 0..SLOTS / SLOTS_SWEPT {
            deadlines.forget_unless(1, |id| id == session(1));
        }
        let fired = deadlines.fire(at);
        assert_eq!(fired.iter().filter(|id| **id == session(1)).count(), 1);
        assert!(fired.len() <= 2 + STALE_MAX, "{} entries are left", fired.len());
    }

    #[test]
    fn a_far_deadline_fires_early() {
        let start = Instant::now();
        let deadlines = Deadlines::new(start);
        let at = deadlines.add(session(1), start + Duration::from_hours(2));
        assert!(at <= start + TICK * u32::try_from(SLOTS).unwrap() + TICK);
        assert_eq!(deadlines.fire(at), [session(1)]);
    }
}
