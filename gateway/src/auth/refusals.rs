//! Refused tokens: counted, and said in the log.
//!
//! A client is told that its token is invalid, and no more. Whoever runs the node needs to know why: the reason is in
//! `muster_tokens_refused_total`, and in the log at most once a minute for each reason, lest clients fill it. The name of
//! the claim at fault is told, its value never.

use std::net::IpAddr;
use std::time::Instant;

use fanout::RateLimitedLog;
use shared::auth::AuthError;

use crate::metrics;

static REFUSED: RateLimitedLog<&'static str> = RateLimitedLog::new();

static UNUSED: RateLimitedLog<&'static str> = RateLimitedLog::new();

/// Counts a refused token and says why it was refused. `place` is where it was given: a namespace, `auth:refresh` or
/// REST.
pub(crate) fn refused(error: &AuthError, place: &str, address: Option<IpAddr>) {
    metrics::get().token_refused(error);
    let reason = error.reason();
    let Some(left_out) = REFUSED.due(reason, Instant::now()) else { return };
    let (claim, address) = (error.claim(), address.map(tracing::field::display));
    tracing::info!(reason, claim, place, address, left_out, "a token is refused");
}

/// Says that tokens have a claim that cannot be used here.
pub(super) fn unused(claim: &'static str) {
    if let Some(left_out) = UNUSED.due(claim, Instant::now()) {
        tracing::info!(
            claim,
            left_out,
            "a token has a claim that cannot be used: it is as if it were absent"
        );
    }
}
