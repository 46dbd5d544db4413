//! Counts and logs refused tokens.
//!
//! A client learns only that its token is invalid. The operator needs the reason: `muster_tokens_refused_total` counts
//! by reason, and the log has at most one line per minute and reason, so that clients cannot flood it. The log names
//! the claim at fault, never its value.

use std::net::IpAddr;
use std::time::Instant;

use fanout::RateLimitedLog;
use shared::auth::AuthError;

use crate::metrics;

static REFUSED: RateLimitedLog<&'static str> = RateLimitedLog::new();

static UNUSED: RateLimitedLog<&'static str> = RateLimitedLog::new();

/// Counts and logs a refused token. `place` is where the client sent it: a namespace, `auth:refresh` or REST.
pub(crate) fn refused(error: &AuthError, place: &str, address: Option<IpAddr>) {
    metrics::get().token_refused(error);
    let reason = error.reason();
    let Some(left_out) = REFUSED.due(reason, Instant::now()) else { return };
    let (claim, address) = (error.claim(), address.map(tracing::field::display));
    tracing::info!(reason, claim, place, address, left_out, "a token is refused");
}

/// Logs that tokens have a claim that the node cannot use.
pub(super) fn unused(claim: &'static str) {
    if let Some(left_out) = UNUSED.due(claim, Instant::now()) {
        tracing::info!(
            claim,
            left_out,
            "a token has an unusable claim, which is treated as if it were absent"
        );
    }
}
