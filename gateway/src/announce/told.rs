//! Which announcements have been sent to clients while their rows are still in the records.
//!
//! A crash repeats exactly these, so there are never more than a fixed number of them on a node alone: an announcement takes
//! a place before it is sent, and gives it back when its row is gone. The rows are deleted by the next transaction that
//! writes announcements, which costs no commit of its own, or by [`super::forget_told`] when no such transaction comes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shared::limits::{ANNOUNCE_AFTER_MS, ANNOUNCEMENTS_AT_ONCE};
use tokio::sync::{Notify, Semaphore};

/// The announcements of this node that have been sent and whose rows are not deleted yet.
#[derive(Debug)]
pub(crate) struct Told {
    places: Semaphore,
    /// How many there may be.
    limit: usize,
    /// Those that no transaction has claimed.
    waiting: Mutex<Vec<String>>,
    /// Those that this node is sending or has sent; nobody looks for them.
    in_hand: Mutex<HashSet<String>>,
    added: Notify,
    full: Notify,
}

impl Told {
    /// Room for `limit` announcements.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Semaphore::new(limit),
            limit,
            waiting: Mutex::default(),
            in_hand: Mutex::default(),
            added: Notify::new(),
            full: Notify::new(),
        })
    }

    /// How many announcements may be sent at once.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes `count` places, in the order of the calls. Answers false where there are none for so long that the records
    /// must be away.
    pub(super) async fn reserve(&self, count: usize) -> bool {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Ok(places) = self.places.try_acquire_many(count) {
            places.forget();
            return true;
        }
        self.full.notify_one();
        let at_most = Duration::from_millis(ANNOUNCE_AFTER_MS);
        match tokio::time::timeout(at_most, self.places.acquire_many(count)).await {
            Ok(Ok(places)) => {
                places.forget();
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Gives back a place whose announcement was not sent.
    pub(super) fn release(&self, id: &str) {
        self.in_hand.lock().remove(id);
        self.places.add_permits(1);
    }

    /// An announcement is about to be sent.
    pub(super) fn begin<'a>(&self, ids: impl Iterator<Item = &'a str>) {
        self.in_hand.lock().extend(ids.map(str::to_owned));
    }

    /// These are not sent now, and have no place.
    pub(super) fn abandon<'a>(&self, ids: impl Iterator<Item = &'a str>) {
        let mut in_hand = self.in_hand.lock();
        for id in ids {
            in_hand.remove(id);
        }
    }

    /// Whether this node is sending it or has sent it.
    pub(super) fn has(&self, id: &str) -> bool {
        self.in_hand.lock().contains(id)
    }

    /// It has been sent: its row may be deleted.
    pub(super) fn sent(&self, id: &str) {
        self.waiting.lock().push(id.to_owned());
        self.added.notify_one();
    }

    /// Waits for rows to delete, and `pause` longer for a transaction that takes them along, unless all places are taken.
    pub(super) async fn until_due(&self, pause: Duration) {
        while self.waiting.lock().is_empty() {
            self.added.notified().await;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.full.notified() => {}
        }
    }

    /// Rows to delete: no more than one statement takes, and each given to one caller alone.
    pub(super) fn claim(self: &Arc<Self>) -> Claim {
        let claim = Claim { told: Arc::clone(self), ids: Mutex::default() };
        claim.take();
        claim
    }

    /// A claim of nothing yet.
    pub(super) fn no_claim(self: &Arc<Self>) -> Arc<Claim> {
        Arc::new(Claim { told: Arc::clone(self), ids: Mutex::default() })
    }
}

/// Rows that one transaction deletes. Dropped without [`Claim::confirm`], it leaves them to the next.
#[derive(Debug)]
pub(super) struct Claim {
    told: Arc<Told>,
    ids: Mutex<Vec<String>>,
}

impl Claim {
    /// Claims what waits; answers all that is claimed now.
    pub(super) fn take(&self) -> Vec<String> {
        let mut ids = self.ids.lock();
        let mut waiting = self.told.waiting.lock();
        let count = waiting.len().min(ANNOUNCEMENTS_AT_ONCE.saturating_sub(ids.len()));
        ids.extend(waiting.drain(..count));
        ids.clone()
    }

    /// The transaction is committed: the rows are gone.
    pub(super) fn confirm(&self) {
        let gone = std::mem::take(&mut *self.ids.lock());
        if gone.is_empty() {
            return;
        }
        let mut in_hand = self.told.in_hand.lock();
        for id in &gone {
            in_hand.remove(id);
        }
        drop(in_hand);
        self.told.places.add_permits(gone.len());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let ids = std::mem::take(self.ids.get_mut());
        if !ids.is_empty() {
            self.told.waiting.lock().extend(ids);
            self.told.added.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(told: &Told, id: &str) {
        told.begin(std::iter::once(id));
        told.sent(id);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_sent_than_have_places() {
        let told = Told::new(2);
        assert!(told.reserve(2).await);
        send(&told, "a");
        send(&told, "b");
        assert!(!told.reserve(1).await, "nobody deletes the rows");
        told.claim().confirm();
        assert!(!told.has("a") && !told.has("b"));
        assert!(told.reserve(2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_place_has_the_rows_deleted_at_once() {
        let told = Told::new(1);
        assert!(told.reserve(1).await);
        send(&told, "a");
        let start = tokio::time::Instant::now();
        let (has_place, ()) = tokio::join!(told.reserve(1), async {
            told.until_due(Duration::from_secs(2)).await;
            told.claim().confirm();
        });
        assert!(has_place && start.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_transaction_did_not_commit_is_deleted_by_the_next() {
        let told = Told::new(4);
        assert!(told.reserve(2).await);
        send(&told, "a");
        send(&told, "b");
        let failed = told.no_claim();
        assert_eq!(failed.take(), ["a", "b"]);
        assert!(told.claim().take().is_empty(), "each row is deleted by one");
        drop(failed);
        assert!(told.has("a"), "not looked for as long as it has a row");
        let next = told.claim();
        assert_eq!(next.take(), ["a", "b"]);
        next.confirm();
        assert!(told.reserve(4).await);
    }
}
