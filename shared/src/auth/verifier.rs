//! Verifies tokens.
//!
//! The configured key determines the algorithm, never the token (contract, "Identity"). Header fields that refer to
//! other keys (`jku`, `jwk`, `x5u`, `x5c`) are not read at all.

use base64::Engine as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::claims::{Claims, seconds};
use super::keys::KeySet;
use super::refusal::{AuthError, Fault};
use crate::json::{read, without_lone_surrogates};
use crate::limits::{CLOCK_SKEW_S, TOKEN_MAX_BYTES};

/// Verifies tokens with a fixed set of keys and, if set, an issuer and an audience.
#[derive(Debug)]
pub struct Verifier {
    keys: KeySet,
    issuers: Vec<String>,
    audiences: Vec<String>,
    user_claim: Option<String>,
}

impl Verifier {
    /// A verifier; a token must carry one of `issuers` and one of `audiences`, if there are any.
    #[must_use]
    pub fn new(keys: KeySet, issuers: Vec<String>, audiences: Vec<String>) -> Self {
        Self { keys, issuers, audiences, user_claim: None }
    }

    /// Reads the user's id from this claim only.
    #[must_use]
    pub fn with_user_claim(self, user_claim: Option<String>) -> Self {
        Self { user_claim, ..self }
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The claims of `token` if it is valid at `now` (seconds since the epoch).
    ///
    /// # Errors
    /// [`AuthError`]; [`AuthError::UnknownKey`] calls for newer keys, if there may be any.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, AuthError> {
        self.verify_noting(token, now, &mut |_| {})
    }

    /// As [`Self::verify`]; `unused` is called with the name of each present but unusable optional claim.
    ///
    /// # Errors
    /// Those of [`Self::verify`].
    pub fn verify_noting(
        &self,
        token: &str,
        now: u64,
        unused: &mut dyn FnMut(&'static str),
    ) -> Result<Claims, AuthError> {
        let token = without_scheme(token);
        let key_id = key_id_of(token)?;
        let key = self.keys.find(key_id.as_deref()).ok_or(AuthError::UnknownKey)?;
        let decoded = jsonwebtoken::decode::<Box<RawValue>>(token, &key.key, &self.validation(key.algorithm));
        let claims = decoded.map_err(|error| AuthError::Invalid(error.into()))?.claims;
        let json: Map<String, Value> = read(claims.get()).map_err(|_| AuthError::Invalid(Fault::Form))?;
        let read = self.read(&json, now, unused)?;
        // Replaced surrogates must not turn two users into one.
        let has_half = || without_lone_surrogates(claims.get()).is_some();
        if read.user.as_str().contains(char::REPLACEMENT_CHARACTER) && has_half() {
            return Err(AuthError::Invalid(Fault::Form));
        }
        Ok(read)
    }

    fn read(
        &self,
        json: &Map<String, Value>,
        now: u64,
        unused: &mut dyn FnMut(&'static str),
    ) -> Result<Claims, AuthError> {
        let read = Claims::read(json, self.user_claim.as_deref(), unused);
        let claims = read.map_err(|bad| AuthError::Invalid(bad.into()))?;
        if let Some(not_before) = json.get("nbf").filter(|v| !v.is_null()) {
            let not_before = seconds(not_before).ok_or(AuthError::Invalid(Fault::Time("nbf")))?;
            if not_before > now + CLOCK_SKEW_S {
                return Err(AuthError::Early);
            }
        }
        if claims.expires_at + CLOCK_SKEW_S <= now {
            return Err(AuthError::Expired);
        }
        Ok(claims)
    }

    /// Whether a token with an unknown key id could be valid: its unverified content has an algorithm of key sets, our
    /// issuer and audience, and is valid now. Any key would refuse another token, so it is not worth fetching newer
    /// keys.
    #[must_use]
    pub fn may_be_ours(&self, token: &str, now: u64) -> bool {
        let token = without_scheme(token);
        let (Some(head), Some(json)) = (part(token, 0), unproven(token)) else { return false };
        if !head
            .get("alg")
            .and_then(Value::as_str)
            .is_some_and(|alg| ["RS256", "ES256", "EdDSA"].contains(&alg))
        {
            return false;
        }
        let is = |value: &Value, expected: &str| value.as_str() == Some(expected);
        let is_for = |expected: &str| match json.get("aud") {
            Some(Value::Array(all)) => all.iter().any(|one| is(one, expected)),
            Some(one) => is(one, expected),
            None => false,
        };
        let is_from = |issuer: &String| json.get("iss").is_some_and(|iss| is(iss, issuer));
        (self.issuers.is_empty() || self.issuers.iter().any(is_from))
            && (self.audiences.is_empty() || self.audiences.iter().any(|audience| is_for(audience)))
            && self.read(&json, now, &mut |_| {}).is_ok()
    }

    /// The library checks signature, issuer and audience; the caller owns the clock, so this module checks the times.
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

/// A token without the scheme of an `Authorization` header.
fn without_scheme(token: &str) -> &str {
    match token.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start_matches(' '),
        _ => token,
    }
}

/// The header field with extensions that must be understood (RFC 7515, 4.1.11). None is known here, so a token with the
/// field is invalid, whatever its value.
const CRITICAL: &str = "crit";

/// The key id in a token's header, if it has the form of a token.
fn key_id_of(token: &str) -> Result<Option<String>, AuthError> {
    if token.is_empty() {
        return Err(AuthError::Missing);
    }
    if token.len() > TOKEN_MAX_BYTES {
        return Err(AuthError::Invalid(Fault::Length));
    }
    let mut head = part(token, 0).ok_or(AuthError::Invalid(Fault::Form))?;
    if head.contains_key(CRITICAL) {
        return Err(AuthError::Invalid(Fault::Extension));
    }
    let algorithm = head.get("alg").and_then(Value::as_str).filter(|_| token.split('.').count() == 3);
    // An unknown algorithm, such as `none`. The rest of the header is read when the signature is verified.
    if algorithm.ok_or(AuthError::Invalid(Fault::Form))?.parse::<Algorithm>().is_err() {
        return Err(AuthError::Invalid(Fault::Algorithm));
    }
    match head.remove("kid") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) => Ok(Some(id)),
        Some(_) => Err(AuthError::Invalid(Fault::Form)),
    }
}

/// A JSON object that is a part of a token.
fn part(token: &str, at: usize) -> Option<Map<String, Value>> {
    let part = token.split('.').nth(at)?;
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).ok()?;
    read(str::from_utf8(&json).ok()?).ok()
}

/// The claims of a token, without verifying its signature.
fn unproven(token: &str) -> Option<Map<String, Value>> {
    part(token, 1)
}

/// When a token was issued according to its unverified claims, in seconds since the epoch.
#[must_use]
pub fn unproven_issued_at(token: &str) -> Option<u64> {
    unproven(without_scheme(token))?.get("iat").and_then(seconds)
}

/// Signs `claims` with a shared secret.
///
/// # Errors
/// The library's error, if signing fails.
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

    fn refused(token: &str) -> AuthError {
        verifier().verify(token, NOW).unwrap_err()
    }

    #[test]
    fn the_scheme_of_a_header_before_a_token_is_left_out() {
        let good = token(&json!({"sub": "u", "exp": NOW + 60}));
        for scheme in ["Bearer ", "bearer ", "BEARER  "] {
            assert!(verifier().verify(&format!("{scheme}{good}"), NOW).is_ok());
        }
        assert_eq!(refused("Bearer "), AuthError::Missing);
        for bad in [
            format!("Basic {good}"),
            format!("Bearer{good}"),
            format!("Bearer Bearer {good}"),
            format!("{good} "),
        ] {
            assert_eq!(verifier().verify(&bad, NOW).unwrap_err().to_string(), "Invalid token", "{bad}");
        }
    }

    #[test]
    fn halves_of_surrogate_pairs_make_no_user() {
        // As Node.js writes it; a Rust string cannot contain it.
        let signed = |claims: &str| {
            let claims: Box<RawValue> = serde_json::from_str(claims).unwrap();
            jsonwebtoken::encode(
                &Header::new(Algorithm::HS256),
                &claims,
                &EncodingKey::from_secret(b"s3cret"),
            )
            .unwrap()
        };
        let expires = NOW + 60;
        for half in ["ud83d", "ude00"] {
            let token = signed(&format!(r#"{{"sub": "a\{half}", "exp": {expires}}}"#));
            assert_eq!(refused(&token).reason(), "malformed");
            let token = signed(&format!(r#"{{"sub": "a", "name": "a\{half}", "exp": {expires}}}"#));
            assert!(verifier().verify(&token, NOW).is_ok());
        }
        assert!(verifier().verify(&token(&json!({"sub": "a\u{fffd}", "exp": expires})), NOW).is_ok());
    }

    #[test]
    fn the_operator_reads_why_a_token_is_invalid() {
        let strict = Verifier::new(KeySet::secret(b"s3cret"), vec!["me".into()], vec!["us".into()]);
        let good = json!({"sub": "u", "exp": NOW + 60, "iss": "me", "aud": "us"});
        let with = |claim: &str, value: Value| {
            let mut claims = good.clone();
            claims[claim] = value;
            token(&claims)
        };
        let head = |head: Value| {
            let head = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(head.to_string());
            let signed = token(&good);
            format!("{head}.{}", signed.split_once('.').unwrap().1)
        };
        for (token, reason, claim) in [
            (String::new(), "missing", None),
            ("x".repeat(9_000), "too_long", None),
            ("a.b.c".to_owned(), "malformed", None),
            (head(json!({"alg": "none"})), "algorithm", None),
            (head(json!({"alg": "HS512"})), "algorithm", None),
            (head(json!({"alg": "HS256", "crit": ["x"]})), "extension", None),
            (sign_hs256("other", &good).unwrap(), "signature", None),
            (with("iss", json!("you")), "issuer", Some("iss")),
            (with("iss", Value::Null), "issuer", Some("iss")),
            (with("aud", json!(["them"])), "audience", Some("aud")),
            (with("sub", json!("a\nb")), "user_id", Some("sub")),
            (with("userId", json!({})), "user_id", Some("userId")),
            (with("exp", json!("soon")), "time", Some("exp")),
            (with("nbf", json!("soon")), "time", Some("nbf")),
            (with("exp", json!(NOW - 60)), "expired", Some("exp")),
            (with("nbf", json!(NOW + 60)), "not_yet_valid", Some("nbf")),
        ] {
            let error = strict.verify(&token, NOW).unwrap_err();
            assert_eq!((error.reason(), error.claim()), (reason, claim), "{token}");
            assert!(AuthError::REASONS.contains(&error.reason()));
        }
        let unnamed =
            Verifier::new(KeySet::none(), Vec::new(), Vec::new()).verify(&token(&good), NOW).unwrap_err();
        for error in [unnamed, AuthError::Unavailable] {
            assert!(AuthError::REASONS.contains(&error.reason()));
        }
    }

    #[test]
    fn newer_keys_are_fetched_only_for_tokens_that_may_be_valid() {
        let ours = Verifier::new(KeySet::none(), vec!["me".into()], vec!["us".into()]);
        let of = |alg: &str, claims: &Value| {
            let head =
                base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json!({"alg": alg}).to_string());
            let signed = sign_hs256("another secret", claims).unwrap();
            format!("{head}.{}", signed.split_once('.').unwrap().1)
        };
        let with = |claims: Value| of("RS256", &claims);
        let good = json!({"sub": 1, "exp": NOW + 60, "iss": "me", "aud": "us"});
        assert!(!ours.may_be_ours(&of("HS256", &good), NOW), "a set holds no secrets");
        assert!(
            ours.may_be_ours(&with(json!({"sub": 1, "exp": NOW + 60, "iss": "me", "aud": ["x", "us"]})), NOW)
        );
        for other in [
            json!({"sub": 1, "exp": NOW + 60, "iss": "you", "aud": "us"}),
            json!({"sub": 1, "exp": NOW + 60, "iss": "me", "aud": "them"}),
            json!({"sub": 1, "exp": NOW + 60, "aud": "us"}),
            json!({"sub": 1, "exp": NOW - 60, "iss": "me", "aud": "us"}),
            json!({"exp": NOW + 60, "iss": "me", "aud": "us"}),
        ] {
            assert!(!ours.may_be_ours(&with(other.clone()), NOW), "{other}");
        }
        assert!(!ours.may_be_ours("a.b.c", NOW));
    }

    #[test]
    fn a_token_of_our_secret_is_accepted_until_it_expires() {
        let claims = token(&json!({"sub": "u", "exp": NOW}));
        assert!(verifier().verify(&claims, NOW + CLOCK_SKEW_S - 1).is_ok());
        assert_eq!(verifier().verify(&claims, NOW + CLOCK_SKEW_S), Err(AuthError::Expired));
    }

    #[test]
    fn a_token_that_begins_later_is_not_accepted_yet() {
        let claims = token(&json!({"sub": "u", "exp": NOW + 60, "nbf": NOW + CLOCK_SKEW_S + 1}));
        assert_eq!(verifier().verify(&claims, NOW), Err(AuthError::Early));
        let invalid = AuthError::Invalid(Fault::Signature);
        assert_eq!(AuthError::Early.code(), invalid.code());
        assert_eq!(AuthError::Early.to_string(), invalid.to_string());
        assert!(verifier().verify(&claims, NOW + 1).is_ok());
    }

    #[test]
    fn missing_and_malformed_tokens_are_distinguished() {
        assert_eq!(verifier().verify("", NOW), Err(AuthError::Missing));
        for bad in ["a.b", "a.b.c", "....", " "] {
            assert_eq!(refused(bad), AuthError::Invalid(Fault::Form), "{bad}");
        }
        assert_eq!(refused(&"x".repeat(9 * 1024)), AuthError::Invalid(Fault::Length));
        let other = sign_hs256("other", &json!({"sub": "u", "exp": NOW + 60})).unwrap();
        assert_eq!(refused(&other), AuthError::Invalid(Fault::Signature));
    }

    #[test]
    fn the_token_does_not_choose_the_algorithm() {
        let (_, rest) = token(&json!({"sub": "u", "exp": NOW + 60}))
            .split_once('.')
            .map(|(h, r)| (h.to_owned(), r.to_owned()))
            .unwrap();
        // {"alg":"none"}, and HS512 by the same secret.
        let invalid = AuthError::Invalid(Fault::Algorithm);
        assert_eq!(refused(&format!("eyJhbGciOiJub25lIn0.{rest}")), invalid);
        let hs512 = jsonwebtoken::encode(
            &Header::new(Algorithm::HS512),
            &json!({"sub": "u", "exp": NOW + 60}),
            &EncodingKey::from_secret(b"s3cret"),
        )
        .unwrap();
        assert_eq!(refused(&hs512), invalid);
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
            assert_eq!(refused(&sign(crit.clone())), AuthError::Invalid(Fault::Extension), "{crit}");
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
        assert_eq!(with(json!("me,myself"), json!("us")), Err(AuthError::Invalid(Fault::Issuer)));
        assert_eq!(with(json!("you"), json!("us")), Err(AuthError::Invalid(Fault::Issuer)));
        assert_eq!(with(json!("me"), json!("them")), Err(AuthError::Invalid(Fault::Audience)));
        let without = strict.verify(&token(&json!({"sub": "u", "exp": NOW + 60})), NOW);
        assert!(matches!(without, Err(AuthError::Invalid(Fault::Issuer | Fault::Audience))));
    }
}
