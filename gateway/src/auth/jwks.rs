//! The key set while the node runs: when it is fetched, and how long tokens wait for it.
//!
//! The node fetches it every minute, and when a token names a key that the set does not contain. The sender of such a
//! token may be a user whose issuer has a new key, or a stranger; the node does not know before it has the set. So:
//!
//! - A token that any key would refuse (another issuer, another audience, expired) triggers no fetch.
//! - A token that was issued before the set was fetched, or does not say when it was issued, triggers one fetch per
//!   [`JWKS_ASKED_PAUSE_S`].
//! - A token that is newer than the set triggers a fetch even right after a stranger's, once per
//!   [`JWKS_NEWER_PAUSE_MS`], and waits for it.
//!
//! While the set cannot be fetched, a token that may be valid waits for up to [`JWKS_HOLD_MS`]. Then the node makes its
//! client reconnect instead of calling the token invalid, which would keep the client away.

use std::time::Duration;

use fanout::RateLimitedLog;
use shared::auth::{AuthError, KeySet};
use shared::config::SecretUrl;
use shared::limits::{
    CLOCK_SKEW_S, JWKS_ASKED_PAUSE_S, JWKS_HOLD_MS, JWKS_NEWER_PAUSE_MS, JWKS_REFRESH_S, JWKS_RETRY_S,
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::keyset::{Failed, KeySetSource, KeySetTrouble};
use crate::clock::now_s;

/// The pause between two attempts to fetch the key set while tokens wait for it.
const RETRY_FOR_TOKENS: Duration = Duration::from_secs(1);

/// A key set at a URL.
pub(super) struct Jwks {
    source: KeySetSource,
    state: watch::Sender<State>,
    /// Notified when a token needs a fetch.
    asked: Notify,
    troubles: RateLimitedLog<KeySetTrouble>,
}

/// The history of fetches.
#[derive(Debug, Clone, Copy)]
struct State {
    /// What was wrong with the last fetch.
    trouble: Option<KeySetTrouble>,
    /// When the last fetch began.
    began: Option<Instant>,
    /// A fetch is in progress, or about to begin because of a token.
    is_coming: bool,
    /// When the fetch of the current set began, in seconds since the epoch.
    is_of: Option<u64>,
    /// When a token that need not be newer than the set last triggered a fetch.
    asked_at: Option<Instant>,
}

impl Jwks {
    /// The set at `url`; [`Self::run`] fetches it.
    ///
    /// # Errors
    /// If no HTTP client can be created.
    pub(super) fn new(url: SecretUrl) -> Result<Self, reqwest::Error> {
        let state = State {
            trouble: Some(KeySetTrouble::NotYet),
            began: None,
            is_coming: false,
            is_of: None,
            asked_at: None,
        };
        let source = KeySetSource::new(url)?;
        Ok(Self {
            source,
            state: watch::Sender::new(state),
            asked: Notify::new(),
            troubles: RateLimitedLog::new(),
        })
    }

    /// What was wrong with the last fetch. The keys of an earlier one stay valid.
    pub(super) fn trouble(&self) -> Option<KeySetTrouble> {
        self.state.borrow().trouble
    }

    /// Keeps the set up to date; passes each new one to `take`.
    pub(super) async fn run(&self, take: impl Fn(KeySet)) {
        loop {
            let of = now_s();
            self.state.send_modify(|state| (state.began, state.is_coming) = (Some(Instant::now()), true));
            let trouble = match self.source.fetch().await {
                Ok(keys) => {
                    take(keys);
                    None
                }
                // The current keys stay valid: an outage of the issuer must not lock out all users.
                Err(failed) => Some(self.complain(&failed)),
            };
            self.state.send_modify(|state| {
                (state.trouble, state.is_coming) = (trouble, false);
                if trouble.is_none() {
                    state.is_of = Some(of);
                }
            });
            let pause = if trouble.is_none() { JWKS_REFRESH_S } else { JWKS_RETRY_S };
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(pause)) => {}
                () = self.wanted() => {}
            }
        }
    }

    /// Waits until a token needs a fetch.
    async fn wanted(&self) {
        // Several tokens may ask for the same fetch; a leftover notification is no new request.
        while !self.state.borrow().is_coming {
            self.asked.notified().await;
        }
    }

    fn complain(&self, failed: &Failed) -> KeySetTrouble {
        let (trouble, detail, url) = (failed.trouble, &failed.detail, self.source.shown());
        if self.troubles.due(trouble, std::time::Instant::now()).is_some() {
            let (error, kept) = (trouble.to_string(), self.state.borrow().is_of.is_some());
            tracing::warn!(error, detail, url, kept, "cannot fetch the key set");
        }
        trouble
    }

    /// Verifies a token with an unknown key again after fetching newer keys, if the fetch is worthwhile. `issued_at` is
    /// the token's time of issue.
    ///
    /// # Errors
    /// The error from `judge`; [`AuthError::Unavailable`] if the set could not be fetched in time.
    pub(super) async fn judge_again<T>(
        &self,
        issued_at: Option<u64>,
        judge: impl Fn() -> Result<T, AuthError>,
    ) -> Result<T, AuthError> {
        let came = Instant::now();
        let deadline = came + Duration::from_millis(JWKS_HOLD_MS);
        let mut states = self.state.subscribe();
        loop {
            let state = *states.borrow_and_update();
            match judge() {
                Err(AuthError::UnknownKey) => {}
                judged => return judged,
            }
            let may_be_newer = state.may_be_older_than(issued_at);
            let is_answered = !state.is_coming && state.began.is_some_and(|began| began > came);
            if is_answered && (state.trouble.is_none() || !may_be_newer) {
                return Err(AuthError::UnknownKey);
            }
            let Some(wait) = self.ask(may_be_newer) else { return Err(AuthError::UnknownKey) };
            tokio::select! {
                _ = states.changed() => {}
                () = tokio::time::sleep_until(wait.unwrap_or(deadline).min(deadline)) => {}
            }
            if Instant::now() >= deadline {
                return Err(if may_be_newer { AuthError::Unavailable } else { AuthError::UnknownKey });
            }
        }
    }

    /// Requests a fetch if one is allowed now. Returns until when to wait before asking again: `Some(None)` waits until
    /// the state changes, `None` means that a fetch is not worthwhile.
    fn ask(&self, may_be_newer: bool) -> Option<Option<Instant>> {
        let now = Instant::now();
        let mut answer = Some(None);
        self.state.send_if_modified(|state| {
            if state.is_coming {
                return false;
            }
            let pause = state.pause(may_be_newer);
            let last = if may_be_newer { state.began } else { state.asked_at };
            let due = last.map(|last| last + pause).filter(|due| *due > now);
            if due.is_some() {
                answer = may_be_newer.then_some(due);
                return false;
            }
            state.is_coming = true;
            if !may_be_newer {
                state.asked_at = Some(now);
            }
            true
        });
        self.asked.notify_one();
        answer
    }
}

impl State {
    /// Whether a token may be newer than the set: there is no set, or the token says so.
    fn may_be_older_than(&self, issued_at: Option<u64>) -> bool {
        self.is_of.is_none_or(|of| issued_at.is_some_and(|at| at.saturating_add(CLOCK_SKEW_S) >= of))
    }

    fn pause(&self, may_be_newer: bool) -> Duration {
        match (may_be_newer, self.trouble) {
            (true, Some(_)) => RETRY_FOR_TOKENS,
            (true, None) => Duration::from_millis(JWKS_NEWER_PAUSE_MS),
            (false, _) => Duration::from_secs(JWKS_ASKED_PAUSE_S),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::FutureExt as _;

    use super::*;

    fn jwks() -> Jwks {
        Jwks::new(SecretUrl::new("http://127.0.0.1:9/".to_owned())).unwrap()
    }

    /// Simulates the fetching task: it begins a moment after everything before, and ends with this trouble.
    async fn fetched(jwks: &Jwks, trouble: Option<KeySetTrouble>) {
        tokio::time::advance(Duration::from_millis(1)).await;
        jwks.state.send_modify(|state| {
            *state = State { trouble, began: Some(Instant::now()), is_coming: false, ..*state };
            if trouble.is_none() {
                state.is_of = Some(1_000);
            }
        });
    }

    fn is_wanted(jwks: &Jwks) -> bool {
        jwks.state.borrow().is_coming
    }

    fn unknown() -> Result<(), AuthError> {
        Err(AuthError::UnknownKey)
    }

    const OLD: Option<u64> = Some(900);
    const NEW: Option<u64> = Some(1_001);

    #[tokio::test(start_paused = true)]
    async fn without_a_set_a_token_waits_and_its_client_should_reconnect() {
        let (jwks, came) = (jwks(), Instant::now());
        assert_eq!(jwks.judge_again(None, unknown).await, Err(AuthError::Unavailable));
        assert_eq!(came.elapsed(), Duration::from_millis(JWKS_HOLD_MS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_judged_by_the_set_that_comes_while_it_waits() {
        let (jwks, has_come) = (jwks(), AtomicBool::new(false));
        let judge = || if has_come.load(Ordering::Relaxed) { Ok(()) } else { unknown() };
        let mut judged = pin!(jwks.judge_again(None, judge));
        assert!(judged.as_mut().now_or_never().is_none() && is_wanted(&jwks));
        fetched(&jwks, Some(KeySetTrouble::Refused)).await;
        assert!(judged.as_mut().now_or_never().is_none(), "it is tried again");
        has_come.store(true, Ordering::Relaxed);
        fetched(&jwks, None).await;
        assert_eq!(judged.await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_trigger_rare_fetches_and_are_answered_at_once() {
        let jwks = jwks();
        fetched(&jwks, None).await;
        for (issued_at, about) in [(None, "does not say"), (OLD, "is older than the set")] {
            {
                let mut first = pin!(jwks.judge_again(issued_at, unknown));
                assert!(first.as_mut().now_or_never().is_none() && is_wanted(&jwks), "{about}");
                fetched(&jwks, None).await;
                assert_eq!(first.await, Err(AuthError::UnknownKey));
            }
            for _ in 0..100 {
                let later = jwks.judge_again(issued_at, unknown).now_or_never();
                assert_eq!(later, Some(Err(AuthError::UnknownKey)), "{about}");
            }
            assert!(!is_wanted(&jwks));
            tokio::time::advance(Duration::from_secs(JWKS_ASKED_PAUSE_S)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_with_a_new_key_triggers_a_fetch_even_after_a_strangers() {
        let (jwks, has_come) = (jwks(), AtomicBool::new(false));
        fetched(&jwks, None).await;
        assert!(jwks.judge_again(None, unknown).now_or_never().is_none());
        fetched(&jwks, None).await;
        let judge = || if has_come.load(Ordering::Relaxed) { Ok(()) } else { unknown() };
        let mut judged = pin!(jwks.judge_again(NEW, judge));
        assert!(
            judged.as_mut().now_or_never().is_none() && !is_wanted(&jwks),
            "not before the pause is over"
        );
        tokio::time::advance(Duration::from_millis(JWKS_NEWER_PAUSE_MS)).await;
        assert!(judged.as_mut().now_or_never().is_none() && is_wanted(&jwks));
        has_come.store(true, Ordering::Relaxed);
        fetched(&jwks, None).await;
        assert_eq!(judged.await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn where_newer_keys_cannot_be_fetched_it_depends_on_the_tokens_age() {
        let jwks = jwks();
        fetched(&jwks, None).await;
        for (issued_at, expected) in [(OLD, AuthError::UnknownKey), (NEW, AuthError::Unavailable)] {
            let mut judged = pin!(jwks.judge_again(issued_at, unknown));
            assert!(judged.as_mut().now_or_never().is_none());
            fetched(&jwks, Some(KeySetTrouble::TooSlow)).await;
            assert_eq!(judged.await, Err(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_arrives_during_a_fetch_waits_for_it() {
        let jwks = jwks();
        fetched(&jwks, None).await;
        let (mut first, mut second) =
            (pin!(jwks.judge_again(None, unknown)), pin!(jwks.judge_again(None, unknown)));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        fetched(&jwks, None).await;
        assert_eq!((first.await, second.await), (Err(AuthError::UnknownKey), Err(AuthError::UnknownKey)));
    }
}
