//! The key set at `JWKS_URL`: how it is fetched, and why a fetch failed.

use std::error::Error;
use std::io;
use std::time::Duration;

use shared::auth::{BadKey, KeySet};
use shared::config::SecretUrl;
use shared::limits::{JWKS_MAX_BYTES, JWKS_TIMEOUT_MS};

/// The location of the key set.
#[derive(Debug)]
pub(super) struct KeySetSource {
    url: SecretUrl,
    client: reqwest::Client,
}

/// Why a key set was not accepted: a sentence for the log and for `/ready`, without the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum KeySetTrouble {
    #[error("it has not been fetched yet")]
    NotYet,
    #[error("the name of its host cannot be resolved")]
    Dns,
    #[error("the connection was refused")]
    Refused,
    #[error("its host cannot be reached")]
    Unreachable,
    #[error(
        "TLS failed: is its certificate valid, for this name, and by an authority that the system trusts?"
    )]
    Tls,
    #[error("it took longer than {JWKS_TIMEOUT_MS} ms")]
    TooSlow,
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("the answer was cut off or redirected too often")]
    Broken,
    #[error("the answer is larger than {JWKS_MAX_BYTES} bytes")]
    TooBig,
    #[error("the answer is no JSON Web Key Set")]
    NotAKeySet,
    #[error("it holds no key that can be used")]
    Empty,
}

/// A failed fetch: the summary, and the library's error for the log.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) trouble: KeySetTrouble,
    pub(super) detail: String,
}

impl From<KeySetTrouble> for Failed {
    fn from(trouble: KeySetTrouble) -> Self {
        Self { trouble, detail: String::new() }
    }
}

impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        let is_https = error.url().is_some_and(|url| url.scheme() == "https");
        let error = error.without_url();
        let detail = innermost(&error).to_string();
        Self { trouble: trouble_of(&error, is_https), detail }
    }
}

impl From<BadKey> for Failed {
    fn from(_: BadKey) -> Self {
        KeySetTrouble::NotAKeySet.into()
    }
}

impl KeySetSource {
    /// A source at `url`; fetches nothing yet. Each fetch, from the DNS lookup to the last byte, may take
    /// `JWKS_TIMEOUT_MS`.
    ///
    /// # Errors
    /// If no HTTP client can be created.
    pub(super) fn new(url: SecretUrl) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(Duration::from_millis(JWKS_TIMEOUT_MS)).build();
        client.map(|client| Self { url, client }).map_err(reqwest::Error::without_url)
    }

    /// The URL without credentials.
    pub(super) fn shown(&self) -> String {
        self.url.to_string()
    }

    /// Fetches the set, which contains at least one usable key.
    pub(super) async fn fetch(&self) -> Result<KeySet, Failed> {
        let mut response = self.client.get(self.url.expose()).send().await?;
        if !response.status().is_success() {
            return Err(KeySetTrouble::Status(response.status().as_u16()).into());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > JWKS_MAX_BYTES {
                return Err(KeySetTrouble::TooBig.into());
            }
            body.extend_from_slice(&chunk);
        }
        let keys = KeySet::jwks(&body)?;
        // An issuer that lost its keys must not cause a refusal of all users.
        if keys.is_empty() { Err(KeySetTrouble::Empty.into()) } else { Ok(keys) }
    }
}

fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

fn trouble_of(error: &reqwest::Error, is_https: bool) -> KeySetTrouble {
    if error.is_timeout() {
        return KeySetTrouble::TooSlow;
    }
    if !error.is_connect() {
        return KeySetTrouble::Broken;
    }
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && io.raw_os_error().is_some()
        {
            let is_refused = io.kind() == io::ErrorKind::ConnectionRefused;
            return if is_refused { KeySetTrouble::Refused } else { KeySetTrouble::Unreachable };
        }
        if cause.to_string().starts_with("dns error") {
            return KeySetTrouble::Dns;
        }
        source = cause.source();
    }
    // The host was reached, and the system reports no error.
    if is_https { KeySetTrouble::Tls } else { KeySetTrouble::Unreachable }
}
