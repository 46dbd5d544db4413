//! Passwords (argon2id with the library's recommended cost).

use argon2::Argon2;
use argon2::password_hash::{Error, PasswordHasher as _, PasswordVerifier as _};

/// The text to store for a password.
///
/// # Errors
/// What the library says, should the system have no randomness.
pub(crate) fn hash(password: &str) -> Result<String, Error> {
    Ok(Argon2::default().hash_password(password.as_bytes())?.to_string())
}

/// Whether `password` is the one behind `hash`. Slow on purpose: not on a worker thread.
pub(crate) fn matches(password: &str, hash: &str) -> bool {
    Argon2::default().verify_password(password.as_bytes(), hash).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_matches_its_own_hash_only() {
        let stored = hash("correct horse").unwrap();
        assert!(stored.starts_with("$argon2id$"));
        assert!(matches("correct horse", &stored));
        assert!(!matches("battery staple", &stored));
        assert!(!matches("correct horse", "not a hash"));
    }
}
