//! Whether a token is to be believed.
//!
//! The algorithm is fixed by the configured key, never by the token (contract, "Identity"). Header fields
//! that name keys elsewhere (`jku`, `jwk`, `x5u`, `x5c`) are not read at all.

use base64::Engine as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::claims::{Claims, seconds};
use super::keys::KeySet;
use super::refusal::{AuthError, Fault};
use crate::json::{read, without_lone_surrogates};
use crate::limits::{CLOCK_SKEW_S, TOKEN_MAX_BYTES};

/// Verifies tokens by a fixed set of keys and, where set, an issuer and an audience.
#[derive(Debug)]
pub struct Verifier {
    keys: KeySet,
    issuers: Vec<String>,
    audiences: Vec<String>,
    user_claim: Option<String>,
}

impl Verifier {
    /// A verifier; a token must carry one of `issuers` and one of `audiences` where there are any.
    #[must_use]
    pub fn new(keys: KeySet, issuers: Vec<String>, audiences: Vec<String>) -> Self {
        Self { keys, issuers, audiences, user_claim: None }
    }

    /// The user's id is in the claim of this name alone.
    #[must_use]
    pub fn with_user_claim(self, user_claim: Option<String>) -> Self {
        Self { user_claim, ..self }
    }

    /// Whether there is no key to believe.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The claims of `token` if it is to be believed at `now` (seconds since the epoch).
    ///
    /// # Errors
    /// [`AuthError`]; [`AuthError::UnknownKey`] asks for newer keys where there may be any.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, AuthError> {
        self.verify_noting(token, now, &mut |_| {})
    }

    /// The same; `unused` is told the name of each optional claim that is there and cannot be used.
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
        // Halves of surrogate pairs must not make one user of two.
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

    /// Whether a token by an unknown key of a set could be good: by what it says, unproven, it is of an algorithm of key
    /// sets, from our issuer, for us, and its time is now. Another one is refused whoever signed it, so no newer keys are
    /// worth fetching for it.
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

/// A token that was given with the scheme of a header, as `Authorization` has it, without that.
fn without_scheme(token: &str) -> &str {
    match token.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start_matches(' '),
        _ => token,
    }
}

/// The header field that says that some of a token must be understood (RFC 7515, 4.1.11). No such extension is known
/// here, so a token with it is not valid, whatever it holds.
const CRITICAL: &str = "crit";

/// The key id in a token's header, if it can be a token.
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
    // One that is not known, such as `none`. The rest of the header is read when the signature is verified.
    if algorithm.ok_or(AuthError::Invalid(Fault::Form))?.parse::<Algorithm>().is_err() {
        return Err(AuthError::Invalid(Fault::Algorithm));
    }
    match head.remove("kid") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) => Ok(Some(id)),
        Some(_) => Err(AuthError::Invalid(Fault::Form)),
    }
}

/// A JSON object that is one of a token's parts.
fn part(token: &str, at: usize) -> Option<Map<String, Value>> {
    let part = token.split('.').nth(at)?;
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).ok()?;
    read(str::from_utf8(&json).ok()?).ok()
}

/// What a token says, whoever signed it.
fn unproven(token: &str) -> Option<Map<String, Value>> {
    part(token, 1)
}

/// When a token says that it was issued, in seconds since the epoch, whoever signed it.
#[must_use]
pub fn unproven_issued_at(token: &str) -> Option<u64> {
    unproven(without_scheme(token))?.get("iat").and_then(seconds)
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
        // As Node.js writes it; the text of Rust could not hold it.
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
    fn an_operator_is_told_what_is_wrong_with_a_token() {
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
        let nobody =
            Verifier::new(KeySet::none(), Vec::new(), Vec::new()).verify(&token(&good), NOW).unwrap_err();
        for error in [nobody, AuthError::Unavailable] {
            assert!(AuthError::REASONS.contains(&error.reason()));
        }
    }

    #[test]
    fn newer_keys_are_worth_it_for_what_may_be_a_good_token() {
        let ours = Verifier::new(KeySet::none(), vec!["me".into()], vec!["us".into()]);
        let of = |alg: &str, claims: &Value| {
            let head =
                base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json!({"alg": alg}).to_string());
            let signed = sign_hs256("whoever", claims).unwrap();
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
    fn a_token_of_our_secret_is_believed_until_it_expires() {
        let claims = token(&json!({"sub": "u", "exp": NOW}));
        assert!(verifier().verify(&claims, NOW + CLOCK_SKEW_S - 1).is_ok());
        assert_eq!(verifier().verify(&claims, NOW + CLOCK_SKEW_S), Err(AuthError::Expired));
    }

    #[test]
    fn a_token_that_begins_later_is_not_believed_yet() {
        let claims = token(&json!({"sub": "u", "exp": NOW + 60, "nbf": NOW + CLOCK_SKEW_S + 1}));
        assert_eq!(verifier().verify(&claims, NOW), Err(AuthError::Early));
        let invalid = AuthError::Invalid(Fault::Signature);
        assert_eq!(AuthError::Early.code(), invalid.code());
        assert_eq!(AuthError::Early.to_string(), invalid.to_string());
        assert!(verifier().verify(&claims, NOW + 1).is_ok());
    }

    #[test]
    fn nothing_and_rubbish_are_told_apart() {
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
