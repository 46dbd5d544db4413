//! Counts messages of other servers, or parts of them, that this node cannot use. Logs the reason, for an operator who
//! looks for a message that did not arrive.

use std::sync::Arc;

use tokio::time::Instant;

use crate::rate_limited_log::RateLimitedLog;
use crate::stats::Stats;

/// Characters of a channel's name in the log.
const SHOWN: usize = 200;

/// The counter and the log.
#[derive(Debug)]
pub(crate) struct Rejected {
    stats: Arc<Stats>,
    logged: RateLimitedLog<&'static str>,
}

impl Rejected {
    pub(crate) fn new(stats: Arc<Stats>) -> Self {
        Self { stats, logged: RateLimitedLog::new() }
    }

    /// Counts a message on `channel`. The reason is logged once a minute.
    pub(crate) fn note(&self, reason: &'static str, channel: &str) {
        Stats::add(&self.stats.redis_malformed, 1);
        if let Some(left_out) = self.logged.due(reason, Instant::now().into_std()) {
            let channel: String = channel.chars().take(SHOWN).collect();
            tracing::warn!(reason, ?channel, left_out, "cannot use a message from another server");
        }
    }
}
