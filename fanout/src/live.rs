//! Live state of apps: small values, timers and places that all nodes share and that may be lost with Redis.
//!
//! Alone a node keeps them in its memory; in a cluster they are in Redis, so a value is changed by comparing and
//! swapping, a timer goes off though the node that set it is dead, and a place counts only while the node lives
//! that told it. What must not be lost belongs into the records.

use std::time::Duration;

use shared::limits::LIVE_TRIES_MAX;

use crate::backplane::memory::live::Memory;
use crate::backplane::redis::live::LiveStore;
use crate::geo::{Place, metres_between};

use crate::error::FanoutError;
use crate::fanout::{Backplane, Fanout};

/// Somebody near a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Near {
    /// Who.
    pub id: String,
    /// Where.
    pub place: Place,
    /// How far, along a great circle.
    pub metres: f64,
}

/// The live state of a node or a cluster, made by [`Fanout::live`].
#[derive(Debug, Clone, Copy)]
pub struct Live<'a> {
    fanout: &'a Fanout,
}

/// Where it is kept.
enum Kept<'a> {
    Here(&'a Memory),
    Redis(LiveStore<'a>),
}

impl Fanout {
    /// What apps share between nodes and may lose.
    #[must_use]
    pub fn live(&self) -> Live<'_> {
        Live { fanout: self }
    }
}

impl Live<'_> {
    fn kept(&self) -> Kept<'_> {
        match &self.fanout.inner.backplane {
            Backplane::InProcess { live, .. } => Kept::Here(live),
            Backplane::Redis { cluster, .. } => Kept::Redis(LiveStore { cluster }),
        }
    }

    /// The values of some keys.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn get(&self, keys: &[String]) -> Result<Vec<Option<String>>, FanoutError> {
        match self.kept() {
            Kept::Here(memory) => Ok(keys.iter().map(|key| memory.get(key)).collect()),
            Kept::Redis(store) => store.get(keys).await,
        }
    }

    /// Changes a value by what it is: `change` makes the new one of the old one, `None` for no value, and may be
    /// called again when another node was quicker; without a change nothing is written. Answers what was there and what
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
            let swapped = match self.kept() {
                Kept::Here(memory) => memory.swap(key, before.as_deref(), after.as_deref(), kept)?,
                Kept::Redis(store) => store.swap(key, (before.as_deref(), after.as_deref()), kept).await?,
            };
            if swapped {
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
        match self.kept() {
            Kept::Here(memory) => memory.schedule(timers, id, after),
            Kept::Redis(store) => store.schedule(timers, id, after).await,
        }
    }

    /// Has a timer go off no more.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn cancel(&self, timers: &str, id: &str) -> Result<(), FanoutError> {
        match self.kept() {
            Kept::Here(memory) => {
                memory.cancel(timers, id);
                Ok(())
            }
            Kept::Redis(store) => store.cancel(timers, id).await,
        }
    }

    /// The timers that have gone off. Each goes off again after `again` unless it is cancelled, so that none is lost with
    /// the node that was told.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn due(&self, timers: &str, limit: usize, again: Duration) -> Result<Vec<String>, FanoutError> {
        match self.kept() {
            Kept::Here(memory) => Ok(memory.due(timers, limit, again)),
            Kept::Redis(store) => store.due(timers, limit, again).await,
        }
    }

    /// Notes where somebody is, told by a socket of this node; forgotten after `good_for`, and with this node.
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
        match self.kept() {
            Kept::Here(memory) => memory.put(map, id, place, good_for),
            Kept::Redis(store) => store.put(map, id, place, good_for).await,
        }
    }

    /// Somebody whose place another node was told is here now: it is good though that node may go.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn adopt(&self, map: &str, id: &str) -> Result<(), FanoutError> {
        match self.kept() {
            Kept::Here(_) => Ok(()),
            Kept::Redis(store) => store.adopt(map, id).await,
        }
    }

    /// Forgets where somebody is.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn forget(&self, map: &str, id: &str) -> Result<(), FanoutError> {
        match self.kept() {
            Kept::Here(memory) => {
                memory.forget(map, id);
                Ok(())
            }
            Kept::Redis(store) => store.forget(map, id).await,
        }
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
        let mut near = match self.kept() {
            Kept::Here(memory) => memory.all(map),
            Kept::Redis(store) => store.around(map, place, radius, limit).await?,
        };
        for found in &mut near {
            found.metres = metres_between(place, found.place);
        }
        near.retain(|found| found.metres <= radius);
        near.sort_by(|a, b| a.metres.total_cmp(&b.metres));
        near.truncate(limit);
        Ok(near)
    }
}
