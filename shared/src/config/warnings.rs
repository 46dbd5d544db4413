//! Warns of valid but unsafe settings: guessable secrets, and keys fetched without encryption.

use super::{Config, Scrubber, Sensitivity, TokenKeys};

/// Bytes of a secret of HS256: as many as its hash has (RFC 7518, 3.2).
const SECRET_MIN_BYTES: usize = 32;

/// Bytes of a bearer token, and of the key of the webhook's signatures.
const TOKEN_MIN_BYTES: usize = 16;

/// Different bytes below which a secret is a pattern.
const DIFFERENT_MIN: usize = 8;

/// Values from examples, and other common choices.
const COMMON: &[&str] = &[
    "changeme",
    "password",
    "passw0rd",
    "letmein",
    "qwerty",
    "12345678",
    "example",
    "yoursecret",
    "yourjwtsecret",
];

impl Config {
    /// Warnings about valid settings. No sentence contains a value.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut found = self.notes.clone();
        found.extend(self.idle_settings());
        let mut look = |key: &str, secret: &str, least: usize| {
            if secret.len() < least {
                found.push(format!("{key} is shorter than {least} bytes and can be guessed"));
            } else if is_weak(secret) {
                found.push(format!("{key} looks like an example or a pattern and can be guessed"));
            }
        };
        if let TokenKeys::Secret(secret) = &self.auth.keys {
            look("JWT_SECRET", secret, SECRET_MIN_BYTES);
        }
        if let Some(token) = &self.auth.internal_token {
            look("INTERNAL_TOKEN", &token.0, TOKEN_MIN_BYTES);
        }
        let of_apps = self.app_settings();
        for (setting, text) in &of_apps {
            if setting.sensitivity() == Sensitivity::Secret {
                look(&setting.setting().key.to_uppercase(), text, TOKEN_MIN_BYTES);
            }
        }
        if let TokenKeys::Jwks(url) = &self.auth.keys
            && is_open(url.expose())
        {
            found.push("JWKS_URL is not https: an attacker on the network can replace the keys".to_owned());
        }
        for (setting, text) in of_apps {
            if let Sensitivity::WebAddress { open_line } = setting.sensitivity()
                && is_open(text)
            {
                found.push(format!("{} is not https: {open_line}", setting.setting().key.to_uppercase()));
            }
        }
        found
    }

    /// Every secret that is set, to be removed from log lines.
    #[must_use]
    pub fn scrubber(&self) -> Scrubber {
        let mut scrubber = Scrubber::default();
        match &self.auth.keys {
            TokenKeys::Secret(secret) => scrubber.secret(secret),
            TokenKeys::Jwks(url) => scrubber.url(url.expose()),
            TokenKeys::Random | TokenKeys::PublicKey(_) => {}
        }
        if let Some(token) = &self.auth.internal_token {
            scrubber.secret(&token.0);
        }
        for (setting, text) in self.app_settings() {
            match setting.sensitivity() {
                Sensitivity::Plain => {}
                Sensitivity::Secret => scrubber.secret(text),
                Sensitivity::WebAddress { .. } => scrubber.url(text),
            }
        }
        scrubber.url(&self.database_url.0);
        if let Some(password) = self.cluster.as_ref().and_then(|cluster| cluster.redis.password.as_ref()) {
            scrubber.secret(&password.0);
        }
        scrubber
    }
}

/// Whether a secret of sufficient length is a common or repetitive one.
fn is_weak(secret: &str) -> bool {
    let plain: String =
        secret.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let mut seen = [false; 256];
    secret.bytes().for_each(|byte| seen[usize::from(byte)] = true);
    let different = seen.iter().filter(|seen| **seen).count();
    different < DIFFERENT_MIN || COMMON.iter().any(|common| plain.contains(common))
}

/// Whether a URL leads over a network without encryption.
fn is_open(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let is_local = host.starts_with("localhost") || host.starts_with("127.") || host.starts_with("[::1]");
    !is_local
}

#[cfg(test)]
mod tests {
    use super::super::{Layer, Layers};

    fn warnings(values: &[(&str, &str)]) -> Vec<String> {
        let mut layers = Layers::default();
        layers.set(Layer::Environment, "mounts", "emergencies=/emergencies");
        for (key, value) in values {
            layers.set(Layer::Environment, key, value);
        }
        layers.resolve().unwrap().warnings()
    }

    #[test]
    fn short_and_common_secrets_are_found() {
        let good = "0f6c2a9be1d84c7aa35b9e6210d7f48c";
        assert_eq!(warnings(&[("jwt_secret", good), ("internal_token", &good[..16])]), Vec::<String>::new());
        assert_eq!(warnings(&[]), Vec::<String>::new());
        for (key, value, said) in [
            ("jwt_secret", &good[..31], "JWT_SECRET is shorter than 32 bytes"),
            ("jwt_secret", "change-me-before-anybody-else-can-reach-this", "JWT_SECRET looks like"),
            ("jwt_secret", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "JWT_SECRET looks like"),
            ("jwt_secret", "your-256-bit-secret-your-256-bit-secret-password", "JWT_SECRET looks like"),
            ("internal_token", "change-me-too", "INTERNAL_TOKEN is shorter than 16 bytes"),
            ("internal_token", "1212121212121212", "INTERNAL_TOKEN looks like"),
            ("jwks_url", "http://keys.example/jwks", "JWKS_URL is not https"),
        ] {
            let found = warnings(&[(key, value)]);
            assert!(found.len() == 1 && found[0].starts_with(said), "{key}={value}: {found:?}");
            assert!(!found[0].contains(value), "{found:?}");
        }
        for url in ["http://127.0.0.1:8000/jwks", "http://localhost/jwks", "https://keys.example/jwks"] {
            assert_eq!(warnings(&[("jwks_url", url)]), Vec::<String>::new());
        }
        let push = [("push_webhook_url", "http://u:p@push.example/"), ("push_webhook_secret", "short")];
        assert_eq!(warnings(&push).len(), 2);
    }
}
