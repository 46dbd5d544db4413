//! Live state of apps: small values, timers and places that all nodes share and that may be lost with Redis.
//!
//! Alone a node keeps them in its memory; in a cluster they are in Redis, so a value is changed by comparing and
//! swapping, a timer goes off though the node that set it is dead, and a place counts only while the node lives
//! that reported it. What must not be lost belongs into the records.

use std::fmt;
use std::time::Duration;

use shared::limits::LIVE_TRIES_MAX;

use crate::backplane::Backplane;
use crate::error::FanoutError;
use crate::fanout::Fanout;
use crate::geo::{Near, Place, metres_between};

/// The live state of a node or a cluster, made by [`Fanout::live`].
#[derive(Clone, Copy)]
pub struct Live<'a> {
    backplane: &'a Backplane,
}

impl fmt::Debug for Live<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

impl Fanout {
    /// What apps share between nodes and may lose.
    #[must_use]
    pub fn live(&self) -> Live<'_> {
        Live { backplane: &self.inner.backplane }
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

    /// Changes a value by what it is: `change` makes the new one of the old one, `None` for no value, and may be
    /// called again when another node was quicker; without a change nothing is written. Returns what was there and what
    /// is there now.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], also when others were quicker too often.
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

    /// Has a timer go off after a while, on any node; one of the same id is replaced.
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

    /// The timers that have gone off. Each goes off again after `again` unless it is cancelled, so that none is lost with
    /// the node that took it.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn due(&self, timers: &str, limit: usize, again: Duration) -> Result<Vec<String>, FanoutError> {
        self.backplane.due(timers, limit, again).await
    }

    /// Notes where somebody is, reported by a socket of this node; forgotten after `good_for`, and with this node.
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

    /// Somebody who reported a place to another node is here now: it is good though that node may go.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn adopt(&self, map: &str, id: &str) -> Result<(), FanoutError> {
        self.backplane.adopt(map, id).await
    }

    /// Forgets where somebody is.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn forget(&self, map: &str, id: &str) -> Result<(), FanoutError> {
        self.backplane.forget(map, id).await
    }

    /// Who is within `radius` metres of a place, the nearest first, at most `limit`.
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
