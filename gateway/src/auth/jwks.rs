//! The key set while the node runs: when it is fetched, and how long tokens wait for it.
//!
//! It is fetched every minute, and when a token is by a key that is not in it. Who sends such a token may be a user
//! whose issuer has a new key, or a stranger, and nobody knows which before the set is there. So:
//!
//! - A token that would be refused by any key (another issuer, another audience, expired) has nothing fetched.
//! - A token that says that it is older than the set, or does not say when it was issued, has it fetched once in
//!   [`JWKS_ASKED_PAUSE_S`].
//! - A token that is newer than the set has it fetched though a stranger had just done so, once in
//!   [`JWKS_NEWER_PAUSE_MS`], and waits for that.
//!
//! While the set cannot be fetched, a token that may be good waits for up to [`JWKS_HOLD_MS`]. Then its client is told
//! to come back, and not that the token is invalid: it would not come back.

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

/// Between two tries to get a key set, when tokens wait for it.
const RETRY_FOR_TOKENS: Duration = Duration::from_secs(1);

/// A key set at a URL.
pub(super) struct Jwks {
    source: KeySetSource,
    state: watch::Sender<State>,
    /// A token wants the set to be fetched.
    asked: Notify,
    troubles: RateLimitedLog<KeySetTrouble>,
}

/// How the set was fetched so far.
#[derive(Debug, Clone, Copy)]
struct State {
    /// What was wrong with the last fetch.
    trouble: Option<KeySetTrouble>,
    /// When the last fetch began.
    began: Option<Instant>,
    /// A fetch is under way, or about to begin because a token asked for it.
    is_coming: bool,
    /// When the set that is used was asked for, in seconds since the epoch.
    is_of: Option<u64>,
    /// When a token last asked that need not be newer than the set.
    asked_at: Option<Instant>,
}

impl Jwks {
    /// The set at `url`; nothing is fetched before [`Self::run`].
    ///
    /// # Errors
    /// When no client for HTTP can be made.
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

    /// What was wrong with the last fetch. The keys of an earlier one stay good.
    pub(super) fn trouble(&self) -> Option<KeySetTrouble> {
        self.state.borrow().trouble
    }

    /// Keeps the set up to date; `take` is given each new one.
    pub(super) async fn run(&self, take: impl Fn(KeySet)) {
        loop {
            let of = now_s();
            self.state.send_modify(|state| (state.began, state.is_coming) = (Some(Instant::now()), true));
            let trouble = match self.source.fetch().await {
                Ok(keys) => {
                    take(keys);
                    None
                }
                // The keys we have stay good: an outage of the issuer must not lock everybody out.
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

    /// Waits until a token asks for a fetch.
    async fn wanted(&self) {
        // Several ask for one; what is left of them is no wish for another.
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

    /// Judges a token by an unknown key again when newer keys have come, if it is worth fetching them for it.
    /// `issued_at` is when the token says that it was issued.
    ///
    /// # Errors
    /// What `judge` answers; [`AuthError::Unavailable`] where the set could not be fetched in time.
    pub(super) async fn judge_anew<T>(
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

    /// Asks for a fetch, where one may be asked for now. Answers until when to wait before asking again: without a time
    /// until the state changes, and not at all where it is not worth it.
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
    /// Whether a token may be newer than the set: there is none, or the token says so.
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

    /// What the task does that fetches: it begins, a moment after whatever was before, and ends with this trouble.
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
    async fn without_any_set_a_token_waits_and_its_client_is_to_come_back() {
        let (jwks, came) = (jwks(), Instant::now());
        assert_eq!(jwks.judge_anew(None, unknown).await, Err(AuthError::Unavailable));
        assert_eq!(came.elapsed(), Duration::from_millis(JWKS_HOLD_MS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_judged_by_the_set_that_comes_while_it_waits() {
        let (jwks, has_come) = (jwks(), AtomicBool::new(false));
        let judge = || if has_come.load(Ordering::Relaxed) { Ok(()) } else { unknown() };
        let mut judged = pin!(jwks.judge_anew(None, judge));
        assert!(judged.as_mut().now_or_never().is_none() && is_wanted(&jwks));
        fetched(&jwks, Some(KeySetTrouble::Refused)).await;
        assert!(judged.as_mut().now_or_never().is_none(), "it is tried again");
        has_come.store(true, Ordering::Relaxed);
        fetched(&jwks, None).await;
        assert_eq!(judged.await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_have_the_set_fetched_now_and_then_and_are_answered_at_once() {
        let jwks = jwks();
        fetched(&jwks, None).await;
        for (issued_at, about) in [(None, "does not say"), (OLD, "is older than the set")] {
            {
                let mut first = pin!(jwks.judge_anew(issued_at, unknown));
                assert!(first.as_mut().now_or_never().is_none() && is_wanted(&jwks), "{about}");
                fetched(&jwks, None).await;
                assert_eq!(first.await, Err(AuthError::UnknownKey));
            }
            for _ in 0..100 {
                let later = jwks.judge_anew(issued_at, unknown).now_or_never();
                assert_eq!(later, Some(Err(AuthError::UnknownKey)), "{about}");
            }
            assert!(!is_wanted(&jwks));
            tokio::time::advance(Duration::from_secs(JWKS_ASKED_PAUSE_S)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_by_a_new_key_has_the_set_fetched_after_a_stranger_did() {
        let (jwks, has_come) = (jwks(), AtomicBool::new(false));
        fetched(&jwks, None).await;
        assert!(jwks.judge_anew(None, unknown).now_or_never().is_none());
        fetched(&jwks, None).await;
        let judge = || if has_come.load(Ordering::Relaxed) { Ok(()) } else { unknown() };
        let mut judged = pin!(jwks.judge_anew(NEW, judge));
        assert!(judged.as_mut().now_or_never().is_none() && !is_wanted(&jwks), "not before its time");
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
            let mut judged = pin!(jwks.judge_anew(issued_at, unknown));
            assert!(judged.as_mut().now_or_never().is_none());
            fetched(&jwks, Some(KeySetTrouble::TooSlow)).await;
            assert_eq!(judged.await, Err(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_the_set_is_fetched_waits_for_it() {
        let jwks = jwks();
        fetched(&jwks, None).await;
        let (mut first, mut second) =
            (pin!(jwks.judge_anew(None, unknown)), pin!(jwks.judge_anew(None, unknown)));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        fetched(&jwks, None).await;
        assert_eq!((first.await, second.await), (Err(AuthError::UnknownKey), Err(AuthError::UnknownKey)));
    }
}
