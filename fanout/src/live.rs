//! Live state of apps: small values, timers and places that all nodes share and that may be lost with Redis.
//!
//! A single node keeps them in memory. In a cluster they are in Redis: a value changes by compare-and-swap, a timer fires
//! even if the node that set it is dead, and a place counts only while the node that reported it lives. Anything that
//! must not be lost belongs in the records.

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
    /// The live state that apps share between nodes and may lose.
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
