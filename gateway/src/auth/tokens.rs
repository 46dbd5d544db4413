//! [`Tokens`]: the node's one way to verify a token, with keys that may change while it runs.
//!
//! A key set is fetched at the start and every minute, so a key taken out of it ends within that; a token
//! by a key that is unknown fetches it at once, but once a minute at most, whatever strangers send.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use rand::Rng as _;
use serde_json::Value;
use shared::auth::{AuthError, BadKey, Claims, KeySet, Verifier, sign_hs256};
use shared::config::{AuthConfig, TokenKeys, redact};
use shared::limits::JWKS_REFRESH_MIN_S;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::keyset::{KeySetSource, KeySetTrouble};
use crate::clock::now_s;

/// Verifies tokens, and signs them where the node holds a secret.
pub(crate) struct Tokens {
    verifier: ArcSwap<Verifier>,
    issuers: Vec<String>,
    audiences: Vec<String>,
    secret: Option<String>,
    jwks: Option<Jwks>,
}

struct Jwks {
    source: KeySetSource,
    /// What was wrong with the last fetch.
    trouble: parking_lot::Mutex<Option<KeySetTrouble>>,
    /// When an unknown key id last made us fetch.
    asked: Mutex<Option<Instant>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// The configured keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokensError {
    #[error("JWT_PUBLIC_KEY: cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("JWT_PUBLIC_KEY: {path}: {source}")]
    Key { path: String, source: BadKey },
    #[error("JWKS_URL: cannot make a client: {0}")]
    Client(reqwest::Error),
}

/// Between two tries to get the first key set, when tokens ask for it.
const FIRST_SET_PAUSE: Duration = Duration::from_secs(1);

/// A secret for a run without a configured one.
pub(crate) fn random_secret() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

impl Tokens {
    /// Sets verification up; a key set is fetched later ([`Self::run`]). `secret` is used where none is
    /// configured.
    ///
    /// # Errors
    /// [`TokensError`], for the operator.
    pub(crate) fn new(config: &AuthConfig, random: impl FnOnce() -> String) -> Result<Self, TokensError> {
        let (mut secret, mut jwks) = (None, None);
        let keys = match &config.keys {
            TokenKeys::Secret(configured) => KeySet::secret(secret.insert(configured.clone()).as_bytes()),
            TokenKeys::Random => KeySet::secret(secret.insert(random()).as_bytes()),
            TokenKeys::PublicKey(path) => read_key(path)?,
            TokenKeys::Jwks(url) => {
                let source = KeySetSource::new(url.clone()).map_err(TokensError::Client)?;
                let trouble = parking_lot::Mutex::new(Some(KeySetTrouble::NotYet));
                jwks = Some(Jwks { source, trouble, asked: Mutex::new(None) });
                KeySet::none()
            }
        };
        let (issuers, audiences) = (config.issuers.clone(), config.audiences.clone());
        let verifier = ArcSwap::from_pointee(Verifier::new(keys, issuers.clone(), audiences.clone()));
        Ok(Self { verifier, issuers, audiences, secret, jwks })
    }

    /// The claims of a token that is to be believed now.
    ///
    /// # Errors
    /// [`AuthError`].
    pub(crate) async fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        match self.verifier.load().verify(token, now_s()) {
            Err(AuthError::UnknownKey) => {}
            verified => return verified,
        }
        let Some(jwks) = &self.jwks else { return Err(AuthError::Invalid) };
        {
            // Held while fetching: others with unknown keys wait for this one answer.
            let mut asked = jwks.asked.lock().await;
            // The first set is waited for; it does not use up the look for a newer one.
            let was_ready = self.is_ready();
            let recent = if was_ready { Duration::from_secs(JWKS_REFRESH_MIN_S) } else { FIRST_SET_PAUSE };
            if asked.is_none_or(|at| at.elapsed() >= recent) {
                let fetched = self.fetch(jwks).await;
                *asked = (was_ready || !fetched).then(Instant::now);
            }
        }
        self.verifier.load().verify(token, now_s())
    }

    /// A token of `claims`, with the first issuer and audience that are configured; `None` where the node holds
    /// no secret.
    pub(crate) fn sign(&self, mut claims: Value) -> Option<String> {
        if let Some(claims) = claims.as_object_mut() {
            for (key, values) in [("iss", &self.issuers), ("aud", &self.audiences)] {
                if let Some(value) = values.first() {
                    claims.insert(key.to_owned(), value.as_str().into());
                }
            }
        }
        sign_hs256(self.secret.as_ref()?, &claims).ok()
    }

    /// Whether the node can sign tokens, so that logging in is possible.
    pub(crate) fn can_sign(&self) -> bool {
        self.secret.is_some()
    }

    /// Whether there are keys to verify with.
    pub(crate) fn is_ready(&self) -> bool {
        !self.verifier.load().is_empty()
    }

    /// What was wrong with the last fetch of the key set, where there is one. The keys of an earlier one stay good.
    pub(crate) fn trouble(&self) -> Option<KeySetTrouble> {
        *self.jwks.as_ref()?.trouble.lock()
    }

    /// Keeps the key set up to date, where there is one.
    pub(crate) async fn run(&self) {
        let Some(jwks) = &self.jwks else { return };
        loop {
            let fetched = self.fetch(jwks).await;
            let pause = if fetched { JWKS_REFRESH_MIN_S } else { 5 };
            tokio::time::sleep(Duration::from_secs(pause)).await;
        }
    }

    async fn fetch(&self, jwks: &Jwks) -> bool {
        match jwks.source.fetch().await {
            Ok(keys) => {
                let verifier = Verifier::new(keys, self.issuers.clone(), self.audiences.clone());
                *jwks.trouble.lock() = verifier.is_empty().then_some(KeySetTrouble::Empty);
                self.verifier.store(verifier.into());
                true
            }
            // The keys we have stay good: an outage of the issuer must not lock everybody out.
            Err(failed) => {
                *jwks.trouble.lock() = Some(failed.trouble);
                let (url, detail) = (jwks.source.shown(), failed.detail);
                tracing::warn!(error = %failed.trouble, detail, url, "cannot fetch the key set");
                false
            }
        }
    }
}

fn read_key(path: &Path) -> Result<KeySet, TokensError> {
    // Somebody may have set a URL there.
    let name = || redact(&path.display().to_string());
    let pem = std::fs::read(path).map_err(|source| TokensError::Read { path: name(), source })?;
    KeySet::public_key(&pem).map_err(|source| TokensError::Key { path: name(), source })
}
