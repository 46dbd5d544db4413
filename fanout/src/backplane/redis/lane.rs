//! The order of everything that a connection to Redis delivers about one namespace.
//!
//! ```text
//!  received ──► nothing before it? ── yes ──► done at once, by the task that reads
//!                     │ no
//!                     ▼
//!                  the lane: what is left of a request, and all that came after it ──► its task, one by one
//! ```
//! A broadcast that finds its lane clear is delivered by the task that reads, as if there were no lane. That task also begins
//! every request, and completes most: sockets enter and leave rooms without waiting. What follows (the store, an answer) is
//! outside the order, in [`RedisBackplane::follow_up`](super::backplane::RedisBackplane::follow_up). Only work that has to wait,
//! or takes long, goes to the lane; everything received meanwhile then waits behind it.
//!
//! Only the task that reads makes a lane busy. Only the lane's own task makes it clear again, once the lane is empty.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use shared::limits::{LANE_BYTES_MAX, LANE_ITEM_BYTES, LANE_REQUESTS_BYTES_MAX};
use tokio::sync::{Notify, oneshot, watch};

/// An item that waits for its turn.
pub(crate) enum Item {
    /// A broadcast as received.
    Broadcast(ReceivedBroadcast),
    /// A request, or the rest of one.
    Work(BoxFuture<'static, ()>),
    /// A marker of this node ([`super::returns`]): the number of the last post that it covers.
    Marker(u64),
    /// A request of another namespace closes connections; what follows in this lane waits for it, too.
    Gate(Gate),
}

/// A broadcast that arrived while other work was ahead of it.
pub(crate) struct ReceivedBroadcast {
    /// The only room that its channel named.
    pub(crate) room: Option<Box<str>>,
    pub(crate) payload: Box<[u8]>,
}

/// Stands in one lane for a request in another.
pub(crate) struct Gate {
    /// Dropped when everything before the gate is done.
    pub(super) reached: oneshot::Sender<()>,
    /// Its sender is dropped when the request has been carried out.
    pub(super) passed: watch::Receiver<()>,
}

/// The queue of a namespace.
pub(crate) struct Lane<T = Item> {
    busy: AtomicBool,
    waiting: Mutex<Waiting<T>>,
    /// Woken when there is work again.
    pub(super) work: Notify,
}

struct Waiting<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// An item was dropped because the lane was full.
    lost: bool,
}

/// The result of queueing.
pub(crate) enum Queued<T> {
    /// It is queued.
    Waits,
    /// The lane is clear; the caller handles the item.
    Clear(T),
    /// The lane is full.
    Full,
}

/// What a lane's task does next.
pub(crate) enum Next<T> {
    Do(T),
    /// The lane is empty; whether an item was dropped since it was last empty.
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
    /// Whether the lane is empty.
    pub(crate) fn is_clear(&self) -> bool {
        !self.busy.load(Ordering::Acquire)
    }

    /// Queues an item of `bytes` bytes, unless the lane is clear.
    pub(crate) fn queue(&self, item: T, bytes: usize) -> Queued<T> {
        self.queue_within(item, bytes, LANE_BYTES_MAX)
    }

    /// As [`Self::queue`], for a request: part of the lane is reserved for requests.
    pub(crate) fn queue_request(&self, item: T, bytes: usize) -> Queued<T> {
        self.queue_within(item, bytes, LANE_BYTES_MAX + LANE_REQUESTS_BYTES_MAX)
    }

    fn queue_within(&self, item: T, bytes: usize, max: usize) -> Queued<T> {
        let mut waiting = self.waiting.lock();
        if self.is_clear() {
            return Queued::Clear(item);
        }
        let bytes = bytes + LANE_ITEM_BYTES;
        if waiting.bytes + bytes > max {
            waiting.lost = true;
            return Queued::Full;
        }
        waiting.bytes += bytes;
        waiting.items.push_back((item, bytes));
        Queued::Waits
    }

    /// Queues work that has begun, or that must not be lost; everything received after it waits.
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

    /// The next item, once the one before it is done. An empty lane becomes clear.
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
    fn an_item_does_not_wait_in_a_clear_lane() {
        let lane = Lane::default();
        assert!(lane.is_clear());
        assert!(matches!(lane.queue(1, 0), Queued::Clear(1)));
        assert!(lane.is_clear());
    }

    #[test]
    fn items_behind_a_request_wait_until_everything_before_them_is_done() {
        let lane = Lane::default();
        lane.begin(1, 0);
        for item in 2..10 {
            assert!(!lane.is_clear());
            assert!(matches!(lane.queue(item, 0), Queued::Waits));
        }
        for item in 1..10 {
            assert_eq!(next(&lane), Some(item));
            // It is under way, and nothing may overtake it.
            assert!(!lane.is_clear());
        }
        assert!(matches!(lane.queue(10, 0), Queued::Waits));
        assert_eq!(next(&lane), Some(10));
        assert_eq!(next(&lane), None);
        assert!(lane.is_clear());
    }

    #[test]
    fn a_lane_is_bounded_in_bytes_and_reports_dropped_items() {
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

    #[test]
    fn broadcasts_leave_space_for_requests() {
        let lane = Lane::default();
        lane.begin(0, 0);
        assert!(matches!(lane.queue(1, LANE_BYTES_MAX - 2 * LANE_ITEM_BYTES), Queued::Waits));
        assert!(matches!(lane.queue(2, 0), Queued::Full));
        let requests = LANE_REQUESTS_BYTES_MAX / 2 - LANE_ITEM_BYTES;
        for request in [3, 4] {
            assert!(matches!(lane.queue_request(request, requests), Queued::Waits));
        }
        assert!(matches!(lane.queue_request(5, 0), Queued::Full));
        let order: Vec<_> = std::iter::from_fn(|| next(&lane)).collect();
        assert_eq!(order, [0, 1, 3, 4]);
    }
}
