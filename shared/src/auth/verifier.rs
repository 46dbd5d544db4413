//! Whether a token is to be believed.
//!
//! The algorithm is fixed by the configured key, never by the token (contract, "Identity"). Header fields
//! that name keys elsewhere (`jku`, `jwk`, `x5u`, `x5c`) are not read at all.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value};

use super::claims::{Claims, seconds};
use crate::limits::{CLOCK_SKEW_S, TOKEN_MAX_BYTES};

/// Why a token is refused. The texts are the contract's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There was none.
    #[error("Authentication required")]
    Missing,
    /// Not a token, not by our key, or its claims are not what they must be.
    #[error("Invalid token")]
    Invalid,
    /// Its time is over.
    #[error("Token expired")]
    Expired,
    /// By our key, and its time has not begun.
    #[error("Invalid token")]
    Early,
    /// Signed by a key that the set does not hold: worth one look for a newer set.
    #[error("Invalid token")]
    UnknownKey,
}

impl AuthError {
    /// The stable code in a refusal's `data`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "auth_required",
            Self::Invalid | Self::Early | Self::UnknownKey => "invalid_token",
            Self::Expired => "token_expired",
        }
    }
}

/// A configured key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Not a public key in PEM that we can verify with.
    #[error("expected a PEM public key: RSA, EC P-256 or Ed25519")]
    Pem,
    /// Not a JSON Web Key Set.
    #[error("expected a JSON Web Key Set")]
    Jwks,
}

struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The keys a verifier believes.
pub struct KeySet {
    by_id: HashMap<String, Key>,
    /// For tokens without a key id: the configured key, or a set's only one.
    default: Option<Key>,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("ids", &self.by_id.keys()).finish_non_exhaustive()
    }
}

impl KeySet {
    /// No keys: nothing is believed.
    #[must_use]
    pub fn none() -> Self {
        Self { by_id: HashMap::new(), default: None }
    }

    fn one(algorithm: Algorithm, key: DecodingKey) -> Self {
        Self { by_id: HashMap::new(), default: Some(Key { algorithm, key }) }
    }

    /// HS256 by a shared secret.
    #[must_use]
    pub fn secret(secret: &[u8]) -> Self {
        Self::one(Algorithm::HS256, DecodingKey::from_secret(secret))
    }

    /// RS256, ES256 or EdDSA, whichever the key in `pem` is for.
    ///
    /// # Errors
    /// [`BadKey::Pem`].
    pub fn public_key(pem: &[u8]) -> Result<Self, BadKey> {
        let rsa = DecodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key));
        let ec = || DecodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key));
        let ed = || DecodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key));
        let (algorithm, key) = rsa.or_else(|_| ec()).or_else(|_| ed()).map_err(|_| BadKey::Pem)?;
        Ok(Self::one(algorithm, key))
    }

    /// The usable keys of a JSON Web Key Set; symmetric and unknown ones are left out.
    ///
    /// # Errors
    /// [`BadKey::Jwks`] when it is no key set.
    pub fn jwks(json: &[u8]) -> Result<Self, BadKey> {
        let set: JwkSet = serde_json::from_slice(json).map_err(|_| BadKey::Jwks)?;
        let mut by_id = HashMap::new();
        let mut anonymous = Vec::new();
        for jwk in &set.keys {
            let Some(key) = key_of(jwk) else { continue };
            match &jwk.common.key_id {
                Some(id) => drop(by_id.insert(id.clone(), key)),
                None => anonymous.push(key),
            }
        }
        let default = if by_id.is_empty() && anonymous.len() == 1 { anonymous.pop() } else { None };
        Ok(Self { by_id, default })
    }

    fn find(&self, id: Option<&str>) -> Option<&Key> {
        match id {
            // A single configured key is the key, whatever the token calls it.
            Some(id) => self.by_id.get(id).or(self.default.as_ref()),
            None if self.by_id.len() == 1 => self.by_id.values().next(),
            None => self.default.as_ref(),
        }
    }
}

fn key_of(jwk: &Jwk) -> Option<Key> {
    if jwk.common.public_key_use.as_ref().is_some_and(|u| *u != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    Some(Key { algorithm, key: DecodingKey::from_jwk(jwk).ok()? })
}

/// Verifies tokens by a fixed set of keys and, where set, an issuer and an audience.
#[derive(Debug)]
pub struct Verifier {
    keys: KeySet,
    issuers: Vec<String>,
    audiences: Vec<String>,
}

impl Verifier {
    /// A verifier; a token must carry one of `issuers` and one of `audiences` where there are any.
    #[must_use]
    pub fn new(keys: KeySet, issuers: Vec<String>, audiences: Vec<String>) -> Self {
        Self { keys, issuers, audiences }
    }

    /// Whether there is no key to believe.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.by_id.is_empty() && self.keys.default.is_none()
    }

    /// The claims of `token` if it is to be believed at `now` (seconds since the epoch).
    ///
    /// # Errors
    /// [`AuthError`]; [`AuthError::UnknownKey`] asks for newer keys where there may be any.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Missing);
        }
        if token.len() > TOKEN_MAX_BYTES {
            return Err(AuthError::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Invalid)?;
        if has_critical(token) {
            return Err(AuthError::Invalid);
        }
        let key = self.keys.find(header.kid.as_deref()).ok_or(AuthError::UnknownKey)?;
        let decoded =
            jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &self.validation(key.algorithm));
        let json = decoded.map_err(|_| AuthError::Invalid)?.claims;
        let claims = Claims::from_json(&json).ok_or(AuthError::Invalid)?;
        if let Some(not_before) = json.get("nbf").filter(|v| !v.is_null()) {
            let not_before = seconds(not_before).ok_or(AuthError::Invalid)?;
            if not_before > now + CLOCK_SKEW_S {
                return Err(AuthError::Early);
            }
        }
        if claims.expires_at + CLOCK_SKEW_S <= now {
            return Err(AuthError::Expired);
        }
        Ok(claims)
    }

    /// Signature, issuer and audience are the library's; times are ours, because the clock is the caller's.
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.validate_aud = !self.audiences.is_empty();
        validation.required_spec_claims.clear();
        if !self.issuers.is_empty() {
            validation.set_issuer(&self.issuers);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        if !self.audiences.is_empty() {
            validation.set_audience(&self.audiences);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        validation
    }
}

/// Whether a token's header says that some of it must be understood (`crit`; RFC 7515, 4.1.11). No such extension is
/// known here, so such a token is not valid, whatever `crit` holds.
fn has_critical(token: &str) -> bool {
    let head = token.split('.').next().unwrap_or_default();
    let Ok(json) = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(head) else { return true };
    serde_json::from_slice::<Map<String, Value>>(&json).map_or(true, |head| head.contains_key("crit"))
}

/// A token of `claims` signed by a shared secret.
///
/// # Errors
/// What the library says, should signing fail.
pub fn sign_hs256(secret: &str, claims: &Value) -> Result<String, jsonwebtoken::errors::Error> {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn verifier() -> Verifier {
        Verifier::new(KeySet::secret(b"s3cret"), Vec::new(), Vec::new())
    }

    fn token(claims: &Value) -> String {
        sign_hs256("s3cret", claims).unwrap()
    }

    #[test]
    fn a_token_of_our_secret_is_believed_until_it_expires() {
        let claims = token(&json!({"sub": "u", "exp": NOW}));
        assert!(verifier().verify(&claims, NOW + CLOCK_SKEW_S - 1).is_ok());
        assert_eq!(verifier().verify(&claims, NOW + CLOCK_SKEW_S), Err(AuthError::Expired));
    }

    #[test]
    fn a_token_that_begins_later_is_not_believed_yet() {
        let claims = token(&json!({"sub": "u", "exp": NOW + 60, "nbf": NOW + CLOCK_SKEW_S + 1}));
        assert_eq!(verifier().verify(&claims, NOW), Err(AuthError::Early));
        assert_eq!(AuthError::Early.code(), AuthError::Invalid.code());
        assert_eq!(AuthError::Early.to_string(), AuthError::Invalid.to_string());
        assert!(verifier().verify(&claims, NOW + 1).is_ok());
    }

    #[test]
    fn nothing_and_rubbish_are_told_apart() {
        assert_eq!(verifier().verify("", NOW), Err(AuthError::Missing));
        for bad in ["a.b", "a.b.c", "....", &"x".repeat(9 * 1024)] {
            assert_eq!(verifier().verify(bad, NOW), Err(AuthError::Invalid), "{bad}");
        }
        let other = sign_hs256("other", &json!({"sub": "u", "exp": NOW + 60})).unwrap();
        assert_eq!(verifier().verify(&other, NOW), Err(AuthError::Invalid));
    }

    #[test]
    fn the_token_does_not_choose_the_algorithm() {
        let (_, rest) = token(&json!({"sub": "u", "exp": NOW + 60}))
            .split_once('.')
            .map(|(h, r)| (h.to_owned(), r.to_owned()))
            .unwrap();
        // {"alg":"none"}, and HS512 by the same secret.
        assert_eq!(verifier().verify(&format!("eyJhbGciOiJub25lIn0.{rest}"), NOW), Err(AuthError::Invalid));
        let hs512 = jsonwebtoken::encode(
            &Header::new(Algorithm::HS512),
            &json!({"sub": "u", "exp": NOW + 60}),
            &EncodingKey::from_secret(b"s3cret"),
        )
        .unwrap();
        assert_eq!(verifier().verify(&hs512, NOW), Err(AuthError::Invalid));
    }

    #[test]
    fn a_token_with_critical_extensions_is_not_valid() {
        let sign = |crit: Value| {
            let part =
                |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
            let mut head = json!({"alg": "HS256", "typ": "JWT"});
            if crit != json!("none") {
                head["crit"] = crit;
            }
            let signed = format!("{}.{}", part(&head), part(&json!({"sub": "u", "exp": NOW + 60})));
            let key = EncodingKey::from_secret(b"s3cret");
            let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
            format!("{signed}.{signature}")
        };
        assert!(verifier().verify(&sign(json!("none")), NOW).is_ok());
        for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!(null), json!("b64"), json!({"b64": 1})]
        {
            assert_eq!(verifier().verify(&sign(crit.clone()), NOW), Err(AuthError::Invalid), "{crit}");
        }
    }

    #[test]
    fn issuer_and_audience_are_required_where_set() {
        let strict = Verifier::new(
            KeySet::secret(b"s3cret"),
            vec!["me".into(), "myself".into()],
            vec!["us".into(), "them all".into()],
        );
        let with = |iss: Value, aud: Value| {
            strict.verify(&token(&json!({"sub": "u", "exp": NOW + 60, "iss": iss, "aud": aud})), NOW)
        };
        assert!(with(json!("me"), json!("us")).is_ok());
        assert!(with(json!("me"), json!(["x", "us"])).is_ok());
        assert!(with(json!("myself"), json!("them all")).is_ok(), "any of several");
        assert_eq!(with(json!("me,myself"), json!("us")), Err(AuthError::Invalid));
        assert_eq!(with(json!("you"), json!("us")), Err(AuthError::Invalid));
        assert_eq!(with(json!("me"), json!("them")), Err(AuthError::Invalid));
        assert_eq!(
            strict.verify(&token(&json!({"sub": "u", "exp": NOW + 60})), NOW),
            Err(AuthError::Invalid)
        );
    }
}
