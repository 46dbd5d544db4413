//! [`Tokens`]: the only way to verify a token, with keys that may change while the node runs.
//!
//! A key set is fetched at the start and every minute, so a key removed from it becomes invalid within a minute. It is
//! also fetched when a token names a key that it does not contain ([`super::jwks`]).

use std::fmt;
use std::path::Path;

use arc_swap::ArcSwap;
use base64::Engine as _;
use rand::Rng as _;
use serde_json::Value;
use shared::auth::{AuthError, BadKey, Claims, KeySet, Verifier, sign_hs256, unproven_issued_at};
use shared::config::{AuthConfig, TokenKeys, redact};

use super::jwks::Jwks;
use super::keyset::KeySetTrouble;
use super::refusals::unused;
use crate::clock::now_s;

/// Verifies tokens, and signs them if the node has a secret.
pub(crate) struct Tokens {
    verifier: ArcSwap<Verifier>,
    issuers: Vec<String>,
    audiences: Vec<String>,
    user_claim: Option<String>,
    secret: Option<String>,
    jwks: Option<Jwks>,
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

/// A random secret for a node without a configured one.
pub(crate) fn random_secret() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

impl Tokens {
    /// Sets up verification; [`Self::run`] fetches a key set later. `random` creates the secret if none is configured.
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
                jwks = Some(Jwks::new(url.clone()).map_err(TokensError::Client)?);
                KeySet::none()
            }
        };
        let (issuers, audiences) = (config.issuers.clone(), config.audiences.clone());
        let user_claim = config.user_claim.clone();
        let verifier = ArcSwap::from_pointee(Verifier::new(KeySet::none(), Vec::new(), Vec::new()));
        let tokens = Self { verifier, issuers, audiences, user_claim, secret, jwks };
        tokens.believe(keys);
        Ok(tokens)
    }

    /// Accepts tokens of these keys only from now on.
    fn believe(&self, keys: KeySet) {
        let verifier = Verifier::new(keys, self.issuers.clone(), self.audiences.clone());
        self.verifier.store(verifier.with_user_claim(self.user_claim.clone()).into());
    }

    /// The claims of a token, if it is valid now.
    ///
    /// # Errors
    /// [`AuthError`].
    pub(crate) async fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        let judge = || self.verifier.load().verify_noting(token, now_s(), &mut unused);
        match (judge(), &self.jwks) {
            (Err(AuthError::UnknownKey), Some(jwks)) if self.verifier.load().may_be_ours(token, now_s()) => {
                jwks.judge_again(unproven_issued_at(token), judge).await
            }
            (verified, _) => verified,
        }
    }

    /// Signs a token with `claims` and the first configured issuer and audience; `None` if the node has no secret.
    pub(crate) fn sign(&self, mut claims: Value) -> Option<String> {
        if let Some(claims) = claims.as_object_mut() {
            if let Some((claim, user)) = self.user_claim.clone().zip(claims.get("sub").cloned()) {
                claims.insert(claim, user);
            }
            for (key, values) in [("iss", &self.issuers), ("aud", &self.audiences)] {
                if let Some(value) = values.first() {
                    claims.insert(key.to_owned(), value.as_str().into());
                }
            }
        }
        sign_hs256(self.secret.as_ref()?, &claims).ok()
    }

    /// Whether the node can sign tokens, which logins need.
    pub(crate) fn can_sign(&self) -> bool {
        self.secret.is_some()
    }

    /// Whether the node has keys to verify tokens with.
    pub(crate) fn is_ready(&self) -> bool {
        !self.verifier.load().is_empty()
    }

    /// What was wrong with the last fetch of the key set, if any. The keys of an earlier one stay valid.
    pub(crate) fn trouble(&self) -> Option<KeySetTrouble> {
        self.jwks.as_ref()?.trouble()
    }

    /// Keeps the key set up to date, if there is one.
    pub(crate) async fn run(&self) {
        if let Some(jwks) = &self.jwks {
            jwks.run(|keys| self.believe(keys)).await;
        }
    }
}

fn read_key(path: &Path) -> Result<KeySet, TokensError> {
    // An operator may have put a URL there by mistake.
    let name = || redact(&path.display().to_string());
    let pem = std::fs::read(path).map_err(|source| TokensError::Read { path: name(), source })?;
    KeySet::public_key(&pem).map_err(|source| TokensError::Key { path: name(), source })
}
