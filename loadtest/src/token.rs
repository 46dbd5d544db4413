//! The tokens of connections.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::json;

/// Longer than any run, so that no socket is disconnected because its token has expired.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The source of the CONNECT packet's auth payload.
#[derive(Clone, Debug)]
pub(crate) enum Tokens {
    /// No payload at all.
    None,
    /// All connections are the same user.
    One(String),
    /// Every connection is a different user, with a token signed with the server's secret.
    Minted(Secret),
}

/// A signing secret that does not show in logs.
#[derive(Clone)]
pub(crate) struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Tokens {
    /// A given token wins over a secret to mint with.
    pub(crate) fn new(token: Option<&str>, secret: Option<&str>) -> Self {
        match (token, secret) {
            (Some(token), _) => Self::One(token.to_owned()),
            (None, Some(secret)) => Self::Minted(Secret(secret.to_owned())),
            (None, None) => Self::None,
        }
    }

    /// The auth payload of connection number `user`: empty, or `{"token":"…"}`.
    pub(crate) fn auth(&self, user: usize) -> Result<String> {
        let token = match self {
            Self::None => return Ok(String::new()),
            Self::One(token) => token.clone(),
            Self::Minted(secret) => mint(&secret.0, user)?,
        };
        Ok(json!({ "token": token }).to_string())
    }
}

/// A token for user `load-<user>` that may join and publish everywhere.
fn mint(secret: &str, user: usize) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let claims = json!({
        "sub": format!("load-{user}"),
        "exp": (now + LIFETIME).as_secs(),
        "rooms": ["*"],
        "publish": ["*"],
    });
    shared::auth::sign_hs256(secret, &claims).context("signing a token")
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::auth::{KeySet, Verifier};

    #[test]
    fn a_given_token_is_sent_as_it_is_and_no_token_as_nothing() {
        assert_eq!(Tokens::new(None, None).auth(3).unwrap(), "");
        let given = Tokens::new(Some("abc"), Some("secret"));
        assert_eq!(given.auth(3).unwrap(), r#"{"token":"abc"}"#);
    }

    #[test]
    fn every_connection_is_minted_a_user_of_its_own_that_may_do_everything() {
        let secret = "a secret of at least thirty-two bytes";
        let tokens = Tokens::new(None, Some(secret));
        let verifier = Verifier::new(KeySet::secret(secret.as_bytes()), Vec::new(), Vec::new());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        for user in [0, 14_999] {
            let auth: serde_json::Value = serde_json::from_str(&tokens.auth(user).unwrap()).unwrap();
            let token = auth["token"].as_str().unwrap();
            let claims = verifier.verify(token, now.as_secs()).unwrap();
            assert_eq!(claims.user.as_str(), format!("load-{user}"));
            assert!(claims.may_join("r0") && claims.may_publish("r0"));
        }
    }

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        let tokens = Tokens::new(None, Some("hush"));
        assert!(!format!("{tokens:?}").contains("hush"));
    }
}
