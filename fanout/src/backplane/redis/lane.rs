//! One order for all that a connection to Redis brings about one namespace.
//!
//! ```text
//!  received ──► nothing before it? ── yes ──► done at once, by the task that reads
//!                     │ no
//!                     ▼
//!                  the lane: what is left of a request, and all that came after it ──► its task, one by one
//! ```
//! A broadcast that finds its lane clear is delivered where it is read, as if there were no lane. A request is begun there,
//! too, and most are done there: sockets enter and leave rooms without waiting for anybody, and what follows from that
//! (the store, an answer) comes after the order, in [`RedisBackplane::follow_up`](super::backplane::RedisBackplane::follow_up). Only what has to wait, or takes long, is given to
//! the lane, and then everything that comes meanwhile waits behind it.
//!
//! Only the task that reads makes a lane busy, and only the lane's own task makes it clear again, when nothing is left.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use shared::limits::{LANE_BYTES_MAX, LANE_ITEM_BYTES};
use tokio::sync::{Notify, oneshot, watch};

/// What waits for its turn.
pub(crate) enum Item {
    /// A broadcast, as it came.
    Broadcast(ReceivedBroadcast),
    /// A request, or what is left of it.
    Work(BoxFuture<'static, ()>),
    /// Connections are closed by a request of another namespace, and what comes after it waits for that here, too.
    Gate(Gate),
}

/// A broadcast that came while something else had to be done first.
pub(crate) struct ReceivedBroadcast {
    /// The only room that its channel named.
    pub(crate) room: Option<Box<str>>,
    pub(crate) payload: Box<[u8]>,
}

/// A place in one lane that stands for a request in another.
pub(crate) struct Gate {
    /// Dropped when everything before the gate is done.
    pub(super) reached: oneshot::Sender<()>,
    /// Its sender is dropped when the request is done.
    pub(super) passed: watch::Receiver<()>,
}

/// The queue of a namespace.
pub(crate) struct Lane<T = Item> {
    busy: AtomicBool,
    waiting: Mutex<Waiting<T>>,
    /// Woken when there is something to do again.
    pub(super) work: Notify,
}

struct Waiting<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// Something did not fit.
    lost: bool,
}

/// What became of something that was to wait.
pub(crate) enum Queued<T> {
    /// It waits.
    Waits,
    /// Nothing is before it any more.
    Clear(T),
    /// Too much waits.
    Full,
}

/// What a lane's task does next.
pub(crate) enum Next<T> {
    Do(T),
    /// Nothing is left; whether something did not fit since that was so last.
    Nothing {
        lost: bool,
    },
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        let waiting = Waiting { items: VecDeque::new(), bytes: 0, lost: false };
        Self { busy: AtomicBool::new(false), waiting: Mutex::new(waiting), work: Notify::new() }
    }
}

impl<T> Lane<T> {
    /// Whether nothing is before what comes now.
    pub(crate) fn is_clear(&self) -> bool {
        !self.busy.load(Ordering::Acquire)
    }

    /// Puts something of `bytes` bytes behind what is there, if there is anything.
    pub(crate) fn queue(&self, item: T, bytes: usize) -> Queued<T> {
        let mut waiting = self.waiting.lock();
        if self.is_clear() {
            return Queued::Clear(item);
        }
        let bytes = bytes + LANE_ITEM_BYTES;
        if waiting.bytes + bytes > LANE_BYTES_MAX {
            waiting.lost = true;
            return Queued::Full;
        }
        waiting.bytes += bytes;
        waiting.items.push_back((item, bytes));
        Queued::Waits
    }

    /// Puts something there that has begun, or that must not be lost: whatever comes from now on waits for it.
    pub(crate) fn begin(&self, item: T, bytes: usize) {
        {
            let mut waiting = self.waiting.lock();
            let bytes = bytes + LANE_ITEM_BYTES;
            waiting.bytes += bytes;
            waiting.items.push_back((item, bytes));
            self.busy.store(true, Ordering::Release);
        }
        self.work.notify_one();
    }

    /// The next to be done, when the one before is. With nothing left the lane is clear.
    pub(crate) fn next(&self) -> Next<T> {
        let mut waiting = self.waiting.lock();
        if let Some((item, bytes)) = waiting.items.pop_front() {
            waiting.bytes -= bytes;
            return Next::Do(item);
        }
        waiting.items.shrink_to(64);
        self.busy.store(false, Ordering::Release);
        Next::Nothing { lost: std::mem::take(&mut waiting.lost) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next<T>(lane: &Lane<T>) -> Option<T> {
        match lane.next() {
            Next::Do(item) => Some(item),
            Next::Nothing { .. } => None,
        }
    }

    #[test]
    fn what_finds_nothing_before_it_does_not_wait() {
        let lane = Lane::default();
        assert!(lane.is_clear());
        assert!(matches!(lane.queue(1, 0), Queued::Clear(1)));
        assert!(lane.is_clear());
    }

    #[test]
    fn what_comes_after_a_request_waits_until_all_before_it_is_done() {
        let lane = Lane::default();
        lane.begin(1, 0);
        for item in 2..10 {
            assert!(!lane.is_clear());
            assert!(matches!(lane.queue(item, 0), Queued::Waits));
        }
        for item in 1..10 {
            assert_eq!(next(&lane), Some(item));
            // Under way, and nothing may pass it.
            assert!(!lane.is_clear());
        }
        assert!(matches!(lane.queue(10, 0), Queued::Waits));
        assert_eq!(next(&lane), Some(10));
        assert_eq!(next(&lane), None);
        assert!(lane.is_clear());
    }

    #[test]
    fn a_lane_has_a_bound_in_bytes_and_says_what_did_not_fit() {
        let lane = Lane::default();
        lane.begin(0, 0);
        let half = LANE_BYTES_MAX / 2;
        assert!(matches!(lane.queue(1, half), Queued::Waits));
        assert!(matches!(lane.queue(2, half), Queued::Full));
        assert!(matches!(lane.queue(3, 0), Queued::Waits), "a smaller one fits");
        lane.begin(4, half);
        let order: Vec<_> = std::iter::from_fn(|| next(&lane)).collect();
        assert_eq!(order, [0, 1, 3, 4]);
        lane.begin(5, 0);
        assert!(matches!(lane.queue(6, LANE_BYTES_MAX), Queued::Full));
        assert_eq!(next(&lane), Some(5));
        assert!(matches!(lane.next(), Next::Nothing { lost: true }));
        assert!(matches!(lane.next(), Next::Nothing { lost: false }));
        assert!(matches!(lane.queue(7, LANE_BYTES_MAX), Queued::Clear(7)), "alone it need not wait");
    }
}
