//! Tracks which of this node's posts have come back to it.
//!
//! A post goes to Redis on one connection and comes back on another, so Redis' reply does not mean that it has been
//! delivered here. A *marker* does: a message that the node sends to itself behind the posts. When the marker has its turn
//! in the [lane](super::lane) of its namespace, every earlier post has had its own.
//!
//! Posts are numbered, and each room knows the number of its last one. Only a leave asks, and it needs a marker only if that
//! number has not come back yet. One marker under way serves all leaves that wait.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// Which posts of one namespace have come back.
#[derive(Debug)]
pub(super) struct Returns {
    /// How many posts have been queued for Redis.
    posted: AtomicU64,
    /// The last post that a marker under way covers.
    marked: AtomicU64,
    /// The last post up to which all have come back.
    returned: watch::Sender<u64>,
}

impl Default for Returns {
    fn default() -> Self {
        Self { posted: AtomicU64::new(0), marked: AtomicU64::new(0), returned: watch::Sender::new(0) }
    }
}

impl Returns {
    /// Numbers a post that has just been queued.
    pub(super) fn number(&self) -> u64 {
        self.posted.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Whether all posts have come back.
    pub(super) fn are_all(&self) -> bool {
        self.has(self.posted.load(Ordering::Acquire))
    }

    pub(super) fn has(&self, post: u64) -> bool {
        *self.returned.borrow() >= post
    }

    /// The last post that a new marker covers; `None` where a marker under way covers `post` already.
    pub(super) fn mark(&self, post: u64) -> Option<u64> {
        if self.marked.load(Ordering::Acquire) >= post {
            return None;
        }
        let last = self.posted.load(Ordering::Acquire);
        self.marked.fetch_max(last, Ordering::AcqRel);
        Some(last)
    }

    /// A marker has come back that covers all posts up to `last`.
    pub(super) fn set_returned(&self, last: u64) {
        self.returned.send_if_modified(|returned| {
            let is_new = last > *returned;
            *returned = last.max(*returned);
            is_new
        });
    }

    /// Waits until everything up to this post has come back.
    pub(super) async fn wait_for(&self, post: u64) {
        // The sender lives as long as this.
        let _ = self.returned.subscribe().wait_for(|returned| *returned >= post).await;
    }

    /// Stops waiting for the marker under way.
    pub(super) fn give_up(&self) {
        let returned = *self.returned.borrow();
        self.marked.store(returned, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_marker_serves_all_waiters_that_it_covers() {
        let returns = Returns::default();
        assert!(returns.has(0));
        let (first, second) = (returns.number(), returns.number());
        assert_eq!(returns.mark(first), Some(second));
        assert_eq!(returns.mark(second), None);
        let third = returns.number();
        assert_eq!(returns.mark(third), Some(third));
        returns.set_returned(second);
        assert!(returns.has(first) && returns.has(second) && !returns.has(third));
        returns.set_returned(first);
        assert!(returns.has(second), "markers may be handled in any order");
    }

    #[test]
    fn a_marker_that_does_not_come_back_is_posted_again() {
        let returns = Returns::default();
        let post = returns.number();
        assert_eq!(returns.mark(post), Some(post));
        assert_eq!(returns.mark(post), None);
        returns.give_up();
        assert_eq!(returns.mark(post), Some(post));
    }
}
