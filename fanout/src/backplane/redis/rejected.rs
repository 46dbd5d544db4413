//! Messages of other servers, or parts of them, that this node cannot use: counted, and logged with the reason, so that
//! an operator who looks for what did not arrive finds it.

use std::sync::Arc;

use tokio::time::Instant;

use crate::rate_limited_log::RateLimitedLog;
use crate::stats::Stats;

/// Characters of a channel's name that are logged.
const SHOWN: usize = 200;

/// Counts them.
#[derive(Debug)]
pub(crate) struct Rejected {
    stats: Arc<Stats>,
    logged: RateLimitedLog<&'static str>,
}

impl Rejected {
    pub(crate) fn new(stats: Arc<Stats>) -> Self {
        Self { stats, logged: RateLimitedLog::new() }
    }

    /// One has come on `channel`. The reason is logged once a minute.
    pub(crate) fn note(&self, reason: &'static str, channel: &str) {
        Stats::add(&self.stats.redis_malformed, 1);
        if let Some(left_out) = self.logged.due(reason, Instant::now().into_std()) {
            let channel: String = channel.chars().take(SHOWN).collect();
            tracing::warn!(reason, ?channel, left_out, "what a server sent through Redis cannot be used");
        }
    }
}
