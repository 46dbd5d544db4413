//! Failed and successful logins, counted across all nodes.
//!
//! Each node keeps its own counts ([`Ledger`]) and decides by them. In a cluster it first reads the counts of the other
//! nodes, and shares its own: small values in the live state, changed by compare and swap. While Redis is unavailable
//! each node counts separately, so guesses are still bounded, by the limit times the number of nodes.

use std::net::IpAddr;
use std::time::Duration;

use fanout::Fanout;
use sha2::{Digest as _, Sha256};
use shared::limits::{LOGIN_KEYS_MAX, LOGIN_PLACE_KEPT_DAYS};

use super::failures::{History, Key, Ledger, Places, WINDOW_MS, Who};
use crate::clock::now_ms;
use crate::limiter::source;

/// The known failed and successful logins.
#[derive(Debug)]
pub(crate) struct Attempts {
    fanout: Fanout,
    ledger: Ledger,
}

/// An attempt to log in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt(Who);

impl Attempt {
    /// `email` must be normalized.
    pub(crate) fn new(email: &str, address: IpAddr) -> Self {
        let address = source(address).to_string();
        Self(Who { email: key(&[email]), address: key(&[&address]), pair: key(&[email, &address]) })
    }
}

fn key(parts: &[&str]) -> Key {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    digest.finalize().iter().take(size_of::<Key>()).fold(0, |key, byte| (key << 8) | Key::from(*byte))
}

/// Milliseconds rounded up to whole seconds, at least one.
fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1_000).max(1)
}

impl Attempts {
    pub(crate) fn new(fanout: Fanout) -> Self {
        Self { fanout, ledger: Ledger::new(LOGIN_KEYS_MAX) }
    }

    /// Whether the attempt may proceed, according to the counts of all nodes. `Ok` says whether the e-mail has logged
    /// in from this address before, `Err` how many seconds the client must wait.
    pub(crate) async fn admit(&self, attempt: &Attempt) -> Result<bool, u64> {
        if self.fanout.has_peers() {
            // Repeated guesses at one e-mail from one address do not load Redis.
            self.ledger.back_off(&attempt.0, now_ms()).map_or(Ok(()), |ms| Err(seconds(ms)))?;
            self.learn(&attempt.0).await;
        }
        self.wait(attempt)?;
        Ok(self.ledger.is_known(&attempt.0, now_ms()))
    }

    /// The same according to this node's counts.
    pub(crate) fn wait(&self, attempt: &Attempt) -> Result<(), u64> {
        self.ledger.wait(&attempt.0, now_ms()).map_or(Ok(()), |ms| Err(seconds(ms)))
    }

    /// Counts a wrong password: on this node at once, on all nodes when the future has completed.
    pub(crate) fn failed(&self, attempt: &Attempt) -> impl Future<Output = ()> + Send + '_ {
        let (who, now) = (attempt.0, now_ms());
        let kept_ms = self.ledger.failed(&who, now);
        async move {
            if self.fanout.has_peers() {
                tokio::join!(
                    self.share_failure(who.pair, now, kept_ms),
                    self.share_failure(who.email, now, WINDOW_MS),
                    self.share_failure(who.address, now, WINDOW_MS)
                );
            }
        }
    }

    async fn share_failure(&self, key: Key, now: u64, kept_ms: u64) {
        let add = |old: Option<&str>| {
            let mut history = History::parse(old.unwrap_or_default());
            history.note(now);
            Some(history.text())
        };
        let kept = Duration::from_millis(kept_ms);
        if let Err(error) = self.fanout.live().update(&failures_of(key), kept, add).await {
            tracing::debug!(%error, "could not share a failed login with other nodes");
        }
    }

    /// Records a login: on this node at once, on all nodes when the future has completed.
    pub(crate) fn succeeded(&self, attempt: &Attempt) -> impl Future<Output = ()> + Send + '_ {
        let (who, now) = (attempt.0, now_ms());
        self.ledger.succeeded(&who, now);
        async move {
            if self.fanout.has_peers() {
                self.share_success(&who, now).await;
            }
        }
    }

    async fn share_success(&self, who: &Who, now: u64) {
        let live = self.fanout.live();
        let kept = Duration::from_hours(24 * LOGIN_PLACE_KEPT_DAYS);
        let add = |old: Option<&str>| {
            let mut places = Places::parse(old.unwrap_or_default());
            places.note(who.address, now);
            Some(places.text())
        };
        let (places, pair) = (places_of(who.email), failures_of(who.pair));
        let (added, cleared) =
            tokio::join!(live.update(&places, kept, add), live.update(&pair, kept, |_| None));
        if let Some(error) = added.err().or(cleared.err()) {
            tracing::debug!(%error, "could not share a login with other nodes");
        }
    }

    /// Reads the counts of the other nodes.
    async fn learn(&self, who: &Who) {
        let keys = [who.pair, who.email, who.address];
        let mut names: Vec<String> = keys.iter().map(|key| failures_of(*key)).collect();
        names.push(places_of(who.email));
        let mut values = match self.fanout.live().get(&names).await {
            Ok(values) => values,
            Err(error) => {
                tracing::debug!(%error, "could not read the failed logins of other nodes");
                return;
            }
        };
        let now = now_ms();
        if let Some(places) = values.pop().flatten() {
            self.ledger.learn_places(who.email, &Places::parse(&places), now);
        }
        for (key, value) in keys.into_iter().zip(values) {
            if let Some(history) = value {
                self.ledger.learn_failures(key, &History::parse(&history), now);
            }
        }
    }
}

fn failures_of(key: Key) -> String {
    format!("login:failed:{key:032x}")
}

fn places_of(email: Key) -> String {
    format!("login:from:{email:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_address() {
        let attempt = |address: &str| Attempt::new("ann@example.com", address.parse().unwrap()).0;
        assert_eq!(attempt("2001:db8::1"), attempt("2001:db8::2"));
        assert_ne!(attempt("2001:db8::1").address, attempt("2001:db8:0:1::1").address);
    }

    #[test]
    fn an_e_mail_is_no_pair_and_no_address() {
        let who = Attempt::new("192.0.2.1", "192.0.2.1".parse().unwrap()).0;
        assert_ne!(who.email, who.pair);
    }

    #[test]
    fn seconds_are_never_too_few() {
        assert_eq!([1, 999, 1_000, 1_001, 60_000].map(seconds), [1, 1, 1, 2, 60]);
    }
}
