//! Live state of apps: small values, timers and places that all nodes share and that may be lost with Redis.
//!
//! A single node keeps them in memory. In a cluster they are in Redis: a value changes by compare-and-swap, a timer fires
//! even if the node that set it is dead, and a place counts only while the node that reported it lives. Anything that
//! must not be lost belongs in the records.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use shared::backoff::Backoff;
use shared::limits::{LIVE_LOCK_MS, LIVE_LOCK_WAIT_MS, LIVE_LOCKED_WORK_MS, LIVE_TRIES_MAX};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::backplane::Backplane;
use crate::error::FanoutError;
use crate::fanout::Fanout;
use crate::geo::{Near, Place, metres_between};
use crate::local::turns::Turns;

/// The pauses of a caller that waits for a lock: about as long as work takes that waits for all nodes.
const LOCK_PAUSE_MIN: Duration = Duration::from_millis(2);
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(50);

/// The live state of a node or a cluster, made by [`Fanout::live`].
#[derive(Clone, Copy)]
pub struct Live<'a> {
    backplane: &'a Backplane,
    turns: &'a Turns,
}

impl fmt::Debug for Live<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

/// Runs `work` until `end`. Unlike [`timeout_at`], it looks at the clock first: a node that was stopped meanwhile must not
/// order anything.
async fn before<T>(end: Instant, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut over) = (pin!(work), pin!(sleep_until(end)));
    poll_fn(|cx| {
        if Instant::now() >= end || over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

impl Fanout {
    /// The live state that apps share between nodes and may lose.
    #[must_use]
    pub fn live(&self) -> Live<'_> {
        Live { backplane: &self.inner.backplane, turns: &self.inner.turns }
    }
}

impl Live<'_> {
    /// The values of some keys.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn get(&self, keys: &[String]) -> Result<Vec<Option<String>>, FanoutError> {
        self.backplane.get(keys).await
    }

    /// Updates a value: `change` computes the new value from the old one (`None`: no value). It is called again when
    /// another node was faster. Without a change nothing is written. Returns the old and the new value.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], also when other nodes were faster too often.
    pub async fn update(
        &self,
        key: &str,
        kept: Duration,
        change: impl Fn(Option<&str>) -> Option<String> + Send + Sync,
    ) -> Result<(Option<String>, Option<String>), FanoutError> {
        let keys = [key.to_owned()];
        for _ in 0..LIVE_TRIES_MAX {
            let before = self.get(&keys).await?.pop().flatten();
            let after = change(before.as_deref());
            if after == before {
                return Ok((before, after));
            }
            if self.backplane.swap(key, (before.as_deref(), after.as_deref()), kept).await? {
                return Ok((before, after));
            }
        }
        Err(FanoutError::Unavailable)
    }

    /// Runs `work` while no other caller on any node runs work under the same key. All nodes carry out what `work` orders
    /// before what the next caller's work orders. Where the order of two connections to Redis would decide that, the lock is
    /// not released, and expires after `LIVE_LOCK_MS`.
    ///
    /// # Errors
    /// Those of `work`; [`FanoutError::Unavailable`] when it took longer than `LIVE_LOCKED_WORK_MS`, when another caller held
    /// the lock for longer than `LIVE_LOCK_WAIT_MS`, and without Redis.
    pub async fn exclusively<T, E: From<FanoutError>>(
        &self,
        key: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let owner = format!("{:016x}", rand::random::<u64>());
        let kept = Duration::from_millis(LIVE_LOCK_MS);
        let until = Instant::now() + Duration::from_millis(LIVE_LOCK_WAIT_MS);
        // Only one caller of a node asks Redis for a lock.
        let turn = timeout_at(until, self.turns.take(key)).await.map_err(|_| FanoutError::Unavailable)?;
        let mut pauses = Backoff::new(LOCK_PAUSE_MIN, LOCK_PAUSE_MAX);
        let mut generation;
        let locked_at = loop {
            let now = Instant::now();
            generation = self.backplane.generation();
            match self.backplane.swap(key, (None, Some(&owner)), kept).await {
                Ok(true) => break now,
                Ok(false) => {}
                Err(error) => {
                    // Redis may have set it all the same.
                    self.backplane.release(key, &owner, (generation, false));
                    return Err(error.into());
                }
            }
            if now >= until {
                return Err(FanoutError::Unavailable.into());
            }
            sleep(pauses.pause(rand::random())).await;
        };
        let end = locked_at + Duration::from_millis(LIVE_LOCKED_WORK_MS);
        let outcome = before(end, work).await.unwrap_or_else(|| Err(FanoutError::Unavailable.into()));
        self.backplane.release(key, &owner, (generation, outcome.is_ok()));
        drop(turn);
        outcome
    }

    /// Schedules a timer, which may fire on any node. It replaces a timer of the same id.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn schedule(&self, timers: &str, id: &str, after: Duration) -> Result<(), FanoutError> {
        self.backplane.schedule(timers, id, after).await
    }

    /// Cancels a timer.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn cancel(&self, timers: &str, id: &str) -> Result<(), FanoutError> {
        self.backplane.cancel(timers, id).await
    }

    /// Takes timers that have fired. Each fires again after `again` unless it is cancelled, so that no timer is lost with
    /// the node that took it.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn due(&self, timers: &str, limit: usize, again: Duration) -> Result<Vec<String>, FanoutError> {
        self.backplane.due(timers, limit, again).await
    }

    /// Stores a place that a socket of this node has reported, for `good_for` and while this node lives.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn put(
        &self,
        map: &str,
        id: &str,
        place: Place,
        good_for: Duration,
    ) -> Result<(), FanoutError> {
        self.backplane.put(map, id, place, good_for).await
    }

    /// Takes over a place that was reported to another node: it stays valid if that node stops.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn adopt(&self, map: &str, id: &str) -> Result<(), FanoutError> {
        self.backplane.adopt(map, id).await
    }

    /// Forgets a place.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn forget(&self, map: &str, id: &str) -> Result<(), FanoutError> {
        self.backplane.forget(map, id).await
    }

    /// The entries within `radius` metres of a place, the nearest first, at most `limit`.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn near(
        &self,
        map: &str,
        place: Place,
        radius: f64,
        limit: usize,
    ) -> Result<Vec<Near>, FanoutError> {
        let mut near = self.backplane.around(map, place, radius, limit).await?;
        for found in &mut near {
            found.metres = metres_between(place, found.place);
        }
        near.retain(|found| found.metres <= radius);
        near.sort_by(|a, b| a.metres.total_cmp(&b.metres));
        near.truncate(limit);
        Ok(near)
    }
}
