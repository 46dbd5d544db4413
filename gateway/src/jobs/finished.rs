//! Finished jobs of this node whose rows are still in the records.
//!
//! A crash repeats exactly these. A single node therefore bounds the events among them: an event takes a slot before it
//! is delivered and frees it when its row is deleted. Jobs of apps need none, because they check the records
//! themselves. The next transaction that enqueues jobs deletes the rows, which needs no separate commit;
//! [`super::delete_finished`] does it if there is no such transaction.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shared::limits::{JOBS_AT_ONCE, JOBS_DOUBT_MS};
use tokio::sync::{Notify, Semaphore};

/// A row to be deleted.
#[derive(Debug)]
struct Row {
    id: String,
    has_place: bool,
}

/// The finished jobs of this node whose rows are not deleted yet, and all jobs that the node holds.
#[derive(Debug)]
pub(super) struct Finished {
    places: Semaphore,
    /// Maximum number of events.
    limit: usize,
    /// Rows that no transaction has claimed.
    waiting: Mutex<Vec<Row>>,
    /// Rows that a transaction could not delete: they were deleted before, or another transaction was changing them.
    skipped: Mutex<Vec<Row>>,
    /// Jobs of this node, from enqueueing until their rows are deleted. A look at the records skips them.
    held: Mutex<HashSet<String>>,
    added: Notify,
    full: Notify,
}

impl Finished {
    /// Room for `limit` events.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Semaphore::new(limit),
            limit,
            waiting: Mutex::default(),
            skipped: Mutex::default(),
            held: Mutex::default(),
            added: Notify::new(),
            full: Notify::new(),
        })
    }

    /// Maximum number of events delivered at once.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes `count` slots; callers are served in order. Returns false if none becomes free for so long that the
    /// database must be unavailable.
    pub(super) async fn reserve(&self, count: usize) -> bool {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Ok(places) = self.places.try_acquire_many(count) {
            places.forget();
            return true;
        }
        self.full.notify_one();
        let at_most = Duration::from_millis(JOBS_DOUBT_MS);
        match tokio::time::timeout(at_most, self.places.acquire_many(count)).await {
            Ok(Ok(places)) => {
                places.forget();
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Frees the slot of an event that was not delivered.
    pub(super) fn release(&self) {
        self.places.add_permits(1);
    }

    /// Records that this node holds a job. Returns false if it did already.
    pub(super) fn hold(&self, id: &str) -> bool {
        self.held.lock().insert(id.to_owned())
    }

    /// Records that this node no longer holds a job: its transaction was not committed, or another node has taken it
    /// over.
    pub(super) fn let_go(&self, id: &str) {
        self.held.lock().remove(id);
    }

    /// How many jobs this node holds.
    pub(super) fn count_held(&self) -> usize {
        self.held.lock().len()
    }

    /// Records that a job is done, so its row may be deleted. `has_place`: the job has a slot.
    pub(super) fn finish(&self, id: &str, has_place: bool) {
        self.waiting.lock().push(Row { id: id.to_owned(), has_place });
        self.added.notify_one();
    }

    /// Waits for rows to delete, and up to `pause` longer for a transaction that deletes them, unless all slots are
    /// taken.
    pub(super) async fn until_due(&self, pause: Duration) {
        while self.waiting.lock().is_empty() && self.skipped.lock().is_empty() {
            self.added.notified().await;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.full.notified() => {}
        }
    }

    /// Claims rows to delete, those that a transaction skipped first: at most as many as one statement takes. Each row
    /// goes to one caller only.
    pub(super) fn claim(self: &Arc<Self>) -> Claim {
        let claim = self.no_claim();
        {
            let mut skipped = self.skipped.lock();
            let count = skipped.len().min(JOBS_AT_ONCE);
            claim.rows.lock().extend(skipped.drain(..count));
        }
        claim.take();
        claim
    }

    /// An empty claim.
    pub(super) fn no_claim(self: &Arc<Self>) -> Claim {
        Claim { finished: Arc::clone(self), rows: Mutex::default() }
    }
}

/// Rows that one transaction deletes. Dropped without [`Claim::confirm`], the claim leaves them to the next.
#[derive(Debug)]
pub(super) struct Claim {
    finished: Arc<Finished>,
    rows: Mutex<Vec<Row>>,
}

impl Claim {
    /// Claims the waiting rows. Returns everything claimed so far.
    pub(super) fn take(&self) -> Vec<String> {
        let mut rows = self.rows.lock();
        let mut waiting = self.finished.waiting.lock();
        let count = waiting.len().min(JOBS_AT_ONCE.saturating_sub(rows.len()));
        rows.extend(waiting.drain(..count));
        rows.iter().map(|row| row.id.clone()).collect()
    }

    /// Restricts the claim to the rows that the transaction deletes. [`super::delete_finished`] deletes the others.
    pub(super) fn keep_to(&self, deleted: &HashSet<String>) {
        let mut rows = self.rows.lock();
        if deleted.len() == rows.len() {
            return;
        }
        let (kept, skipped) =
            std::mem::take(&mut *rows).into_iter().partition(|row| deleted.contains(&row.id));
        *rows = kept;
        self.finished.skipped.lock().extend::<Vec<Row>>(skipped);
        self.finished.added.notify_one();
    }

    /// The transaction is committed, so the rows are deleted.
    pub(super) fn confirm(&self) {
        let deleted = std::mem::take(&mut *self.rows.lock());
        if deleted.is_empty() {
            return;
        }
        let mut held = self.finished.held.lock();
        for row in &deleted {
            held.remove(&row.id);
        }
        drop(held);
        self.finished.places.add_permits(deleted.iter().filter(|row| row.has_place).count());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let rows = std::mem::take(self.rows.get_mut());
        if !rows.is_empty() {
            self.finished.waiting.lock().extend(rows);
            self.finished.added.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(finished: &Finished, id: &str) {
        assert!(finished.hold(id));
        finished.finish(id, true);
    }

    fn holds(finished: &Finished, id: &str) -> bool {
        finished.held.lock().contains(id)
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_events_are_delivered_than_have_places() {
        let finished = Finished::new(2);
        assert!(finished.reserve(2).await);
        finish(&finished, "a");
        finish(&finished, "b");
        assert!(!finished.reserve(1).await, "no row is deleted");
        finished.claim().confirm();
        assert!(!holds(&finished, "a") && !holds(&finished, "b"));
        assert!(finished.reserve(2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn rows_are_deleted_at_once_where_an_event_waits_for_a_place() {
        let finished = Finished::new(1);
        assert!(finished.reserve(1).await);
        finish(&finished, "a");
        let start = tokio::time::Instant::now();
        let (has_place, ()) = tokio::join!(finished.reserve(1), async {
            finished.until_due(Duration::from_secs(2)).await;
            finished.claim().confirm();
        });
        assert!(has_place && start.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn rows_that_a_transaction_skipped_stay_until_they_are_deleted() {
        let finished = Finished::new(2);
        assert!(finished.reserve(2).await);
        finish(&finished, "a");
        finish(&finished, "b");
        let first = finished.no_claim();
        first.take();
        first.keep_to(&HashSet::from(["a".to_owned()]));
        first.confirm();
        assert!(!holds(&finished, "a") && holds(&finished, "b"));
        assert!(finished.no_claim().take().is_empty(), "no transaction of an app tries it again");
        finished.until_due(Duration::ZERO).await;
        let second = finished.claim();
        assert_eq!(second.take(), ["b"]);
        second.confirm();
        assert!(finished.reserve(2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn rows_of_a_transaction_that_failed_are_deleted_by_the_next() {
        let finished = Finished::new(4);
        assert!(finished.reserve(2).await);
        finish(&finished, "a");
        finish(&finished, "b");
        let failed = finished.no_claim();
        assert_eq!(failed.take(), ["a", "b"]);
        assert!(finished.claim().take().is_empty(), "each row is deleted by one transaction");
        drop(failed);
        assert!(holds(&finished, "a"), "the node holds it as long as it has a row");
        let next = finished.claim();
        assert_eq!(next.take(), ["a", "b"]);
        next.confirm();
        assert!(finished.reserve(4).await);
    }
}
