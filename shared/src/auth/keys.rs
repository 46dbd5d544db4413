//! The keys that verify tokens: a configured one, or a set.

use std::collections::HashMap;
use std::fmt;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// A configured key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Not a supported public key in PEM.
    #[error("expected a PEM public key: RSA, EC P-256 or Ed25519")]
    Pem,
    /// Not a JSON Web Key Set.
    #[error("expected a JSON Web Key Set")]
    Jwks,
}

pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The keys that a verifier accepts.
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
    /// No keys: every token is refused.
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

    /// RS256, ES256 or EdDSA, depending on the key in `pem`.
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

    /// The usable keys of a JSON Web Key Set. Symmetric keys, and keys of unknown kinds, curves or algorithms, are left
    /// out: issuers keep keys for other purposes in the same set.
    ///
    /// # Errors
    /// [`BadKey::Jwks`] when it is no key set.
    pub fn jwks(json: &[u8]) -> Result<Self, BadKey> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(json).map_err(|_| BadKey::Jwks)?;
        let mut by_id = HashMap::new();
        let mut anonymous = Vec::new();
        for jwk in set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok()) {
            let Some(key) = key_of(&jwk) else { continue };
            match &jwk.common.key_id {
                Some(id) => drop(by_id.insert(id.clone(), key)),
                None => anonymous.push(key),
            }
        }
        let default = if by_id.is_empty() && anonymous.len() == 1 { anonymous.pop() } else { None };
        Ok(Self { by_id, default })
    }

    /// Whether it has no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.default.is_none()
    }

    /// The key for a token with this key id, or without one.
    pub(super) fn find(&self, id: Option<&str>) -> Option<&Key> {
        match id {
            // A single configured key is used for any key id.
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_of_other_kinds_do_not_spoil_a_set() {
        let rsa = json!({"kty": "RSA", "kid": "ours", "use": "sig", "n": "AQAB", "e": "AQAB"});
        let others = [
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}),
            json!({"kty": "OKP", "crv": "X25519", "x": "AA", "use": "enc"}),
            json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}),
            json!({"kty": "RSA", "kid": "enc", "use": "enc", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "oct", "k": "AA"}),
            json!(null),
        ];
        for other in &others {
            let keys = KeySet::jwks(json!({"keys": [other, rsa]}).to_string().as_bytes()).unwrap();
            assert!(keys.find(Some("ours")).is_some(), "{other}");
        }
        let none = KeySet::jwks(json!({"keys": others}).to_string().as_bytes()).unwrap();
        assert!(none.is_empty() && KeySet::jwks(br#"{"keys":[]}"#).unwrap().is_empty());
        for bad in ["[]", "{}", r#"{"keys":{}}"#, "<html>"] {
            assert_eq!(KeySet::jwks(bad.as_bytes()).unwrap_err(), BadKey::Jwks, "{bad}");
        }
    }
}
